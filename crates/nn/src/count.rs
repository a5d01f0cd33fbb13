//! Counting multiply-accumulates of what the layers of this crate do.
//!
//! ```
//! # use burn::tensor::{Device, Tensor};
//! # use kirie_nn::{ConvNormConfig, count};
//! let device = Device::flex();
//! let layer = ConvNormConfig::new([3, 8], 3).init(&device);
//! let (_, macs) = count::dry(|| layer.forward(Tensor::zeros([1, 3, 16, 16], &device)));
//! assert_eq!(macs.layers, 16 * 16 * 8 * 3 * 9);
//! ```
//!
//! Published figures count layers only; the products inside attention, which can be as large, are kept apart here so that
//! both kinds of figure can be given. The counter belongs to the thread that asks, and costs nothing when nobody does.

use std::cell::Cell;
use std::ops::Add;

use burn::tensor::{Device, Tensor};

/// Multiply-accumulates, those of biases, norms and activations not counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Macs {
    /// Of convolutions and linear layers.
    pub layers: u64,
    /// Of products between activations: queries with keys, weights with values, mask vectors with features.
    pub products: u64,
}

impl Macs {
    /// Both kinds together.
    pub fn total(self) -> u64 {
        self.layers + self.products
    }
}

impl Add for Macs {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self { layers: self.layers + other.layers, products: self.products + other.products }
    }
}

#[derive(Clone, Copy)]
struct State {
    macs: Macs,
    dry: bool,
}

thread_local! {
    static STATE: Cell<Option<State>> = const { Cell::new(None) };
}

/// Runs `work` and says what its layers took.
pub fn measure<R>(work: impl FnOnce() -> R) -> (R, Macs) {
    with(false, work)
}

/// The same without doing it: layers and attentions give zeros of the right shape and never touch their weights, norms and
/// activations give back what they got. So a model of any size is counted in little time and, where its parameters are made lazily,
/// without their memory.
pub fn dry<R>(work: impl FnOnce() -> R) -> (R, Macs) {
    with(true, work)
}

fn with<R>(dry: bool, work: impl FnOnce() -> R) -> (R, Macs) {
    /// Puts the outer counter back even if `work` panics.
    struct Restore(Option<State>);
    impl Drop for Restore {
        fn drop(&mut self) {
            STATE.set(self.0);
        }
    }
    let outer = STATE.replace(Some(State { macs: Macs::default(), dry }));
    let restore = Restore(outer);
    let result = work();
    let macs = STATE.get().map_or_else(Macs::default, |state| state.macs);
    drop(restore);
    if outer.is_some() {
        add(macs);
    }
    (result, macs)
}

/// Whether layers should give zeros instead of working; for layers of one's own.
pub fn is_dry() -> bool {
    STATE.get().is_some_and(|state| state.dry)
}

/// What a layer gives in a dry run: zeros, of which only one is held in memory where the backend can do that.
pub fn zeros<const D: usize>(shape: [usize; D], device: &Device) -> Tensor<D> {
    Tensor::<D>::zeros([1; D], device).expand(shape)
}

/// Adds to the count of the thread, if there is one; for layers of one's own.
pub fn add(macs: Macs) {
    if let Some(state) = STATE.get() {
        STATE.set(Some(State { macs: state.macs + macs, ..state }));
    }
}

/// Adds a convolution or a linear layer.
pub fn add_layer(outputs: usize, inputs_each: usize) {
    add(Macs { layers: outputs as u64 * inputs_each as u64, products: 0 });
}

/// Adds a product of activations.
pub fn add_product(outputs: usize, inputs_each: usize) {
    add(Macs { layers: 0, products: outputs as u64 * inputs_each as u64 });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{AttentionConfig, ConvNormConfig, LiteMlaConfig, linear};
    use burn::nn::LinearConfig;

    #[test]
    fn counts_by_hand() {
        let device = Device::flex();
        let conv = ConvNormConfig::new([6, 10], 3).stride(2).init(&device);
        let x = Tensor::<4>::ones([2, 6, 9, 7], &device);
        let expected = Macs { layers: 2 * 10 * 5 * 4 * 54, products: 0 };
        let (real, macs) = measure(|| conv.forward(x.clone()));
        assert_eq!(macs, expected);
        let (zeros, macs) = dry(|| conv.forward(x));
        assert_eq!((zeros.dims(), macs), (real.dims(), expected));

        let depthwise = ConvNormConfig::new([6, 6], 5).depthwise().init(&device);
        let (_, macs) = measure(|| depthwise.forward(Tensor::ones([1, 6, 4, 4], &device)));
        assert_eq!(macs.layers, 6 * 16 * 25);

        let layer = LinearConfig::new(5, 7).init(&device);
        let (_, macs) = measure(|| linear(&layer, Tensor::<3>::ones([2, 3, 5], &device)));
        assert_eq!(macs.layers, 2 * 3 * 5 * 7);

        let attention = AttentionConfig { dim: 8, inner_dim: 4, heads: 2 }.init(&device);
        let (q, k) = (Tensor::<3>::ones([1, 3, 8], &device), Tensor::<3>::ones([2, 5, 8], &device));
        let expected = Macs { layers: 3 * 32 + 2 * 2 * 5 * 32 + 2 * 3 * 32, products: 2 * 2 * 3 * 5 * 4 };
        for count in [measure, dry] {
            let (out, macs) = count(Box::new(|| attention.forward(q.clone(), k.clone(), k.clone()))
                as Box<dyn FnOnce() -> Tensor<3>>);
            assert_eq!((out.dims(), macs), ([2, 3, 8], expected));
        }

        let lite = LiteMlaConfig { channels: 4, head_dim: 4, scales: vec![] }.init(&device);
        let (_, macs) = measure(|| lite.forward(Tensor::ones([1, 4, 3, 3], &device)));
        assert_eq!(macs.products, 9 * 16 * 2 + 9 * 4);
    }

    #[test]
    fn counters_nest_and_end() {
        let (inner, outer) = measure(|| {
            add_layer(2, 3);
            measure(|| add_product(4, 5)).1
        });
        assert_eq!(inner, Macs { layers: 0, products: 20 });
        assert_eq!(outer, Macs { layers: 6, products: 20 });
        add_layer(1, 1);
        assert!(!is_dry());
        assert_eq!(measure(|| ()).1, Macs::default());
    }
}
