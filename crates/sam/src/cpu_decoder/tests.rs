//! Against the same decoder run by Burn.

use burn::tensor::{Device, Distribution, Tensor};

use super::*;
use crate::mask_decoder::{DecodeMode, MaskDecoderConfig};
use crate::transformer::TwoWayTransformerConfig;

const DIM: usize = 32;

fn decoder(side: usize, device: &Device) -> (MaskDecoder, Tensor<4>) {
    device.seed(7);
    let config = MaskDecoderConfig {
        transformer: TwoWayTransformerConfig {
            depth: 2,
            dim: DIM,
            heads: 4,
            mlp_dim: 48,
            attention_downsample: 2,
            norm_epsilon: 1e-5,
        },
        multimask_outputs: 3,
        iou_head_depth: 3,
        iou_head_hidden: 16,
        hq_early_channels: None,
        prompt_fusion: None,
    };
    (config.init(device), normal([1, DIM, side, side], device))
}

fn normal<const D: usize>(shape: [usize; D], device: &Device) -> Tensor<D> {
    Tensor::random(shape, Distribution::Normal(0.0, 1.0), device)
}

fn numbers<const D: usize>(tensor: &Tensor<D>) -> Vec<f32> {
    HostTensor::from_burn(tensor.clone()).unwrap().values
}

fn close(what: &str, found: &[f32], wanted: &[f32]) {
    assert_eq!(found.len(), wanted.len(), "{what}");
    let size = wanted.iter().fold(0f32, |m, w| m.max(w.abs()));
    for (i, (f, w)) in found.iter().zip(wanted).enumerate() {
        assert!((f - w).abs() <= 2e-5 * size.max(1.0), "{what}: {f} for {w} at {i}, the largest is {size}");
    }
}

/// Sides of one piece, of several, of several with a shorter last one, and of rows longer than a strip.
#[test]
fn answers_are_those_of_burn() {
    let device = Device::flex();
    for (side, prompts, tokens) in [(6, 3, 2), (32, 2, 1), (36, 2, 5), (140, 1, 2)] {
        let (decoder, positions) = decoder(side, &device);
        let own = CpuDecoder::new(&decoder, &positions).unwrap().unwrap();
        let sparse = normal([prompts, tokens, DIM], &device);
        for pictures in [1, prompts] {
            let image = normal([pictures, DIM, side, side], &device);
            for multimask in [false, true] {
                let mode = DecodeMode { multimask, hq_only: false };
                let wanted =
                    decoder.forward(image.clone(), positions.clone(), Some(sparse.clone()), None, mode);
                let (image, sparse) = (numbers(&image), numbers(&sparse));
                let pictures = if pictures == 1 { Pictures::One(&image) } else { Pictures::Each(&image) };
                let question = Question { prompts, tokens: &sparse, multimask, above: None };
                for (road, group) in
                    [(Road::Own, 1), (Road::Own, 100), (Road::Shared, 2), (Road::Shared, 100)]
                {
                    let found = own.answer_by(road, group, pictures, &question);
                    let what = format!("{road:?}, {side}, {prompts} prompts of {tokens}");
                    close(&format!("quality, {what}"), &found.iou, &numbers(&wanted.iou));
                    close(&format!("logits, {what}"), &found.logits, &numbers(&wanted.masks));
                }
            }
        }
    }
}

#[test]
fn prompts_that_are_a_mask_alone_have_no_tokens() {
    let device = Device::flex();
    let (decoder, positions) = decoder(6, &device);
    let image = normal([2, DIM, 6, 6], &device);
    let wanted = decoder.forward(image.clone(), positions.clone(), None, None, DecodeMode::default());
    let own = CpuDecoder::new(&decoder, &positions).unwrap().unwrap();
    let question = Question { prompts: 2, tokens: &[], multimask: false, above: None };
    let found = own.answer(Pictures::Each(&numbers(&image)), &question);
    close("logits", &found.logits, &numbers(&wanted.masks));
}

#[test]
fn masks_that_are_not_good_enough_are_not_drawn() {
    let device = Device::flex();
    let (decoder, positions) = decoder(6, &device);
    let own = CpuDecoder::new(&decoder, &positions).unwrap().unwrap();
    let (image, sparse) = (numbers(&normal([1, DIM, 6, 6], &device)), numbers(&normal([5, 2, DIM], &device)));
    let mut question = Question { prompts: 5, tokens: &sparse, multimask: true, above: None };
    let all = own.answer(Pictures::One(&image), &question);
    let mut ordered = all.iou.clone();
    ordered.sort_by(f32::total_cmp);
    let above = ordered[7];
    question.above = Some(above);
    let some = own.answer(Pictures::One(&image), &question);
    assert_eq!(some.iou, all.iou);
    let pixels = 24 * 24;
    let mut drawn = 0;
    for (i, iou) in all.iou.iter().enumerate() {
        let [some, all] = [&some, &all].map(|answer| &answer.logits[i * pixels..][..pixels]);
        if *iou > above {
            assert_eq!(some, all);
            drawn += 1;
        } else {
            assert!(some.iter().all(|x| *x == 0.0));
        }
    }
    assert_eq!(drawn, 7);
}

#[test]
fn no_prompts_no_answers() {
    let device = Device::flex();
    let (decoder, positions) = decoder(6, &device);
    let own = CpuDecoder::new(&decoder, &positions).unwrap().unwrap();
    let question = Question { prompts: 0, tokens: &[], multimask: true, above: None };
    let answer = own.answer(Pictures::Each(&[]), &question);
    assert!(answer.logits.is_empty() && answer.iou.is_empty());
}
