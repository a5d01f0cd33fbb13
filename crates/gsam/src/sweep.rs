//! Many runs on the same data, and one report that lets someone decide: what each method and input costs and gains.
//!
//! ```text
//! FOLDER/NAME/result.json   a finished run: what it was (RunSpec) and what came out (RunFigures)
//! FOLDER/sweep.json         all of them
//! FOLDER/sweep.csv          one line a run
//! FOLDER/sweep.html         tables, and plots of score by cost
//! ```
//!
//! A run that has its `result.json` is not run again. How a run is started is the caller's business: each in a process of its
//! own, so that peak memory and processor time are the run's own.

mod page;
mod table;

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use kirie_data::{DataError, create_parent, write_atomic};
use kirie_run::Stop;
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use page::page;
pub use table::{Group, csv, groups};

use crate::error::SemanticError;

/// A finished run's file in its folder.
pub const RESULT_FILE: &str = "result.json";

/// What a run is. Runs that differ in nothing but the seed are repetitions of each other.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunSpec {
    /// Its name, and its folder's: letters, digits, `-`, `_` and `.`.
    pub name: String,
    /// The data, in a word.
    pub set: String,
    /// How the model is fine-tuned.
    pub method: String,
    /// The input policy, such as `crop 128`.
    pub input: String,
    /// The augmentation, such as `flip`.
    pub augmentation: String,
    /// Seed.
    pub seed: u64,
    /// The resolved configuration: a result made with other settings is not taken for this run's.
    pub settings: Value,
}

/// What came out of a run. Scores are 0 to 1, at the pictures' own resolution.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RunFigures {
    /// mIoU before the first step.
    pub miou_before: Option<f64>,
    /// mIoU of the best checkpoint.
    pub miou: Option<f64>,
    /// Share of pixels labelled right.
    pub pixel_accuracy: Option<f64>,
    /// IoU of every class, by label.
    pub classes: Vec<ClassScore>,
    /// Parameters that training changes.
    pub trained_parameters: u64,
    /// Parameters that a file of the result must hold, on top of the base model's.
    pub stored_parameters: u64,
    /// Multiply-accumulates of the network for one training picture, forward.
    pub macs_per_picture: u64,
    /// The most memory that the training process held, bytes.
    pub peak_memory_bytes: Option<u64>,
    /// Seconds of an optimiser step.
    pub seconds_per_step: Option<f64>,
    /// Seconds of segmenting one picture of the evaluation.
    pub seconds_per_inference: Option<f64>,
    /// Processor time of the training process, seconds: as near to energy as can be had without a meter.
    pub cpu_seconds: Option<f64>,
    /// Optimiser steps.
    pub steps: u64,
    /// Pictures seen, each as often as it came.
    pub pictures_seen: u64,
}

/// IoU of a class.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClassScore {
    /// Its name.
    pub name: String,
    /// IoU, 0 to 1; `None` when it occurs neither in the labels nor in the answers.
    pub iou: Option<f64>,
}

/// A finished run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunResult {
    /// What it was.
    #[serde(flatten)]
    pub spec: RunSpec,
    /// What came out.
    #[serde(flatten)]
    pub figures: RunFigures,
}

/// A run that did not work out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailedRun {
    /// Its name.
    pub name: String,
    /// Why.
    pub reason: String,
}

/// How far a sweep is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Sweep {
    /// Finished runs, in the order they were asked for.
    pub runs: Vec<RunResult>,
    /// Runs that failed this time.
    pub failed: Vec<FailedRun>,
    /// Names of the runs that are still to be done.
    pub open: Vec<String>,
}

impl Sweep {
    /// Whether every run is finished.
    pub fn is_complete(&self) -> bool {
        self.failed.is_empty() && self.open.is_empty()
    }

    /// Writes `sweep.json`, `sweep.csv` and `sweep.html` into the folder.
    ///
    /// # Errors
    /// If a file cannot be written.
    pub fn write(&self, folder: &Path, title: &str) -> Result<(), SemanticError> {
        write_json(&folder.join("sweep.json"), self)?;
        let text = csv(&self.runs);
        write_atomic(folder.join("sweep.csv"), |file| file.write_all(text.as_bytes()))?;
        Ok(page(title, self)?.write(folder.join("sweep.html"))?)
    }
}

/// An error of a run.
pub type RunFailure = Box<dyn std::error::Error + Send + Sync>;

