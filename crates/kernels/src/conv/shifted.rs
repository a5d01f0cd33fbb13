//! A matrix of weights times shifted views of one slab.
#![allow(unsafe_code)]

use crate::isa::Isa;
use crate::micro::{A, B, C, MAX_VECTORS, Output, tile, tile_rows};
use crate::scratch::{part, with_scratch};

/// Longest sum in one pass: its rows of the weights and its views of the slab stay in the first-level cache.
const K_BLOCK: usize = 320;

/// Floats of the slab that a group of neighbouring tiles reads, and the fewest tiles in a group (both measured).
const GROUP: usize = 24 * 1024;
const GROUP_TILES: usize = 5;

/// `out[i, y, x] = sum over k of weight[i, k] * data[table[k] + start + y * pitch + x]`.
pub(super) struct Shifted<'a> {
    pub(super) isa: Isa,
    /// `[outputs, table.len()]`
    pub(super) weight: &'a [f32],
    pub(super) table: &'a [usize],
    pub(super) data: &'a [f32],
    pub(super) start: usize,
    /// Floats between rows of the slab.
    pub(super) pitch: usize,
    pub(super) rows: usize,
    pub(super) columns: usize,
}

impl Shifted<'_> {
    fn outputs(&self) -> usize {
        self.weight.len() / self.table.len()
    }

    /// Writes rows of `columns` floats without gaps, channel `i` at `from + i * channel` of `to`.
    ///
    /// # Safety
    /// Nobody else touches these rows meanwhile.
    pub(super) unsafe fn write_rows(&self, bias: Option<&[f32]>, to: Output, from: usize, channel: usize) {
        let count = self.rows * self.columns;
        if self.columns.is_multiple_of(self.isa.lanes()) {
            if let Some(bias) = bias {
                for (i, &b) in bias.iter().enumerate() {
                    // SAFETY: these rows are the caller's.
                    unsafe { to.part(from + i * channel, count).fill(b) };
                }
            }
            // SAFETY: as above.
            unsafe { self.multiply(self.columns, to, from, channel, bias.is_some()) };
        } else {
            self.visit(|i, y, row| {
                // SAFETY: as above.
                let to = unsafe { to.part(from + i * channel + y * self.columns, self.columns) };
                match bias {
                    None => to.copy_from_slice(row),
                    Some(bias) => to.iter_mut().zip(row).for_each(|(t, r)| *t = r + bias[i]),
                }
            });
        }
    }

    /// Calls `f(channel, row, its values)` for each row of the result.
    pub(super) fn visit(&self, mut f: impl FnMut(usize, usize, &[f32])) {
        let lanes = self.isa.lanes();
        // Rows that are no whole number of vectors: compute the gaps between rows of the slab too, and drop them.
        let width = if self.columns.is_multiple_of(lanes) { self.columns } else { self.pitch };
        let channel = (self.rows * width).next_multiple_of(lanes);
        with_scratch(self.outputs() * channel, |space| {
            // SAFETY: the space is ours.
            unsafe { self.multiply(width, Output::new(space), 0, channel, false) };
            for (i, plane) in space.chunks_exact(channel).enumerate() {
                for y in 0..self.rows {
                    f(i, y, &plane[y * width..][..self.columns]);
                }
            }
        });
    }

    /// # Safety
    /// Nobody else touches the rows (of `width` floats, rounded up to whole vectors at the end) meanwhile.
    unsafe fn multiply(&self, width: usize, to: Output, from: usize, channel: usize, accumulate: bool) {
        let (lanes, unit, depth) = (self.isa.lanes(), tile_rows(self.isa), self.table.len());
        let vectors = (self.rows * width).div_ceil(lanes);
        let reach = self.table.iter().copied().max().unwrap_or(0);
        let blocks = depth.div_ceil(K_BLOCK);
        for block in 0..blocks {
            let k = part(depth, blocks, block, 1);
            // Several tiles side by side for the same outputs, so that results are written in longer stretches: planes
            // of results often lie a power of two apart, and short stretches of many planes evict each other.
            let group = (GROUP / (k.len() * lanes * MAX_VECTORS)).max(GROUP_TILES) * MAX_VECTORS;
            for (begin, i0) in (0..vectors)
                .step_by(group)
                .flat_map(|begin| (0..self.outputs()).step_by(unit).map(move |i0| (begin, i0)))
            {
                let a = A {
                    data: &self.weight[i0 * depth + k.start..],
                    rows: std::array::from_fn(|i| i * depth),
                    step: 1,
                    skip: 0,
                };
                for first in (begin..vectors.min(begin + group)).step_by(MAX_VECTORS) {
                    let count = MAX_VECTORS.min(vectors - first);
                    let starts = std::array::from_fn(|v| {
                        let n = (first + v.min(count - 1)) * lanes;
                        self.start + n / width * self.pitch + n % width
                    });
                    let b = B::Shifted { data: self.data, table: &self.table[k.clone()], reach, starts };
                    let c = C {
                        to,
                        from: from + i0 * channel + first * lanes,
                        stride: channel,
                        accumulate: accumulate || block > 0,
                    };
                    // SAFETY: these rows are the caller's; the reach is the largest entry of the table.
                    unsafe { tile(self.isa, unit.min(self.outputs() - i0), count, 1, k.len(), &a, &b, &c) };
                }
            }
        }
    }
}
