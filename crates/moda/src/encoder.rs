//! The frozen encoder, with adapters inside it where a kind puts them there.
//!
//! | encoder | stages that the router reads | places for adapters |
//! | --- | --- | --- |
//! | EfficientViT and kirie-small | outputs of the stages after the stem | after each block of those stages |
//! | TinyViT | outputs of the four stages | after each stage |
//! | ViT | inputs of the blocks | beside each block's MLP |
//!
//! An adapter begins with an output of zero, so the first step starts from the base.

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param, Reparameterization};
use burn::tensor::{Device, Tensor};
use kirie_nn::Activation;
use kirie_nn::adapters::{
    Bottleneck, BottleneckConfig, LowRank, LowRankConfig, MultiScaleBottleneck, MultiScaleBottleneckConfig,
};
use kirie_sam::checkpoint::KeyPath;
use kirie_sam::encoders::{EncoderConfig, ImageEncoder};
use regex::Regex;
use serde::{Deserialize, Serialize};

use crate::error::ContinualError;

/// What the encoder makes of pictures.
#[derive(Clone, Debug)]
pub struct Features {
    /// The image embedding, `[batch, C, S, S]`.
    pub embedding: Tensor<4>,
    /// A map of detail at the embedding's resolution, `[batch, C', S, S]`: the encoder's own early map, or, for EfficientViT, the
    /// output of its shallowest stage of that resolution.
    pub early: Option<Tensor<4>>,
    /// What the router reads, shallowest first, `[batch, channels, height, width]` each; see the module.
    pub stages: Vec<Tensor<4>>,
}

/// Adapters inside the encoder.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum EncoderKind {
    /// Products of two thin matrices on the projections of attention and on 1x1 convolutions (LoRA).
    Lora {
        /// Width of the matrices.
        rank: usize,
    },
    /// AdaptFormer's bottlenecks, scaled by 0.1.
    AdaptFormer {
        /// Width of a bottleneck over that of its input; at least 4 channels.
        ratio: f64,
    },
    /// GSAM's multi-scale bottlenecks, scaled by 0.1.
    Gsam {
        /// Width of a bottleneck over that of its input; at least 4 channels.
        ratio: f64,
    },
}

/// What an adapter's output is multiplied by, as AdaptFormer and GSAM have it.
const SCALE: f64 = 0.1;
/// Dilations of GSAM's convolutions, in places of the map.
const DILATIONS: [usize; 2] = [2, 4];
/// Weights that LoRA changes.
const LORA_TARGETS: &str = r"attn\.qkv\.weight$|context_module\.main\.(qkv|proj)\.conv\.weight$|(inverted_conv|point_conv)\.conv\.weight$";

/// Adapters inside the encoder. Keys: `sites.{i}.*` in the order of the blocks, `low_rank.{i}.{a,b}` in the order of the weights.
#[derive(Module, Debug)]
pub struct EncoderAdapter {
    /// One for each place; see the module.
    pub sites: Vec<Site>,
    /// One for each weight of `targets`.
    pub low_rank: Vec<LowRank>,
    /// Names of the encoder's weights that are changed.
    #[module(skip)]
    targets: Vec<String>,
}

/// An adapter at a place; its output is added.
#[derive(Module, Debug)]
#[allow(clippy::large_enum_variant, reason = "a few dozen per model")]
pub enum Site {
    /// AdaptFormer's.
    Plain(Bottleneck),
    /// GSAM's.
    MultiScale(MultiScaleBottleneck),
}

impl Site {
    fn new(kind: EncoderKind, dim: usize, device: &Device) -> Option<Self> {
        let hidden = |ratio: f64| ((dim as f64 * ratio) as usize).max(4);
        match kind {
            EncoderKind::Lora { .. } => None,
            EncoderKind::AdaptFormer { ratio } => Some(Self::Plain(
                BottleneckConfig { dim, hidden: hidden(ratio), activation: Activation::Relu, zero: true }
                    .init(device),
            )),
            EncoderKind::Gsam { ratio } => Some(Self::MultiScale(
                MultiScaleBottleneckConfig {
                    dim,
                    hidden: hidden(ratio),
                    dilations: DILATIONS.to_vec(),
                    zero_taps: true,
                    zero: true,
                }
                .init(device),
            )),
        }
    }

