//! `kirie train semantic --sweep`: every run in a process of its own, so that memory and processor time are the run's own.

mod file;

use std::ffi::OsStr;
use std::fmt::Write;
use std::path::{Path, PathBuf};

use anyhow::Context;
use kirie_gsam::sweep::{ClassScore, RunFigures, RunSpec, Sweep, groups, sweep};
use kirie_run::Stop;
use serde_json::json;

use super::many::{Telling, child, read, settle};
use super::plan::{grouped, macs_text};
use super::semantic::{Metrics, SCORE_FILE, Score};
use crate::args::TrainSemanticArgs;
use crate::outputs::check_writable;
use crate::report;
use crate::semantic::Config;
use file::Planned;

/// Runs the command.
pub(super) fn run(args: &TrainSemanticArgs, file: &Path) -> anyhow::Result<()> {
    let device = args.machine.device.open()?;
    let planned = file::read(file, &args.sets, args.data.as_deref(), &device)?;
    let Some(folder) = args.output.as_deref().filter(|_| !args.dry_run) else {
        return list(&planned, args.json);
    };
    check_writable(folder, true)?;
    let specs: Vec<RunSpec> = planned.runs.iter().map(|run| run.spec.clone()).collect();
    let stop = Stop::install()?;
    let mut telling = Telling::new(folder, specs.iter().map(|spec| &*spec.name), &stop);
    let result = sweep(folder, &planned.title, &specs, &stop, |spec, place| {
        telling.run(&spec.name, |at| {
            let config = &planned.runs.get(at).context("a run that was not planned")?.config;
            start(args, config, &planned.score, place, &stop)
        })
    })?;
    telling.finish();
    answer(&result, folder, args.json)
}

/// What would be run.
fn list(planned: &Planned, json: bool) -> anyhow::Result<()> {
    if json {
        let runs: Vec<_> = planned
            .runs
            .iter()
            .map(|run| {
                json!({
                    "name": run.spec.name,
                    "set": run.spec.set,
                    "method": run.spec.method,
                    "input": run.spec.input,
                    "augmentation": run.spec.augmentation,
                    "seed": run.spec.seed,
                    "size": run.size,
                    "trained_parameters": run.trained,
                    "macs_per_picture": run.macs,
                    "steps": run.config.plan.steps,
                })
            })
            .collect();
        return report::print(&serde_json::to_string_pretty(&json!({ "runs": runs }))?);
    }
    let rows: Vec<Vec<String>> = planned
        .runs
        .iter()
        .map(|run| {
            let [height, width] = run.size;
            vec![
                run.spec.name.clone(),
                format!("{width}x{height}"),
                grouped(run.trained),
                macs_text(run.macs),
                run.config.plan.steps.to_string(),
            ]
        })
        .collect();
    let text = report::columns(&["run", "input", "trained", "MACs a picture", "steps"], &rows);
    report::print(&format!("{text}{} runs; dry run: nothing was written\n", rows.len()))
}

/// Does a run in a process of its own, or goes on with what an interrupted try left.
fn start(
    args: &TrainSemanticArgs,
    config: &Config,
    score: &str,
    place: &Path,
    stop: &Stop,
) -> anyhow::Result<RunFigures> {
    settle(place, config)?;
    let arguments = ["train", "semantic", "--score", score, "--resume"].map(OsStr::new);
    let arguments = arguments.into_iter().chain([place.as_os_str()]);
    if child(arguments, &args.machine, stop)?.is_none() {
        return Ok(RunFigures::default());
    }
    let metrics: Metrics = read(&place.join("metrics.json"))?;
    if !metrics.summary.complete {
        let (done, of) = (metrics.summary.steps, config.plan.steps);
        anyhow::bail!("stopped after {done} of {of} steps; the next call goes on with it");
    }
    Ok(figures(&metrics, &read(&place.join(SCORE_FILE))?))
}

fn figures(metrics: &Metrics, score: &Score) -> RunFigures {
    let (summary, after) = (&metrics.summary, &score.after);
    let class = |class: &kirie_metrics::ClassReport| ClassScore { name: class.name.clone(), iou: class.iou };
    RunFigures {
        miou_before: score.miou_before,
        miou: after.report.miou,
        pixel_accuracy: after.report.pixel_accuracy,
        classes: after.report.classes.iter().map(class).collect(),
        trained_parameters: metrics.trained_parameters,
        stored_parameters: metrics.stored_parameters,
        macs_per_picture: metrics.macs_per_picture,
        peak_memory_bytes: summary.peak_memory_bytes,
        seconds_per_step: summary.seconds_per_step,
        seconds_per_inference: Some(after.seconds_per_picture()),
        cpu_seconds: summary.cpu_seconds,
        steps: summary.steps,
        pictures_seen: summary.pictures_seen,
    }
}

/// Prints what came out.
fn answer(result: &Sweep, folder: &Path, json: bool) -> anyhow::Result<()> {
    if json {
        report::print(&serde_json::to_string_pretty(result)?)?;
    } else {
        let percent =
            |share: Option<f64>| share.map_or_else(|| "-".to_owned(), |s| format!("{:.2}", 100.0 * s));
        let rows: Vec<Vec<String>> = groups(&result.runs)
            .iter()
            .map(|group| {
                let miou = percent(group.miou);
                let deviation = group.miou_deviation.map(|deviation| format!(" ± {:.2}", 100.0 * deviation));
                vec![
                    format!("{} {} {} {}", group.set, group.method, group.input, group.augmentation),
                    group.runs.to_string(),
                    percent(group.miou_before),
                    miou + &deviation.unwrap_or_default(),
                    percent(group.of_largest_miou),
                    percent(group.of_largest_macs),
                    grouped(group.trained_parameters),
                    group.peak_memory_bytes.map_or_else(|| "-".to_owned(), |b| format!("{:.0} MB", b / 1e6)),
                    group.seconds_per_step.map_or_else(|| "-".to_owned(), |s| format!("{s:.2}")),
                ]
            })
            .collect();
        let head = [
            "set, method, input, augmentation",
            "runs",
            "before %",
            "mIoU %",
            "of largest %",
            "MACs of it %",
            "trained",
            "memory",
            "s a step",
        ];
        let mut text = report::columns(&head, &rows);
        for failed in &result.failed {
            let _ = writeln!(text, "failed: {}: {}", failed.name, failed.reason);
        }
        let page: PathBuf = folder.join("sweep.html");
        report::print(&format!("{text}see {}\n", page.display()))?;
    }
    if !result.open.is_empty() {
        report::note(&format!("{} runs are still to be done; the same command goes on", result.open.len()));
    }
    let total = result.runs.len() + result.failed.len() + result.open.len();
    anyhow::ensure!(result.failed.is_empty(), "{} of {total} runs failed", result.failed.len());
    Ok(())
}
