//! Resizing exactly as Pillow's `Image.resize(size, Image.BILINEAR)` does on 8-bit pictures, which is what the
//! reference preprocessing of the Segment Anything family uses; and as `Image.BICUBIC`, which random crops use.
//!
//! The rule: a triangle (or cubic) filter that widens when shrinking; columns first, then rows, with 8-bit values between; per
//! output pixel the weights are normalised in double precision and rounded to 22 fractional bits; sums are rounded
//! half up. An axis whose length does not change is not filtered. The tests hold results of Pillow itself.
//!
//! "Pillow" means every version up to 12.1, which the published models were trained and measured with. Later ones
//! filter the rows first for some shapes (12.2: over 100 times as tall as wide; 13: many that grow shorter), which
//! was seen to change values by one gray level.
//!
//! `fast_image_resize` 6.1 is not bit-equal: of the 64 cases in the tests it gave 21.

use rayon::prelude::*;

use crate::{DataError, Image};

/// Fractional bits of a weight: 32, less 8 for the pixel and 2 to spare, as in Pillow.
const WEIGHT_BITS: u32 = 22;

/// Resizes to `width` x `height` pixels; bit-equal to Pillow (see the module's text).
///
/// # Errors
/// [`DataError::ZeroSize`] for a side of 0, [`DataError::TooLarge`] when there is no memory for the result.
pub fn resize_bilinear(image: &Image, width: u32, height: u32) -> Result<Image, DataError> {
    resize(Part::whole(image), [width, height], Filter::Triangle, true)
}

/// The same with the cubic filter, by the thread that asks: for many small views, which are made side by side.
///
/// # Errors
/// As [`resize_bilinear`].
pub fn resize_bicubic(image: &Image, width: u32, height: u32) -> Result<Image, DataError> {
    resize(Part::whole(image), [width, height], Filter::Cubic, false)
}

/// Resizes a part of a picture (left, top, width, height) as if it had been cut out before, without cutting it out.
///
/// # Errors
/// As [`Image::crop`] and [`resize_bicubic`].
pub fn resize_bicubic_part(
    image: &Image,
    part: [u32; 4],
    width: u32,
    height: u32,
) -> Result<Image, DataError> {
    resize(Part::new(image, part)?, [width, height], Filter::Cubic, false)
}

/// A part of a picture, where it lies.
#[derive(Clone, Copy)]
struct Part<'a> {
    /// From its first byte to its last, with what lies between its rows.
    pixels: &'a [u8],
    /// Bytes from the start of a row to that of the next.
    stride: usize,
    width: u32,
    height: u32,
}

impl<'a> Part<'a> {
    fn whole(image: &'a Image) -> Self {
        let stride = 3 * image.width() as usize;
        Self { pixels: image.as_raw(), stride, width: image.width(), height: image.height() }
    }

    fn new(image: &'a Image, [x, y, width, height]: [u32; 4]) -> Result<Self, DataError> {
        image.check_part([x, y, width, height])?;
        let stride = 3 * image.width() as usize;
        let start = y as usize * stride + 3 * x as usize;
        let end = start + (height as usize - 1) * stride + 3 * width as usize;
        Ok(Self { pixels: &image.as_raw()[start..end], stride, width, height })
    }

    /// Bytes of a row.
    fn row(&self) -> usize {
        3 * self.width as usize
    }

    fn copied(&self) -> Result<Image, DataError> {
        let mut pixels = Vec::with_capacity(self.row() * self.height as usize);
        for row in self.pixels.chunks(self.stride) {
            pixels.extend_from_slice(&row[..self.row()]);
        }
        Image::from_raw(self.width, self.height, pixels)
    }
}

/// What a source pixel weighs by its distance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Filter {
    Triangle,
    /// Keys' cubic with a = -0.5.
    Cubic,
}

