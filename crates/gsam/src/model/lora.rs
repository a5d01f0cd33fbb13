//! Which weights get a low-rank addition.

use std::collections::HashMap;

use burn::module::{Module, ModuleVisitor, Param, Reparameterizer};
use burn::tensor::{Device, Tensor};
use kirie_nn::adapters::{LowRank, LowRankConfig};
use kirie_sam::checkpoint::KeyPath;
use regex::Regex;

use super::ModelError;
use super::method::Lora;

/// Weights that standard LoRA changes where nothing else is said.
const VIT_TARGETS: &str = r"^image_encoder\.blocks\.\d+\.attn\.qkv\.weight$";
const CONV_TARGETS: &str = r"^image_encoder\..+\.(qkv|proj|inverted_conv|point_conv)\.conv\.weight$";

/// Adds to each weight of the encoder that the method chooses its low-rank product.
pub(super) fn attach<M: Module>(
    module: M,
    lora: &Lora,
    convolutional: bool,
    device: &Device,
) -> Result<M, ModelError> {
    let default = if convolutional { CONV_TARGETS } else { VIT_TARGETS };
    let expression = lora.targets.as_deref().unwrap_or(default);
    let pattern = Regex::new(expression).map_err(|error| ModelError::Setting {
        name: "method.targets",
        found: expression.to_owned(),
        expected: format!("a regular expression ({error})"),
    })?;
    let mut weights = Weights::default();
    module.visit(&mut weights);
    let mut chosen = HashMap::new();
    for weight in &weights.found {
        if !weight.key.starts_with("image_encoder.") || !pattern.is_match(&weight.key) {
            continue;
        }
        let parts = if weight.key.ends_with(".attn.qkv.weight") {
            ['q', 'k', 'v'].map(|part| lora.qkv.contains(part)).to_vec()
        } else {
            vec![true]
        };
        let config = LowRankConfig {
            input: weight.input,
            output: weight.output,
            parts,
            rank: lora.rank,
            alpha: lora.alpha,
        };
        chosen.insert(weight.path.clone(), config);
    }
    if chosen.is_empty() {
        let example = weights.found.first().map_or_else(String::new, |weight| weight.key.clone());
        return Err(ModelError::NoTarget { expression: expression.to_owned(), example });
    }
    Ok(module.apply_reparameterization(Attach { chosen, device: device.clone() }))
}

/// A weight of a linear layer or a convolution.
struct Weight {
    /// Where Burn finds it.
    path: String,
    /// Its state-dict name.
    key: String,
    input: usize,
    output: usize,
}

#[derive(Default)]
struct Weights {
    path: Vec<String>,
    containers: Vec<String>,
    key: KeyPath,
    found: Vec<Weight>,
}

impl ModuleVisitor for Weights {
    fn enter_module(&mut self, name: &str, container_type: &str) {
        self.path.push(name.to_owned());
        self.containers.push(container_type.to_owned());
        self.key.enter(name, container_type);
    }

    fn exit_module(&mut self, _name: &str, container_type: &str) {
        self.path.pop();
        self.containers.pop();
        self.key.exit(container_type);
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let shape = param.lazy_shape().to_vec();
        let owner = self.containers.last().map_or("", String::as_str);
        let (input, output) = match (owner, shape.as_slice()) {
            ("Struct:Linear", &[input, output]) => (input, output),
            ("Struct:Conv2d", &[output, input, height, width]) => (input * height * width, output),
            _ => return,
        };
        self.found.push(Weight { path: self.path.join("."), key: self.key.key(), input, output });
    }
}

struct Attach {
    chosen: HashMap<String, LowRankConfig>,
    device: Device,
}

impl Reparameterizer for Attach {
    type Reparam = LowRank;

    fn reparameterize<const D: usize>(
        &mut self,
        path: &str,
        param: Param<Tensor<D>>,
    ) -> (Param<Tensor<D>>, Option<LowRank>) {
        let lora = self.chosen.get(path).map(|config| config.init(&self.device));
        (param, lora)
    }
}
