//! What can go wrong, for whoever starts the service and for whoever asks it something.

use std::io;
use std::path::PathBuf;

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use kirie_data::DataError;
use kirie_mask::MaskError;
use kirie_sam::SamError;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use utoipa::ToSchema;

/// Why the service cannot start, or had to end.
#[derive(Debug, Error)]
pub enum ServeError {
    /// An address that everybody can reach, and nothing that keeps strangers out.
    #[error("{address} can be reached from other machines: a token is needed")]
    TokenNeeded {
        /// The address.
        address: String,
    },
    /// A token too short to keep anybody out.
    #[error("the token has {found} characters, expected at least {expected}")]
    WeakToken {
        /// Characters given.
        found: usize,
        /// Fewest taken.
        expected: usize,
    },
    /// The address is taken, or is not this machine's.
    #[error("cannot listen on {address}: {source}")]
    Bind {
        /// The address.
        address: String,
        /// The system's reason.
        source: io::Error,
    },
    /// A folder that cannot be used.
    #[error("{}: {source}", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// Another process works on the same annotations.
    #[error("{} is in use by another kirie serve", path.display())]
    InUse {
        /// The folder with the annotations.
        path: PathBuf,
    },
    /// The annotations cannot be opened.
    #[error("{}: {source}", path.display())]
    Store {
        /// The database.
        path: PathBuf,
        /// SQLite's reason.
        source: rusqlite::Error,
    },
    /// The annotations were written by a later version.
    #[error("{}: made by a later version of kirie (layout {found}, this one knows {known})", path.display())]
    LaterVersion {
        /// The database.
        path: PathBuf,
        /// Its layout.
        found: i64,
        /// The latest layout known.
        known: i64,
    },
    /// Threads or sockets that the system refuses.
    #[error("cannot start: {0}")]
    System(#[from] io::Error),
}

/// Why a request is not answered as asked.
#[derive(Debug, Error)]
pub(crate) enum ApiError {
    #[error("{0}")]
    Bad(String),
    #[error("{0}")]
    Forbidden(String),
    #[error(
        "a token is needed: `Authorization: Bearer TOKEN`, or open the address that `kirie serve` printed"
    )]
    Unauthorized,
    #[error("there is no {what} {id}")]
    NotFound { what: &'static str, id: String },
    #[error("{0}")]
    Conflict(String),
    #[error("{0}")]
    TooLarge(String),
    #[error("{0}")]
    MediaType(String),
    /// Understood, but it cannot be done with what is there.
    #[error("{0}")]
    Unprocessable(String),
    #[error("too many requests are waiting; try again in {retry_after} s")]
    Busy { retry_after: u32 },
    #[error("the service is stopping")]
    Stopping,
    #[error("it took too long")]
    Timeout,
    #[error("{0}")]
    Internal(String),
}

pub(crate) type ApiResult<T> = Result<T, ApiError>;

/// What every refused request gets.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct ErrorBody {
    /// What is wrong, for a program.
    #[schema(example = "not_found")]
    pub(crate) code: String,
    /// What is wrong, for a person.
    pub(crate) message: String,
}

impl ApiError {
    pub(crate) fn not_found(what: &'static str, id: impl ToString) -> Self {
        Self::NotFound { what, id: id.to_string() }
    }

    fn status(&self) -> (StatusCode, &'static str) {
        match self {
            Self::Bad(_) => (StatusCode::BAD_REQUEST, "bad_request"),
            Self::Forbidden(_) => (StatusCode::FORBIDDEN, "forbidden"),
            Self::Unauthorized => (StatusCode::UNAUTHORIZED, "unauthorized"),
            Self::NotFound { .. } => (StatusCode::NOT_FOUND, "not_found"),
            Self::Conflict(_) => (StatusCode::CONFLICT, "conflict"),
            Self::TooLarge(_) => (StatusCode::PAYLOAD_TOO_LARGE, "too_large"),
            Self::MediaType(_) => (StatusCode::UNSUPPORTED_MEDIA_TYPE, "media_type"),
            Self::Unprocessable(_) => (StatusCode::UNPROCESSABLE_ENTITY, "unprocessable"),
            Self::Busy { .. } => (StatusCode::SERVICE_UNAVAILABLE, "busy"),
            Self::Stopping => (StatusCode::SERVICE_UNAVAILABLE, "stopping"),
            Self::Timeout => (StatusCode::REQUEST_TIMEOUT, "timeout"),
            Self::Internal(_) => (StatusCode::INTERNAL_SERVER_ERROR, "internal"),
        }
    }

    /// The words of it, as they stand in an answer.
    pub(crate) fn body(&self) -> ErrorBody {
        ErrorBody { code: self.status().1.to_owned(), message: self.to_string() }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status().0, Json(self.body())).into_response();
        let seconds = match &self {
            Self::Busy { retry_after } => Some(*retry_after),
            Self::Stopping => Some(10),
            _ => None,
        };
        if let Some(seconds) = seconds {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if matches!(self, Self::Unauthorized) {
            let ask = HeaderValue::from_static("Bearer realm=\"kirie\"");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, ask);
        }
        response
    }
}

impl From<SamError> for ApiError {
    fn from(error: SamError) -> Self {
        match error {
            SamError::Prompt { .. } | SamError::Setting { .. } => Self::Bad(error.to_string()),
            SamError::Data(error) => error.into(),
            SamError::Mask(error) => error.into(),
            _ => Self::Internal(error.to_string()),
        }
    }
}

impl From<DataError> for ApiError {
    fn from(error: DataError) -> Self {
        match error {
            DataError::TooLarge { .. } => Self::TooLarge(error.to_string()),
            DataError::Write { .. } => Self::Internal(error.to_string()),
            _ => Self::Unprocessable(error.to_string()),
        }
    }
}

impl From<MaskError> for ApiError {
    fn from(error: MaskError) -> Self {
        Self::Bad(error.to_string())
    }
}

impl From<rusqlite::Error> for ApiError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Internal(format!("the annotations cannot be read or written: {error}"))
    }
}

impl From<io::Error> for ApiError {
    fn from(error: io::Error) -> Self {
        Self::Internal(error.to_string())
    }
}

impl From<tokio::task::JoinError> for ApiError {
    fn from(error: tokio::task::JoinError) -> Self {
        Self::Internal(format!("the work was broken off: {error}"))
    }
}
