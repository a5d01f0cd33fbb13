//! The network: WeakTr on patches or on a convolutional encoder.
//!
//! | part | output | state-dict prefix |
//! | --- | --- | --- |
//! | patches of pixels, or the last two stages of an encoder brought together | `[B, D, h, w]` | `patch_embed` |
//! | a token for each of C classes | `[B, C, D]` | `cls_token` |
//! | positions of C + N tokens | same | `pos_embed` |
//! | blocks | `[B, C + N, D]` | `blocks.{i}`, `norm` |
//! | 3x3 convolution on the patch tokens | S, `[B, C, h, w]` | `head` |
//! | weights of the attention maps | `[heads, depth]` | `adaptive_attention_fusion` |
//!
//! With N = h w patches. S after ReLU is the coarse class activation map. The mean of all attention maps, weighted, has rows for
//! classes and columns for patches, the cross attention, and rows and columns for patches, P. The fine map of a class is
//! `P (cross * coarse)`.
//!
//! (`models.py`, `AAF.py` of WeakTr as they are in the WeakSAM repository.) Where the original has drop path there is none here: it
//! is for 12 blocks.

use burn::module::{Initializer, Module, Param};
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::{LayerNorm, PaddingConfig2d};
use burn::tensor::activation::relu;
use burn::tensor::{Device, Tensor};
use kirie_nn::resize::{Interpolation, resize};
use kirie_nn::{Activation, LayerNorm2d, LayerNorm2dConfig, conv2d, layer_norm};
use kirie_sam::checkpoint::{StateDict, load};
use kirie_sam::encoders::efficientvit::Backbone;
use kirie_sam::encoders::{EfficientVitConfig, EncoderConfig};
use kirie_sam::registry;

use super::blocks::{Block, EPSILON, Fusion, norm};
use super::{ModelConfig, StemConfig};
use crate::WeakError;

/// Stages of an encoder that make the tokens.
const STAGES: usize = 2;

/// The network.
#[derive(Module, Debug)]
pub struct Classifier {
    /// From pixels to a map of tokens.
    pub patch_embed: Stem,
    /// A token a class, `[1, C, D]`.
    pub cls_token: Option<Param<Tensor<3>>>,
    /// Positions, `[1, C + N, D]`, those of the classes first.
    pub pos_embed: Option<Param<Tensor<3>>>,
    /// Transformer blocks.
    pub blocks: Vec<Block>,
    /// After the blocks.
    pub norm: Option<LayerNorm>,
    /// To class activation maps.
    pub head: Conv2d,
    /// How much each attention map counts.
    pub adaptive_attention_fusion: Option<Fusion>,
    /// Cells along a side of the training input.
    grid: usize,
}

/// From pixels to a map of tokens.
#[derive(Module, Debug)]
#[allow(clippy::large_enum_variant, reason = "there is one per model")]
pub enum Stem {
    /// Squares of pixels. Key: `proj.*`.
    Patches(Patches),
    /// A convolutional encoder. Keys: `backbone.*`, `proj.{i}.*`, `norm.*`.
    Encoder(EncoderStem),
}

/// Squares of pixels.
#[derive(Module, Debug)]
pub struct Patches {
    /// A convolution whose stride is its side.
    pub proj: Conv2d,
}

/// The last stages of a convolutional encoder, each by a 1x1 convolution brought to the tokens' width and summed on the finer of
/// their grids, then normalised.
#[derive(Module, Debug)]
pub struct EncoderStem {
    /// The encoder without its neck.
    pub backbone: Backbone,
    /// One for each of the last stages.
    pub proj: Vec<Conv2d>,
    /// After the sum.
    pub norm: LayerNorm2d,
}

/// What the network says of some pictures.
#[derive(Clone, Debug)]
pub struct Answer {
    /// S: class activation maps before ReLU, `[B, C, h, w]`.
    pub activation: Tensor<4>,
    /// What the blocks add; `None` without blocks.
    pub attention: Option<AttentionAnswer>,
}

/// What blocks add to an answer.
#[derive(Clone, Debug)]
pub struct AttentionAnswer {
    /// Logits of the class tokens, the mean of each over its channels, `[B, C]`.
    pub tokens: Tensor<2>,
    /// Fine class maps, `[B, C, h, w]`, 0 and above.
    pub fine: Tensor<4>,
    /// The attention of class tokens to patches by block, from the first third of the blocks on, each
    /// `[B, heads, C, N]`; empty unless asked for.
    pub cross: Vec<Tensor<4>>,
}

