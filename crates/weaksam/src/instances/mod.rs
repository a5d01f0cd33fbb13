//! From boxes to masks and files: what was found in pictures, cut out by SAM asked with the boxes.
//!
//! | written | what |
//! | --- | --- |
//! | `instances.json` | COCO annotations with scores, one file |
//! | `annotations/NAME.xml` | Pascal VOC, a file a picture |
//! | `overlays/NAME.jpg` | pictures to look at |
//!
//! `NAME` is the picture's path below the set's folder without its ending, folders joined by `_`; where two pictures would get
//! the same, the later ones get a number too.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use kirie_data::write::{
    FoundObject, ImageObjects, VocEntry, objects_coco_json, objects_overlay, voc_xml, write_picture,
};
use kirie_data::{Image, ImageRecord, create_parent, write_atomic};
use kirie_mask::{BBox, Rle};
use kirie_run::{Progress, ProgressMode, Stop};
use kirie_sam::{DecodeMode, Predictor, Prompt};
use serde::{Deserialize, Serialize};

use crate::WeakError;
use crate::files::{Detections, ImageDetections, read_json, to_bbox};
use crate::pictures::Pictures;

/// Configuration of the stage.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct InstanceConfig {
    /// Boxes below this score are left out.
    pub least_score: f32,
    /// The most boxes a picture; the best scored are kept.
    pub most: usize,
    /// Whether the best of SAM's three masks is taken instead of its single one (for models without a good single one).
    pub multimask: bool,
    /// Whether the box is drawn around the mask instead of kept as the detector gave it.
    pub refit_boxes: bool,
    /// Whether overlays are written.
    pub overlays: bool,
    /// Whether Pascal VOC files are written.
    pub voc: bool,
}

impl Default for InstanceConfig {
    fn default() -> Self {
        Self { least_score: 0.05, most: 100, multimask: false, refit_boxes: false, overlays: true, voc: true }
    }
}

impl InstanceConfig {
    /// Checks the numbers.
    pub fn check(&self) -> Result<(), WeakError> {
        if self.most == 0 {
            return Err(WeakError::setting("instances.most", 0, "1 or more"));
        }
        if self.least_score.is_nan() {
            return Err(WeakError::setting("instances.least_score", "NaN", "a number"));
        }
        Ok(())
    }
}

/// What the stage did.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct InstanceSummary {
    /// Pictures.
    pub pictures: usize,
    /// Objects written.
    pub objects: usize,
    /// Of these, boxes for which SAM gave no pixel; they are written without a mask.
    pub without_mask: usize,
    /// The COCO file.
    pub coco: PathBuf,
}

/// The objects of a picture, best first, with masks where a predictor is given. A box for which there is no pixel keeps none.
///
/// # Errors
/// A picture or a box that the model cannot take.
pub fn objects_of(
    config: &InstanceConfig,
    found: &ImageDetections,
    image: &Image,
    predictor: Option<&mut Predictor<'_>>,
) -> Result<ImageObjects, WeakError> {
    let mut order: Vec<usize> =
        (0..found.boxes.len()).filter(|i| found.scores[*i] >= config.least_score).collect();
    order.sort_by(|a, b| found.scores[*b].total_cmp(&found.scores[*a]));
    order.truncate(config.most);
    let mut objects: Vec<FoundObject> = order
        .iter()
        .map(|i| FoundObject {
            class: found.classes[*i],
            bbox: to_bbox(found.boxes[*i]),
            score: f64::from(found.scores[*i]),
            mask: None,
        })
        .collect();
    if let (Some(predictor), false) = (predictor, objects.is_empty()) {
        predictor.set_image(image)?;
        let prompts: Vec<Prompt> =
            objects.iter().map(|o| Prompt::bbox(o.bbox.x0, o.bbox.y0, o.bbox.x1, o.bbox.y1)).collect();
        let mode = DecodeMode { multimask: config.multimask, hq_only: false };
        let answers = predictor.predict(&prompts, mode)?;
        for (object, answer) in objects.iter_mut().zip(&answers) {
            let mask = predictor.masks_of(answer)?.mask(&answer.low_res[answer.best()])?;
            if mask.area() > 0 {
                if config.refit_boxes {
                    object.bbox = BBox::from_xywh(mask.bbox_xywh().map(f64::from));
                }
                object.mask = Some(mask);
            }
        }
    }
    let image = ImageRecord { path: found.file.clone(), width: found.width, height: found.height };
    Ok(ImageObjects { image, objects })
}

