//! What the network sees of a picture in one step: resized, cut, turned, mirrored, recoloured, and its labels with it.
//!
//! ```text
//! picture, its own size --resize--> resized frame --window--> crop --turn, mirror--> view
//! ```
//!
//! A [`Geometry`] is drawn first; pixels and labels are then both looked up through it, so they cannot part.

use kirie_data::{Image, longest_side, resize_bilinear};
use kirie_engine::random::unit;
use kirie_sam::registry::Preprocess;
use rand::Rng;

use crate::config::{ColourConfig, InputConfig, Resize, SMALLEST_SIDE};
use crate::data::{LabelMap, Labelled};
use crate::error::SemanticError;

/// Crops drawn until one shows enough of several classes.
const TRIES: usize = 10;
/// Places a side at which a crop's labels are counted for that.
const LOOKED_AT: u32 = 48;
/// No side gets longer than this, pixels.
const LONGEST_SIDE: f64 = 16_384.0;

/// What the network sees of a picture.
#[derive(Clone, Debug, PartialEq)]
pub struct View {
    /// Height and width, pixels.
    pub size: [usize; 2],
    /// `[3, height, width]`, normalised; 0, which is the mean colour, where there is no picture.
    pub pixels: Vec<f32>,
    /// `[height, width]`: labels, [`LabelMap::IGNORE`] where there is no picture.
    pub labels: Vec<u8>,
}

/// Where every pixel of a view lies in its picture.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Geometry {
    /// Height and width of the picture, pixels.
    pub picture: [u32; 2],
    /// Height and width after resizing, pixels.
    pub resized: [u32; 2],
    /// Top and left of the window in the resized frame, pixels; below 0 where it is padded.
    pub window: [i64; 2],
    /// Height and width of the window and the view, pixels.
    pub size: [u32; 2],
    /// Whether the view is mirrored top to bottom, and left to right.
    pub mirrored: [bool; 2],
    /// How far the view is turned about its centre, radians.
    pub angle: f64,
}

impl Geometry {
    /// The centre of a view's pixel in the resized frame, as y and x; pixel (0, 0) there covers 0 to 1.
    pub fn place(&self, y: u32, x: u32) -> [f64; 2] {
        let [height, width] = self.size.map(f64::from);
        let mirror = |at: f64, length: f64, mirrored: bool| if mirrored { length - at } else { at };
        let v = mirror(f64::from(y) + 0.5, height, self.mirrored[0]);
        let u = mirror(f64::from(x) + 0.5, width, self.mirrored[1]);
        let (v, u) = if self.angle == 0.0 {
            (v, u)
        } else {
            let (sin, cos) = self.angle.sin_cos();
            let (dv, du) = (v - height / 2.0, u - width / 2.0);
            (height / 2.0 + cos * dv - sin * du, width / 2.0 + sin * dv + cos * du)
        };
        [v + self.window[0] as f64, u + self.window[1] as f64]
    }

    /// The picture's pixel under a place of the resized frame, as y and x; `None` outside the picture.
    pub fn picture_pixel(&self, place: [f64; 2]) -> Option<[u32; 2]> {
        let one = |i: usize| {
            let (at, length) = (place[i], f64::from(self.resized[i]));
            let inside = at >= 0.0 && at < length;
            // Through whole numbers of half pixels where nothing is turned, so that rounding cannot move a label.
            inside.then(|| ((at * f64::from(self.picture[i]) / length) as u32).min(self.picture[i] - 1))
        };
        Some([one(0)?, one(1)?])
    }
}

