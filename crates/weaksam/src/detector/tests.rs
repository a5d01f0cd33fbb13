use std::fs;
use std::path::Path;

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{Device, Tensor, TensorData};

use super::config::{DropBlockConfig, MilConfig};
use super::loss::{detector_loss, host, image_loss, refinement_loss, regression_loss, stream_scores};
use super::mining::{Rule, Targets};
use super::model::Answers;
use super::*;
use crate::boxes::BoxCoder;
use crate::drawn::{SIZE, draw_set, objects};
use crate::files::{Corners, Detections, ImageProposals, Source, to_bbox};
use crate::measure::{Truth, measure_boxes};
use crate::network::{BackboneConfig, FeatureConfig, HeadConfig, InputConfig};

fn numbers(count: usize, seed: usize) -> Vec<f32> {
    (0..count).map(|i| ((i * 37 + seed * 101 + i * i * 13) % 199) as f32 / 100.0 - 1.0).collect()
}

fn matrix(rows: usize, columns: usize, seed: usize, device: &Device) -> Tensor<2> {
    Tensor::from_data(TensorData::new(numbers(rows * columns, seed), [rows, columns]), device)
}

/// Compares the gradient of a loss by `values` with differences of it.
fn check_gradient(values: &[f32], shape: [usize; 2], loss: &dyn Fn(Tensor<2>) -> Tensor<1>, tolerance: f64) {
    let device = Device::flex().autodiff();
    let input = Tensor::<2>::from_data(TensorData::new(values.to_vec(), shape), &device).require_grad();
    let gradients = loss(input.clone()).backward();
    let gradient = host(input.grad(&gradients).unwrap());
    let step = 1e-2;
    for (at, found) in gradient.iter().enumerate() {
        let shifted = |by: f32| {
            let mut values = values.to_vec();
            values[at] += by;
            let input = Tensor::<2>::from_data(TensorData::new(values, shape), &Device::flex());
            f64::from(loss(input).into_scalar::<f32>())
        };
        let expected = (shifted(step) - shifted(-step)) / (2.0 * f64::from(step));
        assert!((f64::from(*found) - expected).abs() < tolerance, "value {at}: {found} is not {expected}");
    }
}

#[test]
fn scores_of_the_two_streams() {
    let device = Device::flex();
    let scores = stream_scores([matrix(5, 3, 1, &device), matrix(5, 3, 2, &device)]);
    let image: Vec<f32> = host(scores.sum_dim(0));
    assert!(image.iter().all(|s| *s > 0.0 && *s < 1.0), "{image:?}");
    // Equal logits: each of 5 proposals has 1/3 of 1/5, so each class has 1/3 in the image.
    let zeros = || Tensor::<2>::zeros([5, 3], &device);
    let loss = |sum: bool| image_loss(stream_scores([zeros(), zeros()]), &[1], sum).into_scalar::<f32>();
    let expected = -((1.0_f32 / 3.0).ln() + 2.0 * (2.0_f32 / 3.0).ln());
    assert!((loss(true) - expected).abs() < 1e-4, "{}", loss(true));
    assert!((loss(false) - expected / 3.0).abs() < 1e-4);
}

#[test]
fn losses_have_the_gradients_of_their_differences() {
    for summed in [true, false] {
        let both = |x: Tensor<2>| {
            let streams = [x.clone().narrow(0, 0, 3), x.narrow(0, 3, 3)];
            image_loss(stream_scores(streams), &[0, 3], summed)
        };
        check_gradient(&numbers(24, 5), [6, 4], &both, 2e-3);
    }
    let targets = Targets { labels: vec![0, 2, 1], weights: vec![0.5, 0.25, 1.0], objects: vec![0, 1, 0] };
    check_gradient(&numbers(9, 7), [3, 3], &|x| refinement_loss(x, &targets), 1e-3);
    let boxes = [[0.0, 0.0, 10.0, 10.0], [5.0, 5.0, 25.0, 30.0], [1.0, 0.0, 10.0, 12.0]];
    let loss = |x| regression_loss(x, &targets, &boxes).unwrap();
    check_gradient(&numbers(36, 9), [3, 12], &loss, 2e-3);
    let background = Targets { labels: vec![0; 3], ..targets.clone() };
    assert!(regression_loss(matrix(3, 12, 1, &Device::flex()), &background, &boxes).is_none());
}

