//! The terms against their definitions in double precision, and gradients against finite differences.

use super::*;

const CLASSES: usize = 3;
const SIZE: [usize; 2] = [5, 4];
const BATCH: usize = 2;
const PIXELS: usize = 20;

fn values(count: usize, seed: usize) -> Vec<f32> {
    (0..count).map(|i| ((i * 7919 + seed * 104729) % 1000) as f32 / 250.0 - 2.0).collect()
}

/// Some pixels of each class but the last, some ignored.
fn labels() -> Vec<u8> {
    (0..BATCH * PIXELS).map(|i| if i % 7 == 3 { LabelMap::IGNORE } else { (i * i % 5 % 2) as u8 }).collect()
}

fn config(cross_entropy: f64, dice: f64, focal: f64) -> LossConfig {
    LossConfig { cross_entropy, dice, focal, gamma: 2.0, class_weights: ClassWeights::default() }
}

fn tensor(values: &[f32], size: [usize; 2], device: &Device) -> Tensor<4> {
    Tensor::from_data(TensorData::new(values.to_vec(), [BATCH, CLASSES, size[0], size[1]]), device)
}

/// The loss as its definition has it, of logits of the labels' size.
fn definition(logits: &[f64], labels: &[u8], config: &LossConfig, weights: [f64; CLASSES]) -> f64 {
    let p = |at: usize, class: usize| {
        let logit = |k: usize| logits[(at / PIXELS * CLASSES + k) * PIXELS + at % PIXELS];
        logit(class).exp() / (0..CLASSES).map(|k| logit(k).exp()).sum::<f64>()
    };
    let labelled: Vec<(usize, usize)> = labels
        .iter()
        .enumerate()
        .filter(|(_, label)| **label != LabelMap::IGNORE)
        .map(|(at, label)| (at, usize::from(*label)))
        .collect();
    let weight: f64 = labelled.iter().map(|(_, y)| weights[*y]).sum();
    let mean = |of: &dyn Fn(f64) -> f64| {
        labelled.iter().map(|(at, y)| weights[*y] * of(p(*at, *y))).sum::<f64>() / weight.max(1e-300)
    };
    let present: Vec<usize> = (0..CLASSES).filter(|k| labelled.iter().any(|(_, y)| y == k)).collect();
    let dice = |k: usize| {
        let both: f64 = labelled.iter().filter(|(_, y)| *y == k).map(|(at, _)| p(*at, k)).sum();
        let found: f64 = labelled.iter().map(|(at, _)| p(*at, k)).sum();
        let truth = labelled.iter().filter(|(_, y)| *y == k).count() as f64;
        1.0 - (2.0 * both + 1.0) / (found + truth + 1.0)
    };
    let dice = present.iter().map(|k| dice(*k)).sum::<f64>() / present.len().max(1) as f64;
    config.cross_entropy * mean(&|p| -p.ln())
        + config.focal * mean(&|p| (1.0 - p).powf(config.gamma) * -p.ln())
        + config.dice * dice
}

fn loss(logits: Tensor<4>, config: &LossConfig, weights: Option<&[f32]>) -> f64 {
    let loss = segmentation_loss(logits, &labels(), SIZE, config, weights).unwrap();
    f64::from(loss.total.into_scalar::<f32>())
}

#[test]
fn terms_equal_their_definitions() {
    let device = Device::flex();
    let logits = values(BATCH * CLASSES * PIXELS, 1);
    let exact: Vec<f64> = logits.iter().map(|v| f64::from(*v)).collect();
    for (terms, weights) in [
        (config(1.0, 0.0, 0.0), None),
        (config(0.0, 1.0, 0.0), None),
        (config(0.0, 0.0, 1.0), None),
        (config(1.0, 0.0, 0.5), Some([0.2, 3.0, 1.0])),
        (config(0.7, 0.3, 0.1), Some([2.0, 0.5, 9.0])),
    ] {
        let found = loss(tensor(&logits, SIZE, &device), &terms, weights.as_ref().map(|w| &w[..]));
        let expected = definition(&exact, &labels(), &terms, weights.unwrap_or([1.0; 3]).map(f64::from));
        assert!((found - expected).abs() < 1e-5 * expected.max(1.0), "{terms:?}: {found} is not {expected}");
    }
    // Each exponent that is allowed.
    for gamma in [1.0, 1.5, 5.0] {
        let terms = LossConfig { gamma, ..config(0.0, 0.0, 1.0) };
        let found = loss(tensor(&logits, SIZE, &device), &terms, None);
        let expected = definition(&exact, &labels(), &terms, [1.0; 3]);
        assert!((found - expected).abs() < 1e-5, "gamma {gamma}: {found} is not {expected}");
    }
}

#[test]
fn logits_are_brought_to_the_labels_size() {
    let device = Device::flex();
    let low = tensor(&values(BATCH * CLASSES * 6, 2), [3, 2], &device);
    let high = resize(low.clone(), SIZE, Interpolation::Bilinear);
    let terms = config(1.0, 1.0, 0.0);
    assert!((loss(low, &terms, None) - loss(high, &terms, None)).abs() < 1e-6);
}

