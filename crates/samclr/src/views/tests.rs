use super::*;
use crate::regions::{Region, RegionsConfig, Source};
use kirie_mask::Mask;

const DRAWS: usize = 20_000;

fn draws(transform: &Transform, size: [u32; 2]) -> Vec<Drawn> {
    let mut rng = Streams::new(3).stream("draws", &[]);
    (0..DRAWS).map(|_| transform.draw(size, &mut rng)).collect()
}

fn first(recipe: Recipe) -> Transform {
    ViewsConfig { recipe, ..ViewsConfig::default() }.kinds()[0].transform
}

fn share(draws: &[Drawn], of: impl Fn(&Drawn) -> bool) -> f64 {
    draws.iter().filter(|drawn| of(drawn)).count() as f64 / draws.len() as f64
}

/// Whether numbers are spread evenly between two ends: the greatest distance of the empirical distribution from the straight line
/// (Kolmogorov and Smirnov; 1.95 / sqrt(n) is passed once in 1000).
fn assert_even(mut values: Vec<f64>, [least, most]: [f64; 2], what: &str) {
    values.sort_by(f64::total_cmp);
    let n = values.len() as f64;
    let off = values.iter().enumerate().map(|(i, value)| {
        let expected = (value - least) / (most - least);
        ((i as f64 + 0.5) / n - expected).abs()
    });
    let off = off.fold(0.0, f64::max);
    assert!(off < 1.95 / n.sqrt() + 0.5 / n, "{what}: {off}, {:?} to {:?}", values.first(), values.last());
}

#[test]
fn shares_are_the_published_ones() {
    for (recipe, blur, solarize) in [
        (Recipe::Samclr, 0.5, 0.0),
        (Recipe::Simclr, 0.5, 0.0),
        (Recipe::Cifar, 0.0, 0.0),
        (Recipe::Moco, 0.5, 0.0),
        (Recipe::Dino, 1.0, 0.0),
    ] {
        let drawn = draws(&first(recipe), [100, 80]);
        for (found, expected) in [
            (share(&drawn, |d| d.flipped), 0.5),
            (share(&drawn, |d| !d.jitter.is_empty()), 0.8),
            (share(&drawn, |d| d.gray), 0.2),
            (share(&drawn, |d| d.sigma.is_some()), blur),
            (share(&drawn, |d| d.solarized), solarize),
        ] {
            // Four standard deviations.
            let room = 4.0 * (expected * (1.0_f64 - expected) / DRAWS as f64).sqrt();
            assert!((found - expected).abs() <= room, "{recipe:?}: {found}, expected {expected}");
        }
    }
    let dino = ViewsConfig { recipe: Recipe::Dino, local: 6, ..ViewsConfig::default() }.kinds();
    let found: Vec<_> = dino.iter().map(|k| (k.count, k.transform.blur, k.transform.solarize)).collect();
    assert_eq!(found, [(1, 1.0, 0.0), (1, 0.1, 0.2), (6, 0.5, 0.0)]);
    let s3same = ViewsConfig { local: 6, ..ViewsConfig::default() }.kinds();
    assert_eq!(s3same.len(), 2);
    assert_eq!((s3same[0].count, s3same[0].transform.scale), (2, [0.5, 1.0]));
    assert_eq!((s3same[1].count, s3same[1].transform.scale), (6, [0.2, 0.5]));
}

#[test]
fn strengths_are_even_over_the_published_ranges() {
    for (recipe, strengths) in [
        (Recipe::Samclr, [0.4, 0.4, 0.4, 0.1]),
        (Recipe::Simclr, [0.8, 0.8, 0.8, 0.2]),
        (Recipe::Dino, [0.4, 0.4, 0.2, 0.1]),
    ] {
        let drawn = draws(&first(recipe), [100, 80]);
        let pick = |which: usize| -> Vec<f64> {
            let value = |jitter: &Jitter| match (which, *jitter) {
                (0, Jitter::Brightness(v))
                | (1, Jitter::Contrast(v))
                | (2, Jitter::Saturation(v))
                | (3, Jitter::Hue(v)) => Some(v),
                _ => None,
            };
            drawn.iter().flat_map(|d| &d.jitter).filter_map(value).collect()
        };
        for (which, strength) in strengths.into_iter().enumerate() {
            let middle = if which < 3 { 1.0 } else { 0.0 };
            assert_even(pick(which), [middle - strength, middle + strength], &format!("{recipe:?}, {which}"));
        }
        assert_even(drawn.iter().filter_map(|d| d.sigma).collect(), [0.1, 2.0], "blur");
        // Each of the four comes first as often.
        let firsts: Vec<_> = drawn.iter().filter_map(|d| d.jitter.first()).collect();
        let hue = firsts.iter().filter(|j| matches!(j, Jitter::Hue(_))).count() as f64 / firsts.len() as f64;
        assert!((hue - 0.25).abs() < 0.015, "{hue}");
    }
}

/// In a large square, hardly any try is turned down, so shares are even and ratios are by their logarithm.
#[test]
fn crops_are_drawn_as_published() {
    let transform = Transform { scale: [0.08, 0.6], ..first(Recipe::Simclr) };
    let side = 4000;
    let drawn = draws(&transform, [side, side]);
    let area = |d: &Drawn| f64::from(d.window[2]) * f64::from(d.window[3]) / f64::from(side * side);
    let ratio = |d: &Drawn| (f64::from(d.window[2]) / f64::from(d.window[3])).ln();
    assert_even(drawn.iter().map(area).collect(), [0.08, 0.6], "area");
    assert_even(drawn.iter().map(ratio).collect(), [0.75_f64.ln(), (4.0_f64 / 3.0).ln()], "ratio");
    let place = |d: &Drawn| (f64::from(d.window[0]) + 0.5) / f64::from(side - d.window[2] + 1);
    assert_even(drawn.iter().map(place).collect(), [0.0, 1.0], "place");
    for size in [[1, 1], [1, 300], [300, 1], [2, 3], [37, 19]] {
        for d in &draws(&first(Recipe::Samclr), size)[..500] {
            let [x, y, w, h] = d.window;
            assert!(w > 0 && h > 0 && x + w <= size[0] && y + h <= size[1], "{size:?}: {:?}", d.window);
        }
    }
}

