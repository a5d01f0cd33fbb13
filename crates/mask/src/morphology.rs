//! Erosion, dilation and the boundary band of Boundary IoU.
//!
//! Windows are squares, so they are done as one pass over the rows and one over the columns, each with a
//! running count: the time depends on the pixels, not on the radius.

use crate::Mask;

/// The pixels whose whole square of `2 * radius + 1` pixels a side is foreground. What lies outside the
/// frame counts as background, so foreground at the border is eroded from there as well.
pub fn erode(mask: &Mask, radius: usize) -> Mask {
    let radius = sufficient_radius(mask, radius);
    with_at_least(mask, radius, 2 * radius + 1)
}

/// The pixels whose square of `2 * radius + 1` pixels a side holds any foreground.
pub fn dilate(mask: &Mask, radius: usize) -> Mask {
    with_at_least(mask, sufficient_radius(mask, radius), 1)
}

/// The band along a mask's inner edge that Boundary IoU compares (Cheng et al. 2021): the mask without its
/// erosion by `d = max(1, round(dilation_ratio * diagonal))` pixels, the border of the picture counted as
/// background.
///
/// The paper erodes `d` times by a square of 3 x 3, which is once by a square of `2 d + 1`. Its ratio for COCO
/// is 0.02. Halves round to even, as in its Python; a ratio that is negative or NaN gives `d = 1`.
pub fn boundary(mask: &Mask, dilation_ratio: f64) -> Mask {
    let diagonal = (mask.width() as f64).hypot(mask.height() as f64);
    // A cast from float saturates: negative and NaN become 0.
    let distance = ((dilation_ratio * diagonal).round_ties_even() as usize).max(1);
    let mut band = erode(mask, distance);
    for (pixel, &inside) in band.as_mut_slice().iter_mut().zip(mask.as_slice()) {
        *pixel = inside && !*pixel;
    }
    band
}

/// A radius no longer than the frame, beyond which nothing changes and sums could overflow.
fn sufficient_radius(mask: &Mask, radius: usize) -> usize {
    radius.min(mask.width().max(mask.height()))
}

/// Keeps pixels with at least `needed` foreground pixels within `radius` in their row, then in their column.
fn with_at_least(mask: &Mask, radius: usize, needed: usize) -> Mask {
    let (width, height) = (mask.width(), mask.height());
    let mut rows = Mask::new(width, height);
    if width == 0 {
        return rows;
    }
    for (y, out) in rows.as_mut_slice().chunks_mut(width).enumerate() {
        let row = mask.row(y);
        let mut count = row.iter().take(radius).filter(|&&p| p).count();
        for x in 0..width {
            count += usize::from(row.get(x + radius) == Some(&true));
            out[x] = count >= needed;
            count -= usize::from(x >= radius && row[x - radius]);
        }
    }

    let mut both = Mask::new(width, height);
    let mut counts = vec![0usize; width];
    let add = |counts: &mut [usize], y: usize| {
        counts.iter_mut().zip(rows.row(y)).for_each(|(count, &p)| *count += usize::from(p));
    };
    (0..radius).for_each(|y| add(&mut counts, y));
    for (y, out) in both.as_mut_slice().chunks_mut(width).enumerate() {
        add(&mut counts, y + radius);
        for (pixel, &count) in out.iter_mut().zip(&counts) {
            *pixel = count >= needed;
        }
        if y >= radius {
            counts.iter_mut().zip(rows.row(y - radius)).for_each(|(count, &p)| *count -= usize::from(p));
        }
    }
    both
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mask::art;

    #[test]
    fn erosion_takes_the_border_too() {
        let mask = art(&["####.", "####.", "####.", "....."]);
        assert_eq!(erode(&mask, 1), art(&[".....", ".##..", ".....", "....."]));
        assert_eq!(erode(&mask, 0), mask);
        assert_eq!(erode(&mask, usize::MAX).area(), 0);
    }

    #[test]
    fn dilation_grows_squares() {
        let mask = art(&[".....", "..#..", ".....", "....."]);
        assert_eq!(dilate(&mask, 1), art(&[".###.", ".###.", ".###.", "....."]));
        assert_eq!(dilate(&mask, 0), mask);
        assert_eq!(dilate(&mask, usize::MAX).area(), 20);
        assert_eq!(dilate(&Mask::new(5, 4), usize::MAX).area(), 0);
    }

    #[test]
    fn frames_without_pixels() {
        for (w, h) in [(0, 0), (0, 3), (3, 0)] {
            let mask = Mask::new(w, h);
            assert_eq!(erode(&mask, 1), mask);
            assert_eq!(dilate(&mask, 1), mask);
            assert_eq!(boundary(&mask, 0.02), mask);
        }
    }

    #[test]
    fn the_band_is_as_wide_as_the_diagonal_says() {
        let full = Mask::from_fn(30, 40, |_, _| true);
        // Diagonal 50: 0.02 gives 1, 0.05 gives 2.5 and so, to even, 2, 0.07 gives 3.5 and so 4.
        let band = |d: u64| 30 * 40 - (30 - 2 * d) * (40 - 2 * d);
        assert_eq!(boundary(&full, 0.02).area(), band(1));
        assert_eq!(boundary(&full, 0.05).area(), band(2));
        assert_eq!(boundary(&full, 0.07).area(), band(4));
        for ratio in [0.0, -1.0, f64::NAN] {
            assert_eq!(boundary(&full, ratio).area(), band(1));
        }
        assert_eq!(boundary(&full, f64::INFINITY), full);
    }
}
