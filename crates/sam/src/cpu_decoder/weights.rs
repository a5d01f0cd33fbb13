//! The decoder's parameters as plain arrays, in the forms that the passes multiply with.

use burn::nn::conv::ConvTranspose2d;
use burn::nn::{LayerNorm, Linear};
use burn::tensor::Tensor;
use kirie_kernels::{Gemm, Rows, gemm_part};
use kirie_nn::{Attention, LayerNorm2d, Mlp, ReluMlp};

use crate::SamError;
use crate::mask_decoder::{MaskDecoder, Upscaling};
use crate::tensor::HostTensor;
use crate::transformer::TwoWayBlock;

fn values<const D: usize>(tensor: Tensor<D>) -> Result<Vec<f32>, SamError> {
    Ok(HostTensor::from_burn(tensor)?.values)
}

/// `[rows, columns]` to `[columns, rows]`.
fn transposed(x: &[f32], rows: usize) -> Vec<f32> {
    let columns = x.len() / rows;
    (0..columns).flat_map(|c| x.iter().skip(c).step_by(columns)).copied().collect()
}

/// A plain product.
pub(super) fn product(m: usize, k: usize, n: usize) -> Gemm {
    Gemm { m, k, n, a_transposed: false, b_transposed: false, accumulate: false }
}

/// A linear layer.
pub(super) struct Dense {
    /// `[input, output]`.
    pub(super) weight: Vec<f32>,
    pub(super) bias: Vec<f32>,
    pub(super) output: usize,
}

impl Dense {
    fn new(linear: &Linear) -> Result<Self, SamError> {
        let [_, output] = linear.weight.dims();
        let bias = linear.bias.as_ref().map(|bias| values(bias.val())).transpose()?;
        let bias = bias.unwrap_or_else(|| vec![0.0; output]);
        Ok(Self { weight: values(linear.weight.val())?, bias, output })
    }

    /// `[rows, input]` to `[rows, output]`.
    pub(super) fn forward(&self, x: &[f32]) -> Vec<f32> {
        let input = self.weight.len() / self.output;
        let rows = x.len() / input;
        let mut y = self.bias.repeat(rows);
        let s = Gemm { accumulate: true, ..product(rows, input, self.output) };
        kirie_kernels::gemm(&s, x, &self.weight, &mut y);
        y
    }
}

/// A layer norm of tokens or, over channels, of pixels.
pub(super) struct Norm {
    pub(super) gamma: Vec<f32>,
    pub(super) beta: Vec<f32>,
    pub(super) epsilon: f32,
}

impl Norm {
    fn new(norm: &LayerNorm, epsilon: f64) -> Result<Self, SamError> {
        let gamma = values(norm.gamma.val())?;
        let beta = norm.beta.as_ref().map(|beta| values(beta.val())).transpose()?;
        Ok(Self { beta: beta.unwrap_or_else(|| vec![0.0; gamma.len()]), gamma, epsilon: epsilon as f32 })
    }

    fn of_pixels(norm: &LayerNorm2d) -> Result<Self, SamError> {
        let (gamma, beta) = (values(norm.weight.val())?, values(norm.bias.val())?);
        Ok(Self { gamma, beta, epsilon: norm.epsilon() as f32 })
    }

    /// Normalises each token of `x` plus `more`, `[tokens, C]`.
    pub(super) fn sum(&self, x: &[f32], more: &[f32]) -> Vec<f32> {
        self.forward(&sum(x, more))
    }

    pub(super) fn forward(&self, x: &[f32]) -> Vec<f32> {
        let (width, mut y) = (self.gamma.len(), vec![0.0; x.len()]);
        let rows = x.len() / width;
        kirie_kernels::layer_norm(rows, width, x, &self.gamma, &self.beta, self.epsilon, &mut y);
        y
    }
}

/// Element by element.
pub(super) fn sum(x: &[f32], y: &[f32]) -> Vec<f32> {
    x.iter().zip(y).map(|(x, y)| x + y).collect()
}

/// Linear layers with ReLU between them.
pub(super) struct Perceptron(Vec<Dense>);

