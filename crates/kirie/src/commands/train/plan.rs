//! What a semantic run is about to do, told before it is done: what is trained and what is frozen, on which pictures, at what cost.

use std::fmt::Write;
use std::time::Instant;

use burn::tensor::Device;
use kirie_engine::Method;
use kirie_gsam::data::Inspection;
use kirie_gsam::infer::segment;
use kirie_gsam::model::SemanticModel;
use kirie_gsam::train::SemanticMethod;
use kirie_run::peak_memory;
use kirie_sam::checkpoint::module_keys;
use serde::Serialize;
use serde_json::{Value, json};

use super::semantic::Prepared;
use crate::report;

/// What the methods add to an encoder, by the names of their fields.
const ADDED: [&str; 13] = [
    "cnn_embed",
    "input_Adapter",
    "refine_Adapter",
    "MLP_Adapter",
    "Space_Adapter",
    "refine",
    "post_pos_embed",
    "lora",
    "lora_q",
    "lora_k",
    "lora_v",
    "rel_pos_h",
    "rel_pos_w",
];
/// Bytes that Adam keeps for a trained parameter: two moments.
const ADAM_BYTES: u64 = 8;

/// A part of the network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Part {
    name: String,
    trained: bool,
    parameters: u64,
}

/// What a run takes.
#[derive(Clone, Debug, Serialize)]
struct Estimate {
    seconds_per_step: f64,
    /// Of segmenting one picture that is held out.
    seconds_per_validation_picture: Option<f64>,
    validations: u64,
    /// Of the whole run.
    seconds: f64,
    /// Main memory; none where the system does not say it.
    peak_memory_bytes: Option<u64>,
}

/// The plan for people, and what it will cost, or both for programs.
pub(super) fn dry_run(prepared: &Prepared, device: &Device, json: bool) -> anyhow::Result<()> {
    let estimate = measure(prepared, device)?;
    if json {
        let mut value = value(prepared);
        value["estimate"] = serde_json::to_value(&estimate)?;
        return report::print(&serde_json::to_string_pretty(&value)?);
    }
    let mut text = text(prepared);
    let plan = &prepared.config.plan;
    let _ = writeln!(
        text,
        "estimate    {} steps of {}, {} validations{}: about {} in all",
        plan.steps,
        time(estimate.seconds_per_step),
        estimate.validations,
        estimate
            .seconds_per_validation_picture
            .map_or_else(String::new, |seconds| format!(" of {} a picture", time(seconds))),
        time(estimate.seconds)
    );
    if let Some(bytes) = estimate.peak_memory_bytes {
        let _ = writeln!(text, "            about {} of memory", size(bytes));
    }
    text += "dry run: nothing was written\n";
    report::print(&text)
}

/// Does a step, and segments a picture, to see what they take.
fn measure(prepared: &Prepared, device: &Device) -> anyhow::Result<Estimate> {
    let Prepared { config, pictures, inspection, model, about, .. } = prepared;
    let method = SemanticMethod::new(config, pictures, inspection, model, about, device)?;
    let mut seconds_per_step = 0.0;
    // The first one makes memory and kernels ready, which the others find.
    for step in 0..2 {
        let batch = method.batch(step, 0).map_err(anyhow::Error::from_boxed)?;
        let began = Instant::now();
        let done = method.loss(model, batch, step).map_err(anyhow::Error::from_boxed)?;
        drop(done.loss.backward());
        device.sync()?;
        seconds_per_step = began.elapsed().as_secs_f64() * config.plan.accumulate as f64;
    }
    let mut seconds_per_validation_picture = None;
    if let Some((set, sample)) = pictures.validation().next() {
        let labelled = set.read(sample)?;
        let began = Instant::now();
        segment(&valid(model), &labelled.image, &config.test, device)?;
        seconds_per_validation_picture = Some(began.elapsed().as_secs_f64());
    }
    let plan = &config.plan;
    // Before the first step, now and then, and after the last.
    let between = plan.steps.saturating_sub(1).checked_div(plan.validate_every).unwrap_or(0);
    let validations = if pictures.validation().len() > 0 { between + 2 } else { 0 };
    let validating = seconds_per_validation_picture.unwrap_or(0.0)
        * (validations * pictures.validation().len() as u64) as f64;
    let counts = model.counts();
    let average = if plan.average.is_some() { 4 * counts.total as u64 } else { 0 };
    Ok(Estimate {
        seconds_per_step,
        seconds_per_validation_picture,
        validations,
        seconds: seconds_per_step * plan.steps as f64 + validating,
        peak_memory_bytes: peak_memory().map(|bytes| bytes + ADAM_BYTES * counts.trained as u64 + average),
    })
}

