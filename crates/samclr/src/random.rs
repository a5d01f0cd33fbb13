//! Normal numbers.

use kirie_engine::random::unit;
use rand::Rng;

/// Numbers of a normal distribution of mean 0 and deviation 1 (Box and Muller).
pub(crate) fn normal(count: usize, rng: &mut impl Rng) -> Vec<f32> {
    let mut values = Vec::with_capacity(count + 1);
    while values.len() < count {
        let radius = (-2.0 * (1.0 - unit(rng)).ln()).sqrt();
        let angle = std::f64::consts::TAU * unit(rng);
        values.extend([(radius * angle.cos()) as f32, (radius * angle.sin()) as f32]);
    }
    values.truncate(count);
    values
}
