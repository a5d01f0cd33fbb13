//! The training loop.

use std::collections::BTreeMap;
use std::io::Write;
use std::time::Instant;

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use kirie_run::{Checkpoint, Log, Part, Progress, ProgressMode, RunFolder, Stop};
use kirie_sam::HostTensor;
use kirie_sam::checkpoint::{FloatFormat, StateDict, load, state_dict_of, write_safetensors_to};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::EngineError;
use crate::average::Average;
use crate::loader::Prefetch;
use crate::named::{NamedTensors, gradients_of};
use crate::optim::{Optimizer, OptimizerConfig};
use crate::schedule::Schedule;

const WEIGHTS: &str = "weights.safetensors";
const AVERAGE: &str = "average.safetensors";
const OPTIMIZER: &str = "optimizer.safetensors";
const STATE: &str = "state.json";

/// An error of a method.
pub type MethodError = Box<dyn std::error::Error + Send + Sync>;

/// What a training method does that no other does.
pub trait Method: Sync {
    /// The trained model.
    type Model: Module + Clone;
    /// A prepared batch.
    type Batch: Send;

    /// Prepares a batch, away from the training thread. It depends on nothing but the step (from 0) and the part of it,
    /// where gradients are accumulated over several.
    fn batch(&self, step: u64, part: u64) -> Result<Self::Batch, MethodError>;

    /// The loss of a batch.
    fn loss(&self, model: &Self::Model, batch: Self::Batch, step: u64) -> Result<Step, MethodError>;

    /// Figures on data that is not trained on, for the log; the first decides which checkpoint is the best (higher is
    /// better). The model comes without autodiff. May write pictures into the run folder.
    fn validate(
        &self,
        model: &Self::Model,
        step: u64,
        folder: &RunFolder,
    ) -> Result<Vec<(String, f64)>, MethodError>;

    /// Heading of the run's report.
    fn title(&self) -> String;

    /// What is written into the weight files beside the tensors.
    fn metadata(&self) -> BTreeMap<String, String> {
        BTreeMap::new()
    }
}

/// A batch's loss.
#[derive(Debug)]
pub struct Step {
    /// What is made smaller, `[1]`, on the autodiff device.
    pub loss: Tensor<1>,
    /// Figures for the log.
    pub figures: Vec<(&'static str, f64)>,
    /// Names of the samples, for the error message when something is no number.
    pub samples: Vec<String>,
}

/// How long, how fast, how often.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// Optimiser steps.
    pub steps: u64,
    /// Batches whose gradients are averaged for one optimiser step.
    #[serde(default = "one")]
    pub accumulate: u64,
    /// The update rule.
    pub optimizer: OptimizerConfig,
    /// The learning rate's course.
    pub schedule: Schedule,
    /// Decay of the moving average of the weights; without it there is none.
    #[serde(default)]
    pub average: Option<f64>,
    /// Steps between log lines.
    #[serde(default = "ten")]
    pub log_every: u64,
    /// Steps between checkpoints.
    #[serde(default = "two_hundred")]
    pub checkpoint_every: u64,
    /// Checkpoints kept, beside the best.
    #[serde(default = "two")]
    pub keep: usize,
    /// Steps between validations, which also rewrite the report; 0 for only at the end.
    #[serde(default)]
    pub validate_every: u64,
    /// Threads that prepare batches.
    #[serde(default = "one")]
    pub workers: u64,
    /// Recompute activations in the backward pass instead of keeping them: less memory, more time. (Burn decides which.)
    #[serde(default)]
    pub activation_checkpointing: bool,
}

fn one() -> u64 {
    1
}
fn two() -> usize {
    2
}
fn ten() -> u64 {
    10
}
fn two_hundred() -> u64 {
    200
}

