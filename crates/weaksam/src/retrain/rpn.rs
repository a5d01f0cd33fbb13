//! The region proposal network (Ren et al., Faster R-CNN), on one map.
//!
//! | part | what | state-dict prefix |
//! | --- | --- | --- |
//! | conv | 3x3, ReLU | `conv` |
//! | objectness | 1x1, a logit an anchor | `objectness` |
//! | steps | 1x1, four numbers an anchor | `steps` |

use burn::module::{Module, Param};
use burn::nn::PaddingConfig2d;
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::tensor::{Device, Int, Tensor, TensorData};
use kirie_engine::random::unit;
use kirie_nn::{Activation, conv2d};
use rand::Rng;

use super::config::RpnConfig;
use crate::boxes::{BoxCoder, clip, iou, nms};
use crate::detector::loss::{host, vector};
use crate::files::Corners;

/// Proposals with a shorter side are left out, pixels of the input.
const LEAST_SIDE: f32 = 2.0;

/// The network.
#[derive(Module, Debug)]
pub struct Rpn {
    /// 3x3.
    pub conv: Conv2d,
    /// 1x1, a logit an anchor.
    pub objectness: Conv2d,
    /// 1x1, four numbers an anchor.
    pub steps: Conv2d,
}

/// Its answers for a map, anchors in the order of lines, columns, shapes.
#[derive(Clone, Debug)]
pub struct RpnAnswers {
    /// `[anchors]`.
    pub objectness: Tensor<1>,
    /// `[anchors, 4]`.
    pub steps: Tensor<2>,
    /// The anchors, pixels of the input.
    pub anchors: Vec<Corners>,
}

impl Rpn {
    /// For a map of `channels`.
    pub fn new(channels: usize, config: &RpnConfig, device: &Device) -> Self {
        let shapes = config.sides.len() * config.ratios.len();
        let quiet = |output: usize| {
            let initializer = burn::module::Initializer::Normal { mean: 0.0, std: 0.01 };
            let mut conv =
                Conv2dConfig::new([channels, output], [1, 1]).with_initializer(initializer).init(device);
            conv.bias = conv.bias.map(|_| Param::from_tensor(Tensor::zeros([output], device)));
            conv
        };
        Self {
            conv: Conv2dConfig::new([channels; 2], [3, 3])
                .with_padding(PaddingConfig2d::Explicit(1, 1, 1, 1))
                .init(device),
            objectness: quiet(shapes),
            steps: quiet(4 * shapes),
        }
    }

    /// The answers for a map `[1, channels, height, width]`.
    pub fn forward(&self, map: Tensor<4>, config: &RpnConfig, stride: usize) -> RpnAnswers {
        let [_, _, height, width] = map.dims();
        let anchors = anchors(config, stride, [height, width]);
        let x = Activation::Relu.forward(conv2d(&self.conv, map));
        let objectness = conv2d(&self.objectness, x.clone()).permute([0, 2, 3, 1]);
        let steps = conv2d(&self.steps, x).permute([0, 2, 3, 1]);
        RpnAnswers {
            objectness: objectness.reshape([anchors.len()]),
            steps: steps.reshape([anchors.len(), 4]),
            anchors,
        }
    }
}

/// Boxes of every shape around every cell of a map of `[height, width]` cells.
pub fn anchors(config: &RpnConfig, stride: usize, [height, width]: [usize; 2]) -> Vec<Corners> {
    let mut shapes = Vec::new();
    for side in &config.sides {
        for ratio in &config.ratios {
            shapes.push([side / ratio.sqrt() / 2.0, side * ratio.sqrt() / 2.0]);
        }
    }
    let mut all = Vec::with_capacity(height * width * shapes.len());
    for y in 0..height {
        for x in 0..width {
            let centre = [x, y].map(|place| (place as f32 + 0.5) * stride as f32);
            all.extend(
                shapes.iter().map(|[w, h]| [centre[0] - w, centre[1] - h, centre[0] + w, centre[1] + h]),
            );
        }
    }
    all
}

