//! What the writers write, read back.

// clippy.toml frees tests of this lint, but not the helpers beside them.
#![allow(clippy::unwrap_used)]

use image::ImageFormat;
use kirie_data::write::{
    CocoOptions, CocoShape, PictureFormat, Prompts, coco_json, color, encode_picture, geojson, index_png,
    label_png, mask_png, overlay, write_picture, yolo_lines,
};
use kirie_data::{
    DataError, Image, ImageMasks, ImageRecord, Limits, MaskRecord, decode_image, read_image, read_index_map,
    read_mask_png,
};
use kirie_mask::{BBox, Mask, Point, Rle, rasterize_all};
use proptest::prelude::*;
use serde_json::Value;

const WIDTH: usize = 60;
const HEIGHT: usize = 40;

fn record(mask: &Mask) -> MaskRecord {
    MaskRecord {
        segmentation: Rle::from_mask(mask),
        bbox: mask.bbox().map_or([0.0; 4], |b| b.to_xywh()),
        area: mask.area(),
        predicted_iou: 0.9,
        stability_score: f64::NAN,
        point_coords: vec![[1.0, 2.0]],
        crop_box: [0.0, 0.0, WIDTH as f64, HEIGHT as f64],
    }
}

fn records(masks: &[Mask]) -> ImageMasks {
    let image = ImageRecord { path: "a/b.png".to_owned(), width: WIDTH as u32, height: HEIGHT as u32 };
    ImageMasks { image, model: "test".to_owned(), masks: masks.iter().map(record).collect() }
}

fn masks(f: impl Fn(usize, usize, usize) -> bool, count: usize) -> Vec<Mask> {
    (0..count).map(|i| Mask::from_fn(WIDTH, HEIGHT, |x, y| f(i, x, y))).collect()
}

/// A small disc before the large one it lies on, a ring, two parts, nothing, everything.
fn samples() -> Vec<Mask> {
    let near = |x: usize, y: usize, cx: i32, cy: i32, r: i32| {
        (x as i32 - cx).pow(2) + (y as i32 - cy).pow(2) <= r * r
    };
    let shape = |i: usize, x: usize, y: usize| match i {
        0 => near(x, y, 18, 20, 5),
        1 => near(x, y, 20, 20, 15),
        2 => near(x, y, 45, 20, 12) && !near(x, y, 45, 22, 5),
        3 => (2..9).contains(&x) && (y == 3 || y > 30),
        4 => false,
        _ => true,
    };
    masks(shape, 6)
}

/// A picture's frame filled by the even-odd rule, asking for the middle of each pixel.
fn even_odd(rings: &[Vec<[f64; 2]>]) -> Mask {
    Mask::from_fn(WIDTH, HEIGHT, |x, y| {
        let (x, y) = (x as f64 + 0.5, y as f64 + 0.5);
        let crossings =
            rings.iter().flat_map(|ring| ring.iter().zip(ring.iter().cycle().skip(1))).filter(|(a, b)| {
                (a[1] > y) != (b[1] > y) && x < a[0] + (y - a[1]) / (b[1] - a[1]) * (b[0] - a[0])
            });
        crossings.count() % 2 == 1
    })
}

fn shared(a: &Mask, b: &Mask) -> f64 {
    a.iou(b).unwrap()
}

#[test]
fn mask_png_reads_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mask.png");
    for mask in samples() {
        let bytes = mask_png(&mask).unwrap();
        kirie_data::write_atomic(&path, |w| w.write_all(&bytes)).unwrap();
        assert_eq!(read_mask_png(&path, &Limits::default()).unwrap(), mask);
        let picture = image::load_from_memory(&bytes).unwrap();
        let pixels = picture.as_luma8().unwrap().as_raw();
        assert!(pixels.iter().zip(mask.as_slice()).all(|(&v, &set)| v == if set { 255 } else { 0 }));
    }
    assert!(matches!(mask_png(&Mask::new(0, 3)), Err(DataError::Encode { .. })));
}

/// Labels, and the palette where there is one.
fn labels(png: &[u8]) -> (Vec<u16>, Option<Vec<u8>>) {
    let mut reader = png::Decoder::new(std::io::Cursor::new(png)).read_info().unwrap();
    let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
    let info = reader.next_frame(&mut pixels).unwrap();
    let palette = reader.info().palette.as_ref().map(|p| p.to_vec());
    match info.bit_depth {
        png::BitDepth::Eight => (pixels.into_iter().map(u16::from).collect(), palette),
        _ => (pixels.as_chunks::<2>().0.iter().map(|&b| u16::from_be_bytes(b)).collect(), palette),
    }
}

