//! Pseudo ground truth from a weak detector's boxes: adaptive (WeakSAM, Algorithm 2), as its repository has it, or plain.
//!
//! All rules first drop boxes of classes that the picture is not known to show, then choose within each class.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::WeakError;
use crate::boxes::{area, intersection};
use crate::files::{Corners, Detections, ImageDetections};
use crate::page::boxes_page;

/// Which boxes are taken for true.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum PseudoRule {
    /// Algorithm 2 of the paper: scores of the picture's boxes of the class brought to 0 to 1, `(s - min) / (max - min)`; those
    /// above `score` stay (where all are equal: all); then those of which less than `overlap` lies in each other box of the
    /// class that stayed.
    Adaptive {
        /// tau_s (the repository documents 0.3 for VOC 2007).
        score: f32,
        /// tau_o (0.85).
        overlap: f32,
    },
    /// The function `pgt` of the repository: as [`PseudoRule::Adaptive`], but scores over `max - min + 1e-8` with nothing
    /// subtracted, at least `score`, and the class's first box in the file in any case.
    Published {
        /// t_keep.
        score: f32,
        /// t_con.
        overlap: f32,
    },
    /// The best boxes of each class (with 1 what the repository uses for VOC).
    Top {
        /// How many.
        count: usize,
    },
    /// All boxes of at least a score.
    Threshold {
        /// The score.
        score: f32,
    },
}

/// Configuration of the stage.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PseudoConfig {
    /// Which boxes are taken.
    pub rule: PseudoRule,
    /// Whether a box counts as much as its score says when it is learned from, instead of 1.
    pub weigh_by_score: bool,
}

impl Default for PseudoConfig {
    fn default() -> Self {
        Self { rule: PseudoRule::Adaptive { score: 0.3, overlap: 0.85 }, weigh_by_score: false }
    }
}

impl PseudoConfig {
    /// Checks the numbers.
    pub fn check(&self) -> Result<(), WeakError> {
        let numbers = match self.rule {
            PseudoRule::Adaptive { score, overlap } | PseudoRule::Published { score, overlap } => {
                vec![("pseudo.rule.score", score), ("pseudo.rule.overlap", overlap)]
            }
            PseudoRule::Threshold { score } => vec![("pseudo.rule.score", score)],
            PseudoRule::Top { count: 0 } => {
                return Err(WeakError::setting("pseudo.rule.count", 0, "1 or more"));
            }
            PseudoRule::Top { .. } => Vec::new(),
        };
        match numbers.into_iter().find(|(_, value)| !value.is_finite() || *value < 0.0) {
            Some((name, value)) => Err(WeakError::setting(name, value, "0 or more")),
            None => Ok(()),
        }
    }
}

/// Indices of the boxes of one class in one picture that are taken, ascending.
pub fn choose(rule: PseudoRule, boxes: &[Corners], scores: &[f32]) -> Vec<usize> {
    let low = scores.iter().copied().fold(f32::INFINITY, f32::min);
    let high = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let all = 0..boxes.len();
    match rule {
        PseudoRule::Adaptive { score, overlap } => {
            // One box, or boxes of one score, cannot be told apart, and the best always passes.
            let passes = |i: &usize| low == high || (scores[*i] - low) / (high - low) > score;
            uncontained(&all.filter(passes).collect::<Vec<_>>(), boxes, overlap)
        }
        PseudoRule::Published { score, overlap } => {
            let passes = |i: &usize| *i == 0 || scores[*i] / (high - low + 1e-8) >= score;
            uncontained(&all.filter(passes).collect::<Vec<_>>(), boxes, overlap)
        }
        PseudoRule::Top { count } => {
            let mut order: Vec<usize> = all.collect();
            order.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]));
            order.truncate(count);
            order.sort_unstable();
            order
        }
        PseudoRule::Threshold { score } => all.filter(|i| scores[*i] >= score).collect(),
    }
}

/// Those that do not lie in another to `overlap` or more: of nested boxes the larger one stays. Of boxes that are equal, which
/// would remove each other, the first stays.
fn uncontained(kept: &[usize], boxes: &[Corners], overlap: f32) -> Vec<usize> {
    let inside = |j: usize, k: usize| {
        let share = intersection(&boxes[j], &boxes[k]) / area(&boxes[j]).max(f32::MIN_POSITIVE);
        share >= overlap && (boxes[j] != boxes[k] || k < j)
    };
    kept.iter().copied().filter(|j| !kept.iter().any(|k| k != j && inside(*j, *k))).collect()
}

