//! A dataset in numbers, and what is wrong with it.

use std::collections::{BTreeMap, HashMap};
use std::hash::{DefaultHasher, Hasher};
use std::sync::atomic::{AtomicUsize, Ordering};

use kirie_mask::BBox;
use rayon::prelude::*;
use serde::Serialize;

use super::labels::{ClassMap, Instance, Labels, Segmentation};
use super::problems::{Problem, ProblemKind, Problems};
use super::{Class, Dataset, Layout, MaskMeaning, Sample, check_frame};
use crate::DataError;
use crate::decode::{decode_image, read_bytes};

/// Areas, in square pixels, below which COCO calls objects small and medium.
const SMALL: f64 = 32.0 * 32.0;
const MEDIUM: f64 = 96.0 * 96.0;

/// A dataset in numbers.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Inspection {
    /// Name of its folder.
    pub name: String,
    /// Its layout.
    pub layout: Layout,
    /// What it was taken for, in a sentence.
    pub found: String,
    /// What the numbers of its label pictures mean, for [`Layout::Masks`].
    pub mask_meaning: Option<MaskMeaning>,
    /// Pictures in all.
    pub samples: usize,
    /// Pictures by part, where there are parts.
    pub splits: Vec<SplitCount>,
    /// Pictures with labels, even such as say that there is nothing.
    pub labelled: usize,
    /// Pictures that cannot be used, because reading them or their labels fails ([`ProblemKind::is_fatal`]).
    pub unusable: usize,
    /// Sizes of the readable pictures; `None` when there is none.
    pub sizes: Option<SizeStats>,
    /// Every class and its share.
    pub classes: Vec<ClassShare>,
    /// Share of all pixels of class masks that are to be ignored, 0 to 1; `None` without class masks.
    pub ignored: Option<f64>,
    /// Numbers on the objects; `None` when the labels know no objects.
    pub objects: Option<ObjectStats>,
    /// What is wrong.
    pub problems: Vec<Problem>,
}

/// Pictures of one part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SplitCount {
    /// The part.
    pub split: String,
    /// Its pictures.
    pub samples: usize,
}

/// Least, middle and greatest of some numbers.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Spread {
    /// The least.
    pub min: f64,
    /// As many lie below as above; of two in the middle the lower.
    pub median: f64,
    /// The greatest.
    pub max: f64,
}

impl Spread {
    fn of(mut numbers: Vec<f64>) -> Option<Self> {
        numbers.sort_by(f64::total_cmp);
        let median = *numbers.get(numbers.len().saturating_sub(1) / 2)?;
        Some(Self { min: *numbers.first()?, median, max: *numbers.last()? })
    }
}

/// Sizes of pictures.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct SizeStats {
    /// Widths, pixels.
    pub width: Spread,
    /// Heights, pixels.
    pub height: Spread,
    /// Width by height.
    pub aspect: Spread,
}

/// A class and what it has of the set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ClassShare {
    /// The class.
    #[serde(flatten)]
    pub class: Class,
    /// Pictures that show it.
    pub images: usize,
    /// Objects, without crowd regions.
    pub objects: usize,
    /// Pixels in masks; objects that are only boxes have none.
    pub pixels: u64,
}

/// Numbers on objects. Crowd regions count only as such.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ObjectStats {
    /// Objects in all.
    pub total: usize,
    /// Regions of many objects, or to be ignored.
    pub crowd: usize,
    /// Objects marked as difficult.
    pub difficult: usize,
    /// Objects by picture, among pictures with labels.
    pub per_image: Spread,
    /// Objects of less than 32² pixels.
    pub small: usize,
    /// Objects of 32² to 96² pixels.
    pub medium: usize,
    /// Objects of 96² pixels and more.
    pub large: usize,
    /// Areas of objects as shares of their picture's; `None` when there is no object in a readable picture.
    pub share: Option<Spread>,
}

/// What one sample adds.
#[derive(Default)]
struct Found {
    size: Option<(u32, u32)>,
    hash: Option<u64>,
    labelled: bool,
    /// By class id: objects and pixels.
    classes: BTreeMap<u32, (usize, u64)>,
    ignored: u64,
    masked: u64,
    /// Whether its labels know objects; then how many, and their areas.
    objects: Option<usize>,
    areas: Vec<f64>,
    shares: Vec<f64>,
    crowd: usize,
    difficult: usize,
    problems: Vec<(ProblemKind, String)>,
}

