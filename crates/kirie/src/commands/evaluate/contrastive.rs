//! `kirie evaluate contrastive`.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::Context;
use burn::tensor::Device;
use kirie_data::{Image, create_parent};
use kirie_run::sweep::csv_line;
use kirie_run::{Progress, ProgressMode, Stop, config};
use kirie_samclr::config::{EncoderConfig, ResnetEncoder, SamEncoder, Stem, TrainConfig};
use kirie_samclr::data::{Labelled, Pictures};
use kirie_samclr::evaluate::{
    EvaluateOptions, Evaluation, Extractor, Features, LinearOptions, Plotted, RandomProjection, centre_view,
    evaluate, features, features_of_crops, neighbour_map, page, plot,
};
use kirie_samclr::model::{EncoderFile, EncoderSpec};
use kirie_samclr::regions::{Source, Table, of_pictures};
use kirie_samclr::train::{ENCODER_KEY, untrained};
use serde_json::{Value, json};

use crate::args::EvaluateContrastiveArgs;
use crate::outputs::{check_writable, save};
use crate::report;
use crate::weights;

/// Side of pictures where neither the command nor the file says.
const SIZE: u32 = 64;
/// Numbers of a random projection's features: as many as ResNet-18's.
const DIRECTIONS: usize = 512;
/// Pictures kept for the map of the report, at most.
const THUMBNAILS: usize = 250;
/// Pictures on the map of `--plot`, at most: its time goes by their square.
const ON_MAP: usize = 2000;
/// Side of its pictures, pixels.
const PLOTTED: u32 = 72;

pub(super) fn run(args: &EvaluateContrastiveArgs) -> anyhow::Result<()> {
    args.machine.set_threads()?;
    check(args)?;
    if let Some(folder) = &args.output {
        check_writable(folder, true)?;
    }
    if let Some(file) = &args.plot {
        if file.extension().is_some_and(|ending| ending == "csv") {
            return Err(report::usage("--plot names the page; its .csv is written beside it"));
        }
        check_writable(file, false)?;
    }
    let device = args.machine.device.open()?;
    let limit = args.limit.map_or(0, |limit| limit as usize);
    let [train_set, test_set] =
        [&args.train, &args.test].map(|part| Labelled::open(&args.data, Some(part), limit));
    let (train_set, test_set) = (train_set?, test_set?);
    anyhow::ensure!(
        train_set.classes == test_set.classes,
        "the parts {} and {} have different classes: {} and {}",
        args.train,
        args.test,
        train_set.classes.join(", "),
        test_set.classes.join(", ")
    );
    let (encoder, name, size) = load(args, &device)?;
    let encoder = encoder.as_ref();
    let options = EvaluateOptions {
        size,
        k: args.k.iter().map(|k| *k as usize).collect(),
        temperature: args.temperature,
        shares: args.shares.iter().map(|percent| percent / 100.0).collect(),
        draws: u64::from(args.draws),
        linear: LinearOptions {
            epochs: args.epochs as usize,
            rate: args.rate,
            standardise: args.standardise,
            ..LinearOptions::default()
        },
        crops: u64::from(args.crops),
        seed: args.seed,
    };
    let (learned, asked) = (all(&train_set), all(&test_set));
    let rounds = (1 + args.crops as usize) * learned.len() + asked.len();
    let mut progress = Progress::new("picture", rounds as u64, 0, ProgressMode::Auto);
    let train = features(encoder, &train_set, &learned, size, &device, &mut |n| progress.set(n as u64, ""))?;
    let mut crops = Vec::new();
    for round in 0..options.crops {
        crops.push(features_of_crops(encoder, &train_set, &learned, size, round, args.seed, &device)?);
        progress.set((2 + round) * learned.len() as u64, "");
    }
    let before = rounds - asked.len();
    let test = features(encoder, &test_set, &asked, size, &device, &mut |n| {
        progress.set((before + n) as u64, "");
    })?;
    progress.finish();
    let found = evaluate(&train, &crops, &test, &train_set.classes, &options)?;
    let metrics = metrics(args, &name, &found, [train_set.left_out, test_set.left_out])?;
    if let Some(folder) = &args.output {
        let every = asked.len().div_ceil(THUMBNAILS).max(1);
        let thumbnails: Vec<Option<Image>> = asked
            .iter()
            .map(|i| (i % every == 0).then(|| test_set.read(*i)).transpose())
            .collect::<Result<_, _>>()?;
        let about = [
            ("Encoder", name.clone()),
            (
                "Data",
                format!(
                    "{}: {}; {} against {}",
                    test_set.dataset.name, test_set.dataset.found, args.test, args.train
                ),
            ),
        ]
        .map(|(key, value)| (key.to_owned(), value));
        let file = folder.join("report.html");
        create_parent(&file)?;
        page("Features", &found, &test, &thumbnails, &about).write(file)?;
        save(&folder.join("metrics.json"), (serde_json::to_string_pretty(&metrics)? + "\n").as_bytes())?;
    }
    if let Some(file) = &args.plot {
        draw(args, file, &name, &test_set, &test)?;
    }
    if let Some(reason) = found.by_share.iter().find_map(|share| share.diverged.as_ref()) {
        report::note(&format!("warning: {reason}"));
    }
    if args.json {
        return report::print(&serde_json::to_string_pretty(&metrics)?);
    }
    report::print(&text(args, &name, &found))
}

