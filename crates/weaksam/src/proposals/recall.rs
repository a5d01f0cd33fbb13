//! How many true boxes the proposals hold. Scoring only: nothing here is seen by a stage that learns.

use std::collections::BTreeMap;

use kirie_metrics::{Matching, proposal_recall};
use serde::{Deserialize, Serialize};

use crate::WeakError;
use crate::files::{ImageProposals, Proposals, Source, to_bbox};
use crate::measure::Truth;

/// Overlaps that recall is stated at.
pub const THRESHOLDS: [f64; 3] = [0.5, 0.75, 0.9];
/// Numbers of proposals a picture, best first, that recall is stated at too.
pub const LIMITS: [usize; 6] = [10, 30, 100, 300, 1000, 3000];

/// Boxes of a picture, x, y, width, height.
type Boxes = Vec<[f64; 4]>;

/// Recall of some proposals.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Recall {
    /// Pictures scored.
    pub pictures: usize,
    /// True boxes, crowds left out.
    pub boxes: usize,
    /// Proposals a picture, mean.
    pub proposals: f64,
    /// Overlaps of the following.
    pub thresholds: [f64; 3],
    /// Each true box with its best proposal, by overlap.
    pub best: [f64; 3],
    /// Each with a proposal of its own, as published, by overlap.
    pub one_to_one: [f64; 3],
    /// The other way round: the share of the proposals that overlap a true box so much. A detector that begins without knowing
    /// anything begins with this chance.
    pub on_objects: [f64; 3],
    /// With the best-scored so many a picture, each true box with its best proposal.
    pub limited: Vec<Limited>,
    /// Mean overlap of true boxes with their best proposal.
    pub mean_best_overlap: f64,
    /// The same by class, and how many boxes.
    pub classes: BTreeMap<String, (f64, usize)>,
}

/// Recall with only some proposals.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Limited {
    /// Proposals a picture at most.
    pub limit: usize,
    /// Recall by overlap.
    pub best: [f64; 3],
}

/// Scores proposals, those of some sources or of all. Pictures are found by their file.
///
/// # Errors
/// True boxes of no picture among the proposals.
pub fn recall(proposals: &Proposals, truth: &Truth, sources: Option<&[Source]>) -> Result<Recall, WeakError> {
    let mut pairs: Vec<(Boxes, Boxes)> = Vec::new();
    let mut overlaps: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    let (mut count, mut on_objects) = (0, [0_usize; 3]);
    for image in &proposals.images {
        let Some((_, objects)) = truth.pictures.get(&image.file) else { continue };
        let chosen = |index: usize| sources.is_none_or(|sources| sources.contains(&image.source[index]));
        let mut order: Vec<usize> = (0..image.boxes.len()).filter(|index| chosen(*index)).collect();
        order.sort_by(|a, b| image.scores[*b].total_cmp(&image.scores[*a]));
        let found: Vec<_> = order.iter().map(|index| to_bbox(image.boxes[*index])).collect();
        let objects: Vec<_> = objects.iter().filter(|object| !object.crowd).collect();
        for object in &objects {
            let best = found.iter().map(|bbox| bbox.iou(&object.bbox)).fold(0.0, f64::max);
            overlaps.entry(truth.classes[object.class].clone()).or_default().push(best);
        }
        count += found.len();
        for bbox in &found {
            let best = objects.iter().map(|object| bbox.iou(&object.bbox)).fold(0.0, f64::max);
            for (hits, threshold) in on_objects.iter_mut().zip(THRESHOLDS) {
                *hits += usize::from(best >= threshold);
            }
        }
        pairs.push((
            objects.iter().map(|object| object.bbox.to_xywh()).collect(),
            found.iter().map(kirie_mask::BBox::to_xywh).collect(),
        ));
    }
    let images: Vec<_> =
        pairs.iter().map(|(objects, found)| (objects.as_slice(), found.as_slice())).collect();
    let of = |limit: usize, matching: Matching| -> Result<[f64; 3], WeakError> {
        let recall = proposal_recall(&images, limit, &THRESHOLDS, matching)?;
        recall.and_then(|recall| recall.try_into().ok()).ok_or_else(|| WeakError::Labels {
            set: "the true boxes".to_owned(),
            reason: "none is in a picture that has proposals".to_owned(),
        })
    };
    let best = of(usize::MAX, Matching::Best)?;
    let boxes: usize = overlaps.values().map(Vec::len).sum();
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len().max(1) as f64;
    let limited = LIMITS.into_iter().map(|limit| Ok(Limited { limit, best: of(limit, Matching::Best)? }));
    Ok(Recall {
        pictures: pairs.len(),
        boxes,
        proposals: count as f64 / pairs.len().max(1) as f64,
        thresholds: THRESHOLDS,
        best,
        one_to_one: of(usize::MAX, Matching::OneToOne)?,
        on_objects: on_objects.map(|hits| hits as f64 / count.max(1) as f64),
        limited: limited.collect::<Result<_, WeakError>>()?,
        mean_best_overlap: mean(&overlaps.values().flatten().copied().collect::<Vec<f64>>()),
        classes: overlaps.iter().map(|(class, own)| (class.clone(), (mean(own), own.len()))).collect(),
    })
}

