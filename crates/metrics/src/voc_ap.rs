//! PASCAL VOC's average precision, by 11 points and by all points, and CorLoc.
//!
//! Regions are boxes or masks ([`Region`]). VOC's boxes include their last pixel: hand them over through
//! [`inclusive_box`](crate::inclusive_box). Equal scores keep the order they came in (detectron2's own sort
//! is not stable, so its figures may differ where scores tie).

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::MetricsError;
use crate::detection::{Detection, Region, by_score};
use crate::error::finite;
use crate::numeric::mean;

/// An annotated object.
#[derive(Clone, Debug, PartialEq)]
pub struct VocObject<R> {
    /// Id of the image.
    pub image: u64,
    /// Id of the category.
    pub category: u64,
    /// Where.
    pub region: R,
    /// VOC's `difficult`: need not be found, and finding it counts neither for nor against.
    pub difficult: bool,
}

/// How a precision-recall curve becomes one number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Interpolation {
    /// Mean of the highest precision at or beyond recall 0, 0.1, ..., 1: VOC 2007 to 2009.
    ElevenPoints,
    /// Area under the curve made non-increasing: VOC 2010 on, and chainercv's instance segmentation.
    AllPoints,
}

/// How to measure VOC AP.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct VocParams {
    /// IoU from which a detection counts as right.
    pub iou_threshold: f64,
    /// Whether the IoU must lie above the threshold (the VOC devkit, detectron2) or may equal it (chainercv,
    /// and with it MIST and the usual evaluation of instance masks).
    pub strictly_above: bool,
    /// How the curve becomes a number.
    pub interpolation: Interpolation,
}

impl VocParams {
    /// VOC 2007's: IoU above 0.5, 11 points.
    pub fn voc2007() -> Self {
        Self { iou_threshold: 0.5, strictly_above: true, interpolation: Interpolation::ElevenPoints }
    }

    /// VOC 2010's and later: IoU above 0.5, all points.
    pub fn voc2010() -> Self {
        Self { interpolation: Interpolation::AllPoints, ..Self::voc2007() }
    }

    fn accepts(&self, iou: f64) -> bool {
        if self.strictly_above { iou > self.iou_threshold } else { iou >= self.iou_threshold }
    }
}

/// A figure by category, 0 to 1, and its mean.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ByCategory {
    /// Ids of the categories annotated, ascending, each with its figure; `None` where all its objects are
    /// difficult.
    pub categories: Vec<(u64, Option<f64>)>,
    /// Plain mean over the categories that have one; `None` if there is none.
    pub mean: Option<f64>,
}

/// VOC average precision of each category that `objects` names, and the mean (mAP).
///
/// Detections of a category over all images are taken best first. Each looks at the object of its image and
/// category that it overlaps most (the first of equals), and at no other: too little overlap, or an object
/// already found, makes it wrong; a difficult object leaves it uncounted. Detections of categories that
/// `objects` does not name are left out.
///
/// # Errors [`MetricsError::NotFinite`] for scores or boxes that are NaN (boxes: or infinite),
/// [`MetricsError::Mask`] when masks of one image differ in size.
pub fn voc_average_precision<R: Region>(
    objects: &[VocObject<R>],
    detections: &[Detection<R>],
    params: &VocParams,
) -> Result<ByCategory, MetricsError> {
    by_category(objects, detections, params, |images, detections| {
        let wanted = images.values().flatten().filter(|object| !object.difficult).count();
        let mut found = BTreeSet::new();
        let mut right = Vec::with_capacity(detections.len());
        for detection in detections {
            let objects = images.get(&detection.image).map_or(&[][..], Vec::as_slice);
            match most_overlapped(&detection.region, objects)?.filter(|&(_, iou)| params.accepts(iou)) {
                Some((object, _)) if objects[object].difficult => {}
                Some((object, _)) => right.push(found.insert((detection.image, object))),
                None => right.push(false),
            }
        }
        Ok(average_precision(&right, wanted, params.interpolation))
    })
}

