//! What the commands about semantic models share, and `kirie train semantic` and `kirie evaluate semantic`, declared.

use std::path::PathBuf;
use std::str::FromStr;

use clap::Args;
use kirie_gsam::config::{Blend, TestConfig, TestMode};

use super::{MachineArgs, Masks};
use crate::report;

#[derive(Debug, Args)]
#[command(
    after_help = "The run folder keeps config.toml, log.jsonl, checkpoints/, samples/, metrics.json, report.html and, when all steps are \
done, adapter.safetensors: what was learned, to be put on the base model. A run that was stopped (Ctrl-C finishes the step and saves), \
killed or cut off goes on with --resume as if nothing had happened.

--sweep trains every combination of the lists in its file, each in a process of its own, scores it on the test list and writes \
sweep.json, sweep.csv and sweep.html; called again, it does the runs that are missing.

Examples:
  kirie train semantic --config configs/semantic/camvid.toml --data sets --dry-run
  kirie train semantic --config configs/semantic/camvid.toml --data sets -o runs/streets
  kirie train semantic --config my.toml --set model.method.name=lora --set plan.steps=2000 -o runs/lora
  kirie train semantic --resume runs/streets
  kirie train semantic --sweep configs/semantic/sweep-methods.toml --data sets -o sweeps/first"
)]
pub(crate) struct TrainSemanticArgs {
    /// What to do, in TOML; docs/semantic.md lists the keys
    #[arg(long, value_name = "FILE.toml", required_unless_present_any = ["resume", "sweep"], conflicts_with = "sweep")]
    pub(crate) config: Option<PathBuf>,
    /// Many runs: lists of sets, methods, inputs, augmentations and seeds, in TOML
    #[arg(long, value_name = "FILE.toml", conflicts_with = "resume")]
    pub(crate) sweep: Option<PathBuf>,
    /// A key of the configuration, over what the file says
    #[arg(long = "set", value_name = "KEY=VALUE", conflicts_with = "resume")]
    pub(crate) sets: Vec<String>,
    /// The folder that the sets lie in, over the file's data.root
    #[arg(long, value_name = "DIR", conflicts_with = "resume")]
    pub(crate) data: Option<PathBuf>,
    /// Folder of the new run, or of the sweep
    #[arg(short, long, value_name = "RUN", required_unless_present_any = ["resume", "dry_run"], conflicts_with = "resume")]
    pub(crate) output: Option<PathBuf>,
    /// Go on with this run
    #[arg(long, value_name = "RUN")]
    pub(crate) resume: Option<PathBuf>,
    /// Say what would be trained, on what, and about how long it takes, and write nothing
    #[arg(long, conflicts_with = "resume")]
    pub(crate) dry_run: bool,
    /// At the end, score the model on this part of the sets, as it was before and after; writes score.json and score.html
    #[arg(long, value_name = "NAME", conflicts_with = "sweep")]
    pub(crate) score: Option<String>,
    #[command(flatten)]
    pub(crate) machine: MachineArgs,
    /// Print the outcome as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Scores are at the pictures' own size, over all pixels of all pictures together. Classes go by their names; \
classes that were merged in training are merged here too.

Examples:
  kirie evaluate semantic --adapter runs/streets/adapter.safetensors --data sets/camvid --split test
  kirie evaluate semantic --adapter runs/streets/adapter.safetensors --data sets/camvid --split test --flip -o report
  kirie evaluate semantic --adapter a.safetensors --data large --window 512 --stride 384 --json"
)]
pub(crate) struct EvaluateSemanticArgs {
    /// What `kirie train semantic` made, or a merged model
    #[arg(long, value_name = "FILE")]
    pub(crate) adapter: PathBuf,
    /// Weights of the base model; without it those in the program or fetched by `kirie models pull`
    #[arg(long, value_name = "BASE")]
    pub(crate) weights: Option<PathBuf>,
    /// The labelled set: a folder, or a COCO annotation file
    #[arg(long, value_name = "DIR")]
    pub(crate) data: PathBuf,
    /// Only this part of it: train, val, test, or the name of any list
    #[arg(long, value_name = "NAME")]
    pub(crate) split: Option<String>,
    /// Only so many pictures, spread evenly over the set
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) limit: Option<u32>,
    /// A class of the set that counts as another, or as `ignore`; beside those of the training
    #[arg(long = "merge", value_name = "CLASS=OTHER", value_parser = pair)]
    pub(crate) merges: Vec<(String, String)>,
    #[command(flatten)]
    pub(crate) test: TestArgs,
    /// Also measure whether the borders of windows show, against each picture in one piece (which takes the memory for that)
    #[arg(long, help_heading = "Semantic segmentation")]
    pub(crate) seams: bool,

    /// Folder for metrics.json and report.html
    #[arg(short, long, value_name = "OUT", help_heading = "Output")]
    pub(crate) output: Option<PathBuf>,
    /// Beside the report, the labels found in every picture, as predictions/ID.png and, on the picture, ID.jpg
    #[arg(long, requires = "output", help_heading = "Output")]
    pub(crate) predictions: bool,
    /// Machine-readable
    #[arg(long, help_heading = "Output")]
    pub(crate) json: bool,
    /// Best and worst pictures shown in the report, each
    #[arg(long, default_value_t = 6, value_name = "N", help_heading = "Output")]
    pub(crate) cases: u32,

    /// What the numbers in label pictures mean, instead of finding it out
    #[arg(long, value_enum, value_name = "MEANING", help_heading = "What the set is")]
    pub(crate) masks: Option<Masks>,
    /// The folder of label pictures, where it has no usual name or there are several
    #[arg(long, value_name = "NAME", help_heading = "What the set is")]
    pub(crate) mask_folder: Option<String>,
    /// Numbers in label pictures to be ignored, besides 255 (65535 in 16 bits) and classes called void or unlabelled
    #[arg(long, value_name = "N", value_delimiter = ',', help_heading = "What the set is")]
    pub(crate) ignore: Vec<u16>,

    #[command(flatten)]
    pub(crate) machine: MachineArgs,
}

fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((from, to)) if !from.is_empty() && !to.is_empty() => Ok((from.to_owned(), to.to_owned())),
        _ => Err("expected CLASS=OTHER, as in Truck=Car".to_owned()),
    }
}

/// How pictures are segmented, over what the model was trained for.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Semantic segmentation")]
pub(crate) struct TestArgs {
    /// Each picture in one piece, though the model was to work by windows
    #[arg(long, conflicts_with = "window")]
    pub(crate) whole: bool,
    /// By windows that overlap, of so many pixels a side or WIDTHxHEIGHT: large pictures in little memory
    #[arg(long, value_name = "PIXELS")]
    pub(crate) window: Option<Sides>,
    /// How far windows are apart, pixels [default: three quarters of the window]
    #[arg(long, value_name = "PIXELS", requires = "window")]
    pub(crate) stride: Option<Sides>,
    /// Windows say as much at their edges as in their middle, as published; otherwise less towards the edges, which hides seams
    #[arg(long, requires = "window")]
    pub(crate) uniform: bool,
    /// Mean with the answer to the mirrored picture: a little better, twice the time
    #[arg(long)]
    pub(crate) flip: bool,
}

impl TestArgs {
    /// Whether anything was asked for.
    pub(crate) fn is_given(&self) -> bool {
        self.whole || self.window.is_some() || self.flip
    }

    /// The model's own way, with what was asked for.
    pub(crate) fn over(&self, own: &TestConfig) -> anyhow::Result<TestConfig> {
        let mut test = own.clone();
        if self.whole {
            test.mode = TestMode::Whole;
        }
        if let Some(Sides(window)) = self.window {
            let stride =
                self.stride.map_or_else(|| window.map(|side| (side * 3 / 4).max(1)), |sides| sides.0);
            let blend = if self.uniform { Blend::Uniform } else { Blend::Tapered };
            test.mode = TestMode::Slide { window, stride, blend };
        }
        test.flip |= self.flip;
        if self.is_given() {
            test.check().map_err(|error| report::usage(error.to_string()))?;
        }
        Ok(test)
    }
}

/// Height and width, pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sides(pub(crate) [u32; 2]);

impl FromStr for Sides {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let side = |text: &str| match text.parse() {
            Ok(side @ 1..=16_384) => Ok(side),
            _ => Err("expected pixels, as in 256, or WIDTHxHEIGHT, as in 320x256".to_owned()),
        };
        match text.split_once('x') {
            Some((width, height)) => Ok(Self([side(height)?, side(width)?])),
            None => side(text).map(|side| Self([side, side])),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sides_are_width_by_height() {
        assert_eq!("256".parse(), Ok(Sides([256, 256])));
        assert_eq!("320x256".parse(), Ok(Sides([256, 320])));
        for bad in ["", "0", "12x", "x", "1e3", "-4", "99999"] {
            assert!(bad.parse::<Sides>().is_err(), "{bad}");
        }
        assert_eq!(pair("a b=c"), Ok(("a b".to_owned(), "c".to_owned())));
        assert!(pair("a").is_err() && pair("=c").is_err());
    }

    #[test]
    fn what_is_asked_for_goes_over_the_models_own() {
        let own = TestConfig { flip: true, ..TestConfig::default() };
        let asked = |args: TestArgs| args.over(&own);
        assert_eq!(asked(TestArgs::default()).unwrap(), own);
        let window = asked(TestArgs { window: Some(Sides([64, 128])), ..TestArgs::default() }).unwrap();
        let mode = TestMode::Slide { window: [64, 128], stride: [48, 96], blend: Blend::Tapered };
        assert_eq!((window.mode, window.flip), (mode, true));
        let gaps =
            TestArgs { window: Some(Sides([64, 64])), stride: Some(Sides([65, 64])), ..TestArgs::default() };
        assert!(asked(gaps).unwrap_err().to_string().contains("test.mode.stride"));
    }
}
