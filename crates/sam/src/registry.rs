//! Every model kirie knows, one row each: its sizes, its preprocessing, where its weights are.

use burn::tensor::Device;
use serde::{Deserialize, Serialize};

use crate::SamError;
use crate::checkpoint::{Description, StateDict, compare, module_keys};
use crate::encoders::efficientvit::{StageConfig, StageKind};
use crate::encoders::{EfficientVitConfig, EncoderConfig, TinyVitConfig, VitConfig};
use crate::mask_decoder::MaskDecoderConfig;
use crate::model::SamConfig;
use crate::prompt_encoder::PromptEncoderConfig;
use crate::prompt_fusion::PromptFusionConfig;
use crate::transformer::TwoWayTransformerConfig;

/// One row of the table.
#[derive(Debug)]
pub struct Variant {
    /// The name that `--model` takes.
    pub name: &'static str,
    /// What it is, in a sentence.
    pub about: &'static str,
    /// How a picture becomes the encoder's input.
    pub preprocess: Preprocess,
    /// Boxes are answered from a window so many times as large as the box; see [`crate::Predictor::with_zoom`]. `None` for models
    /// that are published with one look at the whole picture.
    pub zoom: Option<f64>,
    /// Whether its single mask is its answer where one is asked for; otherwise, as SAM is published, the mask of the three that it
    /// rates highest.
    pub single_mask: bool,
    /// What the mask generator does if nobody says otherwise.
    pub everything: EverythingDefaults,
    /// Its weights on a model hub; none for a model that comes with the program.
    pub remote: Option<RemoteFile>,
    /// Its weights as part of the program (feature `built-in`), a gzipped safetensors file.
    pub built_in: Option<&'static [u8]>,
    /// Licence of those weights.
    pub licence: &'static str,
    /// Trainable parameters of the whole model (buffers not counted).
    pub parameters: usize,
    /// Makes the model's sizes; see [`Self::config`].
    pub config: fn() -> SamConfig,
}

/// A file that can be downloaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RemoteFile {
    /// Where it is; `https`, except for tests.
    pub url: &'static str,
    /// Its name in the cache.
    pub file: &'static str,
    /// How it is recognised.
    pub integrity: Integrity,
}

/// What is known beforehand about a file's content; digests in hexadecimal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Integrity {
    /// The whole SHA-256.
    Sha256(&'static str),
    /// The first digits of the SHA-256 (the PyTorch convention `name-1a2b3c4d.pth`).
    Sha256Prefix(&'static str),
    /// The MD5, where the authors published no other.
    Md5(&'static str),
    /// Nothing: the SHA-256 that the hub announces with the file is used.
    Announced,
}

/// How a picture becomes the encoder's input.
///
/// The picture is resized so that its longer side has `size` pixels (Pillow's bilinear), each channel has `mean`
/// subtracted and is divided by `std`, and the rest of the `size` x `size` square, at the bottom and right, is zero.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Preprocess {
    /// Side of the encoder's square input, pixels.
    pub size: u32,
    /// Side of the frame that prompts and masks live in, whatever the encoder's input.
    pub frame: u32,
    /// Mean of red, green and blue, 0..255.
    pub mean: [f32; 3],
    /// Standard deviation of red, green and blue, 0..255.
    pub std: [f32; 3],
}

impl Preprocess {
    /// SAM's statistics and prompt frame, with the given encoder input.
    const fn sam(size: u32) -> Self {
        Self { size, frame: 1024, mean: [123.675, 116.28, 103.53], std: [58.395, 57.12, 57.375] }
    }
}

/// The settings of the mask generator that depend on the model: how sure it is of its masks when they are right.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct EverythingDefaults {
    /// Side of the encoder's input, pixels, if not the one that prompts are answered at: what is small in a picture has to be
    /// seen too.
    pub input: Option<u32>,
    /// Points along a side of the grid.
    pub points_per_side: u32,
    /// Masks whose predicted IoU is not above this are dropped.
    pub pred_iou_thresh: f32,
    /// Masks whose stability score is below this are dropped.
    pub stability_score_thresh: f64,
}

impl EverythingDefaults {
    /// Those of SAM's mask generator.
    pub const SAM: Self =
        Self { input: None, points_per_side: 32, pred_iou_thresh: 0.88, stability_score_thresh: 0.95 };
}

impl Variant {
    /// The model's sizes.
    pub fn config(&self) -> SamConfig {
        (self.config)()
    }

