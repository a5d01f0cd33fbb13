//! Intersection over union of masks, of their boundaries, and its mean over the objects of a data set.

use kirie_mask::{Mask, MaskError, Rle, boundary};
use serde::{Deserialize, Serialize};

use crate::MetricsError;
use crate::error::finite;

/// How many pixels two masks share and cover together, from which every ratio below follows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Overlap {
    /// Pixels in both masks.
    pub intersection: u64,
    /// Pixels in at least one.
    pub union: u64,
}

impl Overlap {
    /// Of two masks in one frame.
    ///
    /// # Errors
    /// [`MaskError::FrameMismatch`] when the frames differ in size.
    pub fn of_masks(a: &Mask, b: &Mask) -> Result<Self, MetricsError> {
        same_frame((a.width(), a.height()), (b.width(), b.height()))?;
        let shared = a.as_slice().iter().zip(b.as_slice()).filter(|&(&a, &b)| a & b).count() as u64;
        Ok(Self { intersection: shared, union: a.area() + b.area() - shared })
    }

    /// Of two masks given as run lengths in one frame; no bitmap is made.
    ///
    /// # Errors
    /// [`MaskError::FrameMismatch`] when the frames differ in size.
    pub fn of_runs(a: &Rle, b: &Rle) -> Result<Self, MetricsError> {
        same_frame((a.width(), a.height()), (b.width(), b.height()))?;
        let shared = Rle::merge(&[a.clone(), b.clone()], true)?.area();
        Ok(Self { intersection: shared, union: a.area() + b.area() - shared })
    }

    /// Of the bands along the inner edges of two masks in one frame: Boundary IoU (Cheng et al. 2021), with
    /// bands of `max(1, round(dilation_ratio * diagonal))` pixels; see [`boundary`]. COCO, and the CoSAM
    /// benchmark, take 0.02. An object thinner than the band is all band: there the value equals plain IoU.
    ///
    /// # Errors
    /// [`MaskError::FrameMismatch`] when the frames differ in size.
    pub fn of_boundaries(a: &Mask, b: &Mask, dilation_ratio: f64) -> Result<Self, MetricsError> {
        same_frame((a.width(), a.height()), (b.width(), b.height()))?;
        Self::of_masks(&boundary(a, dilation_ratio), &boundary(b, dilation_ratio))
    }

    /// Intersection over union, 0 to 1; `None` when both masks are empty. The caller says what that is worth:
    /// 1 is fair when "nothing there" was the right answer, pycocotools gives 0, CoSAM's code NaN.
    pub fn iou(self) -> Option<f64> {
        (self.union > 0).then(|| self.intersection as f64 / self.union as f64)
    }

    /// `intersection / (union + 1e-7)`, as EfficientViT-SAM's evaluation computes it (there times 100): just
    /// below 1 for equal masks, 0 for two empty ones.
    pub fn iou_smoothed(self) -> f64 {
        self.intersection as f64 / (self.union as f64 + 1e-7)
    }

    /// Dice's coefficient `2 intersection / (area + area)`, 0 to 1; `None` when both masks are empty.
    pub fn dice(self) -> Option<f64> {
        // The two areas together are the union plus what is counted twice.
        let areas = self.union + self.intersection;
        (areas > 0).then(|| 2.0 * self.intersection as f64 / areas as f64)
    }
}

fn same_frame(expected: (usize, usize), found: (usize, usize)) -> Result<(), MaskError> {
    if expected == found { Ok(()) } else { Err(MaskError::FrameMismatch { expected, found }) }
}

/// COCO's limit between small and medium objects: 32 x 32 pixels.
pub const SMALL_AREA: f64 = 1024.0;
/// COCO's limit between medium and large objects: 96 x 96 pixels.
pub const LARGE_AREA: f64 = 9216.0;

/// COCO's size classes of objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SizeClass {
    /// Up to [`SMALL_AREA`].
    Small,
    /// From [`SMALL_AREA`] to [`LARGE_AREA`].
    Medium,
    /// From [`LARGE_AREA`].
    Large,
}

/// Where an object goes whose area is exactly 1024 or 9216 square pixels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SizeLimits {
    /// Into both classes, and so twice into the counts. This is what the code of EfficientViT-SAM's
    /// evaluation does, and that of pycocotools.
    #[default]
    Inclusive,
    /// Into neither, as the text of COCO's page says ("area < 32²", "32² < area < 96²", "area > 96²").
    Exclusive,
    /// Into the larger one, so that every object is in exactly one class.
    HalfOpen,
}

