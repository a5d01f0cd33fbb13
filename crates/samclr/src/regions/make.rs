//! The regions of all pictures of a run.

use std::ops::ControlFlow;

use kirie_data::datasets::{Labels, Layout, Segmentation};
use kirie_data::{ImageMasks, ImageRecord};
use kirie_engine::random::{Streams, unit};
use kirie_mask::{Connectivity, Mask, Rle, label};
use kirie_run::{Progress, ProgressMode, Stop};
use kirie_sam::{Engine, MaskGeneratorOptions, SamError, mask_generator};
use rand::Rng;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::cache::{Entry, RegionCache, picture_key};
use super::merge::merge_nested;
use super::{Region, RegionsConfig, Source, Without};
use crate::data::{Picture, Pictures};
use crate::error::ContrastiveError;

/// A model that finds everything in a picture, and where its masks are kept.
pub struct RegionModel<'a> {
    /// The model.
    pub engine: &'a dyn Engine,
    /// How it looks.
    pub options: MaskGeneratorOptions,
    /// Its masks so far.
    pub cache: RegionCache,
}

/// The regions of all pictures, by the pictures' order; an empty list for a picture that is taken whole.
#[derive(Clone, Debug, Default)]
pub struct Table {
    /// Regions by picture.
    pub regions: Vec<Vec<Region>>,
    /// How many there are.
    pub count: RegionCount,
}

/// How many regions there are; for the log and the report.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RegionCount {
    /// Pictures looked at.
    pub pictures: usize,
    /// Regions found, before filters.
    pub found: usize,
    /// Regions kept.
    pub kept: usize,
    /// Pictures in which none is left.
    pub without: usize,
    /// Mean share of a picture that a kept region takes.
    pub mean_share: f64,
    /// Share of kept regions that touch an edge of their picture.
    pub at_edge: f64,
    /// Pictures that the model looked at in this process; those of the others were kept from before.
    pub made: usize,
    /// Files of the cache that were damaged, and made anew.
    pub damaged: usize,
}

/// Finds the regions of all pictures; those of a model are taken from its cache or kept there. Pictures that the settings leave out
/// are taken out of `pictures`.
///
/// # Errors
/// Pictures or labels that cannot be read, a cache that cannot be written, [`ContrastiveError::Stopped`],
/// [`ContrastiveError::NoRegion`] where the settings ask for it.
pub fn of_pictures(
    pictures: &mut Pictures,
    config: &RegionsConfig,
    model: Option<&RegionModel<'_>>,
    seed: u64,
    stop: &Stop,
    mode: ProgressMode,
) -> Result<Table, ContrastiveError> {
    config.check()?;
    let streams = Streams::new(seed);
    let mut table = Table::default();
    let mut found: Vec<(Vec<Region>, [u32; 2])> = Vec::with_capacity(pictures.len());
    match &config.source {
        Source::Whole => {
            table.regions = vec![Vec::new(); pictures.len()];
            table.count.pictures = pictures.len();
            return Ok(table);
        }
        Source::Model(_) | Source::Moved(_) => {
            let Some(model) = model else {
                return Err(ContrastiveError::setting(
                    "regions.source",
                    "a model's",
                    "a model that is loaded",
                ));
            };
            let masks = by_model(pictures, model, &mut table.count, stop, mode)?;
            let join = |masks: ImageMasks| -> Result<_, ContrastiveError> {
                let size = [masks.image.width, masks.image.height];
                let masks: Vec<Rle> = masks.masks.into_iter().map(|mask| mask.segmentation).collect();
                Ok((objects(masks, config, size)?, size))
            };
            found = masks.into_par_iter().map(join).collect::<Result<_, _>>()?;
            if matches!(config.source, Source::Moved(_)) {
                for (n, (regions, size)) in found.iter_mut().enumerate() {
                    let mut rng = streams.stream("moved regions", &[n as u64]);
                    // By the boxes that would be drawn from, so that filters leave as many.
                    regions.retain(|region| region.is_kept(config, *size));
                    for region in regions {
                        *region = moved(region, *size, &mut rng);
                    }
                }
            }
        }
        Source::Truth => {
            let of = |picture: Picture<'_>| truth(&picture, config);
            found = (0..pictures.len())
                .into_par_iter()
                .map(|n| of(pictures.picture(n)))
                .collect::<Result<_, _>>()?;
        }
        Source::Random { count, area } => {
            for n in 0..pictures.len() {
                let size = pictures.picture(n).size()?;
                let mut rng = streams.stream("random regions", &[n as u64]);
                let regions =
                    (0..*count).map(|_| Region::of_box(random_box(size, *area, &mut rng))).collect();
                found.push((regions, size));
            }
        }
        Source::Grid { rows, columns } => {
            for n in 0..pictures.len() {
                let size = pictures.picture(n).size()?;
                found.push((grid(size, *rows, *columns), size));
            }
        }
    }
    keep(pictures, config, found, &mut table)?;
    Ok(table)
}

