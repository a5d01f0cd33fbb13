//! The same functions as plain loops in f64: what the tests hold the kernels against.

use crate::{Activation, Conv2d, Gemm, Stats};

fn wide(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&v| f64::from(v)).collect()
}

fn narrow(from: &[f64], to: &mut [f32]) {
    for (t, &f) in to.iter_mut().zip(from) {
        *t = f as f32;
    }
}

/// Calls `f(x, weight, y)` with the indices of each product of a convolution.
fn each_product(s: &Conv2d, mut f: impl FnMut(usize, usize, usize)) {
    let [oh, ow] = s.output();
    let (ci, co) = (s.in_channels / s.groups, s.out_channels / s.groups);
    for b in 0..s.batch {
        for o in 0..s.out_channels {
            for c in 0..ci {
                let channel = o / co * ci + c;
                for ky in 0..s.kernel[0] {
                    for kx in 0..s.kernel[1] {
                        for y in 0..oh {
                            for x in 0..ow {
                                let (iy, ix) = (y * s.stride[0] + ky, x * s.stride[1] + kx);
                                if iy < s.padding[0]
                                    || ix < s.padding[1]
                                    || iy - s.padding[0] >= s.height
                                    || ix - s.padding[1] >= s.width
                                {
                                    continue;
                                }
                                f(
                                    ((b * s.in_channels + channel) * s.height + iy - s.padding[0]) * s.width
                                        + ix
                                        - s.padding[1],
                                    ((o * ci + c) * s.kernel[0] + ky) * s.kernel[1] + kx,
                                    ((b * s.out_channels + o) * oh + y) * ow + x,
                                );
                            }
                        }
                    }
                }
            }
        }
    }
}

pub(crate) fn conv2d(s: &Conv2d, x: &[f32], weight: &[f32], bias: Option<&[f32]>, y: &mut [f32]) {
    let mut out = vec![0f64; y.len()];
    each_product(s, |i, w, o| out[o] += f64::from(x[i]) * f64::from(weight[w]));
    if let Some(bias) = bias {
        let [oh, ow] = s.output();
        for (i, v) in out.iter_mut().enumerate() {
            *v += f64::from(bias[i / (oh * ow) % s.out_channels]);
        }
    }
    narrow(&out, y);
}

pub(crate) fn conv2d_input_gradient(s: &Conv2d, weight: &[f32], dy: &[f32], dx: &mut [f32]) {
    let mut out = vec![0f64; dx.len()];
    each_product(s, |i, w, o| out[i] += f64::from(dy[o]) * f64::from(weight[w]));
    narrow(&out, dx);
}

pub(crate) fn conv2d_weight_gradient(s: &Conv2d, x: &[f32], dy: &[f32], dw: &mut [f32]) {
    let mut out = vec![0f64; dw.len()];
    each_product(s, |i, w, o| out[w] += f64::from(dy[o]) * f64::from(x[i]));
    narrow(&out, dw);
}

/// The error function, by its series for small arguments and a continued fraction for large ones.
fn erf(x: f64) -> f64 {
    let a = x.abs();
    if a < 3.0 {
        let (mut term, mut sum) = (a, a);
        for n in 1..120 {
            term *= -a * a / f64::from(n);
            sum += term / f64::from(2 * n + 1);
        }
        (2.0 / std::f64::consts::PI.sqrt() * sum).copysign(x)
    } else {
        let mut fraction = a;
        for n in (1..80).rev() {
            fraction = a + f64::from(n) / 2.0 / fraction;
        }
        (1.0 - (-a * a).exp() / (fraction * std::f64::consts::PI.sqrt())).copysign(x)
    }
}

