//! Stage 1: a student learns a teacher's embeddings, which are kept on the disk.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use kirie_promptable::train::config::{Distill, Task};
use kirie_promptable::train::{TrainConfig, TrainError};
use kirie_run::Stop;
use kirie_sam::HostTensor;
use kirie_sam::checkpoint::write_safetensors;
use kirie_sam::encoders::EncoderConfig;
use tempfile::TempDir;

use crate::common::{config, course, draw_set, efficientvit, finish, go, log, sizes, tensors, vit, weights};

/// Pictures of the set; one step sees all of them.
const PICTURES: u32 = 2;

struct Lesson {
    place: TempDir,
}

impl Lesson {
    fn new() -> Self {
        let place = tempfile::tempdir().unwrap();
        draw_set(&place.path().join("set"), PICTURES);
        let lesson = Self { place };
        // Another kind of encoder than the student's.
        weights(&lesson.teacher(), 9, &lesson.path("teacher.safetensors"));
        lesson
    }

    fn path(&self, name: &str) -> PathBuf {
        self.place.path().join(name)
    }

    fn teacher(&self) -> TrainConfig {
        config(&self.path("set"), &sizes(vit(), None), 1)
    }

    fn config(&self, steps: u64) -> TrainConfig {
        let mut config = config(&self.path("set"), &sizes(efficientvit(), None), steps);
        config.task = Task::Distill(Distill {
            teacher: config.model.name.clone(),
            sizes: Some(sizes(vit(), None)),
            input: config.model.input,
            weights: self.path("teacher.safetensors"),
            cache: Some(self.path("cache")),
            copy_decoder: true,
        });
        config
    }

    /// The losses of a run.
    fn losses(&self, config: &TrainConfig, run: &str) -> Vec<f64> {
        finish(config, &self.path(run));
        course(&self.path(run), "loss")
    }

    /// The cache's files below the folders of teachers, with their sizes and times.
    fn cached(&self) -> BTreeMap<PathBuf, (u64, SystemTime)> {
        let entries = |folder: &Path| -> Vec<PathBuf> {
            fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect()
        };
        let files = entries(&self.path("cache")).into_iter().flat_map(|folder| entries(&folder));
        let with_data = |path: PathBuf| {
            let data = fs::metadata(&path).unwrap();
            (path, (data.len(), data.modified().unwrap()))
        };
        files.map(with_data).collect()
    }
}

fn set_task(config: &mut TrainConfig, change: impl FnOnce(&mut Distill)) {
    match &mut config.task {
        Task::Distill(task) => change(task),
        Task::EndToEnd(_) => panic!("it is distillation"),
    }
}

#[test]
fn the_student_learns_and_takes_the_decoder_over() {
    let lesson = Lesson::new();
    let losses = lesson.losses(&lesson.config(60), "run");
    let (first, last) = (losses[0], losses[59]);
    assert!(last < 0.35 * first, "{losses:?}");

    let (student, teacher) =
        (tensors(&lesson.path("run/model.safetensors")), tensors(&lesson.path("teacher.safetensors")));
    let mut compared = 0;
    for (name, values) in teacher.iter().filter(|(name, _)| !name.starts_with("image_encoder.")) {
        assert!(student[name] == *values, "{name} is not the teacher's");
        compared += 1;
    }
    assert!(compared > 50, "{compared}");

    // Without that, they are random.
    let mut own = lesson.config(1);
    set_task(&mut own, |task| task.copy_decoder = false);
    let model = tensors(&finish(&own, &lesson.path("own")));
    assert!(model["mask_decoder.iou_token.weight"] != teacher["mask_decoder.iou_token.weight"]);
}

