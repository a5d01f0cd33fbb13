//! What the detection measures are fed: regions, and detections of them.

use kirie_mask::{BBox, Rle};

use crate::MetricsError;
use crate::error::finite;

/// A box or a mask: anything with an area and an IoU.
///
/// `[f64; 4]` is a box `[x, y, width, height]` in pixels, as COCO stores it; for a [`BBox`] write
/// `bbox.to_xywh()`, or [`inclusive_box`] for VOC's convention. [`Rle`] is a mask. Implement it for another
/// type to measure by something else, such as Boundary IoU.
pub trait Region: Sized {
    /// Area in square pixels, by which a detection falls into a size class when it states no other.
    fn area(&self) -> f64;

    /// IoU of every detection with every ground truth, detection by detection. Where `crowd` is set, the
    /// ground truth is a crowd region and the intersection is divided by the detection's area alone.
    ///
    /// # Errors
    /// [`MetricsError::Mask`] when masks do not share a frame.
    fn ious(detections: &[&Self], truths: &[&Self], crowd: &[bool]) -> Result<Vec<f64>, MetricsError>;

    /// Whether the region's numbers can be computed with.
    ///
    /// # Errors
    /// [`MetricsError::NotFinite`] naming `what` and `index`, when not.
    fn check(&self, what: &'static str, index: usize) -> Result<(), MetricsError>;
}

/// A box `[x, y, width, height]`, pixels. Bit for bit pycocotools' arithmetic; boxes of no or negative size
/// have IoU 0 with everything.
impl Region for [f64; 4] {
    fn area(&self) -> f64 {
        self[2] * self[3]
    }

    fn ious(detections: &[&Self], truths: &[&Self], crowd: &[bool]) -> Result<Vec<f64>, MetricsError> {
        let one = |d: &Self, g: &Self, crowd: bool| {
            let shared = |at: usize| (d[at + 2] + d[at]).min(g[at + 2] + g[at]) - d[at].max(g[at]);
            let (width, height) = (shared(0), shared(1));
            if width <= 0.0 || height <= 0.0 {
                return 0.0;
            }
            let both = width * height;
            both / if crowd { d.area() } else { d.area() + g.area() - both }
        };
        let row = |&d| truths.iter().zip(crowd).map(move |(g, &crowd)| one(d, g, crowd));
        Ok(detections.iter().flat_map(row).collect())
    }

    fn check(&self, what: &'static str, index: usize) -> Result<(), MetricsError> {
        self.iter().try_for_each(|&number| finite(what, index, number).map(|_| ()))
    }
}

/// A mask.
impl Region for Rle {
    fn area(&self) -> f64 {
        self.area() as f64
    }

    fn ious(detections: &[&Self], truths: &[&Self], crowd: &[bool]) -> Result<Vec<f64>, MetricsError> {
        // Most pairs are apart, which their boxes tell without a walk along the runs.
        let truths: Vec<(&Self, [u32; 4], bool)> =
            truths.iter().zip(crowd).map(|(&g, &crowd)| (g, g.bbox_xywh(), crowd)).collect();
        let mut ious = Vec::with_capacity(detections.len() * truths.len());
        for d in detections {
            let ours = d.bbox_xywh();
            for (g, theirs, crowd) in &truths {
                let overlaps = |at: usize| {
                    ours[at] < theirs[at] + theirs[at + 2] && theirs[at] < ours[at] + ours[at + 2]
                };
                let same_frame = (d.width(), d.height()) == (g.width(), g.height());
                let apart = same_frame && !(overlaps(0) && overlaps(1));
                ious.push(if apart { 0.0 } else { d.iou(g, *crowd)? });
            }
        }
        Ok(ious)
    }

