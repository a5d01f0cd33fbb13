//! Semantic segmentation for one's own classes: a model of the Segment Anything family fine-tuned on pictures of any size.
//!
//! [`model`] holds the networks and the methods to fine-tune them, GSAM first of all; the other modules learn and measure
//! with anything that is a [`Segmenter`].

pub mod model;
pub mod segmenter;

pub use segmenter::Segmenter;
