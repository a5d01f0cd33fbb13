use std::collections::BTreeMap;

use burn::module::Module;
use burn::tensor::Tensor;
use kirie_sam::HostTensor;
use kirie_sam::checkpoint::{module_keys, state_dict_of, write_safetensors};

use super::*;
use crate::config::{Dino, Moco, ResnetEncoder, SamEncoder, Simclr, Stem};

fn resnet(depth: u32, width: usize) -> EncoderConfig {
    EncoderConfig::Resnet(ResnetEncoder { depth, width, stem: Stem::Imagenet, init: None })
}

#[test]
fn names_are_torchvisions() {
    let encoder = EncoderSpec::new(&resnet(50, 2)).unwrap().init(&Device::flex());
    let keys: Vec<String> = module_keys(&encoder).into_iter().map(|entry| entry.key).collect();
    for key in [
        "conv1.weight",
        "bn1.weight",
        "bn1.running_var",
        "bn1.num_batches_tracked",
        "layer1.0.downsample.0.weight",
        "layer1.0.downsample.1.bias",
        "layer2.3.conv3.weight",
        "layer3.5.bn2.running_mean",
        "layer4.2.bn3.weight",
    ] {
        assert!(keys.iter().any(|found| found == key), "{key} is missing");
    }
    // 53 convolutions and 53 norms of five entries each.
    assert_eq!(keys.len(), 53 + 5 * 53);
}

#[test]
fn heads_have_the_published_sizes() {
    let device = Device::flex();
    let count = |method: MethodConfig| -> usize {
        let head = Head::new(&method, 512, &device);
        let keys = module_keys(&head).into_iter();
        let parameters = keys.filter(|entry| !entry.optional && !entry.key.contains("running"));
        parameters.map(|entry| entry.shape.iter().product::<usize>()).sum()
    };
    // lightly's SimCLRProjectionHead(512, 512, 128).
    assert_eq!(count(MethodConfig::Simclr(Simclr::default())), 512 * 512 + 2 * 512 + 512 * 128 + 2 * 128);
    assert_eq!(count(MethodConfig::Moco(Moco::default())), 513 * 512 + 513 * 128);
    let dino = 513 * 2048 + 2049 * 2048 + 2049 * 256 + 2048 * 256 + 4 * 2048;
    assert_eq!(count(MethodConfig::Dino(Dino::default())), dino);
}

#[test]
fn parts_of_each_method() {
    let device = Device::flex().autodiff();
    let methods = [
        (MethodConfig::Simclr(Simclr { output: 6, ..Simclr::default() }), 6, [false, false, false]),
        (MethodConfig::Moco(Moco { output: 6, queue: 10, ..Moco::default() }), 6, [true, true, false]),
        (MethodConfig::Dino(Dino { hidden: 8, prototypes: 9, ..Dino::default() }), 9, [true, false, true]),
    ];
    for (method, output, parts) in methods {
        let model = Contrastive::new(&resnet(18, 2), &method, None, 3, &device).unwrap();
        assert_eq!([model.momentum.is_some(), model.queue.is_some(), model.centre.is_some()], parts);
        let (features, projected) = model.online.forward(Tensor::ones([3, 3, 32, 32], &device));
        assert_eq!((features.dims(), projected.dims()), ([3, 16], [3, output]));
        // The follower begins as a copy, and the same seed gives the same numbers.
        let again = Contrastive::new(&resnet(18, 2), &method, None, 3, &device).unwrap();
        let (a, b) = (state_dict_of(&model.valid()), state_dict_of(&again.valid()));
        let same: BTreeMap<&String, &HostTensor> = b.iter().map(|(key, tensor)| (key, tensor)).collect();
        for (key, tensor) in &a {
            // Running statistics of the first have seen a batch.
            if !key.contains("running") {
                assert!(same[key] == tensor, "{key}");
                if let Some(rest) = key.strip_prefix("momentum.") {
                    assert!(same[&format!("online.{rest}")] == tensor, "{key}");
                }
            }
        }
        if let Some(queue) = &model.queue {
            let lengths: Vec<f32> = queue.val().square().sum_dim(1).into_data().iter::<f32>().collect();
            assert!(lengths.iter().all(|length| (length - 1.0).abs() < 1e-5));
        }
    }
}

/// Files of this program, of torchvision (with a classifier beside), of other toolkits, and of the authors' code, which numbers layers.
#[test]
fn encoders_come_from_files_of_many_toolkits() {
    type Name<'a> = &'a dyn Fn(&str) -> String;
    let folder = tempfile::tempdir().unwrap();
    let device = Device::flex();
    let config = resnet(18, 2);
    let spec = EncoderSpec::new(&config).unwrap();
    let first = spec.init(&device);
    make(&first, &device, 1);
    let tensors = state_dict_of(&first);
    let numbered = |key: &str| {
        let layers =
            [("conv1.", "0."), ("bn1.", "1."), ("layer1.", "4."), ("layer2.", "5."), ("layer3.", "6.")];
        let all = layers.into_iter().chain([("layer4.", "7.")]);
        all.into_iter()
            .find_map(|(name, n)| Some(format!("backbone.{n}{}", key.strip_prefix(name)?)))
            .unwrap()
    };
    let names: [(&str, Name<'_>); 5] = [
        ("torchvision", &|key: &str| key.to_owned()),
        ("lightly", &|key: &str| format!("backbone.{key}")),
        ("moco", &|key: &str| format!("module.encoder_q.{key}")),
        ("a checkpoint", &|key: &str| format!("online.encoder.{key}")),
        ("s3same", &numbered),
    ];
    for (toolkit, name) in names {
        let path = folder.path().join("weights.safetensors");
        let mut renamed: Vec<_> = tensors.iter().map(|(key, tensor)| (name(key), tensor.clone())).collect();
        renamed.push(("fc.weight".to_owned(), HostTensor { shape: vec![1], values: vec![0.0] }));
        write_safetensors(&path, &renamed, &BTreeMap::new()).unwrap();
        let other = spec.init(&device);
        let loaded = EncoderFile::open(&path, &config).unwrap().load_into(other, &device).unwrap();
        assert!(state_dict_of(&loaded) == tensors, "{toolkit}");
    }
    // Another network's weights are refused, with names and shapes.
    let path = folder.path().join("weights.safetensors");
    let larger = EncoderSpec::new(&resnet(18, 3)).unwrap().init(&device);
    let error =
        EncoderFile::open(&path, &config).unwrap().load_into(larger, &device).unwrap_err().to_string();
    assert!(error.contains("of the wrong shape") && error.contains("conv1.weight"), "{error}");
}

#[test]
fn sam_encoders_take_views_of_any_size() {
    let device = Device::flex();
    let config = EncoderConfig::Sam(SamEncoder { model: "kirie-small".to_owned(), init: None });
    let spec = EncoderSpec::new(&config).unwrap();
    let encoder = spec.init(&device);
    for side in [32, 64] {
        assert_eq!(encoder.forward(Tensor::ones([1, 3, side, side], &device)).dims(), [1, spec.features()]);
    }
    let vit = EncoderConfig::Sam(SamEncoder { model: "sam-vit-b".to_owned(), init: None });
    assert!(EncoderSpec::new(&vit).unwrap_err().to_string().starts_with("encoder.model"));
}
