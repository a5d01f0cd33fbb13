//! A model recorded as a list of Burn's operations.
//!
//! The model runs on Burn's capture device, which computes nothing and writes down what it is asked. Shapes in that list are numbers.
//! Where the graph shall take any number of prompts and points, the model is recorded twice, with two different numbers, and the two lists
//! are held against each other: they must be the same but for lengths of sides, and each of these must follow from one of
//! the numbers. Nothing is guessed: what does not follow is an error, and so is a model that does something else for another number.

use std::collections::{BTreeMap, HashMap, HashSet};

use burn::backend::Capture;
use burn::backend::ir::{BaseOperationIr, IrVisitorMut, OperationIr, TensorId, TensorIr, TensorStatus};
use burn::module::{Module, ModuleMapper, ModuleVisitor, Param, ParamId};
use burn::tensor::{Device, Slice, Tensor, TensorData};
use kirie_sam::checkpoint::KeyPath;

use crate::dims::{Dim, Symbol};
use crate::error::ExportError;

/// A side of an input.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Side {
    /// Always this long.
    Fixed(usize),
    /// As long as the symbol at this place says.
    Free(usize),
}

/// An input or output of the graph.
#[derive(Clone, Debug)]
pub(crate) struct Port {
    /// Its name.
    pub(crate) name: &'static str,
    /// What it is, for people.
    pub(crate) about: &'static str,
    /// The tensor in the recording.
    pub(crate) id: TensorId,
    /// Its shape.
    pub(crate) dims: Vec<Dim>,
}

/// A recorded model.
#[derive(Debug)]
pub(crate) struct Recording {
    /// Operations that the outputs need, in order.
    pub(crate) operations: Vec<OperationIr>,
    /// Tensors that were there before: parameters and constants.
    pub(crate) values: BTreeMap<TensorId, TensorData>,
    /// State-dict names of the parameters among them.
    pub(crate) names: HashMap<TensorId, String>,
    /// Shapes of all tensors of the operations.
    pub(crate) dims: HashMap<TensorId, Vec<Dim>>,
    /// What the caller gives.
    pub(crate) inputs: Vec<Port>,
    /// What the caller gets.
    pub(crate) outputs: Vec<Port>,
    /// What sides can follow.
    pub(crate) symbols: Vec<Symbol>,
}

/// Hands out inputs while a model is recorded, and takes its outputs.
#[derive(Debug)]
pub(crate) struct Recorder {
    device: Device,
    lengths: Vec<usize>,
    inputs: Vec<Port>,
    outputs: Vec<Port>,
    error: Option<ExportError>,
}

impl Recorder {
    /// An input of the graph.
    pub(crate) fn input<const D: usize>(
        &mut self,
        name: &'static str,
        about: &'static str,
        sides: [Side; D],
    ) -> Tensor<D> {
        let shape = sides.map(|side| match side {
            Side::Fixed(length) => length,
            Side::Free(symbol) => self.lengths[symbol],
        });
        let values = vec![0.0_f32; shape.iter().product()];
        let tensor = Tensor::from_data(TensorData::new(values, shape), &self.device);
        self.port(name, about, &tensor, true);
        tensor
    }

    /// An output of the graph.
    pub(crate) fn output<const D: usize>(
        &mut self,
        name: &'static str,
        about: &'static str,
        tensor: &Tensor<D>,
    ) {
        self.port(name, about, tensor, false);
    }

    fn port<const D: usize>(
        &mut self,
        name: &'static str,
        about: &'static str,
        tensor: &Tensor<D>,
        input: bool,
    ) {
        match tensor_id(tensor) {
            Ok(id) => {
                let dims = tensor.dims().map(Dim::Fixed).to_vec();
                let ports = if input { &mut self.inputs } else { &mut self.outputs };
                ports.push(Port { name, about, id, dims });
            }
            Err(error) => self.error = Some(error),
        }
    }
}

/// Records `build`, which asks for its inputs, runs the model and names its outputs.
///
/// The model may be on any device; it is copied. Running statistics of batch norms, though, are shared by all copies of a module, so
/// for this while they are on the recording device for the original too: nothing else is to run it meanwhile.
pub(crate) fn record<M: Module>(
    model: &M,
    symbols: &[Symbol],
    build: impl Fn(&M, &mut Recorder),
) -> Result<Recording, ExportError> {
    let lengths = |probe: usize| symbols.iter().map(|symbol| symbol.probes[probe]).collect();
    let mut recording = record_at(model, lengths(0), &build)?;
    if !symbols.is_empty() {
        let other = record_at(model, lengths(1), &build)?;
        recording.symbols = symbols.to_vec();
        generalise(&mut recording, other)?;
    }
    Ok(recording)
}

