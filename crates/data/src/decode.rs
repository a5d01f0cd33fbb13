//! From a file's bytes to pixels, within limits, whatever the bytes are.

use std::fs::File;
use std::io::{self, BufReader, Cursor, Read, Seek};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use ::image::metadata::Orientation;
use ::image::{
    DynamicImage, ImageBuffer, ImageDecoder, ImageError, ImageFormat, ImageReader, Pixel, RgbImage,
};
use kirie_mask::Mask;

use crate::{DataError, Image};

/// Endings of files that hold a readable format, in lower case, for scanning folders.
///
/// Compare without regard to case. The ending only says which files to try: [`read_image`] goes by the content.
pub const EXTENSIONS: &[&str] = &["jpg", "jpeg", "png", "webp", "tif", "tiff", "bmp"];

/// The largest picture to accept. The header is checked against it before any pixel is decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Widest picture, pixels. Default 65,535 (what JPEG can hold).
    pub max_width: u32,
    /// Tallest picture, pixels. Default 65,535.
    pub max_height: u32,
    /// Most pixels in all. Default 200 million.
    pub max_pixels: u64,
    /// Most bytes for the file itself, and for the decoded pixels with their 8-bit RGB copy. Default 2 GiB.
    /// Decoders may briefly hold about as much again for their own tables.
    pub max_alloc: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_width: 65_535, max_height: 65_535, max_pixels: 200_000_000, max_alloc: 2 << 30 }
    }
}

impl Limits {
    pub(crate) fn check(&self, name: &str, width: u32, height: u32) -> Result<(), DataError> {
        let pixels = u64::from(width) * u64::from(height);
        if width <= self.max_width && height <= self.max_height && pixels <= self.max_pixels {
            return Ok(());
        }
        Err(DataError::TooLarge {
            name: name.to_owned(),
            found: format!("{width}x{height} pixels ({} megapixels)", pixels.div_ceil(1_000_000)),
            limit: format!(
                "{}x{} pixels and {} megapixels",
                self.max_width,
                self.max_height,
                self.max_pixels as f64 / 1e6
            ),
        })
    }

    pub(crate) fn check_bytes(&self, name: &str, what: &str, bytes: u64) -> Result<(), DataError> {
        if bytes <= self.max_alloc {
            return Ok(());
        }
        Err(DataError::TooLarge {
            name: name.to_owned(),
            found: format!("{what} of {bytes} bytes"),
            limit: format!("{} bytes", self.max_alloc),
        })
    }
}

/// Reads a picture file: JPEG, PNG, WebP, TIFF or BMP, told apart by content, not by name.
///
/// The result is what Pillow's `ImageOps.exif_transpose(Image.open(path)).convert("RGB")` shows, with the notes below:
/// - the picture is turned upright as its EXIF orientation says;
/// - gray is repeated in the three channels, palettes are looked up, alpha is dropped without blending;
/// - of 16 bits a channel the upper 8 are kept. So does Pillow for colour; 16-bit gray it cuts off at 255 instead;
/// - CMYK is converted by the plain formula, embedded colour profiles are not applied;
/// - JPEG values may differ by a few levels, as between any two JPEG decoders (up to 4 seen against libjpeg-turbo);
/// - of several pages or frames the first is taken.
///
/// # Errors
/// See [`DataError`]: not found, unreadable, empty, not a picture, unsupported, corrupt (a file that ends too early
/// included), too large.
pub fn read_image(path: impl AsRef<Path>, limits: &Limits) -> Result<Image, DataError> {
    let path = path.as_ref();
    let name = path.display().to_string();
    decode_image(&read_bytes(path, &name, limits)?, &name, limits)
}

/// Decodes a picture held in memory; `name` stands for it in errors. See [`read_image`].
pub fn decode_image(bytes: &[u8], name: &str, limits: &Limits) -> Result<Image, DataError> {
    let (picture, orientation, _) = decode_guarded(bytes, name, limits)?;
    let mut upright = DynamicImage::ImageRgb8(into_rgb8(picture));
    upright.apply_orientation(orientation);
    Image::try_from(upright.into_rgb8())
}

