//! Weight files: every layout that PyTorch writes, safetensors both ways, and files that are neither.
//!
//! `tests/make_checkpoints.py` made the files in `tests/data/checkpoints`. Their weights follow from their names, so
//! every value that is read here is compared with one that no file has touched.

#![allow(clippy::unwrap_used, clippy::large_stack_arrays, reason = "a test may fail anywhere")]

mod common;

use std::collections::BTreeMap;
use std::io::{Cursor, Write as _};
use std::path::Path;

use burn::tensor::{Device, Tensor};
use common::{MASK, Random, TINY, data, engine, picture, tiny_config, tiny_prompt_encoder};
use kirie_sam::checkpoint::{
    CheckpointError, KeyShape, Mismatch, StateDict, compare, load, module_keys, state_dict_of,
    write_safetensors,
};
use kirie_sam::prompt_encoder::PromptEncoder;
use kirie_sam::{BurnEngine, DecodeMode, Engine, HostTensor, Predictor, Prompt, SamError, formula};
use proptest::prelude::*;
use tempfile::TempDir;

fn open(name: &str) -> Result<StateDict, CheckpointError> {
    StateDict::open(data("checkpoints").join(name))
}

fn bytes(name: &str) -> Vec<u8> {
    std::fs::read(data("checkpoints").join(name)).unwrap()
}

/// Opens a file of these bytes and reads all of it.
fn open_bytes(bytes: &[u8]) -> Result<StateDict, CheckpointError> {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("weights");
    std::fs::write(&path, bytes).unwrap();
    open_whole(&path)
}

fn open_whole(path: &Path) -> Result<StateDict, CheckpointError> {
    let weights = StateDict::open(path)?;
    for key in weights.keys() {
        weights.read(key)?;
    }
    Ok(weights)
}

/// Bits, so that nothing passes for equal that is not.
fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

fn tiny_keys() -> Vec<KeyShape> {
    module_keys(&tiny_config().init(&Device::flex()))
}

fn prompt_encoder() -> PromptEncoder {
    tiny_prompt_encoder().init(&Device::flex())
}

/// The file has exactly these keys, with the values of the formula after `round`.
fn assert_is_formula(weights: &StateDict, keys: &[KeyShape], round: fn(f32) -> f32) {
    assert_eq!(compare(keys, weights), Mismatch::default());
    assert_eq!(weights.keys().count(), keys.len());
    for KeyShape { key, shape, .. } in keys {
        let found = weights.read(key).unwrap();
        let expected: Vec<f32> = formula::values(key, shape).into_iter().map(round).collect();
        assert_eq!(&found.shape, shape, "{key}");
        assert_eq!(bits(&found.values), bits(&expected), "{key}");
    }
}

/// The script reads the names and shapes of the tensors from these lists.
#[test]
fn key_lists_of_the_script_are_the_models() {
    for (name, keys) in
        [("tiny_keys.txt", tiny_keys()), ("prompt_encoder_keys.txt", module_keys(&prompt_encoder()))]
    {
        let line = |k: KeyShape| {
            let shape: Vec<String> = k.shape.iter().map(ToString::to_string).collect();
            format!("{} {}\n", k.key, shape.join("x"))
        };
        let expected: String = keys.into_iter().map(line).collect();
        assert_eq!(String::from_utf8(bytes(name)).unwrap(), expected, "{name} should read\n{expected}");
    }
}

