//! Binary masks as run lengths, the form COCO and SAM's mask generator store them in.
//!
//! Pixels are counted down the columns, column after column. Runs alternate between background and
//! foreground and start with background, so the first is 0 when pixel `(0, 0)` is foreground. Every
//! operation here works on the runs; only [`Rle::from_mask`] and [`Rle::to_mask`] touch pixels.
//! The text form is in the same type: [`Rle::to_coco_string`], [`Rle::from_coco_string`].

use std::ops::Range;

use crate::MaskError;
use crate::geometry::BBox;
use crate::mask::{Mask, foreground_runs, frame_area};

/// Columns encoded together: one cache line of a row of `bool`s.
const BLOCK: usize = 64;

/// A run-length encoded binary mask.
///
/// Always in its one shortest form (no run of length 0 but the first), so equal masks are equal
/// values and have equal strings.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Rle {
    height: usize,
    width: usize,
    counts: Vec<u32>,
}

impl Rle {
    /// Encodes a mask.
    pub fn from_mask(mask: &Mask) -> Self {
        let (width, pixels) = (mask.width(), mask.as_slice());
        Self::from_fn(width, mask.height(), |x, y| pixels[y * width + x])
    }

    /// Encodes the mask whose pixel `(x, y)` is `f(x, y)`, without making a bitmap of it.
    ///
    /// `f` is asked once per pixel, a stretch of a row at a time, so reading a row-major buffer of
    /// logits inside it is as fast as memory allows.
    ///
    /// # Panics
    /// When the frame has more than `u32::MAX` pixels; check untrusted sizes with [`frame_area`].
    pub fn from_fn(width: usize, height: usize, mut f: impl FnMut(usize, usize) -> bool) -> Self {
        frame_area(width, height).expect("the frame of a new mask fits 32 bits");
        let mut runs = RunBuilder::default();
        let mut columns = vec![false; width.min(BLOCK) * height];
        for left in (0..width).step_by(BLOCK) {
            let block = BLOCK.min(width - left);
            for y in 0..height {
                for x in 0..block {
                    columns[x * height + y] = f(left + x, y);
                }
            }
            let offset = (left * height) as u32;
            for run in foreground_runs(&columns[..block * height]) {
                runs.push(offset + run.start as u32..offset + run.end as u32);
            }
        }
        runs.finish(width, height)
    }

    /// The bitmap, which takes `width * height` bytes: look at the frame first when it comes from
    /// outside, because a string of ten characters can name a frame of 4 GB.
    pub fn to_mask(&self) -> Mask {
        let mut mask = Mask::new(self.width, self.height);
        let pixels = mask.as_mut_slice();
        for (x, rows) in self.columns() {
            for y in rows {
                pixels[y * self.width + x] = true;
            }
        }
        mask
    }

    /// A mask from its run lengths, background first. Runs of length 0 are merged away.
    ///
    /// # Errors
    /// [`MaskError::RunSum`] when they do not add up to `height * width`,
    /// [`MaskError::FrameTooLarge`] when the frame is beyond [`frame_area`].
    pub fn from_counts(height: usize, width: usize, counts: Vec<u32>) -> Result<Self, MaskError> {
        let expected = u64::from(frame_area(width, height)?);
        let found = counts.iter().fold(0u64, |sum, &c| sum.saturating_add(c.into()));
        if found != expected {
            return Err(MaskError::RunSum { width, height, expected, found });
        }
        let mut runs = RunBuilder::default();
        for run in foreground(&counts) {
            runs.push(run);
        }
        Ok(runs.finish(width, height))
    }

    /// The run lengths in pixels, background first.
    pub fn counts(&self) -> &[u32] {
        &self.counts
    }

    /// Height of the frame, pixels.
    pub fn height(&self) -> usize {
        self.height
    }

    /// Width of the frame, pixels.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Number of foreground pixels.
    pub fn area(&self) -> u64 {
        self.counts.iter().skip(1).step_by(2).map(|&c| u64::from(c)).sum()
    }

