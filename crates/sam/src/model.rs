//! A whole model: encoder, prompt encoder, mask decoder.

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use serde::{Deserialize, Serialize};

use crate::checkpoint::module_keys;
use crate::encoders::efficientvit::StageKind;
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
    /// Whether the parts fit together, for sizes that somebody wrote by hand; `input` is the side of the encoder's input,
    /// pixels. The error says what does not.
    pub fn check(&self, input: usize) -> Result<(), String> {
        let dim = self.prompt_encoder.dim;
        let side = self.prompt_encoder.embedding_size;
        let expect = |what: &str, found: usize, expected: usize| {
            if found == expected { Ok(()) } else { Err(format!("{what} is {found}, expected {expected}")) }
        };
        let divides = |what: &str, whole: usize, part: usize| {
            if part > 0 && whole > 0 && whole.is_multiple_of(part) {
                Ok(())
            } else {
                Err(format!("{what}: {part} does not divide {whole}"))
            }
        };
        match &self.encoder {
            EncoderConfig::Vit(vit) => {
                expect("encoder.image_size", vit.image_size, input)?;
                expect("encoder.out_channels", vit.out_channels, dim)?;
                divides("encoder.patch of encoder.image_size", vit.image_size, vit.patch)?;
                expect("prompt_encoder.embedding_size", side, vit.image_size / vit.patch)?;
                divides("encoder.heads of encoder.dim", vit.dim, vit.heads)?;
            }
            EncoderConfig::TinyVit(tiny) => {
                expect("encoder.out_channels", tiny.out_channels, dim)?;
                let stride = 4 * tiny.merge_strides.iter().product::<usize>();
                divides("the encoder's stride of the input", input, stride)?;
                expect("prompt_encoder.embedding_size", side, input / stride)?;
                for (width, heads) in tiny.dims.iter().zip(tiny.heads) {
                    divides("encoder.heads of encoder.dims", *width, heads)?;
                }
            }
            EncoderConfig::EfficientVit(vit) => {
                expect("encoder.out_channels", vit.out_channels, dim)?;
                expect("encoder.out_size", vit.out_size, side)?;
                if !(3..=8).contains(&vit.stages.len()) {
                    return Err(format!("encoder.stages are {}, expected 3 to 8", vit.stages.len()));
                }
                divides("the encoder's stride of the input", input, 1 << vit.stages.len())?;
                for stage in &vit.stages {
                    if matches!(stage.kind, StageKind::Attention(_)) {
                        divides("encoder.head_dim of a stage's width", stage.width, vit.head_dim)?;
                    }
                }
            }
        }
        let transformer = &self.mask_decoder.transformer;
        expect("mask_decoder.transformer.dim", transformer.dim, dim)?;
        divides("8 of the decoder's width", dim, 8)?;
        divides("attention_downsample of the decoder's width", dim, transformer.attention_downsample)?;
        divides(
            "heads of the decoder's inner width",
            dim / transformer.attention_downsample,
            transformer.heads,
        )?;
        divides("4 of prompt_encoder.mask_channels", self.prompt_encoder.mask_channels, 4)
    }

    /// The sizes for another side of the encoder's input, pixels, with the same parameters. Encoders of convolutions have no
    /// sizes of their own to change; ViT has a position for each of its tokens, and keeps what it is.
    pub fn for_input(mut self, registered: u32, input: u32) -> Self {
        let scaled = |side: usize| side * input as usize / registered as usize;
        match &mut self.encoder {
            EncoderConfig::Vit(_) => return self,
            EncoderConfig::TinyVit(_) => {}
            EncoderConfig::EfficientVit(vit) => vit.out_size = scaled(vit.out_size),
        }
        self.prompt_encoder.embedding_size = scaled(self.prompt_encoder.embedding_size);
        self
    }

    /// How many parameters can be trained; buffers (running statistics of norms, the random matrix of the positions) are not
    /// counted.
    pub fn parameters(&self, device: &Device) -> usize {
        const BUFFERS: [&str; 4] = ["num_batches_tracked", "running_mean", "running_var", "gaussian_matrix"];
        let keys = module_keys(&self.init(device));
        let trained = keys.iter().filter(|k| !BUFFERS.iter().any(|buffer| k.key.ends_with(buffer)));
        trained.map(|k| k.shape.iter().product::<usize>()).sum()
    }

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

    /// The embedding with the dense prompt, `[1 or B, C, S, S]`: one for all prompts where they have the same.
    pub fn picture(
        &self,
        embedding: Tensor<4>,
        prompts: &SparsePrompts,
        mask_input: Option<Tensor<4>>,
    ) -> Tensor<4> {
        let device = embedding.device();
        embedding
            + match mask_input {
                Some(logits) => self.prompt_encoder.mask(logits),
                None => self.prompt_encoder.without_mask(prompts, &device),
            }
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
        let image = self.picture(embedding, prompts, mask_input);
        let sparse = (prompts.tokens > 0).then(|| self.prompt_encoder.sparse(prompts, &device));
        self.mask_decoder.forward(image, image_pe, sparse, hq_features, mode)
    }
}

#[cfg(test)]
mod tests {
    use crate::registry;

    #[test]
    fn registered_sizes_fit_and_others_are_told() {
        for variant in registry::variants() {
            assert_eq!(variant.config().check(variant.preprocess.size as usize), Ok(()), "{}", variant.name);
        }
        let mut config = registry::variant("kirie-small").unwrap().config();
        config.mask_decoder.transformer.heads = 3;
        assert_eq!(
            config.check(160).unwrap_err(),
            "heads of the decoder's inner width: 3 does not divide 64"
        );
        let config = registry::variant("sam-vit-b").unwrap().config();
        assert_eq!(config.check(512).unwrap_err(), "encoder.image_size is 1024, expected 512");
    }
}
