//! What can go wrong between a model and its ONNX file.

use kirie_data::DataError;
use thiserror::Error;

/// What can go wrong between a model and its ONNX file.
#[derive(Debug, Error)]
pub enum ExportError {
    /// The model uses an operation that the exporter has no ONNX for.
    #[error("the exporter does not know the operation {operation}, found in {place}")]
    Operation {
        /// Its name in Burn.
        operation: String,
        /// Beside which parameters it was found.
        place: String,
    },
    /// A shape follows the number of prompts or points in a way that the exporter cannot write down.
    #[error("{operation} in {place}: {reason}")]
    Shape {
        /// The operation's name in Burn.
        operation: String,
        /// Beside which parameters it was found.
        place: String,
        /// What is in the way.
        reason: String,
    },
    /// The model did not record: it does something else for another number of prompts or points, or reads a result while it runs.
    #[error("the model cannot be recorded as one graph: {0}")]
    Capture(String),
    /// A tensor of a type that the exporter has no ONNX for.
    #[error("the exporter does not know tensors of type {found}, found in {place}")]
    Type {
        /// Burn's name of the type.
        found: String,
        /// Which tensor.
        place: String,
    },
    /// The model has no such part.
    #[error("{0}")]
    Model(String),
    /// The file could not be written.
    #[error(transparent)]
    Data(#[from] DataError),
}
