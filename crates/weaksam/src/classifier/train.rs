//! Training of the classifier, and its file.
//!
//! The loss is the sum of up to three multi-label soft-margin losses, as WeakTr's: of the class tokens, of the means of the maps
//! before ReLU, and of the means of the fine maps.

use std::collections::BTreeMap;
use std::path::Path;

use burn::tensor::activation::relu;
use burn::tensor::{Device, Tensor, TensorData};
use kirie_data::create_parent;
use kirie_data::write::write_picture;
use kirie_engine::random::Streams;
use kirie_engine::train::MethodError;
use kirie_engine::{Method, Step, train};
use kirie_run::{ProgressMode, RunFolder, Stop};
use kirie_sam::checkpoint::{StateDict, load as load_weights, state_dict_of, write_safetensors};
use sha2::{Digest, Sha256};

use super::model::means;
use super::score::ClassifierScore;
use super::{Classifier, ClassifierConfig, ModelConfig, views};
use crate::WeakError;
use crate::labels::{Picture, Tagged};
use crate::show;

/// Of the weight file's metadata.
const FORMAT: &str = "kirie-weak-classifier-1";
/// Pictures whose maps are shown after a validation.
const SHOWN: usize = 4;

/// A finished training.
#[derive(Clone, Debug)]
pub struct TrainedClassifier {
    /// The network of the last step, without autodiff.
    pub model: Classifier,
    /// Whether all steps were done.
    pub complete: bool,
    /// Steps done.
    pub steps: u64,
    /// Figures of the last validation.
    pub figures: Vec<(String, f64)>,
}

/// Trains the classifier, or goes on with the run that `folder` holds. `base` are the weights that an encoder begins with.
///
/// # Errors
/// Settings out of their range; weights that do not fit; pictures that cannot be read; a loss that is no number.
pub fn run(
    config: &ClassifierConfig,
    seed: u64,
    set: &Tagged,
    base: Option<StateDict>,
    folder: &RunFolder,
    device: &Device,
    stop: &Stop,
    mode: ProgressMode,
) -> Result<TrainedClassifier, WeakError> {
    config.check()?;
    let model = config.model.init(set.classes.len(), base, seed, &device.clone().autodiff())?;
    let method = ClassifierMethod::new(config, seed, set, device)?;
    let outcome = train(&method, model, &config.plan, folder, device, stop, mode)?;
    Ok(TrainedClassifier {
        model: outcome.model,
        complete: outcome.complete,
        steps: outcome.steps,
        figures: outcome.figures,
    })
}

/// Writes a classifier, with all that is needed to use it.
///
/// # Errors
/// If the file cannot be written.
pub fn save(
    path: &Path,
    model: &Classifier,
    config: &ModelConfig,
    classes: &[String],
) -> Result<(), WeakError> {
    let json = serde_json::to_string(config)
        .map_err(|error| WeakError::content(path, "", format!("the sizes have no JSON form: {error}")))?;
    let metadata = BTreeMap::from([
        ("format".to_owned(), FORMAT.to_owned()),
        ("model".to_owned(), json),
        ("classes".to_owned(), classes.join("\n")),
    ]);
    create_parent(path)?;
    Ok(write_safetensors(path, &state_dict_of(model), &metadata)?)
}

/// Reads a classifier; gives its sizes and classes as well.
///
/// # Errors
/// A file that is not one that [`save`] wrote.
pub fn load(path: &Path, device: &Device) -> Result<(Classifier, ModelConfig, Vec<String>), WeakError> {
    let weights = StateDict::open(path)?;
    let wrong = |reason: &str| WeakError::content(path, "", reason);
    let of = |name: &str| weights.metadata().get(name);
    if of("format").map(String::as_str) != Some(FORMAT) {
        return Err(wrong("expected a classifier of `kirie train weak`"));
    }
    let (Some(model), Some(classes)) = (of("model"), of("classes")) else {
        return Err(wrong("does not say its sizes and classes"));
    };
    let config: ModelConfig = serde_json::from_str(model).map_err(|error| wrong(&error.to_string()))?;
    let classes: Vec<String> = classes.lines().map(str::to_owned).collect();
    let model = config.init(classes.len(), None, 0, device)?;
    Ok((load_weights(model, &weights, "the classifier", device)?, config, classes))
}

/// Mean over pictures and classes of `-[y log sigmoid(x) + (1 - y) log(1 - sigmoid(x))]`, for logits x and targets y of 0 or 1,
/// both `[batch, classes]`.
pub fn soft_margin(logits: Tensor<2>, targets: Tensor<2>) -> Tensor<1> {
    // log(1 + exp(x)) - y x, without overflow.
    let softplus = relu(logits.clone()) + (-logits.clone().abs()).exp().log1p();
    (softplus - targets * logits).mean()
}

/// What classifier training does that no other does.
struct ClassifierMethod<'a> {
    config: &'a ClassifierConfig,
    set: &'a Tagged,
    learn: Vec<&'a Picture>,
    validate: Vec<&'a Picture>,
    streams: Streams,
    /// Without autodiff.
    device: Device,
}

