//! Many pre-training runs and one table: what each method gains by each source of views, on several labelled sets.
//!
//! ```text
//! FOLDER/NAME/result.json   a finished run: what it was (RunSpec) and what came out (RunFigures)
//! FOLDER/sweep.json         all of them
//! FOLDER/sweep.csv          one line a run, set and share of labels
//! FOLDER/sweep.html         a table for each set: mean and spread over the seeds, and what is gained over another source
//! ```
//!
//! The loop is [`kirie_run::sweep`]'s; how a run is started is the caller's business.

mod page;
mod table;

use std::collections::BTreeMap;
use std::path::Path;

use kirie_data::write_atomic;
use kirie_run::Stop;
use kirie_run::sweep::{RunFailure, Spec};
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use page::page;
pub use table::{Group, Score, Spread, csv, groups};

use crate::error::ContrastiveError;
use crate::evaluate::ByShare;
use crate::regions::RegionCount;

/// What a run is. Runs that differ in nothing but the seed are repetitions of each other.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunSpec {
    /// Its name, and its folder's: letters, digits, `-`, `_` and `.`.
    pub name: String,
    /// The method, or what stands in place of training.
    pub method: String,
    /// Where views come from, in a word; empty where nothing is trained.
    pub source: String,
    /// Seed.
    pub seed: u64,
    /// All settings, those of the evaluation included: a result made with others is not taken for this run's.
    pub settings: Value,
}

impl Spec for RunSpec {
    fn name(&self) -> &str {
        &self.name
    }

    fn about(&self) -> String {
        let source = if self.source.is_empty() { "nothing" } else { &self.source };
        format!("{} (views from {source}, seed {})", self.method, self.seed)
    }
}

/// What came out of a run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RunFigures {
    /// What the encoder is worth on each labelled set.
    pub sets: Vec<SetScore>,
    /// Optimiser steps; 0 where nothing is trained.
    pub steps: u64,
    /// Seconds of an optimiser step.
    pub seconds_per_step: Option<f64>,
    /// The regions that views came from.
    pub regions: Option<RegionCount>,
    /// Figures of the last record of training, such as `health.spread`.
    pub training: BTreeMap<String, f64>,
    /// What seems to be wrong, in sentences.
    pub warnings: Vec<String>,
}

/// What an encoder is worth on a labelled set.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SetScore {
    /// The set, in a word.
    pub set: String,
    /// Accuracy of the most frequent class among the pictures asked about, 0 to 1.
    pub chance: f64,
    /// By the share of labels.
    pub by_share: Vec<ByShare>,
}

/// A finished run.
pub type RunResult = kirie_run::sweep::RunResult<RunSpec, RunFigures>;

/// How far a sweep is.
pub type Sweep = kirie_run::sweep::Sweep<RunSpec, RunFigures>;

/// Does the runs that are not done yet, as [`kirie_run::sweep::sweep`], and brings table and report up to date after each. `against` is
/// the source of views that the others are held against.
///
/// # Errors
/// As there.
pub fn sweep(
    folder: &Path,
    title: &str,
    against: &str,
    specs: &[RunSpec],
    stop: &Stop,
    start: impl FnMut(&RunSpec, &Path) -> Result<RunFigures, RunFailure>,
) -> Result<Sweep, ContrastiveError> {
    kirie_run::sweep::sweep(folder, specs, stop, start, |sweep| {
        let text = csv(&sweep.runs);
        write_atomic(folder.join("sweep.csv"), |file| file.write_all(text.as_bytes()))?;
        Ok(page(title, against, sweep)?.write(folder.join("sweep.html"))?)
    })
}

#[cfg(test)]
mod tests;