#[test]
fn label_png_holds_the_labels_smaller_masks_on_top() {
    let masks = samples();
    let (labels, palette) = labels(&label_png(&records(&masks)).unwrap());
    let at = |x: usize, y: usize| labels[y * WIDTH + x];
    assert_eq!((at(18, 20), at(30, 20), at(45, 10), at(45, 22)), (1, 2, 3, 6));
    for (i, &label) in labels.iter().enumerate() {
        let covering = (0..masks.len()).filter(|&m| masks[m].as_slice()[i]);
        assert_eq!(usize::from(label), covering.min_by_key(|&m| masks[m].area()).unwrap() + 1);
    }
    let palette = palette.unwrap();
    assert_eq!(palette.len(), 7 * 3);
    assert_eq!((&palette[..3], &palette[6..9]), (&[0; 3][..], &color(1)[..]));
}

#[test]
fn label_png_without_masks_is_all_background() {
    let (labels, palette) = labels(&label_png(&records(&[])).unwrap());
    assert!(labels.iter().all(|&label| label == 0));
    assert_eq!(palette.unwrap(), [0, 0, 0]);
}

#[test]
fn label_png_goes_to_16_bits_above_255_masks() {
    for count in [255, 256, 1000] {
        let all = records(&masks(|i, x, y| y * WIDTH + x == 2 * i, count));
        let (labels, palette) = labels(&label_png(&all).unwrap());
        assert_eq!(palette.is_some(), count <= 255);
        for i in 0..count {
            assert_eq!((usize::from(labels[2 * i]), labels[2 * i + 1]), (i + 1, 0));
        }
    }
    let mut many = records(&[Mask::new(WIDTH, HEIGHT)]);
    many.masks = vec![many.masks[0].clone(); 65_536];
    assert!(matches!(label_png(&many), Err(DataError::TooManyMasks { found: 65_536, limit: 65_535, .. })));
}

#[test]
fn coco_parses_and_its_run_lengths_are_the_masks() {
    let masks = samples();
    let pictures = [records(&masks), records(&masks[..2])];
    let json: Value =
        serde_json::from_slice(&coco_json(&pictures, &CocoOptions::default()).unwrap()).unwrap();
    assert_eq!(json["images"].as_array().unwrap().len(), 2);
    assert_eq!(json["images"][1]["id"], 2);
    assert_eq!(json["images"][0]["file_name"], "a/b.png");
    assert_eq!(json["categories"], serde_json::json!([{"id": 1, "name": "object", "supercategory": ""}]));
    let annotations = json["annotations"].as_array().unwrap();
    let full = masks.iter().filter(|mask| mask.area() > 0);
    let expected: Vec<_> =
        full.map(|mask| (1, mask)).chain(masks[..2].iter().map(|mask| (2, mask))).collect();
    assert_eq!(annotations.len(), expected.len());
    for (i, (annotation, (image_id, mask))) in annotations.iter().zip(expected).enumerate() {
        let rle: Rle = serde_json::from_value(annotation["segmentation"].clone()).unwrap();
        assert_eq!(&rle.to_mask(), mask);
        assert_eq!(annotation["id"], i + 1);
        assert_eq!(annotation["image_id"], image_id);
        assert_eq!(annotation["area"], mask.area());
        assert_eq!(annotation["iscrowd"], 0);
        assert_eq!(annotation["score"], 0.9);
    }
    assert_eq!(annotations[0]["bbox"], serde_json::json!([13, 15, 11, 11]));
}

#[test]
fn coco_polygons_cover_the_masks() {
    let masks = samples();
    for (shape, at_least) in [(CocoShape::Polygons { tolerance: 0.0 }, 1.0), (CocoShape::POLYGONS, 0.9)] {
        let options = CocoOptions { shape, category: "part".to_owned() };
        let json: Value = serde_json::from_slice(&coco_json(&[records(&masks)], &options).unwrap()).unwrap();
        assert_eq!(json["categories"][0]["name"], "part");
        let full: Vec<_> = masks.iter().filter(|mask| mask.area() > 0).collect();
        for (annotation, mask) in json["annotations"].as_array().unwrap().iter().zip(full) {
            let flat: Vec<Vec<f64>> = serde_json::from_value(annotation["segmentation"].clone()).unwrap();
            let polygons: Vec<Vec<Point>> = flat
                .iter()
                .map(|ring| ring.chunks(2).map(|p| Point { x: p[0], y: p[1] }).collect())
                .collect();
            let drawn = rasterize_all(&polygons, WIDTH, HEIGHT).unwrap().to_mask();
            // Polygons fill the holes; only the ring has one.
            let (filled, changed) = kirie_mask::fill_small_holes(mask, 200);
            assert_eq!(changed, mask == &masks[2]);
            assert!(shared(&drawn, &filled) >= at_least, "{} of {at_least}", shared(&drawn, &filled));
        }
    }
}

