//! Contact sheets: pictures side by side, each with its name.

use ::image::{Rgb, RgbImage, imageops};

use crate::write::{LETTER, fill, text};
use crate::{DataError, Image, Limits, resize_bilinear};

pub(crate) const PAPER: Rgb<u8> = Rgb([28, 28, 31]);
pub(crate) const INK: Rgb<u8> = Rgb([232, 232, 232]);
const WARNING: Rgb<u8> = Rgb([255, 128, 112]);
const FAINT: Rgb<u8> = Rgb([90, 40, 40]);
/// Pixels between cells.
pub(crate) const GAP: u32 = 8;
/// Height of a line of text, pixels: a letter, with space.
pub(crate) const LINE: u32 = 22;

/// A picture on a contact sheet.
#[derive(Clone, Debug)]
pub struct Tile {
    /// The picture as it is shown, see [`fitted`]; a red cell without it.
    pub picture: Option<Image>,
    /// Stands below it; of one that is too long the end.
    pub caption: String,
    /// Whether the caption is in red.
    pub warning: bool,
}

/// Pictures row by row, `columns` side by side, each in a cell of a width and a height, pixels.
///
/// # Errors
/// [`DataError::ZeroSize`] when nothing is to be shown, [`DataError::TooLarge`] for a sheet beyond the limits.
pub fn contact_sheet(
    tiles: &[Tile],
    columns: usize,
    cell: (u32, u32),
    limits: &Limits,
) -> Result<Image, DataError> {
    Image::try_from(Grid::new(tiles.len(), columns, cell, limits)?.draw(tiles, 0))
}

/// Where the cells of a sheet are.
pub(crate) struct Grid {
    columns: u64,
    cell: (u32, u32),
    size: (u32, u32),
}

impl Grid {
    /// For so many pictures.
    pub(crate) fn new(
        count: usize,
        columns: usize,
        cell: (u32, u32),
        limits: &Limits,
    ) -> Result<Self, DataError> {
        let (width, height) = cell;
        if count == 0 || width == 0 || height == 0 {
            return Err(DataError::ZeroSize { width, height });
        }
        let columns = columns.clamp(1, count) as u64;
        let rows = (count as u64).div_ceil(columns);
        let side =
            |n: u64, step: u64| side(n.saturating_mul(step + u64::from(GAP)).saturating_add(GAP.into()));
        let size = (side(columns, width.into()), side(rows, u64::from(height) + u64::from(LINE)));
        limits.check("the contact sheet", size.0, size.1)?;
        Ok(Self { columns, cell, size })
    }

    /// Width of the sheet, pixels.
    pub(crate) fn width(&self) -> u32 {
        self.size.0
    }

    /// Height of the cells together, pixels.
    pub(crate) fn height(&self) -> u32 {
        self.size.1
    }

    /// The sheet, with so many pixels left free below the cells.
    pub(crate) fn draw(&self, tiles: &[Tile], below: u32) -> RgbImage {
        let (width, height) = self.cell;
        let (step_x, step_y) = (u64::from(width + GAP), u64::from(height + GAP + LINE));
        let mut sheet = RgbImage::from_pixel(self.width(), self.height().saturating_add(below), PAPER);
        for (i, tile) in (0..).zip(tiles) {
            let x = side(u64::from(GAP) + i % self.columns * step_x);
            let y = side(u64::from(GAP) + i / self.columns * step_y);
            let mut left = x;
            match &tile.picture {
                Some(picture) => {
                    left = x + (width - picture.width().min(width)) / 2;
                    let top = y + (height - picture.height().min(height)) / 2;
                    imageops::replace(&mut sheet, picture.rgb(), left.into(), top.into());
                }
                None => fill(&mut sheet, [x, y, width, height], FAINT),
            }
            let ink = if tile.warning { WARNING } else { INK };
            caption(&mut sheet, [x, left, y + height + 3], width, &tile.caption, ink);
        }
        sheet
    }
}

fn side(n: u64) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

/// The picture at the largest size that fits into a width and a height, pixels, aspect kept.
///
/// # Errors
/// [`DataError::ZeroSize`] if there is no room.
pub fn fitted(picture: &Image, (width, height): (u32, u32)) -> Result<Image, DataError> {
    let scale = f64::min(
        f64::from(width) / f64::from(picture.width()),
        f64::from(height) / f64::from(picture.height()),
    );
    let side = |own: u32, room: u32| ((f64::from(own) * scale).round() as u32).clamp(1, room);
    resize_bilinear(picture, side(picture.width(), width), side(picture.height(), height))
}

/// A name in the cell from `x`, `width` wide, under a picture from `left`; of one too long the end is kept, which tells
/// more.
fn caption(sheet: &mut RgbImage, [x, left, y]: [u32; 3], width: u32, name: &str, ink: Rgb<u8>) {
    let room = (width / LETTER) as usize;
    let length = name.chars().count();
    let shown: String = name.chars().skip(length.saturating_sub(room)).collect();
    let spare = width.saturating_sub(length.min(room) as u32 * LETTER);
    text(sheet, left.min(x + spare), y, &shown, ink);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_are_laid_out_row_by_row() {
        let tile = |red: u8| Tile {
            picture: Some(Image::from_raw(2, 1, [red, 0, 0].repeat(2)).unwrap()),
            caption: "x".to_owned(),
            warning: false,
        };
        let empty = Tile { picture: None, caption: String::new(), warning: true };
        let limits = Limits::default();
        let sheet = contact_sheet(&[tile(200), tile(210), empty], 2, (40, 30), &limits).unwrap();
        assert_eq!((sheet.width(), sheet.height()), (8 + 2 * 48, 8 + 2 * (30 + 22 + 8)));
        let at = |x, y| sheet.rgb().get_pixel(x, y).0;
        // In the middle of its cell, cells 48 pixels apart.
        assert_eq!([at(8 + 19, 8 + 14), at(8 + 48 + 19, 8 + 14)], [[200, 0, 0], [210, 0, 0]]);
        assert_eq!([at(8, 68), at(8 + 48, 68)], [FAINT.0, PAPER.0]);

        assert!(matches!(contact_sheet(&[], 2, (40, 30), &limits), Err(DataError::ZeroSize { .. })));
        let error = contact_sheet(&[tile(0)], 1, (40, u32::MAX), &limits).unwrap_err();
        assert!(matches!(error, DataError::TooLarge { .. }), "{error}");
    }
}
