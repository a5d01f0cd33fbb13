//! Where results go, and in which forms.

use std::collections::{BTreeSet, HashSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;
use kirie_data::write::{self, CocoOptions, PictureFormat, Prompts};
use kirie_data::{Image, ImageMasks, create_parent, write_atomic};
use serde_json::{Value, json};

use crate::args::{Format, OutputArgs, OutputMode};
use crate::inputs::Input;
use crate::report;

/// Where results go.
#[derive(Debug, PartialEq)]
enum Target {
    /// Standard output.
    Stdout,
    /// This one file.
    File(PathBuf),
    /// Files of this folder.
    Folder(PathBuf),
}

/// Writes the results of a run.
#[derive(Debug)]
pub(crate) struct Outputs {
    target: Target,
    formats: BTreeSet<Format>,
    mode: OutputMode,
    tolerance: f64,
    /// For the formats that put all pictures into one file.
    collected: Vec<ImageMasks>,
}

impl Outputs {
    /// Checks what was asked for against the pictures and the disk, before any work is done.
    pub(crate) fn new(args: &OutputArgs, pictures: &[Input]) -> anyhow::Result<Self> {
        let mut formats: BTreeSet<Format> = args.formats.iter().copied().collect();
        if !(args.tolerance.is_finite() && args.tolerance >= 0.0) {
            return Err(report::usage(format!(
                "--tolerance is {}, expected 0 or more pixels",
                args.tolerance
            )));
        }
        let target = if args.output == Path::new("-") {
            if formats.is_empty() {
                formats.insert(Format::Json);
            }
            if formats.len() > 1 {
                return Err(report::usage("only one format fits standard output"));
            }
            if formats.contains(&Format::Png) || formats.contains(&Format::Overlay) {
                return Err(report::usage("png and overlay go to files; for `-o -` choose a text format"));
            }
            Target::Stdout
        } else if is_file_name(&args.output) {
            let name = args.output.display();
            let fitting = formats_of(&args.output);
            if formats.is_empty() {
                formats.extend(fitting.first());
            }
            let [format] = formats.iter().collect::<Vec<_>>()[..] else {
                return Err(report::usage(format!(
                    "{name} is a file and takes one format: .json, .geojson, .txt (yolo), .png or .jpg (overlay); or name \
                     a folder"
                )));
            };
            if !fitting.contains(format) {
                return Err(report::usage(
                    format!("{name} does not end as a file of {format:?} does").to_lowercase(),
                ));
            }
            if pictures.len() > 1 && *format != Format::Coco {
                return Err(report::usage(format!("{name} is a file and takes one picture; name a folder")));
            }
            Target::File(args.output.clone())
        } else {
            if formats.is_empty() {
                formats.extend([Format::Overlay, Format::Json]);
            }
            Target::Folder(args.output.clone())
        };
        let outputs = Self {
            target,
            formats,
            mode: args.output_mode,
            tolerance: args.tolerance,
            collected: Vec::new(),
        };
        outputs.check_overwrites(args, pictures)?;
        if let Target::File(path) | Target::Folder(path) = &outputs.target {
            check_writable(path, matches!(outputs.target, Target::Folder(_)))?;
        }
        if let Some(path) = &args.save_logits {
            check_writable(path, false)?;
        }
        Ok(outputs)
    }

    /// No output may take the place of a picture.
    fn check_overwrites(&self, args: &OutputArgs, pictures: &[Input]) -> anyhow::Result<()> {
        let originals: HashSet<PathBuf> =
            pictures.iter().filter_map(|i| i.path.canonicalize().ok()).collect();
        let mut planned: Vec<PathBuf> = args.save_logits.iter().cloned().collect();
        match &self.target {
            Target::File(path) => planned.push(path.clone()),
            Target::Folder(_) => {
                for input in pictures {
                    planned.extend(["overlay.jpg", "labels.png"].map(|ending| self.path(input, ending)));
                }
            }
            Target::Stdout => {}
        }
        match planned.iter().find(|path| path.canonicalize().is_ok_and(|path| originals.contains(&path))) {
            Some(path) => {
                Err(report::usage(format!("the result {} would overwrite a picture", path.display())))
            }
            None => Ok(()),
        }
    }

    /// Writes what is written for each picture: all of it is made before the first file is.
    pub(crate) fn picture(
        &mut self,
        input: &Input,
        image: &Image,
        mut masks: ImageMasks,
        prompts: &Prompts,
    ) -> anyhow::Result<()> {
        let mut files: Vec<(PathBuf, Vec<u8>)> = Vec::new();
        for format in &self.formats {
            match format {
                Format::Json => {
                    let json = serde_json::to_string(&self.json(&masks)?)? + "\n";
                    files.push((self.path(input, "json"), json.into_bytes()));
                }
                Format::Geojson => {
                    let json = write::geojson(&masks, self.tolerance)? + "\n";
                    files.push((self.path(input, "geojson"), json.into_bytes()));
                }
                Format::Yolo => {
                    let lines = write::yolo_lines(&masks, 0, self.tolerance)?;
                    files.push((self.path(input, "txt"), lines.into_bytes()));
                }
                Format::Overlay => {
                    let path = self.path(input, "overlay.jpg");
                    let picture = write::overlay(image, &masks, prompts)?;
                    let bytes = write::encode_picture(&picture, PictureFormat::from_path(&path)?)?;
                    files.push((path, bytes));
                }
                Format::Png => {
                    for (i, mask) in masks.masks.iter().enumerate() {
                        let png = write::mask_png(&mask.segmentation.to_mask())?;
                        files.push((self.mask_path(input, i), png));
                    }
                    files.push((self.path(input, "labels.png"), write::label_png(&masks)?));
                }
                Format::Coco => {}
            }
        }
        for (path, bytes) in files {
            match &self.target {
                Target::Stdout => report::print(&String::from_utf8(bytes)?)?,
                _ => save(&path, &bytes)?,
            }
        }
        if self.formats.contains(&Format::Png) {
            // An earlier run with more masks would leave some that are none of this one's.
            let mut next = masks.masks.len();
            while fs::remove_file(self.mask_path(input, next)).is_ok() {
                next += 1;
            }
        }
        if self.formats.contains(&Format::Coco) {
            masks.image.path.clone_from(&input.listed);
            self.collected.push(masks);
        }
        Ok(())
    }

    /// Writes what is written once for all pictures.
    pub(crate) fn finish(self) -> anyhow::Result<()> {
        if self.formats.contains(&Format::Coco) {
            let json = write::coco_json(&self.collected, &CocoOptions::default())?;
            match &self.target {
                Target::Stdout => report::print(&String::from_utf8(json)?)?,
                Target::File(path) => save(path, &json)?,
                Target::Folder(folder) => save(&folder.join("annotations.coco.json"), &json)?,
            }
        }
        Ok(())
    }

    /// Where people find the results.
    pub(crate) fn place(&self) -> Option<String> {
        match &self.target {
            Target::Stdout => None,
            Target::File(path) | Target::Folder(path) => Some(path.display().to_string()),
        }
    }

    fn path(&self, input: &Input, ending: &str) -> PathBuf {
        match &self.target {
            Target::Folder(folder) => folder.join(format!("{}.{ending}", input.name)),
            Target::File(path) => path.clone(),
            Target::Stdout => PathBuf::from("-"),
        }
    }

    fn mask_path(&self, input: &Input, index: usize) -> PathBuf {
        self.path(input, "masks").join(format!("{index:04}.png"))
    }

    fn json(&self, masks: &ImageMasks) -> anyhow::Result<Value> {
        let mut value = serde_json::to_value(masks)?;
        if self.mode != OutputMode::CocoRle {
            let records = value["masks"].as_array_mut().into_iter().flatten();
            for (record, mask) in records.zip(&masks.masks) {
                let rle = &mask.segmentation;
                record["segmentation"] = if self.mode == OutputMode::UncompressedRle {
                    json!({ "size": [rle.height(), rle.width()], "counts": rle.counts() })
                } else {
                    let mask = rle.to_mask();
                    let rows = (0..mask.height())
                        .map(|y| mask.row(y).iter().map(|v| u8::from(*v)).collect::<Vec<_>>());
                    json!(rows.collect::<Vec<_>>())
                };
            }
        }
        Ok(value)
    }
}

/// The formats that a file of this name can be, the most likely first.
fn formats_of(path: &Path) -> &'static [Format] {
    match ending(path).as_str() {
        "json" => &[Format::Json, Format::Coco],
        "geojson" => &[Format::Geojson],
        "txt" => &[Format::Yolo],
        "png" | "jpg" | "jpeg" => &[Format::Overlay],
        _ => &[],
    }
}

