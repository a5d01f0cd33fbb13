use std::sync::atomic::AtomicI64;

use burn::tensor::Device;
use kirie_run::{ProgressMode, Stop, config};
use kirie_sam::Engine;

use super::*;
use crate::drawn::{ByColour, draw_set};
use crate::run::SamSettings;

/// The chain at a size that takes no time; what it learns in so few steps is nothing.
const CONFIG: &str = r#"
[data]
path = "set"
others = ["test"]

[sam]
model = "by-colour"

[classifier]
batch = 4
validate_one_in = 0
model = { stem = { kind = "patches", size = 8 }, input = 64, dim = 16, depth = 1, heads = 2 }
plan = { steps = 2, schedule = { warmup = 0, decay = { kind = "constant" } } }

[proposals]
grid = { points = 4, nms = 0.9 }
maps = { scales = [1.0] }

[detector]
weak = "oicr"
input = { train_sides = [64], test_sides = [64], test_flip = false }
features = { backbone = { kind = "plain", widths = [8, 12, 16] }, stride = 4, channels = 16 }
head = { cells = 3, hidden = 16 }
plan = { steps = 3 }

[retrain]
input = { train_sides = [64], test_sides = [64], test_flip = false }
features = { backbone = { kind = "plain", widths = [8, 12, 16] }, stride = 4, channels = 16 }
head = { cells = 3, hidden = 16 }
rpn = { sides = [20.0, 36.0], after_nms = 20, before_nms = 60 }
answers = { least_score = 0.0 }
plan = { steps = 3 }
"#;

fn entry(folder: &Path, name: &str, scored: Scored, sets: &[&str]) -> Entry {
    let path = folder.join("weak.toml");
    fs::write(&path, CONFIG).unwrap();
    let sets: Vec<String> = sets.iter().map(|set| (*set).to_owned()).collect();
    let mut config = config::load::<WeakConfig>(Some(&path), &sets).unwrap().value;
    config.resolve(folder);
    Entry { name: name.to_owned(), scored, config }
}

fn entries(folder: &Path) -> Vec<Entry> {
    vec![
        entry(folder, "oicr", Scored::Detector, &[]),
        entry(folder, "top", Scored::Retrained, &["pseudo.rule={ kind = \"top\", count = 1 }"]),
        entry(folder, "true", Scored::TrueBoxes, &["retrain.drop.mode=off"]),
    ]
}

fn go(folder: &Path, entries: &[Entry]) -> (Sweep, Vec<String>) {
    let (device, stop) = (Device::flex(), Stop::never());
    let asked = stop.clone();
    let engine = move |_: &SamSettings| -> Result<Box<dyn Engine>, WeakError> {
        Ok(Box::new(ByColour { stop: asked.clone(), calls: AtomicI64::new(i64::MAX), finds: true }))
    };
    let context = Context {
        engine: &engine,
        base: &|_| Ok(None),
        engine_hash: &|_| Ok("1".to_owned()),
        device: &device,
        reuse: &[],
        stop: &stop,
        mode: ProgressMode::Silent,
    };
    let mut said = Vec::new();
    let out = folder.join("sweep");
    let result = sweep(&out, "A test", "test", entries, &context, &mut |text| said.push(text.to_owned()));
    (result.unwrap(), said)
}

#[test]
fn shared_stages_are_done_once_and_all_is_measured() {
    let folder = tempfile::tempdir().unwrap();
    draw_set(&folder.path().join("set"), 9);
    let entries = entries(folder.path());
    let (result, said) = go(folder.path(), &entries);
    assert!(result.failed.is_empty() && result.open.is_empty(), "{:?}", result.failed);
    let copied =
        |stage: &str| said.iter().filter(|text| text.starts_with(&format!("{stage}: the same"))).count();
    assert_eq!(["classifier", "proposals", "detector", "pseudo"].map(copied), [1, 1, 1, 0], "{said:?}");
    let [oicr, top, bound] = result.runs.as_slice() else { panic!("{:?}", result.runs) };
    assert_eq!(oicr.figures.recall, top.figures.recall);
    assert!(oicr.figures.proposals.is_some_and(|count| count >= 1.0));
    assert!(bound.figures.proposals.is_none() && bound.figures.recall.is_none());
    for run in &result.runs {
        let figures = &run.figures;
        let share = |figure: Option<f64>| figure.is_some_and(|figure| (0.0..=1.0).contains(&figure));
        assert!(share(figures.ap50) && share(figures.ap50_11) && share(figures.corloc), "{run:?}");
        // Boxes alone: the drawn set has no masks.
        assert!(figures.masks.is_none());
    }
    let out = folder.path().join("sweep");
    assert!(out.join("top-s0/stage-5-retrain/detections-test.json").is_file());
    assert!(out.join("true-s0/true-boxes/detections.json").is_file());
    let written: Sweep = read_json(&out.join("sweep.json")).unwrap();
    assert_eq!(written.runs.len(), 3);
    assert_eq!(fs::read_to_string(out.join("sweep.csv")).unwrap().lines().count(), 4);
    let page = fs::read_to_string(out.join("sweep.html")).unwrap();
    assert!(page.contains("A test") && page.contains("oicr"));

    // Once more: nothing is done again, and the figures are the same.
    let (again, said) = go(folder.path(), &entries);
    assert!(said.iter().all(|text| !text.contains("the same") && !text.contains("anew")), "{said:?}");
    assert_eq!(again.runs, result.runs);
    // True boxes with other settings are learned anew; a run that cannot work is named, and the others go on.
    let mut changed = entries;
    changed[2].config.retrain.plan.steps = 4;
    changed[1].config.sam.weights = None;
    changed[1].config.proposals.sources = vec![crate::files::Source::Cross];
    changed[1].config.classifier.model.depth = 0;
    let (third, _) = go(folder.path(), &changed);
    let done: Vec<&str> = third.runs.iter().map(|run| run.name.as_str()).collect();
    assert!(done.contains(&"oicr") && done.contains(&"true"), "{done:?} {:?}", third.failed);
    let checkpoints = out.join("true-s0/true-boxes/retrain/checkpoints/step-4");
    assert!(checkpoints.is_dir());
}

