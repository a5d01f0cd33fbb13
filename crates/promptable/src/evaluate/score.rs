//! How well one answer fits one object.

use kirie_mask::{Mask, Rle, erode};
use kirie_metrics::Overlap;
use kirie_sam::Prompt;
use serde::Serialize;

use super::EvaluateError;

/// What one object scored.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ObjectScore {
    /// Its picture's name in the data set.
    pub picture: String,
    /// The part of the data set.
    pub split: Option<String>,
    /// Its place among the regions of the picture's labels, from 0.
    pub object: usize,
    /// Name of its class.
    pub class: Option<String>,
    /// Its area in square pixels, by which it is small, medium or large.
    pub area: f64,
    /// Its box: x, y, width, height in pixels.
    pub bbox: [f64; 4],
    /// A region of many objects.
    pub crowd: bool,
    /// IoU of answer and object, 0 to 1.
    pub iou: f64,
    /// Boundary IoU, 0 to 1.
    pub biou: f64,
    /// What the model thought the IoU would be.
    pub predicted_iou: Option<f32>,
    /// Clicks it took; fewer than asked for when nothing was wrong any more.
    pub clicks: u32,
}

/// An object with its answer, to be shown.
#[derive(Clone, Debug)]
pub struct Case {
    /// What it scored.
    pub score: ObjectScore,
    /// The object.
    pub truth: Rle,
    /// The answer.
    pub answer: Rle,
    /// The prompt; of clicks the last.
    pub prompt: Prompt,
}

/// IoU of an answer with an object; 0 when both are empty.
pub(super) fn iou(answer: &Rle, truth: &Rle) -> Result<f64, EvaluateError> {
    Ok(answer.iou(truth, false)?)
}

/// Boundary IoU: as [`Overlap::of_boundaries`], computed where the two masks are and not all over the picture.
pub(super) fn boundary_iou(answer: &Rle, truth: &Rle, dilation_ratio: f64) -> Result<f64, EvaluateError> {
    let both = [answer.bbox_xywh(), truth.bbox_xywh()].map(|b| b.map(|v| v as usize));
    let mut boxes = both.into_iter().filter(|[_, _, width, height]| width * height > 0);
    let Some(first) = boxes.next() else { return Ok(0.0) };
    let [x, y, width, height] = boxes.fold(first, |a, b| {
        let (x, y) = (a[0].min(b[0]), a[1].min(b[1]));
        [x, y, (a[0] + a[2]).max(b[0] + b[2]) - x, (a[1] + a[3]).max(b[1] + b[3]) - y]
    });
    let diagonal = (truth.width() as f64).hypot(truth.height() as f64);
    let distance = ((dilation_ratio * diagonal).round_ties_even() as usize).max(1);
    // Outside the window both are background, which is what erosion takes it for.
    let band = |mask: &Rle| -> Result<Mask, EvaluateError> {
        let mask = mask.crop(x, y, width, height)?.to_mask();
        let mut band = erode(&mask, distance);
        for (pixel, &inside) in band.as_mut_slice().iter_mut().zip(mask.as_slice()) {
            *pixel = inside && !*pixel;
        }
        Ok(band)
    };
    Ok(Overlap::of_masks(&band(answer)?, &band(truth)?)?.iou().unwrap_or(0.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_changes_nothing() {
        let discs =
            [(20.0, 20.0, 9.0), (24.0, 18.0, 11.0), (0.0, 39.0, 15.0), (59.0, 0.0, 3.0), (30.0, 20.0, 99.0)];
        let disc = |(cx, cy, r): (f64, f64, f64)| {
            Rle::from_fn(60, 40, move |x, y| (x as f64 - cx).hypot(y as f64 - cy) <= r)
        };
        for a in discs.map(disc) {
            for b in discs.map(disc) {
                for ratio in [0.0, 0.02, 0.06] {
                    let expected = Overlap::of_boundaries(&a.to_mask(), &b.to_mask(), ratio).unwrap();
                    assert_eq!(Some(boundary_iou(&a, &b, ratio).unwrap()), expected.iou());
                }
            }
        }
    }

    #[test]
    fn empty_answers_score_nothing() {
        let nothing = Rle::from_mask(&Mask::new(8, 6));
        let something = Rle::from_fn(8, 6, |x, _| x > 5);
        for (a, b) in [(&nothing, &something), (&something, &nothing), (&nothing, &nothing)] {
            assert_eq!((iou(a, b).unwrap(), boundary_iou(a, b, 0.02).unwrap()), (0.0, 0.0));
        }
        assert!(iou(&nothing, &Rle::from_mask(&Mask::new(6, 8))).is_err());
    }
}
