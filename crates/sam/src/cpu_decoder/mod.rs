//! The mask decoder on the processor, by kirie's own kernels: the same answers as [`MaskDecoder::forward`] to rounding, in a fraction
//! of the time. docs/decoder.md has the algebra.
//!
//! A prompt is a handful of tokens, a picture thousands of cells, so the work is what is done for each cell. There are two roads,
//! behind one trait (`Cells`): where every prompt has cells of its own they are walked over three times in all, in pieces that
//! stay in the cache, and no cell is ever projected (`own`); where many prompts share a picture, what is done for a
//! cell is done once (`shared`). Masks whose predicted quality is not wanted are never drawn.

mod own;
mod shared;
#[cfg(test)]
mod tests;
mod weights;

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use burn::tensor::Tensor;
use kirie_kernels::{Activation, Gemm, Rows, activation_part, gemm_part, layer_norm_2d_part};
use rayon::prelude::*;

use crate::SamError;
use crate::mask_decoder::MaskDecoder;
use crate::tensor::HostTensor;
use own::OwnCells;
use shared::{Layer, Places, SharedCells, SharedPicture};
use weights::{Heads, Norm, Up, Weights, product, sum};

/// Cells of a piece, about.
const PIECE: usize = 512;
/// Cells that are scaled up together.
const STRIP: usize = 128;
/// Floats of cells that are held at once: 64 MiB.
const HELD: usize = 1 << 24;
/// From so many prompts on one picture it pays to prepare the picture.
const SHARED_FROM: usize = 4;

/// A decoder's parameters and the positions of the cells, ready for use. It keeps the picture that many prompts were asked on last,
/// with what they share: about 40 MiB for SAM's sizes.
pub struct CpuDecoder {
    weights: Weights,
    layers: Vec<Layer>,
    /// Positions, in pieces.
    positions: Vec<f32>,
    /// Side of the embedding, cells.
    side: usize,
    /// Width of a token and of a cell.
    dim: usize,
    /// Made when many prompts are first asked on one picture.
    places: OnceLock<Vec<Places>>,
    last: Mutex<Option<Arc<SharedPicture>>>,
}

impl std::fmt::Debug for CpuDecoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "CpuDecoder({0}x{0} cells of {1})", self.side, self.dim)
    }
}

/// The picture that prompts are answered on: embedding plus dense prompt, each `[C, side, side]`.
#[derive(Clone, Copy, Debug)]
pub enum Pictures<'a> {
    /// The same for all prompts.
    One(&'a [f32]),
    /// One for each prompt, one after the other.
    Each(&'a [f32]),
}

/// What is asked.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// How many prompts.
    pub prompts: usize,
    /// Their tokens, `[prompts, tokens, C]`; empty for prompts that are a mask alone.
    pub tokens: &'a [f32],
    /// The masks for an ambiguous prompt instead of the single one.
    pub multimask: bool,
    /// Masks are drawn only where their predicted IoU is above this.
    pub above: Option<f32>,
}

/// The answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Logits `[prompts, masks, 4 side, 4 side]`; zeros where a mask was not drawn.
    pub logits: Vec<f32>,
    /// Predicted IoU, `[prompts, masks]`.
    pub iou: Vec<f32>,
}

/// One way over the cells of every prompt: they are brought up to date with what the tokens told them last, and the tokens look at
/// them. The answer is what they saw, `[prompts, tokens, inner]`.
struct Walk<'a> {
    /// Layers behind.
    stage: usize,
    told: Option<Told<'a>>,
    look: &'a Heads,
    /// Projected, `[prompts, tokens, inner]`.
    queries: Vec<f32>,
}

/// What the tokens of all prompts tell the cells at the end of a layer.
struct Told<'a> {
    heads: &'a Heads,
    norm: &'a Norm,
    /// Projected, `[prompts, tokens, inner]`.
    keys: Vec<f32>,
    values: Vec<f32>,
}

/// The cells of some prompts, on one of the two roads.
trait Cells: Sync {
    /// See [`Walk`].
    fn walk(&mut self, walk: &Walk) -> Vec<f32>;

    /// What [`Self::middle`] needs of a prompt.
    fn prepare(&self, prompt: usize) -> Vec<f32>;

    /// After the last walk: `to` becomes the first step of scaling up, `[4 * middle channels, width]`, of a prompt's cells in a piece from `start`.
    fn middle(&self, prompt: usize, prepared: &[f32], piece: usize, start: usize, to: &mut [f32]);
}

