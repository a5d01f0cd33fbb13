//! What is trained for a domain, beside a base that stays as it is.
//!
//! | part | what it is | state-dict prefix |
//! | --- | --- | --- |
//! | `decoder = "copy"` | a copy of the base's mask decoder ("Decoder-Tuning") | `mask_decoder` |
//! | `decoder = "hq"` | HQ-SAM's token and branch on the base's decoder (what MoDA publishes) | `hq` |
//! | `encoder = {..}` | LoRA, AdaptFormer's or GSAM's adapters, see [`crate::encoder`] | `encoder` |
//! | prompt strategies | tokens beside those of the prompt, see [`crate::prompts`] | `prompts` |
//!
//! The published HQ adapters start from a decoder that was trained as HQ-SAM and use its mask alone. A base without HQ weights, such as
//! kirie-small, has no such start: there the branch begins with an answer of zero and is added to the base's mask, so that a domain
//! starts near the base (not quite from it: as in HQ-SAM the branch's token takes part in the decoder's attention); `hq_only` gives the
//! published form.

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use kirie_nn::{ReluMlp, ReluMlpConfig};
use kirie_sam::DecodeMode;
use kirie_sam::encoders::EncoderOutput;
use kirie_sam::mask_decoder::{DecoderOutput, MaskDecoder, MaskFeature, Upscaling};
use kirie_sam::model::Sam;
use kirie_sam::prompt_encoder::{SparsePrompts, TokenEmbedding};
use serde::{Deserialize, Serialize};

use crate::base::{Base, made};
use crate::encoder::{EncoderAdapter, EncoderKind, Features, early_channels};
use crate::error::ContinualError;
use crate::prompts::{Pick, PromptPool};

/// What of the decoder is trained.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DecoderKind {
    /// Nothing.
    Frozen,
    /// A copy of all of it.
    #[default]
    Copy,
    /// HQ-SAM's token and branch.
    Hq,
}

/// What is trained for a domain: `[adapter]` of a configuration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AdapterConfig {
    /// In the decoder.
    pub decoder: DecoderKind,
    /// With `hq`: its mask alone, not added to the base's.
    pub hq_only: bool,
    /// Inside the encoder; without it embeddings are those of the base and are made once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub encoder: Option<EncoderKind>,
}

impl AdapterConfig {
    /// Checks that anything is trained.
    pub fn check(&self) -> Result<(), ContinualError> {
        if self.decoder == DecoderKind::Frozen && self.encoder.is_none() {
            let expected = "`copy` or `hq`, or an adapter.encoder";
            return Err(ContinualError::setting("adapter.decoder", "frozen", expected));
        }
        if self.hq_only && self.decoder != DecoderKind::Hq {
            return Err(ContinualError::setting("adapter.hq_only", "true", "false, unless decoder is `hq`"));
        }
        Ok(())
    }

    /// Its name in reports.
    pub fn name(&self) -> String {
        let encoder = match self.encoder {
            Some(EncoderKind::Lora { .. }) => Some("lora"),
            Some(EncoderKind::AdaptFormer { .. }) => Some("adapt-former"),
            Some(EncoderKind::Gsam { .. }) => Some("gsam"),
            None => None,
        };
        let decoder = match self.decoder {
            DecoderKind::Frozen => None,
            DecoderKind::Copy => Some("decoder copy"),
            DecoderKind::Hq => Some("hq"),
        };
        [encoder, decoder].into_iter().flatten().collect::<Vec<_>>().join(" + ")
    }
}

/// What is trained for a domain. Absent parts are the base's.
#[derive(Module, Debug)]
pub struct Adapter {
    /// Inside the encoder.
    pub encoder: Option<EncoderAdapter>,
    /// In place of the base's decoder.
    pub mask_decoder: Option<MaskDecoder>,
    /// On top of the base's decoder.
    pub hq: Option<HqBranch>,
    /// Tokens beside those of the prompt.
    pub prompts: Option<PromptPool>,
    hq_only: bool,
}

