//! What people keep of a picture: objects with their masks and classes.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::extract::{Body, Nothing, PathOf, QueryOf};
use crate::app::App;
use crate::error::{ApiError, ApiResult, ErrorBody};
use crate::store::{ChangeObject, NewObject, Object, Step};

/// Objects of one request.
const MOST_AT_ONCE: usize = 1000;

/// The objects of a picture.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[allow(clippy::struct_field_names, reason = "the names of the answer")]
pub(crate) struct Objects {
    pub(crate) objects: Vec<Object>,
    /// Whether there is a step to undo.
    can_undo: bool,
    /// Whether there is a step to do again.
    can_redo: bool,
}

/// Lists the objects of a picture.
#[utoipa::path(get, path = "/api/images/{image}/objects", tag = "objects",
    params(("image" = String, Path, description = "The picture")), responses(
    (status = 200, body = Objects), (status = 401, body = ErrorBody), (status = 404, body = ErrorBody)))]
pub(crate) async fn list(State(app): State<App>, PathOf(image): PathOf<String>) -> ApiResult<Json<Objects>> {
    let id = app.library.get(&image)?.id.clone();
    let objects = app.store.objects(id.clone()).await?;
    let (can_undo, can_redo) = app.store.can(id).await?;
    Ok(Json(Objects { objects, can_undo, can_redo }))
}

/// Objects to keep; together they are one step to undo.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewObjects {
    /// At most 1000.
    objects: Vec<NewObject>,
}

/// Objects that were kept.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Made {
    objects: Vec<Object>,
}

/// Keeps objects. When this is answered they are on the disk.
#[utoipa::path(post, path = "/api/images/{image}/objects", tag = "objects",
    params(("image" = String, Path, description = "The picture")), request_body = NewObjects, responses(
    (status = 201, body = Made), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
    (status = 404, body = ErrorBody), (status = 413, body = ErrorBody), (status = 415, body = ErrorBody),
    (status = 422, body = ErrorBody)))]
pub(crate) async fn create(
    State(app): State<App>,
    PathOf(image): PathOf<String>,
    Body(new): Body<NewObjects>,
) -> ApiResult<(StatusCode, Json<Made>)> {
    let entry = app.library.get(&image)?;
    if new.objects.is_empty() || new.objects.len() > MOST_AT_ONCE {
        return Err(ApiError::Bad(format!("{} objects, expected 1 to {MOST_AT_ONCE}", new.objects.len())));
    }
    let size = app.library.size(&entry)?;
    let objects = app.store.create(entry.id.clone(), size, new.objects).await?;
    Ok((StatusCode::CREATED, Json(Made { objects })))
}

/// What an undo or redo did.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Undone {
    /// Null if there was nothing to do.
    step: Option<Step>,
}

/// Takes the last step on a picture back.
#[utoipa::path(post, path = "/api/images/{image}/undo", tag = "objects",
    params(("image" = String, Path, description = "The picture")), request_body = Nothing, responses(
    (status = 200, body = Undone), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
    (status = 404, body = ErrorBody), (status = 415, body = ErrorBody)))]
pub(crate) async fn undo(
    State(app): State<App>,
    PathOf(image): PathOf<String>,
    Body(Nothing {}): Body<Nothing>,
) -> ApiResult<Json<Undone>> {
    let id = app.library.get(&image)?.id.clone();
    Ok(Json(Undone { step: app.store.undo(id).await? }))
}

/// Does the last undone step on a picture again.
#[utoipa::path(post, path = "/api/images/{image}/redo", tag = "objects",
    params(("image" = String, Path, description = "The picture")), request_body = Nothing, responses(
    (status = 200, body = Undone), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
    (status = 404, body = ErrorBody), (status = 415, body = ErrorBody)))]
pub(crate) async fn redo(
    State(app): State<App>,
    PathOf(image): PathOf<String>,
    Body(Nothing {}): Body<Nothing>,
) -> ApiResult<Json<Undone>> {
    let id = app.library.get(&image)?.id.clone();
    Ok(Json(Undone { step: app.store.redo(id).await? }))
}

/// Shows an object.
#[utoipa::path(get, path = "/api/objects/{object}", tag = "objects", params(("object" = i64, Path, description = "The object")),
    responses((status = 200, body = Object), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
    (status = 404, body = ErrorBody)))]
pub(crate) async fn show(State(app): State<App>, PathOf(object): PathOf<i64>) -> ApiResult<Json<Object>> {
    Ok(Json(app.store.object(object).await?))
}

/// Changes an object. When this is answered the change is on the disk.
#[utoipa::path(patch, path = "/api/objects/{object}", tag = "objects", params(("object" = i64, Path, description = "The object")),
    request_body = ChangeObject, responses((status = 200, body = Object), (status = 400, body = ErrorBody),
    (status = 401, body = ErrorBody), (status = 404, body = ErrorBody), (status = 409, body = ErrorBody),
    (status = 413, body = ErrorBody), (status = 415, body = ErrorBody), (status = 422, body = ErrorBody)))]
pub(crate) async fn change(
    State(app): State<App>,
    PathOf(object): PathOf<i64>,
    Body(change): Body<ChangeObject>,
) -> ApiResult<Json<Object>> {
    let before = app.store.object(object).await?;
    // The mask is of the picture as it was cut; a new one must be of the same size.
    let size = (before.segmentation.width() as u32, before.segmentation.height() as u32);
    Ok(Json(app.store.change_object(object, size, change).await?))
}

/// Which version of an object is meant.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct RemoveQuery {
    /// The revision that is meant; if the object was changed meanwhile, it stays.
    #[serde(default)]
    revision: Option<i64>,
}

/// Removes an object.
#[utoipa::path(delete, path = "/api/objects/{object}", tag = "objects",
    params(("object" = i64, Path, description = "The object"), RemoveQuery), responses(
    (status = 204, description = "It is gone"), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
    (status = 404, body = ErrorBody), (status = 409, body = ErrorBody)))]
pub(crate) async fn remove(
    State(app): State<App>,
    PathOf(object): PathOf<i64>,
    QueryOf(query): QueryOf<RemoveQuery>,
) -> ApiResult<StatusCode> {
    app.store.delete(object, query.revision).await?;
    Ok(StatusCode::NO_CONTENT)
}
