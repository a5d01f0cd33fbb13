//! The predictor: what reaches the engine, and that prompts in company get what each gets alone.

#![allow(clippy::unwrap_used, reason = "a test may fail anywhere")]

mod common;

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use common::{FRAME, MASK, PREPROCESS, Random, TINY, TINY_HQ, engine, picture};
use kirie_data::Image;
use kirie_sam::engine::{LowResMasks, PromptBatch};
use kirie_sam::predictor::{PROMPTS_PER_CALL, prepare};
use kirie_sam::prompt_encoder::TokenLabel::{self, BoxBottomRight, BoxTopLeft, Negative, Padding, Positive};
use kirie_sam::registry::Preprocess;
use kirie_sam::{
    DecodeMode, Embedding, Engine, HostTensor, Prediction, Predictor, Prompt, PromptProblem, SamError,
};

const SINGLE: DecodeMode = DecodeMode { multimask: false, hq_only: false };
const MULTI: DecodeMode = DecodeMode { multimask: true, hq_only: false };

/// Side of the fake engine's masks.
const SIDE: usize = 8;

/// Keeps what it is asked; every mask it answers is filled with the prompt's first number.
#[derive(Default)]
struct Fake {
    encoded: AtomicUsize,
    calls: Mutex<Vec<PromptBatch>>,
    /// Answers that it forgets in every call.
    forgets: usize,
    /// Added to every predicted IoU.
    offset: f32,
}

impl Fake {
    fn calls(&self) -> Vec<PromptBatch> {
        self.calls.lock().unwrap().clone()
    }
}

impl Engine for Fake {
    fn model(&self) -> &'static str {
        "fake"
    }

    fn preprocess(&self) -> Preprocess {
        Preprocess { size: 16, frame: 1024, ..PREPROCESS }
    }

    fn mask_side(&self) -> usize {
        SIDE
    }

    fn encode(&self, pixels: HostTensor) -> Result<Embedding, SamError> {
        assert_eq!(pixels.shape, [1, 3, 16, 16]);
        self.encoded.fetch_add(1, Ordering::Relaxed);
        Ok(Embedding { image: HostTensor::new(vec![1], vec![pixels.values[0]])?, hq_features: None })
    }

    fn decode(
        &self,
        _: &Embedding,
        prompts: &PromptBatch,
        mode: DecodeMode,
    ) -> Result<LowResMasks, SamError> {
        let masks = if mode.multimask { 3 } else { 1 };
        let count = prompts.count - self.forgets;
        let first = |i: usize| match (prompts.sparse.tokens, &prompts.masks) {
            (0, Some(masks)) => masks.values[i * SIDE * SIDE],
            (tokens, _) => prompts.sparse.coords[i * tokens][0],
        };
        let values = (0..count).flat_map(|i| vec![first(i); masks * SIDE * SIDE]).collect();
        let iou =
            (0..count).flat_map(|i| (0..masks).map(move |m| first(i) + m as f32 + self.offset)).collect();
        self.calls.lock().unwrap().push(prompts.clone());
        Ok(LowResMasks {
            logits: HostTensor::new(vec![count, masks, SIDE, SIDE], values)?,
            iou: HostTensor::new(vec![count, masks], iou)?,
        })
    }
}

/// Every kind of prompt, each several times and mixed up, in a picture of 40 x 25.
fn mixed(side: usize) -> Vec<Prompt> {
    let mut random = Random(3);
    let logits = |random: &mut Random| (0..side * side).map(|_| random.unit() as f32 * 8.0 - 4.0).collect();
    let mut prompts = Vec::new();
    for round in 0..3 {
        for kind in 0..8 {
            let mut prompt = Prompt::default();
            for _ in 0..[1, 2, 4, 0, 1, 0, 1, 0][kind] {
                let on_object = random.below(2) == 0;
                prompt = prompt.with_point(random.unit() * 40.0, random.unit() * 25.0, on_object);
            }
            if (3..=5).contains(&kind) {
                let (x, y) = (random.unit() * 20.0, random.unit() * 12.0);
                prompt.bbox = Prompt::bbox(x, y, x + 15.0, y + 11.0).bbox;
            }
            if kind >= 5 {
                prompt = prompt.with_mask(logits(&mut random));
            }
            // Not in the order of their kinds.
            prompts.insert((prompts.len() * 7 + round) % (prompts.len() + 1), prompt);
        }
    }
    prompts
}

