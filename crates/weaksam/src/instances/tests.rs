use std::fs;

use kirie_data::datasets::{self, Labels};
use kirie_sam::engine::{LowResMasks, PromptBatch};
use kirie_sam::registry::Preprocess;
use kirie_sam::{Embedding, Engine, HostTensor, SamError};

use super::*;
use crate::drawn::draw_set;
use crate::measure::{Truth, measure_masks};

const SIDE: usize = 256;

/// Answers a box with the ellipse in it; a box whose left edge is at 0 with nothing.
struct Ellipses;

impl Engine for Ellipses {
    fn model(&self) -> &'static str {
        "ellipses"
    }
    fn preprocess(&self) -> Preprocess {
        Preprocess { size: 64, frame: 1024, mean: [0.0; 3], std: [255.0; 3] }
    }
    fn mask_side(&self) -> usize {
        SIDE
    }
    fn encode(&self, _: HostTensor) -> Result<Embedding, SamError> {
        Ok(Embedding { image: HostTensor::new(vec![1], vec![0.0])?, hq_features: None })
    }
    fn decode(
        &self,
        _: &Embedding,
        prompts: &PromptBatch,
        mode: DecodeMode,
    ) -> Result<LowResMasks, SamError> {
        assert!(!mode.multimask);
        let mut logits = Vec::new();
        for corners in prompts.sparse.coords.chunks_exact(prompts.sparse.tokens) {
            let [[x0, y0], [x1, y1]] =
                [corners[0], corners[1]].map(|corner| corner.map(|v| v * SIDE as f32 / 1024.0));
            let (x, y) = (f32::midpoint(x0, x1), f32::midpoint(y0, y1));
            let (w, h) = ((x1 - x0) / 2.0, (y1 - y0) / 2.0);
            for at in 0..SIDE * SIDE {
                let dx = ((at % SIDE) as f32 + 0.5 - x) / w;
                let dy = ((at / SIDE) as f32 + 0.5 - y) / h;
                logits.push(if x0 <= 0.0 { -1.0 } else { 10.0 * (1.0 - dx.hypot(dy)) });
            }
        }
        let count = prompts.count;
        Ok(LowResMasks {
            logits: HostTensor::new(vec![count, 1, SIDE, SIDE], logits)?,
            iou: HostTensor::new(vec![count, 1], vec![0.9; count])?,
        })
    }
}

