//! `kirie evaluate`.

mod continual;
mod contrastive;
mod files;
mod page;
mod progress;
mod semantic;
mod table;
mod weak;

use std::ops::ControlFlow;
use std::path::Path;

use kirie_data::datasets::{Dataset, MaskMeaning, OpenOptions, Sample, open_with};
use kirie_promptable::evaluate::{
    BoxDetection, BoxFill, DetectedReport, Ellipse, EvaluateError, EverythingOptions, EverythingReport,
    Failed, MaskChoice, PromptKind, Promptable, PromptedOptions, PromptedReport, SamModel, TruthOptions,
    detected, everything, image_ids, prompted, read_detections,
};
use kirie_sam::registry::{self, EverythingDefaults};
use kirie_sam::{BurnEngine, Engine, mask_generator};
use serde_json::{Value, json};

use crate::args::{EvaluateArgs, EvaluateCommand, EvaluatePromptableArgs, Masks};
use crate::commands::segment::generator_options;
use crate::outputs::check_writable;
use crate::report::{self, Failure};
use crate::weights;
use progress::Bar;

/// COCO looks at so many detections of a picture and category.
const COCO_DETECTIONS: usize = 100;

/// Runs the command.
pub(crate) fn run(args: EvaluateArgs) -> anyhow::Result<()> {
    match args.command {
        EvaluateCommand::Promptable(args) => promptable(&args),
        EvaluateCommand::Semantic(args) => semantic::run(&args),
        EvaluateCommand::Continual(args) => continual::run(&args),
        EvaluateCommand::Contrastive(args) => contrastive::run(&args),
        EvaluateCommand::Weak(args) => weak::run(&args),
    }
}

/// What was measured, in the order it was asked for.
pub(crate) enum Run {
    Prompted(Box<PromptedReport>),
    Detected(Box<DetectedReport>),
    Everything(Box<EverythingReport>),
}

impl Run {
    fn prompted(&self) -> Option<&PromptedReport> {
        if let Self::Prompted(run) = self { Some(run) } else { None }
    }

    fn failed(&self) -> &[Failed] {
        match self {
            Self::Prompted(run) => &run.summary.failed,
            Self::Detected(run) => &run.summary.failed,
            Self::Everything(run) => &run.summary.failed,
        }
    }

    fn objects(&self) -> u64 {
        match self {
            Self::Prompted(run) => run.summary.figures.objects,
            Self::Detected(run) => run.summary.objects as u64,
            Self::Everything(run) => run.summary.objects,
        }
    }

    fn images(&self) -> usize {
        match self {
            Self::Prompted(run) => run.summary.images,
            Self::Detected(run) => run.summary.images,
            Self::Everything(run) => run.summary.images,
        }
    }

    fn summary(&self) -> serde_json::Result<Value> {
        match self {
            Self::Prompted(run) => serde_json::to_value(&run.summary),
            Self::Detected(run) => serde_json::to_value(&run.summary),
            Self::Everything(run) => serde_json::to_value(&run.summary),
        }
    }
}

fn promptable(args: &EvaluatePromptableArgs) -> anyhow::Result<()> {
    check_usage(args)?;
    args.model.machine.set_threads()?;
    if let Some(folder) = &args.output {
        check_writable(folder, true)?;
    }
    let detections = args.detections.as_deref().map(read_detections).transpose()?;
    let dataset = open(args)?;
    let samples = chosen(&dataset, args.limit);
    let mut runs = Vec::new();
    if !args.prompts.is_empty() || detections.is_some() || !args.everything {
        let ask = |model: &mut dyn Promptable| ask(args, &dataset, &samples, detections.as_deref(), model);
        runs = match args.model.model.as_deref() {
            Some(BoxFill::NAME) => ask(&mut BoxFill::new())?,
            Some(Ellipse::NAME) => ask(&mut Ellipse::new())?,
            _ => ask(&mut sam_model(&weights::load(&args.model)?, args))?,
        };
    }
    if args.everything {
        let engine = weights::load_for_everything(&args.model)?;
        runs.push(Run::Everything(Box::new(run_everything(args, &dataset, &samples, &engine)?)));
    }
    answer(args, &dataset, &runs)
}

