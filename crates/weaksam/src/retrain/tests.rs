use std::path::Path;

use burn::tensor::{Device, Tensor, TensorData};
use kirie_engine::random::Streams;

use super::config::{DropConfig, DropMode, RpnConfig, SampleConfig};
use super::loss::{HeadLoss, Sampled, head_loss};
use super::rpn::{Role, Rpn, anchors, roles};
use super::*;
use crate::detector::loss::host;
use crate::drawn::draw_set;
use crate::files::Corners;
use crate::measure::{Truth, measure_boxes};
use crate::network::{BackboneConfig, FeatureConfig, HeadConfig, InputConfig};

#[test]
fn anchors_of_every_shape_around_every_cell() {
    let config = RpnConfig { sides: vec![8.0], ratios: vec![1.0, 4.0], ..RpnConfig::default() };
    let all = anchors(&config, 4, [2, 3]);
    assert_eq!(all.len(), 12);
    assert_eq!(all[0], [-2.0, -2.0, 6.0, 6.0]);
    // Height over width 4, the same area; the second cell of the second line.
    assert_eq!(all[9], [6.0 - 2.0, 6.0 - 8.0, 6.0 + 2.0, 6.0 + 8.0]);
}

#[test]
fn roles_of_anchors() {
    use Role::{Background, Ignored, Object};
    let config = RpnConfig::default();
    let objects: [Corners; 2] = [[0.0, 0.0, 10.0, 10.0], [40.0, 0.0, 50.0, 10.0]];
    let all: [Corners; 6] = [
        [0.0, 0.0, 10.0, 9.0],    // 0.9 of the first
        [0.0, 0.0, 10.0, 5.0],    // 0.5: neither
        [0.0, 0.0, 10.0, 2.0],    // 0.2: background
        [40.0, 0.0, 50.0, 4.0],   // 0.4, but no anchor is closer to the second
        [40.0, 6.0, 50.0, 10.0],  // as close as that
        [80.0, 80.0, 90.0, 90.0], // nothing
    ];
    let expected = [Object(0), Ignored, Background, Object(1), Object(1), Background];
    assert_eq!(roles(&config, &all, &objects), expected);
    assert_eq!(roles(&config, &all, &[]), [Background; 6]);
    // An object that no anchor touches makes none of them an object.
    assert_eq!(roles(&config, &all[2..3], &[[200.0, 0.0, 210.0, 10.0]]), [Background]);
}

#[test]
fn sampled_boxes() {
    let config = SampleConfig { count: 6, foreground_share: 0.5, foreground: 0.5 };
    let objects: [Corners; 2] = [[0.0, 0.0, 10.0, 10.0], [40.0, 0.0, 50.0, 10.0]];
    let mut proposals: Vec<Corners> = (0..20).map(|i| [100.0 + i as f32, 0.0, 110.0, 10.0]).collect();
    proposals.extend((0..5).map(|i| [i as f32 * 0.5, 0.0, 10.0, 10.0]));
    let mut rng = Streams::new(1).stream("sample", &[0]);
    let sampled = Sampled::new(&config, proposals, &objects, &[1, 0], &[2.0, 0.5], &mut rng);
    assert_eq!(sampled.boxes.len(), 6);
    assert_eq!(sampled.labels.iter().filter(|label| **label > 0).count(), 3);
    for (at, label) in sampled.labels.iter().enumerate() {
        match label {
            0 => assert_eq!(sampled.weights[at], 1.0),
            2 => assert_eq!((sampled.weights[at], sampled.objects[at]), (2.0, 0)),
            1 => assert_eq!((sampled.weights[at], sampled.objects[at]), (0.5, 1)),
            other => panic!("label {other}"),
        }
    }
}

fn numbers(count: usize, seed: usize) -> Vec<f32> {
    (0..count).map(|i| ((i * 37 + seed * 101 + i * i * 13) % 199) as f32 / 50.0 - 2.0).collect()
}

fn tensor(shape: [usize; 2], seed: usize, device: &Device) -> Tensor<2> {
    Tensor::from_data(TensorData::new(numbers(shape[0] * shape[1], seed), shape), device)
}

fn sampled() -> (Sampled, Vec<Corners>) {
    let objects = vec![[0.0, 0.0, 10.0, 10.0], [40.0, 0.0, 52.0, 10.0]];
    let sampled = Sampled {
        boxes: vec![
            [1.0, 0.0, 10.0, 9.0],
            [41.0, 1.0, 50.0, 10.0],
            [80.0, 0.0, 90.0, 10.0],
            [0.0, 2.0, 9.0, 10.0],
        ],
        labels: vec![1, 2, 0, 1],
        objects: vec![0, 1, 0, 0],
        weights: vec![1.0, 0.5, 1.0, 2.0],
    };
    (sampled, objects)
}

