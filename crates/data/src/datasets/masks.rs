//! Label pictures: the class, or the object, of every pixel.

use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde::Serialize;

use super::classes::{read_class_list, says_ignore};
use super::files::Root;
use super::labels::{ClassMap, Instance, Labels};
use super::parts::{Pair, Wanted, find, pair};
use super::per_picture::class_list;
use super::{Class, Dataset, OpenOptions, Opened, Sample, Source};
use crate::{DataError, IndexMap, read_index_map};

const FOLDERS: &[&str] = &[
    "masks",
    "mask",
    "segmentationclass",
    "segmentationobject",
    "semantic",
    "gt",
    "ground_truth",
    "groundtruth",
    "labels",
    "label",
    "annotations",
    "annotation",
];
const EXTENSIONS: &[&str] = &["png", "tif", "tiff", "bmp"];

/// Label pictures looked at to find out what their numbers mean.
const SNIFFED: usize = 256;

/// What the numbers in label pictures mean.
///
/// Where the caller does not say, it is found out from the class list and up to 256 of the pictures:
/// several pictures of labels for one picture are objects; numbers that are all 0 and 255, or 0 and 1 without a class
/// list, are a binary mask; numbers that the list names are classes; any others are objects, of the one class that a list
/// names beside background, or of none without a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum MaskMeaning {
    /// Class ids. The highest number the format holds (255, 65,535) is to be ignored, unless it is a class.
    Classes,
    /// Objects: 0 is none, every other number one object. The highest number the format holds (255, 65,535) is a
    /// region to be ignored, unless the number before it occurs as well.
    Instances,
    /// 0 is background, anything else foreground.
    Binary,
}

pub(super) fn wanted(options: &OpenOptions) -> Vec<String> {
    match &options.mask_folder {
        Some(folder) => vec![folder.to_lowercase()],
        None => FOLDERS.iter().map(|&name| name.to_owned()).collect(),
    }
}

/// Whether there are label pictures.
pub(super) fn is_here(root: &Root, options: &OpenOptions) -> Result<bool, DataError> {
    let folders = wanted(options);
    let folders: Vec<&str> = folders.iter().map(String::as_str).collect();
    Ok(!find(root, &Wanted { folders: &folders, extensions: EXTENSIONS, beside: false })?.is_empty())
}

pub(super) fn open(root: &Root, options: &OpenOptions) -> Result<Opened, DataError> {
    let folders = wanted(options);
    let folders: Vec<&str> = folders.iter().map(String::as_str).collect();
    let wanted = Wanted { folders: &folders, extensions: EXTENSIONS, beside: false };
    let parts = find(root, &wanted)?;
    if parts.is_empty() {
        let reason = format!(
            "expected label pictures (.png, .tif, .bmp) in a folder {}, found none",
            folders.join(", ")
        );
        return Err(DataError::not_a_dataset(&root.path, reason));
    }
    let mut opened = Opened::default();
    let split = options.split.as_deref();
    let pairs = pair(root, &parts, &wanted, split, &options.limits, &mut opened.problems)?;

    let own_list = options.mask_folder.as_ref().map(|name| root.path.join(format!("classes_{name}.txt")));
    let list = match own_list.filter(|path| path.is_file()) {
        Some(path) => Some(read_class_list(&path, &options.limits)?),
        None => class_list(root, options)?,
    };
    let meaning = options.mask_meaning.unwrap_or_else(|| sniff(&pairs, list.as_deref(), options));
    opened.found = format!("pictures with {}", describe(meaning, list.is_some()));
    opened.mask_meaning = Some(meaning);
    opened.ignore.clone_from(&options.ignore);
    let list = list.unwrap_or_default();
    opened.classes = match meaning {
        MaskMeaning::Classes | MaskMeaning::Binary if list.is_empty() => {
            vec![Class::new(0, "background"), Class::new(1, "foreground")]
        }
        MaskMeaning::Classes => {
            let void = list.iter().filter(|class| says_ignore(&class.name));
            opened.ignore.extend(void.filter_map(|class| u16::try_from(class.id).ok()));
            list
        }
        MaskMeaning::Binary => list,
        MaskMeaning::Instances => list.into_iter().filter(|class| class.id > 0).collect(),
    };
    opened.classes.retain(|class| !opened.ignore.iter().any(|&id| u32::from(id) == class.id));
    let sample = |pair: Pair| Sample {
        id: pair.id,
        image: pair.picture,
        size: None,
        split: pair.split,
        labels: if pair.labels.is_empty() { Source::None } else { Source::Masks(pair.labels) },
        frame: None,
    };
    opened.samples = pairs.into_iter().map(sample).collect();
    Ok(opened)
}

fn describe(meaning: MaskMeaning, listed: bool) -> &'static str {
    match meaning {
        MaskMeaning::Classes => "class masks",
        MaskMeaning::Binary => "binary masks",
        MaskMeaning::Instances if listed => "instance masks (numbers beyond the class list are objects)",
        MaskMeaning::Instances => "instance masks (there is no class list, so numbers are objects)",
    }
}

