//! Counts and problems, and the contact sheet.

use std::fs;
use std::sync::atomic::{AtomicUsize, Ordering};

use kirie_data::DataError;
use kirie_data::datasets::{
    Inspection, OpenOptions, PreviewOptions, ProblemKind, Spread, inspect, open_with, preview,
};

use crate::folder::{Folder, voc_xml};

fn problems(inspection: &Inspection) -> Vec<(ProblemKind, usize)> {
    inspection.problems.iter().map(|problem| (problem.kind, problem.total)).collect()
}

#[test]
fn counts_of_objects() {
    let folder = Folder::new();
    folder.picture("images/a.png", 200, 100).picture("images/b.png", 50, 100).picture(
        "images/c.png",
        100,
        100,
    );
    folder.text(
        "instances.json",
        r#"{"images": [{"id": 1, "file_name": "a.png", "width": 200, "height": 100, "split": "train"},
                       {"id": 2, "file_name": "b.png", "width": 50, "height": 100, "split": "train"},
                       {"id": 3, "file_name": "c.png", "width": 100, "height": 100, "split": "test"}],
            "annotations": [
              {"id": 1, "image_id": 1, "category_id": 1, "segmentation": [[0, 0, 20, 0, 20, 20, 0, 20]], "bbox": [0, 0, 20, 20]},
              {"id": 2, "image_id": 1, "category_id": 2, "bbox": [0, 0, 40, 40]},
              {"id": 3, "image_id": 1, "category_id": 2, "bbox": [0, 0, 99, 99]},
              {"id": 4, "image_id": 2, "category_id": 2, "bbox": [0, 0, 9, 9], "iscrowd": 1},
              {"id": 5, "image_id": 2, "category_id": 2, "bbox": [45, 0, 9, 9]}],
            "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}, {"id": 3, "name": "eel"}]}"#,
    );
    let calls = AtomicUsize::new(0);
    let found = inspect(&folder.open(), &|_, all| {
        assert_eq!(all, 3);
        calls.fetch_add(1, Ordering::Relaxed);
    });
    assert_eq!(calls.into_inner(), 3);
    let counts: Vec<_> = found.classes.iter().map(|c| (c.images, c.objects, c.pixels)).collect();
    assert_eq!(counts, [(1, 1, 400), (2, 3, 0), (0, 0, 0)]);
    let objects = found.objects.as_ref().unwrap();
    assert_eq!((objects.total, objects.crowd), (4, 1));
    assert_eq!((objects.small, objects.medium, objects.large), (2, 1, 1));
    assert_eq!(objects.per_image, Spread { min: 0.0, median: 1.0, max: 3.0 });
    let shares = [81.0 / 5000.0, 400.0 / 20_000.0, 9801.0 / 20_000.0];
    assert_eq!(objects.share, Some(Spread { min: shares[0], median: shares[1], max: shares[2] }));
    let sizes = found.sizes.unwrap();
    assert_eq!(sizes.width, Spread { min: 50.0, median: 100.0, max: 200.0 });
    assert_eq!(sizes.aspect, Spread { min: 0.5, median: 1.0, max: 2.0 });
    assert_eq!(problems(&found), [(ProblemKind::BoxOutside, 1)]);
    let json = serde_json::to_value(&found).unwrap();
    assert_eq!(json["classes"][1]["name"], "dog");
    assert_eq!(json["problems"][0]["kind"], "box_outside");
    assert_eq!(json["layout"], "coco");
}

#[test]
fn shares_of_classes() {
    let folder = Folder::new();
    folder.text("classes.txt", "0\tsky\n1\troad\n2\ttree\n");
    folder.picture("images/a.png", 4, 2).mask("masks/a.png", 4, 2, |x, _| [0, 0, 1, 255][x as usize]);
    let found = inspect(&folder.open(), &|_, _| {});
    assert_eq!(found.classes.iter().map(|c| c.pixels).collect::<Vec<_>>(), [4, 2, 0]);
    assert_eq!((found.ignored, found.objects), (Some(0.25), None));
    assert!(found.problems.is_empty());
}

