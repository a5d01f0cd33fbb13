//! From Burn's operations to ONNX nodes.

mod ops;

use std::collections::{BTreeMap, HashMap};

use burn::backend::ir::{
    BaseOperationIr, FloatOperationIr, ModuleOperationIr, NumericOperationIr, OperationIr, TensorId, TensorIr,
};
use burn::tensor::{DType, TensorData};

use crate::capture::Recording;
use crate::dims::Dim;
use crate::error::ExportError;
use crate::fold::{Constant, evaluate};
use crate::graph::Graph;

/// Turns a recording into a graph; inputs and outputs have the names of their ports. The recording's values move into the graph.
pub(crate) fn lower(recording: &mut Recording) -> Result<Graph, ExportError> {
    let mut graph = Graph::default();
    let mut values = HashMap::new();
    for port in &recording.inputs {
        graph.reserve(port.name);
        values.insert(port.id, port.name.to_owned());
    }
    recording.outputs.iter().for_each(|port| graph.reserve(port.name));
    // A large model is not to be in memory twice.
    let data = std::mem::take(&mut recording.values);
    let recording = &*recording;
    let mut lowering = Lowering {
        recording,
        data,
        graph,
        constants: HashMap::new(),
        values,
        place: String::new(),
        uses: uses(recording),
    };
    for (index, operation) in recording.operations.iter().enumerate() {
        lowering.operation(index, operation)?;
    }
    for port in &recording.outputs {
        let value = lowering.name(port.id, || port.name.to_owned())?;
        lowering.graph.output(&value, port.name);
    }
    Ok(lowering.graph)
}

/// The operations that read a tensor, by their places.
fn uses(recording: &Recording) -> HashMap<TensorId, Vec<usize>> {
    let mut uses: HashMap<TensorId, Vec<usize>> = HashMap::new();
    for (index, operation) in recording.operations.iter().enumerate() {
        for tensor in operation.inputs() {
            uses.entry(tensor.id).or_default().push(index);
        }
    }
    uses
}

struct Lowering<'a> {
    recording: &'a Recording,
    /// Tensors that were there before the operations and are not read yet.
    data: BTreeMap<TensorId, TensorData>,
    graph: Graph,
    /// Tensors whose values are known.
    constants: HashMap<TensorId, Constant>,
    /// Names of tensors that are in the graph.
    values: HashMap<TensorId, String>,
    /// The last parameter that was seen.
    place: String,
    uses: HashMap<TensorId, Vec<usize>>,
}

