//! A tiny network learns from drawn pictures, and does not notice being interrupted.

use std::fs;
use std::path::Path;

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::Tensor;
use kirie_engine::Method;
use kirie_engine::named::{NamedTensors, gradients_of};
use kirie_sam::checkpoint::{KeyPath, StateDict, state_dict_of};

use super::method::{enqueue, teacher_momentum, teacher_temperature};
use super::*;
use crate::config::Dino;
use crate::evaluate::centre_view;
use crate::regions::of_pictures;
use crate::testing::{config, draw_classes, draw_set, drawn};

const MOCO: &str = "method={ kind = \"moco\", queue = 8, output = 8, momentum = 0.9 }";
const SYMMETRIC: &str =
    "method={ kind = \"moco\", queue = 16, output = 8, symmetric = true, norm = \"running\" }";
const DINO: &str = "method={ kind = \"dino\", hidden = 16, bottleneck = 8, prototypes = 12, teacher_temperature = \
                    [0.04, 0.07], teacher_warmup = 4, freeze_prototypes = 2 }";

fn go(config: &TrainConfig, folder: &Path, stop: &Stop) -> Result<Summary, ContrastiveError> {
    let folder = if let Ok(folder) = RunFolder::open(folder) {
        folder
    } else {
        let folder = RunFolder::create(folder)?;
        folder.write_config(&kirie_run::config::to_toml(config)?)?;
        folder
    };
    let mut pictures = Pictures::open(config)?;
    let table =
        of_pictures(&mut pictures, &config.regions, None, config.seed, &Stop::never(), ProgressMode::Silent)?;
    run(config, &pictures, &table, &folder, &Device::flex(), stop, ProgressMode::Silent)
}

fn log(run: &Path) -> Vec<kirie_run::Record> {
    let mut records = kirie_run::log::read(run.join("log.jsonl")).unwrap();
    for record in &mut records {
        record.remove("seconds");
    }
    records
}

#[test]
fn views_of_one_picture_are_learned_to_be_alike() {
    let (set, place) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    draw_set(set.path(), 8);
    // Only colours tell the drawn pictures apart, so they are not jittered. A norm at the end of a head makes the first gradients
    // of features that still are alike very large (their norm is about 100): a rate of 0.1 would throw the weights away.
    let config = config(
        set.path(),
        &[
            "plan.steps=120",
            "data.batch=8",
            "encoder.width=8",
            "views.strength=0.0",
            "views.scale=[0.8, 1.0]",
            "plan.optimizer={ rule = { kind = \"adamw\" }, lr = 0.003 }",
        ],
    );
    let summary = go(&config, place.path(), &Stop::never()).unwrap();
    assert!(summary.complete && summary.warnings.is_empty(), "{summary:?}");
    assert_eq!((summary.steps, summary.views), (120, 1920));
    let records = log(place.path());
    let mean = |records: &[kirie_run::Record]| {
        let losses: Vec<f64> = records.iter().filter_map(|record| record.get("loss")?.as_f64()).collect();
        losses.iter().sum::<f64>() / losses.len() as f64
    };
    let (first, last) = (mean(&records[..5]), mean(&records[records.len() - 21..]));
    // Chance is ln(15) = 2.71, which is what a collapsed network gets, too.
    assert!(first > 2.7 && last < 2.0, "{first} -> {last}");
    assert!(summary.training["health.spread"] > 0.7, "{summary:?}");
    for name in ["health.spread", "health.top1", "space.alignment", "space.uniformity", "lr"] {
        assert!(records[0].contains_key(name), "{name}");
    }
    // What is left can be used: the encoder in the file gives other features for other pictures.
    let file = place.path().join(ENCODER_FILE);
    let device = Device::flex();
    let spec = crate::model::EncoderSpec::new(&config.encoder).unwrap();
    let weights = EncoderFile::open(&file, &config.encoder).unwrap();
    assert_eq!(weights.metadata("size"), Some("16"));
    let encoder = weights.load_into(spec.init(&device), &device).unwrap();
    let views = [drawn(0), drawn(5)].map(|image| centre_view(&image, 16).unwrap());
    let (rows, width) = crate::evaluate::features_of_views(&encoder, &views, 16, &device, &mut |_| {});
    assert_eq!((width, rows.len()), (64, 128));
    assert_ne!(rows[..64], rows[64..]);
}

