//! What a study is told; `configs/continual/` holds an example, `docs/continual.md` lists the keys.

use std::path::{Path, PathBuf};

use kirie_engine::Plan;
use serde::{Deserialize, Serialize};

use crate::adapter::AdapterConfig;
use crate::base::BaseConfig;
use crate::data::{DomainConfig, NaturalConfig};
use crate::error::ContinualError;
use crate::prompts::PromptConfig;
use crate::router::RouterConfig;
use crate::run::Ablation;
use crate::strategy::{Settings, Strategy};
use crate::train::LessonConfig;
use crate::views::{Augment, PromptKind};

/// One or several strategies on one stream, with every seed and order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StudyConfig {
    /// What is compared.
    #[serde(default = "moda")]
    pub strategies: Vec<Strategy>,
    /// Everything random of a run follows from its seed.
    #[serde(default = "zero")]
    pub seeds: Vec<u64>,
    /// In which order the domains come.
    #[serde(default = "given")]
    pub orders: Vec<Order>,
    /// The frozen base.
    #[serde(default)]
    pub model: BaseConfig,
    /// What is trained for a domain.
    #[serde(default)]
    pub adapter: AdapterConfig,
    /// The stream.
    pub data: StreamConfig,
    /// How pictures are cut in training.
    #[serde(default)]
    pub augment: Augment,
    /// Batches and prompts of training.
    #[serde(default)]
    pub train: LessonConfig,
    /// How domains are told apart.
    #[serde(default)]
    pub router: RouterConfig,
    /// What is kept of a domain for the router.
    #[serde(default)]
    pub exemplars: ExemplarConfig,
    /// Pools of the prompt strategies.
    #[serde(default)]
    pub prompts: PromptConfig,
    /// Constants of the other strategies.
    #[serde(default)]
    pub settings: Settings,
    /// Other ways to tell the domains of a finished run apart; without any the usual ones, see [`Ablation::usual`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ablation: Vec<Ablation>,
    /// Steps for each domain, optimiser, schedule, checkpoints.
    pub plan: Plan,
}

/// The pictures of a study.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StreamConfig {
    /// The folder that the sets' paths start from; without it the configuration file's own folder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root: Option<PathBuf>,
    /// One picture in so many of a domain is held out of its training, for choosing settings; 0: none.
    #[serde(default = "ten")]
    pub hold_out: usize,
    /// Pictures of a domain to learn from, at most; 0: all.
    #[serde(default)]
    pub train_limit: usize,
    /// Pictures of a set to measure on, at most, spread evenly over it; 0: all.
    #[serde(default)]
    pub test_limit: usize,
    /// Measure on the pictures held out instead of the test lists, and not on natural sets: for choosing settings.
    #[serde(default)]
    pub measure_held_out: bool,
    /// Kinds of prompts to measure with; the first decides where one figure is shown.
    #[serde(default = "box_and_points")]
    pub prompts: Vec<PromptKind>,
    /// The domains, in the given order.
    pub domains: Vec<DomainConfig>,
    /// Natural pictures that nothing learns from, to see what is kept of the base.
    #[serde(default)]
    pub natural: Vec<NaturalConfig>,
    /// Natural pictures that the router is told to leave to the base; never those of a test list.
    #[serde(default)]
    pub reference: Vec<NaturalConfig>,
    /// Pictures of each reference set, at most, spread evenly.
    #[serde(default = "fifty")]
    pub reference_limit: usize,
}

/// In which order domains come.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Order {
    /// By a rule.
    Rule(OrderRule),
    /// By name.
    Names(Vec<String>),
}

/// See [`Order`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OrderRule {
    /// As listed.
    Given,
    /// The last first.
    Reverse,
    /// Drawn, from the run's seed.
    Shuffled,
}

/// What is kept of a domain for the router: `[exemplars]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ExemplarConfig {
    /// How many pictures.
    pub count: usize,
    /// What of them.
    pub kind: ExemplarKind,
}

/// See [`ExemplarConfig`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ExemplarKind {
    /// Their pooled features; no picture leaves the place it was taken at.
    Features,
    /// The pictures, of which the router then sees every view.
    Pictures,
}

