//! COCO annotation files, written piece by piece.

use std::cell::RefCell;
use std::io::{self, Write};
use std::path::Path;

use kirie_mask::Rle;
use rayon::prelude::*;
use serde::Serialize;

use super::{Converted, Job, Pictures, Task, splits};
use crate::datasets::labels::{Instance, Segmentation};
use crate::{DataError, create_parent, write_atomic};

/// Samples read at a time; only their labels are held.
const CHUNK: usize = 256;

#[derive(Serialize)]
struct Picture {
    id: u64,
    file_name: String,
    width: u32,
    height: u32,
}

#[derive(Serialize)]
struct Annotation<'a> {
    id: u64,
    image_id: u64,
    category_id: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    segmentation: Option<Shape<'a>>,
    area: f64,
    bbox: [f64; 4],
    iscrowd: u8,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    difficult: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    score: Option<f64>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Shape<'a> {
    Rle(&'a Rle),
    Polygons(Vec<Vec<f64>>),
}

#[derive(Serialize)]
struct Category {
    id: u32,
    name: String,
}

/// Writes the annotation file of every part.
pub(super) fn write(job: &Job, tasks: &[Task]) -> Result<Converted, DataError> {
    let mut converted = Converted::default();
    let splits = splits(tasks);
    for split in splits.iter().map(|split| Some(*split)).chain([None]) {
        let part: Vec<&Task> = tasks.iter().filter(|task| task.sample.split.as_deref() == split).collect();
        if part.is_empty() {
            continue;
        }
        let name = split.map_or("instances.json".to_owned(), |split| format!("instances_{split}.json"));
        let path = job.folder.join("annotations").join(name);
        create_parent(&path)?;
        // The writer can only fail as writing does; anything else is kept here.
        let failed = RefCell::new(None);
        let result = write_atomic(&path, |w| {
            write_part(job, &part, w, &mut converted)?.map_err(|error| {
                *failed.borrow_mut() = Some(error);
                io::Error::other("a picture could not be written")
            })
        });
        if let Some(error) = failed.into_inner() {
            return Err(error);
        }
        result?;
    }
    Ok(converted)
}

/// The size of a picture, and its objects.
type Read = ((u32, u32), Vec<Instance>);

fn write_part(
    job: &Job,
    part: &[&Task],
    w: &mut dyn Write,
    converted: &mut Converted,
) -> io::Result<Result<(), DataError>> {
    let mut pictures = Vec::new();
    let mut annotations = 0;
    write!(w, "{{\"info\":{{\"description\":\"written by kirie\"}},\n\"annotations\":[")?;
    for chunk in part.chunks(CHUNK) {
        let read: Vec<Result<Read, DataError>> = chunk
            .par_iter()
            .map(|task| {
                let read = job.labels(task).and_then(|(size, labels)| {
                    job.picture(task)?;
                    job.losses.count(job, &labels);
                    Ok((size, job.objects(&labels)))
                });
                job.step();
                read
            })
            .collect();
        for (task, read) in chunk.iter().zip(read) {
            let ((width, height), instances) = match read {
                Ok(read) => read,
                Err(error @ DataError::Write { .. }) => return Ok(Err(error)),
                Err(error) => {
                    converted.failed.push((task.name.clone(), error));
                    continue;
                }
            };
            let image_id = pictures.len() as u64 + 1;
            for instance in &instances {
                let separator = if annotations == 0 { "\n" } else { ",\n" };
                annotations += 1;
                write!(w, "{separator}")?;
                serde_json::to_writer(&mut *w, &annotation(job, instance, annotations, image_id))?;
            }
            let file_name = file_name(job, task);
            pictures.push(Picture { id: image_id, file_name, width, height });
            converted.samples += 1;
            converted.objects += instances.len();
        }
    }
    write!(w, "\n],\n\"images\":")?;
    serde_json::to_writer(&mut *w, &pictures)?;
    let categories: Vec<Category> =
        job.classes.all().into_iter().map(|(id, name)| Category { id, name }).collect();
    write!(w, ",\n\"categories\":")?;
    serde_json::to_writer(&mut *w, &categories)?;
    writeln!(w, "}}")?;
    Ok(Ok(()))
}

fn annotation<'a>(job: &Job, instance: &'a Instance, id: u64, image_id: u64) -> Annotation<'a> {
    let segmentation = match &instance.segmentation {
        Segmentation::Rle(rle) => Some(Shape::Rle(rle)),
        Segmentation::Polygons(rings) => {
            let flat = |ring: &Vec<kirie_mask::Point>| ring.iter().flat_map(|p| [p.x, p.y]).collect();
            Some(Shape::Polygons(rings.iter().map(flat).collect()))
        }
        Segmentation::Box => None,
    };
    Annotation {
        id,
        image_id,
        category_id: job.classes.id(instance.class),
        segmentation,
        area: instance.area,
        bbox: instance.bbox.to_xywh(),
        iscrowd: instance.crowd.into(),
        difficult: instance.difficult,
        score: instance.score,
    }
}

fn file_name(job: &Job, task: &Task) -> String {
    let plain = || task.picture_name();
    if job.options.pictures != Pictures::Leave {
        return plain();
    }
    let below = task.sample.image.strip_prefix(&job.dataset.root).ok();
    let words = |path: &Path| path.iter().map(|part| part.to_string_lossy()).collect::<Vec<_>>().join("/");
    below.map_or_else(plain, words)
}
