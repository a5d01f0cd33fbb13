//! ResNet (He et al. 2016) as torchvision builds and names it.
//!
//! | part | shape for `[B, 3, H, W]` | state-dict prefix |
//! | --- | --- | --- |
//! | stem | `[B, w, H/2, W/2]`, CIFAR `[B, w, H, W]` | `conv1`, `bn1` |
//! | max-pool 3x3, stride 2 (not CIFAR) | `[B, w, H/4, W/4]` | |
//! | stage 1 | same | `layer1` |
//! | stages 2 to 4, each stride 2 | `[B, 2w ..]`, `[B, 4w ..]`, `[B, 8w ..]` | `layer2` .. `layer4` |
//! | mean over places | `[B, 8w]`, bottleneck `[B, 32w]` | |
//!
//! `w` is 64. The classifier `fc` is left to who needs one.

use burn::module::{Initializer, Module};
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::pool::MaxPool2dConfig;
use burn::nn::{BatchNorm, BatchNormConfig, PaddingConfig2d};
use burn::tensor::{Device, Tensor};

use crate::{Activation, conv::conv_batch_norm, count};

/// What comes before the first stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stem {
    /// 7x7 convolution of stride 2, and max-pool of stride 2: for pictures of 224 pixels.
    ImageNet,
    /// 3x3 convolution of stride 1: for pictures of 32 pixels (SimCLR, appendix B.9).
    Cifar,
}

/// Configuration of [`ResNet`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResNetConfig {
    /// Blocks of the four stages.
    pub depths: [usize; 4],
    /// Whether blocks are bottlenecks (three convolutions) or basic (two).
    pub bottleneck: bool,
    /// Width of the first stage; 64 in the published networks.
    pub width: usize,
    /// What comes before the first stage.
    pub stem: Stem,
}

impl ResNetConfig {
    /// ResNet-18.
    pub fn resnet18(stem: Stem) -> Self {
        Self { depths: [2, 2, 2, 2], bottleneck: false, width: 64, stem }
    }

    /// ResNet-50.
    pub fn resnet50(stem: Stem) -> Self {
        Self { depths: [3, 4, 6, 3], bottleneck: true, width: 64, stem }
    }

    /// Length of the pooled features.
    pub fn features(&self) -> usize {
        8 * self.width * if self.bottleneck { Bottleneck::EXPANSION } else { 1 }
    }

    /// Convolutions by He's rule (normal, fan out), as torchvision; norms of one and zero.
    pub fn init(&self, device: &Device) -> ResNet {
        let mut input = self.width;
        let mut stage = |i: usize| {
            let width = self.width << i;
            let stride = if i == 0 { 1 } else { 2 };
            (0..self.depths[i])
                .map(|n| {
                    let stride = if n == 0 { stride } else { 1 };
                    let block = if self.bottleneck {
                        Block::Bottleneck(Bottleneck::new(input, width, stride, device))
                    } else {
                        Block::Basic(BasicBlock::new(input, width, stride, device))
                    };
                    input = if self.bottleneck { Bottleneck::EXPANSION * width } else { width };
                    block
                })
                .collect()
        };
        let (kernel, stride) = match self.stem {
            Stem::ImageNet => (7, 2),
            Stem::Cifar => (3, 1),
        };
        let [layer1, layer2, layer3, layer4] = [0, 1, 2, 3].map(&mut stage);
        ResNet {
            conv1: square_conv([3, self.width], kernel, stride, device),
            bn1: BatchNormConfig::new(self.width).init(device),
            layer1,
            layer2,
            layer3,
            layer4,
            pooled_stem: self.stem == Stem::ImageNet,
        }
    }
}

/// A ResNet without its classifier. Keys: those of torchvision.
#[derive(Module, Debug)]
pub struct ResNet {
    /// The stem's convolution.
    pub conv1: Conv2d,
    /// Its norm.
    pub bn1: BatchNorm,
    /// First stage.
    pub layer1: Vec<Block>,
    /// Second stage, stride 2.
    pub layer2: Vec<Block>,
    /// Third stage, stride 2.
    pub layer3: Vec<Block>,
    /// Fourth stage, stride 2.
    pub layer4: Vec<Block>,
    #[module(skip)]
    pooled_stem: bool,
}