impl Lowering<'_> {
    fn operation(&mut self, index: usize, operation: &OperationIr) -> Result<(), ExportError> {
        for tensor in operation.inputs() {
            self.load(tensor)?;
        }
        // A size that the caller chooses is none to compute with.
        if let Some(out) = operation.outputs().next()
            && self.dims(out)?.iter().all(|dim| dim.fixed().is_some())
            && let Some(constant) = evaluate(operation, |tensor| self.constants.get(&tensor.id))
        {
            self.constants.insert(out.id, constant);
            return Ok(());
        }
        let parameters =
            operation.inputs().filter_map(|tensor| self.constants.get(&tensor.id)?.name.as_deref());
        if let Some(name) = parameters.last() {
            self.place = name.to_owned();
            self.graph.enter(name);
        }
        if let OperationIr::BaseFloat(BaseOperationIr::Expand(op)) = operation
            && self.is_broadcast(index, &op.out)
        {
            return self.alias(&op.input, &op.out);
        }
        let out = self.node(operation)?;
        match (out, operation.outputs().next()) {
            (Some(value), Some(tensor)) => {
                self.values.insert(tensor.id, value);
                Ok(())
            }
            _ => Err(self.unknown(operation)),
        }
    }

    /// Takes note of a tensor that was there before the operations.
    fn load(&mut self, tensor: &TensorIr) -> Result<(), ExportError> {
        if self.values.contains_key(&tensor.id) || self.constants.contains_key(&tensor.id) {
            return Ok(());
        }
        let name = self.recording.names.get(&tensor.id);
        let Some(data) = self.data.remove(&tensor.id) else {
            return Err(ExportError::Capture(format!("tensor {} comes from nowhere", tensor.id)));
        };
        let Some(constant) = Constant::from_data(data, name) else {
            let place = name.map_or_else(|| self.place(), Clone::clone);
            return Err(ExportError::Type { found: format!("{:?}", tensor.dtype), place });
        };
        self.constants.insert(tensor.id, constant);
        Ok(())
    }

    /// The name of a tensor in the graph; a constant goes into it now.
    fn name(&mut self, id: TensorId, place: impl Fn() -> String) -> Result<String, ExportError> {
        if let Some(name) = self.values.get(&id) {
            return Ok(name.clone());
        }
        let Some(constant) = self.constants.get(&id) else {
            return Err(ExportError::Capture(format!("{} is never computed", place())));
        };
        let name = self.graph.constant(constant);
        self.values.insert(id, name.clone());
        Ok(name)
    }

    fn value(&mut self, tensor: &TensorIr) -> Result<String, ExportError> {
        self.name(tensor.id, || format!("a tensor beside {tensor:?}"))
    }

    fn dims(&self, tensor: &TensorIr) -> Result<Vec<Dim>, ExportError> {
        let known = self.recording.dims.get(&tensor.id).cloned();
        known.ok_or_else(|| ExportError::Capture(format!("the shape of tensor {} is not known", tensor.id)))
    }

    /// Another name for the same values.
    fn alias(&mut self, input: &TensorIr, out: &TensorIr) -> Result<(), ExportError> {
        let value = self.value(input)?;
        self.values.insert(out.id, value);
        Ok(())
    }

    /// Whether all that read an enlarged tensor would enlarge it themselves: ONNX's operations on every element and its matrix
    /// products repeat sides of one without a copy.
    fn is_broadcast(&self, index: usize, enlarged: &TensorIr) -> bool {
        let recording = self.recording;
        let is_output = recording.outputs.iter().any(|port| port.id == enlarged.id);
        let plain = |tensor: &TensorIr| {
            tensor.id != enlarged.id
                && !recording.operations[..].iter().enumerate().any(|(at, operation)| {
                    at != index
                        && matches!(operation, OperationIr::BaseFloat(BaseOperationIr::Expand(op)) if op.out.id == tensor.id)
                })
        };
        let readers = self.uses.get(&enlarged.id).map_or(&[][..], Vec::as_slice);
        !is_output
            && readers.iter().all(|reader| match &recording.operations[*reader] {
                OperationIr::NumericFloat(
                    _,
                    NumericOperationIr::Add(op)
                    | NumericOperationIr::Sub(op)
                    | NumericOperationIr::Mul(op)
                    | NumericOperationIr::Div(op),
                ) => {
                    let other = if op.lhs.id == enlarged.id { &op.rhs } else { &op.lhs };
                    plain(other) && other.shape == op.out.shape
                }
                OperationIr::Float(_, FloatOperationIr::Matmul(op)) => {
                    let other = if op.lhs.id == enlarged.id { &op.rhs } else { &op.lhs };
                    let outer = |tensor: &TensorIr| tensor.shape[..tensor.shape.num_dims() - 2].to_vec();
                    plain(other) && outer(other) == outer(&op.out)
                }
                // Queries have the whole shape; keys, values and biases may be shared.
                OperationIr::Module(ModuleOperationIr::Attention(op)) => plain(&op.query),
                _ => false,
            })
    }

    /// Beside which parameters the lowering is.
    fn place(&self) -> String {
        if self.place.is_empty() { "the beginning of the model".to_owned() } else { self.place.clone() }
    }

    fn unknown(&self, operation: &OperationIr) -> ExportError {
        ExportError::Operation { operation: name_of(operation), place: self.place() }
    }

    fn misshapen(&self, operation: &str, reason: &str) -> ExportError {
        ExportError::Shape { operation: operation.to_owned(), place: self.place(), reason: reason.to_owned() }
    }

    /// A list with the shape of a tensor, some sides of which are known only when the graph runs.
    fn shape_at_run_time(&mut self, dims: &[Dim]) -> Result<String, ExportError> {
        let mut parts = Vec::new();
        let mut fixed = Vec::new();
        for dim in dims {
            match dim {
                Dim::Fixed(side) => fixed.push(*side as i64),
                Dim::Free { symbol, times, plus } => {
                    if !fixed.is_empty() {
                        parts.push(self.graph.ints(&fixed));
                        fixed.clear();
                    }
                    let mut side = self.symbol(*symbol)?;
                    if *times != 1 {
                        let times = self.graph.ints(&[*times as i64]);
                        side = self.graph.node("Mul", &[&side, &times], Vec::new());
                    }
                    if *plus != 0 {
                        let plus = self.graph.ints(&[*plus as i64]);
                        side = self.graph.node("Add", &[&side, &plus], Vec::new());
                    }
                    parts.push(side);
                }
            }
        }
        if !fixed.is_empty() {
            parts.push(self.graph.ints(&fixed));
        }
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        Ok(self.graph.node("Concat", &parts, vec![ops::axis(0)]))
    }

    /// A symbol's value as a list of one integer, read from the shape of an input.
    fn symbol(&mut self, symbol: usize) -> Result<String, ExportError> {
        let wanted = Dim::Free { symbol, times: 1, plus: 0 };
        let source = self.recording.inputs.iter().find_map(|port| {
            let axis = port.dims.iter().position(|dim| *dim == wanted)?;
            Some((port.name, axis))
        });
        let Some((name, axis)) = source else {
            return Err(self.misshapen("shape", "no input has the length that it follows"));
        };
        let shape = self.graph.node("Shape", &[name], Vec::new());
        let axis = self.graph.ints(&[axis as i64]);
        Ok(self.graph.node("Gather", &[&shape, &axis], vec![ops::axis(0)]))
    }
}

