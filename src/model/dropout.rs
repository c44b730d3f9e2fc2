//! Dropout that keeps no mask.

use burn::tensor::{Tensor, TensorData};

use crate::rng::Rng;

/// Ordinary inverted dropout. Its mask is a function of a stream of random numbers, so that the
/// backward pass draws it again instead of keeping it.
#[derive(Debug, Clone)]
pub struct Dropout {
    stream: Rng,
    rate: f64,
}

impl Dropout {
    /// Zeroes with probability `rate`; values are drawn in their order from the stream's beginning.
    pub fn new(stream: Rng, rate: f64) -> Self {
        Self { stream, rate }
    }

    /// The factors of the first `count` values.
    pub(crate) fn factors(&self, count: usize) -> Vec<f32> {
        let mut factors = vec![1.0; count];
        self.drop_from(&mut factors);
        factors
    }

    /// Drops some of the values, and scales the others up.
    pub(crate) fn drop_from(&self, values: &mut [f32]) {
        self.stream.thin_out(values, self.rate, (1.0 / (1.0 - self.rate)) as f32);
    }

    /// The same where a tape keeps the mask.
    ///
    /// # Shapes
    /// Any, in and out, in f32.
    pub(super) fn apply<const D: usize>(&self, input: Tensor<D>) -> Tensor<D> {
        let (shape, device) = (input.dims(), input.device());
        let factors = TensorData::new(self.factors(shape.iter().product()), shape);
        input * Tensor::from_data(factors, &device)
    }
}
