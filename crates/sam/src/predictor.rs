//! Set a picture once, ask for many masks.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Deref;
use std::sync::{Arc, OnceLock};

use kirie_data::{Image, MaskRecord, longest_side, resize_bilinear};
use kirie_mask::{BBox, Point, Rle};
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

/// Answers prompts on one picture at a time. The encoder runs once per picture, and once more for every box that is looked at
/// closely ([`Self::with_zoom`]).
///
/// It borrows its engine, or shares it: then it is a `Predictor<'static>` that a service can keep.
pub struct Predictor<'a> {
    engine: EngineRef<'a>,
    zoom: Option<f64>,
    image: Option<Picture>,
}

/// An engine that is borrowed, or shared with others who may outlive whoever opened it.
#[derive(Clone)]
pub enum EngineRef<'a> {
    /// Somebody else's.
    Borrowed(&'a dyn Engine),
    /// Shared.
    Shared(Arc<dyn Engine>),
}

impl<'a> Deref for EngineRef<'a> {
    type Target = dyn Engine + 'a;

    fn deref(&self) -> &Self::Target {
        match self {
            Self::Borrowed(engine) => *engine,
            Self::Shared(engine) => engine.as_ref(),
        }
    }
}

impl<'a> From<&'a dyn Engine> for EngineRef<'a> {
    fn from(engine: &'a dyn Engine) -> Self {
        Self::Borrowed(engine)
    }
}

impl<'a, E: Engine> From<&'a E> for EngineRef<'a> {
    fn from(engine: &'a E) -> Self {
        Self::Borrowed(engine)
    }
}

impl From<Arc<dyn Engine>> for EngineRef<'_> {
    fn from(engine: Arc<dyn Engine>) -> Self {
        Self::Shared(engine)
    }
}

/// The picture that is set. With zoom its pixels are kept, and the whole of it is encoded when a prompt needs that.
struct Picture {
    width: u32,
    height: u32,
    pixels: Option<Image>,
    encoded: OnceLock<EncodedImage>,
    /// For masks of all of it.
    upscaler: Upscaler,
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
    /// The part of the picture that the logits show; `None` for all of it. Logits of a part are no mask input.
    pub window: Option<Window>,
}

/// A rectangle of a picture, pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Left edge.
    pub x: u32,
    /// Upper edge.
    pub y: u32,
    /// Width.
    pub width: u32,
    /// Height.
    pub height: u32,
}

impl Window {
    /// A window around a box, square where the picture allows, its side `context` times the box's longer one; `None` where
    /// that is nearly the whole picture, of which nothing more is to be seen by cutting it.
    fn around(bbox: BBox, context: f64, width: u32, height: u32) -> Option<Self> {
        // A few pixels enlarged many times show nothing more either.
        const LEAST_SIDE: f64 = 32.0;
        const NEARLY_ALL: f64 = 0.8;

        let (w, h) = (f64::from(width), f64::from(height));
        let (x0, y0) = (bbox.x0.clamp(0.0, w), bbox.y0.clamp(0.0, h));
        let (x1, y1) = (bbox.x1.clamp(x0, w), bbox.y1.clamp(y0, h));
        let side = ((x1 - x0).max(y1 - y0) * context).max(LEAST_SIDE).ceil();
        if side >= NEARLY_ALL * w.max(h) {
            return None;
        }
        let cut = |low: f64, high: f64, length: f64| {
            let extent = side.min(length);
            let start = (f64::midpoint(low, high) - extent / 2.0).round().clamp(0.0, length - extent);
            (start as u32, extent as u32)
        };
        let ((x, width), (y, height)) = (cut(x0, x1, w), cut(y0, y1, h));
        Some(Self { x, y, width, height })
    }

