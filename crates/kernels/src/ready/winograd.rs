//! 3x3 convolutions of stride 1 by Winograd's way, F(4x4, 3x3) (Lavin and Gray, "Fast algorithms for convolutional neural networks",
//! 2015, section 4.3): a tile of 4 x 4 results comes from 6 x 6 pixels by 36 multiplications for each pair of channels instead of 144.
//!
//! Pixels and weights are transformed, `V = B^T d B` and `U = G g G^T`; for each of the 36 places the channels are summed as a matrix
//! product, `M = U V`; and results are transformed back, `Y = A^T M A`. Tiles lie side by side in a vector, so the transforms are plain
//! vector arithmetic; a slab cut by four brings every tile's pixel under its neighbour's.
#![allow(unsafe_code)]

use super::finish::Finish;
use super::pointwise::Pointwise;
use super::{BLOCK, blocks_of_rows, rows_of_block, spread_rows};
use crate::Conv2d;
use crate::conv::slab::Slab;
use crate::isa::{Isa, Level};
use crate::micro::{A, B, C, MAX_VECTORS, Output, tile, tile_rows};
use crate::scratch::with_scratch;
use crate::vector::{Portable, Vector};
use rayon::prelude::*;

/// Side of a tile's results, and of the pixels they come from.
const SIDE: usize = 4;
const FROM: usize = 6;
const PLACES: usize = FROM * FROM;

/// Most rows of tiles in a task.
const MOST_ROWS: usize = 8;

#[derive(Debug)]
pub(super) struct Winograd {
    isa: Isa,
    /// For each block of [`BLOCK`] output channels, for each place, blocks of rows.
    weight: Vec<f32>,
}

/// `G g`: three values along one side of a kernel to six.
fn spread(g: [f64; 3]) -> [f64; FROM] {
    let [a, b, c] = g;
    let (even, odd) = (a + c, b);
    let (wide, half) = (a / 24.0 + c / 6.0, b / 12.0);
    [a / 4.0, -(even + odd) / 6.0, -(even - odd) / 6.0, wide + half, wide - half, c]
}

impl Winograd {
    pub(super) fn new(isa: Isa, shape: &Conv2d, weight: &[f32]) -> Self {
        let (ci, co) = (shape.in_channels, shape.out_channels);
        let mut places = vec![0.0; PLACES * co * ci];
        for (pair, kernel) in weight.chunks_exact(9).enumerate() {
            let g: [f64; 9] = std::array::from_fn(|i| f64::from(kernel[i]));
            // Down, then across.
            let columns: [[f64; FROM]; 3] = std::array::from_fn(|x| spread([g[x], g[3 + x], g[6 + x]]));
            for y in 0..FROM {
                for (x, value) in
                    spread([columns[0][y], columns[1][y], columns[2][y]]).into_iter().enumerate()
                {
                    places[(y * FROM + x) * co * ci + pair] = value as f32;
                }
            }
        }
        let mut weight = Vec::new();
        for first in (0..co).step_by(BLOCK) {
            let channels = BLOCK.min(co - first);
            for place in places.chunks_exact(co * ci) {
                weight.extend(blocks_of_rows(isa, &place[first * ci..][..channels * ci], ci));
            }
        }
        Self { isa, weight }
    }

    /// The convolution, finished; or, with what comes `then`, the pointwise convolution of that, finished in its turn.
    pub(super) fn forward(
        &self,
        s: &Conv2d,
        x: &[f32],
        finish: &Finish,
        then: Option<(&Pointwise, &Finish)>,
        y: &mut [f32],
    ) {
        let (isa, lanes) = (self.isa, self.isa.lanes());
        let panel = lanes * MAX_VECTORS;
        let (down, across) = (s.height.div_ceil(SIDE), s.width.div_ceil(SIDE));
        // Rows of tiles that are no whole number of vectors: the gap between rows of the slab is a tile too, and dropped.
        let width = if across.is_multiple_of(lanes) { across } else { across + 1 };
        // As many rows in a task as leave the fewest places of its last panel empty.
        let waste = |rows: usize| ((rows * width).next_multiple_of(panel) - rows * width) * 1000 / rows;
        let rows = (1..=MOST_ROWS.min(down)).min_by_key(|&rows| waste(rows)).unwrap_or(1);
        let to = Output::new(y);
        (0..down.div_ceil(rows)).into_par_iter().for_each(|task| {
            let first = task * rows;
            let tiles = Tiles { isa, s, first, rows: rows.min(down - first), across, width };
            // SAFETY: the tasks write disjoint rows of y, which is borrowed until all are done.
            unsafe { self.rows(&tiles, x, finish, then, to) };
        });
    }

