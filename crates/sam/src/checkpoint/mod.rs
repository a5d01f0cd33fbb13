//! Weights from and to files, with the reference's state-dict names.
//!
//! Read: `.pt` / `.pth` as PyTorch writes them (no code of the file is ever run; a file that names anything but
//! tensors and plain containers is refused) and `.safetensors`. Written: `.safetensors`.
//!
//! Loading is strict: the file must hold exactly the model's keys with the model's shapes.

mod keys;
mod pickle;
mod state_dict;

pub use keys::{KeyPath, KeyShape, module_keys, transpose};
pub use state_dict::{
    FloatFormat, StateDict, state_dict_hash, state_dict_of, write_safetensors, write_safetensors_to,
};

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::path::PathBuf;

use burn::module::Module;
use burn::tensor::Device;
use thiserror::Error;

use crate::model::SamConfig;
use crate::registry::{Preprocess, Variant};

/// What can go wrong with a weight file.
#[derive(Debug, Error)]
pub enum CheckpointError {
    /// The file could not be read.
    #[error("cannot read {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not what its kind should be.
    #[error("{} is not a readable file of tensors: {reason}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What was found.
        reason: String,
    },
    /// The pickle inside a `.pt` names something that is not a tensor or a plain container.
    #[error(
        "{} is refused: the file asks Python for `{global}`, which could run code. \
         Only tensors and plain containers are read. If you trust the file, save its state dict alone in Python: \
         torch.save(model.state_dict(), \"weights.pt\")",
        path.display()
    )]
    Unsafe {
        /// The file.
        path: PathBuf,
        /// The name it asks for.
        global: String,
    },
    /// Keys or shapes are not the model's.
    #[error("weights {} do not fit {model}: {mismatch}", path.display())]
    Mismatch {
        /// The file.
        path: PathBuf,
        /// The model they were meant for.
        model: String,
        /// How they differ.
        mismatch: Box<Mismatch>,
    },
    /// The file could not be written.
    #[error(transparent)]
    Write(#[from] kirie_data::DataError),
}

/// How a checkpoint differs from the model it was meant for.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Mismatch {
    /// Keys of the model that the file lacks.
    pub missing: Vec<String>,
    /// Keys of the file that the model lacks.
    pub unexpected: Vec<String>,
    /// Keys of both with the model's shape and the file's.
    pub wrong_shape: Vec<(String, Vec<usize>, Vec<usize>)>,
    /// A registered model that the file does fit.
    pub fits: Option<&'static str>,
}

impl Mismatch {
    /// Whether there is no difference.
    pub fn is_empty(&self) -> bool {
        self.missing.is_empty() && self.unexpected.is_empty() && self.wrong_shape.is_empty()
    }
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 8;
        let list = |f: &mut fmt::Formatter<'_>, what: &str, items: Vec<String>| {
            if items.is_empty() {
                return Ok(());
            }
            write!(f, "\n  {} {what}: {}", items.len(), items[..items.len().min(SHOWN)].join(", "))?;
            if items.len() > SHOWN { write!(f, ", and {} more", items.len() - SHOWN) } else { Ok(()) }
        };
        if let Some(name) = self.fits {
            return write!(f, "these are the weights of {name}; name that model, or none");
        }
        write!(
            f,
            "{} keys missing, {} unexpected, {} of the wrong shape",
            self.missing.len(),
            self.unexpected.len(),
            self.wrong_shape.len()
        )?;
        list(f, "missing", self.missing.clone())?;
        list(f, "unexpected", self.unexpected.clone())?;
        let shapes = self
            .wrong_shape
            .iter()
            .map(|(key, expected, found)| format!("{key} (expected {expected:?}, found {found:?})"));
        list(f, "of the wrong shape", shapes.collect())
    }
}

/// Compares the keys of a file with those of a module; empty if they agree.
pub fn compare(expected: &[KeyShape], found: &StateDict) -> Mismatch {
    let mut mismatch = Mismatch::default();
    for entry in expected {
        match found.shape(&entry.key) {
            Some(shape) if shape == entry.shape => {}
            Some(shape) => {
                mismatch.wrong_shape.push((entry.key.clone(), entry.shape.clone(), shape.to_vec()));
            }
            None if entry.optional => {}
            None => mismatch.missing.push(entry.key.clone()),
        }
    }
    let known: HashSet<&str> = expected.iter().map(|e| e.key.as_str()).collect();
    mismatch.unexpected = found.keys().filter(|key| !known.contains(key)).map(str::to_owned).collect();
    mismatch
}

/// What a safetensors file of a registered model says about itself: name, sizes and preprocessing, the latter two as JSON.
pub fn model_metadata(variant: &Variant) -> BTreeMap<String, String> {
    metadata(variant.name, variant.licence, &variant.config(), &variant.preprocess)
}

/// The same for a model that need not be registered.
pub fn metadata(
    name: &str,
    licence: &str,
    sizes: &SamConfig,
    preprocess: &Preprocess,
) -> BTreeMap<String, String> {
    let json = |value: serde_json::Result<String>| value.unwrap_or_default();
    BTreeMap::from([
        ("format".to_owned(), "pt".to_owned()),
        ("model".to_owned(), name.to_owned()),
        ("licence".to_owned(), licence.to_owned()),
        ("config".to_owned(), json(serde_json::to_string(sizes))),
        ("preprocess".to_owned(), json(serde_json::to_string(preprocess))),
    ])
}

/// What a file that kirie wrote says of its model; see [`metadata`].
#[derive(Clone, Debug, PartialEq)]
pub struct Description {
    /// The registered model that it is, or that lends it a name and preprocessing.
    pub model: String,
    /// Its sizes.
    pub sizes: SamConfig,
    /// How pictures become its input.
    pub preprocess: Preprocess,
}

impl Description {
    /// The largest input that a description may ask for, pixels.
    const LARGEST_INPUT: u32 = 4096;

    /// That of a file; `None` where it says nothing, or nothing that could be a model: then its tensors alone say what it is.
    pub fn of(weights: &StateDict) -> Option<Self> {
        let said = weights.metadata();
        let sizes: SamConfig = serde_json::from_str(said.get("config")?).ok()?;
        let preprocess: Preprocess = serde_json::from_str(said.get("preprocess")?).ok()?;
        let sensible =
            preprocess.size <= Self::LARGEST_INPUT && sizes.check(preprocess.size as usize).is_ok();
        sensible.then(|| Self { model: said.get("model").cloned().unwrap_or_default(), sizes, preprocess })
    }
}

/// Fills a module with the weights of a file. `model` is its name, for the error.
pub fn load<M: Module>(
    module: M,
    weights: &StateDict,
    model: &str,
    device: &Device,
) -> Result<M, CheckpointError> {
    let mismatch = compare(&module_keys(&module), weights);
    if !mismatch.is_empty() {
        return Err(CheckpointError::Mismatch {
            path: weights.path().to_owned(),
            model: model.to_owned(),
            mismatch: Box::new(mismatch),
        });
    }
    keys::apply(module, weights, device)
}
