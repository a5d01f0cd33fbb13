//! The mask generator on drawn scenes, where the right answer is known.

#![allow(clippy::unwrap_used, reason = "a test may fail anywhere")]

mod common;

use std::ops::ControlFlow;
use std::sync::Mutex;

use common::scene::{Draw, Guess, SIDE, Scene, draw, nothing, rect};
use common::{PREPROCESS, Random};
use kirie_data::MaskRecord;
use kirie_mask::Rle;
use kirie_sam::engine::{LowResMasks, PromptBatch};
use kirie_sam::mask_generator::{Progress, generate};
use kirie_sam::registry::Preprocess;
use kirie_sam::{DecodeMode, Embedding, Engine, HostTensor, MaskGeneratorOptions, PointGrid, SamError};

/// The mask of a drawing in a picture.
fn mask([width, height]: [u32; 2], draw: &Draw) -> Rle {
    let place = |v: usize| v as f64 + 0.5;
    Rle::from_fn(width as usize, height as usize, |x, y| draw(place(x), place(y)) > 0.0)
}

fn grid(side: u32) -> MaskGeneratorOptions {
    MaskGeneratorOptions { grid: PointGrid::PerSide(side), ..MaskGeneratorOptions::default() }
}

fn points(layers: &[&[[f64; 2]]]) -> MaskGeneratorOptions {
    MaskGeneratorOptions {
        grid: PointGrid::Explicit(layers.iter().map(|l| l.to_vec()).collect()),
        crop_n_layers: layers.len() as u32 - 1,
        ..MaskGeneratorOptions::default()
    }
}

/// All keep everything.
fn unfiltered(options: MaskGeneratorOptions) -> MaskGeneratorOptions {
    MaskGeneratorOptions {
        pred_iou_thresh: 0.0,
        stability_score_thresh: 0.0,
        box_nms_thresh: 1.0,
        crop_nms_thresh: 1.0,
        ..options
    }
}

const WHOLE: [u32; 2] = [SIDE, SIDE];

/// Two houses with a door each, which make a village; a sun; a lake at the picture's edge.
fn village(x: f64, y: f64) -> [Guess; 3] {
    let village = || (0.91, rect(8.0, 30.0, 50.0, 52.0));
    let is_in = |draw: Draw| draw(x, y) > 0.0;
    let sun = || draw(|x, y| (x - 50.0).powi(2) + (y - 12.0).powi(2) < 81.0);
    if is_in(rect(8.0, 30.0, 26.0, 52.0)) {
        let door =
            (if is_in(rect(14.0, 42.0, 20.0, 52.0)) { 0.97 } else { 0.5 }, rect(14.0, 42.0, 20.0, 52.0));
        [door, (0.95, rect(8.0, 30.0, 26.0, 52.0)), village()]
    } else if is_in(rect(34.0, 34.0, 50.0, 52.0)) {
        [nothing(), (0.94, rect(34.0, 34.0, 50.0, 52.0)), village()]
    } else if is_in(sun()) {
        [(0.2, rect(0.0, 0.0, 64.0, 64.0)), (0.99, sun()), nothing()]
    } else if is_in(rect(0.0, 54.0, 64.0, 64.0)) {
        [(0.93, rect(0.0, 54.0, 64.0, 64.0)), nothing(), nothing()]
    } else {
        [nothing(), nothing(), nothing()]
    }
}

