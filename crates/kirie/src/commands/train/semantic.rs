//! `kirie train semantic`.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};

use anyhow::Context;
use burn::tensor::Device;
use kirie_data::DataError;
use kirie_gsam::SemanticError;
use kirie_gsam::config::SetConfig;
use kirie_gsam::data::{ClassList, Inspection, LabelledSet, Pictures};
use kirie_gsam::evaluate::{EvaluateOptions, Evaluation, evaluate, page};
use kirie_gsam::model::base::load_resnet;
use kirie_gsam::model::method::{CnnBranch, Gsam};
use kirie_gsam::model::{BaseReport, MethodConfig, SemanticConfig, SemanticModel, state_dict_hash};
use kirie_gsam::train::{About, SemanticMethod, Summary, run as train};
use kirie_run::{Progress, ProgressMode, RunFolder, Stop, config};
use kirie_sam::checkpoint::StateDict;
use serde::{Deserialize, Serialize};

use super::{absolute, plan, sweep};
use crate::args::TrainSemanticArgs;
use crate::outputs::{check_writable, save};
use crate::report;
use crate::semantic::{self, Config, Notes};

/// What a finished run leaves to be used.
pub(super) const ADAPTER_FILE: &str = "adapter.safetensors";
/// The figures of `--score`.
pub(super) const SCORE_FILE: &str = "score.json";
/// Best and worst pictures in the page of `--score`, each.
const CASES: usize = 6;
/// Batches whose multiply-accumulates are counted, where they differ.
const COUNTED: u64 = 8;

/// Everything that is known before the first step.
pub(super) struct Prepared {
    pub(super) config: Config,
    pub(super) pictures: Pictures,
    pub(super) inspection: Inspection,
    pub(super) network: SemanticConfig,
    pub(super) base_hash: String,
    pub(super) base: BaseReport,
    /// With autodiff.
    pub(super) model: SemanticModel,
    pub(super) about: About,
    /// Height and width of the first batch, and multiply-accumulates for one picture.
    pub(super) input: [usize; 2],
    pub(super) macs: u64,
}

/// `metrics.json` of a run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Metrics {
    /// The run's folder.
    run: PathBuf,
    #[serde(flatten)]
    pub(super) summary: Summary,
    /// What was learned, if all steps were done.
    pub(super) adapter: Option<PathBuf>,
    pub(super) parameters: u64,
    pub(super) trained_parameters: u64,
    pub(super) stored_parameters: u64,
    pub(super) macs_per_picture: u64,
    /// What `--score` found, in short.
    #[serde(default)]
    score: Option<Scored>,
}

/// The gist of `score.json`; IoU from 0 to 1.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Scored {
    split: String,
    miou_before: Option<f64>,
    miou: Option<f64>,
}

/// `score.json` of a run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Score {
    /// The part of the sets.
    split: String,
    /// mIoU before the first step.
    pub(super) miou_before: Option<f64>,
    #[serde(flatten)]
    pub(super) after: Evaluation,
}

/// Runs the command.
pub(super) fn run(args: &TrainSemanticArgs) -> anyhow::Result<()> {
    args.machine.set_threads()?;
    if let Some(file) = &args.sweep {
        return sweep::run(args, file);
    }
    let device = args.machine.device.open()?;
    match (&args.resume, &args.config, &args.output) {
        (Some(path), ..) => {
            let folder = RunFolder::open(path)?;
            let config = config::load::<Config>(Some(&folder.config_path()), &[])?.value;
            let prepared = prepare(config, &device)?;
            go(args, prepared, &folder, &device)
        }
        (None, Some(file), _) if args.dry_run => {
            plan::dry_run(&prepare(read(file, args)?, &device)?, &device, args.json)
        }
        (None, Some(file), Some(output)) => {
            let config = read(file, args)?;
            check_writable(output, true)?;
            let folder = RunFolder::create(output)?;
            let ran = prepare(config, &device).and_then(|prepared| {
                folder.write_config(&config::to_toml(&prepared.config)?)?;
                go(args, prepared, &folder, &device)
            });
            if ran.is_err() {
                folder.discard_unused();
            }
            ran
        }
        _ => Err(report::usage("--config FILE.toml says what to do, and -o RUN where the run is kept")),
    }
}

