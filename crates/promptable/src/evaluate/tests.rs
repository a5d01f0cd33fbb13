use std::fs;

use kirie_data::MaskRecord;
use kirie_data::datasets::{ClassMap, Labels};
use kirie_mask::Rle;
use kirie_sam::Prompt;
use serde_json::{Value, json};

use super::drawn::{Fake, Set, disc, nothing, object, rectangle};
use super::*;

/// The prompt's box, filled; all of the picture without one.
fn boxed(prompt: &Prompt, size: (usize, usize)) -> Rle {
    let Some(bbox) = prompt.bbox else { return rectangle(size, [0, 0, size.0, size.1]) };
    let [x, y, w, h] = bbox.to_xywh().map(|v| v as usize);
    rectangle(size, [x, y, w, h])
}

fn options(prompts: &[&str]) -> PromptedOptions {
    let prompts = prompts.iter().map(|text| text.parse().unwrap()).collect();
    PromptedOptions { prompts, cases: 3, ..PromptedOptions::default() }
}

fn run(set: &Set, model: &mut dyn Promptable, options: &PromptedOptions) -> Vec<PromptedReport> {
    prompted(&set.dataset, &set.samples(), model, options, &mut |_| {}).unwrap()
}

#[test]
fn right_answers_score_one_and_wrong_ones_nothing() {
    let square = rectangle((60, 40), [10, 5, 20, 20]);
    let set = Set::new(&[(60, 40, vec![object(&square)]), (50, 30, vec![]), (60, 40, vec![object(&square)])]);
    let mut model = Fake::new(boxed);
    let report = run(&set, &mut model, &options(&["box"])).remove(0);
    let summary = &report.summary;
    assert_eq!((summary.figures.miou, summary.figures.biou), (Some(1.0), Some(1.0)));
    assert_eq!((summary.figures.objects, summary.images, model.pictures), (2, 3, 2), "no object, no encoder");
    assert_eq!(report.objects[0].bbox, [10.0, 5.0, 20.0, 20.0]);
    assert_eq!((report.objects[0].clicks, report.objects[0].class.as_deref()), (0, Some("c7")));
    assert_eq!((report.worst.len(), report.best.len()), (2, 2), "one of a picture");

    let mut model = Fake::new(|_: &Prompt, size| nothing(size));
    for report in run(&set, &mut model, &options(&["box", "points:3"])) {
        assert_eq!((report.summary.figures.miou, report.summary.figures.biou), (Some(0.0), Some(0.0)));
        assert!(report.summary.failed.is_empty());
    }
    assert_eq!(model.pictures, 2, "one encoding for all kinds of prompts");
}

#[test]
fn all_boxes_of_a_picture_are_asked_at_once() {
    let squares: Vec<Value> =
        (0..70).map(|i| object(&rectangle((200, 40), [i % 35 * 5, i / 35 * 20, 4, 4]))).collect();
    let set = Set::new(&[(200, 40, squares)]);
    let mut model = Fake::new(boxed);
    let report = run(&set, &mut model, &options(&["box"])).remove(0);
    assert_eq!(report.summary.figures.miou, Some(1.0));
    assert_eq!(model.asked.iter().map(Vec::len).collect::<Vec<_>>(), [64, 6]);
}

