//! Points and boxes, in pixels of whatever frame the caller works in.

use serde::{Deserialize, Serialize};

use crate::MaskError;

/// A place in a picture, pixels; `(0, 0)` is the top-left corner of the top-left pixel.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// Pixels to the right.
    pub x: f64,
    /// Pixels downwards.
    pub y: f64,
}

/// An axis-aligned box given by two corners, pixels.
///
/// Whether `x1`, `y1` are the last pixel or the edge behind it is the caller's affair: widths and
/// areas are plain differences, as in SAM's mask generator and torchvision.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct BBox {
    /// Left, pixels.
    pub x0: f64,
    /// Top, pixels.
    pub y0: f64,
    /// Right, pixels.
    pub x1: f64,
    /// Bottom, pixels.
    pub y1: f64,
}

impl BBox {
    /// A box from its corners, taken as they are; see [`BBox::checked`] for numbers from outside.
    pub fn new(x0: f64, y0: f64, x1: f64, y1: f64) -> Self {
        Self { x0, y0, x1, y1 }
    }

    /// A box from its corners.
    ///
    /// # Errors
    /// [`MaskError::BadBox`] unless all four are finite, `x1 >= x0` and `y1 >= y0`.
    pub fn checked(x0: f64, y0: f64, x1: f64, y1: f64) -> Result<Self, MaskError> {
        let finite = [x0, y0, x1, y1].iter().all(|v| v.is_finite());
        if finite && x1 >= x0 && y1 >= y0 {
            Ok(Self { x0, y0, x1, y1 })
        } else {
            Err(MaskError::BadBox { x0, y0, x1, y1 })
        }
    }

    /// A box from `[x, y, width, height]`, the form of COCO and of SAM's records.
    pub fn from_xywh([x, y, width, height]: [f64; 4]) -> Self {
        Self::new(x, y, x + width, y + height)
    }

    /// The box as `[x, y, width, height]`, pixels.
    pub fn to_xywh(&self) -> [f64; 4] {
        [self.x0, self.y0, self.width(), self.height()]
    }

    /// `x1 - x0`, pixels.
    pub fn width(&self) -> f64 {
        self.x1 - self.x0
    }

    /// `y1 - y0`, pixels.
    pub fn height(&self) -> f64 {
        self.y1 - self.y0
    }

    /// Width times height in square pixels, without "+ 1"; 0 for a box turned inside out.
    pub fn area(&self) -> f64 {
        if self.width() < 0.0 || self.height() < 0.0 { 0.0 } else { self.width() * self.height() }
    }

    /// The part both boxes cover. Boxes that only touch share a box of no area; boxes apart share nothing.
    pub fn intersection(&self, other: &Self) -> Option<Self> {
        let shared = Self {
            x0: self.x0.max(other.x0),
            y0: self.y0.max(other.y0),
            x1: self.x1.min(other.x1),
            y1: self.y1.min(other.y1),
        };
        (shared.x0 <= shared.x1 && shared.y0 <= shared.y1).then_some(shared)
    }

    /// Intersection over union, 0 to 1; 0 when the two have no area, or no finite one, between them.
    pub fn iou(&self, other: &Self) -> f64 {
        let shared = self.intersection(other).map_or(0.0, |b| b.area());
        let union = self.area() + other.area() - shared;
        if union > 0.0 && union.is_finite() { shared / union } else { 0.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn iou_of_half_overlapping_boxes() {
        let a = BBox::new(0.0, 0.0, 2.0, 2.0);
        let b = BBox::new(1.0, 0.0, 3.0, 2.0);
        assert_eq!(a.iou(&b), 2.0 / 6.0);
        assert_eq!(a.iou(&a), 1.0);
        assert_eq!(a.intersection(&b), Some(BBox::new(1.0, 0.0, 2.0, 2.0)));
    }

    #[test]
    fn touching_and_separate_boxes() {
        let a = BBox::new(0.0, 0.0, 1.0, 1.0);
        assert_eq!(a.intersection(&BBox::new(1.0, 0.0, 2.0, 1.0)), Some(BBox::new(1.0, 0.0, 1.0, 1.0)));
        assert_eq!(a.intersection(&BBox::new(1.5, 0.0, 2.0, 1.0)), None);
    }

    #[test]
    fn degenerate_boxes_never_give_nan() {
        let point = BBox::new(1.0, 1.0, 1.0, 1.0);
        let inverted = BBox::new(5.0, 5.0, 1.0, 1.0);
        let nan = BBox::new(f64::NAN, 0.0, 1.0, 1.0);
        let endless = BBox::new(0.0, 0.0, f64::INFINITY, 1.0);
        for a in [point, inverted, nan, endless] {
            for b in [point, inverted, nan, endless] {
                assert_eq!(a.iou(&b), 0.0, "{a:?} {b:?}");
            }
        }
        assert_eq!(inverted.area(), 0.0);
    }

    #[test]
    fn checked_refuses_nonsense() {
        assert!(BBox::checked(0.0, 0.0, 0.0, 0.0).is_ok());
        assert!(BBox::checked(1.0, 0.0, 0.0, 0.0).is_err());
        assert!(BBox::checked(0.0, f64::NAN, 1.0, 1.0).is_err());
        assert!(BBox::checked(0.0, 0.0, f64::INFINITY, 1.0).is_err());
    }

    #[test]
    fn xywh_and_back() {
        let b = BBox::from_xywh([1.0, 2.0, 3.0, 4.0]);
        assert_eq!(b, BBox::new(1.0, 2.0, 4.0, 6.0));
        assert_eq!(b.to_xywh(), [1.0, 2.0, 3.0, 4.0]);
    }
}
