//! What can go wrong between a configuration and a model.

use std::path::PathBuf;

use kirie_data::DataError;
use kirie_sam::checkpoint::CheckpointError;
use thiserror::Error;

/// What can go wrong between a configuration and a model.
#[derive(Debug, Error)]
pub enum ModelError {
    /// A setting out of its range.
    #[error("{name} is {found}, expected {expected}")]
    Setting {
        /// Its name.
        name: &'static str,
        /// Its value.
        found: String,
        /// Its range.
        expected: String,
    },
    /// A method that the encoder is not made for.
    #[error("method `{method}` does not work with {encoder}; it works with {works_with}")]
    Encoder {
        /// The method.
        method: &'static str,
        /// The kind of encoder that was asked for.
        encoder: &'static str,
        /// The kinds it works with.
        works_with: &'static str,
    },
    /// An encoder that no method is made for.
    #[error("semantic models are made from {works_with}, not from {encoder}")]
    NoMethod {
        /// The kind of encoder that was asked for.
        encoder: &'static str,
        /// The kinds there are methods for.
        works_with: &'static str,
    },
    /// A regular expression that chooses no weight.
    #[error(
        "lora.targets `{expression}` matches no weight of the model; its weights are named like {example}"
    )]
    NoTarget {
        /// The expression.
        expression: String,
        /// A name.
        example: String,
    },
    /// A tensor of the base that does not fit.
    #[error("{}: tensor `{key}` has shape {found:?}, expected {expected:?}", path.display())]
    Shape {
        /// The file.
        path: PathBuf,
        /// The tensor.
        key: String,
        /// Its shape.
        found: Vec<usize>,
        /// The model's.
        expected: Vec<usize>,
    },
    /// A base that has nothing of the model's encoder.
    #[error("{}: no tensor of the file is of this model's encoder; expected names like {example}", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// A name of the model's.
        example: String,
    },
    /// A file that is no adapter, or a damaged one.
    #[error("{} is no usable adapter: {reason}", path.display())]
    Adapter {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// An adapter that was trained on another base.
    #[error(
        "{} was trained on `{expected_name}` (SHA-256 of its weights {expected}), \
         but is to be put on `{found_name}` (SHA-256 {found})",
        path.display()
    )]
    WrongBase {
        /// The adapter.
        path: PathBuf,
        /// The base it belongs to.
        expected_name: String,
        /// That base's SHA-256.
        expected: String,
        /// The base it was given.
        found_name: String,
        /// That base's SHA-256.
        found: String,
    },
    /// A method whose adapters are no change of weights.
    #[error("the adapters of method `{method}` cannot be merged into the weights; those of {mergeable} can")]
    NotMergeable {
        /// The method.
        method: &'static str,
        /// The methods that can.
        mergeable: &'static str,
    },
    /// Weights.
    #[error(transparent)]
    Weights(#[from] CheckpointError),
    /// A file.
    #[error(transparent)]
    Data(#[from] DataError),
}
