//! Asks a model about a picture, and measures how unsure it is of its answers.
//!
//! Without labels a grid of points is asked, and the answers that the model itself rates best, no two of them the same object,
//! are looked at. Where boxes are known, they are asked instead. The encoder runs once a picture; every object takes a few runs
//! of the decoder, for boxes moved a little around it.

use kirie_data::{Image, MaskRecord, longest_side};
use kirie_engine::random::{Streams, unit};
use kirie_mask::{BBox, nms};
use kirie_sam::predictor::{EncodedImage, encode};
use kirie_sam::{DecodeMode, Engine, Prediction, Predictor, Prompt, SamError};

use super::disagree::{bald, disagreement};
use super::doubt::{entropy, instability, low_predicted_iou, margin, mask_and_band};
use super::{Doubts, Measure};

/// How far the threshold is moved for the stability score, logits: SAM's own.
const STABILITY_OFFSET: f32 = 1.0;
/// How far a box's edges are moved, as a part of its sides.
const SHIFT: f64 = 0.1;
/// Answers whose boxes overlap more are of one object: the mask generator's threshold.
const SAME_OBJECT: f64 = 0.7;

/// What is asked of a picture.
#[derive(Clone, Debug, PartialEq)]
pub enum Ask {
    /// Everything: a grid of points.
    Everything,
    /// The objects in these boxes, pixels of the picture.
    Boxes(Vec<BBox>),
}

/// How much is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AskOptions {
    /// Points along a side of the grid, at least 1.
    pub points_per_side: u32,
    /// Objects looked at, at most.
    pub objects: usize,
    /// Moved boxes asked for each of them, at least 2.
    pub jitters: usize,
    /// How they are moved: the same way in every picture.
    pub seed: u64,
}

impl Default for AskOptions {
    fn default() -> Self {
        Self { points_per_side: 8, objects: 8, jitters: 5, seed: 0 }
    }
}

/// What a model said of a picture.
#[derive(Clone, Debug)]
pub struct Asked {
    /// The objects: those the model rates best, best first; or those of the boxes, in their order.
    pub objects: Vec<AskedObject>,
    /// The mean over the objects. The most there can be of everything where the model found none.
    pub doubts: Doubts,
    /// What the picture looks like to the encoder, a vector of length 1: its embedding's mean over the picture.
    pub feature: Vec<f32>,
}

/// What it said of an object.
#[derive(Clone, Debug)]
pub struct AskedObject {
    /// Its mask.
    pub record: MaskRecord,
    /// How unsure the model is of it.
    pub doubts: Doubts,
}

