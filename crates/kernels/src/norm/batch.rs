//! Batch normalisation in training mode with the activation that follows it.

use super::{LANES, RUN, expect, fold, sum};
use crate::activation::{Function, with_function};
use crate::isa::{Isa, for_each_isa};
use crate::micro::Output;
use crate::{Activation, Stats};
use rayon::prelude::*;

/// `y = a((x - mean) / sqrt(variance + epsilon) * gamma + beta)` with the mean and the biased variance of each channel
/// over images and pixels, which are returned. `shape` is `[batch, channels, pixels]`; `gamma` and `beta` are
/// `[channels]`.
///
/// # Panics
/// When a length does not fit the shape.
pub fn batch_norm(
    shape: [usize; 3],
    x: &[f32],
    gamma: &[f32],
    beta: &[f32],
    epsilon: f32,
    a: Activation,
    y: &mut [f32],
) -> Stats {
    batch_norm_with(Isa::best(), shape, x, gamma, beta, epsilon, a, y)
}

pub(crate) fn batch_norm_with(
    isa: Isa,
    shape: [usize; 3],
    x: &[f32],
    gamma: &[f32],
    beta: &[f32],
    epsilon: f32,
    a: Activation,
    y: &mut [f32],
) -> Stats {
    let [batch, channels, pixels] = shape;
    expect("x", x.len(), batch * channels * pixels, &shape);
    expect("y", y.len(), x.len(), &shape);
    expect("gamma", gamma.len(), channels, &shape);
    expect("beta", beta.len(), channels, &shape);
    let output = Output::new(y);
    let moments: Vec<(f32, f32)> = (0..channels)
        .into_par_iter()
        .map(|c| {
            let start = |image: usize| (image * channels + c) * pixels;
            let plane = |image: usize| &x[start(image)..][..pixels];
            let count = (batch * pixels).max(1) as f64;
            let mean = (0..batch).map(|i| total(isa, plane(i))).sum::<f64>() / count;
            let variance = (0..batch).map(|i| spread(isa, plane(i), mean as f32)).sum::<f64>() / count;
            let scale = (f64::from(gamma[c]) / (variance + f64::from(epsilon)).sqrt()) as f32;
            for i in 0..batch {
                // SAFETY: each task owns the planes of its channel in y, which is borrowed until all are done.
                #[allow(unsafe_code)]
                let to = unsafe { output.part(start(i), pixels) };
                apply(isa, a, plane(i), mean as f32, scale, beta[c], to);
            }
            (mean as f32, variance as f32)
        })
        .collect();
    let (mean, variance) = moments.into_iter().unzip();
    Stats { mean, variance }
}

for_each_isa! {
    fn total<F>(isa, x: &[f32]) -> f64 {
        sum(x, |x| x)
    }
}

for_each_isa! {
    fn spread<F>(isa, x: &[f32], mean: f32) -> f64 {
        sum(x, |x| (x - mean) * (x - mean))
    }
}

for_each_isa! {
    fn apply<F>(isa, a: Activation, x: &[f32], mean: f32, scale: f32, beta: f32, y: &mut [f32]) {
        with_function!(a, P => for (y, &x) in y.iter_mut().zip(x) {
            *y = P::value::<F>(F::fma(x - mean, scale, beta));
        });
    }
}

/// The gradients of [`batch_norm`]: `dx` like `x`, `dgamma` and `dbeta` `[channels]`, all overwritten, from the gradient
/// of its result and the `stats` it returned. What the activation saw is computed again.
///
/// # Panics
/// When a length does not fit the shape.
pub fn batch_norm_gradient(
    shape: [usize; 3],
    x: &[f32],
    stats: &Stats,
    gamma: &[f32],
    beta: &[f32],
    epsilon: f32,
    a: Activation,
    dy: &[f32],
    dx: &mut [f32],
    dgamma: &mut [f32],
    dbeta: &mut [f32],
) {
    batch_norm_gradient_with(Isa::best(), shape, x, stats, gamma, beta, epsilon, a, dy, dx, dgamma, dbeta);
}

