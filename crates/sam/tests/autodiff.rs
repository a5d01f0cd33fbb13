//! Every encoder family and both decoders, forward and backward: which parameters get a gradient.

#![allow(clippy::unwrap_used, clippy::needless_range_loop, reason = "a test may fail anywhere")]

mod common;

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{Device, Gradients, Tensor, TensorData};
use common::{DIM, EMBEDDING, MASK, Random, tiny_efficientvit, tiny_sam, tiny_vit};
use kirie_sam::DecodeMode;
use kirie_sam::checkpoint::{StateDict, load, module_keys};
use kirie_sam::encoders::{EncoderConfig, TinyVitConfig};
use kirie_sam::model::SamConfig;
use kirie_sam::prompt_encoder::{SparsePrompts, TokenLabel};

fn tiny_tiny_vit() -> TinyVitConfig {
    TinyVitConfig {
        dims: [8, 8, 16, 16],
        depths: [1; 4],
        heads: [1, 2, 2, 2],
        windows: [3, 3, 4, 3],
        merge_strides: [2, 1, 1],
        classes: 5,
        out_channels: DIM,
    }
}

/// Largest gradient of every tensor, in the order of the module's fields; `None` where backward did not come by.
struct Collector<'a> {
    gradients: &'a Gradients,
    largest: Vec<Option<f32>>,
}

impl ModuleVisitor for Collector<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let gradient = param.val().grad(self.gradients);
        self.largest.push(gradient.map(|g| g.abs().max().into_scalar::<f32>()));
    }
}

fn random<const D: usize>(shape: [usize; D], seed: u64, device: &Device) -> Tensor<D> {
    let mut random = Random(seed);
    let values: Vec<f32> = (0..shape.iter().product()).map(|_| random.unit() as f32 * 4.0 - 2.0).collect();
    Tensor::from_data(TensorData::new(values, shape), device)
}

/// Two prompts with every kind of token, on one picture, forward and backward. Gives the names of the parameters
/// without a gradient.
fn untouched(config: &SamConfig, mode: DecodeMode, with_mask: bool) -> Vec<String> {
    let device = Device::flex().autodiff();
    let model = config.init(&device);
    let weights = StateDict::by_formula(module_keys(&model));
    let model = load(model, &weights, "tiny", &device).unwrap();

    let encoded = model.encode(random([1, 3, 32, 32], 1, &device));
    assert_eq!(encoded.embedding.dims(), [1, DIM, EMBEDDING, EMBEDDING]);
    let features = model.mask_decoder.hq_features(&encoded);
    assert_eq!(features.is_some(), config.mask_decoder.hq_early_channels.is_some());
    let prompts = {
        use TokenLabel::{BoxBottomRight, BoxTopLeft, Negative, Padding, Positive};
        SparsePrompts {
            tokens: 3,
            coords: vec![[5.0, 9.0], [33.0, 12.0], [0.0, 0.0], [20.0, 30.0], [4.0, 4.0], [50.0, 64.0]],
            labels: vec![Positive, Negative, Padding, Positive, BoxTopLeft, BoxBottomRight],
        }
    };
    let mask = with_mask.then(|| random([2, 1, MASK, MASK], 2, &device));
    let image_pe = model.prompt_encoder.dense_pe(&device);
    let output = model.decode(encoded.embedding, image_pe, features, &prompts, mask, mode);
    let wanted = random(output.masks.dims(), 3, &device);
    let gradients =
        ((output.masks - wanted).powf_scalar(2.0).sum() + output.iou.powf_scalar(2.0).sum()).backward();

    let mut collector = Collector { gradients: &gradients, largest: Vec::new() };
    model.visit(&mut collector);
    let keys: Vec<String> = module_keys(&model).into_iter().filter(|k| !k.optional).map(|k| k.key).collect();
    assert_eq!(keys.len(), collector.largest.len());
    let mut untouched = Vec::new();
    for (key, largest) in keys.into_iter().zip(collector.largest) {
        assert!(largest.is_none_or(f32::is_finite), "{key}: {largest:?}");
        if largest.is_none_or(|l| l == 0.0) {
            untouched.push(key);
        }
    }
    untouched
}

/// What belongs to the state dict but is no parameter.
fn is_buffer(key: &str) -> bool {
    ["running_mean", "running_var", "positional_encoding_gaussian_matrix"].iter().any(|b| key.ends_with(b))
}