fn largest_difference(a: &Prediction, b: &Prediction) -> f32 {
    assert_eq!((a.low_res.len(), a.iou.len()), (b.low_res.len(), b.iou.len()));
    let pairs = a.low_res.iter().flatten().chain(&a.iou).zip(b.low_res.iter().flatten().chain(&b.iou));
    pairs.fold(0.0, |largest, (a, b)| {
        assert!(a.is_finite() && b.is_finite());
        (a - b).abs().max(largest)
    })
}

#[test]
fn the_encoder_runs_once_per_picture() {
    let fake = Fake::default();
    let mut predictor = Predictor::new(&fake);
    predictor.set_image(&picture(40, 25)).unwrap();
    for _ in 0..3 {
        predictor.predict(&mixed(SIDE), MULTI).unwrap();
        predictor.records(&mixed(SIDE), &predictor.predict(&mixed(SIDE), SINGLE).unwrap()).unwrap();
    }
    assert_eq!(fake.encoded.load(Ordering::Relaxed), 1);

    // An encoded picture can be put aside and taken again.
    let first = predictor.image().unwrap().clone();
    predictor.set_image(&picture(10, 90)).unwrap();
    assert_eq!(fake.encoded.load(Ordering::Relaxed), 2);
    predictor.set_encoded(first);
    let prompts = [Prompt::point(39.0, 1.0)];
    let records = predictor.records(&prompts, &predictor.predict(&prompts, SINGLE).unwrap()).unwrap();
    assert_eq!((records[0].segmentation.width(), records[0].segmentation.height()), (40, 25));
    assert_eq!(fake.encoded.load(Ordering::Relaxed), 2);
}

#[test]
fn an_encoded_picture_gives_the_same_answers() {
    let engine = engine(&TINY);
    let mut predictor = Predictor::new(&engine);
    predictor.set_image(&picture(40, 25)).unwrap();
    let expected = predictor.predict(&mixed(MASK), MULTI).unwrap();
    let kept = predictor.image().unwrap().clone();
    let mut other = Predictor::new(&engine);
    other.set_encoded(kept);
    for (found, expected) in other.predict(&mixed(MASK), MULTI).unwrap().iter().zip(&expected) {
        assert_eq!(largest_difference(found, expected), 0.0);
    }
}

/// In one call, in any mode, with and without HQ-SAM's branch.
#[test]
fn prompts_in_company_get_what_each_gets_alone() {
    for variant in [&TINY, &TINY_HQ] {
        let engine = engine(variant);
        let mut predictor = Predictor::new(&engine);
        predictor.set_image(&picture(40, 25)).unwrap();
        let prompts = mixed(MASK);
        for mode in [SINGLE, MULTI, DecodeMode { multimask: true, hq_only: true }] {
            let together = predictor.predict(&prompts, mode).unwrap();
            assert_eq!(together.len(), prompts.len());
            let masks = if mode.multimask && !variant.is_hq() { 3 } else { 1 };
            let mut largest = 0.0_f32;
            for (prompt, together) in prompts.iter().zip(&together) {
                assert_eq!(together.low_res.len(), masks);
                assert!(together.low_res.iter().all(|m| m.len() == MASK * MASK));
                let alone = predictor.predict(std::slice::from_ref(prompt), mode).unwrap();
                largest = largest.max(largest_difference(together, &alone[0]));
            }
            println!("{}: {largest:e}", variant.name);
            // Many prompts on one picture share what they can, which rounds otherwise.
            assert!(largest < 1e-5, "{}: {largest:e}", variant.name);
            // They are answers to different questions.
            let differing = together[1..].iter().filter(|t| largest_difference(t, &together[0]) > 1e-4);
            assert_eq!(differing.count(), prompts.len() - 1);
        }
    }
}

