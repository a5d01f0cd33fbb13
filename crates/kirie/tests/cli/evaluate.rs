//! `evaluate promptable` on a drawn set: by the baselines, whose scores are known, and by a model with weights by formula,
//! whose scores mean nothing but have a form.

use std::fs;

use kirie_data::Image;
use kirie_data::write::write_picture;
use serde_json::{Value, json};

use crate::common::{MODEL, Place, fields};

/// A COCO set `set/`: two pictures in two parts, a square of 40 pixels and the upper left half of one.
fn set(place: &Place) {
    let mut images = Vec::new();
    let mut annotations = Vec::new();
    for (id, split) in [(5, "train"), (6, "test")] {
        let name = format!("p{id}.png");
        let pixels = (0..3 * 120 * 80).map(|i| (i * id % 251) as u8).collect();
        fs::create_dir_all(place.path("set/images")).unwrap();
        write_picture(place.path("set/images").join(&name), &Image::from_raw(120, 80, pixels).unwrap())
            .unwrap();
        images.push(json!({ "id": id, "file_name": name, "width": 120, "height": 80, "split": split }));
        for (ring, area) in
            [(json!([[10, 10, 50, 10, 50, 50, 10, 50]]), 1600), (json!([[60, 20, 100, 20, 60, 60]]), 820)]
        {
            annotations.push(json!({
                "id": annotations.len() + 1, "image_id": id, "category_id": 1, "segmentation": ring, "area": area,
                "bbox": [if area == 1600 { 10 } else { 60 }, if area == 1600 { 10 } else { 20 }, 40, 40], "iscrowd": 0,
            }));
        }
    }
    let whole =
        json!({ "images": images, "annotations": annotations, "categories": [{ "id": 1, "name": "shape" }] });
    place.write("set/instances.json", whole.to_string());
}

#[track_caller]
fn near(value: &Value, expected: f64, tolerance: f64) {
    let found = value.as_f64().unwrap_or(f64::NAN);
    assert!((found - expected).abs() < tolerance, "expected {expected}, found {value}");
}

/// The form that programs rely on.
const KEYS: [&str; 23] = [
    "miou",
    "miou_small",
    "miou_medium",
    "miou_large",
    "biou",
    "objects",
    "objects_small",
    "objects_medium",
    "objects_large",
    "seconds",
    "seconds_encoding",
    "images",
    "prompt",
    "model",
    "feed_mask",
    "miou_by_click",
    "skipped",
    "splits",
    "failed",
    "data",
    "split",
    "limit",
    "weights",
];

#[test]
fn baselines_and_the_form_of_json() {
    let place = Place::new();
    set(&place);
    let line = "evaluate promptable --data set --json --model";
    let answer = place.run(&format!("{line} box-fill")).done();
    assert_eq!(answer.stderr, "");
    let json = answer.json();
    assert_eq!(fields(&json)[..KEYS.len()], KEYS);
    assert_eq!(fields(&json)[KEYS.len()..], ["device", "input", "mask_choice", "zoom"]);
    assert_eq!(
        fields(&json["splits"][0]),
        [
            "split",
            "miou",
            "miou_small",
            "miou_medium",
            "miou_large",
            "biou",
            "objects",
            "objects_small",
            "objects_medium",
            "objects_large",
            "images"
        ]
    );
    // The square is all of its box, the triangle half of it.
    near(&json["miou"], 0.75, 0.02);
    near(&json["miou_small"], 0.5, 0.03);
    near(&json["miou_medium"], 1.0, 1e-9);
    assert_eq!(
        (&json["miou_large"], &json["objects"], &json["images"]),
        (&Value::Null, &json!(4), &json!(2))
    );
    assert_eq!(
        (&json["prompt"], &json["model"], &json["split"]),
        (&json!("box"), &json!("box-fill"), &Value::Null)
    );
    assert_eq!(json["splits"].as_array().unwrap().len(), 2);
    assert_eq!((&json["failed"], &json["skipped"]["empty"]), (&json!([]), &json!(0)));
    assert!(json["seconds"].as_f64().unwrap() > 0.0 && json["biou"].as_f64().unwrap() < 0.75);

    let test = place.run(&format!("{line} ellipse --split test")).done().json();
    near(&test["miou_medium"], std::f64::consts::FRAC_PI_4, 0.02);
    assert_eq!((&test["objects"], &test["split"]), (&json!(2), &json!("test")));
    let one = place.run(&format!("{line} ellipse --limit 1")).done().json();
    assert_eq!((&one["images"], &one["limit"]), (&json!(1), &json!(1)));

    let text = place.run("evaluate promptable --data set --model box-fill").done().stdout;
    for words in ["box-fill on set: 2 pictures", "mIoU", "boundary IoU", "  train"] {
        assert!(text.contains(words), "{text}");
    }
}

#[test]
fn files_of_a_run() {
    let place = Place::new();
    set(&place);
    let line = "evaluate promptable --data set --model box-fill -o out/run";
    let printed = place.run(&format!("{line} --json")).done().json();
    assert_eq!(place.json("out/run/metrics.json"), printed);
    let csv = fs::read_to_string(place.path("out/run/objects.csv")).unwrap();
    let lines: Vec<&str> = csv.lines().collect();
    assert_eq!(
        lines[0],
        "prompt,picture,split,object,class,crowd,area,x,y,width,height,iou,biou,predicted_iou,clicks"
    );
    assert_eq!(lines.len(), 5);
    assert!(lines.contains(&"box,p5,train,0,shape,0,1600,10,10,40,40,1,1,,0"), "{csv}");
    let page = fs::read_to_string(place.path("out/run/report.html")).unwrap();
    for words in ["<!doctype html>", "box-fill", "Worst answers", "Best answers", "p5", "data:image/"] {
        assert!(page.contains(words), "the report lacks {words}");
    }
    assert_eq!(place.names("out/run"), ["metrics.json", "objects.csv", "report.html"]);
}

