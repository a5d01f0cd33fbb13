//! `kirie train contrastive` and `kirie evaluate contrastive`: from pictures without labels to figures, whatever comes between.

use std::fs;
use std::process::Stdio;
use std::time::Duration;

use kirie_data::Image;
use kirie_data::write::{PictureFormat, encode_picture};
use kirie_sam::checkpoint::StateDict;
use serde_json::{Value, json};

use crate::common::Place;

const CONFIG: &str = r#"
encoder = { kind = "resnet", depth = 18, width = 2, stem = "cifar" }
method = { kind = "simclr", temperature = 0.2, output = 8 }
data = { sets = [{ path = "set" }], batch = 3 }
regions = { source = { kind = "grid", rows = 2, columns = 2 }, min_area = 0 }
views = { size = 16 }

[plan]
steps = 4
checkpoint_every = 2
log_every = 1
schedule = { decay = { kind = "cosine" } }
optimizer = { rule = { kind = "sgd", momentum = 0.9 }, lr = 0.02 }
"#;
const TRAIN: &str = "train contrastive --threads 1 --config c.toml";

fn picture(width: u32, height: u32, colour: impl Fn(u32, u32) -> [u8; 3]) -> Vec<u8> {
    let raw = (0..width * height).flat_map(|i| colour(i % width, i / width)).collect();
    encode_picture(&Image::from_raw(width, height, raw).unwrap(), PictureFormat::Png).unwrap()
}

/// Drawn pictures `set/`, two classes in two parts `classes/`, and the configuration `c.toml`.
fn place() -> Place {
    let place = Place::new();
    place.write("c.toml", CONFIG);
    for n in 0..4_u32 {
        let disc = |x: u32, y: u32| {
            let (dx, dy) = (f64::from(x) - 30.0 - f64::from(n) * 4.0, f64::from(y) - 35.0);
            if dx.hypot(dy) < 22.0 { [220, 40 + 30 * n as u8, 30] } else { [30, 60, (x % 9) as u8 * 4] }
        };
        place.write(&format!("set/p{n}.png"), picture(96, 72, disc));
    }
    for part in ["train", "test"] {
        for (class, strong) in [("blue", 2), ("red", 0)] {
            for n in 0..6_u32 {
                let shade = |x: u32, y: u32| {
                    let noise = ((x * 7 + y * 13 + n * 29) % 50) as u8;
                    std::array::from_fn(|c| if c == strong { 190 + noise } else { 20 + noise })
                };
                place.write(&format!("classes/{part}/{class}/{part}{n}.png"), picture(20, 16, shade));
            }
        }
    }
    place
}

