//! Tiny networks and drawn sets for the tests.

use std::fs;
use std::path::Path;

use burn::module::{Module, Param};
use burn::nn::PaddingConfig2d;
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::tensor::activation::relu;
use burn::tensor::{Device, Tensor, TensorData};
use kirie_data::Image;
use kirie_data::write::{index_png, write_picture};
use kirie_engine::Plan;
use kirie_engine::optim::{Adam, Clip, OptimizerConfig, Rule};
use kirie_engine::schedule::{Decay, Schedule};
use kirie_sam::registry::Preprocess;

use crate::Segmenter;
use crate::config::{DataConfig, HoldOut, InputConfig, LossConfig, SetConfig, TestConfig, TrainConfig};

/// Pixels as shares of full white.
pub(crate) fn preprocess() -> Preprocess {
    Preprocess { size: 64, frame: 1024, mean: [0.0; 3], std: [255.0; 3] }
}

/// The logit of a class is a channel of the pixel, so the class is the pixel's strongest colour.
#[derive(Module, Debug)]
pub(crate) struct Strongest {
    weight: Param<Tensor<2>>,
}

impl Strongest {
    pub(crate) fn new(device: &Device) -> Self {
        Self { weight: Param::from_tensor(Tensor::eye(3, device)) }
    }
}

impl Segmenter for Strongest {
    fn classes(&self) -> usize {
        3
    }
    fn preprocess(&self) -> Preprocess {
        preprocess()
    }
    fn logits(&self, pixels: Tensor<4>) -> Tensor<4> {
        let [batch, _, height, width] = pixels.dims();
        let flat = pixels.reshape([batch, 3, height * width]);
        let answer = self.weight.val().unsqueeze::<3>().matmul(flat);
        answer.reshape([batch, 3, height, width])
    }
}

/// Two convolutions; the first looks `kernel` pixels far, or at one in `stride`.
#[derive(Module, Debug)]
pub(crate) struct Tiny {
    first: Conv2d,
    second: Conv2d,
    classes: usize,
}

impl Tiny {
    /// Weights follow from their place, not from a random state that tests on other threads share.
    pub(crate) fn new(classes: usize, kernel: usize, stride: usize, device: &Device) -> Self {
        let padding = match stride {
            1 => PaddingConfig2d::Same,
            _ => PaddingConfig2d::Valid,
        };
        let first = Conv2dConfig::new([3, 8], [kernel; 2]).with_stride([stride; 2]).with_padding(padding);
        let second = Conv2dConfig::new([8, classes], [1, 1]);
        let fixed = |mut conv: Conv2d, seed: usize| {
            let shape = conv.weight.val().dims();
            let count = shape.iter().product::<usize>();
            let value = |i: usize| {
                (((i + seed) * 2654435761 % 1000) as f32 / 500.0 - 1.0) / (count as f32).sqrt() * 3.0
            };
            let data = TensorData::new((0..count).map(value).collect::<Vec<f32>>(), shape);
            conv.weight = Param::from_tensor(Tensor::from_data(data, device));
            conv.bias = conv.bias.map(|bias| {
                let length = bias.val().dims()[0];
                let values: Vec<f32> = (0..length).map(|i| 0.1 * value(i + 77)).collect();
                Param::from_tensor(Tensor::from_data(TensorData::new(values, [length]), device))
            });
            conv
        };
        Self { first: fixed(first.init(device), 1), second: fixed(second.init(device), 500), classes }
    }
}

impl Segmenter for Tiny {
    fn classes(&self) -> usize {
        self.classes
    }
    fn preprocess(&self) -> Preprocess {
        preprocess()
    }
    fn logits(&self, pixels: Tensor<4>) -> Tensor<4> {
        self.second.forward(relu(self.first.forward(pixels)))
    }
}

/// A picture of noise that follows from `seed`.
pub(crate) fn noise(width: u32, height: u32, seed: u64) -> Image {
    let value = |i: u64| ((i + 1).wrapping_mul(6364136223846793005).wrapping_add(seed * 97) >> 33) as u8;
    let raw = (0..u64::from(width * height) * 3).map(value).collect();
    Image::from_raw(width, height, raw).unwrap()
}

