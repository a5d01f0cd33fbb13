//! What can go wrong around a training step.

use kirie_run::RunError;
use kirie_sam::checkpoint::CheckpointError;
use thiserror::Error;

/// What can go wrong around a training step.
#[derive(Debug, Error)]
pub enum EngineError {
    /// A setting out of its range.
    #[error("{name} is {found}, expected {expected}")]
    Setting {
        /// Its name in the configuration.
        name: String,
        /// Its value.
        found: String,
        /// Its range.
        expected: String,
    },
    /// A loss or gradient that is no finite number.
    #[error("step {step}: {what} is not a finite number; the batch: {}; {checkpoint}", samples.join(", "))]
    NotFinite {
        /// The optimiser step, from 0.
        step: u64,
        /// Loss, or the name of the first parameter with such a gradient.
        what: String,
        /// Names of the batch's samples.
        samples: Vec<String>,
        /// Where the last good state is, in words.
        checkpoint: String,
    },
    /// A checkpoint that does not belong to this run.
    #[error("checkpoint of step {step}: {reason}")]
    Checkpoint {
        /// Its step.
        step: u64,
        /// What is wrong with it.
        reason: String,
    },
    /// The method's own error: a sample that cannot be read, a picture that does not fit.
    #[error("step {step}: {source}")]
    Method {
        /// The optimiser step, from 0.
        step: u64,
        /// What the method says.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The run's files.
    #[error(transparent)]
    Run(#[from] RunError),
    /// Weights.
    #[error(transparent)]
    Weights(#[from] CheckpointError),
}
