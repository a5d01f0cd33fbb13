//! Classes of objects.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::extract::{Body, PathOf};
use crate::app::App;
use crate::error::{ApiResult, ErrorBody};
use crate::store::Class;

/// All classes.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct Classes {
    classes: Vec<Class>,
}

/// Lists the classes.
#[utoipa::path(get, path = "/api/classes", tag = "objects", responses(
    (status = 200, body = Classes), (status = 401, body = ErrorBody)))]
pub(crate) async fn list(State(app): State<App>) -> ApiResult<Json<Classes>> {
    Ok(Json(Classes { classes: app.store.classes().await? }))
}

/// A class to add.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewClass {
    /// Its name, 1 to 100 characters.
    name: String,
    /// Its colour, `#rrggbb`; without it one that is unlike the others.
    #[serde(default)]
    colour: Option<String>,
}

/// Adds a class.
#[utoipa::path(post, path = "/api/classes", tag = "objects", request_body = NewClass, responses(
    (status = 201, body = Class), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
    (status = 409, body = ErrorBody), (status = 415, body = ErrorBody), (status = 422, body = ErrorBody)))]
pub(crate) async fn create(
    State(app): State<App>,
    Body(new): Body<NewClass>,
) -> ApiResult<(StatusCode, Json<Class>)> {
    Ok((StatusCode::CREATED, Json(app.store.add_class(new.name, new.colour).await?)))
}

/// What is to be different about a class; what is not named stays.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ChangeClass {
    /// Its name.
    #[serde(default)]
    name: Option<String>,
    /// Its colour, `#rrggbb`.
    #[serde(default)]
    colour: Option<String>,
}

/// Changes a class's name or colour.
#[utoipa::path(patch, path = "/api/classes/{class}", tag = "objects", params(("class" = i64, Path, description = "The class")),
    request_body = ChangeClass, responses((status = 200, body = Class), (status = 400, body = ErrorBody),
    (status = 401, body = ErrorBody), (status = 404, body = ErrorBody), (status = 409, body = ErrorBody),
    (status = 415, body = ErrorBody), (status = 422, body = ErrorBody)))]
pub(crate) async fn change(
    State(app): State<App>,
    PathOf(class): PathOf<i64>,
    Body(change): Body<ChangeClass>,
) -> ApiResult<Json<Class>> {
    Ok(Json(app.store.change_class(class, change.name, change.colour).await?))
}

/// Removes a class that no object is of.
#[utoipa::path(delete, path = "/api/classes/{class}", tag = "objects", params(("class" = i64, Path, description = "The class")),
    responses((status = 204, description = "It is gone"), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
    (status = 404, body = ErrorBody), (status = 409, body = ErrorBody)))]
pub(crate) async fn remove(State(app): State<App>, PathOf(class): PathOf<i64>) -> ApiResult<StatusCode> {
    app.store.remove_class(class).await?;
    Ok(StatusCode::NO_CONTENT)
}
