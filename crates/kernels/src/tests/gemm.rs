use super::{close, numbers};
use crate::gemm::{Rows, gemm_part_with, gemm_with};
use crate::isa::Isa;
use crate::{Gemm, reference};
use proptest::prelude::*;

fn check(s: &Gemm, batch: usize, shared: bool) {
    let (a_stride, b_stride, c_stride) = (s.m * s.k, if shared { 0 } else { s.k * s.n }, s.m * s.n + 3);
    let a = numbers(batch * a_stride, 1);
    let b = numbers(if shared { s.k * s.n } else { batch * b_stride }, 2);
    let start = numbers(batch * c_stride, 3);
    let mut wanted = start.clone();
    for i in 0..batch {
        let c = &mut wanted[i * c_stride..][..s.m * s.n];
        reference::gemm(s, &a[i * a_stride..], &b[i * b_stride..], c);
    }
    for isa in Isa::available() {
        let mut found = start.clone();
        gemm_with(isa, s, batch, &a, a_stride, &b, b_stride, &mut found, c_stride);
        close(&format!("{isa:?} {s:?} batch {batch}"), &found, &wanted, 2e-4 + s.k as f32 * 2e-7);
    }
}

/// Rows of a matrix, each followed by `gap` floats that must not count.
fn spread(x: &[f32], width: usize, gap: usize) -> Vec<f32> {
    x.chunks(width.max(1)).flat_map(|row| row.iter().copied().chain(std::iter::repeat_n(1e9, gap))).collect()
}

fn check_part(s: &Gemm, gap: usize) {
    let (a, b, start) = (numbers(s.m * s.k, 1), numbers(s.k * s.n, 2), numbers(s.m * s.n, 3));
    let mut wanted = start.clone();
    reference::gemm(s, &a, &b, &mut wanted);
    let rows = Rows {
        a: gap + if s.a_transposed { s.m } else { s.k },
        b: gap + if s.b_transposed { s.k } else { s.n },
        c: gap + s.n,
    };
    let (a, b) = (spread(&a, rows.a - gap, gap), spread(&b, rows.b - gap, gap));
    for isa in Isa::available() {
        let mut found = spread(&start, s.n, gap);
        gemm_part_with(isa, s, rows, &a, &b, &mut found);
        let wanted = spread(&wanted, s.n, gap);
        close(&format!("{isa:?} {s:?} in rows {gap} apart"), &found, &wanted, 2e-4 + s.k as f32 * 2e-7);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]
    #[test]
    fn any_product_is_the_plain_sum(
        (m, n, k) in (0..70usize, 0..120usize, 0..600usize),
        (a_transposed, b_transposed, accumulate, shared) in any::<(bool, bool, bool, bool)>(),
        batch in 0..4usize,
    ) {
        check(&Gemm { m, n, k, a_transposed, b_transposed, accumulate }, batch, shared);
    }

    #[test]
    fn a_product_of_parts_is_the_plain_sum(
        (m, n, k, gap) in (0..70usize, 0..500usize, 0..300usize, 0..20usize),
        (a_transposed, b_transposed, accumulate) in any::<(bool, bool, bool)>(),
    ) {
        check_part(&Gemm { m, n, k, a_transposed, b_transposed, accumulate }, gap);
    }
}

#[test]
fn products_over_several_blocks() {
    for (m, n, k) in [(1100, 70, 300), (40, 900, 40), (600, 48, 20), (20, 33, 5000)] {
        for bits in 0..8 {
            let (a_transposed, b_transposed, accumulate) = (bits & 1 > 0, bits & 2 > 0, bits & 4 > 0);
            check(&Gemm { m, n, k, a_transposed, b_transposed, accumulate }, 1, false);
            check_part(&Gemm { m, n, k, a_transposed, b_transposed, accumulate }, 5);
        }
    }
}
