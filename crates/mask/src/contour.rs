//! From a mask to polygons along the edges of its pixels.
//!
//! Regions are 4-connected: two pixels that touch only at a corner belong to two regions, because an outline
//! around both would touch itself there. The background inside a region is split at corners in the same way. So
//! every ring passes each corner at most once and is a simple polygon, which GIS tools and annotation editors
//! insist on; two rings may still touch at a corner, which they allow.

use crate::{Connectivity, Labels, Mask, Point, label};

/// The outline of one 4-connected region.
///
/// Rings hold only their corners, in whole pixels of the mask's frame, and the last is joined to the first.
#[derive(Clone, Debug, PartialEq)]
pub struct Region {
    /// The outer ring, clockwise as seen on the screen (x to the right, y down).
    pub exterior: Vec<Point>,
    /// The rings around holes, counter-clockwise as seen on the screen.
    pub holes: Vec<Vec<Point>>,
}

/// A direction along pixel edges.
#[derive(Clone, Copy, PartialEq)]
enum Heading {
    East,
    South,
    West,
    North,
}

impl Heading {
    fn right(self) -> Self {
        match self {
            Self::East => Self::South,
            Self::South => Self::West,
            Self::West => Self::North,
            Self::North => Self::East,
        }
    }

    fn left(self) -> Self {
        self.right().right().right()
    }
}

/// The outlines of all 4-connected regions, in the order in which a row-by-row reader meets them.
///
/// Rasterising each exterior without its holes gives back exactly the mask.
pub fn contours(mask: &Mask) -> Vec<Region> {
    let Labels { labels, areas } = label(mask, Connectivity::Four);
    let field = Field { labels: &labels, width: mask.width(), height: mask.height() };
    let mut regions: Vec<Region> =
        areas.iter().map(|_| Region { exterior: Vec::new(), holes: Vec::new() }).collect();
    // Every ring runs along the top of some pixel, so starting at each top edge not yet passed finds all.
    let mut passed = Mask::new(mask.width(), mask.height());
    for y in 0..mask.height() {
        for x in 0..mask.width() {
            let here = field.at(x, y);
            if here == 0 || field.above(x, y) == here || passed.get(x, y) {
                continue;
            }
            let ring = field.trace(x, y, &mut passed);
            let region = &mut regions[here as usize - 1];
            // The first pixel met of a region has nothing of it above or to the left: its ring is the outer one.
            if region.exterior.is_empty() {
                region.exterior = ring;
            } else {
                region.holes.push(ring);
            }
        }
    }
    regions
}

/// The labels of a frame; 0 outside.
struct Field<'a> {
    labels: &'a [u32],
    width: usize,
    height: usize,
}

impl Field<'_> {
    fn at(&self, x: usize, y: usize) -> u32 {
        if x < self.width && y < self.height { self.labels[y * self.width + x] } else { 0 }
    }

    fn above(&self, x: usize, y: usize) -> u32 {
        if y == 0 { 0 } else { self.at(x, y - 1) }
    }

    /// The labels of the two pixels ahead, left and right, of a walker who arrived at corner `(x, y)`.
    fn ahead(&self, x: usize, y: usize, heading: Heading) -> (u32, u32) {
        // The pixels around the corner; wrapping makes the ones before column or row 0 lie outside.
        let (west, north) = (x.wrapping_sub(1), y.wrapping_sub(1));
        let [nw, ne, se, sw] = [self.at(west, north), self.at(x, north), self.at(x, y), self.at(west, y)];
        match heading {
            Heading::East => (ne, se),
            Heading::South => (se, sw),
            Heading::West => (sw, nw),
            Heading::North => (nw, ne),
        }
    }

    /// Walks along the ring that starts with the top edge of pixel `(x, y)`, with that pixel's region always
    /// on the right, and marks the top edges it passes.
    fn trace(&self, x: usize, y: usize, passed: &mut Mask) -> Vec<Point> {
        let region = self.at(x, y);
        let (mut cx, mut cy, mut heading) = (x, y, Heading::East);
        let mut ring = Vec::new();
        loop {
            match heading {
                Heading::East => {
                    passed.set(cx, cy, true);
                    cx += 1;
                }
                Heading::South => cy += 1,
                Heading::West => cx -= 1,
                Heading::North => cy -= 1,
            }
            let (left, right) = self.ahead(cx, cy, heading);
            // Where the region touches itself at this corner only, `left` keeps the background beyond it apart.
            let next = if left == region {
                heading.left()
            } else if right == region {
                heading
            } else {
                heading.right()
            };
            if next != heading {
                ring.push(Point { x: cx as f64, y: cy as f64 });
            }
            heading = next;
            if (cx, cy, heading) == (x, y, Heading::East) {
                return ring;
            }
        }
    }
}