fn loss_at(drop: &DropConfig, on: bool, device: &Device) -> ([Tensor<2>; 2], HeadLoss) {
    let (sampled, objects) = sampled();
    let inputs = [tensor([4, 3], 1, device), tensor([4, 12], 2, device)];
    let inputs = if device.is_autodiff() { inputs.map(Tensor::require_grad) } else { inputs };
    let loss = head_loss(inputs.clone(), &sampled, &objects, drop, on);
    (inputs, loss)
}

fn config_of(mode: DropMode, class: f32, regress: f32) -> DropConfig {
    DropConfig { mode, class, regress, start: 0.0 }
}

/// With thresholds beyond all losses, or before its time, RoI drop changes nothing, bit for bit.
#[test]
fn nothing_dropped_is_nothing_changed() {
    let device = Device::flex();
    let values = |loss: HeadLoss| [host(loss.class), host(loss.regress.unwrap())];
    let plain = values(loss_at(&config_of(DropMode::Off, 0.0, 0.0), true, &device).1);
    for mode in [DropMode::Independent, DropMode::Both] {
        let high = config_of(mode, f32::INFINITY, f32::INFINITY);
        assert_eq!(values(loss_at(&high, true, &device).1), plain);
        assert_eq!(values(loss_at(&config_of(mode, 0.0, 0.0), false, &device).1), plain);
    }
}

/// What is dropped has no gradient and still counts in the number of boxes.
#[test]
fn dropped_boxes_are_not_learned_from() {
    let device = Device::flex().autodiff();
    let everything = config_of(DropMode::Independent, 0.0, f32::INFINITY);
    let ([logits, _], loss) = loss_at(&everything, true, &device);
    assert_eq!(loss.dropped, [4, 0]);
    let gradients = (loss.class + loss.regress.unwrap()).backward();
    assert!(logits.grad(&gradients).is_none_or(|g| host(g).iter().all(|v| *v == 0.0)));

    // Only the box with the highest cross-entropy: the losses of the other three, over four.
    let (_, plain) = loss_at(&config_of(DropMode::Off, 0.0, 0.0), true, &device);
    let all = host(plain.class)[0];
    let (_, rest) = loss_at(&config_of(DropMode::Independent, 2.0, f32::INFINITY), true, &device);
    let kept = host(rest.class)[0];
    assert!(rest.dropped[0] > 0 && kept < all, "{kept} {all} {:?}", rest.dropped);
}

#[test]
fn the_head_learns_by_the_gradient_of_its_loss() {
    let drop = config_of(DropMode::Off, 0.0, 0.0);
    let device = Device::flex().autodiff();
    let (inputs, loss) = loss_at(&drop, true, &device);
    let gradients = (loss.class + loss.regress.unwrap()).backward();
    let (sampled, objects) = sampled();
    let shapes = [[4, 3], [4, 12]];
    for which in 0..2 {
        let gradient = host(inputs[which].grad(&gradients).unwrap());
        for (at, found) in gradient.iter().enumerate() {
            let shifted = |by: f32| {
                let mut values = [numbers(12, 1), numbers(48, 2)];
                values[which][at] += by;
                let [logits, steps] = values;
                let device = Device::flex();
                let logits = Tensor::<2>::from_data(TensorData::new(logits, shapes[0]), &device);
                let steps = Tensor::<2>::from_data(TensorData::new(steps, shapes[1]), &device);
                let loss = head_loss([logits, steps], &sampled, &objects, &drop, true);
                f64::from((loss.class + loss.regress.unwrap()).into_scalar::<f32>())
            };
            let expected = (shifted(1e-2) - shifted(-1e-2)) / 2e-2;
            assert!((f64::from(*found) - expected).abs() < 2e-3, "{which} {at}: {found} is not {expected}");
        }
    }
}

#[test]
fn the_first_stage_learns_where_objects_are() {
    let device = Device::flex().autodiff();
    let config = RpnConfig { sides: vec![12.0], ratios: vec![1.0], sampled: 1000, ..RpnConfig::default() };
    let rpn = Rpn::new(3, &config, &device);
    let map = Tensor::<4>::from_data(TensorData::new(numbers(3 * 30, 4), [1, 3, 5, 6]), &device);
    let answers = rpn.forward(map, &config, 8);
    assert_eq!(answers.anchors.len(), 30);
    let mut rng = Streams::new(1).stream("sample", &[0]);
    // Logits begin near zero: ln 2 an anchor. A weight of 3 counts the one anchor of the object three times.
    let [plain, moves] = answers.loss(&config, &[[6.0, 6.0, 18.0, 18.0]], &[1.0], &mut rng);
    let [heavy, _] = answers.loss(&config, &[[6.0, 6.0, 18.0, 18.0]], &[3.0], &mut rng);
    let two = 2.0_f32.ln();
    assert!((host(plain.clone())[0] - two).abs() < 0.2);
    assert!(host(heavy)[0] > host(plain)[0]);
    assert!(host(moves)[0] < 0.1, "the anchor lies on the object");
    let [empty, none] = answers.loss(&config, &[], &[], &mut rng);
    assert!((host(empty)[0] - two).abs() < 0.2 && host(none)[0] == 0.0);
    let proposals = answers.proposals(&config, [48, 40]);
    assert!(proposals.len() > 5);
    assert!(proposals.iter().all(|b| b[0] >= 0.0 && b[1] >= 0.0 && b[2] <= 48.0 && b[3] <= 40.0));
}

