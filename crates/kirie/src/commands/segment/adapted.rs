//! `kirie segment --adapters`: a registry's domains at work.

use std::path::Path;

use kirie_moda::base::{Base, BaseConfig};
use kirie_moda::pool::AdapterPool;
use kirie_moda::registry::Registry;
use kirie_sam::checkpoint::StateDict;

use crate::args::SegmentArgs;
use crate::report;
use crate::weights::{self, DEFAULT_MODEL};

/// The model that the domains were learned on.
pub(super) fn base(args: &SegmentArgs) -> anyhow::Result<Base> {
    let device = args.model.device.open()?;
    let variant = weights::variant(args.model.model.as_deref().unwrap_or(DEFAULT_MODEL))?;
    let weights = match &args.model.weights {
        Some(path) => StateDict::open(path)?,
        None => weights::at_hand(variant)?,
    };
    let config =
        BaseConfig { name: variant.name.to_owned(), input: args.model.input, ..BaseConfig::default() };
    Ok(Base::new(&config, &weights, &device)?)
}

/// The enabled domains. One that is damaged, or of another base, is named and left out; the rest goes on.
pub(super) fn open<'a>(registry: &Path, base: &'a Base) -> anyhow::Result<AdapterPool<'a>> {
    let live = Registry::open(registry)?.live()?;
    for (name, reason) in &live.damaged {
        report::note(&format!("{name} is left out: {reason}"));
    }
    let folders: Vec<_> = live.domains.into_iter().map(|domain| domain.folder).collect();
    let (pool, refused) = AdapterPool::open(base, &folders)?;
    for refused in &refused {
        report::note(&format!("{} is left out: {}", refused.folder.display(), refused.reason));
    }
    anyhow::ensure!(
        pool.names().next().is_some(),
        "{}: none of its domains can be used with this model",
        registry.display()
    );
    Ok(pool)
}
