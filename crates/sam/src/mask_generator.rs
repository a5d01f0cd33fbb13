//! Everything in a picture: a grid of points as prompts, the good masks kept, duplicates removed
//! (`automatic_mask_generator.py` and `utils/amg.py` of the reference).
//!
//! Masks are kept as run lengths from the moment they are made. At any time each thread holds the enlarged logits of one
//! mask, and of these only the part that can be object.

use std::ops::ControlFlow;

use kirie_data::{Image, MaskRecord};
use kirie_mask::{BBox, Rle, fill_small_holes, nms, remove_small_islands, stability_score};
use rayon::prelude::*;

use crate::SamError;
use crate::engine::{Embedding, Engine, PromptBatch};
use crate::mask_decoder::DecodeMode;
use crate::predictor::{FrameScale, MASK_THRESHOLD, encode, not_finite};
use crate::prompt_encoder::{SparsePrompts, TokenLabel};
use crate::registry::EverythingDefaults;
use crate::upscale::Upscaler;

/// More prompts a call than this only take memory, about 15 MiB each.
const MAX_POINTS_PER_BATCH: usize = 1024;

/// Settings of the mask generator; the defaults are the reference's.
#[derive(Clone, Debug, PartialEq)]
pub struct MaskGeneratorOptions {
    /// Where the points lie.
    pub grid: PointGrid,
    /// Prompts per decoder call.
    pub points_per_batch: usize,
    /// Masks whose predicted IoU is not above this are dropped; zero or less keeps all.
    pub pred_iou_thresh: f32,
    /// Masks whose stability score is below this are dropped; zero or less keeps all.
    pub stability_score_thresh: f64,
    /// How far the threshold is moved up and down for the stability score, logits.
    pub stability_score_offset: f32,
    /// IoU of boxes above which the less certain mask of a crop is a duplicate.
    pub box_nms_thresh: f64,
    /// Layers of crops beside the whole picture; layer `i` has `4^i` crops.
    pub crop_n_layers: u32,
    /// IoU of boxes above which masks of different crops are duplicates.
    pub crop_nms_thresh: f64,
    /// Overlap of crops as a part of the picture's shorter side, in the first layer.
    pub crop_overlap_ratio: f64,
    /// The grid of layer `i` has its side divided by this to the power of `i`.
    pub crop_n_points_downscale_factor: u32,
    /// Holes and islands of fewer pixels are removed; zero leaves them.
    pub min_mask_region_area: u64,
}

impl Default for MaskGeneratorOptions {
    fn default() -> Self {
        let EverythingDefaults { input: _, points_per_side, pred_iou_thresh, stability_score_thresh } =
            EverythingDefaults::SAM;
        Self {
            grid: PointGrid::PerSide(points_per_side),
            points_per_batch: 64,
            pred_iou_thresh,
            stability_score_thresh,
            stability_score_offset: 1.0,
            box_nms_thresh: 0.7,
            crop_n_layers: 0,
            crop_nms_thresh: 0.7,
            crop_overlap_ratio: 512.0 / 1500.0,
            crop_n_points_downscale_factor: 1,
            min_mask_region_area: 0,
        }
    }
}

/// Where the prompts of a crop lie.
#[derive(Clone, Debug, PartialEq)]
pub enum PointGrid {
    /// A regular grid of this many points a side.
    PerSide(u32),
    /// Given points for the whole picture and every crop layer, `(x, y)` from 0 to 1.
    Explicit(Vec<Vec<[f64; 2]>>),
}

