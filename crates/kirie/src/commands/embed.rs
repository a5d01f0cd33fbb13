//! `kirie embed`.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use kirie_data::{Limits, create_parent, read_image};
use kirie_sam::Engine;
use kirie_sam::checkpoint::{StateTensor, write_safetensors};
use kirie_sam::predictor::{EncodedImage, encode};

use crate::args::EmbedArgs;
use crate::inputs;
use crate::report::{self, Failure};
use crate::weights;

/// Runs the command.
pub(crate) fn run(args: &EmbedArgs) -> anyhow::Result<()> {
    let inputs = inputs::collect(&args.images, args.recursive)?;
    let is_file = args.output.extension().is_some_and(|e| e == "safetensors");
    if is_file && inputs.len() > 1 {
        return Err(report::usage(format!(
            "{} is a file and there are {} pictures; name a folder instead",
            args.output.display(),
            inputs.len()
        )));
    }
    weights::set_threads(&args.model)?;
    let engine = weights::load(&args.model)?;
    let bar = report::progress_bar(inputs.len() as u64, "pictures");
    let mut failed = 0;
    for input in &inputs {
        bar.set_message(input.name.clone());
        let path: PathBuf = if is_file {
            args.output.clone()
        } else {
            args.output.join(format!("{}.safetensors", input.name))
        };
        if let Err(error) = embed(&engine, &input.path, &path) {
            failed += 1;
            bar.suspend(|| report::error(&error));
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    if failed > 0 { Err(Failure::Inputs { failed, total: inputs.len() }.into()) } else { Ok(()) }
}

fn embed(engine: &dyn Engine, picture: &Path, output: &Path) -> anyhow::Result<()> {
    let image = read_image(picture, &Limits::default())?;
    let EncodedImage { width, height, embedding } = encode(engine, &image)?;
    let tensor = |t: kirie_sam::HostTensor| StateTensor { shape: t.shape, values: t.values };
    let mut tensors = vec![("embedding".to_owned(), tensor(embedding.image))];
    tensors.extend(embedding.hq_features.map(|t| ("hq_features".to_owned(), tensor(t))));
    let metadata = HashMap::from([
        ("model".to_owned(), engine.model().to_owned()),
        ("image".to_owned(), picture.to_string_lossy().into_owned()),
        ("width".to_owned(), width.to_string()),
        ("height".to_owned(), height.to_string()),
    ]);
    create_parent(output)?;
    Ok(write_safetensors(output, &tensors, metadata)?)
}
