//! Embedding and prompts to masks (`mask_decoder.py` of the reference; `mask_decoder_hq.py` of HQ-SAM).
//!
//! | part | output | state-dict prefix |
//! | --- | --- | --- |
//! | output tokens, prompt tokens | `[B, T + N, C]` | `iou_token`, `mask_tokens`, `hf_token` |
//! | kirie's own: picture and prompt together | `[B, C, H, W]` | `prompt_fusion` |
//! | two-way transformer | same, and `[B, HW, C]` | `transformer` |
//! | upscaling of the image tokens | `[B, C / 8, 4H, 4W]` | `output_upscaling.{0,1,3}` |
//! | one vector per mask | `[B, masks, C / 8]` | `output_hypernetworks_mlps.{i}` |
//! | quality of each mask | `[B, masks]` | `iou_prediction_head` |
//! | HQ: detail features | `[1, C / 8, 4H, 4W]` | `compress_vit_feat`, `embedding_encoder` |
//! | HQ: the high-quality mask | `[B, 1, 4H, 4W]` | `hf_mlp`, `embedding_maskfeature` |

use std::ops::Range;

use burn::module::{Initializer, Module};
use burn::nn::PaddingConfig2d;
use burn::nn::conv::{Conv2d, Conv2dConfig, ConvTranspose2d, ConvTranspose2dConfig};
use burn::tensor::{Device, Tensor};
use kirie_nn::{Activation, LayerNorm2d, LayerNorm2dConfig, ReluMlp, ReluMlpConfig, conv_transpose2d};
use serde::{Deserialize, Serialize};

use crate::encoders::EncoderOutput;
use crate::prompt_encoder::TokenEmbedding;
use crate::prompt_fusion::{PromptFusion, PromptFusionConfig};
use crate::transformer::{TwoWayTransformer, TwoWayTransformerConfig};

/// Configuration of [`MaskDecoder`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MaskDecoderConfig {
    /// The transformer; its width is the embedding's.
    pub transformer: TwoWayTransformerConfig,
    /// Masks offered for an ambiguous prompt, beside the single one.
    pub multimask_outputs: usize,
    /// Linear layers of the quality head.
    pub iou_head_depth: usize,
    /// Width of the quality head.
    pub iou_head_hidden: usize,
    /// HQ-SAM's extra token and branch, with the channels of the encoder's early feature map.
    pub hq_early_channels: Option<usize>,
    /// Blocks in which picture and prompt meet before the transformer. Not so in SAM.
    #[serde(default)]
    pub prompt_fusion: Option<PromptFusionConfig>,
}

impl MaskDecoderConfig {
    /// Parameters by default initialisation.
    pub fn init(&self, device: &Device) -> MaskDecoder {
        let dim = self.transformer.dim;
        let masks = self.multimask_outputs + 1;
        let tokens = |n: usize| TokenEmbedding {
            weight: Initializer::Normal { mean: 0.0, std: 1.0 }.init([n, dim], device),
        };
        let mask_mlp = || ReluMlpConfig { input: dim, hidden: dim, output: dim / 8, layers: 3 }.init(device);
        MaskDecoder {
            prompt_fusion: self.prompt_fusion.as_ref().map(|fusion| fusion.init(dim, device)),
            transformer: self.transformer.init(device),
            iou_token: tokens(1),
            mask_tokens: tokens(masks),
            output_upscaling: Upscaling::new(dim, dim / 4, dim / 8, device),
            output_hypernetworks_mlps: (0..masks).map(|_| mask_mlp()).collect(),
            iou_prediction_head: ReluMlpConfig {
                input: dim,
                hidden: self.iou_head_hidden,
                output: masks,
                layers: self.iou_head_depth,
            }
            .init(device),
            hf_token: self.hq_early_channels.map(|_| tokens(1)),
            hf_mlp: self.hq_early_channels.map(|_| mask_mlp()),
            compress_vit_feat: self
                .hq_early_channels
                .map(|channels| Upscaling::new(channels, dim, dim / 8, device)),
            embedding_encoder: self.hq_early_channels.map(|_| Upscaling::new(dim, dim / 4, dim / 8, device)),
            embedding_maskfeature: self.hq_early_channels.map(|_| MaskFeature::new(dim / 8, dim / 4, device)),
        }
    }
}

/// Which masks a call returns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct DecodeMode {
    /// `true`: the masks for an ambiguous prompt; `false`: the single one.
    pub multimask: bool,
    /// HQ decoders only: the high-quality mask alone, instead of its sum with SAM's mask.
    pub hq_only: bool,
}

/// Low-resolution masks and their predicted quality.
#[derive(Clone, Debug)]
pub struct DecoderOutput {
    /// Logits, `[B, masks, 4H, 4W]`.
    pub masks: Tensor<4>,
    /// Predicted IoU, `[B, masks]`; not clamped.
    pub iou: Tensor<2>,
}

