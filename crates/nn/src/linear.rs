//! Linear layers.

use burn::module::Param;
use burn::nn::Linear;
use burn::tensor::Tensor;

use crate::fast;

/// Applies a linear layer, `[.., in]` to `[.., out]`; on the processor by kirie's own kernels.
pub fn linear<const D: usize>(layer: &Linear, x: Tensor<D>) -> Tensor<D> {
    let bias = layer.bias.as_ref().map(Param::val);
    fast::linear(&x, &layer.weight.val(), bias.as_ref()).unwrap_or_else(|| layer.forward(x))
}
