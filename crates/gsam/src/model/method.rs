//! The ways to fine-tune, and what each of them trains.

use kirie_sam::encoders::EncoderConfig;
use regex::Regex;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::ModelError;

/// Which parameters are trained and what is added to the network for it. One key of a configuration, `name`, chooses; every
/// option has a default.
///
/// | name | what is trained beside the class decoder | encoders |
/// | --- | --- | --- |
/// | `decoder-only` | nothing | all |
/// | `full` | the encoder | all |
/// | `lora` | low-rank additions to chosen weights | all |
/// | `lora-gsam` | low-rank changes of each head's activations | ViT |
/// | `conv-lora` | the same with convolutions between | ViT |
/// | `adapt-former` | bottlenecks beside the MLPs (convolutional encoders: after the blocks) | all |
/// | `samus` | CNN branch, cross attention, bottlenecks, at stride 8 | ViT |
/// | `gsam` | CNN branch, multi-scale bottlenecks, position generators, at stride 8 (convolutional encoders: the latter two) | all |
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "kebab-case", deny_unknown_fields)]
pub enum MethodConfig {
    /// Only the class decoder.
    DecoderOnly {},
    /// Encoder and class decoder; the prompt encoder stays, since no prompt is given.
    Full {},
    /// Standard LoRA.
    Lora(Lora),
    /// LoRA as G-SAM's repository has it.
    LoraGsam(LoraGsam),
    /// ConvLoRA as G-SAM's repository has it.
    ConvLora(ConvLora),
    /// AdaptFormer.
    AdaptFormer(AdaptFormer),
    /// SAMUS.
    Samus(Samus),
    /// GSAM.
    Gsam(Gsam),
}

/// Standard LoRA: `W + alpha / rank * B A`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Lora {
    /// Width of the two matrices.
    pub rank: usize,
    /// Numerator of the scale.
    pub alpha: f64,
    /// Regular expression on state-dict names: the weights (of linear layers and convolutions) to change. Without it: the
    /// queries' and values' rows of every `qkv` of a ViT; of a convolutional encoder all 1x1 convolutions of its attention and
    /// MBConv blocks, but for the grouped ones, which are thin already.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub targets: Option<String>,
    /// Of a joint `qkv` projection of a ViT, which thirds are changed, out of `q`, `k`, `v`; each has matrices of its own.
    pub qkv: String,
}

impl Default for Lora {
    /// SAMed's: rank 4 without a scale, queries and values.
    fn default() -> Self {
        Self { rank: 4, alpha: 4.0, targets: None, qkv: "qv".to_owned() }
    }
}

/// LoRA on each head's activations.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LoraGsam {
    /// Width between over the width of a head.
    pub ratio: f64,
    /// The change is multiplied by this over the width between.
    pub scale: f64,
}

impl Default for LoraGsam {
    fn default() -> Self {
        Self { ratio: 0.25, scale: 0.5 }
    }
}

/// ConvLoRA on each head's activations.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ConvLora {
    /// Width between over the width of a head.
    pub ratio: f64,
    /// The change is multiplied by this over the width between.
    pub scale: f64,
    /// Number of experts, expert `s` at `s` times the size.
    pub experts: usize,
}

impl Default for ConvLora {
    fn default() -> Self {
        Self { ratio: 0.25, scale: 0.5, experts: 4 }
    }
}

/// Activation of an adapter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AdapterActivation {
    /// GELU by the error function.
    Gelu,
    /// `max(x, 0)`.
    Relu,
}

impl From<AdapterActivation> for kirie_nn::Activation {
    fn from(activation: AdapterActivation) -> Self {
        match activation {
            AdapterActivation::Gelu => Self::Gelu,
            AdapterActivation::Relu => Self::Relu,
        }
    }
}

/// Where an adapter beside an MLP takes its input.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AdapterInput {
    /// After the norm, as the MLP does (G-SAM's repository).
    Normed,
    /// Before the norm (AdaptFormer's own code).
    Residual,
}

/// AdaptFormer; the defaults are those of G-SAM's repository.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AdaptFormer {
    /// Width between; without it a quarter of the block's width.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hidden: Option<usize>,
    /// Activation between.
    pub activation: AdapterActivation,
    /// What the adapter's output is multiplied by.
    pub scale: f64,
    /// Where it takes its input (ViT).
    pub input: AdapterInput,
    /// Begin with an output of zero. Convolutional encoders always do.
    pub zero: bool,
}

impl Default for AdaptFormer {
    fn default() -> Self {
        Self {
            hidden: None,
            activation: AdapterActivation::Gelu,
            scale: 0.5,
            input: AdapterInput::Normed,
            zero: false,
        }
    }
}

