//! Asking SAM: points in, boxes out.

use std::ops::ControlFlow;

use kirie_data::Image;
use kirie_mask::{BBox, Rle};
use kirie_run::Stop;
use kirie_sam::mask_generator::{self, MaskGeneratorOptions, PointGrid};
use kirie_sam::{DecodeMode, Engine, Predictor, Prompt, SamError};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::select::{Proposal, nms_in_order};
use crate::WeakError;
use crate::files::{Source, to_bbox, to_corners};

/// Which of SAM's masks of a point become proposals.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Masks {
    /// Of three masks the last two, the larger ones: as published.
    #[default]
    LastTwo,
    /// All three, and the one that is given for a prompt with one meaning: for models whose masks are not sorted by size.
    All,
    /// The one that is given for a prompt with one meaning, alone.
    Single,
}

/// The dense grid, as SAM's mask generator asks it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GridOptions {
    /// Points a side; 0 for no grid.
    pub points: u32,
    /// Masks whose predicted IoU is not above this are dropped.
    pub predicted_iou: f32,
    /// Masks whose stability score is below this are dropped.
    pub stability: f64,
    /// IoU of boxes above which the less certain mask is a duplicate.
    pub nms: f64,
}

impl Default for GridOptions {
    /// As published.
    fn default() -> Self {
        Self { points: 32, predicted_iou: 0.3, stability: 0.3, nms: 0.3 }
    }
}

/// Points to ask at, picture pixels.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Cues {
    /// Peaks of the coarse maps, class by class.
    pub coarse: Vec<Vec<[f64; 2]>>,
    /// Peaks of the fine maps, class by class.
    pub fine: Vec<Vec<[f64; 2]>>,
    /// Clustered peaks of the attention.
    pub cross: Vec<[f64; 2]>,
}

/// Boxes of a grid of points.
///
/// # Errors
/// A model that cannot run; [`WeakError::Stopped`].
pub fn ask_grid(
    engine: &dyn Engine,
    image: &Image,
    options: &GridOptions,
    stop: &Stop,
) -> Result<Vec<Proposal>, WeakError> {
    if options.points == 0 {
        return Ok(Vec::new());
    }
    let generator = MaskGeneratorOptions {
        grid: PointGrid::PerSide(options.points),
        pred_iou_thresh: options.predicted_iou,
        stability_score_thresh: options.stability,
        box_nms_thresh: options.nms,
        ..MaskGeneratorOptions::default()
    };
    let mut go_on = |_: mask_generator::Progress| {
        if stop.requested() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    let records = match mask_generator::generate(engine, image, &generator, &mut go_on) {
        Ok(records) => records,
        Err(SamError::Cancelled) => {
            return Err(WeakError::Stopped { during: "asking for proposals".to_owned() });
        }
        Err(error) => return Err(error.into()),
    };
    let size = [image.width(), image.height()];
    let boxes = records
        .iter()
        .filter_map(|record| proposal(&record.segmentation, record.predicted_iou as f32, size, Source::Grid));
    Ok(boxes.collect())
}

/// Boxes of the cues: each point alone, and all points of one class together; those of the attention each alone, near duplicates
/// (IoU above `cross_nms`) taken off.
///
/// # Errors
/// A model that cannot run.
pub fn ask_cues(
    predictor: &Predictor<'_>,
    cues: &Cues,
    masks: Masks,
    cross_nms: f64,
) -> Result<Vec<Proposal>, WeakError> {
    let mut proposals = Vec::new();
    for (source, classes) in [(Source::Coarse, &cues.coarse), (Source::Fine, &cues.fine)] {
        let alone = classes.iter().flatten().map(|[x, y]| Prompt::point(*x, *y));
        let together = classes.iter().filter(|points| points.len() > 1).map(|points| {
            points.iter().fold(Prompt::default(), |prompt, [x, y]| prompt.with_point(*x, *y, true))
        });
        let prompts: Vec<Prompt> = alone.chain(together).collect();
        proposals.extend(ask(predictor, &prompts, masks, source)?);
    }
    let prompts: Vec<Prompt> = cues.cross.iter().map(|[x, y]| Prompt::point(*x, *y)).collect();
    let cross = ask(predictor, &prompts, masks, Source::Cross)?;
    let boxes: Vec<BBox> = cross.iter().map(|p| to_bbox(p.corners)).collect();
    proposals.extend(nms_in_order(&boxes, cross_nms).into_iter().map(|index| cross[index]));
    Ok(proposals)
}

fn ask(
    predictor: &Predictor<'_>,
    prompts: &[Prompt],
    masks: Masks,
    source: Source,
) -> Result<Vec<Proposal>, WeakError> {
    if prompts.is_empty() {
        return Ok(Vec::new());
    }
    let modes: &[bool] = match masks {
        Masks::LastTwo => &[true],
        Masks::All => &[true, false],
        Masks::Single => &[false],
    };
    let first = usize::from(masks == Masks::LastTwo);
    let mut by_prompt: Vec<Vec<Proposal>> = vec![Vec::new(); prompts.len()];
    for multimask in modes {
        let mode = DecodeMode { multimask: *multimask, hq_only: false };
        let answers = predictor.predict(prompts, mode)?;
        let found = answers.par_iter().map(|answer| -> Result<Vec<Proposal>, WeakError> {
            let scaler = predictor.masks_of(answer)?;
            let mut found = Vec::new();
            for (low, iou) in answer.low_res.iter().zip(&answer.iou).skip(first) {
                let mask = scaler.mask(low)?;
                found.extend(proposal(&mask, *iou, [mask.width() as u32, mask.height() as u32], source));
            }
            Ok(found)
        });
        for (own, found) in by_prompt.iter_mut().zip(found.collect::<Result<Vec<_>, _>>()?) {
            own.extend(found);
        }
    }
    Ok(by_prompt.into_iter().flatten().collect())
}

/// The box around a mask; nothing around nothing.
fn proposal(mask: &Rle, score: f32, [width, height]: [u32; 2], source: Source) -> Option<Proposal> {
    let bbox = BBox::from_xywh(mask.bbox_xywh().map(f64::from));
    let corners = to_corners(&bbox, width, height)?;
    Some(Proposal { corners, score: if score.is_finite() { score } else { 0.0 }, source })
}
