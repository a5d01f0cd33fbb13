//! Parameters and multiply-accumulates of every method on SAM's ViT-B, against what was measured on the published code.

#![allow(clippy::unwrap_used, reason = "a test may fail anywhere")]

mod model_common;

use burn::tensor::{Device, Tensor};
use kirie_gsam::Segmenter;
use kirie_gsam::model::method::{CnnBranch, Gsam, Lora};
use kirie_gsam::model::{METHODS, MethodConfig, SemanticConfig};
use kirie_nn::count;
use kirie_sam::registry;
use model_common::all;

/// The quality head, which the published code flags as trained though no gradient reaches it.
const IOU_HEAD: usize = 132_612;
/// The second to fourth MLP of a binary decoder: the published code runs them and throws the result away.
const UNUSED_MLPS: usize = 3 * 139_808;
/// ResNet-101's fourth stage and classifier, which the published code registers and never runs.
const UNUSED_RESNET: usize = 17_013_736;
/// The encoder's position generator, which the published code freezes by mistake.
const PEG: usize = 7_680;

fn vit_b(classes: usize, method: MethodConfig) -> SemanticConfig {
    SemanticConfig::new(registry::variant("sam-vit-b").unwrap(), classes, method)
}

fn trained(classes: usize, method: MethodConfig) -> usize {
    vit_b(classes, method).counts(&Device::flex()).unwrap().trained
}

#[test]
fn model_totals_are_the_published_codes() {
    let total = |method| vit_b(2, method).counts(&Device::flex()).unwrap().total;
    let named = |name| MethodConfig::named(name).unwrap();
    assert_eq!(total(named("decoder-only")), 93_735_472);
    assert_eq!(total(named("full")), 93_735_472);
    assert_eq!(total(named("lora-gsam")), 93_809_200);
    assert_eq!(total(named("conv-lora")), 94_164_160);
    assert_eq!(total(named("adapt-former")), 97_285_936);
    assert_eq!(total(named("samus")), 133_323_568);
    assert_eq!(total(named("gsam")) + UNUSED_RESNET, 157_901_208);
    // With more classes the decoder grows.
    for (classes, expected) in [(9, 158_610_744), (19, 160_021_624)] {
        let found = vit_b(classes, named("gsam")).counts(&Device::flex()).unwrap().total;
        assert_eq!(found + UNUSED_RESNET, expected);
    }
    // By definition: rank 4, queries and values, twelve blocks.
    assert_eq!(total(named("lora")), 93_735_472 + 12 * 2 * (768 * 4 + 4 * 768));
}

