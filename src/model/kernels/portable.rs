//! The same operations out of any backend's own: for devices without kernels of ours.

use std::collections::BTreeMap;

use burn::{
    backend::{Backend, TensorMetadata as _, tensor::FloatTensor},
    tensor::{DType, IndexingUpdateOp, Shape, Slice, TensorData},
};

use super::{Segments, Turn, Update};

/// Added to scores that must not be seen; far below any score, yet finite.
pub(super) const HIDDEN: f32 = -1e9;

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
    fn weights(
        &self,
        mask: FloatTensor<B>,
        length: usize,
        shape: &Segments,
    ) -> (FloatTensor<B>, Option<FloatTensor<B>>) {
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
        let scores = B::float_reshape(scores, Shape::from([shape.kv_heads, group, length, length]));
        let weights = B::softmax(B::float_add(scores, mask), 3);
        (B::float_reshape(weights, Shape::from([shape.kv_heads, group * length, length])), slope)
    }
}

/// What each token of a row sees: `[1, 1, length, length]`, to add to the scores.
fn mask<B: Backend>(length: usize, shape: &Segments, device: &B::Device) -> FloatTensor<B> {
    let sees =
        |query: usize, key: usize| key <= query && shape.window.is_none_or(|window| query - key < window);
    let mask = (0..length * length).map(|at| if sees(at / length, at % length) { 0.0 } else { HIDDEN });
    B::float_from_data(TensorData::new(mask.collect::<Vec<f32>>(), [1, 1, length, length]), device)
}

fn each_row<B: Backend>(
    inputs: &[FloatTensor<B>; 3],
    shape: &Segments,
    mut f: impl FnMut(Row<B>, FloatTensor<B>, usize, usize),
) {
    let mut start = 0;
    let (mut masks, device) = (BTreeMap::new(), inputs[0].device());
    for &length in &shape.lengths {
        let mask = masks.entry(length).or_insert_with(|| mask::<B>(length, shape, &device)).clone();
        f(Row::new(inputs, start, length, shape), mask, start, length);
        start += length;
    }
}

