//! A picture of any size to the class of every pixel, in the picture's own size.
//!
//! ```text
//! picture --[TestConfig::resize, each of scales]--> frame --[whole | windows]--> logits, low resolution
//!         --bilinear, to the picture's own rows--> mean over scales and mirrored answers --> class with the highest logit
//! ```
//!
//! Logits are made row by row, from top to bottom, and forgotten when they are used: what is held of a large picture is one band
//! of windows, never `classes * height * width` numbers.

mod network;
mod pass;
mod seams;
mod slide;

use burn::tensor::Device;
use kirie_data::{Image, resize_bilinear};
use std::borrow::Cow;

pub use seams::{Seams, WholeComparison, seams};

use crate::config::{TestConfig, TestMode};
use crate::data::LabelMap;
use crate::error::SemanticError;
use crate::segmenter::Segmenter;
use crate::views::test_size;
use network::Network;
use pass::{Pass, Source};
use slide::Slide;

/// The class of every pixel of a picture.
///
/// Beside the network's own memory for one window (or for the whole picture, if it is taken in one piece) this needs about
/// `4 bytes * classes * width * window height`.
///
/// # Errors
/// Settings out of their range; a network that answers in another shape than it promises, or with numbers that are not finite.
pub fn segment<S: Segmenter>(
    model: &S,
    image: &Image,
    test: &TestConfig,
    device: &Device,
) -> Result<LabelMap, SemanticError> {
    let (width, height) = (image.width(), image.height());
    let mut labels = Vec::with_capacity(width as usize * height as usize);
    for_each_row(model, image, test, device, |row| labels.extend(best(row, width as usize)))?;
    Ok(LabelMap { width, height, labels })
}

/// Calls `each` with the logits `[classes, width]` of every row of a picture, from the top.
///
/// # Errors
/// As [`segment`].
pub fn for_each_row<S: Segmenter>(
    model: &S,
    image: &Image,
    test: &TestConfig,
    device: &Device,
    mut each: impl FnMut(&[f32]),
) -> Result<(), SemanticError> {
    test.check()?;
    let network = Network::new(model, test, device)?;
    let size = [image.height() as usize, image.width() as usize];
    let mut passes = Vec::with_capacity(test.scales.len());
    for scale in &test.scales {
        let source = source(&network, frame(image, test, *scale)?, test)?;
        passes.push(Pass::new(source, size));
    }
    let mut row = vec![0.0; network.classes * size[1]];
    let share = 1.0 / passes.len() as f32;
    for y in 0..size[0] {
        row.fill(0.0);
        for pass in &mut passes {
            pass.add_row(y, share, &mut row)?;
        }
        each(&row);
    }
    Ok(())
}

/// The picture in the size that it is tested in.
fn frame<'a>(image: &'a Image, test: &TestConfig, scale: f64) -> Result<Cow<'a, Image>, SemanticError> {
    let own = [image.height(), image.width()];
    let size = test_size(&test.resize, test.keep_aspect, scale, own);
    if size == own {
        return Ok(Cow::Borrowed(image));
    }
    Ok(Cow::Owned(resize_bilinear(image, size[1], size[0])?))
}

fn source<'a, S: Segmenter>(
    network: &'a Network<'a, S>,
    frame: Cow<'a, Image>,
    test: &TestConfig,
) -> Result<Source<'a, S>, SemanticError> {
    let size = [frame.height() as usize, frame.width() as usize];
    match test.mode {
        TestMode::Whole => Ok(Source::Whole { logits: network.logits(&frame, [0, 0], size)?, frame: size }),
        TestMode::Slide { window, stride, blend } => {
            Ok(Source::Slide(Slide::new(network, frame, [window, stride], blend)))
        }
    }
}

/// The label with the highest logit at every place of a row `[classes, width]`; of equals the first.
fn best(row: &[f32], width: usize) -> impl Iterator<Item = u8> {
    let mut highest = row[..width].to_vec();
    let mut labels = vec![0_u8; width];
    for (class, values) in row.chunks_exact(width).enumerate().skip(1) {
        for ((value, highest), label) in values.iter().zip(&mut highest).zip(&mut labels) {
            if value > highest {
                (*highest, *label) = (*value, class as u8);
            }
        }
    }
    labels.into_iter()
}

#[cfg(test)]
mod tests;
