//! Detection and instance masks from image-level labels: "there is a screw in this picture" becomes boxes and outlines.
//!
//! The stages meet in files only ([`files`]), so each can be run, looked at, repeated and replaced alone.

mod error;
pub mod files;

pub use error::WeakError;
