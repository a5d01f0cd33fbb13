//! Which regions of a picture's labels are objects.

use kirie_data::datasets::{Class, Dataset, Labels};
use kirie_mask::{BBox, Mask, Rle};
use serde::Serialize;

use super::EvaluateError;

/// What to take for objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TruthOptions {
    /// COCO's crowd regions count as objects, as in the published protocol.
    pub crowd: bool,
    /// The regions of all annotators; without it those of the first alone.
    pub all_annotators: bool,
    /// Objects without a pixel, or of a stated area below 1, count as well: no answer fits them.
    pub keep_empty: bool,
}

impl Default for TruthOptions {
    /// The published protocol's.
    fn default() -> Self {
        Self { crowd: true, all_annotators: false, keep_empty: false }
    }
}

/// An object to ask for.
#[derive(Clone, Debug, PartialEq)]
pub struct Object {
    /// Its place among the regions of the picture's labels, from 0.
    pub index: usize,
    /// Id of its class.
    pub class: Option<u32>,
    /// Its pixels, those to ignore left out; at least one, unless [`TruthOptions::keep_empty`].
    pub mask: Rle,
    /// Its box: COCO's own where the file states one, else that of the pixels, outer edges.
    pub bbox: BBox,
    /// Its area in square pixels, as the label file states it (COCO) or as measured.
    pub area: f64,
    /// A region of many objects.
    pub crowd: bool,
}

impl Object {
    /// Its pixels one by one.
    pub(super) fn bitmap(&self) -> Mask {
        self.mask.to_mask()
    }
}

/// What a picture's labels say for this evaluation.
///
/// - Instances, and regions without classes, are an object each.
/// - In a class mask every class that occurs is one object, however many pieces it is in. Classes that are background
///   by name are none.
/// - Regions to ignore (class [`ClassMap::IGNORE`](kirie_data::datasets::ClassMap::IGNORE), crowd regions without
///   a class) are no objects, and their pixels are taken out of truth and answer alike.
/// - COCO's crowd regions are objects if [`TruthOptions::crowd`] says so, and else nothing.
/// - Left out and counted in [`Skipped`]: objects of which only a box is known, of which no pixel is
///   left, or whose stated area is below 1.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Truth {
    /// The objects, in the order of the labels.
    pub objects: Vec<Object>,
    /// Pixels that count neither way.
    pub ignore: Option<Rle>,
    /// Objects left out.
    pub skipped: Skipped,
}

/// Objects that were left out, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Skipped {
    /// Only the box is known.
    pub without_mask: u64,
    /// No pixel, or an area below 1.
    pub empty: u64,
    /// COCO crowd regions, where they are not asked for.
    pub crowd: u64,
}

impl Skipped {
    /// Counts of both.
    pub(super) fn add(&mut self, other: Self) {
        self.without_mask += other.without_mask;
        self.empty += other.empty;
        self.crowd += other.crowd;
    }

    /// All together.
    pub fn total(self) -> u64 {
        self.without_mask + self.empty + self.crowd
    }
}

