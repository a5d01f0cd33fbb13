//! The whole model.

use burn::module::{Flag, Module, ModuleMapper, ModuleVisitor, Param};
use burn::nn::conv::Conv2d;
use burn::tensor::{Device, Tensor, TensorData};
use kirie_nn::conv2d;
use kirie_nn::count::{self, Macs};
use kirie_sam::checkpoint::{KeyPath, KeyShape, StateDict, module_keys};
use kirie_sam::encoders::EncoderConfig;
use kirie_sam::model::SamConfig;
use kirie_sam::prompt_encoder::PromptEncoder;
use kirie_sam::registry::{Preprocess, Variant};
use serde::{Deserialize, Serialize};

use super::base::{BaseReport, load_base};
use super::conv::ConvEncoder;
use super::decoder::ClassDecoder;
use super::field::{cut, pad_to_multiple};
use super::vit::{SemanticVit, depthwise};
use super::{MethodConfig, ModelError, lora};
use crate::Segmenter;

/// Configuration of [`SemanticModel`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SemanticConfig {
    /// Name of the base model, such as `kirie-small`.
    pub base: String,
    /// The base's sizes.
    pub sam: SamConfig,
    /// How the base's pixels are normalised. Its `size` says at which stride its convolutional encoder works.
    pub preprocess: Preprocess,
    /// Number of classes, 2 or more, the background included where it is one.
    pub classes: usize,
    /// How it is fine-tuned.
    pub method: MethodConfig,
    /// Which tokens ask for the classes; see [`ClassDecoder::new`].
    #[serde(default)]
    pub published_tokens: bool,
}

/// How large a model is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counts {
    /// Parameters of the whole model, buffers not counted.
    pub total: usize,
    /// Parameters that are trained. Those that take no part in the logits are not, though the published code flags them as trainable:
    /// the decoder's quality head and, with two classes, all but the first of its MLPs.
    pub trained: usize,
    /// Size of an adapter file's tensors in bytes: what is trained and the running statistics of batch norms that change with it.
    pub stored_bytes: usize,
}

impl SemanticConfig {
    /// For a registered base.
    pub fn new(variant: &Variant, classes: usize, method: MethodConfig) -> Self {
        Self {
            base: variant.name.to_owned(),
            sam: variant.config(),
            preprocess: variant.preprocess,
            classes,
            method,
            published_tokens: false,
        }
    }

    /// Checks that everything fits together.
    pub fn check(&self) -> Result<(), ModelError> {
        let setting = |name, found: String, expected: &str| {
            Err(ModelError::Setting { name, found, expected: expected.to_owned() })
        };
        if !(2..=4096).contains(&self.classes) {
            return setting("classes", self.classes.to_string(), "2 to 4096");
        }
        self.method.check(&self.sam.encoder)?;
        if let Err(reason) = self.sam.check(self.preprocess.size as usize) {
            return setting("the base's sizes", reason, "sizes that fit together and the input");
        }
        match &self.sam.encoder {
            EncoderConfig::EfficientVit(config) => {
                let (size, out) = (self.preprocess.size as usize, config.out_size);
                let stride = size / out.max(1);
                if out == 0 || !size.is_multiple_of(out) || !stride.is_power_of_two() || stride < 4 {
                    let found = format!("{out} for an input of {size}");
                    return setting("encoder.out_size", found, "the input over a power of two from 4");
                }
                if stride > 1 << config.stages.len() {
                    let found = format!("{out} for an input of {size}");
                    return setting("encoder.out_size", found, "no smaller than the last stage");
                }
            }
            EncoderConfig::Vit(config) => {
                if config.patch < 4 || !config.patch.is_multiple_of(4) {
                    return setting("encoder.patch", config.patch.to_string(), "a multiple of 4");
                }
                let grid = config.image_size / config.patch;
                if self.method.is_stride_8() && (grid < 2 || !grid.is_multiple_of(2)) {
                    return setting(
                        "encoder.image_size over encoder.patch",
                        grid.to_string(),
                        "an even number",
                    );
                }
                if config.dim < 8 || config.window == 0 || config.depth == 0 {
                    let found =
                        format!("dim {}, window {}, depth {}", config.dim, config.window, config.depth);
                    return setting("encoder", found, "a width of 8 or more, a window and blocks");
                }
            }
            EncoderConfig::TinyVit(_) => {}
        }
        Ok(())
    }

