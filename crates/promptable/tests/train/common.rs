//! Drawn sets, tiny models of every family, and runs of them.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use burn::tensor::Device;
use kirie_data::write::{label_png, write_picture};
use kirie_data::{Image, ImageMasks, ImageRecord, MaskRecord};
use kirie_engine::Plan;
use kirie_engine::optim::{Adam, Clip, OptimizerConfig, Rule};
use kirie_engine::schedule::{Decay, Schedule};
use kirie_mask::Rle;
use kirie_promptable::train::config::{Augment, DataConfig, EndToEnd, LossConfig, ModelConfig, Prompts};
use kirie_promptable::train::config::{SetConfig, Task};
use kirie_promptable::train::{ModelSpec, Report, TrainConfig, TrainError, run};
use kirie_run::{ProgressMode, RunFolder, Stop};
use kirie_sam::checkpoint::{StateDict, state_dict_of, write_safetensors};
use kirie_sam::encoders::efficientvit::{StageConfig, StageKind};
use kirie_sam::encoders::{EfficientVitConfig, EncoderConfig, TinyVitConfig, VitConfig};
use kirie_sam::mask_decoder::MaskDecoderConfig;
use kirie_sam::model::SamConfig;
use kirie_sam::prompt_encoder::PromptEncoderConfig;
use kirie_sam::transformer::TwoWayTransformerConfig;
use serde_json::Value;

/// Side of the pictures and of the encoders' input.
pub(crate) const SIDE: u32 = 64;
/// Side of the embedding.
const EMBEDDING: usize = 8;
/// Width of the tokens.
const DIM: usize = 32;

/// Draws a mask-folder set: on textured ground a disc and a rectangle, elsewhere in every picture.
pub(crate) fn draw_set(folder: &Path, pictures: u32) {
    for number in 0..pictures {
        let n = number as usize;
        let (cx, cy, r) = (18.0 + 3.0 * (n % 3) as f64, 20.0 + 5.0 * (n % 4) as f64, 13.0);
        let (left, top) = (38 - 2 * (n % 3), 12 + 7 * (n % 5));
        let disc = |x: usize, y: usize| (x as f64 + 0.5 - cx).hypot(y as f64 + 0.5 - cy) < r;
        let rect = |x: usize, y: usize| (left..left + 22).contains(&x) && (top..top + 24).contains(&y);
        let mut pixels = Vec::new();
        for y in 0..SIDE as usize {
            for x in 0..SIDE as usize {
                let texture = ((x * 31 + y * 17 + n * 7 + x * y) % 40) as u8;
                let [r, g, b] = match (disc(x, y), rect(x, y)) {
                    (true, _) => [200, 60, 40],
                    (_, true) => [50, 70, 190],
                    _ => [90, 110, 80],
                };
                pixels.extend([r + texture, g + texture, b + texture]);
            }
        }
        let side = SIDE as usize;
        let objects =
            [Rle::from_fn(side, side, disc), Rle::from_fn(side, side, |x, y| rect(x, y) && !disc(x, y))];
        for folder in [folder.join("images/train"), folder.join("masks/train")] {
            fs::create_dir_all(folder).unwrap();
        }
        let image = Image::from_raw(SIDE, SIDE, pixels).unwrap();
        write_picture(folder.join(format!("images/train/p{n}.png")), &image).unwrap();
        fs::write(folder.join(format!("masks/train/p{n}.png")), labels(&objects)).unwrap();
    }
}

/// A label picture: 1 is the first object, 2 the second.
fn labels(objects: &[Rle]) -> Vec<u8> {
    let mask = |object: &Rle| MaskRecord {
        area: object.area(),
        segmentation: object.clone(),
        bbox: [0.0; 4],
        predicted_iou: 1.0,
        stability_score: 1.0,
        point_coords: Vec::new(),
        crop_box: [0.0; 4],
    };
    let image = ImageRecord { path: String::new(), width: SIDE, height: SIDE };
    let masks = objects.iter().map(mask).collect();
    label_png(&ImageMasks { image, model: String::new(), masks }).unwrap()
}

/// An EfficientViT with every kind of stage; it has batch norm everywhere.
pub(crate) fn efficientvit() -> EncoderConfig {
    let stage = |kind, width, depth| StageConfig { kind, width, depth, expand: 2, fewer_norm: false };
    EncoderConfig::EfficientVit(EfficientVitConfig {
        stages: vec![
            stage(StageKind::Res, 8, 1),
            stage(StageKind::Fused, 16, 1),
            StageConfig { fewer_norm: true, ..stage(StageKind::Mb, 16, 0) },
            StageConfig { fewer_norm: true, ..stage(StageKind::Attention(3), 16, 1) },
        ],
        head_dim: 8,
        neck_depth: 1,
        neck_expand: 1,
        out_channels: DIM,
        out_size: EMBEDDING,
    })
}

pub(crate) fn tiny_vit() -> EncoderConfig {
    EncoderConfig::TinyVit(TinyVitConfig {
        dims: [8, 16, 16, 32],
        depths: [1; 4],
        heads: [1, 2, 2, 2],
        windows: [3, 3, 4, 3],
        merge_strides: [2, 1, 1],
        classes: 5,
        out_channels: DIM,
    })
}

