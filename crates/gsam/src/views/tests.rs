//! Pixels and labels keep together, whatever is done to them.

use proptest::prelude::*;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use super::*;
use crate::testing::{drawn_image, drawn_label, drawn_size, preprocess};

/// Blocks of 8 pixels, each of one label; the label is the colour.
fn blocks(width: u32, height: u32, seed: u64) -> Labelled {
    let label = |i: u32| {
        let (x, y) = (u64::from(i % width / 8), u64::from(i / width / 8));
        ((x * 5 + y * 3 + seed + x * y) % 4) as u8
    };
    let labels: Vec<u8> = (0..width * height).map(label).collect();
    let raw = labels.iter().flat_map(|label| colour(*label)).collect();
    Labelled {
        name: "blocks.png".to_owned(),
        image: Image::from_raw(width, height, raw).unwrap(),
        labels: LabelMap { width, height, labels },
    }
}

fn colour(label: u8) -> [u8; 3] {
    [[10, 20, 30], [200, 40, 90], [60, 180, 120], [130, 90, 220]][usize::from(label)]
}

fn resizes() -> impl Strategy<Value = Resize> {
    prop_oneof![
        Just(Resize::None),
        (32..80u32, 0..60u32).prop_map(|(least, more)| Resize::Longest { side: [least, least + more] }),
        (0.4..1.0f64, 1.0..2.5f64).prop_map(|(a, b)| Resize::Scale { factor: [a, b] }),
        (32..90u32, 32..90u32).prop_map(|(h, w)| Resize::Exact { size: [h, w] }),
    ]
}

