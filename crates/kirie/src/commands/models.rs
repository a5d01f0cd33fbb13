//! `kirie models`.

mod adapter;

use std::path::{Path, PathBuf};

use burn::tensor::Device;
use kirie_data::{create_parent, write_atomic};
use kirie_sam::checkpoint::{FloatFormat, StateDict, metadata, state_dict_of, write_safetensors_to};
use kirie_sam::hub::{self, Integrity, Progress, PullOptions, Verified};
use kirie_sam::registry::{self, Variant};
use kirie_sam::{BurnEngine, Engine};
use serde_json::{Value, json};

use crate::args::{ModelsArgs, ModelsCommand};
use crate::device::DeviceArg;
use crate::outputs::check_writable;
use crate::report;
use crate::weights;

/// Runs the command.
pub(crate) fn run(args: ModelsArgs) -> anyhow::Result<()> {
    match args.command {
        ModelsCommand::List { json } => list(json),
        ModelsCommand::Info { model, json } => info(&model, json),
        ModelsCommand::Pull { models, json } => pull(&models, json),
        ModelsCommand::Convert { input, output, model, half } => {
            convert(&input, &output, model.as_deref(), half)
        }
        ModelsCommand::Merge { adapter, output, weights } => {
            adapter::merge(&adapter, &output, weights.as_deref())
        }
    }
}

fn cached(variant: &Variant) -> Option<PathBuf> {
    hub::cached(variant.remote.as_ref()?, &hub::cache_dir().ok()?)
}

fn describe(variant: &Variant) -> Value {
    let preprocess = variant.preprocess;
    let (kind, digest) = match variant.remote.map(|remote| remote.integrity) {
        Some(Integrity::Sha256(d)) => ("sha256", Some(d)),
        Some(Integrity::Sha256Prefix(d)) => ("sha256-prefix", Some(d)),
        Some(Integrity::Md5(d)) => ("md5", Some(d)),
        Some(Integrity::Announced) => ("announced-by-hub", None),
        None => ("none", None),
    };
    json!({
        "name": variant.name,
        "about": variant.about,
        "parameters": variant.parameters,
        "input_size": preprocess.size,
        "prompt_frame": preprocess.frame,
        "pixel_mean": decimal(preprocess.mean),
        "pixel_std": decimal(preprocess.std),
        "hq": variant.is_hq(),
        "licence": variant.licence,
        "url": variant.remote.map(|remote| remote.url),
        "file": variant.remote.map(|remote| remote.file),
        "integrity": { "kind": kind, "digest": digest },
        "cached": cached(variant),
        "built_in": variant.built_in.is_some(),
        "zoom": variant.zoom,
    })
}

/// The numbers as they are written in the table, not with the digits that float32 adds.
fn decimal(values: [f32; 3]) -> [f64; 3] {
    values.map(|v| (f64::from(v) * 1000.0).round() / 1000.0)
}

fn list(json: bool) -> anyhow::Result<()> {
    if json {
        let all: Vec<Value> = registry::variants().iter().map(describe).collect();
        return report::print(&serde_json::to_string_pretty(&all)?);
    }
    let row = |name, parameters: String, input: String, weights, about| {
        format!("{name:<22}{parameters:>10}  {input:>5}  {weights:<8}{about}\n")
    };
    let head = row("model", "parameters".into(), "input".into(), "weights", "what it is");
    let rows = registry::variants().iter().map(|v| {
        let here = match (v.built_in, cached(v)) {
            (Some(_), _) => "inside",
            (None, Some(_)) => "here",
            (None, None) => "-",
        };
        row(
            v.name,
            format!("{:.1} M", v.parameters as f64 / 1e6),
            v.preprocess.size.to_string(),
            here,
            v.about,
        )
    });
    report::print(&[head].into_iter().chain(rows).collect::<String>())
}

fn info(model: &str, json: bool) -> anyhow::Result<()> {
    let path = Path::new(model);
    let is_file = registry::variant(model).is_err() && path.exists();
    if is_file && crate::semantic::is_semantic(path) {
        return adapter::info(path, json);
    }
    let file = if is_file { Some(StateDict::open(path)?) } else { None };
    let variant = match &file {
        Some(weights) => registry::identify(weights, &DeviceArg::Cpu.open()?).ok_or_else(|| {
            anyhow::anyhow!("{model} holds {} tensors that fit no registered model", weights.keys().count())
        })?,
        None => weights::variant(model)?,
    };
    let (sizes, input) =
        file.as_ref().map_or((variant.config(), variant.preprocess.size), |file| variant.sizes_of(file));
    let parameters = sizes.parameters(&DeviceArg::Cpu.open()?);
    if json {
        let mut value = describe(variant);
        if is_file {
            value["weights"] = json!(path);
            value["parameters"] = json!(parameters);
            value["input_size"] = json!(input);
        }
        return report::print(&serde_json::to_string_pretty(&value)?);
    }
    let weights = Some(path.to_owned()).filter(|_| is_file).or_else(|| cached(variant));
    let here = weights.map_or_else(
        || match (variant.built_in, variant.remote) {
            (Some(bytes), _) => format!("inside the program, {:.1} MB", bytes.len() as f64 / 1e6),
            (None, Some(_)) => format!("not here; `kirie models pull {}` fetches them", variant.name),
            (None, None) => "this build has none (feature built-in)".to_owned(),
        },
        |path| path.display().to_string(),
    );
    report::print(&format!(
        "{name}: {about}\n\
         parameters  {parameters}\n\
         input       longer side {input} pixels, padded to {input}x{input}\n\
         output      masks of {masks}x{masks}, enlarged to the picture's size\n\
         weights     {here}\n\
         from        {url}\n\
         licence     {licence}\n",
        name = variant.name,
        masks = 4 * sizes.prompt_encoder.embedding_size,
        about = variant.about,
        url = variant.remote.map_or("kirie's own training", |remote| remote.url),
        licence = variant.licence,
    ))
}

