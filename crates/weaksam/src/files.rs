//! The files in which the stages meet.
//!
//! | file | type | written by |
//! | --- | --- | --- |
//! | `proposals.json` | [`Proposals`] | proposals |
//! | `detections.json` | [`Detections`] | detectors |
//! | `pseudo.json` | [`Detections`] | pseudo ground truth, corrected boxes |
//!
//! Boxes are corners `[x0, y0, x1, y1]` in pixels of the original, upright picture: (0, 0) is the outer corner of its first
//! pixel, and `x1`, `y1` are the edges behind the last pixel, so that widths are plain differences.

use std::fs;
use std::path::Path;

use kirie_data::{create_parent, write_atomic};
use kirie_mask::BBox;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::WeakError;

/// Corners `[x0, y0, x1, y1]`, pixels of the original picture.
pub type Corners = [f32; 4];

/// Where a proposal comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// SAM asked on a regular grid.
    Grid,
    /// SAM asked at peaks of the coarse class maps.
    Coarse,
    /// SAM asked at peaks of the class maps refined by attention.
    Fine,
    /// SAM asked at clustered peaks of the class tokens' attention.
    Cross,
    /// Selective search; no model.
    Search,
}

/// Candidate boxes of a set of pictures, and what each picture shows.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Proposals {
    /// The classes' names, in the order that indices of classes mean.
    pub classes: Vec<String>,
    /// The pictures.
    pub images: Vec<ImageProposals>,
}

/// Candidate boxes of a picture.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageProposals {
    /// The picture's file, relative to the set's folder, with `/`.
    pub file: String,
    /// Width of the picture, pixels.
    pub width: u32,
    /// Height of the picture, pixels.
    pub height: u32,
    /// Names of the classes that it shows; of a part whose labels are not read, none.
    pub labels: Vec<String>,
    /// The boxes.
    pub boxes: Vec<Corners>,
    /// A score of every box, higher first if only some can be kept. Scores of different sources do not compare.
    pub scores: Vec<f32>,
    /// Where every box comes from.
    pub source: Vec<Source>,
}

/// Boxes with classes of a set of pictures: found by a detector, or taken for true.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Detections {
    /// The classes' names.
    pub classes: Vec<String>,
    /// The pictures.
    pub images: Vec<ImageDetections>,
}

/// Boxes with classes of a picture.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageDetections {
    /// The picture's file, relative to the set's folder, with `/`.
    pub file: String,
    /// Width of the picture, pixels.
    pub width: u32,
    /// Height of the picture, pixels.
    pub height: u32,
    /// Names of the classes that the picture is known to show. Empty where nothing is known, or, in boxes to learn from, where it
    /// shows none.
    #[serde(default)]
    pub labels: Vec<String>,
    /// The boxes.
    pub boxes: Vec<Corners>,
    /// How sure the detector is of each; 1 for a box that a person has drawn.
    pub scores: Vec<f32>,
    /// The class of each, an index into [`Detections::classes`].
    pub classes: Vec<usize>,
    /// How much each counts when it is learned from: 1 as a rule, more for a box that a person has corrected.
    pub weights: Vec<f32>,
}

impl Proposals {
    /// Reads and checks such a file.
    ///
    /// # Errors
    /// [`WeakError::Read`]; [`WeakError::Content`] for lists of different lengths, labels that are no classes, the same
    /// picture twice, and boxes that have no size, are no numbers or lie beyond the picture.
    pub fn read(path: &Path) -> Result<Self, WeakError> {
        let read: Self = read_json(path)?;
        read.check().map_err(|(place, reason)| WeakError::content(path, place, reason))?;
        Ok(read)
    }

    /// Writes the file, whole or not at all, and its folder if that is missing.
    ///
    /// # Errors
    /// As [`Proposals::read`] for content that could not be read back, and when the file cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), WeakError> {
        self.check().map_err(|(place, reason)| WeakError::content(path, place, reason))?;
        write_json(path, self)
    }

    /// The `limit` best-scored boxes of each picture, best first.
    #[must_use]
    pub fn best(&self, limit: usize) -> Self {
        let images = self.images.iter().map(|image| image.best(limit)).collect();
        Self { classes: self.classes.clone(), images }
    }

    fn check(&self) -> Result<(), (String, String)> {
        once_each(&self.classes, "class").map_err(|reason| (String::new(), reason))?;
        once_each(self.images.iter().map(|image| &image.file), "picture")
            .map_err(|reason| (String::new(), reason))?;
        for image in &self.images {
            let checked = check_boxes(&image.boxes, image.width, image.height)
                .and_then(|()| check_labels(&image.labels, &self.classes))
                .and_then(|()| check_count("scores", image.scores.len(), image.boxes.len()))
                .and_then(|()| check_count("source", image.source.len(), image.boxes.len()))
                .and_then(|()| check_numbers("scores", &image.scores));
            checked.map_err(|reason| (image.file.clone(), reason))?;
        }
        Ok(())
    }
}

