//! A linear classifier on frozen features: softmax regression by gradient descent, as lightly's benchmark does it.

use kirie_engine::random::Streams;
use serde::{Deserialize, Serialize};

use crate::error::ContrastiveError;

/// How the classifier is trained.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct LinearOptions {
    /// Times that all features are seen.
    pub epochs: usize,
    /// Features in a batch; what is left over at an epoch's end is left out.
    pub batch: usize,
    /// Learning rate for a batch of 256; that of another batch is in proportion.
    pub rate: f64,
    /// Weight of the past.
    pub momentum: f64,
    /// Decay of the weights.
    pub weight_decay: f64,
    /// Whether each number of the features gets mean 0 and deviation 1 over the training features first.
    pub standardise: bool,
}

impl Default for LinearOptions {
    /// The SAMCLR authors' protocol (lightly 1.4.14): 90 epochs, batches of 128, rate 0.1, no decay, cosine to a thousandth. The
    /// accuracy is that after the last epoch, where theirs is the best of all epochs, chosen on the test pictures.
    fn default() -> Self {
        Self { epochs: 90, batch: 128, rate: 0.1, momentum: 0.9, weight_decay: 0.0, standardise: false }
    }
}

/// Fewest steps: a hundredth of a small set would else be seen a few times only.
const FEWEST_STEPS: usize = 300;

/// Cosine of lightly: from `start` at step 0 to `end` at the last of `steps`.
pub fn cosine(step: usize, steps: usize, start: f64, end: f64) -> f64 {
    if step + 1 >= steps {
        return end;
    }
    let done = step as f64 / (steps - 1) as f64;
    end - (end - start) * ((std::f64::consts::PI * done).cos() + 1.0) / 2.0
}

/// A trained classifier.
#[derive(Clone, Debug)]
pub struct LinearProbe {
    /// `[classes, width + 1]`, the bias last.
    weights: Vec<f64>,
    width: usize,
    /// What is taken off each number, and what it is then multiplied by.
    scaling: Vec<(f64, f64)>,
}

impl LinearProbe {
    /// Trains on features of `width` numbers each, `sets` being the features of all samples in one or several views that take turns,
    /// by `labels` from 0 to below `classes`.
    ///
    /// # Errors
    /// [`ContrastiveError::Diverged`].
    pub fn train(
        sets: &[Vec<f32>],
        width: usize,
        labels: &[u32],
        classes: usize,
        options: &LinearOptions,
        seed: u64,
    ) -> Result<Self, ContrastiveError> {
        let samples = labels.len();
        let first = sets.first().map_or(&[][..], Vec::as_slice);
        let scaling = if options.standardise { scaling(first, width) } else { vec![(0.0, 1.0); width] };
        let batch = options.batch.clamp(1, samples.max(1));
        let per_epoch = (samples / batch).max(1);
        let epochs = options.epochs.max(FEWEST_STEPS.div_ceil(per_epoch));
        let steps = epochs * per_epoch;
        // By the batch that was asked for: fewer samples are no reason for smaller steps.
        let rate = options.rate * options.batch.max(1) as f64 / 256.0;
        let columns = width + 1;
        let mut probe = Self { weights: vec![0.0; classes * columns], width, scaling };
        let (mut velocity, mut gradient) = (probe.weights.clone(), probe.weights.clone());
        let streams = Streams::new(seed);
        let mut row = vec![0.0; columns];
        for epoch in 0..epochs {
            let features = &sets[epoch % sets.len().max(1)];
            let order = streams.order(epoch as u64, samples);
            for (at, samples) in order.chunks_exact(batch).enumerate() {
                gradient.fill(0.0);
                for &sample in samples {
                    probe.scaled(&features[sample * width..(sample + 1) * width], &mut row);
                    let mut shares = probe.probabilities(&row);
                    if let Some(own) = shares.get_mut(labels[sample] as usize) {
                        *own -= 1.0;
                    }
                    for (share, gradient) in shares.iter().zip(gradient.chunks_exact_mut(columns)) {
                        for (sum, value) in gradient.iter_mut().zip(&row) {
                            *sum += share * value / batch as f64;
                        }
                    }
                }
                let rate = rate * cosine(epoch * per_epoch + at, steps, 1.0, 0.001);
                for ((weight, velocity), gradient) in
                    probe.weights.iter_mut().zip(&mut velocity).zip(&gradient)
                {
                    *velocity = options.momentum * *velocity + gradient + options.weight_decay * *weight;
                    *weight -= rate * *velocity;
                }
            }
        }
        // Weights of zero guess. What does worse on the very features that it was trained on has diverged, whether or not its
        // weights still are numbers; on classes that can be told apart, large weights alone do no harm.
        if probe.loss(first, labels) <= (classes.max(1) as f64).ln() + 1e-6 {
            return Ok(probe);
        }
        let lengths = first
            .chunks_exact(width.max(1))
            .map(|row| row.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt());
        let length = lengths.sum::<f64>() / samples.max(1) as f64;
        Err(ContrastiveError::Diverged { rate, length })
    }

