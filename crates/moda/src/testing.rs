//! Tiny bases and drawn domains for the tests.

use std::fs;
use std::path::{Path, PathBuf};

use burn::tensor::Device;
use kirie_data::Image;
use kirie_data::write::{index_png, write_picture};
use kirie_engine::Plan;
use kirie_engine::optim::{Adam, Clip, OptimizerConfig, Rule};
use kirie_engine::schedule::{Decay, Schedule};
use kirie_run::{ProgressMode, RunFolder, Stop};
use kirie_sam::checkpoint::{StateDict, module_keys};
use kirie_sam::encoders::efficientvit::{StageConfig, StageKind};
use kirie_sam::encoders::{EfficientVitConfig, EncoderConfig, VitConfig};
use kirie_sam::mask_decoder::MaskDecoderConfig;
use kirie_sam::model::SamConfig;
use kirie_sam::prompt_encoder::PromptEncoderConfig;
use kirie_sam::transformer::TwoWayTransformerConfig;

use crate::adapter::AdapterConfig;
use crate::base::{Base, BaseConfig};
use crate::config::{ExemplarConfig, Order, OrderRule, StreamConfig, StudyConfig};
use crate::data::{DomainConfig, Foreground, NaturalConfig};
use crate::prompts::PromptConfig;
use crate::router::RouterConfig;
use crate::strategy::{Settings, Strategy};
use crate::train::LessonConfig;
use crate::views::{Augment, PromptKind};

/// Side of the tiny bases' input.
pub(crate) const INPUT: usize = 32;

/// A convolutional base of stride 8, or a ViT of patches of 8.
pub(crate) fn sizes(vit: bool) -> SamConfig {
    let stage = |kind, width, depth| StageConfig { kind, width, depth, expand: 1, fewer_norm: false };
    let encoder = if vit {
        EncoderConfig::Vit(VitConfig {
            image_size: INPUT,
            patch: 8,
            dim: 16,
            depth: 3,
            heads: 2,
            mlp_ratio: 2,
            window: 2,
            global_blocks: vec![1],
            out_channels: 16,
        })
    } else {
        EncoderConfig::EfficientVit(EfficientVitConfig {
            stages: vec![
                stage(StageKind::Res, 4, 0),
                stage(StageKind::Fused, 8, 0),
                stage(StageKind::Mb, 8, 1),
                stage(StageKind::Attention(3), 12, 1),
            ],
            head_dim: 4,
            neck_depth: 1,
            neck_expand: 1,
            out_channels: 16,
            out_size: 4,
        })
    };
    SamConfig {
        encoder,
        prompt_encoder: PromptEncoderConfig {
            dim: 16,
            embedding_size: 4,
            frame: 1024,
            mask_channels: 4,
            draw_prompts: !vit,
        },
        mask_decoder: MaskDecoderConfig {
            transformer: TwoWayTransformerConfig {
                depth: 1,
                dim: 16,
                heads: 2,
                mlp_dim: 16,
                attention_downsample: 2,
                norm_epsilon: 1e-6,
            },
            multimask_outputs: 3,
            iou_head_depth: 2,
            iou_head_hidden: 8,
            hq_early_channels: None,
            prompt_fusion: None,
        },
    }
}

/// Weights by formula.
pub(crate) fn base(vit: bool) -> Base {
    let device = Device::flex();
    let sizes = sizes(vit);
    let weights = StateDict::by_formula(module_keys(&sizes.init(&device)));
    let config = BaseConfig { sizes: Some(sizes), input: Some(INPUT as u32), ..BaseConfig::default() };
    Base::new(&config, &weights, &device).unwrap()
}

/// What the pictures of a domain look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Look {
    /// Bright discs on a dark, reddish ground.
    Discs,
    /// Dark bars on a bright, bluish, striped ground.
    Bars,
    /// Green squares on noise.
    Squares,
}

