//! Windows and the whole picture say the same where they should, and rows cover every pixel.

use burn::tensor::{Tensor, TensorData};
use kirie_nn::resize::{Interpolation, resize};
use proptest::prelude::*;

use super::slide::starts;
use super::*;
use crate::config::{Blend, Resize};
use crate::testing::{Strongest, Tiny, noise, preprocess};

fn slide(window: [u32; 2], stride: [u32; 2], blend: Blend) -> TestConfig {
    TestConfig { mode: TestMode::Slide { window, stride, blend }, ..TestConfig::default() }
}

/// `[classes, height, width]`.
fn logits<S: Segmenter>(model: &S, image: &Image, test: &TestConfig) -> Vec<f32> {
    let (width, height) = (image.width() as usize, image.height() as usize);
    let classes = model.classes();
    let mut all = vec![0.0; classes * width * height];
    let mut y = 0;
    for_each_row(model, image, test, &Device::flex(), |row| {
        for (class, line) in row.chunks_exact(width).enumerate() {
            all[(class * height + y) * width..][..width].copy_from_slice(line);
        }
        y += 1;
    })
    .unwrap();
    assert_eq!(y, height, "every row comes once");
    all
}

fn worst(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

proptest! {
    #[test]
    fn windows_cover_everything(length in 1..500usize, window in 32..200usize, stride in 1..200usize) {
        let stride = stride.min(window);
        let starts = starts(length, window.min(length), stride);
        prop_assert!(starts.is_sorted_by(|a, b| a < b) && starts[0] == 0);
        prop_assert_eq!(starts[starts.len() - 1] + window.min(length), length);
        prop_assert!(starts.windows(2).all(|pair| pair[1] - pair[0] <= stride));
        // As many as the formula of mmsegmentation gives.
        let count = (length + stride - 1).saturating_sub(window) / stride + 1;
        prop_assert_eq!(starts.len(), count);
    }
}

#[test]
fn a_network_that_sees_single_pixels_has_no_windows() {
    let device = Device::flex();
    let model = Tiny::new(4, 1, 1, &device);
    for (width, height) in [(97, 71), (64, 64), (33, 120), (20, 9), (1, 1), (31, 200)] {
        let image = noise(width, height, 3);
        let whole = logits(&model, &image, &TestConfig::default());
        for blend in [Blend::Uniform, Blend::Tapered] {
            for (window, stride) in [([32, 48], [32, 48]), ([40, 32], [17, 9]), ([64, 64], [48, 32])] {
                let windows = logits(&model, &image, &slide(window, stride, blend));
                let worst = worst(&whole, &windows);
                assert!(worst < 2e-5, "{width}x{height} by {window:?} every {stride:?}, {blend:?}: {worst}");
            }
        }
    }
}

/// What a whole pass gives is the network's answer resized by the rule of `kirie_nn`.
#[test]
fn low_resolution_is_resized_as_in_training() {
    let device = Device::flex();
    let model = Tiny::new(3, 4, 4, &device);
    let image = noise(88, 60, 5);
    let found = logits(&model, &image, &TestConfig::default());
    let statistics = preprocess();
    let pixels: Vec<f32> = (0..3)
        .flat_map(|c| image.as_raw().iter().skip(c).step_by(3).map(|v| f32::from(*v)).collect::<Vec<_>>())
        .map(|v| v / statistics.std[0])
        .collect();
    let pixels = Tensor::<4>::from_data(TensorData::new(pixels, [1, 3, 60, 88]), &device);
    let low = model.logits(pixels);
    assert_eq!(low.dims(), [1, 3, 15, 22]);
    let expected = resize(low, [60, 88], Interpolation::Bilinear).into_data().try_to_vec::<f32>().unwrap();
    assert!(worst(&found, &expected) < 1e-5, "{}", worst(&found, &expected));
    // The class is that of the highest logit.
    let labels = segment(&model, &image, &TestConfig::default(), &device).unwrap();
    assert_eq!((labels.width, labels.height), (88, 60));
    for (at, label) in labels.labels.iter().enumerate() {
        let of = |class: usize| found[class * 88 * 60 + at];
        assert!((0..3).all(|class| of(class) <= of(usize::from(*label))));
    }
}

#[test]
fn a_single_window_is_the_whole_picture() {
    let device = Device::flex();
    for stride in [1, 4] {
        let model = Tiny::new(3, if stride == 1 { 3 } else { 4 }, stride, &device);
        let image = noise(72, 56, 7);
        let whole = logits(&model, &image, &TestConfig::default());
        let single = logits(&model, &image, &slide([64, 80], [64, 80], Blend::Tapered));
        assert!(worst(&whole, &single) < 1e-5, "{}", worst(&whole, &single));
    }
}

#[test]
fn mirrored_answers_and_scales_are_averaged() {
    let device = Device::flex();
    let image = noise(60, 44, 2);
    let model = Tiny::new(3, 1, 1, &device);
    let plain = logits(&model, &image, &TestConfig::default());
    let both = TestConfig { flip: true, flip_vertical: true, ..TestConfig::default() };
    assert!(worst(&plain, &logits(&model, &image, &both)) < 1e-5, "single pixels do not mind");
    // Of three scales the mean is taken.
    let seeing = Tiny::new(3, 3, 1, &device);
    let at = |scales: &[f64]| {
        logits(&seeing, &image, &TestConfig { scales: scales.to_vec(), flip: true, ..TestConfig::default() })
    };
    let parts: Vec<Vec<f32>> = [0.5, 1.0, 1.5].iter().map(|scale| at(&[*scale])).collect();
    let mean: Vec<f32> = (0..plain.len()).map(|i| (parts[0][i] + parts[1][i] + parts[2][i]) / 3.0).collect();
    assert!(worst(&mean, &at(&[0.5, 1.0, 1.5])) < 1e-5);
    assert!(worst(&parts[0], &parts[1]) > 0.01, "scales differ");
    // A mirrored picture has the mirrored answer.
    let mut raw = image.as_raw().to_vec();
    for line in raw.chunks_exact_mut(3 * 60) {
        let mirrored: Vec<u8> = line.chunks_exact(3).rev().flatten().copied().collect();
        line.copy_from_slice(&mirrored);
    }
    let mirror = Image::from_raw(60, 44, raw).unwrap();
    let test = TestConfig { flip: true, ..TestConfig::default() };
    let (one, mut other) = (logits(&seeing, &image, &test), logits(&seeing, &mirror, &test));
    other.chunks_exact_mut(60).for_each(<[f32]>::reverse);
    assert!(worst(&one, &other) < 1e-5);
}

#[test]
fn a_resized_test_answers_in_the_pictures_size() {
    let device = Device::flex();
    let image = noise(90, 50, 4);
    for resize in [
        Resize::Exact { size: [40, 64] },
        Resize::Longest { side: [64, 64] },
        Resize::Scale { factor: [2.0, 2.0] },
    ] {
        for mode in [TestMode::Whole, slide([32, 32], [16, 16], Blend::Uniform).mode] {
            let test =
                TestConfig { resize: resize.clone(), keep_aspect: false, mode, ..TestConfig::default() };
            let labels = segment(&Strongest::new(&device), &image, &test, &device).unwrap();
            assert_eq!((labels.width, labels.height), (90, 50));
            assert_eq!(labels.labels.len(), 90 * 50);
        }
    }
    let labels = segment(&Strongest::new(&device), &image, &TestConfig::default(), &device).unwrap();
    for (pixel, label) in image.as_raw().chunks_exact(3).zip(labels.labels) {
        assert_eq!(pixel.iter().max(), Some(&pixel[usize::from(label)]));
    }
}

#[test]
fn only_a_band_of_rows_is_held() {
    let device = Device::flex();
    let model = Strongest::new(&device);
    let image = noise(100, 700, 1);
    let test = slide([48, 48], [32, 32], Blend::Uniform);
    let network = Network::new(&model, &test, &device).unwrap();
    let mut slide = Slide::new(&network, Cow::Borrowed(&image), [[48, 48], [32, 32]], Blend::Uniform);
    for y in 0..700 {
        assert_eq!(slide.rows(y, (y + 1).min(699)).unwrap().1.len(), 300);
        assert!(slide.held() <= 48 + 2, "{} rows at {y}", slide.held());
    }
}

/// 3000 x 2000 pixels, 12 classes: what is held beside the network is far below 2 GiB.
#[test]
fn a_large_picture_takes_little_memory() {
    let device = Device::flex();
    let model = Tiny::new(12, 4, 4, &device);
    let image = noise(3000, 2000, 1);
    let labels = segment(&model, &image, &slide([256, 256], [192, 192], Blend::Uniform), &device).unwrap();
    assert_eq!(labels.labels.len(), 6_000_000);
    let peak = kirie_run::peak_memory().unwrap_or(0);
    assert!(peak < 1 << 30, "{peak} bytes");
}

#[test]
fn seams_are_found_and_tapering_hides_them() {
    let device = Device::flex();
    let image = noise(120, 96, 6);
    let measure = |model: &Tiny, stride: u32, blend: Blend| {
        seams(model, &image, &slide([48, 48], [stride, stride], blend), &device, true).unwrap()
    };
    // Single pixels: no seam, nothing added.
    let none = measure(&Tiny::new(3, 1, 1, &device), 24, Blend::Uniform);
    let whole = none.whole.unwrap();
    assert!(whole.added_at_borders < 1e-5 && whole.added_elsewhere < 1e-5, "{none:?}");
    assert!((none.ratio() - 1.0).abs() < 1e-3 && whole.other_class < 1e-3, "{none:?}");
    // A network that looks further meets the edge of the window, where it sees nothing.
    let far = Tiny::new(3, 7, 1, &device);
    let (uniform, tapered) = (measure(&far, 24, Blend::Uniform), measure(&far, 24, Blend::Tapered));
    let (seam, hidden) = (uniform.whole.unwrap(), tapered.whole.unwrap());
    assert!(seam.added_at_borders > 2.0 * seam.added_elsewhere, "{uniform:?}");
    assert!(hidden.added_at_borders < 0.5 * seam.added_at_borders, "{uniform:?}, tapered {tapered:?}");
    // Without a comparison only the steps themselves are there.
    let alone = seams(&far, &image, &slide([48, 48], [24, 24], Blend::Uniform), &device, false).unwrap();
    assert_eq!((alone.at_borders, alone.whole), (uniform.at_borders, None));
    let error = seams(&far, &image, &TestConfig::default(), &device, true).unwrap_err().to_string();
    assert!(error.contains("test.mode is whole"), "{error}");
}

/// Answers in another shape than promised, or with no numbers.
#[derive(burn::module::Module, Debug)]
struct Wrong {
    infinite: bool,
}

impl Segmenter for Wrong {
    fn classes(&self) -> usize {
        3
    }
    fn preprocess(&self) -> kirie_sam::registry::Preprocess {
        preprocess()
    }
    fn logits(&self, pixels: Tensor<4>) -> Tensor<4> {
        if self.infinite { pixels / 0.0 } else { pixels.narrow(1, 0, 2) }
    }
}

#[test]
fn a_wrong_answer_is_named() {
    let (device, image) = (Device::flex(), noise(40, 40, 1));
    let said = |infinite: bool| {
        segment(&Wrong { infinite }, &image, &TestConfig::default(), &device).unwrap_err().to_string()
    };
    assert_eq!(said(false), "the network gave [1, 2, 40, 40], expected logits of shape [1, 3, h, w]");
    assert!(said(true).contains("not all finite"), "{}", said(true));
}