#[test]
fn pt_and_safetensors_give_the_same_bits() {
    let device = Device::flex();
    let from_file = |name| {
        let weights = open(name).unwrap();
        assert_is_formula(&weights, &tiny_keys(), |v| v);
        BurnEngine::from_state_dict(&TINY, &weights, &device).unwrap()
    };
    let engines = [from_file("tiny.pt"), from_file("tiny.safetensors"), engine(&TINY)];
    assert_eq!(open("tiny.safetensors").unwrap().metadata()["model"], "tiny");

    let prompts =
        [Prompt::point(10.0, 12.0), Prompt::bbox(3.0, 4.0, 30.0, 21.0).with_mask(vec![1.0; MASK * MASK])];
    let answers = engines.iter().map(|engine| {
        let mut predictor = Predictor::new(engine);
        predictor.set_image(&picture(40, 25)).unwrap();
        let embedding = bits(&predictor.image().unwrap().embedding.image.values);
        let answers = predictor.predict(&prompts, DecodeMode { multimask: true, hq_only: false }).unwrap();
        let answers: Vec<_> =
            answers.iter().map(|a| (bits(&a.low_res.concat()), bits(&a.iou), a.low_res.len())).collect();
        (embedding, answers)
    });
    let answers: Vec<_> = answers.collect();
    assert_eq!(answers[0], answers[1]);
    assert_eq!(answers[0], answers[2]);
    // They do depend on picture, prompt and weights.
    assert_eq!(answers[0].1.len(), 2);
    assert_ne!(answers[0].1[0], answers[0].1[1]);
    assert!(answers[0].0.iter().any(|v| f32::from_bits(*v).abs() > 0.01));
}

#[test]
fn every_layout_of_pytorch_loads() {
    let device = Device::flex();
    let keys = module_keys(&prompt_encoder());
    for name in [
        "flat.pt",
        "plain_dict.pt",
        "state_dict.pt",
        "training_run.pt",
        "protocol4.pt",
        "legacy.pt",
        "legacy_state_dict.pt",
        "transposed.pt",
        "shared.pt",
        "legacy_shared.pt",
        "parameters.pt",
        "float64.pt",
    ] {
        let weights = open(name).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_is_formula(&weights, &keys, |v| v);
        let loaded = load(prompt_encoder(), &weights, "prompt encoder", &device).unwrap();
        for (key, tensor) in state_dict_of(&loaded) {
            assert_eq!(bits(&tensor.values), bits(&formula::values(&key, &tensor.shape)), "{name}: {key}");
        }
    }
}

#[test]
fn tensors_can_be_read_at_the_same_time() {
    for name in ["tiny.pt", "tiny.safetensors"] {
        let weights = open(name).unwrap();
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| assert_is_formula(&weights, &tiny_keys(), |v| v));
            }
        });
    }
}

#[test]
fn half_precision_is_widened_exactly() {
    let keys = module_keys(&prompt_encoder());
    assert_is_formula(&open("float16.pt").unwrap(), &keys, |v| half::f16::from_f32(v).to_f32());
    assert_is_formula(&open("bfloat16.pt").unwrap(), &keys, |v| half::bf16::from_f32(v).to_f32());
}

/// Files that PyTorch and Python themselves wrote.
#[test]
fn files_that_run_commands_are_refused_by_name() {
    for name in ["command_protocol2.pt", "command_protocol4.pt", "command_legacy.pt", "command_alone.pt"] {
        let error = open(name).unwrap_err();
        assert!(
            matches!(&error, CheckpointError::Unsafe { global, .. } if global == "posix.system"),
            "{error}"
        );
        let text = error.to_string();
        assert!(text.contains("posix.system") && text.contains(name) && text.contains("refused"), "{text}");
    }
    assert!(!Path::new("kirie-ran-a-command").exists());
}

/// A PyTorch archive with this pickle and no storages.
fn archive(pickle: &[u8]) -> Vec<u8> {
    let mut writer = zip::ZipWriter::new(Cursor::new(Vec::new()));
    let stored = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    for (name, content) in [("data.pkl", pickle), ("byteorder", b"little"), ("version", b"3\n")] {
        writer.start_file(format!("archive/{name}"), stored).unwrap();
        writer.write_all(content).unwrap();
    }
    writer.finish().unwrap().into_inner()
}

/// A file of the format before PyTorch 1.6 with this pickle and no storages.
fn legacy(pickle: &[u8]) -> Vec<u8> {
    let magic = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.";
    let system = b"\x80\x02}X\x0d\0\0\0little_endian\x88s.";
    [&magic[..], b"\x80\x02M\xe9\x03.", system, pickle, b"\x80\x02]."].concat()
}

