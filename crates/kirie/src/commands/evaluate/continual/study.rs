//! `kirie evaluate continual --study`: what the finished runs of a study came to, and what other routers would have made of them.

use std::path::Path;

use kirie_moda::base::Base;
use kirie_moda::config::StudyConfig;
use kirie_moda::report::{Report, write};
use kirie_moda::run::{ablate, ablated, finished};
use kirie_run::{ProgressMode, RunError, RunFolder, Stop, config};
use serde_json::json;

use crate::args::EvaluateContinualArgs;
use crate::{report, study};

pub(super) fn run(args: &EvaluateContinualArgs, path: &Path) -> anyhow::Result<()> {
    let (told, complete) = if args.ablate { told_apart(args, path)? } else { (told(path)?, true) };
    if args.json {
        return report::print(&serde_json::to_string_pretty(&json!({ "run": path, "report": told }))?);
    }
    if args.ablate {
        told.ablation_sheets().iter().try_for_each(study::tell_sheet)?;
    } else {
        study::tell(&told)?;
    }
    if !complete {
        report::note("stopped, as asked; what was done until then is told and kept");
    }
    Ok(())
}

/// Reads what is there. A run that is being worked on is told too; its files are left to whoever works on it.
fn told(path: &Path) -> anyhow::Result<Report> {
    let folder = match RunFolder::open(path) {
        Ok(folder) => Some(folder),
        Err(RunError::Locked { .. }) => None,
        Err(error) => return Err(error.into()),
    };
    let config: StudyConfig = config::load(Some(&path.join("config.toml")), &[])?.value;
    let summaries = finished(&config, path)?;
    anyhow::ensure!(!summaries.is_empty(), "{}: none of its runs is finished", path.display());
    if let Some(folder) = folder {
        let told = write(&folder, &config, &summaries)?;
        report::note(&format!("wrote {}", folder.report_path().display()));
        return Ok(told);
    }
    report::note(&format!("{} is being worked on; its files are left as they are", path.display()));
    Ok(Report::new(&config, &summaries, &ablated(path)?))
}

fn told_apart(args: &EvaluateContinualArgs, path: &Path) -> anyhow::Result<(Report, bool)> {
    let device = args.model.machine.open()?;
    let folder = RunFolder::open(path)?;
    let config: StudyConfig = config::load(Some(&folder.config_path()), &args.sets)?.value;
    config.check()?;
    let base = Base::new(&config.model, &study::base_weights(&config)?, &device)?;
    let stop = Stop::install()?;
    ablate(&config, &base, &folder, &stop, ProgressMode::Auto)?;
    let told = write(&folder, &config, &finished(&config, path)?)?;
    report::note(&format!("wrote {}", folder.report_path().display()));
    Ok((told, !stop.requested()))
}
