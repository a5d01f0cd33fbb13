//! Layouts with one label file a picture that names classes by name.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use super::classes::{from_names, read_class_list};
use super::files::Root;
use super::parts::{Pair, Wanted, find, pair};
use super::{Class, OpenOptions, Opened, Sample, Source};
use crate::DataError;

/// Opens a set with one label file a picture that names its classes.
pub(super) fn open_files(
    root: &Root,
    options: &OpenOptions,
    wanted: &Wanted,
    what: &str,
    source: fn(PathBuf) -> Source,
    names_in: &(dyn Fn(&Path) -> Vec<String> + Sync),
) -> Result<Opened, DataError> {
    let parts = find(root, wanted)?;
    if parts.is_empty() {
        let reason = format!("expected {what}, found none beside or near pictures");
        return Err(DataError::not_a_dataset(&root.path, reason));
    }
    let mut opened = Opened { found: what.to_owned(), ..Opened::default() };
    let split = options.split.as_deref();
    let pairs = pair(root, &parts, wanted, split, &options.limits, &mut opened.problems)?;
    opened.classes = class_list(root, options)?.unwrap_or_else(|| {
        // The names of the part asked for would number the classes differently from part to part.
        let files = parts.iter().filter_map(|part| root.files(&part.labels, wanted.extensions, true).ok());
        let files: Vec<_> = files.flatten().collect();
        let names: BTreeSet<String> = files.par_iter().flat_map_iter(|file| names_in(&file.path)).collect();
        from_names(names)
    });
    let sample = |pair: Pair| Sample {
        id: pair.id,
        image: pair.picture,
        size: None,
        split: pair.split,
        labels: pair.labels.into_iter().next().map_or(Source::None, source),
        frame: None,
    };
    opened.samples = pairs.into_iter().map(sample).collect();
    Ok(opened)
}

/// The set's list of classes, where it has one.
pub(super) fn class_list(root: &Root, options: &OpenOptions) -> Result<Option<Vec<Class>>, DataError> {
    for name in ["classes.txt", "labels.txt", "label.txt"] {
        let path = root.path.join(name);
        if path.is_file() {
            root.check(&path, &root.path)?;
            return read_class_list(&path, &options.limits).map(Some);
        }
    }
    Ok(None)
}