impl ResNet {
    /// `[batch, 3, height, width]` to the last stage's map.
    pub fn feature_map(&self, x: Tensor<4>) -> Tensor<4> {
        let mut x = Activation::Relu.forward(conv_batch_norm(&self.conv1, &self.bn1, x));
        if self.pooled_stem {
            x = pool(x);
        }
        let stages = [&self.layer1, &self.layer2, &self.layer3, &self.layer4];
        stages.into_iter().flatten().fold(x, |x, block| block.forward(x))
    }

    /// `[batch, 3, height, width]` to the mean of the last map, `[batch, features]`.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<2> {
        spatial_mean(self.feature_map(x))
    }
}

/// `[batch, channels, height, width]` to the mean over all places, `[batch, channels]`.
pub fn spatial_mean(x: Tensor<4>) -> Tensor<2> {
    let [batch, channels, height, width] = x.dims();
    x.reshape([batch, channels, height * width]).mean_dim(2).reshape([batch, channels])
}

fn pool(x: Tensor<4>) -> Tensor<4> {
    if count::is_dry() {
        let [batch, channels, height, width] = x.dims();
        return count::zeros([batch, channels, height.div_ceil(2), width.div_ceil(2)], &x.device());
    }
    MaxPool2dConfig::new([3, 3])
        .with_strides([2, 2])
        .with_padding(PaddingConfig2d::Explicit(1, 1, 1, 1))
        .init()
        .forward(x)
}

/// A square convolution without bias that keeps the size, or divides it by its stride.
fn square_conv([input, output]: [usize; 2], kernel: usize, stride: usize, device: &Device) -> Conv2d {
    let side = kernel / 2;
    Conv2dConfig::new([input, output], [kernel; 2])
        .with_stride([stride; 2])
        .with_padding(PaddingConfig2d::Explicit(side, side, side, side))
        .with_bias(false)
        .with_initializer(Initializer::KaimingNormal { gain: 2.0_f64.sqrt(), fan_out_only: true })
        .init(device)
}

/// A block of either kind.
#[derive(Module, Debug)]
#[allow(clippy::large_enum_variant, reason = "a network has few, all of one kind")]
pub enum Block {
    /// Of ResNet-18 and 34.
    Basic(BasicBlock),
    /// Of ResNet-50 and deeper.
    Bottleneck(Bottleneck),
}

impl Block {
    /// `[batch, in, height, width]` to `[batch, out, height / stride, width / stride]`.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        match self {
            Self::Basic(block) => block.forward(x),
            Self::Bottleneck(block) => block.forward(x),
        }
    }
}

/// Two 3x3 convolutions beside a shortcut.
#[derive(Module, Debug)]
pub struct BasicBlock {
    /// 3x3, stride.
    pub conv1: Conv2d,
    /// Norm.
    pub bn1: BatchNorm,
    /// 3x3.
    pub conv2: Conv2d,
    /// Norm.
    pub bn2: BatchNorm,
    /// For the first block of a stage.
    pub downsample: Option<Shortcut>,
}

impl BasicBlock {
    /// From `input` channels to `width`.
    pub fn new(input: usize, width: usize, stride: usize, device: &Device) -> Self {
        Self {
            conv1: square_conv([input, width], 3, stride, device),
            bn1: BatchNormConfig::new(width).init(device),
            conv2: square_conv([width, width], 3, 1, device),
            bn2: BatchNormConfig::new(width).init(device),
            downsample: Shortcut::where_needed(input, width, stride, device),
        }
    }

    /// See [`Block::forward`].
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let y = Activation::Relu.forward(conv_batch_norm(&self.conv1, &self.bn1, x.clone()));
        let y = conv_batch_norm(&self.conv2, &self.bn2, y);
        Activation::Relu.forward(Shortcut::forward(self.downsample.as_ref(), x) + y)
    }
}

