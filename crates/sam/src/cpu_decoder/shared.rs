//! Many prompts on one picture. docs/decoder.md has the algebra.
//!
//! After each layer the cells of a prompt are `c * Z + R^T K`: a picture's cells `Z` that all prompts share, scaled by one number a
//! cell, plus a combination `K` of a few rows `R` (what the prompt's tokens said, and constants). Layer norm keeps this form. So all
//! that is ever multiplied with `Z` is multiplied once for a picture ([`Common`]), and a prompt costs what its few rows cost.

use kirie_kernels::{Gemm, Rows, exp_along, gemm_part, softmax_down};
use rayon::prelude::*;

use super::weights::{Block, Heads, Norm, Weights, product, sum};
use super::{Cells, CpuDecoder, Walk, in_pieces, share};

/// A picture's part in everything, piece by piece.
pub(super) struct SharedPicture {
    /// The picture it was made of.
    pub(super) picture: Vec<f32>,
    pieces: Vec<Common>,
}

/// One piece of [`SharedPicture`]; maps are `[rows, n]`.
struct Common {
    n: usize,
    /// Before each layer, and after the last.
    stages: Vec<Stage>,
    /// The last stage's cells through the first step of scaling up.
    middle: Vec<f32>,
}

/// Of the cells `Z` of one stage.
struct Stage {
    /// For the tokens' look.
    keys: Vec<f32>,
    values: Vec<f32>,
    /// For the layer that follows.
    update: Option<CommonUpdate>,
}

/// What a layer's update needs.
struct CommonUpdate {
    queries: Vec<f32>,
    /// Mean square of the centred cells, `[n]`.
    square: Vec<f32>,
    /// The centred cells through what past layers and this one add, by layer; each `[inner, n]`.
    crosses: Vec<Vec<f32>>,
    /// The centred cells times the constants of the past layers, `[n]` each.
    constants: Vec<Vec<f32>>,
}

/// The positions of one piece, projected as its cells are: the same for every picture.
pub(super) struct Places {
    /// By stage.
    keys: Vec<Vec<f32>>,
    /// By layer.
    queries: Vec<Vec<f32>>,
}

/// Of every piece.
pub(super) fn places(decoder: &CpuDecoder) -> Vec<Places> {
    let w = &decoder.weights;
    let pieces = decoder.positions.par_chunks(decoder.piece());
    let places = pieces.map(|positions| {
        let n = positions.len() / decoder.dim;
        let looks = w.blocks.iter().map(|block| &block.token_to_image).chain([&w.last_look]);
        Places {
            keys: looks.map(|look| projected(&look.k.weight, positions, n)).collect(),
            queries: w
                .blocks
                .iter()
                .map(|block| projected(&block.image_to_token.q.weight, positions, n))
                .collect(),
        }
    });
    places.collect()
}

/// Parameters of one layer's update, prepared.
pub(super) struct Layer {
    /// For each layer up to this one, its output projection `[inner, C]`, centred and gone through the norms between.
    outs: Vec<Vec<f32>>,
    /// Constants of the past layers as this one finds them, centred, `[C]` each; the last with this layer's bias.
    constants: Vec<Vec<f32>>,
}

/// Subtracts from each row its mean.
fn centre(rows: &mut [f32], width: usize) {
    for row in rows.chunks_exact_mut(width) {
        let mean = row.iter().map(|x| f64::from(*x)).sum::<f64>() / width as f64;
        for x in row.iter_mut() {
            *x -= mean as f32;
        }
    }
}

/// Multiplies each row by `by`, element by element.
fn scale_rows(rows: &mut [f32], by: &[f32]) {
    for row in rows.chunks_exact_mut(by.len()) {
        row.iter_mut().zip(by).for_each(|(x, by)| *x *= by);
    }
}

/// `weight^T x`: `weight` `[C, rows]`, `x` `[C, n]`.
fn projected(weight: &[f32], x: &[f32], n: usize) -> Vec<f32> {
    let dim = x.len() / n;
    let rows = weight.len() / dim;
    let mut to = vec![0.0; rows * n];
    let s = Gemm { a_transposed: true, ..product(rows, dim, n) };
    gemm_part(&s, Rows { a: rows, b: n, c: n }, weight, x, &mut to);
    to
}

