//! A detector that learns from boxes: pseudo ground truth, corrected boxes, or (for the upper bound) true ones.
//!
//! Faster R-CNN on one map at a size that learns on a CPU. Against the published one: a compact backbone in place of R50-FPN,
//! one map instead of five, and anchors of configured sizes on it.

pub mod config;
pub mod drop;
pub mod infer;
pub mod loss;
pub mod model;
pub mod rpn;
pub mod train;

use std::path::{Path, PathBuf};

use burn::tensor::Device;
use kirie_run::{Progress, ProgressMode, RunFolder, Stop};
use kirie_sam::checkpoint::StateDict;
use serde::Serialize;

pub use config::RetrainConfig;
pub use infer::detect_in;
pub use model::TwoStage;
pub use train::train_two_stage;

use crate::WeakError;
use crate::detector::infer::to_file;
use crate::detector::same_classes;
use crate::files::Detections;
use crate::page::boxes_page;
use crate::pictures::Pictures;
use crate::stage::{load_run, open_run};

/// Boxes that score less are counted and not drawn in the page.
const SHOWN_SCORE: f32 = 0.3;

/// What the stage needs.
#[derive(Clone, Debug)]
pub struct RetrainFiles {
    /// The folder that pictures are named from.
    pub root: PathBuf,
    /// Boxes to learn from (`pseudo.json`); a picture without boxes and labels shows none of the classes.
    pub train: PathBuf,
    /// Pictures to detect in, as files of proposals or boxes of which only the list of pictures is read, each with the file that
    /// detections go to (and a page of the same name).
    pub detect: Vec<(PathBuf, PathBuf)>,
}

/// What the stage did; `metrics.json` of its folder.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RetrainSummary {
    /// Optimiser steps done.
    pub steps: u64,
    /// Whether all were done and all detections written.
    pub complete: bool,
    /// Pictures that were learned from.
    pub pictures: usize,
    /// Boxes in them.
    pub boxes: usize,
    /// Pictures that were not learned from, and why.
    pub left_out: Vec<(String, &'static str)>,
    /// Files of detections that were written.
    pub detections: Vec<PathBuf>,
}

/// The stage: trains in `output` (or goes on there), then detects.
///
/// # Errors
/// Files and settings that cannot be used; [`WeakError::Stopped`] while detecting. A stop while training is no error: the
/// summary then says that the stage is not complete.
pub fn run(
    config: &RetrainConfig,
    files: &RetrainFiles,
    base: Option<StateDict>,
    output: &Path,
    device: &Device,
    stop: &Stop,
    mode: ProgressMode,
) -> Result<RetrainSummary, WeakError> {
    config.check()?;
    let objects = Detections::read(&files.train)?;
    let pictures = Pictures::of_objects(&files.root, &objects).with_objects()?;
    let folder = open_run(output, config)?;
    let begun = !folder.checkpoints().list()?.is_empty();
    let trained = device.clone().autodiff();
    let classes = pictures.classes.len();
    let model = if begun {
        TwoStage::empty(config, classes, &trained)?
    } else {
        TwoStage::new(config, classes, base, &trained)?
    };
    let outcome = match train_two_stage(config, &pictures, model, &folder, device, stop, mode) {
        Ok(outcome) => outcome,
        Err(error) => {
            folder.discard_unused();
            return Err(error);
        }
    };
    let mut summary = RetrainSummary {
        steps: outcome.steps,
        complete: outcome.complete,
        pictures: pictures.all.len(),
        boxes: pictures.all.iter().map(|picture| picture.boxes.len()).sum(),
        left_out: pictures.left_out,
        detections: Vec::new(),
    };
    if outcome.complete {
        for (from, to) in &files.detect {
            let pictures = Pictures::listed(&files.root, from)?;
            same_classes(from, &pictures.classes, &objects.classes)?;
            let found = detect(&outcome.model, config, &pictures, device, stop, mode)?;
            found.write(to)?;
            let about = [("Steps".to_owned(), outcome.steps.to_string())];
            let page =
                boxes_page("Detections of the retrained detector", &about, &files.root, &found, SHOWN_SCORE)?;
            page.write(to.with_extension("html"))?;
            summary.detections.push(to.clone());
        }
    }
    folder.write_metrics(&summary)?;
    Ok(summary)
}

/// The detections of all pictures of a set, whatever boxes it has.
///
/// # Errors
/// Pictures that cannot be read; [`WeakError::Stopped`].
pub fn detect(
    model: &TwoStage,
    config: &RetrainConfig,
    pictures: &Pictures,
    device: &Device,
    stop: &Stop,
    mode: ProgressMode,
) -> Result<Detections, WeakError> {
    let mut progress = Progress::new("picture", pictures.all.len() as u64, 0, mode);
    let mut images = Vec::new();
    for picture in &pictures.all {
        if stop.requested() {
            return Err(WeakError::Stopped { during: "detecting".to_owned() });
        }
        let found = detect_in(model, config, &pictures.read(picture)?, pictures.classes.len(), device)?;
        images.push(to_file(picture, &found, &pictures.classes));
        progress.set(images.len() as u64, "");
    }
    progress.finish();
    Ok(Detections { classes: pictures.classes.clone(), images })
}

/// The trained detector of a stage's folder, without autodiff.
///
/// # Errors
/// When there is none, or it is of another configuration or number of classes.
pub fn load(
    config: &RetrainConfig,
    classes: usize,
    folder: &RunFolder,
    device: &Device,
) -> Result<TwoStage, WeakError> {
    load_run(TwoStage::empty(config, classes, device)?, folder.path(), device)
}

#[cfg(test)]
mod tests;
