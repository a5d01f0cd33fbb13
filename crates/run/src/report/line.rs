//! Line charts.

use std::fmt::Write as _;

use super::axis::{Axis, number};
use super::plot::{Key, Plot, STYLES, dash, legend, mark};

/// How many points of a series are drawn at most; more would not show.
const MOST_POINTS: usize = 500;
/// Up to how many points each has a mark.
const MARKED: usize = 40;

/// Lines over a common horizontal axis.
#[derive(Clone, Debug, Default)]
pub struct LineChart {
    /// Stands above the chart.
    pub title: String,
    /// What the horizontal axis measures.
    pub x_label: String,
    /// What the vertical axis measures.
    pub y_label: String,
    /// The lines. Beyond eight, styles come again.
    pub series: Vec<Series>,
    /// A logarithmic vertical axis; points that are not positive are then left out.
    pub log_y: bool,
    /// Lines of more than 100 points are drawn faint, and over them their running mean.
    pub smooth: bool,
}

/// One line of a chart.
#[derive(Clone, Debug, Default)]
pub struct Series {
    /// Its name in the legend.
    pub name: String,
    /// Its points, from left to right. One that is not finite leaves a gap.
    pub points: Vec<(f64, f64)>,
}

impl LineChart {
    pub(super) fn html(&self) -> String {
        let points = || self.series.iter().flat_map(|series| &series.points);
        let x = Axis::new(points().map(|point| point.0), false, false);
        let y = Axis::new(points().filter(|point| x.shows(point.0)).map(|point| point.1), self.log_y, true);
        let mut plot = Plot::new(&self.title, x, y, &self.x_label, &self.y_label);
        let smoothed = |series: &Series| self.smooth && series.points.len() > 100;
        for (i, series) in self.series.iter().enumerate().filter(|(_, series)| smoothed(series)) {
            let raw = path(&plot, &series.points);
            plot.draw(&format!("<path class=\"raw s{}\" d=\"{raw}\"/>\n", i % STYLES));
        }
        let mut keys = Vec::with_capacity(self.series.len());
        for (i, series) in self.series.iter().enumerate() {
            let points = if smoothed(series) {
                &running_mean(&series.points, series.points.len() / 40)
            } else {
                &series.points
            };
            let line = path(&plot, points);
            plot.draw(&format!("<path class=\"line s{}\"{} d=\"{line}\"/>\n", i % STYLES, dash(i)));
            let marked = series.points.len() <= MARKED;
            for point in series.points.iter().filter(|_| marked) {
                if let Some(place) = plot.place(*point) {
                    let text = format!("{}: {} at {}", series.name, number(point.1), number(point.0));
                    plot.draw(&mark(i, place, 3.4, &text));
                }
            }
            let value = points.last().map_or(String::new(), |point| number(point.1));
            keys.push(Key { series: i, name: &series.name, value, line: true, mark: marked });
        }
        legend(keys.into_iter()) + &plot.finish()
    }
}

/// The line as the `d` of a path: runs of points with gaps between them. A point alone becomes a dot, as a line of no
/// length with round ends is one.
fn path(plot: &Plot, points: &[(f64, f64)]) -> String {
    let mut path = String::new();
    let mut begun = false;
    for point in thinned(points, |point| plot.place(point).is_some()) {
        let Some((x, y)) = plot.place(point) else {
            begun = false;
            continue;
        };
        let _ = if begun { write!(path, "L{x:.1} {y:.1}") } else { write!(path, "M{x:.1} {y:.1}h0") };
        begun = true;
    }
    path
}