impl Plan {
    /// Checks the numbers.
    pub fn check(&self) -> Result<(), EngineError> {
        let positive = [
            ("steps", self.steps),
            ("accumulate", self.accumulate),
            ("log_every", self.log_every),
            ("checkpoint_every", self.checkpoint_every),
            ("workers", self.workers),
        ];
        for (name, value) in positive {
            if value == 0 {
                let expected = "1 or more".to_owned();
                return Err(EngineError::Setting { name: name.to_owned(), found: "0".to_owned(), expected });
            }
        }
        if let Some(decay) = self.average.filter(|d| !(0.0..1.0).contains(d)) {
            let expected = "0 to below 1".to_owned();
            return Err(EngineError::Setting {
                name: "average".to_owned(),
                found: decay.to_string(),
                expected,
            });
        }
        self.schedule.check()?;
        self.optimizer.init().map(drop)
    }
}

/// How a run ended.
#[derive(Clone, Debug)]
pub struct Outcome<M> {
    /// The model, averaged if the plan averages, without autodiff.
    pub model: M,
    /// Optimiser steps done.
    pub steps: u64,
    /// Whether all steps were done; otherwise it was asked to stop, and has saved a checkpoint.
    pub complete: bool,
    /// Figures of the last validation.
    pub figures: Vec<(String, f64)>,
}

/// What a checkpoint knows beside tensors.
#[derive(Debug, Default, Serialize, Deserialize)]
struct State {
    step: u64,
    best: Option<f64>,
    /// The step whose checkpoint is the best: a kill may come between saving and marking it.
    #[serde(default)]
    best_step: Option<u64>,
    seconds: f64,
}

