//! Ready convolutions against the plain ones in f64.

use super::{close, numbers};
use crate::isa::Isa;
use crate::ready::ReadyConv;
use crate::{Activation, Conv2d, activation, reference};
use proptest::prelude::*;

fn check(s: &Conv2d, what: Activation, with_residual: bool) {
    let x = numbers(s.in_channels * s.height * s.width, 1);
    let depth = s.in_channels / s.groups * s.kernel[0] * s.kernel[1];
    let weight = numbers(s.out_channels * depth, 2);
    let bias = numbers(s.out_channels, 3);
    let [oh, ow] = s.output();
    let len = s.out_channels * oh * ow;
    let residual = with_residual.then(|| numbers(len, 4));
    let (mut plain, mut wanted) = (vec![0.0; len], vec![0.0; len]);
    reference::conv2d(s, &x, &weight, Some(&bias), &mut plain);
    activation(what, &plain, &mut wanted);
    if let Some(residual) = &residual {
        wanted.iter_mut().zip(residual).for_each(|(w, r)| *w += r);
    }
    for isa in Isa::available() {
        let mut found = vec![f32::NAN; len];
        let ready = ReadyConv::with(isa, s, &weight, &bias, what);
        ready.forward([s.height, s.width], &x, residual.as_deref(), &mut found);
        close(&format!("{s:?} {what:?} {isa:?}"), &found, &wanted, 2e-5 * (1.0 + depth as f32 / 8.0));
    }
}

fn shapes() -> impl Strategy<Value = Conv2d> {
    let kind = prop_oneof![
        // Pointwise, Winograd, depthwise, groups and strides.
        (1..400usize, 1..70usize).prop_map(|(ci, co)| (ci, co, 1, [1, 1], [1, 1], [0, 0])),
        (16..40usize, 16..90usize).prop_map(|(ci, co)| (ci, co, 1, [3, 3], [1, 1], [1, 1])),
        (1..9usize, prop_oneof![Just(3usize), Just(5)], 1..3usize).prop_map(|(c, k, s)| (
            c,
            c,
            c,
            [k, k],
            [s, s],
            [k / 2, k / 2]
        )),
        (1..4usize, 1..9usize, 1..9usize).prop_map(|(g, ci, co)| (g * ci, g * co, g, [1, 1], [1, 1], [0, 0])),
        (1..4usize, 1..9usize, 1..9usize, 2..8usize, 1..4usize, 0..3usize)
            .prop_map(|(g, ci, co, k, s, p)| (g * ci, g * co, g, [k, k], [s, s], [p, p])),
    ];
    let side = || prop_oneof![8..40usize, Just(16), Just(32), Just(64)];
    (kind, side(), side()).prop_map(
        |((in_channels, out_channels, groups, kernel, stride, padding), height, width)| Conv2d {
            batch: 1,
            in_channels,
            out_channels,
            height,
            width,
            kernel,
            stride,
            padding,
            groups,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]
    #[test]
    fn what_the_plain_convolution_gives(s in shapes(), gelu in any::<bool>(), residual in any::<bool>()) {
        check(&s, if gelu { Activation::GeluTanh } else { Activation::Identity }, residual);
    }
}

/// Pictures smaller than a tile, the sizes around one, and one whose tiles with the gaps between rows are one more than a panel.
#[test]
fn edges_of_tiles() {
    let mut sizes: Vec<_> = (1..10).map(|side| (side, 11 - side)).collect();
    sizes.extend([(12, 40), (9, 37)]);
    for (height, width) in sizes {
        let s = Conv2d {
            batch: 1,
            in_channels: 16,
            out_channels: 17,
            height,
            width,
            kernel: [3, 3],
            stride: [1, 1],
            padding: [1, 1],
            groups: 1,
        };
        check(&s, Activation::Relu, true);
    }
}

/// A block gives what its convolutions give one after the other.
#[test]
fn blocks() {
    let conv = |ci: usize, co: usize, groups: usize, k: usize, stride: usize, isa: Isa, activation, seed| {
        let s = Conv2d {
            batch: 1,
            in_channels: ci,
            out_channels: co,
            height: 0,
            width: 0,
            kernel: [k, k],
            stride: [stride, stride],
            padding: [k / 2, k / 2],
            groups,
        };
        let weight = numbers(co * ci / groups * k * k, seed);
        ReadyConv::with(isa, &s, &weight, &numbers(co, seed + 1), activation)
    };
    let one_by_one = |layers: &[&ReadyConv], size: [usize; 2], x: &[f32], add: &[f32]| {
        let (mut x, mut size) = (x.to_vec(), size);
        for (i, layer) in layers.iter().enumerate() {
            let to = layer.output(size);
            let mut y = vec![0.0; layer.channels()[1] * to[0] * to[1]];
            layer.forward(size, &x, (i + 1 == layers.len()).then_some(add), &mut y);
            (x, size) = (y, to);
        }
        x
    };
    for isa in Isa::available() {
        for (n, (height, width)) in
            [(64, 64), (32, 32), (20, 20), (7, 5), (16, 48), (33, 17)].into_iter().enumerate()
        {
            let seed = 10 * n as u64;
            for (ci, hidden, co, stride) in [(24, 80, 20, 1), (16, 130, 9, 2), (40, 64, 33, 1)] {
                let size = [height, width];
                let x = numbers(ci * height * width, seed);
                let first = conv(ci, hidden, 1, 3, stride, isa, Activation::GeluTanh, 3);
                let last = conv(hidden, co, 1, 1, 1, isa, Activation::Identity, 5);
                let to = first.output(size);
                let add = numbers(co * to[0] * to[1], 7);
                let mut found = vec![f32::NAN; add.len()];
                crate::fused_block(&first, &last, size, &x, Some(&add), &mut found);
                let wanted = one_by_one(&[&first, &last], size, &x, &add);
                close(&format!("fused {size:?} {ci} {hidden} {co} {stride} {isa:?}"), &found, &wanted, 2e-3);

                let expand = conv(ci, hidden, 1, 1, 1, isa, Activation::Relu, 11);
                if stride == 1 {
                    found.fill(f32::NAN);
                    crate::fused_block(&expand, &last, size, &x, Some(&add), &mut found);
                    let wanted = one_by_one(&[&expand, &last], size, &x, &add);
                    close(&format!("pair {size:?} {ci} {hidden} {co} {isa:?}"), &found, &wanted, 2e-3);
                }
                let depthwise = conv(hidden, hidden, hidden, 3, stride, isa, Activation::GeluTanh, 13);
                found.fill(f32::NAN);
                crate::inverted_block(&expand, &depthwise, &last, size, &x, Some(&add), &mut found);
                let wanted = one_by_one(&[&expand, &depthwise, &last], size, &x, &add);
                close(
                    &format!("inverted {size:?} {ci} {hidden} {co} {stride} {isa:?}"),
                    &found,
                    &wanted,
                    2e-3,
                );
            }
        }
    }
}
