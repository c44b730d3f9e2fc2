//! Attention to a cache out of any backend's own operations.

use burn::{
    backend::{Backend, TensorMetadata as _, tensor::FloatTensor},
    tensor::{Shape, Slice},
};

use super::{
    CachedRows, Copied, Place, Segments,
    portable::{mask, stacked, unstacked},
};

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

pub(super) fn attention<B: Backend>(
    queries: FloatTensor<B>,
    [keys, values]: [FloatTensor<B>; 2],
    rows: &CachedRows,
) -> FloatTensor<B> {
    let (shape, device) = (&rows.shape, queries.device());
    let (kv_heads, group) = (shape.kv_heads, shape.heads / shape.kv_heads);
    let parts = rows_of(rows).map(|(place, start, new)| {
        let [keys, values] = [&keys, &values].map(|cache| gather::<B>(cache, place, new, shape));
        let count = keys.shape()[1];
        let queries = stacked::<B>(&queries, start, new, group, shape);
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
        unstacked::<B>(B::float_matmul(B::softmax(scores, 2), values), new, group, shape)
    });
    B::float_cat(parts.collect(), 0)
}
