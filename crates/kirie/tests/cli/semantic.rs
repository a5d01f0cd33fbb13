//! `train semantic`, `evaluate semantic` and `segment --semantic` on drawn pictures with a base of a few thousand numbers: what
//! they write and say, what they refuse, and that an interrupted run ends as if nothing had been.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use burn::tensor::Device;
use kirie_data::write::{index_png, write_picture};
use kirie_data::{Image, Limits, read_index_map};
use kirie_mask::Rle;
use kirie_sam::HostTensor;
use kirie_sam::checkpoint::{StateDict, module_keys, write_safetensors};
use kirie_sam::model::SamConfig;
use serde_json::{Value, json};

use crate::common::{Place, fields};

const LINE: &str = "train semantic --threads 1";
const CLASSES: &str = "0\tground\n1\tdisc\n2\tbar\n";

/// A convolutional encoder of stride 8 and a decoder, as small as they can be.
const CONFIG: &str = r#"seed = 3

[model]
base = "kirie-small"
weights = "base.safetensors"
input = 32
method = { name = "adapt-former", hidden = 4 }

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
hold_out = { kind = "folds", folds = 3, fold = 0 }
batch = 2

[input]
crop = [32, 32]

[plan]
steps = 6
log_every = 1
checkpoint_every = 2
validate_every = 3

[plan.optimizer]
lr = 1e-2
rule = { kind = "adamw" }

[plan.schedule]
decay = { kind = "constant" }
"#;

const WIDTH: usize = 56;
const HEIGHT: usize = 44;

/// 0 ground (red), 1 a disc (green), 2 a bar (blue).
fn label(n: usize, x: usize, y: usize) -> u8 {
    let (cx, cy) = (14.0 + (n % 4) as f64 * 2.0, 16.0 + (n % 3) as f64);
    if (x as f64 - cx).hypot(y as f64 - cy) < 9.0 {
        return 1;
    }
    if (28..44).contains(&x) && (6 + n % 5..34).contains(&y) { 2 } else { 0 }
}

fn picture(n: usize) -> Image {
    let mut raw = Vec::new();
    for i in 0..WIDTH * HEIGHT {
        let (x, y) = (i % WIDTH, i / WIDTH);
        let strongest = usize::from(label(n, x, y));
        let texture = ((x * 31 + y * 17 + n * 7) % 30) as u8;
        raw.extend((0..3).map(|c| if c == strongest { 190 + texture } else { 60 + texture }));
    }
    Image::from_raw(WIDTH as u32, HEIGHT as u32, raw).unwrap()
}

fn mask(width: usize, height: usize, of: impl Fn(usize, usize) -> u8) -> Vec<u8> {
    let numbers: Vec<u8> = (0..width * height).map(|i| of(i % width, i / width)).collect();
    let palette: Vec<[u8; 3]> = (0..=255).map(|gray| [gray; 3]).collect();
    index_png(width as u32, height as u32, &numbers, &palette).unwrap()
}

fn draw(place: &Place, set: &str, split: &str, numbers: std::ops::Range<usize>) {
    place.write(&format!("{set}/classes.txt"), CLASSES);
    for n in numbers {
        let path = place.path(&format!("{set}/images/{split}/p{n}.png"));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        write_picture(path, &picture(n)).unwrap();
        place.write(&format!("{set}/masks/{split}/p{n}.png"), mask(WIDTH, HEIGHT, |x, y| label(n, x, y)));
    }
}

/// The base's tensors, by formula.
fn base(config: &Path) -> Vec<(String, HostTensor)> {
    let config = kirie_run::config::load::<Value>(Some(config), &[]).unwrap().value;
    let sizes: SamConfig = serde_json::from_value(config["model"]["sizes"].clone()).unwrap();
    let formula = StateDict::by_formula(module_keys(&sizes.init(&Device::flex())));
    formula.keys().map(|key| (key.to_owned(), formula.read(key).unwrap())).collect()
}

/// A set of six pictures to learn from and three to test on, a base, and a configuration.
fn place() -> Place {
    let place = Place::new();
    draw(&place, "set", "train", 0..6);
    draw(&place, "set", "test", 6..9);
    place.write("train.toml", CONFIG);
    let tensors = base(&place.path("train.toml"));
    write_safetensors(place.path("base.safetensors"), &tensors, &BTreeMap::new()).unwrap();
    place
}

const ADAPTER: &str = "run/adapter.safetensors";

