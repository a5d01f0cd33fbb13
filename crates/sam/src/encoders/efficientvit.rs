//! The encoder of EfficientViT-SAM (`backbone.py` and `sam.py` of the EfficientViT repository).
//!
//! | stage | L at 512 | XL at 1024 | state-dict prefix |
//! | --- | --- | --- | --- |
//! | stem, stride 2 | `[B, 32, 256, 256]` | `[B, 32, 512, 512]` | `backbone.stages.0` |
//! | stage 1 (fused MBConv) | `[B, 64, 128, 128]` | `[B, 64, 256, 256]` | `backbone.stages.1` |
//! | stage 2 (fused MBConv) | `[B, 128, 64, 64]` | `[B, 128, 128, 128]` | `backbone.stages.2` |
//! | stage 3 | `[B, 256, 32, 32]` | `[B, 256, 64, 64]` | `backbone.stages.3` |
//! | stage 4 | `[B, 512, 16, 16]` | `[B, 512, 32, 32]` | `backbone.stages.4` |
//! | stage 5 (XL only) | | `[B, 1024, 16, 16]` | `backbone.stages.5` |
//! | the last three, to 256 x 64 x 64, summed | `[B, 256, 64, 64]` | same | `neck.input_ops` |
//! | fused MBConv blocks, 1x1 convolution | same | same | `neck.middle`, `neck.output_ops` |
//! | norm | same | same | `norm` |

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use kirie_nn::resize::{Interpolation, resize};
use kirie_nn::{
    Activation, ConvNorm, ConvNormConfig, FusedMbConv, FusedMbConvConfig, LayerNorm2d, LayerNorm2dConfig,
    LiteMla, LiteMlaConfig, MbConv, MbConvConfig, ResBlock, ResBlockConfig,
};
use serde::{Deserialize, Serialize};

/// What a stage is built of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum StageKind {
    /// Residual pairs of 3x3 convolutions (the stem).
    Res,
    /// Fused MBConv.
    Fused,
    /// MBConv.
    Mb,
    /// Linear attention gathering its tokens with a kernel of this side, then MBConv.
    Attention(usize),
}

/// One row of the backbone's table.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct StageConfig {
    /// What it is built of.
    pub kind: StageKind,
    /// Channels.
    pub width: usize,
    /// Blocks after the one that halves the resolution.
    pub depth: usize,
    /// Hidden width of a block over its input; the first block's is four times that.
    pub expand: usize,
    /// Whether only a block's last convolution has batch norm.
    pub fewer_norm: bool,
}

/// Configuration of [`EfficientVit`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EfficientVitConfig {
    /// The backbone, from the stem on.
    pub stages: Vec<StageConfig>,
    /// Channels of one attention head.
    pub head_dim: usize,
    /// Blocks of the neck.
    pub neck_depth: usize,
    /// Hidden width of the neck's blocks over `out_channels`.
    pub neck_expand: usize,
    /// Channels of the embedding.
    pub out_channels: usize,
    /// Side of the embedding.
    pub out_size: usize,
}

impl EfficientVitConfig {
    /// The L models: five stages, 5x5 aggregation.
    pub fn l(depths: [usize; 5], neck_depth: usize) -> Self {
        use StageKind::{Attention, Fused, Mb, Res};
        let kinds = [Res, Fused, Fused, Mb, Attention(5)];
        Self::published(&kinds, &depths, &[1, 4, 4, 4, 6], neck_depth, 1)
    }

    /// The XL models: six stages, 3x3 aggregation.
    pub fn xl(depths: [usize; 6], neck_depth: usize) -> Self {
        use StageKind::{Attention, Fused, Res};
        let kinds = [Res, Fused, Fused, Fused, Attention(3), Attention(3)];
        Self::published(&kinds, &depths, &[1, 4, 4, 4, 4, 6], neck_depth, 4)
    }

    fn published(
        kinds: &[StageKind],
        depths: &[usize],
        expand: &[usize],
        neck_depth: usize,
        neck_expand: usize,
    ) -> Self {
        let stages = (0..kinds.len())
            .map(|i| StageConfig {
                kind: kinds[i],
                width: 32 << i,
                depth: depths[i],
                expand: expand[i],
                fewer_norm: matches!(kinds[i], StageKind::Mb | StageKind::Attention(_)),
            })
            .collect();
        Self { stages, head_dim: 32, neck_depth, neck_expand, out_channels: 256, out_size: 64 }
    }

