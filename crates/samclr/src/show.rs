//! A page that shows which regions were found, which was drawn, and what views come of it: the cheapest way to see that something is
//! wrong.

use kirie_data::write::{Prompts, overlay};
use kirie_data::{Image, ImageMasks, ImageRecord, MaskRecord};
use kirie_engine::random::Streams;
use kirie_mask::Rle;
use kirie_run::report::{BarSeries, Bars, Page, Picture};

use crate::config::TrainConfig;
use crate::data::Pictures;
use crate::error::ContrastiveError;
use crate::regions::{Region, Table};
use crate::train::source_name;
use crate::views::sample;

/// Colour of the chosen region's box, and of the rectangle that views are cut from.
const BOX: [u8; 3] = [255, 214, 0];
const FRAME: [u8; 3] = [255, 64, 64];

/// The page of `count` pictures, spread evenly over the sets.
///
/// # Errors
/// Pictures that cannot be read.
pub fn page(
    config: &TrainConfig,
    pictures: &Pictures,
    table: &Table,
    count: usize,
) -> Result<Page, ContrastiveError> {
    let mut page = Page::new("Regions and views");
    let found = &table.count;
    page.key_values(&[
        ("Views from", source_name(&config.regions.source).to_owned()),
        ("Pictures", found.pictures.to_string()),
        ("Regions found", found.found.to_string()),
        ("Regions kept", found.kept.to_string()),
        ("Pictures without a region", found.without.to_string()),
        ("Mean share of a picture that a region takes", format!("{:.1} %", 100.0 * found.mean_share)),
        ("Regions at an edge of their picture", format!("{:.1} %", 100.0 * found.at_edge)),
    ]);
    page.bars(&by_number(table));
    page.heading("Pictures");
    page.paragraph(
        "Left: the regions kept, the one drawn for the first epoch (yellow) and the rectangle that its views are cut from (red). \
         Right: the views.",
    );
    let streams = Streams::new(config.seed);
    let kinds = config.views.kinds();
    let count = count.min(pictures.len());
    for n in (0..count).map(|i| i * pictures.len() / count) {
        let image = pictures.decoded(n)?;
        let regions = table.regions.get(n).map_or(&[][..], Vec::as_slice);
        let drawn =
            sample(&image, regions, &config.regions, &kinds, &streams, &[0, pictures.number(n) as u64])?;
        let mut left = overlay(&image, &as_masks(&image, regions), &Prompts::default())?.into_raw();
        let size = [image.width(), image.height()];
        outline(&mut left, size, drawn.frame, FRAME);
        if let Some(region) = drawn.region {
            outline(&mut left, size, region, BOX);
        }
        let left = Image::from_raw(size[0], size[1], left)?;
        let right = strip(&drawn.views)?;
        let caption = format!("{}: {} regions", pictures.picture(n).sample.id, regions.len());
        page.pictures(&[
            Picture { caption: &caption, image: left.rgb() },
            Picture { caption: "views", image: right.rgb() },
        ]);
    }
    Ok(page)
}

/// How many pictures have how many regions.
fn by_number(table: &Table) -> Bars {
    let ranges = [(0, 0), (1, 1), (2, 3), (4, 7), (8, 15), (16, 31), (32, usize::MAX)];
    let name = |(least, most): (usize, usize)| match (least, most) {
        (a, usize::MAX) => format!("{a} or more"),
        (a, b) if a == b => a.to_string(),
        (a, b) => format!("{a} to {b}"),
    };
    let count = |(least, most): (usize, usize)| {
        table.regions.iter().filter(|regions| (least..=most).contains(&regions.len())).count() as f64
    };
    Bars {
        title: "Pictures by their number of regions".to_owned(),
        labels: ranges.map(name).to_vec(),
        series: vec![BarSeries { name: "pictures".to_owned(), values: ranges.map(count).to_vec() }],
        full: None,
    }
}

/// Regions in the form that pictures are overlaid by.
fn as_masks(image: &Image, regions: &[Region]) -> ImageMasks {
    let (width, height) = (image.width(), image.height());
    let mask = |region: &Region| {
        let [x, y, w, h] = region.bbox.map(|v| v as usize);
        let rle = region.mask.clone().unwrap_or_else(|| {
            Rle::from_fn(width as usize, height as usize, |u, v| {
                (x..x + w).contains(&u) && (y..y + h).contains(&v)
            })
        });
        MaskRecord {
            bbox: rle.inclusive_box().to_xywh(),
            area: rle.area(),
            segmentation: rle,
            predicted_iou: f64::NAN,
            stability_score: f64::NAN,
            point_coords: Vec::new(),
            crop_box: [0.0, 0.0, f64::from(width), f64::from(height)],
        }
    };
    ImageMasks {
        image: ImageRecord { path: String::new(), width, height },
        model: String::new(),
        masks: regions.iter().map(mask).collect(),
    }
}

/// Draws a rectangle (left, top, width, height) two pixels wide, inside.
fn outline(pixels: &mut [u8], [width, height]: [u32; 2], [x, y, w, h]: [u32; 4], colour: [u8; 3]) {
    for (n, pixel) in pixels.as_chunks_mut::<3>().0.iter_mut().enumerate() {
        let (u, v) = (n as u32 % width, n as u32 / width);
        let inside = (x..x + w).contains(&u) && (y..y + h).contains(&v);
        let deep = u >= x + 2 && u + 2 < (x + w).min(width) && v >= y + 2 && v + 2 < (y + h).min(height);
        if inside && !deep {
            *pixel = colour;
        }
    }
}

/// Views side by side, on white.
fn strip(views: &[(u32, Vec<u8>)]) -> Result<Image, ContrastiveError> {
    const GAP: u32 = 4;
    let height = views.iter().map(|(size, _)| *size).max().unwrap_or(1);
    let width = views.iter().map(|(size, _)| size + GAP).sum::<u32>().max(GAP + 1) - GAP;
    let mut pixels = vec![255; (3 * width * height) as usize];
    let mut left = 0;
    for (size, view) in views {
        for (row, source) in view.chunks_exact(3 * *size as usize).enumerate() {
            let at = 3 * (row * width as usize + left as usize);
            pixels[at..at + source.len()].copy_from_slice(source);
        }
        left += size + GAP;
    }
    Ok(Image::from_raw(width, height, pixels)?)
}
