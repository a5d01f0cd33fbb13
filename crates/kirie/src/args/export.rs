//! `kirie export`, declared.

use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, ValueEnum};

use super::MachineArgs;

#[derive(Debug, Args)]
#[command(
    after_help = "A model of `kirie models list` becomes NAME-encoder.onnx and NAME-decoder.onnx, a semantic model NAME-semantic.onnx; \
NAME.json says what goes in and what comes out. docs/export.md has a runner in Python.

Examples:
  kirie export kirie-small --format onnx -o onnx
  kirie export mobile-sam --weights mobile_sam.pt --format onnx --decoder plain -o onnx
  kirie export runs/promptable/best.safetensors --format onnx -o onnx
  kirie export runs/streets/adapter.safetensors --format onnx --size 640x480 -o onnx"
)]
pub(crate) struct ExportArgs {
    /// A model's name, a weight file that fits one, or what `kirie train semantic` made
    #[arg(value_name = "MODEL|FILE")]
    pub(crate) model: String,
    /// What to write
    #[arg(long, value_enum, default_value = "onnx", value_name = "FORMAT")]
    pub(crate) format: ExportFormat,
    /// Folder to write to
    #[arg(short, long, value_name = "DIR")]
    pub(crate) output: PathBuf,
    /// Weights, .pt, .pth or .safetensors, of a model given by name, or of a semantic model's base; without it those in the program or
    /// fetched by `kirie models pull`
    #[arg(long, value_name = "FILE")]
    pub(crate) weights: Option<PathBuf>,
    /// Inputs and outputs of the decoder
    #[arg(long, value_enum, default_value = "sam", value_name = "FORM")]
    pub(crate) decoder: DecoderForm,
    /// Side of the encoder's input, pixels, instead of the model's own (not for ViT)
    #[arg(long, value_name = "PIXELS", value_parser = clap::value_parser!(u32).range(32..=4096))]
    pub(crate) input: Option<u32>,
    /// Semantic models: width and height of the pictures; without it those of the crops it was trained on, or of its base's input
    #[arg(long, value_name = "WIDTHxHEIGHT")]
    pub(crate) size: Option<SizeArg>,
    #[command(flatten)]
    pub(crate) machine: MachineArgs,
}

/// What to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ExportFormat {
    /// ONNX files
    Onnx,
}

/// Inputs and outputs of the decoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum DecoderForm {
    /// As segment-anything's ONNX files: a mask to start from, masks in the picture's size
    Sam,
    /// As EfficientViT-SAM's: points and labels, masks as the decoder makes them
    Plain,
}

/// `WIDTHxHEIGHT`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SizeArg {
    pub(crate) width: u32,
    pub(crate) height: u32,
}

impl FromStr for SizeArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let side = |side: &str| side.parse().ok().filter(|side| (32..=8192).contains(side));
        let sides = text.split_once('x').and_then(|(w, h)| Some((side(w)?, side(h)?)));
        let (width, height) = sides.ok_or("expected WIDTHxHEIGHT such as 640x480, each from 32 to 8192")?;
        Ok(Self { width, height })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read() {
        assert_eq!("640x480".parse(), Ok(SizeArg { width: 640, height: 480 }));
        for wrong in ["640", "640x", "x480", "640x16", "-640x480", "640x480x3"] {
            assert!(wrong.parse::<SizeArg>().is_err(), "{wrong}");
        }
    }
}
