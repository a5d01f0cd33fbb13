//! Words on pictures.

use ::image::{Rgb, RgbImage};
use font8x8::UnicodeFonts;

/// Width of a letter, pixels, and half of its height.
pub(crate) const LETTER: u32 = 8;

/// Text in letters of 8x8 pixels, drawn twice as high. Letters the font lacks become `?`.
pub(crate) fn text(sheet: &mut RgbImage, x: u32, y: u32, text: &str, ink: Rgb<u8>) {
    let find = |letter| font8x8::BASIC_FONTS.get(letter).or_else(|| font8x8::LATIN_FONTS.get(letter));
    // No more than the sheet can show.
    let room = sheet.width() / LETTER;
    for (i, letter) in (0..room).zip(text.chars()) {
        let Some(rows) = find(letter).or_else(|| find('?')) else { continue };
        for (row, bits) in (0..).zip(rows) {
            for column in (0..LETTER).filter(|column| bits >> column & 1 == 1) {
                fill(sheet, [x + i * LETTER + column, y + 2 * row, 1, 2], ink);
            }
        }
    }
}

/// Fills the part of a rectangle (x, y, width, height) that lies on the sheet.
pub(crate) fn fill(sheet: &mut RgbImage, [x, y, width, height]: [u32; 4], color: Rgb<u8>) {
    for y in y..y.saturating_add(height).min(sheet.height()) {
        for x in x..x.saturating_add(width).min(sheet.width()) {
            sheet.put_pixel(x, y, color);
        }
    }
}
