//! Exported graphs give what the models give.

#![allow(clippy::unwrap_used, reason = "a test may fail anywhere")]

mod common;

use burn::tensor::{Device, Tensor, TensorData};
use common::{
    Answer, DIM, EMBEDDING, FRAME, Given, INPUT, PREPROCESS, drawing, efficientvit, given, made, numbers,
    run, sam, same, tiny_vit, vit,
};
use kirie_export::{Convention, OnnxModel, decoder, encoder, write_promptable};
use kirie_nn::resize::{Interpolation, resize};
use kirie_sam::DecodeMode;
use kirie_sam::checkpoint::module_keys;
use kirie_sam::model::Sam;
use kirie_sam::prompt_encoder::{SparsePrompts, TokenLabel};
use kirie_sam::registry;

/// What every runtime knows; nothing in a graph is left to be found out by the one who runs it.
const KNOWN: [&str; 38] = [
    "Add",
    "Cast",
    "Clip",
    "Concat",
    "Conv",
    "ConvTranspose",
    "Cos",
    "CumSum",
    "Div",
    "Equal",
    "Erf",
    "Expand",
    "Floor",
    "Gather",
    "Identity",
    "LayerNormalization",
    "LessOrEqual",
    "MatMul",
    "Max",
    "Mul",
    "ReduceMax",
    "ReduceMean",
    "ReduceSum",
    "Relu",
    "Reshape",
    "Resize",
    "Shape",
    "Sigmoid",
    "Sin",
    "Slice",
    "Softmax",
    "Sqrt",
    "Squeeze",
    "Sub",
    "Transpose",
    "Unsqueeze",
    "Where",
    "GlobalAveragePool",
];

#[test]
fn encoders_give_the_same_embedding() {
    let configs = [
        ("efficientvit", sam(efficientvit(), None)),
        ("vit", sam(vit(), None)),
        ("tiny vit", sam(tiny_vit(), None)),
        ("hq vit", sam(vit(), Some(8))),
    ];
    for (name, config) in configs {
        let model = made(&config);
        let exported = encoder(name, &model, &PREPROCESS, &[]).unwrap();
        let picture = numbers([1, 3, INPUT, INPUT], 1);
        let found = run(&exported, &[given("image", &picture)]);
        let expected = model.encode(picture);
        same(name, &found[0], &expected.embedding);
        if let Some(features) = model.mask_decoder.hq_features(&expected) {
            same(name, &found[1], &features);
        }
        assert_eq!(found.len(), exported.outputs().len());
        plain(name, &exported, &model);
    }
}

/// Norms are folded, parameters have their names, and no unusual operation is used.
fn plain(name: &str, exported: &OnnxModel, model: &Sam) {
    for operation in exported.operations() {
        assert!(KNOWN.contains(&operation), "{name}: {operation}");
    }
    let keys: Vec<String> = module_keys(model).into_iter().map(|key| key.key).collect();
    let mut named = 0;
    for (constant, shape) in exported.constants() {
        let parameter = constant.split(".folded").next().unwrap();
        if shape.len() > 1 && parameter.contains('.') {
            assert!(keys.iter().any(|key| key == parameter), "{name}: {constant}");
            named += 1;
        }
    }
    assert!(named > 10, "{name}: {named}");
}

/// One prompt of a few, with its tokens in every order that matters.
fn prompts(count: usize, tokens: usize) -> SparsePrompts {
    use TokenLabel::{BoxBottomRight, BoxTopLeft, Negative, Padding, Positive};
    let kinds: [&[TokenLabel]; 3] = match tokens {
        1 => [&[Positive], &[Negative], &[Padding]],
        2 => [&[BoxTopLeft, BoxBottomRight], &[Positive, Padding], &[Negative, Positive]],
        _ => [
            &[Positive, BoxTopLeft, BoxBottomRight],
            &[Positive, Negative, Padding],
            &[Negative, Positive, Positive],
        ],
    };
    let labels: Vec<TokenLabel> = kinds[..count].concat();
    let coords = (0..labels.len()).map(|i| match labels[i] {
        BoxTopLeft => [5.5, 9.25],
        BoxBottomRight => [50.0, 41.5],
        // near to each other, so that one disc lies over another
        _ => [30.0 + 3.0 * i as f32, 22.5 - 2.0 * i as f32],
    });
    SparsePrompts { tokens, coords: coords.collect(), labels }
}

