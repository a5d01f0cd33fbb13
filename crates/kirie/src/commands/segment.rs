//! `kirie segment`.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::path::Path;

use anyhow::Context;
use kirie_data::write::Prompts as DrawnPrompts;
use kirie_data::{ImageMasks, ImageRecord, Limits, MaskRecord, create_parent, read_image};
use kirie_sam::checkpoint::{StateTensor, write_safetensors};
use kirie_sam::predictor::MASK_THRESHOLD;
use kirie_sam::{
    DecodeMode, Engine, MaskGeneratorOptions, PointGrid, Prediction, Predictor, Prompt, mask_generator,
};

use crate::args::{EverythingArgs, SegmentArgs};
use crate::inputs::{self, Input};
use crate::outputs::Outputs;
use crate::prompts::PromptSource;
use crate::report::{self, Failure};
use crate::weights;

/// How the threshold is moved for the stability score of prompted masks; the mask generator's default.
const STABILITY_OFFSET: f32 = 1.0;

/// What is done with each picture.
enum Task {
    Everything(MaskGeneratorOptions),
    Prompts { source: PromptSource, mode: DecodeMode, best: bool },
}

/// Runs the command.
pub(crate) fn run(args: SegmentArgs) -> anyhow::Result<()> {
    let inputs = inputs::collect(&args.images, args.recursive)?;
    let mut outputs = Outputs::new(&args.output, inputs.len())?;
    if args.output.save_logits.is_some() && inputs.len() > 1 {
        return Err(report::usage("--save-logits takes one picture"));
    }
    weights::set_threads(&args.model)?;
    // Wrong prompts are told before the weights are read.
    let everything = if args.everything { Some(generator_options(&args.everything_args)?) } else { None };
    if let Some(name) = &args.model.model {
        weights::variant(name)?;
    }
    if everything.is_none() && args.mask_input.is_none() {
        PromptSource::new(&args, 0)?;
    }
    let engine = weights::load(&args.model)?;
    let task = match everything {
        Some(options) => Task::Everything(options),
        None => Task::Prompts {
            source: PromptSource::new(&args, engine.mask_side())?,
            mode: DecodeMode { multimask: args.multimask || args.best, hq_only: args.hq_only },
            best: args.best,
        },
    };

    let bar = report::progress_bar(inputs.len() as u64, "pictures");
    let mut failed = 0;
    for input in &inputs {
        bar.set_message(input.name.clone());
        let result = segment(&engine, input, &task, args.output.save_logits.as_deref(), &mut outputs);
        if let Err(error) = result {
            if report::is_broken_pipe(&error) {
                return Err(error);
            }
            failed += 1;
            // Most errors name the picture themselves.
            let path = input.path.display().to_string();
            let named = error.chain().any(|cause| cause.to_string().contains(&path));
            let error = if named { error } else { error.context(path) };
            bar.suspend(|| report::error(&error));
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    let place = outputs.place();
    outputs.finish()?;
    if let (Some(place), true) = (place, failed < inputs.len()) {
        report::note(&format!("{} of {} pictures done, see {place}", inputs.len() - failed, inputs.len()));
    }
    if failed > 0 { Err(Failure::Inputs { failed, total: inputs.len() }.into()) } else { Ok(()) }
}

fn segment(
    engine: &dyn Engine,
    input: &Input,
    task: &Task,
    save_logits: Option<&Path>,
    outputs: &mut Outputs,
) -> anyhow::Result<()> {
    let image = read_image(&input.path, &Limits::default())?;
    let path = input.path.to_string_lossy().into_owned();
    let record = ImageRecord { path, width: image.width(), height: image.height() };
    let model = engine.model().to_owned();
    match task {
        Task::Everything(options) => {
            let bar = report::progress_bar(0, "points");
            bar.set_message(input.name.clone());
            let masks = mask_generator::generate(engine, &image, options, &mut |progress| {
                bar.set_length(progress.total as u64);
                bar.set_position(progress.done as u64);
                ControlFlow::Continue(())
            })?;
            bar.finish_and_clear();
            outputs.picture(
                input,
                &image,
                ImageMasks { image: record, model, masks },
                &DrawnPrompts::default(),
            )
        }
        Task::Prompts { source, mode, best } => {
            let prompts = source.for_picture(input).context("the prompt file has no prompts for it")?;
            let mut predictor = Predictor::new(engine);
            predictor.set_image(&image)?;
            let mut predictions = predictor.predict(prompts, *mode)?;
            if *best {
                predictions.iter_mut().for_each(keep_best);
            }
            let masks = records(&predictor, prompts, &predictions)?;
            if let Some(file) = save_logits {
                write_logits(file, &predictions, engine)?;
            }
            outputs.picture(input, &image, ImageMasks { image: record, model, masks }, &drawn(prompts))
        }
    }
}

fn keep_best(prediction: &mut Prediction) {
    let best = prediction.best();
    prediction.low_res = vec![prediction.low_res.swap_remove(best)];
    prediction.iou = vec![prediction.iou[best]];
}

fn records(
    predictor: &Predictor,
    prompts: &[Prompt],
    predictions: &[Prediction],
) -> anyhow::Result<Vec<MaskRecord>> {
    let upscaler = predictor.upscaler()?;
    let size = [upscaler.width() as f64, upscaler.height() as f64];
    let mut records = Vec::new();
    for (prompt, prediction) in prompts.iter().zip(predictions) {
        for (low, iou) in prediction.low_res.iter().zip(&prediction.iou) {
            let (mask, stability_score) =
                upscaler.mask_and_stability(low, MASK_THRESHOLD, STABILITY_OFFSET)?;
            records.push(MaskRecord {
                bbox: mask_generator::inclusive_box(&mask).to_xywh(),
                area: mask.area(),
                predicted_iou: f64::from(*iou),
                stability_score,
                point_coords: prompt.points.iter().map(|(p, _)| [p.x, p.y]).collect(),
                crop_box: [0.0, 0.0, size[0], size[1]],
                segmentation: mask,
            });
        }
    }
    Ok(records)
}

fn drawn(prompts: &[Prompt]) -> DrawnPrompts {
    DrawnPrompts {
        points: prompts.iter().flat_map(|p| p.points.iter().copied()).collect(),
        boxes: prompts.iter().filter_map(|p| p.bbox).collect(),
    }
}

fn write_logits(path: &Path, predictions: &[Prediction], engine: &dyn Engine) -> anyhow::Result<()> {
    let side = engine.mask_side();
    let values: Vec<f32> = predictions.iter().flat_map(|p| p.low_res.iter().flatten().copied()).collect();
    let iou: Vec<f32> = predictions.iter().flat_map(|p| p.iou.iter().copied()).collect();
    let tensors = [
        ("low_res_logits".to_owned(), StateTensor { shape: vec![iou.len(), side, side], values }),
        ("predicted_iou".to_owned(), StateTensor { shape: vec![iou.len()], values: iou }),
    ];
    create_parent(path)?;
    let metadata = HashMap::from([("model".to_owned(), engine.model().to_owned())]);
    Ok(write_safetensors(path, &tensors, metadata)?)
}

fn generator_options(args: &EverythingArgs) -> anyhow::Result<MaskGeneratorOptions> {
    let grid = match &args.point_grids {
        None => PointGrid::PerSide(args.points_per_side),
        Some(path) => {
            let name = path.display();
            let text = std::fs::read_to_string(path).with_context(|| format!("cannot read points {name}"))?;
            let grids = serde_json::from_str(&text).map_err(|e| {
                anyhow::anyhow!("points {name}, line {}: {e}; expected [[[x, y], ...], ...]", e.line())
            })?;
            PointGrid::Explicit(grids)
        }
    };
    let options = MaskGeneratorOptions {
        grid,
        points_per_batch: args.points_per_batch,
        pred_iou_thresh: args.pred_iou_thresh,
        stability_score_thresh: args.stability_score_thresh,
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
