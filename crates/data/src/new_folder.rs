//! Folders that appear whole: written aside, then given their name.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::atomic::folder_of;
use crate::decode::cannot_read;
use crate::{DataError, create_parent};

/// A folder in the making: a hidden one beside its place (`.kirie-*.tmp`), which goes away when it is dropped, and the name
/// that its content is to get.
#[derive(Debug)]
pub struct NewFolder {
    target: PathBuf,
    /// Whether the target was there, and empty.
    exists: bool,
    hidden: TempDir,
    work: PathBuf,
}

impl NewFolder {
    /// Makes sure that there is nothing of the target's name, or an empty folder. Folders above it that are missing are
    /// made.
    ///
    /// # Errors
    /// [`DataError::NotEmpty`], or the system's reason.
    pub fn new(target: &Path) -> Result<Self, DataError> {
        let failed = |source| cannot_write(target, source);
        let exists = match fs::read_dir(target) {
            Ok(mut entries) => match entries.next() {
                Some(_) => return Err(DataError::NotEmpty { name: target.display().to_string() }),
                None => true,
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => false,
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => return Err(failed(error)),
            Err(error) => return Err(cannot_read(&target.display().to_string(), error)),
        };
        // On the same disk as the target, so that renaming is all there is left to do. An empty folder may be a disk of
        // its own.
        let parent = if exists { target } else { folder_of(target) };
        create_parent(target)?;
        let hidden =
            tempfile::Builder::new().prefix(".kirie-").suffix(".tmp").tempdir_in(parent).map_err(failed)?;
        // The hidden folder itself is for this user alone; the content gets the permissions of any new folder.
        let work = hidden.path().join("new");
        fs::create_dir(&work).map_err(failed)?;
        Ok(Self { target: target.to_owned(), exists, hidden, work })
    }

    /// The folder to write to.
    pub fn work(&self) -> &Path {
        &self.work
    }

    /// Gives what was written its name.
    ///
    /// # Errors
    /// The system's reason.
    pub fn finish(self) -> Result<(), DataError> {
        let failed = |source| cannot_write(&self.target, source);
        if self.exists {
            for entry in fs::read_dir(&self.work).map_err(failed)? {
                let entry = entry.map_err(failed)?;
                fs::rename(entry.path(), self.target.join(entry.file_name())).map_err(failed)?;
            }
        } else {
            fs::rename(&self.work, &self.target).map_err(failed)?;
        }
        self.hidden.close().map_err(failed)
    }
}

fn cannot_write(path: &Path, source: io::Error) -> DataError {
    DataError::Write { name: path.display().to_string(), source }
}
