//! What a checkpoint's manifest says of its files, and files that are written and read against it.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::Part;

const FORMAT: u32 = 1;
pub(crate) const MANIFEST: &str = "manifest.json";

/// The file `manifest.json`, which is written last.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Manifest {
    format: u32,
    step: u64,
    pub(crate) files: Vec<FileEntry>,
}

/// One file of a checkpoint.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct FileEntry {
    pub(crate) name: String,
    pub(crate) size: u64,
    sha256: String,
}

impl Manifest {
    pub(crate) fn new(step: u64, files: Vec<FileEntry>) -> Self {
        Self { format: FORMAT, step, files }
    }
}

impl FileEntry {
    /// Reads the file to see whether it is as it was written.
    pub(crate) fn verify(&self, folder: &Path) -> Result<(), String> {
        let mut hashed = Hashing::new(io::sink());
        io::copy(&mut self.open(folder)?, &mut hashed).map_err(|error| self.unreadable(&error))?;
        self.compare(hashed.size, hashed.hash)
    }

    /// The file's content, as it was written.
    pub(crate) fn content(&self, folder: &Path) -> Result<Vec<u8>, String> {
        let mut bytes = Vec::new();
        self.open(folder)?.read_to_end(&mut bytes).map_err(|error| self.unreadable(&error))?;
        self.compare(bytes.len() as u64, Sha256::new_with_prefix(&bytes))?;
        Ok(bytes)
    }

    fn open(&self, folder: &Path) -> Result<File, String> {
        File::open(folder.join(&self.name)).map_err(|error| self.unreadable(&error))
    }

    fn unreadable(&self, error: &io::Error) -> String {
        format!("{} cannot be read: {error}", self.name)
    }

    fn compare(&self, size: u64, hash: Sha256) -> Result<(), String> {
        if size != self.size {
            return Err(format!("{} has {size} bytes, expected {}", self.name, self.size));
        }
        let found = hex(hash);
        if found != self.sha256 {
            let (expected, found) = (self.sha256.get(..12).unwrap_or(&self.sha256), &found[..12]);
            return Err(format!(
                "{} has another content: SHA-256 {found}..., expected {expected}...",
                self.name
            ));
        }
        Ok(())
    }
}

/// Passes bytes on, counting and hashing them: the manifest tells what was meant, whatever the disk makes of it.
struct Hashing<W> {
    inner: W,
    size: u64,
    hash: Sha256,
}

impl<W> Hashing<W> {
    fn new(inner: W) -> Self {
        Self { inner, size: 0, hash: Sha256::new() }
    }
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.size += written as u64;
        self.hash.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// On failure also how many bytes reached the file.
pub(crate) fn write_part(path: &Path, part: &mut Part<'_>) -> Result<FileEntry, (u64, io::Error)> {
    let file = File::create_new(path).map_err(|error| (0, error))?;
    let mut writer = BufWriter::with_capacity(1 << 20, Hashing::new(file));
    let done = (part.write)(&mut writer).and_then(|()| writer.flush());
    // Taken apart, so that dropping does not write once more.
    let (Hashing { inner: file, size, hash }, _) = writer.into_parts();
    done.and_then(|()| file.sync_all()).map_err(|error| (size, error))?;
    Ok(FileEntry { name: part.name.to_owned(), size, sha256: hex(hash) })
}

pub(crate) fn write_manifest(path: &Path, manifest: &Manifest) -> io::Result<()> {
    let mut file = File::create_new(path)?;
    let mut text = serde_json::to_string_pretty(manifest)?;
    text.push('\n');
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

pub(crate) fn read_manifest(folder: &Path, step: u64) -> Result<Manifest, String> {
    if !folder.is_dir() {
        return Err("is missing".to_owned());
    }
    let text =
        fs::read(folder.join(MANIFEST)).map_err(|error| format!("{MANIFEST} cannot be read: {error}"))?;
    let manifest: Manifest =
        serde_json::from_slice(&text).map_err(|error| format!("{MANIFEST} is damaged: {error}"))?;
    if manifest.format != FORMAT {
        return Err(format!("{MANIFEST} is of format {}, this program knows {FORMAT}", manifest.format));
    }
    if manifest.step != step {
        return Err(format!("{MANIFEST} is that of step {}", manifest.step));
    }
    if let Some(file) = manifest.files.iter().find(|file| !is_plain(&file.name)) {
        return Err(format!("{MANIFEST} names {:?}, which is no name of a part", file.name));
    }
    Ok(manifest)
}

/// Whether a name is that of a file in the folder itself, on any system.
pub(crate) fn is_plain(name: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    !name.is_empty() && !name.starts_with('.') && name.chars().all(allowed)
}

/// Whether all files are there in their sizes.
pub(crate) fn is_complete(folder: &Path, step: u64) -> bool {
    read_manifest(folder, step).is_ok_and(|manifest| {
        let whole = |file: &FileEntry| folder.join(&file.name).metadata().is_ok_and(|m| m.len() == file.size);
        manifest.files.iter().all(whole)
    })
}

fn hex(hash: Sha256) -> String {
    hash.finalize().iter().fold(String::with_capacity(64), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Brings names to the disk. Only Unix lets a folder be opened for that.
pub(crate) fn sync_folder(folder: &Path) -> io::Result<()> {
    if cfg!(unix) { File::open(folder)?.sync_all() } else { Ok(()) }
}