pub(crate) fn batch_norm_gradient_with(
    isa: Isa,
    shape: [usize; 3],
    x: &[f32],
    stats: &Stats,
    gamma: &[f32],
    beta: &[f32],
    epsilon: f32,
    a: Activation,
    dy: &[f32],
    dx: &mut [f32],
    dgamma: &mut [f32],
    dbeta: &mut [f32],
) {
    let [batch, channels, pixels] = shape;
    expect("x", x.len(), batch * channels * pixels, &shape);
    expect("dy", dy.len(), x.len(), &shape);
    expect("dx", dx.len(), x.len(), &shape);
    let of_channels: [(&str, usize); 6] = [
        ("the means", stats.mean.len()),
        ("the variances", stats.variance.len()),
        ("gamma", gamma.len()),
        ("beta", beta.len()),
        ("dgamma", dgamma.len()),
        ("dbeta", dbeta.len()),
    ];
    for (name, found) in of_channels {
        expect(name, found, channels, &shape);
    }
    let output = Output::new(dx);
    dgamma.par_iter_mut().zip(dbeta).enumerate().for_each(|(c, (dgamma, dbeta))| {
        let start = |image: usize| (image * channels + c) * pixels;
        let inverse = (1.0 / (f64::from(stats.variance[c]) + f64::from(epsilon)).sqrt()) as f32;
        let point = Point { mean: stats.mean[c], inverse, gamma: gamma[c], beta: beta[c] };
        let (mut plain, mut dot) = (0.0, 0.0);
        for i in 0..batch {
            // SAFETY: each task owns the planes of its channel in dx, which is borrowed until all are done.
            #[allow(unsafe_code)]
            let to = unsafe { output.part(start(i), pixels) };
            let sums = before(isa, a, point, &x[start(i)..][..pixels], &dy[start(i)..][..pixels], to);
            plain += sums.0;
            dot += sums.1;
        }
        *dbeta = plain as f32;
        *dgamma = dot as f32;
        let count = (batch * pixels).max(1) as f64;
        for i in 0..batch {
            // SAFETY: as above.
            #[allow(unsafe_code)]
            let to = unsafe { output.part(start(i), pixels) };
            centre(isa, point, (plain / count) as f32, (dot / count) as f32, &x[start(i)..][..pixels], to);
        }
    });
}

/// How one channel is normalised.
#[derive(Clone, Copy)]
struct Point {
    mean: f32,
    inverse: f32,
    gamma: f32,
    beta: f32,
}

for_each_isa! {
    /// Puts the gradient before the activation into `dz`; returns its sum and its sum with the normalised x.
    fn before<F>(isa, a: Activation, point: Point, x: &[f32], dy: &[f32], dz: &mut [f32]) -> (f64, f64) {
        let (mut plain, mut dot) = (0.0, 0.0);
        with_function!(a, P => for ((x, dy), dz) in x.chunks(RUN).zip(dy.chunks(RUN)).zip(dz.chunks_mut(RUN)) {
            let (mut plains, mut dots) = ([0f32; LANES], [0f32; LANES]);
            let each = x.chunks(LANES).zip(dy.chunks(LANES)).zip(dz.chunks_mut(LANES));
            let mut one = |x: &[f32], dy: &[f32], dz: &mut [f32]| {
                let lanes = plains.iter_mut().zip(&mut dots);
                for (((&x, &dy), dz), (plain, dot)) in x.iter().zip(dy).zip(dz).zip(lanes) {
                    let hat = (x - point.mean) * point.inverse;
                    let d = dy * P::slope::<F>(F::fma(hat, point.gamma, point.beta));
                    *dz = d;
                    *plain += d;
                    *dot = F::fma(d, hat, *dot);
                }
            };
            for ((x, dy), dz) in each {
                // A constant length lets the compiler keep the sums in registers.
                if x.len() == LANES {
                    one(&x[..LANES], &dy[..LANES], &mut dz[..LANES]);
                } else {
                    one(x, dy, dz);
                }
            }
            plain += fold(&plains);
            dot += fold(&dots);
        });
        (plain, dot)
    }
}

for_each_isa! {
    /// From the gradient before the activation, in `dx`, to that of x, given the means of the two sums.
    fn centre<F>(isa, point: Point, plain: f32, dot: f32, x: &[f32], dx: &mut [f32]) {
        let scale = point.inverse * point.gamma;
        for (dx, &x) in dx.iter_mut().zip(x) {
            let hat = (x - point.mean) * point.inverse;
            *dx = scale * F::fma(-hat, dot, *dx - plain);
        }
    }
}
