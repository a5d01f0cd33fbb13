//! `kirie segment`.

mod adapted;
mod semantic;

use std::ops::ControlFlow;
use std::path::Path;

use anyhow::Context;
use kirie_data::write::Prompts as DrawnPrompts;
use kirie_data::{ImageMasks, ImageRecord, Limits, create_parent, read_image};
use kirie_moda::pool::AdapterPool;
use kirie_sam::registry::EverythingDefaults;
use kirie_sam::{
    BurnEngine, DecodeMode, Engine, MaskGeneratorOptions, PointGrid, Prediction, Predictor, Prompt, SamError,
    logits, mask_generator,
};

use crate::args::{EverythingArgs, SegmentArgs, ZoomArg};
use crate::inputs::{Input, Inputs};
use crate::outputs::Outputs;
use crate::prompts::PromptSource;
use crate::report::{self, Failure, PictureProgress};
use crate::{domains, weights};

/// What is done with each picture.
enum Task {
    Everything(MaskGeneratorOptions),
    Prompts { source: PromptSource, mode: DecodeMode, best: bool, zoom: ZoomArg },
}

/// What answers the prompts.
enum Answers<'a> {
    /// One model for all pictures.
    Model(&'a BurnEngine),
    /// Of several domains the one that a picture is like.
    Domains(&'a AdapterPool<'a>),
}

/// Prompts answered together; of more only the masks are kept, not the logits behind them.
const PROMPTS_AT_ONCE: usize = 256;

/// Runs the command.
pub(crate) fn run(args: SegmentArgs) -> anyhow::Result<()> {
    if let Some(adapter) = &args.semantic {
        return semantic::run(&args, adapter);
    }
    if args.test.is_given() {
        return Err(report::usage("--window, --whole and --flip are for --semantic"));
    }
    let inputs = Inputs::collect(&args.images, args.recursive, Some(&args.output.output))?;
    let outputs = Outputs::new(&args.output, &inputs.pictures)?;
    if args.output.save_logits.is_some() && inputs.pictures.len() > 1 {
        return Err(report::usage("--save-logits takes one picture"));
    }
    // What is wrong with the command line is told before the weights are read.
    args.model.machine.set_threads()?;
    if let Some(name) = &args.model.model
        && args.hq_only
        && !weights::variant(name)?.is_hq()
    {
        return Err(report::usage(format!("--hq-only: {name} has no high-quality mask; HQ models do")));
    }
    let mut task = if args.everything {
        generator_options(&args.everything_args, EverythingDefaults::SAM)?;
        Task::Everything(MaskGeneratorOptions::default())
    } else {
        Task::Prompts {
            source: PromptSource::new(&args)?,
            mode: DecodeMode { multimask: args.multimask || args.best, hq_only: args.hq_only },
            best: args.best,
            // Logits that are kept are there to be given back as mask input, which is of the whole picture.
            zoom: if args.output.save_logits.is_some() { ZoomArg::Off } else { args.zoom },
        }
    };
    if let Some(registry) = &args.adapters {
        let folders = adapted::folders(registry)?;
        let base = domains::base(&args.model, &folders)?;
        let (pool, _) = domains::pool(&base, &folders).with_context(|| registry.display().to_string())?;
        prepare(&mut task, &args, base.engine())?;
        return pictures(&args, &inputs, outputs, &task, &Answers::Domains(&pool));
    }
    let load = if args.everything { weights::load_for_everything } else { weights::load };
    let engine = load(&args.model)?;
    prepare(&mut task, &args, &engine)?;
    pictures(&args, &inputs, outputs, &task, &Answers::Model(&engine))
}

/// Completes a task with what depends on the model.
fn prepare(task: &mut Task, args: &SegmentArgs, engine: &BurnEngine) -> anyhow::Result<()> {
    match task {
        Task::Everything(options) => {
            *options = generator_options(&args.everything_args, weights::everything_defaults(engine))?;
        }
        Task::Prompts { source, .. } => source.add_masks(args, engine.mask_side())?,
    }
    Ok(())
}

/// Does all pictures; what is wrong with some does not stop the others.
fn pictures(
    args: &SegmentArgs,
    inputs: &Inputs,
    mut outputs: Outputs,
    task: &Task,
    answers: &Answers,
) -> anyhow::Result<()> {
    let total = inputs.pictures.len() + inputs.failures.len();
    let mut failed = inputs.failures.len();
    inputs.failures.iter().for_each(report::error);
    let mut progress = PictureProgress::new(inputs.pictures.len());
    for input in &inputs.pictures {
        progress.start(&input.listed);
        let save_logits = args.output.save_logits.as_deref();
        match segment(answers, input, task, save_logits, &mut outputs, &progress) {
            Ok(done) => progress.done(&done),
            Err(error) => {
                if report::is_broken_pipe(&error) || report::is_disk_trouble(&error) {
                    return Err(error);
                }
                failed += 1;
                progress.failed(&report::about(error, &input.path));
            }
        }
    }
    progress.finish();
    if let Task::Prompts { source, .. } = task {
        let unused = source.unused(&inputs.pictures);
        if !unused.is_empty() {
            report::note(&format!(
                "the prompt file also names, but no picture is called: {}",
                unused.join(", ")
            ));
        }
    }
    // Where every picture failed, an earlier result is better kept.
    if failed < total {
        let place = outputs.place();
        outputs.finish()?;
        if let Some(place) = place {
            report::note(&format!("{} of {total} pictures done, see {place}", total - failed));
        }
    }
    if failed > 0 { Err(Failure::Inputs { failed, total }.into()) } else { Ok(()) }
}