impl MaskGeneratorOptions {
    /// Checks every setting against its range.
    pub fn check(&self) -> Result<(), SamError> {
        let setting = |name, found: String, expected| Err(SamError::Setting { name, found, expected });
        match &self.grid {
            PointGrid::PerSide(1..=4096) => {}
            PointGrid::PerSide(side) => return setting("points_per_side", side.to_string(), "1 to 4096"),
            PointGrid::Explicit(layers) => {
                if layers.len() != self.crop_n_layers as usize + 1 {
                    let found = format!("{} lists", layers.len());
                    return setting("point_grids", found, "one list of points per layer, crop_n_layers + 1");
                }
                if !layers.iter().flatten().flatten().all(|v| (0.0..=1.0).contains(v)) {
                    return setting(
                        "point_grids",
                        "a point beyond the picture".into(),
                        "coordinates from 0 to 1",
                    );
                }
            }
        }
        if !(1..=MAX_POINTS_PER_BATCH).contains(&self.points_per_batch) {
            return setting("points_per_batch", self.points_per_batch.to_string(), "1 to 1024");
        }
        if self.crop_n_points_downscale_factor == 0 {
            return setting("crop_n_points_downscale_factor", "0".into(), "at least 1");
        }
        if self.crop_n_layers > 6 {
            return setting("crop_n_layers", self.crop_n_layers.to_string(), "at most 6 (4096 crops)");
        }
        let numbers = [
            ("pred_iou_thresh", f64::from(self.pred_iou_thresh)),
            ("stability_score_thresh", self.stability_score_thresh),
            ("stability_score_offset", f64::from(self.stability_score_offset)),
            ("box_nms_thresh", self.box_nms_thresh),
            ("crop_nms_thresh", self.crop_nms_thresh),
        ];
        for (name, value) in numbers {
            if !value.is_finite() {
                return setting(name, value.to_string(), "a finite number");
            }
        }
        if self.stability_score_offset < 0.0 {
            return setting("stability_score_offset", self.stability_score_offset.to_string(), "0 or more");
        }
        if !(0.0..=1.0).contains(&self.crop_overlap_ratio) {
            return setting("crop_overlap_ratio", self.crop_overlap_ratio.to_string(), "0 to 1");
        }
        Ok(())
    }

    /// The points of a crop layer, from 0 to 1.
    fn points(&self, layer: usize) -> Vec<[f64; 2]> {
        match &self.grid {
            PointGrid::PerSide(side) => {
                let factor = f64::from(self.crop_n_points_downscale_factor).powi(layer as i32);
                point_grid((f64::from(*side) / factor) as usize)
            }
            PointGrid::Explicit(layers) => layers[layer].clone(),
        }
    }
}

/// How far a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Points answered.
    pub done: usize,
    /// Points of all crops together.
    pub total: usize,
    /// Masks kept so far, duplicates among crops not yet removed.
    pub masks: usize,
}

/// A mask on its way, in the picture's frame.
struct Candidate {
    rle: Rle,
    bbox: BBox,
    iou: f32,
    stability: f64,
    point: [f64; 2],
    crop: CropBox,
}

/// A part of the picture, pixels; the right and lower edge are not part of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct CropBox {
    x0: u32,
    y0: u32,
    x1: u32,
    y1: u32,
}

impl CropBox {
    fn width(self) -> u32 {
        self.x1 - self.x0
    }

    fn height(self) -> u32 {
        self.y1 - self.y0
    }

    fn area(self) -> f64 {
        f64::from(self.width()) * f64::from(self.height())
    }

    fn corners(self) -> [f64; 4] {
        [self.x0, self.y0, self.x1, self.y1].map(f64::from)
    }
}

/// Finds the masks of everything in a picture, in the order of falling predicted IoU (of each crop).
///
/// `progress` is called after every decoder call and can stop the run.
///
/// # Errors
/// A setting out of its range, [`SamError::Cancelled`], or a model that cannot run.
pub fn generate(
    engine: &dyn Engine,
    image: &Image,
    options: &MaskGeneratorOptions,
    progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
) -> Result<Vec<MaskRecord>, SamError> {
    options.check()?;
    let size = [image.width(), image.height()];
    let crops = crop_boxes(size, options.crop_n_layers, options.crop_overlap_ratio);
    let grids: Vec<_> = (0..=options.crop_n_layers as usize).map(|layer| options.points(layer)).collect();
    let mut state = Progress { done: 0, total: crops.iter().map(|(_, l)| grids[*l].len()).sum(), masks: 0 };

    let mut kept: Vec<Candidate> = Vec::new();
    for (crop, layer) in crops.iter().filter(|(_, layer)| !grids[*layer].is_empty()) {
        let found = generate_crop(engine, image, *crop, &grids[*layer], options, &mut state, progress)?;
        kept.extend(found);
        state.masks = kept.len();
    }
    if crops.len() > 1 {
        // Masks of smaller crops are the finer ones.
        let scores: Vec<f64> = kept.iter().map(|c| 1.0 / c.crop.area()).collect();
        kept = select(kept, &scores, options.crop_nms_thresh);
    }
    if options.min_mask_region_area > 0 {
        let threshold = options.box_nms_thresh.max(options.crop_nms_thresh);
        kept = remove_small_regions(kept, options.min_mask_region_area, threshold);
    }
    Ok(kept.into_iter().map(into_record).collect())
}

