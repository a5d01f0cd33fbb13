//! What a sweep of pre-training runs is told, and the runs that follow from it.

use std::path::{Path, PathBuf};

use anyhow::Context;
use kirie_run::config::{self, merge};
use kirie_samclr::config::TrainConfig;
use kirie_samclr::sweep::RunSpec;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::super::absolute;

/// A sweep, as its file has it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    /// Heading of the report.
    title: Option<String>,
    /// What every run has, whatever its method's configuration says.
    #[serde(default)]
    settings: Map<String, Value>,
    /// Methods, each with a configuration of its own.
    methods: Vec<MethodItem>,
    /// Where views come from.
    sources: Vec<SourceItem>,
    /// The source that the others are held against; without it the first.
    against: Option<String>,
    /// What stands beside the trained encoders.
    #[serde(default)]
    baselines: Vec<Baseline>,
    #[serde(default = "one_seed")]
    seeds: Vec<u64>,
    /// How encoders are judged.
    evaluate: Judging,
}

fn one_seed() -> Vec<u64> {
    vec![0]
}

/// A method's name, its configuration, and keys over what that says.
#[derive(Debug, Deserialize)]
struct MethodItem {
    name: String,
    config: PathBuf,
    #[serde(flatten)]
    over: Map<String, Value>,
}

/// A name, and keys of `regions`.
#[derive(Debug, Deserialize)]
struct SourceItem {
    name: String,
    #[serde(flatten)]
    regions: Map<String, Value>,
}

/// What needs no training.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Baseline {
    /// The encoder of the first method before its first step, with the statistics of its norms brought to the pictures.
    Untrained,
    /// Random directions of the pixels' space.
    Pixels,
}

impl Baseline {
    fn name(self) -> &'static str {
        match self {
            Self::Untrained => "untrained",
            Self::Pixels => "pixels",
        }
    }
}

/// How encoders are judged: what `kirie evaluate contrastive` is told.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Judging {
    /// The labelled sets.
    pub(super) sets: Vec<Target>,
    #[serde(default = "whole")]
    pub(super) shares: Vec<f64>,
    #[serde(default = "twenty")]
    pub(super) k: Vec<u32>,
    #[serde(default = "tenth")]
    pub(super) temperature: f64,
    #[serde(default = "three")]
    pub(super) draws: u32,
    #[serde(default = "ninety")]
    pub(super) epochs: u32,
    #[serde(default = "tenth")]
    pub(super) rate: f64,
    #[serde(default)]
    pub(super) standardise: bool,
    #[serde(default)]
    pub(super) crops: u32,
    /// Labels are drawn by this seed for all runs alike.
    #[serde(default)]
    pub(super) seed: u64,
    /// Batches by which the norms of an untrained encoder are brought to the pictures.
    #[serde(default = "hundred")]
    pub(super) calibrate: u64,
}

fn whole() -> Vec<f64> {
    vec![100.0]
}
fn twenty() -> Vec<u32> {
    vec![20]
}
fn tenth() -> f64 {
    0.1
}
fn three() -> u32 {
    3
}
fn ninety() -> u32 {
    90
}
fn hundred() -> u64 {
    100
}

/// A labelled set.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Target {
    pub(super) name: String,
    pub(super) path: PathBuf,
    #[serde(default = "train")]
    pub(super) train: String,
    #[serde(default = "test")]
    pub(super) test: String,
    /// Side that pictures get, pixels; without it that of training.
    #[serde(default)]
    pub(super) size: Option<u32>,
    #[serde(default)]
    pub(super) limit: Option<u32>,
}

fn train() -> String {
    "train".to_owned()
}
fn test() -> String {
    "test".to_owned()
}

/// The runs of a sweep.
pub(super) struct Planned {
    pub(super) title: String,
    pub(super) against: String,
    pub(super) judging: Judging,
    pub(super) runs: Vec<PlannedRun>,
}

/// A run.
pub(super) struct PlannedRun {
    pub(super) spec: RunSpec,
    /// Of a baseline, that of the encoder before its first step.
    pub(super) config: TrainConfig,
    pub(super) baseline: Option<Baseline>,
}

