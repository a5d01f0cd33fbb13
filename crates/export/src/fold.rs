//! What a graph computes from its constants alone, computed once.
//!
//! Weights of convolutions with batch norm folded in, low-rank additions to weights, position features, relative position tables:
//! all of these are operations on parameters in the recording. Those that are known here are done, and the graph gets their result; any
//! other is left in the graph, which is never wrong, only slower.

use std::rc::Rc;

use burn::backend::ir::{
    BaseOperationIr, BinaryOpIr, FloatOperationIr, NumericOperationIr, OperationIr, ScalarIr, ScalarOpIr,
    TensorIr,
};
use burn::tensor::{DType, Slice, TensorData};

/// Values of a constant.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Values {
    /// Numbers.
    Floats(Vec<f32>),
    /// Places and lengths.
    Ints(Vec<i64>),
}

impl Values {
    /// How many.
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Floats(values) => values.len(),
            Self::Ints(values) => values.len(),
        }
    }
}

/// A tensor whose values are known.
#[derive(Clone, Debug)]
pub(crate) struct Constant {
    /// Its shape.
    pub(crate) shape: Vec<usize>,
    /// Its values, row-major.
    pub(crate) values: Rc<Values>,
    /// The state-dict name of the parameter that it is, or that most of it comes from.
    pub(crate) name: Option<String>,
    /// Whether it is that parameter itself.
    pub(crate) exact: bool,
}

impl Constant {
    /// Without a name.
    pub(crate) fn new(shape: Vec<usize>, values: Values) -> Self {
        Self { shape, values: Rc::new(values), name: None, exact: false }
    }

    /// From a recording; `None` for types that are not known.
    pub(crate) fn from_data(data: TensorData, name: Option<&String>) -> Option<Self> {
        let shape = data.shape().to_vec();
        let values = match data.dtype() {
            DType::F32 => Values::Floats(data.try_into_vec::<f32>().ok()?),
            DType::I64 | DType::I32 | DType::I16 | DType::I8 | DType::U8 | DType::U32 => {
                Values::Ints(data.iter::<i64>().collect())
            }
            _ => return None,
        };
        Some(Self { shape, values: Rc::new(values), name: name.cloned(), exact: name.is_some() })
    }

    fn floats(&self) -> Option<&[f32]> {
        match &*self.values {
            Values::Floats(values) => Some(values),
            Values::Ints(_) => None,
        }
    }

    fn ints(&self) -> Option<&[i64]> {
        match &*self.values {
            Values::Ints(values) => Some(values),
            Values::Floats(_) => None,
        }
    }

    fn with(&self, shape: Vec<usize>, values: Rc<Values>) -> Self {
        Self { shape, values, name: self.name.clone(), exact: false }
    }
}

/// The result of an operation on constants, where it is known; `find` gives the constant of a tensor.
pub(crate) fn evaluate<'a>(
    operation: &OperationIr,
    find: impl Fn(&TensorIr) -> Option<&'a Constant>,
) -> Option<Constant> {
    let out = operation.outputs().next()?;
    let shape = out.shape.to_vec();
    let inputs: Vec<&Constant> = operation.inputs().map(find).collect::<Option<_>>()?;
    let mut result = compute(operation, &inputs, &shape)?;
    debug_assert_eq!(result.values.len(), shape.iter().product::<usize>());
    result.shape = shape;
    let size = |constant: &&&Constant| constant.values.len();
    // Of equals the first.
    let named = inputs.iter().filter(|input| input.name.is_some());
    result.name = named.rev().max_by_key(size).and_then(|input| input.name.clone());
    result.exact = false;
    Some(result)
}

fn compute(operation: &OperationIr, inputs: &[&Constant], shape: &[usize]) -> Option<Constant> {
    match operation {
        OperationIr::BaseFloat(base) | OperationIr::BaseInt(base) => compute_base(base, inputs, shape),
        OperationIr::NumericFloat(DType::F32, numeric) => compute_numeric(numeric, inputs, shape),
        OperationIr::Float(DType::F32, float) => {
            let each = |f: fn(f32) -> f32| map(inputs.first()?, f);
            match float {
                FloatOperationIr::Sqrt(_) => each(f32::sqrt),
                FloatOperationIr::Exp(_) => each(f32::exp),
                FloatOperationIr::Sin(_) => each(f32::sin),
                FloatOperationIr::Cos(_) => each(f32::cos),
                FloatOperationIr::Tanh(_) => each(f32::tanh),
                FloatOperationIr::Recip(_) => each(f32::recip),
                FloatOperationIr::Matmul(_) => matmul(inputs, shape),
                _ => None,
            }
        }
        _ => None,
    }
}

