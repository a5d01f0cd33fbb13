//! Prompts to tokens (`prompt_encoder.py` of the reference).
//!
//! | part | output | state-dict prefix |
//! | --- | --- | --- |
//! | random Fourier features of a place | `[.., C]` | `pe_layer.positional_encoding_gaussian_matrix` |
//! | points and box corners | `[B, N, C]` | `point_embeddings.{0..3}`, `not_a_point_embed` |
//! | mask logits | `[B, C, 64, 64]` | `mask_downscaling.{0,1,3,4,6}` |
//! | no mask | `[1, C, 1, 1]` | `no_mask_embed` |

use burn::module::{Initializer, Module, Param};
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::tensor::{Device, Tensor, TensorData};
use kirie_nn::{Activation, LayerNorm2d, LayerNorm2dConfig, conv2d};
use serde::{Deserialize, Serialize};

/// Configuration of [`PromptEncoder`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PromptEncoderConfig {
    /// Width of a token.
    pub dim: usize,
    /// Side of the image embedding.
    pub embedding_size: usize,
    /// Side of the frame that prompts are given in, pixels.
    pub frame: usize,
    /// Channels inside the mask path.
    pub mask_channels: usize,
    /// Draw points and boxes into the mask path where a prompt comes without a mask; see [`PromptEncoder::without_mask`]. Not so
    /// in SAM.
    #[serde(default)]
    pub draw_prompts: bool,
}

impl PromptEncoderConfig {
    /// Parameters by default initialisation.
    pub fn init(&self, device: &Device) -> PromptEncoder {
        let normal = Initializer::Normal { mean: 0.0, std: 1.0 };
        let embed = || TokenEmbedding { weight: normal.init([1, self.dim], device) };
        let conv = |channels, kernel: usize| {
            Conv2dConfig::new(channels, [kernel; 2]).with_stride([kernel; 2]).init(device)
        };
        let (quarter, full) = (self.mask_channels / 4, self.mask_channels);
        PromptEncoder {
            pe_layer: PositionEmbeddingRandom {
                positional_encoding_gaussian_matrix: normal.init([2, self.dim / 2], device).no_grad(),
            },
            point_embeddings: (0..4).map(|_| embed()).collect(),
            not_a_point_embed: embed(),
            mask_downscaling: MaskDownscaling {
                i0: conv([1, quarter], 2),
                i1: LayerNorm2dConfig::new(quarter).init(device),
                i3: conv([quarter, full], 2),
                i4: LayerNorm2dConfig::new(full).init(device),
                i6: conv([full, self.dim], 1),
            },
            no_mask_embed: embed(),
            embedding_size: self.embedding_size,
            frame: self.frame,
            draw_prompts: self.draw_prompts,
        }
    }
}

/// What a prompt token stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TokenLabel {
    /// Fills up a prompt without a box; its place does not matter (-1 in the reference).
    Padding,
    /// A point that is not on the object (0).
    Negative,
    /// A point on the object (1).
    Positive,
    /// Upper left corner of a box (2).
    BoxTopLeft,
    /// Lower right corner of a box (3).
    BoxBottomRight,
}

/// Sparse prompts of one decoder call, all with the same number of tokens.
#[derive(Clone, Debug, Default)]
pub struct SparsePrompts {
    /// Tokens per prompt.
    pub tokens: usize,
    /// For each prompt its tokens one after the other, `(x, y)` in the frame's pixels.
    pub coords: Vec<[f32; 2]>,
    /// As long as `coords`.
    pub labels: Vec<TokenLabel>,
}

/// Turns prompts into tokens.
#[derive(Module, Debug)]
pub struct PromptEncoder {
    /// Place to features.
    pub pe_layer: PositionEmbeddingRandom,
    /// Negative, positive, upper left corner, lower right corner.
    pub point_embeddings: Vec<TokenEmbedding>,
    /// For padding.
    pub not_a_point_embed: TokenEmbedding,
    /// Mask logits to a feature map.
    pub mask_downscaling: MaskDownscaling,
    /// In place of a mask.
    pub no_mask_embed: TokenEmbedding,
    embedding_size: usize,
    frame: usize,
    draw_prompts: bool,
}

