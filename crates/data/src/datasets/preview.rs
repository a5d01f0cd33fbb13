//! A contact sheet: some pictures of a dataset with their labels laid over them.

use std::collections::BTreeSet;

use ::image::{Rgb, RgbImage, imageops};
use kirie_mask::{BBox, Rle};
use rayon::prelude::*;

use super::labels::{Instance, Labels};
use super::{Dataset, Sample, check_frame};
use crate::write::{LETTER, color, fill, paint, paint_box, text};
use crate::{DataError, Image, resize_bilinear};

const PAPER: Rgb<u8> = Rgb([28, 28, 31]);
const INK: Rgb<u8> = Rgb([232, 232, 232]);
const WARNING: Rgb<u8> = Rgb([255, 128, 112]);
const FAINT: Rgb<u8> = Rgb([90, 40, 40]);
/// Pixels between cells.
const GAP: u32 = 8;
/// Height of a line of text, pixels: a letter, with space.
const LINE: u32 = 22;
/// Width of outlines, pixels.
const OUTLINE: f64 = 1.5;
/// Classes that the legend names at most.
const LEGEND: usize = 60;

/// How [`preview`] draws.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PreviewOptions {
    /// Pictures shown, at most.
    pub count: usize,
    /// Pictures side by side.
    pub columns: usize,
    /// Which pictures are drawn from the set; the same seed shows the same.
    pub seed: u64,
    /// Width and height that a picture is fitted into, pixels.
    pub cell: (u32, u32),
}

impl Default for PreviewOptions {
    fn default() -> Self {
        Self { count: 24, columns: 6, seed: 0, cell: (320, 240) }
    }
}

/// What [`preview`] made.
#[derive(Debug)]
pub struct ContactSheet {
    /// The sheet.
    pub sheet: Image,
    /// The pictures on it, row by row.
    pub shown: Vec<Shown>,
}

/// A picture on a contact sheet.
#[derive(Debug)]
pub struct Shown {
    /// Its place in [`Dataset::samples`].
    pub index: usize,
    /// Why the picture, or its labels, are missing.
    pub problem: Option<DataError>,
}

/// Some pictures of a dataset, chosen at random, with their labels, names and a legend of classes.
///
/// Objects and regions have the colour of their class, or each its own where there are no classes. What cannot be read
/// leaves a red cell.
///
/// # Errors
/// [`DataError::ZeroSize`] when nothing is to be shown, [`DataError::TooLarge`] for a sheet beyond the dataset's
/// [`Limits`](crate::Limits).
pub fn preview(dataset: &Dataset, options: &PreviewOptions) -> Result<ContactSheet, DataError> {
    let chosen = choose(dataset.samples.len(), options.count, options.seed);
    let columns = options.columns.clamp(1, chosen.len().max(1)) as u64;
    let rows = (chosen.len() as u64).div_ceil(columns);
    let (cell_width, cell_height) = options.cell;
    let (step_x, step_y) =
        (u64::from(cell_width) + u64::from(GAP), u64::from(cell_height) + u64::from(GAP + LINE));
    if chosen.is_empty() || cell_width == 0 || cell_height == 0 {
        return Err(DataError::ZeroSize { width: cell_width, height: cell_height });
    }
    let side = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
    let width = side((columns.saturating_mul(step_x)).saturating_add(GAP.into()));
    let grid_height = side((rows.saturating_mul(step_y)).saturating_add(GAP.into()));
    dataset.limits.check("the contact sheet", width, grid_height)?;

    let samples: Vec<&Sample> = chosen.iter().filter_map(|&index| dataset.samples.get(index)).collect();
    let cells: Vec<Cell> = samples.par_iter().map(|sample| cell(dataset, sample, options.cell)).collect();
    let shown: BTreeSet<u32> = cells.iter().flat_map(|cell| cell.classes.iter().copied()).collect();
    let legend = Legend::new(dataset, &shown, width);

    let mut sheet = RgbImage::from_pixel(width, grid_height.saturating_add(legend.height()), PAPER);
    for (i, (cell, sample)) in (0..).zip(cells.iter().zip(samples)) {
        let (x, y) = (u64::from(GAP) + i % columns * step_x, u64::from(GAP) + i / columns * step_y);
        let (x, y) = (side(x), side(y));
        let mut left = x;
        match &cell.picture {
            Some(picture) => {
                left = x + (cell_width - picture.width().min(cell_width)) / 2;
                let top = y + (cell_height - picture.height().min(cell_height)) / 2;
                imageops::replace(&mut sheet, picture.rgb(), left.into(), top.into());
            }
            None => fill(&mut sheet, [x, y, cell_width, cell_height], FAINT),
        }
        let ink = if cell.problem.is_some() { WARNING } else { INK };
        caption(&mut sheet, [x, left, y + cell_height + 3], cell_width, &cell.caption(dataset, sample), ink);
    }
    legend.draw(&mut sheet, grid_height);
    let problems = cells.into_iter().map(|cell| cell.problem);
    let shown = chosen.into_iter().zip(problems).map(|(index, problem)| Shown { index, problem }).collect();
    Ok(ContactSheet { sheet: Image::try_from(sheet)?, shown })
}