impl Truth {
    /// The objects in the labels of a picture of `width` x `height`.
    ///
    /// # Errors
    /// [`EvaluateError::Mask`] for labels of another size.
    pub fn new(
        dataset: &Dataset,
        labels: Labels,
        (width, height): (u32, u32),
        options: TruthOptions,
    ) -> Result<Self, EvaluateError> {
        let regions = match labels {
            Labels::None | Labels::Tags(_) => Vec::new(),
            Labels::Instances { instances, .. } => instances,
            Labels::ClassMap(map) => map.regions(),
        };
        let mut truth = Self::default();
        let mut ignored = Vec::new();
        for (index, region) in regions.into_iter().enumerate() {
            if region.class.and_then(|id| dataset.class(id)).is_some_and(Class::is_background) {
                continue;
            }
            if region.annotator > 0 && !options.all_annotators {
                continue;
            }
            let mask = region.mask(width, height)?;
            if region.crowd && region.class.is_none() {
                ignored.extend(mask);
                continue;
            }
            let skipped = &mut truth.skipped;
            let Some(mask) = mask else {
                skipped.without_mask += 1;
                continue;
            };
            if region.crowd && !options.crowd {
                skipped.crowd += 1;
                continue;
            }
            let bbox = usable_box(region.bbox, &mask);
            let (class, area, crowd) = (region.class, region.area, region.crowd);
            truth.objects.push(Object { index, class, mask, bbox, area, crowd });
        }
        if !ignored.is_empty() {
            let ignore = Rle::merge(&ignored, false)?;
            for object in &mut truth.objects {
                object.mask = without(&object.mask, &ignore)?;
            }
            truth.ignore = (ignore.area() > 0).then_some(ignore);
        }
        if !options.keep_empty {
            let before = truth.objects.len();
            truth.objects.retain(|object| object.area >= 1.0 && object.mask.area() > 0);
            truth.skipped.empty = (before - truth.objects.len()) as u64;
        }
        Ok(truth)
    }

    /// A mask without the pixels to ignore.
    pub(super) fn visible(&self, mask: Rle) -> Result<Rle, EvaluateError> {
        match &self.ignore {
            Some(ignore) => without(&mask, ignore),
            None => Ok(mask),
        }
    }
}

/// The stated box, or that of the pixels where no model could be asked with the stated one.
fn usable_box(stated: BBox, mask: &Rle) -> BBox {
    let (width, height) = (mask.width() as f64, mask.height() as f64);
    let finite = [stated.x0, stated.y0, stated.x1, stated.y1].iter().all(|v| v.is_finite());
    let proper = stated.x0 < stated.x1 && stated.y0 < stated.y1;
    let inside = stated.x0 < width && stated.y0 < height && stated.x1 > 0.0 && stated.y1 > 0.0;
    if finite && proper && inside { stated } else { BBox::from_xywh(mask.bbox_xywh().map(f64::from)) }
}

/// The pixels of `mask` that are not in `other`.
fn without(mask: &Rle, other: &Rle) -> Result<Rle, EvaluateError> {
    let counts = match other.counts() {
        [0, rest @ ..] => rest.to_vec(),
        all => std::iter::once(0).chain(all.iter().copied()).collect(),
    };
    let rest = Rle::from_counts(other.height(), other.width(), counts)?;
    Ok(Rle::merge(&[mask.clone(), rest], true)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn taking_pixels_away() {
        let mask = Rle::from_fn(6, 4, |x, _| x < 4);
        let other = Rle::from_fn(6, 4, |_, y| y == 0);
        let expected = Mask::from_fn(6, 4, |x, y| x < 4 && y > 0);
        assert_eq!(without(&mask, &other).unwrap().to_mask(), expected);
        let nothing = Rle::from_mask(&Mask::new(6, 4));
        assert_eq!(without(&mask, &nothing).unwrap(), mask);
        let all = Rle::from_fn(6, 4, |_, _| true);
        assert_eq!(without(&mask, &all).unwrap(), nothing);
        assert!(without(&mask, &Rle::from_mask(&Mask::new(4, 6))).is_err());
    }

    #[test]
    fn boxes_that_no_model_could_take() {
        let mask = Rle::from_fn(6, 4, |x, y| x == 2 && y > 1);
        let own = BBox::new(2.0, 2.0, 3.0, 4.0);
        let stated = BBox::new(1.5, 1.0, 9.0, 4.0);
        assert_eq!(usable_box(stated, &mask), stated);
        for bad in
            [BBox::new(2.0, 2.0, 2.0, 4.0), BBox::new(7.0, 0.0, 9.0, 4.0), BBox::new(f64::NAN, 0.0, 9.0, 4.0)]
        {
            assert_eq!(usable_box(bad, &mask), own);
        }
    }
}