#[test]
fn every_object_is_found_once() {
    let scene = Scene::new(WHOLE, village);
    let found = scene.generate(&grid(16)).unwrap();
    // Points lie at 2, 6, 10, ...; of equally good answers that of the first point, row by row, is kept.
    let expected: [(f32, Draw, [f64; 4], [f64; 2]); 6] = [
        (
            0.99,
            draw(|x, y| (x - 50.0).powi(2) + (y - 12.0).powi(2) < 81.0),
            [41.0, 3.0, 17.0, 17.0],
            [46.0, 6.0],
        ),
        (0.97, rect(14.0, 42.0, 20.0, 52.0), [14.0, 42.0, 5.0, 9.0], [14.0, 42.0]),
        (0.95, rect(8.0, 30.0, 26.0, 52.0), [8.0, 30.0, 17.0, 21.0], [10.0, 30.0]),
        (0.94, rect(34.0, 34.0, 50.0, 52.0), [34.0, 34.0, 15.0, 17.0], [34.0, 34.0]),
        (0.93, rect(0.0, 54.0, 64.0, 64.0), [0.0, 54.0, 63.0, 9.0], [2.0, 54.0]),
        (0.91, rect(8.0, 30.0, 50.0, 52.0), [8.0, 30.0, 41.0, 21.0], [10.0, 30.0]),
    ];
    assert_eq!(found.len(), expected.len());
    for (found, (iou, shape, bbox, point)) in found.iter().zip(expected) {
        assert_eq!(found.predicted_iou, f64::from(iou));
        assert_eq!(found.segmentation, mask(WHOLE, &shape), "{iou}");
        assert_eq!(found.area, mask(WHOLE, &shape).area());
        assert_eq!(found.bbox, bbox);
        assert_eq!(found.point_coords, [point]);
        assert_eq!(found.stability_score, 1.0);
        assert_eq!(found.crop_box, [0.0, 0.0, 64.0, 64.0]);
    }
    let asked = scene.asked();
    assert_eq!(asked.iter().map(Vec::len).collect::<Vec<_>>(), [64; 4]);
    assert_eq!(asked[0][..3], [[2.0, 2.0], [6.0, 2.0], [10.0, 2.0]]);
    assert_eq!(asked[3][63], [62.0, 62.0]);
}

#[test]
fn the_size_of_batches_changes_nothing() {
    let run = |points_per_batch| {
        let scene = Scene::new(WHOLE, village);
        let found = scene.generate(&MaskGeneratorOptions { points_per_batch, ..grid(12) }).unwrap();
        let calls: Vec<usize> = scene.asked().iter().map(Vec::len).collect();
        (found, calls)
    };
    let (expected, calls) = run(144);
    assert_eq!((expected.len(), calls), (6, vec![144]));
    for (size, last) in [(1, 1), (7, 4), (64, 16), (1024, 144)] {
        let (found, calls) = run(size);
        assert_eq!(found, expected, "{size}");
        assert!(calls.iter().all(|c| *c <= size) && calls.last() == Some(&last), "{calls:?}");
    }
}

/// One point with the given qualities; the masks are far from each other.
fn qualities(iou: [f32; 3], options: &MaskGeneratorOptions) -> Vec<f64> {
    let scene = Scene::new(WHOLE, move |_, _| {
        [0, 1, 2].map(|i| (iou[i], rect(20.0 * i as f64, 0.0, 20.0 * i as f64 + 10.0, 10.0)))
    });
    let mut found: Vec<f64> = scene.generate(options).unwrap().iter().map(|m| m.predicted_iou).collect();
    found.sort_by(f64::total_cmp);
    found
}

#[test]
fn predicted_iou_must_be_above_its_threshold() {
    let t = 0.88_f32;
    assert_eq!(qualities([t.next_down(), t, t.next_up()], &grid(1)), [f64::from(t.next_up())]);
    assert_eq!(qualities([f32::NAN, 0.9, f32::INFINITY], &grid(1)), [f64::from(0.9_f32), f64::INFINITY]);
    let at = |pred_iou_thresh| MaskGeneratorOptions { pred_iou_thresh, ..grid(1) };
    assert_eq!(qualities([-1.0, 0.0, f32::MIN_POSITIVE], &at(f32::MIN_POSITIVE / 2.0)).len(), 1);
    // Zero or less: no filter at all.
    assert_eq!(qualities([-1.0, 0.0, 1.0], &at(0.0)), [-1.0, 0.0, 1.0]);
    assert_eq!(qualities([-1.0, 0.0, 1.0], &at(-5.0)), [-1.0, 0.0, 1.0]);
    assert_eq!(qualities([f32::NAN, f32::NAN, 1.0], &at(0.0)).len(), 3);
}

