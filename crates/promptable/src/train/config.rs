//! What a training run is told; `configs/` holds examples.

use std::path::{Path, PathBuf};

use kirie_engine::Plan;
use kirie_sam::model::SamConfig;
use serde::{Deserialize, Serialize};

use super::TrainError;

/// A training run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainConfig {
    /// Everything random follows from it.
    #[serde(default)]
    pub seed: u64,
    /// The model that is trained.
    pub model: ModelConfig,
    /// Pictures to learn from.
    pub data: DataConfig,
    /// How pictures are changed before the model sees them.
    #[serde(default)]
    pub augment: Augment,
    /// What the model learns.
    pub task: Task,
    /// Steps, optimiser, schedule, checkpoints.
    pub plan: Plan,
}

/// The model that is trained.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelConfig {
    /// A model of `kirie models list`, for its sizes and preprocessing.
    pub name: String,
    /// Sizes in place of the registered ones, for a model that is not registered.
    #[serde(default)]
    pub sizes: Option<SamConfig>,
    /// Side of the encoder's input, pixels, in place of the registered one.
    #[serde(default)]
    pub input: Option<u32>,
    /// Weights to start from, a file or [`BUILT_IN`]; without them the start is random.
    #[serde(default)]
    pub init: Option<PathBuf>,
}

/// In place of a file of weights: those that are part of the program.
pub const BUILT_IN: &str = "built-in";

/// Pictures to learn from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataConfig {
    /// The folder that the sets' paths start from; without it the configuration file's own folder.
    #[serde(default)]
    pub root: Option<PathBuf>,
    /// The sets.
    pub sets: Vec<SetConfig>,
    /// Every nth picture (by a hash of its name) is not trained on but validated with; 0 for none.
    #[serde(default = "forty")]
    pub validate_one_in: u64,
    /// Pictures looked at in a validation, at most.
    #[serde(default = "sixty_four")]
    pub validate_pictures: usize,
    /// Pictures in a batch.
    pub batch: usize,
    /// Objects asked for in each picture; fewer are repeated, with other prompts.
    #[serde(default = "four")]
    pub objects: usize,
    /// Objects whose visible part is smaller than this many pixels of the model's input are not asked for.
    #[serde(default = "sixteen")]
    pub smallest: u64,
}

/// One set.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetConfig {
    /// Its folder.
    pub path: PathBuf,
    /// The part of it; of a set that has no parts, `train` is all.
    #[serde(default = "train")]
    pub split: String,
    /// How often each of its pictures comes, compared with other sets' pictures.
    #[serde(default = "one")]
    pub weight: f64,
}

/// How pictures are changed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Augment {
    /// Share of pictures that are mirrored left to right.
    pub flip: f64,
    /// Large-scale jitter: the picture's longer side becomes this range times the model's input, and a window of the input's
    /// size is cut from it. Both 1 keeps whole pictures.
    pub scale: [f64; 2],
    /// Strongest change of the ratio of width to height: 1.2 draws from 1/1.2 to 1.2.
    pub stretch: f64,
    /// Strongest change of brightness, contrast and saturation, as a share.
    pub colour: f64,
    /// Share of pictures of which a window around one object is taken instead.
    pub zoom: f64,
    /// Side of that window over the longer side of the object's box: from about what `--zoom` cuts, to where the object is
    /// small.
    pub context: [f64; 2],
}

impl Default for Augment {
    /// The published recipe: mirrored, nothing else.
    fn default() -> Self {
        Self { flip: 0.5, scale: [1.0, 1.0], stretch: 1.0, colour: 0.0, zoom: 0.0, context: [1.2, 3.0] }
    }
}

/// What the model learns.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
#[allow(clippy::large_enum_variant, reason = "there is one per run")]
pub enum Task {
    /// Stage 1: the encoder gives what a teacher's encoder gives.
    Distill(Distill),
    /// Stage 2: prompts in, masks out.
    EndToEnd(EndToEnd),
}

/// Stage 1.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Distill {
    /// The teacher, a model of `kirie models list`; its embedding must have the student's shape.
    pub teacher: String,
    /// Its sizes, if it is not registered.
    #[serde(default)]
    pub sizes: Option<SamConfig>,
    /// Side of its encoder's input, if not the registered one.
    #[serde(default)]
    pub input: Option<u32>,
    /// Its weights, a file or [`BUILT_IN`].
    pub weights: PathBuf,
    /// Folder for the teacher's embeddings in float16, found again by the picture's content and the weights' hash. Only for
    /// pictures that are kept whole.
    #[serde(default)]
    pub cache: Option<PathBuf>,
    /// Take the teacher's prompt encoder and decoder over.
    #[serde(default = "yes")]
    pub copy_decoder: bool,
}

/// Stage 2.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EndToEnd {
    /// How objects are asked for.
    pub prompts: Prompts,
    /// What is made smaller.
    pub loss: LossConfig,
    /// Train prompt encoder and decoder alone; the encoder runs without gradients.
    pub decoder_only: bool,
}

/// How objects are asked for. What kind of prompt it is, and how many points, is drawn once a batch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Prompts {
    /// Share of batches that ask with boxes; the others ask with points.
    pub boxes: f64,
    /// Fewest and most points.
    pub points: [usize; 2],
    /// Corners of boxes are moved by a normal deviate of this share of the side (SAM: 0.1), at most 20 pixels of the 1024
    /// frame.
    pub box_noise: f64,
    /// Rounds of correction after the first answer, each with a click where the answer is wrong and the answer's logits as
    /// mask input (SAM's interactive training).
    pub rounds: usize,
}

