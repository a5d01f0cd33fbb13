//! Several domains at once, for whoever has a picture and a prompt: the road from folders to masks.
//!
//! ```no_run
//! # use kirie_moda::{base::{Base, BaseConfig}, pool::AdapterPool};
//! # fn go(base: &Base, picture: &kirie_data::Image) -> Result<(), kirie_moda::ContinualError> {
//! let (pool, refused) = AdapterPool::open(base, &["runs/a/domain".into(), "runs/b/domain".into()], None)?;
//! for refused in &refused {
//!     eprintln!("{}: {}", refused.folder.display(), refused.reason);
//! }
//! let answer = pool.answer(picture, &[kirie_sam::Prompt::bbox(10.0, 10.0, 80.0, 60.0)])?;
//! println!("by {}", answer.domain.unwrap_or("the base"));
//! # Ok(())
//! # }
//! ```

use std::path::{Path, PathBuf};

use burn::tensor::{Tensor, TensorData};
use kirie_data::Image;
use kirie_sam::engine::{LowResMasks, PromptBatch};
use kirie_sam::predictor::prepare;
use kirie_sam::registry::Preprocess;
use kirie_sam::{DecodeMode, Embedding, Engine, HostTensor, Prediction, Predictor, Prompt, SamError};

use crate::adapter::{Adapter, Asked, decode};
use crate::base::Base;
use crate::encoder::Features;
use crate::error::ContinualError;
use crate::prompts::Pick;
use crate::router::{Route, Router, RouterFeatures, pooled};
use crate::store::DomainState;
use crate::together::assemble;
use crate::views::extent;

/// A folder that was left out, for the rest to go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The folder.
    pub folder: PathBuf,
    /// What is wrong with it.
    pub reason: String,
}

/// The domains that pictures may go to.
#[derive(Debug)]
pub struct AdapterPool<'a> {
    base: &'a Base,
    domains: Vec<DomainState>,
    router: Option<Router>,
}

/// The answer to the prompts on one picture.
#[derive(Clone, Debug)]
pub struct PoolAnswer<'p> {
    /// The domain that answered; `None`: the base.
    pub domain: Option<&'p str>,
    /// Why; `None` in a pool without domains.
    pub route: Option<Route>,
    /// One answer for each prompt.
    pub predictions: Vec<Prediction>,
}

impl<'a> AdapterPool<'a> {
    /// Opens folders that [`DomainState::save`] wrote. A folder that is damaged, or of another base, or whose domain came before under
    /// the same name, is left out and named; the rest goes on. Without any domain left the base answers everything. `kept` is the folder
    /// of routers that were trained before, see [`crate::together`].
    ///
    /// # Errors
    /// What is no folder's fault.
    pub fn open(
        base: &'a Base,
        folders: &[PathBuf],
        kept: Option<&Path>,
    ) -> Result<(Self, Vec<Refused>), ContinualError> {
        let (mut domains, mut refused) = (Vec::<DomainState>::new(), Vec::new());
        for folder in folders {
            let state = DomainState::load(folder, base).and_then(|state| {
                let same_grid = |other: &DomainState| other.router.grid == state.router.grid;
                if domains.iter().any(|other| other.name == state.name) {
                    return Err(ContinualError::domain(&state.name, "is there twice, expected once"));
                }
                if !domains.iter().all(same_grid) {
                    let reason = "its exemplars have another router.grid than those before";
                    return Err(ContinualError::domain(&state.name, reason));
                }
                Ok(state)
            });
            match state {
                Ok(state) => domains.push(state),
                Err(error) => refused.push(Refused { folder: folder.clone(), reason: error.to_string() }),
            }
        }
        Ok((Self::of_domains(base, domains, kept)?, refused))
    }

    /// The same from states in memory.
    ///
    /// # Errors
    /// Two domains of a name.
    pub fn of_domains(
        base: &'a Base,
        domains: Vec<DomainState>,
        kept: Option<&Path>,
    ) -> Result<Self, ContinualError> {
        if domains.is_empty() {
            return Ok(Self { base, domains, router: None });
        }
        let (domains, router) = assemble(domains, base, kept)?;
        Ok(Self { base, domains, router: Some(router) })
    }