/// CorLoc of each category that `objects` names, and the mean: of the images with an object of the category
/// that is not difficult, the share whose best-scored detection of it overlaps one of its objects there,
/// difficult ones included. An image without a detection counts as missed; of equal scores the first counts.
///
/// By detectron2's evaluator in the WeakSAM repository, IoU above 0.5 ([`VocParams::voc2007`]). The one of
/// MIST counts every overlapping detection and so presumes one per image and category.
///
/// # Errors
/// As for [`voc_average_precision`].
pub fn corloc<R: Region>(
    objects: &[VocObject<R>],
    detections: &[Detection<R>],
    params: &VocParams,
) -> Result<ByCategory, MetricsError> {
    by_category(objects, detections, params, |images, detections| {
        let mut best: BTreeMap<u64, &R> = BTreeMap::new();
        for detection in detections {
            best.entry(detection.image).or_insert(&detection.region);
        }
        let (mut located, mut wanted) = (0, 0);
        for (image, objects) in images {
            if objects.iter().all(|object| object.difficult) {
                continue;
            }
            wanted += 1;
            if let Some(region) = best.get(image) {
                let hit = most_overlapped(*region, objects)?.is_some_and(|(_, iou)| params.accepts(iou));
                located += u32::from(hit);
            }
        }
        Ok((wanted > 0).then(|| f64::from(located) / f64::from(wanted)))
    })
}

/// AP of a list of detections, best first, of which is known whether each is right, with `wanted` objects to
/// be found; 0 to 1, `None` without any. Precision is `right / (right + wrong)`.
///
/// The recalls of the 11 points are `i * 0.1` in `f64`, as NumPy's `arange(0, 1.1, 0.1)` has them: a recall
/// of exactly 3/10 is below the fourth.
///
/// ```
/// use kirie_metrics::{Interpolation, average_precision};
/// let right = [true, false, true, true, false, true];
/// let eleven = average_precision(&right, 6, Interpolation::ElevenPoints);
/// assert!((eleven.unwrap() - 0.515151515152).abs() < 1e-12);
/// let all = average_precision(&right, 6, Interpolation::AllPoints);
/// assert!((all.unwrap() - 0.527777777778).abs() < 1e-12);
/// ```
pub fn average_precision(right: &[bool], wanted: usize, interpolation: Interpolation) -> Option<f64> {
    if wanted == 0 {
        return None;
    }
    // Recall and precision after each right detection; the wrong ones in between only lower precision.
    let mut hits = 0;
    let mut curve: Vec<(f64, f64)> = Vec::new();
    for (position, _) in right.iter().enumerate().filter(|&(_, &right)| right) {
        hits += 1;
        curve.push((f64::from(hits) / wanted as f64, f64::from(hits) / (position + 1) as f64));
    }
    let mut highest = 0.0_f64;
    for (_, precision) in curve.iter_mut().rev() {
        highest = highest.max(*precision);
        *precision = highest;
    }
    Some(match interpolation {
        Interpolation::ElevenPoints => {
            let at = |i: u32| curve.iter().find(|(recall, _)| *recall >= f64::from(i) * 0.1);
            (0..=10).map(|i| at(i).map_or(0.0, |(_, precision)| precision / 11.0)).sum()
        }
        Interpolation::AllPoints => {
            let before = std::iter::once(0.0).chain(curve.iter().map(|(recall, _)| *recall));
            // A sum of nothing is -0.0.
            let steps = curve.iter().zip(before);
            0.0 + steps.map(|((recall, precision), before)| (recall - before) * precision).sum::<f64>()
        }
    })
}

/// The objects of one category, by image.
type Images<'a, R> = BTreeMap<u64, Vec<&'a VocObject<R>>>;

