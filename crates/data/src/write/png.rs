//! Masks as PNG: one mask, or all of a picture as labels.

use ::png::{BitDepth, ColorType, Encoder, EncodingError};
use kirie_mask::Mask;

use super::{check_sizes, color, cut_out, largest_first};
use crate::{DataError, ImageMasks};

/// One mask as an 8-bit gray PNG: 255 on the mask, 0 elsewhere.
///
/// # Errors
/// [`DataError::Encode`] for a mask without pixels.
pub fn mask_png(mask: &Mask) -> Result<Vec<u8>, DataError> {
    let pixels: Vec<u8> = mask.as_slice().iter().map(|&set| if set { 255 } else { 0 }).collect();
    // A mask's frame holds at most u32::MAX pixels, so its sides fit as well.
    encode(mask.width() as u32, mask.height() as u32, ColorType::Grayscale, BitDepth::Eight, &[], &pixels)
}

/// All masks of a picture as one PNG of labels: 0 is background, n is the n-th mask of the list, counted from 1. Where
/// masks overlap the smaller one wins.
///
/// Up to 255 masks the PNG is indexed, with the palette of [`color`] on black; viewers show colours, and programs
/// that read indices read labels. With more it is 16-bit gray, whose values are the labels; viewers show it nearly
/// black.
///
/// # Errors
/// [`DataError::TooManyMasks`] over 65,535, [`DataError::MaskSize`] when a mask is not of the picture's size.
pub fn label_png(all: &ImageMasks) -> Result<Vec<u8>, DataError> {
    const LIMIT: usize = u16::MAX as usize;
    check_sizes(all)?;
    let (width, height, count) = (all.image.width, all.image.height, all.masks.len());
    if count > LIMIT {
        return Err(DataError::TooManyMasks { name: all.image.path.clone(), found: count, limit: LIMIT });
    }
    let mut labels = vec![0u16; width as usize * height as usize];
    for (index, record) in largest_first(all) {
        let Some((left, top, part)) = cut_out(&record.segmentation) else { continue };
        for (row, y) in labels.chunks_exact_mut(width as usize).skip(top).zip(0..part.height()) {
            for (label, _) in row.iter_mut().skip(left).zip(part.row(y)).filter(|(_, set)| **set) {
                *label = index as u16 + 1;
            }
        }
    }
    if count <= 255 {
        let palette: Vec<u8> = [[0, 0, 0]].into_iter().chain((0..count).map(color)).flatten().collect();
        let pixels: Vec<u8> = labels.iter().map(|&label| label as u8).collect();
        encode(width, height, ColorType::Indexed, BitDepth::Eight, &palette, &pixels)
    } else {
        let pixels: Vec<u8> = labels.iter().flat_map(|label| label.to_be_bytes()).collect();
        encode(width, height, ColorType::Grayscale, BitDepth::Sixteen, &[], &pixels)
    }
}

/// A picture of numbers, such as classes, as an indexed 8-bit PNG: viewers show the palette's colours, and programs that read
/// indices read the numbers. `numbers` fill the frame row by row.
///
/// # Errors
/// [`DataError::ZeroSize`]; [`DataError::Encode`] when the numbers do not fill the frame, or one has no colour.
pub fn index_png(width: u32, height: u32, numbers: &[u8], palette: &[[u8; 3]]) -> Result<Vec<u8>, DataError> {
    if width == 0 || height == 0 {
        return Err(DataError::ZeroSize { width, height });
    }
    let wrong = |reason: String| DataError::Encode { what: "the numbers", reason };
    if numbers.len() as u64 != u64::from(width) * u64::from(height) {
        return Err(wrong(format!("{width}x{height} pixels were expected, found {}", numbers.len())));
    }
    if let Some(number) = numbers.iter().find(|number| usize::from(**number) >= palette.len()) {
        return Err(wrong(format!("{number} is beyond the palette of {} colours", palette.len())));
    }
    let palette = palette.get(..palette.len().min(256)).unwrap_or_default().concat();
    encode(width, height, ColorType::Indexed, BitDepth::Eight, &palette, numbers)
}

/// A PNG of the given pixels; `palette` only for indexed ones.
pub(crate) fn encode(
    width: u32,
    height: u32,
    color: ColorType,
    depth: BitDepth,
    palette: &[u8],
    pixels: &[u8],
) -> Result<Vec<u8>, DataError> {
    let mut bytes = Vec::new();
    let mut encoder = Encoder::new(&mut bytes, width, height);
    encoder.set_color(color);
    encoder.set_depth(depth);
    if !palette.is_empty() {
        encoder.set_palette(palette);
    }
    let failed = |error: EncodingError| DataError::Encode { what: "the mask", reason: error.to_string() };
    let mut writer = encoder.write_header().map_err(failed)?;
    writer.write_image_data(pixels).map_err(failed)?;
    writer.finish().map_err(failed)?;
    Ok(bytes)
}