#[test]
fn calls_are_bounded_and_answers_keep_their_order() {
    let fake = Fake::default();
    let mut predictor = Predictor::new(&fake);
    predictor.set_image(&picture(1000, 1024)).unwrap();
    let count = 3 * PROMPTS_PER_CALL + 5;
    // One kind with many members, another with few between them.
    let prompts: Vec<Prompt> = (0..count)
        .map(|i| {
            let prompt = Prompt::point(i as f64, 0.0);
            if i % 10 == 3 { prompt.with_point(500.0, 500.0, false) } else { prompt }
        })
        .collect();
    let answers = predictor.predict(&prompts, MULTI).unwrap();
    assert_eq!(answers.len(), count);
    for (i, answer) in answers.iter().enumerate() {
        assert_eq!(answer.iou, [i as f32, i as f32 + 1.0, i as f32 + 2.0]);
        assert_eq!(answer.low_res, vec![vec![i as f32; SIDE * SIDE]; 3]);
        assert_eq!(answer.best(), 2);
    }
    let mut sizes: Vec<(usize, usize)> = fake.calls().iter().map(|c| (c.sparse.tokens, c.count)).collect();
    sizes.sort_unstable();
    assert_eq!(sizes, [(2, 49), (2, 64), (2, 64), (3, 20)]);
}

#[test]
fn tokens_are_the_references() {
    let fake = Fake::default();
    let mut predictor = Predictor::new(&fake);
    // 640x427 becomes 1024x683 in the frame: x * 1.6, y * 683 / 427.
    predictor.set_image(&picture(640, 427)).unwrap();
    let tokens = |prompt: Prompt| -> Vec<([f32; 2], TokenLabel)> {
        predictor.predict(&[prompt], SINGLE).unwrap();
        let call = fake.calls().pop().unwrap();
        assert_eq!((call.count, call.sparse.tokens), (1, call.sparse.labels.len()));
        assert_eq!(call.sparse.coords.len(), call.sparse.labels.len());
        call.sparse.coords.into_iter().zip(call.sparse.labels).collect()
    };
    let padding = ([0.0, 0.0], Padding);
    assert_eq!(tokens(Prompt::point(320.0, 213.5)), [([512.0, 341.5], Positive), padding]);
    assert_eq!(
        tokens(Prompt::point(100.25, 50.0).with_point(640.0, 427.0, false)),
        [([160.4, 79.97658], Positive), ([1024.0, 683.0], Negative), padding]
    );
    let corners = [([16.0, 31.990633], BoxTopLeft), ([160.0, 79.97658], BoxBottomRight)];
    assert_eq!(tokens(Prompt::bbox(10.0, 20.0, 100.0, 50.0)), corners);
    // Corners after the points, and no padding.
    assert_eq!(
        tokens(Prompt::bbox(10.0, 20.0, 100.0, 50.0).with_point(5.0, 0.0, false)),
        [([8.0, 0.0], Negative), corners[0], corners[1]]
    );
    let mask = vec![1.5; SIDE * SIDE];
    assert_eq!(tokens(Prompt::default().with_mask(mask.clone())), []);
    assert_eq!(tokens(Prompt::point(5.0, 0.0).with_mask(mask.clone())), [([8.0, 0.0], Positive), padding]);
    // A box may reach beyond the picture.
    assert_eq!(
        tokens(Prompt::bbox(-5.0, 0.0, 700.0, 427.0)),
        [([-8.0, 0.0], BoxTopLeft), ([1120.0, 683.0], BoxBottomRight)]
    );
}

#[test]
fn mask_inputs_stay_with_their_prompts() {
    let fake = Fake::default();
    let mut predictor = Predictor::new(&fake);
    predictor.set_image(&picture(64, 64)).unwrap();
    let with_mask = |value: f32| Prompt::point(3.0, 0.0).with_mask(vec![value; SIDE * SIDE]);
    let prompts = [with_mask(1.0), Prompt::point(9.0, 9.0), with_mask(2.0)];
    predictor.predict(&prompts, SINGLE).unwrap();
    let calls = fake.calls();
    let [without, with] = calls.as_slice() else { panic!("{} calls", calls.len()) };
    assert!(without.masks.is_none() && without.count == 1);
    let masks = with.masks.as_ref().unwrap();
    assert_eq!(masks.shape, [2, 1, SIDE, SIDE]);
    assert_eq!(masks.values, [vec![1.0; SIDE * SIDE], vec![2.0; SIDE * SIDE]].concat());
}

