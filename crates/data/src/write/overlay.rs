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
/// [`DataError::MaskSize`] when a mask, or the size in `masks.image`, is not the picture's.
pub fn overlay(image: &Image, masks: &ImageMasks, prompts: &Prompts) -> Result<Image, DataError> {
    check_sizes(masks)?;
    if (masks.image.width, masks.image.height) != (image.width(), image.height()) {
        return Err(DataError::MaskSize {
            name: masks.image.path.clone(),
            index: 0,
            mask_width: masks.image.width as usize,
            mask_height: masks.image.height as usize,
            image_width: image.width(),
            image_height: image.height(),
        });
    }
    let line = f64::from(image.width().max(image.height()) / 400).max(2.0);
    let mut result = image.clone();
    let mut canvas = Canvas { picture: result.rgb_mut() };
    for (index, record) in largest_first(masks) {
        tint(&mut canvas, &record.segmentation, color(index));
        for region in outlines(&record.segmentation) {
            for ring in [&region.exterior].into_iter().chain(&region.holes) {
                let ring = smooth(ring);
                canvas.ring(&ring, line * 2.0, BLACK, SHADOW);
                canvas.ring(&ring, line, color(index), 1.0);
            }
        }
    }
    for b in &prompts.boxes {
        let corner = |x, y| Point { x, y };
        let ring = [corner(b.x0, b.y0), corner(b.x1, b.y0), corner(b.x1, b.y1), corner(b.x0, b.y1)];
        canvas.ring(&ring, line * 2.2, WHITE, 0.8);
        canvas.ring(&ring, line * 1.4, GREEN, 1.0);
    }
    for &(point, positive) in &prompts.points {
        canvas.disc(point, line * 3.2, WHITE);
        canvas.disc(point, line * 2.4, if positive { GREEN } else { RED });
    }
    Ok(result)
}

fn tint(canvas: &mut Canvas, mask: &Rle, color: [u8; 3]) {
    let Some((left, top, part)) = cut_out(mask) else { return };
    for y in 0..part.height() {
        for (x, _) in part.row(y).iter().enumerate().filter(|(_, set)| **set) {
            canvas.mix((left + x) as u32, (top + y) as u32, color, TINT);
        }
    }
}

/// A pixel-edge outline without its staircase: the middles of its pixel edges, each averaged with its neighbours.
fn smooth(ring: &[Point]) -> Vec<Point> {
    let mut middles = Vec::new();
    for (a, b) in ring.iter().zip(ring.iter().cycle().skip(1)) {
        let steps = (b.x - a.x).hypot(b.y - a.y).round() as u32;
        middles.extend((0..steps).map(|step| {
            let along = (f64::from(step) + 0.5) / f64::from(steps);
            Point { x: a.x + (b.x - a.x) * along, y: a.y + (b.y - a.y) * along }
        }));
    }
    // Two neighbours a side; fewer on the rings of single pixels, which would shrink to dots.
    let reach = (middles.len() / 12).min(2);
    let count = middles.len();
    let window = |i: usize| (0..=2 * reach).map(move |k| (i + count + k - reach) % count);
    (0..count)
        .map(|i| {
            let mut mean = Point { x: 0.0, y: 0.0 };
            for p in window(i).filter_map(|j| middles.get(j)) {
                mean.x += p.x / (2 * reach + 1) as f64;
                mean.y += p.y / (2 * reach + 1) as f64;
            }
            mean
        })
        .collect()
}
