//! Weights by formula: every value follows from the name of its tensor and its place in it.
//!
//! For parity with the reference (any language can make the same weights without any file) and for measuring speed
//! without a download. Masks made with them are meaningless as pictures.

/// The values of a tensor, row-major.
///
/// A stream of `splitmix64` numbers seeded by the key's FNV-1a hash, scaled by what kind of tensor it is: norms around
/// one, biases small, matrices and kernels to keep the variance of what passes through.
pub fn values(key: &str, shape: &[usize]) -> Vec<f32> {
    let seed =
        key.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3));
    let kind = Kind::of(key, shape);
    let count: usize = shape.iter().product();
    (1..=count as u64)
        .map(|i| {
            let mut x = seed.wrapping_add(i.wrapping_mul(0x9E37_79B9_7F4A_7C15));
            x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            x ^= x >> 31;
            let u = (x >> 40) as f64 / f64::from(1_u32 << 24) * 2.0 - 1.0;
            kind.value(u) as f32
        })
        .collect()
}

enum Kind {
    Zero,
    Variance,
    NormWeight,
    Scaled(f64),
}

impl Kind {
    fn of(key: &str, shape: &[usize]) -> Self {
        if key.ends_with("num_batches_tracked") {
            Self::Zero
        } else if key.ends_with("running_var") {
            Self::Variance
        } else if key.ends_with("running_mean") {
            Self::Scaled(0.1)
        } else if key.ends_with("positional_encoding_gaussian_matrix") {
            Self::Scaled(2.0)
        } else if key.ends_with("pos_embed") {
            Self::Scaled(0.02)
        } else if shape.len() == 1 {
            if key.ends_with("weight") { Self::NormWeight } else { Self::Scaled(0.1) }
        } else {
            let fan_in: usize = shape.iter().skip(1).product();
            Self::Scaled((3.0 / fan_in as f64).sqrt())
        }
    }

    fn value(&self, u: f64) -> f64 {
        match self {
            Self::Zero => 0.0,
            Self::Variance => 1.0 + 0.5 * u.abs(),
            Self::NormWeight => 1.0 + 0.1 * u,
            Self::Scaled(scale) => scale * u,
        }
    }
}
