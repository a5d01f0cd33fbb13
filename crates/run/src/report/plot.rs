//! What line charts and scatter plots share: the frame with its axes, marks, and the keys of a legend.

use std::fmt::Write as _;

use super::axis::Axis;
use super::escape;

const WIDTH: f64 = 480.0;
const HEIGHT: f64 = 290.0;

/// How many series are told apart. Each has a colour, a dash pattern and a mark of its own, so that colour is never
/// the only difference.
pub(super) const STYLES: usize = 8;
const DASHES: [&str; STYLES] = ["", "7 4", "1.5 4", "9 4 1.5 4", "4 3", "12 4", "9 3 1.5 3 1.5 3", "3 6"];

/// A plot that is being drawn.
pub(super) struct Plot {
    pub(super) x: Axis,
    pub(super) y: Axis,
    left: f64,
    svg: String,
}

const TOP: f64 = 26.0;
const BOTTOM: f64 = HEIGHT - 40.0;
pub(super) const RIGHT: f64 = WIDTH - 14.0;

impl Plot {
    /// Draws axes, grid and labels.
    pub(super) fn new(title: &str, x: Axis, y: Axis, x_label: &str, y_label: &str) -> Self {
        let widest = y.ticks.iter().map(|(_, text)| text_width(text)).fold(0.0, f64::max);
        let title = escape(title);
        let svg = format!("<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{title}\">\n");
        let mut plot = Self { x, y, left: widest + 12.0, svg };
        plot.axes(x_label, y_label);
        plot
    }

    fn axes(&mut self, x_label: &str, y_label: &str) {
        let (left, svg) = (self.left, &mut self.svg);
        let y_ticks =
            self.y.ticks.iter().map(|(value, text)| (BOTTOM + (TOP - BOTTOM) * self.y.at(*value), text));
        for (y, text) in y_ticks {
            let _ = write!(svg, "<path class=\"grid\" d=\"M{left:.1} {y:.1}H{RIGHT}\"/>");
            let _ = writeln!(
                svg,
                "<text class=\"end\" x=\"{:.1}\" y=\"{:.1}\">{text}</text>",
                left - 6.0,
                y + 4.0
            );
        }
        let mut free_from = f64::NEG_INFINITY;
        for (value, text) in &self.x.ticks {
            let x = left + (RIGHT - left) * self.x.at(*value);
            let _ = write!(svg, "<path class=\"axis\" d=\"M{x:.1} {BOTTOM}v4\"/>");
            let half = text_width(text) / 2.0;
            // Long numbers would run into each other, and the last out of the picture.
            let middle = x.min(WIDTH - half - 1.0);
            if middle - half >= free_from {
                let _ = writeln!(
                    svg,
                    "<text class=\"middle\" x=\"{middle:.1}\" y=\"{}\">{text}</text>",
                    BOTTOM + 17.0
                );
                free_from = middle + half + 6.0;
            }
        }
        let _ = writeln!(svg, "<path class=\"axis\" d=\"M{left:.1} {BOTTOM}H{RIGHT}\"/>");
        let _ = writeln!(
            svg,
            "<text class=\"end\" x=\"{RIGHT}\" y=\"{}\">{}</text>",
            HEIGHT - 6.0,
            escape(x_label)
        );
        let _ = writeln!(svg, "<text x=\"2\" y=\"13\">{}</text>", escape(y_label));
    }

    /// Where a point stands in the picture; nothing if an axis has no place for it.
    pub(super) fn place(&self, (x, y): (f64, f64)) -> Option<(f64, f64)> {
        (self.x.shows(x) && self.y.shows(y)).then(|| {
            let at_x = self.left + (RIGHT - self.left) * self.x.at(x);
            (at_x, BOTTOM + (TOP - BOTTOM) * self.y.at(y))
        })
    }

    /// Adds drawn parts.
    pub(super) fn draw(&mut self, svg: &str) {
        self.svg += svg;
    }

    /// The left, top, right and bottom of the area between the axes.
    pub(super) fn area(&self) -> [f64; 4] {
        [self.left, TOP, RIGHT, BOTTOM]
    }

    /// The drawing.
    pub(super) fn finish(self) -> String {
        self.svg + "</svg>\n"
    }
}

/// About how wide a text of 12 pixels height is; the reader's font is not known.
pub(super) fn text_width(text: &str) -> f64 {
    text.chars().map(|c| if c.is_ascii() { 6.9 } else { 9.0 }).sum()
}

/// The dash pattern of a series, as an attribute.
pub(super) fn dash(series: usize) -> String {
    match DASHES[series % STYLES] {
        "" => String::new(),
        pattern => format!(" stroke-dasharray=\"{pattern}\""),
    }
}

/// The mark of a series: a shape of its own, with a text that shows under the pointer.
pub(super) fn mark(series: usize, (x, y): (f64, f64), size: f64, text: &str) -> String {
    let style = series % STYLES;
    let s = size;
    // Drawn from the middle, so that one path fits all places.
    let shape = match style {
        0 => format!("m-{s} 0a{s} {s} 0 1 0 {0} 0a{s} {s} 0 1 0 -{0} 0z", 2.0 * s),
        1 => format!("m-{s} -{s}h{0}v{0}h-{0}z", 2.0 * s),
        2 => format!("m0 -{0}l{0} {1}h-{2}z", 1.25 * s, 2.1 * s, 2.5 * s),
        3 => format!("m0 -{0}l{0} {0}l-{0} {0}l-{0} -{0}z", 1.35 * s),
        4 => format!("m0 {0}l{0} -{1}h-{2}z", 1.25 * s, 2.1 * s, 2.5 * s),
        5 => format!(
            "m-{0} -{1}h{2}v{2}h{2}v{2}h-{2}v{2}h-{2}v-{2}h-{2}v-{2}h{2}z",
            0.45 * s,
            1.35 * s,
            0.9 * s
        ),
        6 => format!("m-{s} -{0}h{1}v{s}h-{1}z", s / 2.0, 2.0 * s),
        _ => format!("m-{0} -{s}h{s}v{1}h-{s}z", s / 2.0, 2.0 * s),
    };
    let title = if text.is_empty() { String::new() } else { format!("<title>{}</title>", escape(text)) };
    format!("<path class=\"mark s{style}\" d=\"M{x:.1} {y:.1}{shape}\">{title}</path>\n")
}

/// What a legend says of a series.
pub(super) struct Key<'a> {
    pub(super) series: usize,
    pub(super) name: &'a str,
    /// A figure behind the name; may be empty.
    pub(super) value: String,
    pub(super) line: bool,
    pub(super) mark: bool,
}

pub(super) fn legend<'a>(keys: impl Iterator<Item = Key<'a>>) -> String {
    let mut html = "<ul class=\"legend\">".to_owned();
    for key in keys {
        html += "<li><svg viewBox=\"0 0 28 12\" aria-hidden=\"true\">";
        if key.line {
            let _ = write!(
                html,
                "<path class=\"line s{}\"{} d=\"M1 6H27\"/>",
                key.series % STYLES,
                dash(key.series)
            );
        }
        if key.mark {
            html += mark(key.series, (14.0, 6.0), 3.6, "").trim_end();
        }
        let _ = write!(html, "</svg>{}", escape(key.name));
        if !key.value.is_empty() {
            let _ = write!(html, "<small>{}</small>", escape(&key.value));
        }
        html += "</li>\n";
    }
    html + "</ul>\n"
}
