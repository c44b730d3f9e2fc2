//! Causal attention inside segments of one long row of tokens, on the CPU: scores are made block by
//! block and made again in the backward pass, never kept (arXiv 2205.14135).

use pulp::Arch;
use rayon::prelude::*;

use super::{
    Segments,
    exp::exp,
    matmul::{Threads, View, product},
};

/// Queries whose scores are made together.
const BLOCK: usize = 64;

/// What one thread works on: the queries of one key head in one segment.
struct Task {
    start: usize,
    length: usize,
    kv_head: usize,
}

/// The queries, keys or values of one head in one segment, rows one after another.
fn gather(all: &[f32], task: &Task, head: usize, heads: usize, width: usize) -> Vec<f32> {
    let mut out = Vec::with_capacity(task.length * width);
    for token in task.start..task.start + task.length {
        let at = (token * heads + head) * width;
        out.extend_from_slice(&all[at..at + width]);
    }
    out
}

/// Puts the heads of one task where they belong in `[tokens, heads * width]`.
fn scatter(out: &mut [f32], part: &[f32], task: &Task, head: usize, heads: usize, width: usize) {
    for (row, values) in part.chunks_exact(width).enumerate() {
        let at = ((task.start + row) * heads + head) * width;
        out[at..at + width].copy_from_slice(values);
    }
}

fn tasks(shape: &Segments) -> Vec<Task> {
    let segments = shape.lengths.iter().scan(0, |start, &length| {
        *start += length;
        Some((*start - length, length))
    });
    let kv_heads = shape.kv_heads;
    segments
        .flat_map(|(start, length)| (0..kv_heads).map(move |kv_head| Task { start, length, kv_head }))
        .collect()
}

/// The keys that queries `from..to` of a segment see between them.
pub(super) fn visible(shape: &Segments, from: usize, to: usize) -> std::ops::Range<usize> {
    let first = shape.window.map_or(0, |window| (from + 1).saturating_sub(window));
    first..to
}

/// Turns scores into probabilities, row by row, the first of query `from`, and gives the derivative of the soft cap where
/// there is one: `cap * tanh(s / cap)` has the slope `1 - (s' / cap)^2`.
pub(super) fn softmax(
    shape: &Segments,
    scores: &mut [f32],
    slopes: &mut Vec<f32>,
    from: usize,
    keys: std::ops::Range<usize>,
) {
    if let Some(cap) = shape.softcap {
        slopes.clear();
        slopes.extend(scores.iter_mut().map(|score| {
            let capped = (*score / cap).tanh();
            *score = cap * capped;
            1.0 - capped * capped
        }));
    }
    let arch = Arch::new();
    for (row, scores) in scores.chunks_exact_mut(keys.len()).enumerate() {
        let query = from + row;
        let seen = visible(shape, query, query + 1);
        let (hidden_before, end) = (seen.start - keys.start, seen.end - keys.start);
        scores[..hidden_before].fill(0.0);
        scores[end..].fill(0.0);
        let scores = &mut scores[hidden_before..end];
        arch.dispatch(
            #[inline(always)]
            || {
                // Greatest first, against overflow; NaN must survive, so no `f32::max` here.
                let most = scores.iter().fold(f32::NEG_INFINITY, |a, &b| if b > a { b } else { a });
                let mut sums = [0_f32; 16];
                let (chunks, rest) = scores.as_chunks_mut::<16>();
                for chunk in chunks {
                    for (score, sum) in chunk.iter_mut().zip(&mut sums) {
                        *score = exp(*score - most);
                        *sum += *score;
                    }
                }
                for (score, sum) in rest.iter_mut().zip(&mut sums) {
                    *score = exp(*score - most);
                    *sum += *score;
                }
                let inverse = 1.0 / sums.iter().sum::<f32>();
                scores.iter_mut().for_each(|score| *score *= inverse);
            },
        );
    }
}

