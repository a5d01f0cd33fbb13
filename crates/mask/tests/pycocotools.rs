//! Agreement with pycocotools, on the answers that `make_pycocotools_cases.py` stored in `data/`.
//!
//! The functions that draw the cases mirror that script name by name.

use kirie_mask::{Mask, Point, Rle, rasterize_all};

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }
}

fn noise(random: &mut Random, w: usize, h: usize, part: usize, whole: usize) -> Mask {
    Mask::from_fn(w, h, |_, _| random.below(whole) < part)
}

fn blobs(random: &mut Random, w: usize, h: usize) -> Mask {
    let discs: Vec<[i64; 3]> = (0..=random.below(6))
        .map(|_| [random.below(w), random.below(h), random.below(w.max(h) / 2 + 1)].map(|v| v as i64))
        .collect();
    Mask::from_fn(w, h, |x, y| {
        discs.iter().any(|[cx, cy, r]| (x as i64 - cx).pow(2) + (y as i64 - cy).pow(2) <= r * r)
    })
}

fn stripes(random: &mut Random, w: usize, h: usize) -> Mask {
    let (a, b, period) = (random.below(4), random.below(4), 2 + random.below(30));
    let width = 1 + random.below(period - 1);
    Mask::from_fn(w, h, |x, y| (a * x + b * y) % period < width)
}

fn mask_of(kind: usize, random: &mut Random, w: usize, h: usize) -> Mask {
    match kind {
        0 | 1 => {
            let part = 1 + random.below(15);
            noise(random, w, h, part, 16)
        }
        2 | 3 => blobs(random, w, h),
        4 | 5 => stripes(random, w, h),
        6 | 7 => {
            let (shape, specks) = (blobs(random, w, h), noise(random, w, h, 1, 64));
            Mask::from_fn(w, h, |x, y| shape.get(x, y) != specks.get(x, y))
        }
        8 => {
            let (y, x) = (random.below(h), random.below(w));
            let mut mask = Mask::new(w, h);
            mask.set(x, y, true);
            mask
        }
        _ => Mask::from_fn(w, h, |_, _| kind == 10),
    }
}

fn frame(random: &mut Random, kind: usize) -> (usize, usize) {
    let (w, h) = (1 + random.below(200), 1 + random.below(200));
    match kind {
        11 if random.below(2) == 0 => (w, 1),
        11 => (1, h),
        _ => (w, h),
    }
}

fn mask_case(i: usize) -> Mask {
    let mut random = Random(1_000_000 + i as u64);
    let kind = i % 12;
    let (w, h) = frame(&mut random, kind);
    mask_of(if kind == 11 { 0 } else { kind }, &mut random, w, h)
}

fn group_case(i: usize) -> [Mask; 3] {
    let mut random = Random(2_000_000 + i as u64);
    let (w, h) = frame(&mut random, i % 12);
    [0; 3].map(|_| {
        let kind = random.below(11);
        mask_of(kind, &mut random, w, h)
    })
}

fn spread(random: &mut Random, low: i64, high: i64, parts: i64) -> f64 {
    (low * parts + random.below(((high - low) * parts + 1) as usize) as i64) as f64 / parts as f64
}

fn round_polygon(random: &mut Random, w: i64, h: i64, star: bool) -> Vec<Point> {
    let (cx, cy) = (spread(random, 0, w, 1000), spread(random, 0, h, 1000));
    let (rx, ry) = (spread(random, 0, w, 1000), spread(random, 0, h, 1000));
    let mut angles: Vec<(usize, usize)> =
        (0..3 + random.below(12)).map(|_| (random.below(4), random.below(1000))).collect();
    angles.sort_unstable();
    let corner = |(i, (quarter, step)): (usize, (usize, usize))| {
        let t = step as f64 / 1000.0;
        let (mut c, mut s) = ((1.0 - t * t) / (1.0 + t * t), 2.0 * t / (1.0 + t * t));
        for _ in 0..quarter {
            (c, s) = (-s, c);
        }
        let reach = if star && i % 2 == 1 { 0.375 } else { 1.0 };
        Point { x: cx + rx * c * reach, y: cy + ry * s * reach }
    };
    angles.into_iter().enumerate().map(corner).collect()
}