/// The same as inputs of a graph.
fn asked(prompts: &SparsePrompts) -> [Given; 2] {
    let count = prompts.labels.len() / prompts.tokens;
    let coords = prompts.coords.iter().flatten().copied().collect();
    let labels = prompts.labels.iter().map(|label| match label {
        TokenLabel::Padding => -1.0,
        TokenLabel::Negative => 0.0,
        TokenLabel::Positive => 1.0,
        TokenLabel::BoxTopLeft => 2.0,
        TokenLabel::BoxBottomRight => 3.0,
    });
    [
        ("point_coords", vec![count, prompts.tokens, 2], coords),
        ("point_labels", vec![count, prompts.tokens], labels.collect()),
    ]
}

#[test]
fn decoders_give_the_same_masks_for_any_number_of_prompts_and_points() {
    let configs = [
        ("sam", sam(efficientvit(), None)),
        ("hq", sam(vit(), Some(8))),
        ("drawing", drawing(efficientvit())),
    ];
    let device = Device::flex();
    for (name, config) in configs {
        let model = made(&config);
        let image = numbers([1, DIM, EMBEDDING, EMBEDDING], 2);
        let image_pe = model.prompt_encoder.dense_pe(&device);
        let side = 4 * EMBEDDING;
        let hq = config.mask_decoder.hq_early_channels.map(|_| numbers([1, DIM / 8, side, side], 3));
        let earlier = numbers([1, 1, side, side], 4) * 5.0;
        let exported = |convention| decoder(name, &model, convention, &[]).unwrap();
        let plain_form = exported(Convention::Plain);
        let sam_form = exported(Convention::Sam);
        plain(name, &plain_form, &model);
        plain(name, &sam_form, &model);
        for (count, tokens) in [(1, 1), (1, 2), (3, 1), (3, 2), (2, 3)] {
            let what = format!("{name}, {count} prompts of {tokens}");
            let prompts = prompts(count, tokens);
            let expect = |multimask, mask: Option<Tensor<4>>| {
                let mode = DecodeMode { multimask, hq_only: false };
                model.decode(image.clone(), image_pe.clone(), hq.clone(), &prompts, mask, mode)
            };
            let mut inputs = vec![given("image_embeddings", &image)];
            inputs.extend(hq.as_ref().map(|hq| given("hq_features", hq)));
            inputs.extend(asked(&prompts));
            let check = |what: &str, masks: &Answer, iou: &Answer, mask: Option<Tensor<4>>| {
                let all = Tensor::<4>::from_data(TensorData::new(masks.1.clone(), masks.0.clone()), &device);
                let iou = Tensor::<2>::from_data(TensorData::new(iou.1.clone(), iou.0.clone()), &device);
                let part = |tensor: &Tensor<4>, first, count| {
                    let part = tensor.clone().narrow(1, first, count);
                    (part.dims().to_vec(), common::values(&part))
                };
                let single = expect(false, mask.clone());
                same(what, &part(&all, 0, 1), &single.masks);
                let several = expect(true, mask);
                if hq.is_none() {
                    same(what, &part(&all, 1, 3), &several.masks);
                    let rest = iou.clone().narrow(1, 1, 3);
                    same(what, &(rest.dims().to_vec(), common::values(&rest)), &several.iou);
                } else {
                    // An HQ model's answer is the best of them.
                    let ious = common::values(&iou);
                    for prompt in 0..count {
                        let of = &ious[4 * prompt..4 * prompt + 4];
                        let best = (1..4).fold(1, |best, i| if of[i] > of[best] { i } else { best });
                        let mask = all.clone().narrow(0, prompt, 1).narrow(1, best, 1);
                        let expected = several.masks.clone().narrow(0, prompt, 1);
                        same(what, &(mask.dims().to_vec(), common::values(&mask)), &expected);
                    }
                }
            };
            let found = run(&plain_form, &inputs);
            check(&what, &found[0], &found[1], None);

            for has in [0.0, 1.0] {
                let mut inputs = inputs.clone();
                inputs.push(given("mask_input", &earlier));
                inputs.push(("has_mask_input", vec![1], vec![has]));
                inputs.push(("orig_im_size", vec![2], vec![21.0, 47.0]));
                let found = run(&sam_form, &inputs);
                check(&what, &found[2], &found[1], (has > 0.0).then(|| earlier.clone()));
                // The frame's 64 pixels stand for the 47 of the longer side; the shorter has 21 * 64 / 47 = 28.6 of them.
                let low = Tensor::from_data(TensorData::new(found[2].1.clone(), found[2].0.clone()), &device);
                let frame = resize(low, [FRAME; 2], Interpolation::Bilinear).narrow(2, 0, 29);
                same(&what, &found[0], &resize(frame, [21, 47], Interpolation::Bilinear));
            }
        }
    }
}