/// Four quarters of different colours.
fn quarters() -> Image {
    let colour = |x: u32, y: u32| match (x < 40, y < 30) {
        (true, true) => [220, 20, 20],
        (false, true) => [20, 220, 20],
        (true, false) => [20, 20, 220],
        (false, false) => [220, 220, 20],
    };
    let raw = (0..80 * 60).flat_map(|i| colour(i % 80, i / 80)).collect();
    Image::from_raw(80, 60, raw).unwrap()
}

fn plain(size: u32) -> [Kind; 1] {
    let transform =
        Transform { size, flip: 0.5, jitter: 0.0, grayscale: 0.0, blur: 0.0, ..first(Recipe::Samclr) };
    [Kind { count: 2, transform }]
}

/// Views of a region show the region: of a tight box in a quarter, its one colour.
#[test]
fn views_come_from_the_chosen_region() {
    let image = quarters();
    let config = RegionsConfig { source: Source::Truth, box_scale: 1.0, ..RegionsConfig::default() };
    let regions = [Region::of_box([45, 5, 30, 20]), Region::of_box([5, 35, 30, 20])];
    let mut seen = [0; 2];
    for n in 0..40 {
        let found = sample(&image, &regions, &config, &plain(16), &Streams::new(1), &[n]).unwrap();
        let which = regions.iter().position(|r| Some(r.bbox) == found.region).unwrap();
        seen[which] += 1;
        assert_eq!(found.views.len(), 2);
        for (size, pixels) in &found.views {
            assert_eq!((*size, pixels.len()), (16, 16 * 16 * 3));
            let expected: &[u8] = if which == 0 { &[20, 220, 20] } else { &[20, 20, 220] };
            assert!(pixels.chunks(3).all(|pixel| pixel == expected), "{n}");
        }
    }
    assert!(seen[0] > 8 && seen[1] > 8, "{seen:?}");
    // Without regions, of the whole: then a view shows several quarters.
    let found = sample(&image, &[], &config, &plain(16), &Streams::new(1), &[0]).unwrap();
    assert_eq!((found.frame, found.region), ([0, 0, 80, 60], None));
    let first = &found.views[0].1;
    assert!(first.chunks(3).any(|pixel| pixel != &first[..3]));
}

/// What is not the region is replaced, if so wished.
#[test]
fn background_is_taken_out() {
    let image = quarters();
    let mask = Rle::from_mask(&Mask::from_fn(80, 60, |x, y| x < 40 && y < 30));
    let region = Region { bbox: [20, 10, 40, 40], ..Region::of_mask(mask) };
    let colours = |background| {
        let config = RegionsConfig { box_scale: 1.0, background, ..RegionsConfig::default() };
        let kinds = [Kind { count: 1, transform: Transform { scale: [1.0, 1.0], ..plain(40)[0].transform } }];
        let found = sample(&image, std::slice::from_ref(&region), &config, &kinds, &Streams::new(2), &[0]);
        found.unwrap().views.remove(0).1
    };
    let has = |pixels: &[u8], colour: [u8; 3]| pixels.chunks(3).any(|pixel| pixel == colour);
    assert!(has(&colours(Background::Keep), [220, 220, 20]));
    let mean = colours(Background::Mean);
    assert!(has(&mean, [220, 20, 20]) && has(&mean, [124, 116, 104]) && !has(&mean, [220, 220, 20]));
    let blurred = colours(Background::Blur);
    assert!(has(&blurred, [220, 20, 20]) && !has(&blurred, [124, 116, 104]));
}

#[test]
fn one_pixel_is_enough() {
    let image = quarters();
    let region = [Region::of_box([79, 59, 1, 1])];
    let kinds = ViewsConfig { recipe: Recipe::Dino, local: 2, ..ViewsConfig::default() }.kinds();
    let config = RegionsConfig { box_scale: 1.0, ..RegionsConfig::default() };
    let found = sample(&image, &region, &config, &kinds, &Streams::new(0), &[4]).unwrap();
    assert_eq!(found.frame, [79, 59, 1, 1]);
    assert_eq!(found.views.len(), 4);
}

#[test]
fn stacks_go_view_by_view() {
    let of = |v: u8| Sample {
        frame: [0, 0, 1, 1],
        region: None,
        views: vec![(2, vec![v; 12]), (2, vec![v + 10; 12]), (1, vec![v + 20; 3])],
    };
    let stacks = stacks(&[of(100), of(101)]);
    let shape: Vec<_> = stacks.iter().map(|s| (s.size, s.views, s.pixels.len())).collect();
    assert_eq!(shape, [(2, 2, 4 * 12), (1, 1, 2 * 3)]);
    let red: Vec<f32> = stacks[0].pixels.chunks(12).map(|view| view[0] * STD[0] + MEAN[0]).collect();
    for (found, expected) in red.iter().zip([100.0, 101.0, 110.0, 111.0]) {
        assert!((found - expected).abs() < 1e-3, "{red:?}");
    }
}
