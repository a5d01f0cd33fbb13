//! What changes a registry. Every change ends in one new index, or in nothing.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use kirie_run::FolderLock;

use super::files::{self, DOMAINS, UNFINISHED, check_name, create_folder, names, rename, write_new};
use super::index::{CURRENT, INDEXES, commit, index_name, json};
use super::{Base, Entry, Index, MANIFEST, Manifest, Package, Registry, RegistryError};

/// Changes a registry; the only one to do so for as long as it lives.
#[derive(Debug)]
pub struct Writer {
    registry: Registry,
    _lock: FolderLock,
}

/// How a domain is added.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AddOptions {
    /// A domain of the same name gets a new version, instead of being in the way.
    pub new_version: bool,
    /// Pictures are not routed to it before it is enabled.
    pub disabled: bool,
}

/// A domain that was added.
#[derive(Clone, Debug)]
pub struct Added {
    /// What is known of it.
    pub manifest: Manifest,
    /// The index that counts now.
    pub index: Index,
}

/// What was found of a version's files.
#[derive(Clone, Debug)]
pub struct Verified {
    /// The domain.
    pub name: String,
    /// The version.
    pub version: u32,
    /// Whether the index that counts names it.
    pub current: bool,
    /// What is wrong, by file.
    pub problem: Option<String>,
    /// Whether it was enabled and is not any more.
    pub disabled: bool,
}

/// What was removed from the disk.
#[derive(Clone, Debug, Default)]
pub struct Collected {
    /// Files and folders, by their names below the registry.
    pub removed: Vec<String>,
    /// Their bytes.
    pub bytes: u64,
}

