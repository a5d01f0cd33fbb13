//! What can go wrong in learning, inference and evaluation.

use kirie_data::DataError;
use kirie_engine::EngineError;
use kirie_mask::MaskError;
use kirie_metrics::MetricsError;
use kirie_run::RunError;
use kirie_sam::SamError;
use kirie_sam::checkpoint::CheckpointError;
use thiserror::Error;

/// What can go wrong in learning, inference and evaluation.
#[derive(Debug, Error)]
pub enum SemanticError {
    /// A setting out of its range, or one that does not fit another.
    #[error("{name} is {found}, expected {expected}")]
    Setting {
        /// Its name in the configuration.
        name: String,
        /// Its value.
        found: String,
        /// Its range.
        expected: String,
    },
    /// No picture is left to learn from.
    #[error("there is no labelled picture to learn from in {sets}")]
    NoPictures {
        /// The sets.
        sets: String,
    },
    /// Labels that do not say of every pixel what it is.
    #[error("{name}: {reason}")]
    Labels {
        /// The file, or the set.
        name: String,
        /// What was expected and what was found.
        reason: String,
    },
    /// A class of a set that the configuration leaves without a place.
    #[error(
        "{set}: its class {class:?} is none of data.classes ({known}); list it there, or say with data.merge which of \
         them it belongs to, or that it is to be ignored ({class:?} = \"ignore\")"
    )]
    ClassNotListed {
        /// The set.
        set: String,
        /// The class's name in the set.
        class: String,
        /// The classes there are.
        known: String,
    },
    /// A class that no set has.
    #[error("{name} {class:?}: no set has a class of that name; the sets have {known}")]
    NoSuchClass {
        /// The setting that names it.
        name: &'static str,
        /// The name.
        class: String,
        /// The classes that the sets have.
        known: String,
    },
    /// A picture smaller than the crop, where padding is turned off.
    #[error(
        "{name}: the crop of {}x{} pixels is larger than the picture, {}x{} after resizing; choose a smaller \
         input.crop, or input.pad = true", crop[1], crop[0], size[1], size[0]
    )]
    CropTooLarge {
        /// The picture's file.
        name: String,
        /// Height and width of the crop, pixels.
        crop: [u32; 2],
        /// Height and width of the picture after resizing, pixels.
        size: [u32; 2],
    },
    /// Pictures that cannot be used.
    #[error("{count} of {total} pictures cannot be used:{}", listed(examples))]
    Unusable {
        /// How many.
        count: usize,
        /// Of how many.
        total: usize,
        /// The first of them, with what is wrong.
        examples: Vec<String>,
    },
    /// A picture cannot be used.
    #[error("{name}: {source}")]
    Picture {
        /// The picture's file.
        name: String,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The network answers in another shape than it promises, or cannot answer.
    #[error("the network gave {found}, expected {expected}")]
    Answer {
        /// What was promised.
        expected: String,
        /// What came.
        found: String,
    },
    /// The loop.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The run's files.
    #[error(transparent)]
    Run(#[from] RunError),
    /// A picture or its labels.
    #[error(transparent)]
    Data(#[from] DataError),
    /// A mask.
    #[error(transparent)]
    Mask(#[from] MaskError),
    /// A score.
    #[error(transparent)]
    Metrics(#[from] MetricsError),
    /// A model.
    #[error(transparent)]
    Sam(#[from] SamError),
    /// Weights.
    #[error(transparent)]
    Weights(#[from] CheckpointError),
}

impl SemanticError {
    /// A [`SemanticError::Setting`].
    pub(crate) fn setting(
        name: impl Into<String>,
        found: impl std::fmt::Display,
        expected: impl Into<String>,
    ) -> Self {
        Self::Setting { name: name.into(), found: found.to_string(), expected: expected.into() }
    }

    /// A [`SemanticError::Picture`] about this file; an error that names the picture itself stays as it is.
    pub(crate) fn of_picture(name: impl Into<String>) -> impl FnOnce(Self) -> Self {
        move |source| match source {
            Self::CropTooLarge { .. } | Self::Picture { .. } | Self::Labels { .. } | Self::Data(_) => source,
            other => Self::Picture { name: name.into(), source: Box::new(other) },
        }
    }
}

fn listed(examples: &[String]) -> String {
    examples.iter().fold(String::new(), |all, example| all + "\n  " + example)
}