/// Finds out what the numbers mean; the rules stand at [`MaskMeaning`].
fn sniff(pairs: &[Pair], list: Option<&[Class]>, options: &OpenOptions) -> MaskMeaning {
    if pairs.iter().any(|pair| pair.labels.len() > 1) {
        return MaskMeaning::Instances;
    }
    let files: Vec<&PathBuf> = pairs.iter().flat_map(|pair| &pair.labels).collect();
    let step = files.len().div_ceil(SNIFFED).max(1);
    let chosen: Vec<&PathBuf> = files.into_iter().step_by(step).collect();
    // Numbers that occur; those of unreadable pictures are told when they are read.
    let numbers = chosen.par_iter().filter_map(|path| read_index_map(path, &options.limits).ok());
    let numbers = numbers.map(|map| {
        let mut seen = vec![false; usize::from(u16::MAX) + 1];
        for &value in &map.values {
            seen[usize::from(value)] = true;
        }
        // The highest number is no class and no object, but it may be the white of a binary mask.
        let top = if map.bits > 8 { u16::MAX } else { 255 };
        let white = seen[usize::from(top)];
        seen[usize::from(top)] = false;
        (seen, white)
    });
    let none = || (vec![false; usize::from(u16::MAX) + 1], false);
    let (seen, white) = numbers.reduce(none, |(mut a, white_a), (b, white_b)| {
        a.iter_mut().zip(b).for_each(|(a, b)| *a |= b);
        (a, white_a || white_b)
    });
    let numbers: Vec<u32> = (0..).zip(&seen).filter(|(_, seen)| **seen).map(|(value, _)| value).collect();
    let only_black = numbers.iter().all(|&value| value == 0);
    match list {
        _ if white && only_black && list.is_none_or(|list| foreground(list).is_some()) => MaskMeaning::Binary,
        None if numbers.iter().all(|&value| value <= 1) => MaskMeaning::Classes,
        None => MaskMeaning::Instances,
        Some(list) => {
            let named = |value: &u32| list.iter().any(|class| class.id == *value);
            if numbers.iter().all(named) || foreground(list).is_none() {
                MaskMeaning::Classes
            } else {
                MaskMeaning::Instances
            }
        }
    }
}

/// The only class of a list beside number 0.
fn foreground(classes: &[Class]) -> Option<u32> {
    let mut others = classes.iter().filter(|class| class.id > 0);
    let first = others.next()?;
    others.next().is_none().then_some(first.id)
}

pub(super) fn read(dataset: &Dataset, paths: &[PathBuf]) -> Result<Labels, DataError> {
    let Some(first) = paths.first() else { return Ok(Labels::None) };
    let map = read_index_map(first, &dataset.limits)?;
    match dataset.mask_meaning.unwrap_or(MaskMeaning::Classes) {
        MaskMeaning::Classes => class_map(dataset, first, map).map(Labels::ClassMap),
        MaskMeaning::Binary => {
            let set = foreground(&dataset.classes).map_or(1, |id| id as u16);
            let ids = map.values.iter().map(|&value| if value == 0 { 0 } else { set }).collect();
            Ok(Labels::ClassMap(ClassMap { width: map.width, height: map.height, ids }))
        }
        MaskMeaning::Instances => {
            let frame = (map.width, map.height);
            let mut instances = objects(dataset, &map, 0);
            for (path, annotator) in paths.iter().zip(0..).skip(1) {
                let map = read_index_map(path, &dataset.limits)?;
                if (map.width, map.height) != frame {
                    return Err(DataError::PictureSize {
                        name: path.display().to_string(),
                        expected_width: frame.0,
                        expected_height: frame.1,
                        width: map.width,
                        height: map.height,
                    });
                }
                instances.extend(objects(dataset, &map, annotator));
            }
            Ok(Labels::Instances { frame: Some(frame), instances })
        }
    }
}

/// The highest number a picture of so many bits can hold.
fn top(map: &IndexMap) -> u16 {
    if map.bits > 8 { u16::MAX } else { 255 }
}

fn class_map(dataset: &Dataset, path: &Path, map: IndexMap) -> Result<ClassMap, DataError> {
    let top = top(&map);
    let IndexMap { width, height, values: mut ids, .. } = map;
    // What each number becomes, found once for each that occurs.
    let mut meaning: Vec<Option<u16>> = vec![None; usize::from(u16::MAX) + 1];
    for (at, id) in ids.iter_mut().enumerate() {
        let known = &mut meaning[usize::from(*id)];
        *id = if let Some(known) = *known {
            known
        } else {
            let new = if dataset.ignore.contains(id) {
                ClassMap::IGNORE
            } else if dataset.class((*id).into()).is_some() {
                *id
            } else if *id == top {
                ClassMap::IGNORE
            } else {
                let place = format!("pixel ({}, {})", at % width as usize, at / width as usize);
                return Err(dataset.unknown_class(path, place, *id));
            };
            *known = Some(new);
            new
        };
    }
    Ok(ClassMap { width, height, ids })
}

fn objects(dataset: &Dataset, map: &IndexMap, annotator: u16) -> Vec<Instance> {
    let class = foreground(&dataset.classes);
    let top = top(map);
    let regions = map.regions();
    let counted_up = regions.iter().any(|(number, _)| *number == top - 1);
    let objects = regions.into_iter().filter(|(number, _)| *number > 0);
    let instance = |(number, rle)| {
        let crowd = dataset.ignore.contains(&number) || (number == top && !counted_up);
        let class = if crowd { None } else { class };
        Instance { crowd, annotator, ..Instance::from_rle(class, rle) }
    };
    objects.map(instance).collect()
}
