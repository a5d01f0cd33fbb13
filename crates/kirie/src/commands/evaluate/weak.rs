//! `kirie evaluate weak`.

use std::path::Path;

use anyhow::Context;
use kirie_data::{Limits, read_image};
use kirie_engine::random::Streams;
use kirie_run::report::{LineChart, Page, Series};
use kirie_run::{Progress, ProgressMode, config};
use kirie_weaksam::files::{Detections, Proposals, Source};
use kirie_weaksam::instances;
use kirie_weaksam::labels::root_of;
use kirie_weaksam::measure::{BoxFigures, MaskFigures, Truth, measure_boxes, measure_masks};
use kirie_weaksam::proposals::recall::{Recall, as_many, recall};
use kirie_weaksam::proposals::search::selective_search;
use kirie_weaksam::proposals::source_name;
use kirie_weaksam::run::{Stage, WeakConfig, detections_path, instances_path, proposals_path};
use serde_json::json;

use crate::args::EvaluateWeakArgs;
use crate::device::set_threads;
use crate::outputs::{check_writable, save};
use crate::report;

/// Runs the command.
pub(super) fn run(args: &EvaluateWeakArgs) -> anyhow::Result<()> {
    set_threads(args.threads)?;
    if let Some(folder) = &args.output {
        check_writable(folder, true)?;
    }
    let config = config::load::<WeakConfig>(Some(&args.run.join("config.toml")), &[])?.value;
    let split = args.split.as_deref().unwrap_or(&config.data.split);
    let path = proposals_path(&args.run, &config.data, split);
    let proposals = Proposals::read(&path).with_context(|| format!("proposals of {split:?}"))?;
    let truth = Truth::open(&config.data.path, Some(split), &proposals.classes)?;

    let mut rows: Vec<(String, Recall)> = Vec::new();
    let mut add = |name: String, proposals: &Proposals, sources: Option<&[Source]>| -> anyhow::Result<()> {
        rows.push((name, recall(proposals, &truth, sources)?));
        Ok(())
    };
    add("all".to_owned(), &proposals, None)?;
    let mut sources: Vec<Source> = proposals.images.iter().flat_map(|image| image.source.clone()).collect();
    sources.sort_unstable();
    sources.dedup();
    if sources.len() > 1 {
        for source in sources {
            add(source_name(source).to_owned(), &proposals, Some(&[source]))?;
        }
    }
    let mut others: Vec<(String, Proposals)> = Vec::new();
    if args.search {
        others.push((source_name(Source::Search).to_owned(), search(&proposals, &config)?));
    }
    for path in &args.proposals {
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        others.push((name, Proposals::read(path)?));
    }
    for (name, others) in others {
        // Of pictures that the run has not, nothing is said; of one that only the run has, there is nothing to compare.
        let equal = as_many(&others, &proposals).with_context(|| name.clone())?;
        add(name.clone(), &among(&others, &proposals), None)?;
        add(format!("{name}, as many"), &equal, None)?;
    }
    let mut found: Vec<(&str, BoxFigures)> = Vec::new();
    for (name, stage) in [("detector", Stage::Detector), ("retrained", Stage::Retrain)] {
        let path = detections_path(&args.run, stage, &config.data, split);
        if path.is_file() {
            found.push((name, measure_boxes(&truth, &Detections::read(&path)?)?));
        }
    }
    let path = instances_path(&args.run, split);
    let mut masks: Option<MaskFigures> = None;
    if truth.has_masks() && path.is_file() {
        let (classes, objects) = instances::read(&path)?;
        anyhow::ensure!(
            classes == truth.classes,
            "{}: expected the classes {}, found {}",
            path.display(),
            truth.classes.join(", "),
            classes.join(", ")
        );
        masks = Some(measure_masks(&truth, &objects)?);
    }
    let metrics = json!({
        "run": args.run, "split": split,
        "boxes": found.iter().map(|(name, figures)| json!({ "detector": name, "figures": figures })).collect::<Vec<_>>(),
        "masks": masks,
        "recall": rows.iter().map(|(name, recall)| json!({ "proposals": name, "recall": recall })).collect::<Vec<_>>(),
    });
    if let Some(folder) = &args.output {
        save(&folder.join("metrics.json"), (serde_json::to_string_pretty(&metrics)? + "\n").as_bytes())?;
        page(&args.run, split, &rows, &found, masks.as_ref())
            .raw_json("metrics", &metrics)?
            .write(folder.join("report.html"))?;
    }
    if args.json {
        return report::print(&serde_json::to_string_pretty(&metrics)?);
    }
    report::print(&report::columns(&HEAD, &table(&rows)))?;
    if !found.is_empty() {
        report::print("")?;
        report::print(&report::columns(&BOX_HEAD, &box_table(&found)))?;
    }
    if let Some(masks) = &masks {
        report::print("")?;
        report::print(&report::columns(&MASK_HEAD, &mask_table(masks)))?;
    }
    Ok(())
}

/// Of other proposals those for the pictures of a run's.
fn among(others: &Proposals, own: &Proposals) -> Proposals {
    let files: std::collections::HashSet<&str> = own.images.iter().map(|image| image.file.as_str()).collect();
    let images = others.images.iter().filter(|image| files.contains(image.file.as_str()));
    Proposals { classes: own.classes.clone(), images: images.cloned().collect() }
}

