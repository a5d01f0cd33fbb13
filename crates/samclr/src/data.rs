//! Pictures to learn from, without labels; and labelled pictures to judge features by.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use kirie_data::datasets::{Dataset, Sample, open_with};
use kirie_data::{DataError, Image};
use kirie_engine::random::Streams;
use sha2::{Digest, Sha256};

use crate::config::TrainConfig;
use crate::error::ContrastiveError;

/// The pictures of a run; by default none.
#[derive(Debug, Default)]
pub struct Pictures {
    sets: Vec<Dataset>,
    /// Set and sample.
    places: Vec<(usize, usize)>,
    /// By place, its number among all pictures of the sets, which stays when some are left out.
    numbers: Vec<usize>,
    /// Pictures of the sets, those that are left out too.
    all: usize,
    /// Decoded pictures by place, as far as there is room.
    decoded: Mutex<Decoded>,
}

#[derive(Debug, Default)]
struct Decoded {
    pictures: HashMap<(usize, usize), Arc<Image>>,
    room: usize,
}

/// One picture.
#[derive(Clone, Copy, Debug)]
pub struct Picture<'a> {
    /// Its set.
    pub dataset: &'a Dataset,
    /// Its place in the set.
    pub sample: &'a Sample,
}

impl Picture<'_> {
    /// Its file, and its place in there where that holds many.
    pub fn name(&self) -> String {
        let file = self.sample.image.display().to_string();
        if file.contains(&self.sample.id) { file } else { format!("{file}, {}", self.sample.id) }
    }

    /// Reads it.
    ///
    /// # Errors
    /// As [`Dataset::picture`].
    pub fn read(&self) -> Result<Image, DataError> {
        self.dataset.picture(self.sample)
    }

    /// Width and height, pixels.
    ///
    /// # Errors
    /// As [`Dataset::picture_size`].
    pub fn size(&self) -> Result<[u32; 2], DataError> {
        self.dataset.picture_size(self.sample).map(|(width, height)| [width, height])
    }
}

impl Pictures {
    /// Opens the sets of a configuration.
    ///
    /// # Errors
    /// Sets that cannot be opened.
    pub fn open(config: &TrainConfig) -> Result<Self, ContrastiveError> {
        let mut sets = Vec::new();
        for set in &config.data.sets {
            sets.push(open_part(&config.set_path(&set.path), &set.split)?);
        }
        let places = sets.iter().enumerate().flat_map(|(s, set)| (0..set.samples.len()).map(move |n| (s, n)));
        let places: Vec<_> = places.collect();
        let all = places.len();
        let room = config.data.cache_mib.saturating_mul(1 << 20);
        Ok(Self {
            sets,
            places,
            numbers: (0..all).collect(),
            all,
            decoded: Mutex::new(Decoded { room, ..Decoded::default() }),
        })
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// The nth of them.
    ///
    /// # Panics
    /// If there are not so many.
    pub fn picture(&self, n: usize) -> Picture<'_> {
        let (set, sample) = self.places[n];
        Picture { dataset: &self.sets[set], sample: &self.sets[set].samples[sample] }
    }

    /// Leaves only these, by rising position.
    pub(crate) fn keep(&mut self, positions: &[usize]) {
        self.places = positions.iter().filter_map(|n| self.places.get(*n).copied()).collect();
        self.numbers = positions.iter().filter_map(|n| self.numbers.get(*n).copied()).collect();
    }

    /// The number of the nth picture among all of the sets, those that were left out too: what is drawn for a picture goes by it, and
    /// so is the same in runs that leave out different ones.
    ///
    /// # Panics
    /// If there are not so many.
    pub fn number(&self, n: usize) -> usize {
        self.numbers[n]
    }

    /// The nth picture decoded, from memory if it is there.
    ///
    /// # Errors
    /// As [`Dataset::picture`].
    pub fn decoded(&self, n: usize) -> Result<Arc<Image>, DataError> {
        let place = self.places[n];
        let lock = || self.decoded.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(image) = lock().pictures.get(&place) {
            return Ok(image.clone());
        }
        let image = Arc::new(self.picture(n).read()?);
        let mut decoded = lock();
        let bytes = image.as_raw().len();
        if bytes <= decoded.room && !decoded.pictures.contains_key(&place) {
            decoded.room -= bytes;
            decoded.pictures.insert(place, image.clone());
        }
        Ok(image)
    }

