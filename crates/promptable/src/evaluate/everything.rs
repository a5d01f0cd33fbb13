//! The mask generator's masks against all that is annotated.

use std::time::Instant;

use kirie_data::datasets::{Dataset, Sample};
use kirie_data::{Image, MaskRecord};
use kirie_mask::Rle;
use kirie_metrics::{Matching, SizeClass, SizeLimits, linspace, proposal_recall};
use serde::Serialize;

use super::pictures::{Failed, Progress, for_each, labelled};
use super::truth::{Skipped, Truth, TruthOptions};
use super::{EvaluateError, Object};

/// What to count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EverythingOptions {
    /// What to take for objects; by default the regions of all annotators.
    pub truth: TruthOptions,
    /// Masks of a picture to look at, best first.
    pub limit: usize,
}

impl Default for EverythingOptions {
    fn default() -> Self {
        Self { truth: TruthOptions { all_annotators: true, ..TruthOptions::default() }, limit: 1000 }
    }
}

/// Shares of objects that are found, each 0 to 1; `None` without any object.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Recall {
    /// Mean over the IoUs 0.50, 0.55 ... 0.95.
    pub average_recall: Option<f64>,
    /// At IoU 0.50.
    pub recall_50: Option<f64>,
    /// At IoU 0.75.
    pub recall_75: Option<f64>,
}

/// The figures of a run; what `kirie evaluate promptable --everything --json` prints.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct EverythingSummary {
    /// Every object with the mask that fits it best, whoever else that mask fits: what regions of several annotators, which
    /// overlap, are measured by.
    #[serde(flatten)]
    pub recall: Recall,
    /// The average recall of small objects.
    pub average_recall_small: Option<f64>,
    /// Of medium ones.
    pub average_recall_medium: Option<f64>,
    /// Of large ones.
    pub average_recall_large: Option<f64>,
    /// Each mask given to one object only, as COCO counts.
    pub one_to_one: Recall,
    /// Masks of a picture, in the mean.
    pub masks_per_image: Option<f64>,
    /// Objects, those of all annotators.
    pub objects: u64,
    /// How long it took.
    pub seconds: f64,
    /// Pictures that were evaluated.
    pub images: usize,
    /// `everything`.
    pub prompt: String,
    /// Name of the model.
    pub model: String,
    /// Objects that were left out.
    pub skipped: Skipped,
    /// Pictures that could not be evaluated.
    pub failed: Vec<Failed>,
}

/// One picture of a run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct EverythingPicture {
    /// Its name in the data set.
    pub picture: String,
    /// The part of the data set.
    pub split: Option<String>,
    /// Objects in it.
    pub objects: u64,
    /// Masks found in it.
    pub masks: usize,
    /// Each object with its best mask.
    #[serde(flatten)]
    pub recall: Recall,
}

/// What came of a run.
#[derive(Clone, Debug, PartialEq)]
pub struct EverythingReport {
    /// The figures.
    pub summary: EverythingSummary,
    /// Every picture, in their order.
    pub pictures: Vec<EverythingPicture>,
}

/// Lets `generate` find all masks of every picture, and counts the objects among them.
///
/// # Errors
/// [`EvaluateError::NoPictures`], [`EvaluateError::NoLabels`]. A picture that fails is told to `progress` and recorded.
pub fn everything(
    dataset: &Dataset,
    samples: &[&Sample],
    model: &str,
    generate: &mut dyn FnMut(&Image) -> Result<Vec<MaskRecord>, EvaluateError>,
    options: &EverythingOptions,
    progress: &mut dyn FnMut(Progress),
) -> Result<EverythingReport, EvaluateError> {
    let start = Instant::now();
    let samples = labelled(samples)?;
    let mut counts = Counts::default();
    let mut pictures = Vec::with_capacity(samples.len());
    let (mut masks, mut done, mut skipped, mut failures) = (0, 0, Skipped::default(), Vec::new());
    for_each(dataset, &samples, options.truth, |sample, loaded| {
        let found = loaded.and_then(|(picture, truth)| {
            let found = visible(generate(&picture)?, &truth)?;
            let own = Counts::of(&truth.objects, &found, options.limit)?;
            Ok((own, found.len(), truth.skipped))
        });
        let failed = match found {
            Ok((own, found, left_out)) => {
                masks += found;
                skipped.add(left_out);
                counts.add(&own);
                pictures.push(EverythingPicture {
                    picture: sample.id.clone(),
                    split: sample.split.clone(),
                    objects: own.all.objects,
                    masks: found,
                    recall: own.all.recall(),
                });
                None
            }
            Err(error) => {
                failures.push(Failed { picture: sample.id.clone(), reason: error.to_string() });
                Some(error)
            }
        };
        done += 1;
        progress(Progress {
            done,
            total: samples.len(),
            objects: masks as u64,
            figure: counts.all.recall().average_recall,
            sample,
            failed: failed.as_ref(),
        });
    });
    let summary = EverythingSummary {
        recall: counts.all.recall(),
        average_recall_small: counts.sizes[0].recall().average_recall,
        average_recall_medium: counts.sizes[1].recall().average_recall,
        average_recall_large: counts.sizes[2].recall().average_recall,
        one_to_one: counts.one_to_one.recall(),
        masks_per_image: (!pictures.is_empty()).then(|| masks as f64 / pictures.len() as f64),
        objects: counts.all.objects,
        seconds: start.elapsed().as_secs_f64(),
        images: pictures.len(),
        prompt: "everything".to_owned(),
        model: model.to_owned(),
        skipped,
        failed: failures,
    };
    Ok(EverythingReport { summary, pictures })
}

