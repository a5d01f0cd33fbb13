//! Maps of many points that show their pictures under the pointer.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use image::imageops::thumbnail;

use super::picture_map::MapPoint;
use super::plot::STYLES;
use super::{escape, jpeg};

/// The longer side that a picture is shrunk to, pixels.
const PIXELS: u32 = 72;
/// Room around the outermost points, percent of the map.
const ROOM: f64 = 2.0;

/// Points by two figures in the colours of their groups. Under the pointer, or the focus of the keyboard, a point shows its picture, name
/// and group; nothing runs for it, style sheets do it.
#[derive(Clone, Debug, Default)]
pub struct HoverMap<'a> {
    /// Stands above the map.
    pub title: String,
    /// The points. Those that are not finite are left out. Up to sixteen groups look different.
    pub points: Vec<MapPoint<'a>>,
}

impl HoverMap<'_> {
    pub(super) fn html(&self) -> String {
        let finite = || self.points.iter().filter(|point| point.x.is_finite() && point.y.is_finite());
        let ends = |of: &dyn Fn(&MapPoint<'_>) -> f64| {
            finite()
                .map(of)
                .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(v), high.max(v)))
        };
        let (across, down) = (ends(&|point| point.x), ends(&|point| point.y));
        // Both axes by the same measure, since distances are what such a map is looked at for.
        let span = (across.1 - across.0).max(down.1 - down.0);
        let place = |value: f64, (low, high): (f64, f64)| {
            let share = if span > 0.0 { (value - f64::midpoint(low, high)) / span } else { 0.0 };
            50.0 + (100.0 - 2.0 * ROOM) * share
        };
        let mut groups: Vec<&str> = self.points.iter().map(|point| point.group.as_str()).collect();
        groups.sort_unstable();
        groups.dedup();
        let look = |group: usize| {
            let square = if group / STYLES % 2 == 1 { " square" } else { "" };
            format!("dot s{}{square}", group % STYLES)
        };
        let mut html = String::new();
        if groups.len() > 1 {
            html += "<ul class=\"legend\">";
            for (n, group) in groups.iter().enumerate() {
                let _ = writeln!(html, "<li><i class=\"{}\"></i> {}</li>", look(n), escape(group));
            }
            html += "</ul>\n";
        }
        html += "<div class=\"dots\">\n";
        for point in finite() {
            let group = groups.binary_search(&point.group.as_str()).unwrap_or(0);
            // Upwards is more, as on every other chart.
            let (left, top) = (place(point.x, across), 100.0 - place(point.y, down));
            let _ = write!(
                html,
                "<span class=\"{}\" tabindex=\"0\" style=\"left:{left:.2}%;top:{top:.2}%\"><span>",
                look(group)
            );
            if let Some(data) = point.picture.and_then(small) {
                let _ = write!(
                    html,
                    "<img src=\"data:image/jpeg;base64,{data}\" alt=\"{}\">",
                    escape(&point.name)
                );
            }
            let _ = writeln!(html, "<b>{}</b> {}</span></span>", escape(&point.group), escape(&point.name));
        }
        html + "</div>\n"
    }
}

/// A small JPEG in base 64; nothing of a picture without pixels.
fn small(picture: &image::RgbImage) -> Option<String> {
    let (width, height) = picture.dimensions();
    let longest = width.max(height);
    let shrunk = (longest > PIXELS).then(|| {
        let to = |side: u32| (u64::from(side) * u64::from(PIXELS) / u64::from(longest)).max(1) as u32;
        thumbnail(picture, to(width), to(height))
    });
    Some(BASE64.encode(jpeg(shrunk.as_ref().unwrap_or(picture))?))
}

#[cfg(test)]
mod tests {
    use image::RgbImage;

    use super::*;

    #[test]
    fn every_point_has_its_place_colour_and_picture() {
        let red = RgbImage::from_pixel(200, 50, image::Rgb([200, 0, 0]));
        let none = RgbImage::new(0, 0);
        let point = |x: f64, y: f64, group: &str, picture| MapPoint {
            x,
            y,
            group: group.to_owned(),
            name: format!("\"{group}\" <1>"),
            picture,
        };
        let mut points = vec![
            point(-2.0, 0.0, "cat", Some(&red)),
            point(2.0, 1.0, "dog", None),
            point(0.0, -1.0, "dog", Some(&none)),
            point(f64::NAN, 0.0, "dog", Some(&red)),
        ];
        let html = HoverMap { title: "map".to_owned(), points: points.clone() }.html();
        assert_eq!((html.matches("<img ").count(), html.matches("tabindex").count()), (1, 3));
        // Four wide and two high by the same measure: the ends lie at 2 and 98 % across, and at 26 and 74 % down.
        for expected in ["left:2.00%;top:50.00%", "left:98.00%;top:26.00%", "left:50.00%;top:74.00%"] {
            assert!(html.contains(expected), "{expected} in {html}");
        }
        assert!(html.contains("&quot;cat&quot; &lt;1&gt;") && !html.contains("<1>"));
        assert!(html.contains("class=\"dot s0\"") && html.contains("class=\"dot s1\""));
        // The ninth group has the first one's colour and another shape.
        points.extend((0..8).map(|n| point(0.0, 0.0, &format!("e{n}"), None)));
        assert!(HoverMap { title: String::new(), points }.html().contains("class=\"dot s0 square\""));
        let one = HoverMap { title: String::new(), points: vec![point(3.0, 7.0, "a", None)] }.html();
        assert!(one.contains("left:50.00%;top:50.00%") && !one.contains("legend"), "{one}");
        assert!(HoverMap::default().html().contains("dots"));
    }
}
