//! Shapes, gradients and learning of small models of every method.

#![allow(clippy::unwrap_used, reason = "a test may fail anywhere")]

mod model_common;

use std::collections::{BTreeMap, BTreeSet};

use burn::module::{Module, ModuleVisitor, Param};
use burn::optim::{AdamConfig, GradientsParams};
use burn::tensor::{Device, Gradients, Int, Tensor, TensorData, activation::log_softmax};
use kirie_gsam::Segmenter;
use kirie_gsam::model::method::{Gsam, Samus};
use kirie_gsam::model::{METHODS, MethodConfig, SemanticConfig, SemanticModel};
use kirie_sam::checkpoint::KeyPath;
use model_common::{all, labels_at, light, task, tiny_conv, tiny_vit};

#[test]
fn model_logits_cover_pictures_of_any_size() {
    let device = Device::flex();
    let shape = |config: &SemanticConfig, height, width| {
        let model = config.init(&device, 1).unwrap();
        model.logits(Tensor::ones([1, 3, height, width], &device)).dims()
    };
    // Stride 8: the shapes of the reference.
    let gsam = tiny_vit(3, light("gsam"));
    for (size, expected) in
        [([128, 128], [64, 64]), ([224, 224], [112, 112]), ([130, 200], [64, 100]), ([32, 32], [16, 16])]
    {
        assert_eq!(shape(&gsam, size[0], size[1]), [1, 3, expected[0], expected[1]]);
    }
    let samus = tiny_vit(2, light("samus"));
    assert_eq!(shape(&samus, 130, 200), [1, 2, 64, 100]);
    // Stride 16 and the convolutional road: a value for every four, or two, pixels.
    for name in ["decoder-only", "conv-lora"] {
        let config = tiny_vit(3, light(name));
        assert_eq!(shape(&config, 64, 64), [1, 3, 16, 16]);
        assert_eq!(shape(&config, 130, 200), [1, 3, 33, 50]);
        assert_eq!(shape(&config, 33, 47), [1, 3, 9, 12]);
    }
    for name in ["decoder-only", "gsam"] {
        let config = tiny_conv(2, light(name));
        for (size, expected) in
            [([32, 32], [16, 16]), ([130, 200], [65, 100]), ([33, 47], [17, 24]), ([256, 96], [128, 48])]
        {
            assert_eq!(shape(&config, size[0], size[1]), [1, 2, expected[0], expected[1]]);
        }
    }
}

#[test]
fn model_two_classes_have_a_channel_of_zeros() {
    let device = Device::flex();
    let model = tiny_conv(2, light("gsam")).init(&device, 3).unwrap();
    let logits = model.logits(Tensor::ones([2, 3, 40, 64], &device));
    let [first, second] = [0, 1].map(|c| logits.clone().narrow(1, c, 1).abs().max().into_scalar::<f32>());
    assert!(first == 0.0 && second > 0.0);
}

#[test]
fn model_is_repeated_by_its_seed() {
    let device = Device::flex();
    for config in [tiny_vit(3, light("gsam")), tiny_conv(3, light("lora"))] {
        let run = |seed| -> Vec<f32> {
            let model = config.init(&device, seed).unwrap();
            model.logits(Tensor::ones([1, 3, 48, 32], &device)).into_data().iter::<f32>().collect()
        };
        assert_eq!(run(5), run(5));
        assert_ne!(run(5), run(6));
    }
}

/// Adapters of the convolutional road, and LoRA of any kind, begin as nothing.
#[test]
fn model_begins_as_its_base() {
    let device = Device::flex();
    let x = || Tensor::<4>::ones([1, 3, 64, 64], &device) * 0.3;
    for (method, tiny) in [
        ("lora", tiny_vit as fn(usize, MethodConfig) -> SemanticConfig),
        ("lora-gsam", tiny_vit),
        ("conv-lora", tiny_vit),
        ("lora", tiny_conv),
        ("adapt-former", tiny_conv),
    ] {
        let plain = tiny(3, MethodConfig::DecoderOnly {});
        let base = plain.init(&device, 1).unwrap();
        let file = tempfile::NamedTempFile::new().unwrap();
        let tensors = kirie_sam::checkpoint::state_dict_of(&base);
        kirie_sam::checkpoint::write_safetensors(file.path(), &tensors, &BTreeMap::default()).unwrap();
        let weights = kirie_sam::checkpoint::StateDict::open(file.path()).unwrap();
        let (model, report) = tiny(3, light(method)).init_from(&weights, &device, 2).unwrap();
        assert!(!report.fresh.is_empty() && report.unused.is_empty(), "{report}");
        let difference = (model.logits(x()) - base.logits(x())).abs().max().into_scalar::<f32>();
        assert!(difference < 1e-5, "{method}: {difference}");
    }
}

struct Reached<'a>(KeyPath, &'a Gradients, BTreeSet<String>);
impl ModuleVisitor for Reached<'_> {
    fn enter_module(&mut self, name: &str, container_type: &str) {
        self.0.enter(name, container_type);
    }
    fn exit_module(&mut self, _name: &str, container_type: &str) {
        self.0.exit(container_type);
    }
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if param.base().grad(self.1).is_some() {
            self.2.insert(self.0.key());
        }
    }
}

