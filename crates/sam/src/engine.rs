//! What runs a model: pixels to an embedding, an embedding and prompts to low-resolution masks.
//!
//! The predictor and the mask generator know only the [`Engine`] trait and the plain arrays it exchanges, so that
//! another way of running the same model (a compiled graph, another device) can stand behind them.

use std::path::Path;

use burn::tensor::{Device, Tensor, TensorData};

use crate::SamError;
use crate::checkpoint::{self, CheckpointError, StateDict};
use crate::cpu_decoder::{CpuDecoder, Pictures, Question};
use crate::cpu_encoder::CpuEncoder;
use crate::mask_decoder::DecodeMode;
use crate::model::{Sam, SamConfig};
use crate::prompt_encoder::SparsePrompts;
use crate::registry::{self, Preprocess, Variant};
use crate::tensor::HostTensor;

/// What an encoder makes of a picture; everything the decoder needs besides prompts.
#[derive(Clone, Debug, PartialEq)]
pub struct Embedding {
    /// The image embedding, `[1, 256, 64, 64]` for the published models.
    pub image: HostTensor,
    /// HQ models: the detail features, `[1, 32, 256, 256]`.
    pub hq_features: Option<HostTensor>,
}

/// Prompts of one decoder call, all with the same number of tokens.
#[derive(Clone, Debug, Default)]
pub struct PromptBatch {
    /// How many prompts.
    pub count: usize,
    /// Points and box corners in the frame's pixels; without tokens if the prompts are masks alone.
    pub sparse: SparsePrompts,
    /// Logits of an earlier answer for every prompt, `[count, 1, 256, 256]`.
    pub masks: Option<HostTensor>,
    /// Only masks whose predicted IoU is above this are of use; of the others an engine may give zeros instead of logits.
    pub above: Option<f32>,
}

/// Low-resolution answer to a [`PromptBatch`].
#[derive(Clone, Debug, PartialEq)]
pub struct LowResMasks {
    /// Logits, `[prompts, masks, side, side]`, in the frame's square.
    pub logits: HostTensor,
    /// Predicted IoU, `[prompts, masks]`; not clamped.
    pub iou: HostTensor,
}

/// Runs one model.
pub trait Engine: Send + Sync {
    /// Name of the model.
    fn model(&self) -> &str;

    /// How pictures are prepared for it.
    fn preprocess(&self) -> Preprocess;

    /// Side of the low-resolution masks.
    fn mask_side(&self) -> usize;

    /// `[1, 3, size, size]`, prepared as [`Self::preprocess`] says, to the embedding.
    fn encode(&self, pixels: HostTensor) -> Result<Embedding, SamError>;

    /// The masks of some prompts on an encoded picture.
    fn decode(
        &self,
        embedding: &Embedding,
        prompts: &PromptBatch,
        mode: DecodeMode,
    ) -> Result<LowResMasks, SamError>;
}

/// Runs a model with Burn, on whatever device it was loaded to; on the processor the decoder and the convolutional encoders are kirie's
/// own ([`CpuDecoder`], [`CpuEncoder`]).
#[derive(Debug)]
pub struct BurnEngine {
    name: String,
    preprocess: Preprocess,
    mask_side: usize,
    model: Sam,
    /// Position features of the embedding's cells: the same for every picture.
    image_pe: Tensor<4>,
    device: Device,
    cpu_encoder: Option<CpuEncoder>,
    cpu_decoder: Option<CpuDecoder>,
}

impl BurnEngine {
    /// Wraps a registered model.
    pub fn new(variant: &Variant, model: Sam, device: Device) -> Self {
        Self::assemble(variant.name.to_owned(), variant.preprocess, &variant.config(), model, &device)
    }

    /// Wraps any model, `model` being of these `sizes`.
    pub fn assemble(
        name: String,
        preprocess: Preprocess,
        sizes: &SamConfig,
        model: Sam,
        device: &Device,
    ) -> Self {
        let mask_side = 4 * sizes.prompt_encoder.embedding_size;
        let image_pe = model.prompt_encoder.dense_pe(device);
        // Parameters that cannot be read are for Burn to report, when it runs.
        let (mut cpu_encoder, mut cpu_decoder) = (None, None);
        if kirie_nn::on_processor(device) {
            cpu_encoder = CpuEncoder::new(&model.image_encoder).ok().flatten();
            cpu_decoder = CpuDecoder::new(&model.mask_decoder, &image_pe).ok().flatten();
        }
        let device = device.clone();
        Self { name, preprocess, mask_side, model, image_pe, device, cpu_encoder, cpu_decoder }
    }

    /// Loads the weights of a registered model.
    ///
    /// # Errors
    /// A file that cannot be read, or that is not this model's; if it is another registered model's, the error
    /// names it.
    pub fn load(variant: &Variant, weights: &Path, device: &Device) -> Result<Self, SamError> {
        let weights = StateDict::open(weights)?;
        Self::from_state_dict(variant, &weights, device)
    }

    /// The same from an opened file.
    pub fn from_state_dict(
        variant: &Variant,
        weights: &StateDict,
        device: &Device,
    ) -> Result<Self, SamError> {
        Self::at_input(variant, weights, None, device)
    }

