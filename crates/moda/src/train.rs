//! One domain's training: the batch, the loss, and what holds on to earlier domains. The loop is `kirie_engine`'s.

use std::collections::BTreeMap;
use std::sync::Arc;

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::activation::sigmoid;
use burn::tensor::{Device, Tensor, TensorData};
use kirie_engine::named::{NamedTensors, gradients_of, tensors_of};
use kirie_engine::random::Streams;
use kirie_engine::train::MethodError;
use kirie_engine::{Method, Step};
use kirie_run::RunFolder;
use kirie_sam::checkpoint::{KeyPath, StateDict};
use kirie_sam::{DecodeMode, HostTensor};
use rand::{Rng, RngExt};
use serde::{Deserialize, Serialize};

use crate::adapter::{Adapter, Asked, decode};
use crate::error::ContinualError;
use crate::items::{Item, Items, features};
use crate::loss::{Targets, low_res_iou, mask_loss};
use crate::prompts::Pick;
use crate::strategy::Settings;
use crate::views::{PromptKind, PromptValues, Target, ask};

/// Masks asked for by one box or one point set are single.
const SINGLE: DecodeMode = DecodeMode { multimask: false, hq_only: false };

/// `[train]` of a configuration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LessonConfig {
    /// Pictures in a batch.
    pub batch: usize,
    /// Kinds of prompts, drawn for each batch with the same chance.
    pub prompts: Vec<PromptKind>,
    /// Weight of the squared error of the predicted IoU, where the decoder is copied.
    pub iou_weight: f64,
}

impl Default for LessonConfig {
    fn default() -> Self {
        let prompts = vec![PromptKind::Box, PromptKind::Points, PromptKind::NoisyMask];
        Self { batch: 8, prompts, iou_weight: 1.0 }
    }
}

impl LessonConfig {
    /// Checks the numbers.
    pub fn check(&self) -> Result<(), ContinualError> {
        if self.batch == 0 {
            return Err(ContinualError::setting("train.batch", 0, "1 or more"));
        }
        if self.prompts.is_empty() {
            return Err(ContinualError::setting("train.prompts", "none", "one or more kinds"));
        }
        if !(self.iou_weight.is_finite() && self.iou_weight >= 0.0) {
            return Err(ContinualError::setting("train.iou_weight", self.iou_weight, "0 or more"));
        }
        Ok(())
    }
}

/// A picture of an earlier domain that is kept.
#[derive(Clone, Debug, PartialEq)]
pub struct Stored {
    /// Its domain.
    pub domain: usize,
    /// Its place among the domain's pictures.
    pub picture: usize,
    /// DER: the logits that were answered to its box when its domain was learned, `side * side`.
    pub logits: Vec<f32>,
}

/// What holds on to earlier domains.
#[derive(Clone, Debug)]
pub enum Hold {
    /// Nothing.
    Nothing,
    /// EWC.
    Ewc(Ewc),
    /// LwF: the state when the domain began, without autodiff.
    Lwf(Box<Adapter>),
    /// ER: stored pictures beside the new ones.
    Replay(Vec<Stored>),
    /// DER; with labels, DER++.
    Dark {
        /// Stored pictures with their logits.
        stored: Vec<Stored>,
        /// Whether their masks count too.
        labels: bool,
    },
}

/// Trains an adapter on a domain, or several.
#[derive(Debug)]
pub struct DomainMethod<'a> {
    /// Pictures as the base sees them.
    pub items: &'a Items<'a>,
    /// Domain and picture of everything to learn from.
    pub sources: Vec<(usize, usize)>,
    /// Pictures held out, for the log.
    pub held_out: Vec<(usize, usize)>,
    /// What holds on to earlier domains.
    pub hold: Hold,
    /// How far the stream is.
    pub pick: Pick,
    /// Batch and prompts.
    pub lesson: LessonConfig,
    /// Constants of the strategies.
    pub settings: Settings,
    /// Weight of the pull of prompt pools.
    pub pull: f64,
    /// The run's streams.
    pub streams: Streams,
    /// Heading of the log.
    pub title: String,
}

/// A batch.
#[derive(Debug)]
pub struct Batch {
    items: Vec<Arc<Item>>,
    prompts: PromptValues,
    /// DER: stored pictures and their logits.
    stored: Vec<Arc<Item>>,
    logits: Vec<f32>,
}

