//! How unsure one answer is.
//!
//! `logits` are a mask's values before the sigmoid, `z`; `p = sigmoid(z)`; the mask is `z > 0`. A region says pixel by pixel
//! what counts: means over whole pictures are told by their background and by the size of the mask.

use kirie_mask::{Mask, dilate, stability_score};

/// One less the IoU that a decoder's head predicts; predictions beyond 0 and 1 are taken as these.
///
/// In the HQ decoder the head judges SAM's mask, not the HQ one.
pub fn low_predicted_iou(predicted: f64) -> f64 {
    if predicted.is_nan() { 1.0 } else { 1.0 - predicted.clamp(0.0, 1.0) }
}

/// One less SAM's stability score: how much of the mask depends on where between `-offset` and `offset` it is cut. 1 where
/// nothing is above the lower of them.
pub fn instability(logits: &[f32], offset: f32) -> f64 {
    let score = stability_score(logits, 0.0, offset);
    if score.is_nan() { 1.0 } else { 1.0 - score }
}

/// The mask and `band` pixels around it, of logits in rows of `width`. Restricting the mean to where the answer is made is
/// what "selective uncertainty" means. Nothing where the logits are no such picture.
pub fn mask_and_band(logits: &[f32], width: usize, band: usize) -> Vec<bool> {
    let pixels = logits.iter().map(|z| *z > 0.0).collect();
    let height = logits.len().checked_div(width).unwrap_or(0);
    Mask::from_vec(width, height, pixels).map_or_else(|_| Vec::new(), |mask| dilate(&mask, band).into_vec())
}

/// The pixels whose logit is nearer to 0 than `limit`.
pub fn near_the_edge(logits: &[f32], limit: f32) -> Vec<bool> {
    logits.iter().map(|z| z.abs() < limit).collect()
}

/// Mean entropy `-p ln p - (1-p) ln(1-p)` of a region's pixels, nats, 0 to ln 2; `None` for an empty region.
pub fn entropy(logits: &[f32], region: &[bool]) -> Option<f64> {
    mean(logits, region, entropy_of_logit)
}

/// Mean of `1 - max(p, 1-p)`, 0 to 0.5 ("least confidence").
pub fn least_confidence(logits: &[f32], region: &[bool]) -> Option<f64> {
    mean(logits, region, |z| 1.0 / (1.0 + z.abs().exp()))
}

/// Mean of `1 - |2p - 1|`, 0 to 1 ("margin"): twice [`least_confidence`], as there are two classes.
pub fn margin(logits: &[f32], region: &[bool]) -> Option<f64> {
    least_confidence(logits, region).map(|value| 2.0 * value)
}

/// The entropy of `sigmoid(z)`, nats. From the logit, because `1 - p` of a sure pixel is 0 in floating point.
pub(super) fn entropy_of_logit(z: f64) -> f64 {
    let z = z.abs();
    let small = (-z).exp();
    small.ln_1p() + z * small / (1.0 + small)
}

/// The entropy of a probability, nats.
pub(super) fn entropy_of(p: f64) -> f64 {
    let term = |p: f64| if p > 0.0 { -p * p.ln() } else { 0.0 };
    term(p) + term(1.0 - p)
}

fn mean(logits: &[f32], region: &[bool], f: impl Fn(f64) -> f64) -> Option<f64> {
    let (sum, count) = logits
        .iter()
        .zip(region)
        .filter(|(_, counts)| **counts)
        .fold((0.0, 0_u64), |(sum, count), (z, _)| (sum + f(f64::from(*z)), count + 1));
    (count > 0).then(|| sum / count as f64)
}

#[cfg(test)]
mod tests {
    use std::f64::consts::LN_2;

    use super::*;

    #[track_caller]
    fn near(found: f64, expected: f64) {
        // Logits are float32.
        assert!((found - expected).abs() < 1e-7, "{found}, expected {expected}");
    }

    #[test]
    fn formulas() {
        near(low_predicted_iou(0.8), 0.2);
        assert_eq!([1.3, -0.2, f64::NAN].map(low_predicted_iou), [0.0, 1.0, 1.0]);

        // 2 above 1, 6 above -1.
        near(instability(&[-2.0, -0.5, 0.0, 0.5, 1.0, 1.5, 3.0, -1.0], 1.0), 1.0 - 2.0 / 6.0);
        near(instability(&[-5.0; 4], 1.0), 1.0);
        near(instability(&[5.0, -5.0], 1.0), 0.0);

        // p = 0.75 for z = ln 3.
        let logits = [3.0_f32.ln(), 0.0, -50.0];
        let p: f64 = 0.75;
        let expected = -p * p.ln() - 0.25 * 0.25_f64.ln();
        near(entropy(&logits, &[true, false, false]).unwrap(), expected);
        near(entropy(&logits, &[false, true, false]).unwrap(), LN_2);
        near(least_confidence(&logits, &[false, true, false]).unwrap(), 0.5);
        near(margin(&logits, &[true, true, false]).unwrap(), 0.75);
        let sure = entropy(&logits, &[false, false, true]).unwrap();
        assert!(sure > 0.0 && sure < 1e-19, "{sure}: not lost to rounding");
        assert_eq!(entropy(&logits, &[false; 3]), None);
        assert_eq!(entropy(&[], &[]), None);
        for p in [0.0, 0.1, 0.5, 0.9, 1.0_f64] {
            let z = (p / (1.0 - p)).ln();
            near(entropy_of(p), if z.is_finite() { entropy_of_logit(z) } else { 0.0 });
        }
    }

    #[test]
    fn regions() {
        let mut logits = [-1.0_f32; 20];
        logits[7] = 2.0;
        let band = mask_and_band(&logits, 5, 1);
        // Pixel (2, 1) of 5x4 and its eight neighbours.
        let expected: Vec<bool> =
            (0..20).map(|i: i32| (i % 5 - 2).abs() <= 1 && (i / 5 - 1).abs() <= 1).collect();
        assert_eq!(band, expected);
        assert_eq!(mask_and_band(&logits, 5, 0).iter().filter(|set| **set).count(), 1);
        assert_eq!(mask_and_band(&[-1.0; 4], 2, 3), [false; 4]);
        assert!(mask_and_band(&logits, 0, 1).is_empty() && mask_and_band(&logits, 7, 1).is_empty());
        assert_eq!(near_the_edge(&[-2.0, -0.5, 0.0, 1.0], 1.0), [false, true, true, false]);
    }
}
