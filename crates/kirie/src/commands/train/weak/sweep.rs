//! `kirie train weak --sweep`: many runs of the chain and one table of what each ingredient is worth.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use kirie_run::Stop;
use kirie_run::config::{self, merge};
use kirie_weaksam::labels::Tagged;
use kirie_weaksam::run::WeakConfig;
use kirie_weaksam::sweep::{Entry, Group, Scored, Sweep, check, groups, sweep, work};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::super::absolute;
use super::in_context;
use crate::args::TrainWeakArgs;
use crate::outputs::check_writable;
use crate::report;

/// A sweep, as its file has it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    /// Heading of the report.
    title: Option<String>,
    /// The configuration that everything else is said over.
    base: PathBuf,
    /// What every run has.
    #[serde(default)]
    settings: Map<String, Value>,
    /// The part that boxes are scored on.
    #[serde(default = "test")]
    score: String,
    #[serde(default = "one_seed")]
    seeds: Vec<u64>,
    runs: Vec<Item>,
}

/// A run: its name, whose boxes are scored, and parts of a configuration.
#[derive(Debug, Deserialize)]
struct Item {
    name: String,
    #[serde(default)]
    scored: Scored,
    #[serde(flatten)]
    over: Map<String, Value>,
}

fn test() -> String {
    "test".to_owned()
}
fn one_seed() -> Vec<u64> {
    vec![0]
}

/// The runs of a sweep.
#[derive(Debug)]
struct Planned {
    title: String,
    score: String,
    entries: Vec<Entry>,
}

/// Runs the command.
pub(super) fn run(args: &TrainWeakArgs, file: &Path) -> anyhow::Result<()> {
    let device = args.machine.open()?;
    let planned = read(file, &args.sets, args.data.as_deref())?;
    let Some(folder) = args.output.as_deref().filter(|_| !args.dry_run) else {
        return list(&planned, args.json);
    };
    // What cannot be learned from is said before a folder is made for it.
    for entry in &planned.entries {
        Tagged::open(&entry.config.data).with_context(|| format!("run {}", entry.folder()))?;
    }
    check_writable(folder, true)?;
    let stop = Stop::install()?;
    let Planned { title, score, entries } = &planned;
    let result = in_context(&device, &stop, &[], |context| {
        sweep(folder, title, score, entries, context, &mut |text| report::tell(text))
    })?;
    answer(&result, folder, args.json)
}

/// Reads a sweep and makes and checks the configuration of each of its runs: all runs with the first seed, then all with the next.
fn read(path: &Path, sets: &[String], data: Option<&Path>) -> anyhow::Result<Planned> {
    let name = path.display();
    let file = config::load::<File>(Some(path), sets)?.value;
    let folder = path.parent().unwrap_or(Path::new("."));
    let base = folder.join(&file.base);
    let whole = Value::Object(config::load::<Map<String, Value>>(Some(&base), &[])?.value);
    let mut entries = Vec::new();
    for seed in &file.seeds {
        for item in &file.runs {
            let mut value = whole.clone();
            merge(&mut value, &Value::Object(file.settings.clone()));
            merge(&mut value, &Value::Object(item.over.clone()));
            merge(&mut value, &json!({ "seed": seed }));
            let about = || format!("{name}, run {}", item.name);
            let mut config: WeakConfig = serde_json::from_value(value).with_context(about)?;
            if let Some(data) = data {
                config.data.resolve(&absolute(data)?);
            }
            config.resolve(&absolute(base.parent().unwrap_or(Path::new(".")))?);
            entries.push(Entry { name: item.name.clone(), scored: item.scored, config });
        }
    }
    anyhow::ensure!(!entries.is_empty(), "{name}: there is nothing to run: seeds or runs is empty");
    check(&entries, &file.score).with_context(|| name.to_string())?;
    let title = file.title.unwrap_or_else(|| "Detectors from image-level labels".to_owned());
    Ok(Planned { title, score: file.score, entries })
}

/// What would be run.
fn list(planned: &Planned, json: bool) -> anyhow::Result<()> {
    let work = work(&planned.entries);
    if json {
        let runs: Vec<Value> = planned
            .entries
            .iter()
            .map(|entry| json!({ "name": entry.name, "scored": entry.scored, "seed": entry.config.seed }))
            .collect();
        return report::print(&serde_json::to_string_pretty(&json!({ "runs": runs, "work": work }))?);
    }
    let rows: Vec<Vec<String>> = planned
        .entries
        .iter()
        .map(|entry| {
            let sources = &entry.config.proposals.sources;
            let names: Vec<&str> = match entry.scored {
                Scored::TrueBoxes => Vec::new(),
                _ => sources.iter().map(|s| kirie_weaksam::proposals::source_name(*s)).collect(),
            };
            let scored = match entry.scored {
                Scored::Detector => "detector",
                Scored::Retrained => "retrained",
                Scored::TrueBoxes => "true boxes",
            };
            vec![entry.folder(), names.join(", "), scored.to_owned()]
        })
        .collect();
    let mut text = report::columns(&["run", "proposals", "scored"], &rows);
    text.push('\n');
    let rows: Vec<Vec<String>> = work
        .iter()
        .map(|work| {
            let steps = if work.steps == 0 { "-".to_owned() } else { work.steps.to_string() };
            vec![work.stage.name().to_owned(), work.times.to_string(), steps]
        })
        .collect();
    text += &report::columns(&["stage", "times", "steps in all"], &rows);
    let _ = writeln!(text, "{} runs; dry run: nothing was written", planned.entries.len());
    report::print(&text)
}