#[test]
fn gradients_reach_every_parameter_that_took_part() {
    let families = [
        (EncoderConfig::Vit(tiny_vit()), Some(8)),
        (EncoderConfig::TinyVit(tiny_tiny_vit()), Some(16)),
        (EncoderConfig::EfficientVit(tiny_efficientvit()), None),
    ];
    let config = |family: usize, hq: bool| {
        let (encoder, early_channels) = &families[family];
        tiny_sam(encoder.clone(), early_channels.filter(|_| hq))
    };
    for family in 0..families.len() {
        for (hq, multimask, hq_only, with_mask) in [
            (false, false, false, false),
            (false, true, false, true),
            (true, false, false, false),
            (true, false, true, true),
            (true, true, false, true),
        ] {
            if hq && families[family].1.is_none() {
                continue;
            }
            let config = config(family, hq);
            let mut found = untouched(&config, DecodeMode { multimask, hq_only }, with_mask);
            found.retain(|key| !is_buffer(key));

            let mut expected = Vec::new();
            if matches!(config.encoder, EncoderConfig::TinyVit(_)) {
                expected.extend(["norm_head", "head"].map(|name| format!("image_encoder.{name}.")));
            }
            expected.push(format!(
                "prompt_encoder.{}.",
                if with_mask { "no_mask_embed" } else { "mask_downscaling" }
            ));
            let mask_vectors = |i: usize| format!("mask_decoder.output_hypernetworks_mlps.{i}.");
            if hq && multimask {
                // Only the best of three masks counts, which depends on the prompt.
                found.retain(|key| (1..4).all(|i| !key.starts_with(&mask_vectors(i))));
            }
            let unused = match (hq_only, multimask) {
                (true, _) => 0..4,
                (false, true) => 0..1,
                (false, false) => 1..4,
            };
            expected.extend(unused.map(mask_vectors));
            let keys = module_keys(&config.init(&Device::flex())).into_iter().map(|k| k.key);
            let expected: Vec<String> =
                keys.filter(|key| expected.iter().any(|prefix| key.starts_with(prefix))).collect();
            assert_eq!(
                found, expected,
                "hq {hq}, multimask {multimask}, hq_only {hq_only}, mask {with_mask}"
            );
        }
    }
}

/// Every gradient of a whole model, by name.
fn all_gradients(config: &SamConfig, device: &Device) -> Vec<(String, Vec<f32>)> {
    struct Values<'a>(&'a Gradients, Vec<Option<Vec<f32>>>);
    impl ModuleVisitor for Values<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let gradient = param.val().grad(self.0);
            self.1.push(gradient.map(|g| g.into_data().iter::<f32>().collect()));
        }
    }
    let model = config.init(device);
    let weights = StateDict::by_formula(module_keys(&model));
    let model = load(model, &weights, "tiny", device).unwrap();
    let encoded = model.encode(random([2, 3, 32, 32], 1, device));
    // Two prompts for each of two pictures, as training asks them.
    let [count, dim, side, _] = encoded.embedding.dims();
    let image = encoded.embedding.unsqueeze_dim::<5>(1).expand([count, 2, dim, side, side]).reshape([
        2 * count,
        dim,
        side,
        side,
    ]);
    let prompts = SparsePrompts {
        tokens: 2,
        coords: (0..8).map(|i| [3.0 + 7.0 * i as f32, 5.0 + 6.0 * i as f32]).collect(),
        labels: [TokenLabel::BoxTopLeft, TokenLabel::BoxBottomRight].repeat(4),
    };
    let image_pe = model.prompt_encoder.dense_pe(device);
    let mode = DecodeMode { multimask: true, hq_only: false };
    let output = model.decode(image, image_pe, None, &prompts, None, mode);
    let wanted = random(output.masks.dims(), 3, device);
    let gradients =
        ((output.masks - wanted).powf_scalar(2.0).mean() + output.iou.powf_scalar(2.0).sum()).backward();
    let mut values = Values(&gradients, Vec::new());
    model.visit(&mut values);
    let keys = module_keys(&model).into_iter().filter(|k| !k.optional).map(|k| k.key);
    keys.zip(values.1).filter_map(|(key, gradient)| Some((key, gradient?))).collect()
}

/// kirie's own kernels and Burn's composed operations (which activation checkpointing falls back to) give the same
/// gradients for whole models, batch statistics included.
#[test]
fn both_roads_give_the_same_gradients() {
    for encoder in [
        EncoderConfig::EfficientVit(tiny_efficientvit()),
        EncoderConfig::Vit(tiny_vit()),
        EncoderConfig::TinyVit(tiny_tiny_vit()),
    ] {
        for draw_prompts in [false, true] {
            let mut config = tiny_sam(encoder.clone(), None);
            config.prompt_encoder.draw_prompts = draw_prompts;
            let device = Device::flex().autodiff();
            let ours = all_gradients(&config, &device);
            let burns = all_gradients(&config, &device.gradient_checkpointing());
            assert_eq!(ours.len(), burns.len());
            for ((key, ours), (_, burns)) in ours.iter().zip(&burns) {
                let scale = burns.iter().fold(1e-3_f32, |m, v| m.max(v.abs()));
                let worst = ours.iter().zip(burns).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max) / scale;
                assert!(worst < 2e-3, "{key}: off by {worst} of the largest, {scale}");
            }
        }
    }
}
