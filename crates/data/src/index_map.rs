//! Label pictures: every pixel a number.

use std::io::Cursor;
use std::path::Path;

use ::image::{DynamicImage, ImageBuffer, ImageFormat, Pixel};
use ::png::{ColorType, Transformations};
use kirie_mask::Rle;

use crate::decode::{corrupt, decode_guarded, format_name, guarded, known_format, read_bytes};
use crate::{DataError, Limits};

/// A picture whose pixels are numbers: of classes, or of objects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IndexMap {
    /// Width, pixels.
    pub width: u32,
    /// Height, pixels.
    pub height: u32,
    /// Bits a number has in the file, 8 (or fewer) or 16.
    pub bits: u8,
    /// The numbers, row by row.
    pub values: Vec<u16>,
}

impl IndexMap {
    /// The region of every number that occurs, in ascending order, each as run lengths over the whole frame.
    pub fn regions(&self) -> Vec<(u16, Rle)> {
        regions(self.width as usize, self.height as usize, &self.values)
    }
}

/// The region of every number among `values`, which fill a frame row by row.
pub(crate) fn regions(width: usize, height: usize, values: &[u16]) -> Vec<(u16, Rle)> {
    // Each region is cut from its own box, so that hundreds of small objects do not each cost a whole frame.
    let mut boxes: Vec<Option<[usize; 4]>> = vec![None; values.iter().max().map_or(0, |&v| v as usize + 1)];
    for (y, row) in values.chunks_exact(width.max(1)).enumerate() {
        for (x, &value) in row.iter().enumerate() {
            let found = &mut boxes[usize::from(value)];
            let [x0, y0, x1, y1] = found.unwrap_or([x, y, x, y]);
            *found = Some([x0.min(x), y0, x1.max(x), y1.max(y)]);
        }
    }
    let present = (0..=u16::MAX).zip(boxes).filter_map(|(value, found)| Some((value, found?)));
    let cut = present.map(|(value, [x0, y0, x1, y1])| {
        let part = Rle::from_fn(x1 + 1 - x0, y1 + 1 - y0, |x, y| values[(y0 + y) * width + x0 + x] == value);
        (value, part.paste(x0, y0, width, height))
    });
    // The box lies inside the frame, so pasting cannot fail.
    cut.filter_map(|(value, whole)| Some((value, whole.ok()?))).collect()
}

/// Reads a label picture: PNG with a palette (the indices, not the colours) or gray of 1 to 16 bits, or gray TIFF or
/// BMP. A colour picture is taken when it is gray in every pixel; alpha is ignored.
///
/// # Errors
/// As [`read_image`](crate::read_image), and [`DataError::Unsupported`] for real colours and for formats that may be
/// lossy, whose noise would be taken for labels.
pub fn read_index_map(path: impl AsRef<Path>, limits: &Limits) -> Result<IndexMap, DataError> {
    let path = path.as_ref();
    let name = path.display().to_string();
    let bytes = read_bytes(path, &name, limits)?;
    let format = known_format(&bytes, &name)?;
    let unsupported = |reason: &str| DataError::Unsupported {
        name: name.clone(),
        format: format_name(format),
        reason: reason.to_owned(),
    };
    match format {
        ImageFormat::Png => {
            guarded(format, &name, || png_values(&bytes, &name, limits))?.ok_or_else(|| unsupported(COLOURS))
        }
        ImageFormat::Jpeg | ImageFormat::WebP => {
            Err(unsupported("expected labels in a lossless format such as PNG"))
        }
        _ => {
            let (picture, ..) = decode_guarded(&bytes, &name, limits)?;
            let (width, height) = (picture.width(), picture.height());
            let (bits, values) = match picture {
                DynamicImage::ImageLuma16(p) => (16, gray(&p)),
                DynamicImage::ImageLumaA16(p) => (16, gray(&p)),
                DynamicImage::ImageRgb16(p) => (16, gray(&p)),
                DynamicImage::ImageRgba16(p) => (16, gray(&p)),
                DynamicImage::ImageRgb32F(_) | DynamicImage::ImageRgba32F(_) => {
                    return Err(unsupported("expected whole numbers, found floating point"));
                }
                other => (8, gray(&other.into_rgb8())),
            };
            let values = values.ok_or_else(|| unsupported(COLOURS))?;
            Ok(IndexMap { width, height, bits, values })
        }
    }
}