#[test]
fn from_a_folder_to_a_model_in_use() {
    let place = place();

    // What would be done, without doing it.
    let before = place.files();
    let line = format!("{LINE} --config train.toml --dry-run");
    let told = place.run(&line).done().stdout;
    for words in [
        "3 classes, method adapt-former",
        "image_encoder, MLP_Adapter",
        "4 to learn from, 2 held out; 56 wide, 44 high",
        "crops of 32x32, 2 a batch",
        "ground",
        "estimate    6 steps of ",
        "3 validations",
        "nothing was written",
    ] {
        assert!(told.contains(words), "lacks `{words}`:\n{told}");
    }
    let plan = place.run(&format!("{line} --json")).done().json();
    assert_eq!(plan["data"]["classes"][1]["name"], json!("disc"));
    assert!(
        plan["estimate"]["seconds"].as_f64().unwrap() > 0.0
            && plan["input"]["macs_per_picture"].as_u64() > Some(0)
    );
    let parts = plan["parameters"]["parts"].as_array().unwrap();
    let sum = |trained: bool| -> u64 {
        parts
            .iter()
            .filter(|p| p["trained"] == json!(trained))
            .map(|p| p["parameters"].as_u64().unwrap())
            .sum()
    };
    assert_eq!(json!(sum(true)), plan["parameters"]["trained"]);
    assert_eq!(json!(sum(true) + sum(false)), plan["parameters"]["total"]);
    assert_eq!(place.files(), before);

    // A run.
    let answer = place.run(&format!("{LINE} --config train.toml --score test -o run --json")).done();
    let metrics = answer.json();
    assert_eq!((&metrics["steps"], &metrics["complete"]), (&json!(6), &json!(true)));
    assert_eq!(metrics["trained_parameters"], plan["parameters"]["trained"]);
    assert_eq!(metrics["adapter"], json!(ADAPTER));
    assert!(metrics["before"]["miou"].is_number() && metrics["best"]["iou.disc"].is_number());
    assert_eq!(place.json("run/metrics.json"), metrics);
    assert!(answer.stderr.contains("trained ") && answer.stderr.contains("frozen "), "{}", answer.stderr);
    let names = place.names("run");
    for name in ["config.toml", "log.jsonl", "report.html", "adapter.safetensors", "score.json", "score.html"]
    {
        assert!(names.iter().any(|n| n == name), "{name} is not among {names:?}");
    }
    let score = place.json("run/score.json");
    assert_eq!(metrics["score"]["miou"], score["miou"]);
    assert_eq!(metrics["score"]["miou_before"], score["miou_before"]);
    assert_eq!((&score["split"], score["pictures"].as_array().unwrap().len()), (&json!("test"), 3));

    // The same again from elsewhere, and the finished run asked once more.
    let mut command = place.command(&format!("{LINE} --config ../train.toml -o b"));
    fs::create_dir(place.path("elsewhere")).unwrap();
    let again = crate::common::Answer::of(command.current_dir(place.path("elsewhere"))).done();
    assert!(
        again.stdout.contains("mIoU") && again.stdout.contains("wrote b/adapter.safetensors"),
        "{}",
        again.stdout
    );
    let bytes = |name: &str| fs::read(place.path(name)).unwrap();
    assert_eq!(bytes("elsewhere/b/adapter.safetensors"), bytes(ADAPTER));
    assert_eq!(place.run(&format!("{LINE} --resume run --json")).done().json(), metrics);

    // Scored on its own, it has the score it had.
    let line =
        format!("evaluate semantic --threads 1 --adapter {ADAPTER} --weights base.safetensors --data set");
    let own = place.run(&format!("{line} --split test --json")).done().json();
    for name in ["miou", "pixel_accuracy", "classes"] {
        assert_eq!(own[name], score[name], "{name}");
    }
    assert!(own["seconds"].as_f64().unwrap() > 0.0);
    assert_eq!((&own["base"], &own["classes"][2]["name"]), (&json!("kirie-small"), &json!("bar")));
    place.refuses(&format!("{line} --split test --seams"), 2, &["--seams", "--window"]);
    let windows = "--split test --window 32 --stride 24 --flip --limit 2 -o report --predictions --seams";
    let told = place.run(&format!("{line} {windows}")).done().stdout;
    assert!(told.contains("disc") && told.contains("2 pictures of set, test"), "{told}");
    assert!(told.contains("of another class than in one piece"), "{told}");
    let seams = &place.json("report/metrics.json")["seams"];
    assert_eq!(fields(seams), ["added_at_borders", "added_elsewhere", "other_class"]);
    assert!((0.0..=1.0).contains(&seams["other_class"].as_f64().unwrap()), "{seams}");
    let names = place.names("report");
    for name in ["metrics.json", "report.html"] {
        assert!(names.iter().any(|n| n == name), "{names:?}");
    }
    assert_eq!(names.iter().filter(|name| name.starts_with("predictions/")).count(), 4);
    let mode = &place.json("report/metrics.json")["test"]["mode"];
    assert_eq!((&mode["window"], &mode["stride"]), (&json!([32, 32]), &json!([24, 24])));

    // What is in a picture.
    let line = format!("segment set/images/test/p7.png --semantic {ADAPTER} --weights base.safetensors");
    place.run(&format!("{line} -o out")).done();
    assert_eq!(place.names("out"), ["p7.classes.png", "p7.json", "p7.overlay.jpg"]);
    let map = read_index_map(place.path("out/p7.classes.png"), &Limits::default()).unwrap();
    assert_eq!((map.width, map.height), (WIDTH as u32, HEIGHT as u32));
    let record = place.json("out/p7.json");
    assert_eq!(fields(&record), ["image", "model", "method", "adapter", "classes"]);
    for (id, class) in record["classes"].as_array().unwrap().iter().enumerate() {
        let pixels = map.values.iter().filter(|value| usize::from(**value) == id).count();
        assert_eq!(class["pixels"], json!(pixels));
        if pixels > 0 {
            let rle: Rle = serde_json::from_value(class["segmentation"].clone()).unwrap();
            assert_eq!((rle.area(), rle.width()), (pixels as u64, WIDTH));
        }
    }
    let printed = place.run(&format!("{line} -o -")).done().json();
    assert_eq!(printed, record);
    place.run(&format!("{line} --window 40x32 --uniform -o tiled --format png")).done();
    assert_eq!(place.names("tiled"), ["p7.classes.png"]);

    // The file describes itself.
    let info = place.run(&format!("models info {ADAPTER} --json")).done().json();
    assert_eq!((&info["kind"], &info["classes"][1]["name"]), (&json!("adapter"), &json!("disc")));
    assert_eq!((&info["crop"], &info["steps"]), (&json!([32, 32]), &json!(6)));
    let told = place.run(&format!("models info {ADAPTER}")).done().stdout;
    assert!(told.contains("ground, disc, bar") && told.contains("adapt-former"), "{told}");
    place.refuses(
        &format!("models merge {ADAPTER} whole.safetensors --weights base.safetensors"),
        1,
        &["adapt-former", "cannot be merged"],
    );
}

