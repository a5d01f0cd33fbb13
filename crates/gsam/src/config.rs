//! What a semantic training run is told.
//!
//! ```toml
//! [data]
//! sets = [{ path = "camvid" }]
//! batch = 4
//! hold_out = { kind = "split", split = "val" }
//! merge = { Pole = "ignore" }
//!
//! [input]
//! resize = { kind = "exact", size = [360, 480] }
//! keep_aspect = false
//! crop = [256, 256]
//! ```

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use kirie_engine::Plan;
use serde::{Deserialize, Serialize};

use crate::error::SemanticError;

/// Shortest side, pixels, that a network is given.
pub const SMALLEST_SIDE: u32 = 32;
/// Longest side, pixels, that a picture may be resized to.
const LONGEST_SIDE: u32 = 16_384;
/// The part that is learned from where nothing is said.
pub(crate) const TRAIN: &str = "train";
/// The name in [`DataConfig::merge`] that makes pixels count nowhere.
pub const IGNORE_NAME: &str = "ignore";
/// The name in [`DataConfig::merge`] that stands for every class that is not named otherwise.
pub const ALL_OTHERS: &str = "*";

/// A training run. `M` says which network, and is the business of whoever builds it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainConfig<M> {
    /// Everything random follows from it.
    #[serde(default)]
    pub seed: u64,
    /// The network and the method it is fine-tuned by.
    pub model: M,
    /// Pictures to learn from.
    pub data: DataConfig,
    /// How pictures are changed before the network sees them.
    #[serde(default)]
    pub input: InputConfig,
    /// What is made smaller.
    #[serde(default)]
    pub loss: LossConfig,
    /// How a picture is segmented, in validation and afterwards.
    #[serde(default)]
    pub test: TestConfig,
    /// Steps, optimiser, schedule, checkpoints.
    pub plan: Plan,
}

/// Pictures to learn from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataConfig {
    /// The folder that the sets' paths start from; without it the configuration file's own folder.
    #[serde(default)]
    pub root: Option<PathBuf>,
    /// The sets.
    pub sets: Vec<SetConfig>,
    /// Names of the classes, in the order of the network's outputs; without them those of the sets, in the order met. Where
    /// labels are objects, what no object covers is the class `background`, which comes first.
    #[serde(default)]
    pub classes: Vec<String>,
    /// Classes of the sets that count as another: `{ Truck = "Car" }`. To `"ignore"` belong pixels that are neither learned
    /// from nor scored; `"*"` stands for every class that is not named otherwise.
    #[serde(default)]
    pub merge: BTreeMap<String, String>,
    /// Pictures in a batch.
    #[serde(default = "eight")]
    pub batch: usize,
    /// Which pictures are not learned from but validated with.
    #[serde(default)]
    pub hold_out: HoldOut,
    /// Pictures looked at in a validation, at most; 0 for all.
    #[serde(default = "sixty_four")]
    pub validate_pictures: usize,
}

/// One set.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetConfig {
    /// Its folder, or a COCO annotation file.
    pub path: PathBuf,
    /// The part of it to learn from; a set that has no parts is taken whole, and so is any set with `""`.
    #[serde(default = "train")]
    pub split: String,
    /// Of its labelled pictures, only the first of every so many is learned from, in the order of the list: to see what fewer labels
    /// are worth. What is validated with and scored on is not thinned out.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub one_in: usize,
    /// Numbers in its label pictures that mean "unknown", beyond the highest the format holds (255) and those of classes
    /// named void, unlabelled or ignore.
    #[serde(default)]
    pub ignore: Vec<u16>,
    /// The folder of its label pictures, where that has no usual name.
    #[serde(default)]
    pub mask_folder: Option<String>,
    /// What the numbers in its label pictures mean, where that is not found out rightly: then a number that no class has is an
    /// error in a set of two classes, too, and not an object.
    #[serde(default)]
    pub numbers: Option<Numbers>,
}

impl SetConfig {
    /// A part of a set, with nothing said about its labels.
    pub fn new(path: impl Into<PathBuf>, split: impl Into<String>) -> Self {
        Self {
            path: path.into(),
            split: split.into(),
            one_in: 1,
            ignore: Vec::new(),
            mask_folder: None,
            numbers: None,
        }
    }
}

fn one() -> usize {
    1
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
fn is_one(number: &usize) -> bool {
    *number == 1
}

/// What the numbers in label pictures mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Numbers {
    /// Classes.
    Classes,
    /// Objects.
    Instances,
    /// 0 is background, anything else foreground.
    Binary,
}

