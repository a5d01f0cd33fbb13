//! The picture everything else works on: 8-bit RGB, upright, at its own size.

use std::fmt;

use ::image::RgbImage;

use crate::DataError;

/// An 8-bit RGB picture at its own size, at least 1x1 pixels.
#[derive(Clone, PartialEq, Eq)]
pub struct Image(RgbImage);

impl Image {
    /// A picture from its pixels: row-major, 3 bytes a pixel (red, green, blue), no padding.
    ///
    /// # Errors
    /// [`DataError::ZeroSize`] for a side of 0, [`DataError::RawLength`] when the length is not `3 * width * height`.
    pub fn from_raw(width: u32, height: u32, pixels: Vec<u8>) -> Result<Self, DataError> {
        if width == 0 || height == 0 {
            return Err(DataError::ZeroSize { width, height });
        }
        let found = pixels.len();
        // The product of two u32 and 3 can pass u64; saturating it still differs from every possible length.
        let expected = (u64::from(width) * u64::from(height)).saturating_mul(3);
        if found as u64 != expected {
            return Err(DataError::RawLength { width, height, expected, found });
        }
        let image = RgbImage::from_raw(width, height, pixels);
        image.map(Self).ok_or(DataError::RawLength { width, height, expected, found })
    }

    /// Width in pixels.
    pub fn width(&self) -> u32 {
        self.0.width()
    }

    /// Height in pixels.
    pub fn height(&self) -> u32 {
        self.0.height()
    }

    /// The pixels: row-major, 3 bytes a pixel (red, green, blue).
    pub fn as_raw(&self) -> &[u8] {
        self.0.as_raw()
    }

    /// The pixels, given away; see [`Image::as_raw`].
    pub fn into_raw(self) -> Vec<u8> {
        self.0.into_raw()
    }

    /// The picture as the `image` crate knows it.
    pub fn rgb(&self) -> &RgbImage {
        &self.0
    }

    /// The picture as the `image` crate knows it, to draw on.
    pub(crate) fn rgb_mut(&mut self) -> &mut RgbImage {
        &mut self.0
    }

    /// A copy of the part `width` x `height` pixels whose top left pixel is (`x`, `y`).
    ///
    /// # Errors
    /// [`DataError::ZeroSize`] for a side of 0, [`DataError::CropOutside`] when any of it lies outside.
    pub fn crop(&self, x: u32, y: u32, width: u32, height: u32) -> Result<Self, DataError> {
        self.check_part([x, y, width, height])?;
        let (start, row) = (3 * x as usize, 3 * width as usize);
        let rows = self.as_raw().chunks_exact(3 * self.width() as usize).skip(y as usize);
        let mut pixels = Vec::with_capacity(row * height as usize);
        for source in rows.take(height as usize) {
            pixels.extend_from_slice(&source[start..start + row]);
        }
        Self::from_raw(width, height, pixels)
    }

    /// That a part (left, top, width, height) has pixels and lies inside.
    pub(crate) fn check_part(&self, [x, y, width, height]: [u32; 4]) -> Result<(), DataError> {
        if width == 0 || height == 0 {
            return Err(DataError::ZeroSize { width, height });
        }
        let fits =
            |start: u32, length: u32, whole: u32| start.checked_add(length).is_some_and(|end| end <= whole);
        if !fits(x, width, self.width()) || !fits(y, height, self.height()) {
            return Err(DataError::CropOutside {
                x,
                y,
                width,
                height,
                image_width: self.width(),
                image_height: self.height(),
            });
        }
        Ok(())
    }
}

/// A picture from the `image` crate; it must have pixels.
impl TryFrom<RgbImage> for Image {
    type Error = DataError;

    fn try_from(image: RgbImage) -> Result<Self, DataError> {
        let (width, height) = image.dimensions();
        if width == 0 || height == 0 { Err(DataError::ZeroSize { width, height }) } else { Ok(Self(image)) }
    }
}

impl fmt::Debug for Image {
    // A failing test should not print a million pixels.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Image({}x{})", self.width(), self.height())
    }
}
