//! Prompts as people give them, in the picture's own pixels.

use kirie_mask::{BBox, Point};

use crate::error::PromptProblem;

/// What one object is asked for by: points, a box, an earlier mask, or any mix of them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Prompt {
    /// Points in the picture's pixels, and whether each lies on the object.
    pub points: Vec<(Point, bool)>,
    /// A box around the object, in the picture's pixels.
    pub bbox: Option<BBox>,
    /// Low-resolution logits of an earlier answer, row-major, `mask_side * mask_side` values.
    pub mask_input: Option<Vec<f32>>,
}

impl Prompt {
    /// One point on the object.
    pub fn point(x: f64, y: f64) -> Self {
        Self::default().with_point(x, y, true)
    }

    /// A box.
    pub fn bbox(x0: f64, y0: f64, x1: f64, y1: f64) -> Self {
        Self { bbox: Some(BBox::new(x0, y0, x1, y1)), ..Self::default() }
    }

    /// Adds a point.
    pub fn with_point(mut self, x: f64, y: f64, on_object: bool) -> Self {
        self.points.push((Point { x, y }, on_object));
        self
    }

    /// Adds the logits of an earlier answer.
    pub fn with_mask(mut self, logits: Vec<f32>) -> Self {
        self.mask_input = Some(logits);
        self
    }

    /// Checks it against a picture of `width` x `height` and masks of `mask_side`.
    ///
    /// A box may reach beyond the picture (detectors do that), but not lie outside of it.
    pub fn check(&self, width: u32, height: u32, mask_side: usize) -> Result<(), PromptProblem> {
        let (w, h) = (f64::from(width), f64::from(height));
        if self.points.is_empty() && self.bbox.is_none() && self.mask_input.is_none() {
            return Err(PromptProblem::Empty);
        }
        for (Point { x, y }, _) in &self.points {
            if !(x.is_finite() && y.is_finite()) {
                return Err(PromptProblem::NotFinite { what: "point", found: format!("({x}, {y})") });
            }
            if !(0.0..=w).contains(x) || !(0.0..=h).contains(y) {
                return Err(PromptProblem::PointOutside { x: *x, y: *y, width, height });
            }
        }
        if let Some(BBox { x0, y0, x1, y1 }) = self.bbox {
            if ![x0, y0, x1, y1].iter().all(|v| v.is_finite()) {
                return Err(PromptProblem::NotFinite {
                    what: "box",
                    found: format!("({x0}, {y0}, {x1}, {y1})"),
                });
            }
            if x0 >= x1 || y0 >= y1 {
                return Err(PromptProblem::BoxUpsideDown { x0, y0, x1, y1 });
            }
            if x1 <= 0.0 || y1 <= 0.0 || x0 >= w || y0 >= h {
                return Err(PromptProblem::BoxOutside { x0, y0, x1, y1, width, height });
            }
        }
        if let Some(mask) = &self.mask_input {
            if mask.len() != mask_side * mask_side {
                return Err(PromptProblem::MaskSize { found: mask.len(), side: mask_side });
            }
            if !mask.iter().all(|v| v.is_finite()) {
                return Err(PromptProblem::MaskNotFinite);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_prompts_are_told_apart() {
        let check = |prompt: Prompt| prompt.check(100, 50, 4);
        assert!(check(Prompt::point(100.0, 50.0)).is_ok());
        assert!(check(Prompt::bbox(-10.0, 5.0, 120.0, 60.0)).is_ok());
        assert_eq!(check(Prompt::default()), Err(PromptProblem::Empty));
        assert!(matches!(check(Prompt::point(f64::NAN, 0.0)), Err(PromptProblem::NotFinite { .. })));
        assert!(matches!(check(Prompt::point(101.0, 0.0)), Err(PromptProblem::PointOutside { .. })));
        assert!(matches!(check(Prompt::bbox(5.0, 5.0, 1.0, 9.0)), Err(PromptProblem::BoxUpsideDown { .. })));
        assert!(matches!(check(Prompt::bbox(5.0, 5.0, 5.0, 9.0)), Err(PromptProblem::BoxUpsideDown { .. })));
        assert!(matches!(check(Prompt::bbox(101.0, 5.0, 110.0, 9.0)), Err(PromptProblem::BoxOutside { .. })));
        assert!(matches!(
            check(Prompt::bbox(f64::INFINITY, 5.0, 110.0, 9.0)),
            Err(PromptProblem::NotFinite { .. })
        ));
        let mask = Prompt::default().with_mask(vec![0.0; 15]);
        assert_eq!(check(mask), Err(PromptProblem::MaskSize { found: 15, side: 4 }));
        let mask = Prompt::default().with_mask(vec![f32::NAN; 16]);
        assert_eq!(check(mask), Err(PromptProblem::MaskNotFinite));
    }
}