fn inputs() -> impl Strategy<Value = InputConfig> {
    let crops = prop_oneof![Just(None), (32..70u32, 32..70u32).prop_map(|(h, w)| Some([h, w]))];
    let rotate = prop_oneof![Just(0.0), 1.0..180.0f64];
    (resizes(), any::<bool>(), crops, rotate, 0.5..1.0f64, 1.0..1.5f64).prop_map(
        |(resize, keep_aspect, crop, rotate, least, most)| InputConfig {
            resize,
            keep_aspect,
            multi_scale: [least, most],
            crop,
            rotate,
            flip: 0.5,
            flip_vertical: 0.5,
            ..InputConfig::default()
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn pixels_and_labels_move_together(
        input in inputs(), width in 20..90u32, height in 20..90u32, seed in 0..1000u64,
    ) {
        let labelled = blocks(width, height, seed);
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let geometry = draw_geometry(&labelled, &input, &mut rng).unwrap();
        if let Some(crop) = input.crop {
            prop_assert_eq!(geometry.size, crop);
        }
        let view = show(&labelled, &geometry, &input.colour, &preprocess(), &mut rng).unwrap();
        let area = view.size[0] * view.size[1];
        prop_assert_eq!(view.pixels.len(), 3 * area);
        // Pixels of the picture that take part in one of the view, at most.
        let reach = (0..2)
            .map(|i| (2.0 * f64::from(geometry.picture[i]) / f64::from(geometry.resized[i])).max(2.0).ceil() as i64 + 1)
            .max().unwrap();
        let mut compared = 0;
        for y in 0..geometry.size[0] {
            for x in 0..geometry.size[1] {
                let at = y as usize * view.size[1] + x as usize;
                let rgb: Vec<f32> = (0..3).map(|c| view.pixels[c * area + at] * 255.0).collect();
                let Some([py, px]) = geometry.picture_pixel(geometry.place(y, x)) else {
                    prop_assert_eq!(view.labels[at], LabelMap::IGNORE);
                    prop_assert!(rgb.iter().all(|v| *v == 0.0));
                    continue;
                };
                let label = labelled.labels.labels[(py * width + px) as usize];
                prop_assert_eq!(view.labels[at], label);
                let around = |d: i64, at: u32, length: u32| (i64::from(at) + d).clamp(0, i64::from(length) - 1) as u32;
                let uniform = (-reach..=reach).all(|dy| (-reach..=reach).all(|dx| {
                    let (y, x) = (around(dy, py, height), around(dx, px, width));
                    labelled.labels.labels[(y * width + x) as usize] == label
                }));
                if uniform {
                    compared += 1;
                    for (found, expected) in rgb.iter().zip(colour(label)) {
                        prop_assert!((found - f32::from(expected)).abs() < 1.5, "({}, {}): {:?}", x, y, rgb);
                    }
                }
            }
        }
        let _ = compared;
        // The same stream gives the same view.
        let again = |seed| view_of(&labelled, &input, seed);
        prop_assert_eq!(again(seed), again(seed));
    }

    #[test]
    fn a_crop_inside_the_picture_holds_only_picture(
        width in 40..90u32, height in 40..90u32, crop in (32..40u32, 32..40u32), seed in 0..1000u64,
    ) {
        let labelled = blocks(width, height, seed);
        let input = InputConfig { crop: Some([crop.0, crop.1]), ..InputConfig::default() };
        let view = view_of(&labelled, &input, seed);
        prop_assert!(!view.labels.contains(&LabelMap::IGNORE));
        // Without resizing the pixels are the picture's own, bit for bit.
        let area = view.labels.len();
        for (at, label) in view.labels.iter().enumerate() {
            for c in 0..3 {
                prop_assert_eq!(view.pixels[c * area + at], f32::from(colour(*label)[c]) / 255.0);
            }
        }
    }
}

fn view_of(labelled: &Labelled, input: &InputConfig, seed: u64) -> View {
    view(labelled, input, &preprocess(), &mut ChaCha8Rng::seed_from_u64(seed)).unwrap()
}

fn sized(resize: Resize, keep_aspect: bool, draw: f64) -> [u32; 2] {
    let input = InputConfig { resize, keep_aspect, ..InputConfig::default() };
    resized(&input, [100, 200], [draw, 1.0 - draw, 0.5])
}

#[test]
fn sizes_by_hand() {
    assert_eq!(sized(Resize::None, true, 0.0), [100, 200]);
    assert_eq!(sized(Resize::Longest { side: [50, 400] }, true, 0.0), [25, 50]);
    assert_eq!(sized(Resize::Longest { side: [50, 400] }, true, 1.0), [200, 400]);
    assert_eq!(sized(Resize::Longest { side: [64, 64] }, false, 0.5), [64, 64]);
    assert_eq!(sized(Resize::Scale { factor: [0.5, 2.0] }, true, 0.5), [100, 200]);
    assert_eq!(sized(Resize::Scale { factor: [0.5, 2.0] }, false, 0.0), [50, 400]);
    assert_eq!(sized(Resize::Exact { size: [60, 60] }, false, 0.5), [60, 60]);
    assert_eq!(sized(Resize::Exact { size: [60, 60] }, true, 0.5), [30, 60]);
    assert_eq!(test_size(&Resize::Exact { size: [60, 90] }, false, 0.5, [10, 10]), [30, 45]);
}

#[test]
fn a_mirrored_view_is_the_mirror_image() {
    let labelled = blocks(50, 41, 3);
    let geometry = Geometry {
        picture: [41, 50],
        resized: [41, 50],
        window: [0, 0],
        size: [41, 50],
        mirrored: [false; 2],
        angle: 0.0,
    };
    let shown = |geometry: &Geometry| {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        show(&labelled, geometry, &ColourConfig::default(), &preprocess(), &mut rng).unwrap()
    };
    let (plain, mirrored) = (shown(&geometry), shown(&Geometry { mirrored: [true, true], ..geometry }));
    assert_eq!(plain.labels, labelled.labels.labels);
    let turned: Vec<u8> = mirrored.labels.iter().rev().copied().collect();
    assert_eq!(plain.labels, turned, "both ways is half a turn");
    let half_turn = shown(&Geometry { angle: std::f64::consts::PI - 1e-12, ..geometry });
    assert_eq!(half_turn.labels, mirrored.labels);
}

#[test]
fn crops_of_little_but_one_class_are_drawn_anew() {
    let n = 2;
    let [width, height] = [400, 400];
    let [w, _] = drawn_size(n);
    let label =
        |i: usize| if i % width < w && i / width < 36 { drawn_label(n, i % width, i / width) } else { 0 };
    let labels: Vec<u8> = (0..width * height).map(label).collect();
    let labelled = Labelled {
        name: "few.png".to_owned(),
        image: Image::from_raw(400, 400, vec![9; 3 * width * height]).unwrap(),
        labels: LabelMap { width: 400, height: 400, labels },
    };
    let varied = |category_max_ratio: f64| {
        let input = InputConfig { crop: Some([48, 48]), category_max_ratio, ..InputConfig::default() };
        let has = |seed: &u64| view_of(&labelled, &input, *seed).labels.iter().any(|label| *label > 0);
        (0..60).filter(has).count()
    };
    let (without, with) = (varied(1.0), varied(0.999));
    assert!(with > 2 * without.max(1), "{with} of 60, without redrawing {without}");
}

#[test]
fn a_large_crop_is_padded_or_refused() {
    let labelled = blocks(40, 36, 1);
    let mut input = InputConfig { crop: Some([64, 48]), ..InputConfig::default() };
    let view = view_of(&labelled, &input, 5);
    let shown = view.labels.iter().filter(|label| **label < LabelMap::IGNORE).count();
    assert_eq!(shown, 40 * 36);
    input.pad = false;
    let error = super::view(&labelled, &input, &preprocess(), &mut ChaCha8Rng::seed_from_u64(5)).unwrap_err();
    let text = "blocks.png: the crop of 48x64 pixels is larger than the picture, 40x36 after resizing";
    assert!(error.to_string().starts_with(text), "{error}");
    // A picture of a few pixels becomes an input that a network can take.
    let view = view_of(&blocks(20, 9, 1), &InputConfig::default(), 1);
    assert_eq!(view.size, [32, 32]);
}

#[test]
fn colours_change_and_gray_stays_gray() {
    let mut labelled = blocks(40, 40, 1);
    let strong = ColourConfig { brightness: 0.0, contrast: 0.0, saturation: 0.9, hue: 120.0 };
    let input = InputConfig { colour: strong, flip: 0.0, ..InputConfig::default() };
    let plain = InputConfig { flip: 0.0, ..InputConfig::default() };
    assert_ne!(view_of(&labelled, &input, 3).pixels, view_of(&labelled, &plain, 3).pixels);
    labelled.image = Image::from_raw(40, 40, (0..1600).flat_map(|i| [(i % 256) as u8; 3]).collect()).unwrap();
    let (changed, same) = (view_of(&labelled, &input, 3), view_of(&labelled, &plain, 3));
    let worst = changed.pixels.iter().zip(&same.pixels).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(worst < 1e-4, "{worst}");
}

#[test]
fn views_are_stacked_with_padding() {
    let labelled = Labelled {
        name: String::new(),
        image: drawn_image(1),
        labels: LabelMap { width: 56, height: 46, labels: vec![1; 56 * 46] },
    };
    let other = blocks(40, 60, 2);
    let plain = InputConfig { flip: 0.0, ..InputConfig::default() };
    let views = [view_of(&labelled, &plain, 1), view_of(&other, &plain, 1)];
    let stack = Stack::of(&views);
    assert_eq!(stack.shape, [2, 60, 56]);
    let area = 60 * 56;
    for (n, view) in views.iter().enumerate() {
        let [high, wide] = view.size;
        for y in 0..60 {
            for x in 0..56 {
                let label = stack.labels[n * area + y * 56 + x];
                if y < high && x < wide {
                    assert_eq!(label, view.labels[y * wide + x]);
                    for c in 0..3 {
                        let pixel = stack.pixels[(3 * n + c) * area + y * 56 + x];
                        assert_eq!(pixel, view.pixels[(c * high + y) * wide + x]);
                    }
                } else {
                    assert_eq!(label, LabelMap::IGNORE);
                }
            }
        }
    }
}
