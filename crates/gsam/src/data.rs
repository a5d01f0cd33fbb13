//! Label maps from datasets of any layout, with classes by name.
//!
//! ```text
//! dataset's classes, by id --[DataConfig::classes, merge]--> ClassList: labels 0..K
//! picture + labels of the dataset ----------------------------> Labelled: picture + LabelMap
//! ```
//!
//! Every number in a label file is checked where it is read: one that no class has is an error that names file and pixel.

mod classes;
mod inspect;
mod labels;

use std::path::PathBuf;

use kirie_data::datasets::{Dataset, MaskMeaning, OpenOptions, Sample, open_with};
use kirie_data::{DataError, Image};
use kirie_engine::random::Streams;
use sha2::{Digest, Sha256};

pub use classes::{ClassList, SemanticClass};
pub use inspect::{ClassCount, Inspection, SizeRange};
pub use labels::LabelMap;

use crate::config::{DataConfig, HoldOut, Numbers, SetConfig, TRAIN};
use crate::error::SemanticError;
use classes::Table;

/// A picture with its labels.
#[derive(Clone, Debug)]
pub struct Labelled {
    /// The picture's file.
    pub name: String,
    /// The picture.
    pub image: Image,
    /// Its labels, of the picture's size.
    pub labels: LabelMap,
}

/// A dataset whose classes have been given labels.
#[derive(Clone, Debug)]
pub struct LabelledSet {
    dataset: Dataset,
    table: Table,
    classes: ClassList,
}

impl LabelledSet {
    /// Opens a set with a known class list, such as that of a trained model.
    ///
    /// # Errors
    /// As [`Pictures::open`].
    pub fn open(set: &SetConfig, data: &DataConfig, classes: &ClassList) -> Result<Self, SemanticError> {
        let dataset = open(set, data)?;
        let table = Table::new(&dataset, classes, data)?;
        Ok(Self { dataset, table, classes: classes.clone() })
    }

    /// The dataset.
    pub fn dataset(&self) -> &Dataset {
        &self.dataset
    }

    /// The classes.
    pub fn classes(&self) -> &ClassList {
        &self.classes
    }

    /// The samples that have labels.
    pub fn samples(&self) -> impl Iterator<Item = &Sample> {
        self.dataset.samples.iter().filter(|sample| sample.is_labelled())
    }

    /// Reads a picture and its labels.
    ///
    /// # Errors
    /// By file: unreadable files, labels of another size than the picture's, numbers that no class has, objects of which
    /// only the box is known.
    pub fn read(&self, sample: &Sample) -> Result<Labelled, SemanticError> {
        let name = sample.image.display().to_string();
        let (image, labels) = self.dataset.load(sample)?;
        let size = (image.width(), image.height());
        let file = sample.label_file().map_or_else(|| name.clone(), |file| file.display().to_string());
        let labels = LabelMap::new(labels, size, &self.table, &file)?;
        Ok(Labelled { name, image, labels })
    }
}

/// The pictures of a run.
#[derive(Clone, Debug)]
pub struct Pictures {
    classes: ClassList,
    sets: Vec<LabelledSet>,
    /// Set and sample of the pictures to learn from.
    train: Vec<(usize, usize)>,
    /// Set and sample of the pictures to validate with.
    validate: Vec<(usize, usize)>,
}

