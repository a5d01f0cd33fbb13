use std::sync::atomic::AtomicI64;

use kirie_run::config;

use super::*;
use crate::drawn::{ByColour, draw_set};
use crate::files::{Detections, ImageDetections, Proposals};

/// Those that take no time.
const FIRST: [Stage; 2] = [Stage::Classifier, Stage::Proposals];

const CONFIG: &str = r#"
seed = 5

[data]
path = "set"
others = ["test"]

[sam]
model = "by-colour"

[classifier]
batch = 4
validate_one_in = 0
model = { stem = { kind = "patches", size = 8 }, input = 64, dim = 16, depth = 1, heads = 2 }

[classifier.plan]
steps = 4
checkpoint_every = 2

[classifier.plan.optimizer]
lr = 1e-2
rule = { kind = "adamw" }

[classifier.plan.schedule]
warmup = 0
decay = { kind = "constant" }

[proposals]
grid = { points = 4, nms = 0.9 }
maps = { scales = [1.0] }
"#;

struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        draw_set(&folder.path().join("set"), 9);
        fs::write(folder.path().join("weak.toml"), CONFIG).unwrap();
        Self { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn config(&self, sets: &[&str]) -> WeakConfig {
        let sets: Vec<String> = sets.iter().map(|set| (*set).to_owned()).collect();
        let mut config = config::load::<WeakConfig>(Some(&self.path("weak.toml")), &sets).unwrap().value;
        config.resolve(self.folder.path());
        config
    }

    /// Runs stages; the model asks for an end after `calls`.
    fn go(&self, run: &str, sets: &[&str], stages: &[Stage], calls: i64) -> Result<Vec<Done>, WeakError> {
        let path = self.path(run);
        let folder = if path.join("config.toml").is_file() {
            RunFolder::open(&path)?
        } else {
            let folder = RunFolder::create(&path)?;
            folder.write_config("")?;
            folder
        };
        let (device, stop) = (Device::flex(), Stop::never());
        let asked = stop.clone();
        let engine = move |_: &SamSettings| -> Result<Box<dyn Engine>, WeakError> {
            Ok(Box::new(ByColour { stop: asked.clone(), calls: AtomicI64::new(calls), finds: true }))
        };
        let context = Context {
            engine: &engine,
            base: &|_| Ok(None),
            engine_hash: &|_| Ok("1".to_owned()),
            device: &device,
            reuse: &self.reuse(run),
            stop: &stop,
            mode: ProgressMode::Silent,
        };
        super::run(&self.config(sets), &folder, stages, &context, &mut |_| {})
    }

    /// What is named `reuse-NAME` may take over what the run `NAME` has done.
    fn reuse(&self, run: &str) -> Vec<PathBuf> {
        run.strip_prefix("reuse-").map(|other| self.path(other)).into_iter().collect()
    }

    fn read(&self, run: &str, file: &str) -> Vec<u8> {
        fs::read(self.path(run).join("stage-2-proposals").join(file)).unwrap()
    }
}

#[test]
fn the_chain_ends_the_same_wherever_it_was_cut_off() {
    let place = Place::new();
    let whole = place.go("whole", &[], &FIRST, i64::MAX).unwrap();
    assert!(whole.iter().all(|done| !done.before));
    let proposals = Proposals::read(&place.path("whole/stage-2-proposals/proposals.json")).unwrap();
    assert_eq!((proposals.images.len(), proposals.classes.len()), (6, 2));
    let test = Proposals::read(&place.path("whole/stage-2-proposals/proposals-test.json")).unwrap();
    assert_eq!(test.images.len(), 3);
    assert!(test.images.iter().all(|image| image.labels.is_empty() && !image.boxes.is_empty()));
    assert!(place.path("whole/stage-2-proposals/report.html").is_file());

    // Asked once more, nothing is done.
    let again = place.go("whole", &[], &FIRST, i64::MAX).unwrap();
    assert!(again.iter().all(|done| done.before));
    assert_eq!(again[1].figures, whole[1].figures);

    // Asked to end within the proposals, several times, a line of the record cut in half between.
    let mut ends = 0;
    while let Err(error) = place.go("parts", &[], &FIRST, 6) {
        assert!(matches!(error, WeakError::Stopped { .. }), "{error}");
        let parts = place.path("parts/stage-2-proposals/proposals.parts.jsonl");
        if let Ok(bytes) = fs::read(&parts) {
            fs::write(&parts, &bytes[..bytes.len().saturating_sub(9)]).unwrap();
        }
        ends += 1;
        assert!(ends < 40, "no progress");
        if ends > 3 {
            place.go("parts", &[], &FIRST, i64::MAX).unwrap();
            break;
        }
    }
    assert!(ends > 1);
    for file in ["proposals.json", "proposals-test.json"] {
        assert_eq!(place.read("parts", file), place.read("whole", file), "{file}");
    }
}

#[test]
fn no_box_reaches_a_stage_that_learns() {
    let place = Place::new();
    place.go("before", &[], &FIRST, i64::MAX).unwrap();
    for entry in fs::read_dir(place.path("set/annotations")).unwrap() {
        let path = entry.unwrap().path();
        let text = fs::read_to_string(&path).unwrap();
        let moved =
            text.replace("<xmax>", "<xmax>9").replace("<ymin>", "<ymin>0").replace("<ymax>", "<ymax>7");
        assert_ne!(moved, text);
        fs::write(path, moved).unwrap();
    }
    place.go("after", &[], &FIRST, i64::MAX).unwrap();
    for file in ["proposals.json", "proposals-test.json"] {
        assert_eq!(place.read("after", file), place.read("before", file), "{file}");
    }
    let weights =
        |run: &str| fs::read(place.path(run).join("stage-1-classifier/classifier.safetensors")).unwrap();
    assert_eq!(weights("after"), weights("before"));
    // The run itself does not notice that boxes have moved.
    assert!(place.go("before", &[], &FIRST, i64::MAX).unwrap().iter().all(|done| done.before));
    // The labels of another part are not even read.
    fs::write(place.path("set/annotations/p8.xml"), "no XML at all").unwrap();
    place.go("third", &[], &FIRST, i64::MAX).unwrap();
    assert_eq!(place.read("third", "proposals-test.json"), place.read("before", "proposals-test.json"));
}

