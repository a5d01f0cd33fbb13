//! A bottleneck that looks around at several distances.
#![allow(non_snake_case, reason = "state-dict names")]

use burn::module::{Module, Param};
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::{Initializer, Linear, LinearConfig, PaddingConfig2d};
use burn::tensor::{Device, Tensor, TensorData, activation::relu};

use crate::{Activation, conv2d, linear};

/// Configuration of [`MultiScaleBottleneck`].
#[derive(Clone, Debug)]
pub struct MultiScaleBottleneckConfig {
    /// Input and output width.
    pub dim: usize,
    /// Width between.
    pub hidden: usize,
    /// Dilations of the 3x3 convolutions beside the plain one.
    pub dilations: Vec<usize>,
    /// Begin with zero in the taps beside the centre of the dilated convolutions. A tap further out than the map is large is
    /// never trained; with random numbers in it, it would speak up on the first larger map it meets.
    pub zero_taps: bool,
    /// Begin with an output of zero.
    pub zero: bool,
}

impl MultiScaleBottleneckConfig {
    /// Parameters by Burn's defaults (those of PyTorch), but for what the settings make zero.
    pub fn init(&self, device: &Device) -> MultiScaleBottleneck {
        let side = |dilation: usize| {
            Conv2dConfig::new([self.hidden; 2], [3, 3])
                .with_dilation([dilation; 2])
                .with_padding(PaddingConfig2d::Explicit(dilation, dilation, dilation, dilation))
                .with_bias(false)
                .init(device)
        };
        let mut convs = vec![Branch { conv: side(1) }];
        for &dilation in &self.dilations {
            let mut conv = side(dilation);
            if self.zero_taps {
                conv.weight = conv.weight.init_mapper(only_centre);
            }
            convs.push(Branch { conv });
        }
        let pooled = Conv2dConfig::new([self.hidden; 2], [1, 1]).with_bias(false).init(device);
        convs.push(Branch { conv: pooled });
        let mut up = LinearConfig::new(self.hidden, self.dim);
        if self.zero {
            up = up.with_initializer(Initializer::Zeros);
        }
        MultiScaleBottleneck {
            D_fc1: LinearConfig::new(self.dim, self.hidden).init(device),
            D_fc2: up.init(device),
            aspp: Branches { convs },
        }
    }
}

fn only_centre(weight: Tensor<4>) -> Tensor<4> {
    let mut mask = [0.0_f32; 9];
    mask[4] = 1.0;
    let mask = Tensor::from_data(TensorData::new(mask.to_vec(), [1, 1, 3, 3]), &weight.device());
    weight * mask
}

/// SM-AdaptFormer:
///
/// ```text
/// z = GELU(D_fc1(x))
/// out = D_fc2(z + sum_i relu(conv3x3_i(z)) + relu(conv1x1(mean(z))))
/// ```
///
/// with dense convolutions of growing dilation that have neither bias nor norm, and one of the map's mean.
///
/// Keys: `D_fc1.*`, `D_fc2.*`, `aspp.convs.{i}.conv.weight`: `i = 0` the plain convolution, then the dilated ones, the pooled one
/// last.
#[derive(Module, Debug)]
pub struct MultiScaleBottleneck {
    /// `dim` to `hidden`.
    pub D_fc1: Linear,
    /// `hidden` to `dim`.
    pub D_fc2: Linear,
    /// The convolutions.
    pub aspp: Branches,
}

/// Holder of the branches, for the sake of its name.
#[derive(Module, Debug)]
pub struct Branches {
    /// Plain, dilated, pooled.
    pub convs: Vec<Branch>,
}

/// One branch.
#[derive(Module, Debug)]
pub struct Branch {
    /// `[hidden, hidden, 3, 3]`, or `[hidden, hidden, 1, 1]`.
    pub conv: Conv2d,
}

impl MultiScaleBottleneck {
    /// `[batch, height, width, dim]` to the same shape.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let z = Activation::Gelu.forward(linear(&self.D_fc1, x)).permute([0, 3, 1, 2]);
        let mut sum = z.clone();
        if let Some((pooled, spatial)) = self.aspp.convs.split_last() {
            for branch in spatial {
                sum = sum + relu(dilated_conv2d(&branch.conv, z.clone()));
            }
            sum = sum + relu(conv2d(&pooled.conv, z.mean_dim(2).mean_dim(3)));
        }
        linear(&self.D_fc2, sum.permute([0, 2, 3, 1]))
    }
}

/// A convolution that keeps the shape, 3x3 with a dilation. Where every tap beside the centre falls off the map, the centre alone
/// does the work: nothing else, at a ninth of the price.
pub fn dilated_conv2d(conv: &Conv2d, x: Tensor<4>) -> Tensor<4> {
    let [.., height, width] = x.dims();
    let [dy, dx] = conv.dilation;
    let centre_only = conv.kernel_size == [3, 3] && dy >= height && dx >= width && conv.groups == 1;
    // A dry run counts what the layer is, as published figures do.
    if !centre_only || crate::count::is_dry() {
        return conv2d(conv, x);
    }
    let [out, input, ..] = conv.weight.dims();
    let device = x.device();
    let mut centre = Conv2dConfig::new([input, out], [1, 1]).with_bias(false).init(&device);
    centre.bias.clone_from(&conv.bias);
    let weight = conv.weight.val().slice([0..out, 0..input, 1..2, 1..2]);
    // Not `from_tensor`: that would make a leaf of it, and the gradient would end here.
    centre.weight = Param::initialized(centre.weight.id, weight);
    conv2d(&centre, x)
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Distribution;

    #[test]
    fn the_centre_alone_gives_the_same() {
        let device = Device::flex().autodiff();
        let conv = Conv2dConfig::new([3, 4], [3, 3])
            .with_dilation([6, 6])
            .with_padding(PaddingConfig2d::Explicit(6, 6, 6, 6))
            .with_bias(false)
            .init(&device);
        for (size, taps) in [([6, 5], 1), ([7, 5], 3), ([7, 8], 9)] {
            let x = Tensor::<4>::random([2, 3, size[0], size[1]], Distribution::Default, &device);
            let expected = conv.forward(x.clone());
            let found = dilated_conv2d(&conv, x);
            let difference = (found.clone() - expected).abs().max().into_scalar::<f32>();
            assert!(difference < 1e-5, "{difference}");
            let gradients = found.sum().backward();
            let gradient = conv.weight.val().grad(&gradients).unwrap().narrow(0, 0, 1).narrow(1, 0, 1);
            let reached = gradient.into_data().iter::<f32>().filter(|v| *v != 0.0).count();
            assert_eq!(reached, taps);
        }
    }

    #[test]
    fn untrained_taps_are_silent() {
        let device = Device::flex();
        let config = MultiScaleBottleneckConfig {
            dim: 6,
            hidden: 4,
            dilations: vec![2],
            zero_taps: true,
            zero: false,
        };
        let adapter = config.init(&device);
        let taps: Vec<f32> = adapter.aspp.convs[1].conv.weight.val().into_data().try_to_vec().unwrap();
        assert!(taps.chunks(9).all(|k| k.iter().enumerate().all(|(i, v)| (*v != 0.0) == (i == 4))));
        let x = Tensor::<4>::random([1, 5, 3, 6], Distribution::Default, &device);
        assert_eq!(adapter.forward(x.clone()).dims(), [1, 5, 3, 6]);
        let silent = MultiScaleBottleneckConfig { zero: true, ..config }.init(&device);
        assert_eq!(silent.forward(x).abs().max().into_scalar::<f32>(), 0.0);
    }
}
