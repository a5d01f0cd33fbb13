//! Many chains on one set, and one table that says what each ingredient is worth.
//!
//! ```text
//! FOLDER/NAME-sSEED/   a run's folder, as that of the chain
//! FOLDER/sweep.json    all figures
//! FOLDER/sweep.csv     one line a run
//! FOLDER/sweep.html    the table
//! ```
//!
//! A stage that two runs have in common, down to the last setting and picture, is done once and copied ([`Context::reuse`]). Called
//! again, what is done is passed over, so that a sweep that was stopped goes on. True boxes are read for scoring, and to train the
//! detector that [`Scored::TrueBoxes`] asks for: the bound that the others are held against.

mod table;

use std::fs;
use std::path::{Path, PathBuf};

use kirie_data::{create_parent, write_atomic};
use kirie_run::RunFolder;
use kirie_run::config::to_toml;
use kirie_sam::{Predictor, registry};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::WeakError;
use crate::files::{Detections, Proposals, read_json, write_json};
use crate::instances;
use crate::labels::{Tagged, hex, root_of};
use crate::measure::{MaskFigures, Truth, measure_boxes, measure_masks};
use crate::proposals::recall::recall;
use crate::retrain::{self, RetrainConfig, RetrainFiles};
use crate::run::{Context, Stage, WeakConfig, base_of, detections_path, instances_path, proposals_path, run};

pub use table::{Group, Spread, csv, groups, page};

/// What says that the detector of [`Scored::TrueBoxes`] is done.
const BOUND: &str = "bound.json";
/// Its folder in a run's.
const BOUND_FOLDER: &str = "true-boxes";

/// Whose boxes are scored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scored {
    /// The weak detector's.
    Detector,
    /// Those of the detector that was retrained on pseudo boxes.
    #[default]
    Retrained,
    /// Those of the same detector trained on true boxes: what could be reached.
    TrueBoxes,
}

impl Scored {
    /// The stages that lead there.
    fn stages(self) -> &'static [Stage] {
        match self {
            Self::Detector => &Stage::AUTOMATIC[..3],
            Self::Retrained => &Stage::AUTOMATIC[..5],
            Self::TrueBoxes => &[],
        }
    }
}

/// A run of a sweep. Runs of one name are repetitions of each other.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Entry {
    /// Its name: letters, digits, `-`, `_` and `.`.
    pub name: String,
    /// Whose boxes are scored.
    pub scored: Scored,
    /// The chain, its seed included.
    pub config: WeakConfig,
}

impl Entry {
    /// The name of its folder.
    pub fn folder(&self) -> String {
        format!("{}-s{}", self.name, self.config.seed)
    }

    /// A stage's settings and those of all that it follows from: what two runs must have in common to share it.
    fn settings(&self, stage: Stage) -> Option<String> {
        let config = &self.config;
        if self.scored == Scored::TrueBoxes {
            return (stage == Stage::Retrain)
                .then(|| json!([config.seed, "true", config.retrain]).to_string());
        }
        let last = self.scored.stages().iter().position(|own| *own == stage)?;
        let of = |stage: &Stage| match stage {
            Stage::Classifier => json!(config.classifier),
            Stage::Proposals => json!([config.sam, config.proposals]),
            Stage::Detector => json!(config.detector),
            Stage::Pseudo => json!(config.pseudo),
            _ => json!(config.retrain),
        };
        let all: Vec<Value> = self.scored.stages()[..=last].iter().map(of).collect();
        Some(json!([config.seed, all]).to_string())
    }
}

/// How often a stage will be done, if nothing is done yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Work {
    /// The stage.
    pub stage: Stage,
    /// Times.
    pub times: usize,
    /// Steps of all these together; 0 where nothing is trained.
    pub steps: u64,
}

/// The work of some runs, shared stages counted once.
pub fn work(entries: &[Entry]) -> Vec<Work> {
    let mut all = Vec::new();
    for stage in &Stage::AUTOMATIC[..5] {
        let mut seen = std::collections::HashSet::new();
        let mut work = Work { stage: *stage, times: 0, steps: 0 };
        for entry in entries {
            if entry.settings(*stage).is_some_and(|settings| seen.insert(settings)) {
                work.times += 1;
                work.steps += match stage {
                    Stage::Classifier => entry.config.classifier.plan.steps,
                    Stage::Detector => entry.config.detector.plan.steps,
                    Stage::Retrain => entry.config.retrain.plan.steps,
                    _ => 0,
                };
            }
        }
        all.push(work);
    }
    all
}

