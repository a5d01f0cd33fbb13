//! A map of features on which neighbours stay neighbours: t-SNE (van der Maaten and Hinton 2008), exact, for some thousands of pictures.
//!
//! Written here because of what the crates that have it bring: `bhtsne` 0.7 stands on `rustfft`, which asks other features of `num-complex`
//! and with that would have the whole of Burn built a second time, and counts a point among its own neighbours in its exact form;
//! `linfa-tsne` stands on an older one. The sums here are made row by row, so that a map is the same on any number of threads.
//!
//! ```text
//! p(j|i) = exp(-beta_i |x_i - x_j|^2) / sum,  beta_i by the perplexity;   p_ij = (p(j|i) + p(i|j)) / 2n
//! q_ij   = w_ij / sum w,  w_ij = 1 / (1 + |y_i - y_j|^2);                 least KL(p || q)
//! ```

use kirie_engine::random::Streams;
use rayon::prelude::*;

use crate::health::{principal_plane, unit_rows};
use crate::random::normal;

/// Fewest points that have neighbours to speak of; fewer lie on their principal plane.
const FEWEST: usize = 8;
/// Rounds of gradient descent.
const ROUNDS: usize = 1000;
/// Rounds in which affinities are exaggerated, so that groups come together before they keep others out; and momentum is low.
const EARLY: usize = 250;
/// How much they are.
const EXAGGERATION: f64 = 12.0;
/// Momentum of the early rounds, and of the others.
const MOMENTUM: [f64; 2] = [0.5, 0.8];
/// Least learning rate; of many points it is n / 48 (Belkina et al. 2019, with the factor 4 of the gradient in it).
const LEAST_RATE: f64 = 50.0;
/// Deviation of the first positions.
const START: f64 = 1e-4;
/// Halvings of the interval for a point's bandwidth.
const HALVINGS: usize = 64;

/// Places of features in a plane, a row of `width` numbers each, by the angles between them. `perplexity` is about the number of
/// neighbours that count, at most a third of the others. The start is the principal plane with a little noise by the seed.
///
/// Takes time by the square of the number of rows.
pub fn neighbour_map(rows: &[f32], width: usize, perplexity: f64, seed: u64) -> Vec<[f64; 2]> {
    let (plane, _) = principal_plane(rows, width);
    let n = plane.len();
    if n < FEWEST {
        return plane;
    }
    let p = affinities(&distances(rows, width), n, perplexity.clamp(1.0, (n - 1) as f64 / 3.0));
    let mut y = start(&plane, seed);
    let rate = (n as f64 / (4.0 * EXAGGERATION)).max(LEAST_RATE);
    let mut velocity = vec![[0.0; 2]; n];
    let mut gains = vec![[1.0_f64; 2]; n];
    for round in 0..ROUNDS {
        let early = round < EARLY;
        let slope = gradient(&p, &y, if early { EXAGGERATION } else { 1.0 });
        let momentum = MOMENTUM[usize::from(!early)];
        for i in 0..n {
            for c in 0..2 {
                // Steps grow where the direction stays and shrink where it turns (Jacobs 1988).
                let turned = slope[i][c] * velocity[i][c] > 0.0;
                gains[i][c] = if turned { (gains[i][c] * 0.8).max(0.01) } else { gains[i][c] + 0.2 };
                velocity[i][c] = momentum * velocity[i][c] - rate * gains[i][c] * slope[i][c];
                y[i][c] += velocity[i][c];
            }
        }
        centre(&mut y);
    }
    y
}

/// The principal plane, shrunk, with noise.
fn start(plane: &[[f64; 2]], seed: u64) -> Vec<[f64; 2]> {
    let squares: f64 = plane.iter().map(|place| place[0].powi(2)).sum();
    let deviation = (squares / plane.len().max(1) as f64).sqrt().max(1e-300);
    let noise = normal(2 * plane.len(), &mut Streams::new(seed).stream("map", &[]));
    let mut y: Vec<[f64; 2]> = plane
        .iter()
        .zip(noise.as_chunks::<2>().0)
        .map(|(place, noise)| {
            [0, 1]
                .map(|c| START * (place[c] / deviation).clamp(-5.0, 5.0) + 0.01 * START * f64::from(noise[c]))
        })
        .collect();
    centre(&mut y);
    y
}

fn centre(y: &mut [[f64; 2]]) {
    let n = y.len().max(1) as f64;
    let mean = [0, 1].map(|c| y.iter().map(|place| place[c]).sum::<f64>() / n);
    for place in y {
        *place = [place[0] - mean[0], place[1] - mean[1]];
    }
}

