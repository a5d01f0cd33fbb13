//! Image-level labels: which classes a picture shows, and nothing else.
//!
//! | source | labels |
//! | --- | --- |
//! | [`LabelSource::Csv`] | a table of file names and classes; see [`table`] |
//! | [`LabelSource::Set`] | what `kirie data inspect` recognises: folders named by class, box files, masks, COCO |
//!
//! Of a set that has boxes or masks, only the names of the classes are kept: [`Tagged`] has no place for anything that says where
//! an object is, and every stage that learns takes a [`Tagged`]. Boxes for scoring are read by [`crate::measure`], which no such
//! stage uses.

pub mod table;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use kirie_data::datasets::{Dataset, Layout, OpenOptions, Sample, open_with};
use kirie_data::{DataError, Image, Limits, read_image};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::WeakError;

/// The part that is learned from where nothing is said.
pub const TRAIN: &str = "train";
/// The part that is there for the final score, and never learned from.
const TEST: &str = "test";
/// Files named in an error at most.
const NAMED: usize = 5;

/// Pictures and their image-level labels.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataConfig {
    /// The folder of the set, or a COCO annotation file.
    pub path: PathBuf,
    /// The part to learn from; a set that has no parts is taken whole, and so is any set with `""`.
    #[serde(default = "train")]
    pub split: String,
    /// Where the labels come from.
    #[serde(default)]
    pub labels: LabelSource,
    /// Names of the classes, in the order of all indices; without them those that occur, in the set's order. Labels of other
    /// classes are left out.
    #[serde(default)]
    pub classes: Vec<String>,
    /// Further parts that proposals are made for, such as `["test"]`. Nothing of their labels is read.
    #[serde(default)]
    pub others: Vec<String>,
}

fn train() -> String {
    TRAIN.to_owned()
}

impl DataConfig {
    /// A set with its own labels.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            split: train(),
            labels: LabelSource::Set,
            classes: Vec::new(),
            others: Vec::new(),
        }
    }

    /// Makes relative paths start from `base`.
    pub fn resolve(&mut self, base: &Path) {
        self.path = base.join(&self.path);
        if let LabelSource::Csv { path } = &mut self.labels {
            *path = base.join(&*path);
        }
    }
}

/// Where image-level labels come from.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum LabelSource {
    /// The set itself: folders named by class, or box files and masks, of which only the classes are read.
    #[default]
    Set,
    /// A table; see [`table`]. Its file names start from the set's folder.
    Csv {
        /// The file.
        path: PathBuf,
    },
}

/// A picture and the classes it shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picture {
    /// Its file, relative to the set's folder, with `/`.
    pub file: String,
    /// The classes, ascending indices into [`Tagged::classes`]; empty where it shows none of them.
    pub tags: Vec<usize>,
}

/// Pictures with image-level labels. There is no place in it for where an object is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tagged {
    /// The folder that files start from.
    pub root: PathBuf,
    /// Names of the classes; each is shown by at least one picture.
    pub classes: Vec<String>,
    /// The pictures, in the set's order.
    pub pictures: Vec<Picture>,
    /// What was left out, and why, in sentences for people.
    pub notes: Vec<String>,
}

/// Pictures of which nothing is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Untagged {
    /// The folder that files start from.
    pub root: PathBuf,
    /// The pictures' files, relative to the folder, with `/`.
    pub files: Vec<String>,
}

