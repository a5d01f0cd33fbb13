//! Changes of colours on 8-bit pixels, as torchvision makes them through Pillow.
//!
//! Pixels are red, green, blue, one after the other. Blends are cut off, not rounded, and clipped to 0..255 after every one.

/// Brightness of a colour (ITU-R 601 in 16 fractional bits, Pillow's conversion to `L`).
fn luma([r, g, b]: [u8; 3]) -> u8 {
    ((19_595 * u32::from(r) + 38_470 * u32::from(g) + 7_471 * u32::from(b) + 0x8000) >> 16) as u8
}

/// `from` moved towards, or beyond, `to` by a factor.
fn blend(from: u8, to: u8, factor: f32) -> u8 {
    let from = f32::from(from);
    (from + factor * (f32::from(to) - from)).clamp(0.0, 255.0) as u8
}

/// Every value looked up.
fn map(pixels: &mut [u8], value: impl Fn(u8) -> u8) {
    let table: [u8; 256] = std::array::from_fn(|v| value(v as u8));
    for pixel in pixels {
        *pixel = table[usize::from(*pixel)];
    }
}

fn each(pixels: &mut [u8], change: impl Fn([u8; 3]) -> [u8; 3]) {
    for pixel in pixels.as_chunks_mut::<3>().0 {
        *pixel = change(*pixel);
    }
}

/// All colours times a factor.
pub fn brightness(pixels: &mut [u8], factor: f32) {
    map(pixels, |v| blend(0, v, factor));
}

/// Distance from the picture's mean gray times a factor.
pub fn contrast(pixels: &mut [u8], factor: f32) {
    let sum: u64 = pixels.as_chunks::<3>().0.iter().map(|pixel| u64::from(luma(*pixel))).sum();
    let mean = (sum as f64 / (pixels.len() / 3).max(1) as f64 + 0.5) as u8;
    map(pixels, |v| blend(mean, v, factor));
}

/// Distance from each pixel's gray times a factor.
pub fn saturation(pixels: &mut [u8], factor: f32) {
    each(pixels, |pixel| {
        let gray = luma(pixel);
        pixel.map(|v| blend(gray, v, factor))
    });
}

/// Hue turned by a share of the circle, from -0.5 to 0.5, in steps of 1/256.
pub fn hue(pixels: &mut [u8], turn: f64) {
    let steps = (turn * 255.0) as i32 as u8;
    if steps == 0 {
        return;
    }
    each(pixels, |pixel| {
        let [h, s, v] = to_hsv(pixel);
        from_hsv([h.wrapping_add(steps), s, v])
    });
}

/// Hue, saturation and value in 8 bits each (Pillow's conversion).
fn to_hsv([r, g, b]: [u8; 3]) -> [u8; 3] {
    let (highest, lowest) = (r.max(g).max(b), r.min(g).min(b));
    if highest == lowest {
        return [0, 0, highest];
    }
    let span = f32::from(highest - lowest);
    let away = |v: u8| f32::from(highest - v) / span;
    let sector = if r == highest {
        away(b) - away(g)
    } else if g == highest {
        2.0 + away(r) - away(b)
    } else {
        4.0 + away(g) - away(r)
    };
    let hue = (sector / 6.0 + 1.0).fract();
    [(hue * 255.0) as u8, (span / f32::from(highest) * 255.0) as u8, highest]
}

fn from_hsv([h, s, v]: [u8; 3]) -> [u8; 3] {
    if s == 0 {
        return [v; 3];
    }
    let (saturation, value) = (f32::from(s) / 255.0, f32::from(v));
    let place = f32::from(h) * 6.0 / 255.0;
    let within = place.fract();
    let scaled = |share: f32| (value * (1.0 - saturation * share)).round() as u8;
    let (p, q, t) = (scaled(1.0), scaled(within), scaled(1.0 - within));
    match place as u8 % 6 {
        0 => [v, t, p],
        1 => [q, v, p],
        2 => [p, v, t],
        3 => [p, q, v],
        4 => [t, p, v],
        _ => [v, p, q],
    }
}

/// Each pixel its gray.
pub fn grayscale(pixels: &mut [u8]) {
    each(pixels, |pixel| [luma(pixel); 3]);
}

/// Values of 128 and above turned round.
pub fn solarize(pixels: &mut [u8]) {
    map(pixels, |v| if v >= 128 { 255 - v } else { v });
}