/// Squared distances of all rows, of length 1, from each other, `[n, n]`.
fn distances(rows: &[f32], width: usize) -> Vec<f32> {
    let unit = unit_rows(rows, width);
    let square = |a: &[f64], b: &[f64]| -> f64 { a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum() };
    unit.par_iter()
        .flat_map_iter(|row| unit.iter().map(|other| square(row, other) as f32).collect::<Vec<_>>())
        .collect()
}

/// What each point's neighbours weigh, `[n, n]`, in sum 1: none is its own neighbour, and the other way round it is the same.
fn affinities(distances: &[f32], n: usize, perplexity: f64) -> Vec<f32> {
    let mut p: Vec<f32> = distances
        .par_chunks_exact(n)
        .enumerate()
        .flat_map_iter(|(i, row)| neighbours(row, i, perplexity.ln()))
        .collect();
    for i in 0..n {
        for j in 0..i {
            let both = (p[i * n + j] + p[j * n + i]) / (2 * n) as f32;
            p[i * n + j] = both;
            p[j * n + i] = both;
        }
    }
    p
}

/// Shares of the others as neighbours of point `i`, by a bandwidth for which their entropy is as asked.
fn neighbours(row: &[f32], i: usize, entropy: f64) -> Vec<f32> {
    let others = || row.iter().enumerate().filter(move |(j, _)| *j != i).map(|(_, d)| f64::from(*d));
    // Taken off every distance, the nearest changes no share, and keeps sums from vanishing.
    let nearest = others().fold(f64::INFINITY, f64::min);
    let found = |beta: f64| {
        let (mut sum, mut weighted) = (0.0, 0.0);
        for away in others().map(|d| d - nearest) {
            let weight = (-beta * away).exp();
            sum += weight;
            weighted += weight * away;
        }
        (sum, beta * weighted / sum + sum.ln())
    };
    // Entropy falls as the bandwidth narrows. Distances of rows of length 1 are 4 at most.
    let (mut low, mut high) = (1e-12_f64.ln(), 1e12_f64.ln());
    for _ in 0..HALVINGS {
        let middle = f64::midpoint(low, high);
        if found(middle.exp()).1 > entropy { low = middle } else { high = middle }
    }
    let beta = f64::midpoint(low, high).exp();
    let (sum, _) = found(beta);
    let share = |(j, d): (usize, &f32)| {
        if j == i { 0.0 } else { ((-beta * (f64::from(*d) - nearest)).exp() / sum) as f32 }
    };
    row.iter().enumerate().map(share).collect()
}