/// Does one picture; what was done, in a few words.
fn segment(
    answers: &Answers,
    input: &Input,
    task: &Task,
    save_logits: Option<&Path>,
    outputs: &mut Outputs,
    progress: &PictureProgress,
) -> anyhow::Result<String> {
    let image = read_image(&input.path, &Limits::default())?;
    let adapted;
    let (engine, domain): (&dyn Engine, Option<&str>) = match answers {
        Answers::Model(engine) => (*engine, None),
        Answers::Domains(pool) => {
            let route = pool.route(&image)?;
            adapted = pool.engine(route.as_ref());
            (&adapted, pool.name(route.as_ref()))
        }
    };
    let path = input.path.to_string_lossy().into_owned();
    let record = ImageRecord { path, width: image.width(), height: image.height() };
    let (masks, drawn) = match task {
        Task::Everything(options) => {
            let masks = mask_generator::generate(engine, &image, options, &mut |state| {
                progress.inside(state.done, state.total, "points");
                ControlFlow::Continue(())
            })?;
            (masks, DrawnPrompts::default())
        }
        Task::Prompts { source, mode, best, zoom } => {
            let prompts = source.for_picture(input).context("the prompt file has no prompts for it")?;
            // The predictor checks them too, but after the encoder's work.
            for (index, prompt) in prompts.iter().enumerate() {
                let checked = prompt.check(image.width(), image.height(), engine.mask_side());
                checked.map_err(|problem| SamError::Prompt { index, problem })?;
            }
            // Adapters are trained on whole pictures.
            let zoom = if domain.is_some() { ZoomArg::Off } else { *zoom };
            let mut predictor = Predictor::new(engine).with_zoom(zoom.context(engine.model()));
            predictor.set_image(&image)?;
            let mut masks = Vec::new();
            let mut logits = Vec::new();
            for part in prompts.chunks(PROMPTS_AT_ONCE) {
                let mut answers = predictor.predict(part, *mode)?;
                if *best {
                    answers.iter_mut().for_each(Prediction::keep_best);
                }
                masks.extend(predictor.records(part, &answers)?);
                if save_logits.is_some() {
                    logits.extend(answers);
                }
            }
            if let Some(file) = save_logits {
                create_parent(file)?;
                logits::write(file, &logits, engine.mask_side(), engine.model())?;
            }
            (masks, drawn(prompts))
        }
    };
    let count = masks.len();
    let model =
        domain.map_or_else(|| engine.model().to_owned(), |domain| format!("{}/{domain}", engine.model()));
    let done = match answers {
        Answers::Model(_) => format!("{count} masks"),
        Answers::Domains(_) => format!("{count} masks, by {}", domain.unwrap_or("the model as it is")),
    };
    outputs.picture(input, &image, ImageMasks { image: record, model, masks }, &drawn)?;
    Ok(done)
}

fn drawn(prompts: &[Prompt]) -> DrawnPrompts {
    DrawnPrompts {
        points: prompts.iter().flat_map(|p| p.points.iter().copied()).collect(),
        boxes: prompts.iter().filter_map(|p| p.bbox).collect(),
    }
}

/// The mask generator's settings from its flags and the model's own.
pub(crate) fn generator_options(
    args: &EverythingArgs,
    model: EverythingDefaults,
) -> anyhow::Result<MaskGeneratorOptions> {
    let grid = match &args.point_grids {
        None => PointGrid::PerSide(args.points_per_side.unwrap_or(model.points_per_side)),
        Some(path) => {
            let name = path.display();
            let text = std::fs::read_to_string(path).with_context(|| format!("cannot read points {name}"))?;
            let grids = serde_json::from_str(&text)
                .map_err(|e| anyhow::anyhow!("points {name}: {e}; expected [[[x, y], ...], ...]"))?;
            PointGrid::Explicit(grids)
        }
    };
    let options = MaskGeneratorOptions {
        grid,
        points_per_batch: args.points_per_batch,
        pred_iou_thresh: args.pred_iou_thresh.unwrap_or(model.pred_iou_thresh),
        stability_score_thresh: args.stability_score_thresh.unwrap_or(model.stability_score_thresh),
        stability_score_offset: args.stability_score_offset,
        box_nms_thresh: args.box_nms_thresh,
        crop_n_layers: args.crop_n_layers,
        crop_nms_thresh: args.crop_nms_thresh,
        crop_overlap_ratio: args.crop_overlap_ratio,
        crop_n_points_downscale_factor: args.crop_n_points_downscale_factor,
        min_mask_region_area: args.min_mask_region_area,
    };
    options.check().map_err(|e| report::usage(e.to_string()))?;
    Ok(options)
}
