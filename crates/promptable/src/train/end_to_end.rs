//! Stage 2: prompts in, masks out.

use std::collections::BTreeMap;

use burn::tensor::{Device, Tensor, TensorData};
use kirie_engine::random::{Streams, unit};
use kirie_engine::train::MethodError;
use kirie_engine::{Method, Step};
use kirie_run::RunFolder;
use kirie_sam::DecodeMode;
use kirie_sam::encoders::EncoderOutput;
use kirie_sam::model::Sam;
use kirie_sam::prompt_encoder::SparsePrompts;
use rand::Rng;

use super::config::{EndToEnd, TrainConfig};
use super::loss::{MaskLoss, mask_loss};
use super::pictures::{Pictures, read};
use super::prompts::{self, Kind};
use super::sample::{Target, View, view};
use super::{ModelSpec, TrainError, validate};

/// Stage 2 of a run.
#[derive(Debug)]
pub struct EndToEndMethod<'a> {
    config: &'a TrainConfig,
    task: &'a EndToEnd,
    spec: &'a ModelSpec,
    pictures: Pictures,
    streams: Streams,
    device: Device,
}

/// Views of some pictures, all with the same number of objects.
#[derive(Debug)]
pub struct Batch {
    views: Vec<View>,
    names: Vec<String>,
    /// Which step and part it is for.
    place: [u64; 2],
}

impl<'a> EndToEndMethod<'a> {
    /// The method on opened pictures. `device` is the one without autodiff.
    pub fn new(
        config: &'a TrainConfig,
        task: &'a EndToEnd,
        spec: &'a ModelSpec,
        pictures: Pictures,
        device: Device,
    ) -> Self {
        Self { config, task, spec, pictures, streams: Streams::new(config.seed), device }
    }
}

/// Masks and predicted IoU; the picture's embedding, and an HQ decoder's detail, come once for each object.
fn decode(
    model: &Sam,
    image: Tensor<4>,
    hq_features: Option<Tensor<4>>,
    prompts: &SparsePrompts,
    mask_input: Option<Tensor<4>>,
    multimask: bool,
) -> (Tensor<4>, Tensor<2>) {
    let image_pe = model.prompt_encoder.dense_pe(&image.device());
    let mode = DecodeMode { multimask, hq_only: false };
    let output = model.decode(image, image_pe, hq_features, prompts, mask_input, mode);
    (output.masks, output.iou)
}

/// `[pictures, C, H, W]` to `[pictures * objects, C, H, W]`.
fn for_each_object(map: Tensor<4>, objects: usize) -> Tensor<4> {
    let [pictures, channels, height, width] = map.dims();
    map.unsqueeze_dim::<5>(1).expand([pictures, objects, channels, height, width]).reshape([
        pictures * objects,
        channels,
        height,
        width,
    ])
}

