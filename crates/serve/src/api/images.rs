//! Pictures: what there is, the pixels, uploads.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use kirie_data::resize_bilinear;
use kirie_data::write::{PictureFormat, encode_picture};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::extract::{Body, PathOf, QueryOf, Upload};
use crate::app::App;
use crate::error::{ApiError, ApiResult, ErrorBody};
use crate::library::{Entry, Origin};
use crate::store::Labelled;

/// Pictures in one answer.
const MOST_LISTED: usize = 500;
/// Longer side of a thumbnail, pixels.
const THUMBNAIL: u32 = 160;

/// A picture.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct Picture {
    /// What it is asked for by.
    pub(crate) id: String,
    /// Its path below the served folder, or the name it was uploaded under.
    pub(crate) name: String,
    origin: Origin,
    /// Width, upright, pixels; null if it cannot be read.
    width: Option<u32>,
    /// Height, upright, pixels.
    height: Option<u32>,
    /// Why it cannot be read.
    problem: Option<String>,
    /// Objects that were cut out of it.
    pub(crate) objects: u64,
    /// Whether somebody called it done.
    pub(crate) done: bool,
}

/// Which pictures to list.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct ListQuery {
    /// The first to list, from 0.
    #[serde(default)]
    offset: usize,
    /// How many to list, at most 500.
    #[serde(default = "hundred")]
    #[param(minimum = 1, maximum = 500)]
    limit: usize,
    /// Which of them.
    #[serde(default)]
    #[param(inline)]
    which: Which,
}

fn hundred() -> usize {
    100
}

/// Which pictures to list.
#[derive(Clone, Copy, Debug, Default, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Which {
    /// All.
    #[default]
    All,
    /// Those somebody called done, or that objects were cut out of.
    Labelled,
    /// The others.
    Open,
    /// The others, those first that are least like the labelled ones and like each other. Pictures are surveyed in the background
    /// once this is asked; those that were not yet come last.
    Next,
}

/// Pictures, by name, uploads last.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct Pictures {
    /// How many there are of those asked for.
    pub(crate) total: usize,
    /// How many of all pictures have objects or are called done.
    labelled: usize,
    /// How many of those asked for are ranked, for `which=next`.
    ranked: usize,
    pub(crate) images: Vec<Picture>,
}

/// Lists pictures.
#[utoipa::path(get, path = "/api/images", tag = "images", params(ListQuery), responses(
    (status = 200, body = Pictures), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody)))]
pub(crate) async fn list(
    State(app): State<App>,
    QueryOf(query): QueryOf<ListQuery>,
) -> ApiResult<Json<Pictures>> {
    if !(1..=MOST_LISTED).contains(&query.limit) {
        return Err(ApiError::Bad(format!("limit is {}, expected 1 to {MOST_LISTED}", query.limit)));
    }
    let known = app.store.labelled().await?;
    let library = Arc::clone(&app.library);
    let all = tokio::task::spawn_blocking(move || library.all()).await?;
    if matches!(query.which, Which::Next) {
        app.survey.begin(&app.ready, all.clone());
    }
    tokio::task::spawn_blocking(move || {
        let is_labelled = |entry: &Arc<Entry>| known.get(&entry.id).is_some_and(|l| l.done || l.objects > 0);
        let labelled = all.iter().filter(|entry| is_labelled(entry)).count();
        let (of_kind, ranked) = match query.which {
            Which::All => (all, 0),
            Which::Labelled => (all.into_iter().filter(is_labelled).collect(), 0),
            Which::Open => (all.into_iter().filter(|entry| !is_labelled(entry)).collect(), 0),
            Which::Next => {
                let (labelled, open): (Vec<_>, Vec<_>) = all.into_iter().partition(is_labelled);
                app.survey.rank(open, &labelled)
            }
        };
        let shown = of_kind.iter().skip(query.offset).take(query.limit);
        let images = shown.map(|entry| describe(&app, entry, known.get(&entry.id).copied())).collect();
        Ok(Json(Pictures { total: of_kind.len(), labelled, ranked, images }))
    })
    .await?
}

/// Reads the file's header; blocks.
fn describe(app: &App, entry: &Entry, labelled: Option<Labelled>) -> Picture {
    let size = app.library.size(entry);
    let Labelled { objects, done } = labelled.unwrap_or_default();
    Picture {
        id: entry.id.clone(),
        name: entry.name.clone(),
        origin: entry.origin,
        width: size.as_ref().ok().map(|size| size.0),
        height: size.as_ref().ok().map(|size| size.1),
        problem: size.err().map(|error| error.to_string()),
        objects,
        done,
    }
}

async fn described(app: App, entry: Arc<Entry>) -> ApiResult<Json<Picture>> {
    let labelled = app.store.labelled().await?.get(&entry.id).copied();
    Ok(tokio::task::spawn_blocking(move || Json(describe(&app, &entry, labelled))).await?)
}

/// Describes a picture.
#[utoipa::path(get, path = "/api/images/{image}", tag = "images", params(("image" = String, Path, description = "The picture")),
    responses((status = 200, body = Picture), (status = 401, body = ErrorBody), (status = 404, body = ErrorBody)))]
