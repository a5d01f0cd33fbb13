//! Encoders from and to files.
//!
//! A ResNet is written with torchvision's names. It is read from files of torchvision, of this program, and of the toolkits that put
//! a prefix before those names (lightly, solo-learn, MoCo, DINO, VISSL), or number the layers (the SAMCLR authors' code).
//!
//! The image encoder of a SAM-family model is read from and written as a whole model, so that every other command takes the file.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;

use burn::tensor::Device;
use kirie_sam::HostTensor;
use kirie_sam::checkpoint::{StateDict, load, model_metadata, module_keys, state_dict_of, write_safetensors};
use kirie_sam::registry::{Variant, variant};

use super::encoder::{Encoder, EncoderSpec, SamFeatures};
use super::make;
use crate::config::{BUILT_IN, EncoderConfig};
use crate::error::ContrastiveError;

/// What other toolkits put before the names, the longer of two that fit first.
const PREFIXES: [&str; 14] = [
    "model.backbone.",
    "module.encoder_q.",
    "module.base_encoder.",
    "module.backbone.",
    "_feature_blocks.",
    "online.encoder.",
    "student.backbone.",
    "teacher.backbone.",
    "teacher.",
    "encoder_q.",
    "backbone.",
    "encoder.",
    "module.",
    "",
];
/// Numbers of the SAMCLR authors' code, whose ResNet is a plain sequence.
const NUMBERED: [(&str, &str); 6] = [
    ("0.", "conv1."),
    ("1.", "bn1."),
    ("4.", "layer1."),
    ("5.", "layer2."),
    ("6.", "layer3."),
    ("7.", "layer4."),
];

/// Weights of an encoder.
#[derive(Debug)]
pub struct EncoderFile {
    weights: StateDict,
}

impl EncoderFile {
    /// Opens a file; [`BUILT_IN`] are the weights inside the program of the model that `config` names.
    ///
    /// # Errors
    /// Files that cannot be read, and models without weights in the program.
    pub fn open(path: &Path, config: &EncoderConfig) -> Result<Self, ContrastiveError> {
        let built_in = match config {
            EncoderConfig::Sam(sam) if path.as_os_str() == BUILT_IN => variant(&sam.model)?.built_in,
            _ => None,
        };
        let weights = match built_in {
            Some(bytes) => StateDict::from_gzip(BUILT_IN, bytes)?,
            None if path.as_os_str() == BUILT_IN => {
                let reason = "this build has no weights for that encoder in it".to_owned();
                return Err(ContrastiveError::Init { path: BUILT_IN.to_owned(), reason });
            }
            None => StateDict::open(path)?,
        };
        Ok(Self { weights })
    }

    /// What the file says about itself.
    pub fn metadata(&self, key: &str) -> Option<&str> {
        self.weights.metadata().get(key).map(String::as_str)
    }

    /// Gives an encoder the weights of the file; what the file has beside is left.
    ///
    /// # Errors
    /// If it lacks a tensor, or one has another shape; the error names them.
    pub fn load_into(self, encoder: Encoder, device: &Device) -> Result<Encoder, ContrastiveError> {
        let wanted: HashSet<String> = module_keys(&encoder).into_iter().map(|entry| entry.key).collect();
        let weights = match &encoder {
            Encoder::Resnet(_) => {
                let (prefix, numbered) = resnet_form(&self.weights);
                self.weights.renamed(|key| torchvision_name(key, prefix, numbered))
            }
            Encoder::Sam(_) => self.weights,
        };
        let weights = weights.renamed(|key| wanted.contains(key).then(|| key.to_owned()));
        Ok(load(encoder, &weights, "the encoder", device)?)
    }
}

/// What stands before torchvision's names in a file, and whether layers are numbered.
fn resnet_form(weights: &StateDict) -> (&'static str, bool) {
    let forms = PREFIXES.into_iter().flat_map(|prefix| [(prefix, false), (prefix, true)]);
    let fits = |(prefix, numbered): &(&str, bool)| {
        weights
            .keys()
            .any(|key| torchvision_name(key, prefix, *numbered).is_some_and(|name| name == "conv1.weight"))
    };
    forms.into_iter().find(fits).unwrap_or(("", false))
}

fn torchvision_name(key: &str, prefix: &str, numbered: bool) -> Option<String> {
    let rest = key.strip_prefix(prefix)?;
    if !numbered {
        return Some(rest.to_owned());
    }
    NUMBERED.iter().find_map(|(number, name)| Some(format!("{name}{}", rest.strip_prefix(number)?)))
}

/// Writes an encoder, `encoder` being without autodiff: a ResNet with torchvision's names; a SAM-family encoder as a whole model, the
/// rest of which is that of the file it began with, or random by the seed.
///
/// # Errors
/// Files that cannot be read or written.
pub fn save_encoder(
    path: &Path,
    encoder: &Encoder,
    config: &EncoderConfig,
    notes: &BTreeMap<String, String>,
    seed: u64,
    device: &Device,
) -> Result<(), ContrastiveError> {
    let (tensors, mut metadata) = match (encoder, EncoderSpec::new(config)?) {
        (Encoder::Sam(features), EncoderSpec::Sam(variant)) => {
            let init = match config {
                EncoderConfig::Sam(sam) => sam.init.as_deref(),
                EncoderConfig::Resnet(_) => None,
            };
            (whole_model(features, variant, init, config, seed, device)?, model_metadata(variant))
        }
        _ => (state_dict_of(encoder), BTreeMap::from([("format".to_owned(), "pt".to_owned())])),
    };
    metadata.extend(notes.iter().map(|(key, value)| (key.clone(), value.clone())));
    Ok(write_safetensors(path, &tensors, &metadata)?)
}

fn whole_model(
    features: &SamFeatures,
    variant: &Variant,
    init: Option<&Path>,
    config: &EncoderConfig,
    seed: u64,
    device: &Device,
) -> Result<Vec<(String, HostTensor)>, ContrastiveError> {
    let mut model = variant.config().init(device);
    match init {
        Some(path) => {
            let file = EncoderFile::open(path, config)?;
            model = load(model, &file.weights, variant.name, device)?;
        }
        None => make(&model, device, seed),
    }
    model.image_encoder = features.image_encoder.clone();
    Ok(state_dict_of(&model))
}
