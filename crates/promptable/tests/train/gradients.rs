//! Which parameters learn, and which must not.

use std::collections::BTreeSet;
use std::path::Path;

use burn::tensor::Device;
use kirie_engine::optim::Group;
use kirie_promptable::train::TrainConfig;
use kirie_promptable::train::config::Prompts;
use kirie_sam::checkpoint::module_keys;
use kirie_sam::encoders::EncoderConfig;

use crate::common::{
    config, draw_set, efficientvit, finish, sizes, spec, task, tensors, tiny_vit, vit, weights,
};

/// What belongs to the state dict but is no parameter.
fn is_buffer(key: &str) -> bool {
    ["running_mean", "running_var", "num_batches_tracked", "positional_encoding_gaussian_matrix"]
        .iter()
        .any(|end| key.ends_with(end))
}

/// Boxes and points, one mask and three, and a correction, in turns.
fn mixed(config: &mut TrainConfig) {
    let task = task(config);
    task.prompts = Prompts { boxes: 0.5, points: [1, 3], box_noise: 0.05, rounds: 1 };
    task.loss.multimask = 0.5;
}

/// The parameters whose second moment is still zero at the end: no gradient ever reached them.
fn never_reached(config: &TrainConfig, run: &Path) -> Vec<String> {
    finish(config, run);
    let state = format!("checkpoints/step-{}/optimizer.safetensors", config.plan.steps);
    let moments = tensors(&run.join(state));
    let keys = module_keys(&spec(config).sizes.init(&Device::flex()));
    let names = keys.into_iter().map(|key| key.key).filter(|key| !is_buffer(key));
    let reached = |key: &String| {
        moments.get(&format!("{key}.second")).is_some_and(|moment| moment.iter().any(|v| *v > 0.0))
    };
    names.filter(|key| !reached(key)).collect()
}

fn unlearnt(encoder: EncoderConfig, hq: Option<usize>) -> Vec<String> {
    let place = tempfile::tempdir().unwrap();
    let set = place.path().join("set");
    draw_set(&set, 2);
    let mut config = config(&set, &sizes(encoder, hq), 20);
    mixed(&mut config);
    never_reached(&config, &place.path().join("run"))
}

/// Without the masks for ambiguous prompts, of which only the best learns: one of the three must have been it.
fn without_ambiguous(mut unlearnt: Vec<String>) -> Vec<String> {
    let of =
        |key: &str| (1..4).find(|i| key.starts_with(&format!("mask_decoder.output_hypernetworks_mlps.{i}.")));
    let missed: BTreeSet<usize> = unlearnt.iter().filter_map(|key| of(key)).collect();
    assert!(missed.len() < 3, "none of the three masks learnt");
    unlearnt.retain(|key| of(key).is_none());
    unlearnt
}

/// With mixed prompts and a round of correction every parameter learns, but for a classifier that is never asked.
#[test]
fn every_parameter_learns() {
    assert_eq!(without_ambiguous(unlearnt(efficientvit(), None)), [""; 0]);
    assert_eq!(without_ambiguous(unlearnt(vit(), None)), [""; 0]);
    let head = ["norm_head.weight", "norm_head.bias", "head.weight", "head.bias"];
    let expected: BTreeSet<String> = head.map(|name| format!("image_encoder.{name}")).into();
    assert_eq!(BTreeSet::from_iter(without_ambiguous(unlearnt(tiny_vit(), None))), expected);
}

#[test]
fn every_parameter_of_hq_learns() {
    assert_eq!(without_ambiguous(unlearnt(vit(), Some(32))), [""; 0]);
}