impl ImageProposals {
    /// The `limit` best-scored boxes, best first.
    #[must_use]
    pub fn best(&self, limit: usize) -> Self {
        let mut order: Vec<usize> = (0..self.boxes.len()).collect();
        order.sort_by(|a, b| self.scores[*b].total_cmp(&self.scores[*a]));
        order.truncate(limit);
        Self {
            boxes: order.iter().map(|index| self.boxes[*index]).collect(),
            scores: order.iter().map(|index| self.scores[*index]).collect(),
            source: order.iter().map(|index| self.source[*index]).collect(),
            ..self.clone()
        }
    }
}

impl Detections {
    /// Reads and checks such a file.
    ///
    /// # Errors
    /// As [`Proposals::read`]; also for indices that are no classes, and weights below 0.
    pub fn read(path: &Path) -> Result<Self, WeakError> {
        let read: Self = read_json(path)?;
        read.check().map_err(|(place, reason)| WeakError::content(path, place, reason))?;
        Ok(read)
    }

    /// Writes the file, whole or not at all, and its folder if that is missing.
    ///
    /// # Errors
    /// As [`Detections::read`] for content that could not be read back, and when the file cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), WeakError> {
        self.check().map_err(|(place, reason)| WeakError::content(path, place, reason))?;
        write_json(path, self)
    }

    fn check(&self) -> Result<(), (String, String)> {
        once_each(&self.classes, "class").map_err(|reason| (String::new(), reason))?;
        once_each(self.images.iter().map(|image| &image.file), "picture")
            .map_err(|reason| (String::new(), reason))?;
        for image in &self.images {
            let boxes = image.boxes.len();
            let checked = check_boxes(&image.boxes, image.width, image.height)
                .and_then(|()| check_labels(&image.labels, &self.classes))
                .and_then(|()| check_count("scores", image.scores.len(), boxes))
                .and_then(|()| check_count("classes", image.classes.len(), boxes))
                .and_then(|()| check_count("weights", image.weights.len(), boxes))
                .and_then(|()| check_numbers("scores", &image.scores))
                .and_then(|()| check_numbers("weights", &image.weights))
                .and_then(|()| match image.weights.iter().find(|weight| **weight < 0.0) {
                    Some(weight) => Err(format!("expected weights of 0 or more, found {weight}")),
                    None => Ok(()),
                })
                .and_then(|()| match image.classes.iter().find(|class| **class >= self.classes.len()) {
                    Some(class) => {
                        Err(format!("expected classes 0 to below {}, found {class}", self.classes.len()))
                    }
                    None => Ok(()),
                });
            checked.map_err(|reason| (image.file.clone(), reason))?;
        }
        Ok(())
    }
}

/// What files of proposals and of boxes have in common: pictures to look at.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Listing {
    /// The classes' names.
    pub classes: Vec<String>,
    /// The pictures.
    pub images: Vec<Listed>,
}

/// A picture of a [`Listing`].
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Listed {
    /// Its file, relative to the set's folder, with `/`.
    pub file: String,
    /// Width, pixels.
    pub width: u32,
    /// Height, pixels.
    pub height: u32,
    /// Names of the classes that it is known to show.
    #[serde(default)]
    pub labels: Vec<String>,
}

impl Listing {
    /// Reads the pictures of a file of proposals or of boxes; the boxes are not looked at.
    ///
    /// # Errors
    /// [`WeakError::Read`]; [`WeakError::Content`] for labels that are no classes, and the same picture twice.
    pub fn read(path: &Path) -> Result<Self, WeakError> {
        let read: Self = read_json(path)?;
        let wrong = |place: &str, reason: String| WeakError::content(path, place, reason);
        once_each(&read.classes, "class").map_err(|reason| wrong("", reason))?;
        once_each(read.images.iter().map(|image| &image.file), "picture")
            .map_err(|reason| wrong("", reason))?;
        for image in &read.images {
            check_labels(&image.labels, &read.classes).map_err(|reason| wrong(&image.file, reason))?;
        }
        Ok(read)
    }
}

