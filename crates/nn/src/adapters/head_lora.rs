//! LoRA as G-SAM's repository has it: on the queries, keys and values of each head, after they were projected.
//!
//! ```text
//! q' = q + 0.5 * 1/rank * B(A q)        A: head_dim -> rank, B: rank -> head_dim, shared by all heads
//! ```
//!
//! which changes the projection `W` to `W (I + A B / (2 rank))` head by head. ConvLoRA puts a mixture of small convolutions
//! between `A` and `B`, each at a scale of its own.
#![allow(non_snake_case, reason = "state-dict names")]

use burn::module::{Module, Param};
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::{Initializer, PaddingConfig2d};
use burn::tensor::{
    Device, Tensor,
    activation::{relu, softmax},
};

use crate::{conv2d, count};

/// Configuration of [`HeadLora`].
#[derive(Clone, Debug)]
pub struct HeadLoraConfig {
    /// Width of a head.
    pub head_dim: usize,
    /// Width between.
    pub rank: usize,
    /// What the product is multiplied by.
    pub scale: f64,
}

impl HeadLoraConfig {
    /// `lora_A` by LoRA's Kaiming rule, `lora_B` zero.
    pub fn init(&self, device: &Device) -> HeadLora {
        let kaiming = Initializer::KaimingUniform { gain: 1.0 / 3.0_f64.sqrt(), fan_out_only: false };
        let shape = [self.head_dim, self.rank];
        HeadLora {
            lora_A: kaiming.init_with(shape, Some(self.head_dim), Some(self.rank), device),
            lora_B: Initializer::Zeros.init([self.rank, self.head_dim], device),
            scale: self.scale,
        }
    }
}

/// See the module. Keys: `lora_A` `[head_dim, rank]`, `lora_B` `[rank, head_dim]`.
#[derive(Module, Debug)]
pub struct HeadLora {
    /// Down.
    pub lora_A: Param<Tensor<2>>,
    /// Up.
    pub lora_B: Param<Tensor<2>>,
    scale: f64,
}

impl HeadLora {
    /// `I + scale * A B`, `[head_dim, head_dim]`: what a head's activations are multiplied by.
    pub fn matrix(&self) -> Tensor<2> {
        let [head_dim, _] = self.lora_A.dims();
        let one = Tensor::eye(head_dim, &self.lora_A.device());
        one + self.lora_A.val().matmul(self.lora_B.val()) * self.scale
    }
}

/// Configuration of [`ConvLora`].
#[derive(Clone, Debug)]
pub struct ConvLoraConfig {
    /// Width of a head.
    pub head_dim: usize,
    /// Width between.
    pub rank: usize,
    /// What the product is multiplied by.
    pub scale: f64,
    /// Number of experts; expert `s` works at `s` times the size.
    pub experts: usize,
}

impl ConvLoraConfig {
    /// As [`HeadLoraConfig::init`]; the convolutions by Burn's defaults.
    pub fn init(&self, device: &Device) -> ConvLora {
        let HeadLora { lora_A, lora_B, scale } =
            HeadLoraConfig { head_dim: self.head_dim, rank: self.rank, scale: self.scale }.init(device);
        let conv = |out| {
            Conv2dConfig::new([self.rank, out], [3, 3])
                .with_padding(PaddingConfig2d::Explicit(1, 1, 1, 1))
                .init(device)
        };
        ConvLora {
            lora_A,
            lora_B,
            experts: (0..self.experts).map(|_| conv(self.rank)).collect(),
            gate: conv(self.experts),
            scale,
        }
    }
}

/// See the module. Keys: `lora_A`, `lora_B`, and under names of our own (the repository's are not known) `experts.{i}.*`
/// `[rank, rank, 3, 3]`, `gate.*` `[experts, rank, 3, 3]`.
#[derive(Module, Debug)]
pub struct ConvLora {
    /// Down, `[head_dim, rank]`.
    pub lora_A: Param<Tensor<2>>,
    /// Up, `[rank, head_dim]`.
    pub lora_B: Param<Tensor<2>>,
    /// 3x3 convolutions with bias, one per scale.
    pub experts: Vec<Conv2d>,
    /// How much each expert counts at each place.
    pub gate: Conv2d,
    scale: f64,
}

impl ConvLora {
    /// `[batch, heads, height * width, head_dim]` to the same shape.
    pub fn forward(&self, x: Tensor<4>, [height, width]: [usize; 2]) -> Tensor<4> {
        let [batch, heads, tokens, head_dim] = x.dims();
        let [_, rank] = self.lora_A.dims();
        if count::is_dry() {
            // The enlarged maps would be the largest tensors of the model.
            let area = batch * heads * height * width;
            count::add_layer(area * self.experts.len(), rank * 9);
            for scale in 1..=self.experts.len() {
                count::add_layer(area * scale * scale * rank, rank * 9);
            }
            return x;
        }
        let down = x.clone().reshape([batch * heads * tokens, head_dim]).matmul(self.lora_A.val());
        let map = down.reshape([batch * heads, height, width, rank]).permute([0, 3, 1, 2]);
        let weights = softmax(relu(conv2d(&self.gate, map.clone())), 1);
        let mut sum: Option<Tensor<4>> = None;
        for (i, expert) in self.experts.iter().enumerate() {
            let scale = i + 1;
            let seen = shrunk(conv2d(expert, enlarged(map.clone(), scale)), scale);
            let part = seen * weights.clone().narrow(1, i, 1);
            sum = Some(match sum {
                Some(sum) => sum + part,
                None => part,
            });
        }
        let mixed = sum.unwrap_or(map).permute([0, 2, 3, 1]).reshape([batch * heads * tokens, rank]);
        x + mixed.matmul(self.lora_B.val()).reshape([batch, heads, tokens, head_dim]) * self.scale
    }
}

