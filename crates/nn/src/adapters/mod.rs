//! Small trained parts inside a frozen network: adapters.
//!
//! | part | what it does | from |
//! | --- | --- | --- |
//! | [`LowRank`] | adds a product of two thin matrices to a weight | LoRA (Hu et al., 2021) |
//! | [`HeadLora`], [`ConvLora`] | the same on activations after the split into heads; with convolutions between | G-SAM's repository |
//! | [`Bottleneck`] | down, activation, up | AdaptFormer (Chen et al., 2022) |
//! | [`MultiScaleBottleneck`] | the same with dilated convolutions between | SM-AdaptFormer (GSAM, Kato et al., 2024) |
//!
//! Field names are the state-dict names of G-SAM's repository where those are known.

mod bottleneck;
mod head_lora;
mod low_rank;
mod multi_scale;

pub use bottleneck::{Bottleneck, BottleneckConfig};
pub use head_lora::{ConvLora, ConvLoraConfig, HeadLora, HeadLoraConfig, QkvAdapter};
pub use low_rank::{LowRank, LowRankConfig};
pub use multi_scale::{MultiScaleBottleneck, MultiScaleBottleneckConfig, dilated_conv2d};
