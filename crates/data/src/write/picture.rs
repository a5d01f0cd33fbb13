//! Pictures to files.

use std::io::Cursor;
use std::path::Path;

use ::image::codecs::jpeg::JpegEncoder;
use ::image::codecs::png::{CompressionType, FilterType, PngEncoder};

use crate::{DataError, Image, write_atomic};

/// The formats that pictures are written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PictureFormat {
    /// Lossless.
    Png,
    /// Smaller; quality 92 of 100.
    Jpeg,
}

impl PictureFormat {
    /// The format that a file name's ending says: `.png`, `.jpg` or `.jpeg`, in any case.
    ///
    /// # Errors
    /// [`DataError::UnknownExtension`] for any other.
    pub fn from_path(path: impl AsRef<Path>) -> Result<Self, DataError> {
        let path = path.as_ref();
        let ending = path.extension().and_then(|e| e.to_str()).unwrap_or_default().to_ascii_lowercase();
        match ending.as_str() {
            "png" => Ok(Self::Png),
            "jpg" | "jpeg" => Ok(Self::Jpeg),
            _ => Err(DataError::UnknownExtension { name: path.display().to_string() }),
        }
    }
}

/// The content of a picture file.
///
/// # Errors
/// [`DataError::Encode`] when the format cannot hold the picture (JPEG: more than 65,535 pixels a side).
pub fn encode_picture(image: &Image, format: PictureFormat) -> Result<Vec<u8>, DataError> {
    let mut bytes = Cursor::new(Vec::new());
    let result = match format {
        PictureFormat::Png => {
            let encoder =
                PngEncoder::new_with_quality(&mut bytes, CompressionType::Fast, FilterType::Adaptive);
            image.rgb().write_with_encoder(encoder)
        }
        PictureFormat::Jpeg => image.rgb().write_with_encoder(JpegEncoder::new_with_quality(&mut bytes, 92)),
    };
    result.map_err(|error| DataError::Encode { what: "the picture", reason: error.to_string() })?;
    Ok(bytes.into_inner())
}

/// Writes a picture in the format its name's ending says, whole or not at all.
///
/// # Errors
/// As [`PictureFormat::from_path`], [`encode_picture`] and [`write_atomic`].
pub fn write_picture(path: impl AsRef<Path>, image: &Image) -> Result<(), DataError> {
    let path = path.as_ref();
    let bytes = encode_picture(image, PictureFormat::from_path(path)?)?;
    write_atomic(path, |w| w.write_all(&bytes))
}
