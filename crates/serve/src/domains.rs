//! Kinds of pictures that the model was taught one after another ("domains"), and which of them are at work.
//!
//! What was learned lies in a registry in the store's folder, `adapters/`, kept by `kirie adapters`. A picture that is like those of a
//! domain is answered by that domain's adapter, any other by the model as it is. The program brings what reads a registry; the service
//! only asks.

use std::fmt::{Debug, Formatter};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use kirie_data::Image;
use kirie_sam::{Engine, SamError};

/// Folder of the registry, in the store's.
pub(crate) const REGISTRY: &str = "adapters";

/// What is wrong with a registry or a domain, in words for a person.
pub type DomainError = Box<dyn std::error::Error + Send + Sync>;

/// Domains at work.
pub trait Domains: Send + Sync {
    /// Their names.
    fn names(&self) -> Vec<String>;

    /// Those that are there and cannot be used, each with the reason.
    fn left_out(&self) -> Vec<String>;

    /// The domain that a picture is like; `None`: the model as it is answers.
    ///
    /// # Errors
    /// A picture that cannot be prepared.
    fn route(&self, picture: &Image) -> Result<Option<String>, SamError>;

    /// What answers the pictures of a domain; `None` for one that is not there.
    fn engine(&self, name: &str) -> Option<Arc<dyn Engine>>;
}

/// Reads what was learned.
pub trait DomainSource: Send + Sync {
    /// The enabled domains of a registry. One that is damaged, or of another model, is left out.
    ///
    /// # Errors
    /// No registry, or a damaged one.
    fn registry(&self, folder: &Path) -> Result<Arc<dyn Domains>, DomainError>;

    /// One domain, from the folder that its training left.
    ///
    /// # Errors
    /// A folder that holds none, or one of another model.
    fn domain(&self, folder: &Path) -> Result<Arc<dyn Domains>, DomainError>;
}

/// The models of a service.
#[derive(Clone)]
pub struct Engines {
    /// Answers prompts.
    pub prompts: Arc<dyn Engine>,
    /// Finds everything; some models do that at a larger input.
    pub everything: Arc<dyn Engine>,
    /// Reads what was learned of domains; without it none is answered by.
    pub domains: Option<Arc<dyn DomainSource>>,
}

impl<E: Engine + 'static> From<Arc<E>> for Engines {
    /// One model for all.
    fn from(engine: Arc<E>) -> Self {
        Self { prompts: engine.clone(), everything: engine, domains: None }
    }
}

/// The domains that pictures are answered by now.
#[derive(Clone)]
pub(crate) struct AtWork {
    source: Option<Arc<dyn DomainSource>>,
    registry: PathBuf,
    now: Arc<RwLock<Now>>,
}

#[derive(Clone, Default)]
struct Now {
    /// Counts changes: what was made ready before one is not what would be made now.
    generation: u64,
    domains: Option<Arc<dyn Domains>>,
    problem: Option<String>,
}

impl Debug for AtWork {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AtWork").field("registry", &self.registry).finish_non_exhaustive()
    }
}

impl AtWork {
    pub(crate) fn new(store: &Path, source: Option<Arc<dyn DomainSource>>) -> Self {
        Self { source, registry: store.join(REGISTRY), now: Arc::default() }
    }

    /// Reads the registry anew; blocks. What is wrong with it is kept to be told, and the model answers as it is.
    pub(crate) fn read(&self) {
        let opened = match &self.source {
            Some(source) if self.registry.join("current.json").exists() => source.registry(&self.registry),
            _ => {
                self.change(None, None);
                return;
            }
        };
        match opened {
            Ok(domains) => {
                let left_out = domains.left_out();
                let problem = (!left_out.is_empty()).then(|| left_out.join("; "));
                self.change(Some(domains).filter(|domains| !domains.names().is_empty()), problem);
            }
            Err(error) => self.change(None, Some(error.to_string())),
        }
    }

    fn change(&self, domains: Option<Arc<dyn Domains>>, problem: Option<String>) {
        let plain = problem.map(|words| words.replace(&*self.registry.to_string_lossy(), REGISTRY));
        let mut now = self.now.write().unwrap_or_else(PoisonError::into_inner);
        *now = Now { generation: now.generation + 1, domains, problem: plain };
    }

    fn now(&self) -> Now {
        self.now.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The domains, if there are any, and the number of the change that brought them.
    pub(crate) fn get(&self) -> (u64, Option<Arc<dyn Domains>>) {
        let now = self.now();
        (now.generation, now.domains)
    }

    /// Their names.
    pub(crate) fn names(&self) -> Vec<String> {
        self.now().domains.map(|domains| domains.names()).unwrap_or_default()
    }

    /// What is wrong with the registry.
    pub(crate) fn problem(&self) -> Option<String> {
        self.now().problem
    }

    /// Reads one domain that is not at work; blocks.
    pub(crate) fn other(&self, folder: &Path) -> Result<Arc<dyn Domains>, String> {
        let Some(source) = &self.source else { return Err("this service reads no domains".to_owned()) };
        source.domain(folder).map_err(|error| error.to_string())
    }
}

/// A domain's name, and what answers its pictures.
pub(crate) type Routed = (String, Arc<dyn Engine>);

/// The domain that a picture is like.
pub(crate) fn routed(
    domains: Option<&Arc<dyn Domains>>,
    picture: &Image,
) -> Result<Option<Routed>, SamError> {
    let Some(domains) = domains else { return Ok(None) };
    let name = domains.route(picture)?;
    Ok(name.and_then(|name| Some((domains.engine(&name)?, name))).map(|(engine, name)| (name, engine)))
}
