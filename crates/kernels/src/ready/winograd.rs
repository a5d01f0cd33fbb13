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
use crate::isa::{Isa, Level, for_each_isa};
use crate::micro::{A, B, C, Output, tile, tile_rows};
use crate::scratch::with_scratch;
use crate::vector::{Portable, Vector, prefetch};
use rayon::prelude::*;
use std::ops::Range;

/// Side of a tile's results, and of the pixels they come from.
const SIDE: usize = 4;
const FROM: usize = 6;
const PLACES: usize = FROM * FROM;

/// Vectors of tiles in a panel: with three, SAM's 256 channels would not fit into the second-level cache.
const ABREAST: usize = 2;

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
        let lanes = self.isa.lanes();
        let (down, across) = (s.height.div_ceil(SIDE), s.width.div_ceil(SIDE));
        // Rows of tiles that are no whole number of vectors: a gap between rows is a tile too, and dropped.
        let width = if across.is_multiple_of(lanes) { across } else { across + 1 };
        // (After the last row there is none.)
        let (all, panel) = ((down - 1) * width + across, lanes * ABREAST);
        let to = Output::new(y);
        (0..all.div_ceil(panel)).into_par_iter().for_each(|task| {
            let tiles = Tiles::new(self.isa, s, width, task * panel..all.min((task + 1) * panel));
            // SAFETY: the tasks write disjoint tiles of y, which is borrowed until all are done.
            unsafe { self.panel(&tiles, x, finish, then, to) };
        });
    }

    /// # Safety
    /// Nobody else touches these tiles of the result meanwhile.
    unsafe fn panel(
        &self,
        tiles: &Tiles,
        x: &[f32],
        finish: &Finish,
        then: Option<(&Pointwise, &Finish)>,
        to: Output,
    ) {
        let (isa, lanes) = (self.isa, self.isa.lanes());
        let (ci, co) = (tiles.s.in_channels, tiles.s.out_channels);
        let panel = lanes * ABREAST;
        let kept = BLOCK.min(co.next_multiple_of(tile_rows(isa)));
        // Places lie so far apart that a tile's 36 do not fall on one another in the cache.
        let apart = [ci * panel, kept * panel].map(spread_rows);
        // Results for what comes then.
        let stride = spread_rows(SIDE * SIDE * panel);
        let middle = then.map_or([0, 0], |(project, _)| [kept * stride, project.rows * stride]);
        with_scratch(PLACES * (apart[0] + apart[1]) + middle[0] + middle[1], |space| {
            let (pixels, space) = space.split_at_mut(PLACES * apart[0]);
            let (products, space) = space.split_at_mut(PLACES * apart[1]);
            let (results, sums) = space.split_at_mut(middle[0]);
            let vectors = tiles.count.div_ceil(lanes);
            tiles.transform(x, pixels, apart[0]);
            for first in (0..co).step_by(BLOCK) {
                let channels = first..co.min(first + BLOCK);
                self.multiply(channels.clone(), ci, vectors, apart, pixels, products);
                let mut tile_results = [0f32; SIDE * SIDE * 16];
                for (i, channel) in channels.clone().enumerate() {
                    for v in 0..vectors {
                        let from = &products[i * panel + v * lanes..];
                        if then.is_some() {
                            let to = i * stride + v * SIDE * SIDE * lanes;
                            from_places(isa, from, apart[1], &mut results[to..]);
                            continue;
                        }
                        from_places(isa, from, apart[1], &mut tile_results);
                        // SAFETY: these tiles of the result are the caller's.
                        unsafe { tiles.write(v, &tile_results, channel, finish, to) };
                    }
                    if then.is_some() {
                        finish.here(
                            isa,
                            channel,
                            &mut results[i * stride..][..SIDE * SIDE * vectors * lanes],
                        );
                    }
                }
                if let Some((project, _)) = then {
                    project.add_block(channels, results, stride, SIDE * SIDE * vectors, sums);
                }
            }
            let Some((_, last)) = then else { return };
            for (channel, sums) in sums.chunks_exact(stride).take(last.bias.len()).enumerate() {
                for v in 0..vectors {
                    // SAFETY: as above.
                    unsafe { tiles.write(v, &sums[v * SIDE * SIDE * lanes..], channel, last, to) };
                }
            }
        });
    }

    /// `M = U V` for a block of output channels: for each place `pixels` `[ci, panel]` to `products` `[block, panel]`; places lie `apart`.
    fn multiply(
        &self,
        channels: Range<usize>,
        ci: usize,
        vectors: usize,
        apart: [usize; 2],
        pixels: &[f32],
        products: &mut [f32],
    ) {
        let unit = tile_rows(self.isa);
        let panel = self.isa.lanes() * ABREAST;
        let padded = channels.len().next_multiple_of(unit);
        let weight = &self.weight[PLACES * channels.start * ci..][..PLACES * padded * ci];
        let products = Output::new(products);
        for (place, weight) in weight.chunks_exact(padded * ci).enumerate() {
            let b = B::Strided { data: &pixels[place * apart[0]..][..ci * panel], step: panel };
            for i0 in (0..padded).step_by(unit) {
                let a = A { data: &weight[i0 * ci..], rows: rows_of_block(), step: unit, skip: 0 };
                let from = place * apart[1] + i0 * panel;
                let c = C { to: products, from, stride: panel, accumulate: false };
                // SAFETY: the products are borrowed by this call alone.
                unsafe { tile(self.isa, unit, vectors, 1, ci, &a, &b, &c) };
            }
        }
    }
}

