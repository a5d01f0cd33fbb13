//! The report of a training run, drawn from its log.

use std::ffi::OsStr;
use std::fs;
use std::path::PathBuf;

use kirie_data::{Image, Limits, read_image};
use serde_json::Value;

use super::plot::STYLES;
use super::{LineChart, Page, Picture, Series};
use crate::log::{Record, step};
use crate::{RunError, RunFolder};

/// How many of the last sample pictures are shown.
const SAMPLES: usize = 8;

/// Writes `report.html` of a run: its charts, last pictures and configuration. To be called as often as wished.
///
/// # Errors
/// As [`training_page`] and [`Page::write`].
pub fn training_report(folder: &RunFolder, title: &str, records: &[Record]) -> Result<(), RunError> {
    training_page(folder, title, records)?.write(folder.report_path())
}

/// The page of [`training_report`], for a method that has more to show.
///
/// Every numeric field of the records is drawn over the steps: losses in one chart, learning rates in another, fields
/// that share the part before a dot (`iou.mean`, `iou.worst`) together, each other field alone. Numbers in objects
/// within the record count as fields `object.number`. Then come the last eight pictures `samples/*.jpg`, and the
/// configuration.
///
/// # Errors
/// If the folder's files cannot be read. A sample picture that cannot is named in the page.
pub fn training_page(folder: &RunFolder, title: &str, records: &[Record]) -> Result<Page, RunError> {
    let mut page = Page::new(title);
    let charts = charts(records);
    match records.last().and_then(step) {
        Some(last) => page.paragraph(&format!("{} records, up to step {last}.", records.len())),
        None => page.paragraph("Nothing has been logged yet."),
    };
    if !charts.is_empty() {
        page.heading("Course of the training");
        for chart in &charts {
            page.line_chart(chart);
        }
    }
    samples(&mut page, folder)?;
    if folder.config_path().exists() {
        let table: toml::Table = folder.read_config()?.parse().map_err(|error: toml::de::Error| {
            let (place, reason) = (folder.config_path().display().to_string(), error.message().to_owned());
            RunError::Config { place, reason }
        })?;
        let mut entries = Vec::new();
        flatten_config("", &table, &mut entries);
        page.heading("Configuration").key_values(&entries);
    }
    if let Some(last) = records.last() {
        page.raw_json("last-record", last)?;
    }
    Ok(page)
}

fn samples(page: &mut Page, folder: &RunFolder) -> Result<(), RunError> {
    let path = folder.samples_path();
    if !path.is_dir() {
        return Ok(());
    }
    let mut files = Vec::new();
    for entry in fs::read_dir(&path).map_err(RunError::files(&path, "read"))? {
        let entry = entry.map_err(RunError::files(&path, "read"))?;
        let path = entry.path();
        let ending = path.extension().map(OsStr::to_ascii_lowercase);
        if ending.is_some_and(|ending| ending == "jpg" || ending == "jpeg") {
            // By age first: step-1000 is newer than step-900, whatever the alphabet says.
            let changed = entry.metadata().and_then(|metadata| metadata.modified()).ok();
            files.push((changed, path));
        }
    }
    files.sort();
    let last = &files[files.len().saturating_sub(SAMPLES)..];
    let (mut images, mut unreadable): (Vec<(String, Image)>, Vec<PathBuf>) = (Vec::new(), Vec::new());
    for (_, path) in last {
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        match read_image(path, &Limits::default()) {
            Ok(image) => images.push((name, image)),
            Err(_) => unreadable.push(path.clone()),
        }
    }
    if !last.is_empty() {
        let pictures: Vec<_> =
            images.iter().map(|(caption, image)| Picture { caption, image: image.rgb() }).collect();
        page.heading("Samples").pictures(&pictures);
    }
    for path in unreadable {
        page.paragraph(&format!("{} cannot be read as a picture.", path.display()));
    }
    Ok(())
}

/// The charts, losses first, then in the order in which their fields occur.
fn charts(records: &[Record]) -> Vec<LineChart> {
    let mut fields: Vec<Series> = Vec::new();
    for record in records {
        let Some(step) = step(record) else { continue };
        for (name, value) in record.iter().filter(|(name, _)| *name != "step") {
            collect(name, value, step as f64, &mut fields);
        }
    }
    fields.retain(|field| field.points.iter().any(|point| point.1.is_finite()));
    let mut groups: Vec<(String, Vec<Series>)> = Vec::new();
    for field in fields {
        let name = group(&field.name);
        match groups.iter_mut().find(|(other, members)| *other == name && members.len() < STYLES) {
            Some((_, members)) => members.push(field),
            None => groups.push((name, vec![field])),
        }
    }
    // Stable: the others keep their order.
    groups.sort_by_key(|(name, _)| name != LOSS);
    groups.into_iter().map(|(title, series)| chart(title, series)).collect()
}

