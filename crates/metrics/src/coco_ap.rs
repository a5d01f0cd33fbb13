//! COCO's average precision and recall, of boxes and masks, equal to pycocotools' `COCOeval`.
//!
//! Equal means every number of its `precision` and `recall` arrays and every figure of its summary, bit for
//! bit (pycocotools 2.0.11, NumPy 2.4.6): the same matching, the same stable sorting, and the same order of
//! adding when means are taken. LVIS's rules for partly labelled images are another protocol and not here;
//! its limit of 300 detections is a [parameter](CocoParams::max_detections).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;

use serde::{Deserialize, Serialize};

use crate::MetricsError;
use crate::coco_match::{Cell, Curve, Curves, evaluate_category};
use crate::detection::{Detection, Region};
use crate::error::finite;
use crate::iou::{LARGE_AREA, SMALL_AREA};
use crate::numeric::{linspace, mean};

/// An annotated object.
#[derive(Clone, Debug, PartialEq)]
pub struct GroundTruth<R> {
    /// Id of the image.
    pub image: u64,
    /// Id of the category.
    pub category: u64,
    /// Where.
    pub region: R,
    /// The annotation's `area` in square pixels, by which the object falls into a size class. In COCO it is
    /// the area of the mask, also when boxes are measured.
    pub area: f64,
    /// COCO's `iscrowd`: a region of many objects. Detections inside it count neither for nor against.
    pub crowd: bool,
}

/// A range of object areas, both ends included.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AreaRange {
    /// What to call it: `all`, `small`, `medium`, `large`.
    pub name: String,
    /// Smallest area, square pixels.
    pub min: f64,
    /// Largest area, square pixels.
    pub max: f64,
}

impl AreaRange {
    /// A range from its name and ends.
    pub fn new(name: &str, min: f64, max: f64) -> Self {
        Self { name: name.to_owned(), min, max }
    }

    pub(crate) fn holds(&self, area: f64) -> bool {
        self.min <= area && area <= self.max
    }
}

/// What to evaluate.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CocoParams {
    /// IoUs at which a detection counts as right.
    pub iou_thresholds: Vec<f64>,
    /// Recalls at which precision is read off.
    pub recall_thresholds: Vec<f64>,
    /// How many of the best detections per image and category to look at, each a setting of its own.
    pub max_detections: Vec<usize>,
    /// Ranges of object areas.
    pub area_ranges: Vec<AreaRange>,
    /// Treats all categories as one (pycocotools' `useCats = 0`), as for proposals. The one category is 0 in
    /// the result.
    pub class_agnostic: bool,
}

impl Default for CocoParams {
    /// COCO's: IoU 0.50 to 0.95 in steps of 0.05, 101 recalls, 1, 10 and 100 detections, all four area
    /// ranges.
    fn default() -> Self {
        Self {
            iou_thresholds: linspace(0.5, 0.95, 10),
            recall_thresholds: linspace(0.0, 1.0, 101),
            max_detections: vec![1, 10, 100],
            area_ranges: vec![
                AreaRange::new("all", 0.0, 1e10),
                AreaRange::new("small", 0.0, SMALL_AREA),
                AreaRange::new("medium", SMALL_AREA, LARGE_AREA),
                AreaRange::new("large", LARGE_AREA, 1e10),
            ],
            class_agnostic: false,
        }
    }
}

impl CocoParams {
    /// COCO's, at other IoUs: WeakSAM's masks are measured at 0.25, 0.50, 0.70 and 0.75.
    pub fn at_ious(iou_thresholds: &[f64]) -> Self {
        Self { iou_thresholds: iou_thresholds.to_vec(), ..Self::default() }
    }

    /// For proposals: all categories as one, AR at the given numbers of proposals per image.
    pub fn proposals(max_detections: &[usize]) -> Self {
        Self { max_detections: max_detections.to_vec(), class_agnostic: true, ..Self::default() }
    }

    fn check(&mut self) -> Result<(), MetricsError> {
        let lists = [
            ("IoU thresholds", self.iou_thresholds.len()),
            ("recall thresholds", self.recall_thresholds.len()),
            ("numbers of detections", self.max_detections.len()),
            ("area ranges", self.area_ranges.len()),
        ];
        if let Some((what, _)) = lists.into_iter().find(|&(_, length)| length == 0) {
            return Err(MetricsError::Empty { what });
        }
        for (what, numbers) in
            [("IoU threshold", &self.iou_thresholds), ("recall threshold", &self.recall_thresholds)]
        {
            for (index, &number) in numbers.iter().enumerate() {
                finite(what, index, number)?;
            }
        }
        for (index, range) in self.area_ranges.iter().enumerate() {
            if range.min.is_nan() || range.max.is_nan() {
                return Err(MetricsError::NotFinite { what: "end of area range", index, found: f64::NAN });
            }
        }
        self.max_detections.sort_unstable();
        Ok(())
    }
}

