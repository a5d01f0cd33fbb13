//! Semantic segmentation: a confusion matrix over label maps, and what is read off it.

use serde::{Deserialize, Serialize};

use crate::MetricsError;
use crate::error::same_length;
use crate::numeric::mean;

/// Counts of pixels by true and predicted class, over a whole data set.
///
/// Pixels whose true label is the ignored one count nowhere but in [`ignored`](Self::ignored). A class is
/// *present* when the ground truth or the prediction holds a pixel of it; its figures are `None` otherwise.
///
/// ```
/// use kirie_metrics::{ClassMean, ConfusionMatrix};
///
/// let mut matrix = ConfusionMatrix::new(["background", "screw", "nut"], Some(255))?;
/// matrix.add(&[0u8, 0, 1, 255], &[0u8, 1, 1, 2])?;
/// assert_eq!(matrix.iou(), [Some(0.5), Some(0.5), None]);
/// assert_eq!(matrix.mean_iou(ClassMean::Present), Some(0.5));
/// assert_eq!(matrix.mean_iou(ClassMean::All), Some(1.0 / 3.0));
/// # Ok::<(), kirie_metrics::MetricsError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Parts")]
pub struct ConfusionMatrix {
    classes: Vec<String>,
    ignore: Option<u32>,
    /// Pixels by true class (rows) and predicted class (columns), row by row.
    counts: Vec<u64>,
    ignored: u64,
}

/// [`ConfusionMatrix`] as read from outside, not yet checked.
#[derive(Deserialize)]
struct Parts {
    classes: Vec<String>,
    ignore: Option<u32>,
    counts: Vec<u64>,
    ignored: u64,
}

impl TryFrom<Parts> for ConfusionMatrix {
    type Error = MetricsError;

    fn try_from(parts: Parts) -> Result<Self, MetricsError> {
        let Parts { classes, ignore, counts, ignored } = parts;
        let empty = Self::new(classes, ignore)?;
        same_length("counts of the confusion matrix", empty.counts.len(), counts.len())?;
        // More pixels than `f64` counts exactly are no evaluation of anything, and sums could overflow.
        let limit = 1 << 53;
        let pixels = counts.iter().fold(ignored, |sum, &count| sum.saturating_add(count));
        if pixels > limit {
            return Err(MetricsError::TooManyPixels { limit, found: pixels });
        }
        Ok(Self { counts, ignored, ..empty })
    }
}

/// Over which classes a mean is taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClassMean {
    /// The classes with a pixel in the ground truth or the prediction. The benchmarks' way: mmsegmentation's
    /// `IoUMetric` (its 0/0 is NaN and left out), and with it the papers evaluated there on Cityscapes,
    /// ADE20K and CamVid.
    #[default]
    Present,
    /// All classes, an absent one counting 0. Stricter, and the same divisor for every picture set.
    All,
    /// All classes, by the formula of GSAM's repository:
    /// `(hit + 1e-7) / (truth + predicted - (hit + 1e-7))`, which gives -1 for an absent class and so drags
    /// the mean down. For comparison with its published figures; differs from [`Present`](Self::Present) by
    /// about 1e-7 when no class is absent. Only [`ConfusionMatrix::mean_iou`] knows it: elsewhere it acts as
    /// [`All`](Self::All).
    GsamRepository,
}

/// The usual figures at once, each 0 to 1.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SemanticReport {
    /// Mean IoU over the present classes.
    pub miou: Option<f64>,
    /// Mean IoU over all classes, absent ones as 0.
    pub miou_all: Option<f64>,
    /// Share of pixels labelled right.
    pub pixel_accuracy: Option<f64>,
    /// Mean over the classes in the ground truth of the share of their pixels labelled right.
    pub mean_accuracy: Option<f64>,
    /// Mean Dice over the present classes.
    pub mdice: Option<f64>,
    /// Figures of each class.
    pub classes: Vec<ClassReport>,
    /// Pixels compared.
    pub pixels: u64,
    /// Pixels left out because their true label is the ignored one.
    pub ignored: u64,
}

