//! Weakly supervised detectors: WSDDN, OICR and MIST, at a size that learns on a CPU.
//!
//! | file | part of the papers |
//! | --- | --- |
//! | [`model`] | two streams and refinement branches on one head |
//! | [`loss`] | the image-level loss, the refinement losses |
//! | [`mining`] | which proposals a branch takes for objects |
//! | [`drop_block`] | MIST's adversary |
//! | [`train`], [`infer`] | learning, and detections by several views |
//!
//! Against the published ones: a compact backbone in place of VGG16, so a width of 256 in place of 4096 and a dropout of 0.2 in
//! place of 0.5; continuous boxes in
//! place of the "+1" convention; the image-level stream has no column for the background, which MIST's has and teaches 0.

pub mod config;
pub mod drop_block;
pub mod infer;
pub mod loss;
pub mod mining;
pub mod model;
pub mod train;

use std::path::{Path, PathBuf};

use burn::tensor::Device;
use kirie_run::{ProgressMode, RunFolder, Stop};
use kirie_sam::checkpoint::StateDict;
use serde::Serialize;

pub use config::{DetectorConfig, Preset};
pub use infer::{detect, detect_one};
pub use model::WeakDetector;
pub use train::train_detector;

use crate::WeakError;
use crate::files::Proposals;
use crate::page::boxes_page;
use crate::pictures::Pictures;
use crate::stage::{load_run, open_run};

/// Boxes that score less are counted and not drawn in the page.
const SHOWN_SCORE: f32 = 0.1;

/// What the stage needs.
#[derive(Clone, Debug)]
pub struct DetectorFiles {
    /// The folder that pictures are named from.
    pub root: PathBuf,
    /// Proposals and labels to learn from; a picture without labels shows none of the classes.
    pub train: PathBuf,
    /// Proposals of pictures to detect in, each with the file that detections go to (and a page of the same name); those to learn from are not among them
    /// unless named here.
    pub detect: Vec<(PathBuf, PathBuf)>,
}

/// What the stage did; `metrics.json` of its folder.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DetectorSummary {
    /// Optimiser steps done.
    pub steps: u64,
    /// Whether all were done and all detections written.
    pub complete: bool,
    /// Pictures that were learned from.
    pub pictures: usize,
    /// Pictures that were not, and why.
    pub left_out: Vec<(String, &'static str)>,
    /// Files of detections that were written.
    pub detections: Vec<PathBuf>,
}

/// The stage: trains in `output` (or goes on there), then detects.
///
/// `base` are the weights of the encoder that the configuration names; see
/// [`FeatureConfig::init`](crate::network::FeatureConfig::init).
///
/// # Errors
/// Files and settings that cannot be used; [`WeakError::Stopped`] while detecting. A stop while training is no error: the
/// summary then says that the stage is not complete.
pub fn run(
    config: &DetectorConfig,
    files: &DetectorFiles,
    base: Option<StateDict>,
    output: &Path,
    device: &Device,
    stop: &Stop,
    mode: ProgressMode,
) -> Result<DetectorSummary, WeakError> {
    config.check()?;
    let proposals = Proposals::read(&files.train)?;
    let pictures = Pictures::of_proposals(&files.root, &proposals, &config.proposals).with_labels()?;
    let folder = open_run(output, config)?;
    let begun = !folder.checkpoints().list()?.is_empty();
    let trained = device.clone().autodiff();
    let classes = pictures.classes.len();
    let model = if begun {
        WeakDetector::empty(config, classes, &trained)?
    } else {
        WeakDetector::new(config, classes, base, &trained)?
    };
    let outcome = match train_detector(config, &pictures, model, &folder, device, stop, mode) {
        Ok(outcome) => outcome,
        Err(error) => {
            folder.discard_unused();
            return Err(error);
        }
    };
    let mut summary = DetectorSummary {
        steps: outcome.steps,
        complete: outcome.complete,
        pictures: pictures.all.len(),
        left_out: pictures.left_out,
        detections: Vec::new(),
    };
    if outcome.complete {
        for (from, to) in &files.detect {
            let pictures = Pictures::of_proposals(&files.root, &Proposals::read(from)?, &config.proposals);
            same_classes(from, &pictures.classes, &proposals.classes)?;
            let found = detect(&outcome.model, config, &pictures, device, stop, mode)?;
            found.write(to)?;
            let about = [("Steps".to_owned(), outcome.steps.to_string())];
            let page =
                boxes_page("Detections from image-level labels", &about, &files.root, &found, SHOWN_SCORE)?;
            page.write(to.with_extension("html"))?;
            summary.detections.push(to.clone());
        }
    }
    folder.write_metrics(&summary)?;
    Ok(summary)
}

/// The trained detector of a stage's folder, without autodiff.
///
/// # Errors
/// When there is none, or it is of another configuration or number of classes.
pub fn load(
    config: &DetectorConfig,
    classes: usize,
    folder: &RunFolder,
    device: &Device,
) -> Result<WeakDetector, WeakError> {
    load_run(WeakDetector::empty(config, classes, device)?, folder.path(), device)
}

pub(crate) fn same_classes(path: &Path, found: &[String], expected: &[String]) -> Result<(), WeakError> {
    if found == expected {
        return Ok(());
    }
    let reason = format!("expected the classes {}, found {}", expected.join(", "), found.join(", "));
    Err(WeakError::content(path, "", reason))
}

#[cfg(test)]
mod tests;
