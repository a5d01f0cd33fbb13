//! Names and paths, and the file operations that change a registry, each a place where a test may let it fail or die.

use std::fs;
use std::io::{self, ErrorKind, Read};
use std::path::{Path, PathBuf};

use kirie_run::FileEntry;
use kirie_run::entry::{is_plain, sync_folder};

use super::RegistryError;

/// What a domain's folder of versions lies in.
pub(super) const DOMAINS: &str = "domains";
/// How names of folders begin that are being filled, or on their way out.
pub(super) const UNFINISHED: &str = ".unfinished-";
/// Folders inside a payload, at most.
const DEPTH: usize = 4;
/// Bytes copied at once.
const CHUNK: usize = 1 << 18;

/// The folder of all versions of a domain.
pub(super) fn domain_folder(registry: &Path, name: &str) -> PathBuf {
    registry.join(DOMAINS).join(name)
}

/// The folder of one.
pub(super) fn version_folder(registry: &Path, name: &str, version: u32) -> PathBuf {
    domain_folder(registry, name).join(format!("v{version}"))
}

/// `v12` is 12; any other name, and any other way to write the number, is no version.
pub(super) fn version_of(name: &str) -> Option<u32> {
    let version = name.strip_prefix('v')?.parse().ok()?;
    (name == format!("v{version}") && version > 0).then_some(version)
}

/// Domains' names become folders, also on systems that see no difference between large and small letters.
pub(super) fn check_name(name: &str) -> Result<(), RegistryError> {
    let reason = if !is_plain(name) {
        "letters, digits and ._- are allowed, the first is no dot"
    } else if name.len() > 100 {
        "it is longer than 100 letters"
    } else if name.eq_ignore_ascii_case(super::Routing::BASE) {
        "that is what the route past all adapters is called"
    } else {
        return Ok(());
    };
    Err(RegistryError::Name { name: name.to_owned(), what: "domain", reason })
}

/// A file of a payload: plain names, in folders a few deep, parted by `/`.
pub(super) fn check_file_name(name: &str) -> Result<(), RegistryError> {
    let reason = if !name.split('/').all(is_plain) {
        "letters, digits and ._- are allowed, the first is no dot"
    } else if name.split('/').count() > DEPTH {
        "folders are nested too deep"
    } else if name.eq_ignore_ascii_case(super::MANIFEST) {
        "the registry has a file of that name"
    } else {
        return Ok(());
    };
    Err(RegistryError::Name { name: name.to_owned(), what: "file", reason })
}

/// The names in a folder; of one that is not there none. A name that is no UTF-8 is none of ours.
pub(super) fn names(folder: &Path) -> Result<Vec<String>, RegistryError> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(RegistryError::files(folder, "read")(error)),
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(RegistryError::files(folder, "read"))?;
        names.extend(entry.file_name().into_string());
    }
    Ok(names)
}

/// Makes a folder, and those above it, and brings their names to the disk.
pub(super) fn create_folder(folder: &Path) -> Result<(), RegistryError> {
    if folder.is_dir() {
        return Ok(());
    }
    let parent = folder.parent().filter(|parent| !parent.as_os_str().is_empty());
    if let Some(parent) = parent {
        create_folder(parent)?;
    }
    let made = fault::point().and_then(|()| match fs::create_dir(folder) {
        // Somebody else was quicker.
        Err(_) if folder.is_dir() => Ok(()),
        made => made,
    });
    made.and_then(|()| sync_folder(parent.unwrap_or(Path::new("."))))
        .map_err(RegistryError::files(folder, "created"))
}

