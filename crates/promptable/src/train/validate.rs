//! Scores on the pictures that were held out, and some of the answers to look at.

use burn::tensor::Device;
use kirie_data::datasets::Dataset;
use kirie_data::write::write_picture;
use kirie_run::RunFolder;
use kirie_sam::BurnEngine;
use kirie_sam::model::Sam;

use super::pictures::Pictures;
use super::{ModelSpec, TrainError};
use crate::evaluate::{Case, MaskChoice, PromptKind, PromptedOptions, SamModel, prompted};

/// Worst and best answers of each set that are drawn.
const CASES: usize = 1;

/// Mean IoU by boxes and by one click, each the mean over the objects of all sets; boxes come first. Draws the worst and the
/// best answer of every set into the run's folder of samples.
pub(super) fn scores(
    model: &Sam,
    spec: &ModelSpec,
    pictures: &Pictures,
    device: &Device,
    (folder, step): (&RunFolder, u64),
) -> Result<Vec<(String, f64)>, TrainError> {
    let engine = BurnEngine::assemble(spec.name.clone(), spec.preprocess, &spec.sizes, model.clone(), device);
    let prompts = vec![PromptKind::Box, PromptKind::Points(1)];
    let mut sums = [(0.0, 0.0); 2];
    for (dataset, samples) in pictures.validation() {
        let mut asked = SamModel::new(&engine, MaskChoice::Single).with_zoom(spec.zoom);
        let options =
            PromptedOptions { prompts: prompts.clone(), cases: CASES, ..PromptedOptions::default() };
        let reports = prompted(dataset, &samples, &mut asked, &options, &mut |_| {})?;
        for (report, sum) in reports.iter().zip(&mut sums) {
            let objects = report.summary.figures.objects as f64;
            if let Some(miou) = report.summary.figures.miou {
                *sum = (sum.0 + miou * objects, sum.1 + objects);
            }
        }
        for (kind, cases) in reports.iter().flat_map(|r| [("worst", &r.worst), ("best", &r.best)]).take(2) {
            for case in cases {
                let name = format!("step-{step}-{}-{kind}.jpg", dataset.name);
                draw(dataset, case, &folder.samples_path().join(name))?;
            }
        }
    }
    let named = ["miou_box", "miou_click"].iter().zip(sums);
    Ok(named.filter(|(_, (_, n))| *n > 0.0).map(|(name, (sum, n))| ((*name).to_owned(), sum / n)).collect())
}

fn draw(dataset: &Dataset, case: &Case, path: &std::path::Path) -> Result<(), TrainError> {
    let of_case =
        |s: &&kirie_data::datasets::Sample| s.id == case.score.picture && s.split == case.score.split;
    let Some(sample) = dataset.samples.iter().find(of_case) else { return Ok(()) };
    let picture = case.picture(&dataset.picture(sample)?)?;
    kirie_data::create_parent(path)?;
    Ok(write_picture(path, &picture)?)
}
