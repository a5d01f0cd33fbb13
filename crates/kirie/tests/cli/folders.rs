//! Many pictures in one run.

use std::fs;
use std::process::Stdio;
use std::time::{Duration, Instant};

use kirie_data::write::write_picture;
use kirie_data::{Image, ImageMasks};

use crate::common::{Place, read_tensor};

/// A picture of a size of its own, to tell by.
fn picture(place: &Place, name: &str, width: u32, height: u32) {
    let pixels = (0..3 * width * height).map(|i| (i * 7 % 251) as u8).collect();
    fs::create_dir_all(place.path(name).parent().unwrap()).unwrap();
    write_picture(place.path(name), &Image::from_raw(width, height, pixels).unwrap()).unwrap();
}

#[test]
fn one_bad_picture_does_not_stop_the_rest() {
    let place = Place::with_weights();
    picture(&place, "photos/a.png", 60, 40);
    place.write("photos/bad.jpg", "no picture");
    place.write("photos/note.txt", "no picture either");
    picture(&place, "photos/sub/a.png", 20, 20);
    picture(&place, "more/A.JPG", 30, 50);
    picture(&place, "photos/sub/unasked.png", 9, 9);
    let prompt = r#"[{"points": [[20, 20]]}]"#;
    place.write(
        "prompts.json",
        format!(r#"{{"a.png": {prompt}, "bad.jpg": {prompt}, "more/A.JPG": {prompt}}}"#),
    );
    let answer = place.run(
        "segment photos more/A.JPG --recursive --weights w.safetensors --prompts prompts.json --format json -o out",
    );
    answer.expect(
        1,
        &[
            "photos/bad.jpg: expected a JPEG",
            "photos/sub/unasked.png: the prompt file has no prompts for it",
            "3 of 5 pictures done, see out",
            "2 of 5 pictures failed",
        ],
    );
    assert_eq!(answer.stdout, "");
    // Names that differ in nothing but case are one file on some systems.
    assert_eq!(place.names("out"), ["A-2.json", "a.json", "sub/a.json"]);
    for (name, path, size) in [
        ("a", "photos/a.png", (60, 40)),
        ("sub/a", "photos/sub/a.png", (20, 20)),
        ("A-2", "more/A.JPG", (30, 50)),
    ] {
        let found: ImageMasks = serde_json::from_value(place.json(&format!("out/{name}.json"))).unwrap();
        assert_eq!((&found.image.path[..], (found.image.width, found.image.height)), (path, size));
    }
}

#[test]
fn embeddings_of_a_pattern() {
    let place = Place::with_weights();
    picture(&place, "photos/1.png", 8, 8);
    place.write("photos/2.png", "");
    place.write("photos/3.bmp", "");
    let answer = place.run("embed photos/*.png --weights w.safetensors -o out");
    answer.expect(1, &["photos/2.png: the file is empty", "1 of 2 pictures failed"]);
    assert_eq!(place.names("out"), ["1.safetensors"]);
    assert_eq!(read_tensor(place.path("out/1.safetensors"), "embedding").shape, [1, 256, 64, 64]);
}

#[test]
fn places_without_pictures() {
    let place = Place::with_weights();
    picture(&place, "photos/sub/a.png", 8, 8);
    let line = "segment photos --weights w.safetensors --point 1,1";
    place.refuses(line, 1, &["no pictures", "photos", "--recursive"]);
    let line = "embed photos/*.jpg --weights w.safetensors -o out";
    place.refuses(line, 1, &["no file matches the pattern photos/*.jpg"]);
}

/// Runs a command line and kills it as soon as `is_writing` says so.
fn kill_when(place: &Place, line: &str, is_writing: impl Fn() -> bool) {
    let mut run = place.command(line).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let started = Instant::now();
    while !is_writing() {
        assert!(started.elapsed() < Duration::from_mins(2) && run.try_wait().unwrap().is_none(), "{line}");
    }
    run.kill().unwrap();
    run.wait().unwrap();
}

/// What a killed run leaves under a final name is whole.
#[test]
fn killed_among_pictures() {
    let place = Place::with_weights();
    // Large ones, so that writing a result takes long enough to be caught.
    for i in 0..3 {
        picture(&place, &format!("photos/{i}.png"), 1600, 1200);
    }
    let line = "segment photos --weights w.safetensors --point 9,9 --multimask --format json \
                --output-mode binary-mask -o out";
    // When the second picture's file appears, temporary or not.
    let first = "0.json".to_owned();
    kill_when(&place, line, || {
        let names = place.names("out");
        names.contains(&first) && names.iter().any(|name| *name != first)
    });
    let names = place.names("out");
    let (temporary, whole): (Vec<_>, Vec<_>) = names.iter().partition(|name| name.starts_with(".kirie-"));
    assert!(temporary.len() <= 1 && !whole.is_empty() && whole.len() < 3, "{names:?}");
    for name in whole {
        assert_eq!(place.json(&format!("out/{name}"))["masks"].as_array().unwrap().len(), 3, "{name}");
    }
}

#[test]
fn killed_in_a_large_file() {
    let place = Place::with_weights();
    place.write("new/c.safetensors", "old");
    let before = place.files();
    kill_when(&place, "models convert w.safetensors new/c.safetensors", || place.files() != before);
    assert_eq!(fs::read(place.path("new/c.safetensors")).unwrap(), b"old");
}
