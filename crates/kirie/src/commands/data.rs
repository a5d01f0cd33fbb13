//! `kirie data`.

mod rank;
mod summary;

use std::path::Path;

use indicatif::ProgressBar;
use kirie_data::datasets::{
    ConvertOptions, Converted, Dataset, Layout, MaskMeaning, OpenOptions, Pictures, PreviewOptions, Target,
    convert, inspect, open_with, preview,
};
use kirie_data::write::{PictureFormat, encode_picture};
use serde_json::{Value, json};

use crate::args::{
    ConvertArgs, DataArgs, DataCommand, InspectArgs, Masks, PicturesArg, PreviewArgs, SetArgs, To,
};
use crate::outputs::{check_writable, save};
use crate::report::{self, Failure};

/// Examples shown to people of each kind of problem.
const EXAMPLES: usize = 5;

/// Runs the command.
pub(crate) fn run(args: DataArgs) -> anyhow::Result<()> {
    match args.command {
        DataCommand::Inspect(args) => run_inspect(&args),
        DataCommand::Convert(args) => run_convert(&args),
        DataCommand::Preview(args) => run_preview(&args),
        DataCommand::Rank(args) => rank::run(&args),
    }
}

fn open(args: &SetArgs, examples: Option<usize>) -> anyhow::Result<Dataset> {
    let about_masks = [
        ("--masks", args.masks.is_some()),
        ("--mask-folder", args.mask_folder.is_some()),
        ("--ignore", !args.ignore.is_empty()),
    ];
    let about_masks = about_masks.iter().find(|(_, given)| *given).map(|(flag, _)| *flag);
    let picture_folder = args.picture_folder.is_some().then_some("--picture-folder");
    let meant_for = |layout: Layout| -> anyhow::Result<()> {
        let misplaced = match layout {
            Layout::Masks => picture_folder,
            Layout::Coco => about_masks,
            _ => about_masks.or(picture_folder),
        };
        match misplaced {
            Some("--picture-folder") => {
                Err(report::usage(format!("--picture-folder is for COCO files, and this set is {layout}")))
            }
            Some(flag) => {
                Err(report::usage(format!("{flag} is for label pictures, and this set is {layout}")))
            }
            None => Ok(()),
        }
    };
    if let Some(layout) = args.layout {
        meant_for(layout)?;
    }
    let options = OpenOptions {
        layout: args.layout,
        split: args.split.clone(),
        mask_folder: args.mask_folder.clone(),
        mask_meaning: args.masks.map(|masks| match masks {
            Masks::Classes => MaskMeaning::Classes,
            Masks::Instances => MaskMeaning::Instances,
            Masks::Binary => MaskMeaning::Binary,
        }),
        ignore: args.ignore.clone(),
        pictures: args.picture_folder.clone(),
        allow_outside: args.allow_outside,
        examples,
        ..OpenOptions::default()
    };
    let dataset = open_with(&args.path, &options)?;
    meant_for(dataset.layout)?;
    Ok(dataset)
}

fn pictures_bar(dataset: &Dataset, what: &str) -> ProgressBar {
    let bar = report::progress_bar(dataset.samples.len() as u64, "pictures");
    bar.set_message(what.to_owned());
    bar
}

fn run_inspect(args: &InspectArgs) -> anyhow::Result<()> {
    let shown = args.examples.or((!args.json).then_some(EXAMPLES));
    let dataset = open(&args.set, shown)?;
    let bar = pictures_bar(&dataset, "inspecting");
    let found = inspect(&dataset, &|_, _| bar.inc(1));
    bar.finish_and_clear();
    if args.json {
        report::print(&serde_json::to_string_pretty(&found)?)?;
    } else {
        report::print(&summary::inspection(&found))?;
    }
    if found.unusable > 0 {
        anyhow::bail!("{} of {} pictures cannot be used", found.unusable, found.samples);
    }
    Ok(())
}

