//! Pascal VOC XML files: boxes.

use std::path::Path;

use kirie_mask::BBox;
use roxmltree::{Document, Node};

use super::files::{Root, read_text};
use super::labels::{Instance, Labels, Segmentation};
use super::parts::Wanted;
use super::per_picture::open_files;
use super::{Dataset, OpenOptions, Opened, Source};
use crate::DataError;

pub(super) const WANTED: Wanted =
    Wanted { folders: &["annotations", "annotation", "xml", "labels"], extensions: &["xml"], beside: true };

pub(super) fn open(root: &Root, options: &OpenOptions) -> Result<Opened, DataError> {
    open_files(root, options, &WANTED, "Pascal VOC boxes (XML files)", Source::Voc, &|path| {
        names_in(path, options)
    })
}

/// The class names in a file; none in one that cannot be read, which reading its labels will tell.
fn names_in(path: &Path, options: &OpenOptions) -> Vec<String> {
    let Ok(text) = read_text(path, &options.limits) else { return Vec::new() };
    let Ok(document) = Document::parse(&text) else { return Vec::new() };
    let objects = document.root_element().children().filter(|node| node.has_tag_name("object"));
    objects.filter_map(|object| text_of(object, "name").map(str::to_owned)).collect()
}

/// The text of the first child of a name.
fn text_of<'a>(node: Node<'a, '_>, name: &str) -> Option<&'a str> {
    let child = node.children().find(|child| child.has_tag_name(name))?;
    child.text().map(str::trim).filter(|text| !text.is_empty())
}

pub(super) fn read(dataset: &Dataset, path: &Path) -> Result<Labels, DataError> {
    let text = read_text(path, &dataset.limits)?;
    let document = Document::parse(&text)
        .map_err(|error| DataError::malformed(path, format!("line {}", error.pos().row), error))?;
    let annotation = document.root_element();
    if !annotation.has_tag_name("annotation") {
        let reason = format!("expected <annotation>, found <{}>", annotation.tag_name().name());
        return Err(DataError::malformed(path, "line 1", reason));
    }
    let size = annotation.children().find(|node| node.has_tag_name("size"));
    let side = |name| size.and_then(|size| text_of(size, name)?.parse::<u32>().ok()).filter(|&side| side > 0);
    // Many programs write 0 where they do not know the size.
    let frame = side("width").zip(side("height"));
    let objects = annotation.children().filter(|node| node.has_tag_name("object"));
    let instances = objects.map(|object| {
        let place = || format!("line {}", document.text_pos_at(object.range().start).row);
        let wrong = |reason: String| DataError::malformed(path, place(), reason);
        let name = text_of(object, "name").ok_or_else(|| wrong("the object has no <name>".to_owned()))?;
        let class = dataset.class_named(name).ok_or_else(|| dataset.unknown_class(path, place(), name))?.id;
        let bndbox = object.children().find(|node| node.has_tag_name("bndbox"));
        let bndbox = bndbox.ok_or_else(|| wrong("the object has no <bndbox>".to_owned()))?;
        let number = |name: &str| {
            let found = text_of(bndbox, name).ok_or_else(|| wrong(format!("<bndbox> has no <{name}>")))?;
            let number = found.parse::<f64>().ok().filter(|v| v.is_finite());
            number.ok_or_else(|| wrong(format!("<{name}>: expected a number, found {found:?}")))
        };
        let (xmin, ymin, xmax, ymax) = (number("xmin")?, number("ymin")?, number("xmax")?, number("ymax")?);
        let bbox = BBox::checked(xmin - 1.0, ymin - 1.0, xmax, ymax).map_err(|_| {
            wrong(format!(
                "<bndbox>: expected xmax >= xmin and ymax >= ymin, found {xmin} {ymin} {xmax} {ymax}"
            ))
        })?;
        let mut instance = Instance::new(Some(class), Segmentation::Box, bbox);
        instance.difficult = text_of(object, "difficult").is_some_and(|flag| flag != "0");
        Ok(instance)
    });
    let instances = instances.collect::<Result<_, DataError>>()?;
    Ok(Labels::Instances { frame, instances })
}
