//! Models as ONNX files, for use where there is no kirie.
//!
//! ```text
//! Burn model --capture--> operations --fold--> without what only constants need --lower--> ONNX nodes --> file
//! ```
//!
//! The graph is recorded from the very code that runs and trains the model, so an exported model cannot fall behind it.
//! What is exported: an [`encoder()`], a [`decoder()`] for any number of prompts and points, or a [`semantic()`] model from picture to logits.

mod bundle;
mod capture;
mod decoder;
mod dims;
mod encoder;
mod error;
mod file;
mod fold;
mod graph;
mod lower;
mod prompts;
mod proto;
mod semantic;

pub use bundle::{Bundle, write_promptable, write_semantic};
pub use decoder::{Convention, decoder};
pub use encoder::encoder;
pub use error::ExportError;
pub use file::{OPSET, OnnxModel, Tensor, Written};
pub use semantic::semantic;
