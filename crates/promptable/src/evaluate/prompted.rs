//! Every object asked for by its own prompt.

use std::time::Instant;

use kirie_data::datasets::{Dataset, Sample};
use kirie_mask::Point;
use kirie_metrics::Clicker;
use kirie_sam::Prompt;
use kirie_sam::predictor::PROMPTS_PER_CALL;
use rayon::prelude::*;

use super::model::{Answer, Promptable};
use super::pictures::{Failed, Progress, for_each, labelled};
use super::score::{Case, ObjectScore, boundary_iou, iou};
use super::summary::{Collector, Summary};
use super::truth::{Object, Truth, TruthOptions};
use super::{EvaluateError, PromptKind};

/// Pixels of objects that are being clicked on at once, at most: each needs a few bytes a pixel.
const CLICKED_PIXELS: usize = 64 << 20;

/// How to ask, and what to keep.
#[derive(Clone, Debug, PartialEq)]
pub struct PromptedOptions {
    /// The kinds of prompts, each a run of its own; the model gets each picture once for all of them.
    pub prompts: Vec<PromptKind>,
    /// Clicks come with the logits of the answer to those before. Not so in the published protocol.
    pub feed_mask: bool,
    /// What to take for objects.
    pub truth: TruthOptions,
    /// Width of the band of boundary IoU, as a part of the picture's diagonal.
    pub dilation_ratio: f64,
    /// How many of the best and of the worst answers to keep, from different pictures.
    pub cases: usize,
}

impl Default for PromptedOptions {
    /// The published protocol, with boxes.
    fn default() -> Self {
        Self {
            prompts: vec![PromptKind::Box],
            feed_mask: false,
            truth: TruthOptions::default(),
            dilation_ratio: 0.02,
            cases: 0,
        }
    }
}

/// What came of one kind of prompt.
#[derive(Clone, Debug)]
pub struct PromptedReport {
    /// The figures.
    pub summary: Summary,
    /// Every object, in the order of pictures and labels.
    pub objects: Vec<ObjectScore>,
    /// The worst answers, worst first.
    pub worst: Vec<Case>,
    /// The best answers, best first.
    pub best: Vec<Case>,
}

/// Asks `model` for every object of `samples`, by every kind of prompt; one report each, in the order of
/// [`PromptedOptions::prompts`].
///
/// A picture that fails is told to `progress` and recorded in [`Summary::failed`]; the others go on.
///
/// # Errors
/// [`EvaluateError::NoPictures`], [`EvaluateError::NoLabels`], [`EvaluateError::NoPrompts`], and
/// [`EvaluateError::NeedsBox`] for a model that cannot be asked so.
pub fn prompted(
    dataset: &Dataset,
    samples: &[&Sample],
    model: &mut dyn Promptable,
    options: &PromptedOptions,
    progress: &mut dyn FnMut(Progress),
) -> Result<Vec<PromptedReport>, EvaluateError> {
    let samples = labelled(samples)?;
    if options.prompts.is_empty() {
        return Err(EvaluateError::NoPrompts);
    }
    if !model.takes_points() && options.prompts.iter().any(|kind| *kind != PromptKind::Box) {
        return Err(EvaluateError::NeedsBox { model: model.name().to_owned() });
    }
    let mut runs: Vec<Run> = options.prompts.iter().map(|&kind| Run::new(kind, options.cases)).collect();
    let mut encoding = 0.0;
    let mut done = 0;
    let mut last = Instant::now();
    for_each(dataset, &samples, options.truth, |sample, loaded| {
        let start = Instant::now();
        let ready = loaded.and_then(|(picture, truth)| {
            if !truth.objects.is_empty() {
                model.set_picture(&picture)?;
            }
            Ok(truth)
        });
        encoding += start.elapsed().as_secs_f64();
        // Waiting for the picture and the encoder belong to every kind of prompt.
        let shared = last.elapsed().as_secs_f64();
        let mut failure = None;
        match ready {
            Ok(truth) => {
                for run in &mut runs {
                    let start = Instant::now();
                    if let Err(error) = run.picture(dataset, sample, &truth, model, options) {
                        run.fail(sample, &error);
                        failure = Some(error);
                    }
                    run.collector.seconds += shared + start.elapsed().as_secs_f64();
                }
            }
            Err(error) => {
                for run in &mut runs {
                    run.fail(sample, &error);
                    run.collector.seconds += shared;
                }
                failure = Some(error);
            }
        }
        last = Instant::now();
        done += 1;
        let (objects, figure) =
            runs.first().map_or((0, None), |r| (r.collector.objects(), r.collector.miou()));
        progress(Progress { done, total: samples.len(), objects, figure, sample, failed: failure.as_ref() });
    });
    Ok(runs.into_iter().map(|run| run.report(model.name(), options.feed_mask, encoding)).collect())
}