/// Figures of one class, each 0 to 1.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClassReport {
    /// Name of the class.
    pub name: String,
    /// IoU; `None` when the class is absent from ground truth and prediction.
    pub iou: Option<f64>,
    /// Dice; `None` when absent from both.
    pub dice: Option<f64>,
    /// Share of its true pixels labelled right; `None` when absent from the ground truth.
    pub accuracy: Option<f64>,
    /// Its pixels in the ground truth.
    pub truth_pixels: u64,
    /// Its pixels in the prediction, where the ground truth is not ignored.
    pub predicted_pixels: u64,
}

impl ConfusionMatrix {
    /// An empty matrix. Label `i` is the class of the `i`-th name; `ignore` is the label of pixels to leave
    /// out, usually 255, and wins where a class has the same number.
    ///
    /// # Errors
    /// [`MetricsError::Empty`] without classes.
    pub fn new<S: Into<String>>(
        classes: impl IntoIterator<Item = S>,
        ignore: Option<u32>,
    ) -> Result<Self, MetricsError> {
        let classes: Vec<String> = classes.into_iter().map(Into::into).collect();
        if classes.is_empty() {
            return Err(MetricsError::Empty { what: "classes of a confusion matrix" });
        }
        let counts = vec![0; classes.len() * classes.len()];
        Ok(Self { classes, ignore, counts, ignored: 0 })
    }

    /// Adds a label map, or any part of one: true and predicted label pixel by pixel, `u8`, `u16` or `u32`.
    ///
    /// # Errors [`MetricsError::Length`] when the two differ in length, [`MetricsError::Label`] for a label
    /// that no class has (under an ignored pixel, any prediction will do). Nothing is added then.
    pub fn add<T, P>(&mut self, truth: &[T], predicted: &[P]) -> Result<(), MetricsError>
    where
        T: Copy + Into<u32>,
        P: Copy + Into<u32>,
    {
        same_length("predicted labels", truth.len(), predicted.len())?;
        let classes = self.classes.len();
        let last = classes - 1;
        let (mut counts, mut ignored) = (vec![0; self.counts.len()], 0);
        for (position, (&truth, &predicted)) in truth.iter().zip(predicted).enumerate() {
            let (truth, predicted) = (truth.into(), predicted.into());
            if Some(truth) == self.ignore {
                ignored += 1;
                continue;
            }
            for (what, found) in [("true labels", truth), ("predicted labels", predicted)] {
                if found as usize > last {
                    return Err(MetricsError::Label { what, position, last, found });
                }
            }
            counts[truth as usize * classes + predicted as usize] += 1;
        }
        self.counts.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
        self.ignored += ignored;
        Ok(())
    }

    /// Adds the counts of another part of the data set.
    ///
    /// # Errors
    /// [`MetricsError::Unlike`] when classes or ignored label differ.
    pub fn merge(&mut self, other: &Self) -> Result<(), MetricsError> {
        let unlike = |what, ours, theirs| Err(MetricsError::Unlike { what, ours, theirs });
        if self.classes != other.classes {
            return unlike("classes", self.classes.join(", "), other.classes.join(", "));
        }
        if self.ignore != other.ignore {
            return unlike("ignored label", format!("{:?}", self.ignore), format!("{:?}", other.ignore));
        }
        self.counts.iter_mut().zip(&other.counts).for_each(|(sum, count)| *sum += count);
        self.ignored += other.ignored;
        Ok(())
    }

    /// Names of the classes, by label.
    pub fn classes(&self) -> &[String] {
        &self.classes
    }

    /// Pixels by true class (rows) and predicted class (columns).
    pub fn rows(&self) -> impl Iterator<Item = &[u64]> {
        self.counts.chunks_exact(self.classes.len())
    }

