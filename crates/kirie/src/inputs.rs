//! From what was named on the command line to a list of pictures.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use anyhow::Context;
use kirie_data::EXTENSIONS;

use crate::report;

/// A picture to work on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Input {
    /// Where it is.
    pub(crate) path: PathBuf,
    /// What its output files are called; no two inputs share one.
    pub(crate) name: String,
}

/// Expands files, folders and patterns, in order and without repeats.
///
/// # Errors
/// A folder that cannot be read, a pattern that means nothing, or no picture at all. A file that does not exist is no
/// error here: it fails when its turn comes, like any other bad picture.
pub(crate) fn collect(arguments: &[String], recursive: bool) -> anyhow::Result<Vec<Input>> {
    let mut paths = Vec::new();
    for argument in arguments {
        let path = Path::new(argument);
        if path.is_dir() {
            let before = paths.len();
            scan(path, recursive, &mut paths)
                .with_context(|| format!("cannot read the folder {argument}"))?;
            if paths.len() == before {
                let deeper =
                    if recursive { "" } else { "; with --recursive folders inside it are searched too" };
                anyhow::bail!("no pictures ({}) in the folder {argument}{deeper}", EXTENSIONS.join(", "));
            }
        } else if !path.exists() && argument.contains(['*', '?', '[']) {
            let pattern =
                glob::glob(argument).map_err(|e| report::usage(format!("pattern `{argument}`: {e}")))?;
            let before = paths.len();
            for found in pattern {
                let found = found.with_context(|| format!("cannot follow the pattern {argument}"))?;
                if found.is_file() {
                    paths.push(found);
                }
            }
            if paths.len() == before {
                anyhow::bail!("no file matches the pattern {argument}");
            }
        } else {
            paths.push(path.to_owned());
        }
    }
    let mut seen = HashSet::new();
    paths.retain(|path| seen.insert(path.clone()));
    Ok(name(paths))
}

fn scan(folder: &Path, recursive: bool, paths: &mut Vec<PathBuf>) -> std::io::Result<()> {
    let mut entries: Vec<PathBuf> =
        std::fs::read_dir(folder)?.map(|entry| entry.map(|e| e.path())).collect::<Result<_, _>>()?;
    entries.sort();
    for entry in entries {
        if entry.is_dir() {
            // A link back up would never end.
            if recursive && !entry.is_symlink() {
                scan(&entry, recursive, paths)?;
            }
        } else if is_picture(&entry) {
            paths.push(entry);
        }
    }
    Ok(())
}

fn is_picture(path: &Path) -> bool {
    let extension = path.extension().map(|e| e.to_string_lossy().to_lowercase());
    extension.is_some_and(|e| EXTENSIONS.contains(&e.as_str()))
}

/// Names output files after their pictures; a name met before gets a number.
fn name(paths: Vec<PathBuf>) -> Vec<Input> {
    let mut taken = HashSet::new();
    paths
        .into_iter()
        .map(|path| {
            let stem =
                path.file_stem().map_or_else(|| "picture".into(), |s| s.to_string_lossy().into_owned());
            let mut name = stem.clone();
            let mut number = 2;
            // Case is no difference on some file systems.
            while !taken.insert(name.to_lowercase()) {
                name = format!("{stem}-{number}");
                number += 1;
            }
            Input { path, name }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique() {
        let paths = ["a/x.jpg", "b/x.png", "b/X.jpg", "c/x-2.jpg"].map(PathBuf::from).to_vec();
        let names: Vec<String> = name(paths).into_iter().map(|i| i.name).collect();
        assert_eq!(names, ["x", "x-2", "X-3", "x-2-2"]);
    }

    #[test]
    fn folders_and_patterns_are_expanded() {
        let root = tempfile::tempdir().unwrap();
        for file in ["b.PNG", "a.jpg", "note.txt", "inner/c.webp"] {
            let path = root.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, b"").unwrap();
        }
        let folder = root.path().to_string_lossy().into_owned();
        let names = |arguments: &[String], recursive| -> Vec<String> {
            collect(arguments, recursive).unwrap().into_iter().map(|i| i.name).collect()
        };
        assert_eq!(names(std::slice::from_ref(&folder), false), ["a", "b"]);
        assert_eq!(names(std::slice::from_ref(&folder), true), ["a", "b", "c"]);
        assert_eq!(names(&[format!("{folder}/*.jpg"), folder.clone()], false), ["a", "b"]);
        assert!(collect(&[format!("{folder}/*.bmp")], false).is_err());
        std::fs::remove_file(root.path().join("a.jpg")).unwrap();
        std::fs::remove_file(root.path().join("b.PNG")).unwrap();
        assert!(collect(&[folder], false).is_err());
    }
}
