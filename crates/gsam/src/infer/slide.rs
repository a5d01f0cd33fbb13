//! Logits by overlapping windows, of which one band is held at a time.

use std::borrow::Cow;
use std::collections::VecDeque;

use kirie_data::Image;
use rayon::prelude::*;

use super::network::{Logits, Network};
use super::pass::Tap;
use crate::config::Blend;
use crate::error::SemanticError;
use crate::segmenter::Segmenter;

/// What a window says at its very edge, of what it says in its middle, where weights are tapered: not nothing, because at the
/// picture's edge there is no other window.
const LEAST_SAID: f32 = 0.01;

/// Where windows begin along an axis of `length`: every `stride`, the last moved back to end with the axis.
///
/// As many as mmsegmentation has: `max(length - window + stride - 1, 0) / stride + 1`.
pub(super) fn starts(length: usize, window: usize, stride: usize) -> Vec<usize> {
    let count = (length + stride - 1).saturating_sub(window) / stride + 1;
    (0..count).map(|i| (i * stride).min(length.saturating_sub(window))).collect()
}

/// How much a window of `length` says at every place along one axis.
fn said(length: usize, blend: Blend) -> Vec<f32> {
    let tapered = |i: usize| {
        let from_edge = (i as f32 + 0.5).min((length - i) as f32 - 0.5);
        (from_edge / (length as f32 / 2.0)).max(LEAST_SAID)
    };
    match blend {
        Blend::Uniform => vec![1.0; length],
        Blend::Tapered => (0..length).map(tapered).collect(),
    }
}

/// Windows along one axis.
#[derive(Debug)]
struct Axis {
    starts: Vec<usize>,
    /// What a window says at each of its places.
    said: Vec<f32>,
    /// What all windows together say at each place of the axis.
    sum: Vec<f32>,
}

impl Axis {
    fn new(length: usize, window: usize, stride: usize, blend: Blend) -> Self {
        let window = window.min(length);
        let (starts, said) = (starts(length, window, stride), said(window, blend));
        let mut sum = vec![0.0; length];
        for start in &starts {
            sum[*start..].iter_mut().zip(&said).for_each(|(sum, said)| *sum += said);
        }
        Self { starts, said, sum }
    }

    fn window(&self) -> usize {
        self.said.len()
    }
}

/// Logits of a frame by windows, from the top.
pub(super) struct Slide<'a, S> {
    network: &'a Network<'a, S>,
    image: Cow<'a, Image>,
    /// Height and width of the frame.
    pub(super) size: [usize; 2],
    vertical: Axis,
    horizontal: Axis,
    /// Rows `[classes, width]` from `first` on: sums, but means up to `done`.
    rows: VecDeque<Vec<f32>>,
    first: usize,
    done: usize,
    /// Bands of windows that are in.
    bands: usize,
}

impl<'a, S: Segmenter> Slide<'a, S> {
    pub(super) fn new(
        network: &'a Network<'a, S>,
        image: Cow<'a, Image>,
        [window, stride]: [[u32; 2]; 2],
        blend: Blend,
    ) -> Self {
        let size = [image.height() as usize, image.width() as usize];
        let axis = |i: usize| Axis::new(size[i], window[i] as usize, stride[i] as usize, blend);
        let (vertical, horizontal) = (axis(0), axis(1));
        Self {
            network,
            image,
            size,
            vertical,
            horizontal,
            rows: VecDeque::new(),
            first: 0,
            done: 0,
            bands: 0,
        }
    }

    /// Where windows begin or end inside the frame: between place n - 1 and n, for rows and for columns.
    pub(super) fn borders(&self) -> [Vec<bool>; 2] {
        [(&self.vertical, self.size[0]), (&self.horizontal, self.size[1])].map(|(axis, length)| {
            let mut border = vec![false; length];
            for start in &axis.starts {
                for place in [*start, start + axis.window()] {
                    if (1..length).contains(&place) {
                        border[place] = true;
                    }
                }
            }
            border
        })
    }

    /// Two rows, `low <= high`, each `[classes, width]`; rows above are forgotten.
    pub(super) fn rows(&mut self, low: usize, high: usize) -> Result<(&[f32], &[f32]), SemanticError> {
        while self.done <= high && self.bands < self.vertical.starts.len() {
            self.forget(low);
            self.band()?;
        }
        self.forget(low);
        let row = |y: usize| self.rows.get(y - self.first).map_or(&[][..], Vec::as_slice);
        Ok((row(low), row(high)))
    }

    /// How many rows are held.
    #[cfg(test)]
    pub(super) fn held(&self) -> usize {
        self.rows.len()
    }

    fn forget(&mut self, above: usize) {
        while self.first < above.min(self.done) && self.rows.pop_front().is_some() {
            self.first += 1;
        }
    }

    /// Takes the next band of windows in.
    fn band(&mut self) -> Result<(), SemanticError> {
        let (top, window) =
            (self.vertical.starts[self.bands], [self.vertical.window(), self.horizontal.window()]);
        let row = self.network.classes * self.size[1];
        while self.first + self.rows.len() < top + window[0] {
            self.rows.push_back(vec![0.0; row]);
        }
        for start in 0..self.horizontal.starts.len() {
            let left = self.horizontal.starts[start];
            let logits = self.network.logits(&self.image, [top, left], window)?;
            self.add(&logits, [top, left]);
        }
        self.bands += 1;
        // What no later window reaches is the mean.
        let end = self.vertical.starts.get(self.bands).copied().unwrap_or(self.size[0]);
        for y in self.done..end {
            let said = self.vertical.sum[y];
            if let Some(row) = self.rows.get_mut(y - self.first) {
                for line in row.chunks_exact_mut(self.size[1]) {
                    line.iter_mut().zip(&self.horizontal.sum).for_each(|(value, sum)| *value /= said * sum);
                }
            }
        }
        self.done = end;
        Ok(())
    }

    /// Adds a window's logits, brought to its size, to the rows.
    fn add(&mut self, logits: &Logits, [top, left]: [usize; 2]) {
        let (classes, width) = (self.network.classes, self.size[1]);
        let tap = |at: usize, axis: usize| {
            Tap::new(at, logits.size[axis] as f64 / logits.shown[axis] as f64, logits.size[axis])
        };
        let columns: Vec<Tap> = (0..self.horizontal.window()).map(|x| tap(x, 1)).collect();
        let (vertical, horizontal) = (&self.vertical.said, &self.horizontal.said);
        let rows = &mut self.rows.make_contiguous()[top - self.first..][..vertical.len()];
        rows.par_iter_mut().zip(vertical).enumerate().for_each(|(y, (row, said))| {
            let tap = tap(y, 0);
            for class in 0..classes {
                let (low, high) = (logits.row(class, tap.low), logits.row(class, tap.high));
                let target = &mut row[class * width + left..];
                for ((target, column), beside) in target.iter_mut().zip(&columns).zip(horizontal) {
                    let above = column.between(low[column.low], low[column.high]);
                    let below = column.between(high[column.low], high[column.high]);
                    *target += tap.between(above, below) * said * beside;
                }
            }
        });
    }
}
