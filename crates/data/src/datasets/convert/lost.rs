//! What a layout cannot hold, counted while it is written.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use serde::Serialize;

use super::{Job, Target, has_pixels};
use crate::datasets::labels::{Instance, Labels, Segmentation};

/// A kind of loss. Nearly all count objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum LossKind {
    /// Only the box was written, not the outline.
    Outlines,
    /// A mask, or an outline of several parts, became one outline.
    OneOutline,
    /// The class was not written.
    Classes,
    /// Objects became pixels of their class, and are not told apart.
    Objects,
    /// Objects that lie over others, whose pixels they now hide.
    Overlaps,
    /// Objects without a single pixel, left out.
    Empty,
    /// Regions of many objects, or to be ignored, left out.
    Crowds,
    /// Regions of many objects, or to be ignored, written as difficult objects.
    CrowdsAsDifficult,
    /// The mark that an object is difficult was not written.
    Difficult,
    /// The score of the program that made the label was not written.
    Scores,
    /// Objects that others than the first person drew, left out.
    OtherPeople,
    /// Who of several people drew the object was not written.
    WhoDrew,
    /// Pictures without labels, which now look as if they were known to show nothing.
    Unlabelled,
}

impl LossKind {
    /// The kind as a phrase for people, to follow a number.
    pub fn describe(self) -> &'static str {
        match self {
            Self::Outlines => "objects keep their box only, not their outline",
            Self::OneOutline => {
                "masks became one outline each; bridges of no width join parts and open holes"
            }
            Self::Classes => "objects lost their class",
            Self::Objects => "objects became pixels of their class, no longer told apart",
            Self::Overlaps => "objects lie over others and hide their pixels",
            Self::Empty => "objects without a single pixel were left out",
            Self::Crowds => "crowd regions, or regions to be ignored, were left out",
            Self::CrowdsAsDifficult => "crowd regions, or regions to be ignored, became difficult objects",
            Self::Difficult => "objects are no longer marked as difficult",
            Self::Scores => "objects lost their score",
            Self::OtherPeople => "objects that others than the first person drew were left out",
            Self::WhoDrew => "objects no longer say which of several people drew them",
            Self::Unlabelled => "pictures without labels now look as if they showed nothing",
        }
    }
}

/// All losses of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Loss {
    /// The kind.
    pub kind: LossKind,
    /// How many there are.
    pub total: usize,
}

/// Losses of all pictures, counted from several threads.
#[derive(Debug, Default)]
pub(super) struct Losses(Mutex<BTreeMap<LossKind, usize>>);

impl Losses {
    pub(super) fn add(&self, kind: LossKind, count: usize) {
        if count > 0 {
            // Counters are whole after any panic.
            *self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(kind).or_default() += count;
        }
    }

    pub(super) fn to_list(&self) -> Vec<Loss> {
        let losses = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        losses.iter().map(|(&kind, &total)| Loss { kind, total }).collect()
    }

    /// Counts what of a picture's labels the target does not hold. Overlaps are counted where they are painted.
    pub(super) fn count(&self, job: &Job, labels: &Labels) {
        let target = job.options.target;
        if matches!(labels, Labels::None) {
            self.add(LossKind::Unlabelled, usize::from(matches!(target, Target::Coco | Target::Yolo)));
            return;
        }
        let crowds = |objects: &[Instance]| objects.iter().filter(|object| object.crowd).count();
        let mut objects = job.objects(labels);
        let left_out = crowds(&Job::all_objects(labels)).saturating_sub(crowds(&objects));
        if target == Target::Yolo {
            self.add(LossKind::Crowds, crowds(&objects) + left_out);
            objects.retain(|object| !object.crowd);
            let empty = |object: &Instance| match &object.segmentation {
                Segmentation::Rle(rle) => rle.area() == 0,
                Segmentation::Polygons(_) | Segmentation::Box => false,
            };
            self.add(LossKind::Empty, objects.iter().filter(|object| empty(object)).count());
            objects.retain(|object| !empty(object));
        } else {
            self.add(LossKind::Crowds, left_out);
        }
        let count = |which: &dyn Fn(&Instance) -> bool| objects.iter().filter(|object| which(object)).count();
        let several_people = count(&|object| object.annotator > 0);
        if target == Target::InstanceMasks {
            self.add(LossKind::OtherPeople, several_people);
        } else if several_people > 0 {
            self.add(LossKind::WhoDrew, objects.len());
        }
        match target {
            Target::Coco => {}
            Target::Voc => {
                self.add(LossKind::Outlines, count(&has_pixels));
                self.add(LossKind::CrowdsAsDifficult, crowds(&objects));
            }
            Target::Yolo => {
                let single = |object: &Instance| match &object.segmentation {
                    Segmentation::Polygons(rings) => rings.len() == 1,
                    Segmentation::Rle(_) => false,
                    Segmentation::Box => true,
                };
                self.add(LossKind::OneOutline, count(&|object| !single(object)));
            }
            Target::ClassMasks if matches!(labels, Labels::ClassMap(_)) => {}
            Target::ClassMasks => self.add(LossKind::Objects, count(&|object| !object.crowd)),
            Target::InstanceMasks => {
                // The list of a single class is kept, and gives it to every object.
                if job.classes.classes.len() > 1 {
                    let kept =
                        |object: &Instance| object.annotator == 0 && object.class.is_some() && !object.crowd;
                    self.add(LossKind::Classes, count(&kept));
                }
            }
        }
        if !matches!(target, Target::Coco | Target::Voc) {
            self.add(LossKind::Difficult, count(&|object| object.difficult));
        }
        if target != Target::Coco {
            self.add(LossKind::Scores, count(&|object| object.score.is_some()));
        }
    }
}
