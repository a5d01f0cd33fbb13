//! Against the same encoder run by Burn.

use burn::tensor::{Device, Tensor, TensorData};

use super::CpuEncoder;
use crate::encoders::EncoderConfig;
use crate::encoders::efficientvit::{EfficientVitConfig, StageConfig, StageKind};

fn check(config: &EfficientVitConfig, input: usize) {
    let device = Device::flex();
    device.seed(7);
    let encoder = EncoderConfig::EfficientVit(config.clone()).init(&device);
    let pixels: Vec<f32> = (0..3 * input * input).map(|i| ((i * 7919) % 1000) as f32 / 500.0 - 1.0).collect();
    let plan = CpuEncoder::new(&encoder).unwrap().unwrap();
    let found = plan.forward([input, input], pixels.clone());
    let x = Tensor::<4>::from_data(TensorData::new(pixels, [1, 3, input, input]), &device);
    let wanted = encoder.forward(x).embedding;
    let [_, channels, height, width] = wanted.dims();
    assert_eq!((found.channels, found.size), (channels, [height, width]));
    let wanted = wanted.into_data().try_to_vec::<f32>().unwrap();
    let largest = wanted.iter().fold(0f32, |m, v| m.max(v.abs()));
    for (f, w) in found.values.iter().zip(&wanted) {
        assert!((f - w).abs() <= 2e-4 * largest, "{f} for {w}, of {largest}");
    }
}

fn config(stages: &[(StageKind, usize, usize, usize, bool)], out: [usize; 2]) -> EfficientVitConfig {
    let stage =
        |&(kind, width, depth, expand, fewer_norm)| StageConfig { kind, width, depth, expand, fewer_norm };
    EfficientVitConfig {
        stages: stages.iter().map(stage).collect(),
        head_dim: 8,
        neck_depth: 2,
        neck_expand: 2,
        out_channels: out[0],
        out_size: out[1],
    }
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
        check(&config(&all, [32, out]), input);
    }
    check(
        &config(
            &[(Res, 8, 1, 1, false), (Fused, 12, 1, 2, false), (Attention(5), 16, 1, 2, false)],
            [20, 12],
        ),
        48,
    );
}
