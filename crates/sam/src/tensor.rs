//! Tensors in main memory, the form that everything outside the models exchanges.

use burn::tensor::{Device, Tensor, TensorData};

use crate::SamError;

/// A tensor in main memory.
#[derive(Clone, Debug, PartialEq)]
pub struct HostTensor {
    /// Its shape.
    pub shape: Vec<usize>,
    /// Its values in row-major order, as many as the shape says.
    pub values: Vec<f32>,
}

impl HostTensor {
    /// Takes values of the given shape.
    pub fn new(shape: Vec<usize>, values: Vec<f32>) -> Result<Self, SamError> {
        if shape.iter().product::<usize>() == values.len() {
            Ok(Self { shape, values })
        } else {
            let expected = format!("{} values for {shape:?}", shape.iter().product::<usize>());
            Err(SamError::Shape { what: "tensor", expected, found: vec![values.len()] })
        }
    }

    pub(crate) fn expect(&self, what: &'static str, shape: &[usize]) -> Result<(), SamError> {
        if self.shape == shape {
            Ok(())
        } else {
            Err(SamError::Shape { what, expected: format!("{shape:?}"), found: self.shape.clone() })
        }
    }

    /// The values of a tensor on any device.
    pub fn from_burn<const D: usize>(tensor: Tensor<D>) -> Result<Self, SamError> {
        let shape = tensor.dims().to_vec();
        let data = tensor.try_into_data().map_err(|e| SamError::Engine(e.to_string()))?;
        let values = data.try_to_vec::<f32>().map_err(|e| SamError::Engine(e.to_string()))?;
        Ok(Self { shape, values })
    }

    /// A tensor with these values; `D` must be the number of its sides.
    pub fn to_burn<const D: usize>(&self, device: &Device) -> Tensor<D> {
        Tensor::from_data(TensorData::new(self.values.clone(), self.shape.clone()), device)
    }
}