/// A box of these files as the house's box.
pub fn to_bbox([x0, y0, x1, y1]: Corners) -> BBox {
    BBox::new(f64::from(x0), f64::from(y0), f64::from(x1), f64::from(y1))
}

/// A box for these files: rounded to `f32` and cut at the picture's edges; `None` if nothing is left of it.
pub fn to_corners(bbox: &BBox, width: u32, height: u32) -> Option<Corners> {
    let (w, h) = (f64::from(width), f64::from(height));
    let [x0, y0, x1, y1] =
        [bbox.x0.clamp(0.0, w), bbox.y0.clamp(0.0, h), bbox.x1.clamp(0.0, w), bbox.y1.clamp(0.0, h)]
            .map(|v| v as f32);
    (x1 > x0 && y1 > y0).then_some([x0, y0, x1, y1])
}

/// Reads a JSON file.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T, WeakError> {
    let text = fs::read(path).map_err(|source| WeakError::Read { path: path.to_owned(), source })?;
    serde_json::from_slice(&text)
        .map_err(|error| WeakError::content(path, format!("line {}", error.line()), error.to_string()))
}

/// Writes a JSON file, whole or not at all, and its folder if that is missing.
pub(crate) fn write_json(path: &Path, value: &impl Serialize) -> Result<(), WeakError> {
    let text = serde_json::to_vec(value)
        .map_err(|error| WeakError::content(path, "", format!("has no JSON form: {error}")))?;
    create_parent(path)?;
    Ok(write_atomic(path, |file| file.write_all(&text))?)
}

fn once_each<'a>(names: impl IntoIterator<Item = &'a String>, what: &str) -> Result<(), String> {
    let mut seen = std::collections::HashSet::new();
    match names.into_iter().find(|name| !seen.insert(name.as_str())) {
        Some(name) => Err(format!("the {what} {name:?} is there twice")),
        None => Ok(()),
    }
}

fn check_count(what: &str, found: usize, boxes: usize) -> Result<(), String> {
    if found == boxes { Ok(()) } else { Err(format!("{boxes} boxes, but {found} {what}")) }
}

fn check_numbers(what: &str, numbers: &[f32]) -> Result<(), String> {
    match numbers.iter().find(|number| !number.is_finite()) {
        Some(number) => Err(format!("expected finite {what}, found {number}")),
        None => Ok(()),
    }
}

fn check_labels(labels: &[String], classes: &[String]) -> Result<(), String> {
    match labels.iter().find(|label| !classes.contains(label)) {
        Some(label) => Err(format!("its label {label:?} is none of the classes: {}", classes.join(", "))),
        None => once_each(labels, "label"),
    }
}

