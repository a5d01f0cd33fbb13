//! Encoders that give a picture's features: ResNet, and the image encoders of SAM-family models.

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use kirie_nn::resnet::{ResNet, ResNetConfig, Stem as ResNetStem, spatial_mean};
use kirie_sam::encoders::{EncoderConfig as SamEncoderConfig, ImageEncoder};
use kirie_sam::registry::{Variant, variant};

use crate::config::{EncoderConfig, Stem};
use crate::error::ContrastiveError;

/// An encoder of either kind.
#[derive(Module, Debug)]
#[allow(clippy::large_enum_variant, reason = "there are two per run at most")]
pub enum Encoder {
    /// Keys: torchvision's.
    Resnet(ResNet),
    /// Keys: `image_encoder.*`.
    Sam(SamFeatures),
}

/// The image encoder of a SAM-family model, whose map is averaged over all places.
#[derive(Module, Debug)]
pub struct SamFeatures {
    /// The encoder. EfficientViT gives its last stage: its neck is neither used nor changed.
    pub image_encoder: ImageEncoder,
}

/// An encoder's sizes.
#[derive(Clone, Debug)]
pub enum EncoderSpec {
    /// ResNet.
    Resnet(ResNetConfig),
    /// A model of the SAM family.
    Sam(&'static Variant),
}

impl EncoderSpec {
    /// The sizes that a configuration names.
    ///
    /// # Errors
    /// Names that are none, and encoders that do not take small pictures.
    pub fn new(config: &EncoderConfig) -> Result<Self, ContrastiveError> {
        match config {
            EncoderConfig::Resnet(resnet) => {
                let stem = match resnet.stem {
                    Stem::Imagenet => ResNetStem::ImageNet,
                    Stem::Cifar => ResNetStem::Cifar,
                };
                let config = match resnet.depth {
                    18 => ResNetConfig::resnet18(stem),
                    50 => ResNetConfig::resnet50(stem),
                    other => return Err(ContrastiveError::setting("encoder.depth", other, "18 or 50")),
                };
                Ok(Self::Resnet(ResNetConfig { width: resnet.width, ..config }))
            }
            EncoderConfig::Sam(sam) => {
                let variant = variant(&sam.model)?;
                match variant.config().encoder {
                    SamEncoderConfig::Vit(_) => Err(ContrastiveError::setting(
                        "encoder.model",
                        &sam.model,
                        "a model without positions of a fixed number, which EfficientViT and TinyViT are",
                    )),
                    _ => Ok(Self::Sam(variant)),
                }
            }
        }
    }

    /// Length of the features.
    pub fn features(&self) -> usize {
        match self {
            Self::Resnet(config) => config.features(),
            Self::Sam(variant) => match variant.config().encoder {
                SamEncoderConfig::EfficientVit(config) => config.stages.last().map_or(0, |stage| stage.width),
                SamEncoderConfig::TinyVit(config) => config.out_channels,
                SamEncoderConfig::Vit(config) => config.out_channels,
            },
        }
    }

    /// By default initialisation, made lazily.
    pub fn init(&self, device: &Device) -> Encoder {
        match self {
            Self::Resnet(config) => Encoder::Resnet(config.init(device)),
            Self::Sam(variant) => {
                Encoder::Sam(SamFeatures { image_encoder: variant.config().encoder.init(device) })
            }
        }
    }
}

impl Encoder {
    /// `[views, 3, size, size]` to `[views, features]`.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<2> {
        match self {
            Self::Resnet(resnet) => resnet.forward(x),
            Self::Sam(sam) => spatial_mean(sam.map(x)),
        }
    }
}

impl SamFeatures {
    fn map(&self, x: Tensor<4>) -> Tensor<4> {
        match &self.image_encoder {
            ImageEncoder::EfficientVit(vit) => {
                let [batch, _, _, _] = x.dims();
                let device = x.device();
                // There is a last one as long as there is a stage.
                vit.backbone.forward(x).pop().unwrap_or_else(|| Tensor::zeros([batch, 1, 1, 1], &device))
            }
            other => other.forward(x).embedding,
        }
    }
}
