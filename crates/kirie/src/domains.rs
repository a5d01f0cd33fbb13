//! From `--model`, `--weights` and folders of domains to what answers by them.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use burn::tensor::Device;
use kirie_data::Image;
use kirie_moda::base::{Base, BaseConfig};
use kirie_moda::pool::{AdaptedEngine, AdapterPool, Refused};
use kirie_moda::registry::Registry;
use kirie_moda::store::learned_input;
use kirie_sam::checkpoint::StateDict;
use kirie_sam::engine::{LowResMasks, PromptBatch};
use kirie_sam::registry::Preprocess;
use kirie_sam::{DecodeMode, Embedding, Engine, HostTensor, SamError, hub};
use kirie_serve::{DomainError, DomainSource, Domains};

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

/// Reads domains for the service.
pub(crate) struct ServedDomains {
    model: String,
    weights: Option<PathBuf>,
    device: Device,
    /// By the side of the input. Made once and kept as long as the program runs, so that whatever answers can borrow them.
    bases: Mutex<HashMap<Option<u32>, &'static Base>>,
}

impl ServedDomains {
    /// For the model that is served.
    pub(crate) fn new(args: &ModelArgs, model: &str) -> anyhow::Result<Self> {
        let device = args.machine.device.open()?;
        Ok(Self { model: model.to_owned(), weights: args.weights.clone(), device, bases: Mutex::default() })
    }

    fn base(&self, input: Option<u32>) -> anyhow::Result<&'static Base> {
        let mut bases = self.bases.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(base) = bases.get(&input) {
            return Ok(base);
        }
        let file = match &self.weights {
            Some(path) => StateDict::open(path)?,
            None => weights::at_hand(weights::variant(&self.model)?)?,
        };
        let config = BaseConfig { name: self.model.clone(), input, ..BaseConfig::default() };
        let base: &'static Base = Box::leak(Box::new(Base::new(&config, &file, &self.device)?));
        bases.insert(input, base);
        Ok(base)
    }

    fn open(&self, folders: &[PathBuf], mut left_out: Vec<String>) -> anyhow::Result<Arc<dyn Domains>> {
        let base = self.base(folders.iter().find_map(|folder| learned_input(folder)))?;
        let (pool, refused) = AdapterPool::open(base, folders, kept_routers().as_deref())?;
        left_out.extend(
            refused.iter().map(|refused| format!("{}: {}", refused.folder.display(), refused.reason)),
        );
        Ok(Arc::new(Opened { base, pool: Arc::new(pool), left_out }))
    }
}

impl DomainSource for ServedDomains {
    fn registry(&self, folder: &Path) -> Result<Arc<dyn Domains>, DomainError> {
        let live = Registry::open(folder)?.live()?;
        let damaged = live.damaged.iter().map(|(name, reason)| format!("{name}: {reason}")).collect();
        let folders: Vec<PathBuf> = live.domains.into_iter().map(|domain| domain.folder).collect();
        Ok(self.open(&folders, damaged)?)
    }

    fn domain(&self, folder: &Path) -> Result<Arc<dyn Domains>, DomainError> {
        Ok(self.open(&[folder.to_owned()], Vec::new())?)
    }
}

struct Opened {
    base: &'static Base,
    pool: Arc<AdapterPool<'static>>,
    left_out: Vec<String>,
}

impl Domains for Opened {
    fn names(&self) -> Vec<String> {
        self.pool.names().map(str::to_owned).collect()
    }

    fn left_out(&self) -> Vec<String> {
        self.left_out.clone()
    }

    fn route(&self, picture: &Image) -> Result<Option<String>, SamError> {
        let route = self.pool.route(picture).map_err(|error| SamError::Engine(error.to_string()))?;
        Ok(self.pool.name(route.as_ref()).map(str::to_owned))
    }

    fn engine(&self, name: &str) -> Option<Arc<dyn Engine>> {
        let at = self.pool.names().position(|other| other == name)?;
        Some(Arc::new(DomainEngine { base: self.base, pool: Arc::clone(&self.pool), at }))
    }
}

/// One domain of a pool, which it keeps alive.
struct DomainEngine {
    base: &'static Base,
    pool: Arc<AdapterPool<'static>>,
    at: usize,
}

impl DomainEngine {
    fn adapted(&self) -> AdaptedEngine<'_> {
        AdaptedEngine {
            base: self.base,
            adapter: self.pool.domains().get(self.at).map(|domain| &domain.adapter),
        }
    }
}

impl Engine for DomainEngine {
    fn model(&self) -> &str {
        self.base.name()
    }

    fn preprocess(&self) -> Preprocess {
        self.base.preprocess()
    }

    fn mask_side(&self) -> usize {
        self.base.mask_side()
    }

    fn encode(&self, pixels: HostTensor) -> Result<Embedding, SamError> {
        self.adapted().encode(pixels)
    }

    fn decode(
        &self,
        embedding: &Embedding,
        prompts: &PromptBatch,
        mode: DecodeMode,
    ) -> Result<LowResMasks, SamError> {
        self.adapted().decode(embedding, prompts, mode)
    }
}
