//! What must hold for every mask, string, polygon and list of boxes.

use std::collections::HashSet;

use kirie_mask::{
    BBox, Connectivity, Mask, Point, Rle, contours, dilate, erode, fill_small_holes, label, nms, rasterize,
    rasterize_all, remove_small_islands, simplify,
};
use proptest::prelude::*;

/// Masks of a given size, from nearly empty to nearly full.
fn mask_of(width: usize, height: usize) -> impl Strategy<Value = Mask> {
    (0.02..0.98f64)
        .prop_flat_map(move |density| prop::collection::vec(prop::bool::weighted(density), width * height))
        .prop_map(move |pixels| Mask::from_vec(width, height, pixels).expect("as many as the frame has"))
}

fn mask() -> impl Strategy<Value = Mask> {
    // Wider than one encoding block now and then.
    let size = prop_oneof![3 => (0..14usize, 0..14usize), 1 => (60..140usize, 1..8usize)];
    size.prop_flat_map(|(width, height)| mask_of(width, height))
}

fn masks_of_one_size() -> impl Strategy<Value = Vec<Mask>> {
    (1..20usize, 1..20usize, 1..5usize)
        .prop_flat_map(|(width, height, count)| prop::collection::vec(mask_of(width, height), count))
}

/// A mask and a window inside it: x, y, width, height.
fn mask_and_window() -> impl Strategy<Value = (Mask, [usize; 4])> {
    mask().prop_flat_map(|mask| {
        let (width, height) = (mask.width(), mask.height());
        let window = (0..=width, 0..=height)
            .prop_flat_map(move |(x, y)| (Just(x), Just(y), 0..=width - x, 0..=height - y))
            .prop_map(|(x, y, w, h)| [x, y, w, h]);
        (Just(mask), window)
    })
}

fn any_point() -> impl Strategy<Value = Point> {
    let coordinate = || prop_oneof![4 => -30.0..60.0f64, 1 => -2e6..2e6f64, 1 => any::<f64>()];
    (coordinate(), coordinate()).prop_map(|(x, y)| Point { x, y })
}

fn any_box() -> impl Strategy<Value = BBox> {
    (0.0..50.0f64, 0.0..50.0f64, -1.0..30.0f64, -1.0..30.0f64)
        .prop_map(|(x, y, w, h)| BBox::from_xywh([x, y, w, h]))
}

/// Components by flooding from pixel to pixel: the set of pixels of each.
fn flooded(mask: &Mask, diagonal: bool) -> Vec<Vec<(usize, usize)>> {
    let mut seen = HashSet::new();
    let mut found = Vec::new();
    for start in (0..mask.height()).flat_map(|y| (0..mask.width()).map(move |x| (x, y))) {
        if !mask.get(start.0, start.1) || !seen.insert(start) {
            continue;
        }
        let mut pixels = vec![start];
        let mut next = 0;
        while let Some(&(x, y)) = pixels.get(next) {
            next += 1;
            for (dx, dy) in (-1..=1).flat_map(|dy| (-1..=1).map(move |dx| (dx, dy))) {
                let (Some(x), Some(y)) = (x.checked_add_signed(dx), y.checked_add_signed(dy)) else {
                    continue;
                };
                if (diagonal || dx == 0 || dy == 0) && mask.get(x, y) && seen.insert((x, y)) {
                    pixels.push((x, y));
                }
            }
        }
        found.push(pixels);
    }
    found
}

/// For each pixel, what `f` says of the foreground within `radius` and the size of the window.
fn by_window(mask: &Mask, radius: i64, f: impl Fn(usize, usize) -> bool) -> Mask {
    Mask::from_fn(mask.width(), mask.height(), |x, y| {
        let (x, y) = (x as i64, y as i64);
        let inside = (y - radius..=y + radius)
            .flat_map(|v| (x - radius..=x + radius).map(move |u| (u, v)))
            .filter(|&(u, v)| u >= 0 && v >= 0 && mask.get(u as usize, v as usize));
        f(inside.count(), (2 * radius + 1).pow(2) as usize)
    })
}

/// Twice the signed area of a ring; above 0 when clockwise on the screen.
fn turning(ring: &[Point]) -> f64 {
    ring.iter().zip(ring.iter().cycle().skip(1)).map(|(a, b)| a.x * b.y - b.x * a.y).sum()
}

