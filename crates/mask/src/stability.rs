//! SAM's stability score.

/// How little a mask changes when its threshold moves: pixels with `logit > threshold + offset` over
/// pixels with `logit > threshold - offset`, 0 to 1.
///
/// `logits` are the mask's values before thresholding, any frame, any order. SAM's mask generator
/// takes them at crop resolution with threshold 0 and offset 1. A mask with nothing above the lower
/// threshold gives NaN, which fails every comparison, as in the reference.
pub fn stability_score(logits: &[f32], threshold: f32, offset: f32) -> f64 {
    let above = |t: f32| logits.iter().filter(|&&l| l > t).count() as f64;
    above(threshold + offset) / above(threshold - offset)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reference_values() {
        let logits = [-2.0, -0.5, 0.0, 0.5, 1.0, 1.5, 3.0, -1.0];
        assert_eq!(stability_score(&logits, 0.0, 1.0), 2.0 / 6.0);
        assert!(stability_score(&[-5.0; 8], 0.0, 1.0).is_nan());
        assert!(stability_score(&[], 0.0, 1.0).is_nan());
    }
}