impl Pictures {
    /// Opens the sets of a configuration.
    ///
    /// # Errors
    /// Sets that cannot be opened or have no pixel labels, class names that no set knows or that the configuration leaves
    /// without a place, and when there is nothing to learn from or nothing to hold out.
    pub fn open(data: &DataConfig) -> Result<Self, SemanticError> {
        data.check()?;
        let mut datasets = Vec::new();
        for set in &data.sets {
            datasets.push((open(set, data)?, true));
        }
        if let HoldOut::Split { split } = &data.hold_out {
            for set in &data.sets {
                let part = SetConfig { split: split.clone(), ..set.clone() };
                match open(&part, data) {
                    Ok(dataset) => datasets.push((dataset, false)),
                    // Not every set needs the part, if one has it.
                    Err(SemanticError::Data(DataError::UnknownSplit { .. })) if data.sets.len() > 1 => {}
                    Err(error) => return Err(error),
                }
            }
        }
        let classes = ClassList::new(datasets.iter().map(|(dataset, _)| dataset), data)?;
        let (mut sets, mut train, mut validate) = (Vec::new(), Vec::new(), Vec::new());
        for (at, (dataset, learn)) in datasets.into_iter().enumerate() {
            let table = Table::new(&dataset, &classes, data)?;
            let labelled = dataset.samples.iter().enumerate().filter(|(_, sample)| sample.is_labelled());
            // Sets to learn from come first, in the order of the configuration.
            let one_in = data.sets.get(at).filter(|_| learn).map_or(1, |set| set.one_in);
            let places = labelled.map(|(index, _)| (at, index)).step_by(one_in);
            if learn {
                train.extend(places);
            } else {
                validate.extend(places);
            }
            sets.push(LabelledSet { dataset, table, classes: classes.clone() });
        }
        let hash = |&(set, sample): &(usize, usize)| {
            let dataset = &sets[set].dataset;
            (name_hash(&dataset.name, &dataset.samples[sample].id), set, sample)
        };
        if let HoldOut::Folds { folds, fold } = data.hold_out
            && train.len() > 1
        {
            let mut order = train.clone();
            order.sort_by_cached_key(hash);
            let held = |rank: usize| rank as u64 % folds == fold;
            validate =
                order.iter().enumerate().filter(|(rank, _)| held(*rank)).map(|(_, place)| *place).collect();
            train.retain(|place| !validate.contains(place));
        }
        if data.validate_pictures > 0 && validate.len() > data.validate_pictures {
            // A choice that does not depend on the order of the list, which often goes by scenes.
            validate.sort_by_cached_key(hash);
            validate.truncate(data.validate_pictures);
        }
        validate.sort_unstable();
        let names = || {
            let named = data.sets.iter().map(|set| format!("{} ({})", set.path.display(), set.split));
            named.collect::<Vec<_>>().join(", ")
        };
        if train.is_empty() {
            return Err(SemanticError::NoPictures { sets: names() });
        }
        if validate.is_empty()
            && let HoldOut::Folds { folds, fold } = data.hold_out
            && train.len() > 1
        {
            let found = format!("fold {fold} of {folds}, which of {} pictures holds none", train.len());
            return Err(SemanticError::setting("data.hold_out", found, "fewer folds"));
        }
        Ok(Self { classes, sets, train, validate })
    }

    /// The classes.
    pub fn classes(&self) -> &ClassList {
        &self.classes
    }

    /// The sets, those held out after those to learn from.
    pub fn sets(&self) -> &[LabelledSet] {
        &self.sets
    }

    /// Pictures to learn from.
    pub fn count(&self) -> usize {
        self.train.len()
    }

    /// The nth picture of a run, from 0: each comes once in an epoch, in an order drawn anew.
    pub fn nth(&self, streams: &Streams, n: u64) -> (&LabelledSet, &Sample) {
        let length = self.train.len() as u64;
        let (epoch, position) = (n / length, (n % length) as usize);
        let slot = streams.order(epoch, self.train.len())[position];
        self.place(self.train[slot])
    }

    /// The pictures to learn from, in the order of their lists.
    pub fn training(&self) -> impl ExactSizeIterator<Item = (&LabelledSet, &Sample)> {
        self.train.iter().map(|place| self.place(*place))
    }

    /// The pictures to validate with.
    pub fn validation(&self) -> impl ExactSizeIterator<Item = (&LabelledSet, &Sample)> {
        self.validate.iter().map(|place| self.place(*place))
    }

    fn place(&self, (set, sample): (usize, usize)) -> (&LabelledSet, &Sample) {
        (&self.sets[set], &self.sets[set].dataset.samples[sample])
    }
}

fn open(set: &SetConfig, data: &DataConfig) -> Result<Dataset, SemanticError> {
    let path: PathBuf = data.root.as_ref().map_or_else(|| set.path.clone(), |root| root.join(&set.path));
    let mut options = OpenOptions {
        split: Some(set.split.clone()).filter(|split| !split.is_empty()),
        ignore: set.ignore.clone(),
        mask_folder: set.mask_folder.clone(),
        mask_meaning: set.numbers.map(|numbers| match numbers {
            Numbers::Classes => MaskMeaning::Classes,
            Numbers::Instances => MaskMeaning::Instances,
            Numbers::Binary => MaskMeaning::Binary,
        }),
        ..OpenOptions::default()
    };
    match open_with(&path, &options) {
        // What everybody has before they make lists: a folder without parts, all of which is to be learned from.
        Err(error @ DataError::UnknownSplit { .. }) if set.split == TRAIN => {
            options.split = None;
            let whole = open_with(&path, &options)?;
            if whole.samples.iter().all(|sample| sample.split.is_none()) {
                Ok(whole)
            } else {
                Err(error.into())
            }
        }
        opened => Ok(opened?),
    }
}

fn name_hash(set: &str, sample: &str) -> u64 {
    let digest = Sha256::digest(format!("{set}\n{sample}"));
    digest.iter().take(8).fold(0, |hash, byte| hash << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests;
