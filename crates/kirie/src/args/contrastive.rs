//! `kirie train contrastive` and `kirie evaluate contrastive`, declared.

use std::path::PathBuf;

use clap::Args;

use super::MachineArgs;

#[derive(Debug, Args)]
#[command(
    after_help = "Pictures need no labels. Where views come from regions of a model, these are found first, each picture once; they are \
kept in regions.cache, and a run that is stopped or killed goes on where it was.

The run folder keeps config.toml, log.jsonl, checkpoints/, metrics.json, report.html and, when all steps are done, \
encoder.safetensors: a ResNet with torchvision's names, or a whole SAM-family model with the trained encoder, for --weights and \
model.init of the other commands.

--sweep trains every method of its file with every source of views and every seed, each in a process of its own, judges the encoders on \
labelled sets and writes sweep.json, sweep.csv and sweep.html; called again, it does the runs that are missing.

Examples:
  kirie train contrastive --config configs/contrastive/samclr.toml --data sets --preview regions.html
  kirie train contrastive --config configs/contrastive/samclr.toml --data sets -o runs/scenes
  kirie train contrastive --config configs/contrastive/samclr.toml --data sets --set regions.source.kind=whole -o runs/simclr
  kirie train contrastive --resume runs/scenes
  kirie train contrastive --sweep configs/contrastive/sweep.toml --data sets --dry-run
  kirie train contrastive --sweep configs/contrastive/sweep.toml --data sets -o sweeps/views"
)]
pub(crate) struct TrainContrastiveArgs {
    /// What to do, in TOML; docs/contrastive.md lists the keys
    #[arg(long, value_name = "FILE.toml", required_unless_present_any = ["resume", "sweep"], conflicts_with = "sweep")]
    pub(crate) config: Option<PathBuf>,
    /// Many runs: lists of methods, sources of views and seeds, and labelled sets to judge by, in TOML
    #[arg(long, value_name = "FILE.toml", conflicts_with = "resume")]
    pub(crate) sweep: Option<PathBuf>,
    /// A key of the configuration, over what the file says
    #[arg(long = "set", value_name = "KEY=VALUE", conflicts_with = "resume")]
    pub(crate) sets: Vec<String>,
    /// The folder that the sets lie in, over the file's data.root
    #[arg(long, value_name = "DIR", conflicts_with = "resume")]
    pub(crate) data: Option<PathBuf>,
    /// Weights to start the encoder from, over the file's encoder.init: a file, or `built-in` for kirie-small's
    #[arg(long, value_name = "FILE", requires = "config")]
    pub(crate) init_encoder: Option<PathBuf>,
    /// Folder of the new run, or of the sweep
    #[arg(short, long, value_name = "RUN", required_unless_present_any = ["resume", "preview", "dry_run"], conflicts_with = "resume")]
    pub(crate) output: Option<PathBuf>,
    /// List the runs of a sweep, and do none
    #[arg(long, requires = "sweep", conflicts_with = "config")]
    pub(crate) dry_run: bool,
    /// Find the regions, write a page that shows them and the views that come of them, and train nothing
    #[arg(long, value_name = "FILE.html", requires = "config", conflicts_with = "output")]
    pub(crate) preview: Option<PathBuf>,
    /// Pictures on that page
    #[arg(long, default_value_t = 24, value_name = "N", requires = "preview")]
    pub(crate) pictures: u32,
    /// Go on with this run
    #[arg(long, value_name = "RUN", conflicts_with = "config")]
    pub(crate) resume: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) machine: MachineArgs,
    /// Print the outcome as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
#[command(
    after_help = "The encoder stays as it is. Its features of the part --train are the bank that --test is asked about, by the nearest \
neighbours and by a linear classifier, with all labels and with some. The settings are printed with the figures: accuracies of \
different k, temperature or size are not comparable.

