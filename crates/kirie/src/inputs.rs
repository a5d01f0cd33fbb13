//! From what was named on the command line to a list of pictures.

use std::collections::HashSet;
use std::path::{Component, Path, PathBuf};

use anyhow::Context;
use glob::MatchOptions;
use kirie_data::EXTENSIONS;

use crate::report;

/// A picture to work on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Input {
    /// Where it is.
    pub(crate) path: PathBuf,
    /// Its name below the folder it was found in, or its file name; with extension.
    pub(crate) listed: String,
    /// What its output files are called, folders inside the scanned one included; no two inputs share one.
    pub(crate) name: String,
}

/// What the command line named.
#[derive(Debug, Default)]
pub(crate) struct Inputs {
    /// The pictures, in order and without repeats.
    pub(crate) pictures: Vec<Input>,
    /// What could not be looked into.
    pub(crate) failures: Vec<anyhow::Error>,
}

impl Inputs {
    /// Expands files, folders and patterns. The folder `output` is not searched, or a second run would work on the
    /// results of the first.
    ///
    /// A file that does not exist is no failure here: it fails when its turn comes, like any other bad picture.
    ///
    /// # Errors
    /// A pattern that means nothing.
    pub(crate) fn collect(
        arguments: &[String],
        recursive: bool,
        output: Option<&Path>,
    ) -> anyhow::Result<Self> {
        let mut scan =
            Scan { recursive, output: output.and_then(|o| o.canonicalize().ok()), ..Scan::default() };
        for argument in arguments {
            let path = Path::new(argument);
            let before = (scan.found.len(), scan.failures.len());
            if path.is_dir() {
                scan.folder(path, path);
                if (scan.found.len(), scan.failures.len()) == before {
                    let deeper =
                        if recursive { "" } else { "; with --recursive folders inside it are searched too" };
                    let endings = EXTENSIONS.join(", ");
                    scan.failures
                        .push(anyhow::anyhow!("no pictures ({endings}) in the folder {argument}{deeper}"));
                }
            } else if !path.exists() && argument.contains(['*', '?', '[']) {
                // As in a shell, a star does not stand for a hidden file's dot.
                let options = MatchOptions { require_literal_leading_dot: true, ..MatchOptions::new() };
                let pattern = glob::glob_with(argument, options)
                    .map_err(|e| report::usage(format!("pattern `{argument}`: {e}")))?;
                for found in pattern {
                    match found {
                        Ok(path) if path.is_file() => scan.file(path),
                        Ok(_) => {}
                        Err(error) => scan.failures.push(error.into()),
                    }
                }
                if (scan.found.len(), scan.failures.len()) == before {
                    scan.failures.push(anyhow::anyhow!("no file matches the pattern {argument}"));
                }
            } else {
                scan.file(path.to_owned());
            }
        }
        Ok(Self { pictures: name(scan.found), failures: scan.failures })
    }
}

#[derive(Default)]
struct Scan {
    recursive: bool,
    output: Option<PathBuf>,
    /// Paths, and their names below the folder they were found in.
    found: Vec<(PathBuf, PathBuf)>,
    failures: Vec<anyhow::Error>,
}

impl Scan {
    fn file(&mut self, path: PathBuf) {
        let name = path.file_name().map_or_else(|| path.clone(), PathBuf::from);
        self.found.push((path, name));
    }

    fn folder(&mut self, root: &Path, folder: &Path) {
        let entries = std::fs::read_dir(folder)
            .and_then(|entries| entries.map(|entry| entry.map(|e| e.path())).collect::<Result<Vec<_>, _>>())
            .with_context(|| format!("cannot read the folder {}", folder.display()));
        let mut entries = match entries {
            Ok(entries) => entries,
            Err(error) => return self.failures.push(error),
        };
        entries.sort();
        for entry in entries {
            // Hidden files beside pictures are some system's notes about them, not pictures.
            if entry.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.')) {
                continue;
            }
            if entry.is_dir() {
                // A link back up would never end.
                if self.recursive && !entry.is_symlink() && !self.is_output(&entry) {
                    self.folder(root, &entry);
                }
            } else if is_picture(&entry) {
                let name = entry.strip_prefix(root).unwrap_or(&entry).to_owned();
                self.found.push((entry, name));
            }
        }
    }

    fn is_output(&self, folder: &Path) -> bool {
        self.output.is_some() && folder.canonicalize().ok() == self.output
    }
}

fn is_picture(path: &Path) -> bool {
    let extension = path.extension().map(|e| e.to_string_lossy().to_lowercase());
    extension.is_some_and(|e| EXTENSIONS.contains(&e.as_str()))
}

/// Drops repeats, and names output files after their pictures; a name met before gets a number.
fn name(found: Vec<(PathBuf, PathBuf)>) -> Vec<Input> {
    let mut seen = HashSet::new();
    let mut taken = HashSet::new();
    found
        .into_iter()
        // `./a.jpg` and `a.jpg` are one
        .filter(|(path, _)| {
            seen.insert(path.components().filter(|c| *c != Component::CurDir).collect::<PathBuf>())
        })
        .map(|(path, listed)| {
            let stem = listed.with_extension("").to_string_lossy().into_owned();
            let mut name = stem.clone();
            let mut number = 2;
            // Case is no difference on some file systems.
            while !taken.insert(name.to_lowercase()) {
                name = format!("{stem}-{number}");
                number += 1;
            }
            Input { path, listed: listed.to_string_lossy().into_owned(), name }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_repeats_dropped() {
        let found = ["a/x.jpg", "b/x.png", "./a/x.jpg", "b/X.jpg", "c/x-2.jpg"]
            .map(|p| (PathBuf::from(p), PathBuf::from(p).file_name().unwrap().into()));
        let names: Vec<String> = name(found.to_vec()).into_iter().map(|i| i.name).collect();
        assert_eq!(names, ["x", "x-2", "X-3", "x-2-2"]);
    }

    #[test]
    fn folders_and_patterns_are_expanded() {
        let root = tempfile::tempdir().unwrap();
        for file in ["b.PNG", "a.jpg", "note.txt", "._a.jpg", "inner/a.webp", "out/a.overlay.jpg"] {
            let path = root.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, b"").unwrap();
        }
        let folder = root.path().to_string_lossy().into_owned();
        let out = root.path().join("out");
        let names = |arguments: &[String], recursive| -> Vec<String> {
            let inputs = Inputs::collect(arguments, recursive, Some(&out)).unwrap();
            assert!(inputs.failures.is_empty());
            inputs.pictures.into_iter().map(|i| i.name).collect()
        };
        assert_eq!(names(std::slice::from_ref(&folder), false), ["a", "b"]);
        assert_eq!(names(std::slice::from_ref(&folder), true), ["a", "b", "inner/a"]);
        assert_eq!(names(&[format!("{folder}/*.jpg"), folder.clone()], false), ["a", "b"]);
        let failures = |argument: String| {
            let inputs = Inputs::collect(&[argument], false, None).unwrap();
            (inputs.pictures.len(), inputs.failures.len())
        };
        assert_eq!(failures(format!("{folder}/*.bmp")), (0, 1));
        std::fs::remove_file(root.path().join("a.jpg")).unwrap();
        std::fs::remove_file(root.path().join("b.PNG")).unwrap();
        assert_eq!(failures(folder), (0, 1));
    }
}
