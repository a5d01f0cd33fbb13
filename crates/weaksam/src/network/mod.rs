//! What detectors see: a picture as a network's input ([`view`]), and its feature map ([`features`]).

pub mod features;
pub mod head;
pub mod view;

pub use features::{BackboneConfig, FeatureConfig, Features, Stages};
pub use head::{HeadConfig, RegionHead};
pub use view::{InputConfig, View};
