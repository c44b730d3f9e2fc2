//! Operations that training spends its time and memory in, each with its own backward pass that
//! keeps nothing but its inputs: Burn's autodiff would keep every intermediate value.

#![cfg_attr(
    feature = "libtorch",
    expect(deprecated, reason = "burn is pinned to the last release that has LibTorch")
)]

mod attention;
mod cached_attention;
mod cached_portable;
mod exp;
mod few_queries;
#[cfg(feature = "libtorch")]
mod libtorch;
#[cfg(feature = "libtorch")]
mod libtorch_cpu;
mod linear;
mod matmul;
mod norm;
mod passes;
mod places;
mod portable;
mod rotate;
mod skinny;
mod softmax;
mod swiglu;
#[cfg(test)]
mod tests;

use std::{fmt, sync::Arc};

use burn::{
    backend::{
        Autodiff, Backend, Dispatch, Flex, TensorMetadata as _,
        autodiff::{
            checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
            grads::Gradients,
            ops::{Backward, NodeGuard, Ops, OpsKind},
        },
        backend_extension,
        tensor::FloatTensor,
    },
    tensor::Tensor,
};
pub(crate) use cached_portable::most_scores;
use passes::Passes;
pub(crate) use places::{Place, Places};

use super::{Dropout, Products};

/// Rows of tokens one after another, without padding, and how attention sees them.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Segments {
    /// Tokens of each row; a token sees those before it in its own row.
    pub lengths: Vec<usize>,
    /// Heads of the queries.
    pub heads: usize,
    /// Heads of keys and values, each shared by as many query heads as another.
    pub kv_heads: usize,
    /// Features of a head.
    pub head_dim: usize,
    /// Factor of the scores.
    pub scale: f32,
    /// Scores `s` become `cap * tanh(s / cap)`.
    pub softcap: Option<f32>,
    /// How many keys a token sees, itself included; `None` for all.
    pub window: Option<usize>,
}

/// Rows whose earlier keys and values lie in a cache of `[slots, kv_heads, capacity, head_dim]`.
#[derive(Debug, Clone)]
pub(crate) struct CachedRows {
    /// Of the new tokens.
    pub shape: Segments,
    /// One for each row.
    pub places: Arc<Places>,
}

/// A slot whose first tokens another one gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Copied {
    pub from: usize,
    pub to: usize,
    pub tokens: usize,
}

/// How features are turned by a position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Turn {
    /// Pairs are neighbours, not the two halves of a head.
    pub interleaved: bool,
    /// By the negative angle.
    pub back: bool,
}

/// How an adapter's pair works on its layer.
#[derive(Debug, Clone)]
pub(crate) struct Update {
    /// Factor of what the pair adds.
    pub scale: f32,
    /// Of the pair's input.
    pub dropout: Option<Dropout>,
    /// How the products are made; always jointly on a tape.
    pub products: Products,
}

/// Causal attention inside each row.
///
/// # Shapes
/// `queries` is `[tokens, heads * head_dim]`, `keys` and `values` are `[tokens, kv_heads *
/// head_dim]`, in one number format; the result is like the queries.
pub(super) fn attention(queries: Tensor<2>, keys: Tensor<2>, values: Tensor<2>, rows: Segments) -> Tensor<2> {
    let [queries, keys, values] = [queries, keys, values].map(Tensor::into_dispatch);
    Tensor::from_dispatch(<Dispatch as Fused>::attention(queries, keys, values, rows))
}

/// Puts the new tokens' keys or values into a cache. Not differentiable.
///
/// # Shapes
/// `cache` is `[slots, kv_heads, capacity, head_dim]`, `new` `[tokens, kv_heads * head_dim]`, in f32.
pub(super) fn append(cache: Tensor<4>, new: Tensor<2>, rows: CachedRows) -> Tensor<4> {
    Tensor::from_dispatch(<Dispatch as Cached>::append(cache.into_dispatch(), new.into_dispatch(), rows))
}

/// Copies tokens of a cache between its slots. Not differentiable.
///
/// # Shapes
/// `[slots, kv_heads, capacity, head_dim]` in and out, in f32.
pub(super) fn copy(cache: Tensor<4>, copies: Vec<Copied>) -> Tensor<4> {
    Tensor::from_dispatch(<Dispatch as Cached>::copy(cache.into_dispatch(), copies))
}

