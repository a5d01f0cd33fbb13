//! The pictures of all sets, in the order a run sees them.

use std::path::Path;

use kirie_data::DataError;
use kirie_data::datasets::{self, Dataset, Sample};
use kirie_engine::random::{Streams, unit};
use sha2::{Digest, Sha256};

use super::TrainError;
use super::config::DataConfig;
use super::sample::Labelled;
use crate::evaluate::{Truth, TruthOptions};

/// The pictures of all sets.
#[derive(Debug)]
pub struct Pictures {
    sets: Vec<Dataset>,
    /// Set and sample of every picture to learn from.
    train: Vec<(usize, usize)>,
    /// How often each of them comes in an epoch, summed up.
    cumulative: Vec<f64>,
    /// Set and samples to validate with.
    validate: Vec<(usize, Vec<usize>)>,
}

impl Pictures {
    /// Opens the sets. With `labelled`, pictures without labels are left out.
    pub fn open(config: &DataConfig, labelled: bool) -> Result<Self, TrainError> {
        let root = config.root.clone().unwrap_or_default();
        let (mut sets, mut train, mut cumulative) = (Vec::new(), Vec::new(), Vec::new());
        let (mut held_out, mut sum) = (Vec::new(), 0.0);
        for set in &config.sets {
            let dataset = open(&root.join(&set.path), &set.split)?;
            for (index, sample) in dataset.samples.iter().enumerate() {
                if labelled && !sample.is_labelled() {
                    continue;
                }
                let hash = name_hash(&dataset.name, &sample.id);
                if config.validate_one_in > 0 && hash.is_multiple_of(config.validate_one_in) {
                    held_out.push((hash / config.validate_one_in, sets.len(), index));
                } else {
                    train.push((sets.len(), index));
                    sum += set.weight;
                    cumulative.push(sum);
                }
            }
            sets.push(dataset);
        }
        if train.is_empty() {
            let names: Vec<_> = config.sets.iter().map(|s| s.path.display().to_string()).collect();
            return Err(TrainError::NoPictures { sets: names.join(", ") });
        }
        // A share of every set, however they were listed.
        held_out.sort_unstable();
        held_out.truncate(config.validate_pictures);
        let mut validate: Vec<(usize, Vec<usize>)> = (0..sets.len()).map(|set| (set, Vec::new())).collect();
        for (_, set, index) in held_out {
            validate[set].1.push(index);
        }
        validate.retain(|(_, samples)| !samples.is_empty());
        Ok(Self { sets, train, cumulative, validate })
    }

    /// Pictures of an epoch: as many as there are, weighted.
    pub fn epoch_length(&self) -> usize {
        (self.cumulative.last().copied().unwrap_or(0.0).round() as usize).max(1)
    }

    /// Pictures to learn from.
    pub fn count(&self) -> usize {
        self.train.len()
    }

    /// The nth picture of a run, from 0.
    ///
    /// In each epoch a picture of weight 2.3 comes two or three times; the order is drawn anew.
    pub fn nth(&self, streams: &Streams, n: u64) -> (&Dataset, &Sample) {
        let length = self.epoch_length();
        let (epoch, position) = (n / length as u64, (n % length as u64) as usize);
        let slot = streams.order(epoch, length)[position];
        // Evenly spaced places on the line of summed weights, from a drawn start.
        let start = unit(&mut streams.stream("epoch-start", &[epoch]));
        let total = self.cumulative.last().copied().unwrap_or(1.0);
        let place = (slot as f64 + start) / length as f64 * total;
        let index = self.cumulative.partition_point(|sum| *sum <= place).min(self.train.len() - 1);
        let (set, sample) = self.train[index];
        (&self.sets[set], &self.sets[set].samples[sample])
    }

    /// Sets with the pictures of each to validate with.
    pub fn validation(&self) -> impl Iterator<Item = (&Dataset, Vec<&Sample>)> {
        self.validate.iter().map(|(set, samples)| {
            let dataset = &self.sets[*set];
            (dataset, samples.iter().map(|i| &dataset.samples[*i]).collect())
        })
    }
}

/// A part of a set; `train` of a set that has no parts is all of it.
fn open(path: &Path, split: &str) -> Result<Dataset, DataError> {
    match datasets::open(path, Some(split)) {
        Err(DataError::UnknownSplit { name, split, found }) if split == "train" => {
            let all = datasets::open(path, None)?;
            if all.samples.iter().all(|sample| sample.split.is_none()) {
                return Ok(all);
            }
            Err(DataError::UnknownSplit { name, split, found })
        }
        opened => opened,
    }
}

/// Reads a picture and its objects: those of every annotator, no crowds.
pub fn read(dataset: &Dataset, sample: &Sample) -> Result<Labelled, TrainError> {
    let with_name = |source: Box<dyn std::error::Error + Send + Sync>| TrainError::Sample {
        name: sample.image.display().to_string(),
        source,
    };
    let (image, labels) = dataset.load(sample).map_err(|e| with_name(e.into()))?;
    let options = TruthOptions { crowd: false, all_annotators: true, keep_empty: false };
    let size = (image.width(), image.height());
    let truth = Truth::new(dataset, labels, size, options).map_err(|e| with_name(e.into()))?;
    let objects = truth.objects.into_iter().map(|object| object.mask).collect();
    Ok(Labelled { image, objects, ignore: truth.ignore })
}

fn name_hash(set: &str, sample: &str) -> u64 {
    let digest = Sha256::digest(format!("{set}/{sample}"));
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&digest[..8]);
    u64::from_le_bytes(bytes)
}
