//! The figures for people.

use std::fmt::Write;

use kirie_data::datasets::Dataset;
use kirie_metrics::ObjectReport;
use kirie_promptable::evaluate::{DetectedReport, EverythingReport, PromptedReport, Recall, Skipped};

use super::Run;
use crate::args::EvaluatePromptableArgs;
use crate::report;

/// All runs as text.
pub(super) fn text(args: &EvaluatePromptableArgs, dataset: &Dataset, runs: &[Run]) -> String {
    let mut text = format!("{}\n", heading(args, dataset, runs));
    let asked: Vec<&PromptedReport> = runs.iter().filter_map(Run::prompted).collect();
    if let Some(first) = asked.first() {
        text += &report::columns(&HEADERS, &rows(&asked));
        for run in &asked {
            if run.summary.miou_by_click.len() > 1 {
                let ious: Vec<String> =
                    run.summary.miou_by_click.iter().map(|iou| format!("{iou:.4}")).collect();
                let _ = writeln!(text, "{}: mIoU after each click {}", run.summary.prompt, ious.join(" "));
            }
        }
        text += &skipped(first.summary.skipped);
    }
    for run in runs {
        match run {
            Run::Prompted(_) => {}
            Run::Detected(run) => text += &detections(run),
            Run::Everything(run) => text += &recall(run),
        }
    }
    text
}

/// Model, set and number of pictures.
pub(super) fn heading(args: &EvaluatePromptableArgs, dataset: &Dataset, runs: &[Run]) -> String {
    let (model, images) = match runs.first() {
        Some(Run::Prompted(run)) => (run.summary.model.as_str(), run.summary.images),
        Some(Run::Detected(run)) => (run.summary.model.as_str(), run.summary.images),
        Some(Run::Everything(run)) => (run.summary.model.as_str(), run.summary.images),
        None => ("", 0),
    };
    let split = args.split.as_ref().map(|split| format!(", {split}")).unwrap_or_default();
    format!("{model} on {}{split}: {images} pictures, {}", dataset.name, dataset.found)
}

/// What [`rows`] show.
pub(super) const HEADERS: [&str; 8] =
    ["prompt", "objects", "mIoU", "small", "medium", "large", "boundary IoU", "seconds"];

/// A line for each kind of prompt, and one for each part of the set where there are several.
pub(super) fn rows(runs: &[&PromptedReport]) -> Vec<Vec<String>> {
    let mut rows = Vec::new();
    for run in runs {
        let summary = &run.summary;
        rows.push(row(&summary.prompt, &summary.figures, Some(summary.seconds)));
        if summary.splits.len() > 1 {
            rows.extend(summary.splits.iter().map(|part| {
                let name = part.split.as_deref().unwrap_or("no part");
                row(&format!("  {name}"), &part.figures, None)
            }));
        }
    }
    rows
}

fn row(name: &str, figures: &ObjectReport, seconds: Option<f64>) -> Vec<String> {
    let mut row = vec![name.to_owned(), figures.objects.to_string()];
    let values = [figures.miou, figures.miou_small, figures.miou_medium, figures.miou_large, figures.biou];
    row.extend(values.map(figure));
    row.push(seconds.map_or_else(String::new, |seconds| format!("{seconds:.1}")));
    row
}

/// Four digits, or a dash where there is nothing to measure.
pub(super) fn figure(value: Option<f64>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.4}"))
}

/// The objects left out, if any.
pub(super) fn skipped(skipped: Skipped) -> String {
    let reasons = [
        (skipped.without_mask, "with a box alone"),
        (skipped.empty, "without pixels"),
        (skipped.crowd, "crowd regions"),
    ];
    let told: Vec<String> = reasons
        .iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, reason)| format!("{count} {reason}"))
        .collect();
    if told.is_empty() { String::new() } else { format!("left out: {}\n", told.join(", ")) }
}

/// Names of COCO's twelve figures.
const COCO_FIGURES: [&str; 12] = [
    "AP",
    "AP50",
    "AP75",
    "AP small",
    "AP medium",
    "AP large",
    "AR 1",
    "AR 10",
    "AR 100",
    "AR small",
    "AR medium",
    "AR large",
];

/// COCO's twelve figures, of masks and boxes: name, mask, box.
pub(super) fn detection_rows(run: &DetectedReport) -> Vec<Vec<String>> {
    let figures = |f: &kirie_metrics::CocoSummary| {
        [
            f.ap,
            f.ap50,
            f.ap75,
            f.ap_small,
            f.ap_medium,
            f.ap_large,
            f.ar_1,
            f.ar_10,
            f.ar_max,
            f.ar_small,
            f.ar_medium,
            f.ar_large,
        ]
    };
    let both = figures(&run.summary.figures).into_iter().zip(figures(&run.summary.boxes));
    COCO_FIGURES
        .iter()
        .zip(both)
        .map(|(name, (mask, b))| vec![(*name).to_owned(), figure(mask), figure(b)])
        .collect()
}

fn detections(run: &DetectedReport) -> String {
    let mut text = report::columns(&["detections", "masks", "boxes"], &detection_rows(run));
    let summary = &run.summary;
    let _ = writeln!(
        text,
        "{} detections, {} objects, {:.1} s; {} boxes empty or beside the picture, {} in other pictures",
        summary.detections, summary.objects, summary.seconds, summary.unusable, summary.elsewhere
    );
    text
}

/// Recalls of everything: name, each object's best mask, one mask an object.
pub(super) fn recall_rows(run: &EverythingReport) -> Vec<Vec<String>> {
    let summary = &run.summary;
    let of = |recall: &Recall| [recall.average_recall, recall.recall_50, recall.recall_75];
    let both = of(&summary.recall).into_iter().zip(of(&summary.one_to_one));
    let names = ["average recall", "recall at IoU 0.50", "recall at IoU 0.75"];
    let mut rows: Vec<Vec<String>> =
        names.iter().zip(both).map(|(name, (a, b))| vec![(*name).to_owned(), figure(a), figure(b)]).collect();
    let sizes = [
        ("average recall, small", summary.average_recall_small),
        ("average recall, medium", summary.average_recall_medium),
        ("average recall, large", summary.average_recall_large),
    ];
    rows.extend(sizes.map(|(name, value)| vec![name.to_owned(), figure(value), String::new()]));
    rows
}

fn recall(run: &EverythingReport) -> String {
    let mut text = report::columns(&["everything", "best mask", "one to one"], &recall_rows(run));
    let summary = &run.summary;
    let _ = writeln!(
        text,
        "{} objects, {} masks a picture, {:.1} s",
        summary.objects,
        summary.masks_per_image.map_or_else(|| "-".to_owned(), |masks| format!("{masks:.1}")),
        summary.seconds
    );
    text + &skipped(summary.skipped)
}
