//! Number for number with the reference implementations: weights by formula, golden outputs from PyTorch.
//!
//! The goldens in `tests/data` were computed once with the reference code in float32. `docs/parity.md` holds the errors
//! that these tests print (`cargo nextest run -p kirie-sam --test parity --no-capture`).

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test may fail anywhere, and this one prints its figures"
)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use burn::tensor::Device;
use kirie_data::{Limits, read_image};
use kirie_sam::checkpoint::{StateDict, module_keys};
use kirie_sam::{BurnEngine, DecodeMode, Prediction, Predictor, Prompt, formula, registry};

/// Largest absolute errors allowed: about ten times the measured ones, a tenth of what the fixtures' README expects of a
/// correct float32 implementation.
const EMBEDDING_TOLERANCE: f32 = 5e-5;
const LOGITS_TOLERANCE: f32 = 3e-4;
const IOU_TOLERANCE: f32 = 5e-5;
const AREA_TOLERANCE: f64 = 0.0003;

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)
}

#[test]
fn formula_equals_the_fixtures_first_values() {
    #[derive(serde::Deserialize)]
    struct Expected {
        shape: Vec<usize>,
        first4: Vec<f64>,
    }
    let text = std::fs::read_to_string(data("formula_check.json")).unwrap();
    let expected: BTreeMap<String, Expected> = serde_json::from_str(&text).unwrap();
    assert!(expected.len() > 5);
    for (key, expected) in expected {
        let found = formula::values(&key, &expected.shape);
        for (found, expected) in found.iter().zip(&expected.first4) {
            assert_eq!(*found, *expected as f32, "{key}");
        }
    }
}

/// Names and shapes of all registered models are the reference's, none more, none less, in the reference's order
/// within each part.
#[test]
fn state_dict_keys_equal_the_references() {
    let device = Device::flex();
    // kirie's own model has no reference.
    for variant in registry::variants().iter().filter(|v| v.remote.is_some()) {
        let path = data(&format!("keys_{}.txt", variant.name));
        let Ok(text) = std::fs::read_to_string(&path) else { panic!("{} is missing", path.display()) };
        let expected: BTreeMap<String, String> = text
            .lines()
            .map(|line| line.split_once(' ').unwrap())
            .map(|(k, s)| (k.into(), s.into()))
            .collect();
        let found: BTreeMap<String, String> = module_keys(&variant.config().init(&device))
            .into_iter()
            .map(|k| (k.key, k.shape.iter().map(ToString::to_string).collect::<Vec<_>>().join("x")))
            .collect();
        assert_eq!(found, expected, "{}", variant.name);
    }
}

/// The numbers of parameters that `kirie models list` tells.
#[test]
fn parameters_are_counted() {
    let device = Device::flex();
    for variant in registry::variants() {
        assert_eq!(variant.config().parameters(&device), variant.parameters, "{}", variant.name);
    }
}

struct Golden(StateDict);

impl Golden {
    fn get(&self, name: &str) -> Vec<f32> {
        self.0.read(name).unwrap().values
    }
}

struct Errors {
    model: &'static str,
    embedding: f32,
    statistics: f32,
    logits: f32,
    iou: f32,
    area: f64,
}

impl Errors {
    fn check(&self) {
        println!(
            "| {} | {:.1e} | {:.1e} | {:.1e} | {:.1e} | {:.4} % |",
            self.model,
            self.embedding,
            self.statistics,
            self.logits,
            self.iou,
            100.0 * self.area
        );
        assert!(self.embedding < EMBEDDING_TOLERANCE, "embedding: {}", self.embedding);
        assert!(self.statistics < EMBEDDING_TOLERANCE, "channel statistics: {}", self.statistics);
        assert!(self.logits < LOGITS_TOLERANCE, "logits: {}", self.logits);
        assert!(self.iou < IOU_TOLERANCE, "predicted IoU: {}", self.iou);
        assert!(self.area < AREA_TOLERANCE, "mask area: {}", self.area);
    }
}

fn largest_difference(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len());
    // `max` would pass over NaN
    found.iter().zip(expected).fold(0.0, |largest, (a, b)| {
        let difference = (a - b).abs();
        if difference > largest || difference.is_nan() { difference } else { largest }
    })
}

/// Every 4th row and column of `[planes, side, side]`.
fn subsample(values: &[f32], side: usize) -> Vec<f32> {
    values
        .chunks_exact(side * side)
        .flat_map(|plane| plane.chunks_exact(side).step_by(4).flat_map(|row| row.iter().step_by(4).copied()))
        .collect()
}

fn mode(multimask: bool) -> DecodeMode {
    DecodeMode { multimask, hq_only: false }
}