impl Perceptron {
    fn new<'l>(layers: impl IntoIterator<Item = &'l Linear>) -> Result<Self, SamError> {
        Ok(Self(layers.into_iter().map(Dense::new).collect::<Result<_, _>>()?))
    }

    fn head(mlp: &ReluMlp) -> Result<Self, SamError> {
        Self::new(&mlp.layers)
    }

    /// The MLP of a block, whose activation is ReLU in every decoder of the family.
    fn block(mlp: &Mlp) -> Result<Self, SamError> {
        Self::new([&mlp.lin1, &mlp.lin2])
    }

    /// `[rows, input]` to `[rows, output]`.
    pub(super) fn forward(&self, x: &[f32]) -> Vec<f32> {
        let mut x = self.0[0].forward(x);
        for layer in &self.0[1..] {
            kirie_kernels::activation_part(kirie_kernels::Activation::Relu, &mut x);
            x = layer.forward(&x);
        }
        x
    }
}

/// An attention; of its two sides one may be the picture's cells.
pub(super) struct Heads {
    pub(super) q: Dense,
    pub(super) k: Dense,
    pub(super) v: Dense,
    pub(super) out: Dense,
    /// The weights of `q` and `k` as `[inner, C]`.
    pub(super) q_transposed: Vec<f32>,
    k_transposed: Vec<f32>,
    /// Number of heads.
    pub(super) count: usize,
    pub(super) dim: usize,
}

/// What the cells do with a prompt's tokens: they look at them by these and add what they find.
pub(super) struct Update {
    /// The prompt's tokens.
    pub(super) tokens: usize,
    /// `[heads * tokens, C]`: times a cell, its scores.
    pub(super) scores: Vec<f32>,
    /// `[heads * tokens]`, added to the scores.
    pub(super) offset: Vec<f32>,
    /// `[heads * tokens + 1, C]`: what a token adds to a cell that looks at it alone; last, what every cell gets.
    pub(super) out: Vec<f32>,
}

impl Heads {
    fn new(attention: &Attention) -> Result<Self, SamError> {
        let (q, k) = (Dense::new(&attention.q_proj)?, Dense::new(&attention.k_proj)?);
        let dim = q.weight.len() / q.output;
        Ok(Self {
            q_transposed: transposed(&q.weight, dim),
            k_transposed: transposed(&k.weight, dim),
            q,
            k,
            v: Dense::new(&attention.v_proj)?,
            out: Dense::new(&attention.out_proj)?,
            count: attention.heads(),
            dim,
        })
    }

    pub(super) fn inner(&self) -> usize {
        self.q.output
    }

    pub(super) fn head_dim(&self) -> usize {
        self.inner() / self.count
    }

    fn scale(&self) -> f32 {
        (self.head_dim() as f32).sqrt().recip()
    }

    /// Queries or keys with the factor of the scores.
    pub(super) fn scaled(&self, x: &[f32]) -> Vec<f32> {
        let scale = self.scale();
        x.iter().map(|x| scale * x).collect()
    }

    /// Tokens among themselves: `q`, `k`, `v` `[prompts * tokens, C]` to the same.
    pub(super) fn among(&self, tokens: usize, q: &[f32], k: &[f32], v: &[f32]) -> Vec<f32> {
        let (q, k, v) = (self.q.forward(q), self.k.forward(k), self.v.forward(v));
        let (inner, d, scale) = (self.inner(), self.head_dim(), self.scale());
        let mut all = vec![0.0; q.len()];
        let mut weights = vec![0f32; tokens];
        for (prompt, out) in all.chunks_exact_mut(tokens * inner).enumerate() {
            let at = |token: usize, head: usize| (prompt * tokens + token) * inner + head * d;
            for head in 0..self.count {
                for token in 0..tokens {
                    let query = &q[at(token, head)..][..d];
                    for (other, weight) in weights.iter_mut().enumerate() {
                        let key = &k[at(other, head)..][..d];
                        *weight = scale * query.iter().zip(key).map(|(q, k)| q * k).sum::<f32>();
                    }
                    let most = weights.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                    for weight in &mut weights {
                        *weight = (*weight - most).exp();
                    }
                    let total: f32 = weights.iter().sum();
                    let to = &mut out[token * inner + head * d..][..d];
                    for (other, weight) in weights.iter().enumerate() {
                        let value = &v[at(other, head)..][..d];
                        to.iter_mut().zip(value).for_each(|(to, v)| *to += weight / total * v);
                    }
                }
            }
        }
        self.out.forward(&all)
    }