/// The masks without the pixels to ignore, best first.
fn visible(mut masks: Vec<MaskRecord>, truth: &Truth) -> Result<Vec<Rle>, EvaluateError> {
    masks.sort_by(|a, b| b.predicted_iou.total_cmp(&a.predicted_iou));
    masks.into_iter().map(|record| truth.visible(record.segmentation)).collect()
}

/// How many objects were found, by IoU.
#[derive(Clone, Debug, Default)]
struct Found {
    objects: u64,
    /// At each IoU of [`thresholds`].
    found: Vec<u64>,
}

fn thresholds() -> Vec<f64> {
    linspace(0.5, 0.95, 10)
}

impl Found {
    fn of(objects: &[Rle], masks: &[Rle], limit: usize, matching: Matching) -> Result<Self, EvaluateError> {
        let shares = proposal_recall(&[(objects, masks)], limit, &thresholds(), matching)?;
        let count = |share: f64| (share * objects.len() as f64).round() as u64;
        let found = shares.unwrap_or_default().into_iter().map(count).collect();
        Ok(Self { objects: objects.len() as u64, found })
    }

    fn add(&mut self, other: &Self) {
        self.objects += other.objects;
        self.found.resize(self.found.len().max(other.found.len()), 0);
        self.found.iter_mut().zip(&other.found).for_each(|(sum, found)| *sum += found);
    }

    fn recall(&self) -> Recall {
        if self.objects == 0 {
            return Recall::default();
        }
        let share = |at: usize| self.found.get(at).map(|&found| found as f64 / self.objects as f64);
        let all = (self.objects * self.found.len() as u64) as f64;
        Recall {
            average_recall: Some(self.found.iter().sum::<u64>() as f64 / all),
            recall_50: share(0),
            recall_75: share(5),
        }
    }
}

/// The counts of one picture, or of all.
#[derive(Clone, Debug, Default)]
struct Counts {
    all: Found,
    one_to_one: Found,
    sizes: [Found; 3],
}

impl Counts {
    fn of(objects: &[Object], masks: &[Rle], limit: usize) -> Result<Self, EvaluateError> {
        let pick = |size: Option<SizeClass>| -> Vec<Rle> {
            let fits =
                |object: &&Object| size.is_none_or(|size| SizeLimits::Inclusive.contains(size, object.area));
            objects.iter().filter(fits).map(|object| object.mask.clone()).collect()
        };
        let of_size = |size| Found::of(&pick(Some(size)), masks, limit, Matching::Best);
        let all = pick(None);
        Ok(Self {
            all: Found::of(&all, masks, limit, Matching::Best)?,
            one_to_one: Found::of(&all, masks, limit, Matching::OneToOne)?,
            sizes: [of_size(SizeClass::Small)?, of_size(SizeClass::Medium)?, of_size(SizeClass::Large)?],
        })
    }

    fn add(&mut self, other: &Self) {
        self.all.add(&other.all);
        self.one_to_one.add(&other.one_to_one);
        self.sizes.iter_mut().zip(&other.sizes).for_each(|(sum, found)| sum.add(found));
    }
}
