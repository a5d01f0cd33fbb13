//! A state dict in a file, of either format, and the writer.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::fs::File;
use std::io::{Cursor, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::Tensor;
use pytorch_reader::{PytorchReader, Tensor as PytorchTensor};
use safetensors::tensor::{Dtype, Metadata};
use sha2::{Digest, Sha256};

use super::keys::{KeyPath, KeyShape, transpose};
use super::{CheckpointError, pickle};
use crate::tensor::HostTensor;

/// The largest header a safetensors file may have (its format's own limit).
const MAX_HEADER: u64 = 100_000_000;
/// What a gzipped file may hold.
const MOST_IN_MEMORY: u64 = 1 << 30;

/// Keys that a checkpoint may keep its state dict under.
const WRAPPERS: [&str; 2] = ["state_dict", "model"];

/// The tensors of a weight file. Only names and shapes are held until a tensor is asked for.
pub struct StateDict {
    path: PathBuf,
    metadata: HashMap<String, String>,
    entries: BTreeMap<String, Entry>,
    /// A safetensors file, open for reading its tensors.
    file: Option<Mutex<Box<dyn Content>>>,
}

/// A file, or bytes in memory.
trait Content: Read + Seek + Send {}
impl<T: Read + Seek + Send> Content for T {}

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
    /// A range of [`StateDict::file`].
    Range { start: u64, length: usize, dtype: Dtype },
}

impl fmt::Debug for StateDict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StateDict")
            .field("path", &self.path)
            .field("tensors", &self.entries.len())
            .finish_non_exhaustive()
    }
}

