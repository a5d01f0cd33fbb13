//! Boxes as detectors handle them: overlaps, regression targets, suppression.

use kirie_mask::nms as greedy_nms;
use serde::{Deserialize, Serialize};

use crate::WeakError;
use crate::files::{Corners, to_bbox};

/// Sizes may grow by this factor at most in one regression step: `ln(1000 / 16)`, as in Faster R-CNN's code.
const LARGEST_STEP: f32 = 4.135_166_6;

/// Intersection over union of two boxes; 0 where neither has an area.
pub fn iou(a: &Corners, b: &Corners) -> f32 {
    let shared = intersection(a, b);
    let union = area(a) + area(b) - shared;
    if union > 0.0 { shared / union } else { 0.0 }
}

/// Area in square pixels; 0 for a box turned inside out.
pub fn area(b: &Corners) -> f32 {
    (b[2] - b[0]).max(0.0) * (b[3] - b[1]).max(0.0)
}

/// The area that two boxes share, square pixels.
pub fn intersection(a: &Corners, b: &Corners) -> f32 {
    let width = (a[2].min(b[2]) - a[0].max(b[0])).max(0.0);
    let height = (a[3].min(b[3]) - a[1].max(b[1])).max(0.0);
    width * height
}

/// The object that a box overlaps most, the first of equals, and the overlap; `None` without objects.
pub fn best_match(corners: &Corners, objects: &[Corners]) -> Option<(usize, f32)> {
    let mut best = None;
    for (index, object) in objects.iter().enumerate() {
        let overlap = iou(corners, object);
        if best.is_none_or(|(_, found)| overlap > found) {
            best = Some((index, overlap));
        }
    }
    best
}

/// Greedy suppression, as [`kirie_mask::nms()`].
pub fn nms(boxes: &[Corners], scores: &[f32], iou_threshold: f32) -> Vec<usize> {
    let boxes: Vec<_> = boxes.iter().map(|b| to_bbox(*b)).collect();
    let scores: Vec<f64> = scores.iter().map(|s| f64::from(*s)).collect();
    greedy_nms(&boxes, &scores, f64::from(iou_threshold))
}

/// From boxes to regression targets and back (R-CNN's parametrisation): `dx = wx (gx - px) / pw`, `dw = ww ln(gw / pw)`, with
/// centres and sizes of continuous boxes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BoxCoder(
    /// Weights of x, y, width and height.
    pub [f32; 4],
);

impl BoxCoder {
    /// For RoI heads.
    pub const HEAD: Self = Self([10.0, 10.0, 5.0, 5.0]);
    /// For region proposal networks.
    pub const ANCHORS: Self = Self([1.0; 4]);

    /// What leads from `from` to `to`. Sides below a hundredth of a pixel count as that.
    pub fn encode(&self, from: &Corners, to: &Corners) -> [f32; 4] {
        let ([px, py, pw, ph], [gx, gy, gw, gh]) = (centred(from), centred(to));
        let w = self.0;
        [w[0] * (gx - px) / pw, w[1] * (gy - py) / ph, w[2] * (gw / pw).ln(), w[3] * (gh / ph).ln()]
    }

    /// The box that a step leads to.
    pub fn decode(&self, from: &Corners, step: &[f32]) -> Corners {
        let [px, py, pw, ph] = centred(from);
        let w = self.0;
        let (x, y) = (px + step[0] / w[0] * pw, py + step[1] / w[1] * ph);
        let (width, height) =
            (pw * (step[2] / w[2]).min(LARGEST_STEP).exp(), ph * (step[3] / w[3]).min(LARGEST_STEP).exp());
        [x - width / 2.0, y - height / 2.0, x + width / 2.0, y + height / 2.0]
    }
}

/// Centre and sizes.
fn centred(b: &Corners) -> [f32; 4] {
    let (width, height) = ((b[2] - b[0]).max(0.01), (b[3] - b[1]).max(0.01));
    [f32::midpoint(b[0], b[2]), f32::midpoint(b[1], b[3]), width, height]
}

/// Cut at the edges of a frame of `width` x `height`.
pub fn clip(b: &Corners, width: f32, height: f32) -> Corners {
    [b[0].clamp(0.0, width), b[1].clamp(0.0, height), b[2].clamp(0.0, width), b[3].clamp(0.0, height)]
}

/// What becomes of a detector's answers: the table `answers`. Each detector has values of its own for what it leaves out.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AnswerConfig {
    /// Boxes below this score are left out.
    pub least_score: f32,
    /// Overlap above which the lower scored box of a class is suppressed.
    pub nms: f32,
    /// The most boxes a picture.
    pub most: usize,
}

