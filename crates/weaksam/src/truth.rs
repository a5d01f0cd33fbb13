//! True boxes, for scoring only.
//!
//! No stage that learns uses this module: those take [`Tagged`](crate::labels::Tagged), which has no boxes.

use std::path::Path;

use kirie_data::datasets::Labels;
use kirie_mask::BBox;

use crate::WeakError;
use crate::labels::{open_part, relative};

/// A true box.
#[derive(Clone, Debug, PartialEq)]
pub struct TrueBox {
    /// Name of its class.
    pub class: String,
    /// Where, pixels.
    pub bbox: BBox,
    /// Marked as hard to recognise.
    pub difficult: bool,
    /// A region of many objects that are not told apart.
    pub crowd: bool,
}

/// The true boxes of a picture.
#[derive(Clone, Debug, PartialEq)]
pub struct TruePicture {
    /// Its file, relative to the set's folder, with `/`.
    pub file: String,
    /// The boxes.
    pub boxes: Vec<TrueBox>,
}

/// Reads the true boxes of a part of a set; pictures without labels are left out.
///
/// # Errors
/// Files that cannot be read, and sets that have no boxes.
pub fn open(path: &Path, split: &str) -> Result<Vec<TruePicture>, WeakError> {
    let dataset = open_part(path, split)?;
    let mut pictures = Vec::new();
    for sample in dataset.samples.iter().filter(|sample| sample.is_labelled()) {
        let Labels::Instances { instances, .. } = dataset.labels(sample)? else {
            return Err(WeakError::Labels {
                set: path.display().to_string(),
                reason: format!("expected boxes to score with, found {}", dataset.found),
            });
        };
        let of_class = |instance: &kirie_data::datasets::Instance| {
            let class = dataset.class(instance.class?)?;
            Some(TrueBox {
                class: class.name.clone(),
                bbox: instance.bbox,
                difficult: instance.difficult,
                crowd: instance.crowd,
            })
        };
        pictures.push(TruePicture {
            file: relative(&dataset, sample),
            boxes: instances.iter().filter_map(of_class).collect(),
        });
    }
    if pictures.is_empty() {
        return Err(WeakError::Labels {
            set: path.display().to_string(),
            reason: "no picture has boxes to score with".to_owned(),
        });
    }
    Ok(pictures)
}
