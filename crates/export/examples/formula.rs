//! Exports registered models with weights by formula, and writes what kirie answers beside them, for `peers/onnxruntime_check.py`.
//!
//!     cargo run --release -p kirie-export --example formula -- DIR [NAME]...

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "an example may say what it does, and fail")]

use std::collections::BTreeMap;
use std::path::Path;

use burn::tensor::{Device, Tensor, TensorData};
use kirie_export::{Convention, write_promptable};
use kirie_sam::checkpoint::{StateDict, module_keys, write_safetensors};
use kirie_sam::prompt_encoder::{SparsePrompts, TokenLabel};
use kirie_sam::{BurnEngine, DecodeMode, HostTensor, registry};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (folder, names) = arguments.split_first().expect("DIR [NAME]...");
    for variant in registry::variants() {
        if !names.is_empty() && !names.iter().any(|name| name == variant.name) {
            continue;
        }
        let device = Device::flex();
        let weights = StateDict::by_formula(module_keys(&variant.config().init(&device)));
        let engine = BurnEngine::from_state_dict(variant, &weights, &device).unwrap();
        drop(weights);
        let (sam, preprocess) = (engine.sam(), variant.preprocess);
        let folder = Path::new(folder).join(variant.name);
        let plain = write_promptable(&folder, variant, sam, &preprocess, Convention::Plain).unwrap();
        // The other convention's decoder goes beside it.
        let decoder = &plain.graphs[1].model;
        std::fs::rename(decoder, decoder.with_extension("plain.onnx")).unwrap();
        let bundle = write_promptable(&folder, variant, sam, &preprocess, Convention::Sam).unwrap();
        for graph in &bundle.graphs {
            println!("{}: {} bytes", graph.model.display(), graph.bytes);
        }

        let side = preprocess.size as usize;
        let picture: Vec<f32> = (0..3 * side * side)
            .map(|i| {
                let (channel, y, x) = (i / (side * side), i / side % side, i % side);
                ((x as f32 * 0.05 + channel as f32).sin()
                    + (y as f32 * 0.031).cos()
                    + (x * y % 97) as f32 / 97.0)
                    * 0.8
            })
            .collect();
        let image = Tensor::<4>::from_data(TensorData::new(picture, [1, 3, side, side]), &device);
        let encoded = sam.encode(image.clone());
        let hq = sam.mask_decoder.hq_features(&encoded);
        let prompts = SparsePrompts {
            tokens: 2,
            coords: vec![
                [100.0, 150.0],
                [600.0, 520.0],
                [500.0, 300.0],
                [0.0, 0.0],
                [400.5, 80.0],
                [420.0, 90.0],
            ],
            labels: {
                use TokenLabel::{BoxBottomRight, BoxTopLeft, Negative, Padding, Positive};
                vec![BoxTopLeft, BoxBottomRight, Positive, Padding, Negative, Positive]
            },
        };
        let coords: Vec<f32> = prompts.coords.iter().flatten().copied().collect();
        let pe = sam.prompt_encoder.dense_pe(&device);
        let mode = DecodeMode::default();
        let side = sam.prompt_encoder.mask_side();
        let earlier: Vec<f32> = (0..side * side).map(|i| ((i % side) as f32 * 0.1).sin() * 8.0).collect();
        let earlier = Tensor::<4>::from_data(TensorData::new(earlier, [1, 1, side, side]), &device);
        let decode =
            |mask| sam.decode(encoded.embedding.clone(), pe.clone(), hq.clone(), &prompts, mask, mode);
        let (without, with) = (decode(None), decode(Some(earlier.clone())));
        let mut tensors = vec![
            ("image", HostTensor::from_burn(image).unwrap()),
            ("image_embeddings", HostTensor::from_burn(encoded.embedding.clone()).unwrap()),
            ("point_coords", HostTensor::new(vec![3, 2, 2], coords).unwrap()),
            ("point_labels", HostTensor::new(vec![3, 2], vec![2.0, 3.0, 1.0, -1.0, 0.0, 1.0]).unwrap()),
            ("mask_input", HostTensor::from_burn(earlier).unwrap()),
            ("mask_0", HostTensor::from_burn(without.masks).unwrap()),
            ("iou_0", HostTensor::from_burn(without.iou).unwrap()),
            ("mask_0_from_mask", HostTensor::from_burn(with.masks).unwrap()),
        ];
        if let Some(hq) = &hq {
            tensors.push(("hq_features", HostTensor::from_burn(hq.clone()).unwrap()));
        }
        let tensors: Vec<_> = tensors.into_iter().map(|(name, tensor)| (name.to_owned(), tensor)).collect();
        write_safetensors(folder.join("answers.safetensors"), &tensors, &BTreeMap::new()).unwrap();
    }
}
