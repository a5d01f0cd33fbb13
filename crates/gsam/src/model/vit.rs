//! SAM's ViT with what the methods put into it.
//!
//! | stage | output | state-dict prefix | in |
//! | --- | --- | --- | --- |
//! | patch embedding, 16x16, stride 16 or 8 | `[B, h, w, D]` | `patch_embed.proj` | all |
//! | adapter on it | same | `input_Adapter` | SAMUS, GSAM |
//! | CNN branch | `[B, h, w, D]` | `cnn_embed` | SAMUS, GSAM |
//! | position: table | same | `pos_embed` | all but GSAM |
//! | position: the table brought to stride 8 | same | `post_pos_embed` | SAMUS |
//! | position: generator (after block 0) | same | `pos_embed.conv` | GSAM |
//! | blocks | same | `blocks.{i}` | all |
//! | neck | `[B, 256, h, w]` | `neck.{0,1,2,3}` | all |
//!
//! Inside the blocks tensors are `[batch, height, width, channels]`.
#![allow(non_snake_case, reason = "state-dict names")]

use burn::module::{Initializer, Module, Param};
use burn::nn::PaddingConfig2d;
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::tensor::{Device, Tensor};
use kirie_nn::adapters::{
    Bottleneck, BottleneckConfig, ConvLoraConfig, HeadLoraConfig, MultiScaleBottleneckConfig, QkvAdapter,
};
use kirie_nn::resize::{Interpolation, resize};
use kirie_nn::{Activation, AttentionConfig, MlpConfig, conv2d};
use kirie_sam::encoders::vit::PatchEmbed;
use kirie_sam::encoders::{Neck, VitConfig};

use super::attention::MapAttention;
use super::blocks::{Block, MlpAdapter, RefineAdapter, norm};
use super::cnn::{CnnEmbed, ConvNormGelu, LightEmbed, ResnetEmbed, SamusEmbed, halved};
use super::field::nearest;
use super::method::{AdaptFormer, AdapterInput, CnnBranch, ConvLora, Gsam, LoraGsam, MethodConfig};

/// SAM's ViT, at any height and width.
#[derive(Module, Debug)]
pub struct SemanticVit {
    /// Where a token is.
    pub pos_embed: Position,
    /// SAMUS: brings the table to stride 8.
    pub post_pos_embed: Option<ConvNormGelu>,
    /// Pixels to tokens.
    pub patch_embed: PatchEmbed,
    /// SAMUS, GSAM: on the tokens as they come in.
    pub input_Adapter: Option<Bottleneck>,
    /// SAMUS, GSAM: a second look at the picture.
    pub cnn_embed: Option<CnnEmbed>,
    /// Transformer blocks.
    pub blocks: Vec<Block>,
    /// To the embedding's width.
    pub neck: Neck,
    /// Pixels between tokens.
    stride: usize,
    /// What the CNN branch's tokens are multiplied by at the end.
    cnn_scale: f64,
}

/// Where a token is.
#[derive(Module, Debug)]
pub enum Position {
    /// SAM's table, `[1, grid, grid, D]`.
    Table(Param<Tensor<4>>),
    /// Position encoding generator: seen from its neighbours.
    Generator(PositionGenerator),
}

/// A depth-wise 3x3 convolution with bias; zeros beyond the border tell it where the border is. Key: `conv.*`.
#[derive(Module, Debug)]
pub struct PositionGenerator {
    /// `[C, 1, 3, 3]`.
    pub conv: Conv2d,
}

/// A depth-wise 3x3 convolution that keeps the size.
pub(super) fn depthwise(channels: usize, bias: bool, device: &Device) -> Conv2d {
    Conv2dConfig::new([channels; 2], [3, 3])
        .with_padding(PaddingConfig2d::Explicit(1, 1, 1, 1))
        .with_groups(channels)
        .with_bias(bias)
        .init(device)
}

impl SemanticVit {
    /// Parameters by default initialisation, made lazily.
    pub fn new(config: &VitConfig, method: &MethodConfig, device: &Device) -> Self {
        let dim = config.dim;
        let base_grid = config.image_size / config.patch;
        let stride_8 = method.is_stride_8();
        let (stride, grid) =
            if stride_8 { (config.patch / 2, base_grid / 2) } else { (config.patch, base_grid) };
        let is_gsam = matches!(method, MethodConfig::Gsam(_));
        let adapter = || BottleneckConfig { dim, hidden: dim / 4, activation: Activation::Gelu, zero: false };
        Self {
            pos_embed: if is_gsam {
                Position::Generator(PositionGenerator { conv: depthwise(dim, true, device) })
            } else {
                let table = Initializer::Normal { mean: 0.0, std: 0.02 };
                Position::Table(table.init([1, base_grid, base_grid, dim], device))
            },
            post_pos_embed: matches!(method, MethodConfig::Samus(_))
                .then(|| ConvNormGelu::new([dim; 2], 1, device)),
            patch_embed: PatchEmbed {
                proj: Conv2dConfig::new([3, dim], [config.patch; 2]).with_stride([stride; 2]).init(device),
            },
            input_Adapter: stride_8.then(|| adapter().init(device)),
            cnn_embed: match method {
                MethodConfig::Samus(_) => Some(CnnEmbed::Samus(SamusEmbed::new(dim, device))),
                MethodConfig::Gsam(Gsam { cnn: CnnBranch::Light, .. }) => {
                    Some(CnnEmbed::Light(LightEmbed::new(dim, device)))
                }
                MethodConfig::Gsam(_) => Some(CnnEmbed::Resnet(ResnetEmbed::new(dim, device))),
                _ => None,
            },
            blocks: (0..config.depth).map(|i| block(config, method, i, grid, device)).collect(),
            neck: Neck::new(dim, config.out_channels, device),
            stride,
            cnn_scale: match method {
                MethodConfig::Gsam(gsam) => gsam.scale,
                _ => 0.5,
            },
        }
    }

