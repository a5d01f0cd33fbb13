//! Configuration of the two-stage detector.

use kirie_engine::Plan;
use kirie_run::config::over;
use serde::{Deserialize, Deserializer, Serialize};

use crate::WeakError;
use crate::boxes::AnswerConfig;
use crate::detector::config::{default_plan, partial_plan};
use crate::network::{FeatureConfig, HeadConfig, InputConfig};

/// Configuration of a detector that learns from boxes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RetrainConfig {
    /// Seed of all that is random; in the chain the run's.
    pub seed: u64,
    /// Sizes of pictures.
    pub input: InputConfig,
    /// The feature map.
    pub features: FeatureConfig,
    /// Vectors of boxes.
    pub head: HeadConfig,
    /// The first stage.
    pub rpn: RpnConfig,
    /// Boxes that the second stage learns from.
    pub sample: SampleConfig,
    /// RoI drop.
    pub drop: DropConfig,
    /// What becomes of its answers.
    #[serde(deserialize_with = "partial_answers")]
    pub answers: AnswerConfig,
    /// How long, how fast. A table need only say what differs from the default's.
    #[serde(deserialize_with = "partial_plan")]
    pub plan: Plan,
}

/// Detections of all views together.
const ANSWERS: AnswerConfig = AnswerConfig { least_score: 0.05, nms: 0.5, most: 100 };

fn partial_answers<'de, D: Deserializer<'de>>(deserializer: D) -> Result<AnswerConfig, D::Error> {
    over(&ANSWERS, deserializer)
}

/// Configuration of the region proposal network.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RpnConfig {
    /// Sides of square anchors, pixels of the input.
    pub sides: Vec<f32>,
    /// Height over width of anchors.
    pub ratios: Vec<f32>,
    /// Overlap with an object from which an anchor is one.
    pub positive: f32,
    /// Overlap below which it is background.
    pub negative: f32,
    /// Anchors that a picture's loss is made of, at most half of them objects.
    pub sampled: usize,
    /// Best scored anchors before suppression.
    pub before_nms: usize,
    /// And after.
    pub after_nms: usize,
    /// Overlap above which the lower scored one is suppressed.
    pub nms: f32,
}

impl Default for RpnConfig {
    fn default() -> Self {
        Self {
            sides: vec![24.0, 48.0, 96.0, 176.0],
            ratios: vec![0.5, 1.0, 2.0],
            positive: 0.7,
            negative: 0.3,
            sampled: 256,
            before_nms: 600,
            after_nms: 150,
            nms: 0.7,
        }
    }
}

/// Boxes that the second stage learns from.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SampleConfig {
    /// How many of a picture.
    pub count: usize,
    /// The share of them that may be objects.
    pub foreground_share: f32,
    /// Overlap with an object from which a box is one.
    pub foreground: f32,
}

impl Default for SampleConfig {
    fn default() -> Self {
        Self { count: 128, foreground_share: 0.25, foreground: 0.5 }
    }
}

/// How the two thresholds of RoI drop work together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DropMode {
    /// Nothing is dropped.
    #[default]
    Off,
    /// Each loss by its own threshold, as the paper draws it.
    Independent,
    /// Both losses of a box whose two losses exceed their thresholds, as the repository has it.
    Both,
}

/// RoI drop regularisation: boxes whose loss says that their label is wrong are not learned from.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DropConfig {
    /// How.
    pub mode: DropMode,
    /// Threshold on a box's cross-entropy (published: 4).
    pub class: f32,
    /// Threshold on a box's L1 over its four steps (published: 4).
    pub regress: f32,
    /// The share of all steps before it begins (published for VOC 2007: 2000 of 9000).
    pub start: f64,
}

impl Default for DropConfig {
    fn default() -> Self {
        // `Independent` leaves out every object once the class is guessed as background: it then never is learned.
        Self { mode: DropMode::Both, class: 4.0, regress: 4.0, start: 0.22 }
    }
}

impl Default for RetrainConfig {
    fn default() -> Self {
        Self {
            seed: 0,
            input: InputConfig::default(),
            features: FeatureConfig::default(),
            head: HeadConfig::default(),
            rpn: RpnConfig::default(),
            sample: SampleConfig::default(),
            drop: DropConfig::default(),
            answers: ANSWERS,
            plan: default_plan(),
        }
    }
}

impl RetrainConfig {
    /// Checks the numbers.
    pub fn check(&self) -> Result<(), WeakError> {
        self.input.check()?;
        self.features.check()?;
        self.head.check()?;
        self.answers.check()?;
        let rpn = &self.rpn;
        for (name, values) in [("rpn.sides", &rpn.sides), ("rpn.ratios", &rpn.ratios)] {
            if values.is_empty() || values.iter().any(|v| !(v.is_finite() && *v > 0.0)) {
                return Err(WeakError::setting(name, format!("{values:?}"), "one or more numbers above 0"));
            }
        }
        let shares = [
            ("rpn.positive", rpn.positive),
            ("rpn.negative", rpn.negative),
            ("rpn.nms", rpn.nms),
            ("sample.foreground", self.sample.foreground),
            ("sample.foreground_share", self.sample.foreground_share),
            ("drop.start", self.drop.start as f32),
        ];
        if let Some((name, value)) = shares.into_iter().find(|(_, value)| !(0.0..=1.0).contains(value)) {
            return Err(WeakError::setting(name, value, "0 to 1"));
        }
        if rpn.negative > rpn.positive {
            return Err(WeakError::setting("rpn.negative", rpn.negative, "at most rpn.positive"));
        }
        let counts = [
            ("rpn.sampled", rpn.sampled),
            ("rpn.before_nms", rpn.before_nms),
            ("rpn.after_nms", rpn.after_nms),
            ("sample.count", self.sample.count),
        ];
        if let Some((name, _)) = counts.into_iter().find(|(_, count)| *count == 0) {
            return Err(WeakError::setting(name, 0, "1 or more"));
        }
        if self.drop.class.is_nan() || self.drop.regress.is_nan() {
            return Err(WeakError::setting("drop", "NaN", "numbers"));
        }
        Ok(self.plan.check()?)
    }
}
