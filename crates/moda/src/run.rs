//! The runs of a study: every strategy with every order and seed, each domain after domain, resumable in and between them.
//!
//! ```text
//! STUDY/                        a run folder: config.toml, metrics.json, report.html, scores.csv
//!   runs/moda-given-s0/         one strategy, order and seed
//!     steps/00-crack_cfd/       one domain
//!       training/               its training, a run folder, as long as it goes on
//!       adapter.safetensors     what was trained
//!       domain/                 moda: the domain's state, see [`crate::store`]
//!       ewc.safetensors         ewc: what it remembers
//!       row.json                its scores; the step is done when this is there
//!     summary.json              figures of the run
//!   ablation.json               what another router would have made of it, see [`ablate`]
//! ```

mod ablation;
mod figures;
mod stream;

use std::fs;
use std::path::Path;

use kirie_data::{create_parent, write_atomic};
use kirie_run::config::to_toml;
use kirie_run::{Progress, ProgressMode, RunFolder, Stop};
use serde::Serialize;
use serde::de::DeserializeOwned;

pub use ablation::{Ablated, Ablation, ablate, ablated};
pub use figures::{Figures, Row, SetRow, Summary, summarise};

use crate::base::Base;
use crate::config::StudyConfig;
use crate::data::{Domain, Part, spread};
use crate::error::ContinualError;
use crate::evaluate::{ByPrompt, TestSet, score_kinds};
use crate::items::{Items, Keep, Maker, router_features};
use crate::prompts::Pick;
use crate::report::Report;
use crate::router::RouterFeatures;
use crate::strategy::Strategy;
use stream::Stream;

/// The figures of all finished runs.
pub const SCORES: &str = "scores.csv";

/// How a study was done.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Whether every run is finished.
    pub complete: bool,
    /// Finished runs, in the order of the configuration.
    pub summaries: Vec<Summary>,
    /// What is read off them together.
    pub report: Report,
}

/// What the runs of a study share.
pub(crate) struct Study<'a> {
    config: &'a StudyConfig,
    base: &'a Base,
    items: Items<'a>,
    /// The domains' test sets in the given order, then the natural ones.
    sets: Vec<TestSet>,
    /// Scores of the base on every case of every set.
    zero_shot: Vec<Vec<ByPrompt>>,
    /// Features of pictures that the base is to answer.
    reference: Vec<RouterFeatures>,
    stop: &'a Stop,
    mode: ProgressMode,
}

/// Opens the domains of a study, in the given order.
///
/// # Errors
/// By domain: sets that cannot be opened, and those without a picture to learn from or measure on.
pub fn open_domains(config: &StudyConfig) -> Result<Vec<Domain>, ContinualError> {
    let (root, data) = (config.root(), &config.data);
    let open = data.domains.iter().map(|domain| Domain::open(domain, &root, data.hold_out, data.train_limit));
    open.collect()
}

/// Does every run that is not done yet, and writes the reports after each.
///
/// # Errors
/// Settings out of range, sets and files that cannot be read or written, a loss that is no number.
pub fn study(
    config: &StudyConfig,
    base: &Base,
    folder: &RunFolder,
    stop: &Stop,
    mode: ProgressMode,
) -> Result<Outcome, ContinualError> {
    config.check()?;
    let domains = open_domains(config)?;
    let study = Study::open(config, base, &domains, stop, mode)?;
    let mut outcome =
        Outcome { complete: true, summaries: Vec::new(), report: Report::new(config, &[], &[]) };
    for (order, seed, strategy) in runs(config) {
        let name = run_name(config, strategy, order, seed);
        let path = folder.path().join("runs").join(&name);
        let summary = match read_json::<Summary>(&path.join("summary.json"))? {
            Some(done) => Some(done),
            None if stop.requested() => None,
            None => Stream::new(&study, &path, strategy, order, seed)?.run()?,
        };
        match summary {
            Some(summary) => {
                write_json(&path.join("summary.json"), &summary)?;
                outcome.summaries.push(summary);
                outcome.report = crate::report::write(folder, config, &outcome.summaries)?;
            }
            None => outcome.complete = false,
        }
    }
    Ok(outcome)
}

/// The finished runs of a study, in the order of the configuration; nothing is measured again.
///
/// # Errors
/// Files that cannot be read.
pub fn finished(config: &StudyConfig, folder: &Path) -> Result<Vec<Summary>, ContinualError> {
    let mut summaries = Vec::new();
    for (order, seed, strategy) in runs(config) {
        let path = folder.join("runs").join(run_name(config, strategy, order, seed));
        summaries.extend(read_json::<Summary>(&path.join("summary.json"))?);
    }
    Ok(summaries)
}