fn polygon_of(kind: usize, random: &mut Random, w: usize, h: usize) -> Vec<Point> {
    let (w, h) = (w as i64, h as i64);
    if kind <= 1 {
        return round_polygon(random, w, h, kind == 1);
    }
    let count = 3 + random.below(20);
    let mut corners = |x: [i64; 2], y: [i64; 2], parts| -> Vec<Point> {
        let one = |_| Point { x: spread(random, x[0], x[1], parts), y: spread(random, y[0], y[1], parts) };
        (0..count).map(one).collect()
    };
    match kind {
        2 => corners([-20, w + 20], [-20, h + 20], 1000),
        3 => corners([-3 * w, 4 * w], [-3 * h, 4 * h], 100),
        4 => {
            let (x, y) = (random.below(w as usize) as f64, random.below(h as usize) as f64);
            let one = |_| Point { x: x + spread(random, -1, 1, 100), y: y + spread(random, -1, 1, 100) };
            (0..count).map(one).collect()
        }
        5 => corners([-2, w + 2], [-2, h + 2], 1),
        6 => corners([-2, w + 2], [-2, h + 2], 10),
        _ => corners([-50_000, 50_000], [-50_000, 50_000], 10),
    }
}

fn polygon_case(i: usize) -> (usize, usize, Vec<Vec<Point>>) {
    let mut random = Random(3_000_000 + i as u64);
    let (w, h) = frame(&mut random, i % 12);
    if i % 9 < 8 {
        return (w, h, vec![polygon_of(i % 9, &mut random, w, h)]);
    }
    let count = 2 + random.below(3);
    let mut part = |_| {
        let kind = random.below(7);
        polygon_of(kind, &mut random, w, h)
    };
    (w, h, (0..count).map(&mut part).collect())
}

fn fnv(text: &str) -> String {
    let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01B3);
    format!("{:016x}", text.bytes().fold(0xCBF2_9CE4_8422_2325, step))
}

fn bits(number: f64) -> String {
    format!("{:016x}", number.to_bits())
}

/// Compares every stored line with the line computed for its number.
fn check(stored: &str, count: usize, line: impl Fn(usize) -> String) {
    let stored: Vec<&str> = stored.lines().filter(|l| !l.starts_with('#')).collect();
    assert_eq!(stored.len(), count);
    let wrong: Vec<String> = stored
        .iter()
        .enumerate()
        .map(|(i, expected)| (i, expected, line(i)))
        .filter(|(_, expected, found)| **expected != found)
        .map(|(i, expected, found)| format!("case {i}: expected {expected}, found {found}"))
        .collect();
    assert!(
        wrong.is_empty(),
        "{} of {count} differ:\n{}",
        wrong.len(),
        wrong[..wrong.len().min(10)].join("\n")
    );
}

#[test]
fn encoding_area_and_box() {
    check(include_str!("data/masks.txt"), 1200, |i| {
        let rle = Rle::from_mask(&mask_case(i));
        let text = rle.to_coco_string();
        let [x, y, w, h] = rle.bbox_xywh();
        let short = if text.len() <= 40 { format!(" {text}") } else { String::new() };
        format!("{} {} {x} {y} {w} {h}{short}", fnv(&text), rle.area())
    });
}

#[test]
fn decoding() {
    let mut decoded = 0;
    for (i, line) in include_str!("data/masks.txt").lines().skip(1).enumerate() {
        let mask = mask_case(i);
        // The strings stored in full come straight from pycocotools; for the others `encoding_area_and_box`
        // shows that ours equal them.
        let text = line.split(' ').nth(6).map(String::from);
        decoded += usize::from(text.is_some());
        let text = text.unwrap_or_else(|| Rle::from_mask(&mask).to_coco_string());
        let rle = Rle::from_coco_string(mask.height(), mask.width(), &text).unwrap();
        assert_eq!(rle.to_mask(), mask, "case {i}");
    }
    assert!(decoded > 300, "only {decoded} strings stored in full");
}

#[test]
fn iou_and_merging() {
    check(include_str!("data/groups.txt"), 1200, |i| {
        let rles = group_case(i).map(|mask| Rle::from_mask(&mask));
        let iou = |crowd| bits(rles[0].iou(&rles[1], crowd).unwrap());
        let merged = |intersect| Rle::merge(&rles, intersect).unwrap().to_coco_string();
        format!("{} {} {}", iou(false), iou(true), fnv(&format!("{} {}", merged(false), merged(true))))
    });
}

#[test]
fn polygons() {
    check(include_str!("data/polygons.txt"), 2400, |i| {
        let (w, h, parts) = polygon_case(i);
        let rle = rasterize_all(&parts, w, h).unwrap();
        format!("{} {}", fnv(&rle.to_coco_string()), rle.area())
    });
}