/// Filters, counts, and takes out the pictures that are not to be used.
fn keep(
    pictures: &mut Pictures,
    config: &RegionsConfig,
    found: Vec<(Vec<Region>, [u32; 2])>,
    table: &mut Table,
) -> Result<(), ContrastiveError> {
    let moved = matches!(config.source, Source::Moved(_));
    let (mut shares, mut edges) = (0.0, 0_usize);
    let mut used = Vec::with_capacity(found.len());
    table.count.pictures = found.len();
    for (n, (mut regions, size)) in found.into_iter().enumerate() {
        let count = &mut table.count;
        let all = regions.len();
        count.found += all;
        if !moved {
            regions.retain(|region| region.is_kept(config, size));
        }
        count.kept += regions.len();
        for region in &regions {
            let [x, y, w, h] = region.bbox;
            shares += region.area as f64 / (f64::from(size[0]) * f64::from(size[1]));
            edges += usize::from(x == 0 || y == 0 || x + w >= size[0] || y + h >= size[1]);
        }
        let mut keeps = true;
        if regions.is_empty() {
            count.without += 1;
            match config.without {
                Without::Whole => {}
                Without::Skip => keeps = false,
                Without::Error => {
                    return Err(ContrastiveError::NoRegion { name: pictures.picture(n).name(), found: all });
                }
            }
        }
        if keeps {
            used.push(n);
            table.regions.push(regions);
        }
    }
    let kept = table.count.kept.max(1) as f64;
    table.count.mean_share = shares / kept;
    table.count.at_edge = edges as f64 / kept;
    pictures.keep(&used);
    Ok(())
}

/// The masks that a model finds in all pictures.
fn by_model(
    pictures: &Pictures,
    model: &RegionModel<'_>,
    count: &mut RegionCount,
    stop: &Stop,
    mode: ProgressMode,
) -> Result<Vec<ImageMasks>, ContrastiveError> {
    let total = pictures.len();
    let mut progress = Progress::new("picture's regions", total as u64, 0, mode);
    let mut all = Vec::with_capacity(total);
    for n in 0..total {
        let picture = pictures.picture(n);
        let key = picture.key()?;
        let size = picture.size()?;
        let entry = model.cache.read(&key, size);
        if let Entry::Damaged(reason) = &entry {
            count.damaged += 1;
            progress.line(&format!("{} is made anew: {reason}", model.cache.path(&key).display()));
        }
        if let Entry::Masks(masks) = entry {
            all.push(masks);
        } else {
            let image = picture.read()?;
            let mut go_on =
                |_| if stop.requested() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) };
            let masks = match mask_generator::generate(model.engine, &image, &model.options, &mut go_on) {
                Err(SamError::Cancelled) => {
                    progress.finish();
                    return Err(ContrastiveError::Stopped { done: n, total });
                }
                masks => masks?,
            };
            let image = ImageRecord { path: picture.name(), width: image.width(), height: image.height() };
            let masks = ImageMasks { image, model: model.engine.model().to_owned(), masks };
            model.cache.write(&key, &masks)?;
            count.made += 1;
            all.push(masks);
        }
        progress.set(n as u64 + 1, "");
    }
    progress.finish();
    Ok(all)
}

/// One region an object: its largest mask.
fn objects(
    mut masks: Vec<Rle>,
    config: &RegionsConfig,
    [width, height]: [u32; 2],
) -> Result<Vec<Region>, ContrastiveError> {
    // What is too large must not swallow the objects in it first.
    let most = config.max_share * f64::from(width) * f64::from(height);
    masks.retain(|mask| mask.area() as f64 <= most);
    let objects = merge_nested(&masks, config.containment)?;
    Ok(objects.into_iter().filter_map(|o| masks.get(o.root).cloned()).map(Region::of_mask).collect())
}

