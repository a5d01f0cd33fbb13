//! Where results go, and in which forms.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

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
    /// Checks what was asked for against the number of pictures, before any work is done.
    pub(crate) fn new(args: &OutputArgs, pictures: usize) -> anyhow::Result<Self> {
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
        } else if let Some(format) = format_of(&args.output).filter(|_| !args.output.is_dir()) {
            if formats.is_empty() {
                formats.insert(format);
            }
            if formats.len() > 1 || (pictures > 1 && !formats.contains(&Format::Coco)) {
                return Err(report::usage(format!(
                    "{} is a file: it takes one format of one picture; name a folder instead",
                    args.output.display()
                )));
            }
            if formats.contains(&Format::Png) {
                return Err(report::usage("png writes several files; name a folder with -o"));
            }
            Target::File(args.output.clone())
        } else {
            if formats.is_empty() {
                formats.extend([Format::Overlay, Format::Json]);
            }
            Target::Folder(args.output.clone())
        };
        Ok(Self { target, formats, mode: args.output_mode, tolerance: args.tolerance, collected: Vec::new() })
    }

    /// Writes what is written for each picture.
    pub(crate) fn picture(
        &mut self,
        input: &Input,
        image: &Image,
        masks: ImageMasks,
        prompts: &Prompts,
    ) -> anyhow::Result<()> {
        for format in self.formats.clone() {
            match format {
                Format::Json => {
                    self.text(input, "json", || Ok(serde_json::to_string(&self.json(&masks)?)? + "\n"))?;
                }
                Format::Geojson => {
                    self.text(input, "geojson", || Ok(write::geojson(&masks, self.tolerance)? + "\n"))?;
                }
                Format::Yolo => {
                    self.text(input, "txt", || Ok(write::yolo_lines(&masks, 0, self.tolerance)?))?;
                }
                Format::Overlay => {
                    let path = self.path(input, "overlay.jpg");
                    let picture = write::overlay(image, &masks, prompts)?;
                    let format = PictureFormat::from_path(&path)?;
                    save(&path, &write::encode_picture(&picture, format)?)?;
                }
                Format::Png => {
                    for (i, mask) in masks.masks.iter().enumerate() {
                        let png = write::mask_png(&mask.segmentation.to_mask())?;
                        save(&self.path(input, &format!("masks/{i:04}.png")), &png)?;
                    }
                    save(&self.path(input, "labels.png"), &write::label_png(&masks)?)?;
                }
                Format::Coco => {}
            }
        }
        if self.formats.contains(&Format::Coco) {
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

    fn text(
        &self,
        input: &Input,
        extension: &str,
        content: impl FnOnce() -> anyhow::Result<String>,
    ) -> anyhow::Result<()> {
        let content = content()?;
        match &self.target {
            Target::Stdout => report::print(&content),
            _ => save(&self.path(input, extension), content.as_bytes()),
        }
    }

    fn path(&self, input: &Input, extension: &str) -> PathBuf {
        match &self.target {
            Target::Folder(folder) => match extension.split_once('/') {
                Some((sub, file)) => folder.join(format!("{}.{sub}", input.name)).join(file),
                None => folder.join(format!("{}.{extension}", input.name)),
            },
            Target::File(path) => path.clone(),
            Target::Stdout => PathBuf::from("-"),
        }
    }

    fn json(&self, masks: &ImageMasks) -> anyhow::Result<Value> {
        let mut value = serde_json::to_value(masks)?;
        if self.mode != OutputMode::CocoRle {
            let records = value["masks"].as_array_mut().into_iter().flatten();
            for (record, mask) in records.zip(&masks.masks) {
                let rle = &mask.segmentation;
                record["segmentation"] = match self.mode {
                    OutputMode::UncompressedRle => {
                        json!({ "size": [rle.height(), rle.width()], "counts": rle.counts() })
                    }
                    _ => {
                        let mask = rle.to_mask();
                        let rows = (0..mask.height())
                            .map(|y| mask.row(y).iter().map(|v| u8::from(*v)).collect::<Vec<_>>());
                        json!(rows.collect::<Vec<_>>())
                    }
                };
            }
        }
        Ok(value)
    }
}

/// The format that a file name asks for.
fn format_of(path: &Path) -> Option<Format> {
    match path.extension()?.to_str()?.to_lowercase().as_str() {
        "json" => Some(Format::Json),
        "geojson" => Some(Format::Geojson),
        "txt" => Some(Format::Yolo),
        "png" | "jpg" | "jpeg" => Some(Format::Overlay),
        _ => None,
    }
}

/// Writes a file, and the folders above it if they are missing.
pub(crate) fn save(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    create_parent(path)?;
    write_atomic(path, |file| file.write_all(bytes))?;
    Ok(())
}
