//! A detector's boxes as prompts: the masks take the boxes' place, and COCO's evaluation judges them.

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::time::Instant;

use kirie_data::Image;
use kirie_data::datasets::{Dataset, Sample};
use kirie_mask::{BBox, Rle};
use kirie_metrics::{CocoEvaluation, CocoParams, CocoSummary, Detection, GroundTruth};
use kirie_sam::Prompt;
use kirie_sam::predictor::PROMPTS_PER_CALL;
use serde::{Deserialize, Serialize};

use super::pictures::{Failed, Progress, for_each, labelled};
use super::truth::TruthOptions;
use super::{EvaluateError, Promptable};

/// A box that a detector found, as COCO's result files have it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct BoxDetection {
    /// Id of the image.
    pub image_id: u64,
    /// Id of the category.
    pub category_id: u64,
    /// x, y, width, height in pixels.
    pub bbox: [f64; 4],
    /// How sure the detector is.
    pub score: f64,
}

/// What came of a detector's boxes.
#[derive(Clone, Debug, PartialEq)]
pub struct DetectedReport {
    /// The figures.
    pub summary: DetectedSummary,
    /// The detections with their masks, those beyond the limit left out.
    pub detections: Vec<Detection<Rle>>,
}

/// The figures of a detector's boxes; what `kirie evaluate promptable --detections --json` prints.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DetectedSummary {
    /// COCO's twelve, of the masks.
    #[serde(flatten)]
    pub figures: CocoSummary,
    /// The same of the boxes as the detector gave them.
    pub boxes: CocoSummary,
    /// Objects, crowd regions among them.
    pub objects: usize,
    /// Detections that were judged.
    pub detections: usize,
    /// Of these, boxes without an area or beside their picture; their masks are empty.
    pub unusable: usize,
    /// Detections in pictures that are not looked at.
    pub elsewhere: usize,
    /// How long it took.
    pub seconds: f64,
    /// Pictures that were evaluated.
    pub images: usize,
    /// `detections`.
    pub prompt: String,
    /// Name of the model.
    pub model: String,
    /// Pictures that could not be evaluated; neither their objects nor their detections count.
    pub failed: Vec<Failed>,
}

/// Reads a COCO result file.
///
/// # Errors
/// [`EvaluateError::File`] by line.
pub fn read_detections(path: &Path) -> Result<Vec<BoxDetection>, EvaluateError> {
    let wrong = |reason: String| EvaluateError::File { path: path.to_owned(), reason };
    let text = fs::read_to_string(path).map_err(|error| wrong(format!("cannot be read: {error}")))?;
    let found: Vec<BoxDetection> = serde_json::from_str(text.trim_start_matches('\u{feff}')).map_err(|error| {
        wrong(format!("{error}; expected [{{\"image_id\", \"category_id\", \"bbox\": [x, y, w, h], \"score\"}}, ...]"))
    })?;
    let finite = |d: &BoxDetection| d.score.is_finite() && d.bbox.iter().all(|v| v.is_finite());
    match found.iter().position(|detection| !finite(detection)) {
        Some(at) => Err(wrong(format!("detection {at} of the list: expected finite numbers"))),
        None => Ok(found),
    }
}

