//! The layers.

use burn::nn::BatchNorm;
use burn::tensor::{Tensor, TensorData, ops::ConvOptions};
use kirie_kernels::{Conv2d, Gemm, Stats};
use rayon::prelude::*;

use super::graph::{Kernel, apply, value};
use crate::Activation;

fn kind(activation: Activation) -> kirie_kernels::Activation {
    match activation {
        Activation::Identity => kirie_kernels::Activation::Identity,
        Activation::Relu => kirie_kernels::Activation::Relu,
        Activation::Gelu => kirie_kernels::Activation::Gelu,
        Activation::GeluTanh => kirie_kernels::Activation::GeluTanh,
    }
}

/// An element-wise activation.
pub(crate) fn activation<const D: usize>(activation: Activation, x: &Tensor<D>) -> Option<Tensor<D>> {
    #[derive(Clone, Debug)]
    struct Elementwise(kirie_kernels::Activation);
    impl Kernel<1> for Elementwise {
        type Saved = ();
        fn forward(&self, [x]: [&[f32]; 1]) -> (Vec<f32>, ()) {
            let mut y = vec![0.0; x.len()];
            kirie_kernels::activation(self.0, x, &mut y);
            (y, ())
        }
        fn backward(
            &self,
            [x]: [&[f32]; 1],
            (): &(),
            gradient: &[f32],
            _: [bool; 1],
        ) -> [Option<Vec<f32>>; 1] {
            let mut dx = vec![0.0; x.len()];
            kirie_kernels::activation_gradient(self.0, x, gradient, &mut dx);
            [Some(dx)]
        }
    }
    let shape = x.dims();
    apply(Elementwise(kind(activation)), [value(x)?], shape)
}

/// A convolution, `x` `[batch, in, height, width]`, `weight` `[out, in / groups, kh, kw]`; symmetric padding, no dilation.
pub(crate) fn conv2d(
    x: &Tensor<4>,
    weight: &Tensor<4>,
    bias: Option<&Tensor<1>>,
    options: &ConvOptions<2>,
) -> Option<Tensor<4>> {
    #[derive(Clone, Debug)]
    struct Convolution(Conv2d);
    impl Convolution {
        fn output(&self) -> usize {
            let [height, width] = self.0.output();
            self.0.batch * self.0.out_channels * height * width
        }
        fn gradients(&self, x: &[f32], w: &[f32], dy: &[f32], wanted: [bool; 2]) -> [Option<Vec<f32>>; 2] {
            let dx = wanted[0].then(|| {
                let mut dx = vec![0.0; x.len()];
                kirie_kernels::conv2d_input_gradient(&self.0, w, dy, &mut dx);
                dx
            });
            let dw = wanted[1].then(|| {
                let mut dw = vec![0.0; w.len()];
                kirie_kernels::conv2d_weight_gradient(&self.0, x, dy, &mut dw);
                dw
            });
            [dx, dw]
        }
    }
    impl Kernel<2> for Convolution {
        type Saved = ();
        fn forward(&self, [x, w]: [&[f32]; 2]) -> (Vec<f32>, ()) {
            let mut y = vec![0.0; self.output()];
            kirie_kernels::conv2d(&self.0, x, w, None, &mut y);
            (y, ())
        }
        fn backward(
            &self,
            [x, w]: [&[f32]; 2],
            (): &(),
            dy: &[f32],
            wanted: [bool; 2],
        ) -> [Option<Vec<f32>>; 2] {
            self.gradients(x, w, dy, wanted)
        }
    }
    impl Kernel<3> for Convolution {
        type Saved = ();
        fn forward(&self, [x, w, b]: [&[f32]; 3]) -> (Vec<f32>, ()) {
            let mut y = vec![0.0; self.output()];
            kirie_kernels::conv2d(&self.0, x, w, Some(b), &mut y);
            (y, ())
        }
        fn backward(
            &self,
            [x, w, b]: [&[f32]; 3],
            (): &(),
            dy: &[f32],
            wanted: [bool; 3],
        ) -> [Option<Vec<f32>>; 3] {
            let [dx, dw] = self.gradients(x, w, dy, [wanted[0], wanted[1]]);
            let db = wanted[2].then(|| {
                let [height, width] = self.0.output();
                let mut db = vec![0.0; b.len()];
                for picture in dy.chunks_exact(b.len() * height * width) {
                    for (sum, plane) in db.iter_mut().zip(picture.chunks_exact(height * width)) {
                        *sum += plane.iter().sum::<f32>();
                    }
                }
                db
            });
            [dx, dw, db]
        }
    }

    if options.dilation != [1, 1] || options.is_asymmetric() {
        return None;
    }
    let [batch, in_channels, height, width] = x.dims();
    let [out_channels, _, kernel_height, kernel_width] = weight.dims();
    let shape = Conv2d {
        batch,
        in_channels,
        out_channels,
        height,
        width,
        kernel: [kernel_height, kernel_width],
        stride: options.stride,
        padding: options.padding.map(|(before, _)| before),
        groups: options.groups,
    };
    let [out_height, out_width] = shape.output();
    let output = [batch, out_channels, out_height, out_width];
    match bias {
        None => apply::<_, 2, 4>(Convolution(shape), [value(x)?, value(weight)?], output),
        Some(bias) => apply::<_, 3, 4>(Convolution(shape), [value(x)?, value(weight)?, value(bias)?], output),
    }
}

