//! TinyViT, the encoder of MobileSAM (`tiny_vit_sam.py` of its repository).
//!
//! | stage | output at 1024 | state-dict prefix |
//! | --- | --- | --- |
//! | two 3x3 convolutions, stride 2 | `[B, 64, 256, 256]` | `patch_embed.seq.{0,2}` |
//! | convolutional stage, merge | `[B, 128, 128, 128]` | `layers.0` |
//! | windowed attention, merge | `[B, 160, 64, 64]` | `layers.1` |
//! | windowed attention, merge (stride 1) | `[B, 320, 64, 64]` | `layers.2` |
//! | windowed attention | same | `layers.3` |
//! | neck | `[B, 256, 64, 64]` | `neck.{0,1,2,3}` |
//!
//! `norm_head` and `head` are the classifier of its pre-training: part of every checkpoint, never used.

use burn::module::{Initializer, Module, Param};
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::{
    BatchNorm, BatchNormConfig, LayerNorm, LayerNormConfig, Linear, LinearConfig, PaddingConfig2d,
};
use burn::tensor::module::attention;
use burn::tensor::ops::AttentionModuleOptions;
use burn::tensor::{Device, Int, Tensor, TensorData};
use kirie_nn::conv::conv_batch_norm;
use kirie_nn::{Activation, layer_norm, linear};
use serde::{Deserialize, Serialize};

use super::{EncoderOutput, Neck, window_merge, window_partition};

/// Of the layer norms in the blocks.
pub(crate) const NORM_EPSILON: f64 = 1e-5;

/// Configuration of [`TinyVit`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TinyVitConfig {
    /// Widths of the four stages.
    pub dims: [usize; 4],
    /// Blocks of the four stages.
    pub depths: [usize; 4],
    /// Heads of the four stages (the first has no attention).
    pub heads: [usize; 4],
    /// Window sides of the four stages, tokens.
    pub windows: [usize; 4],
    /// Strides of the merges after the first three stages.
    pub merge_strides: [usize; 3],
    /// Outputs of the unused classifier.
    pub classes: usize,
    /// Channels of the embedding.
    pub out_channels: usize,
}

impl TinyVitConfig {
    /// TinyViT-5M as MobileSAM uses it.
    pub fn mobile_sam() -> Self {
        Self {
            dims: [64, 128, 160, 320],
            depths: [2, 2, 6, 2],
            heads: [2, 4, 5, 10],
            windows: [7, 7, 14, 7],
            merge_strides: [2, 2, 1],
            classes: 1000,
            out_channels: 256,
        }
    }

    /// Parameters by default initialisation.
    pub fn init(&self, device: &Device) -> TinyVit {
        let [first, .., last] = self.dims;
        let merge =
            |i: usize| PatchMerging::new(self.dims[i], self.dims[i + 1], self.merge_strides[i], device);
        TinyVit {
            patch_embed: PatchEmbed {
                seq: PatchEmbedSeq {
                    i0: ConvBn::new([3, first / 2], 3, 2, 1, device),
                    i2: ConvBn::new([first / 2, first], 3, 2, 1, device),
                },
            },
            layers: (0..4)
                .map(|i| {
                    let dim = self.dims[i];
                    if i == 0 {
                        Layer::Conv(ConvLayer {
                            blocks: (0..self.depths[0]).map(|_| MbConv::new(dim, device)).collect(),
                            downsample: merge(0),
                        })
                    } else {
                        Layer::Attention(AttentionLayer {
                            blocks: (0..self.depths[i])
                                .map(|_| Block::new(dim, self.heads[i], self.windows[i], device))
                                .collect(),
                            downsample: (i < 3).then(|| merge(i)),
                        })
                    }
                })
                .collect(),
            norm_head: LayerNormConfig::new(last).init(device),
            head: LinearConfig::new(last, self.classes).init(device),
            neck: Neck::new(last, self.out_channels, device),
        }
    }
}

/// The encoder.
#[derive(Module, Debug)]
pub struct TinyVit {
    /// Pixels to a quarter of the size.
    pub patch_embed: PatchEmbed,
    /// The four stages.
    pub layers: Vec<Layer>,
    /// Unused, kept because every checkpoint has it.
    pub norm_head: LayerNorm,
    /// Unused, kept because every checkpoint has it.
    pub head: Linear,
    /// To the embedding's width.
    pub neck: Neck,
}

impl TinyVit {
    /// `[batch, 3, size, size]` to the embedding; the early map is the second stage's output.
    pub fn forward(&self, x: Tensor<4>) -> EncoderOutput {
        let mut x = self.patch_embed.forward(x);
        let mut early = None;
        for (i, layer) in self.layers.iter().enumerate() {
            x = layer.forward(x);
            if i == 1 {
                early = Some(x.clone());
            }
        }
        EncoderOutput { embedding: self.neck.forward(x), early }
    }
}