fn valid(model: &SemanticModel) -> SemanticModel {
    use burn::module::Module;
    model.valid()
}

/// What is trained, from what, on what.
pub(super) fn text(prepared: &Prepared) -> String {
    let Prepared { config, network, model, base, inspection, input: [height, width], macs, .. } = prepared;
    let counts = model.counts();
    let parts = parts(model);
    let mut text = String::new();
    let _ = writeln!(
        text,
        "model       {}, {} classes, method {}",
        network.base,
        network.classes,
        config.model.method.name()
    );
    for (title, trained, sum) in
        [("trained", true, counts.trained), ("frozen", false, counts.total - counts.trained)]
    {
        let share = 100.0 * sum as f64 / counts.total as f64;
        let _ = writeln!(text, "{title:<12}{} parameters ({share:.1} %)", grouped(sum as u64));
        for part in parts.iter().filter(|part| part.trained == trained) {
            let _ = writeln!(text, "              {:<34}{:>14}", part.name, grouped(part.parameters));
        }
    }
    let _ = writeln!(text, "adapter     {}", size(counts.stored_bytes as u64));
    let _ = writeln!(text, "from base   {}", base.to_string().replace("; ", "\n              "));
    text += &pictures(inspection);
    let cut = match config.input.crop {
        Some(_) => "crops of",
        None => "whole pictures, in the first batch",
    };
    let _ = writeln!(
        text,
        "input       {cut} {width}x{height}, {} a batch; {} multiply-accumulates each",
        config.data.batch,
        macs_text(*macs)
    );
    for warning in &inspection.warnings {
        let _ = writeln!(text, "warning     {warning}");
    }
    text
}

fn pictures(inspection: &Inspection) -> String {
    let range = |[least, most]: [u32; 2]| {
        if least == most { least.to_string() } else { format!("{least} to {most}") }
    };
    let mut text = format!(
        "pictures    {} to learn from, {} held out; {} wide, {} high\n",
        inspection.pictures,
        inspection.validation_pictures,
        range(inspection.sizes.width),
        range(inspection.sizes.height)
    );
    for found in &inspection.found {
        let _ = writeln!(text, "              {found}");
    }
    let rows: Vec<Vec<String>> = inspection
        .classes
        .iter()
        .map(|class| {
            vec![
                format!("  {}", class.name),
                format!("{:.2} %", 100.0 * class.share),
                class.pictures.to_string(),
                class.validation_pictures.to_string(),
            ]
        })
        .collect();
    text += &report::columns(&["class", "of the pixels", "pictures", "held out"], &rows);
    let mut shares = Vec::new();
    if let Some(share) = inspection.foreground {
        shares.push(format!("{:.2} % of the labelled pixels are not background", 100.0 * share));
    }
    if inspection.ignored > 0.0 {
        shares.push(format!("{:.2} % of all pixels count nowhere", 100.0 * inspection.ignored));
    }
    if !shares.is_empty() {
        let _ = writeln!(text, "shares      {}", shares.join("; "));
    }
    text
}

