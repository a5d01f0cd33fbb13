//! `kirie evaluate semantic`.

use std::path::Path;

use burn::tensor::Device;
use kirie_data::datasets::Sample;
use kirie_gsam::config::{DataConfig, HoldOut, Numbers, SetConfig, TestConfig, TestMode};
use kirie_gsam::data::LabelledSet;
use kirie_gsam::evaluate::{EvaluateOptions, Evaluation, evaluate, page};
use kirie_gsam::infer::seams;
use kirie_run::{Progress, ProgressMode};
use serde::Serialize;
use serde_json::{Value, json};

use crate::args::{EvaluateSemanticArgs, Masks};
use crate::outputs::{check_writable, save};
use crate::report;
use crate::semantic::{self, FineTuned};

pub(super) fn run(args: &EvaluateSemanticArgs) -> anyhow::Result<()> {
    args.machine.set_threads()?;
    if let Some(folder) = &args.output {
        check_writable(folder, true)?;
    }
    let device = args.machine.device.open()?;
    let described = semantic::describe(&args.adapter)?;
    let test = args.test.over(&described.notes.test)?;
    if args.seams && test.mode == TestMode::Whole {
        return Err(report::usage("--seams is for pictures that are seen by windows: --window PIXELS"));
    }
    let set = open(args, &described.notes)?;
    let samples = chosen(&set, args.limit);
    anyhow::ensure!(!samples.is_empty(), "{}: no picture has labels", args.data.display());
    let tuned = semantic::load(&args.adapter, args.weights.as_deref(), &device)?;
    let options = EvaluateOptions {
        predictions: args
            .output
            .as_ref()
            .filter(|_| args.predictions)
            .map(|folder| folder.join("predictions")),
        cases: if args.output.is_some() { args.cases as usize } else { 0 },
    };
    let mut progress = Progress::new("picture", samples.len() as u64, 0, ProgressMode::Auto);
    let pictures = samples.iter().map(|sample| (&set, *sample));
    let mut tell = |done: usize| progress.set(done as u64, "");
    let evaluation = evaluate(&tuned.model, pictures, set.classes(), &test, &device, &options, &mut tell)?;
    progress.finish();
    let mut metrics = metrics(args, &tuned, &evaluation)?;
    let seams = if args.seams { Some(mean_seams(&tuned, &set, &samples, &test, &device)?) } else { None };
    if let Some(seams) = &seams {
        metrics["seams"] = serde_json::to_value(seams)?;
    }
    if let Some(folder) = &args.output {
        let about = [
            (
                "Model",
                format!(
                    "{}, {} on {}",
                    args.adapter.display(),
                    tuned.config.method.name(),
                    tuned.config.base
                ),
            ),
            ("Data", heading(args, &set)),
        ];
        let about = about.map(|(name, value)| (name.to_owned(), value));
        page("Evaluation", &evaluation, set.classes(), &about)?.write(folder.join("report.html"))?;
        save(&folder.join("metrics.json"), (serde_json::to_string_pretty(&metrics)? + "\n").as_bytes())?;
    }
    if args.json {
        return report::print(&serde_json::to_string_pretty(&metrics)?);
    }
    report::print(&text(args, &tuned, &set, &evaluation))?;
    seams.map_or(Ok(()), |seams| {
        report::print(&format!(
            "windows add {:.4} to the logits' steps across their borders, {:.4} elsewhere; {:.2} % of the pixels are of another class than in \
             one piece\n",
            seams.added_at_borders,
            seams.added_elsewhere,
            100.0 * seams.other_class
        ))
    })
}

/// What windows change, against pictures in one piece: means over the pictures, see [`kirie_gsam::infer::WholeComparison`].
#[derive(Default, Serialize)]
struct MeanSeams {
    /// How far steps of logits from pixel to pixel are from those in one piece, across borders of windows.
    added_at_borders: f64,
    /// The same between all other pixels.
    added_elsewhere: f64,
    /// Share of pixels of another class.
    other_class: f64,
}