/// `weight x`: `weight` `[rows, C]`, `x` `[C, n]`.
fn times(weight: &[f32], x: &[f32], n: usize) -> Vec<f32> {
    let dim = x.len() / n;
    let rows = weight.len() / dim;
    let mut to = vec![0.0; rows * n];
    gemm_part(&product(rows, dim, n), Rows { a: dim, b: n, c: n }, weight, x, &mut to);
    to
}

/// `a b^T`: `a` `[m, k]`, `b` `[n, k]`.
fn times_transposed(a: &[f32], b: &[f32], k: usize) -> Vec<f32> {
    let (m, n) = (a.len() / k, b.len() / k);
    let mut to = vec![0.0; m * n];
    let s = Gemm { b_transposed: true, ..product(m, k, n) };
    gemm_part(&s, Rows { a: k, b: k, c: n }, a, b, &mut to);
    to
}

/// The layers' parameters in the form that the shared road uses.
pub(super) fn layers(weights: &Weights) -> Vec<Layer> {
    let mut layers: Vec<Layer> = Vec::new();
    for block in &weights.blocks {
        let heads = &block.image_to_token;
        let dim = block.norm4.gamma.len();
        let mut own = heads.out.weight.clone();
        centre(&mut own, dim);
        let (mut outs, mut constants) = (Vec::new(), Vec::new());
        if let Some(past) = layers.last() {
            let before = &weights.blocks[layers.len() - 1].norm4;
            (outs, constants) = (past.outs.clone(), past.constants.clone());
            for rows in outs.iter_mut().chain(&mut constants) {
                scale_rows(rows, &before.gamma);
                centre(rows, dim);
            }
            let mut last = sum(&before.beta, &heads.out.bias);
            centre(&mut last, dim);
            constants.push(last);
        }
        outs.push(own);
        layers.push(Layer { outs, constants });
    }
    layers
}

impl SharedPicture {
    /// From embedding plus dense prompt, `[C, side, side]`.
    pub(super) fn new(decoder: &CpuDecoder, picture: &[f32]) -> Self {
        let pieces = in_pieces(picture, decoder.side);
        let pieces = pieces.par_chunks(decoder.piece()).map(|cells| Common::new(decoder, cells)).collect();
        Self { picture: picture.to_vec(), pieces }
    }
}

impl Common {
    fn new(decoder: &CpuDecoder, cells: &[f32]) -> Self {
        let (w, dim) = (&decoder.weights, decoder.dim);
        let n = cells.len() / dim;
        let mut cells = cells.to_vec();
        let mut stages = Vec::new();
        for (layer, block) in decoder.layers.iter().zip(&w.blocks) {
            let Block { token_to_image, image_to_token, norm4, .. } = block;
            let queries = projected(&image_to_token.q.weight, &cells, n);
            let mut stage = Stage::new(token_to_image, &cells, n);
            if stages.is_empty() {
                // Later biases are among the constants.
                for (row, bias) in cells.chunks_exact_mut(n).zip(&image_to_token.out.bias) {
                    for x in row.iter_mut() {
                        *x += bias;
                    }
                }
            }
            let mut mean = vec![0.0; n];
            cells.chunks_exact(n).for_each(|row| mean.iter_mut().zip(row).for_each(|(m, x)| *m += x));
            for m in &mut mean {
                *m /= dim as f32;
            }
            let mut square = vec![0.0; n];
            for row in cells.chunks_exact_mut(n) {
                for ((x, m), square) in row.iter_mut().zip(&mean).zip(&mut square) {
                    *x -= m;
                    *square += *x * *x;
                }
            }
            for s in &mut square {
                *s /= dim as f32;
            }
            stage.update = Some(CommonUpdate {
                queries,
                square,
                crosses: layer.outs.iter().map(|out| times(out, &cells, n)).collect(),
                constants: layer.constants.iter().map(|constant| times(constant, &cells, n)).collect(),
            });
            stages.push(stage);
            for (row, gamma) in cells.chunks_exact_mut(n).zip(&norm4.gamma) {
                for x in row.iter_mut() {
                    *x *= gamma;
                }
            }
        }
        stages.push(Stage::new(&w.last_look, &cells, n));
        Self { n, middle: times(&w.up.first.weight, &cells, n), stages }
    }
}