/// Checks the numbers, then computes a figure from the objects and the detections, best first, of each
/// category.
fn by_category<R: Region>(
    objects: &[VocObject<R>],
    detections: &[Detection<R>],
    params: &VocParams,
    figure: impl Fn(&Images<R>, &[&Detection<R>]) -> Result<Option<f64>, MetricsError>,
) -> Result<ByCategory, MetricsError> {
    finite("IoU threshold", 0, params.iou_threshold)?;
    let mut categories: BTreeMap<u64, (Images<R>, Vec<&Detection<R>>)> = BTreeMap::new();
    for (index, object) in objects.iter().enumerate() {
        object.region.check("box of object", index)?;
        let (images, _) = categories.entry(object.category).or_default();
        images.entry(object.image).or_default().push(object);
    }
    for (index, detection) in detections.iter().enumerate() {
        detection.check(index)?;
        if let Some((_, detections)) = categories.get_mut(&detection.category) {
            detections.push(detection);
        }
    }
    let mut figures = Vec::with_capacity(categories.len());
    for (id, (images, mut detections)) in categories {
        by_score(&mut detections);
        figures.push((id, figure(&images, &detections)?));
    }
    let known: Vec<f64> = figures.iter().filter_map(|&(_, figure)| figure).collect();
    Ok(ByCategory { categories: figures, mean: mean(&known) })
}

