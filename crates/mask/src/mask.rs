//! A binary mask as one `bool` per pixel.

use std::ops::Range;

use crate::{BBox, MaskError};

/// The number of pixels in a frame.
///
/// Run lengths are 32 bits wide, as in pycocotools, so no frame of this crate has more than
/// `u32::MAX` pixels. Sizes that come from outside go through here before a mask is made.
///
/// # Errors
/// [`MaskError::FrameTooLarge`] above `u32::MAX`.
pub fn frame_area(width: usize, height: usize) -> Result<u32, MaskError> {
    // Each side must fit as well: run lengths count columns even where the other side is 0.
    let side = |n: usize| u32::try_from(n).ok();
    side(width)
        .zip(side(height))
        .and_then(|(w, h)| w.checked_mul(h))
        .ok_or(MaskError::FrameTooLarge { width, height })
}

/// A binary mask over a frame of `width` x `height` pixels, stored row by row.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Mask {
    width: usize,
    height: usize,
    pixels: Vec<bool>,
}

impl Mask {
    /// An all-background mask.
    ///
    /// # Panics
    /// When the frame has more than `u32::MAX` pixels; check untrusted sizes with [`frame_area`].
    pub fn new(width: usize, height: usize) -> Self {
        let area = frame_area(width, height).expect("the frame of a new mask fits 32 bits");
        Self { width, height, pixels: vec![false; area as usize] }
    }

    /// A mask from its pixels, row by row.
    ///
    /// # Errors
    /// [`MaskError::PixelCount`] when the buffer does not hold `width * height` pixels,
    /// [`MaskError::FrameTooLarge`] when the frame is beyond [`frame_area`].
    pub fn from_vec(width: usize, height: usize, pixels: Vec<bool>) -> Result<Self, MaskError> {
        let expected = frame_area(width, height)? as usize;
        if pixels.len() != expected {
            return Err(MaskError::PixelCount { width, height, expected, found: pixels.len() });
        }
        Ok(Self { width, height, pixels })
    }

    /// A mask whose pixel `(x, y)` is `f(x, y)`, asked row by row.
    ///
    /// # Panics
    /// As [`Mask::new`].
    pub fn from_fn(width: usize, height: usize, mut f: impl FnMut(usize, usize) -> bool) -> Self {
        let mut mask = Self::new(width, height);
        for y in 0..height {
            for (x, pixel) in mask.row_mut(y).iter_mut().enumerate() {
                *pixel = f(x, y);
            }
        }
        mask
    }

    /// Width of the frame, pixels.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Height of the frame, pixels.
    pub fn height(&self) -> usize {
        self.height
    }

    /// Whether pixel `(x, y)` is foreground; outside the frame, no.
    pub fn get(&self, x: usize, y: usize) -> bool {
        x < self.width && self.row(y).get(x).copied().unwrap_or(false)
    }

    /// Sets pixel `(x, y)`; outside the frame, nothing happens.
    pub fn set(&mut self, x: usize, y: usize, foreground: bool) {
        if let Some(pixel) = self.row_mut(y).get_mut(x) {
            *pixel = foreground;
        }
    }

    /// The pixels of row `y`, left to right; empty below the frame.
    pub fn row(&self, y: usize) -> &[bool] {
        if y < self.height { &self.pixels[y * self.width..(y + 1) * self.width] } else { &[] }
    }

    fn row_mut(&mut self, y: usize) -> &mut [bool] {
        if y < self.height { &mut self.pixels[y * self.width..(y + 1) * self.width] } else { &mut [] }
    }

    /// All pixels, row by row.
    pub fn as_slice(&self) -> &[bool] {
        &self.pixels
    }

    /// All pixels, row by row, to write to.
    pub fn as_mut_slice(&mut self) -> &mut [bool] {
        &mut self.pixels
    }

    /// All pixels, row by row.
    pub fn into_vec(self) -> Vec<bool> {
        self.pixels
    }

    /// Number of foreground pixels.
    pub fn area(&self) -> u64 {
        // Short blocks let the compiler add bytes side by side before widening.
        self.pixels.chunks(255).map(|block| u64::from(block.iter().map(|&p| u8::from(p)).sum::<u8>())).sum()
    }

