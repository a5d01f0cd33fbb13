//! Detection and instance masks from image-level labels: "there is a screw in this picture" becomes boxes and outlines.
//!
//! ```text
//! labels -> classifier: class maps -> proposals: boxes by SAM -> detector -> pseudo boxes -> retraining -> instances
//! ```
//!
//! The stages meet in files only ([`files`]), so each can be run, looked at, repeated and replaced alone.
//!
//! | module | what |
//! | --- | --- |
//! | [`boxes`], [`roi`], [`network`] | what both detectors stand on: boxes, RoI pooling, feature maps |
//! | [`detector`] | weakly supervised detectors: WSDDN, OICR, MIST |
//! | [`pseudo`] | their detections as pseudo ground truth, adaptively or plainly |
//! | [`retrain`] | a two-stage detector on pseudo (or true) boxes, with RoI drop |
//! | [`instances`] | masks for boxes; files for other programs |
//! | [`page`] | boxes to look at |
//! | [`measure`] | the figures of all of this against true boxes and masks |

pub mod boxes;
pub mod classifier;
pub mod detector;
#[cfg(test)]
mod drawn;
mod error;
pub mod files;
pub mod instances;
pub mod labels;
pub mod measure;
pub mod network;
pub mod page;
pub mod pictures;
pub mod proposals;
pub mod pseudo;
pub mod retrain;
pub mod review;
pub mod roi;
pub mod run;
pub mod show;
mod stage;
pub mod truth;

pub use error::WeakError;
