//! Attention with decomposed relative positions between maps of any two sizes (`get_rel_pos` of SAM and ViTDet).
//!
//! Queries lie on an `h x w` grid, keys on a `kh x kw` one: the same, or a coarser one that keys and values were averaged to.
//! For each axis there is a table of `2 S - 1` rows. For `q` queries and `k` keys of a line it is stretched to
//! `2 max(q, k) - 1` rows and read at
//!
//! ```text
//! row(i, j) = trunc(i max(k / q, 1) - j max(q / k, 1) + (k - 1) max(q / k, 1))
//! ```

use burn::module::{Initializer, Module, Param};
use burn::nn::{Linear, LinearConfig};
use burn::tensor::{Device, Tensor, TensorData, ops::AttentionModuleOptions};
use kirie_nn::adapters::QkvAdapter;
use kirie_nn::resize::Interpolation;
use kirie_nn::{count, linear};
use kirie_sam::encoders::vit::one_hot_places;

/// Rows of the stretched table for every query and key of a line, `[q, k]`; computed in float32, as the reference does.
pub fn relative_rows(q: usize, k: usize) -> Vec<usize> {
    let per_query = (k as f64 / q as f64).max(1.0) as f32;
    let per_key = (q as f64 / k as f64).max(1.0) as f32;
    let offset = ((k - 1) as f64 * (q as f64 / k as f64).max(1.0)) as f32;
    let last = 2 * q.max(k) - 2;
    (0..q * k)
        .map(|i| {
            let row = (i / k) as f32 * per_query - (i % k) as f32 * per_key + offset;
            (row.max(0.0) as usize).min(last)
        })
        .collect()
}

/// The matrix `[q * k, rows]` that makes the rows for every query and key out of a table of `rows` rows.
pub fn relative_matrix(q: usize, k: usize, rows: usize) -> Vec<f32> {
    let length = 2 * q.max(k) - 1;
    let stretch = Interpolation::Bilinear.matrix(rows, length);
    let places = relative_rows(q, k);
    places.into_iter().flat_map(|row| stretch[row * rows..(row + 1) * rows].iter().copied()).collect()
}

/// The matrix `[output^2, height * width]` that averages a map to `output` x `output` cells (PyTorch's adaptive average pooling).
pub fn pooling_matrix([height, width]: [usize; 2], output: usize) -> Vec<f32> {
    let cells = |length: usize| -> Vec<(usize, usize)> {
        (0..output).map(|i| (i * length / output, ((i + 1) * length).div_ceil(output))).collect()
    };
    let (rows, columns) = (cells(height), cells(width));
    let mut matrix = Vec::with_capacity(output * output * height * width);
    for (y0, y1) in &rows {
        for (x0, x1) in &columns {
            let weight = 1.0 / ((y1 - y0) * (x1 - x0)) as f32;
            matrix.extend((0..height * width).map(|i| {
                let inside = (*y0..*y1).contains(&(i / width)) && (*x0..*x1).contains(&(i % width));
                if inside { weight } else { 0.0 }
            }));
        }
    }
    matrix
}

/// Multi-head attention over a map.
#[derive(Module, Debug)]
pub struct MapAttention {
    /// Vertical table, `[2 S - 1, head_dim]`.
    pub rel_pos_h: Param<Tensor<2>>,
    /// Horizontal table, `[2 S - 1, head_dim]`.
    pub rel_pos_w: Param<Tensor<2>>,
    /// To queries of all heads, keys of all heads, values of all heads.
    pub qkv: Linear,
    /// Back.
    pub proj: Linear,
    pub(super) heads: usize,
}

impl MapAttention {
    /// Parameters by default initialisation; the tables of zero.
    pub fn new(dim: usize, heads: usize, side: usize, device: &Device) -> Self {
        let table = || Initializer::Zeros.init([2 * side - 1, dim / heads], device);
        Self {
            rel_pos_h: table(),
            rel_pos_w: table(),
            qkv: LinearConfig::new(dim, 3 * dim).init(device),
            proj: LinearConfig::new(dim, dim).init(device),
            heads,
        }
    }