    /// The box around the foreground as `[x, y, width, height]` in whole pixels, both edges counted
    /// in (COCO's convention; SAM's records have width and height one smaller). Zeros when empty.
    pub fn bbox_xywh(&self) -> [u32; 4] {
        let mut found: Option<[usize; 4]> = None;
        for (x, rows) in self.columns() {
            let [x0, y0, _, y1] = found.unwrap_or([x, rows.start, x, rows.end]);
            found = Some([x0, y0.min(rows.start), x, y1.max(rows.end)]);
        }
        found.map_or([0; 4], |[x0, y0, x1, y1]| [x0, y0, x1 + 1 - x0, y1 - y0].map(|v| v as u32))
    }

    /// The box from the first to the last foreground pixel, as SAM's mask generator has it: the corners are pixels, so
    /// width and height are one less than the number of pixels between. All zero when empty.
    pub fn inclusive_box(&self) -> BBox {
        let [x, y, width, height] = self.bbox_xywh().map(f64::from);
        BBox::new(x, y, x + (width - 1.0).max(0.0), y + (height - 1.0).max(0.0))
    }

    /// Intersection over union, 0 to 1; 0 when nothing is shared, even between two empty masks.
    ///
    /// With `crowd`, `other` is a COCO crowd region: the intersection is divided by the area of
    /// `self` alone. Both as `iou(self, other, iscrowd)` in pycocotools.
    ///
    /// # Errors
    /// [`MaskError::FrameMismatch`] when the frames differ in size.
    pub fn iou(&self, other: &Self, crowd: bool) -> Result<f64, MaskError> {
        self.same_frame(other)?;
        let (mut mine, mut theirs) = (foreground(&self.counts), foreground(&other.counts));
        let (mut a, mut b) = (mine.next(), theirs.next());
        let mut shared = 0u64;
        while let (Some(p), Some(q)) = (&a, &b) {
            shared += u64::from(p.end.min(q.end).saturating_sub(p.start.max(q.start)));
            if p.end < q.end {
                a = mine.next();
            } else {
                b = theirs.next();
            }
        }
        let whole = if crowd { self.area() } else { self.area() + other.area() - shared };
        Ok(if shared == 0 { 0.0 } else { shared as f64 / whole as f64 })
    }

    /// The union of all masks or, with `intersect`, what all of them share.
    ///
    /// # Errors
    /// [`MaskError::NothingToMerge`] for no masks, [`MaskError::FrameMismatch`] when their frames differ.
    pub fn merge(masks: &[Self], intersect: bool) -> Result<Self, MaskError> {
        let first = masks.first().ok_or(MaskError::NothingToMerge)?;
        // Walk over all starts and ends in order and count how many masks are foreground there.
        let mut events: Vec<(u32, bool)> = Vec::new();
        for mask in masks {
            first.same_frame(mask)?;
            for run in foreground(&mask.counts) {
                events.extend([(run.start, true), (run.end, false)]);
            }
        }
        events.sort_unstable();
        let needed = if intersect { masks.len() } else { 1 };
        let (mut depth, mut start) = (0, 0);
        let mut runs = RunBuilder::default();
        for (at, opens) in events {
            if opens {
                depth += 1;
                if depth == needed {
                    start = at;
                }
            } else {
                if depth == needed {
                    runs.push(start..at);
                }
                depth -= 1;
            }
        }
        Ok(runs.finish(first.width, first.height))
    }

    /// The part of the mask inside the window with top-left pixel `(x, y)` of this frame; the result's
    /// frame is the window.
    ///
    /// # Errors
    /// [`MaskError::WindowOutside`] when the window reaches over the frame.
    pub fn crop(&self, x: usize, y: usize, width: usize, height: usize) -> Result<Self, MaskError> {
        check_window((self.width, self.height), (x, y), (width, height))?;
        let mut runs = RunBuilder::default();
        for (column, rows) in self.columns().filter(|(column, _)| (x..x + width).contains(column)) {
            let (start, end) = (rows.start.max(y), rows.end.min(y + height));
            if start < end {
                let offset = (column - x) * height;
                runs.push((offset + start - y) as u32..(offset + end - y) as u32);
            }
        }
        Ok(runs.finish(width, height))
    }