fn config(steps: u64) -> RetrainConfig {
    let mut config = RetrainConfig {
        input: InputConfig { train_sides: vec![64], test_sides: vec![64], ..InputConfig::default() },
        features: FeatureConfig {
            backbone: BackboneConfig::Plain { widths: vec![8, 12, 16] },
            stride: 4,
            channels: 16,
            ..FeatureConfig::default()
        },
        head: HeadConfig { cells: 4, hidden: 32, ..HeadConfig::default() },
        rpn: RpnConfig { sides: vec![20.0, 36.0], after_nms: 40, before_nms: 200, ..RpnConfig::default() },
        sample: SampleConfig { count: 48, ..SampleConfig::default() },
        ..RetrainConfig::default()
    };
    config.plan.steps = steps;
    config.plan.accumulate = 1;
    config.plan.optimizer.lr = 4e-3;
    config.plan.schedule.warmup = 10;
    config
}

fn files(folder: &Path) -> (RetrainFiles, Truth) {
    draw_set(folder, 12);
    let classes = ["disc", "bar"].map(str::to_owned);
    let truth = Truth::open(folder, Some("train"), &classes).unwrap();
    let test = Truth::open(folder, Some("test"), &classes).unwrap();
    let (train, other) = (folder.join("pseudo.json"), folder.join("test.json"));
    truth.to_boxes().write(&train).unwrap();
    test.to_boxes().write(&other).unwrap();
    let detect = vec![(other, folder.join("detections.json"))];
    (RetrainFiles { root: folder.to_owned(), train, detect }, test)
}

#[test]
fn it_learns_from_boxes_and_finds_them_in_other_pictures() {
    let folder = tempfile::tempdir().unwrap();
    let (files, truth) = files(folder.path());
    let (device, stop, config) = (Device::flex(), Stop::never(), config(200));
    let output = folder.path().join("run");
    let run = || super::run(&config, &files, None, &output, &device, &stop, ProgressMode::Silent).unwrap();
    let summary = run();
    assert!(summary.complete && summary.pictures == 8 && summary.boxes > 8, "{summary:?}");
    let found = Detections::read(&files.detect[0].1).unwrap();
    let ap = measure_boxes(&truth, &found).unwrap().voc_all;
    assert!(ap.is_some_and(|ap| ap > 0.8), "AP50 {ap:?}");
    // Once more: nothing is left to learn, and the same is found.
    assert_eq!(run(), summary);
    assert_eq!(Detections::read(&files.detect[0].1).unwrap(), found);
    let folder = kirie_run::RunFolder::open(&output).unwrap();
    let model = load(&config, 2, &folder, &device).unwrap();
    let pictures = Pictures::of_objects(&files.root, &found);
    let again = detect(&model, &config, &pictures, &device, &stop, ProgressMode::Silent).unwrap();
    assert_eq!(again.images[0].boxes, found.images[0].boxes);
}

#[test]
fn bad_settings_and_files_are_named() {
    let says = |change: &dyn Fn(&mut RetrainConfig), name: &str| {
        let mut config = config(1);
        change(&mut config);
        let error = config.check().unwrap_err().to_string();
        assert!(error.contains(name), "{error}");
    };
    says(&|c| c.rpn.sides.clear(), "rpn.sides");
    says(&|c| c.rpn.negative = 0.9, "rpn.negative");
    says(&|c| c.sample.count = 0, "sample.count");
    says(&|c| c.drop.start = 1.5, "drop.start");
    says(&|c| c.drop.class = f32::NAN, "drop");
    let folder = tempfile::tempdir().unwrap();
    let (mut files, _) = files(folder.path());
    let run = |files: &RetrainFiles| {
        let (device, stop) = (Device::flex(), Stop::never());
        let output = folder.path().join("run");
        super::run(&config(1), files, None, &output, &device, &stop, ProgressMode::Silent)
    };
    let mut none = Detections::read(&files.train).unwrap();
    for image in &mut none.images {
        image.weights.fill(0.0);
    }
    files.train = folder.path().join("none.json");
    none.write(&files.train).unwrap();
    let error = run(&files).unwrap_err().to_string();
    assert!(error.contains("no picture to learn from"), "{error}");
}
