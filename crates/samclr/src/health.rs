//! Whether a run learns: figures that need no labels.

use serde::Serialize;

use crate::spectrum::{Symmetric, eigenvalues, widest};

/// Figures of a batch's projections.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Health {
    /// Standard deviation of a normalised projection's numbers over the batch, times the root of their count: about 1 where
    /// projections spread over the sphere, 0 where all are alike (collapse).
    pub spread: f64,
    /// Mean squared distance of the two views of a sample, both of length 1: lower is more alike (Wang and Isola 2020).
    pub alignment: f64,
    /// Logarithm of the mean of `e^(-2 d^2)` over the distances d of different samples: lower is more even (the same).
    pub uniformity: f64,
    /// Share of samples whose other view is the nearest of all other views of the batch.
    pub top1: f64,
}

/// Figures of the first two views of a batch: `first` and `second` are rows of `width` numbers; they need not be normalised.
pub fn health(first: &[f32], second: &[f32], width: usize) -> Health {
    let (a, b) = (unit_rows(first, width), unit_rows(second, width));
    let samples = a.len().min(b.len());
    let distance = |x: &[f64], y: &[f64]| -> f64 { x.iter().zip(y).map(|(p, q)| (p - q).powi(2)).sum() };
    let (mut alignment, mut potential, mut pairs, mut right) = (0.0, 0.0, 0_usize, 0_usize);
    for i in 0..samples {
        let own = distance(&a[i], &b[i]);
        alignment += own;
        let mut nearest = true;
        for j in (0..samples).filter(|j| *j != i) {
            nearest &= distance(&a[i], &b[j]) > own && distance(&a[i], &a[j]) > own;
            if j > i {
                potential += (-2.0 * distance(&a[i], &a[j])).exp();
                pairs += 1;
            }
        }
        right += usize::from(nearest);
    }
    let count = samples.max(1) as f64;
    Health {
        spread: spread(first, width) * (width as f64).sqrt(),
        alignment: alignment / count,
        uniformity: (potential / pairs.max(1) as f64).ln(),
        top1: right as f64 / count,
    }
}

/// Standard deviation (with n - 1) of each number of rows of length 1, the mean over the numbers (lightly's
/// `std_of_l2_normalized`).
pub fn spread(rows: &[f32], width: usize) -> f64 {
    let rows = unit_rows(rows, width);
    let n = rows.len() as f64;
    if rows.len() < 2 {
        return 0.0;
    }
    let deviation = |c: usize| {
        let mean = rows.iter().map(|row| row[c]).sum::<f64>() / n;
        (rows.iter().map(|row| (row[c] - mean).powi(2)).sum::<f64>() / (n - 1.0)).sqrt()
    };
    (0..width).map(deviation).sum::<f64>() / width.max(1) as f64
}

/// Rows of length 1.
pub(crate) fn unit_rows(rows: &[f32], width: usize) -> Vec<Vec<f64>> {
    let unit = |row: &[f32]| {
        let length = row.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt().max(1e-12);
        row.iter().map(|v| f64::from(*v) / length).collect()
    };
    rows.chunks_exact(width.max(1)).map(unit).collect()
}

/// How many directions features really use: e to the entropy of their singular values' shares (RankMe, Garrido et al. 2023). From 1
/// to the features' length.
pub fn rank_me(features: &[f32], width: usize) -> f64 {
    let values: Vec<f64> =
        eigenvalues(gram(features, width, false)).into_iter().map(|value| value.max(0.0).sqrt()).collect();
    let sum: f64 = values.iter().sum();
    if sum <= 0.0 {
        return 1.0;
    }
    let entropy: f64 = values
        .iter()
        .map(|value| value / sum)
        .filter(|share| *share > 0.0)
        .map(|share| -share * share.ln())
        .sum();
    entropy.exp()
}

/// Features along their two widest directions (principal components), and the share of all variance that these hold.
pub fn principal_plane(features: &[f32], width: usize) -> (Vec<[f64; 2]>, [f64; 2]) {
    let gram = gram(features, width, true);
    let all = gram.trace().max(1e-300);
    let directions = widest(&gram, 2);
    let mean = mean(features, width);
    let along = |row: &[f32], i: usize| -> f64 {
        let Some((_, direction)) = directions.get(i) else { return 0.0 };
        row.iter().zip(&mean).zip(direction).map(|((v, m), d)| (f64::from(*v) - m) * d).sum()
    };
    let share = |i: usize| directions.get(i).map_or(0.0, |(value, _)| value / all);
    let rows = features.chunks_exact(width.max(1));
    (rows.map(|row| [along(row, 0), along(row, 1)]).collect(), [share(0), share(1)])
}