/// A sample as it is shown.
struct Cell {
    picture: Option<Image>,
    classes: Vec<u32>,
    /// Classes known without a place.
    tags: Vec<u32>,
    /// What is wrong with it.
    problem: Option<DataError>,
}

impl Cell {
    fn caption(&self, dataset: &Dataset, sample: &Sample) -> String {
        let mut text = sample.id.clone();
        for class in self.tags.iter().filter_map(|&tag| dataset.class(tag)) {
            // Where folders are the classes, names begin with them.
            if !text.starts_with(&format!("{}/", class.name)) {
                text = format!("{}: {text}", class.name);
            }
        }
        if self.problem.is_some() { format!("! {text}") } else { text }
    }
}

fn cell(dataset: &Dataset, sample: &Sample, room: (u32, u32)) -> Cell {
    let mut cell = Cell { picture: None, classes: Vec::new(), tags: Vec::new(), problem: None };
    match filled(dataset, sample, room, &mut cell) {
        Ok(()) => cell,
        Err(problem) => Cell { problem: Some(problem), ..cell },
    }
}

/// Fills a cell as far as it can be.
fn filled(dataset: &Dataset, sample: &Sample, room: (u32, u32), cell: &mut Cell) -> Result<(), DataError> {
    let picture = dataset.picture(sample)?;
    let size = (picture.width(), picture.height());
    // Labels are drawn at the size they are seen in, or their lines would be too thin to see, or all there is to see.
    let mut fitting = fitted(&picture, room)?;
    let labels =
        dataset.labels(sample).and_then(|labels| check_frame(sample, &labels, size).map(|()| labels));
    if let Ok(labels) = &labels {
        draw(dataset, &mut fitting, size, labels);
        match labels {
            Labels::Tags(tags) => cell.tags.clone_from(tags),
            other => cell.classes = other.tags(),
        }
    }
    cell.picture = Some(fitting);
    labels.map(drop)
}

/// Lays labels of a picture of `size` over that picture as it is shown.
fn draw(dataset: &Dataset, picture: &mut Image, size: (u32, u32), labels: &Labels) {
    let instances = match labels {
        Labels::None | Labels::Tags(_) => return,
        Labels::Instances { instances, .. } => {
            // Regions of several people would hide each other.
            instances.iter().filter(|instance| instance.annotator == 0).cloned().collect()
        }
        Labels::ClassMap(map) => {
            let mut regions = map.regions();
            regions.retain(|region| {
                region.class.and_then(|id| dataset.class(id)).is_some_and(|class| !class.is_background())
            });
            regions
        }
    };
    let of = |(index, instance): (usize, &Instance)| match instance.class.and_then(|id| dataset.class(id)) {
        Some(class) if dataset.classes.iter().filter(|class| !class.is_background()).count() > 1 => {
            class.color
        }
        _ if instance.crowd => [128; 3],
        _ => color(index),
    };
    let shown = (picture.width(), picture.height());
    let scale_x = f64::from(shown.0) / f64::from(size.0);
    let scale_y = f64::from(shown.1) / f64::from(size.1);
    let painted = instances.iter().enumerate().map(|(i, instance)| {
        let mask = instance.mask(size.0, size.1).ok().flatten().map(|mask| scaled(&mask, shown));
        let BBox { x0, y0, x1, y1 } = instance.bbox;
        let bbox = BBox::new(x0 * scale_x, y0 * scale_y, x1 * scale_x, y1 * scale_y);
        (mask, bbox, of((i, instance)))
    });
    let mut painted: Vec<_> = painted.collect();
    painted.sort_by_key(|(mask, ..)| std::cmp::Reverse(mask.as_ref().map(Rle::area)));
    paint(picture, painted.iter().filter_map(|(mask, _, color)| Some((mask.as_ref()?, *color))), OUTLINE);
    for (_, bbox, color) in painted.iter().filter(|(mask, ..)| mask.is_none()) {
        paint_box(picture, bbox, *color, OUTLINE);
    }
}

/// The mask in a frame of another size. Made smaller it keeps its finest lines: they are what people look for.
fn scaled(mask: &Rle, (width, height): (u32, u32)) -> Rle {
    let (width, height) = (width as usize, height as usize);
    let (old_width, old_height) = (mask.width(), mask.height());
    if (width, height) == (old_width, old_height) {
        return mask.clone();
    }
    if width >= old_width && height >= old_height {
        let old = mask.to_mask();
        let at = |x: usize, y: usize| {
            old.get((2 * x + 1) * old_width / (2 * width), (2 * y + 1) * old_height / (2 * height))
        };
        return Rle::from_fn(width, height, at);
    }
    let mut pixels = vec![false; width * height];
    let [left, top, part_width, part_height] = mask.bbox_xywh().map(|v| v as usize);
    if let Ok(part) = mask.crop(left, top, part_width, part_height) {
        let part = part.to_mask();
        for y in 0..part.height() {
            let row = (top + y) * height / old_height * width;
            for (x, _) in part.row(y).iter().enumerate().filter(|(_, set)| **set) {
                pixels[row + (left + x) * width / old_width] = true;
            }
        }
    }
    Rle::from_fn(width, height, |x, y| pixels[y * width + x])
}