#[test]
fn clicks_correct_the_answer() {
    // The answer to a click is a disc around every positive one.
    let discs = |prompt: &Prompt, size| {
        let on = prompt.points.iter().filter(|(_, on)| *on).map(|(p, _)| disc(size, (p.x, p.y), 5.0));
        Rle::merge(&on.collect::<Vec<_>>(), false).unwrap()
    };
    let one = disc((80, 40), (20.0, 20.0), 5.0);
    let two =
        Rle::merge(&[disc((80, 40), (20.0, 20.0), 5.0), disc((80, 40), (50.0, 20.0), 5.0)], false).unwrap();
    let set = Set::new(&[(80, 40, vec![object(&one), object(&two)])]);
    let mut model = Fake::new(discs);
    let report = run(&set, &mut model, &options(&["points:4"])).remove(0);
    assert_eq!(report.summary.figures.miou, Some(1.0));
    assert_eq!(report.objects.iter().map(|o| o.clicks).collect::<Vec<_>>(), [1, 2], "right is right");
    assert_eq!(report.summary.miou_by_click, [0.75, 1.0, 1.0, 1.0]);
    let places: Vec<Vec<(f64, f64, bool)>> = model
        .asked
        .iter()
        .flatten()
        .map(|prompt| prompt.points.iter().map(|(p, on)| (p.x, p.y, *on)).collect())
        .collect();
    assert_eq!(
        places,
        [vec![(20.0, 20.0, true)], vec![(20.0, 20.0, true)], vec![(20.0, 20.0, true), (50.0, 20.0, true)]]
    );
    assert!(model.asked.iter().flatten().all(|prompt| prompt.mask_input.is_none()));
}

#[test]
fn a_click_off_the_object_and_the_answer_fed_back() {
    let square = rectangle((60, 40), [10, 5, 20, 20]);
    let set = Set::new(&[(60, 40, vec![object(&square)])]);
    let whole = |_: &Prompt, size: (usize, usize)| rectangle(size, [0, 0, size.0, size.1]);
    let mut model = Fake::new(whole);
    let options = PromptedOptions { feed_mask: true, ..options(&["points:3"]) };
    let report = run(&set, &mut model, &options).remove(0);
    assert_eq!(report.objects[0].iou, 400.0 / 2400.0);
    let last = &model.asked[2][0];
    assert_eq!(last.points.iter().map(|(_, on)| *on).collect::<Vec<_>>(), [true, false, false]);
    let fed: Vec<bool> = model.asked.iter().map(|call| call[0].mask_input.is_some()).collect();
    assert_eq!(fed, [false, true, true]);
    assert!(report.worst[0].prompt.mask_input.is_none() && report.summary.feed_mask);
}

#[test]
fn sizes_go_by_the_stated_area_and_both_ends_count() {
    let square = rectangle((60, 40), [10, 5, 20, 20]);
    let of_area = |area: f64| {
        let mut object = object(&square);
        object["area"] = json!(area);
        object
    };
    let set = Set::new(&[(60, 40, [1.0, 1024.0, 1025.0, 9216.0, 9217.0].map(of_area).to_vec())]);
    let figures = run(&set, &mut Fake::new(boxed), &options(&["box"])).remove(0).summary.figures;
    assert_eq!(
        (figures.objects, figures.objects_small, figures.objects_medium, figures.objects_large),
        (5, 2, 3, 2)
    );
}

#[test]
fn what_is_no_object() {
    let size = (60, 40);
    let square = rectangle(size, [10, 5, 20, 20]);
    let with = |key: &str, value: Value| {
        let mut object = object(&square);
        object[key] = value;
        object
    };
    let objects = vec![
        with("iscrowd", json!(1)),
        with("area", json!(0.5)),
        object(&nothing(size)),
        with("segmentation", json!([])),
        with("bbox", json!([10, 5, 0, 20])),
    ];
    let set = Set::new(&[(60, 40, objects)]);
    let report = run(&set, &mut Fake::new(boxed), &options(&["box"])).remove(0);
    assert_eq!(report.summary.skipped, Skipped { without_mask: 1, empty: 2, crowd: 0 });
    assert_eq!(
        report.objects.iter().map(|o| (o.object, o.crowd)).collect::<Vec<_>>(),
        [(0, true), (4, false)]
    );
    assert_eq!(report.summary.figures.miou, Some(1.0), "a box without area gives way to the mask's");
    let mut options = options(&["box"]);
    options.truth.crowd = false;
    let summary = run(&set, &mut Fake::new(boxed), &options).remove(0).summary;
    assert_eq!((summary.figures.objects, summary.skipped.crowd), (1, 1));
}

