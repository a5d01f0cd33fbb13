//! Recall of box or mask proposals, categories aside.
//!
//! COCO's AR at a number of proposals is [`CocoParams::proposals`](crate::CocoParams::proposals); this is the
//! plain recall at chosen IoUs that the papers on weak supervision report.

use serde::{Deserialize, Serialize};

use crate::MetricsError;
use crate::detection::Region;
use crate::error::finite;

/// Which proposal an object is compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Matching {
    /// A proposal serves one object: again and again the object with the highest IoU left takes its proposal
    /// and both are done with. The evaluation of the WeakSAM repository (and of mmdetection), which takes all
    /// objects, difficult ones too, and boxes through [`inclusive_box`](crate::inclusive_box).
    OneToOne,
    /// Each object takes its best proposal, whoever else does. At least as high; differs in crowded images.
    Best,
}

/// The share of all objects that a proposal overlaps with at least each of the IoU thresholds, one figure per
/// threshold, each 0 to 1; `None` without any object.
///
/// Each image is its objects and its proposals, best first; of these the first `limit` are looked at.
///
/// # Errors [`MetricsError::NotFinite`] for boxes or thresholds that are NaN or infinite,
/// [`MetricsError::Mask`] when masks of one image differ in size.
pub fn proposal_recall<R: Region>(
    images: &[(&[R], &[R])],
    limit: usize,
    iou_thresholds: &[f64],
    matching: Matching,
) -> Result<Option<Vec<f64>>, MetricsError> {
    for (index, &threshold) in iou_thresholds.iter().enumerate() {
        finite("IoU threshold", index, threshold)?;
    }
    let mut overlaps = Vec::new();
    for &(objects, proposals) in images {
        for (what, regions) in [("box of object", objects), ("box of proposal", proposals)] {
            regions.iter().enumerate().try_for_each(|(index, region)| region.check(what, index))?;
        }
        let objects: Vec<&R> = objects.iter().collect();
        let proposals: Vec<&R> = proposals.iter().take(limit).collect();
        let ious = R::ious(&objects, &proposals, &vec![false; proposals.len()])?;
        // Without proposals nothing overlaps, but the objects count.
        let rows: Vec<&[f64]> =
            if ious.is_empty() { vec![&[]; objects.len()] } else { ious.chunks(proposals.len()).collect() };
        match matching {
            Matching::OneToOne => overlaps.extend(one_to_one(&rows, proposals.len())),
            Matching::Best => {
                overlaps.extend(rows.iter().map(|row| highest(row.iter().copied().enumerate()).1));
            }
        }
    }
    let recall = |&threshold: &f64| {
        let reached = overlaps.iter().filter(|&&overlap| overlap >= threshold).count();
        reached as f64 / overlaps.len() as f64
    };
    Ok((!overlaps.is_empty()).then(|| iou_thresholds.iter().map(recall).collect()))
}

/// The first position of the highest IoU, and that IoU; one below every threshold when there is none.
fn highest(ious: impl Iterator<Item = (usize, f64)>) -> (usize, f64) {
    ious.fold((usize::MAX, f64::NEG_INFINITY), |best, next| if next.1 > best.1 { next } else { best })
}

/// The IoU at which each object gets a proposal of its own. `rows` holds IoUs by proposal for each object.
fn one_to_one(rows: &[&[f64]], proposals: usize) -> Vec<f64> {
    let mut taken = vec![false; proposals];
    let free =
        |row: &[f64], taken: &[bool]| highest(row.iter().copied().enumerate().filter(|&(p, _)| !taken[p]));
    let mut best: Vec<(usize, f64)> = rows.iter().map(|row| free(row, &taken)).collect();
    let mut waiting: Vec<usize> = (0..rows.len()).collect();
    let mut overlaps = Vec::with_capacity(rows.len());
    while !waiting.is_empty() {
        let (at, overlap) = highest(waiting.iter().map(|&object| best[object].1).enumerate());
        overlaps.push(overlap);
        if at == usize::MAX {
            // More objects than proposals: the rest gets none.
            overlaps.resize(rows.len(), f64::NEG_INFINITY);
            break;
        }
        let proposal = best[waiting.remove(at)].0;
        taken[proposal] = true;
        for &object in &waiting {
            if best[object].0 == proposal {
                best[object] = free(rows[object], &taken);
            }
        }
    }
    overlaps
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: [f64; 4] = [0.0, 0.0, 10.0, 10.0];
    const SHIFTED: [f64; 4] = [2.0, 0.0, 10.0, 10.0];

    #[test]
    fn one_proposal_serves_one_object_or_all() {
        // IoU of A and SHIFTED: 80 / 120.
        let images: [(&[_], &[_]); 1] = [(&[SHIFTED, A], &[A])];
        let recall = |matching| proposal_recall(&images, 100, &[0.5, 0.75, 0.9], matching);
        assert_eq!(recall(Matching::OneToOne), Ok(Some(vec![0.5, 0.5, 0.5])));
        assert_eq!(recall(Matching::Best), Ok(Some(vec![1.0, 0.5, 0.5])));
    }

    #[test]
    fn the_limit_leaves_out_later_proposals() {
        let images: [(&[_], &[_]); 2] = [(&[A], &[SHIFTED, A]), (&[A], &[])];
        for matching in [Matching::OneToOne, Matching::Best] {
            let recall = |limit| proposal_recall(&images, limit, &[0.5, 0.9], matching);
            assert_eq!(recall(2), Ok(Some(vec![0.5, 0.5])));
            assert_eq!(recall(1), Ok(Some(vec![0.5, 0.0])));
            assert_eq!(recall(0), Ok(Some(vec![0.0, 0.0])));
        }
    }

    #[test]
    fn nothing_and_nonsense() {
        let nothing: [(&[_], &[_]); 1] = [(&[], &[A])];
        assert_eq!(proposal_recall(&nothing, 9, &[0.5], Matching::OneToOne), Ok(None));
        let nan: [(&[_], &[_]); 1] = [(&[A], &[[f64::NAN; 4]])];
        assert!(proposal_recall(&nan, 9, &[0.5], Matching::Best).is_err());
        assert!(proposal_recall(&nothing, 9, &[f64::NAN], Matching::Best).is_err());
    }
}
