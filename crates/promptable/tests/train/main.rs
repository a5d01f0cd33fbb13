//! Training as a whole, on drawn pictures and models small enough to be trained in seconds.
//!
//! One binary of several files, because linking the models is slow.

#![allow(clippy::unwrap_used, reason = "clippy knows tests, but not what they call")]

mod common;
mod distill;
#[cfg(feature = "wgpu")]
mod gpu;
mod gradients;
mod overfit;
mod resume;
