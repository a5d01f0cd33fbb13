//! `train continual` and `evaluate continual` on drawn domains with the model inside the program: what they write and say, what they
//! refuse, and that a run that was killed ends as if nothing had been.

use std::fs;
use std::time::{Duration, Instant};

use kirie_data::Image;
use kirie_data::write::{index_png, write_picture};
use serde_json::json;

use crate::common::Place;

const LINE: &str = "train continual --threads 1";

const CONFIG: &str = r#"
strategies = ["naive", "moda"]
[adapter]
decoder = "hq"
[data]
hold_out = 4
domains = [{ name = "discs", path = "discs" }, { name = "bars", path = "bars", foreground = ["thing"] }]
[augment]
views = 1
[train]
batch = 2
[router]
steps = 20
[exemplars]
count = 3
[plan]
steps = 3
log_every = 1
checkpoint_every = 1
[plan.optimizer]
lr = 1e-4
rule = { kind = "adam" }
[plan.schedule]
decay = { kind = "constant" }
"#;

/// Two domains that nobody would mix up.
fn place() -> Place {
    let place = Place::new();
    for (name, dark) in [("discs", true), ("bars", false)] {
        place.write(&format!("{name}/classes.txt"), "0\tbackground\n1\tthing\n");
        for (part, count) in [("train", 5), ("test", 2)] {
            for n in 0..count {
                let inside = |x: usize, y: usize| {
                    let (dx, dy) = (x.abs_diff(20 + 3 * n), y.abs_diff(16 + 2 * n));
                    if dark { dx * dx + dy * dy < 80 } else { dx < 4 && dy < 12 }
                };
                let (mut raw, mut labels) = (Vec::new(), Vec::new());
                for i in 0..48 * 40_usize {
                    let on = inside(i % 48, i / 48);
                    let texture = (i * 31 % 23) as u8;
                    raw.extend(match (dark, on) {
                        (true, true) => [220, 210, 190 + texture],
                        (true, false) => [40 + texture, 10, 10],
                        (false, true) => [10, 20, 30 + texture],
                        (false, false) => [160, 180, 200 + 30 * u8::from(i % 4 < 2)],
                    });
                    labels.push(u8::from(on));
                }
                let path = place.path(&format!("{name}/images/{part}/p{n}.png"));
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                write_picture(path, &Image::from_raw(48, 40, raw).unwrap()).unwrap();
                let palette: Vec<[u8; 3]> = (0..=255).map(|gray| [gray; 3]).collect();
                let mask = index_png(48, 40, &labels, &palette).unwrap();
                place.write(&format!("{name}/masks/{part}/p{n}.png"), mask);
            }
        }
    }
    place.write("stream.toml", CONFIG);
    place
}