#[test]
fn gradients_equal_finite_differences() {
    let device = Device::flex().autodiff();
    let low = [3, 2];
    let start = values(BATCH * CLASSES * 6, 3);
    let weights = [0.5, 2.0, 1.0];
    let terms = config(0.7, 0.9, 0.4);
    let logits = tensor(&start, low, &device).require_grad();
    let loss_of = segmentation_loss(logits.clone(), &labels(), SIZE, &terms, Some(&weights)).unwrap();
    let gradients = loss_of.total.backward();
    let gradient = logits.grad(&gradients).unwrap().into_data().try_to_vec::<f32>().unwrap();
    let matrix = |input: usize, output: usize| Interpolation::Bilinear.matrix(input, output);
    let (rows, columns) = (matrix(low[0], SIZE[0]), matrix(low[1], SIZE[1]));
    let at = |values: &[f64]| {
        let mut high = vec![0.0; BATCH * CLASSES * PIXELS];
        for (plane, high) in high.chunks_exact_mut(PIXELS).enumerate() {
            for (pixel, high) in high.iter_mut().enumerate() {
                let (y, x) = (pixel / SIZE[1], pixel % SIZE[1]);
                for (i, low_value) in values[plane * 6..][..6].iter().enumerate() {
                    let weight = rows[y * low[0] + i / low[1]] * columns[x * low[1] + i % low[1]];
                    *high += f64::from(weight) * low_value;
                }
            }
        }
        definition(&high, &labels(), &terms, weights.map(f64::from))
    };
    let exact: Vec<f64> = start.iter().map(|v| f64::from(*v)).collect();
    for (i, found) in gradient.iter().enumerate() {
        let moved = |by: f64| {
            let mut values = exact.clone();
            values[i] += by;
            at(&values)
        };
        let expected = (moved(1e-5) - moved(-1e-5)) / 2e-5;
        assert!((f64::from(*found) - expected).abs() < 1e-5, "{i}: {found} is not {expected}");
    }
}

#[test]
fn a_batch_without_labels_is_no_loss_and_no_gradient() {
    let device = Device::flex().autodiff();
    let logits = tensor(&values(BATCH * CLASSES * PIXELS, 4), SIZE, &device).require_grad();
    let nothing = vec![LabelMap::IGNORE; BATCH * PIXELS];
    let loss = segmentation_loss(logits.clone(), &nothing, SIZE, &config(1.0, 1.0, 1.0), None).unwrap();
    let gradients = loss.total.clone().backward();
    assert_eq!(loss.total.into_scalar::<f32>(), 0.0);
    let gradient = logits.grad(&gradients).unwrap().into_data().try_to_vec::<f32>().unwrap();
    assert!(gradient.iter().all(|v| *v == 0.0));
}

#[test]
fn very_sure_logits_give_finite_numbers() {
    let device = Device::flex().autodiff();
    let sure: Vec<f32> = values(BATCH * CLASSES * PIXELS, 5).iter().map(|v| v * 500.0).collect();
    let logits = tensor(&sure, SIZE, &device).require_grad();
    let loss = segmentation_loss(logits.clone(), &labels(), SIZE, &config(1.0, 1.0, 1.0), None).unwrap();
    let gradients = loss.total.clone().backward();
    assert!(loss.total.into_scalar::<f32>().is_finite());
    let gradient = logits.grad(&gradients).unwrap().into_data().try_to_vec::<f32>().unwrap();
    assert!(gradient.iter().all(|v| v.is_finite()));
}

#[test]
fn shapes_that_do_not_fit_are_refused() {
    let device = Device::flex();
    let logits = tensor(&values(BATCH * CLASSES * PIXELS, 1), SIZE, &device);
    let refused = |labels: &[u8], weights: Option<&[f32]>| {
        segmentation_loss(logits.clone(), labels, SIZE, &config(1.0, 0.0, 0.0), weights)
            .unwrap_err()
            .to_string()
    };
    let text = refused(&labels()[1..], None);
    assert!(text.contains("the network gave logits of shape [2, 3, 5, 4]"), "{text}");
    assert!(refused(&[7; BATCH * PIXELS], None).contains("labels up to 7"));
    refused(&labels(), Some(&[1.0]));
}

#[test]
fn weights_by_inverse_frequency() {
    let names = ["a", "b", "c", "d"].map(str::to_owned);
    let rule = ClassWeights::Rule(WeightRule::InverseFrequency);
    let weights = class_weights(&rule, &names, &[600, 300, 99, 0]).unwrap().unwrap();
    assert_eq!(weights[0], (999.0_f64 / 2400.0) as f32);
    assert_eq!((weights[1], weights[3]), ((999.0_f64 / 1200.0) as f32, 1.0));
    let weights = class_weights(&rule, &names, &[1_000_000, 1, 0, 0]).unwrap().unwrap();
    assert_eq!(weights[1], MOST_WEIGHT as f32);
    assert_eq!(class_weights(&ClassWeights::default(), &names, &[1; 4]).unwrap(), None);
    let error = class_weights(&ClassWeights::Given(vec![1.0]), &names, &[1; 4]).unwrap_err().to_string();
    assert!(error.contains("loss.class_weights is 1 numbers, expected 4 numbers, for a, b, c, d"), "{error}");
}
