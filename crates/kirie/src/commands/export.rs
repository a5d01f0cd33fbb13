//! `kirie export`.

use std::path::Path;

use anyhow::Context;
use kirie_export::{Bundle, Convention, write_promptable, write_semantic};
use kirie_sam::{Engine, registry};

use crate::args::{DecoderForm, ExportArgs, ExportFormat, ModelArgs};
use crate::outputs::check_writable;
use crate::report;
use crate::semantic;
use crate::weights;

/// Runs the command.
pub(crate) fn run(args: ExportArgs) -> anyhow::Result<()> {
    let ExportFormat::Onnx = args.format;
    let path = Path::new(&args.model);
    let is_file = registry::variant(&args.model).is_err() && path.exists();
    check_writable(&args.output, true)?;
    let bundle = if is_file && semantic::is_semantic(path) {
        export_semantic(&args, path)?
    } else {
        export_promptable(args, is_file)?
    };
    let lines = bundle.graphs.iter().map(|graph| {
        let beside = graph
            .weights
            .as_ref()
            .map_or_else(String::new, |path| format!(", weights in {}", path.display()));
        format!("{}: {:.1} MB{beside}\n", graph.model.display(), graph.bytes as f64 / 1e6)
    });
    let text: String = lines.collect();
    report::print(&format!("{text}{}: what goes in and what comes out\n", bundle.description.display()))
}

fn export_promptable(args: ExportArgs, is_file: bool) -> anyhow::Result<Bundle> {
    if args.size.is_some() {
        return Err(report::usage(
            "--size is for semantic models; --input is the side of this model's input",
        ));
    }
    if is_file && args.weights.is_some() {
        return Err(report::usage(format!("{} holds the weights; leave --weights out", args.model)));
    }
    let (model, weights) =
        if is_file { (None, Some(args.model.into())) } else { (Some(args.model), args.weights) };
    let engine = weights::load(&ModelArgs { model, weights, input: args.input, machine: args.machine })?;
    let variant = weights::variant(engine.model())?;
    let convention = match args.decoder {
        DecoderForm::Sam => Convention::Sam,
        DecoderForm::Plain => Convention::Plain,
    };
    Ok(write_promptable(&args.output, variant, engine.sam(), &engine.preprocess(), convention)?)
}

fn export_semantic(args: &ExportArgs, path: &Path) -> anyhow::Result<Bundle> {
    if args.input.is_some() {
        return Err(report::usage(
            "--input is for models that answer prompts; --size is that of a semantic model's pictures",
        ));
    }
    let device = args.machine.open()?;
    let tuned = semantic::load(path, args.weights.as_deref(), &device)?;
    let side = tuned.config.preprocess.size as usize;
    let size = match args.size {
        Some(size) => [size.height as usize, size.width as usize],
        None => tuned.notes.crop.map_or([side; 2], |crop| crop.map(|side| side as usize)),
    };
    let name = path.file_stem().context("the model's file has no name")?.to_string_lossy();
    let base = registry::variant(&tuned.config.base);
    let licence = base.map_or("as its base", |variant| variant.licence);
    let classes = tuned.notes.classes.names();
    Ok(write_semantic(&args.output, &name, licence, &tuned.model, classes, size)?)
}
