//! Networks and the methods to fine-tune them.
//!
//! ```text
//! picture -> encoder (+ adapters) -> embedding -> class decoder (no prompt) -> logits per class
//! ```
//!
//! A [`SemanticConfig`] names a base of the Segment Anything family, the number of classes and a [`MethodConfig`]; out of it comes
//! a [`SemanticModel`], a [`crate::Segmenter`]. What was learnt is a small file: see [`adapter`].
//!
//! | file | part |
//! | --- | --- |
//! | [`method`] | the methods, their options, what each trains |
//! | [`vit`], `blocks`, [`attention`], [`cnn`] | SAM's ViT with what the methods put into it |
//! | [`conv`] | the convolutional encoders with theirs |
//! | [`decoder`] | the class decoder |
//! | [`base`] | weights from a base |
//! | [`adapter`] | what was learnt, in a file |
//!
//! Facts of the published code, with what is not known, are in the project's notes on GSAM; where kirie does otherwise the
//! documentation of the option says so, and the published behaviour is another value of it.

pub mod adapter;
pub mod attention;
pub mod base;
mod blocks;
pub mod cnn;
pub mod conv;
pub mod decoder;
mod error;
mod field;
mod lora;
mod merge;
pub mod method;
mod semantic;
pub mod vit;

pub use adapter::{AdapterInfo, adapter_info, load_adapter, save_adapter};
pub use base::BaseReport;
pub use blocks::{Block, MlpAdapter, MobileConv, RefineAdapter, SqueezeExcitation};
pub use error::ModelError;
pub use kirie_sam::checkpoint::state_dict_hash;
pub use method::{METHODS, MethodConfig};
pub use semantic::{Counts, SemanticConfig, SemanticEncoder, SemanticModel};
