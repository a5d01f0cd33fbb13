//! Layer normalisation over the channels of a feature map.

use burn::module::{Initializer, Module, Param};
use burn::tensor::{Device, Tensor, module::layer_norm};

/// Configuration of [`LayerNorm2d`].
#[derive(Clone, Debug)]
pub struct LayerNorm2dConfig {
    /// Number of channels normalised together.
    pub channels: usize,
    /// Added to the variance.
    pub epsilon: f64,
}

impl LayerNorm2dConfig {
    /// The layer as SAM uses it, with epsilon 1e-6.
    pub fn new(channels: usize) -> Self {
        Self { channels, epsilon: 1e-6 }
    }

    /// Weights of one, biases of zero.
    pub fn init(&self, device: &Device) -> LayerNorm2d {
        LayerNorm2d {
            weight: Initializer::Ones.init([self.channels], device),
            bias: Initializer::Zeros.init([self.channels], device),
            epsilon: self.epsilon,
        }
    }
}

/// Normalises each pixel over its channels (biased variance), then scales and shifts.
///
/// Keys: `weight` `[channels]`, `bias` `[channels]`.
#[derive(Module, Debug)]
pub struct LayerNorm2d {
    /// Scale, `[channels]`.
    pub weight: Param<Tensor<1>>,
    /// Shift, `[channels]`.
    pub bias: Param<Tensor<1>>,
    epsilon: f64,
}

impl LayerNorm2d {
    /// `[batch, channels, height, width]` to the same shape.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        self.forward_nhwc(x.permute([0, 2, 3, 1])).permute([0, 3, 1, 2])
    }

    /// The same on `[batch, height, width, channels]`, for callers that hold that layout already.
    pub fn forward_nhwc(&self, x: Tensor<4>) -> Tensor<4> {
        layer_norm(x, self.weight.val(), Some(self.bias.val()), self.epsilon)
    }
}
