//! AdamW (arXiv 1711.05101) with torch's order of operations.

use std::collections::BTreeMap;

use burn::tensor::Tensor;

use crate::params::OptimizerParams;

/// First and second moments of every parameter that has had a gradient.
#[derive(Debug, Clone, Default)]
pub struct AdamW {
    state: BTreeMap<String, Moments>,
}

#[derive(Debug, Clone)]
struct Moments {
    first: Tensor<2>,
    second: Tensor<2>,
    /// Updates of this parameter so far. Per parameter, as in torch: one whose FFN was dropped
    /// in a step gets no gradient then, no decay and no count.
    steps: i32,
}

impl AdamW {
    /// The moments of every parameter that has some, and its updates so far.
    pub fn moments(&self) -> impl Iterator<Item = (&str, i32, [&Tensor<2>; 2])> {
        self.state.iter().map(|(name, m)| (name.as_str(), m.steps, [&m.first, &m.second]))
    }

    /// Goes on from moments that [`AdamW::moments`] gave.
    pub fn restore(&mut self, name: &str, steps: i32, [first, second]: [Tensor<2>; 2]) {
        self.state.insert(name.to_owned(), Moments { first, second, steps });
    }

    /// The parameter after one update.
    pub fn update(
        &mut self,
        name: &str,
        value: Tensor<2>,
        grad: Tensor<2>,
        lr: f64,
        params: &OptimizerParams,
    ) -> Tensor<2> {
        let (beta1, beta2) = (params.adam_beta1, params.adam_beta2);
        let moments = self.state.entry(name.to_owned()).or_insert_with(|| Moments {
            first: grad.zeros_like(),
            second: grad.zeros_like(),
            steps: 0,
        });
        moments.steps += 1;
        moments.first = moments.first.clone() * beta1 + grad.clone() * (1.0 - beta1);
        moments.second = moments.second.clone() * beta2 + grad.square() * (1.0 - beta2);
        let correction1 = 1.0 - beta1.powi(moments.steps);
        let correction2 = 1.0 - beta2.powi(moments.steps);
        let denominator = moments.second.clone().sqrt() / correction2.sqrt() + params.adam_epsilon;
        let step = moments.first.clone() / denominator * (lr / correction1);
        value * (1.0 - lr * params.weight_decay) - step
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;

    /// torch 2.9: AdamW([1., -2.], lr=0.1, weight_decay=0.01), gradients [0.5, -1.] then [-0.25, 3.].
    #[test]
    fn two_steps_match_torch() {
        let device = Device::flex();
        let params = OptimizerParams { weight_decay: 0.01, ..Default::default() };
        let mut adam = AdamW::default();
        let mut value = Tensor::<2>::from_floats([[1.0, -2.0]], &device);
        for grad in [[[0.5, -1.0]], [[-0.25, 3.0]]] {
            value = adam.update("w", value, Tensor::from_floats(grad, &device), 0.1, &params);
        }
        let got = value.into_data().try_to_vec::<f32>().unwrap();
        for (got, expected) in got.iter().zip(TORCH) {
            assert!((got - expected).abs() < 1e-6, "{got} != {expected}");
        }
    }

    const TORCH: [f32; 2] = [0.871_467_35, -1.945_520_9];
}
