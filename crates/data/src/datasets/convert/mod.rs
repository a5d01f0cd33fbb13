//! A dataset written in another layout.

mod coco;
mod lost;
mod masks;
mod voc;
mod yolo;

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use rayon::prelude::*;

use super::labels::{Instance, Labels, Segmentation};
use super::{Class, Dataset, Layout, MaskMeaning, Sample, check_frame};
use crate::decode::read_bytes;
use crate::write::{DEFAULT_TOLERANCE, PictureFormat, encode_picture};
use crate::{DataError, NewFolder, create_parent, write_atomic};
use lost::Losses;
pub use lost::{Loss, LossKind};

/// What to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Target {
    /// `images/`, `annotations/instances.json` (a file a part: `instances_train.json`). Polygons stay polygons, masks
    /// become compressed run lengths; only who drew an object is lost.
    Coco,
    /// `images/`, `labels/` (by part below them), `data.yaml`. An object becomes one polygon, with bridges of no width
    /// between its parts, or a box; crowd regions are left out.
    Yolo,
    /// `JPEGImages/`, `Annotations/`, `ImageSets/Main/`, `classes.txt`. Boxes only; crowd regions count as difficult.
    Voc,
    /// `images/`, `masks/` with the class of every pixel, `classes.txt`, lists. Smaller objects lie on top of larger ones;
    /// crowd regions are to be ignored.
    ClassMasks,
    /// `images/`, `masks/` with the objects of a picture counted from 1, larger ones first, smaller ones on top; lists.
    /// Classes are lost, unless there is only one. Of several people's labels the first's are kept.
    InstanceMasks,
}

/// What becomes of the pictures.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Pictures {
    /// They are copied.
    #[default]
    Copy,
    /// They appear in the new set without taking space (hard links), or as copies where the file system has no such
    /// links.
    Link,
    /// They stay where they are, and only labels are written. A COCO file then names them as they lie below the old
    /// set's folder.
    Leave,
}

/// How [`convert`] writes.
#[derive(Clone, Debug, PartialEq)]
pub struct ConvertOptions {
    /// What to write.
    pub target: Target,
    /// What becomes of the pictures.
    pub pictures: Pictures,
    /// For [`Target::Yolo`]: how far, in pixels, an outline made from a mask may stray from the mask's edge.
    pub tolerance: f64,
}

impl ConvertOptions {
    /// Copies the pictures and keeps to the usual tolerance.
    pub fn new(target: Target) -> Self {
        Self { target, pictures: Pictures::Copy, tolerance: DEFAULT_TOLERANCE }
    }
}

/// What [`convert`] did.
#[derive(Debug, Default)]
pub struct Converted {
    /// Pictures whose labels were written.
    pub samples: usize,
    /// Objects written; class masks count their regions.
    pub objects: usize,
    /// Pictures that were left out, and why.
    pub failed: Vec<(String, DataError)>,
    /// What the new layout cannot hold, of the pictures that were written.
    pub lost: Vec<Loss>,
}

/// Writes a dataset in another layout into a new or empty folder.
///
/// The set appears under its name when all of it is written; before that, and after an error, there is nothing but, in a
/// killed process, a hidden folder `.kirie-*.tmp`. A picture whose labels cannot be read or
/// written that way is left out and named in [`Converted::failed`]; where this happens to all of them, nothing is written
/// at all. `progress` is told the number of samples done and of
/// all, from several threads.
///
/// Pictures keep their name; folders in it become part of it, joined by `_`. Classes called background are left out
/// where objects are written. Objects without a class are of a class `object`, after all others; regions to be ignored
/// that have none are kept where there are no classes at all, and in masks.
///
/// # Errors
/// [`DataError::NotEmpty`], and those of [`write_atomic`].
pub fn convert(
    dataset: &Dataset,
    folder: impl AsRef<Path>,
    options: &ConvertOptions,
    progress: &(dyn Fn(usize, usize) + Sync),
) -> Result<Converted, DataError> {
    let place = NewFolder::new(folder.as_ref())?;
    let job = Job {
        dataset,
        folder: place.work(),
        options,
        classes: Numbering::new(dataset, options.target),
        progress,
        done: AtomicUsize::new(0),
        losses: Losses::default(),
    };
    let names = names(dataset);
    let tasks: Vec<Task> =
        dataset.samples.iter().zip(&names).map(|(sample, name)| Task { sample, name }).collect();
    let mut converted = if options.target == Target::Coco {
        coco::write(&job, &tasks)?
    } else {
        let done: Vec<Result<usize, DataError>> = tasks.par_iter().map(|task| job.one(task)).collect();
        gather(tasks.iter().zip(done))?
    };
    if converted.samples == 0 {
        return Ok(converted);
    }
    let written: HashSet<&str> = {
        let failed: HashSet<&str> = converted.failed.iter().map(|(name, _)| name.as_str()).collect();
        let all = tasks.iter().map(|task| task.name.as_str());
        all.filter(|name| !failed.contains(name)).collect()
    };
    job.lists(&tasks, &written)?;
    converted.lost = job.losses.to_list();
    place.finish()?;
    Ok(converted)
}

