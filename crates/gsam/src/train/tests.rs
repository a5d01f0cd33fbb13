//! A tiny network learns a drawn set, and does not notice being interrupted.

use std::fs;
use std::path::Path;

use kirie_sam::checkpoint::state_dict_of;
use tempfile::TempDir;

use super::*;
use crate::config::{HoldOut, InputConfig, TestMode};
use crate::testing::{Tiny, config, data, draw_set};

fn go(
    config: &TrainConfig<Option<bool>>,
    folder: &Path,
    stop: &Stop,
) -> Result<Trained<Tiny>, SemanticError> {
    let folder = if let Ok(folder) = RunFolder::open(folder) {
        folder
    } else {
        let folder = RunFolder::create(folder)?;
        folder.write_config("")?;
        folder
    };
    let device = Device::flex();
    let pictures = Pictures::open(&config.data)?;
    let inspection = Inspection::of(&pictures, &config.input)?;
    let model = Tiny::new(pictures.classes().len(), 3, 1, &device.clone().autodiff());
    let about = About { title: "tiny".to_owned(), metadata: BTreeMap::new() };
    run(config, &pictures, &inspection, model, &about, &folder, &device, stop, ProgressMode::Silent)
}

fn drawn() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    draw_set(folder.path(), "train", 0..6);
    folder
}

fn log(run: &Path) -> Vec<kirie_run::Record> {
    let mut records = kirie_run::log::read(run.join("log.jsonl")).unwrap();
    for record in &mut records {
        record.remove("seconds");
    }
    records
}

#[test]
fn it_learns_and_keeps_the_best() {
    let (set, place) = (drawn(), tempfile::tempdir().unwrap());
    let mut config = config(set.path(), 24);
    config.loss.focal = 0.5;
    config.loss.class_weights =
        crate::config::ClassWeights::Rule(crate::config::WeightRule::InverseFrequency);
    let trained = go(&config, place.path(), &Stop::never()).unwrap();
    let summary = &trained.summary;
    assert!(summary.complete && summary.steps == 24 && summary.pictures_seen == 48);
    let (before, best) = (summary.before["miou"], summary.best["miou"]);
    assert!(best > before + 0.2 && best > 0.6, "{before} -> {best}");
    assert!(summary.best.contains_key("iou.disc") && summary.best_step.is_some());
    assert!(summary.seconds_per_step.is_some_and(|seconds| seconds > 0.0));
    assert!(summary.peak_memory_bytes.is_some_and(|bytes| bytes > 1 << 20) || cfg!(not(target_os = "linux")));
    assert!(summary.cpu_seconds.is_some() || cfg!(not(target_os = "linux")));

    // The model that comes back is the one of the best checkpoint: it scores what the log says.
    let device = Device::flex();
    let pictures = Pictures::open(&config.data).unwrap();
    let scored = crate::evaluate::evaluate(
        &trained.model,
        pictures.validation(),
        pictures.classes(),
        &config.test,
        &device,
        &crate::evaluate::EvaluateOptions::default(),
        &mut |_| {},
    )
    .unwrap();
    assert!((scored.report.miou.unwrap() - best).abs() < 1e-12);

    let records = log(place.path());
    assert_eq!(records[0]["step"], 0);
    assert!(records.iter().any(|record| record.contains_key("cross_entropy") && record.contains_key("dice")));
    assert!(place.path().join("samples/step-24-worst.jpg").is_file());
    let stored: Summary =
        serde_json::from_slice(&fs::read(place.path().join("metrics.json")).unwrap()).unwrap();
    assert_eq!(stored.best_step, summary.best_step);
    assert!(fs::read_to_string(place.path().join("report.html")).unwrap().contains("tiny"));
}