#[test]
fn answers_that_are_no_numbers_are_errors() {
    let scene = Scene::new(WHOLE, |_, _| [0, 1, 2].map(|_| (f32::NAN, rect(0.0, 0.0, 9.0, 9.0))));
    assert!(matches!(scene.generate(&grid(2)), Err(SamError::Engine(_))));
    // Logits alone that are none make masks of nothing.
    let scene = Scene::new(WHOLE, |_, _| [0, 1, 2].map(|_| -> Guess { (0.99, Box::new(|_, _| f32::NAN)) }));
    assert_eq!(scene.generate(&grid(2)).unwrap(), []);
}

#[test]
fn stability_must_reach_its_threshold() {
    // A line of pixels: the first `sure` above the upper threshold, the rest up to 20 between the two.
    let line = |sure: f64, rest: f32, top: f64| -> Guess {
        let logit = move |x: f64, y: f64| match y {
            y if !(top..top + 1.0).contains(&y) || x >= 20.0 => -8.0,
            _ if x < sure => 8.0,
            _ => rest,
        };
        (0.9, Box::new(logit))
    };
    // The rest of the second line is no part of the mask.
    let scene =
        Scene::new(WHOLE, move |_, _| [line(19.0, 0.5, 0.0), line(18.0, -0.5, 10.0), line(20.0, 0.0, 20.0)]);
    let scores = |options: &MaskGeneratorOptions| -> Vec<(f64, u64)> {
        *scene.encoded.lock().unwrap() = 0;
        scene.generate(options).unwrap().iter().map(|m| (m.stability_score, m.area)).collect()
    };
    let at = |stability_score_thresh| MaskGeneratorOptions { stability_score_thresh, ..grid(1) };
    assert_eq!(scores(&at(0.95)), [(0.95, 20), (1.0, 20)]);
    assert_eq!(scores(&at(0.95_f64.next_up())), [(1.0, 20)]);
    assert_eq!(scores(&at(0.9)), [(0.95, 20), (0.9, 18), (1.0, 20)]);
    assert_eq!(scores(&at(0.0)), [(0.95, 20), (0.9, 18), (1.0, 20)]);
    // With a smaller offset the lines are stable.
    let narrow = MaskGeneratorOptions { stability_score_offset: 0.25, ..at(1.0) };
    assert_eq!(scores(&narrow), [(1.0, 20), (1.0, 18), (1.0, 20)]);
}

#[test]
fn masks_of_nothing_stay_only_unfiltered() {
    let scene = || Scene::new(WHOLE, |_, _| [nothing(), nothing(), nothing()]);
    assert_eq!(scene().generate(&grid(4)).unwrap(), []);
    let found = scene().generate(&MaskGeneratorOptions { stability_score_thresh: 0.0, ..grid(1) }).unwrap();
    assert_eq!(found.len(), 3);
    for record in found {
        assert_eq!((record.area, record.bbox), (0, [0.0; 4]));
        assert!(record.stability_score.is_nan());
        assert_eq!((record.segmentation.width(), record.segmentation.height()), (64, 64));
    }
}

#[test]
fn overlapping_boxes_lose_to_better_ones() {
    // Boxes from first to last pixel, without "+ 1": 10 x 10 each, shifted by 5, so an IoU of 50 / 150.
    let scene = || {
        Scene::new(WHOLE, |_, _| {
            [(0.90, rect(0.0, 0.0, 11.0, 11.0)), (0.92, rect(5.0, 0.0, 16.0, 11.0)), nothing()]
        })
    };
    let kept = |box_nms_thresh| -> Vec<[f64; 4]> {
        let options = MaskGeneratorOptions { box_nms_thresh, ..grid(2) };
        scene().generate(&options).unwrap().iter().map(|m| m.bbox).collect()
    };
    assert_eq!(kept(1.0 / 3.0), [[5.0, 0.0, 10.0, 10.0], [0.0, 0.0, 10.0, 10.0]]);
    assert_eq!(kept((1.0_f64 / 3.0).next_down()), [[5.0, 0.0, 10.0, 10.0]]);
    // Four points ask for the same two masks; nothing is a duplicate at a threshold of 1.
    assert_eq!(kept(1.0).len(), 8);
}

/// A picture with crops whose boxes the reference gave.
const LARGE: [u32; 2] = [800, 600];
const LARGE_CROPS: [[u32; 4]; 4] =
    [[0, 0, 502, 402], [0, 198, 502, 600], [298, 0, 800, 402], [298, 198, 800, 600]];

