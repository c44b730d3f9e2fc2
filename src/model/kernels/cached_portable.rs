//! Attention to a cache out of any backend's own operations.

use std::ops::Range;

use burn::{
    backend::{
        Backend, TensorMetadata as _,
        tensor::{FloatTensor, IntTensor},
    },
    tensor::{Shape, Slice, TensorData},
};

use super::{CachedRows, Copied, Place, Segments, attention::visible, portable::HIDDEN};

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

/// Scores of one head that are made for nothing at most, beside a quarter of those that are wanted: launches of
/// its own for a row would take longer.
const FOR_NOTHING: usize = 1 << 16;

/// The most scores of one head that several rows have together. Bounds memory.
const MOST: usize = 1 << 20;

/// The most scores of one head at a time, of a pass over so many tokens, of which one row has at most `new`
/// and no row has more keys than `keys`.
pub(crate) fn most_scores(tokens: usize, new: usize, keys: usize) -> usize {
    tokens.saturating_mul(keys).min(MOST).max(new.saturating_mul(keys))
}

/// New tokens of a row, and its keys with those.
type Size = (usize, usize);

/// Neighbouring rows that are computed together: as long as few scores are only there because all rows
/// are filled up to the longest.
fn groups(rows: &[Size]) -> Vec<Range<usize>> {
    let mut groups = Vec::new();
    let (mut start, mut longest, mut wanted) = (0, (0, 0), 0);
    for (row, &(new, keys)) in rows.iter().enumerate() {
        let all = (longest.0.max(new), longest.1.max(keys));
        let filled = (row + 1 - start) * all.0 * all.1;
        wanted += new * keys;
        if row > start && (filled > MOST || filled - wanted > wanted / 4 + FOR_NOTHING) {
            groups.push(start..row);
            (start, longest, wanted) = (row, (new, keys), new * keys);
        } else {
            longest = all;
        }
    }
    groups.push(start..rows.len());
    groups
}

/// Rows that are computed together, and all that depends on where they lie alone.
struct Together<B: Backend> {
    /// Their tokens among those of the pass.
    tokens: Range<usize>,
    rows: usize,
    /// Of the row that has most.
    new: usize,
    keys: usize,
    /// Each row's tokens filled up, and of those the row's own; none where nothing is filled up.
    filled: Option<[IntTensor<B>; 2]>,
    /// Row by row and head by head, where the keys are among all that the cache holds.
    places: IntTensor<B>,
    /// `[rows, 1, 1, new, keys]`, to add to the scores; none where every token sees all.
    mask: Option<FloatTensor<B>>,
}

impl<B: Backend> Together<B> {
    fn all(rows: &CachedRows, capacity: usize, device: &B::Device) -> Vec<Self> {
        let keys = |place: &Place| place.shared.iter().map(|(_, count)| count).sum::<usize>() + place.past;
        let sizes = rows.places.iter().zip(&rows.shape.lengths).map(|(place, &new)| (new, keys(place) + new));
        let sizes: Vec<Size> = sizes.collect();
        let mut start = 0;
        let each = groups(&sizes).into_iter().map(|group| {
            let sizes = &sizes[group.clone()];
            let count: usize = sizes.iter().map(|(new, _)| new).sum();
            start += count;
            Self::new(&rows.places[group], sizes, start - count, capacity, &rows.shape, device)
        });
        each.collect()
    }

    fn new(
        places: &[Place],
        sizes: &[Size],
        start: usize,
        capacity: usize,
        shape: &Segments,
        device: &B::Device,
    ) -> Self {
        let count: usize = sizes.iter().map(|(new, _)| new).sum();
        let longest = |of: fn(&Size) -> usize| sizes.iter().map(of).max().unwrap_or(0);
        let (rows, new, keys) = (sizes.len(), longest(|size| size.0), longest(|size| size.1));
        let ints = |values: Vec<i64>, shape: Shape| B::int_from_data(TensorData::new(values, shape), device);
        let column = |values: Vec<i64>| {
            let length = values.len();
            ints(values, Shape::from([length]))
        };
        let filled = (count < rows * new).then(|| {
            let (mut fill, mut own, mut first) = (Vec::new(), Vec::new(), 0);
            for (row, &(length, _)) in sizes.iter().enumerate() {
                fill.extend((0..new).map(|at| (first + at.min(length - 1)) as i64));
                own.extend((0..length).map(|at| (row * new + at) as i64));
                first += length;
            }
            [column(fill), column(own)]
        });
        // What fills up is the row's last key, which is as finite as the row itself.
        let mut firsts = Vec::with_capacity(rows * keys);
        for (place, &(length, total)) in places.iter().zip(sizes) {
            let spans = place.shared.iter().copied().chain([(place.slot, place.past + length)]);
            let from = |slot: usize| (slot * shape.kv_heads * capacity) as i64;
            firsts.extend(spans.flat_map(|(slot, count)| (from(slot)..).take(count)));
            let last = firsts.last().copied().unwrap_or_default();
            firsts.extend(std::iter::repeat_n(last, keys - total));
        }
        let heads: Vec<i64> = (0..shape.kv_heads).map(|head| (head * capacity) as i64).collect();
        let at = B::int_add(
            ints(firsts, Shape::from([rows, 1, keys])),
            ints(heads, Shape::from([1, shape.kv_heads, 1])),
        );
        let sees_all = |&(new, total): &Size| {
            new == 1 && total == keys && shape.window.is_none_or(|window| total <= window)
        };
        let mask = (!sizes.iter().all(sees_all)).then(|| {
            let mut mask = vec![HIDDEN; rows * new * keys];
            for (row, &(length, total)) in sizes.iter().enumerate() {
                for at in 0..new {
                    let place = total - length + at.min(length - 1);
                    let start = (row * new + at) * keys;
                    mask[start..][visible(shape, place, place + 1)].fill(0.0);
                }
            }
            B::float_from_data(TensorData::new(mask, [rows, 1, 1, new, keys]), device)
        });
        Self {
            tokens: start..start + count,
            rows,
            new,
            keys,
            filled,
            places: B::int_reshape(at, Shape::from([rows * shape.kv_heads * keys])),
            mask,
        }
    }

