//! Agreement with pycocotools, on the cases and answers that `make_cocoeval_cases.py` stored in `data/`.
//!
//! Everything is compared bit for bit: the whole arrays of precision and recall by a hash, all means as
//! numbers.

use kirie_mask::Rle;
use kirie_metrics::{CocoEvaluation, CocoParams, Detection, GroundTruth, Region, Selection};

/// A number, list or string of the file; the file is ours, so a bad one is a bug.
fn parse<T: std::str::FromStr>(text: &str) -> T {
    text.parse().unwrap_or_else(|_| panic!("cannot read {text:?}"))
}

fn list<T: std::str::FromStr>(text: &str, separator: char) -> Vec<T> {
    text.split(separator).map(parse).collect()
}

trait FromText: Region {
    fn read(text: &str, frame: (usize, usize)) -> Self;
}

impl FromText for [f64; 4] {
    fn read(text: &str, _frame: (usize, usize)) -> Self {
        list(text, ' ').try_into().expect("four numbers")
    }
}

impl FromText for Rle {
    fn read(text: &str, (height, width): (usize, usize)) -> Self {
        Self::from_coco_string(height, width, text).expect("a string of pycocotools")
    }
}

fn hash(numbers: impl Iterator<Item = f64>) -> String {
    let bytes = numbers.flat_map(f64::to_be_bytes);
    let value = bytes.fold(0xCBF2_9CE4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3)
    });
    format!("{value:016x}")
}

/// pycocotools' arrays: precision by IoU, recall threshold, category, area range and number of detections;
/// recall without the recall thresholds.
fn array_hashes(evaluation: &CocoEvaluation, categories: &[u64]) -> String {
    let params = evaluation.params();
    let (mut precision, mut recall) = (Vec::new(), Vec::new());
    for &iou in &params.iou_thresholds {
        let mut curves = Vec::new();
        for &category in categories {
            for range in &params.area_ranges {
                for &limit in &params.max_detections {
                    let selection = Selection {
                        category: Some(category),
                        iou: Some(iou),
                        area: Some(&range.name),
                        max_detections: Some(limit),
                    };
                    curves.push(evaluation.precisions(category, iou, &selection).expect("evaluated"));
                    recall.push(evaluation.average_recall(&selection).expect("evaluated").unwrap_or(-1.0));
                }
            }
        }
        for r in 0..params.recall_thresholds.len() {
            precision.extend(curves.iter().map(|curve| curve.map_or(-1.0, |curve| curve[r])));
        }
    }
    format!("{} {}", hash(precision.into_iter()), hash(recall.into_iter()))
}

/// Checks one case, all lines after its first, and says how many evaluations it held.
fn check_case<R: FromText + Clone>(name: &str, frame: (usize, usize), lines: &[&str]) -> usize {
    // Of the file, and of the current run.
    let (mut categories, mut shown): (Vec<u64>, Vec<u64>) = (Vec::new(), Vec::new());
    let (mut truths, mut detections) = (Vec::new(), Vec::new());
    let mut evaluation: Option<CocoEvaluation> = None;
    let mut runs = 0;
    for line in lines {
        let (what, rest) = line.split_once(' ').expect("a word and more");
        let current = || evaluation.as_ref().expect("a run before its results");
        let fields = |n| rest.splitn(n, ' ').collect::<Vec<_>>();
        match what {
            "images" => {}
            "categories" => categories = list(rest, ' '),
            "t" => {
                let f = fields(5);
                truths.push(GroundTruth {
                    image: parse(f[0]),
                    category: parse(f[1]),
                    crowd: f[2] == "1",
                    area: parse(f[3]),
                    region: R::read(f[4], frame),
                });
            }
            "d" => {
                let f = fields(5);
                let area = (f[3] != "-").then(|| parse(f[3]));
                let detection = Detection::new(parse(f[0]), parse(f[1]), R::read(f[4], frame), parse(f[2]));
                detections.push(Detection { area, ..detection });
            }
            "run" => {
                let f = fields(3);
                let mut params = CocoParams { class_agnostic: f[0] == "1", ..CocoParams::default() };
                if f[1] != "coco" {
                    params.max_detections = list(f[1], ',');
                }
                if f[2] != "coco" {
                    params.iou_thresholds = list(f[2], ',');
                }
                shown = if params.class_agnostic { vec![0] } else { categories.clone() };
                evaluation = Some(CocoEvaluation::new(&truths, &detections, params).expect("good numbers"));
                runs += 1;
            }
            "arrays" => assert_eq!(array_hashes(current(), &shown), rest, "{name}, run {runs}"),
            "stats" => {
                assert_eq!(
                    current().summary().to_array().to_vec(),
                    list::<f64>(rest, ' '),
                    "{name}, run {runs}"
                );
            }
            "class" => {
                let (id, expected) = rest.split_once(' ').expect("an id and figures");
                let ap = |iou| {
                    let selection = Selection { category: Some(parse(id)), iou, ..Selection::default() };
                    current().average_precision(&selection).expect("evaluated").unwrap_or(-1.0)
                };
                let ious = current().params().iou_thresholds.iter().map(|&iou| Some(iou));
                let found: Vec<f64> = std::iter::once(None).chain(ious).map(ap).collect();
                assert_eq!(found, list::<f64>(expected, ' '), "{name}, run {runs}, category {id}");
            }
            _ => panic!("unknown line {line:?}"),
        }
    }
    runs
}

#[test]
fn every_figure_equals_pycocotools() {
    let lines: Vec<&str> = include_str!("data/cocoeval.txt").lines().skip(1).collect();
    let mut runs = 0;
    for case in lines.chunk_by(|_, next| !next.starts_with("case ")) {
        let head: Vec<&str> = case[0].split(' ').collect();
        let frame = (parse(head[3]), parse(head[4]));
        runs += match head[2] {
            "box" => check_case::<[f64; 4]>(head[1], frame, &case[1..]),
            _ => check_case::<Rle>(head[1], frame, &case[1..]),
        };
    }
    assert_eq!(runs, 17 * 4);
}
