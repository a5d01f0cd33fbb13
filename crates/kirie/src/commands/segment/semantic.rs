//! `kirie segment --semantic`: the class of every pixel.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use burn::tensor::Device;
use kirie_data::write::{PictureFormat, encode_picture, index_png};
use kirie_data::{Image, Limits, read_image};
use kirie_gsam::config::TestConfig;
use kirie_gsam::data::LabelMap;
use kirie_gsam::infer::segment;
use kirie_gsam::show::paint;
use kirie_mask::Rle;
use serde_json::{Value, json};

use crate::args::{Format, SegmentArgs};
use crate::inputs::{Input, Inputs};
use crate::outputs::{check_writable, save};
use crate::report::{self, Failure, PictureProgress};
use crate::semantic::{self, FineTuned};

/// Where results go; none for standard output.
type Folder<'a> = Option<&'a Path>;

pub(super) fn run(args: &SegmentArgs, adapter: &Path) -> anyhow::Result<()> {
    let inputs = Inputs::collect(&args.images, args.recursive, Some(&args.output.output))?;
    let (formats, folder) = outputs(args, &inputs.pictures)?;
    let described = semantic::describe(adapter)?;
    let test = args.test.over(&described.notes.test)?;
    let device = args.model.machine.open()?;
    let tuned = semantic::load(adapter, args.model.weights.as_deref(), &device)?;

    let total = inputs.pictures.len() + inputs.failures.len();
    let mut failed = inputs.failures.len();
    inputs.failures.iter().for_each(report::error);
    let mut progress = PictureProgress::new(inputs.pictures.len());
    for input in &inputs.pictures {
        progress.start(&input.listed);
        match picture(&tuned, adapter, input, &test, &formats, folder, &device) {
            Ok(classes) => progress.done(&format!("{classes} classes")),
            Err(error) => {
                if report::is_broken_pipe(&error) || report::is_disk_trouble(&error) {
                    return Err(error);
                }
                failed += 1;
                progress.failed(&report::about(error, &input.path));
            }
        }
    }
    progress.finish();
    if let Some(folder) = folder.filter(|_| failed < total) {
        report::note(&format!("{} of {total} pictures done, see {}", total - failed, folder.display()));
    }
    if failed > 0 { Err(Failure::Inputs { failed, total }.into()) } else { Ok(()) }
}

/// What is written, and where.
fn outputs<'a>(args: &'a SegmentArgs, pictures: &[Input]) -> anyhow::Result<(BTreeSet<Format>, Folder<'a>)> {
    let mut formats: BTreeSet<Format> = args.output.formats.iter().copied().collect();
    let known = [Format::Json, Format::Png, Format::Overlay];
    if let Some(format) = formats.iter().find(|format| !known.contains(format)) {
        let format = format!("{format:?}").to_lowercase();
        return Err(report::usage(format!(
            "--semantic writes png, overlay and json; {format} is for objects"
        )));
    }
    let output = args.output.output.as_path();
    if output == Path::new("-") {
        if formats.iter().any(|format| *format != Format::Json) {
            return Err(report::usage("png and overlay go to files; for `-o -` choose json"));
        }
        return Ok(([Format::Json].into(), None));
    }
    let is_file = output.extension().is_some_and(|ending| {
        ["json", "png", "jpg", "jpeg"].iter().any(|known| ending.eq_ignore_ascii_case(known))
    });
    if output.is_file() || (is_file && !output.is_dir()) {
        return Err(report::usage(format!(
            "{} is a file; --semantic writes into a folder",
            output.display()
        )));
    }
    if formats.is_empty() {
        formats.extend(known);
    }
    let originals: BTreeSet<PathBuf> = pictures.iter().filter_map(|i| i.path.canonicalize().ok()).collect();
    for input in pictures {
        for format in &formats {
            let path = file(output, input, *format);
            if path.canonicalize().is_ok_and(|path| originals.contains(&path)) {
                return Err(report::usage(format!(
                    "the result {} would overwrite a picture",
                    path.display()
                )));
            }
        }
    }
    check_writable(output, true)?;
    Ok((formats, Some(output)))
}

fn file(folder: &Path, input: &Input, format: Format) -> PathBuf {
    let ending = match format {
        Format::Png => "classes.png",
        Format::Overlay => "overlay.jpg",
        _ => "json",
    };
    folder.join(format!("{}.{ending}", input.name))
}

/// Does one picture; the number of classes that it shows.
fn picture(
    tuned: &FineTuned,
    adapter: &Path,
    input: &Input,
    test: &TestConfig,
    formats: &BTreeSet<Format>,
    folder: Folder<'_>,
    device: &Device,
) -> anyhow::Result<usize> {
    let image = read_image(&input.path, &Limits::default())?;
    let labels = segment(&tuned.model, &image, test, device)?;
    let (counts, _) = labels.counts(tuned.notes.classes.len());
    // All of it is made before the first file is.
    let mut files: Vec<(Format, Vec<u8>)> = Vec::new();
    for format in formats {
        let bytes = match format {
            Format::Png => class_png(tuned, &labels)?,
            Format::Overlay => {
                let painted = paint(&image, &labels, &tuned.notes.classes)?;
                encode_picture(&painted, PictureFormat::from_path(Path::new("overlay.jpg"))?)?
            }
            _ => (serde_json::to_string(&record(tuned, adapter, input, &image, &labels, &counts))? + "\n")
                .into_bytes(),
        };
        files.push((*format, bytes));
    }
    for (format, bytes) in files {
        match folder {
            Some(folder) => save(&file(folder, input, format), &bytes)?,
            None => report::print(&String::from_utf8(bytes)?)?,
        }
    }
    Ok(counts.iter().filter(|count| **count > 0).count())
}

fn class_png(tuned: &FineTuned, labels: &LabelMap) -> anyhow::Result<Vec<u8>> {
    let palette: Vec<[u8; 3]> = tuned.notes.classes.iter().map(|class| class.colour).collect();
    Ok(index_png(labels.width, labels.height, &labels.labels, &palette)?)
}

/// Every class with its share and its pixels; those that the picture does not show without a mask.
fn record(
    tuned: &FineTuned,
    adapter: &Path,
    input: &Input,
    image: &Image,
    labels: &LabelMap,
    counts: &[u64],
) -> Value {
    let (width, height) = (labels.width as usize, labels.height as usize);
    let all = labels.labels.len().max(1) as f64;
    let classes: Vec<Value> = tuned
        .notes
        .classes
        .iter()
        .zip(counts)
        .zip(0_u8..)
        .map(|((class, count), id)| {
            let is_class = |x: usize, y: usize| labels.labels.get(y * width + x) == Some(&id);
            let mask = (*count > 0).then(|| Rle::from_fn(width, height, is_class));
            json!({
                "id": id,
                "name": class.name,
                "colour": class.colour,
                "pixels": count,
                "share": *count as f64 / all,
                "bbox": mask.as_ref().map(Rle::bbox_xywh),
                "segmentation": mask,
            })
        })
        .collect();
    json!({
        "image": { "path": input.path, "width": image.width(), "height": image.height() },
        "model": tuned.config.base,
        "method": tuned.config.method.name(),
        "adapter": adapter,
        "classes": classes,
    })
}
