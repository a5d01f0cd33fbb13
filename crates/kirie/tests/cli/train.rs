//! `train promptable` on drawn pictures with a model of a few thousand numbers: what it writes, what it refuses, and that
//! whatever ends the process, `--resume` gives the run that was never interrupted.

use std::fs;
use std::path::Path;

use kirie_sam::checkpoint::{StateDict, write_safetensors};
use serde_json::{Value, json};

use crate::common::{Place, fields};

const SIDE: usize = 32;
pub(crate) const LINE: &str = "train promptable --threads 1";

/// An EfficientViT-SAM of few thousand numbers, trained with everything that has a state: augmentation, mixed prompts, a
/// correction, averages, accumulation, validation.
const CONFIG: &str = r#"seed = 3

[model]
name = "kirie-small"
input = 32

[model.sizes.prompt_encoder]
dim = 16
embedding_size = 4
frame = 1024
mask_channels = 4

[model.sizes.mask_decoder]
transformer = { depth = 1, dim = 16, heads = 2, mlp_dim = 16, attention_downsample = 2, norm_epsilon = 1e-6 }
multimask_outputs = 3
iou_head_depth = 2
iou_head_hidden = 8

[model.sizes.encoder.EfficientVit]
head_dim = 4
neck_depth = 1
neck_expand = 1
out_channels = 16
out_size = 4
stages = [
    { kind = "Res", width = 4, depth = 0, expand = 1, fewer_norm = false },
    { kind = "Fused", width = 8, depth = 0, expand = 1, fewer_norm = false },
    { kind = "Mb", width = 8, depth = 0, expand = 1, fewer_norm = true },
    { kind = { Attention = 3 }, width = 8, depth = 1, expand = 1, fewer_norm = true },
]

[data]
sets = [{ path = "set" }]
validate_one_in = 4
batch = 2
objects = 2
smallest = 2

[augment]
scale = [0.8, 1.5]
colour = 0.2

[task]
kind = "end-to-end"
prompts = { boxes = 0.5, points = [1, 2], rounds = 1 }
loss = { points = 64 }

[plan]
steps = 8
accumulate = 2
average = 0.9
log_every = 1
checkpoint_every = 2
validate_every = 50

[plan.optimizer]
lr = 1e-3
rule = { kind = "adamw" }

[plan.schedule]
warmup = 4
decay = { kind = "cosine" }
"#;

/// A place with a mask-folder set of six pictures, two squares in each, and a configuration.
pub(crate) fn place() -> Place {
    let place = Place::new();
    for number in 0..6 {
        let square = |x: usize, y: usize, left: usize, top: usize| {
            (left..left + 10).contains(&x) && (top..top + 12).contains(&y)
        };
        let (mut rgb, mut labels) = (Vec::new(), Vec::new());
        for i in 0..SIDE * SIDE {
            let (x, y) = (i % SIDE, i / SIDE);
            let label =
                if square(x, y, 2 + number, 3) { 1 } else { 2 * u8::from(square(x, y, 18, 5 + 2 * number)) };
            let texture = (x * 7 + y * 13 + number * 5) as u8 % 40;
            rgb.extend([60 + 60 * label + texture, 90 + texture, 200 - 70 * label + texture]);
            labels.push(label);
        }
        place.write(&format!("set/images/train/p{number}.png"), png(png::ColorType::Rgb, &rgb));
        place.write(&format!("set/masks/train/p{number}.png"), png(png::ColorType::Grayscale, &labels));
    }
    place.write("train.toml", CONFIG);
    place
}

fn png(color: png::ColorType, pixels: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, SIDE as u32, SIDE as u32);
    encoder.set_color(color);
    encoder.set_depth(png::BitDepth::Eight);
    encoder.write_header().unwrap().write_image_data(pixels).unwrap();
    bytes
}

/// The log without the time, and the tensors that a run ends with.
pub(crate) fn end(run: &Path, steps: u64) -> (Vec<Value>, Vec<(String, Vec<u8>)>) {
    let mut records = kirie_run::log::read(run.join("log.jsonl")).unwrap();
    for record in &mut records {
        record.remove("seconds");
    }
    let mut files = vec!["model.safetensors".to_owned()];
    files.extend(
        ["weights", "average", "optimizer"].map(|n| format!("checkpoints/step-{steps}/{n}.safetensors")),
    );
    let files = files.into_iter().map(|name| (name.clone(), fs::read(run.join(name)).unwrap())).collect();
    (records.into_iter().map(Value::Object).collect(), files)
}

