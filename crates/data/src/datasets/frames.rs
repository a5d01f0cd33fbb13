//! CIFAR-10 and STL-10 as their makers publish them: many small pictures in one file.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use super::classes::read_class_list;
use super::files::{Root, split_name, stem};
use super::parts::unknown_split;
use super::{Class, OpenOptions, Opened, Sample, Source};
use crate::decode::{cannot_read, read_bytes};
use crate::{DataError, Image};

/// A square picture inside a file: three planes of bytes (red, green, blue).
#[derive(Clone, Copy, Debug)]
pub(super) struct Frame {
    offset: u64,
    side: u32,
    /// Column after column, instead of row after row.
    columns: bool,
}

impl Frame {
    pub(super) fn size(&self) -> (u32, u32) {
        (self.side, self.side)
    }

    pub(super) fn read(&self, path: &Path) -> Result<Image, DataError> {
        let failed = |source| cannot_read(&path.display().to_string(), source);
        let side = self.side as usize;
        let mut planes = vec![0; 3 * side * side];
        let mut file = File::open(path).map_err(failed)?;
        file.seek(SeekFrom::Start(self.offset)).map_err(failed)?;
        file.read_exact(&mut planes).map_err(failed)?;
        let mut pixels = Vec::with_capacity(planes.len());
        for y in 0..side {
            for x in 0..side {
                let at = if self.columns { x * side + y } else { y * side + x };
                pixels.extend([0, 1, 2].map(|plane| planes[plane * side * side + at]));
            }
        }
        Image::from_raw(self.side, self.side, pixels)
    }
}

const CIFAR10: [&str; 10] =
    ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"];
const STL10: [&str; 10] =
    ["airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck"];

/// CIFAR-10's batches in a folder, with their part.
pub(super) fn cifar10_files(root: &Root) -> Result<Vec<(&'static str, PathBuf)>, DataError> {
    let files = root.files(&root.path, &["bin"], false)?.into_iter();
    let part = |id: &str| match id {
        "test_batch" => Some("test"),
        id if id.starts_with("data_batch_") => Some("train"),
        _ => None,
    };
    let mut files: Vec<_> = files.filter_map(|entry| Some((part(&entry.id)?, entry.path))).collect();
    files.sort_by_key(|(split, _)| *split == "test");
    Ok(files)
}

pub(super) fn open_cifar10(root: &Root, options: &OpenOptions) -> Result<Opened, DataError> {
    const SIDE: u32 = 32;
    const RECORD: u64 = 1 + 3 * (SIDE * SIDE) as u64;
    let mut opened = Opened { found: "CIFAR-10, binary version".to_owned(), ..Opened::default() };
    opened.classes = classes(root, "batches.meta.txt", &CIFAR10, options)?;
    let files = chosen(root, cifar10_files(root)?, options)?;
    for (split, path) in files {
        let bytes = read_bytes(&path, &path.display().to_string(), &options.limits)?;
        check_whole(&path, bytes.len() as u64, RECORD)?;
        for (i, record) in (0..).zip(bytes.chunks_exact(RECORD as usize)) {
            let class = record.first().copied().map_or(0, u32::from);
            if class as usize >= opened.classes.len() {
                return Err(DataError::malformed(
                    &path,
                    format!("picture {i}"),
                    format!("its class is {class}"),
                ));
            }
            let frame = Frame { offset: i * RECORD + 1, side: SIDE, columns: false };
            opened.samples.push(sample(&path, split, i, frame, Source::Tags(vec![class])));
        }
    }
    Ok(opened)
}

/// STL-10's pictures in a folder, with their part.
pub(super) fn stl10_files(root: &Root) -> Result<Vec<(&'static str, PathBuf)>, DataError> {
    let parts = ["train", "test", "unlabeled"].into_iter();
    let files = parts.map(|part| (part, root.path.join(format!("{part}_X.bin"))));
    let files: Vec<_> = files.filter(|(_, path)| path.is_file()).collect();
    files.iter().try_for_each(|(_, path)| root.check(path, &root.path))?;
    Ok(files)
}

pub(super) fn open_stl10(root: &Root, options: &OpenOptions) -> Result<Opened, DataError> {
    const SIDE: u32 = 96;
    const RECORD: u64 = 3 * (SIDE * SIDE) as u64;
    let mut opened = Opened { found: "STL-10, binary files".to_owned(), ..Opened::default() };
    opened.classes = classes(root, "class_names.txt", &STL10, options)?;
    let files = chosen(root, stl10_files(root)?, options)?;
    for (split, path) in files {
        let length = fs::metadata(&path).map_err(|e| cannot_read(&path.display().to_string(), e))?.len();
        check_whole(&path, length, RECORD)?;
        let list = root.path.join(format!("{split}_y.bin"));
        let tags = if list.is_file() {
            root.check(&list, &root.path)?;
            let tags = read_bytes(&list, &list.display().to_string(), &options.limits)?;
            if tags.len() as u64 != length / RECORD {
                let reason = format!("expected {} labels, found {}", length / RECORD, tags.len());
                return Err(DataError::not_a_dataset(&list, reason));
            }
            tags
        } else {
            Vec::new()
        };
        for i in 0..length / RECORD {
            let source = match tags.get(i as usize) {
                None => Source::None,
                // Classes count from 1 there.
                Some(&tag) if (1..=opened.classes.len()).contains(&tag.into()) => {
                    Source::Tags(vec![u32::from(tag) - 1])
                }
                Some(tag) => {
                    return Err(DataError::malformed(
                        &list,
                        format!("picture {i}"),
                        format!("its class is {tag}"),
                    ));
                }
            };
            let frame = Frame { offset: i * RECORD, side: SIDE, columns: true };
            opened.samples.push(sample(&path, split, i, frame, source));
        }
    }
    Ok(opened)
}

fn classes(root: &Root, list: &str, usual: &[&str], options: &OpenOptions) -> Result<Vec<Class>, DataError> {
    let path = root.path.join(list);
    if path.is_file() {
        root.check(&path, &root.path)?;
        return read_class_list(&path, &options.limits);
    }
    Ok((0..).zip(usual).map(|(id, name)| Class::new(id, *name)).collect())
}

/// The files of the part asked for.
fn chosen(
    root: &Root,
    mut files: Vec<(&'static str, PathBuf)>,
    options: &OpenOptions,
) -> Result<Vec<(&'static str, PathBuf)>, DataError> {
    if let Some(split) = &options.split {
        let wanted = split_name(split);
        let all: std::collections::BTreeSet<String> =
            files.iter().map(|(split, _)| (*split).to_owned()).collect();
        files.retain(|(split, _)| *split == wanted);
        if files.is_empty() {
            return Err(unknown_split(root, &wanted, all));
        }
    }
    Ok(files)
}

fn check_whole(path: &Path, length: u64, record: u64) -> Result<(), DataError> {
    if length.is_multiple_of(record) && length > 0 {
        return Ok(());
    }
    let reason = format!("expected a multiple of {record} bytes, {record} a picture, found {length}");
    Err(DataError::not_a_dataset(path, reason))
}

fn sample(path: &Path, split: &str, i: u64, frame: Frame, labels: Source) -> Sample {
    Sample {
        id: format!("{}/{i:05}", stem(path)),
        image: path.to_owned(),
        size: Some(frame.size()),
        split: Some(split.to_owned()),
        labels,
        frame: Some(frame),
    }
}
