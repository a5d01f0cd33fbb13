//! Layers as the kernels take them.

use burn::nn::conv::Conv2d;
use burn::nn::{BatchNorm, LayerNorm, Linear, PaddingConfig2d};
use kirie_kernels::ReadyConv;
use kirie_nn::{Activation, ConvNorm, LayerNorm2d};

use super::{Map, Spare};
use crate::SamError;
use crate::tensor::HostTensor;

pub(super) fn values<const D: usize>(tensor: burn::tensor::Tensor<D>) -> Result<Vec<f32>, SamError> {
    Ok(HostTensor::from_burn(tensor)?.values)
}

fn activation(activation: Activation) -> kirie_kernels::Activation {
    match activation {
        Activation::Identity => kirie_kernels::Activation::Identity,
        Activation::Relu => kirie_kernels::Activation::Relu,
        Activation::Gelu => kirie_kernels::Activation::Gelu,
        Activation::GeluTanh => kirie_kernels::Activation::GeluTanh,
    }
}

/// A convolution with the norm and the activation after it.
pub(super) fn conv(
    conv: &Conv2d,
    norm: Option<&BatchNorm>,
    what_follows: Activation,
) -> Result<ReadyConv, SamError> {
    let [out_channels, inputs, kernel_height, kernel_width] = conv.weight.dims();
    let padding = match conv.padding {
        PaddingConfig2d::Valid => [0, 0],
        PaddingConfig2d::Explicit(top, left, bottom, right) if (top, left) == (bottom, right) => [top, left],
        ref other => return Err(SamError::Engine(format!("a convolution padded by {other:?}"))),
    };
    if conv.dilation != [1, 1] {
        return Err(SamError::Engine(format!("a convolution dilated by {:?}", conv.dilation)));
    }
    let shape = kirie_kernels::Conv2d {
        batch: 1,
        in_channels: inputs * conv.groups,
        out_channels,
        height: 0,
        width: 0,
        kernel: [kernel_height, kernel_width],
        stride: conv.stride,
        padding,
        groups: conv.groups,
    };
    let mut weight = values(conv.weight.val())?;
    let mut bias = match &conv.bias {
        Some(bias) => values(bias.val())?,
        None => vec![0.0; out_channels],
    };
    if let Some(norm) = norm {
        let (gamma, beta) = (values(norm.gamma.val())?, values(norm.beta.val())?);
        let (mean, variance) = (values(norm.running_mean.value())?, values(norm.running_var.value())?);
        let each = weight.len() / out_channels;
        for (channel, kernel) in weight.chunks_exact_mut(each).enumerate() {
            let scale = f64::from(gamma[channel]) / (f64::from(variance[channel]) + norm.epsilon).sqrt();
            for w in kernel {
                *w = (f64::from(*w) * scale) as f32;
            }
            let shifted = (f64::from(bias[channel]) - f64::from(mean[channel])) * scale;
            bias[channel] = (f64::from(beta[channel]) + shifted) as f32;
        }
    }
    Ok(ReadyConv::new(&shape, &weight, &bias, activation(what_follows)))
}

pub(super) fn conv_norm(layer: &ConvNorm) -> Result<ReadyConv, SamError> {
    conv(&layer.conv, layer.norm.as_ref(), layer.activation())
}

/// A linear layer's weight, `[output, input]`, and bias.
pub(super) fn linear(layer: &Linear) -> Result<(Vec<f32>, Vec<f32>), SamError> {
    let [_, output] = layer.weight.dims();
    let bias = match &layer.bias {
        Some(bias) => values(bias.val())?,
        None => vec![0.0; output],
    };
    Ok((values(layer.weight.val().transpose())?, bias))
}

/// A linear layer of every pixel's channels, `weight` `[output, input]`.
pub(super) fn pointwise(weight: &[f32], bias: &[f32], what_follows: kirie_kernels::Activation) -> ReadyConv {
    let shape = kirie_kernels::Conv2d {
        batch: 1,
        in_channels: weight.len() / bias.len(),
        out_channels: bias.len(),
        height: 0,
        width: 0,
        kernel: [1, 1],
        stride: [1, 1],
        padding: [0, 0],
        groups: 1,
    };
    ReadyConv::new(&shape, weight, bias, what_follows)
}

/// A layer norm over the channels.
pub(super) struct Norm {
    pub(super) gamma: Vec<f32>,
    pub(super) beta: Vec<f32>,
    pub(super) epsilon: f32,
}

impl Norm {
    pub(super) fn of_pixels(norm: &LayerNorm2d) -> Result<Self, SamError> {
        let (gamma, beta) = (values(norm.weight.val())?, values(norm.bias.val())?);
        Ok(Self { gamma, beta, epsilon: norm.epsilon() as f32 })
    }

    /// (`epsilon` is the norm's own, which Burn keeps to itself.)
    pub(super) fn of_tokens(norm: &LayerNorm, epsilon: f64) -> Result<Self, SamError> {
        let gamma = values(norm.gamma.val())?;
        let beta = match &norm.beta {
            Some(beta) => values(beta.val())?,
            None => vec![0.0; gamma.len()],
        };
        Ok(Self { gamma, beta, epsilon: epsilon as f32 })
    }

    pub(super) fn forward(&self, x: &Map, spare: &mut Spare) -> Map {
        let mut y = spare.take(x.channels, x.size);
        let shape = [1, x.channels, x.size[0] * x.size[1]];
        kirie_kernels::layer_norm_2d(shape, &x.values, &self.gamma, &self.beta, self.epsilon, &mut y.values);
        y
    }
}
