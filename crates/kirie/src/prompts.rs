//! Prompts from the command line and from files.

use std::collections::{BTreeMap, HashSet};
use std::io;
use std::path::Path;
use std::str::FromStr;

use anyhow::Context;
use kirie_mask::{BBox, Point};
use kirie_sam::{Prompt, logits};
use serde::Deserialize;

use crate::args::SegmentArgs;
use crate::inputs::Input;
use crate::report;

/// `x,y[,0|1]`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct PointArg(Point, bool);

impl FromStr for PointArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match numbers(text)?[..] {
            [x, y] => Ok(Self(Point { x, y }, true)),
            [x, y, label] if label == 0.0 || label == 1.0 => Ok(Self(Point { x, y }, label == 1.0)),
            [_, _, label] => {
                Err(format!("the label is {label}, expected 0 (not the object) or 1 (the object)"))
            }
            _ => Err("expected x,y or x,y,0 or x,y,1".to_owned()),
        }
    }
}

/// `x0,y0,x1,y1`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct BoxArg(BBox);

impl FromStr for BoxArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match numbers(text)?[..] {
            [x0, y0, x1, y1] if x0 < x1 && y0 < y1 => Ok(Self(BBox::new(x0, y0, x1, y1))),
            [_, _, _, _] => Err("upside down or empty: expected x0 < x1 and y0 < y1".to_owned()),
            _ => Err("expected x0,y0,x1,y1".to_owned()),
        }
    }
}

fn numbers(text: &str) -> Result<Vec<f64>, String> {
    text.split(',')
        .map(|part| match part.trim().parse::<f64>() {
            Ok(number) if number.is_finite() => Ok(number),
            Ok(number) => Err(format!("{number} is not a finite number")),
            Err(_) => Err(format!("`{part}` is not a number")),
        })
        .collect()
}

/// Where the prompts of each picture come from.
#[derive(Debug)]
pub(crate) enum PromptSource {
    /// The same for every picture.
    Same(Vec<Prompt>),
    /// By the picture's file name or path.
    ByPicture(BTreeMap<String, Vec<Prompt>>),
}

impl PromptSource {
    /// From the command line, mask inputs not yet added ([`Self::add_masks`]): what is wrong is told before the weights
    /// are read.
    pub(crate) fn new(args: &SegmentArgs) -> anyhow::Result<Self> {
        let source = match &args.prompts {
            Some(path) => Self::read(path)?,
            None => Self::Same(from_flags(args)?),
        };
        if args.mask_input.is_some() && matches!(source, Self::ByPicture(_)) {
            return Err(report::usage("--mask-input goes with prompts for one picture, not for several"));
        }
        if matches!(&source, Self::Same(prompts) if prompts.is_empty()) {
            return Err(report::usage(
                "nothing to look for: give --point, --box, --mask-input or --prompts, or --everything",
            ));
        }
        Ok(source)
    }

    /// Adds the mask inputs of the command line, of `side` x `side`.
    pub(crate) fn add_masks(&mut self, args: &SegmentArgs, side: usize) -> anyhow::Result<()> {
        match (&args.mask_input, self) {
            (Some(path), Self::Same(prompts)) => {
                add_masks(prompts, &logits::read(path, side)?, args.mask_index, path)
            }
            _ => Ok(()),
        }
    }

    /// The prompts for a picture; `None` if the file has none for it.
    pub(crate) fn for_picture(&self, input: &Input) -> Option<&[Prompt]> {
        match self {
            Self::Same(prompts) => Some(prompts),
            Self::ByPicture(all) => names(input).iter().find_map(|name| all.get(name)).map(Vec::as_slice),
        }
    }

    /// Names in the prompt file that belong to none of the pictures: most likely misspelt.
    pub(crate) fn unused<'a>(&'a self, inputs: &[Input]) -> Vec<&'a str> {
        let Self::ByPicture(all) = self else { return Vec::new() };
        let used: HashSet<String> = inputs.iter().flat_map(names).collect();
        all.keys().filter(|name| !used.contains(*name)).map(String::as_str).collect()
    }

    fn read(path: &Path) -> anyhow::Result<Self> {
        let name = path.display();
        let text = if path == Path::new("-") {
            io::read_to_string(io::stdin())
        } else {
            std::fs::read_to_string(path)
        };
        let text = text.with_context(|| format!("cannot read prompts {name}"))?;
        if text.trim().is_empty() {
            anyhow::bail!("prompts {name}: the file is empty");
        }
        // serde_json's own words name the line.
        let bad = |e: serde_json::Error| anyhow::anyhow!("prompts {name}: {e}; {FORM}");
        let convert = |entries: Vec<PromptEntry>| -> anyhow::Result<Vec<Prompt>> {
            if entries.is_empty() {
                anyhow::bail!("prompts {name}: a list of prompts is empty");
            }
            entries
                .into_iter()
                .enumerate()
                .map(|(i, entry)| entry.into_prompt().with_context(|| format!("prompts {name}: prompt {i}")))
                .collect()
        };
        if !text.trim_start().starts_with('{') {
            return Ok(Self::Same(convert(serde_json::from_str(&text).map_err(bad)?)?));
        }
        let pictures: BTreeMap<String, Vec<PromptEntry>> = serde_json::from_str(&text).map_err(bad)?;
        if pictures.is_empty() {
            anyhow::bail!("prompts {name}: there are no prompts in it");
        }
        let all = pictures.into_iter().map(|(picture, entries)| Ok((picture, convert(entries)?)));
        Ok(Self::ByPicture(all.collect::<anyhow::Result<_>>()?))
    }
}