#[test]
fn refinement_by_hand() {
    let targets = Targets { labels: vec![0, 2], weights: vec![0.5, 0.25], objects: vec![0, 0] };
    let logits = Tensor::<2>::zeros([2, 3], &Device::flex());
    // (0.5 + 0.25) ln 3 / 2
    let loss = refinement_loss(logits, &targets).into_scalar::<f32>();
    assert!((loss - 0.375 * 3.0_f32.ln()).abs() < 1e-6, "{loss}");
    // One foreground proposal of two, moved by a step that its answer of 0 misses by 2 in x alone: smooth L1 is 1.5.
    let boxes = [[2.0, 0.0, 12.0, 10.0], [0.0, 0.0, 10.0, 10.0]];
    let step = BoxCoder::HEAD.encode(&boxes[1], &boxes[0]);
    assert_eq!(step, [2.0, 0.0, 0.0, 0.0]);
    let loss = regression_loss(Tensor::zeros([2, 12], &Device::flex()), &targets, &boxes).unwrap();
    assert!((loss.into_scalar::<f32>() - 0.25 * 1.5 / 2.0).abs() < 1e-6);
}

/// No gradient goes through pseudo labels and their weights, so the first branch's loss says nothing to the two streams.
#[test]
fn pseudo_labels_are_constants() {
    let device = Device::flex().autodiff();
    let leaf = |seed| matrix(12, 3, seed, &device).require_grad();
    let streams = [leaf(1), leaf(2)];
    let boxes: Vec<Corners> = (0..12).map(|i| [10.0 * i as f32, 0.0, 10.0 * i as f32 + 15.0, 20.0]).collect();
    let gradient = |refinements: Vec<f64>| {
        let refine =
            (0..refinements.len()).map(|branch| matrix(12, 4, 3 + branch, &device).require_grad()).collect();
        let answers = Answers { streams: streams.clone(), refine, regress: Vec::new() };
        let config = MilConfig { refinements, ..MilConfig::preset(Preset::OicrNear) };
        let loss = detector_loss(answers, &[0, 2], &boxes, &config);
        let gradients = loss.total.backward();
        streams.each_ref().map(|stream| host(stream.grad(&gradients).unwrap()))
    };
    assert_eq!(gradient(Vec::new()), gradient(vec![1.0, 5.0]));
}

/// What the log says of a picture: whether its strongest class is one that it shows, and how much of a class is at one place.
#[test]
fn what_is_known_and_where() {
    let device = Device::flex();
    let rows = |values: [f32; 6]| Tensor::<2>::from_data(TensorData::new(values.to_vec(), [3, 2]), &device);
    // Three proposals, two classes; the first stream is sure of class 0 everywhere, the second of the first proposal for class 0.
    let streams = || [rows([50.0, 0.0, 50.0, 0.0, 50.0, 0.0]), rows([50.0, 0.0, 0.0, 0.0, 0.0, 0.0])];
    let boxes: Vec<Corners> = (0..3).map(|i| [20.0 * i as f32, 0.0, 20.0 * i as f32 + 10.0, 10.0]).collect();
    let config = MilConfig::preset(Preset::Wsddn);
    let terms = |present: &[usize]| {
        let answers = Answers { streams: streams(), refine: Vec::new(), regress: Vec::new() };
        let terms = detector_loss(answers, present, &boxes, &config).terms;
        move |name: &str| terms.iter().find(|(own, _)| *own == name).map(|(_, value)| *value)
    };
    let right = terms(&[0]);
    assert_eq!(right("shown"), Some(1.0));
    assert!(right("peak").is_some_and(|peak| (peak - 1.0).abs() < 1e-4));
    let wrong = terms(&[1]);
    assert_eq!(wrong("shown"), Some(0.0));
    assert!(wrong("peak").is_some_and(|peak| peak < 1e-4));
    assert!(right("image").unwrap() < 0.01 && wrong("image").unwrap() > 5.0);
    // A picture that shows nothing has a loss, and nothing that could be known of where.
    let none = terms(&[]);
    assert!(none("image").unwrap() > 5.0 && none("shown").is_none() && none("peak").is_none());
}

fn config(preset: Preset, steps: u64) -> DetectorConfig {
    let mut config = DetectorConfig::preset(preset);
    config.input = InputConfig { train_sides: vec![64], test_sides: vec![64], ..InputConfig::default() };
    config.features = FeatureConfig {
        backbone: BackboneConfig::Plain { widths: vec![8, 12, 16] },
        stride: 4,
        channels: 16,
        ..FeatureConfig::default()
    };
    config.head = HeadConfig { cells: 3, hidden: 64, ..HeadConfig::default() };
    config.weak.dropout = 0.2;
    config.plan.steps = steps;
    config.plan.accumulate = 1;
    config.plan.optimizer.lr = 1e-3;
    config.plan.schedule.warmup = 10;
    config.plan.checkpoint_every = 500;
    config
}