/// Asks about a picture.
///
/// # Errors
/// Of the model; a box that does not lie in the picture.
pub fn ask(engine: &dyn Engine, image: &Image, ask: &Ask, options: &AskOptions) -> Result<Asked, SamError> {
    let encoded = encode(engine, image)?;
    let feature = feature(engine, &encoded);
    let (width, height) = (encoded.width, encoded.height);
    let mut predictor = Predictor::new(engine);
    predictor.set_encoded(encoded);
    let low = LowRes::new(engine, width, height);

    let answered: Vec<(Prompt, Prediction)> = match ask {
        Ask::Boxes(boxes) => {
            let prompts: Vec<Prompt> =
                boxes.iter().take(options.objects).map(|b| Prompt::bbox(b.x0, b.y0, b.x1, b.y1)).collect();
            let answers = predictor.predict(&prompts, DecodeMode::default())?;
            prompts.into_iter().zip(answers).collect()
        }
        Ask::Everything => {
            let prompts = grid(options.points_per_side.max(1), width, height);
            let mode = DecodeMode { multimask: true, hq_only: false };
            let mut answers = predictor.predict(&prompts, mode)?;
            answers.iter_mut().for_each(Prediction::keep_best);
            let boxes: Vec<BBox> = answers.iter().map(|answer| low.bbox(answer)).collect();
            // Empty ones come last, and are left out.
            let scores: Vec<f64> = answers
                .iter()
                .zip(&boxes)
                .map(|(answer, bbox)| if bbox.area() > 0.0 { predicted(answer) } else { f64::NEG_INFINITY })
                .collect();
            let kept = nms(&boxes, &scores, SAME_OBJECT);
            let kept = kept.into_iter().filter(|i| scores[*i].is_finite()).take(options.objects);
            kept.map(|i| (prompts[i].clone(), answers[i].clone())).collect()
        }
    };
    let (prompts, answers): (Vec<Prompt>, Vec<Prediction>) = answered.into_iter().unzip();
    let records = predictor.records(&prompts, &answers)?;
    let mut objects = Vec::with_capacity(records.len());
    for (place, ((record, prompt), answer)) in records.into_iter().zip(&prompts).zip(&answers).enumerate() {
        let bbox = match prompt.bbox {
            Some(bbox) => bbox,
            None => BBox::from_xywh(record.segmentation.bbox_xywh().map(f64::from)),
        };
        let moved = moved(bbox, (width, height), options, place as u64);
        let moved = predictor.predict(&moved, DecodeMode::default())?;
        objects.push(AskedObject { record, doubts: low.doubts(answer, &moved) });
    }
    let doubts = Doubts::mean(objects.iter().map(|object| &object.doubts));
    Ok(Asked { objects, doubts, feature })
}

/// Points in the middle of `side` x `side` cells.
fn grid(side: u32, width: u32, height: u32) -> Vec<Prompt> {
    let at = |i: u32, length: u32| (f64::from(i) + 0.5) / f64::from(side) * f64::from(length);
    (0..side)
        .flat_map(|y| (0..side).map(move |x| (x, y)))
        .map(|(x, y)| Prompt::point(at(x, width), at(y, height)))
        .collect()
}

/// The box with each edge moved by up to a tenth of its side, kept in the picture.
fn moved(bbox: BBox, (width, height): (u32, u32), options: &AskOptions, place: u64) -> Vec<Prompt> {
    let streams = Streams::new(options.seed);
    let (w, h) = (bbox.width().max(1.0), bbox.height().max(1.0));
    (0..options.jitters.max(2) as u64)
        .map(|i| {
            let mut stream = streams.stream("rank-jitter", &[place, i]);
            let mut shift = |side: f64| (2.0 * unit(&mut stream) - 1.0) * SHIFT * side;
            let edges = [bbox.x0 + shift(w), bbox.y0 + shift(h), bbox.x1 + shift(w), bbox.y1 + shift(h)];
            let inside = |low: f64, high: f64, length: u32| {
                let length = f64::from(length);
                let low = low.clamp(0.0, (length - 1.0).max(0.0));
                (low, high.clamp(low + 1.0, length.max(low + 1.0)))
            };
            let (x0, x1) = inside(edges[0], edges[2], width);
            let (y0, y1) = inside(edges[1], edges[3], height);
            Prompt::bbox(x0, y0, x1, y1)
        })
        .collect()
}

/// The IoU that the model predicts for its answer.
fn predicted(answer: &Prediction) -> f64 {
    answer.iou.first().map_or(f64::NAN, |iou| f64::from(*iou))
}

fn logits(answer: &Prediction) -> &[f32] {
    answer.low_res.first().map_or(&[], Vec::as_slice)
}

/// The decoder's square, of which the picture takes the upper left part.
struct LowRes {
    side: usize,
    width: usize,
    height: usize,
    /// Pixels around a mask that belong to its edge.
    band: usize,
}

impl LowRes {
    fn new(engine: &dyn Engine, width: u32, height: u32) -> Self {
        let (side, frame) = (engine.mask_side(), engine.preprocess().frame);
        let (w, h) = longest_side(width, height, frame);
        let part = |length: u32| (side * length as usize).div_ceil(frame as usize).clamp(1, side);
        Self { side, width: part(w), height: part(h), band: (side / 64).max(1) }
    }