    /// Mean cross entropy of rows of features.
    fn loss(&self, features: &[f32], labels: &[u32]) -> f64 {
        let mut row = vec![0.0; self.width + 1];
        let mut sum = 0.0;
        for (features, label) in features.chunks_exact(self.width.max(1)).zip(labels) {
            self.scaled(features, &mut row);
            let logits = self.logits(&row);
            let highest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let all = logits.iter().map(|logit| (logit - highest).exp()).sum::<f64>().ln() + highest;
            sum += all - logits.get(*label as usize).copied().unwrap_or(f64::NEG_INFINITY);
        }
        sum / labels.len().max(1) as f64
    }

    fn scaled(&self, features: &[f32], row: &mut [f64]) {
        for ((value, feature), (off, factor)) in row.iter_mut().zip(features).zip(&self.scaling) {
            *value = (f64::from(*feature) - off) * factor;
        }
        if let Some(bias) = row.last_mut() {
            *bias = 1.0;
        }
    }

    fn logits(&self, row: &[f64]) -> Vec<f64> {
        let dot = |weights: &[f64]| -> f64 { weights.iter().zip(row).map(|(w, v)| w * v).sum() };
        self.weights.chunks_exact(self.width + 1).map(dot).collect()
    }

    fn probabilities(&self, row: &[f64]) -> Vec<f64> {
        let logits = self.logits(row);
        let highest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let shares: Vec<f64> = logits.iter().map(|logit| (logit - highest).exp()).collect();
        let all: f64 = shares.iter().sum();
        shares.into_iter().map(|share| share / all).collect()
    }

    /// The most probable class of each row of features; the first of equals.
    pub fn classify(&self, features: &[f32]) -> Vec<u32> {
        let mut row = vec![0.0; self.width + 1];
        let best = |shares: Vec<f64>| {
            let mut best = 0;
            for (class, share) in shares.iter().enumerate() {
                if *share > shares[best] {
                    best = class;
                }
            }
            best as u32
        };
        let mut classes = Vec::new();
        for features in features.chunks_exact(self.width.max(1)) {
            self.scaled(features, &mut row);
            classes.push(best(self.probabilities(&row)));
        }
        classes
    }
}

