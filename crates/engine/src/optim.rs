//! Optimisers over named groups of parameters.
//!
//! Adam and AdamW are Burn's, a tensor at a time. What is here is what Burn leaves to its users: groups by state-dict
//! names, gradients clipped by the norm of all of them, LARS, and a state that is stored under the parameters' names, so
//! that it outlives the process.

use std::collections::BTreeMap;

use burn::module::Module;
use burn::optim::{AdamConfig, AdamState, AdamWConfig, AdamWState, AdaptiveMomentumState, Optimizer as _};
use burn::tensor::{Device, Tensor, TensorData};
use kirie_sam::HostTensor;
use kirie_sam::checkpoint::StateDict;
use regex::Regex;
use serde::{Deserialize, Serialize};

use crate::EngineError;
use crate::named::{NamedTensors, replace_by_rank};

/// The update rule.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum Rule {
    /// Adam with decoupled weight decay (Loshchilov and Hutter).
    AdamW(Adam),
    /// Adam; weight decay is added to the gradient.
    Adam(Adam),
    /// Gradient descent with momentum; weight decay is added to the gradient (as PyTorch's `SGD`).
    Sgd {
        /// Weight of the past.
        #[serde(default)]
        momentum: f64,
        /// LARS (You et al.): each tensor's step is scaled by `trust * |weights| / |gradient + decay * weights|`. Tensors of
        /// one dimension (norms and biases) are left alone.
        #[serde(default)]
        lars_trust: Option<f64>,
    },
}

/// Constants of Adam.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Adam {
    /// Decay of the first moment.
    pub beta1: f32,
    /// Decay of the second moment.
    pub beta2: f32,
    /// Added to the root of the second moment.
    pub epsilon: f32,
}

impl Default for Adam {
    fn default() -> Self {
        Self { beta1: 0.9, beta2: 0.999, epsilon: 1e-8 }
    }
}

/// Parameters whose names match are treated differently.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Group {
    /// Regular expression on the state-dict name. Of several that match, the last one counts.
    pub name: String,
    /// Factor on the learning rate.
    #[serde(default = "one")]
    pub lr: f64,
    /// Weight decay in place of the general one.
    #[serde(default)]
    pub weight_decay: Option<f32>,
    /// Whether they stay as they are.
    #[serde(default)]
    pub frozen: bool,
}

fn one() -> f64 {
    1.0
}

/// How gradients are kept in bounds before a step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", content = "limit", rename_all = "lowercase", deny_unknown_fields)]
pub enum Clip {
    /// They are not.
    #[default]
    None,
    /// Every element to plus or minus this.
    Value(f32),
    /// All together scaled so that their norm is at most this (PyTorch's `clip_grad_norm_`).
    Norm(f64),
}

/// Configuration of [`Optimizer`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OptimizerConfig {
    /// The update rule.
    pub rule: Rule,
    /// Learning rate at the schedule's full height.
    pub lr: f64,
    /// Weight decay, where no group says otherwise.
    #[serde(default)]
    pub weight_decay: f32,
    /// Bounds for the gradients.
    #[serde(default)]
    pub clip: Clip,
    /// Exceptions by name.
    #[serde(default)]
    pub groups: Vec<Group>,
}

impl OptimizerConfig {
    /// Checks the numbers and expressions.
    pub fn init(&self) -> Result<Optimizer, EngineError> {
        let bad = |name: &str, found: String, expected: &str| EngineError::Setting {
            name: format!("optimizer.{name}"),
            found,
            expected: expected.to_owned(),
        };
        if !(self.lr.is_finite() && self.lr > 0.0) {
            return Err(bad("lr", self.lr.to_string(), "a number above 0"));
        }
        if !(self.weight_decay.is_finite() && self.weight_decay >= 0.0) {
            return Err(bad("weight_decay", self.weight_decay.to_string(), "0 or more"));
        }
        match self.clip {
            Clip::Value(limit) if limit.is_nan() || limit <= 0.0 => {
                return Err(bad("clip.limit", limit.to_string(), "a number above 0"));
            }
            Clip::Norm(limit) if limit.is_nan() || limit <= 0.0 => {
                return Err(bad("clip.limit", limit.to_string(), "a number above 0"));
            }
            _ => {}
        }
        let groups = self
            .groups
            .iter()
            .map(|group| match Regex::new(&group.name) {
                Ok(expression) => Ok((expression, group.clone())),
                Err(error) => {
                    Err(bad("groups.name", group.name.clone(), &format!("a regular expression ({error})")))
                }
            })
            .collect::<Result<_, _>>()?;
        Ok(Optimizer { config: self.clone(), groups, states: BTreeMap::new() })
    }
}

