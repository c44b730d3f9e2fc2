//! A mutable view of one named parameter, whatever its rank.

use std::collections::BTreeMap;

use anyhow::Context as _;
use burn::tensor::{Gradients, Tensor};

use super::WeightSource;

/// A parameter under its Hugging Face name. Vectors are seen as `[1, n]` matrices, so that
/// optimizers need one code path.
pub struct ParamMut<'a> {
    /// e.g. `model.layers.0.mlp.up_proj.weight`.
    pub name: String,
    tensor: AnyMut<'a>,
}

enum AnyMut<'a> {
    Vector(&'a mut Tensor<1>),
    Matrix(&'a mut Tensor<2>),
}

impl<'a> ParamMut<'a> {
    /// A vector parameter (a norm or a bias).
    pub fn vector(name: String, tensor: &'a mut Tensor<1>) -> Self {
        Self { name, tensor: AnyMut::Vector(tensor) }
    }

    /// A matrix parameter.
    pub fn matrix(name: String, tensor: &'a mut Tensor<2>) -> Self {
        Self { name, tensor: AnyMut::Matrix(tensor) }
    }

    /// The shape on disk: one or two numbers.
    pub fn shape(&self) -> Vec<usize> {
        match &self.tensor {
            AnyMut::Vector(tensor) => tensor.dims().to_vec(),
            AnyMut::Matrix(tensor) => tensor.dims().to_vec(),
        }
    }

    /// The value, outside any gradient graph.
    pub fn value(&self) -> Tensor<2> {
        match &self.tensor {
            AnyMut::Vector(tensor) => (**tensor).clone().inner().unsqueeze(),
            AnyMut::Matrix(tensor) => (**tensor).clone().inner(),
        }
    }

    /// Its gradient, or none when the loss did not depend on it.
    pub fn grad(&self, gradients: &Gradients) -> Option<Tensor<2>> {
        match &self.tensor {
            AnyMut::Vector(tensor) => tensor.grad(gradients).map(Tensor::unsqueeze),
            AnyMut::Matrix(tensor) => tensor.grad(gradients),
        }
    }

    /// Replaces the value.
    pub fn set(&mut self, value: Tensor<2>) {
        match &mut self.tensor {
            AnyMut::Vector(tensor) => **tensor = value.squeeze_dim::<1>(0),
            AnyMut::Matrix(tensor) => **tensor = value,
        }
    }

    /// Replaces the value and, where gradients are wanted, makes it a leaf of the next graph.
    pub fn set_leaf(&mut self, value: Tensor<2>) {
        match &mut self.tensor {
            AnyMut::Vector(tensor) => {
                **tensor = Tensor::from_inner(value.squeeze_dim::<1>(0)).require_grad();
            }
            AnyMut::Matrix(tensor) => **tensor = Tensor::from_inner(value).require_grad(),
        }
    }
}

/// Parameters as they stand now, for writing them to disk. Values are shared, not copied.
pub struct TensorWeights(BTreeMap<String, (Vec<usize>, Tensor<2>)>);

impl TensorWeights {
    /// The values of these parameters.
    pub fn new(params: Vec<ParamMut<'_>>) -> Self {
        Self(params.into_iter().map(|p| (p.name.clone(), (p.shape(), p.value()))).collect())
    }

    /// Every tensor with its shape, sorted by name.
    pub fn shapes(&self) -> Vec<(String, Vec<usize>)> {
        self.0.iter().map(|(name, (shape, _))| (name.clone(), shape.clone())).collect()
    }
}

impl WeightSource for TensorWeights {
    fn names(&self) -> Vec<String> {
        self.0.keys().cloned().collect()
    }

    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.0.get(name).map(|(shape, _)| shape.clone())
    }

    fn load(&self, name: &str) -> anyhow::Result<Vec<f32>> {
        let (_, tensor) = self.0.get(name).with_context(|| format!("there is no parameter `{name}`"))?;
        tensor.to_data().try_to_vec::<f32>().with_context(|| format!("cannot read back `{name}`"))
    }
}
