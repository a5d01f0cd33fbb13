//! The strategies: what is trained on which pictures, and what holds on to what was learned before.
//!
//! With `L` the loss of [`crate::loss`] on the new domain's pictures, `theta` what is trained, `theta*` its state when the domain began:
//!
//! | strategy | learns in domain t | answers with |
//! | --- | --- | --- |
//! | `zero-shot` | nothing | the base |
//! | `naive` | `L` | the last state |
//! | `joint` | `L` on all domains at once; the upper bound, only its last row means anything | that |
//! | `cumulative` | `L` on the domains up to t | the last state |
//! | `ewc` | `L + lambda sum_k F_k (theta_k - theta*_k)^2`, `F` the mean square gradient of earlier domains | the last state |
//! | `lwf` | `L + weight L(answers of theta* as soft masks)` | the last state |
//! | `er` | `L`, and `L` on stored pictures | the last state |
//! | `der`, `der-pp` | `L + alpha MSE(stored logits)`, and `beta L` on stored pictures | the last state |
//! | `l2p`, `dual-prompt`, `coda-prompt` | prompt tokens, see [`crate::prompts`] | the last state |
//! | `s-prompts` | a prompt for each domain, from nothing | that of the nearest centroid |
//! | `moda` | an adapter for each domain, from the base | that of the router, or the base |
//!
//! Corrections to the published code: joint training exists; EWC keeps the Fisher information of all earlier domains (`online`; `last` is
//! the published form, which protects the latest domain alone); the memory of replay has a stated size.

use serde::{Deserialize, Serialize};

use crate::error::ContinualError;

/// A strategy; see the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Strategy {
    /// The base as it is.
    ZeroShot,
    /// One domain after the other.
    Naive,
    /// All at once.
    Joint,
    /// All that have come.
    Cumulative,
    /// Elastic weight consolidation (Kirkpatrick et al., 2017).
    Ewc,
    /// Learning without forgetting (Li and Hoiem, 2016).
    Lwf,
    /// Experience replay.
    Er,
    /// Dark experience replay (Buzzega et al., 2020).
    Der,
    /// The same with labels.
    DerPp,
    /// Learning to prompt (Wang et al., 2022).
    L2p,
    /// DualPrompt (Wang et al., 2022).
    DualPrompt,
    /// CODA-Prompt (Smith et al., 2023).
    CodaPrompt,
    /// S-Prompts (Wang et al., 2022).
    SPrompts,
    /// MoDA (Yang et al., 2024).
    Moda,
}

impl Strategy {
    /// All, the baselines first.
    pub const ALL: [Self; 14] = [
        Self::ZeroShot,
        Self::Naive,
        Self::Joint,
        Self::Cumulative,
        Self::Ewc,
        Self::Lwf,
        Self::Er,
        Self::Der,
        Self::DerPp,
        Self::L2p,
        Self::DualPrompt,
        Self::CodaPrompt,
        Self::SPrompts,
        Self::Moda,
    ];

    /// Its name in configurations and reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::ZeroShot => "zero-shot",
            Self::Naive => "naive",
            Self::Joint => "joint",
            Self::Cumulative => "cumulative",
            Self::Ewc => "ewc",
            Self::Lwf => "lwf",
            Self::Er => "er",
            Self::Der => "der",
            Self::DerPp => "der-pp",
            Self::L2p => "l2p",
            Self::DualPrompt => "dual-prompt",
            Self::CodaPrompt => "coda-prompt",
            Self::SPrompts => "s-prompts",
            Self::Moda => "moda",
        }
    }

    /// Whether each domain has an adapter of its own, which a router chooses.
    pub fn is_routed(self) -> bool {
        matches!(self, Self::SPrompts | Self::Moda)
    }

    /// Whether prompt tokens are trained, in place of the configuration's adapter.
    pub fn is_prompts(self) -> bool {
        matches!(self, Self::L2p | Self::DualPrompt | Self::CodaPrompt | Self::SPrompts)
    }

    /// Whether exemplars of earlier domains are learned from.
    pub fn replays(self) -> bool {
        matches!(self, Self::Er | Self::Der | Self::DerPp)
    }
}

/// Constants of the strategies: `[settings]` of a configuration.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// EWC: weight of the penalty.
    pub ewc_lambda: f64,
    /// EWC: how Fisher information of several domains is merged.
    pub ewc_merge: EwcMerge,
    /// EWC: share of the earlier information that is kept when new comes (`online`).
    pub ewc_decay: f64,
    /// EWC: pictures in a gradient that is squared; 1 is the definition, the published code takes a batch.
    pub ewc_batch: usize,
    /// EWC: gradients that information is the mean of, at most.
    pub ewc_samples: usize,
    /// LwF: weight of the old answers.
    pub lwf_weight: f64,
    /// ER, DER, DER++: stored pictures of each domain.
    pub memory: usize,
    /// ER, DER, DER++: stored pictures beside those of a batch.
    pub replay: usize,
    /// DER, DER++: weight of the stored logits.
    pub der_alpha: f64,
    /// DER++: weight of the stored pictures' own masks.
    pub der_beta: f64,
    /// S-Prompts: centroids of a domain.
    pub centroids: usize,
}

/// How Fisher information of several domains is merged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EwcMerge {
    /// Earlier information times the decay, plus the new; the anchor is the latest state (online EWC, Schwarz et al., 2018).
    #[default]
    Online,
    /// The latest domain's alone, as published.
    Last,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            ewc_lambda: 10.0,
            ewc_merge: EwcMerge::Online,
            ewc_decay: 1.0,
            ewc_batch: 1,
            ewc_samples: 100,
            lwf_weight: 3.0,
            memory: 10,
            replay: 4,
            der_alpha: 0.3,
            der_beta: 0.5,
            centroids: 5,
        }
    }
}

impl Settings {
    /// Checks the numbers.
    pub fn check(&self) -> Result<(), ContinualError> {
        let weights = [
            ("settings.ewc_lambda", self.ewc_lambda),
            ("settings.ewc_decay", self.ewc_decay),
            ("settings.lwf_weight", self.lwf_weight),
            ("settings.der_alpha", self.der_alpha),
            ("settings.der_beta", self.der_beta),
        ];
        for (name, weight) in weights {
            if !(weight.is_finite() && weight >= 0.0) {
                return Err(ContinualError::setting(name, weight, "0 or more"));
            }
        }
        let counts = [
            ("settings.ewc_batch", self.ewc_batch),
            ("settings.ewc_samples", self.ewc_samples),
            ("settings.memory", self.memory),
            ("settings.replay", self.replay),
            ("settings.centroids", self.centroids),
        ];
        for (name, count) in counts {
            if count == 0 {
                return Err(ContinualError::setting(name, 0, "1 or more"));
            }
        }
        Ok(())
    }
}
