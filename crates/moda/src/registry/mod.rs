//! Adapters of domains on disk, for an operator to live with.
//!
//! ```text
//! REGISTRY/
//! ├── current.json                 which index counts, with its SHA-256: the one file that is ever replaced
//! ├── indexes/000007.json          the domains in their order, each with its version and whether it is enabled
//! ├── domains/NAME/v2/
//! │   ├── manifest.json            base model, training, scores; name, size and SHA-256 of every other file
//! │   └── adapter.safetensors ...  the payload, opaque here
//! └── .lock                        held by the process that changes something
//! ```
//!
//! Whatever is changed, new files are written aside and brought to the disk first; then `current.json` takes its new content
//! in one renaming. Files of a version, and indexes, are never touched again. So
//!
//! - a process that is killed anywhere leaves the registry as it was, and at most files that no index names ([`Writer::collect`]
//!   removes them when asked);
//! - a reader sees what was before or what is after, never a mix, and needs no lock;
//! - every earlier state can be had back ([`Writer::roll_back_to`]), by writing its list as a new index: nothing is lost by
//!   rolling back either.
//!
//! [`Registry`] reads, [`Writer`] changes. [`Registry::live`] is what a program that answers pictures wants: the enabled
//! domains whose files are as they were written, in their order, and by name those that are not.

mod change;
mod error;
mod files;
mod index;
mod manifest;
mod package;
mod page;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

pub use change::{AddOptions, Added, Collected, Verified, Writer};
pub use error::RegistryError;
pub use index::{Entry, Index};
pub use manifest::{Base, Description, MANIFEST, Manifest, Routing};
pub use package::{DESCRIPTION, Package};
pub use page::{domain_page, registry_page};

use files::version_of;
use index::{CURRENT, INDEXES, index_name};

/// A registry, to be read.
#[derive(Clone, Debug)]
pub struct Registry {
    path: PathBuf,
}

/// The domains that pictures may be routed to.
#[derive(Clone, Debug)]
pub struct Live {
    /// The index they are of.
    pub index: Index,
    /// Enabled and intact, in the index's order.
    pub domains: Vec<LiveDomain>,
    /// Enabled, but with files that are not as they were written: name, and what is wrong.
    pub damaged: Vec<(String, String)>,
}

/// A domain whose files are as they were written.
#[derive(Clone, Debug)]
pub struct LiveDomain {
    /// What is known of it.
    pub manifest: Manifest,
    /// Where its files are.
    pub folder: PathBuf,
}

impl Registry {
    /// Opens a registry.
    ///
    /// # Errors
    /// [`RegistryError::None`] if there is none.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, RegistryError> {
        let registry = Self { path: path.as_ref().to_owned() };
        // A registry that has lost it must not pass for none; one whose making was cut short has index 0 alone.
        if registry.path.join(CURRENT).exists() || registry.index_numbers()?.iter().any(|number| *number > 0)
        {
            return Ok(registry);
        }
        Err(RegistryError::None { path: registry.path })
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The index that counts.
    ///
    /// # Errors
    /// [`RegistryError::Damaged`], which says how to get the last good one back.
    pub fn current(&self) -> Result<Index, RegistryError> {
        index::current(&self.path)
    }

    /// An earlier index, or the one that counts.
    ///
    /// # Errors
    /// [`RegistryError::NoIndex`] if it is not there, or none of this registry's.
    pub fn index(&self, number: u64) -> Result<Index, RegistryError> {
        index::numbered(&self.path, number)
    }

    /// All indexes up to the one that counts, the oldest first. What cannot be read is left out.
    ///
    /// # Errors
    /// As [`Self::current`].
    pub fn history(&self) -> Result<Vec<Index>, RegistryError> {
        let current = self.current()?;
        let earlier = self.index_numbers()?.into_iter().filter(|number| *number < current.number);
        let mut history: Vec<Index> = earlier.filter_map(|number| self.index(number).ok()).collect();
        history.push(current);
        Ok(history)
    }

    /// The folder of a domain's version, whether it is there or not.
    pub fn folder(&self, name: &str, version: u32) -> PathBuf {
        files::version_folder(&self.path, name, version)
    }

    /// What is known of an entry's domain.
    ///
    /// # Errors
    /// [`RegistryError::DamagedDomain`] if the manifest is not as it was written.
    pub fn manifest(&self, entry: &Entry) -> Result<Manifest, RegistryError> {
        let folder = self.folder(&entry.name, entry.version);
        let damaged = |reason| RegistryError::DamagedDomain {
            name: entry.name.clone(),
            version: entry.version,
            reason,
        };
        let bytes = entry.manifest.content(&folder).map_err(damaged)?;
        Manifest::parse(&bytes).map_err(|reason| damaged(format!("{MANIFEST}: {reason}")))
    }