/// Holder of the two convolutions, for the sake of their names.
#[derive(Module, Debug)]
pub struct PatchEmbed {
    /// The sequence.
    pub seq: PatchEmbedSeq,
}

impl PatchEmbed {
    /// `[batch, 3, size, size]` to `[batch, dims[0], size / 4, size / 4]`.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let seq = &self.seq;
        seq.i2.forward(Activation::Gelu.forward(seq.i0.forward(x)))
    }
}

/// Two strided convolutions with GELU between.
#[derive(Module, Debug)]
pub struct PatchEmbedSeq {
    /// To half the size.
    pub i0: ConvBn,
    /// To a quarter.
    pub i2: ConvBn,
}

/// Convolution without bias, batch norm (epsilon 1e-5). Keys: `c.weight`, `bn.*`.
#[derive(Module, Debug)]
pub struct ConvBn {
    /// The convolution.
    pub c: Conv2d,
    /// The norm.
    pub bn: BatchNorm,
}

impl ConvBn {
    fn new(channels: [usize; 2], kernel: usize, stride: usize, groups: usize, device: &Device) -> Self {
        let padding = kernel / 2;
        Self {
            c: Conv2dConfig::new(channels, [kernel; 2])
                .with_stride([stride; 2])
                .with_padding(PaddingConfig2d::Explicit(padding, padding, padding, padding))
                .with_groups(groups)
                .with_bias(false)
                .init(device),
            bn: BatchNormConfig::new(channels[1]).init(device),
        }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        conv_batch_norm(&self.c, &self.bn, x)
    }
}

/// A stage of either kind.
#[derive(Module, Debug)]
#[allow(clippy::large_enum_variant, reason = "there are four per model")]
pub enum Layer {
    /// Convolutions only.
    Conv(ConvLayer),
    /// Windowed attention.
    Attention(AttentionLayer),
}

impl Layer {
    /// One stage, with the merging of places that ends it. `[batch, channels, height, width]`.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        match self {
            Self::Conv(layer) => {
                let x = layer.blocks.iter().fold(x, |x, block| block.forward(x));
                layer.downsample.forward(x)
            }
            Self::Attention(layer) => {
                let x = layer.blocks.iter().fold(x, |x, block| block.forward(x));
                match &layer.downsample {
                    Some(merge) => merge.forward(x),
                    None => x,
                }
            }
        }
    }
}

/// The first stage.
#[derive(Module, Debug)]
pub struct ConvLayer {
    /// Its blocks.
    pub blocks: Vec<MbConv>,
    /// The merge after them.
    pub downsample: PatchMerging,
}

/// A stage with attention.
#[derive(Module, Debug)]
pub struct AttentionLayer {
    /// Its blocks.
    pub blocks: Vec<Block>,
    /// The merge after them.
    pub downsample: Option<PatchMerging>,
}

/// 1x1 to four times the width, 3x3 depthwise, 1x1 back, plus the input, then GELU.
#[derive(Module, Debug)]
pub struct MbConv {
    /// Widens.
    pub conv1: ConvBn,
    /// Depthwise.
    pub conv2: ConvBn,
    /// Narrows.
    pub conv3: ConvBn,
}

impl MbConv {
    fn new(dim: usize, device: &Device) -> Self {
        let hidden = 4 * dim;
        Self {
            conv1: ConvBn::new([dim, hidden], 1, 1, 1, device),
            conv2: ConvBn::new([hidden, hidden], 3, 1, hidden, device),
            conv3: ConvBn::new([hidden, dim], 1, 1, 1, device),
        }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let y = Activation::Gelu.forward(self.conv1.forward(x.clone()));
        let y = Activation::Gelu.forward(self.conv2.forward(y));
        Activation::Gelu.forward(x + self.conv3.forward(y))
    }
}

/// Halves the resolution (or keeps it) and widens.
#[derive(Module, Debug)]
pub struct PatchMerging {
    /// 1x1.
    pub conv1: ConvBn,
    /// 3x3 depthwise with the stride.
    pub conv2: ConvBn,
    /// 1x1.
    pub conv3: ConvBn,
}

impl PatchMerging {
    fn new(input: usize, output: usize, stride: usize, device: &Device) -> Self {
        Self {
            conv1: ConvBn::new([input, output], 1, 1, 1, device),
            conv2: ConvBn::new([output, output], 3, stride, output, device),
            conv3: ConvBn::new([output, output], 1, 1, 1, device),
        }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let x = Activation::Gelu.forward(self.conv1.forward(x));
        self.conv3.forward(Activation::Gelu.forward(self.conv2.forward(x)))
    }
}

