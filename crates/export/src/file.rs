//! A graph as a file.

use std::path::{Path, PathBuf};

use kirie_data::write_atomic;
use prost::Message;

use crate::capture::{Port, Recording};
use crate::dims::{Dim, Symbol};
use crate::error::ExportError;
use crate::fold::Values;
use crate::graph::{Graph, Initializer};
use crate::proto::{
    DimensionProto, FLOAT, GraphProto, INT64, ModelProto, OperatorSetIdProto, StringStringEntryProto,
    TensorProto, TensorShapeProto, TensorTypeProto, TypeProto, ValueInfoProto,
};

/// The version of ONNX's operators that graphs are written for.
///
/// The first that has layer norm as one operation (ONNX 1.12, of 2022), and so the oldest that serves. What later ones would bring here is
/// GELU as one operation (20); written out with `Erf`, as here, it is recognised by the runtimes that have one.
pub const OPSET: i64 = 17;

/// The version of the file format that belongs to [`OPSET`].
const IR_VERSION: i64 = 8;

/// The largest protobuf message that its implementations read, bytes, with something left for the graph itself.
const LARGEST_MESSAGE: usize = (1 << 31) - (64 << 20);

/// Tensors smaller than this stay in the model file in any case, bytes.
const SMALLEST_OUTSIDE: usize = 1024;

/// Where tensors begin in the file beside a model: a multiple of this, so that it can be mapped into memory.
const ALIGNMENT: usize = 4096;

/// A model that is ready to be written.
#[derive(Debug)]
pub struct OnnxModel {
    name: String,
    graph: Graph,
    inputs: Vec<Port>,
    outputs: Vec<Port>,
    symbols: Vec<Symbol>,
    metadata: Vec<(String, String)>,
}

/// An input or output of a written graph; all are float32.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Tensor {
    /// Its name.
    pub name: String,
    /// Its shape: numbers, or names of numbers that the caller chooses.
    pub shape: Vec<serde_json::Value>,
    /// What it is.
    pub about: String,
}

/// What was written.
#[derive(Clone, Debug, PartialEq)]
pub struct Written {
    /// The model.
    pub model: PathBuf,
    /// Its weights, if they do not fit into the model file.
    pub weights: Option<PathBuf>,
    /// Size of both together, bytes.
    pub bytes: u64,
}

impl OnnxModel {
    pub(crate) fn new(
        name: String,
        graph: Graph,
        recording: Recording,
        metadata: Vec<(String, String)>,
    ) -> Self {
        let Recording { inputs, outputs, symbols, .. } = recording;
        Self { name, graph, inputs, outputs, symbols, metadata }
    }

    /// What the graph takes.
    pub fn inputs(&self) -> Vec<Tensor> {
        self.inputs.iter().map(|port| self.describe(port)).collect()
    }

    /// What the graph gives.
    pub fn outputs(&self) -> Vec<Tensor> {
        self.outputs.iter().map(|port| self.describe(port)).collect()
    }

    /// How many nodes the graph has.
    pub fn nodes(&self) -> usize {
        self.graph.nodes.len()
    }

