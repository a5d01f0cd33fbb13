//! [`TinyVit`] made ready. Everything stays `[channels, height, width]`: a linear layer of tokens is then a pointwise convolution, and
//! attention gathers its windows from the map.

use burn::nn::Linear;
use kirie_kernels::{
    Activation, Gemm, ReadyConv, activation_part, fused_block, inverted_block, softmax_down,
};
use rayon::prelude::*;

use super::weights::{Norm, conv, linear, pointwise, values};
use super::{Encoded, Map, Spare, apply, multiply, product};
use crate::SamError;
use crate::encoders::Neck;
use crate::encoders::tiny_vit::{self, ConvBn, Layer, NORM_EPSILON, TinyVit, distances};

type Mid = kirie_nn::Activation;

/// Floats that a task of an activation handles.
const CHUNK: usize = 1 << 14;

/// See [`TinyVit`]; the same parts in the same order.
pub(super) struct TinyVitPlan {
    patch_embed: [ReadyConv; 2],
    layers: Vec<Vec<Step>>,
    neck: ([ReadyConv; 2], [Norm; 2]),
}

enum Step {
    /// 1x1, depthwise, 1x1; the input is added and GELU taken where it says so.
    Convs(Box<[ReadyConv; 3]>, bool),
    Block(Box<Block>),
}

impl TinyVitPlan {
    pub(super) fn new(encoder: &TinyVit) -> Result<Self, SamError> {
        let seq = &encoder.patch_embed.seq;
        let convs = |conv1: &ConvBn, conv2: &ConvBn, conv3: &ConvBn, keeps: bool| {
            let layers =
                [conv_bn(conv1, Mid::Gelu)?, conv_bn(conv2, Mid::Gelu)?, conv_bn(conv3, Mid::Identity)?];
            Ok::<_, SamError>(Step::Convs(Box::new(layers), keeps))
        };
        let merge = |merge: &tiny_vit::PatchMerging| convs(&merge.conv1, &merge.conv2, &merge.conv3, false);
        let layers = encoder.layers.iter().map(|layer| {
            let mut steps = Vec::new();
            match layer {
                Layer::Conv(layer) => {
                    for block in &layer.blocks {
                        steps.push(convs(&block.conv1, &block.conv2, &block.conv3, true)?);
                    }
                    steps.push(merge(&layer.downsample)?);
                }
                Layer::Attention(layer) => {
                    for block in &layer.blocks {
                        steps.push(Step::Block(Box::new(Block::new(block)?)));
                    }
                    if let Some(downsample) = &layer.downsample {
                        steps.push(merge(downsample)?);
                    }
                }
            }
            Ok(steps)
        });
        let Neck { i0, i1, i2, i3 } = &encoder.neck;
        Ok(Self {
            patch_embed: [conv_bn(&seq.i0, Mid::Gelu)?, conv_bn(&seq.i2, Mid::Identity)?],
            layers: layers.collect::<Result<_, SamError>>()?,
            neck: (
                [conv(i0, None, Mid::Identity)?, conv(i2, None, Mid::Identity)?],
                [Norm::of_pixels(i1)?, Norm::of_pixels(i3)?],
            ),
        })
    }

    pub(super) fn forward(&self, x: Map) -> Encoded {
        let spare = &mut Spare::default();
        let mut x = x;
        let mut early = None;
        for op in &self.patch_embed {
            let y = apply(op, &x, None, spare);
            spare.give(std::mem::replace(&mut x, y));
        }
        for (stage, steps) in self.layers.iter().enumerate() {
            for step in steps {
                let y = step.forward(&x, spare);
                spare.give(std::mem::replace(&mut x, y));
            }
            if stage == 1 {
                early = Some(x.clone());
            }
        }
        let (convs, norms) = &self.neck;
        for (op, norm) in convs.iter().zip(norms) {
            let y = apply(op, &x, None, spare);
            spare.give(std::mem::replace(&mut x, y));
            let y = norm.forward(&x, spare);
            spare.give(std::mem::replace(&mut x, y));
        }
        Encoded { embedding: x, early }
    }
}

