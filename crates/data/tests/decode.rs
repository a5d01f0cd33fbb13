//! Decoding: every format, upright, within limits, and never a panic, whatever the bytes.

// clippy.toml frees tests of this lint, but not the helpers beside them.
#![allow(clippy::unwrap_used)]

use std::io::Cursor;
use std::path::PathBuf;

use image::{DynamicImage, ImageFormat, RgbImage};
use kirie_data::{DataError, Image, Limits, decode_image, read_image, read_mask_png};
use proptest::prelude::*;

const WIDTH: u32 = 11;
const HEIGHT: u32 = 9;

/// A picture in which every pixel differs.
fn colourful() -> RgbImage {
    RgbImage::from_fn(WIDTH, HEIGHT, |x, y| image::Rgb([(x * 20) as u8, (y * 25) as u8, (x * y * 3) as u8]))
}

fn encoded(picture: &DynamicImage, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    picture.write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

/// An indexed PNG with the palette black, red, green, 4 bits a pixel, which `image` does not write.
fn palette_png() -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, 3, 2);
    encoder.set_color(png::ColorType::Indexed);
    encoder.set_depth(png::BitDepth::Four);
    encoder.set_palette(vec![0, 0, 0, 255, 0, 0, 0, 255, 0]);
    let mut writer = encoder.write_header().unwrap();
    writer.write_image_data(&[0x01, 0x20, 0x21, 0x00]).unwrap();
    writer.finish().unwrap();
    bytes
}

/// A tiny file of every format and of its main kinds. The two that no encoder here can make come from Pillow.
fn fixtures() -> Vec<(&'static str, Vec<u8>)> {
    let rgb = DynamicImage::ImageRgb8(colourful());
    // From 8-bit gray, so that 16 bits repeat those 8.
    let gray = DynamicImage::ImageLuma8(rgb.to_luma8());
    let mut all = vec![
        ("lossy.webp", include_bytes!("tiny_lossy.webp").to_vec()),
        ("progressive.jpg", include_bytes!("tiny_progressive.jpg").to_vec()),
        ("palette.png", palette_png()),
    ];
    for (name, format) in [
        ("rgb.png", ImageFormat::Png),
        ("rgb.jpg", ImageFormat::Jpeg),
        ("rgb.webp", ImageFormat::WebP),
        ("rgb.tif", ImageFormat::Tiff),
        ("rgb.bmp", ImageFormat::Bmp),
    ] {
        all.push((name, encoded(&rgb, format)));
    }
    let kinds = [
        ("gray", gray.clone()),
        ("gray-alpha", gray.to_luma_alpha8().into()),
        ("rgba", rgb.to_rgba8().into()),
        ("gray16", gray.to_luma16().into()),
        ("gray16-alpha", gray.to_luma_alpha16().into()),
        ("rgb16", rgb.to_rgb16().into()),
        ("rgba16", rgb.to_rgba16().into()),
    ];
    all.extend(kinds.map(|(name, kind): (_, DynamicImage)| (name, encoded(&kind, ImageFormat::Png))));
    all.push(("gray.jpg", encoded(&gray, ImageFormat::Jpeg)));
    all.push(("rgba.webp", encoded(&rgb.to_rgba8().into(), ImageFormat::WebP)));
    all.push(("gray16.tif", encoded(&gray.to_luma16().into(), ImageFormat::Tiff)));
    all.push(("rgba.bmp", encoded(&rgb.to_rgba8().into(), ImageFormat::Bmp)));
    all
}

fn decode(bytes: &[u8]) -> Result<Image, DataError> {
    decode_image(bytes, "test", &Limits { max_pixels: 1_000_000, ..Limits::default() })
}

/// The message of an error, without the place where decoding gave up.
fn message(result: Result<Image, DataError>) -> String {
    result.unwrap_err().to_string()
}

