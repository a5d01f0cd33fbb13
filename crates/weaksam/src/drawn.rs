//! Drawn sets for the tests.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use kirie_data::Image;
use kirie_data::write::write_picture;

/// Width and height of every drawn picture.
pub(crate) const SIZE: [u32; 2] = [72, 64];

/// The objects of the nth picture: class, and corners in pixels. Of each three pictures the first shows a disc, the second a bar,
/// the third both.
pub(crate) fn objects(n: usize) -> Vec<(&'static str, [u32; 4])> {
    let (x, y) = (4 + 5 * (n % 4) as u32, 6 + 4 * (n % 3) as u32);
    let disc = ("disc", [x, y, x + 20, y + 20]);
    let bar = ("bar", [44, 10 + 3 * (n % 5) as u32, 60, 50]);
    match n % 3 {
        0 => vec![disc],
        1 => vec![bar],
        _ => vec![disc, bar],
    }
}

/// The nth picture: green discs and blue bars on textured red ground.
pub(crate) fn picture(n: usize) -> Image {
    let [width, height] = SIZE;
    let objects = objects(n);
    let mut raw = Vec::new();
    for y in 0..height {
        for x in 0..width {
            let texture = ((x * 31 + y * 17 + n as u32 * 7) % 30) as u8;
            let inside = |class: &str, [x0, y0, x1, y1]: [u32; 4]| {
                if class == "bar" {
                    return (x0..x1).contains(&x) && (y0..y1).contains(&y);
                }
                let radius = f64::from(x1 - x0) / 2.0;
                let (dx, dy) = (
                    f64::from(x) + 0.5 - f64::from(x0 + x1) / 2.0,
                    f64::from(y) + 0.5 - f64::from(y0 + y1) / 2.0,
                );
                dx.hypot(dy) < radius
            };
            let strongest = match objects.iter().find(|(class, corners)| inside(class, *corners)) {
                Some(("disc", _)) => 1,
                Some(_) => 2,
                None => 0,
            };
            raw.extend((0..3).map(|c| if c == strongest { 200 + texture } else { 50 + texture }));
        }
    }
    Image::from_raw(width, height, raw).unwrap()
}

/// Draws a set with VOC boxes; the last third of the pictures is the part `test`.
pub(crate) fn draw_set(folder: &Path, count: usize) {
    fs::create_dir_all(folder.join("images")).unwrap();
    fs::create_dir_all(folder.join("annotations")).unwrap();
    fs::write(folder.join("classes.txt"), "0\tdisc\n1\tbar\n").unwrap();
    let (mut train, mut test) = (String::new(), String::new());
    let [width, height] = SIZE;
    for n in 0..count {
        write_picture(folder.join(format!("images/p{n}.png")), &picture(n)).unwrap();
        let mut xml = format!("<annotation><size><width>{width}</width><height>{height}</height></size>");
        for (class, [x0, y0, x1, y1]) in objects(n) {
            let _ = write!(
                xml,
                "<object><name>{class}</name><bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{x1}</xmax><ymax>{y1}</ymax></bndbox></object>",
                x0 + 1,
                y0 + 1
            );
        }
        fs::write(folder.join(format!("annotations/p{n}.xml")), xml + "</annotation>").unwrap();
        let list = if n < count - count / 3 { &mut train } else { &mut test };
        let _ = writeln!(list, "p{n}");
    }
    fs::write(folder.join("train.txt"), train).unwrap();
    fs::write(folder.join("test.txt"), test).unwrap();
}
