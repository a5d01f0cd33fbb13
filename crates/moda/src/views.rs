//! What is seen of a picture in training: a window of it, what to find there, and prompts that ask for it.
//!
//! A picture has a fixed, small number of windows: the whole, and some that are cut and mirrored at random. So what a frozen encoder
//! makes of them is computed once. (The published recipe draws a new window for every step, and runs the encoder every time.)

use kirie_data::Image;
use kirie_engine::random::unit;
use kirie_mask::{BBox, Mask};
use kirie_sam::predictor::{FrameScale, prepare};
use kirie_sam::prompt_encoder::{SparsePrompts, TokenLabel};
use kirie_sam::registry::Preprocess;
use rand::{Rng, RngExt};
use serde::{Deserialize, Serialize};

use crate::data::Picture;
use crate::error::ContinualError;

/// Points on the object that a view remembers, to draw prompts from.
const POINTS: usize = 64;
/// Points of a prompt by points, as CoSAM trains.
pub const POINTS_PER_PROMPT: usize = 10;
/// Logits that a mask prompt has on and off the object.
const MASK_LOGIT: f32 = 8.0;

/// How pictures are cut: `[augment]` of a configuration.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Augment {
    /// Windows of a picture, the whole included.
    pub views: usize,
    /// Share of the other windows that are mirrored left to right.
    pub flip: f64,
    /// The smallest side of a window over the picture's.
    pub smallest: f64,
}

impl Default for Augment {
    fn default() -> Self {
        Self { views: 4, flip: 0.5, smallest: 0.5 }
    }
}

impl Augment {
    /// Checks the numbers.
    pub fn check(&self) -> Result<(), ContinualError> {
        if !(1..=64).contains(&self.views) {
            return Err(ContinualError::setting("augment.views", self.views, "1 to 64"));
        }
        for (name, share) in [("augment.flip", self.flip), ("augment.smallest", self.smallest)] {
            if !(0.0..=1.0).contains(&share) {
                return Err(ContinualError::setting(name, share, "0 to 1"));
            }
        }
        Ok(())
    }
}

/// What is to be found in a view.
#[derive(Clone, Debug, PartialEq)]
pub struct Target {
    /// Share of each low-resolution place that the object covers, `side * side`; below 0 where nothing counts.
    pub cover: Vec<f32>,
    /// Left, top, right, bottom edge of the object, frame pixels.
    pub bbox: [f32; 4],
    /// Places on the object, frame pixels.
    pub points: Vec<[f32; 2]>,
}

/// A window of a picture, ready for the encoder.
#[derive(Clone, Debug)]
pub struct View {
    /// `[3, size, size]`, normalised and padded.
    pub pixels: Vec<f32>,
    /// Share of the width and of the height that is picture and not padding.
    pub extent: [f64; 2],
    /// What is to be found.
    pub target: Target,
}

/// The nth view of a picture; 0 is the whole of it. `side` is that of low-resolution masks.
///
/// # Errors
/// [`ContinualError::Picture`] for a picture without a foreground.
pub fn view(
    picture: &Picture,
    n: usize,
    augment: &Augment,
    preprocess: &Preprocess,
    side: usize,
    rng: &mut impl Rng,
) -> Result<View, ContinualError> {
    /// Windows with fewer pixels of the object are drawn again.
    const LEAST: u64 = 16;
    const TRIES: usize = 8;

    let (width, height) = (picture.image.width(), picture.image.height());
    let mut window = [0, 0, width, height];
    let mirrored = n > 0 && unit(rng) < augment.flip;
    for _ in 0..TRIES * usize::from(n > 0) {
        let share = augment.smallest + (1.0 - augment.smallest) * unit(rng);
        let cut = |length: u32| ((f64::from(length) * share).round() as u32).clamp(1, length);
        let (w, h) = (cut(width), cut(height));
        let (x, y) = (rng.random_range(0..=width - w), rng.random_range(0..=height - h));
        let inside = (y..y + h)
            .map(|row| {
                let row = &picture.mask.row(row as usize)[x as usize..(x + w) as usize];
                row.iter().filter(|pixel| **pixel).count() as u64
            })
            .sum::<u64>();
        if inside >= LEAST.min(picture.mask.area()) {
            window = [x, y, w, h];
            break;
        }
    }
    let image = cut(&picture.image, window, mirrored)?;
    let mask = cut_mask(&picture.mask, window, mirrored);
    let ignore = picture.ignore.as_ref().map(|ignore| cut_mask(ignore, window, mirrored));
    let target = target(&mask, ignore.as_ref(), preprocess, side, rng);
    let target = target.ok_or_else(|| ContinualError::Picture {
        name: picture.name.clone(),
        reason: "expected a foreground, found an empty mask".to_owned(),
    })?;
    let pixels = prepare(&image, preprocess)?.values;
    Ok(View { pixels, extent: extent(image.width(), image.height()), target })
}

/// Share of a square's width and height that a picture fills whose longer side is the square's.
pub fn extent(width: u32, height: u32) -> [f64; 2] {
    let longer = f64::from(width.max(height).max(1));
    [f64::from(width) / longer, f64::from(height) / longer]
}

