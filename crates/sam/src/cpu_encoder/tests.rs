//! Against the same encoder run by Burn.

use burn::tensor::{Device, Tensor, TensorData};

use super::CpuEncoder;
use crate::encoders::efficientvit::{EfficientVitConfig, StageConfig, StageKind};
use crate::encoders::{EncoderConfig, TinyVitConfig};

fn check(config: EncoderConfig, input: usize) {
    let device = Device::flex();
    device.seed(7);
    let encoder = config.init(&device);
    let pixels: Vec<f32> = (0..3 * input * input).map(|i| ((i * 7919) % 1000) as f32 / 500.0 - 1.0).collect();
    let plan = CpuEncoder::new(&encoder).unwrap().unwrap();
    let found = plan.forward([input, input], pixels.clone()).into_burn(&device);
    let x = Tensor::<4>::from_data(TensorData::new(pixels, [1, 3, input, input]), &device);
    let wanted = encoder.forward(x);
    close(&found.embedding, &wanted.embedding);
    assert_eq!(found.early.is_some(), wanted.early.is_some());
    if let (Some(found), Some(wanted)) = (&found.early, &wanted.early) {
        close(found, wanted);
    }
}

fn close(found: &Tensor<4>, wanted: &Tensor<4>) {
    assert_eq!(found.dims(), wanted.dims());
    let largest = wanted.clone().abs().max().into_scalar::<f32>();
    let difference = (found.clone() - wanted.clone()).abs().max().into_scalar::<f32>();
    assert!(difference <= 2e-4 * largest, "{difference} of {largest}");
}

fn config(stages: &[(StageKind, usize, usize, usize, bool)], out: [usize; 2]) -> EncoderConfig {
    let stage =
        |&(kind, width, depth, expand, fewer_norm)| StageConfig { kind, width, depth, expand, fewer_norm };
    EncoderConfig::EfficientVit(EfficientVitConfig {
        stages: stages.iter().map(stage).collect(),
        head_dim: 8,
        neck_depth: 2,
        neck_expand: 2,
        out_channels: out[0],
        out_size: out[1],
    })
}

/// Every kind of stage, at sizes that fill vectors and at sizes that do not.
#[test]
fn embeddings_are_those_of_burn() {
    use StageKind::{Attention, Fused, Mb, Res};
    let all = [
        (Res, 16, 1, 1, false),
        (Fused, 24, 1, 4, false),
        (Mb, 32, 1, 4, true),
        (Attention(3), 40, 2, 4, true),
    ];
    for (input, out) in [(128, 32), (160, 40), (96, 16), (64, 17)] {
        check(config(&all, [32, out]), input);
    }
    check(
        config(&[(Res, 8, 1, 1, false), (Fused, 12, 1, 2, false), (Attention(5), 16, 1, 2, false)], [20, 12]),
        48,
    );
}

/// Windows that fit, windows with padding, and merges that keep the size; the early map too.
#[test]
fn so_are_those_of_tiny_vit() {
    for (input, windows) in [(128, [4, 4, 4, 4]), (96, [7, 7, 5, 3])] {
        let sizes = TinyVitConfig {
            dims: [16, 24, 32, 40],
            depths: [1, 2, 1, 1],
            heads: [2, 3, 4, 5],
            windows,
            merge_strides: [2, 2, 1],
            classes: 3,
            out_channels: 24,
        };
        check(EncoderConfig::TinyVit(sizes), input);
    }
}
