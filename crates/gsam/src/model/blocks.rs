//! A block of SAM's ViT with its adapters.
#![allow(non_snake_case, reason = "state-dict names")]

use burn::module::Module;
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::{LayerNorm, LayerNormConfig, Linear, LinearConfig};
use burn::tensor::activation::{relu, sigmoid};
use burn::tensor::{Device, Tensor};
use kirie_nn::adapters::{Bottleneck, MultiScaleBottleneck, QkvAdapter};
use kirie_nn::{Activation, Attention, LayerNorm2d, LayerNorm2dConfig, Mlp, conv2d, layer_norm, linear};
use kirie_sam::encoders::{window_merge, window_partition};

use super::attention::MapAttention;
use super::cnn::ConvNormGelu;
use super::vit::depthwise;

const NORM_EPSILON: f64 = 1e-6;

pub(super) fn norm(dim: usize, device: &Device) -> LayerNorm {
    LayerNormConfig::new(dim).with_epsilon(NORM_EPSILON).init(device)
}

/// One pre-norm transformer block:
///
/// ```text
/// n = norm1(x)                SAMUS, global blocks: n += Space_Adapter(n, c); c = refine(c)
///                             GSAM, global blocks: c = refine_Adapter(c)
/// x += attn(n)
/// x += mlp(norm2(x)) + scale * MLP_Adapter(norm2(x))
/// ```
#[derive(Module, Debug)]
pub struct Block {
    /// Before the attention, epsilon 1e-6.
    pub norm1: LayerNorm,
    /// Attention with relative positions.
    pub attn: MapAttention,
    /// Before the MLP, epsilon 1e-6.
    pub norm2: LayerNorm,
    /// Linear, GELU, linear.
    pub mlp: Mlp,
    /// LoRA on activations: of the queries.
    pub lora_q: Option<QkvAdapter>,
    /// Of the keys.
    pub lora_k: Option<QkvAdapter>,
    /// Of the values.
    pub lora_v: Option<QkvAdapter>,
    /// Beside the MLP.
    pub MLP_Adapter: Option<MlpAdapter>,
    /// GSAM: on the CNN branch's tokens.
    pub refine_Adapter: Option<RefineAdapter>,
    /// SAMUS: the tokens look at the CNN branch's.
    pub Space_Adapter: Option<Attention>,
    /// SAMUS: on the CNN branch's tokens.
    pub refine: Option<ConvNormGelu>,
    #[module(skip)]
    pub(super) window: Option<usize>,
    #[module(skip)]
    pub(super) pooled: Option<usize>,
    pub(super) scale: f64,
    pub(super) residual_input: bool,
}

/// An adapter beside an MLP.
#[derive(Module, Debug)]
#[allow(clippy::large_enum_variant, reason = "a few dozen per model")]
pub enum MlpAdapter {
    /// AdaptFormer's.
    Plain(Bottleneck),
    /// SM-AdaptFormer.
    MultiScale(MultiScaleBottleneck),
}