impl Stage {
    fn new(look: &Heads, cells: &[f32], n: usize) -> Self {
        Self {
            keys: projected(&look.k.weight, cells, n),
            values: projected(&look.v.weight, cells, n),
            update: None,
        }
    }
}

/// Prompts on their way through the layers.
pub(super) struct SharedCells<'a> {
    decoder: &'a CpuDecoder,
    picture: &'a SharedPicture,
    prompts: Vec<Prompted>,
    /// By piece, then by prompt.
    cells: Vec<Vec<PromptCells>>,
}

/// What one prompt's cells are combined of.
struct Prompted {
    /// `[rows, C]`: for each layer so far what its tokens add, by head and token, and a constant.
    rows: Vec<f32>,
    /// The values that its tokens told, by layer, `[tokens, inner]`.
    values: Vec<Vec<f32>>,
}

/// The cells of one prompt in one piece, `scale * Z + rows^T shares`.
struct PromptCells {
    /// `[n]`
    scale: Vec<f32>,
    /// `[rows, n]`
    shares: Vec<f32>,
}

/// One prompt's side of a layer's update.
struct Told {
    /// Keys of its tokens, scaled, `[tokens, inner]`.
    keys: Vec<f32>,
    /// For each head and token: what the queries' bias adds to the scores.
    offset: Vec<f32>,
    /// The scores of the rows so far, `[heads * tokens, rows]`.
    scores: Vec<f32>,
    /// Products of the rows so far, centred, with themselves and (twice) with the new ones, `[rows, rows + heads * tokens]`.
    products: Vec<f32>,
    /// Products of the new rows with each other.
    new_products: Vec<f32>,
}

/// One prompt's tokens, ready to look at the cells.
struct Looking {
    /// Queries, scaled, `[tokens, inner]`.
    queries: Vec<f32>,
    /// The scores of the rows, `[heads * tokens, rows]`.
    scores: Vec<f32>,
}

/// What was seen of one piece, not yet divided by the sum.
struct Seen {
    max: Vec<f32>,
    sum: Vec<f32>,
    /// Values of the shared cells, by head `[head_dim, tokens]`.
    values: Vec<f32>,
    /// Shares of the rows, `[heads * tokens, rows]`.
    shares: Vec<f32>,
}

impl<'a> SharedCells<'a> {
    pub(super) fn new(decoder: &'a CpuDecoder, picture: &'a SharedPicture, prompts: usize) -> Self {
        let fresh = |piece: &Common| {
            (0..prompts).map(|_| PromptCells { scale: vec![1.0; piece.n], shares: Vec::new() }).collect()
        };
        Self {
            decoder,
            picture,
            prompts: (0..prompts).map(|_| Prompted { rows: Vec::new(), values: Vec::new() }).collect(),
            cells: picture.pieces.iter().map(fresh).collect(),
        }
    }
}

