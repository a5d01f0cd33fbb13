//! How wrong masks are: compared at points, most of them where the model is unsure.
//!
//! The points are chosen on the processor from the values of the logits (no gradient flows through the choice, as in
//! PointRend and SAM-HQ); the comparison is made on the device, by gathering the four neighbours of each point.

use burn::tensor::{Int, Tensor, TensorData};
use kirie_engine::random::Streams;
use kirie_nn::loss::{bce, dice, focal};
use rand::Rng;
use rayon::prelude::*;

use super::config::{LossConfig, PointLoss};
use super::sample::Target;

/// The loss of a batch and what it was made of.
#[derive(Debug)]
pub struct MaskLoss {
    /// The weighted sum, `[1]`.
    pub total: Tensor<1>,
    /// Mean IoU of the masks that counted, measured at low resolution.
    pub iou: f64,
    /// For each target the output that counted.
    pub chosen: Vec<usize>,
    /// Values of the logits, `[targets * outputs, side * side]`.
    pub logits: Vec<f32>,
}

/// Points of more candidates than are used, as a factor (PointRend's `oversample_ratio`).
const OVERSAMPLE: usize = 3;

/// The loss of `masks` `[targets, outputs, side, side]` and `iou` `[targets, outputs]`.
///
/// Of several outputs for a target the one with the smallest mask loss counts. The IoU head learns from all outputs.
/// `place` names the random stream.
pub fn mask_loss(
    masks: Tensor<4>,
    iou: Tensor<2>,
    targets: &[&Target],
    size: usize,
    config: &LossConfig,
    streams: &Streams,
    place: [u64; 2],
) -> MaskLoss {
    let [count, outputs, side, _] = masks.dims();
    let (rows, pixels, device) = (count * outputs, side * side, masks.device());
    let masks = masks.reshape([rows, pixels]);
    let logits: Vec<f32> = masks.clone().inner().into_data().iter::<f32>().collect();

    let points: Vec<Points> = (0..rows)
        .into_par_iter()
        .map(|row| {
            let mut rng = streams.stream("loss-points", &[place[0], place[1], row as u64]);
            let row_logits = &logits[row * pixels..(row + 1) * pixels];
            Points::choose(row_logits, side, &targets[row / outputs].cover, size, config, &mut rng)
        })
        .collect();
    let wanted = config.points;
    let index: Vec<i32> = points.iter().flat_map(|p| p.index.iter().copied()).collect();
    let weight: Vec<f32> = points.iter().flat_map(|p| p.weight.iter().copied()).collect();
    let truth: Vec<f32> = points.iter().flat_map(|p| p.truth.iter().copied()).collect();
    let index = Tensor::<2, Int>::from_data(TensorData::new(index, [rows, 4 * wanted]), &device);
    let weight = Tensor::<2>::from_data(TensorData::new(weight, [rows, 4 * wanted]), &device);
    let truth = Tensor::<2>::from_data(TensorData::new(truth, [rows, wanted]), &device);
    let sampled = (masks.gather(1, index) * weight).reshape([rows, wanted, 4]).sum_dim(2).squeeze_dim::<2>(2);

    let point = match config.kind {
        PointLoss::Bce => bce(sampled.clone(), truth.clone()),
        PointLoss::Focal => focal(sampled.clone(), truth.clone()),
    };
    let loss = point.mean_dim(1) * config.mask_weight + dice(sampled, truth) * config.dice_weight;
    let loss = loss.reshape([count, outputs]);

    // The best output of each target.
    let values: Vec<f32> = loss.clone().inner().into_data().iter::<f32>().collect();
    let chosen: Vec<usize> = values
        .chunks_exact(outputs)
        .map(|row| (0..outputs).min_by(|a, b| row[*a].total_cmp(&row[*b])).unwrap_or(0))
        .collect();
    let mut share = vec![0.0_f32; rows];
    for (target, output) in chosen.iter().enumerate() {
        share[target * outputs + output] = 1.0 / count as f32;
    }
    let share = Tensor::<2>::from_data(TensorData::new(share, [count, outputs]), &device);
    let mut total = (loss * share).sum();

    let measured: Vec<f32> = (0..rows)
        .into_par_iter()
        .map(|row| {
            low_res_iou(&logits[row * pixels..(row + 1) * pixels], side, &targets[row / outputs].cover, size)
        })
        .collect();
    let mean = chosen.iter().enumerate().map(|(t, o)| f64::from(measured[t * outputs + o])).sum::<f64>();
    if config.iou_weight > 0.0 {
        let measured = Tensor::<2>::from_data(TensorData::new(measured, [count, outputs]), &device);
        total = total + (iou - measured).square().mean() * config.iou_weight;
    }
    MaskLoss { total, iou: mean / count.max(1) as f64, chosen, logits }
}

