//! Every `--format`, read back and held against the masks of the JSON.

use std::fs::{self, File};
use std::io::BufReader;

use kirie_data::write::write_picture;
use kirie_data::{ImageMasks, Limits, read_image, read_mask_png, resize_bilinear};
use kirie_mask::{Mask, Rle};
use serde_json::{Value, json};

use crate::common::{Place, coffee, weights};

const PROMPTS: &str = "--box 25,20,105,82 --box 75,50,150,100";
/// Of the picture. Small, because masks of made-up weights are as rough as masks can be.
const SIZE: [u32; 2] = [160, 107];

/// The weights lie in the cache, where `models pull` would put them; with a default model no flag names them.
fn place() -> Place {
    let place = Place::new();
    let [width, height] = SIZE;
    let picture = read_image(coffee(), &Limits::default()).unwrap();
    write_picture(place.path("coffee.png"), &resize_bilinear(&picture, width, height).unwrap()).unwrap();
    fs::create_dir(place.path("cache")).unwrap();
    fs::hard_link(weights(), place.path("cache/efficientvit_sam_l0.pt")).unwrap();
    place
}

/// Twice the signed area of a ring.
fn twice_area(ring: &[[f64; 2]]) -> f64 {
    ring.iter().zip(ring.iter().cycle().skip(1)).map(|(a, b)| a[0] * b[1] - b[0] * a[1]).sum()
}

#[test]
fn all_at_once() {
    let place = place();
    // Of an earlier run that found more.
    place.write("out/coffee.masks/0002.png", "stale");
    let answer = place
        .run(&format!(
            "segment coffee.png {PROMPTS} --format json,coco,png --format overlay --format yolo --format geojson \
             --tolerance 0 -o out"
        ))
        .done();
    assert_eq!((&answer.stdout[..], &answer.stderr[..]), ("", "kirie: 1 of 1 pictures done, see out\n"));
    assert_eq!(
        place.names("out"),
        [
            "annotations.coco.json",
            "coffee.geojson",
            "coffee.json",
            "coffee.labels.png",
            "coffee.masks/0000.png",
            "coffee.masks/0001.png",
            "coffee.overlay.jpg",
            "coffee.txt",
        ]
    );
    let found: ImageMasks = serde_json::from_value(place.json("out/coffee.json")).unwrap();
    let masks: Vec<&Rle> = found.masks.iter().map(|m| &m.segmentation).collect();
    assert_eq!(masks.len(), 2);

    for (i, mask) in masks.iter().enumerate() {
        let png = read_mask_png(place.path(&format!("out/coffee.masks/000{i}.png")), &Limits::default());
        assert!(png.unwrap() == mask.to_mask(), "png of mask {i}");
    }
    check_labels(&place, &masks);

    let limits = Limits::default();
    let overlay = read_image(place.path("out/coffee.overlay.jpg"), &limits).unwrap();
    let picture = read_image(place.path("coffee.png"), &limits).unwrap();
    assert_eq!([overlay.width(), overlay.height()], SIZE);
    assert!(overlay != picture);

    check_coco(&place.json("out/annotations.coco.json"), &found);

    let yolo = fs::read_to_string(place.path("out/coffee.txt")).unwrap();
    assert_eq!(yolo.lines().count(), 2);
    for (line, mask) in yolo.lines().zip(&masks) {
        let (class, numbers) = line.split_once(' ').unwrap();
        assert_eq!(class, "0");
        let numbers: Vec<f64> = numbers.split(' ').map(|n| n.parse().unwrap()).collect();
        assert!(numbers.iter().all(|n| (0.0..=1.0).contains(n)));
        let (ring, rest) = numbers.as_chunks();
        let ring: Vec<[f64; 2]> = ring.iter().map(|[x, y]| [x * 160.0, y * 107.0]).collect();
        assert!(ring.len() > 2 && rest.is_empty());
        // Numbers of six digits.
        assert!((twice_area(&ring).abs() / 2.0 - mask.area() as f64).abs() < 1.0);
    }

    let geojson = place.json("out/coffee.geojson");
    assert_eq!(geojson["type"], "FeatureCollection");
    let features = geojson["features"].as_array().unwrap();
    assert_eq!(features.len(), 2);
    for (feature, mask) in features.iter().zip(&masks) {
        assert_eq!(feature["type"], "Feature");
        assert_eq!(feature["properties"]["area"], mask.area());
        let polygons = &feature["geometry"]["coordinates"];
        let polygons = match feature["geometry"]["type"].as_str().unwrap() {
            "Polygon" => json!([polygons]),
            _ => polygons.clone(),
        };
        let polygons: Vec<Vec<Vec<[f64; 2]>>> = serde_json::from_value(polygons).unwrap();
        let mut twice = 0.0;
        for ring in polygons.iter().flatten() {
            assert!(ring.len() > 3 && ring.first() == ring.last(), "rings are closed");
            twice += twice_area(ring);
        }
        // Holes run the other way round, and without tolerance nothing is lost.
        assert_eq!(twice.abs() / 2.0, mask.area() as f64);
    }
}