/// HQ-SAM's additions to the decoder; fields as in [`MaskDecoder`].
#[derive(Module, Debug)]
pub struct HqBranch {
    /// Its token.
    pub hf_token: TokenEmbedding,
    /// Token to mask vector.
    pub hf_mlp: ReluMlp,
    /// Detail from the encoder's early map.
    pub compress_vit_feat: Upscaling,
    /// Detail from the embedding.
    pub embedding_encoder: Upscaling,
    /// From upscaled image tokens.
    pub embedding_maskfeature: MaskFeature,
}

impl HqBranch {
    /// The base's own branch, or a new one whose mask is zero.
    fn new(base: &Base, device: &Device) -> Result<Self, ContinualError> {
        let own = &base.sam(true).mask_decoder;
        if let (
            Some(hf_token),
            Some(hf_mlp),
            Some(compress_vit_feat),
            Some(embedding_encoder),
            Some(embedding_maskfeature),
        ) = (
            own.hf_token.clone(),
            own.hf_mlp.clone(),
            own.compress_vit_feat.clone(),
            own.embedding_encoder.clone(),
            own.embedding_maskfeature.clone(),
        ) {
            let branch =
                Self { hf_token, hf_mlp, compress_vit_feat, embedding_encoder, embedding_maskfeature };
            return Ok(branch.set_require_grad(true));
        }
        let sizes = base.sizes();
        let Some(channels) = early_channels(&sizes.encoder, base.preprocess().size as usize) else {
            return Err(ContinualError::setting(
                "adapter.decoder",
                "hq",
                format!("an encoder with a map of detail, which {} has not; take `copy`", base.name()),
            ));
        };
        let mut config = sizes.mask_decoder.clone();
        config.hq_early_channels = Some(channels);
        let dim = config.transformer.dim;
        let fresh = config.init(device);
        let missing = || ContinualError::setting("adapter.decoder", "hq", "a decoder with an HQ branch");
        let mut hf_mlp: ReluMlp =
            ReluMlpConfig { input: dim, hidden: dim, output: dim / 8, layers: 3 }.init(device);
        if let Some(last) = hf_mlp.layers.last_mut() {
            let zero = |t: Tensor<2>| t.zeros_like().set_require_grad(true);
            last.weight = last.weight.clone().map(zero);
            last.bias = last.bias.clone().map(|bias| bias.map(|t| t.zeros_like().set_require_grad(true)));
        }
        Ok(Self {
            hf_token: fresh.hf_token.ok_or_else(missing)?,
            hf_mlp,
            compress_vit_feat: fresh.compress_vit_feat.ok_or_else(missing)?,
            embedding_encoder: fresh.embedding_encoder.ok_or_else(missing)?,
            embedding_maskfeature: fresh.embedding_maskfeature.ok_or_else(missing)?,
        })
    }

    /// The base's decoder with this branch.
    fn on(&self, decoder: &MaskDecoder) -> MaskDecoder {
        MaskDecoder {
            hf_token: Some(self.hf_token.clone()),
            hf_mlp: Some(self.hf_mlp.clone()),
            compress_vit_feat: Some(self.compress_vit_feat.clone()),
            embedding_encoder: Some(self.embedding_encoder.clone()),
            embedding_maskfeature: Some(self.embedding_maskfeature.clone()),
            ..decoder.clone()
        }
    }
}

