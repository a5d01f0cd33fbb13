//! Connected components, and the removal of small ones.
//!
//! Components are found over horizontal runs of pixels joined by union-find: no recursion, and time in
//! proportion to the pixels whatever their shape.

use crate::Mask;
use crate::mask::foreground_runs;

/// Which pixels count as neighbours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Connectivity {
    /// Those that share an edge.
    Four,
    /// Those that share an edge or a corner.
    Eight,
}

/// The connected components of a mask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Labels {
    /// One label per pixel of the mask, row by row: 0 for background, then 1, 2, ... in the order in
    /// which a row-by-row reader meets the components.
    pub labels: Vec<u32>,
    /// Pixels per component; label `n` has `areas[n - 1]` (there is no entry for the background).
    pub areas: Vec<u64>,
}

/// A horizontal run of foreground, columns `start..end` of row `y`.
struct Run {
    y: usize,
    start: usize,
    end: usize,
}

/// Finds the connected components of the foreground.
pub fn label(mask: &Mask, connectivity: Connectivity) -> Labels {
    let reach = match connectivity {
        Connectivity::Four => 0,
        Connectivity::Eight => 1,
    };
    let mut runs: Vec<Run> = Vec::new();
    let mut parents: Vec<usize> = Vec::new();
    let mut above = 0..0;
    for y in 0..mask.height() {
        let row_start = runs.len();
        for run in foreground_runs(mask.row(y)) {
            let current = runs.len();
            parents.push(current);
            // Runs above that end left of this one touch none of the next ones either.
            while above.start < above.end && runs[above.start].end + reach <= run.start {
                above.start += 1;
            }
            for touching in above.clone().take_while(|&i| runs[i].start < run.end + reach) {
                join(&mut parents, touching, current);
            }
            runs.push(Run { y, start: run.start, end: run.end });
        }
        above = row_start..runs.len();
    }

    let mut labels = vec![0; mask.as_slice().len()];
    let mut areas: Vec<u64> = Vec::new();
    let mut label_of_run: Vec<u32> = Vec::with_capacity(runs.len());
    for (i, run) in runs.iter().enumerate() {
        // A parent is never behind its run, so its label is known by now.
        let label = if parents[i] == i {
            areas.push(0);
            areas.len() as u32
        } else {
            label_of_run[parents[i]]
        };
        label_of_run.push(label);
        areas[label as usize - 1] += (run.end - run.start) as u64;
        let row = run.y * mask.width();
        labels[row + run.start..row + run.end].fill(label);
    }
    Labels { labels, areas }
}

/// Makes two sets one, with the lower of the two roots as its root.
fn join(parents: &mut [usize], a: usize, b: usize) {
    let (a, b) = (root(parents, a), root(parents, b));
    parents[a.max(b)] = a.min(b);
}

fn root(parents: &mut [usize], mut i: usize) -> usize {
    while parents[i] != i {
        parents[i] = parents[parents[i]];
        i = parents[i];
    }
    i
}

/// Fills every 8-connected background component of fewer than `min_area` pixels, whether it lies inside
/// the mask or at the border of the frame, and says whether there was one.
///
/// SAM's `remove_small_regions(mask, area_thresh, mode="holes")`.
pub fn fill_small_holes(mask: &Mask, min_area: u64) -> (Mask, bool) {
    let background = Mask::from_fn(mask.width(), mask.height(), |x, y| !mask.get(x, y));
    let Labels { labels, areas } = label(&background, Connectivity::Eight);
    if areas.iter().all(|&area| area >= min_area) {
        return (mask.clone(), false);
    }
    let mut filled = mask.clone();
    for (pixel, &label) in filled.as_mut_slice().iter_mut().zip(&labels) {
        *pixel = label == 0 || areas[label as usize - 1] < min_area;
    }
    (filled, true)
}

