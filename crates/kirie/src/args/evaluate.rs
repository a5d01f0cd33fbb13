//! `kirie evaluate`, declared.

use std::path::PathBuf;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Subcommand};
use kirie_data::datasets::Layout;
use kirie_promptable::evaluate::{MaskChoice, PromptKind};

use super::{
    EvaluateContinualArgs, EvaluateContrastiveArgs, EvaluateSemanticArgs, EvaluateWeakArgs, EverythingArgs,
    Masks, ModelArgs, ZoomArg,
};

#[derive(Debug, Args)]
pub(crate) struct EvaluateArgs {
    #[command(subcommand)]
    pub(crate) command: EvaluateCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum EvaluateCommand {
    /// How well a model cuts out the objects of a labelled set, asked by boxes, by clicks, or for everything
    Promptable(Box<EvaluatePromptableArgs>),
    /// How well a fine-tuned model labels the pixels of a labelled set
    Semantic(Box<EvaluateSemanticArgs>),
    /// How well the domains of `kirie train continual` answer the pictures of a labelled set, and which of them do
    Continual(Box<EvaluateContinualArgs>),
    /// What an encoder's frozen features are worth for classification, with many labels and with few
    Contrastive(Box<EvaluateContrastiveArgs>),
    /// How many true boxes the proposals of a `train weak` run hold
    Weak(EvaluateWeakArgs),
}

#[derive(Debug, Args)]
#[command(
    after_help = "The protocol is that of EfficientViT-SAM: for every object one prompt, three masks, of these the one the model \
rates highest, IoU at the picture's own size. `--model box-fill` and `--model ellipse` fill the prompt's box: what a model's \
score has to be held against.

Exit code 1: some pictures failed; the figures are of the others.

Examples:
  kirie evaluate promptable --data photos --split test
  kirie evaluate promptable --data photos --prompt box --prompt points:1 --prompt points:5 -o report
  kirie evaluate promptable --data coco --split val --detections boxes.json --json
  kirie evaluate promptable --data photos --everything --points-per-side 16"
)]
pub(crate) struct EvaluatePromptableArgs {
    /// The labelled set: a folder, or a COCO annotation file
    #[arg(long, value_name = "DIR")]
    pub(crate) data: PathBuf,
    /// Only this part of it: train, val, test, or the name of any list
    #[arg(long, value_name = "NAME")]
    pub(crate) split: Option<String>,
    /// Only so many pictures, spread evenly over the set
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) limit: Option<u32>,

    /// How to ask: box, or points:N for N clicks, each where the answer so far is most wrong; several are several runs.
    /// Without it box
    #[arg(long = "prompt", value_name = "box|points:N", help_heading = "Asking")]
    pub(crate) prompts: Vec<PromptKind>,
    /// A detector's boxes instead, as COCO writes results: `[{"image_id", "category_id", "bbox", "score"}]`; COCO's
    /// average precision of the masks
    #[arg(long, value_name = "FILE.json", help_heading = "Asking")]
    pub(crate) detections: Option<PathBuf>,
    /// No prompts: how many of the objects are among the masks that `segment --everything` finds
    #[arg(long, help_heading = "Asking")]
    pub(crate) everything: bool,
    /// Which mask is the answer; without it what the model is published with: best-of-three, for kirie-small single
    #[arg(long, value_name = "CHOICE", value_parser = mask_choice(), help_heading = "Asking")]
    pub(crate) mask_choice: Option<MaskChoice>,
    /// Look at a box closely: answer it from a window so many times as large as the box, or `off` for the whole picture as SAM
    /// does; auto is what the model was made for
    #[arg(long, default_value = "auto", value_name = "auto|off|FACTOR", help_heading = "Asking")]
    pub(crate) zoom: ZoomArg,
    /// Each click comes with the answer to those before
    #[arg(long, help_heading = "Asking")]
    pub(crate) feed_mask: bool,
    /// COCO's crowd regions are no objects
    #[arg(long, help_heading = "Asking")]
    pub(crate) without_crowd: bool,
    /// Width of the band of boundary IoU, as a part of the picture's diagonal
    #[arg(long, default_value_t = 0.02, value_name = "PART", help_heading = "Asking")]
    pub(crate) dilation_ratio: f64,

    /// Folder for metrics.json, objects.csv and report.html
    #[arg(short, long, value_name = "OUT", help_heading = "Output")]
    pub(crate) output: Option<PathBuf>,
    /// Machine-readable: one object, or `{"runs": [...]}` for several ways of asking
    #[arg(long, help_heading = "Output")]
    pub(crate) json: bool,
    /// Best and worst answers shown in the report, each
    #[arg(long, default_value_t = 12, value_name = "N", help_heading = "Output")]
    pub(crate) cases: u32,

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

    #[command(flatten, next_help_heading = "Model")]
    pub(crate) model: ModelArgs,
    #[command(flatten)]
    pub(crate) everything_args: EverythingArgs,
}

fn layout() -> impl TypedValueParser<Value = Layout> {
    PossibleValuesParser::new(Layout::ALL.map(Layout::name)).try_map(|name| name.parse::<Layout>())
}

fn mask_choice() -> impl TypedValueParser<Value = MaskChoice> {
    let all = [MaskChoice::BestOfThree, MaskChoice::Single];
    PossibleValuesParser::new(all.map(MaskChoice::name)).try_map(|name| name.parse::<MaskChoice>())
}
