//! One operation at a time.

use burn::backend::ir::{
    ActivationOperationIr, AttentionOpIr, BaseOperationIr, BinaryOpIr, BoolOperationIr, CastOpIr,
    FloatOperationIr, IntOperationIr, ModuleOperationIr, NumericOperationIr, OperationIr, ReduceDimOpIr,
    ScalarIr, ScalarOpIr, SliceOpIr, TensorIr, UnaryOpIr,
};
use burn::tensor::DType;

use super::{Lowering, element_type};
use crate::capture::is_whole;
use crate::dims::Dim;
use crate::error::ExportError;
use crate::fold::{float, starts_and_steps};
use crate::proto::AttributeProto;

/// The name of the value that a node gives; none for an operation that is not known.
type Node = Result<Option<String>, ExportError>;

/// The attribute `axis`.
pub(super) fn axis(axis: usize) -> AttributeProto {
    AttributeProto::int("axis", axis as i64)
}

impl Lowering<'_> {
    /// Adds the nodes of an operation.
    pub(super) fn node(&mut self, operation: &OperationIr) -> Node {
        match operation {
            OperationIr::BaseFloat(base) | OperationIr::BaseInt(base) | OperationIr::BaseBool(base) => {
                self.base(base)
            }
            OperationIr::NumericFloat(_, numeric) | OperationIr::NumericInt(_, numeric) => {
                self.numeric(numeric)
            }
            OperationIr::Float(_, float) => self.float(float),
            OperationIr::Bool(BoolOperationIr::IntoFloat(op) | BoolOperationIr::IntoInt(op))
            | OperationIr::Int(IntOperationIr::IntoFloat(op)) => self.cast(op),
            OperationIr::Bool(BoolOperationIr::Not(op)) => self.unary("Not", op),
            OperationIr::Bool(BoolOperationIr::And(op)) => self.binary("And", op),
            OperationIr::Bool(BoolOperationIr::Or(op)) => self.binary("Or", op),
            OperationIr::Bool(BoolOperationIr::Xor(op)) => self.binary("Xor", op),
            OperationIr::Activation(activation) => self.activation(activation),
            OperationIr::Module(module) => self.module(module),
            _ => Ok(None),
        }
    }

    #[allow(clippy::unnecessary_wraps, reason = "the last step of functions that can fail")]
    fn made(&mut self, op: &str, inputs: &[&str], attributes: Vec<AttributeProto>) -> Node {
        Ok(Some(self.graph.node(op, inputs, attributes)))
    }

    fn unary(&mut self, op: &str, ir: &UnaryOpIr) -> Node {
        let input = self.value(&ir.input)?;
        self.made(op, &[&input], Vec::new())
    }

    fn binary(&mut self, op: &str, ir: &BinaryOpIr) -> Node {
        let (a, b) = (self.value(&ir.lhs)?, self.value(&ir.rhs)?);
        self.made(op, &[&a, &b], Vec::new())
    }

    fn scalar_of(&mut self, tensor: &TensorIr, scalar: ScalarIr) -> String {
        if tensor.dtype == DType::F32 {
            self.graph.scalar(float(scalar))
        } else {
            self.graph.int(float(scalar) as i64)
        }
    }

    fn with_scalar(&mut self, op: &str, ir: &ScalarOpIr) -> Node {
        let (a, b) = (self.value(&ir.lhs)?, self.scalar_of(&ir.lhs, ir.rhs));
        self.made(op, &[&a, &b], Vec::new())
    }

    fn reduce(&mut self, op: &str, ir: &ReduceDimOpIr) -> Node {
        let input = self.value(&ir.input)?;
        self.made(
            op,
            &[&input],
            vec![AttributeProto::ints("axes", [ir.axis]), AttributeProto::int("keepdims", 1)],
        )
    }

    fn cast(&mut self, op: &CastOpIr) -> Node {
        let input = self.value(&op.input)?;
        let (Some(from), Some(to)) = (element_type(op.input.dtype), element_type(op.out.dtype)) else {
            return Ok(None);
        };
        if from == to {
            return Ok(Some(input));
        }
        self.made("Cast", &[&input], vec![AttributeProto::int("to", to.into())])
    }

    fn base(&mut self, base: &BaseOperationIr) -> Node {
        match base {
            BaseOperationIr::Reshape(op) => self.reshape(&op.input, &op.out),
            BaseOperationIr::SwapDims(op) => {
                let mut axes: Vec<usize> = (0..op.input.shape.num_dims()).collect();
                axes.swap(op.dim1, op.dim2);
                self.transpose(&op.input, axes)
            }
            BaseOperationIr::Permute(op) => self.transpose(&op.input, op.axes.clone()),
            BaseOperationIr::Expand(op) => {
                let input = self.value(&op.input)?;
                let (from, to) = (self.dims(&op.input)?, self.dims(&op.out)?);
                // 1 stands for "as it is".
                let skipped = to.len() - from.len();
                let asked: Vec<Dim> = to
                    .iter()
                    .enumerate()
                    .map(|(i, to)| if i >= skipped && from[i - skipped] == *to { Dim::Fixed(1) } else { *to })
                    .collect();
                let fixed: Option<Vec<i64>> =
                    asked.iter().map(|dim| dim.fixed().map(|side| side as i64)).collect();
                let shape = match fixed {
                    Some(fixed) => self.graph.ints(&fixed),
                    None => self.shape_at_run_time(&asked)?,
                };
                self.made("Expand", &[&input, &shape], Vec::new())
            }
            BaseOperationIr::Slice(op) => self.slice(op),
            BaseOperationIr::Flip(op) => {
                let input = self.value(&op.input)?;
                let list = |value: i64| vec![value; op.axes.len()];
                let starts = self.graph.ints(&list(-1));
                let ends = self.graph.ints(&list(i64::MIN + 1));
                let axes: Vec<i64> = op.axes.iter().map(|axis| *axis as i64).collect();
                let axes = self.graph.ints(&axes);
                let steps = self.graph.ints(&list(-1));
                self.made("Slice", &[&input, &starts, &ends, &axes, &steps], Vec::new())
            }
            BaseOperationIr::Cat(op) => {
                let inputs =
                    op.tensors.iter().map(|tensor| self.value(tensor)).collect::<Result<Vec<_>, _>>()?;
                let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
                self.made("Concat", &inputs, vec![axis(op.dim)])
            }
            BaseOperationIr::Select(op) => {
                let (input, indices) = (self.value(&op.tensor)?, self.value(&op.indices)?);
                self.made("Gather", &[&input, &indices], vec![axis(op.dim)])
            }
            BaseOperationIr::Gather(op) => {
                let (input, indices) = (self.value(&op.tensor)?, self.value(&op.indices)?);
                self.made("GatherElements", &[&input, &indices], vec![axis(op.dim)])
            }
            BaseOperationIr::RepeatDim(op) => {
                let input = self.value(&op.tensor)?;
                let mut times = vec![1; op.tensor.shape.num_dims()];
                times[op.dim] = op.times as i64;
                let times = self.graph.ints(&times);
                self.made("Tile", &[&input, &times], Vec::new())
            }
            BaseOperationIr::Cast(op) => self.cast(op),
            BaseOperationIr::MaskWhere(op) => {
                let mask = self.value(&op.mask)?;
                let (value, tensor) = (self.value(&op.value)?, self.value(&op.tensor)?);
                self.made("Where", &[&mask, &value, &tensor], Vec::new())
            }
            BaseOperationIr::MaskFill(op) => {
                let (mask, tensor) = (self.value(&op.mask)?, self.value(&op.tensor)?);
                let value = self.scalar_of(&op.tensor, op.value);
                self.made("Where", &[&mask, &value, &tensor], Vec::new())
            }
            BaseOperationIr::Equal(op) => self.binary("Equal", op),
            BaseOperationIr::EqualElem(op) => self.with_scalar("Equal", op),
            BaseOperationIr::NotEqualElem(op) => {
                let Some(equal) = self.with_scalar("Equal", op)? else { return Ok(None) };
                self.made("Not", &[&equal], Vec::new())
            }
            _ => Ok(None),
        }
    }

    fn transpose(&mut self, input: &TensorIr, axes: Vec<usize>) -> Node {
        let input = self.value(input)?;
        self.made("Transpose", &[&input], vec![AttributeProto::ints("perm", axes)])
    }

    /// ONNX takes 0 for "as long as the input's side at this place" and one -1 for "what is left".
    fn reshape(&mut self, input: &TensorIr, out: &TensorIr) -> Node {
        let value = self.value(input)?;
        let (from, to) = (self.dims(input)?, self.dims(out)?);
        let mut left = 0;
        let mut shape = Vec::with_capacity(to.len());
        for (i, dim) in to.iter().enumerate() {
            shape.push(match dim {
                Dim::Fixed(side) => *side as i64,
                Dim::Free { .. } if from.get(i) == Some(dim) => 0,
                Dim::Free { .. } => {
                    left += 1;
                    -1
                }
            });
        }
        if left > 1 {
            return Err(
                self.misshapen("Reshape", "more than one side follows the number of prompts or points")
            );
        }
        let shape = self.graph.ints(&shape);
        self.made("Reshape", &[&value, &shape], Vec::new())
    }

    fn slice(&mut self, op: &SliceOpIr) -> Node {
        let input = self.value(&op.tensor)?;
        let dims = self.dims(&op.tensor)?;
        let (mut starts, mut ends, mut axes, mut steps) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let lengths = op.tensor.shape.to_vec();
        for (i, (start, step)) in starts_and_steps(&op.ranges, &lengths).into_iter().enumerate() {
            if op.ranges.get(i).is_none_or(|range| is_whole(range, lengths[i])) {
                continue;
            }
            // The output's side is how many are taken; from a free side that can only be a fixed number from its beginning.
            let fixed = dims[i].fixed().is_some() || self.dims(&op.out)?[i].fixed().is_some();
            let from_front = op.ranges[i].start >= 0 && op.ranges[i].end.is_some_and(|end| end >= 0);
            if !fixed || (dims[i].fixed().is_none() && !from_front) {
                return Err(self.misshapen("Slice", "its length follows the number of prompts or points"));
            }
            let taken = op.out.shape[i] as i64;
            let (start, step) = (start as i64, step as i64);
            starts.push(start);
            let end = start + taken * step;
            ends.push(if end < 0 { i64::MIN + 1 } else { end });
            axes.push(i as i64);
            steps.push(step);
        }
        if axes.is_empty() {
            return Ok(Some(input));
        }
        let [starts, ends, axes, steps] = [starts, ends, axes, steps].map(|list| self.graph.ints(&list));
        self.made("Slice", &[&input, &starts, &ends, &axes, &steps], Vec::new())
    }

    fn numeric(&mut self, numeric: &NumericOperationIr) -> Node {
        match numeric {
            NumericOperationIr::Add(op) => self.binary("Add", op),
            NumericOperationIr::Sub(op) => self.binary("Sub", op),
            NumericOperationIr::Mul(op) => self.binary("Mul", op),
            NumericOperationIr::Div(op) => self.binary("Div", op),
            NumericOperationIr::Powi(op) => self.binary("Pow", op),
            NumericOperationIr::AddScalar(op) => self.with_scalar("Add", op),
            NumericOperationIr::SubScalar(op) => self.with_scalar("Sub", op),
            NumericOperationIr::MulScalar(op) => self.with_scalar("Mul", op),
            NumericOperationIr::DivScalar(op) => self.with_scalar("Div", op),
            NumericOperationIr::PowiScalar(op) => self.with_scalar("Pow", op),
            NumericOperationIr::GreaterElem(op) => self.with_scalar("Greater", op),
            NumericOperationIr::GreaterEqualElem(op) => self.with_scalar("GreaterOrEqual", op),
            NumericOperationIr::LowerElem(op) => self.with_scalar("Less", op),
            NumericOperationIr::LowerEqualElem(op) => self.with_scalar("LessOrEqual", op),
            NumericOperationIr::Greater(op) => self.binary("Greater", op),
            NumericOperationIr::GreaterEqual(op) => self.binary("GreaterOrEqual", op),
            NumericOperationIr::Lower(op) => self.binary("Less", op),
            NumericOperationIr::LowerEqual(op) => self.binary("LessOrEqual", op),
            NumericOperationIr::Abs(op) => self.unary("Abs", op),
            NumericOperationIr::Neg(op) => self.unary("Neg", op),
            NumericOperationIr::Sign(op) => self.unary("Sign", op),
            NumericOperationIr::MeanDim(op) => self.reduce("ReduceMean", op),
            NumericOperationIr::MaxDim(op) => self.reduce("ReduceMax", op),
            NumericOperationIr::MinDim(op) => self.reduce("ReduceMin", op),
            NumericOperationIr::ProdDim(op) => self.reduce("ReduceProd", op),
            // Of the reductions the one that takes its axes as an input in opset 13 already.
            NumericOperationIr::SumDim(op) => self.sum(&op.input, &[op.axis]),
            NumericOperationIr::SumDims(op) => self.sum(&op.input, &op.axes),
            NumericOperationIr::ArgMax(op) => {
                let input = self.value(&op.input)?;
                self.made("ArgMax", &[&input], vec![axis(op.axis), AttributeProto::int("keepdims", 1)])
            }
            NumericOperationIr::CumSum(op) => {
                let (input, at) = (self.value(&op.input)?, self.graph.int(op.axis as i64));
                self.made("CumSum", &[&input, &at], Vec::new())
            }
            NumericOperationIr::Clamp(op) => {
                let input = self.value(&op.tensor)?;
                let (min, max) = (self.scalar_of(&op.tensor, op.min), self.scalar_of(&op.tensor, op.max));
                self.made("Clip", &[&input, &min, &max], Vec::new())
            }
            NumericOperationIr::ClampMin(op) => self.with_scalar("Max", op),
            NumericOperationIr::ClampMax(op) => self.with_scalar("Min", op),
            _ => Ok(None),
        }
    }

    fn sum(&mut self, input: &TensorIr, axes: &[usize]) -> Node {
        let axes: Vec<i64> = axes.iter().map(|axis| *axis as i64).collect();
        let (input, axes) = (self.value(input)?, self.graph.ints(&axes));
        self.made("ReduceSum", &[&input, &axes], vec![AttributeProto::int("keepdims", 1)])
    }

    fn float(&mut self, operation: &FloatOperationIr) -> Node {
        match operation {
            FloatOperationIr::Exp(op) => self.unary("Exp", op),
            FloatOperationIr::Log(op) => self.unary("Log", op),
            FloatOperationIr::Erf(op) => self.unary("Erf", op),
            FloatOperationIr::Sqrt(op) => self.unary("Sqrt", op),
            FloatOperationIr::Sin(op) => self.unary("Sin", op),
            FloatOperationIr::Cos(op) => self.unary("Cos", op),
            FloatOperationIr::Tanh(op) => self.unary("Tanh", op),
            FloatOperationIr::Recip(op) => self.unary("Reciprocal", op),
            FloatOperationIr::Floor(op) => self.unary("Floor", op),
            FloatOperationIr::Ceil(op) => self.unary("Ceil", op),
            FloatOperationIr::PowfScalar(op) => self.with_scalar("Pow", op),
            FloatOperationIr::Powf(op) => self.binary("Pow", op),
            FloatOperationIr::IntoInt(op) => self.cast(op),
            FloatOperationIr::Matmul(op) => {
                let (a, b) = (self.value(&op.lhs)?, self.value(&op.rhs)?);
                self.made("MatMul", &[&a, &b], Vec::new())
            }
            _ => Ok(None),
        }
    }

    fn activation(&mut self, activation: &ActivationOperationIr) -> Node {
        match activation {
            ActivationOperationIr::Relu(op) => self.unary("Relu", op),
            ActivationOperationIr::Sigmoid(op) => self.unary("Sigmoid", op),
            ActivationOperationIr::Softmax(op) => {
                let input = self.value(&op.input)?;
                self.made("Softmax", &[&input], vec![axis(op.axis)])
            }
            // In the form that ONNX Runtime and TensorRT know as one operation.
            ActivationOperationIr::Gelu(op) => {
                let x = self.value(&op.input)?;
                let [root, one, half] =
                    [std::f64::consts::SQRT_2, 1.0, 0.5].map(|value| self.graph.scalar(value));
                let scaled = self.graph.node("Div", &[&x, &root], Vec::new());
                let erf = self.graph.node("Erf", &[&scaled], Vec::new());
                let shifted = self.graph.node("Add", &[&erf, &one], Vec::new());
                let twice = self.graph.node("Mul", &[&x, &shifted], Vec::new());
                self.made("Mul", &[&twice, &half], Vec::new())
            }
            _ => Ok(None),
        }
    }

    fn module(&mut self, module: &ModuleOperationIr) -> Node {
        match module {
            ModuleOperationIr::Conv2d(op) => {
                let mut inputs = vec![self.value(&op.x)?, self.value(&op.weight)?];
                if let Some(bias) = &op.bias {
                    inputs.push(self.value(bias)?);
                }
                let options = &op.options;
                let [(top, bottom), (left, right)] = options.padding;
                let attributes = vec![
                    AttributeProto::ints("kernel_shape", op.weight.shape[2..].iter().copied()),
                    AttributeProto::ints("strides", options.stride),
                    AttributeProto::ints("pads", [top, left, bottom, right]),
                    AttributeProto::ints("dilations", options.dilation),
                    AttributeProto::int("group", options.groups as i64),
                ];
                let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
                self.made("Conv", &inputs, attributes)
            }
            ModuleOperationIr::ConvTranspose2d(op) => {
                let mut inputs = vec![self.value(&op.x)?, self.value(&op.weight)?];
                if let Some(bias) = &op.bias {
                    inputs.push(self.value(bias)?);
                }
                let options = &op.options;
                let [y, x] = options.padding;
                let attributes = vec![
                    AttributeProto::ints("kernel_shape", op.weight.shape[2..].iter().copied()),
                    AttributeProto::ints("strides", options.stride),
                    AttributeProto::ints("pads", [y, x, y, x]),
                    AttributeProto::ints("output_padding", options.padding_out),
                    AttributeProto::ints("dilations", options.dilation),
                    AttributeProto::int("group", options.groups as i64),
                ];
                let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
                self.made("ConvTranspose", &inputs, attributes)
            }
            ModuleOperationIr::Linear(op) => {
                let (x, weight) = (self.value(&op.x)?, self.value(&op.weight)?);
                let product = self.graph.node("MatMul", &[&x, &weight], Vec::new());
                let Some(bias) = &op.bias else { return Ok(Some(product)) };
                let bias = self.value(bias)?;
                self.made("Add", &[&product, &bias], Vec::new())
            }
            ModuleOperationIr::LayerNorm(op) => {
                let mut inputs = vec![self.value(&op.input)?, self.value(&op.gamma)?];
                if let Some(beta) = &op.beta {
                    inputs.push(self.value(beta)?);
                }
                let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
                let attributes = vec![
                    AttributeProto::int("axis", -1),
                    AttributeProto::float("epsilon", float(op.epsilon)),
                ];
                self.made("LayerNormalization", &inputs, attributes)
            }
            ModuleOperationIr::BatchNorm(op) => {
                let tensors = [&op.x, &op.gamma, &op.beta, &op.mean, &op.variance];
                let inputs =
                    tensors.into_iter().map(|tensor| self.value(tensor)).collect::<Result<Vec<_>, _>>()?;
                let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
                self.made(
                    "BatchNormalization",
                    &inputs,
                    vec![AttributeProto::float("epsilon", float(op.epsilon))],
                )
            }
            ModuleOperationIr::MaxPool2d(op) => {
                let x = self.value(&op.x)?;
                let [pad_y, pad_x] = op.padding;
                let attributes = vec![
                    AttributeProto::ints("kernel_shape", op.kernel_size),
                    AttributeProto::ints("strides", op.stride),
                    AttributeProto::ints("pads", [pad_y, pad_x, pad_y, pad_x]),
                    AttributeProto::ints("dilations", op.dilation),
                    AttributeProto::int("ceil_mode", i64::from(op.ceil_mode)),
                ];
                self.made("MaxPool", &[&x], attributes)
            }
            ModuleOperationIr::AvgPool2d(op) => {
                let x = self.value(&op.x)?;
                let [pad_y, pad_x] = op.padding;
                let attributes = vec![
                    AttributeProto::ints("kernel_shape", op.kernel_size),
                    AttributeProto::ints("strides", op.stride),
                    AttributeProto::ints("pads", [pad_y, pad_x, pad_y, pad_x]),
                    AttributeProto::int("count_include_pad", i64::from(op.count_include_pad)),
                    AttributeProto::int("ceil_mode", i64::from(op.ceil_mode)),
                ];
                self.made("AveragePool", &[&x], attributes)
            }
            ModuleOperationIr::AdaptiveAvgPool2d(op) if op.output_size == [1, 1] => {
                let x = self.value(&op.x)?;
                self.made("GlobalAveragePool", &[&x], Vec::new())
            }
            ModuleOperationIr::Attention(op) => self.attention(op),
            _ => Ok(None),
        }
    }

    /// `softmax(scale q k^T + bias) v`.
    fn attention(&mut self, op: &AttentionOpIr) -> Node {
        if op.mask.is_some() || op.options.is_causal || op.options.softcap.is_some() {
            return Ok(None);
        }
        let [query, key, value] = [&op.query, &op.key, &op.value].map(|tensor| self.value(tensor));
        let (mut query, key, value) = (query?, key?, value?);
        let rank = op.query.shape.num_dims();
        let width = op.query.shape[rank - 1];
        let scale = op.options.scale.map_or((width as f64).powf(-0.5), float);
        if scale != 1.0 {
            let scale = self.graph.scalar(scale);
            query = self.graph.node("Mul", &[&query, &scale], Vec::new());
        }
        let mut axes: Vec<usize> = (0..rank).collect();
        axes.swap(rank - 2, rank - 1);
        let key = self.graph.node("Transpose", &[&key], vec![AttributeProto::ints("perm", axes)]);
        let mut scores = self.graph.node("MatMul", &[&query, &key], Vec::new());
        if let Some(bias) = &op.attn_bias {
            let bias = self.value(bias)?;
            scores = self.graph.node("Add", &[&scores, &bias], Vec::new());
        }
        let weights = self.graph.node("Softmax", &[&scores], vec![AttributeProto::int("axis", -1)]);
        self.made("MatMul", &[&weights, &value], Vec::new())
    }
}
