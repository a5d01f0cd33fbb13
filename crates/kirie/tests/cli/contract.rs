//! `segment` and `embed` as other programs call them, number for number with the reference.

use kirie_data::ImageMasks;
use serde_json::Value;

use crate::common::{MODEL, Place, difference, fields, golden, read_tensor, torch_weights};

/// What a correct float32 implementation keeps to, as the goldens' README says.
const EMBEDDING_TOLERANCE: f32 = 5e-4;
const LOGITS_TOLERANCE: f32 = 2e-3;
const AREA_TOLERANCE: f64 = 0.002;

/// Every 4th row and column of `[planes, side, side]`, as the goldens have them.
fn subsample(values: &[f32], side: usize) -> Vec<f32> {
    let planes = values.chunks_exact(side * side);
    planes
        .flat_map(|p| p.chunks_exact(side).step_by(4).flat_map(|row| row.iter().step_by(4)))
        .copied()
        .collect()
}

/// Compares masks and logits of a run, prompt after prompt, with the goldens of these prompts.
fn check(json: &Value, logits: &[f32], prompts: &[&str]) {
    let expected = |what: &str| -> Vec<f32> {
        prompts.iter().flat_map(|prompt| golden(&format!("{prompt}.{what}"))).collect()
    };
    let logits = difference(&subsample(logits, 256), &expected("low_res_sub"));
    assert!(logits < LOGITS_TOLERANCE, "{prompts:?}: logits differ by {logits}");

    // Reading them as what they should be decodes the run lengths and checks them against the size.
    let found: ImageMasks = serde_json::from_value(json.clone()).unwrap();
    let iou: Vec<f32> = found.masks.iter().map(|m| m.predicted_iou as f32).collect();
    let iou = difference(&iou, &expected("iou"));
    assert!(iou < LOGITS_TOLERANCE, "{prompts:?}: IoU differs by {iou}");
    for (mask, expected) in found.masks.iter().zip(expected("mask_area")) {
        assert_eq!((mask.segmentation.width(), mask.segmentation.height()), (640, 427));
        assert_eq!(mask.segmentation.area(), mask.area);
        let expected = f64::from(expected);
        let error = (mask.area as f64 - expected).abs() / expected;
        assert!(error < AREA_TOLERANCE, "{prompts:?}: area {} instead of {expected}", mask.area);
    }
}

#[test]
fn json_of_a_point() {
    let place = Place::with_weights();
    let answer = place
        .run(&format!(
            "segment coffee.png --model {MODEL} --weights w.safetensors --point 200,150 --multimask --format json \
             -o - --save-logits kept/logits.safetensors"
        ))
        .done();
    assert_eq!(answer.stderr, "", "nothing to tell where results go to standard output");
    assert_eq!(answer.stdout.lines().count(), 1);

    let json = answer.json();
    assert_eq!(fields(&json), ["image", "model", "masks"]);
    assert_eq!(json["image"], serde_json::json!({ "path": "coffee.png", "width": 640, "height": 427 }));
    assert_eq!(json["model"], MODEL);
    let masks = json["masks"].as_array().unwrap();
    assert_eq!(masks.len(), 3);
    for mask in masks {
        assert_eq!(
            fields(mask),
            ["segmentation", "bbox", "area", "predicted_iou", "stability_score", "point_coords", "crop_box"]
        );
        assert_eq!(fields(&mask["segmentation"]), ["size", "counts"]);
        assert_eq!(mask["segmentation"]["size"], serde_json::json!([427, 640]));
        assert!(mask["segmentation"]["counts"].is_string());
        assert_eq!(mask["point_coords"], serde_json::json!([[200.0, 150.0]]));
        assert_eq!(mask["crop_box"], serde_json::json!([0.0, 0.0, 640.0, 427.0]));
        assert!((0.0..1.0).contains(&mask["stability_score"].as_f64().unwrap()));
    }
    let found: ImageMasks = serde_json::from_value(json.clone()).unwrap();
    for mask in &found.masks {
        let [x, y, width, height] = mask.segmentation.bbox_xywh().map(f64::from);
        assert_eq!(mask.bbox, [x, y, width - 1.0, height - 1.0], "SAM's boxes end at the last pixel");
    }

    let logits = read_tensor(place.path("kept/logits.safetensors"), "low_res_logits");
    assert_eq!(logits.shape, [3, 256, 256]);
    check(&json, &logits.values, &["one_point"]);
    let iou = read_tensor(place.path("kept/logits.safetensors"), "predicted_iou");
    let stated: Vec<f32> = found.masks.iter().map(|m| m.predicted_iou as f32).collect();
    assert_eq!(iou.values, stated);
    assert_eq!(place.names("kept"), ["logits.safetensors"]);
}