/// Reads every picture and every label of a dataset, on all cores, and counts.
///
/// `progress` is told the number of samples done and of all, from several threads at once. What cannot be read is a
/// [`Problem`], not an error; of every kind the first 20 are listed, or as many as
/// [`OpenOptions::examples`](super::OpenOptions) says.
pub fn inspect(dataset: &Dataset, progress: &(dyn Fn(usize, usize) + Sync)) -> Inspection {
    let (done, all) = (AtomicUsize::new(0), dataset.samples.len());
    let look = |sample| {
        let found = look(dataset, sample);
        progress(done.fetch_add(1, Ordering::Relaxed) + 1, all);
        found
    };
    // In the order of the samples, so that every run reports the same.
    let found: Vec<Found> = dataset.samples.par_iter().map(look).collect();

    let mut problems = dataset.problems.clone();
    for (kind, what) in found.iter().flat_map(|found| &found.problems) {
        problems.push(*kind, what);
    }
    repeated(dataset, &found, &mut problems);

    let mut classes: Vec<ClassShare> = dataset
        .classes
        .iter()
        .map(|class| ClassShare { class: class.clone(), images: 0, objects: 0, pixels: 0 })
        .collect();
    for (&id, &(objects, pixels)) in found.iter().flat_map(|found| &found.classes) {
        if let Some(share) = dataset.class_index(id).and_then(|index| classes.get_mut(index)) {
            share.images += 1;
            share.objects += objects;
            share.pixels += pixels;
        }
    }
    let masked: u64 = found.iter().map(|found| found.masked).sum();
    let ignored: u64 = found.iter().map(|found| found.ignored).sum();
    let mut splits: Vec<SplitCount> = Vec::new();
    for split in dataset.samples.iter().filter_map(|sample| sample.split.as_ref()) {
        match splits.iter_mut().find(|count| count.split == *split) {
            Some(count) => count.samples += 1,
            None => splits.push(SplitCount { split: split.clone(), samples: 1 }),
        }
    }
    Inspection {
        name: dataset.name.clone(),
        layout: dataset.layout,
        found: dataset.found.clone(),
        mask_meaning: dataset.mask_meaning,
        samples: all,
        splits,
        labelled: found.iter().filter(|found| found.labelled).count(),
        unusable: found.iter().filter(|found| found.problems.iter().any(|(kind, _)| kind.is_fatal())).count(),
        sizes: sizes(&found),
        classes,
        ignored: (masked > 0).then(|| ignored as f64 / masked as f64),
        objects: objects(&found),
        problems: problems.to_list(dataset.examples),
    }
}

fn sizes(found: &[Found]) -> Option<SizeStats> {
    let spread =
        |of: fn((u32, u32)) -> f64| Spread::of(found.iter().filter_map(|found| found.size).map(of).collect());
    Some(SizeStats {
        width: spread(|(width, _)| width.into())?,
        height: spread(|(_, height)| height.into())?,
        aspect: spread(|(width, height)| f64::from(width) / f64::from(height))?,
    })
}

fn objects(found: &[Found]) -> Option<ObjectStats> {
    let per_image = Spread::of(found.iter().filter_map(|found| found.objects).map(|n| n as f64).collect())?;
    let areas = || found.iter().flat_map(|found| &found.areas);
    Some(ObjectStats {
        total: areas().count(),
        crowd: found.iter().map(|found| found.crowd).sum(),
        difficult: found.iter().map(|found| found.difficult).sum(),
        per_image,
        small: areas().filter(|&&area| area < SMALL).count(),
        medium: areas().filter(|&&area| (SMALL..MEDIUM).contains(&area)).count(),
        large: areas().filter(|&&area| area >= MEDIUM).count(),
        share: Spread::of(found.iter().flat_map(|found| found.shares.iter().copied()).collect()),
    })
}

/// Pictures of the same content.
fn repeated(dataset: &Dataset, found: &[Found], problems: &mut Problems) {
    let mut first: HashMap<u64, &Sample> = HashMap::new();
    for (sample, found) in dataset.samples.iter().zip(found) {
        let Some(hash) = found.hash else { continue };
        let Some(before) = first.get(&hash) else {
            first.insert(hash, sample);
            continue;
        };
        let name = |sample: &Sample| match &sample.split {
            Some(split) => format!("{split}: {}", sample.id),
            None => sample.id.clone(),
        };
        let kind = if before.split == sample.split {
            ProblemKind::DuplicatePicture
        } else {
            ProblemKind::InTwoSplits
        };
        problems.push(kind, format!("{} = {}", name(before), name(sample)));
    }
}