fn yolo_rings(text: &str) -> Vec<Vec<[f64; 2]>> {
    let ring = |line: &str| -> Vec<[f64; 2]> {
        let mut numbers = line.split(' ').map(|n| n.parse::<f64>().unwrap());
        assert_eq!(numbers.next(), Some(7.0));
        let rest: Vec<f64> = numbers.collect();
        assert!(rest.len() >= 6 && rest.len().is_multiple_of(2));
        assert!(rest.iter().all(|v| (0.0..=1.0).contains(v)), "{line}");
        rest.chunks(2).map(|p| [p[0] * WIDTH as f64, p[1] * HEIGHT as f64]).collect()
    };
    text.lines().map(ring).collect()
}

fn geojson_rings(text: &str) -> Vec<Vec<Vec<[f64; 2]>>> {
    let json: Value = serde_json::from_str(text).unwrap();
    assert_eq!(json["type"], "FeatureCollection");
    let feature = |feature: &Value| -> Vec<Vec<[f64; 2]>> {
        let coordinates = feature["geometry"]["coordinates"].clone();
        let polygons: Vec<Vec<Vec<[f64; 2]>>> = match feature["geometry"]["type"].as_str().unwrap() {
            "Polygon" => vec![serde_json::from_value(coordinates).unwrap()],
            "MultiPolygon" => serde_json::from_value(coordinates).unwrap(),
            other => panic!("a geometry of type {other}"),
        };
        for ring in polygons.iter().flatten() {
            assert!(ring.len() >= 4 && ring.first() == ring.last(), "{ring:?}");
        }
        polygons.into_iter().flatten().collect()
    };
    json["features"].as_array().unwrap().iter().map(feature).collect()
}

#[test]
fn yolo_and_geojson_draw_the_masks() {
    let masks = samples();
    let full: Vec<_> = masks.iter().filter(|mask| mask.area() > 0).collect();
    for (tolerance, at_least) in [(0.0, 1.0), (1.0, 0.9)] {
        let yolo = yolo_rings(&yolo_lines(&records(&masks), 7, tolerance).unwrap());
        let geo = geojson_rings(&geojson(&records(&masks), tolerance).unwrap());
        assert_eq!((yolo.len(), geo.len()), (full.len(), full.len()));
        for ((mask, yolo), geo) in full.iter().zip(yolo).zip(geo) {
            assert!(shared(&even_odd(&[yolo]), mask) >= at_least);
            assert!(shared(&even_odd(&geo), mask) >= at_least);
        }
    }
}

#[test]
fn geojson_says_what_is_known() {
    let json: Value = serde_json::from_str(&geojson(&records(&samples()), 1.0).unwrap()).unwrap();
    let features = json["features"].as_array().unwrap();
    let ids: Vec<_> = features.iter().map(|f| f["id"].as_u64().unwrap()).collect();
    assert_eq!(ids, [0, 1, 2, 3, 5]);
    assert_eq!(features[3]["geometry"]["type"], "MultiPolygon");
    assert_eq!(features[0]["properties"]["predicted_iou"], 0.9);
    assert_eq!(features[0]["properties"]["stability_score"], Value::Null);
    assert_eq!(json["image"]["width"], 60);
    assert_eq!(json["model"], "test");
}

proptest! {
    /// Any mask, however ragged, down to single pixels.
    #[test]
    fn outlines_draw_any_mask(bits in prop::collection::vec(any::<bool>(), 63)) {
        let mask = Mask::from_fn(WIDTH, HEIGHT, |x, y| x < 9 && y < 7 && bits[y * 9 + x]);
        let all = records(std::slice::from_ref(&mask));
        let yolo = yolo_rings(&yolo_lines(&all, 7, 0.0).unwrap());
        let geo = geojson_rings(&geojson(&all, 0.0).unwrap());
        prop_assert_eq!(even_odd(&yolo), mask.clone());
        prop_assert_eq!(even_odd(&geo.concat()), mask);
        // Simplified to the extreme they are still rings (checked on reading).
        yolo_rings(&yolo_lines(&all, 7, 100.0).unwrap());
        geojson_rings(&geojson(&all, 100.0).unwrap());
    }
}

fn gray_picture(width: usize, height: usize) -> Image {
    Image::from_raw(width as u32, height as u32, vec![128; width * height * 3]).unwrap()
}