/// The stage: from `detections.json` to masks and files in `output`. Without a predictor boxes are written as they are.
///
/// # Errors
/// Files and settings that cannot be used; [`WeakError::Stopped`].
pub fn run(
    config: &InstanceConfig,
    root: &Path,
    detections: &Path,
    mut predictor: Option<&mut Predictor<'_>>,
    output: &Path,
    stop: &Stop,
    mode: ProgressMode,
) -> Result<InstanceSummary, WeakError> {
    config.check()?;
    let detections = Detections::read(detections)?;
    let pictures = Pictures::of_objects(root, &detections);
    let mut progress = Progress::new("picture", detections.images.len() as u64, 0, mode);
    let mut summary = InstanceSummary { pictures: detections.images.len(), ..InstanceSummary::default() };
    let mut names = HashSet::new();
    let mut all = Vec::new();
    for (found, picture) in detections.images.iter().zip(&pictures.all) {
        if stop.requested() {
            return Err(WeakError::Stopped { during: "cutting out masks".to_owned() });
        }
        let image = pictures.read(picture)?;
        let objects = objects_of(config, found, &image, predictor.as_deref_mut())
            .map_err(WeakError::of_picture(found.file.clone()))?;
        let name = name_of(&found.file, &mut names);
        if config.overlays {
            let path = output.join("overlays").join(format!("{name}.jpg"));
            create_parent(&path)?;
            write_picture(&path, &objects_overlay(&image, &objects, &detections.classes)?)?;
        }
        if config.voc {
            let entries: Vec<VocEntry<'_>> = objects
                .objects
                .iter()
                .map(|o| VocEntry { name: &detections.classes[o.class], bbox: o.bbox, difficult: false })
                .collect();
            let file = Path::new(&found.file).file_name().unwrap_or_default().to_string_lossy();
            let text = voc_xml(&file, (found.width, found.height), &entries);
            let path = output.join("annotations").join(format!("{name}.xml"));
            create_parent(&path)?;
            write_atomic(&path, |w| w.write_all(text.as_bytes()))?;
        }
        summary.objects += objects.objects.len();
        summary.without_mask += objects.objects.iter().filter(|object| object.mask.is_none()).count();
        all.push(objects);
        progress.set(all.len() as u64, "");
    }
    progress.finish();
    summary.coco = output.join("instances.json");
    create_parent(&summary.coco)?;
    let text = objects_coco_json(&all, &detections.classes)?;
    write_atomic(&summary.coco, |w| w.write_all(&text))?;
    Ok(summary)
}

/// The part of an `instances.json` that [`read`] needs.
#[derive(Deserialize)]
struct Coco {
    images: Vec<CocoImage>,
    annotations: Vec<CocoAnnotation>,
    categories: Vec<CocoCategory>,
}

#[derive(Deserialize)]
struct CocoImage {
    id: u64,
    file_name: String,
    width: u32,
    height: u32,
}

#[derive(Deserialize)]
struct CocoAnnotation {
    id: u64,
    image_id: u64,
    category_id: u64,
    bbox: [f64; 4],
    score: f64,
    #[serde(default)]
    segmentation: Option<Rle>,
}

#[derive(Deserialize)]
struct CocoCategory {
    id: u64,
    name: String,
}

/// Reads an `instances.json` that [`run`] has written: the classes' names, and the objects of every picture.
///
/// # Errors
/// [`WeakError::Read`]; [`WeakError::Content`] for anything that [`run`] would not have written.
pub fn read(path: &Path) -> Result<(Vec<String>, Vec<ImageObjects>), WeakError> {
    let Coco { images, annotations, categories } = read_json(path)?;
    let wrong = |place: String, reason: String| Err(WeakError::content(path, place, reason));
    if let Some((id, category)) = (1..).zip(&categories).find(|(id, category)| category.id != *id) {
        let reason =
            format!("expected categories 1, 2, 3 and so on, found {} in the place of {id}", category.id);
        return wrong(category.name.clone(), reason);
    }
    let mut places = HashMap::new();
    let mut all: Vec<ImageObjects> = Vec::with_capacity(images.len());
    for CocoImage { id, file_name: path, width, height } in images {
        if places.insert(id, all.len()).is_some() {
            return wrong(path, format!("expected every image once, found {id} again"));
        }
        all.push(ImageObjects { image: ImageRecord { path, width, height }, objects: Vec::new() });
    }
    for annotation in annotations {
        let place = || format!("annotation {}", annotation.id);
        let Some(picture) = places.get(&annotation.image_id).and_then(|at| all.get_mut(*at)) else {
            return wrong(place(), format!("there is no image {}", annotation.image_id));
        };
        let class = annotation.category_id as usize;
        if !(1..=categories.len()).contains(&class) {
            return wrong(place(), format!("there is no category {class}"));
        }
        let size = (picture.image.width as usize, picture.image.height as usize);
        if let Some(mask) =
            annotation.segmentation.as_ref().filter(|mask| (mask.width(), mask.height()) != size)
        {
            let (width, height) = size;
            let reason =
                format!("expected a mask of {width}x{height}, found {}x{}", mask.width(), mask.height());
            return wrong(place(), reason);
        }
        picture.objects.push(FoundObject {
            class: class - 1,
            bbox: BBox::from_xywh(annotation.bbox),
            score: annotation.score,
            mask: annotation.segmentation,
        });
    }
    Ok((categories.into_iter().map(|category| category.name).collect(), all))
}

/// A name for a picture's files that no other has.
fn name_of(file: &str, taken: &mut HashSet<String>) -> String {
    let stem = Path::new(file).with_extension("");
    let parts: Vec<String> = stem
        .components()
        .filter_map(|part| match part {
            std::path::Component::Normal(part) => Some(part.to_string_lossy().into_owned()),
            _ => None,
        })
        .collect();
    let name = parts.join("_");
    let mut unique = name.clone();
    let mut number = 2;
    while !taken.insert(unique.clone()) {
        unique = format!("{name}-{number}");
        number += 1;
    }
    unique
}

#[cfg(test)]
mod tests;