fn check_boxes(boxes: &[Corners], width: u32, height: u32) -> Result<(), String> {
    if width == 0 || height == 0 {
        return Err(format!("a picture of {width}x{height} pixels"));
    }
    let (w, h) = (width as f32, height as f32);
    let right =
        |[x0, y0, x1, y1]: Corners| x0 >= 0.0 && y0 >= 0.0 && x0 < x1 && y0 < y1 && x1 <= w && y1 <= h;
    match boxes.iter().position(|corners| !right(*corners)) {
        Some(index) => Err(format!(
            "box {index} is {:?}, expected corners [x0, y0, x1, y1] with x0 < x1 and y0 < y1 inside of {width}x{height} pixels",
            boxes[index]
        )),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proposals() -> Proposals {
        let image = ImageProposals {
            file: "images/a.jpg".to_owned(),
            width: 20,
            height: 10,
            labels: vec!["dog".to_owned()],
            boxes: vec![[0.0, 0.0, 20.0, 10.0], [1.5, 2.0, 3.25, 4.0]],
            scores: vec![0.5, 1.0],
            source: vec![Source::Grid, Source::Cross],
        };
        Proposals { classes: vec!["cat".to_owned(), "dog".to_owned()], images: vec![image] }
    }

    fn detections() -> Detections {
        let image = ImageDetections {
            file: "images/a.jpg".to_owned(),
            width: 20,
            height: 10,
            labels: Vec::new(),
            boxes: vec![[0.0, 0.0, 5.0, 5.0]],
            scores: vec![0.25],
            classes: vec![1],
            weights: vec![1.0],
        };
        Detections { classes: vec!["cat".to_owned(), "dog".to_owned()], images: vec![image] }
    }

    #[test]
    fn what_is_written_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new/proposals.json");
        proposals().write(&path).unwrap();
        assert_eq!(Proposals::read(&path).unwrap(), proposals());
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains(r#""boxes":[[0.0,0.0,20.0,10.0],[1.5,2.0,3.25,4.0]]"#), "{text}");
        assert!(text.contains(r#""source":["grid","cross"]"#), "{text}");
        detections().write(&path).unwrap();
        assert_eq!(Detections::read(&path).unwrap(), detections());
    }

    #[test]
    fn the_best_boxes() {
        let mut all = proposals();
        all.images[0].scores = vec![0.5, 1.0];
        assert_eq!(all.best(1).images[0].boxes, [[1.5, 2.0, 3.25, 4.0]]);
        assert_eq!(all.best(1).images[0].source, [Source::Cross]);
        assert_eq!(all.best(9).images[0].scores, [1.0, 0.5]);
        assert_eq!(
            all.best(0).images[0],
            ImageProposals { boxes: vec![], scores: vec![], source: vec![], ..all.images[0].clone() }
        );
    }

    #[test]
    fn both_kinds_of_files_list_pictures() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pictures.json");
        let image = |labels: &[&str]| Listed {
            file: "images/a.jpg".to_owned(),
            width: 20,
            height: 10,
            labels: labels.iter().map(|label| (*label).to_owned()).collect(),
        };
        proposals().write(&path).unwrap();
        let listing = Listing::read(&path).unwrap();
        assert_eq!((listing.classes, listing.images), (proposals().classes, vec![image(&["dog"])]));
        detections().write(&path).unwrap();
        assert_eq!(Listing::read(&path).unwrap().images, [image(&[])]);
        fs::write(
            &path,
            r#"{"classes":["cat"],"images":[{"file":"a","width":2,"height":2,"labels":["cow"]}]}"#,
        )
        .unwrap();
        assert!(Listing::read(&path).unwrap_err().to_string().contains("none of the classes: cat"));
        fs::write(&path, "[]").unwrap();
        assert!(Listing::read(&path).is_err());
    }

    #[test]
    fn nonsense_is_neither_written_nor_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("proposals.json");
        let says = |change: &dyn Fn(&mut Proposals), expected: &str| {
            let mut changed = proposals();
            change(&mut changed);
            let error = changed.write(&path).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
            assert!(!path.exists());
            fs::write(&path, serde_json::to_vec(&changed).unwrap()).unwrap();
            assert!(Proposals::read(&path).is_err());
            fs::remove_file(&path).unwrap();
        };
        says(&|p| p.images[0].boxes[1] = [3.0, 1.0, 3.0, 4.0], "box 1 is");
        says(&|p| p.images[0].boxes[0][2] = 20.5, "inside of 20x10");
        says(&|p| p.images[0].boxes[0][0] = f32::NAN, "box 0 is");
        says(&|p| p.images[0].labels[0] = "cow".to_owned(), "none of the classes: cat, dog");
        says(&|p| p.images[0].scores.push(1.0), "2 boxes, but 3 scores");
        says(&|p| p.images[0].source.clear(), "2 boxes, but 0 source");
        says(&|p| p.images[0].scores[0] = f32::INFINITY, "expected finite scores");
        says(&|p| p.images[0].width = 0, "0x10");
        says(&|p| p.images.push(p.images[0].clone()), "twice");
        says(&|p| p.classes.push("cat".to_owned()), "twice");

        let mut wrong = detections();
        wrong.images[0].classes[0] = 2;
        assert!(wrong.write(&path).unwrap_err().to_string().contains("found 2"));
        wrong.images[0].classes[0] = 0;
        wrong.images[0].weights[0] = -1.0;
        assert!(wrong.write(&path).unwrap_err().to_string().contains("0 or more"));
        fs::write(&path, "{\"classes\":[],\n\"images\":[{}]}").unwrap();
        let error = Detections::read(&path).unwrap_err().to_string();
        assert!(error.contains("line 2") && error.contains("missing field"), "{error}");
    }

    #[test]
    fn boxes_are_cut_at_the_edges() {
        let cut = to_corners(&BBox::new(-3.0, 2.0, 25.0, 9.0), 20, 10);
        assert_eq!(cut, Some([0.0, 2.0, 20.0, 9.0]));
        assert_eq!(to_corners(&BBox::new(20.0, 2.0, 25.0, 9.0), 20, 10), None);
        assert_eq!(to_corners(&BBox::new(3.0, 2.0, 3.0, 9.0), 20, 10), None);
        assert_eq!(to_bbox([1.0, 2.0, 3.0, 4.0]), BBox::new(1.0, 2.0, 3.0, 4.0));
    }
}