/// Trains a model until the plan is fulfilled or a stop is asked for.
///
/// Starts with the run folder's latest intact checkpoint if there is one. A run that was interrupted, by whatever means, and
/// resumed gives bit for bit the weights of one that was not, as long as the device computes reproducibly (the CPU does, for
/// a fixed number of threads).
///
/// # Errors
/// Settings out of range; the method's own errors; files that cannot be written; a loss or gradient that is no number.
pub fn train<T: Method>(
    method: &T,
    model: T::Model,
    plan: &Plan,
    folder: &RunFolder,
    device: &Device,
    stop: &Stop,
    mode: ProgressMode,
) -> Result<Outcome<T::Model>, EngineError> {
    plan.check()?;
    let mut optimizer = plan.optimizer.init()?;
    let plain = device.clone();
    let device = if plan.activation_checkpointing {
        device.clone().autodiff().gradient_checkpointing()
    } else {
        device.clone().autodiff()
    };

    let checkpoints = folder.checkpoints();
    let mut state = State::default();
    let mut model = model.train();
    let mut average = None;
    if let Some(checkpoint) = checkpoints.latest()? {
        for (path, reason) in &checkpoint.skipped {
            warn(&format!("{} is passed over: {reason}", path.display()));
        }
        state = read_state(&checkpoint)?;
        if state.best_step == Some(state.step) {
            checkpoints.mark_best(state.step)?;
        }
        if plan.average.is_some() {
            let file = StateDict::open(checkpoint.file(AVERAGE)?)?;
            let averaged = load(model.valid(), &file, "the run's model", &plain)?;
            average = plan.average.map(|decay| {
                let mut average = Average::new(decay, &averaged);
                average.restore(&averaged);
                average
            });
        }
        model = load(model, &StateDict::open(checkpoint.file(WEIGHTS)?)?, "the run's model", &device)?;
        optimizer.restore(&StateDict::open(checkpoint.file(OPTIMIZER)?)?, &plain)?;
    } else if let Some(decay) = plan.average {
        average = Some(Average::new(decay, &model.valid()));
    }
    model = optimizer.freeze(model);
    let mut log = Log::open(folder.log_path(), Some(state.step))?;

    let first = state.step;
    let mut progress = Progress::new("step", plan.steps, first, mode);
    let mut figures = Vec::new();
    let mut running = Running::default();
    let mut last_saved = first;
    let began = Instant::now();
    let seconds_before = state.seconds;

    let model = std::thread::scope(|scope| -> Result<T::Model, EngineError> {
        let mut model = model;
        let range = first * plan.accumulate..plan.steps * plan.accumulate;
        let accumulate = plan.accumulate;
        let make = move |index: u64| method.batch(index / accumulate, index % accumulate);
        let mut batches = Prefetch::new(scope, range, plan.workers as usize, 2, make);

        while state.step < plan.steps && !stop.requested() {
            let step = state.step;
            let method_error = |source| EngineError::Method { step, source };
            let last_good = || match last_saved {
                0 => "no checkpoint was saved yet".to_owned(),
                n => format!("the last good checkpoint is that of step {n}"),
            };
            let mut gradients = NamedTensors::new();
            let mut samples = Vec::new();
            for _ in 0..plan.accumulate {
                let Some(batch) = batches.next() else { break };
                let output = method.loss(&model, batch.map_err(method_error)?, step).map_err(method_error)?;
                samples.extend(output.samples);
                let loss = f64::from(output.loss.clone().into_scalar::<f32>());
                if !loss.is_finite() {
                    let what = "the loss".to_owned();
                    return Err(EngineError::NotFinite { step, what, samples, checkpoint: last_good() });
                }
                running.add("loss", loss);
                for (name, value) in output.figures {
                    running.add(name, value);
                }
                let scaled = output.loss / plan.accumulate as f64;
                let mut backward = scaled.backward();
                for (name, gradient) in gradients_of(&model, &mut backward) {
                    let sum = match gradients.remove(&name) {
                        Some(earlier) => earlier + gradient,
                        None => gradient,
                    };
                    gradients.insert(name, sum);
                }
            }
            let factor = plan.schedule.factor(step, plan.steps);
            let (trained, applied) = match optimizer.step(model, gradients, factor) {
                Ok(done) => done,
                Err(name) => {
                    let what = format!("the gradient of {name}");
                    return Err(EngineError::NotFinite { step, what, samples, checkpoint: last_good() });
                }
            };
            model = trained;
            if let Some(average) = &mut average {
                average.update(&model.valid(), step);
            }
            state.step += 1;
            state.seconds = seconds_before + began.elapsed().as_secs_f64();
            running.add("gradient_norm", applied.gradient_norm);

            let loss = running.last("loss");
            progress.set(state.step, &format!("loss {loss:.4}"));
            if state.step.is_multiple_of(plan.log_every) || state.step == plan.steps {
                let mut record = running.take();
                record.insert("lr".to_owned(), Value::from(plan.optimizer.lr * factor));
                record.insert("seconds".to_owned(), Value::from(state.seconds));
                log.write(state.step, &record)?;
            }
            let end = state.step == plan.steps;
            let validate = plan.validate_every > 0 && state.step.is_multiple_of(plan.validate_every);
            let mut best = false;
            if end || validate {
                let valid = averaged(average.as_ref(), &model);
                figures = method.validate(&valid, state.step, folder).map_err(method_error)?;
                if let Some((_, value)) = figures.first() {
                    best = state.best.is_none_or(|best| *value > best);
                    if best {
                        (state.best, state.best_step) = (Some(*value), Some(state.step));
                    }
                }
                let record: Map<String, Value> = figures
                    .iter()
                    .map(|(name, value)| (format!("validation.{name}"), Value::from(*value)))
                    .collect();
                log.write(state.step, &record)?;
                let text: Vec<String> = figures.iter().map(|(n, v)| format!("{n} {v:.4}")).collect();
                progress.line(&format!("step {}: {}", state.step, text.join("  ")));
                let records = kirie_run::log::read(folder.log_path())?;
                kirie_run::report::training_report(folder, &method.title(), &records)?;
            }
            if end || best || state.step.is_multiple_of(plan.checkpoint_every) {
                save(folder, &model, &optimizer, average.as_ref(), &state, method.metadata())?;
                last_saved = state.step;
                if best {
                    checkpoints.mark_best(state.step)?;
                }
                checkpoints.prune(plan.keep)?;
                log.sync()?;
            }
        }
        Ok(model)
    })?;
    if first >= plan.steps {
        // Nothing was left to do: the run was cut off between its last checkpoint and its end.
        let step = state.step;
        figures = method
            .validate(&averaged(average.as_ref(), &model), step, folder)
            .map_err(|source| EngineError::Method { step, source })?;
    }
    if state.step != last_saved {
        save(folder, &model, &optimizer, average.as_ref(), &state, method.metadata())?;
        checkpoints.prune(plan.keep)?;
    }
    log.sync()?;
    progress.finish();
    Ok(Outcome {
        model: averaged(average.as_ref(), &model),
        steps: state.step,
        complete: state.step >= plan.steps,
        figures,
    })
}

