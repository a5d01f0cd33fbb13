//! Boxes that may hold an object: WeakSAM's way, and what it has to be held against.
//!
//! ```text
//! class maps -> peaks (coarse, fine) ------------------\
//! attention  -> peaks -> clusters ----------------------> points -> SAM -> masks -> boxes -> proposals.json
//! a dense grid ----------------------------------------/
//! ```
//!
//! [`ProposalConfig::sources`] says which of these are asked: all but selective search by default; `["grid"]` and `["search"]` are
//! the baselines.

pub mod cluster;
mod once;
mod page;
pub mod peaks;
pub mod query;
pub mod recall;
pub mod search;
pub mod select;

use std::path::Path;
use std::time::Instant;

use burn::tensor::Device;
use kirie_data::{Image, Limits, create_parent, read_image};
use kirie_engine::random::Streams;
use kirie_run::{Log, Progress, ProgressMode, Stop};
use kirie_sam::{Engine, Predictor};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::WeakError;
use crate::classifier::{ClassMaps, Classifier, MapOptions, ModelConfig, class_maps};
use crate::files::{ImageProposals, Proposals, Source};
use crate::labels::{Tagged, Untagged};
use once::EncodesOnce;
use peaks::{PeakOptions, PeakRule, peaks};
use query::{Cues, GridOptions, Masks, ask_cues, ask_grid};
use select::{Proposal, tidy};

pub use page::{Example, page, source_name};

/// How proposals are made: the table `proposals` of a configuration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ProposalConfig {
    /// What is asked.
    pub sources: Vec<Source>,
    /// How class maps are made.
    pub maps: MapOptions,
    /// Peaks of the coarse maps. Kernels are in pixels of the maps, which are the picture's unless that is larger than
    /// `maps.longest`.
    pub coarse: PeakOptions,
    /// Peaks of the fine maps.
    pub fine: PeakOptions,
    /// Peaks of the attention.
    pub cross: PeakOptions,
    /// The paper's rule for peaks or its code's.
    pub peak_rule: PeakRule,
    /// The dense grid.
    pub grid: GridOptions,
    /// Which of SAM's masks of a point are taken.
    pub masks: Masks,
    /// IoU above which a later box of the attention's points is a duplicate.
    pub cross_nms: f64,
    /// Boxes with a shorter side are dropped, pixels.
    pub min_side: f32,
    /// Proposals a picture at most, the best-scored; 0 for all.
    pub limit: usize,
    /// Proposals a picture of selective search, at most.
    pub search_limit: usize,
}

impl Default for ProposalConfig {
    /// The published values, but for `min_side` (published: 20 pixels on VOC, 2 on COCO).
    fn default() -> Self {
        let maps = PeakOptions { kernel: 17, threshold: 0.9 };
        Self {
            sources: vec![Source::Grid, Source::Coarse, Source::Fine, Source::Cross],
            maps: MapOptions::default(),
            coarse: maps,
            fine: maps,
            cross: PeakOptions { kernel: 129, threshold: 0.9 },
            peak_rule: PeakRule::default(),
            grid: GridOptions::default(),
            masks: Masks::default(),
            cross_nms: 0.9,
            min_side: 8.0,
            limit: 0,
            search_limit: 2000,
        }
    }
}

impl ProposalConfig {
    /// Checks the numbers.
    ///
    /// # Errors
    /// [`WeakError::Setting`] for one out of its range.
    pub fn check(&self) -> Result<(), WeakError> {
        self.maps.check()?;
        if self.sources.is_empty() {
            return Err(WeakError::setting("proposals.sources", "empty", "at least one"));
        }
        for (name, peak) in [("coarse", &self.coarse), ("fine", &self.fine), ("cross", &self.cross)] {
            if !(1..=4095).contains(&peak.kernel) || peak.kernel.is_multiple_of(2) {
                let name = format!("proposals.{name}.kernel");
                return Err(WeakError::setting(name, peak.kernel, "an odd number from 1 to 4095"));
            }
            if !(0.0..=1.0).contains(&peak.threshold) {
                let name = format!("proposals.{name}.threshold");
                return Err(WeakError::setting(name, peak.threshold, "0 to 1"));
            }
        }
        if !(0.0..=1.0).contains(&self.cross_nms) {
            return Err(WeakError::setting("proposals.cross_nms", self.cross_nms, "0 to 1"));
        }
        if !(1.0..=1000.0).contains(&self.min_side) {
            return Err(WeakError::setting("proposals.min_side", self.min_side, "1 to 1000"));
        }
        if self.wants_grid() && !(1..=256).contains(&self.grid.points) {
            return Err(WeakError::setting("proposals.grid.points", self.grid.points, "1 to 256"));
        }
        if self.search_limit == 0 {
            return Err(WeakError::setting("proposals.search_limit", 0, "1 or more"));
        }
        Ok(())
    }