/// Batch norm in training mode and the activation after it; brings the running statistics up to date.
pub(crate) fn batch_norm(norm: &BatchNorm, activation: Activation, x: &Tensor<4>) -> Option<Tensor<4>> {
    #[derive(Clone, Debug)]
    struct Norm {
        shape: [usize; 3],
        epsilon: f32,
        activation: kirie_kernels::Activation,
        /// Filled by the forward pass, for the running statistics.
        stats: std::sync::Arc<std::sync::OnceLock<Stats>>,
    }
    impl Kernel<3> for Norm {
        type Saved = ();
        fn forward(&self, [x, gamma, beta]: [&[f32]; 3]) -> (Vec<f32>, ()) {
            let mut y = vec![0.0; x.len()];
            let stats =
                kirie_kernels::batch_norm(self.shape, x, gamma, beta, self.epsilon, self.activation, &mut y);
            self.stats.get_or_init(|| stats);
            (y, ())
        }
        fn backward(
            &self,
            [x, gamma, beta]: [&[f32]; 3],
            (): &(),
            dy: &[f32],
            _: [bool; 3],
        ) -> [Option<Vec<f32>>; 3] {
            let (mut dx, mut dgamma, mut dbeta) =
                (vec![0.0; x.len()], vec![0.0; gamma.len()], vec![0.0; beta.len()]);
            if let Some(stats) = self.stats.get() {
                kirie_kernels::batch_norm_gradient(
                    self.shape,
                    x,
                    stats,
                    gamma,
                    beta,
                    self.epsilon,
                    self.activation,
                    dy,
                    &mut dx,
                    &mut dgamma,
                    &mut dbeta,
                );
            }
            [Some(dx), Some(dgamma), Some(dbeta)]
        }
    }

    let [batch, channels, height, width] = x.dims();
    let stats = std::sync::Arc::new(std::sync::OnceLock::new());
    let kernel = Norm {
        shape: [batch, channels, height * width],
        epsilon: norm.epsilon as f32,
        activation: kind(activation),
        stats: stats.clone(),
    };
    let inputs = [value(x)?, value(&norm.gamma.val())?, value(&norm.beta.val())?];
    let y = apply(kernel, inputs, [batch, channels, height, width])?;
    let stats = stats.get()?;
    // As Burn's own batch norm does it: the biased variance of the batch goes into the running one.
    let follow = |running: Tensor<1>, new: &[f32]| {
        let new = Tensor::<1>::from_data(TensorData::new(new.to_vec(), [channels]), &running.device());
        running * (1.0 - norm.momentum) + new * norm.momentum
    };
    norm.running_mean.update(follow(norm.running_mean.value_sync(), &stats.mean).detach());
    norm.running_var.update(follow(norm.running_var.value_sync(), &stats.variance).detach());
    Some(y)
}

#[derive(Clone, Debug)]
struct LayerNormKernel {
    /// Batch, channels, pixels.
    shape: [usize; 3],
    /// Whether the channels are the last dimension.
    last: bool,
    epsilon: f32,
}

impl Kernel<3> for LayerNormKernel {
    type Saved = ();
    fn forward(&self, [x, gamma, beta]: [&[f32]; 3]) -> (Vec<f32>, ()) {
        let mut y = vec![0.0; x.len()];
        let [rows, width, _] = self.shape;
        if self.last {
            kirie_kernels::layer_norm(rows, width, x, gamma, beta, self.epsilon, &mut y);
        } else {
            kirie_kernels::layer_norm_2d(self.shape, x, gamma, beta, self.epsilon, &mut y);
        }
        (y, ())
    }
    fn backward(
        &self,
        [x, gamma, beta]: [&[f32]; 3],
        (): &(),
        dy: &[f32],
        _: [bool; 3],
    ) -> [Option<Vec<f32>>; 3] {
        let (mut dx, mut dgamma, mut dbeta) =
            (vec![0.0; x.len()], vec![0.0; gamma.len()], vec![0.0; beta.len()]);
        let [rows, width, _] = self.shape;
        let (dx_, dg, db) = (&mut dx, &mut dgamma, &mut dbeta);
        if self.last {
            kirie_kernels::layer_norm_gradient(rows, width, x, gamma, self.epsilon, dy, dx_, dg, db);
        } else {
            kirie_kernels::layer_norm_2d_gradient(self.shape, x, gamma, self.epsilon, dy, dx_, dg, db);
        }
        [Some(dx), Some(dgamma), Some(dbeta)]
    }
}