/// Records with numbers in the place of the symbols.
fn record_at<M: Module>(
    model: &M,
    lengths: Vec<usize>,
    build: impl Fn(&M, &mut Recorder),
) -> Result<Recording, ExportError> {
    let device = Device::capture();
    let mut shared = Shared::of(model);
    let mut recorder =
        Recorder { device: device.clone(), lengths, inputs: Vec::new(), outputs: Vec::new(), error: None };
    let mut names = Names { path: KeyPath::default(), names: HashMap::new() };
    let captured = device.capture_scope(|scope| {
        let model = model.clone().to_device(&device);
        model.visit(&mut names);
        build(&model, &mut recorder);
        let ids = |ports: &[Port]| ports.iter().map(|port| port.id).collect::<Vec<_>>();
        scope.complete(ids(&recorder.inputs), ids(&recorder.outputs))
    });
    drop(model.clone().map(&mut shared));
    if let Some(error) = recorder.error {
        return Err(error);
    }
    let captured = captured.map_err(|error| ExportError::Capture(error.to_string()))?;
    let operations = needed(captured.graph.operations, &recorder.outputs);
    let mut dims = HashMap::new();
    for tensor in operations.iter().flat_map(OperationIr::nodes) {
        dims.insert(tensor.id, tensor.shape.iter().map(|side| Dim::Fixed(*side)).collect());
    }
    Ok(Recording {
        operations,
        values: captured.values,
        names: names.names,
        dims,
        inputs: recorder.inputs,
        outputs: recorder.outputs,
        symbols: Vec::new(),
    })
}

/// The operations that lead to the outputs.
fn needed(operations: Vec<OperationIr>, outputs: &[Port]) -> Vec<OperationIr> {
    let mut wanted: HashSet<TensorId> = outputs.iter().map(|port| port.id).collect();
    let mut kept = Vec::with_capacity(operations.len());
    for operation in operations.into_iter().rev() {
        // Parameters and constants are among the values.
        let is_value = matches!(operation, OperationIr::Init(_));
        if !is_value && operation.outputs().any(|tensor| wanted.contains(&tensor.id)) {
            wanted.extend(operation.inputs().map(|tensor| tensor.id));
            kept.push(operation);
        }
    }
    kept.reverse();
    kept
}

/// Holds a recording against a second one, and replaces the numbers that differ by what they follow.
fn generalise(recording: &mut Recording, other: Recording) -> Result<(), ExportError> {
    let differs = |what: String| Err(ExportError::Capture(what));
    if recording.operations.len() != other.operations.len() {
        return differs(
            "it takes another number of operations for another number of prompts or points".into(),
        );
    }
    let symbols = recording.symbols.clone();
    // The tensors of the second recording by those of the first.
    let mut same: HashMap<TensorId, TensorId> = HashMap::new();
    let mut dims: HashMap<TensorId, Vec<Dim>> = HashMap::new();
    let mut pair = |a: &TensorIr, b: &TensorIr| -> Result<(), ExportError> {
        let rank = a.shape.num_dims();
        if *same.entry(b.id).or_insert(a.id) != a.id || rank != b.shape.num_dims() {
            return differs(
                "it connects its operations otherwise for another number of prompts or points".into(),
            );
        }
        let sides = a.shape.iter().zip(b.shape.iter());
        let solved = sides.map(|(a, b)| Dim::solve([*a, *b], &symbols)).collect::<Option<Vec<_>>>();
        let Some(solved) = solved else {
            return differs(format!("a shape, {} and then {}, follows none of its sizes", a.shape, b.shape));
        };
        dims.insert(a.id, solved);
        Ok(())
    };
    for (a, b) in recording.operations.iter().zip(&other.operations) {
        let (first, second) = (a.nodes(), b.nodes());
        if first.len() != second.len() {
            return differs("its operations differ for another number of prompts or points".into());
        }
        for (a, b) in first.into_iter().zip(second) {
            pair(a, b)?;
        }
    }
    let shapes: HashMap<TensorId, TensorIr> = recording
        .operations
        .iter()
        .flat_map(OperationIr::nodes)
        .map(|tensor| (tensor.id, tensor.clone()))
        .collect();
    for (a, b) in recording.operations.iter().zip(other.operations) {
        let plain = Plain { same: &HashMap::new(), shapes: &shapes }.of(a.clone());
        if plain != (Plain { same: &same, shapes: &shapes }).of(b) {
            let name = crate::lower::name_of(a);
            return differs(format!("its operation {name} depends on the number of prompts or points"));
        }
    }
    for (b, a) in &same {
        let (first, second) = (recording.values.get(a), other.values.get(b));
        let is_input = recording.inputs.iter().any(|port| port.id == *a);
        if !is_input && first.map(TensorData::as_bytes) != second.map(TensorData::as_bytes) {
            return differs("it makes constants that depend on the number of prompts or points".into());
        }
    }
    for port in recording.inputs.iter_mut().chain(&mut recording.outputs) {
        if let Some(solved) = dims.get(&port.id) {
            port.dims.clone_from(solved);
        }
    }
    recording.dims = dims;
    Ok(())
}