fn mean(features: &[f32], width: usize) -> Vec<f64> {
    let rows = features.len() / width.max(1);
    let mut mean = vec![0.0; width];
    for row in features.chunks_exact(width.max(1)) {
        for (sum, value) in mean.iter_mut().zip(row) {
            *sum += f64::from(*value) / rows.max(1) as f64;
        }
    }
    mean
}

/// Sums of products of the features' numbers, `[width, width]`.
fn gram(features: &[f32], width: usize, centred: bool) -> Symmetric {
    let mean = if centred { mean(features, width) } else { vec![0.0; width] };
    let mut gram = Symmetric::zeros(width);
    let mut centred_row = vec![0.0; width];
    for row in features.chunks_exact(width.max(1)) {
        for ((value, feature), mean) in centred_row.iter_mut().zip(row).zip(&mean) {
            *value = f64::from(*feature) - mean;
        }
        gram.add_product(&centred_row);
    }
    gram
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spread_of_the_reference() {
        let a = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.8, 0.6, 0.0, 0.0, 0.6, 0.8];
        assert!((spread(&a, 3) - 0.446101).abs() < 1e-6, "{}", spread(&a, 3));
        assert!(spread(&[0.3; 12], 3) < 1e-9);
    }

    #[test]
    fn health_of_four_corners() {
        let first = [1.0, 0.0, 0.0, 2.0, -1.0, 0.0, 0.0, -3.0];
        let same = health(&first, &first, 2);
        assert_eq!((same.alignment, same.top1), (0.0, 1.0));
        // Distances squared are 2 (four pairs) and 4 (two pairs).
        let expected = ((4.0 * (-4.0_f64).exp() + 2.0 * (-8.0_f64).exp()) / 6.0).ln();
        assert!((same.uniformity - expected).abs() < 1e-9);
        let turned = [0.0, 1.0, -1.0, 0.0, 0.0, -1.0, 1.0, 0.0];
        let other = health(&first, &turned, 2);
        assert_eq!(other.top1, 0.0);
        assert!((other.alignment - 2.0).abs() < 1e-4);
        let collapsed = health(&[1.0; 8], &[1.0; 8], 2);
        assert_eq!((collapsed.uniformity, collapsed.top1), (0.0, 0.0));
        assert!(collapsed.spread < 1e-9);
    }

    #[test]
    fn rank_is_that_of_the_directions_used() {
        let square: Vec<f32> = vec![1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0];
        assert!((rank_me(&square, 3) - 2.0).abs() < 1e-4);
        assert!((rank_me(&[2.0, 0.0, 0.0, 4.0, 0.0, 0.0], 3) - 1.0).abs() < 1e-4);
        assert_eq!(rank_me(&[0.0; 6], 3), 1.0);
    }

    #[test]
    fn the_widest_directions_come_first() {
        // Along (1, 1) by 10, along (1, -1) by 1, a third number that does not change.
        let rows: Vec<f32> = [(10.0, 0.0), (-10.0, 0.0), (0.0, 1.0), (0.0, -1.0)]
            .iter()
            .flat_map(|(u, v): &(f32, f32)| [u + v + 5.0, u - v - 3.0, 7.0])
            .collect();
        let (places, shares) = principal_plane(&rows, 3);
        let root = 2.0_f64.sqrt();
        for (place, expected) in places.iter().zip([[10.0, 0.0], [-10.0, 0.0], [0.0, 1.0], [0.0, -1.0]]) {
            assert!((place[0].abs() - f64::abs(expected[0]) * root).abs() < 1e-6, "{places:?}");
            assert!((place[1].abs() - f64::abs(expected[1]) * root).abs() < 1e-6, "{places:?}");
        }
        assert!((shares[0] - 100.0 / 101.0).abs() < 1e-9 && (shares[1] - 1.0 / 101.0).abs() < 1e-9);
    }
}
