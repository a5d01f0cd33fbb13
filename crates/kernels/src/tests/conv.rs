use super::{close, numbers};
use crate::conv::{conv2d_with, input_gradient_with, weight_gradient_with};
use crate::isa::Isa;
use crate::{Conv2d, reference};
use proptest::prelude::*;

fn shapes() -> impl Strategy<Value = Conv2d> {
    let kernel = prop_oneof![Just(1usize), Just(2), Just(3), Just(5), Just(7)];
    let channels = prop_oneof![
        (Just(1usize), 1..20usize, 1..20usize),
        (2..5usize, 1..6usize, 1..6usize),
        (1..24usize, Just(1usize), Just(1usize)),
    ];
    let side = prop_oneof![7..24usize, Just(16), Just(32)];
    (
        (kernel.clone(), kernel),
        (1..4usize, 1..4usize, 0..3usize, 0..3usize),
        channels,
        (side.clone(), side),
        1..4usize,
    )
        .prop_map(|((kh, kw), (sh, sw, ph, pw), (groups, ci, co), (height, width), batch)| Conv2d {
            batch,
            in_channels: groups * ci,
            out_channels: groups * co,
            height,
            width,
            kernel: [kh, kw],
            stride: [sh, sw],
            padding: [ph, pw],
            groups,
        })
}

pub(super) fn check(s: &Conv2d) {
    let [oh, ow] = s.output();
    let x = numbers(s.batch * s.in_channels * s.height * s.width, 1);
    let weight = numbers(s.out_channels * s.in_channels / s.groups * s.kernel[0] * s.kernel[1], 2);
    let bias = numbers(s.out_channels, 3);
    let dy = numbers(s.batch * s.out_channels * oh * ow, 4);
    let mut wanted = (vec![0.0; dy.len()], vec![0.0; dy.len()], vec![0.0; x.len()], vec![0.0; weight.len()]);
    reference::conv2d(s, &x, &weight, None, &mut wanted.0);
    reference::conv2d(s, &x, &weight, Some(&bias), &mut wanted.1);
    reference::conv2d_input_gradient(s, &weight, &dy, &mut wanted.2);
    reference::conv2d_weight_gradient(s, &x, &dy, &mut wanted.3);
    for isa in Isa::available() {
        let nan = |len: usize| vec![f32::NAN; len];
        let mut found = (nan(dy.len()), nan(dy.len()), nan(x.len()), nan(weight.len()));
        conv2d_with(isa, s, &x, &weight, None, &mut found.0);
        close(&format!("{isa:?} forward {s:?}"), &found.0, &wanted.0, 2e-4);
        conv2d_with(isa, s, &x, &weight, Some(&bias), &mut found.1);
        close(&format!("{isa:?} biased {s:?}"), &found.1, &wanted.1, 2e-4);
        input_gradient_with(isa, s, &weight, &dy, &mut found.2);
        close(&format!("{isa:?} input gradient {s:?}"), &found.2, &wanted.2, 2e-4);
        weight_gradient_with(isa, s, &x, &dy, &mut found.3);
        close(&format!("{isa:?} weight gradient {s:?}"), &found.3, &wanted.3, 1e-3);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]
    #[test]
    fn any_convolution_is_the_plain_sum(s in shapes()) {
        check(&s);
    }
}

#[test]
fn convolutions_longer_than_one_block_of_the_sum() {
    for (ci, co, k, groups, stride) in
        [(80, 24, 3, 1, 1), (40, 50, 3, 1, 2), (340, 9, 1, 1, 1), (96, 96, 5, 2, 1)]
    {
        check(&Conv2d {
            batch: 2,
            in_channels: ci,
            out_channels: co,
            height: 16,
            width: 19,
            kernel: [k; 2],
            stride: [stride; 2],
            padding: [k / 2; 2],
            groups,
        });
    }
}
