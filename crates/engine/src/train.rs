//! The training loop.

use std::collections::BTreeMap;

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use kirie_run::{Progress, ProgressMode, RunFolder, Stop};
use serde::{Deserialize, Serialize};

use crate::EngineError;
use crate::loader::Prefetch;
use crate::optim::OptimizerConfig;
use crate::schedule::Schedule;
use crate::session::Session;

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

    /// What is done to the model after the optimiser's step, such as letting a teacher inside it follow. `step` counts from 0. What
    /// is kept in the model's tensors is part of the checkpoints.
    fn after_step(&self, model: Self::Model, _step: u64) -> Result<Self::Model, MethodError> {
        Ok(model)
    }

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
    let mut session = Session::open(method, model, plan, folder, device)?;
    let mut progress = Progress::new("step", plan.steps, session.step(), mode);
    if session.is_complete() {
        // Nothing is left to do: the run was cut off between its last checkpoint and its end.
        session.score()?;
    }
    std::thread::scope(|scope| -> Result<(), EngineError> {
        let parts = plan.accumulate;
        let range = session.step() * parts..plan.steps * parts;
        let make = move |index: u64| method.batch(index / parts, index % parts);
        let mut batches = Prefetch::new(scope, range, plan.workers as usize, 2, make);
        while !session.is_complete() && !stop.requested() {
            let loss = session.advance(&mut batches)?;
            progress.set(session.step(), &format!("loss {loss:.4}"));
            let due = |every: u64| every > 0 && session.step().is_multiple_of(every);
            let (validate, save) = (due(plan.validate_every), due(plan.checkpoint_every));
            let best =
                if validate || session.is_complete() { session.validate(&mut progress)? } else { false };
            if save || best || session.is_complete() {
                session.save()?;
            }
        }
        Ok(())
    })?;
    session.save()?;
    progress.finish();
    Ok(session.finish())
}
