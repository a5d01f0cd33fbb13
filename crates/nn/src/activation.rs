//! Activation functions, chosen by a value so that a block's table row can name its own.

use burn::tensor::{Tensor, activation};

use crate::{count, fast};

/// An element-wise activation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// Leaves the tensor as it is.
    Identity,
    /// `max(x, 0)`.
    Relu,
    /// GELU by the error function, as PyTorch's default.
    Gelu,
    /// GELU by its tanh approximation, as EfficientViT uses in its encoder.
    GeluTanh,
}

impl Activation {
    /// Applies the activation; the shape stays as it is.
    pub fn forward<const D: usize>(self, x: Tensor<D>) -> Tensor<D> {
        if count::is_dry() {
            return x;
        }
        if self != Self::Identity
            && let Some(y) = fast::activation(self, &x)
        {
            return y;
        }
        match self {
            Self::Identity => x,
            Self::Relu => activation::relu(x),
            Self::Gelu => activation::gelu(x),
            Self::GeluTanh => gelu_tanh(x),
        }
    }
}

/// `x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))`.
///
/// Written with a sigmoid, `(1 + tanh(u))/2 = sigmoid(2u)`: fewer passes over memory than
/// Burn's own `gelu_approximate`, which raises to a power element by element.
fn gelu_tanh<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    const TWO_SQRT_2_OVER_PI: f64 = 2.0 * std::f64::consts::FRAC_2_SQRT_PI * std::f64::consts::FRAC_1_SQRT_2;
    let slope =
        x.clone().mul(x.clone()).mul_scalar(0.044715 * TWO_SQRT_2_OVER_PI).add_scalar(TWO_SQRT_2_OVER_PI);
    let gate = activation::sigmoid(slope.mul(x.clone()));
    x.mul(gate)
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Device;

    fn apply(activation: Activation, x: &[f32]) -> Vec<f32> {
        let x = Tensor::<1>::from_floats(x, &Device::flex());
        activation.forward(x).into_data().try_to_vec::<f32>().unwrap()
    }

    /// Golden values of the reference, `sam.md` section 16.
    #[test]
    fn gelu_golden_values() {
        let erf = apply(Activation::Gelu, &[-1.0, 0.5, 2.0]);
        let tanh = apply(Activation::GeluTanh, &[-1.0, 0.5, 2.0]);
        for (found, expected) in erf.iter().zip([-0.158655, 0.345731, 1.954500]) {
            assert!((found - expected).abs() < 1e-6, "{found} is not {expected}");
        }
        for (found, expected) in tanh.iter().zip([-0.158808, 0.345714, 1.954598]) {
            assert!((found - expected).abs() < 1e-6, "{found} is not {expected}");
        }
    }

    #[test]
    fn gelu_tanh_saturates_without_nan() {
        let found = apply(Activation::GeluTanh, &[-1e4, 0.0, 1e4]);
        assert!(found[0].abs() < 1e-30, "{}", found[0]);
        assert_eq!(found[1..], [0.0, 1e4]);
    }
}
