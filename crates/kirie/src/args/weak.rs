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

--sweep does many such runs, stages that they have in common once, scores them and writes sweep.json, sweep.csv and sweep.html; called \
again, it goes on. For scoring, and for the run on true boxes that a sweep may name as the bound, it reads boxes.

Examples:
  kirie train weak --config configs/weak/playing_cards.toml --data sets -o runs/cards
  kirie train weak --config configs/weak/playing_cards.toml --data sets -o runs/oicr --reuse runs/cards --set detector.weak=oicr
  kirie train weak --sweep configs/weak/sweep-playing_cards.toml --data sets --dry-run
  kirie train weak --sweep configs/weak/sweep-playing_cards.toml --data sets -o sweeps/cards
  kirie train weak --resume runs/cards
  kirie train weak --resume runs/cards --stage proposals --set proposals.grid.points=24"
)]
pub(crate) struct TrainWeakArgs {
    /// What to do, in TOML; docs/weak.md lists the keys
    #[arg(long, value_name = "FILE.toml", required_unless_present_any = ["resume", "sweep"], conflicts_with = "sweep")]
    pub(crate) config: Option<PathBuf>,
    /// Many runs: what each has over a configuration, and seeds, in TOML
    #[arg(long, value_name = "FILE.toml", conflicts_with_all = ["resume", "stages", "reuse"])]
    pub(crate) sweep: Option<PathBuf>,
    /// A key of the configuration, or of the sweep, over what the file says
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub(crate) sets: Vec<String>,
    /// The folder that data.path starts from, instead of the configuration file's
    #[arg(long, value_name = "DIR", conflicts_with = "resume")]
    pub(crate) data: Option<PathBuf>,
    /// Folder of the new run, or of the sweep
    #[arg(short, long, value_name = "RUN", required_unless_present_any = ["resume", "dry_run"], conflicts_with = "resume")]
    pub(crate) output: Option<PathBuf>,
    /// Go on with this run; with --set, what depends on the change is made anew
    #[arg(long, value_name = "RUN", conflicts_with = "config")]
    pub(crate) resume: Option<PathBuf>,
    /// Another run: what it has done with the same settings and pictures is copied instead of done again
    #[arg(long, value_name = "RUN")]
    pub(crate) reuse: Vec<PathBuf>,
    /// Say which runs a sweep consists of and how much is to be learned, and write nothing
    #[arg(long, requires = "sweep", conflicts_with = "config")]
    pub(crate) dry_run: bool,
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
    after_help = "How many of the true boxes the run's proposals hold, at overlaps of 0.5, 0.75 and 0.9; AP and CorLoc of the boxes \
that its detectors have found; and, where the set has masks, AP of those of the stage instances. --search and --proposals hold other \
proposals for the same pictures against the run's, all of them and, best first, as many in each picture as the run has.

Examples:
  kirie evaluate weak runs/cards
  kirie evaluate weak runs/cards --split test --search -o report
  kirie evaluate weak runs/everyday --split test --proposals opencv.json
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
    /// A file of proposals for the same pictures, in the form of proposals.json, for comparison
    #[arg(long, value_name = "FILE.json")]
    pub(crate) proposals: Vec<PathBuf>,
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
