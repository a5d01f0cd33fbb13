//! Training of promptable models, in the two stages of EfficientViT-SAM (section 3.2 of its paper).
//!
//! 1. [`distill`]: the student's encoder learns to give a teacher's image embedding;
//! 2. [`end_to_end`]: the whole model learns to cut objects out, asked by boxes and points.
//!
//! ```text
//! picture on disk -> Labelled -> view: a window at the model's size, its objects
//!                                  -> prompts -> model -> logits -> loss at points
//! ```
//!
//! [`run`] does a whole run from a configuration.

pub mod config;
pub mod distill;
pub mod end_to_end;
mod error;
pub mod loss;
pub mod pictures;
pub mod prompts;
pub mod sample;
mod validate;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use burn::module::Module;
use burn::tensor::Device;
use kirie_engine::{Outcome, train};
use kirie_run::{ProgressMode, RunFolder, Stop};
use kirie_sam::checkpoint::{FloatFormat, StateDict, load, state_dict_of, write_safetensors_to};
use kirie_sam::model::{Sam, SamConfig};
use kirie_sam::registry::{self, Preprocess};

pub use config::TrainConfig;
pub use error::TrainError;

use config::{BUILT_IN, Distill, Task};
use distill::{DistillMethod, Teacher};
use end_to_end::EndToEndMethod;
use pictures::Pictures;

/// The finished model in the run folder.
pub const MODEL_FILE: &str = "model.safetensors";

/// A model's name, sizes and preprocessing.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelSpec {
    /// Its name.
    pub name: String,
    /// Its sizes.
    pub sizes: SamConfig,
    /// How pictures become its input.
    pub preprocess: Preprocess,
    /// From how close it answers boxes.
    pub zoom: Option<f64>,
}

impl ModelSpec {
    /// A registered model, or one of other sizes with a registered one's preprocessing.
    pub fn new(name: &str, sizes: Option<&SamConfig>, input: Option<u32>) -> Result<Self, TrainError> {
        let variant = registry::variant(name)?;
        let mut preprocess = variant.preprocess;
        if let Some(size) = input {
            if !(32..=4096).contains(&size) || !size.is_multiple_of(32) {
                let expected = "a multiple of 32 from 32 to 4096".to_owned();
                let name = "model.input".to_owned();
                return Err(TrainError::Setting { name, found: size.to_string(), expected });
            }
            preprocess.size = size;
        }
        let sizes = match (sizes, input) {
            (Some(sizes), _) => sizes.clone(),
            (None, Some(size)) => variant.config().for_input(variant.preprocess.size, size),
            (None, None) => variant.config(),
        };
        if let Err(reason) = sizes.check(preprocess.size as usize) {
            let expected = "sizes that fit together and the input".to_owned();
            return Err(TrainError::Setting { name: "model.sizes".to_owned(), found: reason, expected });
        }
        Ok(Self { name: name.to_owned(), sizes, preprocess, zoom: variant.zoom })
    }

    /// A model with these weights, a file or [`BUILT_IN`].
    pub fn load(&self, weights: &Path, device: &Device) -> Result<Sam, TrainError> {
        Ok(load(self.sizes.init(device), &state_dict(&self.name, weights)?, &self.name, device)?)
    }

    /// A model with random weights that follow from the seed.
    ///
    /// Burn's own initialisation (that of PyTorch for these layers); the last norm of every residual branch begins with zero,
    /// so that the network begins shallow (EfficientViT's training code does the same).
    pub fn random(&self, seed: u64, device: &Device) -> Sam {
        device.seed(seed);
        let model = self.sizes.init(device);
        zero_residual_branches(model)
    }

    /// What the weight file says of itself.
    pub fn metadata(&self) -> BTreeMap<String, String> {
        kirie_sam::checkpoint::metadata(&self.name, "see the model card", &self.sizes, &self.preprocess)
    }
}

/// The gzipped weights inside the program if [`BUILT_IN`] asks for them, `None` if a file is meant.
fn built_in(name: &str, weights: &Path) -> Result<Option<&'static [u8]>, TrainError> {
    if weights.as_os_str() != BUILT_IN {
        return Ok(None);
    }
    registry::variant(name)?.built_in.map(Some).ok_or_else(|| TrainError::Setting {
        name: "weights".to_owned(),
        found: format!("`{BUILT_IN}`"),
        expected: format!("a file of weights: none of {name} are part of this program"),
    })
}

/// Weights of the named model, a file or [`BUILT_IN`].
fn state_dict(name: &str, weights: &Path) -> Result<StateDict, TrainError> {
    Ok(match built_in(name, weights)? {
        Some(bytes) => StateDict::from_gzip(name, bytes)?,
        None => StateDict::open(weights)?,
    })
}

/// Sets the scale of the last norm of every residual block to zero.
fn zero_residual_branches(model: Sam) -> Sam {
    use burn::module::{ModuleMapper, Param};
    use burn::tensor::Tensor;
    use kirie_sam::checkpoint::KeyPath;

    struct Zero(KeyPath);
    impl ModuleMapper for Zero {
        fn enter_module(&mut self, name: &str, container_type: &str) {
            self.0.enter(name, container_type);
        }
        fn exit_module(&mut self, _name: &str, container_type: &str) {
            self.0.exit(container_type);
        }
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            // Initialises the parameter now, in the order of the fields, so that the random numbers do not depend on who asks
            // first.
            let trained = param.is_require_grad();
            let zero = is_residual_norm(&self.0.key());
            param.map(|tensor| if zero { tensor.zeros_like().set_require_grad(trained) } else { tensor })
        }
    }
    model.map(&mut Zero(KeyPath::default()))
}

