//! The command line, declared.

mod adapters;
mod continual;
mod contrastive;
mod data;
mod evaluate;
mod export;
mod semantic;
mod serve;
mod train;
mod weak;
mod zoom;

use std::path::PathBuf;

use burn::tensor::Device;
use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::device::{DeviceArg, set_threads};
use crate::prompts::{BoxArg, PointArg};

pub(crate) use adapters::{AdaptersArgs, AdaptersCommand, GateArgs, HowAdded};
pub(crate) use continual::{EvaluateContinualArgs, TrainContinualArgs};
pub(crate) use contrastive::{EvaluateContrastiveArgs, TrainContrastiveArgs};
pub(crate) use data::{
    ConvertArgs, DataArgs, DataCommand, InspectArgs, Masks, PicturesArg, PreviewArgs, RankArgs, RankBy,
    RankPrompt, SetArgs, To,
};
pub(crate) use evaluate::{EvaluateArgs, EvaluateCommand, EvaluatePromptableArgs};
pub(crate) use export::{DecoderForm, ExportArgs, ExportFormat};
pub(crate) use semantic::{EvaluateSemanticArgs, TestArgs, TrainSemanticArgs};
pub(crate) use serve::ServeArgs;
pub(crate) use train::{TrainArgs, TrainCommand, TrainRunArgs};
pub(crate) use weak::{EvaluateWeakArgs, TrainWeakArgs};
pub(crate) use zoom::ZoomArg;

/// Cut objects out of pictures with the Segment Anything family.
#[derive(Debug, Parser)]
#[command(name = "kirie", version, max_term_width = 110, arg_required_else_help = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Cut objects out: by points, boxes, an earlier mask, or everything there is.
    Segment(Box<SegmentArgs>),
    /// Write what the encoder makes of pictures, for use elsewhere.
    Embed(EmbedArgs),
    /// The models: list them, describe one, fetch or convert weights.
    Models(ModelsArgs),
    /// Sets of labelled pictures: look into one, convert it, show some of it.
    Data(DataArgs),
    /// What was learnt of each domain: add, disable, roll back.
    Adapters(AdaptersArgs),
    /// Train a model on your own pictures.
    Train(TrainArgs),
    /// How good a model is, on a labelled set.
    Evaluate(EvaluateArgs),
    /// Write a model for use elsewhere, as ONNX.
    Export(ExportArgs),
    /// Measure how fast a model runs on this machine.
    Bench(BenchArgs),
    /// A page in the browser to cut, correct and label by clicks, and the same over HTTP for other tools.
    Serve(ServeArgs),
}

/// What a command runs on.
#[derive(Debug, Args)]
pub(crate) struct MachineArgs {
    /// Where to run: cpu, gpu for the best one, or gpu:0, gpu:1, ...
    #[arg(long, default_value = "cpu", value_name = "DEVICE")]
    pub(crate) device: DeviceArg,
    /// Threads on the CPU; without it one per core
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) threads: Option<u16>,
}

impl MachineArgs {
    /// Sets the number of threads, before anything runs.
    pub(crate) fn set_threads(&self) -> anyhow::Result<()> {
        set_threads(self.threads)
    }

    /// The same, and opens the device.
    pub(crate) fn open(&self) -> anyhow::Result<Device> {
        self.set_threads()?;
        self.device.open()
    }
}

/// Which model runs, and where.
#[derive(Debug, Args)]
pub(crate) struct ModelArgs {
    /// Model, one of `kirie models list`; without it that of the weights, or kirie-small
    #[arg(long, value_name = "NAME")]
    pub(crate) model: Option<String>,
    /// Weights, .pt, .pth or .safetensors; without it those fetched by `kirie models pull`
    #[arg(long, value_name = "FILE")]
    pub(crate) weights: Option<PathBuf>,
    /// Side of the encoder's input, pixels, instead of the model's own: less is faster, more shows more (not for ViT)
    #[arg(long, value_name = "PIXELS", value_parser = clap::value_parser!(u32).range(32..=4096))]
    pub(crate) input: Option<u32>,
    #[command(flatten)]
    pub(crate) machine: MachineArgs,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  kirie segment photo.jpg --point 200,150 --best
  kirie segment photo.jpg --box 100,80,420,330 --format png -o out
  kirie segment photos/ --everything --format overlay,coco -o out
  kirie segment photos/ --semantic runs/streets/adapter.safetensors -o out
  kirie segment photos/ --adapters adapters --prompts boxes.json -o out
  kirie segment photo.jpg --box 100,80,420,330 -o - | jq '.masks[0].area'")]
pub(crate) struct SegmentArgs {
    /// Pictures, folders of pictures, or patterns such as "photos/*.jpg"
    #[arg(required = true, value_name = "IMAGES")]
    pub(crate) images: Vec<String>,
    /// Look into folders inside folders too
    #[arg(long, short)]
    pub(crate) recursive: bool,

