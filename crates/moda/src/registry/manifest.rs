//! What is known of a domain: as it is brought (`domain.toml`), and as the registry keeps it (`manifest.json`).

use std::collections::BTreeMap;
use std::path::Path;

use kirie_run::FileEntry;
use kirie_run::config;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::RegistryError;
use super::files::{check_file_name, check_name};

/// The file of a version that says what it is.
pub const MANIFEST: &str = "manifest.json";
const FORMAT: u32 = 1;

/// The model that adapters were made for. Those of another cannot work, so a registry holds adapters of one base only.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Base {
    /// Its name in `kirie models list`.
    pub model: String,
    /// SHA-256 of its weights in hexadecimal, as the adapters' maker computes it.
    pub sha256: String,
}

/// Where pictures of a domain were routed when it was added, on pictures held out for that.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Routing {
    /// Pictures by where they went: the name of a domain, or `base` where the router abstained.
    #[serde(default)]
    pub chosen: BTreeMap<String, u64>,
    /// IoU lost to routing: that of the right adapter less that of the chosen one, mean over pictures.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iou_lost: Option<f64>,
}

impl Routing {
    /// The name of the route past all adapters.
    pub const BASE: &str = "base";

    /// The share of pictures that went to the domain `name`; `None` where none was routed.
    pub fn accuracy(&self, name: &str) -> Option<f64> {
        self.share(name)
    }

    /// The share of pictures that the router left to the base model.
    pub fn abstained(&self) -> Option<f64> {
        self.share(Self::BASE)
    }

    fn share(&self, name: &str) -> Option<f64> {
        let all: u64 = self.chosen.values().sum();
        let those = self.chosen.get(name).copied().unwrap_or(0);
        (all > 0).then(|| those as f64 / all as f64)
    }
}

/// What whoever made an adapter says of it: the file `domain.toml` beside the payload.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Description {
    /// The domain's name: ASCII letters, digits, `.`, `_`, `-`, not first a dot.
    pub name: String,
    /// What the adapter is: `lora`, `decoder`, ...
    pub kind: String,
    /// For people.
    #[serde(default)]
    pub description: String,
    /// The model it was made for.
    pub base: Base,
    /// How it was trained: anything.
    #[serde(default)]
    pub training: Map<String, Value>,
    /// Figures on held-out pictures, by name, such as `iou`.
    #[serde(default)]
    pub scores: BTreeMap<String, f64>,
    /// Where its pictures are routed.
    #[serde(default)]
    pub routing: Routing,
}

impl Description {
    /// Reads a `domain.toml`.
    ///
    /// # Errors
    /// With file and line, if it is not as expected; [`RegistryError::Name`].
    pub fn read(path: &Path) -> Result<Self, RegistryError> {
        let description = config::load::<Self>(Some(path), &[])?.value;
        let wrong = |reason: String| RegistryError::Package { path: path.to_owned(), reason };
        description.check().map_err(wrong)?;
        check_name(&description.name)?;
        Ok(description)
    }

    /// Writes a `domain.toml`, whole or not at all.
    ///
    /// # Errors
    /// If it is not as expected, or cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), RegistryError> {
        let wrong = |reason: String| RegistryError::Package { path: path.to_owned(), reason };
        check_name(&self.name)?;
        self.check().map_err(wrong)?;
        let text = config::to_toml(self)?;
        Ok(kirie_data::write_atomic(path, |file| file.write_all(text.as_bytes()))?)
    }

    fn check(&self) -> Result<(), String> {
        if self.kind.is_empty() {
            return Err("kind is empty, expected what the adapter is, such as \"lora\"".to_owned());
        }
        if self.base.model.is_empty() || self.base.sha256.is_empty() {
            return Err(
                "base.model or base.sha256 is empty, expected the model that the adapter was made for"
                    .to_owned(),
            );
        }
        match self.scores.iter().find(|(_, score)| !score.is_finite()) {
            Some((name, score)) => Err(format!("scores.{name} is {score}, expected a finite number")),
            None => Ok(()),
        }
    }
}

/// What the registry knows of a version of a domain. It never changes.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    format: u32,
    /// The domain's name.
    pub name: String,
    /// Counted from 1.
    pub version: u32,
    /// When it was added to the first registry it was in, UTC.
    pub created: String,
    /// What the adapter is.
    pub kind: String,
    /// For people.
    pub description: String,
    /// The model it was made for.
    pub base: Base,
    /// How it was trained.
    pub training: Map<String, Value>,
    /// Figures on held-out pictures, by name.
    pub scores: BTreeMap<String, f64>,
    /// Where its pictures were routed when it was added.
    pub routing: Routing,
    /// The payload.
    pub files: Vec<FileEntry>,
}

impl Manifest {
    pub(super) fn new(
        description: Description,
        version: u32,
        created: String,
        files: Vec<FileEntry>,
    ) -> Self {
        let Description { name, kind, description, base, training, scores, routing } = description;
        Self {
            format: FORMAT,
            name,
            version,
            created,
            kind,
            description,
            base,
            training,
            scores,
            routing,
            files,
        }
    }

    pub(super) fn parse(bytes: &[u8]) -> Result<Self, String> {
        let manifest: Self = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        if manifest.format != FORMAT {
            return Err(format!("is of format {}, this program knows {FORMAT}", manifest.format));
        }
        // Names become paths.
        check_name(&manifest.name).map_err(|error| error.to_string())?;
        for file in &manifest.files {
            check_file_name(&file.name).map_err(|error| error.to_string())?;
        }
        Ok(manifest)
    }

    /// What its maker said of it.
    pub(super) fn description(&self) -> Description {
        Description {
            name: self.name.clone(),
            kind: self.kind.clone(),
            description: self.description.clone(),
            base: self.base.clone(),
            training: self.training.clone(),
            scores: self.scores.clone(),
            routing: self.routing.clone(),
        }
    }

    /// Bytes of the payload.
    pub fn size(&self) -> u64 {
        self.files.iter().map(|file| file.size).sum()
    }
}