/// One learned token. Key: `weight` `[1, C]`.
#[derive(Module, Debug)]
pub struct TokenEmbedding {
    /// `[1, C]`.
    pub weight: Param<Tensor<2>>,
}

impl PromptEncoder {
    /// Sparse prompts to tokens, `[B, N, C]`.
    pub fn sparse(&self, prompts: &SparsePrompts, device: &Device) -> Tensor<3> {
        let tokens = prompts.tokens;
        let batch = prompts.labels.len() / tokens.max(1);
        let frame = self.frame as f32;
        let mut unit = Vec::with_capacity(2 * prompts.coords.len());
        for [x, y] in &prompts.coords {
            unit.extend([(x + 0.5) / frame, (y + 0.5) / frame]);
        }
        let unit = Tensor::<2>::from_data(TensorData::new(unit, [batch * tokens, 2]), device);
        let places = self.pe_layer.forward(unit);

        // One row per token: which learned vector is added, and whether the place counts.
        let mut kinds = vec![0.0_f32; 5 * prompts.labels.len()];
        let mut placed = Vec::with_capacity(prompts.labels.len());
        for (row, label) in kinds.chunks_exact_mut(5).zip(&prompts.labels) {
            let kind = match label {
                TokenLabel::Negative => 0,
                TokenLabel::Positive => 1,
                TokenLabel::BoxTopLeft => 2,
                TokenLabel::BoxBottomRight => 3,
                TokenLabel::Padding => 4,
            };
            row[kind] = 1.0;
            placed.push(if *label == TokenLabel::Padding { 0.0_f32 } else { 1.0 });
        }
        let kinds = Tensor::<2>::from_data(TensorData::new(kinds, [batch * tokens, 5]), device);
        let placed = Tensor::<2>::from_data(TensorData::new(placed, [batch * tokens, 1]), device);
        let mut table: Vec<_> = self.point_embeddings.iter().map(|e| e.weight.val()).collect();
        table.push(self.not_a_point_embed.weight.val());
        let sum = places * placed + kinds.matmul(Tensor::cat(table, 0));
        let [_, dim] = sum.dims();
        sum.reshape([batch, tokens, dim])
    }

    /// Mask logits `[B, 1, 4 S, 4 S]` to `[B, C, S, S]`, to be added to the image embedding.
    pub fn mask(&self, logits: Tensor<4>) -> Tensor<4> {
        self.mask_downscaling.forward(logits)
    }

    /// What is added to the embedding for prompts without a mask: SAM's constant `[1, C, 1, 1]`, or, for a model that draws
    /// its prompts, what the mask path makes of the drawing, `[B, C, S, S]`.
    pub fn without_mask(&self, prompts: &SparsePrompts, device: &Device) -> Tensor<4> {
        if !self.draw_prompts || prompts.tokens == 0 {
            return self.no_mask();
        }
        let side = 4 * self.embedding_size;
        let maps = self.drawn(prompts);
        let count = maps.len() / (side * side);
        self.mask(Tensor::from_data(TensorData::new(maps, [count, 1, side, side]), device))
    }

