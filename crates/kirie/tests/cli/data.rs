//! `data inspect`, `convert` and `preview`.

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use kirie_data::datasets::{Labels, Layout, open};
use kirie_data::write::write_picture;
use kirie_data::{Image, Limits, read_image};
use serde_json::{Value, json};

use crate::common::{Place, fields};

/// A picture of its own, by its name.
fn picture(place: &Place, name: &str, width: u32, height: u32) {
    let seed: u32 = name.bytes().fold(7, |sum, b| sum.wrapping_mul(31).wrapping_add(b.into()));
    let pixels = (0..width * height * 3).map(|i| (i.wrapping_mul(seed) >> 7) as u8).collect();
    fs::create_dir_all(place.path(name).parent().unwrap()).unwrap();
    write_picture(place.path(name), &Image::from_raw(width, height, pixels).unwrap()).unwrap();
}

/// A gray label picture.
fn mask(place: &Place, name: &str, width: u32, height: u32, f: impl Fn(u32, u32) -> u8) {
    let pixels: Vec<u8> =
        (0..height).flat_map(|y| (0..width).map(move |x| (x, y))).map(|(x, y)| f(x, y)).collect();
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, width, height);
    encoder.set_color(png::ColorType::Grayscale);
    encoder.write_header().unwrap().write_image_data(&pixels).unwrap();
    place.write(name, bytes);
}

/// Three pictures in two parts with COCO labels: an outline, a mask in two parts, a box.
fn coco(place: &Place) {
    for name in ["a", "b", "c"] {
        picture(place, &format!("set/images/{name}.png"), 40, 30);
    }
    let json = json!({
        "images": [
            {"id": 1, "file_name": "a.png", "width": 40, "height": 30, "split": "train"},
            {"id": 2, "file_name": "b.png", "width": 40, "height": 30, "split": "train"},
            {"id": 3, "file_name": "c.png", "width": 40, "height": 30, "split": "val"},
        ],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 3, "segmentation": [[2, 2, 12, 2, 12, 12, 2, 12]], "bbox": [2, 2, 10, 10]},
            {"id": 2, "image_id": 2, "category_id": 3, "bbox": [0, 0, 40, 30],
             "segmentation": {"size": [30, 40], "counts": [0, 30, 1140, 30]}},
            {"id": 3, "image_id": 3, "category_id": 5, "bbox": [20, 10, 10, 10]},
        ],
        "categories": [{"id": 3, "name": "cat"}, {"id": 5, "name": "dog"}],
    });
    place.write("set/instances.json", json.to_string());
}

/// A good set of label pictures, with lists.
fn masks(place: &Place) {
    for name in ["a", "b", "c"] {
        picture(place, &format!("set/images/{name}.png"), 40, 30);
        mask(
            place,
            &format!("set/masks/{name}.png"),
            40,
            30,
            |x, _| if x < 4 { 255 } else { u8::from(x < 14) },
        );
    }
    place.write("set/classes.txt", "0\tbackground\n1\tcrack\n");
    place.write("set/train.txt", "a\nb\n");
    place.write("set/val.txt", "c\n");
}

#[test]
fn a_good_set_in_numbers() {
    let place = Place::new();
    masks(&place);
    let before = place.files();
    let answer = place.run("data inspect set").done();
    assert_eq!(answer.stderr, "", "progress is for terminals");
    assert_eq!(
        answer.stdout,
        "set: pictures with class masks
layout    masks
pictures  3 (train 2, val 1), all with labels
ignored   10 % of all pixels

                 min  median   max
width, pixels     40      40    40
height, pixels    30      30    30
width / height  1.33    1.33  1.33

classes (2)
  id  class       pictures         pixels
   0  background         3  100 %    72 %
   1  crack              3  100 %    28 %

no problems found
"
    );
    let json = place.run("data inspect set --json --split train").done().json();
    assert_eq!(
        fields(&json),
        [
            "name",
            "layout",
            "found",
            "mask_meaning",
            "samples",
            "splits",
            "labelled",
            "unusable",
            "sizes",
            "classes",
            "ignored",
            "objects",
            "problems"
        ]
    );
    assert_eq!(
        (&json["samples"], &json["unusable"], &json["mask_meaning"]),
        (&2.into(), &0.into(), &"classes".into())
    );
    assert_eq!(json["splits"], json!([{ "split": "train", "samples": 2 }]));
    assert_eq!(json["classes"][1]["pixels"], 2 * 10 * 30);
    assert_eq!(place.files(), before, "inspecting changes nothing");
}