fn conv_bn(layer: &ConvBn, what_follows: Mid) -> Result<ReadyConv, SamError> {
    conv(&layer.c, Some(&layer.bn), what_follows)
}

impl Step {
    fn forward(&self, x: &Map, spare: &mut Spare) -> Map {
        match self {
            Self::Convs(layers, keeps) => {
                let [expand, depthwise, last] = layers.as_ref();
                let mut y = spare.take(last.channels()[1], depthwise.output(x.size));
                let add = keeps.then_some(x.values.as_slice());
                inverted_block(expand, depthwise, last, x.size, &x.values, add, &mut y.values);
                if *keeps {
                    y.values.par_chunks_mut(CHUNK).for_each(|part| activation_part(Activation::Gelu, part));
                }
                y
            }
            Self::Block(block) => block.forward(x, spare),
        }
    }
}

/// See [`tiny_vit::Block`].
struct Block {
    norm: Norm,
    /// The queries are scaled already.
    qkv: ReadyConv,
    /// What a token of padding gives: it is zero before the norm.
    padding: Vec<f32>,
    proj: ReadyConv,
    /// For each head, what is added to the score of a pair of tokens, `[heads, tokens, tokens]`.
    bias: Vec<f32>,
    heads: usize,
    window: usize,
    local_conv: ReadyConv,
    mlp_norm: Norm,
    fc1: ReadyConv,
    fc2: ReadyConv,
}

impl Block {
    fn new(block: &tiny_vit::Block) -> Result<Self, SamError> {
        let attention = &block.attn;
        let (heads, window) = (attention.heads(), block.window());
        let norm = Norm::of_tokens(&attention.norm, NORM_EPSILON)?;
        let dim = norm.gamma.len();
        let head_dim = dim / heads;
        let (mut weight, mut bias) = linear(&attention.qkv)?;
        // Softmax of q k / sqrt(d): the queries' rows of every head carry the factor.
        let scale = 1.0 / (head_dim as f32).sqrt();
        for head in 0..heads {
            let rows = head * 3 * head_dim..(head * 3 + 1) * head_dim;
            bias[rows.clone()].iter_mut().for_each(|b| *b *= scale);
            weight[rows.start * dim..rows.end * dim].iter_mut().for_each(|w| *w *= scale);
        }
        let padding = weight.chunks_exact(dim).zip(&bias).map(|(row, bias)| {
            row.iter().zip(&norm.beta).map(|(w, b)| f64::from(w * b)).sum::<f64>() as f32 + bias
        });
        let padding = padding.collect();
        let table = values(attention.attention_biases.val())?;
        let bias_of_pairs =
            table.chunks_exact(window * window).flat_map(|table| distances(window).map(move |d| table[d]));
        let dense = |layer: &Linear, follows| {
            let (weight, bias) = linear(layer)?;
            Ok::<_, SamError>(pointwise(&weight, &bias, follows))
        };
        Ok(Self {
            bias: bias_of_pairs.collect(),
            qkv: pointwise(&weight, &bias, Activation::Identity),
            padding,
            proj: dense(&attention.proj, Activation::Identity)?,
            heads,
            window,
            norm,
            local_conv: conv_bn(&block.local_conv, Mid::Identity)?,
            mlp_norm: Norm::of_tokens(&block.mlp.norm, NORM_EPSILON)?,
            fc1: dense(&block.mlp.fc1, Activation::Gelu)?,
            fc2: dense(&block.mlp.fc2, Activation::Identity)?,
        })
    }