/// Views of some pictures.
struct Batch {
    pixels: Vec<f32>,
    targets: Vec<f32>,
    names: Vec<String>,
}

impl<'a> ClassifierMethod<'a> {
    fn new(
        config: &'a ClassifierConfig,
        seed: u64,
        set: &'a Tagged,
        device: &Device,
    ) -> Result<Self, WeakError> {
        let held = |picture: &Picture| {
            let one_in = config.validate_one_in;
            let digest = Sha256::digest(picture.file.as_bytes());
            let number = digest.iter().take(8).fold(0_u64, |hash, byte| hash << 8 | u64::from(*byte));
            one_in > 0 && number.is_multiple_of(one_in)
        };
        let (validate, learn): (Vec<_>, Vec<_>) = set.pictures.iter().partition(|picture| held(picture));
        if learn.is_empty() {
            let set = set.root.display().to_string();
            return Err(WeakError::Labels { set, reason: "no picture is left to learn from".to_owned() });
        }
        Ok(Self { config, set, learn, validate, streams: Streams::new(seed), device: device.clone() })
    }

    fn targets(&self, picture: &Picture) -> Vec<f32> {
        let mut targets = vec![0.0; self.set.classes.len()];
        for tag in &picture.tags {
            targets[*tag] = 1.0;
        }
        targets
    }
}

impl Method for ClassifierMethod<'_> {
    type Model = Classifier;
    type Batch = Batch;

    fn batch(&self, step: u64, part: u64) -> Result<Batch, MethodError> {
        let size = self.config.batch as u64;
        let first = (step * self.config.plan.accumulate + part) * size;
        let length = self.learn.len() as u64;
        let mut batch = Batch { pixels: Vec::new(), targets: Vec::new(), names: Vec::new() };
        for n in first..first + size {
            let slot = self.streams.order(n / length, self.learn.len())[(n % length) as usize];
            let picture = self.learn[slot];
            let image = self.set.read(picture)?;
            let mut rng = self.streams.stream("view", &[n]);
            let side = self.config.model.input;
            batch.pixels.extend(views::changed(&image, side, &self.config.augment, &mut rng)?);
            batch.targets.extend(self.targets(picture));
            batch.names.push(picture.file.clone());
        }
        Ok(batch)
    }

    fn loss(&self, model: &Classifier, batch: Batch, _step: u64) -> Result<Step, MethodError> {
        let (count, side) = (batch.names.len(), self.config.model.input as usize);
        let device = self.device.clone().autodiff();
        let pixels = Tensor::from_data(TensorData::new(batch.pixels, [count, 3, side, side]), &device);
        let targets =
            Tensor::<2>::from_data(TensorData::new(batch.targets, [count, self.set.classes.len()]), &device);
        let answer = model.forward(pixels, false);
        let mut loss = soft_margin(means(answer.activation), targets.clone());
        let mut figures = Vec::new();
        if let Some(attention) = answer.attention {
            let tokens = soft_margin(attention.tokens, targets.clone());
            let fine = soft_margin(means(attention.fine), targets);
            for (name, term) in [("maps", &loss), ("tokens", &tokens), ("fine", &fine)] {
                figures.push((name, f64::from(term.clone().into_scalar::<f32>())));
            }
            loss = loss + tokens + fine;
        }
        Ok(Step { loss, figures, samples: batch.names })
    }

    fn validate(
        &self,
        model: &Classifier,
        step: u64,
        folder: &RunFolder,
    ) -> Result<Vec<(String, f64)>, MethodError> {
        let side = self.config.model.input;
        let (mut logits, mut targets) = (Vec::new(), Vec::new());
        for (n, picture) in self.validate.iter().enumerate() {
            let image = self.set.read(picture)?;
            let pixels = views::whole(&image, [side; 2])?;
            let pixels = TensorData::new(pixels, [1, 3, side as usize, side as usize]);
            let answer = model.forward(Tensor::from_data(pixels, &self.device), false);
            let found: Vec<f32> =
                answer.logits().into_data().try_to_vec().map_err(|error| format!("{error:?}"))?;
            logits.extend(found);
            targets.extend(self.targets(picture));
            if let Some(tag) = picture.tags.first().filter(|_| n < SHOWN) {
                let [_, _, height, width] = answer.activation.dims();
                let map = relu(answer.activation).narrow(1, *tag, 1).reshape([height * width]);
                let map: Vec<f32> = map.into_data().try_to_vec().map_err(|error| format!("{error:?}"))?;
                let path =
                    folder.samples_path().join(format!("step-{step}-{n}-{}.jpg", self.set.classes[*tag]));
                create_parent(&path)?;
                write_picture(&path, &show::heat(&image, &map, [height, width])?)?;
            }
        }
        let score = ClassifierScore::of(&logits, &targets, self.set.classes.len());
        let named = [("mean_average_precision", score.map), ("f1", score.f1)];
        Ok(named.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect())
    }

    fn title(&self) -> String {
        format!("Classifier of {} classes from image-level labels", self.set.classes.len())
    }

    fn metadata(&self) -> BTreeMap<String, String> {
        BTreeMap::from([("classes".to_owned(), self.set.classes.join("\n"))])
    }
}