impl Default for Prompts {
    /// The published recipe: half boxes without noise, half 1 to 10 points on the object, no corrections.
    fn default() -> Self {
        Self { boxes: 0.5, points: [1, 10], box_noise: 0.0, rounds: 0 }
    }
}

/// What is made smaller.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LossConfig {
    /// The loss of a point.
    pub kind: PointLoss,
    /// Its weight.
    pub mask_weight: f64,
    /// Weight of dice.
    pub dice_weight: f64,
    /// Weight of the squared error of the predicted IoU; 0 is the published code, which leaves that head as it is.
    pub iou_weight: f64,
    /// Points of a mask at which it is compared.
    pub points: usize,
    /// Share of the points that are the least certain of three times as many as there are points; the others are drawn
    /// evenly. Much helps a model that is nearly right with its edges, little a model that begins with nothing.
    pub unsure: f64,
    /// Share of batches that train the three masks for ambiguous prompts (the best one counts); the others train the single
    /// mask.
    pub multimask: f64,
}

impl Default for LossConfig {
    fn default() -> Self {
        Self {
            kind: PointLoss::Bce,
            mask_weight: 20.0,
            dice_weight: 1.0,
            iou_weight: 1.0,
            points: 12_544,
            unsure: 0.75,
            multimask: 0.5,
        }
    }
}

/// The loss of a point.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PointLoss {
    /// Binary cross entropy (the published code).
    Bce,
    /// Focal loss with gamma 2 and alpha 0.25 (the paper; Lin et al.).
    Focal,
}

fn forty() -> u64 {
    40
}
fn sixty_four() -> usize {
    64
}
fn four() -> usize {
    4
}
fn sixteen() -> u64 {
    16
}
fn one() -> f64 {
    1.0
}
fn train() -> String {
    "train".to_owned()
}
fn yes() -> bool {
    true
}

impl TrainConfig {
    /// Makes relative paths start from `base`.
    pub fn resolve(&mut self, base: &Path) {
        let root = self.data.root.get_or_insert_with(PathBuf::new);
        *root = base.join(&root);
        let file = |path: &mut PathBuf| {
            if path.as_os_str() != BUILT_IN {
                *path = base.join(&path);
            }
        };
        if let Some(path) = &mut self.model.init {
            file(path);
        }
        if let Task::Distill(task) = &mut self.task {
            file(&mut task.weights);
            if let Some(path) = &mut task.cache {
                *path = base.join(&path);
            }
        }
    }

    /// Checks the numbers that types do not.
    pub fn check(&self) -> Result<(), TrainError> {
        let bad = |name: &str, found: String, expected: &str| {
            Err(TrainError::Setting { name: name.to_owned(), found, expected: expected.to_owned() })
        };
        let share = |name: &str, value: f64| {
            if (0.0..=1.0).contains(&value) { Ok(()) } else { bad(name, value.to_string(), "0 to 1") }
        };
        if self.data.sets.is_empty() {
            return bad("data.sets", "none".to_owned(), "at least one set");
        }
        for set in &self.data.sets {
            if !(set.weight.is_finite() && set.weight > 0.0) {
                return bad("data.sets.weight", set.weight.to_string(), "a number above 0");
            }
        }
        for (name, value) in [("data.batch", self.data.batch), ("data.objects", self.data.objects)] {
            if value == 0 {
                return bad(name, "0".to_owned(), "1 or more");
            }
        }
        let augment = &self.augment;
        share("augment.flip", augment.flip)?;
        share("augment.colour", augment.colour)?;
        share("augment.zoom", augment.zoom)?;
        let [least, most] = augment.context;
        if !(1.0..=most).contains(&least) || most > 16.0 {
            return bad(
                "augment.context",
                format!("{:?}", augment.context),
                "two rising numbers from 1 to 16",
            );
        }
        let [least, most] = augment.scale;
        if !(least > 0.0 && least <= most && most <= 16.0) {
            return bad(
                "augment.scale",
                format!("{:?}", augment.scale),
                "two rising numbers above 0, up to 16",
            );
        }
        if !(1.0..=4.0).contains(&augment.stretch) {
            return bad("augment.stretch", augment.stretch.to_string(), "1 to 4");
        }
        if let Task::EndToEnd(task) = &self.task {
            share("task.prompts.boxes", task.prompts.boxes)?;
            share("task.prompts.box_noise", task.prompts.box_noise)?;
            share("task.loss.multimask", task.loss.multimask)?;
            share("task.loss.unsure", task.loss.unsure)?;
            let [fewest, most] = task.prompts.points;
            if fewest == 0 || fewest > most || most > 100 {
                return bad("task.prompts.points", format!("{:?}", task.prompts.points), "1 to 100, rising");
            }
            if task.loss.points == 0 {
                return bad("task.loss.points", "0".to_owned(), "1 or more");
            }
            let weights = [task.loss.mask_weight, task.loss.dice_weight, task.loss.iou_weight];
            if !weights.iter().all(|w| w.is_finite() && *w >= 0.0) {
                return bad("task.loss weights", format!("{weights:?}"), "0 or more");
            }
        }
        self.plan.check()?;
        Ok(())
    }
}
