//! The feature map of a picture.
//!
//! | part | what | state-dict prefix |
//! | --- | --- | --- |
//! | backbone | stages, each at half the resolution of the one before, from stride 2 on | `backbone.stages` |
//! | join | the stages from the map's stride on, resized to the first of them, side by side; 1x1 convolution | `join` |
//! | smooth | norm, GELU, 3x3 convolution, norm, GELU | `norm1`, `smooth`, `norm2` |

use burn::module::Module;
use burn::nn::PaddingConfig2d;
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::tensor::{Device, Tensor};
use kirie_nn::resize::{Interpolation, resize};
use kirie_nn::{Activation, LayerNorm2d, LayerNorm2dConfig, conv2d};
use kirie_sam::checkpoint::{StateDict, load};
use kirie_sam::encoders::{EncoderConfig, efficientvit};
use kirie_sam::registry;
use serde::{Deserialize, Serialize};

use crate::WeakError;

/// Where the stages of an encoder are in the state dict of a model of the family.
const ENCODER_STAGES: &str = "image_encoder.backbone.";

/// The network that sees the picture first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum BackboneConfig {
    /// The stages of a registered EfficientViT-SAM's encoder, with its weights. Its batch norms keep to their statistics.
    Encoder {
        /// The registered name.
        model: String,
    },
    /// Convolutions with layer norms, from scratch.
    Plain {
        /// Channels of the stages.
        widths: Vec<usize>,
    },
}

/// Configuration of [`Features`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FeatureConfig {
    /// The backbone.
    pub backbone: BackboneConfig,
    /// Whether the backbone stays as it is. What it makes of each view of a picture is then computed once and kept in memory.
    pub frozen: bool,
    /// Factor on the learning rate of a backbone that began with weights.
    pub backbone_lr: f64,
    /// Pixels of the input that a cell of the map covers along each side: 4, 8 or 16.
    pub stride: usize,
    /// Stages that the map is made of, from that of its stride on; all without it. Those that attend see the whole picture in every
    /// cell, so that a detector that is told only what a picture shows can read it anywhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stages: Option<usize>,
    /// Whether the backbone begins with what the classifier of image-level labels made of it, instead of the model's own weights.
    pub from_classifier: bool,
    /// Channels of the map.
    pub channels: usize,
}

impl Default for FeatureConfig {
    fn default() -> Self {
        Self {
            backbone: BackboneConfig::Encoder { model: "kirie-small".to_owned() },
            frozen: false,
            backbone_lr: 0.3,
            stride: 8,
            stages: None,
            from_classifier: false,
            channels: 96,
        }
    }
}

impl FeatureConfig {
    /// Checks the numbers.
    pub fn check(&self) -> Result<(), WeakError> {
        if ![4, 8, 16].contains(&self.stride) {
            return Err(WeakError::setting("features.stride", self.stride, "4, 8 or 16"));
        }
        for (name, value) in [("features.channels", Some(self.channels)), ("features.stages", self.stages)] {
            if value == Some(0) {
                return Err(WeakError::setting(name, 0, "1 or more"));
            }
        }
        if !(self.backbone_lr.is_finite() && self.backbone_lr > 0.0) {
            return Err(WeakError::setting("features.backbone_lr", self.backbone_lr, "a number above 0"));
        }
        let widths = self.widths()?;
        if widths.len() <= self.first_stage() || widths.contains(&0) {
            let expected = format!("{} or more stages of 1 or more channels", self.first_stage() + 1);
            return Err(WeakError::setting("features.backbone", format!("{widths:?}"), expected));
        }
        Ok(())
    }

    /// The map's size over the input's.
    pub fn scale(&self) -> f32 {
        1.0 / self.stride as f32
    }

    /// The first stage that the map is made of.
    fn first_stage(&self) -> usize {
        self.stride.ilog2() as usize - 1
    }

    /// Channels of all stages.
    fn widths(&self) -> Result<Vec<usize>, WeakError> {
        match &self.backbone {
            BackboneConfig::Plain { widths } => Ok(widths.clone()),
            BackboneConfig::Encoder { model } => {
                Ok(encoder(model)?.stages.iter().map(|stage| stage.width).collect())
            }
        }
    }

    /// The network. An encoder gets the weights of `base`, a state dict of the named model; without one, those that the program
    /// carries.
    ///
    /// # Errors
    /// Settings out of range; a model without weights at hand; weights that do not fit.
    pub fn init(&self, base: Option<StateDict>, device: &Device) -> Result<Features, WeakError> {
        self.check()?;
        let backbone = match &self.backbone {
            BackboneConfig::Plain { widths } => Backbone::Plain(Plain::new(widths, device)),
            BackboneConfig::Encoder { model } => {
                let variant = registry::variant(model)?;
                let weights = match (base, variant.built_in) {
                    (Some(weights), _) => weights,
                    (None, Some(bytes)) => StateDict::from_gzip(variant.name, bytes)?,
                    (None, None) => {
                        let expected = "a model whose weights are given, or part of the program";
                        return Err(WeakError::setting("features.backbone.model", model, expected));
                    }
                };
                let stages = encoder(model)?.init(device).backbone;
                Backbone::Encoder(load(stages, &weights.part(ENCODER_STAGES), variant.name, device)?)
            }
        };
        Ok(self.assemble(backbone, device))
    }

