//! What can go wrong with a registry.

use std::io;
use std::path::{Path, PathBuf};

use kirie_data::DataError;
use kirie_run::RunError;
use thiserror::Error;

use super::Base;

/// What can go wrong with a registry. Nothing is changed by an operation that fails.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RegistryError {
    /// A folder that holds no registry.
    #[error("{}: holds no registry of adapters (there is no current.json); `kirie adapters add` makes one", path.display())]
    None {
        /// The folder.
        path: PathBuf,
    },

    /// A new registry was to be made in a folder that holds something else.
    #[error("{}: is no registry of adapters, and not empty ({found} is there)", path.display())]
    Occupied {
        /// The folder.
        path: PathBuf,
        /// What is there.
        found: String,
    },

    /// The list of domains is not as it was written.
    #[error(
        "{}: the registry is damaged: {reason}; `kirie adapters rollback {} --to-index {}` goes back to the newest index \
         that is intact", path.display(), path.display(), intact.map_or_else(|| "N".to_owned(), |n| n.to_string())
    )]
    Damaged {
        /// The registry.
        path: PathBuf,
        /// Which file, and what is wrong with it.
        reason: String,
        /// The newest index that can be read.
        intact: Option<u64>,
    },

    /// A domain's files are not as they were written.
    #[error("{name} v{version} is damaged: {reason}")]
    DamagedDomain {
        /// The domain.
        name: String,
        /// Its version.
        version: u32,
        /// Which file, what was expected and what was found.
        reason: String,
    },

    /// Another process changes the registry.
    #[error(
        "{}: another process{} is changing this registry; try again when it is done", path.display(),
        if holder.is_empty() { String::new() } else { format!(" ({holder})") }
    )]
    Locked {
        /// The registry.
        path: PathBuf,
        /// What the process wrote about itself; may be empty.
        holder: String,
    },

    /// A name that cannot be a domain's or a file's.
    #[error("{name:?} cannot name a {what}: {reason}")]
    Name {
        /// The name.
        name: String,
        /// "domain" or "file".
        what: &'static str,
        /// What is wrong with it.
        reason: &'static str,
    },

    /// There is a domain of this name.
    #[error(
        "there is a domain {existing} already (v{version}); another name adds a domain, --new-version replaces this one by a \
         version that can be rolled back"
    )]
    Exists {
        /// Its name as the registry has it.
        existing: String,
        /// Its version.
        version: u32,
    },

    /// There is no domain of this name.
    #[error("there is no domain {name:?}; the registry has {found}")]
    NoDomain {
        /// The name.
        name: String,
        /// The names there are.
        found: String,
    },

    /// There is no such version of a domain.
    #[error("{name} has no version {version}; there are {}", listed(found))]
    NoVersion {
        /// The domain.
        name: String,
        /// The version.
        version: u32,
        /// The versions there are.
        found: Vec<u32>,
    },

    /// A domain that never had another version.
    #[error("{name} has no earlier version than v{version}")]
    NoEarlierVersion {
        /// The domain.
        name: String,
        /// Its version.
        version: u32,
    },

    /// There is no index of this number.
    #[error("there is no index {number}: {reason}")]
    NoIndex {
        /// The number.
        number: u64,
        /// Why not.
        reason: String,
    },

    /// An adapter that was made for another base model.
    #[error("{name} was made for the base {}, this registry is of {}", base(found), base(expected))]
    OtherBase {
        /// The domain.
        name: String,
        /// The adapter's base.
        found: Base,
        /// The registry's.
        expected: Base,
    },

    /// An order that does not name every domain once.
    #[error("the new order must name every domain once: {reason}")]
    Order {
        /// Which is missing, unknown or twice.
        reason: String,
    },

    /// What was to be added or imported is none.
    #[error("{}: {reason}", path.display())]
    Package {
        /// The folder or file.
        path: PathBuf,
        /// What was expected and what was found.
        reason: String,
    },

    /// A domain that must not be put to use as things are.
    #[error(
        "{name} is not put to use: {reason}; --force does so all the same{}",
        if *added { "" } else { ", --disabled adds it without using it" }
    )]
    Refused {
        /// The domain.
        name: String,
        /// What speaks against it.
        reason: String,
        /// Whether the registry has it already.
        added: bool,
    },

    /// A file or folder of the registry cannot be read, written, moved or the like.
    #[error("{}: cannot be {action}: {source}", path.display())]
    Files {
        /// The file or folder.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// The system's reason.
        source: io::Error,
    },

    /// A file that is written whole could not be.
    #[error(transparent)]
    Data(#[from] DataError),

    /// A description or a page could not be read or written.
    #[error(transparent)]
    Run(RunError),
}

impl From<RunError> for RegistryError {
    fn from(error: RunError) -> Self {
        match error {
            RunError::Locked { path, holder } => Self::Locked { path, holder },
            other => Self::Run(other),
        }
    }
}

impl RegistryError {
    /// For `map_err`: a [`RegistryError::Files`] about this path.
    pub(super) fn files(path: &Path, action: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Files { path: path.to_owned(), action, source }
    }
}

fn base(base: &Base) -> String {
    format!("{} ({}...)", base.model, base.sha256.get(..12).unwrap_or(&base.sha256))
}

fn listed(versions: &[u32]) -> String {
    if versions.is_empty() {
        return "none".to_owned();
    }
    versions.iter().map(|version| format!("v{version}")).collect::<Vec<_>>().join(", ")
}
