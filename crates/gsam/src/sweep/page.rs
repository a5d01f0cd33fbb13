//! The report of a sweep.

use kirie_run::report::{Better, Page, Scatter, ScatterPoint};

use super::Sweep;
use super::table::{Group, groups};
use crate::error::SemanticError;
use crate::evaluate::percent;

/// A self-contained page: for each set a table of what runs cost and gained, plots of score by cost with the runs that no other
/// beats, and the classes.
///
/// # Errors
/// If the figures have no JSON form.
pub fn page(title: &str, sweep: &Sweep) -> Result<Page, SemanticError> {
    let groups = groups(&sweep.runs);
    let mut page = Page::new(title);
    page.paragraph(&format!(
        "{} runs are finished, {} failed, {} are still to be done. Scores are mIoU in percent at the pictures' own resolution; \
         with several seeds the mean and the standard deviation over them.",
        sweep.runs.len(), sweep.failed.len(), sweep.open.len()
    ));
    let mut sets: Vec<&str> = Vec::new();
    for group in &groups {
        if !sets.contains(&group.set.as_str()) {
            sets.push(&group.set);
        }
    }
    for set in sets {
        let own: Vec<&Group> = groups.iter().filter(|group| group.set == set).collect();
        of_set(&mut page, set, &own);
    }
    if !sweep.failed.is_empty() {
        page.heading("Failed runs");
        let rows: Vec<Vec<&str>> =
            sweep.failed.iter().map(|failed| vec![failed.name.as_str(), failed.reason.as_str()]).collect();
        page.table(&["Run", "Reason"], &rows);
    }
    if !sweep.open.is_empty() {
        page.heading("Still to be done").paragraph(&sweep.open.join(", "));
    }
    page.raw_json("sweep", sweep)?;
    Ok(page)
}

fn of_set(page: &mut Page, set: &str, groups: &[&Group]) {
    page.heading(set);
    let headers = [
        "Method",
        "Input",
        "Augmentation",
        "Seeds",
        "Before %",
        "mIoU %",
        "Of largest input %",
        "Its MACs %",
        "GMACs a picture",
        "Trained",
        "Stored",
        "Memory MiB",
        "s a step",
        "s a picture, test",
        "CPU s",
    ];
    let rows: Vec<Vec<String>> = groups.iter().map(|group| row(group)).collect();
    page.table(&headers, &rows);
    page.paragraph(
        "\"Of largest input\": the score over that of the same method and augmentation at the input of most MACs, and the share \
         of its MACs that it takes. MACs are those of the network's forward pass for one training picture. CPU seconds, over all \
         cores, stand for energy.",
    );
    let costs: [Cost; 4] = [
        ("Score by MACs", "GMACs a training picture", |group| Some(group.macs_per_picture as f64 / 1e9)),
        ("Score by time", "seconds a step", |group| group.seconds_per_step),
        ("Score by memory", "peak memory, MiB", |group| Some(group.peak_memory_bytes? / f64::from(1 << 20))),
        ("Score by what is stored", "million parameters", |group| Some(group.stored_parameters as f64 / 1e6)),
    ];
    for (title, x_label, cost) in costs {
        let point = |group: &&Group| {
            let (x, y) = (cost(group).filter(|x| *x > 0.0)?, group.miou?);
            let label = if group.augmentation.is_empty()
                || groups.iter().all(|g| g.augmentation == group.augmentation)
            {
                group.input.clone()
            } else {
                format!("{}, {}", group.input, group.augmentation)
            };
            Some(ScatterPoint { label, group: group.method.clone(), x, y: 100.0 * y })
        };
        let points: Vec<ScatterPoint> = groups.iter().filter_map(point).collect();
        if !points.is_empty() {
            page.scatter(&Scatter {
                title: format!("{set}: {title}"),
                x_label: x_label.to_owned(),
                y_label: "mIoU %".to_owned(),
                points,
                log_x: true,
                better: Some((Better::Lower, Better::Higher)),
            });
        }
    }
    let Some(first) = groups.first() else { return };
    let names: Vec<&str> = first.classes.iter().map(|(name, _)| name.as_str()).collect();
    let headers: Vec<&str> =
        ["Method", "Input", "Augmentation"].into_iter().chain(names.iter().copied()).collect();
    let rows: Vec<Vec<String>> = groups
        .iter()
        .map(|group| {
            let iou = |name: &&str| group.classes.iter().find(|(own, _)| own == name)?.1;
            let iou = names.iter().map(|name| percent(iou(name)));
            [&group.method, &group.input, &group.augmentation].into_iter().cloned().chain(iou).collect()
        })
        .collect();
    page.heading(&format!("{set}: IoU of the classes, %")).table(&headers, &rows);
}

/// Title, name of the axis, value.
type Cost = (&'static str, &'static str, fn(&Group) -> Option<f64>);

fn row(group: &Group) -> Vec<String> {
    let number = |value: Option<f64>, digits: usize| {
        value.map_or_else(|| "-".to_owned(), |value| format!("{value:.digits$}"))
    };
    let score = match group.miou_deviation {
        Some(deviation) => format!("{} ± {:.2}", percent(group.miou), 100.0 * deviation),
        None => percent(group.miou),
    };
    vec![
        group.method.clone(),
        group.input.clone(),
        group.augmentation.clone(),
        group.runs.to_string(),
        percent(group.miou_before),
        score,
        number(group.of_largest_miou.map(|share| 100.0 * share), 1),
        number(group.of_largest_macs.map(|share| 100.0 * share), 1),
        format!("{:.3}", group.macs_per_picture as f64 / 1e9),
        group.trained_parameters.to_string(),
        group.stored_parameters.to_string(),
        number(group.peak_memory_bytes.map(|bytes| bytes / f64::from(1 << 20)), 0),
        number(group.seconds_per_step, 3),
        number(group.seconds_per_inference, 3),
        number(group.cpu_seconds, 0),
    ]
}