/// The labelled objects of a picture; of a class map, the connected regions of every class but the background.
fn truth(picture: &Picture<'_>, config: &RegionsConfig) -> Result<(Vec<Region>, [u32; 2]), ContrastiveError> {
    let (image, labels) = picture.dataset.load(picture.sample)?;
    let size = [image.width(), image.height()];
    let (mut masks, mut boxes) = (Vec::new(), Vec::new());
    match labels {
        Labels::None | Labels::Tags(_) => {}
        Labels::Instances { instances, .. } => {
            for instance in instances.into_iter().filter(|instance| !instance.crowd) {
                if matches!(instance.segmentation, Segmentation::Box) {
                    boxes.extend(inside(&instance.bbox, size).map(Region::of_box));
                } else {
                    masks.extend(instance.mask(size[0], size[1])?);
                }
            }
        }
        Labels::ClassMap(map) => {
            let background = |class: Option<u32>| {
                class
                    .and_then(|id| picture.dataset.class(id))
                    .is_some_and(kirie_data::datasets::Class::is_background)
            };
            for region in map.regions().into_iter().filter(|r| !r.crowd && !background(r.class)) {
                if let Some(mask) = region.mask(size[0], size[1])? {
                    masks.extend(connected(&mask.to_mask(), config.min_area));
                }
            }
        }
    }
    let mut regions = objects(masks, config, size)?;
    regions.extend(boxes);
    Ok((regions, size))
}

/// A box with whole pixels inside the picture; `None` if there are none.
fn inside(bbox: &kirie_mask::BBox, [width, height]: [u32; 2]) -> Option<[u32; 4]> {
    let at = |value: f64, most: u32| value.clamp(0.0, f64::from(most)) as u32;
    let (x0, y0) = (at(bbox.x0.floor(), width), at(bbox.y0.floor(), height));
    let (x1, y1) = (at(bbox.x1.ceil(), width), at(bbox.y1.ceil(), height));
    (x1 > x0 && y1 > y0).then(|| [x0, y0, x1 - x0, y1 - y0])
}

/// The connected parts of a mask that have more than so many pixels.
pub(super) fn connected(mask: &Mask, least: u64) -> Vec<Rle> {
    let labels = label(mask, Connectivity::Eight);
    let (width, height) = (mask.width(), mask.height());
    (1..=labels.areas.len() as u32)
        .filter(|part| labels.areas[*part as usize - 1] > least)
        .map(|part| Rle::from_fn(width, height, |x, y| labels.labels.get(y * width + x) == Some(&part)))
        .collect()
}

/// The region's box somewhere else in the picture.
pub(super) fn moved(region: &Region, [width, height]: [u32; 2], rng: &mut impl Rng) -> Region {
    let [_, _, w, h] = region.bbox;
    let place = |free: u32, rng: &mut _| (unit(rng) * (f64::from(free) + 1.0)) as u32;
    let x = place(width.saturating_sub(w), rng);
    let y = place(height.saturating_sub(h), rng);
    Region { bbox: [x, y, w, h], area: region.area, mask: None }
}

/// A box of a random share of the picture's area, of sides between 1:2 and 2:1, somewhere in it.
pub(super) fn random_box([width, height]: [u32; 2], [least, most]: [f64; 2], rng: &mut impl Rng) -> [u32; 4] {
    let share = (least.ln() + (most.ln() - least.ln()) * unit(rng)).exp();
    let ratio = (2.0_f64.ln() * (2.0 * unit(rng) - 1.0)).exp();
    let area = share * f64::from(width) * f64::from(height);
    let side = |length: f64, whole: u32| (length.round() as u32).clamp(1, whole.max(1));
    let (w, h) = (side((area * ratio).sqrt(), width), side((area / ratio).sqrt(), height));
    let region = Region::of_box([0, 0, w, h]);
    moved(&region, [width, height], rng).bbox
}

/// Equal cells.
pub(super) fn grid([width, height]: [u32; 2], rows: u32, columns: u32) -> Vec<Region> {
    let edge = |i: u32, n: u32, whole: u32| (u64::from(i) * u64::from(whole) / u64::from(n)) as u32;
    let cell = |row: u32, column: u32| {
        let (x, y) = (edge(column, columns, width), edge(row, rows, height));
        [x, y, edge(column + 1, columns, width) - x, edge(row + 1, rows, height) - y]
    };
    let cells = (0..rows).flat_map(|row| (0..columns).map(move |column| cell(row, column)));
    cells.map(Region::of_box).collect()
}

impl Picture<'_> {
    /// What the picture's masks are kept under: the hash of its file, or of its pixels where a file holds many.
    fn key(&self) -> Result<String, ContrastiveError> {
        if matches!(self.dataset.layout, Layout::Cifar10 | Layout::Stl10) {
            return Ok(picture_key(self.read()?.as_raw()));
        }
        let bytes = std::fs::read(&self.sample.image)
            .map_err(|e| ContrastiveError::Cache { path: self.name(), reason: e.to_string() })?;
        Ok(picture_key(&bytes))
    }
}