/// What became of a set's boxes; for the page and the record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PseudoSummary {
    /// Boxes before.
    pub before: usize,
    /// Boxes taken.
    pub taken: usize,
    /// Pictures.
    pub pictures: usize,
    /// Pairs of a picture and a class it shows.
    pub shown: usize,
    /// Such pairs without a box.
    pub without: usize,
}

/// The boxes of a set that are taken for true.
///
/// # Errors
/// Settings out of range.
pub fn pseudo_truth(
    config: &PseudoConfig,
    detections: &Detections,
) -> Result<(Detections, PseudoSummary), WeakError> {
    config.check()?;
    let mut summary = PseudoSummary { pictures: detections.images.len(), ..PseudoSummary::default() };
    let images = detections.images.iter().map(|image| {
        summary.before += image.boxes.len();
        let mut kept = ImageDetections {
            boxes: Vec::new(),
            scores: Vec::new(),
            classes: Vec::new(),
            weights: Vec::new(),
            ..image.clone()
        };
        for (class, _) in
            detections.classes.iter().enumerate().filter(|(_, name)| image.labels.contains(name))
        {
            let members: Vec<usize> = (0..image.boxes.len()).filter(|i| image.classes[*i] == class).collect();
            let boxes: Vec<Corners> = members.iter().map(|i| image.boxes[*i]).collect();
            let scores: Vec<f32> = members.iter().map(|i| image.scores[*i]).collect();
            let chosen = choose(config.rule, &boxes, &scores);
            summary.shown += 1;
            summary.without += usize::from(chosen.is_empty());
            for at in chosen {
                kept.boxes.push(boxes[at]);
                kept.scores.push(scores[at]);
                kept.classes.push(class);
                kept.weights.push(if config.weigh_by_score { scores[at].clamp(0.0, 1.0) } else { 1.0 });
            }
        }
        summary.taken += kept.boxes.len();
        kept
    });
    let images = images.collect();
    Ok((Detections { classes: detections.classes.clone(), images }, summary))
}