/// Layer norm over the last dimension.
pub(crate) fn layer_norm<const D: usize>(
    x: &Tensor<D>,
    gamma: &Tensor<1>,
    beta: &Tensor<1>,
    epsilon: f64,
) -> Option<Tensor<D>> {
    let shape = x.dims();
    let width = shape[D - 1];
    let rows = shape[..D - 1].iter().product();
    let kernel = LayerNormKernel { shape: [rows, width, 1], last: true, epsilon: epsilon as f32 };
    apply(kernel, [value(x)?, value(gamma)?, value(beta)?], shape)
}

/// Layer norm over the channels of a feature map.
pub(crate) fn layer_norm_2d(
    x: &Tensor<4>,
    gamma: &Tensor<1>,
    beta: &Tensor<1>,
    epsilon: f64,
) -> Option<Tensor<4>> {
    let [batch, channels, height, width] = x.dims();
    let kernel =
        LayerNormKernel { shape: [batch, channels, height * width], last: false, epsilon: epsilon as f32 };
    apply(kernel, [value(x)?, value(gamma)?, value(beta)?], x.dims())
}

/// `x` `[.., in]` times `weight` `[in, out]`, plus `bias` `[out]`.
pub(crate) fn linear<const D: usize>(
    x: &Tensor<D>,
    weight: &Tensor<2>,
    bias: Option<&Tensor<1>>,
) -> Option<Tensor<D>> {
    #[derive(Clone, Debug)]
    struct Product {
        rows: usize,
        input: usize,
        output: usize,
    }
    impl Product {
        fn gradients(&self, x: &[f32], w: &[f32], dy: &[f32], wanted: [bool; 2]) -> [Option<Vec<f32>>; 2] {
            let Self { rows, input, output } = *self;
            let accumulate = false;
            let dx = wanted[0].then(|| {
                let shape = Gemm {
                    m: rows,
                    n: input,
                    k: output,
                    a_transposed: false,
                    b_transposed: true,
                    accumulate,
                };
                let mut dx = vec![0.0; x.len()];
                kirie_kernels::gemm(&shape, dy, w, &mut dx);
                dx
            });
            let dw = wanted[1].then(|| {
                let shape = Gemm {
                    m: input,
                    n: output,
                    k: rows,
                    a_transposed: true,
                    b_transposed: false,
                    accumulate,
                };
                let mut dw = vec![0.0; w.len()];
                kirie_kernels::gemm(&shape, x, dy, &mut dw);
                dw
            });
            [dx, dw]
        }
        fn product(&self, x: &[f32], w: &[f32], bias: Option<&[f32]>) -> Vec<f32> {
            let Self { rows, input, output } = *self;
            let mut y = match bias {
                Some(bias) => bias.repeat(rows),
                None => vec![0.0; rows * output],
            };
            let accumulate = bias.is_some();
            let shape =
                Gemm { m: rows, n: output, k: input, a_transposed: false, b_transposed: false, accumulate };
            kirie_kernels::gemm(&shape, x, w, &mut y);
            y
        }
    }
    impl Kernel<2> for Product {
        type Saved = ();
        fn forward(&self, [x, w]: [&[f32]; 2]) -> (Vec<f32>, ()) {
            (self.product(x, w, None), ())
        }
        fn backward(
            &self,
            [x, w]: [&[f32]; 2],
            (): &(),
            dy: &[f32],
            wanted: [bool; 2],
        ) -> [Option<Vec<f32>>; 2] {
            self.gradients(x, w, dy, wanted)
        }
    }
    impl Kernel<3> for Product {
        type Saved = ();
        fn forward(&self, [x, w, b]: [&[f32]; 3]) -> (Vec<f32>, ()) {
            (self.product(x, w, Some(b)), ())
        }
        fn backward(
            &self,
            [x, w, b]: [&[f32]; 3],
            (): &(),
            dy: &[f32],
            wanted: [bool; 3],
        ) -> [Option<Vec<f32>>; 3] {
            let [dx, dw] = self.gradients(x, w, dy, [wanted[0], wanted[1]]);
            let db = wanted[2].then(|| {
                let mut db = vec![0.0; b.len()];
                for row in dy.chunks_exact(b.len()) {
                    for (sum, value) in db.iter_mut().zip(row) {
                        *sum += value;
                    }
                }
                db
            });
            [dx, dw, db]
        }
    }

    let mut shape = x.dims();
    let [input, output] = weight.dims();
    let kernel = Product { rows: shape[..D - 1].iter().product(), input, output };
    shape[D - 1] = output;
    match bias {
        None => apply::<_, 2, D>(kernel, [value(x)?, value(weight)?], shape),
        Some(bias) => apply::<_, 3, D>(kernel, [value(x)?, value(weight)?, value(bias)?], shape),
    }
}