/// The box of a record as corners, and that of a crop.
fn corners(record: &MaskRecord) -> ([f64; 4], [f64; 4]) {
    let xyxy = |[x, y, w, h]: [f64; 4]| [x, y, x + w, y + h];
    (xyxy(record.bbox), xyxy(record.crop_box))
}

fn assert_near(found: [f64; 4], expected: [f64; 4], tolerance: f64) {
    let near = found.iter().zip(expected).all(|(f, e)| (f - e).abs() <= tolerance);
    assert!(near, "{found:?} is not {expected:?}");
}

const ANYWHERE: &[[f64; 2]] = &[[0.5, 0.5]];

#[test]
fn crops_are_in_the_pictures_coordinates() {
    // Inside all four crops' overlap: found five times.
    let shape = || rect(330.0, 230.0, 470.0, 370.0);
    let scene = Scene::new(LARGE, |_, _| [(0.9, shape()), nothing(), nothing()]).with_crops(&LARGE_CROPS);
    let all = scene.generate(&unfiltered(points(&[ANYWHERE, ANYWHERE]))).unwrap();
    let found: Vec<&MaskRecord> = all.iter().filter(|m| m.area > 0).collect();
    assert_eq!(found.len(), 5);
    let crop_of = |i: usize| scene.crops[i].map(f64::from);
    // Smaller crops first, then as they were cut.
    for (found, crop) in found.iter().zip([1, 2, 3, 4, 0]) {
        let (bbox, crop_box) = corners(found);
        assert_eq!(crop_box, crop_of(crop));
        let [x0, y0, x1, y1] = crop_box;
        assert_eq!(found.point_coords, [[f64::midpoint(x0, x1), f64::midpoint(y0, y1)]]);
        // The low-resolution masks have pixels of 8 to 12.
        assert_near(bbox, [330.0, 230.0, 469.0, 369.0], 7.0);
        assert_eq!((found.segmentation.width(), found.segmentation.height()), (800, 600));
        assert!(found.segmentation.iou(&mask(LARGE, &shape()), false).unwrap() > 0.85);
        assert_eq!(found.segmentation.area(), found.area);
    }
    assert_eq!(*scene.encoded.lock().unwrap(), 5);
    let asked: Vec<[f64; 2]> = scene.asked().into_iter().map(|points| points[0]).collect();
    assert_eq!(asked, [[400.0, 300.0], [251.0, 201.0], [251.0, 399.0], [549.0, 201.0], [549.0, 399.0]]);
}

#[test]
fn of_duplicates_among_crops_that_of_the_smaller_stays() {
    let scene = |whole_iou: f32| {
        Scene::new(LARGE, move |x, _| {
            let iou = if x == 400.0 { whole_iou } else { 0.9 };
            [(iou, rect(330.0, 230.0, 470.0, 370.0)), nothing(), nothing()]
        })
        .with_crops(&LARGE_CROPS)
    };
    let options = points(&[ANYWHERE, ANYWHERE]);
    let found = scene(0.99).generate(&options).unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!(corners(&found[0]).1, [0.0, 0.0, 502.0, 402.0]);
    assert_eq!(found[0].predicted_iou, f64::from(0.9_f32));
    // The threshold inside a crop does not matter here, that among crops does.
    let found =
        scene(0.99).generate(&MaskGeneratorOptions { box_nms_thresh: 0.0, ..options.clone() }).unwrap();
    assert_eq!(found.len(), 1);
    let found = scene(0.99).generate(&MaskGeneratorOptions { crop_nms_thresh: 1.0, ..options }).unwrap();
    assert_eq!(found.len(), 5);
}

