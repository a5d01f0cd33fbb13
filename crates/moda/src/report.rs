//! The page and the files of a study.

mod compared;
mod routing;
mod spread;
mod verdicts;

use std::fmt::Write as _;

use kirie_data::write_atomic;
use kirie_run::RunFolder;
use kirie_run::report::{Better, LineChart, Matrix, Page, Scatter, ScatterPoint, Series};
use serde::Serialize;
use serde_json::json;

use crate::config::StudyConfig;
use crate::error::ContinualError;
use crate::run::{Ablated, Figures, SCORES, Summary, ablated};
use crate::views::PromptKind;

pub use compared::{Group, Retention, retention, strategies};
pub use routing::{Routing, routing};
pub use spread::Spread;
pub use verdicts::{Reached, Verdict, verdicts};

/// The strategies side by side.
pub const STRATEGIES: &str = "strategies.csv";
/// Ways of telling domains apart side by side.
pub const ABLATION: &str = "ablation.csv";

/// Everything that is read off the runs of a study together.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// What MoDA is held to; empty in a study without it.
    pub verdicts: Vec<Verdict>,
    /// Every strategy by every kind of prompt.
    pub strategies: Vec<Group>,
    /// Every strategy on every natural set.
    pub retention: Vec<Retention>,
    /// Where pictures went.
    pub routing: Vec<Routing>,
    /// MoDA's runs with their domains told apart otherwise; empty where that was not asked.
    pub ablation: Vec<Group>,
}

/// A table, for pages and for terminals.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sheet {
    /// Stands above it.
    pub title: String,
    /// One for each column.
    pub headers: Vec<String>,
    /// As many cells each.
    pub rows: Vec<Vec<String>>,
}

impl Sheet {
    fn new(title: String, headers: &[&str]) -> Self {
        let headers = headers.iter().map(|&header| header.to_owned()).collect();
        Self { title, headers, rows: Vec::new() }
    }
}

/// How a figure is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unit {
    /// A share, in percent.
    Percent,
    /// As it is.
    Count,
    /// Bytes, in millions.
    Megabytes,
}

impl Unit {
    /// What it is multiplied by, and its decimals.
    fn scale(self) -> (f64, usize) {
        match self {
            Self::Percent => (100.0, 1),
            Self::Count => (1.0, 0),
            Self::Megabytes => (1e-6, 2),
        }
    }
}

impl Report {
    /// Of the runs that are finished, and of the ways that were tried on them.
    pub fn new(config: &StudyConfig, summaries: &[Summary], ablated: &[Ablated]) -> Self {
        let of = |kind: &PromptKind| -> Vec<Group> {
            let group = |Ablated { ablation, summaries }: &Ablated| {
                Group::new(&ablation.name, *kind, &summaries.iter().collect::<Vec<_>>())
            };
            ablated.iter().filter(|ablated| !ablated.summaries.is_empty()).map(group).collect()
        };
        Self {
            verdicts: verdicts(config, summaries),
            strategies: strategies(config, summaries),
            retention: retention(config, summaries),
            routing: routing(config, summaries),
            ablation: config.data.prompts.iter().flat_map(of).collect(),
        }
    }

    /// For a terminal: strategies, natural sets one by one, and where pictures went; the latter two by the first kind of prompt. The
    /// verdicts are lines, see [`Verdict`].
    pub fn sheets(&self) -> Vec<Sheet> {
        let mut sheets = compared::sheets("Strategy", &self.strategies, false);
        let Some(prompt) = self.strategies.first().map(|group| group.prompt) else { return sheets };
        sheets.push(compared::retention_sheet(&self.retention, prompt));
        sheets.push(routing::sheet(&self.routing, prompt));
        sheets.retain(|sheet| !sheet.rows.is_empty());
        sheets
    }

    /// The same of the ways that domains were told apart.
    pub fn ablation_sheets(&self) -> Vec<Sheet> {
        compared::sheets("Told apart", &self.ablation, false)
    }
}

