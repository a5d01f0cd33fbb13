//! Matrix products: blocks of B are packed into panels one tile wide, A is read where it lies.

use crate::Gemm;
use crate::isa::Isa;
use crate::micro::{A, B, C, MAX_ROWS, MAX_VECTORS, Output, tile, tile_rows};
use crate::scratch::{part, with_scratch};
use rayon::prelude::*;

/// Rows of a packed block of B: with a tile's columns it fills the first-level cache.
const K_BLOCK: usize = 256;
/// Columns of a packed block of B.
const N_BLOCK: usize = 384;
/// Rows of A that one task multiplies with a packed block.
const M_BLOCK: usize = 512;

/// Distances between the starts of neighbouring rows, as the matrices are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rows {
    /// Of `a`: at least `k`, or `m` if it is stored transposed.
    pub a: usize,
    /// Of `b`: at least `n`, or `k` if it is stored transposed.
    pub b: usize,
    /// Of `c`: at least `n`.
    pub c: usize,
}

impl Rows {
    /// Rows that lie one behind the other.
    pub fn contiguous(s: &Gemm) -> Self {
        Self { a: if s.a_transposed { s.m } else { s.k }, b: if s.b_transposed { s.k } else { s.n }, c: s.n }
    }
}

/// `c = a * b` (`+ c`) on the calling thread alone, for callers that divide their work themselves. The matrices may be parts
/// of larger ones, whose rows lie `rows` apart.
///
/// # Panics
/// When a row is longer than the distance to the next, or a slice too short.
pub fn gemm_part(s: &Gemm, rows: Rows, a: &[f32], b: &[f32], c: &mut [f32]) {
    gemm_part_with(Isa::best(), s, rows, a, b, c);
}

pub(crate) fn gemm_part_with(isa: Isa, s: &Gemm, rows: Rows, a: &[f32], b: &[f32], c: &mut [f32]) {
    if s.m == 0 || s.n == 0 {
        return;
    }
    let check = |name: &str, len: usize, stored: [usize; 2], step: usize| {
        let [count, width] = stored;
        let fits = width <= step && (count * width == 0 || (count - 1) * step + width <= len);
        assert!(fits, "{name}, {len} floats in rows {step} apart, does not hold the matrix of {s:?}");
    };
    check("a", a.len(), if s.a_transposed { [s.k, s.m] } else { [s.m, s.k] }, rows.a);
    check("b", b.len(), if s.b_transposed { [s.n, s.k] } else { [s.k, s.n] }, rows.b);
    check("c", c.len(), [s.m, s.n], rows.c);
    if s.k == 0 {
        if !s.accumulate {
            c.chunks_mut(rows.c).take(s.m).for_each(|row| row[..s.n].fill(0.0));
        }
        return;
    }
    let (m, n) = (0..s.m, 0..s.n);
    // SAFETY: `c` is borrowed by this call alone.
    #[allow(unsafe_code)]
    unsafe {
        for m0 in m.step_by(M_BLOCK) {
            for n0 in n.clone().step_by(N_BLOCK) {
                let (m, n) = (m0..s.m.min(m0 + M_BLOCK), n0..s.n.min(n0 + N_BLOCK));
                block(isa, s, rows, a, b, Output::new(c), 0, m, n, 0..s.k, s.accumulate);
            }
        }
    }
}

/// `c = a * b` (`+ c`), on all threads of the current rayon pool.
///
/// `a` is `[m, k]` (`[k, m]` if transposed), `b` is `[k, n]` (`[n, k]` if transposed), `c` is `[m, n]`.
///
/// # Panics
/// When a length does not fit the shape.
pub fn gemm(s: &Gemm, a: &[f32], b: &[f32], c: &mut [f32]) {
    gemm_batched(s, 1, a, s.m * s.k, b, s.k * s.n, c, s.m * s.n);
}

/// `batch` products, matrix `i` of each operand starting at `i * stride`; a stride of 0 shares one `a` or `b`.
///
/// # Panics
/// When an operand is too short for its last matrix, or the matrices of `c` overlap.
pub fn gemm_batched(
    s: &Gemm,
    batch: usize,
    a: &[f32],
    a_stride: usize,
    b: &[f32],
    b_stride: usize,
    c: &mut [f32],
    c_stride: usize,
) {
    gemm_with(Isa::best(), s, batch, a, a_stride, b, b_stride, c, c_stride);
}