/// Clears every 8-connected foreground component of fewer than `min_area` pixels, and says whether there
/// was one. When all are that small, the largest stays (of equals the first met row by row).
///
/// SAM's `remove_small_regions(mask, area_thresh, mode="islands")`. As there, `true` comes back also when the
/// only component is small, although it stays.
pub fn remove_small_islands(mask: &Mask, min_area: u64) -> (Mask, bool) {
    let Labels { labels, areas } = label(mask, Connectivity::Eight);
    if areas.iter().all(|&area| area >= min_area) {
        return (mask.clone(), false);
    }
    let largest = areas.iter().copied().max().unwrap_or(0);
    let first_largest = areas.iter().position(|&area| area == largest);
    let stays: Vec<bool> = areas
        .iter()
        .enumerate()
        .map(|(i, &area)| area >= min_area || (largest < min_area && Some(i) == first_largest))
        .collect();
    let mut cleared = mask.clone();
    for (pixel, &label) in cleared.as_mut_slice().iter_mut().zip(&labels) {
        *pixel = label > 0 && stays[label as usize - 1];
    }
    (cleared, true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mask::art;

    #[test]
    fn corners_join_only_eight() {
        let mask = art(&["#..#", ".##.", "...."]);
        let eight = label(&mask, Connectivity::Eight);
        assert_eq!(eight.areas, [4]);
        let four = label(&mask, Connectivity::Four);
        assert_eq!(four.areas, [1, 1, 2]);
        assert_eq!(four.labels, [1, 0, 0, 2, 0, 3, 3, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn arms_that_meet_late_share_the_first_label() {
        let mask = art(&["#.#.#", "#.#.#", "#####", ".....", "##..."]);
        let found = label(&mask, Connectivity::Four);
        assert_eq!(found.areas, [11, 2]);
        assert_eq!(&found.labels[..5], [1, 0, 1, 0, 1]);
        assert_eq!(&found.labels[20..], [2, 2, 0, 0, 0]);
    }

    #[test]
    fn a_long_spiral_needs_no_stack() {
        // One comb-shaped component of about a million pixels.
        let mask = Mask::from_fn(2001, 1000, |x, y| x % 2 == 0 || y == if x % 4 == 1 { 0 } else { 999 });
        assert_eq!(label(&mask, Connectivity::Four).areas, [mask.area()]);
    }

    #[test]
    fn no_pixels() {
        assert_eq!(label(&Mask::new(0, 0), Connectivity::Four), Labels { labels: vec![], areas: vec![] });
        assert_eq!(
            label(&Mask::new(2, 1), Connectivity::Eight),
            Labels { labels: vec![0, 0], areas: vec![] }
        );
    }

    #[test]
    fn holes_below_the_area_are_filled() {
        let mask = art(&["####.", "#.##.", "##.#.", "####.", "....."]);
        // The two hole pixels touch at a corner: one hole of 2.
        assert_eq!(fill_small_holes(&mask, 2), (mask.clone(), false));
        let filled = art(&["####.", "####.", "####.", "####.", "....."]);
        assert_eq!(fill_small_holes(&mask, 3), (filled, true));
        // The outside is background too.
        assert_eq!(fill_small_holes(&mask, 10), (Mask::from_fn(5, 5, |_, _| true), true));
    }

    #[test]
    fn islands_below_the_area_go() {
        let mask = art(&["##...", "##..#", ".....", "#...."]);
        assert_eq!(remove_small_islands(&mask, 1), (mask.clone(), false));
        let big = art(&["##...", "##...", ".....", "....."]);
        assert_eq!(remove_small_islands(&mask, 2), (big.clone(), true));
        // All too small: the largest stays.
        assert_eq!(remove_small_islands(&mask, 100), (big.clone(), true));
        assert_eq!(remove_small_islands(&big, 100), (big, true));
        assert_eq!(remove_small_islands(&Mask::new(2, 2), 100), (Mask::new(2, 2), false));
    }
}
