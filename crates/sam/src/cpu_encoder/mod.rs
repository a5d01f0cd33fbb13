//! Encoders on the processor, by kirie's own kernels: the same embeddings as [`ImageEncoder::forward`] to rounding, in a fraction of the
//! time. Norms are folded into the convolutions before them, weights are laid out once, 3x3 convolutions of stride 1 go Winograd's
//! way, and a block's wide middle never leaves the cache.

mod efficientvit;
#[cfg(test)]
mod tests;
mod tiny_vit;
mod weights;

use crate::SamError;
use crate::encoders::{EncoderOutput, ImageEncoder};
use burn::tensor::{Device, Tensor, TensorData};
use efficientvit::EfficientVitPlan;
use kirie_kernels::{Gemm, ReadyConv, gemm_part};
use tiny_vit::TinyVitPlan;

/// An encoder's parameters, ready for use.
pub struct CpuEncoder(Plan);

#[allow(clippy::large_enum_variant, reason = "there is one per model, and it lives as long as the model")]
enum Plan {
    EfficientVit(EfficientVitPlan),
    TinyVit(TinyVitPlan),
}

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
        Ok(match encoder {
            ImageEncoder::EfficientVit(encoder) => {
                Some(Self(Plan::EfficientVit(EfficientVitPlan::new(encoder)?)))
            }
            ImageEncoder::TinyVit(encoder) => Some(Self(Plan::TinyVit(TinyVitPlan::new(encoder)?))),
            ImageEncoder::Vit(_) => None,
        })
    }

    /// `pixels` `[3, height, width]`, normalised and padded, to the embedding.
    pub fn forward(&self, size: [usize; 2], pixels: Vec<f32>) -> Encoded {
        let x = Map { channels: 3, size, values: pixels };
        match &self.0 {
            Plan::EfficientVit(plan) => Encoded { embedding: plan.forward(x), early: None },
            Plan::TinyVit(plan) => plan.forward(x),
        }
    }
}

/// See [`EncoderOutput`].
#[derive(Clone, Debug, PartialEq)]
pub struct Encoded {
    /// The embedding.
    pub embedding: Map,
    /// An early map, where the encoder has one.
    pub early: Option<Map>,
}

impl Encoded {
    /// As tensors of a device.
    pub fn into_burn(self, device: &Device) -> EncoderOutput {
        let tensor = |map: Map| {
            let [height, width] = map.size;
            Tensor::from_data(TensorData::new(map.values, [1, map.channels, height, width]), device)
        };
        EncoderOutput { embedding: tensor(self.embedding), early: self.early.map(tensor) }
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

fn product(m: usize, k: usize, n: usize) -> Gemm {
    Gemm { m, k, n, a_transposed: false, b_transposed: false, accumulate: false }
}

/// A product of matrices whose rows lie one behind the other, on this thread.
fn multiply(s: &Gemm, a: &[f32], b: &[f32], c: &mut [f32]) {
    gemm_part(s, kirie_kernels::Rows::contiguous(s), a, b, c);
}

fn apply(op: &ReadyConv, x: &Map, add: Option<&Map>, spare: &mut Spare) -> Map {
    let mut y = spare.take(op.channels()[1], op.output(x.size));
    op.forward(x.size, &x.values, add.map(|add| add.values.as_slice()), &mut y.values);
    y
}
