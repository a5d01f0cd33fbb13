//! What training, inference and evaluation know of a network.

use burn::module::Module;
use burn::tensor::Tensor;
use kirie_sam::registry::Preprocess;

/// A network that says for every place of a picture how much it looks like each class.
pub trait Segmenter: Module {
    /// Classes, the background included where it is one.
    fn classes(&self) -> usize;

    /// Mean and standard deviation that pixels are normalised with; its `size` is not used, pictures keep their shape.
    fn preprocess(&self) -> Preprocess;

    /// `[batch, 3, height, width]`, normalised, of any height and width from 32, to logits `[batch, classes, h, w]` of a
    /// lower resolution that show the same field of view (a model of two classes gives two channels, too).
    fn logits(&self, pixels: Tensor<4>) -> Tensor<4>;
}
