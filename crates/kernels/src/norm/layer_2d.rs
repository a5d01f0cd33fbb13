//! Layer normalisation over the channels of images, where they lie: a block of neighbouring pixels at a time, so that
//! every loop runs along contiguous memory and the block stays in the first-level cache.

use super::{LANES, expect, fold};
use crate::isa::{Arithmetic, Isa, for_each_isa};
use crate::micro::Output;
use crate::scratch::with_scratch;
use rayon::prelude::*;

/// Pixels of a block.
const BLOCK: usize = 64;
/// Most partial sums of the parameters' gradients; their number depends on the shape only.
const PARTS: usize = 32;

/// Normalises each pixel of `x` `[batch, channels, pixels]` over its channels; `gamma` and `beta` are `[channels]`.
///
/// # Panics
/// When a length does not fit the shape.
pub fn layer_norm_2d(shape: [usize; 3], x: &[f32], gamma: &[f32], beta: &[f32], epsilon: f32, y: &mut [f32]) {
    layer_norm_2d_with(Isa::best(), shape, x, gamma, beta, epsilon, y);
}

pub(crate) fn layer_norm_2d_with(
    isa: Isa,
    shape: [usize; 3],
    x: &[f32],
    gamma: &[f32],
    beta: &[f32],
    epsilon: f32,
    y: &mut [f32],
) {
    let [batch, channels, pixels] = shape;
    expect("x", x.len(), batch * channels * pixels, &shape);
    expect("y", y.len(), x.len(), &shape);
    expect("gamma", gamma.len(), channels, &shape);
    expect("beta", beta.len(), channels, &shape);
    if x.is_empty() {
        return;
    }
    let blocks = pixels.div_ceil(BLOCK);
    let output = Output::new(y);
    (0..batch * blocks).into_par_iter().for_each(|task| {
        let (image, p) = (task / blocks, task % blocks * BLOCK);
        let x = &x[image * channels * pixels..][..channels * pixels];
        with_scratch(channels * BLOCK, |block| {
            forward(isa, x, pixels, p, gamma, beta, epsilon, output, image * channels * pixels, block);
        });
    });
}

/// Normalises each pixel of one image `x` `[channels, pixels]` in place, on the calling thread.
///
/// # Panics
/// When a length does not fit the shape.
pub fn layer_norm_2d_part(pixels: usize, x: &mut [f32], gamma: &[f32], beta: &[f32], epsilon: f32) {
    layer_norm_2d_part_with(Isa::best(), pixels, x, gamma, beta, epsilon);
}

pub(crate) fn layer_norm_2d_part_with(
    isa: Isa,
    pixels: usize,
    x: &mut [f32],
    gamma: &[f32],
    beta: &[f32],
    epsilon: f32,
) {
    let shape = [gamma.len(), pixels];
    expect("x", x.len(), gamma.len() * pixels, &shape);
    expect("beta", beta.len(), gamma.len(), &shape);
    with_scratch(gamma.len() * BLOCK, |block| {
        for p in (0..pixels).step_by(BLOCK) {
            in_place(isa, x, pixels, p, gamma, beta, epsilon, block);
        }
    });
}

for_each_isa! {
    fn in_place<F>(
        isa,
        x: &mut [f32],
        pixels: usize,
        p: usize,
        gamma: &[f32],
        beta: &[f32],
        epsilon: f32,
        block: &mut [f32],
    ) {
        let count = BLOCK.min(pixels - p);
        normalise::<F>(x, pixels, p, epsilon, block);
        for ((row, hats), (&gamma, &beta)) in
            x.chunks_exact_mut(pixels).zip(block.chunks_exact(BLOCK)).zip(gamma.iter().zip(beta))
        {
            for (x, &hat) in row[p..p + count].iter_mut().zip(hats) {
                *x = F::fma(hat, gamma, beta);
            }
        }
    }
}

/// Copies the pixels from `p` into `block` `[channels, BLOCK]` (zeros beyond the last pixel) and replaces them by the
/// normalised ones; returns 1 / standard deviation of each. In the image itself the channels lie a power of two apart
/// and would push each other out of the cache.
#[inline(always)]
fn normalise<F: Arithmetic>(
    x: &[f32],
    pixels: usize,
    p: usize,
    epsilon: f32,
    block: &mut [f32],
) -> [f32; BLOCK] {
    let count = BLOCK.min(pixels - p);
    let channels = (x.len() / pixels) as f32;
    let (mut mean, mut inverse) = ([0f32; BLOCK], [0f32; BLOCK]);
    for (row, to) in x.chunks_exact(pixels).zip(block.chunks_exact_mut(BLOCK)) {
        to[..count].copy_from_slice(&row[p..p + count]);
        to[count..].fill(0.0);
        for (m, &x) in mean.iter_mut().zip(&*to) {
            *m += x;
        }
    }
    for m in &mut mean {
        *m /= channels;
    }
    for row in block.chunks_exact_mut(BLOCK) {
        for ((v, &m), x) in inverse.iter_mut().zip(&mean).zip(row) {
            *x -= m;
            *v = F::fma(*x, *x, *v);
        }
    }
    for v in &mut inverse {
        *v = 1.0 / (*v / channels + epsilon).sqrt();
    }
    for row in block.chunks_exact_mut(BLOCK) {
        for (x, &v) in row.iter_mut().zip(&inverse) {
            *x *= v;
        }
    }
    inverse
}