    /// The same with another side of the encoder's input than the weights are made for, pixels: less time and detail, or more.
    ///
    /// # Errors
    /// As [`Self::load`], and for a side that the encoder cannot take: ViT takes the one it is made for alone, the others a
    /// multiple of their stride.
    pub fn at_input(
        variant: &Variant,
        weights: &StateDict,
        input: Option<u32>,
        device: &Device,
    ) -> Result<Self, SamError> {
        let (sizes, made_for) = variant.sizes_of(weights);
        let input = input.unwrap_or(made_for);
        let sizes = sizes.for_input(made_for, input);
        if let Err(reason) = sizes.check(input as usize) {
            return Err(SamError::Input { model: variant.name.to_owned(), input, reason });
        }
        let loaded = checkpoint::load(sizes.init(device), weights, variant.name, device);
        let model = loaded.map_err(|error| match error {
            CheckpointError::Mismatch { path, model, mut mismatch } => {
                mismatch.fits = registry::identify(weights, device).map(|v| v.name);
                CheckpointError::Mismatch { path, model, mismatch }
            }
            other => other,
        })?;
        let preprocess = Preprocess { size: input, ..variant.preprocess };
        Ok(Self::assemble(variant.name.to_owned(), preprocess, &sizes, model, device))
    }

    /// The model.
    pub fn sam(&self) -> &Sam {
        &self.model
    }

    fn decode_on_cpu(
        &self,
        decoder: &CpuDecoder,
        embedding: &Embedding,
        prompts: &PromptBatch,
        mode: DecodeMode,
    ) -> Result<LowResMasks, SamError> {
        let masks = prompts.masks.as_ref().map(|masks| masks.to_burn(&self.device));
        let image = self.model.picture(embedding.image.to_burn(&self.device), &prompts.sparse, masks);
        let image = HostTensor::from_burn(match &self.model.mask_decoder.prompt_fusion {
            Some(fusion) => fusion.forward(image),
            None => image,
        })?;
        let tokens = match prompts.sparse.tokens {
            0 => Vec::new(),
            _ => {
                HostTensor::from_burn(self.model.prompt_encoder.sparse(&prompts.sparse, &self.device))?.values
            }
        };
        let pictures = match image.shape[0] {
            1 => Pictures::One(&image.values),
            _ => Pictures::Each(&image.values),
        };
        let question = Question {
            prompts: prompts.count,
            tokens: &tokens,
            multimask: mode.multimask,
            above: prompts.above,
        };
        let answer = decoder.answer(pictures, &question);
        let masks = answer.iou.len() / prompts.count.max(1);
        let side = self.mask_side;
        Ok(LowResMasks {
            logits: HostTensor::new(vec![prompts.count, masks, side, side], answer.logits)?,
            iou: HostTensor::new(vec![prompts.count, masks], answer.iou)?,
        })
    }
}

impl Engine for BurnEngine {
    fn model(&self) -> &str {
        &self.name
    }

    fn preprocess(&self) -> Preprocess {
        self.preprocess
    }

    fn mask_side(&self) -> usize {
        self.mask_side
    }

    fn encode(&self, pixels: HostTensor) -> Result<Embedding, SamError> {
        let size = self.preprocess.size as usize;
        pixels.expect("picture", &[1, 3, size, size])?;
        let encoded = if let Some(encoder) = &self.cpu_encoder {
            encoder.forward([size; 2], pixels.values).into_burn(&self.device)
        } else {
            let pixels = TensorData::new(pixels.values, pixels.shape);
            self.model.encode(Tensor::from_data(pixels, &self.device))
        };
        let hq_features = self.model.mask_decoder.hq_features(&encoded);
        Ok(Embedding {
            image: HostTensor::from_burn(encoded.embedding)?,
            hq_features: hq_features.map(HostTensor::from_burn).transpose()?,
        })
    }

    fn decode(
        &self,
        embedding: &Embedding,
        prompts: &PromptBatch,
        mode: DecodeMode,
    ) -> Result<LowResMasks, SamError> {
        let [_, dim, ..] = self.image_pe.dims();
        let side = self.mask_side;
        embedding.image.expect("embedding", &self.image_pe.dims())?;
        if let Some(features) = &embedding.hq_features {
            features.expect("detail features", &[1, dim / 8, side, side])?;
        }
        if let Some(masks) = &prompts.masks {
            masks.expect("mask inputs", &[prompts.count, 1, side, side])?;
        }
        let sparse = &prompts.sparse;
        let tokens = prompts.count * sparse.tokens;
        if sparse.coords.len() != tokens || sparse.labels.len() != tokens {
            let expected = format!("{} prompts of {} tokens", prompts.count, sparse.tokens);
            return Err(SamError::Shape {
                what: "prompts",
                expected,
                found: vec![sparse.coords.len(), sparse.labels.len()],
            });
        }
        if let Some(decoder) = &self.cpu_decoder {
            return self.decode_on_cpu(decoder, embedding, prompts, mode);
        }
        let device = &self.device;
        let output = self.model.decode(
            embedding.image.to_burn(device),
            self.image_pe.clone(),
            embedding.hq_features.as_ref().map(|t| t.to_burn(device)),
            &prompts.sparse,
            prompts.masks.as_ref().map(|t| t.to_burn(device)),
            mode,
        );
        Ok(LowResMasks {
            logits: HostTensor::from_burn(output.masks)?,
            iou: HostTensor::from_burn(output.iou)?,
        })
    }
}