/// A Gaussian of standard deviation `sigma`, pixels, cut at three of them; the picture's edge goes on outside. `width` is the length
/// of a row, pixels.
///
/// The published codes differ here: SimCLR takes a kernel of a tenth of the picture, the others Pillow's, which is three box filters.
pub fn blur(pixels: &mut [u8], width: usize, sigma: f64) {
    let radius = (3.0 * sigma).ceil().max(1.0) as usize;
    let row = 3 * width;
    let height = pixels.len() / row.max(1);
    if width == 0 || height == 0 {
        return;
    }
    let weight = |i: usize| (-0.5 * ((i as f64 - radius as f64) / sigma).powi(2)).exp();
    let all: f64 = (0..=2 * radius).map(weight).sum();
    let kernel: Vec<f32> = (0..=2 * radius).map(|i| (weight(i) / all) as f32).collect();
    let mut across = vec![0.0_f32; pixels.len()];
    let mut padded = vec![0.0_f32; row + 6 * radius];
    for (target, source) in across.chunks_exact_mut(row).zip(pixels.chunks_exact(row)) {
        let ends = (&source[..3], &source[row - 3..]);
        for (i, value) in padded.iter_mut().enumerate() {
            let at = i.wrapping_sub(3 * radius);
            let byte = match source.get(at) {
                Some(byte) => *byte,
                None if i < 3 * radius => ends.0[i % 3],
                None => ends.1[i % 3],
            };
            *value = f32::from(byte);
        }
        for (k, weight) in kernel.iter().enumerate() {
            for (sum, value) in target.iter_mut().zip(&padded[3 * k..]) {
                *sum += weight * value;
            }
        }
    }
    let mut sums = vec![0.0_f32; row];
    for (y, target) in pixels.chunks_exact_mut(row).enumerate() {
        sums.fill(0.0);
        for (k, weight) in kernel.iter().enumerate() {
            let from = (y + k).saturating_sub(radius).min(height - 1);
            for (sum, value) in sums.iter_mut().zip(&across[from * row..]) {
                *sum += weight * value;
            }
        }
        for (value, sum) in target.iter_mut().zip(&sums) {
            *value = (sum + 0.5) as u8;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changed(pixel: [u8; 3], change: impl Fn(&mut [u8])) -> [u8; 3] {
        let mut pixels = pixel;
        change(&mut pixels);
        pixels
    }

    #[test]
    fn one_changes_nothing_and_none_takes_all() {
        let pixel = [200, 30, 77];
        for change in [brightness, contrast, saturation] {
            assert_eq!(changed(pixel, |p| change(p, 1.0)), pixel);
        }
        assert_eq!(changed(pixel, |p| brightness(p, 0.0)), [0; 3]);
        assert_eq!(changed(pixel, |p| brightness(p, 0.5)), [100, 15, 38]);
        assert_eq!(changed(pixel, |p| brightness(p, 2.0)), [255, 60, 154]);
        let gray = changed(pixel, grayscale);
        // 0.299 * 200 + 0.587 * 30 + 0.114 * 77 = 86.19
        assert_eq!(gray, [86; 3]);
        assert_eq!(changed(pixel, |p| saturation(p, 0.0)), gray);
        assert_eq!(changed(pixel, |p| contrast(p, 0.0)), gray, "of one pixel, the mean is its gray");
        assert_eq!(changed([127, 128, 255], solarize), [127, 127, 0]);
    }

    #[test]
    fn hues_turn() {
        assert_eq!(changed([90, 90, 90], |p| hue(p, 0.3)), [90; 3]);
        assert_eq!(changed([200, 30, 77], |p| hue(p, 0.0)), [200, 30, 77]);
        // Red by a third is green, by minus a third blue.
        assert_eq!(changed([255, 0, 0], |p| hue(p, 1.0 / 3.0)), [0, 255, 0]);
        let blue = changed([255, 0, 0], |p| hue(p, -1.0 / 3.0));
        assert_eq!(blue, [6, 0, 255], "85 of 256 steps are not quite a third");
        // There and back, within what 8 bits lose.
        for i in 0..500_u32 {
            let pixel = [0, 8, 16].map(|shift| (i.wrapping_mul(2_654_435_761) >> shift) as u8);
            let back = from_hsv(to_hsv(pixel));
            let off = (0..3).map(|c| pixel[c].abs_diff(back[c])).max().unwrap();
            assert!(off <= 12, "{pixel:?} {back:?}");
        }
    }

    #[test]
    fn blurring_is_a_gaussian() {
        let mut flat = [77; 3 * 12 * 9];
        blur(&mut flat, 12, 1.7);
        assert_eq!(flat, [77; 3 * 12 * 9]);
        // A bright column: weights along the row.
        let mut pixels = [0; 3 * 15 * 5];
        for y in 0..5 {
            pixels[3 * (15 * y + 7) + 1] = 255;
        }
        blur(&mut pixels, 15, 1.0);
        let all: f64 = (-3..=3).map(|i: i32| (-0.5 * f64::from(i * i)).exp()).sum();
        for x in 0..15 {
            let away = x as i32 - 7;
            let expected =
                if away.abs() <= 3 { 255.0 * (-0.5 * f64::from(away * away)).exp() / all } else { 0.0 };
            let found = pixels[3 * (15 * 2 + x) + 1];
            assert!((f64::from(found) - expected).abs() <= 0.51, "{x}: {found} {expected}");
            assert_eq!([pixels[3 * (15 * 2 + x)], pixels[3 * (15 * 2 + x) + 2]], [0, 0]);
        }
        // So little that nothing changes.
        let mut sharp = [10, 20, 30, 200, 100, 0];
        blur(&mut sharp, 2, 0.1);
        assert_eq!(sharp, [10, 20, 30, 200, 100, 0]);
    }
}
