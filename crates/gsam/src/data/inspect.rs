//! The pictures of a run in numbers, and what is odd about them, before hours are spent.

use kirie_data::datasets::Sample;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::{ClassList, LabelledSet, Pictures};
use crate::config::InputConfig;
use crate::error::SemanticError;
use crate::views;

/// Unusable pictures that are told one by one.
const TOLD: usize = 10;
/// Below this share of the labelled pixels, in all classes but the background, a word is due.
const LITTLE_FOREGROUND: f64 = 0.02;

/// The pictures of a run in numbers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Inspection {
    /// Pictures to learn from.
    pub pictures: usize,
    /// Pictures to validate with.
    pub validation_pictures: usize,
    /// Every class and its share of the pictures to learn from.
    pub classes: Vec<ClassCount>,
    /// Share of those pixels that count nowhere, 0 to 1.
    pub ignored: f64,
    /// Share of the labelled pixels that are not background, 0 to 1; `None` where no class is the background by its name.
    pub foreground: Option<f64>,
    /// Sizes of the pictures to learn from.
    pub sizes: SizeRange,
    /// What each set was taken for, in sentences.
    pub found: Vec<String>,
    /// What is odd, in sentences.
    pub warnings: Vec<String>,
}

/// A class and what it has of the pictures to learn from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClassCount {
    /// Its name.
    pub name: String,
    /// Pictures that show it.
    pub pictures: usize,
    /// Its pixels.
    pub pixels: u64,
    /// Its share of the labelled pixels, 0 to 1.
    pub share: f64,
    /// Pictures to validate with that show it.
    pub validation_pictures: usize,
}

/// Least and greatest sides, pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SizeRange {
    /// Least and greatest width.
    pub width: [u32; 2],
    /// Least and greatest height.
    pub height: [u32; 2],
}

/// What one picture adds.
struct Found {
    counts: Vec<u64>,
    ignored: u64,
    size: [u32; 2],
    /// Whether the crop is larger than the picture.
    padded: bool,
}

impl Inspection {
    /// Reads every picture of a run once.
    ///
    /// # Errors
    /// [`SemanticError::Unusable`] with the first of the pictures that cannot be read, whose labels are of another size or of
    /// no class, or that are too small for the crop where that may not be padded.
    pub fn of(pictures: &Pictures, input: &InputConfig) -> Result<Self, SemanticError> {
        let classes = pictures.classes();
        let train = look(pictures.training().collect(), classes, Some(input))?;
        let validation = look(pictures.validation().collect(), classes, None)?;
        let total = |label: usize| train.iter().map(|found| found.counts[label]).sum::<u64>();
        let shown = |all: &[Found], label: usize| all.iter().filter(|found| found.counts[label] > 0).count();
        let labelled: u64 = (0..classes.len()).map(total).sum();
        let ignored: u64 = train.iter().map(|found| found.ignored).sum();
        let share = |pixels: u64, of: u64| if of == 0 { 0.0 } else { pixels as f64 / of as f64 };
        let count = |(label, name): (usize, String)| ClassCount {
            name,
            pictures: shown(&train, label),
            pixels: total(label),
            share: share(total(label), labelled),
            validation_pictures: shown(&validation, label),
        };
        let mut inspection = Self {
            pictures: train.len(),
            validation_pictures: validation.len(),
            classes: classes.names().into_iter().enumerate().map(count).collect(),
            ignored: share(ignored, ignored + labelled),
            foreground: classes.background().map(|label| 1.0 - share(total(usize::from(label)), labelled)),
            sizes: SizeRange::of(train.iter().map(|found| found.size)),
            found: pictures.sets().iter().map(found).collect(),
            warnings: Vec::new(),
        };
        inspection.warn(train.iter().filter(|found| found.padded).count(), input);
        Ok(inspection)
    }

    fn warn(&mut self, padded: usize, input: &InputConfig) {
        let warnings = &mut self.warnings;
        if self.pictures == 1 {
            warnings
                .push("there is a single picture to learn from: what is learned may fit no other".to_owned());
        }
        if self.validation_pictures == 0 {
            warnings.push(
                "no picture is held out: there will be no score, and the last weights are the best"
                    .to_owned(),
            );
        }
        let without = |odd: &dyn Fn(&ClassCount) -> bool| {
            let names: Vec<_> =
                self.classes.iter().filter(|class| odd(class)).map(|class| class.name.as_str()).collect();
            (!names.is_empty()).then(|| names.join(", "))
        };
        if let Some(names) = without(&|class| class.pixels == 0) {
            warnings.push(format!("no picture to learn from shows, so it cannot be learned: {names}"));
        }
        let unscored = |class: &ClassCount| class.pixels > 0 && class.validation_pictures == 0;
        if let Some(names) = without(&unscored).filter(|_| self.validation_pictures > 0) {
            warnings.push(format!(
                "no picture that is held out shows, so there will be no score for it: {names}"
            ));
        }
        if let Some(share) = self.foreground.filter(|share| *share < LITTLE_FOREGROUND) {
            warnings.push(format!(
                "only {:.2} % of the labelled pixels are not background; dice, focal loss or class weights help then",
                100.0 * share
            ));
        }
        if let (Some([height, width]), true) = (input.crop, padded > 0) {
            warnings.push(format!(
                "the crop of {width}x{height} is larger than {padded} of {} pictures, which are padded with pixels \
                 that count nowhere", self.pictures
            ));
        }
    }

    /// Pixels of each class, by label.
    pub fn pixels(&self) -> Vec<u64> {
        self.classes.iter().map(|class| class.pixels).collect()
    }
}

impl SizeRange {
    fn of(sizes: impl Iterator<Item = [u32; 2]>) -> Self {
        let none = Self { width: [u32::MAX, 0], height: [u32::MAX, 0] };
        sizes.fold(none, |range, [height, width]| Self {
            width: [range.width[0].min(width), range.width[1].max(width)],
            height: [range.height[0].min(height), range.height[1].max(height)],
        })
    }
}

fn found(set: &LabelledSet) -> String {
    let dataset = set.dataset();
    let split = dataset.samples.first().and_then(|sample| sample.split.as_deref());
    let part = split.map_or_else(String::new, |split| format!(", part {split}"));
    format!("{}{part}: {}, {} labelled", dataset.root.display(), dataset.found, set.samples().count())
}

/// Reads pictures; an error names all that cannot be used.
fn look(
    pictures: Vec<(&LabelledSet, &Sample)>,
    classes: &ClassList,
    input: Option<&InputConfig>,
) -> Result<Vec<Found>, SemanticError> {
    let total = pictures.len();
    let found: Vec<Result<Found, SemanticError>> = pictures
        .into_par_iter()
        .map(|(set, sample)| {
            let labelled = set.read(sample)?;
            let size = [labelled.image.height(), labelled.image.width()];
            let padded = match input {
                Some(input) => views::is_padded(&labelled.name, size, input)?,
                None => false,
            };
            let (counts, ignored) = labelled.labels.counts(classes.len());
            Ok(Found { counts, ignored, size, padded })
        })
        .collect();
    let mut failed: Vec<SemanticError> = Vec::new();
    let mut usable = Vec::new();
    for result in found {
        match result {
            Ok(found) => usable.push(found),
            Err(error) => failed.push(error),
        }
    }
    if failed.len() > 1 {
        let examples = failed.iter().take(TOLD).map(ToString::to_string).collect();
        return Err(SemanticError::Unusable { count: failed.len(), total, examples });
    }
    failed.pop().map_or(Ok(usable), Err)
}
