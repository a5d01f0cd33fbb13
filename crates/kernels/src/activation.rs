//! Activations and their derivatives, written so that the compiler vectorises them.
//!
//! The exponential is a polynomial after the usual reduction by powers of two; the error function is Abramowitz and
//! Stegun's 7.1.26, whose error is below 1.5e-7. Values differ from exact ones by less than 1e-6 * max(1, |x|), which
//! a test holds.

use crate::Activation;
use crate::isa::{Arithmetic, Isa, for_each_isa};
use rayon::prelude::*;

/// Floats that one task handles: small enough to balance, large enough that a task's start does not count.
const CHUNK: usize = 1 << 14;

/// An activation as a type, for loops that are compiled for it.
pub(crate) trait Function {
    fn value<F: Arithmetic>(x: f32) -> f32;
    fn slope<F: Arithmetic>(x: f32) -> f32;
}

/// e^x, within a few units in the last place; arguments beyond ±87 are held there.
#[inline(always)]
pub(crate) fn exp<F: Arithmetic>(x: f32) -> f32 {
    // Adding 1.5 * 2^23 rounds to an integer that then stands in the low bits.
    const ROUND: f32 = 12_582_912.0;
    let x = x.clamp(-87.0, 87.0);
    let shifted = F::fma(x, std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    // ln 2 in two parts, the first with trailing zeros, so that the product with n is exact.
    let r = F::fma(n, -1.428_606_8e-6, F::fma(n, -0.693_145_75, x));
    let mut p = 1.984_127e-4;
    for c in [1.388_889e-3, 8.333_334e-3, 4.166_666_7e-2, 0.166_666_67, 0.5, 1.0, 1.0] {
        p = F::fma(p, r, c);
    }
    p * f32::from_bits((shifted.to_bits() << 23).wrapping_add(0x3f80_0000))
}

#[inline(always)]
fn sigmoid<F: Arithmetic>(x: f32) -> f32 {
    1.0 / (1.0 + exp::<F>(-x))
}

pub(crate) struct Identity;
impl Function for Identity {
    #[inline(always)]
    fn value<F: Arithmetic>(x: f32) -> f32 {
        x
    }
    #[inline(always)]
    fn slope<F: Arithmetic>(_: f32) -> f32 {
        1.0
    }
}

pub(crate) struct Relu;
impl Function for Relu {
    #[inline(always)]
    fn value<F: Arithmetic>(x: f32) -> f32 {
        // Not `max`, which turns a NaN into 0 and so hides a diverged network.
        if x <= 0.0 { 0.0 } else { x }
    }
    #[inline(always)]
    fn slope<F: Arithmetic>(x: f32) -> f32 {
        if x <= 0.0 { 0.0 } else { 1.0 }
    }
}

pub(crate) struct Gelu;
impl Gelu {
    /// Φ(x), and exp(-x²/2), which its density shares.
    #[inline(always)]
    fn cdf<F: Arithmetic>(x: f32) -> (f32, f32) {
        let bell = exp::<F>(-0.5 * x * x);
        let t = 1.0 / F::fma(x.abs(), 0.327_591_1 * std::f32::consts::FRAC_1_SQRT_2, 1.0);
        let mut p = 1.061_405_4;
        for c in [-1.453_152_1, 1.421_413_8, -0.284_496_72, 0.254_829_6] {
            p = F::fma(p, t, c);
        }
        let tail = 0.5 * p * t * bell;
        (if x < 0.0 { tail } else { 1.0 - tail }, bell)
    }
}
impl Function for Gelu {
    #[inline(always)]
    fn value<F: Arithmetic>(x: f32) -> f32 {
        x * Self::cdf::<F>(x).0
    }
    #[inline(always)]
    fn slope<F: Arithmetic>(x: f32) -> f32 {
        let (cdf, bell) = Self::cdf::<F>(x);
        F::fma(x * bell, 0.398_942_28, cdf)
    }
}

pub(crate) struct GeluTanh;
impl GeluTanh {
    /// (1 + tanh u) / 2 is the logistic function of 2u; this is its argument.
    #[inline(always)]
    fn argument<F: Arithmetic>(x: f32) -> f32 {
        x * F::fma(x * x, 2.0 * 0.797_884_56 * 0.044_715, 2.0 * 0.797_884_56)
    }
}
impl Function for GeluTanh {
    #[inline(always)]
    fn value<F: Arithmetic>(x: f32) -> f32 {
        x * sigmoid::<F>(Self::argument::<F>(x))
    }
    #[inline(always)]
    fn slope<F: Arithmetic>(x: f32) -> f32 {
        let s = sigmoid::<F>(Self::argument::<F>(x));
        let inner = x * F::fma(x * x, 6.0 * 0.797_884_56 * 0.044_715, 2.0 * 0.797_884_56);
        s * F::fma(inner, 1.0 - s, 1.0)
    }
}

pub(crate) struct HardSwish;
impl Function for HardSwish {
    #[inline(always)]
    fn value<F: Arithmetic>(x: f32) -> f32 {
        x * ((x + 3.0).clamp(0.0, 6.0) * (1.0 / 6.0))
    }
    #[inline(always)]
    fn slope<F: Arithmetic>(x: f32) -> f32 {
        let middle = F::fma(x, 1.0 / 3.0, 0.5);
        let upper = if x >= 3.0 { 1.0 } else { middle };
        if x <= -3.0 { 0.0 } else { upper }
    }
}

pub(crate) struct Silu;
impl Function for Silu {
    #[inline(always)]
    fn value<F: Arithmetic>(x: f32) -> f32 {
        x * sigmoid::<F>(x)
    }
    #[inline(always)]
    fn slope<F: Arithmetic>(x: f32) -> f32 {
        let s = sigmoid::<F>(x);
        s * F::fma(x, 1.0 - s, 1.0)
    }
}

/// Runs `$body` with the type `$p` that stands for an [`Activation`].
macro_rules! with_function {
    ($a:expr, $p:ident => $body:expr) => {
        match $a {
            $crate::Activation::Identity => {
                type $p = $crate::activation::Identity;
                $body
            }
            $crate::Activation::Relu => {
                type $p = $crate::activation::Relu;
                $body
            }
            $crate::Activation::Gelu => {
                type $p = $crate::activation::Gelu;
                $body
            }
            $crate::Activation::GeluTanh => {
                type $p = $crate::activation::GeluTanh;
                $body
            }
            $crate::Activation::HardSwish => {
                type $p = $crate::activation::HardSwish;
                $body
            }
            $crate::Activation::Silu => {
                type $p = $crate::activation::Silu;
                $body
            }
        }
    };
}
pub(crate) use with_function;

for_each_isa! {
    pub(crate) fn values<F>(isa, a: Activation, x: &[f32], y: &mut [f32]) {
        with_function!(a, P => for (y, &x) in y.iter_mut().zip(x) {
            *y = P::value::<F>(x);
        });
    }
}

for_each_isa! {
    pub(crate) fn slopes<F>(isa, a: Activation, x: &[f32], dy: &[f32], dx: &mut [f32]) {
        with_function!(a, P => for ((dx, &x), &dy) in dx.iter_mut().zip(x).zip(dy) {
            *dx = P::slope::<F>(x) * dy;
        });
    }
}

/// `y = a(x)`, element by element.
///
/// # Panics
/// When the lengths differ.
pub fn activation(a: Activation, x: &[f32], y: &mut [f32]) {
    assert_eq!(x.len(), y.len(), "an activation keeps the length");
    let isa = Isa::best();
    y.par_chunks_mut(CHUNK).zip(x.par_chunks(CHUNK)).for_each(|(y, x)| values(isa, a, x, y));
}

for_each_isa! {
    fn in_place<F>(isa, a: Activation, x: &mut [f32]) {
        with_function!(a, P => for x in x {
            *x = P::value::<F>(*x);
        });
    }
}

/// `x = a(x)`, element by element, on the calling thread.
pub fn activation_part(a: Activation, x: &mut [f32]) {
    in_place(Isa::best(), a, x);
}

/// `dx = a'(x) * dy`, element by element.
///
/// # Panics
/// When the lengths differ.
pub fn activation_gradient(a: Activation, x: &[f32], dy: &[f32], dx: &mut [f32]) {
    assert_eq!(x.len(), dx.len(), "the gradient has the length of the input");
    assert_eq!(x.len(), dy.len(), "an activation keeps the length");
    let isa = Isa::best();
    dx.par_chunks_mut(CHUNK)
        .zip(x.par_chunks(CHUNK).zip(dy.par_chunks(CHUNK)))
        .for_each(|(dx, (x, dy))| slopes(isa, a, x, dy, dx));
}