/// Mean of each number, and one over its deviation.
fn scaling(features: &[f32], width: usize) -> Vec<(f64, f64)> {
    let rows = (features.len() / width.max(1)).max(1) as f64;
    (0..width)
        .map(|c| {
            let column = || features.iter().skip(c).step_by(width).map(|v| f64::from(*v));
            let mean = column().sum::<f64>() / rows;
            let deviation = (column().map(|v| (v - mean).powi(2)).sum::<f64>() / rows).sqrt();
            (mean, if deviation > 1e-8 { 1.0 / deviation } else { 0.0 })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Vector of the reference notes (`samclr.md`, section 8.1).
    #[test]
    fn cosine_of_lightly() {
        let expected =
            [1.0, 0.969876, 0.883139, 0.75025, 0.587237, 0.413763, 0.25075, 0.117861, 0.031124, 0.001, 0.001];
        for (step, expected) in expected.into_iter().enumerate() {
            let found = cosine(step, 10, 1.0, 0.001);
            assert!((found - expected).abs() < 1e-6, "{step}: {found}");
        }
        assert_eq!(cosine(0, 1, 1.0, 0.001), 0.001);
    }

    /// Three clouds around the corners of a triangle.
    fn clouds(count: usize, scale: f32) -> (Vec<f32>, Vec<u32>) {
        let mut features = Vec::new();
        let labels: Vec<u32> = (0..count as u32).map(|i| i % 3).collect();
        for (i, label) in labels.iter().enumerate() {
            let angle = f64::from(*label) * 2.1;
            let noise = |k: usize| (((i * 7919 + k * 104_729) % 1000) as f64 / 1000.0 - 0.5) * 0.6;
            features
                .extend([(angle.cos() + noise(1)) as f32 * scale, (angle.sin() + noise(2)) as f32 * scale]);
        }
        (features, labels)
    }

    #[test]
    fn clouds_are_told_apart() {
        let (features, labels) = clouds(120, 1.0);
        let probe =
            LinearProbe::train(std::slice::from_ref(&features), 2, &labels, 3, &LinearOptions::default(), 1)
                .unwrap();
        assert_eq!(probe.classify(&features), labels);
        let again =
            LinearProbe::train(std::slice::from_ref(&features), 2, &labels, 3, &LinearOptions::default(), 1)
                .unwrap();
        assert_eq!(probe.weights, again.weights, "the same seed, the same classifier");
        // Of fewer samples than a batch, too.
        let (few, few_labels) = clouds(6, 1.0);
        let probe =
            LinearProbe::train(std::slice::from_ref(&few), 2, &few_labels, 3, &LinearOptions::default(), 1)
                .unwrap();
        assert_eq!(probe.classify(&few), few_labels);
    }

    #[test]
    fn scale_does_not_matter_once_standardised_and_divergence_is_told() {
        let (features, labels) = clouds(120, 1e4);
        let options = LinearOptions { standardise: true, ..LinearOptions::default() };
        let probe = LinearProbe::train(std::slice::from_ref(&features), 2, &labels, 3, &options, 1).unwrap();
        assert_eq!(probe.classify(&features), labels);
        // Not so without. Classes that lie apart are told apart all the same...
        let plain = LinearOptions::default();
        let probe = LinearProbe::train(std::slice::from_ref(&features), 2, &labels, 3, &plain, 1).unwrap();
        assert_eq!(probe.classify(&features), labels);
        // ...but where they overlap, the rate throws the weights about.
        let mixed: Vec<u32> = (0..120_u32).map(|i| if i % 4 == 0 { (i + 1) % 3 } else { i % 3 }).collect();
        let error = LinearProbe::train(std::slice::from_ref(&features), 2, &mixed, 3, &plain, 1).unwrap_err();
        assert!(matches!(error, ContrastiveError::Diverged { .. }), "{error}");
        assert!(LinearProbe::train(std::slice::from_ref(&features), 2, &mixed, 3, &options, 1).is_ok());
        // Features so long that nothing is a number any more.
        let endless = vec![f32::INFINITY; features.len()];
        let error = LinearProbe::train(&[endless], 2, &labels, 3, &plain, 1).unwrap_err();
        assert!(matches!(error, ContrastiveError::Diverged { .. }), "{error}");
    }

    /// The gradient descent reaches what has no gradient: the slope of the mean loss is near zero.
    #[test]
    fn it_gets_where_the_loss_is_flat() {
        let features = vec![1.0, 2.0, -1.0, 0.5];
        let labels = [0, 1, 0, 1];
        let options =
            LinearOptions { epochs: 4000, rate: 30.0, weight_decay: 0.1, ..LinearOptions::default() };
        let probe = LinearProbe::train(std::slice::from_ref(&features), 1, &labels, 2, &options, 1).unwrap();
        let mut slope = [0.0; 4];
        for (feature, label) in features.iter().zip(labels) {
            let mut shares = probe.probabilities(&[f64::from(*feature), 1.0]);
            shares[label as usize] -= 1.0;
            for class in 0..2 {
                slope[2 * class] += shares[class] * f64::from(*feature) / 4.0;
                slope[2 * class + 1] += shares[class] / 4.0;
            }
        }
        for (slope, weight) in slope.iter().zip(&probe.weights) {
            assert!((slope + 0.1 * weight).abs() < 1e-4, "{slope} {weight}");
        }
    }
}
