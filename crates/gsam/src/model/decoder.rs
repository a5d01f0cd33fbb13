//! SAM's mask decoder with tokens per class in the place of tokens per mask.
//!
//! | | two classes | K classes |
//! | --- | --- | --- |
//! | `iou_token` | `[1, C]` | `[K, C]` |
//! | `mask_tokens` | `[M, C]` | `[M K + 1, C]` |
//! | `output_hypernetworks_mlps` | M | K |
//! | logits | 1 channel: the second class against the first | K channels |
//!
//! with M = 4 as in SAM. That is the layout of G-SAM's repository. All tokens attend; the class logits come from K of them.
//! `iou_prediction_head` is kept for the sake of the layout and never run, and so are the second to last MLP of two classes.

use burn::module::{Initializer, Module};
use burn::tensor::{Device, Tensor};
use kirie_nn::{Activation, ReluMlp, ReluMlpConfig, count};
use kirie_sam::mask_decoder::{MaskDecoderConfig, Upscaling};
use kirie_sam::prompt_encoder::TokenEmbedding;
use kirie_sam::prompt_fusion::PromptFusion;
use kirie_sam::transformer::TwoWayTransformer;

/// The class decoder.
#[derive(Module, Debug)]
pub struct ClassDecoder {
    /// kirie's own: before the transformer.
    pub prompt_fusion: Option<PromptFusion>,
    /// Between tokens and image.
    pub transformer: TwoWayTransformer,
    /// Context, but see [`Self::new`].
    pub iou_token: TokenEmbedding,
    /// The first of them ask for the classes.
    pub mask_tokens: TokenEmbedding,
    /// Image tokens to four times the size.
    pub output_upscaling: Upscaling,
    /// Token to the vector of a class.
    pub output_hypernetworks_mlps: Vec<ReluMlp>,
    /// Not used.
    pub iou_prediction_head: ReluMlp,
    /// Channels of the logits.
    channels: usize,
    /// Token of the first channel, in the sequence of all.
    first: usize,
}

/// Masks that the base's decoder offers, the single one included: SAM's 4.
fn masks(config: &MaskDecoderConfig) -> usize {
    config.multimask_outputs + 1
}

impl ClassDecoder {
    /// Parameters by default initialisation.
    ///
    /// `published_tokens`: with more than two classes, ask with the tokens 1..=K of the sequence as G-SAM's repository does, most of
    /// which lie in `iou_token`; otherwise with the first K of `mask_tokens`. The two differ only in names until training starts, so this
    /// is for reading the authors' checkpoints.
    pub fn new(config: &MaskDecoderConfig, classes: usize, published_tokens: bool, device: &Device) -> Self {
        let dim = config.transformer.dim;
        let masks = masks(config);
        let binary = classes == 2;
        let (iou_tokens, mask_tokens, mlps) =
            if binary { (1, masks, masks) } else { (classes, masks * classes + 1, classes) };
        let tokens = |n: usize| TokenEmbedding {
            weight: Initializer::Normal { mean: 0.0, std: 1.0 }.init([n, dim], device),
        };
        Self {
            prompt_fusion: config.prompt_fusion.as_ref().map(|fusion| fusion.init(dim, device)),
            transformer: config.transformer.init(device),
            iou_token: tokens(iou_tokens),
            mask_tokens: tokens(mask_tokens),
            output_upscaling: Upscaling::new(dim, dim / 4, dim / 8, device),
            output_hypernetworks_mlps: (0..mlps)
                .map(|_| ReluMlpConfig { input: dim, hidden: dim, output: dim / 8, layers: 3 }.init(device))
                .collect(),
            iou_prediction_head: ReluMlpConfig {
                input: dim,
                hidden: config.iou_head_hidden,
                output: masks,
                layers: config.iou_head_depth,
            }
            .init(device),
            channels: if binary { 1 } else { classes },
            first: if published_tokens { 1 } else { iou_tokens },
        }
    }

    /// `image` `[B, C, H, W]` and `image_pe` `[1 or B, C, H, W]` to logits `[B, channels, 4H, 4W]`: K channels, or 1 for two classes.
    pub fn forward(&self, image: Tensor<4>, image_pe: Tensor<4>) -> Tensor<4> {
        let image = match &self.prompt_fusion {
            Some(fusion) => fusion.forward(image),
            None => image,
        };
        let [batch, dim, height, width] = image.dims();
        let tokens = Tensor::cat(vec![self.iou_token.weight.val(), self.mask_tokens.weight.val()], 0);
        let [count, _] = tokens.dims();
        let tokens = tokens.unsqueeze_dim::<3>(0).expand([batch, count, dim]);
        let flat = |map: Tensor<4>| map.flatten::<3>(2, 3).swap_dims(1, 2);
        let (tokens, image) = self.transformer.forward(tokens, flat(image), flat(image_pe));
        let image = image.swap_dims(1, 2).reshape([batch, dim, height, width]);
        let upscaled = Activation::Gelu.forward(self.output_upscaling.forward(image));
        let vectors = (0..self.channels)
            .zip(&self.output_hypernetworks_mlps)
            .map(|(i, mlp)| mlp.forward(tokens.clone().narrow(1, self.first + i, 1)))
            .collect();
        let [_, features, height, width] = upscaled.dims();
        count::add_product(batch * self.channels * height * width, features);
        Tensor::cat(vectors, 1).matmul(upscaled.flatten::<3>(2, 3)).reshape([
            batch,
            self.channels,
            height,
            width,
        ])
    }

    /// Whether a parameter, by its name after `mask_decoder.`, has a part in the logits.
    pub(super) fn uses(key: &str, classes: usize) -> bool {
        if key.starts_with("iou_prediction_head.") {
            return false;
        }
        match key.strip_prefix("output_hypernetworks_mlps.") {
            Some(rest) if classes == 2 => rest.starts_with("0."),
            _ => true,
        }
    }

    /// The row of the base's tokens that a row of `iou_token` or `mask_tokens` begins with; `None`: from the base's `iou_token`.
    ///
    /// Those that ask for classes begin with mask token 0, that of SAM's single mask; the rest are context and take the base's other
    /// tokens in turn.
    pub(super) fn base_row(
        config: &MaskDecoderConfig,
        classes: usize,
        published_tokens: bool,
        in_mask_tokens: bool,
        row: usize,
    ) -> Option<usize> {
        let masks = masks(config);
        if classes == 2 {
            return in_mask_tokens.then_some(row);
        }
        let asking = if published_tokens { 1..classes + 1 } else { classes..2 * classes };
        let place = if in_mask_tokens { classes + row } else { row };
        if asking.contains(&place) {
            Some(0)
        } else if in_mask_tokens {
            Some(if masks > 1 { 1 + row % (masks - 1) } else { 0 })
        } else {
            None
        }
    }
}
