//! The convolutional blocks of EfficientViT (`nn/ops.py` of its repository).

use burn::module::Module;
use burn::tensor::{Device, Tensor};

use crate::{Activation, ConvNorm, ConvNormConfig};

/// Configuration of [`ResBlock`].
#[derive(Clone, Debug)]
pub struct ResBlockConfig {
    /// Input and output channels.
    pub channels: [usize; 2],
    /// Step of the first convolution.
    pub stride: usize,
    /// Activation after the first convolution.
    pub activation: Activation,
}

impl ResBlockConfig {
    /// Parameters by default initialisation.
    pub fn init(&self, device: &Device) -> ResBlock {
        let [input, output] = self.channels;
        ResBlock {
            conv1: ConvNormConfig::new([input, input], 3)
                .stride(self.stride)
                .activation(self.activation)
                .init(device),
            conv2: ConvNormConfig::new([input, output], 3).init(device),
        }
    }
}

/// Two 3x3 convolutions with batch norm; the residual is added outside.
#[derive(Module, Debug)]
pub struct ResBlock {
    /// 3x3, stride, norm, activation.
    pub conv1: ConvNorm,
    /// 3x3, norm.
    pub conv2: ConvNorm,
}

impl ResBlock {
    /// `[batch, in, height, width]` to `[batch, out, height / stride, width / stride]`.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        self.conv2.forward(self.conv1.forward(x))
    }
}

/// Configuration of [`FusedMbConv`].
#[derive(Clone, Debug)]
pub struct FusedMbConvConfig {
    /// Input and output channels.
    pub channels: [usize; 2],
    /// Width between the two convolutions.
    pub hidden: usize,
    /// Step of the first convolution.
    pub stride: usize,
    /// Activation after the first convolution.
    pub activation: Activation,
}

impl FusedMbConvConfig {
    /// Parameters by default initialisation.
    pub fn init(&self, device: &Device) -> FusedMbConv {
        let [input, output] = self.channels;
        FusedMbConv {
            spatial_conv: ConvNormConfig::new([input, self.hidden], 3)
                .stride(self.stride)
                .activation(self.activation)
                .init(device),
            point_conv: ConvNormConfig::new([self.hidden, output], 1).init(device),
        }
    }
}

/// 3x3 convolution to the hidden width, 1x1 back; the residual is added outside.
#[derive(Module, Debug)]
pub struct FusedMbConv {
    /// 3x3, stride, norm, activation.
    pub spatial_conv: ConvNorm,
    /// 1x1, norm.
    pub point_conv: ConvNorm,
}

impl FusedMbConv {
    /// `[batch, in, height, width]` to `[batch, out, height / stride, width / stride]`.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        self.point_conv.forward(self.spatial_conv.forward(x))
    }
}

/// Configuration of [`MbConv`].
#[derive(Clone, Debug)]
pub struct MbConvConfig {
    /// Input and output channels.
    pub channels: [usize; 2],
    /// Width of the depthwise convolution.
    pub hidden: usize,
    /// Step of the depthwise convolution.
    pub stride: usize,
    /// Activation after the first two convolutions.
    pub activation: Activation,
    /// `true`: only the last convolution has batch norm, the others a bias (the reference's `fewer_norm`).
    pub fewer_norm: bool,
}

impl MbConvConfig {
    /// Parameters by default initialisation.
    pub fn init(&self, device: &Device) -> MbConv {
        let [input, output] = self.channels;
        let normed = |config: ConvNormConfig| if self.fewer_norm { config.bias_only() } else { config };
        MbConv {
            inverted_conv: normed(ConvNormConfig::new([input, self.hidden], 1).activation(self.activation))
                .init(device),
            depth_conv: normed(
                ConvNormConfig::new([self.hidden, self.hidden], 3)
                    .depthwise()
                    .stride(self.stride)
                    .activation(self.activation),
            )
            .init(device),
            point_conv: ConvNormConfig::new([self.hidden, output], 1).init(device),
        }
    }
}

/// 1x1 to the hidden width, 3x3 depthwise, 1x1 back; the residual is added outside.
#[derive(Module, Debug)]
pub struct MbConv {
    /// 1x1, activation.
    pub inverted_conv: ConvNorm,
    /// 3x3 depthwise, stride, activation.
    pub depth_conv: ConvNorm,
    /// 1x1, norm.
    pub point_conv: ConvNorm,
}

impl MbConv {
    /// `[batch, in, height, width]` to `[batch, out, height / stride, width / stride]`.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        self.point_conv.forward(self.depth_conv.forward(self.inverted_conv.forward(x)))
    }
}