impl Filter {
    /// How far it reaches, output pixels.
    fn support(self) -> f64 {
        match self {
            Self::Triangle => 1.0,
            Self::Cubic => 2.0,
        }
    }

    fn weight(self, distance: f64) -> f64 {
        const A: f64 = -0.5;
        let x = distance.abs();
        match self {
            Self::Triangle => (1.0 - x).max(0.0),
            Self::Cubic if x < 1.0 => ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0,
            Self::Cubic if x < 2.0 => (((x - 5.0) * x + 8.0) * x - 4.0) * A,
            Self::Cubic => 0.0,
        }
    }
}

/// `parallel` says whether rows are shared out among rayon's threads.
fn resize(
    part: Part<'_>,
    [width, height]: [u32; 2],
    filter: Filter,
    parallel: bool,
) -> Result<Image, DataError> {
    if width == 0 || height == 0 {
        return Err(DataError::ZeroSize { width, height });
    }
    let narrowed;
    let mut source = part;
    if width != source.width {
        narrowed = resize_columns(source, width, filter, parallel)?;
        source = Part::whole(&narrowed);
    }
    if height == source.height {
        return source.copied();
    }
    resize_rows(source, height, filter, parallel)
}

/// The size of a `width` x `height` picture scaled so that its longer side is `target`: each side rounded half up
/// and at least 1.
///
/// The reference gives 0 for the short side of extreme shapes and then fails; hence the lower bound.
pub fn longest_side(width: u32, height: u32, target: u32) -> (u32, u32) {
    let scale = f64::from(target) / f64::from(width.max(height));
    let scaled = |side: u32| ((f64::from(side) * scale + 0.5) as u32).max(1);
    (scaled(width), scaled(height))
}

/// For every output position of one axis: where its window of source positions starts, and the weights in it.
struct Windows {
    starts: Vec<usize>,
    /// `ends[i]` is where the weights of output position i end in `weights`; they start where those of i - 1 end.
    ends: Vec<usize>,
    weights: Vec<i32>,
}

impl Windows {
    /// Windows of a filter from `source` to `target` positions, both at least 1.
    ///
    /// The arithmetic repeats Pillow's `precompute_coeffs` step by step, because the last bit depends on the order.
    fn new(source: u32, target: u32, filter: Filter) -> Self {
        let scale = f64::from(source) / f64::from(target);
        let widened = scale.max(1.0);
        let support = filter.support() * widened;
        let per_pixel = 1.0 / widened;
        let mut windows = Self { starts: Vec::new(), ends: Vec::new(), weights: Vec::new() };
        let mut window = Vec::new();
        for position in 0..target {
            let center = (f64::from(position) + 0.5) * scale;
            let start = (center - support + 0.5).max(0.0) as u32;
            let end = ((center + support + 0.5) as u32).min(source);
            window.clear();
            window.extend((start..end).map(|k| {
                let distance = (f64::from(k) - center + 0.5) * per_pixel;
                filter.weight(distance)
            }));
            let total: f64 = window.iter().sum();
            // Rounded half away from zero, as a cast in C does it.
            let fixed = |w: f64| (w / total * f64::from(1_u32 << WEIGHT_BITS) + 0.5_f64.copysign(w)) as i32;
            windows.starts.push(start as usize);
            windows.weights.extend(window.iter().map(|&w| fixed(w)));
            windows.ends.push(windows.weights.len());
        }
        windows
    }

    /// Start of the window and its weights, for every output position.
    fn iter(&self) -> impl Iterator<Item = (usize, &[i32])> {
        let mut from = 0;
        self.starts.iter().zip(&self.ends).map(move |(&start, &end)| {
            let weights = &self.weights[from..end];
            from = end;
            (start, weights)
        })
    }
}

/// Rounds a weighted sum to a pixel value. Weights add up to 1 but for rounding, those of the cubic filter's lobes to -0.15 or so,
/// and 32 bits hold every sum (1.3 * 255 * 2^22).
fn round(sum: i32) -> u8 {
    (sum >> WEIGHT_BITS).clamp(0, 255) as u8
}

