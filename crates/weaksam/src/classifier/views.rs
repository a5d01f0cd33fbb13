//! What the classifier sees of a picture: a window of it, stretched to a square, perhaps mirrored and recoloured.

use kirie_data::{Image, resize_bilinear};
use kirie_engine::random::unit;
use rand::Rng;
use serde::{Deserialize, Serialize};

use crate::WeakError;

/// ImageNet's mean and standard deviation of red, green and blue, 0..255; SAM's are the same.
const MEAN: [f32; 3] = [123.675, 116.28, 103.53];
const STD: [f32; 3] = [58.395, 57.12, 57.375];

/// Strongest changes of a picture in training.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Augment {
    /// Least share of a picture's height, and of its width, that is seen. A label may become wrong where an object is cut off.
    pub window: f64,
    /// Share of pictures that are mirrored left to right.
    pub flip: f64,
    /// Share of full white that is added or taken away.
    pub brightness: f64,
    /// As a share: 0.5 draws a factor from 0.5 to 1.5.
    pub contrast: f64,
    /// As a share.
    pub saturation: f64,
}

impl Default for Augment {
    fn default() -> Self {
        Self { window: 0.85, flip: 0.5, brightness: 0.15, contrast: 0.3, saturation: 0.3 }
    }
}

impl Augment {
    /// None.
    pub const NONE: Self = Self { window: 1.0, flip: 0.0, brightness: 0.0, contrast: 0.0, saturation: 0.0 };

    pub(super) fn check(&self) -> Result<(), WeakError> {
        if !(0.1..=1.0).contains(&self.window) {
            return Err(WeakError::setting("classifier.augment.window", self.window, "0.1 to 1"));
        }
        let shares = [
            ("flip", self.flip),
            ("brightness", self.brightness),
            ("contrast", self.contrast),
            ("saturation", self.saturation),
        ];
        match shares.into_iter().find(|(_, share)| !(0.0..=1.0).contains(share)) {
            Some((name, share)) => {
                Err(WeakError::setting(format!("classifier.augment.{name}"), share, "0 to 1"))
            }
            None => Ok(()),
        }
    }
}

/// Pixels `[3, height, width]` as the network takes them, of the picture stretched to that size.
pub(super) fn whole(image: &Image, [height, width]: [u32; 2]) -> Result<Vec<f32>, WeakError> {
    Ok(normalised(&resize_bilinear(image, width, height)?, |rgb| rgb))
}

/// Pixels `[3, side, side]` of a changed picture.
pub(super) fn changed(
    image: &Image,
    side: u32,
    augment: &Augment,
    rng: &mut impl Rng,
) -> Result<Vec<f32>, WeakError> {
    // All are drawn, used or not: what follows must not depend on the settings.
    let mut draw = || unit(rng);
    let mut cut = |length: u32| {
        let share = 1.0 - (1.0 - augment.window) * draw();
        let kept = ((f64::from(length) * share).round() as u32).clamp(1, length);
        (((f64::from(length - kept) + 1.0) * draw()) as u32, kept)
    };
    let ((x, width), (y, height)) = (cut(image.width()), cut(image.height()));
    let mirrored = draw() < augment.flip;
    let mut either_way = |strength: f64| (strength * (2.0 * draw() - 1.0)) as f32;
    let shift = 255.0 * either_way(augment.brightness);
    let (contrast, saturation) = (1.0 + either_way(augment.contrast), 1.0 + either_way(augment.saturation));

    let (x, y) = (x.min(image.width() - width), y.min(image.height() - height));
    let window = resize_bilinear(&image.crop(x, y, width, height)?, side, side)?;
    let raw = window.as_raw();
    let mean = raw.iter().map(|value| f32::from(*value)).sum::<f32>() / raw.len().max(1) as f32;
    let mut pixels = normalised(&window, |rgb| {
        let gray = 0.299 * rgb[0] + 0.587 * rgb[1] + 0.114 * rgb[2];
        rgb.map(|value| {
            let value = gray + saturation * (value - gray);
            (mean + contrast * (value - mean) + shift).clamp(0.0, 255.0)
        })
    });
    if mirrored {
        for row in pixels.chunks_exact_mut(side as usize) {
            row.reverse();
        }
    }
    Ok(pixels)
}

fn normalised(image: &Image, recolour: impl Fn([f32; 3]) -> [f32; 3]) -> Vec<f32> {
    let area = image.width() as usize * image.height() as usize;
    let mut pixels = vec![0.0; 3 * area];
    for (at, rgb) in image.as_raw().chunks_exact(3).enumerate() {
        let rgb = recolour([rgb[0], rgb[1], rgb[2]].map(f32::from));
        for channel in 0..3 {
            pixels[channel * area + at] = (rgb[channel] - MEAN[channel]) / STD[channel];
        }
    }
    pixels
}

#[cfg(test)]
mod tests {
    use kirie_engine::random::Streams;

    use super::*;

    fn gradient() -> Image {
        let raw = (0..20_u32 * 12).flat_map(|i| [(i % 20 * 12) as u8, (i / 20 * 20) as u8, 90]).collect();
        Image::from_raw(20, 12, raw).unwrap()
    }

    #[test]
    fn without_changes_it_is_the_whole_picture() {
        let mut rng = Streams::new(1).stream("view", &[0]);
        let changed = changed(&gradient(), 16, &Augment::NONE, &mut rng).unwrap();
        let whole = whole(&gradient(), [16, 16]).unwrap();
        assert!(changed.iter().zip(&whole).all(|(a, b)| (a - b).abs() < 1e-4));
        assert!(
            (whole[0]
                - (f32::from(resize_bilinear(&gradient(), 16, 16).unwrap().as_raw()[0]) - MEAN[0]) / STD[0])
                .abs()
                < 1e-6
        );
    }

    #[test]
    fn mirroring_turns_rows_around() {
        let all = Augment { flip: 1.0, ..Augment::NONE };
        let mut rng = Streams::new(1).stream("view", &[0]);
        let mirrored = changed(&gradient(), 16, &all, &mut rng).unwrap();
        let whole = whole(&gradient(), [16, 16]).unwrap();
        assert!((mirrored[0] - whole[15]).abs() < 1e-4 && (mirrored[15] - whole[0]).abs() < 1e-4);
    }

    #[test]
    fn settings_are_checked() {
        assert!(Augment::default().check().is_ok());
        assert!(Augment { window: 0.0, ..Augment::NONE }.check().is_err());
        assert!(Augment { flip: 1.5, ..Augment::NONE }.check().is_err());
        assert!(Augment { contrast: f64::NAN, ..Augment::NONE }.check().is_err());
    }
}