/// Reads a mask from a PNG file (TIFF and BMP are taken too): a pixel belongs to the mask when any of its colour
/// channels is not 0. Alpha is ignored; of 16 bits all count, so label pictures with small numbers are read whole.
///
/// # Errors
/// As [`read_image`]. Formats that may be lossy are refused: compression noise would make nearly every pixel
/// foreground.
pub fn read_mask_png(path: impl AsRef<Path>, limits: &Limits) -> Result<Mask, DataError> {
    let path = path.as_ref();
    let name = path.display().to_string();
    let bytes = read_bytes(path, &name, limits)?;
    let (mut picture, orientation, format) = decode_guarded(&bytes, &name, limits)?;
    if matches!(format, ImageFormat::Jpeg | ImageFormat::WebP) {
        let reason = "expected a mask in a lossless format such as PNG".to_owned();
        return Err(DataError::Unsupported { name, format: format_name(format), reason });
    }
    picture.apply_orientation(orientation);
    let (width, height) = (picture.width() as usize, picture.height() as usize);
    let pixels = match picture {
        DynamicImage::ImageLuma8(p) => mask_of(&p, |v| v != 0),
        DynamicImage::ImageLumaA8(p) => mask_of(&p, |v| v != 0),
        DynamicImage::ImageRgb8(p) => mask_of(&p, |v| v != 0),
        DynamicImage::ImageRgba8(p) => mask_of(&p, |v| v != 0),
        DynamicImage::ImageLuma16(p) => mask_of(&p, |v| v != 0),
        DynamicImage::ImageLumaA16(p) => mask_of(&p, |v| v != 0),
        DynamicImage::ImageRgb16(p) => mask_of(&p, |v| v != 0),
        DynamicImage::ImageRgba16(p) => mask_of(&p, |v| v != 0),
        other => mask_of(&other.into_rgb32f(), |v| v != 0.0),
    };
    // Only limits raised far beyond their defaults let a picture through that a mask cannot hold.
    Mask::from_vec(width, height, pixels).map_err(|error| corrupt(&name, format, &error.to_string()))
}

/// For each pixel, whether any channel but alpha satisfies `set`.
fn mask_of<P: Pixel>(
    picture: &ImageBuffer<P, Vec<P::Subpixel>>,
    set: impl Fn(P::Subpixel) -> bool,
) -> Vec<bool> {
    let colours = if P::HAS_ALPHA { P::CHANNEL_COUNT - 1 } else { P::CHANNEL_COUNT } as usize;
    picture.pixels().map(|pixel| pixel.channels().iter().take(colours).any(|&v| set(v))).collect()
}

pub(crate) fn read_bytes(path: &Path, name: &str, limits: &Limits) -> Result<Vec<u8>, DataError> {
    let failed = |source| cannot_read(name, source);
    let file = File::open(path).map_err(failed)?;
    let length = file.metadata().map_err(failed)?.len();
    limits.check_bytes(name, "a file", length)?;
    let mut bytes = Vec::with_capacity(length as usize);
    // The stated length is 0 for pipes and devices, so the limit is kept while reading too.
    file.take(limits.max_alloc.saturating_add(1)).read_to_end(&mut bytes).map_err(failed)?;
    limits.check_bytes(name, "a file", bytes.len() as u64)?;
    Ok(bytes)
}

pub(crate) fn cannot_read(name: &str, source: io::Error) -> DataError {
    match source.kind() {
        io::ErrorKind::NotFound => DataError::NotFound { name: name.to_owned() },
        _ => DataError::Unreadable { name: name.to_owned(), source },
    }
}

/// The width and height of a picture file, pixels, turned upright as its EXIF orientation says. Only its header is
/// decoded, so a file damaged further on is not noticed.
///
/// # Errors
/// As [`read_image`].
pub fn read_size(path: impl AsRef<Path>, limits: &Limits) -> Result<(u32, u32), DataError> {
    let path = path.as_ref();
    let name = path.display().to_string();
    let failed = |source| cannot_read(&name, source);
    let mut file = BufReader::new(File::open(path).map_err(failed)?);
    let mut start = Vec::new();
    file.by_ref().take(64).read_to_end(&mut start).map_err(failed)?;
    let format = known_format(&start, &name)?;
    file.rewind().map_err(failed)?;
    guarded(format, &name, || {
        let failed = |error| decoder_error(error, &name, format, limits);
        let mut decoder = ImageReader::with_format(file, format).into_decoder().map_err(failed)?;
        let (width, height) = decoder.dimensions();
        limits.check(&name, width, height)?;
        let lying = matches!(
            decoder.orientation(),
            Ok(Orientation::Rotate90
                | Orientation::Rotate270
                | Orientation::Rotate90FlipH
                | Orientation::Rotate270FlipH)
        );
        // A side of 0 is refused when the pixels are read.
        Ok(if lying { (height, width) } else { (width, height) })
    })
}