    /// Whether the picture has this pixel.
    fn shows(&self, i: usize) -> bool {
        i % self.side < self.width && i / self.side < self.height
    }

    /// Around the mask, as far as the picture goes.
    fn bbox(&self, answer: &Prediction) -> BBox {
        let set = logits(answer).iter().enumerate().filter(|(i, z)| **z > 0.0 && self.shows(*i));
        let (mut x0, mut y0, mut x1, mut y1) = (usize::MAX, usize::MAX, 0, 0);
        for (i, _) in set {
            let (x, y) = (i % self.side, i / self.side);
            (x0, y0, x1, y1) = (x0.min(x), y0.min(y), x1.max(x + 1), y1.max(y + 1));
        }
        if x0 >= x1 {
            return BBox::new(0.0, 0.0, 0.0, 0.0);
        }
        BBox::new(x0 as f64, y0 as f64, x1 as f64, y1 as f64)
    }

    /// All measures of an answer and the answers to moved boxes.
    fn doubts(&self, answer: &Prediction, moved: &[Prediction]) -> Doubts {
        let mut doubts = Doubts::most();
        doubts.set(Measure::PredictedIou, low_predicted_iou(predicted(answer)));
        let mut region = mask_and_band(logits(answer), self.side, self.band);
        for (i, counts) in region.iter_mut().enumerate() {
            *counts &= self.shows(i);
        }
        let seen: Vec<f32> =
            logits(answer).iter().enumerate().filter(|(i, _)| self.shows(*i)).map(|(_, z)| *z).collect();
        doubts.set(Measure::Stability, instability(&seen, STABILITY_OFFSET));
        if let Some(value) = entropy(logits(answer), &region) {
            doubts.set(Measure::Entropy, value);
        }
        if let Some(value) = margin(logits(answer), &region) {
            doubts.set(Measure::Margin, value);
        }
        let moved: Vec<&[f32]> = moved.iter().map(logits).collect();
        // Where all find nothing they agree, and yet nothing is known.
        if moved.iter().any(|logits| logits.iter().any(|z| *z > 0.0)) {
            doubts.set(Measure::Jitter, disagreement(&moved));
            if let Some(value) = bald(&moved, &region) {
                doubts.set(Measure::Bald, value);
            }
        }
        doubts
    }
}

/// The embedding's mean over the part that the picture takes, scaled to length 1.
fn feature(engine: &dyn Engine, encoded: &EncodedImage) -> Vec<f32> {
    let embedding = &encoded.embedding.image;
    let [_, _, rows, columns] = embedding.shape[..] else { return Vec::new() };
    let size = engine.preprocess().size;
    let (w, h) = longest_side(encoded.width, encoded.height, size);
    let part = |cells: usize, length: u32| (cells * length as usize).div_ceil(size as usize).clamp(1, cells);
    let (w, h) = (part(columns, w), part(rows, h));
    let mean = |channel: &[f32]| {
        let cells = channel.chunks_exact(columns).take(h).flat_map(|row| &row[..w]);
        cells.map(|v| f64::from(*v)).sum::<f64>() / (w * h) as f64
    };
    let means: Vec<f64> = embedding.values.chunks_exact(rows * columns).map(mean).collect();
    let length = means.iter().map(|v| v * v).sum::<f64>().sqrt().max(1e-12);
    means.into_iter().map(|v| (v / length) as f32).collect()
}

#[cfg(test)]
mod tests {
    use kirie_sam::HostTensor;
    use kirie_sam::engine::{Embedding, LowResMasks, PromptBatch};
    use kirie_sam::prompt_encoder::TokenLabel;
    use kirie_sam::registry::{Preprocess, variant};

    use super::*;

    const SIDE: usize = 64;
    const FRAME: u32 = 1024;

