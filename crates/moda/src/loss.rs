//! How wrong masks are: binary cross entropy plus dice, at low resolution.
//!
//! The published loss takes both at 12,544 points, most of them where the model is unsure. A low-resolution mask of kirie-small has
//! 6,400 places, so here every place counts, and what falls beyond the picture does not.

use burn::tensor::{Tensor, TensorData};
use kirie_nn::loss::{bce, dice};

/// A logit that is surely off the object.
const OFF: f64 = -30.0;

/// Targets of a batch, as tensors.
#[derive(Clone, Debug)]
pub struct Targets {
    /// Share of each place that is object, `[batch, places]`; 0 where nothing counts.
    pub cover: Tensor<2>,
    /// 1 where a place counts, `[batch, places]`.
    pub counts: Tensor<2>,
}

impl Targets {
    /// From covers as [`crate::views::Target`] has them, one after the other.
    pub fn new(covers: &[&[f32]], device: &burn::tensor::Device) -> Self {
        let shape = [covers.len(), covers.first().map_or(0, |cover| cover.len())];
        let tensor = |value: fn(f32) -> f32| {
            let values: Vec<f32> = covers.iter().flat_map(|cover| cover.iter().map(|c| value(*c))).collect();
            Tensor::from_data(TensorData::new(values, shape), device)
        };
        Self { cover: tensor(|c| c.max(0.0)), counts: tensor(|c| f32::from(u8::from(c >= 0.0))) }
    }
}

/// Binary cross entropy (mean over the places that count) plus dice of logits `[batch, places]`, mean over the batch, `[1]`.
pub fn mask_loss(logits: Tensor<2>, targets: &Targets) -> Tensor<1> {
    let [_, places] = logits.dims();
    let Targets { cover, counts } = targets;
    // Where nothing counts the answer is right: surely off, and nothing there.
    let logits = logits * counts.clone() + (counts.clone() * -OFF + OFF);
    let counted = counts.clone().sum_dim(1).clamp_min(1.0);
    let cover = cover.clone() * counts.clone();
    let cross = bce(logits.clone(), cover.clone()).mean_dim(1) * places as f64 / counted;
    (cross + dice(logits, cover)).mean()
}

/// IoU of logits `[batch, places]` with targets, `[batch, 1]`, without a gradient; 1 where both are empty.
pub fn low_res_iou(logits: Tensor<2>, targets: &Targets) -> Tensor<2> {
    let found = logits.greater_elem(0.0).float() * targets.counts.clone();
    let wanted = targets.cover.clone().greater_equal_elem(0.5).float() * targets.counts.clone();
    let both = (found.clone() * wanted.clone()).sum_dim(1);
    let either = found.sum_dim(1) + wanted.sum_dim(1) - both.clone();
    (both + 1e-6) / (either + 1e-6)
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Device;

    const COVER: [f32; 6] = [1.0, 0.0, 0.25, -1.0, 0.75, 0.0];

    fn loss(logits: &[f32], device: &Device) -> (Tensor<2>, Tensor<1>) {
        let x = Tensor::<1>::from_floats(logits, device).reshape([1, logits.len()]).require_grad();
        let loss = mask_loss(x.clone(), &Targets::new(&[&COVER], device));
        (x, loss)
    }

    /// The definition, in f64.
    fn expected(logits: &[f32]) -> f64 {
        let (mut cross, mut both, mut either, mut count) = (0.0, 1.0, 1.0, 0.0);
        for (x, t) in logits.iter().zip(COVER).filter(|(_, t)| *t >= 0.0) {
            let (x, t) = (f64::from(*x), f64::from(t));
            let p = 1.0 / (1.0 + (-x).exp());
            cross -= t * p.ln() + (1.0 - t) * (1.0 - p).ln();
            both += 2.0 * p * t;
            either += p + t;
            count += 1.0;
        }
        cross / count + 1.0 - both / either
    }

    #[test]
    fn it_is_its_definition_and_ignored_places_say_nothing() {
        let device = Device::flex().autodiff();
        let logits = [2.0, -1.0, 0.3, 5.0, -0.4, 0.9];
        let value = loss(&logits, &device).1.into_scalar::<f32>();
        assert!((f64::from(value) - expected(&logits)).abs() < 1e-5, "{value} {}", expected(&logits));
        let mut other = logits;
        other[3] = -7.0;
        assert_eq!(loss(&other, &device).1.into_scalar::<f32>(), value);
    }

    #[test]
    fn gradients_are_differences() {
        let device = Device::flex().autodiff();
        let logits = [2.0, -1.0, 0.3, 5.0, -0.4, 0.9];
        let (x, value) = loss(&logits, &device);
        let gradient: Vec<f32> = x.grad(&value.backward()).unwrap().into_data().iter::<f32>().collect();
        for (at, found) in gradient.iter().enumerate() {
            let shifted = |by: f32| {
                let mut logits = logits;
                logits[at] += by;
                expected(&logits)
            };
            let difference = (shifted(1e-3) - shifted(-1e-3)) / (1e-3_f32 * 2.0) as f64;
            assert!((f64::from(*found) - difference).abs() < 1e-4, "{at}: {found} {difference}");
        }
    }

    #[test]
    fn iou_counts_what_counts() {
        let device = Device::flex();
        let targets = Targets::new(&[&COVER], &device);
        let logits = Tensor::<1>::from_floats([1.0, 1.0, -1.0, 1.0, 1.0, -1.0], &device).reshape([1, 6]);
        let iou = low_res_iou(logits, &targets).into_scalar::<f32>();
        assert!((iou - 2.0 / 3.0).abs() < 1e-5, "{iou}");
    }
}