/// Prints what came out.
fn answer(result: &Sweep, folder: &Path, json: bool) -> anyhow::Result<()> {
    if json {
        report::print(&serde_json::to_string_pretty(result)?)?;
    } else {
        let rows: Vec<Vec<String>> = groups(&result.runs).iter().map(Group::cells).collect();
        let mut text = report::columns(&Group::HEAD, &rows);
        for (name, reason) in &result.failed {
            let _ = writeln!(text, "failed: {name}: {reason}");
        }
        report::print(&format!("{text}see {}\n", folder.join("sweep.html").display()))?;
    }
    if !result.open.is_empty() {
        report::note(&format!("{} runs are still to be done; the same command goes on", result.open.len()));
    }
    let total = result.runs.len() + result.failed.len() + result.open.len();
    anyhow::ensure!(result.failed.is_empty(), "{} of {total} runs failed", result.failed.len());
    Ok(())
}

#[cfg(test)]
mod tests {
    use kirie_weaksam::detector::Preset;
    use kirie_weaksam::detector::config::MilConfig;
    use kirie_weaksam::files::Source;
    use kirie_weaksam::retrain::config::DropMode;

    use super::*;

    fn configs() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs/weak")
    }

    #[test]
    fn the_configurations_that_come_with_kirie_are_right() {
        let mut count = 0;
        for entry in std::fs::read_dir(configs()).unwrap() {
            let path = entry.unwrap().path();
            if path.file_name().unwrap().to_string_lossy().starts_with("sweep-") {
                read(&path, &[], None).unwrap();
            } else {
                config::load::<WeakConfig>(Some(&path), &[]).unwrap().value.check().unwrap();
            }
            count += 1;
        }
        assert!(count >= 6, "{count}");
    }

    #[test]
    fn the_ingredients_are_what_their_names_say() {
        let planned =
            read(&configs().join("sweep-playing_cards.toml"), &[], Some(Path::new("sets"))).unwrap();
        let of = |name: &str| {
            let entry = planned.entries.iter().find(|entry| entry.name == name);
            entry.unwrap_or_else(|| panic!("no run {name}"))
        };
        let search = &of("oicr-search").config;
        assert_eq!(search.proposals.sources, [Source::Search]);
        assert_eq!(search.detector.weak, MilConfig::preset(Preset::Oicr));
        assert_eq!(of("mist-grid").config.proposals.sources, [Source::Grid]);
        let mist = &of("mist-weaksam");
        assert_eq!(mist.scored, Scored::Detector);
        assert_eq!(mist.config.detector.weak, MilConfig::preset(Preset::Mist));
        assert_eq!(mist.config.proposals.sources.len(), 4);
        for name in ["plain", "adaptive", "adaptive-drop"] {
            // The same detector before it: only what is made of its boxes differs.
            assert_eq!(of(name).config.detector, mist.config.detector, "{name}");
            assert_eq!(of(name).scored, Scored::Retrained);
        }
        assert_eq!(of("plain").config.retrain, of("adaptive").config.retrain);
        assert_ne!(of("plain").config.pseudo, of("adaptive").config.pseudo);
        assert_eq!(of("adaptive").config.pseudo, of("adaptive-drop").config.pseudo);
        assert_eq!(of("adaptive").config.retrain.drop.mode, DropMode::Off);
        assert_eq!(of("adaptive-drop").config.retrain.drop.mode, DropMode::Both);
        assert_eq!(of("true-boxes").scored, Scored::TrueBoxes);
        assert_eq!(of("true-boxes").config.retrain, of("adaptive").config.retrain);
        // Three seeds, and what runs of a seed have in common done once.
        assert_eq!(planned.entries.len(), 3 * 9);
        let times: Vec<usize> = work(&planned.entries).iter().map(|work| work.times).collect();
        assert_eq!(times, [3, 3 * 3, 3 * 5, 3 * 2, 3 * 4]);
        assert!(of("plain").config.data.path.ends_with("sets/playing_cards"));
    }

    #[test]
    fn what_is_misspelt_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sweep.toml");
        let base = configs().join("playing_cards.toml");
        let says = |runs: &str, expected: &str| {
            let base = base.display().to_string();
            std::fs::write(&path, format!("base = {base:?}\n{runs}")).unwrap();
            let error = format!("{:#}", read(&path, &[], None).unwrap_err());
            assert!(error.contains(expected), "{error}");
        };
        says("[[runs]]\nname = \"a\"\ndetector.week = \"oicr\"", "unknown field `week`");
        says("[[runs]]\nname = \"a\"\nscored = \"none\"", "none");
        says("[[runs]]\nname = \"a/b\"", "letters");
        says("score = \"val\"\n[[runs]]\nname = \"a\"", "data.others");
        says("runs = []", "nothing to run");
        says("sets = []\nruns = []", "unknown field `sets`");
    }
}