#[test]
fn every_format_gives_its_pixels() {
    let rgb = colourful();
    let gray = DynamicImage::ImageRgb8(rgb.clone()).into_luma8();
    let gray = DynamicImage::ImageLuma8(gray).into_rgb8();
    for (name, bytes) in fixtures() {
        let image = decode(&bytes).unwrap_or_else(|error| panic!("{name}: {error}"));
        let lossy = name.contains("jpg") || name.starts_with("lossy");
        if name == "palette.png" {
            assert_eq!((image.width(), image.height()), (3, 2));
            let expected = [0, 0, 0, 255, 0, 0, 0, 255, 0, 0, 255, 0, 255, 0, 0, 0, 0, 0];
            assert_eq!(image.as_raw(), expected);
        } else if lossy {
            assert_eq!((image.width(), image.height()), (WIDTH, HEIGHT), "{name}");
        } else {
            let expected = if name.starts_with("gray") { &gray } else { &rgb };
            assert_eq!(image.rgb(), expected, "{name}");
        }
    }
}

/// Pillow's rule for colour: the upper byte, not the nearest value.
#[test]
fn of_16_bits_the_upper_8_are_kept() {
    let deep =
        image::ImageBuffer::<image::Rgb<u16>, _>::from_raw(1, 1, vec![0x00ff, 0x7fff, 0xff00]).unwrap();
    let bytes = encoded(&deep.into(), ImageFormat::Png);
    assert_eq!(decode(&bytes).unwrap().as_raw(), [0x00, 0x7f, 0xff]);
}

#[test]
fn alpha_is_dropped_not_blended() {
    let clear = image::RgbaImage::from_raw(1, 1, vec![10, 20, 30, 0]).unwrap();
    let bytes = encoded(&clear.into(), ImageFormat::Png);
    assert_eq!(decode(&bytes).unwrap().as_raw(), [10, 20, 30]);
}

/// A file cut short is an error, or the whole picture where only its epilogue is missing. Half a picture passed off
/// as a whole one would be worse than either.
#[test]
fn truncated_at_every_length() {
    for (name, bytes) in fixtures() {
        let whole = decode(&bytes).unwrap();
        for length in 0..bytes.len() {
            match decode(&bytes[..length]) {
                Ok(image) => assert!(image == whole, "{name} cut at {length} of {} changes", bytes.len()),
                Err(DataError::Empty { .. }) => assert_eq!(length, 0),
                Err(error @ (DataError::NotAnImage { .. } | DataError::Corrupt { .. })) => {
                    let text = error.to_string();
                    assert!(
                        !text.contains("the decoder failed"),
                        "{name} cut at {length} made the decoder panic"
                    );
                }
                Err(other) => panic!("{name} cut at {length}: {other}"),
            }
        }
    }
}

proptest! {
    /// Damaged anywhere: a picture or an error.
    #[test]
    fn damaged_files_never_panic(which: prop::sample::Index, hits in prop::collection::vec(any::<(prop::sample::Index, u8)>(), 1..4)) {
        let fixtures = fixtures();
        let (_, bytes) = which.get(&fixtures);
        let mut bytes = bytes.clone();
        for (place, value) in hits {
            let place = place.index(bytes.len());
            bytes[place] = value;
        }
        if let Err(error) = decode(&bytes) {
            prop_assert!(!error.to_string().contains("the decoder failed"), "a decoder panicked: {error}");
        }
    }

    /// Anything at all behind a right signature.
    #[test]
    fn noise_never_panics(which in 0usize..5, noise: Vec<u8>) {
        let signature: &[u8] =
            [&b"\xff\xd8\xff"[..], b"\x89PNG\r\n\x1a\n", b"RIFF\x10\x00\x00\x00WEBP", b"II*\x00", b"BM"][which];
        let result = decode(&[signature, &noise].concat());
        if let Err(error) = result {
            prop_assert!(!error.to_string().contains("the decoder failed"), "a decoder panicked: {error}");
        }
    }
}

/// The JPEG with an EXIF segment that holds only the orientation.
fn with_orientation(jpeg: &[u8], orientation: u8) -> Vec<u8> {
    // TIFF header (little endian, directory at 8), one entry: tag 0x0112, type SHORT, count 1, value; no next one.
    let mut exif = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0".to_vec();
    exif.extend([orientation, 0, 0, 0, 0, 0, 0, 0]);
    let length = u16::try_from(exif.len() + 2).unwrap().to_be_bytes();
    [&jpeg[..2], &[0xff, 0xe1], &length, &exif, &jpeg[2..]].concat()
}

