//! What another way of telling domains apart would have made of a finished run. The adapters stay as they are: the router is trained
//! again after each domain, from the exemplars that it would have had, and every picture is routed and measured anew.

use std::collections::HashMap;
use std::path::Path;

use kirie_run::{ProgressMode, RunFolder, Stop};
use serde::{Deserialize, Serialize};

use super::stream::{Stream, Telling};
use super::{Study, Summary, open_domains, read_json, run_name, write_json};
use crate::base::Base;
use crate::config::{ExemplarConfig, ExemplarKind, StudyConfig};
use crate::error::ContinualError;
use crate::router::RouterConfig;
use crate::strategy::Strategy;

/// The results, in the study's folder.
const FILE: &str = "ablation.json";
/// Numbers of exemplars that are usually compared.
const COUNTS: [usize; 4] = [1, 5, 10, 50];

/// One way of telling domains apart: what is said here in place of what the study is configured to: `[[ablation]]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Ablation {
    /// Its name in reports, once in a study.
    pub name: String,
    /// `router.learn_tokens`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub learn_tokens: Option<bool>,
    /// `router.abstain`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub abstain: Option<bool>,
    /// `router.assistants`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub assistants: Option<usize>,
    /// Whether the router is shown `data.reference`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reference: Option<bool>,
    /// `exemplars.count`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub count: Option<usize>,
    /// `exemplars.kind`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<ExemplarKind>,
}

impl Ablation {
    /// The run as it was: what the others are held against.
    pub fn none() -> Self {
        Self { name: "as configured".to_owned(), ..Self::default() }
    }

    /// The usual ones, of those that differ from the configuration: tokens trained or random, with and without the way out to the
    /// base, without reference pictures, 1, 5, 10 and 50 exemplars, features or pictures.
    pub fn usual(config: &StudyConfig) -> Vec<Self> {
        let RouterConfig { learn_tokens, abstain, .. } = config.router;
        let named = |name: &str| Self { name: name.to_owned(), ..Self::default() };
        let mut all = vec![
            Self {
                learn_tokens: Some(!learn_tokens),
                ..named(if learn_tokens { "random tokens" } else { "trained tokens" })
            },
            Self {
                abstain: Some(!abstain),
                ..named(if abstain { "without abstaining" } else { "with abstaining" })
            },
        ];
        if !config.data.reference.is_empty() {
            all.push(Self { reference: Some(false), ..named("without reference") });
            if abstain {
                let name = "without abstaining and reference";
                all.push(Self { abstain: Some(false), reference: Some(false), ..named(name) });
            }
        }
        for count in COUNTS.into_iter().filter(|count| *count != config.exemplars.count) {
            let name = if count == 1 { "1 exemplar".to_owned() } else { format!("{count} exemplars") };
            all.push(Self { count: Some(count), ..named(&name) });
        }
        let (kind, name) = match config.exemplars.kind {
            ExemplarKind::Features => (ExemplarKind::Pictures, "pictures as exemplars"),
            ExemplarKind::Pictures => (ExemplarKind::Features, "features as exemplars"),
        };
        all.push(Self { kind: Some(kind), ..named(name) });
        all
    }

    /// Checks names and numbers.
    pub(crate) fn check_all(all: &[Self]) -> Result<(), ContinualError> {
        let none = Self::none();
        for (at, ablation) in all.iter().enumerate() {
            let name = &ablation.name;
            if name.is_empty() || *name == none.name || all[..at].iter().any(|other| other.name == *name) {
                let expected = format!("a name of its own for each, and not {:?}", none.name);
                return Err(ContinualError::setting("ablation.name", format!("{name:?}"), expected));
            }
            if ablation.count == Some(0) {
                return Err(ContinualError::setting(format!("ablation {name:?}: count"), 0, "1 or more"));
            }
            if (Self { name: String::new(), ..ablation.clone() }) == Self::default() {
                let expected = "learn_tokens, abstain, assistants, reference, count or kind";
                return Err(ContinualError::setting(format!("ablation {name:?}"), "empty", expected));
            }
            ablation.router(RouterConfig::default()).check()?;
        }
        Ok(())
    }

    fn router(&self, configured: RouterConfig) -> RouterConfig {
        RouterConfig {
            learn_tokens: self.learn_tokens.unwrap_or(configured.learn_tokens),
            abstain: self.abstain.unwrap_or(configured.abstain),
            assistants: self.assistants.unwrap_or(configured.assistants),
            ..configured
        }
    }

    fn exemplars(&self, configured: ExemplarConfig) -> ExemplarConfig {
        ExemplarConfig {
            count: self.count.unwrap_or(configured.count),
            kind: self.kind.unwrap_or(configured.kind),
        }
    }
}

/// What came of one way.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ablated {
    /// The way.
    pub ablation: Ablation,
    /// The runs of MoDA, told apart so; adapters, their costs and what the base answers are those of the run.
    pub summaries: Vec<Summary>,
}

/// Tells the domains of every finished run of MoDA apart in every way that the configuration names (the usual ones where it names none),
/// and writes `ablation.json` into the study's folder after each run. The pictures that exemplars are taken from are read again. What
/// was done when it was asked to stop is returned.
///
/// # Errors
/// A study without a finished run of MoDA; sets and files that cannot be read or written.
pub fn ablate(
    config: &StudyConfig,
    base: &Base,
    folder: &RunFolder,
    stop: &Stop,
    mode: ProgressMode,
) -> Result<Vec<Ablated>, ContinualError> {
    config.check()?;
    let mut runs: Vec<(usize, u64)> = Vec::new();
    for (order, seed, strategy) in super::runs(config) {
        let path = folder.path().join("runs").join(run_name(config, strategy, order, seed));
        if strategy == Strategy::Moda && path.join("summary.json").is_file() {
            runs.push((order, seed));
        }
    }
    if runs.is_empty() {
        let reason = "expected a finished run of moda, found none; ablations leave adapters as they are";
        return Err(ContinualError::state(folder.path(), reason));
    }
    let domains = open_domains(config)?;
    let study = Study::open(config, base, &domains, stop, mode)?;
    let ways = if config.ablation.is_empty() { Ablation::usual(config) } else { config.ablation.clone() };
    let mut all: Vec<Ablated> = std::iter::once(Ablation::none())
        .chain(ways)
        .map(|ablation| Ablated { ablation, summaries: Vec::new() })
        .collect();
    for (order, seed) in runs {
        let path = folder.path().join("runs").join(run_name(config, Strategy::Moda, order, seed));
        let mut scored = HashMap::new();
        for Ablated { ablation, summaries } in &mut all {
            if stop.requested() {
                break;
            }
            let shown = ablation.reference != Some(false);
            let telling = Telling {
                router: ablation.router(config.router),
                exemplars: ablation.exemplars(config.exemplars),
                reference: if shown { &study.reference } else { &[] },
            };
            let stream = Stream::new(&study, &path, Strategy::Moda, order, seed)?;
            let summary;
            (summary, scored) = stream.told_apart_by(telling, scored)?;
            summaries.push(summary);
        }
        write_json(&folder.path().join(FILE), &all)?;
    }
    Ok(all)
}

/// What [`ablate`] found before; nothing where it was not asked.
///
/// # Errors
/// A file that cannot be read.
pub fn ablated(folder: &Path) -> Result<Vec<Ablated>, ContinualError> {
    Ok(read_json(&folder.join(FILE))?.unwrap_or_default())
}