    /// A point: x,y in pixels, then 1 if it is on the object (default) or 0 if it is not; all points and a box
    /// together describe one object
    #[arg(long = "point", value_name = "x,y[,0|1]", help_heading = "Prompts", allow_hyphen_values = true)]
    pub(crate) points: Vec<PointArg>,
    /// A box: left, top, right, bottom in pixels; several boxes are several objects
    #[arg(long = "box", value_name = "x0,y0,x1,y1", help_heading = "Prompts", allow_hyphen_values = true)]
    pub(crate) boxes: Vec<BoxArg>,
    /// Logits of an earlier answer (`--save-logits`) to start from
    #[arg(long, value_name = "FILE", help_heading = "Prompts")]
    pub(crate) mask_input: Option<PathBuf>,
    /// Which mask of the file to start from, from 0; needed if it holds another number than there are prompts
    #[arg(long, value_name = "N", help_heading = "Prompts", requires = "mask_input")]
    pub(crate) mask_index: Option<usize>,
    /// Prompts in a file (- for standard input): a list of `{"points": [[x,y,1],...], "box": [x0,y0,x1,y1]}`, or an
    /// object with such a list for each picture's name
    #[arg(long, value_name = "FILE.json", help_heading = "Prompts", conflicts_with_all = ["points", "boxes"])]
    pub(crate) prompts: Option<PathBuf>,
    /// No prompts: find everything
    #[arg(long, help_heading = "Prompts", conflicts_with_all = ["points", "boxes", "mask_input", "prompts"])]
    pub(crate) everything: bool,
    /// Three masks for each prompt (whole, part, subpart) instead of one; HQ models give their best one either way
    #[arg(long, help_heading = "Prompts", conflicts_with = "everything")]
    pub(crate) multimask: bool,
    /// Of the three masks the one the model rates best; good for a single point
    #[arg(long, help_heading = "Prompts", conflicts_with_all = ["everything", "multimask"])]
    pub(crate) best: bool,
    /// HQ models: the high-quality mask alone, not its sum with SAM's mask
    #[arg(long, help_heading = "Prompts", conflicts_with = "everything")]
    pub(crate) hq_only: bool,
    /// Look at a box closely: answer it from a window so many times as large as the box, or `off` for the whole picture as SAM
    /// does; auto is what the model was made for. With --save-logits it is off
    #[arg(long, default_value = "auto", value_name = "auto|off|FACTOR", help_heading = "Prompts")]
    pub(crate) zoom: ZoomArg,

    /// A registry of domains' adapters (`kirie adapters`): each picture is answered by the domain that it is like, or by the model as it is
    #[arg(long, value_name = "REGISTRY", conflicts_with_all = ["semantic", "zoom"])]
    pub(crate) adapters: Option<PathBuf>,
    /// The class of every pixel instead, by a model of `kirie train semantic`: NAME.classes.png (numbers of classes, with colours),
    /// NAME.overlay.jpg, NAME.json. --weights are then those of its base model
    #[arg(long, value_name = "ADAPTER", help_heading = "Semantic segmentation", conflicts_with_all = [
        "points", "boxes", "mask_input", "prompts", "everything", "multimask", "best", "hq_only", "zoom", "model", "input",
        "save_logits", "output_mode", "tolerance"])]
    pub(crate) semantic: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) test: TestArgs,

    #[command(flatten)]
    pub(crate) model: ModelArgs,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
    #[command(flatten)]
    pub(crate) everything_args: EverythingArgs,
}