/// Which pictures are not learned from but validated with. Folds and shares go by a hash of the pictures' names, so that they
/// do not depend on the order of a list.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum HoldOut {
    /// None: there is no validation, and the last weights are the best.
    None,
    /// Another part of the same sets.
    Split {
        /// Its name.
        split: String,
    },
    /// Of `folds` equal shares of the pictures, the one with the number `fold` (from 0): k-fold cross-validation.
    Folds {
        /// Shares.
        folds: u64,
        /// Which one is held out.
        fold: u64,
    },
}

impl Default for HoldOut {
    fn default() -> Self {
        Self::Folds { folds: 5, fold: 0 }
    }
}

/// How pictures are changed before the network sees them. The default leaves pictures as they are but for mirroring.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct InputConfig {
    /// The size a picture gets first.
    pub resize: Resize,
    /// Whether height and width change by the same factor. Without it, [`Resize::Longest`] gives squares,
    /// [`Resize::Scale`] draws a factor for each side, and [`Resize::Exact`] stretches.
    pub keep_aspect: bool,
    /// A further factor, drawn from this range, on the size that `resize` gave: multi-scale training.
    pub multi_scale: [f64; 2],
    /// Height and width, pixels, of the window that is cut out at a random place. Without it the whole picture is the
    /// input, and those of a batch are padded to a common size.
    pub crop: Option<[u32; 2]>,
    /// Whether a picture smaller than the crop is padded, with pixels that count nowhere; otherwise it is an error.
    pub pad: bool,
    /// A crop of which one class takes more than this share of the labelled pixels is drawn anew, up to 10 times; 1 for
    /// never.
    pub category_max_ratio: f64,
    /// Share of pictures that are mirrored left to right.
    pub flip: f64,
    /// Share of pictures that are mirrored top to bottom.
    pub flip_vertical: f64,
    /// Strongest rotation either way, degrees. What lies outside the picture counts nowhere.
    pub rotate: f64,
    /// Strongest change of colours.
    pub colour: ColourConfig,
}

impl Default for InputConfig {
    fn default() -> Self {
        Self {
            resize: Resize::None,
            keep_aspect: true,
            multi_scale: [1.0, 1.0],
            crop: None,
            pad: true,
            category_max_ratio: 0.75,
            flip: 0.5,
            flip_vertical: 0.0,
            rotate: 0.0,
            colour: ColourConfig::default(),
        }
    }
}

/// The size a picture gets. Of ranges, both ends can come; logarithms are drawn evenly.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Resize {
    /// Its own.
    #[default]
    None,
    /// Its longer side becomes a length from this range, pixels.
    Longest {
        /// Least and greatest.
        side: [u32; 2],
    },
    /// It is scaled by a factor from this range.
    Scale {
        /// Least and greatest.
        factor: [f64; 2],
    },
    /// This height and width, pixels; with `keep_aspect` the largest size that fits into them.
    Exact {
        /// Height and width.
        size: [u32; 2],
    },
}

/// Strongest changes of colours; 0 for none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ColourConfig {
    /// Share of full white that is added or taken away.
    pub brightness: f64,
    /// As a share: 0.5 draws a factor from 0.5 to 1.5.
    pub contrast: f64,
    /// As a share.
    pub saturation: f64,
    /// Turn of the colour circle, degrees.
    pub hue: f64,
}

/// What is made smaller: the weighted sum of up to three terms.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LossConfig {
    /// Weight of the cross entropy.
    pub cross_entropy: f64,
    /// Weight of the dice loss.
    pub dice: f64,
    /// Weight of the focal loss.
    pub focal: f64,
    /// Its exponent.
    pub gamma: f64,
    /// How much a pixel of each class weighs in cross entropy and focal loss.
    pub class_weights: ClassWeights,
}

impl Default for LossConfig {
    /// Cross entropy, as the published recipe.
    fn default() -> Self {
        Self { cross_entropy: 1.0, dice: 0.0, focal: 0.0, gamma: 2.0, class_weights: ClassWeights::default() }
    }
}

/// How much a pixel of each class weighs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum ClassWeights {
    /// By a rule.
    Rule(WeightRule),
    /// These, by the order of the classes.
    Given(Vec<f64>),
}

impl Default for ClassWeights {
    fn default() -> Self {
        Self::Rule(WeightRule::None)
    }
}

/// A rule for the weights of classes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WeightRule {
    /// All the same.
    None,
    /// In inverse proportion to the class's share of the pixels, so that all classes count the same in sum; but a class
    /// weighs at most [`crate::loss::MOST_WEIGHT`].
    InverseFrequency,
}

/// How a picture is segmented. The answer always has the picture's own size.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TestConfig {
    /// The size the picture gets first; ranges must be a single value.
    pub resize: Resize,
    /// As [`InputConfig::keep_aspect`].
    pub keep_aspect: bool,
    /// In one piece or window by window.
    pub mode: TestMode,
    /// Whether the mean with the mirrored picture's answer is taken.
    pub flip: bool,
    /// The same, top to bottom.
    pub flip_vertical: bool,
    /// Factors on the size whose answers are averaged.
    pub scales: Vec<f64>,
}

