//! What a run carries from step to step, and from process to process.

use std::collections::BTreeMap;
use std::io::Write;
use std::time::Instant;

use burn::module::Module;
use burn::tensor::Device;
use kirie_run::{Checkpoint, Log, Part, Progress, RunFolder};
use kirie_sam::HostTensor;
use kirie_sam::checkpoint::{FloatFormat, StateDict, load, state_dict_of, write_safetensors_to};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::EngineError;
use crate::average::Average;
use crate::named::{NamedTensors, gradients_of};
use crate::optim::Optimizer;
use crate::train::{Method, MethodError, Outcome, Plan};

const WEIGHTS: &str = "weights.safetensors";
const AVERAGE: &str = "average.safetensors";
const OPTIMIZER: &str = "optimizer.safetensors";
const STATE: &str = "state.json";

/// A run between two steps.
pub(crate) struct Session<'a, T: Method> {
    method: &'a T,
    plan: &'a Plan,
    folder: &'a RunFolder,
    model: T::Model,
    optimizer: Optimizer,
    average: Option<Average>,
    state: State,
    log: Log,
    running: Running,
    figures: Vec<(String, f64)>,
    /// Step of the last checkpoint.
    saved: u64,
    /// When this process began, and what the run had taken before.
    began: (Instant, f64),
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

impl<'a, T: Method> Session<'a, T> {
    /// Goes on from the latest intact checkpoint, or begins with `model`.
    pub(crate) fn open(
        method: &'a T,
        model: T::Model,
        plan: &'a Plan,
        folder: &'a RunFolder,
        device: &Device,
    ) -> Result<Self, EngineError> {
        let mut optimizer = plan.optimizer.init()?;
        let trained = device.clone().autodiff();
        let trained = if plan.activation_checkpointing { trained.gradient_checkpointing() } else { trained };
        let mut state = State::default();
        let mut model = model.train();
        let mut average = plan.average.map(|decay| Average::new(decay, &model.valid()));
        if let Some(checkpoint) = folder.checkpoints().latest()? {
            for (path, reason) in &checkpoint.skipped {
                warn(&format!("{} is passed over: {reason}", path.display()));
            }
            state = read_state(&checkpoint)?;
            if state.best_step == Some(state.step) {
                folder.checkpoints().mark_best(state.step)?;
            }
            let file = |name: &str| -> Result<StateDict, EngineError> {
                Ok(StateDict::open(checkpoint.file(name)?)?)
            };
            if let Some(average) = &mut average {
                average.restore(&load(model.valid(), &file(AVERAGE)?, "the run's model", device)?);
            }
            model = load(model, &file(WEIGHTS)?, "the run's model", &trained)?;
            optimizer.restore(&file(OPTIMIZER)?, device)?;
        }
        Ok(Self {
            method,
            plan,
            folder,
            model: optimizer.freeze(model),
            optimizer,
            average,
            log: Log::open(folder.log_path(), Some(state.step))?,
            running: Running::default(),
            figures: Vec::new(),
            saved: state.step,
            began: (Instant::now(), state.seconds),
            state,
        })
    }

    /// Optimiser steps done.
    pub(crate) fn step(&self) -> u64 {
        self.state.step
    }

    /// Whether the plan is fulfilled.
    pub(crate) fn is_complete(&self) -> bool {
        self.state.step >= self.plan.steps
    }

    /// One optimiser step; gives the loss.
    pub(crate) fn advance(
        &mut self,
        batches: &mut impl Iterator<Item = Result<T::Batch, MethodError>>,
    ) -> Result<f64, EngineError> {
        let (step, plan) = (self.state.step, self.plan);
        let mut gradients = NamedTensors::new();
        let mut samples = Vec::new();
        for batch in batches.take(plan.accumulate as usize) {
            let failed = |source| EngineError::Method { step, source };
            let output = self.method.loss(&self.model, batch.map_err(failed)?, step).map_err(failed)?;
            samples.extend(output.samples);
            let loss = f64::from(output.loss.clone().into_scalar::<f32>());
            if !loss.is_finite() {
                return Err(self.not_finite("the loss".to_owned(), samples));
            }
            self.running.add("loss", loss);
            for (name, value) in output.figures {
                self.running.add(name, value);
            }
            let mut backward = (output.loss / plan.accumulate as f64).backward();
            for (name, gradient) in gradients_of(&self.model, &mut backward) {
                let sum = match gradients.remove(&name) {
                    Some(earlier) => earlier + gradient,
                    None => gradient,
                };
                gradients.insert(name, sum);
            }
        }
        let factor = plan.schedule.factor(step, plan.steps);
        match self.optimizer.step(self.model.clone(), gradients, factor) {
            Ok((model, applied)) => {
                self.model = self
                    .method
                    .after_step(model, step)
                    .map_err(|source| EngineError::Method { step, source })?;
                self.running.add("gradient_norm", applied.gradient_norm);
            }
            Err(name) => return Err(self.not_finite(format!("the gradient of {name}"), samples)),
        }
        if let Some(average) = &mut self.average {
            average.update(&self.model.valid(), step);
        }
        self.state.step += 1;
        self.state.seconds = self.began.1 + self.began.0.elapsed().as_secs_f64();

        let loss = self.running.last("loss");
        if self.state.step.is_multiple_of(plan.log_every) || self.is_complete() {
            let mut record = self.running.take();
            record.insert("lr".to_owned(), Value::from(plan.optimizer.lr * factor));
            record.insert("seconds".to_owned(), Value::from(self.state.seconds));
            self.log.write(self.state.step, &record)?;
        }
        Ok(loss)
    }