const COLOURS: &str = "expected one number a pixel (palette or gray), found colours";

/// The numbers of a picture that is gray in every pixel.
fn gray<P: Pixel>(picture: &ImageBuffer<P, Vec<P::Subpixel>>) -> Option<Vec<u16>>
where
    P::Subpixel: Into<u16>,
{
    let colours = if P::HAS_ALPHA { P::CHANNEL_COUNT - 1 } else { P::CHANNEL_COUNT } as usize;
    let one = |pixel: &P| {
        let channels = pixel.channels().get(..colours)?;
        let (&first, rest) = channels.split_first()?;
        rest.iter().all(|&v| v == first).then(|| first.into())
    };
    picture.pixels().map(one).collect()
}

/// The raw numbers of a PNG, which the `image` crate would turn into its palette's colours; nothing for colours.
fn png_values(bytes: &[u8], name: &str, limits: &Limits) -> Result<Option<IndexMap>, DataError> {
    let failed = |error: ::png::DecodingError| match error {
        ::png::DecodingError::LimitsExceeded => DataError::TooLarge {
            name: name.to_owned(),
            found: "a picture whose decoding takes more memory".to_owned(),
            limit: format!("{} bytes", limits.max_alloc),
        },
        ::png::DecodingError::IoError(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => {
            corrupt(name, ImageFormat::Png, "the file ends too early")
        }
        other => corrupt(name, ImageFormat::Png, &other.to_string()),
    };
    let mut decoder = ::png::Decoder::new_with_limits(
        Cursor::new(bytes),
        ::png::Limits { bytes: usize::try_from(limits.max_alloc).unwrap_or(usize::MAX) },
    );
    decoder.set_transformations(Transformations::IDENTITY);
    let mut reader = decoder.read_info().map_err(failed)?;
    let info = reader.info();
    let (width, height, color, depth) = (info.width, info.height, info.color_type, info.bit_depth as u8);
    limits.check(name, width, height)?;
    let size = reader.output_buffer_size().unwrap_or(usize::MAX);
    // The raw bytes and two for each number.
    let pixels = u64::from(width) * u64::from(height);
    limits.check_bytes(name, "decoded pixels", (size as u64).saturating_add(2 * pixels))?;
    let mut raw = vec![0; size];
    reader.next_frame(&mut raw).map_err(failed)?;

    let (channels, colours) = match color {
        ColorType::Grayscale | ColorType::Indexed => (1, 1),
        ColorType::GrayscaleAlpha => (2, 1),
        ColorType::Rgb => (3, 3),
        ColorType::Rgba => (4, 3),
    };
    let line = raw.len() / (height as usize).max(1);
    let mut values = Vec::with_capacity(pixels as usize);
    for row in raw.chunks_exact(line.max(1)) {
        for x in 0..width as usize {
            let sample = |channel: usize| {
                let at = x * channels + channel;
                match depth {
                    16 => u16::from_be_bytes([row[2 * at], row[2 * at + 1]]),
                    8 => row[at].into(),
                    // Several pixels a byte, the first in the highest bits; rows start on whole bytes.
                    bits => {
                        let first_bit = at * usize::from(bits);
                        let shift = 8 - usize::from(bits) - first_bit % 8;
                        (u16::from(row[first_bit / 8]) >> shift) & ((1 << bits) - 1)
                    }
                }
            };
            let value = sample(0);
            if (1..colours).any(|channel| sample(channel) != value) {
                return Ok(None);
            }
            values.push(value);
        }
    }
    Ok(Some(IndexMap { width, height, bits: depth.max(8), values }))
}
