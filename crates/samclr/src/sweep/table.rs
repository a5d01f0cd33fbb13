//! Runs as tables: one line a run, set and share of labels, and one line for repetitions with other seeds.

use kirie_run::sweep::csv_line;
use serde::{Deserialize, Serialize};

use super::{RunResult, RunSpec};
use crate::evaluate::ByShare;

/// Runs that differ in the seed alone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Group {
    /// The method, or what stands in place of training.
    pub method: String,
    /// Where views come from; empty where nothing is trained.
    pub source: String,
    /// Seeds.
    pub runs: usize,
    /// By set and share of labels, in the order of the first run.
    pub scores: Vec<Score>,
    /// Spread of the last batch's projections (`health.spread`), the mean over the seeds.
    pub health: Option<f64>,
    /// Regions kept of a picture, the mean over pictures and seeds.
    pub regions: Option<f64>,
    /// Seconds of an optimiser step, the mean over the seeds.
    pub seconds_per_step: Option<f64>,
}

/// Accuracies of a group on a set with a share of its labels, 0 to 1.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Score {
    /// The set.
    pub set: String,
    /// What guessing gives.
    pub chance: f64,
    /// Share of the labels.
    pub share: f64,
    /// Labelled pictures that is.
    pub labels: usize,
    /// Neighbours asked.
    pub k: usize,
    /// By nearest neighbours.
    pub knn: Option<Spread>,
    /// By the linear classifier; `None` if it diverged for a seed.
    pub linear: Option<Spread>,
    /// What nearest neighbours gain over the same method and seed with views from the source that all are held against.
    pub knn_gain: Option<Spread>,
    /// What the linear classifier gains.
    pub linear_gain: Option<Spread>,
}

/// Mean and spread over seeds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// Mean.
    pub mean: f64,
    /// Standard deviation of a sample; `None` for a single seed.
    pub deviation: Option<f64>,
}

impl Spread {
    /// Of some values; nothing of none.
    pub fn of(values: &[f64]) -> Option<Self> {
        let n = values.len() as f64;
        let mean = values.iter().sum::<f64>() / n;
        let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
        let deviation = (values.len() > 1).then(|| (squares / (n - 1.0)).sqrt());
        (!values.is_empty()).then_some(Self { mean, deviation })
    }
}

fn alike(a: &RunSpec, b: &RunSpec) -> bool {
    a.method == b.method && a.source == b.source
}

/// A run's accuracies on a set with a share of its labels.
fn find<'a>(run: &'a RunResult, set: &str, share: f64) -> Option<&'a ByShare> {
    let set = run.figures.sets.iter().find(|own| own.set == set)?;
    set.by_share.iter().find(|own| own.share == share)
}

/// Runs by method and source of views, in the order they come in; gains are over views from `against`.
pub fn groups(runs: &[RunResult], against: &str) -> Vec<Group> {
    let mut firsts: Vec<&RunResult> = Vec::new();
    for run in runs {
        if !firsts.iter().any(|first| alike(&first.spec, &run.spec)) {
            firsts.push(run);
        }
    }
    firsts.into_iter().map(|first| group(first, runs, against)).collect()
}

fn group(first: &RunResult, runs: &[RunResult], against: &str) -> Group {
    let members: Vec<&RunResult> = runs.iter().filter(|run| alike(&run.spec, &first.spec)).collect();
    let mean = |of: &dyn Fn(&RunResult) -> Option<f64>| {
        Spread::of(&members.iter().filter_map(|run| of(run)).collect::<Vec<_>>()).map(|found| found.mean)
    };
    let mut scores = Vec::new();
    for (set, share) in first.figures.sets.iter().flat_map(|set| set.by_share.iter().map(move |s| (set, s))) {
        let own = |run: &RunResult| find(run, &set.set, share.share).cloned();
        // A mean over the seeds for which a figure is there would flatter.
        let all = |of: &dyn Fn(&RunResult) -> Option<f64>| {
            let values: Option<Vec<f64>> = members.iter().map(|run| of(run)).collect();
            Spread::of(&values?)
        };
        let other = |run: &RunResult| {
            runs.iter().find(|other| {
                other.spec.method == run.spec.method
                    && other.spec.seed == run.spec.seed
                    && other.spec.source == against
            })
        };
        let knn = |run: &RunResult| Some(own(run)?.knn[0]);
        let linear = |run: &RunResult| Some(own(run)?.linear?[0]);
        let gains = first.spec.source != against && !first.spec.source.is_empty();
        let gain = |of: &dyn Fn(&RunResult) -> Option<f64>| {
            if gains { all(&|run| Some(of(run)? - of(other(run)?)?)) } else { None }
        };
        scores.push(Score {
            set: set.set.clone(),
            chance: set.chance,
            share: share.share,
            labels: share.labels,
            k: share.k,
            knn: all(&knn),
            linear: all(&linear),
            knn_gain: gain(&knn),
            linear_gain: gain(&linear),
        });
    }
    Group {
        method: first.spec.method.clone(),
        source: first.spec.source.clone(),
        runs: members.len(),
        scores,
        health: mean(&|run| run.figures.training.get("health.spread").copied()),
        regions: mean(&|run| {
            let count = run.figures.regions.as_ref().filter(|count| count.found > 0)?;
            Some(count.kept as f64 / count.pictures.max(1) as f64)
        }),
        seconds_per_step: mean(&|run| run.figures.seconds_per_step),
    }
}

/// One line a run, set and share of labels, after a line of names. Deviations are those over the draws of labels.
pub fn csv(runs: &[RunResult]) -> String {
    let mut text = csv_line(&[
        "name",
        "method",
        "source",
        "seed",
        "steps",
        "set",
        "chance",
        "share",
        "labels",
        "k",
        "knn",
        "knn_deviation",
        "linear",
        "linear_deviation",
    ]);
    for run in runs {
        let spec = &run.spec;
        for set in &run.figures.sets {
            for share in &set.by_share {
                let linear =
                    |at: usize| share.linear.map_or_else(String::new, |linear| linear[at].to_string());
                text += &csv_line(&[
                    spec.name.clone(),
                    spec.method.clone(),
                    spec.source.clone(),
                    spec.seed.to_string(),
                    run.figures.steps.to_string(),
                    set.set.clone(),
                    set.chance.to_string(),
                    share.share.to_string(),
                    share.labels.to_string(),
                    share.k.to_string(),
                    share.knn[0].to_string(),
                    share.knn[1].to_string(),
                    linear(0),
                    linear(1),
                ]);
            }
        }
    }
    text
}
