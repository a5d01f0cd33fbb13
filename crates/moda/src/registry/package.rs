//! A domain on its way into a registry or out of one: a folder, or a zip file.
//!
//! A new domain is a folder with [`DESCRIPTION`] and the payload; an exported one has the registry's manifest instead, so that
//! every byte can be compared where it is imported.

use std::cell::RefCell;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use kirie_data::{NewFolder, create_parent, write_atomic};
use kirie_run::FileEntry;
use zip::write::SimpleFileOptions;
use zip::{ZipArchive, ZipWriter};

use super::files::{check_file_name, copy};
use super::{Base, Description, Entry, MANIFEST, Manifest, Registry, RegistryError};

/// Says what a new domain is.
pub const DESCRIPTION: &str = "domain.toml";
/// Files of a payload, at most.
const MOST_FILES: usize = 10_000;
/// Bytes that a manifest may have.
const MOST_MANIFEST: u64 = 16 << 20;

/// A domain that can be added to a registry.
pub struct Package {
    path: PathBuf,
    pub(super) description: Description,
    /// When it was first added to a registry, if it was.
    pub(super) created: Option<String>,
    content: Content,
}

/// The payload.
enum Content {
    /// A folder's files, by name.
    New(Vec<String>),
    /// Files that a manifest tells the hashes of, in a folder.
    Folder(Vec<FileEntry>),
    /// The same in a zip file.
    Zip(Vec<FileEntry>, RefCell<ZipArchive<File>>),
}

impl Package {
    /// A new domain: a folder with a `domain.toml`, and everything else in it as the payload.
    ///
    /// # Errors
    /// If there is no description, it is not as expected, or there is no payload. Links are not followed.
    pub fn new_domain(folder: &Path) -> Result<Self, RegistryError> {
        let path = folder.to_owned();
        let wrong = |reason: &str| RegistryError::Package { path: path.clone(), reason: reason.to_owned() };
        if !folder.join(DESCRIPTION).is_file() {
            let reason = if folder.join(MANIFEST).is_file() {
                "is an exported domain (it has a manifest.json); `kirie adapters import` takes it"
            } else {
                "expected a folder with a domain.toml that says what the adapter is"
            };
            return Err(wrong(reason));
        }
        let description = Description::read(&folder.join(DESCRIPTION))?;
        let mut files = Vec::new();
        list(folder, "", &mut files)?;
        files.retain(|name| name != DESCRIPTION);
        files.sort();
        if files.is_empty() {
            return Err(wrong("has no files beside its domain.toml, expected an adapter"));
        }
        for file in &files {
            check_file_name(file)?;
        }
        Ok(Self { path, description, created: None, content: Content::New(files) })
    }

    /// A domain that [`Registry::export`] wrote, folder or zip file.
    ///
    /// # Errors
    /// If it is none. Its files are compared when it is added.
    pub fn exported(path: &Path) -> Result<Self, RegistryError> {
        let wrong = |reason: String| RegistryError::Package { path: path.to_owned(), reason };
        let (bytes, archive) = if path.is_dir() {
            let file = File::open(path.join(MANIFEST)).map_err(|error| {
                wrong(format!(
                    "expected an exported domain, but its {MANIFEST} cannot be read: {error}; `kirie adapters add` takes \
                     a new one"
                ))
            })?;
            (read_to_end(file, &wrong)?, None)
        } else {
            let file = File::open(path).map_err(RegistryError::files(path, "read"))?;
            let mut archive = ZipArchive::new(file)
                .map_err(|error| wrong(format!("expected a folder or a zip file: {error}")))?;
            let manifest = archive.by_name(MANIFEST).map_err(|error| {
                wrong(format!("expected an exported domain, but its {MANIFEST}: {error}"))
            })?;
            (read_to_end(manifest, &wrong)?, Some(archive))
        };
        let manifest = Manifest::parse(&bytes).map_err(|reason| wrong(format!("{MANIFEST}: {reason}")))?;
        let (description, created, files) = (manifest.description(), manifest.created, manifest.files);
        let content = match archive {
            None => Content::Folder(files),
            Some(archive) => Content::Zip(files, RefCell::new(archive)),
        };
        Ok(Self { path: path.to_owned(), description, created: Some(created), content })
    }

    /// The domain's name.
    pub fn name(&self) -> &str {
        &self.description.name
    }

    /// The model that it was made for.
    pub fn base(&self) -> &Base {
        &self.description.base
    }

    /// Gives the domain another name.
    pub fn set_name(&mut self, name: &str) {
        name.clone_into(&mut self.description.name);
    }