    /// The sizes that weights of this model are of, and the input they are made for: what the file says of itself, or what is
    /// registered.
    pub fn sizes_of(&self, weights: &StateDict) -> (SamConfig, u32) {
        match Description::of(weights).filter(|own| own.model == self.name) {
            Some(own) => (own.sizes, own.preprocess.size),
            None => (self.config(), self.preprocess.size),
        }
    }

    /// Whether it has HQ-SAM's extra mask.
    pub fn is_hq(&self) -> bool {
        self.config().mask_decoder.hq_early_channels.is_some()
    }
}

/// All variants, in the order they are listed to people.
pub fn variants() -> &'static [Variant] {
    VARIANTS
}

/// The variant of a name.
pub fn variant(name: &str) -> Result<&'static Variant, SamError> {
    VARIANTS.iter().find(|v| v.name == name).ok_or_else(|| SamError::UnknownModel {
        name: name.to_owned(),
        known: VARIANTS.iter().map(|v| v.name).collect::<Vec<_>>().join(", "),
    })
}

/// The variant that a weight file says it is, or fits exactly, if any. No parameter is made to find out.
pub fn identify(weights: &StateDict, device: &Device) -> Option<&'static Variant> {
    VARIANTS.iter().find(|v| compare(&module_keys(&v.sizes_of(weights).0.init(device)), weights).is_empty())
}

fn sam(encoder: EncoderConfig, norm_epsilon: f64, hq_early_channels: Option<usize>) -> SamConfig {
    SamConfig {
        encoder,
        prompt_encoder: PromptEncoderConfig {
            dim: 256,
            embedding_size: 64,
            frame: 1024,
            mask_channels: 16,
            draw_prompts: false,
        },
        mask_decoder: MaskDecoderConfig {
            transformer: TwoWayTransformerConfig {
                depth: 2,
                dim: 256,
                heads: 8,
                mlp_dim: 2048,
                attention_downsample: 2,
                norm_epsilon,
            },
            multimask_outputs: 3,
            iou_head_depth: 3,
            iou_head_hidden: 256,
            hq_early_channels,
            prompt_fusion: None,
        },
    }
}

fn vit_b() -> VitConfig {
    VitConfig::sam(768, 12, 12, [2, 5, 8, 11])
}

fn vit_l() -> VitConfig {
    VitConfig::sam(1024, 24, 16, [5, 11, 17, 23])
}

fn vit_h() -> VitConfig {
    VitConfig::sam(1280, 32, 16, [7, 15, 23, 31])
}

/// EfficientViT-SAM: every norm of the model has epsilon 1e-6, those of SAM's transformer included.
fn efficientvit(encoder: EfficientVitConfig) -> SamConfig {
    sam(EncoderConfig::EfficientVit(encoder), 1e-6, None)
}

macro_rules! efficientvit_file {
    ($name:literal, $integrity:expr) => {
        RemoteFile {
            url: concat!(
                "https://huggingface.co/mit-han-lab/efficientvit-sam/resolve/main/efficientvit_sam_",
                $name,
                ".pt"
            ),
            file: concat!("efficientvit_sam_", $name, ".pt"),
            integrity: $integrity,
        }
    };
}

macro_rules! sam_file {
    ($file:literal, $md5:literal) => {
        RemoteFile {
            url: concat!("https://dl.fbaipublicfiles.com/segment_anything/", $file),
            file: $file,
            integrity: Integrity::Md5($md5),
        }
    };
}

macro_rules! hq_file {
    ($file:literal) => {
        RemoteFile {
            url: concat!("https://huggingface.co/lkeab/hq-sam/resolve/main/", $file),
            file: $file,
            integrity: Integrity::Announced,
        }
    };
}

/// kirie's own model: EfficientViT-SAM's design at small widths, with a narrow decoder.
fn small() -> SamConfig {
    use StageKind::{Attention, Fused, Mb, Res};
    let stage =
        |kind, width, depth, expand, fewer_norm| StageConfig { kind, width, depth, expand, fewer_norm };
    let encoder = EfficientVitConfig {
        stages: vec![
            stage(Res, 16, 0, 1, false),
            stage(Fused, 32, 1, 2, false),
            stage(Fused, 64, 1, 2, false),
            stage(Mb, 112, 2, 4, true),
            stage(Attention(5), 192, 2, 4, true),
        ],
        head_dim: 16,
        neck_depth: 2,
        neck_expand: 1,
        out_channels: 128,
        out_size: 20,
    };
    SamConfig {
        encoder: EncoderConfig::EfficientVit(encoder),
        prompt_encoder: PromptEncoderConfig {
            dim: 128,
            embedding_size: 20,
            frame: 1024,
            mask_channels: 16,
            draw_prompts: true,
        },
        mask_decoder: MaskDecoderConfig {
            transformer: TwoWayTransformerConfig {
                depth: 2,
                dim: 128,
                heads: 8,
                mlp_dim: 512,
                attention_downsample: 2,
                norm_epsilon: 1e-6,
            },
            multimask_outputs: 3,
            iou_head_depth: 3,
            iou_head_hidden: 128,
            hq_early_channels: None,
            prompt_fusion: Some(PromptFusionConfig { depth: 2, expand: 4, head_dim: 16 }),
        },
    }
}