#[test]
fn what_has_changed_is_made_anew_and_what_follows_too() {
    let place = Place::new();
    place.go("run", &[], &FIRST, i64::MAX).unwrap();
    let before = |sets: &[&str]| -> Vec<bool> {
        let done = place.go("run", sets, &FIRST, i64::MAX).unwrap();
        done.iter().map(|done| done.before).collect()
    };
    assert_eq!(before(&["proposals.min_side=12"]), [true, false]);
    assert_eq!(before(&["proposals.min_side=12", "classifier.plan.steps=5"]), [false, false]);
    assert_eq!(before(&["proposals.min_side=12", "classifier.plan.steps=5"]), [true, true]);
    // Damaged results are not trusted.
    fs::write(place.path("run/stage-2-proposals/proposals.json"), "{}").unwrap();
    assert_eq!(before(&["proposals.min_side=12", "classifier.plan.steps=5"]), [true, false]);
    // Another picture.
    fs::copy(place.path("set/images/p0.png"), place.path("set/images/p1.png")).unwrap();
    assert_eq!(before(&["proposals.min_side=12", "classifier.plan.steps=5"]), [false, false]);
    // Somebody else's folder.
    fs::create_dir_all(place.path("other/stage-1-classifier")).unwrap();
    fs::write(place.path("other/stage-1-classifier/mine.txt"), "").unwrap();
    let error = place.go("other", &[], &FIRST, i64::MAX).unwrap_err().to_string();
    assert!(error.contains("left alone"), "{error}");
    // A stage before its time.
    let error = place.go("late", &[], &[Stage::Proposals], i64::MAX).unwrap_err().to_string();
    assert!(error.contains("classifier is not done"), "{error}");
}

#[test]
fn what_another_run_has_done_is_copied() {
    let place = Place::new();
    let first = place.go("first", &[], &FIRST, i64::MAX).unwrap();
    // Other proposals of the same classifier: that one is taken over.
    let second = place.go("reuse-first", &["proposals.min_side=12"], &FIRST, i64::MAX).unwrap();
    assert_eq!(second.iter().map(|done| done.before).collect::<Vec<_>>(), [true, false]);
    assert_eq!(second[0].figures, first[0].figures);
    let weights =
        |run: &str| fs::read(place.path(run).join("stage-1-classifier/classifier.safetensors")).unwrap();
    assert_eq!(weights("reuse-first"), weights("first"));
    assert!(!place.path("reuse-first/stage-1-classifier.copying").exists());
    // Back to the first settings: copied over what was made, and the same.
    let third = place.go("reuse-first", &[], &FIRST, i64::MAX).unwrap();
    assert!(third.iter().all(|done| done.before));
    assert_eq!(place.read("reuse-first", "proposals.json"), place.read("first", "proposals.json"));
    // Another seed shares nothing, and a damaged stage is not taken.
    let seed = place.go("reuse-first", &["seed=6"], &FIRST, i64::MAX).unwrap();
    assert!(seed.iter().all(|done| !done.before));
    fs::write(place.path("first/stage-1-classifier/classifier.safetensors"), "").unwrap();
    let fourth = place.go("reuse-first", &[], &FIRST[..1], i64::MAX).unwrap();
    assert!(!fourth[0].before);
}

#[test]
fn corrections_go_round() {
    let place = Place::new();
    let error = place.go("run", &[], &[Stage::Review], i64::MAX).unwrap_err().to_string();
    assert!(error.contains("pseudo.json"), "{error}");
    let image = |n: usize, score: f32| ImageDetections {
        file: format!("images/p{n}.png"),
        width: 72,
        height: 64,
        labels: vec!["disc".to_owned()],
        boxes: vec![[4.0, 6.0, 24.0, 26.0]],
        scores: vec![score],
        classes: vec![0],
        weights: vec![1.0],
    };
    let classes = vec!["disc".to_owned(), "bar".to_owned()];
    let boxes = Detections { classes, images: vec![image(0, 0.9), image(3, 0.2)] };
    boxes.write(&place.path("run/stage-4-pseudo/pseudo.json")).unwrap();
    place.go("run", &["review.count=1"], &[Stage::Review], i64::MAX).unwrap();
    let label = place.path("run/stage-7-review/review/labels/images__p3.json");
    let text = fs::read_to_string(&label).unwrap();
    fs::write(&label, text.replace("[24.0,26.0]", "[29.0,26.0]")).unwrap();
    // Another export would overwrite the corrections.
    let error = place.go("run", &["review.count=2"], &[Stage::Review], i64::MAX).unwrap_err().to_string();
    assert!(error.contains("corrections"), "{error}");
    place.go("run", &["review.count=1"], &[Stage::Corrections], i64::MAX).unwrap();
    let back = Detections::read(&place.path("run/stage-7-corrections/pseudo.json")).unwrap();
    assert_eq!(back.images[0], boxes.images[0]);
    assert_eq!(back.images[1].boxes, [[4.0, 6.0, 29.0, 26.0]]);
    assert_eq!(back.images[1].weights, [3.0]);
    let again = place.go("run", &["review.count=1"], &[Stage::Corrections], i64::MAX).unwrap();
    assert!(again[0].before);
}
