//! The kernel under every matrix product and convolution: a tile of `C += A * B` held in registers.
//!
//! Each step of the inner sum reads up to eight scalars of A, at eight fixed distances from one moving pointer, and up
//! to three vectors of B. Convolutions use the same kernel: the rows of their B are shifted views of one zero-padded
//! image (forward, input gradient), or the rows of their A are (weight gradient), so no unfolded image is ever written.
#![allow(unsafe_code)]

use crate::isa::{Isa, Level};
use crate::vector::{Portable, Vector};

/// Most rows and most vectors of columns in a tile, over all instruction sets.
pub(crate) const MAX_ROWS: usize = 8;
pub(crate) const MAX_VECTORS: usize = 3;

/// Rows of a full tile.
pub(crate) fn tile_rows(isa: Isa) -> usize {
    match isa.level() {
        Level::Avx512 => 8,
        Level::Avx2 | Level::Portable => 4,
    }
}

/// Scalars of A: element (i, k) is `data[rows[i] + k * step]`, and after each run of `inner` steps the pointer moves
/// by `skip` more.
pub(crate) struct A<'a> {
    pub(crate) data: &'a [f32],
    pub(crate) rows: [usize; MAX_ROWS],
    pub(crate) step: usize,
    pub(crate) skip: usize,
}

/// Vectors of B.
pub(crate) enum B<'a> {
    /// Vector v of step k starts at `data[k * step + v * lanes]`.
    Strided { data: &'a [f32], step: usize },
    /// Vector v of step k starts at `data[table[k] + starts[v]]`; no entry of the table exceeds `reach`.
    Shifted { data: &'a [f32], table: &'a [usize], reach: usize, starts: [usize; MAX_VECTORS] },
}

/// Where results go. Tasks on several threads write disjoint parts of one slice through copies of this.
#[derive(Clone, Copy)]
pub(crate) struct Output {
    start: *mut f32,
    len: usize,
}

// SAFETY: an `Output` is only an address with a length; writing through it is unsafe and carries its own proof.
unsafe impl Send for Output {}
// SAFETY: as above.
unsafe impl Sync for Output {}

impl Output {
    pub(crate) fn new(to: &mut [f32]) -> Self {
        Self { start: to.as_mut_ptr(), len: to.len() }
    }

    /// # Safety
    /// The slice behind this output is still borrowed by the one who made it, and nobody else touches this part of it
    /// while the returned borrow lives.
    pub(crate) unsafe fn part<'a>(self, from: usize, len: usize) -> &'a mut [f32] {
        assert!(from <= self.len && len <= self.len - from, "part of an output out of range");
        // SAFETY: in range by the assertion, alive and unshared by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(from), len) }
    }
}

/// Most sums that [`dots`] keeps at once.
pub(crate) const MAX_DOTS: usize = 13;

