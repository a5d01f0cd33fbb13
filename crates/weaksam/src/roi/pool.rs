//! RoI max pooling (Girshick, Fast R-CNN), equal to torchvision's `roi_pool`.
//!
//! Where the largest values lie is found on the host, from a copy of the map without history; the values themselves, and with
//! them the gradient, come from the map by a gather.

use burn::tensor::{Int, Tensor, TensorData};
use rayon::prelude::*;

use crate::files::Corners;

/// `features` `[1, channels, height, width]` and boxes in pixels of the network's input to `[boxes, channels, size, size]`;
/// `scale` is the map's size over the input's.
///
/// Corners are rounded to cells, both ends belong to the box, and cell `i` of the result covers `floor(i * w)` to
/// `ceil((i + 1) * w)`. What lies wholly beyond the map is 0.
pub fn roi_max_pool(features: Tensor<4>, boxes: &[Corners], size: usize, scale: f32) -> Tensor<4> {
    let ([_, channels, height, width], device) = (features.dims(), features.device());
    if boxes.is_empty() {
        return Tensor::zeros([0, channels, size, size], &device);
    }
    let values: Vec<f32> = features.clone().detach().into_data().iter::<f32>().collect();
    let spans: Vec<_> = boxes
        .iter()
        .map(|b| {
            (spans(b[1] * scale, b[3] * scale, size, height), spans(b[0] * scale, b[2] * scale, size, width))
        })
        .collect();
    let cells = boxes.len() * size * size;
    let mut places = vec![0_i32; channels * cells];
    places.par_chunks_exact_mut(cells).zip(values.par_chunks_exact(height * width)).for_each(
        |(places, plane)| {
            let mut place = places.iter_mut();
            for (rows, columns) in &spans {
                for row in rows {
                    for column in columns {
                        let mut best = row[0] * width + column[0];
                        for y in row[0]..row[1] {
                            for x in column[0]..column[1] {
                                if plane[y * width + x] > plane[best] {
                                    best = y * width + x;
                                }
                            }
                        }
                        if let Some(place) = place.next() {
                            *place = best as i32;
                        }
                    }
                }
            }
        },
    );
    let full = |span: &[usize; 2]| span[0] < span[1];
    let kept: Vec<f32> = spans
        .iter()
        .flat_map(|(rows, columns)| {
            rows.iter().flat_map(move |row| {
                columns.iter().map(move |column| if full(row) && full(column) { 1.0 } else { 0.0 })
            })
        })
        .collect();
    let places = Tensor::<2, Int>::from_data(TensorData::new(places, [channels, cells]), &device);
    let kept = Tensor::<2>::from_data(TensorData::new(kept, [1, cells]), &device);
    let picked = features.reshape([channels, height * width]).gather(1, places) * kept;
    picked.reshape([channels, boxes.len(), size, size]).permute([1, 0, 2, 3])
}

/// First cell and the one behind the last of each bin along one side; bins beyond the map are empty and begin inside of it.
fn spans(low: f32, high: f32, size: usize, length: usize) -> Vec<[usize; 2]> {
    let (low, high) = (low.round(), high.round());
    let bin = (high - low + 1.0).max(1.0) / size as f32;
    (0..size)
        .map(|i| {
            let start = (i as f32 * bin).floor() + low;
            let end = ((i + 1) as f32 * bin).ceil() + low;
            let [start, end] = [start, end].map(|v| v.clamp(0.0, length as f32) as usize);
            if start < end { [start, end] } else { [start.min(length - 1); 2] }
        })
        .collect()
}