impl Answer {
    /// Logits of the classes, `[B, C]`: those of the class tokens, or else the means of the maps.
    pub fn logits(&self) -> Tensor<2> {
        match &self.attention {
            Some(attention) => attention.tokens.clone(),
            None => means(self.activation.clone()),
        }
    }
}

/// The mean of each map, `[B, C, h, w]` to `[B, C]`.
pub(super) fn means(maps: Tensor<4>) -> Tensor<2> {
    let [batch, classes, height, width] = maps.dims();
    maps.reshape([batch, classes, height * width]).mean_dim(2).reshape([batch, classes])
}

impl ModelConfig {
    /// The encoder's sizes, if there is one.
    pub(crate) fn encoder(&self) -> Result<Option<EfficientVitConfig>, WeakError> {
        let StemConfig::Encoder { base, sizes } = &self.stem else { return Ok(None) };
        let sizes = if let Some(sizes) = sizes {
            sizes.clone()
        } else {
            let EncoderConfig::EfficientVit(sizes) = registry::variant(base)?.config().encoder else {
                let expected = "a model with an EfficientViT encoder, which takes pictures of any size";
                return Err(WeakError::setting("classifier.model.stem.base", base, expected));
            };
            sizes
        };
        if !(STAGES + 1..=8).contains(&sizes.stages.len()) {
            let found = format!("{} stages", sizes.stages.len());
            return Err(WeakError::setting("classifier.model.stem.sizes", found, "3 to 8 stages"));
        }
        Ok(Some(sizes))
    }

    /// The network for so many classes, its parameters drawn from `seed` in the device's generator.
    ///
    /// `base` are the weights that an encoder begins with; without them it begins with nothing, which takes many more pictures.
    ///
    /// # Errors
    /// Settings out of their range; weights that are not the encoder's.
    pub fn init(
        &self,
        classes: usize,
        base: Option<StateDict>,
        seed: u64,
        device: &Device,
    ) -> Result<Classifier, WeakError> {
        self.check()?;
        device.seed(seed);
        let (dim, grid) = (self.dim, self.grid()?);
        let patch_embed = match (&self.stem, self.encoder()?) {
            (StemConfig::Encoder { base: name, .. }, Some(sizes)) => {
                let mut encoder = sizes.init(device);
                if let Some(weights) = base {
                    encoder = load(encoder, &weights.part("image_encoder."), name, device)?;
                }
                let last = &sizes.stages[sizes.stages.len() - STAGES..];
                Stem::Encoder(EncoderStem {
                    backbone: encoder.backbone,
                    proj: last
                        .iter()
                        .map(|stage| Conv2dConfig::new([stage.width, dim], [1, 1]).init(device))
                        .collect(),
                    norm: LayerNorm2dConfig::new(dim).init(device),
                })
            }
            (StemConfig::Patches { size }, _) => {
                let proj = Conv2dConfig::new([3, dim], [*size; 2]).with_stride([*size; 2]);
                Stem::Patches(Patches { proj: proj.init(device) })
            }
            (StemConfig::Encoder { base, .. }, None) => {
                return Err(WeakError::setting("classifier.model.stem.base", base, "an encoder"));
            }
        };
        let tokens = self.depth > 0;
        let drawn = Initializer::Normal { mean: 0.0, std: 0.02 };
        Ok(Classifier {
            patch_embed,
            cls_token: tokens.then(|| drawn.init([1, classes, dim], device)),
            pos_embed: tokens.then(|| drawn.init([1, classes + grid * grid, dim], device)),
            blocks: (0..self.depth).map(|_| Block::new(dim, self.heads, device)).collect(),
            norm: tokens.then(|| norm(dim, device)),
            head: Conv2dConfig::new([dim, classes], [3, 3])
                .with_padding(PaddingConfig2d::Explicit(1, 1, 1, 1))
                .init(device),
            adaptive_attention_fusion: tokens.then(|| Fusion::new(self.heads, self.depth, device)),
            grid,
        })
    }
}

