//! A person in the loop: the cases that are least sure go out as files of a labelling program, and come back corrected, with a higher
//! weight.
//!
//! ```text
//! pseudo.json -> export -> pictures + LabelMe or COCO files -> (a person) -> import -> pseudo.json with weights
//! ```

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

use kirie_data::datasets::{Labels, Layout, OpenOptions, open_with};
use kirie_data::{create_parent, write_atomic};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::WeakError;
use crate::files::{Corners, Detections, ImageDetections, read_json, to_corners, write_json};

/// What an export says of itself, in its folder.
const REVIEW: &str = "review.json";
/// The COCO file of an export.
const COCO: &str = "annotations.json";
/// Corners that lie nearer than this are the same, pixels: programs write them with few digits.
const SAME: f32 = 0.51;

/// The files that go out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// A JSON file a picture, as LabelMe and its kin read and write it.
    #[default]
    Labelme,
    /// One COCO annotation file.
    Coco,
}

/// The table `review` of a configuration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ReviewConfig {
    /// Pictures that go out, the least sure first.
    pub count: usize,
    /// As what.
    pub format: Format,
    /// Weight of boxes that come back corrected; others have 1.
    pub weight: f32,
    /// Whether pictures that come back as they went out count as confirmed, with that weight too.
    pub confirm_unchanged: bool,
    /// The folder that came back; without it there is nothing to import.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub corrected: Option<PathBuf>,
}

impl Default for ReviewConfig {
    fn default() -> Self {
        Self { count: 20, format: Format::Labelme, weight: 3.0, confirm_unchanged: false, corrected: None }
    }
}

impl ReviewConfig {
    /// Checks the numbers.
    ///
    /// # Errors
    /// [`WeakError::Setting`].
    pub fn check(&self) -> Result<(), WeakError> {
        if self.count == 0 {
            return Err(WeakError::setting("review.count", 0, "1 or more"));
        }
        if !(self.weight > 0.0 && self.weight <= 1000.0) {
            return Err(WeakError::setting("review.weight", self.weight, "above 0 to 1000"));
        }
        Ok(())
    }
}

/// A picture that goes out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    /// The name of its file in the export.
    pub name: String,
    /// The picture, as in the detections.
    pub file: String,
    /// 0 (least) to 1: see [`confidence`].
    pub confidence: f32,
    /// Why it goes out, in words.
    pub why: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Export {
    format: Format,
    classes: Vec<String>,
    cases: Vec<Case>,
}

/// What an import did.
#[derive(Clone, Debug, PartialEq)]
pub struct Imported {
    /// The boxes, corrected.
    pub detections: Detections,
    /// Pictures whose boxes came back changed.
    pub changed: Vec<String>,
    /// Pictures that came back as they went out.
    pub unchanged: Vec<String>,
}

/// How sure a picture's boxes are, and what makes it the least sure: of the classes it is known to show, the lowest of their best
/// scores (0 for one without a box); where nothing is known, the lowest score of all boxes, 0 without any.
pub fn confidence(image: &ImageDetections, classes: &[String]) -> (f32, String) {
    let best_of = |class: usize| {
        let own = image.classes.iter().zip(&image.scores).filter(|(own, _)| **own == class);
        own.map(|(_, score)| *score)
            .fold(None, |best: Option<f32>, score| Some(best.map_or(score, |b| b.max(score))))
    };
    if image.labels.is_empty() {
        let least = image.scores.iter().copied().reduce(f32::min);
        return match least {
            Some(least) => (least, format!("a box of score {least:.2}")),
            None => (0.0, "no box".to_owned()),
        };
    }
    let known = image.labels.iter().filter_map(|label| {
        let class = classes.iter().position(|class| class == label)?;
        Some(match best_of(class) {
            Some(best) => (best, format!("the best box of {label} has score {best:.2}")),
            None => (0.0, format!("no box of {label}")),
        })
    });
    known
        .reduce(|least, next| if next.0 < least.0 { next } else { least })
        .unwrap_or((0.0, "no box".to_owned()))
}

