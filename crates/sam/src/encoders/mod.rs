//! Image encoders: a prepared picture in, an embedding out.
//!
//! A new encoder is one file here, one variant of [`EncoderConfig`] and [`ImageEncoder`], and a row in
//! [`crate::registry`]; `docs/how-to-add-an-encoder.md` walks through it.

pub mod efficientvit;
pub mod tiny_vit;
pub mod vit;

use burn::module::Module;
use burn::nn::PaddingConfig2d;
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::tensor::{Device, Tensor};
use kirie_nn::{LayerNorm2d, LayerNorm2dConfig, conv2d};
use serde::{Deserialize, Serialize};

pub use efficientvit::{EfficientVit, EfficientVitConfig};
pub use tiny_vit::{TinyVit, TinyVitConfig};
pub use vit::{Vit, VitConfig};

/// Which encoder, with its sizes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum EncoderConfig {
    /// The plain vision transformer of SAM.
    Vit(VitConfig),
    /// The small transformer of MobileSAM.
    TinyVit(TinyVitConfig),
    /// The convolutional encoder of EfficientViT-SAM.
    EfficientVit(EfficientVitConfig),
}

impl EncoderConfig {
    /// Parameters by default initialisation, made lazily: loading a checkpoint right after costs no
    /// random numbers.
    pub fn init(&self, device: &Device) -> ImageEncoder {
        match self {
            Self::Vit(config) => ImageEncoder::Vit(config.init(device)),
            Self::TinyVit(config) => ImageEncoder::TinyVit(config.init(device)),
            Self::EfficientVit(config) => ImageEncoder::EfficientVit(config.init(device)),
        }
    }
}

/// An image encoder of any kind.
#[derive(Module, Debug)]
#[allow(clippy::large_enum_variant, reason = "there is one per model, and it lives as long as the model")]
pub enum ImageEncoder {
    /// See [`vit`].
    Vit(Vit),
    /// See [`tiny_vit`].
    TinyVit(TinyVit),
    /// See [`efficientvit`].
    EfficientVit(EfficientVit),
}

/// What an encoder makes of a picture.
#[derive(Clone, Debug)]
pub struct EncoderOutput {
    /// The image embedding, `[batch, 256, 64, 64]`.
    pub embedding: Tensor<4>,
    /// An early feature map `[batch, channels, 64, 64]` that the HQ decoder takes its detail from; encoders
    /// without such a map give `None`.
    pub early: Option<Tensor<4>>,
}

impl ImageEncoder {
    /// `[batch, 3, size, size]`, normalised and padded, to the embedding.
    pub fn forward(&self, x: Tensor<4>) -> EncoderOutput {
        match self {
            Self::Vit(encoder) => encoder.forward(x),
            Self::TinyVit(encoder) => encoder.forward(x),
            Self::EfficientVit(encoder) => EncoderOutput { embedding: encoder.forward(x), early: None },
        }
    }
}

/// SAM's neck: 1x1 convolution, norm, 3x3 convolution, norm. Keys: `0.weight`, `1.*`, `2.weight`, `3.*`.
#[derive(Module, Debug)]
pub struct Neck {
    /// 1x1 to the embedding's width, no bias.
    pub i0: Conv2d,
    /// Norm.
    pub i1: LayerNorm2d,
    /// 3x3, no bias.
    pub i2: Conv2d,
    /// Norm.
    pub i3: LayerNorm2d,
}

impl Neck {
    /// From `input` channels to `output`, by default initialisation.
    pub fn new(input: usize, output: usize, device: &Device) -> Self {
        Self {
            i0: Conv2dConfig::new([input, output], [1, 1]).with_bias(false).init(device),
            i1: LayerNorm2dConfig::new(output).init(device),
            i2: Conv2dConfig::new([output, output], [3, 3])
                .with_padding(PaddingConfig2d::Explicit(1, 1, 1, 1))
                .with_bias(false)
                .init(device),
            i3: LayerNorm2dConfig::new(output).init(device),
        }
    }

    /// `[batch, input, height, width]` to `[batch, output, height, width]`.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let x = self.i1.forward(conv2d(&self.i0, x));
        self.i3.forward(conv2d(&self.i2, x))
    }
}

/// Cuts `[batch, height, width, channels]` into windows, `[batch * windows, side, side, channels]` in
/// row-major order, after padding with zeros at the bottom and right.
pub fn window_partition(x: Tensor<4>, side: usize) -> Tensor<4> {
    let [batch, height, width, channels] = x.dims();
    let (rows, columns) = (height.div_ceil(side), width.div_ceil(side));
    let x = pad_bottom_right(x, rows * side, columns * side);
    x.reshape([batch, rows, side, columns, side, channels]).permute([0, 1, 3, 2, 4, 5]).reshape([
        batch * rows * columns,
        side,
        side,
        channels,
    ])
}

/// The inverse of [`window_partition`]: windows back to `[batch, height, width, channels]`, padding cut off.
pub fn window_merge(windows: Tensor<4>, [batch, height, width]: [usize; 3]) -> Tensor<4> {
    let [_, side, _, channels] = windows.dims();
    let (rows, columns) = (height.div_ceil(side), width.div_ceil(side));
    windows
        .reshape([batch, rows, columns, side, side, channels])
        .permute([0, 1, 3, 2, 4, 5])
        .reshape([batch, rows * side, columns * side, channels])
        .slice([0..batch, 0..height, 0..width, 0..channels])
}

/// Pads `[batch, height, width, channels]` with zeros at the bottom and right.
fn pad_bottom_right(x: Tensor<4>, to_height: usize, to_width: usize) -> Tensor<4> {
    let [batch, height, width, channels] = x.dims();
    let device = x.device();
    let mut x = x;
    if to_height > height {
        let zeros = Tensor::zeros([batch, to_height - height, width, channels], &device);
        x = Tensor::cat(vec![x, zeros], 1);
    }
    if to_width > width {
        let zeros = Tensor::zeros([batch, to_height, to_width - width, channels], &device);
        x = Tensor::cat(vec![x, zeros], 2);
    }
    x
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Distribution;

    #[test]
    fn windows_round_trip_and_pad_with_zeros() {
        let device = Device::flex();
        let x = Tensor::<4>::random([2, 5, 7, 3], Distribution::Uniform(1.0, 2.0), &device);
        let windows = window_partition(x.clone(), 4);
        assert_eq!(windows.dims(), [2 * 2 * 2, 4, 4, 3]);
        // The last window of the first picture: one row and three columns of the picture, the rest padding.
        let last: Vec<f32> = windows.clone().narrow(0, 3, 1).into_data().try_to_vec().unwrap();
        assert_eq!(last.iter().filter(|v| **v == 0.0).count(), (16 - 3) * 3);
        let back = window_merge(windows, [2, 5, 7]);
        assert_eq!((back - x).abs().max().into_scalar::<f32>(), 0.0);
    }
}