/// The activation and its derivative.
pub(crate) fn point(a: Activation, x: f64) -> (f64, f64) {
    match a {
        Activation::Identity => (x, 1.0),
        Activation::Relu => (x.max(0.0), if x > 0.0 { 1.0 } else { 0.0 }),
        Activation::Gelu => {
            let cdf = 0.5 * (1.0 + erf(x / 2f64.sqrt()));
            (x * cdf, cdf + x * (-x * x / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt())
        }
        Activation::GeluTanh => {
            let scale = (2.0 / std::f64::consts::PI).sqrt();
            let t = (scale * (x + 0.044715 * x * x * x)).tanh();
            let slope = (1.0 - t * t) * scale * (1.0 + 3.0 * 0.044715 * x * x);
            (0.5 * x * (1.0 + t), 0.5 * (1.0 + t) + 0.5 * x * slope)
        }
        Activation::HardSwish => {
            let y = x * (x + 3.0).clamp(0.0, 6.0) / 6.0;
            let slope = if x <= -3.0 {
                0.0
            } else if x < 3.0 {
                x / 3.0 + 0.5
            } else {
                1.0
            };
            (y, slope)
        }
        Activation::Silu => {
            let s = 1.0 / (1.0 + (-x).exp());
            (x * s, s * (1.0 + x * (1.0 - s)))
        }
    }
}

/// Mean and biased variance.
fn moments(values: impl Iterator<Item = f64> + Clone) -> (f64, f64) {
    let count = values.clone().count() as f64;
    let mean = values.clone().sum::<f64>() / count;
    (mean, values.map(|v| (v - mean) * (v - mean)).sum::<f64>() / count)
}

/// Normalises sets of elements; `sets[i]` lists the indices of one set, `parameter` says which gamma an index has.
struct Norm<'a> {
    sets: Vec<Vec<usize>>,
    parameter: &'a dyn Fn(usize) -> usize,
}

impl Norm<'_> {
    fn forward(
        &self,
        x: &[f32],
        gamma: &[f32],
        beta: &[f32],
        epsilon: f32,
        a: Activation,
        y: &mut [f32],
    ) -> Stats {
        let (out, stats) = self.forward_wide(&wide(x), &wide(gamma), &wide(beta), f64::from(epsilon), a);
        narrow(&out, y);
        stats
    }

    fn forward_wide(
        &self,
        x: &[f64],
        gamma: &[f64],
        beta: &[f64],
        epsilon: f64,
        a: Activation,
    ) -> (Vec<f64>, Stats) {
        let mut stats = Stats { mean: vec![], variance: vec![] };
        let mut y = vec![0.0; x.len()];
        for set in &self.sets {
            let (mean, variance) = moments(set.iter().map(|&i| x[i]));
            for &i in set {
                let p = (self.parameter)(i);
                let z = (x[i] - mean) / (variance + epsilon).sqrt() * gamma[p] + beta[p];
                y[i] = point(a, z).0;
            }
            stats.mean.push(mean as f32);
            stats.variance.push(variance as f32);
        }
        (y, stats)
    }

    fn backward(
        &self,
        x: &[f32],
        gamma: &[f32],
        beta: &[f32],
        epsilon: f32,
        a: Activation,
        dy: &[f32],
        dx: &mut [f32],
        dgamma: &mut [f32],
        dbeta: &mut [f32],
    ) {
        let x = wide(x);
        let (mut dg, mut db) = (vec![0f64; gamma.len()], vec![0f64; gamma.len()]);
        for set in &self.sets {
            let (mean, variance) = moments(set.iter().map(|&i| x[i]));
            let inverse = 1.0 / (variance + f64::from(epsilon)).sqrt();
            let count = set.len() as f64;
            let mut g = Vec::new();
            let (mut sum, mut dot) = (0.0, 0.0);
            for &i in set {
                let p = (self.parameter)(i);
                let hat = (x[i] - mean) * inverse;
                let dz = f64::from(dy[i]) * point(a, hat * f64::from(gamma[p]) + f64::from(beta[p])).1;
                dg[p] += dz * hat;
                db[p] += dz;
                let dhat = dz * f64::from(gamma[p]);
                sum += dhat;
                dot += dhat * hat;
                g.push((i, hat, dhat));
            }
            for (i, hat, dhat) in g {
                dx[i] = (inverse * (dhat - sum / count - hat * dot / count)) as f32;
            }
        }
        narrow(&dg, dgamma);
        narrow(&db, dbeta);
    }
}