Examples:
  kirie evaluate contrastive --encoder runs/scenes/encoder.safetensors --data cifar10 -o report
  kirie evaluate contrastive --encoder runs/scenes/encoder.safetensors --data stl10_binary --size 96 --shares 1,5,10,100
  kirie evaluate contrastive --encoder resnet18.pth --network resnet18 --data imagenette2 --test val --size 128
  kirie evaluate contrastive --config runs/scenes/config.toml --calibrate 100 --data cifar10
  kirie evaluate contrastive --encoder runs/scenes/encoder.safetensors --data cifar10 --plot map.html"
)]
pub(crate) struct EvaluateContrastiveArgs {
    /// What `kirie train contrastive` made, or weights of torchvision or another toolkit
    #[arg(long, value_name = "FILE", required_unless_present_any = ["config", "projection"])]
    pub(crate) encoder: Option<PathBuf>,
    /// The network of those weights, where the file does not say: resnet18, resnet50, with -cifar behind for the small stem, or a model
    /// of `kirie models list`
    #[arg(long, value_name = "NAME", requires = "encoder")]
    pub(crate) network: Option<String>,
    /// A training configuration whose encoder is judged as it is before the first step: what a score has to be held against
    #[arg(long, value_name = "FILE.toml", conflicts_with = "encoder")]
    pub(crate) config: Option<PathBuf>,
    /// Before that, bring the statistics of its batch norms to its pictures, by so many batches of views of whole pictures
    #[arg(
        long,
        default_value_t = 0,
        value_name = "BATCHES",
        requires = "config",
        conflicts_with = "projection"
    )]
    pub(crate) calibrate: u64,
    /// In place of an encoder 512 random directions of the pixels' space, drawn by this seed: what colours alone are worth
    #[arg(long, value_name = "SEED", conflicts_with_all = ["encoder", "config"])]
    pub(crate) projection: Option<u64>,
    /// The labelled set: class folders, CIFAR-10 or STL-10 in their binary form, or a set whose pictures show one class each
    #[arg(long, value_name = "DIR")]
    pub(crate) data: PathBuf,
    /// The part to learn from
    #[arg(long, default_value = "train", value_name = "NAME")]
    pub(crate) train: String,
    /// The part to ask about
    #[arg(long, default_value = "test", value_name = "NAME")]
    pub(crate) test: String,
    /// Only so many pictures of each part, spread evenly
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) limit: Option<u32>,
    /// Side that pictures get, pixels: the shorter side is resized to it and the middle taken [default: that of training, or 64]
    #[arg(long, value_name = "PIXELS", value_parser = clap::value_parser!(u32).range(8..=1024))]
    pub(crate) size: Option<u32>,

    /// Neighbours; of fewer labelled pictures, all. One number, or one for each of --shares
    #[arg(
        long,
        default_value = "200",
        value_name = "N",
        value_delimiter = ',',
        value_parser = clap::value_parser!(u32).range(1..),
        help_heading = "Protocol"
    )]
    pub(crate) k: Vec<u32>,
    /// Temperature of their votes
    #[arg(long, default_value_t = 0.1, value_name = "T", help_heading = "Protocol")]
    pub(crate) temperature: f64,
    /// Shares of the labels, in percent
    #[arg(
        long,
        default_value = "100",
        value_name = "PERCENT",
        value_delimiter = ',',
        help_heading = "Protocol"
    )]
    pub(crate) shares: Vec<f64>,
    /// Times that a share below 100 is drawn
    #[arg(long, default_value_t = 3, value_name = "N", help_heading = "Protocol")]
    pub(crate) draws: u32,
    /// Times that all of the linear classifier's pictures are seen
    #[arg(long, default_value_t = 90, value_name = "N", value_parser = clap::value_parser!(u32).range(1..), help_heading = "Protocol")]
    pub(crate) epochs: u32,
    /// Its learning rate, for a batch of 256
    #[arg(long, default_value_t = 0.1, value_name = "RATE", help_heading = "Protocol")]
    pub(crate) rate: f64,
    /// Each number of the features with mean 0 and deviation 1 for the linear classifier
    #[arg(long, help_heading = "Protocol")]
    pub(crate) standardise: bool,
    /// Rounds of random crops that the linear classifier learns from (published: anew in every epoch); without it the middle of each
    /// picture alone
    #[arg(long, default_value_t = 0, value_name = "N", help_heading = "Protocol")]
    pub(crate) crops: u32,
    /// Everything random follows from it
    #[arg(long, default_value_t = 0, value_name = "N", help_heading = "Protocol")]
    pub(crate) seed: u64,

    /// Folder for metrics.json and report.html
    #[arg(short, long, value_name = "OUT", help_heading = "Output")]
    pub(crate) output: Option<PathBuf>,
    /// A map of up to 2000 of the pictures asked about (t-SNE), which shows them under the pointer; beside it FILE.csv with their places
    #[arg(long, value_name = "FILE.html", help_heading = "Output")]
    pub(crate) plot: Option<PathBuf>,
    /// About how many neighbours count on that map
    #[arg(long, default_value_t = 30.0, value_name = "N", requires = "plot", help_heading = "Output")]
    pub(crate) perplexity: f64,
    /// Machine-readable
    #[arg(long, help_heading = "Output")]
    pub(crate) json: bool,

    #[command(flatten)]
    pub(crate) machine: MachineArgs,
}
