//! Self-contained HTML pages: text, tables, charts and pictures in one file that opens anywhere, without a network.
//!
//! Pages follow the reader's choice of light or dark and fit a phone. No script runs in them, and all text is escaped.

mod axis;
mod bars;
mod hover_map;
mod line;
mod matrix;
mod picture_map;
mod plot;
mod scatter;
mod training;

use std::fmt::Write as _;
use std::io::Cursor;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use image::RgbImage;
use image::codecs::jpeg::JpegEncoder;
use kirie_data::write_atomic;
use serde::Serialize;

pub use bars::{BarSeries, Bars};
pub use hover_map::HoverMap;
pub use line::{LineChart, Series};
pub use matrix::Matrix;
pub use picture_map::{MapPoint, PictureMap};
pub use scatter::{Better, Scatter, ScatterPoint};
pub use training::{training_page, training_report};

use crate::RunError;

const STYLE: &str = include_str!("style.css");
/// The longest side of a picture in a page, pixels: larger ones are shrunk.
const PICTURE_SIDE: u32 = 1024;

/// A picture for a page.
pub struct Picture<'a> {
    /// Stands below it.
    pub caption: &'a str,
    /// The picture. More than 1024 pixels a side are shrunk.
    pub image: &'a RgbImage,
}

/// A page that grows from top to bottom.
#[derive(Clone, Debug)]
pub struct Page {
    title: String,
    blocks: Vec<Block>,
}

#[derive(Clone, Debug)]
enum Block {
    /// Takes the whole width.
    Wide(String),
    /// Stands beside other figures where there is room.
    Figure(String),
}

impl Page {
    /// An empty page with its title.
    pub fn new(title: &str) -> Self {
        Self { title: title.to_owned(), blocks: Vec::new() }
    }

    /// A heading.
    pub fn heading(&mut self, text: &str) -> &mut Self {
        self.wide(format!("<h2>{}</h2>", escape(text)))
    }

    /// A paragraph of plain text.
    pub fn paragraph(&mut self, text: &str) -> &mut Self {
        self.wide(format!("<p>{}</p>", escape(text)))
    }

    /// Names and their values, one a line.
    pub fn key_values(&mut self, entries: &[(impl AsRef<str>, impl AsRef<str>)]) -> &mut Self {
        let mut html = "<dl>\n".to_owned();
        for (key, value) in entries {
            let _ = writeln!(html, "<dt>{}</dt><dd>{}</dd>", escape(key.as_ref()), escape(value.as_ref()));
        }
        self.wide(html + "</dl>")
    }

    /// A table. Columns of numbers are aligned to the right.
    pub fn table(&mut self, headers: &[impl AsRef<str>], rows: &[Vec<impl AsRef<str>>]) -> &mut Self {
        let numeric = |column: usize| {
            let mut cells = rows.iter().filter_map(|row| row.get(column)).peekable();
            cells.peek().is_some() && cells.all(|cell| is_figure(cell.as_ref()))
        };
        let numeric: Vec<bool> = (0..headers.len()).map(numeric).collect();
        let class = |column: usize| if numeric.get(column) == Some(&true) { " class=\"number\"" } else { "" };
        let mut html = "<div class=\"scroll\"><table class=\"list\"><thead><tr>".to_owned();
        for (i, header) in headers.iter().enumerate() {
            let _ = write!(html, "<th{}>{}</th>", class(i), escape(header.as_ref()));
        }
        html += "</tr></thead><tbody>\n";
        for row in rows {
            html += "<tr>";
            for (i, cell) in row.iter().enumerate() {
                let _ = write!(html, "<td{}>{}</td>", class(i), escape(cell.as_ref()));
            }
            html += "</tr>\n";
        }
        self.wide(html + "</tbody></table></div>")
    }

    /// Lines over a common axis, such as losses over steps.
    pub fn line_chart(&mut self, chart: &LineChart) -> &mut Self {
        self.figure("", &chart.title, &chart.html())
    }

    /// Points with names, such as methods by cost and quality.
    pub fn scatter(&mut self, scatter: &Scatter) -> &mut Self {
        self.figure("", &scatter.title, &scatter.html())
    }

    /// Horizontal bars.
    pub fn bars(&mut self, bars: &Bars) -> &mut Self {
        self.figure("", &bars.title, &bars.html())
    }

    /// Many points, some of which are pictures.
    pub fn picture_map(&mut self, map: &PictureMap<'_>) -> &mut Self {
        self.figure("wide", &map.title, &map.html())
    }

    /// Many points that show their pictures under the pointer.
    pub fn hover_map(&mut self, map: &HoverMap<'_>) -> &mut Self {
        self.figure("wide", &map.title, &map.html())
    }

    /// A heat map with the figures in its cells.
    pub fn matrix(&mut self, matrix: &Matrix) -> &mut Self {
        self.figure("wide", &matrix.title, &matrix.html())
    }