impl CpuDecoder {
    /// Takes the parameters of a decoder, with `image_pe` `[1, C, side, side]`; `None` for decoders with HQ-SAM's branch, which this
    /// does not know.
    pub fn new(decoder: &MaskDecoder, image_pe: &Tensor<4>) -> Result<Option<Self>, SamError> {
        let [_, dim, side, _] = image_pe.dims();
        if decoder.hf_token.is_some() {
            return Ok(None);
        }
        let positions = HostTensor::from_burn(image_pe.clone())?.values;
        let positions = in_pieces(&positions, side);
        let weights = Weights::new(decoder)?;
        let layers = shared::layers(&weights);
        Ok(Some(Self {
            layers,
            weights,
            positions,
            side,
            dim,
            places: OnceLock::new(),
            last: Mutex::default(),
        }))
    }

    /// Answers prompts. The pictures have been through the decoder's `prompt_fusion`, where it has one.
    ///
    /// # Panics
    /// When a length does not fit.
    pub fn answer(&self, pictures: Pictures, question: &Question) -> Answer {
        let road = match pictures {
            Pictures::One(_) if question.prompts >= SHARED_FROM => Road::Shared,
            _ => Road::Own,
        };
        self.answer_by(road, HELD / (self.dim * self.side * self.side), pictures, question)
    }

    /// The same by a given road, `group` prompts at a time.
    fn answer_by(&self, road: Road, group: usize, pictures: Pictures, question: &Question) -> Answer {
        let prompts = question.prompts;
        let cells = self.dim * self.side * self.side;
        let (found, expected) = match pictures {
            Pictures::One(values) => (values.len(), cells),
            Pictures::Each(values) => (values.len(), prompts * cells),
        };
        assert_eq!(found, expected, "the length of the pictures");
        let masks = self.weights.hypernetworks.len();
        let wanted = if question.multimask { 1..masks } else { 0..1 };
        let pixels = 16 * self.side * self.side;
        let mut answer = Answer {
            logits: vec![0.0; prompts * wanted.len() * pixels],
            iou: Vec::with_capacity(prompts * wanted.len()),
        };
        if prompts == 0 {
            return answer;
        }
        let group = group.clamp(1, prompts);
        let tokens = question.tokens.len() / prompts;
        let shared = match (road, pictures) {
            (Road::Shared, Pictures::One(picture)) => Some(self.prepared(picture)),
            _ => None,
        };
        for (index, logits) in answer.logits.chunks_mut(group * wanted.len() * pixels).enumerate() {
            let first = index * group;
            let count = group.min(prompts - first);
            let part = Part {
                wanted: wanted.clone(),
                sparse: &question.tokens[first * tokens..][..count * tokens],
                above: question.above,
                count,
            };
            let iou = match (&shared, pictures) {
                (Some(picture), _) => self.part(SharedCells::new(self, picture, count), part, logits),
                (None, Pictures::One(picture)) => {
                    self.part(OwnCells::new(self, &vec![picture; count]), part, logits)
                }
                (None, Pictures::Each(pictures)) => {
                    let pictures = pictures[first * cells..].chunks_exact(cells).take(count);
                    self.part(OwnCells::new(self, &pictures.collect::<Vec<_>>()), part, logits)
                }
            };
            answer.iou.extend(iou);
        }
        answer
    }

    /// The positions as the shared road needs them, by piece.
    fn places(&self) -> &[Places] {
        // Made outside of the lock, as in `prepared`.
        if self.places.get().is_none() {
            let places = shared::places(self);
            // Another thread may have been faster, with the same.
            let _ = self.places.set(places);
        }
        self.places.get().map_or(&[], Vec::as_slice)
    }

    /// The picture with what prompts share.
    fn prepared(&self, picture: &[f32]) -> Arc<SharedPicture> {
        let last = || self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(shared) = last().as_ref().filter(|shared| shared.picture == picture) {
            return shared.clone();
        }
        // Made outside of the lock: its tasks run on the pool, where a thread that waits for them may take up another call of this.
        let shared = Arc::new(SharedPicture::new(self, picture));
        *last() = Some(shared.clone());
        shared
    }

