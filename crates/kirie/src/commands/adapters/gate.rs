//! What `kirie adapters add`, `import` and `enable` look at before pictures are routed to a domain.

use std::path::{Path, PathBuf};

use kirie_moda::base::{Base, BaseConfig};
use kirie_moda::gate::{Probe, probe};
use kirie_moda::registry::{RegistryError, Writer};
use kirie_moda::store::{ROUTER, learned_input};
use kirie_sam::checkpoint::StateDict;

use crate::args::GateArgs;
use crate::report::{self, Table};
use crate::{domains, weights};

/// The domains that are at work, for newcomers to be held against.
pub(super) struct Gate<'a> {
    args: &'a GateArgs,
    /// The base that the registry is of.
    model: String,
    /// By name.
    there: Vec<(String, PathBuf)>,
    /// Domains that cannot be probed, which has yet to be said.
    mute: Vec<String>,
}

impl<'a> Gate<'a> {
    /// The enabled domains. One that is damaged is named and left out.
    pub(super) fn new(writer: &Writer, args: &'a GateArgs) -> Result<Self, RegistryError> {
        let live = writer.registry().live()?;
        for (name, reason) in &live.damaged {
            report::note(&format!("{name} is not probed: {reason}"));
        }
        let domains = live.domains.into_iter().map(|domain| (domain.manifest.name, domain.folder));
        let (there, mute): (Vec<_>, Vec<_>) = domains.partition(|(_, folder)| folder.join(ROUTER).is_file());
        let mute = mute.into_iter().map(|(name, _)| name).collect();
        Ok(Self { args, model: live.index.base.model, there, mute })
    }

    /// Routes the exemplars of all domains with and without a newcomer, which counts as there afterwards. `added`: whether the registry
    /// has it already. With no other domain at work there is nothing to find out.
    ///
    /// # Errors
    /// [`RegistryError::Refused`].
    pub(super) fn probe(
        &mut self,
        name: &str,
        folder: &Path,
        added: bool,
    ) -> Result<Vec<Probe>, RegistryError> {
        let refused = |reason: String| RegistryError::Refused { name: name.to_owned(), reason, added };
        if !folder.join(ROUTER).is_file() {
            report::note(&format!(
                "{name} is not probed: it has no {ROUTER}, so no picture can be routed to it"
            ));
            return Ok(Vec::new());
        }
        for mute in self.mute.drain(..) {
            report::note(&format!("{mute} is not probed: it has no {ROUTER}"));
        }
        let old = self.there.iter().position(|(other, _)| other == name).map(|at| self.there.remove(at).1);
        let there: Vec<PathBuf> = self.there.iter().map(|(_, folder)| folder.clone()).collect();
        self.there.push((name.to_owned(), folder.to_owned()));
        if there.is_empty() && old.is_none() {
            return Ok(Vec::new());
        }
        let base =
            self.base(folder).map_err(|error| refused(format!("its base cannot be run: {error:#}")))?;
        let kept = domains::kept_routers();
        let probed = probe(&base, &there, old.as_deref(), folder, kept.as_deref())
            .map_err(|error| refused(error.to_string()))?;
        for left_out in &probed.left_out {
            report::note(&format!("{} is not probed: {}", left_out.folder.display(), left_out.reason));
        }
        match probed.objection(f64::from(self.args.may_lose)) {
            Some(objection) => Err(refused(objection)),
            None => Ok(probed.probes),
        }
    }

    fn base(&self, folder: &Path) -> anyhow::Result<Base> {
        let device = self.args.machine.device.open()?;
        let file = match &self.args.weights {
            Some(path) => StateDict::open(path)?,
            None => weights::at_hand(weights::variant(&self.model)?)?,
        };
        let config =
            BaseConfig { name: self.model.clone(), input: learned_input(folder), ..BaseConfig::default() };
        Ok(Base::new(&config, &file, &device)?)
    }
}

/// Prints who answers which exemplars.
pub(super) fn tell(probes: &[Probe]) -> anyhow::Result<()> {
    if probes.is_empty() {
        return Ok(());
    }
    let mut table = Table::new(1, &["domain", "exemplars", "answered before", "answered now"]);
    for probe in probes {
        table.row(vec![
            probe.domain.clone(),
            probe.exemplars.to_string(),
            probe.before.map_or_else(|| "-".to_owned(), |before| before.to_string()),
            probe.after.to_string(),
        ]);
    }
    let mut text = String::new();
    table.write(&mut text, 0);
    report::print(&text)
}
