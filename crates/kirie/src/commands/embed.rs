//! `kirie embed`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use kirie_data::{Limits, create_parent, read_image};
use kirie_sam::Engine;
use kirie_sam::checkpoint::write_safetensors;
use kirie_sam::predictor::{EncodedImage, encode};

use crate::args::EmbedArgs;
use crate::inputs::Inputs;
use crate::outputs::check_writable;
use crate::report::{self, Failure, PictureProgress};
use crate::weights;

/// Runs the command.
pub(crate) fn run(args: &EmbedArgs) -> anyhow::Result<()> {
    let inputs = Inputs::collect(&args.images, args.recursive, Some(&args.output))?;
    let name = args.output.display();
    let is_file = match args.output.extension() {
        _ if args.output == Path::new("-") => {
            return Err(report::usage("embeddings are binary and go to files, not to standard output"));
        }
        Some(ending) if ending == "safetensors" => true,
        Some(ending) if !args.output.is_dir() => {
            let ending = ending.display();
            return Err(report::usage(format!(
                "{name} ends in .{ending}; embeddings are .safetensors files"
            )));
        }
        _ => false,
    };
    if is_file && inputs.pictures.len() > 1 {
        let count = inputs.pictures.len();
        return Err(report::usage(format!(
            "{name} is a file and there are {count} pictures; name a folder instead"
        )));
    }
    check_writable(&args.output, !is_file)?;
    args.model.machine.set_threads()?;
    let engine = weights::load(&args.model)?;

    let total = inputs.pictures.len() + inputs.failures.len();
    let mut failed = inputs.failures.len();
    inputs.failures.iter().for_each(report::error);
    let mut progress = PictureProgress::new(inputs.pictures.len());
    for input in &inputs.pictures {
        progress.start(&input.listed);
        let path: PathBuf = if is_file {
            args.output.clone()
        } else {
            args.output.join(format!("{}.safetensors", input.name))
        };
        match embed(&engine, &input.path, &path) {
            Ok(()) => progress.done("done"),
            Err(error) if report::is_disk_trouble(&error) => return Err(error),
            Err(error) => {
                failed += 1;
                progress.failed(&report::about(error, &input.path));
            }
        }
    }
    progress.finish();
    if failed > 0 { Err(Failure::Inputs { failed, total }.into()) } else { Ok(()) }
}

fn embed(engine: &dyn Engine, picture: &Path, output: &Path) -> anyhow::Result<()> {
    let image = read_image(picture, &Limits::default())?;
    let EncodedImage { width, height, embedding } = encode(engine, &image)?;
    let mut tensors = vec![("embedding".to_owned(), embedding.image)];
    tensors.extend(embedding.hq_features.map(|features| ("hq_features".to_owned(), features)));
    let metadata = BTreeMap::from([
        ("model".to_owned(), engine.model().to_owned()),
        ("image".to_owned(), picture.to_string_lossy().into_owned()),
        ("width".to_owned(), width.to_string()),
        ("height".to_owned(), height.to_string()),
    ]);
    create_parent(output)?;
    Ok(write_safetensors(output, &tensors, &metadata)?)
}