/// Reads a sweep and makes and checks the configuration of each of its runs.
pub(super) fn read(path: &Path, settings: &[String], data: Option<&Path>) -> anyhow::Result<Planned> {
    let name = path.display();
    let mut file = config::load::<File>(Some(path), settings)?.value;
    for (list, length) in
        [("methods", file.methods.len()), ("sources", file.sources.len()), ("seeds", file.seeds.len())]
    {
        anyhow::ensure!(length > 0, "{name}: there is nothing to run: {list} is empty");
    }
    let against = file.against.clone().unwrap_or_else(|| file.sources[0].name.clone());
    anyhow::ensure!(
        file.sources.iter().any(|source| source.name == against),
        "{name}: against is {against:?}, expected the name of one of the sources"
    );
    let folder = absolute(path.parent().unwrap_or(Path::new(".")))?;
    let data = data.map(absolute).transpose()?;
    check(&mut file.evaluate, data.as_deref().unwrap_or(&folder))
        .with_context(|| format!("{name}, evaluate"))?;
    let mut runs = Vec::new();
    let first = (&file.methods[0], &file.sources[0]);
    for (baseline, seed) in file.baselines.iter().flat_map(|b| file.seeds.iter().map(move |s| (*b, *s))) {
        let config = configuration(&folder, first.0, first.1, seed, &file.settings, data.as_deref())
            .with_context(|| format!("{name}, {}", baseline.name()))?;
        let spec = RunSpec {
            name: format!("{}-s{seed}", baseline.name()),
            method: baseline.name().to_owned(),
            source: String::new(),
            seed,
            settings: json!({ "config": config, "evaluate": file.evaluate, "baseline": baseline }),
        };
        runs.push(PlannedRun { spec, config, baseline: Some(baseline) });
    }
    // Seed by seed, so that a sweep that is not finished compares all of its arms by some seeds, and not some arms by all.
    for seed in &file.seeds {
        for method in &file.methods {
            for source in &file.sources {
                let run = format!("{}-{}-s{seed}", method.name, source.name);
                let config = configuration(&folder, method, source, *seed, &file.settings, data.as_deref())
                    .with_context(|| format!("{name}, run {run}"))?;
                let spec = RunSpec {
                    name: run,
                    method: method.name.clone(),
                    source: source.name.clone(),
                    seed: *seed,
                    settings: json!({ "config": config, "evaluate": file.evaluate }),
                };
                runs.push(PlannedRun { spec, config, baseline: None });
            }
        }
    }
    let title = file.title.unwrap_or_else(|| "Pre-training: methods and sources of views".to_owned());
    Ok(Planned { title, against, judging: file.evaluate, runs })
}

/// One run's configuration: the method's, over it what every run has, then the source of views.
fn configuration(
    folder: &Path,
    method: &MethodItem,
    source: &SourceItem,
    seed: u64,
    settings: &Map<String, Value>,
    data: Option<&Path>,
) -> anyhow::Result<TrainConfig> {
    let file = folder.join(&method.config);
    let mut value = Value::Object(config::load::<Map<String, Value>>(Some(&file), &[])?.value);
    merge(&mut value, &Value::Object(settings.clone()));
    merge(&mut value, &Value::Object(method.over.clone()));
    merge(&mut value, &json!({ "regions": source.regions, "seed": seed }));
    let mut config: TrainConfig = serde_json::from_value(value)?;
    config.check()?;
    // Masks belong to no configuration: all runs share them.
    config.regions.cache = absolute(&config.regions.cache)?;
    config.resolve(file.parent().unwrap_or(folder), data);
    Ok(config)
}

