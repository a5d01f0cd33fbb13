//! Convolutions made ready: their weights are laid out once, in the form that their way of computing reads, and a pass adds bias,
//! activation and residual to results that are still in the cache. For inference, where the same weights meet many pictures.

mod block;
mod depthwise;
mod finish;
mod pointwise;
mod spatial;
mod winograd;

use crate::isa::Isa;
use crate::micro::tile_rows;
use crate::{Activation, Conv2d};
pub use block::{fused_block, inverted_block};
use depthwise::Depthwise;
use finish::Finish;
use pointwise::Pointwise;
use spatial::Spatial;
use winograd::Winograd;

/// A convolution of one picture of any size, with what follows it: `y = activation(conv(x) + bias) + add`.
#[derive(Debug)]
pub struct ReadyConv {
    /// Its numbers; batch, height and width are those of the call.
    shape: Conv2d,
    bias: Vec<f32>,
    activation: Activation,
    way: Way,
}

/// How it is computed.
#[derive(Debug)]
enum Way {
    /// Kernel 1, stride 1: a matrix product.
    Pointwise(Pointwise),
    /// Kernel 3, stride 1: squares of 4 x 4 results from 36 products instead of 144.
    Winograd(Winograd),
    /// One channel in, one out.
    Depthwise(Depthwise),
    /// Anything else.
    Spatial(Spatial),
}

/// From so many channels on both sides a convolution is worth its transforms.
const WINOGRAD_FROM: usize = 16;
/// Output channels that are made together, and used up together where another convolution follows: with what they are made from
/// they fit into the second-level cache.
const BLOCK: usize = 64;

impl ReadyConv {
    /// Lays out `weight` `[out_channels, in_channels / groups, kernel, kernel]` and keeps `bias` `[out_channels]`. Of `shape`, batch,
    /// height and width are not looked at.
    ///
    /// # Panics
    /// When a length does not fit the shape.
    pub fn new(shape: &Conv2d, weight: &[f32], bias: &[f32], activation: Activation) -> Self {
        Self::with(Isa::best(), shape, weight, bias, activation)
    }

    pub(crate) fn with(
        isa: Isa,
        shape: &Conv2d,
        weight: &[f32],
        bias: &[f32],
        activation: Activation,
    ) -> Self {
        let shape = Conv2d { batch: 1, height: shape.kernel[0], width: shape.kernel[1], ..*shape };
        shape.check(None, Some(weight.len()), Some(bias.len()), None);
        let Conv2d { in_channels, out_channels, kernel, stride, padding, groups, .. } = shape;
        let way = if groups == in_channels && groups == out_channels {
            Way::Depthwise(Depthwise::new(isa, weight))
        } else if kernel == [1, 1] && stride == [1, 1] && padding == [0, 0] {
            Way::Pointwise(Pointwise::new(isa, &shape, weight))
        } else if kernel == [3, 3]
            && stride == [1, 1]
            && padding == [1, 1]
            && groups == 1
            && in_channels.min(out_channels) >= WINOGRAD_FROM
        {
            Way::Winograd(Winograd::new(isa, &shape, weight))
        } else {
            Way::Spatial(Spatial::new(isa, &shape, weight))
        };
        Self { shape, bias: bias.to_vec(), activation, way }
    }

    /// Channels that go in and come out.
    pub fn channels(&self) -> [usize; 2] {
        [self.shape.in_channels, self.shape.out_channels]
    }

    /// Height and width of the result for a picture of `size` = `[height, width]`.
    ///
    /// # Panics
    /// When the kernel is larger than the padded picture.
    pub fn output(&self, size: [usize; 2]) -> [usize; 2] {
        self.at(size).output()
    }

    /// Its numbers for a picture of this size.
    fn at(&self, size: [usize; 2]) -> Conv2d {
        Conv2d { height: size[0], width: size[1], ..self.shape }
    }

    /// The same, for an input of so many floats.
    fn check(&self, size: [usize; 2], x: usize) -> Conv2d {
        let shape = self.at(size);
        shape.check(Some(x), None, None, None);
        shape
    }

    /// The result's room, and that of what is added to it.
    fn check_room(&self, size: [usize; 2], add: Option<&[f32]>, y: &[f32]) {
        self.at(size).check(None, None, None, Some(y.len()));
        assert!(add.is_none_or(|add| add.len() == y.len()), "what is added has the size of the result");
    }

    /// `x` `[in_channels, height, width]` into `y` `[out_channels, rows, columns]`, plus `add` of the same size, on all threads of the
    /// current rayon pool. The result does not depend on their number.
    ///
    /// # Panics
    /// When a length does not fit.
    pub fn forward(&self, size: [usize; 2], x: &[f32], add: Option<&[f32]>, y: &mut [f32]) {
        let shape = self.check(size, x.len());
        self.check_room(size, add, y);
        if y.is_empty() {
            return;
        }
        let finish = self.finish(add);
        match &self.way {
            Way::Pointwise(way) => way.forward(&shape, x, &finish, y),
            Way::Winograd(way) => way.forward(&shape, x, &finish, None, y),
            Way::Depthwise(way) => way.forward(&shape, x, &finish, y),
            Way::Spatial(way) => way.forward(&shape, x, &finish, None, y),
        }
    }

    fn finish<'a>(&'a self, add: Option<&'a [f32]>) -> Finish<'a> {
        Finish { bias: &self.bias, activation: self.activation, add }
    }
}

/// `[rows, depth]` as blocks of a tile's rows, `[rows / unit, depth, unit]`, so that one step of a sum reads neighbouring floats; the
/// last block is filled up with zeros.
fn blocks_of_rows(isa: Isa, matrix: &[f32], depth: usize) -> Vec<f32> {
    let unit = tile_rows(isa);
    let rows = matrix.len() / depth;
    let mut blocks = vec![0.0; rows.next_multiple_of(unit) * depth];
    for (row, values) in matrix.chunks_exact(depth).enumerate() {
        let block = &mut blocks[row / unit * unit * depth..][..unit * depth];
        for (to, value) in block.iter_mut().skip(row % unit).step_by(unit).zip(values) {
            *to = *value;
        }
    }
    blocks
}

/// Where the rows of such a block lie.
fn rows_of_block() -> [usize; crate::micro::MAX_ROWS] {
    std::array::from_fn(|i| i)
}

/// A distance between rows of at least `len` floats that spreads them over all sets of the cache: an odd number of lines.
fn spread_rows(len: usize) -> usize {
    len.next_multiple_of(32) + 16
}
