//! What the second stage learns from: sampled boxes, each with its losses, some of which are dropped.

use burn::tensor::activation::log_softmax;
use burn::tensor::{Int, Tensor, TensorData};
use rand::Rng;

use super::config::{DropConfig, SampleConfig};
use super::drop::counted;
use super::rpn::{indices, sample};
use crate::boxes::{BoxCoder, best_match};
use crate::detector::loss::{host, vector};
use crate::files::Corners;

/// Boxes to learn from, and what they are.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sampled {
    /// The boxes, pixels of the input.
    pub boxes: Vec<Corners>,
    /// 0 for background, else the class and 1.
    pub labels: Vec<usize>,
    /// The object of each that is not background.
    pub objects: Vec<usize>,
    /// How much each counts: its object's weight, 1 for background.
    pub weights: Vec<f32>,
}

impl Sampled {
    /// Samples from proposals and the objects themselves.
    pub fn new<R: Rng>(
        config: &SampleConfig,
        mut boxes: Vec<Corners>,
        objects: &[Corners],
        classes: &[usize],
        weights: &[f32],
        rng: &mut R,
    ) -> Self {
        boxes.extend_from_slice(objects);
        let matched: Vec<Option<usize>> = boxes
            .iter()
            .map(|corners| {
                best_match(corners, objects)
                    .filter(|(_, o)| *o >= config.foreground)
                    .map(|(object, _)| object)
            })
            .collect();
        let of = |object: bool| -> Vec<usize> {
            (0..boxes.len()).filter(|index| matched[*index].is_some() == object).collect()
        };
        let most = (config.foreground_share * config.count as f32) as usize;
        let foreground = sample(of(true), most.max(1), rng);
        let background = sample(of(false), config.count.saturating_sub(foreground.len()), rng);
        let mut sampled = Self::default();
        for index in foreground.into_iter().chain(background) {
            let object = matched[index];
            sampled.boxes.push(boxes[index]);
            sampled.labels.push(object.map_or(0, |object| classes[object] + 1));
            sampled.objects.push(object.unwrap_or(0));
            sampled.weights.push(object.map_or(1.0, |object| weights[object]));
        }
        sampled
    }
}

/// Losses of the second stage.
#[derive(Clone, Debug)]
pub struct HeadLoss {
    /// Cross-entropy, over the number of boxes.
    pub class: Tensor<1>,
    /// L1 of the steps of the right class, over the number of boxes; `None` without objects.
    pub regress: Option<Tensor<1>>,
    /// How many losses of either kind were dropped.
    pub dropped: [usize; 2],
}

/// The losses of `logits` `[boxes, 1 + classes]` and `steps` `[boxes, 4 (1 + classes)]`. Boxes that are dropped still count in
/// the number that is divided by. `on` is whether RoI drop has begun.
pub fn head_loss(
    [logits, steps]: [Tensor<2>; 2],
    sampled: &Sampled,
    objects: &[Corners],
    drop: &DropConfig,
    on: bool,
) -> HeadLoss {
    let ([count, columns], device) = (logits.dims(), logits.device());
    let labels: Vec<i32> = sampled.labels.iter().map(|label| *label as i32).collect();
    let labels = Tensor::<2, Int>::from_data(TensorData::new(labels, [count, 1]), &device);
    let surprise = log_softmax(logits, 1).gather(1, labels).reshape([count]) * -1.0;

    let foreground: Vec<usize> = (0..count).filter(|r| sampled.labels[*r] > 0).collect();
    let off = (!foreground.is_empty()).then(|| {
        let rows: Vec<usize> = foreground.iter().map(|r| r * columns + sampled.labels[*r]).collect();
        let wanted: Vec<f32> = foreground
            .iter()
            .flat_map(|r| BoxCoder::HEAD.encode(&sampled.boxes[*r], &objects[sampled.objects[*r]]))
            .collect();
        let wanted = Tensor::<2>::from_data(TensorData::new(wanted, [foreground.len(), 4]), &device);
        let steps = steps.reshape([count * columns, 4]).select(0, indices(&rows, &device));
        (steps - wanted).abs().sum_dim(1).reshape([foreground.len()])
    });

    let mut regress = vec![0.0; count];
    for (r, loss) in foreground.iter().zip(off.iter().flat_map(|off| host(off.clone()))) {
        regress[*r] = loss;
    }
    let is_object: Vec<bool> = sampled.labels.iter().map(|label| *label > 0).collect();
    let counts = counted(drop, on, &host(surprise.clone()), &regress, &is_object);
    let weight = |r: usize, counts: &[bool]| if counts[r] { sampled.weights[r] } else { 0.0 };
    let class_weights: Vec<f32> = (0..count).map(|r| weight(r, &counts.class)).collect();
    let regress_weights: Vec<f32> = foreground.iter().map(|r| weight(*r, &counts.regress)).collect();
    HeadLoss {
        class: (surprise * vector(class_weights, &device)).sum() / count as f64,
        regress: off.map(|off| (off * vector(regress_weights, &device)).sum() / count as f64),
        dropped: counts.dropped(),
    }
}
