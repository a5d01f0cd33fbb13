//! Down, activation, up.
#![allow(non_snake_case, reason = "state-dict names")]

use burn::module::Module;
use burn::nn::{Initializer, Linear, LinearConfig};
use burn::tensor::{Device, Tensor};

use crate::{Activation, linear};

/// Configuration of [`Bottleneck`].
#[derive(Clone, Debug)]
pub struct BottleneckConfig {
    /// Input and output width.
    pub dim: usize,
    /// Width between.
    pub hidden: usize,
    /// Activation between.
    pub activation: Activation,
    /// Begin with an output of zero, so that adding the adapter changes nothing at first.
    pub zero: bool,
}

impl BottleneckConfig {
    /// Parameters by Burn's defaults (those of PyTorch's `Linear`).
    pub fn init(&self, device: &Device) -> Bottleneck {
        let mut up = LinearConfig::new(self.hidden, self.dim);
        if self.zero {
            up = up.with_initializer(Initializer::Zeros);
        }
        Bottleneck {
            D_fc1: LinearConfig::new(self.dim, self.hidden).init(device),
            D_fc2: up.init(device),
            activation: self.activation,
        }
    }
}

/// The adapter of AdaptFormer; whatever it is added to and scaled by is the caller's. Keys: `D_fc1.*`, `D_fc2.*`.
#[derive(Module, Debug)]
pub struct Bottleneck {
    /// `dim` to `hidden`.
    pub D_fc1: Linear,
    /// `hidden` to `dim`.
    pub D_fc2: Linear,
    #[module(skip)]
    activation: Activation,
}

impl Bottleneck {
    /// `[.., dim]` to the same shape.
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        linear(&self.D_fc2, self.activation.forward(linear(&self.D_fc1, x)))
    }
}