    /// Prompts as pictures of the mask path's size, one after the other: 1 inside the box and -1 outside it (0 everywhere
    /// without a box), and around every point a disc of 2 or, for points off the object, -2.
    ///
    /// SAM's decoder has to learn from many pictures where in the embedding a prompt's token points to. A model that is
    /// trained on few is told: interactive segmentation networks before SAM drew their clicks like this (RITM).
    fn drawn(&self, prompts: &SparsePrompts) -> Vec<f32> {
        const RADIUS: f32 = 2.5;
        let side = 4 * self.embedding_size;
        let scale = side as f32 / self.frame as f32;
        let mut maps = Vec::with_capacity(prompts.labels.len() / prompts.tokens * side * side);
        for (coords, labels) in
            prompts.coords.chunks_exact(prompts.tokens).zip(prompts.labels.chunks_exact(prompts.tokens))
        {
            let corner = |wanted| {
                let at = labels.iter().position(|label| *label == wanted)?;
                Some(coords[at].map(|v| v * scale))
            };
            let first = maps.len();
            match (corner(TokenLabel::BoxTopLeft), corner(TokenLabel::BoxBottomRight)) {
                (Some([x0, y0]), Some([x1, y1])) => {
                    // The share of each line and column that the box covers, so that its edges are not rounded.
                    let cover = |low: f32, high: f32| {
                        (0..side).map(move |i| (high.min(i as f32 + 1.0) - low.max(i as f32)).clamp(0.0, 1.0))
                    };
                    let columns: Vec<f32> = cover(x0, x1).collect();
                    maps.extend(
                        cover(y0, y1).flat_map(|line| columns.iter().map(move |c| 2.0 * line * c - 1.0)),
                    );
                }
                _ => maps.resize(first + side * side, 0.0),
            }
            for ([x, y], label) in coords.iter().zip(labels) {
                let value = match label {
                    TokenLabel::Positive => 2.0,
                    TokenLabel::Negative => -2.0,
                    _ => continue,
                };
                let (x, y) = (x * scale, y * scale);
                let range = |v: f32| {
                    let low = (v - RADIUS - 1.0).clamp(0.0, side as f32) as usize;
                    low..((v + RADIUS + 1.0).clamp(0.0, side as f32) as usize)
                };
                for row in range(y) {
                    for column in range(x) {
                        let distance = (column as f32 + 0.5 - x).hypot(row as f32 + 0.5 - y);
                        if distance <= RADIUS {
                            maps[first + row * side + column] = value;
                        }
                    }
                }
            }
        }
        maps
    }

    /// Side of the frame that prompts are given in, pixels.
    pub fn frame(&self) -> usize {
        self.frame
    }

    /// Side of the masks that it takes and that the decoder gives.
    pub fn mask_side(&self) -> usize {
        4 * self.embedding_size
    }

    /// Whether prompts without a mask are drawn; see [`Self::without_mask`].
    pub fn draws_prompts(&self) -> bool {
        self.draw_prompts
    }

    /// What is added to the embedding when there is no mask, `[1, C, 1, 1]`.
    pub fn no_mask(&self) -> Tensor<4> {
        let weight = self.no_mask_embed.weight.val();
        let [_, dim] = weight.dims();
        weight.reshape([1, dim, 1, 1])
    }

    /// Features of the centres of the embedding's cells, `[1, C, S, S]`.
    pub fn dense_pe(&self, device: &Device) -> Tensor<4> {
        let size = self.embedding_size;
        let mut unit = Vec::with_capacity(2 * size * size);
        for y in 0..size {
            for x in 0..size {
                unit.extend([(x as f32 + 0.5) / size as f32, (y as f32 + 0.5) / size as f32]);
            }
        }
        let unit = Tensor::<2>::from_data(TensorData::new(unit, [size * size, 2]), device);
        let pe = self.pe_layer.forward(unit);
        let [_, dim] = pe.dims();
        pe.reshape([1, size, size, dim]).permute([0, 3, 1, 2])
    }
}

/// Random Fourier features. Key: `positional_encoding_gaussian_matrix` `[2, C / 2]`, a constant.
#[derive(Module, Debug)]
pub struct PositionEmbeddingRandom {
    /// `[2, C / 2]`.
    pub positional_encoding_gaussian_matrix: Param<Tensor<2>>,
}

impl PositionEmbeddingRandom {
    /// Places `[n, 2]` as `(x, y)` from 0 to 1, to `[n, C]`: sines, then cosines.
    pub fn forward(&self, unit: Tensor<2>) -> Tensor<2> {
        let angles = (unit * 2.0 - 1.0).matmul(self.positional_encoding_gaussian_matrix.val())
            * (2.0 * std::f64::consts::PI);
        Tensor::cat(vec![angles.clone().sin(), angles.cos()], 1)
    }
}