#[test]
fn masks_have_the_pictures_size() {
    let engine = engine(&TINY);
    let mut predictor = Predictor::new(&engine);
    for (width, height) in
        [(1, 1), (1, 7), (7, 1), (1, 3000), (3000, 1), (2, 1999), (31, 97), (64, 64), (65, 63), (640, 427)]
    {
        predictor.set_image(&picture(width, height)).unwrap();
        let size = (width as usize, height as usize);
        let upscaler = predictor.upscaler().unwrap();
        assert_eq!((upscaler.width(), upscaler.height()), size);
        let (x, y) = (f64::from(width), f64::from(height));
        let prompts = [Prompt::point(x / 2.0, y / 2.0), Prompt::point(x, y), Prompt::bbox(0.0, 0.0, x, y)];
        let answers = predictor.predict(&prompts, MULTI).unwrap();
        let records = predictor.records(&prompts, &answers).unwrap();
        assert_eq!(records.len(), 3 * prompts.len());
        for (i, record) in records.iter().enumerate() {
            let (prompt, answer) = (&prompts[i / 3], &answers[i / 3]);
            assert_eq!((record.segmentation.width(), record.segmentation.height()), size);
            assert_eq!(record.predicted_iou, f64::from(answer.iou[i % 3]));
            assert_eq!(record.point_coords.len(), prompt.points.len());
            assert_eq!(record.crop_box, [0.0, 0.0, x, y]);
            let logits = upscaler.logits(&answer.low_res[i % 3]);
            let above = |t: f32| logits.iter().filter(|v| **v > t).count() as f64;
            assert_eq!(record.area as f64, above(0.0));
            let stability = above(1.0) / above(-1.0);
            assert!(record.stability_score == stability || stability.is_nan(), "{width}x{height}");
        }
    }
}

#[test]
fn no_picture_is_an_error() {
    let fake = Fake::default();
    let mut predictor = Predictor::new(&fake);
    let is_missing = |predictor: &Predictor| {
        matches!(predictor.predict(&[Prompt::point(1.0, 1.0)], SINGLE), Err(SamError::NoImage))
            && matches!(predictor.records(&[], &[]), Err(SamError::NoImage))
            && matches!(predictor.upscaler(), Err(SamError::NoImage))
            && matches!(predictor.image(), Err(SamError::NoImage))
    };
    assert!(is_missing(&predictor));
    predictor.set_image(&picture(5, 5)).unwrap();
    assert!(!is_missing(&predictor));
    predictor.reset();
    assert!(is_missing(&predictor));
}

/// All prompts are checked before any is answered.
type IsProblem = fn(&PromptProblem) -> bool;

#[test]
fn bad_prompts_are_named_and_nothing_is_decoded() {
    let fake = Fake::default();
    let mut predictor = Predictor::new(&fake);
    predictor.set_image(&picture(40, 25)).unwrap();
    let cases: [(Prompt, IsProblem); 8] = [
        (Prompt::default(), |p| *p == PromptProblem::Empty),
        (Prompt::point(40.5, 3.0), |p| matches!(p, PromptProblem::PointOutside { .. })),
        (Prompt::point(-0.1, 3.0), |p| matches!(p, PromptProblem::PointOutside { .. })),
        (Prompt::point(3.0, f64::NAN), |p| matches!(p, PromptProblem::NotFinite { .. })),
        (Prompt::bbox(5.0, 9.0, 7.0, 8.0), |p| matches!(p, PromptProblem::BoxUpsideDown { .. })),
        (Prompt::bbox(41.0, 1.0, 50.0, 8.0), |p| matches!(p, PromptProblem::BoxOutside { .. })),
        (Prompt::default().with_mask(vec![0.0; SIDE * SIDE + 1]), |p| {
            *p == PromptProblem::MaskSize { found: 65, side: SIDE }
        }),
        (Prompt::default().with_mask(vec![f32::INFINITY; SIDE * SIDE]), |p| {
            *p == PromptProblem::MaskNotFinite
        }),
    ];
    for (bad, is_expected) in cases {
        let good = Prompt::point(1.0, 1.0);
        let error = predictor.predict(&[good.clone(), good.clone(), bad, good], SINGLE).unwrap_err();
        assert!(error.to_string().starts_with("prompt 2: "), "{error}");
        let SamError::Prompt { index: 2, problem } = error else { panic!("{error}") };
        assert!(is_expected(&problem), "{problem}");
    }
    assert!(fake.calls().is_empty());
    assert!(predictor.predict(&[], SINGLE).unwrap().is_empty());
}