    /// A prompt in the window's pixels. Points outside of it say nothing that can be seen, and are left out.
    fn prompt(&self, prompt: &Prompt) -> Prompt {
        let (x, y) = (f64::from(self.x), f64::from(self.y));
        let (w, h) = (f64::from(self.width), f64::from(self.height));
        let points = prompt.points.iter().map(|(p, on)| (Point { x: p.x - x, y: p.y - y }, *on));
        Prompt {
            points: points.filter(|(p, _)| (0.0..=w).contains(&p.x) && (0.0..=h).contains(&p.y)).collect(),
            bbox: prompt.bbox.map(|b| BBox { x0: b.x0 - x, y0: b.y0 - y, x1: b.x1 - x, y1: b.y1 - y }),
            mask_input: None,
        }
    }
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
    /// A predictor without a picture, with an engine that is borrowed (`&engine`) or shared (`Arc<dyn Engine>`).
    pub fn new(engine: impl Into<EngineRef<'a>>) -> Self {
        Self { engine: engine.into(), zoom: None, image: None }
    }

    /// Answers boxes from a closer look: a window of the picture around the box, `context` times as large as it (None: from the
    /// whole picture, as the reference does). A small object then has as many pixels of the encoder's input as a large one,
    /// for the time of one more run of the encoder a box.
    ///
    /// Points without a box, and prompts with a mask input, are answered from the whole picture.
    pub fn with_zoom(mut self, context: Option<f64>) -> Self {
        self.zoom = context.filter(|c| *c >= 1.0);
        self
    }

    /// The engine it runs on.
    pub fn engine(&self) -> &dyn Engine {
        &*self.engine
    }

    /// Takes a picture and runs the encoder on it; with zoom, only once a prompt needs the whole picture.
    pub fn set_image(&mut self, image: &Image) -> Result<(), SamError> {
        self.image = None;
        if self.zoom.is_some() {
            let (size, pixels) = ([image.width(), image.height()], Some(image.clone()));
            self.image = Some(self.new_picture(size, pixels, OnceLock::new()));
        } else {
            self.set_encoded(encode(&*self.engine, image)?);
        }
        Ok(())
    }

    /// Takes a picture that was encoded before. Of such a picture there is no closer look.
    pub fn set_encoded(&mut self, image: EncodedImage) {
        self.image = Some(self.new_picture([image.width, image.height], None, image.into()));
    }

    /// Takes a picture's pixels together with what the encoder made of them before: the encoder does not run, and boxes can
    /// be looked at closely.
    ///
    /// # Errors
    /// [`SamError::Shape`] when the two are of different sizes.
    pub fn set_image_encoded(&mut self, image: Image, encoded: EncodedImage) -> Result<(), SamError> {
        let size = [image.width(), image.height()];
        if size != [encoded.width, encoded.height] {
            let expected = format!("an encoded picture of {}x{}", size[0], size[1]);
            let found = vec![encoded.width as usize, encoded.height as usize];
            return Err(SamError::Shape { what: "encoded picture", expected, found });
        }
        self.image = Some(self.new_picture(size, Some(image), encoded.into()));
        Ok(())
    }

    fn new_picture(
        &self,
        [width, height]: [u32; 2],
        pixels: Option<Image>,
        encoded: OnceLock<EncodedImage>,
    ) -> Picture {
        Picture { width, height, pixels, encoded, upscaler: self.new_upscaler(width, height) }
    }

    fn new_upscaler(&self, width: u32, height: u32) -> Upscaler {
        Upscaler::new(self.engine.mask_side(), self.engine.preprocess().frame, width, height)
    }

    fn picture(&self) -> Result<&Picture, SamError> {
        self.image.as_ref().ok_or(SamError::NoImage)
    }

    /// The whole picture that is set, encoded.
    pub fn image(&self) -> Result<&EncodedImage, SamError> {
        let picture = self.picture()?;
        if let Some(encoded) = picture.encoded.get() {
            return Ok(encoded);
        }
        let pixels = picture.pixels.as_ref().ok_or(SamError::NoImage)?;
        let encoded = encode(&*self.engine, pixels)?;
        Ok(picture.encoded.get_or_init(|| encoded))
    }

    /// Forgets the picture.
    pub fn reset(&mut self) {
        self.image = None;
    }

