//! SAM's plain vision transformer (`image_encoder.py` of the reference; ViTDet).
//!
//! | stage | output | state-dict prefix |
//! | --- | --- | --- |
//! | patch embedding, 16x16 | `[B, 64, 64, D]` | `patch_embed.proj` |
//! | position embedding | same | `pos_embed` |
//! | blocks, windowed or global | same | `blocks.{i}` |
//! | neck | `[B, 256, 64, 64]` | `neck.{0,1,2,3}` |
//!
//! Inside the blocks tensors are `[batch, height, width, channels]`.

use burn::module::{Initializer, Module, Param};
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::{LayerNorm, LayerNormConfig, Linear, LinearConfig};
use burn::tensor::module::attention;
use burn::tensor::ops::AttentionModuleOptions;
use burn::tensor::{Device, Tensor, TensorData};
use kirie_nn::{Activation, Mlp, MlpConfig, conv2d, layer_norm, linear};
use serde::{Deserialize, Serialize};

use super::{EncoderOutput, Neck, window_merge, window_partition};

/// Of the layer norms in the blocks.
const NORM_EPSILON: f64 = 1e-6;

/// Configuration of [`Vit`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VitConfig {
    /// Side of the square input, pixels.
    pub image_size: usize,
    /// Side of a patch, pixels.
    pub patch: usize,
    /// Width of a token.
    pub dim: usize,
    /// Number of blocks.
    pub depth: usize,
    /// Heads of each attention.
    pub heads: usize,
    /// Width of the MLP over the width of a token.
    pub mlp_ratio: usize,
    /// Side of an attention window, tokens.
    pub window: usize,
    /// Blocks that attend over the whole picture.
    pub global_blocks: Vec<usize>,
    /// Channels of the embedding.
    pub out_channels: usize,
}

impl VitConfig {
    /// SAM's settings around the sizes that differ between ViT-B, L and H.
    pub fn sam(dim: usize, depth: usize, heads: usize, global_blocks: [usize; 4]) -> Self {
        Self {
            image_size: 1024,
            patch: 16,
            dim,
            depth,
            heads,
            mlp_ratio: 4,
            window: 14,
            global_blocks: global_blocks.to_vec(),
            out_channels: 256,
        }
    }

    /// Parameters by default initialisation.
    pub fn init(&self, device: &Device) -> Vit {
        let grid = self.image_size / self.patch;
        Vit {
            patch_embed: PatchEmbed {
                proj: Conv2dConfig::new([3, self.dim], [self.patch; 2])
                    .with_stride([self.patch; 2])
                    .init(device),
            },
            pos_embed: Initializer::Normal { mean: 0.0, std: 0.02 }.init([1, grid, grid, self.dim], device),
            blocks: (0..self.depth)
                .map(|i| self.block(!self.global_blocks.contains(&i), grid, device))
                .collect(),
            neck: Neck::new(self.dim, self.out_channels, device),
        }
    }

    fn block(&self, windowed: bool, grid: usize, device: &Device) -> Block {
        let side = if windowed { self.window } else { grid };
        let norm = || LayerNormConfig::new(self.dim).with_epsilon(NORM_EPSILON).init(device);
        let table = || Initializer::Zeros.init([2 * side - 1, self.dim / self.heads], device);
        Block {
            norm1: norm(),
            attn: RelativeAttention {
                rel_pos_h: table(),
                rel_pos_w: table(),
                qkv: LinearConfig::new(self.dim, 3 * self.dim).init(device),
                proj: LinearConfig::new(self.dim, self.dim).init(device),
                heads: self.heads,
            },
            norm2: norm(),
            mlp: MlpConfig { dim: self.dim, hidden: self.mlp_ratio * self.dim, activation: Activation::Gelu }
                .init(device),
            window: windowed.then_some(self.window),
        }
    }
}

/// The encoder.
#[derive(Module, Debug)]
pub struct Vit {
    /// Position embedding, `[1, grid, grid, D]`.
    pub pos_embed: Param<Tensor<4>>,
    /// Pixels to tokens.
    pub patch_embed: PatchEmbed,
    /// Transformer blocks.
    pub blocks: Vec<Block>,
    /// To the embedding's width.
    pub neck: Neck,
}

/// A convolution whose stride is its kernel. Keys: `proj.*`.
#[derive(Module, Debug)]
pub struct PatchEmbed {
    /// `[D, 3, patch, patch]`.
    pub proj: Conv2d,
}

