//! Whatever is wrong, the message says what and where, the exit code tells failure from wrong usage, and no file is
//! left or changed ([`Place::refuses`]).

use std::collections::BTreeMap;
use std::fs;

use kirie_data::write::{PictureFormat, encode_picture};
use kirie_data::{Image, Limits, read_image};
use kirie_sam::HostTensor;
use kirie_sam::checkpoint::write_safetensors;

use crate::common::{Place, coffee, torch_weights, weights};
use crate::torch;

/// A valid PNG header of 60000 x 60000 pixels, and the start of their data.
fn huge_png() -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, 60_000, 60_000);
    encoder.set_color(png::ColorType::Rgb);
    let mut writer = encoder.write_header().unwrap();
    writer.write_chunk(png::chunk::IDAT, b"\x78\x9c\xed\xc1").unwrap();
    drop(writer);
    bytes
}

#[test]
fn pictures() {
    let place = Place::with_weights();
    let whole = fs::read(coffee()).unwrap();
    let picture: Image = read_image(coffee(), &Limits::default()).unwrap();
    let jpeg = encode_picture(&picture, PictureFormat::Jpeg).unwrap();
    place.write("cut.png", &whole[..whole.len() / 2]);
    place.write("cut.jpg", &jpeg[..jpeg.len() / 2]);
    place.write("header.png", &whole[..20]);
    place.write("empty.png", "");
    place.write("huge.png", huge_png());
    place.write("text.jpg", "this is not a picture\n");
    place.write("folder.png/x", "");
    for (name, words) in [
        ("cut.png", "damaged or incomplete PNG"),
        ("cut.jpg", "damaged or incomplete JPEG: the file ends too early"),
        ("header.png", "damaged or incomplete PNG"),
        ("empty.png", "the file is empty (0 bytes)"),
        ("huge.png", "too large: 60000x60000 pixels (3600 megapixels), the limit is"),
        ("text.jpg", "expected a JPEG, PNG, WebP, TIFF or BMP picture, found text"),
        ("missing.png", "no such file"),
    ] {
        let words = [&format!("kirie: {name}: {words}"), "1 of 1 pictures failed"];
        place.refuses(&format!("segment {name} --weights w.safetensors --point 1,1 -o out"), 1, &words);
        place.refuses(&format!("embed {name} --weights w.safetensors -o out"), 1, &words);
    }
    place.refuses(
        "segment folder.png --weights w.safetensors --point 1,1 -o out",
        1,
        &["no pictures", "folder.png"],
    );
    // The formats of one file for all pictures leave none either.
    place.write("out/annotations.coco.json", "old");
    place.refuses(
        "segment cut.png --weights w.safetensors --point 1,1 --format coco -o out",
        1,
        &["cut.png"],
    );
    place.refuses("segment cut.png --weights w.safetensors --point 1,1 --format coco -o -", 1, &["cut.png"]);
    place.refuses("bench encoder --weights w.safetensors --image cut.png", 1, &["cut.png: damaged"]);
}

#[test]
fn prompts_beside_the_picture() {
    let place = Place::with_weights();
    for (prompt, words) in [
        ("--point 641,10", "prompt 0: its point (641, 10) is outside the picture of 640x427"),
        ("--point 5,5 --point 10,-1", "prompt 0: its point (10, -1) is outside the picture of 640x427"),
        ("--box 1,1,9,9 --box 650,10,700,20", "prompt 1: its box (650, 10, 700, 20) is outside"),
    ] {
        let line =
            format!("segment coffee.png --weights w.safetensors {prompt} -o out --save-logits l.safetensors");
        place.refuses(&line, 1, &[&format!("coffee.png: {words}")]);
    }
}

