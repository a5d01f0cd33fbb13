//! `kirie train contrastive`.

mod file;
mod sweep;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use burn::tensor::Device;
use kirie_gsam::model::state_dict_hash;
use kirie_run::{ProgressMode, RunFolder, Stop, config};
use kirie_sam::checkpoint::StateDict;
use kirie_sam::{BurnEngine, Engine, MaskGeneratorOptions, PointGrid};
use kirie_samclr::config::{BUILT_IN, EncoderConfig, TrainConfig};
use kirie_samclr::data::Pictures;
use kirie_samclr::regions::cache::RegionCache;
use kirie_samclr::regions::{ModelSource, RegionModel, Source, Table, of_pictures};
use kirie_samclr::show;
use kirie_samclr::train::{Summary, run as train, source_name};

use super::absolute;
use crate::args::TrainContrastiveArgs;
use crate::outputs::check_writable;
use crate::report;
use crate::weights;

/// Runs the command.
pub(super) fn run(args: &TrainContrastiveArgs) -> anyhow::Result<()> {
    args.machine.set_threads()?;
    if let Some(file) = &args.sweep {
        return sweep::run(args, file);
    }
    let device = args.machine.device.open()?;
    let stop = Stop::install()?;
    match (&args.resume, &args.config, &args.preview, &args.output) {
        (Some(path), ..) => {
            let folder = RunFolder::open(path)?;
            let config = config::load::<TrainConfig>(Some(&folder.config_path()), &[])?.value;
            go(args, &config, &folder, &device, &stop)
        }
        (None, Some(file), Some(page), _) => {
            let config = read(file, args)?;
            check_writable(page, false)?;
            let (pictures, table) = open(&config, &device, &stop)?;
            show::page(&config, &pictures, &table, args.pictures as usize)?.write(page)?;
            if args.json {
                report::print(&serde_json::to_string_pretty(&table.count)?)?;
            } else {
                report::print(&regions_text(&config, &table))?;
                report::note(&format!("wrote {}", page.display()));
            }
            Ok(())
        }
        (None, Some(file), None, Some(output)) => {
            let config = read(file, args)?;
            check_writable(output, true)?;
            let folder = RunFolder::create(output)?;
            let ran = folder
                .write_config(&config::to_toml(&config)?)
                .map_err(anyhow::Error::from)
                .and_then(|()| go(args, &config, &folder, &device, &stop));
            if ran.is_err() {
                folder.discard_unused();
            }
            ran
        }
        _ => Err(report::usage("--config FILE.toml says what to do, and -o RUN where the run is kept")),
    }
}

/// The configuration with what the command line says over it; its paths mean the same from anywhere.
fn read(file: &Path, args: &TrainContrastiveArgs) -> anyhow::Result<TrainConfig> {
    let mut config = settings(file, &args.sets, args.data.as_deref())?;
    if let Some(path) = &args.init_encoder {
        let path = if path.as_os_str() == BUILT_IN { path.clone() } else { absolute(path)? };
        match &mut config.encoder {
            EncoderConfig::Resnet(resnet) => resnet.init = Some(path),
            EncoderConfig::Sam(sam) => sam.init = Some(path),
        }
    }
    Ok(config)
}

/// A file's configuration with keys over it, and the folder that its sets lie in.
pub(in crate::commands) fn settings(
    file: &Path,
    sets: &[String],
    data: Option<&Path>,
) -> anyhow::Result<TrainConfig> {
    let mut config = config::load::<TrainConfig>(Some(file), sets)?.value;
    config.check()?;
    let base = absolute(file.parent().unwrap_or(Path::new(".")))?;
    let data = data.map(absolute).transpose()?;
    // Masks belong to no configuration: many share them.
    config.regions.cache = absolute(&config.regions.cache)?;
    config.resolve(&base, data.as_deref());
    Ok(config)
}

