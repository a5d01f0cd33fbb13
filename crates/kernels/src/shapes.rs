//! What the callers say about their operands.

/// A two-dimensional convolution (dilation 1) on `[batch, channels, height, width]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conv2d {
    /// Images.
    pub batch: usize,
    /// Channels of the input; a multiple of `groups`.
    pub in_channels: usize,
    /// Channels of the output; a multiple of `groups`.
    pub out_channels: usize,
    /// Rows of the input.
    pub height: usize,
    /// Columns of the input.
    pub width: usize,
    /// Rows and columns of the kernel.
    pub kernel: [usize; 2],
    /// Step between outputs, down and across.
    pub stride: [usize; 2],
    /// Zeros assumed on each side, above and below, left and right.
    pub padding: [usize; 2],
    /// Independent groups of channels; `in_channels` for a depthwise convolution.
    pub groups: usize,
}

impl Conv2d {
    /// Rows and columns of the output.
    ///
    /// # Panics
    /// When a stride is zero or the kernel is larger than the padded input.
    pub fn output(&self) -> [usize; 2] {
        let side = |input: usize, axis: usize| {
            let padded = input + 2 * self.padding[axis];
            assert!(
                self.stride[axis] > 0 && self.kernel[axis] > 0 && padded >= self.kernel[axis],
                "a convolution needs a stride and a kernel within its padded input, got {self:?}"
            );
            (padded - self.kernel[axis]) / self.stride[axis] + 1
        };
        [side(self.height, 0), side(self.width, 1)]
    }

    /// Panics unless the groups divide the channels and the four lengths (where given) are right.
    pub(crate) fn check(
        &self,
        x: Option<usize>,
        weight: Option<usize>,
        bias: Option<usize>,
        y: Option<usize>,
    ) {
        let [rows, columns] = self.output();
        assert!(
            self.groups > 0
                && self.in_channels.is_multiple_of(self.groups)
                && self.out_channels.is_multiple_of(self.groups),
            "the groups of a convolution must divide its channels, got {self:?}"
        );
        let expect = |name: &str, found: Option<usize>, wanted: usize| {
            if let Some(found) = found {
                assert_eq!(found, wanted, "the length of the {name} does not fit {self:?}");
            }
        };
        expect("input", x, self.batch * self.in_channels * self.height * self.width);
        expect(
            "weight",
            weight,
            self.out_channels * (self.in_channels / self.groups) * self.kernel[0] * self.kernel[1],
        );
        expect("bias", bias, self.out_channels);
        expect("output", y, self.batch * self.out_channels * rows * columns);
    }
}

/// A row-major matrix product `c[m, n] = a[m, k] * b[k, n]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gemm {
    /// Rows of `a` and `c`.
    pub m: usize,
    /// Columns of `b` and `c`.
    pub n: usize,
    /// Columns of `a` and rows of `b`.
    pub k: usize,
    /// `a` is stored as `[k, m]`.
    pub a_transposed: bool,
    /// `b` is stored as `[n, k]`.
    pub b_transposed: bool,
    /// Add to `c` instead of overwriting it.
    pub accumulate: bool,
}

/// A function applied to each element.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// x
    Identity,
    /// max(x, 0)
    Relu,
    /// x Φ(x), with the error function
    Gelu,
    /// The tanh approximation of [`Activation::Gelu`]
    GeluTanh,
    /// x clamp(x + 3, 0, 6) / 6
    HardSwish,
    /// x / (1 + exp(-x))
    Silu,
}

impl Activation {
    /// Every activation.
    pub const ALL: [Self; 6] =
        [Self::Identity, Self::Relu, Self::Gelu, Self::GeluTanh, Self::HardSwish, Self::Silu];
}

/// What batch normalisation measured, per channel.
#[derive(Clone, Debug, PartialEq)]
pub struct Stats {
    /// Mean over images and pixels.
    pub mean: Vec<f32>,
    /// Biased variance over images and pixels.
    pub variance: Vec<f32>,
}
