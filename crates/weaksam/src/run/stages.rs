//! What each stage depends on, and does.

use std::path::{Path, PathBuf};

use kirie_engine::random::Streams;
use kirie_run::{RunFolder, config::to_toml};
use kirie_sam::checkpoint::StateDict;
use kirie_sam::{Predictor, registry};
use serde_json::{Value, json};

use super::{Context, Left, Stage, WeakConfig, hash_of};
use crate::WeakError;
use crate::classifier::{self, StemConfig};
use crate::detector::{self, DetectorConfig, DetectorFiles};
use crate::files::{Detections, Proposals, write_json};
use crate::instances;
use crate::labels::{DataConfig, Tagged, Untagged, root_of};
use crate::network::{BackboneConfig, FeatureConfig};
use crate::proposals::{self, Example, Part, ProposalConfig, Tools};
use crate::pseudo;
use crate::retrain::{self, RetrainConfig, RetrainFiles};
use crate::review;

const CLASSIFIER: &str = "classifier.safetensors";
/// Of the pictures that are learned from.
const PROPOSALS: &str = "proposals.json";
const PAGE: &str = "report.html";
/// Boxes taken for true.
const PSEUDO: &str = "pseudo.json";

/// The file of another part's proposals.
fn proposals_of(part: &str) -> String {
    format!("proposals-{}.json", plain(part))
}

/// Where a run leaves the proposals of a part of its set.
pub fn proposals_path(run: &Path, data: &DataConfig, part: &str) -> PathBuf {
    let file = if part == data.split { PROPOSALS.to_owned() } else { proposals_of(part) };
    run.join(Stage::Proposals.folder()).join(file)
}

/// Where a detector's stage leaves its boxes of a part.
pub fn detections_path(run: &Path, stage: Stage, data: &DataConfig, part: &str) -> PathBuf {
    run.join(stage.folder()).join(detections_of(data, part))
}

fn detections_of(data: &DataConfig, part: &str) -> String {
    if part == data.split { "detections.json".to_owned() } else { format!("detections-{}.json", plain(part)) }
}

/// Where a run leaves the masks of a part, as a COCO file.
pub fn instances_path(run: &Path, part: &str) -> PathBuf {
    run.join(Stage::Instances.folder()).join(instances_of(part)).join("instances.json")
}

/// The folder of a part's masks.
fn instances_of(part: &str) -> String {
    if part.is_empty() { "all".to_owned() } else { plain(part) }
}

/// A part's name as a file's.
fn plain(part: &str) -> String {
    part.replace(['/', '\\'], "_")
}

/// The parts of the set, that which is learned from first.
fn parts(data: &DataConfig) -> impl Iterator<Item = &str> {
    std::iter::once(data.split.as_str()).chain(data.others.iter().map(String::as_str))
}

/// What a stage depends on beside the files of stages before it.
pub(super) fn inputs(
    stage: Stage,
    config: &WeakConfig,
    root: &Path,
    context: &Context<'_>,
) -> Result<Value, WeakError> {
    let set = |config: &WeakConfig| Tagged::open(&config.data)?.fingerprint();
    Ok(match stage {
        Stage::Classifier => json!({
            "seed": config.seed, "set": set(config)?, "classifier": config.classifier,
        }),
        Stage::Proposals => {
            let mut parts = Vec::new();
            for part in &config.data.others {
                parts.push((part, Untagged::open(&config.data, part)?.fingerprint()?));
            }
            let sam = if config.proposals.wants_sam() {
                (context.engine_hash)(&config.sam)?
            } else {
                String::new()
            };
            let model = (&config.sam.model, config.sam.input, sam);
            json!({
                "seed": config.seed, "set": set(config)?, "parts": parts, "sam": model, "proposals": config.proposals,
            })
        }
        Stage::Detector => {
            json!({ "seed": config.seed, "detector": config.detector, "parts": config.data.others })
        }
        Stage::Pseudo => json!({ "pseudo": config.pseudo }),
        Stage::Retrain => {
            json!({ "seed": config.seed, "retrain": config.retrain, "boxes": hash_of(&boxes_to_learn(root)?)? })
        }
        Stage::Instances => json!({
            "instances": config.instances, "sam": (&config.sam.model, config.sam.input),
            "weights": (context.engine_hash)(&config.sam)?,
        }),
        Stage::Review => {
            let review = &config.review;
            json!({ "boxes": hash_of(&pseudo_file(root)?)?, "count": review.count, "format": review.format })
        }
        Stage::Corrections => {
            let review = &config.review;
            json!({
                "boxes": hash_of(&pseudo_file(root)?)?, "corrected": hash_folder(&corrected(config, root)?)?,
                "weight": review.weight, "confirm": review.confirm_unchanged,
            })
        }
    })
}