impl DomainMethod<'_> {
    fn side(&self) -> usize {
        self.items.maker().base.mask_side()
    }

    fn draw(&self, place: &[u64], kinds: &[PromptKind], count: usize) -> Result<Batch, ContinualError> {
        let mut rng = self.streams.stream("lesson", place);
        let views = self.items.maker().augment.views;
        let mut items = Vec::with_capacity(count);
        for slot in 0..count as u64 {
            // Each picture once in an epoch, in an order drawn anew.
            let n = place[1] * count as u64 + slot;
            let length = self.sources.len() as u64;
            let order = self.streams.order((place[0] << 32) | (n / length), self.sources.len());
            let (domain, picture) = self.sources[order[(n % length) as usize]];
            items.push(self.items.get(domain, picture, rng.random_range(0..views))?);
        }
        let mut batch =
            Batch { items, prompts: PromptValues::default(), stored: Vec::new(), logits: Vec::new() };
        match &self.hold {
            Hold::Replay(stored) if !stored.is_empty() => {
                for _ in 0..self.settings.replay {
                    let Stored { domain, picture, .. } = &stored[rng.random_range(0..stored.len())];
                    batch.items.push(self.items.get(*domain, *picture, rng.random_range(0..views))?);
                }
            }
            Hold::Dark { stored, .. } if !stored.is_empty() => {
                for _ in 0..self.settings.replay {
                    let Stored { domain, picture, logits } = &stored[rng.random_range(0..stored.len())];
                    batch.stored.push(self.items.get(*domain, *picture, 0)?);
                    batch.logits.extend(logits);
                }
            }
            _ => {}
        }
        let kind = kinds[rng.random_range(0..kinds.len())];
        batch.prompts = self.ask(kind, &batch.items, &mut rng);
        Ok(batch)
    }

    fn ask(&self, kind: PromptKind, items: &[Arc<Item>], rng: &mut impl Rng) -> PromptValues {
        let targets: Vec<&Target> = items.iter().map(|item| &item.target).collect();
        ask(kind, &targets, self.side(), rng)
    }

    /// Logits `[batch, places]`, predicted IoU `[batch, 1]` and the pull.
    fn answer(
        &self,
        adapter: &Adapter,
        items: &[Arc<Item>],
        prompts: &PromptValues,
        device: &Device,
        pick: Pick,
    ) -> (Tensor<2>, Tensor<2>, Option<Tensor<1>>) {
        let items: Vec<&Item> = items.iter().map(Arc::as_ref).collect();
        let base = self.items.maker().base;
        let features = features(&items, base, adapter.encoder.as_ref(), device);
        let asked = asked(prompts, self.side(), device);
        let sam = base.sam(device.is_autodiff());
        let (output, pull) = decode(sam, Some(adapter), &features, &asked, SINGLE, pick);
        let [batch, masks, height, width] = output.masks.dims();
        (output.masks.reshape([batch, masks * height * width]), output.iou, pull)
    }

    /// The loss on the new pictures (and replayed ones) alone, with their mean IoU.
    fn own_loss(&self, adapter: &Adapter, batch: &Batch) -> (Tensor<1>, Tensor<2>, f64) {
        let device = self.items.maker().base.device().clone().autodiff();
        let targets = targets(&batch.items, &device);
        let (logits, iou, pull) = self.answer(adapter, &batch.items, &batch.prompts, &device, self.pick);
        let mut loss = mask_loss(logits.clone(), &targets);
        let measured = low_res_iou(logits.clone().detach(), &targets);
        let mean = f64::from(measured.clone().inner().mean().into_scalar::<f32>());
        if adapter.mask_decoder.is_some() && self.lesson.iou_weight > 0.0 {
            loss = loss + (iou - measured).square().mean() * self.lesson.iou_weight;
        }
        if let Some(pull) = pull {
            loss = loss - pull * self.pull;
        }
        (loss, logits, mean)
    }

    /// Logits that an adapter answers to the boxes of pictures, for DER's memory.
    pub fn dark_logits(
        &self,
        adapter: &Adapter,
        pictures: &[(usize, usize)],
    ) -> Result<Vec<Stored>, ContinualError> {
        let plain = adapter.valid();
        let device = self.items.maker().base.device().clone();
        let learned = Pick { training: false, ..self.pick };
        pictures
            .iter()
            .map(|&(domain, picture)| {
                let items = [self.items.get(domain, picture, 0)?];
                let boxes = self.ask(PromptKind::Box, &items, &mut self.streams.stream("box", &[]));
                let (logits, ..) = self.answer(&plain, &items, &boxes, &device, learned);
                Ok(Stored { domain, picture, logits: logits.into_data().iter::<f32>().collect() })
            })
            .collect()
    }

    /// The mean square gradient of the loss, by parameter: the diagonal of the empirical Fisher information.
    pub fn fisher(&self, adapter: &Adapter) -> Result<NamedTensors, ContinualError> {
        let adapter = adapter.clone().train();
        let batch = self.settings.ewc_batch;
        let samples = self.settings.ewc_samples.min(self.sources.len().div_ceil(batch)).max(1);
        let mut sum = NamedTensors::new();
        for n in 0..samples as u64 {
            let drawn = self.draw(&[u64::MAX, n, 0], &self.lesson.prompts, batch)?;
            let mut gradients = self.own_loss(&adapter, &drawn).0.backward();
            for (name, gradient) in gradients_of(&adapter, &mut gradients) {
                let square = gradient.square() / samples as f64;
                let total = match sum.remove(&name) {
                    Some(earlier) => earlier + square,
                    None => square,
                };
                sum.insert(name, total);
            }
        }
        Ok(sum)
    }

    /// Mean IoU at low resolution of boxes on pictures held out.
    fn held_out_iou(&self, adapter: &Adapter) -> Result<Option<f64>, ContinualError> {
        let device = self.items.maker().base.device().clone();
        let learned = Pick { training: false, ..self.pick };
        let mut sum = 0.0;
        for &(domain, picture) in &self.held_out {
            let items = [self.items.get(domain, picture, 0)?];
            let boxes = self.ask(PromptKind::Box, &items, &mut self.streams.stream("box", &[]));
            let (logits, ..) = self.answer(adapter, &items, &boxes, &device, learned);
            sum += f64::from(low_res_iou(logits, &targets(&items, &device)).into_scalar::<f32>());
        }
        Ok((!self.held_out.is_empty()).then(|| sum / self.held_out.len() as f64))
    }
}