/// What is written, and where.
#[derive(Debug, Args)]
#[command(next_help_heading = "Output")]
pub(crate) struct OutputArgs {
    /// What to write, several allowed; without it overlay and json, or json for `-o -`
    #[arg(long = "format", value_enum, value_name = "FORMAT", value_delimiter = ',')]
    pub(crate) formats: Vec<Format>,
    /// Folder to write to; a file, for one picture and one format; or - for standard output
    #[arg(short, long, default_value = "kirie-out", value_name = "OUT")]
    pub(crate) output: PathBuf,
    /// Keep the low-resolution logits, tensor `low_res_logits` [masks, 256, 256]; for one picture
    #[arg(long, value_name = "FILE.safetensors", conflicts_with = "everything")]
    pub(crate) save_logits: Option<PathBuf>,
    /// How json writes masks
    #[arg(long, value_enum, default_value = "coco-rle", value_name = "MODE")]
    pub(crate) output_mode: OutputMode,
    /// Farthest a polygon may stray from the mask's edge, pixels (yolo, geojson)
    #[arg(long, default_value_t = kirie_data::write::DEFAULT_TOLERANCE, value_name = "PIXELS", allow_hyphen_values = true)]
    pub(crate) tolerance: f64,
}

/// A kind of output file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Format {
    /// One JSON a picture, masks as SAM's mask generator writes them
    Json,
    /// One COCO annotation file for all pictures
    Coco,
    /// A black and white PNG a mask, and one indexed PNG of all masks
    Png,
    /// The picture with the masks laid over it
    Overlay,
    /// One text file of YOLO polygons a picture
    Yolo,
    /// Outlines as GeoJSON, in pixel coordinates
    Geojson,
}

/// How json writes masks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum OutputMode {
    /// COCO's compressed run lengths
    CocoRle,
    /// COCO's run lengths as numbers
    UncompressedRle,
    /// Rows of zeros and ones
    BinaryMask,
}

/// Settings of `--everything`; the defaults are SAM's own, but for the three that depend on the model.
#[derive(Debug, Args)]
#[command(next_help_heading = "Everything (with --everything)")]
pub(crate) struct EverythingArgs {
    /// Points along a side of the grid [default: the model's; SAM's is 32]
    #[arg(long, value_name = "N", conflicts_with = "point_grids")]
    pub(crate) points_per_side: Option<u32>,
    /// Points of your own instead of a grid: JSON, a list for the picture and each crop layer of [x, y] from 0 to 1
    #[arg(long, value_name = "FILE.json")]
    pub(crate) point_grids: Option<PathBuf>,
    /// Points per decoder call
    #[arg(long, default_value_t = 64, value_name = "N")]
    pub(crate) points_per_batch: usize,
    /// Drop masks the model itself rates at or below this [default: the model's; SAM's is 0.88]
    #[arg(long, value_name = "IOU")]
    pub(crate) pred_iou_thresh: Option<f32>,
    /// Drop masks that change too much with the threshold [default: the model's; SAM's is 0.95]
    #[arg(long, value_name = "SCORE")]
    pub(crate) stability_score_thresh: Option<f64>,
    /// How far the threshold is moved for that, logits
    #[arg(long, default_value_t = 1.0, value_name = "LOGITS")]
    pub(crate) stability_score_offset: f32,
    /// Box overlap above which a mask is a duplicate
    #[arg(long, default_value_t = 0.7, value_name = "IOU")]
    pub(crate) box_nms_thresh: f64,
    /// Also look at crops: 1 adds 4, 2 adds 16 more, ...
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub(crate) crop_n_layers: u32,
    /// Box overlap above which masks of two crops are duplicates
    #[arg(long, default_value_t = 0.7, value_name = "IOU")]
    pub(crate) crop_nms_thresh: f64,
    /// Overlap of crops, as a part of the shorter side
    #[arg(long, default_value_t = 512.0 / 1500.0, value_name = "PART", hide_default_value = true)]
    pub(crate) crop_overlap_ratio: f64,
    /// The grid's side is divided by this for every crop layer
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub(crate) crop_n_points_downscale_factor: u32,
    /// Remove holes and islands of fewer pixels
    #[arg(long, default_value_t = 0, value_name = "PIXELS")]
    pub(crate) min_mask_region_area: u64,
}

