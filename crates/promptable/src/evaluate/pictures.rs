//! Pictures and their objects, read ahead of the model.

use std::sync::mpsc::sync_channel;
use std::thread;

use kirie_data::Image;
use kirie_data::datasets::{Dataset, Sample};
use serde::Serialize;

use super::EvaluateError;
use super::truth::{Truth, TruthOptions};

/// Pictures that wait for the model at most, decoded; bounds the memory.
const AHEAD: usize = 2;

/// A picture that could not be evaluated; the others were.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Failed {
    /// Its name in the data set.
    pub picture: String,
    /// What went wrong.
    pub reason: String,
}

/// How far an evaluation is; told after every picture.
#[derive(Clone, Copy, Debug)]
pub struct Progress<'a> {
    /// Pictures behind it, failed ones too.
    pub done: usize,
    /// Pictures in all.
    pub total: usize,
    /// Objects measured so far (detections, masks found), of one kind of prompt.
    pub objects: u64,
    /// The figure of the first kind of prompt so far, where there is one that can be told early.
    pub figure: Option<f64>,
    /// The picture just done.
    pub sample: &'a Sample,
    /// Why it failed, if it did.
    pub failed: Option<&'a EvaluateError>,
}

/// The samples that anything is known about.
pub(super) fn labelled<'a>(samples: &[&'a Sample]) -> Result<Vec<&'a Sample>, EvaluateError> {
    let known: Vec<&Sample> = samples.iter().copied().filter(|sample| sample.is_labelled()).collect();
    match (samples.len(), known.len()) {
        (0, _) => Err(EvaluateError::NoPictures),
        (pictures, 0) => Err(EvaluateError::NoLabels { pictures }),
        _ => Ok(known),
    }
}

/// Calls `visit` with every sample's picture and objects, in order, while a second thread reads the next ones.
pub(super) fn for_each<'a>(
    dataset: &Dataset,
    samples: &[&'a Sample],
    options: TruthOptions,
    mut visit: impl FnMut(&'a Sample, Result<(Image, Truth), EvaluateError>),
) {
    thread::scope(|scope| {
        let (send, receive) = sync_channel(AHEAD);
        scope.spawn(move || {
            for sample in samples {
                // The receiver goes away only when the other side has panicked.
                if send.send(load(dataset, sample, options)).is_err() {
                    break;
                }
            }
        });
        for (sample, loaded) in samples.iter().zip(receive) {
            visit(sample, loaded);
        }
    });
}

fn load(dataset: &Dataset, sample: &Sample, options: TruthOptions) -> Result<(Image, Truth), EvaluateError> {
    let (picture, labels) = dataset.load(sample)?;
    let truth = Truth::new(dataset, labels, (picture.width(), picture.height()), options)?;
    Ok((picture, truth))
}