#[test]
fn from_domains_to_answers_and_over_a_kill() {
    let place = place();
    let answer = place.run(&format!("{LINE} --config stream.toml -o whole --json")).done();
    let outcome = answer.json();
    assert_eq!(outcome["complete"], json!(true));
    assert_eq!(outcome["runs"][1]["strategy"], json!("moda"));
    assert_eq!(outcome["runs"][1]["routing_accuracy"], json!(1.0), "{outcome:#}");
    let names = place.names("whole");
    for name in [
        "config.toml",
        "metrics.json",
        "report.html",
        "scores.csv",
        "strategies.csv",
        "runs/naive-given-s0/summary.json",
        "runs/moda-given-s0/steps/01-bars/domain/adapter.safetensors",
        "runs/moda-given-s0/steps/01-bars/domain/router.safetensors",
        "runs/moda-given-s0/steps/01-bars/domain/exemplars.safetensors",
        "runs/moda-given-s0/steps/01-bars/domain/domain.toml",
    ] {
        assert!(names.iter().any(|n| n == name), "{name} is not among {names:?}");
    }
    assert!(!names.iter().any(|name| name.contains("checkpoints")), "{names:?}");

    told_again(&place, &outcome["report"]);

    // The domains at work on a set.
    let line = "evaluate continual --threads 1 --domains whole/runs/moda-given-s0 --data bars --expect bars";
    let measured = place.run(&format!("{line} --json")).done().json();
    assert_eq!((&measured["pictures"], &measured["routed"]), (&json!(2), &json!({ "bars": 2 })));
    assert_eq!(measured["domains"], json!(["discs", "bars"]));
    assert_eq!(measured["scores"], measured["expected"]);
    let run = &outcome["runs"][1]["rows"][1]["sets"][1]["scores"]["box"]["iou"];
    let difference = (run.as_f64().unwrap() - measured["scores"]["box"]["iou"].as_f64().unwrap()).abs();
    assert!(difference < 1e-6, "{run} {measured:#}");
    let told = place.run(line).done().stdout;
    assert!(told.contains("answered by bars: 2") && told.contains("base alone"), "{told}");

    // A damaged file is named and costs its domain alone.
    let damaged = place.path("whole/runs/moda-given-s0/steps/00-discs/domain/adapter.safetensors");
    let bytes = fs::read(&damaged).unwrap();
    fs::write(&damaged, &bytes[..bytes.len() / 3]).unwrap();
    let answer = place.run(&format!("{line} --json")).done();
    assert!(answer.stderr.contains("00-discs/domain is left out:"), "{}", answer.stderr);
    assert_eq!(answer.json()["domains"], json!(["bars"]));
    fs::write(&damaged, &bytes).unwrap();

    registry_at_work(&place);

    // Killed in the middle of a domain, and gone on with.
    let mut child = place.command(&format!("{LINE} --config stream.toml -o cut")).spawn().unwrap();
    let waited = Instant::now();
    let inside = place.path("cut/runs/naive-given-s0/steps/01-bars/training/checkpoints/latest");
    while !inside.exists() && child.try_wait().unwrap().is_none() {
        assert!(waited.elapsed() < Duration::from_mins(5));
        std::thread::sleep(Duration::from_millis(20));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let resumed = place.run(&format!("{LINE} --resume cut")).done().stdout;
    assert!(resumed.contains("moda") && resumed.contains("wrote "), "{resumed}");
    let scores = |run: &str| fs::read_to_string(place.path(&format!("{run}/scores.csv"))).unwrap();
    assert_eq!(scores("cut"), scores("whole"));
    // Asked again, it has nothing to do.
    let again = place.run(&format!("{LINE} --resume cut --json")).done().json();
    assert_eq!(again["complete"], json!(true));
}

/// A finished study is told from its files, and the domains of its run of moda are told apart in another way.
fn told_again(place: &Place, report: &serde_json::Value) {
    let strategies = report["strategies"].as_array().unwrap();
    assert_eq!(strategies.len(), 4, "two strategies, by box and by points");
    assert_eq!(report["verdicts"].as_array().unwrap().len(), 2 * 4 + 1, "{report:#}");
    let again = place.run("evaluate continual --study whole --json").done().json();
    assert_eq!(again["report"]["strategies"].as_array().unwrap().len(), strategies.len());
    let told = place.run("evaluate continual --study whole").done();
    assert!(told.stderr.contains("wrote whole/report.html"), "{}", told.stderr);
    for words in [
        "IoU in percent, asked by box",
        "Where pictures went after the last domain",
        "not measurable: Last-IoU at most 2 points below joint, asked by box (joint has no finished run",
        "reached: routing: at least 97 % of pictures answered by their own domain: 100.00 (one run)",
    ] {
        assert!(told.stdout.contains(words), "lacks {words}:\n{}", told.stdout);
    }
    let line = "evaluate continual --threads 1 --study whole --ablate";
    let told =
        place.run(&format!("{line} --set ablation=[{{name=\"alone\",count=1,abstain=false}}]")).done().stdout;
    assert!(told.contains("as configured") && told.contains("alone"), "{told}");
    let table = fs::read_to_string(place.path("whole/ablation.csv")).unwrap();
    assert_eq!(table.lines().count(), 1 + 2 * 2, "{table}");
    assert!(fs::read_to_string(place.path("whole/report.html")).unwrap().contains("Telling domains apart"));
    let scores = fs::read_to_string(place.path("whole/strategies.csv")).unwrap();
    assert!(scores.starts_with("strategy,prompt,runs,last_iou,last_iou_sd,"), "{scores}");
}

/// The learned domains in a registry: pictures are answered by their own, what is like none by the model as it is, and a domain that would
/// be in another's way is not put to use.
fn registry_at_work(place: &Place) {
    let domain = |run: &str, step: &str| format!("{run}/runs/moda-given-s0/steps/{step}/domain");
    let routers = || fs::read_dir(place.path("cache/routers")).map_or(0, Iterator::count);
    let kept = routers();
    let (discs, bars) = (domain("whole", "00-discs"), domain("whole", "01-bars"));
    let first = place.run(&format!("adapters add adapters {discs}")).done();
    assert!(
        first.stdout.starts_with("discs v1: hq, 3 files") && !first.stdout.contains("exemplars"),
        "{first:?}"
    );
    let second = place.run(&format!("adapters add adapters {bars} --threads 1 --json")).done().json();
    assert_eq!(
        second["probes"],
        json!([
            { "domain": "discs", "exemplars": 3, "before": 3, "after": 3 },
            { "domain": "bars", "exemplars": 3, "before": null, "after": 3 },
        ])
    );

    fs::copy(crate::common::coffee(), place.path("coffee.png")).unwrap();
    let segment = |picture: &str, region: &str| {
        let line =
            format!("segment {picture} --box {region} --adapters adapters --threads 1 --format json -o -");
        let answer = place.run(&line).done();
        let json = answer.json();
        assert_eq!(json["masks"].as_array().unwrap().len(), 1, "{json:#}");
        json["model"].as_str().unwrap().to_owned()
    };
    assert_eq!(segment("discs/images/test/p0.png", "11,7,30,26"), "kirie-small/discs");
    assert_eq!(segment("bars/images/test/p0.png", "17,5,24,28"), "kirie-small/bars");
    assert_eq!(segment("coffee.png", "100,80,420,330"), "kirie-small");
    assert_eq!(routers(), kept, "the tokens of the last domain know all");

    // The same pictures under another name.
    let set = "--set strategies=[\"moda\"] --set data.domains=[{name=\"again\",path=\"discs\"}]";
    place.run(&format!("{LINE} --config stream.toml {set} -o again")).done();
    let again = domain("again", "00-again");
    let number = || place.run("adapters list adapters --json").done().json()["index"].clone();
    let words = ["again is not put to use: ", "exemplars", "--force", "--disabled"];
    place.run(&format!("adapters add adapters {again} --threads 1")).expect(1, &words);
    assert_eq!(number(), json!(2));
    place.run(&format!("adapters add adapters {again} --disabled")).done();
    place.run("adapters enable adapters again --threads 1").expect(1, &words[..3]);
    assert_eq!(number(), json!(3));
    place.run("adapters enable adapters again --force").done();
    place.run("adapters remove adapters again").done();

    // Out of use: its pictures are like nothing that is left. The router of what is left is kept.
    place.run("adapters disable adapters discs").done();
    assert_eq!(segment("discs/images/test/p0.png", "11,7,30,26"), "kirie-small");
    assert_eq!(segment("bars/images/test/p0.png", "17,5,24,28"), "kirie-small/bars");
    assert_eq!(routers(), kept + 1);
    place.run("adapters enable adapters discs --threads 1").done();
    assert_eq!(segment("discs/images/test/p0.png", "11,7,30,26"), "kirie-small/discs");

    // A damaged domain is named and the rest goes on; with nothing left there is nothing to answer with.
    let file = place.path("adapters/domains/discs/v1/adapter.safetensors");
    let bytes = fs::read(&file).unwrap();
    fs::write(&file, &bytes[..bytes.len() / 2]).unwrap();
    let line =
        "segment bars/images/test/p0.png --box 17,5,24,28 --adapters adapters --threads 1 --format json -o -";
    let answer = place.run(line).done();
    assert!(answer.stderr.contains("discs is left out: "), "{}", answer.stderr);
    assert_eq!(answer.json()["model"], json!("kirie-small/bars"));
    place.run("adapters disable adapters bars").done();
    place.run(line).expect(1, &["discs is left out: ", "none of the domains can be used"]);
    place
        .run("segment coffee.png --box 1,1,9,9 --adapters nowhere")
        .expect(1, &["holds no registry of adapters"]);
}

#[test]
fn what_cannot_be_done_is_said_before_anything_is_written() {
    let place = place();
    let refuses = |set: &str, words: &[&str]| {
        let line = format!("{LINE} --config stream.toml -o run --set {set}");
        place.refuses(&line, 1, words);
    };
    refuses("strategies=[\"mdoa\"]", &["mdoa", "moda"]);
    refuses("plan.stpes=3", &["stpes"]);
    refuses("data.domains=[{name=\"a\",path=\"discs\"},{name=\"a\",path=\"bars\"}]", &["\"a\" twice"]);
    refuses("data.domains=[{name=\"a\",path=\"nowhere\"}]", &["nowhere"]);
    refuses("data.domains=[{name=\"a\",path=\"discs\",foreground=[\"cat\"]}]", &["cat", "thing"]);
    refuses(
        "data.domains=[{name=\"a\",path=\"discs\",foreground=[\"background\"],test=\"vacation\"}]",
        &["vacation"],
    );
    refuses("adapter.decoder=frozen", &["adapter.decoder is frozen"]);
    refuses("exemplars.count=0", &["exemplars.count is 0, expected 1 or more"]);
    refuses("orders=[[\"bars\"]]", &["each of discs, bars once"]);
    place.refuses("evaluate continual --domain discs --data bars", 1, &["none of the domains can be used"]);
    place.refuses("evaluate continual --domains discs --data bars", 1, &["no domain's folder"]);
    place.refuses("evaluate continual --data bars", 2, &["--domain"]);
    place.refuses("evaluate continual --domains discs", 2, &["--data"]);
    place.refuses("evaluate continual --study nowhere", 1, &["nowhere"]);
    place.refuses("evaluate continual --study nowhere --data bars", 2, &["cannot be used with"]);
    place.refuses("evaluate continual --domains discs --data bars --ablate", 2, &["--ablate", "--domains"]);
    refuses("data.reference=[{name=\"a\",path=\"discs\",seen=\"x\"}]", &["data.reference.seen"]);
    refuses("ablation=[{name=\"a\"}]", &["ablation \"a\" is empty"]);
    place.refuses("train continual --config stream.toml", 2, &["--output"]);
}
