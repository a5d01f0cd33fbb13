//! What can go wrong in an evaluation.

use std::path::PathBuf;

use kirie_data::DataError;
use kirie_mask::MaskError;
use kirie_metrics::MetricsError;
use kirie_sam::SamError;
use thiserror::Error;

/// What can go wrong in an evaluation. What goes wrong with one picture is a
/// [`Failed`](super::Failed) and does not stop the others.
#[derive(Debug, Error)]
pub enum EvaluateError {
    /// No picture to look at.
    #[error("there is no picture to evaluate")]
    NoPictures,
    /// Pictures, but nothing is known of what they show.
    #[error("none of the {pictures} pictures has labels")]
    NoLabels {
        /// How many were looked at.
        pictures: usize,
    },
    /// A list of prompts without any.
    #[error("expected at least one kind of prompt, found none")]
    NoPrompts,
    /// A model that answers boxes only was asked something else.
    #[error("{model} answers boxes only; ask it with `box`")]
    NeedsBox {
        /// Its name.
        model: String,
    },
    /// A model gave another number of answers than it was asked for.
    #[error("{model} gave {found} answers for {expected} prompts")]
    Answers {
        /// Its name.
        model: String,
        /// How many were due.
        expected: usize,
        /// How many came.
        found: usize,
    },
    /// A JSON file (detections, COCO annotations) that cannot be used.
    #[error("{}: {reason}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, and where.
        reason: String,
    },
    /// About the model.
    #[error(transparent)]
    Sam(#[from] SamError),
    /// About a picture or its labels.
    #[error(transparent)]
    Data(#[from] DataError),
    /// About a mask.
    #[error(transparent)]
    Mask(#[from] MaskError),
    /// About a figure.
    #[error(transparent)]
    Metrics(#[from] MetricsError),
}