impl Default for TestConfig {
    fn default() -> Self {
        Self {
            resize: Resize::None,
            keep_aspect: true,
            mode: TestMode::Whole,
            flip: false,
            flip_vertical: false,
            scales: vec![1.0],
        }
    }
}

/// In one piece or window by window.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum TestMode {
    /// In one piece.
    #[default]
    Whole,
    /// By windows that overlap, whose logits are averaged; the last of a row is moved back to end at the picture's edge.
    Slide {
        /// Height and width of a window, pixels.
        window: [u32; 2],
        /// How far the next one lies down and to the right, pixels.
        stride: [u32; 2],
        /// How much each window says about a pixel.
        #[serde(default)]
        blend: Blend,
    },
}

/// How much a window says about a pixel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Blend {
    /// The same about each, as published.
    #[default]
    Uniform,
    /// Less towards its edges, where it sees less of the surroundings: hides seams.
    Tapered,
}

fn train() -> String {
    TRAIN.to_owned()
}
fn eight() -> usize {
    8
}
fn sixty_four() -> usize {
    64
}

impl<M> TrainConfig<M> {
    /// Makes relative paths of the data start from `base`.
    pub fn resolve(&mut self, base: &Path) {
        let root = self.data.root.get_or_insert_with(PathBuf::new);
        *root = base.join(&root);
    }

    /// Checks what types do not. The model's part is its builder's to check.
    pub fn check(&self) -> Result<(), SemanticError> {
        self.data.check()?;
        self.input.check()?;
        self.loss.check()?;
        self.test.check()?;
        Ok(self.plan.check()?)
    }
}

impl DataConfig {
    /// Checks the numbers and names.
    pub fn check(&self) -> Result<(), SemanticError> {
        if self.sets.is_empty() {
            return Err(SemanticError::setting("data.sets", "empty", "at least one set"));
        }
        if self.batch == 0 {
            return Err(SemanticError::setting("data.batch", 0, "1 or more"));
        }
        if self.sets.iter().any(|set| set.one_in == 0) {
            return Err(SemanticError::setting("data.sets.one_in", 0, "1 or more"));
        }
        // What decides over weights and settings is trained on in another way.
        let parts = self.sets.iter().map(|set| ("data.sets.split", set.split.as_str()));
        let held_out = match &self.hold_out {
            HoldOut::Split { split } => Some(("data.hold_out.split", split.as_str())),
            _ => None,
        };
        for (name, part) in parts.chain(held_out) {
            if part.eq_ignore_ascii_case("test") {
                let expected =
                    "another part: a test list is for the final score, neither learned from nor chosen by";
                return Err(SemanticError::setting(name, part, expected));
            }
        }
        match &self.hold_out {
            HoldOut::Folds { folds, fold } if *folds < 2 || fold >= folds => {
                let found = format!("fold {fold} of {folds}");
                return Err(SemanticError::setting(
                    "data.hold_out",
                    found,
                    "at least 2 folds, and a fold from 0 to below their number",
                ));
            }
            HoldOut::Split { split } if self.sets.iter().any(|set| set.split == *split) => {
                return Err(SemanticError::setting(
                    "data.hold_out.split",
                    split,
                    "another part than is learned from",
                ));
            }
            _ => {}
        }
        for (at, class) in self.classes.iter().enumerate() {
            if class.is_empty() || class == IGNORE_NAME || class == ALL_OTHERS {
                return Err(SemanticError::setting("data.classes", format!("{class:?}"), "names of classes"));
            }
            if self.classes[..at].contains(class) {
                return Err(SemanticError::setting(
                    "data.classes",
                    format!("{class:?} twice"),
                    "every class once",
                ));
            }
        }
        for (from, to) in &self.merge {
            if self.merge.contains_key(to) {
                let found = format!("{from:?} = {to:?}, and {to:?} is merged into another");
                return Err(SemanticError::setting("data.merge", found, "the last one of such a chain"));
            }
        }
        Ok(())
    }
}

/// A share from 0 to 1.
fn share(name: &str, value: f64) -> Result<(), SemanticError> {
    if (0.0..=1.0).contains(&value) { Ok(()) } else { Err(SemanticError::setting(name, value, "0 to 1")) }
}

/// A rising range of factors.
fn factors(name: &str, [least, most]: [f64; 2]) -> Result<(), SemanticError> {
    if (0.01..=100.0).contains(&least) && least <= most && most <= 100.0 {
        return Ok(());
    }
    Err(SemanticError::setting(name, format!("[{least}, {most}]"), "two rising numbers from 0.01 to 100"))
}