/// Every run of a study: order, seed, strategy.
fn runs(config: &StudyConfig) -> Vec<(usize, u64, Strategy)> {
    let mut runs = Vec::new();
    for order in 0..config.orders.len() {
        for &seed in &config.seeds {
            runs.extend(config.strategies.iter().map(|strategy| (order, seed, *strategy)));
        }
    }
    runs
}

fn run_name(config: &StudyConfig, strategy: Strategy, order: usize, seed: u64) -> String {
    format!("{}-{}-s{seed}", strategy.name(), config.order_name(order))
}

fn test_sets(
    config: &StudyConfig,
    domains: &[Domain],
    maker: &Maker<'_>,
    mode: ProgressMode,
) -> Result<Vec<TestSet>, ContinualError> {
    let (data, root) = (&config.data, config.root());
    let mut parts: Vec<(String, bool, Part, Vec<usize>)> = Vec::new();
    for domain in domains {
        let (part, chosen) = if data.measure_held_out {
            (&domain.part, domain.held_out.clone())
        } else {
            (&domain.test, spread(domain.test.len(), data.test_limit))
        };
        if chosen.is_empty() {
            return Err(ContinualError::domain(&domain.name, "no picture is left to measure on"));
        }
        parts.push((domain.name.clone(), false, part.clone(), chosen));
    }
    // Natural sets have no pictures held out, and settings are not chosen on what is measured in the end.
    for set in data.natural.iter().filter(|_| !data.measure_held_out) {
        let part = Part::open(&root.join(&set.path), &set.part, &set.foreground, None, None)?;
        if part.is_empty() {
            return Err(ContinualError::domain(&set.name, "no picture has a foreground"));
        }
        let chosen = spread(part.len(), data.test_limit);
        parts.push((set.name.clone(), true, part, chosen));
    }
    let total: usize = parts.iter().map(|(.., chosen)| chosen.len()).sum();
    let mut progress = Progress::new("picture to measure on", total as u64, 0, mode);
    let mut done = 0;
    let mut sets = Vec::new();
    for (name, natural, part, chosen) in parts {
        let mut tell = || {
            done += 1;
            progress.set(done, "");
        };
        sets.push(TestSet::open(maker, &name, natural, &part, &chosen, &mut tell)?);
    }
    progress.finish();
    Ok(sets)
}

/// Reads a JSON file, if it is there. One that is damaged counts as not there: what it held is made again.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, ContinualError> {
    match fs::read(path) {
        Ok(bytes) => Ok(serde_json::from_slice(&bytes).ok()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(ContinualError::io("read", path)(error)),
    }
}

/// Writes a JSON file, whole or not at all.
pub(crate) fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<(), ContinualError> {
    create_parent(path)?;
    let text =
        serde_json::to_string_pretty(value).map_err(|error| ContinualError::state(path, error))? + "\n";
    Ok(write_atomic(path, |file| file.write_all(text.as_bytes()))?)
}

impl<'a> Study<'a> {
    /// Reads and encodes what is measured on, and measures the base.
    fn open(
        config: &'a StudyConfig,
        base: &'a Base,
        domains: &'a [Domain],
        stop: &'a Stop,
        mode: ProgressMode,
    ) -> Result<Self, ContinualError> {
        let keep = Keep::needed(&config.adapter, base);
        let maker = Maker { base, augment: config.augment, grid: config.router.grid, keep };
        let sets = test_sets(config, domains, &maker, mode)?;
        let mut reference = Vec::new();
        for set in &config.data.reference {
            let part = Part::open(&config.root().join(&set.path), &set.part, &set.foreground, None, None)?;
            let chosen = spread(part.len(), config.data.reference_limit);
            reference.extend(router_features(&maker, &part, &chosen)?);
        }
        let of_set = |set: &TestSet| {
            let cases: Vec<_> = set.cases.iter().collect();
            score_kinds(&maker, None, &cases, &config.data.prompts, Pick::default())
        };
        let zero_shot = sets.iter().map(of_set).collect::<Result<_, _>>()?;
        let items = Items::new(maker, domains);
        Ok(Self { config, base, items, sets, zero_shot, reference, stop, mode })
    }

    /// The folder of a domain's training: made, or opened to go on.
    fn training_folder(&self, path: &Path) -> Result<RunFolder, ContinualError> {
        create_parent(path.join("x"))?;
        let folder = match RunFolder::open(path) {
            Ok(folder) => folder,
            Err(kirie_run::RunError::NoRun { .. }) => RunFolder::create(path)?,
            Err(error) => return Err(error.into()),
        };
        folder.write_config(&to_toml(self.config)?)?;
        Ok(folder)
    }
}

#[cfg(test)]
mod tests;
