//! Semantic segmentation for one's own classes: a model of the Segment Anything family fine-tuned on pictures of any size.
//!
//! [`model`] holds the networks and the methods to fine-tune them, GSAM first of all; the other modules learn and measure
//! with anything that is a [`Segmenter`].
//!
//! ```text
//! config -> data: pictures and label maps -> views: what a network sees in a step -> loss -> train: a run
//!                                         -> infer: any picture at its own size   -> evaluate -> sweep: many runs, one report
//! ```

pub mod config;
pub mod data;
mod error;
pub mod evaluate;
pub mod infer;
pub mod loss;
pub mod model;
pub mod segmenter;
pub mod show;
pub mod sweep;
#[cfg(test)]
mod testing;
pub mod train;
pub mod views;

pub use error::SemanticError;
pub use segmenter::Segmenter;
