//! `kirie data rank`.

use std::collections::HashSet;
use std::fmt::Write;
use std::path::Path;

use kirie_data::datasets::{Class, Dataset, Labels, Sample};
use kirie_data::write::{PictureFormat, Prompts, encode_picture, overlay};
use kirie_data::{Image, ImageMasks, ImageRecord, Limits, Tile, contact_sheet, fitted};
use kirie_mask::BBox;
use kirie_moda::rank::judge::judge;
use kirie_moda::rank::{
    Ask, AskOptions, Asked, Choice, Doubts, Measure, ask, choose, combined, descending, ranks,
};
use kirie_promptable::evaluate::{Object, Truth, TruthOptions};
use kirie_run::Stop;
use kirie_sam::Engine;
use serde_json::{Value, json};

use super::open;
use crate::args::{RankArgs, RankBy, RankPrompt};
use crate::outputs::{check_writable, save};
use crate::report::{self, Failure, PictureProgress, Table};
use crate::weights;

/// Of how many times as many pictures the most unlike are taken.
const DIVERSE: usize = 5;
/// Width and height of a picture on the sheet, pixels.
const CELL: (u32, u32) = (320, 240);
const COLUMNS: usize = 6;
/// Pictures on the sheet, at most.
const SHOWN: usize = 240;
/// Pictures named on standard output, at most.
const NAMED: usize = 10;

/// A picture that was asked about.
struct Ranked {
    /// Its place in the set.
    sample: usize,
    doubts: Doubts,
    objects: usize,
    feature: Vec<f32>,
    /// With its masks, as the sheet shows it.
    thumbnail: Image,
    /// Mean IoU of its answers with the labels, if that is to be judged.
    iou: Option<f64>,
}

/// Runs the command.
pub(super) fn run(args: &RankArgs) -> anyhow::Result<()> {
    if args.judge && args.prompt == RankPrompt::Everything {
        return Err(report::usage("--judge compares answers to boxes with the labels; use --prompt boxes"));
    }
    check_writable(&args.output, true)?;
    args.model.machine.set_threads()?;
    let dataset = open(&args.set, None)?;
    let boxes = match args.prompt {
        RankPrompt::Everything => false,
        RankPrompt::Boxes => true,
        RankPrompt::Auto => args.judge || all_labelled(&dataset),
    };
    let engine = weights::load(&args.model)?;
    let stop = Stop::install()?;

    let (mut ranked, mut failed, mut left_out) = (Vec::new(), Vec::new(), 0);
    let mut progress = PictureProgress::new(dataset.samples.len());
    for (place, sample) in dataset.samples.iter().enumerate() {
        if stop.requested() {
            break;
        }
        progress.start(&sample.id);
        match one(&engine, &dataset, place, sample, boxes, args) {
            Ok(Some(picture)) => {
                progress.done(&format!("{} objects", picture.objects));
                ranked.push(picture);
            }
            Ok(None) => {
                progress.done("no boxes, left out");
                left_out += 1;
            }
            Err(error) => {
                let error = report::about(error, &sample.image);
                progress.failed(&error);
                failed.push(json!({ "id": sample.id, "path": sample.image, "error": format!("{error:#}") }));
            }
        }
    }
    progress.finish();
    if ranked.is_empty() {
        anyhow::bail!("no picture could be asked about, and nothing was written");
    }

    let scores = order_by(&ranked, args.by);
    let order = descending(&scores);
    let features: Vec<Vec<f32>> = ranked.iter().map(|picture| picture.feature.clone()).collect();
    let choice = Choice {
        count: args.top as usize,
        diverse: args.diverse.then_some(DIVERSE),
        random: args.random,
        seed: args.seed,
    };
    let chosen = choose(&order, &features, &choice);
    let list = list(&dataset, &ranked, &scores, &order, &chosen);
    let judged = if args.judge { judgements(&ranked) } else { Vec::new() };
    let result = json!({
        "set": dataset.found,
        "model": engine.model(),
        "by": args.by.name(),
        "prompt": if boxes { "boxes" } else { "everything" },
        "seed": args.seed,
        "complete": !stop.requested(),
        "pictures": list,
        "left_out": left_out,
        "failed": failed,
        "judged": judged.iter().map(|(name, judgement)| json!({ "by": name, "judgement": judgement })).collect::<Vec<_>>(),
    });
    save(&args.output.join("ranking.json"), (serde_json::to_string_pretty(&result)? + "\n").as_bytes())?;
    save(&args.output.join("ranking.csv"), csv(&list).as_bytes())?;
    let sheet = sheet(&dataset, &ranked, &scores, &chosen)?;
    let path = args.output.join("sheet.jpg");
    save(&path, &encode_picture(&sheet, PictureFormat::from_path(&path)?)?)?;

    if args.json {
        report::print(&serde_json::to_string_pretty(&result)?)?;
    } else {
        report::print(&summary(args, &dataset, &ranked, &scores, &chosen, &judged))?;
    }
    if stop.requested() {
        let (done, all) = (ranked.len() + failed.len() + left_out, dataset.samples.len());
        anyhow::bail!("stopped after {done} of {all} pictures; the list is of those");
    }
    match failed.len() {
        0 => Ok(()),
        failed => Err(Failure::Inputs { failed, total: dataset.samples.len() }.into()),
    }
}

