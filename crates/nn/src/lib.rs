//! Layers and blocks that kirie's models share.
//!
//! Every layer is a `Config` (plain numbers) and a `Module` (parameters) made from it by
//! `init(&device)`. Struct fields carry the names of the reference state dicts, so that the
//! paper, a checkpoint and the code can be read side by side; two rules translate what Rust
//! cannot spell:
//!
//! - a field `i3` stands for the entry `3` of a PyTorch `Sequential`;
//! - Burn's norms call `gamma` and `beta` what the reference calls `weight` and `bias`.
//!
//! Tensors are `[batch, channels, height, width]` unless a doc comment says otherwise.

pub mod activation;
pub mod adapters;
pub mod attention;
pub mod conv;
pub mod count;
mod fast;
pub mod linear;
pub mod linear_attention;
pub mod loss;
pub mod mbconv;
pub mod mlp;
pub mod norm;
pub mod resize;
pub mod resnet;

pub use activation::Activation;
pub use attention::{Attention, AttentionConfig};
pub use conv::{ConvNorm, ConvNormConfig, conv_transpose2d, conv2d};
pub use fast::on_processor;
pub use linear::linear;
pub use linear_attention::{LiteMla, LiteMlaConfig};
pub use mbconv::{FusedMbConv, FusedMbConvConfig, MbConv, MbConvConfig, ResBlock, ResBlockConfig};
pub use mlp::{Mlp, MlpConfig, ReluMlp, ReluMlpConfig};
pub use norm::{LayerNorm2d, LayerNorm2dConfig, layer_norm};