/// `sums[i] += sum over y, x of of[y, x] * data[taps[i] + y * pitch + x]`, where `of` is `[rows, width]` and `width` a
/// whole number of vectors.
pub(crate) fn dots(
    isa: Isa,
    of: &[f32],
    width: usize,
    data: &[f32],
    pitch: usize,
    taps: &[usize],
    sums: &mut [f32],
) {
    let rows = of.len().checked_div(width).unwrap_or(0);
    if rows == 0 {
        return;
    }
    let furthest = taps.iter().copied().max().unwrap_or(0) + (rows - 1) * pitch + width;
    assert!(width.is_multiple_of(isa.lanes()) && furthest <= data.len(), "dot products out of range");
    assert!((1..=MAX_DOTS).contains(&taps.len()) && taps.len() == sums.len(), "number of dot products");
    // SAFETY: the ranges were just checked, and an `Isa` proves its instructions.
    unsafe {
        match isa.level() {
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => dots_avx512(of, rows, width, data, pitch, taps, sums),
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => dots_avx2(of, rows, width, data, pitch, taps, sums),
            _ => pick_dots::<Portable>(of, rows, width, data, pitch, taps, sums),
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx2,fma")]
unsafe fn dots_avx512(
    of: &[f32],
    rows: usize,
    width: usize,
    data: &[f32],
    pitch: usize,
    taps: &[usize],
    sums: &mut [f32],
) {
    // SAFETY: the caller's promise, passed on.
    unsafe { pick_dots::<std::arch::x86_64::__m512>(of, rows, width, data, pitch, taps, sums) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn dots_avx2(
    of: &[f32],
    rows: usize,
    width: usize,
    data: &[f32],
    pitch: usize,
    taps: &[usize],
    sums: &mut [f32],
) {
    // SAFETY: the caller's promise, passed on.
    unsafe { pick_dots::<std::arch::x86_64::__m256>(of, rows, width, data, pitch, taps, sums) }
}

#[inline(always)]
unsafe fn pick_dots<V: Vector>(
    of: &[f32],
    rows: usize,
    width: usize,
    data: &[f32],
    pitch: usize,
    taps: &[usize],
    sums: &mut [f32],
) {
    macro_rules! counts {
        ($($count:literal),*) => {
            match taps.len() {
                // SAFETY: the caller's promise, passed on.
                $($count => unsafe { run_dots::<V, $count>(of, rows, width, data, pitch, taps, sums) },)*
                _ => unreachable!("checked by `dots`"),
            }
        };
    }
    counts!(1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13);
}

#[inline(always)]
unsafe fn run_dots<V: Vector, const M: usize>(
    of: &[f32],
    rows: usize,
    width: usize,
    data: &[f32],
    pitch: usize,
    taps: &[usize],
    sums: &mut [f32],
) {
    // SAFETY: every vector read lies within `of` (rows * width floats) or within `data` at a tap plus a row plus a
    // column, as `dots` checked.
    unsafe {
        let taps: [usize; M] = std::array::from_fn(|i| taps[i]);
        let mut totals = [V::splat(0.0); M];
        for y in 0..rows {
            let (left, right) = (of.as_ptr().add(y * width), data.as_ptr().add(y * pitch));
            for x in (0..width).step_by(V::LANES) {
                let factor = V::load(left.add(x));
                for i in 0..M {
                    totals[i] = factor.fma(V::load(right.add(taps[i] + x)), totals[i]);
                }
            }
        }
        for (sum, total) in sums.iter_mut().zip(totals) {
            let mut lanes = [0f32; 16];
            total.store(lanes.as_mut_ptr());
            *sum += lanes.iter().sum::<f32>();
        }
    }
}

/// Rows of C: row i of the tile starts at `from + i * stride`.
pub(crate) struct C {
    pub(crate) to: Output,
    pub(crate) from: usize,
    pub(crate) stride: usize,
    /// Add to what is there.
    pub(crate) accumulate: bool,
}

/// `rows` by `vectors * lanes` elements of C from a sum over `outer` runs of `inner` steps.
///
/// # Safety
/// The slice behind `c` is still borrowed by the one who made the output, nobody else touches the elements of this tile
/// meanwhile, and no entry of a shifted B's table exceeds its reach. (All other ranges are checked here.)
pub(crate) unsafe fn tile(
    isa: Isa,
    rows: usize,
    vectors: usize,
    outer: usize,
    inner: usize,
    a: &A,
    b: &B,
    c: &C,
) {
    let lanes = isa.lanes();
    let steps = outer * inner;
    assert!((1..=tile_rows(isa)).contains(&rows) && (1..=MAX_VECTORS).contains(&vectors), "size of a tile");
    assert!(
        c.from + (rows - 1) * c.stride + vectors * lanes <= c.to.len,
        "tile of C out of range: {rows} rows of {vectors} vectors from {} of {}",
        c.from,
        c.to.len
    );
    if steps > 0 {
        let furthest =
            a.rows[..rows].iter().copied().max().unwrap_or(0) + (steps - 1) * a.step + (outer - 1) * a.skip;
        assert!(furthest < a.data.len(), "A out of range");
        match b {
            B::Strided { data, step } => {
                assert!((steps - 1) * step + vectors * lanes <= data.len(), "B out of range");
            }
            B::Shifted { data, table, reach, starts } => {
                let start = starts[..vectors].iter().copied().max().unwrap_or(0);
                assert!(
                    steps <= table.len() && reach + start + lanes <= data.len(),
                    "shifted B out of range"
                );
                debug_assert!(table.iter().all(|t| t <= reach), "an entry of a table exceeds its reach");
            }
        }
    }
    // SAFETY: the ranges were just checked, the caller answers for C, and an `Isa` proves its instructions.
    unsafe {
        match isa.level() {
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => avx512(rows, vectors, outer, inner, a, b, c),
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => avx2(rows, vectors, outer, inner, a, b, c),
            _ => pick::<Portable>(rows, vectors, outer, inner, a, b, c),
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx2,fma")]
unsafe fn avx512(rows: usize, vectors: usize, outer: usize, inner: usize, a: &A, b: &B, c: &C) {
    // SAFETY: the caller's promise, passed on.
    unsafe { pick::<std::arch::x86_64::__m512>(rows, vectors, outer, inner, a, b, c) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn avx2(rows: usize, vectors: usize, outer: usize, inner: usize, a: &A, b: &B, c: &C) {
    // SAFETY: the caller's promise, passed on.
    unsafe { pick::<std::arch::x86_64::__m256>(rows, vectors, outer, inner, a, b, c) }
}

/// The kernel compiled for this many rows and vectors.
#[inline(always)]
unsafe fn pick<V: Vector>(rows: usize, vectors: usize, outer: usize, inner: usize, a: &A, b: &B, c: &C) {
    macro_rules! sizes {
        ($(($rows:literal, $vectors:literal)),*) => {
            match (rows, vectors) {
                // SAFETY: the caller's promise, passed on.
                $(($rows, $vectors) if $rows <= V::ROWS => unsafe {
                    run::<V, $rows, $vectors>(outer, inner, a, b, c);
                },)*
                _ => unreachable!("checked by `tile`"),
            }
        };
    }
    sizes!(
        (8, 3),
        (8, 2),
        (8, 1),
        (7, 3),
        (7, 2),
        (7, 1),
        (6, 3),
        (6, 2),
        (6, 1),
        (5, 3),
        (5, 2),
        (5, 1),
        (4, 3),
        (4, 2),
        (4, 1),
        (3, 3),
        (3, 2),
        (3, 1),
        (2, 3),
        (2, 2),
        (2, 1),
        (1, 3),
        (1, 2),
        (1, 1)
    );
}

#[inline(always)]
unsafe fn run<V: Vector, const M: usize, const N: usize>(outer: usize, inner: usize, a: &A, b: &B, c: &C) {
    // SAFETY: every address formed here is one of those that `tile` checked: A at rows[i] + steps, B at its step and
    // vector, C at its row and vector. After the last step the pointers may pass the end, so they are moved with
    // wrapping arithmetic and not read.
    unsafe {
        // No closure in these loops: one that the compiler does not inline is compiled for the baseline, and its vector
        // instructions become calls.
        let (mut sums, mut columns) = ([[V::splat(0.0); N]; M], [V::splat(0.0); N]);
        let rows: [usize; M] = std::array::from_fn(|i| a.rows[i]);
        // Results lie in short stretches of many rows, which no prefetcher foresees; they come while the sums are made.
        for i in 0..M {
            V::prefetch(c.to.start.add(c.from + i * c.stride));
            V::prefetch(c.to.start.add(c.from + i * c.stride + N * V::LANES - 1));
            if N > 2 {
                V::prefetch(c.to.start.add(c.from + i * c.stride + V::LANES));
            }
        }
        let mut at = a.data.as_ptr();
        match *b {
            B::Strided { data, step } => {
                let mut from = data.as_ptr();
                for _ in 0..outer {
                    for _ in 0..inner {
                        for (v, column) in columns.iter_mut().enumerate() {
                            *column = V::load(from.add(v * V::LANES));
                        }
                        for i in 0..M {
                            let scalar = V::splat(*at.add(rows[i]));
                            for v in 0..N {
                                sums[i][v] = scalar.fma(columns[v], sums[i][v]);
                            }
                        }
                        at = at.wrapping_add(a.step);
                        from = from.wrapping_add(step);
                    }
                    at = at.wrapping_add(a.skip);
                }
            }
            B::Shifted { data, table, starts, .. } => {
                let from: [*const f32; N] = std::array::from_fn(|v| data.as_ptr().add(starts[v]));
                for &shift in &table[..outer * inner] {
                    for (v, column) in columns.iter_mut().enumerate() {
                        *column = V::load(from[v].add(shift));
                    }
                    for i in 0..M {
                        let scalar = V::splat(*at.add(rows[i]));
                        for v in 0..N {
                            sums[i][v] = scalar.fma(columns[v], sums[i][v]);
                        }
                    }
                    at = at.wrapping_add(a.step);
                }
            }
        }
        for (i, row) in sums.into_iter().enumerate() {
            for (v, sum) in row.into_iter().enumerate() {
                let to = c.to.start.add(c.from + i * c.stride + v * V::LANES);
                if c.accumulate {
                    sum.add(V::load(to)).store(to);
                } else {
                    sum.store(to);
                }
            }
        }
    }
}