fn check_model(name: &'static str, prompts: &[(&str, Prompt, DecodeMode)]) {
    let device = Device::flex();
    let variant = registry::variant(name).unwrap();
    let weights = StateDict::by_formula(module_keys(&variant.config().init(&device)));
    let engine = BurnEngine::from_state_dict(variant, &weights, &device).unwrap();
    let golden = Golden(StateDict::open(data(&format!("golden_{name}.safetensors"))).unwrap());
    let picture = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/coffee.png");
    let picture = read_image(picture, &Limits::default()).unwrap();

    let mut predictor = Predictor::new(&engine);
    predictor.set_image(&picture).unwrap();
    let embedding = &predictor.image().unwrap().embedding.image;
    assert_eq!(embedding.shape, [1, 256, 64, 64]);
    let planes: Vec<f32> = embedding.values.chunks_exact(64 * 64).step_by(16).flatten().copied().collect();
    let (mean, std): (Vec<f32>, Vec<f32>) = embedding
        .values
        .chunks_exact(64 * 64)
        .map(|plane| {
            let mean = plane.iter().map(|v| f64::from(*v)).sum::<f64>() / 4096.0;
            let variance = plane.iter().map(|v| (f64::from(*v) - mean).powi(2)).sum::<f64>() / 4096.0;
            (mean as f32, variance.sqrt() as f32)
        })
        .unzip();
    // The fixture of HQ-SAM has no embedding: its encoder is SAM's.
    let (embedding, statistics) = if golden.0.shape("embedding_sub").is_some() {
        let statistics = largest_difference(&mean, &golden.get("embedding_channel_mean"))
            .max(largest_difference(&std, &golden.get("embedding_channel_std")));
        (largest_difference(&subsample(&planes, 64), &golden.get("embedding_sub")), statistics)
    } else {
        (0.0, 0.0)
    };
    let mut errors = Errors { model: name, embedding, statistics, logits: 0.0, iou: 0.0, area: 0.0 };

    let upscaler = predictor.upscaler().unwrap();
    let mut last: Option<Prediction> = None;
    for (key, prompt, mode) in prompts {
        let mut prompt = prompt.clone();
        if *key == "box_mask" {
            // the answer to `box`, two prompts before, fed back
            prompt = prompt.with_mask(last.clone().unwrap().low_res[0].clone());
        }
        let answer = predictor.predict(&[prompt], *mode).unwrap().remove(0);
        let low_res: Vec<f32> = answer.low_res.iter().flat_map(|m| subsample(m, 256)).collect();
        errors.logits =
            errors.logits.max(largest_difference(&low_res, &golden.get(&format!("{key}.low_res_sub"))));
        errors.iou = errors.iou.max(largest_difference(&answer.iou, &golden.get(&format!("{key}.iou"))));
        let areas = golden.get(&format!("{key}.mask_area"));
        assert_eq!(areas.len(), answer.low_res.len(), "{key}");
        for (low, expected) in answer.low_res.iter().zip(areas) {
            let area = upscaler.mask(low, 0.0).unwrap().area() as f64;
            let expected = f64::from(expected);
            errors.area = errors.area.max((area - expected).abs() / expected.max(1.0));
        }
        if key.starts_with("box") && last.is_none() {
            last = Some(answer);
        }
    }
    errors.check();
}

fn check(name: &'static str) {
    let boxed = || Prompt::bbox(100.0, 80.0, 420.0, 330.0);
    let one = Prompt::point(200.0, 150.0);
    let two = one.clone().with_point(500.5, 300.25, false);
    check_model(
        name,
        &[
            ("one_point", one, mode(true)),
            ("two_points", two, mode(false)),
            ("box", boxed(), mode(false)),
            ("box_point", boxed().with_point(250.0, 200.0, true), mode(true)),
            ("box_mask", boxed(), mode(false)),
        ],
    );
}

#[test]
fn efficientvit_sam_l0() {
    check("efficientvit-sam-l0");
}

#[test]
fn efficientvit_sam_l1() {
    check("efficientvit-sam-l1");
}

#[test]
fn efficientvit_sam_l2() {
    check("efficientvit-sam-l2");
}

#[test]
fn efficientvit_sam_xl0() {
    check("efficientvit-sam-xl0");
}

#[test]
fn efficientvit_sam_xl1() {
    check("efficientvit-sam-xl1");
}

#[test]
fn mobile_sam() {
    check("mobile-sam");
}

#[test]
fn sam_vit_b() {
    check("sam-vit-b");
}

#[test]
fn hq_sam_vit_b() {
    let hq = |multimask, hq_only| DecodeMode { multimask, hq_only };
    let point = || Prompt::point(200.0, 150.0);
    let boxed = || Prompt::bbox(100.0, 80.0, 420.0, 330.0);
    check_model(
        "hq-sam-vit-b",
        &[
            ("one_point.hq_only0", point(), hq(true, false)),
            ("one_point.hq_only1", point(), hq(true, true)),
            ("box.hq_only0", boxed(), hq(false, false)),
            ("box.hq_only1", boxed(), hq(false, true)),
        ],
    );
}

/// The models without goldens run, give finite numbers of the right shapes, and the two kinds of HQ answer differ.
fn check_runs(name: &str) {
    let device = Device::flex();
    let variant = registry::variant(name).unwrap();
    let weights = StateDict::by_formula(module_keys(&variant.config().init(&device)));
    let engine = BurnEngine::from_state_dict(variant, &weights, &device).unwrap();
    let picture = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/coffee.png");
    let mut predictor = Predictor::new(&engine);
    predictor.set_image(&read_image(picture, &Limits::default()).unwrap()).unwrap();
    let prompt = [Prompt::point(200.0, 150.0)];
    let answer = |mode| predictor.predict(&prompt, mode).unwrap().remove(0);
    let both = answer(mode(true));
    assert_eq!(both.low_res.len(), if variant.is_hq() { 1 } else { 3 }, "{name}");
    assert!(both.low_res.iter().flatten().chain(&both.iou).all(|v| v.is_finite()), "{name}");
    let hq_only = answer(DecodeMode { multimask: true, hq_only: true });
    assert_eq!(both.low_res != hq_only.low_res, variant.is_hq(), "{name}");
}

#[test]
fn hq_sam_vit_tiny_runs() {
    check_runs("hq-sam-vit-tiny");
}

#[test]
#[ignore = "needs about 10 GiB of memory and several minutes"]
fn every_variant_runs() {
    for variant in registry::variants() {
        println!("{}", variant.name);
        check_runs(variant.name);
    }
}