/// Runs a decoder, and turns a panic inside it into an error.
///
/// The decoders are meant to return errors for any input, and every known damage does. They are also the part of
/// the program that meets files from anywhere, so an arithmetic slip in one of them must cost one picture, not a
/// folder's run or a service. Nothing they touched is used after a panic.
pub(crate) fn guarded<T>(
    format: ImageFormat,
    name: &str,
    decode: impl FnOnce() -> Result<T, DataError>,
) -> Result<T, DataError> {
    catch_unwind(AssertUnwindSafe(decode))
        .unwrap_or_else(|_| Err(corrupt(name, format, "the decoder failed on it")))
}

pub(crate) fn decode_guarded(
    bytes: &[u8],
    name: &str,
    limits: &Limits,
) -> Result<(DynamicImage, Orientation, ImageFormat), DataError> {
    let format = known_format(bytes, name)?;
    let (picture, orientation) = guarded(format, name, || decode(bytes, format, name, limits))?;
    Ok((picture, orientation, format))
}

fn decode(
    bytes: &[u8],
    format: ImageFormat,
    name: &str,
    limits: &Limits,
) -> Result<(DynamicImage, Orientation), DataError> {
    let cut_short = || !reaches_its_end(bytes, format);
    let ends_early = || corrupt(name, format, ENDS_EARLY);
    let failed = |error| if cut_short() { ends_early() } else { decoder_error(error, name, format, limits) };
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    // Sides and pixels are checked below, where the message can name them.
    let mut bounds = ::image::Limits::no_limits();
    bounds.max_alloc = Some(limits.max_alloc);
    reader.limits(bounds);
    let mut decoder = reader.into_decoder().map_err(failed)?;

    let (width, height) = decoder.dimensions();
    if width == 0 || height == 0 {
        return Err(corrupt(name, format, &format!("its header states {width}x{height} pixels")));
    }
    limits.check(name, width, height)?;
    let rgb8 = u64::from(width) * u64::from(height) * 3;
    limits.check_bytes(name, "decoded pixels", decoder.total_bytes().saturating_add(rgb8))?;

    if cut_short() {
        return Err(ends_early());
    }
    // An unreadable orientation is no reason to refuse readable pixels.
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    Ok((DynamicImage::from_decoder(decoder).map_err(failed)?, orientation))
}

pub(crate) fn known_format(bytes: &[u8], name: &str) -> Result<ImageFormat, DataError> {
    if bytes.is_empty() {
        return Err(DataError::Empty { name: name.to_owned() });
    }
    let found = match ::image::guess_format(bytes) {
        Ok(
            format @ (ImageFormat::Jpeg
            | ImageFormat::Png
            | ImageFormat::WebP
            | ImageFormat::Tiff
            | ImageFormat::Bmp),
        ) => return Ok(format),
        Ok(other) => format!("a picture of another format ({other:?})"),
        Err(_) => describe(bytes),
    };
    Err(DataError::NotAnImage { name: name.to_owned(), found })
}

/// What a file that is no picture seems to be, in a few words.
fn describe(bytes: &[u8]) -> String {
    let start = &bytes[..bytes.len().min(64)];
    if start.get(4..8) == Some(b"ftyp") {
        return "a HEIF picture or a film (phones write these; convert it to JPEG first)".to_owned();
    }
    if start.starts_with(b"%PDF") {
        return "a PDF document".to_owned();
    }
    if start.iter().all(|&b| b >= 0x80 || (b' '..=b'~').contains(&b) || b"\t\r\n".contains(&b)) {
        return "text".to_owned();
    }
    let hex: Vec<String> = start.iter().take(8).map(|b| format!("{b:02x}")).collect();
    format!("content that starts with the bytes {}", hex.join(" "))
}

pub(crate) fn format_name(format: ImageFormat) -> &'static str {
    match format {
        ImageFormat::Jpeg => "JPEG",
        ImageFormat::Png => "PNG",
        ImageFormat::WebP => "WebP",
        ImageFormat::Tiff => "TIFF",
        _ => "BMP",
    }
}

