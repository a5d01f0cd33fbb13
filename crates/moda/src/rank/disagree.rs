//! How far several answers to one question differ, and how unsure a router is.

use super::doubt::entropy_of;

/// IoU of the masks `z > 0` of two answers; 1 where both are empty.
pub fn iou(a: &[f32], b: &[f32]) -> f64 {
    let (mut both, mut either) = (0_u64, 0_u64);
    for (a, b) in a.iter().zip(b) {
        let (a, b) = (*a > 0.0, *b > 0.0);
        both += u64::from(a && b);
        either += u64::from(a || b);
    }
    if either == 0 { 1.0 } else { both as f64 / either as f64 }
}

/// One less the mean IoU of all pairs of answers: to boxes moved a little ("prompt jitter"), or of two decoders. 0 for fewer
/// than two.
pub fn disagreement(answers: &[&[f32]]) -> f64 {
    let pairs = answers.iter().enumerate().flat_map(|(i, a)| answers[..i].iter().map(move |b| iou(a, b)));
    let (sum, count) = pairs.fold((0.0, 0_u64), |(sum, count), iou| (sum + iou, count + 1));
    if count == 0 { 0.0 } else { 1.0 - sum / count as f64 }
}

/// The variance of `p` among answers that lie one over the other, mean over a region; for flipped and turned pictures whose
/// answers were turned back ("test-time augmentation"). `None` for an empty region.
pub fn variance(answers: &[&[f32]], region: &[bool]) -> Option<f64> {
    over_region(answers, region, |p| {
        let mean = p.iter().sum::<f64>() / p.len() as f64;
        p.iter().map(|p| (p - mean).powi(2)).sum::<f64>() / p.len() as f64
    })
}

/// `H(mean p) - mean H(p)`, mean over a region, nats, 0 to ln 2: the part of the entropy that comes from answers that differ
/// (BALD, Houlsby et al. 2011). `None` for an empty region.
pub fn bald(answers: &[&[f32]], region: &[bool]) -> Option<f64> {
    over_region(answers, region, |p| {
        let count = p.len() as f64;
        let mean = p.iter().sum::<f64>() / count;
        // Rounding can leave less than nothing.
        (entropy_of(mean) - p.iter().map(|p| entropy_of(*p)).sum::<f64>() / count).max(0.0)
    })
}

fn over_region(answers: &[&[f32]], region: &[bool], f: impl Fn(&[f64]) -> f64) -> Option<f64> {
    let (mut sum, mut count) = (0.0, 0_u64);
    let mut values = Vec::with_capacity(answers.len());
    for (i, _) in region.iter().enumerate().filter(|(_, counts)| **counts) {
        values.clear();
        values.extend(answers.iter().filter_map(|answer| answer.get(i)).map(|z| sigmoid(f64::from(*z))));
        if !values.is_empty() {
            sum += f(&values);
            count += 1;
        }
    }
    (count > 0).then(|| sum / count as f64)
}

fn sigmoid(z: f64) -> f64 {
    1.0 / (1.0 + (-z).exp())
}

/// How much the answer depends on which adapter is taken: `sum_d pi_d (1 - IoU(M_d, M_top))`, of the router's probabilities
/// `pi` and the adapters' answers, where the top one is the most probable.
pub fn adapter_disagreement(probabilities: &[f64], answers: &[&[f32]]) -> f64 {
    let pairs = || probabilities.iter().zip(answers);
    let Some((_, top)) = pairs().max_by(|a, b| a.0.total_cmp(b.0)) else { return 0.0 };
    pairs().map(|(p, answer)| p * (1.0 - iou(answer, top))).sum()
}

/// One less the distance of the two largest of a router's probabilities.
pub fn route_margin(probabilities: &[f64]) -> f64 {
    let (first, second) = probabilities.iter().fold((0.0_f64, 0.0_f64), |(first, second), p| {
        if *p > first { (*p, first) } else { (first, second.max(*p)) }
    });
    1.0 - (first - second)
}

/// The entropy of a router's probabilities, nats.
pub fn route_entropy(probabilities: &[f64]) -> f64 {
    probabilities.iter().filter(|p| **p > 0.0).map(|p| -p * p.ln()).sum()
}

/// The energy `-ln sum exp` of a router's logits (Liu et al. 2020): high for what is like none of its classes.
pub fn energy(logits: &[f64]) -> f64 {
    let most = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    if most.is_finite() { -(most + logits.iter().map(|z| (z - most).exp()).sum::<f64>().ln()) } else { -most }
}

/// The distance of a picture's feature vector to the nearest known one; infinite where none is known.
pub fn novelty(query: &[f32], known: &[Vec<f32>]) -> f64 {
    known.iter().map(|other| distance(query, other)).fold(f64::INFINITY, f64::min)
}

/// The Euclidean distance of two vectors.
pub(super) fn distance(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>().sqrt()
}

#[cfg(test)]
mod tests {
    use std::f64::consts::LN_2;

    use super::*;

    #[track_caller]
    fn near(found: f64, expected: f64) {
        assert!((found - expected).abs() < 1e-6, "{found}, expected {expected}");
    }

    #[test]
    fn answers_that_differ() {
        let (a, b, empty) = ([1.0, 1.0, -1.0, -1.0], [1.0, -1.0, -1.0, -1.0], [-1.0; 4]);
        near(iou(&a, &b), 0.5);
        near(iou(&empty, &empty), 1.0);
        near(iou(&a, &empty), 0.0);
        near(disagreement(&[&a, &b]), 0.5);
        // IoU 0.5, 0, 0.
        near(disagreement(&[&a, &b, &empty]), 1.0 - 0.5 / 3.0);
        near(disagreement(&[&a, &a, &a]), 0.0);
        near(disagreement(&[&a]), 0.0);

        // Sure of the opposite: all entropy is disagreement. Unsure alike: none is.
        let (yes, no, half) = ([40.0_f32], [-40.0_f32], [0.0_f32]);
        near(bald(&[&yes, &no], &[true]).unwrap(), LN_2);
        near(bald(&[&half, &half], &[true]).unwrap(), 0.0);
        near(bald(&[&yes, &half], &[true]).unwrap(), entropy_of(0.75) - LN_2 / 2.0);
        near(variance(&[&yes, &no], &[true]).unwrap(), 0.25);
        near(variance(&[&yes, &half], &[true]).unwrap(), 0.0625);
        assert_eq!((bald(&[&yes], &[false]), bald(&[], &[true])), (None, None));
    }

    #[test]
    fn routers_in_doubt() {
        let (a, b) = ([1.0, 1.0], [1.0, -1.0]);
        near(adapter_disagreement(&[0.3, 0.7], &[&a, &b]), 0.3 * 0.5);
        near(adapter_disagreement(&[0.3, 0.7], &[&a, &a]), 0.0);
        near(adapter_disagreement(&[], &[]), 0.0);
        near(route_margin(&[0.2, 0.7, 0.1]), 0.5);
        near(route_margin(&[0.5, 0.5]), 1.0);
        near(route_margin(&[1.0]), 0.0);
        near(route_entropy(&[0.5, 0.5, 0.0]), LN_2);
        near(energy(&[0.0, 0.0]), -LN_2);
        near(energy(&[1000.0, 1000.0]), -1000.0 - LN_2);
        assert!(energy(&[0.1, 0.2]) > energy(&[5.0, 0.2]), "known things have little energy");
        near(novelty(&[0.0, 0.0], &[vec![3.0, 4.0], vec![6.0, 8.0]]), 5.0);
        assert_eq!(novelty(&[0.0], &[]), f64::INFINITY);
    }
}