const HALF: i32 = 1 << (WEIGHT_BITS - 1);

fn resize_columns(part: Part<'_>, width: u32, filter: Filter, parallel: bool) -> Result<Image, DataError> {
    let windows = Windows::new(part.width, width, filter);
    let target_row = width as usize * 3;
    let mut pixels = buffer(width, part.height)?;
    let narrow = |(target, source): (&mut [u8], &[u8])| {
        for (out, (start, weights)) in target.as_chunks_mut::<3>().0.iter_mut().zip(windows.iter()) {
            let mut sum = [HALF; 3];
            let window = &source[start * 3..(start + weights.len()) * 3];
            for (pixel, &weight) in window.as_chunks::<3>().0.iter().zip(weights) {
                for (sum, &value) in sum.iter_mut().zip(pixel) {
                    *sum += weight * i32::from(value);
                }
            }
            *out = sum.map(round);
        }
    };
    // The last row of a part ends where its pixels do, before the next would start.
    if parallel {
        pixels.par_chunks_exact_mut(target_row).zip(part.pixels.par_chunks(part.stride)).for_each(narrow);
    } else {
        pixels.chunks_exact_mut(target_row).zip(part.pixels.chunks(part.stride)).for_each(narrow);
    }
    Image::from_raw(width, part.height, pixels)
}

fn resize_rows(part: Part<'_>, height: u32, filter: Filter, parallel: bool) -> Result<Image, DataError> {
    let windows = Windows::new(part.height, height, filter);
    let windows: Vec<(usize, &[i32])> = windows.iter().collect();
    let row = part.row();
    let mut pixels = buffer(part.width, height)?;
    let lower = |sums: &mut Vec<i32>, (target, (start, weights)): (&mut [u8], (usize, &[i32]))| {
        sums.fill(HALF);
        let window = &part.pixels[start * part.stride..];
        for (source, &weight) in window.chunks(part.stride).zip(weights) {
            for (sum, &value) in sums.iter_mut().zip(&source[..row]) {
                *sum += weight * i32::from(value);
            }
        }
        for (out, &sum) in target.iter_mut().zip(sums.iter()) {
            *out = round(sum);
        }
    };
    // One row of sums per thread, so that the inner loop runs along a row.
    if parallel {
        pixels.par_chunks_exact_mut(row).zip(windows).for_each_init(|| vec![0; row], lower);
    } else {
        let mut sums = vec![0; row];
        pixels.chunks_exact_mut(row).zip(windows).for_each(|job| lower(&mut sums, job));
    }
    Image::from_raw(part.width, height, pixels)
}

