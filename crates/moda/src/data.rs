//! The pictures of a domain: each with one binary mask, as the CoSAM protocol has it.

use std::path::{Path, PathBuf};

use kirie_data::datasets::{Dataset, Labels, MaskMeaning, OpenOptions, Sample, open_with};
use kirie_data::{DataError, Image};
use kirie_engine::random::Streams;
use kirie_mask::Mask;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::error::ContinualError;

/// One domain of a stream.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DomainConfig {
    /// Its name, once in a stream: letters, digits, `-` and `_`.
    pub name: String,
    /// Its folder.
    pub path: PathBuf,
    /// The part to learn from.
    #[serde(default = "train")]
    pub train: String,
    /// The part to measure on.
    #[serde(default = "test")]
    pub test: String,
    /// What is to be cut out.
    #[serde(default)]
    pub foreground: Foreground,
    /// The folder of label pictures, where it has no usual name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mask_folder: Option<String>,
    /// What the numbers of label pictures mean, instead of finding it out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub numbers: Option<Numbers>,
}

/// Natural pictures that no domain learns from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NaturalConfig {
    /// Its name in reports.
    pub name: String,
    /// Its folder.
    pub path: PathBuf,
    /// The part of it.
    #[serde(default = "test")]
    pub part: String,
    /// What is to be cut out.
    #[serde(default)]
    pub foreground: Foreground,
    /// What of this set the base or the router have seen in learning, for reports; without it the set is said to be unseen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seen: Option<String>,
}

/// What the numbers of label pictures mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Numbers {
    /// The class of each pixel.
    Classes,
    /// The object of each pixel.
    Instances,
    /// Object or not.
    Binary,
}

/// What of a picture is to be cut out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Foreground {
    /// By a rule.
    Rule(ForegroundRule),
    /// What has one of these classes.
    Classes(Vec<String>),
}

/// See [`Foreground`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ForegroundRule {
    /// Every object; in class maps all but the class called background.
    All,
    /// The largest object (of a class map: the largest such region).
    Largest,
}

impl Default for Foreground {
    fn default() -> Self {
        Self::Rule(ForegroundRule::All)
    }
}

fn train() -> String {
    "train".to_owned()
}
fn test() -> String {
    "test".to_owned()
}

/// A picture and what is to be cut out of it.
#[derive(Clone, Debug)]
pub struct Picture {
    /// Its file.
    pub name: String,
    /// The picture.
    pub image: Image,
    /// Its foreground, of the picture's size.
    pub mask: Mask,
    /// Pixels that count neither way.
    pub ignore: Option<Mask>,
}

/// A part of a set.
#[derive(Clone, Debug)]
pub struct Part {
    dataset: Dataset,
    foreground: Foreground,
    /// Samples with a foreground.
    usable: Vec<usize>,
    /// Samples without one, which box and points cannot ask for.
    pub empty: usize,
}

impl Part {
    /// Opens a part of a set and looks for the pictures that have a foreground. `train` of a set without parts is all of it.
    ///
    /// # Errors
    /// A set that cannot be opened, a class that it has not, labels that cannot be read or say nothing of pixels.
    pub fn open(
        path: &Path,
        split: &str,
        foreground: &Foreground,
        mask_folder: Option<&str>,
        numbers: Option<Numbers>,
    ) -> Result<Self, ContinualError> {
        let mut options = OpenOptions {
            split: Some(split.to_owned()),
            mask_folder: mask_folder.map(str::to_owned),
            mask_meaning: numbers.map(|numbers| match numbers {
                Numbers::Classes => MaskMeaning::Classes,
                Numbers::Instances => MaskMeaning::Instances,
                Numbers::Binary => MaskMeaning::Binary,
            }),
            ..OpenOptions::default()
        };
        let dataset = match open_with(path, &options) {
            Err(error @ DataError::UnknownSplit { .. }) if split == "train" => {
                options.split = None;
                let whole = open_with(path, &options)?;
                if whole.samples.iter().any(|sample| sample.split.is_some()) {
                    return Err(error.into());
                }
                whole
            }
            opened => opened?,
        };
        if let Foreground::Classes(names) = foreground {
            let known: Vec<&str> = dataset.classes.iter().map(|class| class.name.as_str()).collect();
            if let Some(name) = names.iter().find(|name| !known.contains(&name.as_str())) {
                let expected = format!("of the classes of {}: {}", path.display(), known.join(", "));
                return Err(ContinualError::setting("foreground", format!("{name:?}"), expected));
            }
        }
        let mut part = Self { dataset, foreground: foreground.clone(), usable: Vec::new(), empty: 0 };
        let found: Result<Vec<Option<usize>>, ContinualError> = (0..part.dataset.samples.len())
            .into_par_iter()
            .filter(|at| part.dataset.samples[*at].is_labelled())
            .map(|at| {
                let sample = &part.dataset.samples[at];
                let labels = part.dataset.labels(sample)?;
                let size = match labels.frame() {
                    Some(size) => size,
                    None => part.dataset.picture_size(sample)?,
                };
                let (mask, _) = part.foreground_of(sample, labels, size)?;
                Ok((mask.area() > 0).then_some(at))
            })
            .collect();
        let found = found?;
        part.empty = found.iter().filter(|at| at.is_none()).count();
        part.usable = found.into_iter().flatten().collect();
        Ok(part)
    }