/// Causal attention of new tokens to all of their rows, which the cache already holds. Not
/// differentiable.
///
/// # Shapes
/// `queries` is `[tokens, heads * head_dim]`, keys and values are `[slots, kv_heads, capacity,
/// head_dim]`, in f32; the result has the shape of the queries.
pub(super) fn cached_attention(
    queries: Tensor<2>,
    keys: Tensor<4>,
    values: Tensor<4>,
    rows: CachedRows,
) -> Tensor<2> {
    let (keys, values) = (keys.into_dispatch(), values.into_dispatch());
    Tensor::from_dispatch(<Dispatch as Cached>::cached_attention(queries.into_dispatch(), keys, values, rows))
}

/// `silu(gate) * up`.
///
/// # Shapes
/// `[tokens, features]`, all three, in one number format.
pub(super) fn swiglu(gate: Tensor<2>, up: Tensor<2>) -> Tensor<2> {
    Tensor::from_dispatch(<Dispatch as Fused>::swiglu(gate.into_dispatch(), up.into_dispatch()))
}

/// `x W^T`.
///
/// # Shapes
/// `x` is `[tokens, in]`, `weight` `[out, in]`; the result has the number format of `x`.
pub(crate) fn linear(x: Tensor<2>, weight: Tensor<2>, products: Products) -> Tensor<2> {
    Tensor::from_dispatch(<Dispatch as Fused>::linear(x.into_dispatch(), weight.into_dispatch(), products))
}

/// The gradient of [`linear`]'s input: `g W`. Not differentiable.
///
/// # Shapes
/// `grad` is `[tokens, out]`, `weight` `[out, in]`; the result has the number format of `grad`.
pub(crate) fn linear_backward(grad: Tensor<2>, weight: Tensor<2>) -> Tensor<2> {
    Tensor::from_dispatch(<Dispatch as Scores>::linear_grad(weight.into_dispatch(), grad.into_dispatch()))
}

/// `x W^T + scale * (dropout(x) A^T) B^T`, the weight being frozen.
///
/// # Shapes
/// `x` is `[tokens, in]`, `weight` `[out, in]`, `a` `[r, in]`, `b` `[out, r]`. The
/// number formats of `x` (and the result), of the weight, and of A and B may differ.
pub(super) fn adapted_linear(
    x: Tensor<2>,
    weight: Tensor<2>,
    [a, b]: [Tensor<2>; 2],
    update: Update,
) -> Tensor<2> {
    let [x, weight, a, b] = [x, weight, a, b].map(Tensor::into_dispatch);
    Tensor::from_dispatch(<Dispatch as Fused>::adapted_linear(x, weight, a, b, update))
}

/// `x / sqrt(mean(x^2) + eps) * weight` over each row.
///
/// # Shapes
/// `[rows, features]`, and `[features]` for the weight, in f32.
pub(super) fn rms_norm(x: Tensor<2>, weight: Tensor<1>, eps: f32) -> Tensor<2> {
    Tensor::from_dispatch(<Dispatch as Fused>::rms_norm(x.into_dispatch(), weight.into_dispatch(), eps))
}

/// Each pair of features of each head turned by its token's angle.
///
/// # Shapes
/// `x` is `[tokens, heads * head_dim]`, the angles' cosines and sines `[tokens, head_dim / 2]`, in one
/// number format.
pub(super) fn rotate(x: Tensor<2>, [cos, sin]: [Tensor<2>; 2], interleaved: bool) -> Tensor<2> {
    let [x, cos, sin] = [x, cos, sin].map(Tensor::into_dispatch);
    Tensor::from_dispatch(<Dispatch as Fused>::rotate(x, cos, sin, Turn { interleaved, back: false }))
}

/// Logarithms of the probabilities that logits stand for. Not differentiable.
///
/// # Shapes
/// `[tokens, vocab]` in and out, in f32.
pub(crate) fn log_softmax(logits: Tensor<2>) -> Tensor<2> {
    Tensor::from_dispatch(<Dispatch as Scores>::log_softmax_of(logits.into_dispatch()))
}

/// The gradient, by the logits, of the sum of `-log_p[target]` over `denominator`.
///
/// # Shapes
/// `log_p` is `[tokens, vocab]`, with one target for each token; the result is shaped like `log_p`.
pub(crate) fn softmax_error(log_p: Tensor<2>, targets: Vec<usize>, denominator: f32) -> Tensor<2> {
    Tensor::from_dispatch(<Dispatch as Scores>::softmax_error(log_p.into_dispatch(), targets, denominator))
}

/// What Burn's run-time dispatch chooses the device and autodiff for. A device's own operations are
/// its forward passes.
#[backend_extension(Flex, LibTorch: cfg(feature = "libtorch"), Autodiff)]
pub(crate) trait Fused: Passes {
    fn attention(
        queries: FloatTensor<Self>,
        keys: FloatTensor<Self>,
        values: FloatTensor<Self>,
        rows: Segments,
    ) -> FloatTensor<Self> {
        Self::attention_forward([queries, keys, values], &rows)
    }