#[test]
fn classes_are_objects_and_ignored_pixels_count_neither_way() {
    let set = Set::new(&[(6, 2, vec![])]);
    let ids = vec![7, 7, 7, 7, ClassMap::IGNORE, ClassMap::IGNORE, 3, 3, 3, 3, 3, 3];
    let labels = Labels::ClassMap(ClassMap { width: 6, height: 2, ids });
    let truth = Truth::new(&set.dataset, labels, (6, 2), TruthOptions::default()).unwrap();
    assert_eq!(truth.objects.len(), 2);
    assert_eq!(truth.objects[1].mask.area(), 4);
    let answer = truth.visible(rectangle((6, 2), [0, 0, 6, 1])).unwrap();
    assert_eq!(score::iou(&answer, &truth.objects[1].mask).unwrap(), 1.0);
    assert!(
        Truth::new(&set.dataset, Labels::None, (6, 2), TruthOptions::default()).unwrap().objects.is_empty()
    );
}

#[test]
fn a_picture_that_fails_does_not_stop_the_others() {
    let square = rectangle((60, 40), [10, 5, 20, 20]);
    let picture = || (60, 40, vec![object(&square)]);
    let set = Set::new(&[picture(), picture(), picture()]);
    fs::write(set.folder.path().join("images/p1.png"), "no picture").unwrap();
    let mut told = Vec::new();
    let reports = prompted(
        &set.dataset,
        &set.samples(),
        &mut Fake::new(boxed),
        &options(&["box", "points:1"]),
        &mut |progress| told.push((progress.done, progress.failed.is_some())),
    );
    assert_eq!(told, [(1, false), (2, true), (3, false)]);
    for report in &reports.unwrap() {
        let summary = &report.summary;
        assert_eq!((summary.images, summary.figures.objects, summary.failed.len()), (2, 2, 1));
        assert_eq!(summary.failed[0].picture, "p1");
        assert!(summary.failed[0].reason.contains("p1.png: expected a JPEG"), "{:?}", summary.failed);
    }
    let mut few = Few;
    let report = run(&set, &mut few, &options(&["box"])).remove(0);
    assert_eq!(report.summary.failed.len(), 3);
    assert!(report.summary.failed[0].reason.contains("0 answers for 1 prompts"));
    assert_eq!(report.summary.figures.miou, None);
}

/// Never answers.
struct Few;

impl Promptable for Few {
    fn name(&self) -> &'static str {
        "few"
    }
    fn set_picture(&mut self, _: &kirie_data::Image) -> Result<(), EvaluateError> {
        Ok(())
    }
    fn masks(&mut self, _: &[Prompt]) -> Result<Vec<Answer>, EvaluateError> {
        Ok(Vec::new())
    }
}

#[test]
fn what_cannot_be_evaluated() {
    let set = Set::new(&[(60, 40, vec![])]);
    let mut model = BoxFill::new();
    let mut fails = |samples: &[_], options: &PromptedOptions| {
        prompted(&set.dataset, samples, &mut model, options, &mut |_| {}).unwrap_err()
    };
    assert!(matches!(fails(&[], &options(&["box"])), EvaluateError::NoPictures));
    assert!(matches!(fails(&set.samples(), &options(&[])), EvaluateError::NoPrompts));
    assert!(matches!(fails(&set.samples(), &options(&["points:1"])), EvaluateError::NeedsBox { .. }));
    let summary = run(&set, &mut model, &options(&["box"])).remove(0).summary;
    assert_eq!((summary.figures.miou, summary.images), (None, 1));
}