#[test]
fn tensors_of_the_wrong_shape_are_errors() {
    let engine = engine(&TINY);
    let pixels = HostTensor::new(vec![1, 3, 16, 16], vec![0.0; 3 * 16 * 16]).unwrap();
    assert!(matches!(engine.encode(pixels), Err(SamError::Shape { what: "picture", .. })));
    for shape in [vec![1, 16, 8, 8], vec![16], vec![1, 7, 4, 4], vec![2, 16, 4, 4]] {
        let image = HostTensor::new(shape.clone(), vec![0.0; shape.iter().product()]).unwrap();
        let embedding = Embedding { image, hq_features: None };
        let error = engine.decode(&embedding, &PromptBatch::default(), SINGLE).unwrap_err();
        assert!(matches!(error, SamError::Shape { what: "embedding", .. }), "{error}");
    }
    let zeros =
        |shape: [usize; 4]| HostTensor::new(shape.to_vec(), vec![0.0; shape.iter().product()]).unwrap();
    let prompts = PromptBatch { count: 2, masks: Some(zeros([1, 1, MASK, MASK])), ..PromptBatch::default() };
    let mut embedding = Embedding { image: zeros([1, 16, 4, 4]), hq_features: None };
    let error = engine.decode(&embedding, &prompts, SINGLE).unwrap_err();
    assert!(matches!(error, SamError::Shape { what: "mask inputs", .. }), "{error}");
    embedding.hq_features = Some(zeros([1, 2, MASK, 1]));
    let error = engine.decode(&embedding, &PromptBatch::default(), SINGLE).unwrap_err();
    assert!(matches!(error, SamError::Shape { what: "detail features", .. }), "{error}");
    assert!(HostTensor::new(vec![2, 3], vec![0.0; 5]).is_err());
}

#[test]
fn an_engine_that_forgets_prompts_is_found_out() {
    let fake = Fake { forgets: 1, ..Fake::default() };
    let mut predictor = Predictor::new(&fake);
    predictor.set_image(&picture(40, 25)).unwrap();
    let prompts = [Prompt::point(1.0, 1.0), Prompt::point(2.0, 2.0)];
    assert!(matches!(predictor.predict(&prompts, SINGLE), Err(SamError::Engine(_))));
}

#[test]
fn an_answer_that_is_no_number_is_an_error() {
    let fake = Fake { offset: f32::NAN, ..Fake::default() };
    let mut predictor = Predictor::new(&fake);
    predictor.set_image(&picture(40, 25)).unwrap();
    assert!(matches!(predictor.predict(&[Prompt::point(1.0, 1.0)], SINGLE), Err(SamError::Engine(_))));
}

#[test]
fn the_best_mask_is_the_first_of_the_highest() {
    let best = |iou: &[f32]| Prediction { low_res: Vec::new(), iou: iou.to_vec(), window: None }.best();
    assert_eq!(best(&[0.5]), 0);
    assert_eq!(best(&[0.2, 0.9, 0.9]), 1);
    assert_eq!(best(&[-3.0, -1.0, -2.0]), 1);
    let mut answer =
        Prediction { low_res: vec![vec![1.0], vec![2.0], vec![3.0]], iou: vec![0.2, 0.9, 0.4], window: None };
    answer.keep_best();
    assert_eq!((answer.low_res, answer.iou), (vec![vec![2.0]], vec![0.9]));
}

const SIMPLE: Preprocess = Preprocess { size: 4, frame: 8, mean: [10.0, 20.0, 30.0], std: [2.0, 4.0, 5.0] };