/// Proposals for drawn pictures, and the pictures' labels: the objects' boxes, six tiles and the whole picture.
fn draw_proposals(pictures: std::ops::Range<usize>) -> Proposals {
    let [width, height] = SIZE.map(|side| side as f32);
    let images = pictures.map(|n| {
        let mut boxes: Vec<Corners> =
            objects(n).into_iter().map(|(_, corners)| corners.map(|v| v as f32)).collect();
        for (x, y) in [(0.0, 0.0), (24.0, 0.0), (48.0, 0.0), (0.0, 32.0), (24.0, 32.0), (48.0, 32.0)] {
            boxes.push([x, y, x + 24.0, y + 32.0]);
        }
        boxes.push([0.0, 0.0, width, height]);
        let mut labels: Vec<String> = objects(n).iter().map(|(class, _)| (*class).to_owned()).collect();
        labels.dedup();
        ImageProposals {
            file: format!("images/p{n}.png"),
            width: SIZE[0],
            height: SIZE[1],
            labels,
            scores: vec![1.0; boxes.len()],
            source: vec![Source::Search; boxes.len()],
            boxes,
        }
    });
    Proposals { classes: ["disc", "bar"].map(str::to_owned).to_vec(), images: images.collect() }
}

/// A drawn set, and proposals for it in a folder beside: JSON files in a set's folder would be taken for its labels.
fn files(folder: &Path) -> DetectorFiles {
    let root = folder.join("set");
    draw_set(&root, 12);
    let train = folder.join("proposals.json");
    draw_proposals(0..12).write(&train).unwrap();
    let detect = vec![(train.clone(), folder.join("detections.json"))];
    DetectorFiles { root, train, detect }
}

fn learn(preset: Preset, steps: u64) -> (Option<f64>, Detections) {
    let folder = tempfile::tempdir().unwrap();
    let files = files(folder.path());
    let (device, stop) = (Device::flex(), Stop::never());
    let config = config(preset, steps);
    let run = folder.path().join("run");
    let summary = super::run(&config, &files, None, &run, &device, &stop, ProgressMode::Silent).unwrap();
    assert!(summary.complete && summary.pictures == 12, "{summary:?}");
    let found = Detections::read(&files.detect[0].1).unwrap();
    let truth = Truth::open(&files.root, Some("train"), &found.classes).unwrap();
    (measure_boxes(&truth, &found).unwrap().corloc, found)
}

/// From labels of pictures alone: discs and bars are found where they are, not only told.
#[test]
fn oicr_finds_objects_from_labels_of_pictures() {
    let (corloc, found) = learn(Preset::OicrNear, 1000);
    assert!(corloc.is_some_and(|corloc| corloc > 0.9), "CorLoc {corloc:?}");
    assert!(found.images.iter().all(|image| !image.boxes.is_empty()));
}

#[test]
fn mist_moves_boxes_and_finds_objects() {
    let (corloc, found) = learn(Preset::Mist, 1000);
    assert!(corloc.is_some_and(|corloc| corloc > 0.9), "CorLoc {corloc:?}");
    let proposals = draw_proposals(0..12);
    let moved = found.images[0].boxes.iter().filter(|corners| !proposals.images[0].boxes.contains(corners));
    assert!(moved.count() > 0);
}

/// Weights after a run.
fn weights(model: &WeakDetector) -> Vec<Vec<f32>> {
    struct Values(Vec<Vec<f32>>);
    impl ModuleVisitor for Values {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            self.0.push(host(param.val()));
        }
    }
    let mut values = Values(Vec::new());
    model.visit(&mut values);
    values.0
}

