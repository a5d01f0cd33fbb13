//! Masks as files: PNG, overlay picture, COCO, YOLO and GeoJSON.
//!
//! Every writer returns the content of the file; [`write_atomic`](crate::write_atomic) puts it on the disk.
//!
//! | file | writer | holes | overlaps |
//! | --- | --- | --- | --- |
//! | one mask as PNG | [`mask_png`] | kept | one file a mask |
//! | label PNG | [`label_png`] | kept | the smaller mask wins |
//! | class PNG | [`index_png`] | kept | one class a pixel |
//! | overlay | [`overlay`] | kept | the smaller mask is on top |
//! | COCO | [`coco_json`] | kept as RLE, lost as polygons | kept |
//! | YOLO | [`yolo_lines`] | kept, by a cut of no width | kept |
//! | GeoJSON | [`geojson`] | kept | kept |
//! | COCO, objects of several classes | [`objects_coco_json`] | kept | kept |
//! | overlay of these | [`objects_overlay`] | kept | the smaller mask is on top |
//! | Pascal VOC XML | [`voc_xml`] | boxes only | kept |

mod canvas;
mod coco;
mod colors;
mod geojson;
mod letters;
mod objects;
mod overlay;
mod picture;
mod png;
mod voc;
mod yolo;

use std::cmp::Reverse;

use kirie_mask::{Mask, Point, Region, Rle, contours, frame_area, simplify};

pub use coco::{CocoOptions, CocoShape, coco_json};
pub use colors::color;
pub use geojson::geojson;
pub(crate) use letters::{LETTER, fill, text};
pub use objects::{FoundObject, ImageObjects, objects_coco_json, objects_overlay};
pub use overlay::{Prompts, overlay};
pub(crate) use overlay::{paint, paint_box};
pub use picture::{PictureFormat, encode_picture, write_picture};
pub(crate) use png::encode as encode_png;
pub use png::{index_png, label_png, mask_png};
pub use voc::{VocEntry, voc_xml};
pub(crate) use yolo::one_ring;
pub use yolo::yolo_lines;

use crate::{DataError, ImageMasks, MaskRecord};

/// How far, in pixels, an outline may stray from the mask's edge where a writer takes a `tolerance` and the caller
/// has no wish: the staircase of a slanted edge becomes a straight line.
pub const DEFAULT_TOLERANCE: f64 = 1.0;

/// Every mask must be of its picture's size, or it would be drawn askew; and the size one that masks can have.
fn check_sizes(all: &ImageMasks) -> Result<(), DataError> {
    let (width, height) = (all.image.width as usize, all.image.height as usize);
    frame_area(width, height).map_err(|_| DataError::TooLarge {
        name: all.image.path.clone(),
        found: format!("{width}x{height} pixels"),
        limit: format!("{} pixels in all", u32::MAX),
    })?;
    for (index, mask) in all.masks.iter().enumerate() {
        let (mask_width, mask_height) = (mask.segmentation.width(), mask.segmentation.height());
        if (mask_width, mask_height) != (width, height) {
            return Err(DataError::MaskSize {
                name: all.image.path.clone(),
                index,
                mask_width,
                mask_height,
                image_width: all.image.width,
                image_height: all.image.height,
            });
        }
    }
    Ok(())
}

/// Masks with their positions in the list, larger ones first; painted in this order small ones stay visible.
fn largest_first(all: &ImageMasks) -> Vec<(usize, &MaskRecord)> {
    let mut masks: Vec<_> = all.masks.iter().enumerate().collect();
    masks.sort_by_key(|(_, mask)| Reverse(mask.segmentation.area()));
    masks
}

/// The smallest part of the frame that holds the whole mask, and that part's left and top; nothing for an empty mask.
/// Working on it takes time with the size of the object, not of the picture.
fn cut_out(rle: &Rle) -> Option<(usize, usize, Mask)> {
    let [x, y, width, height] = rle.bbox_xywh().map(|v| v as usize);
    // The box lies inside the frame, so the crop cannot fail.
    let part = rle.crop(x, y, width, height).ok().filter(|part| part.area() > 0)?;
    Some((x, y, part.to_mask()))
}

/// The outlines of a mask's parts along pixel edges, in pixels of its frame.
fn outlines(rle: &Rle) -> Vec<Region> {
    let Some((left, top, part)) = cut_out(rle) else { return Vec::new() };
    let mut regions = contours(&part);
    for region in &mut regions {
        for point in [&mut region.exterior].into_iter().chain(&mut region.holes).flatten() {
            point.x += left as f64;
            point.y += top as f64;
        }
    }
    regions
}

/// A ring with fewer corners, at most `tolerance` pixels away from them, and less around shapes only a few pixels
/// thick, of which little would be left.
fn simplified(ring: &[Point], tolerance: f64) -> Vec<Point> {
    let (mut area, mut length) = (0.0, 0.0);
    for (a, b) in ring.iter().zip(ring.iter().cycle().skip(1)) {
        area += (a.x * b.y - b.x * a.y) / 2.0;
        length += (b.x - a.x).hypot(b.y - a.y);
    }
    // Area by length is a quarter of the side of a square, half the radius of a disc, half the width of a strip.
    simplify(ring, tolerance.min(f64::abs(area) / length))
}
