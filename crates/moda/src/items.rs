//! Views of pictures with what the frozen base makes of them, computed once.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use burn::tensor::{Device, Tensor, TensorData};
use kirie_engine::random::Streams;
use kirie_sam::HostTensor;

use crate::adapter::{AdapterConfig, DecoderKind};
use crate::base::Base;
use crate::data::{Domain, Part, Picture};
use crate::encoder::{EncoderAdapter, Features};
use crate::error::ContinualError;
use crate::router::{RouterFeatures, pooled};
use crate::views::{Augment, Target, View, view};

/// Numbers (of four bytes) that items of all domains may hold before those of earlier domains are let go: 1.2 GB.
const MOST_NUMBERS: usize = 300_000_000;

/// A view, encoded.
#[derive(Clone, Debug)]
pub struct Item {
    /// The picture's file.
    pub name: String,
    /// `[1, C, S, S]` and, where a decoder reads it, the map of detail; absent where an adapter works inside the encoder.
    pub encoded: Option<(HostTensor, Option<HostTensor>)>,
    /// `[3, size, size]`, where they are needed again.
    pub pixels: Option<Vec<f32>>,
    /// What the router sees.
    pub router: RouterFeatures,
    /// What is to be found.
    pub target: Target,
}

impl Item {
    /// How many numbers it holds.
    fn numbers(&self) -> usize {
        let encoded = self.encoded.as_ref().map_or(0, |(embedding, early)| {
            embedding.values.len() + early.as_ref().map_or(0, |map| map.values.len())
        });
        let router: usize = self.router.stages.iter().map(|stage| stage.values.len()).sum();
        encoded + self.pixels.as_ref().map_or(0, Vec::len) + router + self.target.cover.len()
    }
}

/// What is kept of a view beside what the router sees; of two that are needed the larger holds what the smaller does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Keep {
    /// The embedding.
    Embedding,
    /// The map of detail as well, which HQ decoders read.
    Detail,
    /// The pixels, for adapters inside the encoder.
    Pixels,
}

impl Keep {
    /// What answers of an adapter on this base, and of the base itself, are made from.
    pub fn needed(adapter: &AdapterConfig, base: &Base) -> Self {
        let own = base.sam(false).mask_decoder.compress_vit_feat.is_some();
        match adapter {
            AdapterConfig { encoder: Some(_), .. } => Self::Pixels,
            AdapterConfig { decoder: DecoderKind::Hq, .. } => Self::Detail,
            _ if own => Self::Detail,
            _ => Self::Embedding,
        }
    }
}

/// How views become items.
#[derive(Clone, Copy, Debug)]
pub struct Maker<'a> {
    /// The frozen base.
    pub base: &'a Base,
    /// How pictures are cut.
    pub augment: Augment,
    /// Places along a side of what the router sees.
    pub grid: usize,
    /// What is kept.
    pub keep: Keep,
}

impl Maker<'_> {
    /// Encodes the nth view of a picture; what is random about it follows from the picture's name.
    pub fn item(&self, picture: &Picture, n: usize) -> Result<Item, ContinualError> {
        // Not from the run's seed: views are part of the data, and what is kept of them serves every run.
        let mut rng = Streams::new(n as u64).stream(&format!("view {}", file_name(&picture.name)), &[]);
        let base = self.base;
        let made = view(picture, n, &self.augment, &base.preprocess(), base.mask_side(), &mut rng)?;
        self.of_view(picture.name.clone(), made)
    }

    fn of_view(&self, name: String, View { pixels, extent, target }: View) -> Result<Item, ContinualError> {
        let size = self.base.preprocess().size as usize;
        let input =
            Tensor::from_data(TensorData::new(pixels.clone(), [1, 3, size, size]), self.base.device());
        let features = self.base.encode(input, None);
        let router = pooled(&features.stages, &[extent], self.grid)?;
        let router = router.into_iter().next().unwrap_or(RouterFeatures { stages: Vec::new() });
        let inside = self.keep == Keep::Pixels;
        let encoded = if inside {
            None
        } else {
            let early = features.early.filter(|_| self.keep == Keep::Detail);
            Some((HostTensor::from_burn(features.embedding)?, early.map(HostTensor::from_burn).transpose()?))
        };
        Ok(Item { name, encoded, pixels: inside.then_some(pixels), router, target })
    }
}

