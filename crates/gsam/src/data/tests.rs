//! Sets of every kind become label maps, and what is wrong with them is named.

use std::collections::BTreeSet;
use std::fs;

use kirie_data::write::write_picture;
use tempfile::TempDir;

use super::*;
use crate::config::InputConfig;
use crate::testing::{CLASSES, data, draw_set, drawn_image, drawn_label, drawn_size, noise, write_mask};

fn drawn(count: usize) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    draw_set(folder.path(), "train", 0..count);
    folder
}

fn inspect(data: &DataConfig) -> Result<Inspection, SemanticError> {
    Inspection::of(&Pictures::open(data)?, &InputConfig::default())
}

#[test]
fn masks_become_labels() {
    let folder = drawn(6);
    let pictures = Pictures::open(&data(folder.path())).unwrap();
    assert_eq!(pictures.classes().names(), ["ground", "disc", "bar"]);
    assert_eq!((pictures.count(), pictures.validation().len()), (4, 2));
    for (set, sample) in pictures.training().chain(pictures.validation()) {
        let n: usize = sample.id.rsplit('p').next().unwrap().parse().unwrap();
        let labelled = set.read(sample).unwrap();
        let [width, height] = drawn_size(n);
        assert_eq!([labelled.labels.width as usize, labelled.labels.height as usize], [width, height]);
        assert_eq!(labelled.image, drawn_image(n));
        for (i, label) in labelled.labels.labels.iter().enumerate() {
            assert_eq!(*label, drawn_label(n, i % width, i / width));
        }
    }
}

#[test]
fn folds_hold_every_picture_out_once() {
    let folder = drawn(7);
    let mut held = Vec::new();
    for fold in 0..3 {
        let data = DataConfig { hold_out: HoldOut::Folds { folds: 3, fold }, ..data(folder.path()) };
        let pictures = Pictures::open(&data).unwrap();
        let ids = |all: Vec<(&LabelledSet, &Sample)>| -> BTreeSet<String> {
            all.into_iter().map(|(_, sample)| sample.id.clone()).collect()
        };
        let (train, out) = (ids(pictures.training().collect()), ids(pictures.validation().collect()));
        assert!(train.is_disjoint(&out) && train.len() + out.len() == 7);
        assert!((2..=3).contains(&out.len()));
        held.extend(out);
    }
    held.sort();
    assert_eq!(held.len(), 7);
    held.dedup();
    assert_eq!(held.len(), 7);
    let data = DataConfig { hold_out: HoldOut::Folds { folds: 30, fold: 20 }, ..data(folder.path()) };
    let error = Pictures::open(&data).unwrap_err().to_string();
    assert!(error.contains("holds none"), "{error}");
}

#[test]
fn every_picture_comes_once_in_an_epoch() {
    let folder = drawn(6);
    let pictures = Pictures::open(&data(folder.path())).unwrap();
    let streams = Streams::new(3);
    for epoch in 0..3 {
        let ids: BTreeSet<&str> =
            (0..4).map(|i| pictures.nth(&streams, 4 * epoch + i).1.id.as_str()).collect();
        assert_eq!(ids.len(), 4);
    }
}

#[test]
fn lists_and_parts() {
    // The layout of CamVid: all pictures in one folder, the parts in lists.
    let folder = tempfile::tempdir().unwrap();
    draw_set(folder.path(), "", 0..5);
    fs::write(folder.path().join("train.txt"), "p0\np1\np3\n").unwrap();
    fs::write(folder.path().join("val.txt"), "p2\n").unwrap();
    fs::write(folder.path().join("test.txt"), "p4\n").unwrap();
    let hold_out = HoldOut::Split { split: "val".to_owned() };
    let pictures = Pictures::open(&DataConfig { hold_out, ..data(folder.path()) }).unwrap();
    let ids = |all: Vec<(&LabelledSet, &Sample)>| -> Vec<String> {
        all.into_iter().map(|(_, sample)| sample.id.clone()).collect()
    };
    assert_eq!(ids(pictures.training().collect()), ["p0", "p1", "p3"]);
    assert_eq!(ids(pictures.validation().collect()), ["p2"]);
    let hold_out = HoldOut::Split { split: "none".to_owned() };
    let error = Pictures::open(&DataConfig { hold_out, ..data(folder.path()) }).unwrap_err().to_string();
    assert!(error.contains("there is no part \"none\""), "{error}");
}

/// Fewer labels to learn from, by a rule; as many to validate with.
#[test]
fn one_in_so_many_is_learned_from() {
    let folder = tempfile::tempdir().unwrap();
    draw_set(folder.path(), "", 0..9);
    fs::write(folder.path().join("train.txt"), "p6\np1\np3\np0\np4\np8\np2\n").unwrap();
    fs::write(folder.path().join("val.txt"), "p5\np7\n").unwrap();
    let of = |one_in: usize| {
        let mut data = data(folder.path());
        data.hold_out = HoldOut::Split { split: "val".to_owned() };
        data.sets[0].one_in = one_in;
        let pictures = Pictures::open(&data)?;
        let ids: Vec<String> = pictures.training().map(|(_, sample)| sample.id.clone()).collect();
        assert_eq!(pictures.validation().len(), 2);
        Ok::<_, SemanticError>(ids)
    };
    let all = of(1).unwrap();
    assert_eq!(all.len(), 7);
    assert_eq!(of(3).unwrap(), [all[0].clone(), all[3].clone(), all[6].clone()]);
    assert_eq!(of(20).unwrap(), [all[0].clone()]);
    let error = of(0).unwrap_err().to_string();
    assert!(error.starts_with("data.sets.one_in is 0"), "{error}");
}

