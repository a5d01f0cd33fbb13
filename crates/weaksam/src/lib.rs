//! Detection and instance masks from image-level labels: "there is a screw in this picture" becomes boxes and outlines.
//!
//! ```text
//! labels -> classifier: class maps -> proposals: boxes by SAM -> detector -> pseudo boxes -> retraining -> instances
//! ```
//!
//! The stages meet in files only ([`files`]), so each can be run, looked at, repeated and replaced alone; [`run`] is the chain.
//!
//! | module | what |
//! | --- | --- |
//! | [`labels`] | which classes a picture shows, and nothing of where |
//! | [`classifier`] | class maps and attention |
//! | [`proposals`] | boxes that may hold an object |
//! | [`boxes`], [`roi`], [`network`] | what both detectors stand on: boxes, RoI pooling, feature maps |
//! | [`detector`] | weakly supervised detectors: WSDDN, OICR, MIST |
//! | [`pseudo`] | their detections as pseudo ground truth, adaptively or plainly |
//! | [`retrain`] | a two-stage detector on pseudo (or true) boxes, with RoI drop |
//! | [`instances`] | masks for boxes; files for other programs |
//! | [`review`] | the least sure boxes to a person and back |
//! | [`page`], [`show`] | boxes and maps to look at |
//! | [`measure`] | true boxes, and figures against them: scoring only |
//! | [`sweep`] | many chains and one table of what each ingredient is worth |

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
pub mod sweep;

pub use error::WeakError;