impl Cells for SharedCells<'_> {
    fn walk(&mut self, walk: &Walk) -> Vec<f32> {
        let (decoder, stage, count) = (self.decoder, walk.stage, self.prompts.len());
        let width = walk.queries.len() / count;
        let prepared: Vec<(Option<Told>, Looking)> = self
            .prompts
            .par_iter_mut()
            .enumerate()
            .map(|(i, prompt)| {
                let told = walk.told.as_ref().map(|told| {
                    let layer = &decoder.layers[stage - 1];
                    let [keys, values] = [&told.keys, &told.values].map(|x| &x[i * width..][..width]);
                    prompt.hear(told.heads, told.norm, layer, keys, values)
                });
                (told, prompt.look(walk.look, &walk.queries[i * width..][..width]))
            })
            .collect();
        let layer = walk.told.as_ref().map(|told| (told.heads, told.norm));
        let prompts = &self.prompts;
        let parts: Vec<Vec<Seen>> = self
            .cells
            .par_iter_mut()
            .zip(self.picture.pieces.par_iter().zip(decoder.places()))
            .map_init(Vec::new, |space, (cells, (piece, places))| {
                let each = cells.iter_mut().zip(prompts).zip(&prepared);
                each.map(|((cells, prompt), (told, looking))| {
                    if let (Some(told), Some((heads, norm))) = (told, layer) {
                        cells.update(piece, places, stage - 1, heads, norm, prompt, told, space);
                    }
                    cells.seen(piece, places, stage, walk.look, looking, space)
                })
                .collect()
            })
            .collect();
        let seen = prompts.par_iter().enumerate().map(|(i, prompt)| {
            prompt.together(walk.look, &parts.iter().map(|piece| &piece[i]).collect::<Vec<_>>())
        });
        seen.collect::<Vec<_>>().concat()
    }

    /// The rows through the first step of scaling up, `[4 * middle channels, rows]`.
    fn prepare(&self, prompt: usize) -> Vec<f32> {
        let first = &self.decoder.weights.up.first;
        times_transposed(&first.weight, &self.prompts[prompt].rows, first.input)
    }

    fn middle(&self, prompt: usize, rows: &[f32], piece: usize, start: usize, to: &mut [f32]) {
        let (common, cells) = (&self.picture.pieces[piece], &self.cells[piece][prompt]);
        let n = common.n;
        let channels = common.middle.len() / n;
        let width = to.len() / channels;
        let scale = &cells.scale[start..start + width];
        for ((to, row), bias) in to
            .chunks_exact_mut(width)
            .zip(common.middle.chunks_exact(n))
            .zip(&self.decoder.weights.up.first.bias)
        {
            to.iter_mut().zip(&row[start..]).zip(scale).for_each(|((to, x), c)| *to = bias + c * x);
        }
        let depth = rows.len() / channels;
        let s = Gemm { accumulate: true, ..product(channels, depth, width) };
        gemm_part(&s, Rows { a: depth, b: n, c: width }, rows, &cells.shares[start..], to);
    }
}

impl Prompted {
    /// Takes in what its tokens tell the cells in the layer that follows.
    fn hear(&mut self, heads: &Heads, norm: &Norm, layer: &Layer, keys: &[f32], values: &[f32]) -> Told {
        let dim = norm.gamma.len();
        let past = self.rows.len() / dim;
        let scaled = heads.scaled(keys);
        let offset = heads.offset(&scaled);
        let mut by_cells = vec![0.0; offset.len() * dim];
        heads.through_heads(&scaled, &heads.q_transposed, &mut by_cells);
        let scores = times_transposed(&by_cells, &self.rows, dim);

        if let Some(bias) = self.rows.len().checked_sub(dim) {
            let last = sum(&self.rows[bias..], &heads.out.bias);
            self.rows[bias..].copy_from_slice(&last);
        }
        centre(&mut self.rows, dim);
        self.rows.resize((past + offset.len()) * dim, 0.0);
        let own = layer.outs.last().map_or(&[][..], Vec::as_slice);
        heads.through_heads(values, own, &mut self.rows[past * dim..]);
        let (before, new) = self.rows.split_at(past * dim);
        let mut products = times_transposed(before, &self.rows, dim);
        for row in products.chunks_exact_mut(past + offset.len()) {
            row[past..].iter_mut().for_each(|x| *x *= 2.0);
        }
        let new_products = times_transposed(new, new, dim);

        scale_rows(&mut self.rows, &norm.gamma);
        self.rows.extend_from_slice(&norm.beta);
        self.values.push(values.to_vec());
        Told { keys: scaled, offset, scores, products, new_products }
    }

    fn look(&self, heads: &Heads, queries: &[f32]) -> Looking {
        let by_cells = heads.look(queries);
        Looking { scores: times_transposed(&by_cells, &self.rows, heads.dim), queries: heads.scaled(queries) }
    }

