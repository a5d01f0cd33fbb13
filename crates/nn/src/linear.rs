//! Linear layers.

use burn::module::Param;
use burn::nn::Linear;
use burn::tensor::Tensor;

use crate::{count, fast};

/// Applies a linear layer, `[.., in]` to `[.., out]`; on the processor by kirie's own kernels.
pub fn linear<const D: usize>(layer: &Linear, x: Tensor<D>) -> Tensor<D> {
    // The shape is known before the weights are made, which counting must not do.
    let [input, output] = layer.weight.lazy_shape().dims();
    let mut shape = x.dims();
    count::add_layer(shape.iter().product::<usize>() / input * output, input);
    if count::is_dry() {
        shape[D - 1] = output;
        return count::zeros(shape, &x.device());
    }
    let bias = layer.bias.as_ref().map(Param::val);
    fast::linear(&x, &layer.weight.val(), bias.as_ref()).unwrap_or_else(|| layer.forward(x))
}