#[test]
fn exif_orientation_is_applied() {
    let jpeg = encoded(&DynamicImage::ImageRgb8(colourful()), ImageFormat::Jpeg);
    let stored = decode(&jpeg).unwrap();
    let (right, bottom) = (WIDTH - 1, HEIGHT - 1);
    for orientation in 0..=9 {
        let upright = decode(&with_orientation(&jpeg, orientation)).unwrap();
        let turned = (5..=8).contains(&orientation);
        let size = if turned { (HEIGHT, WIDTH) } else { (WIDTH, HEIGHT) };
        assert_eq!((upright.width(), upright.height()), size, "orientation {orientation}");
        for (x, y, pixel) in upright.rgb().enumerate_pixels() {
            // Where the EXIF standard says this upright pixel is stored; 0 and 9 are no orientations.
            let (sx, sy) = match orientation {
                2 => (right - x, y),
                3 => (right - x, bottom - y),
                4 => (x, bottom - y),
                5 => (y, x),
                6 => (y, bottom - x),
                7 => (right - y, bottom - x),
                8 => (right - y, x),
                _ => (x, y),
            };
            assert_eq!(pixel, stored.rgb().get_pixel(sx, sy), "orientation {orientation}");
        }
    }
}

#[test]
fn damaged_exif_does_not_cost_the_picture() {
    let jpeg = encoded(&DynamicImage::ImageRgb8(colourful()), ImageFormat::Jpeg);
    let mut bytes = with_orientation(&jpeg, 6);
    bytes[12..20].fill(0xff);
    assert_eq!(decode(&bytes).unwrap(), decode(&jpeg).unwrap());
}

/// A PNG whose header promises the given size and whose data is a few bytes.
fn png_of_size(width: u32, height: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    let encoder = png::Encoder::new(&mut bytes, width, height);
    let mut writer = encoder.write_header().unwrap();
    writer.write_chunk(png::chunk::IDAT, &[0x78, 0x9c, 0, 0]).unwrap();
    drop(writer);
    bytes
}

#[test]
fn too_large_pictures_fail_by_their_header() {
    let refuse = |bytes: &[u8], limits: &Limits| message(decode_image(bytes, "big.png", limits));
    assert_eq!(
        refuse(&png_of_size(60_000, 60_000), &Limits::default()),
        "big.png: too large: 60000x60000 pixels (3600 megapixels), \
         the limit is 65535x65535 pixels and 200 megapixels"
    );
    assert!(refuse(&png_of_size(70_000, 1), &Limits::default()).contains("too large: 70000x1 pixels"));
    assert!(refuse(&png_of_size(0x7fff_ffff, 0x7fff_ffff), &Limits::default()).contains("too large"));

    // The size itself is allowed, the memory it takes is not.
    let little = Limits { max_alloc: 1000, ..Limits::default() };
    assert!(refuse(&png_of_size(100, 100), &little).contains("too large"));
    for (name, bytes) in fixtures() {
        let narrow = Limits { max_width: 2, ..Limits::default() };
        assert!(refuse(&bytes, &narrow).contains("the limit is 2x65535"), "{name}");
        let tiny = Limits { max_alloc: 30, ..Limits::default() };
        assert!(refuse(&bytes, &tiny).contains("too large"), "{name}");
    }
}

#[test]
fn what_is_no_picture_is_named() {
    for (content, found) in [
        (&b"once upon a time\n"[..], "found text"),
        (b"%PDF-1.7", "found a PDF document"),
        (b"GIF89a\x01\0\x01\0", "found a picture of another format (Gif)"),
        (b"\0\0\0\x18ftypheic", "found a HEIF picture"),
        (b"\0\x01\x02", "found content that starts with the bytes 00 01 02"),
    ] {
        let text = message(decode_image(content, "photo.jpg", &Limits::default()));
        assert!(text.starts_with("photo.jpg: expected a JPEG, PNG, WebP, TIFF or BMP picture, "), "{text}");
        assert!(text.contains(found), "{text}");
    }
    assert_eq!(
        message(decode_image(b"", "photo.jpg", &Limits::default())),
        "photo.jpg: the file is empty (0 bytes)"
    );
}

struct Folder(tempfile::TempDir);