fn run_convert(args: &ConvertArgs) -> anyhow::Result<()> {
    if !(args.tolerance.is_finite() && args.tolerance >= 0.0) {
        return Err(report::usage(format!("--tolerance is {}, expected 0 or more pixels", args.tolerance)));
    }
    check_writable(&args.output, true)?;
    let dataset = open(&args.set, None)?;
    let options = ConvertOptions {
        target: match args.to {
            To::Coco => Target::Coco,
            To::Yolo => Target::Yolo,
            To::Voc => Target::Voc,
            To::Masks => Target::ClassMasks,
            To::InstanceMasks => Target::InstanceMasks,
        },
        pictures: match args.pictures {
            PicturesArg::Copy => Pictures::Copy,
            PicturesArg::Link => Pictures::Link,
            PicturesArg::Leave => Pictures::Leave,
        },
        tolerance: args.tolerance,
    };
    let bar = pictures_bar(&dataset, "converting");
    let done = convert(&dataset, &args.output, &options, &|_, _| bar.inc(1));
    bar.finish_and_clear();
    let done = done?;
    if args.json {
        report::print(&serde_json::to_string_pretty(&converted(&dataset, args, &done))?)?;
    } else if done.samples > 0 {
        report::print(&summary::conversion(&dataset, &args.output, &done))?;
    }
    // Where nothing could be written, it is one reason over and over.
    let named = if done.samples == 0 { EXAMPLES } else { done.failed.len() };
    for (name, error) in done.failed.iter().take(named) {
        report::note(&format!("{name}: {error}"));
    }
    match done.failed.len() {
        0 => Ok(()),
        failed => {
            if done.samples == 0 {
                report::note("no picture could be converted, and nothing was written");
            }
            Err(Failure::Inputs { failed, total: dataset.samples.len() }.into())
        }
    }
}

fn converted(dataset: &Dataset, args: &ConvertArgs, done: &Converted) -> Value {
    let failed: Vec<Value> =
        done.failed.iter().map(|(name, error)| json!({ "name": name, "error": error.to_string() })).collect();
    json!({
        "found": dataset.found,
        "output": (done.samples > 0).then_some(&args.output),
        "pictures": done.samples,
        "objects": done.objects,
        "lost": done.lost,
        "failed": failed,
    })
}

fn run_preview(args: &PreviewArgs) -> anyhow::Result<()> {
    let format = PictureFormat::from_path(&args.output).map_err(|error| report::usage(error.to_string()))?;
    check_writable(&args.output, false)?;
    let dataset = open(&args.set, None)?;
    if is_picture_of(&dataset, &args.output) {
        let name = args.output.display();
        return Err(report::usage(format!("the sheet {name} would overwrite a picture of the set")));
    }
    let options = PreviewOptions {
        count: args.count as usize,
        columns: args.columns as usize,
        seed: args.seed,
        cell: (args.width, args.width * 3 / 4),
    };
    let sheet = preview(&dataset, &options)?;
    save(&args.output, &encode_picture(&sheet.sheet, format)?)?;
    let samples = || sheet.shown.iter().filter_map(|shown| Some((dataset.samples.get(shown.index)?, shown)));
    if args.json {
        let pictures: Vec<Value> = samples()
            .map(|(sample, shown)| {
                let problem = shown.problem.as_ref().map(ToString::to_string);
                json!({ "id": sample.id, "split": sample.split, "path": sample.image, "problem": problem })
            })
            .collect();
        let (width, height) = (sheet.sheet.width(), sheet.sheet.height());
        let value = json!({ "output": args.output, "width": width, "height": height, "pictures": pictures });
        report::print(&serde_json::to_string_pretty(&value)?)?;
    } else {
        let (shown, all) = (sheet.shown.len(), dataset.samples.len());
        report::print(&format!("{}: {shown} of {all} pictures, {}", args.output.display(), dataset.found))?;
    }
    let mut failed = 0;
    for (sample, problem) in samples().filter_map(|(sample, shown)| Some((sample, shown.problem.as_ref()?))) {
        report::note(&format!("{}: {problem}", sample.id));
        failed += 1;
    }
    if failed > 0 { Err(Failure::Inputs { failed, total: sheet.shown.len() }.into()) } else { Ok(()) }
}

/// Whether a file is one of the set's pictures.
fn is_picture_of(dataset: &Dataset, path: &Path) -> bool {
    let Ok(path) = path.canonicalize() else { return false };
    // Names first: asking the disk takes long for thousands of pictures.
    let same_name = dataset.samples.iter().filter(|sample| sample.image.file_name() == path.file_name());
    same_name.filter_map(|sample| sample.image.canonicalize().ok()).any(|picture| picture == path)
}
