//! For tests: a COCO set of drawn pictures, and models whose answers are known.

use std::fs;

use kirie_data::Image;
use kirie_data::datasets::{Dataset, Sample, open};
use kirie_data::write::write_picture;
use kirie_mask::Rle;
use kirie_sam::Prompt;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{Answer, EvaluateError, Promptable};

/// An annotated object: COCO's fields beside `id` and `image_id`.
pub(super) fn object(mask: &Rle) -> Value {
    json!({
        "category_id": 7,
        "segmentation": { "size": [mask.height(), mask.width()], "counts": mask.counts() },
        "bbox": mask.bbox_xywh(),
        "area": mask.area(),
        "iscrowd": 0,
    })
}

/// A COCO set on the disk.
pub(super) struct Set {
    pub(super) folder: TempDir,
    pub(super) dataset: Dataset,
}

impl Set {
    /// Pictures `p0`, `p1` ... of these sizes, with their objects; image ids count from 100.
    pub(super) fn new(pictures: &[(u32, u32, Vec<Value>)]) -> Self {
        let listed: Vec<(u64, &str, u32, u32, &[Value])> = (100..)
            .zip(pictures)
            .map(|(id, (width, height, objects))| (id, "test", *width, *height, objects.as_slice()))
            .collect();
        Self::with_ids(&listed)
    }

    /// Pictures by id, part, size and objects, named `p` and their place.
    pub(super) fn with_ids(pictures: &[(u64, &str, u32, u32, &[Value])]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("images")).unwrap();
        let (mut images, mut annotations, mut categories) = (Vec::new(), Vec::new(), vec![7]);
        for (at, (id, split, width, height, objects)) in pictures.iter().enumerate() {
            let name = format!("p{at}.png");
            let pixels = vec![(40 + at % 200) as u8; 3 * (width * height) as usize];
            let picture = Image::from_raw(*width, *height, pixels).unwrap();
            write_picture(folder.path().join("images").join(&name), &picture).unwrap();
            images.push(json!({
                "id": id, "file_name": name, "width": width, "height": height, "split": split,
            }));
            for object in *objects {
                let mut object = object.clone();
                object["id"] = json!(annotations.len() + 1);
                object["image_id"] = json!(id);
                categories.extend(object["category_id"].as_u64());
                annotations.push(object);
            }
        }
        categories.sort_unstable();
        categories.dedup();
        let categories: Vec<Value> =
            categories.iter().map(|id| json!({ "id": id, "name": format!("c{id}") })).collect();
        let whole = json!({ "images": images, "annotations": annotations, "categories": categories });
        fs::write(folder.path().join("instances.json"), whole.to_string()).unwrap();
        let dataset = open(folder.path(), None).unwrap();
        Self { folder, dataset }
    }

    pub(super) fn samples(&self) -> Vec<&Sample> {
        self.dataset.samples.iter().collect()
    }
}

/// Answers with what a function of the prompt and the picture's size says, and remembers what it was asked.
pub(super) struct Fake<F> {
    answer: F,
    size: (usize, usize),
    pub(super) pictures: usize,
    pub(super) asked: Vec<Vec<Prompt>>,
}

impl<F: Fn(&Prompt, (usize, usize)) -> Rle> Fake<F> {
    pub(super) fn new(answer: F) -> Self {
        Self { answer, size: (0, 0), pictures: 0, asked: Vec::new() }
    }
}

impl<F: Fn(&Prompt, (usize, usize)) -> Rle> Promptable for Fake<F> {
    fn name(&self) -> &'static str {
        "fake"
    }

    fn set_picture(&mut self, picture: &Image) -> Result<(), EvaluateError> {
        self.size = (picture.width() as usize, picture.height() as usize);
        self.pictures += 1;
        Ok(())
    }

    fn masks(&mut self, prompts: &[Prompt]) -> Result<Vec<Answer>, EvaluateError> {
        self.asked.push(prompts.to_vec());
        let answer = |prompt| Answer {
            mask: (self.answer)(prompt, self.size),
            predicted_iou: Some(0.5),
            logits: Some(vec![prompts.len() as f32]),
        };
        Ok(prompts.iter().map(answer).collect())
    }
}

pub(super) fn rectangle((width, height): (usize, usize), [x, y, w, h]: [usize; 4]) -> Rle {
    Rle::from_fn(width, height, |u, v| (x..x + w).contains(&u) && (y..y + h).contains(&v))
}

pub(super) fn disc((width, height): (usize, usize), (cx, cy): (f64, f64), radius: f64) -> Rle {
    Rle::from_fn(width, height, |x, y| (x as f64 - cx).hypot(y as f64 - cy) <= radius)
}

pub(super) fn nothing((width, height): (usize, usize)) -> Rle {
    Rle::from_fn(width, height, |_, _| false)
}