pub(super) fn attention_forward<B: Backend>(inputs: [FloatTensor<B>; 3], shape: &Segments) -> FloatTensor<B> {
    let group = shape.heads / shape.kv_heads;
    let mut parts = Vec::with_capacity(shape.lengths.len());
    each_row::<B>(&inputs, shape, |row, mask, _, length| {
        let (weights, _) = row.weights(mask, length, shape);
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
    each_row::<B>(&inputs, shape, |row, mask, start, length| {
        let grad = stacked::<B>(&grad, start, length, group, shape);
        let (weights, slope) = row.weights(mask, length, shape);
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

fn cast<B: Backend>(tensor: FloatTensor<B>, dtype: DType) -> FloatTensor<B> {
    if tensor.dtype() == dtype { tensor } else { B::float_cast(tensor, dtype.into()) }
}

/// `x W^T` in the number format of x.
pub(super) fn linear_forward<B: Backend>(x: FloatTensor<B>, weight: FloatTensor<B>) -> FloatTensor<B> {
    let weight = cast::<B>(weight, x.dtype());
    B::float_matmul(x, B::float_transpose(weight))
}

/// `g W` in the number format of g.
pub(super) fn linear_backward<B: Backend>(weight: FloatTensor<B>, grad: FloatTensor<B>) -> FloatTensor<B> {
    let weight = cast::<B>(weight, grad.dtype());
    B::float_matmul(grad, weight)
}

/// Some of the values dropped, as the update says.
fn dropped<B: Backend>(x: FloatTensor<B>, update: &Update) -> FloatTensor<B> {
    let Some(dropout) = &update.dropout else { return x };
    let (shape, device) = (x.shape(), x.device());
    let factors = TensorData::new(dropout.factors(shape.num_elements()), shape);
    let factors = cast::<B>(B::float_from_data(factors, &device), x.dtype());
    B::float_mul(x, factors)
}

/// The adapter's products are made in its own number format, the base's in the input's.
pub(super) fn adapted_forward<B: Backend>(
    [x, weight, a, b]: [FloatTensor<B>; 4],
    update: &Update,
) -> [FloatTensor<B>; 2] {
    let (base, adapter) = (x.dtype(), a.dtype());
    let into = dropped::<B>(cast::<B>(x.clone(), adapter), update);
    let low = B::float_matmul(into, B::float_transpose(a));
    let added = B::float_mul_scalar(B::float_matmul(low.clone(), B::float_transpose(b)), update.scale.into());
    [B::float_add(linear_forward::<B>(x, weight), cast::<B>(added, base)), low]
}

pub(super) fn adapted_backward<B: Backend>(
    [grad, x, low, weight, a, b]: [FloatTensor<B>; 6],
    update: &Update,
) -> [FloatTensor<B>; 3] {
    let (base, adapter) = (x.dtype(), a.dtype());
    let scaled = B::float_mul_scalar(cast::<B>(grad.clone(), adapter), update.scale.into());
    let low_grad = B::float_matmul(scaled.clone(), b);
    let into_grad = dropped::<B>(B::float_matmul(low_grad.clone(), a), update);
    [
        B::float_add(linear_backward::<B>(weight, grad), cast::<B>(into_grad, base)),
        B::float_matmul(B::float_transpose(low_grad), dropped::<B>(cast::<B>(x, adapter), update)),
        B::float_matmul(B::float_transpose(scaled), low),
    ]
}

/// `1 / sqrt(mean(x^2) + eps)` of each row: `[rows, 1]`.
fn row_scale<B: Backend>(x: FloatTensor<B>, eps: f32) -> FloatTensor<B> {
    let mean = B::float_mean_dim(B::float_mul(x.clone(), x), 1);
    B::float_recip(B::float_sqrt(B::float_add_scalar(mean, eps.into())))
}

/// `[features]` as `[1, features]`.
fn as_row<B: Backend>(weight: FloatTensor<B>) -> FloatTensor<B> {
    let features = weight.shape()[0];
    B::float_reshape(weight, Shape::from([1, features]))
}

pub(super) fn rms_norm_forward<B: Backend>(
    x: FloatTensor<B>,
    weight: FloatTensor<B>,
    eps: f32,
) -> FloatTensor<B> {
    let scale = row_scale::<B>(x.clone(), eps);
    B::float_mul(B::float_mul(x, scale), as_row::<B>(weight))
}

pub(super) fn rms_norm_backward<B: Backend>(
    x: FloatTensor<B>,
    weight: FloatTensor<B>,
    grad: FloatTensor<B>,
    eps: f32,
) -> FloatTensor<B> {
    let r = row_scale::<B>(x.clone(), eps);
    let weighted = B::float_mul(grad, as_row::<B>(weight));
    let mean = B::float_mean_dim(B::float_mul(weighted.clone(), x.clone()), 1);
    let cube = B::float_mul(B::float_mul(r.clone(), r.clone()), r.clone());
    B::float_sub(B::float_mul(weighted, r), B::float_mul(x, B::float_mul(cube, mean)))
}

pub(super) fn turned<B: Backend>(
    x: FloatTensor<B>,
    [cos, sin]: [FloatTensor<B>; 2],
    turn: Turn,
) -> FloatTensor<B> {
    let (whole, half) = (x.shape(), cos.shape()[1]);
    let (tokens, heads) = (whole[0], whole[1] / (2 * half));
    // The members of a pair lie along one dimension of two.
    let (split, member, angles) = match turn.interleaved {
        true => ([tokens, heads, half, 2], 3, [tokens, 1, half, 1]),
        false => ([tokens, heads, 2, half], 2, [tokens, 1, 1, half]),
    };
    let x = B::float_reshape(x, Shape::from(split));
    let of_pair = |at: usize| {
        let mut slices = vec![Slice::full(); 4];
        slices[member] = Slice::from(at..at + 1);
        B::float_slice(x.clone(), &slices)
    };
    let (first, second) = (of_pair(0), of_pair(1));
    let cos = B::float_reshape(cos, Shape::from(angles));
    let sin = B::float_reshape(sin, Shape::from(angles));
    let sin = if turn.back { B::float_neg(sin) } else { sin };
    let turned_first =
        B::float_sub(B::float_mul(first.clone(), cos.clone()), B::float_mul(second.clone(), sin.clone()));
    let turned_second = B::float_add(B::float_mul(second, cos), B::float_mul(first, sin));
    B::float_reshape(B::float_cat(vec![turned_first, turned_second], member), whole)
}

pub(super) fn probability_error<B: Backend>(
    log_p: FloatTensor<B>,
    targets: &[usize],
    denominator: f32,
) -> FloatTensor<B> {
    let (tokens, device) = (targets.len(), log_p.device());
    let targets: Vec<i64> = targets.iter().map(|target| *target as i64).collect();
    let targets = B::int_from_data(TensorData::new(targets, [tokens, 1]), &device);
    let minus_one = B::float_from_data(TensorData::new(vec![-1.0_f32; tokens], [tokens, 1]), &device);
    let error = B::float_scatter(1, B::float_exp(log_p), targets, minus_one, IndexingUpdateOp::Add);
    B::float_div_scalar(error, denominator.into())
}
