//! Prompt encoder and mask decoder, for any number of prompts and points.

use burn::backend::ir::TensorId;
use burn::module::Module;
use burn::tensor::Tensor;
use kirie_sam::mask_decoder::MaskDecoder;
use kirie_sam::model::Sam;
use kirie_sam::prompt_encoder::PromptEncoder;

use crate::capture::{Port, Recorder, Recording, Side, record};
use crate::dims::{Dim, Symbol};
use crate::error::ExportError;
use crate::file::OnnxModel;
use crate::graph::Graph;
use crate::lower::lower;
use crate::prompts::{drawn, tokens};
use crate::proto::{AttributeProto, INT64};

/// Which inputs and outputs a decoder has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Convention {
    /// Those of `segment-anything`'s ONNX files: a mask to start from, and masks in the picture's size.
    Sam,
    /// Those of EfficientViT-SAM's: points and labels alone, and masks as the decoder makes them.
    Plain,
}

/// What is free, for a decoder with so many output tokens.
///
/// Burn's linear layers take the rows of all prompts together where that makes the product squarer, which is decided by the sizes. It is
/// not done for multiples of 32 rows, and always for a single one beside few prompts; so the numbers that the model is recorded with are
/// chosen to be on the same side of the decision both times. (On the other the shapes would follow the product of both numbers, and the
/// recording would be refused.)
fn symbols(output_tokens: usize) -> [Symbol; 2] {
    let points = |tokens: usize| tokens.next_multiple_of(32) - output_tokens;
    let few = points(output_tokens + 1);
    [Symbol { name: "num_prompts", probes: [2, 3] }, Symbol { name: "num_points", probes: [few, few + 32] }]
}

/// The parts of a model that the graph is of, under the names that their parameters have in the whole.
#[derive(Module, Debug)]
struct Parts {
    prompt_encoder: PromptEncoder,
    mask_decoder: MaskDecoder,
}

/// The decoder of a model as a graph; `B` prompts of `N` points each.
///
/// | | name | shape | in |
/// | --- | --- | --- | --- |
/// | in | `image_embeddings` | `[1, C, S, S]`, as the encoder gives them | both |
/// | in, HQ models | `hq_features` | `[1, C / 8, 4 S, 4 S]`, as the encoder gives them | both |
/// | in | `point_coords` | `[B, N, 2]`, `(x, y)` in the frame of 1024 pixels | both |
/// | in | `point_labels` | `[B, N]`: 1 on the object, 0 off it, 2 and 3 the corners of a box, -1 padding | both |
/// | in | `mask_input` | `[1, 1, 4 S, 4 S]`, logits of an earlier answer, for all prompts | `Sam` |
/// | in | `has_mask_input` | `[1]`: 1 if `mask_input` counts, 0 if not | `Sam` |
/// | in | `orig_im_size` | `[2]`: height and width of the picture | `Sam` |
/// | out | `masks` | `[B, M, height, width]`, logits | `Sam` |
/// | out | `masks` | `[B, M, 4 S, 4 S]`, logits in the frame | `Plain` |
/// | out | `iou_predictions` | `[B, M]` | both |
/// | out | `low_res_masks` | `[B, M, 4 S, 4 S]`, logits in the frame | `Sam` |
///
/// Mask 0 is the single one, the others are for an ambiguous prompt. An HQ model's have the high-quality mask added. Of prompts without
/// a box the published models expect one more point, with label -1.
///
/// # Errors
/// A model that uses operations the exporter does not know.
pub fn decoder(
    name: &str,
    model: &Sam,
    convention: Convention,
    metadata: &[(String, String)],
) -> Result<OnnxModel, ExportError> {
    let parts =
        Parts { prompt_encoder: model.prompt_encoder.clone(), mask_decoder: model.mask_decoder.clone() };
    let is_hq = parts.mask_decoder.hf_token.is_some();
    let output_tokens = 1 + parts.mask_decoder.output_hypernetworks_mlps.len() + usize::from(is_hq);
    let mut recording = record(&parts, &symbols(output_tokens), |parts, recorder| {
        decode(parts, recorder, convention, is_hq);
    })?;
    let mut graph = lower(&mut recording)?;
    if convention == Convention::Sam {
        enlarge(&mut graph, &mut recording, parts.prompt_encoder.frame());
    }
    Ok(OnnxModel::new(format!("{name} decoder"), graph, recording, metadata.to_vec()))
}

