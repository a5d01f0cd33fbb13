//! `kirie models info` and `merge` of what `kirie train semantic` makes.

use std::path::Path;

use kirie_gsam::config::TestConfig;
use serde_json::json;

use crate::device::DeviceArg;
use crate::outputs::check_writable;
use crate::report;
use crate::semantic;

/// What an adapter or a merged model says of itself.
pub(super) fn info(path: &Path, json: bool) -> anyhow::Result<()> {
    let found = semantic::describe(path)?;
    let device = DeviceArg::Cpu.open()?;
    let counts = found.config.counts(&device)?;
    let (config, notes) = (&found.config, &found.notes);
    if json {
        let value = json!({
            "file": path,
            "kind": if found.base_hash.is_some() { "adapter" } else { "merged" },
            "bytes": found.bytes,
            "tensors": found.tensors,
            "base": config.base,
            "base_sha256": found.base_hash,
            "method": config.method,
            "classes": notes.classes,
            "merge": notes.merge,
            "test": notes.test,
            "crop": notes.crop,
            "steps": notes.steps,
            "validation_miou": notes.validation_miou,
            "parameters": counts.total,
            "trained_parameters": counts.trained,
        });
        return report::print(&serde_json::to_string_pretty(&value)?);
    }
    let kind = match &found.base_hash {
        Some(hash) => {
            format!("an adapter for {}, whose weights have the SHA-256\n            {hash}", config.base)
        }
        None => format!("a whole semantic model, merged from {}", config.base),
    };
    let crop = notes.crop.map_or_else(|| "whole pictures".to_owned(), |[h, w]| format!("crops of {w}x{h}"));
    let score = notes
        .validation_miou
        .map_or_else(String::new, |miou| format!("; mIoU {:.2} % on pictures held out", 100.0 * miou));
    let own = if notes.test == TestConfig::default() {
        "whole pictures at their own size".to_owned()
    } else {
        serde_json::to_string(&notes.test)?
    };
    let names = notes.classes.names();
    report::print(&format!(
        "{file}: {kind}\n\
         method      {method}, {tensors} tensors, {bytes:.2} MB; the whole model has {total} parameters\n\
         classes     {count}: {names}\n\
         trained     {steps} steps on {crop}{score}\n\
         segments    {own}\n",
        file = path.display(),
        method = config.method.name(),
        tensors = found.tensors,
        bytes = found.bytes as f64 / 1e6,
        total = counts.total,
        count = names.len(),
        names = names.join(", "),
        steps = notes.steps,
    ))
}

/// Writes an adapter and its base as one file.
pub(super) fn merge(adapter: &Path, output: &Path, base: Option<&Path>) -> anyhow::Result<()> {
    if output.extension().is_none_or(|ending| ending != "safetensors") {
        return Err(report::usage(format!("{} should end in .safetensors", output.display())));
    }
    check_writable(output, false)?;
    let described = semantic::describe(adapter)?;
    if described.base_hash.is_none() {
        return Err(report::usage(format!("{} is merged already", adapter.display())));
    }
    let device = DeviceArg::Cpu.open()?;
    let tuned = semantic::load(adapter, base, &device)?;
    semantic::save_merged(output, tuned)?;
    report::print(&format!("{}: a whole semantic model; no base is needed with it", output.display()))
}
