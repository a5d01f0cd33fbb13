//! Every layout is recognised and read.

use kirie_data::datasets::{
    ClassMap, Labels, Layout, MaskMeaning, OpenOptions, Segmentation, open, open_with,
};
use kirie_mask::BBox;
use serde_json::Value;

use crate::folder::{Folder, class_names, ids, instances, read_all, voc_xml};

#[test]
fn coco_areas_and_boxes_equal_pycocotools() {
    let cases = include_str!("coco_cases.json");
    let folder = Folder::new();
    folder.text("labels.json", cases).picture("images/a.png", 61, 47);
    let dataset = folder.open();
    assert_eq!((dataset.layout, class_names(&dataset)), (Layout::Coco, vec![(3, "cat"), (4, "dog")]));
    let expected: Value = serde_json::from_str(cases).unwrap();
    let found = instances(&dataset, "a");
    let annotations = expected["annotations"].as_array().unwrap();
    assert_eq!(found.len(), annotations.len());
    for (instance, annotation) in found.iter().zip(annotations) {
        let id = &annotation["id"];
        let expected = &annotation["expected"];
        let mask = instance.mask(61, 47).unwrap().unwrap();
        assert_eq!(mask.area() as f64, expected["area"].as_f64().unwrap(), "annotation {id}");
        assert_eq!(instance.area, expected["area"].as_f64().unwrap(), "annotation {id}");
        let bbox: Vec<f64> = mask.bbox_xywh().map(f64::from).to_vec();
        let expected: Vec<f64> = serde_json::from_value(expected["bbox"].clone()).unwrap();
        assert_eq!(bbox, expected, "annotation {id}");
        assert_eq!(instance.crowd, annotation["iscrowd"] == 1);
        assert_eq!(u64::from(instance.class.unwrap()), annotation["category_id"].as_u64().unwrap());
    }
}

const TWO_PICTURES: &str = r#"{"images": [
    {"id": 1, "file_name": "a.png", "width": 20, "height": 10},
    {"id": "two", "file_name": "sub/b.png"}],
  "annotations": [
    {"id": 5, "image_id": 1, "category_id": 1, "bbox": [1.5, 2, 3, 4], "iscrowd": false},
    {"id": 6, "image_id": 1, "category_id": 1, "bbox": [0, 0, 2, 2], "area": 3.5, "segmentation": [], "score": 0.5},
    {"id": 7, "image_id": 1, "category_id": 1, "segmentation": [0, 0, 4, 0, 4, 4], "iscrowd": 1}],
  "categories": [{"id": 1, "name": "thing"}]}"#;

#[test]
fn coco_with_what_may_be_missing() {
    let folder = Folder::new();
    folder.text("annotations/set.json", TWO_PICTURES);
    folder.picture("images/a.png", 20, 10).picture("images/sub/b.png", 5, 5);
    let dataset = folder.open();
    assert_eq!(ids(&dataset), ["a", "sub/b"]);
    assert_eq!(dataset.samples.iter().map(|s| s.size).collect::<Vec<_>>(), [Some((20, 10)), None]);
    let found = instances(&dataset, "a");
    assert_eq!(found[0].bbox, BBox::new(1.5, 2.0, 4.5, 6.0));
    assert_eq!((found[0].area, &found[0].segmentation), (12.0, &Segmentation::Box));
    assert_eq!((found[1].area, found[1].score, found[1].crowd), (3.5, Some(0.5), false));
    assert!(found[2].crowd && found[2].bbox == BBox::new(0.0, 0.0, 4.0, 4.0));
    assert!(instances(&dataset, "sub/b").is_empty());
    // The file itself may be named as well.
    assert_eq!(ids(&open(folder.path().join("annotations/set.json"), None).unwrap()), ["a", "sub/b"]);

    // A byte order mark moves all that follows.
    folder.text("annotations/set.json", &format!("\u{feff}{TWO_PICTURES}"));
    assert_eq!(instances(&folder.open(), "a").len(), 3);
}

