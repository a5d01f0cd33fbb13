//! Points where a map is highest.
//!
//! A place is a peak if no value within `kernel / 2` of it is higher. Of the peaks, highest first, those too near to one kept before
//! are left out, and those below the threshold. The paper's algorithm and its published code differ in three things:
//!
//! | | paper (Algorithm 1) | code (`peak_points_extraction.py`) |
//! | --- | --- | --- |
//! | peaks looked at | all | the highest 25 |
//! | too near | Euclidean distance of `k / 2` or less | `abs(dx) + abs(dy) < (k - 1) / 2` |
//! | compared with | peaks at or above the threshold | all peaks |

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

/// Peaks that the code looks at.
const HIGHEST: usize = 25;

/// Which of the two rules.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PeakRule {
    /// The published code's.
    #[default]
    Code,
    /// The paper's.
    Paper,
}

/// What makes a peak.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PeakOptions {
    /// Side of the window in which it is the highest, pixels of the map, odd.
    pub kernel: usize,
    /// Least value.
    pub threshold: f32,
}

/// A peak.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Peak {
    /// Column.
    pub x: usize,
    /// Row.
    pub y: usize,
    /// Value of the map.
    pub value: f32,
}

/// The peaks of a map of `width` columns, the highest first; of equals the upper one, then the left one, comes first.
pub fn peaks(map: &[f32], width: usize, options: &PeakOptions, rule: PeakRule) -> Vec<Peak> {
    if width == 0 {
        return Vec::new();
    }
    let highest = max_filter(map, width, options.kernel);
    let mut candidates: Vec<Peak> = map
        .iter()
        .zip(&highest)
        .enumerate()
        .filter(|(_, (value, highest))| value == highest)
        .map(|(at, (value, _))| Peak { x: at % width, y: at / width, value: *value })
        .collect();
    candidates.sort_by(|a, b| b.value.total_cmp(&a.value));
    match rule {
        // Flat ground of zero is a peak too, of no height: the original multiplies the map by the peaks.
        PeakRule::Code => candidates.truncate(HIGHEST),
        PeakRule::Paper => candidates.retain(|peak| peak.value >= options.threshold),
    }
    let near = |a: &Peak, b: &Peak| {
        let (dx, dy) = (a.x.abs_diff(b.x), a.y.abs_diff(b.y));
        match rule {
            PeakRule::Code => dx + dy < (options.kernel - 1) / 2,
            PeakRule::Paper => 4 * (dx * dx + dy * dy) <= options.kernel * options.kernel,
        }
    };
    let mut kept: Vec<Peak> = Vec::new();
    for peak in candidates {
        if !kept.iter().any(|other| near(other, &peak)) {
            kept.push(peak);
        }
    }
    kept.retain(|peak| peak.value >= options.threshold);
    kept
}

/// The highest value within `kernel / 2` of every place, along columns and rows.
fn max_filter(map: &[f32], width: usize, kernel: usize) -> Vec<f32> {
    let height = map.len() / width;
    let reach = kernel / 2;
    let mut rows = Vec::with_capacity(map.len());
    for row in map.chunks_exact(width) {
        rows.extend(max_of_line(row.iter().copied(), width, reach));
    }
    let mut out = vec![0.0; rows.len()];
    for x in 0..width {
        let column = rows.iter().skip(x).step_by(width).copied();
        for (y, value) in max_of_line(column, height, reach).into_iter().enumerate() {
            out[y * width + x] = value;
        }
    }
    out
}

