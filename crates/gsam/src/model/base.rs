//! Weights from a base: a checkpoint of SAM, EfficientViT-SAM or kirie-small.
//!
//! Tensors are taken by name. Where the model differs from the base:
//!
//! | tensor | what it gets |
//! | --- | --- |
//! | `mask_decoder.mask_tokens`, `iou_token`, K > 2 | the rows that ask for classes: the base's mask token 0; the others its other tokens in turn |
//! | `mask_decoder.output_hypernetworks_mlps.{i}`, K > 2 | the base's MLP 0, for every class |
//! | the same, two classes | the base's, one to one |
//! | `rel_pos_h`, `rel_pos_w` of another length | the base's, stretched or shrunk linearly |
//! | `pos_embed` of another grid | the base's, resized bilinearly |
//! | what the method adds | its own beginning |
//!
//! So a model of any number of classes begins as SAM with its single mask for each class, and classes part with the first step.
//! (The published code leaves the tokens random where there are more than two classes.)

use std::fmt;

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{Tensor, TensorData};
use kirie_nn::resize::Interpolation;
use kirie_sam::HostTensor;
use kirie_sam::checkpoint::{KeyPath, StateDict, module_keys, transpose};

use super::decoder::ClassDecoder;
use super::{ModelError, SemanticConfig, SemanticModel};

const ENCODER: &str = "image_encoder.";
const IOU_TOKEN: &str = "mask_decoder.iou_token.weight";
const MASK_TOKENS: &str = "mask_decoder.mask_tokens.weight";
const MLPS: &str = "mask_decoder.output_hypernetworks_mlps.";

/// What a base gave.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BaseReport {
    /// Tensors of the model that were taken as they are.
    pub copied: Vec<String>,
    /// Tensors that were made from others of the base; see the module.
    pub adapted: Vec<String>,
    /// Tensors that the base does not have: what the method adds.
    pub fresh: Vec<String>,
    /// Tensors of the base that the model has no use for.
    pub unused: Vec<String>,
}

impl fmt::Display for BaseReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named = |names: &[String]| {
            let mut groups: Vec<String> = names.iter().map(|name| group(name)).collect();
            groups.dedup();
            groups.sort();
            groups.dedup();
            groups.join(", ")
        };
        write!(f, "{} tensors taken from the base", self.copied.len())?;
        for (what, names) in
            [("adapted", &self.adapted), ("new", &self.fresh), ("of the base not used", &self.unused)]
        {
            if !names.is_empty() {
                write!(f, "; {} {what} ({})", names.len(), named(names))?;
            }
        }
        Ok(())
    }
}

/// A name without its numbers and its last part, so that a list stays short.
fn group(name: &str) -> String {
    let mut parts: Vec<&str> = name.split('.').collect();
    if parts.len() > 1 {
        parts.pop();
    }
    parts
        .iter()
        .map(|part| if part.parse::<usize>().is_ok() { "*" } else { part })
        .collect::<Vec<_>>()
        .join(".")
}

/// Gives each tensor of a module that `values` has something for its new values; names, shapes and order of values are those of
/// the state dict.
pub(super) fn fill<M: Module>(
    module: M,
    values: impl FnMut(&str, &[usize]) -> Result<Option<Vec<f32>>, ModelError>,
) -> Result<M, ModelError> {
    struct Filler<F> {
        path: KeyPath,
        values: F,
        error: Option<ModelError>,
    }
    impl<F: FnMut(&str, &[usize]) -> Result<Option<Vec<f32>>, ModelError>> ModuleMapper for Filler<F> {
        fn enter_module(&mut self, name: &str, container_type: &str) {
            self.path.enter(name, container_type);
        }
        fn exit_module(&mut self, _name: &str, container_type: &str) {
            self.path.exit(container_type);
        }
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            if self.error.is_some() {
                return param;
            }
            let own: Vec<usize> = param.lazy_shape().to_vec();
            let transposed = self.path.is_transposed();
            let shape: Vec<usize> =
                if transposed { own.iter().rev().copied().collect() } else { own.clone() };
            match (self.values)(&self.path.key(), &shape) {
                Ok(Some(values)) => {
                    let values = if transposed { transpose(&values, &shape) } else { values };
                    let tensor = Tensor::from_data(TensorData::new(values, own), &param.lazy_device());
                    let id = param.id;
                    param.transform_for_load(tensor, id)
                }
                Ok(None) => param,
                Err(error) => {
                    self.error = Some(error);
                    param
                }
            }
        }
    }
    let mut filler = Filler { path: KeyPath::default(), values, error: None };
    let module = module.map(&mut filler);
    match filler.error {
        Some(error) => Err(error),
        None => Ok(module),
    }
}