/// A transposed convolution that makes every pixel a square of `k` x `k`: `x` `[batch, in, height, width]`, `weight`
/// `[in, out, k, k]`, stride `k`, no padding. Each pixel's square is a matrix product of its own.
pub(crate) fn upsample(
    x: &Tensor<4>,
    weight: &Tensor<4>,
    bias: Option<&Tensor<1>>,
    k: usize,
) -> Option<Tensor<4>> {
    #[derive(Clone, Debug)]
    struct Squares {
        batch: usize,
        input: usize,
        output: usize,
        height: usize,
        width: usize,
        k: usize,
    }
    impl Squares {
        /// Calls `f(row, column)` with ranges of a line of the product `[out k k, pixels]` and of the picture.
        fn lines(&self, mut f: impl FnMut(usize, usize)) {
            let (pixels, wide) = (self.height * self.width, self.width * self.k);
            for part in 0..self.output * self.k * self.k {
                let (channel, dy, dx) = (part / (self.k * self.k), part / self.k % self.k, part % self.k);
                for y in 0..self.height {
                    let line = (channel * self.height + y) * self.k + dy;
                    f(part * pixels + y * self.width, line * wide + dx);
                }
            }
        }
        fn shape(&self) -> Gemm {
            let (m, n) = (self.output * self.k * self.k, self.height * self.width);
            Gemm { m, n, k: self.input, a_transposed: true, b_transposed: false, accumulate: false }
        }
    }
    impl Kernel<3> for Squares {
        type Saved = ();
        fn forward(&self, [x, w, b]: [&[f32]; 3]) -> (Vec<f32>, ()) {
            let shape = self.shape();
            let (one, k) = (shape.m * shape.n, self.k);
            let mut squares = vec![0.0; self.batch * one];
            let (picture, product) = (self.input * shape.n, &mut squares);
            kirie_kernels::gemm_batched(&shape, self.batch, w, 0, x, picture, product, one);
            let mut y = vec![0.0; squares.len()];
            y.par_chunks_exact_mut(one).zip(squares.par_chunks_exact(one)).for_each(|(y, squares)| {
                self.lines(|from, to| {
                    let bias = b[from / (shape.n * k * k)];
                    for (x, value) in squares[from..from + self.width].iter().enumerate() {
                        y[to + x * k] = value + bias;
                    }
                });
            });
            (y, ())
        }
        fn backward(
            &self,
            [x, w, _]: [&[f32]; 3],
            (): &(),
            dy: &[f32],
            wanted: [bool; 3],
        ) -> [Option<Vec<f32>>; 3] {
            let Gemm { m, n, .. } = self.shape();
            let (one, k) = (m * n, self.k);
            let mut squares = vec![0.0; self.batch * one];
            squares.par_chunks_exact_mut(one).zip(dy.par_chunks_exact(one)).for_each(|(squares, dy)| {
                self.lines(|to, from| {
                    for (x, value) in squares[to..to + self.width].iter_mut().enumerate() {
                        *value = dy[from + x * k];
                    }
                });
            });
            let dx = wanted[0].then(|| {
                let shape = Gemm {
                    m: self.input,
                    n,
                    k: m,
                    a_transposed: false,
                    b_transposed: false,
                    accumulate: false,
                };
                let mut dx = vec![0.0; x.len()];
                kirie_kernels::gemm_batched(&shape, self.batch, w, 0, &squares, one, &mut dx, self.input * n);
                dx
            });
            let dw = wanted[1].then(|| {
                let mut dw = vec![0.0; w.len()];
                for (x, squares) in x.chunks_exact(self.input * n).zip(squares.chunks_exact(one)) {
                    let shape = Gemm {
                        m: self.input,
                        n: m,
                        k: n,
                        a_transposed: false,
                        b_transposed: true,
                        accumulate: true,
                    };
                    kirie_kernels::gemm(&shape, x, squares, &mut dw);
                }
                dw
            });
            let db = wanted[2].then(|| {
                let mut db = vec![0.0; self.output];
                for picture in squares.chunks_exact(one) {
                    for (sum, squares) in db.iter_mut().zip(picture.chunks_exact(k * k * n)) {
                        *sum += squares.iter().sum::<f32>();
                    }
                }
                db
            });
            [dx, dw, db]
        }
    }

    let [batch, input, height, width] = x.dims();
    let [_, output, ..] = weight.dims();
    let kernel = Squares { batch, input, output, height, width, k };
    let inputs = [value(x)?, value(weight)?, value(bias?)?];
    apply(kernel, inputs, [batch, output, height * k, width * k])
}
