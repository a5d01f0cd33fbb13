//! How well several domains answer the pictures of a labelled set, and which of them do.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::adapter::AdapterConfig;
use crate::base::Base;
use crate::data::{Part, spread};
use crate::error::ContinualError;
use crate::evaluate::{ByPrompt, Case, Scores, score};
use crate::items::{Keep, Maker};
use crate::pool::AdapterPool;
use crate::prompts::Pick;
use crate::views::{Augment, PromptKind};

/// The name of what answers where no domain does.
pub const BASE: &str = "base";

/// What was measured; IoU from 0 to 1.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// Pictures that were measured on.
    pub pictures: usize,
    /// Pictures that were passed over: without a foreground.
    pub empty: usize,
    /// Pictures by what answered them: a domain's name, or `base`.
    pub routed: BTreeMap<String, u64>,
    /// Means, as routed.
    pub scores: ByPrompt,
    /// Means of the base alone.
    pub base: ByPrompt,
    /// Where the right domain was told: means if it had answered all.
    pub expected: Option<ByPrompt>,
    /// And the share of pictures that it answered.
    pub routing_accuracy: Option<f64>,
}

/// Measures a pool on a part of a set, or `limit` of its pictures spread evenly (0: all). `expect` is the domain that they are of, or
/// [`BASE`]. `tell` is called after each picture with how many are done, and of how many.
///
/// # Errors
/// An expected domain that the pool has not; pictures that cannot be read.
pub fn measure(
    pool: &AdapterPool<'_>,
    base: &Base,
    part: &Part,
    limit: usize,
    expect: Option<&str>,
    tell: &mut dyn FnMut(usize, usize),
) -> Result<Measured, ContinualError> {
    let domain = |name: &str| pool.domains().iter().find(|domain| domain.name == name);
    if let Some(name) = expect.filter(|name| *name != BASE && domain(name).is_none()) {
        let known: Vec<&str> = pool.names().chain([BASE]).collect();
        return Err(ContinualError::setting("the expected domain", name, known.join(", ")));
    }
    let kinds = [PromptKind::Box, PromptKind::Points];
    let mut all: BTreeMap<PromptKind, [Vec<Scores>; 3]> = BTreeMap::new();
    let mut routed: BTreeMap<String, u64> = BTreeMap::new();
    let chosen = spread(part.len(), limit);
    for (done, at) in chosen.iter().enumerate() {
        let picture = part.read(*at)?;
        let route = pool.route(&picture.image)?;
        let by = route.and_then(|route| route.domain).and_then(|at| pool.domains().get(at));
        *routed.entry(by.map_or(BASE, |domain| &domain.name).to_owned()).or_default() += 1;
        let right = expect.and_then(domain);
        let adapters = pool.domains().iter().map(|domain| domain.config).chain([AdapterConfig::default()]);
        let keep = adapters.map(|config| Keep::needed(&config, base)).max().unwrap_or(Keep::Detail);
        let maker = Maker { base, augment: Augment::default(), grid: 1, keep };
        let case = Case::new(&maker, picture)?;
        for kind in kinds {
            let scores = all.entry(kind).or_default();
            for (scores, adapter) in scores.iter_mut().zip([by, None, right]) {
                let adapter = adapter.map(|domain| &domain.adapter);
                scores.extend(score(&maker, adapter, &[&case], kind, Pick::default())?);
            }
        }
        tell(done + 1, chosen.len());
    }
    let means = |which: usize| -> ByPrompt {
        all.iter().map(|(kind, scores)| (*kind, Scores::mean(&scores[which]))).collect()
    };
    let accuracy = |name: &str| routed.get(name).copied().unwrap_or(0) as f64 / chosen.len().max(1) as f64;
    Ok(Measured {
        pictures: chosen.len(),
        empty: part.empty,
        scores: means(0),
        base: means(1),
        expected: expect.map(|_| means(2)),
        routing_accuracy: expect.filter(|_| !chosen.is_empty()).map(accuracy),
        routed,
    })
}