/// The size of a picture of `size` = height and width after resizing. `draw` are numbers from 0 (least) to 1 (greatest): for the
/// range, for the width where it is drawn apart, and for the multi-scale factor.
fn resized(input: &InputConfig, size: [u32; 2], draw: [f64; 3]) -> [u32; 2] {
    // The ends exactly, so that a fixed size is that size.
    let between = |[least, most]: [f64; 2], at: f64| match at {
        _ if least == most || at <= 0.0 => least,
        _ if at >= 1.0 => most,
        _ => (least.ln() + (most.ln() - least.ln()) * at).exp(),
    };
    let [height, width] = size;
    let [h, w] = match (&input.resize, input.keep_aspect) {
        (Resize::None, _) => size.map(f64::from),
        (Resize::Longest { side }, keep) => {
            let side = between(side.map(f64::from), draw[0]).round();
            if keep {
                let (w, h) = longest_side(width, height, side as u32);
                [h, w].map(f64::from)
            } else {
                [side, side]
            }
        }
        (Resize::Scale { factor }, keep) => {
            let along_width = if keep { draw[0] } else { draw[1] };
            [f64::from(height) * between(*factor, draw[0]), f64::from(width) * between(*factor, along_width)]
        }
        (Resize::Exact { size: exact }, true) => {
            let [high, wide] = exact.map(f64::from);
            let factor = (high / f64::from(height)).min(wide / f64::from(width));
            [f64::from(height) * factor, f64::from(width) * factor]
        }
        (Resize::Exact { size: exact }, false) => exact.map(f64::from),
    };
    let factor = between(input.multi_scale, draw[2]).min(LONGEST_SIDE / h.max(w));
    [h, w].map(|side| ((side * factor).round() as u32).max(1))
}

/// The size that a picture of `size` = height and width gets in a test, at `scale` times the set size.
pub(crate) fn test_size(resize: &Resize, keep_aspect: bool, scale: f64, size: [u32; 2]) -> [u32; 2] {
    let input = InputConfig {
        resize: resize.clone(),
        keep_aspect,
        multi_scale: [scale, scale],
        ..InputConfig::default()
    };
    resized(&input, size, [0.0; 3])
}

/// Whether the crop can be larger than a picture of `size` = height and width.
///
/// # Errors
/// [`SemanticError::CropTooLarge`] if so, and the configuration forbids padding.
pub(crate) fn is_padded(name: &str, size: [u32; 2], input: &InputConfig) -> Result<bool, SemanticError> {
    let Some(crop) = input.crop else { return Ok(false) };
    let least = resized(input, size, [0.0; 3]);
    let padded = (0..2).any(|i| crop[i] > least[i]);
    if padded && !input.pad {
        return Err(SemanticError::CropTooLarge { name: name.to_owned(), crop, size: least });
    }
    Ok(padded)
}

/// Draws where a view lies in its picture.
///
/// # Errors
/// [`SemanticError::CropTooLarge`].
pub fn draw_geometry(
    labelled: &Labelled,
    input: &InputConfig,
    rng: &mut impl Rng,
) -> Result<Geometry, SemanticError> {
    let picture = [labelled.image.height(), labelled.image.width()];
    let resized = resized(input, picture, [unit(rng), unit(rng), unit(rng)]);
    if let Some(crop) = input.crop
        && !input.pad
        && (0..2).any(|i| crop[i] > resized[i])
    {
        return Err(SemanticError::CropTooLarge { name: labelled.name.clone(), crop, size: resized });
    }
    // A picture of a few pixels is padded to what a network can take.
    let size = input.crop.unwrap_or_else(|| resized.map(|side| side.max(SMALLEST_SIDE)));
    let mirrored = [unit(rng) < input.flip_vertical, unit(rng) < input.flip];
    let angle = (2.0 * unit(rng) - 1.0) * input.rotate.to_radians();
    let mut geometry = Geometry { picture, resized, window: [0, 0], size, mirrored, angle };
    for _ in 0..TRIES {
        geometry.window = [0, 1].map(|i| {
            // Anywhere inside; where the window is larger, the picture anywhere in it.
            let free = i64::from(resized[i]) - i64::from(size[i]);
            let drawn = (unit(rng) * (free.unsigned_abs() + 1) as f64) as i64;
            if free >= 0 { drawn } else { -drawn }
        });
        if is_varied(&labelled.labels, &geometry, input.category_max_ratio) {
            break;
        }
    }
    Ok(geometry)
}

