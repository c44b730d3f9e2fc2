//! Keys and values of the tokens already seen, so that each token is computed once.

use burn::tensor::{DType, Device, Tensor};

use super::{
    ModelConfig,
    kernels::{self, CachedRows, Copied, Place},
};

/// Room for some sequences, allocated once. A slot holds the tokens of one of them; it may go on from
/// the tokens of another slot, which are then not stored again.
///
/// In f32 whatever the model's number format, as attention computes.
#[derive(Debug)]
pub struct KvCache {
    layers: Vec<LayerCache>,
    slots: Vec<Slot>,
    capacity: usize,
}

#[derive(Debug)]
struct LayerCache {
    /// `[slots, kv_heads, capacity, head_dim]`.
    keys: Tensor<4>,
    values: Tensor<4>,
}

#[derive(Debug, Clone, Default)]
struct Slot {
    /// Slots whose tokens come before its own, and how many of each.
    shared: Vec<(usize, usize)>,
    /// Tokens of its own.
    own: usize,
}

impl KvCache {
    /// Empty slots with room for `capacity` tokens each.
    pub fn new(config: &ModelConfig, slots: usize, capacity: usize, device: &Device) -> Self {
        let shape = [slots, config.num_key_value_heads, capacity, config.head_dim];
        let zeros = || Tensor::zeros(shape, (device, DType::F32));
        let layers =
            (0..config.num_hidden_layers).map(|_| LayerCache { keys: zeros(), values: zeros() }).collect();
        Self { layers, slots: vec![Slot::default(); slots], capacity }
    }

    /// Tokens of a slot's sequence, shared ones included.
    pub fn length(&self, slot: usize) -> usize {
        let Slot { shared, own } = &self.slots[slot];
        shared.iter().map(|(_, count)| count).sum::<usize>() + own
    }

    /// How many sequences there is room for.
    pub fn slots(&self) -> usize {
        self.slots.len()
    }

    /// Begins a new sequence in a slot.
    pub fn clear(&mut self, slot: usize) {
        self.slots[slot] = Slot::default();
    }

    /// Begins a new sequence in a slot with all tokens of another slot, which must stay as it is for
    /// as long as this sequence is read.
    pub fn fork(&mut self, from: usize, slot: usize) {
        let mut shared = self.slots[from].shared.clone();
        shared.push((from, self.slots[from].own));
        self.slots[slot] = Slot { shared, own: 0 };
    }

    /// Makes slots hold what others do: `(from, to)`, no slot being both.
    pub fn copy(&mut self, pairs: &[(usize, usize)]) {
        let copies: Vec<Copied> =
            pairs.iter().map(|&(from, to)| Copied { from, to, tokens: self.slots[from].own }).collect();
        for layer in &mut self.layers {
            for all in [&mut layer.keys, &mut layer.values] {
                all.inplace(|all| kernels::copy(all, copies.clone()));
            }
        }
        for &(from, to) in pairs {
            self.slots[to] = self.slots[from].clone();
        }
    }

    pub(super) fn place(&self, slot: usize) -> Place {
        let Slot { shared, own } = &self.slots[slot];
        Place { shared: shared.clone(), slot, past: *own }
    }

    /// Marks tokens as stored, once every layer has them.
    pub(super) fn advance(&mut self, slot: usize, tokens: usize) {
        self.slots[slot].own += tokens;
    }

    /// Stores a layer's new keys and values; gives back all that there are.
    ///
    /// # Shapes
    /// `[tokens, kv_heads * head_dim]` in, `[slots, kv_heads, capacity, head_dim]` out.
    pub(super) fn extend(
        &mut self,
        layer: usize,
        keys: Tensor<2>,
        values: Tensor<2>,
        rows: &CachedRows,
    ) -> (Tensor<4>, Tensor<4>) {
        let new = rows.places.iter().zip(&rows.shape.lengths);
        assert!(
            new.into_iter().all(|(place, count)| place.past + count <= self.capacity),
            "the caller checks the capacity"
        );
        let layer = &mut self.layers[layer];
        layer.keys.inplace(|all| kernels::append(all, keys, rows.clone()));
        layer.values.inplace(|all| kernels::append(all, values, rows.clone()));
        (layer.keys.clone(), layer.values.clone())
    }
}
