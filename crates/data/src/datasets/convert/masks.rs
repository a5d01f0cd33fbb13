//! Label pictures.

use ::png::{BitDepth, ColorType};
use kirie_mask::Rle;

use super::lost::LossKind;
use super::{Job, Task};
use crate::datasets::labels::{ClassMap, Instance, Labels};
use crate::write::encode_png;
use crate::{DataError, create_parent, write_atomic};

pub(super) fn write_classes(
    job: &Job,
    task: &Task,
    size: (u32, u32),
    labels: &Labels,
) -> Result<usize, DataError> {
    let highest = job.classes.classes.last().map_or(0, |class| class.id).max(job.classes.classless_id());
    let (ids, count) = match labels {
        Labels::None => return Ok(0),
        Labels::ClassMap(map) => (map.ids.clone(), map.present().len()),
        _ => {
            let objects = job.objects(labels);
            let number = |(index, object): (usize, &Instance)| {
                if object.crowd {
                    return Ok(ClassMap::IGNORE);
                }
                let id = job.classes.id(object.class);
                let fits = u16::try_from(id).ok().filter(|&id| id < ClassMap::IGNORE);
                fits.ok_or_else(|| task.no_mask(index, format!("class {id} is too high for a label picture")))
            };
            (paint(job, task, size, &objects, number)?, objects.len())
        }
    };
    write(job, task, size, &ids, highest < 255)?;
    Ok(count)
}

pub(super) fn write_instances(
    job: &Job,
    task: &Task,
    size: (u32, u32),
    labels: &Labels,
) -> Result<usize, DataError> {
    if matches!(labels, Labels::None) {
        return Ok(0);
    }
    let mut objects = job.objects(labels);
    objects.retain(|object| object.annotator == 0);
    // Larger first, so that the numbers tell the order in which they lie on top of each other.
    objects.sort_by(|a, b| a.crowd.cmp(&b.crowd).then(b.area.total_cmp(&a.area)));
    let count = objects.iter().filter(|object| !object.crowd).count();
    // The number before the highest stays free, or the highest would count as an object.
    let limit = usize::from(u16::MAX) - 2;
    if count > limit {
        let name = task.sample.image.display().to_string();
        return Err(DataError::TooManyMasks { name, found: count, limit });
    }
    let number = |(index, object): (usize, &Instance)| {
        Ok(if object.crowd { ClassMap::IGNORE } else { index as u16 + 1 })
    };
    let numbers = paint(job, task, size, &objects, number)?;
    write(job, task, size, &numbers, count < 254)?;
    Ok(count)
}

/// Paints every object with its number, crowd regions first and larger objects before smaller ones.
fn paint(
    job: &Job,
    task: &Task,
    (width, height): (u32, u32),
    objects: &[Instance],
    number: impl Fn((usize, &Instance)) -> Result<u16, DataError>,
) -> Result<Vec<u16>, DataError> {
    let mut masks: Vec<(bool, Rle, u16)> = Vec::with_capacity(objects.len());
    for (index, object) in objects.iter().enumerate() {
        let mask = object.mask(width, height).map_err(|error| task.no_mask(index, error))?;
        let mask = mask.ok_or_else(|| {
            task.no_mask(index, "only its box is known, and label pictures need its pixels")
        })?;
        masks.push((!object.crowd, mask, number((index, object))?));
    }
    masks.sort_by_key(|(later, mask, _)| (*later, std::cmp::Reverse(mask.area())));
    let mut pixels = vec![0; width as usize * height as usize];
    let mut overlaps = 0;
    for (_, mask, number) in &masks {
        let [x, y, part_width, part_height] = mask.bbox_xywh().map(|v| v as usize);
        let Ok(part) = mask.crop(x, y, part_width, part_height) else { continue };
        let part = part.to_mask();
        let mut covers = false;
        for (row, part_y) in pixels.chunks_exact_mut(width as usize).skip(y).zip(0..part.height()) {
            for (pixel, _) in row.iter_mut().skip(x).zip(part.row(part_y)).filter(|(_, set)| **set) {
                covers |= *pixel != 0 && *pixel != ClassMap::IGNORE;
                *pixel = *number;
            }
        }
        overlaps += usize::from(covers);
    }
    job.losses.add(LossKind::Overlaps, overlaps);
    Ok(pixels)
}

/// Writes the numbers as gray PNG, of 8 bits where they fit; [`ClassMap::IGNORE`] as the highest number.
fn write(
    job: &Job,
    task: &Task,
    (width, height): (u32, u32),
    numbers: &[u16],
    eight_bits: bool,
) -> Result<(), DataError> {
    let bytes = if eight_bits {
        let pixels: Vec<u8> = numbers.iter().map(|&number| number.min(255) as u8).collect();
        encode_png(width, height, ColorType::Grayscale, BitDepth::Eight, &[], &pixels)
    } else {
        let pixels: Vec<u8> = numbers.iter().flat_map(|number| number.to_be_bytes()).collect();
        encode_png(width, height, ColorType::Grayscale, BitDepth::Sixteen, &[], &pixels)
    }?;
    let path = job.folder.join("masks").join(format!("{}.png", task.name));
    create_parent(&path)?;
    write_atomic(&path, |w| w.write_all(&bytes))
}
