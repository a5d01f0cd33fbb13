//! `kirie train contrastive --sweep`: every run, and every judgement of its encoder, in a process of its own.

use std::ffi::{OsStr, OsString};
use std::fmt::Write;
use std::path::Path;

use anyhow::Context;
use kirie_data::write_atomic;
use kirie_run::{Stop, config};
use kirie_samclr::evaluate::ByShare;
use kirie_samclr::regions::RegionCount;
use kirie_samclr::sweep::{RunFigures, RunSpec, SetScore, Spread, Sweep, groups, sweep};
use kirie_samclr::train::ENCODER_FILE;
use serde::Deserialize;
use serde_json::json;

use super::super::many::{Telling, child, read, settle};
use super::file::{self, Baseline, Judging, Planned, PlannedRun, Target};
use crate::args::TrainContrastiveArgs;
use crate::outputs::check_writable;
use crate::report;

/// Runs the command.
pub(super) fn run(args: &TrainContrastiveArgs, file: &Path) -> anyhow::Result<()> {
    let planned = file::read(file, &args.sets, args.data.as_deref())?;
    let Some(folder) = args.output.as_deref().filter(|_| !args.dry_run) else {
        return list(&planned, args.json);
    };
    check_writable(folder, true)?;
    let specs: Vec<RunSpec> = planned.runs.iter().map(|run| run.spec.clone()).collect();
    let stop = Stop::install()?;
    let mut telling = Telling::new(folder, specs.iter().map(|spec| &*spec.name), &stop);
    let result = sweep(folder, &planned.title, &planned.against, &specs, &stop, |spec, place| {
        telling.run(&spec.name, |at| {
            let run = planned.runs.get(at).context("a run that was not planned")?;
            start(args, run, &planned.judging, place, &stop)
        })
    })?;
    telling.finish();
    answer(&result, &planned.against, folder, args.json)
}

/// What would be run.
fn list(planned: &Planned, json: bool) -> anyhow::Result<()> {
    let steps = |run: &PlannedRun| if run.baseline.is_some() { 0 } else { run.config.plan.steps };
    if json {
        let one = |run: &PlannedRun| {
            json!({
                "name": run.spec.name,
                "method": run.spec.method,
                "source": run.spec.source,
                "seed": run.spec.seed,
                "steps": steps(run),
                "settings": run.spec.settings,
            })
        };
        let runs: Vec<_> = planned.runs.iter().map(one).collect();
        return report::print(&serde_json::to_string_pretty(&json!({ "runs": runs }))?);
    }
    let rows: Vec<Vec<String>> = planned
        .runs
        .iter()
        .map(|run| {
            let spec = &run.spec;
            vec![spec.name.clone(), spec.method.clone(), spec.source.clone(), steps(run).to_string()]
        })
        .collect();
    let sets: Vec<&str> = planned.judging.sets.iter().map(|set| set.name.as_str()).collect();
    let text = report::columns(&["run", "method", "views from", "steps"], &rows);
    report::print(&format!(
        "{text}{} runs, each judged on {}; dry run: nothing was written\n",
        rows.len(),
        sets.join(", ")
    ))
}

/// What the run's process leaves in `metrics.json`, as far as it counts here.
#[derive(Deserialize)]
struct Trained {
    steps: u64,
    complete: bool,
    seconds_per_step: Option<f64>,
    training: std::collections::BTreeMap<String, f64>,
    regions: RegionCount,
    warnings: Vec<String>,
}

/// What a judgement leaves there.
#[derive(Deserialize)]
struct Judged {
    chance: f64,
    by_share: Vec<ByShare>,
}