    /// A model with random weights that follow from the seed.
    pub fn init(&self, device: &Device, seed: u64) -> Result<SemanticModel, ModelError> {
        let model = self.lazy(device)?;
        make(&model, device, seed);
        Ok(model)
    }

    /// A model with a base's weights, and what the base does not have by the seed; see [`super::base`].
    pub fn init_from(
        &self,
        base: &StateDict,
        device: &Device,
        seed: u64,
    ) -> Result<(SemanticModel, BaseReport), ModelError> {
        let (model, report) = self.lazy(device)?.load_base(base)?;
        make(&model, device, seed);
        Ok((model, report))
    }

    /// A model whose parameters are made when they are first asked for; enough to count them.
    pub fn lazy(&self, device: &Device) -> Result<SemanticModel, ModelError> {
        self.check()?;
        let (encoder, convolutional) = match &self.sam.encoder {
            EncoderConfig::Vit(config) => {
                (SemanticEncoder::Vit(SemanticVit::new(config, &self.method, device)), false)
            }
            EncoderConfig::EfficientVit(config) => {
                let stride = self.preprocess.size as usize / config.out_size;
                (SemanticEncoder::Conv(ConvEncoder::new(config, &self.method, stride, device)), true)
            }
            EncoderConfig::TinyVit(_) => {
                let works_with = "ViT and convolutional encoders";
                return Err(ModelError::NoMethod { encoder: "TinyViT encoders", works_with });
            }
        };
        let dim = self.sam.prompt_encoder.dim;
        let model = SemanticModel {
            image_encoder: encoder,
            prompt_encoder: self.sam.prompt_encoder.init(device),
            positional_encoder: matches!(self.method, MethodConfig::Gsam(_))
                .then(|| PositionCnn { proj: vec![depthwise(dim, true, device)] }),
            mask_decoder: ClassDecoder::new(
                &self.sam.mask_decoder,
                self.classes,
                self.published_tokens,
                device,
            ),
            config: self.clone(),
        };
        let model = match &self.method {
            MethodConfig::Lora(lora) => lora::attach(model, lora, convolutional, device)?,
            _ => model,
        };
        Ok(model.mark_trained())
    }

    /// Whether a parameter, by its state-dict name, is trained.
    pub fn trains(&self, key: &str) -> bool {
        match key.strip_prefix("mask_decoder.") {
            Some(rest) => self.method.trains_decoder() && ClassDecoder::uses(rest, self.classes),
            None => match &self.sam.encoder {
                EncoderConfig::Vit(config) => self.method.trains(key, &config.global_blocks),
                _ => self.method.trains(key, &[]),
            },
        }
    }

    /// Names and shapes of what an adapter file holds: trained parameters, and running statistics beside them.
    pub(super) fn stored(&self, model: &SemanticModel) -> Vec<KeyShape> {
        // The published GSAM's position generator is not trained, yet random: no base has it.
        let kept = |key: &str| self.trains(key) || key.starts_with("image_encoder.pos_embed.conv.");
        module_keys(model).into_iter().filter(|key| !key.optional && kept(&key.key)).collect()
    }

    /// Parameters and bytes; no parameter is made for it.
    pub fn counts(&self, device: &Device) -> Result<Counts, ModelError> {
        Ok(self.lazy(device)?.counts())
    }