/// A model that draws its prompts always has something for the mask path, and never needs the word for nothing.
#[test]
fn drawn_prompts_teach_the_mask_path() {
    let place = tempfile::tempdir().unwrap();
    let set = place.path().join("set");
    draw_set(&set, 2);
    let mut drawing = sizes(vit(), None);
    drawing.prompt_encoder.draw_prompts = true;
    let mut config = config(&set, &drawing, 20);
    mixed(&mut config);
    task(&mut config).prompts.rounds = 0;
    let found = without_ambiguous(never_reached(&config, &place.path().join("run")));
    // Without corrections there is no click off the object.
    assert_eq!(found, ["prompt_encoder.point_embeddings.0.weight", "prompt_encoder.no_mask_embed.weight"]);
}

/// What boxes alone leave untaught: corrections, points, and the masks for ambiguous prompts.
#[test]
fn boxes_alone_teach_less() {
    let place = tempfile::tempdir().unwrap();
    let set = place.path().join("set");
    draw_set(&set, 2);
    let config = config(&set, &sizes(vit(), None), 4);
    let found = never_reached(&config, &place.path().join("run"));
    let expected = [
        "prompt_encoder.mask_downscaling.",
        "prompt_encoder.not_a_point_embed.",
        "prompt_encoder.point_embeddings.0.",
        "prompt_encoder.point_embeddings.1.",
        "mask_decoder.output_hypernetworks_mlps.1.",
        "mask_decoder.output_hypernetworks_mlps.2.",
        "mask_decoder.output_hypernetworks_mlps.3.",
    ];
    for key in &found {
        assert!(expected.iter().any(|prefix| key.starts_with(prefix)), "{key} got no gradient");
    }
    for prefix in expected {
        assert!(found.iter().any(|key| key.starts_with(prefix)), "{prefix} got a gradient");
    }
}

/// Trains a model from given weights; gives the names of the tensors that are not bit for bit what they were.
fn changed(change: impl FnOnce(&mut TrainConfig)) -> BTreeSet<String> {
    let place = tempfile::tempdir().unwrap();
    let (set, run, start) =
        (place.path().join("set"), place.path().join("run"), place.path().join("w.safetensors"));
    draw_set(&set, 2);
    let mut config = config(&set, &sizes(efficientvit(), None), 6);
    mixed(&mut config);
    weights(&config, 3, &start);
    config.model.init = Some(start.clone());
    config.plan.optimizer.weight_decay = 0.1;
    config.plan.average = Some(0.9);
    change(&mut config);
    let end = tensors(&finish(&config, &run));
    let start = tensors(&start);
    assert!(start.keys().eq(end.keys()));
    let bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
    start.into_iter().filter(|(key, values)| bits(values) != bits(&end[key])).map(|(key, _)| key).collect()
}

#[test]
fn training_the_decoder_alone_leaves_the_encoder_as_it_is() {
    let changed = changed(|config| task(config).decoder_only = true);
    assert!(changed.iter().all(|key| !key.starts_with("image_encoder.")), "{changed:?}");
    for part in ["prompt_encoder.point_embeddings.", "mask_decoder.transformer.", "mask_decoder.iou_token."] {
        assert!(changed.iter().any(|key| key.starts_with(part)), "{part} did not learn");
    }
}

/// Running statistics of a frozen norm are frozen with it.
#[test]
fn frozen_groups_stay_bit_for_bit() {
    let frozen = |name: &str| Group { name: name.to_owned(), lr: 1.0, weight_decay: None, frozen: true };
    let names = ["^image_encoder\\.backbone\\.", "^mask_decoder\\.transformer\\."];
    let changed = changed(|config| config.plan.optimizer.groups = names.map(frozen).into());
    let stays = |key: &String| {
        key.starts_with("image_encoder.backbone.") || key.starts_with("mask_decoder.transformer.")
    };
    let moved: Vec<_> = changed.iter().filter(|key| stays(key)).collect();
    assert!(moved.is_empty(), "{moved:?}");
    assert!(
        changed.iter().any(|key| key.starts_with("image_encoder.neck.") && key.ends_with("running_mean"))
    );
    assert!(changed.iter().any(|key| key.starts_with("mask_decoder.iou_prediction_head.")));
}