    /// Pictures side by side.
    pub fn pictures(&mut self, pictures: &[Picture<'_>]) -> &mut Self {
        let mut html = "<div class=\"pictures\">\n".to_owned();
        for picture in pictures {
            let caption = escape(picture.caption);
            html += "<figure>";
            match jpeg(picture.image) {
                Some(bytes) => {
                    let data = BASE64.encode(bytes);
                    let _ = write!(html, "<img src=\"data:image/jpeg;base64,{data}\" alt=\"{caption}\">");
                }
                None => html += "(a picture without pixels)",
            }
            let _ = writeln!(html, "<figcaption>{caption}</figcaption></figure>");
        }
        self.wide(html + "</div>")
    }

    /// Figures for programs, not shown: the JSON stands in a `script` element of type `application/json` with this
    /// `id` (letters, digits, `-` and `_`; anything else becomes `_`).
    ///
    /// # Errors
    /// [`RunError::NoTextForm`] if the value has no JSON form.
    pub fn raw_json(&mut self, id: &str, value: &impl Serialize) -> Result<&mut Self, RunError> {
        let json = serde_json::to_string(value)
            .map_err(|error| RunError::NoTextForm { what: "a page's data", reason: error.to_string() })?;
        // In JSON these occur in strings only, where they may be written so; then nothing in it can end the element.
        let json = json.replace('<', "\\u003c").replace('>', "\\u003e").replace('&', "\\u0026");
        let id = id.replace(|c: char| !(c.is_ascii_alphanumeric() || c == '-' || c == '_'), "_");
        Ok(self.wide(format!("<script type=\"application/json\" id=\"{id}\">{json}</script>")))
    }

    /// The page as HTML.
    pub fn html(&self) -> String {
        let title = escape(&self.title);
        let mut html = format!(
            "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
             <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; img-src data:; \
             style-src 'unsafe-inline'\">\n<title>{title}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n\
             <h1>{title}</h1>\n"
        );
        let mut among_figures = false;
        for block in &self.blocks {
            let (is_figure, text) = match block {
                Block::Wide(text) => (false, text),
                Block::Figure(text) => (true, text),
            };
            if is_figure != among_figures {
                html += if is_figure { "<div class=\"figures\">\n" } else { "</div>\n" };
                among_figures = is_figure;
            }
            html += text;
            html.push('\n');
        }
        if among_figures {
            html += "</div>\n";
        }
        html + "</main>\n</body>\n</html>\n"
    }

    /// Writes the page, whole or not at all.
    ///
    /// # Errors
    /// As [`write_atomic`].
    pub fn write(&self, path: impl AsRef<Path>) -> Result<(), RunError> {
        Ok(write_atomic(path, |w| w.write_all(self.html().as_bytes()))?)
    }

    fn wide(&mut self, html: String) -> &mut Self {
        self.blocks.push(Block::Wide(html));
        self
    }

    fn figure(&mut self, class: &str, title: &str, content: &str) -> &mut Self {
        let html = format!(
            "<figure class=\"{class}\"><figcaption>{}</figcaption>\n{content}</figure>",
            escape(title)
        );
        self.blocks.push(Block::Figure(html));
        self
    }
}

/// Text that stands for itself, between tags and in quoted attributes alike.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped += "&amp;",
            '<' => escaped += "&lt;",
            '>' => escaped += "&gt;",
            '"' => escaped += "&quot;",
            '\'' => escaped += "&#39;",
            '\n' | '\t' => escaped.push(c),
            '\r' => escaped.push(' '),
            // Not allowed in a page, however written.
            _ if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => escaped.push('\u{fffd}'),
            _ => escaped.push(c),
        }
    }
    escaped
}

/// Whether a cell looks like a number, perhaps with a unit or a spread after it; an empty one or a dash may be missing.
fn is_figure(cell: &str) -> bool {
    let cell = cell.trim();
    let first = cell.split(['±', '%', ' ']).next().unwrap_or_default().replace(',', "");
    matches!(cell, "" | "-" | "–") || (first.parse::<f64>().is_ok() && !first.ends_with(char::is_alphabetic))
}

/// Nothing for a picture without pixels.
fn jpeg(image: &RgbImage) -> Option<Vec<u8>> {
    let longest = image.width().max(image.height());
    let shrunk = (longest > PICTURE_SIDE).then(|| {
        let to = |side: u32| (u64::from(side) * u64::from(PICTURE_SIDE) / u64::from(longest)).max(1) as u32;
        image::imageops::thumbnail(image, to(image.width()), to(image.height()))
    });
    let mut bytes = Cursor::new(Vec::new());
    let encoder = JpegEncoder::new_with_quality(&mut bytes, 88);
    shrunk.as_ref().unwrap_or(image).write_with_encoder(encoder).ok()?;
    (longest > 0).then(|| bytes.into_inner())
}

#[cfg(test)]
mod tests;
