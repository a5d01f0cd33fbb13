//! Low-resolution logits to the picture's own size.
//!
//! The reference resizes twice, bilinearly and without antialiasing: the mask's side to the frame's, then, after the
//! padding is cut off, to the picture. Both are linear and separable, so their composition is one sparse weight list
//! per output row and column, never more than four entries long, and no frame-sized picture is ever made. The result
//! equals the two steps up to rounding.

use std::ops::Range;

use kirie_data::longest_side;
use kirie_mask::{MaskError, Rle, frame_area, stability_score};

/// Weights of one output sample on the low-resolution line.
type Taps = Vec<(usize, f32)>;

/// Upscales the masks of one picture.
#[derive(Debug, Clone)]
pub struct Upscaler {
    side: usize,
    rows: Vec<Taps>,
    columns: Vec<Taps>,
}

impl Upscaler {
    /// From square masks of `side` in a square `frame`, to a picture of `width` x `height`.
    pub fn new(side: usize, frame: u32, width: u32, height: u32) -> Self {
        let (inner_width, inner_height) = longest_side(width, height, frame);
        Self {
            side,
            rows: composed(side, frame as usize, inner_height as usize, height as usize),
            columns: composed(side, frame as usize, inner_width as usize, width as usize),
        }
    }

    /// Width of the picture.
    pub fn width(&self) -> usize {
        self.columns.len()
    }

    /// Height of the picture.
    pub fn height(&self) -> usize {
        self.rows.len()
    }

    /// Logits at the picture's size, row-major; `low` holds `side * side` values.
    pub fn logits(&self, low: &[f32]) -> Vec<f32> {
        self.stretch(low, 0..self.height(), 0..self.width()).values
    }

    /// The part of the upscaled logits outside of which none is above `threshold`; `None` if none is anywhere.
    ///
    /// Every upscaled value is a weighted mean of low-resolution ones, so where all of those are at or below the
    /// threshold there is nothing to compute. For small objects that is almost everywhere.
    pub fn patch(&self, low: &[f32], threshold: f32) -> Option<Patch> {
        let mut hot_rows = vec![false; self.side];
        let mut hot_columns = vec![false; self.side];
        for (row, values) in low.chunks_exact(self.side).enumerate() {
            for (column, value) in values.iter().enumerate() {
                if *value > threshold {
                    hot_rows[row] = true;
                    hot_columns[column] = true;
                }
            }
        }
        let rows = span(&self.rows, &hot_rows)?;
        let columns = span(&self.columns, &hot_columns)?;
        Some(self.stretch(low, rows, columns))
    }

    /// The mask of the pixels whose logit is above `threshold`, at the picture's size.
    pub fn mask(&self, low: &[f32], threshold: f32) -> Result<Rle, MaskError> {
        match self.patch(low, threshold) {
            Some(patch) => patch.mask(threshold)?.paste(patch.x, patch.y, self.width(), self.height()),
            None => {
                Rle::from_counts(self.height(), self.width(), vec![(self.width() * self.height()) as u32])
            }
        }
    }

    /// The same with its stability score: how little the mask changes when the threshold moves by `offset`; NaN for
    /// an empty mask.
    pub fn mask_and_stability(
        &self,
        low: &[f32],
        threshold: f32,
        offset: f32,
    ) -> Result<(Rle, f64), MaskError> {
        match self.patch(low, threshold - offset.max(0.0)) {
            Some(patch) => {
                let mask = patch.mask(threshold)?.paste(patch.x, patch.y, self.width(), self.height())?;
                Ok((mask, stability_score(&patch.values, threshold, offset)))
            }
            None => Ok((self.mask(low, threshold)?, f64::NAN)),
        }
    }

    fn stretch(&self, low: &[f32], rows: Range<usize>, columns: Range<usize>) -> Patch {
        debug_assert_eq!(low.len(), self.side * self.side);
        let width = columns.len();
        // The low-resolution rows that are needed, stretched once, then mixed for every output row.
        let needed = self.rows[rows.clone()].iter().flatten().map(|(i, _)| *i);
        let first = needed.clone().min().unwrap_or(0);
        let last = needed.max().unwrap_or(0);
        let mut wide = vec![0.0_f32; (last + 1 - first) * width];
        let low_rows = low.chunks_exact(self.side).skip(first);
        for (row, out) in low_rows.zip(wide.chunks_exact_mut(width)) {
            for (value, taps) in out.iter_mut().zip(&self.columns[columns.clone()]) {
                *value = taps.iter().map(|(i, weight)| row[*i] * weight).sum();
            }
        }
        let mut values = vec![0.0_f32; rows.len() * width];
        for (out, taps) in values.chunks_exact_mut(width).zip(&self.rows[rows.clone()]) {
            for (i, weight) in taps {
                let row = &wide[(i - first) * width..(i - first + 1) * width];
                for (value, low) in out.iter_mut().zip(row) {
                    *value += low * weight;
                }
            }
        }
        Patch { x: columns.start, y: rows.start, width, height: rows.len(), values }
    }
}