    /// Parameters by default initialisation.
    pub fn init(&self, device: &Device) -> EfficientVit {
        let mut input = 3;
        let stages = self
            .stages
            .iter()
            .enumerate()
            .map(|(i, stage)| {
                let first = if i == 0 {
                    let stem = ConvNormConfig::new([input, stage.width], 3).stride(2);
                    Op::Stem(stem.activation(Activation::GeluTanh).init(device))
                } else {
                    Op::Block(stage.downsample(input, device))
                };
                input = stage.width;
                let rest = (0..stage.depth).map(|_| stage.block(self.head_dim, device));
                Stage { op_list: std::iter::once(first).chain(rest).collect() }
            })
            .collect();
        let width = self.out_channels;
        EfficientVit {
            backbone: Backbone { stages },
            neck: SamNeck {
                input_ops: self
                    .stages
                    .iter()
                    .rev()
                    .take(3)
                    .map(|stage| ConvSequence {
                        op_list: vec![ConvNormConfig::new([stage.width, width], 1).init(device)],
                    })
                    .collect(),
                middle: Middle {
                    op_list: (0..self.neck_depth)
                        .map(|_| Block {
                            main: Main::Fused(
                                FusedMbConvConfig {
                                    channels: [width; 2],
                                    hidden: width * self.neck_expand,
                                    stride: 1,
                                    activation: Activation::GeluTanh,
                                }
                                .init(device),
                            ),
                            residual: true,
                        })
                        .collect(),
                },
                output_ops: vec![ConvSequence {
                    op_list: vec![ConvNormConfig::new([width; 2], 1).bias_only().init(device)],
                }],
                out_size: self.out_size,
            },
            norm: LayerNorm2dConfig::new(width).init(device),
        }
    }
}

impl StageConfig {
    /// The block that enters the stage.
    fn downsample(&self, input: usize, device: &Device) -> Block {
        self.strided(input, input * self.expand * 4, device)
    }

    /// A block of stride 2, without a residual.
    pub(crate) fn strided(&self, input: usize, hidden: usize, device: &Device) -> Block {
        let channels = [input, self.width];
        let main = match self.kind {
            StageKind::Fused => Main::Fused(
                FusedMbConvConfig { channels, hidden, stride: 2, activation: Activation::GeluTanh }
                    .init(device),
            ),
            _ => Main::Mb(
                MbConvConfig {
                    channels,
                    hidden,
                    stride: 2,
                    activation: Activation::GeluTanh,
                    fewer_norm: self.fewer_norm,
                }
                .init(device),
            ),
        };
        Block { main, residual: false }
    }

    /// A block that keeps the shape.
    pub(crate) fn block(&self, head_dim: usize, device: &Device) -> Op {
        let (channels, hidden) = ([self.width; 2], self.width * self.expand);
        let activation = Activation::GeluTanh;
        let mb = || MbConvConfig { channels, hidden, stride: 1, activation, fewer_norm: self.fewer_norm };
        match self.kind {
            StageKind::Res => Op::Block(Block {
                main: Main::Res(ResBlockConfig { channels, stride: 1, activation }.init(device)),
                residual: true,
            }),
            StageKind::Fused => Op::Block(Block {
                main: Main::Fused(FusedMbConvConfig { channels, hidden, stride: 1, activation }.init(device)),
                residual: true,
            }),
            StageKind::Mb => Op::Block(Block { main: Main::Mb(mb().init(device)), residual: true }),
            StageKind::Attention(kernel) => Op::Attention(AttentionBlock {
                context_module: Context {
                    main: LiteMlaConfig { channels: self.width, head_dim, scales: vec![kernel] }.init(device),
                },
                local_module: Block { main: Main::Mb(mb().init(device)), residual: true },
            }),
        }
    }
}

/// The encoder.
#[derive(Module, Debug)]
pub struct EfficientVit {
    /// Stages from the stem on.
    pub backbone: Backbone,
    /// Fuses the last three stages.
    pub neck: SamNeck,
    /// The final norm, which plain SAM has inside its neck.
    pub norm: LayerNorm2d,
}

impl EfficientVit {
    /// `[batch, 3, size, size]` to the embedding `[batch, 256, 64, 64]`.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        self.norm.forward(self.neck.forward(self.backbone.forward(x)))
    }
}