#[test]
fn coco_parts_by_file_by_folder_and_by_list() {
    let one = |name: &str| format!(r#"{{"images":[{{"id":1,"file_name":"{name}"}}],"annotations":[]}}"#);
    let by_file = Folder::new();
    by_file.text("annotations/instances_train2017.json", &one("a.png"));
    by_file.text("annotations/instances_val2017.json", &one("b.png"));
    by_file.text("annotations/captions_val2017.json", &one("b.png"));
    by_file.picture("train2017/a.png", 3, 3).picture("val2017/b.png", 3, 3);
    let by_folder = Folder::new();
    by_folder.text("train/_annotations.coco.json", &one("a.png")).picture("train/a.png", 3, 3);
    by_folder.text("valid/_annotations.coco.json", &one("b.png")).picture("valid/b.png", 3, 3);
    let by_list = Folder::new();
    by_list
        .text("instances.json", r#"{"images":[{"id":1,"file_name":"a.png"},{"id":2,"file_name":"b.png"}]}"#);
    by_list.picture("a.png", 3, 3).picture("b.png", 3, 3).text("train.txt", "a\n").text("val.txt", "b.png\n");
    for folder in [by_file, by_folder, by_list] {
        let dataset = folder.open();
        let splits: Vec<_> = dataset.samples.iter().map(|s| s.split.as_deref().unwrap()).collect();
        assert_eq!((ids(&dataset), splits), (vec!["a", "b"], vec!["train", "val"]));
        assert_eq!(ids(&open(folder.path(), Some("validation")).unwrap()), ["b"]);
        assert!(dataset.picture(&dataset.samples[1]).is_ok());
        let error = open(folder.path(), Some("test")).unwrap_err().to_string();
        assert!(error.contains(r#"no part "test", found train, val"#), "{error}");
    }
}

#[test]
fn coco_pictures_elsewhere() {
    let (labels, pictures) = (Folder::new(), Folder::new());
    labels.text("instances.json", TWO_PICTURES);
    pictures.picture("a.png", 20, 10).picture("sub/b.png", 5, 5);
    assert!(labels.fails().contains("its pictures (a.png ...) are in none of the folders"));
    let options = OpenOptions { pictures: Some(pictures.path().to_owned()), ..OpenOptions::default() };
    let dataset = open_with(labels.path(), &options).unwrap();
    assert_eq!(instances(&dataset, "a").len(), 3);
}

#[test]
fn voc_boxes_count_from_one() {
    let folder = Folder::new();
    folder.picture("JPEGImages/a.png", 20, 10).picture("JPEGImages/b.png", 20, 10);
    folder.text("Annotations/a.xml", &voc_xml("dog", ["1", "2", "20", "10.5"]));
    folder.text("Annotations/b.xml", &voc_xml("cat", ["3", "3", "3", "3"]));
    folder.text("ImageSets/Main/train.txt", "a\n").text("ImageSets/Main/trainval.txt", "a\nb\n");
    let dataset = folder.open();
    assert_eq!((dataset.layout, class_names(&dataset)), (Layout::Voc, vec![(0, "cat"), (1, "dog")]));
    assert_eq!(ids(&dataset), ["a"]);
    let found = &instances(&dataset, "a")[0];
    assert_eq!((found.bbox, found.class, found.difficult), (BBox::new(0.0, 1.0, 20.0, 10.5), Some(1), true));
    let trainval = open(folder.path(), Some("trainval")).unwrap();
    assert_eq!(instances(&trainval, "b")[0].bbox, BBox::new(2.0, 2.0, 3.0, 3.0));
    assert_eq!(class_names(&trainval), class_names(&dataset));
}

#[test]
fn voc_files_among_the_pictures() {
    let folder = Folder::new();
    folder.picture("train/a.png", 20, 10).text("train/a.xml", &voc_xml("x", ["1", "1", "2", "2"]));
    folder.picture("test/b.png", 20, 10).text("test/b.xml", &voc_xml("x", ["1", "1", "2", "2"]));
    let dataset = folder.open();
    assert_eq!((dataset.layout, ids(&dataset)), (Layout::Voc, vec!["a", "b"]));
    assert_eq!(ids(&open(folder.path(), Some("test")).unwrap()), ["b"]);
}

#[test]
fn yolo_boxes_and_polygons() {
    let folder = Folder::new();
    folder.picture("images/train/a.png", 20, 10).picture("images/train/empty.png", 4, 4);
    folder.text("labels/train/a.txt", "0 0.5 0.5 0.5 1\n\n1 0 0 1.0 0 1 1\n1 .5 .5 .1 .1 0.75\n");
    folder.text(
        "data.yaml",
        "path: /nowhere\ntrain: images/train\nval: ../../up\nnames:\n  0: cat\n  1: dog\n",
    );
    let dataset = folder.open();
    assert_eq!((dataset.layout, class_names(&dataset)), (Layout::Yolo, vec![(0, "cat"), (1, "dog")]));
    let found = instances(&dataset, "train/a");
    assert_eq!((found[0].bbox, found[0].score), (BBox::new(5.0, 0.0, 15.0, 10.0), None));
    assert_eq!((found[1].bbox, found[1].area), (BBox::new(0.0, 0.0, 20.0, 10.0), 100.0));
    assert_eq!(found[2].score, Some(0.75));
    assert!(instances(&dataset, "train/empty").is_empty());
    assert_eq!(dataset.samples[0].split.as_deref(), Some("train"));
    assert_eq!(dataset.problems().len(), 1, "a picture without labels is worth a word");

    let parts_first = Folder::new();
    parts_first.picture("valid/images/a.png", 20, 10).text("valid/labels/a.txt", "1 .5 .5 .5 .5");
    let dataset = parts_first.open();
    assert_eq!(class_names(&dataset), [(0, "class 0"), (1, "class 1")]);
    assert_eq!(ids(&open(parts_first.path(), Some("val")).unwrap()), ["a"]);

    let beside = Folder::new();
    beside.picture("a.png", 20, 10).text("a.txt", "0 .5 .5 .5 .5").text("classes.txt", "cat\n");
    assert_eq!(class_names(&beside.open()), [(0, "cat")]);
}

#[test]
fn sa_1b_regions_and_our_own_masks() {
    for key in ["annotations", "masks"] {
        let folder = Folder::new();
        folder.picture("sa_1.png", 5, 4).text(
            "sa_1.json",
            &format!(
                r#"{{"image":{{"width":5,"height":4}},"{key}":[{{"segmentation":{{"size":[4,5],"counts":"0181J000O"}},
                    "bbox":[0,0,4,2],"predicted_iou":0.9}}]}}"#
            ),
        );
        let dataset = folder.open();
        assert_eq!((dataset.layout, dataset.classes.len()), (Layout::Regions, 0));
        let found = &instances(&dataset, "sa_1")[0];
        assert_eq!((found.area, found.class, found.score), (7.0, None, Some(0.9)));
        assert_eq!(found.bbox, BBox::new(0.0, 0.0, 5.0, 3.0));
    }
}

