//! The few vector operations the matrix kernel needs, one type per instruction set.
#![allow(unsafe_code)]

/// A register of floats.
///
/// # Safety of use
/// The x86 types may be used only inside code that runs on a processor with their features: the kernel reaches them
/// only through functions marked with those features.
pub(crate) trait Vector: Copy {
    /// Floats in a register.
    const LANES: usize;
    /// Rows of a full tile; with three vectors of columns the accumulators then fill the registers.
    const ROWS: usize;

    unsafe fn splat(x: f32) -> Self;
    /// # Safety
    /// `from` is valid for reading `LANES` floats.
    unsafe fn load(from: *const f32) -> Self;
    /// # Safety
    /// `to` is valid for writing `LANES` floats.
    unsafe fn store(self, to: *mut f32);
    /// `self * b + c`
    unsafe fn fma(self, b: Self, c: Self) -> Self;
    unsafe fn add(self, b: Self) -> Self;
    /// Asks for the cache line of this address, which need not be valid.
    unsafe fn prefetch(of: *const f32);
}

/// Asks for the cache lines of a slice that will be read soon.
#[inline(always)]
pub(crate) fn prefetch(of: &[f32]) {
    #[cfg(target_arch = "x86_64")]
    for line in of.chunks(16) {
        // SAFETY: part of every x86-64 processor, and it never faults.
        unsafe {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            _mm_prefetch::<_MM_HINT_T0>(line.as_ptr().cast());
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = of;
}

/// Four floats in whatever the baseline has.
#[derive(Clone, Copy)]
pub(crate) struct Portable([f32; 4]);

impl Vector for Portable {
    const LANES: usize = 4;
    const ROWS: usize = 4;

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        Self([x; 4])
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller's promise; an array of floats has the alignment of a float.
        Self(unsafe { from.cast::<[f32; 4]>().read() })
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: as for `load`.
        unsafe { to.cast::<[f32; 4]>().write(self.0) }
    }
    #[inline(always)]
    unsafe fn fma(self, b: Self, c: Self) -> Self {
        use crate::isa::{Arithmetic, Baseline};
        Self(std::array::from_fn(|i| Baseline::fma(self.0[i], b.0[i], c.0[i])))
    }
    #[inline(always)]
    unsafe fn add(self, b: Self) -> Self {
        Self(std::array::from_fn(|i| self.0[i] + b.0[i]))
    }
    #[inline(always)]
    unsafe fn prefetch(_: *const f32) {}
}

#[cfg(target_arch = "x86_64")]
pub(crate) mod x86 {
    use super::Vector;
    use std::arch::x86_64::{
        __m256, __m512, _MM_HINT_T0, _mm_prefetch, _mm256_add_ps, _mm256_fmadd_ps, _mm256_loadu_ps,
        _mm256_set1_ps, _mm256_storeu_ps, _mm512_add_ps, _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_set1_ps,
        _mm512_storeu_ps,
    };

    macro_rules! vector {
        ($type:ty, $lanes:literal, $rows:literal, $splat:ident, $load:ident, $store:ident, $fma:ident, $add:ident) => {
            impl Vector for $type {
                const LANES: usize = $lanes;
                const ROWS: usize = $rows;
                #[inline(always)]
                unsafe fn splat(x: f32) -> Self {
                    // SAFETY: the caller runs on a processor with the feature, as the trait demands.
                    unsafe { $splat(x) }
                }
                #[inline(always)]
                unsafe fn load(from: *const f32) -> Self {
                    // SAFETY: as for `splat`; the caller answers for the pointer, which needs no alignment.
                    unsafe { $load(from) }
                }
                #[inline(always)]
                unsafe fn store(self, to: *mut f32) {
                    // SAFETY: as for `load`.
                    unsafe { $store(to, self) }
                }
                #[inline(always)]
                unsafe fn fma(self, b: Self, c: Self) -> Self {
                    // SAFETY: as for `splat`.
                    unsafe { $fma(self, b, c) }
                }
                #[inline(always)]
                unsafe fn add(self, b: Self) -> Self {
                    // SAFETY: as for `splat`.
                    unsafe { $add(self, b) }
                }
                #[inline(always)]
                unsafe fn prefetch(of: *const f32) {
                    // SAFETY: part of every x86-64 processor, and it never faults.
                    unsafe { _mm_prefetch::<_MM_HINT_T0>(of.cast()) }
                }
            }
        };
    }
    vector!(__m512, 16, 8, _mm512_set1_ps, _mm512_loadu_ps, _mm512_storeu_ps, _mm512_fmadd_ps, _mm512_add_ps);
    vector!(__m256, 8, 4, _mm256_set1_ps, _mm256_loadu_ps, _mm256_storeu_ps, _mm256_fmadd_ps, _mm256_add_ps);
}