/// Makes the sets' paths mean the same from anywhere, and checks what the command would refuse after hours of training.
fn check(judging: &mut Judging, data: &Path) -> anyhow::Result<()> {
    anyhow::ensure!(!judging.sets.is_empty(), "sets is empty, expected at least one labelled set");
    let usable = |c: char| c.is_ascii_alphanumeric() || "-_".contains(c);
    let mut names: Vec<&str> = Vec::new();
    for set in &judging.sets {
        let name = set.name.as_str();
        anyhow::ensure!(
            !name.is_empty() && name.chars().all(usable),
            "a set is called {name:?}, expected letters, digits, - and _"
        );
        anyhow::ensure!(!names.contains(&name), "two sets are called {name:?}");
        anyhow::ensure!(set.train != set.test, "{name}: train and test name the same part");
        names.push(name);
    }
    let (numbers, shares) = (judging.k.len(), judging.shares.len());
    anyhow::ensure!(
        shares > 0 && (numbers == 1 || numbers == shares),
        "k has {numbers} numbers, expected 1, or one for each of {shares} shares"
    );
    anyhow::ensure!(judging.k.iter().all(|k| *k > 0), "k is 0, expected 1 or more");
    for share in &judging.shares {
        anyhow::ensure!(*share > 0.0 && *share <= 100.0, "a share is {share} %, expected above 0 to 100");
    }
    for (key, value) in [("temperature", judging.temperature), ("rate", judging.rate)] {
        anyhow::ensure!(value.is_finite() && value > 0.0, "{key} is {value}, expected a number above 0");
    }
    anyhow::ensure!(judging.epochs > 0, "epochs is 0, expected 1 or more");
    for set in &mut judging.sets {
        set.path = data.join(&set.path);
        anyhow::ensure!(set.path.exists(), "{}: there is no {}", set.name, set.path.display());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use kirie_samclr::regions::Source;

    use super::*;

    const FILE: &str = "../../configs/contrastive/sweep.toml";

    /// Every run of the sweep that comes with kirie, on folders that are empty.
    fn planned(settings: &[&str]) -> anyhow::Result<Planned> {
        let data = tempfile::tempdir()?;
        for name in ["cifar10_subset", "neu_det", "playing_cards"] {
            std::fs::create_dir(data.path().join(name))?;
        }
        let settings: Vec<String> = settings.iter().map(|set| (*set).to_owned()).collect();
        read(&Path::new(env!("CARGO_MANIFEST_DIR")).join(FILE), &settings, Some(data.path()))
    }

    #[test]
    fn the_sweep_that_comes_with_kirie_changes_one_thing_at_a_time() {
        let planned = planned(&[]).unwrap();
        assert_eq!(planned.runs.len(), 3 * (2 + 3 * 5));
        assert_eq!((planned.against.as_str(), planned.judging.sets.len()), ("whole", 3));
        let find = |name: &str| {
            let run = planned.runs.iter().find(|run| run.spec.name == name);
            run.unwrap_or_else(|| panic!("{name} is not among the runs"))
        };
        for method in ["simclr", "moco", "dino"] {
            let whole = &find(&format!("{method}-whole-s1")).config;
            assert_eq!(whole.regions.source, Source::Whole);
            assert_eq!((whole.seed, whole.plan.steps, whole.data.batch, whole.views.size), (1, 1500, 64, 64));
            assert!(whole.regions.cache.is_absolute());
            for source in ["regions", "truth", "random", "grid"] {
                let run = find(&format!("{method}-{source}-s1"));
                assert!(run.config.regions.source != Source::Whole && run.baseline.is_none());
                let mut same = run.config.clone();
                same.regions = whole.regions.clone();
                assert_eq!(same, *whole, "{method}, {source}: nothing else differs");
            }
        }
        let (simclr, dino) = (&find("simclr-whole-s0").config, &find("dino-whole-s0").config);
        assert_eq!((&simclr.encoder, &simclr.data), (&dino.encoder, &dino.data));
        assert_eq!(find("untrained-s2").config.seed, 2);
        assert_eq!(find("pixels-s0").baseline, Some(Baseline::Pixels));
    }

    #[test]
    fn what_would_fail_after_hours_is_told_at_once() {
        for (set, words) in [
            ("seeds=[]", "seeds is empty"),
            ("against=elsewhere", "expected the name of one of the sources"),
            ("evaluate.k=[20, 200, 200, 200, 200]", "k has 5 numbers"),
            ("evaluate.shares=[0]", "a share is 0 %"),
            ("evaluate.sets=[{ name = \"x\", path = \"nowhere\" }]", "there is no"),
            ("evaluate.sets=[{ name = \"a/b\", path = \"neu_det\" }]", "expected letters"),
            ("evaluate.sets=[{ name = \"x\", path = \"neu_det\", test = \"train\" }]", "the same part"),
            ("settings.data.batch=1", "data.batch is 1"),
            ("settings.plan.stps=3", "stps"),
        ] {
            let error = format!("{:#}", planned(&[set]).err().unwrap_or_else(|| panic!("{set} was taken")));
            assert!(error.contains(words), "{set}: {error}");
        }
    }
}