/// Writes `metrics.json`, `scores.csv`, `strategies.csv` and `report.html` of a study, of the runs that are finished, and `ablation.csv`
/// if they were looked at so.
///
/// # Errors
/// Files that cannot be read or written.
pub fn write(
    folder: &RunFolder,
    config: &StudyConfig,
    summaries: &[Summary],
) -> Result<Report, ContinualError> {
    let report = Report::new(config, summaries, &ablated(folder.path())?);
    let about = json!({
        "base": config.model.name,
        "base_sha256": config.model.sha256,
        "adapter": config.adapter,
        "report": report,
        "runs": summaries,
    });
    folder.write_metrics(&about)?;
    let mut files =
        vec![(SCORES, csv(summaries)), (STRATEGIES, compared::csv("strategy", &report.strategies))];
    if !report.ablation.is_empty() {
        files.push((ABLATION, compared::csv("told_apart", &report.ablation)));
    }
    for (name, text) in files {
        write_atomic(folder.path().join(name), |file| file.write_all(text.as_bytes()))?;
    }
    page(config, summaries, &report)?.write(folder.report_path())?;
    Ok(report)
}

/// Every score of every run: one line a step, set and kind of prompt.
pub fn csv(summaries: &[Summary]) -> String {
    let mut text =
        "strategy,order,seed,step,learned,set,natural,pictures,prompt,iou,boundary_iou\n".to_owned();
    for Summary { strategy, order, seed, zero_shot, rows, domains, .. } in summaries {
        let last = domains.len();
        let start = std::iter::once((0, "", zero_shot));
        let steps = rows.iter().enumerate().map(|(at, row)| {
            // Joint training has one row, the last.
            let step = if rows.len() == last { at + 1 } else { last };
            (step, row.domain.as_str(), &row.sets)
        });
        for (step, learned, sets) in start.chain(steps) {
            for set in sets {
                for (kind, scores) in &set.scores {
                    let _ = writeln!(
                        text,
                        "{},{order},{seed},{step},{learned},{},{},{},{},{:.6},{:.6}",
                        strategy.name(),
                        set.name,
                        set.natural,
                        set.pictures,
                        kind.name(),
                        scores.iou,
                        scores.boundary_iou
                    );
                }
            }
        }
    }
    text
}

/// The page of a study.
///
/// # Errors
/// Figures without a text form; a base that is no model's.
fn page(config: &StudyConfig, summaries: &[Summary], report: &Report) -> Result<Page, ContinualError> {
    let mut page = Page::new("Continual adaptation");
    let data = &config.data;
    let names: Vec<&str> = data.domains.iter().map(|domain| domain.name.as_str()).collect();
    let all = config.strategies.len() * config.orders.len() * config.seeds.len();
    page.key_values(&[
        ("Base", format!("{}, {} pixels", config.model.name, config.model.input_side()?)),
        ("Adapter", config.adapter.name()),
        ("Domains", names.join(", ")),
        (
            "Measured on",
            if data.measure_held_out { "pictures held out" } else { "the test lists" }.to_owned(),
        ),
        ("Steps for each domain", config.plan.steps.to_string()),
        ("Runs finished", format!("{} of {all}", summaries.len())),
    ]);
    if !report.verdicts.is_empty() {
        add(&mut page, &verdicts::sheet(&report.verdicts));
    }
    for sheet in compared::sheets("Strategy", &report.strategies, true) {
        add(&mut page, &sheet);
    }
    page.paragraph(
        "Mean over the runs (orders and seeds) and standard deviation. Last: mean over the domains after the last of them. Avg: mean \
         over the steps of the mean over the domains seen. FF: mean loss from a domain's best earlier score to its last (Chaudhry et \
         al.). BWT: mean change since a domain was learned. FWT: mean score just before a domain is learned, less the base's. Oracle: \
         Last if every picture were answered by its own domain. Natural: pictures of no domain; Change: less the base. Own: test \
         pictures answered by their own domain. Numbers and bytes are those at the end of the stream, of all domains together. Seeds \
         change what is drawn: the beginning of what is trained, batches, prompts, exemplars; the split and the views of pictures are \
         the same in all runs.",
    );
    for prompt in &data.prompts {
        add(&mut page, &compared::retention_sheet(&report.retention, *prompt));
    }
    for prompt in &data.prompts {
        add(&mut page, &routing::sheet(&report.routing, *prompt));
    }
    if !report.ablation.is_empty() {
        page.heading("Telling domains apart otherwise");
        page.paragraph(
            "The adapters of moda's runs as they are, each time with a router of its own. What it takes to train and store adapters is \
             that of the runs.",
        );
        for sheet in compared::sheets("Told apart", &report.ablation, true) {
            add(&mut page, &sheet);
        }
    }
    scatter(&mut page, summaries, data.prompts[0]);
    for summary in summaries {
        run(&mut page, summary, data.prompts[0]);
    }
    page.raw_json("runs", &summaries)?;
    Ok(page)
}

