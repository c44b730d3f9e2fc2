//! What training does inside a forward pass. The network asks; it knows no probabilities.

use burn::tensor::Tensor;

use super::Dropout;

/// A linear layer's place in the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Site {
    /// Index of the decoder layer.
    pub layer: usize,
    /// Module name inside the layer, e.g. `q_proj`.
    pub module: &'static str,
}

/// How products of many tokens with a weight are made on the CPU, in f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Products {
    /// Each token by itself, so that its result does not depend on those beside it.
    Alone,
    /// All together, as fast as it goes.
    Joint,
}

/// Interventions in a forward pass. Every decision is a function of the hook's own state, so that
/// a recomputation with the same hook repeats it.
pub trait ForwardHook {
    /// How the pass makes its products.
    fn products(&self) -> Products {
        Products::Alone
    }

    /// Whether the layer's whole FFN (its norm included) is left out; the residual stays.
    fn drops_ffn(&self, _layer: usize) -> bool {
        false
    }

    /// The gated product on its way into the down projection.
    ///
    /// # Shapes
    /// `[tokens, intermediate_size]` in and out.
    fn ffn_product(&self, _layer: usize, product: Tensor<2>) -> Tensor<2> {
        product
    }

    /// What is dropped of the input of an adapter's first matrix (LoRA dropout).
    fn adapter_dropout(&self, _site: Site) -> Option<Dropout> {
        None
    }
}

/// Evaluation: nothing is dropped or masked, and no random number is drawn.
#[derive(Debug, Clone, Copy, Default)]
pub struct Untouched;

impl ForwardHook for Untouched {}

/// Training without interventions.
#[derive(Debug, Clone, Copy, Default)]
pub struct Training;

impl ForwardHook for Training {
    fn products(&self) -> Products {
        Products::Joint
    }
}