impl Vit {
    /// `[batch, 3, size, size]` to the embedding; the early map is the output of the first global block.
    pub fn forward(&self, x: Tensor<4>) -> EncoderOutput {
        let mut x = conv2d(&self.patch_embed.proj, x).permute([0, 2, 3, 1]) + self.pos_embed.val();
        let mut early = None;
        for block in &self.blocks {
            x = block.forward(x);
            if block.window.is_none() && early.is_none() {
                early = Some(x.clone().permute([0, 3, 1, 2]));
            }
        }
        EncoderOutput { embedding: self.neck.forward(x.permute([0, 3, 1, 2])), early }
    }
}

/// One pre-norm transformer block.
#[derive(Module, Debug)]
pub struct Block {
    /// Before the attention, epsilon 1e-6.
    pub norm1: LayerNorm,
    /// Attention with relative positions.
    pub attn: RelativeAttention,
    /// Before the MLP, epsilon 1e-6.
    pub norm2: LayerNorm,
    /// Linear, GELU, linear.
    pub mlp: Mlp,
    #[module(skip)]
    window: Option<usize>,
}

impl Block {
    /// `[batch, height, width, D]` to the same shape.
    ///
    /// Windows are padded after the norm and the padding is not masked: a padded token's query, key and
    /// value are the projection's bias and take part in the softmax, as in the reference.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        self.transform(self.attend(x))
    }

    /// The first half: attention, added to its input. `[batch, height, width, D]` to the same shape.
    pub fn attend(&self, x: Tensor<4>) -> Tensor<4> {
        let [batch, height, width, _] = x.dims();
        let normed = self.normed(x.clone());
        let attended = match self.window {
            Some(side) => {
                let windows = self.attn.forward(window_partition(normed, side));
                window_merge(windows, [batch, height, width])
            }
            None => self.attn.forward(normed),
        };
        x + attended
    }

    /// The second half: the MLP, added to its input. `[.., D]` to the same shape.
    pub fn transform<const N: usize>(&self, x: Tensor<N>) -> Tensor<N> {
        x.clone() + self.mlp.forward(layer_norm(&self.norm2, NORM_EPSILON, x))
    }

    /// What the attention sees: its input after the first norm. `[.., D]` to the same shape.
    pub fn normed<const N: usize>(&self, x: Tensor<N>) -> Tensor<N> {
        layer_norm(&self.norm1, NORM_EPSILON, x)
    }

    /// Whether the attention goes over the whole picture.
    pub fn is_global(&self) -> bool {
        self.window.is_none()
    }
}

/// Multi-head attention with decomposed relative positions.
///
/// The bias of query `(i, j)` and key `(m, n)` is `q . rel_pos_h[i - m + S - 1] + q . rel_pos_w[j - n + S - 1]`
/// with the unscaled query. It is linear in the query, so it rides along in the dot product: the two bias
/// vectors are appended to the query and the key's one-hot row and column to the key. No tensor of
/// `tokens x tokens` is ever held, and any fused attention can run it.
#[derive(Module, Debug)]
pub struct RelativeAttention {
    /// Vertical table, `[2 S - 1, head_dim]`.
    pub rel_pos_h: Param<Tensor<2>>,
    /// Horizontal table, `[2 S - 1, head_dim]`.
    pub rel_pos_w: Param<Tensor<2>>,
    /// To queries of all heads, keys of all heads, values of all heads.
    pub qkv: Linear,
    /// Back.
    pub proj: Linear,
    heads: usize,
}

impl RelativeAttention {
    /// Number of heads.
    pub fn heads(&self) -> usize {
        self.heads
    }

    /// `[batch, height, width, D]` to the same shape; `height` and `width` must not exceed the tables' `S`.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let [batch, height, width, dim] = x.dims();
        let (heads, head_dim, tokens) = (self.heads, dim / self.heads, height * width);
        let device = x.device();

        let qkv = linear(&self.qkv, x)
            .reshape([batch, tokens, 3, heads, head_dim])
            .permute([2, 0, 3, 1, 4])
            .reshape([3 * batch, heads, tokens, head_dim]);
        let part = |i: usize| qkv.clone().narrow(0, i * batch, batch);
        let (q, k, v) = (part(0), part(1), part(2));

        // [batch * heads, height, width, head_dim]; one matrix product per row of queries, then per column.
        let grid = q.clone().reshape([batch * heads, height, width, head_dim]);
        let by_row = grid
            .clone()
            .swap_dims(0, 1)
            .reshape([height, batch * heads * width, head_dim])
            .matmul(relative_table(&self.rel_pos_h, height).swap_dims(1, 2))
            .reshape([height, batch * heads, width, height])
            .swap_dims(0, 1);
        let by_column = grid
            .permute([2, 0, 1, 3])
            .reshape([width, batch * heads * height, head_dim])
            .matmul(relative_table(&self.rel_pos_w, width).swap_dims(1, 2))
            .reshape([width, batch * heads, height, width])
            .permute([1, 2, 0, 3]);
        let by_row = by_row.reshape([batch, heads, tokens, height]);
        let by_column = by_column.reshape([batch, heads, tokens, width]);

