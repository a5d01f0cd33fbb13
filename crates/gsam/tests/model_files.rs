//! Weights from a base, adapters in files, merging, and what is refused.

#![allow(clippy::unwrap_used, reason = "a test may fail anywhere")]

mod model_common;

use std::collections::BTreeMap;
use std::path::Path;

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{Device, Distribution, Tensor};
use kirie_gsam::Segmenter;
use kirie_gsam::model::method::Lora;
use kirie_gsam::model::{
    MethodConfig, ModelError, SemanticConfig, SemanticModel, adapter_info, load_adapter, save_adapter,
    state_dict_hash,
};
use kirie_sam::checkpoint::{StateDict, state_dict_of, write_safetensors};
use kirie_sam::registry;
use model_common::{all, light, task, tiny_conv, tiny_vit};

/// A file of the plain model's weights, by the seed.
fn base_file(config: &SemanticConfig, seed: u64, path: &Path) -> StateDict {
    let device = Device::flex();
    device.seed(seed);
    let sam = config.sam.init(&device);
    let metadata = BTreeMap::from([("model".to_owned(), format!("{}-{seed}", config.base))]);
    write_safetensors(path, &state_dict_of(&sam), &metadata).unwrap();
    StateDict::open(path).unwrap()
}

/// Moves every trained parameter a little, as training would.
struct Disturb;
impl ModuleMapper for Disturb {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        if !param.is_require_grad() {
            return param;
        }
        param.map(|t| {
            let noise = Tensor::random(t.dims(), Distribution::Normal(0.0, 0.05), &t.device());
            (t + noise).detach().set_require_grad(true)
        })
    }
}

fn trained(config: &SemanticConfig, base: &StateDict) -> SemanticModel {
    let device = Device::flex().autodiff();
    let (model, _) = config.init_from(base, &device, 1).unwrap();
    let model = model.map(&mut Disturb);
    // Running statistics of batch norms move with a batch.
    let _ = model.logits(task(config.classes, &device).0);
    model.valid()
}

fn values(model: &SemanticModel) -> Vec<f32> {
    let device = Device::flex();
    model.logits(task(2, &device).0).into_data().iter::<f32>().collect()
}

