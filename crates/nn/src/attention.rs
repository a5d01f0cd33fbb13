//! Attention between two token sequences, with a smaller inner width where asked.

use burn::module::Module;
use burn::nn::{Linear, LinearConfig};
use burn::tensor::{Device, Tensor, module::attention, ops::AttentionModuleOptions};

use crate::{count, linear};

/// Configuration of [`Attention`].
#[derive(Clone, Debug)]
pub struct AttentionConfig {
    /// Width of the tokens.
    pub dim: usize,
    /// Width inside the attention (SAM's cross attentions halve it); a multiple of `heads`.
    pub inner_dim: usize,
    /// Number of heads.
    pub heads: usize,
}

impl AttentionConfig {
    /// Parameters by Burn's defaults.
    pub fn init(&self, device: &Device) -> Attention {
        let project = || LinearConfig::new(self.dim, self.inner_dim).init(device);
        Attention {
            q_proj: project(),
            k_proj: project(),
            v_proj: project(),
            out_proj: LinearConfig::new(self.inner_dim, self.dim).init(device),
            heads: self.heads,
        }
    }
}

/// Multi-head attention with separate projections (`Attention` in SAM's `transformer.py`).
///
/// Keys: `q_proj.*`, `k_proj.*`, `v_proj.*`, `out_proj.*`.
#[derive(Module, Debug)]
pub struct Attention {
    /// Projects the queries.
    pub q_proj: Linear,
    /// Projects the keys.
    pub k_proj: Linear,
    /// Projects the values.
    pub v_proj: Linear,
    /// Projects the result back.
    pub out_proj: Linear,
    heads: usize,
}

impl Attention {
    /// Number of heads.
    pub fn heads(&self) -> usize {
        self.heads
    }

    /// `q` `[batch, queries, dim]`, `k` and `v` `[batch, keys, dim]` to `[batch, queries, dim]`.
    ///
    /// A batch of one on either side is shared with every entry of the other; it is projected once.
    pub fn forward(&self, q: Tensor<3>, k: Tensor<3>, v: Tensor<3>) -> Tensor<3> {
        let batch = q.dims()[0].max(k.dims()[0]);
        let split = |projection: &Linear, x: Tensor<3>| {
            let [own, tokens, _] = x.dims();
            let x = linear(projection, x);
            let head_dim = x.dims()[2] / self.heads;
            let x = x.reshape([own, tokens, self.heads, head_dim]).swap_dims(1, 2);
            if own == batch { x } else { x.expand([batch, self.heads, tokens, head_dim]) }
        };
        let queries = q.dims()[1];
        let (q, k, v) = (split(&self.q_proj, q), split(&self.k_proj, k), split(&self.v_proj, v));
        let inner = self.heads * q.dims()[3];
        let out = dot_attention(q, k, v, AttentionModuleOptions::default());
        linear(&self.out_proj, out.swap_dims(1, 2).reshape([batch, queries, inner]))
    }
}

/// Scaled dot-product attention, counted: `q` `[batch, heads, queries, d]`, `k` `[batch, heads, keys, d]`, `v` `[batch, heads,
/// keys, e]` to `[batch, heads, queries, e]`.
pub fn dot_attention(q: Tensor<4>, k: Tensor<4>, v: Tensor<4>, options: AttentionModuleOptions) -> Tensor<4> {
    let [batch, heads, queries, d] = q.dims();
    let [_, _, keys, e] = v.dims();
    count::add_product(batch * heads * queries * keys, d + e);
    if count::is_dry() {
        return count::zeros([batch, heads, queries, e], &q.device());
    }
    attention(q, k, v, None, None, options)
}