/// The same along a line, in time that does not grow with the kernel: the queue holds falling values that can still win.
fn max_of_line(line: impl Iterator<Item = f32>, length: usize, reach: usize) -> Vec<f32> {
    let mut queue: VecDeque<(usize, f32)> = VecDeque::new();
    let mut out = Vec::with_capacity(length);
    let mut give = |queue: &mut VecDeque<(usize, f32)>, at: usize| {
        while queue.front().is_some_and(|(place, _)| place + reach < at) {
            queue.pop_front();
        }
        out.push(queue.front().map_or(f32::NEG_INFINITY, |(_, value)| *value));
    };
    for (at, value) in line.enumerate() {
        while queue.back().is_some_and(|(_, last)| *last <= value) {
            queue.pop_back();
        }
        queue.push_back((at, value));
        if at >= reach {
            give(&mut queue, at - reach);
        }
    }
    for at in length.saturating_sub(reach)..length {
        give(&mut queue, at);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A map of zeros with some values.
    fn map(width: usize, height: usize, values: &[(usize, usize, f32)]) -> Vec<f32> {
        let mut map = vec![0.0; width * height];
        for (x, y, value) in values {
            map[y * width + x] = *value;
        }
        map
    }

    fn places(peaks: &[Peak]) -> Vec<(usize, usize)> {
        peaks.iter().map(|peak| (peak.x, peak.y)).collect()
    }

    #[test]
    fn the_filter_is_the_plain_maximum() {
        let (width, height) = (7, 5);
        let map: Vec<f32> = (0..35).map(|i| ((i * 37 + 11) % 23) as f32).collect();
        for kernel in [1, 3, 5, 9, 21] {
            let reach = kernel / 2;
            let filtered = max_filter(&map, width, kernel);
            for y in 0..height {
                for x in 0..width {
                    let near = |a: usize, b: usize| a.abs_diff(b) <= reach;
                    let all = (0..35).filter(|i| near(i % width, x) && near(i / width, y)).map(|i| map[i]);
                    assert_eq!(filtered[y * width + x], all.fold(f32::MIN, f32::max), "{kernel} {x} {y}");
                }
            }
        }
    }

    #[test]
    fn the_highest_come_first_and_low_ones_do_not_come() {
        let map = map(40, 20, &[(5, 5, 0.95), (30, 5, 1.0), (18, 15, 0.89)]);
        let options = PeakOptions { kernel: 5, threshold: 0.9 };
        for rule in [PeakRule::Code, PeakRule::Paper] {
            assert_eq!(places(&peaks(&map, 40, &options, rule)), [(30, 5), (5, 5)]);
        }
    }

    #[test]
    fn the_rules_measure_distance_differently() {
        // Two peaks of the same height, 6 columns and 6 rows apart, the window 11: each is the highest within 5.
        let options = PeakOptions { kernel: 11, threshold: 0.9 };
        let apart = map(40, 40, &[(10, 10, 1.0), (16, 16, 1.0)]);
        assert_eq!(peaks(&apart, 40, &options, PeakRule::Code).len(), 2);
        assert_eq!(peaks(&apart, 40, &options, PeakRule::Paper).len(), 2);
        // Equal values inside one window are peaks both. |dx| + |dy| = 5 is not below (11 - 1) / 2; the distance, 5, is not above 5.5.
        let flat = map(40, 40, &[(10, 10, 1.0), (15, 10, 1.0)]);
        assert_eq!(peaks(&flat, 40, &options, PeakRule::Code).len(), 2);
        assert_eq!(peaks(&flat, 40, &options, PeakRule::Paper).len(), 1);
        // 3 + 4 is not below 5; the distance is 5 again.
        let slanted = map(40, 40, &[(10, 10, 1.0), (13, 14, 1.0)]);
        assert_eq!(peaks(&slanted, 40, &options, PeakRule::Code).len(), 2);
        assert_eq!(peaks(&slanted, 40, &options, PeakRule::Paper).len(), 1);
    }

    #[test]
    fn the_code_looks_at_25_peaks() {
        let values: Vec<(usize, usize, f32)> =
            (0..30).map(|i| (5 + 10 * (i % 6), 5 + 10 * (i / 6), 1.0)).collect();
        let map = map(70, 60, &values);
        let options = PeakOptions { kernel: 5, threshold: 0.9 };
        assert_eq!(peaks(&map, 70, &options, PeakRule::Code).len(), 25);
        assert_eq!(peaks(&map, 70, &options, PeakRule::Paper).len(), 30);
        assert!(peaks(&[], 0, &options, PeakRule::Code).is_empty());
    }
}
