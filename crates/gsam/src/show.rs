//! Label maps to look at.

use std::path::Path;

use kirie_data::write::index_png;
use kirie_data::{DataError, Image, create_parent, longest_side, resize_bilinear, write_atomic};

use crate::data::{ClassList, LabelMap};
use crate::error::SemanticError;

/// Share of a class's colour in what it covers.
const TINT: f32 = 0.55;
/// Longest side of a picture in a row, pixels.
const SIDE: u32 = 320;
/// Between two of them.
const GAP: u32 = 6;

/// A picture with its classes' colours laid over it; pixels that count nowhere become white.
///
/// # Errors
/// [`DataError::PictureSize`] for labels of another size.
pub fn paint(image: &Image, labels: &LabelMap, classes: &ClassList) -> Result<Image, SemanticError> {
    check(image, labels)?;
    let mut raw = image.as_raw().to_vec();
    for (pixel, label) in raw.chunks_exact_mut(3).zip(&labels.labels) {
        for (value, colour) in pixel.iter_mut().zip(classes.colour(*label)) {
            *value = (f32::from(*value) * (1.0 - TINT) + f32::from(colour) * TINT).round() as u8;
        }
    }
    Ok(Image::from_raw(image.width(), image.height(), raw)?)
}

/// The classes' colours alone.
///
/// # Errors
/// If the map has no pixels.
pub fn flat(labels: &LabelMap, classes: &ClassList) -> Result<Image, SemanticError> {
    let raw = labels.labels.iter().flat_map(|label| classes.colour(*label)).collect();
    Ok(Image::from_raw(labels.width, labels.height, raw)?)
}

/// A picture, its true labels and the labels found, side by side and no larger than is needed to see them.
///
/// # Errors
/// As [`paint`].
pub fn side_by_side(
    image: &Image,
    truth: &LabelMap,
    found: &LabelMap,
    classes: &ClassList,
) -> Result<Image, SemanticError> {
    let longest = image.width().max(image.height());
    let (width, height) = longest_side(image.width(), image.height(), longest.min(SIDE));
    let images = [image.clone(), paint(image, truth, classes)?, paint(image, found, classes)?];
    let mut raw = Vec::new();
    let mut parts = Vec::new();
    for image in &images {
        parts.push(resize_bilinear(image, width, height)?);
    }
    let row = 3 * width as usize;
    for y in 0..height as usize {
        for (n, part) in parts.iter().enumerate() {
            if n > 0 {
                raw.extend(std::iter::repeat_n(255, 3 * GAP as usize));
            }
            raw.extend_from_slice(&part.as_raw()[y * row..][..row]);
        }
    }
    Ok(Image::from_raw(3 * width + 2 * GAP, height, raw)?)
}

/// Writes labels as PNG whose numbers are the labels and whose palette are the classes' colours.
///
/// # Errors
/// If the file cannot be written; then what was there is untouched.
pub fn write_labels(path: &Path, labels: &LabelMap, classes: &ClassList) -> Result<(), SemanticError> {
    let palette: Vec<[u8; 3]> = (0..=u8::MAX).map(|label| classes.colour(label)).collect();
    let bytes = index_png(labels.width, labels.height, &labels.labels, &palette)?;
    create_parent(path)?;
    Ok(write_atomic(path, |file| file.write_all(&bytes))?)
}

fn check(image: &Image, labels: &LabelMap) -> Result<(), SemanticError> {
    if (image.width(), image.height()) == (labels.width, labels.height) {
        return Ok(());
    }
    Err(SemanticError::Data(DataError::PictureSize {
        name: "labels".to_owned(),
        expected_width: labels.width,
        expected_height: labels.height,
        width: image.width(),
        height: image.height(),
    }))
}
