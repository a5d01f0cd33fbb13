//! How wrong logits are: cross entropy, dice and focal loss over the labelled pixels.
//!
//! With `p_k` the softmax over the classes at a pixel, `y` its label and `w` the classes' weights:
//!
//! | term | formula |
//! | --- | --- |
//! | cross entropy | `sum(w_y * -ln p_y) / sum(w_y)` |
//! | focal (Lin et al.) | `sum(w_y * (1 - p_y)^gamma * -ln p_y) / sum(w_y)` |
//! | dice | mean over the classes `k` in the labels of `1 - (2 sum(p_k [y = k]) + 1) / (sum(p_k) + sum([y = k]) + 1)` |
//!
//! Sums run over the labelled pixels of the whole batch.

use burn::tensor::activation::log_softmax;
use burn::tensor::{Device, Int, Tensor, TensorData};
use kirie_nn::resize::{Interpolation, resize};

use crate::config::{ClassWeights, LossConfig, WeightRule};
use crate::data::LabelMap;
use crate::error::SemanticError;

/// The most a class weighs by [`WeightRule::InverseFrequency`]: a class of a few pixels would drown all others.
pub const MOST_WEIGHT: f64 = 20.0;

/// The loss of a batch.
#[derive(Debug)]
pub struct Loss {
    /// The weighted sum of the terms, `[1]`.
    pub total: Tensor<1>,
    /// Each term that counts, before its weight, `[1]`.
    pub terms: Vec<(&'static str, Tensor<1>)>,
}

/// Weights of the classes, by label; `None` where all are the same. `pixels` are the classes' pixels in the training pictures.
///
/// By inverse frequency, class k of K weighs `all / (K * pixels_k)`, so that a pixel weighs 1 on average, and at most
/// [`MOST_WEIGHT`]; a class without pixels weighs 1.
///
/// # Errors
/// [`SemanticError::Setting`] when weights are given for another number of classes.
pub fn class_weights(
    weights: &ClassWeights,
    names: &[String],
    pixels: &[u64],
) -> Result<Option<Vec<f32>>, SemanticError> {
    match weights {
        ClassWeights::Rule(WeightRule::None) => Ok(None),
        ClassWeights::Rule(WeightRule::InverseFrequency) => {
            let all: u64 = pixels.iter().sum();
            let weight = |&own: &u64| match own {
                0 => 1.0,
                own => (all as f64 / (pixels.len() as f64 * own as f64)).min(MOST_WEIGHT) as f32,
            };
            Ok(Some(pixels.iter().map(weight).collect()))
        }
        ClassWeights::Given(given) if given.len() == names.len() => {
            Ok(Some(given.iter().map(|weight| *weight as f32).collect()))
        }
        ClassWeights::Given(given) => {
            let expected = format!("{} numbers, for {}", names.len(), names.join(", "));
            Err(SemanticError::setting("loss.class_weights", format!("{} numbers", given.len()), expected))
        }
    }
}

/// The loss of `logits` `[batch, classes, h, w]` of any resolution against `labels` `[batch, height, width]`; `weights` by label.
///
/// Logits are resized to the labels' size (bilinear). Without a labelled pixel all terms are 0.
///
/// # Errors
/// [`SemanticError::Answer`] when the logits are of another batch or number of classes than labels and weights.
pub fn segmentation_loss(
    logits: Tensor<4>,
    labels: &[u8],
    size: [usize; 2],
    config: &LossConfig,
    weights: Option<&[f32]>,
) -> Result<Loss, SemanticError> {
    let [batch, classes, ..] = logits.dims();
    let highest = labels.iter().filter(|label| **label != LabelMap::IGNORE).max().copied();
    let fits = labels.len() == batch * size[0] * size[1]
        && highest.is_none_or(|label| usize::from(label) < classes)
        && weights.is_none_or(|weights| weights.len() == classes);
    if !fits {
        return Err(SemanticError::Answer {
            found: format!("logits of shape {:?}", logits.dims()),
            expected: format!(
                "those of {} pictures of {}x{} pixels, with labels up to {}",
                labels.len() / (size[0] * size[1]).max(1),
                size[1],
                size[0],
                highest.unwrap_or(0)
            ),
        });
    }
    let pixels = size[0] * size[1];
    let targets = Targets::new(labels, [batch, pixels], weights, &logits.device());
    let logits = resize(logits, size, Interpolation::Bilinear).reshape([batch, classes, pixels]);
    let log_p = log_softmax(logits, 1);

    let mut terms = Vec::new();
    let mut total: Option<Tensor<1>> = None;
    let mut add = |name: &'static str, weight: f64, term: Tensor<1>| {
        let weighted = term.clone() * weight;
        total = Some(total.take().map_or_else(|| weighted.clone(), |sum| sum + weighted.clone()));
        terms.push((name, term));
    };
    if config.cross_entropy > 0.0 || config.focal > 0.0 {
        // Ignored pixels are looked up as class 0 and weigh nothing.
        let surprise = log_p.clone().gather(1, targets.index.clone()) * -1.0;
        if config.cross_entropy > 0.0 {
            add("cross_entropy", config.cross_entropy, (surprise.clone() * targets.weight.clone()).sum());
        }
        if config.focal > 0.0 {
            let miss = ((surprise.clone() * -1.0).exp() * -1.0 + 1.0).clamp_min(0.0);
            let hard = miss.powf_scalar(config.gamma as f32);
            add("focal", config.focal, (surprise * hard * targets.weight.clone()).sum());
        }
    }
    if config.dice > 0.0 {
        add("dice", config.dice, dice(log_p.exp(), labels));
    }
    let total = total.ok_or_else(|| SemanticError::setting("loss", "nothing", "at least one term"))?;
    Ok(Loss { total, terms })
}