#[test]
fn labelme_shapes() {
    let folder = Folder::new();
    folder.picture("a.png", 20, 10).text(
        "a.json",
        r#"{"version": "5", "imagePath": "../../elsewhere.png", "imageWidth": 20, "imageHeight": 10, "shapes": [
            {"label": "nut", "points": [[0,0],[4,0],[4,4]], "shape_type": "polygon", "group_id": 1},
            {"label": "nut", "points": [[10,0],[14,0],[14,4]], "shape_type": "polygon", "group_id": 1},
            {"label": "bolt", "points": [[1,1],[5,3]], "shape_type": "rectangle"},
            {"label": "bolt", "points": [[10,5],[13,9]], "shape_type": "circle"},
            {"label": "bolt", "points": [[1,1]], "shape_type": "point"}]}"#,
    );
    let dataset = folder.open();
    assert_eq!((dataset.layout, class_names(&dataset)), (Layout::Labelme, vec![(0, "bolt"), (1, "nut")]));
    let found = instances(&dataset, "a");
    assert_eq!(found.len(), 3);
    assert_eq!(
        (found[0].class, found[0].area, found[0].bbox),
        (Some(1), 16.0, BBox::new(0.0, 0.0, 14.0, 4.0))
    );
    assert_eq!(found[1].bbox, BBox::new(1.0, 1.0, 5.0, 3.0));
    assert!((found[2].area - 25.0 * std::f64::consts::PI).abs() < 0.5);
}

