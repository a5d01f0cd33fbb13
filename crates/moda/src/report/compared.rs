//! Strategies (or ways of telling domains apart) side by side: what is compared, over which runs, as rows of figures.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::Serialize;

use super::spread::{Spread, shown};
use super::{Sheet, Unit};
use crate::config::StudyConfig;
use crate::run::{Figures, SetRow, Summary};
use crate::strategy::Strategy;
use crate::views::PromptKind;

/// A figure of a run.
pub(super) struct Measure {
    /// Its name in files.
    pub(super) key: &'static str,
    /// Its heading in tables.
    heading: &'static str,
    unit: Unit,
    of: fn(&Summary, &Figures) -> Option<f64>,
}

impl Measure {
    const fn new(
        key: &'static str,
        heading: &'static str,
        unit: Unit,
        of: fn(&Summary, &Figures) -> Option<f64>,
    ) -> Self {
        Self { key, heading, unit, of }
    }
}

/// What is held against each other by one kind of prompt.
pub(super) const SCORES: [Measure; 12] = [
    Measure::new("last_iou", "Last", Unit::Percent, |_, f| Some(f.last.iou)),
    Measure::new("avg_iou", "Avg", Unit::Percent, |_, f| Some(f.iou.as_ref()?.avg)),
    Measure::new("ff_iou", "FF", Unit::Percent, |_, f| f.iou.as_ref()?.forgetting_max),
    Measure::new("bwt_iou", "BWT", Unit::Percent, |_, f| f.iou.as_ref()?.bwt),
    Measure::new("fwt_iou", "FWT", Unit::Percent, |_, f| f.iou.as_ref()?.fwt),
    Measure::new("oracle_iou", "Oracle", Unit::Percent, |_, f| Some(f.last_oracle?.iou)),
    Measure::new("natural_iou", "Natural", Unit::Percent, |_, f| Some(f.natural?.0.iou)),
    Measure::new("natural_change", "Change", Unit::Percent, |_, f| {
        let (last, base) = f.natural?;
        Some(last.iou - base.iou)
    }),
    Measure::new("last_biou", "Last BIoU", Unit::Percent, |_, f| Some(f.last.boundary_iou)),
    Measure::new("avg_biou", "Avg BIoU", Unit::Percent, |_, f| Some(f.boundary_iou.as_ref()?.avg)),
    Measure::new("ff_biou", "FF BIoU", Unit::Percent, |_, f| f.boundary_iou.as_ref()?.forgetting_max),
    Measure::new("natural_biou", "Natural BIoU", Unit::Percent, |_, f| Some(f.natural?.0.boundary_iou)),
];

/// And by none: what is told apart, and what it costs.
pub(super) const COSTS: [Measure; 5] = [
    Measure::new("routed_own", "Own", Unit::Percent, |run, _| run.routing_accuracy),
    Measure::new("natural_to_base", "Natural to base", Unit::Percent, |run, _| run.natural_to_base),
    Measure::new("trained_numbers", "Numbers trained", Unit::Count, |run, _| Some(trained(run) as f64)),
    Measure::new("stored_bytes", "Stored MB", Unit::Megabytes, |run, _| Some(run.stored_bytes? as f64)),
    Measure::new("seconds", "Seconds", Unit::Count, |run, _| {
        Some(run.rows.iter().map(|row| row.seconds).sum())
    }),
];

/// Numbers that were trained and are in use at the end: of every domain where each has its own.
fn trained(run: &Summary) -> usize {
    if run.strategy.is_routed() {
        return run.rows.iter().map(|row| row.parameters).sum();
    }
    run.rows.last().map_or(0, |row| row.parameters)
}

/// The figures of some runs that belong together, asked by one kind of prompt.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Group {
    /// What they have in common: a strategy, or a way of telling domains apart.
    pub name: String,
    /// How they were asked.
    pub prompt: PromptKind,
    /// How many.
    pub runs: usize,
    /// Figures by name: IoU and shares from 0 to 1, numbers, bytes, seconds. What no run has is missing.
    pub figures: BTreeMap<&'static str, Spread>,
}

impl Group {
    /// The figures of these runs.
    pub fn new(name: &str, prompt: PromptKind, runs: &[&Summary]) -> Self {
        let figures = SCORES.iter().chain(&COSTS).filter_map(|measure| {
            let of = |run: &&Summary| (measure.of)(run, run.figures.get(&prompt)?);
            Some((measure.key, Spread::of(&runs.iter().filter_map(of).collect::<Vec<_>>())?))
        });
        Self { name: name.to_owned(), prompt, runs: runs.len(), figures: figures.collect() }
    }

    fn shown(&self, measure: &Measure) -> String {
        let (scale, decimals) = measure.unit.scale();
        shown(self.figures.get(measure.key), scale, decimals)
    }
}

/// The runs of each strategy, in the order of [`Strategy::ALL`].
pub(super) fn by_strategy(summaries: &[Summary]) -> Vec<(Strategy, Vec<&Summary>)> {
    let of = |strategy: Strategy| {
        let runs: Vec<&Summary> = summaries.iter().filter(|run| run.strategy == strategy).collect();
        (!runs.is_empty()).then_some((strategy, runs))
    };
    Strategy::ALL.into_iter().filter_map(of).collect()
}

