//! A zero-padded copy of some rows of some channels, cut by stride, in which every tap of a convolution is a shift.
//!
//! With stride s, element `s * i + p` of a row goes to place `i` of phase `p`. Then tap `t` of output `o`, which is
//! element `s * o + t`, lies at place `o + t / s` of phase `t % s`: neighbouring outputs read neighbouring floats,
//! whatever the stride, and one tap is one constant distance from the output's own place.

/// Floats that one slab should stay under: half of a typical second-level cache.
pub(crate) const BUDGET: usize = 192 * 1024;

/// The layout `[channel, phase down, phase across, row, column]`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Slab {
    pub(crate) phases: [usize; 2],
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    /// Distance between channels.
    pub(crate) channel: usize,
    stride: [usize; 2],
}

impl Slab {
    /// Room for taps `0..kernel` around `rows` by `columns` outputs at this stride.
    pub(crate) fn new(kernel: [usize; 2], stride: [usize; 2], rows: usize, columns: usize) -> Self {
        let phases = [kernel[0].min(stride[0]), kernel[1].min(stride[1])];
        let rows = rows + (kernel[0] - 1) / stride[0];
        let columns = columns + (kernel[1] - 1) / stride[1];
        // An odd number of cache lines between channels spreads them over all sets of the cache.
        let channel = (phases[0] * phases[1] * rows * columns).next_multiple_of(16) | 16;
        Self { phases, rows, columns, channel, stride }
    }

    /// Floats of `channels` and of what vectors may read past the last.
    pub(crate) fn len(&self, channels: usize) -> usize {
        channels * self.channel + self.columns + 64
    }

    /// Distance of a tap from the output's own place.
    pub(crate) fn tap(&self, y: usize, x: usize) -> usize {
        let [down, across] = self.stride;
        ((y % down * self.phases[1] + x % across) * self.rows + y / down) * self.columns + x / across
    }

    /// Copies planes of `height` by `width` so that place 0 of phase 0 is row `top`, column `left`; what lies outside
    /// is zero.
    pub(crate) fn fill(
        &self,
        planes: &[f32],
        height: usize,
        width: usize,
        top: isize,
        left: isize,
        to: &mut [f32],
    ) {
        if height * width == 0 {
            to.fill(0.0);
            return;
        }
        for (plane, to) in planes.chunks_exact(height * width).zip(to.chunks_exact_mut(self.channel)) {
            for (phase, to) in to
                .chunks_exact_mut(self.rows * self.columns)
                .take(self.phases[0] * self.phases[1])
                .enumerate()
            {
                let first_row = top + (phase / self.phases[1]) as isize;
                let first = left + (phase % self.phases[1]) as isize;
                let step = self.stride[1] as isize;
                // Places whose column lies within the plane.
                let begin = ((-first).max(0) + step - 1) / step;
                let end = ((width as isize - first).max(0) + step - 1) / step;
                let end = (end.max(0) as usize).min(self.columns);
                let begin = (begin as usize).min(end);
                if self.stride == [1, 1] && first == 0 && self.columns == width {
                    // Whole rows: one copy.
                    let above = (-top).clamp(0, self.rows as isize) as usize;
                    let below = (height as isize - top).clamp(above as isize, self.rows as isize) as usize;
                    to[..above * width].fill(0.0);
                    to[below * width..].fill(0.0);
                    if above < below {
                        let from = (top + above as isize) as usize * width;
                        to[above * width..below * width]
                            .copy_from_slice(&plane[from..][..(below - above) * width]);
                    }
                    continue;
                }
                for (row, to) in to.chunks_exact_mut(self.columns).enumerate() {
                    let y = first_row + (row * self.stride[0]) as isize;
                    if y < 0 || y >= height as isize {
                        to.fill(0.0);
                        continue;
                    }
                    let from = &plane[y as usize * width..][..width];
                    to[..begin].fill(0.0);
                    to[end..].fill(0.0);
                    if begin == end {
                        continue;
                    }
                    let from = &from[(first + begin as isize * step) as usize..];
                    match step {
                        1 => to[begin..end].copy_from_slice(&from[..end - begin]),
                        2 => {
                            let (pairs, last) = (from.chunks_exact(2), to[begin..end].len() - 1);
                            to[begin..end].iter_mut().zip(pairs).for_each(|(t, f)| *t = f[0]);
                            to[begin + last] = from[2 * last];
                        }
                        _ => {
                            let taken = from.iter().step_by(step as usize);
                            to[begin..end].iter_mut().zip(taken).for_each(|(t, &f)| *t = f);
                        }
                    }
                }
            }
        }
    }
}
