//! A drawn scene as an engine: asked at a point, it answers with masks of what is drawn there.

use std::ops::ControlFlow;
use std::sync::Mutex;

use kirie_data::{Image, MaskRecord, longest_side};
use kirie_sam::engine::{LowResMasks, PromptBatch};
use kirie_sam::mask_generator::generate;
use kirie_sam::prompt_encoder::TokenLabel;
use kirie_sam::registry::Preprocess;
use kirie_sam::{DecodeMode, Embedding, Engine, HostTensor, MaskGeneratorOptions, SamError};

/// Side of the frame, of the low-resolution masks and of the encoder's input. A picture of this size has masks that
/// are exactly what is drawn.
pub(crate) const SIDE: u32 = 64;

/// Logits of a mask at places of the picture, pixels.
pub(crate) type Draw = Box<dyn Fn(f64, f64) -> f32 + Send + Sync>;
/// One answer: predicted IoU and mask.
pub(crate) type Guess = (f32, Draw);

pub(crate) fn draw(inside: impl Fn(f64, f64) -> bool + Send + Sync + 'static) -> Draw {
    Box::new(move |x, y| if inside(x, y) { 8.0 } else { -8.0 })
}

/// The pixels from the upper left corner to before the lower right one.
pub(crate) fn rect(x0: f64, y0: f64, x1: f64, y1: f64) -> Draw {
    draw(move |x, y| (x0..x1).contains(&x) && (y0..y1).contains(&y))
}

pub(crate) fn nothing() -> Guess {
    (0.99, draw(|_, _| false))
}

/// Knows what is at every point of a picture of the given size.
pub(crate) struct Scene<F> {
    size: [u32; 2],
    /// What is encoded, in order: left, top, right, bottom.
    pub(crate) crops: Vec<[u32; 4]>,
    /// The masks of a point.
    guess: F,
    pub(crate) encoded: Mutex<usize>,
    /// The points of every decoder call, in the picture's pixels.
    asked: Mutex<Vec<Vec<[f64; 2]>>>,
}

impl<F: Fn(f64, f64) -> [Guess; 3] + Send + Sync> Scene<F> {
    pub(crate) fn new([width, height]: [u32; 2], guess: F) -> Self {
        Self {
            size: [width, height],
            crops: vec![[0, 0, width, height]],
            guess,
            encoded: Mutex::default(),
            asked: Mutex::default(),
        }
    }

    pub(crate) fn with_crops(mut self, crops: &[[u32; 4]]) -> Self {
        self.crops.extend(crops);
        self
    }

    /// Red grows to the right, green downwards.
    pub(crate) fn picture(&self) -> Image {
        let [width, height] = self.size;
        let shade = |at: u32, whole: u32| (255.0 * (f64::from(at) + 0.5) / f64::from(whole)) as u8;
        let pixels = (0..height)
            .flat_map(|y| (0..width).flat_map(move |x| [shade(x, width), shade(y, height), 0]))
            .collect();
        Image::from_raw(width, height, pixels).unwrap()
    }

    pub(crate) fn generate(&self, options: &MaskGeneratorOptions) -> Result<Vec<MaskRecord>, SamError> {
        generate(self, &self.picture(), options, &mut |_| ControlFlow::Continue(()))
    }

    pub(crate) fn asked(&self) -> Vec<Vec<[f64; 2]>> {
        self.asked.lock().unwrap().clone()
    }

    /// From pixels of a crop to pixels of the frame.
    fn scale([x0, y0, x1, y1]: [u32; 4]) -> [f64; 2] {
        let (width, height) = longest_side(x1 - x0, y1 - y0, SIDE);
        [f64::from(width) / f64::from(x1 - x0), f64::from(height) / f64::from(y1 - y0)]
    }
}

impl<F: Fn(f64, f64) -> [Guess; 3] + Send + Sync> Engine for Scene<F> {
    fn model(&self) -> &'static str {
        "scene"
    }

    fn preprocess(&self) -> Preprocess {
        Preprocess { size: SIDE, frame: SIDE, mean: [0.0; 3], std: [1.0; 3] }
    }

    fn mask_side(&self) -> usize {
        SIDE as usize
    }

    /// Makes sure by the colours that the picture is the crop that is expected next.
    fn encode(&self, pixels: HostTensor) -> Result<Embedding, SamError> {
        let mut encoded = self.encoded.lock().unwrap();
        let crop = self.crops[*encoded];
        let [sx, sy] = Self::scale(crop);
        let columns = longest_side(crop[2] - crop[0], crop[3] - crop[1], SIDE).0 as usize;
        let near = |found: f32, place: f64, axis: usize| {
            let expected = 255.0 * place / f64::from(self.size[axis]);
            assert!((f64::from(found) - expected).abs() < 6.0, "crop {encoded}: {found} is not {expected}");
        };
        // Centres of the outermost pixels, of the picture's or of the encoder's input.
        let [margin_x, margin_y] = [sx, sy].map(|s| (0.5 / s).max(0.5));
        near(pixels.values[0], f64::from(crop[0]) + margin_x, 0);
        near(pixels.values[columns - 1], f64::from(crop[2]) - margin_x, 0);
        near(pixels.values[SIDE.pow(2) as usize], f64::from(crop[1]) + margin_y, 1);

        let image = HostTensor::new(vec![1], vec![*encoded as f32])?;
        *encoded += 1;
        Ok(Embedding { image, hq_features: None })
    }

    fn decode(
        &self,
        embedding: &Embedding,
        prompts: &PromptBatch,
        mode: DecodeMode,
    ) -> Result<LowResMasks, SamError> {
        assert_eq!(mode, DecodeMode { multimask: true, hq_only: false });
        assert_eq!((prompts.sparse.tokens, prompts.masks.is_none()), (2, true));
        assert_eq!(prompts.sparse.labels, [TokenLabel::Positive, TokenLabel::Padding].repeat(prompts.count));
        let crop = self.crops[embedding.image.values[0] as usize];
        let ([sx, sy], [x0, y0]) = (Self::scale(crop), [f64::from(crop[0]), f64::from(crop[1])]);
        let mut asked = Vec::new();
        let (mut logits, mut iou) = (Vec::new(), Vec::new());
        for token in prompts.sparse.coords.chunks_exact(2) {
            let (x, y) = (f64::from(token[0][0]) / sx + x0, f64::from(token[0][1]) / sy + y0);
            asked.push([x, y]);
            for (quality, mask) in (self.guess)(x, y) {
                iou.push(quality);
                for row in 0..SIDE {
                    for column in 0..SIDE {
                        let x = (f64::from(column) + 0.5) / sx + x0;
                        logits.push(mask(x, (f64::from(row) + 0.5) / sy + y0));
                    }
                }
            }
        }
        self.asked.lock().unwrap().push(asked);
        let (count, side) = (prompts.count, SIDE as usize);
        Ok(LowResMasks {
            logits: HostTensor::new(vec![count, 3, side, side], logits)?,
            iou: HostTensor::new(vec![count, 3], iou)?,
        })
    }
}