#[test]
fn overlay_tints_the_masks_and_nothing_else() {
    let image = gray_picture(WIDTH, HEIGHT);
    let masks = samples();
    let drawn = overlay(&image, &records(&masks[..2]), &Prompts::default()).unwrap();
    let pixel = |x: u32, y: u32| drawn.rgb().get_pixel(x, y).0;
    assert_eq!(pixel(55, 35), [128; 3]);
    assert_ne!(pixel(30, 20), [128; 3]);
    assert_ne!(pixel(30, 20), pixel(18, 20), "the small disc has its own colour on the large one");
    assert_eq!(overlay(&image, &records(&[]), &Prompts::default()).unwrap(), image);
}

#[test]
fn overlay_draws_prompts_even_outside() {
    let image = gray_picture(WIDTH, HEIGHT);
    let far = [-1e300, -5.0, 0.0, 59.9, 1e9, f64::INFINITY, f64::NAN];
    let points = far.iter().flat_map(|&x| far.map(|y| (Point { x, y }, x > 0.0))).collect();
    let boxes =
        vec![BBox { x0: -1e12, y0: -3.0, x1: 1e12, y1: 20.0 }, BBox { x0: 9.0, y0: 9.0, x1: 2.0, y1: 2.0 }];
    overlay(&image, &records(&samples()), &Prompts { points, boxes }).unwrap();

    let prompts = Prompts { points: vec![(Point { x: 30.0, y: 20.0 }, true)], boxes: Vec::new() };
    let drawn = overlay(&image, &records(&[]), &prompts).unwrap();
    let [r, g, b] = drawn.rgb().get_pixel(30, 20).0;
    assert!(g > r && g > b, "a point on the object is green");
}

#[test]
fn masks_of_another_size_are_refused() {
    let mut all = records(&samples());
    all.masks[3] = record(&Mask::new(HEIGHT, WIDTH));
    let text = label_png(&all).unwrap_err().to_string();
    assert_eq!(text, "a/b.png: mask 3 is 40x60, but its picture is 60x40");
    assert!(coco_json(&[all.clone()], &CocoOptions::default()).is_err());
    assert!(yolo_lines(&all, 0, 1.0).is_err());
    assert!(geojson(&all, 1.0).is_err());
    assert!(overlay(&gray_picture(WIDTH, HEIGHT), &all, &Prompts::default()).is_err());
    all.masks.clear();
    (all.image.width, all.image.height) = (u32::MAX, u32::MAX);
    assert!(matches!(label_png(&all), Err(DataError::TooLarge { .. })));
    let turned = gray_picture(HEIGHT, WIDTH);
    let text = overlay(&turned, &records(&[]), &Prompts::default()).unwrap_err().to_string();
    assert_eq!(text, "a/b.png: its masks belong to a 60x40 picture, this one is 40x60");
}

#[test]
fn index_png_keeps_the_numbers_and_shows_colours() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("classes.png");
    let palette = [[0, 0, 0], [10, 20, 30], [200, 100, 50]];
    let numbers: Vec<u8> = (0..35).map(|i| i % 3).collect();
    std::fs::write(&path, index_png(7, 5, &numbers, &palette).unwrap()).unwrap();
    let map = read_index_map(&path, &Limits::default()).unwrap();
    assert_eq!((map.width, map.height), (7, 5));
    assert!(map.values.iter().zip(&numbers).all(|(found, number)| *found == u16::from(*number)));
    let shown = read_image(&path, &Limits::default()).unwrap();
    assert_eq!(shown.as_raw()[3..9], [10, 20, 30, 200, 100, 50]);
    let said = |numbers: &[u8]| index_png(7, 5, numbers, &palette).unwrap_err().to_string();
    assert!(said(&[0; 34]).contains("7x5 pixels were expected, found 34"));
    assert!(said(&[3; 35]).contains("3 is beyond the palette of 3 colours"));
    assert!(index_png(0, 5, &[], &palette).is_err());
}

#[test]
fn pictures_are_written_by_their_ending() {
    let folder = tempfile::tempdir().unwrap();
    let image = gray_picture(5, 4);
    for (name, format) in
        [("a.png", ImageFormat::Png), ("b.JPG", ImageFormat::Jpeg), ("c.jpeg", ImageFormat::Jpeg)]
    {
        let path = folder.path().join(name);
        write_picture(&path, &image).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        assert_eq!(image::guess_format(&bytes).unwrap(), format);
        assert_eq!(decode_image(&bytes, name, &Limits::default()).unwrap(), image);
    }
    for name in ["a.gif", "png", ".png", ""] {
        assert!(matches!(write_picture(name, &image), Err(DataError::UnknownExtension { .. })), "{name}");
    }
    assert!(matches!(
        encode_picture(&gray_picture(65_536, 1), PictureFormat::Jpeg),
        Err(DataError::Encode { what: "the picture", .. })
    ));
}