fn mean_seams(
    tuned: &FineTuned,
    set: &LabelledSet,
    samples: &[&Sample],
    test: &TestConfig,
    device: &Device,
) -> anyhow::Result<MeanSeams> {
    let mut mean = MeanSeams::default();
    let share = 1.0 / samples.len() as f64;
    let mut progress = Progress::new("seams, picture", samples.len() as u64, 0, ProgressMode::Auto);
    for (n, sample) in samples.iter().enumerate() {
        let found = seams(&tuned.model, &set.read(sample)?.image, test, device, true)?;
        if let Some(found) = found.whole {
            mean.added_at_borders += share * found.added_at_borders;
            mean.added_elsewhere += share * found.added_elsewhere;
            mean.other_class += share * found.other_class;
        }
        progress.set(n as u64 + 1, "");
    }
    progress.finish();
    Ok(mean)
}

/// The set, whose classes become those of the model.
fn open(args: &EvaluateSemanticArgs, notes: &semantic::Notes) -> anyhow::Result<LabelledSet> {
    let set = SetConfig {
        ignore: args.ignore.clone(),
        mask_folder: args.mask_folder.clone(),
        numbers: args.masks.map(|masks| match masks {
            Masks::Classes => Numbers::Classes,
            Masks::Instances => Numbers::Instances,
            Masks::Binary => Numbers::Binary,
        }),
        ..SetConfig::new(&args.data, args.split.clone().unwrap_or_default())
    };
    let mut merge = notes.merge.clone();
    merge.extend(args.merges.iter().cloned());
    let data = DataConfig {
        root: None,
        sets: vec![set.clone()],
        classes: notes.classes.names(),
        merge,
        batch: 1,
        hold_out: HoldOut::None,
        validate_pictures: 0,
    };
    Ok(LabelledSet::open(&set, &data, &notes.classes)?)
}

/// All pictures with labels, or `limit` of them spread evenly.
fn chosen(set: &LabelledSet, limit: Option<u32>) -> Vec<&Sample> {
    let all: Vec<&Sample> = set.samples().collect();
    let count = limit.map_or(all.len(), |limit| all.len().min(limit as usize));
    (0..count).filter_map(|i| all.get(i * all.len() / count).copied()).collect()
}

fn heading(args: &EvaluateSemanticArgs, set: &LabelledSet) -> String {
    let dataset = set.dataset();
    let split = args.split.as_ref().map(|split| format!(", {split}")).unwrap_or_default();
    format!("{}{split}: {}", dataset.name, dataset.found)
}

fn metrics(args: &EvaluateSemanticArgs, tuned: &FineTuned, evaluation: &Evaluation) -> anyhow::Result<Value> {
    let mut value = json!({
        "adapter": args.adapter,
        "base": tuned.config.base,
        "method": tuned.config.method,
        "weights": args.weights.as_deref().map(Path::display).map(|path| path.to_string()),
        "data": args.data,
        "split": args.split,
        "limit": args.limit,
        "device": args.machine.device.name(),
    });
    if let (Value::Object(all), Value::Object(figures)) = (&mut value, serde_json::to_value(evaluation)?) {
        all.extend(figures);
    }
    Ok(value)
}

fn text(
    args: &EvaluateSemanticArgs,
    tuned: &FineTuned,
    set: &LabelledSet,
    evaluation: &Evaluation,
) -> String {
    let percent =
        |share: Option<f64>| share.map_or_else(|| "-".to_owned(), |share| format!("{:.2}", 100.0 * share));
    let found = &evaluation.report;
    let row = |name: &str, figures: [Option<f64>; 3], pixels: u64| {
        let mut row = vec![name.to_owned()];
        row.extend(figures.map(percent));
        row.push(pixels.to_string());
        row
    };
    let mut rows: Vec<Vec<String>> = found
        .classes
        .iter()
        .map(|class| row(&class.name, [class.iou, class.dice, class.accuracy], class.truth_pixels))
        .collect();
    rows.push(row("mean", [found.miou, found.mdice, found.mean_accuracy], found.pixels));
    let table = report::columns(&["class", "IoU %", "Dice %", "accuracy %", "true pixels"], &rows);
    format!(
        "{} on {}, {}\n{} pictures of {}\n{table}pixels labelled right {} %, {:.3} s a picture\n",
        tuned.config.method.name(),
        tuned.config.base,
        args.adapter.display(),
        evaluation.pictures.len(),
        heading(args, set),
        percent(found.pixel_accuracy),
        evaluation.seconds_per_picture(),
    )
}
