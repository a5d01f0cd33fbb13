//! Resizing equals Pillow's, bit for bit. The expected values come from Pillow itself: see `make_pillow_cases.py`.

// clippy.toml frees tests of this lint, but not the helpers beside them.
#![allow(clippy::unwrap_used)]

use std::fmt::Write;

use kirie_data::{DataError, Image, resize_bilinear};
use proptest::prelude::*;

fn splitmix64(index: u64) -> u64 {
    let mut z = index.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

fn picture(number: u64, width: u32, height: u32) -> Image {
    let bytes = u64::from(width) * u64::from(height) * 3;
    let value = |i| match (splitmix64((number << 32) + i) >> 56) as u8 {
        v if number.is_multiple_of(2) => v,
        v => (v >> 7) * 255,
    };
    Image::from_raw(width, height, (0..bytes).map(value).collect()).unwrap()
}

fn fnv(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xCBF2_9CE4_8422_2325, |hash, &b| (hash ^ u64::from(b)).wrapping_mul(0x100_0000_01B3))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, b| {
        write!(text, "{b:02x}").unwrap();
        text
    })
}

#[test]
fn equals_pillow() {
    let cases = include_str!("pillow_cases.txt").lines().filter(|line| !line.starts_with('#'));
    let mut count = 0;
    for (number, line) in cases.enumerate() {
        let mut fields = line.split(' ');
        let mut size = || fields.next().unwrap().parse().unwrap();
        let (width, height, new_width, new_height) = (size(), size(), size(), size());
        let resized = resize_bilinear(&picture(number as u64, width, height), new_width, new_height).unwrap();
        assert_eq!((resized.width(), resized.height()), (new_width, new_height));
        let expected = u64::from_str_radix(fields.next().unwrap(), 16).unwrap();
        if let Some(whole) = fields.next() {
            assert_eq!(hex(resized.as_raw()), whole, "case {number}: {line}");
        }
        assert_eq!(fnv(resized.as_raw()), expected, "case {number}: {line}");
        count += 1;
    }
    assert_eq!(count, 64);
}

/// The values in the reference's notes on Pillow.
#[test]
fn equals_the_reference_notes() {
    let gray = (0..20u8).flat_map(|i| [13 * i; 3]).collect();
    let image = Image::from_raw(4, 5, gray).unwrap();
    let red = |image: &Image| -> Vec<u8> { image.as_raw().iter().step_by(3).copied().collect() };
    assert_eq!(red(&resize_bilinear(&image, 2, 3).unwrap()), [31, 52, 113, 134, 195, 216]);
    let large = red(&resize_bilinear(&image, 7, 6).unwrap());
    assert_eq!(large[..7], [0, 5, 12, 20, 27, 34, 39]);
    assert_eq!(large[14..21], [82, 87, 94, 102, 109, 116, 121]);
    assert_eq!(large[35..], [208, 213, 220, 228, 235, 242, 247]);
}

#[test]
fn impossible_sizes_are_errors() {
    let image = picture(0, 3, 2);
    assert!(matches!(resize_bilinear(&image, 0, 5), Err(DataError::ZeroSize { .. })));
    assert!(matches!(resize_bilinear(&image, 5, 0), Err(DataError::ZeroSize { .. })));
}

proptest! {
    /// A picture of one colour stays that colour, whatever the sizes.
    #[test]
    fn one_colour_stays(colour: [u8; 3], w in 1u32..90, h in 1u32..90, nw in 1u32..90, nh in 1u32..90) {
        let image = Image::from_raw(w, h, colour.repeat((w * h) as usize)).unwrap();
        let resized = resize_bilinear(&image, nw, nh).unwrap();
        prop_assert!(resized.as_raw().as_chunks::<3>().0.iter().all(|&pixel| pixel == colour));
    }
}

/// Not a test of correctness: prints how long the usual case takes. Run with
/// `cargo test --release -p kirie-data --test resize -- --ignored --nocapture`.
#[test]
#[ignore = "a measurement"]
fn time_12_megapixels() {
    let image = picture(0, 4000, 3000);
    for _ in 0..5 {
        let start = std::time::Instant::now();
        let resized = resize_bilinear(&image, 1024, 768).unwrap();
        println!("4000x3000 to 1024x768: {:?} ({:?})", start.elapsed(), resized);
    }
}
