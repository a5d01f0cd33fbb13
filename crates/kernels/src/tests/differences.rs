//! Gradients of the kernels against central differences of the plain loops in f64.

use super::numbers;
use crate::{
    Activation, batch_norm, batch_norm_gradient, layer_norm_2d_gradient, layer_norm_gradient, reference,
};

const STEP: f64 = 1e-5;

/// d loss / d at, by central differences in every element.
fn differences(at: &[f32], loss: impl Fn(&[f64]) -> f64) -> Vec<f64> {
    let at: Vec<f64> = at.iter().map(|&v| f64::from(v)).collect();
    (0..at.len())
        .map(|i| {
            let moved = |by: f64| {
                let mut at = at.clone();
                at[i] += by;
                loss(&at)
            };
            (moved(STEP) - moved(-STEP)) / (2.0 * STEP)
        })
        .collect()
}

fn same(name: &str, found: &[f32], wanted: &[f64]) {
    for (i, (&f, &w)) in found.iter().zip(wanted).enumerate() {
        assert!((f64::from(f) - w).abs() < 2e-4 * w.abs().max(1.0), "{name}: {f} for {w} at {i}");
    }
}

fn wide(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&v| f64::from(v)).collect()
}

#[test]
fn slopes_are_differences() {
    let x = numbers(400, 7).into_iter().map(|v| v * 6.0).collect::<Vec<_>>();
    for a in Activation::ALL {
        let wanted: Vec<f64> = x
            .iter()
            .map(|&x| {
                let at = |by: f64| reference::point(a, f64::from(x) + by).0;
                (at(STEP) - at(-STEP)) / (2.0 * STEP)
            })
            .collect();
        let mut found = vec![0.0; x.len()];
        crate::activation_gradient(a, &x, &vec![1.0; x.len()], &mut found);
        same(&format!("{a:?}"), &found, &wanted);
    }
}

#[test]
fn gradients_of_norms_are_differences() {
    for (shape, a) in [
        ([2usize, 7, 5], Activation::Gelu),
        ([3, 4, 9], Activation::Silu),
        ([1, 9, 40], Activation::GeluTanh),
    ] {
        let [batch, channels, pixels] = shape;
        let len = batch * channels * pixels;
        let (x, gamma, beta, dy) =
            (numbers(len, 1), numbers(channels, 2), numbers(channels, 3), numbers(len, 4));
        let flat = [batch * pixels, channels, 1];
        for (layer, shape, a) in
            [(false, shape, a), (true, shape, Activation::Identity), (true, flat, Activation::Identity)]
        {
            let (epsilon, epsilon_wide) = (1e-2f32, f64::from(1e-2f32));
            let loss = |x: &[f64], gamma: &[f64], beta: &[f64]| -> f64 {
                let y = reference::norm_wide(layer, shape, x, gamma, beta, epsilon_wide, a);
                y.iter().zip(&dy).map(|(y, &d)| y * f64::from(d)).sum()
            };
            let (wx, wg, wb) = (wide(&x), wide(&gamma), wide(&beta));
            let dx = differences(&x, |x| loss(x, &wg, &wb));
            let dgamma = differences(&gamma, |g| loss(&wx, g, &wb));
            let dbeta = differences(&beta, |b| loss(&wx, &wg, b));
            let mut found = (vec![0.0; len], vec![0.0; channels], vec![0.0; channels]);
            let (fx, fg, fb) = (&mut found.0, &mut found.1, &mut found.2);
            if !layer {
                let stats = batch_norm(shape, &x, &gamma, &beta, epsilon, a, fx);
                batch_norm_gradient(shape, &x, &stats, &gamma, &beta, epsilon, a, &dy, fx, fg, fb);
            } else if shape == flat {
                layer_norm_gradient(flat[0], channels, &x, &gamma, epsilon, &dy, fx, fg, fb);
            } else {
                layer_norm_2d_gradient(shape, &x, &gamma, epsilon, &dy, fx, fg, fb);
            }
            let name = format!("layer {layer} {shape:?} {a:?}");
            same(&format!("{name} dx"), &found.0, &dx);
            same(&format!("{name} dgamma"), &found.1, &dgamma);
            same(&format!("{name} dbeta"), &found.2, &dbeta);
        }
    }
}
