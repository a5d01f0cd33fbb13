//! Heat maps.

use std::fmt::Write as _;

use super::escape;

/// A heat map with the figures in its cells, such as a confusion matrix.
#[derive(Clone, Debug, Default)]
pub struct Matrix {
    /// Stands above the map.
    pub title: String,
    /// What the rows are; may be empty.
    pub row_label: String,
    /// What the columns are; may be empty.
    pub column_label: String,
    /// The name of each row.
    pub rows: Vec<String>,
    /// The name of each column.
    pub columns: Vec<String>,
    /// The figures, a list for each row. One that is missing or not finite leaves its cell empty.
    pub values: Vec<Vec<f64>>,
    /// Digits behind the point.
    pub decimals: usize,
    /// The values of the lightest and the strongest colour; from the figures if not told.
    pub range: Option<(f64, f64)>,
}

impl Matrix {
    pub(super) fn html(&self) -> String {
        let finite = self.values.iter().flatten().copied().filter(|value| value.is_finite());
        let (low, high) = self.range.unwrap_or_else(|| {
            finite.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| {
                (low.min(value), high.max(value))
            })
        });
        // Halved first, so that the difference of the largest numbers does not overflow.
        let share = |value: f64| {
            let share = (value / 2.0 - low / 2.0) / (high / 2.0 - low / 2.0);
            if share.is_finite() { share.clamp(0.0, 1.0) } else { 0.0 }
        };
        let mut html = "<div class=\"scroll\"><table class=\"heat\">\n<thead>".to_owned();
        if !self.column_label.is_empty() {
            let (span, label) = (self.columns.len().max(1), escape(&self.column_label));
            let _ = writeln!(html, "<tr><td class=\"none\"></td><th colspan=\"{span}\">{label}</th></tr>");
        }
        let _ = write!(html, "<tr><th>{}</th>", escape(&self.row_label));
        for column in &self.columns {
            let _ = write!(html, "<th scope=\"col\">{}</th>", escape(column));
        }
        html += "</tr></thead>\n<tbody>\n";
        for (i, row) in self.rows.iter().enumerate() {
            let _ = write!(html, "<tr><th scope=\"row\">{}</th>", escape(row));
            for j in 0..self.columns.len() {
                let value = self.values.get(i).and_then(|row| row.get(j)).copied().unwrap_or(f64::NAN);
                if value.is_finite() {
                    let share = share(value);
                    // Where either colour of text can be read about as well, in light and in dark.
                    let class = if share > 0.68 { " class=\"strong\"" } else { "" };
                    let _ =
                        write!(html, "<td{class} style=\"--v:{share:.3}\">{value:.*}</td>", self.decimals);
                } else {
                    html += "<td class=\"none\"></td>";
                }
            }
            html += "</tr>\n";
        }
        html + "</tbody></table></div>\n"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_are_coloured_by_their_figures() {
        let names = || ["a", "b"].map(str::to_owned).to_vec();
        let values = vec![vec![0.5, 1.0], vec![0.75]];
        let matrix = Matrix { rows: names(), columns: names(), values, decimals: 2, ..Matrix::default() };
        let html = matrix.html();
        assert!(
            html.contains(
                "<td style=\"--v:0.000\">0.50</td><td class=\"strong\" style=\"--v:1.000\">1.00</td>"
            )
        );
        assert!(html.contains("<td style=\"--v:0.500\">0.75</td><td class=\"none\"></td>"), "{html}");
        let html = Matrix { range: Some((0.0, 1.0)), ..matrix.clone() }.html();
        assert!(html.contains("--v:0.500\">0.50"), "{html}");
        let same = Matrix { values: vec![vec![3.0, 3.0]], ..matrix };
        assert!(same.html().contains("--v:0.000\">3.00"), "no range to divide by");
    }
}
