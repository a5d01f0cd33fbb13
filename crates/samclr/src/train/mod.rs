//! Contrastive training, from configuration to encoder.
//!
//! ```text
//! Pictures::open -> regions::of_pictures -> run -> encoder.safetensors
//! ```
//!
//! The loop, its checkpoints and its log are `kirie_engine`'s; what is here is the batch, the loss, and the figures that tell
//! whether anything is learned.

mod method;
mod probe;

use std::collections::BTreeMap;
use std::path::PathBuf;

use burn::module::Module;
use burn::tensor::Device;
use kirie_engine::train;
use kirie_run::{ProgressMode, RunFolder, Stop};
use serde::Serialize;

pub use method::{Batch, ContrastiveMethod};
pub use probe::Probe;

use crate::config::{EncoderConfig, MethodConfig, TrainConfig};
use crate::data::Pictures;
use crate::error::ContrastiveError;
use crate::model::{Contrastive, Encoder, EncoderFile, save_encoder};
use crate::regions::{RegionCount, Source, Table};

/// What a finished run leaves to be used.
pub const ENCODER_FILE: &str = "encoder.safetensors";
/// Key in its metadata: the encoder's configuration, as JSON.
pub const ENCODER_KEY: &str = "encoder";
/// Spread of projections below which a run has as good as collapsed.
const COLLAPSED: f64 = 0.2;

/// How a run was done; `metrics.json` of its folder.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Summary {
    /// Optimiser steps done.
    pub steps: u64,
    /// Whether all steps were done.
    pub complete: bool,
    /// Views seen.
    pub views: u64,
    /// Seconds of an optimiser step, the mean over the run's processes, checkpoints and validations included.
    pub seconds_per_step: Option<f64>,
    /// Figures of the last validation.
    pub validation: BTreeMap<String, f64>,
    /// Figures of the last record of training.
    pub training: BTreeMap<String, f64>,
    /// The regions that views came from.
    pub regions: RegionCount,
    /// What seems to be wrong, in sentences.
    pub warnings: Vec<String>,
    /// The encoder, if all steps were done.
    pub encoder: Option<PathBuf>,
}

/// What views come from, in words.
pub fn source_name(source: &Source) -> &'static str {
    match source {
        Source::Whole => "whole pictures",
        Source::Model(_) => "a model's regions",
        Source::Moved(_) => "a model's boxes, moved",
        Source::Truth => "labelled objects",
        Source::Random { .. } => "random boxes",
        Source::Grid { .. } => "cells of a grid",
    }
}

/// The weights that a configuration starts from.
///
/// # Errors
/// A file that cannot be read.
pub fn initial_weights(config: &TrainConfig) -> Result<Option<EncoderFile>, ContrastiveError> {
    let path = match &config.encoder {
        EncoderConfig::Resnet(resnet) => &resnet.init,
        EncoderConfig::Sam(sam) => &sam.init,
    };
    path.as_ref().map(|path| EncoderFile::open(path, &config.encoder)).transpose()
}

/// The encoder of a configuration as it is before the first step, without autodiff: what a score has to be held against.
///
/// With `batches` above 0, the statistics of its batch norms are brought to those of the pictures first, by so many batches of views
/// as training would draw them: a network whose norms still expect mean 0 and deviation 1 of everything is worse than an untrained one
/// need be. A statistic takes a tenth of every batch in, so that after 50 batches less than a hundredth is left of its start.
///
/// # Errors
/// Settings out of their range, pictures and weights that cannot be read, fewer pictures than a batch.
pub fn untrained(
    config: &TrainConfig,
    pictures: &Pictures,
    table: &Table,
    batches: u64,
    device: &Device,
) -> Result<Encoder, ContrastiveError> {
    let init = initial_weights(config)?;
    // On the training device, as a run makes it, so that the random numbers are the same.
    let trained = device.clone().autodiff();
    let model = Contrastive::new(&config.encoder, &config.method, init, config.seed, &trained)?;
    if batches > 0 {
        enough(pictures, config.data.batch)?;
    }
    let kinds = config.views.kinds();
    for number in 0..batches {
        let batch = Batch::new(config, pictures, table, &kinds, number)?;
        let samples = batch.names.len();
        for stack in batch.stacks {
            // What comes out is of no interest; the norms take the statistics in.
            drop(model.online.encoder.forward(method::pixels(stack, samples, device)));
        }
    }
    Ok(model.valid().online.encoder)
}