    /// # Shapes
    /// `queries` are those of all rows of the pass, keys and values `[slots * kv_heads * capacity,
    /// head_dim]`; the result is `[tokens, heads * head_dim]`.
    fn attend(
        &self,
        queries: &FloatTensor<B>,
        cache: [&FloatTensor<B>; 2],
        shape: &Segments,
    ) -> FloatTensor<B> {
        let &Self { rows, new, keys, .. } = self;
        let Segments { heads, kv_heads, head_dim, .. } = *shape;
        let group = heads / kv_heads;
        let queries = B::float_slice(queries.clone(), &[Slice::from(self.tokens.clone())]);
        let queries = match &self.filled {
            Some([fill, _]) => B::float_select(queries, 0, fill.clone()),
            None => queries,
        };
        let queries = B::float_reshape(queries, Shape::from([rows, new, kv_heads, group, head_dim]));
        let queries = B::float_permute(queries, &[0, 2, 3, 1, 4]);
        let queries = B::float_reshape(queries, Shape::from([rows, kv_heads, group * new, head_dim]));
        let [keys_seen, values] = cache.map(|all| {
            let seen = B::float_select(all.clone(), 0, self.places.clone());
            B::float_reshape(seen, Shape::from([rows, kv_heads, keys, head_dim]))
        });
        let scores = B::float_matmul(queries, B::float_swap_dims(keys_seen, 2, 3));
        let mut scores = B::float_mul_scalar(scores, shape.scale.into());
        if let Some(cap) = shape.softcap {
            let capped = B::float_tanh(B::float_div_scalar(scores, cap.into()));
            scores = B::float_mul_scalar(capped, cap.into());
        }
        if let Some(mask) = &self.mask {
            let all = B::float_reshape(scores, Shape::from([rows, kv_heads, group, new, keys]));
            let all = B::float_add(all, mask.clone());
            scores = B::float_reshape(all, Shape::from([rows, kv_heads, group * new, keys]));
        }
        let context = B::float_matmul(B::softmax(scores, 3), values);
        let context = B::float_reshape(context, Shape::from([rows, kv_heads, group, new, head_dim]));
        let context = B::float_permute(context, &[0, 3, 1, 2, 4]);
        let context = B::float_reshape(context, Shape::from([rows * new, heads * head_dim]));
        match &self.filled {
            Some([_, own]) => B::float_select(context, 0, own.clone()),
            None => context,
        }
    }
}

pub(super) fn attention<B: Backend>(
    queries: FloatTensor<B>,
    cache: [FloatTensor<B>; 2],
    rows: &CachedRows,
) -> FloatTensor<B> {
    let (shape, capacity) = (&rows.shape, cache[0].shape()[2]);
    let together = rows.places.once(shape.window, || Together::<B>::all(rows, capacity, &queries.device()));
    let cache = cache.map(|all| {
        let lines = all.shape().num_elements() / shape.head_dim;
        B::float_reshape(all, Shape::from([lines, shape.head_dim]))
    });
    let parts = together.iter().map(|part| part.attend(&queries, cache.each_ref(), shape));
    let parts: Vec<FloatTensor<B>> = parts.collect();
    match <[_; 1]>::try_from(parts) {
        Ok([one]) => one,
        Err(parts) => B::float_cat(parts, 0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_about_a_size_are_computed_together() {
        assert_eq!(groups(&[(1, 900); 16]).len(), 1);
        // Growing rows of all lengths, then a new prompt, then short choices.
        let rows = [vec![(1, 20), (1, 4000)], vec![(700, 700)], vec![(3, 40), (9, 46)]].concat();
        assert_eq!(groups(&rows), [0..2, 2..3, 3..5]);
        assert_eq!(groups(&[(2048, 2048); 3]), [0..1, 1..2, 2..3]);
        assert_eq!(groups(&[(512, 512); 6]), [0..4, 4..6]);
    }
}
