//! The regions of pictures that views are drawn from: masks of a model, joined to objects and filtered; or, to hold them
//! against, labelled objects, random boxes, a grid.

pub mod cache;
mod make;
pub mod merge;

use std::path::{Path, PathBuf};

use kirie_engine::random::unit;
use kirie_mask::Rle;
use rand::Rng;
use serde::{Deserialize, Serialize};

pub use make::{RegionCount, RegionModel, Table, of_pictures};

use crate::error::ContrastiveError;

/// What part of a picture both views of a sample come from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RegionsConfig {
    /// Where regions come from; `{ kind = "whole" }` is plain whole-image sampling.
    pub source: Source,
    /// Folder in which a model's masks are kept.
    pub cache: PathBuf,
    /// A mask belongs to a larger one if more than this share of it lies in there; 1 or more joins none.
    pub containment: f64,
    /// Regions of so many pixels or fewer are left out.
    pub min_area: u64,
    /// Regions of more than this share of the picture are left out.
    pub max_share: f64,
    /// Regions that touch more than this many of the picture's four edges are left out; 4 keeps all.
    pub max_edges: u32,
    /// How a picture's region is chosen.
    pub choose: Choose,
    /// The box's width and height are multiplied by this, about its centre, and cut at the picture's edges.
    pub box_scale: f64,
    /// What stands in place of what is not the region.
    pub background: Background,
    /// What is done with a picture in which no region is left.
    pub without: Without,
}

impl Default for RegionsConfig {
    /// No regions; the settings beside are those of the SAMCLR authors' code.
    fn default() -> Self {
        Self {
            source: Source::Whole,
            cache: PathBuf::from("regions"),
            containment: 0.9,
            min_area: 600,
            max_share: 1.0,
            max_edges: 4,
            choose: Choose::Evenly,
            box_scale: 2.0,
            background: Background::Keep,
            without: Without::Whole,
        }
    }
}

/// Where regions come from.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Source {
    /// There are none: views of the whole picture (SimCLR, MoCo, DINO as published).
    #[default]
    Whole,
    /// Everything that a SAM-family model finds (SAMCLR).
    Model(ModelSource),
    /// The boxes of [`Source::Model`] at random places: control for their size and number.
    Moved(ModelSource),
    /// Labelled objects: what perfect regions would give.
    Truth,
    /// Random boxes.
    Random {
        /// Boxes of a picture.
        #[serde(default = "ten")]
        count: usize,
        /// Least and greatest share of the picture's area, drawn evenly by logarithm.
        #[serde(default = "shares")]
        area: [f64; 2],
    },
    /// Equal cells.
    Grid {
        /// Cells one above the other.
        #[serde(default = "three")]
        rows: u32,
        /// Cells side by side.
        #[serde(default = "three")]
        columns: u32,
    },
}

/// A model that finds everything in a picture.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelSource {
    /// A model of `kirie models list`.
    #[serde(default = "kirie_small")]
    pub model: String,
    /// Its weights; without it those in the program or fetched.
    #[serde(default)]
    pub weights: Option<PathBuf>,
    /// Side of its input, pixels; without it what it takes to find everything.
    #[serde(default)]
    pub input: Option<u32>,
    /// Points along a side of the grid; without it the model's own number, and so for the thresholds.
    #[serde(default)]
    pub points_per_side: Option<u32>,
    /// Masks whose predicted IoU is not above this are dropped.
    #[serde(default)]
    pub pred_iou_thresh: Option<f32>,
    /// Masks whose stability score is below this are dropped.
    #[serde(default)]
    pub stability_score_thresh: Option<f64>,
}

impl Default for ModelSource {
    fn default() -> Self {
        Self {
            model: kirie_small(),
            weights: None,
            input: None,
            points_per_side: None,
            pred_iou_thresh: None,
            stability_score_thresh: None,
        }
    }
}

/// How a picture's region is chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Choose {
    /// Each as likely as any other.
    #[default]
    Evenly,
    /// In proportion to its pixels.
    ByArea,
}

/// What stands in place of what is not the region.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Background {
    /// The picture (the authors' code).
    #[default]
    Keep,
    /// The mean colour of ImageNet, which is 0 for the network.
    Mean,
    /// The picture, blurred beyond recognition.
    Blur,
}

/// What is done with a picture in which no region is left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Without {
    /// The whole picture is its region.
    #[default]
    Whole,
    /// It is left out.
    Skip,
    /// It is an error.
    Error,
}

fn ten() -> usize {
    10
}
fn shares() -> [f64; 2] {
    [0.02, 0.5]
}
fn three() -> u32 {
    3
}
fn kirie_small() -> String {
    "kirie-small".to_owned()
}