impl RpnAnswers {
    /// Proposals for a view of `size` (width, height): the best anchors moved, cut at the edges, suppressed; best first.
    pub fn proposals(&self, config: &RpnConfig, size: [u32; 2]) -> Vec<Corners> {
        let (scores, steps) = (host(self.objectness.clone()), host(self.steps.clone()));
        let mut order: Vec<usize> = (0..scores.len()).collect();
        order.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]));
        let [width, height] = size.map(|side| side as f32);
        let (mut boxes, mut kept) = (Vec::new(), Vec::new());
        for index in order.into_iter().take(config.before_nms) {
            let step = &steps[4 * index..4 * index + 4];
            let corners = clip(&BoxCoder::ANCHORS.decode(&self.anchors[index], step), width, height);
            if corners[2] - corners[0] >= LEAST_SIDE && corners[3] - corners[1] >= LEAST_SIDE {
                boxes.push(corners);
                kept.push(scores[index]);
            }
        }
        let chosen = nms(&boxes, &kept, config.nms);
        chosen.into_iter().take(config.after_nms).map(|index| boxes[index]).collect()
    }

    /// Loss of objectness (binary cross-entropy, mean over the sampled anchors) and of steps (L1, summed over objects, over the
    /// number sampled). `weights` are those of the objects.
    pub fn loss<R: Rng>(
        &self,
        config: &RpnConfig,
        objects: &[Corners],
        weights: &[f32],
        rng: &mut R,
    ) -> [Tensor<1>; 2] {
        let device = self.objectness.device();
        let roles = roles(config, &self.anchors, objects);
        let of = |wanted: fn(&Role) -> bool| -> Vec<usize> {
            (0..roles.len()).filter(|index| wanted(&roles[*index])).collect()
        };
        let positive = sample(of(|role| matches!(role, Role::Object(_))), config.sampled / 2, rng);
        let rest = config.sampled - positive.len();
        let negative = sample(of(|role| *role == Role::Background), rest, rng);
        let count = (positive.len() + negative.len()).max(1);
        let weight = |index: usize| match roles[index] {
            Role::Object(object) => weights[object],
            _ => 1.0,
        };
        let chosen: Vec<usize> = positive.iter().chain(&negative).copied().collect();
        if chosen.is_empty() {
            return [Tensor::zeros([1], &device), Tensor::zeros([1], &device)];
        }
        let logits = self.objectness.clone().select(0, indices(&chosen, &device));
        let signs = (0..chosen.len()).map(|i| if i < positive.len() { -1.0 } else { 1.0 });
        // -log sigmoid(x) = softplus(-x), and for background softplus(x).
        let surprise = softplus(logits * vector(signs.collect(), &device));
        let weighted = surprise * vector(chosen.iter().map(|index| weight(*index)).collect(), &device);
        let objectness = weighted.sum() / count as f64;
        if positive.is_empty() {
            return [objectness, Tensor::zeros([1], &device)];
        }
        let wanted = positive.iter().flat_map(|index| match roles[*index] {
            Role::Object(object) => BoxCoder::ANCHORS.encode(&self.anchors[*index], &objects[object]),
            _ => [0.0; 4],
        });
        let wanted = TensorData::new(wanted.collect::<Vec<f32>>(), [positive.len(), 4]);
        let steps = self.steps.clone().select(0, indices(&positive, &device));
        let off = (steps - Tensor::from_data(wanted, &device)).abs().sum_dim(1).reshape([positive.len()]);
        let weights = vector(positive.iter().map(|index| weight(*index)).collect(), &device);
        [objectness, (off * weights).sum() / count as f64]
    }
}

pub(super) fn indices(values: &[usize], device: &Device) -> Tensor<1, Int> {
    let values: Vec<i32> = values.iter().map(|value| *value as i32).collect();
    let count = values.len();
    Tensor::from_data(TensorData::new(values, [count]), device)
}

/// `ln(1 + e^x)`, safe for large x.
fn softplus(x: Tensor<1>) -> Tensor<1> {
    let rest = (x.clone().abs() * -1.0).exp() + 1.0;
    x.clamp_min(0.0) + rest.log()
}

/// What an anchor is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// This object.
    Object(usize),
    /// None.
    Background,
    /// Neither is learned.
    Ignored,
}

/// An anchor is the object it overlaps most if that is by `positive` or more, or if no anchor overlaps the object more; below
/// `negative` it is background.
pub(super) fn roles(config: &RpnConfig, anchors: &[Corners], objects: &[Corners]) -> Vec<Role> {
    let mut roles = vec![Role::Background; anchors.len()];
    let mut best = vec![0.0_f32; objects.len()];
    let overlaps: Vec<f32> =
        anchors.iter().flat_map(|anchor| objects.iter().map(move |object| iou(anchor, object))).collect();
    if objects.is_empty() {
        return roles;
    }
    for (role, row) in roles.iter_mut().zip(overlaps.chunks_exact(objects.len())) {
        let mut highest = (0, -1.0);
        for (object, overlap) in row.iter().enumerate() {
            best[object] = best[object].max(*overlap);
            if *overlap > highest.1 {
                highest = (object, *overlap);
            }
        }
        *role = if highest.1 >= config.positive {
            Role::Object(highest.0)
        } else if highest.1 >= config.negative {
            Role::Ignored
        } else {
            Role::Background
        };
    }
    for (role, row) in roles.iter_mut().zip(overlaps.chunks_exact(objects.len())) {
        let closest = (0..objects.len()).find(|object| best[*object] > 0.0 && row[*object] == best[*object]);
        if let (Some(object), false) = (closest, matches!(role, Role::Object(_))) {
            *role = Role::Object(object);
        }
    }
    roles
}

/// Up to `count` of some, evenly chosen, in their order.
pub(super) fn sample<R: Rng>(mut from: Vec<usize>, count: usize, rng: &mut R) -> Vec<usize> {
    if from.len() > count {
        for place in 0..count {
            let other = place + (unit(rng) * (from.len() - place) as f64) as usize;
            from.swap(place, other);
        }
        from.truncate(count);
        from.sort_unstable();
    }
    from
}