    fn swiglu(gate: FloatTensor<Self>, up: FloatTensor<Self>) -> FloatTensor<Self> {
        Self::swiglu_forward([gate, up])
    }

    fn linear(x: FloatTensor<Self>, weight: FloatTensor<Self>, products: Products) -> FloatTensor<Self> {
        match products {
            Products::Alone => Self::linear_alone(x, weight),
            Products::Joint => Self::linear_forward(x, weight),
        }
    }

    fn adapted_linear(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        update: Update,
    ) -> FloatTensor<Self> {
        let inputs = [x, weight, a, b];
        match update.products {
            Products::Alone => Self::adapted_alone(inputs, &update),
            Products::Joint => {
                let [output, _] = Self::adapted_forward(inputs, &update);
                output
            }
        }
    }

    fn rms_norm(x: FloatTensor<Self>, weight: FloatTensor<Self>, eps: f32) -> FloatTensor<Self> {
        Self::rms_norm_forward(x, weight, eps)
    }

    fn rotate(
        x: FloatTensor<Self>,
        cos: FloatTensor<Self>,
        sin: FloatTensor<Self>,
        turn: Turn,
    ) -> FloatTensor<Self> {
        Self::turned(x, [cos, sin], turn)
    }
}

/// The same, of what is never differentiated.
#[backend_extension(Flex, LibTorch: cfg(feature = "libtorch"))]
pub(crate) trait Scores: Passes {
    fn linear_grad(weight: FloatTensor<Self>, grad: FloatTensor<Self>) -> FloatTensor<Self> {
        Self::linear_backward(weight, grad)
    }

    fn log_softmax_of(logits: FloatTensor<Self>) -> FloatTensor<Self> {
        Self::log_probabilities(logits)
    }

    fn softmax_error(log_p: FloatTensor<Self>, targets: Vec<usize>, denominator: f32) -> FloatTensor<Self> {
        Self::probability_error(log_p, &targets, denominator)
    }
}

/// Likewise.
#[backend_extension(Flex, LibTorch: cfg(feature = "libtorch"))]
pub(crate) trait Cached: Passes {
    fn append(cache: FloatTensor<Self>, new: FloatTensor<Self>, rows: CachedRows) -> FloatTensor<Self> {
        Self::appended(cache, new, &rows)
    }

    fn copy(cache: FloatTensor<Self>, copies: Vec<Copied>) -> FloatTensor<Self> {
        Self::copied(cache, &copies)
    }

    fn cached_attention(
        queries: FloatTensor<Self>,
        keys: FloatTensor<Self>,
        values: FloatTensor<Self>,
        rows: CachedRows,
    ) -> FloatTensor<Self> {
        Self::attended(queries, [keys, values], &rows)
    }
}

impl Fused for Flex {}
impl Scores for Flex {}
impl Cached for Flex {}
#[cfg(feature = "libtorch")]
impl Fused for burn::backend::LibTorch {}
#[cfg(feature = "libtorch")]
impl Scores for burn::backend::LibTorch {}
#[cfg(feature = "libtorch")]
impl Cached for burn::backend::LibTorch {}

// The forwarding that is generated for these two asks for the passes, and never calls them.
impl Passes for Dispatch {}
impl<B: Backend, C: CheckpointStrategy> Passes for Autodiff<B, C> {}

/// From an output's gradient to those of the inputs, in the order of the nodes; an input that
/// wants none may get none.
struct BackwardPass<B: Backend, const N: usize>(Arc<Gradient<B, N>>);

type Gradient<B, const N: usize> = dyn Fn(FloatTensor<B>) -> [Option<FloatTensor<B>>; N] + Send + Sync;

impl<B: Backend, const N: usize> Clone for BackwardPass<B, N> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<B: Backend, const N: usize> fmt::Debug for BackwardPass<B, N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BackwardPass")
    }
}

#[derive(Debug)]
struct Recorded;

impl<B: Backend, const N: usize> Backward<B, N> for Recorded {
    type State = BackwardPass<B, N>;

    fn backward(self, ops: Ops<Self::State, N>, grads: &mut Gradients, _checkpointer: &mut Checkpointer) {
        let grad = grads.consume::<B>(&ops.node);
        for (parent, grad) in ops.parents.into_iter().zip((ops.state.0)(grad)) {
            if let (Some(parent), Some(grad)) = (parent, grad) {
                grads.register::<B>(parent.id, grad);
            }
        }
    }
}