    /// The positions of a batch of `size`, `batch` counted from the run's first. Every picture comes once in an epoch, in an order
    /// drawn anew; what is left over at an epoch's end is left out, so that no picture is twice in a batch. The order is that of all
    /// pictures of the sets, in which those that were left out are passed over.
    pub fn batch(&self, streams: &Streams, batch: u64, size: usize) -> Vec<(u64, usize)> {
        let per_epoch = (self.len() / size.max(1)).max(1) as u64;
        let (epoch, at) = (batch / per_epoch, (batch % per_epoch) as usize);
        let order = streams.order(epoch, self.all).into_iter();
        let left = order.filter_map(|number| self.numbers.binary_search(&number).ok());
        left.skip(at * size).take(size).map(|n| (epoch, n)).collect()
    }
}

/// Opens a part of a set; a set without parts is taken whole for `train`.
fn open_part(path: &Path, split: &str) -> Result<Dataset, DataError> {
    let with = |split: Option<&str>| {
        let options =
            kirie_data::datasets::OpenOptions { split: split.map(str::to_owned), ..Default::default() };
        open_with(path, &options)
    };
    match with(Some(split).filter(|split| !split.is_empty())) {
        Err(error @ DataError::UnknownSplit { .. }) if split == "train" => {
            let whole = with(None)?;
            if whole.samples.iter().all(|sample| sample.split.is_none()) { Ok(whole) } else { Err(error) }
        }
        opened => opened,
    }
}

/// Pictures that show one class each.
#[derive(Debug)]
pub struct Labelled {
    /// The set.
    pub dataset: Dataset,
    /// Names of the classes, by label.
    pub classes: Vec<String>,
    /// Positions in the set's samples, and labels.
    pub samples: Vec<(usize, u32)>,
    /// Pictures of the part that show no class, or several, and are not used.
    pub left_out: usize,
}

impl Labelled {
    /// Opens a part of a set: class folders, CIFAR-10, STL-10, or any set of whose pictures it is known which classes they show.
    /// `limit` pictures at most are taken, evenly spread over the set; 0 for all.
    ///
    /// # Errors
    /// Sets that cannot be opened, and such of which no picture shows exactly one class.
    pub fn open(path: &Path, split: Option<&str>, limit: usize) -> Result<Self, ContrastiveError> {
        let dataset = open_part(path, split.unwrap_or(""))?;
        let (mut samples, mut left_out) = (Vec::new(), 0);
        for (n, sample) in dataset.samples.iter().enumerate() {
            let tags = if sample.is_labelled() { dataset.labels(sample)?.tags() } else { Vec::new() };
            let label = match tags.as_slice() {
                [tag] => dataset.class_index(*tag),
                _ => None,
            };
            match label {
                Some(label) => samples.push((n, label as u32)),
                None => left_out += 1,
            }
        }
        if limit > 0 && samples.len() > limit {
            let all = samples.len();
            samples = (0..limit).filter_map(|i| samples.get(i * all / limit).copied()).collect();
        }
        if samples.is_empty() {
            return Err(ContrastiveError::FewPictures {
                what: format!("{}: classification", path.display()),
                found: 0,
                expected: 1,
                advice: format!("{left_out} pictures show no class, or several, and a picture must show one"),
            });
        }
        let classes = dataset.classes.iter().map(|class| class.name.clone()).collect();
        Ok(Self { dataset, classes, samples, left_out })
    }

    /// Two parts of the pictures, by a hash of their names: those to ask about, one in `one_in`, and the others.
    pub fn parts(&self, one_in: u64) -> [Vec<usize>; 2] {
        let (asked, others) =
            (0..self.samples.len()).partition(|i| self.hash(*i).is_multiple_of(one_in.max(1)));
        [asked, others]
    }

    fn hash(&self, i: usize) -> u64 {
        let id = self.samples.get(i).and_then(|(n, _)| self.dataset.samples.get(*n)).map_or("", |s| &s.id);
        let digest = Sha256::digest(format!("{}\n{id}", self.dataset.name));
        digest.iter().take(8).fold(0, |hash, byte| hash << 8 | u64::from(*byte))
    }

    /// Labels by position.
    pub fn labels(&self, positions: &[usize]) -> Vec<u32> {
        positions.iter().filter_map(|i| self.samples.get(*i)).map(|(_, label)| *label).collect()
    }

