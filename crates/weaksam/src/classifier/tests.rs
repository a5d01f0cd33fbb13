use burn::tensor::{Device, Distribution, Tensor, TensorData};
use kirie_engine::optim::{Adam, Clip, OptimizerConfig, Rule};
use kirie_engine::schedule::{Decay, Schedule};
use kirie_run::{ProgressMode, RunFolder, Stop};

use super::train::{save, soft_margin};
use super::*;
use crate::drawn::{draw_set, picture};
use crate::labels::{DataConfig, Tagged};

/// On squares of 8 pixels.
pub(crate) fn tiny(depth: usize) -> ModelConfig {
    ModelConfig { stem: StemConfig::Patches { size: 8 }, input: 64, dim: 16, depth, heads: 2 }
}

fn config(depth: usize, steps: u64) -> ClassifierConfig {
    let optimizer = OptimizerConfig {
        rule: Rule::AdamW(Adam::default()),
        lr: 0.01,
        weight_decay: 0.0,
        clip: Clip::None,
        groups: Vec::new(),
    };
    ClassifierConfig {
        model: tiny(depth),
        augment: Augment::NONE,
        batch: 4,
        validate_one_in: 3,
        plan: Plan {
            steps,
            accumulate: 1,
            optimizer,
            schedule: Schedule { warmup: 0, decay: Decay::Constant },
            average: None,
            log_every: 10,
            checkpoint_every: 20,
            keep: 2,
            validate_every: 0,
            workers: 1,
            activation_checkpointing: false,
        },
    }
}

#[test]
fn the_loss_is_the_formula() {
    let device = Device::flex();
    let tensor = |values: [f32; 4]| Tensor::<2>::from_data(TensorData::new(values.to_vec(), [2, 2]), &device);
    let (x, y) = ([0.5_f32, -2.0, 3.0, 80.0], [1.0_f32, 0.0, 0.0, 0.0]);
    let loss = soft_margin(tensor(x), tensor(y)).into_scalar::<f32>();
    let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
    // The last one would be infinite by the formula as it is written.
    let expected = [-sigmoid(0.5).ln(), -(1.0 - sigmoid(-2.0)).ln(), -(1.0 - sigmoid(3.0)).ln(), 80.0];
    assert!((f64::from(loss) - expected.iter().sum::<f64>() / 4.0).abs() < 1e-5, "{loss}");
}

#[test]
fn maps_have_the_shapes_of_the_paper() {
    let device = Device::flex();
    let model = tiny(3).init(5, None, 1, &device).unwrap();
    let x = Tensor::random([2, 3, 64, 64], Distribution::Default, &device);
    let answer = model.forward(x, true);
    assert_eq!(answer.activation.dims(), [2, 5, 8, 8]);
    assert_eq!(answer.logits().dims(), [2, 5]);
    let attention = answer.attention.unwrap();
    assert_eq!(attention.fine.dims(), [2, 5, 8, 8]);
    // Of three blocks the last two.
    assert_eq!(attention.cross.iter().map(Tensor::dims).collect::<Vec<_>>(), [[2, 2, 5, 64]; 2]);

    // Another grid than in training, and no blocks at all.
    let wide = Tensor::random([1, 3, 48, 80], Distribution::Default, &device);
    assert_eq!(model.forward(wide.clone(), false).activation.dims(), [1, 5, 6, 10]);
    let plain = tiny(0).init(5, None, 1, &device).unwrap();
    let answer = plain.forward(wide, true);
    assert!(answer.attention.is_none());
    assert_eq!(answer.logits().dims(), [1, 5]);
}

#[test]
fn the_fine_map_is_patch_attention_times_cross_times_coarse() {
    // With one block, the fused attention can be read off the block itself.
    let device = Device::flex();
    let model = tiny(1).init(2, None, 3, &device).unwrap();
    let x = Tensor::random([1, 3, 16, 16], Distribution::Default, &device);
    let answer = model.forward(x.clone(), true);
    let attention = answer.attention.unwrap();
    let weights = model.adaptive_attention_fusion.as_ref().unwrap().weights(1, 6, &device);
    let weights: Vec<f32> = weights.into_data().try_to_vec().unwrap();
    let cross: Vec<f32> = attention.cross[0].clone().into_data().try_to_vec().unwrap();
    let coarse: Vec<f32> = answer.activation.into_data().try_to_vec().unwrap();
    let fine: Vec<f32> = attention.fine.into_data().try_to_vec().unwrap();
    // Rows of P sum to at most the mean weight, so a fine value is at most that times the largest product.
    let mean: f32 = weights.iter().sum::<f32>() / 2.0;
    for class in 0..2 {
        let product = |cell: usize| {
            let head = |head: usize| weights[head] * cross[8 * head + class * 4 + cell];
            let fused = f32::midpoint(head(0), head(1));
            fused * coarse[class * 4 + cell].max(0.0)
        };
        let largest = (0..4).map(product).fold(0.0, f32::max);
        for value in &fine[class * 4..][..4] {
            assert!(*value >= 0.0 && *value <= mean * largest + 1e-6, "{value} {largest}");
        }
    }
}