impl SizeLimits {
    /// Whether an object of `area` square pixels is in a class.
    pub fn contains(self, class: SizeClass, area: f64) -> bool {
        let (low, high) = match class {
            SizeClass::Small => (f64::NEG_INFINITY, SMALL_AREA),
            SizeClass::Medium => (SMALL_AREA, LARGE_AREA),
            SizeClass::Large => (LARGE_AREA, f64::INFINITY),
        };
        match self {
            Self::Inclusive => low <= area && area <= high,
            Self::Exclusive => low < area && area < high,
            Self::HalfOpen => low <= area && area < high,
        }
    }
}

/// Collects IoU and boundary IoU object by object; the mean is over objects, not over pictures or pixels.
///
/// It serialises, so that an evaluation can stop and go on, and parts made side by side can be
/// [merged](Self::merge). Sums are plain: in another order of adding, the last digits may differ.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ObjectScores {
    limits: SizeLimits,
    iou: Mean,
    boundary_iou: Mean,
    small: Mean,
    medium: Mean,
    large: Mean,
}

/// A sum and how many went into it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Mean {
    count: u64,
    sum: f64,
}

impl Mean {
    fn add(&mut self, value: f64) {
        self.count += 1;
        self.sum += value;
    }

    fn merge(&mut self, other: Self) {
        self.count += other.count;
        self.sum += other.sum;
    }

    fn get(self) -> Option<f64> {
        (self.count > 0).then(|| self.sum / self.count as f64)
    }
}

/// Means over objects, each 0 to 1 and `None` when no object falls under it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct ObjectReport {
    /// Mean IoU over all objects.
    pub miou: Option<f64>,
    /// Over the small ones.
    pub miou_small: Option<f64>,
    /// Over the medium ones.
    pub miou_medium: Option<f64>,
    /// Over the large ones.
    pub miou_large: Option<f64>,
    /// Mean boundary IoU, over the objects it was given for.
    pub biou: Option<f64>,
    /// Objects in all.
    pub objects: u64,
    /// Small objects.
    pub objects_small: u64,
    /// Medium objects.
    pub objects_medium: u64,
    /// Large objects.
    pub objects_large: u64,
}

impl ObjectScores {
    /// Nothing collected yet.
    pub fn new(limits: SizeLimits) -> Self {
        Self { limits, ..Self::default() }
    }

    /// One object: its IoU, its boundary IoU where that was computed, and its area in square pixels as the
    /// annotation states it, which need not be the area of the mask.
    ///
    /// # Errors
    /// [`MetricsError::NotFinite`] for a number that is NaN or infinite; nothing is added then.
    pub fn add(&mut self, iou: f64, boundary_iou: Option<f64>, area: f64) -> Result<(), MetricsError> {
        let index = self.iou.count as usize;
        finite("IoU of object", index, iou)?;
        finite("area of object", index, area)?;
        if let Some(value) = boundary_iou {
            self.boundary_iou.add(finite("boundary IoU of object", index, value)?);
        }
        self.iou.add(iou);
        let sizes = [
            (SizeClass::Small, &mut self.small),
            (SizeClass::Medium, &mut self.medium),
            (SizeClass::Large, &mut self.large),
        ];
        for (class, mean) in sizes {
            if self.limits.contains(class, area) {
                mean.add(iou);
            }
        }
        Ok(())
    }

    /// Adds the objects that another collected.
    ///
    /// # Errors
    /// [`MetricsError::Unlike`] when the two draw the [limits](SizeLimits) between sizes differently.
    pub fn merge(&mut self, other: &Self) -> Result<(), MetricsError> {
        if self.limits != other.limits {
            let [ours, theirs] = [self, other].map(|scores| format!("{:?}", scores.limits));
            return Err(MetricsError::Unlike { what: "size limits", ours, theirs });
        }
        self.iou.merge(other.iou);
        self.boundary_iou.merge(other.boundary_iou);
        self.small.merge(other.small);
        self.medium.merge(other.medium);
        self.large.merge(other.large);
        Ok(())
    }