/// The stages.
#[derive(Module, Debug)]
pub struct Backbone {
    /// From the stem on.
    pub stages: Vec<Stage>,
}

impl Backbone {
    /// The outputs of all stages, shallowest first.
    pub fn forward(&self, x: Tensor<4>) -> Vec<Tensor<4>> {
        let mut outputs = Vec::with_capacity(self.stages.len());
        let mut x = x;
        for stage in &self.stages {
            x = stage.op_list.iter().fold(x, |x, op| op.forward(x));
            outputs.push(x.clone());
        }
        outputs
    }
}

/// One stage.
#[derive(Module, Debug)]
pub struct Stage {
    /// The strided operation first.
    pub op_list: Vec<Op>,
}

/// One operation of a stage.
#[derive(Module, Debug)]
#[allow(clippy::large_enum_variant, reason = "a few dozen per model")]
pub enum Op {
    /// The first convolution of the network.
    Stem(ConvNorm),
    /// A convolutional block.
    Block(Block),
    /// Attention and a convolutional block.
    Attention(AttentionBlock),
}

impl Op {
    /// Runs the operation.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        match self {
            Self::Stem(conv) => conv.forward(x),
            Self::Block(block) => block.forward(x),
            Self::Attention(block) => {
                let x = x.clone() + block.context_module.main.forward(x);
                block.local_module.forward(x)
            }
        }
    }
}

/// A convolutional block, with the input added where it keeps the shape. Keys: `main.*`.
#[derive(Module, Debug)]
pub struct Block {
    /// The block.
    pub main: Main,
    residual: bool,
}

impl Block {
    /// Whether the input is added.
    pub fn residual(&self) -> bool {
        self.residual
    }

    /// Runs the block.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let y = match &self.main {
            Main::Res(main) => main.forward(x.clone()),
            Main::Fused(main) => main.forward(x.clone()),
            Main::Mb(main) => main.forward(x.clone()),
        };
        if self.residual { x + y } else { y }
    }
}

/// The kinds of convolutional block.
#[derive(Module, Debug)]
#[allow(clippy::large_enum_variant, reason = "a few dozen per model")]
pub enum Main {
    /// Two 3x3 convolutions.
    Res(ResBlock),
    /// 3x3, 1x1.
    Fused(FusedMbConv),
    /// 1x1, 3x3 depthwise, 1x1.
    Mb(MbConv),
}

/// Linear attention and MBConv, each with a residual.
#[derive(Module, Debug)]
pub struct AttentionBlock {
    /// Attention.
    pub context_module: Context,
    /// MBConv.
    pub local_module: Block,
}

/// Holder of the attention, for the sake of its name.
#[derive(Module, Debug)]
pub struct Context {
    /// Linear attention.
    pub main: LiteMla,
}

/// Brings the last three stages to one size, sums them, refines.
#[derive(Module, Debug)]
pub struct SamNeck {
    /// 1x1 to the embedding's width, deepest stage first.
    pub input_ops: Vec<ConvSequence>,
    /// Residual blocks.
    pub middle: Middle,
    /// 1x1 with bias.
    pub output_ops: Vec<ConvSequence>,
    out_size: usize,
}

/// Holder of convolutions, for the sake of their names.
#[derive(Module, Debug)]
pub struct ConvSequence {
    /// In order.
    pub op_list: Vec<ConvNorm>,
}

impl ConvSequence {
    /// Runs the convolutions.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        self.op_list.iter().fold(x, |x, op| op.forward(x))
    }
}

/// Holder of the neck's blocks.
#[derive(Module, Debug)]
pub struct Middle {
    /// In order.
    pub op_list: Vec<Block>,
}

impl SamNeck {
    /// Side of the embedding.
    pub fn out_size(&self) -> usize {
        self.out_size
    }

    /// Stage outputs, shallowest first, to `[batch, 256, 64, 64]`.
    pub fn forward(&self, stages: Vec<Tensor<4>>) -> Tensor<4> {
        let size = [self.out_size; 2];
        let sum = stages
            .into_iter()
            .rev()
            .zip(&self.input_ops)
            .map(|(stage, op)| resize(op.forward(stage), size, Interpolation::Bicubic))
            .reduce(|sum, x| sum + x)
            .expect("a backbone has at least one stage");
        let x = self.middle.op_list.iter().fold(sum, |x, block| block.forward(x));
        self.output_ops.iter().fold(x, |x, op| op.forward(x))
    }
}