/// Precision and recall for every category, area range, number of detections and IoU.
#[derive(Clone, Debug, PartialEq)]
pub struct CocoEvaluation {
    params: CocoParams,
    /// Ids of the categories, ascending, each with its curves.
    categories: Vec<(u64, Curves)>,
}

/// Which figures to average; what is `None` takes the whole, or the first, as each field says.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Selection<'a> {
    /// One category by its id; `None` for all.
    pub category: Option<u64>,
    /// One of the evaluated IoUs (the nearest within 1e-6); `None` for all.
    pub iou: Option<f64>,
    /// Name of an area range; `None` for the first, which is `all`.
    pub area: Option<&'a str>,
    /// A number of detections; `None` for the largest.
    pub max_detections: Option<usize>,
}

/// COCO's twelve figures, each 0 to 1; `None` where there is no ground truth, or where the parameters leave
/// the setting out (pycocotools prints -1 for both).
///
/// The precisions are those at the largest number of detections. pycocotools insists on 100 for the first,
/// and prints -1 when that is not among the parameters.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct CocoSummary {
    /// Average precision, mean over all IoUs and categories.
    pub ap: Option<f64>,
    /// At IoU 0.50.
    pub ap50: Option<f64>,
    /// At IoU 0.75.
    pub ap75: Option<f64>,
    /// Of small objects.
    pub ap_small: Option<f64>,
    /// Of medium objects.
    pub ap_medium: Option<f64>,
    /// Of large objects.
    pub ap_large: Option<f64>,
    /// Average recall with 1 detection per image and category.
    pub ar_1: Option<f64>,
    /// With 10.
    pub ar_10: Option<f64>,
    /// With the largest number evaluated, 100 for COCO.
    pub ar_max: Option<f64>,
    /// With that number, of small objects.
    pub ar_small: Option<f64>,
    /// Of medium objects.
    pub ar_medium: Option<f64>,
    /// Of large objects.
    pub ar_large: Option<f64>,
}

impl CocoSummary {
    /// pycocotools' `stats`, -1 for what is missing.
    pub fn to_array(&self) -> [f64; 12] {
        [
            self.ap,
            self.ap50,
            self.ap75,
            self.ap_small,
            self.ap_medium,
            self.ap_large,
            self.ar_1,
            self.ar_10,
            self.ar_max,
            self.ar_small,
            self.ar_medium,
            self.ar_large,
        ]
        .map(|figure| figure.unwrap_or(-1.0))
    }
}

impl CocoEvaluation {
    /// Matches detections with ground truth and computes all curves.
    ///
    /// Per image and category the best detections take, in order of score, the free ground truth they overlap
    /// most, at or above the IoU threshold; objects outside the area range and crowds are taken only if
    /// nothing else is, and such detections, like unmatched ones outside the range, count neither as right
    /// nor as wrong. Equal scores keep their order: in an image that of `detections`, between images that of
    /// the image ids.
    ///
    /// Detections in an image without ground truth are wrong, also when `truths` never names that image;
    /// pycocotools refuses results on images its file does not list, which is for the reader of files to do.
    /// Images without either add nothing. A category without ground truth has no figures and counts in no
    /// mean.
    ///
    /// # Errors [`MetricsError::NotFinite`] for scores, boxes, areas or thresholds that are NaN (or infinite,
    /// scores aside), [`MetricsError::Empty`] for an empty list of parameters, [`MetricsError::Mask`] when
    /// masks of one image differ in size.
    pub fn new<R: Region>(
        truths: &[GroundTruth<R>],
        detections: &[Detection<R>],
        mut params: CocoParams,
    ) -> Result<Self, MetricsError> {
        params.check()?;
        // Sorted by category and image, as pycocotools goes through them.
        let mut categories: BTreeMap<u64, BTreeMap<u64, Cell<R>>> = BTreeMap::new();
        let category = |id| if params.class_agnostic { 0 } else { id };
        for (index, truth) in truths.iter().enumerate() {
            finite("area of ground truth", index, truth.area)?;
            truth.region.check("box of ground truth", index)?;
            let cells = categories.entry(category(truth.category)).or_default();
            cells.entry(truth.image).or_default().truths.push(truth);
        }
        let labelled: BTreeSet<u64> = truths.iter().map(|truth| truth.category).collect();
        for (index, detection) in detections.iter().enumerate() {
            detection.check(index)?;
            if params.class_agnostic || labelled.contains(&detection.category) {
                let cells = categories.entry(category(detection.category)).or_default();
                cells.entry(detection.image).or_default().detections.push(detection);
            }
        }
        let evaluate = |(id, cells): (u64, BTreeMap<u64, Cell<R>>)| {
            Ok((id, evaluate_category(cells.into_values(), &params)?))
        };
        let categories = categories.into_iter().map(evaluate).collect::<Result<_, MetricsError>>()?;
        Ok(Self { params, categories })
    }