impl Default for ExemplarConfig {
    fn default() -> Self {
        Self { count: 10, kind: ExemplarKind::Features }
    }
}

fn moda() -> Vec<Strategy> {
    vec![Strategy::Moda]
}
fn zero() -> Vec<u64> {
    vec![0]
}
fn given() -> Vec<Order> {
    vec![Order::Rule(OrderRule::Given)]
}
fn ten() -> usize {
    10
}
fn fifty() -> usize {
    50
}
fn box_and_points() -> Vec<PromptKind> {
    vec![PromptKind::Box, PromptKind::Points]
}

impl StudyConfig {
    /// Checks everything that can be checked without opening a file.
    pub fn check(&self) -> Result<(), ContinualError> {
        for (name, empty) in [
            ("strategies", self.strategies.is_empty()),
            ("seeds", self.seeds.is_empty()),
            ("orders", self.orders.is_empty()),
            ("data.domains", self.data.domains.is_empty()),
            ("data.prompts", self.data.prompts.is_empty()),
        ] {
            if empty {
                return Err(ContinualError::setting(name, "empty", "one or more"));
            }
        }
        let plain = |name: &str| {
            !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
        };
        let sets = self.data.domains.iter().map(|domain| &domain.name);
        let sets: Vec<&String> = sets.chain(self.data.natural.iter().map(|set| &set.name)).collect();
        for (at, name) in sets.iter().enumerate() {
            if !plain(name) || *name == "base" {
                let expected = "letters, digits, `-` and `_`, and not `base`";
                return Err(ContinualError::setting("a domain's name", format!("{name:?}"), expected));
            }
            if sets[..at].contains(name) {
                return Err(ContinualError::setting(
                    "a domain's name",
                    format!("{name:?} twice"),
                    "each once",
                ));
            }
        }
        if self.data.hold_out == 1 {
            return Err(ContinualError::setting(
                "data.hold_out",
                1,
                "0, or 2 or more (one picture in so many)",
            ));
        }
        if self.data.measure_held_out && self.data.hold_out == 0 {
            return Err(ContinualError::setting(
                "data.measure_held_out",
                "true",
                "false where data.hold_out is 0",
            ));
        }
        for reference in &self.data.reference {
            if let Some(seen) = &reference.seen {
                let expected = "set in data.natural alone, where it says how far a figure can be trusted";
                return Err(ContinualError::setting("data.reference.seen", format!("{seen:?}"), expected));
            }
            let same = |set: &&NaturalConfig| set.path == reference.path && set.part == reference.part;
            if self.data.natural.iter().any(|set| same(&set)) {
                let found = format!("{}, {}", reference.path.display(), reference.part);
                return Err(ContinualError::setting(
                    "data.reference",
                    found,
                    "no part that is measured on (data.natural)",
                ));
            }
        }
        if self.exemplars.count == 0 {
            return Err(ContinualError::setting("exemplars.count", 0, "1 or more"));
        }
        for order in 0..self.orders.len() {
            self.order(order, 0)?;
        }
        Ablation::check_all(&self.ablation)?;
        self.adapter.check()?;
        self.augment.check()?;
        self.train.check()?;
        self.router.check()?;
        self.prompts.check()?;
        self.settings.check()?;
        Ok(self.plan.check()?)
    }

    /// Domains by their place in the list, in the nth order.
    ///
    /// # Errors
    /// A list of names that is not that of the domains.
    pub fn order(&self, n: usize, seed: u64) -> Result<Vec<usize>, ContinualError> {
        let count = self.data.domains.len();
        match &self.orders[n] {
            Order::Rule(OrderRule::Given) => Ok((0..count).collect()),
            Order::Rule(OrderRule::Reverse) => Ok((0..count).rev().collect()),
            Order::Rule(OrderRule::Shuffled) => {
                Ok(kirie_engine::random::Streams::new(seed).order(u64::MAX, count))
            }
            Order::Names(names) => {
                let place = |name: &String| self.data.domains.iter().position(|domain| domain.name == *name);
                let order: Option<Vec<usize>> = names.iter().map(place).collect();
                let mut sorted = order.clone().unwrap_or_default();
                sorted.sort_unstable();
                if sorted == (0..count).collect::<Vec<_>>() {
                    return Ok(order.unwrap_or_default());
                }
                let known: Vec<&str> = self.data.domains.iter().map(|domain| domain.name.as_str()).collect();
                let expected = format!("each of {} once", known.join(", "));
                Err(ContinualError::setting("orders", names.join(", "), expected))
            }
        }
    }