    /// This mask put into a larger background frame, its top-left pixel at `(x, y)` there; undone by
    /// [`Rle::crop`].
    ///
    /// # Errors
    /// [`MaskError::WindowOutside`] when it does not fit in there, [`MaskError::FrameTooLarge`] when the
    /// new frame is beyond [`frame_area`].
    pub fn paste(
        &self,
        x: usize,
        y: usize,
        full_width: usize,
        full_height: usize,
    ) -> Result<Self, MaskError> {
        frame_area(full_width, full_height)?;
        check_window((full_width, full_height), (x, y), (self.width, self.height))?;
        let mut runs = RunBuilder::default();
        for (column, rows) in self.columns() {
            let offset = (column + x) * full_height + y;
            runs.push((offset + rows.start) as u32..(offset + rows.end) as u32);
        }
        Ok(runs.finish(full_width, full_height))
    }

    /// A mask that changes at each of the given positions (counted down the columns, ascending and at
    /// most `width * height`), in a frame that [`frame_area`] accepts.
    pub(crate) fn from_changes(width: usize, height: usize, changes: &[u32]) -> Self {
        let mut runs = RunBuilder::default();
        for pair in changes.chunks(2) {
            let end = pair.get(1).copied().unwrap_or((width * height) as u32);
            runs.push(pair[0]..end);
        }
        runs.finish(width, height)
    }

    /// The foreground as pieces of columns, `(x, rows)`, in order.
    fn columns(&self) -> impl Iterator<Item = (usize, Range<usize>)> + '_ {
        let height = self.height;
        foreground(&self.counts).flat_map(move |run| {
            let (start, end) = (run.start as usize, run.end as usize);
            // A frame without pixels has no runs, so the height is above 0 here.
            (start / height..end.div_ceil(height)).map(move |x| {
                let top = x * height;
                (x, start.max(top) - top..end.min(top + height) - top)
            })
        })
    }

    fn same_frame(&self, other: &Self) -> Result<(), MaskError> {
        let (expected, found) = ((self.width, self.height), (other.width, other.height));
        if expected == found { Ok(()) } else { Err(MaskError::FrameMismatch { expected, found }) }
    }
}

/// The foreground runs among counts, as ranges of positions. The counts add up to a `u32`.
fn foreground(counts: &[u32]) -> impl Iterator<Item = Range<u32>> + '_ {
    let mut at = 0;
    counts.chunks_exact(2).map(move |pair| {
        let start = at + pair[0];
        at = start + pair[1];
        start..at
    })
}

fn check_window(
    (width, height): (usize, usize),
    (x, y): (usize, usize),
    (window_width, window_height): (usize, usize),
) -> Result<(), MaskError> {
    let fits = |start: usize, length: usize, whole| start.checked_add(length).is_some_and(|end| end <= whole);
    if fits(x, window_width, width) && fits(y, window_height, height) {
        Ok(())
    } else {
        Err(MaskError::WindowOutside { width, height, x, y, window_width, window_height })
    }
}

/// Collects foreground runs into the shortest list of counts.
#[derive(Default)]
struct RunBuilder {
    /// Pairs of background and foreground.
    counts: Vec<u32>,
    /// Where the last foreground run ends.
    end: u32,
}

impl RunBuilder {
    /// Adds a run that starts no earlier than the last one ended.
    fn push(&mut self, run: Range<u32>) {
        if run.is_empty() {
            return;
        }
        match self.counts.last_mut() {
            Some(last) if run.start == self.end => *last += run.end - run.start,
            _ => self.counts.extend([run.start - self.end, run.end - run.start]),
        }
        self.end = run.end;
    }

