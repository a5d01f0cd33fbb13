//! The report of a sweep.

use kirie_run::report::{BarSeries, Bars, Page};

use super::table::{Group, Score, Spread, groups};
use super::{RunResult, Sweep};
use crate::error::ContrastiveError;

/// A self-contained page: for each set and share of labels a table of methods and sources of views, and how the runs went.
///
/// # Errors
/// If the figures have no JSON form.
pub fn page(title: &str, against: &str, sweep: &Sweep) -> Result<Page, ContrastiveError> {
    let groups = groups(&sweep.runs, against);
    let mut page = Page::new(title);
    page.paragraph(&format!(
        "{} runs are finished, {} failed, {} are still to be done. Figures are accuracies in percent, with several seeds the mean and \
         the standard deviation over them. Gains, in points, are over the same method and seed with views from \"{against}\": mean and \
         standard deviation over the seeds of the differences.",
        sweep.runs.len(),
        sweep.failed.len(),
        sweep.open.len()
    ));
    let mut parts: Vec<(&str, f64)> = Vec::new();
    for score in groups.iter().flat_map(|group| &group.scores) {
        if !parts.contains(&(score.set.as_str(), score.share)) {
            parts.push((&score.set, score.share));
        }
    }
    for (set, share) in parts {
        of_part(&mut page, set, share, &groups);
    }
    how_it_went(&mut page, &groups, &sweep.runs);
    if !sweep.failed.is_empty() {
        page.heading("Failed runs");
        let rows: Vec<Vec<&str>> =
            sweep.failed.iter().map(|failed| vec![failed.name.as_str(), failed.reason.as_str()]).collect();
        page.table(&["Run", "Reason"], &rows);
    }
    if !sweep.open.is_empty() {
        page.heading("Still to be done").paragraph(&sweep.open.join(", "));
    }
    page.raw_json("groups", &groups)?;
    page.raw_json("sweep", sweep)?;
    Ok(page)
}

/// The table of a set with a share of its labels, and its bars.
fn of_part(page: &mut Page, set: &str, share: f64, groups: &[Group]) {
    let scored: Vec<(&Group, &Score)> = groups
        .iter()
        .filter_map(|group| {
            let score = group.scores.iter().find(|own| own.set == set && own.share == share)?;
            Some((group, score))
        })
        .collect();
    let Some((_, first)) = scored.first() else { return };
    page.heading(&format!("{set}, {} % of its labels", percent(share)));
    page.paragraph(&format!(
        "{} labels; guessing the most frequent class gives {} %. Nearest neighbours: k = {}.",
        first.labels,
        percent(first.chance),
        first.k
    ));
    let headers =
        ["Method", "Views from", "Seeds", "Neighbours %", "Gain", "Linear %", "Gain of linear classifier"];
    let rows: Vec<Vec<String>> = scored
        .iter()
        .map(|(group, score)| {
            vec![
                group.method.clone(),
                group.source.clone(),
                group.runs.to_string(),
                spread(score.knn, false),
                spread(score.knn_gain, true),
                spread(score.linear, false),
                spread(score.linear_gain, true),
            ]
        })
        .collect();
    page.table(&headers, &rows);
    let values = |of: fn(&Score) -> Option<Spread>| {
        scored.iter().map(|(_, score)| of(score).map_or(f64::NAN, |found| 100.0 * found.mean)).collect()
    };
    page.bars(&Bars {
        title: format!("{set}, {} % of its labels: accuracy, %", percent(share)),
        labels: scored.iter().map(|(group, _)| name(group)).collect(),
        series: vec![
            BarSeries { name: "nearest neighbours".to_owned(), values: values(|score| score.knn) },
            BarSeries { name: "linear".to_owned(), values: values(|score| score.linear) },
        ],
        full: Some(100.0),
    });
}

fn how_it_went(page: &mut Page, groups: &[Group], runs: &[RunResult]) {
    let number = |value: Option<f64>, digits: usize| {
        value.map_or_else(|| "-".to_owned(), |value| format!("{value:.digits$}"))
    };
    let rows: Vec<Vec<String>> = groups
        .iter()
        .filter(|group| !group.source.is_empty())
        .map(|group| {
            vec![
                group.method.clone(),
                group.source.clone(),
                number(group.regions, 1),
                number(group.health, 3),
                number(group.seconds_per_step, 3),
            ]
        })
        .collect();
    if !rows.is_empty() {
        page.heading("How training went");
        page.table(
            &["Method", "Views from", "Regions a picture", "Spread of projections", "s a step"],
            &rows,
        );
    }
    let warned: Vec<Vec<&str>> = runs
        .iter()
        .flat_map(|run| run.figures.warnings.iter().map(move |warning| (run, warning)))
        .map(|(run, warning)| vec![run.spec.name.as_str(), warning.as_str()])
        .collect();
    if !warned.is_empty() {
        page.heading("Warnings").table(&["Run", "Warning"], &warned);
    }
}

fn name(group: &Group) -> String {
    if group.source.is_empty() { group.method.clone() } else { format!("{}, {}", group.method, group.source) }
}

/// A share from 0 to 1 in percent, without needless digits.
fn percent(share: f64) -> String {
    let text = format!("{:.2}", 100.0 * share);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// Mean and deviation in percent, or in points with their sign.
fn spread(found: Option<Spread>, signed: bool) -> String {
    let Some(Spread { mean, deviation }) = found else { return "-".to_owned() };
    let mean = if signed { format!("{:+.2}", 100.0 * mean) } else { format!("{:.2}", 100.0 * mean) };
    match deviation {
        Some(deviation) => format!("{mean} ± {:.2}", 100.0 * deviation),
        None => mean,
    }
}
