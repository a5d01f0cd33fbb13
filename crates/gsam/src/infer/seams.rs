//! Whether the borders of windows show.

use burn::tensor::Device;
use kirie_data::Image;
use serde::{Deserialize, Serialize};

use super::network::Network;
use super::pass::{Pass, Source};
use super::slide::Slide;
use super::{best, frame};
use crate::config::{TestConfig, TestMode};
use crate::error::SemanticError;
use crate::segmenter::Segmenter;

/// How much the logits of neighbouring pixels differ, where windows begin or end and elsewhere. Means over pixels and classes of
/// absolute differences.
///
/// Without seams the two are about the same.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Seams {
    /// Across the borders of windows.
    pub at_borders: f64,
    /// Between all other neighbours.
    pub elsewhere: f64,
    /// The largest difference across a border.
    pub largest: f64,
    /// The same pixels, seen in one piece.
    pub whole: Option<WholeComparison>,
}

/// What a pass over the whole picture says of the same neighbours.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct WholeComparison {
    /// How much they differ there, where windows would begin or end.
    pub at_borders: f64,
    /// And elsewhere.
    pub elsewhere: f64,
    /// How far the steps from neighbour to neighbour by windows are from those in one piece, across borders: what windows add.
    pub added_at_borders: f64,
    /// And elsewhere.
    pub added_elsewhere: f64,
    /// Share of pixels whose class is another.
    pub other_class: f64,
}

impl Seams {
    /// How much more neighbours differ across borders than elsewhere; 1 is no seam. With a pass in one piece, the picture's own
    /// steps at these places are taken out.
    pub fn ratio(&self) -> f64 {
        let own = self.at_borders / self.elsewhere.max(f64::MIN_POSITIVE);
        match self.whole {
            Some(whole) if whole.at_borders > 0.0 && whole.elsewhere > 0.0 => {
                own / (whole.at_borders / whole.elsewhere)
            }
            _ => own,
        }
    }
}

/// A mean.
#[derive(Clone, Copy, Default)]
struct Mean {
    sum: f64,
    count: u64,
    largest: f64,
}

impl Mean {
    fn add(&mut self, value: f64) {
        self.sum += value;
        self.count += 1;
        self.largest = self.largest.max(value);
    }

    fn value(self) -> f64 {
        self.sum / self.count.max(1) as f64
    }
}

/// Means at borders and elsewhere: of steps by windows, of steps in one piece, and of the difference of the two.
#[derive(Clone, Copy, Default)]
struct Steps {
    windows: Mean,
    whole: Mean,
    added: Mean,
}

impl Steps {
    fn add(&mut self, windows: f32, whole: Option<f32>) {
        self.windows.add(f64::from(windows.abs()));
        if let Some(whole) = whole {
            self.whole.add(f64::from(whole.abs()));
            self.added.add(f64::from((windows - whole).abs()));
        }
    }
}

/// Measures the seams of a picture that is segmented by windows, at the first of the scales. With `whole` it is compared with a
/// pass in one piece, for which the network needs the memory.
///
/// # Errors
/// As [`segment`](super::segment), and when `test` does not slide.
pub fn seams<S: Segmenter>(
    model: &S,
    image: &Image,
    test: &TestConfig,
    device: &Device,
    whole: bool,
) -> Result<Seams, SemanticError> {
    test.check()?;
    let TestMode::Slide { window, stride, blend } = test.mode else {
        return Err(SemanticError::setting("test.mode", "whole", "slide, whose seams can be measured"));
    };
    let network = Network::new(model, test, device)?;
    let frame = frame(image, test, test.scales[0])?;
    let size = [frame.height() as usize, frame.width() as usize];
    let mut reference = if whole {
        let logits = network.logits(&frame, [0, 0], size)?;
        Some(Pass::<S>::new(Source::Whole { logits, frame: size }, size))
    } else {
        None
    };
    let mut slide = Slide::new(&network, frame, [window, stride], blend);
    let [row_borders, column_borders] = slide.borders();

    let length = network.classes * size[1];
    let mut steps = [Steps::default(); 2];
    let mut other = 0_u64;
    let (mut above, mut whole_above): (Vec<f32>, Vec<f32>) = (Vec::new(), Vec::new());
    for y in 0..size[0] {
        let row = slide.rows(y, y)?.0.to_vec();
        let whole_row = match &mut reference {
            Some(pass) => {
                let mut row = vec![0.0; length];
                pass.add_row(y, 1.0, &mut row)?;
                row
            }
            None => Vec::new(),
        };
        for class in 0..network.classes {
            for (x, border) in column_borders.iter().enumerate().skip(1) {
                let at = class * size[1] + x;
                let whole = whole_row.get(at).map(|value| value - whole_row[at - 1]);
                steps[usize::from(*border)].add(row[at] - row[at - 1], whole);
            }
        }
        if y > 0 {
            for (at, (value, above)) in row.iter().zip(&above).enumerate() {
                let whole = whole_row.get(at).map(|value| value - whole_above[at]);
                steps[usize::from(row_borders[y])].add(value - above, whole);
            }
        }
        if !whole_row.is_empty() {
            let labels = best(&row, size[1]).zip(best(&whole_row, size[1]));
            other += labels.filter(|(windows, whole)| windows != whole).count() as u64;
        }
        (above, whole_above) = (row, whole_row);
    }
    let [elsewhere, borders] = steps;
    let compared = WholeComparison {
        at_borders: borders.whole.value(),
        elsewhere: elsewhere.whole.value(),
        added_at_borders: borders.added.value(),
        added_elsewhere: elsewhere.added.value(),
        other_class: other as f64 / (size[0] * size[1]) as f64,
    };
    Ok(Seams {
        at_borders: borders.windows.value(),
        elsewhere: elsewhere.windows.value(),
        largest: borders.windows.largest,
        whole: whole.then_some(compared),
    })
}
