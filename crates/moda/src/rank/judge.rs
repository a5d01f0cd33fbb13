//! Whether a ranking is worth anything, on pictures whose true masks are known. One that does not beat chance should not be used.

use serde::Serialize;

use super::order::{descending, ranks};

/// IoU below this is an error that labelling should find.
const ERROR: f64 = 0.5;

/// How well doubt tells error.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Judgement {
    /// Pictures.
    pub pictures: usize,
    /// Spearman's rho of doubt and `1 - IoU`: 1 for the same order, 0 for chance; none where all are equal.
    pub spearman: Option<f64>,
    /// Share of the pictures with IoU below 0.5 that is among the most doubtful fifth; chance gives 0.2. None where there are no
    /// such pictures.
    pub recall_at_20: Option<f64>,
    /// Area under the risk-coverage curve: mean `1 - IoU` of the least doubtful pictures, averaged over how many are kept.
    /// Lower is better.
    pub aurc: f64,
    /// The same by chance: the mean `1 - IoU`.
    pub aurc_random: f64,
    /// The same for the true order, which no ranking can beat.
    pub aurc_oracle: f64,
}

/// Judges a ranking by the IoU of each picture; `None` without pictures.
pub fn judge(doubts: &[f64], ious: &[f64]) -> Option<Judgement> {
    let pictures = doubts.len().min(ious.len());
    let errors: Vec<f64> = ious.iter().take(pictures).map(|iou| 1.0 - iou).collect();
    let doubts = &doubts[..pictures];
    (pictures > 0).then(|| Judgement {
        pictures,
        spearman: spearman(doubts, &errors),
        recall_at_20: error_recall(doubts, &errors, 0.2),
        aurc: aurc(doubts, &errors),
        aurc_random: errors.iter().sum::<f64>() / pictures as f64,
        aurc_oracle: aurc(&errors, &errors),
    })
}

/// Spearman's rank correlation; `None` where one of them is constant.
pub fn spearman(a: &[f64], b: &[f64]) -> Option<f64> {
    let (a, b) = (ranks(a), ranks(b));
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
    let (mean_a, mean_b) = (mean(&a), mean(&b));
    let (mut both, mut of_a, mut of_b) = (0.0, 0.0, 0.0);
    for (a, b) in a.iter().zip(&b) {
        both += (a - mean_a) * (b - mean_b);
        of_a += (a - mean_a).powi(2);
        of_b += (b - mean_b).powi(2);
    }
    (of_a > 0.0 && of_b > 0.0).then(|| both / (of_a * of_b).sqrt())
}

/// The share of errors above one half that is among the first `budget` (a part, 0 to 1) by doubt; a picture of which only a
/// part falls into the budget counts with that part.
pub fn error_recall(doubts: &[f64], errors: &[f64], budget: f64) -> Option<f64> {
    let is_error = |i: usize| errors.get(i).is_some_and(|error| *error > 1.0 - ERROR);
    let all = (0..doubts.len()).filter(|i| is_error(*i)).count();
    let mut left = budget * doubts.len() as f64;
    let mut found = 0.0;
    for i in descending(doubts) {
        if is_error(i) {
            found += left.clamp(0.0, 1.0);
        }
        left -= 1.0;
    }
    (all > 0).then(|| found / all as f64)
}

/// The area under the risk-coverage curve: `1/n sum_k` of the mean error of the `k` least doubtful.
pub fn aurc(doubts: &[f64], errors: &[f64]) -> f64 {
    let mut order = descending(doubts);
    order.reverse();
    let (mut sum, mut area) = (0.0, 0.0);
    for (kept, i) in order.iter().enumerate() {
        sum += errors.get(*i).copied().unwrap_or(0.0);
        area += sum / (kept + 1) as f64;
    }
    area / (order.len().max(1)) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn near(found: f64, expected: f64) {
        assert!((found - expected).abs() < 1e-12, "{found}, expected {expected}");
    }

    #[test]
    fn good_and_bad_rankings() {
        let ious = [0.9, 0.1, 0.8, 0.3, 0.7];
        let right = judge(&[0.0, 0.9, 0.1, 0.8, 0.2], &ious).unwrap();
        near(right.spearman.unwrap(), 1.0);
        near(right.aurc, right.aurc_oracle);
        near(right.aurc_random, (0.1 + 0.9 + 0.2 + 0.7 + 0.3) / 5.0);
        // One picture of five is the budget, two are errors.
        near(right.recall_at_20.unwrap(), 0.5);
        // 0.1; 0.15; 0.2; 0.325; 0.44
        near(right.aurc, (0.1 + 0.15 + 0.2 + 1.3 / 4.0 + 2.2 / 5.0) / 5.0);

        let wrong = judge(&[0.9, 0.0, 0.8, 0.1, 0.2], &ious).unwrap();
        near(wrong.spearman.unwrap(), -1.0);
        assert!(wrong.aurc > wrong.aurc_random && wrong.recall_at_20 == Some(0.0));
        let none = judge(&[0.5; 3], &[0.9, 0.8, 0.7]).unwrap();
        assert_eq!((none.spearman, none.recall_at_20), (None, None));
        assert_eq!(judge(&[], &[]), None);
        near(error_recall(&[3.0, 2.0, 1.0], &[0.9, 0.9, 0.0], 0.5).unwrap(), 0.75);
    }

    #[test]
    fn spearman_of_ties() {
        // Ranks 0, 1.5, 1.5, 3 and 0, 1, 2, 3: cov 4.5, variances 4.5 and 5.
        near(spearman(&[1.0, 2.0, 2.0, 3.0], &[1.0, 2.0, 3.0, 4.0]).unwrap(), 4.5 / (4.5_f64 * 5.0).sqrt());
    }
}
