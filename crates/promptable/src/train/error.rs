//! What can go wrong in training.

use kirie_data::DataError;
use kirie_engine::EngineError;
use kirie_mask::MaskError;
use kirie_run::RunError;
use kirie_sam::SamError;
use kirie_sam::checkpoint::CheckpointError;
use thiserror::Error;

use crate::evaluate::EvaluateError;

/// What can go wrong in training.
#[derive(Debug, Error)]
pub enum TrainError {
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
    /// No picture is left to learn from.
    #[error("there is no picture to learn from in {sets}")]
    NoPictures {
        /// Names of the sets.
        sets: String,
    },
    /// A picture of the set cannot be used.
    #[error("{name}: {source}")]
    Sample {
        /// The picture's file.
        name: String,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Teacher and student do not fit.
    #[error("the teacher's embedding is {teacher:?}, the student's {student:?}; they must be the same")]
    Embedding {
        /// Shape of the teacher's.
        teacher: Vec<usize>,
        /// Shape of the student's.
        student: Vec<usize>,
    },
    /// The loop.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The run's files.
    #[error(transparent)]
    Run(#[from] RunError),
    /// A model.
    #[error(transparent)]
    Sam(#[from] SamError),
    /// Weights.
    #[error(transparent)]
    Weights(#[from] CheckpointError),
    /// A picture or its labels.
    #[error(transparent)]
    Data(#[from] DataError),
    /// A mask.
    #[error(transparent)]
    Mask(#[from] MaskError),
    /// Labels read as objects.
    #[error(transparent)]
    Evaluate(#[from] EvaluateError),
}
