//! Operations that training spends its time and memory in, each with its own backward pass that
//! keeps nothing but its inputs: Burn's autodiff would keep every intermediate value.

mod attention;
mod exp;
mod matmul;
mod portable;
mod swiglu;

use burn::{
    backend::{
        Autodiff, Backend, Dispatch, Flex,
        autodiff::{
            checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
            grads::Gradients,
            ops::{Backward, Ops, OpsKind},
        },
        backend_extension,
        tensor::FloatTensor,
    },
    tensor::{Tensor, TensorData},
};
use burn_flex::FlexTensor;

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

/// Causal attention inside each row.
///
/// # Shapes
/// `queries` is `[tokens, heads * head_dim]`, `keys` and `values` are `[tokens, kv_heads *
/// head_dim]`, all in f32; the result has the shape of the queries.
pub(super) fn attention(queries: Tensor<2>, keys: Tensor<2>, values: Tensor<2>, rows: Segments) -> Tensor<2> {
    let [queries, keys, values] = [queries, keys, values].map(Tensor::into_dispatch);
    Tensor::from_dispatch(<Dispatch as Fused>::attention(queries, keys, values, rows))
}

/// `silu(gate) * up`.
///
/// # Shapes
/// `[tokens, features]`, all three, in f32.
pub(super) fn swiglu(gate: Tensor<2>, up: Tensor<2>) -> Tensor<2> {
    Tensor::from_dispatch(<Dispatch as Fused>::swiglu(gate.into_dispatch(), up.into_dispatch()))
}

/// What Burn's run-time dispatch chooses the device and autodiff for.
#[backend_extension(Flex, LibTorch: cfg(feature = "libtorch"), Autodiff)]
pub(crate) trait Fused: Backend {
    fn attention(
        queries: FloatTensor<Self>,
        keys: FloatTensor<Self>,
        values: FloatTensor<Self>,
        rows: Segments,
    ) -> FloatTensor<Self>;

    fn swiglu(gate: FloatTensor<Self>, up: FloatTensor<Self>) -> FloatTensor<Self>;
}

/// The two passes of each operation on one device.
pub(crate) trait Passes: Backend {
    fn attention_forward(inputs: [FloatTensor<Self>; 3], rows: &Segments) -> FloatTensor<Self> {
        portable::attention_forward::<Self>(inputs, rows)
    }

    fn attention_backward(
        inputs: [FloatTensor<Self>; 3],
        grad: FloatTensor<Self>,
        rows: &Segments,
    ) -> [FloatTensor<Self>; 3] {
        portable::attention_backward::<Self>(inputs, grad, rows)
    }

    fn swiglu_forward(inputs: [FloatTensor<Self>; 2]) -> FloatTensor<Self> {
        portable::swiglu_forward::<Self>(inputs)
    }

    fn swiglu_backward(inputs: [FloatTensor<Self>; 2], grad: FloatTensor<Self>) -> [FloatTensor<Self>; 2] {
        portable::swiglu_backward::<Self>(inputs, grad)
    }
}

/// Runs a kernel over the values of dense tensors.
fn on_values<const N: usize, const M: usize>(
    tensors: [FlexTensor; N],
    shapes: [[usize; 2]; M],
    kernel: impl FnOnce([&[f32]; N]) -> [Vec<f32>; M],
) -> [FlexTensor; M] {
    let dense = tensors.map(|tensor| tensor.to_contiguous());
    let values = dense.each_ref().map(|tensor| tensor.as_slice::<f32>().expect("a dense tensor of f32"));
    let mut shapes = shapes.into_iter();
    kernel(values).map(|values| {
        let shape = shapes.next().expect("as many shapes as results");
        FlexTensor::from_data(TensorData::new(values, shape))
    })
}

fn shape_of(tensor: &FlexTensor) -> [usize; 2] {
    let shape = tensor.layout().shape();
    [shape[0], shape[1]]
}

impl Passes for Flex {
    fn attention_forward(inputs: [FlexTensor; 3], rows: &Segments) -> FlexTensor {
        let shape = shape_of(&inputs[0]);
        let [out] = on_values(inputs, [shape], |[q, k, v]| [attention::forward(rows, q, k, v)]);
        out
    }

    fn attention_backward(inputs: [FlexTensor; 3], grad: FlexTensor, rows: &Segments) -> [FlexTensor; 3] {
        let shapes = inputs.each_ref().map(shape_of);
        let [q, k, v] = inputs;
        on_values([q, k, v, grad], shapes, |[q, k, v, grad]| attention::backward(rows, [q, k, v], grad))
    }

    fn swiglu_forward(inputs: [FlexTensor; 2]) -> FlexTensor {
        let shape = shape_of(&inputs[0]);
        let [out] = on_values(inputs, [shape], |[gate, up]| [swiglu::forward(gate, up)]);
        out
    }

