//! Low-resolution logits in a file: an answer kept, to be the mask input of a later prompt.

use std::collections::BTreeMap;
use std::path::Path;

use crate::SamError;
use crate::checkpoint::{StateDict, write_safetensors};
use crate::predictor::Prediction;
use crate::tensor::HostTensor;

/// Name of the tensor of logits, `[masks, side, side]`.
const LOGITS: &str = "low_res_logits";
/// Name of the tensor of the masks' predicted IoU, `[masks]`.
const IOU: &str = "predicted_iou";
/// More masks than this are no answer to a prompt.
const MAX_MASKS: usize = 4096;

/// Writes the masks of some answers, one after the other.
pub fn write(path: &Path, answers: &[Prediction], side: usize, model: &str) -> Result<(), SamError> {
    let values: Vec<f32> = answers.iter().flat_map(|a| a.low_res.iter().flatten().copied()).collect();
    let iou: Vec<f32> = answers.iter().flat_map(|a| a.iou.iter().copied()).collect();
    let tensors = [
        (LOGITS.to_owned(), HostTensor::new(vec![iou.len(), side, side], values)?),
        (IOU.to_owned(), HostTensor::new(vec![iou.len()], iou)?),
    ];
    Ok(write_safetensors(path, &tensors, &BTreeMap::from([("model".to_owned(), model.to_owned())]))?)
}

/// Reads the masks of such a file, each `side * side` values.
pub fn read(path: &Path, side: usize) -> Result<Vec<Vec<f32>>, SamError> {
    let bad = |reason: String| SamError::TensorFile { path: path.to_owned(), reason };
    let file = StateDict::open(path)?;
    match file.shape(LOGITS) {
        Some(&[masks, h, w]) if (1..=MAX_MASKS).contains(&masks) && [h, w] == [side; 2] => {
            let values = file.read(LOGITS)?.values;
            Ok(values.chunks_exact(side * side).map(<[f32]>::to_vec).collect())
        }
        Some(shape) => Err(bad(format!("expected `{LOGITS}` of [masks, {side}, {side}], found {shape:?}"))),
        None => {
            let found: Vec<&str> = file.keys().take(4).collect();
            Err(bad(format!("expected a tensor `{LOGITS}` as --save-logits writes it, found {found:?}")))
        }
    }
}