/// 1x1, 3x3 and 1x1 convolutions beside a shortcut; the stride is in the 3x3 (torchvision's, "ResNet 1.5").
#[derive(Module, Debug)]
pub struct Bottleneck {
    /// 1x1.
    pub conv1: Conv2d,
    /// Norm.
    pub bn1: BatchNorm,
    /// 3x3, stride.
    pub conv2: Conv2d,
    /// Norm.
    pub bn2: BatchNorm,
    /// 1x1 to four times the width.
    pub conv3: Conv2d,
    /// Norm.
    pub bn3: BatchNorm,
    /// For the first block of a stage.
    pub downsample: Option<Shortcut>,
}

impl Bottleneck {
    /// Output channels over the width.
    pub const EXPANSION: usize = 4;

    /// From `input` channels to four times `width`.
    pub fn new(input: usize, width: usize, stride: usize, device: &Device) -> Self {
        let norm = |channels: usize| BatchNormConfig::new(channels).init(device);
        let output = Self::EXPANSION * width;
        Self {
            conv1: square_conv([input, width], 1, 1, device),
            bn1: norm(width),
            conv2: square_conv([width, width], 3, stride, device),
            bn2: norm(width),
            conv3: square_conv([width, output], 1, 1, device),
            bn3: norm(output),
            downsample: Shortcut::where_needed(input, output, stride, device),
        }
    }

    /// See [`Block::forward`].
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let relu = |x| Activation::Relu.forward(x);
        let y = relu(conv_batch_norm(&self.conv1, &self.bn1, x.clone()));
        let y = relu(conv_batch_norm(&self.conv2, &self.bn2, y));
        let y = conv_batch_norm(&self.conv3, &self.bn3, y);
        relu(Shortcut::forward(self.downsample.as_ref(), x) + y)
    }
}

/// 1x1 convolution and norm, where a block changes the shape. Keys: `0.*`, `1.*`.
#[derive(Module, Debug)]
pub struct Shortcut {
    /// 1x1, stride.
    pub i0: Conv2d,
    /// Norm.
    pub i1: BatchNorm,
}

impl Shortcut {
    fn where_needed(input: usize, output: usize, stride: usize, device: &Device) -> Option<Self> {
        (stride != 1 || input != output).then(|| Self {
            i0: square_conv([input, output], 1, stride, device),
            i1: BatchNormConfig::new(output).init(device),
        })
    }

    fn forward(shortcut: Option<&Self>, x: Tensor<4>) -> Tensor<4> {
        match shortcut {
            Some(shortcut) => conv_batch_norm(&shortcut.i0, &shortcut.i1, x),
            None => x,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Parameters of torchvision's models without `fc` (11,689,512 - 513,000 and 25,557,032 - 2,049,000).
    #[test]
    fn parameters_are_torchvisions() {
        let device = Device::flex();
        // Running statistics count as parameters of a module in Burn: 4,800 and 26,560 channels, two each.
        for (config, parameters, channels) in [
            (ResNetConfig::resnet18(Stem::ImageNet), 11_176_512, 4_800),
            (ResNetConfig::resnet50(Stem::ImageNet), 23_508_032, 26_560),
        ] {
            let found = config.init(&device).num_params();
            assert_eq!(found, parameters + 2 * channels, "{config:?}");
        }
    }

    #[test]
    fn strides_are_32_and_8() {
        let device = Device::flex();
        for (stem, side) in [(Stem::ImageNet, 2), (Stem::Cifar, 8)] {
            let config = ResNetConfig { width: 4, ..ResNetConfig::resnet18(stem) };
            let map = config.init(&device).feature_map(Tensor::ones([1, 3, 64, 64], &device));
            assert_eq!(map.dims(), [1, 32, side, side]);
        }
        let config = ResNetConfig { width: 2, depths: [1; 4], ..ResNetConfig::resnet50(Stem::Cifar) };
        let features = config.init(&device).forward(Tensor::ones([2, 3, 17, 9], &device));
        assert_eq!(features.dims(), [2, config.features()]);
    }
}
