//! The same operations out of any backend's own: for devices without kernels of ours.

use burn::{
    backend::{Backend, TensorMetadata as _, tensor::FloatTensor},
    tensor::{Shape, Slice, TensorData},
};

use super::Segments;

/// Added to scores that must not be seen; far below any score, yet finite.
const HIDDEN: f32 = -1e9;

/// One row's queries, keys and values, the query heads of a key head stacked along the sequence.
///
/// # Shapes
/// `[kv_heads, group * length, head_dim]` and twice `[kv_heads, length, head_dim]`.
struct Row<B: Backend> {
    queries: FloatTensor<B>,
    keys: FloatTensor<B>,
    values: FloatTensor<B>,
}

/// Rows `start..start + length` of `[tokens, heads * head_dim]` as `[kv_heads, group * length, head_dim]`.
fn stacked<B: Backend>(
    all: &FloatTensor<B>,
    start: usize,
    length: usize,
    group: usize,
    shape: &Segments,
) -> FloatTensor<B> {
    let rows = B::float_slice(all.clone(), &[Slice::from(start..start + length)]);
    let heads = B::float_reshape(rows, Shape::from([length, shape.kv_heads, group, shape.head_dim]));
    // [kv_heads, group, length, head_dim]
    let heads = B::float_swap_dims(B::float_swap_dims(heads, 0, 1), 1, 2);
    B::float_reshape(heads, Shape::from([shape.kv_heads, group * length, shape.head_dim]))
}

/// The inverse of [`stacked`].
fn unstacked<B: Backend>(
    part: FloatTensor<B>,
    length: usize,
    group: usize,
    shape: &Segments,
) -> FloatTensor<B> {
    let heads = B::float_reshape(part, Shape::from([shape.kv_heads, group, length, shape.head_dim]));
    let heads = B::float_swap_dims(B::float_swap_dims(heads, 1, 2), 0, 1);
    B::float_reshape(heads, Shape::from([length, shape.kv_heads * group * shape.head_dim]))
}

impl<B: Backend> Row<B> {
    fn new(
        [queries, keys, values]: &[FloatTensor<B>; 3],
        start: usize,
        length: usize,
        shape: &Segments,
    ) -> Self {
        let group = shape.heads / shape.kv_heads;
        Self {
            queries: stacked::<B>(queries, start, length, group, shape),
            keys: stacked::<B>(keys, start, length, 1, shape),
            values: stacked::<B>(values, start, length, 1, shape),
        }
    }

    /// Probabilities `[kv_heads, group * length, length]`, and the slope of the soft cap.
    fn weights(&self, length: usize, shape: &Segments) -> (FloatTensor<B>, Option<FloatTensor<B>>) {
        let group = shape.heads / shape.kv_heads;
        let scores = B::float_matmul(self.queries.clone(), B::float_swap_dims(self.keys.clone(), 1, 2));
        let scores = B::float_mul_scalar(scores, shape.scale.into());
        let (scores, slope) = match shape.softcap {
            Some(cap) => {
                let capped = B::float_tanh(B::float_div_scalar(scores, cap.into()));
                let square = B::float_mul(capped.clone(), capped.clone());
                let slope = B::float_add_scalar(B::float_neg(square), 1.0_f32.into());
                (B::float_mul_scalar(capped, cap.into()), Some(slope))
            }
            None => (scores, None),
        };
        let sees = |query: usize, key: usize| key <= query && shape.window.is_none_or(|w| query - key < w);
        let mask: Vec<f32> = (0..group * length * length)
            .map(|at| if sees(at / length % length, at % length) { 0.0 } else { HIDDEN })
            .collect();
        let mask = B::float_from_data(TensorData::new(mask, [1, group * length, length]), &scores.device());
        (B::softmax(B::float_add(scores, mask), 2), slope)
    }
}

fn each_row<B: Backend>(
    inputs: &[FloatTensor<B>; 3],
    shape: &Segments,
    mut f: impl FnMut(Row<B>, usize, usize),
) {
    let mut start = 0;
    for &length in &shape.lengths {
        f(Row::new(inputs, start, length, shape), start, length);
        start += length;
    }
}

pub(super) fn attention_forward<B: Backend>(inputs: [FloatTensor<B>; 3], shape: &Segments) -> FloatTensor<B> {
    let group = shape.heads / shape.kv_heads;
    let mut parts = Vec::with_capacity(shape.lengths.len());
    each_row::<B>(&inputs, shape, |row, _, length| {
        let (weights, _) = row.weights(length, shape);
        parts.push(unstacked::<B>(B::float_matmul(weights, row.values), length, group, shape));
    });
    B::float_cat(parts, 0)
}

pub(super) fn attention_backward<B: Backend>(
    inputs: [FloatTensor<B>; 3],
    grad: FloatTensor<B>,
    shape: &Segments,
) -> [FloatTensor<B>; 3] {
    let group = shape.heads / shape.kv_heads;
    let mut parts = [const { Vec::new() }; 3];
    each_row::<B>(&inputs, shape, |row, start, length| {
        let grad = stacked::<B>(&grad, start, length, group, shape);
        let (weights, slope) = row.weights(length, shape);
        let values = B::float_matmul(B::float_swap_dims(weights.clone(), 1, 2), grad.clone());
        let errors = B::float_matmul(grad, B::float_swap_dims(row.values, 1, 2));
        let mean = B::float_sum_dim(B::float_mul(weights.clone(), errors.clone()), 2);
        let errors = B::float_mul(weights, B::float_sub(errors, mean));
        let errors = match slope {
            Some(slope) => B::float_mul(errors, slope),
            None => errors,
        };
        let errors = B::float_mul_scalar(errors, shape.scale.into());
        let queries = B::float_matmul(errors.clone(), row.keys);
        let keys = B::float_matmul(B::float_swap_dims(errors, 1, 2), row.queries);
        for (all, (part, group)) in parts.iter_mut().zip([(queries, group), (keys, 1), (values, 1)]) {
            all.push(unstacked::<B>(part, length, group, shape));
        }
    });
    parts.map(|parts| B::float_cat(parts, 0))
}

pub(super) fn swiglu_forward<B: Backend>([gate, up]: [FloatTensor<B>; 2]) -> FloatTensor<B> {
    let silu = B::float_mul(gate.clone(), B::sigmoid(gate));
    B::float_mul(silu, up)
}

pub(super) fn swiglu_backward<B: Backend>(
    [gate, up]: [FloatTensor<B>; 2],
    grad: FloatTensor<B>,
) -> [FloatTensor<B>; 2] {
    let s = B::sigmoid(gate.clone());
    let silu = B::float_mul(gate.clone(), s.clone());
    // d silu(g) / dg = s (1 + g (1 - s)) = s + silu(g) (1 - s)
    let one_minus = B::float_add_scalar(B::float_neg(s.clone()), 1.0_f32.into());
    let slope = B::float_add(s, B::float_mul(silu.clone(), one_minus));
    let gate_grad = B::float_mul(B::float_mul(grad.clone(), up), slope);
    [gate_grad, B::float_mul(grad, silu)]
}
