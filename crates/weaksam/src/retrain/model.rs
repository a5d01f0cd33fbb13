//! A compact two-stage detector.
//!
//! | part | what | state-dict prefix |
//! | --- | --- | --- |
//! | features | the picture's map | `features` |
//! | first stage | proposals | `rpn` |
//! | second stage | a vector a proposal; classes and background; a step for each of them | `head`, `classify`, `regress` |

use burn::module::Module;
use burn::nn::Linear;
use burn::tensor::{Device, Tensor};
use kirie_nn::linear;
use kirie_sam::checkpoint::StateDict;

use super::config::RetrainConfig;
use super::rpn::Rpn;
use crate::WeakError;
use crate::files::Corners;
use crate::network::head::quiet;
use crate::network::{Features, RegionHead};

/// A two-stage detector.
#[derive(Module, Debug)]
pub struct TwoStage {
    /// The picture's map.
    pub features: Features,
    /// Proposals.
    pub rpn: Rpn,
    /// A vector a proposal.
    pub head: RegionHead,
    /// Background and classes.
    pub classify: Linear,
    /// A step for background and each class.
    pub regress: Linear,
}

impl TwoStage {
    /// A new detector of `classes`; `base` as for [`FeatureConfig::init`](crate::network::FeatureConfig::init).
    ///
    /// # Errors
    /// Settings out of range; weights that do not fit.
    pub fn new(
        config: &RetrainConfig,
        classes: usize,
        base: Option<StateDict>,
        device: &Device,
    ) -> Result<Self, WeakError> {
        config.check()?;
        device.seed(config.seed);
        Ok(Self::assemble(config, classes, config.features.init(base, device)?, device))
    }

    /// A detector for weights that are loaded next.
    ///
    /// # Errors
    /// Settings out of range.
    pub fn empty(config: &RetrainConfig, classes: usize, device: &Device) -> Result<Self, WeakError> {
        config.check()?;
        Ok(Self::assemble(config, classes, config.features.init_empty(device)?, device))
    }

    fn assemble(config: &RetrainConfig, classes: usize, features: Features, device: &Device) -> Self {
        let (channels, hidden) = (config.features.channels, config.head.hidden);
        Self {
            features,
            rpn: Rpn::new(channels, &config.rpn, device),
            head: config.head.init(channels, device),
            classify: quiet(hidden, classes + 1, 0.01, device),
            regress: quiet(hidden, 4 * (classes + 1), 0.001, device),
        }
    }

    /// Logits `[boxes, 1 + classes]` and steps `[boxes, 4 (1 + classes)]` of boxes in pixels of the network's input.
    pub fn second_stage(&self, map: Tensor<4>, boxes: &[Corners], config: &RetrainConfig) -> [Tensor<2>; 2] {
        let cells = config.head.cells(map, boxes, config.features.scale());
        let hidden = self.head.forward::<rand_chacha::ChaCha8Rng>(cells, None);
        [linear(&self.classify, hidden.clone()), linear(&self.regress, hidden)]
    }
}
