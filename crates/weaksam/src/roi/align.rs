//! RoIAlign (He et al., Mask R-CNN), equal to torchvision's `roi_align`.
//!
//! A bilinear sample is the product of a weight by line and one by column, and so is the mean of a regular grid of samples. So
//! `cells = R_y F R_x^T`, with constant matrices for each box.

use burn::tensor::{Tensor, TensorData};

use crate::files::Corners;

/// RoIAlign.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RoiAlign {
    /// Cells along each side.
    pub size: usize,
    /// Samples along each side of a cell; `None` for as many as the cell is wide in the feature map, rounded up.
    pub sampling: Option<usize>,
    /// Whether pixel centres lie at half pixels (torchvision's `aligned`); otherwise boxes are shifted by half a cell and made
    /// at least one cell wide, as the first RoIAlign did.
    pub aligned: bool,
}

impl RoiAlign {
    /// As detectron2 has it: aligned, as many samples as needed.
    pub fn new(size: usize) -> Self {
        Self { size, sampling: None, aligned: true }
    }

    /// `features` `[1, channels, height, width]` and boxes in pixels of the network's input to `[boxes, channels, size, size]`;
    /// `scale` is the map's size over the input's. Without boxes the result has none.
    pub fn forward(&self, features: Tensor<4>, boxes: &[Corners], scale: f32) -> Tensor<4> {
        let ([_, channels, height, width], count, size) = (features.dims(), boxes.len(), self.size);
        let device = features.device();
        if count == 0 {
            return Tensor::zeros([0, channels, size, size], &device);
        }
        let matrix = |low: usize, length: usize| {
            let mut weights = vec![0.0_f32; count * size * length];
            for (corners, rows) in boxes.iter().zip(weights.chunks_exact_mut(size * length)) {
                self.weights(corners[low] * scale, corners[low + 2] * scale, length, rows);
            }
            weights
        };
        let rows = TensorData::new(matrix(1, height), [count * size, height]);
        let columns = TensorData::new(matrix(0, width), [count, size, width]);
        let rows = Tensor::<2>::from_data(rows, &device);
        let columns = Tensor::<3>::from_data(columns, &device).swap_dims(1, 2);
        let lines = features.reshape([channels, height, width]).permute([1, 0, 2]);
        let lines = rows.matmul(lines.reshape([height, channels * width]));
        let cells = lines.reshape([count, size * channels, width]).matmul(columns);
        cells.reshape([count, size, channels, size]).permute([0, 2, 1, 3])
    }

    /// Adds one side's weights to `rows`, `[size, length]`; `low` and `high` are the box's edges in cells of the map.
    fn weights(&self, low: f32, high: f32, length: usize, rows: &mut [f32]) {
        let shift = if self.aligned { 0.5 } else { 0.0 };
        let extent = if self.aligned { high - low } else { (high - low).max(1.0) };
        let cell = extent / self.size as f32;
        let samples = self.sampling.unwrap_or_else(|| (cell.ceil() as usize).max(1));
        let last = length - 1;
        for (index, row) in rows.chunks_exact_mut(length).enumerate() {
            for sample in 0..samples {
                let within = (sample as f32 + 0.5) / samples as f32;
                let place = low - shift + (index as f32 + within) * cell;
                // A sample more than a cell beyond the map is nothing.
                if place < -1.0 || place > length as f32 {
                    continue;
                }
                let place = place.max(0.0);
                let left = (place as usize).min(last);
                let (right, along) = if left == last { (last, 0.0) } else { (left + 1, place - left as f32) };
                row[left] += (1.0 - along) / samples as f32;
                row[right] += along / samples as f32;
            }
        }
    }
}