/// Room for the pixels of a `width` x `height` picture, or an error where there is none.
fn buffer(width: u32, height: u32) -> Result<Vec<u8>, DataError> {
    let bytes = u128::from(width) * u128::from(height) * 3;
    let no_room = || DataError::TooLarge {
        name: "resized picture".to_owned(),
        found: format!("{width}x{height} pixels ({bytes} bytes)"),
        limit: "the memory there is".to_owned(),
    };
    let length = usize::try_from(bytes).map_err(|_| no_room())?;
    let mut pixels = Vec::new();
    pixels.try_reserve_exact(length).map_err(|_| no_room())?;
    pixels.resize(length, 0);
    Ok(pixels)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn longest_side_equals_the_reference() {
        for (size, by_1024, by_512) in [
            ((2250, 1500), (1024, 683), (512, 341)),
            ((800, 534), (1024, 684), (512, 342)),
            ((640, 480), (1024, 768), (512, 384)),
            ((500, 333), (1024, 682), (512, 341)),
            ((1920, 1080), (1024, 576), (512, 288)),
            ((3000, 1), (1024, 1), (512, 1)),
        ] {
            assert_eq!(longest_side(size.0, size.1, 1024), by_1024);
            assert_eq!(longest_side(size.0, size.1, 512), by_512);
            assert_eq!(longest_side(size.1, size.0, 1024), (by_1024.1, by_1024.0));
        }
        assert_eq!(longest_side(0, 0, 1024), (1, 1));
    }

    #[test]
    fn weights_are_normalised() {
        for (source, target) in [(1, 7), (7, 1), (1000, 3), (3, 1000), (65_535, 2)] {
            for filter in [Filter::Triangle, Filter::Cubic] {
                for (start, weights) in Windows::new(source, target, filter).iter() {
                    assert!(!weights.is_empty() && start + weights.len() <= source as usize);
                    let total: i32 = weights.iter().sum();
                    assert!(total.abs_diff(1 << WEIGHT_BITS) <= weights.len() as u32);
                }
            }
        }
    }

    /// A part is resized as if it had been cut out, whichever sides change, at any edge of the picture.
    #[test]
    fn parts_are_resized_where_they_lie() {
        let raw = (0..37 * 29 * 3_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        let image = Image::from_raw(37, 29, raw).expect("37 by 29 pixels");
        for part in [[0, 0, 37, 29], [0, 0, 5, 7], [32, 22, 5, 7], [36, 28, 1, 1], [3, 11, 20, 16]] {
            let [x, y, w, h] = part;
            let cut = image.crop(x, y, w, h).expect("it lies inside");
            for (width, height) in [(8, 8), (w, 9), (9, h), (w, h), (64, 64), (1, 1)] {
                let found = resize_bicubic_part(&image, part, width, height).expect("room for it");
                assert!(
                    found == resize_bicubic(&cut, width, height).expect("room for it"),
                    "{part:?}, {width}x{height}"
                );
            }
        }
        for outside in [[0, 0, 38, 1], [37, 0, 1, 1], [0, 0, 0, 5], [1, 1, u32::MAX, 2]] {
            assert!(resize_bicubic_part(&image, outside, 8, 8).is_err(), "{outside:?}");
        }
    }

    /// By the definition, in double precision: within a gray level, since values are rounded between columns and rows.
    #[test]
    fn cubic_is_its_definition() {
        let value = |x: u32, y: u32, c: u32| ((x * 37 + y * 91 + c * 53 + x * y) % 256) as u8;
        let raw = (0..23 * 31 * 3).map(|i| value(i / 3 % 23, i / 69, i % 3)).collect();
        let image = Image::from_raw(23, 31, raw).expect("23 by 31 pixels");
        let taps = |source: u32, target: u32, at: u32| -> Vec<(u32, f64)> {
            let scale = f64::from(source) / f64::from(target);
            let centre = (f64::from(at) + 0.5) * scale;
            let weight = |k: u32| Filter::Cubic.weight((f64::from(k) + 0.5 - centre) / scale.max(1.0));
            let all: f64 = (0..source).map(weight).sum();
            (0..source).map(|k| (k, weight(k) / all)).collect()
        };
        for (width, height) in [(8, 8), (23, 10), (46, 40), (5, 64)] {
            let found = resize_bicubic(&image, width, height).expect("room for it");
            for (x, y, c) in (0..width * height * 3).map(|i| (i / 3 % width, i / 3 / width, i % 3)) {
                let sum: f64 = taps(31, height, y)
                    .iter()
                    .map(|(v, across)| {
                        let row: f64 =
                            taps(23, width, x).iter().map(|(u, w)| w * f64::from(value(*u, *v, c))).sum();
                        across * row.round().clamp(0.0, 255.0)
                    })
                    .sum();
                let got = found.as_raw()[((y * width + x) * 3 + c) as usize];
                assert!((f64::from(got) - sum.clamp(0.0, 255.0)).abs() <= 1.0, "{x}, {y}, {c}: {got} {sum}");
            }
        }
    }
}