/// Prompts as tensors.
pub(crate) fn asked(prompts: &PromptValues, side: usize, device: &Device) -> Asked {
    let masks = prompts.masks.as_ref().map(|masks| {
        let shape = [masks.len() / (side * side), 1, side, side];
        Tensor::from_data(TensorData::new(masks.clone(), shape), device)
    });
    Asked { sparse: prompts.sparse.clone(), masks }
}

fn targets(items: &[Arc<Item>], device: &Device) -> Targets {
    let covers: Vec<&[f32]> = items.iter().map(|item| item.target.cover.as_slice()).collect();
    Targets::new(&covers, device)
}

impl Method for DomainMethod<'_> {
    type Model = Adapter;
    type Batch = Batch;

    fn batch(&self, step: u64, part: u64) -> Result<Batch, MethodError> {
        let place = [self.pick.seen as u64, step, part];
        Ok(self.draw(&place, &self.lesson.prompts, self.lesson.batch)?)
    }

    fn loss(&self, adapter: &Adapter, batch: Batch, _step: u64) -> Result<Step, MethodError> {
        let base = self.items.maker().base;
        let device = base.device().clone().autodiff();
        let (mut loss, logits, iou) = self.own_loss(adapter, &batch);
        let mut figures = vec![("iou", iou)];
        let mut add = |loss: &mut Tensor<1>, name: &'static str, term: Tensor<1>| {
            figures.push((name, f64::from(term.clone().into_scalar::<f32>())));
            *loss = loss.clone() + term;
        };
        match &self.hold {
            Hold::Ewc(ewc) => {
                if let Some(penalty) = ewc.penalty(adapter) {
                    add(&mut loss, "penalty", penalty * self.settings.ewc_lambda);
                }
            }
            Hold::Lwf(teacher) => {
                let learned = Pick { training: false, ..self.pick };
                let (old, ..) = self.answer(teacher, &batch.items, &batch.prompts, base.device(), learned);
                let mut soft = targets(&batch.items, &device);
                soft.cover = Tensor::from_inner(sigmoid(old));
                add(&mut loss, "distillation", mask_loss(logits, &soft) * self.settings.lwf_weight);
            }
            Hold::Dark { labels, .. } if !batch.stored.is_empty() => {
                let mut rng = self.streams.stream("box", &[]);
                let boxes = self.ask(PromptKind::Box, &batch.stored, &mut rng);
                let (logits, ..) = self.answer(adapter, &batch.stored, &boxes, &device, self.pick);
                let shape = logits.dims();
                let stored = Tensor::<2>::from_data(TensorData::new(batch.logits.clone(), shape), &device);
                let targets = targets(&batch.stored, &device);
                // What lies beyond the picture was never asked for.
                let difference = (logits.clone() - stored) * targets.counts.clone();
                add(&mut loss, "dark", difference.square().mean() * self.settings.der_alpha);
                if *labels {
                    add(&mut loss, "replay", mask_loss(logits, &targets) * self.settings.der_beta);
                }
            }
            Hold::Nothing | Hold::Replay(_) | Hold::Dark { .. } => {}
        }
        let samples = batch.items.iter().map(|item| item.name.clone()).collect();
        Ok(Step { loss, figures, samples })
    }

    fn validate(&self, adapter: &Adapter, _: u64, _: &RunFolder) -> Result<Vec<(String, f64)>, MethodError> {
        Ok(self.held_out_iou(adapter)?.map(|iou| ("iou.box".to_owned(), iou)).into_iter().collect())
    }

    fn title(&self) -> String {
        self.title.clone()
    }

    fn metadata(&self) -> BTreeMap<String, String> {
        BTreeMap::from([("base".to_owned(), self.items.maker().base.name().to_owned())])
    }
}

