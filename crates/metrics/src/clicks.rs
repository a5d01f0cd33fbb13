//! Simulated clicks, by the rule of RITM (Sofiiuk et al. 2021) that interactive segmentation is measured
//! with.

use kirie_mask::{Mask, MaskError};
use serde::{Deserialize, Serialize};

use crate::MetricsError;

/// A click on a pixel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Click {
    /// Column, pixels from the left.
    pub x: usize,
    /// Row, pixels from the top.
    pub y: usize,
    /// On the object (`true`) or on what is not the object.
    pub positive: bool,
}

/// Clicks where a prediction is most wrong, one after another.
///
/// Each click goes to the pixel farthest from the edge of what is missing (false negatives) or of what is too
/// much (false positives), the border of the picture counted as an edge: on what is missing if that pixel
/// lies deeper there, else on what is too much. Of pixels equally deep the first in row-major order is taken;
/// a pixel clicked before is not clicked again. Before any prediction all of the object is missing, so the
/// first click is at the heart of the object.
///
/// ```
/// use kirie_mask::Mask;
/// use kirie_metrics::{Click, Clicker};
///
/// let object = Mask::from_fn(7, 5, |x, y| (1..6).contains(&x) && (1..4).contains(&y));
/// let mut clicker = Clicker::new(object.clone());
/// assert_eq!(clicker.next_click(None)?, Some(Click { x: 2, y: 2, positive: true }));
/// assert_eq!(clicker.next_click(Some(&object))?, None);
/// # Ok::<(), kirie_metrics::MetricsError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Clicker {
    truth: Mask,
    clicks: Vec<Click>,
}

impl Clicker {
    /// A clicker that knows the object.
    pub fn new(truth: Mask) -> Self {
        Self { truth, clicks: Vec::new() }
    }

    /// The clicks made so far.
    pub fn clicks(&self) -> &[Click] {
        &self.clicks
    }

    /// The next click, given the prediction that the clicks so far led to; `None` for none yet.
    ///
    /// There is no next click when nothing is wrong, or everything wrong has been clicked (RITM's code then
    /// clicks "not the object" on the first pixel of the picture, which helps nobody).
    ///
    /// # Errors
    /// [`MaskError::FrameMismatch`] when the prediction is not of the object's frame.
    pub fn next_click(&mut self, prediction: Option<&Mask>) -> Result<Option<Click>, MetricsError> {
        let frame = |mask: &Mask| (mask.width(), mask.height());
        let (expected, found) = (frame(&self.truth), prediction.map_or(frame(&self.truth), frame));
        if expected != found {
            return Err(MaskError::FrameMismatch { expected, found }.into());
        }
        let deepest = |positive: bool| {
            let wrong = match prediction {
                None if positive => self.truth.clone(),
                None => return None,
                Some(prediction) => {
                    let pixels = self.truth.as_slice().iter().zip(prediction.as_slice());
                    let wrong = pixels.map(|(&t, &p)| t == positive && p != positive).collect();
                    Mask::from_vec(expected.0, expected.1, wrong).ok()?
                }
            };
            let (depth, x, y) = self.deepest(&wrong)?;
            Some((depth, Click { x, y, positive }))
        };
        let (missing, surplus) = (deepest(true), deepest(false));
        let depth = |found: Option<(u32, Click)>| found.map_or(0, |(depth, _)| depth);
        let next = if depth(missing) > depth(surplus) { missing } else { surplus };
        let click = next.map(|(_, click)| click);
        self.clicks.extend(click);
        Ok(click)
    }

    /// The first of the pixels deepest inside a region that were not clicked, and its squared depth.
    fn deepest(&self, region: &Mask) -> Option<(u32, usize, usize)> {
        // Outside its box the region has no pixels, so the distances inside are those of the box alone.
        let bounds = region.bbox()?;
        let (x0, y0) = (bounds.x0 as usize, bounds.y0 as usize);
        let (width, height) = (bounds.width() as usize + 1, bounds.height() as usize + 1);
        let window = Mask::from_fn(width, height, |x, y| region.get(x0 + x, y0 + y));
        let mut depths = squared_depths(&window);
        for click in &self.clicks {
            if let (Some(x), Some(y)) = (click.x.checked_sub(x0), click.y.checked_sub(y0))
                && x < width
                && y < height
            {
                depths[y * width + x] = 0;
            }
        }
        let (at, &depth) = depths.iter().enumerate().rev().max_by_key(|&(_, depth)| depth)?;
        (depth > 0).then_some((depth, x0 + at % width, y0 + at / width))
    }
}

