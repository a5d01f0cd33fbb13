//! Scores of a model on labelled pictures, at the pictures' own resolution.

mod page;

use std::path::{Path, PathBuf};
use std::time::Instant;

use burn::tensor::Device;
use kirie_data::datasets::Sample;
use kirie_data::write::write_picture;
use kirie_data::{Image, create_parent};
use kirie_metrics::{ClassMean, ConfusionMatrix, SemanticReport};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::config::TestConfig;
use crate::data::{ClassList, LabelMap, Labelled, LabelledSet};
use crate::error::SemanticError;
use crate::infer::segment;
use crate::segmenter::Segmenter;
use crate::show;

pub use page::page;
pub(crate) use page::percent;

/// What is wished beyond the figures.
#[derive(Clone, Debug, Default)]
pub struct EvaluateOptions {
    /// Folder for the labels found (`ID.png`) and the pictures with them on top (`ID.jpg`), by the names of the pictures.
    pub predictions: Option<PathBuf>,
    /// Pictures that came out worst and best, so many of each, are drawn.
    pub cases: usize,
}

/// The figures of a model on some pictures; what `kirie evaluate semantic --json` prints.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// mIoU, IoU by class, accuracies, over all pixels of all pictures.
    #[serde(flatten)]
    pub report: SemanticReport,
    /// Every picture's own figures, in the order they were looked at.
    pub pictures: Vec<PictureScore>,
    /// How the pictures were segmented.
    pub test: TestConfig,
    /// Seconds of segmenting, without reading and scoring.
    pub seconds: f64,
    /// The worst pictures, the worst first; and the best.
    #[serde(skip)]
    pub worst: Vec<Case>,
    /// The best pictures, the best first.
    #[serde(skip)]
    pub best: Vec<Case>,
}

/// The figures of one picture.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PictureScore {
    /// Its name in the set.
    pub id: String,
    /// Its file.
    pub file: String,
    /// Width and height, pixels.
    pub size: [u32; 2],
    /// Mean IoU over the classes that it shows, or was thought to show; `None` without a labelled pixel.
    pub miou: Option<f64>,
    /// Share of its labelled pixels that were labelled right.
    pub pixel_accuracy: Option<f64>,
    /// Seconds of segmenting.
    pub seconds: f64,
}

/// A picture that came out very well or badly.
#[derive(Clone, Debug, PartialEq)]
pub struct Case {
    /// Its figures.
    pub score: PictureScore,
    /// Picture, true labels, labels found, side by side.
    pub image: Image,
}

impl Evaluation {
    /// Seconds of segmenting a picture, mean.
    pub fn seconds_per_picture(&self) -> f64 {
        self.seconds / self.pictures.len().max(1) as f64
    }

    /// mIoU, pixel accuracy and the IoU of every class that occurs, by name, for a log.
    pub fn figures(&self) -> Vec<(String, f64)> {
        let means = [("miou", self.report.miou), ("pixel_accuracy", self.report.pixel_accuracy)];
        let means = means.into_iter().map(|(name, value)| (name.to_owned(), value));
        let classes = self.report.classes.iter().map(|class| (format!("iou.{}", class.name), class.iou));
        means.chain(classes).filter_map(|(name, value)| Some((name, value?))).collect()
    }
}