/// Every pixel `scale` times in each direction.
fn enlarged(x: Tensor<4>, scale: usize) -> Tensor<4> {
    if scale == 1 {
        return x;
    }
    let [batch, channels, height, width] = x.dims();
    x.reshape([batch, channels, height, 1, width, 1])
        .expand([batch, channels, height, scale, width, scale])
        .reshape([batch, channels, height * scale, width * scale])
}

/// Of every square of `scale` x `scale` pixels the first, as PyTorch's nearest resizing takes it.
fn shrunk(x: Tensor<4>, scale: usize) -> Tensor<4> {
    if scale == 1 {
        return x;
    }
    let [batch, channels, height, width] = x.dims();
    let (height, width) = (height / scale, width / scale);
    x.reshape([batch, channels, height, scale, width, scale])
        .narrow(3, 0, 1)
        .narrow(5, 0, 1)
        .reshape([batch, channels, height, width])
}

/// An adapter of queries, keys or values.
#[derive(Module, Debug)]
#[allow(clippy::large_enum_variant, reason = "a few dozen per model")]
pub enum QkvAdapter {
    /// Plain.
    Lora(HeadLora),
    /// With convolutions.
    Conv(ConvLora),
}

impl QkvAdapter {
    /// `[batch, heads, height * width, head_dim]` to the same shape.
    pub fn forward(&self, x: Tensor<4>, size: [usize; 2]) -> Tensor<4> {
        let [batch, heads, tokens, head_dim] = x.dims();
        let rank = match self {
            Self::Lora(lora) => lora.lora_A.dims()[1],
            Self::Conv(lora) => lora.lora_A.dims()[1],
        };
        count::add_product(batch * heads * tokens * head_dim, 2 * rank);
        match self {
            Self::Lora(_) if count::is_dry() => x,
            Self::Lora(lora) => {
                let flat = x.reshape([batch * heads * tokens, head_dim]);
                let change = flat.clone().matmul(lora.lora_A.val()).matmul(lora.lora_B.val()) * lora.scale;
                (flat + change).reshape([batch, heads, tokens, head_dim])
            }
            Self::Conv(lora) => lora.forward(x, size),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Distribution;

    #[test]
    fn sizes_go_up_and_back() {
        let device = Device::flex();
        let x = Tensor::<4>::random([2, 3, 2, 5], Distribution::Default, &device);
        for scale in 1..=4 {
            let big = enlarged(x.clone(), scale);
            assert_eq!(big.dims(), [2, 3, 2 * scale, 5 * scale]);
            assert_eq!((shrunk(big, scale) - x.clone()).abs().max().into_scalar::<f32>(), 0.0);
        }
    }

    #[test]
    fn counting_dry_and_real_agree() {
        let device = Device::flex();
        let x = || Tensor::<4>::zeros([1, 2, 6, 8], &device);
        let adapter = ConvLoraConfig { head_dim: 8, rank: 2, scale: 0.25, experts: 3 }.init(&device);
        let (_, real) = count::measure(|| adapter.forward(x(), [2, 3]));
        assert_eq!(count::dry(|| adapter.forward(x(), [2, 3])).1, real);
    }

    #[test]
    fn nothing_changes_at_first() {
        let device = Device::flex();
        let x = Tensor::<4>::random([2, 2, 12, 8], Distribution::Default, &device);
        let lora = HeadLoraConfig { head_dim: 8, rank: 2, scale: 0.25 }.init(&device);
        let conv = ConvLoraConfig { head_dim: 8, rank: 2, scale: 0.25, experts: 4 }.init(&device);
        for adapter in [QkvAdapter::Lora(lora), QkvAdapter::Conv(conv)] {
            let y = adapter.forward(x.clone(), [3, 4]);
            assert_eq!((y - x.clone()).abs().max().into_scalar::<f32>(), 0.0);
        }
    }

    #[test]
    fn the_matrix_does_what_the_adapter_does() {
        let device = Device::flex();
        let mut lora = HeadLoraConfig { head_dim: 4, rank: 3, scale: 0.5 }.init(&device);
        lora.lora_B = Param::from_tensor(Tensor::random([3, 4], Distribution::Default, &device));
        let x = Tensor::<4>::random([1, 1, 5, 4], Distribution::Default, &device);
        let expected = x.clone().reshape([5, 4]).matmul(lora.matrix()).reshape([1, 1, 5, 4]);
        let found = QkvAdapter::Lora(lora).forward(x, [1, 5]);
        assert!((found - expected).abs().max().into_scalar::<f32>() < 1e-6);
    }
}