/// Whether no class takes more than its share of what the view shows.
fn is_varied(labels: &LabelMap, geometry: &Geometry, most: f64) -> bool {
    if most >= 1.0 {
        return true;
    }
    let mut counts = [0_u32; 256];
    let steps = geometry.size.map(|side| side.div_ceil(LOOKED_AT).max(1) as usize);
    for y in (0..geometry.size[0]).step_by(steps[0]) {
        for x in (0..geometry.size[1]).step_by(steps[1]) {
            if let Some(pixel) = geometry.picture_pixel(geometry.place(y, x)) {
                counts[usize::from(label_at(labels, pixel))] += 1;
            }
        }
    }
    counts[usize::from(LabelMap::IGNORE)] = 0;
    let (sum, largest) = (counts.iter().sum::<u32>(), counts.iter().max().copied().unwrap_or(0));
    f64::from(largest) < most * f64::from(sum)
}

fn label_at(labels: &LabelMap, [y, x]: [u32; 2]) -> u8 {
    let at = y as usize * labels.width as usize + x as usize;
    labels.labels.get(at).copied().unwrap_or(LabelMap::IGNORE)
}

/// Draws what the network sees of a picture.
///
/// # Errors
/// [`SemanticError::CropTooLarge`].
pub fn view(
    labelled: &Labelled,
    input: &InputConfig,
    preprocess: &Preprocess,
    rng: &mut impl Rng,
) -> Result<View, SemanticError> {
    let geometry = draw_geometry(labelled, input, rng)?;
    show(labelled, &geometry, &input.colour, preprocess, rng)
}

/// Looks a view's pixels and labels up.
///
/// # Errors
/// If the picture cannot be resized for want of memory.
pub fn show(
    labelled: &Labelled,
    geometry: &Geometry,
    colour: &ColourConfig,
    preprocess: &Preprocess,
    rng: &mut impl Rng,
) -> Result<View, SemanticError> {
    let [height, width] = geometry.resized;
    let image = resize_bilinear(&labelled.image, width, height)?;
    let recolour = Recolour::draw(colour, &image, rng);
    let size = geometry.size.map(|side| side as usize);
    let area = size[0] * size[1];
    let mut view = View { size, pixels: vec![0.0; 3 * area], labels: vec![LabelMap::IGNORE; area] };
    for y in 0..geometry.size[0] {
        for x in 0..geometry.size[1] {
            let place = geometry.place(y, x);
            let Some(pixel) = geometry.picture_pixel(place) else { continue };
            let at = y as usize * size[1] + x as usize;
            view.labels[at] = label_at(&labelled.labels, pixel);
            let rgb = if geometry.angle == 0.0 {
                pixel_at(&image, [place[0] as u32, place[1] as u32])
            } else {
                interpolated(&image, place)
            };
            let rgb = recolour.apply(rgb);
            for (channel, value) in rgb.into_iter().enumerate() {
                view.pixels[channel * area + at] =
                    (value - preprocess.mean[channel]) / preprocess.std[channel];
            }
        }
    }
    Ok(view)
}

fn pixel_at(image: &Image, [y, x]: [u32; 2]) -> [f32; 3] {
    let at = 3 * (y as usize * image.width() as usize + x as usize);
    std::array::from_fn(|channel| image.as_raw().get(at + channel).map_or(0.0, |value| f32::from(*value)))
}

/// The colour at a place between pixel centres; the picture's edge goes on outside.
fn interpolated(image: &Image, [y, x]: [f64; 2]) -> [f32; 3] {
    let (v, u) = (y - 0.5, x - 0.5);
    let (top, left) = (v.floor(), u.floor());
    let (down, right) = ((v - top) as f32, (u - left) as f32);
    let clamp = |at: f64, length: u32| at.clamp(0.0, f64::from(length - 1)) as u32;
    let corner = |dy: f64, dx: f64| {
        pixel_at(image, [clamp(top + dy, image.height()), clamp(left + dx, image.width())])
    };
    let corners = [corner(0.0, 0.0), corner(0.0, 1.0), corner(1.0, 0.0), corner(1.0, 1.0)];
    std::array::from_fn(|channel| {
        let [a, b, c, d] = corners.map(|rgb| rgb[channel]);
        let (above, below) = (a + (b - a) * right, c + (d - c) * right);
        above + (below - above) * down
    })
}

