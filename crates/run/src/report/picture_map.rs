//! Maps of many points, some of which are pictures.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use image::RgbImage;
use image::imageops::thumbnail;

use super::axis::Axis;
use super::plot::{Key, Plot, STYLES, legend, mark};
use super::{escape, jpeg};

/// The longer side of a picture on the map, in the drawing's units.
const SIDE: f64 = 22.0;
/// The longer side it is shrunk to, pixels.
const PIXELS: u32 = 48;

/// Points by two figures, such as features along two directions.
#[derive(Clone, Debug, Default)]
pub struct PictureMap<'a> {
    /// Stands above the map.
    pub title: String,
    /// The points. Those that are not finite are left out.
    pub points: Vec<MapPoint<'a>>,
}

/// One point of a [`PictureMap`].
#[derive(Clone, Debug, Default)]
pub struct MapPoint<'a> {
    /// Horizontal.
    pub x: f64,
    /// Vertical.
    pub y: f64,
    /// Points of one group look alike; shows under the pointer. Beyond eight groups, styles come again.
    pub group: String,
    /// What it is itself; a [`super::HoverMap`] shows it under the pointer.
    pub name: String,
    /// Drawn small at the point, in a frame of its group's colour; a mark stands for points without.
    pub picture: Option<&'a RgbImage>,
}

impl PictureMap<'_> {
    pub(super) fn html(&self) -> String {
        let x = Axis::new(self.points.iter().map(|point| point.x), false, true);
        let y = Axis::new(self.points.iter().map(|point| point.y), false, true);
        let mut plot = Plot::new(&self.title, x, y, "", "");
        let mut groups: Vec<&str> = self.points.iter().map(|point| point.group.as_str()).collect();
        groups.sort_unstable();
        groups.dedup();
        let mut pictures = String::new();
        for point in &self.points {
            let Some(place) = plot.place((point.x, point.y)) else { continue };
            let group = groups.binary_search(&point.group.as_str()).unwrap_or(0);
            match point.picture.and_then(|picture| framed(picture, group, place, &point.group)) {
                Some(picture) => pictures += &picture,
                None => plot.draw(&mark(group, place, 2.6, &point.group)),
            }
        }
        // Over the marks.
        plot.draw(&pictures);
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

/// A small picture around a place; nothing if it has no pixels.
fn framed(picture: &RgbImage, group: usize, (x, y): (f64, f64), text: &str) -> Option<String> {
    let (width, height) = picture.dimensions();
    let longest = width.max(height);
    let shrunk = (longest > PIXELS).then(|| {
        let to = |side: u32| (u64::from(side) * u64::from(PIXELS) / u64::from(longest)).max(1) as u32;
        thumbnail(picture, to(width), to(height))
    });
    let data = BASE64.encode(jpeg(shrunk.as_ref().unwrap_or(picture))?);
    let side = |length: u32| SIDE * f64::from(length) / f64::from(longest);
    let (w, h) = (side(width), side(height));
    let (left, top) = (x - w / 2.0, y - h / 2.0);
    let mut svg = String::new();
    let _ = writeln!(
        svg,
        "<g><title>{}</title><rect class=\"mark s{}\" x=\"{:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{:.1}\"/>\
         <image x=\"{left:.1}\" y=\"{top:.1}\" width=\"{w:.1}\" height=\"{h:.1}\" href=\"data:image/jpeg;base64,{data}\"/></g>",
        escape(text),
        group % STYLES,
        left - 1.5,
        top - 1.5,
        w + 3.0,
        h + 3.0,
    );
    Some(svg)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_stand_in_frames_and_the_others_are_marks() {
        let red = RgbImage::from_pixel(90, 30, image::Rgb([200, 0, 0]));
        let none = RgbImage::new(0, 0);
        let point = |x: f64, group: &str, picture| MapPoint {
            x,
            y: 0.5,
            group: group.to_owned(),
            name: String::new(),
            picture,
        };
        let map = PictureMap {
            title: "map".to_owned(),
            points: vec![
                point(0.0, "cat <b>", Some(&red)),
                point(1.0, "dog", None),
                point(2.0, "dog", Some(&none)),
                point(f64::NAN, "dog", Some(&red)),
            ],
        };
        let html = map.html();
        assert_eq!(html.matches("<image ").count(), 1);
        assert!(html.contains("width=\"22.0\" height=\"7.3\""), "the picture's shape is kept");
        assert!(html.contains("cat &lt;b&gt;") && !html.contains("<b>"));
        // Two marks on the map, two in the legend, one frame.
        assert_eq!(html.matches("class=\"mark ").count(), 5);
        assert!(PictureMap::default().html().contains("<svg"));
    }
}