/// Of other proposals for the pictures of `own`, in each picture as many as `own` has there, the best-scored: what they are worth at
/// an equal number. Where they are fewer, all of them.
///
/// # Errors
/// A picture of `own` that the others do not have.
pub fn as_many(others: &Proposals, own: &Proposals) -> Result<Proposals, WeakError> {
    let by_file: BTreeMap<&str, &ImageProposals> =
        others.images.iter().map(|image| (image.file.as_str(), image)).collect();
    let images = own.images.iter().map(|image| match by_file.get(image.file.as_str()) {
        Some(other) => Ok(other.best(image.boxes.len())),
        None => Err(WeakError::Labels {
            set: "the proposals to compare with".to_owned(),
            reason: format!("expected some for every picture, found none for {}", image.file),
        }),
    });
    Ok(Proposals { classes: own.classes.clone(), images: images.collect::<Result<_, _>>()? })
}

#[cfg(test)]
mod tests {
    use kirie_mask::BBox;

    use super::*;
    use crate::measure::TrueObject;

    fn all_but_the_first(proposals: &Proposals) -> Proposals {
        let mut rest = proposals.clone();
        rest.images[0].boxes.remove(0);
        rest.images[0].scores.remove(0);
        rest.images[0].source.remove(0);
        rest
    }

    #[test]
    fn known_overlaps_give_known_recall() {
        let object = |x1: f64, y1: f64, crowd: bool| {
            let bbox = BBox::new(0.0, 0.0, x1, y1);
            TrueObject { class: 0, bbox, area: bbox.area(), difficult: false, crowd, mask: None }
        };
        let first = vec![object(10.0, 10.0, false), object(10.0, 8.0, false), object(90.0, 90.0, true)];
        let pictures = BTreeMap::from([
            ("1.png".to_owned(), ([100, 100], first)),
            ("elsewhere.png".to_owned(), ([9, 9], vec![object(1.0, 1.0, false)])),
        ]);
        let truth = Truth { classes: vec!["a".to_owned()], pictures };
        let image = ImageProposals {
            file: "1.png".to_owned(),
            width: 100,
            height: 100,
            labels: Vec::new(),
            boxes: vec![[50.0, 50.0, 60.0, 60.0], [0.0, 0.0, 10.0, 10.0]],
            scores: vec![0.9, 0.5],
            source: vec![Source::Grid, Source::Fine],
        };
        let proposals = Proposals { classes: vec!["a".to_owned()], images: vec![image] };
        let all = recall(&proposals, &truth, None).unwrap();
        assert_eq!((all.pictures, all.boxes, all.proposals), (1, 2, 2.0));
        // 0.8 and 1 of the second proposal; only one of them may have it.
        assert_eq!(all.best, [1.0, 1.0, 0.5]);
        assert_eq!(all.one_to_one, [0.5, 0.5, 0.5]);
        // One of two proposals lies on an object, wholly.
        assert_eq!(all.on_objects, [0.5, 0.5, 0.5]);
        assert!((all.mean_best_overlap - 0.9).abs() < 1e-12);
        let grid = recall(&proposals, &truth, Some(&[Source::Grid])).unwrap();
        assert_eq!((grid.best, grid.proposals), ([0.0; 3], 1.0));
        assert!(recall(&Proposals::default(), &truth, None).is_err());

        // Two against one: of the two the better one is looked at, which is the worse for these boxes.
        let one = all_but_the_first(&proposals);
        assert_eq!(recall(&as_many(&proposals, &one).unwrap(), &truth, None).unwrap().best, [0.0; 3]);
        assert_eq!(as_many(&one, &proposals).unwrap().images, one.images);
        assert!(as_many(&Proposals::default(), &one).unwrap_err().to_string().contains("1.png"));
    }
}
