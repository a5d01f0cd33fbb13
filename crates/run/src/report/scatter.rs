//! Scatter plots whose points have names.

use std::fmt::Write as _;

use super::axis::{Axis, number};
use super::escape;
use super::plot::{Key, Plot, legend, mark, text_width};

/// Points by two figures, such as methods by cost and quality.
#[derive(Clone, Debug, Default)]
pub struct Scatter {
    /// Stands above the plot.
    pub title: String,
    /// What the horizontal axis measures.
    pub x_label: String,
    /// What the vertical axis measures.
    pub y_label: String,
    /// The points. Those that are not finite are left out.
    pub points: Vec<ScatterPoint>,
    /// A logarithmic horizontal axis, for times and sizes.
    pub log_x: bool,
    /// Which way x and y are better: then a line joins the points that no other beats in both.
    pub better: Option<(Better, Better)>,
}

/// One point of a [`Scatter`].
#[derive(Clone, Debug, Default)]
pub struct ScatterPoint {
    /// Stands beside the point.
    pub label: String,
    /// Points of one group look alike; the groups are named in the legend if there are several.
    pub group: String,
    /// Horizontal.
    pub x: f64,
    /// Vertical.
    pub y: f64,
}

/// Which values of a figure are the better ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Better {
    /// Times, errors, sizes.
    Lower,
    /// Accuracies, speeds.
    Higher,
}

impl Better {
    /// The value with its sign such that more is better.
    fn merit(self, value: f64) -> f64 {
        if self == Self::Higher { value } else { -value }
    }
}

impl Scatter {
    pub(super) fn html(&self) -> String {
        let x = Axis::new(self.points.iter().map(|point| point.x), self.log_x, true);
        let y = Axis::new(self.points.iter().map(|point| point.y), false, true);
        let mut plot = Plot::new(&self.title, x, y, &self.x_label, &self.y_label);
        let shown: Vec<(&ScatterPoint, (f64, f64))> =
            self.points.iter().filter_map(|point| Some((point, plot.place((point.x, point.y))?))).collect();

        if let Some(better) = self.better {
            let points: Vec<_> = shown.iter().map(|(point, _)| (point.x, point.y)).collect();
            let line =
                front(&points, better).into_iter().enumerate().fold(String::new(), |mut line, (i, point)| {
                    let (x, y) = shown[point].1;
                    let _ = write!(line, "{}{x:.1} {y:.1}", if i == 0 { 'M' } else { 'L' });
                    line
                });
            plot.draw(&format!("<path class=\"front\" d=\"{line}\"/>\n"));
        }
        let mut groups: Vec<&str> = Vec::new();
        for (point, _) in &shown {
            if !groups.contains(&point.group.as_str()) {
                groups.push(&point.group);
            }
        }
        // Where the labels may not stand: the points, and the labels placed before.
        let mut taken: Vec<[f64; 4]> =
            shown.iter().map(|(_, (x, y))| [x - 5.0, y - 5.0, x + 5.0, y + 5.0]).collect();
        for (point, place) in &shown {
            let group = groups.iter().position(|group| *group == point.group).unwrap_or(0);
            let text = format!("{}: {} / {}", point.label, number(point.x), number(point.y));
            plot.draw(&mark(group, *place, 4.6, &text));
            if !point.label.is_empty() {
                let spot = free_spot(*place, text_width(&point.label) * 0.9, &taken, plot.area());
                let label = escape(&point.label);
                plot.draw(&format!(
                    "<text class=\"point-label\" x=\"{:.1}\" y=\"{:.1}\">{label}</text>\n",
                    spot[0],
                    spot[3] - 3.0
                ));
                taken.push(spot);
            }
        }
        let keys = groups.iter().enumerate().map(|(series, name)| Key {
            series,
            name,
            value: String::new(),
            line: false,
            mark: true,
        });
        let legend = if groups.len() > 1 { legend(keys) } else { String::new() };
        legend + &plot.finish()
    }
}

/// A place for a label of this width beside a point: of right, left, above, below and the corners between the one
/// that covers least of what is there.
fn free_spot((x, y): (f64, f64), width: f64, taken: &[[f64; 4]], area: [f64; 4]) -> [f64; 4] {
    let height = 13.0;
    let (right, left, middle) = (x + 7.0, x - 7.0 - width, x - width / 2.0);
    let (beside, above, below) = (y - height / 2.0, y - 7.0 - height, y + 7.0);
    let spots = [
        (right, beside),
        (left, beside),
        (middle, above),
        (middle, below),
        (right - 3.0, above + 3.0),
        (right - 3.0, below - 3.0),
        (left + 3.0, above + 3.0),
        (left + 3.0, below - 3.0),
    ];
    let covered = |spot: &[f64; 4]| {
        let outside =
            (area[0] - spot[0]).max(0.0) + (spot[2] - area[2] - 12.0).max(0.0) + (spot[3] - area[3]).max(0.0);
        outside * height + taken.iter().map(|other| overlap(spot, other)).sum::<f64>()
    };
    let spots = spots.map(|(left, top)| [left, top, left + width, top + height]);
    // The first of equals wins.
    spots.into_iter().min_by(|a, b| covered(a).total_cmp(&covered(b))).unwrap_or(spots[0])
}

fn overlap(a: &[f64; 4], b: &[f64; 4]) -> f64 {
    let side = |low: usize, high: usize| (a[high].min(b[high]) - a[low].max(b[low])).max(0.0);
    side(0, 2) * side(1, 3)
}

/// The positions of the points that no other beats, from the best x to the best y.
fn front(points: &[(f64, f64)], (better_x, better_y): (Better, Better)) -> Vec<usize> {
    let merits: Vec<_> = points.iter().map(|(x, y)| (better_x.merit(*x), better_y.merit(*y))).collect();
    let mut order: Vec<usize> = (0..points.len()).collect();
    let descending = |a: f64, b: f64| b.total_cmp(&a);
    order.sort_by(|a, b| descending(merits[*a].0, merits[*b].0).then(descending(merits[*a].1, merits[*b].1)));
    let mut best = f64::NEG_INFINITY;
    order.retain(|i| {
        let beats = merits[*i].1 > best;
        best = best.max(merits[*i].1);
        beats
    });
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_front_is_what_nothing_beats() {
        let points = [(1.0, 0.5), (2.0, 0.4), (2.0, 0.7), (3.0, 0.7), (4.0, 0.9), (1.0, 0.2)];
        assert_eq!(front(&points, (Better::Lower, Better::Higher)), [0, 2, 4]);
        assert_eq!(front(&points, (Better::Higher, Better::Higher)), [4]);
        assert_eq!(front(&points, (Better::Lower, Better::Lower)), [5]);
        assert!(front(&[], (Better::Lower, Better::Lower)).is_empty());
    }

    #[test]
    fn labels_keep_off_each_other() {
        let mut taken = vec![[95.0, 95.0, 105.0, 105.0]];
        for _ in 0..4 {
            let spot = free_spot((100.0, 100.0), 40.0, &taken, [0.0, 0.0, 400.0, 300.0]);
            assert!(
                taken.iter().all(|other| overlap(&spot, other) == 0.0),
                "{spot:?} covers one of {taken:?}"
            );
            taken.push(spot);
        }
        let spot = free_spot((395.0, 100.0), 40.0, &[], [0.0, 0.0, 400.0, 300.0]);
        assert!(spot[2] <= 412.0, "{spot:?} leaves the picture");
    }
}
