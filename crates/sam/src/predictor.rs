//! Set a picture once, ask for many masks.

use std::collections::BTreeMap;

use kirie_data::{Image, MaskRecord, longest_side, resize_bilinear};
use rayon::prelude::*;

use crate::engine::{Embedding, Engine, PromptBatch};
use crate::mask_decoder::DecodeMode;
use crate::prompt::Prompt;
use crate::prompt_encoder::{SparsePrompts, TokenLabel};
use crate::registry::Preprocess;
use crate::tensor::HostTensor;
use crate::upscale::Upscaler;
use crate::{SamError, error::PromptProblem};

/// Prompts that the predictor puts into one decoder call at most; bounds its memory.
pub const PROMPTS_PER_CALL: usize = 64;

/// How the threshold is moved for the stability score of prompted masks: the mask generator's default.
const STABILITY_OFFSET: f32 = 1.0;

/// Logits above this are object (`mask_threshold` of the reference).
pub const MASK_THRESHOLD: f32 = 0.0;

/// Answers prompts on one picture at a time. The encoder runs once per picture.
pub struct Predictor<'a> {
    engine: &'a dyn Engine,
    image: Option<EncodedImage>,
}

/// A picture the encoder has seen. It can be kept, and set again without running the encoder.
#[derive(Clone, Debug)]
pub struct EncodedImage {
    /// Width of the picture, pixels.
    pub width: u32,
    /// Height of the picture, pixels.
    pub height: u32,
    /// What the encoder made of it.
    pub embedding: Embedding,
}

/// The masks of one prompt.
#[derive(Clone, Debug)]
pub struct Prediction {
    /// Low-resolution logits of each mask, `side * side` values row-major; any of them can be the next prompt's
    /// mask input.
    pub low_res: Vec<Vec<f32>>,
    /// Predicted IoU of each mask.
    pub iou: Vec<f32>,
}

impl Prediction {
    /// The mask with the highest predicted IoU, the first of equals.
    pub fn best(&self) -> usize {
        let mut best = 0;
        for (i, iou) in self.iou.iter().enumerate() {
            if *iou > self.iou[best] {
                best = i;
            }
        }
        best
    }

    /// Drops all masks but [`Self::best`].
    pub fn keep_best(&mut self) {
        if !self.iou.is_empty() {
            let best = self.best();
            self.low_res.swap(0, best);
            self.iou.swap(0, best);
            self.low_res.truncate(1);
            self.iou.truncate(1);
        }
    }
}

/// For answers that are no numbers: nothing can be cut by them, and saying "no mask" would be a lie.
pub(crate) fn not_finite() -> SamError {
    SamError::Engine(
        "its answer is not a finite number; the weights, or the prompt's numbers, are out of range".into(),
    )
}

impl<'a> Predictor<'a> {
    /// A predictor without a picture.
    pub fn new(engine: &'a dyn Engine) -> Self {
        Self { engine, image: None }
    }