    fn forward(&self, x: &Map, spare: &mut Spare) -> Map {
        let normed = self.norm.forward(x, spare);
        let qkv = apply(&self.qkv, &normed, None, spare);
        spare.give(normed);
        let seen = self.attend(&qkv, spare);
        spare.give(qkv);
        let attended = apply(&self.proj, &seen, Some(x), spare);
        spare.give(seen);
        let local = apply(&self.local_conv, &attended, None, spare);
        spare.give(attended);
        let normed = self.mlp_norm.forward(&local, spare);
        let mut y = spare.take(x.channels, x.size);
        fused_block(&self.fc1, &self.fc2, x.size, &normed.values, Some(&local.values), &mut y.values);
        spare.give(normed);
        spare.give(local);
        y
    }

    /// `qkv` `[heads, (queries, keys, values), head_dim, height, width]` to what the queries see, `[heads * head_dim, height, width]`.
    fn attend(&self, qkv: &Map, spare: &mut Spare) -> Map {
        let ([height, width], side) = (qkv.size, self.window);
        let plane = height * width;
        let d = qkv.channels / (3 * self.heads);
        let strips = height.div_ceil(side);
        // A head's windows side by side are a task; its answer is `[d, rows, width]`.
        let answers: Vec<Vec<f32>> = (0..self.heads * strips)
            .into_par_iter()
            .map(|task| {
                let (head, top) = (task / strips, task % strips * side);
                let head_qkv = &qkv.values[head * 3 * d * plane..][..3 * d * plane];
                self.windows(head, head_qkv, [height, width], top)
            })
            .collect();
        let mut seen = spare.take(self.heads * d, qkv.size);
        let channels = seen.values.par_chunks_exact_mut(plane).enumerate();
        channels.for_each(|(channel, to)| {
            let (head, channel) = (channel / d, channel % d);
            for (to, answer) in to.chunks_mut(side * width).zip(&answers[head * strips..]) {
                to.copy_from_slice(&answer[channel * to.len()..][..to.len()]);
            }
        });
        seen
    }

    /// What the queries of one head see in the windows that begin at line `top`.
    fn windows(&self, head: usize, qkv: &[f32], [height, width]: [usize; 2], top: usize) -> Vec<f32> {
        let (side, d) = (self.window, self.padding.len() / (3 * self.heads));
        let tokens = side * side;
        let bias = &self.bias[head * tokens * tokens..][..tokens * tokens];
        let padding = &self.padding[head * 3 * d..][..3 * d];
        let mut window = vec![0.0; 3 * d * tokens];
        let mut scores = vec![0.0; tokens * tokens];
        let mut out = vec![0.0; d * tokens];
        let rows = side.min(height - top);
        let mut seen = vec![0.0; d * rows * width];
        for left in (0..width).step_by(side) {
            let columns = side.min(width - left);
            for (channel, to) in window.chunks_exact_mut(tokens).enumerate() {
                if rows * columns < tokens {
                    to.fill(padding[channel]);
                }
                for (row, to) in to.chunks_exact_mut(side).take(rows).enumerate() {
                    let from = (channel * height + top + row) * width + left;
                    to[..columns].copy_from_slice(&qkv[from..][..columns]);
                }
            }
            let (queries, rest) = window.split_at(d * tokens);
            let (keys, contents) = rest.split_at(d * tokens);
            // Scores `[key, query]`: the bias is the same both ways.
            scores.copy_from_slice(bias);
            let s = product(tokens, d, tokens);
            multiply(&Gemm { a_transposed: true, accumulate: true, ..s }, keys, queries, &mut scores);
            softmax_down(tokens, tokens, &mut scores);
            multiply(&product(d, tokens, tokens), contents, &scores, &mut out);
            for (channel, from) in out.chunks_exact(tokens).enumerate() {
                for (row, from) in from.chunks_exact(side).take(rows).enumerate() {
                    seen[(channel * rows + row) * width + left..][..columns]
                        .copy_from_slice(&from[..columns]);
                }
            }
        }
        seen
    }
}