#[test]
fn parts_of_the_set_and_the_form_of_the_summary() {
    let square = rectangle((60, 40), [10, 5, 20, 20]);
    let objects = [object(&square)];
    let set = Set::with_ids(&[(1, "val", 60, 40, &objects), (2, "train", 60, 40, &objects)]);
    let summary = run(&set, &mut Fake::new(boxed), &options(&["box"])).remove(0).summary;
    let parts: Vec<_> =
        summary.splits.iter().map(|part| (part.split.as_deref(), part.figures.objects)).collect();
    assert_eq!(parts.len(), 2);
    assert!(parts.contains(&(Some("val"), 1)) && parts.contains(&(Some("train"), 1)));
    let json = serde_json::to_value(&summary).unwrap();
    let keys: Vec<&str> = json.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(keys[..5], ["miou", "miou_small", "miou_medium", "miou_large", "biou"]);
    assert!(json["miou_large"].is_null() && json["seconds"].as_f64().unwrap() > 0.0);
    assert_eq!(
        (&json["prompt"], &json["model"], &json["images"]),
        (&json!("box"), &json!("fake"), &json!(2))
    );
}

/// A case of kirie-metrics' tests, whose figures are pycocotools': its masks are the answers to boxes here.
#[test]
fn coco_ap_equals_pycocotools() {
    let text = include_str!("../../../metrics/tests/data/cocoeval.txt");
    let case = text.split("\ncase ").find(|case| case.starts_with("masks-0 ")).unwrap();
    let size = (128_usize, 128_usize);
    let (mut images, mut objects, mut boxes, mut masks) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let mut expected = Vec::new();
    for line in case.lines().skip(1) {
        let (what, rest) = line.split_once(' ').unwrap();
        let fields: Vec<&str> = rest.splitn(5, ' ').collect();
        let number = |at: usize| fields[at].parse::<f64>().unwrap();
        match what {
            "images" => images = rest.split(' ').map(|id| id.parse::<u64>().unwrap()).collect(),
            "t" => {
                let rle = Rle::from_coco_string(size.1, size.0, fields[4]).unwrap();
                let mut object = object(&rle);
                object["category_id"] = json!(number(1) as u64);
                object["iscrowd"] = json!(number(2) as u64);
                object["area"] = json!(number(3));
                objects.push((number(0) as u64, object));
            }
            "d" => {
                // The left edge says which mask is meant.
                let bbox = [masks.len() as f64 / 1000.0, 0.0, 100.0, 100.0];
                masks.push(Rle::from_coco_string(size.1, size.0, fields[4]).unwrap());
                let (image_id, category_id) = (number(0) as u64, number(1) as u64);
                boxes.push(BoxDetection { image_id, category_id, bbox, score: number(2) });
                assert_eq!(fields[3], "-", "areas are the masks'");
            }
            "stats" => {
                expected = rest.split(' ').map(|v| v.parse::<f64>().unwrap()).collect();
                break;
            }
            _ => {}
        }
    }
    let of = |id: u64| -> Vec<Value> {
        objects.iter().filter(|(image, _)| *image == id).map(|(_, object)| object.clone()).collect()
    };
    let pictures: Vec<(u64, Vec<Value>)> = images.iter().map(|id| (*id, of(*id))).collect();
    let listed: Vec<_> =
        pictures.iter().map(|(id, objects)| (*id, "test", 128, 128, objects.as_slice())).collect();
    let set = Set::with_ids(&listed);
    let samples = image_ids(&set.dataset, set.folder.path(), &set.samples()).unwrap();
    assert_eq!(samples.len(), images.len());
    let mut model = Fake::new(move |prompt: &Prompt, _| {
        masks[(prompt.bbox.unwrap().x0 * 1000.0).round() as usize].clone()
    });
    let report = detected(&set.dataset, &samples, &boxes, 100, &mut model, &mut |_| {}).unwrap();
    assert_eq!(report.summary.figures.to_array().to_vec(), expected);
    assert_eq!((report.summary.detections, report.summary.elsewhere), (boxes.len(), 0));
}