#[test]
fn what_can_be_merged_needs_no_base() {
    let place = place();
    let line = format!("{LINE} --config train.toml --set plan.steps=3 -o run");
    let mut command = place.command(&line);
    let lora = r#"model.method={ name = "lora", rank = 2 }"#;
    crate::common::Answer::of(command.args(["--set", lora])).done();
    place.run(&format!("models merge {ADAPTER} whole.safetensors --weights base.safetensors")).done();
    let with = place
        .run(&format!("segment set/images/test/p6.png --semantic {ADAPTER} --weights base.safetensors -o -"));
    let without = place.run("segment set/images/test/p6.png --semantic whole.safetensors -o -");
    assert_eq!(with.done().json()["classes"], without.done().json()["classes"]);
    let info = place.run("models info whole.safetensors --json").done().json();
    assert_eq!((&info["kind"], &info["base_sha256"]), (&json!("merged"), &Value::Null));
    let twice = "segment set/images/test/p6.png --semantic whole.safetensors --weights base.safetensors -o x";
    place.refuses(twice, 2, &["holds all weights"]);
}

#[test]
#[cfg(unix)]
fn stopped_it_says_how_to_go_on_and_ends_the_same() {
    use std::process::{Command, Stdio};
    use std::time::Duration;

    let place = place();
    let begin = format!("{LINE} --config train.toml --set plan.steps=40 --set plan.validate_every=10");
    place.run(&format!("{begin} -o whole")).done();
    let mut command = place.command(&format!("{begin} -o run"));
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let logged = || {
        let text = fs::read_to_string(place.path("run/log.jsonl")).unwrap_or_default();
        text.lines().filter(|line| line.contains("\"loss\"")).count()
    };
    while logged() < 3 {
        std::thread::sleep(Duration::from_millis(2));
    }
    assert!(Command::new("kill").args(["-s", "TERM", &child.id().to_string()]).status().unwrap().success());
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(
        said.contains(" of 40 steps") && said.contains("`kirie train semantic --resume run` goes on"),
        "{said}"
    );
    assert!(!place.path(ADAPTER).exists());
    let first = place.json("run/metrics.json");
    assert_eq!((&first["complete"], &first["adapter"]), (&json!(false), &Value::Null));

    place.run(&format!("{LINE} --resume run")).done();
    let bytes = |name: &str| fs::read(place.path(name)).unwrap();
    assert_eq!(bytes(ADAPTER), bytes("whole/adapter.safetensors"));
    let [run, whole] = ["run", "whole"].map(|name| place.json(&format!("{name}/metrics.json")));
    assert_eq!((&run["best"], &run["best_step"]), (&whole["best"], &whole["best_step"]));
    if let (Some(first), Some(all)) = (first["cpu_seconds"].as_f64(), run["cpu_seconds"].as_f64()) {
        assert!(all > first, "the time of both processes counts: {all} and {first}");
    }

    // Weights that have become others since are not gone on with.
    let mut tensors = base(&place.path("train.toml"));
    tensors[0].1.values[0] += 1.0;
    write_safetensors(place.path("base.safetensors"), &tensors, &BTreeMap::new()).unwrap();
    place
        .run(&format!("{LINE} --resume run"))
        .expect(1, &["base.safetensors", "the configuration was made for"]);
}

