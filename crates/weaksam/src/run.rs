//! The chain: stage after stage, each in a folder of its own, each done once.
//!
//! ```text
//! RUN/config.toml
//! RUN/stage-1-classifier/   stage.json, classifier.safetensors, report.html, checkpoints/ ...
//! RUN/stage-2-proposals/    stage.json, proposals.json, proposals-PART.json, report.html
//! RUN/stage-3-detector/     stage.json, detections.json, detections-PART.json, log.jsonl, checkpoints/ ...
//! RUN/stage-4-pseudo/       stage.json, pseudo.json, pseudo.html
//! RUN/stage-5-retrain/      stage.json, detections.json, detections-PART.json, log.jsonl, checkpoints/ ...
//! RUN/stage-6-instances/    stage.json, PART/instances.json, PART/overlays/, PART/annotations/
//! RUN/stage-7-review/       stage.json, review/
//! RUN/stage-7-corrections/  stage.json, pseudo.json
//! ```
//!
//! `stage.json` holds a key: the SHA-256 of the stage's configuration and of all that goes into it, pictures and earlier stages' files
//! included. A stage whose folder is done under the same key is passed over; one that was cut off goes on; one that was made from
//! something else is made anew, and with it all that follow from it.

mod stages;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use burn::tensor::Device;
use kirie_data::create_parent;
use kirie_run::{ProgressMode, RunFolder, Stop};
use kirie_sam::Engine;
use kirie_sam::checkpoint::StateDict;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::WeakError;
use crate::classifier::ClassifierConfig;
use crate::detector::DetectorConfig;
use crate::files::{read_json, write_json};
use crate::instances::InstanceConfig;
use crate::labels::{DataConfig, hex};
use crate::proposals::ProposalConfig;
use crate::pseudo::PseudoConfig;
use crate::retrain::RetrainConfig;
use crate::review::ReviewConfig;
pub(crate) use stages::base_of;
pub use stages::{detections_path, instances_path, proposals_path};

const MARKER: &str = "stage.json";

/// A run of the chain.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WeakConfig {
    /// Everything random follows from it.
    #[serde(default)]
    pub seed: u64,
    /// Pictures and their image-level labels.
    pub data: DataConfig,
    /// The model that answers prompts.
    #[serde(default)]
    pub sam: SamSettings,
    /// Stage 1.
    #[serde(default)]
    pub classifier: ClassifierConfig,
    /// Stage 2.
    #[serde(default)]
    pub proposals: ProposalConfig,
    /// Stage 3. Its seed is the run's.
    #[serde(default)]
    pub detector: DetectorConfig,
    /// Stage 4.
    #[serde(default)]
    pub pseudo: PseudoConfig,
    /// Stage 5. Its seed is the run's.
    #[serde(default)]
    pub retrain: RetrainConfig,
    /// Stage 6.
    #[serde(default)]
    pub instances: InstanceConfig,
    /// Stage 7.
    #[serde(default)]
    pub review: ReviewConfig,
}

/// The model that answers prompts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SamSettings {
    /// A model of `kirie models list`.
    pub model: String,
    /// Its weights; without them those in the program or fetched before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weights: Option<PathBuf>,
    /// Side of the encoder's input, pixels, in place of the registered one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub input: Option<u32>,
}

impl Default for SamSettings {
    fn default() -> Self {
        Self { model: "kirie-small".to_owned(), weights: None, input: None }
    }
}

impl WeakConfig {
    /// Checks the numbers.
    ///
    /// # Errors
    /// [`WeakError::Setting`] for one out of its range.
    pub fn check(&self) -> Result<(), WeakError> {
        for (name, seed) in [("detector.seed", self.detector.seed), ("retrain.seed", self.retrain.seed)] {
            if seed != 0 && seed != self.seed {
                return Err(WeakError::setting(name, seed, "none: the run's `seed` is that of all stages"));
            }
        }
        self.classifier.check()?;
        self.proposals.check()?;
        self.detector.check()?;
        self.pseudo.check()?;
        self.retrain.check()?;
        self.instances.check()?;
        self.review.check()
    }

    /// Makes relative paths start from `base`.
    pub fn resolve(&mut self, base: &Path) {
        self.data.resolve(base);
        for path in self.sam.weights.iter_mut().chain(&mut self.review.corrected) {
            *path = base.join(&*path);
        }
    }
}

/// A stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    /// 1: the classifier from image-level labels.
    Classifier,
    /// 2: proposals by SAM.
    Proposals,
    /// 3: a detector that learns which proposals hold what the pictures show.
    Detector,
    /// 4: its boxes of the pictures learned from that are taken for true.
    Pseudo,
    /// 5: a detector that learns from these, or from the corrected ones.
    Retrain,
    /// 6: masks, and files for other programs, of what it finds.
    Instances,
    /// 7: the least sure pseudo boxes go out to a person.
    Review,
    /// 7: corrected boxes come back.
    Corrections,
}