const FORM: &str =
    r#"expected [{"points": [[x,y,1], ...], "box": [x0,y0,x1,y1]}, ...] or {"photo.jpg": [...], ...}"#;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct PromptEntry {
    #[serde(default)]
    points: Vec<Vec<f64>>,
    #[serde(rename = "box")]
    bbox: Option<[f64; 4]>,
}

impl PromptEntry {
    fn into_prompt(self) -> anyhow::Result<Prompt> {
        let mut prompt = Prompt::default();
        for point in self.points {
            prompt = match point[..] {
                [x, y] => prompt.with_point(x, y, true),
                [x, y, label] if label == 0.0 || label == 1.0 => prompt.with_point(x, y, label == 1.0),
                _ => anyhow::bail!("point {point:?}: expected [x, y], [x, y, 0] or [x, y, 1]"),
            };
        }
        prompt.bbox = self.bbox.map(|[x0, y0, x1, y1]| BBox::new(x0, y0, x1, y1));
        Ok(prompt)
    }
}

/// The names a picture may have in a prompt file: its path, its name below the folder it was found in, its file name.
fn names(input: &Input) -> [String; 3] {
    let file = input.path.file_name().map(|f| f.to_string_lossy().into_owned()).unwrap_or_default();
    [input.path.to_string_lossy().into_owned(), input.listed.clone(), file]
}

/// One prompt of all points and the box, or one for every box.
fn from_flags(args: &SegmentArgs) -> anyhow::Result<Vec<Prompt>> {
    let points: Vec<_> = args.points.iter().map(|p| (p.0, p.1)).collect();
    match (&args.boxes[..], points.is_empty()) {
        ([], true) if args.mask_input.is_some() => Ok(vec![Prompt::default()]),
        ([], true) => Ok(Vec::new()),
        ([], false) => Ok(vec![Prompt { points, ..Prompt::default() }]),
        ([one], false) => Ok(vec![Prompt { points, bbox: Some(one.0), mask_input: None }]),
        (boxes, true) => Ok(boxes.iter().map(|b| Prompt { bbox: Some(b.0), ..Prompt::default() }).collect()),
        (_, false) => Err(report::usage(
            "points and several boxes: which belong together? Put them into a file for --prompts",
        )),
    }
}

fn add_masks(
    prompts: &mut [Prompt],
    masks: &[Vec<f32>],
    index: Option<usize>,
    path: &Path,
) -> anyhow::Result<()> {
    let name = path.display();
    match index {
        Some(index) => {
            let mask = masks.get(index).ok_or_else(|| {
                report::usage(format!(
                    "mask input {name} holds {} masks; there is no mask {index}",
                    masks.len()
                ))
            })?;
            for prompt in prompts {
                prompt.mask_input = Some(mask.clone());
            }
        }
        None if masks.len() == prompts.len() => {
            for (prompt, mask) in prompts.iter_mut().zip(masks) {
                prompt.mask_input = Some(mask.clone());
            }
        }
        None => {
            return Err(report::usage(format!(
                "mask input {name}: number of masks {}, number of prompts {}; choose one with --mask-index",
                masks.len(),
                prompts.len()
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_parsed() {
        assert_eq!("1,2.5".parse(), Ok(PointArg(Point { x: 1.0, y: 2.5 }, true)));
        assert_eq!("1, 2 ,0".parse(), Ok(PointArg(Point { x: 1.0, y: 2.0 }, false)));
        assert_eq!("1,2,3,4".parse(), Ok(BoxArg(BBox::new(1.0, 2.0, 3.0, 4.0))));
        for bad in ["", "1", "1,2,2", "1,2,0,0", "nan,1", "1,inf", "a,b"] {
            assert!(bad.parse::<PointArg>().is_err(), "{bad}");
        }
        for bad in ["1,2,3", "3,2,1,4", "1,2,1,4", "1,2,3,NaN", "1,2,3,4,5"] {
            assert!(bad.parse::<BoxArg>().is_err(), "{bad}");
        }
    }
}
