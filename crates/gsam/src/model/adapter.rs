//! What was learnt, in a file of its own: the trained parameters, the running statistics of batch norms that changed with them, and
//! enough about the base to refuse another.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{Device, Tensor};
use kirie_sam::HostTensor;
use kirie_sam::checkpoint::{
    FloatFormat, KeyPath, StateDict, compare, state_dict_hash, transpose, write_safetensors_to,
};

use super::base::fill;
use super::{ModelError, SemanticConfig, SemanticModel};

/// Says what the file is, in its metadata under `format`.
const FORMAT: &str = "kirie-semantic-adapter-1";

/// What an adapter file says about itself.
#[derive(Clone, Debug, PartialEq)]
pub struct AdapterInfo {
    /// The model it belongs to: base, classes, method.
    pub config: SemanticConfig,
    /// [`state_dict_hash`] of the base it was trained on.
    pub base_hash: String,
    /// What the caller said of the classes when it was saved: names, colours, as JSON.
    pub classes: String,
}

/// Writes what a model has learnt, whole or not at all.
///
/// `base_hash` is the [`state_dict_hash`] of the base's weights; `classes` is kept as it is, for the caller's names and colours
/// of the classes (JSON).
pub fn save_adapter(
    path: &Path,
    model: &SemanticModel,
    base_hash: &str,
    classes: &str,
) -> Result<(), ModelError> {
    let config = model.config();
    let json = serde_json::to_string(config)
        .map_err(|e| ModelError::Adapter { path: path.to_owned(), reason: e.to_string() })?;
    let metadata = BTreeMap::from([
        ("format".to_owned(), FORMAT.to_owned()),
        ("base".to_owned(), config.base.clone()),
        ("base_sha256".to_owned(), base_hash.to_owned()),
        ("config".to_owned(), json),
        ("classes".to_owned(), classes.to_owned()),
    ]);
    let tensors = stored_tensors(model);
    kirie_data::write_atomic(path, |file| write_safetensors_to(file, &tensors, &metadata, FloatFormat::F32))?;
    Ok(())
}

/// The tensors of an adapter file.
fn stored_tensors(model: &SemanticModel) -> Vec<(String, HostTensor)> {
    struct Collector {
        path: KeyPath,
        wanted: HashSet<String>,
        tensors: Vec<(String, HostTensor)>,
    }
    impl ModuleVisitor for Collector {
        fn enter_module(&mut self, name: &str, container_type: &str) {
            self.path.enter(name, container_type);
        }
        fn exit_module(&mut self, _name: &str, container_type: &str) {
            self.path.exit(container_type);
        }
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let key = self.path.key();
            if !self.wanted.contains(&key) {
                return;
            }
            let tensor = param.base();
            let mut shape = tensor.dims().to_vec();
            let mut values: Vec<f32> = tensor.into_data().iter::<f32>().collect();
            if self.path.is_transposed() {
                values = transpose(&values, &shape);
                shape.reverse();
            }
            self.tensors.push((key, HostTensor { shape, values }));
        }
    }
    // Without autodiff: that also brings running statistics up to date.
    let model = model.valid();
    let wanted = model.config().stored(&model).into_iter().map(|key| key.key).collect();
    let mut collector = Collector { path: KeyPath::default(), wanted, tensors: Vec::new() };
    model.visit(&mut collector);
    collector.tensors
}

/// What an adapter file says about itself. Opens nothing but its header.
pub fn adapter_info(path: &Path) -> Result<AdapterInfo, ModelError> {
    info_of(&StateDict::open(path)?)
}

fn info_of(file: &StateDict) -> Result<AdapterInfo, ModelError> {
    let bad = |reason: String| ModelError::Adapter { path: file.path().to_owned(), reason };
    let entry = |name: &str| {
        let value = file.metadata().get(name).cloned();
        value.ok_or_else(|| bad(format!("its metadata have no `{name}`")))
    };
    let format = entry("format")?;
    if format != FORMAT {
        return Err(bad(format!("its format is `{format}`, expected `{FORMAT}`")));
    }
    let config: SemanticConfig = serde_json::from_str(&entry("config")?)
        .map_err(|e| bad(format!("its configuration cannot be read: {e}")))?;
    config.check()?;
    Ok(AdapterInfo { config, base_hash: entry("base_sha256")?, classes: entry("classes")? })
}

/// Puts an adapter on its base.
///
/// # Errors
/// [`ModelError::WrongBase`] where the base's weights are not those it was trained on; a file that is no adapter, or has other tensors
/// than its configuration says.
pub fn load_adapter(
    path: &Path,
    base: &StateDict,
    device: &Device,
) -> Result<(SemanticModel, AdapterInfo), ModelError> {
    let file = StateDict::open(path)?;
    let info = info_of(&file)?;
    let found = state_dict_hash(base)?;
    if found != info.base_hash {
        let name = base.metadata().get("model").cloned();
        return Err(ModelError::WrongBase {
            path: path.to_owned(),
            expected_name: info.config.base.clone(),
            expected: info.base_hash,
            found_name: name.unwrap_or_else(|| base.path().display().to_string()),
            found,
        });
    }
    let (model, _) = info.config.init_from(base, device, 0)?;
    let mismatch = compare(&info.config.stored(&model), &file);
    if !mismatch.is_empty() {
        return Err(ModelError::Adapter { path: path.to_owned(), reason: mismatch.to_string() });
    }
    let model = fill(model, |key, _| {
        Ok(if file.shape(key).is_some() { Some(file.read(key)?.values) } else { None })
    })?;
    Ok((model, info))
}
