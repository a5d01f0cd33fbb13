//! [`EfficientVit`] made ready.

use kirie_kernels::{Activation, Gemm, ReadyConv, activation_part, fused_block, inverted_block};
use kirie_nn::LiteMla;
use kirie_nn::resize::Interpolation;
use rayon::prelude::*;

use super::weights::{Norm, conv, conv_norm};
use super::{Map, Spare, apply, multiply, product};
use crate::SamError;
use crate::encoders::efficientvit::{Block, EfficientVit, Main, Op};

/// See [`EfficientVit`]; the same parts in the same order.
pub(super) struct EfficientVitPlan {
    stages: Vec<Vec<Step>>,
    /// 1x1 to the embedding's width, deepest stage first.
    input_ops: Vec<ReadyConv>,
    middle: Vec<Step>,
    output_ops: Vec<ReadyConv>,
    out_size: usize,
    norm: Norm,
}

enum Step {
    Conv(ReadyConv),
    /// Several in one pass, or one after the other, and then the residual, where the shape is kept.
    Res([ReadyConv; 2], bool),
    Fused([ReadyConv; 2], bool),
    Inverted(Box<[ReadyConv; 3]>, bool),
    Attention(Attention),
}

impl EfficientVitPlan {
    pub(super) fn new(encoder: &EfficientVit) -> Result<Self, SamError> {
        let stages = encoder.backbone.stages.iter().map(|stage| {
            let mut steps = Vec::new();
            for op in &stage.op_list {
                match op {
                    Op::Stem(layer) => steps.push(Step::Conv(conv_norm(layer)?)),
                    Op::Block(block) => steps.push(Step::block(block)?),
                    Op::Attention(block) => {
                        steps.push(Step::Attention(Attention::new(&block.context_module.main)?));
                        steps.push(Step::block(&block.local_module)?);
                    }
                }
            }
            Ok(steps)
        });
        let neck = &encoder.neck;
        let sequence = |op: &crate::encoders::efficientvit::ConvSequence| match op.op_list.as_slice() {
            [layer] => conv_norm(layer),
            other => Err(SamError::Engine(format!("a neck of {} convolutions in a row", other.len()))),
        };
        Ok(Self {
            stages: stages.collect::<Result<_, SamError>>()?,
            input_ops: neck.input_ops.iter().map(sequence).collect::<Result<_, _>>()?,
            middle: neck.middle.op_list.iter().map(Step::block).collect::<Result<_, _>>()?,
            output_ops: neck.output_ops.iter().map(sequence).collect::<Result<_, _>>()?,
            out_size: neck.out_size(),
            norm: Norm::of_pixels(&encoder.norm)?,
        })
    }

    pub(super) fn forward(&self, x: Map) -> Map {
        let spare = &mut Spare::default();
        let mut x = x;
        let mut sum = None;
        for (stage, steps) in self.stages.iter().enumerate() {
            for step in steps {
                let y = step.forward(&x, spare);
                spare.give(std::mem::replace(&mut x, y));
            }
            // The deepest stage is fused first.
            if let Some(op) = self.input_ops.get(self.stages.len() - 1 - stage) {
                self.fuse(op, &x, &mut sum, spare);
            }
        }
        spare.give(x);
        let mut x = sum.unwrap_or_else(|| spare.take(self.norm.gamma.len(), [self.out_size; 2]));
        for step in &self.middle {
            let y = step.forward(&x, spare);
            spare.give(std::mem::replace(&mut x, y));
        }
        for op in &self.output_ops {
            let y = apply(op, &x, None, spare);
            spare.give(std::mem::replace(&mut x, y));
        }
        self.norm.forward(&x, spare)
    }

    /// Adds a stage's share to the sum at the embedding's size.
    fn fuse(&self, op: &ReadyConv, stage: &Map, sum: &mut Option<Map>, spare: &mut Spare) {
        let to = [self.out_size; 2];
        if stage.size == to {
            let y = apply(op, stage, sum.as_ref(), spare);
            if let Some(before) = sum.replace(y) {
                spare.give(before);
            }
            return;
        }
        let small = apply(op, stage, None, spare);
        let [rows, columns] = [0, 1].map(|side| Interpolation::Bicubic.matrix(stage.size[side], to[side]));
        let first = sum.is_none();
        let sum = sum.get_or_insert_with(|| spare.take(small.channels, to));
        let ([height, width], plane) = (small.size, to[0] * to[1]);
        sum.values.par_chunks_exact_mut(plane).zip(small.values.par_chunks_exact(height * width)).for_each(
            |(to_plane, from)| {
                let mut wide = vec![0.0; height * to[1]];
                let across = Gemm { b_transposed: true, ..product(height, width, to[1]) };
                multiply(&across, from, &columns, &mut wide);
                let down = Gemm { accumulate: !first, ..product(to[0], height, to[1]) };
                multiply(&down, &rows, &wide, to_plane);
            },
        );
        spare.give(small);
    }
}