    /// # Safety
    /// Nobody else touches the rows of these tiles meanwhile.
    unsafe fn rows(
        &self,
        tiles: &Tiles,
        x: &[f32],
        finish: &Finish,
        then: Option<(&Pointwise, &Finish)>,
        to: Output,
    ) {
        let (isa, lanes, s) = (self.isa, self.isa.lanes(), tiles.s);
        let (ci, co) = (s.in_channels, s.out_channels);
        let panel = lanes * MAX_VECTORS;
        let slab = Slab::new([FROM; 2], [SIDE; 2], tiles.rows, tiles.across);
        let table: [usize; PLACES] = std::array::from_fn(|i| slab.tap(i / FROM, i % FROM));
        let kept = BLOCK.min(co.next_multiple_of(tile_rows(isa)));
        // What vectors read past the last channel's last tile.
        let room = ci * slab.channel + table.iter().max().unwrap_or(&0) + panel;
        // Results of a panel for what comes then: line by line, each of all its tiles.
        let stride = spread_rows(SIDE * SIDE * panel);
        let middle = then.map_or([0, 0], |(project, _)| [kept * stride, project.rows * stride]);
        with_scratch(room + PLACES * panel * (ci + kept) + middle[0] + middle[1], |space| {
            let (data, space) = space.split_at_mut(room);
            let (pixels, space) = space.split_at_mut(PLACES * panel * ci);
            let (products, space) = space.split_at_mut(PLACES * panel * kept);
            let (results, sums) = space.split_at_mut(middle[0]);
            let top = (tiles.first * SIDE) as isize - 1;
            slab.fill(x, s.height, s.width, top, -1, data);
            let vectors = (tiles.rows * tiles.width).div_ceil(lanes);
            for begin in (0..vectors).step_by(MAX_VECTORS) {
                let count = MAX_VECTORS.min(vectors - begin);
                for v in 0..count {
                    let n = (begin + v) * lanes;
                    let start = n / tiles.width * slab.columns + n % tiles.width;
                    for channel in 0..ci {
                        let from = &data[channel * slab.channel + start..];
                        to_places(isa, from, &table, &mut pixels[channel * panel + v * lanes..], ci * panel);
                    }
                }
                for first in (0..co).step_by(BLOCK) {
                    let channels = first..co.min(first + BLOCK);
                    self.multiply(channels.clone(), ci, count, kept, pixels, products);
                    let mut lines = [0f32; SIDE * SIDE * 16];
                    for (i, channel) in channels.clone().enumerate() {
                        for v in 0..count {
                            from_places(isa, &products[i * panel + v * lanes..], kept * panel, &mut lines);
                            if then.is_none() {
                                let line = |line: usize| &lines[line * SIDE * lanes..][..SIDE * lanes];
                                // SAFETY: the rows of the result are the caller's.
                                unsafe { tiles.write((begin + v) * lanes, line, channel, finish, to) };
                                continue;
                            }
                            for (line, from) in lines.chunks_exact(SIDE * lanes).take(SIDE).enumerate() {
                                let at = i * stride + line * SIDE * panel + v * SIDE * lanes;
                                results[at..][..SIDE * lanes].copy_from_slice(from);
                            }
                        }
                        if then.is_some() {
                            finish.here(isa, channel, &mut results[i * stride..][..SIDE * SIDE * panel]);
                        }
                    }
                    if let Some((project, _)) = then {
                        project.add_block(channels, results, stride, SIDE * SIDE * MAX_VECTORS, sums);
                    }
                }
                let Some((_, last)) = then else { continue };
                for (channel, sums) in sums.chunks_exact(stride).take(last.bias.len()).enumerate() {
                    for v in 0..count {
                        let line =
                            |line: usize| &sums[line * SIDE * panel + v * SIDE * lanes..][..SIDE * lanes];
                        // SAFETY: as above.
                        unsafe { tiles.write((begin + v) * lanes, line, channel, last, to) };
                    }
                }
            }
        });
    }

