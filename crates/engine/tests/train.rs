//! The loop around a model of three numbers: what a step does, and that a run does not notice being interrupted.

#![allow(clippy::unwrap_used, reason = "a test may fail anywhere")]

use std::fs;
use std::path::Path;

use burn::nn::{Linear, LinearConfig};
use burn::tensor::{Device, Tensor, TensorData};
use kirie_engine::optim::{Adam, Clip, Group, OptimizerConfig, Rule};
use kirie_engine::random::Streams;
use kirie_engine::schedule::{Decay, Schedule};
use kirie_engine::train::MethodError;
use kirie_engine::{EngineError, Method, Outcome, Plan, Step, train};
use kirie_run::{ProgressMode, RunFolder, Stop};
use kirie_sam::checkpoint::StateDict;
use rand::Rng;
use tempfile::TempDir;

/// Rows of a part of a batch.
const ROWS: usize = 4;

/// A line is fitted to noise.
#[derive(Debug, Default)]
struct Toy {
    /// Parts of a step that come as one batch.
    joined: u64,
    /// Asks for the end while the step with this number is computed.
    stop_in: Option<(u64, Stop)>,
    /// The step whose gradient, but not whose loss, is no number.
    poisoned: Option<u64>,
}

impl Method for Toy {
    type Model = Linear;
    type Batch = Vec<[f32; 3]>;

    fn batch(&self, step: u64, part: u64) -> Result<Self::Batch, MethodError> {
        let parts = if self.joined == 0 { part..part + 1 } else { 0..self.joined };
        let mut rows = Vec::new();
        for part in parts {
            let mut rng = Streams::new(5).stream("rows", &[step, part]);
            rows.extend((0..ROWS).map(|_| [0; 3].map(|_| rng.next_u32() as f32 / u32::MAX as f32 - 0.5)));
        }
        Ok(rows)
    }

    fn loss(&self, model: &Linear, batch: Self::Batch, step: u64) -> Result<Step, MethodError> {
        if let Some((at, stop)) = &self.stop_in
            && step == *at
        {
            stop.request();
        }
        let device = model.weight.val().device();
        let rows = batch.len();
        let data = TensorData::new(batch.concat(), [rows, 3]);
        let data = Tensor::<2>::from_data(data, &device);
        let (x, y) = (data.clone().narrow(1, 0, 2), data.narrow(1, 2, 1));
        let mut loss = (model.forward(x) - y).square().mean();
        if self.poisoned == Some(step) {
            // The root of zero has an infinite slope, which times zero is no number.
            loss = loss + (model.weight.val() * 0.0).sqrt().sum();
        }
        Ok(Step { loss, figures: vec![("rows", rows as f64)], samples: vec![format!("rows of {step}")] })
    }

    fn validate(&self, model: &Linear, _: u64, _: &RunFolder) -> Result<Vec<(String, f64)>, MethodError> {
        Ok(vec![("smallness".to_owned(), -f64::from(model.weight.val().square().sum().into_scalar::<f32>()))])
    }

    fn title(&self) -> String {
        "toy".to_owned()
    }
}

fn plan(steps: u64) -> Plan {
    Plan {
        steps,
        accumulate: 1,
        optimizer: OptimizerConfig {
            rule: Rule::Sgd { momentum: 0.0, lars_trust: None },
            lr: 0.5,
            weight_decay: 0.0,
            clip: Clip::None,
            groups: Vec::new(),
        },
        schedule: Schedule { warmup: 0, decay: Decay::Constant },
        average: None,
        log_every: 1,
        checkpoint_every: 3,
        keep: 2,
        validate_every: 0,
        workers: 1,
        activation_checkpointing: false,
    }
}

/// The same beginning for every run.
fn beginning() -> Linear {
    let device = Device::flex().autodiff();
    let mut linear = LinearConfig::new(2, 1).init(&device);
    linear.weight = linear.weight.map(|w| (w.zeros_like() + 0.3).detach().require_grad());
    linear.bias = linear.bias.map(|b| b.map(|b| (b.zeros_like() - 0.2).detach().require_grad()));
    linear
}