/// A rectangle of upscaled logits.
#[derive(Debug, Clone)]
pub struct Patch {
    /// Left edge in the picture, pixels.
    pub x: usize,
    /// Upper edge in the picture, pixels.
    pub y: usize,
    /// Width, pixels.
    pub width: usize,
    /// Height, pixels.
    pub height: usize,
    /// Logits, row-major.
    pub values: Vec<f32>,
}

impl Patch {
    /// The pixels above `threshold`, in a frame of the patch's size.
    pub fn mask(&self, threshold: f32) -> Result<Rle, MaskError> {
        frame_area(self.width, self.height)?;
        Ok(Rle::from_fn(self.width, self.height, |x, y| self.values[y * self.width + x] > threshold))
    }
}

/// From the first to the last output sample that a marked low-resolution sample has a part in.
fn span(taps: &[Taps], hot: &[bool]) -> Option<Range<usize>> {
    let touched = |taps: &Taps| taps.iter().any(|(i, _)| hot[*i]);
    let first = taps.iter().position(touched)?;
    let last = taps.iter().rposition(touched)?;
    Some(first..last + 1)
}

/// Weights of resizing a line of `side` to `frame`, keeping its first `inner`, and resizing those to `output`.
fn composed(side: usize, frame: usize, inner: usize, output: usize) -> Vec<Taps> {
    let first = bilinear(side, frame);
    bilinear(inner, output)
        .into_iter()
        .map(|taps| {
            let mut sum: Vec<(usize, f64)> = Vec::with_capacity(4);
            for (middle, weight) in taps {
                for (low, inner_weight) in &first[middle] {
                    match sum.iter_mut().find(|(i, _)| i == low) {
                        Some((_, total)) => *total += weight * inner_weight,
                        None => sum.push((*low, weight * inner_weight)),
                    }
                }
            }
            sum.into_iter().filter(|(_, w)| *w != 0.0).map(|(i, w)| (i, w as f32)).collect()
        })
        .collect()
}

/// Bilinear weights of a line, sample centres at half pixels, borders repeated.
fn bilinear(input: usize, output: usize) -> Vec<Vec<(usize, f64)>> {
    let scale = input as f64 / output as f64;
    (0..output)
        .map(|o| {
            let center = ((o as f64 + 0.5) * scale - 0.5).max(0.0);
            let low = (center as usize).min(input - 1);
            let t = center - low as f64;
            if low + 1 < input { vec![(low, 1.0 - t), (low + 1, t)] } else { vec![(low, 1.0)] }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::{Device, Distribution, Tensor};
    use kirie_nn::resize::{Interpolation, resize};

    /// The composed weights give what the two resizes of the reference give one after the other.
    #[test]
    fn equals_two_resizes() {
        let device = Device::flex();
        for (width, height) in [(640, 427), (31, 97), (1024, 1024), (3000, 20), (1, 1)] {
            let low = Tensor::<4>::random([1, 1, 64, 64], Distribution::Normal(0.0, 3.0), &device);
            let (w, h) = longest_side(width, height, 256);
            let frame = resize(low.clone(), [256, 256], Interpolation::Bilinear);
            let inner = frame.slice([0..1, 0..1, 0..h as usize, 0..w as usize]);
            let expected = resize(inner, [height as usize, width as usize], Interpolation::Bilinear);
            let expected: Vec<f32> = expected.into_data().try_to_vec().unwrap();
            let low: Vec<f32> = low.into_data().try_to_vec().unwrap();
            let found = Upscaler::new(64, 256, width, height).logits(&low);
            assert_eq!(found.len(), expected.len());
            for (found, expected) in found.iter().zip(&expected) {
                assert!((found - expected).abs() < 1e-4, "{width}x{height}: {found} is not {expected}");
            }
        }
    }

    /// Looking only at the part that can be object loses nothing.
    #[test]
    fn patches_lose_nothing() {
        let mut low = vec![-5.0_f32; 64 * 64];
        for (x, y, value) in [(10, 20, 3.0), (11, 20, 4.0), (40, 50, 0.5), (63, 63, 9.0)] {
            low[y * 64 + x] = value;
        }
        for (width, height) in [(640, 427), (31, 97), (3000, 20)] {
            let upscaler = Upscaler::new(64, 256, width, height);
            let logits = upscaler.logits(&low);
            for threshold in [-1.0, 0.0, 1.0] {
                let whole = Rle::from_fn(upscaler.width(), upscaler.height(), |x, y| {
                    logits[y * upscaler.width() + x] > threshold
                });
                assert_eq!(upscaler.mask(&low, threshold).unwrap(), whole, "{width}x{height} at {threshold}");
            }
            let nothing = upscaler.mask(&vec![-1.0; 64 * 64], 0.0).unwrap();
            assert_eq!(
                (nothing.area(), nothing.width(), nothing.height()),
                (0, width as usize, height as usize)
            );
        }
    }
}
