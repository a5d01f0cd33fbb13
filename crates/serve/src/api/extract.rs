//! From a request's parts to values, with errors in the service's own form.

use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE, EXPECT};
use axum::http::request::Parts;
use http_body_util::BodyExt as _;
use serde::de::DeserializeOwned;

use crate::app::App;
use crate::error::{ApiError, ApiResult};

/// Most bytes of a JSON body: a few objects with ragged outlines.
pub(crate) const JSON_BYTES: usize = 16 << 20;
/// So much of a body that is too large is read, and thrown away, before that is said.
const REST_BYTES: usize = 256 << 20;

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

/// The whole body, unless it is too large or too slow. The rest of one that is too large is read all the same, up to a bound: a
/// browser that is answered and cut off while it still sends tells of a broken connection instead of the answer.
async fn read(request: Request, app: &App, most: usize) -> ApiResult<Bytes> {
    let too_large = || ApiError::TooLarge(format!("the body is larger than {most} bytes"));
    let stated = request.headers().get(CONTENT_LENGTH).and_then(|v| v.to_str().ok());
    let stated = stated.and_then(|v| v.parse::<usize>().ok()).unwrap_or(0);
    // Who expects to be told before sending is told.
    if stated > most && (stated - most > REST_BYTES || request.headers().contains_key(EXPECT)) {
        return Err(too_large());
    }
    // A second more for every 100 kB, so that a slow line can send a large picture.
    let patience = Duration::from_secs(app.config.limits.seconds + most as u64 / 100_000);
    let mut body = request.into_body();
    let (mut bytes, mut length) = (Vec::new(), 0);
    let reading = async {
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| ApiError::Bad(format!("the body was cut short: {error}")))?;
            // Trailers are of no use here.
            let Ok(part) = frame.into_data() else { continue };
            length += part.len();
            if stated.max(length) <= most {
                bytes.extend_from_slice(&part);
            } else if length.saturating_sub(most) > REST_BYTES {
                break;
            }
        }
        Ok(())
    };
    let read = tokio::time::timeout(patience, reading).await;
    if stated.max(length) > most {
        return Err(too_large());
    }
    read.unwrap_or(Err(ApiError::Timeout))?;
    Ok(bytes.into())
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