    /// ONNX's names of the operations that the graph uses, each once, in alphabetical order.
    pub fn operations(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.graph.nodes.iter().map(|node| node.op_type.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    /// Names and shapes of the constants.
    pub fn constants(&self) -> impl Iterator<Item = (&str, &[usize])> {
        self.graph.initializers.iter().map(|tensor| (tensor.name.as_str(), tensor.constant.shape.as_slice()))
    }

    fn describe(&self, port: &Port) -> Tensor {
        let shape = port.dims.iter().map(|dim| match self.side(*dim) {
            Ok(length) => length.into(),
            Err(name) => name.into(),
        });
        Tensor { name: port.name.to_owned(), shape: shape.collect(), about: port.about.to_owned() }
    }

    /// The length of a side or its name.
    fn side(&self, dim: Dim) -> Result<usize, String> {
        match dim {
            Dim::Fixed(length) => Ok(length),
            Dim::Free { symbol, times: 1, plus: 0 } => Err(self.symbols[symbol].name.to_owned()),
            Dim::Free { symbol, times, plus } => Err(format!("{times}*{}+{plus}", self.symbols[symbol].name)),
        }
    }

    fn port(&self, port: &Port) -> ValueInfoProto {
        let dim = port.dims.iter().map(|dim| match self.side(*dim) {
            Ok(length) => DimensionProto { dim_value: Some(length as i64), dim_param: None },
            Err(name) => DimensionProto { dim_value: None, dim_param: Some(name) },
        });
        let shape = TensorShapeProto { dim: dim.collect() };
        let kind = TypeProto { tensor_type: Some(TensorTypeProto { elem_type: FLOAT, shape: Some(shape) }) };
        ValueInfoProto { name: port.name.to_owned(), kind: Some(kind), doc_string: port.about.to_owned() }
    }

    /// The model as a message, `tensors` being its constants.
    fn message(&self, tensors: Vec<TensorProto>) -> ModelProto {
        let entry = |(key, value): &(String, String)| StringStringEntryProto {
            key: key.clone(),
            value: value.clone(),
        };
        ModelProto {
            ir_version: IR_VERSION,
            producer_name: "kirie".to_owned(),
            producer_version: env!("CARGO_PKG_VERSION").to_owned(),
            doc_string: self.name.clone(),
            graph: Some(GraphProto {
                node: self.graph.nodes.clone(),
                name: self.name.clone(),
                initializer: tensors,
                input: self.inputs.iter().map(|port| self.port(port)).collect(),
                output: self.outputs.iter().map(|port| self.port(port)).collect(),
            }),
            opset_import: vec![OperatorSetIdProto { domain: Some(String::new()), version: OPSET }],
            metadata_props: self.metadata.iter().map(entry).collect(),
        }
    }

    /// The model in one piece, weights included.
    pub fn to_bytes(&self) -> Vec<u8> {
        let tensors = self.graph.initializers.iter();
        self.message(tensors.map(|tensor| proto(tensor, Some(bytes_of(&tensor.constant.values)))).collect())
            .encode_to_vec()
    }

    /// Writes the model; its weights go to a file beside it, `NAME.onnx.data`, if they are more than a protobuf message can be (2 GB).
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(&self, path: &Path) -> Result<Written, ExportError> {
        self.write_within(path, LARGEST_MESSAGE)
    }

    /// The same with another limit, bytes.
    pub(crate) fn write_within(&self, path: &Path, limit: usize) -> Result<Written, ExportError> {
        let total: usize =
            self.graph.initializers.iter().map(|tensor| size_of(&tensor.constant.values)).sum();
        if total <= limit {
            let bytes = self.to_bytes();
            write_atomic(path, |file| file.write_all(&bytes))?;
            return Ok(Written { model: path.to_owned(), weights: None, bytes: bytes.len() as u64 });
        }
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let name = format!("{name}.data");
        let beside = path.with_file_name(&name);
        let mut tensors = Vec::new();
        let mut end = 0_usize;
        for tensor in &self.graph.initializers {
            let size = size_of(&tensor.constant.values);
            if size < SMALLEST_OUTSIDE {
                tensors.push(proto(tensor, Some(bytes_of(&tensor.constant.values))));
                continue;
            }
            let offset = end.next_multiple_of(ALIGNMENT);
            end = offset + size;
            let entries =
                [("location", name.clone()), ("offset", offset.to_string()), ("length", size.to_string())];
            tensors.push(TensorProto {
                external_data: entries
                    .map(|(key, value)| StringStringEntryProto { key: key.to_owned(), value })
                    .to_vec(),
                data_location: Some(1),
                ..proto(tensor, None)
            });
        }
        // The weights first: a model is never there without them.
        write_atomic(&beside, |file| {
            let mut at = 0_usize;
            for tensor in &self.graph.initializers {
                let size = size_of(&tensor.constant.values);
                if size >= SMALLEST_OUTSIDE {
                    file.write_all(&vec![0; at.next_multiple_of(ALIGNMENT) - at])?;
                    file.write_all(&bytes_of(&tensor.constant.values))?;
                    at = at.next_multiple_of(ALIGNMENT) + size;
                }
            }
            Ok(())
        })?;
        let bytes = self.message(tensors).encode_to_vec();
        write_atomic(path, |file| file.write_all(&bytes))?;
        Ok(Written { model: path.to_owned(), weights: Some(beside), bytes: (bytes.len() + end) as u64 })
    }
}

fn proto(tensor: &Initializer, raw: Option<Vec<u8>>) -> TensorProto {
    let data_type = match &*tensor.constant.values {
        Values::Floats(_) => FLOAT,
        Values::Ints(_) => INT64,
    };
    TensorProto {
        dims: tensor.constant.shape.iter().map(|side| *side as i64).collect(),
        data_type,
        name: tensor.name.clone(),
        raw_data: raw,
        external_data: Vec::new(),
        data_location: None,
    }
}

/// Size in the file, bytes.
fn size_of(values: &Values) -> usize {
    match values {
        Values::Floats(values) => 4 * values.len(),
        Values::Ints(values) => 8 * values.len(),
    }
}

fn bytes_of(values: &Values) -> Vec<u8> {
    match values {
        Values::Floats(values) => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
        Values::Ints(values) => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
    }
}

#[cfg(test)]
mod tests {
    use rten_tensor::AsView;

    use super::*;
    use crate::fold::Constant;

    /// `y = x + a + b`, with weights of 2 kB.
    fn model() -> OnnxModel {
        let mut graph = Graph::default();
        let line = |offset: f32| Values::Floats((0..512).map(|i| i as f32 + offset).collect());
        let a = graph.constant(&Constant::new(vec![512], line(0.25)));
        let b = graph.constant(&Constant::new(vec![512], line(0.5)));
        let sum = graph.node("Add", &["x", &a], Vec::new());
        let sum = graph.node("Add", &[&sum, &b], Vec::new());
        graph.output(&sum, "y");
        let id = burn::backend::ir::TensorId::new(0);
        let port = |name| Port { name, about: "", id, dims: vec![Dim::Fixed(512)] };
        let metadata = vec![("model".to_owned(), "sum".to_owned())];
        OnnxModel {
            name: "sum".to_owned(),
            graph,
            inputs: vec![port("x")],
            outputs: vec![port("y")],
            symbols: Vec::new(),
            metadata,
        }
    }

    #[test]
    fn weights_beside_the_model_are_found() {
        let folder = tempfile::tempdir().unwrap();
        let (inside, outside) = (folder.path().join("in.onnx"), folder.path().join("out.onnx"));
        let first = model().write(&inside).unwrap();
        assert_eq!(first.weights, None);
        assert_eq!(first.bytes, std::fs::metadata(&inside).unwrap().len());
        let second = model().write_within(&outside, 1000).unwrap();
        let beside = folder.path().join("out.onnx.data");
        assert_eq!(second.weights.as_deref(), Some(beside.as_path()));
        assert_eq!(std::fs::metadata(&beside).unwrap().len(), 4096 + 2048);
        assert!(std::fs::metadata(&outside).unwrap().len() < 1000);
        for path in [inside, outside] {
            let loaded = rten::Model::load_file(path).unwrap();
            let x = rten_tensor::NdTensor::<f32, 1>::zeros([512]);
            let y = loaded.run_one(x.view().into(), None).unwrap();
            let y: rten_tensor::NdTensor<f32, 1> = y.try_into().unwrap();
            assert_eq!(y.to_vec(), (0..512).map(|i| 2.0 * i as f32 + 0.75).collect::<Vec<_>>());
        }
    }
}