#[test]
fn a_detectors_boxes() {
    let place = Place::new();
    set(&place);
    let boxes = json!([
        { "image_id": 5, "category_id": 1, "bbox": [10, 10, 40, 40], "score": 0.9 },
        { "image_id": 6, "category_id": 1, "bbox": [10, 10, 40, 40], "score": 0.8 },
        { "image_id": 6, "category_id": 1, "bbox": [60, 20, 40, 40], "score": 0.7 },
        { "image_id": 7, "category_id": 1, "bbox": [60, 20, 40, 40], "score": 0.7 },
    ]);
    place.write("boxes.json", boxes.to_string());
    let line = "evaluate promptable --data set --model box-fill --detections boxes.json";
    let json = place.run(&format!("{line} --json")).done().json();
    assert_eq!(
        fields(&json)[..12],
        [
            "ap",
            "ap50",
            "ap75",
            "ap_small",
            "ap_medium",
            "ap_large",
            "ar_1",
            "ar_10",
            "ar_max",
            "ar_small",
            "ar_medium",
            "ar_large"
        ]
    );
    near(&json["ar_medium"], 1.0, 1e-9);
    near(&json["boxes"]["ar_max"], 0.75, 1e-9);
    assert_eq!(
        (&json["detections"], &json["elsewhere"], &json["objects"]),
        (&json!(3), &json!(1), &json!(4))
    );
    let both = place.run(&format!("{line} --prompt box --json -o out")).done().json();
    assert_eq!(fields(&both), ["runs"]);
    assert_eq!(
        (&both["runs"][0]["prompt"], &both["runs"][1]["prompt"]),
        (&json!("box"), &json!("detections"))
    );
    assert_eq!(place.json("out/detections.json").as_array().unwrap().len(), 3);
    let text = place.run(line).done().stdout;
    assert!(text.contains("AP50") && text.contains("3 detections, 4 objects"), "{text}");
}

#[test]
fn a_model() {
    let place = Place::with_weights();
    set(&place);
    let line = "evaluate promptable --data set --weights w.safetensors --split test --json";
    let json = place.run(&format!("{line} --prompt box --prompt points:2 -o out")).done().json();
    let runs = json["runs"].as_array().unwrap();
    assert_eq!(runs.len(), 2);
    for (run, prompt) in runs.iter().zip(["box", "points:2"]) {
        assert_eq!((&run["model"], &run["prompt"]), (&json!(MODEL), &json!(prompt)));
        assert_eq!(
            (&run["mask_choice"], &run["weights"]),
            (&json!("best-of-three"), &json!("w.safetensors"))
        );
        assert!((0.0..=1.0).contains(&run["miou"].as_f64().unwrap()));
    }
    assert_eq!(runs[1]["miou_by_click"].as_array().unwrap().len(), 2);
    assert_eq!(runs[1]["miou_by_click"][1], runs[1]["miou"]);
    assert!(fs::read_to_string(place.path("out/report.html")).unwrap().contains("points:2"));

    let single =
        place.run(&format!("{line} --mask-choice single --feed-mask --prompt points:2")).done().json();
    assert_eq!((&single["mask_choice"], &single["feed_mask"]), (&json!("single"), &json!(true)));
    let found = place
        .run(&format!(
            "{line} --everything --points-per-side 2 --pred-iou-thresh 0 --stability-score-thresh 0"
        ))
        .done()
        .json();
    assert_eq!(fields(&found)[..3], ["average_recall", "recall_50", "recall_75"]);
    assert_eq!((&found["objects"], &found["prompt"]), (&json!(2), &json!("everything")));
}

#[test]
fn what_goes_wrong_is_named() {
    let place = Place::new();
    set(&place);
    let line = "evaluate promptable --data set --model box-fill";
    place.refuses(&format!("{line} --prompt points:2"), 2, &["box-fill answers boxes only"]);
    place.refuses(&format!("{line} --everything"), 2, &["box-fill answers boxes only"]);
    place.refuses(&format!("{line} --weights w.safetensors"), 2, &["box-fill has no weights"]);
    place.refuses(&format!("{line} --prompt circle"), 2, &["expected box, or points:N"]);
    place.refuses(&format!("{line} --dilation-ratio=-1"), 2, &["--dilation-ratio is -1"]);
    place.refuses(&format!("{line} --split val"), 1, &["val"]);
    place.refuses(&format!("{line} --detections none.json"), 1, &["none.json: cannot be read"]);
    place.refuses("evaluate promptable --data nothing --model box-fill", 1, &["nothing"]);
    place.refuses("evaluate promptable --data set --model no-such", 2, &["there is no model `no-such`"]);
    place.write("plain/a.png", fs::read(place.path("set/images/p5.png")).unwrap());
    place.refuses(
        "evaluate promptable --data plain --model box-fill",
        1,
        &["none of the 1 pictures has labels"],
    );

    place.write("set/images/p5.png", "no picture");
    let answer = place.run(&format!("{line} --json"));
    answer.expect(1, &["p5.png: expected a JPEG", "1 of 2 pictures failed"]);
    let json = answer.json();
    assert_eq!((&json["images"], &json["failed"][0]["picture"]), (&json!(1), &json!("p5")));
    place.write("set/images/p6.png", "no picture");
    place.refuses(&format!("{line} --json -o out"), 1, &["p6.png", "2 of 2 pictures failed"]);
}