    /// `[batch, height, width, D]` to the same shape. `pooled` averages keys and values to a grid of that side; `adapters` change
    /// queries, keys and values before anything is done with them.
    pub fn forward(
        &self,
        x: Tensor<4>,
        pooled: Option<usize>,
        adapters: [Option<&QkvAdapter>; 3],
    ) -> Tensor<4> {
        let [batch, height, width, dim] = x.dims();
        let (heads, head_dim, tokens) = (self.heads, dim / self.heads, height * width);
        let device = x.device();

        let [key_height, key_width] = pooled.map_or([height, width], |side| [side; 2]);
        let keys = key_height * key_width;
        // As if the positions were added to the scores, not appended to queries and keys.
        count::add_product(batch * heads * tokens * (key_height + key_width), head_dim);
        count::add_product(batch * heads * tokens * keys, 2 * head_dim);
        let qkv = linear(&self.qkv, x);
        if count::is_dry() {
            let part = count::zeros([batch, heads, tokens, head_dim], &device);
            for adapter in adapters.into_iter().flatten() {
                let _ = adapter.forward(part.clone(), [height, width]);
            }
            return linear(&self.proj, part.reshape([batch, height, width, dim]));
        }
        let qkv = qkv.reshape([batch, tokens, 3, heads, head_dim]).permute([2, 0, 3, 1, 4]).reshape([
            3 * batch,
            heads,
            tokens,
            head_dim,
        ]);
        let part = |i: usize| {
            let part = qkv.clone().narrow(0, i * batch, batch);
            match adapters[i] {
                Some(adapter) => adapter.forward(part, [height, width]),
                None => part,
            }
        };
        let (q, mut k, mut v) = (part(0), part(1), part(2));
        if let Some(side) = pooled {
            let matrix = pooling_matrix([height, width], side);
            let matrix = TensorData::new(matrix, [1, 1, keys, tokens]);
            let matrix = Tensor::<4>::from_data(matrix, &device);
            (k, v) = (matrix.clone().matmul(k), matrix.matmul(v));
        }

        // The bias is linear in the query, so it rides along in the dot product: the two bias vectors are appended to the query and
        // the key's one-hot row and column to the key. No tensor of `queries x keys` is ever held.
        let grid = q.clone().reshape([batch * heads, height, width, head_dim]);
        let by_row = grid
            .clone()
            .swap_dims(0, 1)
            .reshape([height, batch * heads * width, head_dim])
            .matmul(table(&self.rel_pos_h, height, key_height).swap_dims(1, 2))
            .reshape([height, batch * heads, width, key_height])
            .swap_dims(0, 1);
        let by_column = grid
            .permute([2, 0, 1, 3])
            .reshape([width, batch * heads * height, head_dim])
            .matmul(table(&self.rel_pos_w, width, key_width).swap_dims(1, 2))
            .reshape([width, batch * heads, height, key_width])
            .permute([1, 2, 0, 3]);
        let by_row = by_row.reshape([batch, heads, tokens, key_height]);
        let by_column = by_column.reshape([batch, heads, tokens, key_width]);
        let q = Tensor::cat(vec![q * (head_dim as f64).powf(-0.5), by_row, by_column], 3);
        let places = one_hot_places(key_height, key_width, &device);
        let k = Tensor::cat(vec![k, places.expand([batch, heads, keys, key_height + key_width])], 3);
        let options = AttentionModuleOptions { scale: Some(1.0), ..Default::default() };
        let out = burn::tensor::module::attention(q, k, v, None, None, options);
        linear(&self.proj, out.swap_dims(1, 2).reshape([batch, height, width, dim]))
    }
}