/// Does a stage's work in its folder.
pub(super) fn work(
    stage: Stage,
    config: &WeakConfig,
    root: &Path,
    folder: &Path,
    context: &Context<'_>,
    say: &mut dyn FnMut(&str),
) -> Result<Left, WeakError> {
    match stage {
        Stage::Classifier => train_classifier(config, folder, context, say),
        Stage::Proposals => propose(config, root, folder, context, say),
        Stage::Detector => detect(config, root, folder, context),
        Stage::Pseudo => {
            let from = detections_path(root, Stage::Detector, &config.data, &config.data.split);
            let summary = pseudo::run(&config.pseudo, &root_of(&config.data)?, &from, &folder.join(PSEUDO))?;
            Ok(Left { files: vec![PSEUDO.to_owned()], figures: json!(summary) })
        }
        Stage::Retrain => retrain(config, root, folder, context, say),
        Stage::Instances => cut_out(config, root, folder, context),
        Stage::Review => {
            let boxes = Detections::read(&pseudo_file(root)?)?;
            let set = Tagged::open(&config.data)?;
            let out = folder.join("review");
            let cases = review::export(&boxes, &set.root, &config.review, &out)?;
            say(&format!("review: {} pictures are in {}", cases.len(), out.display()));
            Ok(Left {
                files: Vec::new(),
                figures: json!({ "pictures": cases.len(), "folder": out, "cases": cases }),
            })
        }
        Stage::Corrections => {
            let boxes = Detections::read(&pseudo_file(root)?)?;
            let imported = review::import(&boxes, &corrected(config, root)?, &config.review)?;
            imported.detections.write(&folder.join(PSEUDO))?;
            let (changed, unchanged) = (&imported.changed, &imported.unchanged);
            say(&format!(
                "corrections: {} pictures changed, {} came back as they were",
                changed.len(),
                unchanged.len()
            ));
            Ok(Left {
                files: vec![PSEUDO.to_owned()],
                figures: json!({ "changed": changed, "unchanged": unchanged }),
            })
        }
    }
}

/// The pseudo boxes that a person may correct.
fn pseudo_file(root: &Path) -> Result<PathBuf, WeakError> {
    let path = root.join(Stage::Pseudo.folder()).join(PSEUDO);
    if path.is_file() {
        return Ok(path);
    }
    Err(WeakError::content(&path, "", "is not there: only boxes that were found can be reviewed"))
}

/// The folder with the corrections: the export itself unless another is named.
fn corrected(config: &WeakConfig, root: &Path) -> Result<PathBuf, WeakError> {
    let own = root.join(Stage::Review.folder()).join("review");
    let path = config.review.corrected.clone().unwrap_or(own);
    if path.is_dir() {
        return Ok(path);
    }
    Err(WeakError::content(
        &path,
        "",
        "is no folder; --stage review makes one, review.corrected names another",
    ))
}

/// SHA-256 over the label files of a folder.
fn hash_folder(folder: &Path) -> Result<Vec<(String, String)>, WeakError> {
    let mut hashes = Vec::new();
    for folder in [folder.to_owned(), folder.join("labels")] {
        let Ok(entries) = std::fs::read_dir(&folder) else { continue };
        for path in entries.filter_map(Result::ok).map(|entry| entry.path()) {
            if path.extension().is_some_and(|extension| extension == "json") {
                hashes.push((path.display().to_string(), hash_of(&path)?));
            }
        }
    }
    hashes.sort();
    Ok(hashes)
}