/// The name of an operation in Burn.
pub(crate) fn name_of(operation: &OperationIr) -> String {
    let text = format!("{operation:?}");
    // `Kind(Name(Details ..` or `Kind(F32, Name(Details ..` or `Kind(Details {`
    let mut words = text.split('(').map(|word| {
        let word = word.split(['{', ')']).next().unwrap_or(word).trim();
        word.rsplit(", ").next().unwrap_or(word)
    });
    let kind = words.next().unwrap_or_default();
    words.next().map_or_else(|| kind.to_owned(), |name| format!("{kind}::{name}"))
}

/// ONNX's number for an element type.
fn element_type(dtype: DType) -> Option<i32> {
    match dtype {
        DType::F32 => Some(crate::proto::FLOAT),
        DType::I64 | DType::I32 => Some(crate::proto::INT64),
        DType::Bool(_) => Some(crate::proto::BOOL),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use burn::module::{Initializer, Module, Param};
    use burn::tensor::{Device, Tensor};

    use super::*;
    use crate::capture::{Recorder, Side, record};
    use crate::dims::Symbol;

    #[derive(Module, Debug)]
    struct Scale {
        weight: Param<Tensor<1>>,
    }

    fn export(
        symbols: &[Symbol],
        build: impl Fn(&Scale, &mut Recorder),
    ) -> Result<crate::graph::Graph, ExportError> {
        let scale = Scale { weight: Initializer::Ones.init([3], &Device::flex()) };
        lower(&mut record(&scale, symbols, build)?)
    }

    #[test]
    fn what_is_not_known_is_named_with_its_place() {
        let error = export(&[], |scale, recorder| {
            let x = recorder.input("x", "", [Side::Fixed(3)]);
            recorder.output("y", "", &(x * scale.weight.val()).atan());
        });
        let text = error.unwrap_err().to_string();
        assert_eq!(text, "the exporter does not know the operation Float::ArcTan, found in weight");
    }

    #[test]
    fn what_depends_on_a_free_size_in_another_way_is_refused() {
        let symbols = [Symbol { name: "n", probes: [2, 5] }];
        let refused = |build: &dyn Fn(Tensor<2>) -> Tensor<2>| {
            let found = export(&symbols, |scale, recorder| {
                let x =
                    recorder.input("x", "", [Side::Free(0), Side::Fixed(3)]) * scale.weight.val().unsqueeze();
                recorder.output("y", "", &build(x));
            });
            found.map(|graph| graph.nodes.len()).map_err(|error| error.to_string())
        };
        assert_eq!(refused(&|x| x), Ok(1));
        let other = |x: Tensor<2>| if x.dims()[0] > 3 { x.exp() } else { x };
        assert!(refused(&other).unwrap_err().contains("another number of operations"));
        let half = |x: Tensor<2>| {
            let count = x.dims()[0];
            x / count as f64
        };
        assert!(refused(&half).unwrap_err().contains("NumericFloat::DivScalar depends on"));
        let squared = |x: Tensor<2>| {
            let [count, _] = x.dims();
            x.unsqueeze_dim::<3>(0).expand([count, count, 3]).reshape([count * count, 3])
        };
        assert!(refused(&squared).unwrap_err().contains("follows none of its sizes"));
    }
}