/// Copies to a new file below `folder` and brings it to the disk.
pub(super) fn copy(folder: &Path, name: &str, source: &mut dyn Read) -> Result<FileEntry, RegistryError> {
    let path = folder.join(name);
    if let Some(parent) = path.parent() {
        create_folder(parent)?;
    }
    let mut buffer = vec![0; CHUNK];
    let written = FileEntry::write(folder, name, &mut |file| {
        loop {
            let read = match source.read(&mut buffer) {
                Ok(read) => read,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            fault::point()?;
            if read == 0 {
                return Ok(());
            }
            file.write_all(&buffer[..read])?;
        }
    });
    written.map_err(|(_, source)| RegistryError::Files { path, action: "written", source })
}

/// Writes a new file below `folder` and brings it to the disk.
pub(super) fn write_new(folder: &Path, name: &str, content: &[u8]) -> Result<FileEntry, RegistryError> {
    let path = folder.join(name);
    let written = FileEntry::write(folder, name, &mut |file| {
        fault::point()?;
        let (first, rest) = content.split_at(content.len() / 2);
        file.write_all(first)?;
        fault::point()?;
        file.write_all(rest)
    });
    written.map_err(|(_, source)| RegistryError::Files { path, action: "written", source })
}

/// Writes a file, whole or not at all, in place of one that may be there.
pub(super) fn replace(path: &Path, content: &[u8]) -> Result<(), RegistryError> {
    fault::point().map_err(RegistryError::files(path, "written"))?;
    kirie_data::write_atomic(path, |file| {
        let (first, rest) = content.split_at(content.len() / 2);
        file.write_all(first)?;
        fault::point()?;
        file.write_all(rest)
    })?;
    Ok(())
}

/// Gives a folder that is complete its name, which nothing has yet.
pub(super) fn rename(from: &Path, to: &Path) -> Result<(), RegistryError> {
    let moved = sync_tree(from).and_then(|()| fault::point()).and_then(|()| fs::rename(from, to));
    moved
        .and_then(|()| fault::point())
        .and_then(|()| to.parent().map_or(Ok(()), sync_folder))
        .map_err(RegistryError::files(from, "moved to its place"))
}

/// Brings the names in a folder and the folders in it to the disk.
fn sync_tree(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            sync_tree(&entry.path())?;
        }
    }
    sync_folder(folder)
}

/// Removes a file or folder so that it is there whole or gone: it first gets a name that means nothing. The bytes it had.
pub(super) fn remove(registry: &Path, path: &Path) -> Result<u64, RegistryError> {
    let failed = || RegistryError::files(path, "removed");
    let size = size_of(path).map_err(failed())?;
    let mut free = (0_u32..).map(|n| registry.join(format!("{UNFINISHED}removed-{n}")));
    let going = free.find(|path| fs::symlink_metadata(path).is_err()).unwrap_or_default();
    fault::point().and_then(|()| fs::rename(path, &going)).map_err(failed())?;
    let removed = fault::point()
        .and_then(|()| if going.is_dir() { fs::remove_dir_all(&going) } else { fs::remove_file(&going) });
    removed.map_err(failed())?;
    Ok(size)
}

fn size_of(path: &Path) -> io::Result<u64> {
    let data = fs::symlink_metadata(path)?;
    if !data.is_dir() {
        return Ok(data.len());
    }
    fs::read_dir(path)?.map(|entry| size_of(&entry?.path())).sum()
}

/// Tests let the n-th file operation fail, or kill the process there.
#[cfg(not(test))]
mod fault {
    #[allow(clippy::unnecessary_wraps, reason = "under test it fails")]
    pub(super) fn point() -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
pub(super) mod fault {
    use std::cell::Cell;
    use std::io;

    /// What happens at a file operation.
    #[derive(Clone, Copy, Debug, PartialEq)]
    pub(in crate::registry) enum Fault {
        /// It fails, as on a full disk.
        Error,
        /// The process ends on the spot, as by a kill.
        Kill,
    }

    thread_local! {
        static PLAN: Cell<Option<(usize, Fault)>> = const { Cell::new(None) };
    }

    /// Lets operations of this thread go wrong after so many that do not.
    pub(in crate::registry) fn plan(plan: Option<(usize, Fault)>) {
        PLAN.set(plan);
    }

    /// Whether the fault that was planned is still to come.
    pub(in crate::registry) fn is_pending() -> bool {
        PLAN.get().is_some()
    }

    pub(super) fn point() -> io::Result<()> {
        match PLAN.get() {
            None => Ok(()),
            Some((0, Fault::Kill)) => std::process::abort(),
            // Once: what cleans up may work again.
            Some((0, Fault::Error)) => {
                PLAN.set(None);
                Err(io::ErrorKind::StorageFull.into())
            }
            Some((left, fault)) => {
                PLAN.set(Some((left - 1, fault)));
                Ok(())
            }
        }
    }
}
