//! What follows a convolution, done to stretches of its results while they are in the cache.
#![allow(unsafe_code)]

use crate::Activation;
use crate::activation::{Function, with_function};
use crate::isa::{Isa, for_each_isa};
use crate::micro::Output;

/// Bias, activation, residual.
pub(super) struct Finish<'a> {
    /// One for each channel.
    pub(super) bias: &'a [f32],
    pub(super) activation: Activation,
    /// As large as the result.
    pub(super) add: Option<&'a [f32]>,
}

impl Finish<'_> {
    /// Finishes `sums` of a channel where they are, but for the residual.
    pub(super) fn here(&self, isa: Isa, channel: usize, sums: &mut [f32]) {
        finish(isa, self.activation, self.bias[channel], None, sums);
    }

    /// Finishes `sums` of a channel into the place `at` of the result.
    ///
    /// # Safety
    /// Nobody else touches this part of the result meanwhile.
    pub(super) unsafe fn copy(&self, isa: Isa, channel: usize, sums: &[f32], to: Output, at: usize) {
        // SAFETY: the caller's promise.
        let y = unsafe { to.part(at, sums.len()) };
        y.copy_from_slice(sums);
        let add = self.add.map(|add| &add[at..][..sums.len()]);
        finish(isa, self.activation, self.bias[channel], add, y);
    }
}

for_each_isa! {
    fn finish<F>(isa, activation: Activation, bias: f32, add: Option<&[f32]>, y: &mut [f32]) {
        with_function!(activation, P => match add {
            None => for y in y {
                *y = P::value::<F>(*y + bias);
            },
            Some(add) => for (y, &add) in y.iter_mut().zip(add) {
                *y = P::value::<F>(*y + bias) + add;
            },
        });
    }
}