    /// Answers the prompts of one group: draws their masks into `logits` `[count, wanted, 4 side, 4 side]`, and gives their quality.
    fn part(&self, mut cells: impl Cells, part: Part, logits: &mut [f32]) -> Vec<f32> {
        let Part { wanted, sparse, above, count } = part;
        let seen = self.transform(count, sparse, |walk| cells.walk(walk));
        let width = seen.len() / count;
        let token = |i: usize| -> Vec<f32> {
            seen.chunks_exact(width).flat_map(|prompt| &prompt[i * self.dim..][..self.dim]).copied().collect()
        };
        let iou = self.weights.quality.forward(&token(0));
        let masks = self.weights.hypernetworks.len();
        let iou: Vec<f32> = iou.chunks_exact(masks).flat_map(|all| &all[wanted.clone()]).copied().collect();
        let vectors: Vec<Vec<f32>> =
            wanted.clone().map(|i| self.weights.hypernetworks[i].forward(&token(1 + i))).collect();

        let pixels = 16 * self.side * self.side;
        let each = logits.par_chunks_mut(wanted.len() * pixels).zip(iou.par_chunks(wanted.len())).enumerate();
        each.for_each(|(prompt, (logits, iou))| {
            let (mut rows, mut to) = (Vec::new(), Vec::new());
            for ((logits, iou), vectors) in logits.chunks_exact_mut(pixels).zip(iou).zip(&vectors) {
                if above.is_none_or(|above| *iou > above) {
                    let width = vectors.len() / count;
                    rows.extend_from_slice(&vectors[prompt * width..][..width]);
                    to.push(logits);
                }
            }
            if !to.is_empty() {
                self.draw(&cells, prompt, &rows, to);
            }
        });
        iou
    }

    /// The two-way transformer without what it does with the cells, which `walk` does. `sparse` are the tokens of the prompts; gives all
    /// tokens, `[prompts, 1 + masks + sparse, C]`.
    fn transform(&self, prompts: usize, sparse: &[f32], mut walk: impl FnMut(&Walk) -> Vec<f32>) -> Vec<f32> {
        let w = &self.weights;
        let each = sparse.len() / prompts;
        let width = w.output_tokens.len() + each;
        let mut first = Vec::with_capacity(prompts * width);
        for prompt in 0..prompts {
            first.extend_from_slice(&w.output_tokens);
            first.extend_from_slice(&sparse[prompt * each..][..each]);
        }
        let count = width / self.dim;

        let mut tokens = first.clone();
        let mut told = None;
        for (stage, block) in w.blocks.iter().enumerate() {
            // The first layer replaces the tokens, which are their own positions.
            let attended = if stage == 0 {
                block.self_attn.among(count, &tokens, &tokens, &tokens)
            } else {
                let query = sum(&tokens, &first);
                sum(&tokens, &block.self_attn.among(count, &query, &query, &tokens))
            };
            tokens = block.norm1.forward(&attended);
            let look = &block.token_to_image;
            let queries = look.q.forward(&sum(&tokens, &first));
            let seen = look.out.forward(&walk(&Walk { stage, told, look, queries }));
            tokens = block.norm2.sum(&tokens, &seen);
            tokens = block.norm3.sum(&tokens, &block.mlp.forward(&tokens));

            let heads = &block.image_to_token;
            let (keys, values) = (heads.k.forward(&sum(&tokens, &first)), heads.v.forward(&tokens));
            told = Some(Told { heads, norm: &block.norm4, keys, values });
        }
        let look = &w.last_look;
        let queries = look.q.forward(&sum(&tokens, &first));
        let seen = look.out.forward(&walk(&Walk { stage: w.blocks.len(), told, look, queries }));
        w.last_norm.sum(&tokens, &seen)
    }

    /// Floats of a piece: whole rows of cells.
    fn piece(&self) -> usize {
        piece_rows(self.side) * self.side * self.dim
    }

    /// Scales one prompt's cells up to four times the side and multiplies them with the masks' vectors `[masks, C / 8]`.
    fn draw(&self, cells: &impl Cells, prompt: usize, vectors: &[f32], masks: Vec<&mut [f32]>) {
        let rows = piece_rows(self.side);
        let mut parts: Vec<Vec<&mut [f32]>> = Vec::new();
        parts.resize_with(self.side.div_ceil(rows), Vec::new);
        for mask in masks {
            let pieces = mask.chunks_mut(16 * rows * self.side);
            parts.iter_mut().zip(pieces).for_each(|(part, piece)| part.push(piece));
        }
        let prepared = cells.prepare(prompt);
        parts.into_par_iter().enumerate().for_each_init(
            || (Vec::new(), Vec::new()),
            |(middle, fine), (piece, mut masks)| {
                let n = rows.min(self.side - piece * rows) * self.side;
                for start in (0..n).step_by(STRIP) {
                    let width = STRIP.min(n - start);
                    middle.resize(self.weights.up.first.bias.len() * width, 0.0);
                    cells.middle(prompt, &prepared, piece, start, middle);
                    self.draw_strip(vectors, &mut masks, start, middle, fine);
                }
            },
        );
    }

