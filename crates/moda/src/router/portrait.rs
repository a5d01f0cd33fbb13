//! What a domain's pictures are like, for pictures that are of none.

use kirie_engine::random::Streams;
use rand::seq::SliceRandom;
use serde::{Deserialize, Serialize};

use super::RouterFeatures;
use crate::error::ContinualError;

/// Share of the mean variance that is added to each, so that a number that hardly varies among a few pictures does not decide alone.
const SHRINKAGE: f64 = 0.05;
/// Of a single picture nothing is known of how others vary; this share of the features' own size is a guess.
const GUESS: f64 = 0.1;

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
    /// From pictures of the domain. Each is held against the portrait that the others would give (leaving one out), and the threshold
    /// is `slack` times the distance that a share `quantile` of them stays within.
    ///
    /// # Errors
    /// No picture.
    pub fn new(pictures: &[RouterFeatures], quantile: f64, slack: f64) -> Result<Self, ContinualError> {
        let summaries: Vec<Vec<f32>> = pictures.iter().map(RouterFeatures::summary).collect();
        let Some(first) = summaries.first() else {
            return Err(ContinualError::setting("pictures of a domain", 0, "1 or more"));
        };
        let mut sums = Sums { count: 0.0, sum: vec![0.0; first.len()], square: vec![0.0; first.len()] };
        for summary in &summaries {
            sums.add(summary, 1.0);
        }
        let mut portrait = sums.portrait();
        let mut distances = Vec::with_capacity(summaries.len());
        if summaries.len() > 1 {
            for summary in &summaries {
                sums.add(summary, -1.0);
                distances.push(sums.portrait().distance_of(summary));
                sums.add(summary, 1.0);
            }
            distances.sort_by(f32::total_cmp);
        } else {
            // As far as the guess goes.
            distances.push(1.0);
        }
        let at = ((distances.len() as f64 * quantile).ceil() as usize).clamp(1, distances.len()) - 1;
        // Of pictures that are all the same a little difference is none.
        portrait.threshold = (distances[at] * slack as f32).max(0.1);
        Ok(portrait)
    }

    /// Root of the mean of squared deviations, each over its own scale.
    pub fn distance(&self, features: &RouterFeatures) -> f32 {
        self.distance_of(&features.summary())
    }

    fn distance_of(&self, summary: &[f32]) -> f32 {
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

/// Sums of some summaries, to which one can be added and taken away.
struct Sums {
    count: f64,
    sum: Vec<f64>,
    square: Vec<f64>,
}

impl Sums {
    fn add(&mut self, summary: &[f32], times: f64) {
        self.count += times;
        for ((sum, square), value) in self.sum.iter_mut().zip(&mut self.square).zip(summary) {
            *sum += times * f64::from(*value);
            *square += times * f64::from(*value) * f64::from(*value);
        }
    }

    fn portrait(&self) -> Portrait {
        let length = self.sum.len().max(1) as f64;
        let mean: Vec<f64> = self.sum.iter().map(|sum| sum / self.count).collect();
        let variance: Vec<f64> = self
            .square
            .iter()
            .zip(&mean)
            .map(|(square, mean)| (square / self.count - mean * mean).max(0.0))
            .collect();
        let least = if self.count > 1.5 {
            SHRINKAGE * variance.iter().sum::<f64>() / length
        } else {
            GUESS * GUESS * mean.iter().map(|mean| mean * mean).sum::<f64>() / length
        };
        Portrait {
            deviation: variance.iter().map(|v| (v + least).sqrt().max(1e-6) as f32).collect(),
            mean: mean.into_iter().map(|mean| mean as f32).collect(),
            threshold: 1.0,
        }
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
        let mut order: Vec<usize> = (0..points.len()).collect();
        order.shuffle(&mut streams.stream("centroids", &[domain]));
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