#[test]
fn class_masks_with_void_and_the_highest_number_ignored() {
    let folder = Folder::new();
    folder.text("classes.txt", "0\tsky\n1\troad\n2\ttree\n3\tUnlabelled\n");
    folder.picture("images/a.png", 6, 1).mask("masks/a.png", 6, 1, |x, _| [0, 1, 2, 3, 255, 0][x as usize]);
    let dataset = folder.open();
    assert_eq!(dataset.mask_meaning, Some(MaskMeaning::Classes));
    assert_eq!(class_names(&dataset), [(0, "sky"), (1, "road"), (2, "tree")]);
    let Labels::ClassMap(map) = dataset.load(&dataset.samples[0]).unwrap().1 else { panic!() };
    assert_eq!(map.ids, [0, 1, 2, ClassMap::IGNORE, ClassMap::IGNORE, 0]);
    assert_eq!(Labels::ClassMap(map).tags(), [0, 1, 2]);

    let ignored = OpenOptions { ignore: vec![0], ..OpenOptions::default() };
    let dataset = open_with(folder.path(), &ignored).unwrap();
    assert_eq!(class_names(&dataset), [(1, "road"), (2, "tree")]);
}

#[test]
fn numbers_tell_classes_from_objects() {
    let made = |classes: &str, values: [u8; 4]| {
        let folder = Folder::new();
        if !classes.is_empty() {
            folder.text("classes.txt", classes);
        }
        folder.picture("images/a.png", 4, 1).mask("masks/a.png", 4, 1, |x, _| values[x as usize]);
        let dataset = folder.open();
        (dataset.mask_meaning.unwrap(), dataset, folder)
    };
    let pair = "0\tbackground\n1\tcat\n";
    assert_eq!(made(pair, [0, 1, 1, 0]).0, MaskMeaning::Classes);
    assert_eq!(made(pair, [0, 1, 255, 0]).0, MaskMeaning::Classes);
    assert_eq!(made(pair, [0, 255, 255, 0]).0, MaskMeaning::Binary);
    assert_eq!(made("", [0, 255, 255, 0]).0, MaskMeaning::Binary);
    assert_eq!(made("", [0, 1, 1, 255]).0, MaskMeaning::Classes);
    assert_eq!(made("0\ta\n1\tb\n2\tc\n", [0, 1, 2, 9]).0, MaskMeaning::Classes);

    let (meaning, dataset, _folder) = made(pair, [0, 1, 2, 255]);
    assert_eq!((meaning, class_names(&dataset)), (MaskMeaning::Instances, vec![(1, "cat")]));
    let found: Vec<_> = instances(&dataset, "a").iter().map(|i| (i.class, i.crowd)).collect();
    assert_eq!(found, [(Some(1), false), (Some(1), false), (None, true)]);

    let (meaning, dataset, _folder) = made("", [7, 254, 255, 0]);
    assert_eq!((meaning, dataset.classes.len()), (MaskMeaning::Instances, 0));
    assert!(instances(&dataset, "a").iter().all(|i| i.class.is_none() && !i.crowd));

    let (_, dataset, _folder) = made(pair, [0, 255, 255, 0]);
    let Labels::ClassMap(map) = &read_all(&dataset).unwrap()[0] else { panic!() };
    assert_eq!(map.ids, [0, 1, 1, 0]);
}