        let q = Tensor::cat(vec![q * (head_dim as f64).powf(-0.5), by_row, by_column], 3);
        let places = one_hot_places(height, width, &device).expand([batch, heads, tokens, height + width]);
        let k = Tensor::cat(vec![k, places], 3);
        let options = AttentionModuleOptions { scale: Some(1.0), ..Default::default() };
        let out = attention(q, k, v, None, None, options);
        linear(&self.proj, out.swap_dims(1, 2).reshape([batch, height, width, dim]))
    }
}

/// Rows of a relative table for every query and key of a line, `[line, line, head_dim]`.
fn relative_table(table: &Param<Tensor<2>>, line: usize) -> Tensor<3> {
    let table = table.val();
    let [rows, head_dim] = table.dims();
    let side = rows.div_ceil(2);
    let rows = (0..line).map(|query| {
        // key 0..line needs query - key + side - 1, a falling run of rows
        let first = query + side - line;
        table.clone().narrow(0, first, line).flip([0]).reshape([1, line, head_dim])
    });
    Tensor::cat(rows.collect(), 0)
}

/// For every token of a `height` x `width` grid its row and column as one-hot vectors,
/// `[1, 1, height * width, height + width]`.
pub fn one_hot_places(height: usize, width: usize, device: &Device) -> Tensor<4> {
    let mut data = vec![0.0_f32; height * width * (height + width)];
    for (token, row) in data.chunks_exact_mut(height + width).enumerate() {
        row[token / width] = 1.0;
        row[height + token % width] = 1.0;
    }
    Tensor::from_data(TensorData::new(data, [1, 1, height * width, height + width]), device)
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::{Distribution, activation::softmax};

    /// The appended dot products give the attention that the definition, written out pair by pair, gives.
    #[test]
    fn relative_attention_equals_its_definition() {
        let device = Device::flex();
        let config = VitConfig { image_size: 64, ..VitConfig::sam(8, 1, 2, [0; 4]) };
        let mut attn = config.block(false, 4, &device).attn;
        let random = |shape| Tensor::<2>::random(shape, Distribution::Normal(0.0, 1.0), &device);
        attn.rel_pos_h = Param::from_tensor(random([7, 4]));
        attn.rel_pos_w = Param::from_tensor(random([7, 4]));
        let (height, width) = (4, 3);
        let x = Tensor::<4>::random([2, height, width, 8], Distribution::Normal(0.0, 1.0), &device);
        let found = attn.forward(x.clone());

        let qkv: Vec<f32> = attn.qkv.forward(x).into_data().try_to_vec().unwrap();
        let table = |t: &Param<Tensor<2>>| t.val().into_data().try_to_vec::<f32>().unwrap();
        let (rel_h, rel_w) = (table(&attn.rel_pos_h), table(&attn.rel_pos_w));
        let tokens = height * width;
        let at = |b: usize, token: usize, part: usize, head: usize| {
            let start = (b * tokens + token) * 24 + part * 8 + head * 4;
            &qkv[start..start + 4]
        };
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
        let mut expected = vec![0.0_f32; 2 * tokens * 8];
        for b in 0..2 {
            for head in 0..2 {
                for query in 0..tokens {
                    let q = at(b, query, 0, head);
                    let scores: Vec<f32> = (0..tokens)
                        .map(|key| {
                            let dy = query / width + 3 - key / width;
                            let dx = query % width + 3 - key % width;
                            dot(q, at(b, key, 1, head)) * 0.5
                                + dot(q, &rel_h[dy * 4..dy * 4 + 4])
                                + dot(q, &rel_w[dx * 4..dx * 4 + 4])
                        })
                        .collect();
                    let scores = Tensor::<1>::from_floats(scores.as_slice(), &device);
                    let weights: Vec<f32> = softmax(scores, 0).into_data().try_to_vec().unwrap();
                    for (key, weight) in weights.iter().enumerate() {
                        for (c, value) in at(b, key, 2, head).iter().enumerate() {
                            expected[(b * tokens + query) * 8 + head * 4 + c] += weight * value;
                        }
                    }
                }
            }
        }
        let expected = Tensor::from_data(TensorData::new(expected, [2, height, width, 8]), &device);
        let difference = (found - attn.proj.forward(expected)).abs().max().into_scalar::<f32>();
        assert!(difference < 1e-5, "{difference}");
    }
}
