//! How good the masks are that a promptable model answers with.
//!
//! For every object of every picture of a [`Dataset`](kirie_data::datasets::Dataset) a prompt is made from the truth, the
//! model is asked, and its mask is compared with the object at the picture's own size. Three ways of asking:
//!
//! | function | prompt | figures |
//! | --- | --- | --- |
//! | [`prompted()`] | the object's box, or simulated clicks | mean IoU, by size, boundary IoU |
//! | [`detected()`] | the boxes of a detector | COCO's twelve |
//! | [`everything()`] | none: the mask generator | recall of objects |
//!
//! Any [`Promptable`] can be measured: a model by [`SamModel`], and [`BoxFill`] and [`Ellipse`], which know nothing of the
//! picture and so say what a score means. Which regions of a data set are objects is told at [`Truth`].
//!
//! ```no_run
//! use kirie_promptable::evaluate::{BoxFill, PromptedOptions, prompted};
//!
//! let dataset = kirie_data::datasets::open("photos", Some("test"))?;
//! let samples: Vec<_> = dataset.samples.iter().collect();
//! let runs = prompted(&dataset, &samples, &mut BoxFill::new(), &PromptedOptions::default(), &mut |_| {})?;
//! println!("{:?}", runs[0].summary.figures.miou);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod baselines;
mod coco_ids;
mod detected;
mod error;
mod everything;
mod model;
mod pictures;
mod prompt;
mod prompted;
mod score;
mod show;
mod summary;
mod truth;

#[cfg(test)]
mod drawn;
#[cfg(test)]
mod engine_tests;
#[cfg(test)]
mod tests;

pub use baselines::{BoxFill, Ellipse};
pub use coco_ids::image_ids;
pub use detected::{BoxDetection, DetectedReport, DetectedSummary, detected, read_detections};
pub use error::EvaluateError;
pub use everything::{
    EverythingOptions, EverythingPicture, EverythingReport, EverythingSummary, Recall, everything,
};
pub use model::{Answer, MaskChoice, Promptable, SamModel};
pub use pictures::{Failed, Progress};
pub use prompt::PromptKind;
pub use prompted::{PromptedOptions, PromptedReport, prompted};
pub use score::{Case, ObjectScore};
pub use summary::{SplitSummary, Summary};
pub use truth::{Object, Skipped, Truth, TruthOptions};