/// The first of the objects that a region overlaps most, and the IoU; `None` without objects.
fn most_overlapped<R: Region>(
    region: &R,
    objects: &[&VocObject<R>],
) -> Result<Option<(usize, f64)>, MetricsError> {
    let regions: Vec<&R> = objects.iter().map(|object| &object.region).collect();
    let ious = R::ious(&[region], &regions, &vec![false; regions.len()])?;
    Ok(ious.into_iter().enumerate().reduce(|best, next| if next.1 > best.1 { next } else { best }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(image: u64, x: f64, difficult: bool) -> VocObject<[f64; 4]> {
        VocObject { image, category: 1, region: [x, 0.0, 10.0, 10.0], difficult }
    }

    fn detection(image: u64, x: f64, score: f64) -> Detection<[f64; 4]> {
        Detection::new(image, 1, [x, 0.0, 10.0, 10.0], score)
    }

    #[test]
    fn a_recall_of_three_tenths_is_below_the_fourth_point() {
        let ap = |hits| average_precision(&vec![true; hits], 10, Interpolation::ElevenPoints);
        let points = |n: u32| Some((0..n).map(|_| 1.0 / 11.0).sum::<f64>());
        assert_eq!(ap(2), points(3));
        assert_eq!(ap(3), points(3));
        assert_eq!(ap(4), points(5));
        assert_eq!(ap(6), points(6));
        assert_eq!(ap(7), points(7));
        assert_eq!(ap(10), points(11));
    }

    #[test]
    fn no_objects_and_no_detections() {
        for interpolation in [Interpolation::ElevenPoints, Interpolation::AllPoints] {
            assert_eq!(average_precision(&[false, true], 0, interpolation), None);
            assert_eq!(average_precision(&[], 3, interpolation), Some(0.0));
            assert_eq!(average_precision(&[false], 3, interpolation), Some(0.0));
        }
        let none = ByCategory { categories: vec![], mean: None };
        assert_eq!(voc_average_precision(&[], &[detection(1, 0.0, 1.0)], &VocParams::voc2007()), Ok(none));
    }

    #[test]
    fn doubles_are_wrong_and_difficult_objects_do_not_count() {
        let objects = [object(1, 0.0, false), object(1, 100.0, true), object(2, 0.0, false)];
        let detections = [
            detection(1, 0.0, 0.9),
            detection(1, 1.0, 0.8),   // the same object again: wrong
            detection(1, 100.0, 0.7), // difficult: not counted
            detection(2, 0.0, 0.6),
            detection(3, 0.0, 0.5), // no object there: wrong
        ];
        let ap = voc_average_precision(&objects, &detections, &VocParams::voc2010()).expect("numbers");
        let expected = 0.5 * 1.0 + 0.5 * (2.0 / 3.0);
        assert_eq!(ap, ByCategory { categories: vec![(1, Some(expected))], mean: Some(expected) });
    }

    #[test]
    fn no_second_best_object() {
        // Overlaps the found one most; the free one would do as well at this threshold, but is not asked.
        let objects = [object(1, 0.0, false), object(1, 6.0, false)];
        let detections = [detection(1, 0.0, 0.9), detection(1, 2.5, 0.8)];
        let params = VocParams { iou_threshold: 0.25, ..VocParams::voc2010() };
        let ap = voc_average_precision(&objects, &detections, &params).expect("numbers");
        assert_eq!(ap.mean, Some(0.5));
    }

    #[test]
    fn nothing_found_is_nought() {
        for interpolation in [Interpolation::ElevenPoints, Interpolation::AllPoints] {
            for right in [&[][..], &[false]] {
                let ap = average_precision(right, 1, interpolation).expect("one is wanted");
                assert!(ap == 0.0 && ap.is_sign_positive(), "{ap:?}");
            }
        }
    }

    #[test]
    fn of_objects_overlapped_equally_the_first_is_taken() {
        // The detection lies half way between a difficult object and another.
        let ap = |first_difficult: bool| {
            let objects = [object(1, 0.0, first_difficult), object(1, 4.0, !first_difficult)];
            let ap = voc_average_precision(&objects, &[detection(1, 2.0, 0.9)], &VocParams::voc2007());
            ap.expect("numbers").mean
        };
        assert_eq!(ap(true), Some(0.0));
        assert!(ap(false).is_some_and(|ap| ap > 0.99));
    }

    #[test]
    fn an_overlap_of_exactly_the_threshold() {
        let objects = [VocObject { region: [0.0, 0.0, 10.0, 10.0], ..object(1, 0.0, false) }];
        let detections = [Detection::new(1, 1, [0.0, 0.0, 10.0, 5.0], 1.0)];
        let strict = VocParams::voc2007();
        let loose = VocParams { strictly_above: false, ..strict };
        let mean = |params| voc_average_precision(&objects, &detections, &params).expect("numbers").mean;
        assert_eq!(mean(strict), Some(0.0));
        assert!(mean(loose).is_some_and(|ap| (ap - 1.0).abs() < 1e-12));
        assert_eq!(corloc(&objects, &detections, &strict).expect("numbers").mean, Some(0.0));
        assert_eq!(corloc(&objects, &detections, &loose).expect("numbers").mean, Some(1.0));
    }

    #[test]
    fn corloc_asks_the_best_detection_of_each_image() {
        let objects = [
            object(1, 0.0, false),
            object(2, 0.0, false),
            object(3, 0.0, true), // only difficult objects: not counted
            object(4, 0.0, false),
            object(5, 0.0, false),
            object(5, 100.0, true),
        ];
        let detections = [
            detection(1, 0.0, 0.2),
            detection(1, 50.0, 0.1),
            detection(2, 0.0, 0.2),
            detection(2, 50.0, 0.3), // the best is elsewhere
            detection(3, 0.0, 0.9),
            detection(5, 100.0, 0.9), // on a difficult object of an image that counts
            detection(5, 50.0, 0.9),  // a tie: the first decides
        ];
        let found = corloc(&objects, &detections, &VocParams::voc2007()).expect("numbers");
        assert_eq!(found, ByCategory { categories: vec![(1, Some(0.5))], mean: Some(0.5) });
    }

    #[test]
    fn a_category_of_difficult_objects_has_no_figure() {
        let objects = [object(1, 0.0, true), VocObject { category: 2, ..object(1, 0.0, false) }];
        let ap = voc_average_precision(&objects, &[detection(1, 0.0, 0.5)], &VocParams::voc2007());
        let expected = ByCategory { categories: vec![(1, None), (2, Some(0.0))], mean: Some(0.0) };
        assert_eq!(ap, Ok(expected.clone()));
        assert_eq!(corloc(&objects, &[detection(1, 0.0, 0.5)], &VocParams::voc2007()), Ok(expected));
    }

    #[test]
    fn refuses_what_has_no_order() {
        let nan = [detection(1, 0.0, f64::NAN)];
        assert!(voc_average_precision(&[], &nan, &VocParams::voc2007()).is_err());
        assert!(corloc(&[object(1, f64::NAN, false)], &[], &VocParams::voc2007()).is_err());
        let params = VocParams { iou_threshold: f64::NAN, ..VocParams::voc2007() };
        assert!(corloc(&[object(1, 0.0, false)], &[], &params).is_err());
    }
}
