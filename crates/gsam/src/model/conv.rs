//! The convolutional encoders of EfficientViT-SAM, and kirie-small's, with adapters, at any height and width.
//!
//! | stage | output | state-dict prefix |
//! | --- | --- | --- |
//! | stages, each halving the size | `[B, C_i, H / 2^i, W / 2^i]` | `backbone.stages.{i}` |
//! | adapters on the stages | same | `MLP_Adapter.stages.{i}.{j}` |
//! | the last three, summed; blocks | `[B, C, H / s, W / s]` | `neck` |
//! | adapters on the neck | same | `MLP_Adapter.neck.{j}` |
//! | norm | same | `norm` |
//!
//! GSAM's economy comes from small crops and few trained parameters. A convolutional encoder takes any size by nature and has eyes
//! for detail already, so of GSAM's parts it needs neither the CNN branch nor pooled keys: what it gets is a multi-scale adapter after
//! each stage and after the neck, and a position generator in the decoder. All adapters begin with an output of zero: the first step
//! starts from the base.
#![allow(non_snake_case, reason = "state-dict names")]

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use kirie_nn::LayerNorm2d;
use kirie_nn::adapters::{Bottleneck, BottleneckConfig, MultiScaleBottleneck, MultiScaleBottleneckConfig};
use kirie_nn::resize::{Interpolation, resize};
use kirie_sam::encoders::EfficientVitConfig;
use kirie_sam::encoders::efficientvit::{Backbone, Block, EfficientVit, Op, SamNeck};

use super::method::MethodConfig;

/// Pixels that a dilation of 1 stands for in [`super::method::Gsam::dilations`].
const DILATION_PIXELS: usize = 8;

/// The encoder.
#[derive(Module, Debug)]
pub struct ConvEncoder {
    /// Stages from the stem on.
    pub backbone: Backbone,
    /// Fuses the last three stages.
    pub neck: SamNeck,
    /// The final norm.
    pub norm: LayerNorm2d,
    /// What the method adds.
    pub MLP_Adapter: Option<ConvAdapters>,
    /// Pixels between the places of the embedding.
    stride: usize,
    scale: f64,
}

/// Adapters of all stages; the stem has none.
#[derive(Module, Debug)]
pub struct ConvAdapters {
    /// For each stage those after its last blocks.
    pub stages: Vec<Vec<ConvAdapter>>,
    /// Those after the neck's last blocks.
    pub neck: Vec<ConvAdapter>,
}

/// An adapter after a block; its output is added.
#[derive(Module, Debug)]
#[allow(clippy::large_enum_variant, reason = "a few dozen per model")]
pub enum ConvAdapter {
    /// AdaptFormer's.
    Plain(Bottleneck),
    /// SM-AdaptFormer.
    MultiScale(MultiScaleBottleneck),
}

impl ConvAdapter {
    fn forward(&self, x: Tensor<4>, scale: f64) -> Tensor<4> {
        let last = x.clone().permute([0, 2, 3, 1]);
        let y = match self {
            Self::Plain(adapter) => adapter.forward(last),
            Self::MultiScale(adapter) => adapter.forward(last),
        };
        x + y.permute([0, 3, 1, 2]) * scale
    }
}

impl ConvEncoder {
    /// Parameters by default initialisation, made lazily. `stride` is that of the embedding, pixels.
    pub fn new(config: &EfficientVitConfig, method: &MethodConfig, stride: usize, device: &Device) -> Self {
        let EfficientVit { backbone, neck, norm } = config.init(device);
        Self {
            MLP_Adapter: adapters(config, method, stride, device),
            backbone,
            neck,
            norm,
            stride,
            scale: match method {
                MethodConfig::AdaptFormer(adapter) => adapter.scale,
                MethodConfig::Gsam(gsam) => gsam.scale,
                _ => 0.0,
            },
        }
    }

    /// Pixels between the places of the embedding.
    pub fn stride(&self) -> usize {
        self.stride
    }

