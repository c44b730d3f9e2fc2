//! Trans-PEFT's interventions (arXiv 2506.06844): pc drops whole FFNs, pi masks their inside.
//!
//! Every decision is a function of (seed, purpose, step, micro-batch, layer), never of carried
//! state: a recomputation repeats it, and a resumed run needs nothing saved.

use std::cell::Cell;

use burn::tensor::{Tensor, TensorData};
use rayon::prelude::*;

use crate::{
    model::{ForwardHook, Site, to_dtype},
    params::{MaskKind, TransPeftParams},
    rng,
};

/// Draws that one thread makes at a time.
const CHUNK: usize = 1 << 14;

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

    /// `keep` where the draw is above `rate`, else 0. Drawn in f32 whatever the model's dtype: a
    /// uniform in bf16 lands on multiples of 1/256 and would shift the rate.
    fn bernoulli(&self, purpose: &str, place: &[u64], shape: [usize; 2], rate: f64, keep: f32) -> TensorData {
        let random = rng::stream(self.seed, purpose, place);
        let rate = rate as f32;
        let mut values = vec![0.0; shape[0] * shape[1]];
        let zeroed: usize = values
            .par_chunks_mut(CHUNK)
            .enumerate()
            .map(|(chunk, values)| {
                let mut random = random.after((chunk * CHUNK) as u64);
                let mut zeroed = 0;
                for value in values {
                    let kept = random.unit_f32() > rate;
                    *value = if kept { keep } else { 0.0 };
                    zeroed += usize::from(!kept);
                }
                zeroed
            })
            .sum();
        if purpose == "pi" {
            let [before, all] = self.masked.get();
            self.masked.set([before + zeroed as u64, all + values.len() as u64]);
        }
        TensorData::new(values, shape)
    }
}

impl ForwardHook for TransPeft {
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
            MaskKind::Element => {
                self.bernoulli("pi", &[step, micro_batch, layer], [tokens, inner], self.pi, 1.0)
            }
            // One pattern for the whole optimizer step.
            MaskKind::Neuron => self.bernoulli("pi", &[step, layer], [1, inner], self.pi, 1.0),
        };
        // Ones and zeros are exact in every number format.
        product * to_dtype(Tensor::from_data(mask, &device), dtype)
    }

    fn drops_adapter_input(&self) -> bool {
        self.dropout > 0.0
    }

    /// Ordinary inverted dropout.
    fn adapter_input(&self, site: Site, input: Tensor<2>) -> Tensor<2> {
        if self.dropout == 0.0 {
            return input;
        }
        let keep = (1.0 / (1.0 - self.dropout)) as f32;
        let purpose = format!("lora_dropout.{}", site.module);
        let shape = input.dims();
        let [step, micro_batch] = self.place;
        let place = [step, micro_batch, site.layer as u64];
        let mask = self.bernoulli(&purpose, &place, shape, self.dropout, keep);
        let device = input.device();
        input * Tensor::from_data(mask, &device)
    }
}
