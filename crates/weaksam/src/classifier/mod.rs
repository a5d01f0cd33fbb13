//! The image-level classifier whose maps say where to ask SAM.
//!
//! ```text
//! picture -> patch_embed -> patch tokens + class tokens -> blocks -> head -> class activation maps
//!                                                             \-> attention of class tokens to patches
//! ```
//!
//! With blocks it is WeakTr's design ([`model`]); with `depth = 0` it is a plain CAM network, of which there are coarse maps only.

mod blocks;
pub mod maps;
pub mod model;
mod score;
pub mod train;
mod views;

use kirie_engine::Plan;
use kirie_engine::optim::{Adam, Clip, Group, OptimizerConfig, Rule};
use kirie_engine::schedule::{Decay, Schedule};
use kirie_run::config::over;
use kirie_sam::encoders::EfficientVitConfig;
use serde::{Deserialize, Deserializer, Serialize};

pub use maps::{ClassMaps, MapOptions, class_maps};
pub use model::{Answer, Classifier};
pub use score::{ClassifierScore, average_precision};
pub use train::{TrainedClassifier, load, run};
pub use views::Augment;

use crate::WeakError;

/// A classifier and its training: the table `classifier` of a configuration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ClassifierConfig {
    /// The network.
    pub model: ModelConfig,
    /// Strongest changes of a picture in training.
    pub augment: Augment,
    /// Pictures in a batch.
    pub batch: usize,
    /// One picture in so many, by a hash of its name, is not learned from but validated with; 0 for none.
    pub validate_one_in: u64,
    /// Steps, optimiser, schedule, checkpoints. A table need only say what differs from the default's.
    #[serde(deserialize_with = "partial_plan")]
    pub plan: Plan,
}

impl Default for ClassifierConfig {
    fn default() -> Self {
        Self {
            model: ModelConfig::default(),
            augment: Augment::default(),
            batch: 8,
            validate_one_in: 10,
            plan: default_plan(),
        }
    }
}

/// AdamW as WeakTr's; an encoder's weights learn more slowly than what is new, and its first stages stay as they are.
fn default_plan() -> Plan {
    let group = |name: &str, lr: f64, weight_decay: Option<f32>, frozen: bool| Group {
        name: name.to_owned(),
        lr,
        weight_decay,
        frozen,
    };
    Plan {
        steps: 400,
        accumulate: 1,
        optimizer: OptimizerConfig {
            rule: Rule::AdamW(Adam::default()),
            lr: 5e-4,
            weight_decay: 0.05,
            clip: Clip::Norm(1.0),
            groups: vec![
                group("norm|bias|cls_token|pos_embed", 1.0, Some(0.0), false),
                group("backbone", 0.2, None, false),
                group(r"backbone\.stages\.[01]\.", 1.0, None, true),
            ],
        },
        schedule: Schedule { warmup: 40, decay: Decay::Cosine { end: 0.02 } },
        average: None,
        log_every: 10,
        checkpoint_every: 50,
        keep: 2,
        validate_every: 100,
        workers: 1,
        activation_checkpointing: false,
    }
}

fn partial_plan<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Plan, D::Error> {
    over(&default_plan(), deserializer)
}

/// The network.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ModelConfig {
    /// From pixels to patch tokens.
    pub stem: StemConfig,
    /// Side that pictures are stretched to in training, pixels.
    pub input: u32,
    /// Width of the tokens.
    pub dim: usize,
    /// Transformer blocks; 0 for class activation maps alone.
    pub depth: usize,
    /// Heads of each block's attention.
    pub heads: usize,
}

impl Default for ModelConfig {
    fn default() -> Self {
        Self { stem: StemConfig::default(), input: 320, dim: 128, depth: 3, heads: 4 }
    }
}

/// From pixels to patch tokens.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum StemConfig {
    /// Squares of pixels and nothing before them, as DeiT's: needs many pictures, or weights that have seen many.
    Patches {
        /// Side of a square, pixels.
        size: usize,
    },
    /// The last two stages of a convolutional encoder that has learned from many pictures; the tokens lie 16 pixels apart.
    Encoder {
        /// A model of `kirie models list` with an EfficientViT encoder.
        base: String,
        /// Sizes in place of the registered ones, for a base that is not registered.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        sizes: Option<EfficientVitConfig>,
    },
}

impl Default for StemConfig {
    fn default() -> Self {
        Self::Encoder { base: "kirie-small".to_owned(), sizes: None }
    }
}

impl ClassifierConfig {
    /// Checks the numbers.
    ///
    /// # Errors
    /// [`WeakError::Setting`] for one out of its range.
    pub fn check(&self) -> Result<(), WeakError> {
        if self.batch == 0 {
            return Err(WeakError::setting("classifier.batch", 0, "1 or more"));
        }
        if self.validate_one_in == 1 {
            return Err(WeakError::setting("classifier.validate_one_in", 1, "0, or 2 and more"));
        }
        self.augment.check()?;
        self.model.check()?;
        Ok(self.plan.check()?)
    }
}

impl ModelConfig {
    /// Checks the numbers.
    ///
    /// # Errors
    /// [`WeakError::Setting`] for one out of its range.
    pub fn check(&self) -> Result<(), WeakError> {
        if !(16..=2048).contains(&self.dim) || self.heads == 0 || !self.dim.is_multiple_of(self.heads) {
            let found = format!("{} with {} heads", self.dim, self.heads);
            return Err(WeakError::setting(
                "classifier.model.dim",
                found,
                "16 to 2048, a multiple of the heads",
            ));
        }
        if self.depth > 64 {
            return Err(WeakError::setting("classifier.model.depth", self.depth, "0 to 64"));
        }
        let multiple = self.multiple()? as u32;
        if self.input < 2 * multiple || self.input > 2048 || !self.input.is_multiple_of(multiple) {
            let expected = format!("a multiple of {multiple} from {} to 2048", 2 * multiple);
            return Err(WeakError::setting("classifier.model.input", self.input, expected));
        }
        Ok(())
    }

    /// What the side of an input is a multiple of, pixels.
    pub(crate) fn multiple(&self) -> Result<usize, WeakError> {
        match &self.stem {
            StemConfig::Patches { size: size @ 2..=64 } => Ok(*size),
            StemConfig::Patches { size } => {
                Err(WeakError::setting("classifier.model.stem.size", size, "2 to 64"))
            }
            StemConfig::Encoder { .. } => Ok(1 << self.encoder()?.map_or(5, |sizes| sizes.stages.len())),
        }
    }

    /// Cells along a side of the input.
    pub(crate) fn grid(&self) -> Result<usize, WeakError> {
        let cell = match &self.stem {
            StemConfig::Patches { size } => *size,
            StemConfig::Encoder { .. } => self.multiple()? / 2,
        };
        Ok(self.input as usize / cell)
    }
}

#[cfg(test)]
mod tests;
