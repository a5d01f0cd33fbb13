//! Convolutions of each channel with a kernel of its own: a few multiplications for each float, so what counts is that every float is
//! read once.
#![allow(unsafe_code)]

use super::finish::Finish;
use crate::Conv2d;
use crate::conv::slab::Slab;
use crate::isa::{Isa, Level};
use crate::micro::Output;
use crate::scratch::with_scratch;
use crate::vector::{Portable, Vector};
use rayon::prelude::*;
use std::ops::Range;

/// Vectors that are summed side by side, so that sums need not wait for each other.
const ABREAST: usize = 4;

#[derive(Debug)]
pub(super) struct Depthwise {
    isa: Isa,
    /// `[channels, taps]`
    weight: Vec<f32>,
}

impl Depthwise {
    pub(super) fn new(isa: Isa, weight: &[f32]) -> Self {
        Self { isa, weight: weight.to_vec() }
    }

    pub(super) fn forward(&self, s: &Conv2d, x: &[f32], finish: &Finish, y: &mut [f32]) {
        let [oh, ow] = s.output();
        let plane = s.height * s.width;
        let view = View::new(s, 0..oh, 0..s.height);
        let to = Output::new(y);
        (0..s.in_channels).into_par_iter().for_each(|channel| {
            self.rows(&view, channel, &x[channel * plane..][..plane], |row, sums| {
                // SAFETY: each task writes the channel that is its own.
                unsafe { finish.copy(self.isa, channel, sums, to, (channel * oh + row) * ow) };
            });
        });
    }

    /// Calls `f(row, sums)` for the rows of a view of a channel, of which `x` holds the rows that the view says.
    pub(super) fn rows(&self, view: &View, channel: usize, x: &[f32], mut f: impl FnMut(usize, &[f32])) {
        let (slab, table) = (&view.slab, &view.table);
        // Rows of results lie as the slab's do, gaps between them included, and the gaps are dropped.
        let len = (view.rows * slab.columns).next_multiple_of(self.isa.lanes() * ABREAST);
        // What vectors read past the last place.
        let room = slab.len(1).max(table.iter().max().unwrap_or(&0) + len);
        with_scratch(room + len, |space| {
            let (data, sums) = space.split_at_mut(room);
            slab.fill(x, x.len() / view.width, view.width, view.top, view.left, data);
            correlate(self.isa, &self.weight[channel * table.len()..][..table.len()], table, data, sums);
            for (row, sums) in sums.chunks(slab.columns).take(view.rows).enumerate() {
                f(row, &sums[..view.columns]);
            }
        });
    }
}

/// Some rows of the result, and the rows of the picture that they are made from.
pub(super) struct View {
    slab: Slab,
    table: Vec<usize>,
    rows: usize,
    columns: usize,
    /// Width of the picture.
    width: usize,
    /// Where the slab begins, seen from the first row that is there.
    top: isize,
    left: isize,
}

impl View {
    /// Rows `to` of the result, from rows `from` of the picture; what is not there is zero.
    pub(super) fn new(s: &Conv2d, to: Range<usize>, from: Range<usize>) -> Self {
        let [_, columns] = s.output();
        let slab = Slab::new(s.kernel, s.stride, to.len(), columns);
        let taps = s.kernel[0] * s.kernel[1];
        let table = (0..taps).map(|tap| slab.tap(tap / s.kernel[1], tap % s.kernel[1])).collect();
        let top = (to.start * s.stride[0]) as isize - s.padding[0] as isize - from.start as isize;
        Self { slab, table, rows: to.len(), columns, width: s.width, top, left: -(s.padding[1] as isize) }
    }
}

/// `sums[i] = sum over t of weight[t] * data[table[t] + i]`, for whole steps of vectors.
fn correlate(isa: Isa, weight: &[f32], table: &[usize], data: &[f32], sums: &mut [f32]) {
    let furthest = table.iter().copied().max().unwrap_or(0) + sums.len();
    assert!(
        weight.len() == table.len()
            && furthest <= data.len()
            && sums.len().is_multiple_of(isa.lanes() * ABREAST),
        "a depthwise convolution out of range"
    );
    // SAFETY: the ranges were just checked, and an `Isa` proves its instructions.
    unsafe {
        match isa.level() {
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => avx512(weight, table, data, sums),
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => avx2(weight, table, data, sums),
            _ => run::<Portable>(weight, table, data, sums),
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx2,fma")]
unsafe fn avx512(weight: &[f32], table: &[usize], data: &[f32], sums: &mut [f32]) {
    // SAFETY: the caller's promise, passed on.
    unsafe { run::<std::arch::x86_64::__m512>(weight, table, data, sums) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn avx2(weight: &[f32], table: &[usize], data: &[f32], sums: &mut [f32]) {
    // SAFETY: the caller's promise, passed on.
    unsafe { run::<std::arch::x86_64::__m256>(weight, table, data, sums) }
}

#[inline(always)]
unsafe fn run<V: Vector>(weight: &[f32], table: &[usize], data: &[f32], sums: &mut [f32]) {
    let step = V::LANES * ABREAST;
    for (at, sums) in sums.chunks_exact_mut(step).enumerate() {
        // SAFETY: `correlate` checked that a step's vectors lie within the data for every entry of the table.
        unsafe {
            let from = data.as_ptr().add(at * step);
            let mut totals = [V::splat(0.0); ABREAST];
            for (&tap, &weight) in table.iter().zip(weight) {
                let weight = V::splat(weight);
                for (v, total) in totals.iter_mut().enumerate() {
                    *total = weight.fma(V::load(from.add(tap + v * V::LANES)), *total);
                }
            }
            for (v, total) in totals.into_iter().enumerate() {
                total.store(sums.as_mut_ptr().add(v * V::LANES));
            }
        }
    }
}
