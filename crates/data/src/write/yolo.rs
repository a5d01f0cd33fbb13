//! Masks as YOLO segmentation labels, one text file a picture.

use std::fmt::Write;

use kirie_mask::{Point, Rle};

use super::{check_sizes, outlines, simplified};
use crate::{DataError, ImageMasks};

/// The lines of a YOLO segmentation label file: `class x1 y1 x2 y2 ...`, one line a mask, x divided by the picture's
/// width and y by its height (0..1). Masks without a pixel are left out.
///
/// The format knows one ring an object. As ultralytics' converter does, further parts are joined to the ring by a
/// bridge of no width between the nearest corners; holes are cut out the same way, which its loader (even-odd
/// filling) understands. Outlines stray at most `tolerance` pixels from the mask's edge (0 keeps every corner; the
/// joining then takes time with the square of the number of corners).
///
/// # Errors
/// [`DataError::MaskSize`] when a mask is not of the picture's size.
pub fn yolo_lines(all: &ImageMasks, class: u32, tolerance: f64) -> Result<String, DataError> {
    check_sizes(all)?;
    let (width, height) = (f64::from(all.image.width), f64::from(all.image.height));
    let mut lines = String::new();
    for mask in all.masks.iter().filter(|mask| mask.segmentation.area() > 0) {
        let _ = write!(lines, "{class}"); // writing to a String cannot fail
        for p in one_ring(&mask.segmentation, tolerance) {
            let (x, y) = ((p.x / width).clamp(0.0, 1.0), (p.y / height).clamp(0.0, 1.0));
            let _ = write!(lines, " {x:.6} {y:.6}");
        }
        lines.push('\n');
    }
    Ok(lines)
}

/// All outlines of a mask, holes included, joined into one ring.
pub(crate) fn one_ring(mask: &Rle, tolerance: f64) -> Vec<Point> {
    let simple = |ring: &Vec<Point>| simplified(ring, tolerance);
    // Holes join their own part first, where the bridge runs over foreground.
    let parts = outlines(mask)
        .into_iter()
        .map(|region| join(simple(&region.exterior), region.holes.iter().map(simple)));
    let mut parts: Vec<_> = parts.collect();
    // The first part is the one with most corners, the bridges start there.
    parts.sort_by_key(|ring| std::cmp::Reverse(ring.len()));
    let mut parts = parts.into_iter();
    let first = parts.next().unwrap_or_default();
    join(first, parts)
}

/// Joins each of `others` into `ring` over the shortest bridge between corners.
fn join(mut ring: Vec<Point>, others: impl Iterator<Item = Vec<Point>>) -> Vec<Point> {
    for mut other in others {
        let Some((at, from)) = nearest(&ring, &other) else { continue };
        // ... ring[at], once around the other ring from its nearest corner back to it, ring[at] again ...
        other.rotate_left(from);
        let back = [other[0], ring[at]];
        let rest = ring.split_off(at + 1);
        ring.extend(other.into_iter().chain(back).chain(rest));
    }
    ring
}

/// Positions of the two nearest corners, one in each ring.
fn nearest(ring: &[Point], other: &[Point]) -> Option<(usize, usize)> {
    let distance = |a: &Point, b: &Point| (a.x - b.x).powi(2) + (a.y - b.y).powi(2);
    let pairs =
        ring.iter().enumerate().flat_map(|(i, a)| other.iter().enumerate().map(move |(j, b)| (i, j, a, b)));
    pairs.min_by(|p, q| distance(p.2, p.3).total_cmp(&distance(q.2, q.3))).map(|(i, j, _, _)| (i, j))
}
