//! What the readers of JSON label files share.

use kirie_mask::{Point, Rle};
use serde_json::value::RawValue;

/// The reason of a JSON error, without the line and column, which count from where the piece at hand starts.
pub(super) fn reason(error: &serde_json::Error) -> String {
    let text = error.to_string();
    match text.rfind(" at line ") {
        Some(end) => text[..end].to_owned(),
        None => text,
    }
}

/// The line, from 1, at a byte offset of a text.
pub(super) fn line_at(text: &str, offset: usize) -> usize {
    1 + text.as_bytes().iter().take(offset).filter(|&&b| b == b'\n').count()
}

/// Where in `text` a piece borrowed from it starts.
pub(super) fn offset_in(text: &str, piece: &RawValue) -> usize {
    (piece.get().as_ptr() as usize).saturating_sub(text.as_ptr() as usize)
}

/// COCO run lengths, compressed or not, that must be of the given frame where it is known.
pub(super) fn run_lengths(raw: &RawValue, frame: Option<(u32, u32)>) -> Result<Rle, String> {
    let rle: Rle =
        serde_json::from_str(raw.get()).map_err(|error| format!("segmentation: {}", reason(&error)))?;
    match frame {
        Some((width, height)) if (rle.width(), rle.height()) != (width as usize, height as usize) => {
            Err(format!(
                "segmentation: expected run lengths of the picture's size, {width}x{height}, found {}x{} (width x height)",
                rle.width(),
                rle.height()
            ))
        }
        _ => Ok(rle),
    }
}

/// A COCO polygon: x and y in turn.
pub(super) fn polygon(numbers: &[f64]) -> Result<Vec<Point>, String> {
    let (pairs, rest) = numbers.as_chunks::<2>();
    if !rest.is_empty() {
        return Err(format!("segmentation: expected x and y in turn, found {} numbers", numbers.len()));
    }
    if pairs.len() < 3 {
        return Err(format!("segmentation: expected at least 3 points a polygon, found {}", pairs.len()));
    }
    Ok(pairs.iter().map(|&[x, y]| Point { x, y }).collect())
}
