//! Blocks of several convolutions in one pass: what lies between them is made and used up in the cache, and never written out.
#![allow(unsafe_code)]

use super::depthwise::{Depthwise, View};
use super::finish::Finish;
use super::pointwise::Pointwise;
use super::{BLOCK, ReadyConv, Way, rows_of_block, spread_rows};
use crate::Conv2d;
use crate::micro::{A, B, C, MAX_VECTORS, Output, tile, tile_rows};
use crate::scratch::with_scratch;
use rayon::prelude::*;
use std::ops::Range;

/// Floats that a strip of an inverted block may take: most of a second-level cache.
const BUDGET: usize = 320 * 1024;
/// Fewest rows of a strip, as long as there are more: the rows around it are made twice.
const FEWEST_ROWS: usize = 4;

/// A convolution and then a pointwise one, as in EfficientViT's fused MBConv or, if the first is pointwise too, a transformer's MLP:
/// `x` `[channels, height, width]` into `y`, plus `add` of its size.
///
/// # Panics
/// When a length does not fit, the second is not pointwise, or either has groups (or the first is depthwise).
pub fn fused_block(
    first: &ReadyConv,
    last: &ReadyConv,
    size: [usize; 2],
    x: &[f32],
    add: Option<&[f32]>,
    y: &mut [f32],
) {
    let project = last.pointwise();
    let shape = first.check(size, x.len());
    let [rows, columns] = shape.output();
    last.check([rows, columns], first.channels()[1] * rows * columns);
    last.check_room([rows, columns], add, y);
    if y.is_empty() {
        return;
    }
    let then = Some((project, &last.finish(add)));
    let finish = first.finish(None);
    match &first.way {
        Way::Winograd(way) => way.forward(&shape, x, &finish, then, y),
        Way::Spatial(way) if shape.groups == 1 => way.forward(&shape, x, &finish, then, y),
        Way::Pointwise(way) if shape.groups == 1 => {
            let block = Inverted {
                expand: way,
                depthwise: None,
                project,
                finish: [finish, last.finish(add)],
                shape: &shape,
                middle: &shape,
                x,
            };
            block.run(rows, y);
        }
        _ => panic!("a fused block begins with a convolution without groups, got {shape:?}"),
    }
}

/// A pointwise convolution, a depthwise one and a pointwise one, as in MBConv: `x` `[channels, height, width]` into `y`, plus `add` of
/// its size.
///
/// # Panics
/// When a length does not fit, or one of them is not what it should be.
pub fn inverted_block(
    expand: &ReadyConv,
    depthwise: &ReadyConv,
    last: &ReadyConv,
    size: [usize; 2],
    x: &[f32],
    add: Option<&[f32]>,
    y: &mut [f32],
) {
    let shape = expand.check(size, x.len());
    let middle = depthwise.check(size, expand.channels()[1] * size[0] * size[1]);
    let [oh, ow] = middle.output();
    last.check([oh, ow], depthwise.channels()[1] * oh * ow);
    last.check_room([oh, ow], add, y);
    if y.is_empty() {
        return;
    }
    let Way::Depthwise(way) = &depthwise.way else {
        panic!("the middle of an inverted block is depthwise, got {middle:?}");
    };
    let block = Inverted {
        expand: expand.pointwise(),
        depthwise: Some((way, depthwise.finish(None))),
        project: last.pointwise(),
        finish: [expand.finish(None), last.finish(add)],
        shape: &shape,
        middle: &middle,
        x,
    };
    block.run(oh, y);
}

impl ReadyConv {
    fn pointwise(&self) -> &Pointwise {
        match &self.way {
            Way::Pointwise(way) if self.shape.groups == 1 => way,
            _ => panic!("expected a pointwise convolution without groups, got {:?}", self.shape),
        }
    }
}

/// A pointwise convolution, perhaps a depthwise one, and a pointwise one.
struct Inverted<'a> {
    expand: &'a Pointwise,
    depthwise: Option<(&'a Depthwise, Finish<'a>)>,
    project: &'a Pointwise,
    /// Of the first and of the last.
    finish: [Finish<'a>; 2],
    /// Of the first and of the middle one, or of the first again.
    shape: &'a Conv2d,
    middle: &'a Conv2d,
    x: &'a [f32],
}

