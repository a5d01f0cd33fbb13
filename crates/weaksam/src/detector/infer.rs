//! Detections of a trained weak detector: proposals scored (and moved) in several views of a picture, put together.

use burn::tensor::Device;
use burn::tensor::activation::softmax;
use kirie_run::{Progress, ProgressMode, Stop};

use super::config::DetectorConfig;
use super::loss::{host, stream_scores};
use super::model::WeakDetector;
use crate::WeakError;
use crate::boxes::{BoxCoder, Found, clip};
use crate::files::{Corners, Detections, ImageDetections};
use crate::network::View;
use crate::pictures::{Picture, Pictures};

/// The detections of all pictures. Pictures without proposals have none.
///
/// # Errors
/// Pictures that cannot be read; [`WeakError::Stopped`].
pub fn detect(
    model: &WeakDetector,
    config: &DetectorConfig,
    pictures: &Pictures,
    device: &Device,
    stop: &Stop,
    mode: ProgressMode,
) -> Result<Detections, WeakError> {
    let mut progress = Progress::new("picture", pictures.all.len() as u64, 0, mode);
    let mut images = Vec::new();
    for picture in &pictures.all {
        if stop.requested() {
            return Err(WeakError::Stopped { during: "detecting".to_owned() });
        }
        let found = detect_one(model, config, pictures, picture, device)?;
        images.push(to_file(picture, &found, &pictures.classes));
        progress.set(images.len() as u64, "");
    }
    progress.finish();
    Ok(Detections { classes: pictures.classes.clone(), images })
}

/// The detections of one picture: scores and boxes averaged over the views, then thresholded and suppressed.
///
/// # Errors
/// A picture that cannot be read.
pub fn detect_one(
    model: &WeakDetector,
    config: &DetectorConfig,
    pictures: &Pictures,
    picture: &Picture,
    device: &Device,
) -> Result<Found, WeakError> {
    let classes = pictures.classes.len();
    if picture.boxes.is_empty() {
        return Ok(Found::default());
    }
    let image = pictures.read(picture)?;
    let count = picture.boxes.len();
    let mut scores = vec![0.0_f32; count * classes];
    let mut boxes = vec![[0.0_f32; 4]; count * classes];
    let views = config.input.test_views();
    let share = 1.0 / views.len() as f32;
    for (side, flip) in views {
        let view = View::new(&image, side, config.input.longest, flip)?;
        let seen: Vec<Corners> = picture.boxes.iter().map(|corners| view.enter(*corners)).collect();
        let answers = model.forward(model.features.stages(view.tensor(device)), &seen, config, None);
        let branches = answers.refine.len();
        if branches == 0 {
            for (sum, score) in scores.iter_mut().zip(host(stream_scores(answers.streams))) {
                *sum += share * score;
            }
        }
        for logits in answers.refine {
            let found = host(softmax(logits, 1));
            for (sums, row) in scores.chunks_exact_mut(classes).zip(found.chunks_exact(classes + 1)) {
                for (sum, score) in sums.iter_mut().zip(&row[1..]) {
                    *sum += share * score / branches as f32;
                }
            }
        }
        let mut steps = vec![0.0_f32; if answers.regress.is_empty() { 0 } else { count * 4 * (classes + 1) }];
        let regressed = answers.regress.len() as f32;
        for branch in answers.regress {
            for (sum, step) in steps.iter_mut().zip(host(branch)) {
                *sum += step / regressed;
            }
        }
        for (proposal, corners) in seen.iter().enumerate() {
            for class in 0..classes {
                let at = (proposal * (classes + 1) + class + 1) * 4;
                let moved = match steps.get(at..at + 4) {
                    Some(step) => view.leave(BoxCoder::HEAD.decode(corners, step)),
                    None => picture.boxes[proposal],
                };
                for (sum, value) in boxes[proposal * classes + class].iter_mut().zip(moved) {
                    *sum += share * value;
                }
            }
        }
    }
    let [width, height] = picture.size.map(|side| side as f32);
    let mut found = Found::default();
    for (index, (score, corners)) in scores.into_iter().zip(boxes).enumerate() {
        if score >= config.answers.least_score {
            found.push(clip(&corners, width, height), score, index % classes);
        }
    }
    Ok(found.suppressed(classes, config.answers.nms, config.answers.most))
}

/// As the file has it; boxes of which nothing is left inside of the picture are left out.
pub(crate) fn to_file(picture: &Picture, found: &Found, classes: &[String]) -> ImageDetections {
    let mut image = ImageDetections {
        file: picture.file.clone(),
        width: picture.size[0],
        height: picture.size[1],
        labels: picture.present.iter().map(|class| classes[*class].clone()).collect(),
        ..ImageDetections::default()
    };
    for (index, corners) in found.boxes.iter().enumerate() {
        if corners[0] < corners[2] && corners[1] < corners[3] {
            image.boxes.push(*corners);
            image.scores.push(found.scores[index]);
            image.classes.push(found.classes[index]);
            image.weights.push(1.0);
        }
    }
    image
}