/// The map of the pictures asked about, and their places beside it.
fn draw(
    args: &EvaluateContrastiveArgs,
    file: &Path,
    name: &str,
    set: &Labelled,
    features: &Features,
) -> anyhow::Result<()> {
    let all = features.labels.len();
    let count = all.min(ON_MAP);
    let chosen: Vec<usize> = (0..count).map(|n| n * all / count).collect();
    let part = features.select(&chosen);
    let places = neighbour_map(&part.rows, part.width, args.perplexity, args.seed);
    let mut pictures = Vec::new();
    for (i, place) in chosen.iter().zip(places) {
        let picture = centre_view(&set.read(*i)?, PLOTTED)?;
        let class = features.labels.get(*i).and_then(|label| set.classes.get(*label as usize));
        pictures.push(Plotted {
            name: set.id(*i).to_owned(),
            class: class.cloned().unwrap_or_default(),
            picture: Image::from_raw(PLOTTED, PLOTTED, picture)?,
            place,
        });
    }
    let about = [
        ("Encoder", name.to_owned()),
        ("Data", format!("{}, {}: {count} of {all} pictures", set.dataset.name, args.test)),
        ("Perplexity", args.perplexity.to_string()),
        ("Seed", args.seed.to_string()),
    ]
    .map(|(key, value)| (key.to_owned(), value));
    create_parent(file)?;
    plot("Map of features", &pictures, &about).write(file)?;
    let mut csv = csv_line(&["picture", "class", "x", "y"]);
    for own in &pictures {
        csv += &csv_line(&[&own.name, &own.class, &own.place[0].to_string(), &own.place[1].to_string()]);
    }
    save(&file.with_extension("csv"), csv.as_bytes())
}

fn all(set: &Labelled) -> Vec<usize> {
    (0..set.samples.len()).collect()
}

/// What clap cannot say of numbers.
fn check(args: &EvaluateContrastiveArgs) -> anyhow::Result<()> {
    let positive = |name: &str, value: f64| {
        if value.is_finite() && value > 0.0 {
            Ok(())
        } else {
            Err(report::usage(format!("{name} {value}: expected a number above 0")))
        }
    };
    positive("--temperature", args.temperature)?;
    positive("--rate", args.rate)?;
    positive("--perplexity", args.perplexity)?;
    for share in &args.shares {
        positive("--shares", *share)?;
        if *share > 100.0 {
            return Err(report::usage(format!("--shares {share}: expected percent, 100 at most")));
        }
    }
    if args.k.len() > 1 && args.k.len() != args.shares.len() {
        let (numbers, shares) = (args.k.len(), args.shares.len());
        return Err(report::usage(format!(
            "--k has {numbers} numbers, expected 1, or one for each of {shares} --shares"
        )));
    }
    if args.train == args.test {
        return Err(report::usage("--train and --test name the same part"));
    }
    Ok(())
}