/// Whether `-o` means a file: by an ending that files have, unless there is a folder of that name.
fn is_file_name(path: &Path) -> bool {
    const OTHERS: &[&str] = &[
        "bmp",
        "csv",
        "gif",
        "html",
        "jsonl",
        "npy",
        "npz",
        "parquet",
        "pdf",
        "pt",
        "pth",
        "safetensors",
        "svg",
        "tif",
        "tiff",
        "webp",
        "xml",
        "yaml",
        "yml",
        "zip",
    ];
    !path.is_dir() && (!formats_of(path).is_empty() || OTHERS.contains(&ending(path).as_str()))
}

fn ending(path: &Path) -> String {
    path.extension().map(|e| e.to_string_lossy().to_lowercase()).unwrap_or_default()
}

/// Tries to write where results will go, without leaving anything: better told now than after hours of work.
pub(crate) fn check_writable(path: &Path, is_folder: bool) -> anyhow::Result<()> {
    let first = if is_folder { Some(path) } else { path.parent() };
    let mut folders = first.into_iter().flat_map(Path::ancestors);
    // The folders that are missing will be made in the first that is not.
    let existing = folders.find(|folder| folder.as_os_str().is_empty() || folder.exists());
    let existing = match existing {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    tempfile::tempfile_in(existing).map(drop).with_context(|| format!("cannot write to {}", path.display()))
}

/// Writes a file, and the folders above it if they are missing.
pub(crate) fn save(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    create_parent(path)?;
    write_atomic(path, |file| file.write_all(bytes))?;
    Ok(())
}
