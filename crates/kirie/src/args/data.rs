//! `kirie data`, declared.

use std::path::PathBuf;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Subcommand, ValueEnum};
use kirie_data::datasets::Layout;

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