    /// The box around the foreground as SAM's mask generator gives it: `x1` and `y1` are the last
    /// foreground column and row, with no 1 added. `None` for an empty mask.
    pub fn bbox(&self) -> Option<BBox> {
        let mut found: Option<[usize; 4]> = None;
        for y in 0..self.height {
            let row = self.row(y);
            let Some(first) = row.iter().position(|&p| p) else { continue };
            let last = row.iter().rposition(|&p| p).unwrap_or(first);
            let [x0, y0, x1, _] = found.unwrap_or([first, y, last, y]);
            found = Some([x0.min(first), y0, x1.max(last), y]);
        }
        found.map(|[x0, y0, x1, y1]| BBox::new(x0 as f64, y0 as f64, x1 as f64, y1 as f64))
    }

    /// Intersection over union with a mask of the same frame, 0 to 1; 0 when both are empty, as in
    /// pycocotools.
    ///
    /// # Errors
    /// [`MaskError::FrameMismatch`] when the frames differ in size.
    pub fn iou(&self, other: &Self) -> Result<f64, MaskError> {
        let (mine, theirs) = ((self.width, self.height), (other.width, other.height));
        if mine != theirs {
            return Err(MaskError::FrameMismatch { expected: mine, found: theirs });
        }
        let shared = self.pixels.iter().zip(&other.pixels).filter(|&(&a, &b)| a & b).count() as u64;
        let union = self.area() + other.area() - shared;
        Ok(if union == 0 { 0.0 } else { shared as f64 / union as f64 })
    }
}

/// Where the `true`s of a stretch of pixels start and end, in order.
pub(crate) fn foreground_runs(pixels: &[bool]) -> impl Iterator<Item = Range<usize>> + '_ {
    let mut at = 0;
    std::iter::from_fn(move || {
        let start = at + pixels[at..].iter().position(|&p| p)?;
        at = pixels[start..].iter().position(|&p| !p).map_or(pixels.len(), |length| start + length);
        Some(start..at)
    })
}

/// A mask from rows of `#` (foreground) and anything else, for tests one can read.
#[cfg(test)]
pub(crate) fn art(rows: &[&str]) -> Mask {
    let width = rows.first().map_or(0, |r| r.len());
    Mask::from_fn(width, rows.len(), |x, y| rows[y].as_bytes()[x] == b'#')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn area_and_box_of_sams_example() {
        let mask = art(&["#....", "..###", "..###", "....."]);
        assert_eq!(mask.area(), 7);
        assert_eq!(mask.bbox(), Some(BBox::new(0.0, 0.0, 4.0, 2.0)));
        assert_eq!(Mask::new(3, 3).bbox(), None);
        assert_eq!(Mask::new(0, 0).bbox(), None);
    }

    #[test]
    fn area_of_more_pixels_than_one_block() {
        assert_eq!(Mask::from_fn(101, 77, |_, _| true).area(), 101 * 77);
    }

    #[test]
    fn outside_is_background_and_not_writable() {
        let mut mask = Mask::new(2, 2);
        for (x, y) in [(2, 0), (0, 2), (usize::MAX, 0), (0, usize::MAX)] {
            mask.set(x, y, true);
            assert!(!mask.get(x, y));
        }
        assert_eq!(mask.area(), 0);
        assert!(mask.row(2).is_empty());
    }

    #[test]
    fn from_vec_checks_the_length() {
        assert!(Mask::from_vec(2, 2, vec![true; 4]).is_ok());
        assert_eq!(
            Mask::from_vec(2, 2, vec![true; 3]),
            Err(MaskError::PixelCount { width: 2, height: 2, expected: 4, found: 3 })
        );
        let huge = usize::MAX;
        assert_eq!(Mask::from_vec(huge, 2, vec![]), Err(MaskError::FrameTooLarge { width: huge, height: 2 }));
    }

    #[test]
    fn iou_counts_pixels() {
        let a = art(&["##.", "..."]);
        let b = art(&[".##", "..."]);
        assert_eq!(a.iou(&b), Ok(1.0 / 3.0));
        assert_eq!(Mask::new(3, 2).iou(&Mask::new(3, 2)), Ok(0.0));
        assert!(a.iou(&Mask::new(2, 3)).is_err());
    }
}
