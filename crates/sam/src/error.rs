//! What can go wrong between a picture and its masks.

use std::path::PathBuf;

use kirie_data::DataError;
use kirie_mask::MaskError;
use thiserror::Error;

use crate::checkpoint::CheckpointError;

/// What can go wrong between a picture and its masks.
#[derive(Debug, Error)]
pub enum SamError {
    /// The caller asked to stop.
    #[error("stopped before it was done")]
    Cancelled,
    /// No model of that name.
    #[error("there is no model `{name}`; there are: {known}")]
    UnknownModel {
        /// What was asked for.
        name: String,
        /// What there is.
        known: String,
    },
    /// A prompt that no mask can be found for.
    #[error("prompt {index}: {problem}")]
    Prompt {
        /// Its place among the prompts of the call, from 0.
        index: usize,
        /// What is wrong with it.
        problem: PromptProblem,
    },
    /// The predictor was asked before it was given a picture.
    #[error("no picture is set")]
    NoImage,
    /// Tensors of the wrong shape reached an engine.
    #[error("{what}: expected shape {expected}, found {found:?}")]
    Shape {
        /// Which tensor.
        what: &'static str,
        /// What it should be.
        expected: String,
        /// What it is.
        found: Vec<usize>,
    },
    /// A side of the encoder's input that the model cannot take.
    #[error("{model} cannot take an input of {input} pixels: {reason}")]
    Input {
        /// The model.
        model: String,
        /// What was asked for.
        input: u32,
        /// What does not fit.
        reason: String,
    },
    /// The encoder or the decoder could not run.
    #[error("the model could not run: {0}")]
    Engine(String),
    /// A setting of the mask generator out of its range.
    #[error("{name} is {found}, expected {expected}")]
    Setting {
        /// Its name.
        name: &'static str,
        /// Its value.
        found: String,
        /// Its range.
        expected: &'static str,
    },
    /// A file of tensors (an embedding, logits) that does not fit.
    #[error("{}: {reason}", path.display())]
    TensorFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// About the weights.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// About a picture.
    #[error(transparent)]
    Data(#[from] DataError),
    /// About a mask.
    #[error(transparent)]
    Mask(#[from] MaskError),
}

/// What is wrong with a prompt.
#[derive(Debug, Error, Clone, PartialEq)]
pub enum PromptProblem {
    /// Nothing in it.
    #[error("it has no point, no box and no mask")]
    Empty,
    /// A coordinate that is no number.
    #[error("its {what} has a coordinate that is not a finite number: {found}")]
    NotFinite {
        /// Point or box.
        what: &'static str,
        /// The coordinates.
        found: String,
    },
    /// A point beside the picture.
    #[error("its point ({x}, {y}) is outside the picture of {width}x{height}")]
    PointOutside {
        /// Pixels from the left.
        x: f64,
        /// Pixels from the top.
        y: f64,
        /// The picture's width.
        width: u32,
        /// The picture's height.
        height: u32,
    },
    /// A box beside the picture.
    #[error("its box ({x0}, {y0}, {x1}, {y1}) is outside the picture of {width}x{height}")]
    BoxOutside {
        /// Left edge.
        x0: f64,
        /// Upper edge.
        y0: f64,
        /// Right edge.
        x1: f64,
        /// Lower edge.
        y1: f64,
        /// The picture's width.
        width: u32,
        /// The picture's height.
        height: u32,
    },
    /// A box whose second corner is not to the lower right of the first.
    #[error("its box ({x0}, {y0}, {x1}, {y1}) is upside down or empty: expected x0 < x1 and y0 < y1")]
    BoxUpsideDown {
        /// Left edge.
        x0: f64,
        /// Upper edge.
        y0: f64,
        /// Right edge.
        x1: f64,
        /// Lower edge.
        y1: f64,
    },
    /// Mask logits of the wrong size.
    #[error("its mask input has {found} values, expected {side}x{side}")]
    MaskSize {
        /// Values given.
        found: usize,
        /// Side of the square expected.
        side: usize,
    },
    /// Mask logits that are not finite.
    #[error("its mask input holds values that are not finite numbers")]
    MaskNotFinite,
}