/// Labels as constant tensors.
struct Targets {
    /// The label of each pixel, 0 where it is ignored, `[batch, 1, pixels]`.
    index: Tensor<3, Int>,
    /// The weight of each pixel, summing up to 1 (0 without labels), `[batch, 1, pixels]`.
    weight: Tensor<3>,
}

impl Targets {
    fn new(labels: &[u8], [batch, pixels]: [usize; 2], weights: Option<&[f32]>, device: &Device) -> Self {
        let weight_of = |label: u8| match weights {
            _ if label == LabelMap::IGNORE => 0.0,
            Some(weights) => weights[usize::from(label)],
            None => 1.0,
        };
        let sum: f64 = labels.iter().map(|label| f64::from(weight_of(*label))).sum();
        let per_weight = if sum > 0.0 { (1.0 / sum) as f32 } else { 0.0 };
        let index = labels.iter().map(|label| if *label == LabelMap::IGNORE { 0 } else { i32::from(*label) });
        let index = TensorData::new(index.collect::<Vec<i32>>(), [batch, 1, pixels]);
        let weight: Vec<f32> = labels.iter().map(|label| weight_of(*label) * per_weight).collect();
        Self {
            index: Tensor::from_data(index, device),
            weight: Tensor::from_data(TensorData::new(weight, [batch, 1, pixels]), device),
        }
    }
}

/// The dice loss of probabilities `p` `[batch, classes, pixels]`.
fn dice(p: Tensor<3>, labels: &[u8]) -> Tensor<1> {
    let ([batch, classes, pixels], device) = (p.dims(), p.device());
    let mut counts = vec![0.0_f32; classes];
    let mut truth = vec![0.0_f32; batch * classes * pixels];
    let mut labelled = vec![0.0_f32; batch * pixels];
    for (at, label) in labels.iter().enumerate().filter(|(_, label)| **label != LabelMap::IGNORE) {
        let class = usize::from(*label);
        counts[class] += 1.0;
        labelled[at] = 1.0;
        truth[(at / pixels * classes + class) * pixels + at % pixels] = 1.0;
    }
    let present = counts.iter().filter(|count| **count > 0.0).count().max(1) as f32;
    let shares: Vec<f32> =
        counts.iter().map(|count| if *count > 0.0 { 1.0 / present } else { 0.0 }).collect();
    let row = |values: Vec<f32>| Tensor::<1>::from_data(TensorData::new(values, [classes]), &device);
    let truth = Tensor::<3>::from_data(TensorData::new(truth, [batch, classes, pixels]), &device);
    let labelled = Tensor::<3>::from_data(TensorData::new(labelled, [batch, 1, pixels]), &device);

    let per_class = |x: Tensor<3>| x.sum_dim(2).sum_dim(0).reshape([classes]);
    let both = per_class(p.clone() * truth);
    let found = per_class(p * labelled);
    let overlap = (both * 2.0 + 1.0) / (found + row(counts) + 1.0);
    ((overlap * -1.0 + 1.0) * row(shares)).sum()
}

#[cfg(test)]
mod tests;