    fn check(&self, _what: &'static str, _index: usize) -> Result<(), MetricsError> {
        Ok(())
    }
}

/// A box whose second corner is its last pixel (VOC's "+1" convention) as `[x, y, width, height]`: both sides
/// come out one longer than the difference of the corners, and all areas and IoUs follow.
///
/// The MIST repository's evaluation adds 1 to the second corner of such boxes before it adds 1 to their
/// sides; to compare with its figures, do the same.
pub fn inclusive_box(bbox: &BBox) -> [f64; 4] {
    [bbox.x0, bbox.y0, bbox.width() + 1.0, bbox.height() + 1.0]
}

/// A scored region that a detector found.
#[derive(Clone, Debug, PartialEq)]
pub struct Detection<R> {
    /// Id of the image.
    pub image: u64,
    /// Id of the category.
    pub category: u64,
    /// Where.
    pub region: R,
    /// How sure, on any scale; only the order counts.
    pub score: f64,
    /// Area in square pixels if it is to be another than the region's: pycocotools takes the area of the box
    /// for masks that come with one.
    pub area: Option<f64>,
}

impl<R: Region> Detection<R> {
    /// A detection whose area is its region's.
    pub fn new(image: u64, category: u64, region: R, score: f64) -> Self {
        Self { image, category, region, score, area: None }
    }

    pub(crate) fn area(&self) -> f64 {
        self.area.unwrap_or_else(|| self.region.area())
    }

    /// Nothing, unless a number of the detection at `index` cannot be computed with.
    pub(crate) fn check(&self, index: usize) -> Result<(), MetricsError> {
        // Infinite scores still have an order.
        if self.score.is_nan() {
            return Err(MetricsError::NotFinite { what: "score of detection", index, found: self.score });
        }
        if let Some(area) = self.area {
            finite("area of detection", index, area)?;
        }
        self.region.check("box of detection", index)
    }
}

/// Best first, equal scores in the order they came.
pub(crate) fn by_score<R>(detections: &mut [&Detection<R>]) {
    detections.sort_by(|a, b| b.score.partial_cmp(&a.score).unwrap_or(std::cmp::Ordering::Equal));
}

#[cfg(test)]
mod tests {
    use kirie_mask::Mask;

    use super::*;

    #[test]
    fn boxes_with_and_without_crowds() {
        let (d, g) = ([0.0, 0.0, 2.0, 2.0], [1.0, 0.0, 4.0, 2.0]);
        assert_eq!(<[f64; 4]>::ious(&[&d], &[&g, &g], &[false, true]), Ok(vec![2.0 / 10.0, 2.0 / 4.0]));
        let touching = [2.0, 0.0, 1.0, 1.0];
        let negative = [1.0, 1.0, -1.0, 1.0];
        assert_eq!(<[f64; 4]>::ious(&[&d], &[&touching, &negative], &[false; 2]), Ok(vec![0.0, 0.0]));
    }

    #[test]
    fn masks_in_different_frames_are_refused() {
        let mask = |width| Rle::from_mask(&Mask::from_fn(width, 4, |x, _| x == 0));
        let far = Rle::from_mask(&Mask::from_fn(9, 4, |x, _| x == 8));
        assert!(Rle::ious(&[&mask(4)], &[&mask(5)], &[false]).is_err());
        assert!(Rle::ious(&[&mask(4)], &[&far], &[false]).is_err());
        assert_eq!(Rle::ious(&[&mask(9)], &[&far, &mask(9)], &[false; 2]), Ok(vec![0.0, 1.0]));
    }

    #[test]
    fn vocs_boxes_include_their_last_pixel() {
        let (a, b) = (BBox::new(1.0, 1.0, 10.0, 10.0), BBox::new(6.0, 1.0, 15.0, 10.0));
        assert_eq!(inclusive_box(&a), [1.0, 1.0, 10.0, 10.0]);
        let iou = <[f64; 4]>::ious(&[&inclusive_box(&a)], &[&inclusive_box(&b)], &[false]);
        assert_eq!(iou, Ok(vec![50.0 / 150.0]));
    }
}
