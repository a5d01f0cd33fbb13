//! What a checkpoint's manifest says of its files.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::entry::{FileEntry, is_plain};

const FORMAT: u32 = 1;
pub(crate) const MANIFEST: &str = "manifest.json";

/// The file `manifest.json`, which is written last.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Manifest {
    format: u32,
    step: u64,
    pub(crate) files: Vec<FileEntry>,
}

impl Manifest {
    pub(crate) fn new(step: u64, files: Vec<FileEntry>) -> Self {
        Self { format: FORMAT, step, files }
    }
}

pub(crate) fn write_manifest(path: &Path, manifest: &Manifest) -> io::Result<()> {
    let mut file = File::create_new(path)?;
    let mut text = serde_json::to_string_pretty(manifest)?;
    text.push('\n');
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

pub(crate) fn read_manifest(folder: &Path, step: u64) -> Result<Manifest, String> {
    if !folder.is_dir() {
        return Err("is missing".to_owned());
    }
    let text =
        fs::read(folder.join(MANIFEST)).map_err(|error| format!("{MANIFEST} cannot be read: {error}"))?;
    let manifest: Manifest =
        serde_json::from_slice(&text).map_err(|error| format!("{MANIFEST} is damaged: {error}"))?;
    if manifest.format != FORMAT {
        return Err(format!("{MANIFEST} is of format {}, this program knows {FORMAT}", manifest.format));
    }
    if manifest.step != step {
        return Err(format!("{MANIFEST} is that of step {}", manifest.step));
    }
    if let Some(file) = manifest.files.iter().find(|file| !is_plain(&file.name)) {
        return Err(format!("{MANIFEST} names {:?}, which is no name of a part", file.name));
    }
    Ok(manifest)
}

/// Whether all files are there in their sizes.
pub(crate) fn is_complete(folder: &Path, step: u64) -> bool {
    read_manifest(folder, step).is_ok_and(|manifest| {
        let whole = |file: &FileEntry| folder.join(&file.name).metadata().is_ok_and(|m| m.len() == file.size);
        manifest.files.iter().all(whole)
    })
}