#[test]
fn model_trained_counts_are_the_published_codes() {
    let published_gsam = MethodConfig::Gsam(Gsam::published());
    let cases = [
        ("decoder-only", [4_058_340, 4_767_876, 6_178_756], 0),
        ("lora-gsam", [4_132_068, 4_841_604, 6_252_484], 0),
        ("conv-lora", [4_487_028, 5_196_564, 6_607_444], 0),
        ("adapt-former", [7_608_804, 8_318_340, 9_729_220], 0),
        ("gsam", [71_427_148, 72_136_684, 73_547_564], UNUSED_RESNET),
    ];
    for (name, expected, unused) in cases {
        for (classes, expected) in [2, 9, 19].into_iter().zip(expected) {
            let method = match name {
                "gsam" => published_gsam.clone(),
                _ => MethodConfig::named(name).unwrap(),
            };
            let mlps = if classes == 2 { UNUSED_MLPS } else { 0 };
            assert_eq!(trained(classes, method) + IOU_HEAD + mlps + unused, expected, "{name}, {classes}");
        }
    }
    // What gradients reach in the published GSAM (the discarded MLPs get zeros there).
    assert_eq!(trained(2, published_gsam.clone()) + UNUSED_MLPS, 54_280_800);
    let sane = MethodConfig::named("gsam").unwrap();
    assert_eq!(trained(2, sane), trained(2, published_gsam) + PEG);
    // SAMUS as published freezes its decoder; the default trains it.
    let published: MethodConfig = serde_json::from_str(r#"{"name":"samus","published":true}"#).unwrap();
    for classes in [2, 9, 19] {
        assert_eq!(trained(classes, published.clone()), 39_653_120);
    }
    let decoder = trained(9, MethodConfig::DecoderOnly {});
    assert_eq!(trained(9, MethodConfig::named("samus").unwrap()), 39_653_120 + decoder);
    // By definition.
    assert_eq!(trained(9, MethodConfig::Full {}), 89_670_912 + decoder);
    let lora = |rank, qkv: &str, targets: Option<&str>| {
        let targets = targets.map(str::to_owned);
        MethodConfig::Lora(Lora { rank, alpha: 8.0, qkv: qkv.to_owned(), targets })
    };
    assert_eq!(trained(9, lora(4, "qv", None)), 12 * 2 * 2 * 768 * 4 + decoder);
    assert_eq!(trained(9, lora(2, "qkv", None)), 12 * 3 * 2 * 768 * 2 + decoder);
    let mlps = lora(8, "qv", Some(r"blocks\.(3|7)\.mlp\.lin1\.weight$"));
    assert_eq!(trained(9, mlps), 2 * 8 * (768 + 4 * 768) + decoder);
}

#[test]
fn model_adapter_files_are_as_large_as_what_is_trained() {
    for name in METHODS {
        let counts = vit_b(3, MethodConfig::named(name).unwrap()).counts(&Device::flex()).unwrap();
        // ResNet's batch norms keep statistics; each has as many as it has weights and biases.
        let statistics = if name == "gsam" { 4 * 2 * 41_408 } else { 0 };
        assert_eq!(counts.stored_bytes, 4 * counts.trained + statistics, "{name}");
    }
    let frozen_peg = vit_b(3, MethodConfig::Gsam(Gsam { cnn: CnnBranch::Light, ..Gsam::published() }));
    let counts = frozen_peg.counts(&Device::flex()).unwrap();
    assert_eq!(counts.stored_bytes, 4 * (counts.trained + PEG));
}

/// Counting without computing gives what the same forward pass counts.
#[test]
fn model_macs_dry_and_real_agree() {
    let device = Device::flex();
    for config in all(3) {
        let model = config.init(&device, 1).unwrap();
        let (_, real) = count::measure(|| model.logits(Tensor::zeros([1, 3, 96, 96], &device)));
        assert_eq!(model.macs(96, 96).unwrap(), real, "{} on {}", config.method.name(), config.base);
    }
}

/// Section 7.2 of the notes: conv and linear layers, and all products. Within 0.2 %.
#[test]
fn model_macs_are_the_measured_ones() {
    let device = Device::flex();
    let cases = [
        ("decoder-only", 1024, 370.46, 487.83),
        ("lora", 1024, 370.46, 487.83),
        ("lora-gsam", 1024, 370.46, 491.93),
        ("conv-lora", 1024, 509.93, 631.40),
        ("adapt-former", 1024, 384.96, 502.33),
        ("samus", 256, 145.49, 163.14),
        ("gsam", 256, 160.52, 160.86),
        ("gsam", 128, 46.62, 46.75),
        ("gsam", 64, 11.67, 11.70),
        ("gsam", 32, 5.70, 5.73),
    ];
    for (name, side, layers, total) in cases {
        let begun = std::time::Instant::now();
        let macs = vit_b(2, MethodConfig::named(name).unwrap()).macs(side, side, &device).unwrap();
        println!("{name} at {side}: {macs:?} counted in {:?}", begun.elapsed());
        let found = [macs.layers as f64 / 1e9, macs.total() as f64 / 1e9];
        for (found, expected) in found.into_iter().zip([layers, total]) {
            assert!((found / expected - 1.0_f64).abs() < 0.002, "{name} at {side}: {found}, not {expected}");
        }
    }
}
