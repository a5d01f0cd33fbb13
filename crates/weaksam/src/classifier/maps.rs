//! Class maps of a picture at its own size, from several scales of it and their mirror images.
//!
//! As published: each pass's maps are enlarged bilinearly, turned back, and summed; every map is then stretched to 0..1
//! (`(m - min) / (max - min + 1e-8)`), the attention of each head of each block by itself; only classes the picture shows are kept.
//!
//! Two departures. The picture is stretched to the squares the network has learned on, times the scale, where the original keeps
//! its shape: then positions mean what they meant in training. And the maps of a picture whose longer side is above
//! [`MapOptions::longest`] are kept at that size: they come from a few hundred cells, and 50 maps of 12 million pixels take 2 GiB.

use burn::tensor::activation::relu;
use burn::tensor::{Device, Tensor, TensorData};
use kirie_data::{Image, longest_side};
use kirie_nn::resize::{Interpolation, resize};
use serde::{Deserialize, Serialize};

use super::{Classifier, ModelConfig, views};
use crate::WeakError;

/// How maps are made: the table `proposals.maps` of a configuration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MapOptions {
    /// Factors on the side of the network's input.
    pub scales: Vec<f64>,
    /// Whether each is also seen mirrored.
    pub flip: bool,
    /// Longer side of the maps, at most, pixels.
    pub longest: u32,
    /// Of a picture whose labels are not known: a class whose logit is above this is taken for shown.
    pub shown_above: f32,
}

impl Default for MapOptions {
    fn default() -> Self {
        Self { scales: vec![1.0, 0.8, 1.2], flip: true, longest: 512, shown_above: -0.5 }
    }
}

impl MapOptions {
    /// Checks the numbers.
    ///
    /// # Errors
    /// [`WeakError::Setting`].
    pub fn check(&self) -> Result<(), WeakError> {
        if self.scales.is_empty() || self.scales.iter().any(|scale| !(0.25..=4.0).contains(scale)) {
            let found = format!("{:?}", self.scales);
            return Err(WeakError::setting(
                "proposals.maps.scales",
                found,
                "factors from 0.25 to 4, at least one",
            ));
        }
        if !(32..=4096).contains(&self.longest) {
            return Err(WeakError::setting("proposals.maps.longest", self.longest, "32 to 4096"));
        }
        Ok(())
    }
}

/// Maps of the classes that a picture shows, each `height * width` values from 0 to 1, row by row.
#[derive(Clone, Debug, PartialEq)]
pub struct ClassMaps {
    /// Width of the maps, pixels.
    pub width: usize,
    /// Height of the maps, pixels.
    pub height: usize,
    /// The classes shown, known or found.
    pub classes: Vec<usize>,
    /// The coarse map of each of them.
    pub coarse: Vec<Vec<f32>>,
    /// The fine map of each; none without class tokens.
    pub fine: Vec<Vec<f32>>,
    /// Of each, the attention map of every head of every block kept, block by block; empty without class tokens.
    pub cross: Vec<Vec<Vec<f32>>>,
}

/// Sums of enlarged maps over the passes, `[1, maps, height, width]`.
#[derive(Default)]
struct Sums {
    coarse: Option<Tensor<4>>,
    fine: Option<Tensor<4>>,
    cross: Option<Tensor<4>>,
}