impl Inverted<'_> {
    fn run(&self, rows: usize, y: &mut [f32]) {
        let each = self.rows_of_a_strip(rows);
        let to = Output::new(y);
        (0..rows.div_ceil(each)).into_par_iter().for_each(|strip| {
            // SAFETY: the tasks write disjoint rows of y, which is borrowed until all are done.
            unsafe { self.strip(strip * each..rows.min((strip + 1) * each), to) };
        });
    }

    /// Rows of the picture that rows `to` of the result come from.
    fn reach(&self, to: &Range<usize>) -> Range<usize> {
        let s = self.middle;
        let begin = (to.start * s.stride[0]).saturating_sub(s.padding[0]);
        let end = ((to.end - 1) * s.stride[0] + s.kernel[0]).saturating_sub(s.padding[0]);
        begin.min(s.height)..end.min(s.height)
    }

    /// Rows between rows of the middle of a strip, before and after the depthwise convolution.
    fn strides(&self, from: &Range<usize>, to: &Range<usize>) -> [usize; 2] {
        let [_, columns] = self.middle.output();
        [spread_rows(from.len() * self.middle.width), spread_rows(to.len() * columns)]
    }

    fn floats(&self, from: &Range<usize>, to: &Range<usize>) -> [usize; 4] {
        let [wide, narrow] = self.strides(from, to);
        let panel = self.expand.isa.lanes() * MAX_VECTORS;
        let picture = (from.len() * self.middle.width).next_multiple_of(panel) * self.expand.depth;
        let gathered = if self.depthwise.is_some() { BLOCK * narrow } else { 0 };
        [picture, BLOCK * wide, gathered, self.project.rows * narrow]
    }

    /// As many rows as fit the budget; fewer, where not every thread would have work.
    fn rows_of_a_strip(&self, all: usize) -> usize {
        let fits = |rows: usize| {
            let to = 0..rows;
            self.floats(&self.reach(&to), &to).iter().sum::<usize>() <= BUDGET
        };
        let most = (1..=all).take_while(|&rows| fits(rows)).last().unwrap_or(1).max(FEWEST_ROWS);
        let strips = all.div_ceil(most).next_multiple_of(rayon::current_num_threads());
        all.div_ceil(strips).clamp(FEWEST_ROWS.min(all), most)
    }

    /// # Safety
    /// Nobody else touches these rows of the result meanwhile.
    unsafe fn strip(&self, to: Range<usize>, y: Output) {
        let isa = self.expand.isa;
        let (unit, lanes) = (tile_rows(isa), isa.lanes());
        let from = self.reach(&to);
        let [oh, ow] = self.middle.output();
        let [wide, narrow] = self.strides(&from, &to);
        let [picture, expanded, gathered, sums] = self.floats(&from, &to);
        let (width, hidden) = (self.middle.width, self.project.depth);
        let (pixels, results) = (from.len() * width, to.len() * ow);
        let view = View::new(self.middle, to.clone(), from.clone());
        let panel = lanes * MAX_VECTORS;
        with_scratch(picture + expanded + gathered + sums, |space| {
            let (packed, space) = space.split_at_mut(picture);
            let (wide_rows, space) = space.split_at_mut(expanded);
            let (narrow_rows, sums) = space.split_at_mut(gathered);
            let x = &self.x[from.start * width..];
            self.expand.pack(x, self.shape.height * width, pixels, 0..self.expand.depth, packed);
            for first in (0..hidden).step_by(BLOCK) {
                let block = first..hidden.min(first + BLOCK);
                let out = Output::new(wide_rows);
                for (n, b) in packed.chunks_exact(panel * self.expand.depth).enumerate() {
                    let vectors = (pixels - n * panel).min(panel).div_ceil(lanes);
                    let b = B::Strided { data: b, step: panel };
                    for i0 in block.clone().step_by(unit) {
                        let data = &self.expand.weight[i0 * self.expand.depth..];
                        let a = A { data, rows: rows_of_block(), step: unit, skip: 0 };
                        let from = (i0 - first) * wide + n * panel;
                        let c = C { to: out, from, stride: wide, accumulate: false };
                        // SAFETY: the rows are ours.
                        unsafe { tile(isa, unit, vectors, 1, self.expand.depth, &a, &b, &c) };
                    }
                }
                for (channel, row) in block.clone().zip(wide_rows.chunks_exact_mut(wide)) {
                    self.finish[0].here(isa, channel, &mut row[..pixels]);
                }
                let Some((depthwise, finish)) = &self.depthwise else {
                    self.project.add_block(block, wide_rows, wide, pixels.div_ceil(lanes), sums);
                    continue;
                };
                let rows = wide_rows.chunks_exact(wide).zip(narrow_rows.chunks_exact_mut(narrow));
                for (channel, (from, into)) in block.clone().zip(rows) {
                    depthwise.rows(&view, channel, &from[..pixels], |row, sums| {
                        into[row * ow..][..ow].copy_from_slice(sums);
                    });
                    finish.here(isa, channel, &mut into[..results]);
                }
                self.project.add_block(block, narrow_rows, narrow, results.div_ceil(lanes), sums);
            }
            let last = &self.finish[1];
            for (channel, row) in sums.chunks_exact(narrow).take(last.bias.len()).enumerate() {
                // SAFETY: the caller's promise.
                unsafe { last.copy(isa, channel, &row[..results], y, (channel * oh + to.start) * ow) };
            }
        });
    }
}
