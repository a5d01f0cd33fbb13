//! `kirie data`, declared.

use std::path::PathBuf;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Subcommand, ValueEnum};
use kirie_data::datasets::Layout;
use kirie_moda::rank::Measure;

use super::ModelArgs;

#[derive(Debug, Args)]
pub(crate) struct DataArgs {
    #[command(subcommand)]
    pub(crate) command: DataCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum DataCommand {
    /// What a set holds, in numbers, and what is wrong with it
    Inspect(InspectArgs),
    /// Write a set in another layout, and say what that layout cannot hold
    Convert(ConvertArgs),
    /// Some pictures of a set with their labels laid over them, on one sheet
    Preview(PreviewArgs),
    /// What to label next: the pictures that a model is least sure of
    Rank(Box<RankArgs>),
}

/// Which set, and what is known about it beforehand.
#[derive(Debug, Args)]
pub(crate) struct SetArgs {
    /// The set's folder, or a COCO annotation file
    #[arg(value_name = "DIR")]
    pub(crate) path: PathBuf,
    /// Only this part: train, val, test, or the name of any list
    #[arg(long, value_name = "NAME")]
    pub(crate) split: Option<String>,
    /// The layout, instead of finding it out
    #[arg(long, value_name = "LAYOUT", value_parser = layout(), help_heading = "What the set is")]
    pub(crate) layout: Option<Layout>,
    /// What the numbers in label pictures mean, instead of finding it out
    #[arg(long, value_enum, value_name = "MEANING", help_heading = "What the set is")]
    pub(crate) masks: Option<Masks>,
    /// The folder of label pictures, where it has no usual name or there are several
    #[arg(long, value_name = "NAME", help_heading = "What the set is")]
    pub(crate) mask_folder: Option<String>,
    /// Numbers in label pictures to be ignored, besides 255 (65535 in 16 bits) and classes called void or unlabelled
    #[arg(long, value_name = "N", value_delimiter = ',', help_heading = "What the set is")]
    pub(crate) ignore: Vec<u16>,
    /// COCO: the folder that file names start from, where it lies elsewhere
    #[arg(long, value_name = "DIR", help_heading = "What the set is")]
    pub(crate) picture_folder: Option<PathBuf>,
    /// Follow paths and links that lead out of the set's folder
    #[arg(long, help_heading = "What the set is")]
    pub(crate) allow_outside: bool,
}

fn layout() -> impl TypedValueParser<Value = Layout> {
    PossibleValuesParser::new(Layout::ALL.map(Layout::name)).try_map(|name| name.parse::<Layout>())
}

/// What the numbers in label pictures mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Masks {
    /// The class of every pixel
    Classes,
    /// Objects, counted from 1
    Instances,
    /// 0 is background, anything else foreground
    Binary,
}

#[derive(Debug, Args)]
#[command(after_help = "Exit code 1: there are pictures that cannot be used.

Examples:
  kirie data inspect photos/
  kirie data inspect photos/ --split train --json | jq '.problems[].examples[]'
  kirie data inspect photos/ --masks classes --ignore 11")]
pub(crate) struct InspectArgs {
    #[command(flatten)]
    pub(crate) set: SetArgs,
    /// Examples shown of each kind of problem; without it 5, or 20 with --json
    #[arg(long, value_name = "N")]
    pub(crate) examples: Option<usize>,
    /// Machine-readable
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  kirie data convert labelme/ --to coco -o coco
  kirie data convert coco/ --to yolo --split train --pictures link -o yolo
  kirie data convert voc/ --to coco --pictures leave -o labels")]
pub(crate) struct ConvertArgs {
    #[command(flatten)]
    pub(crate) set: SetArgs,
    /// What to write
    #[arg(long, value_enum, value_name = "LAYOUT")]
    pub(crate) to: To,
    /// A new or empty folder
    #[arg(short, long, value_name = "OUT")]
    pub(crate) output: PathBuf,
    /// What becomes of the pictures
    #[arg(long, value_enum, default_value = "copy", value_name = "HOW")]
    pub(crate) pictures: PicturesArg,
    /// Farthest an outline made from a mask may stray from the mask's edge, pixels (yolo)
    #[arg(long, default_value_t = kirie_data::write::DEFAULT_TOLERANCE, value_name = "PIXELS", allow_hyphen_values = true)]
    pub(crate) tolerance: f64,
    /// Machine-readable
    #[arg(long)]
    pub(crate) json: bool,
}

/// A layout that can be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum To {
    /// One annotation file a part: boxes, outlines, masks
    Coco,
    /// A text file a picture: boxes, or one outline an object
    Yolo,
    /// An XML file a picture: boxes only
    Voc,
    /// A label picture a picture: the class of every pixel
    #[value(alias = "class-masks")]
    Masks,
    /// A label picture a picture: its objects, counted from 1
    InstanceMasks,
}

