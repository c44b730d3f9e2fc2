//! Keys and values of the tokens already seen, so that generation computes each token once.

use burn::tensor::{Device, Tensor};

use super::{ModelConfig, cast::tensor_dtype};
use crate::params::Dtype;

/// Room for `capacity` tokens in every layer, allocated once.
#[derive(Debug)]
pub struct KvCache {
    layers: Vec<LayerCache>,
    length: usize,
    capacity: usize,
}

#[derive(Debug)]
struct LayerCache {
    keys: Tensor<4>,
    values: Tensor<4>,
}

impl KvCache {
    /// An empty cache for `batch` sequences.
    pub fn new(config: &ModelConfig, batch: usize, capacity: usize, device: &Device, dtype: Dtype) -> Self {
        let shape = [batch, config.num_key_value_heads, capacity, config.head_dim];
        let zeros = || Tensor::zeros(shape, (device, tensor_dtype(dtype)));
        let layers =
            (0..config.num_hidden_layers).map(|_| LayerCache { keys: zeros(), values: zeros() }).collect();
        Self { layers, length: 0, capacity }
    }

    /// Tokens already stored.
    pub fn length(&self) -> usize {
        self.length
    }

    /// Largest number of tokens.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Marks `tokens` more as stored, once every layer has them.
    pub(super) fn advance(&mut self, tokens: usize) {
        self.length += tokens;
    }

    /// Stores a layer's new keys and values; gives back all of them so far.
    ///
    /// # Shapes
    /// `[batch, kv_heads, new, head_dim]` in, `[batch, kv_heads, length + new, head_dim]` out.
    pub(super) fn extend(
        &mut self,
        layer: usize,
        keys: Tensor<4>,
        values: Tensor<4>,
    ) -> (Tensor<4>, Tensor<4>) {
        let [batch, heads, new, head_dim] = keys.dims();
        let (start, end) = (self.length, self.length + new);
        debug_assert!(end <= self.capacity, "the caller checks the capacity");
        let place = [0..batch, 0..heads, start..end, 0..head_dim];
        let slot = &mut self.layers[layer];
        slot.keys.inplace(|all| all.slice_assign(place.clone(), keys));
        slot.values.inplace(|all| all.slice_assign(place, values));
        (slot.keys.clone().narrow(2, 0, end), slot.values.clone().narrow(2, 0, end))
    }

    /// Keeps only these sequences, in this order.
    pub fn keep(&mut self, rows: &Tensor<1, burn::tensor::Int>) {
        for layer in &mut self.layers {
            layer.keys.inplace(|all| all.select(0, rows.clone()));
            layer.values.inplace(|all| all.select(0, rows.clone()));
        }
    }
}