/// That two runs ended the same, and every step is in the log once.
#[track_caller]
pub(crate) fn assert_same(found: &Path, expected: &Path, steps: u64) {
    let (found, expected) = (end(found, steps), end(expected, steps));
    let trained = found.0.iter().filter(|record| record.get("loss").is_some());
    let logged: Vec<u64> = trained.map(|record| record["step"].as_u64().unwrap()).collect();
    assert_eq!(logged, (1..=steps).collect::<Vec<_>>());
    assert_eq!(found.0, expected.0);
    for ((name, found), (_, expected)) in found.1.iter().zip(&expected.1) {
        assert!(found == expected, "{name} differs");
    }
}

#[test]
fn what_a_run_leaves() {
    let place = place();
    let json = place.run(&format!("{LINE} --config train.toml -o runs/a --json")).done().json();
    assert_eq!(fields(&json), ["run", "steps", "complete", "validation", "model"]);
    assert_eq!((&json["steps"], &json["complete"]), (&json!(8), &json!(true)));
    assert!((0.0..=1.0).contains(&json["validation"]["miou_box"].as_f64().unwrap()));
    assert_eq!(place.json("runs/a/metrics.json"), json);
    let names = place.names("runs/a");
    for name in ["config.toml", "log.jsonl", "report.html", "model.safetensors", "checkpoints/best"] {
        assert!(names.iter().any(|n| n == name), "{name} is not among {names:?}");
    }
    let steps: Vec<&String> = names.iter().filter(|n| n.ends_with("manifest.json")).collect();
    assert_eq!(steps, ["checkpoints/step-6/manifest.json", "checkpoints/step-8/manifest.json"]);
    assert!(names.iter().any(|n| n.starts_with("samples/step-8-")), "{names:?}");

    // The model says what it is.
    let model = StateDict::open(place.path("runs/a/model.safetensors")).unwrap();
    assert!(model.metadata().values().any(|v| v.contains("kirie-small")), "{:?}", model.metadata());

    // Of sizes that no registered model has, it runs wherever weights are asked for, as it was trained.
    let weights = "--weights runs/a/model.safetensors --threads 1";
    let score =
        place.run(&format!("evaluate promptable --data set --split train {weights} --json")).done().json();
    assert_eq!(score["miou"].as_f64().map(|miou| (0.0..=1.0).contains(&miou)), Some(true), "{score}");
    place.run(&format!("segment set/images/train --everything {weights} -o all")).done();
    let half = "models convert runs/a/model.safetensors half.safetensors --half";
    assert!(place.run(half).done().stdout.ends_with("kirie-small weights\n"));
    for file in ["runs/a/model.safetensors", "half.safetensors"] {
        let about = place.run(&format!("models info {file} --json")).done().json();
        assert_eq!((&about["name"], &about["input_size"]), (&json!("kirie-small"), &json!(32)), "{file}");
        assert!(about["parameters"].as_u64().unwrap() < 20_000, "{file}: {}", about["parameters"]);
    }
    let other =
        place.run(&format!("segment set/images/train --everything {weights} --model mobile-sam -o none"));
    other.expect(1, &["these are the weights of kirie-small"]);

    // The same again, from another folder: nothing depends on where it is started.
    place.write("elsewhere/note", "");
    let mut command = place.command(&format!("{LINE} --config ../train.toml -o b"));
    let answer = crate::common::Answer::of(command.current_dir(place.path("elsewhere"))).done();
    assert!(answer.stdout.contains("miou_box") && answer.stdout.contains("wrote b/model.safetensors"));
    assert_same(&place.path("elsewhere/b"), &place.path("runs/a"), 8);

    // A finished run, resumed, says what it said.
    let again = place.run("train promptable --threads 1 --resume runs/a --json").done().json();
    assert_eq!(again, json);
    assert_same(&place.path("runs/a"), &place.path("elsewhere/b"), 8);

    // Another seed on the command line, kept in the run.
    place.run(&format!("{LINE} --config train.toml --set seed=4 --set plan.steps=1 -o c")).done();
    assert!(fs::read_to_string(place.path("c/config.toml")).unwrap().contains("seed = 4\n"));
}