#[test]
fn prompt_files() {
    let place = Place::with_weights();
    for (content, words) in [
        ("", "the file is empty"),
        (" \n ", "the file is empty"),
        ("[]", "a list of prompts is empty"),
        ("{}", "there are no prompts"),
        (r#"{"coffee.png": []}"#, "a list of prompts is empty"),
        ("[\n {\"point\": [1, 2]}\n]", "unknown field `point`, expected `points` or `box` at line 2"),
        ("[\n{\"box\": [1, 2, 3, 4]},\n]", "trailing comma at line 3"),
        ("[\n\n{\"points\": [[NaN, 2]]}]", "line 3"),
        ("[{\"points\": [[1e999, 2]]}]", "number out of range at line 1"),
        ("[{\"box\":\n [1, 2, 3]}]", "expected an array of length 4 at line 2"),
        ("{\"coffee.png\":\n{\"box\": [1, 2, 3, 4]}}", "expected a sequence at line 2"),
        ("5", "line 1"),
        (r#"[{"points": [[1, 2, 3]]}]"#, "prompt 0: point [1.0, 2.0, 3.0]: expected [x, y]"),
        (r#"[{"points": [[1, 2]]}, {"points": [[7]]}]"#, "prompt 1: point [7.0]"),
    ] {
        place.write("prompts.json", content);
        let line = "segment coffee.png --weights w.safetensors --prompts prompts.json -o out";
        place.refuses(line, 1, &["prompts prompts.json", words]);
    }
    for (content, words) in [
        ("[{\"box\": [9, 1, 2, 8]}]", "prompt 0: its box (9, 1, 2, 8) is upside down or empty"),
        ("[{\"points\": [[1, 1]]}, {}]", "prompt 1: it has no point, no box and no mask"),
        ("{\"tea.png\": [{\"points\": [[1, 1]]}]}", "the prompt file has no prompts for it"),
    ] {
        place.write("prompts.json", content);
        let line = "segment coffee.png --weights w.safetensors --prompts prompts.json -o out";
        place.refuses(line, 1, &[&format!("coffee.png: {words}")]);
    }
    place.refuses("segment coffee.png --prompts missing.json", 1, &["cannot read prompts missing.json"]);
}

#[test]
fn weight_files() {
    let place = Place::with_weights();
    let start = |path| fs::read(path).unwrap()[..1_000_000].to_vec();
    place.write("cut.safetensors", start(weights()));
    place.write("cut.pt", start(torch_weights()));
    place.write("empty.pt", "");
    place.write("text.pt", "weights\n");
    place.write("folder/x", "");
    let one = [("some.weight".to_owned(), HostTensor { shape: vec![2], values: vec![1.0, 2.0] })];
    write_safetensors(place.path("other.safetensors"), &one, &BTreeMap::new()).unwrap();
    place.write("other.pt", torch::state_dict(&one));
    for (weights, words) in [
        ("cut.safetensors", "is it complete?"),
        ("cut.pt", "is the file complete?"),
        ("empty.pt", "it is empty"),
        ("text.pt", "it is a text file, neither PyTorch nor safetensors"),
        ("coffee.png", "it is a picture, neither PyTorch nor safetensors"),
        ("folder", "cannot read folder"),
        ("missing.pt", "cannot read missing.pt"),
    ] {
        let words = [weights, words];
        place.refuses(&format!("segment coffee.png --point 1,1 -o out --weights {weights}"), 1, &words);
        place.refuses(&format!("embed coffee.png -o out --weights {weights}"), 1, &words);
        place.refuses(&format!("models convert {weights} out.safetensors"), 1, &words);
        place.refuses(
            &format!("models info ./{weights}"),
            if weights == "missing.pt" { 2 } else { 1 },
            &[weights],
        );
    }
    for other in ["other.safetensors", "other.pt"] {
        let line = format!("segment coffee.png --point 1,1 -o out --weights {other}");
        place.refuses(&line, 1, &[other, "fit no model"]);
        let words = [other, "do not fit mobile-sam", "1 unexpected", "some.weight"];
        place.refuses(&format!("{line} --model mobile-sam"), 1, &words);
        place.refuses(&format!("models info {other}"), 1, &[other, "1 tensors that fit no registered model"]);
    }
    let words =
        ["w.safetensors do not fit efficientvit-sam-l1", "these are the weights of efficientvit-sam-l0"];
    let wrong = "--model efficientvit-sam-l1";
    place.refuses(
        &format!("segment coffee.png --point 1,1 -o out --weights w.safetensors {wrong}"),
        1,
        &words,
    );
    place.refuses(&format!("embed coffee.png -o out --weights w.safetensors {wrong}"), 1, &words);
    place.refuses(&format!("models convert w.safetensors out.safetensors {wrong}"), 1, &words);
    place.refuses(&format!("bench decoder --weights w.safetensors {wrong}"), 1, &words);
}

#[test]
fn no_weights_at_all() {
    let place = Place::new();
    fs::copy(coffee(), place.path("coffee.png")).unwrap();
    let cache = place.path("cache").join("mobile_sam.pt").display().to_string();
    let words = [
        "no weights for mobile-sam",
        "kirie models pull mobile-sam",
        "--weights FILE",
        "without a network",
        &cache,
    ];
    place.refuses("segment coffee.png --point 1,1 --model mobile-sam", 1, &words);
    place.refuses("embed coffee.png -o out --model mobile-sam", 1, &words);
    place.refuses(
        "segment coffee.png --everything --model efficientvit-sam-l0",
        1,
        &["no weights for efficientvit-sam-l0"],
    );
    place.refuses("models pull kirie-small", 2, &["kirie-small is inside the program"]);
}

/// A pickle that would run a command in Python.
#[test]
fn a_checkpoint_with_code_is_refused() {
    let place = Place::with_weights();
    let pickle = b"\x80\x02cos\nsystem\nX\x0c\x00\x00\x00touch marker\x85R.";
    place.write("archive.pt", torch::archive(pickle, []));
    place.write("bare.pt", pickle);
    for weights in ["archive.pt", "bare.pt"] {
        for line in [
            format!("segment coffee.png --point 1,1 -o out --weights {weights}"),
            format!("embed coffee.png -o out --weights {weights}"),
            format!("models info {weights}"),
            format!("models convert {weights} out.safetensors"),
        ] {
            place.refuses(&line, 1, &[weights, "`os.system`", "could run code"]);
        }
    }
    assert!(!place.path("marker").exists());
}

#[test]
fn wrong_usage() {
    let place = Place::new();
    fs::copy(coffee(), place.path("coffee.png")).unwrap();
    fs::copy(coffee(), place.path("tea.png")).unwrap();
    place.write("grid.json", "[[[0.5, 0.5]],\n [[0.5]]]");
    for (line, words) in [
        ("", "Usage: kirie <COMMAND>"),
        ("cut coffee.png", "unrecognized subcommand 'cut'"),
        ("segment", "<IMAGES>"),
        ("segment coffee.png", "give --point, --box, --mask-input or --prompts, or --everything"),
        (
            "segment coffee.png --point 1,1 --model sam-vit-x",
            "`sam-vit-x`; there are: kirie-small, efficientvit-sam-l0, ",
        ),
        ("embed coffee.png -o out --model sam-vit-x", "hq-sam-vit-h"),
        ("models info sam-vit-x", "hq-sam-vit-h"),
        ("models pull sam-vit-x", "hq-sam-vit-h"),
        ("bench encoder --model sam-vit-x", "hq-sam-vit-h"),
        ("bench encoder", "--model"),
        ("segment coffee.png --box 9,1,2,8", "upside down or empty: expected x0 < x1 and y0 < y1"),
        ("segment coffee.png --box 1,2,3", "expected x0,y0,x1,y1"),
        ("segment coffee.png --box 1,2,3,inf", "inf is not a finite number"),
        ("segment coffee.png --point nan,5", "NaN is not a finite number"),
        ("segment coffee.png --point 1,2,3", "expected 0 (not the object) or 1 (the object)"),
        ("segment coffee.png --point 1;2", "`1;2` is not a number"),
        ("segment coffee.png --point 1,2 --box 1,2,3,4 --box 5,6,7,8", "points and several boxes"),
        ("segment coffee.png --point 1,2 --everything", "cannot be used with"),
        ("segment coffee.png --point 1,2 --best --multimask", "cannot be used with"),
        ("segment coffee.png --point 1,2 --mask-index 0", "--mask-input"),
        ("segment coffee.png --point 1,2 --threads 0", "--threads"),
        (
            "segment coffee.png --point 1,2 --format gif",
            "[possible values: json, coco, png, overlay, yolo, geojson]",
        ),
        ("segment coffee.png --point 1,2 --tolerance=-1", "--tolerance is -1"),
        ("segment coffee.png --point 1,2 --format json,coco -o -", "only one format fits standard output"),
        ("segment coffee.png --point 1,2 --format png -o -", "png and overlay go to files"),
        (
            "segment coffee.png --point 1,2 --format png -o out.png",
            "out.png does not end as a file of png does",
        ),
        (
            "segment coffee.png --point 1,2 --format json,coco -o out.json",
            "out.json is a file and takes one format",
        ),
        ("segment coffee.png --point 1,2 -o coffee.png", "coffee.png would overwrite a picture"),
        ("segment coffee.png tea.png --point 1,2 -o out.json", "out.json is a file and takes one picture"),
        (
            "segment coffee.png tea.png --point 1,2 --save-logits l.safetensors",
            "--save-logits takes one picture",
        ),
        ("embed coffee.png tea.png -o out.safetensors", "out.safetensors is a file and there are 2 pictures"),
        ("embed coffee.png -o -", "binary"),
        ("embed coffee.png -o out.npy", "out.npy ends in .npy"),
        (
            "segment coffee.png --point 1,2 --model mobile-sam --hq-only",
            "mobile-sam has no high-quality mask",
        ),
        ("segment coffee.png --everything --points-per-side 0", "points_per_side"),
        ("segment coffee.png --everything --pred-iou-thresh nan", "pred_iou_thresh is NaN"),
        ("segment [ --point 1,2", "pattern `[`"),
        ("segment coffee.png --point 1,2 --device tpu", "expected cpu, gpu or gpu:N"),
        ("models convert w.pt out.pt", "out.pt should end in .safetensors"),
    ] {
        place.refuses(line, 2, &[words]);
    }
    if cfg!(not(any(feature = "wgpu", feature = "vulkan", feature = "cuda"))) {
        for device in ["gpu", "gpu:1"] {
            let line = format!("segment coffee.png --point 1,2 --weights w.pt --device {device}");
            place.refuses(&line, 2, &["this build has no GPU support", "--features wgpu"]);
        }
    }
    let line = "segment coffee.png --everything --point-grids grid.json --crop-n-layers 1";
    place.refuses(line, 1, &["points grid.json", "at line 2"]);
}

#[test]
fn unwritable_output() {
    let place = Place::with_weights();
    place.write("file", "old");
    let segment = "segment coffee.png --weights w.safetensors --point 1,1";
    for (line, path) in [
        (format!("{segment} -o file/out"), "file/out"),
        (format!("{segment} -o file/out.json"), "file/out.json"),
        (format!("{segment} -o - --save-logits file/l.safetensors"), "file/l.safetensors"),
        ("embed coffee.png --weights w.safetensors -o file/e.safetensors".to_owned(), "file/e.safetensors"),
        ("models convert w.safetensors file/w.safetensors".to_owned(), "file"),
    ] {
        place.refuses(&line, 1, &[path, "Not a directory"]);
    }
    assert_eq!(fs::read(place.path("file")).unwrap(), b"old");
}

#[cfg(unix)]
#[test]
fn unwritable_folder() {
    use std::os::unix::fs::PermissionsExt;

    let place = Place::with_weights();
    place.write("closed/old", "old");
    let closed = place.path("closed");
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o555)).unwrap();
    if fs::write(closed.join("probe"), "").is_ok() {
        println!("skipped: this user may write anywhere (root)");
        return;
    }
    place.refuses(
        "models convert w.safetensors closed/w.safetensors",
        1,
        &["closed/w.safetensors", "ermission denied"],
    );
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o755)).unwrap();
}

