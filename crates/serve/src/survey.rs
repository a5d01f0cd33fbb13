//! Which picture to label next: one that is unlike those that are labelled.
//!
//! Of every picture the mean of its embedding over all cells is kept, at length 1. The ranking is the greedy choice of centres
//! ("core-set", Sener and Savarese 2018, Algorithm 1): always the picture whose nearest labelled or chosen one is farthest. Nothing
//! labelled yet, the first is the one nearest to the mean of all: an ordinary one.
//!
//! Pictures are surveyed in the background once somebody asks, one at a time, and only while the encoder has nothing better to do.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kirie_sam::EncodedImage;

use crate::error::ApiError;
use crate::library::Entry;
use crate::ready::Readiness;

/// Pictures that are ranked; the others follow by name.
const RANKED: usize = 200;
/// How long the survey steps back when the encoder is busy.
const STEP_BACK: Duration = Duration::from_secs(2);

/// What is known of pictures as wholes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Survey {
    features: Arc<Mutex<HashMap<String, Vec<f32>>>>,
    under_way: Arc<AtomicBool>,
}

impl Survey {
    fn features(&self) -> MutexGuard<'_, HashMap<String, Vec<f32>>> {
        self.features.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Surveys in the background what was not surveyed yet, unless that is under way.
    pub(crate) fn begin(&self, ready: &Readiness, entries: Vec<Arc<Entry>>) {
        let unknown: Vec<_> = {
            let known = self.features();
            entries.into_iter().filter(|entry| !known.contains_key(&entry.id)).collect()
        };
        if unknown.is_empty() || self.under_way.swap(true, Ordering::AcqRel) {
            return;
        }
        let (survey, ready) = (self.clone(), ready.clone());
        tokio::spawn(async move {
            for entry in unknown {
                loop {
                    match ready.encoded(&entry).await {
                        Ok(encoded) => {
                            survey.features().insert(entry.id.clone(), mean(&encoded));
                        }
                        Err(ApiError::Busy { .. }) => {
                            tokio::time::sleep(STEP_BACK).await;
                            continue;
                        }
                        // One that cannot be read is ranked last.
                        Err(_) => {}
                    }
                    break;
                }
            }
            survey.under_way.store(false, Ordering::Release);
        });
    }

    /// The pictures in the order they are best labelled, and how many of them are ranked.
    pub(crate) fn rank(&self, open: Vec<Arc<Entry>>, labelled: &[Arc<Entry>]) -> (Vec<Arc<Entry>>, usize) {
        let known = self.features();
        let of = |entries: &[Arc<Entry>]| -> Vec<Vec<f32>> {
            entries.iter().filter_map(|entry| known.get(&entry.id).cloned()).collect()
        };
        let (surveyed, rest): (Vec<_>, Vec<_>) =
            open.into_iter().partition(|entry| known.contains_key(&entry.id));
        let (features, centres) = (of(&surveyed), of(labelled));
        drop(known);
        let order = farthest_first(&features, &centres, RANKED);
        let ranked = order.len();
        let mut taken = vec![false; surveyed.len()];
        for at in &order {
            taken[*at] = true;
        }
        let chosen = order.iter().map(|at| Arc::clone(&surveyed[*at]));
        let others =
            surveyed.iter().zip(&taken).filter(|(_, taken)| !**taken).map(|(entry, _)| Arc::clone(entry));
        (chosen.chain(others).chain(rest).collect(), ranked)
    }
}

/// The mean of an embedding `[1, channels, height, width]` over its cells, at length 1.
fn mean(encoded: &EncodedImage) -> Vec<f32> {
    let image = &encoded.embedding.image;
    let cells: usize = image.shape.iter().skip(2).product::<usize>().max(1);
    let mut mean: Vec<f32> =
        image.values.chunks_exact(cells).map(|channel| channel.iter().sum::<f32>() / cells as f32).collect();
    let length = mean.iter().map(|v| v * v).sum::<f32>().sqrt().max(f32::MIN_POSITIVE);
    for value in &mut mean {
        *value /= length;
    }
    mean
}

/// Positions of up to `most` features, each the one farthest from the nearest of the `centres` and of those before it; of equals the
/// first.
fn farthest_first(features: &[Vec<f32>], centres: &[Vec<f32>], most: usize) -> Vec<usize> {
    let distance = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum::<f32>();
    let mut nearest: Vec<f32> = features
        .iter()
        .map(|feature| centres.iter().map(|centre| distance(feature, centre)).fold(f32::INFINITY, f32::min))
        .collect();
    let mut order: Vec<usize> = Vec::new();
    let mut left: Vec<usize> = (0..features.len()).collect();
    while order.len() < most && !left.is_empty() {
        let next = if centres.is_empty() && order.is_empty() {
            let count = features.len() as f32;
            let sum = |at: usize| features.iter().map(|f| f[at]).sum::<f32>() / count;
            let middle: Vec<f32> = (0..features[0].len()).map(sum).collect();
            let near = |at: &usize| distance(&features[*at], &middle);
            left.iter().copied().min_by(|a, b| near(a).total_cmp(&near(b)))
        } else {
            left.iter().copied().reduce(|best, at| if nearest[at] > nearest[best] { at } else { best })
        };
        let Some(next) = next else { break };
        left.retain(|at| *at != next);
        order.push(next);
        for at in &left {
            nearest[*at] = nearest[*at].min(distance(&features[*at], &features[next]));
        }
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_unlike_the_labelled_comes_first() {
        let features: Vec<Vec<f32>> =
            [[0.0, 0.1], [5.0, 5.0], [0.2, 0.0], [9.0, 0.0], [5.05, 5.0]].map(Vec::from).to_vec();
        // Squared distances to the nearest of what is labelled or chosen: 81, then 41 (the other of the two that are alike: 40.6),
        // then 0.04, 0.01, and 0.0025 for the one that has its like already.
        assert_eq!(farthest_first(&features, &[vec![0.0, 0.0]], 10), [3, 1, 2, 0, 4]);
        assert_eq!(farthest_first(&features, &[vec![0.0, 0.0]], 2), [3, 1]);
        // Two that are the same in everything come in the order they were given in.
        let same = [vec![1.0, 0.0], vec![3.0, 0.0], vec![3.0, 0.0]];
        assert_eq!(farthest_first(&same, &[vec![0.0, 0.0]], 10), [1, 0, 2]);
        // Nothing labelled: an ordinary one first.
        assert_eq!(farthest_first(&features, &[], 1), [1]);
        assert!(farthest_first(&[], &[vec![0.0]], 3).is_empty());
    }
}
