//! Pictures of a set, with the boxes that a detector learns from or looks at.

use std::path::{Path, PathBuf};

use kirie_data::{Image, Limits, read_image};

use crate::WeakError;
use crate::boxes::area;
use crate::detector::config::ProposalConfig;
use crate::files::{Corners, Detections, Proposals};

/// A picture of a set.
#[derive(Clone, Debug, PartialEq)]
pub struct Picture {
    /// Its file, relative to the set's folder.
    pub file: String,
    /// Width and height, pixels, as the boxes were made for.
    pub size: [u32; 2],
    /// The classes that it is known to show.
    pub present: Vec<usize>,
    /// Proposals, or objects.
    pub boxes: Vec<Corners>,
    /// Classes of the objects; empty for proposals.
    pub classes: Vec<usize>,
    /// Weights of the objects; empty for proposals.
    pub weights: Vec<f32>,
}

/// Pictures of a folder.
#[derive(Clone, Debug, PartialEq)]
pub struct Pictures {
    /// The set's folder.
    pub root: PathBuf,
    /// The classes' names.
    pub classes: Vec<String>,
    /// The pictures.
    pub all: Vec<Picture>,
    /// Pictures that were left out, and why.
    pub left_out: Vec<(String, &'static str)>,
}

impl Pictures {
    /// Pictures with proposals. Boxes that are too small, that are there twice, or of which there are too many are left out; a
    /// picture with no box left stays, with none.
    pub fn of_proposals(root: &Path, proposals: &Proposals, config: &ProposalConfig) -> Self {
        let all = proposals.images.iter().map(|image| {
            let mut order: Vec<usize> = (0..image.boxes.len()).collect();
            order.sort_by(|a, b| image.scores[*b].total_cmp(&image.scores[*a]));
            let mut boxes: Vec<Corners> = Vec::new();
            for corners in order.into_iter().map(|index| image.boxes[index]) {
                let least = (corners[2] - corners[0]).min(corners[3] - corners[1]);
                if boxes.len() < config.most && least >= config.least_side && !boxes.contains(&corners) {
                    boxes.push(corners);
                }
            }
            Picture {
                file: image.file.clone(),
                size: [image.width, image.height],
                present: indices(&image.labels, &proposals.classes),
                boxes,
                classes: Vec::new(),
                weights: Vec::new(),
            }
        });
        Self {
            root: root.to_owned(),
            classes: proposals.classes.clone(),
            all: all.collect(),
            left_out: Vec::new(),
        }
    }

    /// Pictures with objects. Those that weigh nothing or have no area are left out.
    pub fn of_objects(root: &Path, objects: &Detections) -> Self {
        let all = objects.images.iter().map(|image| {
            let kept: Vec<usize> = (0..image.boxes.len())
                .filter(|i| image.weights[*i] > 0.0 && area(&image.boxes[*i]) > 0.0)
                .collect();
            Picture {
                file: image.file.clone(),
                size: [image.width, image.height],
                present: indices(&image.labels, &objects.classes),
                boxes: kept.iter().map(|i| image.boxes[*i]).collect(),
                classes: kept.iter().map(|i| image.classes[*i]).collect(),
                weights: kept.iter().map(|i| image.weights[*i]).collect(),
            }
        });
        Self {
            root: root.to_owned(),
            classes: objects.classes.clone(),
            all: all.collect(),
            left_out: Vec::new(),
        }
    }

    /// Without pictures that nothing can be learned from: none of whose classes is known, or that have no box.
    ///
    /// # Errors
    /// When no picture or no class is left.
    pub fn to_learn_from(mut self, labels: bool) -> Result<Self, WeakError> {
        let mut left_out = Vec::new();
        self.all.retain(|picture| {
            let reason = if labels && picture.present.is_empty() {
                "its classes are not known"
            } else if picture.boxes.is_empty() {
                "it has no box"
            } else {
                return true;
            };
            left_out.push((picture.file.clone(), reason));
            false
        });
        self.left_out = left_out;
        let reason = if self.classes.is_empty() {
            "there is no class".to_owned()
        } else if self.all.is_empty() {
            match self.left_out.first() {
                Some((file, reason)) => format!("there is no picture to learn from; {file}: {reason}"),
                None => "there is no picture".to_owned(),
            }
        } else {
            return Ok(self);
        };
        Err(WeakError::Labels { set: self.root.display().to_string(), reason })
    }

    /// Reads a picture's pixels.
    ///
    /// # Errors
    /// When the file cannot be read, or is not of the size that its boxes were made for.
    pub fn read(&self, picture: &Picture) -> Result<Image, WeakError> {
        let path = self.root.join(&picture.file);
        let image = read_image(&path, &Limits::default())?;
        let [expected_width, expected_height] = picture.size;
        let (width, height) = (image.width(), image.height());
        if [width, height] != picture.size {
            let name = path.display().to_string();
            let size =
                kirie_data::DataError::PictureSize { name, expected_width, expected_height, width, height };
            return Err(size.into());
        }
        Ok(image)
    }
}

fn indices(labels: &[String], classes: &[String]) -> Vec<usize> {
    let mut found: Vec<usize> =
        labels.iter().filter_map(|label| classes.iter().position(|class| class == label)).collect();
    found.sort_unstable();
    found
}