impl Tagged {
    /// Reads the labels.
    ///
    /// # Errors
    /// Files that cannot be read; labels of pictures that do not exist; a class that no picture shows; a set without labels.
    pub fn open(data: &DataConfig) -> Result<Self, WeakError> {
        if data.split == TEST {
            let expected = "another part: what is there for the final score is not learned from";
            return Err(WeakError::setting("data.split", TEST, expected));
        }
        let (root, named, mut notes) = match &data.labels {
            LabelSource::Set => of_set(data)?,
            LabelSource::Csv { path } => of_table(data, path)?,
        };
        let Named { classes: known, pictures } = named;
        let occur: BTreeSet<&str> =
            pictures.iter().flat_map(|(_, names)| names.iter().map(String::as_str)).collect();
        let wrong = |reason: String| WeakError::Labels { set: data.path.display().to_string(), reason };
        let classes = if data.classes.is_empty() {
            let (used, idle): (Vec<String>, Vec<String>) =
                known.into_iter().partition(|class| occur.contains(class.as_str()));
            if !idle.is_empty() {
                notes.push(format!("left out, as no picture to learn from shows it: {}", idle.join(", ")));
            }
            used
        } else {
            if let Some(idle) = data.classes.iter().find(|class| !occur.contains(class.as_str())) {
                let found: Vec<&str> = occur.iter().copied().collect();
                return Err(wrong(format!(
                    "no picture to learn from shows {idle:?} of data.classes; the labels name {}",
                    found.join(", ")
                )));
            }
            let left: Vec<&str> =
                occur.iter().copied().filter(|class| !data.classes.iter().any(|own| own == class)).collect();
            if !left.is_empty() {
                notes.push(format!(
                    "labels that data.classes does not list are left out: {}",
                    left.join(", ")
                ));
            }
            data.classes.clone()
        };
        if let Some((at, twice)) =
            classes.iter().enumerate().find(|(at, class)| classes[..*at].contains(class))
        {
            return Err(wrong(format!("class {at}, {twice:?}, is there twice")));
        }
        if classes.is_empty() {
            return Err(wrong("no picture has a label".to_owned()));
        }
        let tags = |names: &[String]| {
            let indices = names.iter().filter_map(|name| classes.iter().position(|class| class == name));
            indices.collect::<BTreeSet<usize>>().into_iter().collect()
        };
        let pictures =
            pictures.iter().map(|(file, names)| Picture { file: file.clone(), tags: tags(names) }).collect();
        Ok(Self { root, classes, pictures, notes })
    }

    /// Reads a picture, upright.
    ///
    /// # Errors
    /// As [`read_image`].
    pub fn read(&self, picture: &Picture) -> Result<Image, WeakError> {
        Ok(read_image(self.root.join(&picture.file), &Limits::default())?)
    }

    /// SHA-256 of classes, labels and the files' bytes, in hexadecimal: what of the set a run depends on.
    ///
    /// # Errors
    /// [`WeakError::Read`].
    pub fn fingerprint(&self) -> Result<String, WeakError> {
        let mut hash = Sha256::new();
        for class in &self.classes {
            hash.update(class.as_bytes());
            hash.update([0]);
        }
        for picture in &self.pictures {
            hash.update(format!("{:?}", picture.tags));
            hash_file(&mut hash, &self.root, &picture.file)?;
        }
        Ok(hex(hash))
    }
}

impl Untagged {
    /// Lists the pictures of a part of the set.
    ///
    /// # Errors
    /// As [`open_with`].
    pub fn open(data: &DataConfig, split: &str) -> Result<Self, WeakError> {
        let dataset = open_part(&data.path, split)?;
        let files = dataset.samples.iter().map(|sample| relative(&dataset, sample)).collect();
        Ok(Self { root: dataset.root, files })
    }

    /// SHA-256 of the files' names and bytes, in hexadecimal.
    ///
    /// # Errors
    /// [`WeakError::Read`].
    pub fn fingerprint(&self) -> Result<String, WeakError> {
        let mut hash = Sha256::new();
        for file in &self.files {
            hash_file(&mut hash, &self.root, file)?;
        }
        Ok(hex(hash))
    }
}

fn hash_file(hash: &mut Sha256, root: &Path, file: &str) -> Result<(), WeakError> {
    let path = root.join(file);
    let bytes = std::fs::read(&path).map_err(|source| WeakError::Read { path, source })?;
    hash.update(file.as_bytes());
    hash.update([0]);
    hash.update(Sha256::digest(&bytes));
    Ok(())
}