impl Folder {
    fn file(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::write(&path, content).unwrap();
        path
    }
}

#[test]
fn files_are_told_apart_by_content() {
    let folder = Folder(tempfile::tempdir().unwrap());
    let limits = Limits::default();
    let png = encoded(&DynamicImage::ImageRgb8(colourful()), ImageFormat::Png);
    assert_eq!(read_image(folder.file("a.jpg", &png), &limits).unwrap().rgb(), &colourful());

    let text = message(read_image(folder.file("notes.jpg", b"hello"), &limits));
    assert!(text.contains("notes.jpg: expected") && text.ends_with("found text"), "{text}");
    assert!(matches!(read_image(folder.file("none", b""), &limits), Err(DataError::Empty { .. })));
    assert!(matches!(read_image(folder.0.path().join("gone"), &limits), Err(DataError::NotFound { .. })));
    assert!(matches!(read_image(folder.0.path(), &limits), Err(DataError::Unreadable { .. })));

    let small = Limits { max_alloc: 100, ..limits };
    let text = message(read_image(folder.file("long.png", &[0; 101]), &small));
    assert!(text.ends_with("too large: a file of 101 bytes, the limit is 100 bytes"), "{text}");
}

#[test]
fn masks_are_read_from_any_lossless_kind() {
    let folder = Folder(tempfile::tempdir().unwrap());
    let limits = Limits::default();
    let set = |x: usize, y: usize| x > 3 && y == 2;
    let value = |x: u32, y: u32, on: u16| if set(x as usize, y as usize) { on } else { 0 };
    let gray = image::GrayImage::from_fn(WIDTH, HEIGHT, |x, y| image::Luma([value(x, y, 1) as u8]));
    let deep = image::ImageBuffer::from_fn(WIDTH, HEIGHT, |x, y| image::Luma([value(x, y, 1)]));
    // Full alpha everywhere does not make foreground.
    let rgba =
        image::RgbaImage::from_fn(WIDTH, HEIGHT, |x, y| image::Rgba([0, 0, value(x, y, 9) as u8, 255]));
    let pictures: [DynamicImage; 3] = [gray.into(), deep.into(), rgba.into()];
    for picture in &pictures {
        let path = folder.file("mask.png", &encoded(picture, ImageFormat::Png));
        let mask = read_mask_png(path, &limits).unwrap();
        assert_eq!(mask, kirie_mask::Mask::from_fn(WIDTH as usize, HEIGHT as usize, set));
    }
    let path = folder.file("mask.png", &palette_png());
    assert_eq!(read_mask_png(path, &limits).unwrap().as_slice(), [false, true, true, true, true, false]);

    let path = folder.file("mask.png", &encoded(&pictures[0], ImageFormat::Jpeg));
    let text = read_mask_png(path, &limits).unwrap_err().to_string();
    assert!(
        text.ends_with(
            "this kind of JPEG is not supported: expected a mask in a lossless format such as PNG"
        )
    );
    assert!(matches!(read_mask_png(folder.file("e", b""), &limits), Err(DataError::Empty { .. })));
}

#[test]
fn raw_pixels_and_crops_are_checked() {
    assert!(matches!(
        Image::from_raw(2, 2, vec![0; 11]),
        Err(DataError::RawLength { expected: 12, found: 11, .. })
    ));
    assert!(matches!(Image::from_raw(u32::MAX, u32::MAX, vec![0; 3]), Err(DataError::RawLength { .. })));
    assert!(matches!(Image::from_raw(0, 5, vec![]), Err(DataError::ZeroSize { .. })));
    let image = Image::try_from(colourful()).unwrap();
    let part = image.crop(2, 3, 4, 1).unwrap();
    assert_eq!(part.as_raw(), &image.as_raw()[(3 * WIDTH as usize + 2) * 3..][..12]);
    assert_eq!(image.crop(0, 0, WIDTH, HEIGHT).unwrap(), image);
    assert!(matches!(image.crop(8, 0, 4, 1), Err(DataError::CropOutside { .. })));
    assert!(matches!(image.crop(u32::MAX, 0, 2, 1), Err(DataError::CropOutside { .. })));
    assert!(matches!(image.crop(0, 0, 0, 1), Err(DataError::ZeroSize { .. })));
}
