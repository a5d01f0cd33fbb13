//! A model of the family, with an engine whose logits are known.

use kirie_sam::engine::{LowResMasks, PromptBatch};
use kirie_sam::registry::{self, Preprocess};
use kirie_sam::{DecodeMode, Embedding, Engine, HostTensor, SamError};

use super::drawn::{Set, disc, object};
use super::*;

/// Discs around the first point: of the three the second fits best, and the model says so.
struct Discs;

const SIDE: usize = 64;

impl Engine for Discs {
    fn model(&self) -> &'static str {
        "discs"
    }

    fn preprocess(&self) -> Preprocess {
        let published = registry::variant("efficientvit-sam-l0").unwrap().preprocess;
        Preprocess { size: 32, frame: 256, ..published }
    }

    fn mask_side(&self) -> usize {
        SIDE
    }

    fn encode(&self, pixels: HostTensor) -> Result<Embedding, SamError> {
        assert_eq!(pixels.shape, [1, 3, 32, 32]);
        Ok(Embedding { image: pixels, hq_features: None })
    }

    fn decode(
        &self,
        _: &Embedding,
        prompts: &PromptBatch,
        mode: DecodeMode,
    ) -> Result<LowResMasks, SamError> {
        let radii: &[f64] = if mode.multimask { &[2.0, 8.0, 20.0] } else { &[12.0] };
        let iou: &[f32] = if mode.multimask { &[0.3, 0.9, 0.6] } else { &[0.7] };
        let mut logits = Vec::new();
        for prompt in 0..prompts.count {
            let [x, y] = prompts.sparse.coords[prompt * prompts.sparse.tokens].map(|v| f64::from(v) / 4.0);
            for radius in radii {
                logits.extend((0..SIDE * SIDE).map(|i| {
                    let (u, v) = ((i % SIDE) as f64 + 0.5, (i / SIDE) as f64 + 0.5);
                    (radius - (u - x).hypot(v - y)) as f32
                }));
            }
        }
        Ok(LowResMasks {
            logits: HostTensor::new(vec![prompts.count, radii.len(), SIDE, SIDE], logits)?,
            iou: HostTensor::new(vec![prompts.count, iou.len()], iou.repeat(prompts.count))?,
        })
    }
}

#[test]
fn of_three_masks_the_one_rated_highest() {
    // The frame of 256 is the picture's own size, so that a cell of the masks is 4 pixels.
    let object_at = |x, y| object(&disc((256, 256), (x, y), 32.0));
    let set = Set::new(&[(256, 256, vec![object_at(100.0, 120.0), object_at(180.0, 60.0)])]);
    let options = PromptedOptions { prompts: vec![PromptKind::Points(1)], ..PromptedOptions::default() };
    let run = |choice| {
        let mut model = SamModel::new(&Discs, choice);
        prompted(&set.dataset, &set.samples(), &mut model, &options, &mut |_| {}).unwrap().remove(0)
    };
    let best = run(MaskChoice::BestOfThree);
    assert!(best.summary.figures.miou > Some(0.95), "{:?}", best.summary);
    assert_eq!(best.objects[0].predicted_iou, Some(0.9));
    let single = run(MaskChoice::Single);
    let expected = (32.0_f64 / 48.0).powi(2);
    assert!((single.summary.figures.miou.unwrap() - expected).abs() < 0.02);
    assert_eq!((single.objects[1].predicted_iou, single.summary.model.as_str()), (Some(0.7), "discs"));
}