fn pull(models: &[String], json: bool) -> anyhow::Result<()> {
    let variants: Vec<_> = models.iter().map(|name| weights::variant(name)).collect::<Result<_, _>>()?;
    let options = PullOptions::from_env()?;
    let mut results = Vec::new();
    for variant in variants {
        let Some(remote) = &variant.remote else {
            let name = variant.name;
            return Err(report::usage(format!("{name} is inside the program; there is nothing to fetch")));
        };
        let bar = report::progress_bar(0, "bytes");
        bar.set_message(variant.name);
        let pulled = hub::pull(remote, &options, &mut |progress| match progress {
            Progress::Downloading { done, total, .. } => {
                bar.set_message(variant.name);
                bar.set_length(total.unwrap_or(done));
                bar.set_position(done);
            }
            Progress::Verifying { done, total } => {
                bar.set_message(format!("{}, verifying", variant.name));
                bar.set_length(total);
                bar.set_position(done);
            }
            Progress::Waiting => bar.set_message(format!("{}, waiting for another download", variant.name)),
            Progress::Retrying { failures, retries, reason } => {
                bar.suspend(|| report::note(&format!("attempt {failures} of {retries} failed: {reason}")));
            }
            Progress::Damaged { .. } => {
                bar.suspend(|| report::note("the file on disk is damaged; fetching it anew"));
            }
            _ => {}
        });
        bar.finish_and_clear();
        let pulled = match pulled {
            Ok(pulled) => pulled,
            Err(error) => {
                // Those before it are done, whatever comes of this one.
                if json && !results.is_empty() {
                    report::print(&serde_json::to_string_pretty(&results)?)?;
                }
                return Err(error.into());
            }
        };
        if json {
            results.push(json!({
                "name": variant.name,
                "path": pulled.path,
                "sha256": pulled.sha256,
                "bytes": pulled.bytes,
                "received": pulled.received,
                "verified": format!("{:?}", pulled.verified).to_lowercase(),
            }));
        } else {
            let how = match pulled.verified {
                Verified::Pinned => "digest as published",
                Verified::Announced => "digest as announced by the hub",
                Verified::Recorded => "digest as when it was fetched",
                Verified::Nothing => "no digest to compare with",
            };
            let source = if pulled.received == 0 { "was here" } else { "fetched" };
            let path = pulled.path.display();
            report::print(&format!(
                "{}: {source}, {how}\n  {path}\n  sha256 {}\n",
                variant.name, pulled.sha256
            ))?;
        }
    }
    if json { report::print(&serde_json::to_string_pretty(&results)?) } else { Ok(()) }
}

fn convert(input: &Path, output: &Path, model: Option<&str>, half: bool) -> anyhow::Result<()> {
    if output.extension().is_none_or(|e| e != "safetensors") {
        return Err(report::usage(format!("{} should end in .safetensors", output.display())));
    }
    check_writable(output, false)?;
    let named = model.map(weights::variant).transpose()?;
    let device: Device = DeviceArg::Cpu.open()?;
    let file = StateDict::open(input)?;
    let Some(variant) = named.or_else(|| registry::identify(&file, &device)) else {
        anyhow::bail!(
            "{} fits no model of `kirie models list`; with --model NAME you are told what differs",
            input.display()
        )
    };
    // Through the model, so that what is written is known to load.
    let engine = BurnEngine::from_state_dict(variant, &file, &device)?;
    let (sizes, _) = variant.sizes_of(&file);
    let about = metadata(variant.name, variant.licence, &sizes, &engine.preprocess());
    create_parent(output)?;
    let format = if half { FloatFormat::F16 } else { FloatFormat::F32 };
    write_atomic(output, |file| write_safetensors_to(file, &state_dict_of(engine.sam()), &about, format))?;
    report::print(&format!("{}: {} weights", output.display(), variant.name))
}