    /// Reads the picture at a position.
    ///
    /// # Errors
    /// As [`Dataset::picture`].
    pub fn read(&self, position: usize) -> Result<Image, DataError> {
        self.dataset.picture(&self.dataset.samples[self.samples[position].0])
    }

    /// The id of the picture at a position.
    pub fn id(&self, position: usize) -> &str {
        &self.dataset.samples[self.samples[position].0].id
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{config, draw_classes, draw_set};

    #[test]
    fn no_picture_is_twice_in_a_batch() {
        let set = tempfile::tempdir().unwrap();
        draw_set(set.path(), 11);
        let pictures = Pictures::open(&config(set.path(), &[])).unwrap();
        let streams = Streams::new(4);
        let mut first = Vec::new();
        for batch in 0..20 {
            let found = pictures.batch(&streams, batch, 4);
            let mut positions: Vec<usize> = found.iter().map(|(_, n)| *n).collect();
            // Two whole batches an epoch.
            assert!(found.len() == 4 && found.iter().all(|(epoch, _)| *epoch == batch / 2), "{found:?}");
            if batch < 2 {
                first.extend(positions.clone());
            }
            positions.sort_unstable();
            positions.dedup();
            assert_eq!(positions.len(), 4);
        }
        first.sort_unstable();
        first.dedup();
        assert_eq!(first.len(), 8, "nor in an epoch");
    }

    /// Runs that leave out different pictures draw the same for those that both have, in the same order.
    #[test]
    fn leaving_out_pictures_moves_no_other() {
        let set = tempfile::tempdir().unwrap();
        draw_set(set.path(), 9);
        let config = config(set.path(), &[]);
        let (all, mut some) = (Pictures::open(&config).unwrap(), Pictures::open(&config).unwrap());
        some.keep(&[0, 2, 3, 5, 8]);
        some.keep(&[0, 1, 3, 4]);
        assert_eq!((0..4).map(|n| some.number(n)).collect::<Vec<_>>(), [0, 2, 5, 8]);
        assert_eq!(some.picture(2).name(), all.picture(5).name());
        let streams = Streams::new(4);
        for epoch in 0..5 {
            let numbers = |pictures: &Pictures, size: usize| -> Vec<usize> {
                let batch = pictures.batch(&streams, epoch, size);
                assert!(batch.iter().all(|(found, _)| *found == epoch));
                batch.into_iter().map(|(_, n)| pictures.number(n)).collect()
            };
            let mut whole = numbers(&all, 9);
            whole.retain(|number| [0, 2, 5, 8].contains(number));
            assert_eq!(whole, numbers(&some, 4));
        }
    }

    #[test]
    fn decoded_pictures_are_kept_as_far_as_there_is_room() {
        let set = tempfile::tempdir().unwrap();
        draw_set(set.path(), 3);
        let kept = Pictures::open(&config(set.path(), &["data.cache_mib=1"])).unwrap();
        assert!(Arc::ptr_eq(&kept.decoded(1).unwrap(), &kept.decoded(1).unwrap()));
        let bare = Pictures::open(&config(set.path(), &["data.cache_mib=0"])).unwrap();
        let (a, b) = (bare.decoded(1).unwrap(), bare.decoded(1).unwrap());
        assert!(!Arc::ptr_eq(&a, &b) && a.as_raw() == b.as_raw());
    }

    #[test]
    fn labelled_pictures_have_one_class_each() {
        let set = tempfile::tempdir().unwrap();
        draw_classes(set.path(), 10);
        let all = Labelled::open(set.path(), Some("train"), 0).unwrap();
        assert_eq!(
            (all.classes.as_slice(), all.samples.len()),
            (&["blue".to_owned(), "red".to_owned()][..], 20)
        );
        let [asked, others] = all.parts(4);
        assert!(!asked.is_empty() && asked.len() + others.len() == 20);
        assert!(all.labels(&asked).iter().all(|label| *label < 2));
        let some = Labelled::open(set.path(), Some("train"), 4).unwrap();
        let labels: Vec<u32> = some.samples.iter().map(|(_, label)| *label).collect();
        assert_eq!(labels, [0, 0, 1, 1], "spread over the set");
        let bare = tempfile::tempdir().unwrap();
        draw_set(bare.path(), 2);
        let error = Labelled::open(bare.path(), Some("train"), 0).unwrap_err().to_string();
        assert!(error.contains("2 pictures show no class"), "{error}");
    }
}
