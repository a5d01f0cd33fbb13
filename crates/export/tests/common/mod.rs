//! Small models, and a runner of ONNX files that is not kirie's own.

#![allow(clippy::unwrap_used, reason = "a test may fail anywhere")]
#![allow(dead_code, reason = "every test binary uses a part of it")]

use burn::tensor::{Device, Tensor, TensorData};
use kirie_export::OnnxModel;
use kirie_sam::checkpoint::{StateDict, load, module_keys};
use kirie_sam::encoders::efficientvit::{StageConfig, StageKind};
use kirie_sam::encoders::{EfficientVitConfig, EncoderConfig, TinyVitConfig, VitConfig};
use kirie_sam::mask_decoder::MaskDecoderConfig;
use kirie_sam::model::{Sam, SamConfig};
use kirie_sam::prompt_encoder::PromptEncoderConfig;
use kirie_sam::prompt_fusion::PromptFusionConfig;
use kirie_sam::registry::Preprocess;
use kirie_sam::transformer::TwoWayTransformerConfig;
use rten::Model;
use rten_tensor::prelude::*;

/// Width of a token.
pub(crate) const DIM: usize = 16;
/// Side of the embedding.
pub(crate) const EMBEDDING: usize = 4;
/// Side of the encoder's input.
pub(crate) const INPUT: usize = 32;
/// Side of the frame that prompts are given in.
pub(crate) const FRAME: usize = 64;

pub(crate) const PREPROCESS: Preprocess = Preprocess {
    size: INPUT as u32,
    frame: FRAME as u32,
    mean: [123.0, 116.0, 103.0],
    std: [58.0, 57.0, 57.0],
};

/// Every kind of stage.
pub(crate) fn efficientvit() -> EncoderConfig {
    let stage = |kind, width, fewer_norm| StageConfig { kind, width, depth: 1, expand: 1, fewer_norm };
    EncoderConfig::EfficientVit(EfficientVitConfig {
        stages: vec![
            stage(StageKind::Res, 4, false),
            stage(StageKind::Fused, 8, false),
            stage(StageKind::Mb, 8, true),
            stage(StageKind::Attention(5), 8, true),
        ],
        head_dim: 4,
        neck_depth: 1,
        neck_expand: 1,
        out_channels: DIM,
        out_size: EMBEDDING,
    })
}

/// A windowed block, whose windows reach beyond the picture, and a global one.
pub(crate) fn vit() -> EncoderConfig {
    EncoderConfig::Vit(VitConfig {
        image_size: INPUT,
        patch: 8,
        dim: 8,
        depth: 2,
        heads: 2,
        mlp_ratio: 2,
        window: 3,
        global_blocks: vec![1],
        out_channels: DIM,
    })
}

pub(crate) fn tiny_vit() -> EncoderConfig {
    EncoderConfig::TinyVit(TinyVitConfig {
        dims: [8, 8, 16, 16],
        depths: [1; 4],
        heads: [1, 2, 2, 2],
        windows: [3, 3, 4, 3],
        merge_strides: [2, 1, 1],
        classes: 5,
        out_channels: DIM,
    })
}

/// A whole model around an encoder.
pub(crate) fn sam(encoder: EncoderConfig, hq_early_channels: Option<usize>) -> SamConfig {
    SamConfig {
        encoder,
        prompt_encoder: PromptEncoderConfig {
            dim: DIM,
            embedding_size: EMBEDDING,
            frame: FRAME,
            mask_channels: 8,
            draw_prompts: false,
        },
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

/// The same with what kirie-small's decoder has and SAM's has not.
pub(crate) fn drawing(encoder: EncoderConfig) -> SamConfig {
    let mut config = sam(encoder, None);
    config.prompt_encoder.draw_prompts = true;
    config.mask_decoder.prompt_fusion = Some(PromptFusionConfig { depth: 1, expand: 2, head_dim: 4 });
    config
}

/// With weights by formula, on the processor.
pub(crate) fn made(config: &SamConfig) -> Sam {
    let device = Device::flex();
    let model = config.init(&device);
    let weights = StateDict::by_formula(module_keys(&model));
    load(model, &weights, "tiny", &device).unwrap()
}

/// Numbers from -1 to 1 that are the same in every run.
pub(crate) fn numbers<const D: usize>(shape: [usize; D], seed: u64) -> Tensor<D> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(1);
    let values: Vec<f32> = (0..shape.iter().product())
        .map(|_| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 40) as f32 / (1 << 23) as f32 - 1.0
        })
        .collect();
    Tensor::from_data(TensorData::new(values, shape), &Device::flex())
}

/// An output of a graph: its shape and values.
pub(crate) type Answer = (Vec<usize>, Vec<f32>);

/// An input of a graph: its name, shape and values.
pub(crate) type Given = (&'static str, Vec<usize>, Vec<f32>);

/// A tensor as an input.
pub(crate) fn given<const D: usize>(name: &'static str, tensor: &Tensor<D>) -> Given {
    (name, tensor.dims().to_vec(), values(tensor))
}

pub(crate) fn values<const D: usize>(tensor: &Tensor<D>) -> Vec<f32> {
    tensor.clone().into_data().try_to_vec().unwrap()
}

/// Runs a graph; its outputs in its order.
pub(crate) fn run(model: &OnnxModel, inputs: &[Given]) -> Vec<Answer> {
    run_loaded(&Model::load(model.to_bytes()).unwrap(), inputs)
}

/// The same for a graph that was read from a file.
pub(crate) fn run_loaded(model: &Model, inputs: &[Given]) -> Vec<Answer> {
    let inputs = inputs.iter().map(|(name, shape, values)| {
        let tensor = rten_tensor::Tensor::from_data(shape.as_slice(), values.clone());
        (model.node_id(name).unwrap(), rten::Value::from(tensor).into())
    });
    let outputs = model.run(inputs.collect(), model.output_ids(), None).unwrap();
    outputs
        .into_iter()
        .map(|output| {
            let tensor: rten_tensor::Tensor<f32> = output.try_into().unwrap();
            (tensor.shape().to_vec(), tensor.to_vec())
        })
        .collect()
}

/// Fails if two tensors differ by more than float32's rounding makes plausible, relative to the size of the numbers.
pub(crate) fn same<const D: usize>(what: &str, found: &Answer, expected: &Tensor<D>) {
    assert_eq!(found.0, expected.dims(), "{what}");
    let expected = values(expected);
    let size = expected.iter().fold(1.0_f32, |size, value| size.max(value.abs()));
    let differences = found.1.iter().zip(&expected).map(|(a, b)| (a - b).abs());
    let largest = differences.fold(0.0_f32, |a, b| if b.is_nan() { f32::INFINITY } else { a.max(b) });
    assert!(largest <= 1e-4 * size, "{what}: differs by {largest}, values up to {size}");
}
