//! Configuration of weakly supervised detectors.

use kirie_engine::Plan;
use kirie_engine::optim::{Adam, Clip, Group, OptimizerConfig, Rule as UpdateRule};
use kirie_engine::schedule::{Decay, Schedule};
use serde::{Deserialize, Serialize};

use super::mining::Rule;
use crate::WeakError;
use crate::network::{BackboneConfig, FeatureConfig, HeadConfig, InputConfig};

/// A published detector.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Preset {
    /// Two streams alone (Bilen and Vedaldi 2016).
    Wsddn,
    /// OICR by its paper (Tang et al. 2017): the best proposal of each class.
    Oicr,
    /// OICR as WeakSAM's repository runs it, in WSOD2's code: nearly best proposals too.
    OicrNear,
    /// MIST (Ren et al. 2020): several instances a class, box regression, concrete DropBlock.
    Mist,
}

/// Configuration of a detector that learns from image-level labels. What is not told is MIST's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DetectorConfig {
    /// Seed of all that is random.
    pub seed: u64,
    /// Sizes of pictures.
    pub input: InputConfig,
    /// The feature map.
    pub features: FeatureConfig,
    /// Vectors of boxes.
    pub head: HeadConfig,
    /// Which proposals are looked at.
    pub proposals: ProposalConfig,
    /// The detector's own parts.
    pub weak: WeakConfig,
    /// What becomes of its answers.
    pub test: TestConfig,
    /// How long, how fast.
    pub plan: Plan,
}

impl Default for DetectorConfig {
    fn default() -> Self {
        Self::preset(Preset::Mist)
    }
}

/// Which proposals are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ProposalConfig {
    /// The most a picture; the best scored are kept.
    pub most: usize,
    /// Boxes with a shorter side are left out, pixels of the picture.
    pub least_side: f32,
}

impl Default for ProposalConfig {
    fn default() -> Self {
        Self { most: 300, least_side: 1.0 }
    }
}

/// The parts of the weak detectors. What is not told is MIST's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WeakConfig {
    /// Share of the hidden values that are left out in training.
    pub dropout: f64,
    /// Weights of the losses of the refinement branches, one a branch; none for WSDDN alone.
    pub refinements: Vec<f64>,
    /// How pseudo boxes for a branch are found in the scores of the one before.
    pub rule: Rule,
    /// Overlap with a pseudo box from which a proposal is of its class.
    pub foreground: f32,
    /// Whether the branches also regress boxes (class by class).
    pub regress: bool,
    /// Whether the image-level loss is summed over classes (OICR) instead of averaged (MIST).
    pub sum_classes: bool,
    /// Concrete DropBlock.
    pub drop_block: DropBlockConfig,
}

impl Default for WeakConfig {
    fn default() -> Self {
        Self::preset(Preset::Mist)
    }
}

/// Configuration of concrete DropBlock.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DropBlockConfig {
    /// Upper bound of the probability that a cell lies in a dropped block, over the block's area (published: 0.3); 0 for no
    /// DropBlock.
    pub gamma: f64,
    /// Temperature of the relaxed choice.
    pub temperature: f64,
    /// Factor on the reversed gradient (published: 0.01).
    pub adversary: f64,
}

impl DropBlockConfig {
    /// Whether there is one.
    pub fn is_on(&self) -> bool {
        self.gamma > 0.0
    }
}

impl Default for DropBlockConfig {
    fn default() -> Self {
        Self { gamma: 0.3, temperature: 0.01, adversary: 0.01 }
    }
}

/// What becomes of a detector's answers.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TestConfig {
    /// Boxes below this score are left out.
    pub least_score: f32,
    /// Overlap above which the lower scored box of a class is suppressed.
    pub nms: f32,
    /// The most boxes a picture.
    pub most: usize,
}

impl Default for TestConfig {
    fn default() -> Self {
        Self { least_score: 0.0, nms: 0.3, most: 300 }
    }
}

pub(crate) fn default_plan() -> Plan {
    Plan {
        // A picture a step, as the published ones have it on each device.
        steps: 4000,
        accumulate: 1,
        optimizer: OptimizerConfig {
            rule: UpdateRule::AdamW(Adam::default()),
            lr: 5e-4,
            weight_decay: 1e-4,
            clip: Clip::Norm(10.0),
            groups: Vec::new(),
        },
        schedule: Schedule { warmup: 200, decay: Decay::Cosine { end: 0.02 } },
        average: None,
        log_every: 20,
        checkpoint_every: 200,
        keep: 2,
        validate_every: 0,
        workers: 1,
        activation_checkpointing: false,
    }
}

