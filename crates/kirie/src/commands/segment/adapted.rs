//! `kirie segment --adapters`: a registry's domains at work.

use std::path::{Path, PathBuf};

use kirie_moda::registry::Registry;

use crate::report;

/// The folders of the enabled domains. One that is damaged is named and left out; the rest goes on.
pub(super) fn folders(registry: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let live = Registry::open(registry)?.live()?;
    for (name, reason) in &live.damaged {
        report::note(&format!("{name} is left out: {reason}"));
    }
    Ok(live.domains.into_iter().map(|domain| domain.folder).collect())
}
