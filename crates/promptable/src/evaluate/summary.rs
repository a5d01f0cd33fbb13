//! The figures of a run over objects.

use kirie_data::datasets::Sample;
use kirie_metrics::{ObjectReport, ObjectScores, SizeLimits};
use serde::Serialize;

use super::score::ObjectScore;
use super::truth::Skipped;
use super::{EvaluateError, Failed};

/// The figures of one kind of prompt; what `kirie evaluate promptable --json` prints.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Summary {
    /// Means over all objects.
    #[serde(flatten)]
    pub figures: ObjectReport,
    /// How long it took, without the other kinds of prompts asked in the same run.
    pub seconds: f64,
    /// Of these, in the model's preparation for pictures (the encoder).
    pub seconds_encoding: f64,
    /// Pictures that were evaluated, with or without objects.
    pub images: usize,
    /// The prompt, as it is written on the command line.
    pub prompt: String,
    /// Name of the model.
    pub model: String,
    /// Whether each click came with the answer to those before.
    pub feed_mask: bool,
    /// With clicks: the mean IoU after the first, the second, ... An object that needs no more clicks keeps its IoU.
    pub miou_by_click: Vec<f64>,
    /// Objects that were left out.
    pub skipped: Skipped,
    /// The same by part of the data set, in the order met.
    pub splits: Vec<SplitSummary>,
    /// Pictures that could not be evaluated; their objects are in no figure.
    pub failed: Vec<Failed>,
}

/// The figures of one part of a data set.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SplitSummary {
    /// Its name.
    pub split: Option<String>,
    /// Means over its objects.
    #[serde(flatten)]
    pub figures: ObjectReport,
    /// Pictures.
    pub images: usize,
}

/// Collects what becomes a [`Summary`].
#[derive(Debug, Default)]
pub(super) struct Collector {
    whole: ObjectScores,
    splits: Vec<(Option<String>, ObjectScores, usize)>,
    clicks: Vec<f64>,
    objects: u64,
    images: usize,
    skipped: Skipped,
    pub(super) failed: Vec<Failed>,
    pub(super) seconds: f64,
}

impl Collector {
    /// One picture: its objects' scores, and their IoU after every click.
    pub(super) fn add(
        &mut self,
        sample: &Sample,
        scores: &[ObjectScore],
        clicks: &[Vec<f64>],
        skipped: Skipped,
    ) -> Result<(), EvaluateError> {
        let at = self.splits.iter().position(|(name, ..)| *name == sample.split).unwrap_or(self.splits.len());
        if at == self.splits.len() {
            self.splits.push((sample.split.clone(), ObjectScores::new(SizeLimits::Inclusive), 0));
        }
        let (_, part, images) = &mut self.splits[at];
        for score in scores {
            self.whole.add(score.iou, Some(score.biou), score.area)?;
            part.add(score.iou, Some(score.biou), score.area)?;
        }
        *images += 1;
        self.images += 1;
        self.objects += scores.len() as u64;
        self.skipped.add(skipped);
        for ious in clicks {
            self.clicks.resize(self.clicks.len().max(ious.len()), 0.0);
            self.clicks.iter_mut().zip(ious).for_each(|(sum, iou)| *sum += iou);
        }
        Ok(())
    }

    pub(super) fn objects(&self) -> u64 {
        self.objects
    }

    pub(super) fn miou(&self) -> Option<f64> {
        self.whole.report().miou
    }

    pub(super) fn summary(
        self,
        prompt: String,
        model: String,
        feed_mask: bool,
        seconds_encoding: f64,
    ) -> Summary {
        let objects = self.objects.max(1) as f64;
        let split = |(split, scores, images): (_, ObjectScores, _)| SplitSummary {
            split,
            figures: scores.report(),
            images,
        };
        Summary {
            figures: self.whole.report(),
            seconds: self.seconds,
            seconds_encoding,
            images: self.images,
            prompt,
            model,
            feed_mask,
            miou_by_click: self.clicks.into_iter().map(|sum| sum / objects).collect(),
            skipped: self.skipped,
            splits: self.splits.into_iter().map(split).collect(),
            failed: self.failed,
        }
    }
}