fn value(prepared: &Prepared) -> Value {
    let Prepared { config, network, model, base, inspection, base_hash, input, macs, .. } = prepared;
    let counts = model.counts();
    json!({
        "base": network.base,
        "base_sha256": base_hash,
        "method": config.model.method,
        "parameters": {
            "total": counts.total,
            "trained": counts.trained,
            "stored_bytes": counts.stored_bytes,
            "parts": parts(model),
        },
        "from_base": {
            "copied": base.copied.len(),
            "adapted": base.adapted,
            "new": base.fresh,
            "unused": base.unused,
        },
        "data": inspection,
        "input": { "size": input, "crop": config.input.crop, "batch": config.data.batch, "macs_per_picture": macs },
        "steps": config.plan.steps,
    })
}

/// The parameters by part, in the network's order; trained and frozen ones of a part apart.
fn parts(model: &SemanticModel) -> Vec<Part> {
    let trained: std::collections::HashSet<String> = model.trained_keys().into_iter().collect();
    let frozen: std::collections::HashSet<String> = model.frozen_keys().into_iter().collect();
    let mut parts: Vec<Part> = Vec::new();
    for key in module_keys(model) {
        let is_trained = trained.contains(&key.key);
        if !is_trained && !frozen.contains(&key.key) {
            continue;
        }
        let name = part_of(&key.key);
        let parameters = key.shape.iter().product::<usize>() as u64;
        match parts.iter_mut().find(|part| part.name == name && part.trained == is_trained) {
            Some(part) => part.parameters += parameters,
            None => parts.push(Part { name, trained: is_trained, parameters }),
        }
    }
    parts
}

/// `image_encoder, MLP_Adapter` of `image_encoder.blocks.3.MLP_Adapter.D_fc1.weight`.
fn part_of(key: &str) -> String {
    let mut segments = key.split('.');
    let first = segments.next().unwrap_or_default();
    match segments.find(|segment| ADDED.contains(segment)) {
        Some(added) if first == "image_encoder" => format!("{first}, {added}"),
        _ => first.to_owned(),
    }
}

/// A number with its digits in threes.
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Multiply-accumulates in a unit that leaves few digits.
pub(super) fn macs_text(macs: u64) -> String {
    if macs >= 1_000_000_000 {
        format!("{:.2} G", macs as f64 / 1e9)
    } else {
        format!("{:.1} M", macs as f64 / 1e6)
    }
}

fn size(bytes: u64) -> String {
    match bytes {
        1_000_000_000.. => format!("{:.2} GB", bytes as f64 / 1e9),
        1_000_000.. => format!("{:.1} MB", bytes as f64 / 1e6),
        _ => format!("{:.0} kB", bytes as f64 / 1e3),
    }
}

fn time(seconds: f64) -> String {
    match seconds {
        ..1.0 => format!("{seconds:.2} s"),
        ..100.0 => format!("{seconds:.1} s"),
        ..6000.0 => format!("{:.0} min", seconds / 60.0),
        _ => format!("{:.1} h", seconds / 3600.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_short() {
        let numbers = [0, 999, 1000, 3_985_072].map(grouped);
        assert_eq!(numbers, ["0", "999", "1,000", "3,985,072"]);
        assert_eq!([2_500_000, 7_000_000_000].map(macs_text), ["2.5 M", "7.00 G"]);
        assert_eq!([1_500, 2_000_000, 3_000_000_000].map(size), ["2 kB", "2.0 MB", "3.00 GB"]);
        assert_eq!([0.25, 5.0, 600.0, 7200.0].map(time), ["0.25 s", "5.0 s", "10 min", "2.0 h"]);
    }

    #[test]
    fn parts_go_by_what_was_added() {
        assert_eq!(part_of("image_encoder.blocks.3.MLP_Adapter.D_fc1.weight"), "image_encoder, MLP_Adapter");
        assert_eq!(part_of("image_encoder.blocks.3.attn.qkv.weight"), "image_encoder");
        assert_eq!(part_of("mask_decoder.mask_tokens.weight"), "mask_decoder");
    }
}
