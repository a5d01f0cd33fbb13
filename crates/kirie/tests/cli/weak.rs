//! `train weak` and `evaluate weak` on drawn pictures: what they write and say, what they refuse, and that a run that was killed ends
//! as if nothing had been.

use std::fmt::Write as _;
use std::fs;
use std::process::Stdio;
use std::thread::sleep;
use std::time::{Duration, Instant};

use kirie_data::Image;
use kirie_data::write::write_picture;
use serde_json::json;

use crate::common::Place;

/// The stages that take little time.
const LINE: &str = "train weak --threads 1 --stage classifier --stage proposals";
const ALONE: &str = "train weak --threads 1";
const PROPOSALS: &str = "stage-2-proposals/proposals.json";

const CONFIG: &str = r#"
[data]
path = "set"
others = ["test"]

[classifier]
batch = 2
validate_one_in = 0
model = { stem = { kind = "patches", size = 8 }, input = 64, dim = 16, depth = 1, heads = 2 }

[classifier.plan]
steps = 4
checkpoint_every = 1

[classifier.plan.optimizer]
lr = 1e-2
rule = { kind = "adamw" }

[classifier.plan.schedule]
warmup = 0
decay = { kind = "constant" }

[proposals]
grid = { points = 3 }
maps = { scales = [1.0] }
"#;

/// Six pictures of a bright disc or bar, two of them the part `test`.
fn place() -> Place {
    let place = Place::new();
    place.write("weak.toml", CONFIG);
    place.write("set/classes.txt", "0\tdisc\n1\tbar\n");
    let (mut train, mut test) = (String::new(), String::new());
    for n in 0..6_u32 {
        let (x0, y0) = (6 + 4 * n, 8 + 2 * n);
        let inside = |x: u32, y: u32| match n % 2 {
            0 => (f64::from(x) - f64::from(x0) - 12.0).hypot(f64::from(y) - f64::from(y0) - 12.0) < 12.0,
            _ => (x0..x0 + 10).contains(&x) && (y0..y0 + 30).contains(&y),
        };
        let pixel = |i: u32| if inside(i % 64, i / 64) { [230, 220, 90] } else { [40, 60, (i % 50) as u8] };
        let raw = (0..64 * 56).flat_map(pixel).collect();
        let path = place.path(&format!("set/images/p{n}.png"));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        write_picture(path, &Image::from_raw(64, 56, raw).unwrap()).unwrap();
        let (class, x1, y1) = if n % 2 == 0 { ("disc", x0 + 24, y0 + 24) } else { ("bar", x0 + 10, y0 + 30) };
        let bndbox =
            format!("<xmin>{}</xmin><ymin>{}</ymin><xmax>{x1}</xmax><ymax>{y1}</ymax>", x0 + 1, y0 + 1);
        let object = format!("<object><name>{class}</name><bndbox>{bndbox}</bndbox></object>");
        place.write(&format!("set/annotations/p{n}.xml"), format!("<annotation>{object}</annotation>"));
        let _ = writeln!(if n < 4 { &mut train } else { &mut test }, "p{n}");
    }
    place.write("set/train.txt", train);
    place.write("set/test.txt", test);
    place
}

#[test]
fn from_labels_to_proposals_and_their_recall() {
    let place = place();
    let answer = place.run(&format!("{LINE} --config weak.toml -o run --json")).done();
    let outcome = answer.json();
    assert_eq!(outcome["stages"][0]["stage"], json!("classifier"));
    assert_eq!(outcome["stages"][1]["figures"]["pictures"], json!(4));
    assert_eq!(place.json("run/metrics.json"), outcome);
    let proposals = place.json(&format!("run/{PROPOSALS}"));
    assert_eq!(proposals["classes"], json!(["disc", "bar"]));
    assert_eq!(proposals["images"][1]["labels"], json!(["bar"]));
    let test = place.json("run/stage-2-proposals/proposals-test.json");
    assert_eq!(
        (&test["images"][0]["file"], &test["images"][0]["labels"]),
        (&json!("images/p4.png"), &json!([]))
    );
    for name in ["config.toml", "stage-1-classifier/report.html", "stage-2-proposals/report.html"] {
        assert!(place.path("run").join(name).is_file(), "{name}");
    }

    // Another run of the same settings takes over what is done; of others it does not.
    let reuse = "--reuse run --stage classifier --stage proposals --config weak.toml";
    let second = place.run(&format!("{ALONE} {reuse} -o second")).done();
    assert!(second.stderr.contains("proposals: the same as in run"), "{}", second.stderr);
    assert_eq!(place.json(&format!("second/{PROPOSALS}")), proposals);
    place.refuses(&format!("{ALONE} {reuse} --reuse nowhere -o third"), 1, &["nowhere"]);

    // Done is done; a changed setting does again what depends on it.
    let again = place.run(&format!("{LINE} --resume run")).done();
    assert!(again.stderr.contains("proposals: done before"), "{}", again.stderr);
    let one =
        place.run(&format!("{ALONE} --resume run --stage proposals --set proposals.min_side=20")).done();
    assert!(one.stderr.contains("made anew"), "{}", one.stderr);
    assert!(!one.stdout.contains("classifier"), "{}", one.stdout);

    let line = "evaluate weak run --threads 1";
    // The run's own proposals as somebody else's, and those of another part.
    let own = format!("--proposals run/{PROPOSALS}");
    let recall = place.run(&format!("{line} --search {own} -o out --json")).done().json();
    assert_eq!(recall["recall"][0]["recall"]["boxes"], json!(4));
    let rows = recall["recall"].as_array().unwrap();
    let names: Vec<&str> = rows.iter().rev().take(4).map(|row| row["proposals"].as_str().unwrap()).collect();
    assert_eq!(names, ["proposals, as many", "proposals", "selective search, as many", "selective search"]);
    assert_eq!(rows[rows.len() - 1]["recall"]["best"], rows[0]["recall"]["best"]);
    assert_eq!(recall["masks"], json!(null));
    place.refuses(&format!("{line} --proposals run/stage-2-proposals/proposals-test.json"), 1, &["images/p"]);
    assert_eq!(place.json("out/metrics.json"), recall);
    assert!(place.path("out/report.html").is_file());
    let told = place.run(&format!("{line} --split test")).done().stdout;
    assert!(told.contains("a picture") && told.contains("grid"), "{told}");
    place.refuses(&format!("{line} --split val"), 1, &["val"]);
}