    /// Multiply-accumulates of the logits of one picture of `height` x `width` pixels. Nothing is computed and no large parameter made
    /// for it.
    ///
    /// What is counted: every convolution and linear layer that runs, and the products between activations apart from them. The low-rank
    /// products of [`MethodConfig::Lora`] are part of a weight by then.
    pub fn macs(&self, height: usize, width: usize, device: &Device) -> Result<Macs, ModelError> {
        let model = self.lazy(device)?;
        Ok(count::dry(|| model.logits(Tensor::zeros([1, 3, height, width], device))).1)
    }
}

/// Makes all parameters that were not made yet, in the order of the fields.
fn make(model: &SemanticModel, device: &Device, seed: u64) {
    struct Make;
    impl ModuleVisitor for Make {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let _ = param.base();
        }
    }
    device.seed(seed);
    model.visit(&mut Make);
}

/// Whether a tensor of this name is a constant or a statistic, not a parameter.
fn is_buffer(key: &str) -> bool {
    ["running_mean", "running_var", "positional_encoding_gaussian_matrix"]
        .iter()
        .any(|end| key.ends_with(end))
}

/// Pictures to logits per class.
///
/// Keys: `image_encoder.*`, `prompt_encoder.*`, `mask_decoder.*` as in SAM, `positional_encoder.*` (GSAM).
#[derive(Module, Debug)]
pub struct SemanticModel {
    /// Pixels to embedding.
    pub image_encoder: SemanticEncoder,
    /// Only what stands for "no prompt" and the position features are used.
    pub prompt_encoder: PromptEncoder,
    /// GSAM: says where a place is, in the position features' stead.
    pub positional_encoder: Option<PositionCnn>,
    /// Embedding to logits.
    pub mask_decoder: ClassDecoder,
    #[module(skip)]
    config: SemanticConfig,
}

/// An encoder of any kind.
#[derive(Module, Debug)]
#[allow(clippy::large_enum_variant, reason = "there is one per model, and it lives as long as the model")]
pub enum SemanticEncoder {
    /// See [`super::vit`].
    Vit(SemanticVit),
    /// See [`super::conv`].
    Conv(ConvEncoder),
}

/// GSAM's position encoding generator on the embedding: a depth-wise 3x3 convolution. Key: `proj.0.*`.
#[derive(Module, Debug)]
pub struct PositionCnn {
    /// One convolution.
    pub proj: Vec<Conv2d>,
}

impl SemanticModel {
    /// What it was made from.
    pub fn config(&self) -> &SemanticConfig {
        &self.config
    }

    /// The same with another method in its configuration.
    pub(super) fn with_method(mut self, method: MethodConfig) -> Self {
        self.config.method = method;
        self.mark_trained()
    }

    /// Takes what fits from a base, by name; see [`super::base`]. What it does not have stays as it is.
    pub fn load_base(self, base: &StateDict) -> Result<(Self, BaseReport), ModelError> {
        load_base(self, base)
    }