impl StateDict {
    /// Opens `.safetensors`, `.pt` or `.pth`; the content decides which, not the name.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, CheckpointError> {
        let path = path.as_ref();
        let io = |source| CheckpointError::Io { path: path.to_owned(), source };
        let format = |reason| CheckpointError::Format { path: path.to_owned(), reason };
        let mut file = File::open(path).map_err(io)?;
        let length = file.metadata().map_err(io)?.len();
        let mut head = Vec::new();
        (&mut file).take(512).read_to_end(&mut head).map_err(io)?;
        if head.is_empty() {
            return Err(format("it is empty".into()));
        }
        let header = head.first_chunk::<8>().map_or(u64::MAX, |bytes| u64::from_le_bytes(*bytes));
        if header <= MAX_HEADER && head.get(8) == Some(&b'{') {
            return Self::from_safetensors(path, Box::new(file), header, length);
        }
        match foreign(&head) {
            Some(what) => Err(format(format!("it is {what}, neither PyTorch nor safetensors"))),
            None => Self::from_pytorch(path),
        }
    }

    /// A gzipped safetensors file that is in memory, such as one that is part of the program. `name` stands for its path in
    /// messages.
    pub fn from_gzip(name: &str, bytes: &[u8]) -> Result<Self, CheckpointError> {
        let path = Path::new(name);
        let mut content = Vec::new();
        let decoder = flate2::read::GzDecoder::new(bytes);
        decoder
            .take(MOST_IN_MEMORY)
            .read_to_end(&mut content)
            .map_err(|source| CheckpointError::Io { path: path.to_owned(), source })?;
        let Some((header, _)) = content.split_first_chunk::<8>() else {
            let reason = format!("it has {} bytes", content.len());
            return Err(CheckpointError::Format { path: path.to_owned(), reason });
        };
        let header = u64::from_le_bytes(*header).min(MAX_HEADER);
        let length = content.len() as u64;
        Self::from_safetensors(path, Box::new(Cursor::new(content)), header, length)
    }

    /// Reads the header; the tensors are read from the file when they are asked for.
    fn from_safetensors(
        path: &Path,
        mut file: Box<dyn Content>,
        header: u64,
        length: u64,
    ) -> Result<Self, CheckpointError> {
        const LENGTH: u64 = size_of::<u64>() as u64;
        let io = |source| CheckpointError::Io { path: path.to_owned(), source };
        let format = |reason| CheckpointError::Format { path: path.to_owned(), reason };
        let start = LENGTH + header;
        if start > length {
            return Err(format(format!("its header of {header} bytes is cut off")));
        }
        let mut json = vec![0; header as usize];
        file.seek(SeekFrom::Start(LENGTH)).map_err(io)?;
        file.read_exact(&mut json).map_err(io)?;
        let metadata: Metadata =
            serde_json::from_slice(&json).map_err(|e| format(format!("its header cannot be read: {e}")))?;
        let data = check_layout(&metadata).map_err(format)?;
        if start + data != length {
            let expected = start + data;
            return Err(format(format!(
                "it has {length} bytes, its header says {expected}; is it complete?"
            )));
        }
        let entries = metadata
            .tensors()
            .into_iter()
            .map(|(key, info)| {
                let (from, to) = info.data_offsets;
                let source =
                    Source::Range { start: start + from as u64, length: to - from, dtype: info.dtype };
                (key, Entry { shape: info.shape.clone(), source })
            })
            .collect();
        let metadata = metadata.metadata().clone().unwrap_or_default();
        Ok(Self { path: path.to_owned(), metadata, entries, file: Some(Mutex::new(file)) })
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
                // It fails where the names themselves begin so; such a file is compared as it is.
                if let Ok(reader) = PytorchReader::with_top_level_key(path, wrapper) {
                    tensors = reader.into_tensors();
                }
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
        Ok(Self { path: path.to_owned(), metadata: HashMap::new(), entries, file: None })
    }

    /// Weights by formula ([`crate::formula`]) for the given keys.
    pub fn by_formula(keys: Vec<KeyShape>) -> Self {
        let entries = keys.into_iter().map(|k| (k.key, Entry { shape: k.shape, source: Source::Formula }));
        Self {
            path: PathBuf::from("(weights by formula)"),
            metadata: HashMap::new(),
            entries: entries.collect(),
            file: None,
        }
    }

    /// Only the tensors whose names begin with `prefix`, which is taken off.
    pub fn part(self, prefix: &str) -> Self {
        self.renamed(|key| Some(key.strip_prefix(prefix)?.to_owned()))
    }

    /// The same tensors under other names; those to which `name` gives none are left out.
    pub fn renamed(mut self, name: impl Fn(&str) -> Option<String>) -> Self {
        let entries = std::mem::take(&mut self.entries).into_iter();
        self.entries = entries.filter_map(|(key, entry)| Some((name(&key)?, entry))).collect();
        self
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
    pub fn read(&self, key: &str) -> Result<HostTensor, CheckpointError> {
        let format = |reason: String| CheckpointError::Format { path: self.path.clone(), reason };
        let entry = self.entries.get(key).ok_or_else(|| format(format!("there is no tensor `{key}`")))?;
        let values = match &entry.source {
            Source::Formula => crate::formula::values(key, &entry.shape),
            Source::Range { start, length, dtype } => {
                let kind = match dtype {
                    Dtype::F32 => Number::F32,
                    Dtype::F16 => Number::F16,
                    Dtype::BF16 => Number::Bf16,
                    Dtype::F64 => Number::F64,
                    Dtype::I64 => Number::I64,
                    other => return Err(format(format!("tensor `{key}` is {other:?}, expected floats"))),
                };
                let file = self.file.as_ref().ok_or_else(|| format("it is closed".into()))?;
                // Between seeking and reading nobody else may move the file's position.
                let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
                let mut bytes = vec![0; *length];
                file.seek(SeekFrom::Start(*start))
                    .and_then(|_| file.read_exact(&mut bytes))
                    .map_err(|e| format(format!("tensor `{key}`: {e}")))?;
                kind.decode(&bytes)
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
        Ok(HostTensor { shape: entry.shape.clone(), values })
    }
}

/// Checks that the tensors of a safetensors header lie one after the other without holes or overlaps, each as long as its
/// shape says; the bytes they take together.
///
/// The `safetensors` crate checks the same, but only over a buffer that holds the whole file.
fn check_layout(metadata: &Metadata) -> Result<u64, String> {
    let mut tensors: Vec<_> = metadata.tensors().into_iter().collect();
    tensors.sort_by_key(|(_, info)| info.data_offsets);
    let mut end = 0;
    for (key, info) in tensors {
        let (from, to) = info.data_offsets;
        if from != end || to < from {
            return Err(format!("tensor `{key}` lies at {from} to {to}, expected it to begin at {end}"));
        }
        let elements = info.shape.iter().try_fold(1_usize, |product, side| product.checked_mul(*side));
        let bits = elements.and_then(|n| n.checked_mul(info.dtype.bitsize()));
        if bits != (to - from).checked_mul(8) {
            let (shape, dtype) = (&info.shape, info.dtype);
            return Err(format!("tensor `{key}` of {dtype:?} {shape:?} takes {} bytes", to - from));
        }
        end = to;
    }
    Ok(end as u64)
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

/// SHA-256 of a state dict's names, shapes and values (as float32; batch counters left out), in hexadecimal.
///
/// The same for a `.pt` file and the safetensors file that was made from it.
pub fn state_dict_hash(weights: &StateDict) -> Result<String, CheckpointError> {
    let mut hash = Sha256::new();
    for key in weights.keys().filter(|key| !key.ends_with("num_batches_tracked")) {
        let tensor = weights.read(key)?;
        hash.update((key.len() as u64).to_le_bytes());
        hash.update(key);
        hash.update((tensor.shape.len() as u64).to_le_bytes());
        for side in &tensor.shape {
            hash.update((*side as u64).to_le_bytes());
        }
        let mut bytes = Vec::with_capacity(1 << 18);
        for values in tensor.values.chunks(1 << 16) {
            bytes.clear();
            bytes.extend(values.iter().flat_map(|v| v.to_le_bytes()));
            hash.update(&bytes);
        }
    }
    let mut text = String::new();
    for byte in hash.finalize() {
        let _ = fmt::Write::write_fmt(&mut text, format_args!("{byte:02x}"));
    }
    Ok(text)
}

/// All tensors of a module under the reference's names, batch counters (zero) included.
pub fn state_dict_of<M: Module>(module: &M) -> Vec<(String, HostTensor)> {
    struct Collector {
        path: KeyPath,
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
            let tensor = param.val();
            let mut shape = tensor.dims().to_vec();
            let mut values: Vec<f32> = tensor.into_data().iter::<f32>().collect();
            if self.path.is_transposed() {
                values = transpose(&values, &shape);
                shape.reverse();
            }
            self.tensors.push((self.path.key(), HostTensor { shape, values }));
            if let Some(key) = self.path.batch_counter() {
                self.tensors.push((key, HostTensor { shape: Vec::new(), values: vec![0.0] }));
            }
        }
    }

    let mut collector = Collector { path: KeyPath::default(), tensors: Vec::new() };
    module.visit(&mut collector);
    collector.tensors
}

/// How numbers are stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FloatFormat {
    /// Four bytes each, nothing lost.
    #[default]
    F32,
    /// Two bytes each, rounded to nearest.
    F16,
}

/// Writes tensors as float32 into a file, whole or not at all; see [`write_safetensors_to`].
pub fn write_safetensors(
    path: impl AsRef<Path>,
    tensors: &[(String, HostTensor)],
    metadata: &BTreeMap<String, String>,
) -> Result<(), CheckpointError> {
    kirie_data::write_atomic(path, |file| write_safetensors_to(file, tensors, metadata, FloatFormat::F32))?;
    Ok(())
}

/// Writes tensors (batch counters as int64, as PyTorch has them).
///
/// The same tensors and metadata give the same bytes, which the `safetensors` crate's own writer does not promise (its
/// metadata come in a random order); and tensors are written one after the other, not gathered first.
pub fn write_safetensors_to(
    file: &mut dyn Write,
    tensors: &[(String, HostTensor)],
    metadata: &BTreeMap<String, String>,
    format: FloatFormat,
) -> std::io::Result<()> {
    // Data of eight-byte numbers first, so that every tensor is aligned; then by name.
    let mut order: Vec<(bool, &String, &HostTensor)> =
        tensors.iter().map(|(key, tensor)| (key.ends_with(".num_batches_tracked"), key, tensor)).collect();
    order.sort_by(|a, b| b.0.cmp(&a.0).then_with(|| a.1.cmp(b.1)));

    let mut header = serde_json::Map::new();
    if !metadata.is_empty() {
        header.insert("__metadata__".to_owned(), serde_json::json!(metadata));
    }
    let mut end = 0;
    for (counter, key, tensor) in &order {
        let (dtype, size) = match format {
            _ if *counter => ("I64", 8),
            FloatFormat::F32 => ("F32", 4),
            FloatFormat::F16 => ("F16", 2),
        };
        let start = end;
        end += tensor.values.len() * size;
        header.insert(
            (*key).clone(),
            serde_json::json!({ "dtype": dtype, "shape": tensor.shape, "data_offsets": [start, end] }),
        );
    }
    let mut header = serde_json::Value::Object(header).to_string().into_bytes();
    header.resize(header.len().next_multiple_of(8), b' ');

    file.write_all(&(header.len() as u64).to_le_bytes())?;
    file.write_all(&header)?;
    for (counter, _, tensor) in &order {
        for part in tensor.values.chunks(1 << 16) {
            let bytes: Vec<u8> = match format {
                _ if *counter => part.iter().flat_map(|v| (*v as i64).to_le_bytes()).collect(),
                FloatFormat::F32 => part.iter().flat_map(|v| v.to_le_bytes()).collect(),
                FloatFormat::F16 => part.iter().flat_map(|v| half::f16::from_f32(*v).to_le_bytes()).collect(),
            };
            file.write_all(&bytes)?;
        }
    }
    Ok(())
}

/// What a file that is no checkpoint looks like, where that is plain: the usual ends of a download gone wrong.
fn foreign(head: &[u8]) -> Option<&'static str> {
    let text = String::from_utf8_lossy(head);
    let text = text.trim_start().to_lowercase();
    if text.starts_with("version https://git-lfs") {
        Some("a Git LFS pointer (the weights themselves were not fetched)")
    } else if text.starts_with("<!doctype") || text.starts_with("<html") || text.starts_with("<?xml") {
        Some("a web page")
    } else if head.starts_with(b"\x89PNG") || head.starts_with(b"\xff\xd8\xff") {
        Some("a picture")
    } else if head.iter().all(|b| matches!(b, b'\t' | b'\n' | b'\r' | b' '..=b'~')) && !head.starts_with(b"c")
    {
        Some("a text file")
    } else {
        None
    }
}