    /// Copies the payload into a folder, compared with what the manifest says of it, if there is one.
    pub(super) fn copy_to(&self, folder: &Path) -> Result<Vec<FileEntry>, RegistryError> {
        let read = |name: &str| {
            let path = self.path.join(name);
            File::open(&path).map_err(RegistryError::files(&path, "read"))
        };
        let expected = match &self.content {
            Content::New(names) => {
                return names.iter().map(|name| copy(folder, name, &mut read(name)?)).collect();
            }
            Content::Folder(expected) | Content::Zip(expected, _) => expected,
        };
        let mut written = Vec::with_capacity(expected.len());
        for file in expected {
            // One byte more than expected tells as much as a file without end.
            let most = file.size.saturating_add(1);
            let found = match &self.content {
                Content::Zip(_, archive) => {
                    let mut archive = archive.borrow_mut();
                    let entry = archive
                        .by_name(&file.name)
                        .map_err(|error| self.wrong(format!("{} cannot be read: {error}", file.name)))?;
                    copy(folder, &file.name, &mut entry.take(most))?
                }
                _ => copy(folder, &file.name, &mut read(&file.name)?.take(most))?,
            };
            if found.size != file.size || found.sha256 != file.sha256 {
                return Err(self.wrong(format!(
                    "{} is not as its manifest says: {} bytes, SHA-256 {}..., expected {} and {}...",
                    file.name,
                    found.size,
                    found.sha256.get(..12).unwrap_or_default(),
                    file.size,
                    file.sha256.get(..12).unwrap_or_default(),
                )));
            }
            written.push(found);
        }
        Ok(written)
    }

    fn wrong(&self, reason: String) -> RegistryError {
        RegistryError::Package { path: self.path.clone(), reason }
    }
}

fn read_to_end(
    source: impl Read,
    wrong: &impl Fn(String) -> RegistryError,
) -> Result<Vec<u8>, RegistryError> {
    let mut bytes = Vec::new();
    let read = source.take(MOST_MANIFEST + 1).read_to_end(&mut bytes);
    match read {
        Err(error) => Err(wrong(format!("{MANIFEST} cannot be read: {error}"))),
        Ok(_) if bytes.len() as u64 > MOST_MANIFEST => {
            Err(wrong(format!("{MANIFEST} has more than {MOST_MANIFEST} bytes")))
        }
        Ok(_) => Ok(bytes),
    }
}

/// The files below a folder, by name with `/`; hidden ones are none of the payload.
fn list(folder: &Path, prefix: &str, files: &mut Vec<String>) -> Result<(), RegistryError> {
    let failed = || RegistryError::files(folder, "read");
    for entry in fs::read_dir(folder).map_err(failed())? {
        let entry = entry.map_err(failed())?;
        let kind = entry.file_type().map_err(failed())?;
        let Ok(name) = entry.file_name().into_string() else {
            let reason = "holds a file whose name is no UTF-8".to_owned();
            return Err(RegistryError::Package { path: folder.to_owned(), reason });
        };
        if name.starts_with('.') {
            continue;
        }
        let name = format!("{prefix}{name}");
        if kind.is_dir() {
            check_file_name(&name)?;
            list(&entry.path(), &format!("{name}/"), files)?;
        } else if kind.is_file() {
            files.push(name);
        } else {
            let reason = "is a link or a device, expected a file".to_owned();
            return Err(RegistryError::Package { path: entry.path(), reason });
        }
        if files.len() > MOST_FILES {
            let reason = format!("holds more than {MOST_FILES} files");
            return Err(RegistryError::Package { path: folder.to_owned(), reason });
        }
    }
    Ok(())
}

impl Registry {
    /// Writes a domain's version to a new folder, or to a zip file if the name ends so; whole or not at all. It is compared
    /// with its manifest first.
    ///
    /// # Errors
    /// [`RegistryError::DamagedDomain`], or if it cannot be written.
    pub fn export(&self, entry: &Entry, target: &Path) -> Result<Manifest, RegistryError> {
        let manifest = self.verify(entry)?;
        let folder = self.folder(&entry.name, entry.version);
        let names = || manifest.files.iter().map(|file| file.name.as_str()).chain([MANIFEST]);
        let open = |name: &str| {
            let path = folder.join(name);
            File::open(&path).map_err(RegistryError::files(&path, "read"))
        };
        if target.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("zip")) {
            create_parent(target)?;
            write_atomic(target, |file| {
                let mut zip = ZipWriter::new_stream(file);
                for name in names() {
                    // The same registry gives the same bytes: entries have no time of their own.
                    zip.start_file(name, SimpleFileOptions::default()).map_err(io::Error::other)?;
                    io::copy(&mut open(name).map_err(io::Error::other)?, &mut zip)?;
                }
                zip.finish().map_err(io::Error::other)?.into_inner().flush()
            })?;
        } else {
            let new = NewFolder::new(target)?;
            for name in names() {
                copy(new.work(), name, &mut open(name)?)?;
            }
            new.finish()?;
        }
        Ok(manifest)
    }
}