/// Segments labelled pictures and scores the answers. `progress` is told after every picture how many are done.
///
/// # Errors
/// By picture: what cannot be read or segmented; the network's number of classes being another than the list's; files that
/// cannot be written.
pub fn evaluate<'a, S: Segmenter>(
    model: &S,
    pictures: impl Iterator<Item = (&'a LabelledSet, &'a Sample)>,
    classes: &ClassList,
    test: &TestConfig,
    device: &Device,
    options: &EvaluateOptions,
    progress: &mut dyn FnMut(usize),
) -> Result<Evaluation, SemanticError> {
    if model.classes() != classes.len() {
        return Err(SemanticError::Answer {
            expected: format!("{} classes: {}", classes.len(), classes.names().join(", ")),
            found: format!("{} classes", model.classes()),
        });
    }
    let pictures: Vec<(&LabelledSet, &Sample)> = pictures.collect();
    if options.predictions.is_some() {
        // Before the first file is written: half a set of answers is worse than none.
        pictures.par_iter().try_for_each(|(set, sample)| set.read(sample).map(drop))?;
    }
    let ignore = Some(u32::from(LabelMap::IGNORE));
    let mut matrix = ConfusionMatrix::new(classes.names(), ignore)?;
    let (mut scores, mut seconds) = (Vec::new(), 0.0);
    let (mut worst, mut best): (Vec<Candidate>, Vec<Candidate>) = (Vec::new(), Vec::new());
    for (set, sample) in pictures {
        let labelled = set.read(sample)?;
        let began = Instant::now();
        let found = segment(model, &labelled.image, test, device);
        let found = found.map_err(SemanticError::of_picture(&labelled.name))?;
        let taken = began.elapsed().as_secs_f64();
        let mut own = ConfusionMatrix::new(classes.names(), ignore)?;
        own.add(&labelled.labels.labels, &found.labels)?;
        matrix.merge(&own)?;
        if let Some(folder) = &options.predictions {
            write(folder, &sample.id, &labelled, &found, classes)?;
        }
        let score = PictureScore {
            id: sample.id.clone(),
            file: labelled.name.clone(),
            size: [labelled.image.width(), labelled.image.height()],
            miou: own.mean_iou(ClassMean::Present),
            pixel_accuracy: own.pixel_accuracy(),
            seconds: taken,
        };
        if let Some(miou) = score.miou
            && options.cases > 0
        {
            keep(&mut worst, options.cases, -miou, &score, &labelled, &found);
            keep(&mut best, options.cases, miou, &score, &labelled, &found);
        }
        seconds += taken;
        scores.push(score);
        progress(scores.len());
    }
    let drawn = |candidates: Vec<Candidate>| -> Result<Vec<Case>, SemanticError> {
        let draw = |candidate: Candidate| {
            let (labelled, found) = (&candidate.labelled, &candidate.found);
            let image = show::side_by_side(&labelled.image, &labelled.labels, found, classes)?;
            Ok(Case { score: candidate.score, image })
        };
        candidates.into_iter().map(draw).collect()
    };
    Ok(Evaluation {
        report: matrix.report(),
        pictures: scores,
        test: test.clone(),
        seconds,
        worst: drawn(worst)?,
        best: drawn(best)?,
    })
}

/// A picture that may be among the best or worst.
struct Candidate {
    merit: f64,
    score: PictureScore,
    labelled: Labelled,
    found: LabelMap,
}

/// Keeps the `most` candidates of highest merit, those met first before their equals.
fn keep(
    list: &mut Vec<Candidate>,
    most: usize,
    merit: f64,
    score: &PictureScore,
    labelled: &Labelled,
    found: &LabelMap,
) {
    let place = list.partition_point(|other| other.merit >= merit);
    if place < most {
        let (score, labelled, found) = (score.clone(), labelled.clone(), found.clone());
        list.insert(place, Candidate { merit, score, labelled, found });
        list.truncate(most);
    }
}

fn write(
    folder: &Path,
    id: &str,
    labelled: &Labelled,
    found: &LabelMap,
    classes: &ClassList,
) -> Result<(), SemanticError> {
    // Ids are paths below the set's pictures; `..` never occurs in them, for sets are not left.
    show::write_labels(&folder.join(format!("{id}.png")), found, classes)?;
    let path = folder.join(format!("{id}.jpg"));
    create_parent(&path)?;
    Ok(write_picture(&path, &show::paint(&labelled.image, found, classes)?)?)
}

#[cfg(test)]
mod tests;