/// `...op_list.N...` of the encoder with a residual (not the first of a stage, which has none), and its last norm.
fn is_residual_norm(key: &str) -> bool {
    if key == "mask_decoder.prompt_fusion.up.norm.weight" {
        return true;
    }
    let last = [".point_conv.norm.weight", ".conv2.norm.weight", ".proj.norm.weight"];
    if !last.iter().any(|end| key.ends_with(end)) {
        return false;
    }
    let neck = key.starts_with("image_encoder.neck.middle.");
    let first_of_stage = key.split_once(".op_list.").is_some_and(|(_, rest)| rest.starts_with("0."));
    neck || !first_of_stage
}

/// How a run was done.
#[derive(Clone, Debug)]
pub struct Report {
    /// Optimiser steps done.
    pub steps: u64,
    /// Whether all steps were done.
    pub complete: bool,
    /// Figures of the last validation.
    pub figures: Vec<(String, f64)>,
    /// The finished model, if all steps were done.
    pub model: Option<PathBuf>,
}

/// Does a whole run: opens the sets, makes or loads the model, trains, writes [`MODEL_FILE`].
///
/// Relative paths of the configuration start from the working directory; see [`TrainConfig::resolve`].
pub fn run(
    config: &TrainConfig,
    folder: &RunFolder,
    device: &Device,
    stop: &Stop,
    mode: ProgressMode,
) -> Result<Report, TrainError> {
    config.check()?;
    let spec = ModelSpec::new(&config.model.name, config.model.sizes.as_ref(), config.model.input)?;
    let labelled = matches!(config.task, Task::EndToEnd(_));
    let pictures = Pictures::open(&config.data, labelled)?;
    let trained = device.clone().autodiff();
    let mut model = match &config.model.init {
        Some(path) => spec.load(path, &trained)?,
        None => spec.random(config.seed, &trained),
    };
    let outcome: Outcome<Sam> = match &config.task {
        Task::Distill(task) => {
            let teacher = Teacher::load(task, device)?;
            if task.copy_decoder && config.model.init.is_none() {
                model = with_decoder_of(model, &spec, task, &trained)?;
            }
            let method = DistillMethod::new(config, &spec, teacher, pictures, device.clone())?;
            train(&method, model, &config.plan, folder, device, stop, mode)?
        }
        Task::EndToEnd(task) => {
            let method = EndToEndMethod::new(config, task, &spec, pictures, device.clone());
            train(&method, model, &config.plan, folder, device, stop, mode)?
        }
    };
    let path = folder.path().join(MODEL_FILE);
    if outcome.complete {
        let tensors = state_dict_of(&outcome.model);
        kirie_data::write_atomic(&path, |file| {
            write_safetensors_to(file, &tensors, &spec.metadata(), FloatFormat::F32)
        })?;
    }
    Ok(Report {
        steps: outcome.steps,
        complete: outcome.complete,
        figures: outcome.figures,
        model: outcome.complete.then_some(path),
    })
}

/// Takes prompt encoder and mask decoder from the teacher.
fn with_decoder_of(model: Sam, spec: &ModelSpec, task: &Distill, device: &Device) -> Result<Sam, TrainError> {
    let part = |prefix: &str| state_dict(&task.teacher, &task.weights).map(|file| file.part(prefix));
    Ok(Sam {
        image_encoder: model.image_encoder,
        prompt_encoder: load(
            spec.sizes.prompt_encoder.init(device),
            &part("prompt_encoder.")?,
            "the prompt encoder",
            device,
        )?,
        mask_decoder: load(
            spec.sizes.mask_decoder.init(device),
            &part("mask_decoder.")?,
            "the mask decoder",
            device,
        )?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn residual_norms_are_told_by_their_names() {
        for (key, expected) in [
            ("image_encoder.backbone.stages.1.op_list.1.main.point_conv.norm.weight", true),
            ("image_encoder.backbone.stages.1.op_list.0.main.point_conv.norm.weight", false),
            ("image_encoder.backbone.stages.0.op_list.1.main.conv2.norm.weight", true),
            ("image_encoder.backbone.stages.4.op_list.2.context_module.main.proj.norm.weight", true),
            ("image_encoder.backbone.stages.4.op_list.2.local_module.main.point_conv.norm.weight", true),
            ("image_encoder.neck.middle.op_list.0.main.point_conv.norm.weight", true),
            ("image_encoder.neck.middle.op_list.0.main.spatial_conv.norm.weight", false),
            ("image_encoder.neck.input_ops.0.op_list.0.norm.weight", false),
            ("mask_decoder.transformer.norm_final_attn.weight", false),
            ("mask_decoder.prompt_fusion.op_list.0.main.point_conv.norm.weight", false),
            ("mask_decoder.prompt_fusion.op_list.1.local_module.main.point_conv.norm.weight", true),
            ("mask_decoder.prompt_fusion.up.norm.weight", true),
        ] {
            assert_eq!(is_residual_norm(key), expected, "{key}");
        }
    }
}
