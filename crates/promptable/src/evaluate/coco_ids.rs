//! Which picture a COCO image id means. The data set knows pictures by name alone.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use kirie_data::datasets::{Dataset, Sample};
use serde::Deserialize;

use super::EvaluateError;

#[derive(Deserialize)]
struct Listing {
    images: Option<Vec<Listed>>,
}

#[derive(Deserialize)]
struct Listed {
    id: u64,
    file_name: String,
}

/// The COCO image id of every sample that has one, in the samples' order.
///
/// Ids come from the lists of images in the set's annotation files: `annotations` where that is a file, else every `.json`
/// in the set's folder and in `annotations` below it. A picture that no list names has the id its file name is, when that
/// is a number (`000000000139.jpg` is image 139).
///
/// # Errors
/// [`EvaluateError::File`] when `annotations` is a file that has no list of images.
pub fn image_ids<'a>(
    dataset: &Dataset,
    annotations: &Path,
    samples: &[&'a Sample],
) -> Result<Vec<(u64, &'a Sample)>, EvaluateError> {
    let mut ids: HashMap<String, u64> = HashMap::new();
    if annotations.is_file() {
        ids.extend(read(annotations)?);
    } else {
        let mut files = json_files(&dataset.root);
        files.extend(json_files(&dataset.root.join("annotations")));
        // Other JSON files may lie there too.
        ids.extend(files.iter().filter_map(|file| read(file).ok()).flatten());
    }
    let id_of = |sample: &&'a Sample| {
        let number = || sample.image.file_stem()?.to_str()?.parse().ok();
        let id = ids.get(&sample.id).copied().or_else(number)?;
        Some((id, *sample))
    };
    Ok(samples.iter().filter_map(id_of).collect())
}

fn json_files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut files: Vec<PathBuf> = entries
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("json")))
        .collect();
    files.sort();
    files
}

/// Names as the data set gives them to its samples, with the ids.
fn read(path: &Path) -> Result<Vec<(String, u64)>, EvaluateError> {
    let wrong = |reason: String| EvaluateError::File { path: path.to_owned(), reason };
    let text = fs::read_to_string(path).map_err(|error| wrong(format!("cannot be read: {error}")))?;
    let listing: Listing = serde_json::from_str(text.trim_start_matches('\u{feff}'))
        .map_err(|error| wrong(format!("expected a COCO annotation file: {error}")))?;
    let images = listing.images.ok_or_else(|| wrong("expected a list \"images\", found none".to_owned()))?;
    let named = |image: Listed| {
        let name = image.file_name.replace('\\', "/");
        (Path::new(&name).with_extension("").display().to_string(), image.id)
    };
    Ok(images.into_iter().map(named).collect())
}
