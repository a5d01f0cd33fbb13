//! Small models and a small task for the tests.

#![allow(dead_code, clippy::unwrap_used, reason = "shared by several tests, which may fail anywhere")]

use burn::tensor::{Device, Tensor, TensorData};
use kirie_gsam::model::{METHODS, MethodConfig, SemanticConfig, method};
use kirie_sam::encoders::{EncoderConfig, VitConfig};
use kirie_sam::model::SamConfig;
use kirie_sam::registry;

/// SAM's ViT with two narrow blocks, the second one global.
pub(crate) fn tiny_vit(classes: usize, method: MethodConfig) -> SemanticConfig {
    let variant = registry::variant("sam-vit-b").unwrap();
    let mut config = SemanticConfig::new(variant, classes, method);
    "tiny-vit".clone_into(&mut config.base);
    config.preprocess.size = 64;
    config.sam.encoder = EncoderConfig::Vit(VitConfig {
        image_size: 64,
        patch: 16,
        dim: 24,
        depth: 2,
        heads: 2,
        mlp_ratio: 2,
        window: 3,
        global_blocks: vec![1],
        out_channels: 32,
    });
    config.sam.prompt_encoder.dim = 32;
    config.sam.prompt_encoder.embedding_size = 4;
    decoder(&mut config.sam);
    config
}

/// kirie-small at a third of its widths, with its prompt fusion.
pub(crate) fn tiny_conv(classes: usize, method: MethodConfig) -> SemanticConfig {
    let variant = registry::variant("kirie-small").unwrap();
    let mut config = SemanticConfig::new(variant, classes, method);
    "tiny-conv".clone_into(&mut config.base);
    if let EncoderConfig::EfficientVit(encoder) = &mut config.sam.encoder {
        for (stage, width) in encoder.stages.iter_mut().zip([8, 8, 16, 24, 32]) {
            stage.width = width;
        }
        encoder.head_dim = 8;
        encoder.out_channels = 32;
    }
    config.sam.prompt_encoder.dim = 32;
    if let Some(fusion) = &mut config.sam.mask_decoder.prompt_fusion {
        (fusion.depth, fusion.expand, fusion.head_dim) = (1, 2, 8);
    }
    decoder(&mut config.sam);
    config
}

fn decoder(sam: &mut SamConfig) {
    sam.prompt_encoder.mask_channels = 4;
    let transformer = &mut sam.mask_decoder.transformer;
    (transformer.dim, transformer.heads, transformer.mlp_dim) = (32, 4, 64);
    sam.mask_decoder.iou_head_hidden = 32;
}

/// The method of a name, with a CNN branch that a test can bear.
pub(crate) fn light(name: &str) -> MethodConfig {
    match MethodConfig::named(name).unwrap() {
        MethodConfig::Gsam(gsam) => MethodConfig::Gsam(method::Gsam {
            cnn: method::CnnBranch::Light,
            dilations: vec![2, 4, 8],
            ..gsam
        }),
        other => other,
    }
}

/// All methods on the tiny ViT, and those that work there on the tiny convolutional encoder.
pub(crate) fn all(classes: usize) -> Vec<SemanticConfig> {
    let vit = METHODS.iter().map(|name| tiny_vit(classes, light(name)));
    let conv = METHODS.iter().map(|name| tiny_conv(classes, light(name)));
    vit.chain(conv.filter(|config| config.check().is_ok())).collect()
}

/// Two noisy pictures of 96 x 96 with rectangles of each class on a background; edges on whole tokens. Gives the pixels `[2, 3, 96, 96]` and
/// the classes, row-major.
pub(crate) fn task(classes: usize, device: &Device) -> (Tensor<4>, Vec<usize>) {
    const SIDE: usize = 96;
    let mut labels = vec![0; 2 * SIDE * SIDE];
    for picture in 0..2 {
        for class in 1..classes {
            let left = 16 * (2 * (class - 1) + picture);
            let top = 16 * (class + 1 - picture);
            for y in top..(top + 32).min(SIDE) {
                for x in left..(left + 32).min(SIDE) {
                    labels[(picture * SIDE + y) * SIDE + x] = class;
                }
            }
        }
    }
    let mut state = 1_u64;
    let mut noise = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 40) as f32 / (1 << 24) as f32 - 0.5
    };
    let mut pixels = vec![0.0; 2 * 3 * SIDE * SIDE];
    for picture in 0..2 {
        for channel in 0..3 {
            for i in 0..SIDE * SIDE {
                let colour = match labels[picture * SIDE * SIDE + i] {
                    0 => -0.8,
                    class if class == channel + 1 => 1.5,
                    class => 0.3 * class as f32,
                };
                pixels[(picture * 3 + channel) * SIDE * SIDE + i] = colour + 0.2 * noise();
            }
        }
    }
    (Tensor::from_data(TensorData::new(pixels, [2, 3, SIDE, SIDE]), device), labels)
}

/// The labels of [`task`] at the resolution of logits, by the pixel in the middle of each cell.
pub(crate) fn labels_at(labels: &[usize], [height, width]: [usize; 2]) -> Vec<usize> {
    let mut small = Vec::with_capacity(2 * height * width);
    for picture in 0..2 {
        for y in 0..height {
            for x in 0..width {
                let (py, px) = ((2 * y + 1) * 96 / (2 * height), (2 * x + 1) * 96 / (2 * width));
                small.push(labels[(picture * 96 + py) * 96 + px]);
            }
        }
    }
    small
}
