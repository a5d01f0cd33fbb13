//! What frozen features are worth: nearest neighbours, a linear classifier, and both with few labels.

mod linear;
mod map;
mod page;

use burn::tensor::{Device, Tensor, TensorData};
use kirie_data::{DataError, Image, resize_bilinear};
use kirie_engine::random::Streams;
use kirie_metrics::KnnBank;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

pub use linear::{LinearOptions, LinearProbe, cosine};
pub use map::neighbour_map;
pub use page::{Plotted, page, plot};

use crate::data::Labelled;
use crate::error::ContrastiveError;
use crate::health::{rank_me, spread};
use crate::model::Encoder;
use crate::random::normal;
use crate::views::{Recipe, Transform, ViewsConfig, normalise};

/// Pictures that go through the network together.
const TOGETHER: usize = 64;

/// Features of pictures.
#[derive(Clone, Debug, PartialEq)]
pub struct Features {
    /// Row by row.
    pub rows: Vec<f32>,
    /// Numbers in a row.
    pub width: usize,
    /// Labels by row.
    pub labels: Vec<u32>,
}

impl Features {
    /// Only these rows.
    pub fn select(&self, rows: &[usize]) -> Self {
        let width = self.width;
        Self {
            rows: rows.iter().flat_map(|r| &self.rows[r * width..(r + 1) * width]).copied().collect(),
            width,
            labels: rows.iter().filter_map(|r| self.labels.get(*r)).copied().collect(),
        }
    }
}

/// What gives the features of pictures.
pub trait Extractor {
    /// `[views, 3, size, size]`, normalised, to `[views, features]`.
    fn extract(&self, x: Tensor<4>) -> Tensor<2>;
}

impl Extractor for Encoder {
    fn extract(&self, x: Tensor<4>) -> Tensor<2> {
        self.forward(x)
    }
}

/// Features that nothing was learned for: random directions of the pixels' space. What they score, colours alone are worth.
#[derive(Clone, Debug)]
pub struct RandomProjection {
    /// `[3 * size * size, features]`.
    directions: Tensor<2>,
}

impl RandomProjection {
    /// So many directions, normally distributed, of views of `size` pixels a side.
    pub fn new(size: u32, features: usize, seed: u64, device: &Device) -> Self {
        let shape = [3 * (size as usize).pow(2), features];
        let numbers = normal(shape[0] * shape[1], &mut Streams::new(seed).stream("projection", &[]));
        Self { directions: Tensor::from_data(TensorData::new(numbers, shape), device) }
    }
}

impl Extractor for RandomProjection {
    fn extract(&self, x: Tensor<4>) -> Tensor<2> {
        let [pixels, features] = self.directions.dims();
        // Features of a length of about 1, whatever the size.
        x.flatten::<2>(1, 3).matmul(self.directions.clone()) / ((pixels * features) as f64).sqrt()
    }
}

/// A picture as it is judged: its shorter side resized to `size`, and the middle of it, `[size, size]` pixels of red, green, blue.
///
/// # Errors
/// If there is no room for it.
pub fn centre_view(image: &Image, size: u32) -> Result<Vec<u8>, DataError> {
    let (width, height) = (image.width(), image.height());
    let scaled = |side: u32| {
        let long = u64::from(side) * u64::from(size) / u64::from(width.min(height));
        u32::try_from(long).unwrap_or(u32::MAX).max(size)
    };
    // An extremely long picture is cut first, so that it takes no room.
    let longest = width.min(height).saturating_mul(2);
    let cut;
    let image = if width.max(height) > longest {
        let (w, h) = (width.min(longest), height.min(longest));
        cut = image.crop((width - w) / 2, (height - h) / 2, w, h)?;
        &cut
    } else {
        image
    };
    let resized = resize_bilinear(image, scaled(image.width()), scaled(image.height()))?;
    let (left, top) = ((resized.width() - size) / 2, (resized.height() - size) / 2);
    Ok(resized.crop(left, top, size, size)?.into_raw())
}

/// Features of views, each `[size, size]` pixels of red, green, blue. The encoder must be without autodiff, so that its norms keep to
/// their running statistics, and leave them as they are. Gives the rows and their length.
pub fn features_of_views(
    encoder: &dyn Extractor,
    views: &[Vec<u8>],
    size: u32,
    device: &Device,
    progress: &mut dyn FnMut(usize),
) -> (Vec<f32>, usize) {
    let (mut rows, mut width, mut done) = (Vec::new(), 0, 0);
    for part in views.chunks(TOGETHER) {
        let mut pixels = Vec::with_capacity(part.len() * 3 * (size * size) as usize);
        for view in part {
            normalise(view, &mut pixels);
        }
        let shape = [part.len(), 3, size as usize, size as usize];
        let features = encoder.extract(Tensor::from_data(TensorData::new(pixels, shape), device));
        width = features.dims()[1];
        rows.extend(features.into_data().iter::<f32>());
        done += part.len();
        progress(done);
    }
    (rows, width)
}

