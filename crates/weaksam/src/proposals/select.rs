//! Which boxes stay.

use kirie_mask::BBox;
use kirie_metrics::inclusive_box;

use crate::files::{Corners, ImageProposals, Source};

/// "NMS without scores", as published: the first box stays, all that overlap it by more than the threshold go, and so on with what
/// is left, in the order they came. Gives the indices of those that stay.
///
/// The published overlap takes the right and lower corner for pixels of the box; boxes here end behind their last pixel, so plain
/// overlap of these is the same.
pub fn nms_in_order(boxes: &[BBox], threshold: f64) -> Vec<usize> {
    // Greedy suppression with equal scores goes by index.
    kirie_mask::nms(boxes, &vec![1.0; boxes.len()], threshold)
}

/// The same for boxes whose second corner is their last pixel (the published convention, with "+ 1").
pub fn nms_in_order_inclusive(boxes: &[BBox], threshold: f64) -> Vec<usize> {
    let edges: Vec<BBox> = boxes.iter().map(|bbox| BBox::from_xywh(inclusive_box(bbox))).collect();
    nms_in_order(&edges, threshold)
}

/// A proposal.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Proposal {
    /// Where, pixels, the edges behind the last pixel.
    pub corners: Corners,
    /// The model's own estimate of its mask.
    pub score: f32,
    /// What asked for it.
    pub source: Source,
}

/// Takes off boxes with a side below `min_side` pixels, exact duplicates of an earlier one, and, beyond `limit` (0 for none), those
/// with the lowest scores. The order stays. If nothing is left, the whole picture is the one proposal: a detector cannot learn from
/// none.
pub fn tidy(
    mut proposals: Vec<Proposal>,
    [width, height]: [u32; 2],
    min_side: f32,
    limit: usize,
) -> Vec<Proposal> {
    let mut seen = std::collections::HashSet::new();
    proposals.retain(|proposal| {
        let [x0, y0, x1, y1] = proposal.corners;
        x1 - x0 >= min_side && y1 - y0 >= min_side && seen.insert(proposal.corners.map(f32::to_bits))
    });
    if limit > 0 && proposals.len() > limit {
        let mut order: Vec<usize> = (0..proposals.len()).collect();
        order.sort_by(|a, b| proposals[*b].score.total_cmp(&proposals[*a].score));
        let mut stays = vec![false; proposals.len()];
        order[..limit].iter().for_each(|index| stays[*index] = true);
        let mut stays = stays.into_iter();
        proposals.retain(|_| stays.next() == Some(true));
    }
    if proposals.is_empty() {
        let corners = [0.0, 0.0, width as f32, height as f32];
        proposals.push(Proposal { corners, score: 0.0, source: Source::Grid });
    }
    proposals
}

/// Puts proposals into the form of the file.
pub(super) fn into_record(
    proposals: &[Proposal],
    file: &str,
    [width, height]: [u32; 2],
    labels: Vec<String>,
) -> ImageProposals {
    ImageProposals {
        file: file.to_owned(),
        width,
        height,
        labels,
        boxes: proposals.iter().map(|p| p.corners).collect(),
        scores: proposals.iter().map(|p| p.score).collect(),
        source: proposals.iter().map(|p| p.source).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_box_of_a_heap_stays() {
        let at = |x: f64| BBox::new(x, 0.0, x + 99.0, 99.0);
        // 1 pixel aside: 99 / 101 = 0.980; 10 aside: 90 / 110 = 0.818, both with "+ 1".
        let boxes = [at(10.0), at(0.0), at(1.0), at(11.0)];
        assert_eq!(nms_in_order_inclusive(&boxes, 0.9), [0, 1]);
        assert_eq!(nms_in_order_inclusive(&boxes, 0.99), [0, 1, 2, 3]);
        // Where "+ 1" decides: 2 of 3 pixels, or 1 of 2 without.
        let small = [BBox::new(0.0, 0.0, 1.0, 2.0), BBox::new(0.0, 0.0, 2.0, 2.0)];
        assert_eq!(nms_in_order_inclusive(&small, 0.6), [0]);
        assert_eq!(nms_in_order(&small, 0.6), [0, 1]);
    }

    #[test]
    fn what_is_small_double_or_too_much_goes() {
        let one = |corners: Corners, score: f32| Proposal { corners, score, source: Source::Fine };
        let all = vec![
            one([0.0, 0.0, 10.0, 10.0], 0.2),
            one([0.0, 0.0, 10.0, 3.0], 0.9),
            one([0.0, 0.0, 10.0, 10.0], 0.8),
            one([5.0, 5.0, 20.0, 20.0], 0.7),
            one([6.0, 5.0, 20.0, 20.0], 0.6),
        ];
        let kept =
            |limit| tidy(all.clone(), [30, 30], 4.0, limit).iter().map(|p| p.score).collect::<Vec<_>>();
        assert_eq!(kept(0), [0.2, 0.7, 0.6]);
        assert_eq!(kept(2), [0.7, 0.6]);
        let nothing = tidy(Vec::new(), [30, 20], 4.0, 0);
        assert_eq!(nothing.iter().map(|p| p.corners).collect::<Vec<_>>(), [[0.0, 0.0, 30.0, 20.0]]);
    }
}