    /// `M = U V` for a block of output channels: `pixels` `[place, ci, panel]` to `products` `[place, kept, panel]`.
    fn multiply(
        &self,
        channels: std::ops::Range<usize>,
        ci: usize,
        vectors: usize,
        kept: usize,
        pixels: &[f32],
        products: &mut [f32],
    ) {
        let unit = tile_rows(self.isa);
        let panel = self.isa.lanes() * MAX_VECTORS;
        let padded = channels.len().next_multiple_of(unit);
        let weight = &self.weight[PLACES * channels.start * ci..][..PLACES * padded * ci];
        let products = Output::new(products);
        for (place, weight) in weight.chunks_exact(padded * ci).enumerate() {
            let b = B::Strided { data: &pixels[place * ci * panel..][..ci * panel], step: panel };
            for i0 in (0..padded).step_by(unit) {
                let a = A { data: &weight[i0 * ci..], rows: rows_of_block(), step: unit, skip: 0 };
                let from = (place * kept + i0) * panel;
                let c = C { to: products, from, stride: panel, accumulate: false };
                // SAFETY: the products are borrowed by this call alone.
                unsafe { tile(self.isa, unit, vectors, 1, ci, &a, &b, &c) };
            }
        }
    }
}

/// Some rows of tiles.
struct Tiles<'a> {
    isa: Isa,
    s: &'a Conv2d,
    first: usize,
    rows: usize,
    /// Tiles in a row, without and with the gap.
    across: usize,
    width: usize,
}

impl Tiles<'_> {
    /// Writes what lies within the picture of a vector of tiles, from tile `n` on, whose results are four lines.
    ///
    /// # Safety
    /// Nobody else touches these rows of the channel meanwhile.
    unsafe fn write<'l>(
        &self,
        n: usize,
        lines: impl Fn(usize) -> &'l [f32],
        channel: usize,
        finish: &Finish,
        to: Output,
    ) {
        let (lanes, s) = (self.isa.lanes(), self.s);
        let mut done = 0;
        while done < lanes {
            let (row, column) = ((n + done) / self.width, (n + done) % self.width);
            if row >= self.rows {
                return;
            }
            let run = (self.width - column).min(lanes - done);
            let x = column * SIDE;
            let len = (run * SIDE).min(s.width.saturating_sub(x));
            for line in 0..SIDE {
                let y = (self.first + row) * SIDE + line;
                if len > 0 && y < s.height {
                    let at = (channel * s.height + y) * s.width + x;
                    // SAFETY: the caller's promise.
                    unsafe { finish.copy(self.isa, channel, &lines(line)[done * SIDE..][..len], to, at) };
                }
            }
            done += run;
        }
    }
}

/// `V = B^T d B` of a vector of tiles: pixel `i` of a tile lies at `from[table[i]]`, place `i` goes to `to[i * stride]`.
fn to_places(isa: Isa, from: &[f32], table: &[usize; PLACES], to: &mut [f32], stride: usize) {
    let lanes = isa.lanes();
    assert!(
        table.iter().all(|t| t + lanes <= from.len()) && (PLACES - 1) * stride + lanes <= to.len(),
        "pixels of tiles out of range"
    );
    // SAFETY: the ranges were just checked, and an `Isa` proves its instructions.
    unsafe {
        match isa.level() {
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => to_places_avx512(from, table, to, stride),
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => to_places_avx2(from, table, to, stride),
            _ => forth::<Portable>(from, table, to, stride),
        }
    }
}