    fn not_finite(&self, what: String, samples: Vec<String>) -> EngineError {
        let checkpoint = match self.saved {
            0 => "no checkpoint was saved yet".to_owned(),
            n => format!("the last good checkpoint is that of step {n}"),
        };
        EngineError::NotFinite { step: self.state.step, what, samples, checkpoint }
    }

    /// Scores the model, without a word in the log.
    pub(crate) fn score(&mut self) -> Result<(), EngineError> {
        let step = self.state.step;
        let figures = self.method.validate(&self.used(), step, self.folder);
        self.figures = figures.map_err(|source| EngineError::Method { step, source })?;
        Ok(())
    }

    /// Scores the model and rewrites the report; says whether it is the best so far.
    pub(crate) fn validate(&mut self, progress: &mut Progress) -> Result<bool, EngineError> {
        self.score()?;
        let step = self.state.step;
        let value = self.figures.first().map(|(_, value)| *value);
        let best = value.filter(|value| self.state.best.is_none_or(|best| *value > best));
        if best.is_some() {
            (self.state.best, self.state.best_step) = (best, Some(step));
        }
        let named = |(name, value): &(String, f64)| (format!("validation.{name}"), Value::from(*value));
        let record: Map<String, Value> = self.figures.iter().map(named).collect();
        self.log.write(step, &record)?;
        let text: Vec<String> =
            self.figures.iter().map(|(name, value)| format!("{name} {value:.4}")).collect();
        progress.line(&format!("step {step}: {}", text.join("  ")));
        let records = kirie_run::log::read(self.folder.log_path())?;
        kirie_run::report::training_report(self.folder, &self.method.title(), &records)?;
        Ok(best.is_some())
    }

    /// The model as it is used: averaged where there is an average, without autodiff. Taking it also brings the running
    /// statistics of batch norm up to date.
    fn used(&self) -> T::Model {
        let model = self.model.valid();
        match &self.average {
            Some(average) => average.apply(model),
            None => model,
        }
    }

    /// Saves a checkpoint, unless this step's is saved already.
    pub(crate) fn save(&mut self) -> Result<(), EngineError> {
        self.log.sync()?;
        if self.state.step == self.saved {
            return Ok(());
        }
        let weights = state_dict_of(&self.model.valid());
        let average = self.average.is_some().then(|| state_dict_of(&self.used()));
        let optimizer = self.optimizer.state();
        let json = serde_json::to_vec(&self.state).map_err(|e| EngineError::Checkpoint {
            step: self.state.step,
            reason: format!("{STATE}: {e}"),
        })?;
        let metadata = self.method.metadata();
        let write = |tensors: &[(String, HostTensor)], file: &mut dyn Write| {
            write_safetensors_to(file, tensors, &metadata, FloatFormat::F32)
        };
        let mut write_weights = |file: &mut dyn Write| write(&weights, file);
        let mut write_optimizer =
            |file: &mut dyn Write| write_safetensors_to(file, &optimizer, &BTreeMap::new(), FloatFormat::F32);
        let mut write_state = |file: &mut dyn Write| file.write_all(&json);
        let mut write_average = |file: &mut dyn Write| write(average.as_deref().unwrap_or_default(), file);
        let mut parts = vec![
            Part { name: WEIGHTS, write: &mut write_weights },
            Part { name: OPTIMIZER, write: &mut write_optimizer },
            Part { name: STATE, write: &mut write_state },
        ];
        if average.is_some() {
            parts.push(Part { name: AVERAGE, write: &mut write_average });
        }
        let checkpoints = self.folder.checkpoints();
        checkpoints.save(self.state.step, &mut parts)?;
        self.saved = self.state.step;
        if self.state.best_step == Some(self.state.step) {
            checkpoints.mark_best(self.state.step)?;
        }
        checkpoints.prune(self.plan.keep)?;
        Ok(())
    }

    /// The end of the run.
    pub(crate) fn finish(self) -> Outcome<T::Model> {
        Outcome {
            model: self.used(),
            steps: self.state.step,
            complete: self.is_complete(),
            figures: self.figures,
        }
    }
}

fn read_state(checkpoint: &Checkpoint) -> Result<State, EngineError> {
    serde_json::from_slice(&checkpoint.read(STATE)?)
        .map_err(|e| EngineError::Checkpoint { step: checkpoint.step, reason: format!("{STATE}: {e}") })
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
