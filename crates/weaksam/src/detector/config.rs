//! Configuration of weakly supervised detectors.

use kirie_engine::Plan;
use kirie_engine::optim::{Adam, Clip, Group, OptimizerConfig, Rule as UpdateRule};
use kirie_engine::schedule::{Decay, Schedule};
use kirie_run::config::over;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use super::mining::Rule;
use crate::WeakError;
use crate::boxes::AnswerConfig;
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
    /// Seed of all that is random; in the chain the run's.
    pub seed: u64,
    /// Sizes of pictures.
    pub input: InputConfig,
    /// The feature map.
    pub features: FeatureConfig,
    /// Vectors of boxes.
    pub head: HeadConfig,
    /// Which proposals are looked at.
    pub proposals: ProposalLimits,
    /// The detector's own parts: the name of a preset, or a table of what differs from the preset that its key `preset` names
    /// (without it from MIST's).
    #[serde(deserialize_with = "preset_or_table")]
    pub weak: MilConfig,
    /// What becomes of its answers.
    #[serde(deserialize_with = "partial_answers")]
    pub answers: AnswerConfig,
    /// How long, how fast. A table need only say what differs from the default's.
    #[serde(deserialize_with = "partial_plan")]
    pub plan: Plan,
}

impl Default for DetectorConfig {
    fn default() -> Self {
        Self::preset(Preset::Mist)
    }
}

/// Detections of proposals: as many as there are proposals, as a rule.
const ANSWERS: AnswerConfig = AnswerConfig { least_score: 0.0, nms: 0.3, most: 300 };

fn partial_answers<'de, D: Deserializer<'de>>(deserializer: D) -> Result<AnswerConfig, D::Error> {
    over(&ANSWERS, deserializer)
}

pub(crate) fn partial_plan<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Plan, D::Error> {
    over(&default_plan(), deserializer)
}

fn preset_or_table<'de, D: Deserializer<'de>>(deserializer: D) -> Result<MilConfig, D::Error> {
    let mut said = Value::deserialize(deserializer)?;
    let named = |name: Value| serde_json::from_value::<Preset>(name).map_err(D::Error::custom);
    if said.is_string() {
        return Ok(MilConfig::preset(named(said)?));
    }
    let name = said.as_object_mut().and_then(|table| table.remove("preset"));
    let base = MilConfig::preset(name.clone().map_or(Ok(Preset::Mist), named)?);
    let all = serde_json::to_value(&base).map_err(D::Error::custom)?;
    let left_out = |key: &String| said.get(key).is_none();
    if name.is_some() && !all.as_object().is_some_and(|all| all.keys().any(left_out)) {
        // A run's own file says everything: a preset put beside it would change nothing, in silence.
        return Err(D::Error::custom(
            "preset says what the keys are that are left out, and none is; weak = \"PRESET\" takes all of them from it",
        ));
    }
    over(&base, said).map_err(D::Error::custom)
}

/// Which proposals are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ProposalLimits {
    /// The most a picture; the best scored are kept.
    pub most: usize,
    /// Boxes with a shorter side are left out, pixels of the picture.
    pub least_side: f32,
}

impl Default for ProposalLimits {
    fn default() -> Self {
        Self { most: 300, least_side: 1.0 }
    }
}

/// The parts of the weak detectors, which learn from pictures as bags of proposals (multiple instance learning).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MilConfig {
    /// Share of the hidden values that are left out in training, in both layers (published: 0.5 at a width of 4096).
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

impl Default for MilConfig {
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

impl MilConfig {
    /// A published detector's.
    pub fn preset(preset: Preset) -> Self {
        let oicr = Self {
            // Published: half of 4096 values that have seen ImageNet. Half of a few hundred new ones, twice, hides from a step of one
            // picture what it could tell.
            dropout: 0.2,
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

impl DetectorConfig {
    /// A published detector on the default features.
    pub fn preset(preset: Preset) -> Self {
        Self {
            seed: 0,
            input: InputConfig::default(),
            features: FeatureConfig::default(),
            head: HeadConfig::default(),
            proposals: ProposalLimits::default(),
            weak: MilConfig::preset(preset),
            answers: ANSWERS,
            plan: default_plan(),
        }
    }

    /// Checks the numbers.
    pub fn check(&self) -> Result<(), WeakError> {
        self.input.check()?;
        self.features.check()?;
        self.head.check()?;
        self.weak.check()?;
        self.answers.check()?;
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