#[test]
fn from_pictures_without_labels_to_figures() {
    let place = place();
    let answer = place.run(&format!("{TRAIN} -o run --json")).done();
    let summary = answer.json();
    assert_eq!(
        (&summary["steps"], &summary["complete"], &summary["views"]),
        (&json!(4), &json!(true), &json!(24))
    );
    assert_eq!(summary["regions"]["kept"], json!(16));
    assert!(summary["training"]["loss"].as_f64().unwrap() > 0.0);
    for file in ["config.toml", "log.jsonl", "metrics.json", "report.html", "encoder.safetensors"] {
        assert!(place.path("run").join(file).is_file(), "{file}");
    }
    // Names that torchvision loads.
    let weights = StateDict::open(place.path("run/encoder.safetensors")).unwrap();
    assert_eq!(weights.shape("conv1.weight"), Some(&[2, 3, 3, 3][..]));
    assert!(weights.shape("layer4.1.bn2.running_var").is_some());

    let line = "evaluate contrastive --data classes --threads 1 --k 2,3 --shares 34,100 --epochs 5";
    let found =
        place.run(&format!("{line} --encoder run/encoder.safetensors -o report --json")).done().json();
    assert_eq!(found["pictures"], json!([12, 12]));
    assert_eq!(found["protocol"]["size"], json!(16), "that of training");
    let shares = found["by_share"].as_array().unwrap();
    assert_eq!((shares.len(), &shares[0]["labels"], &shares[1]["labels"]), (2, &json!(4), &json!(12)));
    assert_eq!(
        (&shares[0]["k"], &shares[1]["k"], &shares[1]["diverged"]),
        (&json!(2), &json!(3), &Value::Null)
    );
    assert!(shares[1]["knn"][0].as_f64().unwrap() > 0.9, "{found:#}");
    assert_eq!(place.json("report/metrics.json"), found);
    let page = fs::read_to_string(place.path("report/report.html")).unwrap();
    assert!(page.contains("<image ") && page.contains("blue"), "the map shows pictures and classes");

    // What it has to be held against, and the same figures for people; and a map.
    let map = "--plot maps/map.html --perplexity 3";
    let before = place.run(&format!("{line} --config run/config.toml --calibrate 3 {map}")).done();
    let page = fs::read_to_string(place.path("maps/map.html")).unwrap();
    assert_eq!(page.matches("tabindex").count(), 12);
    let table = fs::read_to_string(place.path("maps/map.csv")).unwrap();
    assert_eq!((table.lines().count(), table.lines().next()), (13, Some("picture,class,x,y")));
    assert!(table.contains(",blue,") && table.contains(",red,"), "{table}");
    place.run(&format!("{line} --config run/config.toml --calibrate 3 {map}")).done();
    assert_eq!(fs::read_to_string(place.path("maps/map.csv")).unwrap(), table, "the same seed, the same map");
    assert!(
        before.stdout.contains("before training, norms by 3 batches")
            && before.stdout.contains("temperature 0.1"),
        "{}",
        before.stdout
    );
    let other = place.run(&format!("{line} --encoder run/encoder.safetensors --network resnet18"));
    other.expect(1, &["of the wrong shape"]);
    // Trained weights go on.
    let line = format!("{TRAIN} --init-encoder run/encoder.safetensors --set plan.steps=1 -o more");
    place.run(&line).done();
}

/// Killed while a model looks for regions: what was found is kept, and in the end all is as if nothing had happened.
#[test]
fn regions_survive_being_killed_and_rotting() {
    let place = place();
    let model = format!(
        "{TRAIN} --set regions.source={{kind=\"model\",points_per_side=4,pred_iou_thresh=0.0,stability_score_thresh=0.0}}"
    );
    place.run(&format!("{model} --set regions.cache=whole --preview whole.html")).done();
    let masks = |folder: &str| -> Vec<(String, Vec<u8>)> {
        let names = place.names(folder).into_iter();
        names.map(|name| (name.clone(), fs::read(place.path(folder).join(name)).unwrap())).collect()
    };
    let whole = masks("whole");
    assert_eq!(whole.len(), 5, "four pictures and the settings");
    for kill in 0..4_u64 {
        let mut command = place.command(&format!("{model} --set regions.cache=cut --preview cut.html"));
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let wanted = 1 + kill as usize;
        // Files that are being written have other names.
        let finished =
            || place.names("cut").iter().filter(|name| whole.iter().any(|(w, _)| w == *name)).count();
        while child.try_wait().unwrap().is_none() && finished() < wanted {
            std::thread::sleep(Duration::from_millis(1));
        }
        std::thread::sleep(Duration::from_micros(kill * 7919 % 50 * 400));
        let _ = child.kill();
        child.wait().unwrap();
    }
    let count: Value =
        place.run(&format!("{model} --set regions.cache=cut --preview cut.html --json")).done().json();
    assert!(count["made"].as_u64().unwrap() < 4, "what was found was kept: {count}");
    // A file that was being written when it was killed may lie beside; the others are the same.
    for entry in &whole {
        assert!(masks("cut").contains(entry), "{}", entry.0);
    }
    // Cut off in the middle, it is made anew.
    let (name, content) = whole.iter().find(|(name, _)| !name.ends_with("settings.json")).unwrap();
    fs::write(place.path("cut").join(name), &content[..content.len() / 2]).unwrap();
    let count =
        place.run(&format!("{model} --set regions.cache=cut --preview cut.html --json")).done().json();
    assert_eq!((&count["made"], &count["damaged"]), (&json!(1), &json!(1)));
    assert_eq!(fs::read(place.path("cut").join(name)).unwrap(), *content);
    let page = fs::read_to_string(place.path("cut.html")).unwrap();
    assert_eq!(page.matches("<img ").count(), 8, "regions and views of four pictures");
}