/// See [`SemanticModel::load_base`].
pub(super) fn load_base(
    model: SemanticModel,
    base: &StateDict,
) -> Result<(SemanticModel, BaseReport), ModelError> {
    let config = model.config().clone();
    let keys = module_keys(&model);
    // A checkpoint of a semantic model with the same classes has its own tokens.
    let same_classes = keys.iter().any(|k| k.key == MASK_TOKENS && base.shape(MASK_TOKENS) == Some(&k.shape));
    let mut report = BaseReport::default();
    let mut used = std::collections::HashSet::new();
    let model = fill(model, |key, shape| {
        let source = source(key, &config, same_classes);
        let Some(found) = base.shape(&source) else {
            report.fresh.push(key.to_owned());
            return Ok(None);
        };
        let wrong = || ModelError::Shape {
            path: base.path().to_owned(),
            key: source.clone(),
            found: found.to_vec(),
            expected: shape.to_vec(),
        };
        used.insert(source.clone());
        if found == shape && source == key {
            report.copied.push(key.to_owned());
            return Ok(Some(base.read(&source)?.values));
        }
        let tensor = base.read(&source)?;
        let values = if found == shape || without_ones(found) == without_ones(shape) {
            Some(tensor.values)
        } else if key == IOU_TOKEN || key == MASK_TOKENS {
            let other = if key == IOU_TOKEN { MASK_TOKENS } else { IOU_TOKEN };
            tokens(key, shape, &config, tensor, &base.read(other)?)
        } else {
            resized(key, shape, tensor)
        };
        let values = values.ok_or_else(wrong)?;
        report.adapted.push(key.to_owned());
        Ok(Some(values))
    })?;
    // A file without a decoder may be a pre-trained encoder; one without an encoder is of something else.
    if !report.copied.iter().chain(&report.adapted).any(|key| key.starts_with(ENCODER)) {
        let mut encoder = keys.iter().filter(|k| k.key.starts_with(ENCODER));
        let example = encoder.next().map_or_else(String::new, |k| k.key.clone());
        return Err(ModelError::Foreign { path: base.path().to_owned(), example });
    }
    let counter = |key: &str| key.ends_with("num_batches_tracked");
    report.unused =
        base.keys().filter(|key| !used.contains(*key) && !counter(key)).map(str::to_owned).collect();
    Ok((model, report))
}

/// The base's name for a tensor.
fn source(key: &str, config: &SemanticConfig, same_classes: bool) -> String {
    match key.strip_prefix(MLPS).and_then(|rest| rest.split_once('.')) {
        Some((_, rest)) if config.classes != 2 && !same_classes => format!("{MLPS}0.{rest}"),
        _ => key.to_owned(),
    }
}

fn without_ones(shape: &[usize]) -> &[usize] {
    let last = shape.iter().rposition(|side| *side != 1).map_or(0, |i| i + 1);
    &shape[..last]
}

/// The rows of `iou_token` or `mask_tokens`, from the base's two.
fn tokens(
    key: &str,
    shape: &[usize],
    config: &SemanticConfig,
    own: HostTensor,
    other: &HostTensor,
) -> Option<Vec<f32>> {
    let &[rows, dim] = shape else { return None };
    let in_mask_tokens = key == MASK_TOKENS;
    let (iou, mask) = if in_mask_tokens { (other, &own) } else { (&own, other) };
    let mut values = Vec::with_capacity(rows * dim);
    for row in 0..rows {
        let (table, from) = match ClassDecoder::base_row(
            &config.sam.mask_decoder,
            config.classes,
            config.published_tokens,
            in_mask_tokens,
            row,
        ) {
            Some(from) => (mask, from),
            None => (iou, 0),
        };
        values.extend_from_slice(table.values.get(from * dim..(from + 1) * dim)?);
    }
    Some(values)
}

