//! Scores of answers at the pictures' own size: IoU and boundary IoU, mean over the pictures of a set.

use std::collections::BTreeMap;

use kirie_engine::random::Streams;
use kirie_mask::Mask;
use kirie_metrics::Overlap;
use kirie_sam::DecodeMode;
use kirie_sam::predictor::MASK_THRESHOLD;
use kirie_sam::upscale::Upscaler;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::adapter::{Adapter, decode};
use crate::data::{Part, Picture};
use crate::error::ContinualError;
use crate::items::{Item, Maker, features, file_name};
use crate::prompts::Pick;
use crate::train::asked;
use crate::views::{PromptKind, Target, ask};

/// Band of the boundary IoU over the picture's diagonal, as COCO and CoSAM have it.
const BOUNDARY: f64 = 0.02;
/// Pictures that are answered at once.
const TOGETHER: usize = 8;

/// A picture to measure on, as the base sees it.
#[derive(Clone, Debug)]
pub struct Case {
    /// The whole picture.
    pub item: Item,
    mask: Mask,
    ignore: Option<Mask>,
}

impl Case {
    /// From a picture.
    pub fn new(maker: &Maker<'_>, picture: Picture) -> Result<Self, ContinualError> {
        let item = maker.item(&picture, 0)?;
        Ok(Self { item, mask: picture.mask, ignore: picture.ignore })
    }
}

/// A set to measure on.
#[derive(Clone, Debug)]
pub struct TestSet {
    /// Its name.
    pub name: String,
    /// Whether no domain learns from such pictures.
    pub natural: bool,
    /// Its pictures.
    pub cases: Vec<Case>,
    /// Pictures that were passed over, for they have no foreground.
    pub empty: usize,
}

impl TestSet {
    /// Reads and encodes some pictures of a part; `tell` is called after each.
    ///
    /// # Errors
    /// By picture.
    pub fn open(
        maker: &Maker<'_>,
        name: &str,
        natural: bool,
        part: &Part,
        chosen: &[usize],
        tell: &mut dyn FnMut(),
    ) -> Result<Self, ContinualError> {
        let mut cases = Vec::new();
        for at in chosen {
            cases.push(Case::new(maker, part.read(*at)?)?);
            tell();
        }
        Ok(Self { name: name.to_owned(), natural, cases, empty: part.empty })
    }
}

/// Scores of one answer, or means of several.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Scores {
    /// Intersection over union; 1 for an empty answer to an empty mask.
    pub iou: f64,
    /// The same of the bands along the inner edges.
    pub boundary_iou: f64,
}

impl Scores {
    /// The mean.
    pub fn mean(all: &[Self]) -> Self {
        let count = all.len().max(1) as f64;
        Self {
            iou: all.iter().map(|score| score.iou).sum::<f64>() / count,
            boundary_iou: all.iter().map(|score| score.boundary_iou).sum::<f64>() / count,
        }
    }
}

/// Scores by kind of prompt.
pub type ByPrompt = BTreeMap<PromptKind, Scores>;

/// Answers cases with an adapter, or with the base as it is, and scores them. The prompts of a case are the same in every run.
///
/// # Errors
/// Values that cannot be read from the device.
pub fn score(
    maker: &Maker<'_>,
    adapter: Option<&Adapter>,
    cases: &[&Case],
    kind: PromptKind,
    pick: Pick,
) -> Result<Vec<Scores>, ContinualError> {
    let base = maker.base;
    let (side, device) = (base.mask_side(), base.device());
    let frame = base.preprocess().frame;
    let mut scores = Vec::with_capacity(cases.len());
    for cases in cases.chunks(TOGETHER) {
        let mut prompts = crate::views::PromptValues::default();
        for case in cases {
            let mut rng = Streams::new(0).stream(&format!("test {}", file_name(&case.item.name)), &[]);
            let targets: [&Target; 1] = [&case.item.target];
            let own = ask(kind, &targets, side, &mut rng);
            prompts.sparse.tokens = own.sparse.tokens;
            prompts.sparse.coords.extend(own.sparse.coords);
            prompts.sparse.labels.extend(own.sparse.labels);
            if let Some(mask) = own.masks {
                prompts.masks.get_or_insert_default().extend(mask);
            }
        }
        let items: Vec<&Item> = cases.iter().map(|case| &case.item).collect();
        let inside = adapter.and_then(|adapter| adapter.encoder.as_ref());
        let features = features(&items, base, inside, device);
        let mode = DecodeMode { multimask: false, hq_only: false };
        let (output, _) =
            decode(base.sam(false), adapter, &features, &asked(&prompts, side, device), mode, pick);
        let logits: Vec<f32> = output.masks.into_data().iter::<f32>().collect();
        let scored: Result<Vec<Scores>, ContinualError> = cases
            .par_iter()
            .zip(logits.par_chunks_exact(side * side))
            .map(|(case, low)| {
                let (width, height) = (case.mask.width() as u32, case.mask.height() as u32);
                let found = Upscaler::new(side, frame, width, height).mask(low, MASK_THRESHOLD)?;
                compare(found.to_mask(), &case.mask, case.ignore.as_ref())
            })
            .collect();
        scores.extend(scored?);
    }
    Ok(scores)
}

/// The same for several kinds of prompts.
///
/// # Errors
/// As [`score`].
pub fn score_kinds(
    maker: &Maker<'_>,
    adapter: Option<&Adapter>,
    cases: &[&Case],
    kinds: &[PromptKind],
    pick: Pick,
) -> Result<Vec<ByPrompt>, ContinualError> {
    let mut all = vec![ByPrompt::new(); cases.len()];
    for kind in kinds {
        for (by_prompt, scores) in all.iter_mut().zip(score(maker, adapter, cases, *kind, pick)?) {
            by_prompt.insert(*kind, scores);
        }
    }
    Ok(all)
}

/// Scores of a mask.
pub fn compare(mut found: Mask, truth: &Mask, ignore: Option<&Mask>) -> Result<Scores, ContinualError> {
    if let Some(ignore) = ignore {
        for (pixel, ignored) in found.as_mut_slice().iter_mut().zip(ignore.as_slice()) {
            *pixel &= !ignored;
        }
    }
    let iou = Overlap::of_masks(&found, truth)?.iou().unwrap_or(1.0);
    let boundary_iou = Overlap::of_boundaries(&found, truth, BOUNDARY)?.iou().unwrap_or(1.0);
    Ok(Scores { iou, boundary_iou })
}