/// `Y = A^T M A` of a vector of tiles: place `i` lies at `from[i * stride]`; `to` gets four lines of the tiles' results.
fn from_places(isa: Isa, from: &[f32], stride: usize, to: &mut [f32; SIDE * SIDE * 16]) {
    assert!((PLACES - 1) * stride + isa.lanes() <= from.len(), "products of tiles out of range");
    // SAFETY: as above; `to` has room for the longest vectors.
    unsafe {
        match isa.level() {
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => from_places_avx512(from, stride, to),
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => from_places_avx2(from, stride, to),
            _ => back::<Portable>(from, stride, to),
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx2,fma")]
unsafe fn to_places_avx512(from: &[f32], table: &[usize; PLACES], to: &mut [f32], stride: usize) {
    // SAFETY: the caller's promise, passed on.
    unsafe { forth::<std::arch::x86_64::__m512>(from, table, to, stride) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn to_places_avx2(from: &[f32], table: &[usize; PLACES], to: &mut [f32], stride: usize) {
    // SAFETY: the caller's promise, passed on.
    unsafe { forth::<std::arch::x86_64::__m256>(from, table, to, stride) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx2,fma")]
unsafe fn from_places_avx512(from: &[f32], stride: usize, to: &mut [f32; SIDE * SIDE * 16]) {
    // SAFETY: the caller's promise, passed on.
    unsafe { back::<std::arch::x86_64::__m512>(from, stride, to) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn from_places_avx2(from: &[f32], stride: usize, to: &mut [f32; SIDE * SIDE * 16]) {
    // SAFETY: the caller's promise, passed on.
    unsafe { back::<std::arch::x86_64::__m256>(from, stride, to) }
}

/// `a * x + y`
#[inline(always)]
unsafe fn plus<V: Vector>(a: f32, x: V, y: V) -> V {
    // SAFETY: the caller's promise, passed on.
    unsafe { V::splat(a).fma(x, y) }
}

/// `B^T` times six values.
#[inline(always)]
unsafe fn forth_line<V: Vector>(d: [V; FROM]) -> [V; FROM] {
    // SAFETY: the caller's promise, passed on.
    unsafe {
        let zero = V::splat(0.0);
        let (even, odd) = (plus(-4.0, d[2], d[4]), plus(-4.0, d[1], d[3]));
        let (near, far) = (plus(-1.0, d[2], d[4]), plus(-2.0, d[1], plus(2.0, d[3], zero)));
        [
            plus(4.0, d[0], plus(-5.0, d[2], d[4])),
            even.add(odd),
            plus(-1.0, odd, even),
            near.add(far),
            plus(-1.0, far, near),
            plus(4.0, d[1], plus(-5.0, d[3], d[5])),
        ]
    }
}

#[inline(always)]
unsafe fn forth<V: Vector>(from: &[f32], table: &[usize; PLACES], to: &mut [f32], stride: usize) {
    // SAFETY: `to_places` checked every pixel and place.
    unsafe {
        let mut rows = [[V::splat(0.0); FROM]; FROM];
        for x in 0..FROM {
            let mut column = [V::splat(0.0); FROM];
            for (y, value) in column.iter_mut().enumerate() {
                *value = V::load(from.as_ptr().add(table[y * FROM + x]));
            }
            let column = forth_line(column);
            for (row, value) in rows.iter_mut().zip(column) {
                row[x] = value;
            }
        }
        for (y, row) in rows.into_iter().enumerate() {
            for (x, value) in forth_line(row).into_iter().enumerate() {
                value.store(to.as_mut_ptr().add((y * FROM + x) * stride));
            }
        }
    }
}

/// `A^T` times six values.
#[inline(always)]
unsafe fn back_line<V: Vector>(m: [V; FROM]) -> [V; SIDE] {
    // SAFETY: the caller's promise, passed on.
    unsafe {
        let (near, far) = (m[1].add(m[2]), m[3].add(m[4]));
        let (near_odd, far_odd) = (plus(-1.0, m[2], m[1]), plus(-1.0, m[4], m[3]));
        [
            m[0].add(near).add(far),
            plus(2.0, far_odd, near_odd),
            plus(4.0, far, near),
            plus(8.0, far_odd, near_odd).add(m[5]),
        ]
    }
}

#[inline(always)]
unsafe fn back<V: Vector>(from: &[f32], stride: usize, to: &mut [f32; SIDE * SIDE * 16]) {
    // SAFETY: `from_places` checked every place; `to` holds four lines of four results for each of at most 16 tiles.
    unsafe {
        let mut rows = [[V::splat(0.0); FROM]; SIDE];
        for x in 0..FROM {
            let mut column = [V::splat(0.0); FROM];
            for (y, value) in column.iter_mut().enumerate() {
                *value = V::load(from.as_ptr().add((y * FROM + x) * stride));
            }
            let column = back_line(column);
            for (row, value) in rows.iter_mut().zip(column) {
                row[x] = value;
            }
        }
        for (line, row) in to.chunks_exact_mut(SIDE * V::LANES).zip(rows) {
            let mut columns = [[0f32; 16]; SIDE];
            for (column, value) in columns.iter_mut().zip(back_line(row)) {
                value.store(column.as_mut_ptr());
            }
            for (n, tile) in line.chunks_exact_mut(SIDE).enumerate() {
                for (value, column) in tile.iter_mut().zip(&columns) {
                    *value = column[n];
                }
            }
        }
    }
}