/// Features of the pictures at some positions of a set.
///
/// # Errors
/// Pictures that cannot be read.
pub fn features(
    encoder: &dyn Extractor,
    set: &Labelled,
    positions: &[usize],
    size: u32,
    device: &Device,
    progress: &mut dyn FnMut(usize),
) -> Result<Features, ContrastiveError> {
    let (mut rows, mut width, mut done) = (Vec::new(), 0, 0);
    for part in positions.chunks(8 * TOGETHER) {
        let views: Result<Vec<Vec<u8>>, DataError> =
            part.par_iter().map(|i| centre_view(&set.read(*i)?, size)).collect();
        let mut tell = |n: usize| progress(done + n);
        let (more, found) = features_of_views(encoder, &views?, size, device, &mut tell);
        rows.extend(more);
        width = found;
        done += part.len();
    }
    Ok(Features { rows, width, labels: set.labels(positions) })
}

/// Features of random crops of pictures (of 0.08 to 1 of their area, mirrored half the time), one a picture: what the published linear
/// probe is trained on, anew in every epoch.
///
/// # Errors
/// Pictures that cannot be read.
pub fn features_of_crops(
    encoder: &dyn Extractor,
    set: &Labelled,
    positions: &[usize],
    size: u32,
    round: u64,
    seed: u64,
    device: &Device,
) -> Result<Vec<f32>, ContrastiveError> {
    let recipe = ViewsConfig { recipe: Recipe::Cifar, size, ..ViewsConfig::default() };
    let Some(kind) = recipe.kinds().first().copied() else { return Ok(Vec::new()) };
    let transform = Transform { jitter: 0.0, grayscale: 0.0, ..kind.transform };
    let streams = Streams::new(seed);
    let mut rows = Vec::new();
    for part in positions.chunks(8 * TOGETHER) {
        let views: Result<Vec<Vec<u8>>, ContrastiveError> = part
            .par_iter()
            .map(|i| {
                let image = set.read(*i)?;
                let mut rng = streams.stream("probe crops", &[round, *i as u64]);
                let drawn = transform.draw([image.width(), image.height()], &mut rng);
                transform.apply(&drawn, &image, [0, 0])
            })
            .collect();
        rows.extend(features_of_views(encoder, &views?, size, device, &mut |_| {}).0);
    }
    Ok(rows)
}

/// Share of queries whose class their `k` nearest neighbours name first.
///
/// # Errors
/// Features that are no numbers.
pub fn knn_accuracy(
    bank: &Features,
    queries: &Features,
    k: usize,
    temperature: f64,
) -> Result<f64, ContrastiveError> {
    let neighbours = KnnBank::new(&bank.rows, bank.width, &bank.labels)?;
    // Queries are independent of each other.
    let part = queries.width.max(1) * TOGETHER;
    let answers: Result<Vec<_>, _> =
        queries.rows.par_chunks(part).map(|rows| neighbours.classify(rows, k, temperature)).collect();
    let classes = answers?.into_iter().flatten().map(|votes| votes.classes.first().copied());
    let right = classes.zip(&queries.labels).filter(|(found, label)| *found == Some(**label)).count();
    Ok(right as f64 / queries.labels.len().max(1) as f64)
}

/// Positions of so large a share of each class, at least one, drawn at random, rising.
pub fn stratified(labels: &[u32], share: f64, seed: u64) -> Vec<usize> {
    let classes = labels.iter().max().map_or(0, |most| most + 1);
    let mut chosen = Vec::new();
    for class in 0..classes {
        let members: Vec<usize> = (0..labels.len()).filter(|i| labels[*i] == class).collect();
        if members.is_empty() {
            continue;
        }
        let count = ((share * members.len() as f64).round() as usize).clamp(1, members.len());
        let order = Streams::new(seed).order(u64::from(class), members.len());
        chosen.extend(order.into_iter().take(count).map(|i| members[i]));
    }
    chosen.sort_unstable();
    chosen
}

/// How features are judged.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct EvaluateOptions {
    /// Side that pictures get, pixels.
    pub size: u32,
    /// Neighbours asked, by the order of the shares, the last for all that follow; of fewer labelled pictures all are asked.
    pub k: Vec<usize>,
    /// Temperature of their votes.
    pub temperature: f64,
    /// Shares of the training labels that are used; 1 for all.
    pub shares: Vec<f64>,
    /// Times that a share below 1 is drawn.
    pub draws: u64,
    /// How the linear classifier is trained.
    pub linear: LinearOptions,
    /// Rounds of random crops that the classifier is trained on; 0 for the middle of each picture alone.
    pub crops: u64,
    /// Everything random follows from it.
    pub seed: u64,
}