/// Everything about one sample.
fn look(dataset: &Dataset, sample: &Sample) -> Found {
    let mut found = Found { labelled: sample.is_labelled(), ..Found::default() };
    match picture(dataset, sample) {
        Ok((size, hash)) => (found.size, found.hash) = (Some(size), Some(hash)),
        Err(error) => found.problems.push((ProblemKind::UnreadablePicture, error.to_string())),
    }
    let labels = dataset.labels(sample).and_then(|labels| {
        if let Some(size) = found.size {
            check_frame(sample, &labels, size)?;
        }
        Ok(labels)
    });
    match labels {
        Ok(labels) => count(sample, &labels, &mut found),
        Err(error) => {
            let kind = ProblemKind::from(&error);
            // A picture that cannot be read was told above.
            if found.size.is_some() || kind != ProblemKind::UnreadableLabels {
                found.problems.push((kind, error.to_string()));
            }
        }
    }
    found
}

/// The size of a picture that can be decoded to its end, and a hash of its content.
fn picture(dataset: &Dataset, sample: &Sample) -> Result<((u32, u32), u64), DataError> {
    let mut hasher = DefaultHasher::new();
    let picture = if sample.frame.is_some() {
        let picture = dataset.picture(sample)?;
        hasher.write(picture.as_raw());
        picture
    } else {
        let name = sample.image.display().to_string();
        let bytes = read_bytes(&sample.image, &name, &dataset.limits)?;
        hasher.write(&bytes);
        decode_image(&bytes, &name, &dataset.limits)?
    };
    Ok(((picture.width(), picture.height()), hasher.finish()))
}

fn count(sample: &Sample, labels: &Labels, found: &mut Found) {
    match labels {
        Labels::None => {}
        Labels::Tags(tags) => found.classes.extend(tags.iter().map(|&tag| (tag, (0, 0)))),
        Labels::ClassMap(map) => count_pixels(map, found),
        Labels::Instances { frame, instances } => {
            let frame = frame.or(found.size);
            found.objects = Some(0);
            for (i, instance) in instances.iter().enumerate() {
                count_object(sample, i, instance, frame, found);
            }
            if instances.is_empty() && matches!(sample.labels, super::Source::Masks(_)) {
                let name = sample.label_file().unwrap_or(&sample.image);
                found.problems.push((ProblemKind::EmptyMask, format!("{}: no object", name.display())));
            }
        }
    }
}

fn count_pixels(map: &ClassMap, found: &mut Found) {
    let mut counts = vec![0u64; usize::from(u16::MAX) + 1];
    for &id in &map.ids {
        counts[usize::from(id)] += 1;
    }
    found.masked = map.ids.len() as u64;
    found.ignored = counts[usize::from(ClassMap::IGNORE)];
    let classes = (0..u32::from(ClassMap::IGNORE)).zip(counts).filter(|(_, pixels)| *pixels > 0);
    found.classes = classes.map(|(id, pixels)| (id, (0, pixels))).collect();
}

fn count_object(
    sample: &Sample,
    i: usize,
    instance: &Instance,
    frame: Option<(u32, u32)>,
    found: &mut Found,
) {
    let name = || {
        let file = sample.label_file().map_or_else(|| sample.id.clone(), |file| file.display().to_string());
        format!("{file}, object {i}")
    };
    let mut pixels = 0;
    if let Some((width, height)) = frame {
        match instance.mask(width, height) {
            Ok(Some(mask)) => {
                pixels = mask.area();
                if pixels == 0 {
                    found.problems.push((ProblemKind::EmptyMask, name()));
                }
            }
            Ok(None) => {}
            Err(error) => {
                found.problems.push((ProblemKind::UnreadableLabels, format!("{}: {error}", name())));
            }
        }
        let BBox { x0, y0, x1, y1 } = instance.bbox;
        // Files round their numbers; half a pixel is no fault.
        let outside = x0 < -0.5 || y0 < -0.5 || x1 > f64::from(width) + 0.5 || y1 > f64::from(height) + 0.5;
        let empty = instance.bbox.area() <= 0.0 && matches!(instance.segmentation, Segmentation::Box);
        if outside || empty {
            let what = format!("{}: ({x0}, {y0}) to ({x1}, {y1}) in {width}x{height}", name());
            found.problems.push((ProblemKind::BoxOutside, what));
        }
    }
    let share = instance.class.map(|class| found.classes.entry(class).or_default());
    if let Some((objects, of_class)) = share {
        *objects += usize::from(!instance.crowd);
        *of_class += pixels;
    }
    if instance.crowd {
        found.crowd += 1;
        return;
    }
    found.difficult += usize::from(instance.difficult);
    found.objects = found.objects.map(|count| count + 1);
    found.areas.push(instance.area);
    found.shares.extend(frame.map(|(width, height)| instance.area / (f64::from(width) * f64::from(height))));
}