/// A string as protocol 4 has it, without memo.
fn text(text: &str) -> Vec<u8> {
    [&[0x8c, text.len() as u8][..], text.as_bytes()].concat()
}

/// Opcodes of protocol 4 after one another.
macro_rules! pickle {
    ($($part:expr),+ $(,)?) => { [&b"\x80\x04"[..], $(&$part[..]),+, b"."].concat() };
}

#[test]
fn hidden_commands_are_refused_by_name() {
    let (os, system) = (text("os"), text("system"));
    let decoy = [text("collections"), text("OrderedDict")].concat();
    let call = [&text("true")[..], b"\x85R"].concat();
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("GLOBAL", pickle!(b"cos\nsystem\n", call)),
        ("INST", pickle!(b"(", text("true"), b"ios\nsystem\n")),
        ("OBJ", pickle!(b"(cos\nsystem\n", text("true"), b"o")),
        ("STACK_GLOBAL", pickle!(os, b"\x94", system, b"\x94\x93", call)),
        ("never called", pickle!(os, system, b"\x93")),
        ("strings of protocol 0", pickle!(b"S'os'\nVsystem\n\x93", call)),
        ("its result dropped", pickle!(os, system, b"\x93", call, b"0}")),
        ("its result dropped to a mark", pickle!(b"(", os, system, b"\x93", call, b"1}")),
        ("beside a tensor's own names", pickle!(b"ccollections\nOrderedDict\n0", os, system, b"\x93")),
        ("recalled from the memo", pickle!(os, b"q\x07", system, b"q\x0800h\x07h\x08\x93", call)),
        ("recalled by numbers in text", pickle!(os, b"p7\n", system, b"p8\n00g7\ng8\n\x93", call)),
        ("recalled by long numbers", pickle!(os, b"r\x07\0\0\0", system, b"\x940j\x07\0\0\0h\x01\x93", call)),
        ("a frame between", pickle!(os, system, b"\x95\0\0\0\0\0\0\0\0\x93", call)),
    ];
    for (name, pickle) in cases {
        for file in [archive(&pickle), legacy(&pickle), pickle.clone()] {
            let error = open_bytes(&file).unwrap_err();
            let named = matches!(&error, CheckpointError::Unsafe { global, .. } if global == "os.system");
            assert!(named, "{name}: {error}");
        }
    }

    // Where the name depends on what is left of the stack, or on a memo entry that was replaced by something from
    // there, it is enough that the file is refused.
    let unclear: Vec<(&str, Vec<u8>)> = vec![
        ("harmless names on top, popped", pickle!(os, system, decoy, b"00\x93", call)),
        ("harmless names on top, popped to a mark", pickle!(os, system, b"(", decoy, b"1\x93", call)),
        ("harmless names in a tuple, popped", pickle!(os, system, decoy, b"\x860\x93", call)),
        (
            "a memo entry replaced",
            pickle!(
                text("collections"),
                b"q\x000",
                text("OrderedDict"),
                b"q\x010",
                os,
                text("-"),
                b"0q\0",
                system,
                text("-"),
                b"0q\x0100h\0h\x01\x93",
                call
            ),
        ),
        ("a name that is no string", pickle!(os, b"K\x01\x93", call)),
        ("a name out of nowhere", pickle!(b"\x93")),
        ("the extension registry", pickle!(b"\x82\x01")),
        ("a way to any attribute", pickle!(b"cbuiltins\ngetattr\n", call)),
        ("code as text", pickle!(b"cbuiltins\neval\n", call)),
        ("another loader", pickle!(b"ctorch\nload\n", call)),
        ("a name that only looks like a storage", pickle!(b"ctorch\nos.system.Storage\n", call)),
    ];
    for (name, pickle) in unclear {
        for file in [archive(&pickle), legacy(&pickle), pickle.clone()] {
            let error = open_bytes(&file).unwrap_err();
            let refused = match &error {
                CheckpointError::Unsafe { .. } => true,
                CheckpointError::Format { reason, .. } => reason.contains("extension registry"),
                _ => false,
            };
            assert!(refused, "{name}: {error}");
        }
    }
}