#[test]
fn pixels_are_normalised_then_padded_with_zeros() {
    // Two rows of four: no resizing.
    let pixels = (0..8).flat_map(|i| [10 + 2 * i, 20 + 4 * i, 30 + 5 * i]).collect();
    let found = prepare(&Image::from_raw(4, 2, pixels).unwrap(), &SIMPLE).unwrap();
    assert_eq!(found.shape, [1, 3, 4, 4]);
    let plane = [vec![0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0], vec![0.0; 8]].concat();
    assert_eq!(found.values, [plane.clone(), plane.clone(), plane].concat());

    // A single pixel fills the square; the channels keep their order.
    let found = prepare(&Image::from_raw(1, 1, vec![12, 28, 45]).unwrap(), &SIMPLE).unwrap();
    assert_eq!(found.values, [vec![1.0; 16], vec![2.0; 16], vec![3.0; 16]].concat());
}

#[test]
fn pictures_are_resized_as_pillow_does() {
    let gray = |width, height, values: &[u8]| {
        let pixels = values.iter().flat_map(|v| [*v; 3]).collect();
        Image::from_raw(width, height, pixels).unwrap()
    };
    let plain = |size| Preprocess { size, frame: FRAME, mean: [0.0; 3], std: [1.0; 3] };
    // Enlarged: weights 1, then 3/4 and 1/4.
    let found = prepare(&gray(2, 1, &[0, 100]), &plain(4)).unwrap();
    let row = [0.0, 25.0, 75.0, 100.0];
    assert_eq!(found.values[..16], [row, row, [0.0; 4], [0.0; 4]].concat());
    // Reduced, with the values of Pillow; padded on the right.
    let values: Vec<u8> = (0..20).map(|i| 13 * i).collect();
    let found = prepare(&gray(4, 5, &values), &plain(3)).unwrap();
    assert_eq!(found.values[..9], [31.0, 52.0, 0.0, 113.0, 134.0, 0.0, 195.0, 216.0, 0.0]);
    // The short side of an extreme shape is at least one pixel.
    let found = prepare(&gray(1, 3000, &[7; 3000]), &plain(8)).unwrap();
    assert_eq!(found.values[..64].iter().filter(|v| **v == 7.0).count(), 8);
}

/// A box is answered as it would be on the window cut out by hand, and its mask lies at the window's place.
#[test]
fn a_closer_look_is_the_answer_on_the_window() {
    let engine = engine(&TINY);
    let image = picture(400, 240);
    let mut predictor = Predictor::new(&engine).with_zoom(Some(1.6));
    predictor.set_image(&image).unwrap();
    let prompts =
        [Prompt::bbox(300.0, 100.0, 340.0, 130.0).with_point(310.0, 110.0, true), Prompt::point(50.0, 60.0)];
    let answers = predictor.predict(&prompts, SINGLE).unwrap();
    // 1.6 times 40 pixels around the middle (320, 115)
    let window = kirie_sam::Window { x: 288, y: 83, width: 64, height: 64 };
    assert_eq!([answers[0].window, answers[1].window], [Some(window), None]);

    let mut by_hand = Predictor::new(&engine);
    by_hand.set_image(&image.crop(288, 83, 64, 64).unwrap()).unwrap();
    let inside = [Prompt::bbox(12.0, 17.0, 52.0, 47.0).with_point(22.0, 27.0, true)];
    let expected = by_hand.predict(&inside, SINGLE).unwrap();
    assert_eq!((&answers[0].low_res, &answers[0].iou), (&expected[0].low_res, &expected[0].iou));

    let records = predictor.records(&prompts, &answers).unwrap();
    let cut = by_hand.records(&inside, &expected).unwrap();
    assert_eq!(records[0].crop_box, [288.0, 83.0, 64.0, 64.0]);
    assert_eq!(records[0].segmentation, cut[0].segmentation.paste(288, 83, 400, 240).unwrap());
    assert_eq!(records[1].crop_box, [0.0, 0.0, 400.0, 240.0]);
}

