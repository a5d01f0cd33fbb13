//! One layout to another and back.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};

use kirie_data::DataError;
use kirie_data::datasets::{
    ConvertOptions, Dataset, Instance, Labels, Layout, LossKind, MaskMeaning, OpenOptions, Pictures,
    Segmentation, Target, convert, open, open_with,
};
use kirie_mask::{BBox, Rle};

use crate::folder::{Folder, class_names, ids, instances, read_all};

fn converted(dataset: &Dataset, target: Target) -> (Folder, Dataset) {
    let folder = Folder::new();
    let done = convert(dataset, folder.path(), &ConvertOptions::new(target), &|_, _| {}).unwrap();
    assert!(done.failed.is_empty(), "{:?}", done.failed);
    assert_eq!(done.samples, dataset.samples.len());
    let dataset = folder.open();
    (folder, dataset)
}

fn boxes(dataset: &Dataset, id: &str) -> Vec<(Option<String>, BBox)> {
    let name = |instance: &Instance| instance.class.map(|id| dataset.class(id).unwrap().name.clone());
    instances(dataset, id).iter().map(|i| (name(i), i.bbox)).collect()
}

fn masks(dataset: &Dataset, id: &str, size: (u32, u32)) -> Vec<Rle> {
    instances(dataset, id).iter().map(|i| i.mask(size.0, size.1).unwrap().unwrap()).collect()
}

/// Two pictures, in train and val; objects that do not overlap, one with a hole, one in two parts.
fn example() -> (Folder, Dataset) {
    let folder = Folder::new();
    let ring = Rle::from_fn(30, 20, |x, y| (2..9).contains(&x) && (3..12).contains(&y) && (x, y) != (5, 6));
    let json = serde_json::json!({
        "images": [
            {"id": 1, "file_name": "images/a.png", "width": 30, "height": 20, "split": "train"},
            {"id": 2, "file_name": "images/b & c.png", "width": 12, "height": 9, "split": "val"},
        ],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 7, "segmentation": ring, "area": 62, "bbox": [2, 3, 7, 9]},
            {"id": 2, "image_id": 1, "category_id": 90, "area": 20,
             "segmentation": [[12, 1, 16, 1, 16, 5, 12, 5], [20, 10, 22, 10, 22, 12, 20, 12]], "bbox": [12, 1, 10, 11]},
            {"id": 3, "image_id": 2, "category_id": 7, "segmentation": [[1, 1, 5, 1, 5, 3, 1, 3]], "area": 8,
             "bbox": [1, 1, 4, 2]},
        ],
        "categories": [{"id": 7, "name": "it's <a> cat"}, {"id": 90, "name": "dog & co"}],
    });
    folder.text("set.json", &json.to_string()).picture("images/a.png", 30, 20).picture(
        "images/b & c.png",
        12,
        9,
    );
    let dataset = folder.open();
    (folder, dataset)
}

#[test]
fn coco_to_coco_keeps_everything() {
    let (_kept, first) = example();
    let (_folder, second) = converted(&first, Target::Coco);
    assert_eq!((second.layout, class_names(&second)), (Layout::Coco, class_names(&first)));
    assert_eq!(second.samples[1].split.as_deref(), Some("val"));
    assert_eq!(ids(&second), ["images_a", "images_b & c"]);
    assert_eq!(read_all(&second).unwrap(), read_all(&first).unwrap());
    let picture = |set: &Dataset, i: usize| fs::read(&set.samples[i].image).unwrap();
    assert_eq!(picture(&first, 0), picture(&second, 0));
}

#[test]
fn coco_to_voc_to_coco_keeps_boxes() {
    let (_kept, coco) = example();
    let (_voc_folder, voc) = converted(&coco, Target::Voc);
    assert_eq!(class_names(&voc), class_names(&coco));
    let (_folder, back) = converted(&voc, Target::Coco);
    assert_eq!(ids(&back), ids(&voc));
    for (old, new) in [("images/a", "images_a"), ("images/b & c", "images_b & c")] {
        assert_eq!(boxes(&back, new), boxes(&coco, old));
        assert_eq!(boxes(&voc, new), boxes(&coco, old));
    }
    assert!(instances(&back, "images_a").iter().all(|i| i.segmentation == Segmentation::Box));
}

