//! Pictures of a set, with the boxes that a detector learns from or looks at.

use std::path::{Path, PathBuf};

use kirie_data::{Image, Limits, read_image};

use crate::WeakError;
use crate::boxes::area;
use crate::detector::config::ProposalLimits;
use crate::files::{Corners, Detections, Listing, Proposals};

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
    pub fn of_proposals(root: &Path, proposals: &Proposals, config: &ProposalLimits) -> Self {
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

    /// The pictures that a file of proposals or of boxes lists, with none of its boxes.
    ///
    /// # Errors
    /// As [`Listing::read`].
    pub fn listed(root: &Path, path: &Path) -> Result<Self, WeakError> {
        let Listing { classes, images } = Listing::read(path)?;
        let all = images.into_iter().map(|image| Picture {
            file: image.file,
            size: [image.width, image.height],
            present: indices(&image.labels, &classes),
            boxes: Vec::new(),
            classes: Vec::new(),
            weights: Vec::new(),
        });
        let all = all.collect();
        Ok(Self { root: root.to_owned(), classes, all, left_out: Vec::new() })
    }

    /// Those of pictures with proposals that a weak detector learns from: all that have a proposal. A picture without labels shows
    /// none of the classes, which is something to learn as well.
    ///
    /// # Errors
    /// When no picture or no class is left, or no picture shows a class.
    pub fn with_labels(self) -> Result<Self, WeakError> {
        self.that_teach(|picture| !picture.boxes.is_empty(), |picture| !picture.present.is_empty())
    }

    /// Those of pictures with objects that a detector learns from: all that have an object, and those that show none of the classes.
    /// Where a picture shows a class and has no object, nobody knows where it is.
    ///
    /// # Errors
    /// When no picture or no class is left, or no picture has an object.
    pub fn with_objects(self) -> Result<Self, WeakError> {
        let has = |picture: &Picture| !picture.boxes.is_empty();
        self.that_teach(|picture| has(picture) || picture.present.is_empty(), has)
    }

    /// The pictures that are of use; of those some must show an object.
    fn that_teach(
        mut self,
        of_use: impl Fn(&Picture) -> bool,
        shows: impl Fn(&Picture) -> bool,
    ) -> Result<Self, WeakError> {
        let mut left_out = Vec::new();
        self.all.retain(|picture| {
            let stays = of_use(picture);
            if !stays {
                left_out.push((picture.file.clone(), "it has no box"));
            }
            stays
        });
        self.left_out = left_out;
        let reason = if self.classes.is_empty() {
            "there is no class".to_owned()
        } else if self.all.iter().any(shows) {
            return Ok(self);
        } else {
            let why = match (self.all.first(), self.left_out.first()) {
                (None, Some((file, reason))) => format!("{file}: {reason}"),
                (None, None) => "there is no picture".to_owned(),
                (Some(_), _) => "none shows any of the classes".to_owned(),
            };
            format!("there is no picture to learn from; {why}")
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