#[test]
fn classes_are_merged_ignored_and_ordered_by_name() {
    let folder = drawn(4);
    let mut data = data(folder.path());
    data.classes = vec!["bar".to_owned(), "rest".to_owned()];
    data.merge = [("ground", "rest"), ("disc", "ignore")].map(|(a, b)| (a.to_owned(), b.to_owned())).into();
    let pictures = Pictures::open(&data).unwrap();
    assert_eq!(pictures.classes().names(), ["bar", "rest"]);
    let (set, sample) = pictures.training().next().unwrap();
    let n: usize = sample.id.rsplit('p').next().unwrap().parse().unwrap();
    let labels = set.read(sample).unwrap().labels;
    let width = labels.width as usize;
    for (i, label) in labels.labels.iter().enumerate() {
        let expected = [1, LabelMap::IGNORE, 0][usize::from(drawn_label(n, i % width, i / width))];
        assert_eq!(*label, expected);
    }
    // The star is for whatever is not named.
    data.merge = [("*".to_owned(), "rest".to_owned())].into();
    let pictures = Pictures::open(&data).unwrap();
    let (set, sample) = pictures.training().next().unwrap();
    let (counts, ignored) = set.read(sample).unwrap().labels.counts(2);
    assert!(counts[0] > 0 && counts[1] > counts[0] && ignored == 0);

    data.merge.clear();
    let error = Pictures::open(&data).unwrap_err().to_string();
    assert!(
        error.contains("no set has a class of that name") && error.contains("ground, disc, bar"),
        "{error}"
    );
    data.classes = vec!["bar".to_owned(), "ground".to_owned()];
    let error = Pictures::open(&data).unwrap_err().to_string();
    assert!(error.contains("its class \"disc\" is none of data.classes (bar, ground)"), "{error}");
    data.classes.clear();
    data.merge = [("dics".to_owned(), "ignore".to_owned())].into();
    let error = Pictures::open(&data).unwrap_err().to_string();
    assert!(error.starts_with("data.merge \"dics\""), "{error}");
    data.merge = [("disc", "ground"), ("bar", "ground")].map(|(a, b)| (a.to_owned(), b.to_owned())).into();
    let error = Pictures::open(&data).unwrap_err().to_string();
    assert!(error.contains("1 classes (ground)"), "{error}");
}