/// Writes the least sure pictures, copied from `root`, and their boxes into a new folder.
///
/// # Errors
/// A folder that is not empty; pictures that cannot be read; files that cannot be written.
pub fn export(
    detections: &Detections,
    root: &Path,
    config: &ReviewConfig,
    folder: &Path,
) -> Result<Vec<Case>, WeakError> {
    config.check()?;
    let occupied = fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_some());
    if occupied {
        return Err(WeakError::content(
            folder,
            "",
            "expected a new or empty folder: corrections may be in it",
        ));
    }
    let mut order: Vec<(f32, String, &ImageDetections)> = detections
        .images
        .iter()
        .map(|image| {
            let (sure, why) = confidence(image, &detections.classes);
            (sure, why, image)
        })
        .collect();
    order.sort_by(|a, b| a.0.total_cmp(&b.0));
    order.truncate(config.count);
    let mut cases: Vec<Case> = Vec::new();
    for (confidence, why, image) in order {
        // One folder, whatever folders the pictures come from.
        let name = image.file.replace('/', "__");
        let name =
            if cases.iter().any(|case| case.name == name) { format!("{}-{name}", cases.len()) } else { name };
        let from = root.join(&image.file);
        let bytes = fs::read(&from).map_err(|source| WeakError::Read { path: from, source })?;
        let to = folder.join("images").join(&name);
        create_parent(&to)?;
        write_atomic(&to, |file| file.write_all(&bytes))?;
        if config.format == Format::Labelme {
            let path = folder.join("labels").join(&name).with_extension("json");
            write_json(&path, &labelme(image, &detections.classes, &name))?;
        }
        cases.push(Case { name, file: image.file.clone(), confidence, why });
    }
    if config.format == Format::Coco {
        write_json(&folder.join(COCO), &coco(detections, &cases))?;
    }
    let classes = &detections.classes;
    write_atomic(folder.join("classes.txt"), |file| {
        classes.iter().enumerate().try_for_each(|(id, class)| writeln!(file, "{id}\t{class}"))
    })?;
    // Last: a folder without it is no export.
    let export = Export { format: config.format, classes: classes.clone(), cases: cases.clone() };
    write_json(&folder.join(REVIEW), &export)?;
    Ok(cases)
}

fn labelme(image: &ImageDetections, classes: &[String], name: &str) -> serde_json::Value {
    let shapes = image.boxes.iter().zip(&image.classes).zip(&image.scores).map(
        |(([x0, y0, x1, y1], class), score)| {
            json!({
                "label": classes[*class], "points": [[x0, y0], [x1, y1]], "group_id": null,
                "description": format!("score {score:.3}"), "shape_type": "rectangle", "flags": {},
            })
        },
    );
    json!({
        "version": "5.5.0", "flags": {}, "shapes": shapes.collect::<Vec<_>>(), "imagePath": format!("../images/{name}"),
        "imageData": null, "imageHeight": image.height, "imageWidth": image.width,
    })
}

fn coco(detections: &Detections, cases: &[Case]) -> serde_json::Value {
    let of: HashMap<&str, &ImageDetections> =
        detections.images.iter().map(|image| (image.file.as_str(), image)).collect();
    let (mut images, mut annotations) = (Vec::new(), Vec::new());
    for (at, case) in cases.iter().enumerate() {
        let Some(image) = of.get(case.file.as_str()) else { continue };
        images.push(json!({
            "id": at + 1, "file_name": case.name, "width": image.width, "height": image.height,
        }));
        for (([x0, y0, x1, y1], class), score) in image.boxes.iter().zip(&image.classes).zip(&image.scores) {
            let (width, height) = (x1 - x0, y1 - y0);
            annotations.push(json!({
                "id": annotations.len() + 1, "image_id": at + 1, "category_id": class + 1, "iscrowd": 0,
                "bbox": [x0, y0, width, height], "area": width * height, "score": score,
            }));
        }
    }
    let categories: Vec<_> = detections
        .classes
        .iter()
        .enumerate()
        .map(|(id, name)| json!({ "id": id + 1, "name": name, "supercategory": "" }))
        .collect();
    json!({ "images": images, "annotations": annotations, "categories": categories })
}