impl Stage {
    /// All, in their order.
    pub const ALL: [Self; 8] = [
        Self::Classifier,
        Self::Proposals,
        Self::Detector,
        Self::Pseudo,
        Self::Retrain,
        Self::Instances,
        Self::Review,
        Self::Corrections,
    ];

    /// Those that a run goes through by itself.
    pub const AUTOMATIC: [Self; 6] =
        [Self::Classifier, Self::Proposals, Self::Detector, Self::Pseudo, Self::Retrain, Self::Instances];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Classifier => "classifier",
            Self::Proposals => "proposals",
            Self::Detector => "detector",
            Self::Pseudo => "pseudo",
            Self::Retrain => "retrain",
            Self::Instances => "instances",
            Self::Review => "review",
            Self::Corrections => "corrections",
        }
    }

    /// The name of its folder in a run's.
    pub fn folder(self) -> &'static str {
        match self {
            Self::Classifier => "stage-1-classifier",
            Self::Proposals => "stage-2-proposals",
            Self::Detector => "stage-3-detector",
            Self::Pseudo => "stage-4-pseudo",
            Self::Retrain => "stage-5-retrain",
            Self::Instances => "stage-6-instances",
            Self::Review => "stage-7-review",
            Self::Corrections => "stage-7-corrections",
        }
    }

    /// Those whose files it reads.
    fn needs(self) -> &'static [Self] {
        match self {
            Self::Proposals => &[Self::Classifier],
            Self::Detector => &[Self::Proposals],
            Self::Pseudo => &[Self::Detector],
            Self::Retrain => &[Self::Proposals, Self::Pseudo],
            Self::Instances => &[Self::Retrain],
            Self::Classifier | Self::Review | Self::Corrections => &[],
        }
    }
}

impl FromStr for Stage {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|stage| stage.name() == name).ok_or_else(|| {
            let all = Self::ALL.map(Self::name);
            format!("expected one of {}, found {name:?}", all.join(", "))
        })
    }
}

/// Opens a model.
pub type OpenEngine<'a> = dyn Fn(&SamSettings) -> Result<Box<dyn Engine>, WeakError> + 'a;

/// What the chain is given from outside.
pub struct Context<'a> {
    /// Opens the model that answers prompts; asked once a stage that needs it begins.
    pub engine: &'a OpenEngine<'a>,
    /// Opens the weights of a registered model by its name, for the classifier's encoder; `None` begins without.
    pub base: &'a dyn Fn(&str) -> Result<Option<StateDict>, WeakError>,
    /// Hash of the weights that `engine` would use.
    pub engine_hash: &'a dyn Fn(&SamSettings) -> Result<String, WeakError>,
    /// Where the classifier runs, without autodiff.
    pub device: &'a Device,
    /// Folders of other runs: what they have done under the same key is copied instead of done again.
    pub reuse: &'a [PathBuf],
    /// Asks for an end.
    pub stop: &'a Stop,
    /// Where progress is shown.
    pub mode: ProgressMode,
}

/// How a stage ended.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Done {
    /// The stage.
    pub stage: Stage,
    /// Its folder.
    pub folder: PathBuf,
    /// Whether it had been done before.
    pub before: bool,
    /// What it says of itself, as its `stage.json` keeps it.
    pub figures: Value,
}

/// `stage.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Marker {
    /// SHA-256 of the stage's configuration and of what goes into it.
    key: String,
    /// Whether it is done.
    done: bool,
    /// SHA-256 of the files that other stages read, by name.
    files: BTreeMap<String, String>,
    /// What the stage says of itself.
    #[serde(default)]
    figures: Value,
}

/// What a stage leaves: names of the files in its folder that other stages read, and what it says of itself.
struct Left {
    files: Vec<String>,
    figures: Value,
}

/// Runs stages in their order, or passes over those that are done. `say` is given sentences for people.
///
/// # Errors
/// Whatever stops a stage; all that was finished before stays. [`WeakError::Stopped`] when asked to end.
pub fn run(
    config: &WeakConfig,
    folder: &RunFolder,
    stages: &[Stage],
    context: &Context<'_>,
    say: &mut dyn FnMut(&str),
) -> Result<Vec<Done>, WeakError> {
    config.check()?;
    stages.iter().map(|stage| run_stage(*stage, config, folder.path(), context, say)).collect()
}

