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

/// The masks of one picture, each of a class: labels, where [`ImageMasks`] alone is an answer.
#[derive(Clone, Copy, Debug)]
pub struct ClassedMasks<'a> {
    /// The picture and its masks.
    pub masks: &'a ImageMasks,
    /// Category id of each mask, as many as there are masks.
    pub categories: &'a [u32],
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
    category_id: u32,
    segmentation: Segmentation<'a>,
    area: u64,
    bbox: [u32; 4],
    iscrowd: u8,
    #[serde(skip_serializing_if = "Option::is_none")]
    score: Option<Score>,
}

#[derive(Serialize)]
#[serde(transparent)]
struct Score(#[serde(with = "nan_as_null")] f64);

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
    let pictures = pictures.iter().map(|masks| (masks, None));
    write(pictures, &[(1, &options.category)], options.shape)
}

/// The same with a category for every mask; `categories` are their ids and names. There are no scores: these are labels that
/// people made.
///
/// # Errors
/// As [`coco_json`], and [`DataError::Encode`] where masks and categories are not as many, or a category is not listed.
pub fn classed_coco_json(
    pictures: &[ClassedMasks<'_>],
    categories: &[(u32, &str)],
    shape: CocoShape,
) -> Result<Vec<u8>, DataError> {
    for ClassedMasks { masks, categories: of_masks } in pictures {
        let wrong = |reason: String| Err(DataError::Encode { what: "the COCO file", reason });
        let (path, found) = (&masks.image.path, of_masks.len());
        if found != masks.masks.len() {
            return wrong(format!("{path} has {} masks and {found} categories", masks.masks.len()));
        }
        let listed = |id: &u32| categories.iter().any(|(known, _)| known == id);
        if let Some(id) = of_masks.iter().find(|id| !listed(id)) {
            return wrong(format!("{path} has a mask of the category {id}, which is not listed"));
        }
    }
    write(pictures.iter().map(|picture| (picture.masks, Some(picture.categories))), categories, shape)
}

/// Without categories all masks are of the category 1, and have scores.
fn write<'a>(
    pictures: impl Iterator<Item = (&'a ImageMasks, Option<&'a [u32]>)>,
    categories: &[(u32, &str)],
    shape: CocoShape,
) -> Result<Vec<u8>, DataError> {
    let mut images = Vec::new();
    let mut annotations = Vec::new();
    for (image_id, (all, classes)) in (1..).zip(pictures) {
        check_sizes(all)?;
        let (width, height) = (all.image.width, all.image.height);
        images.push(Picture { id: image_id, file_name: &all.image.path, width, height });
        for (at, mask) in all.masks.iter().enumerate().filter(|(_, mask)| mask.segmentation.area() > 0) {
            annotations.push(Annotation {
                id: annotations.len() as u64 + 1,
                image_id,
                category_id: classes.and_then(|classes| classes.get(at).copied()).unwrap_or(1),
                segmentation: segmentation(&mask.segmentation, shape),
                area: mask.segmentation.area(),
                bbox: mask.segmentation.bbox_xywh(),
                iscrowd: 0,
                score: classes.is_none().then_some(Score(mask.predicted_iou)),
            });
        }
    }
    let categories =
        categories.iter().map(|(id, name)| Category { id: u64::from(*id), name, supercategory: "" });
    let dataset = Dataset {
        info: Info { description: "masks cut by kirie" },
        images,
        annotations,
        categories: categories.collect(),
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