/// Takes the boxes of a corrected export back: pictures that were changed get the boxes that came back, of score 1 and the higher
/// weight, and the labels of these; all others stay as they are.
///
/// # Errors
/// A folder that is no export; files that cannot be read; classes or pictures the detections do not have; pictures of another size.
pub fn import(detections: &Detections, folder: &Path, config: &ReviewConfig) -> Result<Imported, WeakError> {
    config.check()?;
    let export: Export = read_json(&folder.join(REVIEW))?;
    let wrong = |place: &str, reason: String| WeakError::content(folder, place, reason);
    if export.classes != detections.classes {
        let reason = format!(
            "was made for the classes {}, not {}",
            export.classes.join(", "),
            detections.classes.join(", ")
        );
        return Err(wrong(REVIEW, reason));
    }
    let (path, layout) = match export.format {
        Format::Labelme => (folder.to_owned(), Layout::Labelme),
        Format::Coco => (folder.join(COCO), Layout::Coco),
    };
    let options = OpenOptions {
        layout: Some(layout),
        pictures: (export.format == Format::Coco).then(|| folder.join("images")),
        ..OpenOptions::default()
    };
    let dataset = open_with(&path, &options)?;
    let files: BTreeMap<&str, &str> =
        export.cases.iter().map(|case| (case.name.as_str(), case.file.as_str())).collect();
    let mut imported =
        Imported { detections: detections.clone(), changed: Vec::new(), unchanged: Vec::new() };
    for sample in dataset.samples.iter().filter(|sample| sample.is_labelled()) {
        let name =
            sample.image.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let Some(file) = files.get(name.as_str()) else {
            return Err(wrong(&name, "is no picture of this export".to_owned()));
        };
        let image = imported.detections.images.iter_mut().find(|image| image.file == *file);
        let Some(image) = image else {
            return Err(wrong(&name, format!("there are no detections of {file} any more")));
        };
        let labels = dataset.labels(sample)?;
        if let Some(frame) = labels.frame().filter(|frame| *frame != (image.width, image.height)) {
            let (width, height) = (image.width, image.height);
            return Err(wrong(
                &name,
                format!("expected a picture of {width}x{height}, found {}x{}", frame.0, frame.1),
            ));
        }
        let Labels::Instances { instances, .. } = labels else {
            return Err(wrong(&name, "expected boxes".to_owned()));
        };
        let mut found: Vec<(usize, Corners)> = Vec::new();
        for instance in &instances {
            let class =
                instance.class.and_then(|id| dataset.class(id)).map_or("", |class| class.name.as_str());
            let Some(index) = detections.classes.iter().position(|own| own == class) else {
                let known = detections.classes.join(", ");
                return Err(wrong(&name, format!("class {class:?} is none of {known}")));
            };
            let corners = to_corners(&instance.bbox, image.width, image.height)
                .ok_or_else(|| wrong(&name, format!("a box of {class} has no size inside of the picture")))?;
            found.push((index, corners));
        }
        let same = is_same(image, &found);
        if same { &mut imported.unchanged } else { &mut imported.changed }.push(image.file.clone());
        if same && !config.confirm_unchanged {
            continue;
        }
        image.boxes = found.iter().map(|(_, corners)| *corners).collect();
        image.classes = found.iter().map(|(class, _)| *class).collect();
        image.scores = vec![1.0; found.len()];
        image.weights = vec![config.weight; found.len()];
        let mut shown: Vec<usize> = image.classes.clone();
        shown.sort_unstable();
        shown.dedup();
        image.labels = shown.into_iter().map(|class| detections.classes[class].clone()).collect();
    }
    Ok(imported)
}