fn run_stage(
    stage: Stage,
    config: &WeakConfig,
    root: &Path,
    context: &Context<'_>,
    say: &mut dyn FnMut(&str),
) -> Result<Done, WeakError> {
    let folder = root.join(stage.folder());
    let inputs = stages::inputs(stage, config, root, context)?;
    let key = key_of(stage, &inputs, root)?;
    let path = folder.join(MARKER);
    if path.is_file() {
        let marker: Marker = read_json(&path)?;
        if marker.key == key && marker.done && files_are(&folder, &marker.files)? {
            say(&format!("{}: done before", stage.name()));
            return Ok(Done { stage, folder, before: true, figures: marker.figures });
        }
        if marker.key == key && !marker.done {
            say(&format!("{}: goes on", stage.name()));
        } else {
            if stage == Stage::Review {
                return Err(WeakError::content(
                    &folder,
                    "",
                    "holds an export of other boxes or settings, with corrections perhaps; import it (--stage corrections) \
                     or remove it",
                ));
            }
            say(&format!("{}: made anew, as what it depends on has changed", stage.name()));
            fs::remove_dir_all(&folder).map_err(|source| WeakError::Read { path: folder.clone(), source })?;
        }
    } else if fs::read_dir(&folder).is_ok_and(|mut entries| entries.next().is_some()) {
        return Err(WeakError::content(
            &folder,
            "",
            format!("has no {MARKER}: it is not a stage's, and is left alone"),
        ));
    }
    if let Some((from, figures)) = take_over(stage, &key, &folder, context.reuse)? {
        say(&format!("{}: the same as in {}, copied", stage.name(), from.display()));
        return Ok(Done { stage, folder, before: true, figures });
    }
    create_parent(&path)?;
    write_json(
        &path,
        &Marker { key: key.clone(), done: false, files: BTreeMap::new(), figures: Value::Null },
    )?;
    let Left { files, figures } = stages::work(stage, config, root, &folder, context, say)?;
    let mut hashes = BTreeMap::new();
    for file in files {
        hashes.insert(file.clone(), hash_of(&folder.join(&file))?);
    }
    write_json(&path, &Marker { key, done: true, files: hashes, figures: figures.clone() })?;
    Ok(Done { stage, folder, before: false, figures })
}

/// The key of a stage: its own inputs, and the hashes of the files of stages before it.
fn key_of(stage: Stage, inputs: &Value, root: &Path) -> Result<String, WeakError> {
    let mut hash = Sha256::new();
    hash.update(stage.name());
    hash.update(inputs.to_string());
    for earlier in stage.needs() {
        let marker = root.join(earlier.folder()).join(MARKER);
        let found: Option<Marker> = if marker.is_file() { Some(read_json(&marker)?) } else { None };
        let Some(found) = found.filter(|marker| marker.done) else {
            return Err(WeakError::content(
                &root.join(earlier.folder()),
                "",
                format!("the stage {} is not done, and {} needs it", earlier.name(), stage.name()),
            ));
        };
        hash.update(found.key);
        hash.update(format!("{:?}", found.files));
    }
    Ok(hex(hash))
}

/// Copies a stage that another run has done under this key, whole or not at all; where from, and its figures.
fn take_over(
    stage: Stage,
    key: &str,
    folder: &Path,
    others: &[PathBuf],
) -> Result<Option<(PathBuf, Value)>, WeakError> {
    // Of these the folders are for a person's hands, or name places.
    if matches!(stage, Stage::Review | Stage::Corrections) {
        return Ok(None);
    }
    for other in others {
        let from = other.join(stage.folder());
        let path = from.join(MARKER);
        if from == folder || !path.is_file() {
            continue;
        }
        let marker: Marker = read_json(&path)?;
        if marker.key != key || !marker.done || !files_are(&from, &marker.files)? {
            continue;
        }
        // A folder that was begun under this key: what it holds is less than what comes.
        let unreadable = |source| WeakError::Read { path: folder.to_owned(), source };
        if folder.exists() {
            fs::remove_dir_all(folder).map_err(unreadable)?;
        }
        let part = folder.with_extension("copying");
        if part.exists() {
            fs::remove_dir_all(&part).map_err(unreadable)?;
        }
        create_parent(folder)?;
        copy_folder(&from, &part)?;
        fs::rename(&part, folder).map_err(unreadable)?;
        return Ok(Some((from, marker.figures)));
    }
    Ok(None)
}

fn copy_folder(from: &Path, to: &Path) -> Result<(), WeakError> {
    let failed = |source| WeakError::Read { path: from.to_owned(), source };
    fs::create_dir_all(to).map_err(failed)?;
    for entry in fs::read_dir(from).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let target = to.join(entry.file_name());
        if entry.file_type().map_err(failed)?.is_dir() {
            copy_folder(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target).map_err(failed)?;
        }
    }
    Ok(())
}

fn files_are(folder: &Path, files: &BTreeMap<String, String>) -> Result<bool, WeakError> {
    for (file, expected) in files {
        let path = folder.join(file);
        if !path.is_file() || hash_of(&path)? != *expected {
            return Ok(false);
        }
    }
    Ok(true)
}

/// SHA-256 of a file, in hexadecimal.
fn hash_of(path: &Path) -> Result<String, WeakError> {
    let bytes = fs::read(path).map_err(|source| WeakError::Read { path: path.to_owned(), source })?;
    let mut hash = Sha256::new();
    hash.update(&bytes);
    Ok(hex(hash))
}

#[cfg(test)]
mod tests;
