//! The files of an exported model: graphs, and a description beside them.

use std::path::{Path, PathBuf};

use kirie_data::{create_parent, write_atomic};
use kirie_gsam::Segmenter;
use kirie_gsam::model::SemanticModel;
use kirie_sam::model::Sam;
use kirie_sam::registry::{Preprocess, Variant};
use serde::Serialize;

use crate::decoder::{Convention, decoder};
use crate::encoder::encoder;
use crate::error::ExportError;
use crate::file::{OPSET, OnnxModel, Tensor, Written};
use crate::semantic::semantic;

/// The description of an exported model, `NAME.json`.
#[derive(Debug, Serialize)]
struct Description<'a> {
    /// What this file is.
    format: &'static str,
    producer: String,
    opset: i64,
    model: &'a str,
    licence: &'a str,
    preprocess: Pixels,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompts: Option<Prompts>,
    #[serde(skip_serializing_if = "Option::is_none")]
    classes: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    encoder: Option<Part>,
    #[serde(skip_serializing_if = "Option::is_none")]
    decoder: Option<Part>,
    #[serde(skip_serializing_if = "Option::is_none")]
    semantic: Option<Part>,
}

/// What a picture has to go through before the graph sees it.
#[derive(Debug, Serialize)]
struct Pixels {
    channels: &'static str,
    /// Side that the picture's longer side is brought to; none for a semantic model, which takes a picture of its input's size.
    #[serde(skip_serializing_if = "Option::is_none")]
    longer_side: Option<u32>,
    resize: &'static str,
    mean: [f32; 3],
    std: [f32; 3],
    #[serde(skip_serializing_if = "Option::is_none")]
    pad: Option<&'static str>,
}

/// How prompts are given.
#[derive(Debug, Serialize)]
struct Prompts {
    convention: &'static str,
    frame: u32,
    labels: &'static str,
    /// Whether a prompt without a box takes one more point with label -1.
    padding_point: bool,
    /// Boxes are best asked in a window so many times as large as the box.
    #[serde(skip_serializing_if = "Option::is_none")]
    zoom: Option<f64>,
    /// Which of the masks is the answer where one is wanted.
    one_mask: &'static str,
}

/// A graph.
#[derive(Debug, Serialize)]
struct Part {
    file: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    weights: Option<String>,
    inputs: Vec<Tensor>,
    outputs: Vec<Tensor>,
}

/// What was written for a model.
#[derive(Debug)]
pub struct Bundle {
    /// The graphs.
    pub graphs: Vec<Written>,
    /// The description.
    pub description: PathBuf,
}

const RESIZE: &str = "bilinear, with antialiasing where it shrinks (Pillow's BILINEAR)";

/// Writes `NAME-encoder.onnx`, `NAME-decoder.onnx` and `NAME.json` into a folder, which is made if it is not there.
///
/// `preprocess` is that of this model, which may be for another input than the registered one.
///
/// # Errors
/// A model that uses operations the exporter does not know; files that cannot be written.
pub fn write_promptable(
    folder: &Path,
    variant: &Variant,
    model: &Sam,
    preprocess: &Preprocess,
    convention: Convention,
) -> Result<Bundle, ExportError> {
    let name = variant.name;
    let pixels = Pixels {
        channels: "RGB, 0 to 255, as float32",
        longer_side: Some(preprocess.size),
        resize: RESIZE,
        mean: preprocess.mean,
        std: preprocess.std,
        pad: Some("zeros at the bottom and right, after mean and std"),
    };
    let metadata = metadata(name, variant.licence, &pixels)?;
    let mut graphs = Vec::new();
    let mut part =
        |what: &str, graph: OnnxModel| write(folder, &format!("{name}-{what}"), &graph, &mut graphs);
    let encoder = part("encoder", encoder(name, model, preprocess, &metadata)?)?;
    let decoder = part("decoder", decoder(name, model, convention, &metadata)?)?;
    let description = Description {
        preprocess: pixels,
        prompts: Some(Prompts {
            convention: match convention {
                Convention::Sam => "segment-anything",
                Convention::Plain => "plain",
            },
            frame: preprocess.frame,
            labels: "1 on the object, 0 off it, 2 and 3 the upper left and lower right corner of a box, -1 padding",
            padding_point: true,
            zoom: variant.zoom,
            one_mask: if variant.single_mask {
                "mask 0"
            } else {
                "of masks 1 to 3 the one with the highest iou"
            },
        }),
        encoder: Some(encoder),
        decoder: Some(decoder),
        ..Description::new(name, variant.licence)
    };
    let description = description.write(folder, name)?;
    Ok(Bundle { graphs, description })
}