#[test]
fn an_interrupted_run_ends_with_the_same_bits() {
    let set = drawn();
    let mut config = config(set.path(), 10);
    config.input = InputConfig { multi_scale: [0.7, 1.3], rotate: 20.0, ..config.input };
    config.plan.average = Some(0.9);
    let (whole, cut) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let expected = go(&config, whole.path(), &Stop::never()).unwrap();

    // Asked to end before it began, then killed after the checkpoint of step 4, then gone on with.
    let stopped = Stop::never();
    stopped.request();
    let first = go(&config, cut.path(), &stopped).unwrap();
    assert!(!first.summary.complete && first.summary.steps == 0);
    go(&config, cut.path(), &Stop::never()).unwrap();
    for step in [8, 10] {
        fs::remove_dir_all(cut.path().join(format!("checkpoints/step-{step}"))).unwrap();
    }
    for pointer in ["latest", "best"] {
        fs::remove_file(cut.path().join("checkpoints").join(pointer)).ok();
    }
    let resumed = go(&config, cut.path(), &Stop::never()).unwrap();
    assert!(resumed.summary.complete);
    assert_eq!(log(whole.path()), log(cut.path()));
    let bits = |model: &Tiny| -> Vec<(String, Vec<u32>)> {
        let tensors = state_dict_of(model).into_iter();
        tensors.map(|(name, t)| (name, t.values.iter().map(|v| v.to_bits()).collect())).collect()
    };
    assert_eq!(bits(&expected.model), bits(&resumed.model));
    assert_eq!(expected.summary.before, resumed.summary.before);
    assert_eq!(expected.summary.best, resumed.summary.best);
}

#[test]
fn batches_follow_from_step_and_part_alone() {
    use kirie_engine::Method as _;
    let set = drawn();
    let mut config = config(set.path(), 4);
    config.plan.accumulate = 2;
    config.input.crop = None;
    let pictures = Pictures::open(&config.data).unwrap();
    let inspection = Inspection::of(&pictures, &config.input).unwrap();
    let device = Device::flex();
    let about = About::default();
    let model = Tiny::new(3, 1, 1, &device);
    let method = || SemanticMethod::new(&config, &pictures, &inspection, &model, &about, &device).unwrap();
    let (one, other) = (method(), method());
    let later = one.batch(3, 1).unwrap();
    assert_eq!(one.batch(0, 1).unwrap(), other.batch(0, 1).unwrap());
    assert_eq!(later, other.batch(3, 1).unwrap());
    assert_ne!(later, other.batch(3, 0).unwrap());
    // Whole pictures of different sizes share a batch.
    let [count, height, width] = later.views.shape;
    assert_eq!(count, 2);
    assert_eq!(later.views.labels.len(), count * height * width);
}

#[test]
fn nothing_held_out_gives_the_last_weights() {
    let (set, place) = (drawn(), tempfile::tempdir().unwrap());
    let mut config = config(set.path(), 3);
    config.data.hold_out = HoldOut::None;
    let trained = go(&config, place.path(), &Stop::never()).unwrap();
    assert!(trained.summary.complete && trained.summary.before.is_empty());
    assert_eq!(trained.summary.best_step, None);
}

#[test]
fn what_does_not_fit_is_refused() {
    let (set, place) = (drawn(), tempfile::tempdir().unwrap());
    let config = config(set.path(), 3);
    let said = |config: &TrainConfig<Option<bool>>, name: &str| {
        go(config, &place.path().join(name), &Stop::never()).unwrap_err().to_string()
    };
    let mut small = config.clone();
    small.input.crop = Some([64, 64]);
    small.input.pad = false;
    let text = said(&small, "a");
    assert!(text.contains("cannot be used") && text.contains("the crop of 64x64"), "{text}");

    let mut weights = config.clone();
    weights.loss.class_weights = crate::config::ClassWeights::Given(vec![1.0, 2.0]);
    assert!(said(&weights, "b").contains("expected 3 numbers, for ground, disc, bar"));

    let mut gaps = config.clone();
    gaps.test.mode =
        TestMode::Slide { window: [32, 32], stride: [40, 32], blend: crate::config::Blend::Uniform };
    assert!(said(&gaps, "c").contains("test.mode.stride"));

    // Another number of classes than the network has.
    let pictures = Pictures::open(&data(set.path())).unwrap();
    let inspection = Inspection::of(&pictures, &config.input).unwrap();
    let (device, about) = (Device::flex(), About::default());
    let model = Tiny::new(2, 1, 1, &device);
    let error = SemanticMethod::new(&config, &pictures, &inspection, &model, &about, &device).unwrap_err();
    assert_eq!(error.to_string(), "the network gave 2 classes, expected 3 classes: ground, disc, bar");
}
