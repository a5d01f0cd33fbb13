//! Convolutions: forward, and the gradients of the input and of the weight.

mod input_gradient;
mod shifted;
pub(crate) mod slab;
mod weight_gradient;

use crate::Conv2d;
use crate::isa::Isa;
use crate::micro::Output;
use crate::scratch::{part, with_scratch};
use rayon::prelude::*;
use shifted::Shifted;
use slab::{BUDGET, Slab};

pub(crate) use input_gradient::input_gradient_with;
pub(crate) use weight_gradient::weight_gradient_with;

/// The convolution of `x` `[batch, in_channels, height, width]` with `weight`
/// `[out_channels, in_channels / groups, kernel, kernel]`, plus `bias` `[out_channels]`, into `y`
/// `[batch, out_channels, rows, columns]` (see [`Conv2d::output`]).
///
/// # Panics
/// When a length does not fit the shape.
pub fn conv2d(s: &Conv2d, x: &[f32], weight: &[f32], bias: Option<&[f32]>, y: &mut [f32]) {
    conv2d_with(Isa::best(), s, x, weight, bias, y);
}

/// The gradient of the input, `dx` `[batch, in_channels, height, width]` (overwritten), from the gradient of the output,
/// `dy` `[batch, out_channels, rows, columns]`.
///
/// # Panics
/// When a length does not fit the shape.
pub fn conv2d_input_gradient(s: &Conv2d, weight: &[f32], dy: &[f32], dx: &mut [f32]) {
    input_gradient_with(Isa::best(), s, weight, dy, dx);
}

/// The gradient of the weight, `dw` `[out_channels, in_channels / groups, kernel, kernel]` (overwritten), from `x` and
/// the gradient of the output, `dy` `[batch, out_channels, rows, columns]`.
///
/// # Panics
/// When a length does not fit the shape.
pub fn conv2d_weight_gradient(s: &Conv2d, x: &[f32], dy: &[f32], dw: &mut [f32]) {
    weight_gradient_with(Isa::best(), s, x, dy, dw);
}

/// Into how many blocks of rows to cut an image of `rows` so that a block's slab of `channels * columns` floats per
/// row fits the budget and `units` such images keep all threads busy.
pub(crate) fn row_blocks(rows: usize, floats_per_row: usize, units: usize) -> usize {
    let fit = (rows * floats_per_row).div_ceil(BUDGET);
    let busy = (2 * rayon::current_num_threads()).div_ceil(units.max(1));
    fit.max(busy).clamp(1, rows.div_ceil(2).max(1))
}

pub(crate) fn conv2d_with(
    isa: Isa,
    s: &Conv2d,
    x: &[f32],
    weight: &[f32],
    bias: Option<&[f32]>,
    y: &mut [f32],
) {
    s.check(Some(x.len()), Some(weight.len()), bias.map(<[f32]>::len), Some(y.len()));
    let [oh, ow] = s.output();
    if y.is_empty() {
        return;
    }
    let (ci, co) = (s.in_channels / s.groups, s.out_channels / s.groups);
    let per_row = ci * s.stride[0].min(s.kernel[0]) * s.stride[1].min(s.kernel[1]) * ow;
    let blocks = row_blocks(oh, per_row, s.batch * s.groups);
    let slab = Slab::new(s.kernel, s.stride, oh.div_ceil(blocks), ow);
    let mut table = Vec::with_capacity(ci * s.kernel[0] * s.kernel[1]);
    for c in 0..ci {
        for ky in 0..s.kernel[0] {
            table.extend((0..s.kernel[1]).map(|kx| c * slab.channel + slab.tap(ky, kx)));
        }
    }
    let (plane, depth) = (s.height * s.width, table.len());
    let output = Output::new(y);
    (0..s.batch * s.groups * blocks).into_par_iter().for_each(|task| {
        let (image, group, block) = (task / (s.groups * blocks), task / blocks % s.groups, task % blocks);
        let rows = part(oh, blocks, block, 1);
        with_scratch(slab.len(ci), |data| {
            let planes = &x[(image * s.in_channels + group * ci) * plane..][..ci * plane];
            let top = (rows.start * s.stride[0]) as isize - s.padding[0] as isize;
            slab.fill(planes, s.height, s.width, top, -(s.padding[1] as isize), data);
            let product = Shifted {
                isa,
                weight: &weight[group * co * depth..][..co * depth],
                table: &table,
                data,
                start: 0,
                pitch: slab.columns,
                rows: rows.len(),
                columns: ow,
            };
            let from = ((image * s.out_channels + group * co) * oh + rows.start) * ow;
            let bias = bias.map(|b| &b[group * co..][..co]);
            // SAFETY: the tasks write disjoint rows of disjoint channels of y, borrowed until all are done.
            #[allow(unsafe_code)]
            unsafe {
                product.write_rows(bias, output, from, oh * ow);
            }
        });
    });
}
