//! The frozen base: a model of the Segment Anything family that nothing here ever changes.

use std::path::PathBuf;

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{Device, Tensor};
use kirie_sam::checkpoint::{self, KeyShape, StateDict, module_keys, state_dict_hash};
use kirie_sam::model::{Sam, SamConfig};
use kirie_sam::registry::{self, Preprocess};
use kirie_sam::{BurnEngine, Engine};
use serde::{Deserialize, Serialize};

use crate::encoder::{self, EncoderAdapter, Features};
use crate::error::ContinualError;

/// The base of a run: `[model]` of a configuration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BaseConfig {
    /// A model of `kirie models list`.
    pub name: String,
    /// Its weights; without them those in the program or fetched before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weights: Option<PathBuf>,
    /// Hash of those weights, which a run keeps so that it does not go on with others.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// Side of the encoder's input, pixels, instead of the registered one (not for a registered ViT).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub input: Option<u32>,
    /// Sizes in place of the registered ones, for a model that is not registered; the preprocessing is that of `name`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sizes: Option<SamConfig>,
}

impl BaseConfig {
    /// Side of the encoder's input, pixels.
    ///
    /// # Errors
    /// A name that is no model's.
    pub fn input_side(&self) -> Result<u32, ContinualError> {
        Ok(self.input.map_or_else(|| registry::variant(&self.name).map(|v| v.preprocess.size), Ok)?)
    }
}

impl Default for BaseConfig {
    fn default() -> Self {
        Self { name: "kirie-small".to_owned(), weights: None, sha256: None, input: None, sizes: None }
    }
}

/// A frozen model.
#[derive(Debug)]
pub struct Base {
    engine: BurnEngine,
    sizes: SamConfig,
    /// The same parameters where gradients are taken, asking for none themselves.
    tracked: Sam,
    hash: String,
    device: Device,
}

impl Base {
    /// The base of a configuration with opened weights, on the device without autodiff.
    ///
    /// # Errors
    /// Weights that are not the model's; another hash than the configuration names; sizes that do not fit together.
    pub fn new(config: &BaseConfig, weights: &StateDict, device: &Device) -> Result<Self, ContinualError> {
        let hash = state_dict_hash(weights)?;
        if let Some(expected) = config.sha256.as_ref().filter(|expected| **expected != hash) {
            return Err(ContinualError::WrongBase {
                path: weights.path().to_owned(),
                expected_name: config.name.clone(),
                expected: expected.clone(),
                found_name: config.name.clone(),
                found: hash,
            });
        }
        let variant = registry::variant(&config.name)?;
        let input = config.input_side()?;
        let preprocess = Preprocess { size: input, ..variant.preprocess };
        let registered = || variant.config().for_input(variant.preprocess.size, input);
        let sizes = config.sizes.clone().unwrap_or_else(registered);
        if let Err(reason) = sizes.check(input as usize) {
            return Err(ContinualError::setting(
                "model.sizes",
                reason,
                "sizes that fit together and the input",
            ));
        }
        // Loaded where gradients are taken, then frozen, so that batch norms keep to their running statistics.
        let tracking = device.clone().autodiff();
        let tracked = checkpoint::load(sizes.init(&tracking), weights, &config.name, &tracking)?;
        let tracked = tracked.freeze().train();
        let plain = tracked.valid();
        let engine = BurnEngine::assemble(config.name.clone(), preprocess, &sizes, plain, device);
        Ok(Self { engine, sizes, tracked, hash, device: device.clone() })
    }

    /// Runs it as it is.
    pub fn engine(&self) -> &BurnEngine {
        &self.engine
    }

    /// Its name.
    pub fn name(&self) -> &str {
        self.engine.model()
    }

    /// Its sizes.
    pub fn sizes(&self) -> &SamConfig {
        &self.sizes
    }

    /// [`state_dict_hash`] of its weights.
    pub fn hash(&self) -> &str {
        &self.hash
    }

    /// How pictures become its input.
    pub fn preprocess(&self) -> Preprocess {
        self.engine.preprocess()
    }

    /// Side of its low-resolution masks.
    pub fn mask_side(&self) -> usize {
        self.engine.mask_side()
    }

    /// Without autodiff.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Its parameters, for `tracked` where gradients are taken, otherwise without autodiff.
    pub fn sam(&self, tracked: bool) -> &Sam {
        if tracked { &self.tracked } else { self.engine.sam() }
    }

    /// What its encoder makes of `[batch, 3, size, size]`, with an adapter inside it or without; gradients are taken where the
    /// pixels' device takes them.
    pub fn encode(&self, pixels: Tensor<4>, adapter: Option<&EncoderAdapter>) -> Features {
        let sam = self.sam(pixels.device().is_autodiff());
        encoder::forward(&sam.image_encoder, adapter, pixels)
    }
}

/// How many numbers a module holds.
pub fn count_numbers<M: Module>(module: &M) -> usize {
    module_keys(module).iter().map(|KeyShape { shape, .. }| shape.iter().product::<usize>()).sum()
}

/// Makes all parameters of a module now, in the order of its fields, so that their random numbers depend on the device's seed
/// alone and not on who asks first.
pub(crate) fn made<M: Module>(module: M) -> M {
    struct Maker;
    impl ModuleVisitor for Maker {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let _ = param.val();
        }
    }
    module.visit(&mut Maker);
    module
}
