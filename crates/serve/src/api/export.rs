//! The annotations as files.

use axum::body::Body as Content;
use axum::extract::State;
use axum::http::header::{CONTENT_DISPOSITION, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use tokio::io::AsyncSeekExt;
use tokio::sync::Semaphore;
use tokio_util::io::ReaderStream;
use utoipa::IntoParams;

use super::extract::QueryOf;
use crate::app::App;
use crate::error::{ApiError, ApiResult, ErrorBody};
use crate::export::{Form, Labels};

/// One export at a time; each may write as much as all pictures take.
static EXPORTS: Semaphore = Semaphore::const_new(1);

/// What to export.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct ExportQuery {
    /// The form.
    #[serde(default = "coco")]
    #[param(inline)]
    format: Form,
    /// Whether the pictures come with it.
    #[serde(default)]
    pictures: bool,
}

fn coco() -> Form {
    Form::Coco
}

/// The annotations of all pictures that have objects or are called done. COCO without pictures is one JSON file; anything else is a
/// zip.
#[utoipa::path(get, path = "/api/export", tag = "objects", params(ExportQuery), responses(
    (status = 200, description = "The file", content((Vec<u8> = "application/zip"), (String = "application/json"))),
    (status = 400, body = ErrorBody), (status = 401, body = ErrorBody), (status = 422, body = ErrorBody),
    (status = 503, body = ErrorBody)))]
pub(crate) async fn export(
    State(app): State<App>,
    QueryOf(query): QueryOf<ExportQuery>,
) -> ApiResult<Response> {
    let _one = EXPORTS.try_acquire().map_err(|_| ApiError::Busy { retry_after: 5 })?;
    let labels = Labels::collect(&app.store, &app.library).await?;
    if labels.pictures() == 0 {
        return Err(ApiError::Unprocessable(
            "there is nothing to export: no picture has objects or is called done".to_owned(),
        ));
    }
    if query.format == Form::Coco && !query.pictures {
        let json = tokio::task::spawn_blocking(move || labels.coco()).await??;
        return Ok(download("application/json", "annotations.json", Content::from(json)));
    }
    let name = format!("annotations-{}.zip", format!("{:?}", query.format).to_lowercase());
    let library = app.library.clone();
    // A file without a name: nothing of it stays, however this ends.
    let file = tokio::task::spawn_blocking(move || {
        labels.zip(&library, query.format, query.pictures, tempfile::tempfile()?)
    })
    .await??;
    let mut file = tokio::fs::File::from_std(file);
    file.rewind().await?;
    Ok(download("application/zip", &name, Content::from_stream(ReaderStream::with_capacity(file, 1 << 16))))
}

fn download(kind: &'static str, name: &str, content: Content) -> Response {
    let disposition = format!("attachment; filename=\"{name}\"");
    ([(CONTENT_TYPE, kind.to_owned()), (CONTENT_DISPOSITION, disposition)], content).into_response()
}
