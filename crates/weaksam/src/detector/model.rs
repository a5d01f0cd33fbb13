//! A weakly supervised detector.
//!
//! | part | what | state-dict prefix |
//! | --- | --- | --- |
//! | features | the picture's map | `features` |
//! | DropBlock | hides cells in training | `drop_block` |
//! | head | a vector a proposal | `head` |
//! | two streams | scores by class and by proposal (WSDDN) | `classify`, `detect` |
//! | refinement | background and classes, a layer a branch | `refine.{i}` |
//! | regression | a step a branch for background and each class | `regress.{i}` |

use burn::module::Module;
use burn::nn::Linear;
use burn::tensor::{Device, Tensor};
use kirie_engine::random::Streams;
use kirie_nn::linear;
use kirie_sam::checkpoint::StateDict;

use super::config::DetectorConfig;
use super::drop_block::DropBlock;
use crate::WeakError;
use crate::files::Corners;
use crate::network::head::quiet;
use crate::network::{Features, RegionHead, Stages};

/// A weakly supervised detector.
#[derive(Module, Debug)]
pub struct WeakDetector {
    /// The picture's map.
    pub features: Features,
    /// The adversary of training.
    pub drop_block: Option<DropBlock>,
    /// A vector a proposal.
    pub head: RegionHead,
    /// Which class a proposal is of.
    pub classify: Linear,
    /// Which proposal a class is at.
    pub detect: Linear,
    /// Branches of refinement.
    pub refine: Vec<Linear>,
    /// Box regression of these, where there is one.
    pub regress: Vec<Linear>,
}

/// What a detector says of the proposals of a picture.
#[derive(Clone, Debug)]
pub struct Answers {
    /// Logits of the two streams, `[proposals, classes]`.
    pub streams: [Tensor<2>; 2],
    /// Logits of each branch, `[proposals, 1 + classes]`.
    pub refine: Vec<Tensor<2>>,
    /// Steps of each branch, `[proposals, 4 (1 + classes)]`.
    pub regress: Vec<Tensor<2>>,
}

impl WeakDetector {
    /// A new detector of `classes`. An encoder gets the weights of `base`; see
    /// [`FeatureConfig::init`](crate::network::FeatureConfig::init).
    ///
    /// # Errors
    /// Settings out of range; weights that do not fit.
    pub fn new(
        config: &DetectorConfig,
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
    pub fn empty(config: &DetectorConfig, classes: usize, device: &Device) -> Result<Self, WeakError> {
        config.check()?;
        Ok(Self::assemble(config, classes, config.features.init_empty(device)?, device))
    }

    fn assemble(config: &DetectorConfig, classes: usize, features: Features, device: &Device) -> Self {
        let (channels, hidden, branches) =
            (config.features.channels, config.head.hidden, config.weak.refinements.len());
        let layer = |output: usize| quiet(hidden, output, 0.01, device);
        let regressed = if config.weak.regress { branches } else { 0 };
        Self {
            features,
            drop_block: config.weak.drop_block.is_on().then(|| DropBlock::new(channels, device)),
            head: config.head.init(channels, device),
            classify: layer(classes),
            detect: layer(classes),
            refine: (0..branches).map(|_| layer(classes + 1)).collect(),
            regress: (0..regressed).map(|_| quiet(hidden, 4 * (classes + 1), 0.001, device)).collect(),
        }
    }

    /// The answers to proposals, in pixels of the network's input. `random` are the streams and the place in them for what
    /// training leaves out.
    pub fn forward(
        &self,
        stages: Stages,
        boxes: &[Corners],
        config: &DetectorConfig,
        random: Option<(&Streams, u64)>,
    ) -> Answers {
        let map = self.features.join(stages);
        let mut cells = config.head.cells(map, boxes, config.features.scale());
        let hidden = match random {
            Some((streams, place)) => {
                if let Some(drop_block) = &self.drop_block {
                    let block = &config.weak.drop_block;
                    cells = drop_block.forward(cells, block, &mut streams.stream("drop_block", &[place]));
                }
                let mut rng = streams.stream("dropout", &[place]);
                self.head.forward(cells, Some((config.weak.dropout, &mut rng)))
            }
            None => self.head.forward::<rand_chacha::ChaCha8Rng>(cells, None),
        };
        let all = |layers: &[Linear]| layers.iter().map(|layer| linear(layer, hidden.clone())).collect();
        Answers {
            streams: [linear(&self.classify, hidden.clone()), linear(&self.detect, hidden.clone())],
            refine: all(&self.refine),
            regress: all(&self.regress),
        }
    }
}