#[test]
fn every_kind_of_problem() {
    let folder = Folder::new();
    folder.text("classes.txt", "0\tbackground\n1\tcat\n");
    for name in ["good", "small", "empty", "cut", "bare", "unlisted"] {
        folder.picture(&format!("images/{name}.png"), 40, 30);
    }
    folder.mask("masks/good.png", 40, 30, |x, _| (x / 10) as u8);
    folder.mask("masks/small.png", 20, 30, |x, _| (x / 10) as u8);
    folder.mask("masks/empty.png", 40, 30, |_, _| 0);
    folder.mask("masks/cut.png", 40, 30, |x, _| (x / 10) as u8);
    folder.mask("masks/nobody.png", 40, 30, |x, _| (x / 10) as u8);
    let images = folder.path().join("images");
    fs::copy(images.join("good.png"), images.join("again.png")).unwrap();
    fs::copy(images.join("good.png"), images.join("tested.png")).unwrap();
    fs::copy(images.join("good.png"), images.join("good.jpg")).unwrap();
    let cut = fs::read(images.join("cut.png")).unwrap();
    fs::write(images.join("cut.png"), &cut[..cut.len() / 2]).unwrap();
    fs::write(folder.path().join("masks/again.png"), b"\x89PNG\r\n\x1a\nbroken").unwrap();
    folder.text("train.txt", "good\nsmall\nempty\ncut\nbare\nagain\n").text("test.txt", "tested\n");
    let found = inspect(&folder.open(), &|_, _| {});
    assert_eq!(
        problems(&found),
        [
            (ProblemKind::UnreadablePicture, 1),
            (ProblemKind::UnreadableLabels, 1),
            (ProblemKind::SizeMismatch, 1),
            (ProblemKind::EmptyMask, 1),
            (ProblemKind::DuplicatePicture, 1),
            (ProblemKind::InTwoSplits, 1),
            (ProblemKind::PictureWithoutLabels, 2),
            (ProblemKind::LabelsWithoutPicture, 1),
            (ProblemKind::NotInAnyList, 1),
            (ProblemKind::SameName, 1),
        ]
    );
    assert_eq!(found.unusable, 3);
    let example = |kind| &found.problems.iter().find(|p| p.kind == kind).unwrap().examples[0];
    assert!(example(ProblemKind::UnreadablePicture).contains("cut.png"));
    assert_eq!(example(ProblemKind::InTwoSplits), "train: good = test: tested");

    let voc = Folder::new();
    voc.text("classes.txt", "cat\n");
    for i in 0..30 {
        voc.picture(&format!("{i}.png"), 20, 10);
        voc.text(&format!("{i}.xml"), &voc_xml("dog", ["1", "1", "2", "2"]));
    }
    let found = inspect(&voc.open(), &|_, _| {});
    assert_eq!(problems(&found), [(ProblemKind::UnknownClass, 30)]);
    assert_eq!((found.problems[0].examples.len(), found.unusable), (20, 30));
    let options = OpenOptions { examples: Some(25), ..OpenOptions::default() };
    assert_eq!(inspect(&open_with(voc.path(), &options).unwrap(), &|_, _| {}).problems[0].examples.len(), 25);
}

#[test]
fn a_contact_sheet_has_its_size_and_shows_labels() {
    let folder = Folder::new();
    folder.text("classes.txt", "0\tsky\n1\troad\n");
    for i in 0..5 {
        folder.picture(&format!("images/{i}.png"), 40, 30);
        folder.mask(&format!("masks/{i}.png"), 40, 30, |x, _| u8::from(x > 20));
    }
    let dataset = folder.open();
    let options = PreviewOptions { count: 4, columns: 3, seed: 1, cell: (80, 60) };
    let sheet = preview(&dataset, &options).unwrap().sheet;
    // Two rows of cells with captions, and a line of legend.
    assert_eq!((sheet.width(), sheet.height()), (3 * 88 + 8, 2 * 90 + 8 + 22 + 8));
    assert_eq!(preview(&dataset, &options).unwrap().sheet, sheet);
    assert_ne!(preview(&dataset, &PreviewOptions { seed: 2, ..options }).unwrap().sheet, sheet);

    fs::write(folder.path().join("images/0.png"), "no picture").unwrap();
    let with_gap = preview(&dataset, &PreviewOptions { count: 5, ..options }).unwrap();
    let problems: Vec<_> =
        with_gap.shown.iter().map(|shown| (shown.index, shown.problem.is_some())).collect();
    assert_eq!(problems, [(0, true), (1, false), (2, false), (3, false), (4, false)]);
    for bad in [PreviewOptions { count: 0, ..options }, PreviewOptions { cell: (0, 5), ..options }] {
        assert!(matches!(preview(&dataset, &bad), Err(DataError::ZeroSize { .. })));
    }
    let huge = PreviewOptions { cell: (u32::MAX, u32::MAX), columns: usize::MAX, ..options };
    assert!(matches!(preview(&dataset, &huge), Err(DataError::TooLarge { .. })));
}