impl AnswerConfig {
    /// Checks the numbers.
    ///
    /// # Errors
    /// [`WeakError::Setting`] for one out of its range.
    pub fn check(&self) -> Result<(), WeakError> {
        if self.least_score.is_nan() {
            return Err(WeakError::setting("answers.least_score", "NaN", "a number"));
        }
        if !(0.0..=1.0).contains(&self.nms) {
            return Err(WeakError::setting("answers.nms", self.nms, "0 to 1"));
        }
        if self.most == 0 {
            return Err(WeakError::setting("answers.most", 0, "1 or more"));
        }
        Ok(())
    }
}

/// A detector's answer about one picture, before it is written.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Found {
    /// The boxes.
    pub boxes: Vec<Corners>,
    /// How sure it is of each.
    pub scores: Vec<f32>,
    /// The class of each.
    pub classes: Vec<usize>,
}

impl Found {
    /// Adds one.
    pub fn push(&mut self, corners: Corners, score: f32, class: usize) {
        self.boxes.push(corners);
        self.scores.push(score);
        self.classes.push(class);
    }

    /// Suppresses overlaps within each class, keeps the `limit` best scored, best first; equal scores in the order of classes,
    /// then of boxes.
    pub fn suppressed(&self, classes: usize, iou_threshold: f32, limit: usize) -> Self {
        let mut kept = Vec::new();
        for class in 0..classes {
            let members: Vec<usize> = (0..self.boxes.len()).filter(|i| self.classes[*i] == class).collect();
            let boxes: Vec<Corners> = members.iter().map(|i| self.boxes[*i]).collect();
            let scores: Vec<f32> = members.iter().map(|i| self.scores[*i]).collect();
            kept.extend(nms(&boxes, &scores, iou_threshold).into_iter().map(|at| members[at]));
        }
        kept.sort_by(|a, b| self.scores[*b].total_cmp(&self.scores[*a]));
        let mut result = Self::default();
        for index in kept.into_iter().take(limit) {
            result.push(self.boxes[index], self.scores[index], self.classes[index]);
        }
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_lead_back() {
        let (from, to) = ([10.0, 20.0, 40.0, 80.0], [14.0, 11.0, 60.0, 71.0]);
        for coder in [BoxCoder::HEAD, BoxCoder::ANCHORS] {
            let back = coder.decode(&from, &coder.encode(&from, &to));
            for (found, expected) in back.iter().zip(to) {
                assert!((found - expected).abs() < 1e-3, "{back:?}");
            }
        }
        // dx = 10 (gx - px) / pw = 10 * 12 / 30, dw = 5 ln(46 / 30).
        let step = BoxCoder::HEAD.encode(&from, &to);
        assert!((step[0] - 4.0).abs() < 1e-5 && (step[2] - 5.0 * (46.0_f32 / 30.0).ln()).abs() < 1e-5);
        // A wild step is held back.
        let wild = BoxCoder::ANCHORS.decode(&from, &[0.0, 0.0, 50.0, 0.0]);
        assert!((wild[2] - wild[0] - 30.0 * 62.5).abs() < 1.0, "{wild:?}");
        assert!(BoxCoder::HEAD.encode(&[1.0; 4], &to).iter().all(|v| v.is_finite()));
    }

    #[test]
    fn overlaps() {
        let (a, b) = ([0.0, 0.0, 10.0, 10.0], [0.0, 5.0, 10.0, 15.0]);
        assert_eq!(iou(&a, &b), 50.0 / 150.0);
        assert_eq!(iou(&[1.0; 4], &[1.0; 4]), 0.0);
        assert_eq!(best_match(&a, &[b, a, a]), Some((1, 1.0)));
        assert_eq!(best_match(&a, &[]), None);
    }

    #[test]
    fn suppression_is_by_class() {
        let found = Found {
            boxes: vec![[0.0, 0.0, 10.0, 10.0], [1.0, 0.0, 11.0, 10.0], [0.0, 0.0, 10.0, 10.0]],
            scores: vec![0.5, 0.9, 0.7],
            classes: vec![0, 0, 1],
        };
        let kept = found.suppressed(2, 0.3, 10);
        assert_eq!((kept.scores.clone(), kept.classes.clone()), (vec![0.9, 0.7], vec![0, 1]));
        assert_eq!(found.suppressed(2, 0.3, 1).scores, [0.9]);
        assert_eq!(found.suppressed(2, 1.0, 10).scores, [0.9, 0.7, 0.5]);
    }
}
