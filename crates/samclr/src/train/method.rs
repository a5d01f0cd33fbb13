//! Batch, loss and score of contrastive training.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use burn::module::Module;
use burn::tensor::{Device, Tensor, TensorData};
use kirie_engine::average::follow;
use kirie_engine::random::Streams;
use kirie_engine::train::MethodError;
use kirie_engine::{Method, Step};
use kirie_run::RunFolder;

use super::probe::Probe;
use crate::config::{Dino, MethodConfig, Moco, MomentumNorm, Simclr, TrainConfig};
use crate::data::Pictures;
use crate::error::ContrastiveError;
use crate::health::health;
use crate::loss::{dino, info_nce, normalised, nt_xent};
use crate::model::{Branch, Contrastive, Head, constant};
use crate::regions::Table;
use crate::views::{Kind, Stack, sample, stacks};

/// What contrastive training does that no other does.
#[derive(Debug)]
pub struct ContrastiveMethod<'a> {
    config: &'a TrainConfig,
    pictures: &'a Pictures,
    table: &'a Table,
    kinds: Vec<Kind>,
    probe: Probe,
    /// Without autodiff.
    device: Device,
    /// What a step's batches leave for [`Method::after_step`]: MoCo's keys, DINO's teacher outputs; without autodiff.
    left: Mutex<Vec<Tensor<2>>>,
}

/// Views of some samples.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    /// Views by their size.
    pub stacks: Vec<Stack>,
    /// The pictures' files.
    pub names: Vec<String>,
}

impl Batch {
    /// The batch of a number, counted from a run's first. `kinds` are those of the configuration's views.
    ///
    /// # Errors
    /// Pictures that cannot be read.
    pub fn new(
        config: &TrainConfig,
        pictures: &Pictures,
        table: &Table,
        kinds: &[Kind],
        number: u64,
    ) -> Result<Self, ContrastiveError> {
        let streams = Streams::new(config.seed);
        let (mut samples, mut names) = (Vec::new(), Vec::new());
        for (epoch, n) in pictures.batch(&streams, number, config.data.batch) {
            let image = pictures.decoded(n)?;
            let regions = table.regions.get(n).map_or(&[][..], Vec::as_slice);
            let place = [epoch, pictures.number(n) as u64];
            samples.push(sample(&image, regions, &config.regions, kinds, &streams, &place)?);
            names.push(pictures.picture(n).name());
        }
        Ok(Self { stacks: stacks(&samples), names })
    }
}

impl<'a> ContrastiveMethod<'a> {
    /// The method for pictures and their regions. `device` is the one without autodiff.
    ///
    /// # Errors
    /// A set smaller than a batch, and labelled pictures that cannot be used.
    pub fn new(
        config: &'a TrainConfig,
        pictures: &'a Pictures,
        table: &'a Table,
        device: &Device,
    ) -> Result<Self, ContrastiveError> {
        super::enough(pictures, config.data.batch)?;
        Ok(Self {
            config,
            pictures,
            table,
            kinds: config.views.kinds(),
            probe: Probe::open(config, pictures)?,
            device: device.clone(),
            left: Mutex::default(),
        })
    }

    /// Figures of the features, which need no training; the first is what decides.
    ///
    /// # Errors
    /// Features that are no numbers.
    pub fn score(&self, model: &Contrastive) -> Result<Vec<(String, f64)>, ContrastiveError> {
        self.probe.score(model.kept(), &self.device)
    }

    fn pixels(&self, stack: Stack, samples: usize) -> Tensor<4> {
        pixels(stack, samples, &self.device)
    }

    fn simclr(&self, simclr: &Simclr, model: &Contrastive, batch: Batch) -> Outcome {
        let samples = batch.names.len();
        let views: usize = batch.stacks.iter().map(|stack| stack.views).sum();
        let projected: Vec<Tensor<2>> = batch
            .stacks
            .into_iter()
            .map(|stack| model.online.forward(self.pixels(stack, samples)).1)
            .collect();
        let all = Tensor::cat(projected, 0);
        let seen = [0, samples].map(|from| all.clone().narrow(0, from, samples));
        Outcome { loss: nt_xent(all, views, simclr.temperature, simclr.against), seen, left: None }
    }

