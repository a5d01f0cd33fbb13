//! A part of a picture through the network.

use burn::tensor::{Device, Tensor, TensorData};
use kirie_data::Image;
use kirie_sam::registry::Preprocess;

use crate::config::{SMALLEST_SIDE, TestConfig};
use crate::data::LabelMap;
use crate::error::SemanticError;
use crate::segmenter::Segmenter;

/// A network and how it is asked.
#[derive(Debug)]
pub(super) struct Network<'a, S> {
    model: &'a S,
    device: &'a Device,
    preprocess: Preprocess,
    pub(super) classes: usize,
    /// The ways a picture is mirrored (top to bottom, left to right) whose answers are averaged; the first is not at all.
    mirrored: Vec<[bool; 2]>,
}

/// Logits in main memory.
#[derive(Debug)]
pub(super) struct Logits {
    /// `[classes, height, width]`.
    pub(super) values: Vec<f32>,
    /// Height and width.
    pub(super) size: [usize; 2],
    /// Height and width of what they show, pixels: that asked for, or more where that was too small for the network.
    pub(super) shown: [usize; 2],
}

impl Logits {
    /// A row of one class.
    pub(super) fn row(&self, class: usize, y: usize) -> &[f32] {
        let [height, width] = self.size;
        &self.values[(class * height + y) * width..][..width]
    }
}

impl<'a, S: Segmenter> Network<'a, S> {
    pub(super) fn new(model: &'a S, test: &TestConfig, device: &'a Device) -> Result<Self, SemanticError> {
        let classes = model.classes();
        if !(2..=usize::from(LabelMap::IGNORE)).contains(&classes) {
            let (found, expected) = (format!("{classes} classes"), "2 to 255 classes".to_owned());
            return Err(SemanticError::Answer { expected, found });
        }
        let mut mirrored = vec![[false, false]];
        for (axis, wanted) in [test.flip_vertical, test.flip].into_iter().enumerate() {
            if wanted {
                let more: Vec<[bool; 2]> =
                    mirrored.iter().map(|way| [axis == 0 || way[0], axis == 1 || way[1]]).collect();
                mirrored.extend(more);
            }
        }
        Ok(Self { model, device, preprocess: model.preprocess(), classes, mirrored })
    }

    /// The logits of the part of a picture that begins at `start` = top, left and has `size` = height, width; mean over the mirrored
    /// answers.
    pub(super) fn logits(
        &self,
        image: &Image,
        start: [usize; 2],
        size: [usize; 2],
    ) -> Result<Logits, SemanticError> {
        let shown = size.map(|side| side.max(SMALLEST_SIDE as usize));
        let pixels = self.pixels(image, start, size, shown);
        let pixels = Tensor::<4>::from_data(TensorData::new(pixels, [1, 3, shown[0], shown[1]]), self.device);
        let mut sum: Option<Tensor<4>> = None;
        for way in &self.mirrored {
            let axes: Vec<usize> = (0..2).filter(|axis| way[*axis]).map(|axis| axis + 2).collect();
            let turn = |x: Tensor<4>| axes.iter().fold(x, |x, axis| x.flip([*axis as isize]));
            let answer = turn(self.model.logits(turn(pixels.clone())));
            let [batch, classes, height, width] = answer.dims();
            if batch != 1 || classes != self.classes || height == 0 || width == 0 {
                return Err(SemanticError::Answer {
                    expected: format!("logits of shape [1, {}, h, w]", self.classes),
                    found: format!("{:?}", answer.dims()),
                });
            }
            sum = Some(sum.map_or_else(|| answer.clone(), |sum| sum + answer.clone()));
        }
        let mean = sum.ok_or_else(|| self.no_answer("nothing"))? / self.mirrored.len() as f64;
        let [.., height, width] = mean.dims();
        let values = mean.try_into_data().map_err(|error| self.no_answer(error))?;
        let values = values.try_to_vec::<f32>().map_err(|error| self.no_answer(error))?;
        if !values.iter().all(|value| value.is_finite()) {
            return Err(self.no_answer("logits that are not all finite numbers"));
        }
        Ok(Logits { values, size: [height, width], shown })
    }

    fn no_answer(&self, found: impl ToString) -> SemanticError {
        let expected = format!("finite logits of {} classes", self.classes);
        SemanticError::Answer { expected, found: found.to_string() }
    }

    /// `[3, height, width]` of `shown`, normalised; beyond `size` the last row and column go on.
    fn pixels(&self, image: &Image, start: [usize; 2], size: [usize; 2], shown: [usize; 2]) -> Vec<f32> {
        let (width, raw) = (image.width() as usize, image.as_raw());
        let area = shown[0] * shown[1];
        let mut values = vec![0.0; 3 * area];
        for y in 0..shown[0] {
            let line = &raw[(start[0] + y.min(size[0] - 1)) * width * 3..][..width * 3];
            for x in 0..shown[1] {
                let pixel = &line[(start[1] + x.min(size[1] - 1)) * 3..][..3];
                for (channel, value) in pixel.iter().enumerate() {
                    values[channel * area + y * shown[1] + x] =
                        (f32::from(*value) - self.preprocess.mean[channel]) / self.preprocess.std[channel];
                }
            }
        }
        values
    }
}
