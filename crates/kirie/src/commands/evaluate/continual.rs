//! `kirie evaluate continual`.

mod study;

use std::fmt::Write as _;

use anyhow::Context;
use kirie_moda::data::{Foreground, Part};
use kirie_moda::measure::{Measured, measure};
use kirie_moda::store::domain_folders;
use kirie_run::{Progress, ProgressMode};
use serde_json::json;

use crate::args::EvaluateContinualArgs;
use crate::{domains, report};

pub(super) fn run(args: &EvaluateContinualArgs) -> anyhow::Result<()> {
    if let Some(path) = &args.study {
        return study::run(args, path);
    }
    let data = args.data.as_ref().context("--data names the labelled set")?;
    args.model.machine.set_threads()?;
    let folders = match &args.domains {
        Some(path) => domain_folders(path)?,
        None => args.domain.clone(),
    };
    anyhow::ensure!(!folders.is_empty(), "there is no domain's folder (one with a domain.toml)");
    let foreground = if args.foreground.is_empty() {
        Foreground::default()
    } else {
        Foreground::Classes(args.foreground.clone())
    };
    let part = Part::open(data, &args.split, &foreground, None, None)?;
    anyhow::ensure!(!part.is_empty(), "{}: no picture has a foreground", data.display());
    let base = domains::base(&args.model, &folders)?;
    let (pool, refused) = domains::pool(&base, &folders)?;
    let limit = args.limit.map_or(0, |limit| limit as usize);
    let count = if limit == 0 { part.len() } else { limit.min(part.len()) };
    let mut progress = Progress::new("picture", count as u64, 0, ProgressMode::Auto);
    let mut tell = |done: usize, _: usize| progress.set(done as u64, "");
    let measured = measure(&pool, &base, &part, limit, args.expect.as_deref(), &mut tell)?;
    progress.finish();
    if args.json {
        let domains: Vec<&str> = pool.names().collect();
        let left_out: Vec<_> =
            refused.iter().map(|r| json!({ "folder": r.folder, "reason": r.reason })).collect();
        let mut value =
            json!({ "data": data, "split": args.split, "domains": domains, "left_out": left_out });
        if let (Some(all), serde_json::Value::Object(figures)) =
            (value.as_object_mut(), serde_json::to_value(&measured)?)
        {
            all.extend(figures);
        }
        return report::print(&serde_json::to_string_pretty(&value)?);
    }
    report::print(&text(&measured, args.expect.as_deref()))
}

fn text(measured: &Measured, expect: Option<&str>) -> String {
    let percent = |value: f64| format!("{:.1}", 100.0 * value);
    let mut rows = Vec::new();
    for (kind, scores) in &measured.scores {
        let mut add = |who: &str, scores: &kirie_moda::evaluate::Scores| {
            let name = format!("{}, {who}", kind.name());
            rows.push(vec![name, percent(scores.iou), percent(scores.boundary_iou)]);
        };
        add("routed", scores);
        if let (Some(expected), Some(name)) = (&measured.expected, expect)
            && let Some(scores) = expected.get(kind)
            && name != kirie_moda::measure::BASE
        {
            add(&format!("all by {name}"), scores);
        }
        if let Some(scores) = measured.base.get(kind) {
            add("base alone", scores);
        }
    }
    let mut text = report::columns(&["percent", "IoU", "boundary IoU"], &rows);
    let _ = writeln!(text, "{} pictures, {} more without a foreground", measured.pictures, measured.empty);
    for (name, count) in &measured.routed {
        let _ = writeln!(text, "answered by {name}: {count}");
    }
    text
}