/// The configuration with what the command line says over it; its paths mean the same from anywhere.
fn read(file: &Path, args: &TrainSemanticArgs) -> anyhow::Result<Config> {
    let mut config = config::load::<Config>(Some(file), &args.sets)?.value;
    config.check()?;
    resolve(&mut config, file.parent().unwrap_or(Path::new(".")), args.data.as_deref())?;
    Ok(config)
}

/// Makes relative paths start from the folder `base`, and those of the sets from `data` if that is given.
pub(super) fn resolve(config: &mut Config, base: &Path, data: Option<&Path>) -> anyhow::Result<()> {
    let base = absolute(base)?;
    config.resolve(&base);
    config.model.resolve(&base);
    if let Some(data) = data {
        config.data.root = Some(absolute(data)?);
    }
    Ok(())
}

/// Opens the sets, looks at every picture, and makes the network.
pub(super) fn prepare(mut config: Config, device: &Device) -> anyhow::Result<Prepared> {
    config.check()?;
    let pictures = Pictures::open(&config.data)?;
    let network = config.model.config(pictures.classes().len())?;
    let base = config.model.open_base()?;
    let base_hash = state_dict_hash(&base)?;
    if let Some(expected) = config.model.base_sha256.as_ref().filter(|expected| **expected != base_hash) {
        anyhow::bail!(
            "the base's weights ({}) have the hash {base_hash}, but the configuration was made for {expected}",
            base.path().display()
        );
    }
    config.model.base_sha256 = Some(base_hash.clone());
    let inspection = Inspection::of(&pictures, &config.input)?;
    let (model, base) = make(&config, &network, &base, &device.clone().autodiff())?;
    let about = About {
        title: format!("{} on {}", config.model.method.name(), network.base),
        metadata: BTreeMap::from([
            ("model".to_owned(), network.base.clone()),
            ("method".to_owned(), config.model.method.name().to_owned()),
            ("classes".to_owned(), pictures.classes().names().join("\n")),
        ]),
    };
    let (input, macs) = costs(&config, &pictures, &inspection, &model, &about, device)?;
    Ok(Prepared { config, pictures, inspection, network, base_hash, base, model, about, input, macs })
}

/// The network with the base's weights; what the base has not follows from the seed.
fn make(
    config: &Config,
    network: &SemanticConfig,
    base: &StateDict,
    device: &Device,
) -> anyhow::Result<(SemanticModel, BaseReport)> {
    let (model, found) = network.init_from(base, device, config.seed)?;
    let Some(path) = &config.model.cnn_weights else { return Ok((model, found)) };
    anyhow::ensure!(
        matches!(&config.model.method, MethodConfig::Gsam(Gsam { cnn: CnnBranch::Resnet101, .. })),
        "model.cnn_weights are for the method gsam with cnn = \"resnet101\", on a ViT encoder"
    );
    let (model, missing) = load_resnet(model, &StateDict::open(path)?)?;
    anyhow::ensure!(missing.is_empty(), "{} lacks {}", path.display(), missing.join(", "));
    Ok((model, found))
}

/// Height and width of the first batch, and multiply-accumulates for one picture, the mean over some batches: of whole pictures each
/// batch has another size, padding included.
fn costs(
    config: &Config,
    pictures: &Pictures,
    inspection: &Inspection,
    model: &SemanticModel,
    about: &About,
    device: &Device,
) -> anyhow::Result<([usize; 2], u64)> {
    use kirie_engine::Method;
    let method = SemanticMethod::new(config, pictures, inspection, model, about, device)?;
    let batches = if config.input.crop.is_some() { 1 } else { COUNTED.min(config.plan.steps) };
    let (mut sizes, mut sum) = (Vec::new(), 0);
    for step in 0..batches {
        let [_, height, width] = method.batch(step, 0).map_err(anyhow::Error::from_boxed)?.views.shape;
        sum += model.config().macs(height, width, device)?.total();
        sizes.push([height, width]);
    }
    Ok((sizes.first().copied().unwrap_or_default(), sum / batches.max(1)))
}

