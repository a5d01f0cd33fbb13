//! A whole model: encoder, prompt encoder, mask decoder.

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use serde::{Deserialize, Serialize};

use crate::encoders::{EncoderConfig, EncoderOutput, ImageEncoder};
use crate::mask_decoder::{DecodeMode, DecoderOutput, MaskDecoder, MaskDecoderConfig};
use crate::prompt_encoder::{PromptEncoder, PromptEncoderConfig, SparsePrompts};

/// Configuration of [`Sam`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SamConfig {
    /// The image encoder.
    pub encoder: EncoderConfig,
    /// The prompt encoder.
    pub prompt_encoder: PromptEncoderConfig,
    /// The mask decoder.
    pub mask_decoder: MaskDecoderConfig,
}

impl SamConfig {
    /// Parameters by default initialisation, made lazily.
    pub fn init(&self, device: &Device) -> Sam {
        Sam {
            image_encoder: self.encoder.init(device),
            prompt_encoder: self.prompt_encoder.init(device),
            mask_decoder: self.mask_decoder.init(device),
        }
    }
}

/// A model of the Segment Anything family. Keys: `image_encoder.*`, `prompt_encoder.*`, `mask_decoder.*`.
#[derive(Module, Debug)]
pub struct Sam {
    /// Pixels to embedding.
    pub image_encoder: ImageEncoder,
    /// Prompts to tokens.
    pub prompt_encoder: PromptEncoder,
    /// Embedding and tokens to masks.
    pub mask_decoder: MaskDecoder,
}

impl Sam {
    /// `[batch, 3, size, size]`, normalised and padded, to the embedding.
    pub fn encode(&self, pixels: Tensor<4>) -> EncoderOutput {
        self.image_encoder.forward(pixels)
    }

    /// The masks of `B` prompts on one picture.
    ///
    /// `embedding` `[1, C, S, S]`; `image_pe` `[1, C, S, S]`, the same for every picture
    /// ([`PromptEncoder::dense_pe`]); `mask_input` `[B, 1, 4 S, 4 S]` logits of an earlier answer.
    pub fn decode(
        &self,
        embedding: Tensor<4>,
        image_pe: Tensor<4>,
        hq_features: Option<Tensor<4>>,
        prompts: &SparsePrompts,
        mask_input: Option<Tensor<4>>,
        mode: DecodeMode,
    ) -> DecoderOutput {
        let device = embedding.device();
        let dense = match mask_input {
            Some(logits) => self.prompt_encoder.mask(logits),
            None => self.prompt_encoder.without_mask(prompts, &device),
        };
        let image = embedding + dense;
        let sparse = (prompts.tokens > 0).then(|| self.prompt_encoder.sparse(prompts, &device));
        self.mask_decoder.forward(image, image_pe, sparse, hq_features, mode)
    }
}
