//! What a domain's pictures are like, for pictures that are of none.

use kirie_engine::random::Streams;
use rand::RngExt;
use serde::{Deserialize, Serialize};

use super::RouterFeatures;
use crate::error::ContinualError;

/// Share of the mean variance that is added to each, so that a number that hardly varies among a few pictures does not decide alone.
const SHRINKAGE: f32 = 0.5;

/// Mean and deviation of a domain's [summaries](RouterFeatures::summary), with the distance up to which a picture is one of them. Made
/// once, when the domain is learned; later domains do not change it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Portrait {
    /// Means.
    pub mean: Vec<f32>,
    /// Deviations, all above 0.
    pub deviation: Vec<f32>,
    /// Pictures farther from the mean are strange.
    pub threshold: f32,
}

impl Portrait {
    /// From pictures of the domain, with the threshold at `slack` times the distance that a share `quantile` of `held_out` (or, without
    /// any, of the pictures themselves) stays within.
    ///
    /// # Errors
    /// No picture.
    pub fn new(
        pictures: &[RouterFeatures],
        held_out: &[RouterFeatures],
        quantile: f64,
        slack: f64,
    ) -> Result<Self, ContinualError> {
        let summaries: Vec<Vec<f32>> = pictures.iter().map(RouterFeatures::summary).collect();
        let Some(first) = summaries.first() else {
            return Err(ContinualError::setting("pictures of a domain", 0, "1 or more"));
        };
        let (count, length) = (summaries.len() as f32, first.len());
        let mut mean = vec![0.0_f32; length];
        let mut variance = vec![0.0_f32; length];
        for summary in &summaries {
            mean.iter_mut().zip(summary).for_each(|(mean, value)| *mean += value / count);
        }
        for summary in &summaries {
            for ((variance, value), mean) in variance.iter_mut().zip(summary).zip(&mean) {
                *variance += (value - mean) * (value - mean) / count;
            }
        }
        // Of a single picture nothing is known of how others vary; a tenth of the features' own size is a guess.
        let usual = (variance.iter().sum::<f32>() / length.max(1) as f32).max(if summaries.len() > 1 {
            1e-8
        } else {
            0.01 * mean.iter().map(|v| v * v).sum::<f32>() / length.max(1) as f32
        });
        let deviation = variance.iter().map(|variance| (variance + SHRINKAGE * usual).sqrt()).collect();
        let mut portrait = Self { mean, deviation, threshold: 1.0 };
        let judged = if held_out.is_empty() { pictures } else { held_out };
        let mut distances: Vec<f32> = judged.iter().map(|features| portrait.distance(features)).collect();
        distances.sort_by(f32::total_cmp);
        let at = ((distances.len() as f64 * quantile).ceil() as usize).clamp(1, distances.len()) - 1;
        // A picture that is exactly the mean has no distance, and others would all be strange.
        portrait.threshold = (distances[at] * slack as f32).max(0.1);
        Ok(portrait)
    }

    /// Root of the mean of squared deviations, each over its own scale.
    pub fn distance(&self, features: &RouterFeatures) -> f32 {
        let summary = features.summary();
        if summary.len() != self.mean.len() {
            return f32::INFINITY;
        }
        let scaled = summary.iter().zip(&self.mean).zip(&self.deviation).map(|((v, m), d)| (v - m) / d);
        (scaled.map(|v| v * v).sum::<f32>() / summary.len().max(1) as f32).sqrt()
    }

    /// The distance in units of the threshold.
    pub fn strangeness(&self, features: &RouterFeatures) -> f32 {
        self.distance(features) / self.threshold
    }
}

/// Centroids of a domain's summaries by k-means; how S-Prompts tells domains apart.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Centroids(Vec<Vec<f32>>);

impl Centroids {
    /// At most `k` centroids (Lloyd's algorithm from `k` drawn pictures).
    pub fn new(pictures: &[RouterFeatures], k: usize, streams: &Streams, domain: u64) -> Self {
        const ROUNDS: usize = 20;
        let points: Vec<Vec<f32>> = pictures.iter().map(RouterFeatures::summary).collect();
        let mut rng = streams.stream("centroids", &[domain]);
        let mut order: Vec<usize> = (0..points.len()).collect();
        for i in (1..order.len()).rev() {
            order.swap(i, rng.random_range(0..=i));
        }
        let mut centres: Vec<Vec<f32>> = order.iter().take(k.max(1)).map(|at| points[*at].clone()).collect();
        for _ in 0..ROUNDS {
            let mut sums = vec![(vec![0.0_f32; points.first().map_or(0, Vec::len)], 0.0_f32); centres.len()];
            for point in &points {
                if let Some((at, _)) = nearest(&centres, point) {
                    sums[at].0.iter_mut().zip(point).for_each(|(sum, value)| *sum += value);
                    sums[at].1 += 1.0;
                }
            }
            for (centre, (sum, count)) in centres.iter_mut().zip(sums) {
                if count > 0.0 {
                    *centre = sum.into_iter().map(|value| value / count).collect();
                }
            }
        }
        Self(centres)
    }

    /// The squared distance to the nearest centroid.
    pub fn distance(&self, features: &RouterFeatures) -> f32 {
        nearest(&self.0, &features.summary()).map_or(f32::INFINITY, |(_, distance)| distance)
    }
}

fn nearest(centres: &[Vec<f32>], point: &[f32]) -> Option<(usize, f32)> {
    let distance = |centre: &Vec<f32>| centre.iter().zip(point).map(|(a, b)| (a - b) * (a - b)).sum::<f32>();
    centres.iter().map(distance).enumerate().min_by(|a, b| a.1.total_cmp(&b.1))
}