fn generate_crop(
    engine: &dyn Engine,
    image: &Image,
    crop: CropBox,
    grid: &[[f64; 2]],
    options: &MaskGeneratorOptions,
    state: &mut Progress,
    progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
) -> Result<Vec<Candidate>, SamError> {
    let (width, height) = (crop.width(), crop.height());
    let embedding = if [width, height] == [image.width(), image.height()] {
        encode(engine, image)?.embedding
    } else {
        encode(engine, &image.crop(crop.x0, crop.y0, width, height)?)?.embedding
    };
    let before = state.masks;
    let frame = engine.preprocess().frame;
    let upscaler = Upscaler::new(engine.mask_side(), frame, width, height);
    let scale = FrameScale::new(&engine.preprocess(), width, height);
    let points: Vec<[f64; 2]> =
        grid.iter().map(|[x, y]| [x * f64::from(width), y * f64::from(height)]).collect();
    let mut found = Vec::new();
    for batch in points.chunks(options.points_per_batch) {
        let frame_size = [image.width(), image.height()];
        found.extend(answer(engine, &embedding, batch, &scale, &upscaler, crop, frame_size, options)?);
        state.done += batch.len();
        state.masks = before + found.len();
        if progress(*state).is_break() {
            return Err(SamError::Cancelled);
        }
    }
    let scores: Vec<f64> = found.iter().map(|c| f64::from(c.iou)).collect();
    Ok(select(found, &scores, options.box_nms_thresh))
}

/// The masks of one decoder call that pass all filters.
fn answer(
    engine: &dyn Engine,
    embedding: &Embedding,
    points: &[[f64; 2]],
    scale: &FrameScale,
    upscaler: &Upscaler,
    crop: CropBox,
    [width, height]: [u32; 2],
    options: &MaskGeneratorOptions,
) -> Result<Vec<Candidate>, SamError> {
    let mut sparse = SparsePrompts { tokens: 2, ..Default::default() };
    for [x, y] in points {
        sparse.coords.extend([scale.apply(*x, *y), [0.0; 2]]);
        sparse.labels.extend([TokenLabel::Positive, TokenLabel::Padding]);
    }
    let above = (options.pred_iou_thresh > 0.0).then_some(options.pred_iou_thresh);
    let batch = PromptBatch { count: points.len(), sparse, masks: None, above };
    let output = engine.decode(embedding, &batch, DecodeMode { multimask: true, hq_only: false })?;
    if output.iou.values.iter().all(|iou| iou.is_nan()) {
        return Err(not_finite());
    }
    let masks = output.iou.shape[1];
    let pixels = engine.mask_side().pow(2);

    let candidates: Result<Vec<Option<Candidate>>, SamError> = output
        .logits
        .values
        .par_chunks_exact(pixels)
        .zip(output.iou.values.par_iter())
        .enumerate()
        .map(|(i, (low, iou))| {
            if options.pred_iou_thresh > 0.0 && (*iou <= options.pred_iou_thresh || iou.is_nan()) {
                return Ok(None);
            }
            let lowest = MASK_THRESHOLD - options.stability_score_offset;
            let (stability, mask) = match upscaler.patch(low, lowest) {
                Some(patch) => {
                    let offset = options.stability_score_offset;
                    (stability_score(&patch.values, MASK_THRESHOLD, offset), Some(patch))
                }
                None => (f64::NAN, None),
            };
            // NaN, the score of nothing, fails the comparison as in the reference.
            if options.stability_score_thresh > 0.0
                && (stability < options.stability_score_thresh || stability.is_nan())
            {
                return Ok(None);
            }
            let rle = match mask {
                Some(patch) => patch.mask(MASK_THRESHOLD)?.paste(
                    crop.x0 as usize + patch.x,
                    crop.y0 as usize + patch.y,
                    width as usize,
                    height as usize,
                )?,
                None => empty(width, height)?,
            };
            let bbox = if rle.area() > 0 {
                rle.inclusive_box()
            } else {
                // The reference takes the box inside the crop, where that of nothing is the corner.
                let (x, y) = (f64::from(crop.x0), f64::from(crop.y0));
                BBox::new(x, y, x, y)
            };
            if is_cut_by_crop(&bbox, crop, [width, height]) {
                return Ok(None);
            }
            let [x, y] = points[i / masks];
            let point = [x + f64::from(crop.x0), y + f64::from(crop.y0)];
            Ok(Some(Candidate { rle, bbox, iou: *iou, stability, point, crop }))
        })
        .collect();
    Ok(candidates?.into_iter().flatten().collect())
}

