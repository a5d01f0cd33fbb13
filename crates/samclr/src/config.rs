//! What a contrastive training run is told.
//!
//! ```toml
//! [encoder]
//! kind = "resnet"
//! depth = 18
//!
//! [method]
//! kind = "simclr"
//!
//! [data]
//! sets = [{ path = "coco_subset" }]
//! batch = 64
//!
//! [regions]
//! source = { kind = "model" }     # or { kind = "whole" }: plain SimCLR, everything else equal
//!
//! [views]
//! recipe = "samclr"
//! size = 64
//! ```

use std::path::{Path, PathBuf};

use kirie_engine::Plan;
use serde::{Deserialize, Serialize};

use crate::error::ContrastiveError;
use crate::loss::Against;
use crate::regions::RegionsConfig;
use crate::views::ViewsConfig;

/// In place of a file of weights: those that are part of the program.
pub const BUILT_IN: &str = "built-in";

/// A training run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainConfig {
    /// Everything random follows from it.
    #[serde(default)]
    pub seed: u64,
    /// The network that is trained.
    pub encoder: EncoderConfig,
    /// The loss and what belongs to it.
    pub method: MethodConfig,
    /// Pictures to learn from.
    pub data: DataConfig,
    /// What part of a picture both views come from.
    #[serde(default)]
    pub regions: RegionsConfig,
    /// How views are drawn.
    #[serde(default)]
    pub views: ViewsConfig,
    /// Labelled pictures to judge the features by while training.
    #[serde(default)]
    pub probe: Option<ProbeConfig>,
    /// Steps, optimiser, schedule, checkpoints.
    pub plan: Plan,
}

/// The network that is trained.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum EncoderConfig {
    /// ResNet, with torchvision's names.
    Resnet(ResnetEncoder),
    /// The image encoder of a SAM-family model.
    Sam(SamEncoder),
}

/// ResNet, with torchvision's names.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ResnetEncoder {
    /// 18 or 50.
    pub depth: u32,
    /// Width of the first stage; 64 is the published network.
    #[serde(default = "sixty_four")]
    pub width: usize,
    /// What comes before the first stage.
    #[serde(default)]
    pub stem: Stem,
    /// Weights to start from: torchvision's, a run's encoder, or a checkpoint of another toolkit.
    #[serde(default)]
    pub init: Option<PathBuf>,
}

/// What comes before a ResNet's first stage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stem {
    /// 7x7 of stride 2 and max-pool: what the SAMCLR authors' code uses, even for small views.
    #[default]
    Imagenet,
    /// 3x3 of stride 1: for views of 32 pixels, and better for any small ones.
    Cifar,
}

/// The image encoder of a SAM-family model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SamEncoder {
    /// A model of `kirie models list`.
    pub model: String,
    /// A whole model's weights to start from, a file or [`BUILT_IN`]; without them the start is random.
    #[serde(default)]
    pub init: Option<PathBuf>,
}

/// The loss and what belongs to it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum MethodConfig {
    /// NT-Xent among the views of a batch. With regions, it is SAMCLR.
    Simclr(Simclr),
    /// A momentum encoder and a queue of keys.
    Moco(Moco),
    /// A student that follows a centred and sharpened momentum teacher.
    Dino(Dino),
}

impl MethodConfig {
    /// Its name.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Simclr(_) => "SimCLR",
            Self::Moco(_) => "MoCo",
            Self::Dino(_) => "DINO",
        }
    }
}

/// SimCLR; the defaults are those of the SAMCLR authors' code.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Simclr {
    /// 0.07 there; SimCLR takes 0.1 on ImageNet and 0.5 on CIFAR-10.
    pub temperature: f64,
    /// Width of the projection head; 0 for that of the features.
    pub hidden: usize,
    /// Length of the projections.
    pub output: usize,
    /// What an anchor's positive is held against, where there are more than two views.
    pub against: Against,
}

impl Default for Simclr {
    fn default() -> Self {
        Self { temperature: 0.07, hidden: 0, output: 128, against: Against::Negatives }
    }
}

/// MoCo v2.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Moco {
    /// Temperature.
    pub temperature: f64,
    /// Keys in the queue; the batch must divide it.
    pub queue: usize,
    /// How much of the key encoder stays in a step.
    pub momentum: f64,
    /// Width of the projection head; 0 for that of the features.
    pub hidden: usize,
    /// Length of the projections.
    pub output: usize,
    /// Each view is a query once, and the loss the mean of both.
    pub symmetric: bool,
    /// How the key encoder normalises.
    pub norm: MomentumNorm,
}

