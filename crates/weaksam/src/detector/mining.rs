//! Pseudo boxes inside of training: which proposals a refinement branch takes for objects, and what the others become.

use serde::{Deserialize, Serialize};

use crate::WeakError;
use crate::boxes::{best_match, iou, nms};
use crate::files::Corners;

/// How pseudo boxes are found in scores.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Rule {
    /// The best proposal of each class (OICR's paper).
    Top,
    /// All proposals that score at least `share` of the best of the class, less those that overlap a better one, of any class,
    /// more than `nms` (WSOD2's code, which WeakSAM's OICR is; published 0.9 and 0.5).
    Near {
        /// Share of the best score.
        share: f32,
        /// Overlap above which the lower scored one is left out.
        nms: f32,
    },
    /// Of the best `portion` of all proposals of a class those that overlap every better one of them, taken or not, by less
    /// than `overlap` (MIST; published 0.15 and 0.2).
    Apart {
        /// Share of all proposals.
        portion: f32,
        /// Overlap from which a proposal is not another object.
        overlap: f32,
    },
}

impl Rule {
    pub(super) fn check(&self) -> Result<(), WeakError> {
        let numbers = match *self {
            Self::Top => return Ok(()),
            Self::Near { share, nms } => [("share", share), ("nms", nms)],
            Self::Apart { portion, overlap } => [("portion", portion), ("overlap", overlap)],
        };
        match numbers.into_iter().find(|(_, value)| !(0.0..=1.0).contains(value)) {
            Some((name, value)) => Err(WeakError::setting(format!("weak.rule.{name}"), value, "0 to 1")),
            None => Ok(()),
        }
    }
}

/// A proposal that is taken for an object.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Mined {
    /// Its index.
    pub proposal: usize,
    /// The class.
    pub class: usize,
    /// Its score, the weight of all that is learned from it.
    pub score: f32,
}

/// The pseudo boxes of a picture.
///
/// `scores` are rows of `columns` numbers a proposal, of which `columns - classes` come before the first class (1 where there
/// is a column for the background); `present` are the classes that the picture shows.
pub fn mine(
    rule: Rule,
    scores: &[f32],
    columns: usize,
    classes: usize,
    present: &[usize],
    boxes: &[Corners],
) -> Vec<Mined> {
    let score = |proposal: usize, class: usize| scores[proposal * columns + columns - classes + class];
    let ranked = |class: usize| {
        let mut order: Vec<usize> = (0..boxes.len()).collect();
        order.sort_by(|a, b| score(*b, class).total_cmp(&score(*a, class)));
        order
    };
    let mined = |proposal: usize, class: usize| Mined { proposal, class, score: score(proposal, class) };
    match rule {
        Rule::Top => present
            .iter()
            .filter_map(|class| ranked(*class).first().map(|proposal| mined(*proposal, *class)))
            .collect(),
        Rule::Near { share, nms: threshold } => {
            let mut candidates = Vec::new();
            for class in present {
                let order = ranked(*class);
                let Some(best) = order.first().map(|proposal| score(*proposal, *class)) else { continue };
                let near = order.into_iter().take_while(|proposal| score(*proposal, *class) >= share * best);
                candidates.extend(near.map(|proposal| mined(proposal, *class)));
            }
            let places: Vec<Corners> = candidates.iter().map(|m| boxes[m.proposal]).collect();
            let scores: Vec<f32> = candidates.iter().map(|m| m.score).collect();
            nms(&places, &scores, threshold).into_iter().map(|at| candidates[at]).collect()
        }
        Rule::Apart { portion, overlap } => {
            let count = boxes.len();
            let looked_at = if count < 10 { 1 } else { ((portion * count as f32) as usize).max(1) };
            let mut all = Vec::new();
            for class in present {
                let order = ranked(*class);
                let top = &order[..looked_at.min(order.len())];
                for (rank, proposal) in top.iter().enumerate() {
                    if top[..rank].iter().all(|better| iou(&boxes[*better], &boxes[*proposal]) < overlap) {
                        all.push(mined(*proposal, *class));
                    }
                }
            }
            all
        }
    }
}

/// What each proposal is to become.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Targets {
    /// 0 for background, else the class and 1.
    pub labels: Vec<usize>,
    /// How much each counts: the score of the pseudo box it overlaps most.
    pub weights: Vec<f32>,
    /// The proposal that is that pseudo box.
    pub objects: Vec<usize>,
}

