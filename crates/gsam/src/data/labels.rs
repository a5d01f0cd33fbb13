//! The label of every pixel of a picture.

use std::cmp::Reverse;

use kirie_data::datasets::{ClassMap, Instance, Labels};
use kirie_mask::Rle;

use super::classes::Table;
use crate::error::SemanticError;

/// The label of every pixel of a picture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LabelMap {
    /// Width, pixels.
    pub width: u32,
    /// Height, pixels.
    pub height: u32,
    /// Labels, row by row: a class's position in the [`ClassList`](super::ClassList), or [`Self::IGNORE`].
    pub labels: Vec<u8>,
}

impl LabelMap {
    /// A pixel that is neither learned from nor scored.
    pub const IGNORE: u8 = u8::MAX;

    /// The labels of a picture of `width` x `height` from what its file says.
    pub(super) fn new(
        labels: Labels,
        (width, height): (u32, u32),
        table: &Table,
        file: &str,
    ) -> Result<Self, SemanticError> {
        let no_pixels =
            |reason: &str| Err(SemanticError::Labels { name: file.to_owned(), reason: reason.to_owned() });
        let labels = match labels {
            Labels::ClassMap(map) => from_class_map(&map, table, file)?,
            Labels::Instances { instances, .. } => painted(&instances, (width, height), table, file)?,
            Labels::None => return no_pixels("expected labels, found none"),
            Labels::Tags(_) => {
                return no_pixels("expected labels of pixels, found a class for the whole picture");
            }
        };
        Ok(Self { width, height, labels })
    }

    /// How many pixels each of `classes` labels has, and how many count nowhere.
    pub fn counts(&self, classes: usize) -> (Vec<u64>, u64) {
        let mut all = [0_u64; 256];
        for label in &self.labels {
            all[usize::from(*label)] += 1;
        }
        (all[..classes.min(255)].to_vec(), all[usize::from(Self::IGNORE)])
    }
}

fn from_class_map(map: &ClassMap, table: &Table, file: &str) -> Result<Vec<u8>, SemanticError> {
    // Looked up once for each id that occurs.
    let mut lookup = vec![LabelMap::IGNORE; usize::from(u16::MAX) + 1];
    for id in map.present() {
        lookup[usize::from(id)] = table.label(id.into()).ok_or_else(|| table.unknown(file, id.into()))?;
    }
    Ok(map.ids.iter().map(|id| lookup[usize::from(*id)]).collect())
}

/// Objects painted onto the background, larger ones first, so that what lies on top of another stays visible.
fn painted(
    instances: &[Instance],
    (width, height): (u32, u32),
    table: &Table,
    file: &str,
) -> Result<Vec<u8>, SemanticError> {
    let background = table.background.unwrap_or(LabelMap::IGNORE);
    let mut labels = vec![background; width as usize * height as usize];
    let mut shapes: Vec<(Rle, u8)> = Vec::new();
    for (at, object) in instances.iter().enumerate() {
        // One person's view of a picture that several have labelled.
        if object.annotator > 0 {
            continue;
        }
        let label = match object.class {
            Some(id) => table.label(id).ok_or_else(|| table.unknown(file, id))?,
            None if object.crowd => LabelMap::IGNORE,
            // An object of a set that has classes, but none for this one.
            None => table.classless.unwrap_or(LabelMap::IGNORE),
        };
        let mask = object.mask(width, height).map_err(|error| SemanticError::Labels {
            name: file.to_owned(),
            reason: format!("object {at}: {error}"),
        })?;
        let Some(mask) = mask else {
            let reason = format!("object {at}: expected its pixels or outline, found only a box");
            return Err(SemanticError::Labels { name: file.to_owned(), reason });
        };
        shapes.push((mask, label));
    }
    shapes.sort_by_key(|(mask, _)| Reverse(mask.area()));
    for (mask, label) in shapes {
        let mask = mask.to_mask();
        for (line, y) in labels.chunks_exact_mut(width as usize).zip(0..) {
            for (pixel, _) in line.iter_mut().zip(mask.row(y)).filter(|(_, set)| **set) {
                *pixel = label;
            }
        }
    }
    Ok(labels)
}