#[test]
fn sixteen_bits_and_several_people() {
    let folder = Folder::new();
    folder.picture("images/a.png", 3, 2);
    folder.mask16("masks/a.png", 3, 2, |x, y| if y == 0 { 300 } else { x as u16 });
    let found = instances(&folder.open(), "a");
    assert_eq!(found.iter().map(|i| i.area).collect::<Vec<_>>(), [1.0, 1.0, 3.0]);
    assert_eq!(found[2].bbox, BBox::new(0.0, 0.0, 3.0, 1.0));

    let folder = Folder::new();
    folder.picture("images/a.png", 3, 2);
    folder.mask("masks/one/a.png", 3, 2, |x, _| 1 + x as u8).mask("masks/two/a.png", 3, 2, |_, _| 1);
    let found: Vec<_> = instances(&folder.open(), "a").iter().map(|i| (i.annotator, i.area)).collect();
    assert_eq!(found, [(0, 2.0), (0, 2.0), (0, 2.0), (1, 6.0)]);
}

#[test]
fn mask_folders_in_other_places() {
    let camvid = Folder::new();
    camvid.picture("train/a.png", 4, 4).mask("trainannot/a.png", 4, 4, |x, _| u8::from(x > 1));
    camvid.picture("val/b.png", 4, 4).mask("valannot/b.png", 4, 4, |x, _| u8::from(x > 1));
    camvid.text("train.txt", "/SegNet/CamVid/train/a.png /SegNet/CamVid/trainannot/a.png\n");
    assert_eq!(ids(&open(camvid.path(), Some("train")).unwrap()), ["a"]);
    assert_eq!(camvid.open().layout, Layout::Masks);

    let suffix = Folder::new();
    suffix.picture("train/images/a.png", 4, 4).mask("train/masks/a_mask.png", 4, 4, |x, _| u8::from(x > 1));
    let dataset = suffix.open();
    assert!(dataset.samples[0].is_labelled() && dataset.samples[0].split.as_deref() == Some("train"));

    let second = Folder::new();
    second.picture("images/a.png", 4, 4).picture("images/b.png", 4, 4);
    second.mask("masks/a.png", 4, 4, |x, _| x as u8).mask("semantic/a.png", 4, 4, |x, _| 5 * u8::from(x > 1));
    second.text("classes_semantic.txt", "0\tunlabeled\n5\tgrass\n");
    let options = OpenOptions { mask_folder: Some("semantic".to_owned()), ..OpenOptions::default() };
    let dataset = open_with(second.path(), &options).unwrap();
    assert_eq!(class_names(&dataset), [(5, "grass")]);
    assert_eq!(
        dataset.samples.iter().map(kirie_data::datasets::Sample::is_labelled).collect::<Vec<_>>(),
        [true, false]
    );
}

