//! Whether domains still answer their own pictures when another is put to use beside them.
//!
//! The pictures are gone; their exemplars are routed in their place, before and after. The router learned from them, so this finds
//! domains that are in each other's way (the same pictures under two names, a domain that no picture reaches), and not small losses on
//! new pictures: those take labelled pictures, see [`crate::measure`].

use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::base::Base;
use crate::error::ContinualError;
use crate::pool::Refused;
use crate::store::DomainState;
use crate::together::assemble;

/// A domain's exemplars by who answers them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Probe {
    /// The domain.
    pub domain: String,
    /// Its exemplars.
    pub exemplars: usize,
    /// How many of them it answered without the newcomer; `None` for the newcomer itself.
    pub before: Option<usize>,
    /// How many it answers with it.
    pub after: usize,
}

impl Probe {
    /// Whether it loses more than so many percent of its exemplars; of a newcomer all are its own to lose.
    pub fn loses_more_than(&self, percent: f64) -> bool {
        let lost = self.before.unwrap_or(self.exemplars).saturating_sub(self.after);
        100.0 * lost as f64 > percent * self.exemplars as f64
    }
}

/// What came of probing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Probed {
    /// Every domain that was there, the one that is replaced as the last of them, then the newcomer.
    pub probes: Vec<Probe>,
    /// Domains that could not be read, and why; whoever answers with them leaves them out too.
    pub left_out: Vec<Refused>,
}

impl Probed {
    /// What speaks against the newcomer, if a domain loses more than so many percent of its exemplars.
    pub fn objection(&self, percent: f64) -> Option<String> {
        let losing = self.probes.iter().filter(|probe| probe.loses_more_than(percent));
        let told = losing.map(|Probe { domain, exemplars, before, after }| match before {
            Some(before) => {
                format!(
                    "{domain} would answer {after} of its {exemplars} exemplars, and answers {before} now"
                )
            }
            None => format!("it would answer {after} of its own {exemplars} exemplars"),
        });
        let told: Vec<String> = told.collect();
        (!told.is_empty()).then(|| told.join("; "))
    }
}

/// Routes the exemplars of the domains in the folders `there`, before and after the one in the folder `new` comes to them, in the place
/// of the one in `replaced` where it is a new version of that. `kept` as for [`assemble`].
///
/// # Errors
/// A newcomer that cannot be read, whose name is another's, or whose exemplars are of another shape.
pub fn probe(
    base: &Base,
    there: &[PathBuf],
    replaced: Option<&Path>,
    new: &Path,
    kept: Option<&Path>,
) -> Result<Probed, ContinualError> {
    let new = DomainState::load(new, base)?;
    let mut probed = Probed::default();
    let mut after: Vec<DomainState> = Vec::new();
    let mut old = None;
    for folder in there.iter().map(PathBuf::as_path).chain(replaced) {
        let reason = match DomainState::load(folder, base) {
            Ok(state) if after.first().is_some_and(|first| first.router.grid != state.router.grid) => {
                "its exemplars have another router.grid than those before".to_owned()
            }
            Ok(state) if replaced == Some(folder) => {
                old = Some(state);
                continue;
            }
            Ok(state) => {
                after.push(state);
                continue;
            }
            Err(error) => error.to_string(),
        };
        probed.left_out.push(Refused { folder: folder.to_owned(), reason });
    }
    let before: Vec<DomainState> = after.iter().cloned().chain(old).collect();
    after.push(new.clone());
    let now = if before.is_empty() { Vec::new() } else { answered(&before, before.clone(), base, kept)? };
    let asked: Vec<DomainState> = before.into_iter().chain([new]).collect();
    let then = answered(&asked, after, base, kept)?;
    probed.probes = asked
        .iter()
        .zip(then)
        .enumerate()
        .map(|(at, (state, after))| Probe {
            domain: state.name.clone(),
            exemplars: state.probes().count(),
            before: now.get(at).copied(),
            after,
        })
        .collect();
    Ok(probed)
}

/// How many of each domain's exemplars a domain of its name answers, of those that are at work.
fn answered(
    asked: &[DomainState],
    at_work: Vec<DomainState>,
    base: &Base,
    kept: Option<&Path>,
) -> Result<Vec<usize>, ContinualError> {
    let (domains, router) = assemble(at_work, base, kept)?;
    let own = |state: &DomainState| {
        let by = |features| router.route(features, base).domain.and_then(|at| domains.get(at));
        state.probes().filter(|features| by(features).is_some_and(|domain| domain.name == state.name)).count()
    };
    Ok(asked.iter().map(own).collect())
}

#[cfg(test)]
mod tests;
