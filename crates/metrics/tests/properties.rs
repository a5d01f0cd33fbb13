//! What must hold for every set of masks, label maps, detections, clicks and scores.

use kirie_mask::{Mask, Rle};
use kirie_metrics::{
    ClassMean, Clicker, CocoEvaluation, CocoParams, ConfusionMatrix, Detection, GroundTruth, Interpolation,
    KnnBank, Matching, MetricsError, Overlap, Region, TaskMatrix, VocObject, VocParams, average_precision,
    corloc, proposal_recall, squared_depths, voc_average_precision,
};
use proptest::prelude::*;

type Box4 = [f64; 4];

/// Masks of a given size, from nearly empty to nearly full.
fn mask_of(width: usize, height: usize) -> impl Strategy<Value = Mask> {
    (0.02..0.98f64)
        .prop_flat_map(move |density| prop::collection::vec(prop::bool::weighted(density), width * height))
        .prop_map(move |pixels| Mask::from_vec(width, height, pixels).expect("as many as the frame has"))
}

fn two_masks() -> impl Strategy<Value = (Mask, Mask)> {
    (0..24usize, 0..24usize).prop_flat_map(|(width, height)| (mask_of(width, height), mask_of(width, height)))
}

/// Whole numbers and few of them, so that overlaps and scores tie.
fn small_box() -> impl Strategy<Value = Box4> {
    (0..6u8, 0..6u8, 0..5u8, 0..5u8).prop_map(|(x, y, w, h)| [x, y, w, h].map(f64::from))
}

fn truths() -> impl Strategy<Value = Vec<GroundTruth<Box4>>> {
    let one = (0..4u64, 0..3u64, small_box(), 0..30u8, prop::bool::weighted(0.2));
    let truth = |(image, category, region, area, crowd)| GroundTruth {
        image,
        category,
        region,
        area: f64::from(area) * 512.0,
        crowd,
    };
    prop::collection::vec(one.prop_map(truth), 0..20)
}

fn detections() -> impl Strategy<Value = Vec<Detection<Box4>>> {
    let one = (0..4u64, 0..3u64, small_box(), 0..5u8);
    let detection = |(i, c, region, score)| Detection::new(i, c, region, f64::from(score));
    prop::collection::vec(one.prop_map(detection), 0..30)
}

fn voc(truths: &[GroundTruth<Box4>]) -> Vec<VocObject<Box4>> {
    let object = |t: &GroundTruth<Box4>| VocObject {
        image: t.image,
        category: t.category,
        region: t.region,
        difficult: t.crowd,
    };
    truths.iter().map(object).collect()
}

fn label_maps() -> impl Strategy<Value = (Vec<u8>, Vec<u8>)> {
    let label = prop_oneof![5 => 0..4u8, 1 => Just(255u8)];
    prop::collection::vec((label, 0..4u8), 0..60).prop_map(|pixels| pixels.into_iter().unzip())
}

fn matrix() -> ConfusionMatrix {
    ConfusionMatrix::new(["a", "b", "c", "d"], Some(255)).expect("four classes")
}

/// The squared distance to the nearest background pixel, or to the ring around the frame, by trying all.
fn depth_by_trying(mask: &Mask, x: usize, y: usize) -> u32 {
    let (x, y) = (x as i64, y as i64);
    let around = (-1..=mask.height() as i64).flat_map(|v| (-1..=mask.width() as i64).map(move |u| (u, v)));
    let background = around.filter(|&(u, v)| u < 0 || v < 0 || !mask.get(u as usize, v as usize));
    background.map(|(u, v)| (x - u).pow(2) + (y - v).pow(2)).min().expect("the ring") as u32
}

