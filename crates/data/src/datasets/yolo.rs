//! YOLO text files: boxes and polygons in shares of the picture's width and height.

use std::path::Path;

use kirie_mask::{BBox, Point};
use rayon::prelude::*;

use super::classes::read_class_list;
use super::files::{Root, lines, read_text};
use super::labels::{Instance, Labels, Segmentation};
use super::parts::{Pair, Wanted, find, pair};
use super::per_picture::class_list;
use super::yaml::names;
use super::{Class, Dataset, OpenOptions, Opened, Sample, Source};
use crate::DataError;

pub(super) const WANTED: Wanted =
    Wanted { folders: &["labels", "labels_yolo", "annotations"], extensions: &["txt"], beside: true };

pub(super) fn open(root: &Root, options: &OpenOptions) -> Result<Opened, DataError> {
    let parts = find(root, &WANTED)?;
    if parts.is_empty() {
        let reason = "expected YOLO labels (.txt) beside pictures or in a folder labels/, found none";
        return Err(DataError::not_a_dataset(&root.path, reason));
    }
    let mut opened = Opened { found: "YOLO labels (text files)".to_owned(), ..Opened::default() };
    let split = options.split.as_deref();
    let pairs = pair(root, &parts, &WANTED, split, &options.limits, &mut opened.problems)?;
    opened.classes = classes(root, options)?.unwrap_or_else(|| {
        let files = parts.iter().filter_map(|part| root.files(&part.labels, WANTED.extensions, true).ok());
        let files: Vec<_> = files.flatten().collect();
        let highest = files.par_iter().filter_map(|file| highest_class(&file.path, options)).max();
        let all = highest.map_or(0..0, |highest| 0..highest + 1);
        all.map(|id| Class::new(id, format!("class {id}"))).collect()
    });
    let sample = |pair: Pair| Sample {
        id: pair.id,
        image: pair.picture,
        size: None,
        split: pair.split,
        labels: Source::Yolo(pair.labels.into_iter().next()),
        frame: None,
    };
    opened.samples = pairs.into_iter().map(sample).collect();
    Ok(opened)
}

/// The classes that the set's files name.
fn classes(root: &Root, options: &OpenOptions) -> Result<Option<Vec<Class>>, DataError> {
    for entry in root.files(&root.path, &["yaml", "yml"], false)? {
        let text = read_text(&entry.path, &options.limits)?;
        if let Some(classes) = names(&entry.path, &text)? {
            return Ok(Some(classes));
        }
    }
    if let Some(classes) = class_list(root, options)? {
        return Ok(Some(classes));
    }
    let lists = root.files(&root.path, &["names", "labels"], false)?;
    let list = lists.first().map(|entry| read_class_list(&entry.path, &options.limits));
    list.transpose()
}

/// The highest class in a file; nothing where there is none to be read, or one that no program would number so.
fn highest_class(path: &Path, options: &OpenOptions) -> Option<u32> {
    let text = read_text(path, &options.limits).ok()?;
    let classes = lines(&text).filter_map(|(_, line)| line.split_whitespace().next()?.parse::<u32>().ok());
    classes.filter(|&class| class < u32::from(u16::MAX)).max()
}

pub(super) fn read(dataset: &Dataset, sample: &Sample, path: Option<&Path>) -> Result<Labels, DataError> {
    let frame = dataset.picture_size(sample)?;
    let mut instances = Vec::new();
    if let Some(path) = path {
        let text = read_text(path, &dataset.limits)?;
        for (number, line) in lines(&text) {
            let place = format!("line {number}");
            let (class, rest) =
                split_line(line).map_err(|reason| DataError::malformed(path, &place, reason))?;
            if dataset.class(class).is_none() {
                return Err(dataset.unknown_class(path, &place, class));
            }
            let instance =
                shape(class, &rest, frame).map_err(|reason| DataError::malformed(path, &place, reason))?;
            instances.push(instance);
        }
    }
    Ok(Labels::Instances { frame: Some(frame), instances })
}

fn split_line(line: &str) -> Result<(u32, Vec<f64>), String> {
    let mut words = line.split_whitespace();
    let class = words.next().unwrap_or_default();
    // Some programs write the class as 3.0.
    let id =
        class.parse::<f64>().ok().filter(|id| id.fract() == 0.0 && (0.0..f64::from(u32::MAX)).contains(id));
    let id = id.ok_or_else(|| format!("expected a class number, found {class:?}"))? as u32;
    let number = |word: &str| {
        let number = word.parse::<f64>().ok().filter(|v| v.is_finite());
        number.ok_or_else(|| format!("expected a number, found {word:?}"))
    };
    Ok((id, words.map(number).collect::<Result<_, _>>()?))
}

/// A box (centre x, centre y, width, height, maybe a score) or a polygon (x and y in turn).
fn shape(class: u32, numbers: &[f64], (width, height): (u32, u32)) -> Result<Instance, String> {
    let (width, height) = (f64::from(width), f64::from(height));
    // Rounding and objects at the edge may lie a little outside; pixels instead of shares lie far.
    if let Some(far) = numbers.iter().find(|v| !(-1.0..=2.0).contains(*v)) {
        return Err(format!("expected shares of the picture, 0 to 1, found {far}"));
    }
    match *numbers {
        [x, y, w, h] | [x, y, w, h, _] => {
            let bbox = BBox::checked(
                (x - w / 2.0) * width,
                (y - h / 2.0) * height,
                (x + w / 2.0) * width,
                (y + h / 2.0) * height,
            );
            let bbox = bbox.map_err(|_| format!("expected a box of a positive size, found {w} x {h}"))?;
            let score = numbers.get(4).copied();
            Ok(Instance { score, ..Instance::new(Some(class), Segmentation::Box, bbox) })
        }
        _ if numbers.len() >= 6 && numbers.len().is_multiple_of(2) => {
            let (pairs, _) = numbers.as_chunks::<2>();
            let ring = pairs.iter().map(|&[x, y]| Point { x: x * width, y: y * height }).collect();
            Ok(Instance::from_polygons(Some(class), vec![ring]))
        }
        _ => Err(format!(
            "expected a class and 4 numbers of a box, or 6 and more of a polygon (x and y in turn), found {} numbers",
            numbers.len()
        )),
    }
}