impl AdaptFormer {
    /// AdaptFormer as its authors' code has it, but for the dropout of 0.1 inside.
    pub fn original() -> Self {
        Self {
            hidden: Some(64),
            activation: AdapterActivation::Relu,
            scale: 0.1,
            input: AdapterInput::Residual,
            zero: true,
        }
    }
}

/// SAMUS.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Samus {
    /// Leave the class decoder as it was initialised, as the published code does. With more than two classes that means tokens that
    /// never learn, the likely reason for its published scores there.
    pub published: bool,
}

/// The CNN branch of GSAM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CnnBranch {
    /// ResNet-101 up to its third stage, without its max-pool; meant to begin with ImageNet weights.
    Resnet101,
    /// Three strided convolutions; meant for training from random numbers on little data.
    Light,
}

/// GSAM. On convolutional encoders `pooled` and `cnn` have no meaning: there is neither attention to pool for nor need of a second
/// CNN.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Gsam {
    /// Dilations of the multi-scale adapters, in tokens of 8 pixels. On a convolutional encoder, whose stages have other strides,
    /// they are converted so that they reach as far in the picture.
    pub dilations: Vec<usize>,
    /// What the adapters' output, and the CNN branch's, are multiplied by.
    pub scale: f64,
    /// Train the position generator of the encoder. In the published code it stays at its random beginning, by a misspelt name.
    pub train_peg: bool,
    /// Side of the grid that keys and values are averaged to in each window; 0 (or `None`): they are not.
    #[serde(with = "zero_is_none")]
    pub pooled: Option<usize>,
    /// The CNN branch.
    pub cnn: CnnBranch,
    /// Begin with zero beside the centre of the dilated convolutions. What a training crop is too small to reach would keep its random
    /// numbers and disturb larger pictures. The published code does not.
    pub zero_taps: bool,
}

impl Default for Gsam {
    fn default() -> Self {
        Self {
            dilations: vec![12, 24, 36],
            scale: 0.5,
            train_peg: true,
            pooled: Some(3),
            cnn: CnnBranch::Resnet101,
            zero_taps: true,
        }
    }
}

impl Gsam {
    /// As the published code has it.
    pub fn published() -> Self {
        Self { train_peg: false, zero_taps: false, ..Self::default() }
    }
}

/// TOML has no null.
mod zero_is_none {
    use super::{Deserialize, Deserializer, Serializer};

    #[allow(clippy::ref_option, reason = "what serde asks for")]
    pub(super) fn serialize<S: Serializer>(value: &Option<usize>, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_u64(value.unwrap_or(0) as u64)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<usize>, D::Error> {
        Ok(Option::<usize>::deserialize(from)?.filter(|value| *value > 0))
    }
}

/// The names of all methods.
pub const METHODS: [&str; 8] =
    ["decoder-only", "full", "lora", "lora-gsam", "conv-lora", "adapt-former", "samus", "gsam"];

const VIT: &str = "the ViT encoders (sam-vit-b, sam-vit-l, sam-vit-h)";
const BOTH: &str =
    "the ViT encoders (sam-vit-*) and the convolutional ones (kirie-small, efficientvit-sam-*)";

impl MethodConfig {
    /// The method of a name with its defaults.
    pub fn named(name: &str) -> Result<Self, ModelError> {
        Ok(match name {
            "decoder-only" => Self::DecoderOnly {},
            "full" => Self::Full {},
            "lora" => Self::Lora(Lora::default()),
            "lora-gsam" => Self::LoraGsam(LoraGsam::default()),
            "conv-lora" => Self::ConvLora(ConvLora::default()),
            "adapt-former" => Self::AdaptFormer(AdaptFormer::default()),
            "samus" => Self::Samus(Samus::default()),
            "gsam" => Self::Gsam(Gsam::default()),
            _ => {
                let expected = format!("one of {}", METHODS.join(", "));
                return Err(ModelError::Setting { name: "method.name", found: name.to_owned(), expected });
            }
        })
    }

    /// The name that [`Self::named`] takes.
    pub fn name(&self) -> &'static str {
        match self {
            Self::DecoderOnly {} => "decoder-only",
            Self::Full {} => "full",
            Self::Lora(_) => "lora",
            Self::LoraGsam(_) => "lora-gsam",
            Self::ConvLora(_) => "conv-lora",
            Self::AdaptFormer(_) => "adapt-former",
            Self::Samus(_) => "samus",
            Self::Gsam(_) => "gsam",
        }
    }

    /// Whether the tokens lie 8 pixels apart, not 16 (ViT).
    pub(super) fn is_stride_8(&self) -> bool {
        matches!(self, Self::Samus(_) | Self::Gsam(_))
    }