/// Whether there is something to take boxes from in every picture.
fn all_labelled(dataset: &Dataset) -> bool {
    let has_boxes = |sample: &Sample| match dataset.labels(sample) {
        Ok(Labels::Instances { instances, .. }) => !instances.is_empty(),
        Ok(Labels::ClassMap(_)) => true,
        _ => false,
    };
    !dataset.samples.is_empty() && dataset.samples.iter().all(has_boxes)
}

/// Asks about a picture; nothing if it has no boxes to ask with.
fn one(
    engine: &dyn Engine,
    dataset: &Dataset,
    place: usize,
    sample: &Sample,
    boxes: bool,
    args: &RankArgs,
) -> anyhow::Result<Option<Ranked>> {
    let image = dataset.picture(sample)?;
    let size = (image.width(), image.height());
    let mut truth = Vec::new();
    let what = if boxes {
        let labels = dataset.labels(sample)?;
        let found = if args.judge {
            truth =
                Truth::new(dataset, labels, size, TruthOptions { crowd: false, ..TruthOptions::default() })?
                    .objects;
            truth.iter().map(|object| object.bbox).collect()
        } else {
            boxes_of(dataset, labels, size)
        };
        if found.is_empty() {
            return Ok(None);
        }
        Ask::Boxes(found)
    } else {
        Ask::Everything
    };
    let options = AskOptions {
        points_per_side: args.points_per_side,
        objects: args.objects as usize,
        jitters: args.jitters as usize,
        seed: args.seed,
    };
    let asked = ask(engine, &image, &what, &options)?;
    let iou = if args.judge { mean_iou(&asked, &truth)? } else { None };
    let drawn = match what {
        Ask::Boxes(boxes) => Prompts { boxes, ..Prompts::default() },
        Ask::Everything => Prompts::default(),
    };
    let masks = ImageMasks {
        image: ImageRecord { path: sample.id.clone(), width: size.0, height: size.1 },
        model: engine.model().to_owned(),
        masks: asked.objects.iter().map(|object| object.record.clone()).collect(),
    };
    let thumbnail = fitted(&overlay(&image, &masks, &drawn)?, CELL)?;
    let (objects, doubts, feature) = (asked.objects.len(), asked.doubts, asked.feature);
    Ok(Some(Ranked { sample: place, doubts, objects, feature, thumbnail, iou }))
}

/// The labels' boxes that a model can be asked with.
fn boxes_of(dataset: &Dataset, labels: Labels, (width, height): (u32, u32)) -> Vec<BBox> {
    let regions = match labels {
        Labels::None | Labels::Tags(_) => Vec::new(),
        Labels::Instances { instances, .. } => instances,
        Labels::ClassMap(map) => map.regions(),
    };
    let (width, height) = (f64::from(width), f64::from(height));
    let is_object =
        |class: Option<u32>| !class.and_then(|id| dataset.class(id)).is_some_and(Class::is_background);
    let regions = regions.into_iter().filter(|region| {
        let BBox { x0, y0, x1, y1 } = region.bbox;
        let usable = x0 < x1 && y0 < y1 && x0 < width && y0 < height && x1 > 0.0 && y1 > 0.0;
        usable && !region.crowd && region.annotator == 0 && is_object(region.class)
    });
    regions.map(|region| region.bbox).collect()
}

fn mean_iou(asked: &Asked, truth: &[Object]) -> anyhow::Result<Option<f64>> {
    let (mut sum, mut count) = (0.0, 0.0);
    for (object, truth) in asked.objects.iter().zip(truth) {
        sum += object.record.segmentation.iou(&truth.mask, false)?;
        count += 1.0;
    }
    Ok((count > 0.0).then(|| sum / count))
}

/// What the pictures are ordered by, the most doubtful highest.
fn order_by(ranked: &[Ranked], by: RankBy) -> Vec<f64> {
    let values =
        |measure: Measure| -> Vec<f64> { ranked.iter().map(|picture| picture.doubts.get(measure)).collect() };
    match by {
        RankBy::One(measure) => values(measure),
        RankBy::Mean => combined(&Measure::DEFAULT.map(values)),
    }
}

/// The pictures in their order.
fn list(
    dataset: &Dataset,
    ranked: &[Ranked],
    scores: &[f64],
    order: &[usize],
    chosen: &[usize],
) -> Vec<Value> {
    let chosen: HashSet<usize> = chosen.iter().copied().collect();
    let all: Vec<Vec<f64>> = Measure::ALL
        .map(|measure| ranks(&ranked.iter().map(|picture| picture.doubts.get(measure)).collect::<Vec<_>>()))
        .into();
    let entries = order.iter().enumerate().filter_map(|(place, i)| {
        let picture = ranked.get(*i)?;
        let sample = dataset.samples.get(picture.sample)?;
        let mut entry = json!({
            "place": place + 1,
            "id": sample.id,
            "path": sample.image,
            "chosen": chosen.contains(i),
            "score": scores[*i],
            "objects": picture.objects,
            "why": why(picture, &all, *i),
            "measures": picture.doubts,
        });
        if let Some(iou) = picture.iou {
            entry["iou"] = json!(iou);
        }
        Some(entry)
    });
    entries.collect()
}