/// Prompts drawn from the labels, if any are asked for or nothing else is, and the boxes of detections.
fn ask(
    args: &EvaluatePromptableArgs,
    dataset: &Dataset,
    samples: &[&Sample],
    detections: Option<&[BoxDetection]>,
    model: &mut dyn Promptable,
) -> anyhow::Result<Vec<Run>> {
    let mut runs = Vec::new();
    if !args.prompts.is_empty() || !(detections.is_some() || args.everything) {
        let reports = run_prompted(args, dataset, samples, model)?;
        runs.extend(reports.into_iter().map(|report| Run::Prompted(Box::new(report))));
    }
    if let Some(detections) = detections {
        let samples = image_ids(dataset, &args.data, samples)?;
        let mut bar = Bar::new("detections");
        let mut tell = |progress: kirie_promptable::evaluate::Progress| bar.tell(&progress, "masks", None);
        let report = detected(dataset, &samples, detections, COCO_DETECTIONS, model, &mut tell)?;
        bar.finish();
        runs.push(Run::Detected(Box::new(report)));
    }
    Ok(runs)
}

/// As asked for, or as the model is published.
fn mask_choice(args: &EvaluatePromptableArgs, model: &str) -> MaskChoice {
    args.mask_choice.unwrap_or_else(|| match registry::variant(model) {
        Ok(variant) if variant.single_mask => MaskChoice::Single,
        _ => MaskChoice::BestOfThree,
    })
}

fn sam_model<'a>(engine: &'a BurnEngine, args: &EvaluatePromptableArgs) -> SamModel<'a> {
    SamModel::new(engine, mask_choice(args, engine.model())).with_zoom(args.zoom.context(engine.model()))
}

fn check_usage(args: &EvaluatePromptableArgs) -> anyhow::Result<()> {
    let baseline = args.model.model.as_deref().filter(|name| [BoxFill::NAME, Ellipse::NAME].contains(name));
    if let Some(name) = baseline {
        if args.model.weights.is_some() {
            return Err(report::usage(format!("{name} has no weights; leave --weights out")));
        }
        if args.everything {
            return Err(report::usage(format!("{name} answers boxes only, not --everything")));
        }
        if args.prompts.iter().any(|kind| *kind != PromptKind::Box) {
            return Err(report::usage(format!("{name} answers boxes only; ask it with --prompt box")));
        }
    }
    if !(args.dilation_ratio.is_finite() && args.dilation_ratio >= 0.0) {
        return Err(report::usage(format!(
            "--dilation-ratio is {}, expected 0 or more",
            args.dilation_ratio
        )));
    }
    if args.everything {
        generator_options(&args.everything_args, EverythingDefaults::SAM)?;
    }
    Ok(())
}

fn open(args: &EvaluatePromptableArgs) -> anyhow::Result<Dataset> {
    let options = OpenOptions {
        layout: args.layout,
        split: args.split.clone(),
        mask_folder: args.mask_folder.clone(),
        mask_meaning: args.masks.map(|masks| match masks {
            Masks::Classes => MaskMeaning::Classes,
            Masks::Instances => MaskMeaning::Instances,
            Masks::Binary => MaskMeaning::Binary,
        }),
        ignore: args.ignore.clone(),
        pictures: args.picture_folder.clone(),
        allow_outside: args.allow_outside,
        ..OpenOptions::default()
    };
    Ok(open_with(&args.data, &options)?)
}

/// What tells a sample from the others.
fn label(sample: &Sample) -> (&str, Option<&str>) {
    (&sample.id, sample.split.as_deref())
}

/// All samples, or `limit` of them spread evenly.
fn chosen(dataset: &Dataset, limit: Option<u32>) -> Vec<&Sample> {
    let all = dataset.samples.len();
    let count = limit.map_or(all, |limit| all.min(limit as usize));
    (0..count).filter_map(|i| dataset.samples.get(i * all / count)).collect()
}

fn truth_options(args: &EvaluatePromptableArgs) -> TruthOptions {
    TruthOptions { crowd: !args.without_crowd, ..TruthOptions::default() }
}