    /// Whether class maps are needed.
    pub fn wants_maps(&self) -> bool {
        self.sources.iter().any(|source| matches!(source, Source::Coarse | Source::Fine | Source::Cross))
    }

    /// Whether SAM is needed.
    pub fn wants_sam(&self) -> bool {
        self.wants_maps() || self.wants_grid()
    }

    fn wants_grid(&self) -> bool {
        self.sources.contains(&Source::Grid)
    }
}

/// The pictures that proposals are made for.
#[derive(Clone, Copy, Debug)]
pub enum Part<'a> {
    /// Pictures whose classes are known.
    Tagged(&'a Tagged),
    /// Pictures of which nothing is known; the classifier says what they show.
    Untagged(&'a Untagged),
}

impl Part<'_> {
    fn len(&self) -> usize {
        match self {
            Self::Tagged(set) => set.pictures.len(),
            Self::Untagged(set) => set.files.len(),
        }
    }

    /// Folder, file and, where they are known, classes.
    fn at(&self, index: usize) -> (&Path, &str, Option<&[usize]>) {
        match self {
            Self::Tagged(set) => {
                let picture = &set.pictures[index];
                (&set.root, &picture.file, Some(&picture.tags))
            }
            Self::Untagged(set) => (&set.root, &set.files[index], None),
        }
    }
}

/// What proposals are made with.
#[derive(Clone, Copy)]
pub struct Tools<'a> {
    /// The classes' names.
    pub classes: &'a [String],
    /// The classifier and its sizes; needed for class maps.
    pub classifier: Option<(&'a Classifier, &'a ModelConfig)>,
    /// SAM; needed for all but selective search.
    pub engine: Option<&'a dyn Engine>,
    /// Where the classifier runs.
    pub device: &'a Device,
    /// Everything random follows from it.
    pub streams: Streams,
}

/// What was found in a picture.
pub(crate) struct Found {
    image: Image,
    maps: Option<ClassMaps>,
    cues: Cues,
    proposals: Vec<Proposal>,
}

/// Makes the proposals of all pictures and writes them to `path`; goes on where an earlier call was cut off. Gives them and, in
/// seconds, the mean time a picture of those this call has made.
///
/// What is done stands in a file beside `path`, ending in `.parts.jsonl`, until all is done.
///
/// # Errors
/// Settings out of their range; pictures that cannot be read; [`WeakError::Stopped`].
pub fn propose(
    pictures: Part<'_>,
    tools: &Tools<'_>,
    config: &ProposalConfig,
    path: &Path,
    stop: &Stop,
    mode: ProgressMode,
) -> Result<(Proposals, Option<f64>), WeakError> {
    config.check()?;
    create_parent(path)?;
    let parts = path.with_extension("parts.jsonl");
    let mut images = done_before(&parts, pictures)?;
    let before = images.len();
    let mut log = Log::open(&parts, before.checked_sub(1).map(|last| last as u64))?;
    let mut progress = Progress::new("picture", pictures.len() as u64, before as u64, mode);
    let began = Instant::now();
    for index in before..pictures.len() {
        if stop.requested() {
            log.sync()?;
            let during = format!("after the proposals of {index} of {} pictures", pictures.len());
            return Err(WeakError::Stopped { during });
        }
        let (_, file, tags) = pictures.at(index);
        let found = find(pictures, index, tools, config, stop).map_err(WeakError::of_picture(file))?;
        let labels = tags.unwrap_or_default().iter().map(|tag| tools.classes[*tag].clone()).collect();
        let size = [found.image.width(), found.image.height()];
        let record = select::into_record(&found.proposals, file, size, labels);
        log.write(index as u64, &json!({ "image": record }))?;
        progress.set(index as u64 + 1, &format!("{} boxes", record.boxes.len()));
        images.push(record);
    }
    progress.finish();
    let made = images.len() - before;
    let seconds = (made > 0).then(|| began.elapsed().as_secs_f64() / made as f64);
    let proposals = Proposals { classes: tools.classes.to_vec(), images };
    proposals.write(path)?;
    // All of it is in the file now; what cannot be removed does no harm.
    let _ = std::fs::remove_file(&parts);
    Ok((proposals, seconds))
}

