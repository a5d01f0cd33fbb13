//! Every family can learn a few pictures by heart; anything wrong between the pixels and the masks would show.

use burn::tensor::Device;
use kirie_data::datasets::{Sample, open};
use kirie_promptable::evaluate::{MaskChoice, PromptKind, PromptedOptions, SamModel, prompted};
use kirie_promptable::train::TrainConfig;
use kirie_promptable::train::config::EndToEnd;
use kirie_sam::BurnEngine;
use kirie_sam::model::SamConfig;

use crate::common::{config, course, draw_set, efficientvit, finish, sizes, spec, task, tiny_vit, vit};

/// Learns two pictures and is asked about them as a user would ask: mean IoU at full size, from the written model.
fn learn(model: &SamConfig, steps: u64, ask: PromptKind, change: impl FnOnce(&mut TrainConfig)) -> f64 {
    let place = tempfile::tempdir().unwrap();
    let (set, run) = (place.path().join("set"), place.path().join("run"));
    draw_set(&set, 2);
    let mut config = config(&set, model, steps);
    change(&mut config);
    let file = finish(&config, &run);
    let figure = if ask == PromptKind::Box { "iou.box" } else { "iou.points" };
    let seen = course(&run, figure);
    let spec = spec(&config);
    let device = Device::flex();
    let model = spec.load(&file, &device).unwrap();
    let engine = BurnEngine::assemble(spec.name.clone(), spec.preprocess, &spec.sizes, model, &device);
    let dataset = open(&set, Some("train")).unwrap();
    let samples: Vec<&Sample> = dataset.samples.iter().collect();
    let options = PromptedOptions { prompts: vec![ask], ..PromptedOptions::default() };
    let mut asked = SamModel::new(&engine, MaskChoice::Single);
    let reports = prompted(&dataset, &samples, &mut asked, &options, &mut |_| {}).unwrap();
    assert_eq!(reports[0].summary.figures.objects, 4);
    let miou = reports[0].summary.figures.miou.unwrap();
    // That figure is measured at half the size, where an edge on a pixel's centre counts fully or not at all.
    assert!(seen[seen.len() - 1] > 0.92, "while training: {seen:?}");
    miou
}

#[track_caller]
fn by_heart(miou: f64) {
    assert!(miou > 0.95, "mean IoU {miou}");
}

#[test]
fn efficientvit_learns_by_heart() {
    by_heart(learn(&sizes(efficientvit(), None), 150, PromptKind::Box, |_| {}));
}

#[test]
fn tiny_vit_learns_by_heart() {
    by_heart(learn(&sizes(tiny_vit(), None), 200, PromptKind::Box, |_| {}));
}

#[test]
fn vit_learns_by_heart() {
    by_heart(learn(&sizes(vit(), None), 200, PromptKind::Box, |_| {}));
}

#[test]
fn hq_learns_by_heart() {
    by_heart(learn(&sizes(vit(), Some(32)), 150, PromptKind::Box, |_| {}));
}

#[test]
fn points_are_learnt() {
    let points = |config: &mut TrainConfig| {
        let EndToEnd { prompts, .. } = task(config);
        (prompts.boxes, prompts.points) = (0.0, [1, 2]);
    };
    by_heart(learn(&sizes(efficientvit(), None), 250, PromptKind::Points(1), points));
}