/// Indexed, mask `n` of the list as `n + 1`, the smaller mask on top.
fn check_labels(place: &Place, masks: &[&Rle]) {
    let file = BufReader::new(File::open(place.path("out/coffee.labels.png")).unwrap());
    let mut reader = png::Decoder::new(file).read_info().unwrap();
    assert_eq!(reader.info().color_type, png::ColorType::Indexed);
    let mut labels = vec![0; reader.output_buffer_size().unwrap()];
    reader.next_frame(&mut labels).unwrap();
    let bitmaps: Vec<Mask> = masks.iter().map(|mask| mask.to_mask()).collect();
    let mut order: Vec<usize> = (0..masks.len()).collect();
    order.sort_by_key(|i| masks[*i].area());
    let expected = (0..107).flat_map(|y| (0..160).map(move |x| (x, y))).map(|(x, y)| {
        let top = order.iter().find(|i| bitmaps[**i].get(x, y));
        top.map_or(0, |i| *i as u8 + 1)
    });
    assert!(labels == expected.collect::<Vec<u8>>());
}

fn check_coco(coco: &Value, found: &ImageMasks) {
    assert_eq!(coco["images"], json!([{ "id": 1, "file_name": "coffee.png", "width": 160, "height": 107 }]));
    assert_eq!(coco["categories"][0]["id"], 1);
    let annotations = coco["annotations"].as_array().unwrap();
    assert_eq!(annotations.len(), found.masks.len());
    for ((id, annotation), mask) in (1..).zip(annotations).zip(&found.masks) {
        for (field, expected) in [
            ("id", json!(id)),
            ("image_id", json!(1)),
            ("category_id", json!(1)),
            ("iscrowd", json!(0)),
            ("area", json!(mask.area)),
            ("bbox", json!(mask.segmentation.bbox_xywh())),
        ] {
            assert_eq!(annotation[field], expected, "{field}");
        }
        let rle: Rle = serde_json::from_value(annotation["segmentation"].clone()).unwrap();
        assert!(rle == mask.segmentation);
    }
}

#[test]
fn output_modes_agree() {
    let place = place();
    let run =
        |mode| place.run(&format!("segment coffee.png {PROMPTS} -o - --output-mode {mode}")).done().json();
    let [mut coco, mut uncompressed, mut binary] = ["coco-rle", "uncompressed-rle", "binary-mask"].map(run);
    let take = |json: &mut Value| -> Vec<Value> {
        let masks = json["masks"].as_array_mut().unwrap();
        masks.iter_mut().map(|mask| mask["segmentation"].take()).collect()
    };
    let (rles, counts, rows) = (take(&mut coco), take(&mut uncompressed), take(&mut binary));
    assert_eq!(coco, uncompressed);
    assert_eq!(coco, binary);
    assert_eq!(rles.len(), 2);
    for ((rle, counts), rows) in rles.into_iter().zip(counts).zip(rows) {
        assert!(rle["counts"].is_string() && counts["counts"].is_array());
        let [rle, counts] = [rle, counts].map(|rle| serde_json::from_value::<Rle>(rle).unwrap());
        assert!(rle == counts);
        let rows: Vec<Vec<u8>> = serde_json::from_value(rows).unwrap();
        assert_eq!((rows.len(), rows[0].len()), (107, 160));
        assert!(rle == Rle::from_fn(160, 107, |x, y| rows[y][x] == 1));
    }
}

#[test]
fn the_output_name_chooses() {
    let place = place();
    // The box reaches beyond the picture, as those of detectors do.
    let line = "segment coffee.png --box -5,20,105,82";
    place.run(line).done();
    assert_eq!(place.names("kirie-out"), ["coffee.json", "coffee.overlay.jpg"]);

    place.run(&format!("{line} -o one/picture.png")).done();
    assert_eq!(place.names("one"), ["picture.png"]);
    assert_eq!(read_image(place.path("one/picture.png"), &Limits::default()).unwrap().width(), 160);

    let answer = place.run(&format!("{line} --format coco -o -")).done();
    check_coco(&answer.json(), &serde_json::from_value(place.json("kirie-out/coffee.json")).unwrap());
}