#[test]
fn objects_in_numbers() {
    let place = Place::new();
    coco(&place);
    let text = place.run("data inspect set").done().stdout;
    for line in [
        "set: COCO annotations (instances.json)",
        "objects   3, by area 100 % below 32², 0 % below 96², 0 % from 96² pixels",
        "objects a picture                  1       1      1",
        "object's share of its picture  5.0 %   8.3 %  8.3 %",
        "   3  cat           2  67 %        2  67 %   100 %",
    ] {
        assert!(text.contains(line), "{line}\n{text}");
    }
}

/// What the flags say goes before what would be found out.
#[test]
fn what_the_set_is_can_be_said() {
    let place = Place::new();
    masks(&place);
    let inspect = |flags: &str| place.run(&format!("data inspect set --json {flags}")).done().json();
    assert_eq!(inspect("--layout pictures")["labelled"], 0);
    let objects = inspect("--masks instances");
    assert_eq!((&objects["objects"]["total"], &objects["objects"]["crowd"]), (&3.into(), &3.into()));
    assert_eq!(inspect("--masks binary")["ignored"], 0.0);
    assert_eq!(inspect("--ignore 1,7")["ignored"], 14.0 / 40.0);
    fs::rename(place.path("set/masks"), place.path("set/cracks")).unwrap();
    assert_eq!(inspect("--mask-folder cracks")["layout"], "masks");

    // Pictures that lie elsewhere.
    let place = Place::new();
    coco(&place);
    fs::rename(place.path("set/images"), place.path("elsewhere")).unwrap();
    place.refuses("data inspect set", 1, &["a.png"]);
    let json = place.run("data inspect set/instances.json --picture-folder elsewhere --json").done().json();
    assert_eq!((&json["samples"], &json["unusable"]), (&3.into(), &0.into()));
}

#[test]
fn problems_are_told_with_their_place() {
    let place = Place::new();
    for name in ["a", "b", "c", "d", "e", "unlisted"] {
        picture(&place, &format!("set/images/{name}.png"), 40, 30);
        place.write(&format!("set/labels/{name}.txt"), "0 .5 .5 .2 .2\n");
    }
    place.write("set/classes.txt", "cat\n");
    place.write("set/labels/a.txt", "0 .5 .5 .2 .2\n0 .5 .5 .2\n");
    place.write("set/labels/b.txt", "\n7 .5 .5 .2 .2\n");
    place.write("set/labels/c.txt", "0 .9 .5 .4 .2\n");
    place.write("set/labels/nobody.txt", "0 .5 .5 .2 .2\n");
    place.write("set/images/d.png", "no picture");
    place.write("set/train.txt", "a\nb\nc\nd\n");
    // In two lists.
    place.write("set/test.txt", "c\ne\n");
    let answer = place.run("data inspect set");
    answer.expect(1, &["kirie: 3 of 6 pictures cannot be used"]);
    for line in [
        "  1 unreadable pictures (cannot be used)\n    set/images/d.png: ",
        "  1 unreadable labels (cannot be used)\n    set/labels/a.txt, line 2: expected a class and 4 numbers",
        "  1 labels of unknown classes (cannot be used)\n    set/labels/b.txt, line 2: class 7 is not among",
        "  2 boxes that are empty or reach over the edge\n    set/labels/c.txt, object 0: ",
        "  1 pictures that are in two parts of the set\n    train: c = test: c",
        "  1 labels without a picture\n    set/labels/nobody.txt",
        "  1 pictures in no list\n    set/images/unlisted.png",
    ] {
        assert!(answer.stdout.contains(line), "{line}\n{}", answer.stdout);
    }
    let json = place.run("data inspect set --json");
    json.expect(1, &["3 of 6"]);
    let json = json.json();
    assert_eq!(json["unusable"], 3);
    let kinds: Vec<&str> =
        json["problems"].as_array().unwrap().iter().map(|p| p["kind"].as_str().unwrap()).collect();
    assert!(kinds.contains(&"in_two_splits") && kinds.contains(&"not_in_any_list"), "{kinds:?}");
    // A list that names what is not there.
    place.write("set/test.txt", "e\n\nmissing\nmissing too\n");
    place.refuses("data inspect set", 1, &["set/test.txt, line 3", "\"missing\"", "1 more"]);
}

