//! A state dict in a file, of either format, and the writer.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::io::Read;
use std::path::{Path, PathBuf};

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::Tensor;
use pytorch_reader::{PytorchReader, Tensor as PytorchTensor};
use safetensors::tensor::{Dtype, SafeTensors, View};

use super::keys::{KeyPath, KeyShape, transpose};
use super::{CheckpointError, pickle};

/// The largest header a safetensors file may have (its format's own limit).
const MAX_HEADER: u64 = 100_000_000;

/// Keys that a checkpoint may keep its state dict under.
const WRAPPERS: [&str; 2] = ["state_dict", "model"];

/// A tensor of a state dict, in the reference's layout.
#[derive(Debug, Clone, PartialEq)]
pub struct StateTensor {
    /// Its shape.
    pub shape: Vec<usize>,
    /// Its values in row-major order.
    pub values: Vec<f32>,
}

/// The tensors of a weight file. Only names and shapes are held until a tensor is asked for.
#[derive(Debug)]
pub struct StateDict {
    path: PathBuf,
    metadata: HashMap<String, String>,
    entries: BTreeMap<String, Entry>,
    /// The whole of a safetensors file.
    bytes: Vec<u8>,
}

#[derive(Debug)]
struct Entry {
    shape: Vec<usize>,
    source: Source,
}

#[derive(Debug)]
enum Source {
    /// From a `.pt` file.
    Pytorch(PytorchTensor),
    /// Made when asked for.
    Formula,
    /// A range of [`StateDict::bytes`].
    Bytes { start: usize, end: usize, dtype: Dtype },
}

impl StateDict {
    /// Opens `.safetensors`, `.pt` or `.pth`; the content decides which, not the name.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, CheckpointError> {
        let path = path.as_ref();
        let io = |source| CheckpointError::Io { path: path.to_owned(), source };
        let mut file = std::fs::File::open(path).map_err(io)?;
        let length = file.metadata().map_err(io)?.len();
        if length == 0 {
            return Err(CheckpointError::Format { path: path.to_owned(), reason: "it is empty".into() });
        }
        let mut head = [0_u8; 9];
        let read = file.read(&mut head).map_err(io)?;
        let header = u64::from_le_bytes(head[..8].try_into().unwrap_or([255; 8]));
        if read == head.len() && header <= MAX_HEADER && head[8] == b'{' {
            let mut bytes = Vec::with_capacity(length as usize);
            bytes.extend_from_slice(&head);
            file.read_to_end(&mut bytes).map_err(io)?;
            Self::from_safetensors(path, bytes)
        } else {
            Self::from_pytorch(path)
        }
    }

    /// Reads `.safetensors` bytes; `path` names them in errors.
    pub fn from_safetensors(path: &Path, bytes: Vec<u8>) -> Result<Self, CheckpointError> {
        let format = |error: safetensors::SafeTensorError| CheckpointError::Format {
            path: path.to_owned(),
            reason: format!("{error} (is the file complete?)"),
        };
        let (header, metadata) = SafeTensors::read_metadata(&bytes).map_err(format)?;
        let start = header + size_of::<u64>();
        let entries = metadata
            .tensors()
            .into_iter()
            .map(|(key, info)| {
                let (from, to) = info.data_offsets;
                let source = Source::Bytes { start: start + from, end: start + to, dtype: info.dtype };
                (key, Entry { shape: info.shape.clone(), source })
            })
            .collect();
        let metadata = metadata.metadata().clone().unwrap_or_default();
        Ok(Self { path: path.to_owned(), metadata, entries, bytes })
    }

    fn from_pytorch(path: &Path) -> Result<Self, CheckpointError> {
        pickle::check(path)?;
        let format = |error: pytorch_reader::PytorchError| CheckpointError::Format {
            path: path.to_owned(),
            reason: error.to_string(),
        };
        let reader = PytorchReader::new(path).map_err(format)?;
        let mut tensors = reader.into_tensors();
        // A checkpoint of a training run keeps the state dict beside other things, under a known key.
        for wrapper in WRAPPERS {
            let prefix = format!("{wrapper}.");
            if tensors.keys().any(|key| key.starts_with(&prefix)) {
                tensors = PytorchReader::with_top_level_key(path, wrapper).map_err(format)?.into_tensors();
                break;
            }
        }
        if tensors.is_empty() {
            let reason = "it holds no tensors".to_owned();
            return Err(CheckpointError::Format { path: path.to_owned(), reason });
        }
        let entries = tensors
            .into_iter()
            .map(|(key, tensor)| {
                (key, Entry { shape: tensor.shape().to_vec(), source: Source::Pytorch(tensor) })
            })
            .collect();
        Ok(Self { path: path.to_owned(), metadata: HashMap::new(), entries, bytes: Vec::new() })
    }

    /// Weights by formula ([`crate::formula`]) for the given keys.
    pub fn by_formula(keys: Vec<KeyShape>) -> Self {
        let entries = keys.into_iter().map(|k| (k.key, Entry { shape: k.shape, source: Source::Formula }));
        Self {
            path: PathBuf::from("(weights by formula)"),
            metadata: HashMap::new(),
            entries: entries.collect(),
            bytes: Vec::new(),
        }
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The names, in alphabetical order.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    /// The shape of a tensor.
    pub fn shape(&self, key: &str) -> Option<&[usize]> {
        self.entries.get(key).map(|entry| entry.shape.as_slice())
    }

    /// What a safetensors file says about itself.
    pub fn metadata(&self) -> &HashMap<String, String> {
        &self.metadata
    }

    /// Reads a tensor; float16, bfloat16, float64 and int64 become float32.
    pub fn read(&self, key: &str) -> Result<StateTensor, CheckpointError> {
        let format = |reason: String| CheckpointError::Format { path: self.path.clone(), reason };
        let entry = self.entries.get(key).ok_or_else(|| format(format!("there is no tensor `{key}`")))?;
        let values = match &entry.source {
            Source::Formula => crate::formula::values(key, &entry.shape),
            Source::Bytes { start, end, dtype } => {
                let kind = match dtype {
                    Dtype::F32 => Number::F32,
                    Dtype::F16 => Number::F16,
                    Dtype::BF16 => Number::Bf16,
                    Dtype::F64 => Number::F64,
                    Dtype::I64 => Number::I64,
                    other => return Err(format(format!("tensor `{key}` is {other:?}, expected floats"))),
                };
                let bytes = self.bytes.get(*start..*end);
                kind.decode(bytes.ok_or_else(|| format(format!("tensor `{key}` is cut off")))?)
            }
            Source::Pytorch(tensor) => {
                use pytorch_reader::DType;
                let kind = match tensor.dtype() {
                    DType::F32 => Number::F32,
                    DType::F16 => Number::F16,
                    DType::BF16 => Number::Bf16,
                    DType::F64 => Number::F64,
                    DType::I64 => Number::I64,
                    other => return Err(format(format!("tensor `{key}` is {other:?}, expected floats"))),
                };
                let bytes = tensor.read().map_err(|e| format(format!("tensor `{key}`: {e}")))?;
                kind.decode(&bytes)
            }
        };
        let expected: usize = entry.shape.iter().product();
        if values.len() != expected {
            return Err(format(format!("tensor `{key}` has {} values, expected {expected}", values.len())));
        }
        Ok(StateTensor { shape: entry.shape.clone(), values })
    }
}