#[test]
fn a_sweep_runs_every_combination_once() {
    let place = place();
    let sweep = r#"
base = "train.toml"
title = "two ways"
methods = ["decoder-only", { name = "thin", method = { name = "lora", rank = 1 } }]
inputs = [{ name = "half", crop_share = 0.6 }]
settings = { plan = { steps = 2 } }
"#;
    place.write("sweep.toml", sweep);
    let line = format!("{LINE} --sweep sweep.toml -o sweep");
    let before = place.files();
    let told = place.run(&format!("{LINE} --sweep sweep.toml --dry-run")).done().stdout;
    assert!(told.contains("set-thin-half-as-configured-s0") && told.contains("32x32"), "{told}");
    assert_eq!(place.files(), before);

    let answer = place.run(&line).done();
    for words in ["run 1 of 2: set-decoder-only-half-as-configured-s0", "run 2 of 2: set-thin-"] {
        assert!(answer.stderr.contains(words), "{}", answer.stderr);
    }
    assert!(
        answer.stdout.contains("set decoder-only half") && answer.stdout.contains("sweep.html"),
        "{}",
        answer.stdout
    );
    let result = place.json("sweep/sweep.json");
    let runs = result["runs"].as_array().unwrap();
    assert_eq!(runs.len(), 2);
    for run in runs {
        let name = run["name"].as_str().unwrap();
        assert_eq!(place.json(&format!("sweep/{name}/result.json"))["miou"], run["miou"]);
        let score = place.json(&format!("sweep/{name}/score.json"));
        assert_eq!((&score["split"], &score["miou"]), (&json!("test"), &run["miou"]));
        assert!(
            run["miou_before"].is_number() && run["cpu_seconds"].is_number()
                || cfg!(not(target_os = "linux"))
        );
        assert_eq!((&run["steps"], &run["settings"]["input"]["crop"]), (&json!(2), &json!([32, 32])));
    }
    assert!(runs[0]["trained_parameters"].as_u64() < runs[1]["trained_parameters"].as_u64());
    assert_eq!(fs::read_to_string(place.path("sweep/sweep.csv")).unwrap().lines().count(), 3);
    assert!(place.path("sweep/sweep.html").exists());

    // Again, it finds all of it done.
    let again = place.run(&format!("{line} --json")).done();
    assert_eq!(again.json(), result);
    assert!(!again.stderr.contains("run 1 of 2: "), "{}", again.stderr);

    // One that was lost is done again, from what is left of it; other settings are not taken for the same.
    let lost = "sweep/set-thin-half-as-configured-s0/result.json";
    fs::remove_file(place.path(lost)).unwrap();
    let answer = place.run(&line).done();
    assert!(
        answer.stderr.contains("run 2 of 2") && !answer.stderr.contains("run 1 of 2"),
        "{}",
        answer.stderr
    );
    assert!(place.path(lost).exists());
    place.run(&format!("{line} --set settings.plan.steps=3")).expect(1, &["result.json", "other settings"]);

    // A run that cannot be is told before the first one starts.
    place.write("bad.toml", sweep.replace("\"decoder-only\"", "\"samus\""));
    place.refuses(
        &format!("{LINE} --sweep bad.toml -o bad"),
        1,
        &["bad.toml, run set-samus-half", "`samus`"],
    );
    place.write("bad.toml", sweep.replace("title", "titel"));
    place.refuses(&format!("{LINE} --sweep bad.toml -o bad"), 1, &["bad.toml, line 3", "titel"]);
    place.write("bad.toml", sweep.replace("base = \"train.toml\"", ""));
    place.refuses(&format!("{LINE} --sweep bad.toml -o bad"), 1, &["bad.toml: expected base or sets"]);
}