/// What an optimiser remembers of a parameter.
#[derive(Clone, Debug)]
struct State {
    /// Updates so far.
    time: usize,
    /// First moment, or velocity.
    first: Tensor<1>,
    /// Second moment, for Adam.
    second: Option<Tensor<1>>,
}

/// What a step did, for the log.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Applied {
    /// Norm of all gradients before clipping.
    pub gradient_norm: f64,
}

/// An optimiser with its state.
#[derive(Debug)]
pub struct Optimizer {
    config: OptimizerConfig,
    groups: Vec<(Regex, Group)>,
    states: BTreeMap<String, State>,
}

impl Optimizer {
    /// The configuration it was made from.
    pub fn config(&self) -> &OptimizerConfig {
        &self.config
    }

    fn group(&self, name: &str) -> Option<&Group> {
        self.groups.iter().rev().find(|(expression, _)| expression.is_match(name)).map(|(_, group)| group)
    }

    /// Turns gradients off for the parameters of frozen groups. A batch norm that lies wholly in one keeps to its running
    /// statistics and leaves them as they are.
    pub fn freeze<M: Module>(&self, module: M) -> M {
        use burn::module::{Flag, ModuleMapper, Param};
        use kirie_sam::checkpoint::KeyPath;
        struct Freezer<'a>(KeyPath, &'a Optimizer);
        impl Freezer<'_> {
            fn frozen(&self) -> bool {
                self.1.group(&self.0.key()).is_some_and(|group| group.frozen)
            }
        }
        impl ModuleMapper for Freezer<'_> {
            fn enter_module(&mut self, name: &str, container_type: &str) {
                self.0.enter(name, container_type);
            }
            fn exit_module(&mut self, _name: &str, container_type: &str) {
                self.0.exit(container_type);
            }
            fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
                if self.frozen() { param.set_require_grad(false) } else { param }
            }
            // Whether a batch norm trains: a flag beside its parameters, `NORM.training`.
            fn map_flag(&mut self, flag: Param<Flag>) -> Param<Flag> {
                if self.frozen() { flag.with_value(false) } else { flag }
            }
        }
        module.map(&mut Freezer(KeyPath::default(), self))
    }

    /// One step with the learning rate of the configuration times `factor`.
    ///
    /// # Errors
    /// The name of a parameter whose gradient is not finite; nothing was changed then.
    pub(crate) fn step<M: Module>(
        &mut self,
        module: M,
        gradients: NamedTensors,
        factor: f64,
    ) -> Result<(M, Applied), String> {
        let norm = global_norm(&gradients);
        if !norm.is_finite() {
            let culprit = gradients.iter().find(|(_, g)| !norm_of(g).is_finite());
            return Err(culprit.map_or_else(|| "the gradient".to_owned(), |(name, _)| name.clone()));
        }
        let scale = match self.config.clip {
            Clip::Norm(limit) => (limit / (norm + 1e-6)).min(1.0),
            _ => 1.0,
        };
        let mut gradients = gradients;
        let module = replace_by_rank(module, |name, rank, weights| {
            let mut gradient = gradients.remove(name)?;
            if let Clip::Value(limit) = self.config.clip {
                gradient = gradient.clamp(-limit, limit);
            }
            if scale != 1.0 {
                gradient = gradient * scale;
            }
            Some(self.update(name, rank, weights, gradient, factor))
        });
        Ok((module, Applied { gradient_norm: norm }))
    }

    fn update(
        &mut self,
        name: &str,
        rank: usize,
        weights: Tensor<1>,
        gradient: Tensor<1>,
        factor: f64,
    ) -> Tensor<1> {
        let group = self.group(name);
        let lr = self.config.lr * factor * group.map_or(1.0, |g| g.lr);
        let decay = group.and_then(|g| g.weight_decay).unwrap_or(self.config.weight_decay);
        let old = self.states.remove(name);
        let moments = |state: State| AdaptiveMomentumState {
            time: state.time,
            moment_1: state.first,
            moment_2: state.second.unwrap_or_else(|| gradient.zeros_like()),
            max_moment_2: None,
        };
        let keep =
            |m: AdaptiveMomentumState<1>| State { time: m.time, first: m.moment_1, second: Some(m.moment_2) };
        let (weights, state) = match self.config.rule {
            Rule::AdamW(adam) => {
                let rule = AdamWConfig::new()
                    .with_beta_1(adam.beta1)
                    .with_beta_2(adam.beta2)
                    .with_epsilon(adam.epsilon)
                    .with_weight_decay(decay)
                    .build();
                let old = old.map(|s| AdamWState::new(moments(s)));
                let (weights, state) = rule.step(lr, weights, gradient.clone(), old);
                (weights, state.map(|s| keep(s.momentum)))
            }
            Rule::Adam(adam) => {
                let rule = AdamConfig::new()
                    .with_beta_1(adam.beta1)
                    .with_beta_2(adam.beta2)
                    .with_epsilon(adam.epsilon)
                    .build();
                let decayed =
                    if decay > 0.0 { gradient.clone() + weights.clone() * decay } else { gradient.clone() };
                let old = old.map(|s| AdamState::new(moments(s)));
                let (weights, state) = rule.step(lr, weights, decayed, old);
                (weights, state.map(|s| keep(s.momentum)))
            }
            Rule::Sgd { momentum, lars_trust } => {
                let decayed = if decay > 0.0 { gradient + weights.clone() * decay } else { gradient };
                let scaled = match lars_trust {
                    Some(trust) if rank > 1 => {
                        let (w, g) = (norm_of(&weights), norm_of(&decayed));
                        if w > 0.0 && g > 0.0 { decayed * (trust * w / g) } else { decayed }
                    }
                    _ => decayed,
                };
                let velocity = match &old {
                    Some(state) => state.first.clone() * momentum + scaled,
                    None => scaled,
                };
                let time = old.map_or(0, |s| s.time) + 1;
                (weights - velocity.clone() * lr, Some(State { time, first: velocity, second: None }))
            }
        };
        if let Some(state) = state {
            self.states.insert(name.to_owned(), state);
        }
        weights
    }

    /// The state as tensors: `NAME.first`, `NAME.second` (flat) and `NAME.time` (one number).
    pub fn state(&self) -> Vec<(String, HostTensor)> {
        let host = |tensor: &Tensor<1>| HostTensor {
            shape: vec![tensor.dims()[0]],
            values: tensor.clone().into_data().iter::<f32>().collect(),
        };
        let mut tensors = Vec::new();
        for (name, state) in &self.states {
            tensors.push((format!("{name}.first"), host(&state.first)));
            if let Some(second) = &state.second {
                tensors.push((format!("{name}.second"), host(second)));
            }
            // Exact up to 2^24 updates.
            let time = HostTensor { shape: vec![1], values: vec![state.time as f32] };
            tensors.push((format!("{name}.time"), time));
        }
        tensors
    }

    /// Takes back what [`Self::state`] gave.
    pub fn restore(&mut self, file: &StateDict, device: &Device) -> Result<(), EngineError> {
        let read = |key: &str| -> Result<Tensor<1>, EngineError> {
            let tensor = file.read(key)?;
            Ok(Tensor::from_data(TensorData::new(tensor.values, tensor.shape), device))
        };
        let names: Vec<String> =
            file.keys().filter_map(|key| key.strip_suffix(".first")).map(str::to_owned).collect();
        self.states.clear();
        for name in names {
            let second = format!("{name}.second");
            let second = if file.shape(&second).is_some() { Some(read(&second)?) } else { None };
            let time = file.read(&format!("{name}.time"))?.values.first().copied().unwrap_or(0.0) as usize;
            let first = read(&format!("{name}.first"))?;
            self.states.insert(name, State { time, first, second });
        }
        Ok(())
    }
}

