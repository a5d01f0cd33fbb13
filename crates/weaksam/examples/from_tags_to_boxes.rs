//! The stages from proposals on, called one after the other, and measured:
//! `cargo run -p kirie-weaksam --example from_tags_to_boxes -- SET OUT [detector=FILE] [retrain=FILE] [train=FILE] [test=FILE]
//! [preset=mist] [pseudo=adaptive|top|threshold|true] [set:KEY=VALUE]... [retrain:KEY=VALUE]...`
//!
//! SET is a folder with boxes in parts `train` and `test`; of `train` only the labels of pictures are learned from, unless
//! `pseudo=true` asks for the upper bound. `train` and `test` are files of proposals; without them a grid of boxes is taken.
//! `detector` and `retrain` are TOML files, or presets that `set:` and `retrain:` change. What is complete in OUT is not done again.
#![allow(clippy::print_stdout)]

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use burn::tensor::Device;
use kirie_run::{ProgressMode, Stop, config};
use kirie_sam::checkpoint::StateDict;
use kirie_sam::{BurnEngine, Predictor, registry};
use kirie_weaksam::detector::{self, DetectorConfig, DetectorFiles, Preset};
use kirie_weaksam::files::{Corners, Detections, ImageProposals, Proposals, Source};
use kirie_weaksam::instances::{self, InstanceConfig};
use kirie_weaksam::measure::{Truth, measure_boxes};
use kirie_weaksam::pseudo::{self, PseudoConfig, PseudoRule};
use kirie_weaksam::retrain::{self, RetrainConfig, RetrainFiles};
use serde::Serialize;
use serde::de::DeserializeOwned;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [set, out, options @ ..] = args.as_slice() else {
        return Err("usage: from_tags_to_boxes SET OUT [KEY=VALUE]...".into());
    };
    let (set, out) = (PathBuf::from(set), PathBuf::from(out));
    fs::create_dir_all(&out)?;
    let mut named: HashMap<&str, &str> = HashMap::new();
    let (mut sets, mut retrain_sets) = (Vec::new(), Vec::new());
    for option in options {
        if let Some(set) = option.strip_prefix("set:") {
            sets.push(set.to_owned());
        } else if let Some(set) = option.strip_prefix("retrain:") {
            retrain_sets.push(set.to_owned());
        } else {
            let (key, value) = option.split_once('=').ok_or("expected KEY=VALUE")?;
            named.insert(key, value);
        }
    }
    let (device, stop, mode) = (Device::flex(), Stop::install()?, ProgressMode::Auto);
    let classes = class_names(&set)?;
    let [train_truth, test_truth] =
        [Truth::open(&set, Some("train"), &classes)?, Truth::open(&set, Some("test"), &classes)?];

    let preset: Preset = match named.get("preset").copied().unwrap_or("mist") {
        "wsddn" => Preset::Wsddn,
        "oicr" => Preset::Oicr,
        "oicr-near" => Preset::OicrNear,
        "mist" => Preset::Mist,
        other => return Err(format!("preset {other}").into()),
    };
    let pseudo = named.get("pseudo").copied().unwrap_or("adaptive");
    let boxes = out.join(format!("pseudo-{pseudo}.json"));
    if pseudo == "true" {
        train_truth.to_boxes().write(&boxes)?;
    } else {
        let [train, test] = [("train", &train_truth), ("test", &test_truth)].map(|(part, truth)| {
            named.get(part).map_or_else(
                || grid(truth, &out.join(format!("grid-{part}.json"))),
                |file| Ok(PathBuf::from(file)),
            )
        });
        let (train, test) = (train?, test?);
        let config =
            configured(&DetectorConfig::preset(preset), named.get("detector").copied(), &sets, &out)?;
        let detections = [out.join("detections-train.json"), out.join("detections-test.json")];
        let [first, second] = detections.clone();
        let files = DetectorFiles {
            root: set.clone(),
            train: train.clone(),
            detect: vec![(train, first), (test, second)],
        };
        let began = Instant::now();
        if !detections.iter().all(|file| file.is_file()) {
            let run = out.join("detector");
            let summary = detector::run(&config, &files, None, &run, &device, &stop, mode)?;
            println!("detector: {} steps, {:.0} s", summary.steps, began.elapsed().as_secs_f64());
            if !summary.complete {
                return Ok(());
            }
        }
        say("detector", &train_truth, &test_truth, &detections)?;
        let rule = match pseudo {
            "adaptive" => PseudoConfig::default().rule,
            "published" => PseudoRule::Published { score: 0.3, overlap: 0.85 },
            "top" => PseudoRule::Top { count: 1 },
            "threshold" => PseudoRule::Threshold { score: 0.5 },
            other => return Err(format!("pseudo {other}").into()),
        };
        let summary =
            pseudo::run(&PseudoConfig { rule, ..PseudoConfig::default() }, &set, &detections[0], &boxes)?;
        println!("pseudo {pseudo}: {}", serde_json::to_string(&summary)?);
    }
    if named.contains_key("only") {
        return Ok(());
    }

    let config = configured(&RetrainConfig::default(), named.get("retrain").copied(), &retrain_sets, &out)?;
    let [first, second] = ["train", "test"].map(|part| out.join(format!("retrained-{pseudo}-{part}.json")));
    let lists = [out.join("list-train.json"), out.join("list-test.json")];
    train_truth.to_boxes().write(&lists[0])?;
    test_truth.to_boxes().write(&lists[1])?;
    let [a, b] = lists;
    let files = RetrainFiles {
        root: set.clone(),
        train: boxes,
        detect: vec![(a, first.clone()), (b, second.clone())],
    };
    let began = Instant::now();
    let run = out.join(format!("retrain-{pseudo}"));
    let summary = retrain::run(&config, &files, None, &run, &device, &stop, mode)?;
    println!("retrained on {pseudo}: {} steps, {:.0} s", summary.steps, began.elapsed().as_secs_f64());
    if !summary.complete {
        return Ok(());
    }
    say("retrained", &train_truth, &test_truth, &[first, second.clone()])?;

    let variant = registry::variant("kirie-small")?;
    let weights = StateDict::from_gzip(variant.name, variant.built_in.ok_or("no weights")?)?;
    let engine = BurnEngine::from_state_dict(variant, &weights, &device)?;
    let mut predictor = Predictor::new(&engine).with_zoom(variant.zoom);
    let config = InstanceConfig::default();
    let summary = instances::run(
        &config,
        &set,
        &second,
        Some(&mut predictor),
        &out.join(format!("instances-{pseudo}")),
        &stop,
        mode,
    )?;
    println!("instances: {}", serde_json::to_string(&summary)?);
    Ok(())
}