    /// Pixels compared so far.
    pub fn pixels(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Pixels left out so far because their true label is the ignored one.
    pub fn ignored(&self) -> u64 {
        self.ignored
    }

    /// Pixels labelled right, in the ground truth and in the prediction, class by class.
    fn tallies(&self) -> Vec<Tally> {
        let mut tallies = vec![Tally::default(); self.classes.len()];
        for (truth, row) in self.rows().enumerate() {
            tallies[truth].truth = row.iter().sum();
            tallies[truth].hit = row[truth];
            tallies.iter_mut().zip(row).for_each(|(tally, count)| tally.predicted += count);
        }
        tallies
    }

    /// IoU of each class: pixels labelled right over pixels of the class in ground truth or prediction.
    pub fn iou(&self) -> Vec<Option<f64>> {
        self.tallies().into_iter().map(Tally::iou).collect()
    }

    /// Dice, which is F1, of each class: `2 hit / (truth + predicted)`.
    pub fn dice(&self) -> Vec<Option<f64>> {
        self.tallies().into_iter().map(Tally::dice).collect()
    }

    /// Accuracy, which is recall, of each class: the share of its true pixels labelled right.
    pub fn accuracy(&self) -> Vec<Option<f64>> {
        self.tallies().into_iter().map(Tally::accuracy).collect()
    }

    /// Mean IoU over classes, background included if it is a class; `None` when nothing was compared.
    pub fn mean_iou(&self, over: ClassMean) -> Option<f64> {
        if over == ClassMean::GsamRepository {
            let ious: Vec<f64> = self.tallies().into_iter().map(Tally::gsam_iou).collect();
            return mean(&ious).filter(|_| self.pixels() > 0);
        }
        self.mean_over(self.iou(), over)
    }

    /// Mean Dice over classes; `None` when nothing was compared.
    pub fn mean_dice(&self, over: ClassMean) -> Option<f64> {
        self.mean_over(self.dice(), over)
    }

    /// Mean accuracy over the classes in the ground truth (mmsegmentation's `mAcc`); `None` without any
    /// pixel.
    pub fn mean_accuracy(&self) -> Option<f64> {
        self.mean_over(self.accuracy(), ClassMean::Present)
    }

    /// The share of all pixels labelled right (mmsegmentation's `aAcc`); `None` without any pixel.
    pub fn pixel_accuracy(&self) -> Option<f64> {
        let hits: u64 = self.tallies().iter().map(|tally| tally.hit).sum();
        ratio(hits, self.pixels())
    }

    /// All of it.
    pub fn report(&self) -> SemanticReport {
        let class = |(name, tally): (&String, Tally)| ClassReport {
            name: name.clone(),
            iou: tally.iou(),
            dice: tally.dice(),
            accuracy: tally.accuracy(),
            truth_pixels: tally.truth,
            predicted_pixels: tally.predicted,
        };
        SemanticReport {
            miou: self.mean_iou(ClassMean::Present),
            miou_all: self.mean_iou(ClassMean::All),
            pixel_accuracy: self.pixel_accuracy(),
            mean_accuracy: self.mean_accuracy(),
            mdice: self.mean_dice(ClassMean::Present),
            classes: self.classes.iter().zip(self.tallies()).map(class).collect(),
            pixels: self.pixels(),
            ignored: self.ignored,
        }
    }

    fn mean_over(&self, figures: Vec<Option<f64>>, over: ClassMean) -> Option<f64> {
        let figures: Vec<f64> = match over {
            ClassMean::Present => figures.into_iter().flatten().collect(),
            ClassMean::All | ClassMean::GsamRepository => {
                figures.into_iter().map(Option::unwrap_or_default).collect()
            }
        };
        mean(&figures).filter(|_| self.pixels() > 0)
    }
}

/// What the figures of one class are made of, pixels.
#[derive(Clone, Copy, Default)]
struct Tally {
    hit: u64,
    truth: u64,
    predicted: u64,
}

impl Tally {
    fn iou(self) -> Option<f64> {
        ratio(self.hit, self.truth + self.predicted - self.hit)
    }

    fn dice(self) -> Option<f64> {
        ratio(2 * self.hit, self.truth + self.predicted)
    }

    fn accuracy(self) -> Option<f64> {
        ratio(self.hit, self.truth)
    }