/// The stage: from `detections.json` to `pseudo.json`, and a page beside it (`pseudo.html`). Pictures are named from `root` on.
///
/// # Errors
/// Files and settings that cannot be used.
pub fn run(
    config: &PseudoConfig,
    root: &Path,
    detections: &Path,
    output: &Path,
) -> Result<PseudoSummary, WeakError> {
    let (pseudo, summary) = pseudo_truth(config, &Detections::read(detections)?)?;
    let about = [
        ("Boxes of the detector".to_owned(), summary.before.to_string()),
        (
            "Pictures of a class without a box of it".to_owned(),
            format!("{} of {}", summary.without, summary.shown),
        ),
        ("Rule".to_owned(), format!("{:?}", config.rule)),
    ];
    let page = boxes_page("Pseudo ground truth", &about, root, &pseudo, 0.0)?;
    pseudo.write(output)?;
    page.write(output.with_extension("html"))?;
    Ok(summary)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drawn::draw_set;
    use crate::measure::Truth;

    const BOXES: [Corners; 3] = [[0.0, 0.0, 10.0, 10.0], [2.0, 2.0, 6.0, 6.0], [50.0, 50.0, 70.0, 70.0]];
    const SCORES: [f32; 3] = [0.02, 0.05, 0.20];
    const ADAPTIVE: PseudoRule = PseudoRule::Adaptive { score: 0.3, overlap: 0.85 };

    /// The vectors of the reference, section 6.6.
    #[test]
    fn vectors_of_the_reference() {
        assert_eq!(choose(ADAPTIVE, &BOXES, &SCORES), [2]);
        let published = PseudoRule::Published { score: 0.3, overlap: 0.85 };
        assert_eq!(choose(published, &BOXES, &SCORES), [0, 2]);
        // 0.278 passes at 0.27, but lies in the first.
        let published = PseudoRule::Published { score: 0.27, overlap: 0.85 };
        assert_eq!(choose(published, &BOXES, &SCORES), [0, 2]);
    }

    #[test]
    fn of_nested_boxes_the_larger_stays() {
        let close = [0.19, 0.20, 0.0];
        assert_eq!(choose(ADAPTIVE, &BOXES, &close), [0]);
        // Not contained enough: 16 of 16 square pixels are inside, so only a threshold above 1 keeps it.
        let loose = PseudoRule::Adaptive { score: 0.3, overlap: 1.1 };
        assert_eq!(choose(loose, &BOXES, &close), [0, 1]);
    }

    #[test]
    fn what_cannot_be_told_apart_stays() {
        assert_eq!(choose(ADAPTIVE, &BOXES[2..], &[0.01]), [0]);
        assert_eq!(choose(ADAPTIVE, &[BOXES[0], BOXES[2]], &[0.1, 0.1]), [0, 1]);
        assert_eq!(choose(ADAPTIVE, &[BOXES[0], BOXES[0]], &[0.1, 0.1]), [0]);
        assert_eq!(choose(ADAPTIVE, &[], &[]), Vec::<usize>::new());
    }

    #[test]
    fn plain_rules() {
        assert_eq!(choose(PseudoRule::Top { count: 1 }, &BOXES, &SCORES), [2]);
        assert_eq!(choose(PseudoRule::Top { count: 2 }, &BOXES, &SCORES), [1, 2]);
        assert_eq!(choose(PseudoRule::Threshold { score: 0.05 }, &BOXES, &SCORES), [1, 2]);
    }

    #[test]
    fn the_stage_writes_boxes_and_a_page() {
        let folder = tempfile::tempdir().unwrap();
        draw_set(folder.path(), 6);
        let classes = ["disc", "bar"].map(str::to_owned);
        let truth = Truth::open(folder.path(), Some("train"), &classes).unwrap();
        let (from, to) = (folder.path().join("detections.json"), folder.path().join("out/pseudo.json"));
        let mut boxes = truth.to_boxes();
        // A box of a class that the picture does not show.
        boxes.images[0].boxes.push([30.0, 30.0, 40.0, 40.0]);
        boxes.images[0].scores.push(0.9);
        boxes.images[0].classes.push(1);
        boxes.images[0].weights.push(1.0);
        boxes.write(&from).unwrap();
        let summary = run(&PseudoConfig::default(), folder.path(), &from, &to).unwrap();
        assert_eq!((summary.before, summary.taken, summary.without), (6, 5, 0));
        assert_eq!(Detections::read(&to).unwrap(), truth.to_boxes());
        let page = std::fs::read_to_string(to.with_extension("html")).unwrap();
        assert_eq!(page.matches("data:image/jpeg").count(), 4);
        assert!(page.contains("images/p3.png"));
        // A picture that is gone: nothing is written.
        std::fs::remove_file(folder.path().join("images/p1.png")).unwrap();
        std::fs::remove_file(&to).unwrap();
        assert!(run(&PseudoConfig::default(), folder.path(), &from, &to).is_err());
        assert!(!to.exists());
    }

    #[test]
    fn only_classes_that_the_picture_shows() {
        let image = ImageDetections {
            file: "a.png".to_owned(),
            width: 80,
            height: 80,
            labels: vec!["cat".to_owned(), "cow".to_owned()],
            boxes: BOXES.to_vec(),
            scores: SCORES.to_vec(),
            classes: vec![1, 0, 1],
            weights: vec![1.0; 3],
        };
        let classes = ["dog", "cat", "cow"].map(str::to_owned).to_vec();
        let detections = Detections { classes, images: vec![image] };
        let config = PseudoConfig { weigh_by_score: true, ..PseudoConfig::default() };
        let (found, summary) = pseudo_truth(&config, &detections).unwrap();
        assert_eq!(found.images[0].boxes, [BOXES[2]]);
        assert_eq!((found.images[0].classes.clone(), found.images[0].weights.clone()), (vec![1], vec![0.2]));
        let expected = PseudoSummary { before: 3, taken: 1, pictures: 1, shown: 2, without: 1 };
        assert_eq!(summary, expected);
        let bad = PseudoConfig { rule: PseudoRule::Top { count: 0 }, ..config };
        assert!(pseudo_truth(&bad, &detections).is_err());
    }
}
