//! Batch, loss and score of semantic training.

use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use burn::tensor::{Device, Tensor, TensorData};
use kirie_data::create_parent;
use kirie_data::write::write_picture;
use kirie_engine::random::Streams;
use kirie_engine::train::MethodError;
use kirie_engine::{Method, Step};
use kirie_run::RunFolder;
use kirie_sam::registry::Preprocess;

use super::About;
use crate::config::{InputConfig, LossConfig, TestConfig, TrainConfig};
use crate::data::{Inspection, Pictures};
use crate::error::SemanticError;
use crate::evaluate::{EvaluateOptions, evaluate};
use crate::loss::{class_weights, segmentation_loss};
use crate::segmenter::Segmenter;
use crate::views::{Stack, view};

/// What semantic training does that no other does.
#[derive(Debug)]
pub struct SemanticMethod<'a, S> {
    pictures: &'a Pictures,
    about: &'a About,
    input: InputConfig,
    loss: LossConfig,
    test: TestConfig,
    /// Weights of the classes in the loss.
    weights: Option<Vec<f32>>,
    /// Pictures of a batch, and batches of a step.
    batch: [u64; 2],
    preprocess: Preprocess,
    streams: Streams,
    /// Without autodiff.
    device: Device,
    timer: Mutex<Timer>,
    model: PhantomData<fn() -> S>,
}

/// Views of some pictures.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    /// What the network sees.
    pub views: Stack,
    /// The pictures' files.
    pub names: Vec<String>,
}

/// When steps began.
#[derive(Debug, Default)]
struct Timer {
    last: Option<(u64, Instant)>,
    seconds: Vec<f64>,
}

impl<'a, S: Segmenter + Clone> SemanticMethod<'a, S> {
    /// The method for a model. `device` is the one without autodiff.
    ///
    /// # Errors
    /// When model, class list and weights are of different numbers of classes.
    pub fn new<M>(
        config: &TrainConfig<M>,
        pictures: &'a Pictures,
        inspection: &Inspection,
        model: &S,
        about: &'a About,
        device: &Device,
    ) -> Result<Self, SemanticError> {
        let names = pictures.classes().names();
        if model.classes() != names.len() {
            return Err(SemanticError::Answer {
                expected: format!("{} classes: {}", names.len(), names.join(", ")),
                found: format!("{} classes", model.classes()),
            });
        }
        Ok(Self {
            pictures,
            about,
            input: config.input.clone(),
            loss: config.loss.clone(),
            test: config.test.clone(),
            weights: class_weights(&config.loss.class_weights, &names, &inspection.pixels())?,
            batch: [config.data.batch as u64, config.plan.accumulate],
            preprocess: model.preprocess(),
            streams: Streams::new(config.seed),
            device: device.clone(),
            timer: Mutex::default(),
            model: PhantomData,
        })
    }

    /// Figures on the pictures that are held out, and the worst and the best of them in the run's folder of samples; none
    /// without such pictures.
    pub(super) fn score(
        &self,
        model: &S,
        step: u64,
        folder: &RunFolder,
    ) -> Result<Vec<(String, f64)>, SemanticError> {
        if self.pictures.validation().len() == 0 {
            return Ok(Vec::new());
        }
        let options = EvaluateOptions { predictions: None, cases: 1 };
        let (pictures, classes) = (self.pictures.validation(), self.pictures.classes());
        let scored = evaluate(model, pictures, classes, &self.test, &self.device, &options, &mut |_| {})?;
        for (kind, case) in
            scored.worst.iter().map(|c| ("worst", c)).chain(scored.best.iter().map(|c| ("best", c)))
        {
            let path = folder.samples_path().join(format!("step-{step}-{kind}.jpg"));
            create_parent(&path)?;
            write_picture(&path, &case.image)?;
        }
        Ok(scored.figures())
    }

    /// Seconds of an optimiser step of this process, the median: checkpoints and first steps do not count as usual ones.
    pub(super) fn seconds_per_step(&self) -> Option<f64> {
        let mut seconds = self.timer.lock().unwrap_or_else(PoisonError::into_inner).seconds.clone();
        seconds.sort_by(f64::total_cmp);
        seconds.get(seconds.len() / 2).copied()
    }

    /// Notes that the computing of a step begins.
    fn note(&self, step: u64) {
        let mut timer = self.timer.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        match timer.last {
            // Another part of the same step.
            Some((last, _)) if last == step => return,
            Some((last, began)) if last + 1 == step => timer.seconds.push((now - began).as_secs_f64()),
            _ => {}
        }
        timer.last = Some((step, now));
    }
}

impl<S: Segmenter + Clone> Method for SemanticMethod<'_, S> {
    type Model = S;
    type Batch = Batch;

    fn batch(&self, step: u64, part: u64) -> Result<Batch, MethodError> {
        let [size, parts] = self.batch;
        let first = (step * parts + part) * size;
        let (mut views, mut names) = (Vec::new(), Vec::new());
        for n in first..first + size {
            let (set, sample) = self.pictures.nth(&self.streams, n);
            let labelled = set.read(sample)?;
            let mut rng = self.streams.stream("view", &[n]);
            views.push(view(&labelled, &self.input, &self.preprocess, &mut rng)?);
            names.push(labelled.name);
        }
        Ok(Batch { views: Stack::of(&views), names })
    }

    fn loss(&self, model: &S, batch: Batch, step: u64) -> Result<Step, MethodError> {
        self.note(step);
        let [count, height, width] = batch.views.shape;
        let pixels = TensorData::new(batch.views.pixels, [count, 3, height, width]);
        let logits = model.logits(Tensor::from_data(pixels, &self.device.clone().autodiff()));
        let weights = self.weights.as_deref();
        let loss = segmentation_loss(logits, &batch.views.labels, [height, width], &self.loss, weights)?;
        let mut figures = Vec::new();
        if loss.terms.len() > 1 {
            for (name, term) in loss.terms {
                figures.push((name, f64::from(term.into_scalar::<f32>())));
            }
        }
        Ok(Step { loss: loss.total, figures, samples: batch.names })
    }

    fn validate(&self, model: &S, step: u64, folder: &RunFolder) -> Result<Vec<(String, f64)>, MethodError> {
        // The time until the next step is none of a step's.
        self.timer.lock().unwrap_or_else(PoisonError::into_inner).last = None;
        Ok(self.score(model, step, folder)?)
    }

    fn title(&self) -> String {
        self.about.title.clone()
    }

    fn metadata(&self) -> BTreeMap<String, String> {
        self.about.metadata.clone()
    }
}