/// The records of an earlier call, as far as they are of these pictures.
fn done_before(parts: &Path, pictures: Part<'_>) -> Result<Vec<ImageProposals>, WeakError> {
    let mut images = Vec::new();
    for record in kirie_run::log::read(parts)? {
        let index = images.len();
        let image = record.get("image").cloned().unwrap_or(Value::Null);
        match serde_json::from_value::<ImageProposals>(image) {
            Ok(image) if index < pictures.len() && image.file == pictures.at(index).1 => images.push(image),
            _ => break,
        }
    }
    Ok(images)
}

/// Finds the proposals of a picture.
pub(crate) fn find(
    pictures: Part<'_>,
    index: usize,
    tools: &Tools<'_>,
    config: &ProposalConfig,
    stop: &Stop,
) -> Result<Found, WeakError> {
    let missing = |what: &str| WeakError::setting("proposals.sources", what, "a source that can be asked");
    let (root, file, tags) = pictures.at(index);
    let image = read_image(root.join(file), &Limits::default())?;
    let once = tools.engine.map(EncodesOnce::new);
    let engine = || once.as_ref().map(|engine| engine as &dyn Engine);
    let (mut maps, mut cues) = (None, Cues::default());
    if config.wants_maps() {
        let (model, sizes) = tools.classifier.ok_or_else(|| missing("class maps without a classifier"))?;
        let made = class_maps(model, sizes, &image, tags, &config.maps, tools.device)?;
        cues = cues_of(&made, &image, config, tools.streams, index as u64);
        maps = Some(made);
    }
    let mut proposals = Vec::new();
    for source in &config.sources {
        match source {
            Source::Grid => {
                let engine = engine().ok_or_else(|| missing("a grid without a model"))?;
                proposals.extend(ask_grid(engine, &image, &config.grid, stop)?);
            }
            Source::Search => {
                let limit = config.search_limit;
                proposals.extend(search::selective_search(&image, &tools.streams, index as u64, limit)?);
            }
            // All cues are asked at once, below.
            Source::Coarse | Source::Fine | Source::Cross => {}
        }
    }
    if config.wants_maps() {
        let engine = engine().ok_or_else(|| missing("cues without a model"))?;
        let mut predictor = Predictor::new(engine);
        predictor.set_image(&image)?;
        proposals.extend(ask_cues(&predictor, &cues, config.masks, config.cross_nms)?);
    }
    let proposals = tidy(proposals, [image.width(), image.height()], config.min_side, config.limit);
    Ok(Found { image, maps, cues, proposals })
}

/// Points from maps.
fn cues_of(maps: &ClassMaps, image: &Image, config: &ProposalConfig, streams: Streams, number: u64) -> Cues {
    // To the middle of the pixel, in the picture's own size.
    let (x, y) =
        (f64::from(image.width()) / maps.width as f64, f64::from(image.height()) / maps.height as f64);
    let points = |map: &[f32], options: &PeakOptions| -> Vec<[f64; 2]> {
        let found = peaks(map, maps.width, options, config.peak_rule);
        found.iter().map(|peak| [(peak.x as f64 + 0.5) * x, (peak.y as f64 + 0.5) * y]).collect()
    };
    let of_classes = |source: Source, all: &[Vec<f32>], options: &PeakOptions| {
        let wanted = config.sources.contains(&source);
        all.iter().filter(|_| wanted).map(|map| points(map, options)).collect()
    };
    let cross: Vec<[f64; 2]> = if config.sources.contains(&Source::Cross) {
        maps.cross.iter().flatten().flat_map(|map| points(map, &config.cross)).collect()
    } else {
        Vec::new()
    };
    Cues {
        coarse: of_classes(Source::Coarse, &maps.coarse, &config.coarse),
        fine: of_classes(Source::Fine, &maps.fine, &config.fine),
        cross: cluster::reduce(&cross, &mut streams.stream("cluster", &[number])),
    }
}

#[cfg(test)]
mod tests;