/// Leaves out points of a closed ring that lie within `tolerance` pixels of the line between the neighbours that
/// stay (Ramer, Douglas and Peucker).
///
/// The result is a part of the input in the same order, starting with the same point. A ring of three points or
/// more never falls below three. With a tolerance that is not above 0 nothing is left out.
pub fn simplify(ring: &[Point], tolerance: f64) -> Vec<Point> {
    let Some(&start) = ring.first() else { return Vec::new() };
    if ring.len() <= 3 || tolerance.is_nan() || tolerance <= 0.0 {
        return ring.to_vec();
    }
    let last = ring.len();
    let point = |i: usize| ring[i % last];
    // The farthest of the points strictly between two others, and how far it is from their line.
    let farthest = |from: usize, to: usize| {
        (from + 1..to)
            .map(|i| (i, distance(point(i), point(from), point(to))))
            .max_by(|a, b| a.1.total_cmp(&b.1))
    };

    // A ring has no ends to hang the first line on, so it is cut at its first point and the one farthest away.
    let far = farthest(0, last).map_or(0, |(i, _)| i);
    let mut keep = vec![false; last];
    keep[0] = true;
    keep[far] = true;
    let mut open = vec![(0, far), (far, last)];
    while let Some((from, to)) = open.pop() {
        if let Some((i, _)) = farthest(from, to).filter(|&(_, d)| d > tolerance) {
            keep[i] = true;
            open.extend([(from, i), (i, to)]);
        }
    }
    if keep.iter().filter(|&&k| k).count() < 3 {
        let from_line = |i: usize| distance(point(i), start, point(far));
        let others = (1..last).filter(|&i| i != far);
        if let Some(third) = others.max_by(|&a, &b| from_line(a).total_cmp(&from_line(b))) {
            keep[third] = true;
        }
    }
    ring.iter().zip(keep).filter(|&(_, keep)| keep).map(|(&p, _)| p).collect()
}

/// How far `p` is from the stretch of line between `a` and `b`, pixels.
fn distance(p: Point, a: Point, b: Point) -> f64 {
    let (dx, dy) = (b.x - a.x, b.y - a.y);
    let length = dx * dx + dy * dy;
    let along =
        if length > 0.0 { (((p.x - a.x) * dx + (p.y - a.y) * dy) / length).clamp(0.0, 1.0) } else { 0.0 };
    (p.x - a.x - along * dx).hypot(p.y - a.y - along * dy)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mask::art;

    fn points(corners: &[(f64, f64)]) -> Vec<Point> {
        corners.iter().map(|&(x, y)| Point { x, y }).collect()
    }

    #[test]
    fn one_pixel_is_a_clockwise_square() {
        let regions = contours(&art(&["...", ".#."]));
        assert_eq!(regions.len(), 1);
        assert_eq!(regions[0].exterior, points(&[(2.0, 1.0), (2.0, 2.0), (1.0, 2.0), (1.0, 1.0)]));
        assert!(regions[0].holes.is_empty());
    }

    #[test]
    fn corner_neighbours_are_two_regions() {
        let regions = contours(&art(&["#.", ".#"]));
        assert_eq!(regions.len(), 2);
        assert!(regions.iter().all(|r| r.exterior.len() == 4));
    }

    #[test]
    fn a_hole_that_touches_the_outside_at_a_corner_stays_a_hole() {
        let regions = contours(&art(&[".##", "#.#", "###"]));
        assert_eq!(regions.len(), 1);
        assert_eq!(regions[0].exterior.len(), 6);
        assert_eq!(regions[0].holes, [points(&[(2.0, 2.0), (2.0, 1.0), (1.0, 1.0), (1.0, 2.0)])]);
    }

    #[test]
    fn islands_in_holes_are_regions_of_their_own() {
        let regions = contours(&art(&["#####", "#...#", "#.#.#", "#...#", "#####"]));
        assert_eq!(regions.iter().map(|r| r.holes.len()).collect::<Vec<_>>(), [1, 0]);
    }

    #[test]
    fn nothing_has_no_outline() {
        assert!(contours(&Mask::new(0, 0)).is_empty());
        assert!(contours(&Mask::new(4, 4)).is_empty());
    }

    #[test]
    fn simplifying_drops_what_lies_on_a_line() {
        let ring = points(&[(0.0, 0.0), (5.0, 0.1), (10.0, 0.0), (10.0, 10.0), (5.0, 10.0), (0.0, 10.0)]);
        let corners = points(&[(0.0, 0.0), (10.0, 0.0), (10.0, 10.0), (0.0, 10.0)]);
        assert_eq!(simplify(&ring, 0.5), corners);
        assert_eq!(simplify(&ring, 0.01).len(), 5);
        assert_eq!(simplify(&ring, 0.0), ring);
        assert_eq!(simplify(&ring, f64::NAN), ring);
    }

    #[test]
    fn a_ring_never_collapses() {
        let square = points(&[(0.0, 0.0), (1.0, 0.0), (1.0, 1.0), (0.0, 1.0)]);
        assert_eq!(simplify(&square, 100.0).len(), 3);
        let same = points(&[(2.0, 2.0); 5]);
        assert_eq!(simplify(&same, 1.0).len(), 3);
        assert!(simplify(&[], 1.0).is_empty());
        let broken = points(&[(f64::NAN, 0.0), (1.0, f64::INFINITY), (0.0, 1.0), (3.0, 3.0)]);
        assert!(simplify(&broken, 1.0).len() >= 3);
    }
}
