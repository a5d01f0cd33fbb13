//! Lets picture and prompt meet before the decoder's transformer. Not part of SAM; kirie's own small model has it.
//!
//! In SAM the picture's cells learn of the prompt through a handful of tokens alone, and never of each other: what belongs
//! together must be in the embedding already. An encoder that was trained on a billion masks has it there. Here a few
//! convolutional blocks look at embedding and drawn prompt at once, at half the embedding's resolution.
//!
//! | part | output | state-dict prefix |
//! | --- | --- | --- |
//! | MBConv, stride 2 | `[B, C, S / 2, S / 2]` | `op_list.0` |
//! | linear attention and MBConv | same | `op_list.{1..}` |
//! | 1x1, to full size, added to the input | `[B, C, S, S]` | `up` |

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use kirie_nn::resize::{Interpolation, resize};
use kirie_nn::{ConvNorm, ConvNormConfig};
use serde::{Deserialize, Serialize};

use crate::encoders::efficientvit::{Op, StageConfig, StageKind};

/// Configuration of [`PromptFusion`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PromptFusionConfig {
    /// Blocks of linear attention and MBConv after the one that halves the resolution.
    pub depth: usize,
    /// Hidden width of the MBConvs over the embedding's.
    pub expand: usize,
    /// Channels of one attention head.
    pub head_dim: usize,
}

impl PromptFusionConfig {
    /// Parameters by default initialisation, for an embedding of `dim` channels.
    pub fn init(&self, dim: usize, device: &Device) -> PromptFusion {
        let stage = StageConfig {
            kind: StageKind::Attention(5),
            width: dim,
            depth: self.depth,
            expand: self.expand,
            fewer_norm: true,
        };
        let first = Op::Block(stage.strided(dim, dim * self.expand, device));
        let rest = (0..self.depth).map(|_| stage.block(self.head_dim, device));
        PromptFusion {
            op_list: std::iter::once(first).chain(rest).collect(),
            up: ConvNormConfig::new([dim; 2], 1).init(device),
        }
    }
}

/// See the module.
#[derive(Module, Debug)]
pub struct PromptFusion {
    /// The strided block, then those that keep the size.
    pub op_list: Vec<Op>,
    /// What is added.
    pub up: ConvNorm,
}

impl PromptFusion {
    /// Embedding plus dense prompt, `[B, C, S, S]`, to the same with what they say together.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let [_, _, height, width] = x.dims();
        let small = self.op_list.iter().fold(x.clone(), |x, op| op.forward(x));
        x + resize(self.up.forward(small), [height, width], Interpolation::Bilinear)
    }
}