#[test]
fn class_lists_are_checked_when_read() {
    let folder = drawn(3);
    let classes = Pictures::open(&data(folder.path())).unwrap().classes().clone();
    let text = serde_json::to_string(&classes).unwrap();
    assert!(text.starts_with(r#"[{"name":"ground","colour":["#), "{text}");
    assert_eq!(serde_json::from_str::<ClassList>(&text).unwrap(), classes);
    for bad in ["[]", r#"[{"name":"a","colour":[0,0,0]},{"name":"a","colour":[0,0,0]}]"#] {
        assert!(serde_json::from_str::<ClassList>(bad).is_err());
    }
    assert_eq!((classes.colour(1), classes.colour(255)), (kirie_data::write::color(1), [255; 3]));
}

#[test]
fn bad_masks_are_named() {
    let folder = drawn(5);
    let mask = folder.path().join("masks/train/p1.png");
    let [width, height] = drawn_size(1).map(|side| side as u32);
    let mut numbers = vec![0_u8; (width * height) as usize];
    numbers[7] = 9;
    write_mask(&mask, width, height, &numbers);
    let error = inspect(&data(folder.path())).unwrap_err().to_string();
    assert!(error.contains("p1.png, pixel (7, 0): class 9 is not among the classes: 0 ground"), "{error}");

    write_mask(&mask, width + 1, height, &vec![0; ((width + 1) * height) as usize]);
    let error = inspect(&data(folder.path())).unwrap_err().to_string();
    assert!(error.contains("p1.png") && error.contains(&format!("{}x{height}", width + 1)), "{error}");

    fs::write(folder.path().join("masks/train/p0.png"), b"no picture").unwrap();
    let error =
        inspect(&DataConfig { hold_out: HoldOut::None, ..data(folder.path()) }).unwrap_err().to_string();
    assert!(error.contains("2 of 5 pictures cannot be used") && error.contains("p0.png"), "{error}");
}

#[test]
fn a_number_beyond_two_classes_is_an_error_where_numbers_are_classes() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir_all(folder.path().join("images")).unwrap();
    fs::write(folder.path().join("classes.txt"), "0\tbackground\n1\tcrack\n").unwrap();
    write_picture(folder.path().join("images/a.png"), &noise(40, 36, 1)).unwrap();
    let mut numbers = vec![0; 40 * 36];
    numbers[3] = 1;
    numbers[40] = 2;
    write_mask(&folder.path().join("masks/a.png"), 40, 36, &numbers);
    let mut data = data(folder.path());
    // Taken for objects, 2 is the second crack, and the inspection says what it was taken for.
    let inspection = inspect(&data).unwrap();
    assert_eq!(inspection.classes[1].pixels, 2);
    assert!(inspection.found[0].contains("instance masks"), "{:?}", inspection.found);
    data.sets[0].numbers = Some(Numbers::Classes);
    let error = inspect(&data).unwrap_err().to_string();
    assert!(error.contains("a.png, pixel (0, 1): class 2 is not among the classes"), "{error}");
}

#[test]
fn what_is_odd_is_told() {
    let folder = drawn(5);
    fs::write(folder.path().join("classes.txt"), format!("{CLASSES}3\tnut\n")).unwrap();
    let pictures = Pictures::open(&data(folder.path())).unwrap();
    let crop = |side: u32, pad: bool| InputConfig { crop: Some([side, side]), pad, ..InputConfig::default() };
    let inspection = Inspection::of(&pictures, &crop(44, true)).unwrap();
    assert_eq!((inspection.pictures, inspection.validation_pictures), (3, 2));
    assert_eq!(inspection.classes[3].pixels, 0);
    assert!((inspection.classes.iter().map(|class| class.share).sum::<f64>() - 1.0).abs() < 1e-12);
    assert_eq!((inspection.ignored, inspection.foreground), (0.0, None));
    let text = inspection.warnings.join("\n");
    assert!(text.contains("so it cannot be learned: nut"), "{text}");
    assert!(text.contains("the crop of 44x44 is larger than"), "{text}");
    let error = Inspection::of(&pictures, &crop(512, false)).unwrap_err().to_string();
    assert!(error.contains("3 of 3 pictures cannot be used"), "{error}");
    assert!(error.contains("the crop of 512x512 pixels is larger than the picture, "), "{error}");

    let single = drawn(1);
    let inspection = inspect(&data(single.path())).unwrap();
    let text = inspection.warnings.join("\n");
    assert!(text.contains("a single picture") && text.contains("no picture is held out"), "{text}");

    let empty = tempfile::tempdir().unwrap();
    fs::create_dir_all(empty.path().join("images")).unwrap();
    write_picture(empty.path().join("images/a.png"), &noise(40, 36, 1)).unwrap();
    let error = Pictures::open(&data(empty.path())).unwrap_err().to_string();
    assert!(error.contains("expected labels of pixels"), "{error}");
}

#[test]
fn objects_are_painted_onto_the_background() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir_all(folder.path().join("images")).unwrap();
    write_picture(folder.path().join("images/a.png"), &noise(40, 36, 1)).unwrap();
    let coco = |second: &str| {
        format!(
            r#"{{"images": [{{"id": 1, "file_name": "a.png", "width": 40, "height": 36}}],
            "categories": [{{"id": 5, "name": "cat"}}, {{"id": 9, "name": "dog"}}],
            "annotations": [
              {{"id": 1, "image_id": 1, "category_id": 5, "bbox": [10, 10, 4, 4], "area": 16, "iscrowd": 0,
                "segmentation": [[10, 10, 14, 10, 14, 14, 10, 14]]}},
              {{"id": 2, "image_id": 1, "category_id": 9, "bbox": [8, 8, 20, 20], "area": 400, "iscrowd": 0{second}}}]}}"#
        )
    };
    let file = folder.path().join("images/instances.json");
    fs::write(&file, coco(r#", "segmentation": [[8, 8, 28, 8, 28, 28, 8, 28]]"#)).unwrap();
    let mut data = data(&file);
    data.sets[0].split = String::new();
    let pictures = Pictures::open(&data).unwrap();
    assert_eq!(pictures.classes().names(), ["background", "cat", "dog"]);
    assert_eq!(pictures.classes().background(), Some(0));
    let (set, sample) = pictures.training().next().unwrap();
    let labels = set.read(sample).unwrap().labels;
    let at = |x: usize, y: usize| labels.labels[y * 40 + x];
    assert_eq!(
        [at(0, 0), at(9, 9), at(12, 12), at(27, 27), at(30, 30)],
        [0, 2, 1, 2, 0],
        "the cat is on top"
    );
    let (counts, ignored) = labels.counts(3);
    assert_eq!((counts.iter().sum::<u64>(), counts[1], ignored), (40 * 36, 16, 0));
    let inspection = Inspection::of(&pictures, &InputConfig::default()).unwrap();
    let share = (counts[1] + counts[2]) as f64 / 1440.0;
    assert!((inspection.foreground.unwrap() - share).abs() < 1e-12);

    fs::write(&file, coco("")).unwrap();
    let error = inspect(&data).unwrap_err().to_string();
    assert!(error.contains("object 1: expected its pixels or outline, found only a box"), "{error}");
}