/// What becomes of the pictures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum PicturesArg {
    /// They are copied
    Copy,
    /// Hard links, which take no space; copies where there are none
    Link,
    /// They stay where they are, only labels are written
    Leave,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  kirie data preview photos/ -o sheet.jpg
  kirie data preview photos/ --split test --count 60 --columns 10 --seed 7 -o sheet.png")]
pub(crate) struct PreviewArgs {
    #[command(flatten)]
    pub(crate) set: SetArgs,
    /// The sheet, .jpg or .png
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: PathBuf,
    /// Pictures shown, at most
    #[arg(long, default_value_t = 24, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) count: u32,
    /// Which pictures are drawn from the set; the same seed shows the same
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub(crate) seed: u64,
    /// Pictures side by side
    #[arg(long, default_value_t = 6, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) columns: u32,
    /// Longest width of a picture on the sheet, pixels; its height is three quarters of that
    #[arg(long, default_value_t = 320, value_name = "PIXELS", value_parser = clap::value_parser!(u32).range(32..=4096))]
    pub(crate) width: u32,
    /// Machine-readable: which pictures are shown
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "Written to OUT: ranking.json, ranking.csv, sheet.jpg.

Examples:
  kirie data rank new-photos/ -o next --top 40
  kirie data rank new-photos/ -o next --top 40 --diverse --random 0.1
  kirie data rank labelled/ --split val --prompt boxes --judge -o judged")]
pub(crate) struct RankArgs {
    #[command(flatten)]
    pub(crate) set: SetArgs,
    /// Folder for the list and the sheet of pictures
    #[arg(short, long, value_name = "OUT")]
    pub(crate) output: PathBuf,
    /// Pictures to label next, which the sheet shows
    #[arg(long, default_value_t = 24, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) top: u32,
    /// The order: mean is that by the mean rank of margin and jitter
    #[arg(long, default_value = "mean", value_name = "KEY", value_parser = rank_by())]
    pub(crate) by: RankBy,
    /// Of the most doubtful, five times as many as wanted, those that differ most: not the same thing over and over
    #[arg(long)]
    pub(crate) diverse: bool,
    /// This part of them at random from all others instead, 0 to 1: tells how good the model is on all
    #[arg(long, default_value_t = 0.0, value_name = "PART", value_parser = part)]
    pub(crate) random: f64,
    /// What is drawn at random, and how boxes are moved; the same seed gives the same list
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub(crate) seed: u64,
    /// How well the order tells which answers are wrong: for sets with masks, asked with --prompt boxes
    #[arg(long)]
    pub(crate) judge: bool,

    /// What the model is asked: the labels' boxes, or everything; auto takes boxes where every picture has labels
    #[arg(long, value_enum, default_value = "auto", value_name = "WHAT", help_heading = "Asking")]
    pub(crate) prompt: RankPrompt,
    /// Points along a side of the grid that asks for everything
    #[arg(long, default_value_t = 8, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=64), help_heading = "Asking")]
    pub(crate) points_per_side: u32,
    /// Objects looked at in a picture, at most
    #[arg(long, default_value_t = 8, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000), help_heading = "Asking")]
    pub(crate) objects: u32,
    /// Boxes asked for each object, each moved a little
    #[arg(long, default_value_t = 5, value_name = "N", value_parser = clap::value_parser!(u32).range(2..=100), help_heading = "Asking")]
    pub(crate) jitters: u32,

    #[command(flatten, next_help_heading = "Model")]
    pub(crate) model: ModelArgs,
    /// Machine-readable: what ranking.json holds
    #[arg(long)]
    pub(crate) json: bool,
}

/// What pictures are ordered by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RankBy {
    /// The mean rank of [`Measure::DEFAULT`].
    Mean,
    /// One measure.
    One(Measure),
}

impl RankBy {
    /// Its name on the command line and in files.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Mean => "mean",
            Self::One(measure) => measure.name(),
        }
    }

    /// All there are.
    pub(crate) fn all() -> impl Iterator<Item = Self> {
        std::iter::once(Self::Mean).chain(Measure::ALL.map(Self::One))
    }
}

fn rank_by() -> impl TypedValueParser<Value = RankBy> {
    PossibleValuesParser::new(RankBy::all().map(RankBy::name)).try_map(|name| {
        RankBy::all().find(|by| by.name() == name).ok_or_else(|| format!("{name} is no measure"))
    })
}

fn part(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(part) if (0.0..=1.0).contains(&part) => Ok(part),
        _ => Err("expected a number from 0 to 1".to_owned()),
    }
}

/// What a model is asked to be ranked by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum RankPrompt {
    /// Boxes where every picture has labels, else everything
    Auto,
    /// A grid of points
    Everything,
    /// The boxes of the labels; pictures without are left out
    Boxes,
}
