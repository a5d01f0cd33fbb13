//! The sets in `$KIRIE_DATA`, where that is set: every folder there must open, and every label must be readable.

use std::fs;
use std::path::PathBuf;

use kirie_data::datasets::{PreviewOptions, ProblemKind, inspect, open, preview};
use kirie_data::write::write_picture;

#[test]
#[ignore = "needs datasets in $KIRIE_DATA; with $KIRIE_PREVIEWS set, contact sheets are written there"]
fn every_set_opens() {
    let Some(folder) = std::env::var_os("KIRIE_DATA").map(PathBuf::from) else {
        println!("skipped: KIRIE_DATA is not set");
        return;
    };
    let previews = std::env::var_os("KIRIE_PREVIEWS").map(PathBuf::from);
    let mut sets: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    sets.retain(|path| path.is_dir());
    sets.sort();
    let mut failed = Vec::new();
    for path in &sets {
        let start = std::time::Instant::now();
        let dataset = match open(path, None) {
            Ok(dataset) => dataset,
            Err(error) => {
                failed.push(error.to_string());
                continue;
            }
        };
        let opened = start.elapsed();
        let found = inspect(&dataset, &|_, _| {});
        println!(
            "{}: {} | {} pictures {:?}, {} labelled | {} classes | {:?} | ignored {:?} | opened in {opened:.0?}, all {:.1?}",
            found.name,
            found.found,
            found.samples,
            found.splits.iter().map(|s| (s.split.as_str(), s.samples)).collect::<Vec<_>>(),
            found.labelled,
            found.classes.len(),
            found.objects,
            found.ignored,
            start.elapsed(),
        );
        for problem in &found.problems {
            println!("    {} {}: {}", problem.total, problem.kind.describe(), problem.examples[0]);
            let unreadable = [
                ProblemKind::UnreadablePicture,
                ProblemKind::UnreadableLabels,
                ProblemKind::UnknownClass,
                ProblemKind::SizeMismatch,
            ];
            if unreadable.contains(&problem.kind) {
                failed.push(format!("{}: {}", problem.kind.describe(), problem.examples[0]));
            }
        }
        if let Some(previews) = &previews {
            let sheet =
                preview(&dataset, &PreviewOptions { count: 12, columns: 4, ..PreviewOptions::default() });
            write_picture(previews.join(format!("{}.jpg", found.name)), &sheet.unwrap().sheet).unwrap();
        }
    }
    assert!(failed.is_empty(), "{failed:#?}");
}