fn train_classifier(
    config: &WeakConfig,
    folder: &Path,
    context: &Context<'_>,
    say: &mut dyn FnMut(&str),
) -> Result<Left, WeakError> {
    let set = Tagged::open(&config.data)?;
    set.notes.iter().for_each(|note| say(&format!("classifier: {note}")));
    say(&format!(
        "classifier: {} pictures, {} classes: {}",
        set.pictures.len(),
        set.classes.len(),
        set.classes.join(", ")
    ));
    let run = if folder.join("config.toml").is_file() {
        RunFolder::open(folder)?
    } else {
        let run = RunFolder::create(folder)?;
        run.write_config(&to_toml(&config.classifier)?)?;
        run
    };
    let base = match &config.classifier.model.stem {
        StemConfig::Encoder { base, .. } => (context.base)(base)?,
        StemConfig::Patches { .. } => None,
    };
    let trained = classifier::run(
        &config.classifier,
        config.seed,
        &set,
        base,
        &run,
        context.device,
        context.stop,
        context.mode,
    )?;
    if !trained.complete {
        let during =
            format!("after {} of {} steps of the classifier", trained.steps, config.classifier.plan.steps);
        return Err(WeakError::Stopped { during });
    }
    classifier::train::save(
        &folder.join(CLASSIFIER),
        &trained.model,
        &config.classifier.model,
        &set.classes,
    )?;
    let figures: serde_json::Map<String, Value> =
        trained.figures.iter().map(|(name, value)| (name.clone(), json!(value))).collect();
    let figures = json!({ "classes": set.classes, "pictures": set.pictures.len(), "validation": figures });
    run.write_metrics(&figures)?;
    Ok(Left { files: vec![CLASSIFIER.to_owned()], figures })
}

fn propose(
    config: &WeakConfig,
    root: &Path,
    folder: &Path,
    context: &Context<'_>,
    say: &mut dyn FnMut(&str),
) -> Result<Left, WeakError> {
    let set = Tagged::open(&config.data)?;
    let path = root.join(Stage::Classifier.folder()).join(CLASSIFIER);
    let (model, sizes, classes) = classifier::load(&path, context.device)?;
    if classes != set.classes {
        let reason = format!("knows {}, the set has {}", classes.join(", "), set.classes.join(", "));
        return Err(WeakError::content(&path, "", reason));
    }
    let settings = &config.proposals;
    let engine = if settings.wants_sam() { Some((context.engine)(&config.sam)?) } else { None };
    let tools = Tools {
        classes: &set.classes,
        classifier: settings.wants_maps().then_some((&model, &sizes)),
        engine: engine.as_deref(),
        device: context.device,
        streams: Streams::new(config.seed),
    };
    let mut files = vec![PROPOSALS.to_owned()];
    let pictures = Part::Tagged(&set);
    let path = folder.join(PROPOSALS);
    let (proposals, seconds) = propose_once(pictures, &tools, settings, &path, context)?;
    let mut parts = serde_json::Map::new();
    for part in &config.data.others {
        let others = Untagged::open(&config.data, part)?;
        say(&format!("proposals: {} pictures of {part}", others.files.len()));
        let path = folder.join(proposals_of(part));
        let (found, _) = propose_once(Part::Untagged(&others), &tools, settings, &path, context)?;
        parts.insert(part.clone(), json!(mean_count(&found)));
        files.push(proposals_of(part));
    }
    let mut about = vec![("Model".to_owned(), config.sam.model.clone())];
    about.extend(seconds.map(|seconds| ("Seconds a picture".to_owned(), format!("{seconds:.2}"))));
    let examples = Example::some(pictures, &tools, settings, context.stop)?;
    proposals::page(&proposals, &examples, &about)?.write(folder.join(PAGE))?;
    let figures = json!({
        "pictures": proposals.images.len(), "proposals_a_picture": mean_count(&proposals), "other_parts": parts,
        "seconds_a_picture": seconds,
    });
    write_json(&folder.join("metrics.json"), &figures)?;
    Ok(Left { files, figures })
}

/// The proposals of a part, unless an earlier process has finished them: the folder holds none of other settings.
fn propose_once(
    pictures: Part<'_>,
    tools: &Tools<'_>,
    config: &ProposalConfig,
    path: &Path,
    context: &Context<'_>,
) -> Result<(Proposals, Option<f64>), WeakError> {
    if path.is_file() {
        return Ok((Proposals::read(path)?, None));
    }
    proposals::propose(pictures, tools, config, path, context.stop, context.mode)
}

