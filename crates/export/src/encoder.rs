//! An image encoder.

use kirie_sam::model::Sam;
use kirie_sam::registry::Preprocess;

use crate::capture::{Side, record};
use crate::error::ExportError;
use crate::file::OnnxModel;
use crate::lower::lower;

/// The encoder of a model as a graph.
///
/// | | name | shape |
/// | --- | --- | --- |
/// | in | `image` | `[1, 3, size, size]`, normalised and padded as [`Preprocess`] says |
/// | out | `image_embeddings` | `[1, C, S, S]`, `[1, 256, 64, 64]` for the published models |
/// | out, HQ models | `hq_features` | `[1, C / 8, 4 S, 4 S]` |
///
/// # Errors
/// A model that uses operations the exporter does not know.
pub fn encoder(
    name: &str,
    model: &Sam,
    preprocess: &Preprocess,
    metadata: &[(String, String)],
) -> Result<OnnxModel, ExportError> {
    let side = preprocess.size as usize;
    let mut recording = record(model, &[], |model, recorder| {
        let about = "the picture, resized, normalised and padded";
        let image = recorder.input("image", about, [1, 3, side, side].map(Side::Fixed));
        let encoded = model.encode(image);
        recorder.output("image_embeddings", "what the decoder sees of the picture", &encoded.embedding);
        if let Some(features) = model.mask_decoder.hq_features(&encoded) {
            recorder.output("hq_features", "detail for the high-quality mask, for the decoder", &features);
        }
    })?;
    let graph = lower(&mut recording)?;
    Ok(OnnxModel::new(format!("{name} encoder"), graph, recording, metadata.to_vec()))
}
