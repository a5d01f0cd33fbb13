//! What the stages that train share: run folders, and features of a backbone that stays as it is.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use kirie_engine::random::{Streams, unit};
use kirie_run::{RunFolder, config::to_toml};
use kirie_sam::checkpoint::{StateDict, load};
use serde::Serialize;

use crate::WeakError;
use crate::files::Corners;
use crate::network::{Features, InputConfig, Stages, View};
use crate::pictures::Pictures;

/// Memory that the features of a frozen backbone may take, numbers (1 GiB).
const MOST_NUMBERS: usize = 1 << 28;

/// Opens the run of a stage, or begins it.
///
/// # Errors
/// When the folder holds a run of another configuration, or cannot be made.
pub(crate) fn open_run(path: &Path, config: &impl Serialize) -> Result<RunFolder, WeakError> {
    let text = to_toml(config)?;
    if path.join("config.toml").is_file() {
        let folder = RunFolder::open(path)?;
        if folder.read_config()? != text {
            return Err(WeakError::content(
                &folder.config_path(),
                "",
                "the run was begun with another configuration; choose another folder, or remove this one",
            ));
        }
        return Ok(folder);
    }
    let folder = RunFolder::create(path)?;
    folder.write_config(&text)?;
    Ok(folder)
}

/// Fills a model with the last weights of a run: the averaged ones where there are some.
///
/// # Errors
/// When there is no checkpoint, or it does not fit.
pub(crate) fn load_run<M: Module>(model: M, folder: &Path, device: &Device) -> Result<M, WeakError> {
    let checkpoints = kirie_run::Checkpoints::at(folder.join("checkpoints"));
    let checkpoint = checkpoints
        .latest()?
        .ok_or_else(|| WeakError::content(folder, "", "there is no checkpoint of a trained model"))?;
    let name = ["average.safetensors", "weights.safetensors"]
        .into_iter()
        .find(|name| checkpoint.names().any(|part| part == *name))
        .ok_or_else(|| WeakError::content(folder, "", "the checkpoint holds no weights"))?;
    Ok(load(model, &StateDict::open(checkpoint.file(name)?)?, "the run's model", device)?)
}

/// A view of a picture, as a step of either detector sees it.
pub(crate) struct Batch {
    /// Its number among all that were seen.
    pub(crate) number: u64,
    /// Its place in the set.
    pub(crate) picture: usize,
    /// The view.
    pub(crate) view: View,
    /// The picture's boxes, pixels of the view.
    pub(crate) boxes: Vec<Corners>,
}

impl Batch {
    /// Draws the view of that number: every picture once in each round, at one of the sides, mirrored or not.
    ///
    /// # Errors
    /// A picture that cannot be read.
    pub(crate) fn draw(
        pictures: &Pictures,
        input: &InputConfig,
        streams: Streams,
        number: u64,
    ) -> Result<Self, WeakError> {
        let count = pictures.all.len() as u64;
        let picture = streams.order(number / count, count as usize)[(number % count) as usize];
        let mut rng = streams.stream("view", &[number]);
        let side = input.train_sides[(unit(&mut rng) * input.train_sides.len() as f64) as usize];
        let flip = input.train_flip && unit(&mut rng) < 0.5;
        let chosen = &pictures.all[picture];
        let view = View::new(&pictures.read(chosen)?, side, input.longest, flip)?;
        let boxes = chosen.boxes.iter().map(|corners| view.enter(*corners)).collect();
        Ok(Self { number, picture, view, boxes })
    }
}

/// The stages' maps of views, kept where the backbone stays as it is.
#[derive(Debug, Default)]
pub(crate) struct StageCache {
    kept: Mutex<Kept>,
}

/// Maps without autodiff, by picture, size of the view, and whether it is mirrored.
#[derive(Debug, Default)]
struct Kept {
    maps: HashMap<(usize, [u32; 2], bool), Stages>,
    numbers: usize,
}

impl StageCache {
    /// The maps of the view of the picture numbered `picture`, on the autodiff `device`.
    pub(crate) fn stages(
        &self,
        features: &Features,
        frozen: bool,
        picture: usize,
        view: &View,
        device: &Device,
    ) -> Stages {
        if !frozen {
            return features.stages(view.tensor(device));
        }
        let key = (picture, view.size, view.flip);
        let track = |maps: &Stages| -> Stages { maps.iter().cloned().map(Tensor::from_inner).collect() };
        if let Some(maps) = self.kept.lock().unwrap_or_else(PoisonError::into_inner).maps.get(&key) {
            return track(maps);
        }
        let maps: Stages = features.stages(view.tensor(device)).into_iter().map(Tensor::inner).collect();
        let stages = track(&maps);
        let numbers: usize = maps.iter().map(|map| map.dims().iter().product::<usize>()).sum();
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.numbers + numbers <= MOST_NUMBERS {
            kept.numbers += numbers;
            kept.maps.insert(key, maps);
        }
        stages
    }
}
