//! `kirie train weak` and `kirie evaluate weak`, declared.

use std::path::PathBuf;

use clap::Args;
use kirie_weaksam::run::Stage;

use super::MachineArgs;

#[derive(Debug, Args)]
#[command(
    after_help = "Stages: classifier (class maps from image-level labels), proposals (boxes by asking the model where the maps are \
high), detector (learns which of them hold what the pictures show), pseudo (its boxes that are taken for true), retrain (a detector that \
learns from these), instances (masks, COCO, VOC and overlays of what that finds); and, when asked for, review (the least sure go out as LabelMe or COCO files) and corrections (they come back with \
a higher weight). Each has a folder in the run's, with a page to look at. A stage that is done is passed over; one that was stopped \
(Ctrl-C), killed or cut off goes on; one whose settings or pictures have changed is made anew.

Boxes that the set may have are never learned from: only which classes a picture shows is read.

Examples:
  kirie train weak --config configs/weak/playing_cards.toml --data sets -o runs/cards
  kirie train weak --resume runs/cards
  kirie train weak --resume runs/cards --stage proposals --set proposals.grid.points=24"
)]
pub(crate) struct TrainWeakArgs {
    /// What to do, in TOML; docs/weak.md lists the keys
    #[arg(long, value_name = "FILE.toml", required_unless_present = "resume")]
    pub(crate) config: Option<PathBuf>,
    /// A key of the configuration, over what the file says
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub(crate) sets: Vec<String>,
    /// The folder that data.path starts from, instead of the configuration file's
    #[arg(long, value_name = "DIR", conflicts_with = "resume")]
    pub(crate) data: Option<PathBuf>,
    /// Folder of the new run
    #[arg(short, long, value_name = "RUN", required_unless_present = "resume", conflicts_with = "resume")]
    pub(crate) output: Option<PathBuf>,
    /// Go on with this run; with --set, what depends on the change is made anew
    #[arg(long, value_name = "RUN", conflicts_with = "config")]
    pub(crate) resume: Option<PathBuf>,
    /// Only this stage, or these: classifier, proposals, detector, pseudo, retrain, instances, review, corrections
    #[arg(long = "stage", value_name = "NAME")]
    pub(crate) stages: Vec<Stage>,
    #[command(flatten)]
    pub(crate) machine: MachineArgs,
    /// Print the outcome as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
#[command(
    after_help = "How many of the true boxes the run's proposals hold, at overlaps of 0.5, 0.75 and 0.9. This is the only command of \
the two that reads boxes.

Examples:
  kirie evaluate weak runs/cards
  kirie evaluate weak runs/cards --split test --search -o report
  kirie evaluate weak runs/cards --json"
)]
pub(crate) struct EvaluateWeakArgs {
    /// The run
    #[arg(value_name = "RUN")]
    pub(crate) run: PathBuf,
    /// Another part than the one that was learned from; the run must have proposals of it (data.others)
    #[arg(long, value_name = "NAME")]
    pub(crate) split: Option<String>,
    /// Selective search on the same pictures, for comparison
    #[arg(long)]
    pub(crate) search: bool,
    /// Threads; without it one per core
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) threads: Option<u16>,
    /// Folder for metrics.json and report.html
    #[arg(short, long, value_name = "OUT", help_heading = "Output")]
    pub(crate) output: Option<PathBuf>,
    /// Machine-readable
    #[arg(long, help_heading = "Output")]
    pub(crate) json: bool,
}
