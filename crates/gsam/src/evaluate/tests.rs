//! Figures against counting by hand, and the files that are written.

use std::fs;

use kirie_data::{Limits, read_index_map};

use super::*;
use crate::config::SetConfig;
use crate::data::Pictures;
use crate::testing::{Strongest, data, draw_set, drawn_size, write_mask};

#[test]
fn figures_by_hand() {
    let folder = tempfile::tempdir().unwrap();
    draw_set(folder.path(), "train", 0..4);
    // The network's answers are what is drawn. In one picture the labels say otherwise: its first rows are called a disc, and some
    // are unknown.
    let [width, height] = drawn_size(1);
    let mut labels: Vec<u8> =
        (0..width * height).map(|i| crate::testing::drawn_label(1, i % width, i / width)).collect();
    let moved = 2 * width;
    labels[..moved].fill(1);
    labels[moved..moved + width].fill(255);
    write_mask(&folder.path().join("masks/train/p1.png"), width as u32, height as u32, &labels);

    let data = crate::config::DataConfig { hold_out: crate::config::HoldOut::None, ..data(folder.path()) };
    let pictures = Pictures::open(&data).unwrap();
    let device = Device::flex();
    let out = folder.path().join("found");
    let options = EvaluateOptions { predictions: Some(out.clone()), cases: 2 };
    let (classes, test) = (pictures.classes(), TestConfig::default());
    let mut told = Vec::new();
    let model = Strongest::new(&device);
    let evaluation =
        evaluate(&model, pictures.training(), classes, &test, &device, &options, &mut |n| told.push(n))
            .unwrap();
    assert_eq!(told, [1, 2, 3, 4]);

    let mut truth = [0_u64; 3];
    let mut found = [0_u64; 3];
    let mut hit = [0_u64; 3];
    for n in 0..4 {
        let [width, height] = drawn_size(n);
        for i in 0..width * height {
            let drawn = crate::testing::drawn_label(n, i % width, i / width);
            let label = if n == 1 { labels.get(i).copied().unwrap() } else { drawn };
            if label == 255 {
                continue;
            }
            truth[usize::from(label)] += 1;
            found[usize::from(drawn)] += 1;
            hit[usize::from(drawn)] += u64::from(drawn == label);
        }
    }
    let iou: Vec<f64> = (0..3).map(|k| hit[k] as f64 / (truth[k] + found[k] - hit[k]) as f64).collect();
    for (class, iou) in evaluation.report.classes.iter().zip(&iou) {
        assert!((class.iou.unwrap() - iou).abs() < 1e-12);
    }
    assert!((evaluation.report.miou.unwrap() - iou.iter().sum::<f64>() / 3.0).abs() < 1e-12);
    assert_eq!(evaluation.report.ignored, width as u64);
    let figures = evaluation.figures();
    assert_eq!(figures[0].0, "miou");
    assert_eq!(figures[3], ("iou.disc".to_owned(), iou[1]));

    assert_eq!(evaluation.worst.len(), 2);
    assert!(evaluation.worst[0].score.id.ends_with("p1"));
    assert_eq!(evaluation.best[0].score.miou, Some(1.0));

    // What was written is what was found, in the classes' colours.
    for score in &evaluation.pictures {
        let map = read_index_map(out.join(format!("{}.png", score.id)), &Limits::default()).unwrap();
        assert_eq!([map.width, map.height], score.size);
        let n: usize = score.id.rsplit('p').next().unwrap().parse().unwrap();
        for (i, value) in map.values.iter().enumerate() {
            let (x, y) = (i % map.width as usize, i / map.width as usize);
            assert_eq!(*value, u16::from(crate::testing::drawn_label(n, x, y)));
        }
        assert!(out.join(format!("{}.jpg", score.id)).is_file());
    }

    let page =
        page("a title", &evaluation, classes, &[("Set".to_owned(), "drawn".to_owned())]).unwrap().html();
    for expected in
        ["a title", "drawn", "IoU by class", "Worst pictures", "data:image/jpeg;base64", "in one piece"]
    {
        assert!(page.contains(expected), "{expected}");
    }
    // JSON comes back.
    let text = serde_json::to_string(&evaluation).unwrap();
    assert!(text.starts_with("{\"miou\":"), "{text}");
    let again: Evaluation = serde_json::from_str(&text).unwrap();
    assert_eq!((again.report.pixels, again.pictures.len()), (evaluation.report.pixels, 4));
}

#[test]
fn a_known_class_list_opens_another_set() {
    let folder = tempfile::tempdir().unwrap();
    draw_set(folder.path(), "train", 0..2);
    let data = crate::config::DataConfig { hold_out: crate::config::HoldOut::None, ..data(folder.path()) };
    let classes = Pictures::open(&data).unwrap().classes().clone();
    draw_set(folder.path(), "test", 2..5);
    let set = LabelledSet::open(&SetConfig::new(folder.path(), "test"), &data, &classes).unwrap();
    let device = Device::flex();
    let model = Strongest::new(&device);
    let samples = set.samples().map(|sample| (&set, sample));
    let options = EvaluateOptions::default();
    let test = TestConfig::default();
    let evaluation = evaluate(&model, samples, &classes, &test, &device, &options, &mut |_| {}).unwrap();
    assert_eq!((evaluation.report.miou, evaluation.pictures.len()), (Some(1.0), 3));
    assert!(evaluation.worst.is_empty());

    // A network of other classes is refused before anything is read.
    let other = crate::testing::Tiny::new(5, 1, 1, &device);
    let samples = set.samples().map(|sample| (&set, sample));
    let error = evaluate(&other, samples, &classes, &test, &device, &options, &mut |_| {}).unwrap_err();
    let text = "the network gave 5 classes, expected 3 classes: ground, disc, bar";
    assert_eq!(error.to_string(), text);

    // A picture that cannot be read ends it with its name.
    fs::write(folder.path().join("images/test/p3.png"), "x").unwrap();
    let samples = set.samples().map(|sample| (&set, sample));
    let out = folder.path().join("found");
    let options = EvaluateOptions { predictions: Some(out.clone()), cases: 0 };
    let error = evaluate(&model, samples, &classes, &test, &device, &options, &mut |_| {}).unwrap_err();
    assert!(error.to_string().contains("p3.png"), "{error}");
    assert!(!out.exists(), "no half of the answers");
}