/// The forward pass of batch (or, per pixel, layer) normalisation, in f64 throughout, for finite differences.
pub(crate) fn norm_wide(
    layer: bool,
    shape: [usize; 3],
    x: &[f64],
    gamma: &[f64],
    beta: &[f64],
    epsilon: f64,
    a: Activation,
) -> Vec<f64> {
    let parameter = |i: usize| i / shape[2] % shape[1];
    let sets = if layer { pixel_sets(shape) } else { batch_sets(shape) };
    Norm { sets, parameter: &parameter }.forward_wide(x, gamma, beta, epsilon, a).0
}

fn batch_sets([batch, channels, pixels]: [usize; 3]) -> Vec<Vec<usize>> {
    (0..channels)
        .map(|c| (0..batch).flat_map(|b| (0..pixels).map(move |p| (b * channels + c) * pixels + p)).collect())
        .collect()
}

fn pixel_sets([batch, channels, pixels]: [usize; 3]) -> Vec<Vec<usize>> {
    (0..batch)
        .flat_map(|b| {
            (0..pixels).map(move |p| (0..channels).map(|c| (b * channels + c) * pixels + p).collect())
        })
        .collect()
}

pub(crate) fn batch_norm(
    shape: [usize; 3],
    x: &[f32],
    gamma: &[f32],
    beta: &[f32],
    epsilon: f32,
    a: Activation,
    y: &mut [f32],
) -> Stats {
    let parameter = |i: usize| i / shape[2] % shape[1];
    Norm { sets: batch_sets(shape), parameter: &parameter }.forward(x, gamma, beta, epsilon, a, y)
}

pub(crate) fn batch_norm_gradient(
    shape: [usize; 3],
    x: &[f32],
    gamma: &[f32],
    beta: &[f32],
    epsilon: f32,
    a: Activation,
    dy: &[f32],
    dx: &mut [f32],
    dgamma: &mut [f32],
    dbeta: &mut [f32],
) {
    let parameter = |i: usize| i / shape[2] % shape[1];
    Norm { sets: batch_sets(shape), parameter: &parameter }
        .backward(x, gamma, beta, epsilon, a, dy, dx, dgamma, dbeta);
}

pub(crate) fn layer_norm_2d(
    shape: [usize; 3],
    x: &[f32],
    gamma: &[f32],
    beta: &[f32],
    epsilon: f32,
    y: &mut [f32],
) {
    let parameter = |i: usize| i / shape[2] % shape[1];
    Norm { sets: pixel_sets(shape), parameter: &parameter }.forward(
        x,
        gamma,
        beta,
        epsilon,
        Activation::Identity,
        y,
    );
}

pub(crate) fn layer_norm_2d_gradient(
    shape: [usize; 3],
    x: &[f32],
    gamma: &[f32],
    epsilon: f32,
    dy: &[f32],
    dx: &mut [f32],
    dgamma: &mut [f32],
    dbeta: &mut [f32],
) {
    let parameter = |i: usize| i / shape[2] % shape[1];
    let beta = vec![0.0; gamma.len()];
    Norm { sets: pixel_sets(shape), parameter: &parameter }.backward(
        x,
        gamma,
        &beta,
        epsilon,
        Activation::Identity,
        dy,
        dx,
        dgamma,
        dbeta,
    );
}

pub(crate) fn gemm(s: &Gemm, a: &[f32], b: &[f32], c: &mut [f32]) {
    for i in 0..s.m {
        for j in 0..s.n {
            let mut sum = if s.accumulate { f64::from(c[i * s.n + j]) } else { 0.0 };
            for l in 0..s.k {
                let x = if s.a_transposed { a[l * s.m + i] } else { a[i * s.k + l] };
                let y = if s.b_transposed { b[j * s.k + l] } else { b[l * s.n + j] };
                sum += f64::from(x) * f64::from(y);
            }
            c[i * s.n + j] = sum as f32;
        }
    }
}