#[test]
fn as_many_examples_as_wanted() {
    let place = Place::new();
    for i in 0..30 {
        picture(&place, &format!("set/images/{i:02}.png"), 4, 3);
        place.write(&format!("set/labels/{i:02}.txt"), "x\n");
    }
    let lines = |flags: &str| {
        let answer = place.run(&format!("data inspect set {flags}"));
        answer.expect(1, &["30 of 30"]);
        (answer.stdout.matches(".txt, line 1").count(), answer.stdout.contains("and 25 more"))
    };
    assert_eq!(lines(""), (5, true));
    assert_eq!(lines("--examples 30"), (30, false));
    assert_eq!(lines("--examples 0"), (0, false));
    assert_eq!(lines("--json"), (20, false));
    assert_eq!(lines("--json --examples 28"), (28, false));
}

#[test]
fn converted_to_every_layout() {
    let place = Place::new();
    coco(&place);
    let before = place.files();
    let expected = [
        ("coco", Layout::Coco, "nothing is lost"),
        ("yolo", Layout::Yolo, "1 masks became one outline each"),
        ("voc", Layout::Voc, "2 objects keep their box only"),
    ];
    for (to, layout, words) in expected {
        let answer = place.run(&format!("data convert set --to {to} -o new/{to}")).done();
        assert_eq!(answer.stderr, "");
        assert!(
            answer.stdout.starts_with(&format!("new/{to}: 3 pictures, 3 objects, from COCO")),
            "{}",
            answer.stdout
        );
        assert!(answer.stdout.contains(words), "{}", answer.stdout);
        let set = open(place.path(&format!("new/{to}")), None).unwrap();
        assert_eq!((set.layout, set.samples.len()), (layout, 3));
        let splits: Vec<_> = set.samples.iter().map(|sample| sample.split.as_deref().unwrap()).collect();
        assert_eq!(splits, ["train", "train", "val"], "{to}");
        // What was written has no problems.
        place.run(&format!("data inspect new/{to}")).done();
    }
    // One that has a box alone cannot become masks; the others do.
    for to in ["masks", "instance-masks"] {
        let answer = place.run(&format!("data convert set --to {to} -o new/{to}"));
        answer.expect(1, &["c: ", "object 0: only its box is known", "1 of 3 pictures failed"]);
        let set = open(place.path(&format!("new/{to}")), None).unwrap();
        assert_eq!((set.layout, set.samples.len()), (Layout::Masks, 2));
    }
    let names = place.names("new");
    assert!(!names.iter().any(|name| name.contains(".kirie-")), "{names:?}");
    for (name, data) in before {
        assert_eq!(place.files().get(&name), Some(&data), "the old set stays as it was");
    }
}