impl Default for Moco {
    fn default() -> Self {
        Self {
            temperature: 0.2,
            queue: 4096,
            momentum: 0.99,
            hidden: 0,
            output: 128,
            symmetric: false,
            norm: MomentumNorm::Batch,
        }
    }
}

/// How the batch norms of a momentum encoder work.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MomentumNorm {
    /// By the statistics of its own batch (the published codes).
    #[default]
    Batch,
    /// By running statistics that follow those of the trained encoder (EMAN, Cai et al. 2021): no sample sees another through
    /// the norm, and no graph is kept, which saves time and memory.
    Running,
}

/// DINO.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Dino {
    /// The student's temperature.
    pub student_temperature: f64,
    /// The teacher's at the first step, and after [`Dino::teacher_warmup`] steps.
    pub teacher_temperature: [f64; 2],
    /// Steps over which the teacher's temperature goes from the one to the other.
    pub teacher_warmup: u64,
    /// How much of the teacher stays in a step at first; a half cosine takes it to 1.
    pub momentum: f64,
    /// How much of the centre stays in a step.
    pub centre_momentum: f64,
    /// Width of the head's hidden layers.
    pub hidden: usize,
    /// Width of the head's last layer before the prototypes.
    pub bottleneck: usize,
    /// Prototypes.
    pub prototypes: usize,
    /// Batch norm behind the head's hidden layers, as with ResNets; the head of ViTs has none.
    pub batch_norm: bool,
    /// Steps in which the prototypes stay as they are.
    pub freeze_prototypes: u64,
    /// How the teacher normalises.
    pub norm: MomentumNorm,
}

impl Default for Dino {
    /// The published values, with the 2048 prototypes that lightly takes for small sets in place of 65,536.
    fn default() -> Self {
        Self {
            student_temperature: 0.1,
            teacher_temperature: [0.04, 0.04],
            teacher_warmup: 0,
            momentum: 0.996,
            centre_momentum: 0.9,
            hidden: 2048,
            bottleneck: 256,
            prototypes: 2048,
            batch_norm: true,
            freeze_prototypes: 0,
            norm: MomentumNorm::Batch,
        }
    }
}

/// Pictures to learn from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataConfig {
    /// The folder that the sets' paths start from; without it the configuration file's own folder.
    #[serde(default)]
    pub root: Option<PathBuf>,
    /// The sets; labels are not looked at.
    pub sets: Vec<SetConfig>,
    /// Pictures in a batch; each gives all views of one sample.
    pub batch: usize,
    /// Memory for decoded pictures, MiB: what does not fit is decoded anew each time.
    #[serde(default = "cache")]
    pub cache_mib: usize,
}

/// One set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetConfig {
    /// Its folder, or a COCO annotation file.
    pub path: PathBuf,
    /// The part of it to learn from; a set that has no parts is taken whole, and so is any set with `""`.
    #[serde(default = "train")]
    pub split: String,
}

/// Labelled pictures to judge the features by while training: each `one_in`th picture, by a hash of its name, is classified by its
/// nearest neighbours among the others. Take a part that no final score is made of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProbeConfig {
    /// Its folder: class folders, CIFAR-10, STL-10, or any set whose pictures show one class each.
    pub path: PathBuf,
    /// The part of it.
    #[serde(default = "train")]
    pub split: String,
    /// One picture in so many is asked about.
    #[serde(default = "five")]
    pub one_in: u64,
    /// Pictures at most, spread evenly over the set; 0 for all.
    #[serde(default = "thousand")]
    pub limit: usize,
    /// Side that pictures get, pixels; 0 for that of the views.
    #[serde(default)]
    pub size: u32,
    /// Neighbours.
    #[serde(default = "twenty")]
    pub k: usize,
    /// Temperature of their votes.
    #[serde(default = "tenth")]
    pub temperature: f64,
}

fn sixty_four() -> usize {
    64
}
fn cache() -> usize {
    512
}
fn train() -> String {
    "train".to_owned()
}
fn five() -> u64 {
    5
}
fn thousand() -> usize {
    1000
}
fn twenty() -> usize {
    20
}
fn tenth() -> f64 {
    0.1
}

impl TrainConfig {
    /// Makes relative paths start from `base`; those of sets from `data`, if that is given.
    pub fn resolve(&mut self, base: &Path, data: Option<&Path>) {
        let root = match (data, &self.data.root) {
            (Some(data), _) => data.to_owned(),
            (None, Some(root)) => base.join(root),
            (None, None) => base.to_owned(),
        };
        self.data.root = Some(root);
        let init = match &mut self.encoder {
            EncoderConfig::Resnet(resnet) => &mut resnet.init,
            EncoderConfig::Sam(sam) => &mut sam.init,
        };
        if let Some(path) = init.as_mut().filter(|path| path.as_os_str() != BUILT_IN) {
            *path = base.join(&path);
        }
        self.regions.resolve(base);
    }

