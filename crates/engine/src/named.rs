//! Parameters by their state-dict names, as flat tensors.

use std::collections::BTreeMap;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{Gradients, Tensor};
use kirie_sam::checkpoint::KeyPath;

/// The gradients of a module by name, flat, without autodiff.
pub type NamedTensors = BTreeMap<String, Tensor<1>>;

/// Takes the gradients of all parameters that have one.
pub fn gradients_of<M: Module>(module: &M, gradients: &mut Gradients) -> NamedTensors {
    struct Taker<'a> {
        path: KeyPath,
        gradients: &'a mut Gradients,
        taken: NamedTensors,
    }
    impl ModuleVisitor for Taker<'_> {
        fn enter_module(&mut self, name: &str, container_type: &str) {
            self.path.enter(name, container_type);
        }
        fn exit_module(&mut self, _name: &str, container_type: &str) {
            self.path.exit(container_type);
        }
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if !param.is_require_grad() {
                return;
            }
            if let Some(gradient) = param.val().grad_remove(self.gradients) {
                self.taken.insert(self.path.key(), flat(gradient));
            }
        }
    }
    let mut taker = Taker { path: KeyPath::default(), gradients, taken: NamedTensors::new() };
    module.visit(&mut taker);
    taker.taken
}

/// All tensors of a module by name, buffers included, flat and without autodiff.
pub fn tensors_of<M: Module>(module: &M) -> NamedTensors {
    struct Collector {
        path: KeyPath,
        tensors: NamedTensors,
    }
    impl ModuleVisitor for Collector {
        fn enter_module(&mut self, name: &str, container_type: &str) {
            self.path.enter(name, container_type);
        }
        fn exit_module(&mut self, _name: &str, container_type: &str) {
            self.path.exit(container_type);
        }
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            self.tensors.insert(self.path.key(), flat(param.val().inner()));
        }
    }
    let mut collector = Collector { path: KeyPath::default(), tensors: NamedTensors::new() };
    module.visit(&mut collector);
    collector.tensors
}

/// Gives each tensor of the module that `change` has something for its new value; the others stay as they are.
pub(crate) fn replace<M: Module>(
    module: M,
    mut change: impl FnMut(&str, Tensor<1>) -> Option<Tensor<1>>,
) -> M {
    replace_by_rank(module, |name, _, tensor| change(name, tensor))
}

/// The same; `change` is told how many dimensions the tensor has before it is made flat.
pub(crate) fn replace_by_rank<M: Module>(
    module: M,
    change: impl FnMut(&str, usize, Tensor<1>) -> Option<Tensor<1>>,
) -> M {
    struct Mapper<F> {
        path: KeyPath,
        change: F,
    }
    impl<F: FnMut(&str, usize, Tensor<1>) -> Option<Tensor<1>>> ModuleMapper for Mapper<F> {
        fn enter_module(&mut self, name: &str, container_type: &str) {
            self.path.enter(name, container_type);
        }
        fn exit_module(&mut self, _name: &str, container_type: &str) {
            self.path.exit(container_type);
        }
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            let name = self.path.key();
            let trained = param.is_require_grad();
            let change = &mut self.change;
            param.map(|tensor| {
                let (shape, autodiff) = (tensor.dims(), tensor.is_autodiff());
                match change(&name, D, flat(tensor.clone().inner())) {
                    Some(new) if autodiff => Tensor::from_inner(new.reshape(shape)).set_require_grad(trained),
                    Some(new) => new.reshape(shape),
                    None => tensor,
                }
            })
        }
    }
    module.map(&mut Mapper { path: KeyPath::default(), change })
}

pub(crate) fn flat<const D: usize>(tensor: Tensor<D>) -> Tensor<1> {
    let length = tensor.dims().iter().product::<usize>();
    tensor.reshape([length])
}
