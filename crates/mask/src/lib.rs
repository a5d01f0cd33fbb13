//! Boxes, points, binary masks, COCO run lengths, polygons and the geometry between them.
//!
//! Nothing here learns, opens files or prints. Every size is in pixels, x runs to the right and y
//! downwards, and pixel `(x, y)` covers the square from corner `(x, y)` to corner `(x + 1, y + 1)`.
//! "Frame" means the picture a mask belongs to.
//!
//! | module | what it holds |
//! | --- | --- |
//! | [`geometry`] | [`Point`], [`BBox`] |
//! | [`mask`] | [`Mask`]: one `bool` per pixel, row by row |
//! | [`rle`] | [`Rle`]: run lengths as in COCO; IoU, union, crop and paste without bitmaps |
//! | [`polygon`] | polygon to run lengths, equal to pycocotools |
//! | [`contour`] | mask to polygons, and their simplification |
//! | [`components`] | connected components, small holes and islands |
//! | [`morphology`] | erosion, dilation, the boundary of Boundary IoU |
//! | [`mod@nms`] | non-maximum suppression |
//! | [`stability`] | SAM's stability score |
//!
//! ```
//! use kirie_mask::{Mask, Rle, contours, rasterize};
//!
//! let mask = Mask::from_fn(5, 4, |x, y| (2..5).contains(&x) && (1..3).contains(&y));
//! let rle = Rle::from_mask(&mask);
//! assert_eq!(rle.bbox_xywh(), [2, 1, 3, 2]);
//! assert_eq!(Rle::from_coco_string(4, 5, &rle.to_coco_string())?, rle);
//!
//! let outline = &contours(&mask)[0].exterior;
//! assert_eq!(rasterize(outline, 5, 4)?, rle);
//! # Ok::<(), kirie_mask::MaskError>(())
//! ```
//!
//! Connected components, contours and morphology are written here, although `imageproc` has them,
//! because it would bring `image`, `nalgebra` and `rand` into a crate that everything else stands on.

pub mod components;
pub mod contour;
mod error;
pub mod geometry;
pub mod mask;
pub mod morphology;
pub mod nms;
pub mod polygon;
pub mod rle;
mod rle_text;
pub mod stability;

pub use components::{Connectivity, Labels, fill_small_holes, label, remove_small_islands};
pub use contour::{Region, contours, simplify};
pub use error::MaskError;
pub use geometry::{BBox, Point};
pub use mask::{Mask, frame_area};
pub use morphology::{boundary, dilate, erode};
pub use nms::nms;
pub use polygon::{rasterize, rasterize_all};
pub use rle::Rle;
pub use stability::stability_score;