/// A panel of tiles.
struct Tiles<'a> {
    isa: Isa,
    s: &'a Conv2d,
    /// Tiles in a row, with the gap.
    width: usize,
    /// The first, and how many there are.
    first: usize,
    count: usize,
    /// The rows of tiles that they lie in, and the columns: of several rows all.
    rows: Range<usize>,
    columns: Range<usize>,
    slab: Slab,
}

impl<'a> Tiles<'a> {
    fn new(isa: Isa, s: &'a Conv2d, width: usize, tiles: Range<usize>) -> Self {
        let rows = tiles.start / width..(tiles.end - 1) / width + 1;
        let across = s.width.div_ceil(SIDE);
        let columns = match rows.len() {
            1 => tiles.start % width..((tiles.end - 1) % width + 1).min(across),
            _ => 0..across,
        };
        let slab = Slab::new([FROM; 2], [SIDE; 2], rows.len(), columns.len());
        Self { isa, s, width, first: tiles.start, count: tiles.len(), rows, columns, slab }
    }

    /// The lines of the picture that are needed, and where each lies within a channel.
    fn lines(&self) -> impl Iterator<Item = (usize, Option<usize>)> + '_ {
        let needed = 0..self.rows.len() * SIDE + FROM - SIDE;
        needed.map(|line| {
            let y = (self.rows.start * SIDE + line).checked_sub(1);
            (line, y.filter(|&y| y < self.s.height).map(|y| y * self.s.width))
        })
    }

    /// `V = B^T d B` of all tiles and channels: for each place, `stride` apart, `[channel, panel]`.
    fn transform(&self, x: &[f32], pixels: &mut [f32], stride: usize) {
        let (s, slab, lanes) = (self.s, &self.slab, self.isa.lanes());
        let panel = lanes * ABREAST;
        let table: [usize; PLACES] = std::array::from_fn(|i| slab.tap(i / FROM, i % FROM));
        let starts: Vec<usize> = (self.first..self.first + self.count)
            .step_by(lanes)
            .map(|n| (n / self.width - self.rows.start) * slab.columns + n % self.width - self.columns.start)
            .collect();
        let plane = s.height * s.width;
        let (left, right) = (self.columns.start * SIDE, (self.columns.end * SIDE + 1).min(s.width));
        // With what vectors read past the last tile.
        with_scratch(slab.channel + table.iter().max().unwrap_or(&0) + panel, |data| {
            for (channel, picture) in x.chunks_exact(plane).enumerate() {
                for (line, start) in self.lines() {
                    // The four phases of a line lie a fixed distance apart.
                    let (to, distance) = (slab.tap(line, 0), slab.tap(0, 1));
                    let phases = &mut data[to..][..3 * distance + slab.columns];
                    let Some(start) = start else {
                        phases.chunks_mut(distance).for_each(|phase| phase[..slab.columns].fill(0.0));
                        continue;
                    };
                    // It takes long until a line of the next channel is here: its place is far away.
                    if let Some(next) =
                        x.get((channel + 1) * plane + start + left..(channel + 1) * plane + start + right)
                    {
                        prefetch(next);
                    }
                    let before = if left > 0 { picture[start + left - 1] } else { 0.0 };
                    deal(
                        self.isa,
                        before,
                        &picture[start + left..start + right],
                        phases,
                        distance,
                        slab.columns,
                    );
                }
                for (v, &start) in starts.iter().enumerate() {
                    let to = &mut pixels[channel * panel + v * lanes..];
                    to_places(self.isa, &data[start..], &table, to, stride);
                }
            }
        });
    }

    /// Writes what lies within the picture of vector `v` of the tiles: `results` are `[line, column][lanes]`.
    ///
    /// # Safety
    /// Nobody else touches these tiles of the channel meanwhile.
    unsafe fn write(&self, v: usize, results: &[f32], channel: usize, finish: &Finish, to: Output) {
        let (lanes, s) = (self.isa.lanes(), self.s);
        let tiles = self.first + v * lanes..self.first + self.count.min((v + 1) * lanes);
        let mut pixels = [0f32; SIDE * 16];
        for (line, from) in results.chunks_exact(SIDE * lanes).take(SIDE).enumerate() {
            gather(self.isa, from, &mut pixels[..SIDE * lanes]);
            let mut n = tiles.start;
            while n < tiles.end {
                let (row, column) = (n / self.width, n % self.width);
                let run = (self.width - column).min(tiles.end - n);
                let (x, y) = (column * SIDE, row * SIDE + line);
                let len = (run * SIDE).min(s.width.saturating_sub(x));
                if len > 0 && y < s.height {
                    let at = (channel * s.height + y) * s.width + x;
                    let pixels = &pixels[(n - tiles.start) * SIDE..][..len];
                    // SAFETY: the caller's promise.
                    unsafe { finish.copy(self.isa, channel, pixels, to, at) };
                }
                n += run;
            }
        }
    }
}