for_each_isa! {
    fn forward<F>(
        isa,
        x: &[f32],
        pixels: usize,
        p: usize,
        gamma: &[f32],
        beta: &[f32],
        epsilon: f32,
        y: Output,
        start: usize,
        block: &mut [f32],
    ) {
        let count = BLOCK.min(pixels - p);
        normalise::<F>(x, pixels, p, epsilon, block);
        for (c, hats) in block.chunks_exact(BLOCK).enumerate() {
            // SAFETY: each task owns its block of pixels in y, which is borrowed until all are done.
            #[allow(unsafe_code)]
            let y = unsafe { y.part(start + c * pixels + p, count) };
            for (y, &hat) in y.iter_mut().zip(hats) {
                *y = F::fma(hat, gamma[c], beta[c]);
            }
        }
    }
}

/// The gradients of [`layer_norm_2d`]: `dx` like `x`, `dgamma` and `dbeta` `[channels]`, all overwritten.
///
/// # Panics
/// When a length does not fit the shape.
pub fn layer_norm_2d_gradient(
    shape: [usize; 3],
    x: &[f32],
    gamma: &[f32],
    epsilon: f32,
    dy: &[f32],
    dx: &mut [f32],
    dgamma: &mut [f32],
    dbeta: &mut [f32],
) {
    layer_norm_2d_gradient_with(Isa::best(), shape, x, gamma, epsilon, dy, dx, dgamma, dbeta);
}

pub(crate) fn layer_norm_2d_gradient_with(
    isa: Isa,
    shape: [usize; 3],
    x: &[f32],
    gamma: &[f32],
    epsilon: f32,
    dy: &[f32],
    dx: &mut [f32],
    dgamma: &mut [f32],
    dbeta: &mut [f32],
) {
    let [batch, channels, pixels] = shape;
    expect("x", x.len(), batch * channels * pixels, &shape);
    expect("dy", dy.len(), x.len(), &shape);
    expect("dx", dx.len(), x.len(), &shape);
    expect("gamma", gamma.len(), channels, &shape);
    expect("dgamma", dgamma.len(), channels, &shape);
    expect("dbeta", dbeta.len(), channels, &shape);
    dgamma.fill(0.0);
    dbeta.fill(0.0);
    if x.is_empty() {
        return;
    }
    let blocks = pixels.div_ceil(BLOCK);
    let parts = (batch * blocks).min(PARTS);
    let output = Output::new(dx);
    let partial: Vec<(Vec<f64>, Vec<f64>)> = (0..parts)
        .into_par_iter()
        .map(|index| {
            let mut sums = (vec![0f64; channels], vec![0f64; channels]);
            for task in crate::scratch::part(batch * blocks, parts, index, 1) {
                let (start, p) = (task / blocks * channels * pixels, task % blocks * BLOCK);
                let image = |of| &<[f32]>::split_at(of, start).1[..channels * pixels];
                let (x, dy) = (image(x), image(dy));
                with_scratch(2 * channels * BLOCK, |space| {
                    let (dgamma, dbeta) = (&mut sums.0, &mut sums.1);
                    backward(isa, x, pixels, p, gamma, epsilon, dy, output, start, dgamma, dbeta, space);
                });
            }
            sums
        })
        .collect();
    for c in 0..channels {
        dgamma[c] = partial.iter().map(|(g, _)| g[c]).sum::<f64>() as f32;
        dbeta[c] = partial.iter().map(|(_, b)| b[c]).sum::<f64>() as f32;
    }
}

for_each_isa! {
    fn backward<F>(
        isa,
        x: &[f32],
        pixels: usize,
        p: usize,
        gamma: &[f32],
        epsilon: f32,
        dy: &[f32],
        dx: Output,
        start: usize,
        dgamma: &mut [f64],
        dbeta: &mut [f64],
        space: &mut [f32],
    ) {
        let count = BLOCK.min(pixels - p);
        let channels = gamma.len();
        let (hats, ds) = space.split_at_mut(channels * BLOCK);
        let inverse = normalise::<F>(x, pixels, p, epsilon, hats);
        let (mut plain, mut dot) = ([0f32; BLOCK], [0f32; BLOCK]);
        let rows = dy.chunks_exact(pixels).zip(hats.chunks_exact(BLOCK)).zip(ds.chunks_exact_mut(BLOCK));
        for (c, ((dy, hats), ds)) in rows.enumerate() {
            ds[..count].copy_from_slice(&dy[p..p + count]);
            ds[count..].fill(0.0);
            let (mut gammas, mut betas) = ([0f32; LANES], [0f32; LANES]);
            for (hats, ds) in hats.chunks_exact(LANES).zip(ds.chunks_exact(LANES)) {
                for (((g, b), &hat), &d) in gammas.iter_mut().zip(&mut betas).zip(hats).zip(ds) {
                    *g = F::fma(d, hat, *g);
                    *b += d;
                }
            }
            dgamma[c] += fold(&gammas);
            dbeta[c] += fold(&betas);
            for (((plain, dot), &hat), d) in plain.iter_mut().zip(&mut dot).zip(hats).zip(ds) {
                *d *= gamma[c];
                *plain += *d;
                *dot = F::fma(*d, hat, *dot);
            }
        }
        let count_channels = channels as f32;
        for mean in plain.iter_mut().chain(&mut dot) {
            *mean /= count_channels;
        }
        for (c, (hats, ds)) in hats.chunks_exact(BLOCK).zip(ds.chunks_exact(BLOCK)).enumerate() {
            // SAFETY: each task owns its block of pixels in dx, which is borrowed until all are done.
            #[allow(unsafe_code)]
            let dx = unsafe { dx.part(start + c * pixels + p, count) };
            let terms = inverse.iter().zip(plain.iter().zip(&dot));
            for (((dx, &hat), &d), (&inverse, (&plain, &dot))) in dx.iter_mut().zip(hats).zip(ds).zip(terms) {
                *dx = inverse * F::fma(-hat, dot, d - plain);
            }
        }
    }
}
