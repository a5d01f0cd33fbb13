//! A picture as a network's input, and boxes between the two.

use burn::tensor::{Device, Tensor, TensorData};
use kirie_data::{Image, resize_bilinear};
use serde::{Deserialize, Serialize};

use crate::WeakError;
use crate::files::Corners;

/// Mean and standard deviation of red, green and blue, 0..255: ImageNet's, as the Segment Anything family has them.
const MEAN: [f32; 3] = [123.675, 116.28, 103.53];
const STD: [f32; 3] = [58.395, 57.12, 57.375];

/// Sizes at which a network sees pictures.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct InputConfig {
    /// Lengths of the picture's shorter side in training, pixels, of which every view takes one at random.
    pub train_sides: Vec<u32>,
    /// The same for detecting: each is looked at, and the answers are put together (test-time augmentation).
    pub test_sides: Vec<u32>,
    /// The longer side's limit, pixels.
    pub longest: u32,
    /// Whether half of the training views are mirrored.
    pub train_flip: bool,
    /// Whether each picture is also looked at mirrored when detecting.
    pub test_flip: bool,
}

impl Default for InputConfig {
    fn default() -> Self {
        Self {
            train_sides: vec![192, 224, 256],
            test_sides: vec![192, 224, 256],
            longest: 448,
            train_flip: true,
            test_flip: true,
        }
    }
}

impl InputConfig {
    /// Checks the numbers.
    pub fn check(&self) -> Result<(), WeakError> {
        for (name, sides) in
            [("input.train_sides", &self.train_sides), ("input.test_sides", &self.test_sides)]
        {
            if sides.is_empty() || sides.iter().any(|side| !(32..=4096).contains(side)) {
                return Err(WeakError::setting(
                    name,
                    format!("{sides:?}"),
                    "one or more sides of 32 to 4096 pixels",
                ));
            }
        }
        if self.longest < 32 {
            return Err(WeakError::setting("input.longest", self.longest, "32 or more"));
        }
        Ok(())
    }

    /// The views of test-time augmentation: side and whether mirrored.
    pub fn test_views(&self) -> Vec<(u32, bool)> {
        let flips: &[bool] = if self.test_flip { &[false, true] } else { &[false] };
        self.test_sides.iter().flat_map(|side| flips.iter().map(|flip| (*side, *flip))).collect()
    }
}

/// A picture resized, perhaps mirrored, and normalised.
#[derive(Clone, Debug, PartialEq)]
pub struct View {
    /// `[3, height, width]`.
    pixels: Vec<f32>,
    /// Width and height, pixels.
    pub size: [u32; 2],
    /// Whether it is mirrored.
    pub flip: bool,
    /// Width and height over the picture's.
    scale: [f32; 2],
    /// The picture's width and height.
    original: [f32; 2],
}

impl View {
    /// The picture with its shorter side `side` pixels long, or less where the longer one would exceed `longest`.
    ///
    /// # Errors
    /// When there is no memory for it.
    pub fn new(image: &Image, side: u32, longest: u32, flip: bool) -> Result<Self, WeakError> {
        let [width, height] = [image.width(), image.height()];
        let (short, long) = (f64::from(width.min(height)), f64::from(width.max(height)));
        let factor = (f64::from(side) / short).min(f64::from(longest) / long);
        let [w, h] = [width, height].map(|side| ((f64::from(side) * factor).round() as u32).max(16));
        let resized = resize_bilinear(image, w, h)?;
        let (columns, count) = (w as usize, (w * h) as usize);
        let mut pixels = vec![0.0; 3 * count];
        for (channel, plane) in pixels.chunks_exact_mut(count).enumerate() {
            let (mean, std) = (MEAN[channel], STD[channel]);
            for (row, line) in resized.as_raw().chunks_exact(3 * columns).zip(plane.chunks_exact_mut(columns))
            {
                for (pixel, value) in row.chunks_exact(3).zip(line.iter_mut()) {
                    *value = (f32::from(pixel[channel]) - mean) / std;
                }
                if flip {
                    line.reverse();
                }
            }
        }
        let original = [width as f32, height as f32];
        let scale = [w as f32 / original[0], h as f32 / original[1]];
        Ok(Self { pixels, size: [w, h], flip, scale, original })
    }

    /// The network's input, `[1, 3, height, width]`.
    pub fn tensor(&self, device: &Device) -> Tensor<4> {
        let shape = [1, 3, self.size[1] as usize, self.size[0] as usize];
        Tensor::from_data(TensorData::new(self.pixels.clone(), shape), device)
    }

    /// From the picture's pixels to the view's.
    pub fn enter(&self, [x0, y0, x1, y1]: Corners) -> Corners {
        let (x0, x1) = if self.flip { (self.original[0] - x1, self.original[0] - x0) } else { (x0, x1) };
        [x0 * self.scale[0], y0 * self.scale[1], x1 * self.scale[0], y1 * self.scale[1]]
    }

    /// From the view's pixels to the picture's.
    pub fn leave(&self, [x0, y0, x1, y1]: Corners) -> Corners {
        let (x0, x1) = (x0 / self.scale[0], x1 / self.scale[0]);
        let (x0, x1) = if self.flip { (self.original[0] - x1, self.original[0] - x0) } else { (x0, x1) };
        [x0, y0 / self.scale[1], x1, y1 / self.scale[1]]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boxes_enter_and_leave() {
        let image = Image::from_raw(40, 20, (0..2400).map(|i| (i % 251) as u8).collect()).unwrap();
        for flip in [false, true] {
            let view = View::new(&image, 40, 1000, flip).unwrap();
            assert_eq!(view.size, [80, 40]);
            let seen = view.enter([4.0, 2.0, 10.0, 20.0]);
            let expected = if flip { [60.0, 4.0, 72.0, 40.0] } else { [8.0, 4.0, 20.0, 40.0] };
            assert_eq!(seen, expected);
            assert_eq!(view.leave(seen), [4.0, 2.0, 10.0, 20.0]);
        }
        // A mirrored view is the plain one from right to left.
        let [plain, mirrored] = [false, true].map(|flip| View::new(&image, 20, 1000, flip).unwrap().pixels);
        let back: Vec<f32> = mirrored.chunks_exact(40).flat_map(|line| line.iter().rev().copied()).collect();
        assert_eq!(plain, back);
        assert_eq!(View::new(&image, 40, 60, false).unwrap().size, [60, 30]);
    }
}
