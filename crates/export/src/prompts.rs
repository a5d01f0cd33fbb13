//! Prompts to what the decoder sees, with operations on tensors alone.
//!
//! `kirie_sam` turns prompts into numbers before the model sees them; a graph has to do it by itself, from points and labels of any number.
//! Labels are those of `segment-anything`'s ONNX files: -1 padding, 0 off the object, 1 on it, 2 and 3 the corners of a box.

use burn::tensor::{Tensor, TensorData};
use kirie_sam::prompt_encoder::PromptEncoder;

/// Points `[B, N, 2]` as `(x, y)` in the frame's pixels and labels `[B, N]` to tokens `[B, N, C]`.
pub(crate) fn tokens(encoder: &PromptEncoder, coords: Tensor<3>, labels: &Tensor<2>) -> Tensor<3> {
    let unit = (coords + 0.5) / encoder.frame() as f32;
    let matrix = encoder.pe_layer.positional_encoding_gaussian_matrix.val().unsqueeze_dim::<3>(0);
    let angles = (unit * 2.0 - 1.0).matmul(matrix) * (2.0 * std::f64::consts::PI);
    let places = Tensor::cat(vec![angles.clone().sin(), angles.cos()], 2);
    let padding = is(labels, -1.0);
    let kind = |weight: Tensor<2>, mask: Tensor<3>| mask * weight.unsqueeze_dim::<3>(0);
    let mut sum =
        places * (padding.clone() * -1.0 + 1.0) + kind(encoder.not_a_point_embed.weight.val(), padding);
    for (label, embedding) in encoder.point_embeddings.iter().enumerate() {
        sum = sum + kind(embedding.weight.val(), is(labels, label as f32));
    }
    sum
}

/// Where the labels are so: `[B, N, 1]` of zeros and ones.
fn is(labels: &Tensor<2>, label: f32) -> Tensor<3> {
    labels.clone().equal_scalar(label).float().unsqueeze_dim::<3>(2)
}

/// Prompts drawn as pictures, `[B, 1, side, side]`, as [`PromptEncoder::without_mask`] describes it: the box, and over it discs of the points,
/// a later one over an earlier one.
pub(crate) fn drawn(encoder: &PromptEncoder, coords: Tensor<3>, labels: &Tensor<2>) -> Tensor<4> {
    const RADIUS: f64 = 2.5;
    let side = encoder.mask_side();
    let scale = side as f32 / encoder.frame() as f32;
    let device = coords.device();
    let ramp: Vec<f32> = (0..side).map(|i| i as f32).collect();
    let line = |shape: [usize; 4]| Tensor::<4>::from_data(TensorData::new(ramp.clone(), shape), &device);
    let (rows, columns) = (line([1, 1, side, 1]), line([1, 1, 1, side]));

    // [B, N, 1, 1]
    let coords = coords * scale;
    let part = |i: usize| coords.clone().narrow(2, i, 1).unsqueeze_dim::<4>(3);
    let (x, y) = (part(0), part(1));
    let is = |label: f32| is(labels, label).unsqueeze_dim::<4>(3);

    let (first, last) = (is(2.0), is(3.0));
    // Of the one token that is a corner its place, [B, 1, 1, 1].
    let corner = |mask: &Tensor<4>, place: &Tensor<4>| (mask.clone() * place.clone()).sum_dim(1);
    // The share of each line and column that the box covers.
    let cover = |line: &Tensor<4>, place: &Tensor<4>| {
        let until = |mask: &Tensor<4>| (corner(mask, place) - line.clone()).clamp(0.0, 1.0);
        until(&last) - until(&first)
    };
    let has_box = first.clone().sum_dim(1).clamp(0.0, 1.0) * last.clone().sum_dim(1).clamp(0.0, 1.0);
    let inside = cover(&rows, &y) * cover(&columns, &x);
    let map = (inside * 2.0 - 1.0) * has_box;

    // Every disc carries the number of its point, doubled, and one more if the point is on the object: the largest number at a place
    // says what is on top there.
    let (on, off) = (is(1.0), is(0.0));
    let number = (on.clone() * 0.0 + 1.0).cumsum(1) * 2.0;
    let number = (number.clone() + 1.0) * on + number * off;
    let (dx, dy) = (columns + 0.5 - x, rows + 0.5 - y);
    let near = (dx.clone() * dx + dy.clone() * dy).lower_equal_scalar(RADIUS * RADIUS).float();
    let top = (near * number).max_dim(1);
    let covered = top.clone().clamp(0.0, 1.0);
    let positive = top.clone() - (top / 2.0).floor() * 2.0;
    map * (covered.clone() * -1.0 + 1.0) + covered * (positive * 4.0 - 2.0)
}
