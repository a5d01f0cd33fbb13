//! Pictures of what a stage has found.

use kirie_data::write::Prompts;
use kirie_data::write::overlay;
use kirie_data::{Image, ImageMasks, ImageRecord, longest_side, resize_bilinear};
use kirie_mask::{BBox, Point};

use crate::WeakError;

/// Longest side of a picture in a page, pixels.
const SIDE: u32 = 320;

/// A picture with a map laid over it: from nothing at the map's least value to yellow at its greatest. The map of `[height, width]`
/// cells may be coarser than the picture.
///
/// # Errors
/// [`WeakError::Shape`] if the map has not so many values.
pub fn heat(image: &Image, map: &[f32], [height, width]: [usize; 2]) -> Result<Image, WeakError> {
    if map.len() != height * width || map.is_empty() {
        return Err(WeakError::Shape {
            what: "a map",
            expected: format!("{height}x{width} values"),
            found: map.len().to_string(),
        });
    }
    let image = shrunk(image)?;
    let (low, high) =
        map.iter().fold((f32::INFINITY, f32::NEG_INFINITY), |(low, high), v| (low.min(*v), high.max(*v)));
    let mut raw = image.as_raw().to_vec();
    let columns = image.width() as usize;
    for (at, pixel) in raw.chunks_exact_mut(3).enumerate() {
        let y = (at / columns) * height / image.height() as usize;
        let x = (at % columns) * width / columns;
        let heat = (map[y * width + x] - low) / (high - low).max(1e-8);
        for (value, target) in pixel.iter_mut().zip([255.0, 215.0 * heat, 0.0]) {
            let share = 0.75 * heat;
            *value = (f32::from(*value) * (1.0 - share) + target * share).round() as u8;
        }
    }
    Ok(Image::from_raw(image.width(), image.height(), raw)?)
}

/// A picture with boxes, and points, both in the picture's pixels.
///
/// # Errors
/// If the picture cannot be resized for want of memory.
pub fn boxes(image: &Image, boxes: &[BBox], points: &[Point]) -> Result<Image, WeakError> {
    let small = shrunk(image)?;
    let factor = f64::from(small.width()) / f64::from(image.width());
    let scaled = |v: f64| v * factor;
    let prompts = Prompts {
        points: points.iter().map(|p| (Point { x: scaled(p.x), y: scaled(p.y) }, true)).collect(),
        boxes: boxes
            .iter()
            .map(|b| BBox::new(scaled(b.x0), scaled(b.y0), scaled(b.x1), scaled(b.y1)))
            .collect(),
    };
    let record = ImageRecord { path: String::new(), width: small.width(), height: small.height() };
    let masks = ImageMasks { image: record, model: String::new(), masks: Vec::new() };
    Ok(overlay(&small, &masks, &prompts)?)
}

fn shrunk(image: &Image) -> Result<Image, WeakError> {
    let longest = image.width().max(image.height());
    let (width, height) = longest_side(image.width(), image.height(), longest.min(SIDE));
    Ok(resize_bilinear(image, width, height)?)
}
