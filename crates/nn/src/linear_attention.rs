//! Multi-scale ReLU linear attention (EfficientViT, section 3; `LiteMLA` in the repository's `nn/ops.py`).
//!
//! Attention whose cost grows with the number of pixels and not with its square: with `q` and `k` made
//! non-negative by ReLU, the sum over all keys is taken once per head and shared by all queries,
//!
//! ```text
//! S = sum_n v_n k_n^T     z = sum_n k_n     o_n = S q_n / (z . q_n + eps)
//! ```

use burn::module::Module;
use burn::nn::PaddingConfig2d;
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::tensor::{Device, FloatDType, Tensor, activation::relu};

use crate::{ConvNorm, ConvNormConfig, conv2d, count};

/// Configuration of [`LiteMla`].
#[derive(Clone, Debug)]
pub struct LiteMlaConfig {
    /// Input and output channels.
    pub channels: usize,
    /// Channels of one head.
    pub head_dim: usize,
    /// Kernel sides of the depthwise convolutions that gather neighbouring tokens, one per scale.
    pub scales: Vec<usize>,
}

impl LiteMlaConfig {
    /// Parameters by default initialisation.
    pub fn init(&self, device: &Device) -> LiteMla {
        let width = 3 * self.channels;
        LiteMla {
            qkv: ConvNormConfig::new([self.channels, width], 1).plain().init(device),
            aggreg: self
                .scales
                .iter()
                .map(|&kernel| Aggregation {
                    i0: Conv2dConfig::new([width, width], [kernel; 2])
                        .with_padding(PaddingConfig2d::Explicit(
                            kernel / 2,
                            kernel / 2,
                            kernel / 2,
                            kernel / 2,
                        ))
                        .with_groups(width)
                        .with_bias(false)
                        .init(device),
                    i1: Conv2dConfig::new([width, width], [1, 1])
                        .with_groups(width / self.head_dim)
                        .with_bias(false)
                        .init(device),
                })
                .collect(),
            proj: ConvNormConfig::new([self.channels * (1 + self.scales.len()), self.channels], 1)
                .init(device),
            head_dim: self.head_dim,
        }
    }
}

/// Multi-scale linear attention over a feature map; the residual is added outside.
///
/// Keys: `qkv.conv.weight` `[3C, C, 1, 1]`, `aggreg.{scale}.0.weight` `[3C, 1, k, k]`,
/// `aggreg.{scale}.1.weight` `[3C, head_dim, 1, 1]`, `proj.conv.weight` `[C, (1 + scales) C, 1, 1]`, `proj.norm.*`.
#[derive(Module, Debug)]
pub struct LiteMla {
    /// 1x1 to queries, keys and values; per head `head_dim` channels of each, one after the other.
    pub qkv: ConvNorm,
    /// One pair of convolutions per scale.
    pub aggreg: Vec<Aggregation>,
    /// 1x1 back, norm.
    pub proj: ConvNorm,
    head_dim: usize,
}

/// Gathers neighbouring tokens: depthwise, then mixing inside each head's q, k or v.
#[derive(Module, Debug)]
pub struct Aggregation {
    /// Depthwise.
    pub i0: Conv2d,
    /// 1x1 in groups of one head's queries, keys or values.
    pub i1: Conv2d,
}

impl LiteMla {
    /// Channels of one head.
    pub fn head_dim(&self) -> usize {
        self.head_dim
    }

    /// `[batch, C, height, width]` to the same shape.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let [batch, _, height, width] = x.dims();
        let qkv = self.qkv.forward(x);
        let mut scales = vec![qkv.clone()];
        scales.extend(self.aggreg.iter().map(|scale| conv2d(&scale.i1, conv2d(&scale.i0, qkv.clone()))));
        let qkv = if scales.len() == 1 { qkv } else { Tensor::cat(scales, 1) };

        let [_, channels, ..] = qkv.dims();
        let (d, heads) = (self.head_dim, channels / (3 * self.head_dim));
        let qkv = qkv.reshape([batch, heads, 3 * d, height * width]);
        let out = relu_linear_attention(
            qkv.clone().narrow(2, 0, d),
            qkv.clone().narrow(2, d, d),
            qkv.narrow(2, 2 * d, d),
        );
        self.proj.forward(out.reshape([batch, heads * d, height, width]))
    }
}

/// Linear attention of `q`, `k`, `v`, each `[batch, heads, head_dim, tokens]`; the same shape back.
///
/// The sums and the division are done in float32 whatever the storage type: they grow with the number of
/// tokens, past what float16 can hold, and the epsilon of 1e-15 vanishes there.
pub fn relu_linear_attention(q: Tensor<4>, k: Tensor<4>, v: Tensor<4>) -> Tensor<4> {
    const EPSILON: f64 = 1e-15;
    let dtype: FloatDType = q.dtype().into();
    let [batch, heads, d, tokens] = q.dims();
    count::add_product(batch * heads * tokens * d, 2 * d + 1);
    let [q, k, v] = [q, k, v].map(|t| t.cast(FloatDType::F32));
    let (q, k) = (relu(q), relu(k));
    let z = k.clone().sum_dim(3).swap_dims(2, 3); // [batch, heads, 1, head_dim]
    let s = v.matmul(k.swap_dims(2, 3)); // [batch, heads, head_dim, head_dim]
    let out = s.matmul(q.clone()) / (z.matmul(q) + EPSILON);
    out.cast(dtype)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Golden values of the reference, `efficientvit-sam.md` section 2.
    #[test]
    fn golden_values() {
        let device = Device::flex();
        let t = |rows: [[f32; 3]; 2]| Tensor::<2>::from_floats(rows, &device).reshape([1, 1, 2, 3]);
        let out = relu_linear_attention(
            t([[1.0, -1.0, 2.0], [0.5, 2.0, -1.0]]),
            t([[1.0, 0.0, 1.0], [2.0, 1.0, -3.0]]),
            t([[1.0, 2.0, 3.0], [-1.0, 0.5, 4.0]]),
        );
        let found: Vec<f32> = out.into_data().try_to_vec::<f32>().unwrap();
        let expected = [1.714286, 1.333333, 2.0, 0.642857, -0.5, 1.5];
        for (found, expected) in found.iter().zip(expected) {
            assert!((found - expected).abs() < 1e-5, "{found} is not {expected}");
        }
    }

    /// A query that meets no key gives zero, not NaN.
    #[test]
    fn disjoint_query_gives_zero() {
        let device = Device::flex();
        let negative = Tensor::full([1, 1, 2, 3], -1.0, &device);
        let out = relu_linear_attention(negative.clone(), negative.clone(), negative);
        assert_eq!(out.abs().max().into_scalar::<f32>(), 0.0);
    }
}
