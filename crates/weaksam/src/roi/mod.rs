//! Features of regions of interest (RoIs): a fixed grid of cells out of a feature map for any box.
//!
//! Both operations are composed of Burn's own so that they run, and have gradients, on every device: [`align`] is two matrix
//! products with constant weights, [`pool`] a gather at places found on the host.

pub mod align;
pub mod pool;

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

pub use align::RoiAlign;
pub use pool::roi_max_pool;

use crate::files::Corners;

/// How cells are filled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RoiMethod {
    /// Means of bilinear samples (RoIAlign).
    #[default]
    Align,
    /// The largest value (RoI max pooling of Fast R-CNN), as OICR and MIST have it.
    Max,
}

impl RoiMethod {
    /// The cells of each box, `[boxes, channels, size, size]`, of one picture's feature map `[1, channels, height, width]`.
    /// `boxes` are in pixels of the network's input, of which a cell of the map covers `1 / scale`.
    pub fn forward(self, features: Tensor<4>, boxes: &[Corners], size: usize, scale: f32) -> Tensor<4> {
        match self {
            Self::Align => RoiAlign::new(size).forward(features, boxes, scale),
            Self::Max => roi_max_pool(features, boxes, size, scale),
        }
    }
}

#[cfg(test)]
mod tests;