    /// How many pictures have a foreground.
    pub fn len(&self) -> usize {
        self.usable.len()
    }

    /// Whether none has.
    pub fn is_empty(&self) -> bool {
        self.usable.is_empty()
    }

    /// The name of the nth picture in the set.
    pub fn id(&self, n: usize) -> &str {
        &self.dataset.samples[self.usable[n]].id
    }

    /// The nth picture's file.
    pub fn path(&self, n: usize) -> &Path {
        &self.dataset.samples[self.usable[n]].image
    }

    /// Reads the nth picture.
    ///
    /// # Errors
    /// By file.
    pub fn read(&self, n: usize) -> Result<Picture, ContinualError> {
        let sample = &self.dataset.samples[self.usable[n]];
        let (image, labels) = self.dataset.load(sample)?;
        let (mask, ignore) = self.foreground_of(sample, labels, (image.width(), image.height()))?;
        Ok(Picture { name: sample.image.display().to_string(), image, mask, ignore })
    }

    fn foreground_of(
        &self,
        sample: &Sample,
        labels: Labels,
        (width, height): (u32, u32),
    ) -> Result<(Mask, Option<Mask>), ContinualError> {
        let bad =
            |reason: String| ContinualError::Picture { name: sample.image.display().to_string(), reason };
        let instances = match labels {
            Labels::ClassMap(map) => map.regions(),
            Labels::Instances { instances, .. } => instances,
            Labels::None | Labels::Tags(_) => {
                return Err(bad("expected labels of pixels, found none".to_owned()));
            }
        };
        let wanted = |class: Option<u32>| match (&self.foreground, class) {
            (Foreground::Classes(names), class) => {
                class.and_then(|id| self.dataset.class(id)).is_some_and(|class| names.contains(&class.name))
            }
            (Foreground::Rule(_), None) => true,
            (Foreground::Rule(_), Some(id)) => {
                !self.dataset.class(id).is_some_and(kirie_data::datasets::Class::is_background)
            }
        };
        let mut mask = Mask::new(width as usize, height as usize);
        let mut ignore: Option<Mask> = None;
        let mut largest = 0;
        for (at, object) in instances.iter().enumerate().filter(|(_, object)| object.annotator == 0) {
            let pixels = object.mask(width, height)?;
            let pixels =
                pixels.ok_or_else(|| bad(format!("object {at}: expected its pixels, found a box")))?;
            if object.crowd {
                let ignore = ignore.get_or_insert_with(|| Mask::new(width as usize, height as usize));
                add(ignore, &pixels.to_mask());
            } else if wanted(object.class) {
                if self.foreground == Foreground::Rule(ForegroundRule::Largest) {
                    if pixels.area() > largest {
                        largest = pixels.area();
                        mask = pixels.to_mask();
                    }
                } else {
                    add(&mut mask, &pixels.to_mask());
                }
            }
        }
        if let Some(ignore) = &mut ignore {
            // What is an object is not ignored, whatever lies over it.
            for (pixel, object) in ignore.as_mut_slice().iter_mut().zip(mask.as_slice()) {
                *pixel &= !object;
            }
        }
        Ok((mask, ignore))
    }
}

fn add(mask: &mut Mask, other: &Mask) {
    for (pixel, other) in mask.as_mut_slice().iter_mut().zip(other.as_slice()) {
        *pixel |= other;
    }
}

