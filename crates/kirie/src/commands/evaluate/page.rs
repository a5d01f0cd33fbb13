//! The report: figures, how the scores are spread, best and worst answers.

use kirie_data::datasets::Dataset;
use kirie_promptable::evaluate::{Case, Failed, PromptedReport};
use kirie_run::report::{BarSeries, Bars, Page, Picture};

use super::table::{HEADERS, detection_rows, heading, recall_rows, rows, skipped};
use super::{Run, label};
use crate::args::EvaluatePromptableArgs;

/// The page of all runs.
pub(super) fn page(args: &EvaluatePromptableArgs, dataset: &Dataset, runs: &[Run]) -> anyhow::Result<Page> {
    let mut page = Page::new(&heading(args, dataset, runs));
    let asked: Vec<&PromptedReport> = runs.iter().filter_map(Run::prompted).collect();
    if let Some(first) = asked.first() {
        page.heading("Figures");
        page.table(&HEADERS, &rows(&asked));
        if first.summary.skipped.total() > 0 {
            page.paragraph(&skipped(first.summary.skipped));
        }
        if asked.iter().any(|run| run.summary.miou_by_click.len() > 1) {
            page.bars(&by_click(&asked));
        }
        page.bars(&spread(&asked));
    }
    for run in runs {
        match run {
            Run::Prompted(_) => {}
            Run::Detected(run) => {
                page.heading("A detector's boxes");
                page.table(&["figure", "masks", "boxes"], &detection_rows(run));
            }
            Run::Everything(run) => {
                page.heading("Everything");
                page.table(&["figure", "best mask", "one to one"], &recall_rows(run));
            }
        }
    }
    let failed: Vec<&Failed> = runs.iter().flat_map(Run::failed).collect();
    if !failed.is_empty() {
        page.heading("Pictures that failed");
        let lines: Vec<Vec<&str>> =
            failed.iter().map(|failed| vec![failed.picture.as_str(), failed.reason.as_str()]).collect();
        page.table(&["picture", "reason"], &lines);
    }
    for run in asked {
        for (name, cases) in [("Worst", &run.worst), ("Best", &run.best)] {
            if !cases.is_empty() {
                page.heading(&format!("{name} answers, {}", run.summary.prompt));
                page.paragraph("On the left the object, on the right the answer with its prompt.");
                show(&mut page, dataset, cases)?;
            }
        }
    }
    Ok(page)
}

fn by_click(runs: &[&PromptedReport]) -> Bars {
    let clicks = runs.iter().map(|run| run.summary.miou_by_click.len()).max().unwrap_or(0);
    let of = |run: &&PromptedReport| BarSeries {
        name: run.summary.prompt.clone(),
        values: (0..clicks)
            .map(|at| run.summary.miou_by_click.get(at).copied().unwrap_or(f64::NAN))
            .collect(),
    };
    let series = runs.iter().filter(|run| run.summary.miou_by_click.len() > 1).map(of).collect();
    let labels = (1..=clicks).map(|click| format!("click {click}")).collect();
    Bars { title: "mIoU after each click".to_owned(), labels, series, full: Some(1.0) }
}

/// How many objects there are at each tenth of IoU.
fn spread(runs: &[&PromptedReport]) -> Bars {
    let of = |run: &&PromptedReport| {
        let mut values = vec![0.0; 10];
        for object in &run.objects {
            values[((object.iou * 10.0) as usize).min(9)] += 1.0;
        }
        BarSeries { name: run.summary.prompt.clone(), values }
    };
    let labels =
        (0..10).map(|tenth| format!("IoU 0.{tenth} to {:.1}", f64::from(tenth + 1) / 10.0)).collect();
    Bars { title: "Objects by IoU".to_owned(), labels, series: runs.iter().map(of).collect(), full: None }
}

fn show(page: &mut Page, dataset: &Dataset, cases: &[Case]) -> anyhow::Result<()> {
    let mut shown = Vec::new();
    for case in cases {
        let score = &case.score;
        let same = |sample: &&_| label(sample) == (score.picture.as_str(), score.split.as_deref());
        let Some(sample) = dataset.samples.iter().find(same) else { continue };
        let class = score.class.as_ref().map(|class| format!(", {class}")).unwrap_or_default();
        let caption = format!(
            "{}, object {}{class}: IoU {:.3}, boundary IoU {:.3}, {:.0} pixels",
            score.picture, score.object, score.iou, score.biou, score.area
        );
        shown.push((caption, case.picture(&dataset.picture(sample)?)?));
    }
    let pictures: Vec<Picture> =
        shown.iter().map(|(caption, image)| Picture { caption, image: image.rgb() }).collect();
    page.pictures(&pictures);
    Ok(())
}