/// A step along the gradient of one part of the network changes the loss by as much as the gradient says.
#[test]
fn gradients_of_the_whole_network_are_those_of_finite_differences() {
    struct Along<'a> {
        path: KeyPath,
        gradients: &'a NamedTensors,
        part: &'a str,
        by: f64,
    }
    impl ModuleMapper for Along<'_> {
        fn enter_module(&mut self, name: &str, container_type: &str) {
            self.path.enter(name, container_type);
        }
        fn exit_module(&mut self, _: &str, container_type: &str) {
            self.path.exit(container_type);
        }
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            let name = self.path.key();
            let Some(gradient) = self.gradients.get(&name).filter(|_| name.starts_with(self.part)) else {
                return param;
            };
            param.map(|tensor| {
                let step = gradient.clone().reshape(tensor.dims()) * self.by;
                Tensor::from_inner(tensor.inner() + step).set_require_grad(true)
            })
        }
    }

    let set = tempfile::tempdir().unwrap();
    draw_set(set.path(), 8);
    let device = Device::flex();
    // Not DINO: the gradient of its fresh network is so small (0.008) that a step that shows in single precision is no small one.
    for method in ["method.temperature=0.2", MOCO] {
        let config = config(set.path(), &[method, "data.batch=8", "encoder.width=8"]);
        let pictures = Pictures::open(&config).unwrap();
        let table = Table { regions: vec![Vec::new(); 8], ..Table::default() };
        let method = ContrastiveMethod::new(&config, &pictures, &table, &device).unwrap();
        let trained = device.clone().autodiff();
        let model = Contrastive::new(&config.encoder, &config.method, None, 1, &trained).unwrap();
        let batch = method.batch(0, 0).unwrap();
        let loss = |model: &Contrastive| method.loss(model, batch.clone(), 9).unwrap().loss;
        let gradients = gradients_of(&model, &mut loss(&model).backward());
        assert!(gradients.keys().all(|name| name.starts_with("online.")), "nothing else is trained");
        for part in [
            "online.encoder.conv1",
            "online.encoder.layer1",
            "online.encoder.layer2",
            "online.encoder.layer3",
            "online.encoder.layer4",
            "online.head",
        ] {
            let square: f64 = gradients
                .iter()
                .filter(|(name, _)| name.starts_with(part))
                .map(|(_, gradient)| f64::from(gradient.clone().square().sum().into_scalar::<f32>()))
                .sum();
            // The loss is to change by this much each way.
            let change = 0.002;
            let at = |by: f64| {
                let mut along =
                    Along { path: KeyPath::default(), gradients: &gradients, part, by: by / square };
                f64::from(loss(&model.clone().map(&mut along)).into_scalar::<f32>())
            };
            let found = (at(change) - at(-change)) / (2.0 * change);
            assert!((found - 1.0).abs() < 0.05, "{}, {part}: {found} of {square}", config.method.name());
        }
    }
}

#[test]
fn an_interrupted_run_ends_with_the_same_bits() {
    let set = tempfile::tempdir().unwrap();
    draw_set(set.path(), 9);
    for (method, more) in [
        ("method.temperature=0.1", "views={ size = 16, local = 2, local_size = 8 }"),
        (MOCO, "regions.source={ kind = \"grid\", rows = 2, columns = 2 }"),
        (SYMMETRIC, "plan.accumulate=2"),
        (DINO, "views={ recipe = \"dino\", size = 16, local = 1, local_size = 8 }"),
    ] {
        let config = config(set.path(), &[method, more, "regions.min_area=0"]);
        let (whole, cut) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let expected = go(&config, whole.path(), &Stop::never()).unwrap();
        assert!(expected.complete && expected.training["loss"].is_finite());

        // Asked to end before it began, then killed after the checkpoint of step 3, then gone on with.
        let stopped = Stop::never();
        stopped.request();
        let first = go(&config, cut.path(), &stopped).unwrap();
        assert!(!first.complete && first.steps == 0 && first.encoder.is_none());
        go(&config, cut.path(), &Stop::never()).unwrap();
        fs::remove_dir_all(cut.path().join("checkpoints/step-6")).unwrap();
        fs::remove_file(cut.path().join(ENCODER_FILE)).unwrap();
        for pointer in ["latest", "best"] {
            fs::remove_file(cut.path().join("checkpoints").join(pointer)).ok();
        }
        go(&config, cut.path(), &Stop::never()).unwrap();
        assert_eq!(log(whole.path()), log(cut.path()), "{method}");
        let read = |run: &Path| fs::read(run.join("checkpoints/step-6/weights.safetensors")).unwrap();
        assert!(read(whole.path()) == read(cut.path()), "{method}: weights differ");
        let read = |run: &Path| fs::read(run.join(ENCODER_FILE)).unwrap();
        assert!(read(whole.path()) == read(cut.path()), "{method}: encoders differ");
    }
}