/// What EWC remembers of earlier domains.
#[derive(Clone, Debug, Default)]
pub struct Ewc {
    /// How much each parameter matters.
    pub fisher: NamedTensors,
    /// What it was.
    pub anchor: NamedTensors,
}

impl Ewc {
    /// The memory after a domain, whose information is `fisher` and whose state is `adapter`.
    pub fn after(earlier: Option<&Self>, fisher: NamedTensors, adapter: &Adapter, decay: f64) -> Self {
        let merged = fisher.into_iter().map(|(name, new)| {
            let old = earlier.and_then(|earlier| earlier.fisher.get(&name)).cloned();
            let sum = match old {
                Some(old) => old * decay + new,
                None => new,
            };
            (name, sum)
        });
        Self { fisher: merged.collect(), anchor: tensors_of(adapter) }
    }

    /// `sum_k F_k (theta_k - theta*_k)^2`, `[1]`; `None` where nothing is remembered.
    fn penalty(&self, adapter: &Adapter) -> Option<Tensor<1>> {
        struct Walker<'a> {
            path: KeyPath,
            ewc: &'a Ewc,
            sum: Option<Tensor<1>>,
        }
        impl ModuleVisitor for Walker<'_> {
            fn enter_module(&mut self, name: &str, container_type: &str) {
                self.path.enter(name, container_type);
            }
            fn exit_module(&mut self, _name: &str, container_type: &str) {
                self.path.exit(container_type);
            }
            fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
                let key = self.path.key();
                let (Some(fisher), Some(anchor)) = (self.ewc.fisher.get(&key), self.ewc.anchor.get(&key))
                else {
                    return;
                };
                let value = param.val();
                let length = value.dims().iter().product::<usize>();
                let moved = value.reshape([length]) - Tensor::from_inner(anchor.clone());
                let term = (moved.square() * Tensor::from_inner(fisher.clone())).sum();
                self.sum = Some(match self.sum.take() {
                    Some(sum) => sum + term,
                    None => term,
                });
            }
        }
        let mut walker = Walker { path: KeyPath::default(), ewc: self, sum: None };
        adapter.visit(&mut walker);
        walker.sum
    }

    /// As tensors of a file: `fisher.NAME`, `anchor.NAME`.
    pub fn to_tensors(&self) -> Result<Vec<(String, HostTensor)>, ContinualError> {
        let named = |prefix: &str,
                     tensors: &NamedTensors|
         -> Result<Vec<(String, HostTensor)>, ContinualError> {
            let each = tensors.iter();
            each.map(|(name, t)| Ok((format!("{prefix}{name}"), HostTensor::from_burn(t.clone())?))).collect()
        };
        let mut all = named("anchor.", &self.anchor)?;
        all.extend(named("fisher.", &self.fisher)?);
        Ok(all)
    }

    /// From such a file.
    pub fn from_file(file: &StateDict, device: &Device) -> Result<Self, ContinualError> {
        let mut ewc = Self::default();
        for key in file.keys().map(str::to_owned).collect::<Vec<_>>() {
            let tensor = || -> Result<Tensor<1>, ContinualError> { Ok(file.read(&key)?.to_burn(device)) };
            if let Some(name) = key.strip_prefix("fisher.") {
                ewc.fisher.insert(name.to_owned(), tensor()?);
            } else if let Some(name) = key.strip_prefix("anchor.") {
                ewc.anchor.insert(name.to_owned(), tensor()?);
            }
        }
        Ok(ewc)
    }
}