    /// `[batch, 3, height, width]` to the embedding `[batch, C, h, w]`: height and width over the stride, rounded down.
    ///
    /// At stride 8 the picture is first stretched so that the last patch ends with it, as the published code does for multiples of 8; what
    /// is left over at other sizes is taken in by the stretching, too. At stride 16 height and width should be multiples of it.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let [_, _, height, width] = x.dims();
        let [h, w] = [height, width].map(|side| (side / self.stride).max(1));
        let [_, _, patch, _] = self.patch_embed.proj.weight.lazy_shape().dims();
        // One pixel more than the stride per patch is what overlapping patches need; none where they only touch.
        let size = [h, w].map(|tokens| (tokens - 1) * self.stride + patch);
        let stretched = resize(x.clone(), size, Interpolation::Bilinear);
        let mut tokens = conv2d(&self.patch_embed.proj, stretched).permute([0, 2, 3, 1]);
        if let Some(adapter) = &self.input_Adapter {
            tokens = tokens.clone() + adapter.forward(tokens);
        }
        let mut side =
            self.cnn_embed.as_ref().map(|branch| nearest(branch.forward(x), [h, w]).permute([0, 2, 3, 1]));
        match &self.pos_embed {
            Position::Table(table) => {
                let mut table = table.val().permute([0, 3, 1, 2]);
                if let Some(post) = &self.post_pos_embed {
                    table = post.forward(halved(table));
                }
                tokens = tokens + resize(table, [h, w], Interpolation::Bilinear).permute([0, 2, 3, 1]);
            }
            Position::Generator(_) => {
                tokens = match &side {
                    Some(side) => tokens + side.clone(),
                    None => tokens,
                }
            }
        }
        for (i, block) in self.blocks.iter().enumerate() {
            (tokens, side) = block.forward(tokens, side);
            if let (0, Position::Generator(generator)) = (i, &self.pos_embed) {
                let map = tokens.clone().permute([0, 3, 1, 2]);
                tokens = tokens + conv2d(&generator.conv, map).permute([0, 2, 3, 1]);
            }
        }
        if let Some(side) = side {
            tokens = tokens + side * self.cnn_scale;
        }
        self.neck.forward(tokens.permute([0, 3, 1, 2]))
    }
}

/// Block `index`, with what the method puts there.
fn block(config: &VitConfig, method: &MethodConfig, index: usize, grid: usize, device: &Device) -> Block {
    let dim = config.dim;
    let head_dim = dim / config.heads;
    let global = config.global_blocks.contains(&index);
    let side = if global { grid } else { config.window };
    let head_adapter = || -> Option<QkvAdapter> {
        let width = |ratio: f64| ((head_dim as f64 * ratio) as usize).max(1);
        match method {
            MethodConfig::LoraGsam(LoraGsam { ratio, scale }) => {
                let rank = width(*ratio);
                let scale = scale / rank as f64;
                Some(QkvAdapter::Lora(HeadLoraConfig { head_dim, rank, scale }.init(device)))
            }
            MethodConfig::ConvLora(ConvLora { ratio, scale, experts }) => {
                let rank = width(*ratio);
                let config = ConvLoraConfig { head_dim, rank, scale: scale / rank as f64, experts: *experts };
                Some(QkvAdapter::Conv(config.init(device)))
            }
            _ => None,
        }
    };
    let quarter = BottleneckConfig { dim, hidden: dim / 4, activation: Activation::Gelu, zero: false };
    let (adapter, scale, residual_input) = match method {
        MethodConfig::AdaptFormer(AdaptFormer { hidden, activation, scale, input, zero }) => {
            let hidden = hidden.unwrap_or(dim / 4);
            let config = BottleneckConfig { dim, hidden, activation: (*activation).into(), zero: *zero };
            (Some(MlpAdapter::Plain(config.init(device))), *scale, *input == AdapterInput::Residual)
        }
        MethodConfig::Samus(_) if global => (Some(MlpAdapter::Plain(quarter.init(device))), 0.5, false),
        MethodConfig::Gsam(gsam) => {
            let config = MultiScaleBottleneckConfig {
                dim,
                hidden: dim / 4,
                dilations: gsam.dilations.clone(),
                zero_taps: gsam.zero_taps,
                zero: false,
            };
            (Some(MlpAdapter::MultiScale(config.init(device))), gsam.scale, false)
        }
        _ => (None, 0.0, false),
    };
    let samus = global && matches!(method, MethodConfig::Samus(_));
    let gsam = global && matches!(method, MethodConfig::Gsam(_));
    Block {
        norm1: norm(dim, device),
        attn: MapAttention::new(dim, config.heads, side, device),
        norm2: norm(dim, device),
        mlp: MlpConfig { dim, hidden: config.mlp_ratio * dim, activation: Activation::Gelu }.init(device),
        lora_q: head_adapter(),
        lora_k: head_adapter(),
        lora_v: head_adapter(),
        MLP_Adapter: adapter,
        refine_Adapter: gsam.then(|| RefineAdapter::new(dim, device)),
        Space_Adapter: samus
            .then(|| AttentionConfig { dim, inner_dim: dim, heads: config.heads }.init(device)),
        refine: samus.then(|| ConvNormGelu::new([dim; 2], 1, device)),
        window: (!global).then_some(config.window),
        pooled: match method {
            MethodConfig::Gsam(gsam) => gsam.pooled,
            _ => None,
        },
        scale,
        residual_input,
    }
}