for_each_isa! {
    /// Element `i` of `before` and `from` after it goes to place `i / 4` of phase `i % 4`; the rest of the places become zero.
    fn deal<F>(isa, before: f32, from: &[f32], to: &mut [f32], distance: usize, columns: usize) {
        let (first, rest) = to.split_at_mut(distance);
        let (second, rest) = rest.split_at_mut(distance);
        let (third, fourth) = rest.split_at_mut(distance);
        let (first, second, third) = (&mut first[..columns], &mut second[..columns], &mut third[..columns]);
        let begin = from.len().min(SIDE - 1);
        let (from_start, rest) = from.split_at(begin);
        let count = (rest.len() / SIDE).min(columns - 1);
        let (fours, last) = rest.split_at(count * SIDE);
        let places = first[1..].iter_mut().zip(&mut second[1..]).zip(&mut third[1..]).zip(&mut fourth[1..]);
        for ((((first, second), third), fourth), from) in places.zip(fours.chunks_exact(SIDE)) {
            (*first, *second, *third, *fourth) = (from[0], from[1], from[2], from[3]);
        }
        first[0] = before;
        for (phase, to) in [first, second, third, fourth].into_iter().enumerate() {
            if phase > 0 {
                to[0] = from_start.get(phase - 1).copied().unwrap_or(0.0);
            }
            if let Some((next, after)) = to[1 + count..].split_first_mut() {
                *next = last.get(phase).copied().unwrap_or(0.0);
                after.fill(0.0);
            }
        }
    }
}

for_each_isa! {
    /// `[column][lanes]` to the columns of one tile after the other.
    fn gather<F>(isa, from: &[f32], to: &mut [f32]) {
        let lanes = from.len() / SIDE;
        let (first, rest) = from.split_at(lanes);
        let (second, rest) = rest.split_at(lanes);
        let (third, fourth) = rest.split_at(lanes);
        let columns = first.iter().zip(second).zip(third).zip(fourth);
        for (to, (((first, second), third), fourth)) in to.chunks_exact_mut(SIDE).zip(columns) {
            (to[0], to[1], to[2], to[3]) = (*first, *second, *third, *fourth);
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

/// `Y = A^T M A` of a vector of tiles: place `i` lies at `from[i * stride]`; `to` becomes `[line, column][lanes]`.
fn from_places(isa: Isa, from: &[f32], stride: usize, to: &mut [f32]) {
    let lanes = isa.lanes();
    assert!(
        (PLACES - 1) * stride + lanes <= from.len() && SIDE * SIDE * lanes <= to.len(),
        "products of tiles out of range"
    );
    // SAFETY: as above.
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
unsafe fn from_places_avx512(from: &[f32], stride: usize, to: &mut [f32]) {
    // SAFETY: the caller's promise, passed on.
    unsafe { back::<std::arch::x86_64::__m512>(from, stride, to) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn from_places_avx2(from: &[f32], stride: usize, to: &mut [f32]) {
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
unsafe fn back<V: Vector>(from: &[f32], stride: usize, to: &mut [f32]) {
    // SAFETY: `from_places` checked every place and result.
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
        for (y, row) in rows.into_iter().enumerate() {
            for (x, value) in back_line(row).into_iter().enumerate() {
                value.store(to.as_mut_ptr().add((y * SIDE + x) * V::LANES));
            }
        }
    }
}
