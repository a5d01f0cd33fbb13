//! Convolutions of any kernel and stride: weights times shifted views of a zero-padded slab, as in training's.
#![allow(unsafe_code)]

use super::finish::Finish;
use super::pointwise::Pointwise;
use super::{BLOCK, blocks_of_rows, rows_of_block, spread_rows};
use crate::Conv2d;
use crate::conv::row_blocks;
use crate::conv::slab::Slab;
use crate::isa::Isa;
use crate::micro::{A, B, C, MAX_VECTORS, Output, tile, tile_rows};
use crate::scratch::{part, with_scratch};
use rayon::prelude::*;

/// Vectors of results that are computed side by side for a tile's channels.
const GROUP: usize = 8 * MAX_VECTORS;

#[derive(Debug)]
pub(super) struct Spatial {
    isa: Isa,
    /// For each group, blocks of rows.
    weight: Vec<f32>,
}

impl Spatial {
    pub(super) fn new(isa: Isa, shape: &Conv2d, weight: &[f32]) -> Self {
        let depth = shape.in_channels / shape.groups * shape.kernel[0] * shape.kernel[1];
        let group = shape.out_channels / shape.groups * depth;
        let weight = weight.chunks_exact(group).flat_map(|group| blocks_of_rows(isa, group, depth)).collect();
        Self { isa, weight }
    }

    /// The convolution, finished; or, with what comes `then`, the pointwise convolution of that, finished in its turn.
    pub(super) fn forward(
        &self,
        s: &Conv2d,
        x: &[f32],
        finish: &Finish,
        then: Option<(&Pointwise, &Finish)>,
        y: &mut [f32],
    ) {
        let (isa, unit) = (self.isa, tile_rows(self.isa));
        let [oh, ow] = s.output();
        let (ci, co) = (s.in_channels / s.groups, s.out_channels / s.groups);
        let per_row = ci * s.stride[0].min(s.kernel[0]) * s.stride[1].min(s.kernel[1]) * ow;
        let blocks = row_blocks(oh, per_row, s.groups);
        let slab = Slab::new(s.kernel, s.stride, oh.div_ceil(blocks), ow);
        let mut table = Vec::with_capacity(ci * s.kernel[0] * s.kernel[1]);
        for c in 0..ci {
            for ky in 0..s.kernel[0] {
                table.extend((0..s.kernel[1]).map(|kx| c * slab.channel + slab.tap(ky, kx)));
            }
        }
        let (plane, group_weights) = (s.height * s.width, co.next_multiple_of(unit) * table.len());
        let to = Output::new(y);
        (0..s.groups * blocks).into_par_iter().for_each(|task| {
            let (group, block) = (task / blocks, task % blocks);
            let rows = part(oh, blocks, block, 1);
            with_scratch(slab.len(ci), |data| {
                let top = (rows.start * s.stride[0]) as isize - s.padding[0] as isize;
                let planes = &x[group * ci * plane..][..ci * plane];
                slab.fill(planes, s.height, s.width, top, -(s.padding[1] as isize), data);
                let strip = Strip {
                    isa,
                    weight: &self.weight[group * group_weights..][..group_weights],
                    table: &table,
                    data,
                    pitch: slab.columns,
                    rows: rows.len(),
                    columns: ow,
                    plane: oh * ow,
                };
                // SAFETY: the tasks write disjoint rows of disjoint channels of y, borrowed until all are done.
                unsafe { strip.write(finish, group * co..(group + 1) * co, then, to, rows.start * ow) };
            });
        });
    }
}

/// Some rows of the result, for all channels of a group.
struct Strip<'a> {
    isa: Isa,
    weight: &'a [f32],
    table: &'a [usize],
    data: &'a [f32],
    /// Floats between rows of the slab.
    pitch: usize,
    rows: usize,
    columns: usize,
    /// Distance between channels of the result.
    plane: usize,
}

