//! From a module's fields to state-dict keys, and tensors into the fields.

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{Device, Tensor, TensorData};

use super::{CheckpointError, StateDict};

/// One entry of a state dict.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyShape {
    /// The reference's name.
    pub key: String,
    /// The reference's shape.
    pub shape: Vec<usize>,
    /// A counter of batch norm that old files lack and that nothing reads.
    pub optional: bool,
}

/// The state-dict entries of a module, in the order of its fields. No parameter is made for it.
pub fn module_keys<M: Module>(module: &M) -> Vec<KeyShape> {
    let mut visitor = KeyVisitor { path: KeyPath::default(), keys: Vec::new() };
    module.visit(&mut visitor);
    visitor.keys
}

/// Where a walk through a module is: the key so far, and the type of the innermost struct.
///
/// For visitors and mappers of their own: call [`Self::enter`] and [`Self::exit`] in `enter_module` and `exit_module`, and
/// ask for [`Self::key`] at a parameter.
#[derive(Debug, Default)]
pub struct KeyPath {
    segments: Vec<String>,
    containers: Vec<String>,
}

impl KeyPath {
    /// The walk goes into a field.
    pub fn enter(&mut self, name: &str, container: &str) {
        self.containers.push(container.to_owned());
        // The variant of an enum has no part in the name.
        if !container.starts_with("Enum:") {
            self.segments.push(translate(name, container).to_owned());
        }
    }

    /// The walk comes out of a field.
    pub fn exit(&mut self, container: &str) {
        self.containers.pop();
        if !container.starts_with("Enum:") {
            self.segments.pop();
        }
    }

    /// The state-dict name of where the walk is.
    pub fn key(&self) -> String {
        self.segments.join(".")
    }

    /// The struct that the current parameter is a field of.
    fn owner(&self) -> &str {
        self.containers.last().map_or("", String::as_str)
    }

    /// Burn keeps a linear layer's matrix as `[in, out]`, the reference as `[out, in]`.
    pub fn is_transposed(&self) -> bool {
        self.owner() == "Struct:Linear" && self.segments.last().is_some_and(|s| s == "weight")
    }

    /// The counter that PyTorch keeps beside a batch norm's running statistics.
    pub(super) fn batch_counter(&self) -> Option<String> {
        let (last, module) = self.segments.split_last()?;
        (self.owner() == "Struct:BatchNorm" && last == "running_var")
            .then(|| format!("{}.num_batches_tracked", module.join(".")))
    }
}

/// A field's name in the reference: see the rules in the documentation of `kirie_nn`.
fn translate<'a>(name: &'a str, container: &str) -> &'a str {
    if matches!(container, "Struct:BatchNorm" | "Struct:LayerNorm") {
        match name {
            "gamma" => return "weight",
            "beta" => return "bias",
            _ => {}
        }
    }
    match name.strip_prefix('i') {
        Some(digits) if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) => digits,
        _ => name,
    }
}

struct KeyVisitor {
    path: KeyPath,
    keys: Vec<KeyShape>,
}

impl ModuleVisitor for KeyVisitor {
    fn enter_module(&mut self, name: &str, container_type: &str) {
        self.path.enter(name, container_type);
    }

    fn exit_module(&mut self, _name: &str, container_type: &str) {
        self.path.exit(container_type);
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let mut shape = param.lazy_shape().to_vec();
        if self.path.is_transposed() {
            shape.reverse();
        }
        self.keys.push(KeyShape { key: self.path.key(), shape, optional: false });
        if let Some(key) = self.path.batch_counter() {
            self.keys.push(KeyShape { key, shape: Vec::new(), optional: true });
        }
    }
}

/// Fills a module whose keys and shapes were compared with the file's before.
pub(super) fn apply<M: Module>(
    module: M,
    weights: &StateDict,
    device: &Device,
) -> Result<M, CheckpointError> {
    let mut loader = Loader { path: KeyPath::default(), weights, device, error: None };
    let module = module.map(&mut loader);
    match loader.error {
        Some(error) => Err(error),
        None => Ok(module),
    }
}

struct Loader<'a> {
    path: KeyPath,
    weights: &'a StateDict,
    device: &'a Device,
    error: Option<CheckpointError>,
}

impl ModuleMapper for Loader<'_> {
    fn enter_module(&mut self, name: &str, container_type: &str) {
        self.path.enter(name, container_type);
    }

    fn exit_module(&mut self, _name: &str, container_type: &str) {
        self.path.exit(container_type);
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        if self.error.is_some() {
            return param;
        }
        match self.weights.read(&self.path.key()) {
            Ok(tensor) => {
                let shape: Vec<usize> = param.lazy_shape().to_vec();
                let values = if self.path.is_transposed() {
                    transpose(&tensor.values, &tensor.shape)
                } else {
                    tensor.values
                };
                let tensor = Tensor::<D>::from_data(TensorData::new(values, shape), self.device);
                let id = param.id;
                param.transform_for_load(tensor, id)
            }
            Err(error) => {
                self.error = Some(error);
                param
            }
        }
    }
}

/// A `[rows, columns]` matrix as `[columns, rows]`, in blocks that fit the cache.
pub fn transpose(values: &[f32], shape: &[usize]) -> Vec<f32> {
    const BLOCK: usize = 32;
    let [rows, columns] = [shape[0], shape[1]];
    let mut out = vec![0.0; values.len()];
    for row_block in (0..rows).step_by(BLOCK) {
        for column_block in (0..columns).step_by(BLOCK) {
            for row in row_block..(row_block + BLOCK).min(rows) {
                for column in column_block..(column_block + BLOCK).min(columns) {
                    out[column * rows + row] = values[row * columns + column];
                }
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_translated() {
        assert_eq!(translate("i12", "Struct:X"), "12");
        assert_eq!(translate("iou_token", "Struct:X"), "iou_token");
        assert_eq!(translate("i", "Struct:X"), "i");
        assert_eq!(translate("gamma", "Struct:LayerNorm"), "weight");
        assert_eq!(translate("gamma", "Struct:X"), "gamma");
    }

    #[test]
    fn transposes_across_blocks() {
        let (rows, columns) = (70, 41);
        let values: Vec<f32> = (0..rows * columns).map(|i| i as f32).collect();
        let out = transpose(&values, &[rows, columns]);
        for r in 0..rows {
            for c in 0..columns {
                assert_eq!(out[c * rows + r], values[r * columns + c]);
            }
        }
    }
}