/// A name for every sample, once each, that is a plain file name.
fn names(dataset: &Dataset) -> Vec<String> {
    let mut taken = HashSet::new();
    let unique = |sample: &Sample| {
        let plain = sample.id.replace(['/', '\\', ':'], "_");
        let mut name = plain.clone();
        let mut count = 1;
        while !taken.insert(name.clone()) {
            count += 1;
            name = format!("{plain}_{count}");
        }
        name
    };
    dataset.samples.iter().map(unique).collect()
}

/// One sample to convert.
struct Task<'a> {
    sample: &'a Sample,
    /// Its name in the new set.
    name: &'a String,
}

impl Task<'_> {
    /// The picture's file name in the new set.
    fn picture_name(&self) -> String {
        let ending = self.sample.image.extension().and_then(|e| e.to_str());
        let ending = ending.filter(|_| self.sample.frame.is_none()).unwrap_or("png");
        format!("{}.{ending}", self.name)
    }

    /// What an object's mask fails with, named after the sample's labels.
    fn no_mask(&self, index: usize, reason: impl std::fmt::Display) -> DataError {
        let file = self.sample.label_file().unwrap_or(&self.sample.image);
        DataError::malformed(file, format!("object {index}"), reason)
    }
}

struct Job<'a> {
    dataset: &'a Dataset,
    folder: &'a Path,
    options: &'a ConvertOptions,
    classes: Numbering,
    progress: &'a (dyn Fn(usize, usize) + Sync),
    done: AtomicUsize,
    losses: Losses,
}

/// The classes of the new set and the numbers they have there.
struct Numbering {
    /// Old ids, in order; with the names.
    classes: Vec<Class>,
    /// Whether new ids count from 0.
    from_zero: bool,
    /// What the new ids are larger by.
    shift: u32,
    /// Whether the class `object` was needed.
    classless: AtomicBool,
}

impl Numbering {
    fn new(dataset: &Dataset, target: Target) -> Self {
        let maps = dataset.layout == Layout::Masks && dataset.mask_meaning != Some(MaskMeaning::Instances);
        let mut classes = dataset.classes.clone();
        // In masks made from objects 0 has to be left to the background.
        let mut shift = 0;
        if target != Target::ClassMasks || !maps {
            classes.retain(|class| !class.is_background());
        }
        if target == Target::ClassMasks && !maps && classes.first().is_some_and(|class| class.id == 0) {
            shift = 1;
        }
        Self { classes, from_zero: target == Target::Yolo, shift, classless: AtomicBool::new(false) }
    }

    /// The new id of an object's class.
    fn id(&self, class: Option<u32>) -> u32 {
        let index = class.and_then(|id| self.classes.iter().position(|class| class.id == id));
        match (index, class) {
            (Some(index), _) if self.from_zero => index as u32,
            (Some(_), Some(id)) => id + self.shift,
            _ => {
                self.classless.store(true, Ordering::Relaxed);
                self.classless_id()
            }
        }
    }

    fn classless_id(&self) -> u32 {
        if self.from_zero {
            self.classes.len() as u32
        } else {
            self.classes.last().map_or(1, |class| class.id.saturating_add(self.shift + 1))
        }
    }

    /// The new set's classes with their new ids.
    fn all(&self) -> Vec<(u32, String)> {
        let listed = self.classes.iter().map(|class| (self.id(Some(class.id)), class.name.clone()));
        let mut all: Vec<_> = listed.collect();
        if self.classless.load(Ordering::Relaxed) {
            all.push((self.classless_id(), "object".to_owned()));
        }
        all
    }
}

