//! YOLO text files and `data.yaml`.

use std::fmt::Write;

use kirie_mask::Point;

use super::{Job, Task, has_pixels, splits};
use crate::datasets::labels::{Instance, Labels, Segmentation};
use crate::write::one_ring;
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
    let mut text = String::new();
    let mut count = 0;
    for (i, object) in job.objects(labels).iter().enumerate().filter(|(_, object)| !object.crowd) {
        let numbers = numbers(job, object, (width, height));
        let numbers = numbers.map_err(|error| task.no_mask(i, error))?;
        if numbers.is_empty() {
            continue;
        }
        let _ = write!(text, "{}", job.classes.id(object.class)); // writing to a String cannot fail
        for (number, side) in numbers.iter().zip([width, height].into_iter().cycle()) {
            let _ = write!(text, " {:.6}", number / f64::from(side));
        }
        text.push('\n');
        count += 1;
    }
    let path = job.by_split("labels", task.sample).join(format!("{}.txt", task.name));
    create_parent(&path)?;
    write_atomic(&path, |w| w.write_all(text.as_bytes()))?;
    Ok(count)
}

/// x and y in turn, in pixels: centre and size of a box, or the points of a polygon; nothing for an empty mask.
fn numbers(
    job: &Job,
    object: &Instance,
    (width, height): (u32, u32),
) -> Result<Vec<f64>, kirie_mask::MaskError> {
    let b = &object.bbox;
    if !has_pixels(object) {
        return Ok(vec![f64::midpoint(b.x0, b.x1), f64::midpoint(b.y0, b.y1), b.width(), b.height()]);
    }
    let ring = match &object.segmentation {
        Segmentation::Polygons(rings) if rings.len() == 1 => rings.concat(),
        _ => object.mask(width, height)?.map_or(Vec::new(), |mask| one_ring(&mask, job.options.tolerance)),
    };
    // Loaders refuse points outside the picture.
    let inside = |p: &Point| [p.x.clamp(0.0, width.into()), p.y.clamp(0.0, height.into())];
    Ok(ring.iter().flat_map(inside).collect())
}

/// `train` and `val` must both be there; a set without parts names the same pictures twice.
pub(super) fn write_yaml(job: &Job, tasks: &[Task], classes: &[(u32, String)]) -> Result<(), DataError> {
    let splits = splits(tasks);
    write_atomic(job.folder.join("data.yaml"), |w| {
        writeln!(w, "# written by kirie")?;
        for split in &splits {
            writeln!(w, "{split}: images/{split}")?;
        }
        for usual in ["train", "val"].into_iter().filter(|usual| !splits.contains(usual)) {
            let first = splits.first().map_or("images".to_owned(), |split| format!("images/{split}"));
            writeln!(w, "{usual}: {first} # there is no such part")?;
        }
        writeln!(w, "nc: {}\nnames:", classes.len())?;
        classes.iter().try_for_each(|(id, name)| writeln!(w, "  {id}: '{}'", name.replace('\'', "''")))
    })
}