#[test]
fn numbers_that_are_none_end_the_run_with_names() {
    let place = place();
    let line = format!("{LINE} --config train.toml --set plan.checkpoint_every=1");
    let answer =
        place.run(&format!("{line} --set plan.optimizer.lr=1e30 --set plan.schedule.warmup=0 -o wild"));
    answer.expect(
        1,
        &["step ", "is not a finite number", "p", ".png", "the last good checkpoint is that of step"],
    );
    assert!(!place.path("wild/model.safetensors").exists());

    let mut model: Vec<_> = {
        place.run(&format!("{line} --set plan.steps=1 -o one")).done();
        let file = StateDict::open(place.path("one/model.safetensors")).unwrap();
        file.keys().map(|key| (key.to_owned(), file.read(key).unwrap())).collect()
    };
    let (_, token) = model.iter_mut().find(|(key, _)| key == "mask_decoder.iou_token.weight").unwrap();
    token.values[3] = f32::NAN;
    write_safetensors(place.path("nan.safetensors"), &model, &std::collections::BTreeMap::new()).unwrap();
    let answer = place.run(&format!("{line} --set model.init=nan.safetensors -o nan"));
    let words =
        ["step 0: the loss is not a finite number", "set/images/train/p", "no checkpoint was saved yet"];
    answer.expect(1, &words);
}

#[test]
fn what_cannot_be_meant_is_refused_with_its_place() {
    let place = place();
    let line = format!("{LINE} --config bad.toml -o run");
    let bad = |text: String, words: &[&str]| {
        place.write("bad.toml", text);
        place.refuses(&line, 1, words);
    };
    let number = 1 + CONFIG.lines().position(|line| line == "warmup = 4").unwrap();
    bad(
        CONFIG.replace("warmup = 4", "warmpu = 4"),
        &[&format!("bad.toml, line {number}: unknown field `warmpu`")],
    );
    bad(CONFIG.replace("kind = \"end-to-end\"", "kind = \"start-to-end\""), &["bad.toml", "start-to-end"]);
    bad(CONFIG.replace("objects = 2", "objects = 0"), &["data.objects is 0, expected 1 or more"]);
    bad(CONFIG.replace("lr = 1e-3", "lr = -1.0"), &["optimizer.lr is -1, expected a number above 0"]);
    bad(CONFIG.replace("average = 0.9", "average = 1.5"), &["average is 1.5"]);
    bad(CONFIG.replace("boxes = 0.5", "boxes = 1.5"), &["task.prompts.boxes is 1.5, expected 0 to 1"]);

    let line = format!("{LINE} --config train.toml");
    place.refuses(&format!("{line} --set plan.stpes=3 -o run"), 1, &["--set plan.stpes=3: unknown field"]);
    place.refuses(&format!("{LINE} --config none.toml -o run"), 1, &["none.toml: cannot be read"]);
    place.refuses(&line, 2, &["--output"]);
    place.refuses(&format!("{LINE} -o run"), 2, &["--config"]);
    place.refuses(&format!("{line} -o run --resume run"), 2, &["--resume"]);
    place.refuses(&format!("{LINE} --resume none"), 1, &["none"]);
    place.refuses(&format!("{LINE} --config train.toml --threads 0 -o run"), 2, &["--threads"]);

    place.run(&format!("{line} --set plan.steps=1 -o run")).done();
    let before = place.json("run/metrics.json");
    let words = ["config.toml is there", "--resume continues it"];
    place.run(&format!("{line} -o run")).expect(1, &words);
    assert_eq!(place.json("run/metrics.json"), before);
}

/// Found out before anything is trained.
#[test]
fn missing_data_are_named() {
    let place = place();
    let line = format!("{LINE} --config train.toml --set plan.steps=1");
    place.run(&format!("{line} --data nowhere -o a")).expect(1, &["nowhere/set"]);
    place.run(&format!("{line} --set model.init=none.safetensors -o b")).expect(1, &["none.safetensors"]);
    place.run(&format!("{line} --set model.name=kirie-huge -o c")).expect(1, &["kirie-huge"]);
    place.run(&format!("{line} --set model.input=33 -o d")).expect(1, &["model.input is 33"]);
    place.write("empty/set/images/train/p.png", fs::read(place.path("set/images/train/p0.png")).unwrap());
    place.run(&format!("{line} --data empty -o e")).expect(1, &["no picture to learn from in set"]);
}
