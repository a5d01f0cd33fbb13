//! Every kernel against plain loops in f64, on every instruction set of this machine.

mod conv;
mod differences;
mod gemm;
mod pointwise;
mod promises;
mod ready;

/// Reproducible numbers in [-1, 1].
pub(crate) fn numbers(len: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    (0..len).map(|_| next()).collect()
}

/// Panics where two results differ by more than `tolerance`.
pub(crate) fn close(name: &str, found: &[f32], wanted: &[f32], tolerance: f32) {
    assert_eq!(found.len(), wanted.len(), "{name}");
    for (i, (f, w)) in found.iter().zip(wanted).enumerate() {
        assert!((f - w).abs() <= tolerance, "{name}: {f} for {w} at {i}");
    }
}
