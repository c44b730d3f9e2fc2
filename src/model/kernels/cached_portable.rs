//! Attention to a cache out of any backend's own operations.

use burn::{
    backend::{Backend, TensorMetadata as _, tensor::FloatTensor},
    tensor::{Shape, Slice, TensorData},
};

use super::{CachedRows, Copied, Place, Segments, portable::HIDDEN};

/// Each row's place with its first token and how many it has.
fn rows_of(rows: &CachedRows) -> impl Iterator<Item = (&Place, usize, usize)> {
    let mut start = 0;
    rows.places.iter().zip(&rows.shape.lengths).map(move |(place, &new)| {
        start += new;
        (place, start - new, new)
    })
}

pub(super) fn append<B: Backend>(
    mut cache: FloatTensor<B>,
    new: FloatTensor<B>,
    rows: &CachedRows,
) -> FloatTensor<B> {
    let shape = &rows.shape;
    for (place, start, count) in rows_of(rows) {
        let part = B::float_slice(new.clone(), &[Slice::from(start..start + count)]);
        let part = B::float_reshape(part, Shape::from([1, count, shape.kv_heads, shape.head_dim]));
        let part = B::float_swap_dims(part, 1, 2);
        let tokens = place.past..place.past + count;
        let at = [Slice::from(place.slot..place.slot + 1), Slice::full(), Slice::from(tokens)];
        cache = B::float_slice_assign(cache, &at, part);
    }
    cache
}

pub(super) fn copy<B: Backend>(mut cache: FloatTensor<B>, copies: &[Copied]) -> FloatTensor<B> {
    for &Copied { from, to, tokens } in copies.iter().filter(|copied| copied.tokens > 0) {
        let at = |slot: usize| [Slice::from(slot..slot + 1), Slice::full(), Slice::from(0..tokens)];
        let part = B::float_slice(cache.clone(), &at(from));
        // A slice may share the cache's memory, which could then not be changed in place.
        let part = B::float_mul_scalar(part, 1.0_f32.into());
        cache = B::float_slice_assign(cache, &at(to), part);
    }
    cache
}

/// `[kv_heads, keys, head_dim]`: what a row of a cache sees, the new tokens included.
fn gather<B: Backend>(cache: &FloatTensor<B>, place: &Place, new: usize, shape: &Segments) -> FloatTensor<B> {
    let spans = place.shared.iter().copied().chain([(place.slot, place.past + new)]);
    let parts: Vec<FloatTensor<B>> = spans
        .filter(|(_, count)| *count > 0)
        .map(|(slot, count)| {
            let at = [Slice::from(slot..slot + 1), Slice::full(), Slice::from(0..count)];
            let part = B::float_slice(cache.clone(), &at);
            B::float_reshape(part, Shape::from([shape.kv_heads, count, shape.head_dim]))
        })
        .collect();
    match <[_; 1]>::try_from(parts) {
        Ok([one]) => one,
        Err(parts) => B::float_cat(parts, 1),
    }
}

/// What each new token sees: `[1, 1, new, keys]`, to add to the scores.
fn mask<B: Backend>(new: usize, keys: usize, shape: &Segments, device: &B::Device) -> FloatTensor<B> {
    let sees = |token: usize, key: usize| {
        let place = keys - new + token;
        key <= place && shape.window.is_none_or(|window| place - key < window)
    };
    let mask = (0..new * keys).map(|at| if sees(at / keys, at % keys) { 0.0 } else { HIDDEN });
    B::float_from_data(TensorData::new(mask.collect::<Vec<f32>>(), [1, 1, new, keys]), device)
}

pub(super) fn attention<B: Backend>(
    queries: FloatTensor<B>,
    [keys, values]: [FloatTensor<B>; 2],
    rows: &CachedRows,
) -> FloatTensor<B> {
    let (shape, device) = (&rows.shape, queries.device());
    let (kv_heads, width, group) = (shape.kv_heads, shape.head_dim, shape.heads / shape.kv_heads);
    let parts = rows_of(rows).map(|(place, start, new)| {
        let [keys, values] = [&keys, &values].map(|cache| gather::<B>(cache, place, new, shape));
        let count = keys.shape()[1];
        let queries = B::float_slice(queries.clone(), &[Slice::from(start..start + new)]);
        let queries = B::float_reshape(queries, Shape::from([new, kv_heads, group, width]));
        // [kv_heads, group, new, head_dim]: one product serves the heads of a group.
        let queries = B::float_swap_dims(B::float_swap_dims(queries, 0, 1), 1, 2);
        let queries = B::float_reshape(queries, Shape::from([kv_heads, group * new, width]));
        let scores = B::float_matmul(queries, B::float_swap_dims(keys, 1, 2));
        let mut scores = B::float_mul_scalar(scores, shape.scale.into());
        if let Some(cap) = shape.softcap {
            let capped = B::float_tanh(B::float_div_scalar(scores, cap.into()));
            scores = B::float_mul_scalar(capped, cap.into());
        }
        let hides = new > 1 || shape.window.is_some_and(|window| window < count);
        if hides {
            let all = B::float_reshape(scores, Shape::from([kv_heads, group, new, count]));
            let all = B::float_add(all, mask::<B>(new, count, shape, &device));
            scores = B::float_reshape(all, Shape::from([kv_heads, group * new, count]));
        }
        let context = B::float_matmul(B::softmax(scores, 2), values);
        let context = B::float_reshape(context, Shape::from([kv_heads, group, new, width]));
        let context = B::float_swap_dims(B::float_swap_dims(context, 1, 2), 0, 1);
        B::float_reshape(context, Shape::from([new, kv_heads * group * width]))
    });
    B::float_cat(parts.collect(), 0)
}
