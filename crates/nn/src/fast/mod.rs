//! The processor's road, by kirie's own kernels.
//!
//! Burn's Flex backend composes the backward pass of a layer from whole-tensor operations. The layers that training and
//! inference spend their time in are done here instead, forward and backward, by the kernels of `kirie_kernels`, as
//! operations of Burn's autodiff graph or without one. Every function gives `None` where that does not apply (another device,
//! another number type, activation checkpointing), and the caller then takes Burn's road; the results agree to rounding.

use burn::tensor::Device;

/// Whether kirie's own kernels run what is on this device: the processor, in builds that have them.
pub fn on_processor(device: &Device) -> bool {
    #[cfg(feature = "flex")]
    return *device == Device::flex();
    #[cfg(not(feature = "flex"))]
    {
        let _ = device;
        false
    }
}

#[cfg(feature = "flex")]
mod graph;
#[cfg(feature = "flex")]
mod layers;

#[cfg(feature = "flex")]
pub(crate) use layers::{activation, batch_norm, conv2d, layer_norm, layer_norm_2d, linear, upsample};

#[cfg(not(feature = "flex"))]
pub(crate) use absent::{activation, batch_norm, conv2d, layer_norm, layer_norm_2d, linear, upsample};

/// Without the Flex backend there is nothing to be faster than.
#[cfg(not(feature = "flex"))]
mod absent {
    use burn::nn::BatchNorm;
    use burn::tensor::{Tensor, ops::ConvOptions};

    use crate::Activation;

    pub(crate) fn activation<const D: usize>(_: Activation, _: &Tensor<D>) -> Option<Tensor<D>> {
        None
    }
    pub(crate) fn batch_norm(_: &BatchNorm, _: Activation, _: &Tensor<4>) -> Option<Tensor<4>> {
        None
    }
    pub(crate) fn conv2d(
        _: &Tensor<4>,
        _: &Tensor<4>,
        _: Option<&Tensor<1>>,
        _: &ConvOptions<2>,
    ) -> Option<Tensor<4>> {
        None
    }
    pub(crate) fn layer_norm<const D: usize>(
        _: &Tensor<D>,
        _: &Tensor<1>,
        _: &Tensor<1>,
        _: f64,
    ) -> Option<Tensor<D>> {
        None
    }
    pub(crate) fn layer_norm_2d(_: &Tensor<4>, _: &Tensor<1>, _: &Tensor<1>, _: f64) -> Option<Tensor<4>> {
        None
    }
    pub(crate) fn linear<const D: usize>(
        _: &Tensor<D>,
        _: &Tensor<2>,
        _: Option<&Tensor<1>>,
    ) -> Option<Tensor<D>> {
        None
    }
    pub(crate) fn upsample(
        _: &Tensor<4>,
        _: &Tensor<4>,
        _: Option<&Tensor<1>>,
        _: usize,
    ) -> Option<Tensor<4>> {
        None
    }
}