#[test]
fn json_of_prompts_in_a_file_and_of_logits_fed_back() {
    let place = Place::with_weights();
    place.write(
        "prompts.json",
        r#"[{"points": [[200, 150, 1], [500.5, 300.25, 0]]}, {"box": [100, 80, 420, 330]}]"#,
    );
    let base = format!("segment coffee.png --model {MODEL} --weights w.safetensors -o -");
    let answer = place.run(&format!("{base} --prompts prompts.json --save-logits l.safetensors")).done();
    let logits = read_tensor(place.path("l.safetensors"), "low_res_logits");
    assert_eq!(logits.shape, [2, 256, 256]);
    check(&answer.json(), &logits.values, &["two_points", "box"]);

    let answer = place
        .run(&format!(
            "{base} --box 100,80,420,330 --mask-input l.safetensors --mask-index 1 --save-logits l2.safetensors"
        ))
        .done();
    let logits = read_tensor(place.path("l2.safetensors"), "low_res_logits");
    check(&answer.json(), &logits.values, &["box_mask"]);

    place.refuses(
        &format!("{base} --box 1,2,3,4 --mask-input l.safetensors"),
        2,
        &["number of masks 2, number of prompts 1", "--mask-index"],
    );
    place.refuses(&format!("{base} --mask-input l.safetensors --mask-index 2"), 2, &["there is no mask 2"]);
    place.refuses(&format!("{base} --mask-input w.safetensors"), 1, &["w.safetensors", "`low_res_logits`"]);
}

#[test]
fn the_best_of_a_point_and_a_box_together() {
    let place = Place::with_weights();
    // Without --model: the weights say whose they are.
    let base = "segment coffee.png --weights w.safetensors --box 100,80,420,330 --point 250,200 -o -";
    let all = place.run(&format!("{base} --multimask --save-logits l.safetensors")).done().json();
    let logits = read_tensor(place.path("l.safetensors"), "low_res_logits");
    check(&all, &logits.values, &["box_point"]);
    assert_eq!(all["model"], MODEL);

    let best = place.run(&format!("{base} --best")).done().json();
    let iou = |mask: &Value| mask["predicted_iou"].as_f64().unwrap();
    let expected = all["masks"].as_array().unwrap().iter().max_by(|a, b| iou(a).total_cmp(&iou(b))).unwrap();
    assert_eq!(best["masks"], serde_json::json!([expected]));
}

#[test]
fn embedding() {
    let place = Place::with_weights();
    let answer =
        place.run(&format!("embed coffee.png --model {MODEL} --weights w.safetensors -o e/c.safetensors"));
    assert_eq!(answer.done().stdout, "");
    assert_eq!(place.names("e"), ["c.safetensors"]);
    let embedding = read_tensor(place.path("e/c.safetensors"), "embedding");
    assert_eq!(embedding.shape, [1, 256, 64, 64]);
    let planes: Vec<f32> = embedding.values.chunks_exact(64 * 64).step_by(16).flatten().copied().collect();
    let error = difference(&subsample(&planes, 64), &golden("embedding_sub"));
    assert!(error < EMBEDDING_TOLERANCE, "differs by {error}");
}

/// The same weights in PyTorch's file and in ours.
#[test]
fn pt_and_safetensors_give_the_same_bytes() {
    let place = Place::with_weights();
    std::fs::hard_link(torch_weights(), place.path("w.pt")).unwrap();
    let mut results = Vec::new();
    for weights in ["w.safetensors", "w.pt"] {
        let line = format!("segment coffee.png --weights {weights} --point 200,150 --multimask -o -");
        let answer = place.run(&format!("{line} --save-logits {weights}.logits")).done();
        results.push((answer.stdout, std::fs::read(place.path(&format!("{weights}.logits"))).unwrap()));
    }
    assert!(results[0] == results[1]);
}