/// See `docs/model-card.md`.
#[cfg(feature = "built-in")]
const KIRIE_SMALL: Option<&[u8]> = Some(include_bytes!("../weights/kirie-small.safetensors.gz"));
#[cfg(not(feature = "built-in"))]
const KIRIE_SMALL: Option<&[u8]> = None;

static VARIANTS: &[Variant] = &[
    Variant {
        name: "kirie-small",
        about: "EfficientViT-SAM's design at small widths; its weights are inside the program",
        preprocess: Preprocess::sam(160),
        zoom: Some(1.2),
        single_mask: true,
        everything: EverythingDefaults {
            input: Some(320),
            points_per_side: 16,
            pred_iou_thresh: 0.4,
            stability_score_thresh: 0.6,
        },
        remote: None,
        built_in: KIRIE_SMALL,
        licence: "research only, as several of its training sets",
        parameters: 3_985_072,
        config: small,
    },
    Variant {
        name: "efficientvit-sam-l0",
        about: "EfficientViT-SAM, the fastest of the family",
        preprocess: Preprocess::sam(512),
        zoom: None,
        single_mask: false,
        everything: EverythingDefaults::SAM,
        remote: Some(efficientvit_file!("l0", Integrity::Sha256Prefix("c4f994b01a16"))),
        built_in: None,
        licence: "Apache-2.0",
        parameters: 34_792_784,
        config: || efficientvit(EfficientVitConfig::l([1, 1, 1, 4, 4], 4)),
    },
    Variant {
        name: "efficientvit-sam-l1",
        about: "EfficientViT-SAM, deeper than L0",
        preprocess: Preprocess::sam(512),
        zoom: None,
        single_mask: false,
        everything: EverythingDefaults::SAM,
        remote: Some(efficientvit_file!("l1", Integrity::Sha256Prefix("fa151df2b9b9"))),
        built_in: None,
        licence: "Apache-2.0",
        parameters: 47_650_128,
        config: || efficientvit(EfficientVitConfig::l([1, 1, 1, 6, 6], 8)),
    },
    Variant {
        name: "efficientvit-sam-l2",
        about: "EfficientViT-SAM, SAM ViT-H's accuracy on COCO at 512 pixels",
        preprocess: Preprocess::sam(512),
        zoom: None,
        single_mask: false,
        everything: EverythingDefaults::SAM,
        remote: Some(efficientvit_file!("l2", Integrity::Sha256Prefix("d4bfd842224c"))),
        built_in: None,
        licence: "Apache-2.0",
        parameters: 61_328_592,
        config: || efficientvit(EfficientVitConfig::l([1, 2, 2, 8, 8], 12)),
    },
    Variant {
        name: "efficientvit-sam-xl0",
        about: "EfficientViT-SAM at 1024 pixels",
        preprocess: Preprocess::sam(1024),
        zoom: None,
        single_mask: false,
        everything: EverythingDefaults::SAM,
        remote: Some(efficientvit_file!("xl0", Integrity::Announced)),
        built_in: None,
        licence: "Apache-2.0",
        parameters: 116_957_904,
        config: || efficientvit(EfficientVitConfig::xl([0, 1, 1, 2, 3, 3], 6)),
    },
    Variant {
        name: "efficientvit-sam-xl1",
        about: "EfficientViT-SAM, the most accurate of the family",
        preprocess: Preprocess::sam(1024),
        zoom: None,
        single_mask: false,
        everything: EverythingDefaults::SAM,
        remote: Some(efficientvit_file!("xl1", Integrity::Announced)),
        built_in: None,
        licence: "Apache-2.0",
        parameters: 203_346_128,
        config: || efficientvit(EfficientVitConfig::xl([1, 2, 2, 4, 6, 6], 12)),
    },
    Variant {
        name: "mobile-sam",
        about: "MobileSAM: SAM with a TinyViT encoder distilled from ViT-H",
        preprocess: Preprocess::sam(1024),
        zoom: None,
        single_mask: false,
        everything: EverythingDefaults::SAM,
        remote: Some(RemoteFile {
            url: "https://github.com/ChaoningZhang/MobileSAM/raw/master/weights/mobile_sam.pt",
            file: "mobile_sam.pt",
            integrity: Integrity::Md5("f3c0d8cda613564d499310dab6c812cd"),
        }),
        built_in: None,
        licence: "Apache-2.0",
        parameters: 10_130_092,
        config: || sam(EncoderConfig::TinyVit(TinyVitConfig::mobile_sam()), 1e-5, None),
    },
    Variant {
        name: "sam-vit-b",
        about: "SAM with ViT-B",
        preprocess: Preprocess::sam(1024),
        zoom: None,
        single_mask: false,
        everything: EverythingDefaults::SAM,
        remote: Some(sam_file!("sam_vit_b_01ec64.pth", "01ec64d29a2fca3f0661936605ae66f8")),
        built_in: None,
        licence: "Apache-2.0",
        parameters: 93_735_472,
        config: || sam(EncoderConfig::Vit(vit_b()), 1e-5, None),
    },
    Variant {
        name: "sam-vit-l",
        about: "SAM with ViT-L",
        preprocess: Preprocess::sam(1024),
        zoom: None,
        single_mask: false,
        everything: EverythingDefaults::SAM,
        remote: Some(sam_file!("sam_vit_l_0b3195.pth", "0b3195507c641ddb6910d2bb5adee89c")),
        built_in: None,
        licence: "Apache-2.0",
        parameters: 312_342_832,
        config: || sam(EncoderConfig::Vit(vit_l()), 1e-5, None),
    },
    Variant {
        name: "sam-vit-h",
        about: "SAM with ViT-H, the original",
        preprocess: Preprocess::sam(1024),
        zoom: None,
        single_mask: false,
        everything: EverythingDefaults::SAM,
        remote: Some(sam_file!("sam_vit_h_4b8939.pth", "4b8939a88964f0f4ff5f5b2642c598a6")),
        built_in: None,
        licence: "Apache-2.0",
        parameters: 641_090_608,
        config: || sam(EncoderConfig::Vit(vit_h()), 1e-5, None),
    },
    Variant {
        name: "hq-sam-vit-tiny",
        about: "HQ-SAM with a TinyViT encoder",
        preprocess: Preprocess::sam(1024),
        zoom: None,
        single_mask: false,
        everything: EverythingDefaults::SAM,
        remote: Some(hq_file!("sam_hq_vit_tiny.pth")),
        built_in: None,
        licence: "Apache-2.0",
        parameters: 10_578_604,
        config: || sam(EncoderConfig::TinyVit(TinyVitConfig::mobile_sam()), 1e-5, Some(160)),
    },
    Variant {
        name: "hq-sam-vit-b",
        about: "HQ-SAM with ViT-B: finer edges",
        preprocess: Preprocess::sam(1024),
        zoom: None,
        single_mask: false,
        everything: EverythingDefaults::SAM,
        remote: Some(hq_file!("sam_hq_vit_b.pth")),
        built_in: None,
        licence: "Apache-2.0",
        parameters: 94_806_576,
        config: || sam(EncoderConfig::Vit(vit_b()), 1e-5, Some(768)),
    },
    Variant {
        name: "hq-sam-vit-l",
        about: "HQ-SAM with ViT-L",
        preprocess: Preprocess::sam(1024),
        zoom: None,
        single_mask: false,
        everything: EverythingDefaults::SAM,
        remote: Some(hq_file!("sam_hq_vit_l.pth")),
        built_in: None,
        licence: "Apache-2.0",
        parameters: 313_676_080,
        config: || sam(EncoderConfig::Vit(vit_l()), 1e-5, Some(1024)),
    },
    Variant {
        name: "hq-sam-vit-h",
        about: "HQ-SAM with ViT-H",
        preprocess: Preprocess::sam(1024),
        zoom: None,
        single_mask: false,
        everything: EverythingDefaults::SAM,
        remote: Some(hq_file!("sam_hq_vit_h.pth")),
        built_in: None,
        licence: "Apache-2.0",
        parameters: 642_686_000,
        config: || sam(EncoderConfig::Vit(vit_h()), 1e-5, Some(1280)),
    },
];
