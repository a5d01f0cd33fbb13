//! Stage 1: the student's encoder gives what the teacher's encoder gives (L2 loss).

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use burn::module::Module;
use burn::tensor::{Device, Tensor, TensorData};
use kirie_engine::random::{Streams, unit};
use kirie_engine::train::MethodError;
use kirie_engine::{Method, Step};
use kirie_run::RunFolder;
use kirie_sam::HostTensor;
use kirie_sam::checkpoint::{FloatFormat, StateDict, write_safetensors_to};
use kirie_sam::model::Sam;
use sha2::{Digest, Sha256};

use super::config::{Augment, Distill, TrainConfig};
use super::pictures::Pictures;
use super::sample::{Labelled, view};
use super::{ModelSpec, TrainError, built_in};

/// Stage 1 of a run.
#[derive(Debug)]
pub struct DistillMethod<'a> {
    config: &'a TrainConfig,
    spec: &'a ModelSpec,
    teacher: Teacher,
    pictures: Pictures,
    streams: Streams,
    device: Device,
}

/// A model to learn from.
#[derive(Debug)]
pub struct Teacher {
    /// Its name, sizes and preprocessing.
    pub spec: ModelSpec,
    /// The model, without autodiff.
    pub model: Sam,
    /// Folder of embeddings, which the weights' hash is part of.
    cache: Option<PathBuf>,
}

/// Pictures for the student, and for the teacher what it needs.
#[derive(Debug)]
pub struct Batch {
    student: Vec<f32>,
    teacher: Vec<ForTeacher>,
    names: Vec<String>,
}

#[derive(Debug)]
enum ForTeacher {
    /// Its input, and where the embedding is to be kept.
    Pixels(Vec<f32>, Option<PathBuf>),
    /// The embedding, found in the cache.
    Embedding(Vec<f32>),
}

impl Teacher {
    /// Loads the teacher of a configuration.
    pub fn load(config: &Distill, device: &Device) -> Result<Self, TrainError> {
        let spec = ModelSpec::new(&config.teacher, config.sizes.as_ref(), config.input)?;
        let path = &config.weights;
        let model = spec.load(path, device)?;
        let cache = match &config.cache {
            Some(folder) => {
                let hash = match built_in(&config.teacher, path)? {
                    Some(bytes) => Sha256::digest(bytes),
                    None => Sha256::digest(std::fs::read(path).map_err(|e| TrainError::Sample {
                        name: path.display().to_string(),
                        source: e.into(),
                    })?),
                };
                let key = format!("{}-{}", spec.preprocess.size, hex(&hash, 8));
                Some(folder.join(key))
            }
            None => None,
        };
        Ok(Self { spec, model, cache })
    }

    fn shape(&self) -> [usize; 3] {
        let sizes = &self.spec.sizes.prompt_encoder;
        [sizes.dim, sizes.embedding_size, sizes.embedding_size]
    }

    /// Embeddings of a batch, `[batch, dim, side, side]`; new ones are kept.
    fn embeddings(&self, batch: Vec<ForTeacher>, device: &Device) -> Result<Tensor<4>, TrainError> {
        let [dim, side, _] = self.shape();
        let size = self.spec.preprocess.size as usize;
        let mut parts = Vec::with_capacity(batch.len());
        for picture in batch {
            match picture {
                ForTeacher::Embedding(values) => {
                    parts.push(Tensor::from_data(TensorData::new(values, [1, dim, side, side]), device));
                }
                ForTeacher::Pixels(values, keep) => {
                    let pixels = Tensor::from_data(TensorData::new(values, [1, 3, size, size]), device);
                    let mut embedding = self.model.encode(pixels).embedding;
                    if let Some(path) = keep {
                        let values = embedding.clone().into_data().iter::<f32>().collect();
                        let tensor = HostTensor { shape: vec![dim, side, side], values };
                        kirie_data::create_parent(&path)?;
                        kirie_data::write_atomic(&path, |file: &mut dyn Write| {
                            let tensors = [("embedding".to_owned(), tensor)];
                            write_safetensors_to(file, &tensors, &BTreeMap::new(), FloatFormat::F16)
                        })?;
                        // Rounded as whoever finds it there gets it: what is learnt must not depend on which pictures came by
                        // before, or a resumed run would end elsewhere.
                        if let Some(kept) = cached(&path, dim * side * side) {
                            let kept = TensorData::new(kept, [1, dim, side, side]);
                            embedding = Tensor::from_data(kept, device);
                        }
                    }
                    parts.push(embedding);
                }
            }
        }
        Ok(Tensor::cat(parts, 0))
    }
}

impl<'a> DistillMethod<'a> {
    /// The method on opened pictures. `device` is the one without autodiff.
    ///
    /// # Errors
    /// [`TrainError::Embedding`] where teacher and student do not fit.
    pub fn new(
        config: &'a TrainConfig,
        spec: &'a ModelSpec,
        teacher: Teacher,
        pictures: Pictures,
        device: Device,
    ) -> Result<Self, TrainError> {
        let sizes = &spec.sizes.prompt_encoder;
        let student = [sizes.dim, sizes.embedding_size, sizes.embedding_size];
        if teacher.shape() != student {
            return Err(TrainError::Embedding {
                teacher: teacher.shape().to_vec(),
                student: student.to_vec(),
            });
        }
        Ok(Self { config, spec, teacher, pictures, streams: Streams::new(config.seed), device })
    }