    /// `[batch, height, width, channels]` to the same shape.
    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        SCALE
            * match self {
                Self::Plain(adapter) => adapter.forward(x),
                Self::MultiScale(adapter) => adapter.forward(x),
            }
    }

    /// `[batch, channels, height, width]`, with the adapter's output added.
    fn after(site: Option<&Self>, x: Tensor<4>) -> Tensor<4> {
        match site {
            Some(site) => x.clone() + site.forward(x.permute([0, 2, 3, 1])).permute([0, 3, 1, 2]),
            None => x,
        }
    }
}

impl EncoderAdapter {
    /// Adapters for an encoder, which change nothing yet.
    ///
    /// # Errors
    /// A rank of zero, a ratio that is no share, an encoder without a weight that LoRA changes.
    pub fn new(
        kind: EncoderKind,
        config: &EncoderConfig,
        encoder: &ImageEncoder,
        device: &Device,
    ) -> Result<Self, ContinualError> {
        match kind {
            EncoderKind::Lora { rank: 0 } => {
                return Err(ContinualError::setting("adapter.encoder.rank", 0, "1 or more"));
            }
            EncoderKind::AdaptFormer { ratio } | EncoderKind::Gsam { ratio }
                if !(ratio > 0.0 && ratio <= 4.0) =>
            {
                return Err(ContinualError::setting("adapter.encoder.ratio", ratio, "above 0, at most 4"));
            }
            _ => {}
        }
        let dims: Vec<usize> = match config {
            EncoderConfig::Vit(vit) => vec![vit.dim; vit.depth],
            EncoderConfig::TinyVit(tiny) => {
                let after = |i: usize| tiny.dims[(i + 1).min(3)];
                (0..4).map(after).collect()
            }
            EncoderConfig::EfficientVit(vit) => {
                let blocks = vit.stages.iter().skip(1);
                blocks.flat_map(|stage| vec![stage.width; stage.depth + 1]).collect()
            }
        };
        let sites = dims.iter().filter_map(|dim| Site::new(kind, *dim, device)).collect();
        let (mut targets, mut low_rank) = (Vec::new(), Vec::new());
        if let EncoderKind::Lora { rank } = kind {
            for (name, [input, output]) in targets_of(encoder) {
                // Queries and values of a joint projection, as LoRA's paper recommends.
                let parts = if name.ends_with("attn.qkv.weight") && output.is_multiple_of(3) {
                    vec![true, false, true]
                } else {
                    vec![true]
                };
                let config = LowRankConfig { input, output, parts, rank, alpha: rank as f64 };
                low_rank.push(config.init(device));
                targets.push(name);
            }
            if targets.is_empty() {
                let expected = "an encoder with projections of attention or 1x1 convolutions";
                return Err(ContinualError::setting("adapter.encoder.kind", "lora", expected));
            }
        }
        Ok(Self { sites, low_rank, targets })
    }

    /// The encoder with the low-rank products added to its weights.
    fn apply(&self, encoder: ImageEncoder) -> ImageEncoder {
        struct Adder<'a>(KeyPath, &'a EncoderAdapter);
        impl ModuleMapper for Adder<'_> {
            fn enter_module(&mut self, name: &str, container_type: &str) {
                self.0.enter(name, container_type);
            }
            fn exit_module(&mut self, _name: &str, container_type: &str) {
                self.0.exit(container_type);
            }
            fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
                let key = self.0.key();
                match self.1.targets.iter().position(|target| *target == key) {
                    // Not `from_tensor`: that would make a leaf of it, and the gradient would end here.
                    Some(at) => Param::initialized(param.id, self.1.low_rank[at].apply(param.val())),
                    None => param,
                }
            }
        }
        if self.targets.is_empty() { encoder } else { encoder.map(&mut Adder(KeyPath::default(), self)) }
    }
}