/// The picture at the largest size that fits, aspect kept.
fn fitted(picture: &Image, (width, height): (u32, u32)) -> Result<Image, DataError> {
    let scale = f64::min(
        f64::from(width) / f64::from(picture.width()),
        f64::from(height) / f64::from(picture.height()),
    );
    let side = |own: u32, room: u32| ((f64::from(own) * scale).round() as u32).clamp(1, room);
    resize_bilinear(picture, side(picture.width(), width), side(picture.height(), height))
}

/// `count` of the numbers below `all`, ascending, drawn with a generator of its own (SplitMix64), so that a seed means
/// the same everywhere and for ever.
fn choose(all: usize, count: usize, seed: u64) -> Vec<usize> {
    let mut state = seed;
    let mut next = move || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    };
    let mut numbers: Vec<usize> = (0..all).collect();
    let count = count.min(all);
    for i in 0..count {
        let other = i + (next() % (all - i) as u64) as usize;
        numbers.swap(i, other);
    }
    numbers.truncate(count);
    numbers.sort_unstable();
    numbers
}

/// Classes by colour, in as many columns as fit.
struct Legend {
    entries: Vec<(String, Rgb<u8>)>,
    columns: u32,
    column_width: u32,
}

impl Legend {
    fn new(dataset: &Dataset, shown: &BTreeSet<u32>, width: u32) -> Self {
        let named: Vec<_> = dataset
            .classes
            .iter()
            .filter(|class| shown.contains(&class.id) && !class.is_background())
            .collect();
        // One class needs no colour: its objects are told apart by theirs.
        let several = dataset.classes.iter().filter(|class| !class.is_background()).count() > 1;
        let named = if several { named } else { Vec::new() };
        let more = named.len().saturating_sub(LEGEND);
        let mut entries: Vec<(String, Rgb<u8>)> =
            named.into_iter().take(LEGEND).map(|class| (class.name.clone(), Rgb(class.color))).collect();
        if more > 0 {
            entries.push((format!("and {more} more"), PAPER));
        }
        let longest = entries.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0) as u32;
        let column_width = (longest.saturating_mul(LETTER)).saturating_add(LINE + 2 * GAP).min(width.max(1));
        Self { entries, columns: (width / column_width).max(1), column_width }
    }

    fn height(&self) -> u32 {
        let rows = (self.entries.len() as u32).div_ceil(self.columns);
        if rows == 0 { 0 } else { rows * LINE + GAP }
    }

    fn draw(&self, sheet: &mut RgbImage, top: u32) {
        for (i, (name, color)) in (0..).zip(&self.entries) {
            let (x, y) = (GAP + i % self.columns * self.column_width, top + i / self.columns * LINE);
            fill(sheet, [x, y, 16, 16], *color);
            text(sheet, x + LINE, y, name, INK);
        }
    }
}

/// A name in the cell from `x`, `width` wide, under a picture from `left`; of one too long the end is kept, which tells
/// more.
fn caption(sheet: &mut RgbImage, [x, left, y]: [u32; 3], width: u32, name: &str, ink: Rgb<u8>) {
    let room = (width / LETTER) as usize;
    let length = name.chars().count();
    let shown: String = name.chars().skip(length.saturating_sub(room)).collect();
    let spare = width.saturating_sub(length.min(room) as u32 * LETTER);
    text(sheet, left.min(x + spare), y, &shown, ink);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scaled_masks_keep_fine_lines() {
        let line = Rle::from_fn(100, 80, |x, y| y == 41 && (10..90).contains(&x));
        let small = scaled(&line, (25, 20));
        assert_eq!(small, Rle::from_fn(25, 20, |x, y| y == 10 && (2..23).contains(&x)));
        let large = scaled(&small, (50, 40));
        assert_eq!(large, Rle::from_fn(50, 40, |x, y| y / 2 == 10 && (4..46).contains(&x)));
        assert_eq!(scaled(&Rle::from_fn(9, 9, |_, _| false), (3, 3)).area(), 0);
        assert_eq!(scaled(&Rle::from_fn(100, 80, |_, _| true), (33, 27)).area(), 33 * 27);
    }

    #[test]
    fn a_seed_chooses_the_same_and_no_sample_twice() {
        let chosen = choose(1000, 50, 7);
        assert_eq!(chosen, choose(1000, 50, 7));
        assert_ne!(chosen, choose(1000, 50, 8));
        assert!(chosen.windows(2).all(|pair| pair[0] < pair[1]) && chosen.len() == 50);
        assert_eq!(choose(3, 10, 0), [0, 1, 2]);
        assert_eq!(choose(0, 10, 0), [] as [usize; 0]);
    }
}