/// # Shapes
/// `queries` is `[tokens, heads * head_dim]`, keys and values `[tokens, kv_heads * head_dim]`; the
/// result is shaped like the queries.
pub(super) fn forward(shape: &Segments, [queries, keys, values]: [&[f32]; 3], out: &mut [f32]) {
    let (width, group) = (shape.head_dim, shape.heads / shape.kv_heads);
    let tasks = tasks(shape);
    let parts: Vec<Vec<Vec<f32>>> = tasks
        .par_iter()
        .map(|task| {
            let k = gather(keys, task, task.kv_head, shape.kv_heads, width);
            let v = gather(values, task, task.kv_head, shape.kv_heads, width);
            let mut scores = vec![0.0; BLOCK.min(task.length) * task.length];
            let mut slopes = Vec::new();
            let head = |member| {
                let q = gather(queries, task, task.kv_head * group + member, shape.heads, width);
                let mut context = vec![0.0; task.length * width];
                for from in (0..task.length).step_by(BLOCK) {
                    let to = (from + BLOCK).min(task.length);
                    let seen = visible(shape, from, to);
                    let (rows, columns) = (to - from, seen.len());
                    let scores = &mut scores[..rows * columns];
                    let q = View::new(&q[from * width..to * width], rows, width);
                    let theirs = seen.start * width..seen.end * width;
                    let k = View::new(&k[theirs.clone()], columns, width);
                    let v = View::new(&v[theirs], columns, width);
                    product(scores, false, shape.scale, q, k.transposed(), Threads::This);
                    softmax(shape, scores, &mut slopes, from, seen);
                    let out = &mut context[from * width..to * width];
                    product(out, false, 1.0, View::new(scores, rows, columns), v, Threads::This);
                }
                context
            };
            (0..group).map(head).collect()
        })
        .collect();
    for (task, part) in tasks.iter().zip(&parts) {
        for (member, part) in part.iter().enumerate() {
            scatter(out, part, task, task.kv_head * group + member, shape.heads, width);
        }
    }
}

/// Gradients of queries, keys and values, in their shapes.
pub(super) fn backward(shape: &Segments, [queries, keys, values, grad]: [&[f32]; 4], out: [&mut [f32]; 3]) {
    let (width, group) = (shape.head_dim, shape.heads / shape.kv_heads);
    let tasks = tasks(shape);
    type Parts = (Vec<Vec<f32>>, Vec<f32>, Vec<f32>);
    let parts: Vec<Parts> = tasks
        .par_iter()
        .map(|task| {
            let k = gather(keys, task, task.kv_head, shape.kv_heads, width);
            let v = gather(values, task, task.kv_head, shape.kv_heads, width);
            let (mut k_grad, mut v_grad) = (vec![0.0; k.len()], vec![0.0; v.len()]);
            let block = BLOCK.min(task.length) * task.length;
            let (mut weights, mut errors) = (vec![0.0; block], vec![0.0; block]);
            let mut slopes = Vec::new();
            let mut q_grads = Vec::with_capacity(group);
            for member in 0..group {
                let head = task.kv_head * group + member;
                let q = gather(queries, task, head, shape.heads, width);
                let out_grad = gather(grad, task, head, shape.heads, width);
                let mut q_grad = vec![0.0; q.len()];
                for from in (0..task.length).step_by(BLOCK) {
                    let to = (from + BLOCK).min(task.length);
                    let seen = visible(shape, from, to);
                    let (rows, columns) = (to - from, seen.len());
                    let (weights, errors) = (&mut weights[..rows * columns], &mut errors[..rows * columns]);
                    let (own, theirs) = (from * width..to * width, seen.start * width..seen.end * width);
                    let q = View::new(&q[own.clone()], rows, width);
                    let out_grad = View::new(&out_grad[own.clone()], rows, width);
                    let k = View::new(&k[theirs.clone()], columns, width);
                    let v = View::new(&v[theirs.clone()], columns, width);
                    product(weights, false, shape.scale, q, k.transposed(), Threads::This);
                    softmax(shape, weights, &mut slopes, from, seen);
                    product(errors, false, 1.0, out_grad, v.transposed(), Threads::This);
                    let weights_view = View::new(weights, rows, columns);
                    product(
                        &mut v_grad[theirs.clone()],
                        true,
                        1.0,
                        weights_view.transposed(),
                        out_grad,
                        Threads::This,
                    );
                    // The derivative of the softmax: w * (e - sum(w * e)).
                    for (weights, errors) in
                        weights.chunks_exact(columns).zip(errors.chunks_exact_mut(columns))
                    {
                        let mean: f32 = weights.iter().zip(&*errors).map(|(w, e)| w * e).sum();
                        weights.iter().zip(errors).for_each(|(w, e)| *e = w * (*e - mean));
                    }
                    if shape.softcap.is_some() {
                        errors.iter_mut().zip(&slopes).for_each(|(e, slope)| *e *= slope);
                    }
                    let errors = View::new(errors, rows, columns);
                    product(&mut q_grad[own], false, shape.scale, errors, k, Threads::This);
                    product(&mut k_grad[theirs], true, shape.scale, errors.transposed(), q, Threads::This);
                }
                q_grads.push(q_grad);
            }
            (q_grads, k_grad, v_grad)
        })
        .collect();
    for (task, (q, k, v)) in tasks.iter().zip(&parts) {
        for (member, part) in q.iter().enumerate() {
            scatter(out[0], part, task, task.kv_head * group + member, shape.heads, width);
        }
        scatter(out[1], k, task, task.kv_head, shape.kv_heads, width);
        scatter(out[2], v, task, task.kv_head, shape.kv_heads, width);
    }
}