    /// The same for the cells of a piece from `start`, of which `middle` is the first step up.
    fn draw_strip(
        &self,
        vectors: &[f32],
        masks: &mut [&mut [f32]],
        start: usize,
        middle: &mut [f32],
        fine: &mut Vec<f32>,
    ) {
        let Up { first, norm, second } = &self.weights.up;
        let (side, channels) = (self.side, second.output);
        let width = middle.len() / first.bias.len();
        let mut drawn = vec![0.0; masks.len() * width];
        for (place, middle) in middle.chunks_exact_mut(first.output * width).enumerate() {
            layer_norm_2d_part(width, middle, &norm.gamma, &norm.beta, norm.epsilon);
            activation_part(Activation::Gelu, middle);
            fine.resize(second.bias.len() * width, 0.0);
            fill_rows(fine, &second.bias, width);
            let s = Gemm { accumulate: true, ..product(second.bias.len(), second.input, width) };
            gemm_part(&s, Rows { a: second.input, b: width, c: width }, &second.weight, middle, fine);
            activation_part(Activation::Gelu, fine);
            for (finer, fine) in fine.chunks_exact(channels * width).enumerate() {
                let s = product(masks.len(), channels, width);
                gemm_part(&s, Rows { a: channels, b: width, c: width }, vectors, fine, &mut drawn);
                let (down, across) = (2 * (place / 2) + finer / 2, 2 * (place % 2) + finer % 2);
                for (mask, drawn) in masks.iter_mut().zip(drawn.chunks_exact(width)) {
                    for (cell, logit) in (start..).zip(drawn) {
                        let (y, x) = (4 * (cell / side) + down, 4 * (cell % side) + across);
                        mask[y * 4 * side + x] = *logit;
                    }
                }
            }
        }
    }
}

/// By which of the two roads.
#[derive(Clone, Copy, Debug)]
enum Road {
    Own,
    Shared,
}

/// A group of prompts.
struct Part<'a> {
    wanted: std::ops::Range<usize>,
    sparse: &'a [f32],
    above: Option<f32>,
    count: usize,
}

/// Rows of cells in a piece.
fn piece_rows(side: usize) -> usize {
    (PIECE / side).clamp(1, side)
}

/// A map `[C, side, side]` as pieces `[C, rows, side]`, one after the other.
fn in_pieces(map: &[f32], side: usize) -> Vec<f32> {
    let mut pieces = Vec::with_capacity(map.len());
    into_pieces(map, side, &mut pieces);
    pieces
}

fn into_pieces(map: &[f32], side: usize, pieces: &mut Vec<f32>) {
    pieces.clear();
    let rows = piece_rows(side);
    for y in (0..side).step_by(rows) {
        let width = rows.min(side - y) * side;
        for channel in map.chunks_exact(side * side) {
            pieces.extend_from_slice(&channel[y * side..][..width]);
        }
    }
}

/// Each row of `to`, `width` long, becomes its value of `values`.
fn fill_rows(to: &mut [f32], values: &[f32], width: usize) {
    to.chunks_exact_mut(width).zip(values).for_each(|(row, value)| row.fill(*value));
}

/// A softmax that was taken piece by piece: from the greatest scores of every piece's columns and the sums of `exp(score - greatest)`, what
/// each piece's columns are to be multiplied with.
fn share(pieces: &[(&[f32], &[f32])]) -> Vec<Vec<f32>> {
    let columns = pieces.first().map_or(0, |(max, _)| max.len());
    let most = |column: usize| pieces.iter().map(|(max, _)| max[column]).fold(f32::NEG_INFINITY, f32::max);
    let most: Vec<f32> = (0..columns).map(most).collect();
    let mut shares: Vec<Vec<f32>> = pieces
        .iter()
        .map(|(max, _)| max.iter().zip(&most).map(|(max, most)| (max - most).exp()).collect())
        .collect();
    let mut total = vec![0.0; columns];
    for ((_, sum), shares) in pieces.iter().zip(&shares) {
        total.iter_mut().zip(*sum).zip(shares).for_each(|((t, s), share)| *t += s * share);
    }
    for shares in &mut shares {
        shares.iter_mut().zip(&total).for_each(|(share, total)| *share /= total);
    }
    shares
}