#[test]
fn coco_to_instance_masks_keeps_pixels() {
    let (_kept, coco) = example();
    let (_folder, back) = converted(&coco, Target::InstanceMasks);
    assert_eq!(back.mask_meaning, Some(MaskMeaning::Instances));
    for (old, new, size) in [("images/a", "images_a", (30, 20)), ("images/b & c", "images_b & c", (12, 9))] {
        assert_eq!(masks(&back, new, size), masks(&coco, old, size));
    }
    assert_eq!(ids(&open(&back.root, Some("val")).unwrap()), ["images_b & c"]);
}

#[test]
fn coco_to_class_masks_and_back() {
    let (_kept, coco) = example();
    let (_folder, semantic) = converted(&coco, Target::ClassMasks);
    assert_eq!(class_names(&semantic), [(0, "background"), (7, "it's <a> cat"), (90, "dog & co")]);
    let Labels::ClassMap(map) = &read_all(&semantic).unwrap()[0] else { panic!() };
    assert_eq!(map.present(), [0, 7, 90]);
    let (_coco_folder, back) = converted(&semantic, Target::Coco);
    assert_eq!(class_names(&back), class_names(&coco));
    assert_eq!(masks(&back, "images_a", (30, 20)), masks(&coco, "images/a", (30, 20)));
    // Class masks to class masks, with the numbers they have.
    let (_again_folder, again) = converted(&semantic, Target::ClassMasks);
    assert_eq!(read_all(&again).unwrap(), read_all(&semantic).unwrap());
}

#[test]
fn coco_to_yolo_and_back() {
    let (_kept, coco) = example();
    let folder = Folder::new();
    let options = ConvertOptions { tolerance: 0.0, ..ConvertOptions::new(Target::Yolo) };
    convert(&coco, folder.path(), &options, &|_, _| {}).unwrap();
    let yolo = folder.open();
    assert_eq!(class_names(&yolo), [(0, "it's <a> cat"), (1, "dog & co")]);
    for (old, new, size) in
        [("images/a", "train/images_a", (30, 20)), ("images/b & c", "val/images_b & c", (12, 9))]
    {
        assert_eq!(masks(&yolo, new, size), masks(&coco, old, size));
    }
    let yaml = fs::read_to_string(folder.path().join("data.yaml")).unwrap();
    assert!(
        yaml.contains("train: images/train\nval: images/val\nnc: 2\nnames:\n  0: 'it''s <a> cat'\n"),
        "{yaml}"
    );
}

#[test]
fn crowds_and_objects_without_class() {
    let folder = Folder::new();
    folder.picture("images/a.png", 6, 1).mask("masks/a.png", 6, 1, |x, _| [0, 1, 2, 3, 255, 3][x as usize]);
    let regions = folder.open();
    let (_coco_folder, coco) = converted(&regions, Target::Coco);
    assert_eq!(class_names(&coco), [(1, "object")]);
    assert_eq!(instances(&coco, "a").iter().filter(|i| i.crowd).count(), 1);
    let (_masks_folder, masks) = converted(&coco, Target::ClassMasks);
    let Labels::ClassMap(map) = &read_all(&masks).unwrap()[0] else { panic!() };
    assert_eq!(map.ids, [0, 1, 1, 1, u16::MAX, 1]);
    let (_again_folder, again) = converted(&coco, Target::InstanceMasks);
    let numbers =
        |set: &Dataset| instances(set, "a").iter().map(|i| (i.area as u32, i.crowd)).collect::<Vec<_>>();
    // Larger objects come first.
    assert_eq!(numbers(&again), [(2, false), (1, false), (1, false), (1, true)]);
    let (_yolo_folder, yolo) = converted(&coco, Target::Yolo);
    assert_eq!(instances(&yolo, "a").len(), 3);
}

