//! Detection and instance masks from image-level labels: "there is a screw in this picture" becomes boxes and outlines.
//!
//! ```text
//! labels -> classifier: class maps -> proposals: boxes by SAM -> (detector -> pseudo boxes -> retraining -> instances)
//! ```
//!
//! The stages meet in files only ([`files`]), so each can be run, looked at, repeated and replaced alone.

pub mod classifier;
#[cfg(test)]
mod drawn;
mod error;
pub mod files;
pub mod labels;
pub mod proposals;
pub mod review;
pub mod run;
pub mod show;
pub mod truth;

pub use error::WeakError;
