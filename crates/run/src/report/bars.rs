//! Bar charts.

use std::fmt::Write as _;

use super::axis::number;
use super::escape;
use super::plot::{Key, STYLES, legend};

/// Horizontal bars, such as the quality of each class. They are drawn from zero, to either side.
#[derive(Clone, Debug, Default)]
pub struct Bars {
    /// Stands above the chart.
    pub title: String,
    /// The name of each row.
    pub labels: Vec<String>,
    /// One bar a row for each series.
    pub series: Vec<BarSeries>,
    /// The value that a bar of full length stands for, such as 1 for a share; the largest value if not told.
    pub full: Option<f64>,
}

/// One bar for each row of [`Bars`].
#[derive(Clone, Debug, Default)]
pub struct BarSeries {
    /// Its name in the legend, shown if there are several.
    pub name: String,
    /// One value a row; one that is missing or not finite gets a dash.
    pub values: Vec<f64>,
}

impl Bars {
    pub(super) fn html(&self) -> String {
        let values = self.series.iter().flat_map(|series| &series.values);
        let values = values.chain(&self.full).filter(|value| value.is_finite());
        let (low, high) =
            values.fold((0.0_f64, 0.0_f64), |(low, high), value| (low.min(*value), high.max(*value)));
        // Scaled down first: the difference of the largest numbers would overflow.
        let scale = low.abs().max(high);
        let span = if scale > 0.0 { high / scale - low / scale } else { 1.0 };
        let percent =
            |value: f64| if scale > 0.0 { (value / scale - low / scale) / span * 100.0 } else { 0.0 };

        let mut html = String::new();
        if self.series.len() > 1 {
            let keys = self.series.iter().enumerate();
            html += &legend(keys.map(|(series, content)| Key {
                series,
                name: &content.name,
                value: String::new(),
                line: false,
                mark: true,
            }));
        }
        let _ = writeln!(html, "<div class=\"bars\" style=\"--zero:{:.2}%\">", percent(0.0));
        for (row, label) in self.labels.iter().enumerate() {
            let _ = write!(html, "<div class=\"name\">{}</div>", escape(label));
            for (i, series) in self.series.iter().enumerate() {
                let value = series.values.get(row).copied().unwrap_or(f64::NAN);
                html += "<div class=\"track\">";
                if value.is_finite() {
                    let (from, to) = (percent(value.min(0.0)), percent(value.max(0.0)));
                    let style = i % STYLES;
                    let width = to - from;
                    let _ = write!(
                        html,
                        "<div class=\"fill s{style}\" style=\"left:{from:.2}%;width:{width:.2}%\"></div>"
                    );
                }
                let _ = writeln!(html, "</div><div class=\"value\">{}</div>", number(value));
            }
        }
        html + "</div>\n"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_stand_on_zero() {
        let series = BarSeries { name: String::new(), values: vec![0.5, -1.0, f64::NAN] };
        let labels = ["a", "b", "c", "d"].map(str::to_owned).to_vec();
        let html = Bars { labels, series: vec![series], full: Some(1.0), ..Bars::default() }.html();
        assert!(html.contains("--zero:50.00%"), "{html}");
        assert!(
            html.contains("left:50.00%;width:25.00%") && html.contains("left:0.00%;width:50.00%"),
            "{html}"
        );
        assert_eq!(html.matches('–').count(), 2, "NaN, and a value that is missing: {html}");
        let none = Bars {
            labels: vec!["a".to_owned()],
            series: vec![BarSeries { name: String::new(), values: vec![0.0] }],
            ..Bars::default()
        };
        assert!(none.html().contains("width:0.00%"));
    }
}