pub(crate) fn gemm_with(
    isa: Isa,
    s: &Gemm,
    batch: usize,
    a: &[f32],
    a_stride: usize,
    b: &[f32],
    b_stride: usize,
    c: &mut [f32],
    c_stride: usize,
) {
    if batch == 0 || s.m == 0 || s.n == 0 {
        return;
    }
    let last = batch - 1;
    assert!(a.len() >= last * a_stride + s.m * s.k, "a has {} floats, too few for {batch} of {s:?}", a.len());
    assert!(b.len() >= last * b_stride + s.k * s.n, "b has {} floats, too few for {batch} of {s:?}", b.len());
    assert!(c.len() >= last * c_stride + s.m * s.n, "c has {} floats, too few for {batch} of {s:?}", c.len());
    assert!(last == 0 || c_stride >= s.m * s.n, "the matrices of c overlap: stride {c_stride} in {s:?}");
    if s.k == 0 {
        if !s.accumulate {
            (0..batch).for_each(|i| c[i * c_stride..][..s.m * s.n].fill(0.0));
        }
        return;
    }
    let threads = rayon::current_num_threads();
    let stored = Rows::contiguous(s);

    // Long sums of few outputs (weight gradients): each thread sums a fixed part of k.
    if batch == 1 && s.m * s.n <= 512 * 512 && s.k >= 8 * (s.m + s.n) && s.k >= 512 {
        let parts = (threads * 2).min(s.k / 256).max(1);
        let size = s.m * s.n;
        let mut partial = vec![0f32; parts * size];
        partial.par_chunks_mut(size).enumerate().for_each(|(index, to)| {
            let to = Output::new(to);
            // SAFETY: each task owns its chunk.
            #[allow(unsafe_code)]
            unsafe {
                block(isa, s, stored, a, b, to, 0, 0..s.m, 0..s.n, part(s.k, parts, index, 8), false);
            }
        });
        let accumulate = s.accumulate;
        c[..size].par_chunks_mut(4096).enumerate().for_each(|(chunk, c)| {
            for index in 0..parts {
                let from = &partial[index * size + chunk * 4096..][..c.len()];
                if index == 0 && !accumulate {
                    c.copy_from_slice(from);
                } else {
                    c.iter_mut().zip(from).for_each(|(c, f)| *c += f);
                }
            }
        });
        return;
    }

    let lanes = isa.lanes();
    let unit = tile_rows(isa);
    let mut rows = s.m.div_ceil(M_BLOCK);
    let mut columns = s.n.div_ceil(N_BLOCK);
    while batch * rows * columns < 2 * threads && (s.m / rows > 2 * unit || s.n / columns > 6 * lanes) {
        // Cutting rows makes each task pack all of B again; cutting columns does not.
        if s.n / columns > 6 * lanes && s.n / columns * 2 > s.m / rows {
            columns += 1;
        } else if s.m / rows > 2 * unit {
            rows += 1;
        } else {
            columns += 1;
        }
    }
    let output = Output::new(c);
    (0..batch * rows * columns).into_par_iter().for_each(|task| {
        let (matrix, row, column) = (task / (rows * columns), task / columns % rows, task % columns);
        // SAFETY: tasks write disjoint blocks of disjoint matrices of c, which is borrowed until all are done.
        #[allow(unsafe_code)]
        unsafe {
            block(
                isa,
                s,
                stored,
                &a[matrix * a_stride..],
                &b[matrix * b_stride..],
                output,
                matrix * c_stride,
                part(s.m, rows, row, unit),
                part(s.n, columns, column, lanes * MAX_VECTORS),
                0..s.k,
                s.accumulate,
            );
        }
    });
}