    /// The name of the nth order in paths and reports.
    pub fn order_name(&self, n: usize) -> String {
        match &self.orders[n] {
            Order::Rule(OrderRule::Given) => "given".to_owned(),
            Order::Rule(OrderRule::Reverse) => "reverse".to_owned(),
            Order::Rule(OrderRule::Shuffled) => "shuffled".to_owned(),
            Order::Names(_) => format!("order-{}", n + 1),
        }
    }

    /// Makes relative paths start at `base`, the configuration file's folder.
    pub fn resolve(&mut self, base: &Path) {
        let root = self.data.root.take().unwrap_or_default();
        self.data.root = Some(base.join(root));
        if let Some(weights) = &mut self.model.weights {
            *weights = base.join(&weights);
        }
    }

    /// The folder that the sets' paths start from.
    pub fn root(&self) -> PathBuf {
        self.data.root.clone().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapter::Adapter;
    use crate::prompts::PromptPool;
    use crate::testing;

    fn stream8(sets: &[&str]) -> StudyConfig {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs/continual/stream8.toml");
        let sets: Vec<String> = sets.iter().map(|&set| set.to_owned()).collect();
        kirie_run::config::load::<StudyConfig>(Some(&path), &sets).unwrap().value
    }

    #[test]
    fn the_stream_of_eight_is_a_good_configuration() {
        let config = stream8(&[]);
        config.check().unwrap();
        assert_eq!((config.data.domains.len(), config.data.natural.len()), (8, 3));
        let unseen = config.data.natural.iter().filter(|set| set.seen.is_none());
        assert_eq!(unseen.map(|set| set.name.as_str()).collect::<Vec<_>>(), ["davis480p"]);
        // What a run keeps of it means the same.
        let text = kirie_run::config::to_toml(&config).unwrap();
        let place = tempfile::tempdir().unwrap();
        std::fs::write(place.path().join("config.toml"), text).unwrap();
        let kept = kirie_run::config::load::<StudyConfig>(Some(&place.path().join("config.toml")), &[]);
        assert_eq!(kept.unwrap().value, config);
        let ablation =
            r#"ablation=[{name="20 exemplars",count=20},{name="bare",learn_tokens=false,abstain=false}]"#;
        let config = stream8(&[ablation]);
        config.check().unwrap();
        assert_eq!(config.ablation[1].abstain, Some(false));
    }

    #[test]
    fn prompt_tokens_alone_take_larger_steps() {
        let config = stream8(&[]);
        let [group] = &config.plan.optimizer.groups[..] else { panic!("{:?}", config.plan.optimizer.groups) };
        let pattern = regex::Regex::new(&group.name).unwrap();
        let names = |adapter: &Adapter| -> Vec<String> {
            kirie_sam::checkpoint::module_keys(adapter).into_iter().map(|key| key.key).collect()
        };
        let device = burn::tensor::Device::flex();
        let mut rng = kirie_engine::random::Streams::new(1).stream("test", &[]);
        for pool in [
            PromptPool::l2p(&config.prompts, 8, &device),
            PromptPool::dual(&config.prompts, 2, 8, &device),
            PromptPool::coda(&config.prompts, 2, 8, &mut rng, &device),
            PromptPool::single(&config.prompts, 8, &device),
        ] {
            let names = names(&Adapter::of_prompts(pool));
            assert!(!names.is_empty() && names.iter().all(|name| pattern.is_match(name)), "{names:?}");
        }
        let base = testing::base(false);
        for decoder in [crate::adapter::DecoderKind::Copy, crate::adapter::DecoderKind::Hq] {
            let adapter =
                Adapter::new(&AdapterConfig { decoder, ..AdapterConfig::default() }, &base, 0).unwrap();
            let names = names(&adapter);
            assert!(!names.is_empty() && !names.iter().any(|name| pattern.is_match(name)), "{names:?}");
        }
    }
}