/// Makes the maps of a picture. `tags` are the classes it is known to show; without them they are found.
///
/// # Errors
/// A picture that cannot be resized for want of memory; classes the network does not know.
pub fn class_maps(
    model: &Classifier,
    config: &ModelConfig,
    image: &Image,
    tags: Option<&[usize]>,
    options: &MapOptions,
    device: &Device,
) -> Result<ClassMaps, WeakError> {
    let longest = image.width().max(image.height()).min(options.longest);
    let (width, height) = longest_side(image.width(), image.height(), longest);
    let (width, height) = (width as usize, height as usize);
    let multiple = config.multiple()?;
    let pass = |scale: f64, mirrored: bool| -> Result<_, WeakError> {
        let cells = (f64::from(config.input) * scale / multiple as f64).round().max(1.0) as usize;
        let side = cells * multiple;
        let pixels = views::whole(image, [side as u32; 2])?;
        let x = Tensor::<4>::from_data(TensorData::new(pixels, [1, 3, side, side]), device);
        Ok(model.forward(if mirrored { x.flip([3]) } else { x }, true))
    };
    let classes = if let Some(tags) = tags {
        tags.to_vec()
    } else {
        let logits = values(pass(1.0, false)?.logits().reshape([-1]))?;
        (0..logits.len()).filter(|class| logits[*class] > options.shown_above).collect()
    };
    if let Some(unknown) = classes.iter().find(|class| **class >= model.classes()) {
        return Err(WeakError::Shape {
            what: "the classifier's classes",
            expected: format!("more than {unknown}"),
            found: model.classes().to_string(),
        });
    }
    let mut maps =
        ClassMaps { width, height, classes, coarse: Vec::new(), fine: Vec::new(), cross: Vec::new() };
    if maps.classes.is_empty() {
        return Ok(maps);
    }
    let mut sums = Sums::default();
    for scale in &options.scales {
        for mirrored in [false, true].into_iter().take(1 + usize::from(options.flip)) {
            let answer = pass(*scale, mirrored)?;
            let [.., h, w] = answer.activation.dims();
            let add = |sum: &mut Option<Tensor<4>>, maps: Tensor<4>| {
                let maps = if mirrored { maps.flip([3]) } else { maps };
                let maps = resize(maps, [height, width], Interpolation::Bilinear);
                *sum = Some(match sum.take() {
                    Some(sum) => sum + maps,
                    None => maps,
                });
            };
            let of_classes = |map: Tensor<4>| {
                let chosen = maps.classes.iter().map(|class| map.clone().narrow(1, *class, 1)).collect();
                Tensor::cat(chosen, 1)
            };
            add(&mut sums.coarse, of_classes(relu(answer.activation)));
            if let Some(attention) = answer.attention {
                add(&mut sums.fine, of_classes(attention.fine));
                let mut chosen = Vec::new();
                for class in &maps.classes {
                    for block in &attention.cross {
                        // `[1, heads, C, N]`
                        let heads = block.dims()[1];
                        chosen.push(block.clone().narrow(2, *class, 1).reshape([1, heads, h, w]));
                    }
                }
                if !chosen.is_empty() {
                    add(&mut sums.cross, Tensor::cat(chosen, 1));
                }
            }
        }
    }
    let area = height * width;
    let split = |sum: Option<Tensor<4>>| -> Result<Vec<Vec<f32>>, WeakError> {
        let Some(sum) = sum else { return Ok(Vec::new()) };
        Ok(values(sum.reshape([-1]))?.chunks_exact(area).map(stretched).collect())
    };
    maps.coarse = split(sums.coarse)?;
    maps.fine = split(sums.fine)?;
    let cross = split(sums.cross)?;
    if !cross.is_empty() {
        maps.cross = cross.chunks(cross.len() / maps.classes.len()).map(<[_]>::to_vec).collect();
    }
    Ok(maps)
}

/// A map between 0 and 1.
fn stretched(map: &[f32]) -> Vec<f32> {
    let (low, high) =
        map.iter().fold((f32::INFINITY, f32::NEG_INFINITY), |(low, high), v| (low.min(*v), high.max(*v)));
    map.iter().map(|value| (value - low) / (high - low + 1e-8)).collect()
}

fn values(tensor: Tensor<1>) -> Result<Vec<f32>, WeakError> {
    tensor.into_data().try_to_vec().map_err(|error| WeakError::Shape {
        what: "the network's answer",
        expected: "float32".to_owned(),
        found: format!("{error:?}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flat_map_is_zero_and_no_nan() {
        assert_eq!(stretched(&[3.0; 4]), [0.0; 4]);
        let map = stretched(&[1.0, 3.0, 5.0]);
        assert!((map[1] - 0.5).abs() < 1e-6 && map[0] == 0.0 && (map[2] - 1.0).abs() < 1e-6);
    }
}
