//! What can go wrong on the way from image-level labels to boxes.

use std::path::{Path, PathBuf};

use kirie_data::DataError;
use kirie_engine::EngineError;
use kirie_mask::MaskError;
use kirie_metrics::MetricsError;
use kirie_run::RunError;
use kirie_sam::SamError;
use kirie_sam::checkpoint::CheckpointError;
use thiserror::Error;

/// What can go wrong on the way from image-level labels to boxes.
#[derive(Debug, Error)]
pub enum WeakError {
    /// A setting out of its range, or one that does not fit another.
    #[error("{name} is {found}, expected {expected}")]
    Setting {
        /// Its name in the configuration.
        name: String,
        /// Its value.
        found: String,
        /// Its range.
        expected: String,
    },
    /// A file cannot be read.
    #[error("{}: cannot be read: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A file that does not hold what it should.
    #[error("{}{}: {reason}", path.display(), if place.is_empty() { String::new() } else { format!(", {place}") })]
    Content {
        /// The file.
        path: PathBuf,
        /// Where in it: a line, a picture; may be empty.
        place: String,
        /// What was expected and what was found.
        reason: String,
    },
    /// Labels that nothing can be learned from.
    #[error("{set}: {reason}")]
    Labels {
        /// The set.
        set: String,
        /// What was expected and what was found.
        reason: String,
    },
    /// A picture that cannot be used.
    #[error("{name}: {source}")]
    Picture {
        /// The picture's file.
        name: String,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Numbers of another shape than expected.
    #[error("{what}: expected {expected}, found {found}")]
    Shape {
        /// What they are.
        what: &'static str,
        /// The shape expected.
        expected: String,
        /// The shape found.
        found: String,
    },
    /// Work was ended by request; what was finished is kept.
    #[error("stopped as asked {during}; the same command goes on")]
    Stopped {
        /// In the middle of what.
        during: String,
    },
    /// The training loop.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// A run's files.
    #[error(transparent)]
    Run(#[from] RunError),
    /// A picture or its labels.
    #[error(transparent)]
    Data(#[from] DataError),
    /// A mask.
    #[error(transparent)]
    Mask(#[from] MaskError),
    /// A score.
    #[error(transparent)]
    Metrics(#[from] MetricsError),
    /// A model.
    #[error(transparent)]
    Sam(#[from] SamError),
    /// Weights.
    #[error(transparent)]
    Weights(#[from] CheckpointError),
}

impl WeakError {
    /// A [`WeakError::Setting`].
    pub fn setting(
        name: impl Into<String>,
        found: impl std::fmt::Display,
        expected: impl Into<String>,
    ) -> Self {
        Self::Setting { name: name.into(), found: found.to_string(), expected: expected.into() }
    }

    /// A [`WeakError::Content`].
    pub fn content(path: &Path, place: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Content { path: path.to_owned(), place: place.into(), reason: reason.into() }
    }

    /// For `map_err`: a [`WeakError::Picture`] about this file; an error that names the picture itself stays as it is.
    pub fn of_picture<E: Into<Self>>(name: impl Into<String>) -> impl FnOnce(E) -> Self {
        move |source| match source.into() {
            stays @ (Self::Picture { .. } | Self::Data(_) | Self::Stopped { .. }) => stays,
            other => Self::Picture { name: name.into(), source: Box::new(other) },
        }
    }
}