/// The exact squared Euclidean distance, in pixels, from the centre of each pixel to that of the nearest
/// background pixel, row by row; all that lies outside the frame is background. 0 on the background.
///
/// What OpenCV's `distanceTransform(mask, DIST_L2, DIST_MASK_PRECISE)` gives, squared, on the mask with a
/// border of one zero pixel; it computes in `f32`, whose last bit now and then sets equal distances apart.
/// The time is proportional to the number of pixels: distances along the columns first, then along each row
/// the lower envelope of the parabolas they stand for (Felzenszwalb and Huttenlocher 2012), with crossings in
/// whole numbers (Meijster et al. 2000).
pub fn squared_depths(mask: &Mask) -> Vec<u32> {
    let (width, height) = (mask.width(), mask.height());
    let mut depths = vec![0u32; width * height];
    if depths.is_empty() {
        return depths;
    }
    // Down and up each column: the distance to the background above, then to the nearer of the two.
    let mut above = vec![0u32; width];
    for y in 0..height {
        for ((above, &inside), depth) in above.iter_mut().zip(mask.row(y)).zip(&mut depths[y * width..]) {
            *above = if inside { *above + 1 } else { 0 };
            *depth = *above;
        }
    }
    let mut below = vec![0u32; width];
    for row in depths.chunks_mut(width).rev() {
        for (below, depth) in below.iter_mut().zip(row) {
            *below = (*below + 1).min(*depth);
            *depth = *below;
        }
    }

    // Along each row, columns counted from 1 so that 0 and width + 1 are the background outside. Each column
    // u offers column x the squared distance (x - u)² + g(u)²; `hull` keeps those that are best somewhere,
    // with the first x where they are.
    let mut g = vec![0i64; width + 2];
    let mut hull: Vec<(i64, i64)> = Vec::with_capacity(width + 2);
    for row in depths.chunks_mut(width) {
        for (g, &depth) in g[1..].iter_mut().zip(row.iter()) {
            *g = i64::from(depth) * i64::from(depth);
        }
        let offer = |u: i64, x: i64| (x - u) * (x - u) + g[u as usize];
        hull.clear();
        for u in 0..g.len() as i64 {
            while hull.last().is_some_and(|&(v, from)| offer(v, from) > offer(u, from)) {
                hull.pop();
            }
            // The first x at which u is strictly better than the last column kept.
            let from = hull.last().map_or(0, |&(v, _)| {
                (u * u - v * v + g[u as usize] - g[v as usize]).div_euclid(2 * (u - v)) + 1
            });
            if from < g.len() as i64 {
                hull.push((u, from));
            }
        }
        let mut rest = hull.as_slice();
        for (x, depth) in (1..).zip(row) {
            while let [_, (_, from), ..] = rest
                && *from <= x
            {
                rest = &rest[1..];
            }
            *depth = rest.first().map_or(0, |&(u, _)| offer(u, x) as u32);
        }
    }
    depths
}

#[cfg(test)]
mod tests {
    use super::*;

    fn art(rows: &[&str]) -> Mask {
        Mask::from_fn(rows[0].len(), rows.len(), |x, y| rows[y].as_bytes()[x] == b'#')
    }

    #[test]
    fn depths_of_a_block_and_of_a_full_frame() {
        let block = art(&[".....", ".###.", ".###.", ".###.", "....."]);
        let expected = [0, 0, 0, 0, 0, 0, 1, 1, 1, 0, 0, 1, 4, 1, 0, 0, 1, 1, 1, 0, 0, 0, 0, 0, 0];
        assert_eq!(squared_depths(&block), expected);
        assert_eq!(squared_depths(&art(&["###", "###", "###"])), [1, 1, 1, 1, 4, 1, 1, 1, 1]);
        // Around a hole, distances are diagonal.
        let hole = art(&["#######", "#######", "#######", "###.###", "#######", "#######", "#######"]);
        assert_eq!(squared_depths(&hole)[8], 4);
        assert_eq!(squared_depths(&hole)[2 * 7 + 2], 2);
        for (width, height) in [(0, 0), (0, 3), (3, 0)] {
            assert!(squared_depths(&Mask::new(width, height)).is_empty());
        }
    }

    #[test]
    fn clicks_alternate_with_the_errors() {
        let truth = art(&["..........", ".#####....", ".#####....", ".#####....", ".........."]);
        let mut clicker = Clicker::new(truth.clone());
        assert_eq!(clicker.next_click(None), Ok(Some(Click { x: 2, y: 2, positive: true })));
        // Too much on the right, one column missing on the left: equal depths go to the surplus.
        let shifted = art(&["..........", "..#####...", "..#####...", "..#####...", ".........."]);
        assert_eq!(clicker.next_click(Some(&shifted)), Ok(Some(Click { x: 6, y: 1, positive: false })));
        // The same prediction again: the next free pixel.
        assert_eq!(clicker.next_click(Some(&shifted)), Ok(Some(Click { x: 6, y: 2, positive: false })));
        assert_eq!(
            clicker.next_click(Some(&Mask::new(10, 5))).map(|c| c.map(|c| c.positive)),
            Ok(Some(true))
        );
        assert_eq!(clicker.clicks().len(), 4);
        assert_eq!(clicker.next_click(Some(&truth)), Ok(None));
    }

    #[test]
    fn every_pixel_is_clicked_once() {
        let mut clicker = Clicker::new(art(&["##.", "##."]));
        let clicks: Vec<Click> =
            std::iter::from_fn(|| clicker.next_click(None).expect("no frame to differ")).collect();
        let places: Vec<(usize, usize)> = clicks.iter().map(|click| (click.x, click.y)).collect();
        assert_eq!(places, [(0, 0), (1, 0), (0, 1), (1, 1)]);
    }

    #[test]
    fn nothing_to_click_and_frames_that_differ() {
        let mut clicker = Clicker::new(Mask::new(4, 3));
        assert_eq!(clicker.next_click(None), Ok(None));
        assert!(clicker.next_click(Some(&Mask::new(3, 4))).is_err());
        let everything = Mask::from_fn(4, 3, |_, _| true);
        assert_eq!(clicker.next_click(Some(&everything)), Ok(Some(Click { x: 1, y: 1, positive: false })));
        assert_eq!(Clicker::new(Mask::new(0, 0)).next_click(None), Ok(None));
    }
}