#[test]
fn a_run_cut_in_two_ends_as_one_that_was_not() {
    let folder = tempfile::tempdir().unwrap();
    let files = files(folder.path());
    let (device, trained) = (Device::flex(), Device::flex().autodiff());
    let proposals = Proposals::read(&files.train).unwrap();
    let mut config = config(Preset::Mist, 8);
    config.plan.checkpoint_every = 3;
    config.features.frozen = true;
    let pictures = Pictures::of_proposals(&files.root, &proposals, &config.proposals);
    // The rate is the same at each step whatever the number of steps.
    config.plan.schedule.decay = kirie_engine::schedule::Decay::Constant;
    let train = |name: &str, steps: u64, model: WeakDetector| {
        let run = open_run(&folder.path().join(name), &config).unwrap();
        let mut config = config.clone();
        config.plan.steps = steps;
        let stop = Stop::never();
        train_detector(&config, &pictures, model, &run, &device, &stop, ProgressMode::Silent).unwrap().model
    };
    let new = || {
        let model = WeakDetector::new(&config, 2, None, &trained).unwrap();
        // The same weights for both, whatever other tests draw meanwhile.
        let formula =
            kirie_sam::checkpoint::StateDict::by_formula(kirie_sam::checkpoint::module_keys(&model));
        kirie_sam::checkpoint::load(model, &formula, "by formula", &trained).unwrap()
    };
    let whole = train("whole", 8, new());
    let _ = train("parts", 5, new());
    let parts = train("parts", 8, WeakDetector::empty(&config, 2, &trained).unwrap());
    assert_eq!(weights(&whole), weights(&parts));
    // The same folder with another configuration is refused.
    let mut other = config.clone();
    other.head.hidden += 1;
    let error = open_run(&folder.path().join("parts"), &other).unwrap_err().to_string();
    assert!(error.contains("another configuration"), "{error}");
}

#[test]
fn what_nothing_can_be_learned_from() {
    let folder = tempfile::tempdir().unwrap();
    let mut files = files(folder.path());
    let (device, stop) = (Device::flex(), Stop::never());
    let config = config(Preset::Oicr, 2);
    let run = |files: &DetectorFiles, name: &str| {
        super::run(&config, files, None, &folder.path().join(name), &device, &stop, ProgressMode::Silent)
    };
    // A picture without labels shows nothing, which can be learned; one without boxes is named, and the others are learned from.
    let mut proposals = Proposals::read(&files.train).unwrap();
    proposals.images[0].labels.clear();
    proposals.images[1].boxes.clear();
    proposals.images[1].scores.clear();
    proposals.images[1].source.clear();
    proposals.classes.push("never".to_owned());
    proposals.write(&files.train).unwrap();
    let summary = run(&files, "run").unwrap();
    assert_eq!((summary.pictures, summary.left_out.len()), (11, 1));
    let found = Detections::read(&files.detect[0].1).unwrap();
    assert_eq!((found.images.len(), found.images[1].boxes.len()), (12, 0));
    assert!(found.images[0].boxes.iter().all(|corners| to_bbox(*corners).area() > 0.0));

    // A picture that is missing is named, and the failed run is in nobody's way.
    proposals.images[2].file = "images/nowhere.png".to_owned();
    files.train = folder.path().join("broken.json");
    proposals.write(&files.train).unwrap();
    for image in &mut proposals.images {
        image.labels.clear();
    }
    let mut config_one = config.clone();
    config_one.plan.steps = 20;
    let error = super::run(
        &config_one,
        &files,
        None,
        &folder.path().join("second"),
        &device,
        &stop,
        ProgressMode::Silent,
    )
    .unwrap_err()
    .to_string();
    assert!(error.contains("nowhere.png"), "{error}");
    assert!(!folder.path().join("second/config.toml").exists());

    proposals.write(&files.train).unwrap();
    let error = run(&files, "third").unwrap_err().to_string();
    assert!(error.contains("no picture to learn from"), "{error}");
}

/// What the detector looks at: the adversary hides cells and takes its own share of the gradient with the sign reversed.
#[test]
fn drop_block_hides_and_opposes() {
    use kirie_engine::random::Streams;
    let device = Device::flex().autodiff();
    let block = super::drop_block::DropBlock::new(4, &device);
    // Often enough to be seen in so few cells.
    let config = DropBlockConfig { gamma: 1.0, temperature: 0.5, ..DropBlockConfig::default() };
    let cells = Tensor::<4>::ones([12, 4, 7, 7], &device).require_grad();
    let streams = Streams::new(4);
    let forward = || block.forward(cells.clone(), &config, &mut streams.stream("drop_block", &[1]));
    let hidden = forward();
    let values = host(hidden.clone());
    assert_eq!(values, host(forward()));
    let zeros = values.iter().filter(|v| **v == 0.0).count();
    assert!(zeros > 0 && zeros < values.len(), "{zeros}");
    let mean = values.iter().map(|v| f64::from(*v)).sum::<f64>() / values.len() as f64;
    assert!((mean - 1.0).abs() < 1e-3, "the rest makes up for it: {mean}");
    // One channel's zeros are all channels', in blocks of three cells.
    assert_eq!(zeros % 4, 0);

    let gradient = |adversary: f64| {
        let config = DropBlockConfig { adversary, ..config };
        let out = block.forward(cells.clone(), &config, &mut streams.stream("drop_block", &[1]));
        let weights = Tensor::from_data(TensorData::new(numbers(12 * 4 * 49, 3), [12, 4, 7, 7]), &device);
        let gradients = (out * weights).sum().backward();
        host(block.shortcut.conv.weight.val().grad(&gradients).unwrap())
    };
    let (small, large) = (gradient(0.01), gradient(0.02));
    assert!(small.iter().any(|g| *g != 0.0));
    for (a, b) in small.iter().zip(&large) {
        assert!((2.0 * a - b).abs() <= 1e-4 * b.abs().max(1e-3), "{a} {b}");
    }
    assert!(gradient(0.0).iter().all(|g| *g == 0.0));
}