impl Method for EndToEndMethod<'_> {
    type Model = Sam;
    type Batch = Batch;

    fn batch(&self, step: u64, part: u64) -> Result<Batch, MethodError> {
        // A picture without a usable object is passed over; the next in the order of a stream of its own takes the place.
        const TRIES: u64 = 20;

        let data = &self.config.data;
        let first = (step * self.config.plan.accumulate + part) * data.batch as u64;
        let (mut views, mut names) = (Vec::new(), Vec::new());
        for slot in 0..data.batch as u64 {
            let n = first + slot;
            let mut found = None;
            for attempt in 0..TRIES {
                let mut rng = self.streams.stream("view", &[n, attempt]);
                let other = rng.next_u64() % self.pictures.epoch_length() as u64;
                let (dataset, sample) =
                    self.pictures.nth(&self.streams, if attempt == 0 { n } else { other });
                let labelled = read(dataset, sample)?;
                let view = view(
                    &labelled,
                    &self.spec.preprocess,
                    &self.config.augment,
                    data.objects,
                    data.smallest,
                    &mut rng,
                )?;
                if !view.targets.is_empty() {
                    found = Some((view, sample.image.display().to_string()));
                    break;
                }
            }
            let Some((view, name)) = found else {
                let sets = "the sets: 20 pictures in a row have no object that is large enough".to_owned();
                return Err(TrainError::NoPictures { sets }.into());
            };
            views.push(view);
            names.push(name);
        }
        Ok(Batch { views, names, place: [step, part] })
    }

    fn loss(&self, model: &Sam, batch: Batch, _step: u64) -> Result<Step, MethodError> {
        let (spec, task, objects) = (self.spec, self.task, self.config.data.objects);
        let size = spec.preprocess.size as usize;
        let count = batch.views.len();
        let mut rng = self.streams.stream("prompts", &batch.place);

        let mut pixels = Vec::with_capacity(count * 3 * size * size);
        for view in &batch.views {
            pixels.extend_from_slice(&view.pixels);
        }
        let data = TensorData::new(pixels, [count, 3, size, size]);
        let encoded = if task.decoder_only {
            use burn::module::Module;
            let encoded = model.image_encoder.valid().forward(Tensor::from_data(data, &self.device));
            EncoderOutput {
                embedding: Tensor::from_inner(encoded.embedding),
                early: encoded.early.map(Tensor::from_inner),
            }
        } else {
            model.encode(Tensor::from_data(data, &self.device.clone().autodiff()))
        };
        let hq_features = model.mask_decoder.hq_features(&encoded).map(|map| for_each_object(map, objects));
        let image = for_each_object(encoded.embedding, objects);

        let targets: Vec<&Target> = batch.views.iter().flat_map(|view| &view.targets).collect();
        let kind = Kind::draw(&task.prompts, &mut rng);
        let multimask = unit(&mut rng) < task.loss.multimask;
        let frame = spec.preprocess.frame;
        let mut asked = prompts::draw(kind, &task.prompts, &targets, size, frame, &mut rng);

        let [step, part] = batch.place;
        let score = |masks, iou, round: u64| -> MaskLoss {
            let rounds = task.prompts.rounds as u64 + 1;
            mask_loss(masks, iou, &targets, size, &task.loss, &self.streams, [step, part * rounds + round])
        };
        let (masks, iou) = decode(model, image.clone(), hq_features.clone(), &asked, None, multimask);
        let [_, outputs, mask_side, _] = masks.dims();
        let first = score(masks, iou, 0);
        let mut total = first.total;
        let figure = match (kind, multimask) {
            (Kind::Box, false) => "iou.box",
            (Kind::Box, true) => "iou.box_best_of_three",
            (Kind::Points(_), false) => "iou.points",
            (Kind::Points(_), true) => "iou.points_best_of_three",
        };
        let mut figures = vec![(figure, first.iou)];

        // Corrections: a click where the answer is wrong, and the answer itself; always the single mask, as SAM's later
        // rounds.
        let pixels = mask_side * mask_side;
        let best = |logits: &[f32], chosen: &[usize], outputs: usize| -> Vec<f32> {
            let row = |(t, o): (usize, &usize)| (t * outputs + o) * pixels;
            chosen.iter().enumerate().map(row).flat_map(|at| logits[at..at + pixels].to_vec()).collect()
        };
        let mut answer = best(&first.logits, &first.chosen, outputs);
        for round in 1..=task.prompts.rounds as u64 {
            let answers: Vec<&[f32]> = answer.chunks_exact(pixels).collect();
            asked = prompts::correct(&asked, &targets, &answers, (size, mask_side), frame, &mut rng);
            let shape = [targets.len(), 1, mask_side, mask_side];
            let fed = Tensor::from_data(TensorData::new(answer, shape), &self.device.clone().autodiff());
            let (masks, iou) = decode(model, image.clone(), hq_features.clone(), &asked, Some(fed), false);
            let loss = score(masks, iou, round);
            total = total + loss.total;
            answer = loss.logits;
            if round == task.prompts.rounds as u64 {
                figures.push(("iou.corrected", loss.iou));
            }
        }
        let total = total / (task.prompts.rounds + 1) as f64;
        Ok(Step { loss: total, figures, samples: batch.names })
    }

    fn validate(
        &self,
        model: &Sam,
        step: u64,
        folder: &RunFolder,
    ) -> Result<Vec<(String, f64)>, MethodError> {
        Ok(validate::scores(model, self.spec, &self.pictures, &self.device, (folder, step))?)
    }

    fn title(&self) -> String {
        format!("{}: end to end", self.spec.name)
    }

    fn metadata(&self) -> BTreeMap<String, String> {
        self.spec.metadata()
    }
}
