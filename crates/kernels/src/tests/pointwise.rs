use super::{close, numbers};
use crate::activation::{slopes, values};
use crate::isa::Isa;
use crate::softmax::{exp_along_with, softmax_down_with};
use crate::{Activation, Stats, norm, reference};
use proptest::prelude::*;

/// The bound that the documentation states: 1e-6 * max(1, |x|).
#[test]
fn activations_are_within_a_millionth() {
    let x: Vec<f32> =
        (-120_000..=120_000).map(|i| i as f32 * 1e-4).chain([-1e4, -88.0, -40.0, 40.0, 88.0, 1e4]).collect();
    let ones = vec![1.0; x.len()];
    for isa in Isa::available() {
        for a in Activation::ALL {
            let (mut y, mut slope) = (x.clone(), x.clone());
            values(isa, a, &x, &mut y);
            slopes(isa, a, &x, &ones, &mut slope);
            for ((&x, &y), &slope) in x.iter().zip(&y).zip(&slope) {
                let (value, derivative) = reference::point(a, f64::from(x));
                let bound = 1e-6 * f64::from(x.abs().max(1.0));
                assert!((f64::from(y) - value).abs() < bound, "{isa:?} {a:?}({x}) = {y}, not {value}");
                assert!(
                    (f64::from(slope) - derivative).abs() < bound,
                    "{isa:?} {a:?}'({x}) = {slope}, not {derivative}"
                );
            }
        }
    }
}

