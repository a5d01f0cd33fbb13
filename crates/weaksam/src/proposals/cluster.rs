//! K-means over points: many peaks of attention become few prompts.

use kirie_engine::random::unit;
use rand::Rng;

/// Points for one cluster, as published.
const POINTS_PER_CLUSTER: usize = 5;
/// Rounds at most.
const ROUNDS: usize = 300;

/// The published reduction: `max(1, points / 5)` clusters of all points, their centres cut down to whole pixels. Nothing for no
/// points: the original then asks at (100, 100), whatever is there.
///
/// The first centres are chosen as k-means++ chooses them. The original's random numbers are scikit-learn's, so its centres differ
/// in single cases.
pub fn reduce(points: &[[f64; 2]], rng: &mut impl Rng) -> Vec<[f64; 2]> {
    if points.is_empty() {
        return Vec::new();
    }
    let clusters = (points.len() / POINTS_PER_CLUSTER).max(1);
    k_means(points, clusters, rng).into_iter().map(|centre| centre.map(f64::trunc)).collect()
}

/// Centres of at most `clusters` clusters; fewer where there are fewer different points.
pub fn k_means(points: &[[f64; 2]], clusters: usize, rng: &mut impl Rng) -> Vec<[f64; 2]> {
    let mut centres = first_centres(points, clusters, rng);
    let mut of: Vec<usize> = vec![usize::MAX; points.len()];
    for _ in 0..ROUNDS {
        let nearest: Vec<usize> = points.iter().map(|point| nearest(point, &centres).0).collect();
        if nearest == of {
            break;
        }
        of = nearest;
        for (index, centre) in centres.iter_mut().enumerate() {
            let own = points.iter().zip(&of).filter(|(_, cluster)| **cluster == index);
            let (sum, count) = own
                .fold(([0.0; 2], 0.0), |(sum, count), (p, _)| ([sum[0] + p[0], sum[1] + p[1]], count + 1.0));
            // A cluster that lost all its points stays where it is.
            if count > 0.0 {
                *centre = sum.map(|s| s / count);
            }
        }
    }
    centres
}

/// Each next centre is a point drawn by the square of its distance to the nearest one chosen.
fn first_centres(points: &[[f64; 2]], clusters: usize, rng: &mut impl Rng) -> Vec<[f64; 2]> {
    let mut centres = Vec::new();
    if let Some(first) = points.get((unit(rng) * points.len() as f64) as usize) {
        centres.push(*first);
    }
    while centres.len() < clusters.min(points.len()) {
        let distances: Vec<f64> = points.iter().map(|point| nearest(point, &centres).1).collect();
        let total: f64 = distances.iter().sum();
        if total <= 0.0 {
            break;
        }
        let mut left = unit(rng) * total;
        let chosen = distances.iter().position(|distance| {
            left -= distance;
            left < 0.0
        });
        // Rounding may leave nothing chosen; then the farthest.
        let farthest = || (0..points.len()).max_by(|a, b| distances[*a].total_cmp(&distances[*b]));
        let Some(next) = chosen.or_else(farthest) else { break };
        centres.push(points[next]);
    }
    centres
}

/// The index of the nearest centre, the first of equals, and the square of its distance.
fn nearest(point: &[f64; 2], centres: &[[f64; 2]]) -> (usize, f64) {
    let mut best = (0, f64::INFINITY);
    for (index, centre) in centres.iter().enumerate() {
        let distance = (point[0] - centre[0]).powi(2) + (point[1] - centre[1]).powi(2);
        if distance < best.1 {
            best = (index, distance);
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use kirie_engine::random::Streams;

    use super::*;

    #[test]
    fn heaps_of_points_become_their_centres() {
        let heap = |x: f64, y: f64| (0..5).map(move |i| [x + f64::from(i % 3), y + f64::from(i / 3)]);
        let points: Vec<[f64; 2]> =
            heap(10.0, 10.0).chain(heap(100.0, 20.0)).chain(heap(50.0, 90.0)).collect();
        for seed in 0..5 {
            let mut rng = Streams::new(seed).stream("cluster", &[0]);
            let mut centres = reduce(&points, &mut rng);
            centres.sort_by(|a, b| a[0].total_cmp(&b[0]));
            assert_eq!(centres, [[10.0, 10.0], [50.0, 90.0], [100.0, 20.0]], "seed {seed}");
        }
    }

    #[test]
    fn few_points_and_equal_points() {
        let rng = || Streams::new(1).stream("cluster", &[0]);
        assert!(reduce(&[], &mut rng()).is_empty());
        assert_eq!(reduce(&[[3.0, 4.0], [6.0, 7.5]], &mut rng()), [[4.0, 5.0]]);
        assert_eq!(reduce(&[[3.0, 4.0]; 12], &mut rng()), [[3.0, 4.0]]);
        assert_eq!(k_means(&[[1.0, 1.0], [2.0, 2.0]], 9, &mut rng()).len(), 2);
    }
}