/// Names of the weights that LoRA changes, with what one output sees and the number of outputs.
fn targets_of(encoder: &ImageEncoder) -> Vec<(String, [usize; 2])> {
    struct Finder {
        path: KeyPath,
        pattern: Option<Regex>,
        found: Vec<(String, [usize; 2])>,
    }
    impl ModuleVisitor for Finder {
        fn enter_module(&mut self, name: &str, container_type: &str) {
            self.path.enter(name, container_type);
        }
        fn exit_module(&mut self, _name: &str, container_type: &str) {
            self.path.exit(container_type);
        }
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let key = self.path.key();
            if !self.pattern.as_ref().is_some_and(|pattern| pattern.is_match(&key)) {
                return;
            }
            let sides = match *param.lazy_shape().to_vec().as_slice() {
                [input, output] => [input, output],
                // Depth-wise and grouped convolutions see too little for a product of two matrices.
                [output, input, 1, 1] if input > 1 => [input, output],
                _ => return,
            };
            self.found.push((key, sides));
        }
    }
    let mut finder =
        Finder { path: KeyPath::default(), pattern: Regex::new(LORA_TARGETS).ok(), found: Vec::new() };
    encoder.visit(&mut finder);
    finder.found
}

/// `[batch, 3, size, size]` to the embedding and what else is read of the encoder. Without an adapter the embedding is bit for bit
/// that of [`ImageEncoder::forward`].
pub fn forward(encoder: &ImageEncoder, adapter: Option<&EncoderAdapter>, pixels: Tensor<4>) -> Features {
    let adapted;
    let encoder = match adapter.filter(|adapter| !adapter.targets.is_empty()) {
        Some(adapter) => {
            adapted = adapter.apply(encoder.clone());
            &adapted
        }
        None => encoder,
    };
    let mut sites = adapter.map_or(&[] as &[Site], |adapter| adapter.sites.as_slice()).iter();
    match encoder {
        ImageEncoder::EfficientVit(encoder) => {
            let mut outputs = Vec::with_capacity(encoder.backbone.stages.len());
            let mut x = pixels;
            for (i, stage) in encoder.backbone.stages.iter().enumerate() {
                for op in &stage.op_list {
                    x = op.forward(x);
                    if i > 0 {
                        x = Site::after(sites.next(), x);
                    }
                }
                outputs.push(x.clone());
            }
            let stages = outputs[1..].to_vec();
            let embedding = encoder.norm.forward(encoder.neck.forward(outputs));
            let [_, _, side, _] = embedding.dims();
            let early = stages.iter().find(|stage| stage.dims()[2] == side).cloned();
            Features { embedding, early, stages }
        }
        ImageEncoder::TinyVit(encoder) => {
            let mut x = encoder.patch_embed.forward(pixels);
            let mut stages = Vec::with_capacity(encoder.layers.len());
            for layer in &encoder.layers {
                x = Site::after(sites.next(), layer.forward(x));
                stages.push(x.clone());
            }
            let early = stages.get(1).cloned();
            Features { embedding: encoder.neck.forward(x), early, stages }
        }
        ImageEncoder::Vit(encoder) => {
            let tokens = kirie_nn::conv2d(&encoder.patch_embed.proj, pixels).permute([0, 2, 3, 1]);
            let mut x = tokens + encoder.pos_embed.val();
            let (mut early, mut stages) = (None, Vec::with_capacity(encoder.blocks.len()));
            for block in &encoder.blocks {
                stages.push(x.clone().permute([0, 3, 1, 2]));
                let attended = block.attend(x);
                x = block.transform(attended.clone());
                if let Some(site) = sites.next() {
                    x = x + site.forward(attended);
                }
                if block.is_global() && early.is_none() {
                    early = Some(x.clone().permute([0, 3, 1, 2]));
                }
            }
            Features { embedding: encoder.neck.forward(x.permute([0, 3, 1, 2])), early, stages }
        }
    }
}

/// Channels of [`Features::early`]; `None` for an encoder without such a map.
pub fn early_channels(config: &EncoderConfig, input: usize) -> Option<usize> {
    match config {
        EncoderConfig::Vit(vit) => (!vit.global_blocks.is_empty()).then_some(vit.dim),
        EncoderConfig::TinyVit(tiny) => Some(tiny.dims[2]),
        EncoderConfig::EfficientVit(vit) => {
            let stages = vit.stages.iter().enumerate().skip(1);
            let mut fitting = stages.filter(|(i, _)| input >> (i + 1) == vit.out_size);
            fitting.next().map(|(_, stage)| stage.width)
        }
    }
}