/// RITM's rule, word for word: first maximum over all pixels, missing ones first only if strictly deeper.
fn click_by_trying(
    truth: &Mask,
    prediction: &Mask,
    clicked: &[(usize, usize)],
) -> Option<(usize, usize, bool)> {
    let wrong = |positive: bool| {
        let of = |x, y| truth.get(x, y) == positive && prediction.get(x, y) != positive;
        let region = Mask::from_fn(truth.width(), truth.height(), of);
        let mut best = (0, 0, 0);
        for (y, x) in (0..truth.height()).flat_map(|y| (0..truth.width()).map(move |x| (y, x))) {
            let depth = if clicked.contains(&(x, y)) { 0 } else { depth_by_trying(&region, x, y) };
            if depth > best.0 {
                best = (depth, x, y);
            }
        }
        best
    };
    let (missing, surplus) = (wrong(true), wrong(false));
    let positive = missing.0 > surplus.0;
    let (depth, x, y) = if positive { missing } else { surplus };
    (depth > 0).then_some((x, y, positive))
}

/// The WeakSAM repository's recall, word for word: the largest IoU left takes its row and its column with it.
fn recall_by_repetition(objects: &[Box4], proposals: &[Box4]) -> Option<Vec<f64>> {
    let (objects, proposals): (Vec<&Box4>, Vec<&Box4>) =
        (objects.iter().collect(), proposals.iter().collect());
    let columns = proposals.len();
    let mut ious = Box4::ious(&objects, &proposals, &vec![false; columns]).expect("boxes have no frames");
    let mut overlaps = vec![-1.0; objects.len()];
    for overlap in &mut overlaps {
        // The last of `max_by` is the first, seen from the back.
        let best = ious.iter().enumerate().rev().max_by(|a, b| a.1.total_cmp(b.1));
        let Some((at, &iou)) = best else { break };
        *overlap = iou;
        for (i, iou) in ious.iter_mut().enumerate() {
            if i / columns == at / columns || i % columns == at % columns {
                *iou = -1.0;
            }
        }
    }
    let recall =
        |threshold| overlaps.iter().filter(|&&o| o >= threshold).count() as f64 / overlaps.len() as f64;
    (!overlaps.is_empty()).then(|| [0.25, 0.5, 0.9].map(recall).to_vec())
}