const LOSS: &str = "Loss";

fn chart(title: String, series: Vec<Series>) -> LineChart {
    let values =
        series.iter().flat_map(|series| &series.points).map(|point| point.1).filter(|y| y.is_finite());
    let (low, high) = values.fold((f64::INFINITY, 0.0_f64), |(low, high), y| (low.min(y), high.max(y)));
    LineChart {
        x_label: "step".to_owned(),
        y_label: String::new(),
        // Where a linear axis would press most of the course flat.
        log_y: title == LOSS && low > 0.0 && high / low > 50.0,
        smooth: title == LOSS,
        series,
        title,
    }
}

/// Adds the numbers of a field. `null` is a figure that was not finite: a gap.
fn collect(name: &str, value: &Value, step: f64, fields: &mut Vec<Series>) {
    let y = match value {
        Value::Number(number) => number.as_f64().unwrap_or(f64::NAN),
        Value::Null => f64::NAN,
        Value::Object(inner) => {
            for (part, value) in inner {
                collect(&format!("{name}.{part}"), value, step, fields);
            }
            return;
        }
        _ => return,
    };
    match fields.iter_mut().find(|field| field.name == name) {
        Some(field) => field.points.push((step, y)),
        None => fields.push(Series { name: name.to_owned(), points: vec![(step, y)] }),
    }
}

/// The chart that a field belongs to.
fn group(name: &str) -> String {
    let lower = name.to_lowercase();
    let mut words = lower.split(['.', '/', '_', '-', ' ']);
    if words.clone().any(|word| word.starts_with("loss")) {
        LOSS.to_owned()
    } else if words.any(|word| word == "lr") || lower.contains("learning_rate") {
        "Learning rate".to_owned()
    } else {
        name.split_once(['.', '/']).map_or(name, |(group, _)| group).to_owned()
    }
}

fn flatten_config(prefix: &str, table: &toml::Table, entries: &mut Vec<(String, String)>) {
    for (key, value) in table {
        let name = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
        match value {
            toml::Value::Table(inner) => flatten_config(&name, inner, entries),
            toml::Value::String(text) => entries.push((name, text.clone())),
            other => entries.push((name, other.to_string())),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn record(value: Value) -> Record {
        let Value::Object(record) = value else { panic!("no record: {value}") };
        record
    }

    #[test]
    fn fields_are_grouped() {
        let record = record(json!({
            "step": 1, "lr": 1e-4, "loss_dice": 0.5, "val": { "loss": 0.7, "iou": 0.2 }, "iou.mean": 0.3,
            "iou.worst": 0.1, "note": "text", "lr_head": 1e-3, "never": null, "images/s": 12, "done": true,
            "closs": 1.0,
        }));
        let charts = charts(&[record]);
        let found: Vec<_> = charts
            .iter()
            .map(|chart| {
                let names: Vec<_> = chart.series.iter().map(|series| series.name.as_str()).collect();
                format!("{}: {}", chart.title, names.join(" "))
            })
            .collect();
        let expected = [
            "Loss: loss_dice val.loss",
            "Learning rate: lr lr_head",
            "val: val.iou",
            "iou: iou.mean iou.worst",
            "images: images/s",
            "closs: closs",
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn a_report_is_written_again_and_again() {
        let place = tempfile::tempdir().unwrap();
        let folder = RunFolder::create(place.path()).unwrap();
        training_report(&folder, "run", &[]).unwrap();
        assert!(fs::read_to_string(folder.report_path()).unwrap().contains("Nothing has been logged yet."));

        folder.write_config("seed = 1\n[train]\nsize = [1, 2]\nname = \"<b>\"\n").unwrap();
        fs::create_dir(folder.samples_path()).unwrap();
        fs::write(folder.samples_path().join("broken.jpg"), "no picture").unwrap();
        let image = Image::from_raw(2, 2, vec![200; 12]).unwrap();
        kirie_data::write::write_picture(folder.samples_path().join("step-5.jpg"), &image).unwrap();
        let record =
            |step: u64| record(json!({ "step": step, "loss": 10.0 / (step as f64).exp(), "lr": null }));
        let records: Vec<_> = (0..20).map(record).collect();
        training_report(&folder, "run", &records).unwrap();
        let html = fs::read_to_string(folder.report_path()).unwrap();
        for part in [
            "<dt>train.size</dt><dd>[1, 2]</dd>",
            "<dd>&lt;b&gt;</dd>",
            "data:image/jpeg;base64,",
            "<figcaption>step-5</figcaption>",
            "broken.jpg cannot be read as a picture",
            "20 records, up to step 19.",
            "<figcaption>Loss</figcaption>",
            "id=\"last-record\">{\"step\":19,",
        ] {
            assert!(html.contains(part), "{part} is missing");
        }
        assert!(!html.contains("Learning rate"), "a field without a figure has no chart");
    }
}