/// That a batch needs no picture twice.
fn enough(pictures: &Pictures, batch: usize) -> Result<(), ContrastiveError> {
    if pictures.len() >= batch {
        return Ok(());
    }
    Err(ContrastiveError::FewPictures {
        what: "a batch".to_owned(),
        found: pictures.len(),
        expected: batch,
        advice: "a picture must not be its own negative; make data.batch smaller, or add pictures".to_owned(),
    })
}

/// Trains, or goes on with the run that `folder` holds. When all steps are done, writes [`ENCODER_FILE`] with the last weights.
///
/// # Errors
/// Settings out of their range or that do not fit the pictures; pictures that cannot be read; a loss that is no number.
pub fn run(
    config: &TrainConfig,
    pictures: &Pictures,
    table: &Table,
    folder: &RunFolder,
    device: &Device,
    stop: &Stop,
    mode: ProgressMode,
) -> Result<Summary, ContrastiveError> {
    config.check()?;
    let method = ContrastiveMethod::new(config, pictures, table, device)?;
    let init = initial_weights(config)?;
    let model =
        Contrastive::new(&config.encoder, &config.method, init, config.seed, &device.clone().autodiff())?;
    let outcome = train(&method, model, &config.plan, folder, device, stop, mode)?;
    let encoder = folder.path().join(ENCODER_FILE);
    if outcome.complete {
        let encoder_text = serde_json::to_string(&config.encoder).unwrap_or_default();
        let notes = BTreeMap::from([
            (ENCODER_KEY.to_owned(), encoder_text),
            ("method".to_owned(), config.method.name().to_owned()),
            ("views_from".to_owned(), source_name(&config.regions.source).to_owned()),
            ("size".to_owned(), config.views.size.to_string()),
            ("steps".to_owned(), outcome.steps.to_string()),
            ("seed".to_owned(), config.seed.to_string()),
        ]);
        save_encoder(&encoder, outcome.model.kept(), &config.encoder, &notes, config.seed, device)?;
    }
    let training = last_record(folder)?;
    let summary = Summary {
        steps: outcome.steps,
        complete: outcome.complete,
        views: outcome.steps * config.plan.accumulate * (config.data.batch * config.views.count()) as u64,
        seconds_per_step: training.get("seconds").map(|seconds| seconds / outcome.steps.max(1) as f64),
        validation: outcome.figures.into_iter().collect(),
        warnings: warnings(config, &training, &table.count),
        training,
        regions: table.count.clone(),
        encoder: outcome.complete.then_some(encoder),
    };
    folder.write_metrics(&summary)?;
    Ok(summary)
}

/// Figures of the last record of training.
fn last_record(folder: &RunFolder) -> Result<BTreeMap<String, f64>, ContrastiveError> {
    let records = kirie_run::log::read(folder.log_path())?;
    let last = records.iter().rev().find(|record| record.contains_key("loss"));
    let figure = |(name, value): (&String, &serde_json::Value)| Some((name.clone(), value.as_f64()?));
    Ok(last.map(|record| record.iter().filter_map(figure).collect()).unwrap_or_default())
}

/// What the figures of a run say against it.
fn warnings(config: &TrainConfig, training: &BTreeMap<String, f64>, regions: &RegionCount) -> Vec<String> {
    let mut warnings = Vec::new();
    if let Some(spread) = training.get("health.spread").filter(|spread| **spread < COLLAPSED) {
        warnings.push(format!(
            "the projections are nearly all alike (spread {spread:.3} of 1): the run has collapsed. Try a lower learning rate, \
             a longer warm-up, a larger batch, or for DINO a lower teacher temperature"
        ));
    }
    let choices = match &config.method {
        MethodConfig::Simclr(_) => 1 + (config.data.batch - 1) * config.views.count(),
        MethodConfig::Moco(moco) => 1 + moco.queue,
        MethodConfig::Dino(dino) => dino.prototypes,
    };
    let chance = (choices as f64).ln();
    if let Some(loss) = training.get("loss").filter(|loss| **loss > 0.98 * chance) {
        warnings.push(format!(
            "the loss, {loss:.3}, is no better than chance ({chance:.3}, one of {choices}): nothing was learned yet"
        ));
    }
    let share = regions.without as f64 / regions.pictures.max(1) as f64;
    if !matches!(config.regions.source, Source::Whole) && share > 0.2 {
        warnings.push(format!(
            "{} of {} pictures ({:.0} %) have no region that the filters keep; a smaller regions.min_area keeps more",
            regions.without,
            regions.pictures,
            100.0 * share
        ));
    }
    warnings
}

#[cfg(test)]
mod tests;
