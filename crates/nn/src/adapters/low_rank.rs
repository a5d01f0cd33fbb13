//! Low-rank additions to weights.

use burn::module::{Module, Param, Reparameterization};
use burn::nn::Initializer;
use burn::tensor::{Device, Tensor};

/// Configuration of [`LowRank`].
#[derive(Clone, Debug)]
pub struct LowRankConfig {
    /// What one output sees: a linear layer's inputs, a convolution's inputs times its kernel.
    pub input: usize,
    /// Outputs of the layer.
    pub output: usize,
    /// Which of the equal runs that the outputs fall into are changed, each by matrices of its own. `[true, false, true]` for the
    /// queries and values of a joint projection; `[true]` for a whole layer. At least one of them is, and they divide `output`.
    pub parts: Vec<bool>,
    /// Width of the matrices.
    pub rank: usize,
    /// The product is multiplied by `alpha / rank`.
    pub alpha: f64,
}

impl LowRankConfig {
    /// `a` by PyTorch's Kaiming rule of LoRA (uniform, a = sqrt 5), `b` zero: nothing changes at first.
    pub fn init(&self, device: &Device) -> LowRank {
        let chosen = self.parts.iter().filter(|part| **part).count();
        let kaiming = Initializer::KaimingUniform { gain: 1.0 / 3.0_f64.sqrt(), fan_out_only: false };
        let shape = [chosen, self.input, self.rank];
        let width = self.output / self.parts.len();
        LowRank {
            a: kaiming.init_with(shape, Some(self.input), Some(self.rank), device),
            b: Initializer::Zeros.init([chosen, self.rank, width], device),
            scale: self.alpha / self.rank as f64,
            parts: self.parts.clone(),
        }
    }
}

/// What is added to a weight: `alpha / rank * B A` (LoRA). Burn's parameters carry it along, so a layer knows nothing of it.
///
/// Keys, after the weight's: `lora.a` `[parts, in, rank]`, `lora.b` `[parts, rank, out / all parts]`.
#[derive(Module, Debug)]
pub struct LowRank {
    /// Down, `[parts, in, rank]`.
    pub a: Param<Tensor<3>>,
    /// Up, `[parts, rank, width]`.
    pub b: Param<Tensor<3>>,
    scale: f64,
    #[module(skip)]
    parts: Vec<bool>,
}

impl LowRank {
    /// What is added, `[in, out]`.
    pub fn delta(&self) -> Tensor<2> {
        let product = self.a.val().matmul(self.b.val()) * self.scale;
        let [_, input, width] = product.dims();
        let mut chosen = 0;
        let runs = self.parts.iter().map(|part| {
            if *part {
                chosen += 1;
                product.clone().narrow(0, chosen - 1, 1).squeeze_dim::<2>(0)
            } else {
                Tensor::zeros([input, width], &product.device())
            }
        });
        Tensor::cat(runs.collect(), 1)
    }
}

impl Reparameterization for LowRank {
    const NAME: &'static str = "lora";

    /// Burn keeps a linear layer's weight as `[in, out]`, a convolution's as `[out, in, height, width]`.
    fn apply<const D: usize>(&self, base: Tensor<D>) -> Tensor<D> {
        let delta = self.delta();
        let delta = if D == 2 { delta } else { delta.transpose() };
        let shape = base.dims();
        base + delta.reshape(shape)
    }
}
