//! Transformer blocks that give their attention away, with the names of DeiT's state dict.

use burn::module::Module;
use burn::nn::{LayerNorm, LayerNormConfig, Linear, LinearConfig};
use burn::tensor::activation::{relu, sigmoid, softmax};
use burn::tensor::{Device, Tensor};
use kirie_nn::{Activation, layer_norm, linear};

/// Of all norms.
pub(super) const EPSILON: f64 = 1e-6;
/// Hidden width of the MLP over the tokens'.
const MLP_RATIO: usize = 4;
/// Maps over hidden width of [`Fusion`].
const REDUCTION: usize = 4;

/// A pre-norm block: attention, then an MLP, each added to its input.
#[derive(Module, Debug)]
pub struct Block {
    /// Before the attention.
    pub norm1: LayerNorm,
    /// The attention.
    pub attn: SelfAttention,
    /// Before the MLP.
    pub norm2: LayerNorm,
    /// The MLP.
    pub mlp: TokenMlp,
}

/// Attention of all tokens to all tokens.
#[derive(Module, Debug)]
pub struct SelfAttention {
    /// To queries, keys and values of all heads.
    pub qkv: Linear,
    /// Back.
    pub proj: Linear,
    heads: usize,
}

/// Linear, GELU, linear. (`kirie_nn::Mlp` has SAM's names.)
#[derive(Module, Debug)]
pub struct TokenMlp {
    /// To the hidden width.
    pub fc1: Linear,
    /// Back.
    pub fc2: Linear,
}

pub(super) fn norm(dim: usize, device: &Device) -> LayerNorm {
    LayerNormConfig::new(dim).with_epsilon(EPSILON).init(device)
}

impl Block {
    pub(super) fn new(dim: usize, heads: usize, device: &Device) -> Self {
        Self {
            norm1: norm(dim, device),
            attn: SelfAttention {
                qkv: LinearConfig::new(dim, 3 * dim).init(device),
                proj: LinearConfig::new(dim, dim).init(device),
                heads,
            },
            norm2: norm(dim, device),
            mlp: TokenMlp {
                fc1: LinearConfig::new(dim, MLP_RATIO * dim).init(device),
                fc2: LinearConfig::new(MLP_RATIO * dim, dim).init(device),
            },
        }
    }

    /// `[batch, tokens, dim]` to the same shape, and the attention `[batch, heads, tokens, tokens]`, whose rows sum to 1.
    pub(super) fn forward(&self, x: Tensor<3>) -> (Tensor<3>, Tensor<4>) {
        let (mixed, attention) = self.attn.forward(layer_norm(&self.norm1, EPSILON, x.clone()));
        let x = x + mixed;
        let hidden = linear(&self.mlp.fc1, layer_norm(&self.norm2, EPSILON, x.clone()));
        let x = x + linear(&self.mlp.fc2, Activation::Gelu.forward(hidden));
        (x, attention)
    }
}

impl SelfAttention {
    fn forward(&self, x: Tensor<3>) -> (Tensor<3>, Tensor<4>) {
        let [batch, tokens, dim] = x.dims();
        let head_dim = dim / self.heads;
        let qkv = linear(&self.qkv, x).reshape([batch, tokens, 3, self.heads, head_dim]);
        let qkv = qkv.permute([2, 0, 3, 1, 4]);
        let part = |i: usize| qkv.clone().narrow(0, i, 1).reshape([batch, self.heads, tokens, head_dim]);
        let scale = (head_dim as f64).sqrt().recip();
        let attention = softmax((part(0) * scale).matmul(part(1).swap_dims(2, 3)), 3);
        let mixed = attention.clone().matmul(part(2)).swap_dims(1, 2).reshape([batch, tokens, dim]);
        (linear(&self.proj, mixed), attention)
    }
}

/// How much each attention map counts in their mean (`AAF.py` of WeakTr). Keys: `fc.0.weight`, `fc.2.weight`.
///
/// The published input is the mean of each map over all its entries. As a row of attention sums to 1, that is one over the number of
/// tokens for every map of every picture; so it is put in as that number, and the weights do not depend on the picture.
#[derive(Module, Debug)]
pub struct Fusion {
    /// The two layers.
    pub fc: FusionLayers,
    heads: usize,
}

/// See [`Fusion`].
#[derive(Module, Debug)]
pub struct FusionLayers {
    /// To a quarter.
    pub i0: Linear,
    /// Back.
    pub i2: Linear,
}

impl Fusion {
    pub(super) fn new(heads: usize, depth: usize, device: &Device) -> Self {
        let maps = heads * depth;
        let hidden = (maps / REDUCTION).max(1);
        let fc = FusionLayers {
            i0: LinearConfig::new(maps, hidden).with_bias(false).init(device),
            i2: LinearConfig::new(hidden, maps).with_bias(false).init(device),
        };
        Self { fc, heads }
    }

    /// The weights `[heads, depth]`, 0 to 1, for maps of so many tokens.
    pub(super) fn weights(&self, depth: usize, tokens: usize, device: &Device) -> Tensor<2> {
        let maps = self.heads * depth;
        let pooled = Tensor::<2>::full([1, maps], 1.0 / tokens as f64, device);
        let weights = sigmoid(linear(&self.fc.i2, relu(linear(&self.fc.i0, pooled))));
        weights.reshape([self.heads, depth])
    }
}