impl RegionsConfig {
    pub(crate) fn resolve(&mut self, base: &Path) {
        self.cache = base.join(&self.cache);
        if let Source::Model(model) | Source::Moved(model) = &mut self.source
            && let Some(weights) = &mut model.weights
        {
            *weights = base.join(&weights);
        }
    }

    /// Checks the numbers.
    pub(crate) fn check(&self) -> Result<(), ContrastiveError> {
        if !(self.containment.is_finite() && self.containment > 0.0) {
            return Err(ContrastiveError::setting(
                "regions.containment",
                self.containment,
                "a number above 0",
            ));
        }
        if !(self.max_share > 0.0 && self.max_share <= 1.0) {
            return Err(ContrastiveError::setting("regions.max_share", self.max_share, "above 0 to 1"));
        }
        if self.max_edges > 4 {
            return Err(ContrastiveError::setting("regions.max_edges", self.max_edges, "0 to 4"));
        }
        if !(1.0..=100.0).contains(&self.box_scale) {
            return Err(ContrastiveError::setting("regions.box_scale", self.box_scale, "1 to 100"));
        }
        match &self.source {
            Source::Random { count: 0, .. } => {
                Err(ContrastiveError::setting("regions.source.count", 0, "1 or more"))
            }
            Source::Random { area: [least, most], .. }
                if !(*least > 0.0 && least <= most && *most <= 1.0) =>
            {
                let found = format!("[{least}, {most}]");
                Err(ContrastiveError::setting("regions.source.area", found, "two rising shares above 0 to 1"))
            }
            Source::Grid { rows, columns } if !(1..=64).contains(rows) || !(1..=64).contains(columns) => {
                let found = format!("{rows} rows and {columns} columns");
                Err(ContrastiveError::setting("regions.source", found, "1 to 64 of each"))
            }
            _ => Ok(()),
        }
    }
}

/// A region of a picture.
#[derive(Clone, Debug, PartialEq)]
pub struct Region {
    /// Left, top, width and height of the box around it, pixels.
    pub bbox: [u32; 4],
    /// Its pixels; those of the box where there is no mask.
    pub area: u64,
    /// Its pixels, where they are known.
    pub mask: Option<Rle>,
}

impl Region {
    /// A box.
    pub fn of_box(bbox: [u32; 4]) -> Self {
        Self { bbox, area: u64::from(bbox[2]) * u64::from(bbox[3]), mask: None }
    }

    /// A mask.
    pub fn of_mask(mask: Rle) -> Self {
        Self { bbox: mask.bbox_xywh(), area: mask.area(), mask: Some(mask) }
    }

    /// Whether the settings keep it in a picture of `size` = width and height.
    pub fn is_kept(&self, config: &RegionsConfig, [width, height]: [u32; 2]) -> bool {
        let [x, y, w, h] = self.bbox;
        let edges = [x == 0, y == 0, x + w >= width, y + h >= height];
        let picture = f64::from(width) * f64::from(height);
        w > 0
            && h > 0
            && self.area > config.min_area
            && self.area as f64 <= config.max_share * picture
            && edges.into_iter().filter(|at| *at).count() <= config.max_edges as usize
    }
}

/// A box (left, top, width, height) with its sides multiplied by `scale` about its centre, cut at the edges of a picture of
/// `size` = width and height; at least one pixel.
///
/// As the SAMCLR authors' code: half of the whole pixels that are added goes to each side, rounded down.
pub fn enlarged([x, y, w, h]: [u32; 4], scale: f64, [width, height]: [u32; 2]) -> [u32; 4] {
    let side = |start: u32, length: u32, whole: u32| {
        let added = (scale * f64::from(length)) as u32;
        let half = added.saturating_sub(length) / 2;
        let from = start.saturating_sub(half).min(whole.saturating_sub(1));
        let to = start.saturating_add(length).saturating_add(half).min(whole).max(from + 1);
        [from, to - from]
    };
    let ([x, w], [y, h]) = (side(x, w, width), side(y, h, height));
    [x, y, w, h]
}

/// Chooses a region; `None` if there are none.
pub fn choose<'a>(regions: &'a [Region], how: Choose, rng: &mut impl Rng) -> Option<&'a Region> {
    let at = unit(rng);
    match how {
        Choose::Evenly => regions.get(((at * regions.len() as f64) as usize).min(regions.len().max(1) - 1)),
        Choose::ByArea => {
            let all: u64 = regions.iter().map(|region| region.area).sum();
            let mut left = at * all as f64;
            for region in regions {
                left -= region.area as f64;
                if left < 0.0 {
                    return Some(region);
                }
            }
            regions.last()
        }
    }
}

#[cfg(test)]
mod tests;