#[test]
#[cfg(unix)]
fn a_sweep_that_is_asked_to_stop_leaves_the_rest_for_the_next_call() {
    use std::process::{Command, Stdio};
    use std::time::Duration;

    let place = place();
    place
        .write("sweep.toml", "base = \"train.toml\"\nseeds = [0, 1]\nsettings = { plan = { steps = 60 } }\n");
    let line = format!("{LINE} --sweep sweep.toml -o sweep");
    let mut command = place.command(&line);
    let child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let first = "sweep/set-as-configured-as-configured-as-configured-s0";
    let logged = || {
        let text = fs::read_to_string(place.path(first).join("log.jsonl")).unwrap_or_default();
        text.lines().filter(|line| line.contains("\"loss\"")).count()
    };
    while logged() < 3 {
        std::thread::sleep(Duration::from_millis(2));
    }
    // To the sweep alone: it has to pass it on.
    assert!(Command::new("kill").args(["-s", "TERM", &child.id().to_string()]).status().unwrap().success());
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(said.contains("2 runs are still to be done") && !said.contains("run 2 of 2"), "{said}");
    assert_eq!(place.json(&format!("{first}/metrics.json"))["complete"], json!(false));
    assert_eq!(place.json("sweep/sweep.json")["failed"], json!([]));

    let result = place.run(&format!("{line} --json --set settings.plan.steps=60")).done().json();
    assert_eq!(result["runs"].as_array().unwrap().len(), 2);
    assert_eq!(place.json(&format!("{first}/metrics.json"))["steps"], json!(60));
}

#[test]
fn bad_labels_are_named_before_anything_is_written() {
    let place = place();
    let line = format!("{LINE} --config train.toml -o run");
    let masked = "set/masks/train/p2.png";
    let good = fs::read(place.path(masked)).unwrap();

    place.write(masked, mask(WIDTH, HEIGHT, |x, y| if x == 3 { 7 } else { label(2, x, y) }));
    place.refuses(&line, 1, &["p2.png", "7"]);
    place.write(masked, mask(20, 20, |_, _| 1));
    place.refuses(&line, 1, &["p2.png", "20x20", "56x44"]);
    place.write(masked, "no picture");
    place.refuses(&line, 1, &["p2.png"]);
    place.write(masked, good);

    place.refuses(
        &format!("{line} --set input.crop=[64,64] --set input.pad=false"),
        1,
        &["crop of 64x64", "56x44"],
    );
    place.refuses(&format!("{line} --data nowhere"), 1, &["nowhere/set"]);
    place.refuses(&format!("{line} --score val"), 1, &["--score", "val"]);
    let merged = place.run(&format!("{line} --set data.merge.disk=bar"));
    merged.expect(1, &["data.merge", "disk", "ground, disc, bar"]);
    assert!(!place.path("run").exists());

    // A set of one picture, and one whose classes are not all there, can be learned from, with a word.
    draw(&place, "one", "train", 0..1);
    let one =
        place.run(&format!("{LINE} --config train.toml --set data.sets=[{{path=\"one\"}}] --dry-run")).done();
    assert!(
        one.stdout.contains("a single picture") && one.stdout.contains("no picture is held out"),
        "{}",
        one.stdout
    );
    place.write("set/classes.txt", format!("{CLASSES}3\tghost\n"));
    let ghost = place.run(&format!("{LINE} --config train.toml --dry-run")).done();
    assert!(ghost.stdout.contains("so it cannot be learned: ghost"), "{}", ghost.stdout);
}

