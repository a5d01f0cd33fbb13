//! Pascal VOC's XML file of a picture.

use std::fmt::Write;

use kirie_mask::BBox;

/// An object of such a file.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct VocEntry<'a> {
    /// Its class.
    pub name: &'a str,
    /// The box around it, pixels: outer edges of its first and last pixels.
    pub bbox: BBox,
    /// Whether it is marked as hard to recognise.
    pub difficult: bool,
}

/// The content of the file for a picture of `(width, height)` pixels. Boxes are counted from 1, both ends inside, as VOC has
/// them; whole numbers are written as such.
pub fn voc_xml(picture: &str, (width, height): (u32, u32), objects: &[VocEntry<'_>]) -> String {
    let mut text = String::from("<annotation>\n");
    // Writing to a String cannot fail.
    let _ = writeln!(text, "  <filename>{}</filename>", escaped(picture));
    let _ = writeln!(text, "  <size><width>{width}</width><height>{height}</height><depth>3</depth></size>");
    for object in objects {
        let b = &object.bbox;
        let _ = writeln!(
            text,
            "  <object>\n    <name>{}</name>\n    <difficult>{}</difficult>\n    \
             <bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox>\n  </object>",
            escaped(object.name),
            u8::from(object.difficult),
            b.x0 + 1.0,
            b.y0 + 1.0,
            b.x1,
            b.y1
        );
    }
    text.push_str("</annotation>\n");
    text
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
