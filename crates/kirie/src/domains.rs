//! From `--model`, `--weights` and folders of domains to what answers by them.

use std::path::PathBuf;

use kirie_moda::base::{Base, BaseConfig};
use kirie_moda::pool::{AdapterPool, Refused};
use kirie_moda::store::learned_input;
use kirie_sam::checkpoint::StateDict;
use kirie_sam::hub;

use crate::args::ModelArgs;
use crate::report;
use crate::weights::{self, DEFAULT_MODEL};

/// The model that the domains were learned on, at the input they were learned at if `--input` says no other.
pub(crate) fn base(args: &ModelArgs, folders: &[PathBuf]) -> anyhow::Result<Base> {
    let device = args.machine.device.open()?;
    let variant = weights::variant(args.model.as_deref().unwrap_or(DEFAULT_MODEL))?;
    let file = match &args.weights {
        Some(path) => StateDict::open(path)?,
        None => weights::at_hand(variant)?,
    };
    let input = args.input.or_else(|| folders.iter().find_map(|folder| learned_input(folder)));
    let config = BaseConfig { name: variant.name.to_owned(), input, ..BaseConfig::default() };
    Ok(Base::new(&config, &file, &device)?)
}

/// Where routers are kept that were trained for domains of several runs; nowhere for a user without a cache folder.
pub(crate) fn kept_routers() -> Option<PathBuf> {
    Some(hub::cache_dir().ok()?.join("routers"))
}

/// The domains of these folders. One that is damaged, or of another base, is named and left out; the rest goes on.
pub(crate) fn pool<'a>(
    base: &'a Base,
    folders: &[PathBuf],
) -> anyhow::Result<(AdapterPool<'a>, Vec<Refused>)> {
    let (pool, refused) = AdapterPool::open(base, folders, kept_routers().as_deref())?;
    for refused in &refused {
        report::note(&format!("{} is left out: {}", refused.folder.display(), refused.reason));
    }
    anyhow::ensure!(pool.names().next().is_some(), "none of the domains can be used");
    Ok((pool, refused))
}