    fn gsam_iou(self) -> f64 {
        let hit = self.hit as f64 + 1e-7;
        hit / ((self.truth + self.predicted) as f64 - hit)
    }
}

fn ratio(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matrix(truth: &[u8], predicted: &[u8]) -> ConfusionMatrix {
        let mut matrix = ConfusionMatrix::new(["a", "b", "c", "d"], Some(255)).expect("four classes");
        matrix.add(truth, predicted).expect("labels of classes");
        matrix
    }

    #[test]
    fn figures_by_hand() {
        // a: 3 true, 2 hit, 3 predicted. b: 2 true, 1 hit, 2 predicted. c: 1 true, 0 hit, 1 predicted. d:
        // absent.
        let matrix = matrix(&[0, 0, 0, 1, 1, 2, 255], &[0, 0, 1, 1, 2, 0, 3]);
        assert_eq!(matrix.iou(), [Some(2.0 / 4.0), Some(1.0 / 3.0), Some(0.0), None]);
        assert_eq!(matrix.dice(), [Some(4.0 / 6.0), Some(2.0 / 4.0), Some(0.0), None]);
        assert_eq!(matrix.accuracy(), [Some(2.0 / 3.0), Some(0.5), Some(0.0), None]);
        assert_eq!(matrix.pixel_accuracy(), Some(0.5));
        assert_eq!(matrix.mean_iou(ClassMean::Present), Some((0.5 + 1.0 / 3.0) / 3.0));
        assert_eq!(matrix.mean_iou(ClassMean::All), Some((0.5 + 1.0 / 3.0) / 4.0));
        let gsam = matrix.mean_iou(ClassMean::GsamRepository).expect("pixels were compared");
        assert!((gsam - (0.5 + 1.0 / 3.0 - 1.0) / 4.0).abs() < 1e-6, "{gsam}");
        assert_eq!((matrix.pixels(), matrix.ignored()), (6, 1));
        let rows: Vec<&[u64]> = matrix.rows().collect();
        assert_eq!(rows, [[2, 1, 0, 0], [0, 1, 1, 0], [1, 0, 0, 0], [0, 0, 0, 0]]);

        let report = matrix.report();
        assert_eq!(report.mean_accuracy, Some((2.0 / 3.0 + 0.5) / 3.0));
        assert_eq!(report.classes[2].predicted_pixels, 1);
        assert_eq!(report.classes[3].name, "d");
    }

    #[test]
    fn a_class_only_predicted_is_present_but_has_no_accuracy() {
        let matrix = matrix(&[0, 0], &[0, 3]);
        assert_eq!(matrix.iou(), [Some(0.5), None, None, Some(0.0)]);
        assert_eq!(matrix.mean_iou(ClassMean::Present), Some(0.25));
        assert_eq!(matrix.mean_accuracy(), Some(0.5));
    }

    #[test]
    fn nothing_compared_has_no_figures() {
        for matrix in [matrix(&[], &[]), matrix(&[255, 255], &[0, 9])] {
            for over in [ClassMean::Present, ClassMean::All, ClassMean::GsamRepository] {
                assert_eq!(matrix.mean_iou(over), None);
                assert_eq!(matrix.mean_dice(over), None);
            }
            assert_eq!((matrix.pixel_accuracy(), matrix.mean_accuracy()), (None, None));
        }
    }

    #[test]
    fn bad_labels_are_named_and_add_nothing() {
        let mut matrix = ConfusionMatrix::new(["a", "b"], None).expect("two classes");
        let error = matrix.add(&[0u16, 1, 2], &[0u8, 0, 0]).expect_err("no class 2");
        assert_eq!(error, MetricsError::Label { what: "true labels", position: 2, last: 1, found: 2 });
        assert!(matrix.add(&[0u8], &[300u16]).is_err());
        assert!(matrix.add(&[0u8, 1], &[0u8]).is_err());
        assert_eq!(matrix.pixels(), 0);
        assert!(ConfusionMatrix::new(Vec::<String>::new(), None).is_err());
    }

    #[test]
    fn parts_merge_only_when_alike() {
        let mut ours = matrix(&[0], &[1]);
        assert!(ours.merge(&ConfusionMatrix::new(["a"], Some(255)).expect("a class")).is_err());
        assert!(ours.merge(&ConfusionMatrix::new(["a", "b", "c", "d"], None).expect("classes")).is_err());
        assert_eq!(ours, matrix(&[0], &[1]));
    }

    #[test]
    fn json_is_checked_when_read() {
        let matrix = matrix(&[0, 1, 255], &[0, 2, 0]);
        let text = serde_json::to_string(&matrix).expect("plain numbers");
        assert_eq!(serde_json::from_str::<ConfusionMatrix>(&text).expect("what was written"), matrix);
        let short = r#"{"classes":["a","b"],"ignore":null,"counts":[1,2,3],"ignored":0}"#;
        assert!(serde_json::from_str::<ConfusionMatrix>(short).is_err());
        let none = r#"{"classes":[],"ignore":null,"counts":[],"ignored":0}"#;
        assert!(serde_json::from_str::<ConfusionMatrix>(none).is_err());
    }
}
