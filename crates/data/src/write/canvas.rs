//! Drawing with smooth edges onto a picture: lines and discs, as few as the overlay needs.

use ::image::RgbImage;
use kirie_mask::{Mask, Point};

/// A picture being drawn on. Coordinates are pixels; pixel (x, y) covers the square from (x, y) to (x + 1, y + 1).
pub(super) struct Canvas<'a> {
    pub(super) picture: &'a mut RgbImage,
}

impl Canvas<'_> {
    /// Mixes `share` (0..1) of `color` into every pixel of a mask whose top left pixel lies at (`left`, `top`); all of
    /// it must lie inside the picture.
    pub(super) fn tint(&mut self, left: usize, top: usize, mask: &Mask, color: [u8; 3], share: f64) {
        // Masks cover millions of pixels, so each channel's results are looked up.
        let results =
            color.map(|target| std::array::from_fn::<u8, 256, _>(|value| mixed(value as u8, target, share)));
        let width = self.picture.width() as usize;
        for (y, row) in self.picture.chunks_exact_mut(width * 3).skip(top).take(mask.height()).enumerate() {
            let pixels = row.as_chunks_mut::<3>().0.iter_mut().skip(left);
            for (pixel, _) in pixels.zip(mask.row(y)).filter(|(_, set)| **set) {
                for (value, results) in pixel.iter_mut().zip(&results) {
                    *value = results[usize::from(*value)];
                }
            }
        }
    }

    /// Mixes `share` (0..1) of `color` into one pixel.
    fn mix(&mut self, x: u32, y: u32, color: [u8; 3], share: f64) {
        if let Some(pixel) = self.picture.get_pixel_mut_checked(x, y) {
            for (value, target) in pixel.0.iter_mut().zip(color) {
                *value = mixed(*value, target, share);
            }
        }
    }

    /// A filled disc.
    pub(super) fn disc(&mut self, center: Point, radius: f64, color: [u8; 3]) {
        let [x0, y0, x1, y1] = self.reach([center], radius);
        for y in y0..y1 {
            for x in x0..x1 {
                let distance = (f64::from(x) + 0.5 - center.x).hypot(f64::from(y) + 0.5 - center.y);
                self.mix(x, y, color, covered(radius - distance));
            }
        }
    }

    /// A closed line through `ring`, `width` pixels wide, of which `share` (0..1) is mixed in.
    pub(super) fn ring(&mut self, ring: &[Point], width: f64, color: [u8; 3], share: f64) {
        let half = width / 2.0;
        let [x0, y0, x1, y1] = self.reach(ring.iter().copied(), half);
        // Each pixel takes its strongest cover of any segment once, or joints would show as darker dots. Only cells
        // near the line are ever touched, and they are listed, so the empty middle of a large ring costs nothing.
        let columns = (x1 - x0) as usize;
        let mut cover = vec![0.0; columns * (y1 - y0) as usize];
        let mut touched = Vec::new();
        for (&a, &b) in ring.iter().zip(ring.iter().cycle().skip(1)) {
            let [sx0, sy0, sx1, sy1] = self.reach([a, b], half);
            for y in sy0..sy1 {
                for x in sx0..sx1 {
                    let center = Point { x: f64::from(x) + 0.5, y: f64::from(y) + 0.5 };
                    let share = covered(half - distance_to_segment(center, a, b));
                    let cell = (y - y0) as usize * columns + (x - x0) as usize;
                    if share > cover[cell] {
                        if cover[cell] == 0.0 {
                            touched.push((x, y, cell));
                        }
                        cover[cell] = share;
                    }
                }
            }
        }
        for (x, y, cell) in touched {
            self.mix(x, y, color, cover[cell] * share);
        }
    }

    /// The pixels x0..x1, y0..y1 of the picture within `radius` (and one pixel for the smooth edge) of the points.
    fn reach(&self, points: impl IntoIterator<Item = Point>, radius: f64) -> [u32; 4] {
        let (mut low, mut high) = ((f64::INFINITY, f64::INFINITY), (f64::NEG_INFINITY, f64::NEG_INFINITY));
        for p in points {
            low = (low.0.min(p.x), low.1.min(p.y));
            high = (high.0.max(p.x), high.1.max(p.y));
        }
        // Conversions saturate, so points far outside end at the picture's edges.
        let start = |v: f64, side: u32| ((v - radius - 1.0) as u32).min(side);
        let end = |v: f64, side: u32| ((v + radius + 2.0) as u32).min(side);
        let (width, height) = self.picture.dimensions();
        let (x0, y0) = (start(low.0, width), start(low.1, height));
        [x0, y0, end(high.0, width).max(x0), end(high.1, height).max(y0)]
    }
}

fn mixed(value: u8, target: u8, share: f64) -> u8 {
    (f64::from(value) + (f64::from(target) - f64::from(value)) * share).round() as u8
}

/// Share of a pixel covered whose centre lies `depth` pixels inside an edge.
fn covered(depth: f64) -> f64 {
    (depth + 0.5).clamp(0.0, 1.0)
}

fn distance_to_segment(p: Point, a: Point, b: Point) -> f64 {
    let (dx, dy) = (b.x - a.x, b.y - a.y);
    let length2 = dx * dx + dy * dy;
    let along =
        if length2 > 0.0 { (((p.x - a.x) * dx + (p.y - a.y) * dy) / length2).clamp(0.0, 1.0) } else { 0.0 };
    (p.x - a.x - along * dx).hypot(p.y - a.y - along * dy)
}