/// At every length, of both of PyTorch's containers.
#[test]
fn truncated_files_are_errors() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("weights");
    for name in ["flat.pt", "shared.pt", "legacy.pt", "legacy_shared.pt", "small.safetensors"] {
        if name == "small.safetensors" {
            write_safetensors(&path, &state_dict_of(&prompt_encoder()), &BTreeMap::new()).unwrap();
        } else {
            std::fs::copy(data("checkpoints").join(name), &path).unwrap();
        }
        assert!(open_whole(&path).is_ok());
        let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
        for length in (0..file.metadata().unwrap().len()).rev() {
            file.set_len(length).unwrap();
            let error = open_whole(&path).unwrap_err();
            assert!(matches!(error, CheckpointError::Format { .. }), "{name} at {length}: {error}");
        }
    }
}

#[test]
fn what_is_no_checkpoint_is_an_error() {
    let picture = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/coffee.png");
    let mut random = Random(1);
    let noise: Vec<u8> = (0..5000).map(|_| random.next() as u8).collect();
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("nothing", vec![]),
        ("one byte", vec![0x80]),
        ("zeros", vec![0; 4096]),
        ("noise", noise.clone()),
        ("text", b"not a model\n".to_vec()),
        ("a web page", b"<!DOCTYPE html><html><body>404</body></html>".to_vec()),
        ("a picture", std::fs::read(picture).unwrap()),
        ("an archive of something else", {
            let mut writer = zip::ZipWriter::new(Cursor::new(Vec::new()));
            writer.start_file("readme.txt", zip::write::SimpleFileOptions::default()).unwrap();
            writer.write_all(b"hello").unwrap();
            writer.finish().unwrap().into_inner()
        }),
        ("an archive of noise", archive(&noise)),
        ("no tensors", archive(&pickle!(b"}"))),
        ("not a dictionary", archive(&pickle!(b"K\x01"))),
        ("a header of noise", [&100_u64.to_le_bytes()[..], b"{", &noise].concat()),
        ("an endless header", [&u64::MAX.to_le_bytes()[..], b"{", &noise].concat()),
    ];
    for (name, bytes) in cases {
        let error = open_bytes(&bytes).unwrap_err();
        assert!(matches!(error, CheckpointError::Format { .. }), "{name}: {error}");
    }
    let folder = TempDir::new().unwrap();
    assert!(matches!(StateDict::open(folder.path()), Err(CheckpointError::Io { .. })));
    let missing = StateDict::open(folder.path().join("nowhere.pt")).unwrap_err();
    assert!(matches!(&missing, CheckpointError::Io { .. }) && missing.to_string().contains("nowhere.pt"));
}

/// Pickles of few bytes that stand for values of exponential size or of great depth.
#[test]
fn pickles_that_grow_are_bounded() {
    let started = std::time::Instant::now();
    let doubling = b"q\x00h\x00\x86".repeat(60);
    let deep = b"\x85".repeat(1_000_000);
    for value in [doubling, deep] {
        assert!(open_bytes(&archive(&pickle!(b"}", text("a"), b"]", value, b"s"))).is_err());
    }
    assert!(started.elapsed().as_secs() < 20);
}

/// A safetensors file with this header and so many bytes of data.
fn safetensors_file(header: &str, data: usize) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &vec![0; data]].concat()
}