/// Does the runs that are not done yet, one after the other, and brings the tables and the report up to date after each.
///
/// `start` does a run, in the run's own folder, and gives its figures; that folder may hold what an interrupted try left, to be
/// gone on with. A run that fails is noted and the others go on. A stop ends the sweep after the current run.
///
/// # Errors
/// Names that no folder can have or that come twice; results in the folder that belong to other settings, or are damaged; files
/// that cannot be written.
pub fn sweep(
    folder: &Path,
    title: &str,
    specs: &[RunSpec],
    stop: &Stop,
    mut start: impl FnMut(&RunSpec, &Path) -> Result<RunFigures, RunFailure>,
) -> Result<Sweep, SemanticError> {
    check_names(specs)?;
    // All of them before hours are spent on the first.
    let mut done: Vec<Option<RunResult>> = Vec::new();
    for spec in specs {
        done.push(finished(folder, spec)?);
    }
    let mut failed = Vec::new();
    for (at, spec) in specs.iter().enumerate() {
        if done[at].is_some() || stop.requested() {
            continue;
        }
        let place = folder.join(&spec.name);
        create_parent(place.join(RESULT_FILE))?;
        match start(spec, &place) {
            // Asked to stop in the middle, a run may come back without having ended.
            Ok(_) if stop.requested() => {}
            Ok(figures) => {
                let result = RunResult { spec: spec.clone(), figures };
                write_json(&place.join(RESULT_FILE), &result)?;
                done[at] = Some(result);
            }
            Err(error) => failed.push(FailedRun { name: spec.name.clone(), reason: error.to_string() }),
        }
        state(specs, &done, &failed).write(folder, title)?;
    }
    let sweep = state(specs, &done, &failed);
    create_parent(folder.join("sweep.json"))?;
    sweep.write(folder, title)?;
    Ok(sweep)
}

fn state(specs: &[RunSpec], done: &[Option<RunResult>], failed: &[FailedRun]) -> Sweep {
    let is_open = |(spec, done): &(&RunSpec, &Option<RunResult>)| {
        done.is_none() && failed.iter().all(|failed| failed.name != spec.name)
    };
    Sweep {
        runs: done.iter().flatten().cloned().collect(),
        failed: failed.to_vec(),
        open: specs.iter().zip(done).filter(is_open).map(|(spec, _)| spec.name.clone()).collect(),
    }
}

/// The finished runs of a folder, by name.
///
/// # Errors
/// If the folder cannot be read, or a result is damaged.
pub fn collect(folder: &Path) -> Result<Vec<RunResult>, SemanticError> {
    let unreadable = |source| DataError::Unreadable { name: folder.display().to_string(), source };
    let mut names = BTreeSet::new();
    for entry in fs::read_dir(folder).map_err(unreadable)? {
        names.insert(entry.map_err(unreadable)?.path());
    }
    let mut results = Vec::new();
    for path in names {
        results.extend(read(&path.join(RESULT_FILE))?);
    }
    Ok(results)
}

/// The result of a run, if it is finished.
fn finished(folder: &Path, spec: &RunSpec) -> Result<Option<RunResult>, SemanticError> {
    let path = folder.join(&spec.name).join(RESULT_FILE);
    let Some(result) = read(&path)? else { return Ok(None) };
    // As it would be read back: reading a number may change its last bit, but always in the same way.
    let damaged = |error: serde_json::Error| SemanticError::Sweep {
        name: format!("{:?}", spec.name),
        reason: format!("its settings have no JSON form: {error}"),
    };
    let asked: RunSpec =
        serde_json::to_vec(spec).and_then(|text| serde_json::from_slice(&text)).map_err(damaged)?;
    if result.spec == asked {
        return Ok(Some(result));
    }
    let reason = format!(
        "holds the result of {} on {} ({}, {}, seed {}) with other settings than those asked for; take another folder, or remove \
         it to run it anew",
        result.spec.method, result.spec.set, result.spec.input, result.spec.augmentation, result.spec.seed
    );
    Err(SemanticError::Sweep { name: path.display().to_string(), reason })
}

fn read(path: &Path) -> Result<Option<RunResult>, SemanticError> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(source) => return Err(DataError::Unreadable { name: path.display().to_string(), source }.into()),
    };
    let damaged = |error: serde_json::Error| SemanticError::Sweep {
        name: path.display().to_string(),
        reason: format!("expected the result of a run: {error}"),
    };
    serde_json::from_slice(&bytes).map(Some).map_err(damaged)
}

fn check_names(specs: &[RunSpec]) -> Result<(), SemanticError> {
    let mut seen = BTreeSet::new();
    for spec in specs {
        let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        let usable = !spec.name.is_empty() && !spec.name.starts_with('.') && spec.name.chars().all(allowed);
        let reason = match usable {
            true if seen.insert(&spec.name) => continue,
            true => "two runs have this name",
            false => "a run's name may have letters, digits, - and _, and a . that is not its first",
        };
        return Err(SemanticError::Sweep { name: format!("{:?}", spec.name), reason: reason.to_owned() });
    }
    Ok(())
}

fn write_json(path: &Path, value: &impl Serialize) -> Result<(), SemanticError> {
    let no_form = |error: serde_json::Error| SemanticError::Sweep {
        name: path.display().to_string(),
        reason: format!("cannot be written as JSON: {error}"),
    };
    let text = serde_json::to_string_pretty(value).map_err(no_form)? + "\n";
    Ok(write_atomic(path, |file| file.write_all(text.as_bytes()))?)
}

#[cfg(test)]
mod tests;