#[test]
fn what_cannot_be_meant_is_refused() {
    let place = place();
    let line = format!("{LINE} --config train.toml");
    place.refuses(&line, 2, &["--output"]);
    place.refuses(&format!("{LINE} -o run"), 2, &["--config"]);
    place.refuses(&format!("{line} --sweep train.toml -o run"), 2, &["--sweep"]);
    place.refuses(&format!("{line} --resume run -o run"), 2, &["--resume"]);
    place.refuses(&format!("{line} -o run --set plan.stpes=3"), 1, &["--set plan.stpes=3: unknown field"]);
    place.refuses(&format!("{line} -o run --set model.method.name=sam"), 1, &["--set model.method.name=sam"]);
    place.refuses(&format!("{line} -o run --set model.base=kirie-huge"), 1, &["model.base", "kirie-huge"]);
    place.refuses(&format!("{line} -o run --set model.weights=none.safetensors"), 1, &["none.safetensors"]);
    place.refuses(
        &format!("{line} -o run --set data.sets=[{{path=\"set\",split=\"test\"}}]"),
        1,
        &["data.sets.split", "test"],
    );
    place.refuses(&format!("{LINE} --resume none"), 1, &["none"]);

    place.run(&format!("{line} --set plan.steps=1 -o run")).done();
    let metrics = place.json("run/metrics.json");
    place.run(&format!("{line} -o run")).expect(1, &["config.toml is there", "--resume continues it"]);
    assert_eq!(place.json("run/metrics.json"), metrics);

    // An adapter belongs to one base, and a model of another kind is none.
    let mut tensors = base(&place.path("train.toml"));
    tensors[0].1.values[0] += 1.0;
    write_safetensors(place.path("other.safetensors"), &tensors, &BTreeMap::new()).unwrap();
    let uses = [
        format!("evaluate semantic --adapter {ADAPTER} --data set --split test -o report"),
        format!("segment set/images/test --semantic {ADAPTER} -o out"),
    ];
    for line in &uses {
        place.refuses(
            &format!("{line} --weights other.safetensors"),
            1,
            &[ADAPTER, "was trained on `kirie-small`"],
        );
        place.refuses(line, 1, &[ADAPTER, "--weights says where"]);
        let wrong = line.replace(ADAPTER, "base.safetensors");
        place.refuses(&wrong, 1, &["base.safetensors is no usable adapter"]);
    }

    let segment = format!("segment set/images/test --semantic {ADAPTER} --weights base.safetensors");
    for prompt in ["--point 3,4", "--box 1,2,9,9", "--everything", "--model sam-vit-b", "--multimask"] {
        place.refuses(&format!("{segment} {prompt} -o out"), 2, &["--semantic"]);
    }
    place.refuses(&format!("{segment} --format yolo -o out"), 2, &["yolo is for objects"]);
    place.refuses(&format!("{segment} --format png -o -"), 2, &["choose json"]);
    place.refuses(&format!("{segment} -o out.json"), 2, &["into a folder"]);
    place.refuses(&format!("{segment} --window 32 --stride 33 -o out"), 2, &["test.mode.stride"]);
    place.refuses(&format!("{segment} --window 8 -o out"), 2, &["test.mode.window"]);
    place.refuses(&format!("{segment} --stride 8 -o out"), 2, &["--window"]);
    place.refuses("segment set/images/test --everything --window 32 -o out", 2, &["are for --semantic"]);

    // A picture that is none costs no other.
    place.write("set/images/test/broken.png", "no picture");
    let answer = place.run(&format!("{segment} --format json -o out"));
    answer.expect(1, &["broken.png", "1 of 4 pictures failed"]);
    assert_eq!(place.names("out"), ["p6.json", "p7.json", "p8.json"]);

    // A set of other classes.
    draw(&place, "more", "test", 6..7);
    place.write("more/classes.txt", format!("{CLASSES}3\tghost\n"));
    let line = format!("evaluate semantic --adapter {ADAPTER} --weights base.safetensors --data more");
    place.refuses(&line, 1, &["ghost"]);
    place.run(&format!("{line} --merge ghost=ignore")).done();
    place.refuses(&format!("{line} --merge ghost"), 2, &["CLASS=OTHER"]);
    place.refuses(&line.replace("--data more", "--data set --split val"), 1, &["val"]);
}
