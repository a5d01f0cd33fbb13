//! The gradient of the weight: for each tap and input channel, a view of the slab times `dy`. The scalars come from
//! the slab, the vectors run over output channels, so `dy` is turned around in small blocks.

use super::slab::Slab;
use crate::Conv2d;
use crate::isa::Isa;
use crate::micro::{A, B, C, MAX_DOTS, MAX_VECTORS, Output, dots, tile, tile_rows};
use crate::scratch::{part, with_scratch};
use rayon::prelude::*;

/// Pixels of dy turned around at a time.
const PIXELS: usize = 256;

pub(crate) fn weight_gradient_with(isa: Isa, s: &Conv2d, x: &[f32], dy: &[f32], dw: &mut [f32]) {
    s.check(Some(x.len()), Some(dw.len()), None, Some(dy.len()));
    let [oh, ow] = s.output();
    if dw.is_empty() {
        return;
    }
    if dy.is_empty() {
        dw.fill(0.0);
        return;
    }
    let (ci, co) = (s.in_channels / s.groups, s.out_channels / s.groups);
    if ci == 1 && co == 1 {
        return depthwise(isa, s, x, dy, dw);
    }
    let lanes = isa.lanes();
    let threads = rayon::current_num_threads();
    let per_row = ci * s.stride[0].min(s.kernel[0]) * s.stride[1].min(s.kernel[1]) * ow;
    let blocks = super::row_blocks(oh, per_row, s.batch);
    let slab = Slab::new(s.kernel, s.stride, oh.div_ceil(blocks), ow);
    let mut table = Vec::with_capacity(ci * s.kernel[0] * s.kernel[1]);
    for c in 0..ci {
        for ky in 0..s.kernel[0] {
            table.extend((0..s.kernel[1]).map(|kx| c * slab.channel + slab.tap(ky, kx)));
        }
    }
    let padded = co.next_multiple_of(lanes);
    let size = table.len() * padded;
    // The sum is cut at places that depend on the shape and the number of threads only.
    let wanted = if size * s.groups < 1 << 18 { 4 * threads } else { threads };
    let parts = wanted.div_ceil(s.groups).min(s.batch * blocks);
    let mut partial = vec![0f32; s.groups * parts * size];
    partial.par_chunks_mut(size).enumerate().for_each(|(task, sums)| {
        let (group, index) = (task / parts, task % parts);
        let units = part(s.batch * blocks, parts, index, 1);
        for unit in units {
            let (image, block) = (unit / blocks, unit % blocks);
            add_unit(isa, s, &slab, &table, x, dy, image, group, part(oh, blocks, block, 1), padded, sums);
        }
    });
    let depth = table.len();
    dw.par_chunks_mut(depth * 4.min(co)).enumerate().for_each(|(chunk, dw)| {
        for (row, dw) in dw.chunks_exact_mut(depth).enumerate() {
            let channel = chunk * 4.min(co) + row;
            let (group, o) = (channel / co, channel % co);
            for (k, d) in dw.iter_mut().enumerate() {
                *d = (0..parts).map(|p| partial[((group * parts + p) * depth + k) * padded + o]).sum();
            }
        }
    });
}