#[test]
fn safetensors_offsets_must_cover_the_data_once() {
    let two = |a: [usize; 2], b: [usize; 2], bytes: usize| {
        let tensor = |name: &str, [from, to]: [usize; 2]| {
            format!(r#""{name}":{{"dtype":"F32","shape":[2],"data_offsets":[{from},{to}]}}"#)
        };
        open_bytes(&safetensors_file(&format!("{{{},{}}}", tensor("a", a), tensor("b", b)), bytes))
    };
    let weights = two([0, 8], [8, 16], 16).unwrap();
    assert_eq!(weights.read("b").unwrap(), HostTensor { shape: vec![2], values: vec![0.0; 2] });
    assert!(two([8, 16], [0, 8], 16).is_ok(), "in any order");

    for (what, result) in [
        ("hole", two([0, 8], [12, 20], 20)),
        ("hole at the start", two([4, 12], [12, 20], 20)),
        ("overlap", two([0, 8], [4, 12], 12)),
        ("the same bytes", two([0, 8], [0, 8], 8)),
        ("too short for its shape", two([0, 8], [8, 12], 12)),
        ("backwards", two([0, 8], [16, 8], 16)),
        ("bytes behind the end", two([0, 8], [8, 16], 17)),
        ("beyond the end", two([0, 8], [8, 16], 15)),
    ] {
        assert!(matches!(result, Err(CheckpointError::Format { .. })), "{what}");
    }
    for header in [
        r#"{"a":{"dtype":"F32","shape":[4611686018427387904,8],"data_offsets":[0,0]}}"#,
        r#"{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,0]}}"#,
        r#"{"a":{"dtype":"X7","shape":[],"data_offsets":[0,0]}}"#,
        r#"{"a":{"dtype":"F32","data_offsets":[0,0]}}"#,
        r#"{"a":1}"#,
        "{",
    ] {
        let error = open_bytes(&safetensors_file(header, 0)).unwrap_err();
        assert!(matches!(error, CheckpointError::Format { .. }), "{header}: {error}");
    }
}

#[test]
fn safetensors_number_types() {
    let one = |dtype: &str, bytes: &[u8]| {
        let header =
            format!(r#"{{"a":{{"dtype":"{dtype}","shape":[1],"data_offsets":[0,{}]}}}}"#, bytes.len());
        open_bytes(&[&safetensors_file(&header, 0)[..], bytes].concat()).map(|w| w.read("a").unwrap().values)
    };
    assert_eq!(one("F32", &1.5_f32.to_le_bytes()).unwrap(), [1.5]);
    assert_eq!(one("F64", &(-2.25_f64).to_le_bytes()).unwrap(), [-2.25]);
    assert_eq!(one("F16", &half::f16::from_f32(0.5).to_le_bytes()).unwrap(), [0.5]);
    assert_eq!(one("BF16", &half::bf16::from_f32(-3.0).to_le_bytes()).unwrap(), [-3.0]);
    assert_eq!(one("I64", &7_i64.to_le_bytes()).unwrap(), [7.0]);
    let error = one("BOOL", &[1]).unwrap_err().to_string();
    assert!(error.contains("`a` is BOOL"), "{error}");
}

/// Weights of the prompt encoder after some change, as a file.
fn changed(change: impl FnOnce(&mut Vec<(String, HostTensor)>)) -> (TempDir, StateDict) {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("changed.safetensors");
    let mut tensors = state_dict_of(&prompt_encoder());
    change(&mut tensors);
    write_safetensors(&path, &tensors, &BTreeMap::new()).unwrap();
    let weights = StateDict::open(&path).unwrap();
    (folder, weights)
}

#[test]
fn every_difference_is_listed() {
    let (_folder, weights) = changed(|tensors| {
        tensors.retain(|(key, _)| key != "no_mask_embed.weight" && key != "mask_downscaling.3.bias");
        let (_, tensor) = tensors.iter_mut().find(|(key, _)| key == "mask_downscaling.6.weight").unwrap();
        tensor.shape.reverse();
        for key in ["extra", "mask_downscaling.7.weight"] {
            tensors.push((key.to_owned(), HostTensor { shape: vec![1], values: vec![0.0] }));
        }
    });
    let error = load(prompt_encoder(), &weights, "my model", &Device::flex()).unwrap_err();
    let text = error.to_string();
    let CheckpointError::Mismatch { model, mismatch, .. } = error else { panic!("{error}") };
    assert_eq!(model, "my model");
    assert_eq!(
        *mismatch,
        Mismatch {
            missing: vec!["mask_downscaling.3.bias".into(), "no_mask_embed.weight".into()],
            unexpected: vec!["extra".into(), "mask_downscaling.7.weight".into()],
            wrong_shape: vec![("mask_downscaling.6.weight".into(), vec![16, 8, 1, 1], vec![1, 1, 8, 16])],
            fits: None,
        }
    );
    for part in [
        "changed.safetensors",
        "my model",
        "2 keys missing, 2 unexpected, 1 of the wrong shape",
        "no_mask_embed.weight",
        "mask_downscaling.7.weight",
        "expected [16, 8, 1, 1], found [1, 1, 8, 16]",
    ] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
}

#[test]
fn weights_of_another_model_are_refused() {
    let error = BurnEngine::load(&TINY, &data("checkpoints").join("flat.pt"), &Device::flex()).unwrap_err();
    let SamError::Checkpoint(CheckpointError::Mismatch { mismatch, .. }) = error else { panic!("{error}") };
    assert_eq!(mismatch.unexpected.len(), module_keys(&prompt_encoder()).len());
    // Counters of batch norm may be absent.
    assert_eq!(mismatch.missing.len(), tiny_keys().iter().filter(|k| !k.optional).count());
    let text = mismatch.to_string();
    assert!(text.contains(&format!("and {} more", mismatch.missing.len() - 8)), "{text}");

    // All names behind `model.`, as a training script's wrapper class has them, are not a state dict under `model`.
    let prefixed = open("prefixed.pt").unwrap();
    let mismatch = compare(&module_keys(&prompt_encoder()), &prefixed);
    assert_eq!(mismatch.missing.len(), mismatch.unexpected.len());
    assert!(mismatch.unexpected.contains(&"model.no_mask_embed.weight".to_owned()));
}

#[test]
fn written_files_come_back_bit_for_bit() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("written.safetensors");
    let device = Device::flex();
    let model = load(tiny_config().init(&device), &open("tiny.pt").unwrap(), "tiny", &device).unwrap();
    let tensors = state_dict_of(&model);
    let keys: Vec<KeyShape> = tiny_keys();
    let names: Vec<&str> = keys.iter().map(|k| k.key.as_str()).collect();
    assert_eq!(tensors.iter().map(|(key, _)| key.as_str()).collect::<Vec<_>>(), names);
    let metadata = BTreeMap::from([("model".to_owned(), "tiny \"quoted\" 切り絵".to_owned())]);
    write_safetensors(&path, &tensors, &metadata).unwrap();

    let written = StateDict::open(&path).unwrap();
    assert_is_formula(&written, &keys, |v| v);
    assert_eq!(written.metadata().clone().into_iter().collect::<BTreeMap<_, _>>(), metadata);
    // The statistics of batch norm are no parameters, but they are in the file and in the model again.
    let again = state_dict_of(&load(tiny_config().init(&device), &written, "tiny", &device).unwrap());
    assert_eq!(again, tensors);
    let statistics: Vec<_> = again.iter().filter(|(key, _)| key.ends_with("running_var")).collect();
    assert!(statistics.len() > 10);
    assert!(statistics.iter().all(|(_, t)| t.values.iter().all(|v| *v > 1.0)));

    // The same bytes every time, whatever the order.
    let bytes = std::fs::read(&path).unwrap();
    let mut reversed = tensors;
    reversed.reverse();
    write_safetensors(&path, &reversed, &metadata).unwrap();
    assert!(std::fs::read(&path).unwrap() == bytes);

    // Types as PyTorch has them.
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    for (key, tensor) in file.tensors() {
        let counter = key.ends_with("num_batches_tracked");
        let expected = if counter { safetensors::Dtype::I64 } else { safetensors::Dtype::F32 };
        assert_eq!(tensor.dtype(), expected, "{key}");
    }
}

#[test]
fn odd_values_survive_writing() {
    let odd = vec![f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -0.0, f32::MIN_POSITIVE / 2.0, f32::MAX];
    let (_folder, weights) = changed(|tensors| {
        tensors.push(("odd".into(), HostTensor { shape: vec![2, 3], values: odd.clone() }));
        tensors.push(("empty".into(), HostTensor { shape: vec![0, 3], values: vec![] }));
        tensors.push(("scalar".into(), HostTensor { shape: vec![], values: vec![4.0] }));
    });
    assert_eq!(bits(&weights.read("odd").unwrap().values), bits(&odd));
    assert_eq!(weights.read("empty").unwrap(), HostTensor { shape: vec![0, 3], values: vec![] });
    assert_eq!(weights.read("scalar").unwrap(), HostTensor { shape: vec![], values: vec![4.0] });
    assert!(weights.read("nothing").unwrap_err().to_string().contains("`nothing`"));
}

/// Files from before PyTorch counted batches lack the counters.
#[test]
fn batch_counters_are_optional() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("old.safetensors");
    let device = Device::flex();
    let model = load(tiny_config().init(&device), &open("tiny.pt").unwrap(), "tiny", &device).unwrap();
    let mut tensors = state_dict_of(&model);
    tensors.retain(|(key, _)| !key.ends_with("num_batches_tracked"));
    write_safetensors(&path, &tensors, &BTreeMap::new()).unwrap();
    let engine = BurnEngine::load(&TINY, &path, &device).unwrap();
    let pixels = Tensor::<4>::ones([1, 3, 32, 32], &device);
    let (found, expected) = (engine.sam().encode(pixels.clone()), model.encode(pixels));
    assert_eq!(found.embedding.into_data(), expected.embedding.into_data());
    assert_eq!(engine.model(), "tiny");
}

