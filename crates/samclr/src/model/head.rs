//! Projection heads.
//!
//! | head | layers | keys |
//! | --- | --- | --- |
//! | SimCLR | linear without bias, norm, ReLU, linear without bias, norm (lightly's `SimCLRProjectionHead`) | `layers.{0,1,3,4}` |
//! | MoCo v2 | linear, ReLU, linear | `layers.{0,2}` |
//! | DINO | linear, norm, GELU, linear, norm, GELU, linear, length 1, linear of rows of length 1 | `mlp.{0,2,4}`, `norms.{0,1}`, `prototypes` |

use burn::module::{Initializer, Module, Param};
use burn::nn::{BatchNorm, BatchNormConfig, Linear, LinearConfig};
use burn::tensor::{Device, Tensor};
use kirie_nn::{Activation, linear};

use crate::config::MethodConfig;
use crate::loss::normalised;

/// A head of any kind.
#[derive(Module, Debug)]
#[allow(clippy::large_enum_variant, reason = "there are two per run at most")]
pub enum Head {
    /// SimCLR's.
    Simclr(SimclrHead),
    /// MoCo's.
    Moco(MocoHead),
    /// DINO's.
    Dino(DinoHead),
}

impl Head {
    /// The head of a method, over features of this length.
    pub fn new(method: &MethodConfig, features: usize, device: &Device) -> Self {
        let or_features = |hidden: usize| if hidden == 0 { features } else { hidden };
        match method {
            MethodConfig::Simclr(simclr) => {
                let hidden = or_features(simclr.hidden);
                let layer = |input: usize, output: usize| {
                    LinearConfig::new(input, output).with_bias(false).init(device)
                };
                let norm = |channels: usize| BatchNormConfig::new(channels).init(device);
                Self::Simclr(SimclrHead {
                    layers: SimclrLayers {
                        i0: layer(features, hidden),
                        i1: norm(hidden),
                        i3: layer(hidden, simclr.output),
                        i4: norm(simclr.output),
                    },
                })
            }
            MethodConfig::Moco(moco) => {
                let hidden = or_features(moco.hidden);
                let layer = |input: usize, output: usize| LinearConfig::new(input, output).init(device);
                Self::Moco(MocoHead {
                    layers: MocoLayers { i0: layer(features, hidden), i2: layer(hidden, moco.output) },
                })
            }
            MethodConfig::Dino(dino) => {
                let normal = Initializer::Normal { mean: 0.0, std: 0.02 };
                // Biases begin with 0; Burn's initialiser would draw them too.
                let layer = |input: usize, output: usize| Linear {
                    weight: normal.init([input, output], device),
                    bias: Some(Initializer::Zeros.init([output], device)),
                };
                let norms = if dino.batch_norm { 2 } else { 0 };
                Self::Dino(DinoHead {
                    norms: (0..norms).map(|_| BatchNormConfig::new(dino.hidden).init(device)).collect(),
                    mlp: DinoLayers {
                        i0: layer(features, dino.hidden),
                        i2: layer(dino.hidden, dino.hidden),
                        i4: layer(dino.hidden, dino.bottleneck),
                    },
                    prototypes: normal.init([dino.prototypes, dino.bottleneck], device),
                })
            }
        }
    }

    /// `[views, features]` to `[views, output]`.
    pub fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        match self {
            Self::Simclr(head) => head.forward(x),
            Self::Moco(head) => head.forward(x),
            Self::Dino(head) => head.forward(x, false),
        }
    }
}

/// SimCLR's head. Its output is not normalised; the loss does that.
#[derive(Module, Debug)]
pub struct SimclrHead {
    /// Its layers.
    pub layers: SimclrLayers,
}

/// See [`SimclrHead`].
#[derive(Module, Debug)]
pub struct SimclrLayers {
    /// To the hidden width.
    pub i0: Linear,
    /// Norm.
    pub i1: BatchNorm,
    /// To the output.
    pub i3: Linear,
    /// Norm.
    pub i4: BatchNorm,
}

impl SimclrHead {
    fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        let SimclrLayers { i0, i1, i3, i4 } = &self.layers;
        let x = Activation::Relu.forward(i1.forward(linear(i0, x)));
        i4.forward(linear(i3, x))
    }
}

/// MoCo v2's head.
#[derive(Module, Debug)]
pub struct MocoHead {
    /// Its layers.
    pub layers: MocoLayers,
}

/// See [`MocoHead`].
#[derive(Module, Debug)]
pub struct MocoLayers {
    /// To the hidden width.
    pub i0: Linear,
    /// To the output.
    pub i2: Linear,
}

impl MocoHead {
    fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        linear(&self.layers.i2, Activation::Relu.forward(linear(&self.layers.i0, x)))
    }
}

/// DINO's head.
#[derive(Module, Debug)]
pub struct DinoHead {
    /// Layers up to the bottleneck.
    pub mlp: DinoLayers,
    /// Norms behind its two hidden layers, or none.
    pub norms: Vec<BatchNorm>,
    /// `[prototypes, bottleneck]`; used as rows of length 1 (weight norm whose magnitude stays 1).
    pub prototypes: Param<Tensor<2>>,
}

/// See [`DinoHead`].
#[derive(Module, Debug)]
pub struct DinoLayers {
    /// To the hidden width.
    pub i0: Linear,
    /// Hidden to hidden.
    pub i2: Linear,
    /// To the bottleneck.
    pub i4: Linear,
}

impl DinoHead {
    /// `[views, features]` to `[views, prototypes]`. `frozen` prototypes get no gradient.
    pub fn forward(&self, x: Tensor<2>, frozen: bool) -> Tensor<2> {
        let hidden = |layer, norm: Option<&BatchNorm>, x| {
            let x = linear(layer, x);
            Activation::Gelu.forward(norm.map_or_else(|| x.clone(), |norm| norm.forward(x.clone())))
        };
        let x = hidden(&self.mlp.i0, self.norms.first(), x);
        let x = normalised(linear(&self.mlp.i4, hidden(&self.mlp.i2, self.norms.get(1), x)));
        let prototypes = self.prototypes.val();
        let prototypes = if frozen { prototypes.detach() } else { prototypes };
        x.matmul(normalised(prototypes).transpose())
    }
}