/// The pictures and their regions.
pub(in crate::commands) fn open(
    config: &TrainConfig,
    device: &Device,
    stop: &Stop,
) -> anyhow::Result<(Pictures, Table)> {
    let mut pictures = Pictures::open(config)?;
    let loaded = match &config.regions.source {
        Source::Model(source) | Source::Moved(source) => Some(load(source, &config.regions.cache, device)?),
        _ => None,
    };
    let model = loaded.as_ref().map(|(engine, options, cache)| RegionModel {
        engine,
        options: options.clone(),
        cache: cache.clone(),
    });
    let table =
        of_pictures(&mut pictures, &config.regions, model.as_ref(), config.seed, stop, ProgressMode::Auto)?;
    Ok((pictures, table))
}

/// The model that finds regions, and the place for its masks, which goes by all that they depend on.
fn load(
    source: &ModelSource,
    cache: &Path,
    device: &Device,
) -> anyhow::Result<(BurnEngine, MaskGeneratorOptions, RegionCache)> {
    let variant = weights::variant(&source.model)?;
    let weights = match &source.weights {
        Some(path) => StateDict::open(path)?,
        None => weights::at_hand(variant)?,
    };
    let own = variant.everything;
    let options = MaskGeneratorOptions {
        grid: PointGrid::PerSide(source.points_per_side.unwrap_or(own.points_per_side)),
        pred_iou_thresh: source.pred_iou_thresh.unwrap_or(own.pred_iou_thresh),
        stability_score_thresh: source.stability_score_thresh.unwrap_or(own.stability_score_thresh),
        ..MaskGeneratorOptions::default()
    };
    options.check().map_err(|e| report::usage(e.to_string()))?;
    let input = source.input.or(own.input);
    let engine = BurnEngine::at_input(variant, &weights, input, device)?;
    let settings =
        format!("weights {}, input {}, {options:?}", state_dict_hash(&weights)?, engine.preprocess().size);
    let cache = RegionCache::open(cache, variant.name, &settings)?;
    Ok((engine, options, cache))
}

/// Trains, or goes on with it.
fn go(
    args: &TrainContrastiveArgs,
    config: &TrainConfig,
    folder: &RunFolder,
    device: &Device,
    stop: &Stop,
) -> anyhow::Result<()> {
    let (pictures, table) = open(config, device, stop)?;
    report::tell(&regions_text(config, &table));
    let summary = train(config, &pictures, &table, folder, device, stop, ProgressMode::Auto)?;
    if args.json {
        report::print(&serde_json::to_string_pretty(&summary)?)?;
    } else {
        report::print(&text(&summary))?;
    }
    summary.warnings.iter().for_each(|warning| report::note(&format!("warning: {warning}")));
    if !summary.complete {
        let run: PathBuf = folder.path().to_owned();
        report::note(&format!(
            "stopped after {} of {} steps, as asked; `kirie train contrastive --resume {}` goes on",
            summary.steps,
            config.plan.steps,
            run.display()
        ));
    }
    Ok(())
}

fn regions_text(config: &TrainConfig, table: &Table) -> String {
    let count = &table.count;
    let from = source_name(&config.regions.source);
    if matches!(config.regions.source, Source::Whole) {
        return format!("{} pictures, views from {from}\n", count.pictures);
    }
    format!(
        "{} pictures, views from {from}: {} of {} regions kept ({:.1} a picture, each {:.1} % of it on average), {} pictures without\n",
        count.pictures,
        count.kept,
        count.found,
        count.kept as f64 / count.pictures.max(1) as f64,
        100.0 * count.mean_share,
        count.without,
    )
}

fn text(summary: &Summary) -> String {
    let mut text = String::new();
    let rows = summary.training.iter().filter(|(name, _)| !matches!(name.as_str(), "step" | "seconds"));
    let rows = rows.map(|(name, value)| vec![name.clone(), format!("{value:.4}")]);
    let validation = summary.validation.iter();
    let rows =
        rows.chain(validation.map(|(name, value)| vec![format!("validation.{name}"), format!("{value:.4}")]));
    text += &report::columns(&["figure", "last"], &rows.collect::<Vec<_>>());
    if let Some(encoder) = &summary.encoder {
        let _ = writeln!(text, "wrote {}", encoder.display());
    }
    text
}