pub(crate) fn vit() -> EncoderConfig {
    EncoderConfig::Vit(VitConfig {
        image_size: SIDE as usize,
        patch: SIDE as usize / EMBEDDING,
        dim: 32,
        depth: 2,
        heads: 2,
        mlp_ratio: 2,
        window: 3,
        global_blocks: vec![1],
        out_channels: DIM,
    })
}

/// A model around an encoder; with the width of the encoder's early map, one with HQ-SAM's decoder.
pub(crate) fn sizes(encoder: EncoderConfig, hq_early_channels: Option<usize>) -> SamConfig {
    SamConfig {
        encoder,
        prompt_encoder: PromptEncoderConfig {
            dim: DIM,
            embedding_size: EMBEDDING,
            frame: 1024,
            mask_channels: 8,
            draw_prompts: false,
        },
        mask_decoder: MaskDecoderConfig {
            transformer: TwoWayTransformerConfig {
                depth: 2,
                dim: DIM,
                heads: 2,
                mlp_dim: 32,
                attention_downsample: 2,
                norm_epsilon: 1e-6,
            },
            multimask_outputs: 3,
            iou_head_depth: 3,
            iou_head_hidden: 16,
            hq_early_channels,
            prompt_fusion: None,
        },
    }
}

/// A run end to end with boxes, every picture as it is, two objects of each of two pictures a step.
pub(crate) fn config(set: &Path, sizes: &SamConfig, steps: u64) -> TrainConfig {
    TrainConfig {
        seed: 1,
        model: ModelConfig {
            name: "kirie-small".to_owned(),
            sizes: Some(sizes.clone()),
            input: Some(SIDE),
            init: None,
        },
        data: DataConfig {
            root: None,
            sets: vec![SetConfig { path: set.to_owned(), split: "train".to_owned(), weight: 1.0 }],
            validate_one_in: 0,
            validate_pictures: 4,
            batch: 2,
            objects: 2,
            smallest: 4,
        },
        augment: Augment { flip: 0.0, ..Augment::default() },
        task: Task::EndToEnd(EndToEnd {
            prompts: Prompts { boxes: 1.0, ..Prompts::default() },
            loss: LossConfig { points: 256, multimask: 0.0, ..LossConfig::default() },
            decoder_only: false,
        }),
        plan: Plan {
            steps,
            accumulate: 1,
            optimizer: OptimizerConfig {
                rule: Rule::AdamW(Adam::default()),
                lr: 2e-3,
                weight_decay: 0.0,
                clip: Clip::Norm(1.0),
                groups: Vec::new(),
            },
            schedule: Schedule { warmup: 0, decay: Decay::Constant },
            average: None,
            log_every: 1,
            checkpoint_every: 1000,
            keep: 2,
            validate_every: 0,
            workers: 1,
            activation_checkpointing: false,
        },
    }
}

/// The task of [`config`], to be changed.
pub(crate) fn task(config: &mut TrainConfig) -> &mut EndToEnd {
    match &mut config.task {
        Task::EndToEnd(task) => task,
        Task::Distill(_) => panic!("it is end to end"),
    }
}

pub(crate) fn spec(config: &TrainConfig) -> ModelSpec {
    ModelSpec::new(&config.model.name, config.model.sizes.as_ref(), config.model.input).unwrap()
}

/// A run in this folder, begun or gone on with.
pub(crate) fn go(config: &TrainConfig, folder: &Path, stop: &Stop) -> Result<Report, TrainError> {
    go_on(&Device::flex(), config, folder, stop)
}

/// The same on any device.
pub(crate) fn go_on(
    device: &Device,
    config: &TrainConfig,
    folder: &Path,
    stop: &Stop,
) -> Result<Report, TrainError> {
    // The seed of the first weights is the process's: under `cargo test` the tests are its threads.
    static ALONE: Mutex<()> = Mutex::new(());
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = if let Ok(folder) = RunFolder::open(folder) {
        folder
    } else {
        let folder = RunFolder::create(folder)?;
        folder.write_config("")?;
        folder
    };
    run(config, &folder, device, stop, ProgressMode::Silent)
}

/// A run to its end; gives the file of the model.
pub(crate) fn finish(config: &TrainConfig, folder: &Path) -> PathBuf {
    let report = go(config, folder, &Stop::never()).unwrap();
    assert!(report.complete && report.steps == config.plan.steps);
    report.model.unwrap()
}

/// Random weights of the configured model as a file.
pub(crate) fn weights(config: &TrainConfig, seed: u64, path: &Path) {
    let model = spec(config).random(seed, &Device::flex());
    write_safetensors(path, &state_dict_of(&model), &BTreeMap::new()).unwrap();
}

/// A file's tensors.
pub(crate) fn tensors(path: &Path) -> BTreeMap<String, Vec<f32>> {
    let file = StateDict::open(path).unwrap();
    file.keys().map(|key| (key.to_owned(), file.read(key).unwrap().values)).collect()
}

/// The log without the time.
pub(crate) fn log(run: &Path) -> Vec<Value> {
    let mut records = kirie_run::log::read(run.join("log.jsonl")).unwrap();
    for record in &mut records {
        record.remove("seconds");
    }
    records.into_iter().map(Value::Object).collect()
}

/// A figure's course.
pub(crate) fn course(run: &Path, figure: &str) -> Vec<f64> {
    log(run).iter().filter_map(|record| record.get(figure)?.as_f64()).collect()
}