fn sides(name: &str, [height, width]: [u32; 2]) -> Result<(), SemanticError> {
    let allowed = SMALLEST_SIDE..=LONGEST_SIDE;
    if allowed.contains(&height) && allowed.contains(&width) {
        return Ok(());
    }
    let expected = format!("height and width from {SMALLEST_SIDE} to {LONGEST_SIDE} pixels");
    Err(SemanticError::setting(name, format!("[{height}, {width}]"), expected))
}

impl Resize {
    fn check(&self, name: &str) -> Result<(), SemanticError> {
        match *self {
            Self::None => Ok(()),
            Self::Longest { side } => {
                sides(&format!("{name}.side"), side)?;
                if side[0] <= side[1] {
                    return Ok(());
                }
                Err(SemanticError::setting(format!("{name}.side"), format!("{side:?}"), "rising lengths"))
            }
            Self::Scale { factor } => factors(&format!("{name}.factor"), factor),
            Self::Exact { size } => sides(&format!("{name}.size"), size),
        }
    }

    /// Whether every picture has only one size it can get.
    fn is_fixed(&self) -> bool {
        match self {
            Self::None | Self::Exact { .. } => true,
            Self::Longest { side } => side[0] == side[1],
            Self::Scale { factor } => factor[0] == factor[1],
        }
    }
}

impl InputConfig {
    /// Checks the numbers.
    pub fn check(&self) -> Result<(), SemanticError> {
        self.resize.check("input.resize")?;
        factors("input.multi_scale", self.multi_scale)?;
        if let Some(crop) = self.crop {
            sides("input.crop", crop)?;
        }
        if !(self.category_max_ratio > 0.0 && self.category_max_ratio <= 1.0) {
            return Err(SemanticError::setting(
                "input.category_max_ratio",
                self.category_max_ratio,
                "above 0 to 1",
            ));
        }
        share("input.flip", self.flip)?;
        share("input.flip_vertical", self.flip_vertical)?;
        share("input.colour.brightness", self.colour.brightness)?;
        share("input.colour.contrast", self.colour.contrast)?;
        share("input.colour.saturation", self.colour.saturation)?;
        for (name, value) in [("input.rotate", self.rotate), ("input.colour.hue", self.colour.hue)] {
            if !(0.0..=180.0).contains(&value) {
                return Err(SemanticError::setting(name, value, "0 to 180 degrees"));
            }
        }
        Ok(())
    }
}

impl LossConfig {
    /// Checks the numbers.
    pub fn check(&self) -> Result<(), SemanticError> {
        let terms = [self.cross_entropy, self.dice, self.focal];
        if !terms.iter().all(|weight| weight.is_finite() && *weight >= 0.0)
            || terms.iter().sum::<f64>() <= 0.0
        {
            let found = format!("cross_entropy {}, dice {}, focal {}", terms[0], terms[1], terms[2]);
            return Err(SemanticError::setting("loss", found, "weights of 0 or more, not all of them 0"));
        }
        // Below 1 the slope is infinite where a pixel is certain.
        if !(1.0..=10.0).contains(&self.gamma) {
            return Err(SemanticError::setting("loss.gamma", self.gamma.to_string(), "1 to 10"));
        }
        if let ClassWeights::Given(weights) = &self.class_weights {
            let usable = weights.iter().all(|weight| weight.is_finite() && *weight >= 0.0);
            if !usable || weights.iter().sum::<f64>() <= 0.0 {
                return Err(SemanticError::setting(
                    "loss.class_weights",
                    format!("{weights:?}"),
                    "numbers of 0 or more, not all 0",
                ));
            }
        }
        Ok(())
    }
}

impl TestConfig {
    /// Checks the numbers.
    pub fn check(&self) -> Result<(), SemanticError> {
        self.resize.check("test.resize")?;
        if !self.resize.is_fixed() {
            return Err(SemanticError::setting(
                "test.resize",
                format!("{:?}", self.resize),
                "a single size or factor, not a range",
            ));
        }
        if self.scales.is_empty() {
            return Err(SemanticError::setting("test.scales", "empty", "at least one factor, such as [1.0]"));
        }
        for scale in &self.scales {
            factors("test.scales", [*scale, *scale])?;
        }
        if let TestMode::Slide { window, stride, .. } = self.mode {
            sides("test.mode.window", window)?;
            if (0..2).any(|i| stride[i] == 0 || stride[i] > window[i]) {
                let expected = format!("1 to the window's side, {window:?}: otherwise windows leave gaps");
                return Err(SemanticError::setting("test.mode.stride", format!("{stride:?}"), expected));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
