//! Convolution, norm and activation as one block.

use burn::module::{Module, Param};
use burn::nn::conv::{Conv2d, Conv2dConfig, ConvTranspose2d};
use burn::nn::{BatchNorm, BatchNormConfig, PaddingConfig2d};
use burn::tensor::{Device, Tensor, ops::ConvOptions};

use crate::{Activation, count, fast};

/// Configuration of [`ConvNorm`].
#[derive(Clone, Debug)]
pub struct ConvNormConfig {
    /// Input and output channels.
    pub channels: [usize; 2],
    /// Side of the square kernel; the padding is half of it, rounded down.
    pub kernel: usize,
    /// Step of the kernel.
    pub stride: usize,
    /// Groups of channels that do not see each other.
    pub groups: usize,
    /// Whether the convolution has a bias of its own.
    pub bias: bool,
    /// Batch norm after the convolution, with this epsilon.
    pub batch_norm: Option<f64>,
    /// What follows the norm.
    pub activation: Activation,
}

impl ConvNormConfig {
    /// A `kernel` x `kernel` convolution with batch norm (epsilon 1e-6, as EfficientViT sets it everywhere),
    /// no bias and no activation.
    pub fn new(channels: [usize; 2], kernel: usize) -> Self {
        Self {
            channels,
            kernel,
            stride: 1,
            groups: 1,
            bias: false,
            batch_norm: Some(1e-6),
            activation: Activation::Identity,
        }
    }

    /// Sets the stride.
    pub fn stride(mut self, stride: usize) -> Self {
        self.stride = stride;
        self
    }

    /// One group per channel.
    pub fn depthwise(mut self) -> Self {
        self.groups = self.channels[0];
        self
    }

    /// Sets the activation.
    pub fn activation(mut self, activation: Activation) -> Self {
        self.activation = activation;
        self
    }

    /// A bias in the place of batch norm.
    pub fn bias_only(mut self) -> Self {
        self.bias = true;
        self.batch_norm = None;
        self
    }

    /// Neither norm nor bias.
    pub fn plain(mut self) -> Self {
        self.bias = false;
        self.batch_norm = None;
        self
    }

    /// Parameters by Burn's defaults.
    pub fn init(&self, device: &Device) -> ConvNorm {
        ConvNorm {
            conv: Conv2dConfig::new(self.channels, [self.kernel; 2])
                .with_stride([self.stride; 2])
                .with_padding(PaddingConfig2d::Explicit(
                    self.kernel / 2,
                    self.kernel / 2,
                    self.kernel / 2,
                    self.kernel / 2,
                ))
                .with_groups(self.groups)
                .with_bias(self.bias)
                .init(device),
            norm: self
                .batch_norm
                .map(|epsilon| BatchNormConfig::new(self.channels[1]).with_epsilon(epsilon).init(device)),
            activation: self.activation,
        }
    }
}

/// Convolution, optional batch norm, activation (`ConvLayer` of the EfficientViT repository).
///
/// Keys: `conv.weight` `[out, in / groups, kernel, kernel]`, `conv.bias` `[out]`, `norm.*`.
#[derive(Module, Debug)]
pub struct ConvNorm {
    /// The convolution.
    pub conv: Conv2d,
    /// The norm after it.
    pub norm: Option<BatchNorm>,
    #[module(skip)]
    activation: Activation,
}

impl ConvNorm {
    /// What follows the norm.
    pub fn activation(&self) -> Activation {
        self.activation
    }

    /// `[batch, in, height, width]` to `[batch, out, height / stride, width / stride]`.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        match &self.norm {
            Some(norm) => conv_norm_activation(&self.conv, norm, self.activation, x),
            None => self.activation.forward(conv2d(&self.conv, x)),
        }
    }
}

/// Applies a convolution; on the processor by kirie's own kernels.
pub fn conv2d(conv: &Conv2d, x: Tensor<4>) -> Tensor<4> {
    if let Some(zeros) = counted(conv, &x) {
        return zeros;
    }
    if let Some(padding) = symmetric_padding(conv) {
        let bias = conv.bias.as_ref().map(Param::val);
        let options = ConvOptions::new(conv.stride, padding, conv.dilation, conv.groups);
        if let Some(y) = fast::conv2d(&x, &conv.weight.val(), bias.as_ref(), &options) {
            return y;
        }
    }
    conv.forward(x)
}