#[test]
fn boxes_become_masks_and_files_that_are_read_back() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    draw_set(root, 6);
    let classes = ["disc", "bar"].map(str::to_owned);
    let truth = Truth::open(root, Some("train"), &classes).unwrap();
    let mut boxes = truth.to_boxes();
    // One that SAM gives nothing for, and one that is too unsure.
    boxes.images[0].boxes.extend([[0.0, 1.0, 9.0, 9.0], [20.0, 20.0, 30.0, 30.0]]);
    boxes.images[0].scores.extend([0.5, 0.01]);
    boxes.images[0].classes.extend([1, 1]);
    boxes.images[0].weights.extend([1.0, 1.0]);
    let input = root.join("detections.json");
    boxes.write(&input).unwrap();
    let output = root.join("out");
    let mut predictor = Predictor::new(&Ellipses);
    let config = InstanceConfig::default();
    let stop = Stop::never();
    let summary =
        run(&config, root, &input, Some(&mut predictor), &output, &stop, ProgressMode::Silent).unwrap();
    let total: usize = boxes.images.iter().map(|image| image.boxes.len()).sum();
    assert_eq!((summary.pictures, summary.objects, summary.without_mask), (4, total - 1, 1));

    let text = fs::read_to_string(&summary.coco).unwrap();
    let coco: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(coco["categories"][1]["name"], "bar");
    let annotations = coco["annotations"].as_array().unwrap();
    assert_eq!(annotations.len(), total - 1);
    // The ellipse of a disc's box is the disc: pi / 4 of it.
    let disc = &annotations[0];
    let [w, h] = [2, 3].map(|i| disc["bbox"][i].as_f64().unwrap());
    let share = disc["area"].as_f64().unwrap() / (w * h);
    assert!((share - std::f64::consts::FRAC_PI_4).abs() < 0.05, "{share}");
    // The one without a pixel keeps its box and has no mask.
    assert!(annotations[..3].iter().any(|a| a.get("segmentation").is_none() && a["area"] == 72.0));

    // The COCO file gives back what was written.
    let (names, found) = read(&summary.coco).unwrap();
    assert_eq!(names, classes);
    assert_eq!(found.len(), 4);
    assert_eq!(found[0].image.path, boxes.images[0].file);
    assert_eq!(found[0].objects.len(), boxes.images[0].boxes.len() - 1);
    assert_eq!(found[1].objects[0].bbox, to_bbox(boxes.images[1].boxes[0]));
    assert_eq!(found[0].objects.iter().filter(|object| object.mask.is_none()).count(), 1);
    let broken = root.join("broken.json");
    for (from, to, expected) in [
        ("\"category_id\":2", "\"category_id\":3", "no category 3"),
        ("\"image_id\":1,", "\"image_id\":9,", "no image 9"),
        ("\"width\":72", "\"width\":71", "expected a mask of 71x64"),
    ] {
        assert!(text.contains(from), "{from}");
        fs::write(&broken, text.replace(from, to)).unwrap();
        let error = read(&broken).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }

    // The VOC files, beside the pictures, are a set with the same boxes.
    for image in &boxes.images {
        let stem = Path::new(&image.file).file_stem().unwrap().to_string_lossy();
        let name = format!("images_{stem}");
        assert!(output.join(format!("overlays/{name}.jpg")).is_file());
        let from = output.join(format!("annotations/{name}.xml"));
        fs::create_dir_all(root.join("again/annotations")).unwrap();
        fs::create_dir_all(root.join("again/images")).unwrap();
        fs::copy(from, root.join(format!("again/annotations/{stem}.xml"))).unwrap();
        fs::copy(root.join(&image.file), root.join(format!("again/images/{stem}.png"))).unwrap();
    }
    let again = datasets::open(root.join("again"), None).unwrap();
    let Labels::Instances { instances, .. } = again.labels(&again.samples[1]).unwrap() else {
        panic!("boxes")
    };
    assert_eq!(instances.len(), boxes.images[1].boxes.len());
    assert_eq!(instances[0].bbox, to_bbox(boxes.images[1].boxes[0]));

    // Against true masks: that of the disc is nearly right at all IoUs.
    let pictures = Pictures::of_objects(root, &boxes);
    let image = pictures.read(&pictures.all[0]).unwrap();
    let objects = objects_of(&config, &boxes.images[0], &image, Some(&mut predictor)).unwrap();
    let mut masked = truth.clone();
    let (_, real) = masked.pictures.get_mut(&boxes.images[0].file).unwrap();
    real[0].mask = objects.objects[0].mask.clone();
    let figures = measure_masks(&masked, &[objects]).unwrap();
    assert_eq!(figures.ap_at[0].1, figures.ap_at[3].1);
    assert!(figures.ap_at[3].1.is_some_and(|ap| ap > 0.99));
}

#[test]
fn without_a_model_boxes_stay_boxes() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    draw_set(root, 3);
    let classes = ["disc", "bar"].map(str::to_owned);
    let input = root.join("detections.json");
    Truth::open(root, None, &classes).unwrap().to_boxes().write(&input).unwrap();
    let output = root.join("out");
    let config = InstanceConfig { overlays: false, voc: false, ..InstanceConfig::default() };
    let summary = run(&config, root, &input, None, &output, &Stop::never(), ProgressMode::Silent).unwrap();
    assert_eq!((summary.objects, summary.without_mask), (4, 4));
    assert!(!output.join("overlays").exists() && !output.join("annotations").exists());
    let stop = Stop::never();
    stop.request();
    let stopped = run(&config, root, &input, None, &output, &stop, ProgressMode::Silent);
    assert!(matches!(stopped, Err(WeakError::Stopped { .. })));
}

#[test]
fn every_picture_has_a_name_of_its_own() {
    let mut taken = HashSet::new();
    let names: Vec<String> =
        ["a/b.jpg", "a_b.png", "../a/b.bmp", "c.jpg"].iter().map(|f| name_of(f, &mut taken)).collect();
    assert_eq!(names, ["a_b", "a_b-2", "a_b-3", "c"]);
}