/// Lets `model` turn the boxes of `detections` into masks, at most `limit` of a picture and category (COCO: 100), and
/// judges them. `samples` come with their image ids, see [`image_ids`](super::image_ids).
///
/// All annotations of COCO are ground truth, whatever their area; crowd regions as COCO treats them.
///
/// # Errors
/// [`EvaluateError::NoPictures`], [`EvaluateError::NoLabels`]. A picture that fails is told to `progress` and recorded.
pub fn detected(
    dataset: &Dataset,
    samples: &[(u64, &Sample)],
    detections: &[BoxDetection],
    limit: usize,
    model: &mut dyn Promptable,
    progress: &mut dyn FnMut(Progress),
) -> Result<DetectedReport, EvaluateError> {
    let start = Instant::now();
    let plain: Vec<&Sample> = samples.iter().map(|(_, sample)| *sample).collect();
    let known = labelled(&plain)?;
    let mut by_image: HashMap<u64, Vec<BoxDetection>> =
        samples.iter().filter(|(_, s)| s.is_labelled()).map(|(id, _)| (*id, Vec::new())).collect();
    let mut elsewhere = 0;
    for detection in detections {
        match by_image.get_mut(&detection.image_id) {
            Some(list) => list.push(*detection),
            None => elsewhere += 1,
        }
    }
    let mut ids = samples.iter().filter(|(_, s)| s.is_labelled()).map(|(id, _)| *id);
    let (mut truths, mut box_truths) = (Vec::new(), Vec::new());
    let (mut masks, mut boxes) = (Vec::new(), Vec::new());
    let (mut unusable, mut images, mut done, mut failures) = (0, 0, 0, Vec::new());
    let options = TruthOptions { keep_empty: true, ..TruthOptions::default() };
    for_each(dataset, &known, options, |sample, loaded| {
        let image = ids.next().unwrap_or_default();
        let mine = best(by_image.remove(&image).unwrap_or_default(), limit);
        let answered = loaded.and_then(|(picture, truth)| {
            let answers = masks_of(model, &picture, &mine)?;
            Ok((truth, answers))
        });
        let failed = match answered {
            Ok((truth, answers)) => {
                images += 1;
                for object in truth.objects {
                    let category = object.class.unwrap_or_default().into();
                    let (area, crowd) = (object.area, object.crowd);
                    let region = object.bbox.to_xywh();
                    box_truths.push(GroundTruth { image, category, region, area, crowd });
                    truths.push(GroundTruth { image, category, region: object.mask, area, crowd });
                }
                for (detection, (mask, usable)) in mine.iter().zip(answers) {
                    let category = detection.category_id;
                    unusable += usize::from(!usable);
                    boxes.push(Detection::new(image, category, detection.bbox, detection.score));
                    masks.push(Detection::new(image, category, mask, detection.score));
                }
                None
            }
            Err(error) => {
                failures.push(Failed { picture: sample.id.clone(), reason: error.to_string() });
                Some(error)
            }
        };
        done += 1;
        let objects = masks.len() as u64;
        progress(Progress {
            done,
            total: known.len(),
            objects,
            figure: None,
            sample,
            failed: failed.as_ref(),
        });
    });
    let figures = CocoEvaluation::new(&truths, &masks, CocoParams::default())?.summary();
    let summary = DetectedSummary {
        figures,
        boxes: CocoEvaluation::new(&box_truths, &boxes, CocoParams::default())?.summary(),
        objects: truths.len(),
        detections: boxes.len(),
        unusable,
        elsewhere,
        seconds: start.elapsed().as_secs_f64(),
        images,
        prompt: "detections".to_owned(),
        model: model.name().to_owned(),
        failed: failures,
    };
    Ok(DetectedReport { summary, detections: masks })
}

/// The best of each category, at most `limit`, in order of score.
fn best(mut detections: Vec<BoxDetection>, limit: usize) -> Vec<BoxDetection> {
    detections.sort_by(|a, b| b.score.total_cmp(&a.score));
    let mut taken: HashMap<u64, usize> = HashMap::new();
    detections.retain(|detection| {
        let count = taken.entry(detection.category_id).or_default();
        *count += 1;
        *count <= limit
    });
    detections
}

/// A mask for every box, and whether the model could be asked for it; if not, the mask is empty.
fn masks_of(
    model: &mut dyn Promptable,
    picture: &Image,
    detections: &[BoxDetection],
) -> Result<Vec<(Rle, bool)>, EvaluateError> {
    let (width, height) = (picture.width(), picture.height());
    let prompts: Vec<Option<Prompt>> = detections
        .iter()
        .map(|detection| {
            let BBox { x0, y0, x1, y1 } = BBox::from_xywh(detection.bbox);
            let prompt = Prompt::bbox(x0, y0, x1, y1);
            // Boxes alone, so the side of a mask input plays no part.
            prompt.check(width, height, 0).is_ok().then_some(prompt)
        })
        .collect();
    let usable: Vec<Prompt> = prompts.iter().flatten().cloned().collect();
    let mut answers = Vec::with_capacity(usable.len());
    if !usable.is_empty() {
        model.set_picture(picture)?;
    }
    for call in usable.chunks(PROMPTS_PER_CALL) {
        let found = model.masks(call)?;
        if found.len() != call.len() {
            let (model, expected, found) = (model.name().to_owned(), call.len(), found.len());
            return Err(EvaluateError::Answers { model, expected, found });
        }
        answers.extend(found.into_iter().map(|answer| answer.mask));
    }
    let nothing = Rle::from_counts(height as usize, width as usize, vec![width * height])?;
    let mut answers = answers.into_iter();
    let mask = |prompt: Option<Prompt>| {
        let answer = prompt.and_then(|_| answers.next());
        answer.map_or_else(|| (nothing.clone(), false), |mask| (mask, true))
    };
    Ok(prompts.into_iter().map(mask).collect())
}