#[test]
fn the_rate_of_views_is_told() {
    let place = place();
    let line = "bench views --threads 1 --repeat 3 --config c.toml";
    let found = place.run(&format!("{line} --json")).done().json();
    assert_eq!(
        (&found["views_per_batch"], &found["threads"], &found["pictures"]),
        (&json!(6), &json!(1), &json!(4))
    );
    let rate = found["rate_per_thread"].as_f64().unwrap();
    assert!((rate - 6.0 / found["seconds"]["median"].as_f64().unwrap()).abs() < 1e-6 * rate, "{found:#}");
    let told = place.run(&format!("{line} --set views.size=24")).done().stdout;
    assert!(told.contains("views of 24 pixels") && told.contains("views/s"), "{told}");
    place.refuses("bench views", 2, &["--config"]);
    place.refuses("bench encoder --model kirie-small --config c.toml", 2, &["--config is for bench views"]);
    place.refuses("bench views --data x", 2, &["--config"]);
}

#[test]
fn a_killed_run_goes_on() {
    let place = place();
    place.run(&format!("{TRAIN} --set plan.steps=30 -o whole")).done();
    let mut command = place.command(&format!("{TRAIN} --set plan.steps=30 -o cut"));
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    while child.try_wait().unwrap().is_none() && !place.path("cut/checkpoints/latest").exists() {
        std::thread::sleep(Duration::from_millis(1));
    }
    let _ = child.kill();
    child.wait().unwrap();
    place.run("train contrastive --threads 1 --resume cut").done();
    let read = |run: &str| fs::read(place.path(run).join("encoder.safetensors")).unwrap();
    assert!(read("whole") == read("cut"), "weights differ");
}

const SWEEP: &str = r#"
title = "drawn pictures"
baselines = ["untrained", "pixels"]
methods = [{ name = "simclr", config = "c.toml" }]
sources = [
    { name = "whole", source = { kind = "whole" } },
    { name = "grid", source = { kind = "grid", rows = 2, columns = 2 } },
]
settings = { plan = { steps = 2 } }

[evaluate]
sets = [{ name = "drawn", path = "classes" }]
shares = [34, 100]
k = [3]
epochs = 5
standardise = true
calibrate = 2
"#;