/// The model as it is used: averaged where there is an average, without autodiff.
fn averaged<M: Module>(average: Option<&Average>, model: &M) -> M {
    let model = model.valid();
    match average {
        Some(average) => average.apply(model),
        None => model,
    }
}

fn read_state(checkpoint: &Checkpoint) -> Result<State, EngineError> {
    serde_json::from_slice(&checkpoint.read(STATE)?)
        .map_err(|e| EngineError::Checkpoint { step: checkpoint.step, reason: format!("{STATE}: {e}") })
}

fn save<M: Module>(
    folder: &RunFolder,
    model: &M,
    optimizer: &Optimizer,
    average: Option<&Average>,
    state: &State,
    metadata: BTreeMap<String, String>,
) -> Result<(), EngineError> {
    // `valid` also brings the running statistics of batch norm up to date.
    let model = model.valid();
    let weights = state_dict_of(&model);
    let averaged = average.map(|average| state_dict_of(&average.apply(model)));
    let optimizer = optimizer.state();
    let json = serde_json::to_vec(state)
        .map_err(|e| EngineError::Checkpoint { step: state.step, reason: format!("{STATE}: {e}") })?;
    let none = BTreeMap::new();
    let tensors =
        |tensors: &[(String, HostTensor)], metadata: &BTreeMap<String, String>, file: &mut dyn Write| {
            write_safetensors_to(file, tensors, metadata, FloatFormat::F32)
        };
    let mut write_weights = |file: &mut dyn Write| tensors(&weights, &metadata, file);
    let mut write_optimizer = |file: &mut dyn Write| tensors(&optimizer, &none, file);
    let mut write_state = |file: &mut dyn Write| file.write_all(&json);
    let mut write_average =
        |file: &mut dyn Write| tensors(averaged.as_deref().unwrap_or_default(), &metadata, file);
    let mut parts = vec![
        Part { name: WEIGHTS, write: &mut write_weights },
        Part { name: OPTIMIZER, write: &mut write_optimizer },
        Part { name: STATE, write: &mut write_state },
    ];
    if average.is_some() {
        parts.push(Part { name: AVERAGE, write: &mut write_average });
    }
    folder.checkpoints().save(state.step, &mut parts)?;
    Ok(())
}

#[allow(clippy::print_stderr, reason = "a damaged checkpoint is worth a word, and there is no bar yet")]
fn warn(text: &str) {
    eprintln!("warning: {text}");
}

/// Means of figures between two log lines.
#[derive(Default)]
struct Running {
    sums: BTreeMap<&'static str, (f64, u64, f64)>,
}

impl Running {
    fn add(&mut self, name: &'static str, value: f64) {
        let entry = self.sums.entry(name).or_default();
        *entry = (entry.0 + value, entry.1 + 1, value);
    }

    fn last(&self, name: &str) -> f64 {
        self.sums.get(name).map_or(f64::NAN, |(_, _, last)| *last)
    }

    fn take(&mut self) -> Map<String, Value> {
        std::mem::take(&mut self.sums)
            .into_iter()
            .map(|(name, (sum, count, _))| (name.to_owned(), Value::from(sum / count as f64)))
            .collect()
    }
}
