//! Layer normalisation over the last dimension.

use super::{expect, sum};
use crate::isa::{Arithmetic, Isa, for_each_isa};
use rayon::prelude::*;

/// Rows that one task normalises.
const ROWS: usize = 64;
/// Most partial sums of the parameters' gradients; their number depends on the shape only.
const PARTS: usize = 32;

/// Normalises each row of `x` `[rows, width]`: `y = (x - mean) / sqrt(variance + epsilon) * gamma + beta`, with `gamma`
/// and `beta` `[width]`.
///
/// # Panics
/// When a length does not fit the shape.
pub fn layer_norm(
    rows: usize,
    width: usize,
    x: &[f32],
    gamma: &[f32],
    beta: &[f32],
    epsilon: f32,
    y: &mut [f32],
) {
    layer_norm_with(Isa::best(), rows, width, x, gamma, beta, epsilon, y);
}

pub(crate) fn layer_norm_with(
    isa: Isa,
    rows: usize,
    width: usize,
    x: &[f32],
    gamma: &[f32],
    beta: &[f32],
    epsilon: f32,
    y: &mut [f32],
) {
    let shape = [rows, width];
    expect("x", x.len(), rows * width, &shape);
    expect("y", y.len(), x.len(), &shape);
    expect("gamma", gamma.len(), width, &shape);
    expect("beta", beta.len(), width, &shape);
    if x.is_empty() {
        return;
    }
    y.par_chunks_mut(ROWS * width)
        .zip(x.par_chunks(ROWS * width))
        .for_each(|(y, x)| forward(isa, x, gamma, beta, epsilon, y));
}

/// Mean and 1 / standard deviation of a row.
#[inline(always)]
fn moments<F: Arithmetic>(x: &[f32], epsilon: f32) -> (f32, f32) {
    let count = x.len() as f64;
    let mean = (sum(x, |x| x) / count) as f32;
    let variance = sum(x, |x| (x - mean) * (x - mean)) / count;
    (mean, (1.0 / (variance + f64::from(epsilon)).sqrt()) as f32)
}

for_each_isa! {
    fn forward<F>(isa, x: &[f32], gamma: &[f32], beta: &[f32], epsilon: f32, y: &mut [f32]) {
        for (x, y) in x.chunks_exact(gamma.len()).zip(y.chunks_exact_mut(gamma.len())) {
            let (mean, inverse) = moments::<F>(x, epsilon);
            for (((y, &x), &gamma), &beta) in y.iter_mut().zip(x).zip(gamma).zip(beta) {
                *y = F::fma((x - mean) * inverse, gamma, beta);
            }
        }
    }
}

/// The gradients of [`layer_norm`]: `dx` `[rows, width]`, `dgamma` and `dbeta` `[width]`, all overwritten.
///
/// # Panics
/// When a length does not fit the shape.
pub fn layer_norm_gradient(
    rows: usize,
    width: usize,
    x: &[f32],
    gamma: &[f32],
    epsilon: f32,
    dy: &[f32],
    dx: &mut [f32],
    dgamma: &mut [f32],
    dbeta: &mut [f32],
) {
    layer_norm_gradient_with(Isa::best(), rows, width, x, gamma, epsilon, dy, dx, dgamma, dbeta);
}

pub(crate) fn layer_norm_gradient_with(
    isa: Isa,
    rows: usize,
    width: usize,
    x: &[f32],
    gamma: &[f32],
    epsilon: f32,
    dy: &[f32],
    dx: &mut [f32],
    dgamma: &mut [f32],
    dbeta: &mut [f32],
) {
    let shape = [rows, width];
    expect("x", x.len(), rows * width, &shape);
    expect("dy", dy.len(), x.len(), &shape);
    expect("dx", dx.len(), x.len(), &shape);
    expect("gamma", gamma.len(), width, &shape);
    expect("dgamma", dgamma.len(), width, &shape);
    expect("dbeta", dbeta.len(), width, &shape);
    dgamma.fill(0.0);
    dbeta.fill(0.0);
    if x.is_empty() {
        return;
    }
    let chunk = rows.div_ceil(PARTS).max(ROWS) * width;
    let partial: Vec<(Vec<f32>, Vec<f32>)> = dx
        .par_chunks_mut(chunk)
        .zip(x.par_chunks(chunk).zip(dy.par_chunks(chunk)))
        .map(|(dx, (x, dy))| {
            let mut sums = (vec![0f32; width], vec![0f32; width]);
            backward(isa, x, gamma, epsilon, dy, dx, &mut sums.0, &mut sums.1);
            sums
        })
        .collect();
    for (gammas, betas) in &partial {
        dgamma.iter_mut().zip(gammas).for_each(|(d, g)| *d += g);
        dbeta.iter_mut().zip(betas).for_each(|(d, b)| *d += b);
    }
}

for_each_isa! {
    fn backward<F>(
        isa,
        x: &[f32],
        gamma: &[f32],
        epsilon: f32,
        dy: &[f32],
        dx: &mut [f32],
        dgamma: &mut [f32],
        dbeta: &mut [f32],
    ) {
        let width = gamma.len();
        let rows = x.chunks_exact(width).zip(dy.chunks_exact(width)).zip(dx.chunks_exact_mut(width));
        for ((x, dy), dx) in rows {
            let (mean, inverse) = moments::<F>(x, epsilon);
            // The normalised x waits in dx.
            for (((dx, (&x, &dy)), dgamma), dbeta) in
                dx.iter_mut().zip(x.iter().zip(dy)).zip(dgamma.iter_mut()).zip(dbeta.iter_mut())
            {
                let hat = (x - mean) * inverse;
                *dx = hat;
                *dgamma = F::fma(dy, hat, *dgamma);
                *dbeta += dy;
            }
            let (plain, dot) = sums::<F>(dx, dy, gamma);
            let (plain, dot) = ((plain / width as f64) as f32, (dot / width as f64) as f32);
            for ((dx, &dy), &gamma) in dx.iter_mut().zip(dy).zip(gamma) {
                *dx = inverse * F::fma(-*dx, dot, F::fma(dy, gamma, -plain));
            }
        }
    }
}

/// The sums over a row of the gradient of the normalised x, and of its product with it.
#[inline(always)]
fn sums<F: Arithmetic>(hat: &[f32], dy: &[f32], gamma: &[f32]) -> (f64, f64) {
    let (mut plains, mut dots) = ([0f32; super::LANES], [0f32; super::LANES]);
    let mut add = |hat: &[f32], dy: &[f32], gamma: &[f32]| {
        let lanes = plains.iter_mut().zip(&mut dots);
        for (((&hat, &dy), &gamma), (plain, dot)) in hat.iter().zip(dy).zip(gamma).zip(lanes) {
            let d = dy * gamma;
            *plain += d;
            *dot = F::fma(d, hat, *dot);
        }
    };
    let size = super::LANES;
    let mut chunks = hat.chunks_exact(size).zip(dy.chunks_exact(size)).zip(gamma.chunks_exact(size));
    for ((hat, dy), gamma) in &mut chunks {
        add(&hat[..size], &dy[..size], &gamma[..size]);
    }
    let rest = hat.len() / size * size;
    add(&hat[rest..], &dy[rest..], &gamma[rest..]);
    (super::fold(&plains), super::fold(&dots))
}