fn cut(image: &Image, [x, y, w, h]: [u32; 4], mirrored: bool) -> Result<Image, ContinualError> {
    let part = image.crop(x, y, w, h)?;
    if !mirrored {
        return Ok(part);
    }
    let mut raw = part.into_raw();
    for row in raw.chunks_exact_mut(3 * w as usize) {
        let mirrored: Vec<u8> = row.chunks_exact(3).rev().flatten().copied().collect();
        row.copy_from_slice(&mirrored);
    }
    Ok(Image::from_raw(w, h, raw)?)
}

fn cut_mask(mask: &Mask, [x, y, w, h]: [u32; 4], mirrored: bool) -> Mask {
    let [x, y, w, h] = [x, y, w, h].map(|v| v as usize);
    Mask::from_fn(w, h, |column, row| mask.get(x + if mirrored { w - 1 - column } else { column }, y + row))
}

/// What is to be found of a mask; `None` if it is empty.
pub fn target(
    mask: &Mask,
    ignore: Option<&Mask>,
    preprocess: &Preprocess,
    side: usize,
    rng: &mut impl Rng,
) -> Option<Target> {
    /// Places a low-resolution place is looked at in each direction.
    const LOOKS: usize = 4;

    let BBox { x0, y0, x1, y1 } = mask.bbox()?;
    let (width, height) = (mask.width(), mask.height());
    let scale = FrameScale::new(preprocess, width as u32, height as u32);
    let [left, top] = scale.apply(x0, y0);
    // To the far side of the last pixel, as boxes are drawn everywhere else in training and evaluation.
    let [right, bottom] = scale.apply(x1 + 1.0, y1 + 1.0);
    let [frame_width, frame_height] = scale.apply(width as f64, height as f64).map(f64::from);
    let cell = f64::from(preprocess.frame) / side as f64;
    // Of each line of looks the pixel that it meets; none beyond the picture.
    let line = |extent: f64, pixels: usize| -> Vec<Option<usize>> {
        let place = |i: usize| (i as f64 + 0.5) / LOOKS as f64 * cell / extent * pixels as f64;
        (0..side * LOOKS).map(|i| Some(place(i) as usize).filter(|at| *at < pixels)).collect()
    };
    let (columns, rows) = (line(frame_width, width), line(frame_height, height));
    let mut cover = Vec::with_capacity(side * side);
    for rows in rows.chunks_exact(LOOKS) {
        for columns in columns.chunks_exact(LOOKS) {
            let (mut on, mut seen) = (0_u32, 0_u32);
            for y in rows.iter().flatten() {
                for x in columns.iter().flatten() {
                    if !ignore.is_some_and(|ignore| ignore.get(*x, *y)) {
                        seen += 1;
                        on += u32::from(mask.get(*x, *y));
                    }
                }
            }
            // Half a place beyond the picture's edge says nothing for sure.
            let counts = 2 * seen >= (LOOKS * LOOKS) as u32;
            cover.push(if counts { on as f32 / seen as f32 } else { -1.0 });
        }
    }
    let inside: Vec<usize> =
        mask.as_slice().iter().enumerate().filter(|(_, on)| **on).map(|(at, _)| at).collect();
    let points = (0..POINTS).map(|_| {
        let at = inside[rng.random_range(0..inside.len())];
        scale.apply((at % width) as f64 + 0.5, (at / width) as f64 + 0.5)
    });
    Some(Target { cover, bbox: [left, top, right, bottom], points: points.collect() })
}

/// A kind of prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PromptKind {
    /// The tight box.
    Box,
    /// [`POINTS_PER_PROMPT`] points on the object.
    Points,
    /// The mask at low resolution, with noise along its edge.
    NoisyMask,
}

impl PromptKind {
    /// Its name in files and reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Box => "box",
            Self::Points => "points",
            Self::NoisyMask => "noisy-mask",
        }
    }
}

/// Prompts of one kind, one for each target.
#[derive(Clone, Debug, Default)]
pub struct PromptValues {
    /// Points and boxes.
    pub sparse: SparsePrompts,
    /// Mask logits, `side * side` for each target.
    pub masks: Option<Vec<f32>>,
}

/// Draws prompts.
pub fn ask(kind: PromptKind, targets: &[&Target], side: usize, rng: &mut impl Rng) -> PromptValues {
    let mut values = PromptValues::default();
    let sparse = &mut values.sparse;
    match kind {
        PromptKind::Box => {
            sparse.tokens = 2;
            for Target { bbox: [x0, y0, x1, y1], .. } in targets {
                sparse.coords.extend([[*x0, *y0], [*x1, *y1]]);
                sparse.labels.extend([TokenLabel::BoxTopLeft, TokenLabel::BoxBottomRight]);
            }
        }
        PromptKind::Points => {
            // Points without a box are followed by one token of padding, as the predictor gives them.
            sparse.tokens = POINTS_PER_PROMPT + 1;
            for target in targets {
                for _ in 0..POINTS_PER_PROMPT {
                    sparse.coords.push(target.points[rng.random_range(0..target.points.len())]);
                    sparse.labels.push(TokenLabel::Positive);
                }
                sparse.coords.push([0.0; 2]);
                sparse.labels.push(TokenLabel::Padding);
            }
        }
        PromptKind::NoisyMask => {
            values.masks = Some(targets.iter().flat_map(|target| noisy(&target.cover, side, rng)).collect());
        }
    }
    values
}