/// Whether the boxes are those that went out, in any order.
fn is_same(image: &ImageDetections, found: &[(usize, Corners)]) -> bool {
    let mut left: Vec<&(usize, Corners)> = found.iter().collect();
    let near = |a: &Corners, b: &Corners| a.iter().zip(b).all(|(a, b)| (a - b).abs() < SAME);
    let all_there = image.classes.iter().zip(&image.boxes).all(|(class, corners)| {
        let at = left.iter().position(|(other, theirs)| other == class && near(corners, theirs));
        at.map(|at| left.swap_remove(at)).is_some()
    });
    all_there && left.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drawn::{SIZE, draw_set};

    fn detections() -> Detections {
        let image = |n: usize, score: f32| ImageDetections {
            file: format!("images/p{n}.png"),
            width: SIZE[0],
            height: SIZE[1],
            labels: vec!["disc".to_owned()],
            boxes: vec![[4.25, 6.0, 24.0, 26.5], [40.0, 10.0, 60.0, 50.0]],
            scores: vec![score, 0.9],
            classes: vec![0, 1],
            weights: vec![1.0; 2],
        };
        let mut none = image(2, 0.5);
        none.classes[0] = 1;
        let images = vec![image(0, 0.8), image(1, 0.3), none];
        Detections { classes: vec!["disc".to_owned(), "bar".to_owned()], images }
    }

    #[test]
    fn the_least_sure_go_out_first() {
        let all = detections();
        let sure: Vec<f32> = all.images.iter().map(|image| confidence(image, &all.classes).0).collect();
        assert_eq!(sure, [0.8, 0.3, 0.0]);
        assert_eq!(confidence(&all.images[2], &all.classes).1, "no box of disc");
        let unknown = ImageDetections { labels: Vec::new(), ..all.images[0].clone() };
        assert_eq!(confidence(&unknown, &all.classes).0, 0.8);
        assert_eq!(confidence(&ImageDetections::default(), &all.classes).0, 0.0);
    }

    #[test]
    fn what_is_corrected_comes_back_with_its_weight() {
        for format in [Format::Labelme, Format::Coco] {
            let folder = tempfile::tempdir().unwrap();
            draw_set(folder.path(), 3);
            let out = folder.path().join("review");
            let config = ReviewConfig { count: 2, format, ..ReviewConfig::default() };
            let all = detections();
            let cases = export(&all, folder.path(), &config, &out).unwrap();
            assert_eq!(
                cases.iter().map(|c| c.file.as_str()).collect::<Vec<_>>(),
                ["images/p2.png", "images/p1.png"]
            );
            assert!(out.join("images/images__p1.png").is_file());
            let error = export(&all, folder.path(), &config, &out).unwrap_err().to_string();
            assert!(error.contains("empty folder"), "{error}");

            let back = import(&all, &out, &config).unwrap();
            assert_eq!((back.detections, back.changed.len(), back.unchanged.len()), (all.clone(), 0, 2));
            let sure =
                import(&all, &out, &ReviewConfig { confirm_unchanged: true, ..config.clone() }).unwrap();
            assert_eq!(sure.detections.images[1].weights, [3.0; 2]);
            assert_eq!(sure.detections.images[1].boxes, all.images[1].boxes);

            // The person moves the disc of picture 1.
            let (path, from, to) = match format {
                Format::Labelme => (out.join("labels/images__p1.json"), "[24.0,26.5]", "[30.0,28.0]"),
                // In the COCO file boxes have widths, and picture 2 stands first.
                Format::Coco => (out.join(COCO), "[4.25,6.0,19.75,20.5]", "[4.25,6.0,25.75,22.0]"),
            };
            let text = fs::read_to_string(&path).unwrap();
            let at = text.rfind(from).unwrap();
            fs::write(&path, format!("{}{to}{}", &text[..at], &text[at + from.len()..])).unwrap();
            let back = import(&all, &out, &config).unwrap();
            assert_eq!(back.changed, ["images/p1.png"], "{format:?}");
            let image = &back.detections.images[1];
            assert_eq!(image.boxes[0], [4.25, 6.0, 30.0, 28.0]);
            assert_eq!((image.weights.as_slice(), image.scores.as_slice()), (&[3.0; 2][..], &[1.0; 2][..]));
            assert_eq!(image.labels, ["disc", "bar"]);
            assert_eq!(back.detections.images[0], all.images[0]);
            assert_eq!(back.detections.images[2], all.images[2]);

            let mut other = all.clone();
            other.classes[1] = "rod".to_owned();
            assert!(import(&other, &out, &config).unwrap_err().to_string().contains("was made for"));
            fs::write(&path, &text[..text.len() / 2]).unwrap();
            assert!(import(&all, &out, &config).is_err());
        }
        assert!(import(&detections(), Path::new("nowhere"), &ReviewConfig::default()).is_err());
    }
}