/// Position tables at another size.
fn resized(key: &str, shape: &[usize], tensor: HostTensor) -> Option<Vec<f32>> {
    let relative = key.ends_with(".rel_pos_h") || key.ends_with(".rel_pos_w");
    match (tensor.shape.as_slice(), shape) {
        (&[from, width], &[to, own]) if relative && width == own && from > 0 => {
            Some(product(&Interpolation::Bilinear.matrix(from, to), &tensor.values, [to, from, width]))
        }
        (&[1, height, width, dim], &[1, to_height, to_width, own])
            if key == "image_encoder.pos_embed" && dim == own && height > 0 && width > 0 =>
        {
            let rows = Interpolation::Bilinear.matrix(height, to_height);
            let columns = Interpolation::Bilinear.matrix(width, to_width);
            let stretched = product(&rows, &tensor.values, [to_height, height, width * dim]);
            let lines = stretched.chunks_exact(width * dim);
            Some(lines.flat_map(|line| product(&columns, line, [to_width, width, dim])).collect())
        }
        _ => None,
    }
}

/// `[m, k]` times `[k, n]`.
fn product(a: &[f32], b: &[f32], [m, k, n]: [usize; 3]) -> Vec<f32> {
    let mut out = vec![0.0; m * n];
    for (row, out) in out.chunks_exact_mut(n).enumerate() {
        for (weight, line) in a[row * k..(row + 1) * k].iter().zip(b.chunks_exact(n)) {
            if *weight != 0.0 {
                for (sum, value) in out.iter_mut().zip(line) {
                    *sum += weight * value;
                }
            }
        }
    }
    out
}

/// Takes a ResNet-101 of torchvision into the CNN branch of GSAM; gives the names of its tensors that were not found.
pub fn load_resnet(
    model: SemanticModel,
    weights: &StateDict,
) -> Result<(SemanticModel, Vec<String>), ModelError> {
    use super::cnn::ResnetEmbed;
    const PREFIX: &str = "image_encoder.cnn_embed.";
    let (mut found, mut missing) = (0, Vec::new());
    let model = fill(model, |key, shape| {
        let Some(name) = key.strip_prefix(PREFIX).and_then(ResnetEmbed::torchvision_name) else {
            return Ok(None);
        };
        match weights.shape(&name) {
            Some(theirs) if theirs == shape => {
                found += 1;
                Ok(Some(weights.read(&name)?.values))
            }
            Some(theirs) => Err(ModelError::Shape {
                path: weights.path().to_owned(),
                key: name.clone(),
                found: theirs.to_vec(),
                expected: shape.to_vec(),
            }),
            None => {
                missing.push(name);
                Ok(None)
            }
        }
    })?;
    if found == 0 {
        let example = "layer1.0.conv1.weight".to_owned();
        return Err(ModelError::Foreign { path: weights.path().to_owned(), example });
    }
    Ok((model, missing))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn position_tables_are_resized() {
        let tensor =
            |shape: &[usize], values: &[f32]| HostTensor::new(shape.to_vec(), values.to_vec()).unwrap();
        let line =
            resized("image_encoder.blocks.2.attn.rel_pos_h", &[2, 1], tensor(&[4, 1], &[0., 2., 4., 6.]));
        assert_eq!(line.unwrap(), [1.0, 5.0]);
        let grid = tensor(&[1, 2, 2, 1], &[0.0, 4.0, 8.0, 12.0]);
        assert_eq!(resized("image_encoder.pos_embed", &[1, 1, 1, 1], grid.clone()).unwrap(), [6.0]);
        let wide = resized("image_encoder.pos_embed", &[1, 2, 4, 1], grid.clone()).unwrap();
        assert_eq!(wide, [0.0, 1.0, 3.0, 4.0, 8.0, 9.0, 11.0, 12.0]);
        assert_eq!(resized("other", &[1, 2, 4, 1], grid), None);
    }

    #[test]
    fn names_are_grouped() {
        let names = |n: &[&str]| n.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
        let report = BaseReport {
            copied: names(&["a"]),
            fresh: names(&["x.0.up.weight", "x.1.up.weight", "x.0.up.bias"]),
            ..BaseReport::default()
        };
        assert_eq!(report.to_string(), "1 tensors taken from the base; 3 new (x.*.up)");
    }
}
