//! Logits of one frame, looked at in the resolution of another.

use super::network::Logits;
use super::slide::Slide;
use crate::error::SemanticError;
use crate::segmenter::Segmenter;

/// The two neighbours of a place and how far it lies towards the second: bilinear, centres at half pixels, as
/// `kirie_nn::resize` has it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tap {
    pub(super) low: usize,
    pub(super) high: usize,
    pub(super) share: f32,
}

impl Tap {
    /// For place `at` of an axis along which a place is `scale` of the `length` samples long.
    pub(super) fn new(at: usize, scale: f64, length: usize) -> Self {
        let centre = ((at as f64 + 0.5) * scale - 0.5).max(0.0);
        let low = (centre as usize).min(length - 1);
        Self { low, high: (low + 1).min(length - 1), share: (centre - centre.floor()) as f32 }
    }

    pub(super) fn between(self, low: f32, high: f32) -> f32 {
        low + (high - low) * self.share
    }
}

/// Where logits come from.
pub(super) enum Source<'a, S> {
    /// The whole frame, of this height and width, in one piece.
    Whole { logits: Logits, frame: [usize; 2] },
    /// Windows, one band after the other.
    Slide(Slide<'a, S>),
}

/// Logits of a frame in the rows and columns of the picture.
pub(super) struct Pass<'a, S> {
    source: Source<'a, S>,
    /// Samples that lie under a row and a column of the picture.
    scale: [f64; 2],
    columns: Vec<Tap>,
    /// `[classes, samples]`: a row between two.
    line: Vec<f32>,
}

impl<'a, S: Segmenter> Pass<'a, S> {
    /// `size`: height and width of the picture.
    pub(super) fn new(source: Source<'a, S>, size: [usize; 2]) -> Self {
        let (samples, scale) = match &source {
            Source::Whole { logits, frame } => {
                let per = |i: usize| {
                    let pixels = frame[i] as f64 / size[i] as f64;
                    pixels * logits.size[i] as f64 / logits.shown[i] as f64
                };
                (logits.size, [per(0), per(1)])
            }
            Source::Slide(slide) => (slide.size, [0, 1].map(|i| slide.size[i] as f64 / size[i] as f64)),
        };
        let columns = (0..size[1]).map(|x| Tap::new(x, scale[1], samples[1])).collect();
        Self { source, scale, columns, line: Vec::new() }
    }

    /// Adds `share` times the logits of row `y` to `sum`, `[classes, width]`. Rows are asked for from the top.
    pub(super) fn add_row(&mut self, y: usize, share: f32, sum: &mut [f32]) -> Result<(), SemanticError> {
        let (line, scale) = (&mut self.line, self.scale[0]);
        line.clear();
        let samples = match &mut self.source {
            Source::Whole { logits, .. } => {
                let tap = Tap::new(y, scale, logits.size[0]);
                let classes = logits.values.len() / (logits.size[0] * logits.size[1]);
                for class in 0..classes {
                    let rows = logits.row(class, tap.low).iter().zip(logits.row(class, tap.high));
                    line.extend(rows.map(|(low, high)| tap.between(*low, *high)));
                }
                logits.size[1]
            }
            Source::Slide(slide) => {
                let tap = Tap::new(y, scale, slide.size[0]);
                let (low, high) = slide.rows(tap.low, tap.high)?;
                line.extend(low.iter().zip(high).map(|(low, high)| tap.between(*low, *high)));
                slide.size[1]
            }
        };
        let width = self.columns.len();
        for (sum, line) in sum.chunks_exact_mut(width).zip(line.chunks_exact(samples)) {
            for (sum, tap) in sum.iter_mut().zip(&self.columns) {
                *sum += share * tap.between(line[tap.low], line[tap.high]);
            }
        }
        Ok(())
    }
}