#[test]
fn a_killed_run_ends_as_if_nothing_had_been() {
    let place = place();
    place.run(&format!("{LINE} --config weak.toml -o whole")).done();
    let whole = fs::read(place.path(&format!("whole/{PROPOSALS}"))).unwrap();
    // Killed once something of a stage is there, and again in the next one.
    let mut command = place.command(&format!("{LINE} --config weak.toml -o run"));
    for sign in ["stage-1-classifier/checkpoints/step-1", "stage-2-proposals/proposals.parts.jsonl"] {
        let mut running = command.stderr(Stdio::null()).spawn().unwrap();
        let began = Instant::now();
        while !place.path("run").join(sign).exists()
            && running.try_wait().unwrap().is_none()
            && began.elapsed() < Duration::from_mins(2)
        {
            sleep(Duration::from_millis(5));
        }
        let _ = running.kill();
        running.wait().unwrap();
        command = place.command(&format!("{LINE} --resume run"));
    }
    place.run(&format!("{LINE} --resume run")).done();
    assert_eq!(fs::read(place.path(&format!("run/{PROPOSALS}"))).unwrap(), whole);
}

#[test]
fn what_cannot_be_is_refused_before_anything_is_written() {
    let place = place();
    let line = format!("{LINE} --config weak.toml -o run");
    place.refuses(&format!("{line} --set classifier.steps=3"), 1, &["unknown field `steps`"]);
    place.refuses(&format!("{line} --set proposals.cross_nms=7"), 1, &["proposals.cross_nms", "0 to 1"]);
    place.refuses(&format!("{line} --set data.path=nowhere"), 1, &["nowhere"]);
    place.refuses(&format!("{line} --set data.classes=[\"cow\"]"), 1, &["cow", "disc"]);
    place.write("labels.csv", "file,labels\nimages/p0.png,disc\nimages/gone.png,bar\n");
    let csv = format!("{line} --set data.labels={{kind=\"csv\",path=\"labels.csv\"}}");
    place.refuses(&csv, 1, &["labels.csv", "images/gone.png"]);
    place.refuses(&format!("{line} --stage painting"), 2, &["classifier, proposals, detector"]);
    place.refuses("train weak", 2, &["--config"]);
    place.refuses(&format!("{line} --dry-run"), 2, &["--dry-run", "--config"]);
    place.refuses(&format!("{line} --sweep weak.toml"), 2, &["--sweep"]);
    place.refuses("train weak --resume nowhere", 1, &["nowhere", "holds no run"]);
    place.refuses("evaluate weak nowhere", 1, &["nowhere"]);
}

#[test]
fn a_sweep_says_what_it_would_do() {
    let place = place();
    let sweep = r#"
base = "weak.toml"
seeds = [0, 4]

[settings.detector.plan]
steps = 30

[[runs]]
name = "oicr"
scored = "detector"
detector.weak = "oicr"

[[runs]]
name = "top"
pseudo.rule = { kind = "top", count = 1 }

[[runs]]
name = "true"
scored = "true-boxes"
"#;
    place.write("sweep.toml", sweep);
    let line = "train weak --threads 1 --sweep sweep.toml";
    let told = place.run(&format!("{line} --dry-run --json")).done().json();
    assert_eq!(told["runs"].as_array().unwrap().len(), 6);
    assert_eq!(told["runs"][5], json!({ "name": "true", "scored": "true-boxes", "seed": 4 }));
    // OICR's detector and MIST's, for two seeds; retraining on pseudo boxes and on true ones.
    assert_eq!(told["work"][2], json!({ "stage": "detector", "times": 4, "steps": 120 }));
    assert_eq!(told["work"][4]["times"], json!(4));
    let text = place.run(&format!("{line} --dry-run")).done().stdout;
    assert!(text.contains("true-s4") && text.contains("dry run"), "{text}");
    place.refuses(line, 2, &["--output"]);
    place.refuses(&format!("{line} --set score=val -o out"), 1, &["data.others"]);
    place.refuses(&format!("{line} --set settings.data.path=nowhere -o out"), 1, &["nowhere"]);
    assert!(!place.path("out").exists());
}
