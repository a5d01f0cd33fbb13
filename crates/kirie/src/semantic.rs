//! Semantic models: from a configuration, or from what training left, to something that runs.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Context;
use burn::tensor::Device;
use kirie_data::create_parent;
use kirie_gsam::config::{TestConfig, TrainConfig};
use kirie_gsam::data::ClassList;
use kirie_gsam::model::method::Gsam;
use kirie_gsam::model::{
    AdapterInfo, MethodConfig, SemanticConfig, SemanticModel, adapter_info, load_adapter, save_adapter,
};
use kirie_sam::checkpoint::{FloatFormat, StateDict, state_dict_of, write_safetensors_to};
use kirie_sam::model::SamConfig;
use kirie_sam::registry;
use serde::{Deserialize, Serialize};

use crate::report;
use crate::weights::{self, DEFAULT_MODEL};

/// What `kirie train semantic` is told.
pub(crate) type Config = TrainConfig<ModelSettings>;

/// Says that a file holds a whole semantic model, in its metadata under `format`.
const MERGED_FORMAT: &str = "kirie-semantic-model-1";

/// The network: `[model]` of a configuration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct ModelSettings {
    /// The base, a model of `kirie models list`.
    pub(crate) base: String,
    /// Its weights; without them those in the program or fetched before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) weights: Option<PathBuf>,
    /// Their state-dict hash, which a run keeps so that it does not go on with others.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) base_sha256: Option<String>,
    /// How it is fine-tuned.
    pub(crate) method: MethodConfig,
    /// A ResNet-101 of torchvision, for the CNN branch of `gsam`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) cnn_weights: Option<PathBuf>,
    /// See `SemanticConfig::published_tokens`.
    pub(crate) published_tokens: bool,
    /// Sizes in place of the registered ones, for a base that is not registered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) sizes: Option<SamConfig>,
    /// Side of the encoder's input that `sizes` are made for, pixels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) input: Option<u32>,
}

impl Default for ModelSettings {
    fn default() -> Self {
        Self {
            base: DEFAULT_MODEL.to_owned(),
            weights: None,
            base_sha256: None,
            method: MethodConfig::Gsam(Gsam::default()),
            cnn_weights: None,
            published_tokens: false,
            sizes: None,
            input: None,
        }
    }
}

impl ModelSettings {
    /// Makes relative paths start from `base`.
    pub(crate) fn resolve(&mut self, base: &Path) {
        for path in self.weights.iter_mut().chain(&mut self.cnn_weights) {
            *path = base.join(&path);
        }
    }

    /// The network's configuration for so many classes.
    pub(crate) fn config(&self, classes: usize) -> anyhow::Result<SemanticConfig> {
        let variant = registry::variant(&self.base).context("model.base")?;
        let mut config = SemanticConfig::new(variant, classes, self.method.clone());
        config.published_tokens = self.published_tokens;
        match (&self.sizes, self.input) {
            (Some(sizes), input) => {
                config.sam = sizes.clone();
                config.preprocess.size = input.unwrap_or(config.preprocess.size);
                anyhow::ensure!(
                    self.weights.is_some(),
                    "model.sizes describes a base that is not registered, so model.weights has to say where its weights are"
                );
            }
            (None, Some(input)) => anyhow::bail!(
                "model.input is {input}, but there are no model.sizes that were made for it: a registered base has its own, and \
                 semantic models take pictures of any size (input.resize)"
            ),
            (None, None) => {}
        }
        config.check()?;
        Ok(config)
    }

    /// The weights of the base.
    pub(crate) fn open_base(&self) -> anyhow::Result<StateDict> {
        match &self.weights {
            Some(path) => Ok(StateDict::open(path)?),
            None => weights::at_hand(registry::variant(&self.base).context("model.base")?),
        }
    }
}

/// What an adapter file says beside its model: all that is needed to use it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Notes {
    /// Names and colours of the classes.
    pub(crate) classes: ClassList,
    /// The sets' classes that count as another.
    #[serde(default)]
    pub(crate) merge: BTreeMap<String, String>,
    /// How pictures are segmented if nobody says otherwise.
    #[serde(default)]
    pub(crate) test: TestConfig,
    /// Height and width of the training crops, if it was trained on crops.
    #[serde(default)]
    pub(crate) crop: Option<[u32; 2]>,
    /// Optimiser steps.
    #[serde(default)]
    pub(crate) steps: u64,
    /// mIoU of the best validation, 0 to 1.
    #[serde(default)]
    pub(crate) validation_miou: Option<f64>,
}

/// Writes what a model has learned.
pub(crate) fn save(path: &Path, model: &SemanticModel, base_hash: &str, notes: &Notes) -> anyhow::Result<()> {
    Ok(save_adapter(path, model, base_hash, &serde_json::to_string(notes)?)?)
}

/// A model with what it says of itself.
pub(crate) struct FineTuned {
    /// The network, without autodiff.
    pub(crate) model: SemanticModel,
    /// What it was made from.
    pub(crate) config: SemanticConfig,
    /// Classes and use.
    pub(crate) notes: Notes,
}