struct Required(KeyPath, BTreeSet<String>);
impl ModuleVisitor for Required {
    fn enter_module(&mut self, name: &str, container_type: &str) {
        self.0.enter(name, container_type);
    }
    fn exit_module(&mut self, _name: &str, container_type: &str) {
        self.0.exit(container_type);
    }
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if param.is_require_grad() {
            self.1.insert(self.0.key());
        }
    }
}

fn assert_reached(config: &SemanticConfig, size: [usize; 2]) {
    let device = Device::flex().autodiff();
    let model = config.init(&device, 7).unwrap();
    let pixels = Tensor::<4>::random([2, 3, size[0], size[1]], burn::tensor::Distribution::Default, &device);
    let gradients = model.logits(pixels).square().mean().backward();
    let mut reached = Reached(KeyPath::default(), &gradients, BTreeSet::new());
    model.visit(&mut reached);
    let expected: BTreeSet<String> = model.trained_keys().into_iter().collect();
    let name = format!("{} on {}, {} classes", config.method.name(), config.base, config.classes);
    let missing: Vec<_> = expected.difference(&reached.2).collect();
    let more: Vec<_> = reached.2.difference(&expected).collect();
    assert!(missing.is_empty() && more.is_empty(), "{name}: not reached {missing:?}, reached {more:?}");
    // Going to inference and back keeps it so.
    let mut again = Required(KeyPath::default(), BTreeSet::new());
    model.valid().train().visit(&mut again);
    assert_eq!(again.1, expected, "{name}");
}

/// With the CNN branch as published.
#[test]
fn model_gradients_reach_the_resnet() {
    assert_reached(&tiny_vit(2, MethodConfig::named("gsam").unwrap()), [32, 32]);
}

#[test]
fn model_gradients_reach_exactly_what_is_trained() {
    let mut configs = all(3);
    configs.extend(all(2));
    configs.push(tiny_vit(3, MethodConfig::Samus(Samus { published: true })));
    if let MethodConfig::Gsam(gsam) = light("gsam") {
        let published = Gsam { cnn: gsam.cnn, ..Gsam::published() };
        configs.push(tiny_vit(3, MethodConfig::Gsam(published)));
    }
    configs.push(SemanticConfig { published_tokens: true, ..tiny_vit(3, light("gsam")) });
    for config in configs {
        assert_reached(&config, [48, 64]);
    }
}

/// Mean over the classes of intersection over union.
fn mean_iou(logits: Tensor<4>, labels: &[usize]) -> f64 {
    let [_, classes, height, width] = logits.dims();
    let predicted: Vec<i64> = logits.argmax(1).into_data().iter::<i64>().collect();
    let small = labels_at(labels, [height, width]);
    let iou = |class: usize| {
        let pairs = || predicted.iter().zip(&small).map(|(p, l)| (*p as usize == class, *l == class));
        let both = pairs().filter(|(p, l)| *p && *l).count();
        both as f64 / pairs().filter(|(p, l)| *p || *l).count().max(1) as f64
    };
    (0..classes).map(iou).sum::<f64>() / classes as f64
}

fn overfit(config: &SemanticConfig) -> (f64, usize) {
    const STEPS: usize = 160;
    let device = Device::flex().autodiff();
    let mut model: SemanticModel = config.init(&device, 11).unwrap();
    let (pixels, labels) = task(config.classes, &device);
    let mut optimizer = AdamConfig::new().init();
    let mut best = 0.0_f64;
    for step in 1..=STEPS {
        let logits = model.logits(pixels.clone());
        let [batch, classes, height, width] = logits.dims();
        if step % 10 == 0 {
            best = best.max(mean_iou(logits.clone().inner(), &labels));
            if best > 0.95 {
                return (best, step);
            }
        }
        let small: Vec<i64> = labels_at(&labels, [height, width]).into_iter().map(|l| l as i64).collect();
        let small = Tensor::<4, Int>::from_data(TensorData::new(small, [batch, 1, height, width]), &device);
        let loss = log_softmax(logits, 1).gather(1, small).mean().neg();
        assert_eq!(classes, config.classes);
        let gradients = GradientsParams::from_grads(loss.backward(), &model);
        model = optimizer.step(4e-3, model, gradients);
    }
    (best, STEPS)
}

#[test]
fn model_every_method_overfits_on_vit() {
    for name in METHODS {
        let (iou, steps) = overfit(&tiny_vit(3, light(name)));
        println!("vit {name}: {iou:.3} after {steps}");
        assert!(iou > 0.95, "{name}: {iou} after {steps} steps");
    }
}

#[test]
fn model_every_method_overfits_on_convolutions() {
    for name in METHODS {
        let config = tiny_conv(2, light(name));
        if config.check().is_err() {
            continue;
        }
        let (iou, steps) = overfit(&config);
        println!("conv {name}: {iou:.3} after {steps}");
        assert!(iou > 0.95, "{name}: {iou} after {steps} steps");
    }
}