/// What was found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Evaluation {
    /// How it was found.
    pub protocol: EvaluateOptions,
    /// Pictures of the bank, and those asked about.
    pub pictures: [usize; 2],
    /// Names of the classes.
    pub classes: Vec<String>,
    /// Share of the largest class among those asked about: what guessing gives.
    pub chance: f64,
    /// By the share of labels, in the order of the options.
    pub by_share: Vec<ByShare>,
    /// Length of the features.
    pub width: usize,
    /// Directions that they use (RankMe), on the pictures asked about.
    pub rank_me: f64,
    /// Their spread, times the root of their length (1 where they fill the sphere, 0 where all are alike).
    pub spread: f64,
}

/// Accuracy with some of the labels, from 0 to 1; mean and standard deviation over the draws.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ByShare {
    /// Share of the labels.
    pub share: f64,
    /// Labelled pictures that is.
    pub labels: usize,
    /// Neighbours asked: no more than there are labels.
    pub k: usize,
    /// By nearest neighbours.
    pub knn: [f64; 2],
    /// By the linear classifier; `None` if it diverged in one of the draws, since a mean over the others would flatter.
    pub linear: Option<[f64; 2]>,
    /// Why there is no figure of the linear classifier.
    pub diverged: Option<String>,
}

/// Judges features: `train` are the labelled pictures to learn from and `test` those asked about, `crops` further rounds of features
/// of the former.
///
/// A linear classifier that diverges costs its own figures, not those of the neighbours: see [`ByShare::linear`].
///
/// # Errors
/// Features that are no numbers, a `k` of 0.
pub fn evaluate(
    train: &Features,
    crops: &[Vec<f32>],
    test: &Features,
    classes: &[String],
    options: &EvaluateOptions,
) -> Result<Evaluation, ContrastiveError> {
    let mut by_share = Vec::new();
    for (n, &share) in options.shares.iter().enumerate() {
        let k = options.k.get(n).or(options.k.last()).copied().unwrap_or(0);
        let draws = if share >= 1.0 { 1 } else { options.draws.max(1) };
        let one = |draw: u64| -> Result<Drawn, ContrastiveError> {
            let rows = stratified(&train.labels, share, options.seed.wrapping_add(draw));
            let bank = train.select(&rows);
            let knn = knn_accuracy(&bank, test, k, options.temperature)?;
            let rounds = crops.iter().map(|round| {
                let all = Features { rows: round.clone(), width: train.width, labels: Vec::new() };
                all.select(&rows).rows
            });
            let sets: Vec<Vec<f32>> =
                if crops.is_empty() { vec![bank.rows.clone()] } else { rounds.collect() };
            let seed = options.seed.wrapping_add(draw);
            let (width, classes) = (train.width, classes.len());
            let linear = match LinearProbe::train(&sets, width, &bank.labels, classes, &options.linear, seed)
            {
                Ok(probe) => {
                    let found = probe.classify(&test.rows);
                    let right =
                        found.iter().zip(&test.labels).filter(|(found, label)| found == label).count();
                    Ok(right as f64 / test.labels.len().max(1) as f64)
                }
                Err(error @ ContrastiveError::Diverged { .. }) => Err(error.to_string()),
                Err(error) => return Err(error),
            };
            Ok(Drawn { labels: rows.len(), knn, linear })
        };
        let found: Vec<Drawn> = (0..draws).into_par_iter().map(one).collect::<Result<_, _>>()?;
        let knn: Vec<f64> = found.iter().map(|drawn| drawn.knn).collect();
        let labels = found.first().map_or(0, |drawn| drawn.labels);
        let linear: Result<Vec<f64>, String> = found.into_iter().map(|drawn| drawn.linear).collect();
        by_share.push(ByShare {
            share,
            labels,
            k: k.min(labels),
            knn: mean_and_deviation(&knn),
            linear: linear.as_ref().ok().map(|linear| mean_and_deviation(linear)),
            diverged: linear.err(),
        });
    }
    let largest =
        (0..classes.len() as u32).map(|class| test.labels.iter().filter(|l| **l == class).count()).max();
    Ok(Evaluation {
        protocol: options.clone(),
        pictures: [train.labels.len(), test.labels.len()],
        classes: classes.to_vec(),
        chance: largest.unwrap_or(0) as f64 / test.labels.len().max(1) as f64,
        by_share,
        width: test.width,
        rank_me: rank_me(&test.rows, test.width),
        spread: spread(&test.rows, test.width) * (test.width as f64).sqrt(),
    })
}

/// What one draw of labels gave.
struct Drawn {
    labels: usize,
    knn: f64,
    /// Or why the classifier has no accuracy.
    linear: Result<f64, String>,
}

/// Mean, and standard deviation of a sample, 0 for a single value.
fn mean_and_deviation(values: &[f64]) -> [f64; 2] {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n.max(1.0);
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    [mean, if values.len() > 1 { (squares / (n - 1.0)).sqrt() } else { 0.0 }]
}

#[cfg(test)]
mod tests;