#[test]
fn a_folder_that_is_not_there_is_an_error_and_leaves_nothing() {
    let folder = TempDir::new().unwrap();
    let occupied = folder.path().join("file");
    std::fs::write(&occupied, "x").unwrap();
    let result = write_safetensors(occupied.join("w.safetensors"), &[], &BTreeMap::new());
    assert!(matches!(result, Err(CheckpointError::Write(_))));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

/// Starts that send the reader down each of its roads.
fn start() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        Just(vec![]),
        Just(b"PK\x03\x04".to_vec()),
        Just(b"\x80\x02".to_vec()),
        Just(b"\x80\x04\x95".to_vec()),
        Just(legacy(b"\x80\x02").split_last_chunk::<4>().unwrap().0.to_vec()),
        (0_u64..200).prop_map(|length| [&length.to_le_bytes()[..], b"{"].concat()),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(512) })]

    #[test]
    fn arbitrary_bytes_never_panic(start in start(), rest in prop::collection::vec(any::<u8>(), 0..600)) {
        let _ = open_bytes(&[start, rest].concat());
    }

    #[test]
    fn arbitrary_pickles_never_panic(pickle in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = open_bytes(&archive(&pickle));
        let _ = open_bytes(&legacy(&pickle));
    }

    #[test]
    fn damaged_files_never_panic(
        name in prop::sample::select(vec!["flat.pt", "legacy.pt", "training_run.pt", "shared.pt"]),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
    ) {
        let mut file = bytes(name);
        for (place, value) in damage {
            let place = place.index(file.len());
            file[place] = value;
        }
        let _ = open_bytes(&file);
    }
}

/// A file that is part of the program reads as one on disk, and a cut one is told.
#[test]
fn weights_in_memory() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("w.safetensors");
    let tensor = HostTensor::new(vec![2, 3], (0..6).map(|i| i as f32).collect()).unwrap();
    write_safetensors(&path, &[("a".to_owned(), tensor.clone())], &BTreeMap::new()).unwrap();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    std::io::Write::write_all(&mut gzip, &std::fs::read(&path).unwrap()).unwrap();
    let bytes = gzip.finish().unwrap();
    assert_eq!(StateDict::from_gzip("inside", &bytes).unwrap().read("a").unwrap(), tensor);
    for length in [0, 5, 30, bytes.len() - 1] {
        let error = StateDict::from_gzip("inside", &bytes[..length]).unwrap_err().to_string();
        assert!(error.contains("inside"), "{error}");
    }
}
