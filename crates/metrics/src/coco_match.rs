//! COCO's matching of detections with ground truth, and the precision-recall curves that follow.

use std::cmp::Ordering;

use crate::detection::{Detection, Region, by_score};
use crate::{CocoParams, GroundTruth, MetricsError};

/// The curves of one category: for each area range, in it for each number of detections, in it for each IoU.
/// `None` where the range holds no ground truth.
pub(crate) type Curves = Vec<Option<Curve>>;

/// The precisions and the recall of one category at one such setting.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Curve {
    /// By recall threshold.
    pub(crate) precision: Vec<f64>,
    /// That all detections together reach.
    pub(crate) recall: f64,
}

/// What there is of one category in one image.
pub(crate) struct Cell<'a, R> {
    pub(crate) truths: Vec<&'a GroundTruth<R>>,
    pub(crate) detections: Vec<&'a Detection<R>>,
}

impl<R> Default for Cell<'_, R> {
    fn default() -> Self {
        Self { truths: Vec::new(), detections: Vec::new() }
    }
}

/// What a detection counts as.
#[derive(Clone, Copy, PartialEq)]
enum Verdict {
    Right,
    Wrong,
    Ignored,
}

/// Matches the detections of one category, image by image in the order of their ids, and computes its curves.
///
/// # Errors
/// [`MetricsError::Mask`] when masks of one image differ in size.
pub(crate) fn evaluate_category<'a, R: Region + 'a>(
    images: impl Iterator<Item = Cell<'a, R>>,
    params: &CocoParams,
) -> Result<Curves, MetricsError> {
    let CocoParams { iou_thresholds, recall_thresholds, max_detections, area_ranges, .. } = params;
    let most = max_detections.last().copied().unwrap_or_default();
    // All detections, image after image: score and rank in the image. For each area range the number of
    // objects to find, for each area range and IoU one verdict per detection.
    let mut ranked: Vec<(f64, usize)> = Vec::new();
    let mut objects = vec![0; area_ranges.len()];
    let mut verdicts = vec![Vec::new(); area_ranges.len() * iou_thresholds.len()];

    for Cell { mut truths, mut detections } in images {
        if params.class_agnostic {
            truths.sort_by_key(|truth| truth.category);
            detections.sort_by_key(|detection| detection.category);
        }
        by_score(&mut detections);
        detections.truncate(most);
        ranked.extend(detections.iter().enumerate().map(|(rank, detection)| (detection.score, rank)));

        let regions: Vec<&R> = truths.iter().map(|truth| &truth.region).collect();
        let found: Vec<&R> = detections.iter().map(|detection| &detection.region).collect();
        let crowd: Vec<bool> = truths.iter().map(|truth| truth.crowd).collect();
        let ious = R::ious(&found, &regions, &crowd)?;
        for (a, range) in area_ranges.iter().enumerate() {
            let ignored: Vec<bool> = truths.iter().map(|t| t.crowd || !range.holds(t.area)).collect();
            objects[a] += ignored.iter().filter(|&&ignored| !ignored).count();
            let outside: Vec<bool> = detections.iter().map(|d| !range.holds(d.area())).collect();
            let image = Candidates { ious: &ious, crowd: &crowd, ignored: &ignored, outside: &outside };
            for (t, &threshold) in iou_thresholds.iter().enumerate() {
                image.judge(threshold, &mut verdicts[a * iou_thresholds.len() + t]);
            }
        }
    }

    let mut order: Vec<usize> = (0..ranked.len()).collect();
    order.sort_by(|&a, &b| ranked[b].0.partial_cmp(&ranked[a].0).unwrap_or(Ordering::Equal));
    let mut curves = Vec::with_capacity(verdicts.len() * max_detections.len());
    for (verdicts, &objects) in verdicts.chunks(iou_thresholds.len()).zip(&objects) {
        for &limit in max_detections {
            // Leaving out the later ones of each image does not change the order of the others.
            let considered: Vec<usize> = order.iter().copied().filter(|&i| ranked[i].1 < limit).collect();
            curves.extend(verdicts.iter().map(|verdicts| {
                let verdicts = considered.iter().map(|&i| verdicts[i]);
                (objects > 0).then(|| Curve::new(verdicts, objects, recall_thresholds))
            }));
        }
    }
    Ok(curves)
}

/// The ground truth and the detections of one image, as seen in one area range.
struct Candidates<'a> {
    /// Detection by detection, best first.
    ious: &'a [f64],
    /// By ground truth.
    crowd: &'a [bool],
    /// By ground truth: crowds and what is outside the area range.
    ignored: &'a [bool],
    /// By detection: outside the area range.
    outside: &'a [bool],
}

impl Candidates<'_> {
    /// Matches at one IoU threshold and appends a verdict for each detection.
    fn judge(&self, threshold: f64, verdicts: &mut Vec<Verdict>) {
        let objects = self.ignored.len();
        let mut taken = vec![false; objects];
        // Objects to be found come before those to be ignored.
        let part = |ignored| (0..objects).filter(move |&g| self.ignored[g] == ignored);
        let order: Vec<usize> = part(false).chain(part(true)).collect();
        for (d, &outside) in self.outside.iter().enumerate() {
            let mut best = threshold.min(1.0 - 1e-10);
            let mut found = None;
            for &g in &order {
                if taken[g] && !self.crowd[g] {
                    continue;
                }
                if self.ignored[g] && found.is_some_and(|f: usize| !self.ignored[f]) {
                    break;
                }
                // Of equal overlaps the later wins.
                let iou = self.ious[d * objects + g];
                if iou >= best {
                    best = iou;
                    found = Some(g);
                }
            }
            verdicts.push(match found {
                Some(g) if self.ignored[g] => Verdict::Ignored,
                Some(_) => Verdict::Right,
                None if outside => Verdict::Ignored,
                None => Verdict::Wrong,
            });
            if let Some(g) = found {
                taken[g] = true;
            }
        }
    }
}

impl Curve {
    /// From the verdicts on the detections, best first, and the number of objects to be found.
    ///
    /// Only the right detections matter: recall rises at no other, and precision falls at the wrong ones.
    fn new(verdicts: impl Iterator<Item = Verdict>, objects: usize, recall_thresholds: &[f64]) -> Self {
        let mut wrong = 0;
        let mut precisions: Vec<f64> = Vec::new();
        for verdict in verdicts {
            match verdict {
                Verdict::Right => {
                    let right = (precisions.len() + 1) as f64;
                    precisions.push(right / (f64::from(wrong) + right + f64::EPSILON));
                }
                Verdict::Wrong => wrong += 1,
                Verdict::Ignored => {}
            }
        }
        let mut highest = 0.0_f64;
        for precision in precisions.iter_mut().rev() {
            highest = highest.max(*precision);
            *precision = highest;
        }
        let recalls: Vec<f64> = (1..=precisions.len()).map(|right| right as f64 / objects as f64).collect();
        let at = |&threshold: &f64| recalls.partition_point(|&recall| recall < threshold);
        Self {
            precision: recall_thresholds
                .iter()
                .map(|threshold| precisions.get(at(threshold)).copied().unwrap_or(0.0))
                .collect(),
            recall: recalls.last().copied().unwrap_or(0.0),
        }
    }
}
