//! The global feature token and its assistants.
//!
//! On a ViT they go through the frozen blocks, as MoDA has it: in each block they attend to one another and to the patch tokens that
//! enter it (pooled to a few places), by the block's own projections and without relative positions, and then pass its MLP. The patch
//! tokens are those of the segmentation pass and do not see them, so nothing of the base's answer changes. The feature token's last state
//! is the query.
//!
//! Other encoders have no such sequence. There every stage has tokens of its width, which read its places by attention without
//! projections: `softmax(t x^T / sqrt d) x` with `x` the places after a norm; the feature token then gathers what it and its assistants
//! have read in the same way. The query is what it holds of all stages.

use burn::module::{Module, Param};
use burn::nn::{Initializer, Linear, LinearConfig};
use burn::tensor::activation::softmax;
use burn::tensor::{Device, Tensor};
use kirie_nn::linear;
use kirie_sam::encoders::{ImageEncoder, vit};
use kirie_sam::model::Sam;

use super::RouterFeatures;
use crate::base::Base;

/// Tokens, and what reads a domain off the feature token. Keys: `tokens.{i}` `[1 + assistants, dim]`, `head.*` `[classes, sum of dims]`.
#[derive(Module, Debug)]
pub struct TokenReader {
    /// For a ViT one set of tokens, otherwise one for each stage; the feature token comes first.
    pub tokens: Vec<Param<Tensor<2>>>,
    /// Query to a logit for each class.
    pub head: Linear,
}

impl TokenReader {
    /// Random tokens (`N(0, 1)`, as published) for features of this shape.
    pub fn new(
        assistants: usize,
        features: &RouterFeatures,
        base: &Base,
        classes: usize,
        device: &Device,
    ) -> Self {
        let sequence = matches!(base.sam(false).image_encoder, ImageEncoder::Vit(_));
        let dims: Vec<usize> = features.stages.iter().map(|stage| stage.dim).collect();
        let dims = if sequence { dims[..1].to_vec() } else { dims };
        Self::of_dims(assistants, &dims, classes, device)
    }

    /// The same for stages of these widths.
    pub fn of_dims(assistants: usize, dims: &[usize], classes: usize, device: &Device) -> Self {
        let normal = Initializer::Normal { mean: 0.0, std: 1.0 };
        Self {
            tokens: dims.iter().map(|dim| normal.init([1 + assistants, *dim], device)).collect(),
            head: LinearConfig::new(dims.iter().sum(), classes).init(device),
        }
    }

    /// Tokens that training leaves as they are.
    pub(super) fn with_fixed_tokens(mut self) -> Self {
        self.tokens = self.tokens.into_iter().map(|tokens| tokens.set_require_grad(false)).collect();
        self
    }

    /// Stages `[batch, places, dim]` to logits, `[batch, classes]`.
    pub fn forward(&self, stages: &[Tensor<3>], base: &Sam) -> Tensor<2> {
        linear(&self.head, self.query(stages, base))
    }

    /// Stages to the feature token's query, `[batch, sum of dims]`.
    pub fn query(&self, stages: &[Tensor<3>], base: &Sam) -> Tensor<2> {
        let read: Vec<Tensor<2>> = match &base.image_encoder {
            ImageEncoder::Vit(encoder) => {
                vec![through_blocks(self.tokens[0].val(), stages, &encoder.blocks)]
            }
            _ => self
                .tokens
                .iter()
                .zip(stages)
                .map(|(tokens, stage)| read(tokens.val(), stage.clone()))
                .collect(),
        };
        Tensor::cat(read.into_iter().map(normed).collect(), 1)
    }
}

/// Without its mean and with a deviation of one, over the last side.
fn normed<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    let x = x.clone() - x.mean_dim(D - 1);
    let deviation = (x.clone().square().mean_dim(D - 1) + 1e-6).sqrt();
    x / deviation
}

/// Tokens `[n, dim]` on places `[batch, places, dim]`, to `[batch, dim]`.
fn read(tokens: Tensor<2>, places: Tensor<3>) -> Tensor<2> {
    let [batch, _, dim] = places.dims();
    let [count, _] = tokens.dims();
    let scale = (dim as f64).powf(-0.5);
    let places = normed(places);
    let tokens = tokens.unsqueeze::<3>().expand([batch, count, dim]);
    let attention = softmax(tokens.clone().matmul(places.clone().swap_dims(1, 2)) * scale, 2);
    let held = attention.matmul(places); // [batch, n, dim]
    let first = tokens.narrow(1, 0, 1);
    let gathering = softmax(first.matmul(held.clone().swap_dims(1, 2)) * scale, 2);
    (held.clone().narrow(1, 0, 1) + gathering.matmul(held)).squeeze_dim::<2>(1)
}

/// Tokens `[n, dim]` through frozen blocks whose inputs are `[batch, places, dim]` each, to the first token `[batch, dim]`.
fn through_blocks(tokens: Tensor<2>, inputs: &[Tensor<3>], blocks: &[vit::Block]) -> Tensor<2> {
    let [count, dim] = tokens.dims();
    let batch = inputs.first().map_or(1, |input| input.dims()[0]);
    let mut x = tokens.unsqueeze::<3>().expand([batch, count, dim]);
    for (block, patches) in blocks.iter().zip(inputs) {
        let attn = &block.attn;
        let (heads, head_dim) = (attn.heads(), dim / attn.heads());
        let all = block.normed(Tensor::cat(vec![x.clone(), patches.clone()], 1));
        let [_, length, _] = all.dims();
        let qkv =
            linear(&attn.qkv, all).reshape([batch, length, 3, heads, head_dim]).permute([2, 0, 3, 1, 4]);
        let part = |i: usize| qkv.clone().narrow(0, i, 1).squeeze_dim::<4>(0); // [batch, heads, length, head_dim]
        let queries = part(0).narrow(2, 0, count) * (head_dim as f64).powf(-0.5);
        let attention = softmax(queries.matmul(part(1).swap_dims(2, 3)), 3);
        let attended = attention.matmul(part(2)).swap_dims(1, 2).reshape([batch, count, dim]);
        x = block.transform(x + linear(&attn.proj, attended));
    }
    x.narrow(1, 0, 1).squeeze_dim::<2>(1)
}
