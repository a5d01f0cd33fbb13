//! `kirie train continual` and `kirie evaluate continual`, declared.

use std::path::PathBuf;

use clap::Args;

use super::{MachineArgs, ModelArgs};

#[derive(Debug, Args)]
#[command(
    after_help = "The run folder keeps config.toml, metrics.json, scores.csv, report.html and, under runs/, every strategy, order and seed: \
what was learned of each domain (steps/NN-NAME/adapter.safetensors; for moda steps/NN-NAME/domain, to be answered with or put into a \
registry) and its scores. A run that was stopped (Ctrl-C finishes the step and saves), killed or cut off goes on with --resume, inside \
a domain too.

Examples:
  kirie train continual --config configs/continual/stream8.toml --data sets -o runs/stream
  kirie train continual --config my.toml --set 'strategies=[\"moda\",\"naive\",\"joint\"]' --set 'seeds=[0,1,2]' -o runs/compared
  kirie train continual --config my.toml --set plan.steps=100 --set data.test_limit=20 -o runs/quick
  kirie train continual --resume runs/stream"
)]
pub(crate) struct TrainContinualArgs {
    /// What to do, in TOML; docs/continual.md lists the keys
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

#[derive(Debug, Args)]
#[command(
    after_help = "Pictures are routed: nobody says which domain they are of. With --expect, pictures that another domain (or the base) \
answers count as routed wrongly, and the scores are shown beside those that the right domain alone would reach.

With --study the finished runs of `kirie train continual` are told again: the strategies side by side, where pictures went, what moda is \
held to; its report is written anew. --ablate tells the domains of its runs of moda apart in other ways first (the configuration's \
[[ablation]], or the usual ones), with the adapters as they are.

Examples:
  kirie evaluate continual --domain runs/stream/runs/moda-given-s0/steps/00-crack_cfd/domain --data sets/crack_cfd --split test
  kirie evaluate continual --domains runs/stream/runs/moda-given-s0 --data sets/camvid --foreground Road --expect camvid
  kirie evaluate continual --domains runs/stream/runs/moda-given-s0 --data sets/ecssd --expect base --json
  kirie evaluate continual --study runs/stream
  kirie evaluate continual --study runs/stream --ablate
  kirie evaluate continual --study runs/stream --ablate --set 'ablation=[{name=\"20 exemplars\",count=20}]'"
)]
pub(crate) struct EvaluateContinualArgs {
    /// A domain's folder, as `kirie train continual` writes it; several allowed
    #[arg(long = "domain", value_name = "DIR", required_unless_present_any = ["domains", "study"])]
    pub(crate) domain: Vec<PathBuf>,
    /// A run of moda, or a folder of domains' folders: all of them
    #[arg(long, value_name = "DIR", conflicts_with = "domain")]
    pub(crate) domains: Option<PathBuf>,
    /// The labelled set: a folder, or a COCO annotation file
    #[arg(long, value_name = "DIR", required_unless_present = "study")]
    pub(crate) data: Option<PathBuf>,
    /// Only this part of it: train, val, test, or the name of any list
    #[arg(long, value_name = "NAME", default_value = "test")]
    pub(crate) split: String,
    /// A class that is to be cut out, several allowed; without it everything but the background
    #[arg(long = "foreground", value_name = "CLASS")]
    pub(crate) foreground: Vec<String>,
    /// Only so many pictures, spread evenly over the set
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) limit: Option<u32>,
    /// The domain that the pictures are of, or `base`
    #[arg(long, value_name = "NAME")]
    pub(crate) expect: Option<String>,
    /// A run folder of `kirie train continual`: what its finished runs came to
    #[arg(
        long,
        value_name = "RUN",
        conflicts_with_all = ["domain", "domains", "data", "split", "foreground", "limit", "expect", "model", "weights", "input"]
    )]
    pub(crate) study: Option<PathBuf>,
    /// With --study: tell the domains of its runs of moda apart in other ways
    #[arg(long, requires = "study", conflicts_with_all = ["domain", "domains"])]
    pub(crate) ablate: bool,
    /// With --ablate: a key of the run's configuration, over what it says
    #[arg(long = "set", value_name = "KEY=VALUE", requires = "ablate")]
    pub(crate) sets: Vec<String>,
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    /// Machine-readable
    #[arg(long)]
    pub(crate) json: bool,
}
