//! Where the pictures of each set went after the last domain, and what that cost.

use std::collections::BTreeMap;

use serde::Serialize;

use super::Sheet;
use super::compared::by_strategy;
use super::spread::{Spread, shown};
use crate::config::StudyConfig;
use crate::measure::BASE;
use crate::run::{SetRow, Summary};
use crate::strategy::Strategy;
use crate::views::PromptKind;

/// One set under one strategy that routes; shares from 0 to 1.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Routing {
    /// The strategy.
    pub strategy: Strategy,
    /// The set.
    pub set: String,
    /// Whether it is of no domain.
    pub natural: bool,
    /// Pictures in a run.
    pub pictures: usize,
    /// Pictures that their own domain answered; `None` for natural sets.
    pub own: Option<Spread>,
    /// Pictures that the base answered.
    pub base: Spread,
    /// The share that other domains answered, mean over runs, the largest first.
    pub others: Vec<(String, f64)>,
    /// IoU as routed.
    pub last: BTreeMap<PromptKind, Spread>,
    /// IoU if every picture were answered by its own domain; empty for natural sets.
    pub oracle: BTreeMap<PromptKind, Spread>,
}

/// Every set under every strategy that routes, the domains as configured, then the natural sets.
pub fn routing(config: &StudyConfig, summaries: &[Summary]) -> Vec<Routing> {
    let domains = config.data.domains.iter().map(|domain| (domain.name.as_str(), false));
    let sets: Vec<(&str, bool)> =
        domains.chain(config.data.natural.iter().map(|set| (set.name.as_str(), true))).collect();
    let mut all = Vec::new();
    for (strategy, runs) in by_strategy(summaries) {
        if strategy.is_routed() {
            all.extend(sets.iter().filter_map(|(set, natural)| one(strategy, &runs, set, *natural)));
        }
    }
    all
}

fn one(strategy: Strategy, runs: &[&Summary], name: &str, natural: bool) -> Option<Routing> {
    let rows: Vec<(&Summary, &SetRow)> = runs
        .iter()
        .filter_map(|run| {
            let sets = &run.rows.last()?.sets;
            let row = sets.iter().find(|row| row.name == name && row.natural == natural)?;
            (row.routed.iter().sum::<u64>() > 0).then_some((*run, row))
        })
        .collect();
    // By name: orders differ from run to run.
    let shares: Vec<BTreeMap<&str, f64>> = rows
        .iter()
        .map(|(run, row)| {
            let total = row.routed.iter().sum::<u64>() as f64;
            let names = run.domains.iter().map(String::as_str).chain([BASE]);
            names.zip(&row.routed).map(|(name, count)| (name, *count as f64 / total)).collect()
        })
        .collect();
    let share = |to: &str| -> Vec<f64> {
        shares.iter().map(|shares| shares.get(to).copied().unwrap_or(0.0)).collect()
    };
    let base = Spread::of(&share(BASE))?;
    let mut others: Vec<(String, f64)> = shares
        .iter()
        .flat_map(BTreeMap::keys)
        .filter(|to| **to != BASE && (natural || **to != name))
        .collect::<std::collections::BTreeSet<_>>()
        .into_iter()
        .filter_map(|to| Some(((*to).to_owned(), Spread::of(&share(to))?.mean)))
        .filter(|(_, share)| *share > 0.0)
        .collect();
    others.sort_by(|a, b| b.1.total_cmp(&a.1));
    let kinds = || rows.first().into_iter().flat_map(|(_, row)| row.scores.keys().copied());
    let of = |value: &dyn Fn(&SetRow, PromptKind) -> Option<f64>| -> BTreeMap<PromptKind, Spread> {
        let spread = |kind| {
            let values: Vec<f64> = rows.iter().filter_map(|(_, row)| value(row, kind)).collect();
            Some((kind, Spread::of(&values)?))
        };
        kinds().filter_map(spread).collect()
    };
    Some(Routing {
        strategy,
        set: name.to_owned(),
        natural,
        pictures: rows.first()?.1.pictures,
        own: if natural { None } else { Spread::of(&share(name)) },
        base,
        others,
        last: of(&|row, kind| Some(row.scores.get(&kind)?.iou)),
        oracle: of(&|row, kind| Some(row.oracle.as_ref()?.get(&kind)?.iou)),
    })
}

/// As a table, with IoU by one kind of prompt.
pub(super) fn sheet(all: &[Routing], prompt: PromptKind) -> Sheet {
    let title =
        format!("Where pictures went after the last domain, and IoU asked by {}, in percent", prompt.name());
    let headers =
        ["Strategy", "Pictures of", "Number", "Own", "To base", "Last", "Oracle", "Lost", "To other domains"];
    let mut sheet = Sheet::new(title, &headers);
    for row in all {
        let others = row.others.iter().map(|(name, share)| format!("{name} {:.1}", 100.0 * share));
        let others = others.collect::<Vec<_>>().join(", ");
        let (last, oracle) = (row.last.get(&prompt), row.oracle.get(&prompt));
        let lost = last.zip(oracle).map(|(last, oracle)| 100.0 * (oracle.mean - last.mean));
        sheet.rows.push(vec![
            row.strategy.name().to_owned(),
            row.set.clone(),
            row.pictures.to_string(),
            shown(row.own.as_ref(), 100.0, 1),
            row.base.scaled(100.0).shown(1),
            shown(last, 100.0, 1),
            shown(oracle, 100.0, 1),
            lost.map_or_else(|| "-".to_owned(), |lost| format!("{lost:.1}")),
            if others.is_empty() { "-".to_owned() } else { others },
        ]);
    }
    sheet
}