#[test]
fn masks_cut_by_a_crop_are_dropped() {
    let found_in = |shape: fn() -> Draw| -> Vec<[f64; 4]> {
        let scene =
            Scene::new(LARGE, move |_, _| [(0.9, shape()), nothing(), nothing()]).with_crops(&LARGE_CROPS);
        let options = MaskGeneratorOptions { crop_nms_thresh: 1.0, ..points(&[ANYWHERE, ANYWHERE]) };
        scene.generate(&options).unwrap().iter().map(|m| corners(m).1).collect()
    };
    let whole = [0.0, 0.0, 800.0, 600.0];
    let crop = |i: usize| LARGE_CROPS[i].map(f64::from);
    // It crosses every inner edge, or the crop does not see it at all.
    assert_eq!(found_in(|| rect(250.0, 150.0, 560.0, 450.0)), [whole]);
    assert_eq!(found_in(|| rect(0.0, 0.0, 800.0, 600.0)), [whole]);
    // In a corner of the picture: the crops' edges there are the picture's.
    assert_eq!(found_in(|| rect(0.0, 0.0, 100.0, 100.0)), [crop(0), whole]);
    assert_eq!(found_in(|| rect(650.0, 450.0, 800.0, 600.0)), [crop(3), whole]);
    // On the left edge of the picture, over its height, cut by the crops at 402 and 198.
    assert_eq!(found_in(|| rect(0.0, 0.0, 100.0, 600.0)), [whole]);
    // 30 pixels from the inner edges, and 12 (near counts as touching).
    assert_eq!(found_in(|| rect(100.0, 50.0, 472.0, 372.0)), [crop(0), whole]);
    assert_eq!(found_in(|| rect(100.0, 50.0, 490.0, 372.0)), [whole]);
}

#[test]
fn masks_of_nothing_in_crops() {
    let scene = Scene::new(LARGE, |_, _| [nothing(), nothing(), nothing()]).with_crops(&LARGE_CROPS);
    let options = MaskGeneratorOptions { stability_score_thresh: 0.0, ..points(&[ANYWHERE, ANYWHERE]) };
    // The box of nothing is its crop's upper left corner, which only in two cases is the picture's.
    let found: Vec<_> = scene.generate(&options).unwrap().iter().map(corners).collect();
    let at = |crop: [f64; 4]| ([0.0; 4], crop);
    let (first, whole) = (at([0.0, 0.0, 502.0, 402.0]), at([0.0, 0.0, 800.0, 600.0]));
    assert_eq!(found, [first, first, first, whole, whole, whole]);
}

/// Crops of a picture of 64 x 64, two layers, without overlap.
fn quarters_and_sixteenths() -> Vec<[u32; 4]> {
    let layer = |n: u32, side: u32| {
        (0..n).flat_map(move |i| (0..n).map(move |j| [i * side, j * side, (i + 1) * side, (j + 1) * side]))
    };
    layer(2, 32).chain(layer(4, 16)).collect()
}

#[test]
fn deeper_layers_have_fewer_points() {
    let calls = |crop_n_points_downscale_factor, side| -> Vec<usize> {
        let scene = Scene::new(WHOLE, village).with_crops(&quarters_and_sixteenths());
        let options = MaskGeneratorOptions {
            crop_n_layers: 2,
            crop_overlap_ratio: 0.0,
            crop_n_points_downscale_factor,
            ..grid(side)
        };
        let mut last = None;
        generate(&scene, &scene.picture(), &options, &mut |progress| {
            last = Some(progress);
            ControlFlow::Continue(())
        })
        .unwrap();
        let calls: Vec<usize> = scene.asked().iter().map(Vec::len).collect();
        let Progress { done, total, .. } = last.unwrap();
        assert_eq!((done, total), (calls.iter().sum(), calls.iter().sum()));
        assert_eq!(*scene.encoded.lock().unwrap(), calls.len());
        calls
    };
    assert_eq!(calls(1, 3), [9; 21]);
    assert_eq!(calls(2, 5), [&[25][..], &[4; 4], &[1; 16]].concat());
    // Crops whose grid has shrunk to nothing are not even encoded.
    assert_eq!(calls(4, 5), [&[25][..], &[1; 4]].concat());
}