    /// For the masks of the picture that is set, seen as a whole: from low resolution to its own size.
    pub fn upscaler(&self) -> Result<&Upscaler, SamError> {
        Ok(&self.picture()?.upscaler)
    }

    /// From a prediction's low resolution to masks of the picture's size.
    pub fn masks_of(&self, prediction: &Prediction) -> Result<Scaler<'_>, SamError> {
        let picture = self.picture()?;
        let size = [picture.width as usize, picture.height as usize];
        Ok(match prediction.window {
            None => Scaler { upscaler: Cow::Borrowed(&picture.upscaler), at: None, size },
            Some(Window { x, y, width, height }) => {
                let upscaler = Cow::Owned(self.new_upscaler(width, height));
                Scaler { upscaler, at: Some([x as usize, y as usize]), size }
            }
        })
    }

    /// The masks of every prompt, in the prompts' order.
    ///
    /// Prompts may differ in what they hold; those of one kind share decoder calls, and each gets the answer it would
    /// get alone.
    ///
    /// # Errors
    /// No picture; a bad prompt (all are checked before any is answered); an answer that is not a finite number.
    pub fn predict(&self, prompts: &[Prompt], mode: DecodeMode) -> Result<Vec<Prediction>, SamError> {
        self.predict_zoomed(prompts, mode, self.zoom)
    }

    /// [`Self::predict`] with this call's own `zoom` in place of [`Self::with_zoom`]'s. Boxes are looked at closely only where
    /// the picture's pixels are kept.
    ///
    /// # Errors
    /// As [`Self::predict`].
    pub fn predict_zoomed(
        &self,
        prompts: &[Prompt],
        mode: DecodeMode,
        zoom: Option<f64>,
    ) -> Result<Vec<Prediction>, SamError> {
        let picture = self.picture()?;
        for (index, prompt) in prompts.iter().enumerate() {
            let checked = prompt.check(picture.width, picture.height, self.engine.mask_side());
            checked.map_err(|problem: PromptProblem| SamError::Prompt { index, problem })?;
        }

        let (mut close, mut whole) = (Vec::new(), Vec::new());
        for (index, prompt) in prompts.iter().enumerate() {
            match (zoom.filter(|c| *c >= 1.0), &picture.pixels, prompt.bbox, &prompt.mask_input) {
                (Some(context), Some(pixels), Some(bbox), None) => {
                    match Window::around(bbox, context, picture.width, picture.height) {
                        Some(window) => close.push((index, pixels, window)),
                        None => whole.push(index),
                    }
                }
                _ => whole.push(index),
            }
        }
        let mut answers: Vec<Option<Prediction>> = vec![None; prompts.len()];
        for (index, pixels, window) in close {
            let cut = pixels.crop(window.x, window.y, window.width, window.height)?;
            let seen = encode(&*self.engine, &cut)?;
            let mut answer = self.answer(&seen, &[&window.prompt(&prompts[index])], mode)?;
            answers[index] = answer.pop().map(|prediction| Prediction { window: Some(window), ..prediction });
        }
        if !whole.is_empty() {
            let asked: Vec<&Prompt> = whole.iter().map(|index| &prompts[*index]).collect();
            for (index, answer) in whole.into_iter().zip(self.answer(self.image()?, &asked, mode)?) {
                answers[index] = Some(answer);
            }
        }
        complete(answers)
    }

    /// The masks of prompts on an encoded picture, or part of one, in the prompts' order.
    fn answer(
        &self,
        image: &EncodedImage,
        prompts: &[&Prompt],
        mode: DecodeMode,
    ) -> Result<Vec<Prediction>, SamError> {
        // A padding token changes an answer, so prompts of different lengths never share a call.
        let mut groups: BTreeMap<(usize, bool), Vec<usize>> = BTreeMap::new();
        for (index, prompt) in prompts.iter().enumerate() {
            groups.entry((token_count(prompt), prompt.mask_input.is_some())).or_default().push(index);
        }
        let mut answers: Vec<Option<Prediction>> = vec![None; prompts.len()];
        for ((tokens, _), members) in groups {
            for call in members.chunks(PROMPTS_PER_CALL) {
                let batch = self.batch(image, call.iter().map(|i| prompts[*i]), call.len(), tokens)?;
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
                        window: None,
                    });
                }
            }
        }
        complete(answers)
    }

    /// Answers as records at the picture's size, in the prompts' order and for each prompt in the masks' order.
    pub fn records(&self, prompts: &[Prompt], answers: &[Prediction]) -> Result<Vec<MaskRecord>, SamError> {
        let picture = self.picture()?;
        let whole = Window { x: 0, y: 0, width: picture.width, height: picture.height };
        let records = prompts.par_iter().zip(answers).map(|(prompt, answer)| {
            let scaler = self.masks_of(answer)?;
            let Window { x, y, width, height } = answer.window.unwrap_or(whole);
            let masks = answer.low_res.par_iter().zip(&answer.iou).map(|(low, iou)| {
                let (mask, stability_score) = scaler.mask_and_stability(low)?;
                Ok(MaskRecord {
                    bbox: mask.inclusive_box().to_xywh(),
                    area: mask.area(),
                    predicted_iou: f64::from(*iou),
                    stability_score,
                    point_coords: prompt.points.iter().map(|(p, _)| [p.x, p.y]).collect(),
                    crop_box: [x, y, width, height].map(f64::from),
                    segmentation: mask,
                })
            });
            masks.collect::<Result<Vec<_>, SamError>>()
        });
        Ok(records.collect::<Result<Vec<_>, SamError>>()?.into_iter().flatten().collect())
    }

    fn batch<'p>(
        &self,
        image: &EncodedImage,
        prompts: impl Iterator<Item = &'p Prompt>,
        count: usize,
        tokens: usize,
    ) -> Result<PromptBatch, SamError> {
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
        Ok(PromptBatch { count, sparse, masks, above: None })
    }
}