impl WeakConfig {
    /// A published detector's.
    pub fn preset(preset: Preset) -> Self {
        let oicr = Self {
            dropout: 0.5,
            refinements: vec![1.0; 3],
            rule: Rule::Top,
            foreground: 0.5,
            regress: false,
            sum_classes: true,
            drop_block: DropBlockConfig { gamma: 0.0, ..DropBlockConfig::default() },
        };
        match preset {
            Preset::Wsddn => Self { refinements: Vec::new(), ..oicr },
            Preset::Oicr => oicr,
            Preset::OicrNear => Self { rule: Rule::Near { share: 0.9, nms: 0.5 }, ..oicr },
            Preset::Mist => Self {
                refinements: vec![3.0, 1.0, 1.0],
                rule: Rule::Apart { portion: 0.15, overlap: 0.2 },
                regress: true,
                sum_classes: false,
                drop_block: DropBlockConfig::default(),
                ..oicr
            },
        }
    }

    fn check(&self) -> Result<(), WeakError> {
        if let Some(weight) = self.refinements.iter().find(|w| !(w.is_finite() && **w > 0.0)) {
            return Err(WeakError::setting("weak.refinements", weight, "numbers above 0"));
        }
        if self.regress && self.refinements.is_empty() {
            return Err(WeakError::setting("weak.regress", true, "refinement branches to regress boxes in"));
        }
        if !(self.foreground > 0.0 && self.foreground <= 1.0) {
            return Err(WeakError::setting("weak.foreground", self.foreground, "above 0 to 1"));
        }
        if !(0.0..1.0).contains(&self.dropout) {
            return Err(WeakError::setting("weak.dropout", self.dropout, "0 to below 1"));
        }
        let block = self.drop_block;
        let numbers = [
            ("gamma", block.gamma, (0.0..=1.0).contains(&block.gamma)),
            ("temperature", block.temperature, block.temperature > 0.0),
            ("adversary", block.adversary, block.adversary >= 0.0),
        ];
        if let Some((name, value, _)) = numbers.into_iter().find(|(_, _, right)| !right) {
            return Err(WeakError::setting(
                format!("weak.drop_block.{name}"),
                value,
                "a number in its range",
            ));
        }
        self.rule.check()
    }
}

impl TestConfig {
    pub(crate) fn check(&self) -> Result<(), WeakError> {
        if !(0.0..=1.0).contains(&self.nms) {
            return Err(WeakError::setting("test.nms", self.nms, "0 to 1"));
        }
        if self.most == 0 {
            return Err(WeakError::setting("test.most", 0, "1 or more"));
        }
        Ok(())
    }
}

impl DetectorConfig {
    /// A published detector on the default features.
    pub fn preset(preset: Preset) -> Self {
        Self {
            seed: 0,
            input: InputConfig::default(),
            features: FeatureConfig::default(),
            head: HeadConfig::default(),
            proposals: ProposalConfig::default(),
            weak: WeakConfig::preset(preset),
            test: TestConfig::default(),
            plan: default_plan(),
        }
    }

    /// Checks the numbers.
    pub fn check(&self) -> Result<(), WeakError> {
        self.input.check()?;
        self.features.check()?;
        self.head.check()?;
        self.weak.check()?;
        self.test.check()?;
        if self.proposals.most == 0 {
            return Err(WeakError::setting("proposals.most", 0, "1 or more"));
        }
        Ok(self.plan.check()?)
    }
}

/// The plan with the groups of parameters that the backbone asks for, before those that are configured.
pub(crate) fn with_backbone(plan: &Plan, features: &FeatureConfig) -> Plan {
    let mut plan = plan.clone();
    let group =
        |name: &str, lr: f64, frozen: bool| Group { name: name.to_owned(), lr, weight_decay: None, frozen };
    let groups = match &features.backbone {
        _ if features.frozen => vec![group(r"^features\.backbone\.", 1.0, true)],
        BackboneConfig::Encoder { .. } => vec![
            group(r"^features\.backbone\.", features.backbone_lr, false),
            group(r"^features\.backbone\..*norm\.", 1.0, true),
            // As published: the first stages stay as they are.
            group(r"^features\.backbone\.stages\.[01]\.", 1.0, true),
        ],
        BackboneConfig::Plain { .. } => Vec::new(),
    };
    plan.optimizer.groups.splice(0..0, groups);
    plan
}
