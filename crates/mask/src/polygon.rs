//! From a polygon to the pixels inside, exactly as pycocotools draws it.
//!
//! COCO's human labels are polygons, and every published figure rests on pycocotools' idea of which
//! pixels lie inside one, so its rounding is followed to the last bit: corners go to a grid five times
//! as fine as the pixels, an edge is drawn on that grid one step at a time along its longer axis, and
//! where the drawing steps over the middle of a column, the pixels of that column change sides from
//! there down. Instead of drawing every step, this implementation computes only the steps over a
//! column's middle, so a huge polygon over a small frame costs no more than the frame is wide.

use crate::{MaskError, Point, Rle, frame_area};

/// The largest coordinate, in pixels and either direction, that [`rasterize`] accepts.
///
/// It bounds what a corrupt label can cost, and lies far outside any picture.
pub const MAX_COORDINATE: f64 = 1e6;

/// Steps of the fine grid per pixel.
const FINE: i64 = 5;

/// Crossings gathered before those that cancel out are removed.
const GATHER: usize = 1 << 20;

/// The pixels inside a closed polygon, by the even-odd rule; equal to pycocotools' `frPyObjects`.
///
/// Corners are in pixels of the frame, where `(0, 0)` is the outer corner of the first pixel; they may
/// lie outside the frame, and the last is joined to the first. Fewer than three enclose nothing.
///
/// # Errors
/// [`MaskError::BadPoint`] for a coordinate that is not finite or beyond [`MAX_COORDINATE`],
/// [`MaskError::FrameTooLarge`] when the frame is beyond [`frame_area`].
pub fn rasterize(polygon: &[Point], width: usize, height: usize) -> Result<Rle, MaskError> {
    rasterize_part(0, polygon, width, height)
}

/// The union of several polygons, as COCO stores an object that is seen in several pieces.
///
/// # Errors
/// As [`rasterize`].
pub fn rasterize_all(polygons: &[Vec<Point>], width: usize, height: usize) -> Result<Rle, MaskError> {
    frame_area(width, height)?;
    if polygons.is_empty() {
        return Ok(Rle::from_changes(width, height, &[]));
    }
    let parts = polygons.iter().enumerate().map(|(i, polygon)| rasterize_part(i, polygon, width, height));
    Rle::merge(&parts.collect::<Result<Vec<_>, _>>()?, false)
}

fn rasterize_part(part: usize, polygon: &[Point], width: usize, height: usize) -> Result<Rle, MaskError> {
    frame_area(width, height)?;
    let corners = polygon
        .iter()
        .enumerate()
        .map(|(index, &point)| to_fine_grid(part, index, point))
        .collect::<Result<Vec<_>, _>>()?;

    let mut changes = Vec::new();
    let mut limit = GATHER;
    for (&from, &to) in corners.iter().zip(corners.iter().cycle().skip(1)) {
        push_changes(&mut changes, from, to, width as i64, height as i64);
        if changes.len() > limit {
            cancel_pairs(&mut changes);
            limit = GATHER.max(2 * changes.len());
        }
    }
    cancel_pairs(&mut changes);
    Ok(Rle::from_changes(width, height, &changes))
}

/// Rounds a corner to the fine grid. Negative numbers round towards 0 after the half is added, as C does.
fn to_fine_grid(polygon: usize, index: usize, Point { x, y }: Point) -> Result<(i64, i64), MaskError> {
    // Written so that NaN fails.
    if !(x.abs() <= MAX_COORDINATE && y.abs() <= MAX_COORDINATE) {
        return Err(MaskError::BadPoint { polygon, index, x, y, limit: MAX_COORDINATE });
    }
    let round = |v: f64| (FINE as f64 * v + 0.5) as i64;
    Ok((round(x), round(y)))
}

/// Adds the positions (down the columns) at which one edge makes the pixels change sides.
fn push_changes(changes: &mut Vec<u32>, from: (i64, i64), to: (i64, i64), width: i64, height: i64) {
    let (dx, dy) = ((from.0 - to.0).abs(), (from.1 - to.1).abs());
    let flat = dx >= dy;
    // Edges are drawn in ascending order of their longer axis, whichever way they run.
    let swap = if flat { from.0 > to.0 } else { from.1 > to.1 };
    let (start, end) = if swap { (to, from) } else { (from, to) };

    // The middle of column `c` lies between the fine columns `FINE * c + 2` and the next one.
    let (left, right) = (from.0.min(to.0), from.0.max(to.0));
    let first = (left + 2).div_euclid(FINE).max(0);
    let last = (right - 3).div_euclid(FINE).min(width - 1);
    for column in first..=last {
        let fine = FINE * column + 2;
        // The upper one of the two drawn points beside the middle.
        let upper = if flat {
            let slope = (end.1 - start.1) as f64 / dx as f64;
            let y = |step: i64| (start.1 as f64 + slope * step as f64 + 0.5) as i64;
            let step = fine - start.0;
            y(step).min(y(step + 1))
        } else {
            let slope = (end.0 - start.0) as f64 / dy as f64;
            let x = |step: i64| (start.0 as f64 + slope * step as f64 + 0.5) as i64;
            let rightwards = end.0 > start.0;
            start.1 + first_step(dy, |step| (x(step) > fine) == rightwards) - 1
        };
        // The first row whose middle is at or below that point.
        let row = (upper + 2).div_euclid(FINE).clamp(0, height);
        changes.push((column * height + row) as u32);
    }
}

