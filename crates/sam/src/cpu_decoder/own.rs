//! Prompts with cells of their own: a picture for each, or few prompts on one. docs/decoder.md has the algebra.
//!
//! No cell is ever projected: a token's query goes through the key projection backwards and meets the cells as they are, and what
//! tokens tell the cells is one small matrix.

use kirie_kernels::{Gemm, Rows, exp_along, gemm_part, layer_norm_2d_part, softmax_down};
use rayon::prelude::*;

use super::weights::{Norm, Update, product};
use super::{Cells, CpuDecoder, Walk, fill_rows, into_pieces, share};

/// The cells of each prompt, in pieces.
pub(super) struct OwnCells<'a> {
    decoder: &'a CpuDecoder,
    cells: Vec<Vec<f32>>,
}

/// What the tokens of one prompt saw in one piece: not yet divided by the sum.
struct Seen {
    /// Greatest score, and sum of `exp(score - greatest)`, for each head and token.
    max: Vec<f32>,
    sum: Vec<f32>,
    /// Weighted sum of the cells, `[C, heads * tokens]`.
    cells: Vec<f32>,
}

impl<'a> OwnCells<'a> {
    /// From a picture `[C, side, side]` for each prompt.
    pub(super) fn new(decoder: &'a CpuDecoder, pictures: &[&[f32]]) -> Self {
        let cells = pictures.par_iter().map(|picture| {
            let mut cells = Vec::with_capacity(picture.len());
            into_pieces(picture, decoder.side, &mut cells);
            cells
        });
        Self { decoder, cells: cells.collect() }
    }
}

impl Cells for OwnCells<'_> {
    fn walk(&mut self, walk: &Walk) -> Vec<f32> {
        let (decoder, look) = (self.decoder, walk.look);
        let (dim, piece) = (decoder.dim, decoder.piece());
        let width = walk.queries.len() / self.cells.len();
        let each = self.cells.par_iter_mut().zip(walk.queries.par_chunks_exact(width)).enumerate();
        let seen: Vec<Vec<f32>> = each
            .map(|(prompt, (cells, queries))| {
                let update = walk.told.as_ref().map(|told| {
                    let [keys, values] = [&told.keys, &told.values].map(|x| &x[prompt * width..][..width]);
                    (told.heads.update(keys, values), told.norm)
                });
                let by_cells = look.look(queries);
                let pieces = cells.par_chunks_mut(piece).zip(decoder.positions.par_chunks(piece));
                let parts: Vec<Seen> = pieces
                    .map_init(Vec::new, |space, (cells, positions)| {
                        if let Some((update, norm)) = &update {
                            bring_up_to_date(dim, cells, positions, update, norm, space);
                        }
                        look_at(dim, cells, positions, &by_cells, space)
                    })
                    .collect();
                let mut seen = vec![0.0; width];
                look.seen(&together(&parts), &mut seen);
                seen
            })
            .collect();
        seen.concat()
    }

    fn prepare(&self, _: usize) -> Vec<f32> {
        Vec::new()
    }

    fn middle(&self, prompt: usize, _: &[f32], piece: usize, start: usize, to: &mut [f32]) {
        let first = &self.decoder.weights.up.first;
        let floats = self.decoder.piece();
        let cells = self.cells[prompt].chunks(floats).nth(piece).unwrap_or_default();
        let (n, width) = (cells.len() / first.input, to.len() / first.bias.len());
        fill_rows(to, &first.bias, width);
        let s = Gemm { accumulate: true, ..product(first.bias.len(), first.input, width) };
        gemm_part(&s, Rows { a: first.input, b: n, c: width }, &first.weight, &cells[start..], to);
    }
}

/// `cells` `[C, n]` plus what each takes from the tokens it looks at, normalised.
fn bring_up_to_date(
    dim: usize,
    cells: &mut [f32],
    positions: &[f32],
    update: &Update,
    norm: &Norm,
    space: &mut Vec<f32>,
) {
    let (rows, n) = (update.offset.len(), cells.len() / dim);
    place(cells, positions, space);
    // A last row of ones brings every cell the bias.
    let mut scores = vec![1.0; (rows + 1) * n];
    fill_rows(&mut scores[..rows * n], &update.offset, n);
    let s = Gemm { accumulate: true, ..product(rows, dim, n) };
    gemm_part(&s, Rows { a: dim, b: n, c: n }, &update.scores, space, &mut scores);
    softmax_down(update.tokens, n, &mut scores[..rows * n]);
    let s = Gemm { a_transposed: true, accumulate: true, ..product(dim, rows + 1, n) };
    gemm_part(&s, Rows { a: dim, b: n, c: n }, &update.out, &scores, cells);
    layer_norm_2d_part(n, cells, &norm.gamma, &norm.beta, norm.epsilon);
}

/// What one prompt's tokens see in one piece, `cells` `[C, n]`.
fn look_at(dim: usize, cells: &[f32], positions: &[f32], by_cells: &[f32], space: &mut Vec<f32>) -> Seen {
    let (rows, n) = (by_cells.len() / dim, cells.len() / dim);
    place(cells, positions, space);
    let mut scores = vec![0.0; rows * n];
    gemm_part(&product(rows, dim, n), Rows { a: dim, b: n, c: n }, by_cells, space, &mut scores);
    let mut seen = Seen { max: vec![0.0; rows], sum: vec![0.0; rows], cells: vec![0.0; dim * rows] };
    exp_along(n, &mut scores, &mut seen.max, &mut seen.sum);
    let s = Gemm { b_transposed: true, ..product(dim, n, rows) };
    gemm_part(&s, Rows { a: n, b: n, c: rows }, cells, &scores, &mut seen.cells);
    seen
}

/// `to` becomes cells plus positions.
fn place(cells: &[f32], positions: &[f32], to: &mut Vec<f32>) {
    to.clear();
    to.extend(cells.iter().zip(positions).map(|(c, p)| c + p));
}

/// What was seen in all pieces: the mean cells, `[C, heads * tokens]`.
fn together(parts: &[Seen]) -> Vec<f32> {
    let shares = share(&parts.iter().map(|part| (&part.max[..], &part.sum[..])).collect::<Vec<_>>());
    let mut mean = vec![0.0; parts.first().map_or(0, |part| part.cells.len())];
    for (part, shares) in parts.iter().zip(&shares) {
        for (mean, cells) in mean.chunks_exact_mut(shares.len()).zip(part.cells.chunks_exact(shares.len())) {
            mean.iter_mut().zip(cells.iter().zip(shares)).for_each(|(m, (c, share))| *m += c * share);
        }
    }
    mean
}
