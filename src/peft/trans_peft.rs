//! Trans-PEFT's interventions (arXiv 2506.06844): pc drops whole FFNs, pi masks their inside.
//!
//! Every decision is a function of (seed, purpose, step, micro-batch, layer), never of carried
//! state: a recomputation repeats it, and a resumed run needs nothing saved.

use std::cell::Cell;

use crate::{
    model::{Dropout, ForwardHook, Products, Site, to_dtype},
    params::{MaskKind, TransPeftParams},
    rng,
};
use burn::tensor::{Tensor, TensorData};

/// The interventions of one training forward pass.
#[derive(Debug, Clone)]
pub struct TransPeft {
    pi: f64,
    mask: MaskKind,
    dropout: f64,
    seed: u64,
    /// Optimizer step and micro-batch within it.
    place: [u64; 2],
    dropped: Vec<bool>,
    /// Elements that the masks zeroed, and all of theirs.
    masked: Cell<[u64; 2]>,
}

impl TransPeft {
    /// Draws which layers lose their FFN: one draw per layer for the whole micro-batch, dropped
    /// when `draw < pc`.
    pub fn draw(
        params: &TransPeftParams,
        lora_dropout: f64,
        seed: u64,
        step: usize,
        micro_batch: usize,
        layers: usize,
    ) -> Self {
        let place = [step as u64, micro_batch as u64];
        let mut draws = rng::stream(seed, "pc", &place);
        let dropped = (0..layers).map(|_| params.pc > 0.0 && draws.unit_f64() < params.pc).collect();
        Self {
            pi: params.pi,
            mask: params.mask,
            dropout: lora_dropout,
            seed,
            place,
            dropped,
            masked: Cell::default(),
        }
    }

    /// Which layers lose their FFN in this pass.
    pub fn dropped(&self) -> &[bool] {
        &self.dropped
    }

    /// How many intermediate elements were zeroed in this pass so far, and of how many.
    pub fn masked(&self) -> [u64; 2] {
        self.masked.get()
    }

    /// Ones, and zeros with probability pi.
    fn mask(&self, place: &[u64], shape: [usize; 2]) -> TensorData {
        let mut values = vec![1.0; shape[0] * shape[1]];
        let zeroed = rng::stream(self.seed, "pi", place).thin_out(&mut values, self.pi, 1.0);
        let [before, all] = self.masked.get();
        self.masked.set([before + zeroed as u64, all + values.len() as u64]);
        TensorData::new(values, shape)
    }
}

impl ForwardHook for TransPeft {
    fn products(&self) -> Products {
        Products::Joint
    }

    fn drops_ffn(&self, layer: usize) -> bool {
        self.dropped[layer]
    }

    /// Zeroes with probability pi, without rescaling what is kept.
    fn ffn_product(&self, layer: usize, product: Tensor<2>) -> Tensor<2> {
        if self.pi == 0.0 {
            return product;
        }
        let [tokens, inner] = product.dims();
        let ([step, micro_batch], layer) = (self.place, layer as u64);
        let (dtype, device) = (product.dtype(), product.device());
        let mask = match self.mask {
            MaskKind::Element => self.mask(&[step, micro_batch, layer], [tokens, inner]),
            // One pattern for the whole optimizer step.
            MaskKind::Neuron => self.mask(&[step, layer], [1, inner]),
        };
        // Ones and zeros are exact in every number format.
        product * to_dtype(Tensor::from_data(mask, &device), dtype)
    }

    fn adapter_dropout(&self, site: Site) -> Option<Dropout> {
        let purpose = format!("lora_dropout.{}", site.module);
        let [step, micro_batch] = self.place;
        let stream = || rng::stream(self.seed, &purpose, &[step, micro_batch, site.layer as u64]);
        (self.dropout > 0.0).then(|| Dropout::new(stream(), self.dropout))
    }
}