fn furthest(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

#[test]
fn model_adapters_come_back_and_refuse_another_base() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let device = Device::flex();
    for (i, config) in all(3).into_iter().enumerate() {
        let base = base_file(&config, 1, &path(&format!("base-{i}")));
        let model = trained(&config, &base);
        let file = path(&format!("adapter-{i}"));
        let hash = state_dict_hash(&base).unwrap();
        save_adapter(&file, &model, &hash, r#"{"names":["a","b","c"]}"#).unwrap();
        let size = std::fs::metadata(&file).unwrap().len() as usize;
        let tensors = model.counts().stored_bytes;
        assert!(size >= tensors && size < tensors + 60_000, "{size} for {tensors} bytes of tensors");

        let (again, info) = load_adapter(&file, &base, &device).unwrap();
        let name = format!("{} on {}", config.method.name(), config.base);
        assert!(furthest(&values(&model), &values(&again)) < 1e-6, "{name}");
        assert_eq!(info, adapter_info(&file).unwrap());
        assert_eq!((info.config, info.classes.as_str()), (config.clone(), r#"{"names":["a","b","c"]}"#));

        let other = base_file(&config, 2, &path(&format!("other-{i}")));
        let error = load_adapter(&file, &other, &device).unwrap_err();
        assert!(matches!(error, ModelError::WrongBase { .. }));
        let text = error.to_string();
        assert!(text.contains(&format!("`{}`", config.base)) && text.contains(&hash), "{text}");
        assert!(text.contains(&format!("{}-2", config.base)), "{text}");
    }
}

#[test]
fn model_damaged_adapters_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let device = Device::flex();
    let config = tiny_conv(2, light("lora"));
    let base = base_file(&config, 1, &path("base"));
    let reason = |file: &Path| load_adapter(file, &base, &device).unwrap_err().to_string();
    assert!(reason(&path("base")).contains("no `format`"), "{}", reason(&path("base")));
    assert!(reason(&path("nothing")).contains("cannot read"));

    let model = trained(&config, &base);
    let file = path("adapter");
    save_adapter(&file, &model, &state_dict_hash(&base).unwrap(), "").unwrap();
    let whole = StateDict::open(&file).unwrap();
    let metadata: BTreeMap<_, _> = whole.metadata().clone().into_iter().collect();
    let tensors: Vec<_> = whole.keys().map(|key| (key.to_owned(), whole.read(key).unwrap())).collect();
    write_safetensors(path("short"), &tensors[1..], &metadata).unwrap();
    assert!(reason(&path("short")).contains("1 keys missing"), "{}", reason(&path("short")));
    let mut wrong = metadata.clone();
    wrong.insert("config".to_owned(), metadata["config"].replace("\"classes\":2", "\"classes\":1"));
    write_safetensors(path("wrong"), &tensors, &wrong).unwrap();
    assert!(reason(&path("wrong")).contains("classes is 1"), "{}", reason(&path("wrong")));
    let cut = std::fs::read(&file).unwrap();
    std::fs::write(path("cut"), &cut[..cut.len() - 4]).unwrap();
    assert!(reason(&path("cut")).contains("is it complete"), "{}", reason(&path("cut")));
}

#[test]
fn model_merges_into_a_plain_one() {
    let folder = tempfile::tempdir().unwrap();
    let wide = MethodConfig::Lora(Lora { qkv: "qkv".to_owned(), rank: 3, ..Lora::default() });
    let everything = MethodConfig::Lora(Lora { targets: Some("weight".to_owned()), ..Lora::default() });
    for (i, config) in [
        tiny_vit(3, light("lora")),
        tiny_vit(3, wide),
        tiny_vit(2, everything.clone()),
        tiny_vit(3, light("lora-gsam")),
        tiny_conv(3, light("lora")),
        tiny_conv(2, everything),
        tiny_conv(3, light("full")),
    ]
    .into_iter()
    .enumerate()
    {
        let base = base_file(&config, 1, &folder.path().join(format!("{i}")));
        let model = trained(&config, &base);
        let before = values(&model);
        let merged = model.merged().unwrap();
        let name = format!("{} on {}", config.method.name(), config.base);
        assert!(
            furthest(&before, &values(&merged)) < 2e-4,
            "{name}: {}",
            furthest(&before, &values(&merged))
        );
        let plain = SemanticConfig { method: MethodConfig::DecoderOnly {}, ..config };
        assert_eq!(merged.config(), &plain);
        let keys = |model: &SemanticModel| state_dict_of(model).into_iter().map(|t| t.0).collect::<Vec<_>>();
        assert_eq!(keys(&merged), keys(&plain.lazy(&Device::flex()).unwrap()), "{name}");
    }
    let error = tiny_vit(2, light("gsam")).init(&Device::flex(), 0).unwrap().merged().unwrap_err();
    assert!(error.to_string().contains("`gsam` cannot be merged"), "{error}");
}

#[test]
fn model_takes_what_fits_from_its_base() {
    let folder = tempfile::tempdir().unwrap();
    let device = Device::flex();
    let read = |base: &StateDict, key: &str| base.read(key).unwrap().values;
    for classes in [2, 4] {
        let config = tiny_vit(classes, light("gsam"));
        let base = base_file(&config, 1, &folder.path().join(format!("{classes}")));
        let (model, report) = config.init_from(&base, &device, 3).unwrap();
        let found: BTreeMap<_, _> = state_dict_of(&model).into_iter().collect();
        let unused: Vec<&str> = report.unused.iter().map(String::as_str).collect();
        assert_eq!(
            unused,
            if classes == 2 {
                vec!["image_encoder.pos_embed"]
            } else {
                let mlp = |i: usize| {
                    (0..3).flat_map(move |l| {
                        ["bias", "weight"]
                            .map(|p| format!("mask_decoder.output_hypernetworks_mlps.{i}.layers.{l}.{p}"))
                    })
                };
                let mut expected = vec!["image_encoder.pos_embed".to_owned()];
                expected.extend((1..4).flat_map(mlp));
                expected.leak().iter().map(String::as_str).collect()
            }
        );
        for added in [
            "cnn_embed",
            "MLP_Adapter",
            "refine_Adapter",
            "input_Adapter",
            "pos_embed.conv",
            "positional_encoder",
        ] {
            assert!(report.fresh.iter().any(|key| key.contains(added)), "{added}");
        }
        let frozen = "image_encoder.blocks.0.attn.qkv.weight";
        assert_eq!(found[frozen].values, read(&base, frozen));
        // Tables of a global block: half the grid.
        let table = &found["image_encoder.blocks.1.attn.rel_pos_h"];
        assert_eq!(table.shape, [3, 12]);
        let whole = read(&base, "image_encoder.blocks.1.attn.rel_pos_h");
        let middle = (0..12).map(|c| whole[3 * 12 + c]);
        assert!(middle.zip(&table.values[12..24]).all(|(a, b)| (a - b).abs() < 1e-6));

        let tokens = &found["mask_decoder.mask_tokens.weight"].values;
        let base_tokens = read(&base, "mask_decoder.mask_tokens.weight");
        let base_iou = read(&base, "mask_decoder.iou_token.weight");
        let iou = &found["mask_decoder.iou_token.weight"].values;
        let row = |table: &[f32], i: usize| table[i * 32..(i + 1) * 32].to_vec();
        if classes == 2 {
            assert_eq!((tokens, iou), (&base_tokens, &base_iou));
        } else {
            assert_eq!((tokens.len(), iou.len()), (17 * 32, 4 * 32));
            for i in 0..4 {
                assert_eq!(row(tokens, i), row(&base_tokens, 0));
                assert_eq!(row(iou, i), base_iou);
                let bias = format!("mask_decoder.output_hypernetworks_mlps.{i}.layers.1.bias");
                assert_eq!(
                    found[&bias].values,
                    read(&base, "mask_decoder.output_hypernetworks_mlps.0.layers.1.bias")
                );
            }
            assert_eq!(row(tokens, 5), row(&base_tokens, 1 + 5 % 3));
            // The published rows: one token of the classes lies in `mask_tokens`, the others in `iou_token`.
            let published = SemanticConfig { published_tokens: true, ..config.clone() };
            let (model, _) = published.init_from(&base, &device, 3).unwrap();
            let found: BTreeMap<_, _> = state_dict_of(&model).into_iter().collect();
            let iou = &found["mask_decoder.iou_token.weight"].values;
            assert_eq!(
                (row(iou, 0), row(iou, 1), row(iou, 3)),
                (base_iou.clone(), row(&base_tokens, 0), row(&base_tokens, 0))
            );
            // Such a checkpoint is taken as it is.
            let path = folder.path().join("own");
            write_safetensors(&path, &state_dict_of(&model), &BTreeMap::new()).unwrap();
            let (_, report) = published.init_from(&StateDict::open(&path).unwrap(), &device, 4).unwrap();
            assert!(
                report.adapted.is_empty() && report.fresh.is_empty() && report.unused.is_empty(),
                "{report}"
            );
        }
    }
    // Weights of something else.
    let vit = tiny_vit(2, light("full"));
    let other = base_file(&tiny_conv(2, light("full")), 1, &folder.path().join("other"));
    assert!(matches!(vit.init_from(&other, &device, 0), Err(ModelError::Foreign { .. })));
    let mut narrow = tiny_vit(2, light("full"));
    if let kirie_sam::encoders::EncoderConfig::Vit(encoder) = &mut narrow.sam.encoder {
        encoder.dim = 16;
    }
    let narrow = base_file(&narrow, 1, &folder.path().join("narrow"));
    let error = vit.init_from(&narrow, &device, 0).unwrap_err();
    assert!(matches!(error, ModelError::Shape { .. }), "{error}");
    let foreign = folder.path().join("foreign");
    let tensor = kirie_sam::HostTensor::new(vec![1], vec![0.0]).unwrap();
    write_safetensors(&foreign, &[("x".to_owned(), tensor)], &BTreeMap::new()).unwrap();
    let error = vit.init_from(&StateDict::open(&foreign).unwrap(), &device, 0).unwrap_err();
    assert!(matches!(error, ModelError::Foreign { .. }), "{error}");
}

/// With a base's weights and nothing learnt, two classes are SAM's single mask without a prompt.
#[test]
fn model_is_its_base_without_a_prompt() {
    use kirie_sam::DecodeMode;
    use kirie_sam::prompt_encoder::SparsePrompts;
    let folder = tempfile::tempdir().unwrap();
    let device = Device::flex();
    for (i, config) in [
        tiny_vit(2, light("decoder-only")),
        tiny_vit(2, light("lora")),
        tiny_conv(2, light("decoder-only")),
        tiny_conv(2, light("adapt-former")),
    ]
    .into_iter()
    .enumerate()
    {
        let base = base_file(&config, 5, &folder.path().join(format!("{i}")));
        let sam = kirie_sam::checkpoint::load(config.sam.init(&device), &base, "base", &device).unwrap();
        let side = config.preprocess.size as usize;
        let x = Tensor::<4>::random([1, 3, side, side], Distribution::Default, &device);
        let place = sam.prompt_encoder.dense_pe(&device);
        let embedding = sam.encode(x.clone()).embedding;
        let none = SparsePrompts::default();
        let expected = sam.decode(embedding, place, None, &none, None, DecodeMode::default()).masks;
        let (model, _) = config.init_from(&base, &device, 0).unwrap();
        let found = model.logits(x).narrow(1, 1, 1);
        assert_eq!(found.dims(), expected.dims());
        let scale = expected.clone().abs().max().into_scalar::<f32>();
        let difference = (found - expected).abs().max().into_scalar::<f32>();
        let name = format!("{} on {}", config.method.name(), config.base);
        assert!(difference < 1e-4 * scale, "{name}: {difference} of {scale}");
    }
}

/// Names and shapes of torchvision's ResNet-101 that GSAM's CNN branch begins with.
#[test]
fn model_resnet_has_torchvisions_names() {
    use kirie_gsam::model::cnn::ResnetEmbed;
    let config = tiny_vit(2, MethodConfig::named("gsam").unwrap());
    let model = config.lazy(&Device::flex()).unwrap();
    let keys = kirie_sam::checkpoint::module_keys(&model);
    let named: BTreeMap<String, Vec<usize>> = keys
        .into_iter()
        .filter_map(|k| {
            Some((ResnetEmbed::torchvision_name(k.key.strip_prefix("image_encoder.cnn_embed.")?)?, k.shape))
        })
        .collect();
    for (name, shape) in [
        ("conv1.weight", vec![64, 3, 7, 7]),
        ("bn1.running_var", vec![64]),
        ("layer1.0.downsample.0.weight", vec![256, 64, 1, 1]),
        ("layer2.0.conv2.weight", vec![128, 128, 3, 3]),
        ("layer2.0.downsample.1.running_mean", vec![512]),
        ("layer3.22.bn3.bias", vec![1024]),
        ("layer3.22.conv3.weight", vec![1024, 256, 1, 1]),
    ] {
        assert_eq!(named.get(name), Some(&shape), "{name}");
    }
    // Weights, biases, means, variances and counters of 94 convolutions and their norms.
    assert_eq!(named.len(), 94 * 6);
    let weights = StateDict::by_formula(
        named
            .into_iter()
            .map(|(key, shape)| kirie_sam::checkpoint::KeyShape { key, shape, optional: false })
            .collect(),
    );
    let (_, missing) = kirie_gsam::model::base::load_resnet(model, &weights).unwrap();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn model_methods_are_read_with_their_options() {
    let read = |json: &str| serde_json::from_str::<MethodConfig>(json);
    for name in kirie_gsam::model::METHODS {
        let method = read(&format!(r#"{{"name":"{name}"}}"#)).unwrap();
        assert_eq!(method, MethodConfig::named(name).unwrap());
        assert_eq!(method.name(), name);
        assert_eq!(read(&serde_json::to_string(&method).unwrap()).unwrap(), method);
        assert!(read(&format!(r#"{{"name":"{name}","nonsense":1}}"#)).is_err(), "{name}");
    }
    let Ok(MethodConfig::Gsam(gsam)) = read(r#"{"name":"gsam","pooled":0,"cnn":"light","dilations":[3]}"#)
    else {
        panic!("not read");
    };
    assert_eq!((gsam.pooled, gsam.dilations), (None, vec![3]));
    assert!(MethodConfig::named("qlora").is_err());
}

#[test]
fn model_settings_out_of_range_are_told() {
    let message = |config: SemanticConfig| config.init(&Device::flex(), 0).unwrap_err().to_string();
    let lora = |lora: Lora| tiny_vit(3, MethodConfig::Lora(lora));
    for (config, expected) in [
        (tiny_vit(1, light("full")), "classes is 1, expected 2 to 4096"),
        (lora(Lora { rank: 0, ..Lora::default() }), "method.rank is 0"),
        (lora(Lora { alpha: f64::NAN, ..Lora::default() }), "method.alpha is NaN"),
        (lora(Lora { qkv: "qx".to_owned(), ..Lora::default() }), "method.qkv is `qx`"),
        (lora(Lora { targets: Some("(".to_owned()), ..Lora::default() }), "a regular expression"),
        (lora(Lora { targets: Some("^nothing$".to_owned()), ..Lora::default() }), "matches no weight"),
        (
            tiny_conv(3, light("samus")),
            "method `samus` does not work with convolutional encoders; it works with the ViT",
        ),
        (tiny_conv(3, light("conv-lora")), "sam-vit-b"),
        (tiny_conv(3, light("lora-gsam")), "sam-vit-b"),
    ] {
        let found = message(config);
        assert!(found.contains(expected), "{found}");
    }
    let mobile = SemanticConfig::new(registry::variant("mobile-sam").unwrap(), 3, light("full"));
    assert!(message(mobile).contains("not from TinyViT"));
    let mut odd = tiny_conv(3, light("full"));
    odd.preprocess.size = 96;
    assert!(message(odd).contains("encoder.out_size is 20 for an input of 96"));
}

/// Every registered base of a kind that there are methods for can be made into a semantic model.
#[test]
fn model_of_every_registered_base_is_counted() {
    for variant in registry::variants() {
        let config = SemanticConfig::new(variant, 5, MethodConfig::named("gsam").unwrap());
        match config.counts(&Device::flex()) {
            Ok(counts) => assert!(counts.trained < counts.total, "{}", variant.name),
            Err(error) => assert!(matches!(error, ModelError::NoMethod { .. }), "{}: {error}", variant.name),
        }
    }
}