fn empty(width: u32, height: u32) -> Result<Rle, SamError> {
    Ok(Rle::from_counts(height as usize, width as usize, vec![width * height])?)
}

/// Greedy suppression by boxes; the kept in the order of falling score.
fn select(candidates: Vec<Candidate>, scores: &[f64], threshold: f64) -> Vec<Candidate> {
    let boxes: Vec<BBox> = candidates.iter().map(|c| c.bbox).collect();
    let kept = nms(&boxes, scores, threshold);
    let mut candidates: Vec<Option<Candidate>> = candidates.into_iter().map(Some).collect();
    kept.into_iter().filter_map(|i| candidates[i].take()).collect()
}

/// Whether a mask ends at an edge of its crop that is not an edge of the picture: it is then likely cut off.
fn is_cut_by_crop(bbox: &BBox, crop: CropBox, [width, height]: [u32; 2]) -> bool {
    const NEAR: f64 = 20.0;
    let picture = [0.0, 0.0, f64::from(width), f64::from(height)];
    [bbox.x0, bbox.y0, bbox.x1, bbox.y1]
        .iter()
        .zip(crop.corners())
        .zip(picture)
        .any(|((edge, crop), picture)| (edge - crop).abs() <= NEAR && (edge - picture).abs() > NEAR)
}

/// Removes small holes and islands, then duplicates again; a mask that was changed loses against one that was not.
fn remove_small_regions(candidates: Vec<Candidate>, min_area: u64, threshold: f64) -> Vec<Candidate> {
    let (cleaned, scores): (Vec<Candidate>, Vec<f64>) = candidates
        .into_par_iter()
        .map(|mut candidate| {
            let (mask, filled) = fill_small_holes(&candidate.rle.to_mask(), min_area);
            let (mask, removed) = remove_small_islands(&mask, min_area);
            if filled || removed {
                candidate.rle = Rle::from_mask(&mask);
                candidate.bbox = candidate.rle.inclusive_box();
                (candidate, 0.0)
            } else {
                (candidate, 1.0)
            }
        })
        .unzip();
    select(cleaned, &scores, threshold)
}

fn into_record(candidate: Candidate) -> MaskRecord {
    let [x0, y0, x1, y1] = candidate.crop.corners();
    MaskRecord {
        bbox: candidate.bbox.to_xywh(),
        area: candidate.rle.area(),
        predicted_iou: f64::from(candidate.iou),
        stability_score: candidate.stability,
        point_coords: vec![candidate.point],
        crop_box: [x0, y0, x1 - x0, y1 - y0],
        segmentation: candidate.rle,
    }
}

/// The centres of `side` x `side` equal cells, row by row, `(x, y)` from 0 to 1.
fn point_grid(side: usize) -> Vec<[f64; 2]> {
    let place = |i: usize| (i as f64 + 0.5) / side as f64;
    (0..side * side).map(|i| [place(i % side), place(i / side)]).collect()
}