/// At most about [`MOST_POINTS`] points. Of each stretch the first, the last, the lowest and the highest stay, and one
/// point that is no point, if there is one: peaks and gaps are still seen.
fn thinned(points: &[(f64, f64)], shows: impl Fn((f64, f64)) -> bool) -> Vec<(f64, f64)> {
    if points.len() <= MOST_POINTS {
        return points.to_vec();
    }
    let mut kept = Vec::with_capacity(MOST_POINTS + 5);
    for stretch in points.chunks(points.len().div_ceil(MOST_POINTS / 5)) {
        let indices = || 0..stretch.len();
        let shown = || indices().filter(|i| shows(stretch[*i]));
        let by_height = |a: &usize, b: &usize| stretch[*a].1.total_cmp(&stretch[*b].1);
        let wanted = [
            shown().next(),
            shown().next_back(),
            shown().min_by(by_height),
            shown().max_by(by_height),
            indices().find(|i| !shows(stretch[*i])),
        ];
        let mut wanted: Vec<usize> = wanted.into_iter().flatten().collect();
        wanted.sort_unstable();
        wanted.dedup();
        kept.extend(wanted.into_iter().map(|i| stretch[i]));
    }
    kept
}

/// The mean of each point and up to `reach` neighbours on either side. Gaps stay gaps.
fn running_mean(points: &[(f64, f64)], reach: usize) -> Vec<(f64, f64)> {
    let mean = |i: usize| {
        let near = &points[i.saturating_sub(reach)..points.len().min(i + reach + 1)];
        let finite = near.iter().map(|point| point.1).filter(|y| y.is_finite());
        let (sum, count) = finite.fold((0.0, 0.0), |(sum, count), y| (sum + y, count + 1.0));
        if points[i].1.is_finite() { sum / count } else { f64::NAN }
    };
    (0..points.len()).map(|i| (points[i].0, mean(i))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thinning_keeps_peaks_and_gaps() {
        let mut points: Vec<_> = (0..100_000).map(|i| (f64::from(i), f64::from(i % 97))).collect();
        points[54_321].1 = 1e6;
        points[7_777].1 = -1e6;
        points[33_333].1 = f64::NAN;
        let thin = thinned(&points, |point| point.1.is_finite());
        assert!((300..=MOST_POINTS).contains(&thin.len()), "{}", thin.len());
        for kept in [0, 54_321, 7_777, 99_999] {
            assert!(thin.contains(&points[kept]), "point {kept} is lost");
        }
        assert_eq!(thin.iter().filter(|point| point.1.is_nan()).count(), 1);
        assert!(thin.is_sorted_by(|a, b| a.0 < b.0));

        let none: Vec<_> = (0..5000).map(|i| (f64::from(i), f64::NAN)).collect();
        assert!(thinned(&none, |point| point.1.is_finite()).len() <= MOST_POINTS);
    }

    #[test]
    fn the_running_mean_keeps_straight_lines_straight() {
        let points: Vec<_> = (0..50).map(|i| (f64::from(i), 3.0 * f64::from(i))).collect();
        let mean = running_mean(&points, 7);
        for i in 7..43 {
            assert!((mean[i].1 - points[i].1).abs() < 1e-9);
        }
        assert_eq!((mean[0].1, mean[49].1), (10.5, 136.5), "half a window at the ends");
        let gap = running_mean(&[(0.0, 1.0), (1.0, f64::NAN), (2.0, 3.0)], 1);
        assert!(gap[1].1.is_nan() && gap[0].1 == 1.0 && gap[2].1 == 3.0);
    }

    #[test]
    fn gaps_break_the_line() {
        let points =
            vec![(0.0, 1.0), (1.0, 2.0), (2.0, f64::NAN), (3.0, f64::INFINITY), (4.0, 1.5), (5.0, 0.0)];
        let chart = |log_y| {
            let series = vec![Series { name: "loss".to_owned(), points: points.clone() }];
            LineChart { series, log_y, ..LineChart::default() }.html()
        };
        let line =
            |html: &str| html.lines().rfind(|line| line.contains("class=\"line s0\" d")).unwrap().to_owned();
        assert_eq!(line(&chart(false)).matches('M').count(), 2, "{}", chart(false));
        assert_eq!(line(&chart(false)).matches('L').count(), 2);
        assert_eq!(line(&chart(true)).matches('L').count(), 1, "zero has no logarithm");
        for text in ["NaN", "inf"] {
            assert!(!chart(false).contains(text) && !chart(true).contains(text));
        }
    }
}
