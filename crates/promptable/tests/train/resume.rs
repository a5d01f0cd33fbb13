//! A run does not notice that it was interrupted. (`kirie`'s own tests do the same to the process, less gently.)

use std::fs;
use std::path::Path;
use std::thread;
use std::time::Duration;

use kirie_promptable::train::config::{Augment, Distill, Prompts, Task};
use kirie_promptable::train::{MODEL_FILE, TrainConfig};
use kirie_run::Stop;
use kirie_sam::checkpoint::StateDict;

use crate::common::{config, draw_set, efficientvit, finish, go, log, sizes, task, weights};

/// Everything that has a state or is drawn: augmentation, mixed prompts, corrections, averages, validation.
fn everything(set: &Path) -> TrainConfig {
    let mut config = config(set, &sizes(efficientvit(), None), 14);
    config.data.validate_one_in = 3;
    config.augment =
        Augment { scale: [0.8, 1.6], stretch: 1.2, colour: 0.2, zoom: 0.5, ..Augment::default() };
    let task = task(&mut config);
    task.prompts = Prompts { boxes: 0.5, points: [1, 3], box_noise: 0.05, rounds: 1 };
    task.loss.multimask = 0.5;
    let plan = &mut config.plan;
    (plan.accumulate, plan.average, plan.workers) = (2, Some(0.9), 2);
    (plan.checkpoint_every, plan.validate_every) = (5, 7);
    config
}

/// Runs until the log has so many lines, then asks for the end; gives the steps done.
fn interrupted(config: &TrainConfig, run: &Path, lines: usize) -> u64 {
    let stop = Stop::never();
    let report = thread::scope(|scope| {
        scope.spawn(|| {
            let path = run.join("log.jsonl");
            let enough = || fs::read_to_string(&path).is_ok_and(|text| text.lines().count() >= lines);
            while !enough() && !stop.requested() {
                thread::sleep(Duration::from_millis(1));
            }
            stop.request();
        });
        let report = go(config, run, &stop);
        // If it failed, the other thread must not wait for ever.
        stop.request();
        report.unwrap()
    });
    assert!(!report.complete && report.model.is_none() && !run.join(MODEL_FILE).exists());
    report.steps
}

#[track_caller]
fn assert_same(found: &Path, expected: &Path, steps: u64) {
    let names =
        ["weights", "average", "optimizer"].map(|n| format!("checkpoints/step-{steps}/{n}.safetensors"));
    for name in names.iter().map(String::as_str).chain([MODEL_FILE]) {
        let read = |run: &Path| fs::read(run.join(name)).unwrap();
        assert!(read(found) == read(expected), "{name} differs");
    }
    assert_eq!(log(found), log(expected));
}

#[test]
fn stopped_and_resumed_it_ends_bit_for_bit_the_same() {
    let place = tempfile::tempdir().unwrap();
    let set = place.path().join("set");
    draw_set(&set, 7);
    let config = everything(&set);
    let whole = place.path().join("whole");
    finish(&config, &whole);

    let run = place.path().join("run");
    let first = interrupted(&config, &run, 2);
    let second = interrupted(&config, &run, 8);
    assert!(first >= 2 && second >= 7 && second >= first, "stopped after {first} and {second} steps");
    finish(&config, &run);
    assert_same(&run, &whole, 14);

    // Everything random follows from the seed.
    let again = place.path().join("again");
    finish(&TrainConfig { seed: 2, ..config }, &again);
    let weight = |run: &Path| {
        let file = StateDict::open(run.join(MODEL_FILE)).unwrap();
        file.read("mask_decoder.iou_token.weight").unwrap().values
    };
    assert!(weight(&again) != weight(&whole), "the seed does nothing");
}

/// With a cache, some embeddings are computed and some are found, depending on when it was interrupted.
#[test]
fn distillation_stopped_and_resumed_ends_bit_for_bit_the_same() {
    let place = tempfile::tempdir().unwrap();
    let (set, teacher) = (place.path().join("set"), place.path().join("teacher.safetensors"));
    draw_set(&set, 7);
    let mut config = everything(&set);
    config.augment = Augment::default();
    weights(&config, 9, &teacher);
    let with_cache = |cache: Option<&str>| {
        let task = Distill {
            teacher: config.model.name.clone(),
            sizes: config.model.sizes.clone(),
            input: config.model.input,
            weights: teacher.clone(),
            cache: cache.map(|name| place.path().join(name)),
            copy_decoder: true,
        };
        TrainConfig { task: Task::Distill(task), ..config.clone() }
    };
    let whole = place.path().join("whole");
    finish(&with_cache(Some("cache of the whole")), &whole);
    let run = place.path().join("run");
    let first = interrupted(&with_cache(Some("cache")), &run, 3);
    assert!((3..14).contains(&first), "stopped after {first} steps");
    finish(&with_cache(Some("cache")), &run);
    assert_same(&run, &whole, 14);
}
