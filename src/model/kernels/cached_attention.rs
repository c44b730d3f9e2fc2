//! Attention of new tokens to those in a cache, on the CPU. Each row is computed by itself, so that
//! its numbers cannot depend on its neighbours.

use std::ops::Range;

use pulp::Arch;
use rayon::prelude::*;

use super::{
    CachedRows, Copied, Segments,
    attention::{softmax, visible},
    few_queries::{Mixed, Scores},
    matmul::{Threads, View, product_into},
};

/// Queries whose scores are made together.
const BLOCK: usize = 64;

/// The most queries of a row's key head that are multiplied one by one.
const FEW: usize = 16;

/// Where one head of one slot lies in a cache of `[slots, kv_heads, capacity, head_dim]`.
fn head_of(slot: usize, kv_head: usize, capacity: usize, shape: &Segments) -> Range<usize> {
    let size = capacity * shape.head_dim;
    let start = (slot * shape.kv_heads + kv_head) * size;
    start..start + size
}

/// Writes the new tokens' keys or values behind those that their slots hold.
///
/// # Shapes
/// `cache` is `[slots, kv_heads, capacity, head_dim]`, `new` `[tokens, kv_heads * head_dim]`.
pub(super) fn append(cache: &mut [f32], capacity: usize, new: &[f32], rows: &CachedRows) {
    let (shape, width) = (&rows.shape, rows.shape.head_dim);
    let mut tokens = new.chunks_exact(shape.kv_heads * width);
    for (place, count) in rows.places.iter().zip(&shape.lengths) {
        for (at, token) in tokens.by_ref().take(*count).enumerate() {
            for (kv_head, values) in token.chunks_exact(width).enumerate() {
                let start = head_of(place.slot, kv_head, capacity, shape).start + (place.past + at) * width;
                cache[start..start + width].copy_from_slice(values);
            }
        }
    }
}

/// `dims` are `[kv_heads, capacity, head_dim]`.
pub(super) fn copy(cache: &mut [f32], [kv_heads, capacity, width]: [usize; 3], copies: &[Copied]) {
    for &Copied { from, to, tokens } in copies {
        for head in 0..kv_heads {
            let [from, to] = [from, to].map(|slot| (slot * kv_heads + head) * capacity * width);
            cache.copy_within(from..from + tokens * width, to);
        }
    }
}

/// One key head of one row.
struct Task<'r> {
    first_token: usize,
    new: usize,
    kv_head: usize,
    /// The row's keys, oldest first: where their head begins, and how many there are.
    spans: Vec<(usize, usize)>,
    shape: &'r Segments,
}

/// # Shapes
/// `queries` is `[tokens, heads * head_dim]`, keys and values as in [`append`]; the result is shaped
/// like the queries.
pub(super) fn forward(
    rows: &CachedRows,
    capacity: usize,
    [queries, keys, values]: [&[f32]; 3],
    out: &mut [f32],
) {
    let shape = &rows.shape;
    let (width, group) = (shape.head_dim, shape.heads / shape.kv_heads);
    let starts = shape.lengths.iter().scan(0, |start, length| {
        *start += length;
        Some(*start - length)
    });
    let starts: Vec<usize> = starts.collect();
    // Rows in turn for each head: what they share stays near.
    let task = |kv_head: usize, row: usize| {
        let (place, new) = (&rows.places[row], shape.lengths[row]);
        let spans = place.shared.iter().copied().chain([(place.slot, place.past + new)]);
        let spans =
            spans.map(|(slot, count)| (head_of(slot, kv_head, capacity, shape).start, count)).collect();
        Task { first_token: starts[row], new, kv_head, spans, shape }
    };
    let tasks: Vec<Task<'_>> = (0..shape.kv_heads)
        .flat_map(|head| (0..starts.len()).map(move |row| (head, row)))
        .map(|(head, row)| task(head, row))
        .collect();
    let parts: Vec<Vec<f32>> = tasks.par_iter().map(|task| task.run(queries, keys, values)).collect();
    for (task, part) in tasks.iter().zip(&parts) {
        for (at, values) in part.chunks_exact(group * width).enumerate() {
            let start = ((task.first_token + at) * shape.heads + task.kv_head * group) * width;
            out[start..start + group * width].copy_from_slice(values);
        }
    }
}

impl Task<'_> {
    /// `[new, group * head_dim]`.
    fn run(&self, queries: &[f32], keys: &[f32], values: &[f32]) -> Vec<f32> {
        let shape = self.shape;
        let (width, group) = (shape.head_dim, shape.heads / shape.kv_heads);
        let total: usize = self.spans.iter().map(|(_, count)| count).sum();
        let past = total - self.new;
        let mut out = vec![0.0; self.new * group * width];
        let (mut scores, mut slopes) = (Vec::new(), Vec::new());
        // As the row's own size says, whatever is beside it.
        let few = (self.new * group <= FEW).then(Arch::new);
        for from in (0..self.new).step_by(BLOCK) {
            let to = (from + BLOCK).min(self.new);
            let seen = visible(shape, past + from, past + to);
            let columns = seen.len();
            // The heads of a group lie next to each other in each token, and stay so in the result.
            let mut stacked = Vec::with_capacity((to - from) * group * width);
            for token in self.first_token + from..self.first_token + to {
                let start = (token * shape.heads + self.kv_head * group) * width;
                stacked.extend_from_slice(&queries[start..start + group * width]);
            }
            let rows = (to - from) * group;
            let q = View::new(&stacked, rows, width);
            scores.clear();
            scores.resize(rows * columns, 0.0);
            self.each_span(&seen, |place, theirs| {
                let (keys, out) = (&keys[theirs], &mut scores[place.start..]);
                if let Some(arch) = few {
                    let (queries, scale) = (&stacked, shape.scale);
                    return arch.dispatch(Scores { queries, keys, width, scale, out, stride: columns });
                }
                let k = View::new(keys, place.len(), width);
                product_into(out, columns, false, shape.scale, q, k.transposed(), Threads::This);
            });
            for (at, scores) in scores.chunks_exact_mut(group * columns).enumerate() {
                for scores in scores.chunks_exact_mut(columns) {
                    softmax(shape, scores, &mut slopes, past + from + at, seen.clone());
                }
            }
            let weights = View::new(&scores, rows, columns);
            let out = &mut out[from * group * width..to * group * width];
            self.each_span(&seen, |place, theirs| {
                let values = &values[theirs];
                if let Some(arch) = few {
                    let weights = &scores[place.start..];
                    return arch.dispatch(Mixed { weights, stride: columns, values, width, out });
                }
                let v = View::new(values, place.len(), width);
                product_into(out, width, place.start > 0, 1.0, weights.columns(place), v, Threads::This);
            });
        }
        out
    }

    /// Goes through the spans that hold the keys `seen`: which of these columns, and where in the cache.
    fn each_span(&self, seen: &Range<usize>, mut f: impl FnMut(Range<usize>, Range<usize>)) {
        let mut before = 0;
        for &(start, count) in &self.spans {
            let here = seen.start.max(before)..seen.end.min(before + count);
            if !here.is_empty() {
                let at = |key: usize| start + (key - before) * self.shape.head_dim;
                f(here.start - seen.start..here.end - seen.start, at(here.start)..at(here.end));
            }
            before += count;
        }
    }
}
