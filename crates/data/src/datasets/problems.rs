//! What is wrong with a dataset, counted by kind.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::DataError;

/// A kind of problem.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ProblemKind {
    /// A picture is missing, damaged, cut short or too large.
    UnreadablePicture,
    /// A label file is missing or cannot be understood.
    UnreadableLabels,
    /// Labels of a class that the class list lacks.
    UnknownClass,
    /// Labels made for a picture of another size.
    SizeMismatch,
    /// An object without a single pixel, or a label picture without any label.
    EmptyMask,
    /// A box that reaches over the edge of its picture, or has no area.
    BoxOutside,
    /// The same picture, byte for byte, more than once in one part of the set.
    DuplicatePicture,
    /// The same picture, byte for byte, in two parts of the set (train and test, say).
    InTwoSplits,
    /// A picture without labels in a set that has labels.
    PictureWithoutLabels,
    /// Labels without a picture.
    LabelsWithoutPicture,
    /// A picture that is in none of the set's lists, and so left out.
    NotInAnyList,
    /// Two picture files share one name, so that labels cannot tell them apart.
    SameName,
}

impl ProblemKind {
    /// The kind as a phrase for people.
    pub fn describe(self) -> &'static str {
        match self {
            Self::UnreadablePicture => "unreadable pictures",
            Self::UnreadableLabels => "unreadable labels",
            Self::UnknownClass => "labels of unknown classes",
            Self::SizeMismatch => "labels of another size than their picture",
            Self::EmptyMask => "empty masks",
            Self::BoxOutside => "boxes that are empty or reach over the edge",
            Self::DuplicatePicture => "pictures that occur more than once",
            Self::InTwoSplits => "pictures that are in two parts of the set",
            Self::PictureWithoutLabels => "pictures without labels",
            Self::LabelsWithoutPicture => "labels without a picture",
            Self::NotInAnyList => "pictures in no list",
            Self::SameName => "pictures of the same name",
        }
    }
}

impl ProblemKind {
    /// Whether a picture with such a problem can be used for nothing: reading it, or its labels, fails.
    pub fn is_fatal(self) -> bool {
        matches!(
            self,
            Self::UnreadablePicture | Self::UnreadableLabels | Self::UnknownClass | Self::SizeMismatch
        )
    }
}

impl From<&DataError> for ProblemKind {
    /// The kind that an error from reading labels belongs to.
    fn from(error: &DataError) -> Self {
        match error {
            DataError::UnknownClass { .. } => Self::UnknownClass,
            DataError::PictureSize { .. } => Self::SizeMismatch,
            _ => Self::UnreadableLabels,
        }
    }
}

/// All problems of one kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// The kind.
    pub kind: ProblemKind,
    /// How many there are.
    pub total: usize,
    /// The first of them, each saying where and what.
    pub examples: Vec<String>,
}

/// Problems as they are found; of each kind the first are kept.
#[derive(Clone, Debug, Default)]
pub(super) struct Problems(BTreeMap<ProblemKind, (usize, Vec<String>)>);

impl Problems {
    /// Examples of each kind that a list holds unless the caller wants another number.
    pub(super) const LISTED: usize = 20;
    /// Examples of each kind that are kept: more than anybody reads, less than fills the memory.
    pub(super) const KEPT: usize = 10_000;

    pub(super) fn push(&mut self, kind: ProblemKind, what: impl Into<String>) {
        let (total, examples) = self.0.entry(kind).or_default();
        *total += 1;
        if examples.len() < Self::KEPT {
            examples.push(what.into());
        }
    }

    /// The problems with up to `listed` examples of each kind.
    pub(super) fn to_list(&self, listed: usize) -> Vec<Problem> {
        let problem = |(&kind, (total, examples)): (&ProblemKind, &(usize, Vec<String>))| Problem {
            kind,
            total: *total,
            examples: examples.iter().take(listed).cloned().collect(),
        };
        self.0.iter().map(problem).collect()
    }
}