/// A finished hash in hexadecimal.
pub(crate) fn hex(hash: Sha256) -> String {
    hash.finalize().iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

/// Pictures with the names of their classes.
struct Named {
    classes: Vec<String>,
    pictures: Vec<(String, Vec<String>)>,
}

/// Opens a part of a set; `train` of a set that has no parts is all of it, and so is `""`.
pub(crate) fn open_part(path: &Path, split: &str) -> Result<Dataset, WeakError> {
    let mut options = OpenOptions {
        split: Some(split.to_owned()).filter(|split| !split.is_empty()),
        ..OpenOptions::default()
    };
    match open_with(path, &options) {
        Err(error @ DataError::UnknownSplit { .. }) if split == TRAIN => {
            options.split = None;
            let whole = open_with(path, &options)?;
            if whole.samples.iter().all(|sample| sample.split.is_none()) {
                Ok(whole)
            } else {
                Err(error.into())
            }
        }
        opened => Ok(opened?),
    }
}

/// The folder that the files of a set are named from.
///
/// # Errors
/// As [`Tagged::open`], where the set has to be opened to know.
pub fn root_of(data: &DataConfig) -> Result<PathBuf, WeakError> {
    match data.labels {
        LabelSource::Csv { .. } => Ok(data.path.clone()),
        LabelSource::Set => Ok(open_part(&data.path, &data.split)?.root),
    }
}

/// A sample's file from the set's folder on.
pub(crate) fn relative(dataset: &Dataset, sample: &Sample) -> String {
    let path = sample.image.strip_prefix(&dataset.root).unwrap_or(&sample.image);
    path.components().map(|part| part.as_os_str().to_string_lossy()).collect::<Vec<_>>().join("/")
}

/// The labels of a set. Whatever else its label files say ends here.
fn of_set(data: &DataConfig) -> Result<(PathBuf, Named, Vec<String>), WeakError> {
    let dataset = open_part(&data.path, &data.split)?;
    let wrong = |reason: String| WeakError::Labels { set: data.path.display().to_string(), reason };
    if matches!(dataset.layout, Layout::Cifar10 | Layout::Stl10) {
        return Err(wrong(format!("expected a picture a file, found {}", dataset.found)));
    }
    let (mut pictures, mut unlabelled) = (Vec::new(), 0);
    for sample in &dataset.samples {
        if !sample.is_labelled() {
            unlabelled += 1;
            continue;
        }
        let tags = dataset.labels(sample)?.tags();
        let names = tags.iter().filter_map(|id| dataset.class(*id)).map(|class| class.name.clone()).collect();
        pictures.push((relative(&dataset, sample), names));
    }
    if pictures.is_empty() {
        return Err(wrong(format!("none of its {unlabelled} pictures has labels ({})", dataset.found)));
    }
    let notes = match unlabelled {
        0 => Vec::new(),
        n => vec![format!("{n} pictures without labels are left out")],
    };
    let classes = dataset.classes.iter().map(|class| class.name.clone()).collect();
    Ok((dataset.root, Named { classes, pictures }, notes))
}

fn of_table(data: &DataConfig, path: &Path) -> Result<(PathBuf, Named, Vec<String>), WeakError> {
    let table::Table { classes, rows } = table::read(path)?;
    let missing: Vec<&str> =
        rows.iter().map(|(file, _)| file.as_str()).filter(|file| !data.path.join(file).is_file()).collect();
    if !missing.is_empty() {
        let more = missing.len().saturating_sub(NAMED);
        let named = missing[..missing.len() - more].join(", ");
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        return Err(WeakError::content(
            path,
            "",
            format!("names pictures that are not in {}: {named}{more}", data.path.display()),
        ));
    }
    Ok((data.path.clone(), Named { classes, pictures: rows }, Vec::new()))
}

#[cfg(test)]
mod tests;