/// One kind of prompt on its way through the pictures.
struct Run {
    kind: PromptKind,
    collector: Collector,
    objects: Vec<ObjectScore>,
    cases: usize,
    worst: Vec<Case>,
    best: Vec<Case>,
}

/// An object after its last prompt.
struct Asked {
    answer: Answer,
    prompt: Prompt,
    /// IoU after every click; empty for boxes.
    clicks: Vec<f64>,
}

impl Run {
    fn new(kind: PromptKind, cases: usize) -> Self {
        let (objects, worst, best) = (Vec::new(), Vec::new(), Vec::new());
        Self { kind, collector: Collector::default(), objects, cases, worst, best }
    }

    fn fail(&mut self, sample: &Sample, error: &EvaluateError) {
        self.collector.failed.push(Failed { picture: sample.id.clone(), reason: error.to_string() });
    }

    /// All objects of the picture that the model was given.
    fn picture(
        &mut self,
        dataset: &Dataset,
        sample: &Sample,
        truth: &Truth,
        model: &mut dyn Promptable,
        options: &PromptedOptions,
    ) -> Result<(), EvaluateError> {
        let pixels = truth.objects.first().map_or(1, |o| (o.mask.width() * o.mask.height()).max(1));
        let group = match self.kind {
            PromptKind::Box => PROMPTS_PER_CALL,
            PromptKind::Points(_) => (CLICKED_PIXELS / pixels).clamp(1, PROMPTS_PER_CALL),
        };
        let mut scores = Vec::with_capacity(truth.objects.len());
        let mut clicks = Vec::new();
        let mut cases = Vec::new();
        for objects in truth.objects.chunks(group) {
            let asked = match self.kind {
                PromptKind::Box => by_box(model, truth, objects)?,
                PromptKind::Points(count) => by_clicks(model, truth, objects, count, options.feed_mask)?,
            };
            let score = |(object, asked): (&Object, &Asked)| {
                score(dataset, sample, object, asked, options.dilation_ratio)
            };
            let group: Result<Vec<ObjectScore>, EvaluateError> =
                objects.par_iter().zip(&asked).map(score).collect();
            for ((object, asked), score) in objects.iter().zip(asked).zip(group?) {
                if !asked.clicks.is_empty() {
                    clicks.push(asked.clicks);
                }
                if self.cases > 0 {
                    let mut prompt = asked.prompt;
                    prompt.mask_input = None;
                    cases.push(Case {
                        score: score.clone(),
                        truth: object.mask.clone(),
                        answer: asked.answer.mask,
                        prompt,
                    });
                }
                scores.push(score);
            }
        }
        self.collector.add(sample, &scores, &clicks, truth.skipped)?;
        self.objects.extend(scores);
        self.keep(cases);
        Ok(())
    }

    /// Keeps a picture's best and worst answer if they are among the best and worst so far.
    fn keep(&mut self, cases: Vec<Case>) {
        let by_iou = |a: &Case, b: &Case| a.score.iou.total_cmp(&b.score.iou);
        self.worst.extend(cases.iter().min_by(|a, b| by_iou(a, b)).cloned());
        self.best.extend(cases.into_iter().max_by(by_iou));
        self.worst.sort_by(by_iou);
        self.best.sort_by(|a, b| by_iou(b, a));
        self.worst.truncate(self.cases);
        self.best.truncate(self.cases);
    }

    fn report(self, model: &str, feed_mask: bool, encoding: f64) -> PromptedReport {
        let summary = self.collector.summary(self.kind.to_string(), model.to_owned(), feed_mask, encoding);
        PromptedReport { summary, objects: self.objects, worst: self.worst, best: self.best }
    }
}