/// A change of colours, `rgb -> matrix * rgb + shift`, in units of 0 to 255.
#[derive(Clone, Copy, Debug)]
struct Recolour {
    matrix: [[f32; 3]; 3],
    shift: f32,
    identity: bool,
}

impl Recolour {
    /// Hue is turned about the gray axis, saturation scaled towards each pixel's brightness, contrast towards the picture's mean.
    fn draw(config: &ColourConfig, image: &Image, rng: &mut impl Rng) -> Self {
        const BRIGHTNESS: [f64; 3] = [0.299, 0.587, 0.114];

        // Drawn even if not used: what follows must not depend on whether colours change.
        let mut either_way = |strength: f64| strength * (2.0 * unit(rng) - 1.0);
        let shift = 255.0 * either_way(config.brightness);
        let contrast = 1.0 + either_way(config.contrast);
        let saturation = 1.0 + either_way(config.saturation);
        let (sin, cos) = either_way(config.hue).to_radians().sin_cos();
        let identity = *config == ColourConfig::default();
        let mean = if identity {
            0.0
        } else {
            let sum: u64 = image.as_raw().iter().map(|value| u64::from(*value)).sum();
            sum as f64 / image.as_raw().len().max(1) as f64
        };
        let (third, root) = ((1.0 - cos) / 3.0, sin / 3.0_f64.sqrt());
        let turn = [
            [cos + third, third - root, third + root],
            [third + root, cos + third, third - root],
            [third - root, third + root, cos + third],
        ];
        let matrix = std::array::from_fn(|row| {
            std::array::from_fn(|column| {
                let gray: f64 = (0..3).map(|k| BRIGHTNESS[k] * turn[k][column]).sum();
                (contrast * (saturation * turn[row][column] + (1.0 - saturation) * gray)) as f32
            })
        });
        Self { matrix, shift: (shift + (1.0 - contrast) * mean) as f32, identity }
    }

    fn apply(&self, rgb: [f32; 3]) -> [f32; 3] {
        if self.identity {
            return rgb;
        }
        self.matrix.map(|row| {
            let sum = row[0] * rgb[0] + row[1] * rgb[1] + row[2] * rgb[2];
            (sum + self.shift).clamp(0.0, 255.0)
        })
    }
}

/// Views of one size, as a network takes them.
#[derive(Clone, Debug, PartialEq)]
pub struct Stack {
    /// Views, height and width, pixels.
    pub shape: [usize; 3],
    /// `[views, 3, height, width]`.
    pub pixels: Vec<f32>,
    /// `[views, height, width]`.
    pub labels: Vec<u8>,
}

impl Stack {
    /// Puts views together; smaller ones are padded, right and below, to the largest height and width.
    pub fn of(views: &[View]) -> Self {
        let side = |i: usize| views.iter().map(|view| view.size[i]).max().unwrap_or(0);
        let (height, width) = (side(0), side(1));
        let area = height * width;
        let mut pixels = vec![0.0; views.len() * 3 * area];
        let mut labels = vec![LabelMap::IGNORE; views.len() * area];
        for (n, view) in views.iter().enumerate() {
            let [high, wide] = view.size;
            for row in 0..high {
                let (from, to) = (row * wide, row * width);
                labels[n * area + to..][..wide].copy_from_slice(&view.labels[from..from + wide]);
                for channel in 0..3 {
                    let source = &view.pixels[channel * high * wide + from..][..wide];
                    pixels[(3 * n + channel) * area + to..][..wide].copy_from_slice(source);
                }
            }
        }
        Self { shape: [views.len(), height, width], pixels, labels }
    }
}

#[cfg(test)]
mod tests;
