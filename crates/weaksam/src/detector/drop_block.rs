//! Concrete DropBlock (Ren et al., MIST, section 3.3): an adversary that hides what the detector relies on.
//!
//! | part | what | state-dict prefix |
//! | --- | --- | --- |
//! | main | 3x3 convolution, batch norm, ReLU; 3x3 to two channels, batch norm | `conv1`, `conv2` |
//! | shortcut | 1x1 to two channels | `shortcut` |
//!
//! The published training alternates two passes: the detector's step, and one of the adversary alone on minus a hundredth of the
//! loss. Here both happen in one pass: the mask's gradient is reversed and scaled where it enters the adversary, whose input is
//! detached, so that nothing else notices.

use burn::module::Module;
use burn::tensor::activation::{sigmoid, softmax};
use burn::tensor::module::max_pool2d;
use burn::tensor::ops::MaxPoolOptions;
use burn::tensor::{Device, Tensor, TensorData};
use kirie_engine::random::unit;
use kirie_nn::{Activation, ConvNorm, ConvNormConfig};
use rand::Rng;

use super::config::DropBlockConfig;

/// Side of a dropped block, cells.
const BLOCK: usize = 3;

/// Decides which cells of a box are hidden.
#[derive(Module, Debug)]
pub struct DropBlock {
    /// 3x3, keeps the width.
    pub conv1: ConvNorm,
    /// 3x3 to two channels.
    pub conv2: ConvNorm,
    /// 1x1 to two channels.
    pub shortcut: ConvNorm,
}

impl DropBlock {
    /// For cells of `channels`.
    pub fn new(channels: usize, device: &Device) -> Self {
        Self {
            conv1: ConvNormConfig::new([channels; 2], 3).activation(Activation::Relu).init(device),
            conv2: ConvNormConfig::new([channels, 2], 3).init(device),
            shortcut: ConvNormConfig::new([channels, 2], 1).plain().init(device),
        }
    }

    /// `cells` `[boxes, channels, size, size]` with blocks of some set to zero and the rest made larger for it.
    pub fn forward<R: Rng>(&self, cells: Tensor<4>, config: &DropBlockConfig, rng: &mut R) -> Tensor<4> {
        let [boxes, _, height, width] = cells.dims();
        if boxes == 0 {
            return cells;
        }
        let device = cells.device();
        let seen = cells.clone().detach();
        let answer = self.conv2.forward(self.conv1.forward(seen.clone())) + self.shortcut.forward(seen);
        let most = config.gamma / (BLOCK * BLOCK) as f64;
        let dropped = sigmoid(answer.narrow(1, 0, 1)) * most;
        let pair = Tensor::cat(vec![dropped.clone(), dropped * -1.0 + 1.0], 1);
        // Gumbel-softmax: hard going forward, soft going back.
        let noise = (0..boxes * 2 * height * width).map(|_| {
            let even = unit(rng).max(1e-12);
            -(-even.ln()).max(1e-12).ln() as f32
        });
        let noise = TensorData::new(noise.collect::<Vec<f32>>(), [boxes, 2, height, width]);
        let logits = (pair + 1e-10).log() + Tensor::from_data(noise, &device);
        let soft = softmax(logits / config.temperature, 1).narrow(1, 0, 1);
        let hard = soft.clone().detach().greater_elem(0.5).float();
        let seeds = hard + soft.clone() - soft.detach();
        let options = MaxPoolOptions::new([BLOCK; 2]).with_stride([1, 1]).with_padding([BLOCK / 2; 2]);
        let kept = max_pool2d(seeds, options) * -1.0 + 1.0;
        let kept = reversed(kept, config.adversary);
        let sum = kept.clone().sum().clamp_min(1.0).reshape([1, 1, 1, 1]);
        let count = (boxes * height * width) as f64;
        cells * (kept / sum * count)
    }
}

/// The same values; their gradient goes back with the opposite sign, `factor` times as large.
fn reversed(x: Tensor<4>, factor: f64) -> Tensor<4> {
    x.clone().detach() * (1.0 + factor) - x * factor
}
