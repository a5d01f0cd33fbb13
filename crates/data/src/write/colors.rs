//! Colours for masks: as many as wanted, neighbours in the list far apart.

/// The colour of the mask at `index`, 8-bit sRGB.
///
/// Hues advance by the golden angle, so that any run of masks spreads over the whole circle, in the OKLCH space, where
/// equal steps look equal. Lightness goes through three levels, which parts hues that come close again later.
pub fn color(index: usize) -> [u8; 3] {
    const GOLDEN_ANGLE: f64 = 137.507_764;
    // The list starts at a clear blue, which few photographs have much of.
    let hue = (255.0 + GOLDEN_ANGLE * index as f64).to_radians();
    let lightness = [0.66, 0.78, 0.58][index % 3];
    // The strongest chroma that sRGB can show at this hue and lightness, up to a bound.
    let mut chroma = 0.22;
    loop {
        let rgb = oklch_to_linear_srgb(lightness, chroma, hue);
        if chroma <= 0.0 || rgb.iter().all(|v| (0.0..=1.0).contains(v)) {
            return rgb.map(gamma_encoded);
        }
        chroma -= 0.005;
    }
}

/// Björn Ottosson's OKLab, by way of its cone responses.
fn oklch_to_linear_srgb(lightness: f64, chroma: f64, hue: f64) -> [f64; 3] {
    let (a, b) = (chroma * hue.cos(), chroma * hue.sin());
    let l = (lightness + 0.396_337_777_4 * a + 0.215_803_757_3 * b).powi(3);
    let m = (lightness - 0.105_561_345_8 * a - 0.063_854_172_8 * b).powi(3);
    let s = (lightness - 0.089_484_177_5 * a - 1.291_485_548_0 * b).powi(3);
    [
        4.076_741_662_1 * l - 3.307_711_591_3 * m + 0.230_969_929_2 * s,
        -1.268_438_004_6 * l + 2.609_757_401_1 * m - 0.341_319_396_5 * s,
        -0.004_196_086_3 * l - 0.703_418_614_7 * m + 1.707_614_701_0 * s,
    ]
}

fn gamma_encoded(linear: f64) -> u8 {
    let v = linear.clamp(0.0, 1.0);
    let encoded = if v <= 0.003_130_8 { 12.92 * v } else { 1.055 * v.powf(1.0 / 2.4) - 0.055 };
    (encoded * 255.0).round() as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_colours_are_far_apart() {
        for i in 0..12 {
            for j in 0..i {
                let difference = |c: usize| i32::from(color(i)[c]) - i32::from(color(j)[c]);
                let distance = (0..3).map(|c| difference(c).pow(2)).sum::<i32>();
                assert!(distance > 50 * 50, "colours {i} {:?} and {j} {:?} are alike", color(i), color(j));
            }
        }
    }

    #[test]
    fn the_first_255_colours_differ_and_none_is_black() {
        let mut all: Vec<_> = (0..255).map(color).collect();
        all.push([0, 0, 0]);
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 256);
    }
}