    /// Ids of the categories with ground truth, ascending.
    pub fn categories(&self) -> impl Iterator<Item = u64> + '_ {
        self.categories.iter().map(|&(id, _)| id)
    }

    /// What was evaluated, numbers of detections ascending.
    pub fn params(&self) -> &CocoParams {
        &self.params
    }

    /// Average precision: the mean over the recall thresholds, IoUs and categories selected. `None` when no
    /// category selected has ground truth in the area range.
    ///
    /// # Errors [`MetricsError::NotEvaluated`] when the parameters do not hold what is selected. A category
    /// that nothing is known of is no error and gives `None`.
    pub fn average_precision(&self, selection: &Selection) -> Result<Option<f64>, MetricsError> {
        // In the order of NumPy's sum: by IoU, then by recall threshold, then by category.
        let mut precisions = Vec::new();
        for curves in self.curves(selection)? {
            for r in 0..self.params.recall_thresholds.len() {
                precisions.extend(curves.iter().map(|curve| curve.precision[r]));
            }
        }
        Ok(mean(&precisions))
    }

    /// Average recall: the mean over the IoUs and categories selected of the recall that all detections
    /// together reach. `None` and errors as for [`average_precision`](Self::average_precision).
    ///
    /// # Errors
    /// [`MetricsError::NotEvaluated`] when the parameters do not hold what is selected.
    pub fn average_recall(&self, selection: &Selection) -> Result<Option<f64>, MetricsError> {
        let recalls: Vec<f64> =
            self.curves(selection)?.into_iter().flatten().map(|curve| curve.recall).collect();
        Ok(mean(&recalls))
    }

    /// The precision at each recall threshold, made non-increasing, of one category at one IoU: the curve to
    /// plot. `None` without ground truth.
    ///
    /// # Errors
    /// [`MetricsError::NotEvaluated`] when the parameters do not hold what is selected.
    pub fn precisions(
        &self,
        category: u64,
        iou: f64,
        selection: &Selection,
    ) -> Result<Option<&[f64]>, MetricsError> {
        let one = Selection { category: Some(category), iou: Some(iou), ..*selection };
        Ok(self.curves(&one)?.into_iter().flatten().next().map(|curve| curve.precision.as_slice()))
    }

    /// COCO's twelve figures.
    pub fn summary(&self) -> CocoSummary {
        // What the parameters leave out is missing from the summary.
        let ap = |selection| self.average_precision(&selection).ok().flatten();
        let ar = |selection| self.average_recall(&selection).ok().flatten();
        let whole = Selection::default;
        CocoSummary {
            ap: ap(whole()),
            ap50: ap(Selection { iou: Some(0.5), ..whole() }),
            ap75: ap(Selection { iou: Some(0.75), ..whole() }),
            ap_small: ap(Selection { area: Some("small"), ..whole() }),
            ap_medium: ap(Selection { area: Some("medium"), ..whole() }),
            ap_large: ap(Selection { area: Some("large"), ..whole() }),
            ar_1: ar(Selection { max_detections: Some(1), ..whole() }),
            ar_10: ar(Selection { max_detections: Some(10), ..whole() }),
            ar_max: ar(whole()),
            ar_small: ar(Selection { area: Some("small"), ..whole() }),
            ar_medium: ar(Selection { area: Some("medium"), ..whole() }),
            ar_large: ar(Selection { area: Some("large"), ..whole() }),
        }
    }

    /// The curves selected that exist: for each IoU those of the categories.
    fn curves(&self, selection: &Selection) -> Result<Vec<Vec<&Curve>>, MetricsError> {
        let CocoParams { iou_thresholds, max_detections, area_ranges, .. } = &self.params;
        let area = match selection.area {
            None => 0,
            Some(name) => {
                let names = area_ranges.iter().map(|range| range.name.as_str());
                position("area range", names, |&found| found == name, name)?
            }
        };
        let limit = match selection.max_detections {
            None => max_detections.len() - 1,
            Some(limit) => position("number of detections", max_detections, |&&m| m == limit, limit)?,
        };
        let ious = match selection.iou {
            None => 0..iou_thresholds.len(),
            Some(iou) => {
                let near = |&threshold: &f64| (threshold - iou).abs() < 1e-6;
                let t = position("IoU threshold", iou_thresholds.iter().copied(), near, iou)?;
                t..t + 1
            }
        };
        let first = (area * max_detections.len() + limit) * iou_thresholds.len();
        let wanted = |id| selection.category.is_none_or(|category| category == id);
        let categories: Vec<&Curves> =
            self.categories.iter().filter(|&&(id, _)| wanted(id)).map(|(_, curves)| curves).collect();
        let of = |t: usize| categories.iter().filter_map(|curves| curves.get(first + t)?.as_ref()).collect();
        Ok(ious.map(of).collect())
    }
}