/// One block of C, from a range of the sum.
///
/// # Safety
/// Nobody else touches this block of C meanwhile.
#[allow(unsafe_code)]
unsafe fn block(
    isa: Isa,
    s: &Gemm,
    stored: Rows,
    a: &[f32],
    b: &[f32],
    c: Output,
    c_start: usize,
    m: std::ops::Range<usize>,
    n: std::ops::Range<usize>,
    k: std::ops::Range<usize>,
    accumulate: bool,
) {
    if m.is_empty() || n.is_empty() {
        return;
    }
    let lanes = isa.lanes();
    let width = lanes * MAX_VECTORS;
    let panels = n.len().div_ceil(width);
    let k_blocks = k.len().div_ceil(K_BLOCK).max(1);
    let unit = tile_rows(isa);
    // A column of a large transposed A lies on as many pages as it has elements: gather it once.
    let pack_a = s.a_transposed && s.m > 512;
    let k_most = k.len().div_ceil(k_blocks) + 8;
    with_scratch(panels * width * k_most + MAX_ROWS * width, |space| {
        let (packed, edge) = space.split_at_mut(panels * width * k_most);
        for k_block in 0..k_blocks {
            let here = part(k.len(), k_blocks, k_block, 8);
            let (k0, depth) = (k.start + here.start, here.len());
            pack(s, stored.b, b, &n, k0, depth, width, packed);
            let mut multiply = |a: &[f32], first: usize, rows: usize, row: usize, step: usize| {
                let rows_of_a = std::array::from_fn(|i| i * row);
                for panel in 0..panels {
                    let n0 = n.start + panel * width;
                    let columns = (n.end - n0).min(width);
                    let vectors = columns.div_ceil(lanes);
                    let from = &packed[panel * width * depth..][..width * depth];
                    let b = B::Strided { data: from, step: width };
                    for i0 in (0..rows).step_by(unit) {
                        let height = unit.min(rows - i0);
                        let a = A { data: &a[i0 * row..], rows: rows_of_a, step, skip: 0 };
                        let start = c_start + (first + i0) * stored.c + n0;
                        let accumulate = accumulate || k_block > 0;
                        if columns.is_multiple_of(lanes) {
                            let c = C { to: c, from: start, stride: stored.c, accumulate };
                            // SAFETY: this block of C is the caller's.
                            unsafe { tile(isa, height, vectors, 1, depth, &a, &b, &c) };
                        } else {
                            let to = C { to: Output::new(edge), from: 0, stride: width, accumulate: false };
                            // SAFETY: the edge buffer is ours.
                            unsafe { tile(isa, height, vectors, 1, depth, &a, &b, &to) };
                            for i in 0..height {
                                // SAFETY: this block of C is the caller's.
                                let to = unsafe { c.part(start + i * stored.c, columns) };
                                let from = &edge[i * width..][..columns];
                                if accumulate {
                                    to.iter_mut().zip(from).for_each(|(t, f)| *t += f);
                                } else {
                                    to.copy_from_slice(from);
                                }
                            }
                        }
                    }
                }
            };
            if pack_a {
                with_scratch(unit * depth, |column| {
                    for i0 in (m.start..m.end).step_by(unit) {
                        let height = unit.min(m.end - i0);
                        for l in 0..depth {
                            column[l * unit..][..height]
                                .copy_from_slice(&a[(k0 + l) * stored.a + i0..][..height]);
                        }
                        multiply(&column[..unit * depth], i0, height, 1, unit);
                    }
                });
            } else if s.a_transposed {
                multiply(&a[(k0 * stored.a + m.start).min(a.len())..], m.start, m.len(), 1, stored.a);
            } else {
                multiply(&a[m.start * stored.a + k0..], m.start, m.len(), stored.a, 1);
            }
        }
    });
}

/// Rows `k0..k0 + depth` and columns `n` of B, whose rows lie `row` apart, as panels `[panel, depth, width]`; the last is filled with zeros.
fn pack(
    s: &Gemm,
    row: usize,
    b: &[f32],
    n: &std::ops::Range<usize>,
    k0: usize,
    depth: usize,
    width: usize,
    packed: &mut [f32],
) {
    for (panel, n0) in (n.start..n.end).step_by(width).enumerate() {
        let columns = (n.end - n0).min(width);
        let to = &mut packed[panel * width * depth..][..width * depth];
        if s.b_transposed {
            for (j, column) in (n0..n0 + columns).enumerate() {
                let from = &b[column * row + k0..][..depth];
                for (to, &f) in to[j..].iter_mut().step_by(width).zip(from) {
                    *to = f;
                }
            }
            if columns < width {
                to.chunks_exact_mut(width).for_each(|row| row[columns..].fill(0.0));
            }
        } else if columns == width {
            for (l, line) in to.chunks_exact_mut(width).enumerate() {
                line.copy_from_slice(&b[(k0 + l) * row + n0..][..width]);
            }
        } else {
            for (l, line) in to.chunks_exact_mut(width).enumerate() {
                line[..columns].copy_from_slice(&b[(k0 + l) * row + n0..][..columns]);
                line[columns..].fill(0.0);
            }
        }
    }
}
