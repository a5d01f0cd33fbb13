//! The same bits however the threads are scheduled, and panics that say what is wrong.

use super::numbers;
use crate::{
    Activation, Conv2d, Gemm, batch_norm, batch_norm_gradient, conv2d, conv2d_input_gradient,
    conv2d_weight_gradient, gemm, layer_norm_2d_gradient, layer_norm_gradient,
};

const SHAPE: Conv2d = Conv2d {
    batch: 3,
    in_channels: 12,
    out_channels: 20,
    height: 33,
    width: 32,
    kernel: [3; 2],
    stride: [2, 1],
    padding: [1; 2],
    groups: 4,
};

/// Every function once, all results in one vector.
fn everything() -> Vec<u32> {
    let mut all = Vec::new();
    for s in [SHAPE, Conv2d { groups: 1, ..SHAPE }, Conv2d { out_channels: 12, groups: 12, ..SHAPE }] {
        let [oh, ow] = s.output();
        let x = numbers(s.batch * s.in_channels * s.height * s.width, 1);
        let weight = numbers(s.out_channels * s.in_channels / s.groups * 9, 2);
        let mut y = vec![0.0; s.batch * s.out_channels * oh * ow];
        let (mut dx, mut dw) = (x.clone(), weight.clone());
        conv2d(&s, &x, &weight, None, &mut y);
        conv2d_input_gradient(&s, &weight, &y, &mut dx);
        conv2d_weight_gradient(&s, &x, &y, &mut dw);
        all.extend(y.into_iter().chain(dx).chain(dw));
    }
    let (a, b, mut c) = (numbers(40 * 6000, 1), numbers(6000 * 30, 2), vec![0.0; 1200]);
    gemm(
        &Gemm { m: 40, n: 30, k: 6000, a_transposed: false, b_transposed: true, accumulate: false },
        &a,
        &b,
        &mut c,
    );
    all.extend(c);
    let (x, dy, gamma) = (numbers(5 * 16 * 600, 3), numbers(5 * 16 * 600, 4), numbers(16, 5));
    let (mut dx, mut dgamma, mut dbeta) = (x.clone(), gamma.clone(), gamma.clone());
    let shape = [5, 16, 600];
    let stats = batch_norm(shape, &x, &gamma, &gamma, 1e-5, Activation::Gelu, &mut dx);
    all.extend(&dx);
    let a = Activation::Gelu;
    batch_norm_gradient(shape, &x, &stats, &gamma, &gamma, 1e-5, a, &dy, &mut dx, &mut dgamma, &mut dbeta);
    all.extend(dx.iter().chain(&dgamma).chain(&dbeta));
    layer_norm_2d_gradient(shape, &x, &gamma, 1e-5, &dy, &mut dx, &mut dgamma, &mut dbeta);
    all.extend(dx.iter().chain(&dgamma).chain(&dbeta));
    layer_norm_gradient(3000, 16, &x, &gamma, 1e-5, &dy, &mut dx, &mut dgamma, &mut dbeta);
    all.extend(dx.iter().chain(&dgamma).chain(&dbeta));
    all.into_iter().map(f32::to_bits).collect()
}

#[test]
fn results_are_the_same_bit_for_bit() {
    for threads in [1, 2, 3, 5] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let first = pool.install(everything);
        for _ in 0..3 {
            // Other work in the pool moves tasks between the threads.
            let again = pool.install(|| rayon::join(everything, everything));
            assert!(again.0 == first && again.1 == first, "{threads} threads");
        }
    }
}

#[test]
#[should_panic(expected = "the length of the weight does not fit")]
fn a_weight_of_the_wrong_length_is_refused() {
    let [oh, ow] = SHAPE.output();
    conv2d(&SHAPE, &vec![0.0; 3 * 12 * 33 * 32], &[0.0; 9], None, &mut vec![0.0; 3 * 20 * oh * ow]);
}

#[test]
#[should_panic(expected = "the groups of a convolution must divide its channels")]
fn groups_that_do_not_divide_are_refused() {
    conv2d(&Conv2d { groups: 5, ..SHAPE }, &[], &[], None, &mut []);
}

#[test]
#[should_panic(expected = "a kernel within its padded input")]
fn a_kernel_larger_than_its_input_is_refused() {
    Conv2d { height: 0, padding: [0; 2], ..SHAPE }.output();
}

#[test]
#[should_panic(expected = "a has 3 floats, too few")]
fn a_short_matrix_is_refused() {
    let s = Gemm { m: 2, n: 2, k: 2, a_transposed: false, b_transposed: false, accumulate: false };
    gemm(&s, &[0.0; 3], &[0.0; 4], &mut [0.0; 4]);
}

#[test]
#[should_panic(expected = "the length of gamma does not fit the shape [1, 2, 3]")]
fn a_short_gamma_is_refused() {
    batch_norm([1, 2, 3], &[0.0; 6], &[0.0], &[0.0; 2], 1e-5, Activation::Relu, &mut [0.0; 6]);
}