/// Writes `NAME-semantic.onnx` and `NAME.json` into a folder, which is made if it is not there; `classes` are the names of the classes,
/// `size` height and width of the pictures.
///
/// # Errors
/// A model that uses operations the exporter does not know; files that cannot be written.
pub fn write_semantic(
    folder: &Path,
    name: &str,
    licence: &str,
    model: &SemanticModel,
    classes: Vec<String>,
    size: [usize; 2],
) -> Result<Bundle, ExportError> {
    let preprocess = model.preprocess();
    let pixels = Pixels {
        channels: "RGB, 0 to 255, as float32",
        longer_side: None,
        resize: RESIZE,
        mean: preprocess.mean,
        std: preprocess.std,
        pad: None,
    };
    let metadata = metadata(name, licence, &pixels)?;
    let mut graphs = Vec::new();
    let graph = semantic(name, model, size, &metadata)?;
    let part = write(folder, &format!("{name}-semantic"), &graph, &mut graphs)?;
    let description = Description {
        preprocess: pixels,
        classes: Some(classes),
        semantic: Some(part),
        ..Description::new(name, licence)
    };
    let description = description.write(folder, name)?;
    Ok(Bundle { graphs, description })
}

fn write(
    folder: &Path,
    name: &str,
    graph: &OnnxModel,
    written: &mut Vec<Written>,
) -> Result<Part, ExportError> {
    let file = format!("{name}.onnx");
    let path = folder.join(&file);
    create_parent(&path)?;
    let done = graph.write(&path)?;
    let weights = done.weights.as_ref().and_then(|path| path.file_name());
    let weights = weights.map(|name| name.to_string_lossy().into_owned());
    written.push(done);
    Ok(Part { file, weights, inputs: graph.inputs(), outputs: graph.outputs() })
}

/// What a graph says of itself.
fn metadata(name: &str, licence: &str, pixels: &Pixels) -> Result<Vec<(String, String)>, ExportError> {
    let pixels = serde_json::to_string(pixels).map_err(|error| ExportError::Model(error.to_string()))?;
    let entries = [("model", name), ("licence", licence), ("preprocess", &pixels)];
    Ok(entries.map(|(key, value)| (key.to_owned(), value.to_owned())).to_vec())
}

impl<'a> Description<'a> {
    fn new(model: &'a str, licence: &'a str) -> Self {
        let none =
            Pixels { channels: "", longer_side: None, resize: "", mean: [0.0; 3], std: [1.0; 3], pad: None };
        Self {
            format: "kirie-onnx-1",
            producer: concat!("kirie ", env!("CARGO_PKG_VERSION")).to_owned(),
            opset: OPSET,
            model,
            licence,
            preprocess: none,
            prompts: None,
            classes: None,
            encoder: None,
            decoder: None,
            semantic: None,
        }
    }

    fn write(&self, folder: &Path, name: &str) -> Result<PathBuf, ExportError> {
        let path = folder.join(format!("{name}.json"));
        let text =
            serde_json::to_string_pretty(self).map_err(|error| ExportError::Model(error.to_string()))?;
        write_atomic(&path, |file| writeln!(file, "{text}"))?;
        Ok(path)
    }
}
