//! A semantic model, from picture to logits.

use kirie_gsam::Segmenter;
use kirie_gsam::model::SemanticModel;

use crate::capture::{Side, record};
use crate::error::ExportError;
use crate::file::OnnxModel;
use crate::lower::lower;

/// A semantic model as a graph, for pictures of `size` = height and width.
///
/// | | name | shape |
/// | --- | --- | --- |
/// | in | `image` | `[1, 3, height, width]`, normalised |
/// | out | `logits` | `[1, K, height / s, width / s]`; the class is the place of the highest |
///
/// `s` is 2 or 4 pixels, as the model is. Adapters that change weights are folded into them; the others are part of the graph.
///
/// # Errors
/// A model that uses operations the exporter does not know.
pub fn semantic(
    name: &str,
    model: &SemanticModel,
    size: [usize; 2],
    metadata: &[(String, String)],
) -> Result<OnnxModel, ExportError> {
    let mut recording = record(model, &[], |model, recorder| {
        let [height, width] = size;
        let image =
            recorder.input("image", "the picture, normalised", [1, 3, height, width].map(Side::Fixed));
        recorder.output("logits", "one plane a class; the highest is the answer", &model.logits(image));
    })?;
    let graph = lower(&mut recording)?;
    Ok(OnnxModel::new(format!("{name} semantic"), graph, recording, metadata.to_vec()))
}
