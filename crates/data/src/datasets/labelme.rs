//! LabelMe JSON files, one a picture: polygons, rectangles and circles by class name.

use std::collections::HashMap;
use std::path::Path;

use kirie_mask::Point;
use serde::Deserialize;

use super::files::{Root, read_text};
use super::labels::{Instance, Labels, Segmentation};
use super::per_picture::open_files;
use super::regions::WANTED;
use super::text::reason;
use super::{Dataset, OpenOptions, Opened, Source};
use crate::DataError;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Whole {
    #[serde(default)]
    shapes: Vec<Shape>,
    image_width: Option<u32>,
    image_height: Option<u32>,
}

#[derive(Deserialize)]
struct Shape {
    label: Option<String>,
    points: Vec<[f64; 2]>,
    #[serde(rename = "shape_type")]
    kind: Option<String>,
    group_id: Option<i64>,
}

pub(super) fn open(root: &Root, options: &OpenOptions) -> Result<Opened, DataError> {
    open_files(root, options, &WANTED, "LabelMe shapes (JSON files)", Source::Labelme, &|path| {
        let text = read_text(path, &options.limits).unwrap_or_default();
        let whole = serde_json::from_str::<Whole>(&text).ok();
        whole.into_iter().flat_map(|whole| whole.shapes).filter_map(|shape| shape.label).collect()
    })
}

/// Shapes of one label and one group are one object. Points and lines enclose nothing and are passed over.
pub(super) fn read(dataset: &Dataset, path: &Path) -> Result<Labels, DataError> {
    let text = read_text(path, &dataset.limits)?;
    let whole: Whole = serde_json::from_str(&text).map_err(|error| {
        DataError::malformed(
            path,
            format!("line {}, column {}", error.line(), error.column()),
            reason(&error),
        )
    })?;
    let mut instances: Vec<Instance> = Vec::new();
    let mut groups: HashMap<(u32, i64), usize> = HashMap::new();
    for (i, shape) in whole.shapes.into_iter().enumerate() {
        let place = format!("shape {i} of the list");
        let wrong = |reason: String| DataError::malformed(path, &place, reason);
        let Some(ring) = ring(&shape).map_err(wrong)? else { continue };
        let label = shape.label.unwrap_or_default();
        let class =
            dataset.class_named(&label).ok_or_else(|| dataset.unknown_class(path, &place, &label))?.id;
        let group = shape.group_id.map(|group| (class, group));
        let before = group.and_then(|group| groups.get(&group)).and_then(|&at| instances.get_mut(at));
        if let Some(Instance { segmentation: Segmentation::Polygons(rings), .. }) = before.as_deref() {
            let rings = rings.iter().cloned().chain([ring]).collect();
            if let Some(before) = before {
                *before = Instance::from_polygons(Some(class), rings);
            }
            continue;
        }
        if let Some(group) = group {
            groups.insert(group, instances.len());
        }
        instances.push(Instance::from_polygons(Some(class), vec![ring]));
    }
    Ok(Labels::Instances { frame: whole.image_width.zip(whole.image_height), instances })
}

/// The outline of a shape; nothing for one that encloses nothing.
fn ring(shape: &Shape) -> Result<Option<Vec<Point>>, String> {
    let points: Vec<Point> = shape.points.iter().map(|&[x, y]| Point { x, y }).collect();
    let count = |wanted: &str| format!("expected {wanted}, found {} points", points.len());
    match (shape.kind.as_deref().unwrap_or("polygon"), points.as_slice()) {
        ("polygon", points) if points.len() >= 3 => Ok(Some(points.to_vec())),
        ("polygon", _) => Err(count("at least 3 points of a polygon")),
        ("rectangle", &[a, b]) => Ok(Some(vec![a, Point { x: b.x, y: a.y }, b, Point { x: a.x, y: b.y }])),
        ("rectangle", _) => Err(count("2 corners of a rectangle")),
        ("circle", &[center, edge]) => {
            const CORNERS: u32 = 64;
            let radius = (edge.x - center.x).hypot(edge.y - center.y);
            let corner = |i| {
                let angle = std::f64::consts::TAU * f64::from(i) / f64::from(CORNERS);
                Point { x: center.x + radius * angle.cos(), y: center.y + radius * angle.sin() }
            };
            Ok(Some((0..CORNERS).map(corner).collect()))
        }
        ("circle", _) => Err(count("the centre and a point of a circle")),
        ("point" | "points" | "line" | "linestrip", _) => Ok(None),
        (other, _) => Err(format!("shapes of type {other:?} are not supported")),
    }
}