fn norm_of(tensor: &Tensor<1>) -> f64 {
    f64::from(tensor.clone().square().sum().into_scalar::<f32>()).sqrt()
}

/// The norm of all gradients together, with one read from the device.
fn global_norm(gradients: &NamedTensors) -> f64 {
    let squares: Vec<Tensor<1>> = gradients.values().map(|g| g.clone().square().sum()).collect();
    if squares.is_empty() {
        return 0.0;
    }
    let sums: Vec<f32> = Tensor::cat(squares, 0).into_data().iter::<f32>().collect();
    sums.into_iter().map(f64::from).sum::<f64>().sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::named::replace;
    use burn::nn::{Linear, LinearConfig};

    fn setup(rule: Rule, weight_decay: f32, clip: Clip, groups: Vec<Group>) -> (Optimizer, Linear) {
        let config = OptimizerConfig { rule, lr: 0.1, weight_decay, clip, groups };
        let device = Device::flex();
        let linear = LinearConfig::new(2, 1).init(&device);
        let linear = replace(linear, |name, t| {
            let values: &[f32] = if name == "weight" { &[1.0, -2.0] } else { &[0.5] };
            Some(Tensor::from_floats(values, &t.device()))
        });
        (config.init().expect("a good configuration"), linear)
    }

    fn gradients(weight: [f32; 2], bias: f32) -> NamedTensors {
        let device = Device::flex();
        NamedTensors::from([
            ("weight".to_owned(), Tensor::from_floats(weight, &device)),
            ("bias".to_owned(), Tensor::from_floats([bias], &device)),
        ])
    }

    fn values(linear: &Linear) -> Vec<f32> {
        let mut v: Vec<f32> = linear.weight.val().into_data().iter::<f32>().collect();
        v.extend(linear.bias.as_ref().expect("it has one").val().into_data().iter::<f32>());
        v
    }

    fn assert_close(found: &[f32], expected: &[f32]) {
        for (f, e) in found.iter().zip(expected) {
            assert!((f - e).abs() < 2e-6, "{found:?} is not {expected:?}");
        }
    }

    /// Two steps of PyTorch's AdamW, worked out by hand: the first moves every weight by lr against its sign.
    #[test]
    fn adamw_by_hand() {
        let (mut optimizer, linear) = setup(
            Rule::AdamW(Adam::default()),
            0.1,
            Clip::None,
            vec![Group { name: "bias".into(), lr: 0.5, weight_decay: Some(0.0), frozen: false }],
        );
        let (linear, applied) = optimizer.step(linear, gradients([0.3, -0.4], 2.0), 1.0).expect("finite");
        assert!((applied.gradient_norm - (0.25_f64 + 4.0).sqrt()).abs() < 1e-6);
        assert_close(&values(&linear), &[0.99 - 0.1, -1.98 + 0.1, 0.5 - 0.05]);
    }

    #[test]
    fn sgd_with_momentum_and_decay() {
        let (mut optimizer, linear) =
            setup(Rule::Sgd { momentum: 0.9, lars_trust: None }, 0.1, Clip::None, vec![]);
        let (linear, _) = optimizer.step(linear, gradients([1.0, 0.0], 0.0), 1.0).expect("finite");
        // velocity = gradient + 0.1 w
        assert_close(&values(&linear), &[1.0 - 0.11, -2.0 + 0.02, 0.5 - 0.005]);
        let (linear, _) = optimizer.step(linear, gradients([0.0, 0.0], 0.0), 1.0).expect("finite");
        assert_close(&values(&linear)[..1], &[0.89 - 0.1 * (0.9 * 1.1 + 0.089)]);
    }

    #[test]
    fn lars_scales_matrices_only() {
        let (mut optimizer, linear) =
            setup(Rule::Sgd { momentum: 0.0, lars_trust: Some(0.001) }, 0.0, Clip::None, vec![]);
        let (linear, _) = optimizer.step(linear, gradients([3.0, 4.0], 1.0), 1.0).expect("finite");
        let local = 0.001 * 5.0_f32.sqrt() / 5.0;
        assert_close(&values(&linear), &[1.0 - 0.1 * local * 3.0, -2.0 - 0.1 * local * 4.0, 0.4]);
    }

    /// Google's LARS (`lars_optimizer.py` of SimCLR) with decay and momentum, worked out in double precision.
    #[test]
    fn lars_is_that_of_simclr() {
        let rule = Rule::Sgd { momentum: 0.9, lars_trust: Some(0.001) };
        let config =
            OptimizerConfig { rule, lr: 1.0, weight_decay: 0.1, clip: Clip::None, groups: Vec::new() };
        let mut optimizer = config.init().expect("a good configuration");
        let linear = LinearConfig::new(2, 1).with_bias(false).init(&Device::flex());
        let mut linear = replace(linear, |_, t| Some(Tensor::from_floats([3.0, 4.0], &t.device())));
        for expected in [[2.997, 3.996], [2.991303, 3.988404]] {
            let gradient = Tensor::from_floats([0.6, 0.8], &Device::flex());
            let gradients = NamedTensors::from([("weight".to_owned(), gradient)]);
            (linear, _) = optimizer.step(linear, gradients, 1.0).expect("finite");
            let found: Vec<f32> = linear.weight.val().into_data().iter::<f32>().collect();
            assert_close(&found, &expected);
        }
    }

    #[test]
    fn clipping() {
        let sgd = Rule::Sgd { momentum: 0.0, lars_trust: None };
        let (mut optimizer, linear) = setup(sgd, 0.0, Clip::Norm(1.0), vec![]);
        let (linear, _) = optimizer.step(linear, gradients([3.0, 0.0], 4.0), 1.0).expect("finite");
        assert_close(&values(&linear), &[1.0 - 0.06, -2.0, 0.5 - 0.08]);
        let (mut optimizer, linear) = setup(sgd, 0.0, Clip::Value(2.0), vec![]);
        let (linear, _) = optimizer.step(linear, gradients([3.0, 0.0], -4.0), 0.5).expect("finite");
        assert_close(&values(&linear), &[1.0 - 0.1, -2.0, 0.5 + 0.1]);
    }

    #[test]
    fn a_gradient_that_is_no_number_is_named_and_changes_nothing() {
        let (mut optimizer, linear) = setup(Rule::AdamW(Adam::default()), 0.0, Clip::None, vec![]);
        let error =
            optimizer.step(linear, gradients([f32::NAN, 0.0], 0.0), 1.0).expect_err("it is not finite");
        assert_eq!(error, "weight");
        assert!(optimizer.state().is_empty());
    }
}
