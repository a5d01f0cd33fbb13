//! The annotations as files of the usual forms, written by `kirie_data`.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;

use kirie_data::datasets::{self, ConvertOptions, Pictures, Target, convert};
use kirie_data::write::{ClassedMasks, CocoShape, DEFAULT_TOLERANCE, classed_coco_json, geojson};
use kirie_data::{ImageMasks, ImageRecord, MaskRecord, write_atomic};
use serde_json::Value;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

use crate::error::{ApiError, ApiResult};
use crate::library::{Entry, Library};
use crate::store::{Class, Object, Store};

/// Name of the COCO file of a set.
pub(crate) const COCO_FILE: &str = "annotations.json";
/// What objects without a class are called.
const NO_CLASS: &str = "object";

/// A form of export.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Form {
    /// One COCO annotation file; with pictures, a zip of both.
    Coco,
    /// Polygons, a text file a picture, and `data.yaml`.
    Yolo,
    /// Boxes, an XML file a picture.
    Voc,
    /// The class of every pixel as PNG, and `classes.txt`.
    Png,
    /// The objects of every picture counted from 1, as PNG.
    Instances,
    /// Outlines, a GeoJSON file a picture, in pixels.
    Geojson,
}

/// What is labelled, as it was at one moment.
pub(crate) struct Labels {
    pictures: Vec<(Arc<Entry>, ImageMasks, Vec<u32>)>,
    categories: Vec<(u32, String)>,
}

impl Labels {
    /// Collects the pictures that have objects or are called done.
    pub(crate) async fn collect(store: &Store, library: &Arc<Library>) -> ApiResult<Self> {
        let labelled = store.labelled().await?;
        let classes = store.classes().await?;
        let shared = Arc::clone(library);
        let entries = tokio::task::spawn_blocking(move || shared.all()).await?;
        let mut found = Vec::new();
        for entry in entries {
            if labelled.get(&entry.id).is_some_and(|l| l.done || l.objects > 0) {
                let objects = store.objects(entry.id.clone()).await?;
                found.push((entry, objects));
            }
        }
        let shared = Arc::clone(library);
        tokio::task::spawn_blocking(move || Self::new(&shared, &classes, found)).await?
    }

    fn new(library: &Library, classes: &[Class], found: Vec<(Arc<Entry>, Vec<Object>)>) -> ApiResult<Self> {
        let mut categories: Vec<(u32, String)> =
            classes.iter().map(|c| (c.id as u32, c.name.clone())).collect();
        let next = categories.iter().map(|(id, _)| id + 1).max().unwrap_or(1);
        let none = categories.iter().find(|(_, name)| name == NO_CLASS).map_or(next, |(id, _)| *id);
        if none == next && found.iter().any(|(_, objects)| objects.iter().any(|o| o.class.is_none())) {
            categories.push((none, NO_CLASS.to_owned()));
        }
        let mut pictures = Vec::new();
        for (entry, objects) in found {
            let (width, height) = library.size(&entry)?;
            let of_masks = objects.iter().map(|o| o.class.map_or(none, |class| class as u32)).collect();
            let masks = objects.into_iter().map(|object| record(object, width, height)).collect();
            let image = ImageRecord { path: entry.name.clone(), width, height };
            pictures.push((entry, ImageMasks { image, model: "people".to_owned(), masks }, of_masks));
        }
        Ok(Self { pictures, categories })
    }

    /// Pictures with labels.
    pub(crate) fn pictures(&self) -> usize {
        self.pictures.len()
    }

    /// Classes that objects are of.
    pub(crate) fn classes(&self) -> usize {
        let used: HashSet<u32> = self.pictures.iter().flat_map(|(_, _, of)| of.iter().copied()).collect();
        used.len()
    }

    /// Pictures with an object, of a class or of any.
    pub(crate) fn with_objects(&self, class: Option<i64>) -> usize {
        let wanted = |of: &u32| class.is_none_or(|class| i64::from(*of) == class);
        self.pictures.iter().filter(|(_, _, of)| of.iter().any(wanted)).count()
    }

    /// The name of a class.
    pub(crate) fn class_name(&self, id: i64) -> Option<String> {
        let found = self.categories.iter().find(|(class, _)| i64::from(*class) == id);
        found.map(|(_, name)| name.clone())
    }

    /// The COCO file; pictures are named as they lie in the served folder, or as they were uploaded.
    pub(crate) fn coco(&self) -> ApiResult<Vec<u8>> {
        let pictures: Vec<ClassedMasks<'_>> =
            self.pictures.iter().map(|(_, masks, categories)| ClassedMasks { masks, categories }).collect();
        let categories: Vec<(u32, &str)> =
            self.categories.iter().map(|(id, name)| (*id, name.as_str())).collect();
        Ok(classed_coco_json(&pictures, &categories, CocoShape::Rle)?)
    }

    /// Writes a COCO set with its pictures into an empty folder: `images/` and `annotations.json`, whose file names start from
    /// `images/`, so that other forms name their files after the pictures alone. Pictures take no space where the file system has
    /// hard links.
    pub(crate) fn stage(&mut self, library: &Library, folder: &Path) -> ApiResult<()> {
        let images = folder.join("images");
        fs::create_dir_all(&images)?;
        let mut taken = HashSet::new();
        for (entry, masks, _) in &mut self.pictures {
            let name = plain_name(&entry.name, &mut taken);
            let (from, to) = (library.file(entry)?, images.join(&name));
            if fs::hard_link(&from, &to).is_err() {
                fs::copy(&from, &to)?;
            }
            masks.image.path = name;
        }
        let json = self.coco()?;
        write_atomic(folder.join(COCO_FILE), |file| file.write_all(&json))?;
        Ok(())
    }