/// Every proposal takes the class of the pseudo box it overlaps most, if that is by `foreground` or more, and that box's weight
/// in any case. Without pseudo boxes nothing counts.
pub fn assign(mined: &[Mined], boxes: &[Corners], foreground: f32) -> Targets {
    let places: Vec<Corners> = mined.iter().map(|m| boxes[m.proposal]).collect();
    let mut targets = Targets::default();
    for corners in boxes {
        let (label, weight, object) = match best_match(corners, &places) {
            Some((at, overlap)) => {
                let label = if overlap >= foreground { mined[at].class + 1 } else { 0 };
                (label, mined[at].score, mined[at].proposal)
            }
            None => (0, 0.0, 0),
        };
        targets.labels.push(label);
        targets.weights.push(weight);
        targets.objects.push(object);
    }
    targets
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Three proposals on one place, two on another, and one apart.
    fn boxes() -> Vec<Corners> {
        vec![
            [0.0, 0.0, 10.0, 10.0],
            [1.0, 0.0, 11.0, 10.0],
            [0.0, 6.0, 10.0, 16.0],
            [50.0, 0.0, 60.0, 10.0],
            [50.0, 1.0, 60.0, 11.0],
            [0.0, 50.0, 10.0, 60.0],
        ]
    }

    fn proposals(mined: &[Mined]) -> Vec<(usize, usize)> {
        mined.iter().map(|m| (m.proposal, m.class)).collect()
    }

    /// Two classes, a column of background before them.
    const SCORES: [f32; 18] = [
        0.9, 0.30, 0.01, //
        0.1, 0.50, 0.02, //
        0.0, 0.46, 0.03, //
        0.0, 0.49, 0.04, //
        0.0, 0.10, 0.90, //
        0.0, 0.05, 0.05,
    ];

    #[test]
    fn the_best_of_each_present_class() {
        let mined = mine(Rule::Top, &SCORES, 3, 2, &[0, 1], &boxes());
        assert_eq!(mined[0], Mined { proposal: 1, class: 0, score: 0.5 });
        assert_eq!(mined[1], Mined { proposal: 4, class: 1, score: 0.9 });
        assert_eq!(proposals(&mine(Rule::Top, &SCORES, 3, 2, &[0], &boxes())), [(1, 0)]);
        assert_eq!(mine(Rule::Top, &[], 3, 2, &[0], &[]), []);
    }

    #[test]
    fn the_nearly_best_less_overlaps_of_any_class() {
        // Of class 0: 1 (0.5), 3 (0.49), 2 (0.46) score 0.45 or more; of class 1 only 4, which overlaps 3 and is better.
        let rule = Rule::Near { share: 0.9, nms: 0.5 };
        assert_eq!(proposals(&mine(rule, &SCORES, 3, 2, &[0, 1], &boxes())), [(4, 1), (1, 0), (2, 0)]);
        assert_eq!(proposals(&mine(rule, &SCORES, 3, 2, &[0], &boxes())), [(1, 0), (3, 0), (2, 0)]);
    }

    #[test]
    fn mist_takes_what_lies_apart_of_all_better_ones() {
        // Twelve proposals: floor(0.5 * 12) = 6 are looked at. Ranked 1, 3, 2, 0, 4, 5 for class 0.
        let mut twelve = boxes();
        twelve.extend((0..6).map(|i| [200.0 + 20.0 * i as f32, 0.0, 210.0 + 20.0 * i as f32, 10.0]));
        let mut scores = SCORES.to_vec();
        scores.extend([0.0; 18]);
        let rule = Rule::Apart { portion: 0.5, overlap: 0.2 };
        // 2 overlaps 1 by 36 / 164 >= 0.2; 0 overlaps 1; 4 overlaps 3; 5 is apart.
        assert_eq!(proposals(&mine(rule, &scores, 3, 2, &[0], &twelve)), [(1, 0), (3, 0), (5, 0)]);
        // A proposal that was not taken still stands in the way: 0.22 lets 2 in, and 0 overlaps both.
        let rule = Rule::Apart { portion: 0.34, overlap: 0.22 };
        assert_eq!(proposals(&mine(rule, &scores, 3, 2, &[0], &twelve)), [(1, 0), (3, 0), (2, 0)]);
        // Fewer than ten proposals: only the best.
        let rule = Rule::Apart { portion: 1.0, overlap: 0.2 };
        assert_eq!(proposals(&mine(rule, &SCORES, 3, 2, &[0], &boxes())), [(1, 0)]);
    }

    #[test]
    fn proposals_follow_what_they_overlap() {
        let mined =
            [Mined { proposal: 1, class: 0, score: 0.5 }, Mined { proposal: 4, class: 1, score: 0.9 }];
        let targets = assign(&mined, &boxes(), 0.5);
        assert_eq!(targets.labels, [1, 1, 0, 2, 2, 0]);
        // What overlaps nothing counts as much as the first pseudo box.
        assert_eq!(targets.weights, [0.5, 0.5, 0.5, 0.9, 0.9, 0.5]);
        assert_eq!(targets.objects, [1, 1, 1, 4, 4, 1]);
        assert_eq!(assign(&[], &boxes(), 0.5).weights, [0.0; 6]);
    }
}
