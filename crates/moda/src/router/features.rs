//! What the router sees of a picture: the outputs of the frozen encoder's stages, pooled.

use burn::tensor::{Device, Tensor, TensorData};
use kirie_sam::HostTensor;

use crate::error::ContinualError;

/// Stages of one picture, shallowest first. A few thousand numbers; no picture can be made of them again.
#[derive(Clone, Debug, PartialEq)]
pub struct RouterFeatures {
    /// See [`crate::encoder`] for which they are.
    pub stages: Vec<StageFeatures>,
}

/// One stage of one picture.
#[derive(Clone, Debug, PartialEq)]
pub struct StageFeatures {
    /// Channels.
    pub dim: usize,
    /// `[places, dim]`.
    pub values: Vec<f32>,
}

impl StageFeatures {
    /// Number of places.
    pub fn places(&self) -> usize {
        self.values.len() / self.dim.max(1)
    }
}

impl RouterFeatures {
    /// For each stage the mean over its places and the deviation from it, over the length of that mean: where in feature space the
    /// picture lies, and how varied it is.
    pub fn summary(&self) -> Vec<f32> {
        let mut summary = Vec::new();
        for stage in &self.stages {
            let places = stage.places().max(1) as f32;
            let mut mean = vec![0.0_f32; stage.dim];
            let mut square = vec![0.0_f32; stage.dim];
            for place in stage.values.chunks_exact(stage.dim) {
                for ((mean, square), value) in mean.iter_mut().zip(&mut square).zip(place) {
                    *mean += value / places;
                    *square += value * value / places;
                }
            }
            let length = mean.iter().map(|v| v * v).sum::<f32>().sqrt().max(1e-6);
            let deviation = mean.iter().zip(&square).map(|(m, s)| (s - m * m).max(0.0).sqrt() / length);
            let deviation: Vec<f32> = deviation.collect();
            summary.extend(mean.iter().map(|v| v / length));
            summary.extend(deviation);
        }
        summary
    }
}

/// Pools the stages of a batch to `grid` x `grid` places over the part of each map that is picture and not padding. `extents` says for
/// each picture which share of width and height that is.
///
/// # Errors
/// Values that cannot be read from the device.
pub fn pooled(
    stages: &[Tensor<4>],
    extents: &[[f64; 2]],
    grid: usize,
) -> Result<Vec<RouterFeatures>, ContinualError> {
    let mut pictures: Vec<RouterFeatures> =
        extents.iter().map(|_| RouterFeatures { stages: Vec::with_capacity(stages.len()) }).collect();
    for stage in stages {
        let [_, dim, height, width] = stage.dims();
        let HostTensor { values, .. } = HostTensor::from_burn(stage.clone())?;
        let maps = values.chunks_exact(dim * height * width);
        for ((picture, map), [across, down]) in pictures.iter_mut().zip(maps).zip(extents) {
            let seen = |side: usize, share: f64| ((side as f64 * share).round() as usize).clamp(1, side);
            let (rows, columns) = (seen(height, *down), seen(width, *across));
            let range = |cell: usize, side: usize| {
                let from = cell * side / grid;
                from..((cell + 1) * side).div_ceil(grid).max(from + 1).min(side)
            };
            let mut pooled = vec![0.0_f32; grid * grid * dim];
            for (place, out) in pooled.chunks_exact_mut(dim).enumerate() {
                let (ys, xs) = (range(place / grid, rows), range(place % grid, columns));
                let count = (ys.len() * xs.len()) as f32;
                for (channel, out) in out.iter_mut().enumerate() {
                    let plane = &map[channel * height * width..][..height * width];
                    let sum: f32 =
                        ys.clone().map(|y| plane[y * width..][xs.clone()].iter().sum::<f32>()).sum();
                    *out = sum / count;
                }
            }
            picture.stages.push(StageFeatures { dim, values: pooled });
        }
    }
    Ok(pictures)
}

/// The same stage of several pictures as a tensor each, `[pictures, places, dim]`.
pub fn stacked(samples: &[&RouterFeatures], device: &Device) -> Vec<Tensor<3>> {
    let stages = samples.first().map_or(0, |sample| sample.stages.len());
    (0..stages)
        .map(|at| {
            let first = &samples[0].stages[at];
            let shape = [samples.len(), first.places(), first.dim];
            let values: Vec<f32> =
                samples.iter().flat_map(|sample| sample.stages[at].values.iter().copied()).collect();
            Tensor::from_data(TensorData::new(values, shape), device)
        })
        .collect()
}