pub(crate) async fn show(State(app): State<App>, PathOf(image): PathOf<String>) -> ApiResult<Json<Picture>> {
    let entry = app.library.get(&image)?;
    described(app, entry).await
}

/// What is to be different about a picture.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ChangePicture {
    /// Whether all there is to label in it is labelled; a picture without objects that is done teaches what background is.
    done: bool,
}

/// Calls a picture done, or not.
#[utoipa::path(patch, path = "/api/images/{image}", tag = "images", params(("image" = String, Path, description = "The picture")),
    request_body = ChangePicture, responses((status = 200, body = Picture), (status = 400, body = ErrorBody),
    (status = 401, body = ErrorBody), (status = 404, body = ErrorBody), (status = 415, body = ErrorBody)))]
pub(crate) async fn change(
    State(app): State<App>,
    PathOf(image): PathOf<String>,
    Body(change): Body<ChangePicture>,
) -> ApiResult<Json<Picture>> {
    let entry = app.library.get(&image)?;
    app.store.set_done(entry.id.clone(), change.done).await?;
    described(app, entry).await
}

/// What an uploaded picture is called.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct UploadQuery {
    /// Its file name.
    name: String,
}

/// Takes a picture: its bytes are the body. The same bytes are kept once.
#[utoipa::path(post, path = "/api/images", tag = "images", params(UploadQuery),
    request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    responses((status = 201, body = Picture), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
    (status = 413, body = ErrorBody), (status = 415, body = ErrorBody), (status = 422, body = ErrorBody)))]
pub(crate) async fn upload(
    State(app): State<App>,
    QueryOf(query): QueryOf<UploadQuery>,
    Upload(bytes): Upload,
) -> ApiResult<Response> {
    let (library, store) = (Arc::clone(&app.library), app.store.clone());
    let stored = tokio::task::spawn_blocking(move || {
        library.store(&query.name, &bytes, |id, name| store.add_upload(id, name))
    });
    let entry = stored.await??;
    Ok((StatusCode::CREATED, described(app, entry).await?).into_response())
}

/// The picture for a browser, upright: JPEG as it is, everything else as PNG.
#[utoipa::path(get, path = "/api/images/{image}/picture", tag = "images",
    params(("image" = String, Path, description = "The picture")), responses(
    (status = 200, description = "The picture", content((Vec<u8> = "image/jpeg"), (Vec<u8> = "image/png"))),
    (status = 401, body = ErrorBody), (status = 404, body = ErrorBody), (status = 413, body = ErrorBody),
    (status = 422, body = ErrorBody)))]
pub(crate) async fn picture(State(app): State<App>, PathOf(image): PathOf<String>) -> ApiResult<Response> {
    let entry = app.library.get(&image)?;
    let (kind, bytes) = tokio::task::spawn_blocking(move || {
        // Refuses what is too large before it is read.
        app.library.size(&entry)?;
        let bytes = app.library.bytes(&entry)?;
        // Browsers turn a JPEG upright as we do; of other formats not all know, or show, all.
        if bytes.starts_with(&[0xff, 0xd8]) {
            return Ok::<_, ApiError>(("image/jpeg", bytes));
        }
        Ok(("image/png", encode_picture(&app.library.read_image(&entry)?, PictureFormat::Png)?))
    })
    .await??;
    Ok(([(header::CONTENT_TYPE, kind), (header::CACHE_CONTROL, "private, max-age=60")], bytes)
        .into_response())
}

/// The picture small, as JPEG.
#[utoipa::path(get, path = "/api/images/{image}/thumbnail", tag = "images",
    params(("image" = String, Path, description = "The picture")), responses(
    (status = 200, description = "At most 160 pixels a side", content((Vec<u8> = "image/jpeg"))), (status = 401, body = ErrorBody),
    (status = 404, body = ErrorBody), (status = 413, body = ErrorBody), (status = 422, body = ErrorBody),
    (status = 503, body = ErrorBody)))]
pub(crate) async fn thumbnail(State(app): State<App>, PathOf(image): PathOf<String>) -> ApiResult<Response> {
    let entry = app.library.get(&image)?;
    let key = format!("{}-{}", entry.id, app.library.stamp(&entry)?.text());
    let small = if let Some(known) = app.thumbnails.get(&key) {
        known
    } else {
        let image = app.ready.pixels(&entry).await?;
        let made = tokio::task::spawn_blocking(move || {
            let (width, height) = kirie_data::longest_side(image.width(), image.height(), THUMBNAIL);
            let small = if image.width().max(image.height()) > THUMBNAIL {
                resize_bilinear(&image, width, height)?
            } else {
                image
            };
            Ok::<_, ApiError>(encode_picture(&small, PictureFormat::Jpeg)?)
        });
        app.thumbnails.put(key, made.await??)
    };
    let head = [(header::CONTENT_TYPE, "image/jpeg"), (header::CACHE_CONTROL, "private, max-age=600")];
    Ok((head, small.as_ref().clone()).into_response())
}