#[test]
fn more_objects_than_eight_bits_hold() {
    for count in [253, 254, 300] {
        let folder = Folder::new();
        folder.picture("images/a.png", 400, 1);
        folder.mask16("masks/a.png", 400, 1, |x, _| if x < count { x as u16 + 1 } else { 0 });
        let (_folder, back) = converted(&folder.open(), Target::InstanceMasks);
        let found = instances(&back, "a");
        assert!(found.len() == count as usize && found.iter().all(|i| !i.crowd), "{count}");
    }
}

#[test]
fn classes_from_zero_leave_room_for_background() {
    let folder = Folder::new();
    folder
        .picture("images/a.png", 20, 10)
        .text("labels/a.txt", "0 0 0 0.5 0 0.5 1 0 1")
        .text("classes.txt", "cat");
    let (_folder, semantic) = converted(&folder.open(), Target::ClassMasks);
    assert_eq!(class_names(&semantic), [(0, "background"), (1, "cat")]);
    let Labels::ClassMap(map) = &read_all(&semantic).unwrap()[0] else { panic!() };
    assert_eq!(map.ids.iter().filter(|&&id| id == 1).count(), 100);
}

#[test]
fn what_cannot_be_converted_is_named_and_the_rest_is_written() {
    let folder = Folder::new();
    folder.picture("images/a.png", 20, 10).picture("images/b.png", 20, 10).text("classes.txt", "cat");
    folder.text("labels/a.txt", "0 .5 .5 .5 .5").text("labels/b.txt", "0 0 0 0.5 0 0.5 1 0 1");
    let dataset = folder.open();
    let out = Folder::new();
    let options = ConvertOptions::new(Target::InstanceMasks);
    let done = convert(&dataset, out.path(), &options, &|_, _| {}).unwrap();
    assert_eq!((done.samples, done.objects, done.failed.len()), (1, 1, 1));
    assert_eq!(done.failed[0].0, "a");
    let message = done.failed[0].1.to_string();
    assert!(message.contains("a.txt, object 0: only its box is known"), "{message}");
    assert_eq!(ids(&out.open()), ["b"]);
    // A folder in use is not touched.
    let error = convert(&dataset, out.path(), &options, &|_, _| {}).unwrap_err();
    assert!(matches!(error, DataError::NotEmpty { .. }), "{error}");

    let tags = Folder::new();
    tags.picture("cat/a.png", 3, 3).picture("dog/b.png", 3, 3);
    let done =
        convert(&tags.open(), Folder::new().path(), &ConvertOptions::new(Target::Coco), &|_, _| {}).unwrap();
    assert!(done.failed[0].1.to_string().contains("but not where"));
}

#[test]
fn pictures_may_be_linked_or_left() {
    let (_kept, coco) = example();
    for pictures in [Pictures::Link, Pictures::Leave] {
        let folder = Folder::new();
        let options = ConvertOptions { pictures, ..ConvertOptions::new(Target::Coco) };
        convert(&coco, folder.path(), &options, &|_, _| {}).unwrap();
        let there = folder.path().join("images/images_a.png").is_file();
        assert_eq!(there, pictures == Pictures::Link);
        let elsewhere = (pictures == Pictures::Leave).then(|| coco.root.clone());
        let options = OpenOptions { pictures: elsewhere, ..OpenOptions::default() };
        let back = open_with(folder.path(), &options).unwrap();
        assert_eq!(read_all(&back).unwrap(), read_all(&coco).unwrap());
        assert!(back.picture(&back.samples[0]).is_ok());
    }
}

#[test]
fn small_pictures_become_files() {
    let folder = Folder::new();
    let batch: Vec<u8> = std::iter::once(3).chain((0..3072).map(|i| i as u8)).collect();
    fs::write(folder.path().join("data_batch_1.bin"), batch).unwrap();
    let options = OpenOptions { layout: Some(Layout::Cifar10), ..OpenOptions::default() };
    let dataset = open_with(folder.path(), &options).unwrap();
    // Its labels have no place; its picture is what counts here.
    let out = Folder::new();
    let done = convert(&dataset, out.path(), &ConvertOptions::new(Target::Yolo), &|_, _| {}).unwrap();
    assert_eq!(done.failed.len(), 1);
}

