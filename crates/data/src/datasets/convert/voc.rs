//! Pascal VOC XML files.

use std::fmt::Write;

use super::{Job, Task};
use crate::datasets::labels::{Instance, Labels};
use crate::{DataError, create_parent, write_atomic};

pub(super) fn write(
    job: &Job,
    task: &Task,
    (width, height): (u32, u32),
    labels: &Labels,
) -> Result<usize, DataError> {
    if matches!(labels, Labels::None) {
        return Ok(0);
    }
    let objects = job.objects(labels);
    let classes = job.classes.all();
    let mut text = String::from("<annotation>\n");
    // Writing to a String cannot fail.
    let _ = writeln!(text, "  <filename>{}</filename>", escaped(&task.picture_name()));
    let _ = writeln!(text, "  <size><width>{width}</width><height>{height}</height><depth>3</depth></size>");
    for object in &objects {
        let id = job.classes.id(object.class);
        let name = classes.iter().find(|(known, _)| *known == id).map_or("object", |(_, name)| name.as_str());
        push(&mut text, name, object);
    }
    text.push_str("</annotation>\n");
    let path = job.folder.join("Annotations").join(format!("{}.xml", task.name));
    create_parent(&path)?;
    write_atomic(&path, |w| w.write_all(text.as_bytes()))?;
    Ok(objects.len())
}

fn push(text: &mut String, name: &str, object: &Instance) {
    let difficult = u8::from(object.difficult || object.crowd);
    let b = &object.bbox;
    // Counted from 1, both ends inside; whole numbers are written as such.
    let _ = writeln!(
        text,
        "  <object>\n    <name>{}</name>\n    <difficult>{difficult}</difficult>\n    \
         <bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox>\n  </object>",
        escaped(name),
        b.x0 + 1.0,
        b.y0 + 1.0,
        b.x1,
        b.y1
    );
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