#[test]
fn activations_let_nan_through() {
    for isa in Isa::available() {
        for a in Activation::ALL {
            let mut y = [0.0; 40];
            values(isa, a, &[f32::NAN; 40], &mut y);
            assert!(y.iter().all(|y| y.is_nan()), "{isa:?} {a:?}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn any_batch_norm_is_the_plain_one(
        (batch, channels, pixels) in (1..4usize, 1..6usize, 3..200usize),
        a in prop::sample::select(Activation::ALL.to_vec()),
        offset in -50f32..50.0,
    ) {
        let shape = [batch, channels, pixels];
        let len = batch * channels * pixels;
        let x: Vec<f32> = numbers(len, 1).into_iter().map(|v| v + offset).collect();
        let (gamma, beta, dy) = (numbers(channels, 2), numbers(channels, 3), numbers(len, 4));
        let mut wanted = (vec![0.0; len], vec![0.0; len], vec![0.0; channels], vec![0.0; channels]);
        let stats = reference::batch_norm(shape, &x, &gamma, &beta, 1e-5, a, &mut wanted.0);
        reference::batch_norm_gradient(
            shape, &x, &gamma, &beta, 1e-5, a, &dy, &mut wanted.1, &mut wanted.2, &mut wanted.3,
        );
        for isa in Isa::available() {
            let mut found = (vec![f32::NAN; len], vec![f32::NAN; len], vec![f32::NAN; channels], vec![f32::NAN; channels]);
            let own: Stats = norm::batch_norm_with(isa, shape, &x, &gamma, &beta, 1e-5, a, &mut found.0);
            close("mean", &own.mean, &stats.mean, 1e-5);
            close("variance", &own.variance, &stats.variance, 1e-5);
            close(&format!("{isa:?} {a:?} forward {shape:?}"), &found.0, &wanted.0, 1e-4);
            norm::batch_norm_gradient_with(
                isa, shape, &x, &own, &gamma, &beta, 1e-5, a, &dy, &mut found.1, &mut found.2, &mut found.3,
            );
            // The slopes of ReLU and hard swish jump, so a rounded pre-activation may land on the other side.
            if !matches!(a, Activation::Relu | Activation::HardSwish) {
                close(&format!("{isa:?} {a:?} dx {shape:?}"), &found.1, &wanted.1, 1e-3);
                close(&format!("{isa:?} {a:?} dgamma {shape:?}"), &found.2, &wanted.2, 2e-3);
                close(&format!("{isa:?} {a:?} dbeta {shape:?}"), &found.3, &wanted.3, 2e-3);
            }
        }
    }

    #[test]
    fn any_layer_norm_is_the_plain_one((batch, channels, pixels) in (1..4usize, 2..80usize, 1..200usize)) {
        let shape = [batch, channels, pixels];
        let len = batch * channels * pixels;
        let (x, gamma, beta, dy) = (numbers(len, 1), numbers(channels, 2), numbers(channels, 3), numbers(len, 4));
        for flat in [false, true] {
            // The same numbers as rows: the reference takes images of one pixel.
            let (rows, as_images) = (batch * pixels, if flat { [batch * pixels, channels, 1] } else { shape });
            let mut wanted = (vec![0.0; len], vec![0.0; len], vec![0.0; channels], vec![0.0; channels]);
            reference::layer_norm_2d(as_images, &x, &gamma, &beta, 1e-5, &mut wanted.0);
            reference::layer_norm_2d_gradient(
                as_images, &x, &gamma, 1e-5, &dy, &mut wanted.1, &mut wanted.2, &mut wanted.3,
            );
            for isa in Isa::available() {
                let nan = |len: usize| vec![f32::NAN; len];
                let (mut y, mut dx, mut dgamma, mut dbeta) = (nan(len), nan(len), nan(channels), nan(channels));
                if flat {
                    norm::layer_norm_with(isa, rows, channels, &x, &gamma, &beta, 1e-5, &mut y);
                    norm::layer_norm_gradient_with(
                        isa, rows, channels, &x, &gamma, 1e-5, &dy, &mut dx, &mut dgamma, &mut dbeta,
                    );
                } else {
                    norm::layer_norm_2d_with(isa, shape, &x, &gamma, &beta, 1e-5, &mut y);
                    norm::layer_norm_2d_gradient_with(
                        isa, shape, &x, &gamma, 1e-5, &dy, &mut dx, &mut dgamma, &mut dbeta,
                    );
                }
                let name = format!("{isa:?} {shape:?} flat {flat}");
                // With two channels the variance may be tiny, and 1 / sqrt then magnifies every rounding.
                let scale = if channels < 6 { 100.0 } else { 1.0 };
                close(&format!("{name} forward"), &y, &wanted.0, 1e-4 * scale);
                close(&format!("{name} dx"), &dx, &wanted.1, 1e-3 * scale * scale);
                close(&format!("{name} dgamma"), &dgamma, &wanted.2, 1e-3 * scale);
                close(&format!("{name} dbeta"), &dbeta, &wanted.3, 1e-3);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    #[test]
    fn softmax_down_sums_to_one_in_every_column(
        (groups, rows, pixels) in (1..4usize, 1..12usize, 1..200usize),
        scale in 0f32..60.0,
    ) {
        let x: Vec<f32> = numbers(groups * rows * pixels, 1).into_iter().map(|x| x * scale).collect();
        let mut wanted = x.clone();
        for group in wanted.chunks_exact_mut(rows * pixels) {
            for p in 0..pixels {
                let column: Vec<f64> = group[p..].iter().step_by(pixels).map(|&x| f64::from(x)).collect();
                let most = column.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let sum: f64 = column.iter().map(|x| (x - most).exp()).sum();
                for (to, x) in group[p..].iter_mut().step_by(pixels).zip(column) {
                    *to = ((x - most).exp() / sum) as f32;
                }
            }
        }
        for isa in Isa::available() {
            let mut found = x.clone();
            softmax_down_with(isa, rows, pixels, &mut found);
            close(&format!("{isa:?}"), &found, &wanted, 2e-6);
        }
    }

    #[test]
    fn exp_along_is_half_a_softmax((rows, pixels) in (1..9usize, 1..300usize), scale in 0f32..60.0) {
        let x: Vec<f32> = numbers(rows * pixels, 1).into_iter().map(|x| x * scale).collect();
        for isa in Isa::available() {
            let (mut found, mut max, mut sum) = (x.clone(), vec![0.0; rows], vec![0.0; rows]);
            exp_along_with(isa, pixels, &mut found, &mut max, &mut sum);
            for ((row, found), (max, sum)) in
                x.chunks(pixels).zip(found.chunks(pixels)).zip(max.into_iter().zip(sum))
            {
                prop_assert_eq!(max, row.iter().copied().fold(f32::NEG_INFINITY, f32::max));
                let wanted: Vec<f32> = row.iter().map(|&x| f64::from(x - max).exp() as f32).collect();
                close(&format!("{isa:?}"), found, &wanted, 2e-6);
                let total: f32 = wanted.iter().sum();
                prop_assert!((sum - total).abs() < 1e-5 * total, "{sum} for {total}");
            }
        }
    }

    #[test]
    fn a_part_is_normalised_like_the_whole((channels, pixels) in (1..40usize, 1..150usize)) {
        let x = numbers(channels * pixels, 1);
        let (gamma, beta) = (numbers(channels, 2), numbers(channels, 3));
        for isa in Isa::available() {
            let (mut wanted, mut found) = (x.clone(), x.clone());
            norm::layer_norm_2d_with(isa, [1, channels, pixels], &x, &gamma, &beta, 1e-6, &mut wanted);
            norm::layer_norm_2d_part_with(isa, pixels, &mut found, &gamma, &beta, 1e-6);
            prop_assert_eq!(found, wanted);
        }
    }
}

#[test]
fn a_part_is_activated_like_the_whole() {
    let x = numbers(1000, 1);
    for a in Activation::ALL {
        let (mut wanted, mut found) = (x.clone(), x.clone());
        crate::activation(a, &x, &mut wanted);
        crate::activation_part(a, &mut found);
        assert_eq!(found, wanted, "{a:?}");
    }
}
