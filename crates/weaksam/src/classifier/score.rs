//! How well the classifier tells what pictures show.

use serde::{Deserialize, Serialize};

/// Scores on some pictures.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ClassifierScore {
    /// Mean over the classes that occur of the average precision; `None` if none occurs.
    pub map: Option<f64>,
    /// F1 of all decisions "shows it" where the logit is above 0; `None` without any.
    pub f1: Option<f64>,
}

/// The mean, over the positives, of the precision among all that score at least as high; `None` without positives. Equal scores
/// stand in their order.
pub fn average_precision(scores: &[f32], positive: &[bool]) -> Option<f64> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]));
    let (mut hits, mut sum) = (0_u32, 0.0);
    for (rank, at) in order.into_iter().enumerate() {
        if positive.get(at) == Some(&true) {
            hits += 1;
            sum += f64::from(hits) / (rank + 1) as f64;
        }
    }
    (hits > 0).then(|| sum / f64::from(hits))
}

impl ClassifierScore {
    /// From logits and targets (1 for "shows it"), picture by picture, each `classes` long.
    pub fn of(logits: &[f32], targets: &[f32], classes: usize) -> Self {
        let column = |values: &[f32], class: usize| -> Vec<f32> {
            values.iter().skip(class).step_by(classes.max(1)).copied().collect()
        };
        let precisions = (0..classes).filter_map(|class| {
            let positive: Vec<bool> = column(targets, class).iter().map(|target| *target > 0.5).collect();
            average_precision(&column(logits, class), &positive)
        });
        let precisions: Vec<f64> = precisions.collect();
        let count = |found: bool, shown: bool| {
            let pairs = logits.iter().zip(targets);
            pairs.filter(|(logit, target)| (**logit > 0.0) == found && (**target > 0.5) == shown).count()
                as f64
        };
        let (hits, wrong, missed) = (count(true, true), count(true, false), count(false, true));
        let all = 2.0 * hits + wrong + missed;
        Self {
            map: (!precisions.is_empty()).then(|| precisions.iter().sum::<f64>() / precisions.len() as f64),
            f1: (all > 0.0).then(|| 2.0 * hits / all),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn average_precision_of_known_ranks() {
        // Positives at ranks 1 and 3: (1 / 1 + 2 / 3) / 2.
        let found = average_precision(&[0.9, 0.8, 0.7], &[true, false, true]).unwrap();
        assert!((found - 5.0 / 6.0).abs() < 1e-12);
        assert_eq!(average_precision(&[0.9], &[false]), None);
        assert_eq!(average_precision(&[0.1, 0.1], &[false, true]), Some(0.5));
    }

    #[test]
    fn scores_by_class_and_together() {
        let score = ClassifierScore::of(&[2.0, -1.0, -2.0, 1.0], &[1.0, 0.0, 1.0, 1.0], 2);
        assert_eq!(score.map, Some(1.0));
        // Two hits, none wrong, one missed.
        assert_eq!(score.f1, Some(4.0 / 5.0));
        assert_eq!(ClassifierScore::of(&[-1.0], &[0.0], 1), ClassifierScore::default());
    }
}