/// In words, the measure that is highest among the pictures.
fn why(picture: &Ranked, ranks: &[Vec<f64>], i: usize) -> &'static str {
    if picture.objects == 0 {
        return "nothing found";
    }
    let words = |measure| match measure {
        Measure::PredictedIou => "the model rates its masks low",
        Measure::Stability => "masks change with the threshold",
        Measure::Entropy | Measure::Margin => "many pixels undecided",
        Measure::Jitter | Measure::Bald => "masks change with the box",
    };
    let place = |measure: &Measure| ranks[*measure as usize][i];
    let most = Measure::DEFAULT.iter().copied().max_by(|a, b| place(a).total_cmp(&place(b)));
    most.map_or("", words)
}

fn csv(list: &[Value]) -> String {
    let quoted = |value: &Value| {
        let text = value.as_str().unwrap_or_default();
        if text.contains([',', '"', '\n', '\r']) {
            format!("\"{}\"", text.replace('"', "\"\""))
        } else {
            text.to_owned()
        }
    };
    let names = Measure::ALL.map(Measure::name);
    let mut text = format!("place,id,chosen,score,objects,{},path\n", names.join(","));
    for entry in list {
        let _ = write!(
            text,
            "{},{},{},{},{}",
            entry["place"],
            quoted(&entry["id"]),
            entry["chosen"],
            entry["score"],
            entry["objects"]
        );
        for name in names {
            let _ = write!(text, ",{}", entry["measures"][name]);
        }
        let _ = writeln!(text, ",{}", quoted(&entry["path"]));
    }
    text
}

/// Each measure's worth on this set.
fn judgements(ranked: &[Ranked]) -> Vec<(&'static str, Value)> {
    let judged = RankBy::all().filter_map(|by| {
        let pairs =
            order_by(ranked, by).into_iter().zip(ranked).filter_map(|(doubt, r)| Some((doubt, r.iou?)));
        let (doubts, ious): (Vec<f64>, Vec<f64>) = pairs.unzip();
        let judgement = serde_json::to_value(judge(&doubts, &ious)?).ok()?;
        Some((by.name(), judgement))
    });
    judged.collect()
}

fn sheet(dataset: &Dataset, ranked: &[Ranked], scores: &[f64], chosen: &[usize]) -> anyhow::Result<Image> {
    let tiles: Vec<Tile> = chosen
        .iter()
        .take(SHOWN)
        .enumerate()
        .filter_map(|(place, i)| {
            let picture = ranked.get(*i)?;
            let id = dataset.samples.get(picture.sample).map_or("", |sample| sample.id.as_str());
            let name = Path::new(id).file_name().map_or_else(|| id.into(), |name| name.to_string_lossy());
            let caption = format!("{} {:.2} {name}", place + 1, scores[*i]);
            Some(Tile { picture: Some(picture.thumbnail.clone()), caption, warning: picture.objects == 0 })
        })
        .collect();
    Ok(contact_sheet(&tiles, COLUMNS, CELL, &Limits::default())?)
}

fn summary(
    args: &RankArgs,
    dataset: &Dataset,
    ranked: &[Ranked],
    scores: &[f64],
    chosen: &[usize],
    judged: &[(&str, Value)],
) -> String {
    let by = args.by.name();
    let mut text = format!("{} of {} pictures to label next, by {by}\n", chosen.len(), ranked.len());
    let mut table = Table::new(2, &["", "picture", "score", "objects"]);
    for (place, i) in chosen.iter().enumerate().take(NAMED) {
        let Some(picture) = ranked.get(*i) else { continue };
        let id = dataset.samples.get(picture.sample).map_or_else(String::new, |sample| sample.id.clone());
        table.row(vec![
            (place + 1).to_string(),
            id,
            format!("{:.3}", scores[*i]),
            picture.objects.to_string(),
        ]);
    }
    table.write(&mut text, 0);
    if chosen.len() > NAMED {
        let _ = writeln!(text, "and {} more", chosen.len() - NAMED);
    }
    if !judged.is_empty() {
        text += "\nhow well each order tells wrong answers\n";
        let mut table = Table::new(1, &["by", "spearman", "found at 20 %", "aurc", "by chance", "at best"]);
        let figure = |value: &Value| value.as_f64().map_or_else(|| "-".to_owned(), |v| format!("{v:.3}"));
        for (name, judgement) in judged {
            let keys = ["spearman", "recall_at_20", "aurc", "aurc_random", "aurc_oracle"];
            let mut row = vec![(*name).to_owned()];
            row.extend(keys.map(|key| figure(&judgement[key])));
            table.row(row);
        }
        table.write(&mut text, 0);
    }
    let out = args.output.display();
    let _ = write!(text, "see {out}/sheet.jpg, {out}/ranking.csv, {out}/ranking.json");
    text
}