/// What a file of a semantic model says of itself.
pub(crate) struct Described {
    pub(crate) config: SemanticConfig,
    /// The hash of the base it belongs to; none if it holds all weights.
    pub(crate) base_hash: Option<String>,
    pub(crate) notes: Notes,
    pub(crate) tensors: usize,
    pub(crate) bytes: u64,
}

/// Whether a weight file is of a semantic model; a file that cannot be read is none.
pub(crate) fn is_semantic(path: &Path) -> bool {
    let format = StateDict::open(path).ok().and_then(|file| file.metadata().get("format").cloned());
    format.is_some_and(|format| format.starts_with("kirie-semantic"))
}

/// Reads the header of an adapter or a merged model.
pub(crate) fn describe(path: &Path) -> anyhow::Result<Described> {
    let file = StateDict::open(path)?;
    let bytes = std::fs::metadata(path).with_context(|| format!("{} cannot be read", path.display()))?.len();
    let tensors = file.keys().count();
    let (config, base_hash, classes) = if is_merged(&file) {
        let (config, classes) = merged_header(&file)?;
        (config, None, classes)
    } else {
        let AdapterInfo { config, base_hash, classes } = adapter_info(path)?;
        (config, Some(base_hash), classes)
    };
    Ok(Described { notes: notes(path, &classes, &config)?, config, base_hash, tensors, bytes })
}

/// Loads an adapter with its base, or a merged model.
pub(crate) fn load(path: &Path, base: Option<&Path>, device: &Device) -> anyhow::Result<FineTuned> {
    let file = StateDict::open(path)?;
    if is_merged(&file) {
        if let Some(base) = base {
            return Err(report::usage(format!(
                "{} holds all weights of its model; leave {} (--weights) out",
                path.display(),
                base.display()
            )));
        }
        let (config, classes) = merged_header(&file)?;
        let notes = notes(path, &classes, &config)?;
        let (model, found) = config.init_from(&file, device, 0)?;
        let other = found.fresh.first().or(found.adapted.first());
        anyhow::ensure!(other.is_none(), "{}: it lacks tensor {other:?} of its model", path.display());
        return Ok(FineTuned { model, config, notes });
    }
    let info = adapter_info(path)?;
    let base = if let Some(base) = base {
        StateDict::open(base)?
    } else {
        let variant = registry::variant(&info.config.base).ok();
        let variant = variant.filter(|variant| variant.config() == info.config.sam);
        let variant = variant.with_context(|| {
            format!(
                "{} belongs to a base that is not registered (`{}` with other sizes); --weights says where its weights are",
                path.display(),
                info.config.base
            )
        })?;
        weights::at_hand(variant)?
    };
    let notes = notes(path, &info.classes, &info.config)?;
    let (model, info) = load_adapter(path, &base, device)?;
    Ok(FineTuned { model, config: info.config, notes })
}

/// Writes a model whose changes are folded into its weights, as a file that needs no base.
pub(crate) fn save_merged(path: &Path, tuned: FineTuned) -> anyhow::Result<()> {
    let model = tuned.model.merged()?;
    let config = model.config();
    let metadata = BTreeMap::from([
        ("format".to_owned(), MERGED_FORMAT.to_owned()),
        ("model".to_owned(), config.base.clone()),
        ("config".to_owned(), serde_json::to_string(config)?),
        ("classes".to_owned(), serde_json::to_string(&tuned.notes)?),
    ]);
    create_parent(path)?;
    let tensors = state_dict_of(&model);
    kirie_data::write_atomic(path, |file| write_safetensors_to(file, &tensors, &metadata, FloatFormat::F32))?;
    Ok(())
}

fn is_merged(file: &StateDict) -> bool {
    file.metadata().get("format").is_some_and(|format| format == MERGED_FORMAT)
}

fn merged_header(file: &StateDict) -> anyhow::Result<(SemanticConfig, String)> {
    let name = file.path().display();
    let entry = |key: &str| {
        let value = file.metadata().get(key).cloned();
        value.with_context(|| format!("{name}: its metadata have no `{key}`"))
    };
    let config: SemanticConfig = serde_json::from_str(&entry("config")?)
        .map_err(|error| anyhow::anyhow!("{name}: its configuration cannot be read: {error}"))?;
    config.check().with_context(|| name.to_string())?;
    Ok((config, entry("classes")?))
}

fn notes(path: &Path, json: &str, config: &SemanticConfig) -> anyhow::Result<Notes> {
    let name = path.display();
    let notes: Notes = serde_json::from_str(json)
        .map_err(|error| anyhow::anyhow!("{name}: its list of classes cannot be read: {error}"))?;
    let (listed, own) = (notes.classes.len(), config.classes);
    anyhow::ensure!(listed == own, "{name}: it lists {listed} classes, but its model has {own}");
    Ok(notes)
}
