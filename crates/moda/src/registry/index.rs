//! Which domains there are, in which versions and order: immutable lists, and the one file that says which of them counts.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use kirie_run::FileEntry;
use serde::{Deserialize, Serialize};

use super::files::{check_name, create_folder, names, remove, replace, write_new};
use super::{Base, RegistryError};

/// Names the index that counts.
pub(super) const CURRENT: &str = "current.json";
/// Holds all indexes.
pub(super) const INDEXES: &str = "indexes";
const FORMAT: u32 = 1;

/// The domains of a registry at one time. It never changes; a change of the registry writes the next one.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Index {
    format: u32,
    /// Counted from 0, the empty one that every registry begins with.
    pub number: u64,
    /// When it was written, UTC.
    pub created: String,
    /// What was done, for people.
    pub change: String,
    /// What all adapters were made for.
    pub base: Base,
    /// The domains in their order.
    pub domains: Vec<Entry>,
}

/// A domain in an index.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// The domain's name.
    pub name: String,
    /// Its version that counts.
    pub version: u32,
    /// Whether pictures may be routed to it.
    pub enabled: bool,
    /// Why it is not enabled, where somebody said so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Its manifest, with size and hash.
    pub manifest: FileEntry,
}

/// The content of `current.json`.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Current {
    format: u32,
    index: FileEntry,
}

impl Index {
    /// The first index of a registry.
    pub(super) fn empty(base: Base, now: String) -> Self {
        let change = "a new registry".to_owned();
        Self { format: FORMAT, number: 0, created: now, change, base, domains: Vec::new() }
    }

    /// The entry of a domain.
    pub fn entry(&self, name: &str) -> Option<&Entry> {
        self.domains.iter().find(|entry| entry.name == name)
    }

    /// The domains' names in their order.
    pub fn names(&self) -> Vec<&str> {
        self.domains.iter().map(|entry| entry.name.as_str()).collect()
    }

    /// That there is no domain of this name.
    pub(super) fn no_domain(&self, name: &str) -> RegistryError {
        let found = self.names().join(", ");
        let found = if found.is_empty() { "none".to_owned() } else { found };
        RegistryError::NoDomain { name: name.to_owned(), found }
    }

    fn parse(bytes: &[u8]) -> Result<Self, String> {
        let index: Self = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        if index.format != FORMAT {
            return Err(format!("is of format {}, this program knows {FORMAT}", index.format));
        }
        // Names become paths.
        for (i, entry) in index.domains.iter().enumerate() {
            check_name(&entry.name).map_err(|error| error.to_string())?;
            if index.domains[..i].iter().any(|other| other.name.eq_ignore_ascii_case(&entry.name)) {
                return Err(format!("has {} twice", entry.name));
            }
        }
        if let Some(entry) = index.domains.iter().find(|entry| entry.manifest.name != super::MANIFEST) {
            return Err(format!("names {:?} as a manifest", entry.manifest.name));
        }
        Ok(index)
    }
}

/// `000007.json`.
pub(super) fn index_name(number: u64) -> String {
    format!("{number:06}.json")
}

/// Reads the index that counts.
pub(super) fn current(registry: &Path) -> Result<Index, RegistryError> {
    read_current(registry).map_err(|reason| RegistryError::Damaged {
        path: registry.to_owned(),
        reason,
        intact: newest_intact(registry),
    })
}

fn read_current(registry: &Path) -> Result<Index, String> {
    let bytes = match fs::read(registry.join(CURRENT)) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == ErrorKind::NotFound => return Err(format!("{CURRENT} is missing")),
        Err(error) => return Err(format!("{CURRENT} cannot be read: {error}")),
    };
    let Current { format, index } =
        serde_json::from_slice(&bytes).map_err(|error| format!("{CURRENT}: {error}"))?;
    if format != FORMAT {
        return Err(format!("{CURRENT} is of format {format}, this program knows {FORMAT}"));
    }
    let number = index.name.strip_suffix(".json").and_then(|number| number.parse().ok());
    let Some(number) = number.filter(|number| index.name == index_name(*number)) else {
        return Err(format!("{CURRENT} names {:?}, which is no index", index.name));
    };
    let bytes = index.content(&registry.join(INDEXES)).map_err(|reason| format!("{INDEXES}/{reason}"))?;
    let found = Index::parse(&bytes).map_err(|reason| format!("{INDEXES}/{}: {reason}", index.name))?;
    if found.number == number {
        Ok(found)
    } else {
        Err(format!("{INDEXES}/{} is that of number {}", index.name, found.number))
    }
}

/// Reads the index of a number, whether it counts or not.
pub(super) fn numbered(registry: &Path, number: u64) -> Result<Index, RegistryError> {
    let no_index = |reason: String| RegistryError::NoIndex { number, reason };
    let path = registry.join(INDEXES).join(index_name(number));
    let bytes = fs::read(&path).map_err(|error| no_index(format!("{}: {error}", path.display())))?;
    let index = Index::parse(&bytes).map_err(|reason| no_index(format!("{}: {reason}", path.display())))?;
    if index.number == number {
        Ok(index)
    } else {
        Err(no_index(format!("{} is that of number {}", path.display(), index.number)))
    }
}

fn newest_intact(registry: &Path) -> Option<u64> {
    let names = names(&registry.join(INDEXES)).ok()?;
    let numbers = names.iter().filter_map(|name| name.strip_suffix(".json")?.parse().ok());
    numbers.filter(|number| numbered(registry, *number).is_ok()).max()
}

/// Makes an index the one that counts. Its number must be that after the one that counts now.
pub(super) fn commit(registry: &Path, index: &Index) -> Result<(), RegistryError> {
    let folder = registry.join(INDEXES);
    create_folder(&folder)?;
    let name = index_name(index.number);
    let path = folder.join(&name);
    // Of a process that was killed before its index came to count.
    if path.exists() {
        remove(registry, &path)?;
    }
    let entry = write_new(&folder, &name, &json(&path, index)?)?;
    kirie_run::entry::sync_folder(&folder).map_err(RegistryError::files(&folder, "brought to the disk"))?;
    let current = registry.join(CURRENT);
    replace(&current, &json(&current, &Current { format: FORMAT, index: entry })?)
}

/// As the registry's files are written.
pub(super) fn json(path: &Path, value: &impl Serialize) -> Result<Vec<u8>, RegistryError> {
    let mut bytes = serde_json::to_vec_pretty(value)
        .map_err(|error| RegistryError::files(path, "written")(error.into()))?;
    bytes.push(b'\n');
    Ok(bytes)
}