/// IoU of a mask's low-resolution logits with the target.
fn low_res_iou(logits: &[f32], side: usize, cover: &[u8], size: usize) -> f32 {
    let (mut both, mut either) = (0_u32, 0_u32);
    // The target's pixels that meet at the centre of a pixel of the mask: two a side where the one's side divides the other's,
    // and never one of the two, which would move the target by half a pixel.
    let meeting = |v: usize| {
        let centre = (2 * v + 1) * size;
        [(centre - 1) / (2 * side), centre / (2 * side)]
    };
    for (i, logit) in logits.iter().enumerate() {
        let ([left, right], [above, below]) = (meeting(i % side), meeting(i / side));
        let covers =
            [(left, above), (right, above), (left, below), (right, below)].map(|(x, y)| cover[y * size + x]);
        if covers.contains(&Target::IGNORE) {
            continue;
        }
        let covered: u32 = covers.into_iter().map(u32::from).sum();
        let (found, wanted) = (*logit > 0.0, covered >= 8);
        both += u32::from(found && wanted);
        either += u32::from(found || wanted);
    }
    if either == 0 { 1.0 } else { both as f32 / either as f32 }
}

/// Where one mask is compared.
struct Points {
    /// Four neighbours of each point in the low-resolution mask.
    index: Vec<i32>,
    /// Their weights.
    weight: Vec<f32>,
    /// The target at each point.
    truth: Vec<f32>,
}

