//! A model small enough to run hundreds of times, and pictures for it.

#![allow(clippy::unwrap_used, reason = "a test may fail anywhere")]
#![allow(dead_code, reason = "every test binary uses a part of it")]

pub(crate) mod scene;

use std::path::{Path, PathBuf};

use burn::tensor::Device;
use kirie_data::Image;
use kirie_sam::BurnEngine;
use kirie_sam::checkpoint::{StateDict, module_keys};
use kirie_sam::encoders::efficientvit::{StageConfig, StageKind};
use kirie_sam::encoders::{EfficientVitConfig, EncoderConfig, VitConfig};
use kirie_sam::mask_decoder::MaskDecoderConfig;
use kirie_sam::model::SamConfig;
use kirie_sam::prompt_encoder::PromptEncoderConfig;
use kirie_sam::registry::{EverythingDefaults, Preprocess, Variant};
use kirie_sam::transformer::TwoWayTransformerConfig;

/// Side of the tiny model's embedding.
pub(crate) const EMBEDDING: usize = 4;
/// Side of its masks.
pub(crate) const MASK: usize = 4 * EMBEDDING;
/// Side of the frame its prompts live in.
pub(crate) const FRAME: u32 = 4 * MASK as u32;
/// Width of its tokens.
pub(crate) const DIM: usize = 16;
/// Its encoder's input: half the frame, as EfficientViT-SAM L has it.
pub(crate) const PREPROCESS: Preprocess = Preprocess {
    size: FRAME / 2,
    frame: FRAME,
    mean: [123.675, 116.28, 103.53],
    std: [58.395, 57.12, 57.375],
};

/// An EfficientViT with every kind of stage.
pub(crate) fn tiny_efficientvit() -> EfficientVitConfig {
    let stage = |kind, width, depth| StageConfig { kind, width, depth, expand: 1, fewer_norm: false };
    EfficientVitConfig {
        stages: vec![
            stage(StageKind::Res, 4, 1),
            stage(StageKind::Fused, 8, 1),
            StageConfig { fewer_norm: true, ..stage(StageKind::Mb, 8, 0) },
            StageConfig { fewer_norm: true, ..stage(StageKind::Attention(3), 8, 1) },
        ],
        head_dim: 4,
        neck_depth: 1,
        neck_expand: 1,
        out_channels: DIM,
        out_size: EMBEDDING,
    }
}

/// Prompt encoder and decoder of the tiny model around an encoder.
pub(crate) fn tiny_sam(encoder: EncoderConfig, hq_early_channels: Option<usize>) -> SamConfig {
    SamConfig {
        encoder,
        prompt_encoder: tiny_prompt_encoder(),
        mask_decoder: MaskDecoderConfig {
            transformer: TwoWayTransformerConfig {
                depth: 2,
                dim: DIM,
                heads: 2,
                mlp_dim: 16,
                attention_downsample: 2,
                norm_epsilon: 1e-6,
            },
            multimask_outputs: 3,
            iou_head_depth: 3,
            iou_head_hidden: 8,
            hq_early_channels,
            prompt_fusion: None,
        },
    }
}

pub(crate) fn tiny_prompt_encoder() -> PromptEncoderConfig {
    PromptEncoderConfig {
        dim: DIM,
        embedding_size: EMBEDDING,
        frame: FRAME as usize,
        mask_channels: 8,
        draw_prompts: false,
    }
}

pub(crate) fn tiny_config() -> SamConfig {
    tiny_sam(EncoderConfig::EfficientVit(tiny_efficientvit()), None)
}

/// A windowed and a global block, for the input of [`PREPROCESS`].
pub(crate) fn tiny_vit() -> VitConfig {
    VitConfig {
        image_size: 32,
        patch: 8,
        dim: 8,
        depth: 2,
        heads: 2,
        mlp_ratio: 2,
        window: 3,
        global_blocks: vec![1],
        out_channels: DIM,
    }
}

const fn variant(name: &'static str, config: fn() -> SamConfig) -> Variant {
    Variant {
        name,
        about: "for tests",
        preprocess: PREPROCESS,
        zoom: None,
        single_mask: false,
        everything: EverythingDefaults::SAM,
        remote: None,
        built_in: None,
        licence: "",
        parameters: 0,
        config,
    }
}

/// The tiny model as the registry would have it.
pub(crate) static TINY: Variant = variant("tiny", tiny_config);

/// A tiny HQ-SAM.
pub(crate) static TINY_HQ: Variant =
    variant("tiny-hq", || tiny_sam(EncoderConfig::Vit(tiny_vit()), Some(tiny_vit().dim)));

/// A tiny model with weights by formula.
pub(crate) fn engine(variant: &Variant) -> BurnEngine {
    let device = Device::flex();
    let weights = StateDict::by_formula(module_keys(&variant.config().init(&device)));
    BurnEngine::from_state_dict(variant, &weights, &device).unwrap()
}

pub(crate) fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)
}

/// A picture of which every pixel differs from its neighbours.
pub(crate) fn picture(width: u32, height: u32) -> Image {
    let pixels = (0..height).flat_map(|y| (0..width).flat_map(move |x| pixel(x, y))).collect();
    Image::from_raw(width, height, pixels).unwrap()
}

fn pixel(x: u32, y: u32) -> [u8; 3] {
    [x * 7 + y * 3, x * 2 + y * 11 + 40, x * y + 90].map(|v| (v % 256) as u8)
}

/// A stream of numbers that is the same in every run.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        x ^ (x >> 31)
    }

    pub(crate) fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    /// From 0 to 1.
    pub(crate) fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }
}