#[test]
fn bad_settings_are_named() {
    let says = |change: &dyn Fn(&mut DetectorConfig), name: &str| {
        let mut config = config(Preset::Mist, 1);
        change(&mut config);
        let error = config.check().unwrap_err().to_string();
        assert!(error.contains(name), "{error}");
    };
    says(&|c| c.weak.rule = Rule::Apart { portion: 2.0, overlap: 0.2 }, "weak.rule.portion");
    says(&|c| c.weak.refinements = vec![0.0], "weak.refinements");
    says(&|c| c.weak.refinements.clear(), "weak.regress");
    says(&|c| c.features.stride = 5, "features.stride");
    says(&|c| c.features.stride = 16, "features.backbone");
    says(&|c| c.weak.dropout = 1.0, "weak.dropout");
    says(&|c| c.input.test_sides.clear(), "input.test_sides");
    says(&|c| c.proposals.most = 0, "proposals.most");
    says(&|c| c.features.backbone = BackboneConfig::Encoder { model: "none".to_owned() }, "none");
    // A configuration survives its file, and what a file does not say is MIST's.
    let file = tempfile::NamedTempFile::new().unwrap();
    let read = |text: &str| -> DetectorConfig {
        fs::write(file.path(), text).unwrap();
        kirie_run::config::load(Some(file.path()), &[]).unwrap().value
    };
    for preset in [Preset::Mist, Preset::Oicr, Preset::OicrNear, Preset::Wsddn] {
        let whole = config(preset, 1);
        assert_eq!(read(&kirie_run::config::to_toml(&whole).unwrap()), whole);
    }
    let mut changed = DetectorConfig::default();
    changed.weak.dropout = 0.25;
    assert_eq!(read("weak.dropout = 0.25"), changed);
    changed.plan.steps = 7;
    changed.plan.optimizer.lr = 1e-3;
    changed.answers.nms = 0.4;
    let text = "weak.dropout = 0.25\nanswers.nms = 0.4\nplan.steps = 7\nplan.optimizer.lr = 1e-3";
    assert_eq!(read(text), changed);
}

/// A preset's name stands for all it says; beside other keys it stands for those that are left out.
#[test]
fn presets_in_files() {
    let read = |set: &[&str]| {
        let sets: Vec<String> = set.iter().map(|set| (*set).to_owned()).collect();
        kirie_run::config::load::<DetectorConfig>(None, &sets).map(|loaded| loaded.value.weak)
    };
    assert_eq!(read(&["weak=oicr-near"]).unwrap(), MilConfig::preset(Preset::OicrNear));
    assert_eq!(read(&["weak={ preset = \"wsddn\" }"]).unwrap(), MilConfig::preset(Preset::Wsddn));
    let rule = Rule::Near { share: 0.8, nms: 0.5 };
    let expected = MilConfig { dropout: 0.1, rule, ..MilConfig::preset(Preset::Oicr) };
    let sets =
        ["weak.preset=oicr", "weak.dropout=0.1", "weak.rule={ kind = \"near\", share = 0.8, nms = 0.5 }"];
    assert_eq!(read(&sets).unwrap(), expected);
    let fails = |set: &[&str], expected: &str| {
        let error = read(set).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    };
    fails(&["weak=oicri"], "unknown variant `oicri`");
    fails(&["weak.preset=oicri"], "unknown variant `oicri`");
    fails(&["weak.drop=0.1"], "unknown field `drop`");
    // A run's own configuration says all keys: the preset would change none of them.
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), kirie_run::config::to_toml(&DetectorConfig::default()).unwrap()).unwrap();
    let resumed = |set: &str| {
        kirie_run::config::load::<DetectorConfig>(Some(file.path()), &[set.to_owned()]).map(|l| l.value.weak)
    };
    let error = resumed("weak.preset=oicr").unwrap_err().to_string();
    assert!(error.contains("weak = \"PRESET\""), "{error}");
    assert_eq!(resumed("weak=oicr").unwrap(), MilConfig::preset(Preset::Oicr));
}