    /// Whether pictures are kept whole, so that an embedding can be used again.
    fn keeps_whole(&self) -> bool {
        let Augment { scale, stretch, colour, zoom, .. } = self.config.augment;
        scale == [1.0, 1.0] && [stretch, colour, zoom] == [1.0, 0.0, 0.0]
    }

    /// The place of a picture's embedding: by its pixels and whether they are mirrored.
    fn cache_path(&self, image: &kirie_data::Image, mirrored: bool) -> Option<PathBuf> {
        let folder = self.teacher.cache.as_ref().filter(|_| self.keeps_whole())?;
        let mut hash = Sha256::new();
        hash.update(image.width().to_le_bytes());
        hash.update(image.as_raw());
        let side = if mirrored { "-mirrored" } else { "" };
        Some(folder.join(format!("{}{side}.safetensors", hex(&hash.finalize(), 16))))
    }
}

fn hex(bytes: &[u8], count: usize) -> String {
    bytes.iter().take(count).fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

/// A cached embedding; whatever is wrong with the file, it is as if there were none.
fn cached(path: &Path, length: usize) -> Option<Vec<f32>> {
    let values = StateDict::open(path).ok()?.read("embedding").ok()?.values;
    (values.len() == length).then_some(values)
}

impl Method for DistillMethod<'_> {
    type Model = Sam;
    type Batch = Batch;

    fn batch(&self, step: u64, part: u64) -> Result<Batch, MethodError> {
        let data = &self.config.data;
        let first = (step * self.config.plan.accumulate + part) * data.batch as u64;
        let mut batch = Batch { student: Vec::new(), teacher: Vec::new(), names: Vec::new() };
        let length: usize = self.teacher.shape().iter().product();
        for n in first..first + data.batch as u64 {
            let (dataset, sample) = self.pictures.nth(&self.streams, n);
            let image = dataset.picture(sample)?;
            let labelled = Labelled { image, objects: Vec::new(), ignore: None };
            // The same stream twice: teacher and student see the same window, each at its own size.
            let stream = || self.streams.stream("view", &[n, 0]);
            // Mirroring is decided here, so that the cache knows of it.
            let mirrored = unit(&mut self.streams.stream("mirror", &[n])) < self.config.augment.flip;
            let augment = Augment { flip: f64::from(u8::from(mirrored)), ..self.config.augment.clone() };
            let student = view(&labelled, &self.spec.preprocess, &augment, 1, 1, &mut stream())?;
            batch.student.extend(student.pixels);
            let path = self.cache_path(&labelled.image, mirrored);
            let found = path.as_deref().and_then(|path| cached(path, length));
            batch.teacher.push(if let Some(values) = found {
                ForTeacher::Embedding(values)
            } else {
                let view = view(&labelled, &self.teacher.spec.preprocess, &augment, 1, 1, &mut stream())?;
                ForTeacher::Pixels(view.pixels, path)
            });
            batch.names.push(sample.image.display().to_string());
        }
        Ok(batch)
    }

    fn loss(&self, model: &Sam, batch: Batch, _step: u64) -> Result<Step, MethodError> {
        let size = self.spec.preprocess.size as usize;
        let data = TensorData::new(batch.student, [batch.names.len(), 3, size, size]);
        let student = model.image_encoder.forward(Tensor::from_data(data, &self.device.clone().autodiff()));
        let teacher = Tensor::from_inner(self.teacher.embeddings(batch.teacher, &self.device)?);
        let loss = (student.embedding - teacher).square().mean();
        Ok(Step { loss, figures: Vec::new(), samples: batch.names })
    }

    /// The negative squared error on held-out pictures: higher is better.
    fn validate(&self, model: &Sam, _: u64, _: &RunFolder) -> Result<Vec<(String, f64)>, MethodError> {
        let whole = Augment { flip: 0.0, ..Augment::default() };
        let size = self.spec.preprocess.size as usize;
        let (mut sum, mut count) = (0.0, 0_u32);
        for (dataset, samples) in self.pictures.validation() {
            for sample in samples {
                let labelled =
                    Labelled { image: dataset.picture(sample)?, objects: Vec::new(), ignore: None };
                let mut rng = self.streams.stream("validate", &[]);
                let of = |spec: &ModelSpec, rng: &mut _| {
                    view(&labelled, &spec.preprocess, &whole, 1, 1, rng).map(|view| view.pixels)
                };
                let student = of(self.spec, &mut rng)?;
                let student = Tensor::from_data(TensorData::new(student, [1, 3, size, size]), &self.device);
                let student = model.valid().encode(student).embedding;
                let pixels = of(&self.teacher.spec, &mut rng)?;
                let teacher =
                    self.teacher.embeddings(vec![ForTeacher::Pixels(pixels, None)], &self.device)?;
                sum += f64::from((student - teacher).square().mean().into_scalar::<f32>());
                count += 1;
            }
        }
        if count == 0 {
            return Ok(Vec::new());
        }
        Ok(vec![("minus_squared_error".to_owned(), -sum / f64::from(count))])
    }

    fn title(&self) -> String {
        format!("{}: distillation", self.spec.name)
    }

    fn metadata(&self) -> BTreeMap<String, String> {
        self.spec.metadata()
    }
}