    fn finish(mut self, width: usize, height: usize) -> Rle {
        let rest = (width * height) as u32 - self.end;
        if rest > 0 || self.counts.is_empty() {
            self.counts.push(rest);
        }
        Rle { height, width, counts: self.counts }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mask::art;

    fn example() -> Mask {
        art(&["#....", "..###", "..###", "....."])
    }

    #[test]
    fn sams_example() {
        let rle = Rle::from_mask(&example());
        assert_eq!(rle.counts(), [0, 1, 8, 2, 2, 2, 2, 2, 1]);
        assert_eq!(rle.area(), 7);
        assert_eq!(rle.bbox_xywh(), [0, 0, 5, 3]);
        assert_eq!(rle.to_mask(), example());
    }

    #[test]
    fn empty_full_and_no_frame() {
        assert_eq!(Rle::from_mask(&Mask::new(3, 2)).counts(), [6]);
        assert_eq!(Rle::from_fn(3, 2, |_, _| true).counts(), [0, 6]);
        for (w, h) in [(0, 0), (0, 3), (3, 0)] {
            let rle = Rle::from_mask(&Mask::new(w, h));
            assert_eq!(rle.counts(), [0]);
            assert_eq!(rle.bbox_xywh(), [0; 4]);
            assert_eq!(rle.to_mask(), Mask::new(w, h));
            assert_eq!(Rle::from_counts(h, w, vec![]), Ok(rle));
        }
    }

    #[test]
    fn counts_are_checked_and_shortened() {
        let shortest = Rle::from_counts(2, 3, vec![1, 2, 3]);
        assert_eq!(Rle::from_counts(2, 3, vec![1, 0, 0, 1, 0, 1, 3, 0, 0]), shortest);
        assert_eq!(Rle::from_counts(2, 3, vec![0, 0, 1, 2, 3]), shortest);
        assert_eq!(
            Rle::from_counts(2, 3, vec![u32::MAX; 3]),
            Err(MaskError::RunSum { width: 3, height: 2, expected: 6, found: 3 * u64::from(u32::MAX) })
        );
        assert!(Rle::from_counts(2, 3, vec![]).is_err());
        assert!(Rle::from_counts(usize::MAX, usize::MAX, vec![1]).is_err());
    }

    #[test]
    fn the_largest_frame_needs_no_memory() {
        let side = 65_535;
        let rle = Rle::from_counts(side, side, vec![0, (side * side) as u32]).unwrap();
        assert_eq!(rle.bbox_xywh(), [0, 0, 65_535, 65_535]);
        assert_eq!(rle.iou(&rle, false), Ok(1.0));
        assert_eq!(rle.crop(65_534, 65_534, 1, 1).unwrap().counts(), [0, 1]);
        assert!(rle.paste(0, 0, side + 1, side + 2).is_err());
    }

    #[test]
    fn crop_and_paste() {
        let rle = Rle::from_mask(&example());
        let part = rle.crop(1, 1, 3, 2).unwrap();
        assert_eq!(part.to_mask(), art(&[".##", ".##"]));
        assert_eq!(part.paste(1, 1, 5, 4).unwrap().to_mask(), art(&[".....", "..##.", "..##.", "....."]));
        assert_eq!(rle.crop(5, 4, 0, 0).unwrap().counts(), [0]);
        assert!(rle.crop(1, 0, 5, 1).is_err());
        assert!(rle.crop(usize::MAX, 0, 1, 1).is_err());
        assert!(rle.paste(0, 1, 5, 4).is_err());
        assert!(rle.paste(0, 0, usize::MAX, usize::MAX).is_err());
    }

    #[test]
    fn merging_and_comparing() {
        let a = Rle::from_mask(&art(&["##..", "##.."]));
        let b = Rle::from_mask(&art(&[".##.", ".##."]));
        assert_eq!(a.iou(&b, false), Ok(2.0 / 6.0));
        assert_eq!(a.iou(&b, true), Ok(0.5));
        let pair = [a.clone(), b];
        assert_eq!(Rle::merge(&pair, false).unwrap().to_mask(), art(&["###.", "###."]));
        assert_eq!(Rle::merge(&pair, true).unwrap().to_mask(), art(&[".#..", ".#.."]));
        assert_eq!(Rle::merge(&[], false), Err(MaskError::NothingToMerge));
        let other = Rle::from_mask(&Mask::new(2, 4));
        assert!(a.iou(&other, false).is_err());
        assert!(Rle::merge(&[a, other], false).is_err());
    }
}