    /// The means so far.
    pub fn report(&self) -> ObjectReport {
        ObjectReport {
            miou: self.iou.get(),
            miou_small: self.small.get(),
            miou_medium: self.medium.get(),
            miou_large: self.large.get(),
            biou: self.boundary_iou.get(),
            objects: self.iou.count,
            objects_small: self.small.count,
            objects_medium: self.medium.count,
            objects_large: self.large.count,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rectangle(x: std::ops::Range<usize>, y: std::ops::Range<usize>) -> Mask {
        Mask::from_fn(40, 30, |u, v| x.contains(&u) && y.contains(&v))
    }

    #[test]
    fn ratios_of_two_rectangles() {
        let overlap =
            Overlap::of_masks(&rectangle(0..20, 0..10), &rectangle(10..30, 0..10)).expect("one frame");
        assert_eq!(overlap, Overlap { intersection: 100, union: 300 });
        assert_eq!(overlap.iou(), Some(1.0 / 3.0));
        assert_eq!(overlap.iou_smoothed(), 100.0 / (300.0 + 1e-7));
        assert_eq!(overlap.dice(), Some(0.5));
    }

    #[test]
    fn empty_masks() {
        let nothing = Overlap::of_masks(&Mask::new(5, 5), &Mask::new(5, 5)).expect("one frame");
        assert_eq!((nothing.iou(), nothing.dice(), nothing.iou_smoothed()), (None, None, 0.0));
        assert!(Overlap::of_masks(&Mask::new(5, 5), &Mask::new(5, 6)).is_err());
        assert!(Overlap::of_boundaries(&Mask::new(5, 5), &Mask::new(5, 6), 0.02).is_err());
        let rle = |width, height| Rle::from_mask(&Mask::new(width, height));
        assert!(Overlap::of_runs(&rle(5, 5), &rle(6, 5)).is_err());
    }

    #[test]
    fn boundaries_see_what_areas_hide() {
        // Diagonal 50 and 0.02: bands of one pixel. 20 x 20 against 18 x 18 inside it share no band.
        let (outer, inner) = (rectangle(5..25, 5..25), rectangle(6..24, 6..24));
        let band = Overlap::of_boundaries(&outer, &inner, 0.02).expect("one frame");
        assert_eq!(band, Overlap { intersection: 0, union: 76 + 68 });
        assert_eq!(Overlap::of_masks(&outer, &inner).expect("one frame").iou(), Some(0.81));
    }

    #[test]
    fn areas_on_the_limits() {
        use SizeClass::{Large, Medium, Small};
        let classes = |limits: SizeLimits, area| [Small, Medium, Large].map(|c| limits.contains(c, area));
        assert_eq!(classes(SizeLimits::Inclusive, 1024.0), [true, true, false]);
        assert_eq!(classes(SizeLimits::Inclusive, 9216.0), [false, true, true]);
        assert_eq!(classes(SizeLimits::Exclusive, 1024.0), [false, false, false]);
        assert_eq!(classes(SizeLimits::Exclusive, 9216.0), [false, false, false]);
        assert_eq!(classes(SizeLimits::HalfOpen, 1024.0), [false, true, false]);
        assert_eq!(classes(SizeLimits::HalfOpen, 9216.0), [false, false, true]);
        for limits in [SizeLimits::Inclusive, SizeLimits::Exclusive, SizeLimits::HalfOpen] {
            assert_eq!(classes(limits, 0.0), [true, false, false]);
            assert_eq!(classes(limits, 1e12), [false, false, true]);
        }
    }

    #[test]
    fn means_by_size() {
        let mut first = ObjectScores::new(SizeLimits::Inclusive);
        first.add(0.5, Some(0.25), 1024.0).expect("finite");
        first.add(1.0, None, 100.0).expect("finite");
        let mut second = ObjectScores::new(SizeLimits::Inclusive);
        second.add(0.0, Some(0.75), 2000.0).expect("finite");
        let text = serde_json::to_string(&first).expect("plain numbers");
        let mut both: ObjectScores = serde_json::from_str(&text).expect("what was written");
        both.merge(&second).expect("equal limits");
        let report = both.report();
        assert_eq!(
            [report.miou, report.miou_small, report.miou_medium, report.miou_large, report.biou],
            [Some(0.5), Some(0.75), Some(0.25), None, Some(0.5)]
        );
        assert_eq!(
            [report.objects, report.objects_small, report.objects_medium, report.objects_large],
            [3, 2, 2, 0]
        );
        assert!(both.merge(&ObjectScores::new(SizeLimits::HalfOpen)).is_err());
    }

    #[test]
    fn refuses_what_would_poison_the_mean() {
        let mut scores = ObjectScores::default();
        assert!(scores.add(f64::NAN, None, 1.0).is_err());
        assert!(scores.add(0.5, Some(f64::INFINITY), 1.0).is_err());
        assert!(scores.add(0.5, Some(0.5), f64::NAN).is_err());
        assert_eq!(scores, ObjectScores::default());
    }
}