/// The weights that a detector's backbone begins with.
pub(crate) fn base_of(
    features: &FeatureConfig,
    root: &Path,
    context: &Context<'_>,
) -> Result<Option<StateDict>, WeakError> {
    if features.from_classifier {
        let path = root.join(Stage::Classifier.folder()).join(CLASSIFIER);
        let stages = |key: &str| {
            key.strip_prefix("patch_embed.backbone.").map(|k| format!("image_encoder.backbone.{k}"))
        };
        return Ok(Some(StateDict::open(path)?.renamed(stages)));
    }
    match &features.backbone {
        BackboneConfig::Encoder { model } => (context.base)(model),
        BackboneConfig::Plain { .. } => Ok(None),
    }
}

/// For each part its proposals, and where its detections go.
fn to_detect(config: &WeakConfig, root: &Path, folder: &Path) -> Vec<(PathBuf, PathBuf)> {
    let data = &config.data;
    parts(data)
        .map(|part| (proposals_path(root, data, part), folder.join(detections_of(data, part))))
        .collect()
}

fn detect(config: &WeakConfig, root: &Path, folder: &Path, context: &Context<'_>) -> Result<Left, WeakError> {
    let files = DetectorFiles {
        root: root_of(&config.data)?,
        train: proposals_path(root, &config.data, &config.data.split),
        detect: to_detect(config, root, folder),
    };
    let settings = DetectorConfig { seed: config.seed, ..config.detector.clone() };
    let base = base_of(&settings.features, root, context)?;
    let summary = detector::run(&settings, &files, base, folder, context.device, context.stop, context.mode)?;
    if !summary.complete {
        let during = format!("after {} of {} steps of the detector", summary.steps, settings.plan.steps);
        return Err(WeakError::Stopped { during });
    }
    let files = parts(&config.data).map(|part| detections_of(&config.data, part)).collect();
    Ok(Left { files, figures: json!(summary) })
}

/// The boxes that are learned from: the corrected ones if there are any of the present pseudo boxes.
fn boxes_to_learn(root: &Path) -> Result<PathBuf, WeakError> {
    let corrected = root.join(Stage::Corrections.folder()).join(PSEUDO);
    if corrected.is_file() { Ok(corrected) } else { pseudo_file(root) }
}

fn retrain(
    config: &WeakConfig,
    root: &Path,
    folder: &Path,
    context: &Context<'_>,
    say: &mut dyn FnMut(&str),
) -> Result<Left, WeakError> {
    let train = boxes_to_learn(root)?;
    say(&format!("retrain: learns from {}", train.display()));
    let files = RetrainFiles { root: root_of(&config.data)?, train, detect: to_detect(config, root, folder) };
    let settings = RetrainConfig { seed: config.seed, ..config.retrain.clone() };
    let base = base_of(&settings.features, root, context)?;
    let summary = retrain::run(&settings, &files, base, folder, context.device, context.stop, context.mode)?;
    if !summary.complete {
        let during = format!("after {} of {} steps of the retraining", summary.steps, settings.plan.steps);
        return Err(WeakError::Stopped { during });
    }
    let files = parts(&config.data).map(|part| detections_of(&config.data, part)).collect();
    Ok(Left { files, figures: json!(summary) })
}

fn cut_out(
    config: &WeakConfig,
    root: &Path,
    folder: &Path,
    context: &Context<'_>,
) -> Result<Left, WeakError> {
    let engine = (context.engine)(&config.sam)?;
    let zoom = registry::variant(&config.sam.model).ok().and_then(|variant| variant.zoom);
    let mut predictor = Predictor::new(engine.as_ref()).with_zoom(zoom);
    let set = root_of(&config.data)?;
    let (mut files, mut figures) = (Vec::new(), serde_json::Map::new());
    for part in parts(&config.data) {
        let from = detections_path(root, Stage::Retrain, &config.data, part);
        let name = instances_of(part);
        let out = folder.join(&name);
        let (settings, stop) = (&config.instances, context.stop);
        let summary = instances::run(settings, &set, &from, Some(&mut predictor), &out, stop, context.mode)?;
        figures.insert(part.to_owned(), json!(summary));
        files.push(format!("{name}/instances.json"));
    }
    Ok(Left { files, figures: Value::Object(figures) })
}

fn mean_count(proposals: &Proposals) -> f64 {
    let all: usize = proposals.images.iter().map(|image| image.boxes.len()).sum();
    all as f64 / proposals.images.len().max(1) as f64
}