    /// For each head, rows of `x` `[tokens, inner]` times the head's part of `weight` `[inner, C]`: `[heads * tokens, C]`.
    pub(super) fn through_heads(&self, x: &[f32], weight: &[f32], to: &mut [f32]) {
        let (inner, d, dim) = (self.inner(), self.head_dim(), self.dim);
        let tokens = x.len() / inner;
        for head in 0..self.count {
            let rows = Rows { a: inner, b: dim, c: dim };
            let (a, b) = (&x[head * d..], &weight[head * d * dim..]);
            gemm_part(&product(tokens, d, dim), rows, a, b, &mut to[head * tokens * dim..]);
        }
    }

    /// Tokens look at the cells: of one prompt's projected queries `[tokens, inner]` a matrix `[heads * tokens, C]` that times a cell
    /// (with its position) is the score of each token for it. What the keys' bias adds is the same for all cells of a token,
    /// and a softmax over the cells does not see it.
    pub(super) fn look(&self, queries: &[f32]) -> Vec<f32> {
        let scaled = self.scaled(queries);
        let mut to = vec![0.0; self.count * queries.len() / self.inner() * self.dim];
        self.through_heads(&scaled, &self.k_transposed, &mut to);
        to
    }

    /// What one prompt's tokens have seen: the mean cells `[C, heads * tokens]`, weighted by each head and token, to `[tokens, inner]`.
    pub(super) fn seen(&self, cells: &[f32], to: &mut [f32]) {
        let (inner, d) = (self.inner(), self.head_dim());
        let columns = cells.len() / self.dim;
        let tokens = columns / self.count;
        to.chunks_exact_mut(inner).for_each(|row| row.copy_from_slice(&self.v.bias));
        for head in 0..self.count {
            let s = Gemm { a_transposed: true, accumulate: true, ..product(tokens, self.dim, d) };
            let rows = Rows { a: columns, b: inner, c: inner };
            let (a, b) = (&cells[head * tokens..], &self.v.weight[head * d..]);
            gemm_part(&s, rows, a, b, &mut to[head * d..]);
        }
    }

    /// What the queries' bias adds to the score of each head and token, from scaled keys `[tokens, inner]`.
    pub(super) fn offset(&self, keys: &[f32]) -> Vec<f32> {
        let (inner, d) = (self.inner(), self.head_dim());
        let tokens = keys.len() / inner;
        let rows = (0..self.count).flat_map(|head| (0..tokens).map(move |token| (head, token)));
        rows.map(|(head, token)| {
            let key = &keys[token * inner + head * d..][..d];
            key.iter().zip(&self.q.bias[head * d..]).map(|(k, b)| k * b).sum()
        })
        .collect()
    }

    /// Cells look at one prompt's tokens, of which `keys` and `values` are the projections, `[tokens, inner]`.
    pub(super) fn update(&self, keys: &[f32], values: &[f32]) -> Update {
        let scaled = self.scaled(keys);
        let offset = self.offset(&scaled);
        let (tokens, rows) = (offset.len() / self.count, offset.len());
        let (mut scores, mut out) = (vec![0.0; rows * self.dim], vec![0.0; (rows + 1) * self.dim]);
        self.through_heads(&scaled, &self.q_transposed, &mut scores);
        self.through_heads(values, &self.out.weight, &mut out);
        out[rows * self.dim..].copy_from_slice(&self.out.bias);
        Update { tokens, scores, offset, out }
    }
}