fn say(what: &str, train: &Truth, test: &Truth, files: &[PathBuf; 2]) -> Result<()> {
    for (part, truth, file) in [("train", train, &files[0]), ("test", test, &files[1])] {
        let figures = measure_boxes(truth, &Detections::read(file)?)?;
        println!(
            "{what} on {part}: AP50 {:.4} (11 points {:.4}), CorLoc {:.4}, COCO AP {:.4}; {}",
            figures.voc_all.unwrap_or(f64::NAN),
            figures.voc_11.unwrap_or(f64::NAN),
            figures.corloc.unwrap_or(f64::NAN),
            figures.coco.ap.unwrap_or(f64::NAN),
            serde_json::to_string(&figures.voc_all_of)?
        );
    }
    Ok(())
}

/// A configuration from a file, or from a preset with changes.
fn configured<T: Serialize + DeserializeOwned>(
    preset: &T,
    file: Option<&str>,
    sets: &[String],
    out: &Path,
) -> Result<T> {
    let made = out.join("preset.toml");
    fs::write(&made, config::to_toml(preset)?)?;
    Ok(config::load(Some(file.map_or(made.as_path(), Path::new)), sets)?.value)
}

fn class_names(set: &Path) -> Result<Vec<String>> {
    let set = kirie_data::datasets::open(set, None)?;
    Ok(set.classes.iter().filter(|class| !class.is_background()).map(|class| class.name.clone()).collect())
}

/// Boxes of four sizes and three shapes all over each picture.
fn grid(truth: &Truth, path: &Path) -> Result<PathBuf> {
    let images = truth.to_boxes().images.into_iter().map(|image| {
        let (width, height) = (image.width as f32, image.height as f32);
        let mut boxes: Vec<Corners> = Vec::new();
        for side in [0.2_f32, 0.35, 0.55, 0.8] {
            for shape in [0.5_f32, 1.0, 2.0] {
                let side = side * (width * height).sqrt();
                let (w, h) = ((side * shape.sqrt()).min(width), (side / shape.sqrt()).min(height));
                let steps = |room: f32, size: f32| ((room - size) / (0.4 * size)).ceil() as usize;
                let (across, down) = (steps(width, w), steps(height, h));
                for y in 0..=down {
                    for x in 0..=across {
                        let x0 = (width - w) * x as f32 / across.max(1) as f32;
                        let y0 = (height - h) * y as f32 / down.max(1) as f32;
                        boxes.push([x0, y0, (x0 + w).min(width), (y0 + h).min(height)]);
                    }
                }
            }
        }
        let count = boxes.len();
        // Larger ones first, where there are too many.
        let scores = (0..count).map(|at| at as f32 / count as f32).collect();
        ImageProposals {
            file: image.file,
            width: image.width,
            height: image.height,
            labels: image.labels,
            boxes,
            scores,
            source: vec![Source::Grid; count],
        }
    });
    Proposals { classes: truth.classes.clone(), images: images.collect() }.write(path)?;
    Ok(path.to_owned())
}