impl Step {
    fn block(block: &Block) -> Result<Self, SamError> {
        let keeps = block.residual();
        Ok(match &block.main {
            Main::Res(main) => Self::Res([conv_norm(&main.conv1)?, conv_norm(&main.conv2)?], keeps),
            Main::Fused(main) => {
                Self::Fused([conv_norm(&main.spatial_conv)?, conv_norm(&main.point_conv)?], keeps)
            }
            Main::Mb(main) => {
                let [first, last] = [conv_norm(&main.inverted_conv)?, conv_norm(&main.point_conv)?];
                Self::Inverted(Box::new([first, conv_norm(&main.depth_conv)?, last]), keeps)
            }
        })
    }

    fn forward(&self, x: &Map, spare: &mut Spare) -> Map {
        let add = |keeps: bool| keeps.then_some(x.values.as_slice());
        match self {
            Self::Conv(op) => apply(op, x, None, spare),
            Self::Res([first, last], keeps) => {
                let middle = apply(first, x, None, spare);
                let y = apply(last, &middle, keeps.then_some(x), spare);
                spare.give(middle);
                y
            }
            Self::Fused([first, last], keeps) => {
                let mut y = spare.take(last.channels()[1], first.output(x.size));
                fused_block(first, last, x.size, &x.values, add(*keeps), &mut y.values);
                y
            }
            Self::Inverted(layers, keeps) => {
                let [expand, depthwise, last] = layers.as_ref();
                let mut y = spare.take(last.channels()[1], depthwise.output(x.size));
                inverted_block(expand, depthwise, last, x.size, &x.values, add(*keeps), &mut y.values);
                y
            }
            Self::Attention(attention) => attention.forward(x, spare),
        }
    }
}

/// See [`LiteMla`].
struct Attention {
    qkv: ReadyConv,
    /// Depthwise, then within a head's queries, keys or values.
    aggreg: Vec<[ReadyConv; 2]>,
    proj: ReadyConv,
    head_dim: usize,
}

impl Attention {
    fn new(layer: &LiteMla) -> Result<Self, SamError> {
        let plain = |layer| conv(layer, None, kirie_nn::Activation::Identity);
        let aggreg = layer.aggreg.iter().map(|scale| Ok([plain(&scale.i0)?, plain(&scale.i1)?]));
        Ok(Self {
            qkv: conv_norm(&layer.qkv)?,
            aggreg: aggreg.collect::<Result<_, SamError>>()?,
            proj: conv_norm(&layer.proj)?,
            head_dim: layer.head_dim(),
        })
    }

    /// With the residual.
    fn forward(&self, x: &Map, spare: &mut Spare) -> Map {
        let width = self.qkv.channels()[1];
        let tokens = x.size[0] * x.size[1];
        let mut all = spare.take(width * (1 + self.aggreg.len()), x.size);
        let (first, others) = all.values.split_at_mut(width * tokens);
        self.qkv.forward(x.size, &x.values, None, first);
        let mut near = spare.take(width, x.size);
        for ([depthwise, mix], to) in self.aggreg.iter().zip(others.chunks_exact_mut(width * tokens)) {
            depthwise.forward(x.size, first, None, &mut near.values);
            mix.forward(x.size, &near.values, None, to);
        }
        spare.give(near);
        let d = self.head_dim;
        let mut seen = spare.take(self.proj.channels()[0], x.size);
        let heads = all.values.par_chunks_exact_mut(3 * d * tokens);
        heads
            .zip(seen.values.par_chunks_exact_mut(d * tokens))
            .for_each(|(head, seen)| attend(d, head, seen));
        let mut y = spare.take(x.channels, x.size);
        self.proj.forward(x.size, &seen.values, Some(&x.values), &mut y.values);
        spare.give(all);
        spare.give(seen);
        y
    }
}

/// One head of linear attention: `head` is `[queries, keys, values][d, tokens]`, `seen` `[d, tokens]`.
fn attend(d: usize, head: &mut [f32], seen: &mut [f32]) {
    const EPSILON: f32 = 1e-15;
    let tokens = seen.len() / d;
    let (queries_keys, values) = head.split_at_mut(2 * d * tokens);
    activation_part(Activation::Relu, queries_keys);
    let (queries, keys) = queries_keys.split_at(d * tokens);
    // The values and, as one row more, ones, times the keys: the sums of both at once.
    let mut sums = vec![0.0; (d + 1) * d];
    multiply(&Gemm { b_transposed: true, ..product(d, tokens, d) }, values, keys, &mut sums[..d * d]);
    for (sum, key) in sums[d * d..].iter_mut().zip(keys.chunks_exact(tokens)) {
        *sum = key.iter().sum();
    }
    multiply(&product(d, d, tokens), &sums[..d * d], queries, seen);
    let mut weights = vec![0.0; tokens];
    multiply(&product(1, d, tokens), &sums[d * d..], queries, &mut weights);
    for w in &mut weights {
        *w = 1.0 / (*w + EPSILON);
    }
    for line in seen.chunks_exact_mut(tokens) {
        line.iter_mut().zip(&weights).for_each(|(v, w)| *v *= w);
    }
}