/// Where among the values evaluated the one asked for stands.
fn position<T: Display>(
    what: &'static str,
    evaluated: impl IntoIterator<Item = T>,
    matches: impl Fn(&T) -> bool,
    found: impl Display,
) -> Result<usize, MetricsError> {
    let evaluated: Vec<T> = evaluated.into_iter().collect();
    evaluated.iter().position(matches).ok_or_else(|| MetricsError::NotEvaluated {
        what,
        evaluated: evaluated.iter().map(T::to_string).collect::<Vec<_>>().join(", "),
        found: found.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The reference fixture of WeakSAM's notes: image, category, box, area, crowd.
    const TRUTHS: [(u64, u64, [f64; 4], f64, bool); 9] = [
        (1, 1, [10.0, 10.0, 20.0, 20.0], 400.0, false),
        (1, 1, [50.0, 50.0, 60.0, 40.0], 2000.0, false),
        (1, 2, [100.0, 20.0, 100.0, 120.0], 12000.0, false),
        (1, 1, [0.0, 100.0, 200.0, 80.0], 9000.0, true),
        (2, 1, [30.0, 30.0, 32.0, 32.0], 1024.0, false),
        (2, 2, [5.0, 5.0, 12.0, 10.0], 120.0, false),
        (2, 2, [80.0, 80.0, 40.0, 40.0], 1600.0, false),
        (3, 2, [20.0, 40.0, 96.0, 96.0], 9216.0, false),
        (3, 3, [60.0, 60.0, 30.0, 30.0], 700.0, false),
    ];

    /// Image, category, box, score.
    const DETECTIONS: [(u64, u64, [f64; 4], f64); 13] = [
        (1, 1, [12.0, 11.0, 20.0, 20.0], 0.9),
        (1, 1, [50.0, 50.0, 60.0, 44.0], 0.8),
        (1, 1, [52.0, 52.0, 58.0, 38.0], 0.8),
        (1, 1, [20.0, 110.0, 40.0, 30.0], 0.7),
        (1, 2, [95.0, 25.0, 100.0, 110.0], 0.6),
        (2, 1, [28.0, 33.0, 32.0, 32.0], 0.9),
        (2, 1, [120.0, 120.0, 20.0, 20.0], 0.5),
        (2, 2, [82.0, 80.0, 40.0, 44.0], 0.75),
        (2, 2, [5.0, 6.0, 12.0, 10.0], 0.3),
        (3, 2, [22.0, 44.0, 96.0, 90.0], 0.6),
        (3, 2, [22.0, 44.0, 96.0, 96.0], 0.6),
        (3, 3, [61.0, 59.0, 30.0, 30.0], 0.4),
        (4, 1, [10.0, 10.0, 50.0, 50.0], 0.95),
    ];

    fn truths() -> Vec<GroundTruth<[f64; 4]>> {
        let truth =
            |(image, category, region, area, crowd)| GroundTruth { image, category, region, area, crowd };
        TRUTHS.into_iter().map(truth).collect()
    }

    fn detections() -> Vec<Detection<[f64; 4]>> {
        DETECTIONS.into_iter().map(|(i, c, region, score)| Detection::new(i, c, region, score)).collect()
    }

    #[test]
    fn the_reference_fixture() {
        let evaluation =
            CocoEvaluation::new(&truths(), &detections(), CocoParams::default()).expect("numbers");
        let expected = [
            0.630390539054,
            0.900165016502,
            0.678217821782,
            0.666666666667,
            0.575577557756,
            0.750495049505,
            0.569444444444,
            0.727777777778,
            0.727777777778,
            0.666666666667,
            0.75,
            0.8,
        ];
        for (found, expected) in evaluation.summary().to_array().iter().zip(expected) {
            assert!((found - expected).abs() < 1e-12, "{found} {expected}");
        }
        let classes = [
            (1, [0.75, 0.084158415842, 0.408663366337]),
            (2, [0.950495049505, 0.950495049505, 0.682508250825]),
            (3, [1.0, 1.0, 0.8]),
        ];
        assert_eq!(evaluation.categories().collect::<Vec<_>>(), [1, 2, 3]);
        for (id, expected) in classes {
            for (iou, expected) in [Some(0.5), Some(0.75), None].into_iter().zip(expected) {
                let selection = Selection { category: Some(id), iou, ..Selection::default() };
                let found =
                    evaluation.average_precision(&selection).expect("evaluated").expect("has objects");
                assert!((found - expected).abs() < 1e-12, "category {id}: {found} {expected}");
            }
        }
    }

    #[test]
    fn figures_that_do_not_exist() {
        let evaluation =
            CocoEvaluation::new(&truths(), &detections(), CocoParams::default()).expect("numbers");
        let unknown = Selection { category: Some(7), ..Selection::default() };
        assert_eq!(evaluation.average_precision(&unknown), Ok(None));
        let small_of_3 = |c| Selection { category: Some(c), area: Some("large"), ..Selection::default() };
        assert_eq!(evaluation.average_recall(&small_of_3(3)), Ok(None));
        for selection in [
            Selection { iou: Some(0.3), ..Selection::default() },
            Selection { area: Some("tiny"), ..Selection::default() },
            Selection { max_detections: Some(5), ..Selection::default() },
        ] {
            let error = evaluation.average_precision(&selection).expect_err("not evaluated");
            assert!(error.to_string().contains("expected one of those evaluated"), "{error}");
        }
        let nothing = CocoEvaluation::new::<[f64; 4]>(&[], &[], CocoParams::default()).expect("no numbers");
        assert_eq!(nothing.summary().to_array(), [-1.0; 12]);
    }

    #[test]
    fn no_detections_is_zero_and_not_missing() {
        let evaluation = CocoEvaluation::new(&truths(), &[], CocoParams::default()).expect("numbers");
        assert_eq!(evaluation.summary().to_array(), [0.0; 12]);
    }

    #[test]
    fn refuses_numbers_without_order_and_empty_parameters() {
        let with = |change: &dyn Fn(&mut Detection<[f64; 4]>)| {
            let mut detections = detections();
            change(&mut detections[3]);
            CocoEvaluation::new(&truths(), &detections, CocoParams::default())
        };
        let error = with(&|d| d.score = f64::NAN).expect_err("no order");
        assert_eq!(error.to_string(), "score of detection 3: expected a finite number, found NaN");
        assert!(with(&|d| d.region[2] = f64::INFINITY).is_err());
        assert!(with(&|d| d.area = Some(f64::NAN)).is_err());
        assert!(with(&|d| d.score = f64::NEG_INFINITY).is_ok());

        let mut truths = truths();
        truths[0].area = f64::NAN;
        assert!(CocoEvaluation::new(&truths, &[], CocoParams::default()).is_err());
        let changes: [&dyn Fn(&mut CocoParams); 6] = [
            &|p| p.iou_thresholds.clear(),
            &|p| p.recall_thresholds.clear(),
            &|p| p.max_detections.clear(),
            &|p| p.area_ranges.clear(),
            &|p| p.iou_thresholds[0] = f64::NAN,
            &|p| p.area_ranges[0].max = f64::NAN,
        ];
        for change in changes {
            let mut params = CocoParams::default();
            change(&mut params);
            assert!(CocoEvaluation::new::<[f64; 4]>(&[], &[], params).is_err());
        }
    }

    #[test]
    fn the_curve_of_one_category() {
        let evaluation =
            CocoEvaluation::new(&truths(), &detections(), CocoParams::default()).expect("numbers");
        let curve =
            evaluation.precisions(3, 0.75, &Selection::default()).expect("evaluated").expect("has objects");
        assert_eq!(curve, vec![0.9999999999999998; 101]);
    }
}
