//! Times of the kernels at the shapes that training meets, as the best of several runs:
//! `cargo run -p kirie-kernels --release --example bench`
#![allow(clippy::print_stdout)]

use kirie_kernels::{
    Activation, Conv2d, Gemm, activation, activation_gradient, batch_norm, batch_norm_gradient, conv2d,
    conv2d_input_gradient, conv2d_weight_gradient, gemm, layer_norm, layer_norm_2d, layer_norm_2d_gradient,
    layer_norm_gradient,
};
use std::time::Instant;

fn best(mut f: impl FnMut()) -> f64 {
    f();
    let mut best = f64::MAX;
    for _ in 0..9 {
        let start = Instant::now();
        f();
        best = best.min(start.elapsed().as_secs_f64());
    }
    best
}

fn numbers(len: usize) -> Vec<f32> {
    (0..len).map(|i| ((i * 7919) % 2039) as f32 / 1019.5 - 1.0).collect()
}

fn convolution(in_channels: usize, out_channels: usize, k: usize, stride: usize, groups: usize, side: usize) {
    let s = Conv2d {
        batch: 8,
        in_channels,
        out_channels,
        height: side,
        width: side,
        kernel: [k; 2],
        stride: [stride; 2],
        padding: [k / 2; 2],
        groups,
    };
    let [oh, ow] = s.output();
    let x = numbers(s.batch * in_channels * side * side);
    let mut weight = numbers(out_channels * in_channels / groups * k * k);
    let mut y = numbers(s.batch * out_channels * oh * ow);
    let flops = (2 * y.len() * in_channels / groups * k * k) as f64;
    let forward = best(|| conv2d(&s, &x, &weight, None, &mut y));
    let mut dx = x.clone();
    let input = best(|| conv2d_input_gradient(&s, &weight, &y, &mut dx));
    let kernel = best(|| conv2d_weight_gradient(&s, &x, &y, &mut weight));
    let name = format!("{in_channels}->{out_channels} k{k} s{stride} g{groups} @{side}");
    let show = |t: f64| format!("{:7.2} ms {:6.1} GF", t * 1e3, flops / t / 1e9);
    println!("conv {name:32} forward {}  dx {}  dw {}", show(forward), show(input), show(kernel));
}

fn product(m: usize, k: usize, n: usize, a_transposed: bool, b_transposed: bool) {
    let s = Gemm { m, n, k, a_transposed, b_transposed, accumulate: false };
    let (a, b, mut c) = (numbers(m * k), numbers(k * n), vec![0.0; m * n]);
    let t = best(|| gemm(&s, &a, &b, &mut c));
    println!(
        "gemm [{m}, {k}]{} x [{k}, {n}]{}  {:.2} ms {:.1} GF",
        if a_transposed { "t" } else { "" },
        if b_transposed { "t" } else { "" },
        t * 1e3,
        2.0 * (m * n * k) as f64 / t / 1e9
    );
}

fn main() {
    println!("{} threads", rayon::current_num_threads());
    convolution(3, 16, 3, 2, 1, 256);
    convolution(16, 16, 3, 1, 1, 128);
    convolution(16, 64, 3, 2, 1, 128);
    convolution(32, 128, 3, 1, 1, 64);
    convolution(128, 32, 1, 1, 1, 64);
    convolution(384, 384, 3, 1, 384, 32);
    convolution(128, 128, 3, 1, 1, 32);
    convolution(480, 480, 5, 1, 480, 16);
    convolution(480, 480, 1, 1, 30, 16);
    convolution(96, 384, 1, 1, 1, 32);
    convolution(384, 96, 1, 1, 1, 32);
    convolution(64, 64, 3, 2, 64, 64);
    for (m, k, n) in [(32768, 128, 64), (32768, 64, 128), (4096, 256, 1024), (1024, 1024, 1024)] {
        product(m, k, n, false, false);
        product(m, k, n, false, true);
        product(k, m, n, true, false);
    }
    let shape = [8, 128, 4096];
    let x = numbers(8 * 128 * 4096);
    let dy: Vec<f32> = x.iter().rev().copied().collect();
    let mut y = x.clone();
    for a in Activation::ALL {
        let forward = best(|| activation(a, &x, &mut y));
        let backward = best(|| activation_gradient(a, &x, &dy, &mut y));
        println!("{a:?} of 4 M  forward {:.2} ms  backward {:.2} ms", forward * 1e3, backward * 1e3);
    }
    let (gamma, beta) = (numbers(128), numbers(128));
    let (mut dgamma, mut dbeta) = (numbers(128), numbers(128));
    for a in [Activation::Identity, Activation::GeluTanh] {
        let stats = batch_norm(shape, &x, &gamma, &beta, 1e-5, a, &mut y);
        let forward = best(|| {
            batch_norm(shape, &x, &gamma, &beta, 1e-5, a, &mut y);
        });
        let backward = best(|| {
            batch_norm_gradient(
                shape,
                &x,
                &stats,
                &gamma,
                &beta,
                1e-5,
                a,
                &dy,
                &mut y,
                &mut dgamma,
                &mut dbeta,
            );
        });
        println!("batch norm and {a:?}  forward {:.2} ms  backward {:.2} ms", forward * 1e3, backward * 1e3);
    }
    let forward = best(|| layer_norm(8 * 4096, 128, &x, &gamma, &beta, 1e-5, &mut y));
    let backward =
        best(|| layer_norm_gradient(8 * 4096, 128, &x, &gamma, 1e-5, &dy, &mut y, &mut dgamma, &mut dbeta));
    println!("layer norm  forward {:.2} ms  backward {:.2} ms", forward * 1e3, backward * 1e3);
    let forward = best(|| layer_norm_2d(shape, &x, &gamma, &beta, 1e-5, &mut y));
    let backward =
        best(|| layer_norm_2d_gradient(shape, &x, &gamma, 1e-5, &dy, &mut y, &mut dgamma, &mut dbeta));
    println!("layer norm 2d  forward {:.2} ms  backward {:.2} ms", forward * 1e3, backward * 1e3);
}
