//! `kirie train continual`.

use std::path::Path;

use kirie_moda::base::Base;
use kirie_moda::config::StudyConfig;
use kirie_moda::report::Sheet;
use kirie_moda::run::{self, Outcome, Summary};
use kirie_run::{ProgressMode, RunFolder, Stop, config};
use serde_json::json;

use super::absolute;
use crate::args::TrainContinualArgs;
use crate::outputs::check_writable;
use crate::{report, study};

pub(super) fn run(args: &TrainContinualArgs) -> anyhow::Result<()> {
    let device = args.machine.open()?;
    let (mut config, folder): (StudyConfig, RunFolder) = match (&args.resume, &args.output) {
        (Some(path), _) => {
            let folder = RunFolder::open(path)?;
            (config::load(Some(&folder.config_path()), &[])?.value, folder)
        }
        (None, Some(output)) => {
            let file = args.config.as_deref();
            let mut config = config::load::<StudyConfig>(file, &args.sets)?.value;
            config.check()?;
            // The run folder's copy must mean the same from wherever the run is resumed.
            config.resolve(&absolute(file.and_then(Path::parent).unwrap_or(Path::new(".")))?);
            if let Some(data) = &args.data {
                config.data.root = Some(absolute(data)?);
            }
            check_writable(output, true)?;
            (config, RunFolder::create(output)?)
        }
        (None, None) => return Err(report::usage("-o RUN says where the run is kept")),
    };
    let mut go = || -> anyhow::Result<Outcome> {
        let base = Base::new(&config.model, &study::base_weights(&config)?, &device)?;
        config.model.sha256 = Some(base.hash().to_owned());
        folder.write_config(&config::to_toml(&config)?)?;
        let stop = Stop::install()?;
        Ok(run::study(&config, &base, &folder, &stop, ProgressMode::Auto)?)
    };
    let outcome = match go() {
        Ok(outcome) => outcome,
        Err(error) => {
            if args.resume.is_none() && !folder.path().join("runs").exists() {
                folder.discard_unused();
            }
            return Err(error);
        }
    };
    print(args, &config, &folder, &outcome)
}

fn print(
    args: &TrainContinualArgs,
    config: &StudyConfig,
    folder: &RunFolder,
    outcome: &Outcome,
) -> anyhow::Result<()> {
    let kind = config.data.prompts[0];
    if args.json {
        let summary = json!({
            "run": folder.path(),
            "complete": outcome.complete,
            "report": outcome.report,
            "runs": outcome.summaries,
        });
        report::print(&format!("{summary:#}"))?;
    } else if !outcome.summaries.is_empty() {
        let percent =
            |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |v| format!("{:.1}", 100.0 * v));
        let row = |summary: &Summary| {
            let figures = summary.figures.get(&kind);
            let report = figures.and_then(|figures| figures.iou.as_ref());
            let natural = figures.and_then(|figures| figures.natural);
            vec![
                summary.strategy.name().to_owned(),
                summary.order.clone(),
                summary.seed.to_string(),
                percent(figures.map(|figures| figures.last.iou)),
                percent(report.map(|report| report.avg)),
                percent(report.and_then(|report| report.forgetting_max)),
                percent(natural.map(|(last, _)| last.iou)),
                percent(natural.map(|(last, base)| last.iou - base.iou)),
                percent(summary.routing_accuracy),
            ]
        };
        let headers = ["Run", "Order", "Seed", "Last", "Avg", "FF", "Natural", "Change", "Own"];
        study::tell_sheet(&Sheet {
            title: format!("Run by run, IoU in percent, asked by {}", kind.name()),
            headers: headers.map(str::to_owned).to_vec(),
            rows: outcome.summaries.iter().map(row).collect(),
        })?;
        study::tell(&outcome.report)?;
        report::print(&format!("wrote {}", folder.report_path().display()))?;
    }
    if !outcome.complete {
        let run = folder.path().display();
        report::note(&format!(
            "stopped after {} finished runs, as asked; `kirie train continual --resume {run}` goes on",
            outcome.summaries.len()
        ));
    }
    Ok(())
}