    /// Turns gradients on for what the method trains and off for the rest. Batch norms of the rest keep to their running statistics.
    ///
    /// Loading and optimising keep this; only after `Module::unfreeze` and the like is it to be called again.
    pub fn mark_trained(self) -> Self {
        struct Marker(KeyPath, SemanticConfig);
        impl ModuleMapper for Marker {
            fn enter_module(&mut self, name: &str, container_type: &str) {
                self.0.enter(name, container_type);
            }
            fn exit_module(&mut self, _name: &str, container_type: &str) {
                self.0.exit(container_type);
            }
            fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
                let key = self.0.key();
                param.set_require_grad(self.1.trains(&key) && !is_buffer(&key))
            }
            // Whether a batch norm follows its batch: a flag beside its parameters.
            fn map_flag(&mut self, flag: Param<Flag>) -> Param<Flag> {
                flag.with_value(self.1.trains(&self.0.key()))
            }
        }
        let config = self.config.clone();
        self.map(&mut Marker(KeyPath::default(), config))
    }

    /// State-dict names of the parameters that are trained, in the order of the fields.
    pub fn trained_keys(&self) -> Vec<String> {
        self.keys(|key| self.config.trains(key))
    }

    /// State-dict names of the parameters that stay as they are.
    pub fn frozen_keys(&self) -> Vec<String> {
        self.keys(|key| !self.config.trains(key))
    }

    fn keys(&self, wanted: impl Fn(&str) -> bool) -> Vec<String> {
        let parameters = module_keys(self).into_iter().filter(|k| !k.optional && !is_buffer(&k.key));
        parameters.map(|k| k.key).filter(|key| wanted(key)).collect()
    }

    /// Parameters and bytes.
    pub fn counts(&self) -> Counts {
        let size = |key: &KeyShape| key.shape.iter().product::<usize>();
        let keys = module_keys(self);
        let parameters = || keys.iter().filter(|k| !k.optional && !is_buffer(&k.key));
        Counts {
            total: parameters().map(size).sum(),
            trained: parameters().filter(|k| self.config.trains(&k.key)).map(size).sum(),
            stored_bytes: self.config.stored(self).iter().map(size).sum::<usize>() * size_of::<f32>(),
        }
    }

    /// See [`SemanticConfig::macs`].
    pub fn macs(&self, height: usize, width: usize) -> Result<Macs, ModelError> {
        let device = self.devices().into_iter().next().unwrap_or_default();
        self.config.macs(height, width, &device.inner())
    }

    /// Position features `[1, C, height, width]` of an embedding's places; its longer side goes from 0 to 1, as that of the square
    /// in which SAM sees a picture.
    fn dense_position(&self, [height, width]: [usize; 2], device: &Device) -> Tensor<4> {
        let side = height.max(width) as f32;
        let mut unit = Vec::with_capacity(2 * height * width);
        for y in 0..height {
            for x in 0..width {
                unit.extend([(x as f32 + 0.5) / side, (y as f32 + 0.5) / side]);
            }
        }
        let unit = Tensor::<2>::from_data(TensorData::new(unit, [height * width, 2]), device);
        let features = self.prompt_encoder.pe_layer.forward(unit);
        let [_, dim] = features.dims();
        features.reshape([1, height, width, dim]).permute([0, 3, 1, 2])
    }

    /// Embedding `[batch, C, h, w]` to logits `[batch, channels, 4 h, 4 w]`.
    fn decode(&self, embedding: Tensor<4>) -> Tensor<4> {
        let [_, _, height, width] = embedding.dims();
        let position = match self.positional_encoder.as_ref().and_then(|peg| peg.proj.first()) {
            Some(proj) => conv2d(proj, embedding.clone()),
            None => self.dense_position([height, width], &embedding.device()),
        };
        self.mask_decoder.forward(embedding + self.prompt_encoder.no_mask(), position)
    }
}

impl Segmenter for SemanticModel {
    fn classes(&self) -> usize {
        self.config.classes
    }

    fn preprocess(&self) -> Preprocess {
        self.config.preprocess
    }

    /// The logits have a fourth of the embedding's stride: 2 pixels for GSAM, SAMUS and most convolutional encoders, 4 for the
    /// rest.
    fn logits(&self, pixels: Tensor<4>) -> Tensor<4> {
        let [_, _, height, width] = pixels.dims();
        let size = [height, width];
        let logits = match (&self.image_encoder, &self.config.sam.encoder) {
            (SemanticEncoder::Vit(encoder), EncoderConfig::Vit(config)) => {
                if self.config.method.is_stride_8() {
                    self.decode(encoder.forward(pixels))
                } else {
                    let padded = pad_to_multiple(pixels, config.patch);
                    cut(self.decode(encoder.forward(padded)), size, config.patch / 4)
                }
            }
            (SemanticEncoder::Conv(encoder), _) => {
                let padded = pad_to_multiple(pixels, encoder.multiple());
                cut(self.decode(encoder.forward(padded)), size, encoder.stride() / 4)
            }
            (SemanticEncoder::Vit(encoder), _) => self.decode(encoder.forward(pixels)),
        };
        if self.config.classes == 2 { Tensor::cat(vec![logits.zeros_like(), logits], 1) } else { logits }
    }
}
