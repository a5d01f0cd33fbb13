//! CNN branches beside a ViT: from the picture to its token grid, at stride 8.
//!
//! | branch | layers | state-dict prefix |
//! | --- | --- | --- |
//! | GSAM, ResNet-101 | stem, three stages, 1x1 | `conv1`, `bn1`, `res2`, `res3`, `res4`, `conv_f` |
//! | GSAM, light | three strided convolutions, 1x1 | `op_list.{0..2}`, `conv_f` |
//! | SAMUS | convolution, three of max-pool and convolution | `op_list.{0..3}` |

use burn::module::Module;
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::pool::MaxPool2dConfig;
use burn::nn::{BatchNorm, BatchNormConfig, PaddingConfig2d};
use burn::tensor::{Device, Tensor};
use kirie_nn::conv::conv_batch_norm;
use kirie_nn::resnet::Bottleneck;
use kirie_nn::{Activation, LayerNorm2d, LayerNorm2dConfig, conv2d};

/// A branch of any kind.
#[derive(Module, Debug)]
#[allow(clippy::large_enum_variant, reason = "there is one per model")]
pub enum CnnEmbed {
    /// GSAM's.
    Resnet(ResnetEmbed),
    /// kirie's own for GSAM.
    Light(LightEmbed),
    /// SAMUS's.
    Samus(SamusEmbed),
}

impl CnnEmbed {
    /// `[batch, 3, height, width]` to `[batch, D, about height / 8, about width / 8]`.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        match self {
            Self::Resnet(branch) => branch.forward(x),
            Self::Light(branch) => {
                let x = branch.op_list.iter().fold(x, |x, op| op.forward(x));
                conv2d(&branch.conv_f, x)
            }
            Self::Samus(branch) => branch.op_list.iter().enumerate().fold(x, |x, (i, op)| {
                let x = if i == 0 { x } else { halved(x) };
                op.forward(x)
            }),
        }
    }
}

/// A square convolution that keeps the size, or divides it by its stride.
fn conv([input, output]: [usize; 2], kernel: usize, stride: usize, device: &Device) -> Conv2d {
    let side = kernel / 2;
    Conv2dConfig::new([input, output], [kernel; 2])
        .with_stride([stride; 2])
        .with_padding(PaddingConfig2d::Explicit(side, side, side, side))
        .with_bias(false)
        .init(device)
}

/// The largest of every 2x2 pixels.
pub(super) fn halved(x: Tensor<4>) -> Tensor<4> {
    MaxPool2dConfig::new([2, 2]).with_strides([2, 2]).init().forward(x)
}

/// 3x3 convolution without bias, norm, GELU.
#[derive(Module, Debug)]
pub struct ConvNormGelu {
    /// The convolution.
    pub conv: Conv2d,
    /// The norm, over channels.
    pub norm: LayerNorm2d,
}

impl ConvNormGelu {
    /// By default initialisation.
    pub fn new(channels: [usize; 2], stride: usize, device: &Device) -> Self {
        Self {
            conv: conv(channels, 3, stride, device),
            norm: LayerNorm2dConfig::new(channels[1]).init(device),
        }
    }

    /// `[batch, in, height, width]` to `[batch, out, ..]`.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        Activation::Gelu.forward(self.norm.forward(conv2d(&self.conv, x)))
    }
}

/// Three strided convolutions, each with layer norm (which does not mind small batches) and GELU.
#[derive(Module, Debug)]
pub struct LightEmbed {
    /// To a twelfth, a sixth and a third of the tokens' width.
    pub op_list: Vec<ConvNormGelu>,
    /// 1x1 to the tokens' width.
    pub conv_f: Conv2d,
}

impl LightEmbed {
    /// For tokens of width `dim`.
    pub fn new(dim: usize, device: &Device) -> Self {
        let widths = [3, (dim / 12).max(4), (dim / 6).max(4), (dim / 3).max(4)];
        Self {
            op_list: widths.windows(2).map(|w| ConvNormGelu::new([w[0], w[1]], 2, device)).collect(),
            conv_f: conv([widths[3], dim], 1, 1, device),
        }
    }
}

/// SAMUS's branch: 64, 128, 256 and the tokens' width for ViT-B.
#[derive(Module, Debug)]
pub struct SamusEmbed {
    /// All but the first after a max-pool.
    pub op_list: Vec<ConvNormGelu>,
}

impl SamusEmbed {
    /// For tokens of width `dim`.
    pub fn new(dim: usize, device: &Device) -> Self {
        let widths = [3, (dim / 12).max(4), (dim / 6).max(4), (dim / 3).max(4), dim];
        Self { op_list: widths.windows(2).map(|w| ConvNormGelu::new([w[0], w[1]], 1, device)).collect() }
    }
}

/// ResNet-101 without max-pool up to its third stage, and a 1x1 convolution. (The published module also registers the fourth stage
/// and the classifier, 17,013,736 parameters that are never used.)
#[derive(Module, Debug)]
pub struct ResnetEmbed {
    /// 7x7, stride 2.
    pub conv1: Conv2d,
    /// Its norm.
    pub bn1: BatchNorm,
    /// torchvision's `layer1`.
    pub res2: Vec<Bottleneck>,
    /// torchvision's `layer2`, stride 2.
    pub res3: Vec<Bottleneck>,
    /// torchvision's `layer3`, stride 2.
    pub res4: Vec<Bottleneck>,
    /// 1x1 to the tokens' width.
    pub conv_f: Conv2d,
}

impl ResnetEmbed {
    /// ResNet-101's depths, for tokens of width `dim`.
    pub fn new(dim: usize, device: &Device) -> Self {
        let stage = |input: usize, width: usize, depth: usize, stride: usize| {
            (0..depth)
                .map(|i| {
                    let (input, stride) = if i == 0 { (input, stride) } else { (4 * width, 1) };
                    Bottleneck::new(input, width, stride, device)
                })
                .collect()
        };
        Self {
            conv1: conv([3, 64], 7, 2, device),
            bn1: BatchNormConfig::new(64).init(device),
            res2: stage(64, 64, 3, 1),
            res3: stage(256, 128, 4, 2),
            res4: stage(512, 256, 23, 2),
            conv_f: conv([1024, dim], 1, 1, device),
        }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let x = Activation::Relu.forward(conv_batch_norm(&self.conv1, &self.bn1, x));
        let stages = [&self.res2, &self.res3, &self.res4];
        let x = stages.into_iter().flatten().fold(x, |x, block| block.forward(x));
        conv2d(&self.conv_f, x)
    }

    /// The name that torchvision's ResNet-101 has for a parameter of this module, if it has it.
    pub fn torchvision_name(key: &str) -> Option<String> {
        for (ours, theirs) in [("res2.", "layer1."), ("res3.", "layer2."), ("res4.", "layer3.")] {
            if let Some(rest) = key.strip_prefix(ours) {
                return Some(format!("{theirs}{rest}"));
            }
        }
        (key.starts_with("conv1.") || key.starts_with("bn1.")).then(|| key.to_owned())
    }
}
