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

use std::path::Path;

use kirie_data::write_atomic;
use kirie_run::Stop;
use kirie_run::sweep::Spec;
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use kirie_run::sweep::{FailedRun, RESULT_FILE, RunFailure};
pub use page::page;
pub use table::{Group, csv, groups};

use crate::error::SemanticError;

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
pub type RunResult = kirie_run::sweep::RunResult<RunSpec, RunFigures>;

/// How far a sweep is.
pub type Sweep = kirie_run::sweep::Sweep<RunSpec, RunFigures>;

impl Spec for RunSpec {
    fn name(&self) -> &str {
        &self.name
    }

    fn about(&self) -> String {
        let Self { method, set, input, augmentation, seed, .. } = self;
        format!("{method} on {set} ({input}, {augmentation}, seed {seed})")
    }
}

/// Does the runs that are not done yet, as [`kirie_run::sweep::sweep`], and brings the tables and the report up to date after each.
///
/// # Errors
/// As there.
pub fn sweep(
    folder: &Path,
    title: &str,
    specs: &[RunSpec],
    stop: &Stop,
    start: impl FnMut(&RunSpec, &Path) -> Result<RunFigures, RunFailure>,
) -> Result<Sweep, SemanticError> {
    kirie_run::sweep::sweep(folder, specs, stop, start, |sweep| write(sweep, folder, title))
}

/// Writes `sweep.csv` and `sweep.html` into the folder.
fn write(sweep: &Sweep, folder: &Path, title: &str) -> Result<(), SemanticError> {
    let text = csv(&sweep.runs);
    write_atomic(folder.join("sweep.csv"), |file| file.write_all(text.as_bytes()))?;
    Ok(page(title, sweep)?.write(folder.join("sweep.html"))?)
}

#[cfg(test)]
mod tests;
