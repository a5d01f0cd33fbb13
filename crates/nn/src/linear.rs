//! Linear layers.

use burn::module::Param;
use burn::nn::Linear;
use burn::tensor::Tensor;

use crate::fast;

/// Applies a linear layer, `[.., in]` to `[.., out]`; while training on the processor by kirie's own kernels.
pub fn linear<const D: usize>(layer: &Linear, x: Tensor<D>) -> Tensor<D> {
    if x.device().is_autodiff() {
        let bias = layer.bias.as_ref().map(Param::val);
        if let Some(y) = fast::linear(&x, &layer.weight.val(), bias.as_ref()) {
            return y;
        }
    }
    layer.forward(x)
}