/// Mask logits to features at a quarter of the size. Keys `0.*`, `1.*`, `3.*`, `4.*`, `6.*`.
#[derive(Module, Debug)]
pub struct MaskDownscaling {
    /// 2x2, stride 2.
    pub i0: Conv2d,
    /// Norm, GELU after it.
    pub i1: LayerNorm2d,
    /// 2x2, stride 2.
    pub i3: Conv2d,
    /// Norm, GELU after it.
    pub i4: LayerNorm2d,
    /// 1x1.
    pub i6: Conv2d,
}

impl MaskDownscaling {
    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let x = Activation::Gelu.forward(self.i1.forward(conv2d(&self.i0, x)));
        let x = Activation::Gelu.forward(self.i4.forward(conv2d(&self.i3, x)));
        conv2d(&self.i6, x)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prompts_are_drawn_where_they_are() {
        use TokenLabel::{BoxBottomRight, BoxTopLeft, Negative, Padding, Positive};

        let config = PromptEncoderConfig {
            dim: 8,
            embedding_size: 8,
            frame: 64,
            mask_channels: 4,
            draw_prompts: true,
        };
        let encoder = config.init(&Device::flex());
        let prompts = SparsePrompts {
            tokens: 3,
            // a box of 4 to 20 and 8 to 17 in a frame of 64, which the map halves; then two points
            coords: vec![[4.0, 8.0], [20.0, 17.0], [40.0, 40.0], [10.0, 50.0], [60.0, 12.0], [0.0, 0.0]],
            labels: vec![BoxTopLeft, BoxBottomRight, Negative, Positive, Negative, Padding],
        };
        let maps = encoder.drawn(&prompts);
        assert_eq!(maps.len(), 2 * 32 * 32);
        let at = |map: usize, x: usize, y: usize| maps[(map * 32 + y) * 32 + x];
        assert_eq!(
            [at(0, 2, 4), at(0, 9, 7), at(0, 1, 4), at(0, 10, 7), at(0, 5, 3)],
            [1.0, 1.0, -1.0, -1.0, -1.0]
        );
        assert_eq!(at(0, 5, 8), 0.0, "half a line");
        assert_eq!([at(0, 20, 20), at(0, 24, 20)], [-2.0, -1.0]);
        assert_eq!([at(1, 5, 25), at(1, 30, 6), at(1, 0, 0), at(1, 16, 16)], [2.0, -2.0, 0.0, 0.0]);
        let dense = encoder.without_mask(&prompts, &Device::flex());
        assert_eq!(dense.dims(), [2, 8, 8, 8]);
    }

    /// Golden values of the reference, `sam.md` section 16.
    #[test]
    fn position_features_golden_values() {
        let device = Device::flex();
        let mut encoder = PromptEncoderConfig {
            dim: 4,
            embedding_size: 2,
            frame: 1024,
            mask_channels: 4,
            draw_prompts: false,
        }
        .init(&device);
        let matrix = Tensor::<2>::from_floats([[0.5, -1.0], [0.25, 2.0]], &device);
        encoder.pe_layer.positional_encoding_gaussian_matrix = Param::from_tensor(matrix);
        for embedding in &mut encoder.point_embeddings {
            embedding.weight = Param::from_tensor(Tensor::zeros([1, 4], &device));
        }
        let prompts = SparsePrompts {
            tokens: 1,
            // the golden value is for the place after the half pixel was added
            coords: vec![[100.0, 200.0]],
            labels: vec![TokenLabel::Positive],
        };
        let found: Vec<f32> = encoder.sparse(&prompts, &device).into_data().try_to_vec().unwrap();
        for (found, expected) in found.iter().zip([0.33255, -0.51936, -0.94308, -0.85456]) {
            assert!((found - expected).abs() < 1e-4, "{found} is not {expected}");
        }
    }
}