impl Writer {
    /// Takes a registry's lock.
    ///
    /// # Errors
    /// [`RegistryError::None`], [`RegistryError::Locked`] at once if another process holds it.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, RegistryError> {
        let registry = Registry::open(path)?;
        let lock = FolderLock::acquire(registry.path())?;
        Ok(Self { registry, _lock: lock })
    }

    /// The same; a folder that is not there, or empty, becomes a registry of adapters for this base.
    ///
    /// # Errors
    /// As [`Self::open`], and [`RegistryError::Occupied`].
    pub fn open_or_create(path: impl AsRef<Path>, base: &Base) -> Result<Self, RegistryError> {
        let path = path.as_ref();
        create_folder(path)?;
        let ours = [".lock", INDEXES, CURRENT, DOMAINS];
        let foreign = |name: &String| !ours.contains(&name.as_str()) && !name.starts_with(UNFINISHED);
        if let Some(found) = names(path)?.into_iter().find(foreign)
            && matches!(Registry::open(path), Err(RegistryError::None { .. }))
        {
            return Err(RegistryError::Occupied { path: path.to_owned(), found });
        }
        let lock = FolderLock::acquire(path)?;
        let registry = Registry { path: path.to_owned() };
        // A process that was killed while it made the registry can have left the first index, but none after it.
        if matches!(Registry::open(path), Err(RegistryError::None { .. })) {
            commit(path, &Index::empty(base.clone(), now()))?;
        }
        Ok(Self { registry, _lock: lock })
    }

    /// The registry, to be read.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// Adds a domain, or a new version of one, behind the others or in its place.
    ///
    /// # Errors
    /// [`RegistryError::Exists`], [`RegistryError::OtherBase`], or a payload that cannot be copied. Nothing has changed then.
    pub fn add(&self, package: &Package, options: AddOptions) -> Result<Added, RegistryError> {
        self.add_if(package, options, |_| Ok(()))
    }

    /// The same, unless `gate` objects. It is shown the folder that the payload was copied to.
    ///
    /// # Errors
    /// As [`Self::add`], and what the gate says. Nothing has changed then.
    pub fn add_if(
        &self,
        package: &Package,
        options: AddOptions,
        gate: impl FnOnce(&Path) -> Result<(), RegistryError>,
    ) -> Result<Added, RegistryError> {
        let mut index = self.registry.current()?;
        let description = &package.description;
        check_name(&description.name)?;
        if description.base != index.base {
            return Err(RegistryError::OtherBase {
                name: description.name.clone(),
                found: description.base.clone(),
                expected: index.base,
            });
        }
        let place = index.domains.iter().position(|entry| entry.name.eq_ignore_ascii_case(&description.name));
        let existing = place.and_then(|place| index.domains.get(place));
        if let Some(Entry { name, version, .. }) = existing
            && !(options.new_version && *name == description.name)
        {
            return Err(RegistryError::Exists { existing: name.clone(), version: *version });
        }

        let path = self.registry.path();
        let folder = files::domain_folder(path, &description.name);
        create_folder(&folder)?;
        // Also those that no index names are there for somebody, or will be collected.
        let version = self.registry.versions(&description.name)?.last().map_or(1, |last| last + 1);
        let staged = Staged(path.join(format!("{UNFINISHED}{}-v{version}", description.name)));
        staged.clear()?;
        create_folder(&staged.0)?;
        let payload = package.copy_to(&staged.0)?;
        gate(&staged.0)?;
        let created = package.created.clone().unwrap_or_else(now);
        let manifest = Manifest::new(description.clone(), version, created, payload);
        let content = json(&staged.0.join(MANIFEST), &manifest)?;
        let manifest_file = write_new(&staged.0, MANIFEST, &content)?;
        rename(&staged.0, &files::version_folder(path, &manifest.name, version))?;

        let entry = Entry {
            name: manifest.name.clone(),
            version,
            enabled: !options.disabled,
            reason: options.disabled.then(|| "added so".to_owned()),
            manifest: manifest_file,
        };
        match place {
            Some(place) => index.domains[place] = entry,
            None => index.domains.push(entry),
        }
        let state = if options.disabled { ", disabled" } else { "" };
        let index = self.commit(index, format!("added {} v{version}{state}", manifest.name))?;
        Ok(Added { manifest, index })
    }

    /// Takes domains out of the routing, all or none. Those that are disabled already get the new reason.
    ///
    /// # Errors
    /// [`RegistryError::NoDomain`].
    pub fn disable(&self, names: &[String], reason: Option<&str>) -> Result<Index, RegistryError> {
        let mut index = self.registry.current()?;
        for name in names {
            let entry = entry_mut(&mut index, name)?;
            entry.enabled = false;
            entry.reason = reason.map(str::to_owned);
        }
        let why = reason.map_or_else(String::new, |reason| format!(": {reason}"));
        self.commit(index, format!("disabled {}{why}", names.join(", ")))
    }

    /// Lets pictures be routed to domains again, all or none.
    ///
    /// # Errors
    /// [`RegistryError::NoDomain`]; [`RegistryError::DamagedDomain`] if the files of one are not as they were written.
    pub fn enable(&self, names: &[String]) -> Result<Index, RegistryError> {
        let mut index = self.registry.current()?;
        for name in names {
            let entry = entry_mut(&mut index, name)?;
            self.registry.verify(entry)?;
            entry.enabled = true;
            entry.reason = None;
        }
        self.commit(index, format!("enabled {}", names.join(", ")))
    }

    /// Takes domains out of the index, all or none. Their files stay, for rolling back, until they are collected.
    ///
    /// # Errors
    /// [`RegistryError::NoDomain`].
    pub fn remove(&self, names: &[String]) -> Result<Index, RegistryError> {
        let mut index = self.registry.current()?;
        for name in names {
            entry_mut(&mut index, name)?;
            index.domains.retain(|entry| entry.name != *name);
        }
        self.commit(index, format!("removed {}", names.join(", ")))
    }

    /// Puts the domains into another order. Nothing else changes: everything is found by name.
    ///
    /// # Errors
    /// [`RegistryError::Order`] unless every domain is named once.
    pub fn reorder(&self, order: &[String]) -> Result<Index, RegistryError> {
        let mut index = self.registry.current()?;
        let wrong = |reason| RegistryError::Order { reason };
        let mut domains = Vec::with_capacity(order.len());
        for name in order {
            let Some(place) = index.domains.iter().position(|entry| entry.name == *name) else {
                let twice = domains.iter().any(|entry: &Entry| entry.name == *name);
                let what = if twice { "is named twice" } else { "is no domain of this registry" };
                return Err(wrong(format!("{name} {what}")));
            };
            domains.push(index.domains.remove(place));
        }
        if let Some(left) = index.domains.first() {
            return Err(wrong(format!("{} is missing", left.name)));
        }
        index.domains = domains;
        self.commit(index, format!("order {}", order.join(", ")))
    }

    /// Gives a domain an earlier version, or any that is there; without a number the one it had before this one. It is enabled.
    ///
    /// # Errors
    /// [`RegistryError::NoDomain`], [`RegistryError::NoVersion`], [`RegistryError::NoEarlierVersion`],
    /// [`RegistryError::DamagedDomain`] if that version's files are not as they were written.
    pub fn roll_back(&self, name: &str, version: Option<u32>) -> Result<Index, RegistryError> {
        let mut index = self.registry.current()?;
        let from = entry_mut(&mut index, name)?.version;
        let version = if let Some(version) = version {
            version
        } else {
            let past = self.registry.past_versions(name)?;
            let earlier = past.into_iter().find(|version| *version != from);
            earlier.ok_or_else(|| RegistryError::NoEarlierVersion { name: name.to_owned(), version: from })?
        };
        let entry = self.registry.entry(name, Some(version))?;
        self.registry.verify(&entry)?;
        *entry_mut(&mut index, name)? = Entry { enabled: true, reason: None, ..entry };
        self.commit(index, format!("rolled {name} back from v{from} to v{version}"))
    }

    /// Makes everything as it was in an earlier index; without a number, in the one before. That is a change as any other, and
    /// can be undone so. It also helps where `current.json` is damaged or lost.
    ///
    /// # Errors
    /// [`RegistryError::NoIndex`]; [`RegistryError::DamagedDomain`] if the files of a domain that would be enabled are not
    /// as they were written.
    pub fn roll_back_to(&self, number: Option<u64>) -> Result<Index, RegistryError> {
        let current = self.registry.current();
        let number = match (number, &current) {
            (Some(number), _) => number,
            (None, Ok(current)) => {
                let earlier = self.registry.history()?.into_iter().rev().nth(1);
                let reason = "the one that counts is the oldest that is kept".to_owned();
                earlier.ok_or(RegistryError::NoIndex { number: current.number, reason })?.number
            }
            // Says what to do.
            (None, Err(_)) => return current,
        };
        let then = self.registry.index(number)?;
        let last = match current {
            Ok(current) if number > current.number => {
                let reason = format!("the one that counts is {}", current.number);
                return Err(RegistryError::NoIndex { number, reason });
            }
            Ok(current) => current.number,
            // Not to write over any that may be wanted.
            Err(_) => self.registry.index_numbers()?.last().copied().unwrap_or(number),
        };
        for entry in then.domains.iter().filter(|entry| entry.enabled) {
            self.registry.verify(entry)?;
        }
        let mut index = then;
        index.number = last;
        self.commit(index, format!("rolled back to index {number}"))
    }

    /// Reads every file of every domain and disables those that are damaged, naming them, so that the rest goes on. With `all`
    /// also of the versions that only earlier indexes name.
    ///
    /// # Errors
    /// As [`Registry::current`].
    pub fn verify(&self, all: bool) -> Result<Vec<Verified>, RegistryError> {
        let found = self.registry.verified(all)?;
        let bad: Vec<&Verified> = found.iter().filter(|v| v.current && v.problem.is_some()).collect();
        let mut index = self.registry.current()?;
        let mut disabled = Vec::new();
        for Verified { name, problem, .. } in bad {
            let entry = entry_mut(&mut index, name)?;
            if entry.enabled {
                entry.enabled = false;
                entry.reason.clone_from(problem);
                disabled.push(name.clone());
            }
        }
        if !disabled.is_empty() {
            self.commit(index, format!("disabled as damaged: {}", disabled.join(", ")))?;
        }
        let found = found.into_iter().map(|verified| {
            let disabled = verified.current && disabled.contains(&verified.name);
            Verified { disabled, ..verified }
        });
        Ok(found.collect())
    }

    /// Removes what killed processes left behind, and versions that no index names. With `keep`, indexes before the last so
    /// many (at least one) go too: what only they name cannot be had back.
    ///
    /// # Errors
    /// If something cannot be removed. What is there is whole.
    pub fn collect(&self, keep: Option<usize>) -> Result<Collected, RegistryError> {
        let path = self.registry.path();
        let current = self.registry.current()?;
        let mut collected = Collected::default();
        let mut remove = |name: String| -> Result<(), RegistryError> {
            collected.bytes += files::remove(path, &path.join(&name))?;
            collected.removed.push(name);
            Ok(())
        };
        for name in names(path)?.into_iter().filter(|name| name.starts_with(UNFINISHED)) {
            remove(name)?;
        }
        let mut numbers = self.registry.index_numbers()?;
        for number in numbers.extract_if(.., |number| *number > current.number) {
            remove(format!("{INDEXES}/{}", index_name(number)))?;
        }
        if let Some(keep) = keep {
            numbers.truncate(numbers.len().saturating_sub(keep.max(1)));
            // The oldest first: what is left is always the last so many.
            for number in numbers {
                remove(format!("{INDEXES}/{}", index_name(number)))?;
            }
        }
        // An index that cannot be read may name any of them.
        for number in self.registry.index_numbers()? {
            self.registry.index(number)?;
        }
        let known = self.registry.known_entries()?;
        for name in names(&path.join(DOMAINS))? {
            let versions = self.registry.versions(&name)?;
            let mut left = versions.len();
            for version in versions {
                if !known.contains_key(&(name.clone(), version)) {
                    remove(format!("{DOMAINS}/{name}/v{version}"))?;
                    left -= 1;
                }
            }
            if left == 0 {
                // Only if it is empty.
                let _ = fs::remove_dir(path.join(DOMAINS).join(&name));
            }
        }
        Ok(collected)
    }

    /// Makes a changed index the one after the one that counts.
    fn commit(&self, mut index: Index, change: String) -> Result<Index, RegistryError> {
        index.number += 1;
        index.created = now();
        index.change = change;
        commit(self.registry.path(), &index)?;
        Ok(index)
    }
}

