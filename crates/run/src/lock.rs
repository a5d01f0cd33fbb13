//! Folders that one process at a time works in.

use std::fs::{File, TryLockError};
use std::io::{ErrorKind, Read, Write};
use std::path::Path;

use crate::RunError;

/// The lock of a folder, held for as long as this value lives, and freed by the system with the process that held it.
///
/// It is a file `.lock` in the folder, which stays behind and means nothing by itself.
#[derive(Debug)]
pub struct FolderLock {
    _file: File,
}

impl FolderLock {
    /// Takes the lock of a folder that is there.
    ///
    /// # Errors
    /// [`RunError::Locked`] at once if another process, or another value of this one, holds it; or the system's reason.
    pub fn acquire(folder: &Path) -> Result<Self, RunError> {
        let name = folder.join(".lock");
        let mut lock = File::options()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(&name)
            .map_err(RunError::files(&name, "opened"))?;
        match lock.try_lock() {
            // Who holds it, for the message to the second; no harm if this cannot be written.
            Ok(()) => {
                let _ = lock.set_len(0).and_then(|()| write!(lock, "process {}", std::process::id()));
            }
            // A network file system without locks: better unlocked than no work at all.
            Err(TryLockError::Error(error)) if error.kind() == ErrorKind::Unsupported => {}
            Err(TryLockError::Error(error)) => return Err(RunError::files(&name, "locked")(error)),
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                let _ = lock.take(100).read_to_string(&mut holder);
                return Err(RunError::Locked { path: folder.to_owned(), holder });
            }
        }
        Ok(Self { _file: lock })
    }
}