/// The first step in `0..=last` at which a condition holds that, once true, stays true.
fn first_step(last: i64, holds: impl Fn(i64) -> bool) -> i64 {
    let (mut low, mut high) = (0, last);
    while low < high {
        let middle = low + (high - low) / 2;
        if holds(middle) {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    low
}

/// Sorts, and drops every pair of changes at one position: two changes of side are none.
fn cancel_pairs(changes: &mut Vec<u32>) {
    changes.sort_unstable();
    *changes =
        changes.chunk_by(|a, b| a == b).filter(|same| same.len() % 2 == 1).map(|same| same[0]).collect();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mask::art;

    fn points(corners: &[(f64, f64)]) -> Vec<Point> {
        corners.iter().map(|&(x, y)| Point { x, y }).collect()
    }

    #[test]
    fn whole_pixels() {
        let square = points(&[(1.0, 1.0), (3.0, 1.0), (3.0, 4.0), (1.0, 4.0)]);
        let expected = art(&["....", ".##.", ".##.", ".##.", "...."]);
        assert_eq!(rasterize(&square, 4, 5).unwrap().to_mask(), expected);
    }

    #[test]
    fn the_way_round_does_not_matter_and_overlap_is_even_odd() {
        let bow = points(&[(0.0, 0.0), (8.0, 8.0), (8.0, 0.0), (0.0, 8.0)]);
        let reversed: Vec<Point> = bow.iter().rev().copied().collect();
        assert_eq!(rasterize(&bow, 8, 8), rasterize(&reversed, 8, 8));
        let square = points(&[(0.0, 0.0), (4.0, 0.0), (4.0, 4.0), (0.0, 4.0)]);
        assert_eq!(rasterize(&[square.clone(), square].concat(), 4, 4).unwrap().area(), 0);
    }

    #[test]
    fn far_outside_costs_nothing_and_clips() {
        let m = MAX_COORDINATE;
        let huge = points(&[(-m, -m), (m, -m), (m, m), (-m, m)]);
        assert_eq!(rasterize(&huge, 3, 2).unwrap().counts(), [0, 6]);
        let beside = points(&[(10.0, 0.0), (m, 0.0), (m, m)]);
        assert_eq!(rasterize(&beside, 3, 2).unwrap().counts(), [6]);
    }

    #[test]
    fn a_wide_zigzag_stays_within_memory() {
        let teeth: Vec<Point> = (0..4000)
            .map(|i| Point { x: if i % 2 == 0 { -1.0 } else { 2001.0 }, y: f64::from(i % 7) })
            .collect();
        let rle = rasterize(&teeth, 2000, 10).unwrap();
        assert!(rle.area() > 0);
    }

    #[test]
    fn bad_coordinates_are_named() {
        for bad in [f64::NAN, f64::INFINITY, -1.1e6, 1e300] {
            let polygons = [points(&[(0.0, 0.0)]), points(&[(0.0, 0.0), (1.0, bad), (2.0, 2.0)])];
            let error = rasterize_all(&polygons, 4, 4).unwrap_err();
            assert!(matches!(error, MaskError::BadPoint { polygon: 1, index: 1, .. }), "{error}");
        }
        assert!(rasterize(&[], usize::MAX, 4).is_err());
    }

    #[test]
    fn too_few_points_or_no_frame() {
        for corners in [&[][..], &[(1.0, 1.0)], &[(0.0, 0.0), (4.0, 3.0)]] {
            assert_eq!(rasterize(&points(corners), 4, 4).unwrap().counts(), [16]);
        }
        let square = points(&[(0.0, 0.0), (4.0, 0.0), (4.0, 4.0), (0.0, 4.0)]);
        assert_eq!(rasterize(&square, 0, 4).unwrap().counts(), [0]);
        assert_eq!(rasterize(&square, 4, 0).unwrap().counts(), [0]);
        assert_eq!(rasterize_all(&[], 4, 4).unwrap().counts(), [16]);
    }
}
