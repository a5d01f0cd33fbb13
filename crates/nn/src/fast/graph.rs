//! An operation on plain slices as a node of Burn's autodiff graph.

use std::fmt::Debug;

use burn::backend::tensor::FloatTensor;
use burn::tensor::{Bytes, DType, Shape, Tensor};
use burn_autodiff::Autodiff;
use burn_autodiff::checkpoint::base::Checkpointer;
use burn_autodiff::checkpoint::strategy::NoCheckpointing;
use burn_autodiff::grads::Gradients;
use burn_autodiff::ops::{Backward, Ops, OpsKind};
use burn_flex::{Flex, FlexTensor, Layout};

/// Autodiff over Flex, keeping activations for the backward pass.
pub(super) type Graph = Autodiff<Flex, NoCheckpointing>;

/// A float32 tensor of the graph.
pub(super) type Node = FloatTensor<Graph>;

/// Forward and backward of one operation with `N` inputs.
pub(super) trait Kernel<const N: usize>: Clone + Debug + Send + 'static {
    /// What the backward pass needs beside the inputs.
    type Saved: Clone + Debug + Send + 'static;

    /// The output's values and what is to be kept.
    fn forward(&self, inputs: [&[f32]; N]) -> (Vec<f32>, Self::Saved);

    /// The gradients of the inputs that are wanted.
    fn backward(
        &self,
        inputs: [&[f32]; N],
        saved: &Self::Saved,
        gradient: &[f32],
        wanted: [bool; N],
    ) -> [Option<Vec<f32>>; N];
}

/// A float32 tensor on the processor.
pub(super) enum Value {
    /// With a history.
    Graph(Node),
    /// Without.
    Plain(FlexTensor),
}

/// The tensor as the kernels can take it, where they can.
pub(super) fn value<const D: usize>(tensor: &Tensor<D>) -> Option<Value> {
    if tensor.dtype() != DType::F32 {
        return None;
    }
    if tensor.is_autodiff() {
        tensor.clone().try_into_primitive::<Graph>().ok().map(Value::Graph)
    } else {
        tensor.clone().try_into_primitive::<Flex>().ok().map(Value::Plain)
    }
}

/// Applies a kernel; the output has the given shape. `None` if some inputs have a history and others cannot have one.
pub(super) fn apply<K: Kernel<N>, const N: usize, const D: usize>(
    kernel: K,
    inputs: [Value; N],
    shape: [usize; D],
) -> Option<Tensor<D>> {
    let output = Shape::from(shape.to_vec());
    let with_history = inputs.iter().filter(|input| matches!(input, Value::Graph(_))).count();
    if with_history == 0 {
        let values = inputs.map(|input| match input {
            Value::Graph(node) => contiguous(node.into_primitive()),
            Value::Plain(values) => contiguous(values),
        });
        let (values, _) = kernel.forward(values.each_ref().map(FlexTensor::storage::<f32>));
        return Some(Tensor::from_primitive::<Flex>(tensor(values, output)));
    }
    if with_history < N {
        return None;
    }
    let inputs = inputs.map(|input| match input {
        Value::Graph(node) => node,
        Value::Plain(values) => Node::new(values),
    });
    let guards = inputs.each_ref().map(Node::node);
    let values = inputs.map(|input| contiguous(input.into_primitive()));
    let (result, saved) = kernel.forward(values.each_ref().map(FlexTensor::storage::<f32>));
    let result = tensor(result, output);
    let node = match Operation(kernel).prepare::<NoCheckpointing>(guards).compute_bound().stateful() {
        OpsKind::Tracked(prep) => prep.finish(State { inputs: values, saved }, result),
        OpsKind::UnTracked(prep) => prep.finish(result),
    };
    Some(Tensor::from_primitive::<Graph>(node))
}

/// Row-major from the first byte on, as the kernels read.
fn contiguous(tensor: FlexTensor) -> FlexTensor {
    let whole = tensor.layout().num_elements() * 4 == tensor.bytes().len();
    if tensor.is_contiguous() && tensor.layout().start_offset() == 0 && whole {
        tensor
    } else {
        tensor.to_contiguous()
    }
}

fn tensor(values: Vec<f32>, shape: Shape) -> FlexTensor {
    FlexTensor::new(Bytes::from_elems(values), Layout::contiguous(shape), DType::F32)
}

#[derive(Debug)]
struct Operation<K>(K);

#[derive(Clone, Debug)]
struct State<S, const N: usize> {
    inputs: [FlexTensor; N],
    saved: S,
}

impl<K: Kernel<N>, const N: usize> Backward<Flex, N> for Operation<K> {
    type State = State<K::Saved, N>;

    fn backward(self, ops: Ops<Self::State, N>, grads: &mut Gradients, _: &mut Checkpointer) {
        let gradient = contiguous(grads.consume::<Flex>(&ops.node));
        let state = ops.state;
        let wanted = ops.parents.each_ref().map(Option::is_some);
        let shapes = state.inputs.each_ref().map(|input| input.layout().shape().clone());
        let values = state.inputs.each_ref().map(FlexTensor::storage::<f32>);
        let gradients = self.0.backward(values, &state.saved, gradient.storage::<f32>(), wanted);
        for ((parent, values), shape) in ops.parents.into_iter().zip(gradients).zip(shapes) {
            if let (Some(parent), Some(values)) = (parent, values) {
                grads.register::<Flex>(parent.id, tensor(values, shape));
            }
        }
    }
}