/// Whole pictures or regions: views of the same strength at the same places of another rectangle, nothing else.
#[test]
fn the_source_of_views_changes_nothing_else() {
    let set = tempfile::tempdir().unwrap();
    draw_set(set.path(), 6);
    let batch = |source: &str| {
        let config = config(set.path(), &[source, "regions.min_area=0", "regions.box_scale=1.0"]);
        let mut pictures = Pictures::open(&config).unwrap();
        let silent = ProgressMode::Silent;
        let table = of_pictures(&mut pictures, &config.regions, None, 0, &Stop::never(), silent).unwrap();
        let method = ContrastiveMethod::new(&config, &pictures, &table, &Device::flex()).unwrap();
        method.batch(2, 0).unwrap()
    };
    let whole = batch("regions.source={ kind = \"whole\" }");
    // One cell is the whole picture.
    assert_eq!(whole, batch("regions.source={ kind = \"grid\", rows = 1, columns = 1 }"));
    let cells = batch("regions.source={ kind = \"grid\", rows = 2, columns = 2 }");
    assert_eq!(whole.names, cells.names);
    assert_ne!(whole.stacks, cells.stacks);
}

#[test]
fn the_probe_tells_classes_apart_while_training() {
    let (set, classes, place) =
        (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    draw_set(set.path(), 4);
    draw_classes(classes.path(), 12);
    let probe = format!("probe={{ path = {:?}, one_in = 3, k = 3 }}", classes.path());
    // With the two channels of the other tests, half of which may be dead, features of all pictures can be alike.
    let more = [&probe, "plan.validate_every=3", "encoder.width=8", "plan.optimizer.lr=0.01"];
    let config = config(set.path(), &more);
    let summary = go(&config, place.path(), &Stop::never()).unwrap();
    assert!(summary.validation["knn"] > 0.9, "{:?}", summary.validation);
    assert!(summary.validation["rank_me"] > 1.05, "{:?}", summary.validation);
    assert!(summary.validation["spread"] > 0.02, "{:?}", summary.validation);
    let scored = log(place.path()).iter().filter(|record| record.contains_key("validation.knn")).count();
    assert_eq!(scored, 2);
}

/// Judging features leaves the statistics of the norms as they are.
#[test]
fn judging_changes_no_statistics() {
    let set = tempfile::tempdir().unwrap();
    draw_set(set.path(), 6);
    let config = config(set.path(), &[]);
    let device = Device::flex();
    let pictures = Pictures::open(&config).unwrap();
    let table = Table { regions: vec![Vec::new(); 6], ..Table::default() };
    let method = ContrastiveMethod::new(&config, &pictures, &table, &device).unwrap();
    let model =
        Contrastive::new(&config.encoder, &config.method, None, 1, &device.clone().autodiff()).unwrap();
    let batch = method.batch(0, 0).unwrap();
    method.loss(&model, batch, 0).unwrap();
    let model = model.valid();
    let before = state_dict_of(&model);
    method.score(&model).unwrap();
    method.score(&model).unwrap();
    assert!(before == state_dict_of(&model));
    let moved =
        before.iter().any(|(key, t)| key.ends_with("running_mean") && t.values.iter().any(|v| *v != 0.0));
    assert!(moved, "training does change them");
}

/// Norms of an encoder that is not trained are brought to the pictures; its weights stay those of the seed.
#[test]
fn an_untrained_encoder_knows_its_pictures_statistics() {
    let set = tempfile::tempdir().unwrap();
    draw_set(set.path(), 6);
    let config = config(set.path(), &[]);
    let device = Device::flex();
    let pictures = Pictures::open(&config).unwrap();
    let table = Table { regions: vec![Vec::new(); 6], ..Table::default() };
    let of = |batches: u64| state_dict_of(&untrained(&config, &pictures, &table, batches, &device).unwrap());
    let (bare, used) = (of(0), of(8));
    assert!(used == of(8), "the same every time");
    assert_eq!(bare.len(), used.len());
    let mut moved = 0;
    for ((name, before), (same, after)) in bare.iter().zip(&used) {
        assert_eq!(name, same);
        if name.ends_with("running_mean") || name.ends_with("running_var") {
            moved += usize::from(before.values != after.values);
        } else {
            assert!(before == after, "{name}");
        }
    }
    assert!(moved > 10, "{moved}");
    let few =
        TrainConfig { data: crate::config::DataConfig { batch: 7, ..config.data.clone() }, ..config.clone() };
    assert!(untrained(&few, &pictures, &table, 1, &device).is_err());
    assert!(untrained(&few, &pictures, &table, 0, &device).is_ok());
}

#[test]
fn a_set_smaller_than_the_batch_is_told() {
    let (set, place) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    draw_set(set.path(), 3);
    let error = go(&config(set.path(), &[]), place.path(), &Stop::never()).unwrap_err().to_string();
    assert_eq!(
        error,
        "a batch: there are 3 pictures, expected at least 4; a picture must not be its own negative; make data.batch smaller, \
         or add pictures"
    );
}

#[test]
fn pictures_without_a_region_are_whole_or_left_out_or_an_error() {
    let set = tempfile::tempdir().unwrap();
    draw_set(set.path(), 5);
    let none = "regions.source={ kind = \"truth\" }";
    for (without, expected) in [("whole", Ok(5)), ("skip", Ok(0)), ("error", Err("no region is left of 0"))] {
        let config = config(set.path(), &[none, &format!("regions.without={without}")]);
        let mut pictures = Pictures::open(&config).unwrap();
        let found =
            of_pictures(&mut pictures, &config.regions, None, 0, &Stop::never(), ProgressMode::Silent);
        match expected {
            Ok(left) => {
                let table = found.unwrap();
                assert_eq!((pictures.len(), table.regions.len(), table.count.without), (left, left, 5));
            }
            Err(text) => assert!(found.unwrap_err().to_string().contains(text)),
        }
    }
}

#[test]
fn wrong_settings_are_named() {
    let set = Path::new("nowhere");
    for (bad, name) in [
        ("method={ kind = \"simclr\", temperature = 0.0 }", "method.temperature"),
        ("method={ kind = \"moco\", queue = 10 }", "method.queue"),
        ("method={ kind = \"dino\", momentum = 1.0 }", "method.momentum"),
        ("data.batch=1", "data.batch"),
        ("views.global=1", "views.global"),
        ("views.scale=[0.5, 0.1]", "views.scale"),
        ("encoder.depth=34", "encoder.depth"),
        ("data.sets=[{ path = \"x\", split = \"test\" }]", "data.sets.split"),
        ("probe={ path = \"x\", split = \"test\" }", "probe.split"),
    ] {
        let error = config(set, &[bad]).check().unwrap_err().to_string();
        assert!(error.starts_with(name), "{bad}: {error}");
    }
    assert!(config(set, &[]).check().is_ok());
}

#[test]
fn schedules_of_the_teacher() {
    let dino = Dino { teacher_temperature: [0.04, 0.07], teacher_warmup: 30, ..Dino::default() };
    assert_eq!(
        [0, 15, 30, 99].map(|s| (teacher_temperature(&dino, s) * 1e6).round()),
        [4e4, 5.5e4, 7e4, 7e4]
    );
    assert!((teacher_momentum(&dino, 0, 100) - 0.996).abs() < 1e-12);
    assert!((teacher_momentum(&dino, 50, 100) - 0.998).abs() < 1e-12);
    assert!((teacher_momentum(&dino, 100, 100) - 1.0).abs() < 1e-12);
}

/// The newest keys take the place of the oldest, whatever step a run goes on from.
#[test]
fn the_queue_is_a_ring() {
    let device = Device::flex();
    let keys = |value: f32| Tensor::<2>::full([2, 3], value, &device);
    let mut queue = Tensor::<2>::zeros([6, 3], &device);
    for step in 0..4_u64 {
        queue = enqueue(queue, &[keys(step as f32 + 1.0)], step).val().inner();
    }
    let first: Vec<f32> = queue.narrow(1, 0, 1).into_data().iter::<f32>().collect();
    assert_eq!(first, [4.0, 4.0, 2.0, 2.0, 3.0, 3.0]);
    let queue = enqueue(Tensor::zeros([8, 3], &device), &[keys(1.0), keys(2.0)], 1).val().inner();
    let first: Vec<f32> = queue.narrow(1, 0, 1).into_data().iter::<f32>().collect();
    assert_eq!(first, [0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 2.0, 2.0]);
}

/// A whole SAM-family model is written, whose encoder is the trained one.
#[test]
fn a_sam_encoder_comes_back_as_a_whole_model() {
    let (set, place) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    draw_set(set.path(), 2);
    let sam = "encoder={ kind = \"sam\", model = \"kirie-small\" }";
    let config = config(set.path(), &[sam, "data.batch=2", "plan.steps=1", "views.size=32"]);
    go(&config, place.path(), &Stop::never()).unwrap();
    let weights = StateDict::open(place.path().join(ENCODER_FILE)).unwrap();
    let device = Device::flex();
    let found = kirie_sam::registry::identify(&weights, &device).map(|variant| variant.name);
    assert_eq!(found, Some("kirie-small"));
    let checkpoint = StateDict::open(place.path().join("checkpoints/step-1/weights.safetensors")).unwrap();
    let key = "image_encoder.backbone.stages.0.op_list.0.conv.weight";
    let trained = checkpoint.read(&format!("online.encoder.{key}")).unwrap();
    assert_eq!(weights.read(key).unwrap(), trained);
}