#[derive(Debug, Args)]
pub(crate) struct EmbedArgs {
    /// Pictures, folders of pictures, or patterns such as "photos/*.jpg"
    #[arg(required = true, value_name = "IMAGES")]
    pub(crate) images: Vec<String>,
    /// Look into folders inside folders too
    #[arg(long, short)]
    pub(crate) recursive: bool,
    /// A .safetensors file for one picture, or a folder
    #[arg(short, long, value_name = "OUT")]
    pub(crate) output: PathBuf,
    #[command(flatten)]
    pub(crate) model: ModelArgs,
}

#[derive(Debug, Args)]
pub(crate) struct ModelsArgs {
    #[command(subcommand)]
    pub(crate) command: ModelsCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ModelsCommand {
    /// All models: sizes, and whether their weights are here
    List {
        /// Machine-readable
        #[arg(long)]
        json: bool,
    },
    /// One model in detail, or the model a weight file belongs to; also what `kirie train semantic` makes
    Info {
        /// A model's name or a weight file
        #[arg(value_name = "NAME|FILE")]
        model: String,
        /// Machine-readable
        #[arg(long)]
        json: bool,
    },
    /// Fetch the weights of a model, verify them and keep them
    Pull {
        /// Names of models
        #[arg(required = true, value_name = "NAME")]
        models: Vec<String>,
        /// Machine-readable
        #[arg(long)]
        json: bool,
    },
    /// Turn .pt or .pth weights into .safetensors
    Convert {
        /// The weights to read
        #[arg(value_name = "IN")]
        input: PathBuf,
        /// The .safetensors file to write
        #[arg(value_name = "OUT")]
        output: PathBuf,
        /// The model they should be of; found out without it
        #[arg(long, value_name = "NAME")]
        model: Option<String>,
        /// Store float16: half the size, three digits
        #[arg(long)]
        half: bool,
    },
    /// Fold an adapter into its base's weights, for a semantic model in one file (lora, lora-gsam, full, decoder-only)
    Merge {
        /// What `kirie train semantic` made
        #[arg(value_name = "ADAPTER")]
        adapter: PathBuf,
        /// The .safetensors file to write
        #[arg(value_name = "OUT")]
        output: PathBuf,
        /// Weights of the base model; without it those in the program or fetched by `kirie models pull`
        #[arg(long, value_name = "BASE")]
        weights: Option<PathBuf>,
    },
}

#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    /// What to measure
    #[arg(value_enum)]
    pub(crate) what: BenchKind,
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    /// Measured runs
    #[arg(long, default_value_t = 5, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) repeat: u32,
    /// Runs before the measured ones
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub(crate) warmup: u32,
    /// Prompts asked at once
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub(crate) prompts: u32,
    /// Grid side for `everything`
    #[arg(long, default_value_t = 32, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) points_per_side: u32,
    /// Picture to run on; without it a made-up one of 1024 x 683
    #[arg(long, value_name = "FILE")]
    pub(crate) image: Option<PathBuf>,
    /// A configuration of `train contrastive`, for `views`
    #[arg(long, value_name = "FILE.toml")]
    pub(crate) config: Option<PathBuf>,
    /// A key of it, over what the file says
    #[arg(long = "set", value_name = "KEY=VALUE", requires = "config")]
    pub(crate) sets: Vec<String>,
    /// The folder that its sets lie in, over the file's data.root
    #[arg(long, value_name = "DIR", requires = "config")]
    pub(crate) data: Option<PathBuf>,
    /// Machine-readable
    #[arg(long)]
    pub(crate) json: bool,
}

/// What `bench` measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum BenchKind {
    /// A picture through the encoder
    Encoder,
    /// Prompts through the decoder
    Decoder,
    /// A picture through `segment --everything`
    Everything,
    /// Views of contrastive training from decoded pictures, a batch on every thread
    Views,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn declaration_is_consistent() {
        Cli::command().debug_assert();
    }
}