#[test]
fn a_sweep_trains_and_judges_every_combination_once() {
    let place = place();
    place.write("sweep.toml", SWEEP);
    let line = "train contrastive --threads 1 --sweep sweep.toml";
    let before = place.files();
    let told = place.run(&format!("{line} --dry-run")).done().stdout;
    assert!(told.contains("simclr-grid-s0") && told.contains("4 runs, each judged on drawn"), "{told}");
    assert_eq!(place.files(), before);

    let told = place.run(&format!("{line} -o sweep")).done().stdout;
    assert!(told.contains("gains are over views from \"whole\"") && told.contains("sweep.html"), "{told}");
    let result = place.json("sweep/sweep.json");
    let runs = result["runs"].as_array().unwrap();
    let names: Vec<&str> = runs.iter().map(|run| run["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["untrained-s0", "pixels-s0", "simclr-whole-s0", "simclr-grid-s0"]);
    for run in runs {
        let shares = run["sets"][0]["by_share"].as_array().unwrap();
        assert_eq!(
            (&shares[0]["labels"], &shares[1]["labels"], &shares[1]["k"]),
            (&json!(4), &json!(12), &json!(3))
        );
        assert!((0.0..=1.0).contains(&shares[1]["knn"][0].as_f64().unwrap()), "{run:#}");
    }
    // Two classes of colours: their pixels alone tell them apart.
    assert_eq!(runs[1]["sets"][0]["by_share"][1]["knn"][0], json!(1.0));
    assert_eq!(
        (&runs[1]["steps"], &runs[3]["steps"], &runs[3]["regions"]["kept"]),
        (&json!(0), &json!(2), &json!(16))
    );
    assert_eq!(fs::read_to_string(place.path("sweep/sweep.csv")).unwrap().lines().count(), 1 + 4 * 2);
    let page = fs::read_to_string(place.path("sweep/sweep.html")).unwrap();
    assert!(page.contains("drawn pictures") && page.contains("drawn, 34 % of its labels"));

    // A run whose result is lost is judged again, and the others are left as they are.
    let files = place.files();
    fs::remove_file(place.path("sweep/simclr-grid-s0/result.json")).unwrap();
    place.run(&format!("{line} -o sweep")).done();
    let again = place.json("sweep/sweep.json");
    assert_eq!(again["runs"][3]["sets"], runs[3]["sets"]);
    let other = "sweep/simclr-whole-s0/encoder.safetensors";
    assert_eq!(place.files()[other], files[other]);
    // Another evaluation is another sweep.
    place
        .run(&format!("{line} --set evaluate.rate=0.2 -o sweep"))
        .expect(1, &["untrained (views from nothing, seed 0) with other settings"]);
    place.write("bad.toml", SWEEP.replace("kind = \"whole\"", "kind = \"hole\""));
    place.refuses("train contrastive --sweep bad.toml -o bad", 1, &["bad.toml", "hole"]);
}

#[test]
fn bad_input_is_told_and_leaves_nothing() {
    let place = place();
    for (set, words) in [
        ("data.batch=5", &["there are 4 pictures, expected at least 5"][..]),
        ("data.bach=5", &["--set data.bach=5", "unknown field"]),
        ("views.recipe=byol", &["--set views.recipe=byol", "samclr"]),
        ("method.temperature=0", &["method.temperature is 0, expected a number above 0"]),
        ("data.sets=[{path=\"classes\",split=\"test\"}]", &["a test list is for the final score"]),
        ("regions.source={kind=\"model\",model=\"nothing\"}", &["nothing"]),
        ("encoder={kind=\"sam\",model=\"sam-vit-b\"}", &["encoder.model is sam-vit-b"]),
    ] {
        let answer = place.run(&format!("{TRAIN} --set {set} -o run"));
        assert!(matches!(answer.code, Some(1 | 2)), "{set}: {answer:?}");
        answer.expect(answer.code.unwrap(), words);
        assert!(!place.path("run").exists(), "{set} left a run");
    }
    place.write("broken.safetensors", "no tensors");
    for (line, code, words) in [
        ("--encoder broken.safetensors --data classes", 1, &["broken.safetensors"][..]),
        ("--config c.toml --data set", 1, &["set"]),
        ("--config c.toml --data classes --train test", 2, &["--train and --test name the same part"]),
        ("--config c.toml --data classes --shares 0", 2, &["--shares 0"]),
        (
            "--config c.toml --data classes --shares 1,10,100 --k 20,200",
            2,
            &["--k has 2 numbers", "3 --shares"],
        ),
        ("--config c.toml --data classes --temperature nan", 2, &["--temperature"]),
        ("--data classes", 2, &["--encoder"]),
        ("--config c.toml --data classes --perplexity 5", 2, &["--plot"]),
        ("--config c.toml --data classes --plot map.csv", 2, &["--plot names the page"]),
        ("--config c.toml --data classes --plot map.html --perplexity 0", 2, &["--perplexity"]),
        ("--data classes --projection 1 --config c.toml", 2, &["--projection"]),
        ("--data classes --projection 1 --calibrate 5", 2, &["--projection", "--calibrate"]),
    ] {
        place.refuses(&format!("evaluate contrastive {line}"), code, words);
    }
}
