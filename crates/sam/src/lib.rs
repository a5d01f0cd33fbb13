//! The Segment Anything family: models, weights, and what people do with them.
//!
//! ```text
//! picture -> prepare -> encoder -> embedding -> prompts + decoder -> low-res logits -> upscaler -> masks
//! ```
//!
//! - [`registry`]: every model by name; [`checkpoint`] and [`hub`]: its weights;
//! - [`engine`]: runs a model; the only thing that the following know of it;
//! - [`predictor`]: one picture, many prompts; [`mask_generator`]: everything in a picture;
//! - [`encoders`], [`prompt_encoder`], [`transformer`], [`mask_decoder`], [`model`]: the model's parts, one file each;
//! - [`cpu_decoder`], [`cpu_encoder`]: the decoder and the convolutional encoders once more, for speed on the processor.

pub mod checkpoint;
pub mod cpu_decoder;
pub mod cpu_encoder;
pub mod encoders;
pub mod engine;
mod error;
pub mod formula;
#[cfg(feature = "hub")]
pub mod hub;
pub mod logits;
pub mod mask_decoder;
pub mod mask_generator;
pub mod model;
pub mod predictor;
pub mod prompt;
pub mod prompt_encoder;
pub mod prompt_fusion;
pub mod registry;
mod tensor;
pub mod transformer;
pub mod upscale;

pub use engine::{BurnEngine, Embedding, Engine};
pub use error::{PromptProblem, SamError};
pub use mask_decoder::DecodeMode;
pub use mask_generator::{MaskGeneratorOptions, PointGrid};
pub use predictor::{EncodedImage, EngineRef, Prediction, Predictor, Window};
pub use prompt::Prompt;
pub use tensor::HostTensor;