    /// What is known of any version of a domain that is there, also one that no index names now.
    ///
    /// # Errors
    /// [`RegistryError::NoVersion`], [`RegistryError::DamagedDomain`].
    pub fn manifest_of(&self, name: &str, version: u32) -> Result<Manifest, RegistryError> {
        let bytes = match fs::read(self.folder(name, version).join(MANIFEST)) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let found = self.versions(name)?;
                return Err(RegistryError::NoVersion { name: name.to_owned(), version, found });
            }
            Err(error) => {
                let reason = format!("{MANIFEST} cannot be read: {error}");
                return Err(RegistryError::DamagedDomain { name: name.to_owned(), version, reason });
            }
        };
        Manifest::parse(&bytes).map_err(|reason| RegistryError::DamagedDomain {
            name: name.to_owned(),
            version,
            reason: format!("{MANIFEST}: {reason}"),
        })
    }

    /// Reads every file of an entry's domain, and compares it with what was written.
    ///
    /// # Errors
    /// [`RegistryError::DamagedDomain`], by file.
    pub fn verify(&self, entry: &Entry) -> Result<Manifest, RegistryError> {
        let manifest = self.manifest(entry)?;
        let folder = self.folder(&entry.name, entry.version);
        for file in &manifest.files {
            file.verify(&folder).map_err(|reason| RegistryError::DamagedDomain {
                name: entry.name.clone(),
                version: entry.version,
                reason,
            })?;
        }
        Ok(manifest)
    }

    /// The enabled domains, all of their files read and compared.
    ///
    /// # Errors
    /// As [`Self::current`]; damaged domains are no error, but named.
    pub fn live(&self) -> Result<Live, RegistryError> {
        loop {
            let index = self.current()?;
            let mut live = Live { index, domains: Vec::new(), damaged: Vec::new() };
            for entry in live.index.domains.iter().filter(|entry| entry.enabled) {
                match self.verify(entry) {
                    Ok(manifest) => {
                        let folder = self.folder(&entry.name, entry.version);
                        live.domains.push(LiveDomain { manifest, folder });
                    }
                    Err(error) => live.damaged.push((entry.name.clone(), error.to_string())),
                }
            }
            // Files can be missing because they were collected meanwhile, which only happens to what no index names any more.
            if live.damaged.is_empty() || self.current()?.number == live.index.number {
                return Ok(live);
            }
        }
    }

    /// The versions of a domain that are there, ascending.
    ///
    /// # Errors
    /// If the folder cannot be read.
    pub fn versions(&self, name: &str) -> Result<Vec<u32>, RegistryError> {
        let folder = files::domain_folder(&self.path, name);
        let mut versions: Vec<u32> =
            files::names(&folder)?.iter().filter_map(|name| version_of(name)).collect();
        versions.sort_unstable();
        Ok(versions)
    }

    /// The versions a domain had in the indexes so far, the latest first, each once.
    ///
    /// # Errors
    /// As [`Self::current`].
    pub fn past_versions(&self, name: &str) -> Result<Vec<u32>, RegistryError> {
        let mut versions = Vec::new();
        for index in self.history()?.iter().rev() {
            if let Some(entry) = index.entry(name)
                && !versions.contains(&entry.version)
            {
                versions.push(entry.version);
            }
        }
        Ok(versions)
    }

    /// A domain's entry in the index that counts; with another version than it has there, as an earlier index had it.
    ///
    /// # Errors
    /// [`RegistryError::NoDomain`]; [`RegistryError::NoVersion`] if no index that is kept names it.
    pub fn entry(&self, name: &str, version: Option<u32>) -> Result<Entry, RegistryError> {
        let index = self.current()?;
        let now = index.entry(name);
        let Some(version) = version else {
            return now.cloned().ok_or_else(|| index.no_domain(name));
        };
        if let Some(entry) = now.filter(|entry| entry.version == version) {
            return Ok(entry.clone());
        }
        let known = self.known_entries()?;
        if let Some(entry) = known.get(&(name.to_owned(), version)) {
            return Ok(entry.clone());
        }
        let found: Vec<u32> =
            known.into_keys().filter(|(other, _)| other == name).map(|(_, version)| version).collect();
        if found.is_empty() {
            return Err(index.no_domain(name));
        }
        Err(RegistryError::NoVersion { name: name.to_owned(), version, found })
    }

    /// The entries that any index names, by name and version; the latest says how.
    fn known_entries(&self) -> Result<BTreeMap<(String, u32), Entry>, RegistryError> {
        let entries = self.history()?.into_iter().flat_map(|index| index.domains);
        Ok(entries.map(|entry| ((entry.name.clone(), entry.version), entry)).collect())
    }

    /// The numbers of the index files that are there, also of one that never came to count.
    fn index_numbers(&self) -> Result<Vec<u64>, RegistryError> {
        let names = files::names(&self.path.join(INDEXES))?;
        let number = |name: &String| {
            let number = name.strip_suffix(".json")?.parse().ok()?;
            (*name == index_name(number)).then_some(number)
        };
        let mut numbers: Vec<u64> = names.iter().filter_map(number).collect();
        numbers.sort_unstable();
        Ok(numbers)
    }
}