/// What came out of a run, 0 to 1; `None` where there is nothing to measure.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Figures {
    /// Proposals a picture that the weak detector looks at, mean.
    pub proposals: Option<f64>,
    /// Share of true boxes that one of these overlaps by 0.5, 0.75, 0.9.
    pub recall: Option<[f64; 3]>,
    /// AP at 0.5, VOC's all points.
    pub ap50: Option<f64>,
    /// The same by 11 points.
    pub ap50_11: Option<f64>,
    /// COCO's AP.
    pub coco_ap: Option<f64>,
    /// CorLoc, on the pictures that were learned from.
    pub corloc: Option<f64>,
    /// Of the masks, where the set has them and boxes were retrained.
    pub masks: Option<MaskFigures>,
}

/// A finished run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// Its name.
    pub name: String,
    /// Whose boxes were scored.
    pub scored: Scored,
    /// Its seed.
    pub seed: u64,
    /// What came out.
    #[serde(flatten)]
    pub figures: Figures,
}

/// How far a sweep is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Sweep {
    /// Heading of the report.
    pub title: String,
    /// The part that boxes are scored on.
    pub part: String,
    /// Finished runs, in the order they were asked for.
    pub runs: Vec<Outcome>,
    /// Folders of runs that failed this time, and why.
    pub failed: Vec<(String, String)>,
    /// Folders of runs that are still to be done.
    pub open: Vec<String>,
}

impl Sweep {
    /// Writes `sweep.json`, `sweep.csv` and `sweep.html`.
    ///
    /// # Errors
    /// If a file cannot be written.
    pub fn write(&self, folder: &Path) -> Result<(), WeakError> {
        write_json(&folder.join("sweep.json"), self)?;
        let text = csv(&self.runs);
        write_atomic(folder.join("sweep.csv"), |file| file.write_all(text.as_bytes()))?;
        Ok(page(self)?.write(folder.join("sweep.html"))?)
    }
}

/// Checks the runs of a sweep that scores the part `part`.
///
/// # Errors
/// [`WeakError::Setting`] for names that no folder can have or that come twice, settings out of range, and a part that no run
/// looks for boxes in.
pub fn check(entries: &[Entry], part: &str) -> Result<(), WeakError> {
    let mut seen = std::collections::HashSet::new();
    for entry in entries {
        let name = &entry.name;
        let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if name.is_empty() || name.starts_with('.') || !name.chars().all(allowed) {
            let expected = "letters, digits, -, _ and . (not as its first)";
            return Err(WeakError::setting("runs.name", format!("{name:?}"), expected));
        }
        if !seen.insert(entry.folder()) {
            return Err(WeakError::setting("runs.name", format!("{name:?}"), "a name and a seed once"));
        }
        entry.config.check()?;
        let data = &entry.config.data;
        if part != data.split && !data.others.iter().any(|other| other == part) {
            let expected = format!("{:?} or one of data.others", data.split);
            return Err(WeakError::setting("score", format!("{part:?}"), expected));
        }
    }
    Ok(())
}

/// Does the runs one after the other, and brings the table up to date after each. A run that fails is noted and the others go on; a
/// stop ends the sweep.
///
/// # Errors
/// As [`check`]; files that cannot be written.
pub fn sweep(
    folder: &Path,
    title: &str,
    part: &str,
    entries: &[Entry],
    context: &Context<'_>,
    say: &mut dyn FnMut(&str),
) -> Result<Sweep, WeakError> {
    check(entries, part)?;
    let mut sweep = Sweep {
        title: title.to_owned(),
        part: part.to_owned(),
        open: entries.iter().map(Entry::folder).collect(),
        ..Sweep::default()
    };
    let all: Vec<PathBuf> = entries.iter().map(|entry| folder.join(entry.folder())).collect();
    for (at, (entry, place)) in entries.iter().zip(&all).enumerate() {
        let name = entry.folder();
        say(&format!("run {} of {}: {name}", at + 1, entries.len()));
        let context = Context { reuse: &all, ..*context };
        match one(entry, part, place, &context, say) {
            Ok(figures) => {
                let (name, scored, seed) = (entry.name.clone(), entry.scored, entry.config.seed);
                sweep.runs.push(Outcome { name, scored, seed, figures });
            }
            Err(WeakError::Stopped { during }) => {
                say(&format!("{name}: stopped {during}"));
                break;
            }
            Err(error) => {
                say(&format!("{name}: {error}"));
                sweep.failed.push((name.clone(), error.to_string()));
            }
        }
        sweep.open.retain(|open| *open != name);
        create_parent(folder.join("sweep.json"))?;
        sweep.write(folder)?;
    }
    create_parent(folder.join("sweep.json"))?;
    sweep.write(folder)?;
    Ok(sweep)
}

