//! The gradient of the input. The positions of the padded input fall into one phase per step of the stride; the
//! gradient of each phase is a convolution of `dy`, at stride 1, with the taps that meet the phase, turned around.

use super::shifted::Shifted;
use super::slab::Slab;
use crate::Conv2d;
use crate::isa::Isa;
use crate::micro::Output;
use crate::scratch::{part, with_scratch};
use rayon::prelude::*;

/// The taps of one phase.
struct Phase {
    offset: [usize; 2],
    /// `[groups, in, out, taps down, taps across]`
    weight: Vec<f32>,
    table: Vec<usize>,
}

pub(crate) fn input_gradient_with(isa: Isa, s: &Conv2d, weight: &[f32], dy: &[f32], dx: &mut [f32]) {
    s.check(Some(dx.len()), Some(weight.len()), None, Some(dy.len()));
    let [oh, ow] = s.output();
    if dx.is_empty() {
        return;
    }
    let (ci, co) = (s.in_channels / s.groups, s.out_channels / s.groups);
    let ([kh, kw], [sh, sw], [ph, pw]) = (s.kernel, s.stride, s.padding);
    // Taps of the fullest phase; rows and columns of dy that meet the input.
    let most = [kh.div_ceil(sh), kw.div_ceil(sw)];
    let left = (pw / sw) as isize - (most[1] as isize - 1);
    let wide = ((s.width + pw).div_ceil(sw)) - pw / sw;
    let blocks = super::row_blocks(s.height, co * wide.div_ceil(sh), s.batch * s.groups);
    let tall = s.height.div_ceil(blocks).div_ceil(sh) + 1;
    let slab = Slab::new(most, [1, 1], tall, wide);
    let mut phases = Vec::new();
    for offset in (0..sh).flat_map(|y| (0..sw).map(move |x| [y, x])) {
        let taps = [kh.saturating_sub(offset[0]).div_ceil(sh), kw.saturating_sub(offset[1]).div_ceil(sw)];
        let mut packed = Vec::with_capacity(s.in_channels * co * taps[0] * taps[1]);
        for (g, c, o) in
            (0..s.groups).flat_map(|g| (0..ci).flat_map(move |c| (0..co).map(move |o| (g, c, o))))
        {
            let from = &weight[((g * co + o) * ci + c) * kh * kw..][..kh * kw];
            for y in 0..taps[0] {
                packed.extend((0..taps[1]).map(|x| from[(offset[0] + y * sh) * kw + offset[1] + x * sw]));
            }
        }
        let mut table = Vec::with_capacity(co * taps[0] * taps[1]);
        for (o, y) in (0..co).flat_map(|o| (0..taps[0]).map(move |y| (o, y))) {
            table.extend((0..taps[1]).map(|x| o * slab.channel + slab.tap(most[0] - 1 - y, most[1] - 1 - x)));
        }
        phases.push(Phase { offset, weight: packed, table });
    }

    let output = Output::new(dx);
    let plane = s.height * s.width;
    (0..s.batch * s.groups * blocks).into_par_iter().for_each(|task| {
        let (image, group, block) = (task / (s.groups * blocks), task / blocks % s.groups, task % blocks);
        let rows = part(s.height, blocks, block, 1);
        let first = (image * s.in_channels + group * ci) * plane;
        with_scratch(slab.len(co), |data| {
            let planes = &dy[(image * s.out_channels + group * co) * oh * ow..][..co * oh * ow];
            let low = (rows.start + ph) / sh;
            slab.fill(planes, oh, ow, low as isize - (most[0] as isize - 1), left, data);
            for phase in &phases {
                // Places of this phase within the block: padded position = place * stride + offset.
                let places = |from: usize, to: usize, stride: usize, offset: usize| {
                    let at = |p: usize| (p.saturating_sub(offset)).div_ceil(stride);
                    at(from)..at(to).max(at(from))
                };
                let down = places(rows.start + ph, rows.end + ph, sh, phase.offset[0]);
                let across = places(pw, s.width + pw, sw, phase.offset[1]);
                if down.is_empty() || across.is_empty() {
                    continue;
                }
                if phase.table.is_empty() {
                    for (c, y) in (0..ci).flat_map(|c| down.clone().map(move |y| (c, y))) {
                        let row = y * sh + phase.offset[0] - ph;
                        // SAFETY: the tasks own disjoint rows of disjoint channels of dx.
                        #[allow(unsafe_code)]
                        let to = unsafe { output.part(first + c * plane + row * s.width, s.width) };
                        to[across.start * sw + phase.offset[1] - pw..]
                            .iter_mut()
                            .step_by(sw)
                            .for_each(|t| *t = 0.0);
                    }
                    continue;
                }
                let size = ci * phase.table.len();
                let product = Shifted {
                    isa,
                    weight: &phase.weight[group * size..][..size],
                    table: &phase.table,
                    data,
                    start: (down.start - low) * slab.columns + across.start - pw / sw,
                    pitch: slab.columns,
                    rows: down.len(),
                    columns: across.len(),
                };
                if sh == 1 && sw == 1 {
                    // SAFETY: as above.
                    #[allow(unsafe_code)]
                    unsafe {
                        product.write_rows(None, output, first + rows.start * s.width, plane);
                    }
                } else {
                    let column = across.start * sw + phase.offset[1] - pw;
                    product.visit(|c, y, values| {
                        let row = (down.start + y) * sh + phase.offset[0] - ph;
                        // SAFETY: as above.
                        #[allow(unsafe_code)]
                        let to = unsafe { output.part(first + c * plane + row * s.width, s.width) };
                        to[column..].iter_mut().step_by(sw).zip(values).for_each(|(t, &v)| *t = v);
                    });
                }
            }
        });
    });
}
