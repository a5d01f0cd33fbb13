//! Pascal VOC XML files.

use super::{Job, Task};
use crate::datasets::labels::Labels;
use crate::write::{VocEntry, voc_xml};
use crate::{DataError, create_parent, write_atomic};

pub(super) fn write(job: &Job, task: &Task, size: (u32, u32), labels: &Labels) -> Result<usize, DataError> {
    if matches!(labels, Labels::None) {
        return Ok(0);
    }
    let objects = job.objects(labels);
    let classes = job.classes.all();
    let entries: Vec<VocEntry<'_>> = objects
        .iter()
        .map(|object| {
            let id = job.classes.id(object.class);
            let name =
                classes.iter().find(|(known, _)| *known == id).map_or("object", |(_, name)| name.as_str());
            VocEntry { name, bbox: object.bbox, difficult: object.difficult || object.crowd }
        })
        .collect();
    let text = voc_xml(&task.picture_name(), size, &entries);
    let path = job.folder.join("Annotations").join(format!("{}.xml", task.name));
    create_parent(&path)?;
    write_atomic(&path, |w| w.write_all(text.as_bytes()))?;
    Ok(entries.len())
}