    /// Draws what it is asked: the ellipse in a box, or a disc around a point, with edges as sharp as it is sure.
    struct Drawing {
        sharpness: f32,
        iou: f32,
    }

    impl Engine for Drawing {
        fn model(&self) -> &'static str {
            "drawing"
        }

        fn preprocess(&self) -> Preprocess {
            Preprocess { size: 32, frame: FRAME, ..variant("kirie-small").unwrap().preprocess }
        }

        fn mask_side(&self) -> usize {
            SIDE
        }

        fn encode(&self, pixels: HostTensor) -> Result<Embedding, SamError> {
            // Two channels of 4x4 cells: the mean of the picture's upper left, and one.
            let mean = pixels.values[..8].iter().sum::<f32>() / 8.0;
            let image = HostTensor::new(vec![1, 2, 4, 4], [[mean; 16], [1.0; 16]].concat())?;
            Ok(Embedding { image, hq_features: None })
        }

        fn decode(
            &self,
            _: &Embedding,
            prompts: &PromptBatch,
            mode: DecodeMode,
        ) -> Result<LowResMasks, SamError> {
            let masks = if mode.multimask { 3 } else { 1 };
            let mut logits = Vec::new();
            for prompt in 0..prompts.count {
                let at = |i: usize| prompts.sparse.coords[2 * prompt + i].map(|v| v / 16.0);
                let is_box = prompts.sparse.labels[2 * prompt] == TokenLabel::BoxTopLeft;
                let ([x0, y0], [x1, y1]) = if is_box {
                    (at(0), at(1))
                } else {
                    let [x, y] = at(0);
                    ([x - 6.0, y - 6.0], [x + 6.0, y + 6.0])
                };
                for _ in 0..masks {
                    logits.extend((0..SIDE * SIDE).map(|i| {
                        let x = ((i % SIDE) as f32 + 0.5 - f32::midpoint(x0, x1)) / ((x1 - x0) / 2.0);
                        let y = ((i / SIDE) as f32 + 0.5 - f32::midpoint(y0, y1)) / ((y1 - y0) / 2.0);
                        self.sharpness * (1.0 - x * x - y * y)
                    }));
                }
            }
            let count = prompts.count;
            Ok(LowResMasks {
                logits: HostTensor::new(vec![count, masks, SIDE, SIDE], logits)?,
                iou: HostTensor::new(vec![count, masks], vec![self.iou; count * masks])?,
            })
        }
    }

    /// Sees nothing.
    struct Blind;
    impl Engine for Blind {
        fn model(&self) -> &'static str {
            "blind"
        }

        fn preprocess(&self) -> Preprocess {
            Drawing { sharpness: 1.0, iou: 0.0 }.preprocess()
        }

        fn mask_side(&self) -> usize {
            SIDE
        }

        fn encode(&self, pixels: HostTensor) -> Result<Embedding, SamError> {
            Drawing { sharpness: 1.0, iou: 0.0 }.encode(pixels)
        }

        fn decode(
            &self,
            _: &Embedding,
            prompts: &PromptBatch,
            mode: DecodeMode,
        ) -> Result<LowResMasks, SamError> {
            let (count, masks) = (prompts.count, if mode.multimask { 3 } else { 1 });
            Ok(LowResMasks {
                logits: HostTensor::new(
                    vec![count, masks, SIDE, SIDE],
                    vec![-9.0; count * masks * SIDE * SIDE],
                )?,
                iou: HostTensor::new(vec![count, masks], vec![0.0; count * masks])?,
            })
        }
    }

    fn picture(width: u32, height: u32) -> Image {
        let pixels = (0..width * height * 3).map(|i| (i * 7 % 251) as u8).collect();
        Image::from_raw(width, height, pixels).unwrap()
    }

    #[test]
    fn the_unsure_model_is_more_doubtful() {
        let options = AskOptions { points_per_side: 3, ..AskOptions::default() };
        let image = picture(60, 40);
        let said =
            |sharpness, iou, what: &Ask| ask(&Drawing { sharpness, iou }, &image, what, &options).unwrap();
        for what in [Ask::Everything, Ask::Boxes(vec![BBox::new(10.0, 5.0, 40.0, 30.0)])] {
            let (sure, unsure) = (said(20.0, 0.9, &what), said(0.5, 0.4, &what));
            for measure in [Measure::PredictedIou, Measure::Stability, Measure::Entropy, Measure::Margin] {
                let (low, high) = (sure.doubts.get(measure), unsure.doubts.get(measure));
                assert!(low < high && low >= 0.0 && high <= measure.most(), "{measure:?}: {low}, {high}");
            }
            // Its masks follow the boxes, so they differ as the boxes do, in a picture as any other.
            let jitter = sure.doubts.get(Measure::Jitter);
            assert!(jitter > 0.02 && jitter < 0.4, "{jitter}");
            assert!(sure.doubts.get(Measure::Bald) > unsure.doubts.get(Measure::Bald));
            assert_eq!(said(20.0, 0.9, &what).doubts, sure.doubts, "the same again");
        }
        let everything = said(20.0, 0.9, &Ask::Everything);
        assert_eq!(everything.objects.len(), 8, "nine discs apart, eight at most");
        let boxed = said(20.0, 0.9, &Ask::Boxes(vec![BBox::new(10.0, 5.0, 40.0, 30.0)]));
        let [object] = &boxed.objects[..] else { panic!("one box, {} objects", boxed.objects.len()) };
        assert!((object.record.predicted_iou - 0.9).abs() < 1e-6);
        let area = std::f64::consts::PI / 4.0 * 30.0 * 25.0;
        assert!((object.record.area as f64 / area - 1.0).abs() < 0.05, "{}", object.record.area);
        let length: f32 = boxed.feature.iter().map(|v| v * v).sum();
        assert!(boxed.feature.len() == 2 && (length - 1.0).abs() < 1e-6);
    }

    #[test]
    fn nothing_found_is_the_most_doubtful() {
        let options = AskOptions::default();
        let nothing =
            ask(&Drawing { sharpness: -1e-3, iou: 0.5 }, &picture(40, 40), &Ask::Boxes(vec![]), &options);
        let nothing = nothing.unwrap();
        assert_eq!((nothing.objects.len(), nothing.doubts), (0, Doubts::most()));
        // An empty answer to a box.
        let one = Ask::Boxes(vec![BBox::new(1.0, 1.0, 9.0, 9.0)]);
        let found = ask(&Blind, &picture(40, 30), &one, &options).unwrap();
        assert_eq!((found.objects.len(), found.doubts), (1, Doubts::most()));
        assert_eq!(ask(&Blind, &picture(40, 30), &Ask::Everything, &options).unwrap().objects.len(), 0);
    }

    #[test]
    fn moved_boxes_stay_in_the_picture() {
        let options = AskOptions { jitters: 40, ..AskOptions::default() };
        for bbox in [
            BBox::new(0.0, 0.0, 50.0, 30.0),
            BBox::new(49.0, 29.0, 50.0, 30.0),
            BBox::new(5.0, 5.0, 5.0, 5.0),
        ] {
            let prompts = moved(bbox, (50, 30), &options, 0);
            assert_eq!(prompts.len(), 40);
            for prompt in &prompts {
                prompt.check(50, 30, SIDE).unwrap();
            }
            assert_ne!(prompts[0], prompts[1]);
        }
        let tenth = moved(BBox::new(20.0, 10.0, 30.0, 20.0), (50, 30), &options, 0);
        let edges = tenth.iter().filter_map(|prompt| prompt.bbox).map(|b| b.x0);
        let (low, high) = edges.fold((f64::MAX, f64::MIN), |(low, high), x| (low.min(x), high.max(x)));
        assert!((19.0..19.3).contains(&low) && (20.7..=21.0).contains(&high), "{low} to {high}");
    }
}
