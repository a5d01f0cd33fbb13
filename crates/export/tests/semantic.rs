//! Exported semantic models give what the models give.

#![allow(clippy::unwrap_used, reason = "a test may fail anywhere")]

mod common;
#[path = "../../gsam/tests/model_common/mod.rs"]
mod model_common;

use burn::tensor::Device;
use common::{given, numbers, run, same};
use kirie_export::semantic;
use kirie_gsam::Segmenter;
use kirie_gsam::model::{MethodConfig, SemanticConfig, SemanticModel};
use kirie_sam::checkpoint::{StateDict, load, module_keys};
use model_common::{light, tiny_conv, tiny_vit};

/// With weights by formula, those of the adapters too: none of them is silent.
fn made(config: &SemanticConfig) -> SemanticModel {
    let device = Device::flex();
    let model = config.lazy(&device).unwrap();
    let weights = StateDict::by_formula(module_keys(&model));
    load(model, &weights, "tiny", &device).unwrap()
}

fn agrees(config: &SemanticConfig, size: [usize; 2]) {
    let what = format!("{} {}, {} classes, {size:?}", config.base, config.method.name(), config.classes);
    let model = made(config);
    let exported = semantic("tiny", &model, size, &[]).unwrap_or_else(|error| panic!("{what}: {error}"));
    let picture = numbers([1, 3, size[0], size[1]], 1);
    let found = run(&exported, &[given("image", &picture)]);
    same(&what, &found[0], &model.logits(picture));
    let added = exported.constants().filter(|(name, _)| name.contains(".lora."));
    if matches!(config.method, MethodConfig::Lora(_)) {
        assert_eq!(added.count(), 0, "low-rank additions are part of the weights");
    }
}

#[test]
fn every_method_on_vit() {
    for config in model_common::all(3).iter().filter(|config| config.base == "tiny-vit") {
        agrees(config, [64, 64]);
    }
}

#[test]
fn every_method_on_convolutions() {
    for config in model_common::all(3).iter().filter(|config| config.base == "tiny-conv") {
        agrees(config, [64, 96]);
    }
}

#[test]
fn two_classes_and_sizes_that_no_stride_divides() {
    agrees(&tiny_vit(2, light("gsam")), [50, 75]);
    agrees(&tiny_vit(2, light("lora")), [50, 75]);
    agrees(&tiny_conv(2, light("gsam")), [50, 75]);
}