    fn moco(&self, moco: &Moco, model: &Contrastive, batch: Batch) -> Result<Outcome, ContrastiveError> {
        let samples = batch.names.len();
        let (Some(momentum), Some(queue)) = (&model.momentum, &model.queue) else {
            return Err(incomplete("a key encoder and a queue"));
        };
        let queue = queue.val().detach();
        let views = self.both(batch, samples)?;
        let pair = |q: usize| {
            let query = normalised(model.online.forward(views[q].clone()).1);
            let key = normalised(forward_apart(momentum, views[1 - q].clone(), moco.norm));
            let loss = info_nce(query.clone(), key.clone(), queue.clone(), moco.temperature);
            (loss, query, key)
        };
        let (mut loss, query, key) = pair(0);
        let mut keys = key.clone().inner();
        if moco.symmetric {
            let (other, _, more) = pair(1);
            loss = (loss + other) / 2.0;
            keys = Tensor::cat(vec![keys, more.inner()], 0);
        }
        Ok(Outcome { loss, seen: [query, key], left: Some(keys) })
    }

    /// The two large views, view by view.
    fn both(&self, batch: Batch, samples: usize) -> Result<[Tensor<4>; 2], ContrastiveError> {
        let first = batch.stacks.into_iter().next().filter(|stack| stack.views == 2);
        let stack = first.ok_or_else(|| incomplete("two large views of a sample"))?;
        let pixels = self.pixels(stack, samples);
        Ok([0, samples].map(|from| pixels.clone().narrow(0, from, samples)))
    }

    fn dino(
        &self,
        dino_: &Dino,
        model: &Contrastive,
        batch: Batch,
        step: u64,
    ) -> Result<Outcome, ContrastiveError> {
        let samples = batch.names.len();
        let (Some(momentum), Some(centre)) = (&model.momentum, &model.centre) else {
            return Err(incomplete("a teacher and a centre"));
        };
        let frozen = step < dino_.freeze_prototypes;
        let student = |x: Tensor<4>| {
            let features = model.online.encoder.forward(x);
            match &model.online.head {
                Head::Dino(head) => head.forward(features, frozen),
                other => other.forward(features),
            }
        };
        let mut taught = None;
        let mut learnt = Vec::new();
        for (n, stack) in batch.stacks.into_iter().enumerate() {
            let pixels = self.pixels(stack, samples);
            if n == 0 {
                taught = Some(forward_apart(momentum, pixels.clone().narrow(0, 0, 2 * samples), dino_.norm));
            }
            learnt.push(student(pixels));
        }
        let teacher = taught.ok_or_else(|| incomplete("views"))?;
        let all = Tensor::cat(learnt, 0);
        let seen = [0, samples].map(|from| all.clone().narrow(0, from, samples));
        let temperatures = [dino_.student_temperature, teacher_temperature(dino_, step)];
        let loss = dino(all, teacher.clone(), centre.val().detach(), samples, temperatures);
        Ok(Outcome { loss, seen, left: Some(teacher.inner()) })
    }