#[test]
fn crops_see_what_the_whole_misses() {
    let small = || rect(200.0, 150.0, 300.0, 250.0);
    let scene = || {
        let guess =
            move |x, y| [if small()(x, y) > 0.0 { (0.9, small()) } else { nothing() }, nothing(), nothing()];
        Scene::new(LARGE, guess).with_crops(&LARGE_CROPS)
    };
    assert_eq!(scene().generate(&points(&[ANYWHERE])).unwrap(), []);
    let found = scene().generate(&points(&[ANYWHERE, ANYWHERE])).unwrap();
    assert_eq!(found.len(), 1);
    assert_near(corners(&found[0]).0, [200.0, 150.0, 299.0, 249.0], 5.0);
    assert_eq!(found[0].point_coords, [[251.0, 201.0]]);
}

#[test]
fn given_points_are_asked_and_no_others() {
    let layers: [&[[f64; 2]]; 2] = [&[[0.0, 0.0], [1.0, 1.0], [0.25, 0.5]], &[[0.5, 1.0]]];
    let scene = Scene::new(LARGE, |_, _| [nothing(), nothing(), nothing()]).with_crops(&LARGE_CROPS);
    assert_eq!(scene.generate(&points(&layers)).unwrap(), []);
    let asked = scene.asked();
    assert_eq!(asked[0], [[0.0, 0.0], [800.0, 600.0], [200.0, 300.0]]);
    assert_eq!(
        asked[1..],
        [[[251.0, 402.0]], [[251.0, 600.0]], [[549.0, 402.0]], [[549.0, 600.0]]].map(Vec::from)
    );
    // None at all is no error.
    let scene = Scene::new(WHOLE, village);
    assert_eq!(scene.generate(&points(&[&[]])).unwrap(), []);
}

/// A square of 20 with a hole of 3 x 3 and an island of 2 x 2 far away.
fn spotted() -> Draw {
    let parts = [rect(10.0, 10.0, 30.0, 30.0), rect(15.0, 15.0, 18.0, 18.0), rect(50.0, 50.0, 52.0, 52.0)];
    draw(move |x, y| {
        let [square, hole, island] = [0, 1, 2].map(|i| parts[i](x, y) > 0.0);
        (square && !hole) || island
    })
}

fn cleaned(min_mask_region_area: u64) -> MaskGeneratorOptions {
    MaskGeneratorOptions { min_mask_region_area, ..grid(1) }
}

#[test]
fn small_holes_and_islands_go() {
    let scene = || Scene::new(WHOLE, |_, _| [(0.9, spotted()), nothing(), nothing()]);
    let whole = || rect(10.0, 10.0, 30.0, 30.0);
    let clean = |min_area| scene().generate(&cleaned(min_area)).unwrap().remove(0);
    for min_area in [0, 1, 4] {
        assert_eq!(clean(min_area).segmentation, mask(WHOLE, &spotted()));
        assert_eq!(clean(min_area).bbox, [10.0, 10.0, 41.0, 41.0]);
    }
    // The island has 4 pixels, the hole 9; fewer than the setting go.
    assert_eq!((clean(5).area, clean(5).bbox), (400 - 9, [10.0, 10.0, 19.0, 19.0]));
    assert_eq!(clean(9).area, 400 - 9);
    let record = clean(10);
    assert_eq!(record.segmentation, mask(WHOLE, &whole()));
    assert_eq!((record.area, record.bbox), (400, [10.0, 10.0, 19.0, 19.0]));
    assert_eq!((record.predicted_iou, record.stability_score), (f64::from(0.9_f32), 1.0));
    // When everything is small the largest stays.
    assert_eq!(clean(1000).area, 400);
}

#[test]
fn cleaned_masks_lose_against_untouched_ones() {
    // The boxes are far from equal until the island is gone.
    let scene =
        || Scene::new(WHOLE, |_, _| [(0.99, spotted()), (0.90, rect(10.0, 10.0, 30.0, 30.0)), nothing()]);
    let ious = |options: &MaskGeneratorOptions| -> Vec<f64> {
        scene().generate(options).unwrap().iter().map(|m| m.predicted_iou).collect()
    };
    let (better, untouched) = (f64::from(0.99_f32), f64::from(0.90_f32));
    assert_eq!(ious(&cleaned(0)), [better, untouched]);
    assert_eq!(ious(&cleaned(10)), [untouched]);
    // The larger of the two thresholds decides, and untouched masks come first.
    assert_eq!(ious(&MaskGeneratorOptions { crop_nms_thresh: 1.0, ..cleaned(10) }), [untouched, better]);
    assert_eq!(ious(&MaskGeneratorOptions { box_nms_thresh: 1.0, ..cleaned(10) }), [untouched, better]);
}