const ENDS_EARLY: &str = "the file ends too early";

pub(crate) fn corrupt(name: &str, format: ImageFormat, reason: &str) -> DataError {
    // Some decoders end their messages with a line break.
    DataError::Corrupt {
        name: name.to_owned(),
        format: format_name(format),
        reason: reason.trim().to_owned(),
    }
}

fn decoder_error(error: ImageError, name: &str, format: ImageFormat, limits: &Limits) -> DataError {
    // The outer message only repeats the format; the cause says what is wrong.
    let reason = std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string);
    match error {
        ImageError::Limits(_) => DataError::TooLarge {
            name: name.to_owned(),
            found: "a picture whose decoding takes more memory".to_owned(),
            limit: format!("{} bytes", limits.max_alloc),
        },
        ImageError::Unsupported(_) => {
            DataError::Unsupported { name: name.to_owned(), format: format_name(format), reason }
        }
        ImageError::IoError(e) if e.kind() == io::ErrorKind::UnexpectedEof => {
            corrupt(name, format, ENDS_EARLY)
        }
        _ => corrupt(name, format, &reason),
    }
}

/// Whether a file is as long as it says, for the formats whose decoders do not always notice.
fn reaches_its_end(bytes: &[u8], format: ImageFormat) -> bool {
    match format {
        ImageFormat::Jpeg => jpeg_reaches_its_end(bytes),
        // A WebP keeps its orientation behind the pixels, so a missing end could turn the picture. The length after
        // "RIFF" counts what follows it.
        ImageFormat::WebP => bytes
            .get(4..)
            .and_then(|rest| rest.split_first_chunk())
            .is_some_and(|(&length, content)| content.len() >= u32::from_le_bytes(length) as usize),
        _ => true,
    }
}

/// Whether a JPEG's segments lead to its end marker. The decoder itself fills what is missing with gray and says
/// nothing; Pillow refuses such files, and so do we. Bytes after the end marker (further pictures, phone data) are
/// no fault.
fn jpeg_reaches_its_end(bytes: &[u8]) -> bool {
    let mut at = 2; // after the start marker
    while let Some(offset) = bytes.get(at..).and_then(|rest| rest.iter().position(|&b| b == 0xff)) {
        at += offset;
        let Some(&marker) = bytes.get(at + 1) else { return false };
        match marker {
            0xd9 => return true,
            // A fill byte: the marker follows.
            0xff => at += 1,
            // Stuffed data byte, restart markers: entropy-coded data goes on. TEM and SOI carry no length either.
            0x00 | 0x01 | 0xd0..=0xd8 => at += 2,
            // Any other marker opens a segment that states its length. Entropy-coded data, which follows a scan
            // header (0xda), holds no markers but those above, so the search goes on through it.
            _ => {
                let Some(&[high, low]) = bytes.get(at + 2..at + 4) else { return false };
                at += 2 + usize::from(u16::from_be_bytes([high, low]));
            }
        }
    }
    false
}

/// 8-bit RGB by the rules in [`read_image`].
fn into_rgb8(picture: DynamicImage) -> RgbImage {
    match picture {
        DynamicImage::ImageLuma16(p) => upper_bytes(&p, |[v]: [u16; 1]| [v; 3]),
        DynamicImage::ImageLumaA16(p) => upper_bytes(&p, |[v, _]: [u16; 2]| [v; 3]),
        DynamicImage::ImageRgb16(p) => upper_bytes(&p, |rgb: [u16; 3]| rgb),
        DynamicImage::ImageRgba16(p) => upper_bytes(&p, |[r, g, b, _]: [u16; 4]| [r, g, b]),
        other => other.into_rgb8(),
    }
}

fn upper_bytes<P: Pixel<Subpixel = u16>, const N: usize>(
    picture: &ImageBuffer<P, Vec<u16>>,
    rgb: impl Fn([u16; N]) -> [u16; 3],
) -> RgbImage {
    let pixels = picture.as_raw().as_chunks::<N>().0.iter();
    let bytes = pixels.flat_map(|&p| rgb(p).map(|v| (v >> 8) as u8)).collect();
    // The length is right by construction; an empty picture is refused by the caller.
    RgbImage::from_raw(picture.width(), picture.height(), bytes).unwrap_or_default()
}