    /// What was seen in all pieces, `[tokens, inner]`.
    fn together(&self, heads: &Heads, parts: &[&Seen]) -> Vec<f32> {
        let (inner, d, dim) = (heads.inner(), heads.head_dim(), heads.dim);
        let Some(columns) = parts.first().map(|part| part.max.len()) else { return Vec::new() };
        let tokens = columns / heads.count;
        let rows = self.rows.len() / dim;
        // What a share of each row brings, [rows, inner].
        let mut brings = vec![0.0; rows * inner];
        gemm_part(
            &product(rows, dim, inner),
            Rows { a: dim, b: inner, c: inner },
            &self.rows,
            &heads.v.weight,
            &mut brings,
        );
        let weights = share(&parts.iter().map(|p| (&p.max[..], &p.sum[..])).collect::<Vec<_>>());
        let mut shares = vec![0.0; columns * rows];
        let mut to = heads.v.bias.repeat(tokens);
        for (part, weights) in parts.iter().zip(&weights) {
            for (column, weight) in weights.iter().enumerate() {
                let (head, token) = (column / tokens, column % tokens);
                let values =
                    part.values[head * d * tokens..][..d * tokens].iter().skip(token).step_by(tokens);
                let to = &mut to[token * inner + head * d..][..d];
                to.iter_mut().zip(values).for_each(|(to, x)| *to += weight * x);
                if rows > 0 {
                    let from = &part.shares[column * rows..][..rows];
                    let to = &mut shares[column * rows..][..rows];
                    to.iter_mut().zip(from).for_each(|(to, x)| *to += weight * x);
                }
            }
        }
        for head in 0..heads.count {
            let s = Gemm { accumulate: true, ..product(tokens, rows, d) };
            let stored = Rows { a: rows, b: inner, c: inner };
            if rows > 0 {
                let shares = &shares[head * tokens * rows..];
                gemm_part(&s, stored, shares, &brings[head * d..], &mut to[head * d..]);
            }
        }
        to
    }
}

impl PromptCells {
    /// For each head, its rows of `x` `[tokens, inner]` times its rows of `map` `[inner, n]`, added to `to` `[heads * tokens, n]`.
    fn add_heads(heads: &Heads, x: &[f32], map: &[f32], n: usize, to: &mut [f32]) {
        let (inner, d) = (heads.inner(), heads.head_dim());
        let tokens = x.len() / inner;
        for head in 0..heads.count {
            let s = Gemm { accumulate: true, ..product(tokens, d, n) };
            let (a, b) = (&x[head * d..], &map[head * d * n..]);
            gemm_part(&s, Rows { a: inner, b: n, c: n }, a, b, &mut to[head * tokens * n..]);
        }
    }

    /// `to` becomes `scale * map + positions`.
    fn placed(&self, map: &[f32], positions: &[f32], to: &mut Vec<f32>) {
        to.clear();
        let rows = map.chunks_exact(self.scale.len()).zip(positions.chunks_exact(self.scale.len()));
        for (row, positions) in rows {
            to.extend(row.iter().zip(positions).zip(&self.scale).map(|((x, p), c)| c * x + p));
        }
    }

