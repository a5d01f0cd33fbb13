//! `kirie train`, declared.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::{MachineArgs, TrainContinualArgs, TrainContrastiveArgs, TrainSemanticArgs, TrainWeakArgs};

#[derive(Debug, Args)]
pub(crate) struct TrainArgs {
    #[command(subcommand)]
    pub(crate) command: TrainCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum TrainCommand {
    /// Distil an encoder, or train a whole model to cut objects out by boxes and points
    Promptable(TrainRunArgs),
    /// Fine-tune a model for classes of your own, on pictures of any size; or compare ways to do so
    Semantic(Box<TrainSemanticArgs>),
    /// Adapt to domains that come one after another, without forgetting; or compare ways to do so
    Continual(Box<TrainContinualArgs>),
    /// Pre-train an encoder on pictures without labels, by views of their regions or of the whole
    Contrastive(Box<TrainContrastiveArgs>),
    /// Learn to detect from image-level labels: pictures that say what they show, but not where; or compare ways to do so
    Weak(Box<TrainWeakArgs>),
}

#[derive(Debug, Args)]
#[command(
    after_help = "The run folder keeps config.toml, log.jsonl, checkpoints/, metrics.json, report.html and, when all steps are done, \
model.safetensors. A run that was stopped (Ctrl-C finishes the step and saves), killed or cut off goes on with --resume as if \
nothing had happened.

Examples:
  kirie train promptable --config configs/promptable/default.toml --data photos -o runs/mine
  kirie train promptable --config my.toml --set plan.steps=2000 --set model.init=kirie.safetensors -o runs/tuned
  kirie train promptable --resume runs/mine"
)]
pub(crate) struct TrainRunArgs {
    /// What to do, in TOML; docs/train.md lists the keys
    #[arg(long, value_name = "FILE.toml", required_unless_present = "resume")]
    pub(crate) config: Option<PathBuf>,
    /// A key of the configuration, over what the file says
    #[arg(long = "set", value_name = "KEY=VALUE", requires = "config")]
    pub(crate) sets: Vec<String>,
    /// The folder that the sets lie in, over the file's data.root
    #[arg(long, value_name = "DIR", requires = "config")]
    pub(crate) data: Option<PathBuf>,
    /// Folder of the new run
    #[arg(short, long, value_name = "RUN", required_unless_present = "resume")]
    pub(crate) output: Option<PathBuf>,
    /// Go on with this run
    #[arg(long, value_name = "RUN", conflicts_with_all = ["config", "sets", "data", "output"])]
    pub(crate) resume: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) machine: MachineArgs,
    /// Print the outcome as JSON
    #[arg(long)]
    pub(crate) json: bool,
}