/// Windowed attention, a depthwise convolution, an MLP.
#[derive(Module, Debug)]
pub struct Block {
    /// Attention with its norm inside.
    pub attn: BiasedAttention,
    /// MLP with its norm inside.
    pub mlp: NormedMlp,
    /// 3x3 depthwise between the two, without residual.
    pub local_conv: ConvBn,
    window: usize,
}

impl Block {
    /// Side of a window, tokens.
    pub fn window(&self) -> usize {
        self.window
    }

    fn new(dim: usize, heads: usize, window: usize, device: &Device) -> Self {
        Self {
            attn: BiasedAttention {
                attention_biases: Initializer::Zeros.init([heads, window * window], device),
                norm: LayerNormConfig::new(dim).with_epsilon(NORM_EPSILON).init(device),
                qkv: LinearConfig::new(dim, 3 * dim).init(device),
                proj: LinearConfig::new(dim, dim).init(device),
                heads,
                window,
            },
            mlp: NormedMlp {
                norm: LayerNormConfig::new(dim).with_epsilon(NORM_EPSILON).init(device),
                fc1: LinearConfig::new(dim, 4 * dim).init(device),
                fc2: LinearConfig::new(4 * dim, dim).init(device),
            },
            local_conv: ConvBn::new([dim, dim], 3, 1, dim, device),
            window,
        }
    }

    /// `[batch, C, height, width]` to the same shape.
    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let x = x.permute([0, 2, 3, 1]);
        let [batch, height, width, _] = x.dims();
        let attended = self.attn.forward(window_partition(x.clone(), self.window));
        let x = x + window_merge(attended, [batch, height, width]);
        let x = self.local_conv.forward(x.permute([0, 3, 1, 2])).permute([0, 2, 3, 1]);
        (x.clone() + self.mlp.forward(x)).permute([0, 3, 1, 2])
    }
}

/// Norm, linear, GELU, linear.
#[derive(Module, Debug)]
pub struct NormedMlp {
    /// Epsilon 1e-5.
    pub norm: LayerNorm,
    /// Widens by four.
    pub fc1: Linear,
    /// Back.
    pub fc2: Linear,
}

impl NormedMlp {
    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let hidden = linear(&self.fc1, layer_norm(&self.norm, NORM_EPSILON, x));
        linear(&self.fc2, Activation::Gelu.forward(hidden))
    }
}

/// Attention inside a window with a learned bias per head and distance.
///
/// The norm comes after the windows were padded, so padded tokens carry the norm's bias; they are not masked.
#[derive(Module, Debug)]
pub struct BiasedAttention {
    /// `[heads, window * window]`, indexed by `|dy| * window + |dx|`.
    pub attention_biases: Param<Tensor<2>>,
    /// Epsilon 1e-5.
    pub norm: LayerNorm,
    /// Per head queries, keys and values one after the other.
    pub qkv: Linear,
    /// Back.
    pub proj: Linear,
    heads: usize,
    window: usize,
}

impl BiasedAttention {
    /// Number of heads.
    pub fn heads(&self) -> usize {
        self.heads
    }

    /// `[windows, side, side, C]` to the same shape.
    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let [windows, side, _, dim] = x.dims();
        let (heads, head_dim, tokens) = (self.heads, dim / self.heads, side * side);
        let device = x.device();
        let qkv = linear(&self.qkv, layer_norm(&self.norm, NORM_EPSILON, x))
            .reshape([windows, tokens, heads, 3 * head_dim])
            .swap_dims(1, 2);
        let part = |i: usize| qkv.clone().narrow(3, i * head_dim, head_dim);
        let bias = self
            .attention_biases
            .val()
            .select(1, distance_index(self.window, &device))
            .reshape([1, heads, tokens, tokens])
            .expand([windows, heads, tokens, tokens]);
        let out = attention(part(0), part(1), part(2), None, Some(bias), AttentionModuleOptions::default());
        linear(&self.proj, out.swap_dims(1, 2).reshape([windows, side, side, dim]))
    }
}

/// For every pair of tokens of a window the column of the bias table, `[tokens * tokens]`.
fn distance_index(window: usize, device: &Device) -> Tensor<1, Int> {
    let index: Vec<i32> = distances(window).map(|d| d as i32).collect();
    let pairs = index.len();
    Tensor::from_data(TensorData::new(index, [pairs]), device)
}

/// The same as numbers.
pub(crate) fn distances(window: usize) -> impl Iterator<Item = usize> {
    let tokens = window * window;
    (0..tokens * tokens).map(move |pair| {
        let (a, b) = (pair / tokens, pair % tokens);
        let dy = (a / window).abs_diff(b / window);
        let dx = (a % window).abs_diff(b % window);
        dy * window + dx
    })
}