/// Trains, or goes on with it, and writes what was learned.
fn go(
    args: &TrainSemanticArgs,
    prepared: Prepared,
    folder: &RunFolder,
    device: &Device,
) -> anyhow::Result<()> {
    // A list that is not there is better missed now than after hours.
    let tests = match &args.score {
        Some(split) => parts(&prepared.config, prepared.pictures.classes(), split)?,
        None => Vec::new(),
    };
    report::tell(&plan::text(&prepared));
    // Before training writes figures of its own there.
    let (earlier, earlier_score) = (earlier(folder), scored(folder));
    let Prepared { config, pictures, inspection, network, base_hash, model, about, macs, .. } = prepared;
    let counts = model.counts();
    let stop = Stop::install()?;
    let trained =
        train(&config, &pictures, &inspection, model, &about, folder, device, &stop, ProgressMode::Auto)?;
    let summary = together(earlier, trained.summary);
    let adapter = folder.path().join(ADAPTER_FILE);
    let stored_parameters = counts.stored_bytes / size_of::<f32>();
    let mut metrics = Metrics {
        run: folder.path().to_owned(),
        adapter: summary.complete.then(|| adapter.clone()),
        summary,
        parameters: counts.total as u64,
        trained_parameters: counts.trained as u64,
        stored_parameters: stored_parameters as u64,
        macs_per_picture: macs,
        score: earlier_score,
    };
    if metrics.summary.complete {
        let notes = Notes {
            classes: pictures.classes().clone(),
            merge: config.data.merge.clone(),
            test: config.test.clone(),
            crop: config.input.crop,
            steps: metrics.summary.steps,
            validation_miou: metrics.summary.best.get("miou").copied(),
        };
        semantic::save(&adapter, &trained.model, &base_hash, &notes)?;
    }
    folder.write_metrics(&metrics)?;
    if let Some(split) = args.score.as_ref().filter(|_| metrics.summary.complete) {
        let (start, _) = make(&config, &network, &config.model.open_base()?, device)?;
        metrics.score = Some(score(&config, split, &tests, &start, &trained.model, folder, device)?);
        folder.write_metrics(&metrics)?;
    }
    if args.json {
        report::print(&serde_json::to_string_pretty(&metrics)?)?;
    } else {
        report::print(&outcome(&metrics, pictures.classes(), counts.stored_bytes))?;
    }
    if !metrics.summary.complete {
        let run = folder.path().display();
        report::note(&format!(
            "stopped after {} of {} steps, as asked; `kirie train semantic --resume {run}` goes on",
            metrics.summary.steps, config.plan.steps
        ));
    }
    Ok(())
}

/// What earlier processes of a run said of it.
fn earlier(folder: &RunFolder) -> Option<Summary> {
    // A file that is missing or damaged costs the figures of the time before, nothing else.
    serde_json::from_slice(&std::fs::read(folder.metrics_path()).ok()?).ok()
}

/// The score of a run that was finished and scored before.
fn scored(folder: &RunFolder) -> Option<Scored> {
    let metrics: Metrics = serde_json::from_slice(&std::fs::read(folder.metrics_path()).ok()?).ok()?;
    metrics.score
}

/// A run's summary over all of its processes.
fn together(earlier: Option<Summary>, now: Summary) -> Summary {
    let Some(earlier) = earlier else { return now };
    // What a finished run cost is not made more by asking it again.
    let finished = earlier.complete;
    let add = |a: Option<f64>, b: Option<f64>| match (a, b) {
        (Some(a), Some(b)) if !finished => Some(a + b),
        (a, b) => a.or(b),
    };
    Summary {
        seconds_per_step: now.seconds_per_step.or(earlier.seconds_per_step),
        peak_memory_bytes: if finished {
            earlier.peak_memory_bytes
        } else {
            earlier.peak_memory_bytes.max(now.peak_memory_bytes)
        },
        cpu_seconds: add(earlier.cpu_seconds, now.cpu_seconds),
        ..now
    }
}

/// The part `split` of the sets that are learned from, with the same classes; sets without it are passed over if another has it.
pub(super) fn parts(config: &Config, classes: &ClassList, split: &str) -> anyhow::Result<Vec<LabelledSet>> {
    let mut sets = Vec::new();
    let mut missing = None;
    for set in &config.data.sets {
        let part = SetConfig { split: split.to_owned(), ..set.clone() };
        match LabelledSet::open(&part, &config.data, classes) {
            Ok(set) => sets.push(set),
            Err(error @ SemanticError::Data(DataError::UnknownSplit { .. })) => missing = Some(error),
            Err(error) => return Err(error.into()),
        }
    }
    match missing {
        Some(error) if sets.is_empty() => Err(error).context("--score"),
        _ => Ok(sets),
    }
}