/// The number types that checkpoints hold, little-endian.
enum Number {
    F32,
    F16,
    Bf16,
    F64,
    /// Counters.
    I64,
}

impl Number {
    fn decode(&self, bytes: &[u8]) -> Vec<f32> {
        fn each<const N: usize>(bytes: &[u8], f: impl Fn([u8; N]) -> f32) -> Vec<f32> {
            bytes.as_chunks::<N>().0.iter().map(|chunk| f(*chunk)).collect()
        }
        match self {
            Self::F32 => each(bytes, f32::from_le_bytes),
            Self::F16 => each(bytes, |b| half::f16::from_le_bytes(b).to_f32()),
            Self::Bf16 => each(bytes, |b| half::bf16::from_le_bytes(b).to_f32()),
            Self::F64 => each(bytes, |b| f64::from_le_bytes(b) as f32),
            Self::I64 => each(bytes, |b| i64::from_le_bytes(b) as f32),
        }
    }
}

/// All tensors of a module under the reference's names, batch counters (zero) included.
pub fn state_dict_of<M: Module>(module: &M) -> Vec<(String, StateTensor)> {
    struct Collector {
        path: KeyPath,
        tensors: Vec<(String, StateTensor)>,
    }

    impl ModuleVisitor for Collector {
        fn enter_module(&mut self, name: &str, container_type: &str) {
            self.path.enter(name, container_type);
        }

        fn exit_module(&mut self, _name: &str, container_type: &str) {
            self.path.exit(container_type);
        }

        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let tensor = param.val();
            let mut shape = tensor.dims().to_vec();
            let mut values: Vec<f32> = tensor.into_data().iter::<f32>().collect();
            if self.path.is_transposed() {
                values = transpose(&values, &shape);
                shape.reverse();
            }
            self.tensors.push((self.path.key(), StateTensor { shape, values }));
            if let Some(key) = self.path.batch_counter() {
                self.tensors.push((key, StateTensor { shape: Vec::new(), values: vec![0.0] }));
            }
        }
    }

    let mut collector = Collector { path: KeyPath::default(), tensors: Vec::new() };
    module.visit(&mut collector);
    collector.tensors
}

/// Writes tensors as float32 (batch counters as int64, as PyTorch has them), whole or not at all.
pub fn write_safetensors(
    path: impl AsRef<Path>,
    tensors: &[(String, StateTensor)],
    metadata: HashMap<String, String>,
) -> Result<(), CheckpointError> {
    let path = path.as_ref();
    let views = tensors.iter().map(|(key, tensor)| {
        (key.as_str(), Named { tensor, counter: key.ends_with(".num_batches_tracked") })
    });
    let bytes = safetensors::serialize(views, Some(metadata))
        .map_err(|error| CheckpointError::Format { path: path.to_owned(), reason: error.to_string() })?;
    kirie_data::write_atomic(path, |file| file.write_all(&bytes))?;
    Ok(())
}

struct Named<'a> {
    tensor: &'a StateTensor,
    counter: bool,
}

impl View for Named<'_> {
    fn dtype(&self) -> Dtype {
        if self.counter { Dtype::I64 } else { Dtype::F32 }
    }

    fn shape(&self) -> &[usize] {
        &self.tensor.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        let values = self.tensor.values.iter();
        Cow::Owned(if self.counter {
            values.flat_map(|v| (*v as i64).to_le_bytes()).collect()
        } else {
            values.flat_map(|v| v.to_le_bytes()).collect()
        })
    }

    fn data_len(&self) -> usize {
        self.tensor.values.len() * if self.counter { 8 } else { 4 }
    }
}