/// The mask with noise where a coarser copy of it differs (CoSAM's noisy masks).
fn noisy(cover: &[f32], side: usize, rng: &mut impl Rng) -> Vec<f32> {
    const COARSE: usize = 8;
    let on = |x: usize, y: usize| f32::from(u8::from(cover[y * side + x] >= 0.5));
    let mean = |x: usize, y: usize| {
        let range = |at: usize| at / COARSE * COARSE..(at / COARSE * COARSE + COARSE).min(side);
        let sum: f32 = range(y).flat_map(|y| range(x).map(move |x| (x, y))).map(|(x, y)| on(x, y)).sum();
        sum / (range(x).len() * range(y).len()) as f32
    };
    (0..side * side)
        .map(|at| {
            let (x, y) = (at % side, at / side);
            let noise = if (on(x, y) - mean(x, y)).abs() >= 0.01 { normal(rng) } else { 0.0 };
            if on(x, y) + noise >= 0.5 { MASK_LOGIT } else { -MASK_LOGIT }
        })
        .collect()
}

/// A standard normal deviate (Box and Muller).
fn normal(rng: &mut impl Rng) -> f32 {
    let radius = (-2.0 * (1.0 - unit(rng)).ln()).sqrt();
    (radius * (2.0 * std::f64::consts::PI * unit(rng)).cos()) as f32
}

#[cfg(test)]
mod tests {
    use super::*;
    use kirie_engine::random::Streams;

    const PREPROCESS: Preprocess = Preprocess { size: 64, frame: 256, mean: [0.0; 3], std: [255.0; 3] };

    fn disc() -> Picture {
        let mask = Mask::from_fn(80, 40, |x, y| (x as f64 - 49.5).hypot(y as f64 - 19.5) < 10.0);
        let image = Image::from_raw(80, 40, vec![90; 80 * 40 * 3]).unwrap();
        Picture { name: "disc".to_owned(), image, mask, ignore: None }
    }

    #[test]
    fn the_whole_picture_shows_the_object_where_it_is() {
        let mut rng = Streams::new(1).stream("test", &[]);
        let view = view(&disc(), 0, &Augment::default(), &PREPROCESS, 16, &mut rng).unwrap();
        assert_eq!(view.extent, [1.0, 0.5]);
        // 80 pixels are 256 of the frame
        assert_eq!(view.target.bbox, [128.0, 32.0, 192.0, 96.0]);
        let cover = &view.target.cover;
        assert_eq!([cover[4 * 16 + 10], cover[0], cover[8 * 16]], [1.0, 0.0, -1.0]);
        // 5x5 pixels of the picture each
        let covered: f32 = cover.iter().filter(|c| **c > 0.0).sum();
        assert!((covered - 314.0 / 25.0).abs() < 1.5, "{covered}");
        for [x, y] in &view.target.points {
            assert!(((x / 3.2 - 50.0).hypot(y / 3.2 - 20.0)) < 10.5);
        }
    }

    #[test]
    fn other_windows_hold_some_of_it_and_repeat() {
        for n in 1..8 {
            let make = || {
                let mut rng = Streams::new(1).stream("view", &[n]);
                view(&disc(), n as usize, &Augment::default(), &PREPROCESS, 16, &mut rng).unwrap()
            };
            let (a, b) = (make(), make());
            assert_eq!((a.target.clone(), a.pixels), (b.target, b.pixels));
            assert!(a.target.cover.iter().any(|c| *c > 0.5));
        }
        let empty = Picture { mask: Mask::new(80, 40), ..disc() };
        let mut rng = Streams::new(1).stream("test", &[]);
        let error = view(&empty, 1, &Augment::default(), &PREPROCESS, 16, &mut rng).unwrap_err();
        assert_eq!(error.to_string(), "disc: expected a foreground, found an empty mask");
    }

    #[test]
    fn noise_stays_at_the_edge() {
        let cover: Vec<f32> =
            (0..32 * 32).map(|at| f32::from(u8::from(at % 32 >= 12 && at / 32 < 20))).collect();
        let mut rng = Streams::new(3).stream("test", &[]);
        let mask = noisy(&cover, 32, &mut rng);
        assert_eq!(mask.len(), 32 * 32);
        // Blocks of 8x8 that are all on or all off are as they were.
        assert!(mask[20] > 0.0 && mask[24 + 8 * 32] > 0.0 && mask[3] < 0.0 && mask[31 * 32 + 20] < 0.0);
        let wrong = mask.iter().zip(&cover).filter(|(m, c)| (**m > 0.0) != (**c > 0.5)).count();
        assert!((20..300).contains(&wrong), "{wrong}");
    }
}