#[test]
fn the_files_describe_themselves() {
    let folder = tempfile::tempdir().unwrap();
    let variant = registry::variant("kirie-small").unwrap();
    let model = made(&drawing(efficientvit()));
    let into = folder.path().join("new/folder");
    let bundle = write_promptable(&into, variant, &model, &PREPROCESS, Convention::Plain).unwrap();
    let text = std::fs::read_to_string(&bundle.description).unwrap();
    let about: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(about["preprocess"]["longer_side"], 32);
    assert_eq!(about["prompts"]["zoom"], 1.2);
    assert_eq!(about["prompts"]["one_mask"], "mask 0");
    for (part, graph) in ["encoder", "decoder"].iter().zip(&bundle.graphs) {
        let loaded = rten::Model::load_file(into.join(about[part]["file"].as_str().unwrap())).unwrap();
        assert_eq!(loaded.input_ids().len(), about[part]["inputs"].as_array().unwrap().len());
        assert_eq!(std::fs::metadata(&graph.model).unwrap().len(), graph.bytes);
    }
    assert!(text.contains("\"mean\": [\n      123.0,"), "{text}");
}

#[test]
fn inputs_and_outputs_are_those_of_the_conventions() {
    let model = made(&sam(efficientvit(), None));
    let shapes = |exported: &OnnxModel| {
        let describe = |tensors: Vec<kirie_export::Tensor>| {
            let each = tensors
                .into_iter()
                .map(|tensor| format!("{}{}", tensor.name, serde_json::json!(tensor.shape)));
            each.collect::<Vec<_>>().join(" ")
        };
        format!("{} -> {}", describe(exported.inputs()), describe(exported.outputs()))
    };
    let found = shapes(&decoder("tiny", &model, Convention::Sam, &[]).unwrap());
    assert_eq!(
        found,
        "image_embeddings[1,16,4,4] point_coords[\"num_prompts\",\"num_points\",2] point_labels[\"num_prompts\",\"num_points\"] \
         mask_input[1,1,16,16] has_mask_input[1] orig_im_size[2] -> masks[\"num_prompts\",4,\"height\",\"width\"] \
         iou_predictions[\"num_prompts\",4] low_res_masks[\"num_prompts\",4,16,16]"
    );
    let found = shapes(&decoder("tiny", &model, Convention::Plain, &[]).unwrap());
    assert_eq!(
        found,
        "image_embeddings[1,16,4,4] point_coords[\"num_prompts\",\"num_points\",2] point_labels[\"num_prompts\",\"num_points\"] \
         -> masks[\"num_prompts\",4,16,16] iou_predictions[\"num_prompts\",4]"
    );
    let found = shapes(&encoder("tiny", &model, &PREPROCESS, &[]).unwrap());
    assert_eq!(found, "image[1,3,32,32] -> image_embeddings[1,16,4,4]");
}