fn compute_base(base: &BaseOperationIr, inputs: &[&Constant], shape: &[usize]) -> Option<Constant> {
    let first = inputs.first();
    match base {
        BaseOperationIr::SwapDims(op) => {
            let mut axes: Vec<usize> = (0..shape.len()).collect();
            axes.swap(op.dim1, op.dim2);
            permute(first?, &axes)
        }
        BaseOperationIr::Permute(op) => permute(first?, &op.axes),
        BaseOperationIr::Flip(op) => {
            let from = first?.shape.clone();
            pick(first?, shape, |place| {
                op.axes.iter().for_each(|axis| place[*axis] = from[*axis] - 1 - place[*axis]);
            })
        }
        BaseOperationIr::Slice(op) => {
            let steps = starts_and_steps(&op.ranges, &first?.shape);
            pick(first?, shape, |place| {
                for (place, (start, step)) in place.iter_mut().zip(&steps) {
                    *place = (*start + *step * *place as isize) as usize;
                }
            })
        }
        // Enlarged copies are cheaper made by the graph than stored in the file.
        BaseOperationIr::Expand(_) if first?.values.len() < shape.iter().product() => None,
        BaseOperationIr::Expand(_) | BaseOperationIr::Reshape(_) => {
            Some(first?.with(shape.to_vec(), first?.values.clone()))
        }
        BaseOperationIr::Select(op) => {
            let [tensor, indices] = inputs else { return None };
            let indices = indices.ints()?;
            let side = tensor.shape[op.dim] as i64;
            indices.iter().all(|i| (0..side).contains(i)).then_some(())?;
            pick(tensor, shape, |place| place[op.dim] = indices[place[op.dim]] as usize)
        }
        BaseOperationIr::Cat(op) => cat(inputs, op.dim, shape),
        BaseOperationIr::Zeros(op) if op.out.dtype == DType::F32 => Some(full(shape, 0.0)),
        BaseOperationIr::Ones(op) if op.out.dtype == DType::F32 => Some(full(shape, 1.0)),
        _ => None,
    }
}

fn compute_numeric(numeric: &NumericOperationIr, inputs: &[&Constant], shape: &[usize]) -> Option<Constant> {
    let two = |_: &BinaryOpIr, f: fn(f32, f32) -> f32| {
        let [a, b] = inputs else { return None };
        combine(a, b, shape, f)
    };
    let scalar = |op: &ScalarOpIr, f: fn(f32, f32) -> f32| {
        let value = float(op.rhs) as f32;
        map(inputs.first()?, |x| f(x, value))
    };
    match numeric {
        NumericOperationIr::Add(op) => two(op, |a, b| a + b),
        NumericOperationIr::Sub(op) => two(op, |a, b| a - b),
        NumericOperationIr::Mul(op) => two(op, |a, b| a * b),
        NumericOperationIr::Div(op) => two(op, |a, b| a / b),
        NumericOperationIr::AddScalar(op) => scalar(op, |a, b| a + b),
        NumericOperationIr::SubScalar(op) => scalar(op, |a, b| a - b),
        NumericOperationIr::MulScalar(op) => scalar(op, |a, b| a * b),
        NumericOperationIr::DivScalar(op) => scalar(op, |a, b| a / b),
        NumericOperationIr::Neg(_) => map(inputs.first()?, |x| -x),
        NumericOperationIr::Abs(_) => map(inputs.first()?, f32::abs),
        NumericOperationIr::Full(op) => Some(full(shape, float(op.value) as f32)),
        _ => None,
    }
}

/// A scalar as a number.
pub(crate) fn float(scalar: ScalarIr) -> f64 {
    match scalar {
        ScalarIr::Float(value) => value,
        ScalarIr::Int(value) => value as f64,
        ScalarIr::UInt(value) => value as f64,
        ScalarIr::Bool(value) => f64::from(u8::from(value)),
    }
}

/// First element and step of every range, for places counted in the result.
pub(crate) fn starts_and_steps(ranges: &[Slice], shape: &[usize]) -> Vec<(isize, isize)> {
    let each = shape.iter().enumerate().map(|(axis, side)| {
        let side = *side as isize;
        let Some(range) = ranges.get(axis) else { return (0, 1) };
        let from_end = |place: isize| if place < 0 { place + side } else { place };
        let start = from_end(range.start).clamp(0, side);
        if range.step >= 0 {
            return (start, range.step);
        }
        // Backwards, from the last element of the range.
        let end = range.end.map_or(side, from_end).clamp(0, side);
        (end - 1, range.step)
    });
    each.collect()
}