/// What gives the features, what it is called, and the side that pictures get: where nothing is said, that of training.
fn load(
    args: &EvaluateContrastiveArgs,
    device: &Device,
) -> anyhow::Result<(Box<dyn Extractor>, String, u32)> {
    if let Some(seed) = args.projection {
        let size = args.size.unwrap_or(SIZE);
        let projection = RandomProjection::new(size, DIRECTIONS, seed, device);
        return Ok((
            Box::new(projection),
            format!("{DIRECTIONS} random directions of the pixels, seed {seed}"),
            size,
        ));
    }
    if let Some(file) = &args.config {
        let mut config = config::load::<TrainConfig>(Some(file), &[])?.value;
        config.resolve(file.parent().unwrap_or(Path::new(".")), None);
        let (pictures, table) = if args.calibrate > 0 {
            // Whichever regions it would be trained by, it has not seen them yet.
            config.regions.source = Source::Whole;
            let mut pictures = Pictures::open(&config)?;
            let (stop, mode) = (Stop::never(), ProgressMode::Auto);
            let table = of_pictures(&mut pictures, &config.regions, None, config.seed, &stop, mode)?;
            (pictures, table)
        } else {
            (Pictures::default(), Table::default())
        };
        let encoder = untrained(&config, &pictures, &table, args.calibrate, device)?;
        let mut name = format!("{} before training", file.display());
        if args.calibrate > 0 {
            let _ = write!(name, ", norms by {} batches", args.calibrate);
        }
        return Ok((Box::new(encoder), name, args.size.unwrap_or(config.views.size)));
    }
    let path = args.encoder.as_deref().context("--encoder FILE or --config FILE.toml says what is judged")?;
    let named = args.network.as_deref().map(network).transpose()?;
    // Built-in weights belong to a named model.
    let first = named.clone().unwrap_or_else(|| resnet(18, Stem::Imagenet));
    let file = EncoderFile::open(path, &first)?;
    let described = file.metadata(ENCODER_KEY).map(serde_json::from_str::<EncoderConfig>).transpose();
    let described = described.with_context(|| format!("{}: what it says of its encoder", path.display()))?;
    let config = named.or(described).with_context(|| {
        format!("{} does not say which network it is for; --network NAME does", path.display())
    })?;
    let trained_at = file.metadata("size").and_then(|size| size.parse().ok());
    let encoder = file.load_into(EncoderSpec::new(&config)?.init(device), device)?;
    Ok((Box::new(encoder), path.display().to_string(), args.size.or(trained_at).unwrap_or(SIZE)))
}

fn resnet(depth: u32, stem: Stem) -> EncoderConfig {
    EncoderConfig::Resnet(ResnetEncoder { depth, width: 64, stem, init: None })
}

fn network(name: &str) -> anyhow::Result<EncoderConfig> {
    Ok(match name {
        "resnet18" => resnet(18, Stem::Imagenet),
        "resnet50" => resnet(50, Stem::Imagenet),
        "resnet18-cifar" => resnet(18, Stem::Cifar),
        "resnet50-cifar" => resnet(50, Stem::Cifar),
        other => {
            EncoderConfig::Sam(SamEncoder { model: weights::variant(other)?.name.to_owned(), init: None })
        }
    })
}

fn metrics(
    args: &EvaluateContrastiveArgs,
    name: &str,
    found: &Evaluation,
    left_out: [usize; 2],
) -> anyhow::Result<Value> {
    let mut value = json!({
        "encoder": name,
        "data": args.data,
        "train": args.train,
        "test": args.test,
        "limit": args.limit,
        "pictures_without_one_class": left_out,
        "device": args.machine.device.name(),
    });
    if let (Value::Object(all), Value::Object(figures)) = (&mut value, serde_json::to_value(found)?) {
        all.extend(figures);
    }
    Ok(value)
}

fn text(args: &EvaluateContrastiveArgs, name: &str, found: &Evaluation) -> String {
    let percent = |share: f64| format!("{:.2}", 100.0 * share);
    let spread = |[mean, deviation]: [f64; 2]| {
        if deviation > 0.0 { format!("{} ± {}", percent(mean), percent(deviation)) } else { percent(mean) }
    };
    let rows: Vec<Vec<String>> = found
        .by_share
        .iter()
        .map(|s| {
            let linear = s.linear.map_or_else(|| "-".to_owned(), spread);
            vec![percent(s.share), s.labels.to_string(), s.k.to_string(), spread(s.knn), linear]
        })
        .collect();
    let table = report::columns(&["labels %", "labels", "k", "neighbours %", "linear %"], &rows);
    format!(
        "{name} on {}: {} pictures of {}, {} of {}\n{table}temperature {}, {} pixels; guessing gives {} %; features use {:.1} of \
         {} directions\n",
        args.data.display(),
        found.pictures[0],
        args.train,
        found.pictures[1],
        args.test,
        found.protocol.temperature,
        found.protocol.size,
        percent(found.chance),
        found.rank_me,
        found.width,
    )
}
