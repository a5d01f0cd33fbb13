//! Contrastive pre-training from the regions of complex scenes.
//!
//! SAMCLR (Missaoui and Yuan 2023) changes one thing of SimCLR: both views of a sample come from one region that a SAM-family model
//! found, not from anywhere in a picture of many objects. Here that is one key of the configuration, and goes with SimCLR, MoCo and
//! DINO alike.
//!
//! - [`regions`]: masks of a model, kept in files, joined to objects and filtered; and controls to hold them against;
//! - [`views`]: what is cut from a region, and the published augmentations;
//! - [`loss`]: NT-Xent, InfoNCE, DINO's cross entropy;
//! - [`model`]: encoder, heads, momentum branch, queue and centre;
//! - [`mod@train`]: the training run;
//! - [`health`]: whether a run learns, told without labels;
//! - [`evaluate`]: nearest neighbours and a linear classifier on frozen features, with all labels and with few;
//! - [`mod@sweep`]: many runs and one table;
//! - [`show`]: pages to look at regions and views before anything is trained.

pub mod config;
pub mod data;
mod error;
pub mod evaluate;
pub mod health;
pub mod loss;
pub mod model;
mod random;
pub mod regions;
pub mod show;
mod spectrum;
pub mod sweep;
#[cfg(test)]
mod testing;
pub mod train;
pub mod views;

pub use error::ContrastiveError;
