//! From a feature map and boxes to a vector a box.

use burn::module::{Initializer, Module};
use burn::nn::{Linear, LinearConfig};
use burn::tensor::{Device, Tensor, TensorData};
use kirie_engine::random::unit;
use kirie_nn::{Activation, linear};
use rand::Rng;
use serde::{Deserialize, Serialize};

use crate::WeakError;
use crate::files::Corners;
use crate::roi::RoiMethod;

/// Configuration of [`RegionHead`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HeadConfig {
    /// How cells are filled.
    pub roi: RoiMethod,
    /// Cells along each side of a box.
    pub cells: usize,
    /// Width of the two layers that follow.
    pub hidden: usize,
}

impl Default for HeadConfig {
    fn default() -> Self {
        Self { roi: RoiMethod::Align, cells: 7, hidden: 256 }
    }
}

impl HeadConfig {
    /// Checks the numbers.
    pub fn check(&self) -> Result<(), WeakError> {
        for (name, value) in [("head.cells", self.cells), ("head.hidden", self.hidden)] {
            if value == 0 {
                return Err(WeakError::setting(name, 0, "1 or more"));
            }
        }
        Ok(())
    }

    /// For a map of `channels`.
    pub fn init(&self, channels: usize, device: &Device) -> RegionHead {
        // Kaiming's scale for ReLU, so that scores differ from the first step on: what is mined goes by them.
        let layer = |input: usize| {
            let kaiming = Initializer::KaimingNormal { gain: 2_f64.sqrt(), fan_out_only: false };
            LinearConfig::new(input, self.hidden).with_initializer(kaiming).init(device)
        };
        RegionHead { fc1: layer(channels * self.cells * self.cells), fc2: layer(self.hidden) }
    }

    /// The cells of each box, `[boxes, channels, cells, cells]`; `scale` is the map's size over that of the input.
    pub fn cells(&self, map: Tensor<4>, boxes: &[Corners], scale: f32) -> Tensor<4> {
        self.roi.forward(map, boxes, self.cells, scale)
    }
}

/// Two linear layers with ReLU, VGG's `fc6` and `fc7` at a small width.
#[derive(Module, Debug)]
pub struct RegionHead {
    /// From all cells.
    pub fc1: Linear,
    /// Keeps the width.
    pub fc2: Linear,
}

impl RegionHead {
    /// `[boxes, channels, cells, cells]` to `[boxes, hidden]`. In training a generator decides what is left out, at the given
    /// share.
    pub fn forward<R: Rng>(&self, cells: Tensor<4>, dropout: Option<(f64, &mut R)>) -> Tensor<2> {
        let [count, channels, height, width] = cells.dims();
        let x = cells.reshape([count, channels * height * width]);
        let mut x = Activation::Relu.forward(linear(&self.fc1, x));
        match dropout {
            Some((share, rng)) if share > 0.0 => {
                x = leave_out(x, share, rng);
                x = Activation::Relu.forward(linear(&self.fc2, x));
                leave_out(x, share, rng)
            }
            _ => Activation::Relu.forward(linear(&self.fc2, x)),
        }
    }
}

/// Dropout by a generator of ours, so that a resumed run goes on with the same numbers.
fn leave_out<R: Rng>(x: Tensor<2>, share: f64, rng: &mut R) -> Tensor<2> {
    let shape = x.dims();
    let kept = (1.0 / (1.0 - share)) as f32;
    let mask = (0..shape[0] * shape[1]).map(|_| if unit(rng) < share { 0.0 } else { kept });
    let mask = TensorData::new(mask.collect::<Vec<f32>>(), shape);
    let device = x.device();
    x * Tensor::from_data(mask, &device)
}

/// A layer whose answers begin near zero: weights of a normal distribution of this deviation, biases of zero.
pub(crate) fn quiet(input: usize, output: usize, deviation: f64, device: &Device) -> Linear {
    use burn::module::{Initializer, Param};
    let mut layer = LinearConfig::new(input, output)
        .with_initializer(Initializer::Normal { mean: 0.0, std: deviation })
        .init(device);
    layer.bias = layer.bias.map(|_| Param::from_tensor(Tensor::zeros([output], device)));
    layer
}