#[test]
fn work_is_counted_with_shared_stages_once() {
    let folder = tempfile::tempdir().unwrap();
    let mut all = entries(folder.path());
    all.push(entry(folder.path(), "other", Scored::Retrained, &["detector.plan.steps=5"]));
    all.push(entry(folder.path(), "oicr", Scored::Detector, &["seed=1"]));
    let found = work(&all);
    let times: Vec<(usize, u64)> = found.iter().map(|work| (work.times, work.steps)).collect();
    // Two seeds of classifier and proposals; detectors of 3, 5 and, with the other seed, 3 steps; two sets of pseudo boxes (one rule
    // a detector); and three detectors on boxes, the true ones among them.
    assert_eq!(times, [(2, 4), (2, 0), (3, 11), (2, 0), (3, 9)]);
}

#[test]
fn what_cannot_be_swept_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let all = entries(folder.path());
    assert!(check(&all, "test").is_ok() && check(&all, "train").is_ok());
    let says = |entries: &[Entry], part: &str, expected: &str| {
        let error = check(entries, part).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    };
    says(&all, "val", "data.others");
    says(&[all[0].clone(), all[0].clone()], "test", "a name and a seed once");
    says(&[Entry { name: "a/b".to_owned(), ..all[0].clone() }], "test", "letters");
    let mut seed = all[0].clone();
    seed.config.detector.seed = 7;
    says(&[seed], "test", "detector.seed");
}

fn outcome(name: &str, scored: Scored, seed: u64, ap50: Option<f64>) -> Outcome {
    let figures =
        Figures { ap50, recall: Some([0.9, 0.5, 0.1]), proposals: Some(120.0), ..Figures::default() };
    Outcome { name: name.to_owned(), scored, seed, figures }
}

#[test]
fn seeds_are_averaged_and_held_against_true_boxes() {
    let runs = [
        outcome("mist", Scored::Detector, 0, Some(0.1)),
        outcome("mist", Scored::Detector, 1, Some(0.3)),
        outcome("plain", Scored::Retrained, 0, None),
        outcome("true", Scored::TrueBoxes, 0, Some(0.5)),
        outcome("true", Scored::TrueBoxes, 1, Some(0.3)),
    ];
    let groups = groups(&runs);
    assert_eq!(groups.iter().map(|group| group.runs).collect::<Vec<_>>(), [2, 1, 2]);
    let mist = groups[0].ap50.unwrap();
    // Mean 0.2; deviation of a sample of two: 0.2 / sqrt 2.
    assert!((mist.mean - 0.2).abs() < 1e-12 && (mist.deviation.unwrap() - 0.02_f64.sqrt()).abs() < 1e-12);
    assert!(groups[0].of_bound.is_some_and(|share| (share - 0.5).abs() < 1e-12));
    assert!(groups[1].ap50.is_none() && groups[1].of_bound.is_none());
    let cells = groups[0].cells();
    assert_eq!(cells.len(), Group::HEAD.len());
    assert_eq!(cells[6], "20.0 ± 14.1");
    assert_eq!(cells[10], "50.0");
    assert_eq!(groups[1].cells()[3], "90.0");
    let text = csv(&runs);
    assert_eq!(text.lines().nth(1), Some("mist,0,120,0.9,0.5,0.1,0.1,,,,,,,,"));
    assert_eq!(text.lines().next().unwrap().split(',').count(), 15);
}