fn score(
    dataset: &Dataset,
    sample: &Sample,
    object: &Object,
    asked: &Asked,
    dilation_ratio: f64,
) -> Result<ObjectScore, EvaluateError> {
    let class = object.class.and_then(|id| dataset.class(id)).map(|class| class.name.clone());
    Ok(ObjectScore {
        picture: sample.id.clone(),
        split: sample.split.clone(),
        object: object.index,
        class,
        area: object.area,
        bbox: object.bbox.to_xywh(),
        crowd: object.crowd,
        iou: iou(&asked.answer.mask, &object.mask)?,
        biou: boundary_iou(&asked.answer.mask, &object.mask, dilation_ratio)?,
        predicted_iou: asked.answer.predicted_iou,
        clicks: asked.prompt.points.len() as u32,
    })
}

/// The answers to some prompts, without the pixels to ignore.
pub(super) fn ask(
    model: &mut dyn Promptable,
    truth: &Truth,
    prompts: &[Prompt],
) -> Result<Vec<Answer>, EvaluateError> {
    let answers = model.masks(prompts)?;
    if answers.len() != prompts.len() {
        let (model, expected, found) = (model.name().to_owned(), prompts.len(), answers.len());
        return Err(EvaluateError::Answers { model, expected, found });
    }
    let visible = |answer: Answer| Ok(Answer { mask: truth.visible(answer.mask)?, ..answer });
    answers.into_iter().map(visible).collect()
}

fn by_box(
    model: &mut dyn Promptable,
    truth: &Truth,
    objects: &[Object],
) -> Result<Vec<Asked>, EvaluateError> {
    let prompts: Vec<Prompt> =
        objects.iter().map(|o| Prompt { bbox: Some(o.bbox), ..Prompt::default() }).collect();
    let answers = ask(model, truth, &prompts)?;
    let asked = |(prompt, answer)| Asked { answer, prompt, clicks: Vec::new() };
    Ok(prompts.into_iter().zip(answers).map(asked).collect())
}

/// An object that is being clicked on.
struct Clicked<'a> {
    object: &'a Object,
    clicker: Clicker,
    prompt: Prompt,
    answer: Option<Answer>,
    clicks: Vec<f64>,
}

/// Clicks on all objects in step: the n-th click on all of them is one call of the model.
fn by_clicks(
    model: &mut dyn Promptable,
    truth: &Truth,
    objects: &[Object],
    count: u32,
    feed_mask: bool,
) -> Result<Vec<Asked>, EvaluateError> {
    let begin = |object| Clicked {
        object,
        clicker: Clicker::new(Object::bitmap(object)),
        prompt: Prompt::default(),
        answer: None,
        clicks: Vec::new(),
    };
    let mut all: Vec<Clicked> = objects.par_iter().map(begin).collect();
    for _ in 0..count {
        // The objects where something is still wrong.
        let open: Result<Vec<&mut Clicked>, EvaluateError> = all
            .par_iter_mut()
            .map(|one| Ok(one.click(feed_mask)?.then_some(one)))
            .filter_map(Result::transpose)
            .collect();
        let mut open = open?;
        let prompts: Vec<Prompt> = open.iter().map(|one| one.prompt.clone()).collect();
        if !prompts.is_empty() {
            for (one, answer) in open.iter_mut().zip(ask(model, truth, &prompts)?) {
                one.answer = Some(answer);
            }
        }
        all.par_iter_mut().try_for_each(Clicked::measure)?;
    }
    let asked = |one: Clicked| {
        let answer = one.answer?;
        Some(Asked { answer, prompt: one.prompt, clicks: one.clicks })
    };
    // Every object has a pixel, so it has had its first click.
    Ok(all.into_iter().filter_map(asked).collect())
}

impl Clicked<'_> {
    /// Adds the next click to the prompt, if there is one.
    fn click(&mut self, feed_mask: bool) -> Result<bool, EvaluateError> {
        let prediction = self.answer.as_ref().map(|answer| answer.mask.to_mask());
        let Some(click) = self.clicker.next_click(prediction.as_ref())? else { return Ok(false) };
        // The reference gives the pixel's number as it is, not its centre.
        let point = Point { x: click.x as f64, y: click.y as f64 };
        self.prompt.points.push((point, click.positive));
        if feed_mask {
            self.prompt.mask_input = self.answer.as_mut().and_then(|answer| answer.logits.take());
        }
        Ok(true)
    }

    fn measure(&mut self) -> Result<(), EvaluateError> {
        if let Some(answer) = &self.answer {
            self.clicks.push(iou(&answer.mask, &self.object.mask)?);
        }
        Ok(())
    }
}