/// The name without its folder: the same on every machine.
pub(crate) fn file_name(path: &str) -> &str {
    path.rsplit(['/', '\\']).next().unwrap_or(path)
}

/// Features of a batch of items on a device, through an adapter inside the encoder where there is one.
pub fn features(items: &[&Item], base: &Base, adapter: Option<&EncoderAdapter>, device: &Device) -> Features {
    let maps = |of: &dyn Fn(&Item) -> Option<HostTensor>| -> Option<Tensor<4>> {
        let maps: Option<Vec<HostTensor>> = items.iter().map(|item| of(item)).collect();
        let maps = maps?;
        let mut shape = maps.first()?.shape.clone();
        shape[0] = maps.len();
        let values: Vec<f32> = maps.into_iter().flat_map(|map| map.values).collect();
        Some(Tensor::from_data(TensorData::new(values, shape), device))
    };
    let embedding = maps(&|item| item.encoded.as_ref().map(|(embedding, _)| embedding.clone()));
    if let (Some(embedding), None) = (embedding, adapter) {
        let early = maps(&|item| item.encoded.as_ref().and_then(|(_, early)| early.clone()));
        return Features { embedding, early, stages: Vec::new() };
    }
    let size = base.preprocess().size as usize;
    let pixels: Vec<f32> = items.iter().filter_map(|item| item.pixels.as_ref()).flatten().copied().collect();
    let pixels = Tensor::from_data(TensorData::new(pixels, [items.len(), 3, size, size]), device);
    base.encode(pixels, adapter)
}

/// Items of a stream's domains, made when they are first asked for.
#[derive(Debug)]
pub struct Items<'a> {
    maker: Maker<'a>,
    domains: &'a [Domain],
    kept: Mutex<HashMap<(usize, usize, usize), Arc<Item>>>,
    seen: Mutex<HashMap<(usize, usize), RouterFeatures>>,
}

impl<'a> Items<'a> {
    /// None yet.
    pub fn new(maker: Maker<'a>, domains: &'a [Domain]) -> Self {
        Self { maker, domains, kept: Mutex::default(), seen: Mutex::default() }
    }

    /// The domains, in the order that items are asked by.
    pub fn domains(&self) -> &'a [Domain] {
        self.domains
    }

    /// How they are made.
    pub fn maker(&self) -> &Maker<'a> {
        &self.maker
    }

    /// The nth view of a picture to learn from.
    pub fn get(&self, domain: usize, picture: usize, n: usize) -> Result<Arc<Item>, ContinualError> {
        let key = (domain, picture, n);
        if let Some(item) = self.lock().get(&key) {
            return Ok(Arc::clone(item));
        }
        // Two threads may make the same; it comes out the same.
        let item = Arc::new(self.maker.item(&self.domains[domain].part.read(picture)?, n)?);
        self.lock().insert(key, Arc::clone(&item));
        Ok(item)
    }

    /// What the router sees of a whole picture. Of one that is not at hand nothing else is kept.
    pub fn seen(&self, domain: usize, picture: usize) -> Result<RouterFeatures, ContinualError> {
        if let Some(item) = self.lock().get(&(domain, picture, 0)) {
            return Ok(item.router.clone());
        }
        let seen = || self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(features) = seen().get(&(domain, picture)) {
            return Ok(features.clone());
        }
        let features = self.maker.item(&self.domains[domain].part.read(picture)?, 0)?.router;
        seen().insert((domain, picture), features.clone());
        Ok(features)
    }

    /// Lets go of the items of all domains but these, where they have become too many to keep.
    pub fn make_room(&self, domains: &[usize]) {
        let mut kept = self.lock();
        let numbers: usize = kept.values().map(|item| item.numbers()).sum();
        if numbers > MOST_NUMBERS {
            kept.retain(|(domain, ..), _| domains.contains(domain));
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<(usize, usize, usize), Arc<Item>>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the router sees of pictures of a part, without keeping anything else of them.
pub fn router_features(
    maker: &Maker<'_>,
    part: &Part,
    pictures: &[usize],
) -> Result<Vec<RouterFeatures>, ContinualError> {
    pictures.iter().map(|at| Ok(maker.item(&part.read(*at)?, 0)?.router)).collect()
}