    /// The path of a set.
    pub fn set_path(&self, path: &Path) -> PathBuf {
        self.data.root.as_ref().map_or_else(|| path.to_owned(), |root| root.join(path))
    }

    /// Checks what types do not.
    ///
    /// # Errors
    /// [`ContrastiveError::Setting`].
    pub fn check(&self) -> Result<(), ContrastiveError> {
        if let EncoderConfig::Resnet(resnet) = &self.encoder {
            if ![18, 50].contains(&resnet.depth) {
                return Err(ContrastiveError::setting("encoder.depth", resnet.depth, "18 or 50"));
            }
            if !(1..=1024).contains(&resnet.width) {
                return Err(ContrastiveError::setting("encoder.width", resnet.width, "1 to 1024"));
            }
        }
        if self.data.sets.is_empty() {
            return Err(ContrastiveError::setting("data.sets", "empty", "at least one set"));
        }
        if self.data.batch < 2 {
            return Err(ContrastiveError::setting(
                "data.batch",
                self.data.batch,
                "2 or more: other samples are the negatives",
            ));
        }
        if let Some(set) = self.data.sets.iter().find(|set| set.split.eq_ignore_ascii_case("test")) {
            return Err(ContrastiveError::setting(
                "data.sets.split",
                &set.split,
                "another part: a test list is for the final score",
            ));
        }
        if let Some(probe) = &self.probe {
            if probe.split.eq_ignore_ascii_case("test") {
                return Err(ContrastiveError::setting(
                    "probe.split",
                    &probe.split,
                    "another part: a test list is for the final score",
                ));
            }
            if probe.one_in < 2 {
                return Err(ContrastiveError::setting("probe.one_in", probe.one_in, "2 or more"));
            }
            if probe.k == 0 {
                return Err(ContrastiveError::setting("probe.k", 0, "1 or more"));
            }
            positive("probe.temperature", probe.temperature)?;
        }
        self.method.check(self.data.batch)?;
        self.regions.check()?;
        self.views.check()?;
        if self.views.count() < 2 {
            return Err(ContrastiveError::setting(
                "views.global",
                self.views.global,
                "2 or more, or local views beside it",
            ));
        }
        if !matches!(self.method, MethodConfig::Simclr(_)) && self.views.global != 2 {
            return Err(ContrastiveError::setting(
                "views.global",
                self.views.global,
                "2, which MoCo and DINO are made for",
            ));
        }
        if matches!(self.method, MethodConfig::Moco(_)) && self.views.local > 0 {
            return Err(ContrastiveError::setting(
                "views.local",
                self.views.local,
                "0: MoCo has a query and a key",
            ));
        }
        Ok(self.plan.check()?)
    }
}

impl MethodConfig {
    fn check(&self, batch: usize) -> Result<(), ContrastiveError> {
        let share = |name: &str, value: f64| {
            if (0.0..1.0).contains(&value) {
                Ok(())
            } else {
                Err(ContrastiveError::setting(name, value, "0 to below 1"))
            }
        };
        let some = |name: &str, value: usize| {
            if value > 0 { Ok(()) } else { Err(ContrastiveError::setting(name, 0, "1 or more")) }
        };
        match self {
            Self::Simclr(simclr) => {
                positive("method.temperature", simclr.temperature)?;
                some("method.output", simclr.output)
            }
            Self::Moco(moco) => {
                positive("method.temperature", moco.temperature)?;
                share("method.momentum", moco.momentum)?;
                some("method.output", moco.output)?;
                let keys = if moco.symmetric { 2 * batch } else { batch };
                if moco.queue == 0 || !moco.queue.is_multiple_of(keys) {
                    let expected = format!("a multiple of the {keys} keys of a batch");
                    return Err(ContrastiveError::setting("method.queue", moco.queue, expected));
                }
                Ok(())
            }
            Self::Dino(dino) => {
                positive("method.student_temperature", dino.student_temperature)?;
                for temperature in dino.teacher_temperature {
                    positive("method.teacher_temperature", temperature)?;
                }
                share("method.momentum", dino.momentum)?;
                share("method.centre_momentum", dino.centre_momentum)?;
                some("method.hidden", dino.hidden)?;
                some("method.bottleneck", dino.bottleneck)?;
                some("method.prototypes", dino.prototypes)
            }
        }
    }
}

/// A finite number above 0.
pub(crate) fn positive(name: &str, value: f64) -> Result<(), ContrastiveError> {
    if value.is_finite() && value > 0.0 {
        return Ok(());
    }
    Err(ContrastiveError::setting(name, value, "a number above 0"))
}