#[test]
fn progress_grows_to_its_total() {
    let scene = Scene::new(WHOLE, village).with_crops(&quarters_and_sixteenths());
    let options =
        MaskGeneratorOptions { crop_n_layers: 1, crop_overlap_ratio: 0.0, points_per_batch: 10, ..grid(5) };
    let mut seen: Vec<Progress> = Vec::new();
    generate(&scene, &scene.picture(), &options, &mut |progress| {
        seen.push(progress);
        ControlFlow::Continue(())
    })
    .unwrap();
    assert!(seen.iter().all(|p| p.total == 125));
    let done: Vec<usize> = seen.iter().map(|p| p.done).collect();
    let expected: Vec<usize> = (0..5).flat_map(|crop| [10, 20, 25].map(|d| crop * 25 + d)).collect();
    assert_eq!(done, expected);
    assert!(seen[2].masks >= 5);
}

#[test]
fn it_can_be_stopped() {
    for stop_after in [1, 3] {
        let scene = Scene::new(WHOLE, village);
        let mut calls = 0;
        let options = MaskGeneratorOptions { points_per_batch: 5, ..grid(8) };
        let result = generate(&scene, &scene.picture(), &options, &mut |_| {
            calls += 1;
            if calls == stop_after { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        assert!(matches!(result, Err(SamError::Cancelled)));
        assert_eq!((calls, scene.asked().len()), (stop_after, stop_after));
    }
}

#[test]
fn bad_settings_are_named_before_anything_runs() {
    let scene = Scene::new(WHOLE, village);
    let default = MaskGeneratorOptions::default;
    let outside: &[[f64; 2]] = &[[0.5, 1.01]];
    for (expected, options) in [
        ("points_per_side", grid(0)),
        ("points_per_side", grid(u32::MAX)),
        ("point_grids", points(&[outside])),
        ("point_grids", points(&[&[[f64::NAN, 0.0]]])),
        ("point_grids", MaskGeneratorOptions { crop_n_layers: 1, ..points(&[ANYWHERE]) }),
        ("points_per_batch", MaskGeneratorOptions { points_per_batch: 0, ..default() }),
        ("points_per_batch", MaskGeneratorOptions { points_per_batch: 1025, ..default() }),
        ("pred_iou_thresh", MaskGeneratorOptions { pred_iou_thresh: f32::NAN, ..default() }),
        (
            "stability_score_thresh",
            MaskGeneratorOptions { stability_score_thresh: f64::INFINITY, ..default() },
        ),
        ("stability_score_offset", MaskGeneratorOptions { stability_score_offset: f32::NAN, ..default() }),
        ("stability_score_offset", MaskGeneratorOptions { stability_score_offset: -0.5, ..default() }),
        ("box_nms_thresh", MaskGeneratorOptions { box_nms_thresh: f64::NAN, ..default() }),
        ("crop_nms_thresh", MaskGeneratorOptions { crop_nms_thresh: f64::NAN, ..default() }),
        ("crop_n_layers", MaskGeneratorOptions { crop_n_layers: 40, ..default() }),
        ("crop_overlap_ratio", MaskGeneratorOptions { crop_overlap_ratio: -0.1, ..default() }),
        ("crop_overlap_ratio", MaskGeneratorOptions { crop_overlap_ratio: f64::NAN, ..default() }),
        (
            "crop_n_points_downscale_factor",
            MaskGeneratorOptions { crop_n_points_downscale_factor: 0, ..default() },
        ),
    ] {
        let error = scene.generate(&options).unwrap_err();
        assert!(matches!(&error, SamError::Setting { name, .. } if *name == expected), "{error}");
        assert!(error.to_string().starts_with(&format!("{expected} is ")), "{error}");
    }
    assert_eq!(*scene.encoded.lock().unwrap(), 0);
}

/// What an engine may give at worst, on pictures of any shape with any settings.
#[test]
fn nonsense_never_panics() {
    struct Nonsense(Mutex<Random>);

    impl Engine for Nonsense {
        fn model(&self) -> &'static str {
            "nonsense"
        }

        fn preprocess(&self) -> Preprocess {
            Preprocess { size: 8, frame: 16, ..PREPROCESS }
        }

        fn mask_side(&self) -> usize {
            4
        }

        fn encode(&self, _: HostTensor) -> Result<Embedding, SamError> {
            Ok(Embedding { image: HostTensor::new(vec![0], vec![])?, hq_features: None })
        }

        fn decode(
            &self,
            _: &Embedding,
            prompts: &PromptBatch,
            _: DecodeMode,
        ) -> Result<LowResMasks, SamError> {
            let mut random = self.0.lock().unwrap();
            let mut values = |count: usize| -> Vec<f32> {
                let odd =
                    [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, f32::MIN, 0.0, -0.0, 1.0, -1.0];
                (0..count)
                    .map(|_| match random.below(3) {
                        0 => odd[random.below(odd.len())],
                        _ => random.unit() as f32 * 6.0 - 3.0,
                    })
                    .collect()
            };
            let n = prompts.count;
            Ok(LowResMasks {
                logits: HostTensor::new(vec![n, 3, 4, 4], values(n * 48))?,
                iou: HostTensor::new(vec![n, 3], values(n * 3))?,
            })
        }
    }

    let mut random = Random(11);
    let mut found = 0;
    for round in 0..300 {
        let side = |random: &mut Random| [1, 2, 3, 17, 50][random.below(5)];
        let (width, height) = (side(&mut random), side(&mut random));
        let mut number = |choices: &[f64]| choices[random.below(choices.len())];
        let options = MaskGeneratorOptions {
            grid: PointGrid::PerSide(number(&[1.0, 2.0, 5.0]) as u32),
            points_per_batch: number(&[1.0, 3.0, 64.0]) as usize,
            pred_iou_thresh: number(&[-1.0, 0.0, 0.5, 0.88]) as f32,
            stability_score_thresh: number(&[-1.0, 0.0, 0.2, 0.95]),
            stability_score_offset: number(&[0.0, 1.0, 100.0]) as f32,
            box_nms_thresh: number(&[-1.0, 0.0, 0.7, 1.0]),
            crop_n_layers: number(&[0.0, 1.0, 2.0, 3.0]) as u32,
            crop_nms_thresh: number(&[-1.0, 0.0, 0.7, 1.0]),
            crop_overlap_ratio: number(&[0.0, 0.3, 1.0]),
            crop_n_points_downscale_factor: number(&[1.0, 2.0, 1000.0]) as u32,
            min_mask_region_area: number(&[0.0, 1.0, 10.0, 1e9]) as u64,
        };
        let image = common::picture(width, height);
        let engine = Nonsense(Mutex::new(Random(round)));
        let records = match generate(&engine, &image, &options, &mut |_| ControlFlow::Continue(())) {
            // every predicted IoU of a call was NaN
            Err(SamError::Engine(_)) => continue,
            other => other.unwrap(),
        };
        for record in records {
            let (width, height) = (f64::from(width), f64::from(height));
            let mask = &record.segmentation;
            assert_eq!((mask.width() as f64, mask.height() as f64), (width, height));
            assert_eq!(mask.area(), record.area);
            let [x, y, w, h] = record.bbox;
            assert!(x >= 0.0 && y >= 0.0 && w >= 0.0 && h >= 0.0 && x + w < width && y + h < height);
            found += 1;
        }
    }
    assert!(found > 1000, "{found}");
}

#[test]
fn a_picture_of_one_pixel() {
    let scene = Scene::new([1, 1], |_, _| [(0.9, draw(|_, _| true)), nothing(), nothing()])
        .with_crops(&[[0, 0, 1, 1], [0, 0, 1, 1]]);
    let found = scene.generate(&MaskGeneratorOptions { crop_n_layers: 2, ..grid(1) }).unwrap();
    // Boxes without area are never duplicates.
    assert_eq!(found.len(), 3);
    assert!(found.iter().all(|m| m.area == 1 && m.bbox == [0.0; 4]));
}