/// Draws a domain with parts `train` and `test`; every sixth picture of `train` shows nothing.
pub(crate) fn draw_domain(root: &Path, name: &str, look: Look, train: usize, test: usize) {
    const SIDES: (usize, usize) = (40, 32);
    let folder = root.join(name);
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("classes.txt"), "0\tbackground\n1\tthing\n").unwrap();
    for (part, count) in [("train", train), ("test", test)] {
        for kind in ["images", "masks"] {
            fs::create_dir_all(folder.join(kind).join(part)).unwrap();
        }
        for n in 0..count {
            let (cx, cy) = (12 + 5 * (n % 4), 10 + 4 * (n % 3));
            let empty = part == "train" && n % 6 == 5;
            let inside = |x: usize, y: usize| {
                let (dx, dy) = (x.abs_diff(cx), y.abs_diff(cy));
                !empty
                    && match look {
                        Look::Discs => dx * dx + dy * dy < 49,
                        Look::Bars => dx < 3 && dy < 9,
                        Look::Squares => dx < 6 && dy < 6,
                    }
            };
            let (mut raw, mut labels) = (Vec::new(), Vec::new());
            for (x, y) in (0..SIDES.1).flat_map(|y| (0..SIDES.0).map(move |x| (x, y))) {
                let on = inside(x, y);
                let noise = ((x * 31 + y * 17 + n * 7) * 2654435761 % 97) as u8;
                raw.extend(match (look, on) {
                    (Look::Discs, true) => [230, 200 + noise / 4, 190],
                    (Look::Discs, false) => [60 + noise / 4, 20, 20],
                    (Look::Bars, true) => [20, 30, 40 + noise / 4],
                    (Look::Bars, false) => [150, 170, 220 + 20 * u8::from(y % 4 < 2)],
                    (Look::Squares, true) => [30, 220, 30],
                    (Look::Squares, false) => [noise * 2, noise, 90 - noise / 2],
                });
                labels.push(u8::from(on));
            }
            let image = Image::from_raw(SIDES.0 as u32, SIDES.1 as u32, raw).unwrap();
            write_picture(folder.join(format!("images/{part}/p{n:02}.png")), &image).unwrap();
            let palette: Vec<[u8; 3]> = (0..=255).map(|gray| [gray; 3]).collect();
            let mask = index_png(SIDES.0 as u32, SIDES.1 as u32, &labels, &palette).unwrap();
            fs::write(folder.join(format!("masks/{part}/p{n:02}.png")), mask).unwrap();
        }
    }
}

pub(crate) fn domain(name: &str) -> DomainConfig {
    DomainConfig {
        name: name.to_owned(),
        path: name.into(),
        train: "train".to_owned(),
        test: "test".to_owned(),
        foreground: Foreground::default(),
        mask_folder: None,
        numbers: None,
    }
}

/// Learns domains one after another, each a name and the drawn pictures that it is of; their folders.
pub(crate) fn learned(root: &Path, run: &str, base: &Base, domains: &[(&str, &str)]) -> Vec<PathBuf> {
    let mut config = study(root, &[Strategy::Moda], 1);
    let named = |(name, path): &(&str, &str)| DomainConfig { name: (*name).to_owned(), ..domain(path) };
    config.data.domains = domains.iter().map(named).collect();
    config.data.natural.clear();
    let folder = RunFolder::create(root.join(run)).unwrap();
    crate::run::study(&config, base, &folder, &Stop::never(), ProgressMode::Silent).unwrap();
    crate::store::domain_folders(&root.join(run).join("runs/moda-given-s1")).unwrap()
}

/// Three drawn domains, of which the last is natural pictures.
pub(crate) fn draw_stream(root: &Path) {
    draw_domain(root, "discs", Look::Discs, 8, 3);
    draw_domain(root, "bars", Look::Bars, 7, 3);
    draw_domain(root, "squares", Look::Squares, 4, 2);
}

/// A study on them.
pub(crate) fn study(root: &Path, strategies: &[Strategy], steps: u64) -> StudyConfig {
    StudyConfig {
        strategies: strategies.to_vec(),
        seeds: vec![1],
        orders: vec![Order::Rule(OrderRule::Given)],
        model: BaseConfig::default(),
        adapter: AdapterConfig::default(),
        data: StreamConfig {
            root: Some(root.to_owned()),
            hold_out: 4,
            train_limit: 0,
            test_limit: 0,
            measure_held_out: false,
            prompts: vec![PromptKind::Box, PromptKind::Points],
            domains: vec![domain("discs"), domain("bars")],
            natural: vec![NaturalConfig {
                name: "squares".to_owned(),
                path: "squares".into(),
                part: "test".to_owned(),
                foreground: Foreground::default(),
                seen: None,
            }],
            reference: Vec::new(),
            reference_limit: 10,
        },
        augment: Augment { views: 2, ..Augment::default() },
        train: LessonConfig { batch: 2, ..LessonConfig::default() },
        router: RouterConfig { steps: 30, grid: 2, assistants: 2, ..RouterConfig::default() },
        exemplars: ExemplarConfig { count: 3, ..ExemplarConfig::default() },
        prompts: PromptConfig { length: 2, pool: 4, top: 2, coda_length: 2, coda_components: 2, pull: 1.0 },
        ablation: Vec::new(),
        settings: Settings { ewc_samples: 2, memory: 2, replay: 1, ..Settings::default() },
        plan: Plan {
            steps,
            accumulate: 1,
            optimizer: OptimizerConfig {
                rule: Rule::Adam(Adam::default()),
                lr: 3e-3,
                weight_decay: 0.0,
                clip: Clip::None,
                groups: Vec::new(),
            },
            schedule: Schedule { warmup: 0, decay: Decay::Constant },
            average: None,
            log_every: 1,
            checkpoint_every: 1,
            keep: 2,
            validate_every: 0,
            workers: 1,
            activation_checkpointing: false,
        },
    }
}
