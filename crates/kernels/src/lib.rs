//! Fast f32 kernels for training on the CPU: convolutions, matrix products, normalisations and activations, forward
//! and backward, on plain contiguous slices (images as `[batch, channels, height, width]`); and for inference convolutions and whole
//! blocks of them whose weights are laid out once ([`ReadyConv`], [`fused_block`], [`inverted_block`]).
//!
//! Everything runs on the threads of the current rayon pool. Work and sums are divided at places that depend only on
//! the shapes and the number of threads, so a result is the same bit for bit however the threads are scheduled. Functions
//! named `..._part`, and the softmax, run on the calling thread alone, for callers that divide their work themselves. AVX-512
//! and AVX2 are found at run time; elsewhere the compiler vectorises the same loops for the target's baseline.
//!
//! To compare instruction sets, `KIRIE_KERNELS_ISA=avx2` or `=portable` in the environment holds the crate to less than the
//! processor has.

// What runs on an instruction set must be inlined into the one function that is compiled for it.
#![allow(clippy::inline_always)]

mod activation;
mod conv;
mod gemm;
mod isa;
mod micro;
mod norm;
mod ready;
#[cfg(test)]
mod reference;
mod scratch;
mod shapes;
mod softmax;
#[cfg(test)]
mod tests;
mod vector;

pub use activation::{activation, activation_gradient, activation_part};
pub use conv::{conv2d, conv2d_input_gradient, conv2d_weight_gradient};
pub use gemm::{Rows, gemm, gemm_batched, gemm_part};
pub use norm::{
    batch_norm, batch_norm_gradient, layer_norm, layer_norm_2d, layer_norm_2d_gradient, layer_norm_2d_part,
    layer_norm_gradient,
};
pub use ready::{ReadyConv, fused_block, inverted_block};
pub use shapes::{Activation, Conv2d, Gemm, Stats};
pub use softmax::{exp_along, softmax_down};
