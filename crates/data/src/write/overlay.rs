//! The picture with its masks laid over it, for people to look at.

use kirie_mask::{BBox, Point, Rle};

use super::canvas::Canvas;
use super::{check_sizes, color, cut_out, largest_first, outlines};
use crate::{DataError, Image, ImageMasks};

/// Share of a mask's colour in the pixels it covers: enough to see, little enough to see through.
const TINT: f64 = 0.42;
/// Strength of the shadow under an outline, which parts it from pictures and tints of its own colour.
const SHADOW: f64 = 0.35;
const BLACK: [u8; 3] = [0; 3];
const WHITE: [u8; 3] = [255; 3];
const GREEN: [u8; 3] = [34, 177, 76];
const RED: [u8; 3] = [214, 39, 40];

/// What was asked of the model, to be drawn with the answer. Coordinates are pixels of the picture.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Prompts {
    /// Points on the object (`true`, drawn green) or off it (`false`, drawn red).
    pub points: Vec<(Point, bool)>,
    /// Boxes around objects, drawn green.
    pub boxes: Vec<BBox>,
}

/// Lays the masks over the picture, each tinted and outlined in its own [`color`], larger ones first so that small
/// ones stay visible, and the prompts on top. Lines grow with the picture, from 2 pixels at 800 pixels and below.
///
/// # Errors
/// [`DataError::PictureSize`] when `masks.image` states another size than the picture's, [`DataError::MaskSize`] when
/// a mask is of another size.
pub fn overlay(image: &Image, masks: &ImageMasks, prompts: &Prompts) -> Result<Image, DataError> {
    check_sizes(masks)?;
    if (masks.image.width, masks.image.height) != (image.width(), image.height()) {
        return Err(DataError::PictureSize {
            name: masks.image.path.clone(),
            expected_width: masks.image.width,
            expected_height: masks.image.height,
            width: image.width(),
            height: image.height(),
        });
    }
    let mut result = image.clone();
    let line = line_width(image);
    let painted = largest_first(masks).into_iter().map(|(index, m)| (&m.segmentation, color(index)));
    paint(&mut result, painted, line);
    let mut canvas = Canvas { picture: result.rgb_mut() };
    for b in &prompts.boxes {
        let ring = corners(b);
        canvas.ring(&ring, line * 2.2, WHITE, 0.8);
        canvas.ring(&ring, line * 1.4, GREEN, 1.0);
    }
    for &(point, positive) in &prompts.points {
        canvas.disc(point, line * 3.2, WHITE);
        canvas.disc(point, line * 2.4, if positive { GREEN } else { RED });
    }
    Ok(result)
}

fn line_width(image: &Image) -> f64 {
    f64::from(image.width().max(image.height()) / 400).max(2.0)
}

/// Lays masks of the picture's size over it, one on top of the other, each tinted and outlined in its colour with a line
/// `line` pixels wide.
pub(crate) fn paint<'a>(image: &mut Image, masks: impl Iterator<Item = (&'a Rle, [u8; 3])>, line: f64) {
    let mut canvas = Canvas { picture: image.rgb_mut() };
    for (mask, color) in masks {
        let Some((left, top, part)) = cut_out(mask) else { continue };
        canvas.tint(left, top, &part, color, TINT);
        for region in outlines(mask) {
            for ring in [&region.exterior].into_iter().chain(&region.holes) {
                let ring = smooth(ring, line);
                canvas.ring(&ring, line * 2.0, BLACK, SHADOW);
                canvas.ring(&ring, line, color, 1.0);
            }
        }
    }
}

/// Draws the edges of a box, `line` pixels wide.
pub(crate) fn paint_box(image: &mut Image, b: &BBox, color: [u8; 3], line: f64) {
    let mut canvas = Canvas { picture: image.rgb_mut() };
    let ring = corners(b);
    canvas.ring(&ring, line * 2.0, BLACK, SHADOW);
    canvas.ring(&ring, line, color, 1.0);
}

fn corners(b: &BBox) -> [Point; 4] {
    let corner = |x, y| Point { x, y };
    [corner(b.x0, b.y0), corner(b.x1, b.y0), corner(b.x1, b.y1), corner(b.x0, b.y1)]
}

/// A pixel-edge outline without its staircase, for a line `width` pixels wide: the middles of its pixel edges, each
/// averaged with its neighbours, and of these as many as such a line can show.
fn smooth(ring: &[Point], width: f64) -> Vec<Point> {
    let mut middles = Vec::new();
    for (a, b) in ring.iter().zip(ring.iter().cycle().skip(1)) {
        let steps = (b.x - a.x).hypot(b.y - a.y).round() as u32;
        middles.extend((0..steps).map(|step| {
            let along = (f64::from(step) + 0.5) / f64::from(steps);
            Point { x: a.x + (b.x - a.x) * along, y: a.y + (b.y - a.y) * along }
        }));
    }
    // One point every half width, averaged over two such steps to either side; less on small rings, which would
    // shrink to dots.
    let count = middles.len();
    let step = ((width / 2.0) as usize).clamp(1, (count / 24).max(1));
    let reach = (2 * step).min(count / 12);
    let around = |i: usize| (0..=2 * reach).map(move |k| (i + count + k - reach) % count);
    let mean =
        |values: &dyn Fn(usize) -> f64, i: usize| around(i).map(values).sum::<f64>() / (2 * reach + 1) as f64;
    (0..count)
        .step_by(step)
        .map(|i| Point { x: mean(&|j| middles[j].x, i), y: mean(&|j| middles[j].y, i) })
        .collect()
}