#[test]
fn masks_to_coco_as_json() {
    let place = Place::new();
    masks(&place);
    let json = place.run("data convert set --to coco --split val --json -o new").done().json();
    assert_eq!(
        json,
        json!({ "found": "pictures with class masks", "output": "new", "pictures": 1, "objects": 1,
                "lost": [{ "kind": "crowds", "total": 1 }], "failed": [] })
    );
    let set = open(place.path("new"), None).unwrap();
    let Labels::Instances { instances, .. } = set.labels(&set.samples[0]).unwrap() else { panic!() };
    assert_eq!(instances[0].area, 300.0);
    // An empty folder is taken, too.
    fs::create_dir(place.path("empty")).unwrap();
    place.run("data convert set --to yolo --pictures leave -o empty").done();
    assert_eq!(
        place.names("empty"),
        ["data.yaml", "labels/train/a.txt", "labels/train/b.txt", "labels/val/c.txt"]
    );
}

#[test]
fn converting_that_is_refused() {
    let place = Place::new();
    coco(&place);
    place.write("used/file.txt", "mine");
    place.refuses("data convert set --to yolo -o used", 1, &["used: expected a new or empty folder"]);
    place.refuses("data convert set --to yolo -o used/file.txt", 1, &["used/file.txt"]);
    place.refuses("data convert set --to yolo", 2, &["--output"]);
    place.refuses("data convert set --to pascal -o new", 2, &["pascal", "voc"]);
    place.refuses("data convert set --to yolo --tolerance -1 -o new", 2, &["--tolerance is -1"]);
    place.refuses(
        "data convert set --to yolo --split minival -o new",
        1,
        &["no part \"minival\"", "train, val"],
    );
    place.refuses("data convert nowhere --to yolo -o new", 1, &["nowhere"]);
    place.refuses("data inspect set --masks classes", 1, &["label pictures"]);
    place.refuses("data inspect set --layout coco --masks classes", 2, &["--masks", "coco"]);
    place.refuses("data inspect set --ignore 3", 2, &["--ignore", "coco"]);
    place.refuses("data inspect set --layout cocoa", 2, &["cocoa", "class-folders"]);
    place.refuses("data inspect", 2, &["DIR"]);
    place.write("empty/notes.md", "");
    place.refuses("data inspect empty", 1, &["empty", "no dataset recognised"]);
    // Of labels that say what, not where, nothing can be made.
    picture(&place, "tags/cat/1.png", 8, 8);
    picture(&place, "tags/dog/2.png", 8, 8);
    place.refuses(
        "data convert tags --to coco -o new",
        1,
        &["but not where", "nothing was written", "2 of 2 pictures failed"],
    );
}

/// A killed run leaves nothing that could be taken for a set.
#[test]
fn killed_while_converting() {
    let place = Place::new();
    for i in 0..60 {
        picture(&place, &format!("set/images/{i:02}.png"), 400, 300);
        mask(&place, &format!("set/masks/{i:02}.png"), 400, 300, |x, y| u8::from((x ^ y) & 8 > 0));
    }
    let line = "data convert set --to yolo -o new/set";
    let mut run = place.command(line).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let started = Instant::now();
    while place.names("new").len() < 10 {
        assert!(started.elapsed() < Duration::from_mins(2) && run.try_wait().unwrap().is_none());
    }
    run.kill().unwrap();
    run.wait().unwrap();
    assert!(!place.path("new/set").exists());
    place.run(line).done();
    assert_eq!(open(place.path("new/set"), None).unwrap().samples.len(), 60);
}

fn sheet(path: &Path) -> (u32, u32) {
    let sheet = read_image(path, &Limits::default()).unwrap();
    (sheet.width(), sheet.height())
}