/// A domain's pictures.
#[derive(Clone, Debug)]
pub struct Domain {
    /// Its name.
    pub name: String,
    /// What is learned from.
    pub part: Part,
    /// Pictures to learn from.
    pub train: Vec<usize>,
    /// Pictures held out of that, for choosing settings.
    pub held_out: Vec<usize>,
    /// What is measured on.
    pub test: Part,
}

impl Domain {
    /// Opens a domain. One picture in `hold_out` is held out, at least one where there are two, none where there is one;
    /// `limit` bounds the pictures that are learned from (0: all).
    ///
    /// # Errors
    /// As [`Part::open`]; a domain without a picture to learn from or to measure on.
    pub fn open(
        config: &DomainConfig,
        root: &Path,
        hold_out: usize,
        limit: usize,
    ) -> Result<Self, ContinualError> {
        let path = root.join(&config.path);
        let open = |part: &str| {
            Part::open(&path, part, &config.foreground, config.mask_folder.as_deref(), config.numbers)
        };
        let (part, test) = (open(&config.train)?, open(&config.test)?);
        for (split, found) in [(&config.train, &part), (&config.test, &test)] {
            if found.is_empty() {
                let reason = format!(
                    "{}: its part {split:?} has no picture with a foreground ({} without)",
                    path.display(),
                    found.empty
                );
                return Err(ContinualError::domain(&config.name, reason));
            }
        }
        // The same pictures in every run, whatever its seed.
        let order = Streams::new(0).order(0, part.len());
        let count = match part.len() {
            n if n == 1 || hold_out == 0 => 0,
            n => n.div_ceil(hold_out).min(n - 1),
        };
        let (held_out, rest) = order.split_at(count);
        let (mut held_out, mut train) = (held_out.to_vec(), rest.to_vec());
        if limit > 0 {
            train.truncate(limit);
        }
        held_out.sort_unstable();
        train.sort_unstable();
        Ok(Self { name: config.name.clone(), part, train, held_out, test })
    }
}

/// `count` of `0..length`, spread evenly; all where `count` is 0.
pub(crate) fn spread(length: usize, count: usize) -> Vec<usize> {
    let count = if count == 0 { length } else { count.min(length) };
    (0..count).map(|i| i * length / count).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    #[test]
    fn foregrounds_are_made_of_classes_and_empty_ones_are_passed_over() {
        let place = tempfile::tempdir().unwrap();
        testing::draw_domain(place.path(), "discs", testing::Look::Discs, 6, 3);
        let path = place.path().join("discs");
        let open = |foreground| Part::open(&path, "train", &foreground, None, None);
        let part = open(Foreground::Classes(vec!["thing".to_owned()])).unwrap();
        // The sixth is drawn without a thing.
        assert_eq!((part.len(), part.empty), (5, 1));
        let picture = part.read(0).unwrap();
        assert_eq!(picture.mask.width(), picture.image.width() as usize);
        assert!(picture.mask.area() > 50 && picture.ignore.is_none());
        let all = open(Foreground::default()).unwrap();
        assert_eq!(all.read(0).unwrap().mask, picture.mask, "all but the background");
        let error = open(Foreground::Classes(vec!["cat".to_owned()])).unwrap_err().to_string();
        assert!(error.contains("foreground is \"cat\", expected of the classes of"), "{error}");
        let wrong = Part::open(&path, "vacation", &Foreground::default(), None, None);
        assert!(matches!(wrong, Err(ContinualError::Data(DataError::UnknownSplit { .. }))));
    }

    #[test]
    fn pictures_are_held_out_the_same_way_every_time() {
        let place = tempfile::tempdir().unwrap();
        testing::draw_domain(place.path(), "discs", testing::Look::Discs, 6, 2);
        let config = testing::domain("discs");
        let open = |hold_out, limit| Domain::open(&config, place.path(), hold_out, limit).unwrap();
        let (a, b) = (open(3, 0), open(3, 2));
        assert_eq!((a.train.len(), a.held_out.len(), a.test.len()), (3, 2, 2));
        assert_eq!(a.held_out, b.held_out);
        assert_eq!(b.train.len(), 2);
        assert!(a.train.iter().all(|at| !a.held_out.contains(at)));
        assert_eq!(spread(10, 3), [0, 3, 6]);
        assert_eq!(spread(2, 5), [0, 1]);
    }
}