/// Scores the model as it was before the first step and as it is, and writes both.
fn score(
    config: &Config,
    split: &str,
    sets: &[LabelledSet],
    before: &SemanticModel,
    after: &SemanticModel,
    folder: &RunFolder,
    device: &Device,
) -> anyhow::Result<Scored> {
    let first = sets.first().with_context(|| format!("--score {split}: there is no such part"))?;
    let total: usize = sets.iter().map(|set| set.samples().count()).sum();
    anyhow::ensure!(total > 0, "--score {split}: no picture of that part has labels");
    let mut progress = Progress::new("test picture", 2 * total as u64, 0, ProgressMode::Auto);
    let mut measure = |model: &SemanticModel, done: usize, cases: usize| {
        let pictures = sets.iter().flat_map(|set| set.samples().map(move |sample| (set, sample)));
        let options = EvaluateOptions { predictions: None, cases };
        let mut tell = |n: usize| progress.set((done + n) as u64, "");
        evaluate(model, pictures, first.classes(), &config.test, device, &options, &mut tell)
    };
    let miou_before = measure(before, 0, 0)?.report.miou;
    let after = measure(after, total, CASES)?;
    progress.finish();
    let about = [
        ("Part", split.to_owned()),
        (
            "mIoU before training",
            miou_before.map_or_else(|| "-".to_owned(), |miou| format!("{:.2}", 100.0 * miou)),
        ),
    ];
    let about = about.map(|(name, value)| (name.to_owned(), value));
    page("Score", &after, first.classes(), &about)?.write(folder.path().join("score.html"))?;
    let gist = Scored { split: split.to_owned(), miou_before, miou: after.report.miou };
    let score = Score { split: split.to_owned(), miou_before, after };
    save(&folder.path().join(SCORE_FILE), (serde_json::to_string_pretty(&score)? + "\n").as_bytes())?;
    Ok(gist)
}

/// The outcome for people.
fn outcome(metrics: &Metrics, classes: &ClassList, bytes: usize) -> String {
    let summary = &metrics.summary;
    let figure = |figures: &BTreeMap<String, f64>, name: &str| {
        figures.get(name).map_or_else(|| "-".to_owned(), |value| format!("{value:.4}"))
    };
    let mut text = String::new();
    if !summary.last.is_empty() {
        let row = |title: &str, name: &str| {
            vec![
                title.to_owned(),
                figure(&summary.before, name),
                figure(&summary.best, name),
                figure(&summary.last, name),
            ]
        };
        let mut rows: Vec<Vec<String>> =
            classes.iter().map(|class| row(&class.name, &format!("iou.{}", class.name))).collect();
        rows.push(row("mIoU", "miou"));
        rows.push(row("pixels labelled right", "pixel_accuracy"));
        let best = summary.best_step.map_or_else(|| "best".to_owned(), |step| format!("best, step {step}"));
        text = report::columns(&["IoU on held-out pictures", "before", &best, "last"], &rows);
    }
    if let Some(Scored { split, miou_before, miou }) = &metrics.score {
        let [before, after] =
            [miou_before, miou].map(|miou| miou.map_or_else(|| "-".to_owned(), |miou| format!("{miou:.4}")));
        let _ = writeln!(text, "{split}: mIoU {after}, before training {before}; score.html shows more");
    }
    if let Some(adapter) = &metrics.adapter {
        let _ = writeln!(text, "wrote {} ({:.1} MB)", adapter.display(), bytes as f64 / 1e6);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summary(complete: bool, cpu: f64, peak: u64, step: Option<f64>) -> Summary {
        Summary {
            steps: 4,
            complete,
            pictures_seen: 8,
            before: BTreeMap::new(),
            best: BTreeMap::new(),
            best_step: None,
            last: BTreeMap::new(),
            seconds_per_step: step,
            peak_memory_bytes: Some(peak),
            cpu_seconds: Some(cpu),
        }
    }

    #[test]
    fn the_costs_of_all_processes_count() {
        let first = summary(false, 3.0, 900, Some(0.5));
        let both = together(Some(first), summary(true, 2.0, 700, None));
        assert_eq!((both.cpu_seconds, both.peak_memory_bytes), (Some(5.0), Some(900)));
        assert_eq!((both.seconds_per_step, both.complete), (Some(0.5), true));
        // Asked once more, it costs nothing more.
        let again = together(Some(both.clone()), summary(true, 1.0, 9000, None));
        assert_eq!(again, both);
    }
}