/// Does a run, or goes on with what an interrupted try left, and judges its encoder.
fn start(
    args: &TrainContrastiveArgs,
    run: &PlannedRun,
    judging: &Judging,
    place: &Path,
    stop: &Stop,
) -> anyhow::Result<RunFigures> {
    let mut figures = RunFigures::default();
    let settings = place.join("config.toml");
    if run.baseline.is_some() {
        let text = config::to_toml(&run.config)?;
        write_atomic(&settings, |file| file.write_all(text.as_bytes()))?;
    } else {
        settle(place, &run.config)?;
        let arguments = ["train", "contrastive", "--resume"].map(OsStr::new);
        if child(arguments.into_iter().chain([place.as_os_str()]), &args.machine, stop)?.is_none() {
            return Ok(figures);
        }
        let trained: Trained = read(&place.join("metrics.json"))?;
        if !trained.complete {
            let (done, of) = (trained.steps, run.config.plan.steps);
            anyhow::bail!("stopped after {done} of {of} steps; the next call goes on with it");
        }
        figures.steps = trained.steps;
        figures.seconds_per_step = trained.seconds_per_step;
        figures.training = trained.training;
        figures.regions = Some(trained.regions);
        figures.warnings = trained.warnings;
    }
    for set in &judging.sets {
        let target = place.join(format!("on-{}", set.name));
        let mut arguments = judged(run, &settings, place, judging, set);
        arguments.extend(["-o".into(), target.clone().into_os_string()]);
        if child(arguments, &args.machine, stop)?.is_none() {
            return Ok(RunFigures::default());
        }
        let found: Judged = read(&target.join("metrics.json"))?;
        let diverged = found.by_share.iter().find_map(|share| share.diverged.as_ref());
        figures.warnings.extend(diverged.map(|reason| format!("{}: {reason}", set.name)));
        figures.sets.push(SetScore { set: set.name.clone(), chance: found.chance, by_share: found.by_share });
    }
    Ok(figures)
}

/// The command that judges a run's encoder on a set.
fn judged(run: &PlannedRun, settings: &Path, place: &Path, judging: &Judging, set: &Target) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = vec!["evaluate".into(), "contrastive".into()];
    let mut say = |name: &str, value: OsString| arguments.extend([name.into(), value]);
    match run.baseline {
        None => say("--encoder", place.join(ENCODER_FILE).into_os_string()),
        Some(Baseline::Untrained) => {
            say("--config", settings.into());
            say("--calibrate", judging.calibrate.to_string().into());
        }
        Some(Baseline::Pixels) => say("--projection", run.spec.seed.to_string().into()),
    }
    let joined = |numbers: Vec<String>| numbers.join(",").into();
    say("--data", set.path.clone().into_os_string());
    say("--train", set.train.clone().into());
    say("--test", set.test.clone().into());
    say("--size", set.size.unwrap_or(run.config.views.size).to_string().into());
    if let Some(limit) = set.limit {
        say("--limit", limit.to_string().into());
    }
    say("--k", joined(judging.k.iter().map(ToString::to_string).collect()));
    say("--shares", joined(judging.shares.iter().map(ToString::to_string).collect()));
    say("--temperature", judging.temperature.to_string().into());
    say("--draws", judging.draws.to_string().into());
    say("--epochs", judging.epochs.to_string().into());
    say("--rate", judging.rate.to_string().into());
    say("--crops", judging.crops.to_string().into());
    say("--seed", judging.seed.to_string().into());
    if judging.standardise {
        arguments.push("--standardise".into());
    }
    arguments
}

/// Prints what came out.
fn answer(result: &Sweep, against: &str, folder: &Path, json: bool) -> anyhow::Result<()> {
    if json {
        report::print(&serde_json::to_string_pretty(result)?)?;
    } else {
        let percent = |found: Option<Spread>| match found {
            None => "-".to_owned(),
            Some(Spread { mean, deviation: None }) => format!("{:.2}", 100.0 * mean),
            Some(Spread { mean, deviation: Some(off) }) => {
                format!("{:.2} ± {:.2}", 100.0 * mean, 100.0 * off)
            }
        };
        let mut rows = Vec::new();
        for group in groups(&result.runs, against) {
            for score in &group.scores {
                rows.push(vec![
                    score.set.clone(),
                    format!("{}", 100.0 * score.share),
                    group.method.clone(),
                    group.source.clone(),
                    group.runs.to_string(),
                    percent(score.knn),
                    percent(score.knn_gain),
                    percent(score.linear),
                    percent(score.linear_gain),
                ]);
            }
        }
        // Set by set; within one, runs stay in their order.
        rows.sort_by(|a, b| a[..2].cmp(&b[..2]));
        let head =
            ["set", "labels %", "method", "views from", "runs", "neighbours %", "gain", "linear %", "gain"];
        let mut text = report::columns(&head, &rows);
        for failed in &result.failed {
            let _ = writeln!(text, "failed: {}: {}", failed.name, failed.reason);
        }
        report::print(&format!(
            "{text}gains are over views from {against:?}; see {}\n",
            folder.join("sweep.html").display()
        ))?;
    }
    if !result.open.is_empty() {
        report::note(&format!("{} runs are still to be done; the same command goes on", result.open.len()));
    }
    let total = result.runs.len() + result.failed.len() + result.open.len();
    anyhow::ensure!(result.failed.is_empty(), "{} of {total} runs failed", result.failed.len());
    Ok(())
}