fn add(page: &mut Page, sheet: &Sheet) {
    if !sheet.rows.is_empty() {
        page.heading(&sheet.title).table(&sheet.headers, &sheet.rows);
    }
}

fn scatter(page: &mut Page, summaries: &[Summary], kind: PromptKind) {
    let mean = |values: Vec<f64>| values.iter().sum::<f64>() / values.len() as f64;
    let by_strategy = compared::by_strategy(summaries);
    let points = by_strategy.iter().filter_map(|(strategy, runs)| {
        let of = |value: &dyn Fn(&Figures) -> Option<f64>| -> Option<f64> {
            let values: Vec<f64> = runs.iter().filter_map(|run| value(run.figures.get(&kind)?)).collect();
            (!values.is_empty()).then(|| 100.0 * mean(values))
        };
        Some(ScatterPoint {
            label: strategy.name().to_owned(),
            x: of(&|f| f.natural.map(|(last, _)| last.iou))?,
            y: of(&|f| Some(f.last.iou))?,
            group: if strategy.is_routed() { "one for each domain" } else { "one for all" }.to_owned(),
        })
    });
    let points: Vec<ScatterPoint> = points.collect();
    if points.len() > 1 {
        page.scatter(&Scatter {
            title: "What is learned and what is kept".to_owned(),
            x_label: "IoU on natural pictures, %".to_owned(),
            y_label: "last IoU on the domains, %".to_owned(),
            points,
            better: Some((Better::Higher, Better::Higher)),
            ..Scatter::default()
        });
    }
}

/// The matrices of one run.
fn run(page: &mut Page, summary: &Summary, kind: PromptKind) {
    page.heading(&format!("{}, order {}, seed {}", summary.strategy.name(), summary.order, summary.seed));
    let of = |sets: &[crate::run::SetRow], boundary: bool| -> Vec<f64> {
        let value =
            |scores: &crate::evaluate::Scores| if boundary { scores.boundary_iou } else { scores.iou };
        sets.iter().map(|set| 100.0 * set.scores.get(&kind).map_or(f64::NAN, value)).collect()
    };
    let columns: Vec<String> = summary.zero_shot.iter().map(|set| set.name.clone()).collect();
    for (title, boundary) in [("IoU", false), ("Boundary IoU", true)] {
        let mut rows = vec!["base".to_owned()];
        let mut values = vec![of(&summary.zero_shot, boundary)];
        for row in &summary.rows {
            rows.push(row.domain.clone());
            values.push(of(&row.sets, boundary));
        }
        page.matrix(&Matrix {
            title: format!("{title} in percent, by {}", kind.name()),
            row_label: "after".to_owned(),
            column_label: "measured on".to_owned(),
            rows,
            columns: columns.clone(),
            values,
            decimals: 1,
            range: Some((0.0, 100.0)),
        });
    }
    if let Some(last) = summary.rows.last().filter(|row| row.sets.iter().any(|set| !set.routed.is_empty())) {
        page.matrix(&Matrix {
            title: "Where pictures went, at the end".to_owned(),
            row_label: "pictures of".to_owned(),
            column_label: "answered by".to_owned(),
            rows: columns.clone(),
            columns: summary.domains.iter().cloned().chain(["base".to_owned()]).collect(),
            values: last.sets.iter().map(|set| set.routed.iter().map(|n| *n as f64).collect()).collect(),
            decimals: 0,
            range: None,
        });
    }
    if summary.rows.len() > 1 {
        let line = |(at, name): (usize, &String)| Series {
            name: name.clone(),
            points: summary
                .rows
                .iter()
                .enumerate()
                .map(|(step, row)| ((step + 1) as f64, of(&row.sets, false)[at]))
                .collect(),
        };
        page.line_chart(&LineChart {
            title: "IoU after each domain, %".to_owned(),
            x_label: "domains learned".to_owned(),
            y_label: "IoU, %".to_owned(),
            series: columns.iter().enumerate().map(line).collect(),
            ..LineChart::default()
        });
    }
    let rows: Vec<Vec<String>> = summary
        .rows
        .iter()
        .map(|row| {
            vec![
                row.domain.clone(),
                row.pictures.to_string(),
                format!("{:.0}", row.seconds),
                row.parameters.to_string(),
                format!("{:.2}", row.stored_bytes as f64 / 1e6),
            ]
        })
        .collect();
    page.table(&["Domain", "Pictures", "Seconds of training", "Numbers trained", "Stored MB"], &rows);
}

#[cfg(test)]
mod tests;
