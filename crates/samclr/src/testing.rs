//! Drawn pictures and small configurations for the tests.

use std::fs;
use std::path::Path;

use kirie_data::Image;
use kirie_data::write::write_picture;
use kirie_run::config::load;

use crate::config::TrainConfig;

/// The nth drawn picture: a disc and a bar of the picture's own colours on dark ground.
pub(crate) fn drawn(n: usize) -> Image {
    let (width, height) = (48 + 4 * (n % 3), 40);
    let shade = |k: usize| (90 + (n * 53 + k * 97) % 160) as u8;
    let raw = (0..width * height).flat_map(|i| {
        let (x, y) = (i % width, i / width);
        let (cx, cy) = (14.0 + (n % 4) as f64, 18.0);
        if (x as f64 - cx).hypot(y as f64 - cy) < 9.0 {
            [shade(0), shade(1), 30]
        } else if (28..40).contains(&x) && (6..34).contains(&y) {
            [30, shade(2), shade(3)]
        } else {
            [(x % 7) as u8 * 4, 20, (y % 5) as u8 * 5]
        }
    });
    Image::from_raw(width as u32, height as u32, raw.collect()).unwrap()
}

/// Draws a set without labels.
pub(crate) fn draw_set(folder: &Path, count: usize) {
    fs::create_dir_all(folder).unwrap();
    for n in 0..count {
        write_picture(folder.join(format!("p{n:02}.png")), &drawn(n)).unwrap();
    }
}

/// Draws two classes of flat pictures, reddish and bluish, as class folders.
pub(crate) fn draw_classes(folder: &Path, count: usize) {
    for (class, strong) in [("blue", 2), ("red", 0)] {
        fs::create_dir_all(folder.join("train").join(class)).unwrap();
        for n in 0..count {
            let value = |i: usize| {
                let noise = ((i * 31 + n * 17) % 60) as u8;
                if i % 3 == strong { 180 + noise } else { 20 + noise }
            };
            let image = Image::from_raw(16, 16, (0..768).map(value).collect()).unwrap();
            write_picture(folder.join("train").join(class).join(format!("{n}.png")), &image).unwrap();
        }
    }
}

/// A configuration for a drawn set, with more settings on top.
pub(crate) fn config(folder: &Path, more: &[&str]) -> TrainConfig {
    let mut sets = vec![
        "encoder={ kind = \"resnet\", depth = 18, width = 2, stem = \"cifar\" }".to_owned(),
        "method={ kind = \"simclr\", temperature = 0.2, output = 8 }".to_owned(),
        format!("data={{ sets = [{{ path = {folder:?} }}], batch = 4 }}"),
        "views.size=16".to_owned(),
        "plan.steps=6".to_owned(),
        "plan.optimizer={ rule = { kind = \"sgd\", momentum = 0.9 }, lr = 0.05, weight_decay = 1e-4 }"
            .to_owned(),
        "plan.schedule={ warmup = 2, decay = { kind = \"cosine\" } }".to_owned(),
        "plan.log_every=1".to_owned(),
        "plan.checkpoint_every=3".to_owned(),
        "plan.keep=10".to_owned(),
    ];
    sets.extend(more.iter().map(|set| (*set).to_owned()));
    load::<TrainConfig>(None, &sets).unwrap().value
}