/// Slope of the divergence at places `y`, with affinities exaggerated.
fn gradient(p: &[f32], y: &[[f64; 2]], exaggeration: f64) -> Vec<[f64; 2]> {
    let n = y.len();
    // Of each point: the sum of its weights, what draws it and what pushes it.
    let forces: Vec<(f64, [f64; 2], [f64; 2])> = p
        .par_chunks_exact(n)
        .zip(y.par_iter())
        .map(|(p, own)| {
            let (mut all, mut drawn, mut pushed) = (0.0, [0.0; 2], [0.0; 2]);
            for (p, other) in p.iter().zip(y) {
                let [dx, dy] = [own[0] - other[0], own[1] - other[1]];
                let weight = 1.0 / (1.0 + dx * dx + dy * dy);
                let (draw, push) = (f64::from(*p) * weight, weight * weight);
                all += weight;
                drawn = [drawn[0] + draw * dx, drawn[1] + draw * dy];
                pushed = [pushed[0] + push * dx, pushed[1] + push * dy];
            }
            // Its own weight is 1.
            (all - 1.0, drawn, pushed)
        })
        .collect();
    let all: f64 = forces.iter().map(|(all, _, _)| all).sum();
    let of = |(_, drawn, pushed): &(f64, [f64; 2], [f64; 2])| {
        [0, 1].map(|c| 4.0 * (exaggeration * drawn[c] - pushed[c] / all))
    };
    forces.iter().map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `count` rows around each of four corners, by turns.
    fn clouds(count: usize, spread: f32) -> (Vec<f32>, usize) {
        let noise = normal(4 * count * 6, &mut Streams::new(9).stream("clouds", &[]));
        let corner = |i: usize, c: usize| if c == i % 4 { 1.0 } else { 0.0 };
        let mut rows: Vec<f32> = (0..4 * count * 6).map(|at| corner(at / 6, at % 6)).collect();
        for (value, noise) in rows.iter_mut().zip(noise) {
            *value += spread * noise;
        }
        (rows, 6)
    }

    fn square(a: [f64; 2], b: [f64; 2]) -> f64 {
        (a[0] - b[0]).powi(2) + (a[1] - b[1]).powi(2)
    }

    #[test]
    fn bandwidths_give_the_perplexity() {
        let (rows, width) = clouds(10, 0.2);
        let distances = distances(&rows, width);
        for perplexity in [2.0_f64, 5.0, 13.0] {
            for (i, row) in distances.chunks_exact(40).enumerate() {
                let shares = neighbours(row, i, perplexity.ln());
                let sum: f64 = shares.iter().map(|p| f64::from(*p)).sum();
                let entropy: f64 =
                    shares.iter().map(|p| f64::from(*p)).filter(|p| *p > 0.0).map(|p| -p * p.ln()).sum();
                assert!((sum - 1.0).abs() < 1e-5 && shares[i] == 0.0, "{sum}");
                assert!((entropy.exp() - perplexity).abs() < 1e-3 * perplexity, "{i}: {}", entropy.exp());
            }
        }
        let p = affinities(&distances, 40, 5.0);
        let sum: f64 = p.iter().map(|p| f64::from(*p)).sum();
        assert!((sum - 1.0).abs() < 1e-5, "{sum}");
        assert!((0..1600).all(|at| p[at] == p[at % 40 * 40 + at / 40]), "the same both ways");
    }

    /// The slope is that of the divergence by its definition, in finite differences.
    #[test]
    fn the_slope_is_that_of_the_divergence() {
        let (rows, width) = clouds(3, 0.3);
        let p = affinities(&distances(&rows, width), 12, 3.0);
        let divergence = |y: &[[f64; 2]]| -> f64 {
            let weight = |i: usize, j: usize| if i == j { 0.0 } else { 1.0 / (1.0 + square(y[i], y[j])) };
            let all: f64 = (0..144).map(|at| weight(at / 12, at % 12)).sum();
            (0..144)
                .filter(|at| p[*at] > 0.0)
                .map(|at| f64::from(p[at]) * (f64::from(p[at]) / (weight(at / 12, at % 12) / all)).ln())
                .sum()
        };
        let y: Vec<[f64; 2]> = (0..12)
            .map(|i| [f64::from(i * 7 % 5) * 0.4, f64::from(i * 11 % 7) * 0.3 - f64::from(i) * 0.1])
            .collect();
        let slope = gradient(&p, &y, 1.0);
        for i in 0..12 {
            for c in 0..2 {
                let at = |by: f64| {
                    let mut moved = y.clone();
                    moved[i][c] += by;
                    divergence(&moved)
                };
                let expected = (at(1e-5) - at(-1e-5)) / 2e-5;
                assert!((slope[i][c] - expected).abs() < 1e-5, "{i}, {c}: {} {expected}", slope[i][c]);
            }
        }
    }

    #[test]
    fn what_lies_together_stays_together_whatever_the_threads() {
        let (rows, width) = clouds(12, 0.05);
        let map = neighbour_map(&rows, width, 8.0, 1);
        assert_eq!(map.len(), 48);
        for (i, own) in map.iter().enumerate() {
            let nearest = (0..48)
                .filter(|j| *j != i)
                .min_by(|a, b| square(*own, map[*a]).total_cmp(&square(*own, map[*b])));
            assert_eq!(nearest.unwrap() % 4, i % 4, "{i}");
        }
        let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap();
        assert_eq!(map, pool.install(|| neighbour_map(&rows, width, 8.0, 1)));
        assert_ne!(map, neighbour_map(&rows, width, 8.0, 2), "the seed counts");
    }

    #[test]
    fn few_points_and_points_alike_have_places() {
        for n in [0, 1, 3, 7, 8, 20] {
            let alike = neighbour_map(&vec![0.5; 4 * n], 4, 30.0, 1);
            assert_eq!(alike.len(), n);
            let mixed: Vec<f32> = (0..4 * n).map(|i| ((i * 37) % 11) as f32 - 5.0).collect();
            let mixed = neighbour_map(&mixed, 4, 30.0, 1);
            assert!(alike.iter().chain(&mixed).flatten().all(|v| v.is_finite()), "{n}");
        }
        assert!(neighbour_map(&[], 0, 30.0, 1).is_empty());
    }
}
