//! Training a weak detector: a picture a batch, image-level labels and proposals, nothing else.

use std::collections::BTreeMap;

use burn::tensor::Device;
use kirie_engine::random::Streams;
use kirie_engine::train::MethodError;
use kirie_engine::{Method, Outcome, Step, train};
use kirie_run::{ProgressMode, RunFolder, Stop};

use super::config::{DetectorConfig, with_backbone};
use super::loss::detector_loss;
use super::model::WeakDetector;
use crate::WeakError;
use crate::pictures::Pictures;
use crate::stage::{Batch, StageCache};

/// What this training does that no other does.
struct WeakMethod<'a> {
    config: &'a DetectorConfig,
    pictures: &'a Pictures,
    streams: Streams,
    device: Device,
    cache: StageCache,
}

impl Method for WeakMethod<'_> {
    type Model = WeakDetector;
    type Batch = Batch;

    fn batch(&self, step: u64, part: u64) -> Result<Batch, MethodError> {
        let number = step * self.config.plan.accumulate + part;
        Ok(Batch::draw(self.pictures, &self.config.input, self.streams, number)?)
    }

    fn loss(&self, model: &WeakDetector, batch: Batch, _step: u64) -> Result<Step, MethodError> {
        let device = self.device.clone().autodiff();
        let frozen = self.config.features.frozen;
        let stages = self.cache.stages(&model.features, frozen, batch.picture, &batch.view, &device);
        let random = Some((&self.streams, batch.number));
        let answers = model.forward(stages, &batch.boxes, self.config, random);
        let picture = &self.pictures.all[batch.picture];
        let loss = detector_loss(answers, &picture.present, &batch.boxes, &self.config.weak);
        Ok(Step { loss: loss.total, figures: loss.terms, samples: vec![picture.file.clone()] })
    }

    /// Nothing is held out: image-level labels do not tell how good boxes are, and boxes are not to be looked at.
    fn validate(
        &self,
        _model: &WeakDetector,
        _step: u64,
        _folder: &RunFolder,
    ) -> Result<Vec<(String, f64)>, MethodError> {
        Ok(Vec::new())
    }

    fn title(&self) -> String {
        format!("Detector from image-level labels: {} pictures", self.pictures.all.len())
    }

    fn metadata(&self) -> BTreeMap<String, String> {
        BTreeMap::from([("classes".to_owned(), self.pictures.classes.join("\n"))])
    }
}

/// Trains `model`, which is on `device` with autodiff, or goes on with the run that `folder` holds. `pictures` have proposals
/// and image-level labels.
///
/// # Errors
/// Settings out of range; pictures that cannot be read; a loss that is no number.
pub fn train_detector(
    config: &DetectorConfig,
    pictures: &Pictures,
    model: WeakDetector,
    folder: &RunFolder,
    device: &Device,
    stop: &Stop,
    mode: ProgressMode,
) -> Result<Outcome<WeakDetector>, WeakError> {
    config.check()?;
    let method = WeakMethod {
        config,
        pictures,
        streams: Streams::new(config.seed),
        device: device.clone(),
        cache: StageCache::default(),
    };
    let plan = with_backbone(&config.plan, &config.features);
    Ok(train(&method, model, &plan, folder, device, stop, mode)?)
}