#[test]
fn a_contact_sheet() {
    let place = Place::new();
    masks(&place);
    let answer = place.run("data preview set -o sheets/all.png").done();
    assert_eq!(answer.stdout, "sheets/all.png: 3 of 3 pictures, pictures with class masks\n");
    assert_eq!(answer.stderr, "");
    let size = sheet(&place.path("sheets/all.png"));
    // Three side by side, in cells of 320 pixels.
    assert!((960..1060).contains(&size.0) && (240..320).contains(&size.1), "{size:?}");

    let json =
        place.run("data preview set --json --count 2 --columns 1 --width 64 --seed 3 -o s.jpg").done().json();
    let size = sheet(&place.path("s.jpg"));
    assert_eq!((json["width"].as_u64(), json["height"].as_u64()), (Some(size.0.into()), Some(size.1.into())));
    assert!(size.0 < 100 && size.1 > 96, "{size:?}");
    let ids = |json: &Value| {
        json["pictures"].as_array().unwrap().iter().map(|p| p["id"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(ids(&json).len(), 2);
    let again = place.run("data preview set --json --count 2 --seed 3 -o s.jpg").done().json();
    assert_eq!(ids(&again), ids(&json));
    let val = place.run("data preview set --json --split val -o s.jpg").done().json();
    assert_eq!(ids(&val), ["c"]);
}

#[test]
fn a_sheet_with_gaps_and_sheets_refused() {
    let place = Place::new();
    masks(&place);
    place.refuses("data preview set -o s.gif", 2, &["s.gif", ".png"]);
    place.refuses("data preview set -o set/images/a.png", 2, &["would overwrite a picture"]);
    place.refuses("data preview set --count 0 -o s.png", 2, &["--count"]);
    place.refuses("data preview set --columns 0 -o s.png", 2, &["--columns"]);
    place.refuses("data preview set --split x -o s.png", 1, &["\"x\""]);
    place.write("set/images/b.png", "no picture");
    let answer = place.run("data preview set -o s.png");
    answer.expect(1, &["b: set/images/b.png: ", "1 of 3 pictures failed"]);
    assert!(place.path("s.png").is_file());
}

/// A disc on a plain ground, and noise.
fn scene(place: &Place, name: &str, disc: bool) {
    let (width, height) = (64, 48);
    fs::create_dir_all(place.path(name).parent().unwrap()).unwrap();
    let pixels = (0..width * height).flat_map(|i: u32| {
        let (x, y) = (i % width, i / width);
        let noise = (i.wrapping_mul(2_654_435_761) >> 24) as u8;
        if !disc {
            return [noise, noise.wrapping_mul(3), noise.wrapping_add(90)];
        }
        let inside = x.abs_diff(30).pow(2) + y.abs_diff(24).pow(2) < 200;
        if inside { [220, 60, 40] } else { [40, 60, 80] }
    });
    write_picture(place.path(name), &Image::from_raw(width, height, pixels.collect()).unwrap()).unwrap();
}

#[test]
fn what_to_label_next() {
    let place = Place::new();
    for (name, disc) in [("disc-a", true), ("disc-b", true), ("noise", false)] {
        scene(&place, &format!("new/{name}.png"), disc);
    }
    place.write("new/broken.png", "no picture");
    let line = "data rank new -o next --top 2 --points-per-side 3 --objects 2 --jitters 2 --threads 1";
    let answer = place.run(line);
    answer.expect(1, &["broken.png", "1 of 4 pictures failed"]);
    assert!(answer.stdout.starts_with("2 of 3 pictures to label next, by mean\n"), "{}", answer.stdout);
    assert_eq!(place.names("next"), ["ranking.csv", "ranking.json", "sheet.jpg"]);
    let json = place.json("next/ranking.json");
    assert_eq!(
        fields(&json),
        ["set", "model", "by", "prompt", "seed", "complete", "pictures", "left_out", "failed", "judged"]
    );
    assert_eq!((&json["model"], &json["prompt"]), (&json!("kirie-small"), &json!("everything")));
    assert_eq!(json["failed"][0]["id"], "broken");
    let pictures = json["pictures"].as_array().unwrap();
    assert_eq!(pictures.iter().map(|p| p["place"].as_u64().unwrap()).collect::<Vec<_>>(), [1, 2, 3]);
    assert_eq!(pictures.iter().map(|p| p["chosen"] == true).collect::<Vec<_>>(), [true, true, false]);
    let scores: Vec<f64> = pictures.iter().map(|p| p["score"].as_f64().unwrap()).collect();
    assert!(scores[0] >= scores[1] && scores[1] >= scores[2], "{scores:?}");
    let measures = fields(&pictures[0]["measures"]);
    assert_eq!(measures, ["predicted-iou", "stability", "entropy", "margin", "jitter", "bald"]);
    // Two pictures that are alike have the same doubts.
    let of = |id: &str| pictures.iter().find(|p| p["id"] == id).unwrap()["measures"].clone();
    assert_eq!(of("disc-a"), of("disc-b"));
    assert_ne!(of("disc-a"), of("noise"));
    let csv = fs::read_to_string(place.path("next/ranking.csv")).unwrap();
    assert_eq!(csv.lines().count(), 4);
    assert!(csv.starts_with("place,id,chosen,score,objects,predicted-iou,stability,"), "{csv}");
    let sheet = read_image(place.path("next/sheet.jpg"), &Limits::default()).unwrap();
    assert_eq!((sheet.width(), sheet.height()), (2 * 328 + 8, 240 + 22 + 16));

    // The same again, and the unlike ones: not both discs.
    fs::remove_file(place.path("new/broken.png")).unwrap();
    let again = place.run(&format!("{line} --json")).done().json();
    assert_eq!(again["pictures"], json["pictures"]);
    let diverse = place.run(&format!("{line} --diverse --json")).done().json();
    let chosen = diverse["pictures"].as_array().unwrap().iter().filter(|p| p["chosen"] == true);
    let ids: Vec<&str> = chosen.map(|p| p["id"].as_str().unwrap()).collect();
    assert!(ids.contains(&"noise") && ids.len() == 2, "{ids:?}");

    let before = place.files();
    for (arguments, code, words) in [
        ("new -o out --by size", 2, "[possible values: mean, predicted-iou"),
        ("new -o out --judge --prompt everything", 2, "--judge compares answers to boxes"),
        ("new -o out --random 2", 2, "expected a number from 0 to 1"),
        ("new -o out --prompt boxes", 1, "no picture could be asked about"),
        ("nowhere -o out", 1, "nowhere"),
    ] {
        place.run(&format!("data rank {arguments}")).expect(code, &[words]);
    }
    assert_eq!(place.files(), before);
}

#[test]
fn boxes_are_ranked_and_judged() {
    let place = Place::new();
    for (name, disc) in [("a", true), ("b", false), ("c", true)] {
        scene(&place, &format!("set/images/{name}.png"), disc);
        mask(&place, &format!("set/masks/{name}.png"), 64, 48, |x, y| {
            u8::from(x.abs_diff(30).pow(2) + y.abs_diff(24).pow(2) < 200)
        });
    }
    place.write("set/classes.txt", "0\tbackground\n1\tdisc\n");
    let line = "data rank set -o judged --judge --by stability --jitters 2 --threads 1";
    let answer = place.run(line).done();
    assert!(answer.stdout.contains("how well each order tells wrong answers"), "{}", answer.stdout);
    let json = place.json("judged/ranking.json");
    assert_eq!((&json["prompt"], &json["by"]), (&json!("boxes"), &json!("stability")));
    let judged = json["judged"].as_array().unwrap();
    assert_eq!(judged.len(), 7);
    let iou = |id: &str| {
        let pictures = json["pictures"].as_array().unwrap();
        pictures.iter().find(|p| p["id"] == id).unwrap()["iou"].as_f64().unwrap()
    };
    assert!(iou("a") > 0.8, "the model cuts out a plain disc: {}", iou("a"));
    assert_eq!(iou("a"), iou("c"));
    let random = (3.0 - iou("a") - iou("b") - iou("c")) / 3.0;
    let found = judged[0]["judgement"]["aurc_random"].as_f64().unwrap();
    assert!((found - random).abs() < 1e-9, "{found}, {random}");
    // Boxes are what is there to ask with, so auto takes them.
    let json = place.run("data rank set -o boxes --jitters 2 --json").done().json();
    assert_eq!((&json["prompt"], &json["judged"]), (&json!("boxes"), &json!([])));
}