fn full(shape: &[usize], value: f32) -> Constant {
    Constant::new(shape.to_vec(), Values::Floats(vec![value; shape.iter().product()]))
}

fn map(x: &Constant, f: impl Fn(f32) -> f32) -> Option<Constant> {
    let values = x.floats()?.iter().map(|v| f(*v)).collect();
    Some(x.with(x.shape.clone(), Rc::new(Values::Floats(values))))
}

/// Steps in memory from one place to the next along each side.
fn strides(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1; shape.len()];
    for axis in (1..shape.len()).rev() {
        strides[axis - 1] = strides[axis] * shape[axis];
    }
    strides
}

/// For every place of `shape`, in order, what `f` says.
fn places<T>(shape: &[usize], mut f: impl FnMut(&[usize]) -> T) -> Vec<T> {
    let count = shape.iter().product();
    let mut place = vec![0; shape.len()];
    let mut all = Vec::with_capacity(count);
    for _ in 0..count {
        all.push(f(&place));
        for axis in (0..shape.len()).rev() {
            place[axis] += 1;
            if place[axis] < shape[axis] {
                break;
            }
            place[axis] = 0;
        }
    }
    all
}

/// A tensor of `shape` with elements of `x`; `to_source` turns a place of the result into one of `x`, which must lie in it.
fn pick(x: &Constant, shape: &[usize], to_source: impl Fn(&mut [usize])) -> Option<Constant> {
    let strides = strides(&x.shape);
    let mut source = vec![0; shape.len()];
    let index = |place: &[usize]| {
        source.copy_from_slice(place);
        to_source(&mut source);
        source.iter().zip(&strides).map(|(place, stride)| place * stride).sum::<usize>()
    };
    let indices = places(shape, index);
    let values = match &*x.values {
        Values::Floats(values) => {
            Values::Floats(indices.iter().map(|i| values.get(*i).copied()).collect::<Option<_>>()?)
        }
        Values::Ints(values) => {
            Values::Ints(indices.iter().map(|i| values.get(*i).copied()).collect::<Option<_>>()?)
        }
    };
    Some(x.with(shape.to_vec(), Rc::new(values)))
}

fn permute(x: &Constant, axes: &[usize]) -> Option<Constant> {
    let shape: Vec<usize> = axes.iter().map(|axis| x.shape[*axis]).collect();
    let mut inverse = vec![0; axes.len()];
    axes.iter().enumerate().for_each(|(to, from)| inverse[*from] = to);
    pick(x, &shape, |place| {
        let old = place.to_vec();
        inverse.iter().zip(place).for_each(|(from, place)| *place = old[*from]);
    })
}

fn cat(inputs: &[&Constant], dim: usize, shape: &[usize]) -> Option<Constant> {
    let outer: usize = shape[..dim].iter().product();
    let inner: usize = shape[dim + 1..].iter().product();
    let mut values = Vec::with_capacity(shape.iter().product());
    for i in 0..outer {
        for input in inputs {
            let run = input.shape[dim] * inner;
            values.extend_from_slice(&input.floats()?[i * run..(i + 1) * run]);
        }
    }
    Some(Constant::new(shape.to_vec(), Values::Floats(values)))
}

/// Element by element, sides of one repeated.
fn combine(a: &Constant, b: &Constant, shape: &[usize], f: impl Fn(f32, f32) -> f32) -> Option<Constant> {
    let (x, y) = (a.floats()?, b.floats()?);
    let values = if a.shape == shape && b.shape == shape {
        x.iter().zip(y).map(|(x, y)| f(*x, *y)).collect()
    } else {
        let steps = |from: &[usize]| -> Vec<usize> {
            let mut steps = strides(from);
            steps.iter_mut().zip(from).filter(|(_, side)| **side == 1).for_each(|(step, _)| *step = 0);
            steps
        };
        let (a_steps, b_steps) = (steps(&a.shape), steps(&b.shape));
        let at =
            |place: &[usize], steps: &[usize]| place.iter().zip(steps).map(|(p, s)| p * s).sum::<usize>();
        places(shape, |place| f(x[at(place, &a_steps)], y[at(place, &b_steps)]))
    };
    Some(Constant::new(shape.to_vec(), Values::Floats(values)))
}

