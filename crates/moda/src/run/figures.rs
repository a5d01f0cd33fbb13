//! What is read off the scores of a run.

use std::collections::BTreeMap;

use kirie_metrics::{ContinualReport, TaskMatrix};
use serde::{Deserialize, Serialize};

use crate::error::ContinualError;
use crate::evaluate::{ByPrompt, Scores};
use crate::strategy::Strategy;
use crate::views::PromptKind;

/// Scores after one domain.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// The domain that was learned.
    pub domain: String,
    /// Every set, the domains in the order that they come, then the natural ones.
    pub sets: Vec<SetRow>,
    /// Numbers that were trained for this domain.
    pub parameters: usize,
    /// Bytes that are stored for it.
    pub stored_bytes: u64,
    /// Pictures that were learned from, replayed ones included.
    pub pictures: usize,
    /// Seconds of training, without reading and scoring.
    pub seconds: f64,
}

/// Scores on one set.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SetRow {
    /// Its name.
    pub name: String,
    /// Whether it is of no domain.
    pub natural: bool,
    /// Pictures that were measured on.
    pub pictures: usize,
    /// Pictures that were passed over: without a foreground.
    pub empty: usize,
    /// Means over its pictures.
    pub scores: ByPrompt,
    /// Routed strategies: pictures that each domain answered, in the order that they come, and the base last.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub routed: Vec<u64>,
    /// Routed strategies, on domains that are learned: means if every picture were answered by its own domain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oracle: Option<ByPrompt>,
}

/// The figures of a finished run; IoU from 0 to 1.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// The strategy.
    pub strategy: Strategy,
    /// The name of the order.
    pub order: String,
    /// The seed.
    pub seed: u64,
    /// The domains as they came.
    pub domains: Vec<String>,
    /// The base before anything was learned.
    pub zero_shot: Vec<SetRow>,
    /// After each domain; for joint training one row.
    pub rows: Vec<Row>,
    /// What is read off the matrices, by kind of prompt.
    pub figures: BTreeMap<PromptKind, Figures>,
    /// Routed strategies: share of the domains' test pictures that their own domain answered, after the last domain.
    pub routing_accuracy: Option<f64>,
    /// Routed strategies: share of natural pictures that the base answered.
    pub natural_to_base: Option<f64>,
    /// Bytes that are stored at the end of the stream, for all domains together; runs of earlier versions do not say.
    #[serde(default)]
    pub stored_bytes: Option<u64>,
}

/// What is read off the matrices of one kind of prompt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Figures {
    /// Of IoU; `None` for joint training, which has no steps.
    pub iou: Option<ContinualReport>,
    /// Of boundary IoU.
    pub boundary_iou: Option<ContinualReport>,
    /// The mean over the domains at the end.
    pub last: Scores,
    /// The same if every picture were answered by its own domain.
    pub last_oracle: Option<Scores>,
    /// The mean over the natural pictures at the end, and of the base; `None` without any.
    pub natural: Option<(Scores, Scores)>,
}

/// Reads the figures off the rows of a run.
///
/// # Errors
/// Scores that are no numbers.
pub fn summarise(
    strategy: Strategy,
    order: String,
    seed: u64,
    zero_shot: Vec<SetRow>,
    rows: Vec<Row>,
) -> Result<Summary, ContinualError> {
    let domains: Vec<String> =
        zero_shot.iter().filter(|set| !set.natural).map(|set| set.name.clone()).collect();
    let count = domains.len();
    let mut figures = BTreeMap::new();
    let kinds: Vec<PromptKind> =
        zero_shot.first().map_or_else(Vec::new, |set| set.scores.keys().copied().collect());
    let last_sets = rows.last().map_or(&zero_shot, |row| &row.sets);
    for kind in kinds {
        let of = |sets: &[SetRow], value: fn(&Scores) -> f64| -> Vec<f64> {
            let domains = sets.iter().filter(|set| !set.natural);
            domains.filter_map(|set| set.scores.get(&kind)).map(value).collect()
        };
        let report = |value: fn(&Scores) -> f64| -> Result<Option<ContinualReport>, ContinualError> {
            if rows.len() != count {
                return Ok(None);
            }
            let matrix = TaskMatrix::new(rows.iter().map(|row| of(&row.sets, value)).collect())?;
            Ok(Some(matrix.report(Some(&of(&zero_shot, value)))?))
        };
        let mean = |sets: &[SetRow], natural: bool| -> Vec<Scores> {
            sets.iter()
                .filter(|set| set.natural == natural)
                .filter_map(|set| set.scores.get(&kind))
                .copied()
                .collect()
        };
        let oracle: Option<Vec<Scores>> = last_sets
            .iter()
            .filter(|set| !set.natural)
            .map(|set| set.oracle.as_ref().and_then(|oracle| oracle.get(&kind)).copied())
            .collect();
        // Every natural picture counts the same, whichever set it is of.
        let natural = |sets: &[SetRow]| {
            let sets: Vec<&SetRow> = sets.iter().filter(|set| set.natural).collect();
            let pictures = sets.iter().map(|set| set.pictures).sum::<usize>().max(1) as f64;
            let sum = |value: fn(&Scores) -> f64| {
                let each =
                    sets.iter().filter_map(|set| Some(value(set.scores.get(&kind)?) * set.pictures as f64));
                each.sum::<f64>() / pictures
            };
            Scores { iou: sum(|s| s.iou), boundary_iou: sum(|s| s.boundary_iou) }
        };
        let has_natural = zero_shot.iter().any(|set| set.natural);
        figures.insert(
            kind,
            Figures {
                iou: report(|score| score.iou)?,
                boundary_iou: report(|score| score.boundary_iou)?,
                last: Scores::mean(&mean(last_sets, false)),
                last_oracle: oracle.filter(|all| !all.is_empty()).map(|all| Scores::mean(&all)),
                natural: has_natural.then(|| (natural(last_sets), natural(&zero_shot))),
            },
        );
    }
    let share = |natural: bool, own: &dyn Fn(usize, &[u64]) -> u64| -> Option<f64> {
        let sets =
            last_sets.iter().enumerate().filter(|(_, set)| set.natural == natural && !set.routed.is_empty());
        let (right, all) = sets.fold((0, 0), |(right, all), (at, set)| {
            (right + own(at, &set.routed), all + set.routed.iter().sum::<u64>())
        });
        (all > 0).then(|| right as f64 / all as f64)
    };
    let routing_accuracy = share(false, &|at, routed| routed.get(at).copied().unwrap_or(0));
    let natural_to_base = share(true, &|_, routed| routed.last().copied().unwrap_or(0));
    Ok(Summary {
        strategy,
        order,
        seed,
        domains,
        zero_shot,
        rows,
        figures,
        routing_accuracy,
        natural_to_base,
        stored_bytes: None,
    })
}
