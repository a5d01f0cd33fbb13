//! Training by kirie's own kernels gives what Burn's composed operations give, forward and backward.
//!
//! A device with activation checkpointing takes Burn's road (see `fast`), one without takes ours.

#![allow(clippy::unwrap_used, reason = "a test may fail anywhere")]

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::nn::conv::ConvTranspose2dConfig;
use burn::nn::{LayerNormConfig, LinearConfig};
use burn::tensor::{Device, Gradients, Tensor, TensorData};
use kirie_nn::{
    Activation, ConvNormConfig, FusedMbConvConfig, LayerNorm2dConfig, LiteMlaConfig, MbConvConfig,
    ResBlockConfig,
};

fn numbers(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..count)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            ((state >> 40) as f32 / (1 << 24) as f32) * 2.0 - 1.0
        })
        .collect()
}

fn tensor<const D: usize>(shape: [usize; D], seed: u64, device: &Device) -> Tensor<D> {
    Tensor::from_data(TensorData::new(numbers(shape.iter().product(), seed), shape), device)
}

/// The same numbers for every parameter, whatever the device. Scales stay around 1, variances positive.
struct Fill(u64);
impl ModuleMapper for Fill {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        self.0 += 1;
        let trained = param.is_require_grad();
        let seed = self.0;
        param.map(|t| {
            let new = tensor(t.dims(), seed, &t.device()) * 0.3;
            let new = if D == 1 { new + 1.0 } else { new };
            new.detach().set_require_grad(trained)
        })
    }
}

struct Collect<'a>(&'a Gradients, Vec<Vec<f32>>);
impl ModuleVisitor for Collect<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        match param.val().grad(self.0) {
            Some(gradient) => self.1.push(gradient.into_data().iter::<f32>().collect()),
            // running statistics: their value, which the forward pass has moved
            None => self.1.push(param.val().into_data().iter::<f32>().collect()),
        }
    }
}

/// Output, gradient of the input, gradients of the parameters (or values of buffers).
fn run<M: Module, const D: usize>(
    init: &dyn Fn(&Device) -> M,
    forward: &dyn Fn(&M, Tensor<D>) -> Tensor<D>,
    shape: [usize; D],
    device: &Device,
) -> Vec<Vec<f32>> {
    let module = init(device).map(&mut Fill(0));
    let x = tensor(shape, 77, device).require_grad();
    let y = forward(&module, x.clone());
    let weights = tensor(y.dims(), 78, device);
    let gradients = (y.clone() * weights).sum().backward();
    let mut all = vec![
        y.inner().into_data().iter::<f32>().collect(),
        x.grad(&gradients).unwrap().into_data().iter::<f32>().collect(),
    ];
    // brings the running statistics of batch norm into the visitor's view
    let _ = module.valid();
    let mut collect = Collect(&gradients, Vec::new());
    module.visit(&mut collect);
    all.extend(collect.1);
    all
}

fn assert_same<M: Module, const D: usize>(
    name: &str,
    init: &dyn Fn(&Device) -> M,
    forward: &dyn Fn(&M, Tensor<D>) -> Tensor<D>,
    shape: [usize; D],
) {
    let ours = run(init, forward, shape, &Device::flex().autodiff());
    let burns = run(init, forward, shape, &Device::flex().autodiff().gradient_checkpointing());
    assert_eq!(ours.len(), burns.len());
    for (i, (ours, burns)) in ours.iter().zip(&burns).enumerate() {
        assert_eq!(ours.len(), burns.len(), "{name}, tensor {i}");
        let scale = burns.iter().fold(1e-3_f32, |m, v| m.max(v.abs()));
        let worst = ours.iter().zip(burns).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max) / scale;
        assert!(worst < 5e-5, "{name}, tensor {i}: off by {worst} of the largest");
    }
}

#[test]
fn blocks_agree_with_burn() {
    use Activation::{Gelu, GeluTanh, Identity, Relu};
    for (kernel, stride, activation) in [(1, 1, Identity), (3, 1, GeluTanh), (3, 2, Gelu), (5, 1, Relu)] {
        let config = ConvNormConfig::new([6, 10], kernel).stride(stride).activation(activation);
        assert_same("conv", &|d| config.init(d), &|m, x| m.forward(x), [2, 6, 13, 9]);
        let config = ConvNormConfig::new([8, 8], kernel).stride(stride).depthwise().bias_only();
        let config = config.activation(activation);
        assert_same("depthwise", &|d| config.init(d), &|m, x| m.forward(x), [2, 8, 12, 15]);
    }
    let config = ResBlockConfig { channels: [6, 6], stride: 1, activation: GeluTanh };
    assert_same("res", &|d| config.init(d), &|m, x| m.forward(x), [2, 6, 8, 8]);
    let config = FusedMbConvConfig { channels: [6, 8], hidden: 24, stride: 2, activation: GeluTanh };
    assert_same("fused", &|d| config.init(d), &|m, x| m.forward(x), [2, 6, 8, 8]);
    for fewer_norm in [false, true] {
        let config =
            MbConvConfig { channels: [6, 8], hidden: 24, stride: 1, activation: GeluTanh, fewer_norm };
        assert_same("mb", &|d| config.init(d), &|m, x| m.forward(x), [2, 6, 8, 8]);
    }
    let config = LiteMlaConfig { channels: 16, head_dim: 8, scales: vec![5] };
    assert_same("attention", &|d| config.init(d), &|m, x| m.forward(x), [2, 16, 6, 7]);
    let config = LayerNorm2dConfig::new(12);
    assert_same("layer norm 2d", &|d| config.init(d), &|m, x| m.forward(x), [2, 12, 5, 7]);
    let config = ConvTranspose2dConfig::new([6, 5], [2, 2]).with_stride([2, 2]);
    assert_same("up", &|d| config.init(d), &|m, x| kirie_nn::conv_transpose2d(m, x), [3, 6, 5, 7]);
}

#[test]
fn token_layers_agree_with_burn() {
    let config = LinearConfig::new(10, 7);
    assert_same("linear", &|d| config.init(d), &|m, x| kirie_nn::linear(m, x), [3, 5, 10]);
    let config = LinearConfig::new(10, 7).with_bias(false);
    assert_same("linear without bias", &|d| config.init(d), &|m, x| kirie_nn::linear(m, x), [3, 5, 10]);
    let config = LayerNormConfig::new(12).with_epsilon(1e-6);
    assert_same("layer norm", &|d| config.init(d), &|m, x| kirie_nn::layer_norm(m, 1e-6, x), [3, 4, 12]);
}

#[test]
fn frozen_norms_keep_their_statistics() {
    let device = Device::flex().autodiff();
    let layer = ConvNormConfig::new([4, 4], 3).init(&device).freeze();
    let before: Vec<f32> =
        layer.norm.as_ref().unwrap().running_mean.value_sync().into_data().iter::<f32>().collect();
    let _ = layer.forward(tensor([2, 4, 8, 8], 1, &device).require_grad());
    let after: Vec<f32> =
        layer.norm.as_ref().unwrap().running_mean.value_sync().into_data().iter::<f32>().collect();
    assert_eq!(before, after);
}