/// Matrix products over the last two sides; the sides before them are the same, or those of one are 1.
fn matmul(inputs: &[&Constant], shape: &[usize]) -> Option<Constant> {
    let [a, b] = inputs else { return None };
    let (x, y) = (a.floats()?, b.floats()?);
    let rank = shape.len();
    let (rows, columns) = (shape[rank - 2], shape[rank - 1]);
    let inner = *a.shape.last()?;
    let batches: usize = shape[..rank - 2].iter().product();
    let batches_of = |constant: &Constant| constant.shape[..rank - 2].iter().product::<usize>();
    let (a_batches, b_batches) = (batches_of(a), batches_of(b));
    if [a_batches, b_batches].iter().any(|count| *count != batches && *count != 1) {
        return None;
    }
    let mut values = vec![0.0_f32; batches * rows * columns];
    for (batch, out) in values.chunks_exact_mut((rows * columns).max(1)).enumerate() {
        let x = &x[(batch % a_batches) * rows * inner..];
        let y = &y[(batch % b_batches) * inner * columns..];
        for (row, out) in out.chunks_exact_mut(columns.max(1)).enumerate() {
            for k in 0..inner {
                let factor = x[row * inner + k];
                let line = &y[k * columns..(k + 1) * columns];
                out.iter_mut().zip(line).for_each(|(out, y)| *out += factor * y);
            }
        }
    }
    Some(Constant::new(shape.to_vec(), Values::Floats(values)))
}

#[cfg(test)]
mod tests {
    use burn::backend::Capture;
    use burn::tensor::{Device, Distribution, Int, Tensor};

    use super::*;

    /// Records what `f` does with `x` and `y`, computes it here, and compares it with what Burn computes.
    fn agrees<const D: usize, const E: usize>(
        shapes: ([usize; D], [usize; D]),
        f: impl Fn(Tensor<D>, Tensor<D>) -> Tensor<E>,
    ) {
        let cpu = Device::flex();
        let random = |shape| Tensor::<D>::random(shape, Distribution::Uniform(0.5, 2.0), &cpu);
        let (x, y) = (random(shapes.0), random(shapes.1));
        let expected: Vec<f32> = f(x.clone(), y.clone()).into_data().try_to_vec().unwrap();
        let device = Device::capture();
        let mut output = None;
        let captured = device
            .capture_scope(|scope| {
                let at = |t: &Tensor<D>| Tensor::<D>::from_data(t.clone().into_data(), &device);
                let out = f(at(&x), at(&y));
                let id = out.try_into_primitive::<Capture>().unwrap().id();
                output = Some(id);
                scope.complete([], [id])
            })
            .unwrap();
        let mut known: std::collections::HashMap<_, _> = captured
            .values
            .into_iter()
            .map(|(id, data)| (id, Constant::from_data(data, None).unwrap()))
            .collect();
        let computed = captured.graph.operations.iter().filter(|op| !matches!(op, OperationIr::Init(_)));
        for operation in computed {
            let result = evaluate(operation, |tensor| known.get(&tensor.id));
            let id = operation.outputs().next().unwrap().id;
            known.insert(id, result.unwrap_or_else(|| panic!("{operation:?}")));
        }
        let found = &known[&output.unwrap()];
        for (found, expected) in found.floats().unwrap().iter().zip(&expected) {
            assert!((found - expected).abs() < 1e-5, "{found} is not {expected}");
        }
        assert_eq!(found.values.len(), expected.len());
    }

    #[test]
    fn constants_are_computed_as_burn_computes_them() {
        agrees(([2, 3, 4], [2, 3, 4]), |x, y| (x * y.clone() - y.clone() / 3.0 + 1.5) / y.sqrt());
        agrees(([2, 3, 4], [1, 3, 1]), |x, y| x * y);
        agrees(([1, 3, 4], [2, 1, 1]), |x, y| x - y);
        agrees(([2, 3, 4], [2, 4, 5]), Tensor::matmul);
        agrees(([1, 3, 4], [2, 4, 5]), Tensor::matmul);
        agrees(([2, 3, 4], [2, 3, 4]), |x, _| x.permute([2, 0, 1]));
        agrees(([2, 3, 4], [2, 3, 4]), |x, _| x.swap_dims(0, 2).flip([1, 2]));
        agrees(([2, 3, 4], [2, 5, 4]), |x, y| Tensor::cat(vec![x, y], 1));
        agrees(([2, 5, 4], [2, 5, 4]), |x, _| x.narrow(1, 2, 3).reshape([6, 4]));
        agrees(([2, 3], [2, 3]), |x, _| x.sin() * 2.0);
        agrees(([3, 4], [3, 4]), |x, _| {
            let places = Tensor::<1, Int>::from_data([3, 0, 0], &x.device());
            x.select(1, places)
        });
    }
}
