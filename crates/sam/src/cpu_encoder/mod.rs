//! Encoders on the processor, by kirie's own kernels: the same embeddings as [`ImageEncoder::forward`] to rounding, in a fraction of the
//! time. Norms are folded into the convolutions before them, weights are laid out once, 3x3 convolutions of stride 1 go Winograd's
//! way, and a block's wide middle never leaves the cache.

mod efficientvit;
#[cfg(test)]
mod tests;
mod weights;

use crate::SamError;
use crate::encoders::ImageEncoder;
use efficientvit::EfficientVitPlan;

/// An encoder's parameters, ready for use.
pub struct CpuEncoder(EfficientVitPlan);

impl std::fmt::Debug for CpuEncoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("CpuEncoder")
    }
}

impl CpuEncoder {
    /// Lays out the parameters of an encoder; `None` for a kind that Burn runs.
    ///
    /// # Errors
    /// Parameters that cannot be read.
    pub fn new(encoder: &ImageEncoder) -> Result<Option<Self>, SamError> {
        match encoder {
            ImageEncoder::EfficientVit(encoder) => Ok(Some(Self(EfficientVitPlan::new(encoder)?))),
            ImageEncoder::TinyVit(_) | ImageEncoder::Vit(_) => Ok(None),
        }
    }

    /// `pixels` `[3, height, width]`, normalised and padded, to the embedding `[channels, side, side]`.
    pub fn forward(&self, size: [usize; 2], pixels: Vec<f32>) -> Map {
        self.0.forward(Map { channels: 3, size, values: pixels })
    }
}

/// A feature map of one picture.
#[derive(Clone, Debug, PartialEq)]
pub struct Map {
    /// Channels.
    pub channels: usize,
    /// Height and width.
    pub size: [usize; 2],
    /// `[channels, height, width]`
    pub values: Vec<f32>,
}

/// Memory of maps that are no longer needed, for those to come.
#[derive(Default)]
struct Spare(Vec<Vec<f32>>);

impl Spare {
    /// A map of anything, to be written over.
    fn take(&mut self, channels: usize, size: [usize; 2]) -> Map {
        let len = channels * size[0] * size[1];
        // The smallest that is large enough, or else the largest, which grows.
        let fits =
            (0..self.0.len()).filter(|&i| self.0[i].capacity() >= len).min_by_key(|&i| self.0[i].capacity());
        let mut values = fits.map(|i| self.0.swap_remove(i)).unwrap_or_default();
        values.resize(len, 0.0);
        Map { channels, size, values }
    }

    fn give(&mut self, map: Map) {
        self.0.push(map.values);
    }
}