#[test]
fn palettes_are_read_as_numbers() {
    let folder = Folder::new();
    folder.picture("images/a.png", 9, 2).text("classes.txt", "0\tbackground\n1\ta\n2\tb\n3\tc\n");
    std::fs::create_dir_all(folder.path().join("masks")).unwrap();
    let file = std::fs::File::create(folder.path().join("masks/a.png")).unwrap();
    let mut encoder = png::Encoder::new(file, 9, 2);
    encoder.set_color(png::ColorType::Indexed);
    // Four pixels a byte, rows filled up to whole bytes.
    encoder.set_depth(png::BitDepth::Two);
    encoder.set_palette(&[0, 0, 0, 255, 0, 0, 0, 255, 0, 7, 7, 7][..]);
    let mut writer = encoder.write_header().unwrap();
    writer.write_image_data(&[0b00_01_10_11, 0b00_00_00_00, 0b11_00_00_00, 0, 0, 0b01_00_00_00]).unwrap();
    drop(writer);
    let Labels::ClassMap(map) = &read_all(&folder.open()).unwrap()[0] else { panic!() };
    assert_eq!(map.ids, [0, 1, 2, 3, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
}

#[test]
fn folders_as_classes_and_pictures_alone() {
    let folder = Folder::new();
    folder.picture("train/dog/1.png", 3, 3).picture("train/cat/1.png", 3, 3).picture("test/dog/2.png", 3, 3);
    let dataset = folder.open();
    assert_eq!((dataset.layout, class_names(&dataset)), (Layout::ClassFolders, vec![(0, "cat"), (1, "dog")]));
    assert_eq!(ids(&dataset), ["cat/1", "dog/1", "dog/2"]);
    assert_eq!(read_all(&dataset).unwrap(), [0, 1, 1].map(|tag| Labels::Tags(vec![tag])));
    assert_eq!(ids(&open(folder.path(), Some("test")).unwrap()), ["dog/2"]);

    let folder = Folder::new();
    folder.picture("images/x y.png", 3, 3).picture("images/b.png", 3, 3).text("train.txt", "x y\n");
    let dataset = folder.open();
    assert_eq!((dataset.layout, ids(&dataset)), (Layout::Pictures, vec!["x y"]));
    assert_eq!(read_all(&dataset).unwrap(), [Labels::None]);
    assert_eq!(dataset.problems()[0].total, 1, "b is in no list");
}

#[test]
fn folds_are_lists_of_any_name() {
    let folder = Folder::new();
    for name in ["a", "b", "c"] {
        folder.picture(&format!("images/{name}.png"), 3, 3);
    }
    folder.text("train1.txt", "a\nb").text("val1.txt", "c").text("train2.txt", "b\nc");
    let of = |split: &str| open(folder.path(), Some(split)).unwrap();
    assert_eq!(ids(&of("train1")), ["a", "b"]);
    assert_eq!(ids(&of("train2")), ["b", "c"]);
    assert_eq!(ids(&of("val1")), ["c"]);
    assert_eq!(ids(&folder.open()), ["a", "b", "c"]);
}

#[test]
fn cifar10_and_stl10() {
    let folder = Folder::new();
    let mut batch = vec![3];
    batch.extend((0..3072).map(|i| if i == 0 { 9 } else { (i / 1024) as u8 }));
    std::fs::write(folder.path().join("data_batch_1.bin"), [batch.clone(), batch.clone()].concat()).unwrap();
    std::fs::write(folder.path().join("test_batch.bin"), batch).unwrap();
    let dataset = folder.open();
    assert_eq!((dataset.layout, dataset.samples.len()), (Layout::Cifar10, 3));
    let (picture, labels) = dataset.load(&dataset.samples[1]).unwrap();
    assert_eq!((&picture.as_raw()[..6], labels), (&[9, 1, 2, 0, 1, 2][..], Labels::Tags(vec![3])));
    assert_eq!(dataset.class(3).unwrap().name, "cat");

    let folder = Folder::new();
    let picture: Vec<u8> = (0..3 * 96 * 96).map(|i| if i == 1 { 200 } else { 5 }).collect();
    std::fs::write(folder.path().join("train_X.bin"), &picture).unwrap();
    std::fs::write(folder.path().join("train_y.bin"), [10]).unwrap();
    std::fs::write(folder.path().join("unlabeled_X.bin"), &picture).unwrap();
    let dataset = folder.open();
    let (picture, labels) = dataset.load(&dataset.samples[0]).unwrap();
    // Stored by columns: the second byte is the pixel below the first.
    assert_eq!((picture.as_raw()[96 * 3], labels), (200, Labels::Tags(vec![9])));
    assert!(!dataset.samples[1].is_labelled());
    std::fs::write(folder.path().join("train_y.bin"), [11]).unwrap();
    assert!(folder.fails().contains("train_y.bin, picture 0: its class is 11"));
}