/// Width and height of the nth drawn picture.
pub(crate) fn drawn_size(n: usize) -> [usize; 2] {
    [48 + 8 * (n % 3), 40 + 6 * (n % 2)]
}

/// What the nth drawn picture shows: 0 ground (red), 1 a disc (green), 2 a bar (blue).
pub(crate) fn drawn_label(n: usize, x: usize, y: usize) -> u8 {
    let (cx, cy) = (14.0 + (n % 4) as f64 * 2.0, 16.0 + (n % 3) as f64);
    if (x as f64 + 0.5 - cx).hypot(y as f64 + 0.5 - cy) < 9.0 {
        return 1;
    }
    if (28..42).contains(&x) && (6 + n % 5..32).contains(&y) { 2 } else { 0 }
}

pub(crate) fn drawn_image(n: usize) -> Image {
    let [width, height] = drawn_size(n);
    let mut raw = Vec::new();
    for y in 0..height {
        for x in 0..width {
            let strongest = usize::from(drawn_label(n, x, y));
            let texture = ((x * 31 + y * 17 + n * 7) % 30) as u8;
            raw.extend((0..3).map(|c| if c == strongest { 190 + texture } else { 60 + texture }));
        }
    }
    Image::from_raw(width as u32, height as u32, raw).unwrap()
}

pub(crate) const CLASSES: &str = "0\tground\n1\tdisc\n2\tbar\n";

/// Writes a mask of any numbers.
pub(crate) fn write_mask(path: &Path, width: u32, height: u32, numbers: &[u8]) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let palette: Vec<[u8; 3]> = (0..=255).map(|gray| [gray; 3]).collect();
    fs::write(path, index_png(width, height, numbers, &palette).unwrap()).unwrap();
}

/// Draws a part of a set of pictures and class masks.
pub(crate) fn draw_set(folder: &Path, split: &str, numbers: std::ops::Range<usize>) {
    fs::create_dir_all(folder.join("images").join(split)).unwrap();
    fs::write(folder.join("classes.txt"), CLASSES).unwrap();
    for n in numbers {
        let [width, height] = drawn_size(n);
        write_picture(folder.join(format!("images/{split}/p{n}.png")), &drawn_image(n)).unwrap();
        let labels: Vec<u8> = (0..width * height).map(|i| drawn_label(n, i % width, i / width)).collect();
        let path = folder.join(format!("masks/{split}/p{n}.png"));
        write_mask(&path, width as u32, height as u32, &labels);
    }
}

/// A configuration for drawn sets; no model is named.
pub(crate) fn config(folder: &Path, steps: u64) -> TrainConfig<Option<bool>> {
    TrainConfig {
        seed: 1,
        model: None,
        data: data(folder),
        input: InputConfig { crop: Some([32, 32]), ..InputConfig::default() },
        loss: LossConfig { dice: 1.0, ..LossConfig::default() },
        test: TestConfig::default(),
        plan: Plan {
            steps,
            accumulate: 1,
            optimizer: OptimizerConfig {
                rule: Rule::AdamW(Adam::default()),
                lr: 0.02,
                weight_decay: 0.0,
                clip: Clip::None,
                groups: Vec::new(),
            },
            schedule: Schedule { warmup: 0, decay: Decay::Constant },
            average: None,
            log_every: 1,
            checkpoint_every: 4,
            keep: 10,
            validate_every: 4,
            workers: 1,
            activation_checkpointing: false,
        },
    }
}

pub(crate) fn data(folder: &Path) -> DataConfig {
    DataConfig {
        root: None,
        sets: vec![SetConfig::new(folder, "train")],
        classes: Vec::new(),
        merge: std::collections::BTreeMap::new(),
        batch: 2,
        hold_out: HoldOut::Folds { folds: 3, fold: 0 },
        validate_pictures: 0,
    }
}
