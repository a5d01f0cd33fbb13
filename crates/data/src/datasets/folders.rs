//! Folders of pictures: a folder a class (ImageFolder), or pictures alone.

use std::collections::BTreeSet;
use std::path::PathBuf;

use super::classes::{from_names, summary};
use super::files::{Root, file_name, usual_split};
use super::parts::{Pair, choose, picture_folder};
use super::per_picture::class_list;
use super::{OpenOptions, Opened, Sample, Source};
use crate::{DataError, EXTENSIONS};

/// A folder of class folders, and the part of the set it is.
type Parts = Vec<(Option<String>, Vec<PathBuf>)>;

/// The folders that stand for classes, by part; empty when the set is laid out otherwise.
pub(super) fn class_folders(root: &Root) -> Result<Parts, DataError> {
    let holders = |folder: &PathBuf| -> Result<Vec<PathBuf>, DataError> {
        let mut found = Vec::new();
        for inner in root.folders(folder)?.into_values() {
            if !root.files(&inner, EXTENSIONS, true)?.is_empty() {
                found.push(inner);
            }
        }
        Ok(found)
    };
    let mut parts = Vec::new();
    for (name, folder) in root.folders(&root.path)? {
        if let Some(split) = usual_split(&name) {
            let classes = holders(&folder)?;
            if !classes.is_empty() {
                parts.push((Some(split.to_owned()), classes));
            }
        }
    }
    if parts.is_empty() && picture_folder(root, &root.path)?.is_none() {
        let classes: Vec<PathBuf> =
            holders(&root.path)?.into_iter().filter(|f| usual_split(&file_name(f)).is_none()).collect();
        if !classes.is_empty() {
            parts.push((None, classes));
        }
    }
    Ok(parts)
}

pub(super) fn open_classes(root: &Root, options: &OpenOptions) -> Result<Opened, DataError> {
    let parts = class_folders(root)?;
    if parts.is_empty() {
        let reason = "expected a folder with pictures for every class, found none";
        return Err(DataError::not_a_dataset(&root.path, reason));
    }
    let mut opened = Opened { found: "a folder of pictures for every class".to_owned(), ..Opened::default() };
    let names = parts.iter().flat_map(|(_, folders)| folders).map(|folder| file_name(folder));
    let names: BTreeSet<String> = names.collect();
    opened.classes = match class_list(root, options)? {
        Some(classes) => classes,
        None => from_names(names),
    };
    let mut pairs = Vec::new();
    for (split, folders) in parts {
        for folder in folders {
            let name = file_name(&folder);
            let class = opened.classes.iter().find(|class| class.name == name).ok_or_else(|| {
                DataError::UnknownClass {
                    name: root.path.display().to_string(),
                    place: format!("folder {}", folder.display()),
                    class: name.clone(),
                    known: summary(&opened.classes),
                }
            })?;
            for entry in root.files(&folder, EXTENSIONS, true)? {
                let id = format!("{name}/{}", entry.id);
                pairs.push(Pair { id, picture: entry.path, split: split.clone(), labels: class.id });
            }
        }
    }
    let pairs = choose(root, pairs, options.split.as_deref(), &options.limits, &mut opened.problems)?;
    opened.samples = pairs.into_iter().map(|pair| sample(pair, |class| Source::Tags(vec![class]))).collect();
    Ok(opened)
}

/// Pictures in `images/`, or anywhere below the folder.
pub(super) fn open_pictures(root: &Root, options: &OpenOptions) -> Result<Opened, DataError> {
    let mut opened = Opened { found: "pictures without labels".to_owned(), ..Opened::default() };
    let folder = picture_folder(root, &root.path)?.unwrap_or_else(|| root.path.clone());
    let pictures = root.files(&folder, EXTENSIONS, true)?.into_iter();
    let pairs = pictures.map(|entry| {
        let split = entry.id.split_once('/').and_then(|(top, _)| usual_split(top)).map(str::to_owned);
        Pair { id: entry.id, picture: entry.path, split, labels: () }
    });
    let pairs =
        choose(root, pairs.collect(), options.split.as_deref(), &options.limits, &mut opened.problems)?;
    opened.samples = pairs.into_iter().map(|pair| sample(pair, |()| Source::None)).collect();
    Ok(opened)
}

fn sample<L>(pair: Pair<L>, source: impl Fn(L) -> Source) -> Sample {
    Sample {
        id: pair.id,
        image: pair.picture,
        size: None,
        split: pair.split,
        labels: source(pair.labels),
        frame: None,
    }
}