    fn take_left(&self) -> Vec<Tensor<2>> {
        std::mem::take(&mut *self.left.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A stack of views, `[views * samples, 3, size, size]`, with autodiff. `device` is the one without.
pub(super) fn pixels(stack: Stack, samples: usize, device: &Device) -> Tensor<4> {
    let side = stack.size as usize;
    let data = TensorData::new(stack.pixels, [stack.views * samples, 3, side, side]);
    Tensor::from_data(data, &device.clone().autodiff())
}

/// What a batch gives.
struct Outcome {
    loss: Tensor<1>,
    /// What the loss compares, of the first two views.
    seen: [Tensor<2>; 2],
    /// For [`Method::after_step`].
    left: Option<Tensor<2>>,
}

fn incomplete(what: &str) -> ContrastiveError {
    ContrastiveError::setting("the model", "another method's", format!("one with {what}"))
}

/// Projections by a branch that gets no gradient; on the autodiff device, detached.
fn forward_apart(branch: &Branch, x: Tensor<4>, norm: MomentumNorm) -> Tensor<2> {
    match norm {
        MomentumNorm::Batch => branch.forward(x).1.detach(),
        MomentumNorm::Running => Tensor::from_inner(branch.valid().forward(x.inner()).1),
    }
}

/// From the first to the second in a straight line.
pub(super) fn teacher_temperature(config: &Dino, step: u64) -> f64 {
    let [from, to] = config.teacher_temperature;
    if step >= config.teacher_warmup {
        return to;
    }
    from + (to - from) * step as f64 / config.teacher_warmup as f64
}

/// How much of DINO's teacher stays: a half cosine from the configured share to 1 at the end.
pub(super) fn teacher_momentum(config: &Dino, step: u64, steps: u64) -> f64 {
    let done = step as f64 / steps.max(1) as f64;
    1.0 + 0.5 * (config.momentum - 1.0) * (1.0 + (std::f64::consts::PI * done).cos())
}

fn host(x: &Tensor<2>) -> Vec<f32> {
    x.clone().inner().into_data().iter::<f32>().collect()
}

impl Method for ContrastiveMethod<'_> {
    type Model = Contrastive;
    type Batch = Batch;

    fn batch(&self, step: u64, part: u64) -> Result<Batch, MethodError> {
        let number = step * self.config.plan.accumulate + part;
        Ok(Batch::new(self.config, self.pictures, self.table, &self.kinds, number)?)
    }

    fn loss(&self, model: &Contrastive, batch: Batch, step: u64) -> Result<Step, MethodError> {
        let samples = batch.names.clone();
        let outcome = match &self.config.method {
            MethodConfig::Simclr(simclr) => self.simclr(simclr, model, batch),
            MethodConfig::Moco(moco) => self.moco(moco, model, batch)?,
            MethodConfig::Dino(dino) => self.dino(dino, model, batch, step)?,
        };
        if let Some(left) = outcome.left {
            self.left.lock().unwrap_or_else(PoisonError::into_inner).push(left);
        }
        let width = outcome.seen[0].dims()[1];
        let found = health(&host(&outcome.seen[0]), &host(&outcome.seen[1]), width);
        let figures = vec![
            ("health.spread", found.spread),
            ("health.top1", found.top1),
            ("space.alignment", found.alignment),
            ("space.uniformity", found.uniformity),
        ];
        Ok(Step { loss: outcome.loss, figures, samples })
    }

    fn after_step(&self, mut model: Contrastive, step: u64) -> Result<Contrastive, MethodError> {
        let left = self.take_left();
        let momentum = match &self.config.method {
            MethodConfig::Simclr(_) => return Ok(model),
            MethodConfig::Moco(moco) => {
                if let Some(queue) = model.queue.take() {
                    model.queue = Some(enqueue(queue.val().inner(), &left, step));
                }
                moco.momentum
            }
            MethodConfig::Dino(dino) => {
                if let Some(centre) = model.centre.take() {
                    let outputs = Tensor::cat(left, 0);
                    let kept = centre.val().inner() * dino.centre_momentum;
                    let new = kept + outputs.mean_dim(0) * (1.0 - dino.centre_momentum);
                    model.centre = Some(constant(Tensor::from_inner(new)));
                }
                teacher_momentum(dino, step, self.config.plan.steps)
            }
        };
        let leader = model.online.valid();
        model.momentum = model.momentum.map(|branch| follow(branch, &leader, momentum));
        Ok(model)
    }

    fn validate(
        &self,
        model: &Contrastive,
        _: u64,
        _: &RunFolder,
    ) -> Result<Vec<(String, f64)>, MethodError> {
        Ok(self.score(model)?)
    }

    fn title(&self) -> String {
        let from = super::source_name(&self.config.regions.source);
        format!("{}, views from {from}", self.config.method.name())
    }

    fn metadata(&self) -> BTreeMap<String, String> {
        BTreeMap::from([("method".to_owned(), self.config.method.name().to_owned())])
    }
}

/// The queue with a step's keys in the place of its oldest. Where that is follows from the step: every step brings as many.
pub(super) fn enqueue(mut queue: Tensor<2>, keys: &[Tensor<2>], step: u64) -> burn::module::Param<Tensor<2>> {
    let [length, width] = queue.dims();
    let parts = keys.len() as u64;
    for (part, keys) in keys.iter().enumerate() {
        let count = keys.dims()[0];
        let at = ((step * parts + part as u64) * count as u64 % length as u64) as usize;
        queue = queue.slice_assign([at..at + count, 0..width], keys.clone());
    }
    constant(Tensor::from_inner(queue))
}