    /// The engine it runs on.
    pub fn engine(&self) -> &'a dyn Engine {
        self.engine
    }

    /// Runs the encoder on a picture.
    pub fn set_image(&mut self, image: &Image) -> Result<(), SamError> {
        self.image = None;
        self.image = Some(encode(self.engine, image)?);
        Ok(())
    }

    /// Takes a picture that was encoded before.
    pub fn set_encoded(&mut self, image: EncodedImage) {
        self.image = Some(image);
    }

    /// The picture that is set.
    pub fn image(&self) -> Result<&EncodedImage, SamError> {
        self.image.as_ref().ok_or(SamError::NoImage)
    }

    /// Forgets the picture.
    pub fn reset(&mut self) {
        self.image = None;
    }

    /// For the masks of the picture that is set: from low resolution to its own size.
    pub fn upscaler(&self) -> Result<Upscaler, SamError> {
        let image = self.image()?;
        let frame = self.engine.preprocess().frame;
        Ok(Upscaler::new(self.engine.mask_side(), frame, image.width, image.height))
    }

    /// The masks of every prompt, in the prompts' order.
    ///
    /// Prompts may differ in what they hold; those of one kind share decoder calls, and each gets the answer it would
    /// get alone.
    ///
    /// # Errors
    /// No picture; a bad prompt (all are checked before any is answered); an answer that is not a finite number.
    pub fn predict(&self, prompts: &[Prompt], mode: DecodeMode) -> Result<Vec<Prediction>, SamError> {
        let image = self.image()?;
        for (index, prompt) in prompts.iter().enumerate() {
            let checked = prompt.check(image.width, image.height, self.engine.mask_side());
            checked.map_err(|problem: PromptProblem| SamError::Prompt { index, problem })?;
        }

        // A padding token changes an answer, so prompts of different lengths never share a call.
        let mut groups: BTreeMap<(usize, bool), Vec<usize>> = BTreeMap::new();
        for (index, prompt) in prompts.iter().enumerate() {
            groups.entry((token_count(prompt), prompt.mask_input.is_some())).or_default().push(index);
        }
        let mut answers: Vec<Option<Prediction>> = vec![None; prompts.len()];
        for ((tokens, _), members) in groups {
            for call in members.chunks(PROMPTS_PER_CALL) {
                let batch = self.batch(call.iter().map(|i| &prompts[*i]), call.len(), tokens)?;
                let output = self.engine.decode(&image.embedding, &batch, mode)?;
                if !output.iou.values.iter().all(|iou| iou.is_finite()) {
                    return Err(not_finite());
                }
                let masks = output.iou.shape[1];
                let pixels = self.engine.mask_side().pow(2);
                let logits = output.logits.values.chunks_exact(masks * pixels);
                for ((index, logits), iou) in
                    call.iter().zip(logits).zip(output.iou.values.chunks_exact(masks))
                {
                    answers[*index] = Some(Prediction {
                        low_res: logits.chunks_exact(pixels).map(<[f32]>::to_vec).collect(),
                        iou: iou.to_vec(),
                    });
                }
            }
        }
        let count = answers.len();
        let answers: Vec<_> = answers.into_iter().flatten().collect();
        if answers.len() == count {
            Ok(answers)
        } else {
            Err(SamError::Engine(format!("{} answers for {count} prompts", answers.len())))
        }
    }

    /// Answers as records at the picture's size, in the prompts' order and for each prompt in the masks' order.
    pub fn records(&self, prompts: &[Prompt], answers: &[Prediction]) -> Result<Vec<MaskRecord>, SamError> {
        let upscaler = self.upscaler()?;
        let crop_box = [0.0, 0.0, upscaler.width() as f64, upscaler.height() as f64];
        let masks: Vec<(&Prompt, &Vec<f32>, f32)> = prompts
            .iter()
            .zip(answers)
            .flat_map(|(prompt, answer)| {
                answer.low_res.iter().zip(&answer.iou).map(move |(low, iou)| (prompt, low, *iou))
            })
            .collect();
        masks
            .into_par_iter()
            .map(|(prompt, low, iou)| {
                let (mask, stability_score) =
                    upscaler.mask_and_stability(low, MASK_THRESHOLD, STABILITY_OFFSET)?;
                Ok(MaskRecord {
                    bbox: mask.inclusive_box().to_xywh(),
                    area: mask.area(),
                    predicted_iou: f64::from(iou),
                    stability_score,
                    point_coords: prompt.points.iter().map(|(p, _)| [p.x, p.y]).collect(),
                    crop_box,
                    segmentation: mask,
                })
            })
            .collect()
    }

    fn batch<'p>(
        &self,
        prompts: impl Iterator<Item = &'p Prompt>,
        count: usize,
        tokens: usize,
    ) -> Result<PromptBatch, SamError> {
        let image = self.image()?;
        let side = self.engine.mask_side();
        let scale = FrameScale::new(&self.engine.preprocess(), image.width, image.height);
        let mut sparse = SparsePrompts { tokens, ..Default::default() };
        let mut masks = Vec::new();
        for prompt in prompts {
            for (point, on_object) in &prompt.points {
                sparse.coords.push(scale.apply(point.x, point.y));
                sparse.labels.push(if *on_object { TokenLabel::Positive } else { TokenLabel::Negative });
            }
            match prompt.bbox {
                Some(b) => {
                    sparse.coords.extend([scale.apply(b.x0, b.y0), scale.apply(b.x1, b.y1)]);
                    sparse.labels.extend([TokenLabel::BoxTopLeft, TokenLabel::BoxBottomRight]);
                }
                None if !prompt.points.is_empty() => {
                    sparse.coords.push([0.0; 2]);
                    sparse.labels.push(TokenLabel::Padding);
                }
                None => {}
            }
            masks.extend(prompt.mask_input.iter().flatten());
        }
        let masks =
            if masks.is_empty() { None } else { Some(HostTensor::new(vec![count, 1, side, side], masks)?) };
        Ok(PromptBatch { count, sparse, masks })
    }
}

/// Tokens a prompt becomes: its points, and two for a box or one of padding for points without a box.
fn token_count(prompt: &Prompt) -> usize {
    match (prompt.points.len(), prompt.bbox) {
        (points, Some(_)) => points + 2,
        (0, None) => 0,
        (points, None) => points + 1,
    }
}

/// From the picture's pixels to the frame's, as the reference rounds the resized picture.
pub(crate) struct FrameScale {
    x: f64,
    y: f64,
}

impl FrameScale {
    pub(crate) fn new(preprocess: &Preprocess, width: u32, height: u32) -> Self {
        let (w, h) = longest_side(width, height, preprocess.frame);
        Self { x: f64::from(w) / f64::from(width), y: f64::from(h) / f64::from(height) }
    }

    pub(crate) fn apply(&self, x: f64, y: f64) -> [f32; 2] {
        [(x * self.x) as f32, (y * self.y) as f32]
    }
}

/// Prepares a picture and runs the encoder on it.
pub fn encode(engine: &dyn Engine, image: &Image) -> Result<EncodedImage, SamError> {
    let pixels = prepare(image, &engine.preprocess())?;
    Ok(EncodedImage { width: image.width(), height: image.height(), embedding: engine.encode(pixels)? })
}

/// A picture as the encoder wants it, `[1, 3, size, size]`.
pub fn prepare(image: &Image, preprocess: &Preprocess) -> Result<HostTensor, SamError> {
    let (width, height) = longest_side(image.width(), image.height(), preprocess.size);
    let resized = resize_bilinear(image, width, height)?;
    let (size, width) = (preprocess.size as usize, width as usize);
    let mut values = vec![0.0_f32; 3 * size * size];
    for (channel, plane) in values.chunks_exact_mut(size * size).enumerate() {
        let (mean, std) = (preprocess.mean[channel], preprocess.std[channel]);
        for (row, out) in resized.as_raw().chunks_exact(3 * width).zip(plane.chunks_exact_mut(size)) {
            for (pixel, value) in row.chunks_exact(3).zip(out) {
                *value = (f32::from(pixel[channel]) - mean) / std;
            }
        }
    }
    HostTensor::new(vec![1, 3, size, size], values)
}
