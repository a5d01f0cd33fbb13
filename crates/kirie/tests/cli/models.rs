//! `models list`, `info` and `convert`; `pull` has a file of its own.

use kirie_sam::checkpoint::StateDict;
use kirie_sam::registry;

use crate::common::{MODEL, Place, fields, torch_weights};

const FIELDS: [&str; 15] = [
    "name",
    "about",
    "parameters",
    "input_size",
    "prompt_frame",
    "pixel_mean",
    "pixel_std",
    "hq",
    "licence",
    "url",
    "file",
    "integrity",
    "cached",
    "built_in",
    "zoom",
];

#[test]
fn list() {
    let place = Place::new();
    place.write("cache/mobile_sam.pt", "x");
    let json = place.run("models list --json").done().json();
    let models = json.as_array().unwrap();
    let names: Vec<&str> = models.iter().map(|m| m["name"].as_str().unwrap()).collect();
    let known: Vec<&str> = registry::variants().iter().map(|v| v.name).collect();
    assert_eq!(names, known);
    let table = place.run("models list").done().stdout;
    for (model, line) in models.iter().zip(table.lines().skip(1)) {
        assert_eq!(fields(model), FIELDS);
        let is_here = model["name"] == "mobile-sam";
        assert_eq!(model["cached"].is_string(), is_here);
        assert!(line.starts_with(model["name"].as_str().unwrap()), "{line}");
        assert_eq!(line.contains(" here "), is_here, "{line}");
    }
    assert_eq!(table.lines().count(), models.len() + 1);
}

#[test]
fn info() {
    let place = Place::with_weights();
    std::fs::hard_link(torch_weights(), place.path("w.pt")).unwrap();
    let by_name = place.run(&format!("models info {MODEL} --json")).done().json();
    assert_eq!(fields(&by_name), FIELDS);
    assert_eq!((&by_name["input_size"], &by_name["prompt_frame"]), (&512.into(), &1024.into()));
    for file in ["w.safetensors", "w.pt"] {
        let mut by_file = place.run(&format!("models info {file} --json")).done().json();
        assert_eq!(by_file["weights"], file);
        by_file.as_object_mut().unwrap().remove("weights");
        assert_eq!(by_file, by_name);
    }
    let text = place.run("models info sam-vit-h").done().stdout;
    for words in ["sam-vit-h: ", "641090608", "1024x1024", "Apache-2.0", "`kirie models pull sam-vit-h`"] {
        assert!(text.contains(words), "{text}");
    }
}

#[test]
fn convert() {
    let place = Place::with_weights();
    std::fs::hard_link(torch_weights(), place.path("w.pt")).unwrap();
    let answer = place.run("models convert w.pt new/c.safetensors").done();
    assert_eq!(answer.stdout, format!("new/c.safetensors: {MODEL} weights\n"));
    assert_eq!(place.names("new"), ["c.safetensors"]);

    let [original, converted] =
        ["w.safetensors", "new/c.safetensors"].map(|f| StateDict::open(place.path(f)).unwrap());
    assert_eq!(original.keys().collect::<Vec<_>>(), converted.keys().collect::<Vec<_>>());
    for key in original.keys() {
        let [a, b] = [&original, &converted].map(|file| file.read(key).unwrap());
        let bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
        assert!(a.shape == b.shape && bits(&a.values) == bits(&b.values), "{key}");
    }
    assert_eq!(converted.metadata()["model"], MODEL);
    assert!(converted.metadata()["preprocess"].contains("512"));
    // Half the size, and still the same model.
    place.run("models convert w.pt new/h.safetensors --half").done();
    let bytes = |name: &str| std::fs::metadata(place.path(name)).unwrap().len();
    assert!(2 * bytes("new/h.safetensors") < bytes("new/c.safetensors") + 200_000);
    assert_eq!(place.run("models info new/h.safetensors --json").done().json()["name"], MODEL);
    // Named, and onto itself.
    place.run(&format!("models convert --model {MODEL} new/c.safetensors new/c.safetensors")).done();
    assert_eq!(place.run("models info new/c.safetensors --json").done().json()["name"], MODEL);
}
