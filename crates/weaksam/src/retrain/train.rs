//! Training the two-stage detector: a picture a batch.

use std::collections::BTreeMap;

use burn::tensor::Device;
use kirie_engine::random::Streams;
use kirie_engine::train::MethodError;
use kirie_engine::{Method, Outcome, Step, train};
use kirie_run::{ProgressMode, RunFolder, Stop};

use super::config::RetrainConfig;
use super::loss::{Sampled, head_loss};
use super::model::TwoStage;
use crate::WeakError;
use crate::detector::config::with_backbone;
use crate::detector::loss::number;
use crate::pictures::Pictures;
use crate::stage::{Batch, StageCache};

struct RetrainMethod<'a> {
    config: &'a RetrainConfig,
    pictures: &'a Pictures,
    streams: Streams,
    device: Device,
    cache: StageCache,
}

impl Method for RetrainMethod<'_> {
    type Model = TwoStage;
    type Batch = Batch;

    fn batch(&self, step: u64, part: u64) -> Result<Batch, MethodError> {
        let number = step * self.config.plan.accumulate + part;
        Ok(Batch::draw(self.pictures, &self.config.input, self.streams, number)?)
    }

    fn loss(&self, model: &TwoStage, batch: Batch, step: u64) -> Result<Step, MethodError> {
        let (config, device) = (self.config, self.device.clone().autodiff());
        let frozen = config.features.frozen;
        let stages = self.cache.stages(&model.features, frozen, batch.picture, &batch.view, &device);
        let map = model.features.join(stages);
        let picture = &self.pictures.all[batch.picture];
        let mut rng = self.streams.stream("sample", &[batch.number]);

        let first = model.rpn.forward(map.clone(), &config.rpn, config.features.stride);
        let [objectness, moves] = first.loss(&config.rpn, &batch.boxes, &picture.weights, &mut rng);
        let proposals = first.proposals(&config.rpn, batch.view.size);
        let sampled = Sampled::new(
            &config.sample,
            proposals,
            &batch.boxes,
            &picture.classes,
            &picture.weights,
            &mut rng,
        );
        let answers = model.second_stage(map, &sampled.boxes, config);
        let on = step as f64 >= config.drop.start * config.plan.steps as f64;
        let second = head_loss(answers, &sampled, &batch.boxes, &config.drop, on);
        let mut figures = vec![
            ("objectness", number(&objectness)),
            ("moves", number(&moves)),
            ("class", number(&second.class)),
            ("dropped_class", second.dropped[0] as f64),
            ("dropped_regress", second.dropped[1] as f64),
        ];
        let mut loss = objectness + moves + second.class;
        if let Some(regress) = second.regress {
            figures.push(("regress", number(&regress)));
            loss = loss + regress;
        }
        Ok(Step { loss, figures, samples: vec![picture.file.clone()] })
    }

    /// Nothing is held out: pseudo boxes are no measure.
    fn validate(
        &self,
        _model: &TwoStage,
        _step: u64,
        _folder: &RunFolder,
    ) -> Result<Vec<(String, f64)>, MethodError> {
        Ok(Vec::new())
    }

    fn title(&self) -> String {
        format!("Two-stage detector: {} pictures", self.pictures.all.len())
    }

    fn metadata(&self) -> BTreeMap<String, String> {
        BTreeMap::from([("classes".to_owned(), self.pictures.classes.join("\n"))])
    }
}

/// Trains `model`, which is on `device` with autodiff, or goes on with the run that `folder` holds.
///
/// # Errors
/// Settings out of range; pictures that cannot be read; a loss that is no number.
pub fn train_two_stage(
    config: &RetrainConfig,
    pictures: &Pictures,
    model: TwoStage,
    folder: &RunFolder,
    device: &Device,
    stop: &Stop,
    mode: ProgressMode,
) -> Result<Outcome<TwoStage>, WeakError> {
    config.check()?;
    let method = RetrainMethod {
        config,
        pictures,
        streams: Streams::new(config.seed),
        device: device.clone(),
        cache: StageCache::default(),
    };
    let plan = with_backbone(&config.plan, &config.features);
    Ok(train(&method, model, &plan, folder, device, stop, mode)?)
}