#[test]
fn detections_that_no_model_could_take() {
    let square = rectangle((60, 40), [10, 5, 20, 20]);
    let set = Set::new(&[(60, 40, vec![object(&square)]), (60, 40, vec![object(&square)])]);
    let detection = |image_id, bbox, score| BoxDetection { image_id, category_id: 7, bbox, score };
    let mut boxes = vec![
        detection(100, [10.0, 5.0, 20.0, 20.0], 0.9),
        detection(100, [10.0, 5.0, 0.0, 20.0], 0.8),
        detection(101, [70.0, 5.0, 10.0, 20.0], 0.95),
        detection(5, [10.0, 5.0, 20.0, 20.0], 0.9),
    ];
    let samples = image_ids(&set.dataset, set.folder.path(), &set.samples()).unwrap();
    let mut model = Fake::new(boxed);
    let report = detected(&set.dataset, &samples, &boxes, 100, &mut model, &mut |_| {}).unwrap();
    let summary = &report.summary;
    assert_eq!((summary.detections, summary.unusable, summary.elsewhere), (3, 2, 1));
    assert_eq!(model.pictures, 1);
    assert_eq!(summary.figures.ar_max, Some(0.5));
    boxes.truncate(1);
    let report = detected(&set.dataset, &samples, &boxes, 0, &mut model, &mut |_| {}).unwrap();
    assert_eq!(report.summary.detections, 0);
}

#[test]
fn detection_files() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("boxes.json");
    let read = |text: &str| {
        fs::write(&path, text).unwrap();
        read_detections(&path)
    };
    let good = r#"[{"image_id": 1, "category_id": 2, "bbox": [1, 2.5, 3, 4], "score": 0.5, "area": 12}]"#;
    let found = read(good).unwrap();
    assert_eq!(found, [BoxDetection { image_id: 1, category_id: 2, bbox: [1.0, 2.5, 3.0, 4.0], score: 0.5 }]);
    for (bad, words) in [
        ("{}", "expected [{"),
        (r#"[{"image_id": 1, "category_id": 2, "bbox": [1, 2, 3], "score": 1}]"#, "line 1"),
        (r#"[{"image_id": 1, "category_id": 2, "bbox": [1, 2, 3, 1e999], "score": 1}]"#, "boxes.json"),
    ] {
        let error = read(bad).unwrap_err().to_string();
        assert!(error.contains(words) && error.contains("boxes.json"), "{error}");
    }
}

#[test]
fn everything_that_is_found() {
    let size = (60, 40);
    let (a, b) = (rectangle(size, [0, 0, 20, 20]), rectangle(size, [30, 10, 20, 20]));
    let set = Set::new(&[(60, 40, vec![object(&a), object(&b)]), (60, 40, vec![object(&a)])]);
    // One mask: the first object, and a fifth more.
    let record = |mask: Rle| MaskRecord {
        bbox: [0.0; 4],
        area: mask.area(),
        predicted_iou: 0.9,
        stability_score: 1.0,
        point_coords: Vec::new(),
        crop_box: [0.0; 4],
        segmentation: mask,
    };
    let mut generate = |_: &kirie_data::Image| Ok(vec![record(rectangle(size, [0, 0, 24, 20]))]);
    let options = EverythingOptions::default();
    let report =
        everything(&set.dataset, &set.samples(), "fake", &mut generate, &options, &mut |_| {}).unwrap();
    let summary = &report.summary;
    // IoU 20 / 24: seven of ten thresholds, for two objects of three.
    assert_eq!(summary.recall.average_recall, Some(14.0 / 30.0));
    assert_eq!((summary.recall.recall_50, summary.recall.recall_75), (Some(2.0 / 3.0), Some(2.0 / 3.0)));
    assert_eq!(summary.one_to_one, summary.recall);
    assert_eq!((summary.masks_per_image, summary.objects, summary.images), (Some(1.0), 3, 2));
    assert_eq!((summary.average_recall_small, summary.average_recall_large), (Some(14.0 / 30.0), None));
    assert_eq!(report.pictures[1].recall.recall_75, Some(1.0));
    let json = serde_json::to_value(summary).unwrap();
    assert!(json["average_recall"].is_number() && json["one_to_one"]["recall_50"].is_number());
}