impl Adapter {
    /// An adapter that is yet to learn, on the device with autodiff; its random numbers follow from `seed`.
    ///
    /// # Errors
    /// A kind that the base cannot have.
    pub fn new(config: &AdapterConfig, base: &Base, seed: u64) -> Result<Self, ContinualError> {
        config.check()?;
        let device = base.device().clone().autodiff();
        device.seed(seed);
        let encoder = config
            .encoder
            .map(|kind| {
                EncoderAdapter::new(kind, &base.sizes().encoder, &base.sam(false).image_encoder, &device)
            })
            .transpose()?;
        let copy = config.decoder == DecoderKind::Copy;
        let hq = match config.decoder {
            DecoderKind::Hq => Some(HqBranch::new(base, &device)?),
            _ => None,
        };
        Ok(made(Self {
            encoder,
            // Not `unfreeze`: batch norms keep to the base's statistics, which a few pictures of one domain would only blur.
            mask_decoder: copy.then(|| base.sam(true).mask_decoder.clone().set_require_grad(true)),
            hq,
            prompts: None,
            hq_only: config.hq_only,
        }))
    }

    /// An adapter of prompt tokens alone.
    pub fn of_prompts(prompts: PromptPool) -> Self {
        Self { encoder: None, mask_decoder: None, hq: None, prompts: Some(prompts), hq_only: false }
    }

    /// As it begins the nth domain of a stream, from 0, after those before; on the device with autodiff.
    #[must_use]
    pub fn for_domain(mut self, n: usize) -> Self {
        self.prompts = self.prompts.map(|prompts| prompts.for_domain(n));
        self
    }
}

/// Prompts of one call with the picture of each.
#[derive(Clone, Debug)]
pub struct Asked {
    /// Points and boxes; without tokens where masks ask.
    pub sparse: SparsePrompts,
    /// Mask logits, `[B, 1, 4 S, 4 S]`.
    pub masks: Option<Tensor<4>>,
}

/// The masks of `B` prompts on the features of one picture, or of a picture each; the second result is the pull of prompt pools (see
/// [`PromptPool::tokens`]).
pub fn decode(
    base: &Sam,
    adapter: Option<&Adapter>,
    features: &Features,
    asked: &Asked,
    mode: DecodeMode,
    pick: Pick,
) -> (DecoderOutput, Option<Tensor<1>>) {
    let device = features.embedding.device();
    let encoder = &base.prompt_encoder;
    let dense = match &asked.masks {
        Some(logits) => encoder.mask(logits.clone()),
        None => encoder.without_mask(&asked.sparse, &device),
    };
    let mut sparse = (asked.sparse.tokens > 0).then(|| encoder.sparse(&asked.sparse, &device));
    let mut pull = None;
    if let Some(pool) = adapter.and_then(|adapter| adapter.prompts.as_ref()) {
        let [pictures, dim, ..] = features.embedding.dims();
        let query = features.embedding.clone().mean_dim(3).mean_dim(2).reshape([pictures, dim]);
        let (tokens, pulled) = pool.tokens(query, pick);
        let [count, length, _] = tokens.dims();
        // A pool that answers all alike gives its tokens once.
        let asked = sparse.as_ref().map_or(1, |sparse| sparse.dims()[0]);
        let batch = [count, asked, dense.dims()[0], pictures].into_iter().max().unwrap_or(count);
        let tokens = tokens.expand([batch, length, dim]);
        sparse = Some(match sparse {
            Some(sparse) => Tensor::cat(vec![sparse, tokens], 1),
            None => tokens,
        });
        pull = pulled;
    }
    let own = &base.mask_decoder;
    let composed;
    let decoder = match adapter {
        Some(Adapter { mask_decoder: Some(decoder), .. }) => decoder,
        Some(Adapter { hq: Some(branch), .. }) => {
            composed = branch.on(own);
            &composed
        }
        _ => own,
    };
    let encoded = EncoderOutput { embedding: features.embedding.clone(), early: features.early.clone() };
    let hq_features = decoder.hq_features(&encoded);
    let hq_only = mode.hq_only || adapter.is_some_and(|adapter| adapter.hq_only);
    let image_pe = encoder.dense_pe(&device);
    let image = features.embedding.clone() + dense;
    let output = decoder.forward(
        image,
        image_pe,
        sparse,
        hq_features,
        DecodeMode { multimask: mode.multimask, hq_only },
    );
    (output, pull)
}
