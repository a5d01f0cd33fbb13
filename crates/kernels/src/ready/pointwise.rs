//! Convolutions with a kernel of one pixel: matrix products of the weights and the picture.
#![allow(unsafe_code)]

use super::finish::Finish;
use super::{blocks_of_rows, rows_of_block};
use crate::Conv2d;
use crate::isa::Isa;
use crate::micro::{A, B, C, MAX_VECTORS, Output, tile, tile_rows};
use crate::scratch::{part, with_scratch};
use rayon::prelude::*;
use std::ops::Range;

/// Longest sum in one pass.
const K_BLOCK: usize = 320;
/// Pixels of a task, about: with [`K_BLOCK`] channels of them a task stays in the second-level cache.
const PIXELS: usize = 384;
/// Tasks for each thread where there is work enough.
const TASKS: usize = 4;

#[derive(Debug)]
pub(super) struct Pointwise {
    pub(super) isa: Isa,
    /// For each group, blocks of rows.
    pub(super) weight: Vec<f32>,
    /// Channels that go into a group.
    pub(super) depth: usize,
    /// Channels that come out of a group, rounded up to whole blocks of rows.
    pub(super) rows: usize,
}

impl Pointwise {
    pub(super) fn new(isa: Isa, shape: &Conv2d, weight: &[f32]) -> Self {
        let depth = shape.in_channels / shape.groups;
        let co = shape.out_channels / shape.groups;
        let weight =
            weight.chunks_exact(co * depth).flat_map(|group| blocks_of_rows(isa, group, depth)).collect();
        Self { isa, weight, depth, rows: co.next_multiple_of(tile_rows(isa)) }
    }

    pub(super) fn forward(&self, s: &Conv2d, x: &[f32], finish: &Finish, y: &mut [f32]) {
        let (unit, depth) = (tile_rows(self.isa), self.depth);
        let width = self.isa.lanes() * MAX_VECTORS;
        let (pixels, co) = (s.height * s.width, s.out_channels / s.groups);
        let across = pixels.div_ceil(PIXELS);
        // Small pictures: the outputs are divided, so that no weight is read twice.
        let enough = (TASKS * rayon::current_num_threads()).div_ceil(across * s.groups);
        let down = enough.clamp(1, co.div_ceil(2 * unit));
        let to = Output::new(y);
        (0..s.groups * down * across).into_par_iter().for_each(|task| {
            let (group, row, column) = (task / (down * across), task / across % down, task % across);
            let (rows, columns) = (part(co, down, row, unit), part(pixels, across, column, width));
            if rows.is_empty() || columns.is_empty() {
                return;
            }
            let product = Product {
                weights: self,
                weight: &self.weight[(group * self.rows + rows.start) * depth..],
                rows: rows.len(),
                x: &x[group * depth * pixels + columns.start..],
                pixels,
                columns: columns.len(),
            };
            let channel = group * co + rows.start;
            // SAFETY: the tasks write disjoint stretches of y, which is borrowed until all are done.
            unsafe { product.write(finish, channel, to, channel * pixels + columns.start) };
        });
    }

    /// Channels `k` of `columns` pixels of a picture whose channels lie `pixels` apart, as panels one tile wide, `[panel, k, width]`;
    /// the last is filled up with zeros.
    pub(super) fn pack(&self, x: &[f32], pixels: usize, columns: usize, k: Range<usize>, packed: &mut [f32]) {
        let (depth, width) = (k.len(), self.isa.lanes() * MAX_VECTORS);
        for (i, channel) in k.enumerate() {
            let from = &x[channel * pixels..][..columns];
            for (panel, from) in from.chunks(width).enumerate() {
                let to = &mut packed[(panel * depth + i) * width..][..width];
                to[..from.len()].copy_from_slice(from);
                to[from.len()..].fill(0.0);
            }
        }
    }

    /// As the last step of a block, whose middle is made in blocks of channels: adds what channels `k` of the middle contribute.
    /// `block` is `[k, stride]`, `sums` `[rows, stride]`, of which `vectors` count; the sums begin with the first channels.
    pub(super) fn add_block(
        &self,
        k: Range<usize>,
        block: &[f32],
        stride: usize,
        vectors: usize,
        sums: &mut [f32],
    ) {
        let (unit, lanes) = (tile_rows(self.isa), self.isa.lanes());
        let sums = Output::new(sums);
        for first in (0..vectors).step_by(MAX_VECTORS) {
            let count = MAX_VECTORS.min(vectors - first);
            let b = B::Strided { data: &block[first * lanes..], step: stride };
            for i0 in (0..self.rows).step_by(unit) {
                let data = &self.weight[i0 * self.depth + k.start * unit..];
                let a = A { data, rows: rows_of_block(), step: unit, skip: 0 };
                let from = i0 * stride + first * lanes;
                let c = C { to: sums, from, stride, accumulate: k.start > 0 };
                // SAFETY: the sums are borrowed by this call alone.
                unsafe { tile(self.isa, unit, count, 1, k.len(), &a, &b, &c) };
            }
        }
    }
}

/// Some rows of the weights times some pixels.
struct Product<'a> {
    weights: &'a Pointwise,
    /// From the first of the rows on.
    weight: &'a [f32],
    rows: usize,
    /// From the first of the pixels in the first channel on.
    x: &'a [f32],
    /// Distance between channels.
    pixels: usize,
    columns: usize,
}

impl Product<'_> {
    /// # Safety
    /// Nobody else touches this task's stretches of the result, whose first is at `at`.
    unsafe fn write(&self, finish: &Finish, channel: usize, to: Output, at: usize) {
        let (isa, depth) = (self.weights.isa, self.weights.depth);
        let (unit, lanes) = (tile_rows(isa), isa.lanes());
        let width = lanes * MAX_VECTORS;
        let panels = self.columns.div_ceil(width);
        let blocks = depth.div_ceil(K_BLOCK);
        let deepest = depth.div_ceil(blocks);
        let across = panels * width;
        // Sums of several blocks are kept together: planes of results often lie a power of two apart and would evict each other.
        let kept = if blocks > 1 { self.rows.next_multiple_of(unit) } else { unit };
        with_scratch(across * (deepest + kept), |space| {
            let (packed, sums) = space.split_at_mut(across * deepest);
            let sums = Output::new(sums);
            for block in 0..blocks {
                let k = part(depth, blocks, block, 1);
                self.weights.pack(self.x, self.pixels, self.columns, k.clone(), packed);
                for i0 in (0..self.rows).step_by(unit) {
                    let data = &self.weight[i0 * depth + k.start * unit..];
                    let a = A { data, rows: rows_of_block(), step: unit, skip: 0 };
                    let from = if blocks > 1 { i0 * across } else { 0 };
                    for (panel, b) in packed.chunks_exact(width * k.len()).take(panels).enumerate() {
                        let vectors = (self.columns - panel * width).min(width).div_ceil(lanes);
                        let b = B::Strided { data: b, step: width };
                        let accumulate = block > 0;
                        let c = C { to: sums, from: from + panel * width, stride: across, accumulate };
                        // SAFETY: the sums are ours.
                        unsafe { tile(isa, unit, vectors, 1, k.len(), &a, &b, &c) };
                    }
                    if block + 1 < blocks {
                        continue;
                    }
                    for i in 0..unit.min(self.rows - i0) {
                        // SAFETY: the sums are ours, the stretch of the result the caller's.
                        unsafe {
                            let sums = sums.part(from + i * across, self.columns);
                            finish.copy(isa, channel + i0 + i, sums, to, at + (i0 + i) * self.pixels);
                        }
                    }
                }
            }
        });
    }
}