/// One input and one output channel per group: for each tap, the dot product of `dy` with a view of the slab.
fn depthwise(isa: Isa, s: &Conv2d, x: &[f32], dy: &[f32], dw: &mut [f32]) {
    let [oh, ow] = s.output();
    let size = s.kernel[0] * s.kernel[1];
    let slab = Slab::new(s.kernel, s.stride, oh, ow);
    let taps: Vec<usize> = (0..s.kernel[0])
        .flat_map(|y| (0..s.kernel[1]).map(move |x| (y, x)))
        .map(|(y, x)| slab.tap(y, x))
        .collect();
    let group = size.div_ceil(size.div_ceil(MAX_DOTS));
    // Rows of dy end in zeros up to a whole vector.
    let width = ow.next_multiple_of(isa.lanes());
    let len = slab.len(1) + width;
    dw.par_chunks_mut(size).enumerate().for_each(|(channel, dw)| {
        dw.fill(0.0);
        with_scratch(len + if width == ow { 0 } else { oh * width }, |space| {
            let (data, padded) = space.split_at_mut(len);
            // What lies behind the planes meets those zeros and must be finite.
            data.fill(0.0);
            padded.fill(0.0);
            for image in 0..s.batch {
                let from = &x[(image * s.in_channels + channel) * s.height * s.width..][..s.height * s.width];
                slab.fill(from, s.height, s.width, -(s.padding[0] as isize), -(s.padding[1] as isize), data);
                let mut of = &dy[(image * s.out_channels + channel) * oh * ow..][..oh * ow];
                if width != ow {
                    for (to, from) in padded.chunks_exact_mut(width).zip(of.chunks_exact(ow)) {
                        to[..ow].copy_from_slice(from);
                    }
                    of = &*padded;
                }
                for (taps, sums) in taps.chunks(group).zip(dw.chunks_mut(group)) {
                    dots(isa, of, width, data, slab.columns, taps, sums);
                }
            }
        });
    });
}

/// Adds some rows of one image to `sums`, `[taps, padded output channels]`.
fn add_unit(
    isa: Isa,
    s: &Conv2d,
    slab: &Slab,
    table: &[usize],
    x: &[f32],
    dy: &[f32],
    image: usize,
    group: usize,
    rows: std::ops::Range<usize>,
    padded: usize,
    sums: &mut [f32],
) {
    let [oh, ow] = s.output();
    let (ci, co) = (s.in_channels / s.groups, s.out_channels / s.groups);
    let (lanes, unit) = (isa.lanes(), tile_rows(isa));
    let width = lanes * MAX_VECTORS;
    let plane = s.height * s.width;
    let step = (PIXELS / ow).max(1);
    let output = Output::new(sums);
    with_scratch(slab.len(ci) + step * ow * width, |space| {
        let (data, turned) = space.split_at_mut(slab.len(ci));
        let planes = &x[(image * s.in_channels + group * ci) * plane..][..ci * plane];
        let top = (rows.start * s.stride[0]) as isize - s.padding[0] as isize;
        slab.fill(planes, s.height, s.width, top, -(s.padding[1] as isize), data);
        for o0 in (0..co).step_by(width) {
            let channels = width.min(co - o0);
            let vectors = channels.div_ceil(lanes);
            let pitch = vectors * lanes;
            for y0 in (rows.start..rows.end).step_by(step) {
                let count = step.min(rows.end - y0);
                let turned = &mut turned[..count * ow * pitch];
                let from = &dy[((image * s.out_channels + group * co + o0) * oh + y0) * ow..];
                turn(from, oh * ow, channels, count * ow, pitch, turned);
                let b = B::Strided { data: turned, step: pitch };
                for k0 in (0..table.len()).step_by(unit) {
                    let height = unit.min(table.len() - k0);
                    let a = A {
                        data: &data[(y0 - rows.start) * slab.columns..],
                        rows: std::array::from_fn(|i| table[k0 + i.min(height - 1)]),
                        step: 1,
                        skip: slab.columns - ow,
                    };
                    let c = C { to: output, from: k0 * padded + o0, stride: padded, accumulate: true };
                    // SAFETY: the sums are ours.
                    #[allow(unsafe_code)]
                    unsafe {
                        tile(isa, height, vectors, count, ow, &a, &b, &c);
                    }
                }
            }
        }
    });
}

/// `to[p, c] = from[c, p]`, the missing channels zero.
fn turn(from: &[f32], plane: usize, channels: usize, pixels: usize, pitch: usize, to: &mut [f32]) {
    for p0 in (0..pixels).step_by(16) {
        let count = 16.min(pixels - p0);
        for c in 0..channels {
            let from = &from[c * plane + p0..][..count];
            for (p, &f) in from.iter().enumerate() {
                to[(p0 + p) * pitch + c] = f;
            }
        }
        for row in to[p0 * pitch..(p0 + count) * pitch].chunks_exact_mut(pitch) {
            row[channels..].fill(0.0);
        }
    }
}
