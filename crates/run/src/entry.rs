//! Files that are written, and read again, against their size and hash.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// A file as it was meant to be: what a manifest says of it.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct FileEntry {
    /// Its name below the folder that the manifest is of.
    pub name: String,
    /// Bytes.
    pub size: u64,
    /// SHA-256 in hexadecimal.
    pub sha256: String,
}

impl FileEntry {
    /// What is said of a file with this content.
    pub fn of(name: &str, content: &[u8]) -> Self {
        let sha256 = hex(Sha256::new_with_prefix(content));
        Self { name: name.to_owned(), size: content.len() as u64, sha256 }
    }

    /// Writes a new file of this name below `folder` and brings it to the disk. The hash is that of what `content`
    /// wrote, whatever the disk makes of it. The writer is buffered.
    ///
    /// # Errors
    /// The system's reason, `AlreadyExists` for one, and how many bytes reached the file before.
    pub fn write(
        folder: &Path,
        name: &str,
        content: &mut dyn FnMut(&mut dyn Write) -> io::Result<()>,
    ) -> Result<Self, (u64, io::Error)> {
        let file = File::create_new(folder.join(name)).map_err(|error| (0, error))?;
        let mut writer = BufWriter::with_capacity(1 << 20, Hashing::new(file));
        let done = content(&mut writer).and_then(|()| writer.flush());
        // Taken apart, so that dropping does not write once more.
        let (Hashing { inner: file, size, hash }, _) = writer.into_parts();
        done.and_then(|()| file.sync_all()).map_err(|error| (size, error))?;
        Ok(Self { name: name.to_owned(), size, sha256: hex(hash) })
    }

    /// Reads the file to see whether it is as it was written; what is wrong, if it is not.
    pub fn verify(&self, folder: &Path) -> Result<(), String> {
        let mut hashed = Hashing::new(io::sink());
        io::copy(&mut self.open(folder)?, &mut hashed).map_err(|error| self.unreadable(&error))?;
        self.compare(hashed.size, hashed.hash)
    }

    /// The file's content, as it was written; what is wrong, if it is not.
    pub fn content(&self, folder: &Path) -> Result<Vec<u8>, String> {
        let mut bytes = Vec::new();
        // One byte more than expected tells as much as a file that grew without end.
        let most = self.size.saturating_add(1);
        self.open(folder)?.take(most).read_to_end(&mut bytes).map_err(|error| self.unreadable(&error))?;
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

/// Passes bytes on, counting and hashing them.
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

/// Whether a name is that of a file in the folder itself, on any system.
pub fn is_plain(name: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    !name.is_empty() && !name.starts_with('.') && name.chars().all(allowed)
}

fn hex(hash: Sha256) -> String {
    hash.finalize().iter().fold(String::with_capacity(64), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Brings the names in a folder to the disk. Only Unix lets a folder be opened for that.
pub fn sync_folder(folder: &Path) -> io::Result<()> {
    if cfg!(unix) { File::open(folder)?.sync_all() } else { Ok(()) }
}