/// A run in `folder`, begun or gone on with.
fn go(toy: &Toy, plan: &Plan, folder: &Path, stop: &Stop) -> Result<Outcome<Linear>, EngineError> {
    let folder = if let Ok(folder) = RunFolder::open(folder) {
        folder
    } else {
        let folder = RunFolder::create(folder)?;
        folder.write_config("")?;
        folder
    };
    train(toy, beginning(), plan, &folder, &Device::flex(), stop, ProgressMode::Silent)
}

fn whole(toy: &Toy, plan: &Plan) -> (Vec<f32>, TempDir) {
    let place = tempfile::tempdir().unwrap();
    let outcome = go(toy, plan, place.path(), &Stop::never()).unwrap();
    assert!(outcome.complete && outcome.steps == plan.steps);
    (values(&outcome.model), place)
}

/// Weights and bias.
fn values(model: &Linear) -> Vec<f32> {
    let mut values: Vec<f32> = model.weight.val().into_data().iter::<f32>().collect();
    values.extend(model.bias.as_ref().unwrap().val().into_data().iter::<f32>());
    values
}

/// The log without the time.
fn log(run: &Path) -> Vec<serde_json::Value> {
    let mut records = kirie_run::log::read(run.join("log.jsonl")).unwrap();
    for record in &mut records {
        record.remove("seconds");
    }
    records.into_iter().map(serde_json::Value::Object).collect()
}

#[track_caller]
fn assert_near(found: &[f32], expected: &[f32]) {
    assert_eq!(found.len(), expected.len());
    let near = found.iter().zip(expected).all(|(f, e)| (f - e).abs() < 1e-6);
    assert!(near, "{found:?} is not {expected:?}");
}

#[test]
fn accumulated_gradients_are_the_mean_of_the_parts() {
    let (found, _) = whole(&Toy::default(), &Plan { accumulate: 2, ..plan(3) });
    let (expected, _) = whole(&Toy { joined: 2, ..Toy::default() }, &plan(3));
    assert_near(&found, &expected);
    let (other, _) = whole(&Toy::default(), &plan(3));
    assert!(other.iter().zip(&expected).any(|(o, e)| (o - e).abs() > 1e-3), "the second part does nothing");
}

#[test]
fn clipping_bounds_the_step_and_the_log_tells_the_norm_before_it() {
    let limit = 1e-3;
    let mut clipped = plan(1);
    clipped.optimizer.clip = Clip::Norm(limit);
    let (found, place) = whole(&Toy::default(), &clipped);
    let (free, _) = whole(&Toy::default(), &plan(1));
    let start = values(&beginning());
    let moved = |to: &[f32]| -> f64 {
        to.iter().zip(&start).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>().sqrt()
    };
    assert!((moved(&found) - 0.5 * limit).abs() < 1e-6, "{}", moved(&found));
    let norm = log(place.path())[0]["gradient_norm"].as_f64().unwrap();
    assert!((norm * 0.5 - moved(&free)).abs() < 1e-6 && norm > 10.0 * limit, "{norm}");
}

#[test]
fn frozen_parameters_stay_bit_for_bit() {
    let mut frozen = plan(4);
    frozen.optimizer.rule = Rule::AdamW(Adam::default());
    frozen.optimizer.weight_decay = 0.1;
    frozen.optimizer.groups =
        vec![Group { name: "^bias$".to_owned(), lr: 1.0, weight_decay: None, frozen: true }];
    let (found, place) = whole(&Toy::default(), &frozen);
    let start = values(&beginning());
    assert_eq!(found[2].to_bits(), start[2].to_bits());
    assert!(found[0] != start[0] && found[1] != start[1]);
    let state = StateDict::open(place.path().join("checkpoints/step-4/optimizer.safetensors")).unwrap();
    assert_eq!(state.keys().collect::<Vec<_>>(), ["weight.first", "weight.second", "weight.time"]);
}

