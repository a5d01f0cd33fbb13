//! Models that look at the prompt alone. What they score is what a model's score has to be held against.

use kirie_data::Image;
use kirie_mask::{BBox, Rle, frame_area};
use kirie_sam::{Prompt, SamError};

use super::{Answer, EvaluateError, Promptable};

/// Fills the box: pixels whose centre lies in it.
#[derive(Clone, Debug, Default)]
pub struct BoxFill {
    size: Option<(usize, usize)>,
}

/// Fills the ellipse that touches the four sides of the box: pixels whose centre lies in it.
#[derive(Clone, Debug, Default)]
pub struct Ellipse {
    size: Option<(usize, usize)>,
}

impl BoxFill {
    /// Its name, also on the command line.
    pub const NAME: &'static str = "box-fill";

    /// One without a picture.
    pub fn new() -> Self {
        Self::default()
    }
}

impl Ellipse {
    /// Its name, also on the command line.
    pub const NAME: &'static str = "ellipse";

    /// One without a picture.
    pub fn new() -> Self {
        Self::default()
    }
}

impl Promptable for BoxFill {
    fn name(&self) -> &str {
        Self::NAME
    }

    fn takes_points(&self) -> bool {
        false
    }

    fn set_picture(&mut self, picture: &Image) -> Result<(), EvaluateError> {
        self.size = Some(size_of(picture)?);
        Ok(())
    }

    fn masks(&mut self, prompts: &[Prompt]) -> Result<Vec<Answer>, EvaluateError> {
        fill(Self::NAME, self.size, prompts, |b, x, y| b.x0 <= x && x < b.x1 && b.y0 <= y && y < b.y1)
    }
}

impl Promptable for Ellipse {
    fn name(&self) -> &str {
        Self::NAME
    }

    fn takes_points(&self) -> bool {
        false
    }

    fn set_picture(&mut self, picture: &Image) -> Result<(), EvaluateError> {
        self.size = Some(size_of(picture)?);
        Ok(())
    }

    fn masks(&mut self, prompts: &[Prompt]) -> Result<Vec<Answer>, EvaluateError> {
        fill(Self::NAME, self.size, prompts, |b, x, y| {
            let across = (2.0 * x - b.x0 - b.x1) / b.width();
            let down = (2.0 * y - b.y0 - b.y1) / b.height();
            across * across + down * down <= 1.0
        })
    }
}

fn size_of(picture: &Image) -> Result<(usize, usize), EvaluateError> {
    let size = (picture.width() as usize, picture.height() as usize);
    frame_area(size.0, size.1)?;
    Ok(size)
}

fn fill(
    name: &str,
    size: Option<(usize, usize)>,
    prompts: &[Prompt],
    inside: impl Fn(&BBox, f64, f64) -> bool,
) -> Result<Vec<Answer>, EvaluateError> {
    let (width, height) = size.ok_or(SamError::NoImage)?;
    let answer = |prompt: &Prompt| {
        let bbox = prompt.bbox.ok_or_else(|| EvaluateError::NeedsBox { model: name.to_owned() })?;
        let mask = Rle::from_fn(width, height, |x, y| inside(&bbox, x as f64 + 0.5, y as f64 + 0.5));
        Ok(Answer { mask, predicted_iou: None, logits: None })
    };
    prompts.iter().map(answer).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_of_a_box() {
        let picture = Image::from_raw(20, 10, vec![0; 600]).unwrap();
        let prompt = [Prompt::bbox(2.0, 1.0, 12.0, 9.0)];
        let mut filled = BoxFill::new();
        assert!(filled.masks(&prompt).is_err(), "no picture yet");
        filled.set_picture(&picture).unwrap();
        let mask = filled.masks(&prompt).unwrap().remove(0).mask;
        assert_eq!((mask.bbox_xywh(), mask.area()), ([2, 1, 10, 8], 80));
        let mut ellipse = Ellipse::new();
        ellipse.set_picture(&picture).unwrap();
        let mask = ellipse.masks(&prompt).unwrap().remove(0).mask;
        assert_eq!(mask.bbox_xywh(), [2, 1, 10, 8]);
        let share = mask.area() as f64 / 80.0;
        assert!((share - std::f64::consts::FRAC_PI_4).abs() < 0.04, "{share}");
        assert!(matches!(ellipse.masks(&[Prompt::point(1.0, 1.0)]), Err(EvaluateError::NeedsBox { .. })));
    }
}