/// The whole picture and its crops, each with its layer.
fn crop_boxes([width, height]: [u32; 2], layers: u32, overlap_ratio: f64) -> Vec<(CropBox, usize)> {
    let mut crops = vec![(CropBox { x0: 0, y0: 0, x1: width, y1: height }, 0)];
    let shorter = f64::from(width.min(height));
    for layer in 0..layers {
        let side = 2_u32 << layer;
        let overlap = (overlap_ratio * shorter * (2.0 / f64::from(side))) as u32;
        let length = |whole: u32| (overlap * (side - 1) + whole).div_ceil(side);
        let start = |k: u32, length: u32| k * length.saturating_sub(overlap);
        let (crop_width, crop_height) = (length(width), length(height));
        for i in 0..side {
            for j in 0..side {
                let (x0, y0) = (start(i, crop_width), start(j, crop_height));
                let (x1, y1) = ((x0 + crop_width).min(width), (y0 + crop_height).min(height));
                // Tiny pictures leave nothing for the last crops of deep layers.
                if x0 < x1 && y0 < y1 {
                    crops.push((CropBox { x0, y0, x1, y1 }, layer as usize + 1));
                }
            }
        }
    }
    crops
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Golden values of the reference, `sam.md` section 16.
    #[test]
    fn crop_boxes_golden_values() {
        let crops = crop_boxes([800, 600], 2, 512.0 / 1500.0);
        let corners: Vec<[f64; 4]> = crops.iter().map(|(c, _)| c.corners()).collect();
        assert_eq!(corners.len(), 21);
        assert_eq!(corners[0], [0.0, 0.0, 800.0, 600.0]);
        assert_eq!(
            corners[1..5],
            [
                [0.0, 0.0, 502.0, 402.0],
                [0.0, 198.0, 502.0, 600.0],
                [298.0, 0.0, 800.0, 402.0],
                [298.0, 198.0, 800.0, 600.0]
            ]
        );
        assert_eq!(
            corners[5..9],
            [
                [0.0, 0.0, 277.0, 227.0],
                [0.0, 125.0, 277.0, 352.0],
                [0.0, 250.0, 277.0, 477.0],
                [0.0, 375.0, 277.0, 600.0]
            ]
        );
        assert_eq!(corners[20], [525.0, 375.0, 800.0, 600.0]);
    }

    /// Golden values of the reference, `sam.md` section 16.
    #[test]
    fn grids_golden_values() {
        assert_eq!(point_grid(2), [[0.25, 0.25], [0.75, 0.25], [0.25, 0.75], [0.75, 0.75]]);
        let options = MaskGeneratorOptions { crop_n_points_downscale_factor: 2, ..Default::default() };
        let sizes: Vec<usize> = (0..3).map(|layer| options.points(layer).len()).collect();
        assert_eq!(sizes, [1024, 256, 64]);
    }

    #[test]
    fn masks_at_inner_crop_edges_are_cut() {
        let crop = CropBox { x0: 298, y0: 0, x1: 800, y1: 402 };
        let cut = |x0, y0, x1, y1| is_cut_by_crop(&BBox::new(x0, y0, x1, y1), crop, [800, 600]);
        assert!(!cut(400.0, 100.0, 500.0, 200.0));
        assert!(cut(310.0, 100.0, 500.0, 200.0), "left edge of the crop, inside the picture");
        assert!(!cut(400.0, 0.0, 799.0, 200.0), "edges of the picture");
        assert!(cut(400.0, 100.0, 500.0, 390.0), "lower edge of the crop");
    }

    #[test]
    fn settings_are_checked() {
        let bad = |options: MaskGeneratorOptions| matches!(options.check(), Err(SamError::Setting { .. }));
        assert!(!bad(MaskGeneratorOptions::default()));
        assert!(bad(MaskGeneratorOptions { grid: PointGrid::PerSide(0), ..Default::default() }));
        assert!(bad(MaskGeneratorOptions { grid: PointGrid::Explicit(vec![]), ..Default::default() }));
        assert!(bad(MaskGeneratorOptions {
            grid: PointGrid::Explicit(vec![vec![[1.5, 0.0]]]),
            ..Default::default()
        }));
        assert!(bad(MaskGeneratorOptions { points_per_batch: 0, ..Default::default() }));
        assert!(bad(MaskGeneratorOptions { pred_iou_thresh: f32::NAN, ..Default::default() }));
        assert!(bad(MaskGeneratorOptions { crop_overlap_ratio: 2.0, ..Default::default() }));
    }
}