    /// Names of the domains.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.domains.iter().map(|domain| domain.name.as_str())
    }

    /// The domains.
    pub fn domains(&self) -> &[DomainState] {
        &self.domains
    }

    /// Where a picture goes; `None` in a pool without domains.
    ///
    /// # Errors
    /// A picture that cannot be prepared.
    pub fn route(&self, picture: &Image) -> Result<Option<Route>, ContinualError> {
        let (Some(router), Some(first)) = (&self.router, self.domains.first()) else { return Ok(None) };
        let size = self.base.preprocess().size as usize;
        let pixels = prepare(picture, &self.base.preprocess())?.values;
        let pixels = Tensor::from_data(TensorData::new(pixels, [1, 3, size, size]), self.base.device());
        let stages = self.base.encode(pixels, None).stages;
        let seen = pooled(&stages, &[extent(picture.width(), picture.height())], first.router.grid)?;
        Ok(seen.first().map(|features: &RouterFeatures| router.route(features, self.base)))
    }

    /// What answers the pictures of a route.
    pub fn engine(&self, route: Option<&Route>) -> AdaptedEngine<'_> {
        AdaptedEngine { base: self.base, adapter: self.domain(route).map(|domain| &domain.adapter) }
    }

    /// The domain of a route; `None`: the base.
    pub fn name(&self, route: Option<&Route>) -> Option<&str> {
        self.domain(route).map(|domain| domain.name.as_str())
    }

    fn domain(&self, route: Option<&Route>) -> Option<&DomainState> {
        self.domains.get(route?.domain?)
    }

    /// Routes a picture and answers prompts on it, each with its single mask, from a look at the whole picture (as adapters are trained).
    ///
    /// # Errors
    /// Bad prompts, a picture that cannot be prepared.
    pub fn answer(&self, picture: &Image, prompts: &[Prompt]) -> Result<PoolAnswer<'_>, ContinualError> {
        let route = self.route(picture)?;
        let engine = self.engine(route.as_ref());
        let mut predictor = Predictor::new(&engine);
        predictor.set_image(picture)?;
        let predictions = predictor.predict(prompts, DecodeMode::default())?;
        Ok(PoolAnswer { domain: self.name(route.as_ref()), route, predictions })
    }
}

/// The base with an adapter, or as it is, behind the interface that predictor and mask generator know.
#[derive(Clone, Copy, Debug)]
pub struct AdaptedEngine<'a> {
    /// The base.
    pub base: &'a Base,
    /// What was learned, without autodiff.
    pub adapter: Option<&'a Adapter>,
}

impl Engine for AdaptedEngine<'_> {
    fn model(&self) -> &str {
        self.base.name()
    }

    fn preprocess(&self) -> Preprocess {
        self.base.preprocess()
    }

    fn mask_side(&self) -> usize {
        self.base.mask_side()
    }

    /// An adapter's HQ branch needs the map of detail when it decodes: that map takes the place of the features that HQ models make of it.
    fn encode(&self, pixels: HostTensor) -> Result<Embedding, SamError> {
        let size = self.preprocess().size as usize;
        if pixels.shape != [1, 3, size, size] {
            let expected = format!("{:?}", [1, 3, size, size]);
            return Err(SamError::Shape { what: "picture", expected, found: pixels.shape });
        }
        let Some(adapter) = self.adapter else { return self.base.engine().encode(pixels) };
        let features = self.base.encode(pixels.to_burn(self.base.device()), adapter.encoder.as_ref());
        Ok(Embedding {
            image: HostTensor::from_burn(features.embedding)?,
            hq_features: features.early.map(HostTensor::from_burn).transpose()?,
        })
    }

    fn decode(
        &self,
        embedding: &Embedding,
        prompts: &PromptBatch,
        mode: DecodeMode,
    ) -> Result<LowResMasks, SamError> {
        let Some(adapter) = self.adapter else { return self.base.engine().decode(embedding, prompts, mode) };
        let device = self.base.device();
        let side = self.mask_side();
        if let Some(masks) = prompts.masks.as_ref().filter(|m| m.shape != [prompts.count, 1, side, side]) {
            let expected = format!("{:?}", [prompts.count, 1, side, side]);
            return Err(SamError::Shape { what: "mask inputs", expected, found: masks.shape.clone() });
        }
        let features = Features {
            embedding: embedding.image.to_burn(device),
            early: embedding.hq_features.as_ref().map(|map| map.to_burn(device)),
            stages: Vec::new(),
        };
        let asked = Asked {
            sparse: prompts.sparse.clone(),
            masks: prompts.masks.as_ref().map(|masks| masks.to_burn(device)),
        };
        let sam = self.base.sam(false);
        let (output, _) = decode(sam, Some(adapter), &features, &asked, mode, Pick::default());
        Ok(LowResMasks {
            logits: HostTensor::from_burn(output.masks)?,
            iou: HostTensor::from_burn(output.iou)?,
        })
    }
}