    /// Writes a zip of everything in the form.
    pub(crate) fn zip(
        mut self,
        library: &Library,
        form: Form,
        pictures: bool,
        file: File,
    ) -> ApiResult<File> {
        let work = tempfile::tempdir()?;
        let staged = work.path().join("staged");
        self.stage(library, &staged)?;
        let target = match form {
            Form::Coco => None,
            Form::Yolo => Some(Target::Yolo),
            Form::Voc => Some(Target::Voc),
            Form::Png => Some(Target::ClassMasks),
            Form::Instances => Some(Target::InstanceMasks),
            Form::Geojson => {
                self.geojson(&work.path().join("out"))?;
                return pack(&work.path().join("out"), file);
            }
        };
        let Some(target) = target else { return pack(&staged, file) };
        let set = datasets::open(staged.join(COCO_FILE), None)?;
        let out = work.path().join("out");
        let left = if pictures { Pictures::Link } else { Pictures::Leave };
        let options = ConvertOptions { pictures: left, ..ConvertOptions::new(target) };
        let done = convert(&set, &out, &options, &|_, _| {})?;
        if let Some((name, error)) = done.failed.first() {
            return Err(ApiError::Unprocessable(format!("{name}: {error}")));
        }
        pack(&out, file)
    }

    /// A GeoJSON file a picture, each feature with its class.
    fn geojson(&self, folder: &Path) -> ApiResult<()> {
        fs::create_dir_all(folder)?;
        let names: HashMap<u32, &str> =
            self.categories.iter().map(|(id, name)| (*id, name.as_str())).collect();
        let mut taken = HashSet::new();
        for (entry, masks, categories) in &self.pictures {
            let bad = |error: serde_json::Error| ApiError::Internal(error.to_string());
            let mut all: Value = serde_json::from_str(&geojson(masks, DEFAULT_TOLERANCE)?).map_err(bad)?;
            for feature in all["features"].as_array_mut().into_iter().flatten() {
                let at = feature["id"].as_u64().unwrap_or_default() as usize;
                let name = categories.get(at).and_then(|id| names.get(id)).copied();
                feature["properties"]["class"] = name.into();
            }
            let stem = Path::new(&entry.name).with_extension("geojson").to_string_lossy().into_owned();
            let path = folder.join(plain_name(&stem, &mut taken));
            write_atomic(path, |file| file.write_all(all.to_string().as_bytes()))?;
        }
        Ok(())
    }
}

fn record(object: Object, width: u32, height: u32) -> MaskRecord {
    MaskRecord {
        bbox: object.segmentation.inclusive_box().to_xywh(),
        area: object.area,
        predicted_iou: object.predicted_iou.unwrap_or(f64::NAN),
        stability_score: f64::NAN,
        point_coords: object.points.iter().map(|[x, y, _]| [*x, *y]).collect(),
        crop_box: [0.0, 0.0, f64::from(width), f64::from(height)],
        segmentation: object.segmentation,
    }
}

/// A file name out of a path, unlike those that are taken whatever the case.
fn plain_name(name: &str, taken: &mut HashSet<String>) -> String {
    let odd = |c: char| c.is_control() || r#"/\:*?"<>|"#.contains(c);
    let plain: String = name.chars().map(|c| if odd(c) { '_' } else { c }).collect();
    let plain = plain.trim_start_matches('.').to_owned();
    let path = Path::new(&plain);
    let part = |part: Option<&std::ffi::OsStr>| part.map(|p| p.to_string_lossy().into_owned());
    let (stem, ending) = (part(path.file_stem()).unwrap_or_default(), part(path.extension()));
    let ending = ending.map_or_else(String::new, |ending| format!(".{ending}"));
    let mut unique = format!("{stem}{ending}");
    let mut count = 1;
    // Labels are named after the stem alone in some forms.
    while !taken.insert(unique.rsplit_once('.').map_or(unique.as_str(), |(stem, _)| stem).to_lowercase()) {
        count += 1;
        unique = format!("{stem}_{count}{ending}");
    }
    unique
}

/// All files below a folder into a zip.
fn pack(folder: &Path, file: File) -> ApiResult<File> {
    let bad = |error: zip::result::ZipError| ApiError::Internal(format!("the zip: {error}"));
    let mut zip = ZipWriter::new(file);
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        let mut entries: Vec<_> = fs::read_dir(next)?.collect::<io::Result<_>>()?;
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let below = path.strip_prefix(folder).unwrap_or(&path);
            let name: Vec<_> = below.iter().map(|part| part.to_string_lossy()).collect();
            let text = path
                .extension()
                .is_some_and(|e| ["json", "txt", "xml", "yaml", "geojson"].iter().any(|t| e == *t));
            let method = if text { CompressionMethod::Deflated } else { CompressionMethod::Stored };
            zip.start_file(
                name.join("/"),
                SimpleFileOptions::default().compression_method(method).large_file(true),
            )
            .map_err(bad)?;
            io::copy(&mut File::open(&path)?, &mut zip)?;
        }
    }
    let mut file = zip.finish().map_err(bad)?;
    file.flush()?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_plain_and_unlike() {
        let mut taken = HashSet::new();
        let names = ["a/b.jpg", "a_b.JPG", "a_b.png", "../x.png", "c<d>\n.png", "noending"];
        let found: Vec<String> = names.iter().map(|name| plain_name(name, &mut taken)).collect();
        assert_eq!(found, ["a_b.jpg", "a_b_2.JPG", "a_b_3.png", "_x.png", "c_d__.png", "noending"]);
    }
}