#[test]
fn embeddings_are_kept_in_half_precision_and_used_again() {
    let lesson = Lesson::new();
    let config = lesson.config(3);
    let first = lesson.losses(&config, "first");
    let files = lesson.cached();
    assert_eq!(files.len() as u32, PICTURES);
    for (path, (length, _)) in &files {
        let bytes = fs::read(path).unwrap();
        let header = String::from_utf8_lossy(&bytes[8..200.min(bytes.len())]).into_owned();
        assert!(header.contains("\"F16\"") && header.contains("[32,8,8]"), "{header}");
        assert!(*length < 2 * 32 * 8 * 8 + 200, "{length} bytes");
    }

    // The second run finds them, and is the same to the last bit.
    assert_eq!(lesson.losses(&config, "second"), first);
    assert_eq!(lesson.cached(), files, "nothing is written again");

    // It does look into them: with other content the loss is another.
    let zeros = HostTensor { shape: vec![32, 8, 8], values: vec![0.0; 32 * 8 * 8] };
    for path in files.keys() {
        write_safetensors(path, &[("embedding".to_owned(), zeros.clone())], &BTreeMap::new()).unwrap();
    }
    let third = lesson.losses(&config, "third");
    assert!(third.iter().zip(&first).all(|(t, f)| (t - f).abs() > 1e-3 * f), "{third:?} {first:?}");

    // Damaged in any way, they are as if they were not there.
    for (number, path) in files.keys().enumerate() {
        let bytes = fs::read(path).unwrap();
        let wrong = HostTensor { shape: vec![32, 8, 7], values: vec![0.0; 32 * 8 * 7] };
        match number % 2 {
            0 => fs::write(path, &bytes[..bytes.len() / 2]).unwrap(),
            _ => write_safetensors(path, &[("embedding".to_owned(), wrong)], &BTreeMap::new()).unwrap(),
        }
    }
    assert_eq!(lesson.losses(&config, "fourth"), first);
    let sizes = |files: &BTreeMap<PathBuf, (u64, SystemTime)>| {
        files.iter().map(|(path, (size, _))| (path.clone(), *size)).collect::<Vec<_>>()
    };
    assert_eq!(sizes(&lesson.cached()), sizes(&files), "they are made anew");
}

#[test]
fn the_cache_knows_teachers_and_mirrored_pictures_apart() {
    let lesson = Lesson::new();
    let mut config = lesson.config(2);
    let first = lesson.losses(&config, "first");
    assert_eq!(lesson.cached().len() as u32, PICTURES);
    weights(&lesson.teacher(), 10, &lesson.path("teacher.safetensors"));
    assert!(lesson.losses(&config, "other")[0] != first[0]);
    assert_eq!(lesson.cached().len() as u32, 2 * PICTURES, "another teacher makes files of its own");
    config.augment.flip = 1.0;
    lesson.losses(&config, "mirrored");
    assert_eq!(lesson.cached().len() as u32, 3 * PICTURES);

    // Pictures that never come the same way twice are not kept, and need the teacher every time.
    config.augment.scale = [0.8, 1.2];
    lesson.losses(&config, "jittered");
    assert_eq!(lesson.cached().len() as u32, 3 * PICTURES);
}

#[test]
fn validation_tells_the_squared_error_of_held_out_pictures() {
    let lesson = Lesson::new();
    draw_set(&lesson.path("set"), 8);
    let mut config = lesson.config(40);
    (config.data.validate_one_in, config.plan.validate_every) = (3, 10);
    finish(&config, &lesson.path("run"));
    let figures: Vec<f64> = log(&lesson.path("run"))
        .iter()
        .filter_map(|record| record.get("validation.minus_squared_error")?.as_f64())
        .collect();
    assert_eq!(figures.len(), 4);
    assert!(figures.iter().all(|f| *f < 0.0) && figures[3] > figures[0], "{figures:?}");
}

#[test]
fn what_does_not_fit_is_told() {
    let lesson = Lesson::new();
    let mut config = lesson.config(1);
    // A teacher whose embedding has twice the side.
    let mut large = sizes(efficientvit(), None);
    large.prompt_encoder.embedding_size = 16;
    let EncoderConfig::EfficientVit(encoder) = &mut large.encoder else { panic!("another encoder") };
    encoder.out_size = 16;
    let mut teacher = lesson.teacher();
    teacher.model.sizes = Some(large.clone());
    weights(&teacher, 9, &lesson.path("large.safetensors"));
    set_task(&mut config, |task| {
        task.sizes = Some(large);
        task.weights = lesson.path("large.safetensors");
        task.copy_decoder = false;
    });
    let error = go(&config, &lesson.path("run"), &Stop::never()).unwrap_err();
    assert!(matches!(error, TrainError::Embedding { .. }), "{error}");
    let error = error.to_string();
    assert!(error.contains("[32, 16, 16]") && error.contains("[32, 8, 8]"), "{error}");

    let mut config = lesson.config(1);
    set_task(&mut config, |task| task.weights = lesson.path("nowhere.safetensors"));
    let error = go(&config, &lesson.path("run"), &Stop::never()).unwrap_err().to_string();
    assert!(error.contains("nowhere.safetensors"), "{error}");
}