/// Puts an operation on the tape, if any of its inputs is on it.
fn record<B: Backend, C: CheckpointStrategy, const N: usize>(
    nodes: [NodeGuard; N],
    output: FloatTensor<B>,
    backward: impl Fn(FloatTensor<B>) -> [Option<FloatTensor<B>>; N] + Send + Sync + 'static,
) -> FloatTensor<Autodiff<B, C>> {
    match Recorded.prepare::<C>(nodes).compute_bound().stateful() {
        OpsKind::Tracked(prepared) => prepared.finish(BackwardPass(Arc::new(backward)), output),
        OpsKind::UnTracked(prepared) => prepared.finish(output),
    }
}

impl<B: Fused, C: CheckpointStrategy> Fused for Autodiff<B, C> {
    fn attention(
        queries: FloatTensor<Self>,
        keys: FloatTensor<Self>,
        values: FloatTensor<Self>,
        rows: Segments,
    ) -> FloatTensor<Self> {
        let nodes = [queries.node(), keys.node(), values.node()];
        let inputs = [queries, keys, values].map(|tensor| tensor.into_primitive());
        let output = B::attention_forward(inputs.clone(), &rows);
        record::<B, C, 3>(nodes, output, move |grad| {
            B::attention_backward(inputs.clone(), grad, &rows).map(Some)
        })
    }

    fn swiglu(gate: FloatTensor<Self>, up: FloatTensor<Self>) -> FloatTensor<Self> {
        let nodes = [gate.node(), up.node()];
        let inputs = [gate, up].map(|tensor| tensor.into_primitive());
        let output = B::swiglu_forward(inputs.clone());
        record::<B, C, 2>(nodes, output, move |grad| B::swiglu_backward(inputs.clone(), grad).map(Some))
    }

    fn linear(x: FloatTensor<Self>, weight: FloatTensor<Self>, _: Products) -> FloatTensor<Self> {
        let trained = weight.is_tracked();
        let nodes = [x.node(), weight.node()];
        let [x, weight] = [x, weight].map(|tensor| tensor.into_primitive());
        let output = B::linear_forward(x.clone(), weight.clone());
        // A frozen weight needs no input in the backward pass.
        let x = trained.then_some(x);
        record::<B, C, 2>(nodes, output, move |grad| {
            let weight_grad = x.clone().map(|x| B::float_matmul(B::float_transpose(grad.clone()), x));
            [Some(B::linear_backward(weight.clone(), grad)), weight_grad]
        })
    }

    fn adapted_linear(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        update: Update,
    ) -> FloatTensor<Self> {
        debug_assert!(!weight.is_tracked(), "an adapted weight is frozen");
        let nodes = [x.node(), a.node(), b.node()];
        let [x, weight, a, b] = [x, weight, a, b].map(|tensor| tensor.into_primitive());
        let inputs = [x.clone(), weight.clone(), a.clone(), b.clone()];
        let [output, low] = B::adapted_forward(inputs, &update);
        record::<B, C, 3>(nodes, output, move |grad| {
            let [x, low, weight, a, b] = [&x, &low, &weight, &a, &b].map(Clone::clone);
            B::adapted_backward([grad, x, low, weight, a, b], &update).map(Some)
        })
    }

    fn rms_norm(x: FloatTensor<Self>, weight: FloatTensor<Self>, eps: f32) -> FloatTensor<Self> {
        let trained = weight.is_tracked();
        let nodes = [x.node(), weight.node()];
        let [x, weight] = [x, weight].map(|tensor| tensor.into_primitive());
        let output = B::rms_norm_forward(x.clone(), weight.clone(), eps);
        record::<B, C, 2>(nodes, output, move |grad| {
            let weight_grad = trained.then(|| {
                let ones = B::float_ones(weight.shape(), &weight.device(), weight.dtype().into());
                let normed = B::rms_norm_forward(x.clone(), ones, eps);
                let sum = B::float_sum_dim(B::float_mul(grad.clone(), normed), 0);
                B::float_reshape(sum, weight.shape())
            });
            [Some(B::rms_norm_backward(x.clone(), weight.clone(), grad, eps)), weight_grad]
        })
    }

    fn rotate(
        x: FloatTensor<Self>,
        cos: FloatTensor<Self>,
        sin: FloatTensor<Self>,
        turn: Turn,
    ) -> FloatTensor<Self> {
        let nodes = [x.node()];
        let [x, cos, sin] = [x, cos, sin].map(|tensor| tensor.into_primitive());
        let output = B::turned(x, [cos.clone(), sin.clone()], turn);
        record::<B, C, 1>(nodes, output, move |grad| {
            let back = Turn { back: !turn.back, ..turn };
            [Some(B::turned(grad, [cos.clone(), sin.clone()], back))]
        })
    }
}