proptest! {
    #[test]
    fn overlaps_of_pixels_and_runs_agree((a, b) in two_masks()) {
        let pixels = Overlap::of_masks(&a, &b).unwrap();
        prop_assert_eq!(Overlap::of_runs(&Rle::from_mask(&a), &Rle::from_mask(&b)), Ok(pixels));
        prop_assert_eq!(pixels, Overlap::of_masks(&b, &a).unwrap());
        prop_assert_eq!(pixels.iou().unwrap_or(0.0), a.iou(&b).unwrap());
        if let (Some(iou), Some(dice)) = (pixels.iou(), pixels.dice()) {
            prop_assert!((dice - 2.0 * iou / (1.0 + iou)).abs() < 1e-12);
            prop_assert!((0.0..1e-6).contains(&(iou - pixels.iou_smoothed())));
        }
        let edges = Overlap::of_boundaries(&a, &b, 0.02).unwrap();
        prop_assert!(edges.intersection <= pixels.intersection && edges.union <= pixels.union);
    }

    #[test]
    fn depths_are_the_nearest_of_all((mask, _) in two_masks()) {
        let depths = squared_depths(&mask);
        for (i, depth) in depths.into_iter().enumerate() {
            let (x, y) = (i % mask.width(), i / mask.width());
            prop_assert_eq!(depth, depth_by_trying(&mask, x, y), "at {}, {}", x, y);
        }
    }

    #[test]
    fn clicks_follow_the_rule((truth, prediction) in two_masks(), steps in 1..6usize) {
        let mut clicker = Clicker::new(truth.clone());
        let mut clicked = Vec::new();
        let empty = Mask::new(truth.width(), truth.height());
        for step in 0..steps {
            // The first without a prediction, then a wrong one that stays.
            let shown = (step > 0).then_some(&prediction);
            let found = clicker.next_click(shown).unwrap().map(|c| (c.x, c.y, c.positive));
            prop_assert_eq!(found, click_by_trying(&truth, shown.unwrap_or(&empty), &clicked));
            clicked.extend(found.map(|(x, y, _)| (x, y)));
        }
        prop_assert_eq!(clicker.clicks().len(), clicked.len());
    }

    #[test]
    fn matrices_of_parts_are_the_matrix_of_the_whole((truth, predicted) in label_maps(), cut in 0..60usize) {
        let mut whole = matrix();
        whole.add(&truth, &predicted).unwrap();
        let cut = cut.min(truth.len());
        let (mut first, mut second) = (matrix(), matrix());
        first.add(&truth[..cut], &predicted[..cut]).unwrap();
        second.add(&truth[cut..], &predicted[cut..]).unwrap();
        first.merge(&second).unwrap();
        prop_assert_eq!(&first, &whole);
        prop_assert_eq!(whole.pixels() + whole.ignored(), truth.len() as u64);

        for ((iou, dice), accuracy) in whole.iou().into_iter().zip(whole.dice()).zip(whole.accuracy()) {
            prop_assert_eq!(iou.is_some(), dice.is_some());
            if let (Some(iou), Some(dice)) = (iou, dice) {
                prop_assert!((dice - 2.0 * iou / (1.0 + iou)).abs() < 1e-12);
                prop_assert!(accuracy.is_none_or(|accuracy| accuracy >= iou));
            }
        }
        let means = [ClassMean::Present, ClassMean::All].map(|over| whole.mean_iou(over));
        prop_assert!(means[1] <= means[0]);
        // With every class present, the published formula is the usual one.
        if let (true, Some(gsam)) = (whole.iou().iter().all(Option::is_some), whole.mean_iou(ClassMean::GsamRepository)) {
            prop_assert!((gsam - means[0].unwrap()).abs() < 1e-6);
        }
    }

    #[test]
    fn labels_of_any_kind_are_counted_or_refused(truth in prop::collection::vec(any::<u16>(), 0..9)) {
        let fits = truth.iter().all(|&label| label < 4 || label == 255);
        prop_assert_eq!(matrix().add(&truth, &vec![0u8; truth.len()]).is_ok(), fits);
    }

    #[test]
    fn finding_everything_is_nearly_one(truths in truths()) {
        let solid = |[x, y, w, h]: Box4| [x, y, w + 1.0, h + 1.0];
        let truths: Vec<_> =
            truths.into_iter().map(|t| GroundTruth { crowd: false, region: solid(t.region), ..t }).collect();
        let detections: Vec<_> = truths.iter().map(|t| Detection::new(t.image, t.category, t.region, 1.0)).collect();
        let evaluation = CocoEvaluation::new(&truths, &detections, CocoParams::default()).unwrap();
        let figures = evaluation.summary();
        prop_assert!(figures.ap.is_none_or(|ap| ap > 1.0 - 1e-12), "{:?}", figures);
        prop_assert!(figures.ar_max.is_none_or(|ar| ar == 1.0));
        let regions: Vec<Box4> = truths.iter().map(|t| t.region).collect();
        let recall = proposal_recall(&[(&regions, &regions)], usize::MAX, &[0.5, 1.0], Matching::OneToOne).unwrap();
        prop_assert!(recall.is_none_or(|recall| recall == [1.0, 1.0]));
    }

    #[test]
    fn detection_figures_are_fractions_and_need_only_the_order_of_scores(
        truths in truths(),
        detections in detections(),
    ) {
        let evaluate = |detections: &[Detection<Box4>]| {
            CocoEvaluation::new(&truths, detections, CocoParams::default()).unwrap().summary()
        };
        let figures = evaluate(&detections);
        for figure in figures.to_array() {
            prop_assert!(figure == -1.0 || (0.0..=1.0).contains(&figure));
        }
        prop_assert!(figures.ar_1 <= figures.ar_10 && figures.ar_10 <= figures.ar_max);

        let rescaled: Vec<_> =
            detections.iter().map(|d| Detection { score: d.score.exp() - 50.0, ..d.clone() }).collect();
        prop_assert_eq!(evaluate(&rescaled), figures);

        let objects = voc(&truths);
        let [seven, ten] = [VocParams::voc2007(), VocParams::voc2010()];
        for params in [seven, ten] {
            let ap = voc_average_precision(&objects, &detections, &params).unwrap();
            prop_assert_eq!(&voc_average_precision(&objects, &rescaled, &params).unwrap(), &ap);
            let corloc = corloc(&objects, &detections, &params).unwrap();
            let figures = ap.categories.iter().chain(&corloc.categories).filter_map(|&(_, figure)| figure);
            prop_assert!(figures.into_iter().all(|figure| (0.0..=1.0 + 1e-12).contains(&figure)));
        }
    }

    #[test]
    fn the_order_in_the_file_matters_only_for_ties(truths in truths(), detections in detections()) {
        // Distinct scores; truths that overlap a detection equally may be told apart by their order, so keep
        // that.
        let distinct: Vec<_> = detections
            .iter()
            .enumerate()
            .map(|(i, d)| Detection { score: d.score + i as f64 / 100.0, ..d.clone() })
            .collect();
        let reversed: Vec<_> = distinct.iter().rev().cloned().collect();
        let evaluate = |detections: &[Detection<Box4>]| {
            CocoEvaluation::new(&truths, detections, CocoParams::default()).unwrap()
        };
        prop_assert_eq!(evaluate(&distinct), evaluate(&reversed));
        let voc = |detections: &[Detection<Box4>]| {
            voc_average_precision(&voc(&truths), detections, &VocParams::voc2010()).unwrap()
        };
        prop_assert_eq!(voc(&distinct), voc(&reversed));
    }

    #[test]
    fn numbers_of_any_kind_are_evaluated_or_refused(
        region in any::<[f64; 4]>(),
        score in any::<f64>(),
        area in any::<f64>(),
        thresholds in prop::collection::vec(any::<f64>(), 0..3),
        limits in prop::collection::vec(any::<usize>(), 0..3),
    ) {
        let truths = [GroundTruth { image: 1, category: 1, region, area, crowd: false }];
        let detections = [Detection::new(1, 1, region, score)];
        let params = CocoParams { iou_thresholds: thresholds, max_detections: limits, ..CocoParams::default() };
        let bad = !area.is_finite() || score.is_nan() || region.iter().any(|v| !v.is_finite());
        let lists = params.iou_thresholds.is_empty()
            || params.max_detections.is_empty()
            || params.iou_thresholds.iter().any(|t| !t.is_finite());
        let result = CocoEvaluation::new(&truths, &detections, params).map(|e| e.summary());
        prop_assert_eq!(result.is_err(), bad || lists);
        let voc = voc_average_precision(&voc(&truths), &detections, &VocParams::voc2007());
        prop_assert_eq!(voc.is_err(), score.is_nan() || region.iter().any(|v| !v.is_finite()));
    }

    #[test]
    fn sharing_proposals_never_lowers_recall(
        objects in prop::collection::vec(small_box(), 0..8),
        proposals in prop::collection::vec(small_box(), 0..8),
        limit in 0..9usize,
    ) {
        let images: [(&[Box4], &[Box4]); 1] = [(&objects, &proposals)];
        let recall = |matching| proposal_recall(&images, limit, &[0.25, 0.5, 0.9], matching).unwrap();
        let (alone, shared) = (recall(Matching::OneToOne), recall(Matching::Best));
        prop_assert_eq!(alone.is_none(), objects.is_empty());
        prop_assert_eq!(&alone, &recall_by_repetition(&objects, &proposals[..limit.min(proposals.len())]));
        for (alone, shared) in alone.into_iter().flatten().zip(shared.into_iter().flatten()) {
            prop_assert!(alone <= shared);
            prop_assert!(alone <= limit as f64 / objects.len() as f64);
        }
    }

    #[test]
    fn average_precision_is_the_devkits(right in prop::collection::vec(any::<bool>(), 0..30), more in 0..5usize) {
        let hits = right.iter().filter(|&&right| right).count();
        let wanted = hits + more;
        let found = |interpolation| average_precision(&right, wanted, interpolation);
        if wanted == 0 {
            prop_assert_eq!(found(Interpolation::AllPoints), None);
            return Ok(());
        }
        // Both definitions over all detections, as the devkit has them.
        let (mut recall, mut precision, mut hits) = (vec![0.0], vec![0.0], 0.0);
        for (i, &right) in right.iter().enumerate() {
            hits += f64::from(u8::from(right));
            recall.push(hits / wanted as f64);
            precision.push(hits / (i + 1) as f64);
        }
        let best = |from: f64| {
            recall.iter().zip(&precision).filter(|(r, _)| **r >= from).map(|(_, p)| *p).fold(0.0, f64::max)
        };
        let eleven: f64 = (0..=10).map(|i| best(f64::from(i) * 0.1) / 11.0).sum();
        prop_assert!((found(Interpolation::ElevenPoints).unwrap() - eleven).abs() < 1e-12);
        let all: f64 = recall.windows(2).map(|pair| (pair[1] - pair[0]) * best(pair[1])).sum();
        prop_assert!((found(Interpolation::AllPoints).unwrap() - all).abs() < 1e-12);
    }

    #[test]
    fn definitions_of_forgetting_are_ordered(
        rows in (1..6usize).prop_flat_map(|n| prop::collection::vec(prop::collection::vec(0.0..1.0f64, n), n)),
    ) {
        let one = rows.len() == 1;
        let matrix = TaskMatrix::new(rows).unwrap();
        prop_assert_eq!(matrix.forgetting_from_first().is_none(), one);
        prop_assert_eq!(matrix.forgetting_from_first().map(|f| -f), matrix.backward_transfer());
        prop_assert!(matrix.forgetting_from_first() <= matrix.forgetting_from_best());
        prop_assert!(matrix.forgetting_from_best() <= matrix.forgetting_from_any());
        prop_assert!(matrix.forgetting_from_any().is_none_or(|f| f >= 0.0));
        let zeros = vec![0.0; matrix.domains()];
        prop_assert_eq!(matrix.forward_transfer(Some(&zeros)), matrix.forward_transfer(None));
        let report = matrix.report(Some(&zeros)).unwrap();
        prop_assert!([report.last, report.avg, report.learning_acc].iter().all(|f| (0.0..=1.0).contains(f)));
    }

    #[test]
    fn neighbours_are_those_of_a_full_sort(
        bank in prop::collection::vec((prop::array::uniform3(-2..3i8), 0..4u32), 1..20),
        query in prop::array::uniform3(-2..3i8),
        k in 1..25usize,
    ) {
        let features: Vec<f32> = bank.iter().flat_map(|(row, _)| row.map(f32::from)).collect();
        let labels: Vec<u32> = bank.iter().map(|&(_, label)| label).collect();
        let found = KnnBank::new(&features, 3, &labels).unwrap().classify(&query.map(f32::from), k, 0.5).unwrap();
        // The same in f64; cosines of small whole numbers that differ at all differ by more than f32 rounds.
        let length = |v: &[i8; 3]| v.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>().sqrt().max(1e-12);
        let cosine = |row: &[i8; 3]| {
            let dot: f64 = row.iter().zip(query).map(|(&a, b)| f64::from(a) * f64::from(b)).sum();
            dot / length(row) / length(&query)
        };
        let mut cosines: Vec<f64> = bank.iter().map(|(row, _)| cosine(row)).collect();
        cosines.sort_by(|a, b| b.total_cmp(a));
        let total: f64 = cosines.iter().take(k).map(|c| (c / 0.5).exp()).sum();
        prop_assert!((found[0].scores.iter().sum::<f64>() - total).abs() < 1e-4 * total);
        prop_assert!(found[0].scores.is_sorted_by(|a, b| a >= b));
    }
}

#[test]
fn errors_say_what_was_expected_and_found() {
    let error = MetricsError::Label { what: "true labels", position: 7, last: 3, found: 9 };
    assert_eq!(error.to_string(), "true labels, position 7: expected a label from 0 to 3, found 9");
}
