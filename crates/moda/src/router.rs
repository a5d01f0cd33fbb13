//! Which domain a picture is from, or none of them.
//!
//! ```text
//! picture -> frozen encoder -> stages, pooled to a few places   (features: what exemplars keep)
//!         -> one feature token and its assistants, trained      (reader)
//!         -> a logit for each domain; the largest is chosen
//!         -> unless the picture is unlike that domain's pictures (portrait): then the base answers, as it is
//! ```
//!
//! Differences from the published code, which the project's notes on MoDA list: the tokens are trained (there they stay at their random
//! start; `learn_tokens = false` gives that), they read the stages of the one pass that segmentation makes anyway instead of a second
//! pass of their own, and there is a way out for pictures of no known domain (`abstain = false` takes it away).

mod features;
mod portrait;
mod reader;

use burn::module::Module;
use burn::optim::{AdamConfig, GradientsParams};
use burn::tensor::activation::{log_softmax, softmax};
use burn::tensor::{Int, Tensor, TensorData};
use serde::{Deserialize, Serialize};

pub use features::{RouterFeatures, StageFeatures, pooled, stacked};
pub use portrait::{Centroids, Portrait};
pub use reader::TokenReader;

use crate::base::{Base, made};
use crate::error::ContinualError;

/// `[router]` of a configuration.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RouterConfig {
    /// Global assistant tokens beside the feature token.
    pub assistants: usize,
    /// Places that a stage is pooled to, along each side.
    pub grid: usize,
    /// Train the tokens; otherwise they stay random, and only what reads the domain off the feature token is trained.
    pub learn_tokens: bool,
    /// Steps of the router's training.
    pub steps: usize,
    /// Learning rate of the router's training.
    pub lr: f64,
    /// Leave pictures unlike every domain to the base.
    pub abstain: bool,
    /// Share of a domain's own pictures, each left out in turn, that its threshold is to let in.
    pub quantile: f64,
    /// The threshold is so many times the distance at that share.
    pub slack: f64,
}

impl Default for RouterConfig {
    fn default() -> Self {
        Self {
            assistants: 9,
            grid: 4,
            learn_tokens: true,
            steps: 200,
            lr: 0.01,
            abstain: true,
            quantile: 0.99,
            slack: 1.2,
        }
    }
}

impl RouterConfig {
    /// Checks the numbers.
    pub fn check(&self) -> Result<(), ContinualError> {
        if self.assistants > 100 {
            return Err(ContinualError::setting("router.assistants", self.assistants, "0 to 100"));
        }
        if !(1..=16).contains(&self.grid) {
            return Err(ContinualError::setting("router.grid", self.grid, "1 to 16"));
        }
        if self.steps == 0 {
            return Err(ContinualError::setting("router.steps", 0, "1 or more"));
        }
        if !(self.lr.is_finite() && self.lr > 0.0) {
            return Err(ContinualError::setting("router.lr", self.lr, "above 0"));
        }
        if !(self.quantile > 0.0 && self.quantile <= 1.0) {
            return Err(ContinualError::setting("router.quantile", self.quantile, "above 0, at most 1"));
        }
        if !(self.slack.is_finite() && self.slack > 0.0) {
            return Err(ContinualError::setting("router.slack", self.slack, "above 0"));
        }
        Ok(())
    }
}

/// What a router learns from.
#[derive(Clone, Debug, Default)]
pub struct Lessons {
    /// Exemplars of each domain.
    pub domains: Vec<Vec<RouterFeatures>>,
    /// Pictures that the base is to answer, where some are known.
    pub reference: Vec<RouterFeatures>,
}

impl Lessons {
    fn classes(&self) -> usize {
        self.domains.len() + usize::from(!self.reference.is_empty())
    }
}

/// Where a picture goes.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Route {
    /// The domain that answers; `None`: the base.
    pub domain: Option<usize>,
    /// The likeliest domain, whether it answers or not.
    pub likeliest: usize,
    /// Its share of the softmax over the domains (and the reference, where there is one).
    pub probability: f32,
    /// How unlike that domain's pictures it is, in units of the domain's threshold: above 1 is too unlike.
    pub strangeness: f32,
}