impl Block {
    /// Tokens `[batch, height, width, D]` and those of the CNN branch, both to the same shape.
    pub fn forward(&self, x: Tensor<4>, side: Option<Tensor<4>>) -> (Tensor<4>, Option<Tensor<4>>) {
        let [batch, height, width, dim] = x.dims();
        let tokens = height * width;
        let mut n = layer_norm(&self.norm1, NORM_EPSILON, x.clone());
        let side = side.map(|c| {
            if let Some(cross) = &self.Space_Adapter {
                let flat = |map: Tensor<4>| map.reshape([batch, tokens, dim]);
                let seen = cross.forward(flat(n.clone()), flat(c.clone()), flat(c.clone()));
                n = n.clone() + seen.reshape([batch, height, width, dim]);
            }
            let in_channels = |c: Tensor<4>| c.permute([0, 3, 1, 2]);
            match (&self.refine, &self.refine_Adapter) {
                (Some(refine), _) => refine.forward(in_channels(c)).permute([0, 2, 3, 1]),
                (_, Some(refine)) => refine.forward(in_channels(c)).permute([0, 2, 3, 1]),
                _ => c,
            }
        });
        let adapters = [self.lora_q.as_ref(), self.lora_k.as_ref(), self.lora_v.as_ref()];
        let attended = match self.window {
            // Windows are padded after the norm and the padding is not masked, as in the reference: it is also averaged into the
            // pooled keys and values.
            Some(window) => {
                let windows = self.attn.forward(window_partition(n, window), self.pooled, adapters);
                window_merge(windows, [batch, height, width])
            }
            None => self.attn.forward(n, self.pooled, adapters),
        };
        let x = x + attended;
        let n = layer_norm(&self.norm2, NORM_EPSILON, x.clone());
        let adapted = match &self.MLP_Adapter {
            Some(MlpAdapter::Plain(adapter)) if self.residual_input => Some(adapter.forward(x.clone())),
            Some(MlpAdapter::Plain(adapter)) => Some(adapter.forward(n.clone())),
            Some(MlpAdapter::MultiScale(adapter)) => Some(adapter.forward(n.clone())),
            None => None,
        };
        let x = x + self.mlp.forward(n);
        let x = match adapted {
            Some(adapted) => x + adapted * self.scale,
            None => x,
        };
        (x, side)
    }
}

/// GSAM's adapter of the CNN branch: an inverted bottleneck of convolutions, plus a squeeze-and-excitation of the input.
///
/// Keys: `conv.{0,1,3,4,6,7}.*`, `se.{fc1,fc2}.*`.
#[derive(Module, Debug)]
pub struct RefineAdapter {
    /// Convolutions.
    pub conv: MobileConv,
    /// Squeeze and excitation.
    pub se: SqueezeExcitation,
}

/// 1x1, 3x3 depth-wise, 1x1, each without bias and followed by norm and GELU.
#[derive(Module, Debug)]
pub struct MobileConv {
    /// 1x1 to an eighth of the width.
    pub i0: Conv2d,
    /// Norm, GELU after it.
    pub i1: LayerNorm2d,
    /// 3x3, depth-wise.
    pub i3: Conv2d,
    /// Norm, GELU after it.
    pub i4: LayerNorm2d,
    /// 1x1 back.
    pub i6: Conv2d,
    /// Norm, GELU after it.
    pub i7: LayerNorm2d,
}

/// `x * sigmoid(fc2(relu(fc1(mean(x)))))`.
#[derive(Module, Debug)]
pub struct SqueezeExcitation {
    /// To a quarter of the width.
    pub fc1: Linear,
    /// Back.
    pub fc2: Linear,
}

impl RefineAdapter {
    /// By default initialisation.
    pub fn new(dim: usize, device: &Device) -> Self {
        let hidden = (dim / 8).max(1);
        let point = |channels| Conv2dConfig::new(channels, [1, 1]).with_bias(false).init(device);
        let norm = |channels| LayerNorm2dConfig::new(channels).init(device);
        let quarter = (dim / 4).max(1);
        Self {
            conv: MobileConv {
                i0: point([dim, hidden]),
                i1: norm(hidden),
                i3: depthwise(hidden, false, device),
                i4: norm(hidden),
                i6: point([hidden, dim]),
                i7: norm(dim),
            },
            se: SqueezeExcitation {
                fc1: LinearConfig::new(dim, quarter).init(device),
                fc2: LinearConfig::new(quarter, dim).init(device),
            },
        }
    }

    /// `[batch, D, height, width]` to the same shape.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let gelu = |x| Activation::Gelu.forward(x);
        let Self { conv, se } = self;
        let y = gelu(conv.i1.forward(conv2d(&conv.i0, x.clone())));
        let y = gelu(conv.i4.forward(conv2d(&conv.i3, y)));
        let y = gelu(conv.i7.forward(conv2d(&conv.i6, y)));
        let [batch, dim, ..] = x.dims();
        let mean = x.clone().mean_dim(2).mean_dim(3).reshape([batch, dim]);
        let gate = sigmoid(linear(&se.fc2, relu(linear(&se.fc1, mean))));
        y + x * gate.reshape([batch, dim, 1, 1])
    }
}
