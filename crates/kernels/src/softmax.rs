//! Softmax over the rows of small matrices whose columns are pixels, on the calling thread.

use crate::activation::exp;
use crate::isa::{Isa, for_each_isa};

/// Pixels handled together: few enough that a group's rows stay in the first-level cache.
const BLOCK: usize = 64;

/// Softmax down the columns: of every `rows` rows of `x` `[groups * rows, pixels]`, each column becomes positive and sums to 1.
///
/// # Panics
/// When the length of `x` is not a whole number of groups.
pub fn softmax_down(rows: usize, pixels: usize, x: &mut [f32]) {
    softmax_down_with(Isa::best(), rows, pixels, x);
}

pub(crate) fn softmax_down_with(isa: Isa, rows: usize, pixels: usize, x: &mut [f32]) {
    if x.is_empty() {
        return;
    }
    let group = rows * pixels;
    assert!(group > 0 && x.len().is_multiple_of(group), "{} floats are no groups of {rows} rows", x.len());
    x.chunks_exact_mut(group).for_each(|group| down(isa, pixels, group));
}

for_each_isa! {
    fn down<F>(isa, pixels: usize, x: &mut [f32]) {
        for p in (0..pixels).step_by(BLOCK) {
            let count = BLOCK.min(pixels - p);
            let (mut most, mut sum) = ([f32::NEG_INFINITY; BLOCK], [0f32; BLOCK]);
            for row in x.chunks_exact(pixels) {
                for (m, &x) in most.iter_mut().zip(&row[p..p + count]) {
                    *m = m.max(x);
                }
            }
            for row in x.chunks_exact_mut(pixels) {
                for ((x, &m), s) in row[p..p + count].iter_mut().zip(&most).zip(&mut sum) {
                    *x = exp::<F>(*x - m);
                    *s += *x;
                }
            }
            for s in &mut sum {
                *s = 1.0 / *s;
            }
            for row in x.chunks_exact_mut(pixels) {
                for (x, &s) in row[p..p + count].iter_mut().zip(&sum) {
                    *x *= s;
                }
            }
        }
    }
}

/// The first half of a softmax along the rows: each row of `x` `[rows, pixels]` becomes `exp(x - max)`; its greatest element goes to
/// `max` `[rows]` and the sum of the exponentials to `sum` `[rows]`, so that rows cut in parts can be put together.
///
/// # Panics
/// When a length does not fit the shape.
pub fn exp_along(pixels: usize, x: &mut [f32], max: &mut [f32], sum: &mut [f32]) {
    exp_along_with(Isa::best(), pixels, x, max, sum);
}

pub(crate) fn exp_along_with(isa: Isa, pixels: usize, x: &mut [f32], max: &mut [f32], sum: &mut [f32]) {
    let rows = max.len();
    assert!(pixels > 0 && x.len() == rows * pixels && sum.len() == rows, "{} floats in {rows} rows", x.len());
    along(isa, pixels, x, max, sum);
}

/// Sums kept side by side, so that the compiler adds whole vectors.
const LANES: usize = 32;

for_each_isa! {
    fn along<F>(isa, pixels: usize, x: &mut [f32], max: &mut [f32], sum: &mut [f32]) {
        for ((row, max), sum) in x.chunks_exact_mut(pixels).zip(max).zip(sum) {
            let mut most = [f32::NEG_INFINITY; LANES];
            for chunk in row.chunks(LANES) {
                for (m, &x) in most.iter_mut().zip(chunk) {
                    *m = m.max(x);
                }
            }
            *max = most.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let mut sums = [0f32; LANES];
            for chunk in row.chunks_mut(LANES) {
                for (s, x) in sums.iter_mut().zip(chunk) {
                    *x = exp::<F>(*x - *max);
                    *s += *x;
                }
            }
            *sum = sums.iter().sum();
        }
    }
}