impl Job<'_> {
    /// Writes one sample's labels, then its picture; returns the number of objects.
    fn one(&self, task: &Task) -> Result<usize, DataError> {
        let result = self.labels(task).and_then(|(size, labels)| {
            let written = match self.options.target {
                // COCO is one file for all.
                Target::Coco => Ok(0),
                Target::Yolo => yolo::write(self, task, size, &labels),
                Target::Voc => voc::write(self, task, size, &labels),
                Target::ClassMasks => masks::write_classes(self, task, size, &labels),
                Target::InstanceMasks => masks::write_instances(self, task, size, &labels),
            }?;
            self.picture(task)?;
            self.losses.count(self, &labels);
            Ok(written)
        });
        self.step();
        result
    }

    fn step(&self) {
        (self.progress)(self.done.fetch_add(1, Ordering::Relaxed) + 1, self.dataset.samples.len());
    }

    /// The size of a picture and its labels, which must fit and say where things are.
    fn labels(&self, task: &Task) -> Result<((u32, u32), Labels), DataError> {
        let size = self.dataset.picture_size(task.sample)?;
        let labels = self.dataset.labels(task.sample)?;
        check_frame(task.sample, &labels, size)?;
        if matches!(labels, Labels::Tags(_)) {
            let reason = "its labels say which classes it shows, but not where";
            return Err(DataError::not_a_dataset(&task.sample.image, reason));
        }
        Ok((size, labels))
    }

    /// The objects of labels; the classes' regions of a class mask, without background.
    fn objects(&self, labels: &Labels) -> Vec<Instance> {
        let mut objects = Self::all_objects(labels);
        let background = |id| self.dataset.class(id).is_some_and(Class::is_background);
        let painted = matches!(self.options.target, Target::ClassMasks | Target::InstanceMasks);
        objects.retain(|object| match object.class {
            Some(id) => !background(id),
            // Among classes there is none for what is to be ignored whatever its class.
            None => painted || !object.crowd || self.classes.classes.is_empty(),
        });
        objects
    }

    fn all_objects(labels: &Labels) -> Vec<Instance> {
        match labels {
            Labels::None | Labels::Tags(_) => Vec::new(),
            Labels::Instances { instances, .. } => instances.clone(),
            Labels::ClassMap(map) => map.regions(),
        }
    }

    /// The picture's folder in the new set.
    fn picture_folder(&self, sample: &Sample) -> PathBuf {
        match self.options.target {
            Target::Voc => self.folder.join("JPEGImages"),
            Target::Yolo => self.by_split("images", sample),
            _ => self.folder.join("images"),
        }
    }

    fn by_split(&self, folder: &str, sample: &Sample) -> PathBuf {
        let folder = self.folder.join(folder);
        sample.split.as_ref().map_or(folder.clone(), |split| folder.join(split))
    }

    fn picture(&self, task: &Task) -> Result<(), DataError> {
        if self.options.pictures == Pictures::Leave {
            return Ok(());
        }
        let path = self.picture_folder(task.sample).join(task.picture_name());
        create_parent(&path)?;
        if task.sample.frame.is_some() {
            let bytes = encode_picture(&self.dataset.picture(task.sample)?, PictureFormat::Png)?;
            return write_atomic(&path, |w| w.write_all(&bytes));
        }
        // A link to a link would break with it.
        let source = &task.sample.image;
        let linked = self.options.pictures == Pictures::Link
            && fs::canonicalize(source).and_then(|real| fs::hard_link(real, &path)).is_ok();
        if linked {
            return Ok(());
        }
        let bytes = read_bytes(source, &source.display().to_string(), &self.dataset.limits)?;
        write_atomic(&path, |w| w.write_all(&bytes))
    }

    /// Writes class lists and lists of parts.
    fn lists(&self, tasks: &[Task], written: &HashSet<&str>) -> Result<(), DataError> {
        let classes = self.classes.all();
        match self.options.target {
            Target::Coco => return Ok(()),
            Target::Yolo => return yolo::write_yaml(self, tasks, &classes),
            Target::Voc | Target::ClassMasks => self.class_list(classes)?,
            // A list of several classes would not fit the numbers of objects.
            Target::InstanceMasks => {
                if let [only] = self.classes.classes.as_slice() {
                    self.class_list(vec![(1, only.name.clone())])?;
                }
            }
        }
        let folder = match self.options.target {
            Target::Voc => self.folder.join("ImageSets/Main"),
            _ => self.folder.to_owned(),
        };
        for split in splits(tasks) {
            let of_split = tasks.iter().filter(|task| task.sample.split.as_deref() == Some(split));
            let names = of_split.map(|task| task.name.as_str()).filter(|name| written.contains(name));
            let names: Vec<&str> = names.collect();
            let path = folder.join(format!("{split}.txt"));
            create_parent(&path)?;
            write_atomic(&path, |w| names.iter().try_for_each(|name| writeln!(w, "{name}")))?;
        }
        Ok(())
    }

    fn class_list(&self, mut classes: Vec<(u32, String)>) -> Result<(), DataError> {
        if self.options.target != Target::Voc && classes.iter().all(|(id, _)| *id != 0) {
            classes.insert(0, (0, "background".to_owned()));
        }
        write_atomic(self.folder.join("classes.txt"), |w| {
            classes.iter().try_for_each(|(id, name)| writeln!(w, "{id}\t{name}"))
        })
    }
}

/// Sums up what became of the samples. An output that cannot be written ends the run; anything else costs one
/// picture.
fn gather<'t>(
    results: impl Iterator<Item = (&'t Task<'t>, Result<usize, DataError>)>,
) -> Result<Converted, DataError> {
    let mut converted = Converted::default();
    for (task, result) in results {
        match result {
            Ok(objects) => {
                converted.samples += 1;
                converted.objects += objects;
            }
            Err(error @ DataError::Write { .. }) => return Err(error),
            Err(error) => converted.failed.push((task.name.clone(), error)),
        }
    }
    Ok(converted)
}

/// The parts that occur, in the order in which they do.
fn splits<'a>(tasks: &[Task<'a>]) -> Vec<&'a str> {
    let mut splits: Vec<&str> = Vec::new();
    for split in tasks.iter().filter_map(|task| task.sample.split.as_deref()) {
        if !splits.contains(&split) {
            splits.push(split);
        }
    }
    splits
}

/// An object's mask, where more than its box is known.
fn has_pixels(instance: &Instance) -> bool {
    !matches!(instance.segmentation, Segmentation::Box)
}