    /// The same with weights by default initialisation: a place for weights of a checkpoint.
    pub fn init_empty(&self, device: &Device) -> Result<Features, WeakError> {
        self.check()?;
        let backbone = match &self.backbone {
            BackboneConfig::Plain { widths } => Backbone::Plain(Plain::new(widths, device)),
            BackboneConfig::Encoder { model } => Backbone::Encoder(encoder(model)?.init(device).backbone),
        };
        Ok(self.assemble(backbone, device))
    }

    fn assemble(&self, backbone: Backbone, device: &Device) -> Features {
        let (first, count) = (self.first_stage(), self.stages.unwrap_or(usize::MAX));
        let seen: usize = self.widths().map_or(0, |widths| widths.iter().skip(first).take(count).sum());
        let width = self.channels;
        Features {
            backbone,
            join: Conv2dConfig::new([seen, width], [1, 1]).with_bias(false).init(device),
            norm1: LayerNorm2dConfig::new(width).init(device),
            smooth: conv3x3([width; 2], 1, device),
            norm2: LayerNorm2dConfig::new(width).init(device),
            first,
            count,
        }
    }
}

fn encoder(model: &str) -> Result<efficientvit::EfficientVitConfig, WeakError> {
    match registry::variant(model)?.config().encoder {
        EncoderConfig::EfficientVit(config) => Ok(config),
        _ => Err(WeakError::setting(
            "features.backbone.model",
            model,
            "a model of the EfficientViT-SAM family",
        )),
    }
}

fn conv3x3(channels: [usize; 2], stride: usize, device: &Device) -> Conv2d {
    Conv2dConfig::new(channels, [3, 3])
        .with_stride([stride; 2])
        .with_padding(PaddingConfig2d::Explicit(1, 1, 1, 1))
        .with_bias(false)
        .init(device)
}

/// The stages' maps that [`Features`] joins, `[1, channels, height, width]` each, finest first.
pub type Stages = Vec<Tensor<4>>;

/// Makes feature maps.
#[derive(Module, Debug)]
pub struct Features {
    /// The network that sees the picture first.
    pub backbone: Backbone,
    /// 1x1, all stages to the map's width.
    pub join: Conv2d,
    /// Norm.
    pub norm1: LayerNorm2d,
    /// 3x3.
    pub smooth: Conv2d,
    /// Norm.
    pub norm2: LayerNorm2d,
    first: usize,
    count: usize,
}

impl Features {
    /// `[1, 3, height, width]` to the feature map, `[1, channels, height / stride, width / stride]`, rounded up.
    pub fn forward(&self, pixels: Tensor<4>) -> Tensor<4> {
        self.join(self.stages(pixels))
    }

    /// The backbone's part of [`Self::forward`].
    pub fn stages(&self, pixels: Tensor<4>) -> Stages {
        let all = match &self.backbone {
            Backbone::Encoder(stages) => stages.forward(pixels),
            Backbone::Plain(stages) => stages.forward(pixels),
        };
        all.into_iter().skip(self.first).take(self.count).collect()
    }

    /// The rest of it.
    pub fn join(&self, stages: Stages) -> Tensor<4> {
        let [_, _, height, width] = stages[0].dims();
        let side_by_side =
            stages.into_iter().map(|stage| resize(stage, [height, width], Interpolation::Bilinear));
        let x = conv2d(&self.join, Tensor::cat(side_by_side.collect(), 1));
        let x = Activation::Gelu.forward(self.norm1.forward(x));
        Activation::Gelu.forward(self.norm2.forward(conv2d(&self.smooth, x)))
    }
}

/// Stages of any kind.
#[derive(Module, Debug)]
#[allow(clippy::large_enum_variant, reason = "there is one per model")]
pub enum Backbone {
    /// Of an EfficientViT-SAM.
    Encoder(efficientvit::Backbone),
    /// Of convolutions alone.
    Plain(Plain),
}

/// Stages of two 3x3 convolutions, the first of stride 2, the second with a residual. Layer norms do not mind a batch of one.
#[derive(Module, Debug)]
pub struct Plain {
    /// Finest first.
    pub stages: Vec<PlainStage>,
}

/// One of them.
#[derive(Module, Debug)]
pub struct PlainStage {
    /// Stride 2.
    pub conv1: Conv2d,
    /// Norm.
    pub norm1: LayerNorm2d,
    /// Keeps the size.
    pub conv2: Conv2d,
    /// Norm.
    pub norm2: LayerNorm2d,
}

impl Plain {
    fn new(widths: &[usize], device: &Device) -> Self {
        let inputs = std::iter::once(3).chain(widths.iter().copied());
        let stages = inputs.zip(widths).map(|(input, width)| PlainStage {
            conv1: conv3x3([input, *width], 2, device),
            norm1: LayerNorm2dConfig::new(*width).init(device),
            conv2: conv3x3([*width; 2], 1, device),
            norm2: LayerNorm2dConfig::new(*width).init(device),
        });
        Self { stages: stages.collect() }
    }

    fn forward(&self, pixels: Tensor<4>) -> Vec<Tensor<4>> {
        let mut outputs = Vec::with_capacity(self.stages.len());
        let mut x = pixels;
        for stage in &self.stages {
            x = Activation::Gelu.forward(stage.norm1.forward(conv2d(&stage.conv1, x)));
            x = x.clone() + Activation::Gelu.forward(stage.norm2.forward(conv2d(&stage.conv2, x)));
            outputs.push(x.clone());
        }
        outputs
    }
}
