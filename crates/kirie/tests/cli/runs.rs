//! `segment --everything`, `bench`, and what every command does alike.

use std::fs;
use std::process::Stdio;

use kirie_data::ImageMasks;

use crate::common::{MODEL, Place, coffee, fields};

#[test]
fn everything_twice() {
    let place = Place::with_weights();
    let line = "segment coffee.png --weights w.safetensors --everything --points-per-side 2 --pred-iou-thresh 0 \
                --stability-score-thresh 0 --min-mask-region-area 50 -o -";
    let first = place.run(line).done();
    let found: ImageMasks = serde_json::from_str(&first.stdout).unwrap();
    assert!(!found.masks.is_empty() && found.masks.len() <= 4 * 3);
    for mask in first.json()["masks"].as_array().unwrap() {
        assert_eq!(
            fields(mask),
            ["segmentation", "bbox", "area", "predicted_iou", "stability_score", "point_coords", "crop_box"]
        );
    }
    let grid = [[160.0, 106.75], [480.0, 106.75], [160.0, 320.25], [480.0, 320.25]];
    for mask in &found.masks {
        assert_eq!((mask.segmentation.width(), mask.segmentation.height()), (640, 427));
        assert_eq!(mask.segmentation.area(), mask.area);
        assert_eq!(mask.crop_box, [0.0, 0.0, 640.0, 427.0]);
        assert!(mask.point_coords.len() == 1 && grid.contains(&mask.point_coords[0]));
    }
    assert!(place.run(line).done().stdout == first.stdout, "two runs differ");
}

#[test]
fn bench() {
    let place = Place::with_weights();
    let line = "bench decoder --repeat 2 --warmup 0 --prompts 3";
    let json = place.run(&format!("{line} --json --model {MODEL}")).done().json();
    assert_eq!(
        fields(&json),
        [
            "what",
            "model",
            "weights",
            "device",
            "threads",
            "image",
            "prompts_per_call",
            "points_per_side",
            "masks",
            "seconds",
            "rate",
            "rate_unit",
            "peak_memory_bytes",
        ]
    );
    assert_eq!(fields(&json["seconds"]), ["median", "quartiles", "min", "max", "runs"]);
    let seconds = |name: &str| json["seconds"][name].as_f64().unwrap();
    assert_eq!(json["seconds"]["runs"].as_array().unwrap().len(), 2);
    assert!(
        0.0 < seconds("min") && seconds("min") <= seconds("median") && seconds("median") <= seconds("max")
    );
    assert!((json["rate"].as_f64().unwrap() * seconds("median") - 3.0).abs() < 1e-9);
    assert_eq!((&json["what"], &json["rate_unit"]), (&"decoder".into(), &"prompts/s".into()));
    if cfg!(target_os = "linux") {
        assert!(json["peak_memory_bytes"].as_u64().unwrap() > 100 << 20, "the weights alone take 139 MB");
    }

    assert_eq!((&json["model"], &json["weights"]), (&MODEL.into(), &"by formula".into()));
    let text = place.run(&format!("{line} --weights w.safetensors")).done().stdout;
    for words in ["decoder of efficientvit-sam-l0, weights given", "median", "prompts/s", "peak memory"] {
        assert!(text.contains(words), "{text}");
    }
}

#[test]
fn help() {
    let place = Place::new();
    for command in [
        "",
        "segment",
        "embed",
        "models",
        "models list",
        "models info",
        "models pull",
        "models convert",
        "bench",
        "evaluate",
        "evaluate promptable",
    ] {
        let answer = place.run(&format!("{command} --help")).done();
        let usage = format!("Usage: kirie {command}");
        assert!(answer.stdout.contains(usage.trim_end()), "{}", answer.stdout);
        assert_eq!(answer.stderr, "");
    }
    assert!(place.run("--version").done().stdout.starts_with("kirie "));
}

/// A pipe that nobody reads any more.
fn closed() -> Stdio {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    writer.into()
}

#[test]
fn a_reader_that_has_had_enough_is_no_failure() {
    let place = Place::with_weights();
    for line in [
        "models list",
        "models list --json",
        "segment --help",
        "segment coffee.png --weights w.safetensors --point 1,1 -o -",
    ] {
        let output = place.command(line).stdout(closed()).stderr(Stdio::piped()).spawn().unwrap();
        let output = output.wait_with_output().unwrap();
        assert_eq!((output.status.code(), &output.stderr[..]), (Some(0), &b""[..]), "{line}");
    }
    // With nobody to hear the messages either, the exit code is still right.
    let status =
        place.command("embed none.jpg --weights w.safetensors -o out").stderr(closed()).status().unwrap();
    assert_eq!(status.code(), Some(1));
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_behind_standard_output_is_a_failure() {
    let place = Place::new();
    for line in ["models list", "models list --json"] {
        let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
        let run = place.command(line).stdout(full).stderr(Stdio::piped()).spawn().unwrap();
        let output = run.wait_with_output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        assert!(stderr.starts_with("kirie: cannot write to standard output: No space left"), "{stderr}");
    }
}

/// What a newcomer does first: nothing fetched, nothing named, and the cup is cut out.
#[test]
fn the_model_inside_the_program() {
    let place = Place::new();
    fs::copy(coffee(), place.path("coffee.png")).unwrap();
    let boxed = place.run("segment coffee.png --box 183,20,437,332 --format json -o -").done().json();
    assert_eq!(boxed["model"], "kirie-small");
    let found: ImageMasks = serde_json::from_value(boxed).unwrap();
    let mask = &found.masks[0];
    let [x0, y0, width, height] = mask.bbox;
    let (x1, y1) = (x0 + width, y0 + height);
    let outside = [183.0 - x0, 20.0 - y0, x1 - 437.0, y1 - 332.0];
    assert!(outside.iter().all(|d| *d < 12.0), "it stays in its box: {:?}", mask.bbox);
    let share = mask.area as f64 / (254.0 * 312.0);
    assert!((0.5..0.95).contains(&share), "a cup fills much of its box, and not all: {share}");
    let cup = mask.segmentation.to_mask();
    assert!(cup.get(310, 120) && !cup.get(186, 328) && !cup.get(60, 60));

    let line = "segment coffee.png --everything --format json -o -";
    let everything: ImageMasks = serde_json::from_value(place.run(line).done().json()).unwrap();
    assert!(everything.masks.len() >= 2, "{} masks", everything.masks.len());
}