/// The mask decoder, with HQ-SAM's branch where it has one.
#[derive(Module, Debug)]
pub struct MaskDecoder {
    /// kirie's own: before the transformer.
    pub prompt_fusion: Option<PromptFusion>,
    /// Between tokens and image.
    pub transformer: TwoWayTransformer,
    /// Reads out the quality.
    pub iou_token: TokenEmbedding,
    /// One per mask, the single one first.
    pub mask_tokens: TokenEmbedding,
    /// Image tokens to four times the size.
    pub output_upscaling: Upscaling,
    /// Mask token to mask vector.
    pub output_hypernetworks_mlps: Vec<ReluMlp>,
    /// Quality token to one value per mask.
    pub iou_prediction_head: ReluMlp,
    /// HQ: its token.
    pub hf_token: Option<TokenEmbedding>,
    /// HQ: its mask vector.
    pub hf_mlp: Option<ReluMlp>,
    /// HQ: detail from the encoder's early map.
    pub compress_vit_feat: Option<Upscaling>,
    /// HQ: detail from the embedding.
    pub embedding_encoder: Option<Upscaling>,
    /// HQ: from upscaled image tokens.
    pub embedding_maskfeature: Option<MaskFeature>,
}

impl MaskDecoder {
    /// HQ decoders: the detail features `[batch, C / 8, 4H, 4W]` that depend on the picture alone.
    ///
    /// `None` for a plain decoder, or an encoder without an early map.
    pub fn hq_features(&self, encoded: &EncoderOutput) -> Option<Tensor<4>> {
        let early = self.compress_vit_feat.as_ref()?.forward(encoded.early.clone()?);
        Some(self.embedding_encoder.as_ref()?.forward(encoded.embedding.clone()) + early)
    }

    /// Predicts the masks of `B` prompts on one picture.
    ///
    /// `image` `[1 or B, C, H, W]` is the embedding plus the dense prompt (one for all prompts or one each),
    /// `image_pe` `[1, C, H, W]`, `sparse` `[B, N, C]`, or `None` for prompts that are a mask alone; `hq_features` as [`Self::hq_features`] gives them,
    /// for HQ decoders.
    pub fn forward(
        &self,
        image: Tensor<4>,
        image_pe: Tensor<4>,
        sparse: Option<Tensor<3>>,
        hq_features: Option<Tensor<4>>,
        mode: DecodeMode,
    ) -> DecoderOutput {
        let answered = self.answer(image, image_pe, sparse);
        let wanted = if mode.multimask { 1..self.output_hypernetworks_mlps.len() } else { 0..1 };
        let (sam, iou) = self.read_out(&answered, wanted);
        match hq_features.and_then(|features| self.hq_mask(&answered, features)) {
            None => DecoderOutput { masks: sam, iou },
            Some(hq) => {
                let (sam, iou) = best_of(sam, iou);
                DecoderOutput { masks: if mode.hq_only { hq } else { sam + hq }, iou }
            }
        }
    }

    /// The same for all masks at once, the single one first: `[B, masks, 4H, 4W]`. An HQ decoder adds its high-quality mask to each of
    /// them; [`Self::forward`]'s answers are mask 0, or of the others the one with the highest predicted IoU.
    pub fn forward_all(
        &self,
        image: Tensor<4>,
        image_pe: Tensor<4>,
        sparse: Option<Tensor<3>>,
        hq_features: Option<Tensor<4>>,
    ) -> DecoderOutput {
        let answered = self.answer(image, image_pe, sparse);
        let (sam, iou) = self.read_out(&answered, 0..self.output_hypernetworks_mlps.len());
        let masks = match hq_features.and_then(|features| self.hq_mask(&answered, features)) {
            Some(hq) => sam + hq,
            None => sam,
        };
        DecoderOutput { masks, iou }
    }

    /// Lets tokens and picture look at each other.
    fn answer(&self, image: Tensor<4>, image_pe: Tensor<4>, sparse: Option<Tensor<3>>) -> Answered {
        let image = match &self.prompt_fusion {
            Some(fusion) => fusion.forward(image),
            None => image,
        };
        let [pictures, dim, height, width] = image.dims();
        let batch = sparse.as_ref().map_or(pictures, |sparse| sparse.dims()[0]);
        let mut output_tokens = vec![self.iou_token.weight.val(), self.mask_tokens.weight.val()];
        output_tokens.extend(self.hf_token.as_ref().map(|token| token.weight.val()));
        let output_tokens = Tensor::cat(output_tokens, 0).unsqueeze_dim::<3>(0);
        let [_, count, _] = output_tokens.dims();
        let mut tokens = output_tokens.expand([batch, count, dim]);
        if let Some(sparse) = sparse {
            tokens = Tensor::cat(vec![tokens, sparse], 1);
        }

        let flat = |map: Tensor<4>| map.flatten::<3>(2, 3).swap_dims(1, 2);
        let (tokens, image) = self.transformer.forward(tokens, flat(image), flat(image_pe));
        let image = image.swap_dims(1, 2).reshape([batch, dim, height, width]);
        let upscaled = Activation::Gelu.forward(self.output_upscaling.forward(image));
        Answered { tokens, upscaled }
    }