    /// Checks the options, and that the method is made for the encoder.
    pub fn check(&self, encoder: &EncoderConfig) -> Result<(), ModelError> {
        let setting = |name, found: String, expected: &str| {
            Err(ModelError::Setting { name, found, expected: expected.to_owned() })
        };
        let convolutional = match encoder {
            EncoderConfig::Vit(_) => false,
            EncoderConfig::EfficientVit(_) => true,
            EncoderConfig::TinyVit(_) => {
                return Err(ModelError::NoMethod { encoder: "TinyViT encoders", works_with: BOTH });
            }
        };
        if convolutional && matches!(self, Self::LoraGsam(_) | Self::ConvLora(_) | Self::Samus(_)) {
            let encoder = "convolutional encoders";
            return Err(ModelError::Encoder { method: self.name(), encoder, works_with: VIT });
        }
        let finite = |name, value: f64| {
            if value.is_finite() && value > 0.0 {
                Ok(())
            } else {
                setting(name, value.to_string(), "a number above 0")
            }
        };
        match self {
            Self::DecoderOnly {} | Self::Full {} | Self::Samus(_) => {}
            Self::Lora(lora) => {
                if !(1..=1024).contains(&lora.rank) {
                    return setting("method.rank", lora.rank.to_string(), "1 to 1024");
                }
                finite("method.alpha", lora.alpha)?;
                if let Some(expression) = &lora.targets
                    && let Err(error) = Regex::new(expression)
                {
                    let expected = format!("a regular expression ({error})");
                    return setting("method.targets", expression.clone(), &expected);
                }
                if lora.qkv.is_empty() || lora.qkv.chars().any(|c| !"qkv".contains(c)) {
                    return setting("method.qkv", format!("`{}`", lora.qkv), "one or more of q, k, v");
                }
            }
            Self::LoraGsam(LoraGsam { ratio, scale }) | Self::ConvLora(ConvLora { ratio, scale, .. }) => {
                finite("method.scale", *scale)?;
                if !(*ratio > 0.0 && *ratio <= 1.0) {
                    return setting("method.ratio", ratio.to_string(), "above 0, at most 1");
                }
                if let Self::ConvLora(ConvLora { experts, .. }) = self
                    && !(1..=8).contains(experts)
                {
                    return setting("method.experts", experts.to_string(), "1 to 8");
                }
            }
            Self::AdaptFormer(adapter) => {
                finite("method.scale", adapter.scale)?;
                if adapter.hidden == Some(0) {
                    return setting("method.hidden", "0".to_owned(), "1 or more");
                }
            }
            Self::Gsam(gsam) => {
                finite("method.scale", gsam.scale)?;
                if let Some(zero) = gsam.dilations.iter().find(|d| !(1..=1024).contains(*d)) {
                    return setting("method.dilations", zero.to_string(), "1 to 1024");
                }
                if let Some(side) = gsam.pooled.filter(|side| *side > 64) {
                    return setting("method.pooled", side.to_string(), "at most 64");
                }
            }
        }
        Ok(())
    }

    /// Whether the class decoder learns.
    pub(super) fn trains_decoder(&self) -> bool {
        !matches!(self, Self::Samus(Samus { published: true }))
    }

    /// Whether a parameter outside the class decoder is trained, told by its state-dict name. `global` are the indices of the
    /// blocks that attend over the whole picture.
    pub(super) fn trains(&self, key: &str, global: &[usize]) -> bool {
        let Some(key) = key.strip_prefix("image_encoder.") else {
            return matches!(self, Self::Gsam(_)) && key.starts_with("positional_encoder.");
        };
        let part = |name: &str| key.split('.').any(|segment| segment == name);
        let global_position = || {
            (part("rel_pos_h") || part("rel_pos_w"))
                && key.split('.').nth(1).and_then(|i| i.parse().ok()).is_some_and(|i| global.contains(&i))
        };
        match self {
            Self::DecoderOnly {} => false,
            Self::Full {} => true,
            Self::Lora(_) => part("lora"),
            Self::LoraGsam(_) | Self::ConvLora(_) => ["lora_q", "lora_k", "lora_v"].into_iter().any(part),
            Self::AdaptFormer(_) => part("MLP_Adapter"),
            Self::Samus(_) => {
                let added = ["cnn_embed", "post_pos_embed", "input_Adapter"];
                let in_blocks = ["Space_Adapter", "refine", "MLP_Adapter"];
                added.into_iter().chain(in_blocks).any(part) || global_position()
            }
            Self::Gsam(gsam) => {
                let added = ["cnn_embed", "input_Adapter", "MLP_Adapter", "refine_Adapter"];
                added.into_iter().any(part)
                    || global_position()
                    || (gsam.train_peg && key.starts_with("pos_embed.conv."))
            }
        }
    }
}
