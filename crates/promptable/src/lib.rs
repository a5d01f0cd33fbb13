//! Promptable segmentation: a picture and a prompt in, the mask of one object out.

pub mod evaluate;
pub mod train;
