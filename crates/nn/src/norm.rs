//! Layer normalisation over the channels of a feature map.

use burn::module::{Initializer, Module, Param};
use burn::nn::LayerNorm;
use burn::tensor::{Device, Tensor};

use crate::{count, fast};

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
    /// Added to the variance.
    pub fn epsilon(&self) -> f64 {
        self.epsilon
    }

    /// `[batch, channels, height, width]` to the same shape.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        if count::is_dry() {
            return x;
        }
        if let Some(y) = fast::layer_norm_2d(&x, &self.weight.val(), &self.bias.val(), self.epsilon) {
            return y;
        }
        self.forward_nhwc(x.permute([0, 2, 3, 1])).permute([0, 3, 1, 2])
    }

    /// The same on `[batch, height, width, channels]`, for callers that hold that layout already.
    pub fn forward_nhwc(&self, x: Tensor<4>) -> Tensor<4> {
        normalise(x, self.weight.val(), self.bias.val(), self.epsilon)
    }
}

/// Applies a layer norm over the last dimension; on the processor by kirie's own kernels. (`epsilon` is the
/// norm's own, which Burn keeps to itself.)
pub fn layer_norm<const D: usize>(norm: &LayerNorm, epsilon: f64, x: Tensor<D>) -> Tensor<D> {
    if count::is_dry() {
        return x;
    }
    match &norm.beta {
        Some(beta) => normalise(x, norm.gamma.val(), beta.val(), epsilon),
        None => norm.forward(x),
    }
}

fn normalise<const D: usize>(x: Tensor<D>, gamma: Tensor<1>, beta: Tensor<1>, epsilon: f64) -> Tensor<D> {
    if let Some(y) = fast::layer_norm(&x, &gamma, &beta, epsilon) {
        return y;
    }
    burn::tensor::module::layer_norm(x, gamma, Some(beta), epsilon)
}