    fn swiglu_backward([gate, up]: [FlexTensor; 2], grad: FlexTensor) -> [FlexTensor; 2] {
        let shapes = [shape_of(&gate), shape_of(&up)];
        on_values([gate, up, grad], shapes, |[gate, up, grad]| swiglu::backward(gate, up, grad))
    }
}

/// A device's own operations are the forward passes.
macro_rules! fused {
    ($backend:ty) => {
        impl Fused for $backend {
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
        }
    };
}

fused!(Flex);

#[cfg(feature = "libtorch")]
impl Passes for burn::backend::LibTorch {}
#[cfg(feature = "libtorch")]
fused!(burn::backend::LibTorch);

impl<B: Fused + Passes, C: CheckpointStrategy> Fused for Autodiff<B, C> {
    fn attention(
        queries: FloatTensor<Self>,
        keys: FloatTensor<Self>,
        values: FloatTensor<Self>,
        rows: Segments,
    ) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct Attention;

        impl<B: Passes> Backward<B, 3> for Attention {
            type State = ([FloatTensor<B>; 3], Segments);

            fn backward(
                self,
                ops: Ops<Self::State, 3>,
                grads: &mut Gradients,
                _checkpointer: &mut Checkpointer,
            ) {
                let (inputs, rows) = ops.state;
                let grad = grads.consume::<B>(&ops.node);
                let found = B::attention_backward(inputs, grad, &rows);
                for (parent, grad) in ops.parents.into_iter().zip(found) {
                    if let Some(parent) = parent {
                        grads.register::<B>(parent.id, grad);
                    }
                }
            }
        }

