//! The one way files are written: whole or not at all.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use crate::DataError;

/// Writes a file so that its path always holds either the old content or all of the new.
///
/// The content goes to a hidden temporary file in the same folder (`.kirie-*.tmp`), is brought to the disk, and then
/// takes the name in one step. When `content`, or anything else, fails, the old file is untouched and the
/// temporary is removed (a killed process may leave it behind). The folder must exist: see [`create_parent`].
///
/// A new file gets the permissions any program's new file would get; a replaced one keeps its own. A symbolic link
/// is followed. A device or pipe (`/dev/null`) is written to, never replaced.
///
/// # Errors
/// [`DataError::Write`], with the path and the system's reason.
pub fn write_atomic(
    path: impl AsRef<Path>,
    content: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> Result<(), DataError> {
    let path = path.as_ref();
    replace(path, |file| Box::new(file), content)
        .map_err(|source| DataError::Write { name: path.display().to_string(), source })
}

/// Creates the folders above `path` that are missing.
///
/// # Errors
/// [`DataError::Write`] naming the folder.
pub fn create_parent(path: impl AsRef<Path>) -> Result<(), DataError> {
    let folder = folder_of(path.as_ref());
    fs::create_dir_all(folder)
        .map_err(|source| DataError::Write { name: folder.display().to_string(), source })
}

/// The work of [`write_atomic`]. `layer` wraps the file, so that tests can make any single write fail.
fn replace(
    path: &Path,
    layer: impl for<'a> FnOnce(&'a File) -> Box<dyn Write + 'a>,
    content: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> io::Result<()> {
    let target = follow_link(path);
    let old = match fs::metadata(&target) {
        Ok(old) => Some(old),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(error),
    };
    match &old {
        Some(old) if old.is_dir() => return Err(io::ErrorKind::IsADirectory.into()),
        Some(old) if !old.is_file() => {
            return fill(layer(&File::options().write(true).open(&target)?), content);
        }
        _ => {}
    }

    let folder = folder_of(&target);
    let mut builder = tempfile::Builder::new();
    builder.prefix(".kirie-").suffix(".tmp");
    #[cfg(unix)]
    {
        // tempfile makes private files (0600); with these bits the process's umask decides, as for any new file.
        use std::os::unix::fs::PermissionsExt;
        builder.permissions(fs::Permissions::from_mode(0o666));
    }
    // Dropping the temporary on any early return removes it.
    let temporary = builder.tempfile_in(folder)?;
    fill(layer(temporary.as_file()), content)?;
    if let Some(old) = &old {
        temporary.as_file().set_permissions(old.permissions())?;
    }
    temporary.as_file().sync_all()?;
    temporary.persist(&target).map_err(|failure| failure.error)?;
    sync_folder(folder)
}

fn fill(file: Box<dyn Write + '_>, content: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    let mut buffered = BufWriter::new(file);
    content(&mut buffered)?;
    // Not left to drop, which would swallow the error.
    buffered.flush()
}

/// Where a symbolic link leads; any other path as it is, a dangling link too (it is then replaced by the file).
fn follow_link(path: &Path) -> PathBuf {
    if path.is_symlink() {
        fs::canonicalize(path).unwrap_or_else(|_| path.to_owned())
    } else {
        path.to_owned()
    }
}

/// The folder that a path lies in.
pub(crate) fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Brings the renaming itself to the disk. Only Unix lets a folder be opened for that.
fn sync_folder(folder: &Path) -> io::Result<()> {
    if cfg!(unix) { File::open(folder)?.sync_all() } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fails at the `left`-th write to the file; a flush counts as one.
    struct Failing<W> {
        inner: W,
        left: usize,
    }

    impl<W> Failing<W> {
        fn count(&mut self) -> io::Result<()> {
            self.left = self.left.checked_sub(1).ok_or(io::ErrorKind::StorageFull)?;
            Ok(())
        }
    }

    impl<W: Write> Write for Failing<W> {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.count()?;
            // Short writes, as a full disk makes them.
            self.inner.write(&bytes[..bytes.len().min(1000)])
        }

        fn flush(&mut self) -> io::Result<()> {
            self.count()?;
            self.inner.flush()
        }
    }

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn any_failing_write_leaves_the_old_file_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let new = vec![7; 30_000];
        for old in [None, Some(b"old content".as_slice())] {
            let mut failures = 0;
            loop {
                if let Some(old) = old {
                    fs::write(&path, old).unwrap();
                }
                let left = failures;
                let result = replace(
                    &path,
                    |file| Box::new(Failing { inner: file, left }),
                    |w| new.chunks(77).try_for_each(|part| w.write_all(part)),
                );
                match result {
                    Ok(()) => break,
                    Err(error) => assert_eq!(error.kind(), io::ErrorKind::StorageFull),
                }
                assert_eq!(fs::read(&path).ok().as_deref(), old, "after failing at write {failures}");
                assert_eq!(
                    names(folder.path()).len(),
                    usize::from(old.is_some()),
                    "a temporary is left behind"
                );
                failures += 1;
            }
            assert!(failures > 30, "30,000 bytes take at least 30 writes and a flush");
            assert_eq!(fs::read(&path).unwrap(), new);
            assert_eq!(names(folder.path()), ["file"]);
            fs::remove_file(&path).unwrap();
        }
    }

    #[test]
    fn failing_content_leaves_the_old_file_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, "old").unwrap();
        let error = write_atomic(&path, |w| {
            w.write_all(b"half")?;
            Err(io::Error::other("the source dried up"))
        })
        .unwrap_err();
        assert!(error.to_string().contains("file: cannot be written: the source dried up"), "{error}");
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(names(folder.path()), ["file"]);
    }

    #[test]
    fn a_folder_is_never_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sub");
        fs::create_dir(&path).unwrap();
        let error = write_atomic(&path, |w| w.write_all(b"x")).unwrap_err();
        assert!(error.to_string().contains("sub: cannot be written: is a directory"), "{error}");
        assert_eq!(names(folder.path()), ["sub"]);
    }

    #[test]
    fn missing_folders_are_an_error_until_created() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/b/file");
        assert!(write_atomic(&path, |w| w.write_all(b"x")).is_err());
        create_parent(&path).unwrap();
        write_atomic(&path, |w| w.write_all(b"x")).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"x");
        assert!(create_parent(path.join("below/a/file")).is_err());
        assert_eq!(folder_of(Path::new("bare")), Path::new("."));
    }

    #[cfg(unix)]
    mod unix {
        use std::os::unix::fs::{PermissionsExt, symlink};

        use super::*;

        fn mode(path: &Path) -> u32 {
            fs::metadata(path).unwrap().permissions().mode() & 0o777
        }

        #[test]
        fn permissions_are_those_of_any_file() {
            let folder = tempfile::tempdir().unwrap();
            let (plain, path) = (folder.path().join("plain"), folder.path().join("file"));
            fs::write(&plain, "x").unwrap();
            write_atomic(&path, |w| w.write_all(b"x")).unwrap();
            assert_eq!(mode(&path), mode(&plain));
            fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
            write_atomic(&path, |w| w.write_all(b"y")).unwrap();
            assert_eq!(mode(&path), 0o640, "a replaced file keeps its permissions");
        }

        #[test]
        fn an_unwritable_folder_is_named() {
            let folder = tempfile::tempdir().unwrap();
            fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o555)).unwrap();
            if File::create(folder.path().join("probe")).is_ok() {
                println!("skipped: this user may write anywhere (root)");
                return;
            }
            let error = write_atomic(folder.path().join("file"), |w| w.write_all(b"x")).unwrap_err();
            assert!(error.to_string().to_lowercase().contains("permission denied"), "{error}");
        }

        #[test]
        fn links_are_followed_and_devices_written_to() {
            let folder = tempfile::tempdir().unwrap();
            let (file, link) = (folder.path().join("file"), folder.path().join("link"));
            fs::write(&file, "old").unwrap();
            symlink("file", &link).unwrap();
            write_atomic(&link, |w| w.write_all(b"new")).unwrap();
            assert_eq!(fs::read(&file).unwrap(), b"new");
            assert!(link.is_symlink());

            write_atomic("/dev/null", |w| w.write_all(b"x")).unwrap();
            assert!(!fs::metadata("/dev/null").unwrap().is_file());
            if Path::new("/dev/full").exists() {
                let error = write_atomic("/dev/full", |w| w.write_all(b"x")).unwrap_err();
                assert!(error.to_string().contains("No space left"), "{error}");
            }
        }
    }
}