proptest! {
    #[test]
    fn runs_and_back(mask in mask()) {
        let rle = Rle::from_mask(&mask);
        prop_assert_eq!(rle.to_mask(), mask.clone());
        prop_assert_eq!(rle.area(), mask.area());
        prop_assert!(rle.counts().iter().skip(1).all(|&count| count > 0));
        let again = Rle::from_counts(mask.height(), mask.width(), rle.counts().to_vec());
        prop_assert_eq!(again.as_ref(), Ok(&rle));
        let [x, y, w, h] = rle.bbox_xywh().map(f64::from);
        let corners = mask.bbox().map(|b| [b.x0, b.y0, b.width() + 1.0, b.height() + 1.0]);
        prop_assert_eq!([x, y, w, h], corners.unwrap_or([0.0; 4]));
    }

    #[test]
    fn text_and_back(mask in mask()) {
        let rle = Rle::from_mask(&mask);
        let text = rle.to_coco_string();
        let again = Rle::from_coco_string(mask.height(), mask.width(), &text);
        prop_assert_eq!(again.as_ref(), Ok(&rle));
        let json = serde_json::to_string(&rle).unwrap();
        prop_assert_eq!(serde_json::from_str::<Rle>(&json).unwrap(), rle);
    }

    #[test]
    fn strings_of_any_kind_are_read_or_refused(
        text in prop_oneof!["\\PC{0,40}", "[0-o]{0,40}", "[0-O]{0,12}"],
        height in prop_oneof![0..30usize, any::<usize>()],
        width in prop_oneof![0..30usize, any::<usize>()],
    ) {
        if let Ok(rle) = Rle::from_coco_string(height, width, &text) {
            let sum: u64 = rle.counts().iter().map(|&c| u64::from(c)).sum();
            prop_assert_eq!(sum, (height * width) as u64);
            prop_assert_eq!(Rle::from_coco_string(height, width, &rle.to_coco_string()), Ok(rle));
        }
    }

    #[test]
    fn counts_of_any_kind_are_read_or_refused(
        counts in prop::collection::vec(prop_oneof![0..9u32, any::<u32>()], 0..12),
        height in 0..9usize,
    ) {
        let sum: u64 = counts.iter().map(|&c| u64::from(c)).sum();
        let width = sum as usize / height.max(1);
        let fits = width * height == sum as usize && u32::try_from(sum).is_ok();
        prop_assert_eq!(Rle::from_counts(height, width, counts).is_ok(), fits);
    }

    #[test]
    fn crop_is_the_window_and_paste_undoes_it((mask, [x, y, w, h]) in mask_and_window()) {
        let rle = Rle::from_mask(&mask);
        let cropped = rle.crop(x, y, w, h).unwrap();
        prop_assert_eq!(cropped.to_mask(), Mask::from_fn(w, h, |u, v| mask.get(x + u, y + v)));
        let pasted = cropped.paste(x, y, mask.width(), mask.height()).unwrap();
        let inside = |u: usize, v: usize| (x..x + w).contains(&u) && (y..y + h).contains(&v) && mask.get(u, v);
        prop_assert_eq!(pasted.to_mask(), Mask::from_fn(mask.width(), mask.height(), inside));
        prop_assert_eq!(&pasted, &Rle::from_mask(&pasted.to_mask()));
        prop_assert_eq!(pasted.crop(x, y, w, h), Ok(cropped));
    }

    #[test]
    fn windows_of_any_kind_are_taken_or_refused(mask in mask(), window in any::<[usize; 4]>()) {
        let [x, y, w, h] = window;
        let _ = Rle::from_mask(&mask).crop(x, y, w, h);
        let _ = Rle::from_mask(&mask).paste(x, y, w, h);
    }

    #[test]
    fn merge_is_or_and_and(masks in masks_of_one_size()) {
        let rles: Vec<Rle> = masks.iter().map(Rle::from_mask).collect();
        let (width, height) = (masks[0].width(), masks[0].height());
        let any = Mask::from_fn(width, height, |x, y| masks.iter().any(|m| m.get(x, y)));
        let all = Mask::from_fn(width, height, |x, y| masks.iter().all(|m| m.get(x, y)));
        prop_assert_eq!(Rle::merge(&rles, false).unwrap(), Rle::from_mask(&any));
        prop_assert_eq!(Rle::merge(&rles, true).unwrap(), Rle::from_mask(&all));
    }

    #[test]
    fn iou_of_runs_is_iou_of_pixels(masks in masks_of_one_size()) {
        let (a, b) = (&masks[0], &masks[masks.len() - 1]);
        let runs = Rle::from_mask(a).iou(&Rle::from_mask(b), false);
        prop_assert_eq!(runs, a.iou(b));
    }

    #[test]
    fn outlines_hold_exactly_the_mask(mask in mask()) {
        let mut back = Mask::new(mask.width(), mask.height());
        let regions = contours(&mask);
        prop_assert_eq!(regions.len(), flooded(&mask, false).len());
        for region in regions {
            prop_assert!(turning(&region.exterior) > 0.0);
            let outer = rasterize(&region.exterior, mask.width(), mask.height()).unwrap().to_mask();
            let holes = rasterize_all(&region.holes, mask.width(), mask.height()).unwrap().to_mask();
            let drawn = outer.as_slice().iter().zip(holes.as_slice());
            for (pixel, (&outer, &hole)) in back.as_mut_slice().iter_mut().zip(drawn) {
                prop_assert!(outer || !hole, "a hole outside its region");
                *pixel |= outer && !hole;
            }
            prop_assert!(region.holes.iter().all(|hole| turning(hole) < 0.0));
            for ring in region.holes.iter().chain([&region.exterior]) {
                let corners: HashSet<[u64; 2]> = ring.iter().map(|p| [p.x.to_bits(), p.y.to_bits()]).collect();
                prop_assert_eq!(corners.len(), ring.len(), "a ring meets itself");
                for (a, b) in ring.iter().zip(ring.iter().cycle().skip(1)) {
                    prop_assert!((a.x == b.x) != (a.y == b.y), "not along pixel edges");
                }
            }
        }
        prop_assert_eq!(back, mask);
    }

    #[test]
    fn simplified_rings_stay_close(mask in mask(), tolerance in 0.0..4.0f64) {
        for ring in contours(&mask).into_iter().flat_map(|r| r.holes.into_iter().chain([r.exterior])) {
            let short = simplify(&ring, tolerance);
            prop_assert!(short.len() >= 3 && short.len() <= ring.len());
            let distance = |p: &Point| short.iter().zip(short.iter().cycle().skip(1)).map(|(a, b)| {
                let (dx, dy) = (b.x - a.x, b.y - a.y);
                let t = (((p.x - a.x) * dx + (p.y - a.y) * dy) / (dx * dx + dy * dy)).clamp(0.0, 1.0);
                (p.x - a.x - t * dx).hypot(p.y - a.y - t * dy)
            }).fold(f64::INFINITY, f64::min);
            prop_assert!(ring.iter().all(|p| distance(p) <= tolerance + 1e-9));
        }
    }

    #[test]
    fn polygons_of_any_kind_are_drawn_or_refused(
        polygon in prop::collection::vec(any_point(), 0..12),
        width in 0..40usize,
        height in 0..40usize,
    ) {
        let fine = polygon.iter().all(|p| p.x.abs() <= 1e6 && p.y.abs() <= 1e6);
        prop_assert_eq!(rasterize(&polygon, width, height).is_ok(), fine);
        prop_assert!(simplify(&polygon, 1.0).len() <= polygon.len());
    }

    #[test]
    fn components_are_those_of_flooding(mask in mask(), diagonal in any::<bool>()) {
        let connectivity = if diagonal { Connectivity::Eight } else { Connectivity::Four };
        let found = label(&mask, connectivity);
        let mut expected = vec![0; mask.width() * mask.height()];
        let components = flooded(&mask, diagonal);
        for (i, pixels) in components.iter().enumerate() {
            for (x, y) in pixels {
                expected[y * mask.width() + x] = i as u32 + 1;
            }
        }
        prop_assert_eq!(found.labels, expected);
        prop_assert_eq!(found.areas, components.iter().map(|c| c.len() as u64).collect::<Vec<_>>());
    }

    #[test]
    fn small_holes_and_islands(mask in mask(), min_area in 0..12u64) {
        let small = |c: &Vec<(usize, usize)>| (c.len() as u64) < min_area;

        let inverse = Mask::from_fn(mask.width(), mask.height(), |x, y| !mask.get(x, y));
        let holes: Vec<_> = flooded(&inverse, true).into_iter().filter(small).collect();
        let mut filled = mask.clone();
        holes.iter().flatten().for_each(|&(x, y)| filled.set(x, y, true));
        prop_assert_eq!(fill_small_holes(&mask, min_area), (filled, !holes.is_empty()));

        let islands = flooded(&mask, true);
        let mut keep: Vec<_> = islands.iter().filter(|c| !small(c)).collect();
        if keep.is_empty() {
            // The first of the largest; `max_by_key` would give the last.
            keep.extend(islands.iter().rev().max_by_key(|c| c.len()));
        }
        let mut kept = Mask::new(mask.width(), mask.height());
        keep.into_iter().flatten().for_each(|&(x, y)| kept.set(x, y, true));
        prop_assert_eq!(remove_small_islands(&mask, min_area), (kept, islands.iter().any(small)));
    }

    #[test]
    fn erosion_and_dilation_by_windows(mask in mask(), radius in 0..6usize) {
        prop_assert_eq!(erode(&mask, radius), by_window(&mask, radius as i64, |count, size| count == size));
        prop_assert_eq!(dilate(&mask, radius), by_window(&mask, radius as i64, |count, _| count > 0));
    }

    #[test]
    fn suppression_keeps_the_best_and_drops_only_overlaps(
        boxes in prop::collection::vec((any_box(), 0..8u8), 0..25),
        threshold in 0.0..1.0f64,
    ) {
        let (boxes, scores): (Vec<BBox>, Vec<f64>) = boxes.into_iter().map(|(b, s)| (b, f64::from(s))).unzip();
        let kept = nms(&boxes, &scores, threshold);
        let before = |a: usize, b: usize| (scores[b], a) < (scores[a], b);
        prop_assert!(kept.windows(2).all(|pair| before(pair[0], pair[1])));
        for i in 0..boxes.len() {
            let rival = kept.iter().any(|&k| k != i && before(k, i) && boxes[k].iou(&boxes[i]) > threshold);
            prop_assert_eq!(kept.contains(&i), !rival, "box {}", i);
        }
    }
}