/// Does a run, or what is left of it, and measures it.
fn one(
    entry: &Entry,
    part: &str,
    place: &Path,
    context: &Context<'_>,
    say: &mut dyn FnMut(&str),
) -> Result<Figures, WeakError> {
    let (config, data) = (&entry.config, &entry.config.data);
    let text = to_toml(config)?;
    let folder =
        if place.join("config.toml").is_file() { RunFolder::open(place)? } else { RunFolder::create(place)? };
    folder.write_config(&text)?;
    let classes = Tagged::open(data)?.classes;
    let truth = Truth::open(&data.path, Some(part), &classes)?;
    let learned = Truth::open(&data.path, Some(&data.split), &classes)?;
    let masks = truth.has_masks();
    let mut figures = Figures::default();
    let detections = if entry.scored == Scored::TrueBoxes {
        if config.retrain.features.from_classifier {
            run(config, &folder, &[Stage::Classifier], context, say)?;
        }
        let found = bound(config, part, [&learned, &truth], &folder, masks, context)?;
        if masks {
            let (_, objects) = instances::read(&found.with_file_name("instances").join("instances.json"))?;
            figures.masks = Some(measure_masks(&truth, &objects)?);
        }
        [found.with_file_name("detections-learned.json"), found]
    } else {
        let masks = masks && entry.scored == Scored::Retrained;
        let stages: &[Stage] = if masks { &Stage::AUTOMATIC } else { entry.scored.stages() };
        run(config, &folder, stages, context, say)?;
        let proposals = Proposals::read(&proposals_path(place, data, part))?;
        let found = recall(&proposals.best(config.detector.proposals.most), &truth, None)?;
        (figures.proposals, figures.recall) = (Some(found.proposals), Some(found.best));
        if masks {
            let (_, objects) = instances::read(&instances_path(place, part))?;
            figures.masks = Some(measure_masks(&truth, &objects)?);
        }
        let stage = if entry.scored == Scored::Detector { Stage::Detector } else { Stage::Retrain };
        [&data.split, part].map(|part| detections_path(place, stage, data, part))
    };
    let boxes = measure_boxes(&truth, &Detections::read(&detections[1])?)?;
    figures.ap50 = boxes.voc_all;
    figures.ap50_11 = boxes.voc_11;
    figures.coco_ap = boxes.coco.ap;
    figures.corloc = measure_boxes(&learned, &Detections::read(&detections[0])?)?.corloc;
    folder.write_metrics(&figures)?;
    Ok(figures)
}

/// Trains the second detector on true boxes; the file of what it finds in the scored part. Beside it are that of the part learned
/// from, `detections-learned.json`, and with `masks` the folder `instances`.
fn bound(
    config: &WeakConfig,
    part: &str,
    [learned, scored]: [&Truth; 2],
    folder: &RunFolder,
    masks: bool,
    context: &Context<'_>,
) -> Result<PathBuf, WeakError> {
    let place = folder.path().join(BOUND_FOLDER);
    let (train, list) = (place.join("boxes.json"), place.join("pictures.json"));
    let found = place.join("detections.json");
    let settings = RetrainConfig { seed: config.seed, ..config.retrain.clone() };
    let mut hash = Sha256::new();
    let boxes = [learned, scored].map(Truth::to_boxes);
    let classifier = settings.features.from_classifier.then_some(&config.classifier);
    hash.update(json!([settings, classifier, boxes, config.instances, config.sam, part, masks]).to_string());
    let key = json!({ "key": hex(hash) });
    let marker = place.join(BOUND);
    let begun = place.join("begun.json");
    let is = |path: &Path| path.is_file() && read_json::<Value>(path).is_ok_and(|found| found == key);
    if is(&marker) && found.is_file() {
        return Ok(found);
    }
    if place.exists() && !is(&begun) {
        // Made with other settings or boxes.
        fs::remove_dir_all(&place).map_err(|source| WeakError::Read { path: place.clone(), source })?;
    }
    write_json(&begun, &key)?;
    boxes[0].write(&train)?;
    boxes[1].write(&list)?;
    let root = root_of(&config.data)?;
    let files = RetrainFiles {
        root: root.clone(),
        train: train.clone(),
        detect: vec![(train, place.join("detections-learned.json")), (list, found.clone())],
    };
    let base = base_of(&settings.features, folder.path(), context)?;
    let output = place.join("retrain");
    let summary = retrain::run(&settings, &files, base, &output, context.device, context.stop, context.mode)?;
    if !summary.complete {
        let during = format!("after {} of {} steps on true boxes", summary.steps, settings.plan.steps);
        return Err(WeakError::Stopped { during });
    }
    if masks {
        let engine = (context.engine)(&config.sam)?;
        let zoom = registry::variant(&config.sam.model).ok().and_then(|variant| variant.zoom);
        let mut predictor = Predictor::new(engine.as_ref()).with_zoom(zoom);
        let (out, stop) = (place.join("instances"), context.stop);
        let cut = &config.instances;
        instances::run(cut, &root, &found, Some(&mut predictor), &out, stop, context.mode)?;
    }
    write_json(&marker, &key)?;
    Ok(found)
}

#[cfg(test)]
mod tests;
