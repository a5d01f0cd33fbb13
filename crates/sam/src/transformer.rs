//! The two-way transformer between prompt tokens and image tokens (`transformer.py` of the reference).
//!
//! | part | state-dict prefix |
//! | --- | --- |
//! | layers | `layers.{i}` |
//! | last attention of tokens to the image | `final_attn_token_to_image`, `norm_final_attn` |

use burn::module::Module;
use burn::nn::{LayerNorm, LayerNormConfig};
use burn::tensor::{Device, Tensor};
use kirie_nn::{Activation, Attention, AttentionConfig, Mlp, MlpConfig, layer_norm};
use serde::{Deserialize, Serialize};

/// Configuration of [`TwoWayTransformer`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TwoWayTransformerConfig {
    /// Number of layers.
    pub depth: usize,
    /// Width of a token.
    pub dim: usize,
    /// Heads of every attention.
    pub heads: usize,
    /// Hidden width of the MLPs.
    pub mlp_dim: usize,
    /// `dim` over the inner width of the cross attentions.
    pub attention_downsample: usize,
    /// Epsilon of the layer norms: 1e-5 in SAM, 1e-6 in EfficientViT-SAM.
    pub norm_epsilon: f64,
}

impl TwoWayTransformerConfig {
    /// Parameters by default initialisation.
    pub fn init(&self, device: &Device) -> TwoWayTransformer {
        let norm = || LayerNormConfig::new(self.dim).with_epsilon(self.norm_epsilon).init(device);
        let cross = || {
            let inner_dim = self.dim / self.attention_downsample;
            AttentionConfig { dim: self.dim, inner_dim, heads: self.heads }.init(device)
        };
        TwoWayTransformer {
            layers: (0..self.depth)
                .map(|_| TwoWayBlock {
                    self_attn: AttentionConfig { dim: self.dim, inner_dim: self.dim, heads: self.heads }
                        .init(device),
                    norm1: norm(),
                    cross_attn_token_to_image: cross(),
                    norm2: norm(),
                    mlp: MlpConfig { dim: self.dim, hidden: self.mlp_dim, activation: Activation::Relu }
                        .init(device),
                    norm3: norm(),
                    norm4: norm(),
                    cross_attn_image_to_token: cross(),
                    epsilon: self.norm_epsilon,
                })
                .collect(),
            final_attn_token_to_image: cross(),
            norm_final_attn: norm(),
            epsilon: self.norm_epsilon,
        }
    }
}

/// Layers that update tokens from the image and the image from the tokens.
#[derive(Module, Debug)]
pub struct TwoWayTransformer {
    /// The layers.
    pub layers: Vec<TwoWayBlock>,
    /// The last look at the image.
    pub final_attn_token_to_image: Attention,
    /// Its norm.
    pub norm_final_attn: LayerNorm,
    epsilon: f64,
}

impl TwoWayTransformer {
    /// Epsilon of the layer norms.
    pub(crate) fn epsilon(&self) -> f64 {
        self.epsilon
    }

    /// Runs the transformer.
    ///
    /// `tokens` `[B, T, C]`; `image` `[1 or B, HW, C]`, where one stands for the same image under every
    /// prompt and is shared as long as it stays the same; `image_pe` `[1, HW, C]`. Gives the tokens
    /// `[B, T, C]` and the image `[B, HW, C]`.
    pub fn forward(
        &self,
        tokens: Tensor<3>,
        image: Tensor<3>,
        image_pe: Tensor<3>,
    ) -> (Tensor<3>, Tensor<3>) {
        let token_pe = tokens.clone();
        let (mut tokens, mut image) = (tokens, image);
        for (i, layer) in self.layers.iter().enumerate() {
            (tokens, image) = layer.forward(i == 0, tokens, image, &token_pe, &image_pe);
        }
        let query = tokens.clone() + token_pe;
        let attended = self.final_attn_token_to_image.forward(query, image.clone() + image_pe, image.clone());
        (layer_norm(&self.norm_final_attn, self.epsilon, tokens + attended), image)
    }
}

/// One layer.
#[derive(Module, Debug)]
pub struct TwoWayBlock {
    /// Among the tokens.
    pub self_attn: Attention,
    /// After it.
    pub norm1: LayerNorm,
    /// Tokens look at the image.
    pub cross_attn_token_to_image: Attention,
    /// After it.
    pub norm2: LayerNorm,
    /// On the tokens.
    pub mlp: Mlp,
    /// After it.
    pub norm3: LayerNorm,
    /// After the image's update.
    pub norm4: LayerNorm,
    /// The image looks at the tokens.
    pub cross_attn_image_to_token: Attention,
    epsilon: f64,
}

impl TwoWayBlock {
    /// Epsilon of the layer norms.
    pub(crate) fn epsilon(&self) -> f64 {
        self.epsilon
    }

    fn forward(
        &self,
        first: bool,
        tokens: Tensor<3>,
        image: Tensor<3>,
        token_pe: &Tensor<3>,
        image_pe: &Tensor<3>,
    ) -> (Tensor<3>, Tensor<3>) {
        // The first layer replaces the tokens: they are their own position encoding, so neither the
        // encoding nor the residual is added.
        let tokens = if first {
            self.self_attn.forward(tokens.clone(), tokens.clone(), tokens)
        } else {
            let query = tokens.clone() + token_pe.clone();
            let attended = self.self_attn.forward(query.clone(), query, tokens.clone());
            tokens + attended
        };
        let tokens = layer_norm(&self.norm1, self.epsilon, tokens);

        let query = tokens.clone() + token_pe.clone();
        let key = image.clone() + image_pe.clone();
        let attended = self.cross_attn_token_to_image.forward(query, key.clone(), image.clone());
        let tokens = layer_norm(&self.norm2, self.epsilon, tokens + attended);

        let tokens = layer_norm(&self.norm3, self.epsilon, tokens.clone() + self.mlp.forward(tokens));

        let query = tokens.clone() + token_pe.clone();
        let attended = self.cross_attn_image_to_token.forward(key, query, tokens.clone());
        (tokens, layer_norm(&self.norm4, self.epsilon, image + attended))
    }
}
