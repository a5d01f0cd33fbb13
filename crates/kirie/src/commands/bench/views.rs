//! `kirie bench views`: how many views of contrastive training are made in a second.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Instant;

use kirie_engine::random::Streams;
use kirie_run::{Stop, peak_memory};
use kirie_samclr::config::TrainConfig;
use kirie_samclr::data::Pictures;
use kirie_samclr::regions::Table;
use kirie_samclr::train::{Batch, source_name};
use kirie_samclr::views::Kind;
use rayon::prelude::*;
use serde_json::json;

use super::quantile;
use crate::args::BenchArgs;
use crate::commands::train::contrastive;
use crate::report;

pub(super) fn run(args: &BenchArgs, file: &Path) -> anyhow::Result<()> {
    let device = args.model.machine.open()?;
    let config = contrastive::settings(file, &args.sets, args.data.as_deref())?;
    let (pictures, table) = contrastive::open(&config, &device, &Stop::install()?)?;
    let kinds = config.views.kinds();
    let threads = rayon::current_num_threads();
    let runs = u64::from(args.warmup) + u64::from(args.repeat);
    let [decoded, seconds] = decode(&config, &pictures, runs * threads as u64)?;
    let bar = report::progress_bar(runs, "runs");
    let mut times = Vec::new();
    for run in 0..runs {
        let began = Instant::now();
        batches(&config, &pictures, &table, &kinds, run * threads as u64, threads as u64)?;
        if run >= u64::from(args.warmup) {
            times.push(began.elapsed().as_secs_f64());
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    let mut sorted = times.clone();
    sorted.sort_by(f64::total_cmp);
    let views = config.data.batch * config.views.count();
    let median = quantile(&sorted, 0.5);
    let per_thread = views as f64 / median;
    let from = source_name(&config.regions.source);
    if args.json {
        return report::print(&serde_json::to_string_pretty(&json!({
            "what": "views",
            "views_from": from,
            "recipe": config.views.recipe,
            "size": config.views.size,
            "views_per_batch": views,
            "threads": threads,
            "pictures": pictures.len(),
            "seconds": { "median": median, "quartiles": [quantile(&sorted, 0.25), quantile(&sorted, 0.75)],
                         "min": sorted[0], "max": sorted[sorted.len() - 1], "runs": times },
            "rate": per_thread * threads as f64,
            "rate_per_thread": per_thread,
            "rate_unit": "views/s",
            "decoded": decoded,
            "decode_seconds_per_picture": seconds / decoded.max(1.0),
            "peak_memory_bytes": peak_memory(),
        }))?);
    }
    report::print(&format!(
        "views of {size} pixels by the recipe {recipe:?} from {from}, {threads} threads with a batch of {views} views each\n\
         median      {median:.4} s ({count} runs, quartiles {low:.4} to {high:.4}, all {min:.4} to {max:.4})\n\
         rate        {rate:.0} views/s, {per_thread:.0} a thread\n\
         decoding    {decode:.2} ms a picture, before the runs\n",
        size = config.views.size,
        recipe = config.views.recipe,
        count = times.len(),
        low = quantile(&sorted, 0.25),
        high = quantile(&sorted, 0.75),
        min = sorted[0],
        max = sorted[sorted.len() - 1],
        rate = per_thread * threads as f64,
        decode = 1e3 * seconds / decoded.max(1.0),
    ))
}

/// A batch on every thread: pictures from memory are cut, resized, changed and put together, as before a step of training.
fn batches(
    config: &TrainConfig,
    pictures: &Pictures,
    table: &Table,
    kinds: &[Kind],
    first: u64,
    count: u64,
) -> anyhow::Result<()> {
    (first..first + count).into_par_iter().try_for_each(|number| {
        std::hint::black_box(Batch::new(config, pictures, table, kinds, number)?);
        Ok(())
    })
}

/// Decodes the pictures of so many batches, as far as `data.cache_mib` keeps them; how many, and the seconds that took.
fn decode(config: &TrainConfig, pictures: &Pictures, batches: u64) -> anyhow::Result<[f64; 2]> {
    let streams = Streams::new(config.seed);
    let places: BTreeSet<usize> = (0..batches)
        .flat_map(|number| pictures.batch(&streams, number, config.data.batch))
        .map(|(_, place)| place)
        .collect();
    let began = Instant::now();
    for place in &places {
        pictures.decoded(*place)?;
    }
    Ok([places.len() as f64, began.elapsed().as_secs_f64()])
}