/// Figures of every strategy by every kind of prompt.
pub fn strategies(config: &StudyConfig, summaries: &[Summary]) -> Vec<Group> {
    let by_strategy = by_strategy(summaries);
    let of = |kind: &PromptKind| -> Vec<Group> {
        by_strategy.iter().map(|(strategy, runs)| Group::new(strategy.name(), *kind, runs)).collect()
    };
    config.data.prompts.iter().flat_map(of).collect()
}

/// Tables of groups: for each kind of prompt IoU and, if `boundary`, boundary IoU; then what does not depend on prompts.
pub(super) fn sheets(what: &'static str, groups: &[Group], boundary: bool) -> Vec<Sheet> {
    let mut prompts: Vec<PromptKind> = Vec::new();
    for group in groups {
        if !prompts.contains(&group.prompt) {
            prompts.push(group.prompt);
        }
    }
    let table = |title: String, groups: &[&Group], measures: &[Measure]| {
        let mut sheet = Sheet::new(title, &[what, "Runs"]);
        sheet.headers.extend(measures.iter().map(|measure| measure.heading.to_owned()));
        for group in groups {
            let figures = measures.iter().map(|measure| group.shown(measure));
            let start = [group.name.clone(), group.runs.to_string()];
            sheet.rows.push(start.into_iter().chain(figures).collect());
        }
        sheet
    };
    let mut sheets = Vec::new();
    for prompt in &prompts {
        let of: Vec<&Group> = groups.iter().filter(|group| group.prompt == *prompt).collect();
        let name = prompt.name();
        sheets.push(table(format!("IoU in percent, asked by {name}"), &of, &SCORES[..8]));
        if boundary {
            sheets.push(table(format!("Boundary IoU in percent, asked by {name}"), &of, &SCORES[8..]));
        }
    }
    if let Some(first) = prompts.first() {
        let of: Vec<&Group> = groups.iter().filter(|group| group.prompt == *first).collect();
        sheets.push(table("Routing in percent, and what it takes".to_owned(), &of, &COSTS));
    }
    sheets
}

/// The same as a file: a line for each group and kind of prompt, mean and standard deviation of each figure. IoU and shares from 0 to 1,
/// empty where there is nothing.
pub(super) fn csv(what: &str, groups: &[Group]) -> String {
    let measures = || SCORES.iter().chain(&COSTS);
    let mut text = format!("{what},prompt,runs");
    for measure in measures() {
        let _ = write!(text, ",{0},{0}_sd", measure.key);
    }
    text.push('\n');
    for group in groups {
        let _ = write!(text, "{},{},{}", group.name, group.prompt.name(), group.runs);
        for measure in measures() {
            let spread = group.figures.get(measure.key);
            for value in [spread.map(|spread| spread.mean), spread.and_then(|spread| spread.deviation)] {
                text.push(',');
                if let Some(value) = value {
                    let _ = write!(text, "{value:.6}");
                }
            }
        }
        text.push('\n');
    }
    text
}

/// What a strategy left of the base's ability on one natural set.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Retention {
    /// The strategy.
    pub strategy: Strategy,
    /// The set.
    pub set: String,
    /// What of it was seen in learning, as the configuration says; `None`: nothing.
    pub seen: Option<String>,
    /// How it was asked.
    pub prompt: PromptKind,
    /// IoU of the base, from 0 to 1.
    pub base: Spread,
    /// After the last domain.
    pub last: Spread,
    /// The one less the other, run by run.
    pub change: Spread,
}

/// Every strategy on every natural set.
pub fn retention(config: &StudyConfig, summaries: &[Summary]) -> Vec<Retention> {
    let mut all = Vec::new();
    for prompt in &config.data.prompts {
        for (strategy, runs) in by_strategy(summaries) {
            for set in &config.data.natural {
                let iou = |sets: &[SetRow]| -> Option<f64> {
                    let found = sets.iter().find(|row| row.natural && row.name == set.name)?;
                    Some(found.scores.get(prompt)?.iou)
                };
                let of = |run: &&Summary| Some((iou(&run.zero_shot)?, iou(&run.rows.last()?.sets)?));
                let pairs: Vec<(f64, f64)> = runs.iter().filter_map(of).collect();
                let spread =
                    |value: fn(&(f64, f64)) -> f64| Spread::of(&pairs.iter().map(value).collect::<Vec<_>>());
                if let (Some(base), Some(last), Some(change)) =
                    (spread(|pair| pair.0), spread(|pair| pair.1), spread(|pair| pair.1 - pair.0))
                {
                    let (set, seen) = (set.name.clone(), set.seen.clone());
                    all.push(Retention { strategy, set, seen, prompt: *prompt, base, last, change });
                }
            }
        }
    }
    all
}

/// As a table, of one kind of prompt.
pub(super) fn retention_sheet(all: &[Retention], prompt: PromptKind) -> Sheet {
    let title = format!("Natural sets one by one, IoU in percent, asked by {}", prompt.name());
    let mut sheet = Sheet::new(title, &["Strategy", "Set", "Base", "Last", "Change", "Seen in learning"]);
    for row in all.iter().filter(|row| row.prompt == prompt) {
        let figure = |spread: &Spread| spread.scaled(100.0).shown(1);
        sheet.rows.push(vec![
            row.strategy.name().to_owned(),
            row.set.clone(),
            figure(&row.base),
            figure(&row.last),
            figure(&row.change),
            row.seen.clone().unwrap_or_else(|| "nothing".to_owned()),
        ]);
    }
    sheet
}
