//! Losses of masks, from logits.

use burn::tensor::Tensor;
use burn::tensor::activation::{log_sigmoid, relu, sigmoid};

/// Binary cross entropy of logits `x` and targets `t` (0 to 1), element by element.
pub fn bce(x: Tensor<2>, t: Tensor<2>) -> Tensor<2> {
    // max(x, 0) - x t + log(1 + exp(-|x|)), where the last term is -log_sigmoid(|x|)
    relu(x.clone()) - x.clone() * t - log_sigmoid(x.abs())
}

/// Focal loss of logits `x` and targets `t`, gamma 2 and alpha 0.25, element by element (Lin et al. 2017, equation 5).
pub fn focal(x: Tensor<2>, t: Tensor<2>) -> Tensor<2> {
    let p = sigmoid(x.clone());
    let miss = p.clone() + t.clone() - p * t.clone() * 2.0; // 1 - p_t
    let alpha = t.clone() * -0.5 + 0.75; // 0.25 on the object, 0.75 off it
    bce(x, t) * miss.square() * alpha
}

/// Dice loss of logits `x` and targets `t`, `[rows, points]` to `[rows, 1]`: `1 - (2 sum(p t) + 1) / (sum(p) + sum(t) + 1)`.
pub fn dice(x: Tensor<2>, t: Tensor<2>) -> Tensor<2> {
    let p = sigmoid(x);
    let both = (p.clone() * t.clone()).sum_dim(1) * 2.0 + 1.0;
    let either = p.sum_dim(1) + t.sum_dim(1) + 1.0;
    both / either * -1.0 + 1.0
}
