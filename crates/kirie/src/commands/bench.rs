//! `kirie bench`.

mod views;

use std::ops::ControlFlow;
use std::time::Instant;

use kirie_data::{Image, Limits, read_image};
use kirie_run::peak_memory;
use kirie_sam::predictor::{encode, prepare};
use kirie_sam::{DecodeMode, Engine, MaskGeneratorOptions, PointGrid, Predictor, Prompt, mask_generator};
use serde_json::json;

use crate::args::{BenchArgs, BenchKind};
use crate::report;
use crate::weights;

/// Runs the command.
pub(crate) fn run(args: &BenchArgs) -> anyhow::Result<()> {
    match (args.what, &args.config) {
        (BenchKind::Views, Some(file)) => return views::run(args, file),
        (BenchKind::Views, None) => {
            return Err(report::usage("bench views: --config FILE.toml says what views are made of"));
        }
        (_, Some(_)) => return Err(report::usage("--config is for bench views")),
        (_, None) => {}
    }
    let device = args.model.machine.open()?;
    let (engine, weights) = match (&args.model.weights, &args.model.model) {
        (None, Some(name)) => (weights::by_formula(weights::variant(name)?, &device)?, "by formula"),
        (None, None) => return Err(report::usage("name a model with --model, or weights with --weights")),
        (Some(_), _) => (weights::load(&args.model)?, "given"),
    };
    let image = match &args.image {
        Some(path) => read_image(path, &Limits::default())?,
        None => made_up(1024, 683)?,
    };

    let mut masks = 0;
    let (unit, per_run, times) = match args.what {
        BenchKind::Encoder => {
            // Preparing the picture is measured with it: no one gets an embedding without.
            let preprocess = engine.preprocess();
            let times = measure(args, || engine.encode(prepare(&image, &preprocess)?).map(drop))?;
            ("images", 1.0, times)
        }
        BenchKind::Decoder => {
            let mut predictor = Predictor::new(&engine);
            predictor.set_encoded(encode(&engine, &image)?);
            let prompts = some_points(&image, args.prompts);
            let mode = DecodeMode { multimask: true, hq_only: false };
            let times = measure(args, || predictor.predict(&prompts, mode).map(drop))?;
            ("prompts", f64::from(args.prompts), times)
        }
        BenchKind::Everything => {
            // With made-up weights no mask would pass the filters, and the work behind them would not be measured.
            let filters = if weights == "given" { (0.88, 0.95) } else { (0.0, 0.0) };
            let options = MaskGeneratorOptions {
                grid: PointGrid::PerSide(args.points_per_side),
                pred_iou_thresh: filters.0,
                stability_score_thresh: filters.1,
                ..Default::default()
            };
            let times = measure(args, || {
                let found =
                    mask_generator::generate(&engine, &image, &options, &mut |_| ControlFlow::Continue(()))?;
                masks = found.len();
                Ok(())
            })?;
            ("images", 1.0, times)
        }
        BenchKind::Views => return Err(report::usage("bench views: --config FILE.toml is missing")),
    };

    let sorted = {
        let mut sorted = times.clone();
        sorted.sort_by(f64::total_cmp);
        sorted
    };
    let quantile = |q: f64| quantile(&sorted, q);
    let median = quantile(0.5);
    let rate = per_run / median;
    let memory = peak_memory();
    let what = format!("{:?}", args.what).to_lowercase();
    let threads = rayon::current_num_threads();
    if args.json {
        return report::print(&serde_json::to_string_pretty(&json!({
            "what": what,
            "model": engine.model(),
            "weights": weights,
            "device": args.model.machine.device.name(),
            "threads": threads,
            "image": [image.width(), image.height()],
            "prompts_per_call": args.prompts,
            "points_per_side": args.points_per_side,
            "masks": masks,
            "seconds": { "median": median, "quartiles": [quantile(0.25), quantile(0.75)], "min": sorted[0],
                         "max": sorted[sorted.len() - 1], "runs": times },
            "rate": rate,
            "rate_unit": format!("{unit}/s"),
            "peak_memory_bytes": memory,
        }))?);
    }
    let memory =
        memory.map_or_else(|| "not known here".to_owned(), |b| format!("{:.0} MiB", b as f64 / 1048576.0));
    report::print(&format!(
        "{what} of {model}, weights {weights}, {device}, {threads} threads, picture {width}x{height}\n\
         median      {median:.4} s ({count} runs, quartiles {low:.4} to {high:.4}, all {min:.4} to {max:.4})\n\
         rate        {rate:.3} {unit}/s\n\
         peak memory {memory}\n",
        model = engine.model(),
        device = args.model.machine.device.name(),
        width = image.width(),
        height = image.height(),
        count = times.len(),
        low = quantile(0.25),
        high = quantile(0.75),
        min = sorted[0],
        max = sorted[sorted.len() - 1],
    ))
}

/// A quantile of rising numbers, of which there is one at least; between two of them in a straight line.
fn quantile(sorted: &[f64], q: f64) -> f64 {
    let place = q * (sorted.len() - 1) as f64;
    let (low, high) = (sorted[place.floor() as usize], sorted[place.ceil() as usize]);
    low + (high - low) * place.fract()
}

fn measure(
    args: &BenchArgs,
    mut run: impl FnMut() -> Result<(), kirie_sam::SamError>,
) -> anyhow::Result<Vec<f64>> {
    let (warmup, repeat) = (u64::from(args.warmup), u64::from(args.repeat));
    let bar = report::progress_bar(warmup + repeat, "runs");
    let mut times = Vec::new();
    for i in 0..warmup + repeat {
        let start = Instant::now();
        run()?;
        if i >= warmup {
            times.push(start.elapsed().as_secs_f64());
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(times)
}

/// A picture with edges and slopes of all sizes.
fn made_up(width: u32, height: u32) -> anyhow::Result<Image> {
    let mut pixels = Vec::with_capacity(3 * (width * height) as usize);
    for y in 0..height {
        for x in 0..width {
            pixels.extend([x ^ y, x.wrapping_mul(y) >> 6, (x / 40 + y / 40) % 2 * 200].map(|v| v as u8));
        }
    }
    Ok(Image::from_raw(width, height, pixels)?)
}

/// Points spread over the picture.
fn some_points(image: &Image, count: u32) -> Vec<Prompt> {
    let (w, h) = (f64::from(image.width()), f64::from(image.height()));
    (0..count)
        .map(|i| {
            // Multiples of the golden ratio fall everywhere.
            let x = (f64::from(i) * 0.618_034 + 0.5).fract();
            let y = (f64::from(i) + 0.5) / f64::from(count);
            Prompt::point(x * w, y * h)
        })
        .collect()
}
