//! Multi-layer perceptrons.

use burn::module::Module;
use burn::nn::{Linear, LinearConfig};
use burn::tensor::{Device, Tensor, activation::relu};

use crate::{Activation, linear};

/// Configuration of [`Mlp`].
#[derive(Clone, Debug)]
pub struct MlpConfig {
    /// Input and output width.
    pub dim: usize,
    /// Width between.
    pub hidden: usize,
    /// Activation between.
    pub activation: Activation,
}

impl MlpConfig {
    /// Parameters by Burn's defaults.
    pub fn init(&self, device: &Device) -> Mlp {
        Mlp {
            lin1: LinearConfig::new(self.dim, self.hidden).init(device),
            lin2: LinearConfig::new(self.hidden, self.dim).init(device),
            activation: self.activation,
        }
    }
}

/// Linear, activation, linear: the MLP of a transformer block. Keys: `lin1.*`, `lin2.*`.
#[derive(Module, Debug)]
pub struct Mlp {
    /// `dim` to `hidden`.
    pub lin1: Linear,
    /// `hidden` to `dim`.
    pub lin2: Linear,
    #[module(skip)]
    activation: Activation,
}

impl Mlp {
    /// `[..., dim]` to the same shape.
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        linear(&self.lin2, self.activation.forward(linear(&self.lin1, x)))
    }
}

/// Configuration of [`ReluMlp`].
#[derive(Clone, Debug)]
pub struct ReluMlpConfig {
    /// Input width.
    pub input: usize,
    /// Width of every hidden layer.
    pub hidden: usize,
    /// Output width.
    pub output: usize,
    /// Number of linear layers, at least one.
    pub layers: usize,
}

impl ReluMlpConfig {
    /// Parameters by Burn's defaults.
    pub fn init(&self, device: &Device) -> ReluMlp {
        let layers = (0..self.layers)
            .map(|i| {
                let input = if i == 0 { self.input } else { self.hidden };
                let output = if i + 1 == self.layers { self.output } else { self.hidden };
                LinearConfig::new(input, output).init(device)
            })
            .collect();
        ReluMlp { layers }
    }
}

/// Linear layers with ReLU between them: the heads of SAM's mask decoder. Keys: `layers.{i}.*`.
#[derive(Module, Debug)]
pub struct ReluMlp {
    /// The linear layers in order.
    pub layers: Vec<Linear>,
}

impl ReluMlp {
    /// `[..., input]` to `[..., output]`.
    pub fn forward<const D: usize>(&self, mut x: Tensor<D>) -> Tensor<D> {
        for (i, layer) in self.layers.iter().enumerate() {
            if i > 0 {
                x = relu(x);
            }
            x = linear(layer, x);
        }
        x
    }
}
