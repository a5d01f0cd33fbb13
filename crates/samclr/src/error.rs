//! What can go wrong in contrastive training and evaluation.

use kirie_data::DataError;
use kirie_engine::EngineError;
use kirie_mask::MaskError;
use kirie_metrics::MetricsError;
use kirie_run::RunError;
use kirie_sam::SamError;
use kirie_sam::checkpoint::CheckpointError;
use thiserror::Error;

/// What can go wrong in contrastive training and evaluation.
#[derive(Debug, Error)]
pub enum ContrastiveError {
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
    /// Too few pictures.
    #[error("{what}: there are {found} pictures, expected at least {expected}; {advice}")]
    FewPictures {
        /// What for.
        what: String,
        /// How many there are.
        found: usize,
        /// How many are needed.
        expected: usize,
        /// What to do about it.
        advice: String,
    },
    /// A picture in which no region is left, where the configuration says that this is an error.
    #[error("{name}: no region is left of {found}; regions.without = \"whole\" would take the whole picture")]
    NoRegion {
        /// The picture's file.
        name: String,
        /// How many were found.
        found: usize,
    },
    /// A place for regions that was made for something else.
    #[error("{path}: {reason}")]
    Cache {
        /// The file.
        path: String,
        /// What was expected and what was found.
        reason: String,
    },
    /// The making of regions was asked to stop.
    #[error(
        "stopped after the regions of {done} of {total} pictures, as asked; they are kept, and the next run goes on from there"
    )]
    Stopped {
        /// Pictures whose regions are known.
        done: usize,
        /// Pictures of the sets.
        total: usize,
    },
    /// Weights that do not fit.
    #[error("{path}: {reason}")]
    Init {
        /// The file.
        path: String,
        /// What was expected and what was found.
        reason: String,
    },
    /// A linear classifier that does worse than guessing on the features that it was trained on.
    #[error(
        "the linear probe diverged at a learning rate of {rate}: the features are of length {length:.1} on average; standardise them, or take a lower rate"
    )]
    Diverged {
        /// The learning rate.
        rate: f64,
        /// Mean length of the features.
        length: f64,
    },
    /// Pictures, labels and their files.
    #[error(transparent)]
    Data(#[from] DataError),
    /// The training loop.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// Masks.
    #[error(transparent)]
    Mask(#[from] MaskError),
    /// Measures.
    #[error(transparent)]
    Metrics(#[from] MetricsError),
    /// Models.
    #[error(transparent)]
    Model(#[from] SamError),
    /// The run's files.
    #[error(transparent)]
    Run(#[from] RunError),
    /// Weight files.
    #[error(transparent)]
    Weights(#[from] CheckpointError),
}

impl ContrastiveError {
    pub(crate) fn setting(
        name: impl Into<String>,
        found: impl std::fmt::Display,
        expected: impl Into<String>,
    ) -> Self {
        Self::Setting { name: name.into(), found: found.to_string(), expected: expected.into() }
    }
}
