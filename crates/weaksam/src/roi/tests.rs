use burn::tensor::{Device, Tensor, TensorData};

use super::*;

const SHAPE: [usize; 4] = [1, 2, 6, 8];
/// Inside, over the edges, smaller than a cell, beyond the map, without size.
const BOXES: [Corners; 5] = [
    [9.0, 3.0, 50.0, 40.0],
    [-20.0, -12.0, 30.0, 21.0],
    [17.0, 17.0, 20.0, 22.0],
    [70.0, 60.0, 90.0, 75.0],
    [24.0, 24.0, 24.0, 24.0],
];
const SCALE: f32 = 0.125;

fn values() -> Vec<f32> {
    // No two alike, so that the largest is one.
    (0..96).map(|i| ((i * 37 + 11) % 97) as f32 / 48.5 - 1.0).collect()
}

fn map(values: Vec<f32>, device: &Device) -> Tensor<4> {
    Tensor::from_data(TensorData::new(values, SHAPE), device)
}

fn forward(method: RoiMethod, values: Vec<f32>) -> Vec<f32> {
    let map = map(values, &Device::flex());
    method.forward(map, &BOXES, 3, SCALE).into_data().iter::<f32>().collect()
}

/// torchvision's rule, sample by sample.
fn bilinear(plane: &[f32], [height, width]: [usize; 2], y: f32, x: f32) -> f32 {
    if y < -1.0 || y > height as f32 || x < -1.0 || x > width as f32 {
        return 0.0;
    }
    let (y, x) = (y.max(0.0), x.max(0.0));
    let split = |v: f32, length: usize| {
        let low = v as usize;
        if low >= length - 1 { (length - 1, length - 1, 0.0) } else { (low, low + 1, v - low as f32) }
    };
    let ((y0, y1, ly), (x0, x1, lx)) = (split(y, height), split(x, width));
    let at = |y: usize, x: usize| plane[y * width + x];
    (1.0 - ly) * ((1.0 - lx) * at(y0, x0) + lx * at(y0, x1))
        + ly * ((1.0 - lx) * at(y1, x0) + lx * at(y1, x1))
}

#[test]
fn align_is_the_mean_of_samples() {
    let (size, [_, channels, height, width]) = (3, SHAPE);
    for (aligned, sampling) in [(true, None), (true, Some(2)), (false, Some(2)), (false, None)] {
        let align = RoiAlign { size, sampling, aligned };
        let found: Vec<f32> =
            align.forward(map(values(), &Device::flex()), &BOXES, SCALE).into_data().iter::<f32>().collect();
        let mut expected = Vec::new();
        for b in BOXES {
            let shift = if aligned { 0.5 } else { 0.0 };
            let start = [b[1] * SCALE - shift, b[0] * SCALE - shift];
            let mut extent = [(b[3] - b[1]) * SCALE, (b[2] - b[0]) * SCALE];
            if !aligned {
                extent = extent.map(|e| e.max(1.0));
            }
            let cell = extent.map(|e| e / size as f32);
            let samples = cell.map(|c| sampling.unwrap_or((c.ceil() as usize).max(1)));
            for plane in values().chunks_exact(height * width).take(channels) {
                for i in 0..size {
                    for j in 0..size {
                        let mut sum = 0.0;
                        for sy in 0..samples[0] {
                            for sx in 0..samples[1] {
                                let y =
                                    start[0] + (i as f32 + (sy as f32 + 0.5) / samples[0] as f32) * cell[0];
                                let x =
                                    start[1] + (j as f32 + (sx as f32 + 0.5) / samples[1] as f32) * cell[1];
                                sum += bilinear(plane, [height, width], y, x);
                            }
                        }
                        expected.push(sum / (samples[0] * samples[1]) as f32);
                    }
                }
            }
        }
        assert_eq!(found.len(), expected.len());
        for (at, (found, expected)) in found.iter().zip(&expected).enumerate() {
            assert!(
                (found - expected).abs() < 1e-5,
                "{aligned} {sampling:?} {at}: {found} is not {expected}"
            );
        }
    }
}

#[test]
fn max_pooling_of_whole_cells() {
    // One plane of 4 x 4, counted from 0; a box of cells 0 to 3 in both directions in 2 x 2 bins of 2 x 2.
    let plane = (0..16).map(|v| v as f32).collect::<Vec<f32>>();
    let map = Tensor::<4>::from_data(TensorData::new(plane, [1, 1, 4, 4]), &Device::flex());
    let pooled = |corners: Corners, size: usize| -> Vec<f32> {
        roi_max_pool(map.clone(), &[corners], size, 1.0).into_data().iter::<f32>().collect()
    };
    assert_eq!(pooled([0.0, 0.0, 3.0, 3.0], 2), [5.0, 7.0, 13.0, 15.0]);
    // Three cells in two bins: the middle one belongs to both.
    assert_eq!(pooled([1.0, 1.0, 3.0, 3.0], 2), [10.0, 11.0, 14.0, 15.0]);
    // Corners are rounded; what lies beyond the map is 0.
    assert_eq!(pooled([2.6, 2.6, 6.4, 6.4], 2), [15.0, 0.0, 0.0, 0.0]);
    assert_eq!(pooled([9.0, 9.0, 12.0, 12.0], 1), [0.0]);
    // A box of one cell fills all bins with it.
    assert_eq!(pooled([1.0, 2.0, 1.0, 2.0], 2), [9.0; 4]);
}

#[test]
fn gradients_are_those_of_finite_differences() {
    let device = Device::flex().autodiff();
    let weights: Vec<f32> =
        (0..BOXES.len() * 2 * 9).map(|i| ((i * 29 + 3) % 31) as f32 / 15.0 - 1.0).collect();
    let score = |cells: &[f32]| -> f64 {
        cells.iter().zip(&weights).map(|(c, w)| f64::from(*c) * f64::from(*w)).sum()
    };
    for method in [RoiMethod::Align, RoiMethod::Max] {
        let input = map(values(), &device).require_grad();
        let cells = method.forward(input.clone(), &BOXES, 3, SCALE);
        let shape = cells.dims();
        let weighted = cells * Tensor::from_data(TensorData::new(weights.clone(), shape), &device);
        let gradients = weighted.sum().backward();
        let gradient: Vec<f32> = input.grad(&gradients).unwrap().into_data().iter::<f32>().collect();
        // Less than half of the least difference between two values, so that the largest stays the largest.
        let step = 8e-3;
        for (at, found) in gradient.iter().enumerate() {
            let shifted = |by: f32| {
                let mut values = values();
                values[at] += by;
                score(&forward(method, values))
            };
            let expected = (shifted(step) - shifted(-step)) / (2.0 * f64::from(step));
            assert!(
                (f64::from(*found) - expected).abs() < 2e-3,
                "{method:?}, value {at}: {found} is not {expected}"
            );
        }
        assert!(gradient.iter().any(|g| g.abs() > 0.1));
    }
}

#[test]
fn without_boxes_there_are_no_cells() {
    for method in [RoiMethod::Align, RoiMethod::Max] {
        assert_eq!(method.forward(map(values(), &Device::flex()), &[], 3, SCALE).dims(), [0, 2, 3, 3]);
    }
}
