//! Layers as the kernels take them.

use burn::nn::conv::Conv2d;
use burn::nn::{BatchNorm, PaddingConfig2d};
use kirie_kernels::ReadyConv;
use kirie_nn::{Activation, ConvNorm};

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
            kernel.iter_mut().for_each(|w| *w = (f64::from(*w) * scale) as f32);
            let shifted = (f64::from(bias[channel]) - f64::from(mean[channel])) * scale;
            bias[channel] = (f64::from(beta[channel]) + shifted) as f32;
        }
    }
    Ok(ReadyConv::new(&shape, &weight, &bias, activation(what_follows)))
}

pub(super) fn conv_norm(layer: &ConvNorm) -> Result<ReadyConv, SamError> {
    conv(&layer.conv, layer.norm.as_ref(), layer.activation())
}
