//! What a weak detector learns from: the image-level loss, and the losses of its refinement branches.

use burn::tensor::activation::{log_softmax, softmax};
use burn::tensor::{Device, Int, Tensor, TensorData};

use super::config::MilConfig;
use super::mining::{Targets, assign, mine};
use super::model::Answers;
use crate::boxes::BoxCoder;
use crate::files::Corners;

/// Image scores are kept this far from 0 and 1.
const MARGIN: f64 = 1e-6;

/// Losses of a picture.
#[derive(Clone, Debug)]
pub struct Loss {
    /// The sum, weighted, `[1]`.
    pub total: Tensor<1>,
    /// What it consists of, for the log.
    pub terms: Vec<(&'static str, f64)>,
}

/// Scores of proposals by the two streams, `[proposals, classes]`: softmax over classes times softmax over proposals (Bilen and
/// Vedaldi, WSDDN). Summed over proposals they are the image's scores, 0 to 1.
pub fn stream_scores([classify, detect]: [Tensor<2>; 2]) -> Tensor<2> {
    softmax(classify, 1) * softmax(detect, 0)
}

/// Binary cross-entropy of the image's scores, `[proposals, classes]` summed over proposals, with the classes that it shows;
/// summed or averaged over classes.
pub fn image_loss(scores: Tensor<2>, present: &[usize], sum_classes: bool) -> Tensor<1> {
    let ([_, classes], device) = (scores.dims(), scores.device());
    let image = scores.sum_dim(0).reshape([classes]).clamp(MARGIN, 1.0 - MARGIN);
    let shown: Vec<f32> = (0..classes).map(|c| if present.contains(&c) { 1.0 } else { 0.0 }).collect();
    let shown = vector(shown, &device);
    let loss = image.clone().log() * shown.clone() + (image * -1.0 + 1.0).log() * (shown * -1.0 + 1.0);
    loss.sum() * if sum_classes { -1.0 } else { -1.0 / classes as f64 }
}

/// Mean over proposals of the weighted cross-entropy with their labels.
pub fn refinement_loss(logits: Tensor<2>, targets: &Targets) -> Tensor<1> {
    let ([count, _], device) = (logits.dims(), logits.device());
    let labels: Vec<i32> = targets.labels.iter().map(|label| *label as i32).collect();
    let labels = Tensor::<2, Int>::from_data(TensorData::new(labels, [count, 1]), &device);
    let surprise = log_softmax(logits, 1).gather(1, labels).reshape([count]);
    (surprise * vector(targets.weights.clone(), &device)).sum() * (-1.0 / count as f64)
}

/// Sum over the proposals of a class of the weighted smooth L1 (beta 1) between their step for that class and the one that leads
/// to their object, over the number of all proposals. `steps` `[proposals, 4 (1 + classes)]`.
pub fn regression_loss(steps: Tensor<2>, targets: &Targets, boxes: &[Corners]) -> Option<Tensor<1>> {
    let ([count, width], device) = (steps.dims(), steps.device());
    let foreground: Vec<usize> = (0..count).filter(|r| targets.labels[*r] > 0).collect();
    if foreground.is_empty() {
        return None;
    }
    let rows: Vec<i32> = foreground.iter().map(|r| (r * width / 4 + targets.labels[*r]) as i32).collect();
    let rows = Tensor::<1, Int>::from_data(TensorData::new(rows, [foreground.len()]), &device);
    let wanted: Vec<f32> = foreground
        .iter()
        .flat_map(|r| BoxCoder::HEAD.encode(&boxes[*r], &boxes[targets.objects[*r]]))
        .collect();
    let wanted = Tensor::<2>::from_data(TensorData::new(wanted, [foreground.len(), 4]), &device);
    let weights = vector(foreground.iter().map(|r| targets.weights[*r]).collect(), &device);
    let steps = steps.reshape([count * width / 4, 4]).select(0, rows);
    let loss = smooth_l1(steps - wanted).sum_dim(1).reshape([foreground.len()]);
    Some((loss * weights).sum() / count as f64)
}

/// `x^2 / 2` below 1, `|x| - 1 / 2` from there on.
fn smooth_l1(x: Tensor<2>) -> Tensor<2> {
    let size = x.abs();
    let near = size.clone().clamp_max(1.0);
    // near^2 / 2 + (size - near): the second part is what goes beyond 1.
    near.clone() * near.clone() * 0.5 + (size - near)
}

/// All losses of a picture that shows the classes `present`, whose proposals are `boxes`.
///
/// The pseudo boxes of a branch come from the one before, the first's from the two streams; no gradient goes through them.
pub fn detector_loss(answers: Answers, present: &[usize], boxes: &[Corners], config: &MilConfig) -> Loss {
    let [_, classes] = answers.streams[0].dims();
    let scores = stream_scores(answers.streams);
    let mut before = (host(scores.clone()), classes);
    let mut total = image_loss(scores, present, config.sum_classes);
    // For the log: whether what the picture shows is known at all; only then can where it is be.
    let sums = |class: usize| before.0.iter().skip(class).step_by(classes).sum::<f32>();
    let best = (0..classes).max_by(|a, b| sums(*a).total_cmp(&sums(*b)));
    let mut terms = vec![("image", number(&total))];
    if let (Some(best), false) = (best, present.is_empty()) {
        terms.push(("shown", f64::from(u8::from(present.contains(&best)))));
        // And whether it is at one place: the share of a class's score that its best proposal has.
        let peak = |class: &usize| before.0.iter().skip(*class).step_by(classes).copied().fold(0.0, f32::max);
        let peaks: f32 = present.iter().map(peak).sum();
        terms.push(("peak", f64::from(peaks) / present.len() as f64));
    }
    let (mut refine, mut regress, mut found) = (0.0, 0.0, 0);
    let mut steps = answers.regress.into_iter();
    for (logits, weight) in answers.refine.into_iter().zip(&config.refinements) {
        let mined = mine(config.rule, &before.0, before.1, classes, present, boxes);
        let targets = assign(&mined, boxes, config.foreground);
        found += mined.len();
        before = (host(softmax(logits.clone(), 1)), classes + 1);
        let loss = refinement_loss(logits, &targets);
        refine += number(&loss);
        total = total + loss * *weight;
        if let Some(loss) = steps.next().and_then(|steps| regression_loss(steps, &targets, boxes)) {
            regress += number(&loss);
            total = total + loss * *weight;
        }
    }
    if !config.refinements.is_empty() {
        terms.push(("refine", refine));
        terms.push(("pseudo_boxes", found as f64 / config.refinements.len() as f64));
    }
    if config.regress {
        terms.push(("regress", regress));
    }
    Loss { total, terms }
}

pub(crate) fn vector(values: Vec<f32>, device: &Device) -> Tensor<1> {
    let length = values.len();
    Tensor::from_data(TensorData::new(values, [length]), device)
}

/// The values, without history.
pub(crate) fn host<const D: usize>(x: Tensor<D>) -> Vec<f32> {
    x.detach().into_data().iter::<f32>().collect()
}

pub(crate) fn number(x: &Tensor<1>) -> f64 {
    f64::from(x.clone().detach().into_scalar::<f32>())
}