/// A service keeps predictors: they share their engine, and an embedding kept from before spares the encoder's run.
#[test]
fn a_shared_engine_and_a_kept_embedding_answer_the_same() {
    let engine: std::sync::Arc<dyn Engine> = std::sync::Arc::new(engine(&TINY));
    let image = picture(400, 240);
    let prompts = [Prompt::point(50.0, 60.0), Prompt::bbox(300.0, 100.0, 340.0, 130.0)];
    let mut first: Predictor<'static> = Predictor::new(std::sync::Arc::clone(&engine)).with_zoom(Some(1.6));
    first.set_image(&image).unwrap();
    let expected = first.predict(&prompts, SINGLE).unwrap();

    let mut second = Predictor::new(&*engine);
    second.set_image_encoded(image, first.image().unwrap().clone()).unwrap();
    let found = std::thread::scope(|scope| {
        scope.spawn(|| second.predict_zoomed(&prompts, SINGLE, Some(1.6)).unwrap()).join().unwrap()
    });
    for (found, expected) in found.iter().zip(&expected) {
        assert_eq!((&found.low_res, found.window), (&expected.low_res, expected.window));
    }
    assert!(second.predict(&prompts, SINGLE).unwrap().iter().all(|answer| answer.window.is_none()));
    assert!(second.set_image_encoded(picture(10, 10), first.image().unwrap().clone()).is_err());
}

#[test]
fn the_whole_picture_is_encoded_only_where_it_is_needed() {
    let fake = Fake::default();
    let mut predictor = Predictor::new(&fake).with_zoom(Some(1.5));
    predictor.set_image(&picture(400, 240)).unwrap();
    let encoded = || fake.encoded.load(Ordering::Relaxed);
    assert_eq!(encoded(), 0);
    let small = Prompt::bbox(10.0, 10.0, 60.0, 60.0);
    predictor.predict(&[small.clone(), small.clone()], SINGLE).unwrap();
    assert_eq!(encoded(), 2, "two windows");
    // Nearly the whole picture; a mask input, which is of the whole picture; both from one look.
    let large = Prompt::bbox(5.0, 5.0, 390.0, 230.0);
    let fed = small.clone().with_mask(vec![1.0; SIDE * SIDE]);
    let answers = predictor.predict(&[large, fed, small], SINGLE).unwrap();
    assert_eq!(answers.iter().map(|a| a.window.is_some()).collect::<Vec<_>>(), [false, false, true]);
    assert_eq!(encoded(), 4);
}

/// Wherever the box lies, in part beyond the picture too, its window lies in the picture and holds what of it can be seen.
#[test]
fn windows_hold_their_boxes() {
    let engine = engine(&TINY);
    let mut random = Random(11);
    for _ in 0..300 {
        let (width, height) = (20 + random.below(200), 20 + random.below(200));
        let (w, h) = (width as f64, height as f64);
        let (x0, y0) = (random.unit() * w * 1.2 - 0.3 * w, random.unit() * h * 1.2 - 0.3 * h);
        let (x1, y1) = (x0 + 0.5 + random.unit() * w * 0.4, y0 + 0.5 + random.unit() * h * 0.4);
        let prompt = Prompt::bbox(x0, y0, x1, y1);
        if prompt.check(width as u32, height as u32, MASK).is_err() {
            continue;
        }
        let mut predictor = Predictor::new(&engine).with_zoom(Some(1.3));
        predictor.set_image(&picture(width as u32, height as u32)).unwrap();
        let answer = predictor.predict(&[prompt], SINGLE).unwrap().remove(0);
        let mask = predictor.masks_of(&answer).unwrap().mask(&answer.low_res[0]).unwrap();
        assert_eq!((mask.width(), mask.height()), (width, height));
        if let Some(window) = answer.window {
            let (right, bottom) = (window.x + window.width, window.y + window.height);
            assert!(right <= width as u32 && bottom <= height as u32, "{window:?}");
            assert!(f64::from(window.x) <= x0.max(0.0) + 1.0 && f64::from(right) >= x1.min(w) - 1.0);
            assert!(f64::from(window.y) <= y0.max(0.0) + 1.0 && f64::from(bottom) >= y1.min(h) - 1.0);
        }
    }
}
