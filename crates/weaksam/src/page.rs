//! What a stage found, to look at: counts, scores, and pictures with their boxes.

use std::path::Path;

use kirie_data::write::{FoundObject, ImageObjects, objects_overlay};
use kirie_data::{Image, ImageRecord, longest_side, resize_bilinear};
use kirie_mask::BBox;
use kirie_run::report::{BarSeries, Bars, Page, Picture};

use crate::WeakError;
use crate::files::Detections;
use crate::pictures::Pictures;

/// Pictures shown, evenly spread over the set.
const SHOWN: usize = 18;
/// Longest side of a picture in the page, pixels.
const SIDE: u32 = 360;
/// Boxes drawn in a picture at most.
const DRAWN: usize = 12;

/// A self-contained page about boxes of pictures below `root`. `about` says in names and values where they come from; boxes that
/// score less than `least_score` are counted and not drawn.
///
/// # Errors
/// Pictures that cannot be read.
pub fn boxes_page(
    title: &str,
    about: &[(String, String)],
    root: &Path,
    found: &Detections,
    least_score: f32,
) -> Result<Page, WeakError> {
    let mut page = Page::new(title);
    let counted = |class: usize| {
        found.images.iter().map(|image| image.classes.iter().filter(|c| **c == class).count()).sum::<usize>()
    };
    let total: usize = found.images.iter().map(|image| image.boxes.len()).sum();
    let empty = found.images.iter().filter(|image| image.boxes.is_empty()).count();
    let mut entries = about.to_vec();
    entries.push(("Pictures".to_owned(), found.images.len().to_string()));
    entries.push(("Boxes".to_owned(), total.to_string()));
    entries.push(("Pictures without a box".to_owned(), empty.to_string()));
    page.key_values(&entries);
    page.bars(&Bars {
        title: "Boxes by class".to_owned(),
        labels: found.classes.clone(),
        series: vec![BarSeries {
            name: "boxes".to_owned(),
            values: (0..found.classes.len()).map(|class| counted(class) as f64).collect(),
        }],
        full: None,
    });
    let mut tenths = [0_usize; 10];
    for score in found.images.iter().flat_map(|image| &image.scores) {
        tenths[((score.clamp(0.0, 1.0) * 10.0) as usize).min(9)] += 1;
    }
    page.bars(&Bars {
        title: "Boxes by score".to_owned(),
        labels: (0..10)
            .map(|tenth| format!("{:.1} to {:.1}", tenth as f64 / 10.0, (tenth + 1) as f64 / 10.0))
            .collect(),
        series: vec![BarSeries {
            name: "boxes".to_owned(),
            values: tenths.iter().map(|count| *count as f64).collect(),
        }],
        full: None,
    });

    page.heading("Pictures");
    let pictures = Pictures::of_objects(root, found);
    let count = pictures.all.len();
    let mut drawn = Vec::new();
    for place in 0..count.min(SHOWN) {
        let index = place * count / count.min(SHOWN);
        let image = pictures.read(&pictures.all[index])?;
        drawn.push((found.images[index].file.as_str(), draw(&image, found, index, least_score)?));
    }
    let shown: Vec<Picture<'_>> =
        drawn.iter().map(|(caption, image)| Picture { caption, image: image.rgb() }).collect();
    page.pictures(&shown);
    Ok(page)
}

/// A picture made smaller, with its best boxes.
fn draw(image: &Image, found: &Detections, index: usize, least_score: f32) -> Result<Image, WeakError> {
    let (width, height) = longest_side(image.width(), image.height(), SIDE);
    let small = resize_bilinear(image, width, height)?;
    let scale = [f64::from(width) / f64::from(image.width()), f64::from(height) / f64::from(image.height())];
    let boxes = &found.images[index];
    let mut order: Vec<usize> = (0..boxes.boxes.len()).filter(|i| boxes.scores[*i] >= least_score).collect();
    order.sort_by(|a, b| boxes.scores[*b].total_cmp(&boxes.scores[*a]));
    let objects = order
        .into_iter()
        .take(DRAWN)
        .map(|i| {
            let [x0, y0, x1, y1] = boxes.boxes[i].map(f64::from);
            FoundObject {
                class: boxes.classes[i],
                bbox: BBox::new(x0 * scale[0], y0 * scale[1], x1 * scale[0], y1 * scale[1]),
                score: f64::from(boxes.scores[i]),
                mask: None,
            }
        })
        .collect();
    let image = ImageRecord { path: boxes.file.clone(), width, height };
    Ok(objects_overlay(&small, &ImageObjects { image, objects }, &found.classes)?)
}