    /// The `wanted` masks and their quality.
    fn read_out(&self, answered: &Answered, wanted: Range<usize>) -> (Tensor<4>, Tensor<2>) {
        let vectors = wanted
            .clone()
            .map(|i| self.output_hypernetworks_mlps[i].forward(answered.token(1 + i)))
            .collect();
        let masks = mask_products(Tensor::cat(vectors, 1), answered.upscaled.clone());
        let iou = self.iou_prediction_head.forward(answered.token(0)).squeeze_dim::<2>(1);
        (masks, iou.narrow(1, wanted.start, wanted.len()))
    }

    /// The high-quality mask, `[B, 1, 4H, 4W]`; `None` for a plain decoder.
    fn hq_mask(&self, answered: &Answered, features: Tensor<4>) -> Option<Tensor<4>> {
        let (mlp, mask_feature) = (self.hf_mlp.as_ref()?, self.embedding_maskfeature.as_ref()?);
        let detail = mask_feature.forward(answered.upscaled.clone()) + features;
        let token = answered.token(1 + self.output_hypernetworks_mlps.len());
        Some(mask_products(mlp.forward(token), detail))
    }
}

/// Tokens and picture after they have looked at each other.
struct Answered {
    /// Output tokens, then the prompt's: `[B, T + N, C]`.
    tokens: Tensor<3>,
    /// `[B, C / 8, 4H, 4W]`.
    upscaled: Tensor<4>,
}

impl Answered {
    /// One token of each prompt, `[B, 1, C]`.
    fn token(&self, i: usize) -> Tensor<3> {
        self.tokens.clone().narrow(1, i, 1)
    }
}

/// Vectors `[B, masks, c]` and features `[B, c, H, W]` to their products, `[B, masks, H, W]`.
fn mask_products(vectors: Tensor<3>, features: Tensor<4>) -> Tensor<4> {
    let [batch, masks, _] = vectors.dims();
    let [_, _, height, width] = features.dims();
    vectors.matmul(features.flatten::<3>(2, 3)).reshape([batch, masks, height, width])
}

/// For each prompt the mask with the highest predicted quality, the first of equals.
fn best_of(masks: Tensor<4>, iou: Tensor<2>) -> (Tensor<4>, Tensor<2>) {
    let [batch, count, height, width] = masks.dims();
    if count == 1 {
        return (masks, iou);
    }
    let best = iou.clone().argmax(1); // [B, 1]
    let index = best.clone().reshape([batch, 1, 1, 1]).expand([batch, 1, height, width]);
    (masks.gather(1, index), iou.gather(1, best))
}

/// Transposed convolution to twice the size, norm, GELU, and once more to twice the size.
///
/// Keys: `0.*` `[in, middle, 2, 2]`, `1.*`, `3.*` `[middle, out, 2, 2]`.
#[derive(Module, Debug)]
pub struct Upscaling {
    /// To twice the size.
    pub i0: ConvTranspose2d,
    /// Norm, GELU after it.
    pub i1: LayerNorm2d,
    /// To four times the size.
    pub i3: ConvTranspose2d,
}

impl Upscaling {
    /// By default initialisation.
    pub fn new(input: usize, middle: usize, output: usize, device: &Device) -> Self {
        let double = |channels| ConvTranspose2dConfig::new(channels, [2, 2]).with_stride([2, 2]).init(device);
        Self {
            i0: double([input, middle]),
            i1: LayerNorm2dConfig::new(middle).init(device),
            i3: double([middle, output]),
        }
    }

    /// `[batch, in, height, width]` to `[batch, out, 4 height, 4 width]`.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let x = self.i1.forward(conv_transpose2d(&self.i0, x));
        conv_transpose2d(&self.i3, Activation::Gelu.forward(x))
    }
}

/// 3x3 convolution, norm, GELU, 3x3 convolution. Keys: `0.*`, `1.*`, `3.*`.
#[derive(Module, Debug)]
pub struct MaskFeature {
    /// Widens.
    pub i0: Conv2d,
    /// Norm, GELU after it.
    pub i1: LayerNorm2d,
    /// Back.
    pub i3: Conv2d,
}

impl MaskFeature {
    fn new(dim: usize, hidden: usize, device: &Device) -> Self {
        let conv = |channels| {
            Conv2dConfig::new(channels, [3, 3])
                .with_padding(PaddingConfig2d::Explicit(1, 1, 1, 1))
                .init(device)
        };
        Self {
            i0: conv([dim, hidden]),
            i1: LayerNorm2dConfig::new(hidden).init(device),
            i3: conv([hidden, dim]),
        }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        self.i3.forward(Activation::Gelu.forward(self.i1.forward(self.i0.forward(x))))
    }
}
