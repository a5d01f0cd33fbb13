//! From a request's parts to values, with errors in the service's own form.

use std::time::Duration;

use axum::body::{Bytes, to_bytes};
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::header::CONTENT_TYPE;
use axum::http::request::Parts;
use serde::de::DeserializeOwned;

use crate::app::App;
use crate::error::{ApiError, ApiResult};

/// Most bytes of a JSON body: a few objects with ragged outlines.
pub(crate) const JSON_BYTES: usize = 16 << 20;

/// A JSON body. Its content type must say so: a page of another origin cannot send that without being asked first.
pub(crate) struct Body<T>(pub(crate) T);

impl<T: DeserializeOwned> FromRequest<App> for Body<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, app: &App) -> ApiResult<Self> {
        if content_type(&request) != "application/json" {
            return Err(ApiError::MediaType("expected `Content-Type: application/json`".to_owned()));
        }
        let bytes = read(request, app, JSON_BYTES).await?;
        let parsed = serde_json::from_slice(&bytes);
        parsed.map(Self).map_err(|error| ApiError::Bad(format!("the request's JSON: {error}")))
    }
}

/// A picture's bytes.
pub(crate) struct Upload(pub(crate) Bytes);

impl FromRequest<App> for Upload {
    type Rejection = ApiError;

    async fn from_request(request: Request, app: &App) -> ApiResult<Self> {
        let kind = content_type(&request);
        // What a plain form of another site could send is not among them.
        if !(kind.starts_with("image/") || kind == "application/octet-stream") {
            return Err(ApiError::MediaType(
                "expected the picture's bytes with `Content-Type: image/jpeg`, or the like, or application/octet-stream"
                    .to_owned(),
            ));
        }
        Ok(Self(read(request, app, app.config.limits.upload_bytes).await?))
    }
}

fn content_type(request: &Request) -> String {
    let value = request.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

/// The whole body, unless it is too large or too slow.
async fn read(request: Request, app: &App, most: usize) -> ApiResult<Bytes> {
    let too_large = || ApiError::TooLarge(format!("the body is larger than {most} bytes"));
    let stated = request.headers().get(axum::http::header::CONTENT_LENGTH);
    if stated
        .and_then(|v| v.to_str().ok())
        .and_then(|v| v.parse::<u64>().ok())
        .is_some_and(|v| v > most as u64)
    {
        return Err(too_large());
    }
    // A second more for every 100 kB, so that a slow line can send a large picture.
    let patience = Duration::from_secs(app.config.limits.seconds + most as u64 / 100_000);
    match tokio::time::timeout(patience, to_bytes(request.into_body(), most)).await {
        Err(_) => Err(ApiError::Timeout),
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(error)) => {
            let is_limit = std::error::Error::source(&error)
                .is_some_and(<dyn std::error::Error>::is::<http_body_util::LengthLimitError>);
            Err(if is_limit {
                too_large()
            } else {
                ApiError::Bad(format!("the body was cut short: {error}"))
            })
        }
    }
}

/// Parts of the path.
pub(crate) struct PathOf<T>(pub(crate) T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for PathOf<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> ApiResult<Self> {
        let path = Path::<T>::from_request_parts(parts, state).await;
        path.map(|Path(value)| Self(value)).map_err(|error| ApiError::Bad(error.body_text()))
    }
}

/// What stands behind the question mark.
pub(crate) struct QueryOf<T>(pub(crate) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for QueryOf<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> ApiResult<Self> {
        let query = Query::<T>::from_request_parts(parts, state).await;
        query.map(|Query(value)| Self(value)).map_err(|error| ApiError::Bad(error.body_text()))
    }
}

/// A body of `{}`: requests that change something carry one, so that their content type can be asked for.
#[derive(serde::Deserialize, utoipa::ToSchema)]
pub(crate) struct Nothing {}