    /// What height and width have to be multiples of.
    pub fn multiple(&self) -> usize {
        1 << self.backbone.stages.len()
    }

    /// `[batch, 3, height, width]`, both multiples of [`Self::multiple`], to `[batch, C, height / stride, width / stride]`.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let [_, _, height, width] = x.dims();
        let size = [height / self.stride, width / self.stride];
        let none: &[ConvAdapter] = &[];
        let of_stage =
            |i: usize| self.MLP_Adapter.as_ref().and_then(|a| a.stages.get(i)).map_or(none, Vec::as_slice);
        let mut outputs = Vec::with_capacity(self.backbone.stages.len());
        let mut x = x;
        for (i, stage) in self.backbone.stages.iter().enumerate() {
            x = self.run(x, &stage.op_list, of_stage(i), Op::forward);
            outputs.push(x.clone());
        }
        let mut sum: Option<Tensor<4>> = None;
        for (stage, op) in outputs.into_iter().rev().zip(&self.neck.input_ops) {
            let part = resize(op.forward(stage), size, Interpolation::Bicubic);
            sum = Some(match sum {
                Some(sum) => sum + part,
                None => part,
            });
        }
        let x = sum.unwrap_or(x);
        let of_neck = self.MLP_Adapter.as_ref().map_or(none, |a| a.neck.as_slice());
        let x = self.run(x, &self.neck.middle.op_list, of_neck, Block::forward);
        self.norm.forward(self.neck.output_ops.iter().fold(x, |x, op| op.forward(x)))
    }

    /// Blocks with adapters after the last of them, one each.
    fn run<B>(
        &self,
        x: Tensor<4>,
        blocks: &[B],
        adapters: &[ConvAdapter],
        forward: impl Fn(&B, Tensor<4>) -> Tensor<4>,
    ) -> Tensor<4> {
        let bare = blocks.len().saturating_sub(adapters.len());
        blocks.iter().enumerate().fold(x, |x, (i, block)| {
            let x = forward(block, x);
            match i.checked_sub(bare).and_then(|i| adapters.get(i)) {
                Some(adapter) => adapter.forward(x, self.scale),
                None => x,
            }
        })
    }
}

/// AdaptFormer: after every block. GSAM: after the last of each stage and of the neck.
fn adapters(
    config: &EfficientVitConfig,
    method: &MethodConfig,
    stride: usize,
    device: &Device,
) -> Option<ConvAdapters> {
    let quarter = |dim: usize| (dim / 4).max(4);
    let make = |dim: usize, pixels: usize| match method {
        MethodConfig::AdaptFormer(adapter) => {
            let hidden = adapter.hidden.unwrap_or(quarter(dim));
            let config = BottleneckConfig { dim, hidden, activation: adapter.activation.into(), zero: true };
            Some(ConvAdapter::Plain(config.init(device)))
        }
        MethodConfig::Gsam(gsam) => {
            let places = |d: &usize| (d * DILATION_PIXELS / pixels).max(1);
            let config = MultiScaleBottleneckConfig {
                dim,
                hidden: quarter(dim),
                dilations: gsam.dilations.iter().map(places).collect(),
                zero_taps: gsam.zero_taps,
                zero: true,
            };
            Some(ConvAdapter::MultiScale(config.init(device)))
        }
        _ => None,
    };
    let every_block = match method {
        MethodConfig::AdaptFormer(_) => true,
        MethodConfig::Gsam(_) => false,
        _ => return None,
    };
    let count = |blocks: usize| if every_block { blocks } else { blocks.min(1) };
    let stages = config.stages.iter().enumerate().map(|(i, stage)| {
        let blocks = if i == 0 { 0 } else { count(stage.depth + 1) };
        (0..blocks).filter_map(|_| make(stage.width, 2 << i)).collect()
    });
    let neck = (0..count(config.neck_depth)).filter_map(|_| make(config.out_channels, stride));
    Some(ConvAdapters { stages: stages.collect(), neck: neck.collect() })
}
