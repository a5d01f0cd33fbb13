//! One COCO annotation file from the masks of many pictures.

use kirie_mask::Rle;
use serde::Serialize;

use super::{DEFAULT_TOLERANCE, check_sizes, outlines, simplified};
use crate::records::nan_as_null;
use crate::{DataError, ImageMasks};

/// How [`coco_json`] writes.
#[derive(Clone, Debug, PartialEq)]
pub struct CocoOptions {
    /// Form of the annotations' `segmentation`. Default [`CocoShape::Rle`].
    pub shape: CocoShape,
    /// Name of the one category (id 1) that every mask belongs to. Default `object`.
    pub category: String,
}

impl Default for CocoOptions {
    fn default() -> Self {
        Self { shape: CocoShape::Rle, category: "object".to_owned() }
    }
}

/// Form of a COCO annotation's `segmentation`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum CocoShape {
    /// Compressed run lengths: exact.
    Rle,
    /// Polygons, which more programs can edit: the outer outline of each part. COCO polygons have no holes, so holes
    /// are filled; `area` stays that of the mask.
    Polygons {
        /// Farthest an outline may stray from the mask's edge, pixels; 0 keeps every corner.
        tolerance: f64,
    },
}

impl CocoShape {
    /// Polygons with the tolerance most callers want.
    pub const POLYGONS: Self = Self::Polygons { tolerance: DEFAULT_TOLERANCE };
}

/// A COCO file with annotations of any form.
#[derive(Serialize)]
pub(super) struct Dataset<'a, A> {
    pub(super) info: Info,
    pub(super) images: Vec<Picture<'a>>,
    pub(super) annotations: Vec<A>,
    pub(super) categories: Vec<Category<'a>>,
}

impl<A: Serialize> Dataset<'_, A> {
    pub(super) fn to_json(&self) -> Result<Vec<u8>, DataError> {
        serde_json::to_vec(self)
            .map_err(|error| DataError::Encode { what: "the COCO file", reason: error.to_string() })
    }
}

#[derive(Serialize)]
pub(super) struct Info {
    pub(super) description: &'static str,
}

#[derive(Serialize)]
pub(super) struct Picture<'a> {
    pub(super) id: u64,
    pub(super) file_name: &'a str,
    pub(super) width: u32,
    pub(super) height: u32,
}

#[derive(Serialize)]
struct Annotation<'a> {
    id: u64,
    image_id: u64,
    category_id: u64,
    segmentation: Segmentation<'a>,
    area: u64,
    bbox: [u32; 4],
    iscrowd: u8,
    #[serde(with = "nan_as_null")]
    score: f64,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Segmentation<'a> {
    Rle(&'a Rle),
    Polygons(Vec<Vec<f64>>),
}

#[derive(Serialize)]
pub(super) struct Category<'a> {
    pub(super) id: u64,
    pub(super) name: &'a str,
    pub(super) supercategory: &'static str,
}

/// The content of a COCO annotation file with all masks of all pictures.
///
/// Ids count from 1 in the order given. `score` is the predicted IoU, so that the annotations also serve as results.
/// `bbox` is COCO's x, y, width, height around whole pixels (one larger than SAM's in both directions), `iscrowd` is
/// 0. Masks without a pixel are left out.
///
/// # Errors
/// [`DataError::MaskSize`] when a mask is not of its picture's size.
pub fn coco_json(pictures: &[ImageMasks], options: &CocoOptions) -> Result<Vec<u8>, DataError> {
    let mut images = Vec::new();
    let mut annotations = Vec::new();
    for (image_id, all) in (1..).zip(pictures) {
        check_sizes(all)?;
        let (width, height) = (all.image.width, all.image.height);
        images.push(Picture { id: image_id, file_name: &all.image.path, width, height });
        for mask in all.masks.iter().filter(|mask| mask.segmentation.area() > 0) {
            annotations.push(Annotation {
                id: annotations.len() as u64 + 1,
                image_id,
                category_id: 1,
                segmentation: segmentation(&mask.segmentation, options.shape),
                area: mask.segmentation.area(),
                bbox: mask.segmentation.bbox_xywh(),
                iscrowd: 0,
                score: mask.predicted_iou,
            });
        }
    }
    let dataset = Dataset {
        info: Info { description: "masks cut by kirie" },
        images,
        annotations,
        categories: vec![Category { id: 1, name: &options.category, supercategory: "" }],
    };
    dataset.to_json()
}

fn segmentation(rle: &Rle, shape: CocoShape) -> Segmentation<'_> {
    match shape {
        CocoShape::Rle => Segmentation::Rle(rle),
        CocoShape::Polygons { tolerance } => {
            let rings = outlines(rle).into_iter().map(|region| simplified(&region.exterior, tolerance));
            Segmentation::Polygons(rings.map(|ring| ring.iter().flat_map(|p| [p.x, p.y]).collect()).collect())
        }
    }
}
