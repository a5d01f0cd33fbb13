//! Training of any [`Segmenter`] on one's own classes.
//!
//! ```text
//! Pictures::open -> classes -> (the caller builds a network of so many) -> Inspection::of -> run
//! ```
//!
//! The loop, its checkpoints and its log are `kirie_engine`'s; what is here is the batch, the loss, and the score at the
//! pictures' own resolution that decides which checkpoint is the best.

mod method;

use std::collections::BTreeMap;

use burn::tensor::Device;
use kirie_engine::train;
use kirie_run::{Log, ProgressMode, RunFolder, Stop, cpu_seconds, peak_memory};
use kirie_sam::checkpoint::{StateDict, load};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

pub use method::{Batch, SemanticMethod};

use crate::config::TrainConfig;
use crate::data::{Inspection, Pictures};
use crate::error::SemanticError;
use crate::segmenter::Segmenter;

/// The files of a checkpoint that hold a model, the one to use first.
const WEIGHT_FILES: [&str; 2] = ["average.safetensors", "weights.safetensors"];
/// What figures of a validation are called in the log.
const VALIDATION: &str = "validation.";
/// The figure that decides.
const DECIDES: &str = "validation.miou";

/// What a run is called, and what its weight files say of themselves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct About {
    /// Heading of the report.
    pub title: String,
    /// Written into the weight files.
    pub metadata: BTreeMap<String, String>,
}

/// How a run was done; `metrics.json` of its folder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// Optimiser steps done.
    pub steps: u64,
    /// Whether all steps were done.
    pub complete: bool,
    /// Pictures seen, each as often as it came.
    pub pictures_seen: u64,
    /// The validation's figures before the first step.
    pub before: BTreeMap<String, f64>,
    /// Those of the best validation.
    pub best: BTreeMap<String, f64>,
    /// And after which step that was.
    pub best_step: Option<u64>,
    /// Those of the last validation.
    pub last: BTreeMap<String, f64>,
    /// Seconds of an optimiser step, the median of those of this process; `None` if it did fewer than two.
    pub seconds_per_step: Option<f64>,
    /// The most memory this process has held, bytes, where the system says it.
    pub peak_memory_bytes: Option<u64>,
    /// Processor time that this process has taken, seconds, where the system says it.
    pub cpu_seconds: Option<f64>,
}

/// A finished run.
#[derive(Clone, Debug)]
pub struct Trained<S> {
    /// The model of the best validation, or the last where nothing is held out; without autodiff.
    pub model: S,
    /// How it was done.
    pub summary: Summary,
}

/// Trains `model`, which is on `device` with autodiff, or goes on with the run that `folder` holds.
///
/// The model's score before the first step is the log's record of step 0. Pictures `samples/step-N-*.jpg` show the worst and the
/// best of each validation. `metrics.json` is written at the end.
///
/// # Errors
/// Settings out of their range or that do not fit the model; pictures that cannot be used; a loss that is no number.
pub fn run<S: Segmenter + Clone, M>(
    config: &TrainConfig<M>,
    pictures: &Pictures,
    inspection: &Inspection,
    model: S,
    about: &About,
    folder: &RunFolder,
    device: &Device,
    stop: &Stop,
    mode: ProgressMode,
) -> Result<Trained<S>, SemanticError> {
    config.check()?;
    let method = SemanticMethod::new(config, pictures, inspection, &model, about, device)?;
    let fresh = folder.checkpoints().list()?.is_empty();
    if fresh && pictures.validation().len() > 0 && of_step(folder, 0)?.is_empty() {
        // The score that all the others are held against.
        let figures = method.score(&model.valid(), 0, folder)?;
        let record: Map<String, Value> = figures
            .iter()
            .map(|(name, value)| (format!("{VALIDATION}{name}"), Value::from(*value)))
            .collect();
        Log::open(folder.log_path(), None)?.write(0, &record)?;
    }
    let outcome = train(&method, model, &config.plan, folder, device, stop, mode)?;
    let model = best_model(outcome.model, folder, device)?;
    let (best_step, best) = best_figures(folder)?;
    let summary = Summary {
        steps: outcome.steps,
        complete: outcome.complete,
        pictures_seen: outcome.steps * config.plan.accumulate * config.data.batch as u64,
        before: of_step(folder, 0)?,
        best,
        best_step,
        last: outcome.figures.into_iter().collect(),
        seconds_per_step: method.seconds_per_step(),
        peak_memory_bytes: peak_memory(),
        cpu_seconds: cpu_seconds(),
    };
    folder.write_metrics(&summary)?;
    Ok(Trained { model, summary })
}

/// The model of the run's best checkpoint; `last` where none is marked.
fn best_model<S: Segmenter + Clone>(
    last: S,
    folder: &RunFolder,
    device: &Device,
) -> Result<S, SemanticError> {
    let Some(best) = folder.checkpoints().best()? else { return Ok(last) };
    let Some(name) = WEIGHT_FILES.into_iter().find(|name| best.names().any(|part| part == *name)) else {
        return Ok(last);
    };
    Ok(load(last, &StateDict::open(best.file(name)?)?, "the run's best model", device)?)
}

/// Figures of the validation with the highest mIoU among those after a step, the first of equals, as the engine marks it.
fn best_figures(folder: &RunFolder) -> Result<(Option<u64>, BTreeMap<String, f64>), SemanticError> {
    let mut best: (Option<u64>, f64, BTreeMap<String, f64>) = (None, f64::NEG_INFINITY, BTreeMap::new());
    for record in kirie_run::log::read(folder.log_path())? {
        let (Some(step), Some(value)) = (kirie_run::log::step(&record), record.get(DECIDES)) else {
            continue;
        };
        let value = value.as_f64().unwrap_or(f64::NAN);
        if step > 0 && value > best.1 {
            best = (Some(step), value, validation_of(&record));
        }
    }
    Ok((best.0, best.2))
}

/// Figures of the validation after a step; none if there was none.
fn of_step(folder: &RunFolder, step: u64) -> Result<BTreeMap<String, f64>, SemanticError> {
    let records = kirie_run::log::read(folder.log_path())?;
    let mut of_step = records.iter().filter(|record| kirie_run::log::step(record) == Some(step));
    Ok(of_step.find(|record| record.contains_key(DECIDES)).map(validation_of).unwrap_or_default())
}

fn validation_of(record: &kirie_run::Record) -> BTreeMap<String, f64> {
    let figure =
        |(name, value): (&String, &Value)| Some((name.strip_prefix(VALIDATION)?.to_owned(), value.as_f64()?));
    record.iter().filter_map(figure).collect()
}

#[cfg(test)]
mod tests;