impl Strip<'_> {
    /// # Safety
    /// Nobody else touches these rows, the first of them `at` floats into each channel.
    unsafe fn write(
        &self,
        finish: &Finish,
        channels: std::ops::Range<usize>,
        then: Option<(&Pointwise, &Finish)>,
        to: Output,
        at: usize,
    ) {
        let (isa, unit, lanes) = (self.isa, tile_rows(self.isa), self.isa.lanes());
        // Rows that are no whole number of vectors: the gaps between rows of the slab are computed too, and dropped.
        let width = if self.columns.is_multiple_of(lanes) { self.columns } else { self.pitch };
        let vectors = (self.rows * width).div_ceil(lanes);
        let stride = spread_rows(GROUP * lanes);
        let kept = BLOCK.min(channels.len()).next_multiple_of(unit);
        let rows = then.map_or(0, |(project, _)| project.rows);
        with_scratch((kept + rows) * stride, |space| {
            let (results, sums) = space.split_at_mut(kept * stride);
            for begin in (0..vectors).step_by(GROUP) {
                let group = begin..vectors.min(begin + GROUP);
                let len = group.len() * lanes;
                for first in (0..channels.len()).step_by(BLOCK) {
                    let block = first..channels.len().min(first + BLOCK);
                    self.multiply(block.clone(), group.clone(), width, stride, results);
                    for (row, i) in results.chunks_exact_mut(stride).zip(block.clone()) {
                        let channel = channels.start + i;
                        if then.is_some() {
                            finish.here(isa, channel, &mut row[..len]);
                            continue;
                        }
                        self.lines(width, begin * lanes, &row[..len], |from, values| {
                            // SAFETY: these rows are the caller's.
                            unsafe {
                                finish.copy(isa, channel, values, to, channel * self.plane + at + from);
                            };
                        });
                    }
                    if let Some((project, _)) = then {
                        project.add_block(block, results, stride, group.len(), sums);
                    }
                }
                let Some((_, last)) = then else { continue };
                for (channel, row) in sums.chunks_exact(stride).take(last.bias.len()).enumerate() {
                    self.lines(width, begin * lanes, &row[..len], |from, values| {
                        // SAFETY: as above.
                        unsafe { last.copy(isa, channel, values, to, channel * self.plane + at + from) };
                    });
                }
            }
        });
    }

    /// The sums of a block of channels for a group of vectors, into `results` `[block, stride]`.
    fn multiply(
        &self,
        block: std::ops::Range<usize>,
        group: std::ops::Range<usize>,
        width: usize,
        stride: usize,
        results: &mut [f32],
    ) {
        let (unit, lanes, depth) = (tile_rows(self.isa), self.isa.lanes(), self.table.len());
        let reach = self.table.iter().copied().max().unwrap_or(0);
        let results = Output::new(results);
        for first in group.clone().step_by(MAX_VECTORS) {
            let count = MAX_VECTORS.min(group.end - first);
            let starts = std::array::from_fn(|v| {
                let n = (first + v.min(count - 1)) * lanes;
                n / width * self.pitch + n % width
            });
            let b = B::Shifted { data: self.data, table: self.table, reach, starts };
            for i0 in block.clone().step_by(unit) {
                let data = &self.weight[i0 * depth..][..unit * depth];
                let a = A { data, rows: rows_of_block(), step: unit, skip: 0 };
                let from = (i0 - block.start) * stride + (first - group.start) * lanes;
                let c = C { to: results, from, stride, accumulate: false };
                // SAFETY: the results are borrowed by this call alone; the reach is the largest entry of the table.
                unsafe { tile(self.isa, unit, count, 1, depth, &a, &b, &c) };
            }
        }
    }

    /// Calls `f(place in the channel's rows, values)` for the stretches of `sums`, which begin at place `start` of rows `width` wide,
    /// without the gaps.
    fn lines(&self, width: usize, start: usize, sums: &[f32], mut f: impl FnMut(usize, &[f32])) {
        let end = (start + sums.len()).min(self.rows * width);
        if width == self.columns {
            return f(start, &sums[..end - start]);
        }
        let mut n = start;
        while n < end {
            let (y, x) = (n / width, n % width);
            let next = ((y + 1) * width).min(end);
            if x < self.columns {
                let len = (self.columns - x).min(next - n);
                f(y * self.columns + x, &sums[n - start..][..len]);
            }
            n = next;
        }
    }
}