/// The table's rows for every query and key of a line, `[queries, keys, head_dim]`.
fn table(table: &Param<Tensor<2>>, queries: usize, keys: usize) -> Tensor<3> {
    let table = table.val();
    let [rows, head_dim] = table.dims();
    let matrix = TensorData::new(relative_matrix(queries, keys, rows), [queries * keys, rows]);
    Tensor::<2>::from_data(matrix, &table.device()).matmul(table).reshape([queries, keys, head_dim])
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Distribution;

    /// The rows that were measured on the published code.
    #[test]
    fn rows_of_the_reference() {
        let rows = relative_rows(14, 3);
        assert_eq!(rows[..3], [9, 4, 0]);
        assert_eq!(rows[13 * 3..], [22, 17, 13]);
        let equal = relative_rows(4, 4);
        assert_eq!(equal, [3, 2, 1, 0, 4, 3, 2, 1, 5, 4, 3, 2, 6, 5, 4, 3]);
        for (q, k) in [(45, 3), (60, 3), (16, 3), (1, 3), (2, 3), (3, 3), (64, 64), (1, 1), (3, 7)] {
            assert!(relative_rows(q, k).iter().all(|row| *row < 2 * q.max(k) - 1), "{q} {k}");
        }
    }

    #[test]
    fn tables_stretch_and_shrink() {
        // As many rows as needed: rows are picked, not mixed.
        let matrix = relative_matrix(14, 3, 27);
        for (row, weights) in relative_rows(14, 3).into_iter().zip(matrix.chunks_exact(27)) {
            assert!(weights.iter().enumerate().all(|(i, w)| *w == f32::from(u8::from(i == row))));
        }
        for (q, rows) in [(45, 63), (16, 63), (9, 1)] {
            for weights in relative_matrix(q, 3, rows).chunks_exact(rows) {
                assert!((weights.iter().sum::<f32>() - 1.0).abs() < 1e-6);
            }
        }
    }

    #[test]
    fn pooling_by_hand() {
        let matrix = pooling_matrix([4, 1], 3);
        // Rows 0..2, 1..3, 2..4 of the one column, each three times.
        let line = |i: usize| &matrix[i * 4..i * 4 + 4];
        for x in 0..3 {
            assert_eq!(line(x), [0.5, 0.5, 0.0, 0.0]);
            assert_eq!(line(3 + x), [0.0, 0.5, 0.5, 0.0]);
            assert_eq!(line(6 + x), [0.0, 0.0, 0.5, 0.5]);
        }
    }

    /// Attention written out pair by pair, on maps that are not square, with and without pooling, with tables that have to be
    /// stretched.
    #[test]
    fn equals_its_definition() {
        let device = Device::flex();
        for (height, width, pooled, side) in
            [(4, 3, None, 4), (5, 7, Some(3), 7), (2, 9, Some(3), 4), (3, 6, None, 2), (1, 2, Some(3), 3)]
        {
            let mut attn = MapAttention::new(8, 2, side, &device);
            let random = |shape| Tensor::<2>::random(shape, Distribution::Normal(0.0, 1.0), &device);
            attn.rel_pos_h = Param::from_tensor(random([2 * side - 1, 4]));
            attn.rel_pos_w = Param::from_tensor(random([2 * side - 1, 4]));
            let x = Tensor::<4>::random([2, height, width, 8], Distribution::Normal(0.0, 1.0), &device);
            let found = attn.forward(x.clone(), pooled, [None; 3]);
            let qkv: Vec<f32> = attn.qkv.forward(x).into_data().try_to_vec().unwrap();
            let tables =
                [&attn.rel_pos_h, &attn.rel_pos_w].map(|t| t.val().into_data().try_to_vec::<f32>().unwrap());
            let tokens = height * width;
            let (kh, kw) = pooled.map_or((height, width), |side| (side, side));
            let at =
                |b: usize, token: usize, part: usize, c: usize| qkv[(b * tokens + token) * 24 + part * 8 + c];
            // The mean over a key's cell.
            let key = |b: usize, key: usize, part: usize, c: usize| -> f32 {
                let cell =
                    |i: usize, length: usize, n: usize| (i * length / n)..((i + 1) * length).div_ceil(n);
                let mut sum = Vec::new();
                for y in cell(key / kw, height, kh) {
                    for x in cell(key % kw, width, kw) {
                        sum.push(at(b, y * width + x, part, c));
                    }
                }
                sum.iter().sum::<f32>() / sum.len() as f32
            };
            // The table's value for query i and key j of a line, channel c.
            let position = |table: &[f32], i: usize, q: usize, j: usize, k: usize, c: usize| -> f32 {
                let (qf, kf) = (q as f64, k as f64);
                let row = i as f64 * (kf / qf).max(1.0) - j as f64 * (qf / kf).max(1.0)
                    + (kf - 1.0) * (qf / kf).max(1.0);
                let row = (row + 1e-5).trunc();
                let (rows, length) = (2 * side - 1, 2 * q.max(k) - 1);
                let place = ((row + 0.5) * rows as f64 / length as f64 - 0.5).max(0.0);
                let low = (place.floor() as usize).min(rows - 1);
                let t = (place - low as f64) as f32;
                table[low * 4 + c] * (1.0 - t) + table[(low + 1).min(rows - 1) * 4 + c] * t
            };
            let mut expected = vec![0.0_f32; 2 * tokens * 8];
            for b in 0..2 {
                for head in 0..2 {
                    for query in 0..tokens {
                        let scores: Vec<f32> = (0..kh * kw)
                            .map(|j| {
                                (0..4)
                                    .map(|c| {
                                        let q = at(b, query, 0, head * 4 + c);
                                        q * key(b, j, 1, head * 4 + c) * 0.5
                                            + q * position(&tables[0], query / width, height, j / kw, kh, c)
                                            + q * position(&tables[1], query % width, width, j % kw, kw, c)
                                    })
                                    .sum()
                            })
                            .collect();
                        let largest = scores.iter().fold(f32::MIN, |m, s| m.max(*s));
                        let weights: Vec<f32> = scores.iter().map(|s| (s - largest).exp()).collect();
                        let sum: f32 = weights.iter().sum();
                        for c in 0..4 {
                            expected[(b * tokens + query) * 8 + head * 4 + c] =
                                (0..kh * kw).map(|j| weights[j] / sum * key(b, j, 2, head * 4 + c)).sum();
                        }
                    }
                }
            }
            let expected = Tensor::from_data(TensorData::new(expected, [2, height, width, 8]), &device);
            let difference = (found - attn.proj.forward(expected)).abs().max().into_scalar::<f32>();
            assert!(difference < 2e-5, "{height}x{width} {pooled:?}: {difference}");
        }
    }

    #[test]
    fn counting_dry_and_real_agree() {
        let device = Device::flex();
        let attn = MapAttention::new(8, 2, 4, &device);
        for pooled in [None, Some(3)] {
            let x = Tensor::<4>::zeros([1, 5, 4, 8], &device);
            let (real, macs) = count::measure(|| attn.forward(x.clone(), pooled, [None; 3]));
            let (dry, dry_macs) = count::dry(|| attn.forward(x, pooled, [None; 3]));
            assert_eq!((real.dims(), macs), (dry.dims(), dry_macs));
        }
    }
}
