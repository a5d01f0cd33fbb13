//! The files of a dataset: which there are, and the fence around them.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::path::{Component, Path, PathBuf};
use std::sync::Mutex;

use crate::decode::{cannot_read, read_bytes};
use crate::{DataError, Limits};

/// How deep folders in folders are searched.
const DEPTH: usize = 8;

/// The folder of a dataset. Paths found inside it go through here, so that none leads out.
pub(super) struct Root {
    /// As the caller named it.
    pub(super) path: PathBuf,
    /// Without links and dots.
    real: PathBuf,
    allow_outside: bool,
    /// Folders already found to lie inside.
    checked: Mutex<HashSet<PathBuf>>,
}

impl Root {
    pub(super) fn new(path: &Path, allow_outside: bool) -> Result<Self, DataError> {
        let failed = |source| cannot_read(&path.display().to_string(), source);
        let real = fs::canonicalize(path).map_err(failed)?;
        if !real.is_dir() {
            return Err(DataError::not_a_dataset(path, "expected a folder"));
        }
        Ok(Self { path: path.to_owned(), real, allow_outside, checked: Mutex::default() })
    }

    /// A path as a dataset's file names it, relative to `base`. The result need not exist.
    ///
    /// `\` separates as `/` does: lists are made on Windows, too.
    pub(super) fn join(&self, base: &Path, relative: &str, said_by: &Path) -> Result<PathBuf, DataError> {
        let outside =
            || DataError::Outside { name: said_by.display().to_string(), path: relative.to_owned() };
        let relative = relative.replace('\\', "/");
        if self.allow_outside {
            return Ok(base.join(relative));
        }
        // Where `base` lies below the root, counted in folders, is how often `..` may follow.
        let below = base.strip_prefix(&self.path).map_err(|_| outside())?;
        let mut parts: Vec<&std::ffi::OsStr> = below.iter().collect();
        for part in Path::new(&relative).components() {
            match part {
                Component::Normal(part) => parts.push(part),
                Component::CurDir => {}
                Component::ParentDir => drop(parts.pop().ok_or_else(outside)?),
                Component::RootDir | Component::Prefix(_) => return Err(outside()),
            }
        }
        let path = parts.iter().fold(self.path.clone(), |path, part| path.join(part));
        self.check(&path, said_by)?;
        Ok(path)
    }

    /// Refuses a path that links lead out of the folder. One that does not exist is left for its reader to miss.
    pub(super) fn check(&self, path: &Path, said_by: &Path) -> Result<(), DataError> {
        if self.allow_outside || path == self.path {
            return Ok(());
        }
        let inside = |path: &Path| fs::canonicalize(path).map_or(true, |real| real.starts_with(&self.real));
        let folder = path.parent().unwrap_or(path).to_owned();
        // The lock is held by no code that can panic.
        let known = self.checked.lock().is_ok_and(|checked| checked.contains(&folder));
        let folder_inside = known || inside(&folder);
        if !known
            && folder_inside
            && let Ok(mut checked) = self.checked.lock()
        {
            checked.insert(folder);
        }
        if folder_inside && (!path.is_symlink() || inside(path)) {
            return Ok(());
        }
        Err(DataError::Outside { name: said_by.display().to_string(), path: path.display().to_string() })
    }

    /// The folders in `folder`, by name in lower case.
    pub(super) fn folders(&self, folder: &Path) -> Result<BTreeMap<String, PathBuf>, DataError> {
        let mut found = BTreeMap::new();
        for path in entries(folder)? {
            if path.is_dir() {
                self.check(&path, folder)?;
                found.insert(file_name(&path).to_lowercase(), path);
            }
        }
        Ok(found)
    }

    /// The files in `folder`, and with `deep` in the folders below, that end in one of `extensions`; sorted by id.
    pub(super) fn files(
        &self,
        folder: &Path,
        extensions: &[&str],
        deep: bool,
    ) -> Result<Vec<Entry>, DataError> {
        let mut found = Vec::new();
        self.collect(folder, "", extensions, if deep { DEPTH } else { 0 }, &mut found)?;
        found.sort_by(|a: &Entry, b| a.id.cmp(&b.id).then_with(|| a.path.cmp(&b.path)));
        Ok(found)
    }

    fn collect(
        &self,
        folder: &Path,
        prefix: &str,
        extensions: &[&str],
        depth: usize,
        found: &mut Vec<Entry>,
    ) -> Result<(), DataError> {
        for path in entries(folder)? {
            let is_link = path.is_symlink();
            if is_link {
                self.check(&path, folder)?;
            }
            if path.is_dir() {
                // A link to a folder inside would only show the same files again, or for ever.
                if depth > 0 && (!is_link || self.allow_outside) {
                    let prefix = format!("{prefix}{}/", file_name(&path));
                    self.collect(&path, &prefix, extensions, depth - 1, found)?;
                }
            } else if has_extension(&path, extensions) {
                let id = format!("{prefix}{}", stem(&path));
                found.push(Entry { id, path });
            }
        }
        Ok(())
    }
}

/// A file of a dataset.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    /// Its path below the folder it was searched in, with `/` between and without its ending.
    pub(super) id: String,
    pub(super) path: PathBuf,
}

/// What lies in a folder, sorted, without hidden files.
fn entries(folder: &Path) -> Result<Vec<PathBuf>, DataError> {
    let failed = |source| cannot_read(&folder.display().to_string(), source);
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if !entry.file_name().as_encoded_bytes().starts_with(b".") {
            paths.push(entry.path());
        }
    }
    paths.sort();
    Ok(paths)
}

pub(super) fn has_extension(path: &Path, extensions: &[&str]) -> bool {
    let ending = path.extension().and_then(|e| e.to_str()).unwrap_or_default();
    extensions.iter().any(|e| e.eq_ignore_ascii_case(ending))
}

pub(super) fn file_name(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

pub(super) fn stem(path: &Path) -> String {
    path.file_stem().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

/// The text of a file, without a byte order mark.
pub(super) fn read_text(path: &Path, limits: &Limits) -> Result<String, DataError> {
    let bytes = read_bytes(path, &path.display().to_string(), limits)?;
    let mut text = String::from_utf8(bytes).map_err(|error| {
        let good = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = 1 + good.split(|&b| b == b'\n').skip(1).count();
        DataError::malformed(path, format!("line {line}"), "expected UTF-8 text")
    })?;
    if text.starts_with('\u{feff}') {
        text.drain(..'\u{feff}'.len_utf8());
    }
    Ok(text)
}

/// The lines of a text that hold something, trimmed, with their numbers from 1.
pub(super) fn lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    (1..).zip(text.lines().map(str::trim)).filter(|(_, line)| !line.is_empty())
}

/// The usual name of a part of a dataset: `train`, `val`, `test` or `trainval`, whatever spelling it has
/// (`training`, `valid`, `val2017`); nothing for other words.
pub(super) fn usual_split(word: &str) -> Option<&'static str> {
    // A year may follow; other digits number folds, which are parts of their own.
    let bare = word.trim_end_matches(|c: char| c.is_ascii_digit());
    let word = if word.len() - bare.len() == 4 { bare } else { word };
    match word.to_lowercase().as_str() {
        "train" | "training" => Some("train"),
        "val" | "valid" | "validation" | "dev" => Some("val"),
        "test" | "testing" => Some("test"),
        "trainval" => Some("trainval"),
        _ => None,
    }
}

/// The name a part is known by: the usual one where there is one.
pub(super) fn split_name(word: &str) -> String {
    usual_split(word).map_or_else(|| word.to_owned(), str::to_owned)
}
