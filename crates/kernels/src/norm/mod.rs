//! Normalisations and their gradients.

mod batch;
mod layer;
mod layer_2d;

pub use batch::{batch_norm, batch_norm_gradient};
pub use layer::{layer_norm, layer_norm_gradient};
pub use layer_2d::{layer_norm_2d, layer_norm_2d_gradient, layer_norm_2d_part};

#[cfg(test)]
pub(crate) use batch::{batch_norm_gradient_with, batch_norm_with};
#[cfg(test)]
pub(crate) use layer::{layer_norm_gradient_with, layer_norm_with};
#[cfg(test)]
pub(crate) use layer_2d::{layer_norm_2d_gradient_with, layer_norm_2d_part_with, layer_norm_2d_with};

/// Sums kept side by side, so that the compiler adds whole vectors.
const LANES: usize = 32;
/// Elements added in f32 before the total goes to f64.
const RUN: usize = 2048;

/// The sum of `f` over elements, in f64 beyond short runs.
#[inline(always)]
fn sum(x: &[f32], f: impl Fn(f32) -> f32) -> f64 {
    let mut total = 0.0;
    for run in x.chunks(RUN) {
        let mut lanes = [0f32; LANES];
        let chunks = run.chunks_exact(LANES);
        for (lane, &x) in lanes.iter_mut().zip(chunks.remainder()) {
            *lane = f(x);
        }
        for chunk in chunks {
            for (lane, &x) in lanes.iter_mut().zip(chunk) {
                *lane += f(x);
            }
        }
        total += fold(&lanes);
    }
    total
}

/// The sum of a few lanes.
#[inline(always)]
fn fold(lanes: &[f32; LANES]) -> f64 {
    let mut four = [0f64; 4];
    for chunk in lanes.chunks_exact(4) {
        for (f, &l) in four.iter_mut().zip(chunk) {
            *f += f64::from(l);
        }
    }
    (four[0] + four[1]) + (four[2] + four[3])
}

/// Panics unless a slice has the length that the shape asks for.
fn expect(name: &str, found: usize, wanted: usize, shape: &[usize]) {
    assert_eq!(found, wanted, "the length of {name} does not fit the shape {shape:?}");
}