impl Stem {
    /// `[B, 3, height, width]` to `[B, D, h, w]`.
    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        match self {
            Self::Patches(patches) => conv2d(&patches.proj, x),
            Self::Encoder(stem) => {
                let device = x.device();
                let outputs = stem.backbone.forward(x);
                // The deepest first, so that the grid becomes that of the shallowest.
                let pairs = outputs.into_iter().rev().zip(stem.proj.iter().rev());
                let sum = pairs.fold(None, |sum: Option<Tensor<4>>, (stage, proj)| {
                    let brought = conv2d(proj, stage);
                    let [.., height, width] = brought.dims();
                    Some(match sum {
                        None => brought,
                        Some(sum) => resize(sum, [height, width], Interpolation::Bilinear) + brought,
                    })
                });
                // An encoder without stages cannot be configured.
                let sum = sum.unwrap_or_else(|| Tensor::zeros([1, 1, 1, 1], &device));
                Activation::Gelu.forward(stem.norm.forward(sum))
            }
        }
    }
}

impl Classifier {
    /// Classes it knows.
    pub fn classes(&self) -> usize {
        self.head.weight.dims()[0]
    }

    /// Whether it has class tokens, and with them fine maps and attention.
    pub fn has_tokens(&self) -> bool {
        self.cls_token.is_some()
    }

    /// Normalised pictures `[B, 3, height, width]`, sides as [`ModelConfig::input`] is, to maps. `keep_cross` keeps the attention
    /// of class tokens to patches.
    pub fn forward(&self, x: Tensor<4>, keep_cross: bool) -> Answer {
        let map = self.patch_embed.forward(x);
        let (Some(classes), Some(positions), Some(norm), Some(fusion)) =
            (&self.cls_token, &self.pos_embed, &self.norm, &self.adaptive_attention_fusion)
        else {
            return Answer { activation: conv2d(&self.head, map), attention: None };
        };
        let [batch, dim, height, width] = map.dims();
        let (patches, count) = (height * width, self.classes());
        let tokens = count + patches;
        let patch_tokens = map.reshape([batch, dim, patches]).swap_dims(1, 2);
        let class_tokens = classes.val().expand([batch, count, dim]);
        let mut x = Tensor::cat(vec![class_tokens, patch_tokens], 1)
            + positions_at(positions.val(), count, self.grid, [height, width]);

        let depth = self.blocks.len();
        let weights = fusion.weights(depth, tokens, &x.device());
        let [heads, _] = weights.dims();
        let mut fused: Option<Tensor<4>> = None;
        let mut cross = Vec::new();
        for (layer, block) in self.blocks.iter().enumerate() {
            let (next, attention) = block.forward(x);
            x = next;
            // Of 12 blocks the published points come from the last eight.
            if keep_cross && layer >= depth / 3 {
                cross.push(attention.clone().slice([0..batch, 0..heads, 0..count, count..tokens]));
            }
            let weight = weights.clone().narrow(1, layer, 1).reshape([1, heads, 1, 1]);
            let sum = (attention * weight).sum_dim(1);
            fused = Some(match fused {
                None => sum,
                Some(fused) => fused + sum,
            });
        }
        let x = layer_norm(norm, EPSILON, x);
        let logits = x.clone().narrow(1, 0, count).mean_dim(2).reshape([batch, count]);
        let map = x.narrow(1, count, patches).swap_dims(1, 2).reshape([batch, dim, height, width]);
        let activation = conv2d(&self.head, map);

        let fused = fused.map_or_else(
            || Tensor::zeros([batch, tokens, tokens], &activation.device()),
            |fused| fused.reshape([batch, tokens, tokens]) / (heads * depth) as f64,
        );
        let to_patches = fused.clone().slice([0..batch, 0..count, count..tokens]);
        let between = fused.slice([0..batch, count..tokens, count..tokens]);
        let coarse = relu(activation.clone()).reshape([batch, count, patches]);
        let fine = between.matmul((to_patches * coarse).swap_dims(1, 2)).swap_dims(1, 2);
        let fine = fine.reshape([batch, count, height, width]);
        Answer { activation, attention: Some(AttentionAnswer { tokens: logits, fine, cross }) }
    }
}

/// Positions for another grid: those of the classes as they are, those of the patches resized.
fn positions_at(table: Tensor<3>, classes: usize, grid: usize, size: [usize; 2]) -> Tensor<3> {
    if size == [grid; 2] {
        return table;
    }
    let [_, tokens, dim] = table.dims();
    let own = table.clone().narrow(1, 0, classes);
    let patches = table.narrow(1, classes, tokens - classes).swap_dims(1, 2).reshape([1, dim, grid, grid]);
    let patches = resize(patches, size, Interpolation::Bicubic);
    let patches = patches.reshape([1, dim, size[0] * size[1]]).swap_dims(1, 2);
    Tensor::cat(vec![own, patches], 1)
}
