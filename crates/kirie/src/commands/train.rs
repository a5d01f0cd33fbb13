//! `kirie train`.

mod continual;
pub(super) mod contrastive;
mod many;
mod plan;
mod semantic;
mod sweep;
mod weak;

use std::path::{Path, PathBuf};

use kirie_promptable::train::{self, TrainConfig};
use kirie_run::{ProgressMode, RunFolder, Stop, config};
use serde_json::json;

use crate::args::{TrainArgs, TrainCommand, TrainRunArgs};
use crate::report;

pub(crate) fn run(args: TrainArgs) -> anyhow::Result<()> {
    match args.command {
        TrainCommand::Promptable(args) => promptable(&args),
        TrainCommand::Semantic(args) => semantic::run(&args),
        TrainCommand::Continual(args) => continual::run(&args),
        TrainCommand::Contrastive(args) => contrastive::run(&args),
        TrainCommand::Weak(args) => weak::run(&args),
    }
}

fn promptable(args: &TrainRunArgs) -> anyhow::Result<()> {
    let device = args.machine.open()?;
    let (config, folder): (TrainConfig, RunFolder) = match (&args.resume, &args.output) {
        (Some(path), _) => {
            let folder = RunFolder::open(path)?;
            (config::load(Some(&folder.config_path()), &[])?.value, folder)
        }
        (None, Some(output)) => {
            let file = args.config.as_deref();
            let mut loaded = config::load::<TrainConfig>(file, &args.sets)?;
            loaded.value.check()?;
            let base = file.and_then(Path::parent).unwrap_or(Path::new("."));
            // The run folder's copy must mean the same from wherever the run is resumed.
            loaded.value.resolve(&absolute(base)?);
            if let Some(data) = &args.data {
                loaded.value.data.root = Some(absolute(data)?);
            }
            let folder = RunFolder::create(output)?;
            folder.write_config(&loaded.to_toml()?)?;
            (loaded.value, folder)
        }
        (None, None) => return Err(report::usage("-o RUN says where the run is kept")),
    };
    let stop = Stop::install()?;
    let outcome = match train::run(&config, &folder, &device, &stop, ProgressMode::Auto) {
        Ok(outcome) => outcome,
        Err(error) => {
            if args.resume.is_none() {
                folder.discard_unused();
            }
            return Err(error.into());
        }
    };
    let summary = json!({
        "run": folder.path(),
        "steps": outcome.steps,
        "complete": outcome.complete,
        "validation": outcome.figures.iter().cloned().collect::<std::collections::BTreeMap<String, f64>>(),
        "model": outcome.model,
    });
    folder.write_metrics(&summary)?;
    if args.json {
        report::print(&format!("{summary:#}"))?;
    } else {
        for (name, value) in &outcome.figures {
            report::print(&format!("{name}  {value:.4}"))?;
        }
        if let Some(model) = &outcome.model {
            report::print(&format!("wrote {}", model.display()))?;
        }
    }
    if !outcome.complete {
        let run = folder.path().display();
        report::note(&format!(
            "stopped after {} of {} steps, as asked; `kirie train promptable --resume {run}` goes on",
            outcome.steps, config.plan.steps
        ));
    }
    Ok(())
}

fn absolute(path: &Path) -> anyhow::Result<PathBuf> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    Ok(std::path::absolute(path)?)
}