        let nodes = [queries.node(), keys.node(), values.node()];
        let inputs = [queries, keys, values].map(|tensor| tensor.into_primitive());
        let output = B::attention_forward(inputs.clone(), &rows);
        match Attention.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prepared) => prepared.finish((inputs, rows), output),
            OpsKind::UnTracked(prepared) => prepared.finish(output),
        }
    }

    fn swiglu(gate: FloatTensor<Self>, up: FloatTensor<Self>) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct Swiglu;

        impl<B: Passes> Backward<B, 2> for Swiglu {
            type State = [FloatTensor<B>; 2];

            fn backward(
                self,
                ops: Ops<Self::State, 2>,
                grads: &mut Gradients,
                _checkpointer: &mut Checkpointer,
            ) {
                let grad = grads.consume::<B>(&ops.node);
                let found = B::swiglu_backward(ops.state, grad);
                for (parent, grad) in ops.parents.into_iter().zip(found) {
                    if let Some(parent) = parent {
                        grads.register::<B>(parent.id, grad);
                    }
                }
            }
        }

        let nodes = [gate.node(), up.node()];
        let inputs = [gate, up].map(|tensor| tensor.into_primitive());
        let output = B::swiglu_forward(inputs.clone());
        match Swiglu.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prepared) => prepared.finish(inputs, output),
            OpsKind::UnTracked(prepared) => prepared.finish(output),
        }
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, activation::softmax};

    use super::*;

    fn values(seed: u64, count: usize) -> Vec<f32> {
        let mut random = crate::rng::stream(seed, "kernels", &[]);
        (0..count).map(|_| random.unit_f32() * 4.0 - 2.0).collect()
    }

    fn leaf(seed: u64, shape: [usize; 2], device: &Device) -> Tensor<2> {
        Tensor::from_data(TensorData::new(values(seed, shape[0] * shape[1]), shape), device).require_grad()
    }

    /// Attention of each row and head by itself, with Burn's own operations.
    fn plain(q: &Tensor<2>, k: &Tensor<2>, v: &Tensor<2>, rows: &Segments) -> Tensor<2> {
        let (width, group) = (rows.head_dim, rows.heads / rows.kv_heads);
        let mut start = 0;
        let mut parts = Vec::new();
        for &n in &rows.lengths {
            let heads = (0..rows.heads).map(|head| {
                let part = |all: &Tensor<2>, head: usize| {
                    all.clone().narrow(0, start, n).narrow(1, head * width, width)
                };
                let scores = part(q, head).matmul(part(k, head / group).transpose()) * rows.scale;
                let scores = match rows.softcap {
                    Some(cap) => (scores / cap).tanh() * cap,
                    None => scores,
                };
                let hidden = (0..n * n).map(|at| {
                    let (query, key) = (at / n, at % n);
                    let sees = key <= query && rows.window.is_none_or(|window| query - key < window);
                    if sees { 0.0 } else { -1e9_f32 }
                });
                let mask =
                    Tensor::from_data(TensorData::new(hidden.collect::<Vec<_>>(), [n, n]), &q.device());
                softmax(scores + mask, 1).matmul(part(v, head / group))
            });
            parts.push(Tensor::cat(heads.collect(), 1));
            start += n;
        }
        Tensor::cat(parts, 0)
    }

    fn numbers(tensor: Tensor<2>) -> Vec<f32> {
        tensor.into_data().try_to_vec().unwrap()
    }

    fn close(what: &str, a: &[f32], b: &[f32]) {
        assert_eq!(a.len(), b.len(), "{what}");
        let furthest = a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(furthest < 2e-5, "{what}: {furthest}");
    }

    fn shapes() -> impl Iterator<Item = Segments> {
        let lengths = [vec![1], vec![5, 1, 130, 64, 3]];
        lengths.into_iter().flat_map(|lengths| {
            [(None, None), (Some(7), None), (None, Some(1.5)), (Some(70), Some(3.0))].map(
                |(window, softcap)| Segments {
                    lengths: lengths.clone(),
                    heads: 6,
                    kv_heads: 2,
                    head_dim: 8,
                    scale: 0.35,
                    softcap,
                    window,
                },
            )
        })
    }

    /// Forward and backward of the kernels and of the portable operations against autodiff.
    #[test]
    fn attention_and_its_gradients_are_those_of_the_plain_formula() {
        let device = Device::flex().autodiff();
        for rows in shapes() {
            let tokens = rows.lengths.iter().sum::<usize>();
            let inputs =
                || [(1, 48), (2, 16), (3, 16)].map(|(seed, width)| leaf(seed, [tokens, width], &device));
            let weights = leaf(4, [tokens, 48], &device).detach();
            let passes = |out: Tensor<2>, inputs: &[Tensor<2>; 3]| {
                let gradients = (out.clone() * weights.clone()).sum().backward();
                let found = inputs.each_ref().map(|input| numbers(input.grad(&gradients).unwrap()));
                (numbers(out.inner()), found)
            };
            let ours = inputs();
            let [q, k, v] = ours.clone();
            let ours = passes(attention(q, k, v, rows.clone()), &ours);
            let theirs = inputs();
            let theirs = passes(plain(&theirs[0], &theirs[1], &theirs[2], &rows), &theirs);
            close("output", &ours.0, &theirs.0);
            for (name, (a, b)) in ["queries", "keys", "values"].iter().zip(ours.1.iter().zip(&theirs.1)) {
                close(name, a, b);
            }

            let flex = |seed, width| {
                FlexTensor::from_data(TensorData::new(values(seed, tokens * width), [tokens, width]))
            };
            let inputs = [flex(1, 48), flex(2, 16), flex(3, 16)];
            let read = |tensor: FlexTensor| tensor.into_data().try_to_vec::<f32>().unwrap();
            close(
                "portable output",
                &read(portable::attention_forward::<Flex>(inputs.clone(), &rows)),
                &theirs.0,
            );
            let found = portable::attention_backward::<Flex>(inputs, flex(4, 48), &rows);
            for (a, b) in found.into_iter().zip(&theirs.1) {
                close("portable gradient", &read(a), b);
            }
        }
    }

    #[test]
    fn swiglu_and_its_gradients_are_those_of_the_plain_formula() {
        let device = Device::flex().autodiff();
        let shape = [300, 70];
        let inputs = || [leaf(1, shape, &device), leaf(2, shape, &device)];
        let weights = leaf(3, shape, &device).detach();
        let passes = |out: Tensor<2>, inputs: &[Tensor<2>; 2]| {
            let gradients = (out.clone() * weights.clone()).sum().backward();
            (numbers(out.inner()), inputs.each_ref().map(|input| numbers(input.grad(&gradients).unwrap())))
        };
        let ours = inputs();
        let [gate, up] = ours.clone();
        let ours = passes(swiglu(gate, up), &ours);
        let theirs = inputs();
        let [gate, up] = theirs.clone();
        let theirs = passes(burn::tensor::activation::silu(gate) * up, &theirs);
        close("output", &ours.0, &theirs.0);
        close("gate", &ours.1[0], &theirs.1[0]);
        close("up", &ours.1[1], &theirs.1[1]);

        let flex = |seed| FlexTensor::from_data(TensorData::new(values(seed, 21_000), shape));
        let read = |tensor: FlexTensor| tensor.into_data().try_to_vec::<f32>().unwrap();
        close("portable output", &read(portable::swiglu_forward::<Flex>([flex(1), flex(2)])), &theirs.0);
        let [gate, up] = portable::swiglu_backward::<Flex>([flex(1), flex(2)], flex(3));
        close("portable gate", &read(gate), &theirs.1[0]);
        close("portable up", &read(up), &theirs.1[1]);
    }
}
