//! The GPU road gives the losses and gradients of the CPU road.
//!
//! Needs the feature `wgpu` and a Vulkan driver; one in software will do (Debian's `mesa-vulkan-drivers` and `libvulkan1`):
//! `cargo test -p kirie-promptable --profile gpu --features wgpu --test train -- gpu:: --test-threads=1`

use std::collections::BTreeMap;
use std::path::Path;

use burn::tensor::{Device, DeviceKind};
use kirie_engine::optim::{Clip, Rule};
use kirie_promptable::train::TrainConfig;
use kirie_promptable::train::config::Prompts;
use kirie_run::Stop;
use kirie_sam::encoders::EncoderConfig;

use crate::common::{
    config, course, draw_set, efficientvit, go_on, sizes, task, tensors, tiny_vit, vit, weights,
};

/// What a gradient may differ by, as a share of its norm: sums are taken in another order, and a GPU's `exp` and square roots
/// are rounded otherwise.
const TOLERANCE: f64 = 2e-3;
/// The same as a share of the norm of all gradients: what is left where large numbers nearly cancel, as in front of a norm.
const OF_ALL: f64 = 2e-5;

fn norm(values: impl IntoIterator<Item = f64>) -> f64 {
    values.into_iter().map(|v| v * v).sum::<f64>().sqrt()
}

/// A step of plain gradient descent with rate 1: the loss, and the change of every tensor, which is the negative gradient.
fn step(
    device: &Device,
    config: &TrainConfig,
    start: &BTreeMap<String, Vec<f32>>,
    run: &Path,
) -> (f64, BTreeMap<String, Vec<f64>>) {
    let report = go_on(device, config, run, &Stop::never()).unwrap();
    let end = tensors(&report.model.unwrap());
    let change = |(key, from): (&String, &Vec<f32>)| {
        let change = from.iter().zip(&end[key]).map(|(a, b)| f64::from(*b) - f64::from(*a));
        (key.clone(), change.collect())
    };
    (course(run, "loss")[0], start.iter().map(change).collect())
}

/// Both roads from the same weights: box or points, one mask and a correction.
fn agrees(encoder: EncoderConfig, hq: Option<usize>, boxes: f64) {
    let place = tempfile::tempdir().unwrap();
    let (set, start) = (place.path().join("set"), place.path().join("w.safetensors"));
    draw_set(&set, 2);
    let mut config = config(&set, &sizes(encoder, hq), 1);
    weights(&config, 3, &start);
    config.model.init = Some(start.clone());
    config.plan.optimizer.rule = Rule::Sgd { momentum: 0.0, lars_trust: None };
    config.plan.optimizer.lr = 1.0;
    config.plan.optimizer.clip = Clip::None;
    task(&mut config).prompts = Prompts { boxes, points: [1, 3], box_noise: 0.0, rounds: 1 };
    let start = tensors(&start);
    let gpu = Device::wgpu(DeviceKind::DefaultDevice);
    let (expected, gradients) = step(&Device::flex(), &config, &start, &place.path().join("cpu"));
    let (found, on_gpu) = step(&gpu, &config, &start, &place.path().join("gpu"));
    assert!((found - expected).abs() < 1e-4 * expected.abs(), "loss {found}, on the CPU {expected}");
    let whole = norm(gradients.values().flatten().copied());
    assert!(whole > 0.1, "the gradient is {whole}");
    for (key, gradient) in &gradients {
        let size = norm(gradient.iter().copied());
        let error = norm(gradient.iter().zip(&on_gpu[key]).map(|(a, b)| a - b));
        assert!(error < TOLERANCE * size + OF_ALL * whole, "{key}: {error} of {size}, of {whole} in all");
    }
}

#[test]
fn efficientvit_on_the_gpu() {
    agrees(efficientvit(), None, 1.0);
}

#[test]
fn tiny_vit_on_the_gpu() {
    agrees(tiny_vit(), None, 1.0);
}

#[test]
fn vit_with_clicks_on_the_gpu() {
    agrees(vit(), None, 0.0);
}

#[test]
fn hq_on_the_gpu() {
    agrees(vit(), Some(32), 1.0);
}
