//! JSON files of SA-1B, one a picture: regions without classes. What `kirie segment --format json` writes has the same
//! form under the key `masks`.

use std::path::Path;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::files::{Root, read_text};
use super::labels::{Instance, Labels};
use super::parts::{Wanted, find};
use super::per_picture::open_files;
use super::text::{line_at, offset_in, reason, run_lengths};
use super::{Dataset, OpenOptions, Opened, Source};
use crate::DataError;

pub(super) const WANTED: Wanted =
    Wanted { folders: &["annotations", "masks", "labels", "json"], extensions: &["json"], beside: true };

/// Whether the first JSON file beside pictures has one of two words in its beginning.
pub(super) fn speaks_of(root: &Root, words: [&str; 2]) -> Result<bool, DataError> {
    for part in find(root, &WANTED)? {
        if let Some(entry) = root.files(&part.labels, WANTED.extensions, true)?.first() {
            let text = std::fs::read(&entry.path).unwrap_or_default();
            let holds =
                |word: &str| text.windows(word.len() + 2).any(|w| w == format!("\"{word}\"").as_bytes());
            return Ok(words.into_iter().all(holds));
        }
    }
    Ok(false)
}

pub(super) fn open(root: &Root, options: &OpenOptions) -> Result<Opened, DataError> {
    let what = "regions (JSON files as in SA-1B)";
    let mut opened = open_files(root, options, &WANTED, what, Source::Regions, &|_| Vec::new())?;
    // A class list beside them has nothing to say about regions.
    opened.classes.clear();
    Ok(opened)
}

#[derive(Deserialize)]
struct Whole<'a> {
    image: Option<Size>,
    #[serde(borrow, alias = "masks")]
    annotations: Option<Vec<&'a RawValue>>,
}

#[derive(Deserialize)]
struct Size {
    width: u32,
    height: u32,
}

#[derive(Deserialize)]
struct Region<'a> {
    #[serde(borrow)]
    segmentation: Option<&'a RawValue>,
    predicted_iou: Option<f64>,
}

pub(super) fn read(dataset: &Dataset, path: &Path) -> Result<Labels, DataError> {
    let text = read_text(path, &dataset.limits)?;
    let whole: Whole = serde_json::from_str(&text).map_err(|error| {
        DataError::malformed(
            path,
            format!("line {}, column {}", error.line(), error.column()),
            reason(&error),
        )
    })?;
    let missing = |what| DataError::malformed(path, "line 1", format!("expected {what}, found none"));
    let frame = whole.image.ok_or_else(|| missing("\"image\" with width and height"))?;
    let frame = (frame.width, frame.height);
    let regions = whole.annotations.ok_or_else(|| missing("a list \"annotations\" or \"masks\""))?;
    let instances = regions.into_iter().enumerate().map(|(i, raw)| {
        let wrong = |reason: String| {
            let line = line_at(&text, offset_in(&text, raw));
            DataError::malformed(path, format!("region {i} (line {line})"), reason)
        };
        let region: Region = serde_json::from_str(raw.get()).map_err(|error| wrong(reason(&error)))?;
        let rle = region.segmentation.ok_or_else(|| wrong("it has no segmentation".to_owned()))?;
        let rle = run_lengths(rle, Some(frame)).map_err(wrong)?;
        // The files' own boxes end at the last pixel, not behind it: one measured again fits all layouts.
        Ok(Instance { score: region.predicted_iou, ..Instance::from_rle(None, rle) })
    });
    let instances = instances.collect::<Result<_, DataError>>()?;
    Ok(Labels::Instances { frame: Some(frame), instances })
}