/// Applies a transposed convolution; on the processor by kirie's own kernels, where its stride is its kernel.
pub fn conv_transpose2d(conv: &ConvTranspose2d, x: Tensor<4>) -> Tensor<4> {
    let [input, output, height, width] = conv.weight.lazy_shape().dims();
    let [batch, _, from_height, from_width] = x.dims();
    count::add_layer(batch * from_height * from_width * output * height * width, input);
    let side = conv.kernel_size[0];
    let plain = conv.padding == [0, 0] && conv.padding_out == [0, 0] && conv.dilation == [1, 1];
    if plain && conv.groups == 1 && [conv.kernel_size, conv.stride] == [[side; 2]; 2] {
        if count::is_dry() {
            return count::zeros([batch, output, from_height * side, from_width * side], &x.device());
        }
        let bias = conv.bias.as_ref().map(Param::val);
        if let Some(y) = fast::upsample(&x, &conv.weight.val(), bias.as_ref(), side) {
            return y;
        }
    }
    conv.forward(x)
}

/// A convolution followed by batch norm.
pub fn conv_batch_norm(conv: &Conv2d, norm: &BatchNorm, x: Tensor<4>) -> Tensor<4> {
    conv_norm_activation(conv, norm, Activation::Identity, x)
}

/// Convolution, batch norm, activation, in as few passes as the case allows.
fn conv_norm_activation(conv: &Conv2d, norm: &BatchNorm, activation: Activation, x: Tensor<4>) -> Tensor<4> {
    if x.device().is_autodiff() {
        let x = conv2d(conv, x);
        // A frozen norm keeps to its running statistics, as Burn's knows.
        let trained = norm.gamma.is_require_grad();
        return trained
            .then(|| fast::batch_norm(norm, activation, &x))
            .flatten()
            .unwrap_or_else(|| activation.forward(norm.forward(x)));
    }
    if let Some(zeros) = counted(conv, &x) {
        return zeros;
    }
    // Without gradients the norm is folded into the kernel, which saves a pass over the feature map and costs one over
    // the weights.
    let Some(padding) = symmetric_padding(conv) else {
        return activation.forward(norm.forward(conv.forward(x)));
    };
    let scale = norm.gamma.val() / (norm.running_var.value() + norm.epsilon).sqrt();
    let mut shift = norm.beta.val() - norm.running_mean.value() * scale.clone();
    if let Some(bias) = &conv.bias {
        shift = shift + bias.val() * scale.clone();
    }
    let weight = conv.weight.val();
    let [out, ..] = weight.dims();
    let weight = weight * scale.reshape([out, 1, 1, 1]);
    let options = ConvOptions::new(conv.stride, padding, conv.dilation, conv.groups);
    activation.forward(match fast::conv2d(&x, &weight, Some(&shift), &options) {
        Some(y) => y,
        None => burn::tensor::module::conv2d(x, weight, Some(shift), options),
    })
}

/// Adds a convolution to the count; in a dry run, gives its output.
fn counted(conv: &Conv2d, x: &Tensor<4>) -> Option<Tensor<4>> {
    let [output, inputs, kernel_height, kernel_width] = conv.weight.lazy_shape().dims();
    let [batch, _, height, width] = x.dims();
    let padding = symmetric_padding(conv)?;
    let side = |i: usize, length: usize, kernel: usize| {
        let reach = conv.dilation[i] * (kernel - 1) + 1;
        (length + 2 * padding[i]).checked_sub(reach).map(|rest| rest / conv.stride[i] + 1)
    };
    let shape = [batch, output, side(0, height, kernel_height)?, side(1, width, kernel_width)?];
    count::add_layer(shape.iter().product(), inputs * kernel_height * kernel_width);
    count::is_dry().then(|| count::zeros(shape, &x.device()))
}

/// The padding of lines and columns, where it is the same on both sides.
fn symmetric_padding(conv: &Conv2d) -> Option<[usize; 2]> {
    match conv.padding {
        PaddingConfig2d::Valid => Some([0, 0]),
        PaddingConfig2d::Explicit(top, left, bottom, right) if (top, left) == (bottom, right) => {
            Some([top, left])
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Distribution;

    /// The folded road gives what convolution and norm give one after the other.
    #[test]
    fn folding_changes_nothing() {
        let device = Device::flex();
        let layer = ConvNormConfig { bias: true, ..ConvNormConfig::new([6, 8], 3).stride(2) }.init(&device);
        let norm = layer.norm.as_ref().unwrap();
        norm.running_mean.update(Tensor::random([8], Distribution::Uniform(-1.0, 1.0), &device));
        norm.running_var.update(Tensor::random([8], Distribution::Uniform(0.5, 2.0), &device));
        norm.running_mean.value_sync();
        norm.running_var.value_sync();
        let x = Tensor::random([2, 6, 9, 7], Distribution::Normal(0.0, 1.0), &device);
        let expected = norm.forward(layer.conv.forward(x.clone()));
        let difference = (layer.forward(x) - expected).abs().max().into_scalar::<f32>();
        assert!(difference < 1e-5, "{difference}");
    }
}