#[test]
fn recomputed_activations_change_nothing() {
    let (found, _) = whole(&Toy::default(), &Plan { activation_checkpointing: true, ..plan(3) });
    let (expected, _) = whole(&Toy::default(), &plan(3));
    assert_near(&found, &expected);
}

/// Stopped in every step, with everything that has a state: moments, averages, accumulation, schedule, the best so far.
#[test]
fn interrupted_anywhere_it_ends_the_same() {
    let mut all = Plan { accumulate: 2, average: Some(0.9), validate_every: 2, workers: 2, ..plan(7) };
    all.optimizer.rule = Rule::AdamW(Adam::default());
    all.schedule = Schedule { warmup: 2, decay: Decay::Cosine { end: 0.1 } };
    let (expected, uninterrupted) = whole(&Toy::default(), &all);
    let files = ["weights", "average", "optimizer"].map(|n| format!("checkpoints/step-7/{n}.safetensors"));
    for at in 0..6 {
        let place = tempfile::tempdir().unwrap();
        let stop = Stop::never();
        let toy = Toy { stop_in: Some((at, stop.clone())), ..Toy::default() };
        let outcome = go(&toy, &all, place.path(), &stop).unwrap();
        assert!(!outcome.complete && outcome.steps == at + 1, "the step is finished");
        let outcome = go(&Toy::default(), &all, place.path(), &Stop::never()).unwrap();
        assert!(outcome.complete);
        assert_eq!(values(&outcome.model), expected, "stopped in step {at}");
        assert_eq!(log(place.path()), log(uninterrupted.path()));
        for file in &files {
            let read = |run: &Path| fs::read(run.join(file)).unwrap();
            assert!(read(place.path()) == read(uninterrupted.path()), "stopped in step {at}: {file} differs");
        }
    }
}

/// Cut off between its last checkpoint and its report, or simply resumed once more: it says what it said.
#[test]
fn a_finished_run_resumed_tells_its_figures_again() {
    let place = tempfile::tempdir().unwrap();
    let mut averaged = plan(4);
    averaged.average = Some(0.9);
    let first = go(&Toy::default(), &averaged, place.path(), &Stop::never()).unwrap();
    let before = log(place.path());
    let again = go(&Toy::default(), &averaged, place.path(), &Stop::never()).unwrap();
    assert_eq!(values(&first.model), values(&again.model));
    assert_eq!(first.figures, again.figures);
    assert_eq!(log(place.path()), before);
}

/// Killed after the best checkpoint was saved and before it was marked: the mark is made up for.
#[test]
fn the_best_is_marked_by_the_resumed_run() {
    let place = tempfile::tempdir().unwrap();
    go(&Toy::default(), &plan(3), place.path(), &Stop::never()).unwrap();
    let mark = place.path().join("checkpoints/best");
    let expected = fs::read_to_string(&mark).unwrap();
    fs::remove_file(&mark).unwrap();
    go(&Toy::default(), &plan(3), place.path(), &Stop::never()).unwrap();
    assert_eq!(fs::read_to_string(&mark).unwrap(), expected);
}

#[test]
fn a_gradient_that_is_no_number_ends_the_run_and_spoils_no_checkpoint() {
    let place = tempfile::tempdir().unwrap();
    let toy = Toy { poisoned: Some(5), ..Toy::default() };
    let error = go(&toy, &plan(8), place.path(), &Stop::never()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "step 5: the gradient of weight is not a finite number; the batch: rows of 5; \
         the last good checkpoint is that of step 3"
    );
    let (expected, _) = whole(&Toy::default(), &plan(8));
    let outcome = go(&Toy::default(), &plan(8), place.path(), &Stop::never()).unwrap();
    assert_eq!(values(&outcome.model), expected);
}
