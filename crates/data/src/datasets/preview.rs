//! A contact sheet: some pictures of a dataset with their labels laid over them.

use std::collections::BTreeSet;

use ::image::{Rgb, RgbImage, imageops};
use font8x8::UnicodeFonts;
use rayon::prelude::*;

use super::labels::{Instance, Labels};
use super::{Dataset, Sample, check_frame};
use crate::write::{color, paint, paint_box};
use crate::{DataError, Image, resize_bilinear};

const PAPER: Rgb<u8> = Rgb([28, 28, 31]);
const INK: Rgb<u8> = Rgb([232, 232, 232]);
const FAINT: Rgb<u8> = Rgb([90, 40, 40]);
/// Pixels between cells.
const GAP: u32 = 8;
/// Height of a line of text, pixels: letters of 8, doubled, with space.
const LINE: u32 = 22;
/// Width of a letter, pixels, at single size.
const LETTER: u32 = 8;
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

/// Some pictures of a dataset, chosen at random, with their labels, names and a legend of classes.
///
/// Objects and regions have the colour of their class, or each its own where there are no classes. What cannot be read
/// leaves a red cell.
///
/// # Errors
/// [`DataError::ZeroSize`] when nothing is to be shown, [`DataError::TooLarge`] for a sheet beyond the dataset's
/// [`Limits`](crate::Limits).
pub fn preview(dataset: &Dataset, options: &PreviewOptions) -> Result<Image, DataError> {
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
        match &cell.picture {
            Some(picture) => {
                let left = x + (cell_width - picture.width().min(cell_width)) / 2;
                let top = y + (cell_height - picture.height().min(cell_height)) / 2;
                imageops::replace(&mut sheet, picture.rgb(), left.into(), top.into());
            }
            None => fill(&mut sheet, [x, y, cell_width, cell_height], FAINT),
        }
        caption(&mut sheet, x, y + cell_height + 3, cell_width, &cell.caption(dataset, sample));
    }
    legend.draw(&mut sheet, grid_height);
    Image::try_from(sheet)
}

/// A sample as it is shown.
struct Cell {
    picture: Option<Image>,
    classes: Vec<u32>,
    /// Classes known without a place.
    tags: Vec<u32>,
    /// What is wrong with it.
    problem: bool,
}

impl Cell {
    fn caption(&self, dataset: &Dataset, sample: &Sample) -> String {
        let mut text = sample.id.clone();
        for class in self.tags.iter().filter_map(|&tag| dataset.class(tag)) {
            text = format!("{}: {text}", class.name);
        }
        if self.problem { format!("! {text}") } else { text }
    }
}

fn cell(dataset: &Dataset, sample: &Sample, room: (u32, u32)) -> Cell {
    let mut cell = Cell { picture: None, classes: Vec::new(), tags: Vec::new(), problem: true };
    let Ok(mut picture) = dataset.picture(sample) else { return cell };
    let size = (picture.width(), picture.height());
    let labels = dataset.labels(sample);
    if let Ok(labels) = labels.and_then(|labels| check_frame(sample, &labels, size).map(|()| labels)) {
        draw(dataset, &mut picture, &labels);
        cell.problem = false;
        match &labels {
            Labels::Tags(tags) => cell.tags.clone_from(tags),
            other => cell.classes = other.tags(),
        }
    }
    cell.picture = fitted(&picture, room).ok();
    cell
}

/// Lays labels over their picture.
fn draw(dataset: &Dataset, picture: &mut Image, labels: &Labels) {
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
    let (width, height) = (picture.width(), picture.height());
    let painted = instances.iter().enumerate().map(|(i, instance)| {
        let mask = instance.mask(width, height).ok().flatten();
        (mask, instance.bbox, of((i, instance)))
    });
    let mut painted: Vec<_> = painted.collect();
    painted.sort_by_key(|(mask, ..)| std::cmp::Reverse(mask.as_ref().map(kirie_mask::Rle::area)));
    paint(picture, painted.iter().filter_map(|(mask, _, color)| Some((mask.as_ref()?, *color))));
    for (_, bbox, color) in painted.iter().filter(|(mask, ..)| mask.is_none()) {
        paint_box(picture, bbox, *color);
    }
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
        let column_width =
            (longest.saturating_mul(2 * LETTER)).saturating_add(LINE + 2 * GAP).min(width.max(1));
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
            text(sheet, x + LINE, y, 2, name);
        }
    }
}

/// A name below a picture, in large letters where they fit; of one too long the end is kept, which tells more.
fn caption(sheet: &mut RgbImage, x: u32, y: u32, width: u32, name: &str) {
    let length = name.chars().count() as u32;
    let scale = if length.saturating_mul(2 * LETTER) <= width { 2 } else { 1 };
    let room = (width / (scale * LETTER)) as usize;
    let start = (length as usize).saturating_sub(room);
    let shown: String = name.chars().skip(start).collect();
    text(sheet, x, y + if scale == 1 { LETTER / 2 } else { 0 }, scale, &shown);
}

/// Text in letters of 8x8 pixels, times `scale`. Letters the font lacks become `?`.
fn text(sheet: &mut RgbImage, x: u32, y: u32, scale: u32, text: &str) {
    let find = |letter| font8x8::BASIC_FONTS.get(letter).or_else(|| font8x8::LATIN_FONTS.get(letter));
    // No more than the sheet can show.
    let room = sheet.width() / LETTER;
    for (i, letter) in (0..room).zip(text.chars()) {
        let Some(rows) = find(letter).or_else(|| find('?')) else { continue };
        for (row, bits) in (0..).zip(rows) {
            for column in (0..LETTER).filter(|column| bits >> column & 1 == 1) {
                let at = [x + (i * LETTER + column) * scale, y + row * scale, scale, scale];
                fill(sheet, at, INK);
            }
        }
    }
}

/// Fills the part of a rectangle (x, y, width, height) that lies on the sheet.
fn fill(sheet: &mut RgbImage, [x, y, width, height]: [u32; 4], color: Rgb<u8>) {
    for y in y..y.saturating_add(height).min(sheet.height()) {
        for x in x..x.saturating_add(width).min(sheet.width()) {
            sheet.put_pixel(x, y, color);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