    /// One layer's update, with its norm.
    fn update(
        &mut self,
        piece: &Common,
        places: &Places,
        layer: usize,
        heads: &Heads,
        norm: &Norm,
        prompt: &Prompted,
        told: &Told,
        space: &mut Vec<f32>,
    ) {
        let Some(common) = &piece.stages[layer].update else { return };
        let n = piece.n;
        let (past, new) = (self.shares.len() / n, told.offset.len());
        self.placed(&common.queries, &places.queries[layer], space);
        for offset in &told.offset {
            self.shares.resize(self.shares.len() + n, *offset);
        }
        let (before, scores) = self.shares.split_at_mut(past * n);
        Self::add_heads(heads, &told.keys, space, n, scores);
        let s = Gemm { accumulate: true, ..product(new, past, n) };
        gemm_part(&s, Rows { a: past.max(1), b: n, c: n }, &told.scores, before, scores);
        softmax_down(new / heads.count, n, scores);

        // The square of what is added to the scaled cells, and its product with them, all centred.
        space.clear();
        space.resize((past + new) * n, 0.0);
        let block = new + 1;
        for (index, (values, cross)) in prompt.values.iter().zip(&common.crosses).enumerate() {
            Self::add_heads(heads, values, cross, n, &mut space[index * block * n..]);
            if let Some(constant) = common.constants.get(index) {
                space[(index * block + new) * n..][..n].copy_from_slice(constant);
            }
        }
        for row in space.chunks_exact_mut(n) {
            row.iter_mut().zip(&self.scale).for_each(|(x, c)| *x *= 2.0 * c);
        }
        let (first, last) = space.split_at_mut(past * n);
        let s = Gemm { accumulate: true, ..product(past, past + new, n) };
        gemm_part(&s, Rows { a: past + new, b: n, c: n }, &told.products, &self.shares, first);
        let s = Gemm { accumulate: true, ..product(new, new, n) };
        gemm_part(&s, Rows { a: new, b: n, c: n }, &told.new_products, &self.shares[past * n..], last);
        let mut variance = vec![0.0; n];
        for (products, shares) in space.chunks_exact(n).zip(self.shares.chunks_exact(n)) {
            variance.iter_mut().zip(products.iter().zip(shares)).for_each(|(v, (p, s))| *v += p * s);
        }
        let dim = norm.gamma.len() as f32;
        let inverse: Vec<f32> = variance
            .iter()
            .zip(self.scale.iter().zip(&common.square))
            // Rounding can leave a little less than nothing where cells hardly differ.
            .map(|(v, (c, square))| ((c * c * square + v / dim).max(0.0) + norm.epsilon).sqrt().recip())
            .collect();
        for row in self.shares.chunks_exact_mut(n).chain(std::iter::once(&mut self.scale[..])) {
            row.iter_mut().zip(&inverse).for_each(|(x, i)| *x *= i);
        }
        self.shares.resize(self.shares.len() + n, 1.0);
    }

    /// What a prompt's tokens see.
    fn seen(
        &self,
        piece: &Common,
        places: &Places,
        stage: usize,
        heads: &Heads,
        looking: &Looking,
        space: &mut Vec<f32>,
    ) -> Seen {
        let (positions, stage, n) = (&places.keys[stage], &piece.stages[stage], piece.n);
        let (inner, d) = (heads.inner(), heads.head_dim());
        let tokens = looking.queries.len() / inner;
        let (columns, rows) = (heads.count * tokens, self.shares.len() / n);
        self.placed(&stage.keys, positions, space);
        let mut scores = vec![0.0; columns * n];
        Self::add_heads(heads, &looking.queries, space, n, &mut scores);
        let s = Gemm { accumulate: true, ..product(columns, rows, n) };
        gemm_part(&s, Rows { a: rows.max(1), b: n, c: n }, &looking.scores, &self.shares, &mut scores);
        let mut seen = Seen {
            max: vec![0.0; columns],
            sum: vec![0.0; columns],
            values: vec![0.0; inner * tokens],
            shares: vec![0.0; columns * rows],
        };
        exp_along(n, &mut scores, &mut seen.max, &mut seen.sum);
        if rows > 0 {
            let s = Gemm { b_transposed: true, ..product(columns, n, rows) };
            gemm_part(&s, Rows { a: n, b: n, c: rows }, &scores, &self.shares, &mut seen.shares);
        }
        for row in scores.chunks_exact_mut(n) {
            row.iter_mut().zip(&self.scale).for_each(|(x, c)| *x *= c);
        }
        for head in 0..heads.count {
            let s = Gemm { b_transposed: true, ..product(d, n, tokens) };
            let (a, b) = (&stage.values[head * d * n..], &scores[head * tokens * n..]);
            gemm_part(&s, Rows { a: n, b: n, c: tokens }, a, b, &mut seen.values[head * d * tokens..]);
        }
        seen
    }
}