fn lost(dataset: &Dataset, target: Target) -> Vec<(LossKind, usize)> {
    let folder = Folder::new();
    let done =
        convert(dataset, folder.path().join("new/set"), &ConvertOptions::new(target), &|_, _| {}).unwrap();
    done.lost.iter().map(|loss| (loss.kind, loss.total)).collect()
}

#[test]
fn what_is_lost_is_counted() {
    let (_kept, coco) = example();
    assert_eq!(lost(&coco, Target::Coco), []);
    assert_eq!(lost(&coco, Target::Voc), [(LossKind::Outlines, 3)]);
    assert_eq!(lost(&coco, Target::Yolo), [(LossKind::OneOutline, 2)]);
    assert_eq!(lost(&coco, Target::ClassMasks), [(LossKind::Objects, 3)]);
    assert_eq!(lost(&coco, Target::InstanceMasks), [(LossKind::Classes, 3)]);

    let folder = Folder::new();
    folder.picture("a.png", 20, 10).picture("b.png", 20, 10).text(
        "set.json",
        r#"{"images": [{"id": 1, "file_name": "a.png"}, {"id": 2, "file_name": "b.png"}],
            "annotations": [
              {"id": 1, "image_id": 1, "category_id": 1, "segmentation": [[0, 0, 9, 0, 9, 9]], "score": 0.5},
              {"id": 2, "image_id": 1, "category_id": 1, "segmentation": [[1, 0, 5, 0, 5, 4]], "difficult": true},
              {"id": 3, "image_id": 1, "category_id": 1, "iscrowd": 1,
               "segmentation": {"size": [10, 20], "counts": [190, 10]}}],
            "categories": [{"id": 1, "name": "cat"}]}"#,
    );
    let coco = folder.open();
    let usual = [(LossKind::Difficult, 1), (LossKind::Scores, 1)];
    assert_eq!(
        lost(&coco, Target::Voc),
        [(LossKind::Outlines, 3), (LossKind::CrowdsAsDifficult, 1), (LossKind::Scores, 1)]
    );
    assert_eq!(lost(&coco, Target::Yolo), [[(LossKind::Crowds, 1)].as_slice(), &usual].concat());
    assert_eq!(lost(&coco, Target::InstanceMasks), [[(LossKind::Overlaps, 1)].as_slice(), &usual].concat());

    let people = Folder::new();
    people.picture("images/a.png", 4, 1).picture("images/b.png", 4, 1);
    people.mask("masks/one/a.png", 4, 1, |x, _| x as u8 + 1).mask("masks/two/a.png", 4, 1, |_, _| 1);
    let people = people.open();
    assert_eq!(lost(&people, Target::Coco), [(LossKind::WhoDrew, 5), (LossKind::Unlabelled, 1)]);
    assert_eq!(lost(&people, Target::InstanceMasks), [(LossKind::OtherPeople, 1)]);
}

#[test]
fn a_set_appears_whole_or_not_at_all() {
    let (_kept, coco) = example();
    let folder = Folder::new();
    let out = folder.path().join("a/b");
    let seen = || fs::read_dir(folder.path().join("a")).unwrap().map(|entry| entry.unwrap().file_name());
    let only_hidden = AtomicBool::new(true);
    let watch = |_, _| {
        let hidden = seen().all(|name| name.to_string_lossy().starts_with(".kirie-"));
        only_hidden.fetch_and(hidden, Ordering::Relaxed);
    };
    convert(&coco, &out, &ConvertOptions::new(Target::Yolo), &watch).unwrap();
    assert!(only_hidden.into_inner());
    assert_eq!(seen().collect::<Vec<_>>(), ["b"]);

    // Nothing can be written: nothing is.
    let boxes = Folder::new();
    boxes.picture("a.png", 20, 10).text("a.txt", "0 .5 .5 .5 .5");
    let out = folder.path().join("masks");
    let done = convert(&boxes.open(), &out, &ConvertOptions::new(Target::ClassMasks), &|_, _| {}).unwrap();
    assert_eq!((done.samples, done.failed.len()), (0, 1));
    assert!(!out.exists());
}