/// The answers, if every prompt has one.
fn complete(answers: Vec<Option<Prediction>>) -> Result<Vec<Prediction>, SamError> {
    let count = answers.len();
    let answers: Vec<_> = answers.into_iter().flatten().collect();
    if answers.len() == count {
        Ok(answers)
    } else {
        Err(SamError::Engine(format!("{} answers for {count} prompts", answers.len())))
    }
}

/// From low-resolution logits to a mask at the picture's size.
#[derive(Clone, Debug)]
pub struct Scaler<'p> {
    upscaler: Cow<'p, Upscaler>,
    /// Where in the picture, if it is a part.
    at: Option<[usize; 2]>,
    size: [usize; 2],
}

impl Scaler<'_> {
    /// The mask.
    pub fn mask(&self, low: &[f32]) -> Result<Rle, SamError> {
        self.place(self.upscaler.mask(low, MASK_THRESHOLD)?)
    }

    /// The mask and its stability score.
    pub fn mask_and_stability(&self, low: &[f32]) -> Result<(Rle, f64), SamError> {
        let (mask, stability) = self.upscaler.mask_and_stability(low, MASK_THRESHOLD, STABILITY_OFFSET)?;
        Ok((self.place(mask)?, stability))
    }

    fn place(&self, mask: Rle) -> Result<Rle, SamError> {
        let [width, height] = self.size;
        Ok(match self.at {
            None => mask,
            Some([x, y]) => mask.paste(x, y, width, height)?,
        })
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
pub struct FrameScale {
    x: f64,
    y: f64,
}

impl FrameScale {
    /// For a picture of `width` x `height`.
    pub fn new(preprocess: &Preprocess, width: u32, height: u32) -> Self {
        let (w, h) = longest_side(width, height, preprocess.frame);
        Self { x: f64::from(w) / f64::from(width), y: f64::from(h) / f64::from(height) }
    }

    /// A place in the frame.
    pub fn apply(&self, x: f64, y: f64) -> [f32; 2] {
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