/// One layer of the transformer.
pub(super) struct Block {
    pub(super) self_attn: Heads,
    pub(super) norm1: Norm,
    pub(super) token_to_image: Heads,
    pub(super) norm2: Norm,
    pub(super) mlp: Perceptron,
    pub(super) norm3: Norm,
    pub(super) image_to_token: Heads,
    pub(super) norm4: Norm,
}

impl Block {
    fn new(block: &TwoWayBlock) -> Result<Self, SamError> {
        let norm = |norm| Norm::new(norm, block.epsilon());
        Ok(Self {
            self_attn: Heads::new(&block.self_attn)?,
            norm1: norm(&block.norm1)?,
            token_to_image: Heads::new(&block.cross_attn_token_to_image)?,
            norm2: norm(&block.norm2)?,
            mlp: Perceptron::block(&block.mlp)?,
            norm3: norm(&block.norm3)?,
            image_to_token: Heads::new(&block.cross_attn_image_to_token)?,
            norm4: norm(&block.norm4)?,
        })
    }
}

/// A transposed convolution that makes 2x2 pixels of each.
pub(super) struct Doubling {
    /// `[4 * output, input]`, the four places of an output pixel as rows of an image of 2x2.
    pub(super) weight: Vec<f32>,
    /// `[4 * output]`.
    pub(super) bias: Vec<f32>,
    pub(super) input: usize,
    pub(super) output: usize,
}

impl Doubling {
    fn new(convolution: &ConvTranspose2d) -> Result<Self, SamError> {
        let [input, output, ..] = convolution.weight.dims();
        // [input, output, 2, 2]
        let from = values(convolution.weight.val())?;
        let at = |place: usize, o: usize, i: usize| from[(i * output + o) * 4 + place];
        let rows = (0..4).flat_map(|place| (0..output).map(move |o| (place, o)));
        let weight = rows.flat_map(|(place, o)| (0..input).map(move |i| (place, o, i)));
        let weight = weight.map(|(place, o, i)| at(place, o, i)).collect();
        let bias = convolution.bias.as_ref().map(|bias| values(bias.val())).transpose()?;
        let bias = bias.unwrap_or_else(|| vec![0.0; output]).repeat(4);
        Ok(Self { weight, bias, input, output })
    }
}

/// The image's way up.
pub(super) struct Up {
    pub(super) first: Doubling,
    pub(super) norm: Norm,
    pub(super) second: Doubling,
}

impl Up {
    fn new(upscaling: &Upscaling) -> Result<Self, SamError> {
        Ok(Self {
            first: Doubling::new(&upscaling.i0)?,
            norm: Norm::of_pixels(&upscaling.i1)?,
            second: Doubling::new(&upscaling.i3)?,
        })
    }
}

/// All of it.
pub(super) struct Weights {
    /// Quality token and mask tokens, `[1 + masks, C]`.
    pub(super) output_tokens: Vec<f32>,
    pub(super) blocks: Vec<Block>,
    pub(super) last_look: Heads,
    pub(super) last_norm: Norm,
    pub(super) up: Up,
    pub(super) hypernetworks: Vec<Perceptron>,
    pub(super) quality: Perceptron,
}

impl Weights {
    pub(super) fn new(decoder: &MaskDecoder) -> Result<Self, SamError> {
        let transformer = &decoder.transformer;
        let mut output_tokens = values(decoder.iou_token.weight.val())?;
        output_tokens.extend(values(decoder.mask_tokens.weight.val())?);
        Ok(Self {
            output_tokens,
            blocks: transformer.layers.iter().map(Block::new).collect::<Result<_, _>>()?,
            last_look: Heads::new(&transformer.final_attn_token_to_image)?,
            last_norm: Norm::new(&transformer.norm_final_attn, transformer.epsilon())?,
            up: Up::new(&decoder.output_upscaling)?,
            hypernetworks: decoder
                .output_hypernetworks_mlps
                .iter()
                .map(Perceptron::head)
                .collect::<Result<_, _>>()?,
            quality: Perceptron::head(&decoder.iou_prediction_head)?,
        })
    }
}
