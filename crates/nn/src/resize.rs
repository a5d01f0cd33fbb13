//! Resizing feature maps as two matrix products, `Y = R_h X R_w^T`, with constant matrices.
//!
//! Exact to the rule chosen, differentiable on every backend, and free of the gaps of the backends' own
//! interpolation.

use burn::tensor::{Device, Tensor, TensorData};

/// How the value between two samples is found. Sample centres lie at half pixels (PyTorch's
/// `align_corners=false`), without antialiasing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interpolation {
    /// Linear between the two neighbours.
    Bilinear,
    /// Cubic convolution over four neighbours with `a = -0.75`, as PyTorch's.
    Bicubic,
}

impl Interpolation {
    /// Neighbours and weights for one output sample, borders repeated.
    fn taps(self, center: f64, input: usize) -> Vec<(usize, f64)> {
        let last = input as isize - 1;
        let clamp = |i: isize| i.clamp(0, last) as usize;
        match self {
            Self::Bilinear => {
                let center = center.max(0.0);
                let low = center.floor();
                let t = center - low;
                vec![(clamp(low as isize), 1.0 - t), (clamp(low as isize + 1), t)]
            }
            Self::Bicubic => {
                const A: f64 = -0.75;
                let near = |x: f64| ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0;
                let far = |x: f64| ((A * x - 5.0 * A) * x + 8.0 * A) * x - 4.0 * A;
                let low = center.floor();
                let t = center - low;
                let low = low as isize;
                vec![
                    (clamp(low - 1), far(t + 1.0)),
                    (clamp(low), near(t)),
                    (clamp(low + 1), near(1.0 - t)),
                    (clamp(low + 2), far(2.0 - t)),
                ]
            }
        }
    }

    /// The matrix that resizes a line of `input` samples to `output`, row-major `[output, input]`.
    pub fn matrix(self, input: usize, output: usize) -> Vec<f32> {
        let scale = input as f64 / output as f64;
        let mut matrix = vec![0.0; output * input];
        for (o, row) in matrix.chunks_exact_mut(input).enumerate() {
            let mut weights = vec![0.0_f64; input];
            for (i, weight) in self.taps((o as f64 + 0.5) * scale - 0.5, input) {
                weights[i] += weight;
            }
            for (value, weight) in row.iter_mut().zip(weights) {
                *value = weight as f32;
            }
        }
        matrix
    }
}

/// Resizes `[batch, channels, height, width]` to `size` = `[height, width]`.
pub fn resize(x: Tensor<4>, size: [usize; 2], interpolation: Interpolation) -> Tensor<4> {
    let [.., height, width] = x.dims();
    if [height, width] == size {
        return x;
    }
    let device: Device = x.device();
    let matrix = |input: usize, output: usize| {
        let data = TensorData::new(interpolation.matrix(input, output), [1, 1, output, input]);
        Tensor::<4>::from_data(data, &device)
    };
    let rows = matrix(height, size[0]);
    let columns = matrix(width, size[1]).swap_dims(2, 3);
    rows.matmul(x.matmul(columns))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(input: &[f32], output: usize, interpolation: Interpolation) -> Vec<f32> {
        let x = Tensor::<1>::from_floats(input, &Device::flex()).reshape([1, 1, 1, input.len()]);
        resize(x, [1, output], interpolation).into_data().try_to_vec::<f32>().unwrap()
    }

    /// Golden values of the reference, `efficientvit-sam.md` section 2.
    #[test]
    fn bicubic_golden_values() {
        let expected =
            [-0.10546875, 0.19140625, 0.66796875, 1.296875, 1.703125, 2.33203125, 2.80859375, 3.10546875];
        let found = line(&[0.0, 1.0, 2.0, 3.0], 8, Interpolation::Bicubic);
        for (found, expected) in found.iter().zip(expected) {
            assert!((found - expected).abs() < 1e-6, "{found} is not {expected}");
        }
    }

    #[test]
    fn bilinear_by_hand() {
        assert_eq!(line(&[0.0, 4.0], 4, Interpolation::Bilinear), [0.0, 1.0, 3.0, 4.0]);
        assert_eq!(line(&[0.0, 2.0, 4.0, 6.0], 2, Interpolation::Bilinear), [1.0, 5.0]);
    }

    #[test]
    fn rows_sum_to_one() {
        for interpolation in [Interpolation::Bilinear, Interpolation::Bicubic] {
            for (input, output) in [(1, 5), (5, 1), (7, 13), (64, 64), (16, 64)] {
                for row in interpolation.matrix(input, output).chunks_exact(input) {
                    assert!((row.iter().sum::<f32>() - 1.0).abs() < 1e-6);
                }
            }
        }
    }
}
