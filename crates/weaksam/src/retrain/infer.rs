//! Detections of the two-stage detector in any picture.

use burn::tensor::Device;
use burn::tensor::activation::softmax;
use kirie_data::Image;

use super::config::RetrainConfig;
use super::model::TwoStage;
use crate::WeakError;
use crate::boxes::{BoxCoder, Found, clip};
use crate::detector::loss::host;
use crate::network::View;

/// The detections of a picture: those of all views together, suppressed.
///
/// # Errors
/// When there is no memory for a view.
pub fn detect_in(
    model: &TwoStage,
    config: &RetrainConfig,
    image: &Image,
    classes: usize,
    device: &Device,
) -> Result<Found, WeakError> {
    let [width, height] = [image.width() as f32, image.height() as f32];
    let mut found = Found::default();
    for (side, flip) in config.input.test_views() {
        let view = View::new(image, side, config.input.longest, flip)?;
        let map = model.features.forward(view.tensor(device));
        let first = model.rpn.forward(map.clone(), &config.rpn, config.features.stride);
        let proposals = first.proposals(&config.rpn, view.size);
        if proposals.is_empty() {
            continue;
        }
        let [logits, steps] = model.second_stage(map, &proposals, config);
        let (scores, steps) = (host(softmax(logits, 1)), host(steps));
        for (index, corners) in proposals.iter().enumerate() {
            for class in 0..classes {
                let at = index * (classes + 1) + class + 1;
                if scores[at] >= config.answers.least_score {
                    let moved = BoxCoder::HEAD.decode(corners, &steps[4 * at..4 * at + 4]);
                    let moved = clip(&view.leave(moved), width, height);
                    if moved[0] < moved[2] && moved[1] < moved[3] {
                        found.push(moved, scores[at], class);
                    }
                }
            }
        }
    }
    Ok(found.suppressed(classes, config.answers.nms, config.answers.most))
}