#[cfg(target_os = "linux")]
mod full_disk {
    use std::path::PathBuf;
    use std::process::Command;

    use super::*;

    /// A file system of 64 KiB; gone when dropped.
    struct SmallDisk(PathBuf);

    impl SmallDisk {
        fn mount(folder: PathBuf) -> Result<Self, String> {
            fs::create_dir(&folder).unwrap();
            let mount = ["-t", "tmpfs", "-o", "size=64k", "kirie-test"];
            match Command::new("mount").args(mount).arg(&folder).output() {
                Ok(output) if output.status.success() => Ok(Self(folder)),
                Ok(output) => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
                Err(error) => Err(error.to_string()),
            }
        }
    }

    impl Drop for SmallDisk {
        fn drop(&mut self) {
            let _ = Command::new("umount").arg(&self.0).status();
        }
    }

    #[test]
    fn leaves_the_old_files() {
        let place = Place::with_weights();
        let _disk = match SmallDisk::mount(place.path("disk")) {
            Ok(disk) => disk,
            Err(reason) => return println!("skipped: no small disk can be mounted here: {reason}"),
        };
        let files = ["coffee.json", "l.safetensors", "w.safetensors"];
        for name in files {
            place.write(&format!("disk/{name}"), "old");
        }
        let segment = "segment coffee.png --weights w.safetensors --point 1,1";
        for (line, name) in [
            (format!("{segment} --format json --output-mode binary-mask -o disk"), "coffee.json"),
            (format!("{segment} -o - --save-logits disk/l.safetensors"), "l.safetensors"),
            ("models convert w.safetensors disk/w.safetensors".to_owned(), "w.safetensors"),
        ] {
            place.refuses(&line, 1, &[&format!("disk/{name}: cannot be written: No space left")]);
        }
        // With more pictures to come, the first is enough.
        fs::copy(coffee(), place.path("tea.png")).unwrap();
        let line = "embed coffee.png tea.png --weights w.safetensors -o disk";
        let answer =
            place.refuses(line, 1, &["kirie: disk/coffee.safetensors: cannot be written: No space left"]);
        assert!(!answer.stderr.contains("tea"), "{}", answer.stderr);
        for name in files {
            assert_eq!(fs::read(place.path("disk").join(name)).unwrap(), b"old", "{name}");
        }
    }
}
