//! What is wrong is told with file and place; nothing leads out of the folder; nothing panics.

use kirie_data::datasets::{OpenOptions, open, open_with};
use proptest::prelude::*;

use crate::folder::{Folder, read_all, voc_xml};

fn coco(annotation: &str) -> String {
    let folder = Folder::new();
    folder.picture("a.png", 4, 3).text(
        "set.json",
        &format!(
            "{{\"images\": [{{\"id\": 1, \"file_name\": \"a.png\", \"width\": 4, \"height\": 3}}],\n\
             \"categories\": [{{\"id\": 2, \"name\": \"cat\"}}],\n\"annotations\": [\n{annotation}\n]}}"
        ),
    );
    folder.fails()
}

#[test]
fn coco_annotations_are_named_with_id_and_line() {
    let around = |fields: &str| coco(&format!(r#"{{"id": 17, "image_id": 1, "category_id": 2, {fields}}}"#));
    for (message, part) in [
        (around(r#""area": 1"#), "neither a segmentation nor a bbox"),
        (around(r#""segmentation": [[0, 0, 1, 1, 2]]"#), "x and y in turn, found 5 numbers"),
        (around(r#""segmentation": [[0, 0, 1, 1]]"#), "at least 3 points a polygon, found 2"),
        (around(r#""segmentation": [[0, "x", 1, 1]]"#), "lists of numbers"),
        (
            around(r#""segmentation": {"size": [3, 5], "counts": [15]}"#),
            "expected run lengths of the picture's size, 4x3, found 5x3",
        ),
        (around(r#""segmentation": {"size": [3, 4], "counts": [11]}"#), "expected a sum of 12"),
        (around(r#""segmentation": {"size": [3, 4], "counts": "\u0001"}"#), "COCO string, byte 0"),
        (around(r#""bbox": [1, 2, 3]"#), "bbox: expected 4 numbers, found 3"),
        (around(r#""bbox": [1, 2, -3, 1]"#), "bbox: expected x, y, width and height"),
        (around(r#""bbox": [1, 2, 3, 1], "area": -1"#), "area: expected 0 or more"),
        (around(r#""bbox": [1, 2, 3, 1], "iscrowd": "no""#), "0, 1, false or true"),
        (coco(r#"{"id": 17, "image_id": 1, "bbox": [0, 0, 1, 1]}"#), "it has no category_id"),
        (
            coco(r#"{"id": 17, "image_id": 1, "category_id": 9, "bbox": [0, 0, 1, 1]}"#),
            "class 9 is not among the classes: 2 cat",
        ),
        (coco(r#"{"id": 17, "category_id": 2}"#), "it has no image_id"),
    ] {
        assert!(
            message.contains("set.json, annotation 17 (line 4): ") && message.contains(part),
            "{message}"
        );
    }
    let message = coco("{\"id\": 17,,}");
    assert!(message.contains("set.json, line 4, column 11: "), "{message}");
}

#[test]
fn coco_lists_are_checked() {
    for (text, part) in [
        (r#"{"annotations": []}"#, "expected a list \"images\""),
        (r#"{"images": [{"id": 1}]}"#, "image 1 (line 1): it has no file_name"),
        (r#"{"images": [{"file_name": "a.png"}]}"#, "image 0 of the list (line 1): it has no id"),
        (
            r#"{"images": [{"id": 1, "file_name": "a.png", "width": 1.5, "height": 2}]}"#,
            "whole width and height",
        ),
        (
            r#"{"images": [{"id": 1, "file_name": "a.png"}, {"id": 1, "file_name": "b.png"}]}"#,
            "its id occurs twice",
        ),
        (r#"{"images": [], "categories": [{"id": 1}]}"#, "category 1 (line 1): it has no name"),
        (
            r#"{"images": [], "categories": [{"id": 1, "name": "a"}, {"id": 1, "name": "b"}]}"#,
            "\"b\" here and \"a\" before",
        ),
        (r#"{"images": []}"#, "but no picture"),
        (
            r#"{"images": [{"id": 1, "file_name": "a.png", "split": "../../up"}]}"#,
            "split: expected a plain word",
        ),
    ] {
        let folder = Folder::new();
        folder.picture("a.png", 4, 3).text("set.json", text);
        let message = folder.fails();
        assert!(message.contains(part), "{message}");
    }
}

#[test]
fn voc_files_are_told_with_their_line() {
    let good = voc_xml("cat", ["1", "1", "2", "2"]);
    for (xml, part) in [
        (good[..120].to_owned(), "a.xml, line "),
        (String::new(), "a.xml, line 1"),
        (good.replace("annotation", "anno"), "line 1: expected <annotation>, found <anno>"),
        (good.replace("<name>cat</name>", ""), "line 3: the object has no <name>"),
        (good.replace("cat", "dragon"), "line 3: class dragon is not among the classes: 0 cat"),
        (good.replace("<xmin>1</xmin>", ""), "line 3: <bndbox> has no <xmin>"),
        (good.replace("<xmin>1", "<xmin>one"), "line 3: <xmin>: expected a number, found \"one\""),
        (good.replace("<xmin>1", "<xmin>9"), "line 3: <bndbox>: expected xmax >= xmin"),
        (good.replace("bndbox", "box"), "line 3: the object has no <bndbox>"),
    ] {
        let folder = Folder::new();
        folder.picture("images/a.png", 20, 10).text("annotations/a.xml", &xml).text("classes.txt", "cat\n");
        let message = folder.fails();
        assert!(message.contains(part), "{message}");
    }
    // As deep as one likes: no stack may run out.
    let folder = Folder::new();
    let deep = format!("<annotation>{}", "<a>".repeat(200_000));
    folder.picture("images/a.png", 20, 10).text("annotations/a.xml", &deep).text("classes.txt", "cat\n");
    folder.fails();
}

#[test]
fn yolo_lines_are_told() {
    for (line, part) in [
        ("0 0.5 x 0.1 0.1", "line 2: expected a number, found \"x\""),
        ("a 0.5 0.5 0.1 0.1", "line 2: expected a class number, found \"a\""),
        ("-1 0.5 0.5 0.1 0.1", "line 2: expected a class number"),
        ("7 0.5 0.5 0.1 0.1", "line 2: class 7 is not among the classes: 0 cat"),
        ("0 0.5 0.5", "line 2: expected a class and 4 numbers"),
        ("0 0.1 0.1 0.2 0.2 0.3 0.3 0.4", "line 2: expected a class and 4 numbers"),
        ("0 120 80 30 30", "line 2: expected shares of the picture, 0 to 1, found 120"),
        ("0 nan 0.5 0.1 0.1", "line 2: expected a number"),
        ("0 0.5 0.5 -0.1 0.1", "line 2: expected a box of a positive size"),
    ] {
        let folder = Folder::new();
        folder.picture("images/a.png", 20, 10).text("labels/a.txt", &format!("0 .5 .5 .1 .1\n{line}\n"));
        folder.text("classes.txt", "cat\n");
        let message = folder.fails();
        assert!(message.contains("a.txt") && message.contains(part), "{message}");
    }
}

#[test]
fn other_label_files_are_told() {
    let folder = Folder::new();
    folder.picture("a.png", 5, 4).text(
        "a.json",
        "{\"image\": {\"width\": 5, \"height\": 4}, \"annotations\": [\n{\"segmentation\": {\"size\": [4, 4], \"counts\": [16]}}]}",
    );
    assert!(
        folder
            .fails()
            .contains("a.json, region 0 (line 2): segmentation: expected run lengths of the picture's size")
    );
    folder.text(
        "a.json",
        "{\"shapes\": [{\"points\": [[0, 0]], \"label\": \"x\"}],\n\"imagePath\": \"a.png\"}",
    );
    assert!(
        folder
            .fails()
            .contains("a.json, shape 0 of the list: expected at least 3 points of a polygon, found 1")
    );
    folder.text("a.json", "{\"shapes\": [\n{\"points\": 3}], \"imagePath\": \"a.png\"}");
    assert!(folder.fails().contains("a.json, line 2, column 12"), "{}", folder.fails());
}

#[test]
fn masks_must_fit_their_class_list_and_picture() {
    let folder = Folder::new();
    folder.text("classes.txt", "0\ta\n1\tb\n2\tc\n").picture("images/a.png", 4, 3);
    folder.mask("masks/a.png", 4, 3, |x, y| if (x, y) == (2, 1) { 9 } else { 0 });
    assert!(folder.fails().contains("a.png, pixel (2, 1): class 9 is not among the classes: 0 a, 1 b, 2 c"));
    folder.mask("masks/a.png", 3, 4, |_, _| 0);
    let dataset = folder.open();
    let error = dataset.load(&dataset.samples[0]).unwrap_err().to_string();
    assert!(error.contains("belong to a 3x4 picture, this one is 4x3"), "{error}");
    folder.picture("masks/a.png", 4, 3);
    assert!(folder.fails().contains("expected one number a pixel (palette or gray), found colours"));
    folder.text("classes.txt", "0\ta\n1\tb\n1\tc\n");
    assert!(folder.fails().contains("classes.txt, line 3: class 1 is named twice, first in line 2"));
}

#[test]
fn lists_must_name_pictures() {
    let folder = Folder::new();
    folder.picture("images/a.png", 4, 3).text("train.txt", "a\n\nb\nc\n");
    let message = folder.fails();
    assert!(
        message.ends_with("train.txt, line 3: no picture \"b\" in the dataset (and 1 more such names)"),
        "{message}"
    );
    assert!(open(folder.path().join("none"), None).unwrap_err().to_string().contains("no such file"));
    assert!(Folder::new().fails().contains("no dataset recognised"));
}

/// A folder with a secret beside it.
fn fenced() -> (Folder, std::path::PathBuf) {
    let folder = Folder::new();
    folder.picture("secret/a.png", 4, 3).text("secret/a.txt", "0 .5 .5 .5 .5");
    folder.picture("set/images/b.png", 4, 3);
    let set = folder.path().join("set");
    (folder, set)
}

#[test]
fn no_path_in_a_file_leads_out() {
    let (folder, set) = fenced();
    let absolute = folder.path().join("secret/a.png").display().to_string();
    for name in ["../secret/a.png", "images/../../secret/a.png", "..\\secret\\a.png", &absolute] {
        let json = serde_json::json!({"images": [{"id": 1, "file_name": name}]});
        folder.text("set/instances.json", &json.to_string());
        let error = open(&set, None).unwrap_err().to_string();
        assert!(error.contains("leads out of the dataset's folder"), "{error}");
        let allowed = OpenOptions { allow_outside: true, ..OpenOptions::default() };
        let dataset = open_with(&set, &allowed).unwrap();
        assert!(dataset.picture(&dataset.samples[0]).is_ok());
    }
    // Upwards and down again is no escape.
    folder.text("set/instances.json", r#"{"images": [{"id": 1, "file_name": "images/../images/b.png"}]}"#);
    assert!(open(&set, None).is_ok());
    // Lists are only looked up among the pictures found.
    std::fs::remove_file(set.join("instances.json")).unwrap();
    folder.text("set/train.txt", "../secret/a.png\n");
    assert!(open(&set, None).unwrap_err().to_string().contains("no picture"));
}

#[cfg(unix)]
#[test]
fn no_link_leads_out() {
    use std::os::unix::fs::symlink;
    for link in ["images/a.png", "masks", "labels", "classes.txt", "instances.json", "images/sub"] {
        let (folder, set) = fenced();
        folder.text("set/labels_/b.txt", "0 .5 .5 .5 .5");
        let target = if link.contains('.') { "secret/a.png" } else { "secret" };
        if link == "classes.txt" {
            std::fs::rename(set.join("labels_"), set.join("labels")).unwrap();
        }
        symlink(folder.path().join(target), set.join(link)).unwrap();
        let error = open(&set, None).and_then(|set| read_all(&set).map(|_| ())).unwrap_err().to_string();
        assert!(error.contains("leads out of the dataset's folder"), "{link}: {error}");
    }
    // A link inside the folder, and one to the folder itself, are fine.
    let (folder, set) = fenced();
    symlink(set.join("images/b.png"), set.join("images/c.png")).unwrap();
    symlink(&set, folder.path().join("alias")).unwrap();
    assert_eq!(open(folder.path().join("alias"), None).unwrap().samples.len(), 2);
}

/// Opens and reads whatever text stands in a label file.
fn survives(files: &[(&str, &str)]) {
    let folder = Folder::new();
    folder.picture("images/a.png", 4, 3);
    for (name, text) in files {
        folder.text(name, text);
    }
    if let Ok(dataset) = open(folder.path(), None) {
        let _ = read_all(&dataset);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_text_panics(text in "\\PC{0,200}") {
        for name in ["instances.json", "annotations/a.xml", "labels/a.txt", "images/a.json", "masks/a.png", "classes.txt", "train.txt", "data.yaml"] {
            survives(&[(name, &text), ("labels/a.txt", "0 .5 .5 .5 .5")]);
        }
    }

    #[test]
    fn no_coco_numbers_panic(
        numbers in proptest::collection::vec(prop_oneof![any::<f64>(), -10.0..20.0], 0..12),
        counts in proptest::collection::vec(any::<u32>(), 0..6),
        size in any::<[u32; 2]>(),
        text in "[0-o]{0,12}",
        width in prop_oneof![Just(4), any::<u32>()],
    ) {
        for segmentation in [
            serde_json::json!([numbers]),
            serde_json::json!({"size": size, "counts": counts}),
            serde_json::json!({"size": [3, width], "counts": text}),
        ] {
            let json = serde_json::json!({
                "images": [{"id": 1, "file_name": "a.png", "width": width, "height": 3}],
                "annotations": [{"image_id": 1, "category_id": 1, "segmentation": segmentation}],
                "categories": [{"id": 1, "name": "x"}],
            });
            survives(&[("instances.json", &json.to_string())]);
        }
    }

    #[test]
    fn no_yolo_line_panics(line in "[0-9]( -?[0-9.]{1,4}){0,9}", junk in "[-0-9a.e \n]{0,40}") {
        survives(&[("labels/a.txt", &line)]);
        survives(&[("labels/a.txt", &junk)]);
    }
}
