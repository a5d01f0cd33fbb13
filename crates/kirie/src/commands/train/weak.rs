//! `kirie train weak`.

mod sweep;

use std::path::{Path, PathBuf};

use burn::tensor::Device;

use kirie_gsam::model::state_dict_hash;
use kirie_run::{ProgressMode, RunFolder, Stop, config};
use kirie_sam::checkpoint::StateDict;
use kirie_sam::{BurnEngine, Engine, SamError, registry};
use kirie_weaksam::WeakError;
use kirie_weaksam::labels::Tagged;
use kirie_weaksam::run::{Context, Done, SamSettings, Stage, WeakConfig, run as run_chain};
use serde_json::json;

use super::absolute;
use crate::args::TrainWeakArgs;
use crate::outputs::check_writable;
use crate::report;
use crate::weights;

/// Runs the command.
pub(super) fn run(args: &TrainWeakArgs) -> anyhow::Result<()> {
    if let Some(file) = &args.sweep {
        return sweep::run(args, file);
    }
    let device = args.machine.open()?;
    for other in &args.reuse {
        anyhow::ensure!(other.join("config.toml").is_file(), "--reuse {}: holds no run", other.display());
    }
    let (config, folder) = open(args)?;
    let stop = Stop::install()?;
    let stages = if args.stages.is_empty() { &Stage::AUTOMATIC[..] } else { &args.stages };
    let done = in_context(&device, &stop, &args.reuse, |context| {
        run_chain(&config, &folder, stages, context, &mut |text| report::tell(text))
    });
    let done = match done {
        Ok(done) => done,
        Err(WeakError::Stopped { during }) => {
            let run = folder.path().display();
            report::note(&format!("stopped as asked {during}; `kirie train weak --resume {run}` goes on"));
            return Ok(());
        }
        Err(error) => return Err(error.into()),
    };
    tell(args, &folder, &done)
}

/// Does something with all that the chain is given from outside.
fn in_context<T>(device: &Device, stop: &Stop, reuse: &[PathBuf], work: impl FnOnce(&Context<'_>) -> T) -> T {
    let engine = |settings: &SamSettings| -> Result<Box<dyn Engine>, WeakError> {
        let variant = registry::variant(&settings.model)?;
        let weights = weights_of(settings)?;
        Ok(Box::new(BurnEngine::at_input(variant, &weights, settings.input, device)?))
    };
    let base = |name: &str| -> Result<Option<StateDict>, WeakError> {
        weights::at_hand(registry::variant(name)?).map(Some).map_err(of_engine)
    };
    let engine_hash = |settings: &SamSettings| -> Result<String, WeakError> {
        state_dict_hash(&weights_of(settings)?).map_err(|error| of_engine(error.into()))
    };
    work(&Context {
        engine: &engine,
        base: &base,
        engine_hash: &engine_hash,
        device,
        reuse,
        stop,
        mode: ProgressMode::Auto,
    })
}

/// The configuration and the run's folder, new or old.
fn open(args: &TrainWeakArgs) -> anyhow::Result<(WeakConfig, RunFolder)> {
    if let Some(path) = &args.resume {
        let folder = RunFolder::open(path)?;
        let mut loaded = config::load::<WeakConfig>(Some(&folder.config_path()), &args.sets)?;
        loaded.value.check()?;
        if !args.sets.is_empty() {
            loaded.value.resolve(&absolute(Path::new("."))?);
            folder.write_config(&loaded.to_toml()?)?;
        }
        return Ok((loaded.value, folder));
    }
    let (Some(file), Some(output)) = (&args.config, &args.output) else {
        return Err(report::usage("--config FILE.toml says what to do, and -o RUN where the run is kept"));
    };
    let mut loaded = config::load::<WeakConfig>(Some(file), &args.sets)?;
    loaded.value.check()?;
    // The run folder's copy must mean the same from wherever the run is resumed.
    if let Some(data) = &args.data {
        loaded.value.data.resolve(&absolute(data)?);
    }
    loaded.value.resolve(&absolute(file.parent().unwrap_or(Path::new(".")))?);
    // What cannot be learned from is said before a folder is made for it.
    Tagged::open(&loaded.value.data)?;
    check_writable(output, true)?;
    let folder = RunFolder::create(output)?;
    folder.write_config(&loaded.to_toml()?)?;
    Ok((loaded.value, folder))
}

fn weights_of(settings: &SamSettings) -> Result<StateDict, WeakError> {
    match &settings.weights {
        Some(path) => Ok(StateDict::open(path)?),
        None => weights::at_hand(registry::variant(&settings.model)?).map_err(of_engine),
    }
}

/// The library knows nothing of where weights are kept.
fn of_engine(error: anyhow::Error) -> WeakError {
    WeakError::Sam(SamError::Engine(format!("{error:#}")))
}

fn tell(args: &TrainWeakArgs, folder: &RunFolder, done: &[Done]) -> anyhow::Result<()> {
    let summary = json!({ "run": folder.path(), "stages": done });
    folder.write_metrics(&summary)?;
    if args.json {
        return report::print(&serde_json::to_string_pretty(&summary)?);
    }
    for stage in done {
        let figures = stage.figures.as_object().into_iter().flatten();
        let figures: Vec<String> = figures
            .filter(|(_, value)| value.is_number())
            .map(|(name, value)| format!("{} {value:.4}", name.replace('_', " ")))
            .collect();
        let figures = if figures.is_empty() { String::new() } else { format!("  ({})", figures.join(", ")) };
        report::print(&format!("{}  {}{figures}", stage.stage.name(), stage.folder.display()))?;
    }
    Ok(())
}