#[test]
fn it_learns_what_is_drawn_and_shows_where() {
    let device = Device::flex();
    let folder = tempfile::tempdir().unwrap();
    draw_set(&folder.path().join("set"), 36);
    let set = Tagged::open(&DataConfig::new(folder.path().join("set"))).unwrap();
    for depth in [0, 1] {
        let run_folder = RunFolder::create(folder.path().join(format!("run{depth}"))).unwrap();
        // Class tokens begin alike and take a while to part.
        let mut config = config(depth, if depth == 0 { 60 } else { 400 });
        config.plan.optimizer.lr = if depth == 0 { 0.01 } else { 0.003 };
        let trained =
            run(&config, 1, &set, None, &run_folder, &device, &Stop::never(), ProgressMode::Silent).unwrap();
        assert!(trained.complete);
        let records = kirie_run::log::read(run_folder.log_path()).unwrap();
        let losses: Vec<f64> = records.iter().filter_map(|record| record.get("loss")?.as_f64()).collect();
        // Of three terms the fine maps' hardly moves in so few steps; to know how often each class is shown gives 0.94.
        let left = losses[losses.len() - 1] / losses[0];
        assert!(left < 0.9, "depth {depth}: {losses:?}");
        let precision = trained.figures.iter().find(|(name, _)| name == "mean_average_precision").unwrap().1;
        assert!(depth > 0 || precision > 0.9, "{precision}");

        let path = folder.path().join("classifier.safetensors");
        save(&path, &trained.model, &config.model, &set.classes).unwrap();
        let (model, sizes, classes) = load(&path, &device).unwrap();
        assert_eq!((&sizes, &classes), (&config.model, &set.classes));

        // The third picture shows a disc at the left and a bar at the right.
        let options = MapOptions { scales: vec![1.0], ..MapOptions::default() };
        let maps = class_maps(&model, &sizes, &picture(2), Some(&[0, 1]), &options, &device).unwrap();
        assert_eq!((maps.width, maps.height, maps.coarse.len()), (72, 64, 2));
        let centre = |map: &[f32]| {
            let weight: f32 = map.iter().map(|v| v.powi(4)).sum();
            map.iter().enumerate().map(|(at, v)| (at % 72) as f32 * v.powi(4)).sum::<f32>() / weight
        };
        let (disc, bar) = (centre(&maps.coarse[0]), centre(&maps.coarse[1]));
        assert!(depth > 0 || disc < bar, "disc at {disc}, bar at {bar}");
        assert_eq!((maps.fine.len(), maps.cross.len()), (2 * depth, 2 * depth));
        let again = class_maps(&model, &sizes, &picture(2), Some(&[0, 1]), &options, &device).unwrap();
        assert_eq!(again, maps);
        let found = class_maps(&model, &sizes, &picture(1), None, &options, &device).unwrap();
        assert!(depth > 0 || found.classes.contains(&1), "{:?}", found.classes);
        assert!(class_maps(&model, &sizes, &picture(0), Some(&[2]), &options, &device).is_err());
    }
}

#[test]
fn a_run_that_was_stopped_ends_the_same() {
    let device = Device::flex();
    let folder = tempfile::tempdir().unwrap();
    draw_set(&folder.path().join("set"), 6);
    let set = Tagged::open(&DataConfig::new(folder.path().join("set"))).unwrap();
    let go = |name: &str, steps: u64| {
        let path = folder.path().join(name);
        let run_folder = RunFolder::create(&path).or_else(|_| RunFolder::open(&path)).unwrap();
        run_folder.write_config("").unwrap();
        let config = config(1, steps);
        let trained =
            run(&config, 1, &set, None, &run_folder, &device, &Stop::never(), ProgressMode::Silent).unwrap();
        let weights: Vec<f32> = trained.model.head.weight.val().into_data().try_to_vec().unwrap();
        weights
    };
    let whole = go("whole", 6);
    let _ = go("parts", 3);
    assert_eq!(go("parts", 6), whole);
}

#[test]
fn settings_and_files_are_checked() {
    let device = Device::flex();
    let bad = |config: ModelConfig| config.init(2, None, 0, &device).map(|_| ()).unwrap_err().to_string();
    assert!(bad(ModelConfig { dim: 18, heads: 4, ..tiny(1) }).contains("multiple of the heads"));
    assert!(bad(ModelConfig { input: 60, ..tiny(1) }).contains("a multiple of 8"));
    let base = |base: &str| StemConfig::Encoder { base: base.to_owned(), sizes: None };
    assert!(bad(ModelConfig { stem: base("sam-vit-b"), input: 320, ..tiny(1) }).contains("EfficientViT"));
    assert!(bad(ModelConfig { stem: base("nothing"), input: 320, ..tiny(1) }).contains("nothing"));
    let model = ModelConfig { stem: base("kirie-small"), ..tiny(1) }.init(2, None, 0, &device).unwrap();
    let x = Tensor::zeros([1, 3, 64, 64], &device);
    assert_eq!(model.forward(x, false).activation.dims(), [1, 2, 4, 4]);

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("other.safetensors");
    let tensor = ("x".to_owned(), kirie_sam::HostTensor::new(vec![1], vec![0.0]).unwrap());
    kirie_sam::checkpoint::write_safetensors(&path, &[tensor], &std::collections::BTreeMap::new()).unwrap();
    assert!(load(&path, &device).unwrap_err().to_string().contains("kirie train weak"));
}