impl Registry {
    /// What [`Writer::verify`] finds, changing nothing.
    ///
    /// # Errors
    /// As [`Self::current`].
    pub fn verified(&self, all: bool) -> Result<Vec<Verified>, RegistryError> {
        let current = self.current()?;
        let is_current =
            |entry: &Entry| current.entry(&entry.name).is_some_and(|other| other.version == entry.version);
        let mut entries = current.domains.clone();
        if all {
            entries.extend(self.known_entries()?.into_values().filter(|entry| !is_current(entry)));
        }
        let verified = entries.into_iter().map(|entry| {
            let problem = match self.verify(&entry) {
                Ok(_) => None,
                Err(RegistryError::DamagedDomain { reason, .. }) => Some(reason),
                Err(error) => Some(error.to_string()),
            };
            let current = is_current(&entry);
            Verified { name: entry.name, version: entry.version, current, problem, disabled: false }
        });
        Ok(verified.collect())
    }
}

/// A folder being filled; gone when it is dropped under that name.
struct Staged(PathBuf);

impl Staged {
    /// Removes what a killed process left of the same name.
    fn clear(&self) -> Result<(), RegistryError> {
        match fs::remove_dir_all(&self.0) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(RegistryError::files(&self.0, "removed")(error))
            }
            _ => Ok(()),
        }
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn entry_mut<'a>(index: &'a mut Index, name: &str) -> Result<&'a mut Entry, RegistryError> {
    match index.domains.iter().position(|entry| entry.name == name) {
        Some(place) => Ok(&mut index.domains[place]),
        None => Err(index.no_domain(name)),
    }
}

/// The time in UTC, to the second.
fn now() -> String {
    humantime::format_rfc3339_seconds(SystemTime::now()).to_string()
}
