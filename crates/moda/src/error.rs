//! What can go wrong in continual adaptation.

use std::path::PathBuf;

use kirie_data::DataError;
use kirie_engine::EngineError;
use kirie_mask::MaskError;
use kirie_metrics::MetricsError;
use kirie_run::RunError;
use kirie_sam::SamError;
use kirie_sam::checkpoint::CheckpointError;
use thiserror::Error;

/// What can go wrong in continual adaptation.
#[derive(Debug, Error)]
pub enum ContinualError {
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
    /// A domain that nothing can be learned from or measured on.
    #[error("domain {domain:?}: {reason}")]
    Domain {
        /// Its name.
        domain: String,
        /// What was expected and what was found.
        reason: String,
    },
    /// A picture or its labels cannot be used.
    #[error("{name}: {reason}")]
    Picture {
        /// The file.
        name: String,
        /// What was expected and what was found.
        reason: String,
    },
    /// A file of a domain's learned state that is not what it should be.
    #[error("{}: {reason}", path.display())]
    State {
        /// The file or folder.
        path: PathBuf,
        /// What was expected and what was found.
        reason: String,
    },
    /// What was learned belongs to another base model.
    #[error(
        "{}: was learned on {expected_name} (weights {}), and this is {found_name} (weights {})", path.display(),
        short(expected), short(found)
    )]
    WrongBase {
        /// The file or folder.
        path: PathBuf,
        /// The base it was learned on.
        expected_name: String,
        /// Hash of that base's weights.
        expected: String,
        /// The base at hand.
        found_name: String,
        /// Hash of its weights.
        found: String,
    },
    /// A file of a run cannot be read or removed.
    #[error("cannot {what} {}: {source}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The loop.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The run's files.
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

impl ContinualError {
    /// A [`ContinualError::Setting`].
    pub(crate) fn setting(
        name: impl Into<String>,
        found: impl std::fmt::Display,
        expected: impl Into<String>,
    ) -> Self {
        Self::Setting { name: name.into(), found: found.to_string(), expected: expected.into() }
    }

    /// A [`ContinualError::Domain`].
    pub(crate) fn domain(domain: &str, reason: impl Into<String>) -> Self {
        Self::Domain { domain: domain.to_owned(), reason: reason.into() }
    }

    /// A [`ContinualError::State`].
    pub(crate) fn state(path: impl Into<PathBuf>, reason: impl std::fmt::Display) -> Self {
        Self::State { path: path.into(), reason: reason.to_string() }
    }

    /// A [`ContinualError::Io`], from the system's error.
    pub(crate) fn io(what: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::Io { what, path: path.into(), source }
    }
}

/// The first digits of a hash are enough for people.
fn short(hash: &str) -> &str {
    hash.get(..12).unwrap_or(hash)
}