impl Points {
    /// Chooses the points of a mask. No point lies on an ignored pixel, unless there is no other.
    fn choose(
        logits: &[f32],
        side: usize,
        cover: &[u8],
        size: usize,
        config: &LossConfig,
        rng: &mut impl Rng,
    ) -> Self {
        let draw = |rng: &mut dyn Rng| {
            const TRIES: usize = 16;
            let mut place = (0, 0);
            for _ in 0..TRIES {
                let number = rng.next_u64();
                let (x, y) = (number as u32 as u64, number >> 32);
                // Fixed-point places in units of 1/256 pixel of the target.
                let scale = |v: u64| (v * (size as u64 * 256)) >> 32;
                place = (scale(x) as usize, scale(y) as usize);
                if cover[(place.1 >> 8) * size + (place.0 >> 8)] != Target::IGNORE {
                    break;
                }
            }
            place
        };
        let count = config.points;
        let unsure = (count as f64 * config.unsure).round() as usize;
        let mut candidates: Vec<(f32, (usize, usize))> = (0..OVERSAMPLE * count)
            .map(|_| {
                let place = draw(rng);
                let (index, weight) = neighbours(place, size, side);
                let logit: f32 = index.iter().zip(weight).map(|(i, w)| logits[*i as usize] * w).sum();
                (logit.abs(), place)
            })
            .collect();
        if unsure < candidates.len() && unsure > 0 {
            candidates.select_nth_unstable_by(unsure - 1, |a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        }
        let mut points = Self { index: Vec::new(), weight: Vec::new(), truth: Vec::new() };
        let even = (unsure..count).map(|_| draw(rng)).collect::<Vec<_>>();
        for place in candidates[..unsure].iter().map(|c| c.1).chain(even) {
            let (index, weight) = neighbours(place, size, side);
            points.index.extend(index);
            points.weight.extend(weight);
            let cover = cover[(place.1 >> 8) * size + (place.0 >> 8)];
            points.truth.push(if cover == Target::IGNORE { 0.0 } else { f32::from(cover) / 4.0 });
        }
        points
    }
}

/// The four pixels of a `side * side` map around a place given in 1/256 pixels of a `size * size` one, with their bilinear
/// weights (`align_corners` false).
fn neighbours((x, y): (usize, usize), size: usize, side: usize) -> ([i32; 4], [f32; 4]) {
    let axis = |v: usize| {
        let at = ((v as f32 + 0.5) / (size * 256) as f32 * side as f32 - 0.5).clamp(0.0, (side - 1) as f32);
        let low = (at as usize).min(side - 1);
        (low, (low + 1).min(side - 1), at - low as f32)
    };
    let ((left, right, fx), (top, bottom, fy)) = (axis(x), axis(y));
    let index = [top * side + left, top * side + right, bottom * side + left, bottom * side + right];
    let weight = [(1.0 - fx) * (1.0 - fy), fx * (1.0 - fy), (1.0 - fx) * fy, fx * fy];
    (index.map(|i| i as i32), weight)
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Device;

    fn row(values: &[f32]) -> Tensor<2> {
        Tensor::<1>::from_floats(values, &Device::flex()).reshape([1, values.len()])
    }

    fn values(t: Tensor<2>) -> Vec<f32> {
        t.into_data().iter::<f32>().collect()
    }

    /// Against the definitions, in f64.
    #[test]
    fn losses_follow_their_definitions() {
        let (x, t) = ([-30.0, -2.0, -0.1, 0.0, 0.7, 3.0, 40.0], [0.0, 1.0, 0.25, 0.5, 1.0, 0.0, 1.0]);
        let (b, f) = (values(bce(row(&x), row(&t))), values(focal(row(&x), row(&t))));
        let (mut both, mut either) = (1.0, 1.0);
        for i in 0..x.len() {
            let (x, t) = (f64::from(x[i]), f64::from(t[i]));
            let p = 1.0 / (1.0 + (-x).exp());
            let log = |v: f64| v.max(1e-300).ln();
            let q = 1.0 / (1.0 + x.exp());
            let expected = -t * log(p) - (1.0 - t) * log(q);
            assert!((f64::from(b[i]) - expected).abs() < 1e-5 * (1.0 + expected), "{} {expected}", b[i]);
            let pt = p * t + q * (1.0 - t);
            let expected = (0.25 * t + 0.75 * (1.0 - t)) * (1.0 - pt).powi(2) * expected;
            assert!((f64::from(f[i]) - expected).abs() < 1e-5 * (1.0 + expected), "{} {expected}", f[i]);
            both += 2.0 * p * t;
            either += p + t;
        }
        let d = values(dice(row(&x), row(&t)))[0];
        assert!((f64::from(d) - (1.0 - both / either)).abs() < 1e-5, "{d}");
    }

    /// Gradients against central differences.
    #[test]
    fn gradients_of_losses() {
        let device = Device::flex().autodiff();
        let (x, t) = ([-3.0_f32, -0.4, 0.2, 1.5], [0.0_f32, 1.0, 0.5, 0.25]);
        let losses: [fn(Tensor<2>, Tensor<2>) -> Tensor<2>; 3] = [bce, focal, dice];
        for (which, loss) in losses.into_iter().enumerate() {
            let leaf = Tensor::<2>::from_floats([x], &device).require_grad();
            let gradients = loss(leaf.clone(), Tensor::from_floats([t], &device)).sum().backward();
            let gradient = values(leaf.grad(&gradients).expect("a leaf has one"));
            for i in 0..x.len() {
                let at = |step: f32| {
                    let mut x = x;
                    x[i] += step;
                    values(loss(row(&x), row(&t))).iter().map(|v| f64::from(*v)).sum::<f64>()
                };
                let expected = (at(1e-2) - at(-1e-2)) / 2e-2;
                assert!(
                    (f64::from(gradient[i]) - expected).abs() < 2e-4,
                    "{which} {i}: {} {expected}",
                    gradient[i]
                );
            }
        }
    }

    /// At every point the gathered logit is what bilinear upsampling gives there.
    #[test]
    fn points_are_sampled_bilinearly() {
        // An affine map is reproduced exactly away from the border.
        let (size, side) = (32, 8);
        let map: Vec<f32> =
            (0..side * side).map(|i| 2.0 * (i % side) as f32 - 3.0 * (i / side) as f32).collect();
        for (x, y) in [(5 * 256 + 17, 9 * 256 + 200), (20 * 256, 27 * 256 + 255)] {
            let (index, weight) = neighbours((x, y), size, side);
            let found: f32 = index.iter().zip(weight).map(|(i, w)| map[*i as usize] * w).sum();
            let centre = |v: usize| (v as f32 + 0.5) / 256.0 / 4.0 - 0.5;
            let expected = 2.0 * centre(x) - 3.0 * centre(y);
            assert!((found - expected).abs() < 1e-4, "{found} {expected}");
        }
    }

    #[test]
    fn most_points_lie_where_the_model_is_unsure_and_none_is_ignored() {
        use rand::SeedableRng;
        let (size, side) = (64, 32);
        // sure on the left half, unsure on the right; the lower half is ignored
        let logits: Vec<f32> = (0..side * side).map(|i| if i % side < 16 { 9.0 } else { 0.01 }).collect();
        let cover: Vec<u8> =
            (0..size * size).map(|i| if i / size >= 32 { Target::IGNORE } else { 4 }).collect();
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(3);
        let points = Points::choose(
            &logits,
            side,
            &cover,
            size,
            &LossConfig { points: 400, ..LossConfig::default() },
            &mut rng,
        );
        assert_eq!((points.truth.len(), points.index.len()), (400, 1600));
        assert!(points.truth.iter().all(|t| *t == 1.0));
        let unsure = points.index.chunks(4).filter(|i| i[0] as usize % side >= 15).count();
        assert!((330..=370).contains(&unsure), "{unsure}: 300 and about half of 100");
    }

    /// Seen in a mirror nothing changes: no target is moved by half a pixel.
    #[test]
    fn low_resolution_iou_has_no_side() {
        let (size, side) = (16, 8);
        for edge in 5..9 {
            let iou = |mirrored: bool| {
                let flip = |i: usize, width: usize| if mirrored { width - 1 - i % width } else { i % width };
                let logits: Vec<f32> =
                    (0..side * side).map(|i| if flip(i, side) < 3 { 1.0 } else { -1.0 }).collect();
                let cover: Vec<u8> =
                    (0..size * size).map(|i| if flip(i, size) < edge { 4 } else { 0 }).collect();
                low_res_iou(&logits, side, &cover, size)
            };
            assert_eq!(iou(false), iou(true), "edge {edge}");
            assert_eq!(iou(false), if edge < 7 { 1.0 } else { 0.75 }, "edge {edge}");
        }
    }

    #[test]
    fn the_best_of_several_counts() {
        let device = Device::flex().autodiff();
        let (size, side) = (16, 8);
        let cover: Vec<u8> = (0..size * size).map(|i| if i % size < 8 { 4 } else { 0 }).collect();
        let target = Target { cover, bbox: [0.0, 0.0, 8.0, 16.0] };
        let plane = |sign: f32| (0..64).map(move |i| if i % 8 < 4 { 5.0 * sign } else { -5.0 * sign });
        let good: Vec<f32> = plane(-1.0).chain(plane(1.0)).chain((0..64).map(|_| 0.0)).collect();
        let masks = Tensor::<4>::from_data(TensorData::new(good, [1, 3, side, side]), &device).require_grad();
        let iou = Tensor::<2>::from_floats([[0.0, 0.5, 0.0]], &device).require_grad();
        let config = LossConfig { points: 64, ..LossConfig::default() };
        let loss = mask_loss(masks.clone(), iou.clone(), &[&target], size, &config, &Streams::new(1), [0, 0]);
        assert_eq!(loss.chosen, [1]);
        assert_eq!(loss.iou, 1.0);
        let gradients = loss.total.backward();
        let gradient: Vec<f32> = masks.grad(&gradients).expect("a leaf").into_data().iter::<f32>().collect();
        assert!(gradient[..64].iter().chain(&gradient[128..]).all(|g| *g == 0.0), "only the best one learns");
        assert!(gradient[64..128].iter().any(|g| *g != 0.0));
        let heads: Vec<f32> = iou.grad(&gradients).expect("a leaf").into_data().iter::<f32>().collect();
        // 2 (predicted - measured) / 3: measured 0, 1, 0
        for (found, expected) in heads.iter().zip([0.0, -1.0 / 3.0, 0.0]) {
            assert!((found - expected).abs() < 1e-6, "{heads:?}");
        }
    }
}
