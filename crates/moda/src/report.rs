//! The page and the files of a study.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use kirie_data::write_atomic;
use kirie_run::RunFolder;
use kirie_run::report::{Better, LineChart, Matrix, Page, Scatter, ScatterPoint, Series};
use serde_json::json;

use crate::base::Base;
use crate::config::StudyConfig;
use crate::error::ContinualError;
use crate::run::{Figures, SCORES, Summary};
use crate::strategy::Strategy;
use crate::views::PromptKind;

/// Writes `metrics.json`, `scores.csv` and `report.html` of a study, of the runs that are finished.
///
/// # Errors
/// Files that cannot be written.
pub fn write(
    folder: &RunFolder,
    config: &StudyConfig,
    base: &Base,
    summaries: &[Summary],
) -> Result<(), ContinualError> {
    let about = json!({
        "base": base.name(),
        "base_sha256": base.hash(),
        "adapter": config.adapter,
        "runs": summaries,
    });
    folder.write_metrics(&about)?;
    let csv = csv(summaries);
    write_atomic(folder.path().join(SCORES), |file| file.write_all(csv.as_bytes()))?;
    Ok(page(config, base, summaries)?.write(folder.report_path())?)
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

/// Mean and standard deviation (of a sample) in percent, or a dash.
fn percent(values: &[Option<f64>]) -> String {
    let values: Vec<f64> = values.iter().flatten().map(|value| 100.0 * value).collect();
    let count = values.len() as f64;
    if values.is_empty() {
        return "-".to_owned();
    }
    let mean = values.iter().sum::<f64>() / count;
    if values.len() == 1 {
        return format!("{mean:.1}");
    }
    let spread = (values.iter().map(|v| (v - mean) * (v - mean)).sum::<f64>() / (count - 1.0)).sqrt();
    format!("{mean:.1} ±{spread:.1}")
}

/// The page of a study.
///
/// # Errors
/// Figures without a text form.
pub fn page(config: &StudyConfig, base: &Base, summaries: &[Summary]) -> Result<Page, ContinualError> {
    let mut page = Page::new("Continual adaptation");
    let data = &config.data;
    let names: Vec<&str> = data.domains.iter().map(|domain| domain.name.as_str()).collect();
    page.key_values(&[
        ("Base", format!("{}, {} pixels", base.name(), base.preprocess().size)),
        ("Adapter", config.adapter.name()),
        ("Domains", names.join(", ")),
        (
            "Measured on",
            if data.measure_held_out { "pictures held out" } else { "the test lists" }.to_owned(),
        ),
        ("Steps for each domain", config.plan.steps.to_string()),
        ("Runs finished", summaries.len().to_string()),
    ]);
    let mut by_strategy: BTreeMap<Strategy, Vec<&Summary>> = BTreeMap::new();
    for summary in summaries {
        by_strategy.entry(summary.strategy).or_default().push(summary);
    }
    for kind in &data.prompts {
        page.heading(&format!("Strategies, asked by {}", kind.name()));
        table(&mut page, &by_strategy, *kind);
    }
    page.paragraph(
        "All in percent: mean over the runs (orders and seeds) and standard deviation. Last: mean over the domains after the last of \
         them. Avg: mean over the steps of the mean over the domains seen. FF: mean loss from a domain's best earlier score to its last \
         (Chaudhry et al.). BWT: mean change since a domain was learned. FWT: mean score just before a domain is learned, less the \
         base's. Natural: pictures of no domain, in brackets the change from the base. Own: answered by the picture's own domain. \
         Base: natural pictures that went to the base.",
    );
    scatter(&mut page, &by_strategy, data.prompts[0]);
    for summary in summaries {
        run(&mut page, summary, data.prompts[0]);
    }
    page.raw_json("runs", &summaries)?;
    Ok(page)
}

fn table(page: &mut Page, by_strategy: &BTreeMap<Strategy, Vec<&Summary>>, kind: PromptKind) {
    let mut rows = Vec::new();
    for (strategy, runs) in by_strategy {
        let figures: Vec<&Figures> = runs.iter().filter_map(|run| run.figures.get(&kind)).collect();
        let of = |value: &dyn Fn(&Figures) -> Option<f64>| {
            percent(&figures.iter().map(|figures| value(figures)).collect::<Vec<_>>())
        };
        let runs_of = |value: &dyn Fn(&Summary) -> Option<f64>| {
            percent(&runs.iter().map(|run| value(run)).collect::<Vec<_>>())
        };
        let natural = of(&|f| f.natural.map(|(last, _)| last.iou));
        let change = of(&|f| f.natural.map(|(last, base)| last.iou - base.iou));
        rows.push(vec![
            strategy.name().to_owned(),
            runs.len().to_string(),
            of(&|f| Some(f.last.iou)),
            of(&|f| f.iou.as_ref().map(|report| report.avg)),
            of(&|f| f.iou.as_ref().and_then(|report| report.forgetting_max)),
            of(&|f| f.iou.as_ref().and_then(|report| report.bwt)),
            of(&|f| f.iou.as_ref().and_then(|report| report.fwt)),
            of(&|f| f.last_oracle.map(|scores| scores.iou)),
            of(&|f| Some(f.last.boundary_iou)),
            of(&|f| f.boundary_iou.as_ref().and_then(|report| report.forgetting_max)),
            if natural == "-" { natural } else { format!("{natural} ({change})") },
            runs_of(&|run| run.routing_accuracy),
            runs_of(&|run| run.natural_to_base),
        ]);
    }
    let headers = [
        "Strategy",
        "Runs",
        "Last IoU",
        "Avg IoU",
        "FF IoU",
        "BWT",
        "FWT",
        "Last, domain known",
        "Last BIoU",
        "FF BIoU",
        "Natural",
        "Own",
        "Base",
    ];
    page.table(&headers, &rows);
}

fn scatter(page: &mut Page, by_strategy: &BTreeMap<Strategy, Vec<&Summary>>, kind: PromptKind) {
    let mean = |values: Vec<f64>| values.iter().sum::<f64>() / values.len() as f64;
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
