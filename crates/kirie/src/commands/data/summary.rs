//! What people read of a set.

use std::fmt::Write;
use std::path::Path;

use kirie_data::datasets::{ClassShare, Converted, Dataset, Inspection, ObjectStats, Problem, Spread};

use crate::report::Table;

/// Classes listed at most.
const CLASSES: usize = 100;

/// What inspection found.
pub(super) fn inspection(found: &Inspection) -> String {
    let mut text = format!("{}: {}\nlayout    {}\n", found.name, found.found, found.layout);
    let splits: Vec<String> =
        found.splits.iter().map(|count| format!("{} {}", count.split, count.samples)).collect();
    let splits = if splits.is_empty() { String::new() } else { format!(" ({})", splits.join(", ")) };
    let labelled = match found.labelled {
        labelled if labelled == found.samples => "all with labels".to_owned(),
        0 => "none with labels".to_owned(),
        labelled => format!("{labelled} with labels"),
    };
    let _ = writeln!(text, "pictures  {}{splits}, {labelled}", found.samples);
    if let Some(objects) = &found.objects {
        let _ = writeln!(text, "objects   {}", object_counts(objects));
    }
    if let Some(ignored) = found.ignored.filter(|&ignored| ignored > 0.0) {
        let _ = writeln!(text, "ignored   {} of all pixels", percent(ignored));
    }
    spreads(&mut text, found);
    if !found.classes.is_empty() {
        classes(&mut text, found);
    }
    problems(&mut text, &found.problems);
    text
}

fn object_counts(objects: &ObjectStats) -> String {
    let mut text = objects.total.to_string();
    if objects.total > 0 {
        let share = |count: usize| percent(count as f64 / objects.total as f64);
        let _ = write!(
            text,
            ", by area {} below 32², {} below 96², {} from 96² pixels",
            share(objects.small),
            share(objects.medium),
            share(objects.large)
        );
    }
    if objects.difficult > 0 {
        let _ = write!(text, "\n          {} of them difficult", objects.difficult);
    }
    if objects.crowd > 0 {
        let _ = write!(text, "\n          besides {} crowd regions, or regions to be ignored", objects.crowd);
    }
    text
}

fn spreads(text: &mut String, found: &Inspection) {
    let mut table = Table::new(1, &["", "min", "median", "max"]);
    let mut row = |name: &str, spread: &Spread, show: fn(f64) -> String| {
        table.row(vec![name.to_owned(), show(spread.min), show(spread.median), show(spread.max)]);
    };
    if let Some(sizes) = &found.sizes {
        row("width, pixels", &sizes.width, whole);
        row("height, pixels", &sizes.height, whole);
        row("width / height", &sizes.aspect, |v| format!("{v:.2}"));
    }
    if let Some(objects) = &found.objects {
        row("objects a picture", &objects.per_image, whole);
        if let Some(share) = &objects.share {
            row("object's share of its picture", share, percent);
        }
    }
    if table.rows.len() > 1 {
        text.push('\n');
        table.write(text, 0);
    }
}

fn classes(text: &mut String, found: &Inspection) {
    let has = |of: fn(&ClassShare) -> u64| found.classes.iter().any(|class| of(class) > 0);
    let pixels: u64 = found.classes.iter().map(|class| class.pixels).sum();
    let objects: usize = found.classes.iter().map(|class| class.objects).sum();
    // Where masks have no objects, or objects no masks, the column would be empty.
    let (with_objects, with_pixels) = (has(|class| class.objects as u64), has(|class| class.pixels));
    let mut head = vec!["id", "class", "pictures", ""];
    head.extend(with_objects.then_some(["objects", ""]).into_iter().flatten());
    head.extend(with_pixels.then_some("pixels"));
    let mut table = Table::new(0, &head);
    let part = |count: f64, all: f64| if all > 0.0 { percent(count / all) } else { String::new() };
    for share in found.classes.iter().take(CLASSES) {
        let mut row = vec![
            share.class.id.to_string(),
            share.class.name.clone(),
            share.images.to_string(),
            part(share.images as f64, found.samples as f64),
        ];
        if with_objects {
            row.extend([share.objects.to_string(), part(share.objects as f64, objects as f64)]);
        }
        if with_pixels {
            row.push(part(share.pixels as f64, pixels as f64));
        }
        table.row(row);
    }
    let names = table.rows.iter().filter_map(|row| row.get(1));
    let longest = names.map(|name| name.chars().count()).max().unwrap_or(0);
    for row in &mut table.rows {
        if let Some(name) = row.get_mut(1) {
            *name = format!("{name:<longest$}");
        }
    }
    let _ = writeln!(text, "\nclasses ({})", found.classes.len());
    table.write(text, 2);
    if found.classes.len() > CLASSES {
        let _ = writeln!(text, "  and {} more, see --json", found.classes.len() - CLASSES);
    }
}

fn problems(text: &mut String, problems: &[Problem]) {
    if problems.is_empty() {
        text.push_str("\nno problems found\n");
        return;
    }
    text.push_str("\nproblems\n");
    for problem in problems {
        let fatal = if problem.kind.is_fatal() { " (cannot be used)" } else { "" };
        let _ = writeln!(text, "  {} {}{fatal}", problem.total, problem.kind.describe());
        for example in &problem.examples {
            let _ = writeln!(text, "    {example}");
        }
        let more = problem.total.saturating_sub(problem.examples.len());
        if more > 0 && !problem.examples.is_empty() {
            let _ = writeln!(text, "    and {more} more");
        }
    }
}

/// What conversion did.
pub(super) fn conversion(dataset: &Dataset, output: &Path, done: &Converted) -> String {
    let mut text = format!(
        "{}: {} pictures, {} objects, from {}\n",
        output.display(),
        done.samples,
        done.objects,
        dataset.found
    );
    if done.lost.is_empty() {
        text.push_str("nothing is lost\n");
    } else {
        text.push_str("lost on the way:\n");
    }
    for loss in &done.lost {
        let _ = writeln!(text, "  {} {}", loss.total, loss.kind.describe());
    }
    text
}

fn whole(value: f64) -> String {
    format!("{value:.0}")
}

/// A share, 0 to 1, with as many digits as tell something.
fn percent(share: f64) -> String {
    let percent = share * 100.0;
    match percent {
        0.0 => "0 %".to_owned(),
        p if p < 0.001 => "<0.001 %".to_owned(),
        p if p < 0.1 => format!("{p:.3} %"),
        p if p < 10.0 => format!("{p:.1} %"),
        p => format!("{p:.0} %"),
    }
}