/// Routes pictures among domains.
#[derive(Clone, Debug)]
pub struct Router {
    /// Tokens and what reads the domain off them; without autodiff.
    pub reader: TokenReader,
    /// What the pictures of each domain are like.
    pub portraits: Vec<Portrait>,
    /// Whether the reader knows a class beyond the domains, the base's.
    pub has_reference: bool,
    /// Whether pictures unlike every domain go to the base.
    pub abstain: bool,
}

impl Router {
    /// Trains tokens and head on exemplars; the result follows from `seed` alone. With one domain and no reference there is nothing to
    /// tell apart, and the portrait alone decides.
    ///
    /// # Errors
    /// No domain, or one without an exemplar.
    pub fn fit(
        config: &RouterConfig,
        lessons: &Lessons,
        portraits: Vec<Portrait>,
        base: &Base,
        seed: u64,
    ) -> Result<Self, ContinualError> {
        config.check()?;
        let Some(first) = lessons.domains.iter().flatten().next() else {
            return Err(ContinualError::setting("the router's exemplars", "none", "some of each domain"));
        };
        if let Some(at) = lessons.domains.iter().position(Vec::is_empty) {
            let name = format!("exemplars of domain {}", at + 1);
            return Err(ContinualError::setting(name, "none", "1 or more"));
        }
        if portraits.len() != lessons.domains.len() {
            let expected = format!("{}, one for each domain", lessons.domains.len());
            return Err(ContinualError::setting("portraits", portraits.len(), expected));
        }
        let device = base.device().clone().autodiff();
        device.seed(seed);
        let mut reader = made(TokenReader::new(config.assistants, first, base, lessons.classes(), &device));
        let (mut samples, mut labels, mut weights) = (Vec::new(), Vec::new(), Vec::new());
        let groups =
            lessons.domains.iter().chain((!lessons.reference.is_empty()).then_some(&lessons.reference));
        for (label, group) in groups.enumerate() {
            for features in group {
                samples.push(features);
                labels.push(label as i32);
                // Every class counts as much, however many exemplars it has.
                weights.push(1.0 / group.len() as f32 / lessons.classes() as f32);
            }
        }
        if lessons.classes() > 1 {
            let count = samples.len();
            let stages = stacked(&samples, &device);
            let labels = Tensor::<2, Int>::from_data(TensorData::new(labels, [count, 1]), &device);
            let weights = Tensor::<2>::from_data(TensorData::new(weights, [count, 1]), &device);
            let mut optimizer = AdamConfig::new().init();
            if !config.learn_tokens {
                reader = reader.with_fixed_tokens();
            }
            for step in 0..config.steps {
                let logits = reader.forward(&stages, base.sam(true));
                let likelihood = log_softmax(logits, 1).gather(1, labels.clone());
                let loss = (likelihood * weights.clone()).sum() * -1.0;
                let gradients = GradientsParams::from_grads(loss.backward(), &reader);
                // Half a cosine down to nothing.
                let rest = 0.5 * (1.0 + (std::f64::consts::PI * step as f64 / config.steps as f64).cos());
                reader = optimizer.step(config.lr * rest.max(1e-3), reader, gradients);
            }
        }
        Ok(Self {
            reader: reader.valid(),
            portraits,
            has_reference: !lessons.reference.is_empty(),
            abstain: config.abstain,
        })
    }

    /// Where a picture goes, by its features.
    pub fn route(&self, features: &RouterFeatures, base: &Base) -> Route {
        let stages = stacked(&[features], base.device());
        let logits = self.reader.forward(&stages, base.sam(false));
        let shares: Vec<f32> = softmax(logits, 1).into_data().iter::<f32>().collect();
        let domains = self.portraits.len();
        let mut likeliest = 0;
        for (at, share) in shares.iter().enumerate().take(domains) {
            if *share > shares[likeliest] {
                likeliest = at;
            }
        }
        let probability = shares[likeliest];
        let to_base = self.has_reference && shares[domains] > probability;
        let strangeness =
            self.portraits.get(likeliest).map_or(f32::INFINITY, |portrait| portrait.strangeness(features));
        // Written so that a distance that is no number leaves the picture to the base.
        let known = strangeness <= 1.0 && !to_base;
        Route { domain: (known || !self.abstain).then_some(likeliest), likeliest, probability, strangeness }
    }
}

#[cfg(test)]
mod tests;