/// Makes operations of two recordings comparable.
struct Plain<'a> {
    /// Tensors that go under another name.
    same: &'a HashMap<TensorId, TensorId>,
    /// How tensors looked in the first recording.
    shapes: &'a HashMap<TensorId, TensorIr>,
}

impl Plain<'_> {
    fn of(mut self, mut operation: OperationIr) -> OperationIr {
        if let OperationIr::BaseFloat(BaseOperationIr::Slice(slice))
        | OperationIr::BaseInt(BaseOperationIr::Slice(slice)) = &mut operation
        {
            // A whole side stays whole, however long it is.
            for (range, side) in slice.ranges.iter_mut().zip(slice.tensor.shape.iter()) {
                if is_whole(range, *side) {
                    *range = Slice { start: 0, end: None, step: 1 };
                }
            }
        }
        operation.visit_mut(&mut self);
        operation
    }
}

impl IrVisitorMut for Plain<'_> {
    fn visit_tensor_mut(&mut self, tensor: &mut TensorIr) {
        if let Some(id) = self.same.get(&tensor.id) {
            tensor.id = *id;
        }
        if let Some(known) = self.shapes.get(&tensor.id) {
            tensor.shape = known.shape.clone();
        }
        tensor.status = TensorStatus::ReadOnly;
    }
}

/// Whether a range takes all of a side.
pub(crate) fn is_whole(range: &Slice, side: usize) -> bool {
    range.start == 0 && range.step == 1 && range.end.is_none_or(|end| end >= side as isize)
}

fn tensor_id<const D: usize>(tensor: &Tensor<D>) -> Result<TensorId, ExportError> {
    match tensor.clone().try_into_primitive::<Capture>() {
        Ok(primitive) => Ok(primitive.id()),
        Err(error) => {
            Err(ExportError::Capture(format!("a tensor is not on the recording device: {error:?}")))
        }
    }
}

/// Running statistics as they were, to bring them back.
#[derive(Default)]
struct Shared {
    path: KeyPath,
    statistics: HashMap<ParamId, (TensorData, Device)>,
}

impl Shared {
    fn of<M: Module>(model: &M) -> Self {
        let mut shared = Self::default();
        model.visit(&mut shared);
        shared
    }
}

impl ModuleVisitor for Shared {
    fn enter_module(&mut self, name: &str, container_type: &str) {
        self.path.enter(name, container_type);
    }

    fn exit_module(&mut self, _name: &str, container_type: &str) {
        self.path.exit(container_type);
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let key = self.path.key();
        if key.ends_with(".running_mean") || key.ends_with(".running_var") {
            let tensor = param.val();
            let device = tensor.device();
            self.statistics.insert(param.id, (tensor.into_data(), device));
        }
    }
}

impl ModuleMapper for Shared {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        match self.statistics.get(&param.id) {
            Some((data, device)) => Param::initialized(param.id, Tensor::from_data(data.clone(), device)),
            None => param,
        }
    }
}

/// Collects the state-dict names of a module's parameters.
struct Names {
    path: KeyPath,
    names: HashMap<TensorId, String>,
}

impl ModuleVisitor for Names {
    fn enter_module(&mut self, name: &str, container_type: &str) {
        self.path.enter(name, container_type);
    }

    fn exit_module(&mut self, _name: &str, container_type: &str) {
        self.path.exit(container_type);
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if let Ok(id) = tensor_id(&param.base()) {
            self.names.insert(id, self.path.key());
        }
    }
}
