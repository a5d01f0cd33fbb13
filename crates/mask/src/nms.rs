//! Greedy non-maximum suppression.

use std::cmp::Ordering;

use crate::BBox;

/// Indices of the boxes that survive, best score first.
///
/// Goes through the boxes by descending score (equal scores: lower index first; NaN last) and drops
/// each one whose IoU with a kept one is greater than `iou_threshold`. Areas are plain products
/// without "+ 1", and a box of no area has IoU 0 with everything, so the result is torchvision's.
/// A box beyond the end of `scores` counts as scored NaN; scores beyond the boxes are ignored.
pub fn nms(boxes: &[BBox], scores: &[f64], iou_threshold: f64) -> Vec<usize> {
    let score = |i: usize| scores.get(i).copied().unwrap_or(f64::NAN);
    let mut order: Vec<usize> = (0..boxes.len()).collect();
    order.sort_by(|&a, &b| descending(score(a), score(b)));

    let mut kept: Vec<usize> = Vec::new();
    for candidate in order {
        if !kept.iter().any(|&k| boxes[k].iou(&boxes[candidate]) > iou_threshold) {
            kept.push(candidate);
        }
    }
    kept
}

fn descending(a: f64, b: f64) -> Ordering {
    // NaN compares as "none" with everything; the flags put it behind every number.
    b.partial_cmp(&a).unwrap_or_else(|| a.is_nan().cmp(&b.is_nan()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(x: f64) -> BBox {
        BBox::new(x, 0.0, x + 10.0, 10.0)
    }

    #[test]
    fn keeps_the_best_of_each_heap() {
        let boxes = [at(0.0), at(1.0), at(50.0), at(51.0)];
        assert_eq!(nms(&boxes, &[0.5, 0.9, 0.8, 0.7], 0.5), [1, 2]);
    }

    #[test]
    fn the_threshold_itself_survives() {
        // IoU = 5 / 15.
        let boxes = [at(0.0), at(5.0)];
        assert_eq!(nms(&boxes, &[1.0, 1.0], 1.0 / 3.0), [0, 1]);
        assert_eq!(nms(&boxes, &[1.0, 1.0], 0.33), [0]);
    }

    #[test]
    fn ties_nan_and_missing_scores() {
        let boxes = [at(0.0), at(100.0), at(200.0), at(300.0)];
        assert_eq!(nms(&boxes, &[f64::NAN, 0.5, 0.5, f64::NEG_INFINITY], 0.5), [1, 2, 3, 0]);
        assert_eq!(nms(&boxes, &[0.1, 0.2], 0.5), [1, 0, 2, 3]);
        assert_eq!(nms(&[], &[1.0], 0.5), Vec::<usize>::new());
    }

    #[test]
    fn boxes_without_area_are_never_suppressed() {
        let dot = BBox::new(1.0, 1.0, 1.0, 1.0);
        assert_eq!(nms(&[at(0.0), dot, dot], &[1.0, 0.9, 0.8], 0.0), [0, 1, 2]);
    }
}