fn run_prompted(
    args: &EvaluatePromptableArgs,
    dataset: &Dataset,
    samples: &[&Sample],
    model: &mut dyn Promptable,
) -> anyhow::Result<Vec<PromptedReport>> {
    let prompts = if args.prompts.is_empty() { vec![PromptKind::Box] } else { args.prompts.clone() };
    let options = PromptedOptions {
        prompts,
        feed_mask: args.feed_mask,
        truth: truth_options(args),
        dilation_ratio: args.dilation_ratio,
        cases: if args.output.is_some() { args.cases as usize } else { 0 },
    };
    let mut bar = Bar::new("asking");
    let reports =
        prompted(dataset, samples, model, &options, &mut |p| bar.tell(&p, "objects", Some("mIoU")))?;
    bar.finish();
    Ok(reports)
}

fn run_everything(
    args: &EvaluatePromptableArgs,
    dataset: &Dataset,
    samples: &[&Sample],
    engine: &BurnEngine,
) -> anyhow::Result<EverythingReport> {
    let settings = generator_options(&args.everything_args, weights::everything_defaults(engine))?;
    let truth = TruthOptions { all_annotators: true, ..truth_options(args) };
    let options = EverythingOptions { truth, ..EverythingOptions::default() };
    let mut generate = |picture: &kirie_data::Image| {
        let found = mask_generator::generate(engine, picture, &settings, &mut |_| ControlFlow::Continue(()));
        found.map_err(EvaluateError::from)
    };
    let mut bar = Bar::new("everything");
    let report = everything(dataset, samples, engine.model(), &mut generate, &options, &mut |p| {
        bar.tell(&p, "masks", Some("average recall"));
    })?;
    bar.finish();
    Ok(report)
}

/// Prints and writes what was found.
fn answer(args: &EvaluatePromptableArgs, dataset: &Dataset, runs: &[Run]) -> anyhow::Result<()> {
    let failed = runs.iter().map(|run| run.failed().len()).max().unwrap_or(0);
    let measured = runs.iter().map(Run::images).max().unwrap_or(0);
    if measured > 0 && runs.iter().all(|run| run.objects() == 0) {
        anyhow::bail!(
            "{}: no objects with masks in {measured} pictures ({})",
            args.data.display(),
            dataset.found
        );
    }
    if measured > 0 {
        let metrics = metrics(args, runs)?;
        if let Some(folder) = &args.output {
            files::write(folder, args, dataset, runs, &metrics)?;
        }
        if args.json {
            report::print(&serde_json::to_string_pretty(&metrics)?)?;
        } else {
            report::print(&table::text(args, dataset, runs))?;
        }
    }
    if failed > 0 { Err(Failure::Inputs { failed, total: failed + measured }.into()) } else { Ok(()) }
}

/// One object for one run, a list for several.
fn metrics(args: &EvaluatePromptableArgs, runs: &[Run]) -> anyhow::Result<Value> {
    let baseline = [BoxFill::NAME, Ellipse::NAME].map(Some).contains(&args.model.model.as_deref());
    let mut all = Vec::with_capacity(runs.len());
    for run in runs {
        let mut value = run.summary()?;
        value["data"] = json!(args.data);
        value["split"] = json!(args.split);
        value["limit"] = json!(args.limit);
        value["weights"] =
            json!(args.model.weights.as_deref().map(Path::display).map(|path| path.to_string()));
        value["device"] = json!((!baseline).then(|| args.model.machine.device.name()));
        let everything = matches!(run, Run::Everything(_));
        let chosen = !baseline && !everything;
        let model = value["model"].as_str().unwrap_or_default().to_owned();
        value["input"] = json!(args.model.input.or_else(|| {
            let variant = registry::variant(&model).ok()?;
            Some(variant.everything.input.filter(|_| everything).unwrap_or(variant.preprocess.size))
        }));
        value["mask_choice"] = json!(chosen.then(|| mask_choice(args, &model).name()));
        value["zoom"] = json!(args.zoom.context(&model).filter(|_| chosen));
        all.push(value);
    }
    Ok(if all.len() == 1 { all.remove(0) } else { json!({ "runs": all }) })
}
