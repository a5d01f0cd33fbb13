//! The moving average of the weights, which usually scores better than the weights of the last step.

use burn::module::Module;

use crate::named::{NamedTensors, replace, tensors_of};

/// Exponential moving average: `average = decay * average + (1 - decay) * weights`.
///
/// The decay of step n (from 0) is at most `(1 + n) / (10 + n)`, so that the random start is forgotten soon. Buffers (the running
/// statistics of batch norm) are averages already and are taken as they are.
#[derive(Debug)]
pub struct Average {
    decay: f64,
    tensors: NamedTensors,
}

impl Average {
    /// Starts with the module's tensors.
    pub fn new<M: Module>(decay: f64, module: &M) -> Self {
        Self { decay, tensors: tensors_of(module) }
    }

    /// Takes a step's weights in; `step` counts from 0.
    pub fn update<M: Module>(&mut self, module: &M, step: u64) {
        let decay = self.decay.min((1.0 + step as f64) / (10.0 + step as f64));
        for (name, new) in tensors_of(module) {
            let buffer = name.ends_with("running_mean") || name.ends_with("running_var");
            match self.tensors.get_mut(&name) {
                Some(average) if !buffer => {
                    let old = std::mem::replace(average, new.clone());
                    *average = old.clone() + (new - old) * (1.0 - decay);
                }
                _ => drop(self.tensors.insert(name, new)),
            }
        }
    }

    /// The module with the averaged weights.
    pub fn apply<M: Module>(&self, module: M) -> M {
        replace(module, |name, _| self.tensors.get(name).cloned())
    }

    /// Takes over what [`Self::apply`] gave another module, for a resumed run.
    pub fn restore<M: Module>(&mut self, module: &M) {
        self.tensors = tensors_of(module);
    }

    /// The average of that name, for tests.
    #[cfg(test)]
    fn get(&self, name: &str) -> Option<&burn::tensor::Tensor<1>> {
        self.tensors.get(name)
    }
}

/// A follower one step later: `decay * follower + (1 - decay) * leader`, tensor by tensor, statistics of batch norm included. Both
/// are of the same kind; the leader's tensors are looked up by their names.
pub fn follow<M: Module>(follower: M, leader: &M, decay: f64) -> M {
    let mut leader = tensors_of(leader);
    replace(follower, |name, old| {
        let new = leader.remove(name)?;
        Some(old.clone() + (new - old) * (1.0 - decay))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::nn::LinearConfig;
    use burn::tensor::Device;

    #[test]
    fn it_follows_the_weights() {
        let device = Device::flex();
        let linear = LinearConfig::new(1, 1).with_bias(false).init(&device);
        let set = |value: f32| replace(linear.clone(), |_, t| Some(t.zeros_like() + value));
        let mut average = Average::new(0.9, &set(1.0));
        average.update(&set(2.0), 1_000_000);
        let value = average.get("weight").expect("its weight").clone().into_scalar::<f32>();
        assert!((value - 1.1).abs() < 1e-6, "{value}");
        // early on it follows quickly: the decay of step 0 is 0.1
        let mut average = Average::new(0.9, &set(1.0));
        average.update(&set(2.0), 0);
        let value = average.get("weight").expect("its weight").clone().into_scalar::<f32>();
        assert!((value - 1.9).abs() < 1e-6, "{value}");
    }

    #[test]
    fn a_follower_follows() {
        let device = Device::flex();
        let linear = LinearConfig::new(1, 1).init(&device);
        let set = |value: f32| replace(linear.clone(), |_, t| Some(t.zeros_like() + value));
        let followed = tensors_of(&follow(set(1.0), &set(3.0), 0.75));
        assert_eq!(followed.len(), 2);
        for (name, tensor) in followed {
            assert_eq!(tensor.into_scalar::<f32>(), 1.5, "{name}");
        }
    }
}