fn decode(parts: &Parts, recorder: &mut Recorder, convention: Convention, is_hq: bool) {
    use Side::{Fixed, Free};
    let (encoder, decoder) = (&parts.prompt_encoder, &parts.mask_decoder);
    let side = encoder.mask_side();
    let [_, dim] = encoder.no_mask_embed.weight.val().dims();
    let cells = [1, dim, side / 4, side / 4].map(Fixed);
    let image = recorder.input("image_embeddings", "what the encoder gives", cells);
    let hq = is_hq.then(|| {
        let shape = [1, dim / 8, side, side].map(Fixed);
        recorder.input("hq_features", "what the encoder gives beside the embedding", shape)
    });
    let about = "x, y in pixels of a frame whose longer side is 1024";
    let coords = recorder.input("point_coords", about, [Free(0), Free(1), Fixed(2)]);
    let about = "1 on the object, 0 off it, 2 and 3 the corners of a box, -1 padding";
    let labels = recorder.input("point_labels", about, [Free(0), Free(1)]);
    let earlier = (convention == Convention::Sam).then(|| {
        let about = "logits of an earlier answer, low_res_masks";
        let mask = recorder.input("mask_input", about, [1, 1, side, side].map(Fixed));
        let has = recorder.input("has_mask_input", "1 if mask_input counts, 0 if not", [Fixed(1)]);
        (mask, has.reshape([1, 1, 1, 1]))
    });

    let between = |has: &Tensor<4>, with: Tensor<4>, without: Tensor<4>| {
        with * has.clone() + without * (has.clone() * -1.0 + 1.0)
    };
    let dense = if encoder.draws_prompts() {
        let drawn = drawn(encoder, coords.clone(), &labels);
        encoder.mask(match earlier {
            Some((mask, has)) => between(&has, mask, drawn),
            None => drawn,
        })
    } else {
        match earlier {
            Some((mask, has)) => between(&has, encoder.mask(mask), encoder.no_mask()),
            None => encoder.no_mask(),
        }
    };
    let image_pe = encoder.dense_pe(&image.device());
    let sparse = tokens(encoder, coords, &labels);
    let answer = decoder.forward_all(image + dense, image_pe, Some(sparse), hq);
    let about = "logits in the frame, above 0 on the object";
    let name = if convention == Convention::Sam { "low_res_masks" } else { "masks" };
    recorder.output(name, about, &answer.masks);
    recorder.output("iou_predictions", "how good each mask is, by the model's own reckoning", &answer.iou);
}

/// Adds what brings masks to the picture's size: to the frame, the picture's part of it, to the picture; bilinear.
///
/// Its sizes follow numbers that are given, not shapes, so it cannot be recorded.
fn enlarge(graph: &mut Graph, recording: &mut Recording, frame: usize) {
    graph.enter("");
    graph.reserve("orig_im_size");
    graph.reserve("masks");
    let integers = |graph: &mut Graph, value: &str| {
        graph.node("Cast", &[value], vec![AttributeProto::int("to", INT64.into())])
    };
    let at_zero = graph.ints(&[0]);

    let shape = graph.node("Shape", &["low_res_masks"], Vec::new());
    let two = graph.ints(&[2]);
    let count = graph.node("Slice", &[&shape, &at_zero, &two], Vec::new());
    let resized = |graph: &mut Graph, masks: &str, size: &str| {
        let sizes = graph.node("Concat", &[&count, size], vec![AttributeProto::int("axis", 0)]);
        let attributes = vec![
            AttributeProto::string("mode", "linear"),
            AttributeProto::string("coordinate_transformation_mode", "half_pixel"),
        ];
        graph.node("Resize", &[masks, "", "", &sizes], attributes)
    };
    let square = graph.ints(&[frame as i64; 2]);
    let in_frame = resized(graph, "low_res_masks", &square);

    // The longer side of the picture fills the frame.
    let attributes = vec![AttributeProto::ints("axes", [0]), AttributeProto::int("keepdims", 1)];
    let longer = graph.node("ReduceMax", &["orig_im_size"], attributes);
    let (frame, half) = (graph.scalar(frame as f64), graph.scalar(0.5));
    let scale = graph.node("Div", &[&frame, &longer], Vec::new());
    let scaled = graph.node("Mul", &["orig_im_size", &scale], Vec::new());
    let rounded = graph.node("Add", &[&scaled, &half], Vec::new());
    let rounded = graph.node("Floor", &[&rounded], Vec::new());
    let part = integers(graph, &rounded);
    let (starts, axes) = (graph.ints(&[0, 0]), graph.ints(&[2, 3]));
    let cut = graph.node("Slice", &[&in_frame, &starts, &part, &axes], Vec::new());
    let original = integers(graph, "orig_im_size");
    let masks = resized(graph, &cut, &original);
    graph.output(&masks, "masks");

    let port = |name, about, dims| Port { name, about, id: TensorId::new(u64::MAX), dims };
    let about = "height and width of the picture";
    recording.inputs.push(port("orig_im_size", about, vec![Dim::Fixed(2)]));
    let free = |symbol| Dim::Free { symbol, times: 1, plus: 0 };
    let first = recording.symbols.len();
    for name in ["height", "width"] {
        recording.symbols.push(Symbol { name, probes: [0, 0] });
    }
    let mut dims: Vec<Dim> = recording.outputs.first().map_or_else(Vec::new, |port| port.dims[..2].to_vec());
    dims.extend([free(first), free(first + 1)]);
    let about = "logits in the picture's size, above 0 on the object";
    // In the order of segment-anything's files.
    recording.outputs.reverse();
    recording.outputs.insert(0, port("masks", about, dims));
}