/// Selective search on the pictures of some proposals.
fn search(proposals: &Proposals, config: &WeakConfig) -> anyhow::Result<Proposals> {
    let mut progress = Progress::new("picture", proposals.images.len() as u64, 0, ProgressMode::Auto);
    let streams = Streams::new(config.seed);
    let root = root_of(&config.data)?;
    let mut found = proposals.clone();
    for (index, image) in found.images.iter_mut().enumerate() {
        let picture = read_image(root.join(&image.file), &Limits::default())?;
        let boxes = selective_search(&picture, &streams, index as u64, config.proposals.search_limit)?;
        image.boxes = boxes.iter().map(|p| p.corners).collect();
        image.scores = boxes.iter().map(|p| p.score).collect();
        image.source = vec![Source::Search; boxes.len()];
        progress.set(index as u64 + 1, "");
    }
    progress.finish();
    Ok(found)
}

const HEAD: [&str; 10] = [
    "proposals",
    "a picture",
    "0.5",
    "0.75",
    "0.9",
    "1:1 0.5",
    "1:1 0.75",
    "1:1 0.9",
    "best overlap",
    "on objects",
];

fn table(rows: &[(String, Recall)]) -> Vec<Vec<String>> {
    let percent = |share: f64| format!("{:.1}", 100.0 * share);
    rows.iter()
        .map(|(name, recall)| {
            let shares = recall.best.iter().chain(&recall.one_to_one).copied();
            let mut row = vec![name.clone(), format!("{:.1}", recall.proposals)];
            row.extend(shares.chain([recall.mean_best_overlap, recall.on_objects[0]]).map(percent));
            row
        })
        .collect()
}

const BOX_HEAD: [&str; 6] = ["boxes of", "AP50", "AP50, 11 points", "CorLoc", "COCO AP", "COCO AP75"];

fn percent(share: Option<f64>) -> String {
    share.map_or_else(|| "-".to_owned(), |share| format!("{:.1}", 100.0 * share))
}

const MASK_HEAD: [&str; 8] =
    ["masks, by the points of", "AP25", "AP50", "AP70", "AP75", "COCO AP", "COCO AP50", "COCO AP75"];

/// AP of masks at the IoUs that image-level methods are measured at, by either way to add up precisions.
fn mask_table(masks: &MaskFigures) -> Vec<Vec<String>> {
    let row = |name: &str, at: &[(f64, Option<f64>)], rest: [Option<f64>; 3]| {
        let mut row = vec![name.to_owned()];
        row.extend(at.iter().map(|(_, ap)| *ap).chain(rest).map(percent));
        row
    };
    let coco = &masks.coco;
    vec![
        row("COCO (101)", &masks.ap_at, [coco.ap, coco.ap50, coco.ap75]),
        row("VOC (all)", &masks.voc_at, [None; 3]),
    ]
}

fn box_table(found: &[(&str, BoxFigures)]) -> Vec<Vec<String>> {
    let row = |(name, figures): &(&str, BoxFigures)| {
        let shares = [figures.voc_all, figures.voc_11, figures.corloc, figures.coco.ap, figures.coco.ap75];
        std::iter::once((*name).to_owned()).chain(shares.map(percent)).collect()
    };
    found.iter().map(row).collect()
}

fn page(
    run: &Path,
    split: &str,
    rows: &[(String, Recall)],
    found: &[(&str, BoxFigures)],
    masks: Option<&MaskFigures>,
) -> Page {
    let mut page = Page::new("Proposals, boxes and masks from image-level labels");
    let boxes = rows.first().map_or(0, |(_, recall)| recall.boxes);
    page.key_values(&[
        ("Run", run.display().to_string()),
        ("Part", split.to_owned()),
        ("True boxes", boxes.to_string()),
    ]);
    page.paragraph(
        "Share of true boxes, in percent, that a proposal overlaps with at least so much; \"1:1\" where a proposal serves one \
         box only, as WeakSAM's own evaluation counts. \"On objects\" is the share of the proposals that overlap a true box by \
         0.5. \"As many\" are the best-scored of others, in each picture the number that the run has there. Boxes are read here \
         for scoring, and nowhere else.",
    );
    page.table(&HEAD, &table(rows));
    for (at, overlap) in [(0, "0.5"), (1, "0.75")] {
        page.line_chart(&LineChart {
            title: format!("Recall at overlap {overlap} with the best-scored proposals"),
            x_label: "proposals a picture (logarithm to base 10)".to_owned(),
            y_label: "recall, %".to_owned(),
            series: rows
                .iter()
                .map(|(name, recall)| Series {
                    name: name.clone(),
                    points: recall
                        .limited
                        .iter()
                        .map(|limited| ((limited.limit as f64).log10(), 100.0 * limited.best[at]))
                        .collect(),
                })
                .collect(),
            log_y: false,
            smooth: false,
        });
    }
    if !found.is_empty() {
        page.heading("Detectors");
        page.table(&BOX_HEAD, &box_table(found));
    }
    if let Some(masks) = masks {
        page.heading("Masks of the stage instances");
        page.table(&MASK_HEAD, &mask_table(masks));
    }
    if let Some((_, all)) = rows.first() {
        page.heading("Classes");
        let rows: Vec<Vec<String>> = all
            .classes
            .iter()
            .map(|(class, (overlap, count))| {
                vec![class.clone(), count.to_string(), format!("{:.1}", 100.0 * overlap)]
            })
            .collect();
        page.table(&["Class", "True boxes", "Mean best overlap %"], &rows);
    }
    page
}
