//! The networks: an encoder with a head on top, and beside them what a method carries from step to step.
//!
//! | part | SimCLR | MoCo | DINO | state-dict prefix |
//! | --- | --- | --- | --- | --- |
//! | trained encoder and head | yes | yes | yes | `online.encoder`, `online.head` |
//! | the same, following slowly | | key encoder | teacher | `momentum.encoder`, `momentum.head` |
//! | `[length, output]` | | keys | | `queue` |
//! | `[1, prototypes]` | | | mean of the teacher's outputs | `centre` |

mod encoder;
mod files;
mod head;

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{Device, Tensor, TensorData};
use kirie_engine::random::Streams;

pub use encoder::{Encoder, EncoderSpec};
pub use files::{EncoderFile, save_encoder};
pub use head::{DinoHead, Head, MocoHead, SimclrHead};

use crate::config::{EncoderConfig, MethodConfig};
use crate::error::ContrastiveError;
use crate::loss::normalised;
use crate::random::normal;

/// An encoder and a head.
#[derive(Module, Debug)]
pub struct Branch {
    /// Pixels to features.
    pub encoder: Encoder,
    /// Features to what the loss compares.
    pub head: Head,
}

impl Branch {
    /// `[views, 3, size, size]` to features `[views, features]` and projections `[views, output]`.
    pub fn forward(&self, x: Tensor<4>) -> (Tensor<2>, Tensor<2>) {
        let features = self.encoder.forward(x);
        (features.clone(), self.head.forward(features))
    }
}

/// Everything that a contrastive run trains and carries.
#[derive(Module, Debug)]
pub struct Contrastive {
    /// What is trained.
    pub online: Branch,
    /// What follows it.
    pub momentum: Option<Branch>,
    /// MoCo: keys of earlier batches, of length 1, `[length, output]`.
    pub queue: Option<Param<Tensor<2>>>,
    /// DINO: mean of the teacher's outputs, `[1, prototypes]`.
    pub centre: Option<Param<Tensor<2>>>,
}

impl Contrastive {
    /// A model whose random numbers follow from the seed. `init` are weights to start the encoder from.
    ///
    /// # Errors
    /// Weights that do not fit the encoder.
    pub fn new(
        encoder: &EncoderConfig,
        method: &MethodConfig,
        init: Option<EncoderFile>,
        seed: u64,
        device: &Device,
    ) -> Result<Self, ContrastiveError> {
        let spec = EncoderSpec::new(encoder)?;
        let branch = Branch { encoder: spec.init(device), head: Head::new(method, spec.features(), device) };
        make(&branch, device, seed);
        let encoder = match init {
            Some(file) => file.load_into(branch.encoder, device)?,
            None => branch.encoder,
        };
        let online = Branch { encoder, head: branch.head };
        let follows = !matches!(method, MethodConfig::Simclr(_));
        let queue = match method {
            MethodConfig::Moco(moco) => {
                let shape = [moco.queue, moco.output];
                let keys = normalised(Tensor::from_data(noise(shape, seed), device)).detach();
                Some(constant(keys))
            }
            _ => None,
        };
        let centre = match method {
            MethodConfig::Dino(dino) => Some(constant(Tensor::zeros([1, dino.prototypes], device))),
            _ => None,
        };
        let momentum = follows.then(|| online.clone());
        Ok(Self { online, momentum, queue, centre })
    }

    /// The encoder that is judged and kept: of DINO the teacher's, otherwise the trained one.
    pub fn kept(&self) -> &Encoder {
        match (&self.centre, &self.momentum) {
            (Some(_), Some(teacher)) => &teacher.encoder,
            _ => &self.online.encoder,
        }
    }
}

/// A tensor that is carried, not trained.
pub(crate) fn constant(tensor: Tensor<2>) -> Param<Tensor<2>> {
    Param::from_tensor(tensor).set_require_grad(false)
}

/// Normal numbers, the same on every device.
fn noise(shape: [usize; 2], seed: u64) -> TensorData {
    let mut rng = Streams::new(seed).stream("queue", &[]);
    TensorData::new(normal(shape[0] * shape[1], &mut rng), shape)
}

/// Makes all parameters, in the order of the fields.
pub(crate) fn make<M: Module>(module: &M, device: &Device, seed: u64) {
    struct Make;
    impl ModuleVisitor for Make {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let _ = param.base();
        }
    }
    device.seed(seed);
    module.visit(&mut Make);
}

#[cfg(test)]
mod tests;
