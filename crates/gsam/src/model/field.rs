//! Pictures of any size through networks with a stride, and back, without losing or shifting the field of view.

use burn::tensor::{Int, Tensor, TensorData};

/// Repeats the last line and column until height and width are multiples of `multiple`: what goes on as it ended disturbs a
/// network less than an edge that is not in the picture.
pub(crate) fn pad_to_multiple(x: Tensor<4>, multiple: usize) -> Tensor<4> {
    let [batch, channels, height, width] = x.dims();
    let (to_height, to_width) = (height.next_multiple_of(multiple), width.next_multiple_of(multiple));
    let mut x = x;
    if to_height > height {
        let last = x.clone().narrow(2, height - 1, 1);
        x = Tensor::cat(vec![x, last.expand([batch, channels, to_height - height, width])], 2);
    }
    if to_width > width {
        let last = x.clone().narrow(3, width - 1, 1);
        x = Tensor::cat(vec![x, last.expand([batch, channels, to_height, to_width - width])], 3);
    }
    x
}

/// The inverse for what the network made: of a map with one value per `stride` pixels the part over a picture of `size` =
/// `[height, width]` pixels, as `[ceil(height / stride), ceil(width / stride)]` values that cover it exactly.
///
/// Where the stride divides the size that is a cut; elsewhere values are taken between two, since the last one of the map reaches
/// beyond the picture.
pub(crate) fn cut(map: Tensor<4>, size: [usize; 2], stride: usize) -> Tensor<4> {
    let [.., rows, columns] = map.dims();
    let device = map.device();
    let matrix = |length: usize, values: usize| {
        let (output, data) = cut_matrix(length, values, stride);
        Tensor::<4>::from_data(TensorData::new(data, [1, 1, output, values]), &device)
    };
    let mut map = map;
    if size[0].is_multiple_of(stride) {
        map = map.narrow(2, 0, (size[0] / stride).min(rows));
    } else {
        map = matrix(size[0], rows).matmul(map);
    }
    if size[1].is_multiple_of(stride) {
        map.narrow(3, 0, (size[1] / stride).min(columns))
    } else {
        map.matmul(matrix(size[1], columns).swap_dims(2, 3))
    }
}

/// Weights that sample a line of `values` values, `stride` pixels each, over its first `length` pixels; `[output, values]`.
fn cut_matrix(length: usize, values: usize, stride: usize) -> (usize, Vec<f32>) {
    let output = length.div_ceil(stride);
    let step = length as f64 / output as f64 / stride as f64;
    let mut data = vec![0.0_f32; output * values];
    for (o, row) in data.chunks_exact_mut(values).enumerate() {
        let centre = ((o as f64 + 0.5) * step - 0.5).clamp(0.0, (values - 1) as f64);
        let low = centre.floor() as usize;
        let t = centre - low as f64;
        row[low] += (1.0 - t) as f32;
        if t > 0.0 {
            row[low + 1] += t as f32;
        }
    }
    (output, data)
}

/// Resizes `[batch, channels, height, width]` to `size` by the value at the floor of the scaled place (PyTorch's `nearest`).
pub(crate) fn nearest(x: Tensor<4>, size: [usize; 2]) -> Tensor<4> {
    let [.., height, width] = x.dims();
    let device = x.device();
    let line = |from: usize, to: usize| {
        let places: Vec<i64> = (0..to).map(|i| (i * from / to) as i64).collect();
        Tensor::<1, Int>::from_data(TensorData::new(places, [to]), &device)
    };
    let mut x = x;
    if height != size[0] {
        x = x.select(2, line(height, size[0]));
    }
    if width != size[1] {
        x = x.select(3, line(width, size[1]));
    }
    x
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Device;

    fn ramp(height: usize, width: usize) -> Tensor<4> {
        let values: Vec<f32> = (0..height * width)
            .map(|i| (i / width) as f32 + 0.5 + 100.0 * ((i % width) as f32 + 0.5))
            .collect();
        Tensor::from_data(TensorData::new(values, [1, 1, height, width]), &Device::flex())
    }

    fn values(x: Tensor<4>) -> Vec<f32> {
        x.into_data().iter::<f32>().collect()
    }

    #[test]
    fn padding_repeats_the_border() {
        let x = pad_to_multiple(ramp(3, 5), 4);
        assert_eq!(x.dims(), [1, 1, 4, 8]);
        let v = values(x);
        assert_eq!(v[3 * 8..], [52.5, 152.5, 252.5, 352.5, 452.5, 452.5, 452.5, 452.5]);
        assert_eq!(values(pad_to_multiple(ramp(4, 8), 4)), values(ramp(4, 8)));
    }

    /// Of a map whose values are their own places in pixels, the cut has the places of its own samples.
    #[test]
    fn cutting_keeps_the_field_of_view() {
        for (size, stride) in [([33, 64], 2), ([130, 201], 4), ([31, 32], 8), ([32, 35], 4)] {
            let padded = size.map(|side: usize| side.next_multiple_of(32));
            let map = ramp(padded[0] / stride, padded[1] / stride) * stride as f64;
            let out = cut(map, size, stride);
            let [h, w] = size.map(|side| side.div_ceil(stride));
            assert_eq!(out.dims(), [1, 1, h, w]);
            let (dy, dx) = (size[0] as f32 / h as f32, size[1] as f32 / w as f32);
            for (i, v) in values(out).iter().enumerate() {
                let expected = ((i / w) as f32 + 0.5) * dy + 100.0 * ((i % w) as f32 + 0.5) * dx;
                // Beside the first and last half value there is nothing to take from.
                let edge = stride as f32 * 50.5;
                let inner = i / w > 0 && i / w + 1 < h && i % w > 0 && i % w + 1 < w;
                let allowed = if inner { 0.02 } else { edge };
                assert!((v - expected).abs() <= allowed, "{size:?} {stride}: {v} is not {expected}");
            }
        }
    }

    #[test]
    fn nearest_takes_the_floor() {
        let x =
            Tensor::<4>::from_data(TensorData::new(vec![0.0_f32, 1.0, 2.0], [1, 1, 1, 3]), &Device::flex());
        assert_eq!(values(nearest(x.clone(), [1, 2])), [0.0, 1.0]);
        assert_eq!(values(nearest(x, [2, 4])), [0.0, 0.0, 1.0, 2.0, 0.0, 0.0, 1.0, 2.0]);
    }
}
