//! A view of a picture: random resized crop, flip, and changes of colours, drawn first and applied then.

use kirie_data::{Image, resize_bicubic_part};
use kirie_engine::random::unit;
use rand::Rng;

use super::colour;
use crate::error::ContrastiveError;

/// Tries of a crop before the largest allowed one in the middle is taken.
const TRIES: usize = 10;
/// Ratios of width to height that a crop may have.
const RATIOS: [f64; 2] = [3.0 / 4.0, 4.0 / 3.0];
/// Standard deviations of the blur, pixels.
const SIGMAS: [f64; 2] = [0.1, 2.0];

/// How views of one kind are drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Transform {
    /// Side of the view, pixels.
    pub size: u32,
    /// Least and greatest share of the area that a crop takes; drawn evenly.
    pub scale: [f64; 2],
    /// Share of views that are mirrored left to right.
    pub flip: f64,
    /// Share of views whose colours are jittered.
    pub jitter: f64,
    /// Strength of that: brightness, contrast, saturation, and hue as a share of the circle.
    pub strength: [f64; 4],
    /// Share of views that become gray.
    pub grayscale: f64,
    /// Share of views that are blurred.
    pub blur: f64,
    /// Share of views whose bright values are turned round.
    pub solarize: f64,
}

/// What was drawn for a view.
#[derive(Clone, Debug, PartialEq)]
pub struct Drawn {
    /// Left, top, width and height of the crop, pixels of the frame.
    pub window: [u32; 4],
    /// Whether it is mirrored.
    pub flipped: bool,
    /// Changes of colours in their order.
    pub jitter: Vec<Jitter>,
    /// Whether it becomes gray.
    pub gray: bool,
    /// Standard deviation of its blur, pixels.
    pub sigma: Option<f64>,
    /// Whether bright values are turned round.
    pub solarized: bool,
}

/// One change of colours.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Jitter {
    /// Factor.
    Brightness(f64),
    /// Factor.
    Contrast(f64),
    /// Factor.
    Saturation(f64),
    /// Share of the circle.
    Hue(f64),
}

impl Transform {
    /// Draws a view of a frame of `size` = width and height, both at least 1.
    pub fn draw(&self, size: [u32; 2], rng: &mut impl Rng) -> Drawn {
        let window = random_window(size, self.scale, rng);
        let flipped = unit(rng) < self.flip;
        let jittered = unit(rng) < self.jitter;
        let factor = |strength: f64, rng: &mut _| {
            let least = (1.0 - strength).max(0.0);
            least + (1.0 + strength - least) * unit(rng)
        };
        let [brightness, contrast, saturation, hue] = self.strength;
        let mut jitter = vec![
            Jitter::Brightness(factor(brightness, rng)),
            Jitter::Contrast(factor(contrast, rng)),
            Jitter::Saturation(factor(saturation, rng)),
            Jitter::Hue(hue * (2.0 * unit(rng) - 1.0)),
        ];
        // Fisher and Yates.
        for i in (1..jitter.len()).rev() {
            jitter.swap(i, (unit(rng) * (i + 1) as f64) as usize);
        }
        let gray = unit(rng) < self.grayscale;
        let blurred = unit(rng) < self.blur;
        let sigma = SIGMAS[0] + (SIGMAS[1] - SIGMAS[0]) * unit(rng);
        let solarized = unit(rng) < self.solarize;
        Drawn {
            window,
            flipped,
            jitter: if jittered { jitter } else { Vec::new() },
            gray,
            sigma: blurred.then_some(sigma),
            solarized,
        }
    }

    /// Makes a drawn view: `[size, size]` pixels of red, green, blue. The frame's left and top in the picture are `origin`.
    ///
    /// # Errors
    /// If the window lies outside the picture.
    pub fn apply(&self, drawn: &Drawn, image: &Image, origin: [u32; 2]) -> Result<Vec<u8>, ContrastiveError> {
        let [x, y, width, height] = drawn.window;
        let part = [origin[0] + x, origin[1] + y, width, height];
        let mut pixels = resize_bicubic_part(image, part, self.size, self.size)?.into_raw();
        let side = self.size as usize;
        if drawn.flipped {
            for row in pixels.chunks_exact_mut(3 * side) {
                row.as_chunks_mut::<3>().0.reverse();
            }
        }
        for change in &drawn.jitter {
            match *change {
                Jitter::Brightness(factor) => colour::brightness(&mut pixels, factor as f32),
                Jitter::Contrast(factor) => colour::contrast(&mut pixels, factor as f32),
                Jitter::Saturation(factor) => colour::saturation(&mut pixels, factor as f32),
                Jitter::Hue(turn) => colour::hue(&mut pixels, turn),
            }
        }
        if drawn.gray {
            colour::grayscale(&mut pixels);
        }
        if let Some(sigma) = drawn.sigma {
            colour::blur(&mut pixels, side, sigma);
        }
        if drawn.solarized {
            colour::solarize(&mut pixels);
        }
        Ok(pixels)
    }
}

/// torchvision's `RandomResizedCrop.get_params`: left, top, width and height in a frame of `size` = width and height.
fn random_window([width, height]: [u32; 2], scale: [f64; 2], rng: &mut impl Rng) -> [u32; 4] {
    let (w, h) = (f64::from(width), f64::from(height));
    let place = |free: u32, rng: &mut _| (unit(rng) * (f64::from(free) + 1.0)) as u32;
    for _ in 0..TRIES {
        let area = w * h * (scale[0] + (scale[1] - scale[0]) * unit(rng));
        let [least, most] = RATIOS.map(f64::ln);
        let ratio = (least + (most - least) * unit(rng)).exp();
        let (wide, high) = ((area * ratio).sqrt().round() as u32, (area / ratio).sqrt().round() as u32);
        if (1..=width).contains(&wide) && (1..=height).contains(&high) {
            return [place(width - wide, rng), place(height - high, rng), wide, high];
        }
    }
    let ratio = w / h;
    let (wide, high) = if ratio < RATIOS[0] {
        (w, (w / RATIOS[0]).round())
    } else if ratio > RATIOS[1] {
        ((h * RATIOS[1]).round(), h)
    } else {
        (w, h)
    };
    let (wide, high) = ((wide as u32).clamp(1, width), (high as u32).clamp(1, height));
    [(width - wide) / 2, (height - high) / 2, wide, high]
}
